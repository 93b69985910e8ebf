//! The agent tells the truth of itself: what `/readyz`, Kafka Connect's status and the metrics say of many pipelines agrees
//! whatever happens to some of them, and what is exposed is what the page says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use kafka_backup::telemetry::metrics::{Kind, METRICS};
use serde_json::Value;

use crate::stages::{INJECT, faults, pipeline, staged};
use crate::support::agent::{Agent, Backup};
use crate::support::kafka::Kafka;
use crate::support::s3::{Fault, Lasting, Object, S3};
use crate::support::workload::{Contents, Writer};
use crate::support::{wait_for, wait_within};

/// The pipelines of the agent, of which three fall ill.
const PIPELINES: usize = 20;

/// Everything that a store is asked.
const ASKED: [Object; 8] = [
    Object::Sidecar,
    Object::Begin,
    Object::Part,
    Object::Log,
    Object::Topic,
    Object::Catalog,
    Object::List,
    Object::Other,
];

/// Long enough for a task to count as failed, which takes half a minute, and for all else.
const LONG: Duration = Duration::from_secs(120);

/// What the agent says of its pipelines: those of which `/readyz` has a line, those that are not ready by the metrics, and
/// those whose task has failed, each with a trace. Savepoints have lines of their own.
type Truth = [BTreeSet<String>; 3];

fn told(agent: &Agent) -> Option<Truth> {
    let (code, lines) = agent.get("/readyz")?;
    let ill = |line: &str| Some(line.strip_prefix("pipeline ")?.split_once(": ")?.0.to_owned());
    let unready: BTreeSet<_> = lines.lines().filter_map(ill).collect();
    assert!(code == 503 || unready.is_empty(), "{code}: {lines}");
    let (_, page) = agent.get("/metrics")?;
    let shown = |line: &str| {
        let (name, value) = line.strip_prefix("kafka_backup_ready{pipeline=\"")?.split_once("\"} ")?;
        (value == "0").then(|| name.to_owned())
    };
    let dark = page.lines().filter_map(shown).collect();
    let (_, status) = agent.get("/connectors?expand=status")?;
    let status: BTreeMap<String, Value> = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status.len(), PIPELINES);
    let failed = status.into_iter().filter(|(_, about)| {
        let task = &about["status"]["tasks"][0];
        let has_trace = task["trace"].as_str().is_some_and(|trace| !trace.is_empty());
        assert_eq!(task["state"] == "FAILED", has_trace, "{task}");
        assert!(has_trace || task["state"] == "RUNNING" || task["state"] == "UNASSIGNED", "{task}");
        has_trace
    });
    Some([unready, dark, failed.map(|(name, _)| name).collect()])
}

/// Waits until the agent says everywhere that just these pipelines are ill.
#[track_caller]
fn wait_until_ill(agent: &mut Agent, names: &[&str]) {
    let wanted: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
    wait_within(LONG, &format!("{names:?} alone are ill"), || {
        assert!(agent.runs(), "the agent ended");
        told(agent)?.iter().all(|ill| *ill == wanted).then_some(())
    });
}

/// Each pipeline has what is in its topic, within the deadline.
#[track_caller]
fn wait_until_held(backup: &Backup, topic: &str, offsets: i64) {
    let what = format!("{topic} is held up to {offsets}");
    wait_for(&what, || (backup.chain(topic, 0).next() == offsets).then_some(()));
}

#[test]
fn of_twenty_pipelines_three_fall_ill_and_all_that_is_told_agrees_while_the_others_go_on() {
    let (kafka, s3) = (Kafka::shared_with_disk(), S3::shared());
    let mut other = Kafka::start();
    let write = |kafka: &Kafka, topic: &str| {
        let _ = Writer::new(kafka, &[("batch.num.messages", "10")]).write(topic, &Contents::new().records(1, 50, 100));
    };
    let well: Vec<_> = (0..PIPELINES - 3).map(|n| kafka.topic(&format!("health-well-{n}"), 1, &[])).collect();
    let backups: Vec<_> = well.iter().map(|topic| backup(kafka, topic)).collect();
    let poisoned = kafka.topic("health-poisoned", 1, &[]);
    let (sick, stored) = (backup(kafka, &poisoned), kafka.topic("health-store", 1, &[]));
    let away = backup(kafka, &stored).on(s3, "health", "").pipeline("max_lag", "2s");
    let remote = other.topic("health-broker", 1, &[]);
    let cut_off = backup(&other, &remote);
    let mut config = backups[0].config().replace("[agent]", "[agent]\nrestart_backoff_max = \"2s\"");
    for (n, backup) in backups.iter().enumerate().skip(1) {
        config += &pipeline(&backup.config(), &format!("well-{n}"));
    }
    config += &pipeline(&staged(&sick, &[&faults("panic", 55, "fail")]), "poisoned");
    config += &pipeline(&away.config(), "store");
    config += &pipeline(&cut_off.config(), "broker");
    for topic in well.iter().chain([&poisoned, &stored]) {
        write(kafka, topic);
    }
    write(&other, &remote);
    let mut agent = backups[0].run_config(&config, &[]);
    wait_until_ill(&mut agent, &[]);
    for (backup, topic) in backups.iter().zip(&well).chain([(&sick, &poisoned), (&away, &stored), (&cut_off, &remote)])
    {
        wait_until_held(backup, topic, 50);
    }

    ASKED.iter().for_each(|object| s3.fail("health", *object, Fault::Unavailable, Lasting::Ever));
    other.stop();
    for topic in well.iter().chain([&poisoned, &stored]) {
        write(kafka, topic);
    }
    for (backup, topic) in backups.iter().zip(&well) {
        wait_until_held(backup, topic, 100);
    }
    wait_until_ill(&mut agent, &["broker", "poisoned", "store"]);
    let (_, lines) = agent.get("/readyz").expect("an answer");
    let late = format!("pipeline store: lag of {stored}-0: 50 offsets from 50 on are not durable");
    assert!(lines.lines().any(|line| line.starts_with(&late)), "{lines}");
    assert!(lines.contains("pipeline poisoned: ") && lines.contains("plugin `faults`"), "{lines}");

    s3.heal("health");
    wait_until_held(&away, &stored, 100);
    wait_until_ill(&mut agent, &["broker", "poisoned"]);
    other.start_again();
    wait_until_ill(&mut agent, &["poisoned"]);
    agent.terminate();
}

