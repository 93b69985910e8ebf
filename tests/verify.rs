//! `verify` on real backups: what a plain check finds, what a deep one does, what only the source can tell, and the
//! check beside a running agent.

use std::fs;
use std::path::Path;

use kafka_backup::archive::sidecar::{self, Sidecar};
use kafka_backup::archive::{Backup as Told, layout, sealed};
use kafka_backup::batch;
use kafka_backup::batch::Compression;
use kafka_backup::batch::records::{self, Records};

use crate::support::agent::{Backup, Ended};
use crate::support::chain::{Segment, headers};
use crate::support::kafka::Kafka;
use crate::support::wait_for;
use crate::support::workload::{Contents, Writer};

/// A producer whose batches hold ten records each.
fn writer_of_tens(kafka: &Kafka) -> Writer {
    Writer::new(kafka, &[("batch.num.messages", "10"), ("linger.ms", "50")])
}

/// A topic of one partition with a hundred records in batches of ten, and its archive in several segments.
fn archived(kafka: &Kafka, theme: &str, configs: &[(&str, &str)]) -> (Backup, String) {
    let topic = kafka.topic(theme, 1, configs);
    let _ = writer_of_tens(kafka).write(&topic, &Contents::new().records(1, 100, 1000));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "16KiB");
    let _ = backup.backup().ok();
    assert!(backup.chain(&topic, 0).0.len() >= 3);
    (backup, topic)
}

fn against(backup: &Backup, kafka: &Kafka) -> Ended {
    backup.command("verify", &["--against-cluster", "-b", kafka.brokers()])
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("a name")
}

/// The path of a segment's sidecar.
fn sidecar_of(segment: &Segment) -> std::path::PathBuf {
    let stem = format!("{:020}.", segment.first);
    let mut files = fs::read_dir(segment.path.parent().expect("a folder")).expect("it is there");
    let is_sidecar = |name: &str| name.starts_with(&stem) && name.ends_with(".index");
    let found = files.find_map(|file| Some(file.ok()?.path()).filter(|path| is_sidecar(name_of(path))));
    found.expect("each segment has one")
}

#[test]
fn a_flipped_bit_is_found_by_a_deep_check_and_a_lost_log_by_both() {
    let (backup, topic) = archived(Kafka::shared(), "verify-flipped", &[]);
    let segment = &backup.chain(&topic, 0).0[1];
    let at = headers(&segment.bytes)[1];
    let mut flipped = segment.bytes.clone();
    flipped[at.position + at.bytes / 2] ^= 1;
    fs::write(&segment.path, flipped).expect("writable");
    let _ = backup.command("verify", &[]).ok();
    let deep = backup.command("verify", &["--deep"]);
    assert_eq!(deep.code, Some(4), "{deep:#?}");
    let offsets = format!("offsets [{}, {})", at.base_offset, at.last_offset + 1);
    assert!(deep.stdout.contains(&offsets) && deep.stdout.contains(name_of(&segment.path)), "{}", deep.stdout);

    fs::remove_file(&segment.path).expect("writable");
    for arguments in [&[][..], &["--deep"]] {
        let verified = backup.command("verify", arguments);
        assert_eq!(verified.code, Some(5), "{verified:#?}");
        let offsets = format!("hole: offsets [{}, {})", segment.first, segment.next);
        assert!(verified.stdout.contains(&offsets), "{}", verified.stdout);
    }
}

#[test]
fn an_archive_is_what_its_source_has() {
    let kafka = Kafka::shared();
    let (backup, topic) = archived(kafka, "verify-same", &[]);
    // What came since is not compared.
    let _ = writer_of_tens(kafka).write(&topic, &Contents::new().records(1, 30, 1000));
    let compared = against(&backup, kafka).ok();
    assert!(compared.contains("compared with the source: 1 partition, 100 offsets"), "{compared}");
    kafka.delete_records(&topic, 0, 37);
    let compared = against(&backup, kafka).ok();
    assert!(compared.contains("no longer there: offsets [0, 37)"), "{compared}");
    assert!(compared.contains("compared with the source: 1 partition, 63 offsets"), "{compared}");
    let json = backup.command("verify", &["--against-cluster", "-b", kafka.brokers(), "-o", "json"]).ok();
    let data: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&data["compared"]["offsets"], &data["sound"], &data["mode"]),
        (&63.into(), &true.into(), &"plain".into())
    );
}

