//! A damaged archive is brought back: what can be derived is derived, what is lost is declared, what nobody can know is
//! named. Archives come from real Kafka, the damage from us.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::agent::Backup;
use crate::support::chain::headers;
use crate::support::kafka::Kafka;
use crate::support::s3::S3;
use crate::support::workload::{Contents, Writer};

/// Returns every file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Deletes the files of a backup that `is_lost` names, and the folders that this empties.
fn strip(backup: &Backup, is_lost: impl Fn(&str) -> bool) -> usize {
    let root = backup.file("");
    let lost =
        files(&root).into_iter().filter(|path| is_lost(&path.strip_prefix(&root).expect("below it").to_string_lossy()));
    lost.map(|path| fs::remove_file(path).expect("it is there")).count()
}

fn is_catalog(key: &str) -> bool {
    key.contains("/catalog/")
}

fn is_topic_object(key: &str) -> bool {
    key.ends_with(".json") && key.contains("/topic-")
}

/// What the verbs that read an archive say of it.
#[derive(Debug, PartialEq)]
struct Answers {
    list: Value,
    describe: Value,
    mapping: String,
    records: String,
}

impl Answers {
    fn of(backup: &Backup) -> Self {
        let json = |verb| serde_json::from_str(&backup.command(verb, &["--format", "json"]).ok()).expect("JSON");
        Self {
            list: json("list"),
            describe: json("describe"),
            mapping: backup.command("show-offset-mapping", &["--format", "csv"]).ok(),
            records: backup.command("cat", &[]).ok(),
        }
    }

    /// Leaves aside what only the lost objects knew.
    fn without(mut self, keys: &[&str]) -> Self {
        forget(&mut self.list, keys);
        forget(&mut self.describe, keys);
        self
    }
}

fn forget(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !keys.contains(&key.as_str()));
            map.values_mut().for_each(|value| forget(value, keys));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| forget(value, keys)),
        _ => {}
    }
}

/// What only topic objects know.
const SETTINGS: [&str; 1] = ["settings"];

/// What only sidecars and catalogs know: times of sealing, and reasons of gaps.
const SEALED: [&str; 5] = ["settings", "sealed_at", "last_sealed", "reason", "at"];

/// Makes an archive of two topics in many small segments: transactions that interleave, span segments, commit and abort;
/// a topic that lost records before they were archived.
fn archive(kafka: &Kafka) -> Backup {
    let mut contents = Contents::new();
    let (shop, lossy) = (kafka.topic("repair", 2, &[]), kafka.topic("repair-lossy", 1, &[]));
    let backup = Backup::of(kafka, &[&shop, &lossy]).sink("roll_bytes", "4KiB");
    let [a, b] = ["a", "b"].map(|name| Writer::transactional(kafka, name));
    let plain = Writer::new(kafka, &[("batch.num.messages", "10")]);
    for round in 0..6 {
        a.begin();
        let _ = a.write(&shop, &contents.records(2, 30, 300));
        b.begin();
        let _ = b.write(&shop, &contents.records(2, 60, 300));
        let _ = a.write(&shop, &contents.records(2, 20, 300));
        let _ = plain.write(&shop, &contents.records(2, 20, 300));
        if round % 2 == 0 {
            a.commit()
        } else {
            a.abort()
        }
        if round % 3 == 0 {
            b.abort()
        } else {
            b.commit()
        }
        let _ = plain.write(&lossy, &contents.records(1, 30, 300));
        if round % 3 == 0 {
            let _ = backup.backup().ok();
        }
    }
    kafka.delete_records(&lossy, 0, 150);
    let _ = backup.backup().ok();
    let segments =
        files(&backup.file("topics")).iter().filter(|path| path.extension().is_some_and(|e| e == "log")).count();
    assert!(segments > 40, "{segments} segments");
    backup
}

#[test]
fn what_can_be_derived_is_made_anew_and_every_answer_is_the_same() {
    let backup = archive(Kafka::shared());
    let before = Answers::of(&backup).without(&SETTINGS);
    assert!(strip(&backup, |key| is_catalog(key) || is_topic_object(key)) > 2);
    let plan: Value = serde_json::from_str(&backup.command("repair", &["--format", "json"]).ok()).expect("JSON");
    assert!(
        plan["executed"] == false && plan["actions"].as_array().is_some_and(|actions| !actions.is_empty()),
        "{plan}"
    );
    assert_eq!(
        files(&backup.file("")).iter().filter(|path| is_catalog(&path.to_string_lossy())).count(),
        0,
        "only a plan"
    );
    let printed = backup.command("repair", &["--execute"]).ok();
    assert!(printed.contains("make catalogs") && printed.contains("the settings of topic"), "{printed}");
    let _ = backup.command("verify", &["--deep"]).ok();
    assert_eq!(Answers::of(&backup).without(&SETTINGS), before);
    // Without sidecars, too: every marker is in the archive, so that nothing is undecided.
    let before = before.without(&SEALED);
    assert!(strip(&backup, |key| is_catalog(key) || key.ends_with(".index")) > 40);
    backup.command("verify", &[]).fails_with(4, &["damaged"]);
    let _ = backup.command("repair", &["--execute"]).ok();
    let _ = backup.command("verify", &["--deep"]).ok();
    let after = Answers::of(&backup).without(&SEALED);
    assert_eq!(after, before);
    let again = backup.command("repair", &["--deep"]).ok();
    assert!(again.contains("nothing to do"), "{again}");
}

