//! What calls cost the agent that answers them: whether it archives as soon as without them, and how long they take.
//!
//! `cargo bench --bench load` starts an Apache Kafka as the tests do, has the agent tail a topic into a folder while 20 MB/s
//! are written to it, and reads the agent's durable lag ten times a second: for a minute without calls, and for a minute
//! with 200 calls a second, in turn, twice. It fails when a bound is missed.
//! `BENCH_LOAD_SECONDS=10` takes so many seconds instead of sixty: quick, and its percentiles mean little.
//!
//! A call is sent at its time whether those before it were answered or not, and its time counts from then: an agent that
//! stops answering for a second is seen in all calls of that second.
//!
//! Needs what the tests need: a JDK and Maven; about 6 GB of disk below `target/`.
#![allow(missing_docs, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

/// The broker and the agent of the tests; what else they stand on is not used here.
#[path = "../tests"]
#[allow(dead_code)]
mod tests {
    pub(crate) mod support;
}

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use reqwest::{Client, Method, StatusCode};
use tests::support::agent::{Agent, Backup};
use tests::support::kafka::Kafka;
use tests::support::wait_for;

/// What is written, records a second of [`RECORD_BYTES`] each: 20 MB/s.
const RECORDS_A_SECOND: u64 = 20_000;
const RECORD_BYTES: usize = 1000;

/// Partitions of the topic.
const PARTITIONS: i32 = 8;

/// Calls a second.
const CALLS_A_SECOND: u32 = 200;

/// How often each is measured.
const ROUNDS: usize = 2;

/// How many seconds each is measured for, unless told otherwise.
const SECONDS: u64 = 60;

/// When a segment closes: the durable lag goes up to it and back to nothing, so that what calls add to it is seen.
const ROLL_INTERVAL: &str = "2s";

/// The durable lag with calls, in those without.
const LAG_BOUND: f64 = 1.2;

/// The slowest call but for one in a hundred, ms.
const CALL_BOUND_MS: f64 = 50.0;

/// What is called, in turn: what a dashboard, an orchestrator and an operator ask, and one change in ten calls, of a pipeline
/// beside the one that is measured.
const CALLS: [(&str, &str); 20] = [
    ("GET", "/"),
    ("GET", "/connectors?expand=status&expand=info"),
    ("GET", "/connectors/test/status"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/v1/backups"),
    ("GET", "/v1/index/test/{topic}/0"),
    ("GET", "/connectors/test/offsets"),
    ("GET", "/livez"),
    ("PUT", "/connectors/beside/pause"),
    ("GET", "/connectors/test/config"),
    ("GET", "/connectors/test/tasks"),
    ("GET", "/connectors/test/topics"),
    ("GET", "/connector-plugins"),
    ("GET", "/v1/index/test/{topic}/3?offset=1000"),
    ("GET", "/v1/savepoints/test"),
    ("GET", "/connectors"),
    ("GET", "/health"),
    ("GET", "/admin/loggers"),
    ("PUT", "/connectors/beside/resume"),
];

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        bench();
    } else {
        // `cargo test --all-targets` runs benches too, and means a quick look.
        println!("run it as `cargo bench --bench load`");
    }
}

fn bench() {
    let seconds =
        std::env::var("BENCH_LOAD_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    let kafka = Kafka::start_at_full_speed();
    // What was archived is deleted at the source, so that the disk holds one copy.
    let topic = kafka.topic("load", PARTITIONS, &[("retention.ms", "60000"), ("segment.bytes", "67108864")]);
    let beside = kafka.topic("beside", 1, &[]);
    let backup = Backup::of(&kafka, &[&topic]).sink("roll_bytes", "64MiB").sink("roll_interval", ROLL_INTERVAL);
    let second = Backup::of(&kafka, &[&beside]).config();
    let second = second.replace("name = \"test\"", "name = \"beside\"").replace("id = \"test\"", "id = \"beside\"");
    let second =
        second.split_once("[[pipeline]]").map_or_else(String::new, |(_, table)| format!("\n[[pipeline]]{table}"));
    let state = format!("[agent]\nstate_dir = {:?}\n", backup.folder().join("state"));
    let agent = backup.run_config(&(backup.config().replace("[agent]\n", &state) + &second), &[]);
    let address = wait_for("the agent listens", || agent.address());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let callers = Callers { address, topic: topic.clone(), runtime: runtime.expect("a runtime starts") };
    println!("{seconds} s each: {RECORDS_A_SECOND} records of {RECORD_BYTES} B and {CALLS_A_SECOND} calls a second");
    println!(
        "\n| calls | round | lag p50 s | lag p99 s | lag most s | calls | call p50 ms | call p99 ms | call most ms |\n|---|---|---|---|---|---|---|---|---|"
    );
    let ended = AtomicBool::new(false);
    let (mut without, mut with, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| write(&kafka, &topic, &ended));
        let guard = Ending(&ended);
        wait_for("it archives", || lags(&agent).iter().any(|lag| *lag > 0.0).then_some(()));
        for round in 0..=ROUNDS {
            // The first one warms up.
            let measured = Duration::from_secs(if round == 0 { seconds.min(10) } else { seconds });
            for is_called in [false, true] {
                let (lag, call) = measure(&agent, is_called.then_some(&callers), measured);
                print(is_called, round, &lag, &call);
                if round > 0 {
                    if is_called { &mut with } else { &mut without }.extend(lag);
                    calls.extend(call);
                }
            }
        }
        drop(guard);
        let written = writing.join().expect("it writes");
        println!("\n{written} records were written");
    });
    agent.terminate();
    let lag = percentile(&mut with, 0.99) / percentile(&mut without, 0.99);
    let call = percentile(&mut calls, 0.99);
    let kept = promise("p99 of the durable lag with calls, in that without", lag, LAG_BOUND)
        & promise("p99 of calls, ms", call, CALL_BOUND_MS);
    if !kept {
        println!("MISSED");
        std::process::exit(1);
    }
}