#[test]
fn aborted_transactions_and_many_partitions_are_compared_too() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("verify-transactions", 20, &[]);
    let (a, b) = (Writer::transactional(kafka, "a"), Writer::transactional(kafka, "b"));
    for _ in 0..3 {
        let _ = a.commit_records(&topic, &contents.records(20, 400, 200));
        let _ = b.abort_records(&topic, &contents.records(20, 200, 200));
    }
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "8KiB");
    let _ = backup.backup().ok();
    let compared = against(&backup, kafka).ok();
    let offsets: i64 = (0..20).map(|partition| backup.chain(&topic, partition).next()).sum();
    assert!(compared.contains(&format!("compared with the source: 20 partitions, {offsets} offsets")), "{compared}");
    assert!(!compared.contains("compacted"), "{compared}");
}

#[test]
fn what_the_log_cleaner_has_taken_since_is_no_difference() {
    let kafka = Kafka::shared();
    let compacted = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.ms", "100"),
        ("min.compaction.lag.ms", "0"),
        ("delete.retention.ms", "0"),
    ];
    let topic = kafka.topic("verify-compacted", 1, &compacted);
    let mut contents = Contents::new();
    let mut records = contents.records(1, 100, 200);
    for (n, record) in records.iter_mut().enumerate() {
        record.key = Some(format!("key-{}", n % 7).into_bytes());
    }
    let _ = writer_of_tens(kafka).write(&topic, &records);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let held = backup.chain(&topic, 0);
    // A record in a segment of its own closes the one before, which the cleaner then may take.
    wait_for("the cleaner has been here", || {
        let _ = writer_of_tens(kafka).write(&topic, &contents.records(1, 1, 10));
        let left = crate::support::reader::read_committed(kafka, &topic);
        (left.iter().filter(|record| record.offset < held.next()).count() < 50).then_some(())
    });
    let compared = against(&backup, kafka).ok();
    assert!(compared.contains("compacted since: offsets ["), "{compared}");
    assert!(compared.contains("sound, compacted since"), "{compared}");
}

/// Writes a segment again with another value in the middle record of its second batch, all checksums and names right;
/// returns that record's offset.
fn forge(segment: &Segment) -> i64 {
    let at = headers(&segment.bytes)[1];
    let bytes = bytes::Bytes::copy_from_slice(&segment.bytes[at.position..at.position + at.bytes]);
    let header = batch::Header::read(&bytes).expect("sound");
    let mut changed: Vec<_> =
        Records::of(&header, &bytes).expect("sound").map(|record| record.expect("sound")).collect();
    let middle = changed.len() / 2;
    let mut value = changed[middle].value.clone().expect("a value").to_vec();
    value[0] ^= 1;
    changed[middle].value = Some(value.into());
    let forged = records::encode(&header, &changed, Compression::None).expect("it fits");
    let log = [&segment.bytes[..at.position], &forged, &segment.bytes[at.position + at.bytes..]].concat();
    let old = sidecar_of(segment);
    let said = Sidecar::decode(&fs::read(&old).expect("readable")).expect("sound");
    let partition =
        kafka_backup::record::Partition { topic: "t".into(), topic_id: said.topic_id, index: said.partition };
    let open = kafka_backup::batch::transactions::OpenTransactions::default();
    let mut builder = kafka_backup::archive::segment::Builder::new(&partition, said.range.first, said.kind, open);
    let _ = builder.append(&log.clone().into(), &[], u64::MAX).expect("sound");
    let made: Sidecar = builder.seal().0;
    assert_ne!(said.kind, sidecar::Kind::Gap);
    fs::remove_file(&old).expect("writable");
    let name = layout::sidecar(made.range.first, made.length_bytes, made.digest);
    fs::write(old.with_file_name(name), made.encode()).expect("writable");
    fs::write(&segment.path, log).expect("writable");
    changed[middle].offset
}

#[test]
fn a_record_that_was_forged_throughout_is_found_by_the_source_alone() {
    let kafka = Kafka::shared();
    let (backup, topic) = archived(kafka, "verify-forged", &[]);
    let chain = backup.chain(&topic, 0);
    let segment = chain.0.last().expect("there are some");
    let offset = forge(segment);
    let _ = backup.command("verify", &["--deep"]).ok();
    let compared = against(&backup, kafka);
    assert_eq!(compared.code, Some(4), "{compared:#?}");
    let named = format!("{topic}: partition 0: difference: offsets [{offset}, {}): the record's value", offset + 1);
    assert!(
        compared.stdout.contains(&named) && compared.stdout.contains(name_of(&segment.path)),
        "{}",
        compared.stdout
    );
    compared.fails_with(4, &["differs from what it was compared with"]);
}

