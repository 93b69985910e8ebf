//! Dangers of what records are, of who reads and sends besides, and of what a cluster does not take; as in `hazards`.

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::restore::Restore;
use crate::restore::hazards::assert_told;
use crate::support::agent::Backup;
use crate::support::kafka::{DESCRIBE, EVERYTHING, GROUP, Kafka, TRANSACTIONAL_ID};
use crate::support::reader::{Record, read_committed};
use crate::support::wait_for;
use crate::support::workload::{Contents, Writer};

/// Makes a topic of one partition with these records, and a backup of it.
fn backed_up(kafka: &Kafka, theme: &str, records: &[Record]) -> (String, Backup) {
    let topic = kafka.topic(theme, 1, &[]);
    let _ = Writer::new(kafka, &[("batch.num.messages", "5")]).write(&topic, records);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "1KiB");
    let _ = backup.backup().ok();
    (topic, backup)
}

#[test]
fn records_without_a_key_for_a_compacted_topic_are_counted_and_told() {
    let kafka = Kafka::shared();
    let mut records = Contents::new().records(1, 40, 100);
    records.iter_mut().for_each(|record| record.key = Some(b"key".to_vec()));
    records.iter_mut().skip(30).for_each(|record| record.key = None);
    let (topic, backup) = backed_up(kafka, "danger-keys", &records);
    let restore = || Restore::named(kafka, &backup, &[&topic], "compacted");
    kafka.create(restore().target(), 1, &[("cleanup.policy", "compact")]);
    let words = [&*format!("{topic}-compacted-0"), "10 records have no key"];
    let accepted = assert_told(kafka, restore, "null-keys", &words);
    // The target takes what lies before them.
    accepted.run().fails_with(1, &["InvalidRecord", &topic, "each needs a key"]);
    let brought = read_committed(kafka, accepted.target());
    assert!(brought.iter().all(|record| record.key.is_some()), "{brought:?}");
    // What has none is not asked for.
    let before = Restore::named(kafka, &backup, &[&topic], "keyed").source(&format!("offsets = [\"{topic}-0:0..30\"]"));
    kafka.create(before.target(), 1, &[("cleanup.policy", "compact"), ("min.compaction.lag.ms", "600000")]);
    let _ = before.run().ok();
    before.assert_brought(kafka, |record| record.offset < 30);
}

#[test]
fn a_record_that_is_larger_than_the_target_takes_is_told_where_the_index_proves_it() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let mut records = contents.records(1, 10, 100);
    let large = Record { timestamp: -1, value: Some(contents.noise(20_000)), ..Record::default() };
    let topic = kafka.topic("danger-large", 1, &[]);
    let writer = Writer::new(kafka, &[]);
    let _ = writer.write(&topic, &records);
    let _ = writer.write(&topic, std::slice::from_ref(&large));
    records.push(large);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "1KiB");
    let _ = backup.backup().ok();
    let restore = || Restore::of(kafka, &backup, &[&topic]);
    kafka.create(restore().target(), 1, &[("max.message.bytes", "10000")]);
    let accepted = assert_told(kafka, restore, "record-too-large", &["max.message.bytes is 10000", "20"]);
    accepted.run().fails_with(1, &[&topic, "partition 0", "offset 10", "max.message.bytes 10000", "raise"]);
}

#[test]
fn a_group_that_reads_a_target_is_told_before_it_has_committed_anything() {
    let kafka = Kafka::shared();
    let (topic, backup) = backed_up(kafka, "danger-group", &Contents::new().records(1, 20, 100));
    let restore = || Restore::of(kafka, &backup, &[&topic]);
    kafka.create(restore().target(), 1, &[]);
    let group = format!("{topic}-readers");
    let consumer: BaseConsumer = kafka
        .client(&[("group.id", &group), ("enable.auto.commit", "false"), ("auto.offset.reset", "earliest")])
        .create()
        .expect("a consumer");
    consumer.subscribe(&[restore().target()]).expect("subscribed");
    wait_for("the group is active", || {
        let _ = consumer.poll(std::time::Duration::from_millis(50));
        consumer.assignment().is_ok_and(|assigned| assigned.count() > 0).then_some(())
    });
    let accepted = assert_told(kafka, restore, "active-groups", &[&group, &topic]);
    let _ = accepted.run().ok();
    accepted.assert_brought(kafka, |_| true);
}

