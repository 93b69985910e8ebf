//! When a segment closes, and how much an agent takes: by size, by the clock, by memory, by the second.

use std::time::Instant;

use crate::support::agent::Backup;
use crate::support::chain::{assert_same, headers};
use crate::support::kafka::Kafka;
use crate::support::reader::Record;
use crate::support::workload::{Contents, Writer};

#[test]
fn a_segment_closes_with_the_batch_that_fills_it() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("by-bytes", 1, &[]);
    let writer = Writer::new(kafka, &[("batch.num.messages", "10"), ("linger.ms", "5")]);
    let _ = writer.write(&topic, &Contents::new().records(1, 1000, 500));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "64KiB").sink("roll_interval", "1h");
    let _ = backup.backup().ok();
    let chain = backup.chain(&topic, 0);
    assert!(chain.0.len() > 4, "{} segments", chain.0.len());
    for segment in &chain.0[..chain.0.len() - 1] {
        let last = headers(&segment.bytes).last().expect("a segment has batches").bytes;
        let full = 64 << 10;
        assert!(segment.bytes.len() >= full, "{} closed early", segment.path.display());
        assert!(segment.bytes.len() - last < full, "{} closed late", segment.path.display());
    }
}

#[test]
fn an_idle_partition_is_closed_by_the_clock() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("by-clock", 2, &[]);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "1GiB").sink("roll_interval", "1s");
    let mut agent = backup.run();
    let (writer, mut contents) = (Writer::new(kafka, &[]), Contents::new());
    for round in 1..=2 {
        // Nothing follows these records that could close the segment in their place.
        let _ = writer.write(&topic, &contents.records(2, 5, 100));
        agent.wait_until("the clock closes the segments", |_| {
            (0..2).all(|partition| backup.chain(&topic, partition).next() == round * 5).then_some(())
        });
    }
    assert!(agent.metric("kafka_backup_captured_records_total") >= 20.0);
    agent.wait_until("nothing lags", |agent| (agent.metric("kafka_backup_durable_lag_seconds") == 0.0).then_some(()));
}

#[test]
fn a_short_memory_budget_closes_segments_early_and_is_kept() {
    const LIMIT_BYTES: f64 = (6 << 20) as f64;
    let kafka = Kafka::shared();
    let topic = kafka.topic("by-memory", 4, &[]);
    let mut contents = Contents::new();
    let writer = Writer::new(kafka, &[]);
    for number in 0..24 {
        let value = Some(contents.noise(900_000));
        let _ = writer.write(&topic, &[Record { partition: number % 4, timestamp: -1, value, ..Record::default() }]);
    }
    // A store in memory holds what is not yet published in the agent; a folder does not.
    let backup = Backup::of(kafka, &[&topic]).path("memory://test").sink("memory_bytes", "6MiB");
    let backup = backup.sink("roll_bytes", "1GiB").sink("roll_interval", "1h");
    let mut agent = backup.run();
    agent.wait_until("most is durable, by nothing but shortness of memory", |agent| {
        let used = agent.metric("kafka_backup_memory_used_bytes");
        assert!(used <= LIMIT_BYTES, "{used} bytes held");
        (agent.metric("kafka_backup_captured_records_total") >= 16.0).then_some(())
    });
    agent.terminate();
}

#[test]
fn a_limit_of_bytes_per_second_holds_over_a_stretch() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("by-second", 2, &[]);
    let writer = Writer::new(kafka, &[("batch.num.messages", "50"), ("linger.ms", "5")]);
    let _ = writer.write(&topic, &Contents::new().records(2, 2000, 500));
    let backup = Backup::of(kafka, &[&topic]).pipeline("max_bytes_per_second", "500KiB");
    let backup = backup.kafka("max.partition.fetch.bytes", "65536").kafka("fetch.max.bytes", "131072");
    let bytes: usize = (0..2).map(|partition| kafka.log_bytes(&topic, partition).len()).sum();
    let began = Instant::now();
    let _ = backup.backup().ok();
    let seconds = began.elapsed().as_secs_f64();
    let rate = bytes as f64 / seconds;
    assert!(rate < 1.2 * 512_000.0, "{bytes} bytes in {seconds:.1} s");
    for partition in 0..2 {
        assert_same("limited", &backup.chain(&topic, partition).bytes(), &kafka.log_bytes(&topic, partition));
    }
}
