//! What others do to a target between two starts of a restore, or while it runs: it is right in the end, or refused with
//! the reason, and nobody else's record is mixed in without a word.
//!
//! `FOREIGN=n` sets how often somebody else writes (5).

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_backup::kafka::{Client, Properties};
use nix::sys::signal::Signal;

use super::{COUNT, Case, Change, Moment, PARTITIONS, Way, number, random};
use crate::crash::{need_crash_points, report};
use crate::fidelity::COMPACTED;
use crate::restore::Restore;
use crate::support::agent::Ended;
use crate::support::chain::headers;
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_all};
use crate::support::workload::{Contents, Writer};
use crate::support::{block_on, wait_for};

/// Asserts that a restore has ended in an error that says all of `words`.
#[track_caller]
fn assert_refused(ended: &Ended, words: &[&str]) {
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    ended.fails_with(ended.code.unwrap_or_default(), words);
}

/// Somebody who writes to a target.
struct Stranger {
    writer: Writer,
    is_transactional: bool,
    partition: i32,
}

impl Stranger {
    fn new(kafka: &Kafka, random: &mut fastrand::Rng) -> Self {
        let kind = random.u8(..3);
        let writer = match kind {
            0 => Writer::new(kafka, &[]),
            1 => Writer::new(kafka, &[("enable.idempotence", "true")]),
            _ => Writer::transactional(kafka, "stranger"),
        };
        Self { writer, is_transactional: kind == 2, partition: random.i32(0..PARTITIONS) }
    }

    /// Writes a record, and returns its offset.
    fn write(&self, target: &str) -> i64 {
        let record = [Contents::new().record(self.partition, 0, 100)];
        let write = if self.is_transactional { Writer::commit_records } else { Writer::write };
        write(&self.writer, target, &record)[0].1
    }
}

/// When somebody else writes.
#[derive(Debug, Clone, Copy)]
enum When {
    /// Before anything is sent.
    Before,
    /// While it is sent.
    Running,
    /// Between a kill and the next start.
    Killed,
    /// While the second process sends.
    RunningAgain,
    /// While almost all has landed.
    AlmostDone,
}

impl When {
    const ALL: [Self; 5] = [Self::Before, Self::Running, Self::Killed, Self::RunningAgain, Self::AlmostDone];
}

/// Writes to a target at that moment; returns the offset, and whether the restore ended nevertheless.
fn write(case: &Case, kafka: &Kafka, slow: &Restore<'_>, when: When, stranger: &Stranger) -> (i64, bool) {
    let beside = |records: i64, is_stopped: bool| {
        let mut running = slow.start(&[]);
        let _ = case.wait_for_some(kafka, slow, records);
        if is_stopped {
            running.signal(Signal::SIGSTOP);
        }
        let offset = stranger.write(slow.target());
        running.signal(Signal::SIGCONT);
        let status = running.wait();
        if !status.success() {
            let (log, named) = (running.log(), named(slow, stranger, offset));
            let line = log.trim_end().lines().last().unwrap_or_default();
            assert!(named.iter().all(|word| line.contains(word)), "{named:?} not in the last line of:\n{log}");
        }
        (offset, status.success())
    };
    match when {
        When::Before => {
            assert!(Moment::At("restore-attempt").kill(slow));
            (stranger.write(slow.target()), false)
        }
        When::Killed => {
            let _ = case.kill_midway(kafka, slow);
            (stranger.write(slow.target()), false)
        }
        When::Running => beside(COUNT / 5, false),
        When::RunningAgain => {
            let there = case.kill_midway(kafka, slow);
            beside(there.iter().min().copied().unwrap_or(0) + 20, false)
        }
        When::AlmostDone => beside(COUNT - 20, true),
    }
}

/// What is said of a stranger's record.
fn named(restore: &Restore<'_>, stranger: &Stranger, offset: i64) -> [String; 2] {
    [format!("{}-{}", restore.target(), stranger.partition), format!("offset {offset}")]
}

/// Has somebody else write to what is restored, and asserts that this is told.
fn meddle(case: &Case, kafka: &Kafka, round: u32, random: &mut fastrand::Rng) {
    let when = When::ALL[round as usize % When::ALL.len()];
    let (name, stranger) = (format!("foreign-{round}"), Stranger::new(kafka, random));
    let slow = case.slow(kafka, &name);
    let (offset, is_done) = write(case, kafka, &slow, when, &stranger);
    report(&format!("a foreign record {when:?}, at offset {offset}: the restore is done: {is_done}"));
    if is_done {
        // It lies behind all that was restored, as what is written after the restore.
        let map = slow.done().1;
        let of = map.iter().find(|(pair, _)| pair.target.index == stranger.partition);
        assert!(of.is_some_and(|(_, track)| track.last_run().expect("a run").target_next() <= offset));
        return;
    }
    let held = || read_all(kafka, &[slow.target()], "read_uncommitted");
    let (before, named) = (held(), named(&slow, &stranger, offset));
    for _ in 0..2 {
        assert_refused(&case.fast(kafka, &name).run(), &named.each_ref().map(String::as_str));
    }
    assert!(held() == before, "{when:?}: nothing more is sent");
}