#[test]
fn what_could_not_be_compared_is_no_success() {
    let kafka = Kafka::shared();
    let (backup, topic) = archived(kafka, "verify-again", &[]);
    let nobody = ["--against-cluster", "-b", "127.0.0.1:1", "-X", "reconnect.backoff.ms=100"];
    let down = backup.command("verify", &nobody);
    assert_eq!(down.code, Some(1), "{down:#?}");
    assert!(down.stdout.contains("unchecked: the source could not be compared with"), "{}", down.stdout);
    let file = backup.file(layout::BACKUP);
    let kept = fs::read(&file).expect("readable");
    let told: Told = sealed::read(&kept).expect("sound");
    fs::write(&file, sealed::pretty(&Told { cluster_id: Some("another".into()), ..told })).expect("writable");
    let other = against(&backup, kafka);
    assert_eq!(other.code, Some(1), "{other:#?}");
    assert!(other.stdout.contains("the backup is of cluster another, this cluster is "), "{}", other.stdout);
    fs::write(&file, kept).expect("writable");
    kafka.delete(&topic);
    wait_for("the topic is gone", || {
        let gone = against(&backup, kafka);
        gone.stdout.contains("the source does not have the topic any more").then(|| assert_eq!(gone.code, Some(1)))
    });
    kafka.create(&topic, 1, &[]);
    let again = against(&backup, kafka);
    assert_eq!(again.code, Some(1), "{again:#?}");
    assert!(
        again.stdout.contains(&format!("{topic}: unchecked: the source has another topic of that name")),
        "{again:#?}"
    );
    backup.command("verify", &["-b", kafka.brokers()]).fails_with(2, &["--against-cluster"]);
}

#[test]
fn an_agent_checks_its_backup_and_says_what_is_wrong() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("verify-periodic", 1, &[]);
    let _ = writer_of_tens(kafka).write(&topic, &Contents::new().records(1, 100, 1000));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "16KiB").verify("every", "1s").verify("deep", "true");
    let mut agent = backup.run();
    let success = "kafka_backup_verify_last_success_timestamp_seconds";
    agent.wait_until("the archive is whole", |_| (backup.chain(&topic, 0).next() == 100).then_some(()));
    let first = agent.wait_until("it was checked", |agent| Some(agent.metric(success)).filter(|at| *at > 0.0));
    agent.wait_until("it is ready", |agent| agent.get("/readyz").filter(|(status, _)| *status == 200));
    let segment = &backup.chain(&topic, 0).0[1];
    let mut flipped = segment.bytes.clone();
    flipped[100] ^= 1;
    fs::write(&segment.path, flipped).expect("writable");
    let (_, body) =
        agent.wait_until("the damage is told", |agent| agent.get("/readyz").filter(|(status, _)| *status == 503));
    assert!(body.contains(name_of(&segment.path)) && body.contains("damaged log"), "{body}");
    assert!(
        agent.metric("kafka_backup_verify_findings") >= 1.0 && agent.log().contains("damaged log"),
        "{}",
        agent.log()
    );
    fs::write(&segment.path, &segment.bytes).expect("writable");
    agent.wait_until("it is right again", |agent| agent.get("/readyz").filter(|(status, _)| *status == 200));
    assert!(agent.metric(success) > first);
    agent.terminate();
}

#[test]
fn a_sidecar_that_was_there_already_is_the_one_that_catalogs_keep() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("verify-kept", 1, &[]);
    let _ = writer_of_tens(kafka).write(&topic, &Contents::new().records(1, 100, 1000));
    // Each batch is a segment: the first catalog stands for six.
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "1KiB");
    let killed = backup.backup_with(&[("KAFKA_BACKUP_CRASH_AT", "sidecar-created:3")]);
    assert_eq!(killed.signal, Some(9), "{killed:#?}");
    let _ = backup.backup().ok();
    assert!(backup.chain(&topic, 0).0.len() > 6);
    let catalogs = fs::read_dir(backup.timelines(&topic)[0].join("0/catalog/1")).expect("there are some");
    assert_eq!(catalogs.count(), 1);
    let _ = backup.command("verify", &["--deep"]).ok();
}
