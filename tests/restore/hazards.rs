//! Every danger is told by `--dry-run` and by the run before anything is made or sent, and waved through by its name.

use std::fs;

use serde_json::Value;

use crate::golden;
use crate::restore::Restore;
use crate::support::agent::Backup;
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_committed};
use crate::support::workload::{Contents, Writer};

/// Asserts that a restore has that danger and no other, that it is told before anything is changed, and that the restore
/// runs when it is accepted by name; returns that one, run.
#[track_caller]
pub(super) fn assert_told<'a>(
    kafka: &Kafka,
    restore: impl Fn() -> Restore<'a>,
    danger: &str,
    words: &[&str],
) -> Restore<'a> {
    let plain = restore();
    let of_target =
        |target: &str| kafka.topics().contains(target).then(|| (kafka.ends(target), kafka.settings(target)));
    let look = || -> Vec<_> { plain.topics.iter().map(|(_, target)| of_target(target)).collect() };
    let before = look();
    let table = plain.run_with(&["--dry-run"]).ok();
    let hazard = table.lines().find(|line| line.starts_with("Hazard")).unwrap_or_else(|| panic!("{danger}: {table}"));
    assert!(hazard.starts_with(&format!("Hazard {danger}: ")), "{table}");
    assert!(words.iter().all(|word| hazard.contains(word)), "{words:?} in {hazard}");
    let printed: Value = serde_json::from_str(&plain.run_with(&["--dry-run", "-o", "json"]).ok()).expect("JSON");
    for hazard in printed["plan"]["hazards"].as_array().expect("hazards") {
        assert_eq!((&hazard["danger"], &hazard["accepted"]), (&danger.into(), &false.into()), "{printed}");
    }
    let ways_out = format!("accept = [\"{danger}\"]");
    plain.run().fails_with(2, &[&[danger, "nothing was changed", &ways_out], words].concat());
    assert_eq!(look(), before, "nothing was made or sent");
    assert!(plain.state_names().is_empty(), "nothing is kept of it: {:?}", plain.state_names());
    let accepted = restore().accept(&[danger]);
    let table = accepted.run_with(&["--dry-run"]).ok();
    assert!(table.contains(&format!("Hazard {danger} (accepted): ")), "{table}");
    accepted
}

/// Makes a topic of two partitions with records of those times, and a backup of it.
fn backed_up(kafka: &Kafka, theme: &str, configs: &[(&str, &str)], age_ms: i64) -> (String, Backup) {
    let topic = kafka.topic(theme, 2, configs);
    let mut records = Contents::new().records(2, 30, 200);
    let time = jiff::Timestamp::now().as_millisecond() - age_ms;
    records.iter_mut().for_each(|record| record.timestamp = time);
    // A topic that wants more replicas than there are takes what is not to be acknowledged by all.
    let _ = Writer::new(kafka, &[("acks", "1"), ("batch.num.messages", "5")]).write(&topic, &records);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "1KiB");
    let _ = backup.backup().ok();
    (topic, backup)
}

#[test]
fn a_target_that_is_not_empty_or_lacks_a_partition_is_told() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "danger-full", &[], 0);
    let restore = || Restore::named(kafka, &backup, &[&topic], "full");
    kafka.create(restore().target(), 2, &[]);
    let one = Contents::new().record(1, 0, 100);
    let _ = Writer::new(kafka, &[]).write(restore().target(), std::slice::from_ref(&one));
    let accepted = assert_told(kafka, restore, "target-not-empty", &[&format!("{topic}-full-1"), "offsets 0 to 0"]);
    let _ = accepted.run().ok();
    let brought = read_committed(kafka, accepted.target());
    assert_eq!(brought.len(), 61);
    assert_eq!(brought.iter().find(|record| record.partition == 1).map(|first| &first.value), Some(&one.value));

    let restore = || Restore::named(kafka, &backup, &[&topic], "narrow");
    kafka.create(restore().target(), 1, &[]);
    let words = [&*format!("{topic}-narrow-1"), "1 partition"];
    let accepted = assert_told(kafka, restore, "partition-missing", &words);
    let _ = accepted.run().ok();
    let mut wanted = read_committed(kafka, &topic);
    wanted.retain(|record| record.partition == 0);
    super::assert_same_cells("what has a place", &read_committed(kafka, accepted.target()), &wanted);
    assert_eq!(accepted.done().1.iter().count(), 1, "the map tells of what was restored");
}

