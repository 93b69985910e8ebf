//! A restore as it is asked for over HTTP: a pipeline in the shape of the configuration file.
//!
//! References as `${env:NAME}` and `${file:/path}` are replaced with what they stand for in this agent's surroundings, each time that
//! it is read: who may have it restore has it read those. What one stands for is in no answer. Where the backup is may be left
//! out, for one that this agent writes.

use serde_json::{Map, Value};

use super::super::Refused;
use crate::config::{self, Config, Restore};
use crate::error::{Error, Result as Outcome};
use crate::kafka::Properties;
use crate::stages::Way;
use crate::store::Store;

/// What is asked for, as it was sent.
pub(super) type Request = Map<String, Value>;

/// Reads what is asked for; `place` says where a backup is that this agent writes.
///
/// # Errors
/// 400 for the first thing that is wrong; those of `place`.
pub(super) fn read(request: &Request, place: impl FnOnce(&str) -> Result<String, Refused>) -> Result<Restore, Refused> {
    let mut whole = request.clone();
    let variable = |name: &str| std::env::var(name).ok();
    if let Some(Value::Object(source)) = whole.get_mut("source")
        && !source.contains_key("path")
        && let Some(backup) = source.get("backup_id").and_then(Value::as_str)
    {
        // What it was resolved to may have a `${`, which is no reference.
        let path = place(backup)?.replace("${", "$${");
        source.insert("path".into(), path.into());
    }
    let restore = Config::restore(whole, &variable)?;
    check(request, &restore)?;
    Ok(restore)
}

/// Checks what the texts alone do not tell, without connecting or writing, and without telling what a reference stands for.
fn check(request: &Request, restore: &Restore) -> Outcome<()> {
    let wrong = |path: &[&str], error: &dyn std::fmt::Display| {
        let key = path.join(".");
        match refers_at(request, path) {
            true => Error::usage(format!("the restore: {key}: what its reference stands for is not right")),
            false => Error::usage(format!("the restore: {key}: {error}")),
        }
    };
    drop(Properties::new(restore.sink.kafka.clone()).map_err(|error| wrong(&["sink", "kafka"], &error))?);
    drop(Store::open(&restore.source.path).map_err(|error| wrong(&["source", "path"], &error))?);
    if let Some(state) = &restore.sink.state {
        drop(Store::open(state).map_err(|error| wrong(&["sink", "state"], &error))?);
    }
    // To open one compiles it, which is done when it is planned: here it is only that no error shows a secret.
    if refers_at(request, &["stage"]) {
        for (number, stage) in restore.stages.iter().enumerate() {
            drop(
                stage
                    .open(&restore.name, number + 1, Way::Restore)
                    .map_err(|refused| wrong(&["stage"], &refused.error))?,
            );
        }
    }
    Ok(())
}

/// Returns whether there is a reference at a place of a request, or below it.
fn refers_at(request: &Request, path: &[&str]) -> bool {
    let [first, rest @ ..] = path else { return false };
    let at = request.get(*first).and_then(|value| rest.iter().try_fold(value, |value, key| value.get(key)));
    at.is_some_and(refers)
}

fn refers(value: &Value) -> bool {
    match value {
        Value::String(text) => config::refers(text),
        Value::Array(list) => list.iter().any(refers),
        Value::Object(table) => table.values().any(refers),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(changes: &[(&str, &str, Value)]) -> Request {
        let mut request = json!({
            "name": "r",
            "source": {"type": "archive", "backup_id": "b"},
            "sink": {"type": "kafka", "kafka": {"bootstrap.servers": "127.0.0.1:1"}},
        });
        for (section, key, value) in changes {
            request[*section][*key] = value.clone();
        }
        request.as_object().expect("an object").clone()
    }

    #[test]
    fn where_the_backup_is_may_be_left_out_and_stands_in_no_request() {
        let request = asked(&[]);
        let restore = read(&request, |backup| Ok(format!("/archive/${{{backup}}}"))).expect("right");
        assert_eq!(restore.source.path, "/archive/${b}");
        assert!(request["source"].get("path").is_none());
        let refused = read(&request, |backup| Err(Refused::no_backup(backup))).expect_err("nobody writes it");
        assert_eq!(refused.status, 404);
    }

    #[test]
    fn what_a_reference_stands_for_is_in_no_message() {
        let secret = std::env::vars().find(|(_, value)| value.len() > 3 && value.contains('/'));
        let Some((name, value)) = secret else { return };
        let reference = format!("x-{{}}-${{{name}}}");
        for (section, key, value_of) in [
            ("source", "path", json!(format!("nowhere://{reference}"))),
            ("sink", "kafka", json!({"bootstrap.servers": "a:1", "fetch.wait.max.ms": reference})),
            ("source", "backup_id", json!(reference)),
        ] {
            let refused = read(&asked(&[(section, key, value_of)]), |_| Ok("/a".to_owned())).expect_err(key);
            assert!(refused.status == 400 && !refused.message.contains(&value), "{refused:?}");
        }
    }
}
