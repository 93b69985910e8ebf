//! A restore that is killed and whose partitions come together: it goes in transactions, and goes on from the last one.

use std::time::{Duration, Instant};

use super::{BEGUN, Killing, number};
use crate::crash::need_crash_points;
use crate::restore::Restore;
use crate::restore::repartition::{assert_spread, written};
use crate::support::agent::Backup;
use crate::support::cutting::Cutting;
use crate::support::kafka::Kafka;
use crate::support::reader::read_all_committed;

/// Records of a partition.
const COUNT: usize = 200;

#[test]
fn killed_at_random_moments_a_restore_in_transactions_loses_nothing_and_brings_nothing_twice() {
    need_crash_points();
    let kafka = Kafka::shared();
    let (topic, other) = (written(kafka, "kill-together", 3, COUNT), written(kafka, "kill-together-too", 2, COUNT));
    let backup = Backup::of(kafka, &[&topic, &other]).sink("roll_bytes", "16KiB");
    let _ = backup.backup().ok();
    let fast = |name: &str| {
        let target = format!("{topic}-{name}");
        let restore = Restore::named(kafka, &backup, &[&topic, &other], name).to(&topic, &target).to(&other, &target);
        restore.sink(&format!("repartition = [\"{target}:2\"]"))
    };
    let slow = |name: &str, often: bool| {
        let restore = fast(name).pipeline("max_records_per_second = 500");
        restore.sink(&format!("journal_interval = \"{}\"", if often { "50ms" } else { "500ms" }))
    };
    let check = |restore: &Restore<'_>| {
        let (done, map) = restore.done();
        let read = read_all_committed(kafka, &[&topic, &other, restore.target()]);
        let sources = [&*topic, &*other].map(|source| (source, &read[source][..]));
        assert_eq!(done.records as usize, 5 * COUNT, "all transactions together");
        assert!(map.is_finished());
        assert_spread(kafka, &map, &sources, (restore.target(), &read[restore.target()]));
    };
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
