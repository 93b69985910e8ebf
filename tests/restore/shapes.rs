//! Records and batches of unusual size and number.

use crate::restore::Restore;
use crate::support::agent::Backup;
use crate::support::chain::{Header, headers};
use crate::support::kafka::Kafka;
use crate::support::reader::Record;
use crate::support::workload::{Contents, Writer};

/// Returns the data batches in the broker's log of a partition.
fn batches(kafka: &Kafka, topic: &str, partition: i32) -> Vec<Header> {
    let mut batches = headers(&kafka.log_bytes(topic, partition));
    batches.retain(|batch| !batch.control());
    batches
}

fn noise(contents: &mut Contents, count: usize, bytes: usize) -> Vec<Record> {
    let record = |_| Record { timestamp: -1, value: Some(contents.noise(bytes)), ..Record::default() };
    (0..count).map(record).collect()
}

#[test]
fn random_bytes_and_records_of_ten_megabytes_come_back() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let most = [("max.message.bytes", "11000000")];
    let (random, huge) = (kafka.topic("shape-random", 1, &[]), kafka.topic("shape-huge", 2, &most));
    let _ = Writer::new(kafka, &[("compression.type", "zstd")]).write(&random, &noise(&mut contents, 1_000, 2_048));
    let writer = Writer::new(kafka, &[("message.max.bytes", "11000000")]);
    let mut records = noise(&mut contents, 4, 10_000_000);
    records.iter_mut().zip(0..).for_each(|(record, number)| record.partition = number % 2);
    let _ = writer.write(&huge, &records);
    let backup = Backup::of(kafka, &[&random, &huge]);
    let _ = backup.backup().ok();
    // Less than one of them: it passes alone.
    let restore = Restore::of(kafka, &backup, &[&random, &huge]);
    let _ = restore.run_within(8).ok();
    restore.assert_brought(kafka, |_| true);
    restore.assert_agrees();
}

#[test]
fn batches_of_one_record_are_merged_and_two_hundred_partitions_come_back_at_once() {
    let (kafka, mut contents) = (Kafka::shared_with_disk(), Contents::new());
    let (single, wide) = (kafka.topic("shape-single", 1, &[]), kafka.topic("shape-wide", 200, &[]));
    let _ = Writer::new(kafka, &[("batch.num.messages", "1")]).write(&single, &contents.records(1, 2_000, 100));
    let _ = Writer::new(kafka, &[("linger.ms", "20")]).write(&wide, &contents.records(200, 20, 100));
    assert_eq!(batches(kafka, &single, 0).len(), 2_000, "each record is a batch");
    let backup = Backup::of(kafka, &[&single, &wide]).sink("roll_bytes", "64KiB");
    let _ = backup.backup().ok();
    let merged = Restore::named(kafka, &backup, &[&single, &wide], "merged");
    let kept = Restore::named(kafka, &backup, &[&single], "kept").sink("merge_below = \"0\"");
    for restore in [merged, kept] {
        let _ = restore.run_within(16).ok();
        restore.assert_brought(kafka, |_| true);
        restore.assert_agrees();
    }
    let count = |name: &str| batches(kafka, &format!("{single}-{name}"), 0).len();
    assert!(count("merged") <= 5, "{} batches", count("merged"));
    assert_eq!(count("kept"), 2_000, "unless told otherwise");
}

#[test]
fn batches_that_the_target_does_not_take_are_cut() {
    let (kafka, mut contents) = (Kafka::shared_with_disk(), Contents::new());
    let mut restores = Vec::new();
    let topics = ["none", "lz4"].map(|codec| {
        let topic = kafka.topic("shape-cut", 1, &[]);
        let writer =
            Writer::new(kafka, &[("compression.type", codec), ("linger.ms", "200"), ("batch.size", "1000000")]);
        let _ = writer.write(&topic, &noise(&mut contents, 300, 3_000));
        assert!(batches(kafka, &topic, 0).iter().any(|batch| batch.bytes > 300_000), "there is something to cut");
        kafka.create(&format!("{topic}-restored"), 1, &[("max.message.bytes", "100000")]);
        topic
    });
    let topics = topics.each_ref().map(String::as_str);
    let backup = Backup::of(kafka, &topics);
    let _ = backup.backup().ok();
    restores.push(Restore::of(kafka, &backup, &topics));
    super::run_all(&restores);
    restores[0].assert_brought(kafka, |_| true);
    restores[0].assert_agrees();
    for topic in topics {
        let batches = batches(kafka, &format!("{topic}-restored"), 0);
        assert!(batches.iter().all(|batch| batch.bytes <= 100_000), "{batches:?}");
        assert!(batches.len() <= 16, "no more than are needed: {} batches", batches.len());
    }
}

#[test]
fn a_record_that_the_target_does_not_take_is_named() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("shape-large", 2, &[]);
    let mut records = contents.records(2, 20, 100);
    let mut large = noise(&mut contents, 1, 20_000).remove(0);
    large.partition = 1;
    records.push(large);
    let _ = Writer::new(kafka, &[]).write(&topic, &records);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let restore = Restore::of(kafka, &backup, &[&topic]);
    kafka.create(restore.target(), 2, &[("max.message.bytes", "10000")]);
    let ended = restore.run();
    ended.fails_with(1, &[&topic, "partition 1", "offset 20", "batch of 20", "max.message.bytes 10000", "raise"]);
    let told = ended.stderr.lines().filter(|line| line.contains("larger than its target takes")).count();
    assert_eq!(told, 1, "{}", ended.stderr);
}
