//! Record formats v0 and v1, from a Kafka 2.8: their records come into the archive as batches of format v2, marked, and
//! nothing about them is changed.
//!
//! Witnesses: what the producers wrote, and the dump tools of both Kafkas, the old one's on the broker's log and the new
//! one's on ours. librdkafka is none: from version 12 of Fetch on it reads these formats no longer, without a word.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::stages::{INJECT, assert_records, injected, staged};
use crate::support::agent::Backup;
use crate::support::chain::{Chain, check_with_kafka, headers};
use crate::support::old_kafka::{self, OldKafka};
use crate::support::reader::Record;
use crate::support::workload::{Contents, Writer};

const V0: (&str, &str) = ("message.format.version", "0.9.0");
const V1: (&str, &str) = ("message.format.version", "0.10.2");
const V2: (&str, &str) = ("message.format.version", "2.8");
/// In place of a time that is the broker's.
const STAMPED: i64 = i64::MAX;
const CODECS: [&str; 4] = ["none", "gzip", "snappy", "lz4"];

/// Makes one pass over `topics`, each of one partition and in small segments, and holds it against the dump tools.
fn back_up_and_compare(old: &OldKafka, topics: &[&str]) -> Backup {
    let backup = Backup::of(old.kafka(), topics).sink("roll_bytes", "64KiB");
    let _ = backup.backup().ok();
    let theirs: Vec<Vec<PathBuf>> = topics.iter().map(|topic| old.logs(topic, 0)).collect();
    let segments = |topic: &&str| backup.chain(topic, 0).0.into_iter().map(|segment| segment.path).collect();
    let ours: Vec<Vec<PathBuf>> = topics.iter().map(segments).collect();
    let printed = old_kafka::dump(&ours.concat());
    let batches: usize = topics.iter().map(|topic| headers(&backup.chain(topic, 0).bytes()).len()).sum();
    assert_eq!(printed.matches("isvalid: true").count(), batches, "{printed}");
    assert!(!printed.contains("isvalid: false") && !printed.contains("invalid bytes"), "{printed}");
    let (theirs, ours) = (dumped(&old.dump(&theirs.concat()), &theirs), dumped(&printed, &ours));
    for ((topic, theirs), ours) in topics.iter().zip(theirs).zip(ours) {
        let differs = theirs.iter().zip(&ours).find(|(theirs, ours)| theirs != ours);
        assert!(differs.is_none(), "{topic}: the dumps of broker and archive have {differs:#?}");
        assert!(!ours.is_empty() && ours.len() == theirs.len(), "{topic}: {} records of {}", ours.len(), theirs.len());
        assert_eq!(backup.counts(topic), [(0, theirs.len())], "{topic}");
    }
    let _ = backup.command("verify", &["--deep"]).ok();
    backup
}

/// Asserts that `cat` shows these records of those that were `written`, the times too where those are the producer's.
#[track_caller]
fn assert_kept(backup: &Backup, topic: &str, written: &[Record], offsets: Range<i64>) {
    let cat = backup.cat(topic);
    assert!(cat.iter().map(|record| record.offset).eq(offsets), "{topic}");
    for record in &cat {
        let written = &written[record.offset as usize];
        let time = if written.timestamp == STAMPED { record.timestamp } else { written.timestamp };
        assert_eq!(record, &Record { offset: record.offset, timestamp: time, ..written.clone() }, "{topic}");
    }
}

/// What a dump tool says of a record.
#[derive(Debug, PartialEq, Eq)]
struct Dumped {
    offset: i64,
    /// `CreateTime` or `LogAppendTime`.
    kind: &'static str,
    time: i64,
    key_bytes: i64,
    value_bytes: i64,
    /// Key and value as text.
    data: String,
}