#[test]
fn a_record_of_somebody_else_is_told_by_its_offset_and_nothing_is_sent_behind_it() {
    need_crash_points();
    let kafka = Kafka::shared();
    let case = Case::new(kafka, "resume-foreign", Way::Verbatim);
    let mut random = random("foreign");
    (0..number("FOREIGN", 5)).for_each(|round| meddle(&case, kafka, round, &mut random));
}

/// Gives a topic a setting.
pub(super) fn set(kafka: &Kafka, topic: &str, setting: &str, value: &str) {
    let map = BTreeMap::from([("bootstrap.servers".to_owned(), kafka.brokers().to_owned())]);
    block_on(async {
        let properties = Properties::new(map).expect("good properties");
        let client = Client::open(properties, Duration::from_secs(30)).await.expect("it answers");
        let change = (setting.to_owned(), Some(value.to_owned()));
        client.alter_configs(topic, &[change]).await.expect("changed");
    });
}

#[test]
fn what_the_target_has_deleted_is_not_sent_again_and_where_nobody_can_tell_that_is_said() {
    let kafka = Kafka::shared();
    let case = Case::new(kafka, "resume-deleted", Way::Merged);
    let (all, half) = (case.endless(kafka, "all"), case.endless(kafka, "half"));
    std::thread::scope(|scope| {
        let _ = scope.spawn(|| {
            let ends = case.kill_midway(kafka, &all);
            ends.iter().zip(0..).for_each(|(end, index)| kafka.delete_records(all.target(), index, *end));
            for _ in 0..2 {
                assert_refused(&case.fast(kafka, "all").run(), &[all.target(), "missing"]);
            }
            let read = read_all(kafka, &[all.target()], "read_uncommitted");
            assert_eq!(read[all.target()], [], "nothing more is sent");
        });
        let ends = case.kill_midway(kafka, &half);
        ends.iter().zip(0..).for_each(|(end, index)| kafka.delete_records(half.target(), index, end / 2));
        let _ = case.fast(kafka, "half").run().ok();
        let loses = |record: &Record, at: i64| at < ends[record.partition as usize] / 2;
        case.assert_right_but(kafka, &half, &Change { loses: &loses, stamps: false });
    });
}

#[test]
fn a_target_that_was_told_to_compress_or_stamp_anew_meanwhile_is_restored_or_refused_with_the_reason() {
    let kafka = Kafka::shared();
    let case = Case::new(kafka, "resume-settings", Way::Verbatim);
    let settings = [("compression.type", "gzip"), ("message.timestamp.type", "LogAppendTime")];
    let change = |setting: (&str, &str), is_made: bool| {
        let name = format!("{}-{is_made}", setting.1.to_lowercase());
        let slow = case.endless(kafka, &name);
        if !is_made {
            kafka.create(slow.target(), PARTITIONS, &[]);
        }
        let _ = case.kill_midway(kafka, &slow);
        set(kafka, slow.target(), setting.0, setting.1);
        let ended = case.fast(kafka, &name).run();
        report(&format!("{}, of a topic that the restore made: {is_made}: {:?}", setting.0, ended.code));
        if ended.code == Some(0) {
            let stamps = setting.1 == "LogAppendTime";
            case.assert_right_but(kafka, &slow, &Change { loses: &|_, _| false, stamps });
        } else {
            assert_refused(&ended, &[slow.target(), setting.0]);
        }
    };
    std::thread::scope(|scope| {
        for setting in settings {
            [true, false].into_iter().for_each(|is_made| drop(scope.spawn(move || change(setting, is_made))));
        }
    });
}

#[test]
fn what_the_target_has_compacted_away_is_not_sent_again() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("resume-compacted", 1, &[]);
    let (writer, mut contents) = (Writer::new(kafka, &[("batch.num.messages", "10")]), Contents::new());
    // The keys return each round, and each has a segment of its own in a target of such settings: later than the marker that
    // begins it.
    let began = jiff::Timestamp::now().as_millisecond();
    for round in 0..COUNT / 60 {
        let mut records = contents.records(1, 60, 200);
        records.iter_mut().for_each(|record| record.timestamp = began + round * 70_000);
        let _ = writer.write(&topic, &records);
    }
    let case = Case::of(kafka, topic, Way::Verbatim, COUNT);
    let slow = case.endless(kafka, "slow");
    kafka.create(slow.target(), 1, &COMPACTED);
    let landed = case.kill_midway(kafka, &slow)[0];
    let count = || -> i64 { headers(&kafka.log_bytes(slow.target(), 0)).iter().map(|it| i64::from(it.count)).sum() };
    wait_for("the cleaner has been there", || (count() <= landed - 50).then_some(()));
    let _ = case.fast(kafka, "slow").run().ok();
    let last: BTreeMap<_, _> = case.wanted.iter().map(|record| (record.key.clone(), record.offset)).collect();
    let loses = |record: &Record, _: i64| record.offset < last[&record.key];
    case.assert_right_but(kafka, &slow, &Change { loses: &loses, stamps: false });
}
