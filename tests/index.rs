//! Where an offset or a time is: what the agent answers while it writes, and what the reading commands find by the index,
//! against a plain reading of the chain.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::agent::{Agent, Backup};
use crate::support::chain::{Chain, headers};
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_committed};
use crate::support::s3::S3;
use crate::support::workload::{Contents, Load, Writer};
use crate::support::{wait_for, wait_within};

/// A committed segment is to be found within this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Asks the index of a partition; returns status and body.
fn ask(agent: &Agent, topic: &str, partition: i32, query: &str) -> (u16, Value) {
    let path = format!("/v1/index/test/{topic}/{partition}?{query}");
    let (status, body) = wait_for("the agent answers", || agent.get(&path));
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

/// Asserts that the answer for `offset` is the segment that covers it, and that one who reads from the position on gets
/// it.
#[track_caller]
fn assert_found(chain: &Chain, offset: i64, answer: &(u16, Value)) {
    let (status, place) = answer;
    assert_eq!(*status, 200, "offset {offset}: {place}");
    let segment = chain.0.iter().find(|segment| (segment.first..segment.next).contains(&offset)).expect("held");
    let name = segment.path.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(place["segment"].as_str().is_some_and(|key| key.ends_with(name)), "offset {offset}: {place}");
    let numbers = ["first_offset", "next_offset", "length_bytes", "position", "position_offset"];
    let [first, next, length, position, base] = numbers.map(|key| place[key].as_i64().expect("a number"));
    assert_eq!((first, next, length), (segment.first, segment.next, segment.bytes.len() as i64), "{place}");
    let batches = headers(&segment.bytes);
    let batch = batches.iter().find(|batch| batch.position as i64 == position).expect("a batch begins there");
    assert!(batch.base_offset == base && base <= offset, "offset {offset}: {place}");
}

#[test]
fn each_committed_segment_is_found_within_the_second_and_every_offset_and_time_after_it() {
    const ENOUGH: usize = 15;
    let kafka = Kafka::shared();
    let topic = kafka.topic("found", 2, &[]);
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "24KiB").sink("roll_interval", "300ms");
    let load = Load::start(kafka, &topic, 20, Duration::from_millis(50));
    let mut agent = backup.run();
    let mut found = [0, 0];
    agent.wait_until("segments are found as they come", |agent| {
        for partition in 0..2 {
            let chain = backup.chain(&topic, partition);
            let seen = &mut found[partition as usize];
            for segment in &chain.0[*seen..] {
                wait_within(AT_ONCE, "the committed segment is found", || {
                    let answer = ask(agent, &topic, partition, &format!("offset={}", segment.next - 1));
                    (answer.0 == 200).then(|| assert_found(&chain, segment.next - 1, &answer))
                });
            }
            *seen = chain.0.len();
        }
        found.iter().all(|seen| *seen >= ENOUGH).then_some(())
    });
    load.end();
    let written = read_committed(kafka, &topic);
    agent.wait_until("all is durable", |_| {
        let held: i64 = (0..2).map(|partition| backup.chain(&topic, partition).next()).sum();
        (held == written.len() as i64).then_some(())
    });
    let records = backup.cat(&topic);
    for partition in 0..2 {
        let chain = backup.chain(&topic, partition);
        for offset in 0..chain.next() {
            assert_found(&chain, offset, &ask(&agent, &topic, partition, &format!("offset={offset}")));
        }
        let of_partition: Vec<&Record> = records.iter().filter(|record| record.partition == partition).collect();
        assert_times(&agent, &topic, &chain, &of_partition);
        assert_refused(&agent, &topic, partition, chain.next());
        let (_, extent) = ask(&agent, &topic, partition, "");
        let expected = (&Value::from(chain.next()), &Value::from(chain.0.len()));
        assert_eq!((&extent["end_offset"], &extent["segments"]), expected, "{extent}");
    }
    agent.terminate();
}

#[test]
fn an_offset_inside_a_large_segment_is_answered_with_a_position_near_it() {
    const SPARSE_BYTES: i64 = 64 << 10;
    let kafka = Kafka::shared();
    let topic = kafka.topic("found-near", 1, &[]);
    let writer = Writer::new(kafka, &[("batch.num.messages", "10"), ("linger.ms", "5")]);
    let _ = writer.write(&topic, &Contents::new().records(1, 1000, 800));
    let backup = Backup::of(kafka, &[&topic]);
    let mut agent = backup.run();
    agent.wait_until("all is held", |_| (backup.chain(&topic, 0).next() == 1000).then_some(()));
    let chain = backup.chain(&topic, 0);
    let longest =
        |segment: &crate::support::chain::Segment| headers(&segment.bytes).iter().map(|batch| batch.bytes).max();
    let longest = chain.0.iter().filter_map(longest).max().expect("there are batches") as i64;
    for offset in (0..1000).step_by(7) {
        let answer = ask(&agent, &topic, 0, &format!("offset={offset}"));
        assert_found(&chain, offset, &answer);
        let segment = chain.0.iter().find(|segment| (segment.first..segment.next).contains(&offset)).expect("held");
        let batches = headers(&segment.bytes);
        let batch = batches.iter().find(|batch| batch.last_offset >= offset).expect("it is in one");
        let ahead = batch.position as i64 - answer.1["position"].as_i64().expect("a number");
        assert!((0..=SPARSE_BYTES + longest).contains(&ahead), "offset {offset}: {ahead} bytes ahead");
    }
}