/// Reads what was printed of the logs of each topic.
fn dumped(printed: &str, topics: &[Vec<PathBuf>]) -> Vec<Vec<Dumped>> {
    let mut files = std::collections::HashMap::new();
    let mut file = None;
    for line in printed.lines() {
        if let Some(path) = line.strip_prefix("Dumping ") {
            file = Some(PathBuf::from(path));
        } else if line.starts_with("| offset: ") {
            files.entry(file.clone().expect("a file's name comes first")).or_insert_with(Vec::new).push(record(line));
        }
    }
    let of_topic = |logs: &Vec<PathBuf>| logs.iter().flat_map(|log| files.remove(log).unwrap_or_default()).collect();
    topics.iter().map(of_topic).collect()
}

fn record(line: &str) -> Dumped {
    let words: Vec<_> = line.split_whitespace().collect();
    let after = |name: &str| words.iter().position(|word| *word == name).map(|at| words[at + 1]);
    let number = |name: &str| after(name).map(|value| value.parse().unwrap_or_else(|e| panic!("{e}: {line}")));
    let kind = if after("LogAppendTime:").is_some() { "LogAppendTime" } else { "CreateTime" };
    // What has no time has no kind of time either; format v2 says "created at -1".
    let time = number("NoTimestampType:").or(number(&format!("{kind}:")));
    Dumped {
        offset: number("offset:").expect("an offset"),
        kind,
        time: time.expect("a time"),
        key_bytes: number("keySize:").expect("a size"),
        value_bytes: number("valueSize:").expect("a size"),
        data: line.find(" key: ").or(line.find(" payload: ")).map_or("", |at| &line[at..]).to_owned(),
    }
}

/// Makes records that the old formats can hold, without headers, created in another order than they are written; their
/// text is one line in a dump.
fn records(contents: &mut Contents, count: usize, bytes: usize) -> Vec<Record> {
    let now = jiff::Timestamp::now().as_millisecond();
    let mut records = contents.records(1, count, bytes);
    for (number, record) in (0..).zip(&mut records) {
        record.headers.clear();
        record.timestamp = now - (number * 7919) % 100_000;
        record.value.iter_mut().flatten().filter(|byte| **byte < b' ').for_each(|byte| *byte = b' ');
    }
    records
}

/// Writes `records` with `codec`, ten in a batch.
fn write(old: &OldKafka, topic: &str, codec: &str, records: &[Record]) {
    let properties = [("compression.type", codec), ("batch.num.messages", "10"), ("linger.ms", "20")];
    let _ = Writer::new(old.kafka(), &properties).write(topic, records);
}

/// Asserts that every batch of the topic is one that was made of an old format, and that `describe` counts them.
fn assert_all_converted(backup: &Backup, topic: &str) {
    let batches = headers(&backup.chain(topic, 0).bytes());
    assert!(batches.iter().all(|batch| batch.base_sequence == -3 && batch.leader_epoch == -1), "{topic}: {batches:?}");
    assert_eq!(described(backup, topic), batches.len() as u64, "{topic}");
}

/// Returns how many batches `describe` says to be made of an old format.
fn described(backup: &Backup, topic: &str) -> u64 {
    let text = backup.command("describe", &["--format", "json"]).ok();
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let found = json["topics"].as_array().expect("topics").iter().find(|found| found["topic"] == topic);
    found.expect("the topic")["partitions"][0]["converted_batches"].as_u64().expect("a count")
}