#[test]
fn times_that_the_target_does_not_keep_or_take_are_told() {
    let kafka = Kafka::shared();
    let ten_minutes = 600_000;
    let (topic, backup) = backed_up(kafka, "danger-old", &[], ten_minutes);
    let restore = || Restore::named(kafka, &backup, &[&topic], "short");
    kafka.create(restore().target(), 2, &[("retention.ms", "300000")]);
    let accepted = assert_told(kafka, restore, "older-than-retention", &["retention.ms is 300000"]);
    let _ = accepted.run().ok();
    assert_eq!(accepted.done().0.records, 60);
    // Of what is asked for nothing is that old.
    let recent = jiff::Timestamp::now().as_millisecond() - 300_000;
    let restore = Restore::named(kafka, &backup, &[&topic], "recent").source(&format!("from = \"{recent}\""));
    kafka.create(restore.target(), 2, &[("retention.ms", "310000")]);
    assert!(!restore.run_with(&["--dry-run"]).ok().contains("Hazard"));

    let restore = || Restore::named(kafka, &backup, &[&topic], "before");
    kafka.create(restore().target(), 2, &[("message.timestamp.before.max.ms", "300000")]);
    let accepted = assert_told(kafka, restore, "timestamp-limits", &["message.timestamp.before.max.ms is 300000"]);
    accepted.run().fails_with(1, &["InvalidTimestamp", "widen `message.timestamp.before.max.ms`"]);
    let wide = i64::MAX.to_string();
    let after = [("message.timestamp.after.max.ms", wide.as_str())];
    let (topic, backup) = backed_up(kafka, "danger-late", &after, -2 * 3_600_000);
    let restore = || Restore::named(kafka, &backup, &[&topic], "after");
    kafka.create(restore().target(), 2, &[]);
    let accepted = assert_told(kafka, restore, "timestamp-limits", &["message.timestamp.after.max.ms is 3600000"]);
    accepted.run().fails_with(1, &["InvalidTimestamp", "widen"]);
    // A topic that is made takes any time.
    let made = Restore::named(kafka, &backup, &[&topic], "made");
    let _ = made.run().ok();
    made.assert_brought(kafka, |_| true);
}

#[test]
fn records_that_a_topic_would_delete_once_it_is_as_it_was_are_told() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "danger-expired", &[("retention.ms", "500000")], 600_000);
    let restore = || Restore::of(kafka, &backup, &[&topic]);
    let accepted = assert_told(kafka, restore, "older-than-retention", &["afterwards", "retention.ms is 500000"]);
    let _ = accepted.run().ok();
    assert_eq!(accepted.done().0.records, 60);
    assert_eq!(kafka.settings(accepted.target())["retention.ms"], "500000");
}

#[test]
fn a_target_that_stamps_or_compresses_anew_is_told() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "danger-anew", &[], 600_000);
    let restore = || Restore::named(kafka, &backup, &[&topic], "stamped");
    kafka.create(restore().target(), 2, &[("message.timestamp.type", "LogAppendTime")]);
    let accepted = assert_told(kafka, restore, "log-append-time", &["stamps records"]);
    let began = jiff::Timestamp::now().as_millisecond();
    let _ = accepted.run().ok();
    let brought = read_committed(kafka, accepted.target());
    assert!(brought.len() == 60 && brought.iter().all(|record| record.timestamp >= began - 1_000), "{brought:?}");

    let restore = || Restore::named(kafka, &backup, &[&topic], "gzip");
    kafka.create(restore().target(), 2, &[("compression.type", "gzip")]);
    let accepted = assert_told(kafka, restore, "recompressed", &["compression.type is gzip"]);
    let _ = accepted.run().ok();
    accepted.assert_brought(kafka, |_| true);
}

