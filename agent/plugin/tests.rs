//! Plugins that run, and plugins that misbehave: the agent lives, and says what happened.

use bytes::Bytes;

use super::wit::Columns;
use super::*;
use crate::batch::records::Record;
use crate::error::Kind;
use crate::record::{Timestamp, TopicId};

fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("plugins/{name}/{name}.wasm"))
}

fn partition() -> Partition {
    Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 }
}

/// `count` records from offset 1000 on, a second apart from each other.
fn rows(count: i64) -> Rows {
    let record = |number| Record {
        offset: 1000 + number,
        timestamp: Timestamp(1000 * number),
        key: None,
        value: Some(Bytes::from(format!("value {number}"))),
        headers: Vec::new(),
    };
    Rows::from_records(&(0..count).map(record).collect::<Vec<_>>()).expect("small")
}

fn instance(name: &str, settings: &[(&str, &str)], limits: Limits) -> Result<Instance> {
    let settings: Vec<_> = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Plugin::open(&built(name))?.start(&settings, limits)
}

/// Has the plugin transform ten records; returns what comes of it.
fn records(instance: &mut Instance) -> Result<Vec<Record>> {
    let mut made = Vec::new();
    instance.apply(&partition(), &rows(10), |_, answer| {
        made.extend(answer.rows.rows().iter().map(|row| answer.rows.record(row)));
        Ok(())
    })?;
    Ok(made)
}

/// Returns what the plugin for faults ends with.
fn fault(settings: &[(&str, &str)]) -> String {
    let limits = Limits { deadline: Duration::from_millis(300), memory_bytes: 16 << 20 };
    let mut instance = instance("faults", settings, limits).expect("it can be configured");
    let error = records(&mut instance).expect_err("a fault");
    assert_eq!(
        error.to_string(),
        records(&mut instance).expect_err("again").to_string(),
        "a new instance does the same"
    );
    error.to_string()
}

#[test]
fn a_plugin_filters_and_says_what_it_keeps() {
    let settings = [("from", "2000"), ("until", "1970-01-01T00:00:05Z")];
    let mut filter = instance("pitr-filter", &settings, Limits::default()).expect("it is configured");
    assert_eq!((filter.plan().keeps.from, filter.plan().keeps.until), (Some(2000), Some(5000)));
    let offsets: Vec<_> = records(&mut filter).expect("filtered").iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [1002, 1003, 1004]);
}

#[test]
fn a_plugin_adds_headers() {
    let mut injector = instance("header-injector", &[], Limits::default()).expect("it is configured");
    let made = records(&mut injector).expect("injected");
    assert_eq!(made.len(), 10);
    let header = |name: &str| {
        let (_, value) = made[7].headers.iter().find(|(held, _)| held == name.as_bytes()).expect("injected");
        String::from_utf8(value.as_deref().expect("a value").to_vec()).expect("text")
    };
    let names = ["x-kafka-backup-offset", "x-kafka-backup-timestamp", "x-kafka-backup-partition"];
    assert_eq!(names.map(header), ["1007", "7000", "3"]);
}

