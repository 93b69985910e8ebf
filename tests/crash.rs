//! Nothing that is killed, at whatever moment, leaves an archive that is not a whole beginning of the topic.
//!
//! Once at each step of a commit (`KAFKA_BACKUP_CRASH_AT`, see `agent/crash.rs`), and `KILLS` times (15) at random
//! moments under load. And what is asked to stop stops with everything it held in the archive.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use crate::support::agent::Backup;
use crate::support::chain::{assert_prefix, assert_same, up_to};
use crate::support::kafka::Kafka;
use crate::support::wait_for;
use crate::support::workload::{Contents, Load, Writer};

/// The steps of a commit in their order, each named by the durable effect behind which it lies.
const STEPS: [&str; 6] = ["log-synced", "sidecar-linked", "sidecar-created", "log-linked", "log-created", "reported"];

/// Steps of which another durable effect follows before the commit is whole.
const BETWEEN: [&str; 4] = ["log-synced", "sidecar-linked", "sidecar-created", "log-linked"];

/// Asserts that the archive of each partition is the beginning of the broker's log, and that `verify` finds it sound.
#[track_caller]
fn assert_sound(kafka: &Kafka, backup: &Backup, topic: &str, when: &str) {
    for partition in 0..kafka.partitions(topic) {
        let archived = backup.chain(topic, partition).bytes();
        assert_prefix(&format!("{topic}-{partition} {when}"), &archived, &kafka.log_bytes(topic, partition));
    }
    let verified = backup.command("verify", &["--deep"]);
    assert_eq!(verified.code, Some(0), "`verify` {when}: {verified:#?}");
}

/// Asserts that the archive of each partition is the broker's log.
#[track_caller]
fn assert_whole(kafka: &Kafka, backup: &Backup, topic: &str, when: &str) {
    for partition in 0..kafka.partitions(topic) {
        let archived = backup.chain(topic, partition).bytes();
        assert_same(&format!("{topic}-{partition} {when}"), &archived, &kafka.log_bytes(topic, partition));
    }
    let _ = backup.command("verify", &["--deep"]).ok();
}

/// Says why a test cannot work where the program has no crash points.
pub(crate) fn need_crash_points() {
    if cfg!(not(debug_assertions)) {
        panic!("crash points are in debug builds only: run `cargo test` without --release");
    }
}

/// Kills a pass at the `n`th passing of `point`, looks at what it left, and makes another pass.
fn crash_at(kafka: &Kafka, topic: &str, point: &str, n: u32) {
    let _ = crash_rolling_at(kafka, topic, "16KiB", point, n);
}

/// As [`crash_at`], with segments of `roll_bytes`; returns the backup.
fn crash_rolling_at(kafka: &Kafka, topic: &str, roll_bytes: &str, point: &str, n: u32) -> Backup {
    let when = format!("killed at {point}:{n}");
    let backup = Backup::of(kafka, &[topic]).sink("roll_bytes", roll_bytes);
    let died = backup.backup_with(&[("KAFKA_BACKUP_CRASH_AT", &format!("{point}:{n}"))]);
    assert_eq!(died.signal, Some(9), "{when}: {died:#?}");
    assert_sound(kafka, &backup, topic, &when);
    let _ = backup.backup().ok();
    assert_whole(kafka, &backup, topic, &when);
    backup
}

#[test]
fn a_crash_at_any_step_of_a_commit_leaves_a_sound_archive_that_goes_on() {
    need_crash_points();
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("crash", 1, &[]);
    let writer = Writer::transactional(kafka, "crash");
    let mut contents = Contents::new();
    for round in 0..10 {
        let records = contents.records(1, 30, 500);
        let _ = if round % 3 == 1 {
            writer.abort_records(&topic, &records)
        } else {
            writer.commit_records(&topic, &records)
        };
    }
    for step in STEPS {
        (1..=3).for_each(|n| crash_at(kafka, &topic, step, n));
    }
}

