//! The archive holds the broker's own bytes, Kafka's own tool reads them, and `cat` shows what a consumer sees.
//!
//! Each test writes one kind of topic that is hard to copy, makes one pass, and then holds the archive against three
//! witnesses: the broker's `.log` files, `DumpLogSegments --deep-iteration`, and a read-committed consumer.

use crate::stages::{INJECT, assert_records, injected, staged};
use crate::support::agent::Backup;
use crate::support::chain::{assert_same, check_with_kafka, headers, up_to};
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_committed};
use crate::support::workload::{Contents, Writer, wait_compacted};

/// Makes one pass over `topics` in small segments and holds it against the three witnesses.
fn back_up_and_compare(kafka: &Kafka, topics: &[&str]) -> Backup {
    let backup = Backup::of(kafka, topics).sink("roll_bytes", "64KiB");
    let _ = backup.backup().ok();
    for topic in topics {
        compare_with_broker(kafka, &backup, topic, i64::MAX);
        compare_with_consumer(kafka, &backup, topic);
    }
    check_with_kafka(kafka, &backup, topics);
    let _ = backup.command("verify", &["--deep"]).ok();
    backup
}

/// Compares the archive with the broker's files, up to the batch that holds `end`.
fn compare_with_broker(kafka: &Kafka, backup: &Backup, topic: &str, end: i64) {
    for partition in 0..kafka.partitions(topic) {
        let log = kafka.log_bytes(topic, partition);
        let chain = backup.chain(topic, partition);
        assert_same(&format!("{topic}-{partition}"), &chain.bytes(), up_to(&log, end));
    }
}

/// Compares `cat` and the counts of `show-offset-mapping` with what a consumer sees.
fn compare_with_consumer(kafka: &Kafka, backup: &Backup, topic: &str) {
    let consumed = read_committed(kafka, topic);
    let cat = backup.cat(topic);
    let differs = consumed.iter().zip(&cat).find(|(theirs, ours)| theirs != ours);
    assert!(differs.is_none(), "{topic}: the consumer and `cat` see {differs:#?}");
    assert_eq!(consumed.len(), cat.len(), "{topic}: records that the consumer and `cat` see");
    let count = |partition| consumed.iter().filter(|record| record.partition == partition).count();
    let counts: Vec<_> = (0..kafka.partitions(topic)).map(|partition| (partition, count(partition))).collect();
    assert_eq!(backup.counts(topic), counts, "{topic}: record counts of `show-offset-mapping`");
}

/// Makes a topic of each codec.
pub(crate) fn every_codec(kafka: &Kafka) -> [String; 5] {
    let mut contents = Contents::new();
    ["none", "gzip", "snappy", "lz4", "zstd"].map(|codec| {
        let topic = kafka.topic(codec, 2, &[]);
        let writer = Writer::new(kafka, &[("compression.type", codec), ("batch.num.messages", "50")]);
        let _ = writer.write(&topic, &contents.records(2, 600, 500));
        topic
    })
}

#[test]
fn every_codec_is_kept_as_the_producer_wrote_it() {
    let kafka = Kafka::shared_with_disk();
    let topics = every_codec(kafka);
    let backup = back_up_and_compare(kafka, &topics.each_ref().map(String::as_str));
    assert!(backup.chain(&topics[0], 0).0.len() > 2, "a partition spans several segments");
}

#[test]
fn batches_of_one_record_and_records_of_a_megabyte_are_kept() {
    let kafka = Kafka::shared_with_disk();
    let mut contents = Contents::new();
    let small = kafka.topic("one-record", 1, &[]);
    let _ = Writer::new(kafka, &[("batch.num.messages", "1")]).write(&small, &contents.records(1, 800, 40));
    assert_eq!(headers(&kafka.log_bytes(&small, 0)).len(), 800, "each record is a batch");
    let large = kafka.topic("megabyte", 1, &[]);
    for codec in ["none", "lz4"] {
        let values = [contents.noise(1_000_000), contents.text(1_000_000), contents.noise(999)];
        let records = values.map(|value| Record { timestamp: -1, value: Some(value), ..Record::default() });
        let _ = Writer::new(kafka, &[("compression.type", codec)]).write(&large, &records);
    }
    let backup = back_up_and_compare(kafka, &[&small, &large]);
    assert!(backup.chain(&large, 0).0.len() > 2, "a batch above roll_bytes has a segment of its own");
}

