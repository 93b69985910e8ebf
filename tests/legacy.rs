//! Record formats v0 and v1, from a Kafka 2.8: their records come into the archive as batches of format v2, marked, and
//! nothing about them is changed.
//!
//! Witnesses: a consumer (offsets, keys, values, times), and the dump tools of both Kafkas, the old one's on the
//! broker's log and the new one's on ours (offsets, times, kinds of time, sizes).

use std::path::PathBuf;

use crate::support::agent::Backup;
use crate::support::chain::headers;
use crate::support::old_kafka::{self, OldKafka};
use crate::support::reader::{Record, read_committed};
use crate::support::wait_for;
use crate::support::workload::{Contents, Writer};

const V0: (&str, &str) = ("message.format.version", "0.9.0");
const V1: (&str, &str) = ("message.format.version", "0.10.2");
const V2: (&str, &str) = ("message.format.version", "2.8");
const CODECS: [&str; 4] = ["none", "gzip", "snappy", "lz4"];

/// Makes one pass over `topics`, each of one partition and in small segments, and holds it against the witnesses.
fn back_up_and_compare(old: &OldKafka, topics: &[&str]) -> Backup {
    let backup = Backup::of(old.kafka(), topics).sink("roll_bytes", "64KiB");
    let _ = backup.backup().ok();
    compare(old, &backup, topics);
    backup
}

fn compare(old: &OldKafka, backup: &Backup, topics: &[&str]) {
    let (mut theirs, mut ours): (Vec<Vec<PathBuf>>, Vec<Vec<PathBuf>>) = (Vec::new(), Vec::new());
    for topic in topics {
        let consumed = read_committed(old.kafka(), topic);
        let cat = backup.cat(topic);
        let differs = consumed.iter().zip(&cat).find(|(theirs, ours)| theirs != ours);
        assert!(differs.is_none(), "{topic}: the consumer and `cat` see {differs:#?}");
        assert_eq!(cat.len(), consumed.len(), "{topic}: records that `cat` and the consumer see");
        assert_eq!(backup.counts(topic), [(0, consumed.len())], "{topic}");
        theirs.push(old.logs(topic, 0));
        ours.push(backup.chain(topic, 0).0.into_iter().map(|segment| segment.path).collect());
    }
    let printed = old_kafka::dump(&ours.concat());
    let batches: usize = ours.concat().iter().map(|log| headers(&std::fs::read(log).expect("a log")).len()).sum();
    assert_eq!(printed.matches("isvalid: true").count(), batches, "{printed}");
    assert!(!printed.contains("isvalid: false") && !printed.contains("invalid bytes"), "{printed}");
    let (theirs, ours) = (dumped(&old.dump(&theirs.concat()), &theirs), dumped(&printed, &ours));
    for ((topic, theirs), ours) in topics.iter().zip(theirs).zip(ours) {
        let first = ours.first().map_or(0, |line| line.offset);
        let held: Vec<_> = theirs.into_iter().filter(|line| line.offset >= first).collect();
        let differs = held.iter().zip(&ours).find(|(theirs, ours)| theirs != ours);
        assert!(differs.is_none(), "{topic}: the dumps of broker and archive have {differs:#?}");
        assert_eq!(ours.len(), held.len(), "{topic}: records in the dumps of archive and broker");
    }
    let _ = backup.command("verify", &[]).ok();
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
    }
}

/// Makes records that the old formats can hold: without headers.
fn records(contents: &mut Contents, count: usize, bytes: usize) -> Vec<Record> {
    let mut records = contents.records(1, count, bytes);
    records.iter_mut().for_each(|record| record.headers.clear());
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
    let topics = settings.map(|(theme, configs)| {
        let topic = old.kafka().topic(theme, 1, configs);
        let now = jiff::Timestamp::now().as_millisecond();
        for codec in CODECS {
            let mut records = records(&mut contents, 150, 400);
            for (number, record) in (0..).zip(&mut records) {
                // Created in another order than written.
                record.timestamp = now - (number * 7919) % 100_000;
                let fields = [None, Some(Vec::new()), Some(b"\xff\xfe".to_vec())];
                let pick = |at: i64| fields.get(at as usize).cloned();
                record.key = pick(number % 5).unwrap_or(record.key.take());
                record.value = pick(number / 5 % 7).unwrap_or(record.value.take());
            }
            write(old, &topic, codec, &records);
        }
        topic
    });
    let backup = back_up_and_compare(old, &topics.each_ref().map(String::as_str));
    for topic in &topics {
        assert_all_converted(&backup, topic);
        let mut codecs: Vec<_> =
            headers(&backup.chain(topic, 0).bytes()).iter().map(|batch| batch.attributes & 7).collect();
        codecs.dedup();
        assert_eq!(codecs, [0, 1, 2, 3], "{topic} keeps its codecs");
    }
    let page = backup.command("describe", &[]).ok();
    assert!(page.contains("Converted: partition 0, "), "{page}");
}

#[test]
fn a_topic_whose_format_was_raised_and_lowered_again_is_one_log() {
    let (old, mut contents) = (OldKafka::shared(), Contents::new());
    let topic = old.kafka().topic("upgraded", 1, &[V0]);
    for (format, codec) in [(V0, "lz4"), (V1, "none"), (V1, "gzip"), (V2, "zstd"), (V1, "snappy"), (V2, "lz4")] {
        old.configure(&topic, &[format]);
        write(old, &topic, codec, &records(&mut contents, 60, 300));
    }
    let backup = back_up_and_compare(old, &[&topic]);
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
                // Keys 0..30 return in each round; the others are written once.
                for (number, record) in records.iter_mut().enumerate().filter(|(number, _)| *number >= 30) {
                    record.key = Some(format!("once-{round}-{codec}-{number}").into_bytes());
                }
                write(old, &topic, codec, &records);
            }
        }
        // What closes the segments in front of it.
        write(old, &topic, "none", &records(&mut contents, 100, 600));
        topic
    });
    for topic in &topics {
        let clean = |records: usize| (records < 500).then_some(());
        wait_for("the cleaner has been there", || clean(read_committed(old.kafka(), topic).len()));
        wait_for("the cleaner is done", || {
            let (logs, seen) = (old.logs(topic, 0), read_committed(old.kafka(), topic));
            let same = || logs == old.logs(topic, 0) && seen == read_committed(old.kafka(), topic);
            (seen.len() < 400 && same()).then_some(())
        });
    }
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
}

#[test]
fn a_chain_that_begins_inside_a_compressed_message_leaves_out_what_is_before() {
    let (old, mut contents) = (OldKafka::shared(), Contents::new());
    let topics = [V0, V1].map(|format| {
        let topic = old.kafka().topic("start-old", 1, &[format]);
        write(old, &topic, "gzip", &records(&mut contents, 100, 100));
        old.kafka().delete_records(&topic, 0, 37);
        topic
    });
    let backup = Backup::of(old.kafka(), &topics.each_ref().map(String::as_str));
    let _ = backup.backup().ok();
    for topic in &topics {
        let chain = backup.chain(topic, 0);
        assert_eq!((chain.0[0].first, chain.next()), (37, 100));
        assert!(headers(&chain.bytes())[0].base_offset < 37, "{topic}: the message is taken whole");
        assert_eq!(backup.cat(topic), read_committed(old.kafka(), topic));
        assert_eq!(backup.counts(topic), [(0, 63)]);
    }
    let _ = backup.command("verify", &[]).ok();
}
