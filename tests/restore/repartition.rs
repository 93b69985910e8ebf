//! Records spread over the partitions of their target by key: where Kafka's own partitioner sends them, in order, each once.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_backup::restore::map::{Exact, OffsetMap};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::restore::{Restore, run_all};
use crate::support::agent::Backup;
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_all_committed};
use crate::support::workload::Writer;

/// How many keys there are.
const KEYS: usize = 90;

fn key(number: usize) -> Vec<u8> {
    format!("customer-{number}").into_bytes()
}

/// Makes a topic of so many records in each partition, whose keys are anywhere, some of them null; each value is another.
pub(crate) fn written(kafka: &Kafka, theme: &str, partitions: i32, count: usize) -> String {
    let topic = kafka.topic(theme, partitions, &[]);
    write(kafka, &topic, partitions, count);
    topic
}

/// Writes so many such records to each partition of a topic.
pub(super) fn write(kafka: &Kafka, topic: &str, partitions: i32, count: usize) {
    let mut random = fastrand::Rng::new();
    let record = |(number, partition): (usize, i32)| Record {
        partition,
        timestamp: 1_700_000_000_000 + number as i64,
        key: (number % 7 != 3).then(|| key(random.usize(..KEYS))),
        value: Some(format!("{topic}-{partition}-{number}-{}", "x".repeat(100)).into_bytes()),
        headers: vec![("n".to_owned(), None)],
        ..Record::default()
    };
    let all = (0..count).flat_map(|number| (0..partitions).map(move |partition| (number, partition)));
    let records: Vec<Record> = all.map(record).collect();
    let properties = [("batch.num.messages", "20"), ("compression.type", "lz4")];
    let _ = Writer::new(kafka, &properties).write(topic, &records);
}

/// Returns which partition each key has in a topic of so many, by the partitioner of another maker that is Java's.
fn partitioned(kafka: &Kafka, partitions: i32) -> BTreeMap<Vec<u8>, i32> {
    let topic = kafka.topic("partitioned", partitions, &[]);
    let producer: BaseProducer = kafka.client(&[("partitioner", "murmur2_random")]).create().expect("a producer");
    for number in 0..KEYS {
        producer.send(BaseRecord::to(&topic).key(&key(number)).payload("")).expect("it is taken");
    }
    producer.flush(Duration::from_secs(30)).expect("all are there");
    let read = read_all_committed(kafka, &[&topic]).remove(&topic).expect("it was read");
    read.into_iter().map(|record| (record.key.expect("a key"), record.partition)).collect()
}

/// Asserts that a target holds each record of its sources once, where its key belongs, those of a source partition in order;
/// and that the map leads there.
#[track_caller]
pub(super) fn assert_spread(
    kafka: &Kafka,
    map: &OffsetMap,
    sources: &[(&str, &[Record])],
    (target, brought): (&str, &[Record]),
) {
    let partitions = kafka.partitions(target);
    let keys = partitioned(kafka, partitions);
    let mut left: BTreeMap<&[u8], &Record> =
        brought.iter().map(|record| (record.value.as_deref().expect("a value"), record)).collect();
    assert_eq!(left.len(), brought.len(), "{target}: each once");
    let tracks: BTreeMap<_, _> = map
        .iter()
        .filter(|(pair, _)| &*pair.target.topic == target)
        .map(|(pair, track)| ((&*pair.source.topic, pair.source.index, pair.target.index), track))
        .collect();
    for (source, held) in sources {
        let mut last: BTreeMap<(i32, i32), i64> = BTreeMap::new();
        for from in *held {
            let to = left.remove(from.value.as_deref().expect("a value")).expect("it came");
            let round = || ((from.offset + i64::from(from.partition)) % i64::from(partitions)) as i32;
            let wanted = from.key.as_ref().map_or_else(round, |key| keys[key]);
            assert_eq!(to.partition, wanted, "{target}: {:?} of {source}-{}", from.key, from.partition);
            assert_eq!(Record { partition: from.partition, offset: from.offset, ..to.clone() }, *from, "{target}");
            let before = last.insert((from.partition, to.partition), to.offset);
            assert!(before.is_none_or(|before| before < to.offset), "{target}: of {source}-{}", from.partition);
            let track = tracks[&(*source, from.partition, to.partition)];
            assert_eq!(track.exact(from.offset), Exact::At(to.offset), "{source}-{} {}", from.partition, from.offset);
        }
    }
    assert!(left.is_empty(), "{target}: {} records of nowhere", left.len());
}

