//! A restore to a savepoint: transactions are whole or not there, and no group is ahead of what came back.

use std::collections::BTreeSet;
use std::time::Duration;

use kafka_backup::restore::map::{OffsetMap, Position};

use crate::restore::hazards::assert_told;
use crate::restore::{Restore, tracks};
use crate::savepoints::{Application, Savepoint, group_name, savepoints};
use crate::support::agent::Backup;
use crate::support::kafka::Kafka;
use crate::support::reader::read_committed;
use crate::support::workload::{Contents, Load, Writer};

/// Asserts that what groups had committed at a savepoint is inside what was restored.
#[track_caller]
fn assert_reached(map: &OffsetMap, savepoint: &Savepoint) -> usize {
    let mut looked_at = 0;
    for ((group, topic, partition), committed) in &savepoint.offsets {
        let tracks = tracks(map, topic);
        let Some(track) = tracks.get(&(*partition as i32)) else { continue };
        let position = track.translate(*committed);
        let end = track.end().expect("it is done");
        let inside = match position {
            Position::Record { target, .. } => target < end,
            Position::End { target } => target == end,
            Position::Unfinished { .. } | Position::Beyond { .. } => false,
        };
        assert!(
            inside,
            "{group} is at {committed} of {topic}-{partition}, which is {position:?}, and it ends at {end}"
        );
        looked_at += 1;
    }
    looked_at
}

#[test]
fn a_transaction_that_went_on_behind_the_savepoint_is_out_and_one_that_lay_before_it_is_in() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("cut-savepoint", 2, &[]);
    let group = group_name("cut-savepoint");
    let [whole, across, ended] = ["whole", "across", "ended"].map(|name| Writer::transactional(kafka, name));
    let plain = Writer::new(kafka, &[("batch.num.messages", "5")]);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "4KiB").source_list("groups", &[&group]);
    let _ = whole.commit_records(&topic, &contents.records(2, 20, 200));
    let _ = whole.abort_records(&topic, &contents.records(2, 20, 200));
    let _ = plain.write(&topic, &contents.records(2, 5, 200));
    across.begin();
    let mut torn = across.write(&topic, &contents.records(2, 10, 200));
    ended.begin();
    let early = ended.write(&topic, &contents.records(2, 10, 200));
    let _ = plain.write(&topic, &contents.records(2, 5, 200));
    let ends = kafka.ends(&topic);
    ends.iter().zip(0..).for_each(|(end, partition)| kafka.commit(&group, &topic, partition, *end));
    // A pass makes one, of all that there is; the archive ends where the open transactions begin.
    let _ = backup.backup().ok();
    let savepoint = savepoints(&backup).pop().expect("there is one");
    ended.commit();
    torn.extend(across.write(&topic, &contents.records(2, 10, 200)));
    across.commit();
    let _ = whole.commit_records(&topic, &contents.records(2, 5, 200));
    let _ = plain.write(&topic, &contents.records(2, 5, 200));
    let _ = backup.backup().ok();

    let torn: BTreeSet<(i32, i64)> = torn.into_iter().collect();
    let restore =
        |name| Restore::named(kafka, &backup, &[&topic], name).source(&format!("savepoint = {:?}", savepoint.name));
    let words = [&*format!("{topic}-0"), "1 transaction was in flight"];
    let restore = assert_told(kafka, || restore("whole"), "transactions-in-flight", &words);
    let _ = restore.run().ok();
    let is_before = |partition: i32, offset: i64| offset < ends[partition as usize];
    restore.assert_brought(kafka, |record| {
        is_before(record.partition, record.offset) && !torn.contains(&(record.partition, record.offset))
    });
    assert!(early.iter().all(|(partition, offset)| is_before(*partition, *offset)), "its markers alone came later");
    restore.assert_agrees();
    let (_, map) = restore.done();
    assert_eq!(assert_reached(&map, &savepoint), 2);
}

#[test]
fn what_a_copier_had_committed_with_its_offsets_is_there_at_any_savepoint() {
    let kafka = Kafka::shared();
    let (input, output) = (kafka.topic("cut-in", 3, &[]), kafka.topic("cut-out", 1, &[]));
    let mixed = kafka.topic("cut-mixed", 2, &[]);
    let [reader, copier] = ["cut-reader", "cut-copier"].map(group_name);
    let backup = Backup::of(kafka, &[&input, &output, &mixed]).source("savepoint_interval", "250ms");
    let mut agent = backup.run();
    let loads = [Load::start(kafka, &input, 2, Duration::from_millis(10)), Load::transactions(kafka, &mixed)];
    let applications = [
        Application::consumer(kafka, &reader, &mixed, "read_uncommitted"),
        Application::copier(kafka, &copier, &input, &output),
    ];
    let has = |savepoint: &Savepoint, group: &str| savepoint.offsets.keys().any(|(name, ..)| name == group);
    agent.wait_until("both groups are in three savepoints", |_| {
        let savepoints = savepoints(&backup);
        let made = |group: &str| savepoints.iter().filter(|savepoint| has(savepoint, group)).count();
        (made(&reader) >= 3 && made(&copier) >= 3).then_some(())
    });
    applications.into_iter().for_each(Application::end);
    loads.into_iter().for_each(Load::end);
    agent.terminate();
    // What was open at the end of the agent is captured now.
    let _ = backup.backup().ok();

    let mut chosen = savepoints(&backup);
    chosen.retain(|savepoint| has(savepoint, &reader) && has(savepoint, &copier));
    let savepoint = &chosen[chosen.len() / 2];
    let restore = Restore::of(kafka, &backup, &[&input, &output, &mixed])
        .source(&format!("savepoint = {:?}", savepoint.name))
        .accept(&["transactions-in-flight"]);
    let _ = restore.run().ok();
    let (_, map) = restore.done();
    assert!(assert_reached(&map, savepoint) > 2);
    let copies = read_committed(kafka, &format!("{output}-restored")).into_iter();
    let copies: BTreeSet<String> =
        copies.map(|record| String::from_utf8(record.value.expect("a value")).expect("text")).collect();
    for ((group, _, partition), next) in &savepoint.offsets {
        let missing =
            (0..*next).filter(|_| *group == copier).find(|offset| !copies.contains(&format!("{partition}:{offset}")));
        assert_eq!(missing, None, "of partition {partition}, up to {next}, with the savepoint {}", savepoint.name);
    }
    assert!(!copies.is_empty());
    for (topic, brought) in
        [&input, &output, &mixed].map(|topic| (topic, read_committed(kafka, &format!("{topic}-restored"))))
    {
        let end = |partition: i32| savepoint.ends[&(topic.clone(), i64::from(partition))];
        let held =
            read_committed(kafka, topic).into_iter().filter(|record| record.offset < end(record.partition)).count();
        assert!(brought.len() <= held, "{topic}: {} records, and {held} lay before", brought.len());
    }
}
