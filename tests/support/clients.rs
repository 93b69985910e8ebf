//! Kafka's own Java clients (`Clients.java`), in one Java for all tests: what reads on with the right record is an application
//! as users have it, and no client of ours.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::kafka::{Kafka, NEEDED, java};
use super::reaper::Process;

/// Offsets by group, topic and partition, each with its metadata.
pub(crate) type Offsets = BTreeMap<(String, String, i32), (i64, String)>;

/// A record that a consumer has read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Read {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) value: String,
}

/// A consumer group of Java's.
#[derive(Clone, Copy)]
pub(crate) struct Application<'a> {
    pub(crate) kafka: &'a Kafka,
    pub(crate) group: &'a str,
    /// `classic` or `consumer`.
    pub(crate) protocol: &'a str,
}

impl Application<'_> {
    /// Reads `topics` on from where the group is to their ends (read committed), of each partition in `stops` only what lies
    /// before that offset; commits behind the last record that it has read of each partition, and leaves.
    #[track_caller]
    pub(crate) fn consume(&self, topics: &[&str], stops: &BTreeMap<(String, i32), i64>) -> Vec<Read> {
        let stops: Vec<String> =
            stops.iter().flat_map(|((topic, at), stop)| [topic.clone(), at.to_string(), stop.to_string()]).collect();
        let topics = topics.join(",");
        let words = ["consume", self.kafka.brokers(), self.group, self.protocol, "read_committed", &topics];
        let read = |line: String| {
            let [topic, partition, offset, value] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{line} is no record");
            };
            let (partition, offset) = (number(partition) as i32, number(offset));
            Read { topic: topic.to_owned(), partition, offset, value: value.to_owned() }
        };
        let stops = stops.iter().map(String::as_str);
        ask(&words.into_iter().chain(stops).collect::<Vec<_>>()).into_iter().map(read).collect()
    }

    /// Has a member of the group, and returns when it has partitions; it stays until what is returned is dropped.
    #[track_caller]
    pub(crate) fn join(&self, topic: &str) -> Joined {
        let _ = ask(&["join", self.kafka.brokers(), self.group, self.protocol, topic]);
        Joined(self.group.to_owned())
    }
}

/// A member of a group; it leaves when this is dropped.
pub(crate) struct Joined(String);

impl Drop for Joined {
    fn drop(&mut self) {
        // Where the test has failed already, its own words are the ones to hear.
        let _ = try_ask(&["leave", "", &self.0]);
    }
}

/// Writes so many tiny records to a partition, fast.
#[track_caller]
pub(crate) fn fill(kafka: &Kafka, topic: &str, partition: i32, count: usize) {
    let (partition, count) = (partition.to_string(), count.to_string());
    let _ = ask(&["fill", kafka.brokers(), topic, &partition, &count]);
}

/// Commits offsets of partitions for a group without members, each with so many bytes of metadata.
#[track_caller]
pub(crate) fn commit(kafka: &Kafka, group: &str, offsets: &[(&str, i32, i64)], metadata: usize) {
    let metadata = metadata.to_string();
    let offsets: Vec<String> = offsets
        .iter()
        .flat_map(|(topic, at, offset)| [(*topic).to_owned(), at.to_string(), offset.to_string()])
        .collect();
    let words = ["commit", kafka.brokers(), group, &metadata].into_iter();
    let _ = ask(&words.chain(offsets.iter().map(String::as_str)).collect::<Vec<_>>());
}

/// Returns what groups have committed.
#[track_caller]
pub(crate) fn offsets(kafka: &Kafka, groups: &[&str]) -> Offsets {
    let told = ask(&[&["offsets", kafka.brokers()], groups].concat());
    let read = |line: String| {
        let [group, topic, partition, offset, metadata] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line} is no offset");
        };
        let place = (group.to_owned(), topic.to_owned(), number(partition) as i32);
        (place, (number(offset), metadata.to_owned()))
    };
    told.into_iter().map(read).collect()
}

/// Returns the groups of a cluster with their types.
#[track_caller]
pub(crate) fn groups(kafka: &Kafka) -> BTreeMap<String, String> {
    let told = ask(&["groups", kafka.brokers()]).into_iter();
    told.map(|line| line.split_once('\t').map(|(group, kind)| (group.to_owned(), kind.to_owned())).expect("two"))
        .collect()
}

/// Makes a share group, whose member has left.
#[track_caller]
pub(crate) fn share_group(kafka: &Kafka, group: &str, topic: &str) {
    let _ = ask(&["share", kafka.brokers(), group, topic]);
}

/// Has a member join a streams group that reads `topic`, or leave it.
#[track_caller]
pub(crate) fn streams_group(kafka: &Kafka, group: &str, topic: &str, is_there: bool) {
    let _ = ask(&["streams", kafka.brokers(), group, topic, if is_there { "0" } else { "-1" }]);
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

#[track_caller]
fn ask(words: &[&str]) -> Vec<String> {
    try_ask(words).unwrap_or_else(|why| panic!("{words:?}: {why}"))
}

/// Gives an order and reads the answer; an error is what Java says.
fn try_ask(words: &[&str]) -> Result<Vec<String>, String> {
    static JAVA: LazyLock<Mutex<Java>> = LazyLock::new(|| Mutex::new(Java::start()));
    JAVA.lock().unwrap_or_else(PoisonError::into_inner).ask(words)
}

struct Java {
    _process: Process,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Java {
    fn start() -> Self {
        // Compiled as it starts: a source where a class is wanted is taken as such.
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/Clients.java");
        let mut java = java(&["-Xmx384m"], source, &[]);
        let log = super::target().join("kafka/clients.log");
        java.stderr(std::fs::File::create(log).expect("the target folder is writable"));
        let mut process = Process::start(java.stdin(Stdio::piped()).stdout(Stdio::piped())).expect(NEEDED);
        let orders = process.child().stdin.take().expect("stdin is a pipe");
        let answers = BufReader::new(process.child().stdout.take().expect("stdout is a pipe"));
        Self { _process: process, orders, answers }
    }

    fn ask(&mut self, words: &[&str]) -> Result<Vec<String>, String> {
        writeln!(self.orders, "{}", words.join("\t")).map_err(|error| error.to_string())?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.answers.read_line(&mut line).map_err(|error| error.to_string())?;
            match line.trim_end_matches('\n') {
                _ if read == 0 => return Err("Java has ended; see kafka/clients.log in the target folder".to_owned()),
                "." => return Ok(lines),
                why if why.starts_with('!') => return Err(why[1..].to_owned()),
                line => lines.push(line.to_owned()),
            }
        }
    }
}

/// Makes a program of that name in a folder: one of Kafka's own tools, as an installation of Kafka has them.
pub(crate) fn install(folder: &std::path::Path, name: &str, class: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let java = java(&["-Xmx128m"], class, &[]);
    let words = std::iter::once(java.get_program()).chain(java.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().expect("UTF-8"))).collect();
    let file = folder.join(name);
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "));
    std::fs::write(&file, script).expect("the folder is writable");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
}
