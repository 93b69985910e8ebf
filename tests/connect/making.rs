//! Connectors that are made over HTTP: they hold beyond `kill -9`, capture as pipelines of the file do, and close durably.

use reqwest::Method;
use serde_json::{Value, json};

use super::{ask, run, runs, send, sink, task_state_of, tell};
use crate::support::agent::{Agent, Backup, program_with};
use crate::support::kafka::Kafka;
use crate::support::wait_for;
use crate::support::workload::{Contents, Writer};

/// The steps of a change, and whether what was asked for holds at the next start.
const STEPS: [(&str, bool); 5] = [
    ("connectors-written", false),
    ("connectors-synced", false),
    ("connectors-renamed", true),
    ("connectors-kept", true),
    ("connectors-told", true),
];

/// Returns how many records of `topic` a backup beside that of `backup` has.
fn held(backup: &Backup, backup_id: &str, topic: &str) -> usize {
    let ended = program_with(&["cat", "--path", backup.archive(), "--backup-id", backup_id, "--topic", topic]);
    if ended.code == Some(0) { ended.stdout.lines().count() } else { 0 }
}

fn write(topic: &str, records: usize) {
    let _ = Writer::new(Kafka::shared(), &[]).write(topic, &Contents::new().records(1, records, 100));
}

/// Makes the connector `made`; returns the status of the answer, `None` where there was none.
fn make(agent: &Agent, config: &Value) -> Option<u16> {
    let body = json!({ "name": "made", "config": config }).to_string();
    let address = agent.address().expect("it listens");
    ask(&address, Method::POST, "/connectors", Some(body), "application/json").map(|answer| answer.status)
}

fn captures(agent: &mut Agent) {
    agent.wait_until("what was made runs", |agent| (task_state_of(agent, "made")? == "RUNNING").then_some(()));
}

/// Returns whether there is a connector `made`.
fn is_there(agent: &Agent) -> bool {
    agent.get("/connectors/made").expect("an answer").0 == 200
}

#[test]
fn what_is_made_and_removed_survives_kill_9_at_each_step() {
    let kafka = Kafka::shared();
    let (topic, other) = (kafka.topic("connect-file", 1, &[]), kafka.topic("connect-made", 1, &[]));
    let backup = Backup::of(kafka, &[&topic]);
    let config = sink(&backup, &other, "made");
    let mut written = 0;
    for (point, is_kept) in STEPS {
        let state = backup.folder().join(format!("state-{point}"));
        let start = |point: &str| runs(run(&backup, &state, &[("KAFKA_BACKUP_CRASH_AT", point)]));
        let mut agent = start(point);
        assert_eq!(make(&agent, &config), None, "it was killed before it could answer ({point})");
        let _ = agent.wait();
        let mut agent = start("none");
        assert_eq!(is_there(&agent), is_kept, "{point}");
        if !is_kept {
            assert_eq!(make(&agent, &config), Some(201));
        }
        captures(&mut agent);
        write(&other, 20);
        written += 20;
        wait_for("it captures", || (held(&backup, "made", &other) == written).then_some(()));
        agent.kill();

        let mut agent = start(point);
        assert_eq!(tell(&agent, Method::DELETE, "/connectors/made"), None, "{point}");
        let _ = agent.wait();
        let mut agent = start("none");
        assert_eq!(is_there(&agent), !is_kept, "{point}");
        if !is_kept {
            captures(&mut agent);
            assert_eq!(tell(&agent, Method::DELETE, "/connectors/made"), Some(204));
        }
        assert!(!is_there(&agent));
        agent.terminate();
    }
    let _ = program_with(&["verify", "--deep", "--path", backup.archive(), "--backup-id", "made"]).ok();
    assert_eq!(held(&backup, "made", &other), written, "nothing is lost, nothing twice");
}

