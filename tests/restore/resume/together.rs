//! A restore that is killed and whose partitions come together: it goes in transactions, and goes on from the last one.

use std::time::{Duration, Instant};

use super::{BEGUN, Killing, number};
use crate::crash::need_crash_points;
use crate::restore::Restore;
use crate::restore::repartition::{assert_spread, write, written};
use crate::support::agent::Backup;
use crate::support::cutting::Cutting;
use crate::support::kafka::Kafka;
use crate::support::reader::read_all_committed;

/// Records of a partition.
const COUNT: usize = 200;

/// How many partitions each of the topics has.
pub(super) const PARTITIONS: [i32; 2] = [3, 2];

/// Two topics whose records come together by key in one of two partitions, and a backup of them.
pub(super) struct Together {
    topics: [String; 2],
    backup: Backup,
    /// Records of a partition.
    count: usize,
}

impl Together {
    /// Writes so many records to each partition of topics that are empty, of [`PARTITIONS`], and makes a backup.
    pub(super) fn written(kafka: &Kafka, topics: [String; 2], count: usize) -> Self {
        topics.iter().zip(PARTITIONS).for_each(|(topic, partitions)| write(kafka, topic, partitions, count));
        let backup = Backup::of(kafka, &topics.each_ref().map(String::as_str)).sink("roll_bytes", "16KiB");
        let _ = backup.backup().ok();
        Self { topics, backup, count }
    }

    /// Returns how many records there are.
    pub(super) fn records(&self) -> usize {
        self.count * PARTITIONS.iter().sum::<i32>() as usize
    }

    /// Configures a restore that is as fast as it can be.
    pub(super) fn fast(&self, kafka: &Kafka, name: &str) -> Restore<'_> {
        let [topic, other] = self.topics.each_ref().map(String::as_str);
        let target = format!("{topic}-{name}");
        let restore = Restore::named(kafka, &self.backup, &[topic, other], name).to(topic, &target).to(other, &target);
        restore.sink(&format!("repartition = [\"{target}:2\"]"))
    }

    /// Asserts that all records are in the target, once, and that the map leads to each.
    #[track_caller]
    pub(super) fn assert_right(&self, kafka: &Kafka, restore: &Restore<'_>) {
        let [topic, other] = self.topics.each_ref().map(String::as_str);
        let (done, map) = restore.done();
        let read = read_all_committed(kafka, &[topic, other, restore.target()]);
        let sources = [topic, other].map(|source| (source, &read[source][..]));
        assert_eq!(done.records as usize, self.records(), "all transactions together");
        assert!(map.is_finished());
        assert_spread(kafka, &map, &sources, (restore.target(), &read[restore.target()]));
    }
}

#[test]
fn killed_at_random_moments_a_restore_in_transactions_loses_nothing_and_brings_nothing_twice() {
    need_crash_points();
    let kafka = Kafka::shared();
    let [three, two] = PARTITIONS;
    let topics = [kafka.topic("kill-together", three, &[]), kafka.topic("kill-together-too", two, &[])];
    let together = Together::written(kafka, topics, COUNT);
    let fast = |name: &str| together.fast(kafka, name);
    let slow = |name: &str, often: bool| {
        let restore = fast(name).pipeline("max_records_per_second = 500");
        restore.sink(&format!("journal_interval = \"{}\"", if often { "50ms" } else { "500ms" }))
    };
    let check = |restore: &Restore<'_>| together.assert_right(kafka, restore);
    let (restore, began) = (slow("undisturbed", true), Instant::now());
    let _ = restore.run().ok();
    let whole = began.elapsed();
    check(&restore);
    let within = ["transaction-added", "transaction-landed", "transaction-kept", "transaction-committed"];
    let begun = [BEGUN, &within].concat();
    Killing { theme: "kill-together", kills: number("KILLS", 5), whole, begun: &begun }.run(slow, fast, check);
}

#[test]
fn a_rate_is_kept_and_each_record_brought_once_however_slow_the_coordinators_are() {
    const RATE: usize = 100;
    const ALL: usize = 200;
    let kafka = Kafka::shared();
    let topic = written(kafka, "slow-together", 2, ALL / 2);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let mut restore = Restore::of(kafka, &backup, &[&topic])
        .pipeline(&format!("max_records_per_second = {RATE}"))
        .sink(&format!("repartition = [\"{topic}-restored:2\"]"))
        .sink("journal_interval = \"100ms\"");
    restore.brokers = Cutting::slow(kafka.brokers(), Duration::from_millis(200)).address().to_owned();
    let began = Instant::now();
    let _ = restore.run().ok();
    let took = began.elapsed();
    let (done, map) = restore.done();
    assert_eq!(done.records as usize, ALL);
    let journals = restore.state_names().iter().filter(|name| name.starts_with("journal-")).count();
    assert!(journals > 1, "{journals} transactions");
    // The last piece is not waited for.
    assert!(took >= Duration::from_secs((ALL / RATE) as u64).mul_f64(0.9), "{took:?}");
    let read = read_all_committed(kafka, &[&topic, restore.target()]);
    assert_spread(kafka, &map, &[(&topic, &read[&topic])], (restore.target(), &read[restore.target()]));
}
