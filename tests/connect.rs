//! Kafka Connect's REST API: the agent answers what Apache's own worker answers, but for the list of differences, and what
//! connectors are told holds.

mod making;
mod reload;
mod restoring;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::support::agent::{Agent, Backup};
use crate::support::connect::Connect;
use crate::support::kafka::Kafka;
use crate::support::workload::{Contents, Writer};
use crate::support::{block_on, wait_for};

/// The name of the connector on both sides: that of the tests' pipelines.
const NAME: &str = "test";

#[test]
fn the_agent_answers_as_connects_own_worker_does() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("connect", 2, &[]);
    Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 50, 100));
    let connect = Connect::start(kafka.brokers(), NAME, &topic);
    let other = kafka.topic("connect-other", 1, &[]);
    let backup = Backup::of(kafka, &[&topic]);
    let mut agent = run(&backup, &backup.folder().join("state"), &[]);
    let address = agent.wait_until("it listens", |agent| agent.address());
    let theirs = Side::new(connect.address(), &topic, connect.config(&topic), connect.config(&other));
    let ours = Side::new(&address, &topic, sink(&backup, &topic, "test"), sink(&backup, &other, "x"));
    let script: Value = serde_json::from_str(include_str!("connect/calls.json")).expect("JSON");
    let differences = script["differences"].as_object().expect("an object");
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/connect.md")).expect("the page is there");
    for why in differences.values() {
        let why = why.as_str().expect("a text");
        assert!(docs.contains(why), "docs/connect.md does not say: {why}");
    }
    let mut wrong = Vec::new();
    for step in script["calls"].as_array().expect("a list") {
        if step.get("wait").is_some() {
            theirs.wait(step);
            ours.wait(step);
            continue;
        }
        let (connects, agents) = (theirs.call(step), ours.call(step));
        if let Err(difference) = compare(step, &connects, &agents) {
            wrong.push(format!("{}: {difference}\n  Connect: {connects:?}\n  agent:   {agents:?}", step["call"]));
        }
    }
    assert!(wrong.is_empty(), "{} calls are answered otherwise:\n{}", wrong.len(), wrong.join("\n"));
    agent.terminate();
}

#[test]
fn a_pause_survives_kill_9_at_each_step_and_loses_nothing() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("connect-kill", 1, &[]);
    let backup = Backup::of(kafka, &[&topic]);
    let write = || Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, 20, 100));
    let has = |records: usize| {
        wait_for("the archive has caught up", || (backup.cat(&topic).len() == records).then_some(()));
    };
    let mut written = 0;
    for (point, is_kept) in
        [("connectors-written", false), ("connectors-synced", false), ("connectors-renamed", true), ("none", true)]
    {
        let state = backup.folder().join(format!("state-{point}"));
        let mut agent = runs(run(&backup, &state, &[("KAFKA_BACKUP_CRASH_AT", point)]));
        let _ = write();
        written += 20;
        has(written);
        let told = tell(&agent, Method::PUT, "/connectors/test/pause");
        if point == "none" {
            assert_eq!(told, Some(202));
            agent.kill();
        } else {
            assert_eq!(told, None, "it was killed before it could answer ({point})");
            let _ = agent.wait();
        }
        let mut agent = run(&backup, &state, &[]);
        if is_kept {
            agent.wait_until("it rests", |agent| (task_state(agent)? == "PAUSED").then_some(()));
            let _ = write();
            assert_eq!(agent.get("/readyz").map(|(status, _)| status), Some(200), "nothing is wrong with it");
            assert_eq!(backup.cat(&topic).len(), written, "it does not capture ({point})");
            written += 20;
            assert_eq!(tell(&agent, Method::PUT, "/connectors/test/resume"), Some(202));
        }
        let agent = runs(agent);
        has(written);
        agent.terminate();
        let _ = backup.command("verify", &["--deep"]).ok();
    }
}

#[test]
fn a_pipeline_that_cannot_run_is_a_failed_task_with_its_reason() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("connect-failed", 1, &[]);
    let backup = Backup::of_brokers("127.0.0.1:1", &[&topic]);
    let mut agent = backup.run();
    let status = agent.wait_until("its task has failed", |agent| {
        let (_, body) = agent.get("/connectors/test/status")?;
        let status: Value = serde_json::from_str(&body).ok()?;
        (status["tasks"][0]["state"] == "FAILED").then_some(status)
    });
    assert_eq!(status["connector"]["state"], "RUNNING");
    let trace = status["tasks"][0]["trace"].as_str().expect("why").to_owned();
    let (ready, reasons) = agent.get("/readyz").expect("an answer");
    assert!(ready == 503 && reasons.contains("pipeline test: "), "{reasons}");
    assert!(trace.contains("127.0.0.1:1"), "{trace}");
    assert_eq!(agent.get("/connectors/test/offsets").map(|(status, _)| status), Some(503));
    let address = agent.address().expect("it listens");
    let told = send(&address, Method::POST, "/connectors/test/restart?includeTasks=true&onlyFailed=true", None, "");
    let (status, body) = told.expect("an answer");
    assert_eq!((status, body["tasks"][0]["state"].as_str()), (202, Some("RESTARTING")), "{body}");
    agent.terminate();
}

