//! A thousand partitions on one agent: what it takes in memory under trickle, and that it writes nothing when idle.
//!
//! Memory is asserted here, of the unoptimised program, which needs more of it than the one that is shipped. CPU is not:
//! on a machine that is busy with other tests it says nothing. `cargo bench --bench scale` measures and bounds that.
//! The store is the in-process S3, which counts requests: a creation that is told "exists" leaves nothing else to count.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_backup::record::Timestamp;

use crate::support::agent::{Agent, Backup};
use crate::support::kafka::Kafka;
use crate::support::s3::{Object, S3};
use crate::support::workload::{Contents, Writer};
use crate::support::{alone, wait_paced};

const PARTITIONS: i32 = 1_000;

/// What the agent may have at most, of which its own budget (`memory_bytes`) is 256 MiB.
const PEAK_BYTES: u64 = 400 << 20;

/// Rounds of one record to each partition.
const ROUNDS: usize = 3;

/// A look takes a page with the metrics of a thousand partitions, which costs more than the agent's work.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

#[test]
fn a_thousand_partitions_take_little_memory_and_idle_ones_no_write() {
    let _alone = alone();
    // Its own: a thousand partitions would slow down everybody else's.
    let kafka = Kafka::start();
    let topic = kafka.topic("wide", PARTITIONS, &[]);
    let backup = Backup::of(&kafka, &[&topic]).source("group_id", "wide");
    // Savepoints are looked at all the while, and are none where nothing has changed.
    let backup = backup.source("savepoint_interval", "2s");
    let s3 = S3::shared();
    let backup = backup.on(s3, "wide", "");
    let writes = || writing(s3, "wide");
    let mut agent = backup.run();
    let (writer, mut contents) = (Writer::new(&kafka, &[]), Contents::new());
    for round in 1..=ROUNDS {
        // In pieces: a broker that has just made a thousand logs takes its time, and each piece has a deadline.
        for piece in contents.records(PARTITIONS, 1, 500).chunks(100) {
            let _ = writer.write(&topic, piece);
        }
        let written = (round * PARTITIONS as usize) as f64;
        wait_long(&mut agent, "each partition has a segment more", |agent| {
            agent.metric("kafka_backup_captured_records_total") >= written
        });
    }

    // The one that holds what came last is due as soon as its slot begins.
    let last = Timestamp::now().0 as f64 / 1000.0;
    wait_long(&mut agent, "a savepoint was begun after that", |agent| {
        agent.metric("kafka_backup_savepoint_timestamp_seconds") > last
    });

    // Idle from here on: brokers are asked again and again, the clock goes past many roll intervals, nothing is written.
    let (objects, fetches) = (writes(), agent.metric("kafka_backup_fetches_total"));
    wait_long(&mut agent, "it has looked eight times more", |agent| {
        agent.metric("kafka_backup_fetches_total") >= fetches + 8.0
    });
    assert_eq!(writes(), objects, "an idle partition has nothing to write");

    let peak = agent.peak_bytes();
    let objects: usize = objects.values().sum();
    println!("{PARTITIONS} partitions: {objects} writes, a peak of {} MiB", peak >> 20);
    assert!(peak <= PEAK_BYTES, "a peak of {} MiB", peak >> 20);
    agent.terminate();
    for partition in 0..PARTITIONS {
        assert_eq!(backup.chain(&topic, partition).next(), ROUNDS as i64, "{topic}-{partition}");
    }
}

/// Waits for a condition as long as the agent runs.
#[track_caller]
fn wait_long(agent: &mut Agent, what: &str, condition: impl Fn(&Agent) -> bool) {
    wait_paced(Duration::from_secs(180), BETWEEN_LOOKS, what, || {
        assert!(agent.runs(), "the agent ended before {what}");
        condition(agent).then_some(())
    });
}

/// Returns how many requests of each kind were made that write or delete.
fn writing(s3: &S3, prefix: &str) -> BTreeMap<(String, Object), usize> {
    let mut requests = s3.requests(prefix);
    requests.retain(|(method, _), _| !matches!(method.as_str(), "GET" | "HEAD"));
    requests
}