#[test]
fn a_crash_between_catalogs_leaves_a_sound_archive_and_the_next_pass_makes_the_rest() {
    need_crash_points();
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("crash-catalogs", 1, &[]);
    let (writer, mut contents) = (Writer::new(kafka, &[]), Contents::new());
    for _ in 0..40 {
        let _ = writer.write(&topic, &contents.records(1, 3, 500));
    }
    // The sixth of level 1 and the first of level 2 are made after one commit, the 36th.
    for (point, n) in [("catalog-linked", 1), ("catalog-created", 6), ("catalog-linked", 7), ("catalog-created", 7)] {
        let backup = crash_rolling_at(kafka, &topic, "1KiB", point, n);
        let segments = backup.chain(&topic, 0).0.len();
        assert!(segments >= 36, "{segments} segments");
        let catalogs = |level: u8| count_below(backup.folder(), &format!("catalog/{level}"));
        assert_eq!((catalogs(1), catalogs(2)), (segments / 6, segments / 36), "killed at {point}:{n}");
    }
}

/// Counts the files in the folders below `folder` whose path ends with `name`.
fn count_below(folder: &Path, name: &str) -> usize {
    let entries = fs::read_dir(folder).expect("a readable folder").map(|entry| entry.expect("an entry").path());
    let count = |path: &Path| match path.ends_with(name) {
        true => fs::read_dir(path).expect("a readable folder").count(),
        false => count_below(path, name),
    };
    entries.filter(|path| path.is_dir()).map(|path| count(&path)).sum()
}

#[test]
fn a_crash_before_the_first_commit_leaves_a_sound_archive_that_goes_on() {
    need_crash_points();
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("crash-early", 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, 100, 500));
    for point in ["backup-created", "topic-created", "begin-created"] {
        crash_at(kafka, &topic, point, 1);
    }
}

#[test]
fn an_agent_killed_before_its_first_segment_begins_at_the_same_offset_again() {
    need_crash_points();
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("crash-begin", 1, &[]);
    let (writer, mut contents) = (Writer::new(kafka, &[]), Contents::new());
    let _ = writer.write(&topic, &contents.records(1, 100, 100));
    let backup = Backup::of(kafka, &[&topic]).source("start", "latest");
    let mut agent = backup.run_with(&[("KAFKA_BACKUP_CRASH_AT", "begin-created")]);
    assert_eq!(agent.wait().signal(), Some(9), "{}", agent.log());
    assert_eq!(backup.command("verify", &["--deep"]).code, Some(0), "a begin alone is sound");
    // The end moves on while no agent runs.
    let _ = writer.write(&topic, &contents.records(1, 50, 100));
    let mut agent = backup.run();
    agent.wait_until("what came meanwhile is archived", |_| (backup.chain(&topic, 0).next() == 150).then_some(()));
    agent.terminate();
    assert_eq!(backup.chain(&topic, 0).0[0].first, 100);
    let log = kafka.log_bytes(&topic, 0);
    let before = up_to(&log, 100).len();
    assert_same("what came after the begin", &backup.chain(&topic, 0).bytes(), &log[before..]);
    let _ = backup.command("verify", &["--deep"]).ok();
}

/// Returns the last step that each partition had passed, from a trace of crash points. A line is `step subject`; the
/// subject is a partition, or the place of an object in its folder.
fn last_steps(trace: &Path) -> BTreeMap<String, String> {
    let trace = fs::read_to_string(trace).unwrap_or_default();
    let passed = trace.lines().filter_map(|line| line.split_once(' '));
    let passed = passed.filter(|(step, _)| STEPS.contains(step));
    passed.map(|(step, subject)| (partition_of(subject), step.to_owned())).collect()
}

/// Returns `topic-partition` of `topic-partition` or of `…/topics/topic/topic-id/partition/object`.
fn partition_of(subject: &str) -> String {
    match subject.rsplit('/').collect::<Vec<_>>()[..] {
        [_, partition, _, topic, ..] => format!("{topic}-{partition}"),
        _ => subject.to_owned(),
    }
}