/// Ends the writing also where the bench panics: nobody would wait for it otherwise.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Measures for a while: the durable lags of all partitions in seconds, and how long each call took in ms.
fn measure(agent: &Agent, callers: Option<&Callers>, measured: Duration) -> (Vec<f64>, Vec<f64>) {
    let calling =
        callers.map(|callers| callers.runtime.spawn(call(callers.address.clone(), callers.topic.clone(), measured)));
    let (began, mut seen) = (Instant::now(), Vec::new());
    for look in 0.. {
        let due = Duration::from_millis(100) * look;
        if due >= measured {
            break;
        }
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        seen.extend(lags(agent));
    }
    let calls = calling
        .zip(callers)
        .map_or_else(Vec::new, |(calling, callers)| callers.runtime.block_on(calling).expect("all calls are answered"));
    (seen, calls)
}

/// Who calls the agent.
struct Callers {
    address: String,
    topic: String,
    runtime: tokio::runtime::Runtime,
}

/// Calls [`CALLS`] in turn, and returns how long each took in ms, from the time at which it was to be sent until all of its
/// answer was read.
async fn call(address: String, topic: String, measured: Duration) -> Vec<f64> {
    let client = Client::builder().no_proxy().build().expect("a client");
    let mut calling = tokio::task::JoinSet::new();
    let began = tokio::time::Instant::now();
    for n in 0..measured.as_secs() as u32 * CALLS_A_SECOND {
        let due = began + Duration::from_secs(1) * n / CALLS_A_SECOND;
        let (method, path) = CALLS[n as usize % CALLS.len()];
        let url = format!("http://{address}{}", path.replace("{topic}", &topic));
        let request = client.request(method.parse::<Method>().expect("a method"), url);
        tokio::time::sleep_until(due).await;
        calling.spawn(async move {
            let answer = request.send().await.expect("the agent answers");
            let status = answer.status();
            let body = answer.bytes().await.expect("all of the answer comes");
            // A pipeline that is being resumed is not ready yet, and says so.
            let is_ready = path != "/readyz" || status != StatusCode::SERVICE_UNAVAILABLE;
            assert!(
                status.is_success() || !is_ready,
                "{path} was answered {status}: {}",
                String::from_utf8_lossy(&body)
            );
            due.elapsed().as_secs_f64() * 1000.0
        });
    }
    calling.join_all().await
}

/// Returns the durable lag of each partition of the pipeline that is measured, s.
fn lags(agent: &Agent) -> Vec<f64> {
    let (_, page) = agent.get("/metrics").expect("the agent answers");
    let lag = |line: &str| {
        let labels = line.strip_prefix("kafka_backup_durable_lag_seconds{")?;
        labels.contains("pipeline=\"test\"").then(|| labels.rsplit_once(' ')?.1.parse().ok()).flatten()
    };
    page.lines().filter_map(lag).collect()
}

/// Writes at an even pace until told to end; returns how many records were written.
fn write(kafka: &Kafka, topic: &str, ended: &AtomicBool) -> u64 {
    let properties = [("linger.ms", "5"), ("queue.buffering.max.messages", "500000")];
    let producer: BaseProducer = kafka.client(&properties).create().expect("a producer");
    let value = vec![b'x'; RECORD_BYTES];
    let (began, mut written) = (Instant::now(), 0);
    while !ended.load(Ordering::Relaxed) {
        let due = began.elapsed().as_millis() as u64 * RECORDS_A_SECOND / 1000;
        for number in written..due {
            let partition = (number % PARTITIONS as u64) as i32;
            send(&producer, BaseRecord::to(topic).partition(partition).payload(&value));
        }
        written = due;
        producer.poll(Duration::from_millis(5));
    }
    producer.flush(Duration::from_secs(60)).expect("the broker takes what was sent");
    written
}

fn send(producer: &BaseProducer, mut record: BaseRecord<'_, (), Vec<u8>>) {
    while let Err((error, again)) = producer.send(record) {
        assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
        producer.poll(Duration::from_millis(5));
        record = again;
    }
}

fn print(is_called: bool, round: usize, lag: &[f64], calls: &[f64]) {
    let figures = |values: &[f64], digits: usize| {
        let mut values = values.to_vec();
        [0.5, 0.99, 1.0].map(|p| match values.is_empty() {
            true => "-".to_owned(),
            false => format!("{:.digits$}", percentile(&mut values, p)),
        })
    };
    let ([lag_half, lag_99, lag_most], [half, most_99, most]) = (figures(lag, 3), figures(calls, 2));
    let (name, count) = (if is_called { "with" } else { "without" }, calls.len());
    println!("| {name} | {round} | {lag_half} | {lag_99} | {lag_most} | {count} | {half} | {most_99} | {most} |");
}

/// Returns the value that so large a share of them does not exceed.
fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share).ceil() as usize;
    values[at.clamp(1, values.len()) - 1]
}

/// Prints a promise; returns whether it is kept.
fn promise(name: &str, measured: f64, bound: f64) -> bool {
    let kept = measured <= bound;
    println!("\n{name}: {measured:.3}, bound {bound}: {}", if kept { "kept" } else { "MISSED" });
    kept
}
