//! A connector that is made over HTTP: what it runs, and how it is shown.
//!
//! Its configuration is kept as it was sent. References as `${env:NAME}` and `${file:/path}` are replaced with what they stand
//! for in this agent's surroundings each time that it is read: who may make connectors has the agent read those. What one
//! stands for is in no answer to a request for its configuration, and what a secret is in none at all; names and addresses that are
//! worked with, as a backup's name and those of brokers, are in the log, in `trace` and in labels as they are.

use std::fmt;

use serde_json::Value;

use super::Flat;
use super::connector::Work;
use super::flat::{self, Class, Wrong};
use crate::config::{self, Config, value};
use crate::error::Error;
use crate::kafka::Properties;
use crate::stages::Way;
use crate::store::Store;

/// The most bytes of a name: it stands in every line of the log, and in the labels of metrics. Kafka's topics have as many.
const MOST_NAME_BYTES: usize = 249;

/// Says why a connector cannot have that name, if it cannot.
pub(super) fn wrong_name(name: &str) -> Option<String> {
    if name.len() > MOST_NAME_BYTES {
        return Some(format!("a connector's name has at most {MOST_NAME_BYTES} bytes"));
    }
    if matches!(name, "." | "..") {
        return Some("a path cannot lead to a connector of that name".to_owned());
    }
    // Marks and overrides of direction, and line ends that are no control characters, make a line of the log say something else.
    let is_hidden =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    name.chars()
        .any(|c| c.is_control() || is_hidden(c))
        .then(|| "connector name must not contain control characters".to_owned())
}

/// Reads what a configuration runs, with its references replaced.
pub(super) fn read(given: &Flat, variable: &dyn Fn(&str) -> Option<String>) -> Result<Work, Vec<Wrong>> {
    let masked = given.iter().filter(|(_, value)| value.as_str().is_some_and(|text| text.contains(value::MASK)));
    let masked: Vec<_> = masked
        .map(|(key, _)| {
            let reason = format!(
                "`{}` stands for a secret that is not shown: give the secret, or better a reference as ${{env:NAME}}; PATCH \
                 leaves it as it is",
                value::MASK
            );
            Wrong { key: key.clone(), reason }
        })
        .collect();
    if !masked.is_empty() {
        return Err(masked);
    }
    let (class, pipeline) = flat::from_flat(given)?;
    let wrong = |error: Error| vec![wrong(&error, given)];
    match class {
        Class::ArchiveSink => Config::pipeline(pipeline, variable).map(Box::new).map(Work::Capture).map_err(wrong),
        Class::ArchiveSource => Config::restore(pipeline, variable).map(Box::new).map(Work::Restore).map_err(wrong),
    }
}

/// Checks what the texts alone do not tell, without connecting or writing: the client's properties, the store, the plugins,
/// which are compiled. It blocks.
pub(super) fn check(work: &Work, given: &Flat) -> Result<(), Vec<Wrong>> {
    let (cluster, properties, stores, (stages, way)) = match work {
        Work::Capture(pipeline) => {
            let stores = vec![("sink.path", &pipeline.sink.path)];
            ("source.kafka", &pipeline.source.kafka, stores, (&pipeline.stages, Way::Capture))
        }
        Work::Restore(restore) => {
            let mut stores = vec![("source.path", &restore.source.path)];
            stores.extend(restore.sink.state.as_ref().map(|state| ("sink.state", state)));
            ("sink.kafka", &restore.sink.kafka, stores, (&restore.stages, Way::Restore))
        }
    };
    let name = given.get("name").and_then(Value::as_str).unwrap_or_default();
    let at = |path: String, error: &dyn fmt::Display| {
        let key = flat::key_of(&path, given);
        // A message may hold what a reference stands for.
        let may_be_of = |other: &str| other == key || (path == cluster && other.contains(".override."));
        let refers = given.iter().any(|(other, value)| may_be_of(other) && value.as_str().is_some_and(config::refers));
        let reason = if refers { "what its reference stands for is not right".to_owned() } else { error.to_string() };
        vec![Wrong { key, reason }]
    };
    drop(Properties::new(properties.clone()).map_err(|error| at(cluster.to_owned(), &error))?);
    for (key, path) in stores {
        drop(Store::open(path).map_err(|error| at(key.to_owned(), &error))?);
    }
    for (number, stage) in stages.iter().enumerate() {
        let opened = stage.open(name, number + 1, way);
        drop(opened.map_err(|refused| at(format!("stage[{number}].{}", refused.key), &refused.error))?);
    }
    Ok(())
}

/// Returns what is wrong with a configuration by the key of the connector's own.
pub(super) fn wrong(error: &Error, given: &Flat) -> Wrong {
    match error.key() {
        Some((path, reason)) => Wrong { key: flat::key_of(path, given), reason: reason.to_owned() },
        None => Wrong { key: flat::CLASS.to_owned(), reason: error.to_string() },
    }
}

/// Says everything that is wrong on one line.
pub(super) fn line(wrong: &[Wrong]) -> String {
    let parts: Vec<_> = wrong.iter().map(|wrong| format!("{}: {}", wrong.key, wrong.reason)).collect();
    parts.join("; ")
}

/// Returns a configuration as it may be shown: without secrets, but with the references to them.
pub(super) fn shown(given: &Flat) -> Flat {
    let shown = given.iter().map(|(key, value)| {
        let text = value.as_str().unwrap_or_default();
        let text = match value::is_secret(key) && !is_reference(text) {
            true => value::MASK.to_owned(),
            false => value::shown_path(text),
        };
        (key.clone(), text.into())
    });
    shown.collect()
}

