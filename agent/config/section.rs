//! One table of the file while it is read: checks its keys, gives typed values or their defaults, and remembers what
//! holds, for `config show`.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::keys::{self, Key, Type};
use super::value;
use crate::error::{Error, Result};

/// The file that is read.
pub(super) struct File {
    /// Its name, for errors.
    pub(super) name: String,
    /// The paths of the values that hold what a reference stands for, each possibly a secret.
    pub(super) referring: HashSet<String>,
}

/// A table of the configuration.
pub(super) struct Section {
    file: Rc<File>,
    /// Where it stands in the file, as `pipeline[0].sink`; empty at the top.
    path: String,
    /// The keys that there are.
    keys: &'static [Key],
    /// Where it stands in these, as `pipeline.sink`.
    schema: &'static str,
    given: Map<String, Value>,
    holds: Map<String, Value>,
}

impl Section {
    /// Makes the section of `given` after checking that all its keys are known.
    pub(super) fn open(
        file: &Rc<File>,
        path: &str,
        keys: &'static [Key],
        schema: &'static str,
        given: Map<String, Value>,
    ) -> Result<Self> {
        let section = Self { file: file.clone(), path: path.to_owned(), keys, schema, given, holds: Map::new() };
        for name in section.given.keys() {
            if !keys::keys_in(keys, schema).any(|key| key.name() == name) {
                return Err(section.unknown(name));
            }
        }
        Ok(section)
    }

    /// Returns whether this is a pipeline that restores.
    pub(super) fn restores(&self) -> bool {
        std::ptr::eq(self.keys, keys::RESTORE_KEYS)
    }

    /// Returns everything that holds, in the order of the keys.
    pub(super) fn close(mut self) -> Value {
        let ordered = keys::keys_in(self.keys, self.schema).filter_map(|key| self.holds.remove_entry(key.name()));
        Value::Object(ordered.collect())
    }

    /// Keeps what a section below holds.
    pub(super) fn keep(&mut self, name: &str, holds: Value) {
        self.holds.insert(name.to_owned(), holds);
    }

    /// Returns an error about the key `name`.
    pub(super) fn error(&self, name: &str, reason: impl std::fmt::Display) -> Error {
        let (at, reason) = (self.at(name), reason.to_string());
        Error::usage(format!("{}: {at}: {reason}", self.file.name)).about(at, reason)
    }