/// Configures a pipeline whose savepoints tell nothing of its health.
fn backup(kafka: &Kafka, topic: &str) -> Backup {
    Backup::of(kafka, &[topic]).source("savepoint_interval", "off")
}

/// Checks that a page of metrics has none but those of the table, with its types and just its labels; returns their names.
fn check_page(page: &str) -> BTreeSet<&'static str> {
    let mut shown = BTreeSet::new();
    let pattern = regex::Regex::new("([a-z_]+)=\"(?:[^\"\\\\]|\\\\.)*\"").expect("a pattern");
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').expect("a type");
            let metric =
                METRICS.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name} is unknown"));
            assert_eq!(metric.type_name(), kind, "{name}");
        }
        if line.starts_with('#') {
            continue;
        }
        let (name, labels) = match line.split_once('{') {
            Some((name, rest)) => (name, rest.rsplit_once("} ").expect("a value").0),
            None => (line.split_once(' ').expect("a value").0, ""),
        };
        let is_of = |suffix: &str, base: &str| name.strip_suffix(suffix) == Some(base);
        let metric = METRICS.iter().find(|metric| match metric.kind {
            Kind::Histogram(_) => ["_bucket", "_sum", "_count"].iter().any(|suffix| is_of(suffix, metric.name)),
            _ => metric.name == name,
        });
        let metric = metric.unwrap_or_else(|| panic!("{name} is not in the table"));
        let labels: BTreeSet<_> = pattern.captures_iter(labels).map(|label| label[1].to_owned()).collect();
        let bound = name.ends_with("_bucket").then_some("le");
        let wanted: BTreeSet<_> = metric.labels.iter().copied().chain(bound).map(str::to_owned).collect();
        assert_eq!(labels, wanted, "{line}");
        shown.insert(metric.name);
    }
    shown
}

#[test]
fn an_agent_exposes_what_the_page_says_with_just_these_labels() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("health-metrics", 2, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 50, 100));
    let backup = Backup::of(kafka, &[&topic]).source("group_id", &format!("of-{topic}")).verify("every", "1s");
    let mut agent = backup.run_config(&staged(&backup, &[INJECT]), &[]);
    let of_agents = |name: &str| {
        let of_others = ["restore", "command", "left_out"];
        !of_others.iter().any(|other| name.contains(other)) && name != "kafka_backup_store_failures_total"
    };
    agent.wait_until("all metrics are there, but those of other verbs and of failures", |agent| {
        let (_, page) = agent.get("/metrics")?;
        let shown = check_page(&page);
        let missing = METRICS.iter().filter(|metric| of_agents(metric.name) && !shown.contains(metric.name)).count();
        (missing == 0).then_some(())
    });
    agent.terminate();
}

#[test]
fn a_command_that_ends_leaves_its_metrics_whether_it_did_well_or_not() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("health-textfile", 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, 50, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let file = backup.folder().join("backup.prom");
    let flags = ["backup", "--metrics-file", file.to_str().expect("UTF-8")];
    let written = |code: i32, config: &str| {
        let mut pass = backup.start_with(&flags, config, &[]);
        assert_eq!(pass.wait().code(), Some(code), "{}", pass.log());
        let page = fs::read_to_string(&file).expect("it is written");
        (check_page(&page), page)
    };
    let (shown, page) = written(0, &backup.config());
    assert!(shown.contains("kafka_backup_kafka_request_duration_seconds"), "{page}");
    let held = format!("kafka_backup_captured_records_total{{pipeline=\"test\",topic=\"{topic}\",partition=\"0\"}} 50");
    for line in [held.as_str(), "kafka_backup_command_success{command=\"backup\"} 1"] {
        assert!(page.lines().any(|shown| shown == line), "{line} is not in\n{page}");
    }
    let (_, page) = written(2, &backup.config().replace(&format!("{topic:?}"), "\"no-such-topic\""));
    for line in
        ["kafka_backup_command_success{command=\"backup\"} 0", "kafka_backup_command_exit_code{command=\"backup\"} 2"]
    {
        assert!(page.lines().any(|shown| shown == line), "{line} is not in\n{page}");
    }
}
