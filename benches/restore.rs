//! What a restore costs, against an rdkafka producer that sends the same records.
//!
//! `cargo bench --bench restore` starts an Apache Kafka as the tests do, writes a topic of 100-byte records and one of 1 KB
//! records (lz4, four partitions) and one of 100-byte records in batches of one, archives each, and sends each into fresh
//! topics five times by every contender, in turn; the last three count. CPU is of the whole process; beside it stands what
//! the broker took meanwhile. It fails when a bound is missed.
//! `BENCH_RECORDS_PERCENT=5` takes a twentieth of the records: quick, and its ratios mean little.
//!
//! | contender | what it does |
//! |---|---|
//! | `restore` | `kafka-backup restore` of the archive |
//! | `injecting` | the same through the plugin `header-injector`, which adds three headers to each record |
//! | `producer` | an rdkafka producer ([`produce`]): linger 50 ms, batches of 1 MiB, lz4, acks=all, idempotent; its values come from a file that it reads at once |
//!
//! Needs what the tests need: a JDK and Maven; about 6 GB of disk below `target/`.
#![allow(missing_docs, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod measure;
mod produce;
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
use tests::support::kafka::Kafka;
use workload::{PARTITIONS, SHAPES, SMALL};

/// How often each contender runs before it counts: a broker that lives long has compiled what it does.
const WARM_UP: usize = 2;

/// How often each contender runs then; the median counts.
const ROUNDS: usize = 3;

/// The stage of the restore that injects headers.
const INJECT: &str = "  [[pipeline.stage]]\n  plugin = \"header-injector\"\n";

/// Batches of one record: fewer, since a broker takes some ten thousand a second.
const SINGLES: &str = "100 B, batches of one";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--measure") => measure::parent(&arguments[1..]),
        Some("--produce") => produce::run(&arguments[1..]),
        Some(_) if arguments.iter().any(|argument| argument == "--bench") => bench(),
        // `cargo test --all-targets` runs benches too, and means a quick look.
        _ => println!("run it as `cargo bench --bench restore`"),
    }
}

fn bench() {
    let percent = workload::percent();
    println!("{percent} % of the records");
    println!(
        "\n| records | contender | round | cpu s | wall s | records/s | peak MiB | broker's cpu s |\n|---|---|---|---|---|---|---|---|"
    );
    let folder = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable");
    let kafka = Kafka::start_at_full_speed();
    let mut kept = true;
    for shape in &SHAPES {
        let records = shape.records(percent);
        let topic = workload::write(&kafka, shape, percent);
        let bench = Bench { kafka: &kafka, name: shape.name, topic, records, folder: folder.path() };
        workload::keep(&bench.values(), shape.value_bytes, records);
        let [restore, injecting, producer] = bench.measure("1000000");
        let bound = if shape.name == SMALL { 0.1 } else { 0.25 };
        kept &= promise(
            &format!("{}: CPU of a restore / the producer's", shape.name),
            cpu(&restore) / cpu(&producer),
            bound,
        );
        kept &= promise(
            &format!("{}: CPU of a restore that injects headers / the producer's", shape.name),
            cpu(&injecting) / cpu(&producer),
            1.0,
        );
        if shape.name == SMALL {
            let slower = restore.wall.as_secs_f64() / producer.wall.as_secs_f64();
            kept &= promise(&format!("{}: wall of a restore / the producer's", shape.name), slower, 0.2);
        }
    }
    let shape = &SHAPES[0];
    let records = shape.records(percent) / 10;
    let topic = kafka.topic("singles", PARTITIONS, &[]);
    let bench = Bench { kafka: &kafka, name: SINGLES, topic, records, folder: folder.path() };
    workload::keep(&bench.values(), shape.value_bytes, records);
    // One record a batch, as a producer sends that never waits for more.
    bench.produce(&bench.topic, "1");
    let [restore, _, producer] = bench.measure("1000000");
    kept &= promise(&format!("{SINGLES}: CPU of a restore / the producer's"), cpu(&restore) / cpu(&producer), 1.2);
    let slower = restore.wall.as_secs_f64() / producer.wall.as_secs_f64();
    kept &= promise(&format!("{SINGLES}: wall of a restore / the producer's"), slower, 1.0);
    if !kept {
        println!("MISSED");
        std::process::exit(1);
    }
}

