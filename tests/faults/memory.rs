//! Memory while the store fails: what waits at the source is several times what an agent may take, so that one which
//! does not keep to its bound is seen.

use std::fs;
use std::time::{Duration, Instant};

use super::{ABOVE_BYTES, CLIENT, CLIENT_OF_SILENT, MEMORY_BYTES, PATIENCE, listen};
use crate::support::agent::{Agent, Backup};
use crate::support::chain::assert_same;
use crate::support::kafka::Kafka;
use crate::support::reader::Record;
use crate::support::s3::{Fault, Lasting, Object, S3};
use crate::support::workload::{Contents, Writer};
use crate::support::{alone, wait_paced};

/// So few that a segment of each grows to several parts before memory is short.
const PARTITIONS: i32 = 2;

/// Of each partition.
const RECORDS: usize = 180;

const RECORD_BYTES: usize = 900_000;

/// How long the peak must stand still before an agent is taken to hold all that it wants to hold.
const STILL: Duration = Duration::from_secs(3);

/// What of the promise is the released program's own file, whose pages are not counted: that of the tests is three times as large.
const FILE_BYTES: u64 = 24 << 20;

const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Writes the topic; returns its name and its bytes.
fn write(kafka: &Kafka) -> (String, u64) {
    let topic = kafka.topic("faults-memory", PARTITIONS, &[]);
    let (writer, mut contents) = (Writer::new(kafka, &[]), Contents::new());
    for partition in 0..PARTITIONS {
        for _ in 0..RECORDS {
            let value = Some(contents.noise(RECORD_BYTES));
            writer.send(&topic, &Record { partition, timestamp: -1, value, ..Record::default() });
        }
        let _ = writer.flush();
    }
    let bytes = (0..PARTITIONS).map(|partition| kafka.log_bytes(&topic, partition).len() as u64).sum();
    assert!(bytes > 2 * (MEMORY_BYTES + ABOVE_BYTES), "{bytes} bytes can show that too many are held");
    (topic, bytes)
}

/// Waits until `condition` holds, while which memory is bounded.
fn watch(name: &str, agent: &mut Agent, mut condition: impl FnMut(&Agent, u64) -> bool) {
    wait_paced(PATIENCE, BETWEEN_LOOKS, name, || {
        assert!(agent.runs(), "{name}: the agent ended");
        let (peak, limit) = (agent.peak_held_bytes(), MEMORY_BYTES + ABOVE_BYTES - FILE_BYTES);
        assert!(peak <= limit, "{name}: {peak} bytes of memory, {limit} are allowed");
        condition(agent, peak).then_some(())
    });
}

/// Tries one fault that never ends by itself; returns the peak of memory.
fn endure(kafka: &Kafka, (topic, bytes): &(String, u64), fault: Fault, object: Object) -> u64 {
    let s3 = S3::shared();
    let name = format!("memory-{fault:?}-{object:?}").to_lowercase();
    let client = if fault == Fault::Silent { CLIENT_OF_SILENT } else { CLIENT };
    let backup = Backup::of(kafka, &[topic]).on(s3, &name, client).source("savepoint_interval", "1h");
    // Logs of several parts, or of one request each.
    let roll = if object == Object::Part { "18MiB" } else { "1MiB" };
    let backup = backup.sink("memory_bytes", "32MiB").sink("roll_bytes", roll).sink("roll_interval", "3s");
    s3.fail(&name, object, fault, Lasting::Ever);
    let mut agent = backup.run();
    let is_whole = |agent: &Agent, _| agent.metric("kafka_backup_captured_bytes_total") >= *bytes as f64;
    if fault != Fault::Slow {
        let (mut highest, mut since) = (0, Instant::now());
        watch(&format!("{name}: it takes no more"), &mut agent, |agent, peak| {
            if peak > highest {
                (highest, since) = (peak, Instant::now());
            }
            since.elapsed() >= STILL && s3.hits(&name) > 0 && !listen(agent, &mut Vec::new())
        });
        assert!(!is_whole(&agent, 0), "{name}: the fault holds it back");
    }
    // One of those that were held back goes on, with all that waited for it.
    let goes_on = (fault, object) == (Fault::Unavailable, Object::Part);
    if goes_on {
        s3.heal(&name);
    }
    if goes_on || fault == Fault::Slow {
        watch(&format!("{name}: all of it is durable"), &mut agent, is_whole);
        for partition in 0..PARTITIONS {
            let (ours, theirs) = (backup.chain(topic, partition).bytes(), kafka.log_bytes(topic, partition));
            assert_same(&format!("{name}-{partition}"), &ours, &theirs);
        }
    }
    let peak = agent.peak_held_bytes();
    agent.kill();
    let _ = fs::remove_dir_all(s3.folder(&name));
    peak
}

#[test]
fn an_agent_takes_no_more_memory_than_it_may_however_much_waits_for_a_store_that_fails() {
    let _alone = alone();
    let kafka = Kafka::shared_with_disk();
    let data = write(kafka);
    std::thread::scope(|scope| {
        let tries: Vec<_> = [Fault::Silent, Fault::Slow, Fault::Unavailable]
            .into_iter()
            .flat_map(|fault| [Object::Part, Object::Log].map(|object| (fault, object)))
            .map(|(fault, object)| {
                (fault, object, {
                    let data = &data;
                    scope.spawn(move || endure(kafka, data, fault, object))
                })
            })
            .collect();
        for (fault, object, ended) in tries {
            match ended.join() {
                Ok(peak) => println!("{fault:?} {object:?}: a peak of {} MiB", peak >> 20),
                Err(reason) => std::panic::resume_unwind(reason),
            }
        }
    });
    kafka.delete(&data.0);
}
