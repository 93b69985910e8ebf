use super::*;
use kafka_backup_transform::testing::{Host, Made, Sample, assert_pure, random};
use proptest::prelude::*;

fn fan_out(settings: &[(&str, &str)], samples: &[Sample]) -> Vec<Made> {
    Host::<RestoreFanout>::new(settings).expect("valid settings").apply("orders", 0, samples).expect("it cannot fail")
}

/// Returns where a record goes; `-` is where it would have gone anyway.
fn topics(settings: &[(&str, &str)], sample: Sample) -> Vec<String> {
    fan_out(settings, &[sample]).into_iter().map(|made| made.topic.unwrap_or_else(|| "-".to_owned())).collect()
}

fn refused(settings: &[(&str, &str)]) -> String {
    Host::<RestoreFanout>::new(settings).map(|_| ()).expect_err("wrong settings").message().to_owned()
}

#[test]
fn a_record_is_copied_to_the_topics_of_its_key() {
    let settings = [("by", "key"), ("to.eu", "orders-eu"), ("to.eu", "audit"), ("to.us", "orders-us")];
    assert_eq!(topics(&settings, Sample::new(0).key("eu")), ["-", "orders-eu", "audit"]);
    assert_eq!(topics(&settings, Sample::new(0).key("us")), ["-", "orders-us"]);
    assert_eq!(topics(&settings, Sample::new(0).key("EU")), ["-"]);
    assert_eq!(topics(&settings, Sample::new(0)), ["-"]);
}

#[test]
fn a_moved_record_leaves_its_topic() {
    let settings = [("by", "topic"), ("to.orders", "a"), ("to.orders", "b"), ("mode", "move")];
    assert_eq!(topics(&settings, Sample::new(0)), ["a", "b"]);
}

#[test]
fn the_last_header_of_a_name_counts_and_null_is_no_match() {
    let settings = [("by", "header"), ("header", "region"), ("to.eu", "a"), ("to.us", "b"), ("mode", "move")];
    assert_eq!(topics(&settings, Sample::new(0).header("region", "eu").header("region", "us")), ["b"]);
    let mut null = Sample::new(0).header("region", "eu");
    null.headers.push((b"region".to_vec(), None));
    assert_eq!(topics(&settings, null), ["-"]);
}