/// Asserts that each time leads to the segment of the first record of that time or later, and not behind it.
#[track_caller]
fn assert_times(agent: &Agent, topic: &str, chain: &Chain, records: &[&Record]) {
    let mut times: Vec<_> = records.iter().flat_map(|record| [record.timestamp, record.timestamp - 1]).collect();
    times.sort_unstable();
    times.dedup();
    let partition = records[0].partition;
    for time in &times {
        let first = records.iter().find(|record| record.timestamp >= *time).expect("some are later");
        assert_found(chain, first.offset, &ask(agent, topic, partition, &format!("time={time}")));
    }
    let latest = times.last().expect("there are records");
    assert_eq!(ask(agent, topic, partition, &format!("time={}", latest + 1)).0, 404);
    let earliest = jiff::Timestamp::from_millisecond(times[0]).expect("a time");
    assert_found(chain, 0, &ask(agent, topic, partition, &format!("time={earliest}")));
}

/// Asserts that what is not held, or cannot be meant, is told so.
#[track_caller]
fn assert_refused(agent: &Agent, topic: &str, partition: i32, end: i64) {
    let (status, body) = ask(agent, topic, partition, &format!("offset={end}"));
    let message = body["message"].as_str().expect("a message");
    assert!(status == 404 && message.contains(&format!("up to offset {end}")), "{body}");
    for (query, expected) in
        [("offset=x", 400), ("offset=-1", 400), ("time=soon", 400), ("fork=1", 400), ("fork=1-1", 404)]
    {
        let (status, body) = ask(agent, topic, partition, query);
        assert_eq!((status, &body["error_code"]), (expected, &expected.into()), "{query}: {body}");
    }
    assert_eq!(ask(agent, topic, 99, "offset=0").0, 404);
    assert_eq!(ask(agent, "none", partition, "offset=0").0, 404);
    assert_eq!(agent.get(&format!("/v1/index/other/{topic}/0")).expect("an answer").0, 404);
    assert_eq!(agent.get("/v1/other").expect("an answer").0, 404);
    let (status, backups) = agent.get("/v1/backups").expect("an answer");
    let backups: Value = serde_json::from_str(&backups).expect("JSON");
    assert_eq!((status, &backups[0]["backup"], &backups[0]["running"]), (200, &"test".into(), &true.into()));
}

#[test]
fn an_offset_in_a_gap_is_answered_with_the_gap_and_a_time_with_what_follows() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("found-gap", 1, &[]);
    let (writer, mut contents) = (Writer::new(kafka, &[("batch.num.messages", "10")]), Contents::new());
    let _ = writer.write(&topic, &contents.records(1, 50, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let held = backup.cat(&topic);
    let _ = writer.write(&topic, &contents.records(1, 50, 100));
    kafka.delete_records(&topic, 0, 75);
    let mut agent = backup.run();
    agent.wait_until("all is held", |_| (backup.chain(&topic, 0).next() == 100).then_some(()));
    let chain = backup.chain(&topic, 0);
    let kind = |offset| {
        let (status, place) = ask(&agent, &topic, 0, &format!("offset={offset}"));
        assert_eq!(status, 200, "offset {offset}: {place}");
        place["kind"].as_str().expect("a kind").to_owned()
    };
    let kinds: Vec<_> = (0..100).map(kind).collect();
    assert!(kinds[..50].iter().all(|kind| kind == "first") && kinds[50..75].iter().all(|kind| kind == "gap"));
    assert!(kinds[75..].iter().all(|kind| kind == "data"), "{kinds:?}");
    let after = held.iter().map(|record| record.timestamp).max().expect("some") + 1;
    let (status, place) = ask(&agent, &topic, 0, &format!("time={after}"));
    assert_eq!((status, &place["first_offset"]), (200, &75.into()), "{place}");
    assert_found(&chain, 80, &ask(&agent, &topic, 0, "offset=80"));
    let printed = backup.cat_with(&topic, &["--from-offset", "60", "--limit", "1"]);
    assert_eq!(printed.first().map(|record| record.offset), Some(75));
}

#[test]
fn a_savepoint_is_made_when_this_machine_asks_for_one() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("asked", 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, 10, 100));
    let backup = Backup::of(kafka, &[&topic]).source("savepoint_interval", "off");
    let mut agent = backup.run();
    agent.wait_until("all is held", |_| (backup.chain(&topic, 0).next() == 10).then_some(()));
    let (status, made) = agent.post("/v1/savepoints/test").expect("an answer");
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let name = made["savepoint"].as_str().unwrap_or_else(|| panic!("{status}: {made}"));
    assert_eq!((status, &made["backup"]), (201, &"test".into()));
    assert!(backup.file("savepoints").join(name).is_file(), "{made}");
    let (status, listed) = agent.get("/v1/savepoints/test").expect("an answer");
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((status, &listed), (200, &serde_json::json!([name])));
    assert_eq!(agent.post("/v1/savepoints/other").expect("an answer").0, 404);
}