#[test]
fn an_agent_goes_on_behind_what_was_repaired() {
    let kafka = Kafka::shared();
    let backup = archive(kafka);
    let topic = backup.topics()[0].clone();
    let _ = strip(&backup, |key| is_catalog(key) || key.ends_with(".index"));
    let _ = backup.command("repair", &["--execute"]).ok();
    let held = backup.cat(&topic).len();
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 50, 300));
    let _ = backup.backup().ok();
    let _ = backup.command("verify", &["--deep"]).ok();
    assert_eq!(backup.cat(&topic).len(), held + 100);
}

#[test]
fn a_transaction_that_nothing_decides_is_named_left_out_and_decided_by_its_source() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("repair-undecided", 1, &[]);
    let [a, b] = ["a", "b"].map(|name| Writer::transactional(kafka, name));
    let before = contents.records(1, 7, 300);
    let _ = Writer::new(kafka, &[]).write(&topic, &before);
    a.begin();
    let _ = a.write(&topic, &contents.records(1, 30, 300));
    b.begin();
    let _ = b.write(&topic, &contents.records(1, 5, 300));
    a.abort();
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "2KiB");
    let _ = backup.backup().ok();
    let held = backup.cat(&topic);
    assert_eq!((held.len(), backup.chain(&topic, 0).next()), (7, 37), "the marker of A lies behind");
    let _ = strip(&backup, |key| is_catalog(key) || key.ends_with(".index"));

    let repair = backup.command("repair", &["--execute", "--format", "json"]);
    repair.fails_with(3, &["undecided"]);
    let told: Value = serde_json::from_str(&repair.stdout).expect("JSON");
    let remaining = &told["remaining"];
    assert_eq!(remaining.as_array().map(Vec::len), Some(1), "{remaining}");
    let named = &remaining[0];
    assert_eq!((&named["action"], &named["topic"]), (&"undecided transaction".into(), &topic.clone().into()));
    assert_eq!((named["partition"].as_str(), named["first_offset"].as_i64()), (Some("0"), Some(7)), "{named}");
    assert!(named["producer_id"].is_i64() && named["next_offset"] == 37, "{named}");

    let cat = backup.command("cat", &["--topic", &topic]);
    cat.fails_with(3, &["--undecided"]);
    assert!(cat.stdout.lines().count() == 7 && cat.stderr.contains("nobody knows"), "{}", cat.stderr);
    assert_eq!(backup.cat_with(&topic, &["--undecided"]).len(), 37);
    backup.command("verify", &["--deep"]).fails_with(3, &["undecided"]);
    backup.command("describe", &[]).fails_with(3, &["undecided"]);

    let again = ["--execute", "--against-cluster", "--bootstrap-servers", kafka.brokers()];
    let _ = backup.command("repair", &again).ok();
    assert_eq!(backup.cat(&topic), held);
    let _ = backup.command("verify", &["--deep"]).ok();
    b.abort();
}

#[test]
fn what_a_later_segment_tells_decides_an_earlier_one() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("repair-later", 1, &[]);
    let [a, b] = ["a", "b"].map(|name| Writer::transactional(kafka, name));
    a.begin();
    let _ = a.write(&topic, &contents.records(1, 30, 300));
    b.begin();
    let _ = b.write(&topic, &contents.records(1, 5, 300));
    a.abort();
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "2KiB");
    let _ = backup.backup().ok();
    let _ = strip(&backup, |key| is_catalog(key) || key.ends_with(".index"));
    backup.command("repair", &["--execute"]).fails_with(3, &["undecided"]);
    b.commit();
    let _ = backup.backup().ok();
    let plan = backup.command("repair", &["--execute"]).ok();
    assert!(plan.contains("more is known of its transactions"), "{plan}");
    assert_eq!(backup.cat(&topic).len(), 5, "those of B");
    let _ = backup.command("verify", &["--deep"]).ok();
}

/// An archive of one partition in a few segments.
fn whole(kafka: &Kafka) -> (Backup, String) {
    let topic = kafka.topic("repair-damage", 1, &[]);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "16KiB");
    let writer = Writer::new(kafka, &[("batch.num.messages", "10")]);
    let _ = writer.write(&topic, &Contents::new().records(1, 400, 300));
    let _ = backup.backup().ok();
    (backup, topic)
}

/// Damages a batch of ten records in the middle of a segment in the middle; returns the offsets that are lost.
fn damage(backup: &Backup, topic: &str) -> Range<i64> {
    let segment = &backup.chain(topic, 0).0[2];
    let mut bytes = segment.bytes.clone();
    let batch = headers(&bytes)[1];
    bytes[batch.position + 100] ^= 1;
    fs::write(&segment.path, bytes).expect("written");
    batch.base_offset..batch.last_offset + 1
}

