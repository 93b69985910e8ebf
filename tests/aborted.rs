//! Aborted transactions are known as aborted even when the archive ends before their markers and the source is lost.
//!
//! The broker tells of an abort in the Fetch response, while the marker lies behind the last stable offset that
//! another, open transaction holds back. The archive must keep what it was told.

use crate::support::agent::{Agent, Backup};
use crate::support::chain::assert_same;
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_committed};
use crate::support::workload::{Contents, Load, Writer};

/// Asserts that `cat` and the counts show exactly `records` (by their values), all in partition 0.
#[track_caller]
fn assert_holds(backup: &Backup, topic: &str, records: &[Record]) {
    let (held, wanted): (Vec<_>, Vec<_>) = (
        backup.cat(topic).into_iter().map(|record| record.value).collect(),
        records.iter().map(|record| record.value.clone()).collect(),
    );
    assert!(held == wanted, "{} records held, {} wanted", held.len(), wanted.len());
    assert_eq!(backup.counts(topic), [(0, wanted.len())], "record counts of `show-offset-mapping`");
    let _ = backup.command("verify", &["--deep"]).ok();
}

/// Writes a transaction of `a` that is aborted while one of `b`, begun in the middle, stays open.
fn abort_behind_open(a: &Writer, b: &Writer, topic: &str, contents: &mut Contents, count: usize) {
    a.begin();
    let _ = a.write(topic, &contents.records(1, count, 300));
    b.begin();
    let _ = b.write(topic, &contents.records(1, 5, 300));
    let _ = a.write(topic, &contents.records(1, 5, 300));
    a.abort();
}

#[test]
fn a_transaction_aborted_behind_an_open_one_is_known_as_aborted_when_the_source_is_lost() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("aborted", 1, &[]);
    let (a, b) = (Writer::transactional(kafka, "a"), Writer::transactional(kafka, "b"));
    let before = contents.records(1, 7, 300);
    let _ = Writer::new(kafka, &[]).write(&topic, &before);
    abort_behind_open(&a, &b, &topic, &mut contents, 20);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    kafka.delete(&topic);
    assert_eq!(backup.chain(&topic, 0).next(), 27, "A's first records are in the archive, its marker is not");
    assert_holds(&backup, &topic, &before);
}

#[test]
fn an_aborted_transaction_that_spans_segments_is_known_as_aborted_in_each() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("aborted-spans", 1, &[]);
    let (a, b) = (Writer::transactional(kafka, "a"), Writer::transactional(kafka, "b"));
    let before = contents.records(1, 7, 300);
    let _ = Writer::new(kafka, &[("batch.num.messages", "1")]).write(&topic, &before);
    abort_behind_open(&a, &b, &topic, &mut contents, 3000);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "64KiB");
    let _ = backup.backup().ok();
    let segments = backup.chain(&topic, 0).0.len();
    assert!(segments >= 3, "A's records are in {segments} segments");
    assert_holds(&backup, &topic, &before);
}

#[test]
fn an_earlier_commit_of_the_same_producer_does_not_clear_its_abort() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("aborted-again", 1, &[]);
    let (a, b) = (Writer::transactional(kafka, "a"), Writer::transactional(kafka, "b"));
    let committed = contents.records(1, 10, 300);
    let _ = a.abort_records(&topic, &contents.records(1, 10, 300));
    let _ = a.commit_records(&topic, &committed);
    abort_behind_open(&a, &b, &topic, &mut contents, 20);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    assert_holds(&backup, &topic, &committed);
}

#[test]
fn a_later_commit_of_the_same_producer_is_not_taken_for_aborted() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("aborted-later", 1, &[]);
    let (a, b) = (Writer::transactional(kafka, "a"), Writer::transactional(kafka, "b"));
    abort_behind_open(&a, &b, &topic, &mut contents, 20);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    assert_holds(&backup, &topic, &[]);
    // The marker of A comes in a segment that was begun by another process, which took the open abort from the archive.
    let committed = contents.records(1, 10, 300);
    let _ = a.commit_records(&topic, &committed);
    b.commit();
    let _ = backup.backup().ok();
    assert_eq!(backup.cat(&topic), read_committed(kafka, &topic));
    assert_eq!(backup.counts(&topic), [(0, 15)], "A's ten and B's five");
}

#[test]
fn an_abort_held_across_passes_stays_known_when_the_archive_ends_before_its_marker() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("aborted-twice", 1, &[]);
    let [a, b, c] = ["a", "b", "c"].map(|name| Writer::transactional(kafka, name));
    a.begin();
    let _ = a.write(&topic, &contents.records(1, 5, 300));
    b.begin();
    let of_b = contents.records(1, 5, 300);
    let _ = b.write(&topic, &of_b);
    let _ = a.write(&topic, &contents.records(1, 5, 300));
    c.begin();
    let _ = c.write(&topic, &contents.records(1, 5, 300));
    let _ = a.write(&topic, &contents.records(1, 5, 300));
    a.abort();
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    assert_eq!(backup.chain(&topic, 0).next(), 5, "up to B");
    b.commit();
    let _ = backup.backup().ok();
    assert_eq!(backup.chain(&topic, 0).next(), 15, "up to C; A's marker is beyond it");
    kafka.delete(&topic);
    assert_holds(&backup, &topic, &of_b);
}

/// Asserts that the archive is the broker's log and that `cat` shows what a consumer sees.
#[track_caller]
fn assert_tells_apart(kafka: &Kafka, backup: &Backup, topic: &str) {
    for partition in 0..kafka.partitions(topic) {
        let archived = backup.chain(topic, partition).bytes();
        assert_same(&format!("{topic}-{partition}"), &archived, &kafka.log_bytes(topic, partition));
    }
    let (ours, theirs) = (backup.cat(topic), read_committed(kafka, topic));
    let differs = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
    assert!(
        differs.is_none() && ours.len() == theirs.len(),
        "`cat` {}, consumer {}: {differs:?}",
        ours.len(),
        theirs.len()
    );
    let counted: usize = backup.counts(topic).iter().map(|(_, count)| count).sum();
    assert_eq!(counted, theirs.len(), "record counts of `show-offset-mapping`");
    let _ = backup.command("verify", &["--deep"]).ok();
}

#[test]
fn aborts_are_told_apart_after_agents_were_killed_between_them() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("aborted-kills", 2, &[]);
    let load = Load::transactions(kafka, &topic);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "2KiB").sink("roll_interval", "200ms");
    for _ in 0..6 {
        let before = backup.chain(&topic, 0).next();
        let mut agent = backup.run();
        agent.wait_until("the agent goes on", |_| (backup.chain(&topic, 0).next() > before + 20).then_some(()));
        agent.kill();
    }
    load.end();
    let _ = backup.backup().ok();
    assert_tells_apart(kafka, &backup, &topic);
}

#[test]
fn aborts_are_told_apart_when_two_agents_took_turns() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("aborted-duel", 2, &[]);
    let load = Load::transactions(kafka, &topic);
    let first = Backup::of(kafka, &[&topic]).sink("roll_bytes", "2KiB").sink("roll_interval", "300ms");
    let second = Backup::of(kafka, &[&topic]).sink("roll_bytes", "3KiB").sink("roll_interval", "400ms");
    let second = second.path(first.archive());
    let mut agents = [first.run(), second.run()];
    let lost = |agent: &Agent| agent.log().contains("another writer").then_some(());
    agents.iter_mut().for_each(|agent| agent.wait_until("each has lost a race", lost));
    load.end();
    agents.into_iter().for_each(Agent::terminate);
    let _ = first.backup().ok();
    assert_tells_apart(kafka, &first, &topic);
}
