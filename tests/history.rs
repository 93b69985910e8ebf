//! What happened to topics between two passes: records expired, topics were deleted and made again. What happens to
//! them while an agent runs is in `topic_life`.

use crate::support::agent::Backup;
use crate::support::chain::{Chain, assert_same, headers};
use crate::support::kafka::{self, Kafka};
use crate::support::reader::read_committed;
use crate::support::workload::{Contents, Writer};

/// A producer whose batches hold ten records each.
fn writer_of_tens(kafka: &Kafka) -> Writer {
    Writer::new(kafka, &[("batch.num.messages", "10"), ("linger.ms", "50")])
}

#[test]
fn a_chain_begins_where_the_log_began_also_inside_a_batch() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("start", 1, &[]);
    let _ = writer_of_tens(kafka).write(&topic, &Contents::new().records(1, 100, 100));
    kafka.delete_records(&topic, 0, 37);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let chain = backup.chain(&topic, 0);
    assert_eq!((chain.0[0].first, chain.next()), (37, 100));
    let cat = backup.cat(&topic);
    assert_eq!(cat.first().map(|record| record.offset), Some(37), "records before the start are left out");
    assert_eq!(cat, read_committed(kafka, &topic));
    assert_eq!(backup.counts(&topic), [(0, 63)]);
    let _ = backup.command("verify", &["--deep"]).ok();
}

#[test]
fn records_that_expired_before_they_were_archived_leave_a_declared_gap() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("gap", 1, &[]);
    let (writer, mut contents) = (writer_of_tens(kafka), Contents::new());
    let _ = writer.write(&topic, &contents.records(1, 50, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let first = backup.cat(&topic);
    let _ = writer.write(&topic, &contents.records(1, 50, 100));
    kafka.delete_records(&topic, 0, 75);
    let _ = backup.backup().ok();
    let chain = backup.chain(&topic, 0);
    assert_eq!(chain.next(), 100);
    let gap = chain.0.iter().find(|segment| segment.first == 50).expect("a segment covers what was lost");
    assert!(headers(&gap.bytes).iter().all(|batch| batch.count == 0) && gap.next == 75, "{:?}", headers(&gap.bytes));
    let dumped = kafka::tool("kafka.tools.DumpLogSegments", &["--files", gap.path.to_str().expect("UTF-8")]);
    assert!(dumped.contains("isvalid: true") && !dumped.contains("isvalid: false"), "{dumped}");
    assert_eq!(backup.cat(&topic), [first, read_committed(kafka, &topic)].concat());
    assert_eq!(backup.counts(&topic), [(0, 75)]);
    let table = backup.command("show-offset-mapping", &[]).ok();
    assert!(table.to_lowercase().contains("gap"), "{table}");
    let _ = backup.command("verify", &["--deep"]).ok();
}

#[test]
fn a_topic_made_again_has_a_timeline_of_its_own() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("again", 1, &[]);
    let (mut contents, backup) = (Contents::new(), Backup::of(kafka, &[&topic]));
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(1, 30, 100));
    let _ = backup.backup().ok();
    let older = backup.timelines(&topic);
    let held = backup.chain(&topic, 0).bytes();
    kafka.delete(&topic);
    kafka.create(&topic, 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(1, 20, 100));
    let _ = backup.backup().ok();
    let mut timelines = backup.timelines(&topic);
    timelines.retain(|timeline| !older.contains(timeline));
    assert_eq!((older.len(), timelines.len()), (1, 1), "one folder each");
    assert_same("the older", &Chain::read(&older[0].join("0")).bytes(), &held);
    assert_same("the newer", &Chain::read(&timelines[0].join("0")).bytes(), &kafka.log_bytes(&topic, 0));
    let table = backup.command("show-offset-mapping", &[]).ok();
    let older_id = older[0].file_name().and_then(|name| name.to_str()).expect("a topic id");
    assert!(table.contains(older_id), "the older timeline is named below the topic:\n{table}");
    assert_eq!(backup.cat(&topic), read_committed(kafka, &topic), "the newest is meant unless told otherwise");
    let _ = backup.command("verify", &["--deep"]).ok();
}

#[test]
fn a_damaged_partition_of_the_source_does_not_keep_a_pass_from_the_others() {
    let kafka = Kafka::shared_with_disk();
    let (bad, good) = (kafka.topic("damaged", 1, &[]), kafka.topic("sound", 2, &[]));
    let (writer, mut contents) = (writer_of_tens(kafka), Contents::new());
    for topic in [&bad, &good] {
        let _ = writer.write(topic, &contents.records(1, 100, 500));
    }
    let log = &kafka.logs(&bad, 0)[0];
    let bytes = std::fs::read(log).expect("readable");
    let batches = headers(&bytes);
    let file = std::fs::OpenOptions::new().write(true).open(log).expect("writable");
    let at = batches[1].position + 100;
    std::os::unix::fs::FileExt::write_all_at(&file, &[bytes[at] ^ 1], at as u64).expect("written");

    let backup = Backup::of(kafka, &[&bad, &good]);
    backup.backup().fails_with(4, &[&bad, "partition 0", "checksum"]);
    assert_eq!(backup.cat(&good), read_committed(kafka, &good), "the others were read to their end");
    assert_eq!(backup.chain(&bad, 0).next(), batches[1].base_offset, "what came before the damage is held");
    let _ = backup.command("verify", &["--deep"]).ok();
}