/// What the reading commands print of one topic.
fn printed(backup: &Backup, topic: &str) -> [Value; 3] {
    let json = |verb: &str| -> Value {
        let printed = backup.command(verb, &["--format", "json"]).ok();
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    };
    let of_topic = |topics: &Value| {
        let topics = topics.as_array().expect("topics");
        topics.iter().find(|found| found["topic"] == topic).cloned().expect("it is held")
    };
    [of_topic(&json("list")), of_topic(&json("describe")["topics"]), of_topic(&json("show-offset-mapping")["topics"])]
}

/// Asserts that what is printed of a topic does not change while an agent writes another, and that what is printed of the
/// other is a part of what is printed after it.
fn reading_beside_a_writer(theme: &str, place: impl FnOnce(Backup) -> Backup) {
    let kafka = Kafka::shared();
    let (still, busy) = (kafka.topic(&format!("{theme}-still"), 1, &[]), kafka.topic(&format!("{theme}-busy"), 2, &[]));
    let _ = Writer::new(kafka, &[("batch.num.messages", "10")]).write(&still, &Contents::new().records(1, 300, 300));
    let backup = Backup::of(kafka, &[&still, &busy]).sink("roll_bytes", "8KiB").sink("roll_interval", "300ms");
    let backup = place(backup);
    let load = Load::start(kafka, &busy, 10, Duration::from_millis(50));
    let mut agent = backup.run();
    agent.wait_until("the still topic is held, and some of the other", |agent| {
        let end = |topic: &str| ask(agent, topic, 0, "").1["end_offset"].as_i64().unwrap_or(0);
        (end(&still) == 300 && end(&busy) > 100).then_some(())
    });
    let (meanwhile, records) = (printed(&backup, &still), backup.cat(&still));
    let (busy_meanwhile, busy_records) = (printed(&backup, &busy), backup.cat(&busy));
    assert_eq!(records.len(), 300);
    let middle = backup.cat_with(&still, &["--from-offset", "150", "--to-offset", "160"]);
    assert_eq!(middle, records[150..160]);
    load.end();
    agent.terminate();
    assert_eq!(printed(&backup, &still), meanwhile);
    assert_eq!(backup.cat(&still), records);
    let after = printed(&backup, &busy);
    for (before, after) in busy_meanwhile[1..].iter().zip(&after[1..]) {
        for key in ["record_count", "last_offset"] {
            let numbers = |printed: &Value| -> Vec<i64> {
                let partitions = printed["partitions"].as_array().expect("partitions");
                partitions.iter().map(|partition| partition[key].as_i64().expect("a number")).collect()
            };
            let (before, after) = (numbers(before), numbers(after));
            assert!(before.iter().zip(&after).all(|(before, after)| before <= after), "{key}: {before:?} {after:?}");
        }
    }
    let all = backup.cat(&busy);
    let at =
        |record: &Record| all.binary_search_by_key(&(record.partition, record.offset), |of| (of.partition, of.offset));
    assert!(busy_records.iter().all(|record| at(record).is_ok_and(|at| all[at] == *record)));
    let _ = backup.command("verify", &["--deep"]).ok();
}

#[test]
fn the_reading_commands_say_the_same_while_an_agent_writes_a_folder_as_after_it() {
    reading_beside_a_writer("beside", |backup| backup);
}

#[test]
fn the_reading_commands_say_the_same_while_an_agent_writes_to_s3_as_after_it() {
    let prefix = format!("beside-{:08x}", fastrand::u32(..));
    reading_beside_a_writer("beside-s3", |backup| backup.on(S3::shared(), &prefix, ""));
}