    /// Returns whether the key `name` is given and not taken yet.
    pub(super) fn gives(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Takes the section `name`; where it is optional and left out, an empty one.
    pub(super) fn section(&mut self, name: &str) -> Result<Self> {
        let key = self.key(name);
        let given = match self.given.remove(name) {
            Some(Value::Object(given)) => given,
            Some(_) => return Err(self.error(name, format!("must be a table: [{}]", key.path))),
            None if key.required => return Err(self.error(name, format!("is missing: {}", key.reason))),
            None => Map::new(),
        };
        Self::open(&self.file, &self.at(name), self.keys, key.path, given)
    }

    /// Takes the sections `name`, of which there may be none.
    pub(super) fn optional_sections(&mut self, name: &str) -> Result<Vec<Self>> {
        let is_none = self.given.get(name).is_none_or(|given| given.as_array().is_some_and(Vec::is_empty));
        if is_none {
            self.given.remove(name);
            return Ok(Vec::new());
        }
        self.sections(name, |_| None)
    }

    /// Takes the sections `name`, of which there must be one; `keys` says which keys one has, if not those of this one.
    pub(super) fn sections(
        &mut self,
        name: &str,
        keys: impl Fn(&Map<String, Value>) -> Option<&'static [Key]>,
    ) -> Result<Vec<Self>> {
        let key = self.key(name);
        let given = match self.given.remove(name) {
            Some(Value::Array(given)) if !given.is_empty() => given,
            Some(Value::Object(_)) => return Err(self.error(name, format!("must be written [[{}]]", key.path))),
            _ => return Err(self.error(name, format!("is missing: at least one [[{}]] is needed", key.path))),
        };
        let mut sections = Vec::with_capacity(given.len());
        for (i, given) in given.into_iter().enumerate() {
            let name = format!("{name}[{i}]");
            let Value::Object(given) = given else {
                return Err(self.error(&name, format!("must be a table: [[{}]]", key.path)));
            };
            let keys = keys(&given).unwrap_or(self.keys);
            sections.push(Self::open(&self.file, &self.at(&name), keys, key.path, given)?);
        }
        Ok(sections)
    }

    /// Takes the text `name`, or its default.
    pub(super) fn text(&mut self, name: &str) -> Result<String> {
        let text = self.optional_text(name)?;
        text.ok_or_else(|| self.error(name, format!("is missing: {}", self.key(name).reason)))
    }

    /// Takes the text `name`, if it is given; it is not empty then.
    pub(super) fn given_text(&mut self, name: &str) -> Result<Option<String>> {
        match self.optional_text(name)? {
            Some(text) if text.trim().is_empty() => Err(self.error(name, "must not be empty")),
            text => Ok(text),
        }
    }

    /// Takes the value of `name` that `read` makes of its text; its error is the reason.
    pub(super) fn read<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<T> {
        let text = self.text(name)?;
        read(&text).map_err(|reason| self.error(name, reason))
    }

    /// Takes the duration `name`, which is more than nothing.
    pub(super) fn duration(&mut self, name: &str) -> Result<Duration> {
        let duration = self.read(name, value::duration)?;
        if duration.is_zero() { Err(self.error(name, "must be more than 0")) } else { Ok(duration) }
    }

    /// Takes the duration `name`, which is more than nothing; `None` for `off`.
    pub(super) fn duration_or_off(&mut self, name: &str) -> Result<Option<Duration>> {
        let duration = self.read(name, |text| match text {
            "off" => Ok(None),
            text => value::duration(text).map(Some).map_err(|reason| format!("{reason}; \"off\" turns it off")),
        })?;
        match duration {
            Some(duration) if duration.is_zero() => Err(self.error(name, "must be more than 0, or \"off\"")),
            duration => Ok(duration),
        }
    }

    /// Takes the size `name` in bytes, from 1 to `most`.
    pub(super) fn size(&mut self, name: &str, most: u64) -> Result<u64> {
        let size = self.optional_size(name, most)?;
        size.ok_or_else(|| self.error(name, format!("is missing: {}", self.key(name).reason)))
    }

    /// Takes the size `name` in bytes, from 1 to `most`, if it is given or has a default.
    pub(super) fn optional_size(&mut self, name: &str, most: u64) -> Result<Option<u64>> {
        let Some(text) = self.optional_text(name)? else { return Ok(None) };
        match value::size(&text).map_err(|reason| self.error(name, reason))? {
            0 => Err(self.error(name, "must be more than 0")),
            size if size > most => Err(self.error(name, format!("`{text}` is too large: at most {most} bytes"))),
            size => Ok(Some(size)),
        }
    }

    /// Takes the count `name`, which is more than nothing, if it is given.
    pub(super) fn optional_count(&mut self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.optional_text(name)? else { return Ok(None) };
        match text.trim().parse::<u64>() {
            Ok(0) => Err(self.error(name, "must be more than 0")),
            Ok(count) => Ok(Some(count)),
            Err(_) => Err(self.error(name, format!("`{text}` is no whole number, as \"100000\""))),
        }
    }

    /// Takes the flag `name`, or its default.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool> {
        let flag = match self.given.remove(name) {
            Some(Value::Bool(flag)) => flag,
            Some(Value::String(text)) if text == "true" => true,
            Some(Value::String(text)) if text == "false" => false,
            Some(other) => return Err(self.error(name, format!("must be true or false, not {}", kind_of(&other)))),
            None => self.key(name).default == Some("true"),
        };
        self.keep(name, flag.into());
        Ok(flag)
    }

    /// Takes the list of texts `name`, if it is given.
    pub(super) fn optional_list(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        let given = match self.given.remove(name) {
            Some(Value::Array(given)) => given,
            Some(other) => return Err(self.error(name, format!("must be a list of texts, not {}", kind_of(&other)))),
            None => return Ok(None),
        };
        let mut list = Vec::with_capacity(given.len());
        for (i, value) in given.into_iter().enumerate() {
            match value {
                Value::String(text) => list.push(text),
                other => return Err(self.error(&format!("{name}[{i}]"), must_be_text(&other))),
            }
        }
        self.keep(name, list.clone().into());
        Ok(Some(list))
    }

    /// Takes the list of texts `name`, if it is given, which may stand in one text with commas between them.
    pub(super) fn listed(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        if let Some(Value::String(text)) = self.given.get(name) {
            let list = text.split(',').map(|text| Value::from(text.trim())).collect();
            self.given.insert(name.to_owned(), Value::Array(list));
        }
        self.optional_list(name)
    }