/// Deletes a log in the middle; returns the offsets that are lost.
fn lose(backup: &Backup, topic: &str) -> Range<i64> {
    let segment = &backup.chain(topic, 0).0[2];
    fs::remove_file(&segment.path).expect("it is there");
    segment.first..segment.next
}

/// Repairs what `harm` did, killed at the `n`th passing of each of `points` for each n, and runs again after it; returns how
/// many times it was killed.
fn crash_everywhere(points: &[&str], harm: fn(&Backup, &str) -> Range<i64>) -> usize {
    let accept = ["--execute", "--deep", "--accept-loss"];
    let mut crashes = 0;
    for point in points {
        for n in 1.. {
            let (backup, topic) = whole(Kafka::shared());
            let lost = harm(&backup, &topic);
            let kept: Vec<_> = (0..400).filter(|offset| !lost.contains(offset)).collect();
            let crashed = backup.command_with("repair", &accept, &[("KAFKA_BACKUP_CRASH_AT", &format!("{point}:{n}"))]);
            if crashed.signal.is_none() {
                assert_eq!(crashed.code, Some(0), "{}", crashed.stderr);
                break;
            }
            crashes += 1;
            let repaired = backup.command("repair", &accept);
            assert_eq!(repaired.code, Some(0), "{point}:{n}: {}{}", repaired.stdout, repaired.stderr);
            let _ = backup.command("verify", &["--deep"]).ok();
            let held: Vec<_> = backup.cat(&topic).iter().map(|record| record.offset).collect();
            assert_eq!(held, kept, "after a crash at {point}:{n}");
            let left = files(&backup.file(""));
            assert!(!left.iter().any(|path| path.to_string_lossy().contains("/repair/")), "{point}:{n}: {left:?}");
        }
    }
    crashes
}

const POINTS: [&str; 5] = ["repair-deleted", "repair-sidecar", "repair-log", "repair-copy", "repair-catalog"];

#[test]
fn a_crash_between_any_two_steps_of_a_replacement_is_finished_by_the_next_run() {
    let crashes = crash_everywhere(&POINTS, damage);
    assert!(crashes >= 10, "{crashes} crashes");
}

#[test]
fn a_crash_between_any_two_steps_of_a_declared_gap_is_finished_by_the_next_run() {
    let crashes = crash_everywhere(&POINTS, lose);
    assert!(crashes >= 4, "{crashes} crashes");
}

#[test]
fn a_bucket_is_repaired_like_a_folder() {
    let (kafka, s3) = (Kafka::shared(), S3::shared());
    let topic = kafka.topic("repair-s3", 1, &[]);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "16KiB").on(s3, "repair", "");
    let writer = Writer::new(kafka, &[("batch.num.messages", "10")]);
    let _ = writer.write(&topic, &Contents::new().records(1, 400, 300));
    let _ = backup.backup().ok();
    let lost = damage(&backup, &topic);
    let _ = strip(&backup, is_catalog);
    let printed = backup.command("repair", &["--execute", "--deep", "--accept-loss"]).ok();
    assert!(printed.contains("AbortIncompleteMultipartUpload"), "{printed}");
    let _ = backup.command("verify", &["--deep"]).ok();
    assert_eq!(backup.cat(&topic).len() as i64, 400 - (lost.end - lost.start));
}

#[test]
fn damage_is_left_as_it_is_until_its_loss_is_accepted() {
    let (backup, topic) = whole(Kafka::shared());
    let lost = damage(&backup, &topic);
    let before = files(&backup.file(""));
    let plan = backup.command("repair", &["--deep", "--execute"]);
    plan.fails_with(4, &["damaged"]);
    assert!(plan.stdout.contains("10 of") && plan.stdout.contains("--accept-loss"), "{}", plan.stdout);
    assert_eq!(files(&backup.file("")), before);
    let _ = backup.command("repair", &["--deep", "--execute", "--accept-loss"]).ok();
    assert_eq!(backup.cat(&topic).len(), 390);
    let described = backup.command("describe", &[]).ok();
    assert!(described.contains("accepted by repair"), "{described}");
    // A log that is gone altogether.
    let segment = backup.chain(&topic, 0).0.into_iter().find(|segment| segment.first > lost.end).expect("one behind");
    fs::remove_file(&segment.path).expect("it is there");
    backup.command("repair", &["--execute"]).fails_with(5, &["hole"]);
    let _ = backup.command("repair", &["--execute", "--accept-loss"]).ok();
    let _ = backup.command("verify", &["--deep"]).ok();
    assert_eq!(backup.cat(&topic).len() as i64, 390 - (segment.next - segment.first));
}

#[test]
fn a_backup_json_that_is_lost_is_made_anew() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("repair-backup-json", 1, &[]);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(1, 5, 100));
    let _ = backup.backup().ok();
    fs::remove_file(backup.file("backup.json")).expect("it is there");
    backup.backup().fails_with(2, &["has lost its backup.json"]);
    let _ = backup.command("repair", &["--execute"]).ok();
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(1, 5, 100));
    let _ = backup.backup().ok();
    assert_eq!(backup.cat(&topic).len(), 10);
}
