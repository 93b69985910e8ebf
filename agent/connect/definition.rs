//! What is known of a connector's keys, and what is wrong with a configuration: `/connector-plugins`.
//!
//! A configuration is checked as far as its texts alone tell: no reference is replaced, no file read, nothing connected, since
//! whoever asks need not be whom the agent's files and variables are for. A value with a reference is taken as right. Pure.

use serde::Serialize;
use serde_json::Value;

use super::Flat;
use super::flat::{self, CLASS, Class, TASKS_MAX, TOLERANCE, TRANSFORMS, Wrong};
use crate::config::keys::{Key, Type};
use crate::config::{self, Config, value};

/// How many wrong keys are looked for: each of them is a check of the whole.
const MOST_WRONG: usize = 30;

/// What the keys are sorted into, in this order.
const GROUPS: [&str; 6] = ["Common", "Source", "Sink", "Verify", "Transforms", "Error Handling"];

/// What a class of connectors is, as data.
#[derive(Debug, Serialize)]
pub(super) struct Plugin {
    class: String,
    #[serde(rename = "type")]
    kind: &'static str,
    version: &'static str,
}

impl Plugin {
    /// Returns what a class is.
    pub(super) fn of(class: Class) -> Self {
        Self { class: class.name().to_owned(), kind: class.kind(), version: super::VERSION }
    }

    /// Returns what a plugin is that ships with the agent.
    pub(super) fn of_transform(name: &str) -> Self {
        Self { class: name.to_owned(), kind: "transformation", version: super::VERSION }
    }
}

/// What is known of a key, as Kafka Connect tells it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Definition {
    name: String,
    #[serde(rename = "type")]
    holds: &'static str,
    required: bool,
    default_value: Option<String>,
    importance: &'static str,
    documentation: String,
    group: &'static str,
    order_in_group: i32,
    width: &'static str,
    display_name: String,
    dependents: [String; 0],
}

impl Definition {
    fn new(name: &str, holds: &'static str, documentation: &str) -> Self {
        Self {
            name: name.to_owned(),
            holds,
            required: false,
            default_value: None,
            importance: "MEDIUM",
            documentation: documentation.to_owned(),
            group: group_of(name),
            order_in_group: -1,
            width: "NONE",
            display_name: name.to_owned(),
            dependents: [],
        }
    }

    fn required(self) -> Self {
        Self { required: true, importance: "HIGH", ..self }
    }

    fn with_default(self, default: &str) -> Self {
        Self { default_value: Some(default.to_owned()), ..self }
    }

    fn of(path: &str, key: &Key) -> Self {
        let holds = match key.holds {
            Type::List => "LIST",
            Type::Flag => "BOOLEAN",
            Type::Count => "LONG",
            _ => "STRING",
        };
        let definition = Self::new(&flat::connects(path), holds, key.reason);
        let definition = if key.required { definition.required() } else { definition };
        Self { default_value: key.default.map(str::to_owned), ..definition }
    }
}

/// A key's value and what is wrong with it, as data.
#[derive(Debug, Serialize)]
struct Checked {
    name: String,
    value: Option<String>,
    recommended_values: [String; 0],
    errors: Vec<String>,
    visible: bool,
}

#[derive(Debug, Serialize)]
struct Entry {
    definition: Definition,
    value: Checked,
}