    /// Takes the text `name`, if it is given, which is never shown.
    pub(super) fn secret(&mut self, name: &str) -> Result<Option<String>> {
        let text = self.given_text(name)?;
        if text.is_some() {
            self.keep(name, value::MASK.into());
        }
        Ok(text)
    }

    /// Returns whether `name` is given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Takes the list `name`, if it is given, of what `read` makes of each text.
    pub(super) fn parsed_list<T>(&mut self, name: &str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
        let texts = self.optional_list(name)?.unwrap_or_default();
        let parsed = texts.iter().enumerate().map(|(i, text)| {
            let wrong =
                || self.error(&format!("{name}[{i}]"), format!("cannot read `{text}`: {}", self.key(name).reason));
            read(text).ok_or_else(wrong)
        });
        parsed.collect()
    }

    /// Takes the table of a plugin's settings `name`, if it is given, as `wit/transform.wit` promises them: in the file's
    /// order, as text, tables inside as dotted names, each element of an array as an entry of its own.
    pub(super) fn settings(&mut self, name: &str) -> Result<Vec<(String, String)>> {
        let mut settings = Vec::new();
        match self.given.remove(name) {
            Some(given @ Value::Object(_)) => {
                self.keep(name, self.masked("", &self.at(name), &given));
                self.entries(name, "", given, &mut settings)?;
            }
            Some(other) => return Err(self.error(name, format!("must be a table, not {}", kind_of(&other)))),
            None => {}
        }
        Ok(settings)
    }

    /// Returns settings as they may be shown: neither what the name calls a secret nor what a reference stands for. What
    /// is secret to a plugin only its author knows.
    fn masked(&self, name: &str, path: &str, given: &Value) -> Value {
        match given {
            Value::Object(inner) => {
                let dot = if name.is_empty() { "" } else { "." };
                let shown = inner.iter().map(|(below, value)| {
                    let (name, path) = (format!("{name}{dot}{below}"), super::below(path, below));
                    (below.clone(), self.masked(&name, &path, value))
                });
                shown.collect()
            }
            _ if value::is_secret(name) => value::MASK.into(),
            Value::Array(elements) => {
                let shown = elements.iter().enumerate();
                shown.map(|(at, element)| self.masked(name, &format!("{path}[{at}]"), element)).collect()
            }
            _ if self.file.referring.contains(path) => value::MASK.into(),
            other => other.clone(),
        }
    }

    fn entries(&self, name: &str, key: &str, given: Value, settings: &mut Vec<(String, String)>) -> Result<()> {
        let empty = match &given {
            Value::Object(inner) if inner.is_empty() => Some("table"),
            Value::Array(elements) if elements.is_empty() => Some("list"),
            _ => None,
        };
        // No entry would come of it, and so the plugin could not refuse a name that it does not know.
        if let Some(kind) = empty.filter(|_| !key.is_empty()) {
            let reason = format!("must not be an empty {kind}: give it a value, or leave it out");
            return Err(self.error(&format!("{name}.\"{key}\""), reason));
        }
        match given {
            Value::Object(inner) => {
                let dot = if key.is_empty() { "" } else { "." };
                inner.into_iter().try_for_each(|(below, value)| {
                    self.entries(name, &format!("{key}{dot}{below}"), value, settings)
                })?;
            }
            Value::Array(elements) => {
                elements.into_iter().try_for_each(|element| self.entries(name, key, element, settings))?;
            }
            Value::String(text) => settings.push((key.to_owned(), text)),
            Value::Number(number) => settings.push((key.to_owned(), number.to_string())),
            Value::Bool(flag) => settings.push((key.to_owned(), flag.to_string())),
            Value::Null => return Err(self.error(&format!("{name}.\"{key}\""), must_be_text(&Value::Null))),
        }
        Ok(())
    }

    /// Takes the table of properties `name`. Numbers and booleans are taken as their text, and tables inside (from
    /// keys with unquoted dots) as dotted names, since librdkafka's names have dots.
    pub(super) fn properties(&mut self, name: &str) -> Result<BTreeMap<String, String>> {
        let mut properties = BTreeMap::new();
        match self.given.remove(name) {
            Some(Value::Object(given)) => self.flatten(name, "", given, &mut properties)?,
            Some(other) => return Err(self.error(name, format!("must be a table, not {}", kind_of(&other)))),
            None if !self.key(name).required => return Ok(properties),
            None => return Err(self.error(name, format!("is missing: {}", self.key(name).reason))),
        }
        let shown = properties.iter().map(|(key, value)| {
            let value = if value::is_secret(key) { value::MASK } else { value.as_str() };
            (key.clone(), Value::from(value))
        });
        let shown = shown.collect();
        self.keep(name, Value::Object(shown));
        Ok(properties)
    }