fn cpu(usage: &Usage) -> f64 {
    usage.cpu().as_secs_f64()
}

/// Prints a promise; returns whether it is kept.
fn promise(name: &str, measured: f64, bound: f64) -> bool {
    let kept = measured <= bound;
    println!("\n{name}: {measured:.3}, bound {bound}: {}\n", if kept { "kept" } else { "MISSED" });
    kept
}

/// One topic and what is done with it.
struct Bench<'a> {
    kafka: &'a Kafka,
    name: &'a str,
    topic: String,
    records: u64,
    folder: &'a Path,
}

impl Bench<'_> {
    /// Archives the topic, and sends it by both contenders; returns the medians of each.
    fn measure(&self, batch_records: &str) -> [Usage; 3] {
        self.backup();
        let mut usages = [const { Vec::new() }; 3];
        for round in 0..WARM_UP + ROUNDS {
            for side in [0, 1, 2].map(|side| (side + round) % 3) {
                let target = self.kafka.topic("target", PARTITIONS, &[]);
                let before = self.broker_cpu();
                let usage = match side {
                    0 => self.restore(&target, &format!("plain-{round}"), ""),
                    1 => self.restore(&target, &format!("injecting-{round}"), INJECT),
                    _ => self.produce(&target, batch_records),
                };
                let of_broker = self.broker_cpu() - before;
                let contender = ["restore", "injecting", "producer"][side];
                let rate = self.records as f64 / usage.wall.as_secs_f64();
                println!(
                    "| {} | {contender} | {round} | {:.3} | {:.3} | {rate:.0} | {} | {of_broker:.2} |",
                    self.name,
                    cpu(&usage),
                    usage.wall.as_secs_f64(),
                    usage.peak_kib / 1024
                );
                if round >= WARM_UP {
                    usages[side].push(usage);
                }
                self.check(&target);
                self.kafka.delete(&target);
            }
        }
        fs::remove_dir_all(self.folder.join("archive")).expect("the target folder is writable");
        usages.map(|mut usages| {
            usages.sort_by_key(Usage::cpu);
            usages[usages.len() / 2]
        })
    }

    /// Returns the seconds of CPU that the broker has taken since it was started.
    fn broker_cpu(&self) -> f64 {
        let of = self.kafka.process_id().map(|id| measure::cpu_of(id).as_secs_f64());
        of.expect("a broker of our own")
    }

    fn values(&self) -> PathBuf {
        self.folder.join("values")
    }

    fn backup(&self) {
        let config = self.write(
            "backup.toml",
            &format!(
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
                path = self.folder.join("archive"),
            ),
        );
        measure::run(Command::new(program()).arg("backup").arg("--config").arg(config));
    }

    fn restore(&self, target: &str, id: &str, stage: &str) -> Usage {
        let config = self.write(
            "restore.toml",
            &format!(
                r#"[[pipeline]]
name = "bench"
  [pipeline.source]
  type = "archive"
  backup_id = "bench"
  path = {path:?}
  [pipeline.sink]
  type = "kafka"
  restore_id = {id:?}
  topics = {{ {topic:?} = {target:?} }}
  kafka = {{ "bootstrap.servers" = {brokers:?} }}
{stage}"#,
                topic = self.topic,
                brokers = self.kafka.brokers(),
                path = self.folder.join("archive"),
            ),
        );
        measure::run(Command::new(program()).arg("restore").arg("--config").arg(config))
    }

    fn produce(&self, target: &str, batch_records: &str) -> Usage {
        let mut producer = Command::new(std::env::current_exe().expect("this program has a path"));
        producer.args(["--produce", self.kafka.brokers(), target, batch_records, &self.records.to_string()]);
        measure::run(producer.arg(self.values()))
    }

    /// Makes sure that the target has every record.
    fn check(&self, target: &str) {
        let held = produce::count(self.kafka.brokers(), target);
        assert_eq!(held, self.records, "records in the target");
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("the target folder is writable");
        path
    }
}

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_kafka-backup"))
}