#[test]
fn that_nobody_can_be_fenced_off_is_told() {
    let kafka = Kafka::shared_with_disk();
    let (topic, backup) = backed_up(kafka, "danger-fence", &Contents::new().records(1, 20, 100));
    let restore = || Restore::of(kafka, &backup, &[&topic]);
    let id = restore().id().to_owned();
    kafka.rule((TRANSACTIONAL_ID, &format!("kafka-backup-restore-{id}")), EVERYTHING, false);
    let accepted = assert_told(kafka, restore, "no-fence", &[&id, "allow WRITE and DESCRIBE"]);
    let _ = accepted.run().ok();
    accepted.assert_brought(kafka, |_| true);
    let ends = kafka.ends(accepted.target());
    assert_eq!(ends, [20], "there is no marker");
}

#[test]
fn what_transactions_need_is_asked_for_before_anything_is_made() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("danger-within", 2, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 10, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let spread = |name: &str| {
        let restore = Restore::named(kafka, &backup, &[&topic], name);
        restore.sink(&format!("repartition = [\"{topic}-{name}:1\"]"))
    };
    let place = |restore: &Restore<'_>| format!("kafka-backup-restore-{}", restore.id());
    // The group may be seen, and not be committed to.
    let seen = spread("seen");
    kafka.rule((GROUP, &place(&seen)), DESCRIBE, true);
    let words = [&*format!("group \"{}\"", place(&seen)), "allow READ on group"];
    for arguments in [&["--dry-run"][..], &[]] {
        seen.run_with(arguments).fails_with(1, &words);
    }
    let unseen = spread("unseen");
    kafka.rule((GROUP, &place(&unseen)), EVERYTHING, false);
    unseen.run().fails_with(1, &[&place(&unseen), "GroupAuthorizationFailed", "allow READ on the group"]);
    // The transactional id may be seen, and not be used: that only its coordinator tells, when a plan is performed.
    let unused = spread("unused");
    kafka.rule((TRANSACTIONAL_ID, &place(&unused)), DESCRIBE, true);
    unused.run().fails_with(2, &["no-fence", &place(&unused), "allow WRITE and DESCRIBE"]);
    let accepted = spread("unused").accept(&["no-fence"]);
    accepted.run().fails_with(1, &["come together in", "needs transactions", "allow WRITE and DESCRIBE"]);
    let made = kafka.topics();
    assert!([seen, unseen, unused].iter().all(|restore| !made.contains(restore.target())), "{made:?}");
}

#[test]
fn settings_that_the_cluster_does_not_take_are_told_and_left_out() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("danger-setting", 1, &[("retention.ms", "900000000"), ("segment.bytes", "10000000")]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, 20, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    // As an older Kafka would have told it.
    let object = backup.timelines(&topic)[0].join("topic-0.json");
    let text = std::fs::read_to_string(&object).expect("it is there");
    let text = text.replace("\"segment.bytes\"", "\"message.format.version\"");
    // It ends with its checksum, of all before it.
    let told = &text[..text.len() - 12];
    std::fs::write(&object, format!("{told}{:08x}\"\n}}\n", crc32c::crc32c(told.as_bytes()))).expect("written");
    let restore = || Restore::of(kafka, &backup, &[&topic]);
    let accepted = assert_told(kafka, restore, "settings-left-out", &["message.format.version=10000000"]);
    let _ = accepted.run().ok();
    accepted.assert_brought(kafka, |_| true);
    let settings = kafka.settings(accepted.target());
    assert_eq!(settings.into_iter().collect::<Vec<_>>(), [("retention.ms".to_owned(), "900000000".to_owned())]);
}

#[test]
fn a_transaction_in_flight_at_the_savepoint_is_told() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("danger-flight", 1, &[]);
    let (open, plain) = (Writer::transactional(kafka, "flight"), Writer::new(kafka, &[]));
    let _ = plain.write(&topic, &contents.records(1, 10, 100));
    open.begin();
    let _ = open.write(&topic, &contents.records(1, 5, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let savepoint = crate::savepoints::savepoints(&backup).pop().expect("there is one");
    let _ = open.write(&topic, &contents.records(1, 5, 100));
    open.commit();
    let _ = backup.backup().ok();
    let restore = || Restore::of(kafka, &backup, &[&topic]).source(&format!("savepoint = {:?}", savepoint.name));
    let accepted = assert_told(kafka, restore, "transactions-in-flight", &[&topic, "1 transaction was in flight"]);
    let _ = accepted.run().ok();
    accepted.assert_brought(kafka, |record| record.offset < 10);
}
