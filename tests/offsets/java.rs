//! Applications of Kafka's own consumer that stop at a record and read on elsewhere: in another cluster, after the way back, in
//! topics of other names and other numbers of partitions, behind what others write there meanwhile. They read all of what they
//! had not read, in order, and again only what the plan has announced.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use super::{committed, execute, group_name, planned, records, second, write};
use crate::fidelity::COMPACTED;
use crate::restore::Restore;
use crate::support::agent::{Backup, Ended, program_with};
use crate::support::clients::{Application, Read};
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_all_committed};
use crate::support::workload::{Writer, wait_compacted};

/// Offsets by topic and partition.
type Places = BTreeMap<(String, i32), i64>;

/// What an application has yet to read: the values in each partition, in order.
#[derive(Debug)]
struct Unread(BTreeMap<(String, i32), Vec<String>>);

impl Unread {
    /// Returns what topics hold from where a group is on; where it has nothing committed it has read nothing.
    fn of(read: &BTreeMap<String, Vec<Record>>, committed: &Places) -> Self {
        let mut unread = Self(BTreeMap::new());
        for (topic, records) in read {
            for record in records {
                let place = (topic.clone(), record.partition);
                if committed.get(&place).is_none_or(|next| record.offset >= *next) {
                    unread.0.entry(place).or_default().push(value(record));
                }
            }
        }
        unread
    }

    /// Takes away what was read of topics whose names are those of `self` with `suffix`: of each partition the next records and
    /// no others.
    #[track_caller]
    fn assert_next(&mut self, read: &[Read], suffix: &str) {
        let mut by_partition: BTreeMap<(String, i32), Vec<String>> = BTreeMap::new();
        for read in read {
            let topic = read.topic.strip_suffix(suffix).expect("it is of these topics").to_owned();
            by_partition.entry((topic, read.partition)).or_default().push(read.value.clone());
        }
        for (place, values) in by_partition {
            let left = self.0.get_mut(&place).unwrap_or_else(|| panic!("nothing of {place:?} was left: {values:?}"));
            assert_eq!(left[..values.len().min(left.len())], values[..], "the next records of {place:?}");
            let _ = left.drain(..values.len());
        }
        self.0.retain(|_, left| !left.is_empty());
    }

    #[track_caller]
    fn assert_empty(&self) {
        assert!(self.0.is_empty(), "it was not read: {self:?}");
    }
}

fn value(record: &Record) -> String {
    String::from_utf8(record.value.clone().expect("a value")).expect("text")
}

/// Chooses for each partition of topics an offset before which an application stops: anywhere from its first unread record on.
fn stops(kafka: &Kafka, topics: &[&str], from: &Places) -> Places {
    let mut stops = Places::new();
    for topic in topics {
        for (partition, end) in (0..).zip(kafka.ends(topic)) {
            let place = ((*topic).to_owned(), partition);
            let first = from.get(&place).copied().unwrap_or(0);
            let _ = stops.insert(place, fastrand::i64(first..=end));
        }
    }
    println!("stops: {stops:?}");
    stops
}

/// Restores topics to names with `suffix`, and groups with them, in three phases.
fn three_phases(backup: &Backup, kafka: &Kafka, topics: &[&str], suffix: &str, groups: &[&str], until: &str) -> Ended {
    let file = backup.folder().join(format!("three-phases{suffix}.yaml"));
    let mapping: String = topics.iter().map(|topic| format!("  {topic}: {topic}{suffix}\n")).collect();
    let mapping = if suffix.is_empty() { String::new() } else { format!("topic_mapping:\n{mapping}") };
    let text = format!(
        "mode: restore\nbackup_id: test\ntarget:\n  bootstrap_servers:\n    - {}\nstorage:\n  backend: filesystem\n  path: {}\n\
         topics: {topics:?}\n{mapping}{until}restore:\n  consumer_group_strategy: header-based\n  \
         reset_consumer_offsets: true\n  consumer_groups: {groups:?}\n",
        kafka.brokers(),
        backup.archive(),
    );
    fs::write(&file, text).expect("the test's folder is writable");
    program_with(&["three-phase-restore", "--config", file.to_str().expect("UTF-8")])
}