/// Returns whether a text is one reference and nothing else, not even a default, which could be the secret.
fn is_reference(text: &str) -> bool {
    let inside = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    inside.is_some_and(|inside| !inside.contains(['{', '}']) && !inside.contains(":-"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flat(changes: &[(&str, &str)]) -> Flat {
        let mut flat = json!({
            "connector.class": "ArchiveSink", "name": "made", "topics": "orders", "sink.backup_id": "b",
            "sink.path": "${ARCHIVE}/x", "consumer.override.bootstrap.servers": "127.0.0.1:9092",
        });
        for (key, value) in changes {
            flat[*key] = (*value).into();
        }
        flat.as_object().expect("an object").clone()
    }

    fn variable(name: &str) -> Option<String> {
        match name {
            "ARCHIVE" => Some("/archive".to_owned()),
            "SECRET" => Some("hush".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn references_are_replaced_in_what_runs_and_not_in_what_is_shown() {
        let given = flat(&[("consumer.override.sasl.password", "${SECRET}")]);
        let Work::Capture(pipeline) = read(&given, &variable).expect("sound") else { panic!("it captures") };
        assert_eq!(pipeline.sink.path, "/archive/x");
        assert_eq!(pipeline.source.kafka["sasl.password"], "hush");
        assert_eq!(shown(&given), given, "what refers to a secret is none");
        let given =
            flat(&[("consumer.override.sasl.password", "hush"), ("consumer.override.ssl.key.pem", "${X:-hush}")]);
        assert!(!json!(shown(&given)).to_string().contains("hush"));
    }

    #[test]
    fn what_a_reference_stands_for_is_in_no_message() {
        for (key, says) in [
            ("sink.backup_id", "sink.backup_id: what its reference stands for is not right"),
            ("sink.roll_bytes", "sink.roll_bytes: what its reference stands for is not right"),
            ("sink.nowhere", "sink.nowhere: unknown key"),
        ] {
            let wrong = read(&flat(&[(key, "${SECRET}/..")]), &variable).expect_err(key);
            assert_eq!(line(&wrong), says);
        }
        let wrong = read(&flat(&[("sink.path", "${NOBODY}")]), &variable).expect_err("not set");
        assert_eq!(line(&wrong), "sink.path: environment variable NOBODY is not set");
        let given = flat(&[("transforms", "t"), ("transforms.t.type", "${SECRET}")]);
        let pipeline = read(&given, &variable).expect("its texts are sound");
        let wrong = check(&pipeline, &given).expect_err("no such plugin");
        assert_eq!(line(&wrong), "transforms.t.type: what its reference stands for is not right");
        let given = flat(&[("consumer.override.fetch.wait.max.ms", "${SECRET}")]);
        let wrong = check(&read(&given, &variable).expect("its texts are sound"), &given).expect_err("no number");
        assert!(!line(&wrong).contains("hush"), "{wrong:?}");
    }

    #[test]
    fn a_restore_is_made_of_its_keys_and_those_of_its_groups() {
        let mut given = json!({
            "connector.class": "ArchiveSource", "name": "back", "topics": "orders", "source.backup_id": "b",
            "source.path": "${ARCHIVE}", "sink.topics.orders": "orders-restored",
            "producer.override.bootstrap.servers": "127.0.0.1:9092",
        });
        let made = read(given.as_object().expect("an object"), &variable).expect("sound");
        let Work::Restore(restore) = &made else { panic!("it restores") };
        assert_eq!(
            (restore.source.path.as_str(), restore.sink.topics["orders"].as_str()),
            ("/archive", "orders-restored")
        );
        check(&made, given.as_object().expect("an object")).expect("nothing is connected");
        assert_eq!(restore.groups, None);
        given["groups.groups"] = "order-processor,billing".into();
        let wrong = read(given.as_object().expect("an object"), &variable).expect_err("they are not reset");
        assert_eq!(wrong[0].key, "groups.groups");
        given["groups.reset"] = "true".into();
        given["groups.positions"] = "savepoint:2026-11-22T10:00:00Z".into();
        let made = read(given.as_object().expect("an object"), &variable).expect("sound");
        let Work::Restore(restore) = &made else { panic!("it restores") };
        let groups = restore.groups.as_ref().expect("they are reset");
        assert_eq!(groups.names, ["order-processor", "billing"]);
        assert_eq!(groups.positions.as_deref(), Some("savepoint:2026-11-22T10:00:00Z"));
    }

    #[test]
    fn a_masked_secret_is_not_taken_for_one() {
        let given = flat(&[("consumer.override.sasl.password", value::MASK)]);
        let wrong = read(&given, &variable).expect_err("nobody's password");
        assert!(wrong.len() == 1 && line(&wrong).contains("stands for a secret that is not shown"), "{wrong:?}");
    }

    #[test]
    fn a_plugin_that_is_not_there_is_found_before_anything_is_made() {
        let given = flat(&[("transforms", "t"), ("transforms.t.type", "header-injectr")]);
        let pipeline = read(&given, &variable).expect("its texts are sound");
        let wrong = check(&pipeline, &given).expect_err("no such plugin");
        assert!(wrong[0].key == "transforms.t.type" && wrong[0].reason.contains("header-injector"), "{wrong:?}");
    }

    #[test]
    fn a_name_is_short_and_printable() {
        assert_eq!((wrong_name("orders"), wrong_name(&"x".repeat(249))), (None, None));
        for name in [".", "..", "a\u{202e}b", "a\u{2028}b", "a\u{200b}b"] {
            assert!(wrong_name(name).is_some(), "{name:?}");
        }
        assert!(wrong_name("a\nb").is_some() && wrong_name(&"x".repeat(250)).is_some());
    }
}
