//! The settings of a stage: names and texts, in the file's order, and errors that name the setting.

use std::fmt::Display;
use std::str::FromStr;

use crate::{Error, Result, time_ms};

/// The settings that a plugin is given.
///
/// A table `a = { b = 1 }` is the setting `a.b`; an array is one setting several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    entries: Vec<(String, String)>,
}

impl Settings {
    /// Makes settings of names and values.
    pub fn new(entries: Vec<(String, String)>) -> Self {
        Self { entries }
    }

    /// Returns all names and values, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Checks that there are no settings but these; `to.*` stands for any name that begins with `to.`.
    ///
    /// # Errors
    /// An unknown setting, with the nearest known one.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.iter().find(|(name, _)| !known.iter().any(|pattern| fits(pattern, name))) {
            None => Ok(()),
            Some((name, _)) => Err(Error::new(format!("unknown setting `{name}`{}", hint(name, known, "known")))),
        }
    }

    /// Returns a setting, if it is there.
    ///
    /// # Errors
    /// It is there several times.
    pub fn get(&self, name: &str) -> Result<Option<&str>> {
        let mut values = self.all(name);
        let first = values.next();
        match values.count() {
            0 => Ok(first),
            more => Err(wrong(name, format!("takes one value, and has {}", more + 1))),
        }
    }

    /// Returns a setting that must be there.
    ///
    /// # Errors
    /// It is not there, or several times.
    pub fn require(&self, name: &str) -> Result<&str> {
        self.get(name)?.ok_or_else(|| wrong(name, "is missing"))
    }

    /// Returns every value of a setting: the elements of an array.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Returns the settings of a table: for `to`, those that begin with `to.`, without it.
    pub fn table(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter_map(move |(key, value)| Some((key.strip_prefix(name)?.strip_prefix('.')?, value)))
    }

    /// Returns a setting that is one of some words.
    ///
    /// # Errors
    /// It is another word; the nearest is named.
    pub fn choice(&self, name: &str, words: &[&str]) -> Result<Option<&str>> {
        match self.get(name)? {
            Some(word) if !words.contains(&word) => {
                Err(wrong(name, format!("cannot be `{word}`{}", hint(word, words, "possible"))))
            }
            word => Ok(word),
        }
    }

    /// Returns a setting that is `true` or `false`.
    ///
    /// # Errors
    /// It is neither.
    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        Ok(self.choice(name, &["true", "false"])?.map(|word| word == "true"))
    }

    /// Returns a setting that is a number, or whatever else std can read.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn number<N: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<N>> {
        let read = |text: &str| text.parse().map_err(|error| wrong(name, format!("cannot be `{text}`: {error}")));
        self.get(name)?.map(read).transpose()
    }

    /// Returns a setting that is a time, in milliseconds since the epoch.
    ///
    /// # Errors
    /// It is neither RFC 3339 nor a number.
    pub fn time(&self, name: &str) -> Result<Option<i64>> {
        let read = |text| time_ms(text).map_err(|error| wrong(name, format!("cannot be `{text}`: {error}")));
        self.get(name)?.map(read).transpose()
    }
}

/// Makes the error of a setting.
fn wrong(name: &str, problem: impl Display) -> Error {
    Error::new(format!("setting `{name}` {problem}"))
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.len() > start.len() && name.starts_with(start),
        None => name == pattern,
    }
}

/// Names the nearest known word, or all of them if none is near: a typing error is seldom more than a third of a word.
fn hint(word: &str, known: &[&str], kind: &str) -> String {
    // Of a name in a table only the table's can be known. Not the unrestricted distance: it would bring a hash table
    // into every plugin.
    let far = |known: &&&str| match known.strip_suffix(".*") {
        Some(table) => strsim::osa_distance(word.split('.').next().unwrap_or(word), table),
        None => strsim::osa_distance(word, known),
    };
    match known.iter().min_by_key(far).filter(|near| far(near) <= word.len().max(6) / 3) {
        Some(near) => format!(": did you mean `{near}`?"),
        None if known.is_empty() => ": there are no settings".to_owned(),
        None => {
            let all: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
            format!("; {kind}: {}", all.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(entries: &[(&str, &str)]) -> Settings {
        Settings::new(entries.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.expect_err("this is wrong").message().to_owned()
    }

    #[test]
    fn an_unknown_setting_is_told_with_the_nearest_known_one() {
        let known = ["from", "until", "to.*"];
        assert_eq!(message(settings(&[("form", "1")]).only(&known)), "unknown setting `form`: did you mean `from`?");
        let told = message(settings(&[("colour", "red")]).only(&known));
        assert_eq!(told, "unknown setting `colour`; known: `from`, `until`, `to.*`");
        assert_eq!(message(settings(&[("to", "x")]).only(&known)), "unknown setting `to`: did you mean `to.*`?");
        assert_eq!(message(settings(&[("x", "")]).only(&[])), "unknown setting `x`: there are no settings");
        assert_eq!(settings(&[("to.a", "x"), ("from", "1")]).only(&known), Ok(()));
    }

    #[test]
    fn a_wrong_value_is_told_with_its_setting() {
        let wrong = settings(&[("mode", "coyp"), ("n", "x"), ("from", "monday"), ("twice", "1"), ("twice", "2")]);
        let told = "setting `mode` cannot be `coyp`: did you mean `copy`?";
        assert_eq!(message(wrong.choice("mode", &["move", "copy"])), told);
        assert_eq!(message(wrong.number::<u8>("n")), "setting `n` cannot be `x`: invalid digit found in string");
        assert!(message(wrong.time("from")).starts_with("setting `from` cannot be `monday`: "));
        assert_eq!(message(wrong.get("twice")), "setting `twice` takes one value, and has 2");
        assert_eq!(message(wrong.require("name")), "setting `name` is missing");
        assert_eq!(message(wrong.flag("n")), "setting `n` cannot be `x`; possible: `true`, `false`");
    }

    #[test]
    fn a_table_keeps_its_order_and_names_with_dots() {
        let table = settings(&[("to.b.c", "1"), ("topic", "x"), ("to.a", "2"), ("to.a", "3")]);
        assert_eq!(table.table("to").collect::<Vec<_>>(), [("b.c", "1"), ("a", "2"), ("a", "3")]);
        assert_eq!(table.all("to.a").collect::<Vec<_>>(), ["2", "3"]);
    }
}