#[test]
fn every_codec_and_kind_of_time_of_the_old_formats_is_kept() {
    let (old, mut contents) = (OldKafka::shared(), Contents::new());
    let stamped = ("message.timestamp.type", "LogAppendTime");
    let settings: [(&str, &[(&str, &str)]); 3] = [("v0", &[V0]), ("v1", &[V1]), ("v1-stamped", &[V1, stamped])];
    let written = settings.map(|(theme, configs)| {
        let topic = old.kafka().topic(theme, 1, configs);
        let mut written = Vec::new();
        for codec in CODECS {
            let mut records = records(&mut contents, 150, 400);
            let fields = [None, Some(Vec::new()), Some(b"\xff\xfe".to_vec())];
            for (number, record) in records.iter_mut().enumerate() {
                let pick = |at: usize, own: &mut Option<Vec<u8>>| fields.get(at).cloned().unwrap_or(own.take());
                record.key = pick(number % 5, &mut record.key);
                record.value = pick(number / 5 % 7, &mut record.value);
            }
            write(old, &topic, codec, &records);
            written.append(&mut records);
        }
        for record in &mut written {
            record.timestamp = match theme {
                "v0" => -1,
                "v1" => record.timestamp,
                _ => STAMPED,
            };
        }
        (topic, written)
    });
    let topics = written.each_ref().map(|(topic, _)| topic);
    let backup = back_up_and_compare(old, &topics.map(String::as_str));
    for (topic, written) in &written {
        assert_kept(&backup, topic, written, 0..600);
        assert_all_converted(&backup, topic);
        // librdkafka leaves alone what does not become smaller.
        let codecs: BTreeSet<_> =
            headers(&backup.chain(topic, 0).bytes()).iter().map(|batch| batch.attributes & 7).collect();
        assert_eq!(codecs, BTreeSet::from([0, 1, 2, 3]), "{topic} keeps its codecs");
    }
    let page = backup.command("describe", &[]).ok();
    assert!(page.contains("Converted: partition 0, ") && !page.contains("1969"), "{page}");
}

#[test]
fn a_topic_whose_format_was_raised_and_lowered_again_is_one_log() {
    let (old, mut contents) = (OldKafka::shared(), Contents::new());
    let topic = old.kafka().topic("upgraded", 1, &[V0]);
    let mut written = Vec::new();
    for (format, codec) in [(V0, "lz4"), (V1, "none"), (V1, "gzip"), (V2, "zstd"), (V1, "snappy"), (V2, "lz4")] {
        old.configure(&topic, &[format]);
        let mut records = records(&mut contents, 60, 300);
        write(old, &topic, codec, &records);
        records.iter_mut().filter(|_| format == V0).for_each(|record| record.timestamp = -1);
        written.append(&mut records);
    }
    let backup = back_up_and_compare(old, &[&topic]);
    assert_kept(&backup, &topic, &written, 0..360);
    let batches = headers(&backup.chain(&topic, 0).bytes());
    let converted = batches.iter().filter(|batch| batch.base_sequence == -3).count();
    assert!(converted > 4 && converted < batches.len(), "{converted} of {}", batches.len());
    assert_eq!(described(&backup, &topic), converted as u64);
    let zstd = batches.iter().filter(|batch| batch.attributes & 7 == 4);
    assert!(zstd.clone().count() > 1 && zstd.into_iter().all(|batch| batch.leader_epoch == 0), "v2 is as it was");
}

#[test]
fn compacted_topics_of_old_formats_are_kept_with_their_holes() {
    let (old, mut contents) = (OldKafka::shared(), Contents::new());
    let compacted = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("delete.retention.ms", "86400000"),
        ("segment.bytes", "20000"),
        ("segment.index.bytes", "4096"),
    ];
    let topics = [V0, V1].map(|format| {
        let topic = old.kafka().topic("compacted-old", 1, &[&compacted[..], &[format]].concat());
        for round in 0..3 {
            for codec in CODECS {
                let mut records = records(&mut contents, 50, 300);
                // Three keys of five return in each round; the others are written once.
                for (number, record) in records.iter_mut().enumerate().filter(|(number, _)| number % 5 > 2) {
                    record.key = Some(format!("once-{round}-{codec}-{number}").into_bytes());
                }
                write(old, &topic, codec, &records);
            }
        }
        // What closes the segments in front of it.
        write(old, &topic, "none", &records(&mut contents, 100, 600));
        topic
    });
    topics.iter().for_each(|topic| old.wait_cleaned(topic, 0));
    let backup = back_up_and_compare(old, &topics.each_ref().map(String::as_str));
    for topic in &topics {
        assert_all_converted(&backup, topic);
        let batches = headers(&backup.chain(topic, 0).bytes());
        let holed = |codec: i16| {
            let of_codec = batches.iter().filter(move |batch| batch.attributes & 7 == codec);
            of_codec.filter(|batch| i64::from(batch.count) <= batch.last_offset - batch.base_offset).count()
        };
        assert!((0..4).all(|codec| holed(codec) > 0), "{topic}: each codec has batches with holes: {batches:?}");
    }
    // Through a stage they go like any other.
    let through = Backup::of(old.kafka(), &topics.each_ref().map(String::as_str)).sink("roll_bytes", "64KiB");
    assert_eq!(through.start_config("backup", &staged(&through, &[INJECT]), &[]).wait().code(), Some(0));
    for topic in &topics {
        assert_records(topic, &through.cat(topic), &injected(backup.cat(topic)));
        assert_all_converted(&through, topic);
        let batches = headers(&through.chain(topic, 0).bytes());
        assert!(batches.iter().any(|batch| i64::from(batch.count) <= batch.last_offset - batch.base_offset));
    }
    check_with_kafka(old.kafka(), &through, &topics.each_ref().map(String::as_str));
    let _ = through.command("verify", &["--deep"]).ok();
}