#[test]
fn more_replicas_wanted_than_there_are_is_told() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "danger-replicas", &[("min.insync.replicas", "2")], 0);
    let restore = || Restore::named(kafka, &backup, &[&topic], "there");
    kafka.create(restore().target(), 2, &[("min.insync.replicas", "2")]);
    let _ = assert_told(kafka, restore, "min-insync-replicas", &["is 2", "1 replica"]);
    let restore = || Restore::named(kafka, &backup, &[&topic], "made");
    let accepted = assert_told(kafka, restore, "min-insync-replicas", &["is 2", "1 replica"]);
    let _ = accepted.run().ok();
    accepted.assert_brought(kafka, |_| true);
    assert_eq!(kafka.settings(accepted.target())["min.insync.replicas"], "2");
}

#[test]
fn a_break_in_the_chain_is_told_and_what_is_there_can_be_had() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "danger-break", &[], 0);
    let segments = backup.chain(&topic, 0).0;
    assert!(segments.len() >= 4);
    let (lost, last) = (&segments[2], &segments[segments.len() - 1]);
    let gone = [lost, last].map(|segment| segment.first..segment.next);
    for segment in [lost, last] {
        fs::remove_file(&segment.path).expect("it is there");
    }
    let restore = || Restore::of(kafka, &backup, &[&topic]);
    let accepted = assert_told(kafka, restore, "chain-break", &[&topic]);
    let _ = accepted.run().ok();
    accepted.assert_brought(kafka, |record| {
        record.partition != 0 || !gone.iter().any(|gone| gone.contains(&record.offset))
    });
}

#[test]
fn transactions_of_which_nobody_knows_are_told() {
    let kafka = Kafka::shared();
    let backup = Backup::of(kafka, &["orders"]);
    fs::create_dir_all(backup.archive()).expect("the test's folder is writable");
    let from = format!("{}/rebuilt", golden::FOLDER);
    let copied = std::process::Command::new("cp").args(["-r", &from, backup.archive()]).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let target = format!("undecided-{:08x}", fastrand::u32(..));
    let restore = || {
        let restore =
            Restore::named(kafka, &backup, &["orders"], "undecided").backup_id("rebuilt").to("orders", &target);
        // The sample is as old as it is.
        restore
    };
    let accepted = assert_told(kafka, restore, "undecided-transactions", &["left out"]);
    let _ = accepted.run().ok();
    assert!(accepted.done().0.records > 0);
}

#[test]
fn a_savepoint_that_the_archive_has_not_passed_is_told() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("danger-savepoint", 1, &[]);
    let (open, plain) = (Writer::transactional(kafka, "open"), Writer::new(kafka, &[]));
    let _ = plain.write(&topic, &contents.records(1, 10, 100));
    open.begin();
    let _ = open.write(&topic, &contents.records(1, 5, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let savepoint = crate::savepoints::savepoints(&backup).pop().expect("there is one");
    let restore = || Restore::of(kafka, &backup, &[&topic]).source(&format!("savepoint = {:?}", savepoint.name));
    let words = [&*format!("{topic}-0"), "offset 10", "at 15"];
    let accepted = assert_told(kafka, restore, "savepoint-incomplete", &words);
    let _ = accepted.run().ok();
    accepted.assert_brought(kafka, |record: &Record| record.offset < 10);
}

#[test]
fn a_hazard_that_there_is_not_is_refused() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "danger-none", &[], 0);
    let restore = Restore::of(kafka, &backup, &[&topic]).accept(&["target-not-emtpy"]);
    restore.run().fails_with(2, &["sink.accept", "`target-not-emtpy`", "target-not-empty"]);
    assert!(!kafka.topics().contains(restore.target()));
}
