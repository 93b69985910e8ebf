//! `verify --against-restore`: each kind of difference is found where it is, and what cannot be compared is no success.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_backup::kafka::{Client, Properties};
use kafka_backup::record::{OffsetRange, TopicId};
use kafka_backup::restore::map::{OffsetMap, Pair};
use kafka_backup::restore::state::{Attempt, Done, Outcome, Plan, Process, Start};
use serde_json::Value;

use crate::restore::Restore;
use crate::support::agent::Backup;
use crate::support::block_on;
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_committed};
use crate::support::workload::{Contents, Writer};

/// Records of each partition.
const COUNT: i64 = 20;

/// A topic whose partitions hold as many records each, and a backup and a restore of it.
fn restored<'a>(kafka: &Kafka, backup: &'a mut Option<Backup>, theme: &str, partitions: i32) -> Restore<'a> {
    let topic = kafka.topic(theme, partitions, &[]);
    let mut records = Contents::new().records(partitions, COUNT as usize, 100);
    let began = jiff::Timestamp::now().as_millisecond();
    records.iter_mut().zip(0..).for_each(|(record, number)| record.timestamp = began + number);
    let _ = Writer::new(kafka, &[("batch.num.messages", "5"), ("linger.ms", "20")]).write(&topic, &records);
    let backup = backup.insert(Backup::of(kafka, &[&topic]).sink("roll_bytes", "2KiB"));
    let _ = backup.backup().ok();
    let restore = Restore::of(kafka, backup, &[&topic]);
    let _ = restore.run().ok();
    restore.assert_agrees();
    restore
}

fn topic_id(kafka: &Kafka, topic: &str) -> TopicId {
    let map = BTreeMap::from([("bootstrap.servers".to_owned(), kafka.brokers().to_owned())]);
    block_on(async {
        let properties = Properties::new(map).expect("good properties");
        let client = Client::open(properties, Duration::from_secs(30)).await.expect("it answers");
        client.metadata(Some(&[topic.to_owned()])).await.expect("it answers").topics[0].topic_id
    })
}

/// Keeps a finished restore of the same plan whose target is `topic`; of partition 3 the place `hole` got nothing.
fn pretend(kafka: &Kafka, restore: &Restore<'_>, pretended: &Restore<'_>, topic: &str, hole: i64) {
    let id = topic_id(kafka, topic);
    let kept = restore.state();
    let state = pretended.state();
    let (_, kept_map) = restore.done();
    block_on(async {
        let plan = kept.plan().await.expect("it can be read").expect("there is one");
        let mut changed: Value = plan.plan.clone();
        changed["topics"][0]["target"] = topic.into();
        let plan = Plan::new(pretended.id(), "test", plan.target.clone(), &changed).expect("JSON");
        let mut map = OffsetMap::default();
        let mut starts = Vec::new();
        let mut outcomes = Vec::new();
        for (pair, _) in kept_map.iter() {
            let mut target = pair.target.clone();
            (target.topic, target.topic_id) = (topic.into(), id);
            let pair = Pair { source: pair.source.clone(), target };
            map.open(&pair, OffsetRange { first: 0, next: COUNT }, 0).expect("a range");
            let skipped = i64::from(pair.source.index == 3);
            map.push(&pair, 0, 0, hole.unsigned_abs()).expect("in order");
            map.push(&pair, hole, hole + skipped, (COUNT - hole).unsigned_abs()).expect("in order");
            map.finish(&pair, COUNT + skipped).expect("behind the last");
            starts.push(Start::new(pair.clone(), 0, 0));
            outcomes.push(Outcome { pair, records: COUNT.unsigned_abs(), end: COUNT, digest: None });
        }
        let _ = state.put_plan(&plan).await.expect("kept");
        let _ = state.begin(Attempt::new(&plan, (1, 0), Process::this(), starts)).await.expect("kept");
        let (_, map_digest) = state.put_map(&map).await.expect("kept");
        let done = Done {
            restore_id: pretended.id().to_owned(),
            finished_at: plan.made_at.clone(),
            attempt: 0,
            records: 0,
            bytes: 0,
            left_out: 0,
            map_digest,
            partitions: outcomes,
        };
        let _ = state.finish(&done).await.expect("kept");
    });
}