#[test]
fn two_agents_do_not_share_a_state_dir() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("connect-shared", 1, &[]);
    let backup = Backup::of(kafka, &[&topic]);
    let state = backup.folder().join("state");
    let _first = runs(run(&backup, &state, &[]));
    let mut second = run(&backup, &state, &[]);
    assert_eq!(second.wait().code(), Some(2));
    assert!(second.log().contains("another agent has"), "{}", second.log());
}

/// Returns the configuration of a connector that captures `topic`.
fn sink(backup: &Backup, topic: &str, backup_id: &str) -> Value {
    json!({
        "connector.class": "kafka-backup.ArchiveSink", "tasks.max": "1", "topics": topic, "sink.backup_id": backup_id,
        "sink.path": backup.archive(), "sink.roll_interval": "1s",
        "consumer.override.bootstrap.servers": Kafka::shared().brokers(),
    })
}

/// Starts the agent with a folder for its state.
fn run(backup: &Backup, state: &Path, environment: &[(&str, &str)]) -> Agent {
    let config = backup.config().replace("[agent]\n", &format!("[agent]\nstate_dir = {state:?}\n"));
    backup.run_config(&config, environment)
}

/// Sends the agent a request, and returns the status of its answer.
fn tell(agent: &Agent, method: Method, path: &str) -> Option<u16> {
    send(&agent.address().expect("it listens"), method, path, None, "").map(|(status, _)| status)
}

/// Waits until the pipeline runs.
fn runs(mut agent: Agent) -> Agent {
    agent.wait_until("it runs", |agent| (task_state(agent)? == "RUNNING").then_some(()));
    agent
}

fn task_state(agent: &Agent) -> Option<String> {
    task_state_of(agent, NAME)
}

fn task_state_of(agent: &Agent, name: &str) -> Option<String> {
    let (_, body) = agent.get(&format!("/connectors/{name}/tasks/0/status"))?;
    let status: Value = serde_json::from_str(&body).ok()?;
    Some(status["state"].as_str()?.to_owned())
}

/// One of the two that are asked.
struct Side {
    address: String,
    /// What stands for what in the script.
    texts: BTreeMap<&'static str, String>,
    /// The configuration of the connector, and that of another one.
    config: Value,
    other: Value,
}

impl Side {
    fn new(address: &str, topic: &str, config: Value, other: Value) -> Self {
        let class = config["connector.class"].as_str().expect("a class").to_owned();
        let texts = BTreeMap::from([("$name", NAME.to_owned()), ("$topic", topic.to_owned()), ("$class", class)]);
        let named = |mut config: Value, name: &str| {
            config["name"] = name.into();
            config
        };
        Self { address: address.to_owned(), texts, config: named(config, NAME), other: named(other, "x") }
    }

    /// Waits until an answer holds what the step says.
    fn wait(&self, step: &Value) {
        let path = self.text(step["wait"].as_str().expect("a path"));
        let until = step["until"].as_object().expect("an object");
        let mut last = None;
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(&format!("{} answers {path} with {until:?}", self.address), || {
                let (_, body) = send(&self.address, Method::GET, &path, None, "")?;
                let holds = until.iter().all(|(pointer, value)| {
                    body.pointer(&self.text(pointer)).unwrap_or(&Value::Null) == &self.value(value)
                });
                last = Some(body);
                holds.then_some(())
            });
        }));
        if let Err(panic) = waited {
            eprintln!("the last answer was {last:?}");
            std::panic::resume_unwind(panic);
        }
    }

    fn call(&self, step: &Value) -> Answer {
        let (method, path) = step["call"].as_str().and_then(|call| call.split_once(' ')).expect("a method and a path");
        let method = method.parse().expect("a method");
        let body = match (step.get("raw"), step.get("body")) {
            (Some(raw), _) => Some(raw.as_str().expect("a text").to_owned()),
            (None, Some(body)) => Some(self.value(body).to_string()),
            (None, None) => None,
        };
        let kind = step.get("type").and_then(Value::as_str).unwrap_or("application/json");
        let mut answer = ask(&self.address, method, &self.text(path), body, kind).expect("an answer");
        // The class is each one's own.
        let text = answer.body.to_string().replace(&self.texts["$class"], "$class");
        answer.body = serde_json::from_str(&text).expect("JSON");
        answer
    }

    fn text(&self, text: &str) -> String {
        self.texts.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if text == "$config" => self.config.clone(),
            Value::String(text) if text == "$config-x" => self.other.clone(),
            Value::String(text) => self.text(text).into(),
            Value::Array(values) => values.iter().map(|value| self.value(value)).collect(),
            Value::Object(object) => {
                Value::Object(object.iter().map(|(key, value)| (key.clone(), self.value(value))).collect())
            }
            other => other.clone(),
        }
    }
}