/// What came of checking a configuration, as data.
#[derive(Debug, Serialize)]
pub(super) struct Validated {
    name: String,
    error_count: usize,
    groups: [&'static str; 6],
    configs: Vec<Entry>,
}

/// Returns what is known of the keys of a class. Those of single properties and of stages have names of the user's own.
pub(super) fn definitions(class: Class) -> Vec<Definition> {
    let mut definitions = vec![
        Definition::new(CLASS, "STRING", "what the pipeline does: it captures, or restores").required(),
        Definition::new(TASKS_MAX, "INT", "the most tasks; an agent runs one of each pipeline").with_default("1"),
        Definition::new(TRANSFORMS, "LIST", "names of the stages that records go through, in this order"),
        Definition::new(
            TOLERANCE,
            "STRING",
            "whether stages that do not say otherwise skip what they fail at: none, all",
        )
        .with_default("none"),
    ];
    for (path, key) in class.keys().filter(|(path, _)| !path.starts_with("stage")) {
        match key.holds {
            Type::Section | Type::Sections => {}
            Type::Properties if key.required => {
                let name = flat::connects(&format!("{path}.bootstrap.servers"));
                let reason = "addresses of some brokers; further properties by librdkafka's names";
                definitions.push(Definition::new(&name, "STRING", reason).required());
            }
            Type::Properties => {}
            _ => definitions.push(Definition::of(path, key)),
        }
    }
    definitions
}

/// Checks a configuration of `class`, which was asked for as `name`.
pub(super) fn validate(name: &str, class: Class, given: &Flat) -> Validated {
    let wrong = check(given);
    let mut definitions = definitions(class);
    let keys = given.keys().chain(wrong.iter().map(|wrong| &wrong.key));
    for key in keys {
        if !definitions.iter().any(|definition| definition.name == *key) {
            definitions.push(Definition::new(key, "STRING", ""));
        }
    }
    let entries = definitions.into_iter().map(|definition| {
        let errors = wrong.iter().filter(|wrong| wrong.key == definition.name);
        let errors: Vec<_> = errors.map(|wrong| format!("{}: {}", wrong.key, wrong.reason)).collect();
        let shown = given.get(&definition.name).and_then(Value::as_str).map(|text| {
            if value::is_secret(&definition.name) { value::MASK.to_owned() } else { value::shown_path(text) }
        });
        let value = Checked {
            name: definition.name.clone(),
            value: shown.or_else(|| definition.default_value.clone()),
            recommended_values: [],
            errors,
            visible: true,
        };
        Entry { definition, value }
    });
    let configs: Vec<_> = entries.collect();
    let error_count = configs.iter().map(|entry| entry.value.errors.len()).sum();
    Validated { name: name.to_owned(), error_count, groups: GROUPS, configs }
}

/// Returns what is wrong with a configuration, as far as the texts tell.
pub(super) fn check(given: &Flat) -> Vec<Wrong> {
    let mut wrong: Vec<Wrong> = Vec::new();
    let mut left = given.clone();
    for (key, value) in given {
        if value.as_str().is_some_and(config::refers) && key != CLASS {
            stand_in(&mut left, key);
        }
    }
    while wrong.len() < MOST_WRONG {
        let pipeline = match flat::from_flat(&left) {
            Ok((_, pipeline)) => pipeline,
            Err(found) => {
                wrong.extend(found);
                break;
            }
        };
        let Err(error) = Config::check_pipeline(pipeline) else { break };
        let Some((path, reason)) = error.key() else {
            wrong.push(Wrong { key: CLASS.to_owned(), reason: error.to_string() });
            break;
        };
        let key = flat::key_of(path, &left);
        // What is wrong twice stands in the way of what is behind it.
        let is_known = wrong.iter().any(|wrong| wrong.key == key);
        if !is_known {
            wrong.push(Wrong { key: key.clone(), reason: reason.to_owned() });
        }
        if is_known || !stand_in(&mut left, &key) {
            break;
        }
    }
    wrong
}

/// Puts something that is right in the place of a key's value, so that what is behind it can be checked; returns whether
/// that changes anything.
fn stand_in(flat: &mut Flat, key: &str) -> bool {
    let right = match key {
        "name" | "topics" | "sink.backup_id" | "source.backup_id" | "sink.path" | "source.path" => "x",
        "consumer.override.bootstrap.servers" | "producer.override.bootstrap.servers" => "x:9092",
        key if key.starts_with("transforms.") && key.ends_with(".type") => "x",
        key => return flat.shift_remove(key).is_some(),
    };
    flat.insert(key.to_owned(), right.into()).is_none_or(|before| before != right)
}

fn group_of(key: &str) -> &'static str {
    let first = key.split('.').next().unwrap_or(key);
    match first {
        "source" | "consumer" => "Source",
        "sink" | "producer" => "Sink",
        "verify" => "Verify",
        "transforms" | "stage" => "Transforms",
        "errors" => "Error Handling",
        _ => "Common",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(given: &Value) -> Vec<(String, String)> {
        let wrong = check(given.as_object().expect("an object"));
        wrong.into_iter().map(|wrong| (wrong.key, wrong.reason)).collect()
    }

    fn sound() -> Value {
        json!({
            "connector.class": "ArchiveSink", "name": "orders", "topics": "orders", "sink.backup_id": "b",
            "sink.path": "/archive", "consumer.override.bootstrap.servers": "127.0.0.1:9092",
        })
    }

    #[test]
    fn a_sound_configuration_has_no_errors() {
        assert_eq!(wrong(&sound()), []);
        let validated = json!(validate("ArchiveSink", Class::ArchiveSink, sound().as_object().expect("an object")));
        assert_eq!((&validated["name"], &validated["error_count"]), (&"ArchiveSink".into(), &0.into()));
        let configs = validated["configs"].as_array().expect("a list");
        let of = |name: &str| configs.iter().find(|config| config["definition"]["name"] == name).expect(name);
        assert_eq!(of("sink.roll_bytes")["value"]["value"], "64MiB", "its default");
        assert_eq!(of("sink.path")["definition"]["required"], true);
        assert_eq!(of("topics")["definition"]["type"], "LIST");
    }

    #[test]
    fn what_is_wrong_is_told_of_every_key_at_once() {
        let mut given = sound();
        for (key, value) in [
            ("sink.roll_bytes", "64"),
            ("sink.backup_id", "../b"),
            ("source.start", "now"),
            ("topics.regex", "("),
            ("verify.deep", "perhaps"),
        ] {
            given[key] = value.into();
        }
        let found = wrong(&given);
        let keys: Vec<_> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["topics.regex", "source.start", "sink.backup_id", "sink.roll_bytes", "verify.deep"]);
        assert!(found[3].1.starts_with("`64` has no unit"), "{found:?}");
    }