#[test]
fn each_record_that_is_another_in_the_target_is_found_where_it_is() {
    let kafka = Kafka::shared();
    let mut backup = None;
    let restore = restored(kafka, &mut backup, "verified", 8);
    let source = read_committed(kafka, restore.names()[0]);
    let target = kafka.topic("verified-altered", 8, &[]);
    let of = |partition: i32| -> Vec<Record> {
        source.iter().filter(|record| record.partition == partition).cloned().collect()
    };
    let mut altered: Vec<Vec<Record>> = (0..8).map(of).collect();
    altered[1][5].value.as_mut().expect("a value")[0] ^= 1;
    let _ = altered[2].pop();
    let one_more = altered[3][7].clone();
    altered[3].insert(7, one_more);
    altered[4].swap(9, 10);
    altered[5][0].headers.push(("more".to_owned(), None));
    altered[6][19].timestamp += 1;
    let _ = altered[7].remove(3);
    let _ = Writer::new(kafka, &[("linger.ms", "20")]).write(&target, &altered.concat());
    let pretended = Restore::named(kafka, restore.backup, &[restore.names()[0]], "pretended");
    pretend(kafka, &restore, &pretended, &target, 7);
    let ended = pretended.verify(&["-o", "json"]);
    assert_eq!(ended.code, Some(4), "{ended:#?}");
    let data: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let pairs = data["restored"]["pairs"].as_array().expect("pairs");
    for (index, pair) in pairs.iter().enumerate() {
        let is_same = pair["archive_digest"] == pair["target_digest"];
        assert_eq!((is_same, &pair["result"] == "the same"), (index == 0, index == 0), "{pair}");
    }
    let wanted = [
        ("1", Some(5), "source offset 5, at offset 5", "its value is another"),
        ("2", Some(19), "source offset 19, at offset 19", "missing in the target"),
        ("3", None, "source offset none, at offset 7", "one too many"),
        ("4", Some(9), "source offset 9, at offset 9", "its key is another; 2 records differ in all"),
        ("5", Some(0), "source offset 0, at offset 0", "its headers are others"),
        ("6", Some(19), "source offset 19, at offset 19", "its time is another"),
        ("7", Some(3), "source offset 3, at offset 3", "its key is another; 17 records differ in all"),
    ];
    let findings = data["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), wanted.len(), "{findings:#?}");
    for (found, (partition, offset, place, what)) in findings.iter().zip(wanted) {
        assert_eq!((&found["what"], &found["partition"]), (&"difference".into(), &partition.into()), "{found}");
        assert_eq!(found["first_offset"].as_i64(), offset, "{found}");
        let detail = found["detail"].as_str().expect("text");
        let place = format!("the record at {place} of {target}-{partition}: ");
        assert!(detail.starts_with(&place) && detail.contains(what), "{detail}");
    }
    let table = pretended.verify(&[]);
    assert!(table.code == Some(4) && table.stdout.contains("compared with restore pretended-"), "{table:#?}");
}

#[test]
fn what_cannot_be_compared_with_a_target_is_said_and_is_no_success() {
    let kafka = Kafka::shared();
    let mut backup = None;
    let restore = restored(kafka, &mut backup, "verified-not", 2);
    let target = restore.target().to_owned();
    let _ = restore.verify(&["--state", restore.backup.archive()]).ok();
    // A marker, and three records.
    kafka.delete_records(&target, 0, 4);
    let ended = restore.verify(&[]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stdout.contains("3 records of ") && ended.stdout.contains("has deleted them since"), "{ended:#?}");
    kafka.delete(&target);
    let ended = restore.verify(&[]);
    assert!(ended.code == Some(1) && ended.stdout.contains("does not have the topic any more"), "{ended:#?}");
    kafka.create(&target, 2, &[]);
    let ended = restore.verify(&[]);
    assert!(ended.code == Some(1) && ended.stdout.contains("the topic was made anew since"), "{ended:#?}");

    let planned = Restore::named(kafka, restore.backup, &[restore.names()[0]], "planned");
    block_on(async {
        let plan = restore.state().plan().await.expect("it can be read").expect("there is one");
        let plan = Plan::new(planned.id(), "test", plan.target.clone(), &plan.plan).expect("JSON");
        let _ = planned.state().put_plan(&plan).await.expect("kept");
    });
    let ended = planned.verify(&[]);
    assert!(ended.code == Some(1) && ended.stdout.contains("the restore is planned"), "{ended:#?}");
    let none = Restore::named(kafka, restore.backup, &[restore.names()[0]], "none");
    none.verify(&[]).fails_with(10, &["there is no restore `none-"]);
    planned.verify(&["--against-cluster"]).fails_with(2, &["--against-cluster"]);
}