/// Makes a topic of 100 records that the cleaner has yet to go over, which will leave 36 of them.
fn to_be_compacted(kafka: &Kafka, writer: &Writer) -> String {
    let topic = kafka.topic("java-compacted", 1, &COMPACTED);
    let began = jiff::Timestamp::now().as_millisecond() - 600_000;
    let mut made = records(&topic, 1, 100);
    // The last of each of 20 keys stays, and 20 that come once; each 25 records have a segment of the broker's.
    for (number, record) in made.iter_mut().enumerate() {
        record.timestamp = began + (number as i64 / 25) * 90_000;
        let key = if number % 5 == 4 { format!("once-{number}") } else { format!("often-{}", number % 20) };
        record.key = Some(key.into_bytes());
    }
    let _ = writer.write(&topic, &made);
    topic
}

/// Closes the last segment, and waits until the cleaner has been there.
fn compact(kafka: &Kafka, writer: &Writer, topic: &str) {
    let timestamp = jiff::Timestamp::now().as_millisecond() + 600_000;
    let _ = writer.write(topic, &[Record { timestamp, key: Some(b"end".to_vec()), ..records(topic, 1, 1).remove(0) }]);
    // 16 keys of the often ones, 20 that came once, the end.
    wait_compacted(kafka, topic, 16 + 20 + 1);
}

/// Writes transactions of which the second half is aborted, those of two producers in between each other.
fn transactions(kafka: &Kafka) -> String {
    let topic = kafka.topic("java-transactions", 2, &[]);
    let writers = ["a", "b"].map(|name| Writer::transactional(kafka, name));
    for round in 0..6 {
        writers.iter().for_each(Writer::begin);
        writers.iter().for_each(|writer| drop(write(writer, &topic, 2, 5)));
        let [first, second] = &writers;
        if round % 2 == 0 {
            first.abort()
        } else {
            first.commit()
        }
        second.commit();
        let _ = first.abort_records(&topic, &records(&topic, 2, 4));
    }
    topic
}

#[test]
fn an_application_reads_on_in_another_cluster_and_again_where_it_came_from() {
    let (here, there) = (Kafka::shared_with_disk(), second());
    let writer = Writer::new(here, &[("batch.num.messages", "7")]);
    let compacted = to_be_compacted(here, &writer);
    let (plain, transactional) = (here.topic("java-plain", 3, &[]), transactions(here));
    let _ = write(&writer, &plain, 3, 60);
    let topics = [&*plain, &compacted, &transactional];
    let group = group_name("java");
    let application = |kafka, protocol| Application { kafka, group: &group, protocol };
    let _ = application(here, "classic").consume(&topics, &stops(here, &topics, &Places::new()));
    compact(here, &writer, &compacted);
    let backup = Backup::of(here, &topics).sink("roll_bytes", "4KiB").source_list("groups", &[&group]);
    let _ = backup.backup().ok();
    let mut unread = Unread::of(&read_all_committed(here, &topics), &committed(here, &group));

    let _ = three_phases(&backup, there, &topics, "", &[&group], "").ok();
    let is_at = committed(there, &group);
    let read = application(there, "consumer").consume(&topics, &stops(there, &topics, &is_at));
    unread.assert_next(&read, "");

    // And back, from a backup of what came there.
    let second = Backup::of(there, &topics).sink("roll_bytes", "4KiB").source_list("groups", &[&group]);
    let _ = second.backup().ok();
    let _ = three_phases(&second, here, &topics, "-back", &[&group], "").ok();
    let back = topics.map(|topic| format!("{topic}-back"));
    let back: Vec<&str> = back.iter().map(String::as_str).collect();
    let read = application(here, "classic").consume(&back, &Places::new());
    unread.assert_next(&read, "-back");
    unread.assert_empty();
}

