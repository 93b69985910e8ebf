//! What it costs to put consumer groups back, against a client that commits one partition after another.
//!
//! `cargo bench --bench groups` starts an Apache Kafka as the tests do and sets 200 groups on 50 partitions each, several times
//! by every contender, in turn; the median counts. It fails when a bound is missed.
//! `BENCH_GROUPS=20` takes so many groups: quick, and its ratio means little.
//!
//! | contender | what it does |
//! |---|---|
//! | `perform` | what `offset-reset-bulk` does with a plan: looks, keeps a snapshot in a folder, commits over eight connections, reads all back |
//! | `one by one` | rdkafka consumers, one after the other, each of which commits one partition after the other and waits for each; making them and finding their coordinators is not counted |
//! | `failing` | `perform` through a front that has one in twenty commits answered with a failure that passes |
//!
//! Needs what the tests need: a JDK and Maven.
#![allow(missing_docs, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

/// The broker of the tests; what else they stand on is not used here.
#[path = "../tests"]
#[allow(dead_code)]
mod tests {
    pub(crate) mod support;
}

use std::time::{Duration, Instant};

use kafka_backup::groups::perform::{CONNECTIONS, Performing, Report, connections};
use kafka_backup::groups::plan::{Action, GroupPlan, Plan, Row};
use kafka_backup::groups::positions::Committed;
use kafka_backup::groups::snapshot::Snapshots;
use kafka_backup::kafka::Properties;
use kafka_backup::kafka::client::{Client, OPEN_WITHIN};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use tests::support::cutting::Cutting;
use tests::support::kafka::Kafka;

/// Groups, unless told otherwise.
const GROUPS: usize = 200;

/// Partitions of each group.
const PARTITIONS: i32 = 50;

/// How often each contender runs before it counts: a broker that lives long has compiled what it does.
const WARM_UP: usize = 4;

/// How often each contender runs then; the median counts.
const ROUNDS: usize = 5;

/// Groups at a time: what `offset-reset-bulk` takes without being told.
const MAX_CONCURRENT: usize = 100;

/// How many times faster it must be.
const BOUND: f64 = 50.0;

/// What each group keeps beside each offset.
const METADATA: &str = "where the group is";

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        bench();
    } else {
        // `cargo test --all-targets` runs benches too, and means a quick look.
        println!("run it as `cargo bench --bench groups`");
    }
}

fn bench() {
    let groups = std::env::var("BENCH_GROUPS").map_or(GROUPS, |groups| groups.parse().expect("a number of groups"));
    let kafka = Kafka::start_at_full_speed();
    let topic = kafka.topic("groups", PARTITIONS, &[]);
    let folder = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let bench = Bench {
        kafka: &kafka,
        topic,
        groups,
        snapshots: Snapshots::open(&folder.path().display().to_string(), None).expect("a folder"),
        runtime: runtime.expect("a runtime starts"),
        failing: Cutting::refusing_commits(kafka.brokers(), 20),
    };
    println!("{groups} groups of {PARTITIONS} partitions");
    println!(
        "\n| contender | round | wall s | partitions/s | look ms | keep ms | set ms | read back ms | requests | p50 ms | p99 ms | retries |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut walls = [const { Vec::new() }; 3];
    for round in 0..WARM_UP + ROUNDS {
        for (side, contender) in ["perform", "one by one", "failing"].into_iter().enumerate() {
            let offset = (round * 3 + side + 1) as i64;
            let wall = match side {
                0 => bench.perform(contender, round, kafka.brokers(), offset),
                1 => bench.one_by_one(contender, round, offset),
                _ => bench.perform(contender, round, bench.failing.address(), offset),
            };
            if round >= WARM_UP {
                walls[side].push(wall);
            }
        }
    }
    let [ours, rival, failing] = walls.map(median);
    let kept = promise("perform", rival.as_secs_f64() / ours.as_secs_f64());
    println!(
        "\nfailing: {:.1}x; {} commits were answered with a failure, and all landed",
        rival.as_secs_f64() / failing.as_secs_f64(),
        bench.failing.cuts()
    );
    if !kept || bench.failing.cuts() == 0 {
        println!("MISSED");
        std::process::exit(1);
    }
}

fn median(mut walls: Vec<Duration>) -> Duration {
    walls.sort_unstable();
    walls[walls.len() / 2]
}

/// Prints the promise; returns whether it is kept.
fn promise(name: &str, ratio: f64) -> bool {
    let kept = ratio >= BOUND;
    println!(
        "\n{name}: {ratio:.1}x as fast as one by one, at least {BOUND}x: {}",
        if kept { "kept" } else { "MISSED" }
    );
    kept
}

/// The cluster and what is done with it.
struct Bench<'a> {
    kafka: &'a Kafka,
    topic: String,
    groups: usize,
    snapshots: Snapshots,
    runtime: tokio::runtime::Runtime,
    failing: &'static Cutting,
}

