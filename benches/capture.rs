//! What capture costs, against the fastest consumer that librdkafka makes and throws its records away.
//!
//! `cargo bench --bench capture` starts an Apache Kafka as the tests do, writes one topic of 100-byte records and one of
//! 1 KB records (lz4, four partitions), reads each of them five times by every contender, one after the other within a
//! round, and prints user and system CPU, wall time and peak memory of each whole process. It fails when a bound is
//! missed. `BENCH_RECORDS_PERCENT=5` takes a twentieth of the records: quick, and its ratios mean little.
//!
//! | contender | what it does |
//! |---|---|
//! | `agent folder` | `kafka-backup backup` into a fresh folder |
//! | `agent memory` | the same into `memory://`, so that no file system takes part |
//! | `poll`, `batch` | an rdkafka consumer, read_committed, that drops what it gets ([`consume`]) |
//! | `cp` | copies what `agent folder` wrote |
//!
//! Needs what the tests need: a JDK and Maven; about 4 GB of disk below `target/`.
#![allow(missing_docs, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod consume;
mod measure;
mod report;
mod workload;

/// The broker of the tests; what else they stand on is not used here.
#[path = "../tests"]
#[allow(dead_code)]
mod tests {
    pub(crate) mod support;
}

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use measure::Usage;
use report::{Contender, Run};
use tests::support::kafka::Kafka;
use workload::Shape;

/// How often each contender runs; the median counts.
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--measure") => measure::parent(&arguments[1..]),
        Some("--consume") => consume::run(&arguments[1..]),
        Some(_) if arguments.iter().any(|argument| argument == "--bench") => bench(),
        // `cargo test --all-targets` runs benches too, and means a quick look.
        _ => println!("run it as `cargo bench --bench capture`"),
    }
}

fn bench() {
    let percent = workload::percent();
    report::print_machine(percent);
    let folder = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable");
    let kafka = Kafka::start();
    let mut runs = Vec::new();
    for shape in &workload::SHAPES {
        let topic = workload::write(&kafka, shape, percent);
        let bench = Bench { kafka: &kafka, shape, topic, records: shape.records(percent), folder: folder.path() };
        // Unmeasured: it warms the broker up and shows that the topic holds what it should.
        bench.consume("poll");
        for round in 1..=ROUNDS {
            bench.round(round, &mut runs);
        }
        kafka.delete(&bench.topic);
    }
    if !report::print_verdict(&runs) {
        std::process::exit(1);
    }
}

/// One topic and what is done with it.
struct Bench<'a> {
    kafka: &'a Kafka,
    shape: &'a Shape,
    topic: String,
    records: u64,
    folder: &'a Path,
}

impl Bench<'_> {
    fn round(&self, round: usize, runs: &mut Vec<Run>) {
        let mut note = |contender, usage: Usage| {
            let run = Run { shape: self.shape.name, contender, round, usage };
            println!("{run}");
            runs.push(run);
        };
        let archive = self.folder.join("archive");
        note(Contender::AgentFolder, self.agent(archive.to_str().expect("UTF-8")));
        self.check(&archive);
        if round == 1 {
            let percent = bytes(&archive) * 100 / (self.records * self.shape.value_bytes as u64);
            eprintln!("archived {} MiB, {percent} % of the values' own size", bytes(&archive) >> 20);
        }
        let copy = self.folder.join("copy");
        note(Contender::Copy, measure::run(Command::new("cp").arg("-r").arg(&archive).arg(&copy)));
        for folder in [archive, copy] {
            fs::remove_dir_all(folder).expect("the target folder is writable");
        }
        if self.shape.in_memory_too {
            note(Contender::AgentMemory, self.agent("memory://bench"));
        }
        note(Contender::Poll, self.consume("poll"));
        note(Contender::Batch, self.consume("batch"));
    }

    /// Backs the topic up into `path` by the program as it is shipped.
    fn agent(&self, path: &str) -> Usage {
        let config = self.folder.join("backup.toml");
        fs::write(&config, self.config(path)).expect("the target folder is writable");
        measure::run(Command::new(program()).arg("backup").arg("--config").arg(config))
    }

    /// All keys have their defaults.
    fn config(&self, path: &str) -> String {
        format!(
            r#"[[pipeline]]
name = "bench"
  [pipeline.source]
  type = "kafka"
  topics = [{topic:?}]
  kafka = {{ "bootstrap.servers" = {brokers:?} }}
  [pipeline.sink]
  type = "archive"
  backup_id = "bench"
  path = {path:?}
"#,
            topic = self.topic,
            brokers = self.kafka.brokers(),
        )
    }

    /// Makes sure that the archive holds every record.
    fn check(&self, archive: &Path) {
        let mut mapping = Command::new(program());
        mapping.args(["show-offset-mapping", "--format", "csv", "--backup-id", "bench", "--path"]).arg(archive);
        let output = mapping.output().expect("the program starts");
        let csv = String::from_utf8_lossy(&output.stdout);
        let counts = csv.lines().skip(1).filter_map(|line| line.split(',').nth(4)?.parse::<u64>().ok());
        let held: u64 = counts.sum();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(held, self.records, "records in the archive\n{csv}{complaint}");
    }

    fn consume(&self, way: &str) -> Usage {
        let mut consumer = Command::new(std::env::current_exe().expect("this program has a path"));
        consumer.args(["--consume", way, self.kafka.brokers(), &self.topic, &self.records.to_string()]);
        measure::run(&consumer)
    }
}

/// Returns the bytes of all files below `folder`.
fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let sizes = entries.map(|entry| match entry.metadata().expect("a file") {
        kind if kind.is_dir() => bytes(&entry.path()),
        file => file.len(),
    });
    sizes.sum()
}

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_kafka-backup"))
}