#[test]
fn an_application_reads_what_was_there_at_a_moment_from_where_it_was_then() {
    let (here, there) = (Kafka::shared(), second());
    let topic = here.topic("java-cut", 2, &[]);
    let (writer, group) = (Writer::new(here, &[("batch.num.messages", "7")]), group_name("java-cut"));
    let _ = write(&writer, &topic, 2, 60);
    let application = |kafka| Application { kafka, group: &group, protocol: "classic" };
    let _ = application(here).consume(&[&topic], &stops(here, &[&topic], &Places::new()));
    let backup = Backup::of(here, &[&topic]).source_list("groups", &[&group]);
    let _ = backup.backup().ok();
    let mut unread = Unread::of(&read_all_committed(here, &[&topic]), &committed(here, &group));
    // What comes then, and how far the application comes then, is behind the moment.
    let moment = jiff::Timestamp::now();
    let later = records(&topic, 2, 30).into_iter();
    let later = later.map(|record| Record { timestamp: moment.as_millisecond() + 1_000, ..record });
    let _ = writer.write(&topic, &later.collect::<Vec<_>>());
    let _ = application(here).consume(&[&topic], &Places::new());
    let _ = backup.backup().ok();

    let until = format!("until: {:?}\n", moment.to_string());
    let _ = three_phases(&backup, there, &[&topic], "-cut", &[&group], &until).ok();
    let read = application(there).consume(&[&format!("{topic}-cut")], &Places::new());
    unread.assert_next(&read, "-cut");
    unread.assert_empty();
}

#[test]
fn an_application_loses_nothing_where_records_are_spread_anew_or_others_write_already() {
    let (here, there) = (Kafka::shared(), second());
    let writer = Writer::new(here, &[("batch.num.messages", "7")]);
    let (six, written) = (here.topic("java-six", 6, &[]), here.topic("java-written", 2, &[]));
    let _ = (write(&writer, &six, 6, 50), write(&writer, &written, 2, 50));
    let groups = ["java-six", "java-written"].map(group_name);
    let application = |kafka, group| Application { kafka, group, protocol: "consumer" };
    let _ = application(here, &groups[0]).consume(&[&six], &stops(here, &[&six], &Places::new()));
    let _ = application(here, &groups[1]).consume(&[&written], &Places::new());
    let backup = Backup::of(here, &[&six, &written]).sink("roll_bytes", "4KiB");
    let backup = backup.source_list("groups", &[&groups[0], &groups[1]]);
    let _ = backup.backup().ok();
    let restore = Restore::of(there, &backup, &[&six, &written]);
    let restore = restore.sink(&format!("repartition = [\"{six}-restored:3\"]"));
    let _ = restore.run().ok();
    let [three, target] = [&six, &written].map(|topic| format!("{topic}-restored"));

    // Two records for each partition, behind all that was restored.
    let new = write(&Writer::new(there, &[]), &target, 2, 2);
    let rows = planned(&backup, there, &groups[0], &[]);
    let again: u64 = rows.values().map(announced).sum();
    let _ = execute(&backup, there, &[&groups[0], &groups[1]], &[]).ok();
    let read = application(there, &groups[1]).consume(&[&target], &Places::new());
    let read: BTreeSet<(i32, i64)> = read.iter().map(|read| (read.partition, read.offset)).collect();
    assert_eq!(read, new.into_iter().collect(), "what is new and nothing else");

    let unread = Unread::of(&read_all_committed(here, &[&six]), &committed(here, &groups[0])).0.into_values().flatten();
    let unread: BTreeSet<String> = unread.collect();
    let read = application(there, &groups[0]).consume(&[&three], &Places::new());
    let values: BTreeSet<String> = read.iter().map(|read| read.value.clone()).collect();
    assert_eq!(unread.difference(&values).next(), None, "it is lost");
    assert_eq!((read.len() - unread.len()) as u64, again, "records read again, and those announced");
    let mut first: BTreeMap<i32, &str> = BTreeMap::new();
    read.iter().for_each(|read| _ = first.entry(read.partition).or_insert(&read.value));
    assert!(first.values().all(|value| unread.contains(*value)), "no position could have been later: {first:?}");
}

/// Returns how many records a row of a plan announces to be read again.
fn announced(row: &Value) -> u64 {
    let exactness = &row["exactness"];
    assert!(["exact", "again"].contains(&exactness["is"].as_str().unwrap_or_default()), "{row}");
    exactness["records"].as_u64().unwrap_or(0)
}