#[test]
fn what_is_configured_otherwise_or_removed_closes_durably_and_loses_nothing() {
    let kafka = Kafka::shared();
    let (topic, other) = (kafka.topic("connect-file", 1, &[]), kafka.topic("connect-made", 1, &[]));
    let backup = Backup::of(kafka, &[&topic]);
    let mut agent = runs(run(&backup, &backup.folder().join("state"), &[]));
    let address = agent.address().expect("it listens");
    let mut config = sink(&backup, &other, "made");
    // Nothing is durable before it closes.
    config["sink.roll_interval"] = "1h".into();
    assert_eq!(make(&agent, &config), Some(201));
    captures(&mut agent);
    write(&other, 20);
    agent.wait_until("it has read", |agent| {
        let (_, body) = agent.get("/connectors/made/topics")?;
        body.contains(&other).then_some(())
    });
    let body = Some(json!({ "sink.roll_interval": "2h" }).to_string());
    let (status, _) =
        send(&address, Method::PATCH, "/connectors/made/config", body, "application/json").expect("an answer");
    assert_eq!(status, 200);
    wait_for("what it held is durable", || (held(&backup, "made", &other) == 20).then_some(()));
    captures(&mut agent);
    write(&other, 20);
    agent.wait_until("it has read", |agent| {
        let lag = agent.get("/metrics")?.1;
        lag.lines().any(|line| line.starts_with("kafka_backup_lag_records") && line.contains(&other)).then_some(())
    });
    assert_eq!(tell(&agent, Method::DELETE, "/connectors/made"), Some(204));
    agent.wait_until("it has closed", |agent| agent.log().contains("closed pipeline=\"made\"").then_some(()));
    let _ = program_with(&["verify", "--deep", "--path", backup.archive(), "--backup-id", "made"]).ok();
    let closed = held(&backup, "made", &other);
    assert!(closed == 20 || closed == 40, "whole batches: {closed}");
    assert!(!agent.get("/v1/backups").expect("an answer").1.contains("made"));
    assert_eq!(agent.get("/readyz").map(|(status, _)| status), Some(200));
    agent.wait_until("it has left no series", |agent| {
        (!agent.get("/metrics")?.1.contains("pipeline=\"made\"")).then_some(())
    });
    // Made again, it goes on where the archive ends.
    assert_eq!(make(&agent, &sink(&backup, &other, "made")), Some(201));
    wait_for("it has caught up", || (held(&backup, "made", &other) == 40).then_some(()));
    agent.terminate();
}

#[test]
fn one_that_cannot_run_is_failed_and_the_others_go_on() {
    let kafka = Kafka::shared();
    let (topic, other) = (kafka.topic("connect-file", 1, &[]), kafka.topic("connect-made", 1, &[]));
    let backup = Backup::of(kafka, &[&topic]);
    let state = backup.folder().join("state");
    let start = |variable: &str| runs(run(&backup, &state, &[(variable, backup.archive())]));
    let agent = start("MADE_PATH");
    let mut config = sink(&backup, &other, "made");
    config["sink.path"] = "${env:MADE_PATH}".into();
    assert_eq!(make(&agent, &config), Some(201));
    let (_, shown) = agent.get("/connectors/made/config").expect("an answer");
    assert!(shown.contains("${env:MADE_PATH}"), "{shown}");
    agent.terminate();
    let kept = std::fs::read_to_string(state.join("connectors.json")).expect("kept");
    assert!(kept.contains("${env:MADE_PATH}") && !kept.contains(backup.archive()), "{kept}");

    // The variable is not set any more.
    let mut agent = start("ANOTHER");
    let (_, body) = agent.get("/connectors/made/status").expect("an answer");
    let status: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status["tasks"][0]["state"], "FAILED");
    let (ready, reasons) = agent.wait_until("readyz says so", |agent| {
        let answer = agent.get("/readyz")?;
        answer.1.contains("pipeline made: ").then_some(answer)
    });
    let page = agent.get("/metrics").expect("a page").1;
    assert!(page.contains("kafka_backup_ready{pipeline=\"made\"} 0\n"), "{page}");
    assert!(ready == 503 && reasons.contains("MADE_PATH is not set"), "{reasons}");
    let shows = |agent: &Agent, line: &str| agent.get("/metrics")?.1.lines().any(|of| of == line).then_some(());
    agent.wait_until("so do the metrics", |agent| shows(agent, r#"kafka_backup_ready{pipeline="made"} 0"#));
    agent.wait_until("so do the metrics", |agent| shows(agent, r#"kafka_backup_troubles{pipeline="made"} 1"#));
    let body = Some(json!({ "sink.path": backup.archive() }).to_string());
    let address = agent.address().expect("it listens");
    let answer = send(&address, Method::PATCH, "/connectors/made/config", body, "application/json");
    assert_eq!(answer.expect("an answer").0, 200);
    captures(&mut agent);
    agent.wait_until("all is well", |agent| (agent.get("/readyz")?.0 == 200).then_some(()));
    agent.wait_until("the metrics say so", |agent| shows(agent, r#"kafka_backup_ready{pipeline="made"} 1"#));
    agent.terminate();
}