#[test]
fn a_field_of_json_decides_by_its_text() {
    let settings = [("by", "json"), ("field", "customer.tier"), ("to.1", "one"), ("to.gold", "gold"), ("mode", "move")];
    assert_eq!(topics(&settings, Sample::new(0).value(r#"{"customer":{"tier":1}}"#)), ["one"]);
    assert_eq!(topics(&settings, Sample::new(0).value(r#"{"customer":{"tier":"g\u006fld"}}"#)), ["gold"]);
    assert_eq!(topics(&settings, Sample::new(0).value(r#"{"customer":{"tier":1.0}}"#)), ["-"]);
    assert_eq!(topics(&settings, Sample::new(0).value("no json")), ["-"]);
    assert_eq!(topics(&settings, Sample::new(0)), ["-"]);
}

#[test]
fn what_matches_nothing_is_kept_dropped_or_goes_elsewhere() {
    let base = [("by", "key"), ("to.a", "x"), ("mode", "move")];
    let with = |more| topics(&[&base[..], &[more]].concat(), Sample::new(0).key("b"));
    assert_eq!(with(("unmatched", "keep")), ["-"]);
    assert_eq!(with(("unmatched", "drop")), [""; 0]);
    assert_eq!(with(("otherwise", "rest")), ["rest"]);
}

#[test]
fn wrong_settings_are_told_by_name() {
    assert_eq!(refused(&[("to.a", "x")]), "setting `by` is missing; possible: `topic`, `key`, `header`, `json`");
    assert_eq!(refused(&[("by", "hedder"), ("to.a", "x")]), "setting `by` cannot be `hedder`: did you mean `header`?");
    assert_eq!(refused(&[("by", "header"), ("to.a", "x")]), "setting `header` is missing");
    assert_eq!(refused(&[("by", "key"), ("field", "f"), ("to.a", "x")]), "setting `field` is only for `by = \"json\"`");
    assert_eq!(refused(&[("by", "key"), ("tos.a", "x")]), "unknown setting `tos.a`: did you mean `to.*`?");
    assert_eq!(refused(&[("by", "key"), ("to.a", "x"), ("to.a", "x")]), "setting `to.a` names topic `x` twice");
    assert!(refused(&[("by", "key"), ("to.a", "ä")]).starts_with("setting `to.a` cannot be `ä`: a topic's name is"));
    assert!(refused(&[("by", "key")]).starts_with("no setting says where records go"));
    let both = refused(&[("by", "key"), ("otherwise", "x"), ("unmatched", "drop")]);
    assert_eq!(both, "settings `unmatched` and `otherwise` exclude each other");
}

#[test]
fn all_targets_are_known_before_the_first_record() {
    let settings = [("by", "key"), ("to.a", "y"), ("to.b", "x"), ("to.b", "y"), ("otherwise", "z")];
    let host = Host::<RestoreFanout>::new(&settings).expect("valid settings");
    assert_eq!(host.plan().targets.as_deref(), Some(&["x".to_owned(), "y".to_owned(), "z".to_owned()][..]));
    assert_eq!(host.plan().touches, Touches::TOPICS | Touches::COPIES);
    let single = Host::<RestoreFanout>::new(&[("by", "key"), ("to.a", "y"), ("mode", "move")]).expect("valid settings");
    assert_eq!((single.plan().touches, single.plan().needs), (Touches::TOPICS, Columns::KEYS));
}

/// The routes of the property: a value of the record, and where it goes.
const ROUTES: [(&str, &[&str]); 3] = [("a", &["x"]), ("b", &["y", "x", "z"]), ("größe", &["z"])];

/// What a record's rows must be, said plainly.
fn model(by: &str, copy: bool, unmatched: &str, sample: &Sample) -> Vec<Made> {
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().and_then(|bytes| String::from_utf8(bytes.clone()).ok());
    let found = match by {
        "key" => text(&sample.key),
        "header" => sample.headers.iter().rev().find(|(name, _)| name == b"region").and_then(|(_, value)| text(value)),
        "json" => {
            let value = sample.value.as_ref().and_then(|value| serde_json::from_slice::<serde_json::Value>(value).ok());
            value.and_then(|value| Some(value.as_object()?.get("f")?.as_str()?.to_owned()))
        }
        _ => Some("a".to_owned()),
    };
    let row = |topic: Option<&str>| Made { topic: topic.map(str::to_owned), ..Made::unchanged(sample) };
    let matched = ROUTES.iter().find(|(value, _)| found.as_deref() == Some(*value)).map(|(_, topics)| *topics);
    let topics = match (matched, unmatched) {
        (Some(topics), _) => topics,
        (None, "keep") => return vec![row(None)],
        (None, "drop") => return Vec::new(),
        (None, _) => &["rest"],
    };
    copy.then(|| row(None)).into_iter().chain(topics.iter().map(|topic| row(Some(topic)))).collect()
}

fn cell() -> BoxedStrategy<Vec<u8>> {
    let word =
        prop_oneof![3 => prop::sample::select(vec!["a", "b", "größe", ""]).prop_map(str::to_owned), 1 => "\\PC{0,3}"];
    let json = (word.clone(), "[fg]").prop_map(|(word, name)| serde_json::json!({ name: word }).to_string());
    // Behind what is asked for of a value at first.
    let deep = (word.clone(), "[a-c\"\\\\é]{0,600}", 0..600usize).prop_map(|(word, before, more)| {
        serde_json::json!({ "b": before, "c": "😀".repeat(more / 4), "d": "é".repeat(more), "f": word }).to_string()
    });
    prop_oneof![2 => word, 2 => json, 1 => deep].prop_map(String::into_bytes).boxed()
}

proptest! {
    #[test]
    fn it_does_what_the_model_does(
        samples in random::samples_with(cell()),
        by in prop::sample::select(vec!["topic", "key", "header", "json"]),
        copy: bool,
        unmatched in prop::sample::select(vec!["keep", "drop", "rest"]),
    ) {
        let mut settings = vec![("by", by), ("mode", if copy { "copy" } else { "move" })];
        settings.extend(match by {
            "header" => Some(("header", "region")),
            "json" => Some(("field", "f")),
            _ => None,
        });
        settings.push(if unmatched == "rest" { ("otherwise", "rest") } else { ("unmatched", unmatched) });
        let routes = ROUTES.iter().flat_map(|(value, topics)| topics.iter().map(move |topic| (format!("to.{value}"), *topic)));
        let routes: Vec<(String, &str)> = routes.collect();
        settings.extend(routes.iter().map(|(name, topic)| (name.as_str(), *topic)));

        let made = Host::<RestoreFanout>::new(&settings).expect("valid").apply("a", 0, &samples).expect("it cannot fail");
        let expected: Vec<Made> = samples.iter().flat_map(|sample| model(by, copy, unmatched, sample)).collect();
        prop_assert_eq!(made, expected);
        assert_pure::<RestoreFanout>(&settings, &samples);
    }
}