/// An answer: its body is null where there is none, and a text where it is no JSON.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: Value,
    /// Where what was made is, without the server.
    location: Option<String>,
}

/// Sends a request; returns status and body.
fn send(address: &str, method: Method, path: &str, body: Option<String>, kind: &str) -> Option<(u16, Value)> {
    ask(address, method, path, body, kind).map(|answer| (answer.status, answer.body))
}

/// Sends a request.
fn ask(address: &str, method: Method, path: &str, body: Option<String>, kind: &str) -> Option<Answer> {
    block_on(async {
        let client = reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_secs(30));
        let client = client.pool_max_idle_per_host(0).build().expect("a client");
        let mut request = client.request(method, format!("http://{address}{path}"));
        if let Some(body) = body {
            request = request.header("content-type", kind).body(body);
        }
        let answer = request.send().await.ok()?;
        let location = answer.headers().get("location").map(|location| location.to_str().expect("a text").to_owned());
        let location = location.map(|location| location.trim_start_matches(&format!("http://{address}")).to_owned());
        let (status, text) = (answer.status().as_u16(), answer.text().await.ok()?);
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(text.into()) };
        Some(Answer { status, body, location })
    })
}

/// Compares two answers as the step says.
fn compare(step: &Value, connects: &Answer, agents: &Answer) -> Result<(), String> {
    if connects.location != agents.location {
        return Err("what was made is elsewhere".to_owned());
    }
    let codes = step.get("codes").map_or([connects.status, connects.status], |codes| {
        [0, 1].map(|at| codes[at].as_u64().and_then(|code| u16::try_from(code).ok()).expect("a code"))
    });
    if [connects.status, agents.status] != codes {
        return Err(format!("the codes are not {codes:?}"));
    }
    if agents.status >= 400 && agents.body["error_code"] != agents.status {
        return Err("the code is not in the body".to_owned());
    }
    for pointer in step.get("same").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        let pointer = pointer.replace("$name", NAME);
        let (connects, agents) = (connects.body.pointer(&pointer), agents.body.pointer(&pointer));
        if connects != agents || connects.is_none() {
            return Err(format!("{pointer} is not the same"));
        }
    }
    let loose: Vec<_> = step.get("loose").and_then(Value::as_array).into_iter().flatten().collect();
    let keys_of = |body: &Value| {
        let mut body = body.clone();
        for pointer in loose.iter().filter_map(|pointer| pointer.as_str()) {
            if let Some(value) = body.pointer_mut(&pointer.replace("$name", NAME)) {
                *value = Value::Null;
            }
        }
        keys(&body)
    };
    match step["compare"].as_str() {
        Some("code") => Ok(()),
        Some("keys") if keys_of(&connects.body) == keys_of(&agents.body) => Ok(()),
        Some("body") if sorted(&connects.body) == sorted(&agents.body) => Ok(()),
        Some(what @ ("keys" | "body")) => Err(format!("the {what} differ")),
        other => panic!("{other:?} is no way to compare"),
    }
}

/// Returns the keys of a body; of a list those of its first entry.
fn keys(body: &Value) -> Value {
    match body {
        Value::Object(object) => {
            let mut keys: Vec<_> = object.iter().map(|(key, value)| (key.clone(), keys(value))).collect();
            keys.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(Map::from_iter(keys))
        }
        Value::Array(values) => values.first().map(keys).into_iter().collect(),
        _ => Value::Null,
    }
}

/// Returns a body whose lists are in order: Kafka Connect promises none.
fn sorted(body: &Value) -> Value {
    match body {
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), sorted(value))).collect(),
        Value::Array(values) => {
            let mut values: Vec<_> = values.iter().map(sorted).collect();
            values.sort_by_key(Value::to_string);
            values.into()
        }
        other => other.clone(),
    }
}