#[test]
fn wrong_settings_are_a_usage_error_in_one_line() {
    let error = instance("pitr-filter", &[("untill", "5")], Limits::default()).err().expect("refused");
    assert_eq!(error.kind(), Kind::Usage);
    let said = error.to_string();
    assert!(said.starts_with("plugin `pitr-filter` (pitr-filter.wasm) cannot be configured: "), "{said}");
    assert!(said.contains("untill") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_plugin_that_does_not_come_back_is_ended_and_named() {
    let at = "plugin `faults` (faults.wasm) failed at orders-3";
    let all = "offsets [1000, 1010)";
    assert_eq!(fault(&[("fault", "endless-loop")]), format!("{at} {all}: took longer than 0.3 s"));
    let bomb = fault(&[("fault", "memory-bomb"), ("pure", "false")]);
    assert!(bomb.starts_with(&format!("{at} {all}: needs more memory than it may have: ")), "{bomb}");
    assert!(bomb.ends_with("the limit is 16 MiB"), "{bomb}");
    let deep = fault(&[("fault", "deep-recursion"), ("pure", "false")]);
    assert!(deep.starts_with(&format!("{at} {all}: it")) && deep.ends_with("calls itself too deeply"), "{deep}");
    let panic = fault(&[("fault", "panic"), ("pure", "false")]);
    assert!(panic.starts_with(&format!("{at} {all}: panicked at ")), "{panic}");
    assert!(panic.contains("a fault on purpose, at record 0"), "{panic}");
}

#[test]
fn the_record_is_found_that_ends_a_pure_plugin() {
    for name in ["panic", "deep-recursion", "memory-bomb", "wrong-lengths"] {
        let said = fault(&[("fault", name), ("offset", "1007")]);
        assert!(said.starts_with("plugin `faults` (faults.wasm) failed at orders-3 offset 1007: "), "{said}");
    }
}

#[test]
fn a_failure_on_purpose_names_its_record_and_whether_to_try_again() {
    let said = fault(&[("fault", "fail"), ("offset", "1004")]);
    assert_eq!(said, "plugin `faults` (faults.wasm) failed at orders-3 offset 1004: a failure on purpose");
    let mut instance = instance("faults", &[("fault", "fail-retriable")], Limits::default()).expect("configured");
    assert!(records(&mut instance).expect_err("a failure").retryable());
}

#[test]
fn a_wrong_answer_is_the_plugins_failure() {
    let wrong = |name: &str| fault(&[("fault", name), ("pure", "false"), ("bytes", "300")]);
    let start = "plugin `faults` (faults.wasm) failed at orders-3 offsets [1000, 1010): its answer is wrong: ";
    for (name, why) in [
        ("wrong-rows", "`source` names record 10 of 10"),
        ("wrong-order", "`source` must not descend"),
        ("wrong-lengths", "`values` has 11 cells for 10 rows"),
        ("wrong-ends", "`values`: ends reach 4294967295 of 8"),
        ("wrong-nulls", "`values`: nulls must ascend"),
        ("invalid-utf8", "the name of header 0 is not UTF-8"),
        ("undeclared", "it does `timestamps`, which it did not declare"),
    ] {
        assert_eq!(wrong(name), format!("{start}{why}"));
    }
}

#[test]
fn what_is_asked_wrongly_ends_the_call_and_is_told() {
    let start = "plugin `faults` (faults.wasm) failed at orders-3 offset";
    let asked = "it asked for the value of record 4294967295 of";
    assert_eq!(fault(&[("fault", "wrong-ask"), ("pure", "false")]), format!("{start}s [1000, 1010): {asked} 10"));
    let narrowed = format!("{start} 1007: {asked} 1; to all 10 records of the call: {asked} 10");
    assert_eq!(fault(&[("fault", "wrong-ask"), ("offset", "1007")]), narrowed);
    let undeclared = "it asked for values, which only a plugin may that needs `values-on-demand`, in `apply`";
    let said = fault(&[("fault", "undeclared-ask"), ("pure", "false")]);
    assert_eq!(said, format!("{start}s [1000, 1010): {undeclared}"));
    let settings = [("fault", "wrong-ask"), ("in", "configure")];
    let error = instance("faults", &settings, Limits::default()).err().expect("there is no batch yet");
    assert!(error.to_string().ends_with(&format!("cannot be configured: {undeclared}")), "{error}");
}

#[test]
fn an_answer_larger_than_the_plugins_memory_is_a_matter_of_memory() {
    let said = fault(&[("fault", "huge-output"), ("bytes", "33554432"), ("pure", "false")]);
    assert!(said.contains("needs more memory than it may have"), "{said}");
}

#[test]
fn settings_can_be_met_by_a_fault_too() {
    let error =
        instance("faults", &[("fault", "panic"), ("in", "configure")], Limits::default()).err().expect("it panics");
    assert_eq!(error.kind(), Kind::Failed);
    assert!(error.to_string().contains("cannot be configured: panicked at "), "{error}");
}

/// Opens what is no plugin; returns what is said.
fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.wasm");
    std::fs::write(&file, bytes).expect("written");
    let error = Plugin::open(&file).expect_err("no plugin");
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    let said = error.to_string();
    assert_eq!(said.lines().count(), 1, "{said}");
    said.replace(&format!("plugin {}: ", file.display()), "")
}

#[test]
fn a_file_that_is_no_plugin_is_refused_with_what_it_is() {
    assert_eq!(refused(b""), "the file is empty");
    assert_eq!(refused(b"(module)\n"), "is no WebAssembly: it does not begin with `\\0asm`");
    assert!(refused(b"\0asm").starts_with("the file is damaged"));
    assert_eq!(refused(b"\0asm\x02\0\0\0"), "is WebAssembly of a version that is not known here");
    let sound = std::fs::read(built("pitr-filter")).expect("it is there");
    for length in [sound.len() / 2, sound.len() - 1] {
        let said = refused(&sound[..length]);
        assert!(said.starts_with("the file is damaged, or cut off: "), "{said}");
    }
    let error = Plugin::open(Path::new("/nowhere/x.wasm")).expect_err("not there");
    assert_eq!(error.to_string(), "there is no plugin /nowhere/x.wasm");
    assert!(Plugin::open(Path::new("/")).expect_err("a folder").to_string().contains("is no file"));
}

/// A component that imports or exports an instance of this name, and nothing else.
fn component(import: Option<&str>, export: Option<&str>) -> Vec<u8> {
    // Sections as in <https://github.com/WebAssembly/component-model/blob/main/design/mvp/Binary.md>.
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    let mut section = |id: u8, body: &[u8]| {
        bytes.extend([id, body.len() as u8]);
        bytes.extend(body);
    };
    let named = |name: &str| [&[1, 0, name.len() as u8], name.as_bytes()].concat();
    // One type: an instance that exports nothing.
    section(7, &[1, 0x42, 0]);
    if let Some(import) = import {
        section(10, &[&named(import)[..], &[5, 0]].concat());
    }
    if let Some(export) = export {
        if import.is_none() {
            // An instance of nothing, made here.
            section(5, &[1, 1, 0]);
        }
        section(11, &[&named(export)[..], &[5, 0, 0]].concat());
    }
    bytes
}

#[test]
fn a_plugin_for_another_interface_is_told_from_one_that_wants_too_much() {
    let other = "needs interface 0.2, this agent speaks 0.1: build it with the SDK of this version";
    assert_eq!(refused(&component(Some("kafka-backup:transform/host@0.2.0"), None)), other);
    assert_eq!(refused(&component(None, Some("kafka-backup:transform/transform@0.2.7"))), other);
    let wasi = refused(&component(Some("wasi:cli/environment@0.2.0"), None));
    assert!(
        wasi.starts_with("imports `wasi:cli/environment@0.2.0`, which no plugin gets; build it for wasm32"),
        "{wasi}"
    );
    let foreign = refused(&component(Some("a:b/c"), None));
    assert_eq!(
        foreign,
        "imports `a:b/c`, which no plugin gets; a plugin gets `kafka-backup:transform/host` and nothing else"
    );
    let none = "is no plugin: it does not export `kafka-backup:transform/transform`";
    assert_eq!(refused(&component(None, None)), none);
    let form = refused(&component(None, Some("kafka-backup:transform/transform@0.1.0")));
    assert!(form.starts_with("is built against another form of interface 0.1 than this agent has: build it"), "{form}");
}

#[test]
fn rows_are_sent_in_pieces_that_are_not_too_large() {
    let record = |offset, bytes| Record {
        offset,
        timestamp: Timestamp(0),
        key: None,
        value: Some(vec![0; bytes].into()),
        headers: Vec::new(),
    };
    let of = |records: &[Record], needs| {
        let (rows, mut pieces, mut next) = (Rows::from_records(records).expect("small"), Vec::new(), 0);
        while next < rows.len() {
            let piece = piece(&rows, next, needs, HEAD_BYTES);
            next = piece.end;
            pieces.push(piece);
        }
        pieces
    };
    let sizes = [10, CALL_BYTES / 2, CALL_BYTES * 2 / 3, CALL_BYTES * 3, 10, 10];
    let records: Vec<_> = (0..).zip(sizes).map(|(offset, bytes)| record(offset, bytes)).collect();
    assert_eq!(of(&records, Columns::all()), [0..2, 2..3, 3..4, 4..6]);
    let sent = of(&records, Columns::KEYS | Columns::HEADERS);
    assert_eq!((sent.len(), sent[0].clone()), (1, 0..6), "values are not sent");
    assert_eq!(of(&records, Columns::VALUES_ON_DEMAND), sent, "how they begin is little");
    let many: Vec<_> = (0..25_000).map(|offset| record(offset, 0)).collect();
    assert_eq!(of(&many, Columns::all()), [0..10_000, 10_000..20_000, 20_000..25_000]);
    assert!(of(&[], Columns::all()).is_empty());
    let half = CALL_WHOLE_BYTES / 2;
    let sizes = [half, half, 1, half, half * 3, half, half - 1, 10];
    let records: Vec<_> = (0..).zip(sizes).map(|(offset, bytes)| record(offset, bytes)).collect();
    let wanted = [0..2, 2..4, 4..5, 5..7, 7..8];
    assert_eq!(of(&records, Columns::default()), wanted, "what is not sent is left out with a call that fails");
    assert_eq!(of(&records, Columns::KEYS), wanted);
}

#[test]
fn what_a_plugin_asks_of_values_counts_in_the_calls_that_come() {
    let settings = [("by", "json"), ("field", "f"), ("to.1", "one")];
    let mut fanout = instance("restore-fanout", &settings, Limits::default()).expect("it is configured");
    let value = format!(r#"{{"b":"{}","f":1}}"#, "x".repeat(2000));
    let record = |offset| Record {
        offset,
        timestamp: Timestamp(0),
        key: None,
        value: Some(value.clone().into()),
        headers: Vec::new(),
    };
    let rows = Rows::from_records(&(0..1200).map(record).collect::<Vec<_>>()).expect("small");
    let mut calls = Vec::new();
    let taken = fanout.apply(&partition(), &rows, |range, answer| {
        assert_eq!(answer.rows.len(), 2 * range.len());
        calls.push(range.len());
        Ok(())
    });
    taken.expect("it answers");
    // It learns from the first call to ask for more, and the agent from the second one that it does.
    let (expected, most) = (CALL_BYTES / HEAD_BYTES, CALL_BYTES / value.len());
    assert_eq!(calls, [expected, expected, most, most, 1200 - 2 * (expected + most)]);
}

fn dead(rows: Range<usize>) -> Failed {
    Failed { fault: Fault::Dead { why: "it died".to_owned(), end: End::Trapped }, rows, in_configure: false }
}

#[test]
fn the_record_is_searched_for_only_as_long_as_there_is_time() {
    let search = |mut calls| {
        halved(dead(0..1024), |half| {
            calls -= 1;
            (calls >= 0 && half.contains(&1023)).then(|| dead(half))
        })
        .rows
    };
    assert_eq!(search(i32::MAX), 1023..1024);
    assert_eq!(search(6), 896..1024, "three halves were searched twice");
    assert_eq!(search(0), 0..1024);
    let late = Failed { fault: Fault::Dead { why: String::new(), end: End::Late }, ..dead(0..8) };
    assert_eq!(halved(late, |_| panic!("each half would take as long")).rows, 0..8);
    let unconfigured = Failed { in_configure: true, ..dead(0..8) };
    assert_eq!(halved(unconfigured, |_| panic!("no record is to blame")).rows, 0..8);
}

#[test]
fn an_instance_that_cannot_be_configured_again_blames_no_record() {
    let mut filter = instance("pitr-filter", &[("until", "5000")], Limits::default()).expect("it is configured");
    filter.settings = vec![("untill".to_owned(), "5".to_owned())];
    filter.live = None;
    let error = records(&mut filter).expect_err("refused");
    assert!(error.retryable(), "it could be configured once");
    let said = error.to_string();
    assert!(said.starts_with("plugin `pitr-filter` (pitr-filter.wasm) cannot be configured again: "), "{said}");
}

#[test]
fn a_plugin_that_remembers_is_not_replaced_for_its_growth() {
    let mut instance = instance("faults", &[], Limits::default()).expect("it is configured");
    assert!(instance.plan.pure);
    assert!(!instance.is_overgrown(32 << 20));
    assert!(instance.is_overgrown((32 << 20) + 1));
    instance.plan.pure = false;
    assert!(!instance.is_overgrown(64 << 20));
}

#[test]
fn whether_a_value_fits_does_not_hang_on_those_before() {
    let rows = |bytes: usize| {
        let value = Some(vec![b'x'; bytes].into());
        let record = Record { offset: 0, timestamp: Timestamp(0), key: None, value, headers: Vec::new() };
        Rows::from_records(&[record]).expect("small enough")
    };
    let mut instance = instance("faults", &[], Limits::default()).expect("it is configured");
    // The first one is small enough for the instance to be kept; what it has left is too little for the second.
    for mib in [30, 35, 30] {
        let taken = instance.apply(&partition(), &rows(mib << 20), |_, answer| {
            assert_eq!(answer.bytes, mib << 20);
            Ok(())
        });
        taken.unwrap_or_else(|error| panic!("{mib} MiB: {error}"));
    }
    let error = instance.apply(&partition(), &rows(70 << 20), |_, _| Ok(())).expect_err("too much for any");
    assert!(error.to_string().contains("needs more memory than it may have"), "{error}");
}

#[test]
fn a_range_of_offsets_may_end_with_the_last_there_can_be() {
    let record = |offset| Record { offset, timestamp: Timestamp(0), key: None, value: None, headers: Vec::new() };
    let rows = Rows::from_records(&[record(i64::MAX - 1), record(i64::MAX)]).expect("small");
    let mut instance =
        instance("faults", &[("fault", "panic"), ("pure", "false")], Limits::default()).expect("it is configured");
    let said = instance.apply(&partition(), &rows, |_, _| Ok(())).expect_err("it panics").to_string();
    assert!(said.contains("offsets [9223372036854775806, 9223372036854775807): panicked"), "{said}");
}

/// Adds what the sources in a folder take from outside `agent/` when the program is built, tests left out.
fn included(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("sources").map(|entry| entry.expect("readable").path()) {
        if entry.is_dir() {
            included(&entry, found);
        } else if entry.extension().is_some_and(|name| name == "rs") && !entry.ends_with("tests.rs") {
            let text = std::fs::read_to_string(&entry).expect("text");
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for path in text.split("include_").skip(1).filter_map(|rest| rest.split('"').nth(1)) {
                let file = folder.join(path);
                if let Ok(file) = file.canonicalize().map(|file| file.display().to_string()) {
                    found.push(file.replace(&format!("{}/", env!("CARGO_MANIFEST_DIR")), ""));
                }
            }
        }
    }
}

#[test]
fn the_image_is_built_with_all_that_the_sources_include() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wanted = vec!["wit/transform.wit".to_owned()];
    included(&top.join("agent"), &mut wanted);
    assert!(wanted.iter().any(|file| file == "plugins/pitr-filter/pitr-filter.wasm"), "{wanted:?}");
    let image = std::fs::read_to_string(top.join("Dockerfile")).expect("it is there");
    let copied: Vec<_> = image.lines().filter_map(|line| line.strip_prefix("COPY ")?.split(' ').next()).collect();
    for file in wanted {
        let is_copied = copied.iter().any(|from| file == *from || file.starts_with(&format!("{from}/")));
        assert!(is_copied, "the Dockerfile copies no {file}: the image could not be built");
    }
}

#[test]
fn what_is_wrong_with_an_answer_to_all_records_is_told_beside_what_is_to_one() {
    let said = fault(&[("fault", "wrong-order")]);
    let wanted = "plugin `faults` (faults.wasm) failed at orders-3 offset 1000: its answer is wrong: `source` names record 1 \
                  of 1; to all 10 records of the call: its answer is wrong: `source` must not descend";
    assert_eq!(said, wanted);
}

#[test]
fn memory_that_is_too_little_to_begin_with_is_the_operators_to_mend() {
    let little = Limits { memory_bytes: 1 << 10, ..Limits::default() };
    let error = instance("pitr-filter", &[("until", "5000")], little).err().expect("it cannot be started");
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains(" KiB, the limit is 1 KiB; give it more: "), "{error}");
}

#[test]
fn what_a_plugin_logs_names_its_stage() {
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("whole").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let plugin = Plugin::find("pitr-filter").expect("it ships");
    tracing::subscriber::with_default(subscriber, || {
        say(&plugin.clone().as_part_of("stage 2 of pipeline `p`"), vec![(Level::Warn, "it is late".to_owned())]);
        say(&plugin, vec![(Level::Info, "alone".to_owned())]);
    });
    let text = String::from_utf8(lines.0.lock().expect("whole").clone()).expect("text");
    let [staged, alone] = &text.lines().collect::<Vec<_>>()[..] else { panic!("two lines: {text}") };
    assert!(staged.contains(r#"it is late plugin="pitr-filter" stage="stage 2 of pipeline `p`""#), "{staged}");
    assert!(alone.contains("alone") && !alone.contains("stage"), "{alone}");
}
