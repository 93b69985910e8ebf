//! Which topics are ours: by name, by pattern, but for what is excluded. Pure.

use regex::Regex;

use crate::error::{Error, Result};

/// A choice of topics.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Topics by exact name, internal ones among them.
    names: Vec<String>,
    /// Topics whose whole name matches; never internal ones or those whose name begins with `__`.
    pattern: Option<Regex>,
    /// Topics whose whole name matches one of these are not matched by `pattern`.
    excludes: Vec<Regex>,
}

impl Selection {
    /// Chooses the topics of these names, and those that `pattern` matches but none of `excludes`; a pattern matches
    /// whole names, as `topics.regex` of Kafka Connect does.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for what is no regular expression.
    pub fn new(names: Vec<String>, pattern: Option<&str>, excludes: &[String]) -> Result<Self> {
        let pattern = pattern.map(whole).transpose()?;
        let excludes = excludes.iter().map(|exclude| whole(exclude)).collect::<Result<_>>()?;
        Ok(Self { names, pattern, excludes })
    }

    /// Chooses the topics of these names and no others.
    pub fn named(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { names: names.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Returns the topics that are chosen by name.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns whether only the cluster's list of topics can tell what is chosen.
    pub fn has_pattern(&self) -> bool {
        self.pattern.is_some()
    }

    /// Returns whether the topic `name` is chosen; `internal` is what the cluster says of it.
    pub fn holds(&self, name: &str, internal: bool) -> bool {
        self.names.iter().any(|named| named == name) || self.matches(name, internal)
    }

    /// Returns whether the pattern, as opposed to a name, chooses the topic `name`.
    pub fn matches(&self, name: &str, internal: bool) -> bool {
        let hidden = internal || name.starts_with("__");
        !hidden && self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(name)) && !self.excludes(name)
    }

    /// Returns whether the topic `name` is kept from what the pattern matches.
    pub fn excludes(&self, name: &str) -> bool {
        self.excludes.iter().any(|exclude| exclude.is_match(name))
    }
}

impl PartialEq for Selection {
    /// Two choices are the same if they are written the same.
    fn eq(&self, other: &Self) -> bool {
        let text = |pattern: &Regex| pattern.as_str().to_owned();
        let texts =
            |choice: &Self| (choice.pattern.as_ref().map(text), choice.excludes.iter().map(text).collect::<Vec<_>>());
        self.names == other.names && texts(self) == texts(other)
    }
}

impl std::fmt::Display for Selection {
    /// Writes the names, and the pattern between slashes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names.join(", "))?;
        let Some(pattern) = &self.pattern else { return Ok(()) };
        let between = if self.names.is_empty() { "" } else { ", " };
        // Without the anchors that `whole` has put around it.
        let text = pattern.as_str();
        let text = text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text);
        write!(f, "{between}/{text}/")
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

    fn selection(names: &[&str], pattern: Option<&str>, excludes: &[&str]) -> Selection {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        Selection::new(owned(names), pattern, &owned(excludes)).expect("good patterns")
    }

    #[test]
    fn a_pattern_matches_whole_names_but_for_excludes_and_internal_topics() {
        let chosen = selection(&["__consumer_offsets"], Some("orders|pay.*"), &["pay-test.*"]);
        for (name, internal, holds) in [
            ("orders", false, true),
            ("orders2", false, false),
            ("my-orders", false, false),
            ("payments", false, true),
            ("pay-test-1", false, false),
            ("pay-state", true, false),
            ("__consumer_offsets", true, true),
            ("__transaction_state", true, false),
        ] {
            assert_eq!(chosen.holds(name, internal), holds, "{name}");
        }
        assert!(!selection(&[], Some(".*"), &[]).holds("__mine", false), "only by exact name");
        assert_eq!(chosen.to_string(), "__consumer_offsets, /orders|pay.*/");
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in ["*", "a)(b", "["] {
            assert!(Selection::new(Vec::new(), Some(wrong), &[]).is_err(), "{wrong}");
        }
    }
}
