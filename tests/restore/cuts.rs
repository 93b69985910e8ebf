//! What is taken of a backup: by time, offsets, partitions, timeline and fork; and that no more than that is read.

use std::process::Command;

use crate::golden;
use crate::restore::{Restore, assert_same_cells, run_all, tracks};
use crate::support::agent::{Backup, program_with};
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_all_committed, read_committed};
use crate::support::s3::{Object, S3};
use crate::support::workload::{Contents, Writer};

/// Returns records in order of their values, of which some are text.
fn values(records: &[Record]) -> Vec<String> {
    let value = |record: &Record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
    records.iter().map(value).collect()
}

/// A window of time, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Window(Option<i64>, Option<i64>);

impl Window {
    /// Makes one whose ends are times of `records`, or just beside; one end may be open.
    fn random(random: &mut fastrand::Rng, records: &[Record]) -> Self {
        let mut times = [(); 2].map(|()| records[random.usize(..records.len())].timestamp + random.i64(-1..=1));
        times.sort_unstable();
        match random.u8(..4) {
            0 => Self(Some(times[0]), None),
            1 => Self(None, Some(times[1])),
            _ => Self(Some(times[0]), Some(times[1].max(times[0] + 1))),
        }
    }

    fn holds(self, time: i64) -> bool {
        self.0.is_none_or(|from| time >= from) && self.1.is_none_or(|until| time < until)
    }

    fn cut<'a>(self, restore: Restore<'a>) -> Restore<'a> {
        let line = |key: &str, time: Option<i64>| time.map(|time| format!("{key} = \"{time}\"")).unwrap_or_default();
        restore.source(&line("from", self.0)).source(&line("until", self.1))
    }
}

#[test]
fn a_window_of_time_brings_the_records_inside_and_no_others_also_out_of_order() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let seed = fastrand::u64(..);
    println!("windows: seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let stamped = kafka.topic("cut-stamped", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let disorder = kafka.topic("cut-disorder", 2, &[]);
    let began = jiff::Timestamp::now().as_millisecond() - 86_400_000;
    let mut records = contents.records(2, 400, 200);
    for (number, record) in records.iter_mut().enumerate() {
        // Mostly forward, with returns of up to a fifth of all.
        record.timestamp = began + number as i64 * 100 + random.i64(-8_000..8_000);
    }
    let writer = Writer::new(kafka, &[("batch.num.messages", "9"), ("compression.type", "lz4")]);
    let _ = writer.write(&disorder, &records);
    for _ in 0..20 {
        let _ = writer.write(&stamped, &contents.records(1, 20, 200));
    }
    let backup = Backup::of(kafka, &[&stamped, &disorder]).sink("roll_bytes", "8KiB");
    let _ = backup.backup().ok();
    assert!(backup.chain(&disorder, 0).0.len() > 4, "there is something to pass over");

    let mut windows = Vec::new();
    let held = read_all_committed(kafka, &[&stamped, &disorder]);
    for topic in [&stamped, &disorder] {
        windows.extend((0..9).map(|_| (topic, Window::random(&mut random, &held[topic]))));
        // Nothing is inside.
        windows.push((topic, Window(None, Some(1))));
    }
    let restore = |(at, (topic, window)): (usize, &(&String, Window))| {
        window.cut(Restore::named(kafka, &backup, &[topic], &format!("window-{at}")))
    };
    let restores: Vec<_> = windows.iter().enumerate().map(restore).collect();
    run_all(&restores);
    let mut names: Vec<&str> = restores.iter().flat_map(Restore::names).collect();
    names.sort_unstable();
    names.dedup();
    let read = read_all_committed(kafka, &names);
    for (restore, (topic, window)) in restores.iter().zip(&windows) {
        println!("{topic}: {window:?}");
        restore.assert_read(&read, |record| window.holds(record.timestamp));
    }
    // One with records of a topic that was stamped, one out of order, and one without any.
    [8, 18, 19].into_iter().for_each(|at| restores[at].assert_agrees());
}

#[test]
fn offsets_and_partitions_are_taken_as_they_are_named_and_may_become_others() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("cut-offsets", 3, &[]);
    let _ = Writer::new(kafka, &[("batch.num.messages", "10")]).write(&topic, &Contents::new().records(3, 100, 100));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "4KiB");
    let _ = backup.backup().ok();
    let named = Restore::named(kafka, &backup, &[&topic], "offsets")
        .source(&format!("offsets = [\"{topic}-0:15..40\", \"{topic}-1:..33\"]"))
        .source(&format!("partitions = [\"{topic}-0\", \"{topic}-1\"]"));
    let moved = Restore::named(kafka, &backup, &[&topic], "moved")
        .source(&format!("partitions = [\"{topic}-2\"]"))
        .sink(&format!("partitions = [\"{topic}-2:4\"]"));
    let restores = [named, moved];
    run_all(&restores);
    let [named, moved] = restores;
    named.assert_brought(kafka, |record| match record.partition {
        0 => (15..40).contains(&record.offset),
        1 => record.offset < 33,
        _ => false,
    });
    let brought = read_committed(kafka, moved.target());
    let mut wanted = read_committed(kafka, &topic);
    wanted.retain(|record| record.partition == 2);
    wanted.iter_mut().for_each(|record| record.partition = 4);
    assert_same_cells(moved.target(), &brought, &wanted);
    let (_, map) = moved.done();
    let pairs: Vec<_> = map.iter().map(|(pair, _)| (pair.source.index, pair.target.index)).collect();
    assert_eq!((pairs, kafka.partitions(moved.target())), (vec![(2, 4)], 5));
}

