//! An author's loop: records of a backup through a plugin, without a cluster.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::agent::{Backup, Ended, program_with};
use crate::support::kafka::Kafka;
use crate::support::workload::{Contents, Writer};

fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("plugins/{name}/{name}.wasm"))
}

fn plugin(verb: &str, name: &str, arguments: &[&str]) -> Ended {
    let file = built(name);
    program_with(&[&["plugin", verb, file.to_str().expect("UTF-8")], arguments].concat())
}

/// A backup of records with everything that records can have, and what `cat` prints of it, in a file.
struct Printed {
    backup: Backup,
    topic: String,
    text: String,
    file: PathBuf,
}

impl Printed {
    fn new(theme: &str) -> Self {
        let kafka = Kafka::shared();
        let topic = kafka.topic(theme, 2, &[]);
        let mut records = Contents::new().records(2, 200, 300);
        for (number, record) in (0..).zip(&mut records) {
            // Each second once, in no order.
            record.timestamp = 1_700_000_000_000 + number * 7919 % 400 * 1000;
        }
        let _ = Writer::new(kafka, &[]).write(&topic, &records);
        let backup = Backup::of(kafka, &[&topic]);
        let _ = backup.backup().ok();
        let text = backup.command("cat", &["--topic", &topic]).ok();
        assert_eq!(text.lines().count(), 400);
        let file = backup.folder().join("records.jsonl");
        fs::write(&file, &text).expect("a writable folder");
        Self { backup, topic, text, file }
    }

    fn pass(&self, name: &str, arguments: &[&str]) -> Ended {
        plugin("run", name, &[&["--input", self.file.to_str().expect("UTF-8")], arguments].concat())
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn what_a_plugin_does_not_change_comes_out_to_the_byte() {
    let printed = Printed::new("plugin-same");
    let ended = printed.pass("faults", &[]);
    assert!(ended.stderr.contains("400 records in, 400 out, "), "{}", ended.stderr);
    assert_eq!(ended.ok(), printed.text);
}

#[test]
fn a_window_keeps_what_cat_prints_of_it() {
    let printed = Printed::new("plugin-window");
    let (from, until) = ("1700000100000", "1700000300000");
    let wanted = ["--topic", &printed.topic, "--from-time", from, "--to-time", until];
    let wanted = printed.backup.command("cat", &wanted).ok();
    assert_eq!(wanted.lines().count(), 200);
    let made = printed.pass("pitr-filter", &["--set", &format!("from={from}"), "--set", &format!("until={until}")]);
    assert_eq!(made.ok(), wanted);
}

#[test]
fn headers_are_injected_and_nothing_else_changes() {
    let printed = Printed::new("plugin-headers");
    let made = lines(&printed.pass("header-injector", &[]).ok());
    let before = lines(&printed.text);
    assert_eq!(made.len(), before.len());
    for (mut made, before) in made.into_iter().zip(before) {
        let Some(headers) = made["headers"].as_array_mut() else { panic!("headers") };
        let added = headers.split_off(headers.len() - 3);
        assert_eq!(made, before);
        let find =
            |name: &str| added.iter().find(|header| header["key"] == name).expect("it was injected")["value"].clone();
        for (name, field) in [("offset", "offset"), ("timestamp", "timestamp"), ("partition", "partition")] {
            assert_eq!(find(&format!("x-kafka-backup-{name}")), before[field].to_string().as_str());
        }
    }
}

#[test]
fn a_plugin_that_fails_names_the_record_and_what_came_before_stands() {
    let printed = Printed::new("plugin-fails");
    let made = printed.pass("faults", &["--set", "fault=panic", "--set", "offset=150"]);
    assert_eq!(made.code, Some(1), "{}", made.stderr);
    let said = made.stderr.lines().last().unwrap_or_default();
    // The plugin panicked, the agent did not: it says so in one line.
    for words in ["plugin `faults` (faults.wasm) failed at", "-0 offset 150: panicked at ", "a fault on purpose"] {
        assert!(said.contains(words), "{}", made.stderr);
    }
    assert!(printed.text.starts_with(&made.stdout), "only what was there before comes out");
    let late = printed.pass("faults", &["--set", "fault=endless-loop", "--deadline", "200ms"]);
    late.fails_with(1, &["took longer than 0.2 s"]);
}

#[test]
fn what_is_no_plugin_no_setting_or_no_record_is_refused_in_one_line() {
    let printed = Printed::new("plugin-bad");
    let file = printed.file.to_str().expect("UTF-8");
    program_with(&["plugin", "check", file]).fails_with(2, &["is no WebAssembly"]);
    program_with(&["plugin", "check", "/nowhere/x.wasm"]).fails_with(2, &["there is no plugin /nowhere/x.wasm"]);
    printed.pass("pitr-filter", &["--set", "fron=5"]).fails_with(2, &["cannot be configured", "fron"]);
    printed.pass("pitr-filter", &["--set", "5"]).fails_with(2, &["key=value"]);
    plugin("run", "faults", &["--input", "/nowhere/records"]).fails_with(2, &["/nowhere/records"]);
    let bad = printed.backup.folder().join("bad.jsonl");
    fs::write(&bad, format!("{}\nnonsense\n", printed.text.lines().next().expect("a line"))).expect("writable");
    let ended = plugin("run", "faults", &["--input", bad.to_str().expect("UTF-8")]);
    ended.fails_with(2, &["line 2 is no record"]);
    assert_eq!(ended.stdout.lines().next(), printed.text.lines().next(), "what came before stands");
    let folder = printed.backup.folder().to_str().expect("UTF-8");
    plugin("run", "faults", &["--input", folder]).fails_with(2, &["cannot read the records in", "it is a folder"]);
}

#[test]
fn a_check_tells_what_a_plugin_is() {
    let told: Value =
        serde_json::from_str(&plugin("check", "pitr-filter", &["--set", "until=5000", "-o", "json"]).ok())
            .expect("JSON");
    assert_eq!(
        (&told["kind"], &told["interface"], &told["pure"]),
        (&"core module".into(), &"0.1.0".into(), &true.into())
    );
    assert_eq!((&told["touches"], &told["keeps_until_ms"]), (&serde_json::json!(["drops"]), &5000.into()));
    let shipped = program_with(&["plugin", "check", "header-injector"]).ok();
    let table = plugin("check", "header-injector", &[]).ok();
    let but_compiling = |table: &str| table.lines().filter(|line| !line.contains("Compile")).collect::<String>();
    assert_eq!(but_compiling(&shipped), but_compiling(&table));
    let wanting = program_with(&["plugin", "check", "pitr-filter"]).ok();
    assert!(wanting.contains("0.1.0") && wanting.contains("neither setting `from` nor `until` is there"), "{wanting}");
    let wrong = program_with(&["plugin", "check", "pitr-filter", "--set", "untill=5"]);
    wrong.fails_with(2, &["cannot be configured", "untill"]);
    assert!(wrong.stdout.contains("0.1.0"), "{}", wrong.stdout);
    program_with(&["plugin", "check", "header-injectr"]).fails_with(2, &["there is no plugin `header-injectr`"]);
    assert!(table.contains("Plugin: header-injector") && table.contains("headers"), "{table}");
}