/// Makes a topic of null, empty and binary keys and values and of duplicate headers; returns what it holds.
pub(crate) fn odd_cells(kafka: &Kafka) -> (String, Vec<Record>) {
    let topic = kafka.topic("nulls", 1, &[]);
    let fields =
        [None, Some(vec![]), Some(b"text".to_vec()), Some("€\u{0}\"\\\n\u{1f600}".into()), Some(vec![0xff, 0xfe, 0])];
    let header = |name: &str, value: &Option<Vec<u8>>| (name.to_owned(), value.clone());
    let mut records = Vec::new();
    for key in &fields {
        for value in &fields {
            let headers = vec![header("same", key), header("", value), header("same", value), header("same", key)];
            let record = Record { timestamp: -1, key: key.clone(), value: value.clone(), headers, ..Record::default() };
            records.push(Record { headers: Vec::new(), ..record.clone() });
            records.push(record);
        }
    }
    let _ = Writer::new(kafka, &[]).write(&topic, &records);
    (topic, records)
}

#[test]
fn null_and_empty_keys_values_and_duplicate_headers_are_kept() {
    let kafka = Kafka::shared_with_disk();
    let (topic, records) = odd_cells(kafka);
    let backup = back_up_and_compare(kafka, &[&topic]);
    let same = |a: &Record, b: &Record| (&a.key, &a.value, &a.headers) == (&b.key, &b.value, &b.headers);
    let cat = backup.cat(&topic);
    assert!(records.len() == cat.len() && records.iter().zip(&cat).all(|(a, b)| same(a, b)), "{cat:#?}");
}

/// Makes a topic whose times are the broker's, and one of old, late and disordered ones.
pub(crate) fn odd_times(kafka: &Kafka) -> [String; 2] {
    let mut contents = Contents::new();
    let appended = kafka.topic("log-append", 2, &[("message.timestamp.type", "LogAppendTime")]);
    let wide = i64::MAX.to_string();
    let limits =
        [("message.timestamp.before.max.ms", wide.as_str()), ("message.timestamp.after.max.ms", wide.as_str())];
    let disorder = kafka.topic("disorder", 1, &limits);
    let mut records = contents.records(1, 60, 300);
    for (record, time) in records.iter_mut().zip([1_700_000_000_000, 1, 4_102_444_800_000, 86_400_000].iter().cycle()) {
        record.timestamp = time + record.key.as_ref().map_or(0, Vec::len) as i64;
    }
    for (topic, batch) in [(&disorder, "7"), (&appended, "7"), (&disorder, "1")] {
        let writer = Writer::new(kafka, &[("compression.type", "zstd"), ("batch.num.messages", batch)]);
        let _ = writer.write(topic, &records);
    }
    [appended, disorder]
}

#[test]
fn the_times_of_log_append_and_of_producers_out_of_order_are_kept() {
    let kafka = Kafka::shared_with_disk();
    let _ = back_up_and_compare(kafka, &odd_times(kafka).each_ref().map(String::as_str));
}

/// Makes a topic of transactions that interleave, some of them aborted.
pub(crate) fn transactions(kafka: &Kafka) -> String {
    let mut contents = Contents::new();
    let topic = kafka.topic("transactions", 2, &[]);
    let (a, b, plain) = (Writer::transactional(kafka, "a"), Writer::transactional(kafka, "b"), Writer::new(kafka, &[]));
    for round in 0..4 {
        let _ = a.commit_records(&topic, &contents.records(2, 20, 300));
        let _ = b.abort_records(&topic, &contents.records(2, 20, 300));
        a.begin();
        b.begin();
        for _ in 0..5 {
            for writer in [&a, &b, &plain] {
                let _ = writer.write(&topic, &contents.records(2, 10, 300));
            }
        }
        let (first, second) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        first.abort();
        let _ = plain.write(&topic, &contents.records(2, 3, 300));
        second.commit();
    }
    topic
}

