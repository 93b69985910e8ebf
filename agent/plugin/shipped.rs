//! The plugins that ship, as they are built, against models of what they do that are written over records.

use std::cell::RefCell;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::batch::records::Record;
use crate::record::{Timestamp, TopicId};

/// Where a record goes, and what it then is.
type Made = (Option<String>, Record);

/// What a plugin makes of a record of a partition, said plainly.
type Model = fn(&Partition, &Record) -> Vec<Made>;

fn field() -> impl Strategy<Value = Option<Bytes>> {
    let texts = prop::sample::select(vec![
        "",
        "eu",
        "us",
        "europe",
        "true",
        r#"{"customer":{"region":"eu"}}"#,
        r#"{"customer":{"name":"{\"region\":\"us\"}","region":"u\u0073"},"eu":1}"#,
        r#"{"customer":{"region":true}}"#,
        r#"{"customer":{"region":null}}"#,
        r#"{"customer":[{"region":"eu"}],"region":"eu"}"#,
        r#"{"customer":{"region":["eu"]}}"#,
    ]);
    // Behind what is asked for of a value, at its edge, and cut in the midst of a character.
    let notes = prop::sample::select(vec!["é\\\"", "note"]);
    let deep = (0_usize..400, notes, prop::sample::select(vec!["eu", "us", "u\\u0073", "none"])).prop_map(
        |(before, note, region)| {
            let note = note.repeat(before / 4);
            Bytes::from(format!(r#"{{"note":"{note}","customer":{{"region":"{region}"}}}}"#))
        },
    );
    // One byte of any kind, wherever it stands among those that are looked at together.
    let marked = (0_usize..200, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(length, at, byte)| {
        let mut value = format!(r#"{{"{}":1,"customer":{{"region":"eu"}}}}"#, "n".repeat(length)).into_bytes();
        value.insert(2 + at.index(length + 1), byte);
        Bytes::from(value)
    });
    let bytes = prop_oneof![
        4 => texts.prop_map(|text| Bytes::from_static(text.as_bytes())),
        1 => deep,
        2 => marked,
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from),
    ];
    prop::option::weighted(0.8, bytes)
}

/// Records in order of their offsets, with holes; times in any order, headers that repeat and names that are no text.
fn records() -> impl Strategy<Value = Vec<Record>> {
    let names: [&[u8]; 6] = [b"region", b"x-kafka-backup-offset", b"cluster", b"", &[0xff, 0xfe], "größe".as_bytes()];
    let name = prop::sample::select(names.to_vec()).prop_map(Bytes::from_static);
    let headers = prop::collection::vec((name, field()), 0..5);
    let time = prop_oneof![4 => 990_i64..1_020, 1 => Just(-1), 1 => 0_i64..i64::MAX];
    let record = (1_i64..4, time, field(), field(), headers);
    (0_i64..i64::MAX / 2, prop::collection::vec(record, 1..30)).prop_map(|(first, parts)| {
        let mut next = first;
        let fill = |(step, time, key, value, headers)| {
            next += step;
            Record { offset: next - step, timestamp: Timestamp(time), key, value, headers }
        };
        parts.into_iter().map(fill).collect()
    })
}

fn stays(record: &Record) -> Made {
    (None, record.clone())
}

fn sent(record: &Record, topics: &[&str]) -> Vec<Made> {
    topics.iter().map(|topic| (Some((*topic).to_owned()), record.clone())).collect()
}

fn injected(partition: &Partition, record: &Record) -> Vec<Made> {
    let header = |name: &str, value: String| (Bytes::copy_from_slice(name.as_bytes()), Some(Bytes::from(value)));
    let new = [
        header("x-kafka-backup-offset", record.offset.to_string()),
        header("at", record.timestamp.0.to_string()),
        header("x-kafka-backup-topic", partition.topic.to_string()),
        header("cluster", "eu-1".to_owned()),
    ];
    let mut record = record.clone();
    record.headers.retain(|(name, _)| new.iter().all(|(replaced, _)| name != replaced));
    record.headers.extend(new);
    vec![(None, record)]
}

fn kept(_: &Partition, record: &Record) -> Vec<Made> {
    if (1000..1010).contains(&record.timestamp.0) { vec![stays(record)] } else { Vec::new() }
}

/// By the last header `region`, moved.
fn by_header(_: &Partition, record: &Record) -> Vec<Made> {
    let region =
        record.headers.iter().rfind(|(name, _)| &name[..] == b"region").and_then(|(_, value)| value.as_deref());
    match region {
        Some(b"eu") => sent(record, &["orders-eu", "audit"]),
        Some(b"us") => sent(record, &["orders-us"]),
        _ => sent(record, &["rest"]),
    }
}

/// By the key, copied; what does not match is dropped.
fn by_key(_: &Partition, record: &Record) -> Vec<Made> {
    let copied = |topics| [vec![stays(record)], sent(record, topics)].concat();
    match record.key.as_deref() {
        Some(b"eu") => copied(&["orders-eu"]),
        Some(b"true") => copied(&["flags"]),
        _ => Vec::new(),
    }
}

/// By `customer.region` in the value, moved; what does not match stays.
fn by_json(_: &Partition, record: &Record) -> Vec<Made> {
    let value = record.value.as_deref().unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
    match &json["customer"]["region"] {
        serde_json::Value::Bool(true) => sent(record, &["flags"]),
        serde_json::Value::String(region) if region == "eu" => sent(record, &["orders-eu"]),
        serde_json::Value::String(region) if region == "us" => sent(record, &["orders-us", "audit"]),
        _ => vec![stays(record)],
    }
}

fn by_topic(_: &Partition, record: &Record) -> Vec<Made> {
    [vec![stays(record)], sent(record, &["copy"])].concat()
}

/// A shipped plugin, its settings, and what it then does.
type Shipped = (&'static str, &'static [(&'static str, &'static str)], Model);

const ALL: [Shipped; 6] = [
    (
        "header-injector",
        &[("timestamp", "at"), ("partition", "false"), ("topic", "true"), ("headers.cluster", "eu-1")],
        injected,
    ),
    ("pitr-filter", &[("from", "1000"), ("until", "1010")], kept),
    (
        "restore-fanout",
        &[
            ("by", "header"),
            ("header", "region"),
            ("mode", "move"),
            ("otherwise", "rest"),
            ("to.eu", "orders-eu"),
            ("to.eu", "audit"),
            ("to.us", "orders-us"),
        ],
        by_header,
    ),
    ("restore-fanout", &[("by", "key"), ("unmatched", "drop"), ("to.eu", "orders-eu"), ("to.true", "flags")], by_key),
    (
        "restore-fanout",
        &[
            ("by", "json"),
            ("field", "customer.region"),
            ("mode", "move"),
            ("to.us", "orders-us"),
            ("to.us", "audit"),
            ("to.eu", "orders-eu"),
            ("to.true", "flags"),
        ],
        by_json,
    ),
    ("restore-fanout", &[("by", "topic"), ("to.orders", "copy")], by_topic),
];

fn made(instance: &mut Instance, partition: &Partition, records: &[Record]) -> Result<Vec<Made>> {
    let (rows, mut made) = (Rows::from_records(records)?, Vec::new());
    instance.apply(partition, &rows, |_, answer| {
        let topic = |at| answer.topics.as_ref().and_then(|topics| topics.of(at)).map(str::to_owned);
        let rows = answer.rows.rows().iter().enumerate();
        made.extend(rows.map(|(at, row)| (topic(at), answer.rows.record(row))));
        Ok(())
    })?;
    Ok(made)
}

#[test]
fn what_ships_does_to_any_records_what_its_model_says() {
    let partition = Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 };
    let start = |(name, settings, model): (&str, &[(&str, &str)], Model)| {
        let settings: Vec<_> = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let plugin = Plugin::find(name).expect("it ships");
        (RefCell::new(plugin.start(&settings, Limits::default()).expect("its settings")), model)
    };
    assert!(SHIPPED.iter().all(|(name, _)| ALL.iter().any(|(tested, ..)| tested == name)), "each that ships is tested");
    let plugins = ALL.map(start);
    let tried = TestRunner::new(Config::with_cases(300)).run(&records(), |records| {
        for (instance, model) in &plugins {
            let meant: Vec<_> = records.iter().flat_map(|record| model(&partition, record)).collect();
            let mut instance = instance.borrow_mut();
            let made =
                made(&mut instance, &partition, &records).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(made, meant, "{}", instance.named());
        }
        Ok(())
    });
    tried.unwrap_or_else(|failure| panic!("{failure}"));
}
