//! What a thousand partitions cost one agent: idle, and under trickle.
//!
//! `cargo bench --bench scale` starts an Apache Kafka as the tests do, makes a topic of a thousand partitions, and runs
//! the agent on it once for each case, for a minute each after it has settled. CPU is the process's own, from
//! `/proc/<pid>/stat`; memory is its peak since it started. It fails when a bound is missed. `SCALE_SECONDS=20` makes it
//! quicker; where segments close every minute it then sees none close.
//!
//! Needs what the tests need: a JDK and Maven; and an otherwise idle machine.
#![allow(missing_docs, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

/// What the tests stand on; not all of it is used here.
#[path = "../tests"]
#[allow(dead_code)]
mod tests {
    pub(crate) mod support;
}

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tests::support::agent::{Agent, Backup};
use tests::support::kafka::Kafka;
use tests::support::wait_within;
use tests::support::workload::{Contents, Writer};

const PARTITIONS: i32 = 1_000;

/// Peak memory with all keys at their defaults, in MiB.
const PEAK_BOUND_MIB: u64 = 400;

/// CPU of an idle agent, in percent of a core.
const IDLE_BOUND_PERCENT: f64 = 2.0;

/// Time for joining, opening and catching up, and for whatever only happens once.
const SETTLES: Duration = Duration::from_secs(15);

/// What Linux counts CPU time in for programs, on everything but Alpha.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        bench();
    } else {
        // `cargo test --all-targets` runs benches too, and means a quick look.
        println!("run it as `cargo bench --bench scale`");
    }
}

/// How the agent is run and what its topic gets meanwhile.
struct Case {
    name: &'static str,
    group: bool,
    roll_interval: &'static str,
    /// One record to each partition that often; `None` is idle.
    every: Option<Duration>,
}

const CASES: [Case; 6] = [
    Case { name: "idle", group: false, roll_interval: "60s", every: None },
    Case { name: "idle, in a group", group: true, roll_interval: "60s", every: None },
    Case { name: "a record every 10 s", group: true, roll_interval: "60s", every: Some(Duration::from_secs(10)) },
    Case { name: "a record every second", group: false, roll_interval: "60s", every: Some(Duration::from_secs(1)) },
    Case { name: "a record every second", group: true, roll_interval: "60s", every: Some(Duration::from_secs(1)) },
    Case { name: "a record every second", group: true, roll_interval: "10s", every: Some(Duration::from_secs(1)) },
];

/// What a case came to.
struct Cost {
    user_percent: f64,
    system_percent: f64,
    peak_mib: u64,
    answers: f64,
    objects: f64,
}