impl Bench<'_> {
    /// Sets all groups to `offset`, and checks that they are there.
    fn perform(&self, contender: &str, round: usize, servers: &str, offset: i64) -> Duration {
        let (report, wall) = self.runtime.block_on(async {
            let properties = [("bootstrap.servers".to_owned(), servers.to_owned())];
            let properties = Properties::new(properties.into()).expect("good properties");
            let before = Client::open(properties.clone(), OPEN_WITHIN).await.expect("the broker answers");
            let plan = self.plan(contender, &before, offset).await;
            let began = Instant::now();
            // From the first connection on, as the program has it.
            let clients = connections(&Client::new(properties.clone()), CONNECTIONS);
            let performing = Performing {
                clients: &clients,
                snapshots: Some(&self.snapshots),
                max_concurrent: MAX_CONCURRENT,
                all_or_nothing: false,
                wait_until_empty: None,
                progress: &(),
            };
            let report = performing.perform(&plan, "bench").await.expect("the cluster answers");
            (report, began.elapsed())
        });
        report.verdict().expect("all landed");
        assert_eq!(report.set, self.groups as u64 * PARTITIONS as u64, "read back");
        self.print(contender, round, wall, Some(&report));
        wall
    }

    /// Plans that each partition of the contender's groups goes from where it is to `offset`.
    async fn plan(&self, contender: &str, client: &Client, offset: i64) -> Plan {
        let names: Vec<String> = (0..self.groups).map(|n| name(contender, n)).collect();
        let present = kafka_backup::groups::present::Present::look(client, &names).await.expect("the broker answers");
        let group = |group: &String| {
            let now = &present.groups[group];
            let row = |partition| Row {
                topic: self.topic.clone(),
                topic_id: present.topic_id(&self.topic),
                partition,
                current: now.offsets.as_ref().expect("told").get(&(self.topic.clone(), partition)).cloned(),
                target: Some(Committed { offset, metadata: METADATA.to_owned() }),
                action: Action::Set,
                exactness: None,
            };
            let (kind, state) = (now.kind.clone(), now.state.clone());
            GroupPlan {
                group: group.clone(),
                kind,
                state,
                rows: (0..PARTITIONS).map(row).collect(),
                ..GroupPlan::default()
            }
        };
        Plan { cluster_id: present.cluster_id.clone(), groups: names.iter().map(group).collect(), ..Plan::default() }
    }

    /// Commits one partition after the other, group by group, over one connection at a time.
    fn one_by_one(&self, contender: &str, round: usize, offset: i64) -> Duration {
        let mut wall = Duration::ZERO;
        for group in (0..self.groups).map(|n| name(contender, n)) {
            let consumer: BaseConsumer = self.kafka.client(&[("group.id", &group)]).create().expect("a consumer");
            // It finds its coordinator.
            self.commit(&consumer, 0, offset - 1);
            let began = Instant::now();
            (0..PARTITIONS).for_each(|partition| self.commit(&consumer, partition, offset));
            wall += began.elapsed();
        }
        self.print(contender, round, wall, None);
        wall
    }

    fn commit(&self, consumer: &BaseConsumer, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(&self.topic, partition);
        element.set_offset(Offset::Offset(offset)).expect("an offset");
        element.set_metadata(METADATA);
        consumer.commit(&list, CommitMode::Sync).expect("the coordinator answers");
    }

    fn print(&self, contender: &str, round: usize, wall: Duration, report: Option<&Report>) {
        let rate = (self.groups * PARTITIONS as usize) as f64 / wall.as_secs_f64();
        let told = report.map(|report| {
            let of = &report.metrics;
            format!(
                "{:.0} | {:.0} | {:.0} | {:.0} | {} | {:.1} | {:.1} | {}",
                of.look_ms, of.keep_ms, of.set_ms, of.read_back_ms, of.requests, of.p50_ms, of.p99_ms, of.retries
            )
        });
        let told = told.unwrap_or_else(|| "| | | | | | |".to_owned());
        println!("| {contender} | {round} | {:.3} | {rate:.0} | {told} |", wall.as_secs_f64());
    }
}

fn name(contender: &str, n: usize) -> String {
    format!("{}-{n}", contender.replace(' ', "-"))
}