    #[test]
    fn what_is_missing_is_told_and_does_not_hide_the_rest() {
        let found = wrong(&json!({ "connector.class": "ArchiveSink", "sink.roll_bytes": "64" }));
        let keys: Vec<_> = found.iter().map(|(key, _)| key.as_str()).collect();
        let missing = ["name", "topics", "consumer.override.bootstrap.servers", "sink.backup_id", "sink.path"];
        assert_eq!(keys, [&missing[..], &["sink.roll_bytes"]].concat());
        assert!(found[4].1.starts_with("is missing: "), "{found:?}");
    }

    #[test]
    fn a_reference_is_neither_replaced_nor_an_error() {
        let mut given = sound();
        for key in ["sink.path", "source.start", "consumer.override.sasl.password"] {
            given[key] = "${file:/etc/hostname}".into();
        }
        assert_eq!(wrong(&given), []);
        let validated = json!(validate("ArchiveSink", Class::ArchiveSink, given.as_object().expect("an object")));
        let hostname = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        assert!(hostname.trim().is_empty() || !validated.to_string().contains(&format!("\"{}\"", hostname.trim())));
        assert!(validated.to_string().contains("${file:/etc/hostname}"));
    }

    #[test]
    fn a_secret_is_not_echoed() {
        let mut given = sound();
        given["consumer.override.sasl.password"] = "hush".into();
        given["sink.path"] = "s3://b?secret_access_key=hush".into();
        let validated = json!(validate("ArchiveSink", Class::ArchiveSink, given.as_object().expect("an object")));
        assert!(!validated.to_string().contains("hush"), "{validated}");
    }
}
