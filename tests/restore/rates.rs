//! Limits on what a restore sends in a second.

use std::time::Duration;

use crate::restore::Restore;
use crate::support::agent::Backup;
use crate::support::chain::headers;
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_committed};
use crate::support::workload::{Contents, Writer};

/// Asserts that what came within some time is at most a tenth off what may come then.
#[track_caller]
fn assert_rate(what: &str, came: f64, millis: i64, a_second: f64) {
    let rate = came / Duration::from_millis(millis as u64).as_secs_f64();
    assert!(
        (a_second * 0.9..=a_second * 1.1).contains(&rate),
        "{what}: {rate:.0} a second of {a_second}, in {millis} ms"
    );
}

#[test]
fn limits_of_records_and_bytes_hold_within_a_tenth_for_all_partitions_together() {
    let kafka = Kafka::shared_with_disk();
    let (mut contents, topic) = (Contents::new(), kafka.topic("rates", 3, &[]));
    let mut records = contents.records(3, 1_000, 10);
    records.iter_mut().for_each(|record| record.value = Some(contents.noise(1_000)));
    let _ = Writer::new(kafka, &[("batch.num.messages", "20")]).write(&topic, &records);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "256KiB");
    let _ = backup.backup().ok();
    // The broker stamps what comes: from that it can be told how fast it came.
    let slow = |name: &str, limit: &str| {
        let restore = Restore::named(kafka, &backup, &[&topic], name).pipeline(limit).accept(&["log-append-time"]);
        kafka.create(restore.target(), 3, &[("message.timestamp.type", "LogAppendTime")]);
        let _ = restore.run().ok();
        let brought = read_committed(kafka, restore.target());
        assert_eq!(brought.len(), 3_000);
        let times = || brought.iter().map(|record: &Record| record.timestamp);
        let (first, last) = (times().min().expect("some"), times().max().expect("some"));
        // What came with the first needed no time.
        let late = brought.iter().filter(|record| record.timestamp > first).count();
        (late as f64 / brought.len() as f64, last - first)
    };
    let bytes: usize = (0..3)
        .map(|partition| headers(&kafka.log_bytes(&topic, partition)).iter().map(|it| it.bytes).sum::<usize>())
        .sum();
    let ([by_records, by_bytes], rate) = std::thread::scope(|scope| {
        let records = scope.spawn(|| slow("records", "max_records_per_second = 1000"));
        let rate = bytes as f64 / 3.0;
        let bytes = slow("bytes", &format!("max_bytes_per_second = \"{}B\"", rate as u64));
        ([records.join().expect("it ends well"), bytes], rate)
    });
    assert_rate("records", by_records.0 * 3_000.0, by_records.1, 1_000.0);
    assert_rate("bytes", by_bytes.0 * bytes as f64, by_bytes.1, rate);
}

#[test]
fn a_restore_can_be_watched_while_it_goes_on() {
    let kafka = Kafka::shared_with_disk();
    let (mut contents, topic) = (Contents::new(), kafka.topic("watched", 2, &[]));
    let records = contents.records(2, 500, 10);
    let _ = Writer::new(kafka, &[("batch.num.messages", "20")]).write(&topic, &records);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let restore = Restore::of(kafka, &backup, &[&topic]).pipeline("max_records_per_second = 200");
    let mut watched = restore.start_to_be_watched();
    let (restored, planned) = watched.wait_until("half of it was restored", |watched| {
        let restored = watched.metric("kafka_backup_restored_records_total");
        (500.0..1_000.0).contains(&restored).then(|| (restored, watched.metric("kafka_backup_restore_planned_records")))
    });
    assert!(planned >= 1_000.0 && restored < planned, "{restored} of {planned}");
    assert_eq!(watched.get("/readyz").map(|(status, _)| status), Some(200));
    assert!(watched.metric("kafka_backup_restored_offset") >= 500.0 && watched.metric("kafka_backup_ready") == 1.0);
    assert_eq!(watched.wait().code(), Some(0));
    restore.assert_brought(kafka, |_| true);
}
