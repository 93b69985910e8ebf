//! What a request says: who sends it, its query and its body, which are read as Kafka Connect reads them. Pure.

use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde_json::Value;

use super::Flat;
use super::flat::{CLASS, Class};
use super::state::Target;
use crate::api::Refused;

/// The most keys of a configuration: each one that nobody knows is compared with all that there are.
const MOST_KEYS: usize = 1000;

/// Returns the values that a parameter has behind the `?`, in their order. What nobody asks for is left alone.
pub(super) fn parameters<'a>(query: Option<&'a str>, name: &str) -> Vec<&'a str> {
    let pairs = query.unwrap_or_default().split('&');
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).collect()
}

/// Returns whether a parameter is `true`; it is not where it is left out.
pub(super) fn flag(query: Option<&str>, name: &str) -> Result<bool, Refused> {
    match parameters(query, name)[..] {
        [] | ["false"] => Ok(false),
        ["true"] => Ok(true),
        _ => Err(Refused::bad(format!("{name} is true or false"))),
    }
}

/// Reads the body of a request as JSON.
pub(super) fn json(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Value, Refused> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "HTTP 415 Unsupported Media Type"));
    }
    let body = body.map_err(|rejection| Refused::new(rejection.status(), rejection.body_text()))?;
    serde_json::from_slice(&body).map_err(|error| Refused::bad(format!("the body is no JSON: {error}")))
}

/// Reads a map of texts; numbers and booleans are taken as their text, as Kafka Connect does. Keys whose value is null are
/// left out.
pub(super) fn texts(value: Value) -> Result<Flat, Refused> {
    Ok(changes(value)?.0)
}

/// Reads what is to become of single keys: the texts of those, and the keys whose value is null.
pub(super) fn changes(value: Value) -> Result<(Flat, Vec<String>), Refused> {
    let Value::Object(given) = value else {
        return Err(Refused::bad("the configuration is no object of texts"));
    };
    if given.len() > MOST_KEYS {
        return Err(Refused::bad(format!("a configuration has at most {MOST_KEYS} keys")));
    }
    let (mut texts, mut removed) = (Flat::new(), Vec::new());
    for (key, value) in given {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null => {
                removed.push(key);
                continue;
            }
            _ => return Err(Refused::bad(format!("`{key}` must be a text"))),
        };
        texts.insert(key, text.into());
    }
    Ok((texts, removed))
}

/// Writes a name as a path's segment has it.
pub(super) fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let each = name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
    each.collect()
}

/// A connector that is to be made.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) name: String,
    pub(super) config: Flat,
    /// What it is to do.
    pub(super) target: Target,
}

/// Reads what `POST /connectors` is sent.
pub(super) fn creation(value: Value) -> Result<Creation, Refused> {
    let Value::Object(mut given) = value else {
        return Err(Refused::bad("the body is no object with a name and a config"));
    };
    let name = match given.shift_remove("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.trim().to_owned()),
        Some(Value::Number(name)) => Some(name.to_string()),
        Some(_) => return Err(Refused::bad("the name is no text")),
    };
    let config = given.shift_remove("config");
    let state = given.shift_remove("initial_state");
    let target = match state.as_ref().map(|state| state.as_str().unwrap_or_default().to_ascii_uppercase()).as_deref() {
        None | Some("RUNNING") => Target::Started,
        Some("PAUSED") => Target::Paused,
        Some("STOPPED") => Target::Stopped,
        _ => return Err(Refused::bad("initial_state is RUNNING, PAUSED or STOPPED")),
    };
    if let Some(unknown) = given.keys().next() {
        return Err(Refused::bad(format!("`{unknown}` is unknown: there are name, config and initial_state")));
    }
    let mut config = texts(config.ok_or_else(|| Refused::bad("the config is missing"))?)?;
    let name = name.filter(|name| !name.is_empty());
    if name.is_none() && !config.contains_key("name") {
        return Err(Refused::bad("the name is missing"));
    }
    let name = name.unwrap_or_default();
    named(&mut config, &name)?;
    Ok(Creation { name, config, target })
}

/// Has a configuration bear the name that the request has.
pub(super) fn named(config: &mut Flat, name: &str) -> Result<(), Refused> {
    match config.get("name").and_then(Value::as_str) {
        Some(other) if other != name => Err(Refused::bad(format!(
            "Connector name configuration ({other}) doesn't match connector name in the URL ({name})"
        ))),
        _ => {
            config.insert("name".into(), name.into());
            Ok(())
        }
    }
}

/// Returns the class of connectors that a configuration names.
pub(super) fn class(config: &Flat) -> Result<Class, Refused> {
    let Some(name) = config.get(CLASS).and_then(Value::as_str) else {
        return Err(Refused::bad(format!("Connector config contains no connector type: {CLASS} is missing")));
    };
    class_of(name)
}

/// Returns the class of that name.
pub(super) fn class_of(name: &str) -> Result<Class, Refused> {
    Class::of(name).ok_or_else(|| {
        Refused::bad(format!(
            "Failed to find any class that implements Connector and which name matches {name}, available connectors are: \
             {}, {}",
            Class::ArchiveSink.name(),
            Class::ArchiveSource.name()
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_parameter_may_be_there_twice() {
        let query = Some("expand=status&x=1&expand=info&forward");
        assert_eq!(parameters(query, "expand"), ["status", "info"]);
        assert_eq!((parameters(query, "forward"), parameters(None, "x")), (vec![""], vec![]));
    }

    #[test]
    fn a_flag_that_is_neither_is_refused() {
        let of = |query| flag(Some(query), "includeTasks").map_err(|refused| refused.status());
        assert_eq!((of("includeTasks=true"), of("includeTasks=false"), of("")), (Ok(true), Ok(false), Ok(false)));
        assert_eq!(of("includeTasks=yes"), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn null_removes_a_key() {
        let (texts, removed) = changes(json!({"a": 1, "b": null})).expect("right");
        assert_eq!((json!(texts), removed), (json!({"a": "1"}), vec!["b".to_owned()]));
    }

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!((encoded("or.der-s_1~"), encoded("a/b ü")), ("or.der-s_1~".into(), "a%2Fb%20%C3%BC".into()));
    }

    #[test]
    fn what_cannot_be_a_connector_is_refused() {
        for body in [
            json!([]),
            json!({}),
            json!({"name": "x"}),
            json!({"name": "x", "config": []}),
            json!({"name": "", "config": {}}),
            json!({"name": "x", "config": {"name": "y"}}),
            json!({"config": {"name": "x"}}),
            json!({"name": "x", "config": {"a": {}}}),
            json!({"name": "x", "config": {}, "initial_state": "ASLEEP"}),
            json!({"name": "x", "config": {}, "what": 1}),
        ] {
            assert_eq!(creation(body.clone()).expect_err("refused").status(), StatusCode::BAD_REQUEST, "{body}");
        }
        let made = creation(json!({"name": "x", "config": {"tasks.max": 1, "none": null}})).expect("right");
        assert_eq!((made.name.as_str(), json!(made.config)), ("x", json!({"tasks.max": "1", "name": "x"})));
        assert_eq!(made.target, Target::Started);
        for state in ["STOPPED", "stopped"] {
            let made = creation(json!({"name": "x", "config": {}, "initial_state": state})).expect("right");
            assert_eq!(made.target, Target::Stopped);
        }
        for (name, read) in [(json!(" sp "), "sp"), (json!(5), "5")] {
            let made = creation(json!({"name": name, "config": {}})).expect("right");
            assert_eq!((made.name.as_str(), &made.config["name"]), (read, &json!(read)));
        }
    }
}
