//! The commands that read an archive: parts of it that are asked for, and damage that must not pass unseen.

use std::fs;

use crate::support::agent::Backup;
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_committed};
use crate::support::workload::{Contents, Writer};

/// A topic of two partitions in several segments, with transactions and times out of order, and its archive.
fn archived(theme: &str) -> (Backup, String, Vec<Record>) {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic(theme, 2, &[]);
    let (a, b) = (Writer::transactional(kafka, "a"), Writer::transactional(kafka, "b"));
    let now = jiff::Timestamp::now().as_millisecond();
    for round in 0..5 {
        let mut records = contents.records(2, 100, 300);
        for (number, record) in records.iter_mut().enumerate() {
            record.timestamp = now - 1000 * ((number as i64 * 37 + round) % 200);
        }
        let _ = a.commit_records(&topic, &records);
        let _ = b.abort_records(&topic, &records[..20]);
    }
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "16KiB");
    let _ = backup.backup().ok();
    assert!(backup.chain(&topic, 0).0.len() > 4);
    let consumed = read_committed(kafka, &topic);
    (backup, topic, consumed)
}

#[test]
fn cat_prints_exactly_the_part_that_is_asked_for() {
    let (backup, topic, consumed) = archived("parts");
    let middle = consumed[0].timestamp.max(consumed[1].timestamp);
    let time = middle.to_string();
    let check = |arguments: &[&str], wanted: &dyn Fn(&Record) -> bool| {
        let wanted: Vec<_> = consumed.iter().filter(|record| wanted(record)).cloned().collect();
        assert!(!wanted.is_empty(), "{arguments:?} asks for something");
        assert!(backup.cat_with(&topic, arguments) == wanted, "{arguments:?}");
    };
    check(&["--partition", "1"], &|record| record.partition == 1);
    check(&["--from-offset", "211"], &|record| record.offset >= 211);
    check(&["--to-offset", "211"], &|record| record.offset < 211);
    check(&["--from-offset", "100", "--to-offset", "333"], &|record| (100..333).contains(&record.offset));
    check(&["--from-time", &time], &|record| record.timestamp >= middle);
    check(&["--to-time", &time], &|record| record.timestamp < middle);
    assert_eq!(backup.cat_with(&topic, &["--partition", "0", "--limit", "7"]), consumed[..7]);
}

#[test]
fn every_reading_command_prints_every_format() {
    let (backup, topic, _) = archived("formats");
    for verb in ["describe", "verify", "show-offset-mapping"] {
        assert!(backup.command(verb, &[]).ok().contains(&topic), "{verb} names the topic");
        let json = backup.command(verb, &["--format", "json"]).ok();
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{verb}: {json}");
        let csv = backup.command(verb, &["--format", "csv"]).ok();
        let columns = |line: &str| line.matches(',').count();
        let header = columns(csv.lines().next().expect("a header"));
        assert!(header > 0 && csv.lines().all(|line| columns(line) == header), "{verb}: {csv}");
    }
    let mapping = backup.command("show-offset-mapping", &["--format", "csv"]).ok();
    assert!(mapping.starts_with("topic,partition,first_offset,last_offset,record_count,topic_id\n"), "{mapping}");
    let list = crate::support::agent::program_with(&["list", "--path", backup.archive()]).ok();
    assert!(list.contains("test"), "{list}");
}

#[test]
fn a_changed_byte_is_found_and_named() {
    let (backup, topic, _) = archived("flipped");
    let segment = &backup.chain(&topic, 0).0[2];
    let mut bytes = segment.bytes.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&segment.path, bytes).expect("it is writable");
    let name = segment.path.file_name().and_then(|name| name.to_str()).expect("a name");
    let verified = backup.command("verify", &["--deep"]);
    assert_eq!(verified.code, Some(4), "{verified:#?}");
    assert!((verified.stdout + &verified.stderr).contains(name), "{name} is named");
    assert_eq!(backup.command("cat", &["--topic", &topic]).code, Some(4));
}

#[test]
fn a_missing_segment_is_a_hole_and_a_missing_sidecar_is_damage() {
    let (backup, topic, _) = archived("missing");
    let segment = &backup.chain(&topic, 0).0[1];
    let sidecar = fs::read_dir(segment.path.parent().expect("a folder")).expect("it is there");
    let mut sidecars = sidecar.map(|entry| entry.expect("an entry").path());
    let stem = format!("{:020}.", segment.first);
    let is_sidecar = |name: &str| name.starts_with(&stem) && name.ends_with(".index");
    let sidecar = sidecars.find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_sidecar));
    let (sidecar, kept) = (sidecar.expect("each segment has one"), backup.folder().join("kept"));
    fs::rename(&sidecar, &kept).expect("it can be moved");
    let verified = backup.command("verify", &["--deep"]);
    assert_eq!(verified.code, Some(4), "without its sidecar: {verified:#?}");
    fs::rename(&kept, &sidecar).expect("it can be moved");
    let _ = backup.command("verify", &["--deep"]).ok();
    fs::rename(&segment.path, &kept).expect("it can be moved");
    let verified = backup.command("verify", &["--deep"]);
    assert_eq!(verified.code, Some(5), "without the segment: {verified:#?}");
    let range = format!("{}", segment.first);
    assert!((verified.stdout + &verified.stderr).contains(&range), "where the hole begins is named");
}