    fn flatten(
        &self,
        name: &str,
        prefix: &str,
        given: Map<String, Value>,
        properties: &mut BTreeMap<String, String>,
    ) -> Result<()> {
        for (key, value) in given {
            let key = format!("{prefix}{key}");
            let text = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                Value::Object(inner) => {
                    self.flatten(name, &format!("{key}."), inner, properties)?;
                    continue;
                }
                other => return Err(self.error(&format!("{name}.\"{key}\""), must_be_text(&other))),
            };
            if properties.insert(key.clone(), text).is_some() {
                return Err(self.error(&format!("{name}.\"{key}\""), "is given twice"));
            }
        }
        Ok(())
    }

    fn optional_text(&mut self, name: &str) -> Result<Option<String>> {
        let key = self.key(name);
        let text = match self.given.remove(name) {
            Some(Value::String(text)) => Some(text),
            Some(Value::Number(number)) if matches!(key.holds, Type::Duration | Type::Size | Type::Count) => {
                Some(number.to_string())
            }
            Some(other) => return Err(self.error(name, must_be_text(&other))),
            None => key.default.map(str::to_owned),
        };
        if let Some(text) = &text {
            self.keep(name, value::shown_path(text).into());
        }
        Ok(text)
    }

    fn key(&self, name: &str) -> &'static Key {
        keys::keys_in(self.keys, self.schema)
            .find(|key| key.name() == name)
            .expect("the reader asks only for keys of the table")
    }

    fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Says that `name` is unknown, and what was probably meant.
    fn unknown(&self, name: &str) -> Error {
        let full = if self.schema.is_empty() { name.to_owned() } else { format!("{}.{name}", self.schema) };
        if keys::LATER.contains(&full.as_str()) {
            return self.error(name, "unknown key: it belongs to a later version");
        }
        if std::ptr::eq(self.keys, keys::KEYS) && keys::is_of_restores(&full) {
            return self
                .error(name, "unknown key here: it belongs to a pipeline that restores, from an archive to a cluster");
        }
        let siblings: Vec<&str> = keys::keys_in(self.keys, self.schema).map(Key::name).collect();
        // The same name in another section is more likely than a typing error of more than a third.
        let near = |known: &&str| strsim::damerau_levenshtein(name, known);
        let sibling =
            siblings.iter().min_by_key(|known| near(known)).filter(|known| near(known) <= name.len().max(6) / 3);
        let elsewhere = || self.keys.iter().find(|key| key.name() == name);
        match (sibling, elsewhere()) {
            (Some(known), _) => self.error(name, format!("unknown key, did you mean {known}?")),
            (None, Some(key)) => self.error(name, format!("unknown key here, did you mean {}?", key.path)),
            (None, None) => self.error(name, format!("unknown key; known here: {}", siblings.join(", "))),
        }
    }
}

fn must_be_text(value: &Value) -> String {
    format!("must be a text in quotes, not {}", kind_of(value))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(given: Value) -> Result<Vec<(String, String)>> {
        let given = [("settings".to_owned(), given)].into_iter().collect();
        let file = Rc::new(File { name: "a.toml".to_owned(), referring: HashSet::new() });
        Section::open(&file, "pipeline[0].stage[0]", keys::KEYS, "pipeline.stage", given)?.settings("settings")
    }

    #[test]
    fn no_setting_of_a_plugin_vanishes_because_it_is_empty() {
        for (given, complaint) in [
            (serde_json::json!({ "until": "1", "untill": [] }), "settings.\"untill\": must not be an empty list"),
            (serde_json::json!({ "foo": {} }), "settings.\"foo\": must not be an empty table"),
            (serde_json::json!({ "to": { "us": "x", "eu": [] } }), "settings.\"to.eu\": must not be an empty list"),
            (serde_json::json!({ "to": ["x", {}] }), "settings.\"to\": must not be an empty table"),
        ] {
            let error = settings(given).expect_err("it would vanish");
            assert!(error.to_string().contains(&format!("a.toml: pipeline[0].stage[0].{complaint}")), "{error}");
        }
        assert_eq!(settings(serde_json::json!({})).expect("no settings"), []);
        let text = settings(serde_json::json!({ "to": [""] })).expect("an empty text is one");
        assert_eq!(text, [("to".to_owned(), String::new())]);
    }
}