#[test]
fn transactions_committed_aborted_and_interleaved_are_kept_and_told_apart() {
    let kafka = Kafka::shared_with_disk();
    let topic = transactions(kafka);
    let backup = back_up_and_compare(kafka, &[&topic]);
    assert!(backup.chain(&topic, 0).0.len() > 2, "transactions span segments");
}

#[test]
fn a_transaction_left_open_ends_the_archive_at_the_last_stable_offset() {
    let kafka = Kafka::shared_with_disk();
    let mut contents = Contents::new();
    let topic = kafka.topic("open", 1, &[]);
    let (open, plain) = (Writer::transactional(kafka, "open"), Writer::new(kafka, &[]));
    let _ = open.commit_records(&topic, &contents.records(1, 30, 300));
    let _ = plain.write(&topic, &contents.records(1, 30, 300));
    open.begin();
    let (_, last_stable) = open.write(&topic, &contents.records(1, 10, 300))[0];
    let _ = plain.write(&topic, &contents.records(1, 30, 300));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "4KiB");
    let _ = backup.backup().ok();
    assert_eq!(backup.chain(&topic, 0).next(), last_stable);
    compare_with_broker(kafka, &backup, &topic, last_stable);
    compare_with_consumer(kafka, &backup, &topic);
    check_with_kafka(kafka, &backup, &[&topic]);
    open.commit();
    let _ = backup.backup().ok();
    compare_with_broker(kafka, &backup, &topic, i64::MAX);
    compare_with_consumer(kafka, &backup, &topic);
}

/// The settings of a topic that the cleaner goes over within a second.
pub(crate) const COMPACTED: [(&str, &str); 5] = [
    ("cleanup.policy", "compact"),
    ("segment.ms", "60000"),
    ("min.cleanable.dirty.ratio", "0.001"),
    ("segment.index.bytes", "4096"),
    // Tombstones and markers stay, or the cleaner would come again while the test compares.
    ("delete.retention.ms", "86400000"),
];

/// Writes a record from ten minutes ahead, which rolls the broker's segment: only closed ones are cleaned.
fn close_segment(writer: &Writer, topic: &str, contents: &mut Contents) {
    let timestamp = jiff::Timestamp::now().as_millisecond() + 600_000;
    let _ = writer.write(topic, &[Record { timestamp, ..contents.record(0, 1_000_000, 50) }]);
}

/// Makes a compacted topic of 351 records with holes and tombstones; the cleaner has gone over it.
pub(crate) fn compacted(kafka: &Kafka) -> String {
    let mut contents = Contents::new();
    let topic = kafka.topic("compacted", 1, &COMPACTED);
    let writer = Writer::new(kafka, &[("compression.type", "lz4"), ("batch.num.messages", "10")]);
    // Each round has a segment of its own at the broker.
    let began = jiff::Timestamp::now().as_millisecond() - 600_000;
    for round in 0..6 {
        let mut records = contents.records(1, 100, 400);
        // Keys 0..50 return in each round, tombstones for ten of them; the others are written once.
        for (number, record) in records.iter_mut().enumerate().filter(|(number, _)| *number >= 50) {
            record.key = Some(format!("once-{round}-{number}").into_bytes());
        }
        records[..10].iter_mut().for_each(|record| record.value = None);
        records.iter_mut().for_each(|record| record.timestamp = began + i64::from(round) * 90_000);
        let _ = writer.write(&topic, &records);
    }
    close_segment(&writer, &topic, &mut contents);
    wait_compacted(kafka, &topic, 50 + 6 * 50 + 1);
    topic
}

