//! A restore that is killed and whose partitions come together: it goes in transactions, and goes on from the last one.

use std::time::Instant;

use super::{BEGUN, Killing, number};
use crate::crash::need_crash_points;
use crate::restore::Restore;
use crate::restore::repartition::{assert_spread, written};
use crate::support::agent::Backup;
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