#[test]
fn every_record_goes_where_kafkas_partitioner_sends_its_key_whatever_the_numbers_of_partitions() {
    let kafka = Kafka::shared();
    let topics =
        [("six", 6), ("three", 3), ("two", 2)].map(|(theme, partitions)| written(kafka, theme, partitions, 700));
    let [six, three, two] = topics.each_ref().map(String::as_str);
    let backup = Backup::of(kafka, &[six, three, two]).sink("roll_bytes", "16KiB");
    let _ = backup.backup().ok();
    let spread = |topics: &[&str], target: &str, partitions: i32| {
        let named = Restore::named(kafka, &backup, topics, target);
        let restore = topics.iter().fold(named, |restore, topic| restore.to(topic, &format!("{six}-{target}")));
        restore.sink(&format!("repartition = [\"{six}-{target}:{partitions}\"]"))
    };
    let restores = [
        (spread(&[six], "fewer", 3), vec![six]),
        (spread(&[three], "more", 6), vec![three]),
        // With less memory than all of them would like to have.
        (spread(&[six, three, two], "merged", 5).sink("memory_bytes = \"256KiB\""), vec![six, three, two]),
        (spread(&[three, two], "one", 1), vec![three, two]),
    ];
    let (restores, sources): (Vec<_>, Vec<_>) = restores.into_iter().unzip();
    run_all(&restores);
    let mut names = vec![six, three, two];
    names.extend(restores.iter().map(Restore::target));
    let read = read_all_committed(kafka, &names);
    for (restore, sources) in restores.iter().zip(sources) {
        let (done, map) = restore.done();
        let sources: Vec<_> = sources.iter().map(|source| (*source, &read[*source][..])).collect();
        let target = restore.target();
        assert_eq!(done.records as usize, sources.iter().map(|(_, held)| held.len()).sum::<usize>());
        assert_spread(kafka, &map, &sources, (target, &read[target]));
    }
    let verified = restores[0].verify(&[]);
    assert_eq!(verified.code, Some(1), "{}", verified.stderr);
    assert!(verified.stdout.contains("spread over partitions by key"), "{}", verified.stdout);
}

#[test]
fn a_plan_says_what_is_spread_and_is_refused_where_that_cannot_be() {
    let kafka = Kafka::shared();
    let (topic, other) = (written(kafka, "planned", 4, 5), written(kafka, "planned-too", 4, 5));
    let backup = Backup::of(kafka, &[&topic, &other]);
    let _ = backup.backup().ok();
    let both = || Restore::of(kafka, &backup, &[&topic, &other]).to(&topic, "all").to(&other, "all");
    both().run_with(&["--dry-run"]).fails_with(2, &["would both go to `all-0`", "(sink.repartition)"]);
    let all = format!("{topic}-all");
    let both = both().to(&topic, &all).to(&other, &all);
    let spread = both.sink(&format!("repartition = [\"{all}:3\"]"));
    let printed = spread.run_with(&["--dry-run"]).ok();
    let page = [
        format!("{all} by key"),
        format!("Records go to 3 partitions of {all} by key: records of several partitions come together"),
        format!("Topic {all} is made: 3 partitions"),
    ];
    assert!(page.iter().all(|line| printed.contains(line)), "{printed}");
    kafka.create(&all, 4, &[]);
    spread.run_with(&["--dry-run"]).fails_with(2, &[&format!("`{all}:3`"), "is there and has 4 partitions"]);
    let slip = Restore::of(kafka, &backup, &[&topic]).sink("repartition = [\"al:3\"]");
    slip.run_with(&["--dry-run"]).fails_with(2, &["nothing is restored to a topic `al`"]);
}

#[test]
fn what_stages_send_to_a_topic_is_spread_there_by_key_too() {
    let kafka = Kafka::shared();
    let topic = written(kafka, "staged-and-spread", 4, 200);
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let copies = format!("{topic}-copies");
    let copying =
        format!("plugin = \"restore-fanout\"\nsettings = {{ by = \"topic\", to = {{ \"{topic}\" = \"{copies}\" }} }}");
    let restore = Restore::of(kafka, &backup, &[&topic])
        .stage(&copying)
        .sink(&format!("repartition = [\"{copies}:3\", \"{topic}-restored:2\"]"));
    let _ = restore.run().ok();
    let read = read_all_committed(kafka, &[&topic, restore.target(), &copies]);
    let (_, map) = restore.done();
    for target in [restore.target(), &copies] {
        assert_spread(kafka, &map, &[(&topic, &read[&topic])], (target, &read[target]));
    }
}