#[test]
fn a_chain_that_begins_inside_a_compressed_message_leaves_out_what_is_before() {
    let (old, mut contents) = (OldKafka::shared(), Contents::new());
    let topics = [V0, V1].map(|format| {
        let topic = old.kafka().topic("start-old", 1, &[format]);
        let mut records = records(&mut contents, 100, 100);
        write(old, &topic, "gzip", &records);
        old.kafka().delete_records(&topic, 0, 37);
        records.iter_mut().filter(|_| format == V0).for_each(|record| record.timestamp = -1);
        (topic, records)
    });
    let backup = Backup::of(old.kafka(), &topics.each_ref().map(|(topic, _)| topic.as_str()));
    let _ = backup.backup().ok();
    for (topic, written) in &topics {
        let chain = backup.chain(topic, 0);
        assert_eq!((chain.0[0].first, chain.next()), (37, 100));
        assert!(headers(&chain.bytes())[0].base_offset < 37, "{topic}: the message is taken whole");
        assert_kept(&backup, topic, written, 37..100);
        assert_eq!(backup.counts(topic), [(0, 63)]);
    }
    let _ = backup.command("verify", &["--deep"]).ok();
}

#[test]
fn a_topic_made_again_on_a_broker_that_fetches_by_name_is_never_spliced_onto_the_older() {
    let (old, mut contents) = (OldKafka::shared(), Contents::new());
    let topic = old.kafka().topic("remade-old", 1, &[V1]);
    write(old, &topic, "lz4", &records(&mut contents, 10, 100));
    // Whatever shows that the topic is another one, it is not a look that happens to be due.
    let backup = Backup::of(old.kafka(), &[&topic]).source("metadata_interval", "10m");
    let mut agent = backup.run();
    agent.wait_until("it archives", |_| (backup.chain(&topic, 0).next() == 10).then_some(()));
    for (format, count) in [(V1, 40), (V2, 80)] {
        let older = backup.timelines(&topic);
        let ends = |timelines: &[PathBuf]| -> Vec<_> {
            timelines.iter().map(|timeline| Chain::read(&timeline.join("0")).bytes()).collect()
        };
        let before = ends(&older);
        // Stopped, it meets the new one where the old one had been, at an offset that both have. The record ends the
        // Fetch that waits at the broker: the deletion would end it with an error, and give itself away.
        agent.signal(Signal::SIGSTOP);
        write(old, &topic, "none", &records(&mut contents, 1, 100));
        old.make_again(&topic, &[format]);
        let written = records(&mut contents, count, 100);
        write(old, &topic, "lz4", &written);
        agent.signal(Signal::SIGCONT);
        let newer = agent.wait_until("it archives the topic made again", |_| {
            let newer = backup.timelines(&topic).into_iter().find(|timeline| !older.contains(timeline))?;
            (Chain::read(&newer.join("0")).next() == count as i64).then_some(newer)
        });
        assert_eq!(Chain::read(&newer.join("0")).0[0].first, 0, "from its beginning");
        assert!(before == ends(&older), "nothing of the newer is in the older");
        assert_kept(&backup, &topic, &written, 0..count as i64);
    }
    assert_eq!(backup.timelines(&topic).len(), 3);
    agent.terminate();
    let _ = backup.command("verify", &["--deep"]).ok();
}