#[test]
fn a_compacted_topic_is_kept_with_the_holes_that_the_cleaner_left() {
    let kafka = Kafka::shared_with_disk();
    let topic = compacted(kafka);
    let backup = back_up_and_compare(kafka, &[&topic]);
    let holes = backup.chain(&topic, 0).next() - 351;
    assert!(holes > 200, "the cleaner took {holes} records");
    let through = Backup::of(kafka, &[&topic]).sink("roll_bytes", "16KiB");
    assert_eq!(through.start_config("backup", &staged(&through, &[INJECT]), &[]).wait().code(), Some(0));
    assert_records("through a stage", &through.cat(&topic), &injected(backup.cat(&topic)));
    let covered = |backup: &Backup| -> Vec<_> {
        headers(&backup.chain(&topic, 0).bytes())
            .iter()
            .map(|it| (it.base_offset, it.last_offset, it.count, it.attributes))
            .collect()
    };
    assert_eq!(covered(&through), covered(&backup), "each batch covers what it did");
    let _ = through.command("verify", &["--deep"]).ok();
}

#[test]
fn a_compacted_topic_with_transactions_is_kept_with_what_the_cleaner_left_of_them() {
    let kafka = Kafka::shared_with_disk();
    let mut contents = Contents::new();
    let topic = kafka.topic("compacted-transactions", 1, &COMPACTED);
    let (a, b, plain) = (Writer::transactional(kafka, "a"), Writer::transactional(kafka, "b"), Writer::new(kafka, &[]));
    for _ in 0..3 {
        let _ = a.commit_records(&topic, &contents.records(1, 40, 400));
        let _ = b.abort_records(&topic, &contents.records(1, 60, 400));
    }
    close_segment(&plain, &topic, &mut contents);
    // The 40 keys that were committed; what was aborted is gone.
    wait_compacted(kafka, &topic, 41);
    let _ = back_up_and_compare(kafka, &[&topic]);
}

#[test]
fn an_idempotent_producer_and_empty_partitions_are_kept() {
    let kafka = Kafka::shared_with_disk();
    let mut contents = Contents::new();
    let topic = kafka.topic("idempotent", 4, &[]);
    let writer = Writer::new(kafka, &[("enable.idempotence", "true"), ("linger.ms", "5")]);
    let mut records = contents.records(1, 500, 300);
    records.iter_mut().for_each(|record| record.partition = 2);
    let _ = writer.write(&topic, &records);
    let empty = kafka.topic("empty", 3, &[]);
    let backup = back_up_and_compare(kafka, &[&topic, &empty]);
    assert!(headers(&backup.chain(&topic, 2).bytes()).iter().all(|batch| batch.producer_id >= 0));
    assert_eq!(backup.chain(&empty, 1).0.len(), 0, "nothing is written for a partition that holds nothing");
    let csv = backup.command("show-offset-mapping", &["--format", "csv"]).ok();
    assert!(csv.contains(&format!("\n{empty},1,-,-,0,")), "{csv}");
}

#[test]
fn a_second_pass_adds_what_is_new_and_a_third_one_nothing() {
    let kafka = Kafka::shared_with_disk();
    let mut contents = Contents::new();
    let topic = kafka.topic("passes", 2, &[]);
    let writer = Writer::new(kafka, &[]);
    let _ = writer.write(&topic, &contents.records(2, 100, 300));
    let backup = back_up_and_compare(kafka, &[&topic]);
    let _ = writer.write(&topic, &contents.records(2, 100, 300));
    let _ = backup.backup().ok();
    compare_with_broker(kafka, &backup, &topic, i64::MAX);
    compare_with_consumer(kafka, &backup, &topic);
    let segments = backup.chain(&topic, 0).0.len();
    let _ = backup.backup().ok();
    assert_eq!(backup.chain(&topic, 0).0.len(), segments);
}
