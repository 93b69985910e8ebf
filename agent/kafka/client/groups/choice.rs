//! Which consumer groups are ours: by name, by pattern, or all, but for what is excluded. Pure.

use regex::Regex;

use crate::error::{Error, Result};

/// A choice of consumer groups. Without names and without a pattern it is all of them.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    names: Vec<String>,
    pattern: Option<Regex>,
    excludes: Vec<Regex>,
}

impl Choice {
    /// Chooses the groups of these names and those whose whole name `pattern` matches, or all where neither is given;
    /// but of those that are not named none that one of `excludes` matches.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for what is no regular expression.
    pub fn new(names: Vec<String>, pattern: Option<&str>, excludes: &[String]) -> Result<Self> {
        let pattern = pattern.map(whole).transpose()?;
        let excludes = excludes.iter().map(|exclude| whole(exclude)).collect::<Result<_>>()?;
        Ok(Self { names, pattern, excludes })
    }

    /// Returns the groups that are chosen by name.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns whether only the cluster's list of groups can tell what is chosen.
    pub fn needs_listing(&self) -> bool {
        self.names.is_empty() || self.pattern.is_some()
    }

    /// Returns whether the group `name` is chosen.
    pub fn holds(&self, name: &str) -> bool {
        if self.names.iter().any(|named| named == name) {
            return true;
        }
        let matches = match &self.pattern {
            Some(pattern) => pattern.is_match(name),
            None => self.names.is_empty(),
        };
        matches && !self.excludes(name)
    }

    /// Returns whether the group `name` is kept from what is chosen without being named.
    pub fn excludes(&self, name: &str) -> bool {
        self.excludes.iter().any(|exclude| exclude.is_match(name))
    }
}

impl PartialEq for Choice {
    /// Two choices are the same if they are written the same.
    fn eq(&self, other: &Self) -> bool {
        let text = |pattern: &Regex| pattern.as_str().to_owned();
        let texts =
            |choice: &Self| (choice.pattern.as_ref().map(text), choice.excludes.iter().map(text).collect::<Vec<_>>());
        self.names == other.names && texts(self) == texts(other)
    }
}

/// Makes a pattern that matches whole names only.
fn whole(pattern: &str) -> Result<Regex> {
    // Read on its own first: an unbalanced `)` must not pair with ours.
    Regex::new(pattern)
        .and_then(|_| Regex::new(&format!("^(?:{pattern})$")))
        .map_err(|error| Error::usage(format!("`{pattern}` is no regular expression")).source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(names: &[&str], pattern: Option<&str>, excludes: &[&str]) -> Choice {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        Choice::new(owned(names), pattern, &owned(excludes)).expect("good patterns")
    }

    fn held<'a>(choice: &Choice, groups: &[&'a str]) -> Vec<&'a str> {
        groups.iter().copied().filter(|group| choice.holds(group)).collect()
    }

    #[test]
    fn without_names_and_pattern_it_is_all_but_what_is_excluded() {
        let groups = ["orders", "orders-test", "pay", "__mine", ""];
        assert_eq!(held(&choice(&[], None, &[]), &groups), groups);
        assert_eq!(held(&choice(&[], None, &[".*-test"]), &groups), ["orders", "pay", "__mine", ""]);
        assert_eq!(held(&choice(&["orders-test"], None, &[]), &groups), ["orders-test"]);
        assert_eq!(held(&choice(&["pay"], Some("orders.*"), &["orders-.*"]), &groups), ["orders", "pay"]);
        assert!(!choice(&["a"], None, &[]).needs_listing() && choice(&["a"], Some("b"), &[]).needs_listing());
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in ["*", "a)(b"] {
            assert!(Choice::new(Vec::new(), Some(wrong), &[]).is_err(), "{wrong}");
        }
    }
}