fn bench() {
    let seconds = std::env::var("SCALE_SECONDS").map_or(60, |text| text.parse().expect("SCALE_SECONDS is a number"));
    let window = Duration::from_secs(seconds);
    let kafka = Kafka::start();
    let topic = kafka.topic("wide", PARTITIONS, &[]);
    // Every partition has something, so that an idle one has an archive to go on from.
    let _ = Writer::new(&kafka, &[]).write(&topic, &Contents::new().records(PARTITIONS, 1, 500));
    println!("{PARTITIONS} partitions, {seconds} s each\n");
    println!(
        "| partitions get | group | roll_interval | user % | sys % | CPU % of a core | answers/s | objects/s | peak MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut kept = true;
    for case in &CASES {
        let cost = case.run(&kafka, &topic, window);
        let (cpu, group) = (cost.user_percent + cost.system_percent, if case.group { "yes" } else { "no" });
        println!(
            "| {} | {group} | {} | {:.2} | {:.2} | {cpu:.2} | {:.1} | {:.1} | {} |",
            case.name,
            case.roll_interval,
            cost.user_percent,
            cost.system_percent,
            cost.answers,
            cost.objects,
            cost.peak_mib
        );
        let idle = case.every.is_none();
        kept &= cost.peak_mib <= PEAK_BOUND_MIB && !(idle && (cpu > IDLE_BOUND_PERCENT || cost.objects > 0.0));
    }
    println!("\nbounds: idle under {IDLE_BOUND_PERCENT} % of a core and no object, peak under {PEAK_BOUND_MIB} MiB");
    if !kept {
        println!("MISSED");
        std::process::exit(1);
    }
}

impl Case {
    fn run(&self, kafka: &Kafka, topic: &str, window: Duration) -> Cost {
        let backup = Backup::of(kafka, &[topic]).sink("roll_bytes", "64MiB").sink("roll_interval", "1s");
        // What is there already is durable before the clock starts.
        let _ = backup.backup().ok();
        let backup = backup.sink("roll_interval", self.roll_interval);
        let backup = if self.group { backup.source("group_id", "scale") } else { backup };
        let mut agent = backup.run();
        wait_within(Duration::from_secs(120), "the agent has all partitions", || {
            assert!(agent.runs(), "the agent ended");
            (gauges(&agent, "kafka_backup_durable_offset") >= PARTITIONS as usize).then_some(())
        });
        let trickle = self.every.map(|every| Trickle::start(kafka, topic, every));
        std::thread::sleep(SETTLES);
        let archive = Path::new(backup.archive());
        let before = (agent.metric("kafka_backup_fetches_total"), count_files(archive));
        let (cpu, began) = (cpu(&agent), Instant::now());
        std::thread::sleep(window);
        let (after, took) = (self::cpu(&agent), began.elapsed().as_secs_f64());
        let objects = (count_files(archive) - before.1) as f64 / took;
        let answers = (agent.metric("kafka_backup_fetches_total") - before.0) / took;
        drop(trickle);
        let peak_mib = agent.peak_bytes() >> 20;
        agent.terminate();
        let percent = |ticks: u64| ticks as f64 * 100.0 / TICKS_PER_SECOND / took;
        Cost {
            user_percent: percent(after.0 - cpu.0),
            system_percent: percent(after.1 - cpu.1),
            peak_mib,
            answers,
            objects,
        }
    }
}

/// A producer that writes one record to each partition in turn, evenly spread over time: the agent gets hardly two of
/// them at once.
struct Trickle {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trickle {
    fn start(kafka: &Kafka, topic: &str, every: Duration) -> Self {
        let (writer, topic) = (Writer::new(kafka, &[("linger.ms", "0")]), topic.to_owned());
        let (end, mut contents) = (Arc::new(AtomicBool::new(false)), Contents::new());
        let ended = end.clone();
        let thread = std::thread::spawn(move || {
            let (began, pause) = (Instant::now(), every / PARTITIONS.unsigned_abs());
            for number in 0_u32.. {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                writer.send(&topic, &contents.record(number as i32 % PARTITIONS, number as usize, 500));
                std::thread::sleep((pause * (number + 1)).saturating_sub(began.elapsed()));
            }
            let _ = writer.flush();
        });
        Self { end, thread: Some(thread) }
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the broker takes what was sent");
        }
    }
}

/// Returns user and system time that the agent has had, in the kernel's ticks.
fn cpu(agent: &Agent) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.id())).expect("the agent is there");
    // The name in parentheses may hold blanks; state is the first field after it, user time the twelfth.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    (fields[11].parse().expect("a number"), fields[12].parse().expect("a number"))
}

/// Counts the series of a metric.
fn gauges(agent: &Agent, name: &str) -> usize {
    let (_, page) = agent.get("/metrics").unwrap_or_default();
    page.lines().filter(|line| line.starts_with(name)).count()
}

/// Counts the files below `folder`.
fn count_files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("a readable folder").map(|entry| entry.expect("an entry"));
    let count = |path: &Path| if path.is_dir() { count_files(path) } else { 1 };
    entries.map(|entry| count(&entry.path())).sum()
}