#[test]
fn kill_at_random_moments_under_load_loses_nothing() {
    need_crash_points();
    let kills: u32 = std::env::var("KILLS").map_or(15, |kills| kills.parse().expect("KILLS is a number"));
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("kill", 3, &[]);
    // Each batch fills a segment, and they come faster than they can be committed.
    let load = Load::start(kafka, &topic, 2, Duration::from_millis(4));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "1KiB").sink("roll_interval", "100ms");
    let mut between = 0;
    for kill in 1..=kills {
        let trace = backup.folder().join(format!("trace-{kill}"));
        let mut agent = backup.run_with(&[("KAFKA_BACKUP_CRASH_TRACE", trace.to_str().expect("UTF-8"))]);
        agent.wait_until("the agent has committed", |_| {
            last_steps(&trace).values().any(|s| s == "reported").then_some(())
        });
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..200_000)));
        agent.kill();
        let passed = last_steps(&trace);
        let within: Vec<_> = passed.iter().filter(|(_, step)| BETWEEN.contains(&step.as_str())).collect();
        between += u32::from(!within.is_empty());
        report(&format!("kill {kill:3}: {}", describe(&within)));
        assert_sound(kafka, &backup, &topic, &format!("after kill {kill}"));
    }
    load.end();
    let backup = backup.sink("roll_bytes", "1MiB");
    let _ = backup.backup().ok();
    assert_whole(kafka, &backup, &topic, "after all kills");
    report(&format!("{between} of {kills} kills fell between two durable effects of a commit"));
    assert!(between * 4 >= kills, "{between} of {kills} kills fell between two durable effects");
}

/// Says where commits were when the process died.
fn describe(within: &[(&String, &String)]) -> String {
    if within.is_empty() {
        return "outside of commits".to_owned();
    }
    let place = |(partition, step): &(&String, &String)| {
        let at = STEPS.iter().position(|known| known == step).expect("a known step");
        format!("{partition} between {step} and {}", STEPS[at + 1])
    };
    within.iter().map(place).collect::<Vec<_>>().join(", ")
}

/// Prints a line past the capture of the test runner: what the kills hit is a result also when the test passes.
pub(crate) fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn a_terminated_agent_leaves_everything_it_held_in_the_archive() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("terminate", 3, &[]);
    let _ = Writer::new(kafka, &[("linger.ms", "5")]).write(&topic, &Contents::new().records(3, 500, 500));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "1GiB").sink("roll_interval", "1h");
    let mut agent = backup.run();
    agent.wait_until("the agent has read everything", |agent| {
        (agent.metric("kafka_backup_last_stable_offset") >= 1500.0).then_some(())
    });
    assert_eq!(backup.chain(&topic, 0).0.len(), 0, "nothing is committed before it is told to stop");
    agent.terminate();
    assert_whole(kafka, &backup, &topic, "after SIGTERM");
}

#[test]
fn an_agent_terminated_under_load_ends_well_and_holds_all_it_had_seen() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("terminate-load", 2, &[]);
    let load = Load::start(kafka, &topic, 10, Duration::from_millis(20));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "1GiB").sink("roll_interval", "1h");
    for round in 1..=3 {
        let before = backup.chain(&topic, 0).next();
        let mut agent = backup.run();
        let seen = agent.wait_until("the agent has read something", |agent| {
            let seen = agent.metric("kafka_backup_last_stable_offset") as i64;
            (seen > 2 * before + 200).then_some(seen)
        });
        agent.terminate();
        let held: i64 = (0..2).map(|partition| backup.chain(&topic, partition).next()).sum();
        assert!(held >= seen, "round {round}: {held} offsets archived, {seen} seen before SIGTERM");
        assert_sound(kafka, &backup, &topic, &format!("after SIGTERM {round}"));
    }
    load.end();
    let _ = backup.backup().ok();
    assert_whole(kafka, &backup, &topic, "after all");
}

#[test]
fn an_interrupted_pass_says_so_and_the_next_one_completes_it() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("interrupt", 1, &[]);
    let _ = Writer::new(kafka, &[("linger.ms", "5")]).write(&topic, &Contents::new().records(1, 3000, 500));
    let backup = Backup::of(kafka, &[&topic]).pipeline("max_bytes_per_second", "200KiB").sink("roll_bytes", "64KiB");
    let backup = backup.kafka("max.partition.fetch.bytes", "65536").kafka("fetch.max.bytes", "65536");
    let mut pass = backup.start("backup", &[]);
    wait_for("a first segment", || (!backup.chain(&topic, 0).0.is_empty()).then_some(()));
    pass.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(pass.wait().code(), Some(130), "{}", pass.log());
    assert_sound(kafka, &backup, &topic, "after SIGINT");
    let backup = backup.pipeline("max_bytes_per_second", "1GiB");
    let _ = backup.backup().ok();
    assert_whole(kafka, &backup, &topic, "after the second pass");
}
