//! Consumer groups, put back by the built binary on a real Kafka: planned, set, read back, taken back, and read on with by
//! Kafka's own clients.

mod bulk;
mod java;
mod kills;
mod kinds;
mod page;
mod phases;
mod refused;
mod reset;
mod rollback;
mod show;
mod wire;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::agent::{Backup, Ended, program_in};
use crate::support::clients;
use crate::support::kafka::Kafka;
use crate::support::reader::Record;
use crate::support::workload::Writer;

/// Returns a cluster beside the shared one, for what is restored into another.
pub(crate) fn second() -> &'static Kafka {
    static SECOND: OnceLock<Kafka> = OnceLock::new();
    SECOND.get_or_init(Kafka::start)
}

/// Makes a name that no other group has.
pub(crate) fn group_name(theme: &str) -> String {
    format!("{theme}-{:08x}", fastrand::u32(..))
}

/// Runs a verb on groups of a backup and a cluster.
pub(crate) fn run(verb: &[&str], backup: &Backup, kafka: &Kafka, groups: &[&str], more: &[&str]) -> Ended {
    run_in(verb, backup, kafka, groups, more, &[])
}

/// As [`run`], with environment variables.
pub(crate) fn run_in(
    verb: &[&str],
    backup: &Backup,
    kafka: &Kafka,
    groups: &[&str],
    more: &[&str],
    environment: &[(&str, &str)],
) -> Ended {
    let groups = groups.join(",");
    let of = ["--path", backup.archive(), "--backup-id", "test", "--groups", &groups];
    program_in(&[verb, &of, &["--bootstrap-servers", kafka.brokers()], more].concat(), environment)
}

/// Runs `offset-reset execute` on groups.
pub(crate) fn execute(backup: &Backup, kafka: &Kafka, groups: &[&str], more: &[&str]) -> Ended {
    run(&["offset-reset", "execute"], backup, kafka, groups, more)
}

/// Returns the rows of what `offset-reset plan` says of a group, by topic and partition.
#[track_caller]
pub(crate) fn planned(backup: &Backup, kafka: &Kafka, group: &str, more: &[&str]) -> BTreeMap<(String, i32), Value> {
    let more = [&["--format", "json"], more].concat();
    let json = run(&["offset-reset", "plan"], backup, kafka, &[group], &more).ok();
    let plan: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    let rows = plan["groups"][0]["rows"].as_array().unwrap_or_else(|| panic!("rows in {plan}"));
    let place = |row: &Value| {
        let partition = row["partition"].as_i64().expect("a partition") as i32;
        (row["topic"].as_str().expect("a topic").to_owned(), partition)
    };
    rows.iter().map(|row| (place(row), row.clone())).collect()
}

/// Returns what a group has committed, by topic and partition.
#[track_caller]
pub(crate) fn committed(kafka: &Kafka, group: &str) -> BTreeMap<(String, i32), i64> {
    let told = clients::offsets(kafka, &[group]).into_iter();
    told.map(|((_, topic, partition), (offset, _))| ((topic, partition), offset)).collect()
}

/// Writes so many records to each of the partitions of a topic; the value of each is another.
pub(crate) fn write(writer: &Writer, topic: &str, partitions: i32, count: usize) -> Vec<(i32, i64)> {
    writer.write(topic, &records(topic, partitions, count))
}

/// Makes such records.
pub(crate) fn records(topic: &str, partitions: i32, count: usize) -> Vec<Record> {
    let numbers = 0..count * partitions as usize;
    let record = |number: usize| Record {
        partition: number as i32 % partitions,
        timestamp: -1,
        key: Some(format!("key-{number}").into_bytes()),
        value: Some(format!("{topic} {number} {:08x}", fastrand::u32(..)).into_bytes()),
        ..Record::default()
    };
    numbers.map(record).collect()
}

/// A topic of two partitions of 100 records, its backup, and a group that stands elsewhere than it stood then.
pub(crate) struct Stand {
    pub(crate) kafka: &'static Kafka,
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) backup: Backup,
}

impl Stand {
    /// Where the group stood.
    pub(crate) const THEN: [i64; 2] = [40, 60];
    /// Where it is.
    pub(crate) const NOW: [i64; 2] = [90, 80];

    /// Makes one on the shared cluster; `also` are topics and groups of the backup besides.
    pub(crate) fn new(theme: &str, also: (&[&str], &[&str])) -> Self {
        let kafka = Kafka::shared();
        let (topic, group) = (kafka.topic(theme, 2, &[]), group_name(theme));
        let _ = write(&Writer::new(kafka, &[]), &topic, 2, 100);
        let backup = Backup::of(kafka, &[&[&*topic], also.0].concat());
        let backup = backup.source_list("groups", &[&[&*group], also.1].concat());
        let stand = Self { kafka, topic, group, backup };
        stand.commit(Self::THEN);
        let _ = stand.backup.backup().ok();
        stand.commit(Self::NOW);
        stand
    }

    /// Puts the group somewhere.
    pub(crate) fn commit(&self, offsets: [i64; 2]) {
        clients::commit(self.kafka, &self.group, &[(&self.topic, 0, offsets[0]), (&self.topic, 1, offsets[1])], 0);
    }

    /// Runs `offset-reset execute`.
    pub(crate) fn execute(&self, more: &[&str]) -> Ended {
        execute(&self.backup, self.kafka, &[&self.group], more)
    }

    /// Asserts where the group is.
    #[track_caller]
    pub(crate) fn assert_at(&self, offsets: [i64; 2]) {
        let is = committed(self.kafka, &self.group);
        let wanted = (0..).zip(offsets).map(|(partition, offset)| ((self.topic.clone(), partition), offset));
        assert_eq!(is, wanted.collect(), "{}", self.group);
    }
}