#[test]
fn an_older_topic_of_the_name_comes_back_where_its_id_is_named() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("cut-again", 1, &[]);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(1, 30, 100));
    let _ = backup.backup().ok();
    let older = read_committed(kafka, &topic);
    let id = backup.timelines(&topic)[0].file_name().expect("a name").to_string_lossy().into_owned();
    kafka.delete(&topic);
    kafka.create(&topic, 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(1, 20, 100));
    let _ = backup.backup().ok();
    let newest = Restore::named(kafka, &backup, &[&topic], "newest");
    let target = format!("{topic}-older");
    let before =
        Restore::named(kafka, &backup, &[&format!("{topic}@{id}")], "older").to(&format!("{topic}@{id}"), &target);
    run_all(&[newest, before]);
    let newest = format!("{topic}-newest");
    let read = read_all_committed(kafka, &[&topic, &newest, &target]);
    assert_same_cells("the newest", &read[&newest], &read[&topic]);
    assert_same_cells("the older", &read[&target], &older);
}

#[test]
fn the_newest_fork_is_followed_with_what_it_shares_unless_another_is_named() {
    let kafka = Kafka::shared();
    let backup = Backup::of(kafka, &["orders"]);
    // `sample` says what is where: 4-3 holds 3 and 4, 1-5 from inside a batch on 5 to 7, their parent 0 to 7.
    std::fs::create_dir_all(backup.archive()).expect("the test's folder is writable");
    let copied = Command::new("cp").args(["-r", &format!("{}/main", golden::FOLDER), backup.archive()]).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let restore = |name: &str, fork: &str| {
        let target = format!("{name}-{:08x}", fastrand::u32(..));
        Restore::named(kafka, &backup, &["orders"], name)
            .backup_id("main")
            .to("orders", &target)
            .source("partitions = [\"orders-1\"]")
            .source(fork)
            .accept(&["older-than-retention"])
    };
    let restores = [
        restore("fork-newest", ""),
        restore("fork-older", "forks = [\"orders-1@1-5\"]"),
        restore("fork-own", "forks = [\"orders-1\"]"),
    ];
    run_all(&restores);
    let targets: Vec<&str> = restores.iter().map(Restore::target).collect();
    let read = read_all_committed(kafka, &targets);
    for (restore, count) in restores.iter().zip([5, 8, 8]) {
        let brought = &read[restore.target()];
        let wanted: Vec<String> = (0..count).map(|offset| format!("value {offset}")).collect();
        assert_eq!(values(brought), wanted);
        assert!(brought.iter().all(|record| record.partition == 1));
        let (_, map) = restore.done();
        assert_eq!(tracks(&map, "orders")[&1].records(), count);
    }
}

#[test]
fn what_cannot_contribute_is_not_downloaded() {
    let (kafka, mut contents) = (Kafka::shared(), Contents::new());
    let topic = kafka.topic("cut-read", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let writer = Writer::new(kafka, &[("batch.num.messages", "10")]);
    for _ in 0..16 {
        let record = |_| Record { timestamp: -1, value: Some(contents.noise(2_000)), ..Record::default() };
        let records: Vec<Record> = (0..10).map(record).collect();
        let _ = writer.write(&topic, &records);
    }
    let times: Vec<i64> = read_committed(kafka, &topic).iter().step_by(10).map(|record| record.timestamp).collect();
    let s3 = S3::shared();
    let backup = Backup::of(kafka, &[&topic]).sink("roll_bytes", "16KiB").on(s3, "cut-read", "");
    let _ = backup.backup().ok();
    let segments = backup.chain(&topic, 0).0.len();
    assert_eq!(segments, 16, "a segment for each batch");
    let cut = |name: &str, line: String| {
        let (asked, bytes) = (s3.requests("cut-read"), s3.downloaded("cut-read", Object::Log));
        let restore = Restore::named(kafka, &backup, &[&topic], name).source(&line);
        let _ = restore.run().ok();
        let more = |object| {
            let key = ("GET".to_owned(), object);
            let count = |asked: &std::collections::BTreeMap<_, usize>| asked.get(&key).copied().unwrap_or_default();
            count(&s3.requests("cut-read")) - count(&asked)
        };
        let brought = read_committed(kafka, restore.target()).len();
        (brought, more(Object::Log), more(Object::Sidecar), s3.downloaded("cut-read", Object::Log) - bytes)
    };
    let (brought, logs, sidecars, bytes) = cut("until", format!("until = \"{}\"", times[3]));
    let early = times.iter().filter(|time| **time < times[3]).count();
    assert_eq!((brought, logs), (10 * early, early), "of {segments} segments");
    assert!(early <= 3 && bytes < 4 * 21_000, "{bytes} bytes of logs");
    // The chain is too short for catalogs: its index is its sidecars, read for the plan and for the reading.
    assert!(sidecars <= 2 * segments + 3, "{sidecars} sidecars");
    let (brought, logs, _, bytes) = cut("from", format!("from = \"{}\"", times[14]));
    let late = times.iter().filter(|time| **time >= times[14]).count();
    assert_eq!((brought, logs), (10 * late, late), "of {segments} segments");
    assert!(late < 5 && bytes < 5 * 21_000, "{bytes} bytes of logs");
    let (brought, logs, ..) = cut("offsets", format!("offsets = [\"{topic}-0:95..115\"]"));
    assert_eq!((brought, logs), (20, 3));
    let printed = program_with(&["verify", "--path", backup.archive(), "--backup-id", "test"]);
    let _ = printed.ok();
}