/// Takes a file away, or cuts it to `keep` bytes, while `work` runs.
fn without(path: &Path, keep: Option<usize>, work: impl FnOnce()) {
    let held = fs::read(path).expect("it is readable");
    match keep {
        Some(keep) => fs::write(path, &held[..keep]).expect("it is writable"),
        None => fs::remove_file(path).expect("it can be removed"),
    }
    work();
    fs::write(path, held).expect("it is writable");
}

#[test]
fn what_the_catalogs_promise_and_is_not_there_ends_what_cat_prints_and_a_lost_catalog_does_not() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("promised", 1, &[]);
    let writer = Writer::new(kafka, &[("batch.num.messages", "10"), ("linger.ms", "5")]);
    let _ = writer.write(&topic, &Contents::new().records(1, 300, 400));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "4KiB");
    let _ = backup.backup().ok();
    let chain = backup.chain(&topic, 0);
    let folder = backup.timelines(&topic)[0].join("0");
    assert!(folder.join("catalog/1").is_dir() && chain.0.len() > 12, "{} segments", chain.0.len());
    let (lost, all) = (&chain.0[3], backup.cat(&topic));
    let prefix = format!("{:020}.", lost.first);
    let names = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("an entry").path()).collect()
    };
    let is_sidecar = |path: &&PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&prefix) && name.ends_with(".index")
    };
    let sidecar = names(&folder).iter().find(is_sidecar).cloned().expect("each segment has one");
    let hint = format!("--from-offset {} reads on behind it", lost.next);
    for (path, keep, code) in
        [(&lost.path, None, 5), (&lost.path, Some(100), 4), (&sidecar, None, 4), (&sidecar, Some(50), 4)]
    {
        without(path, keep, || {
            let printed = backup.command("cat", &["--topic", &topic]);
            printed.fails_with(code, &[&hint]);
            let lines = printed.stdout.lines().count() as i64;
            assert_eq!(lines, lost.first, "{}: what comes before is printed", path.display());
            let behind = backup.cat_with(&topic, &["--from-offset", &lost.next.to_string()]);
            assert_eq!(behind, all[lost.next as usize..], "{}", path.display());
            let before = backup.cat_with(&topic, &["--to-offset", &lost.first.to_string()]);
            assert_eq!(before, all[..lost.first as usize], "{}", path.display());
        });
    }
    // A catalog can be had from its sidecars again.
    let catalog = names(&folder.join("catalog/1")).remove(0);
    for keep in [None, Some(50)] {
        without(&catalog, keep, || assert_eq!(backup.cat(&topic), all));
    }
    let _ = backup.command("verify", &["--deep"]).ok();
}

#[test]
fn a_partition_of_hundreds_of_segments_is_described_and_searched_with_few_requests() {
    const SEGMENTS: usize = 300;
    let kafka = Kafka::shared();
    let topic = kafka.topic("many-segments", 1, &[]);
    let writer = Writer::new(kafka, &[("batch.num.messages", "4"), ("linger.ms", "0")]);
    let mut records = Contents::new().records(1, SEGMENTS * 4, 500);
    let begun = jiff::Timestamp::now().as_millisecond() - 10_000;
    (begun..).zip(&mut records).for_each(|(time, record)| record.timestamp = time);
    let _ = writer.write(&topic, &records);
    let (s3, prefix) = (S3::shared(), format!("many-{:08x}", fastrand::u32(..)));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "1KiB").on(s3, &prefix, "");
    let _ = backup.backup().ok();
    let chain = backup.chain(&topic, 0);
    assert!(chain.0.len() >= SEGMENTS, "{} segments", chain.0.len());
    let requests = || s3.requests(&prefix).values().sum::<usize>();
    let count = |work: &dyn Fn()| {
        let before = requests();
        work();
        requests() - before
    };
    let described = count(&|| {
        let described = backup.command("describe", &["--format", "json"]).ok();
        let described: Value = serde_json::from_str(&described).expect("JSON");
        let expected = (&Value::from(chain.0.len()), &Value::from(SEGMENTS * 4));
        assert_eq!((&described["segments"], &described["records"]), expected);
    });
    let searched = count(&|| {
        let found = backup.cat_with(&topic, &["--from-offset", "1000", "--limit", "1"]);
        assert_eq!(found.first().map(|record| record.offset), Some(1000));
    });
    let by_time = count(&|| {
        let found = backup.cat_with(&topic, &["--from-time", &(begun + 1100).to_string(), "--limit", "1"]);
        assert_eq!(found.first().map(|record| record.offset), Some(1100));
    });
    println!("described with {described} requests, searched with {searched} and {by_time} of {}", chain.0.len());
    assert!([described, searched, by_time].iter().all(|requests| *requests <= 40), "that is more than a few");
}
