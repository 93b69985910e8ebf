//! A restore as a connector: it is done once, whatever happens to the agent meanwhile.

use reqwest::Method;
use serde_json::{Value, json};

use super::{ask, run, send, tell};
use crate::support::agent::{Agent, Backup};
use crate::support::kafka::Kafka;
use crate::support::reader::read_committed;
use crate::support::workload::{Contents, Writer};

/// A connector that restores `topic`, under another name.
fn source(backup: &Backup, topic: &str) -> Value {
    json!({
        "connector.class": "kafka-backup.ArchiveSource", "topics": topic, "source.backup_id": "test",
        "source.path": backup.archive(), format!("sink.topics.{topic}"): format!("{topic}-back"),
        "producer.override.bootstrap.servers": Kafka::shared().brokers(),
    })
}

/// Starts an agent that has nothing but what is made over HTTP.
fn start(backup: &Backup, point: &str) -> Agent {
    let config = format!("[agent]\nlisten = \"127.0.0.1:0\"\nstate_dir = {:?}\n", backup.folder().join("state"));
    let mut agent = backup.run_config(&config, &[("KAFKA_BACKUP_CRASH_AT", point)]);
    let _ = agent.wait_until("it listens", |agent| agent.address());
    agent
}

fn make(agent: &Agent, config: &Value, state: &str) -> Option<u16> {
    let body = json!({ "name": "back", "config": config, "initial_state": state }).to_string();
    let address = agent.address().expect("it listens");
    ask(&address, Method::POST, "/connectors", Some(body), "application/json").map(|answer| answer.status)
}

fn status(agent: &Agent) -> Option<Value> {
    serde_json::from_str(&agent.get("/connectors/back/status")?.1).ok()
}

fn finished(agent: &mut Agent) {
    agent.wait_until("it is finished", |agent| agent.log().contains("is finished").then_some(()));
    agent.wait_until("it says so", |agent| (status(agent)?["connector"]["state"] == "STOPPED").then_some(()));
}

/// Backs up a topic of its own with 200 records.
fn backed_up(theme: &str) -> (Backup, String) {
    let kafka = Kafka::shared();
    let topic = kafka.topic(theme, 2, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 100, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    (backup, topic)
}

fn restored(topic: &str) -> usize {
    read_committed(Kafka::shared(), &format!("{topic}-back")).len()
}

#[test]
fn a_restore_is_done_once_although_the_agent_is_killed_at_each_step() {
    for point in ["connectors-told", "restore-topics", "restore-fence", "restore-attempt", "restore-map"] {
        let (backup, topic) = backed_up("connect-restore");
        let mut agent = start(&backup, point);
        // Of a restore whose agent is killed at once there may be no answer.
        let _ = make(&agent, &source(&backup, &topic), "RUNNING");
        let _ = agent.wait();
        let mut agent = start(&backup, "none");
        finished(&mut agent);
        assert_eq!(restored(&topic), 200, "{point}");
        agent.kill();
        let mut agent = start(&backup, "none");
        finished(&mut agent);
        assert!(agent.log().contains("is finished already"), "{}", agent.log());
        assert_eq!(restored(&topic), 200, "a finished restore is not run again ({point})");
        agent.terminate();
    }
}

#[test]
fn its_consumer_groups_are_put_back_once_although_the_agent_is_killed_at_each_step() {
    let kafka = Kafka::shared();
    for point in ["restore-done", "groups-snapshot", "restore-groups", "groups-commit", "restore-groups-done"] {
        let topic = kafka.topic("connect-groups", 2, &[]);
        let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 100, 100));
        let group = format!("{topic}-g");
        kafka.commit(&group, &topic, 0, 9);
        kafka.commit(&group, &topic, 1, 11);
        let backup = Backup::of(kafka, &[&topic]).source_list("groups", &[&group]);
        let _ = backup.backup().ok();
        let mut config = source(&backup, &topic);
        config["groups.reset"] = "true".into();
        config["groups.groups"] = group.as_str().into();
        let mut agent = start(&backup, point);
        let _ = make(&agent, &config, "RUNNING");
        let _ = agent.wait();
        let mut agent = start(&backup, "none");
        finished(&mut agent);
        let target = format!("{topic}-back");
        // The mark of its fence stands before the records.
        assert_eq!(kafka.committed(&group, &target), [(0, 10), (1, 12)].into(), "{point}");
        assert_eq!(restored(&topic), 200, "{point}");
        agent.kill();
        // What it reads since is its own.
        kafka.commit(&group, &target, 0, 50);
        let mut agent = start(&backup, "none");
        finished(&mut agent);
        assert!(agent.log().contains("is finished already"), "{}", agent.log());
        assert_eq!(kafka.committed(&group, &target), [(0, 50), (1, 12)].into(), "{point}");
        agent.terminate();
    }
}

#[test]
fn a_restore_is_a_source_that_rests_goes_on_and_leaves_what_it_restored() {
    let (backup, topic) = backed_up("connect-source");
    let mut agent = start(&backup, "none");
    assert_eq!(make(&agent, &source(&backup, &topic), "PAUSED"), Some(201));
    agent.wait_until("it rests", |agent| (status(agent)?["connector"]["state"] == "PAUSED").then_some(()));
    assert_eq!(status(&agent).expect("an answer")["type"], "source");
    assert_eq!(agent.get("/readyz").map(|(status, _)| status), Some(200));
    assert_eq!(tell(&agent, Method::PUT, "/connectors/back/resume"), Some(202));
    finished(&mut agent);
    assert_eq!(restored(&topic), 200);
    assert_eq!(tell(&agent, Method::POST, "/connectors/back/restart?includeTasks=true"), Some(202));
    agent.wait_until("it looks again", |agent| agent.log().contains("is finished already").then_some(()));
    assert_eq!(agent.get("/readyz").map(|(status, _)| status), Some(200));
    assert_eq!(tell(&agent, Method::DELETE, "/connectors/back"), Some(204));
    assert_eq!(restored(&topic), 200, "what it restored stays");
    agent.terminate();
}

#[test]
fn a_restore_that_may_not_be_done_says_why_and_waits_for_another_configuration() {
    let (backup, topic) = backed_up("connect-refused");
    let mut config = source(&backup, &topic);
    config["source.backup_id"] = "other".into();
    let mut agent = run(&backup, &backup.folder().join("state"), &[]);
    let address = agent.wait_until("it listens", |agent| agent.address());
    assert_eq!(make(&agent, &config, "RUNNING"), Some(201));
    let failed = agent.wait_until("it fails", |agent| {
        let status = status(agent)?;
        (status["tasks"][0]["state"] == "FAILED").then_some(status)
    });
    assert!(failed["tasks"][0]["trace"].as_str().is_some_and(|why| why.contains("other")), "{failed}");
    assert!(agent.get("/readyz").expect("an answer").1.contains("pipeline back: "));
    let shows = |agent: &Agent, line: &str| agent.get("/metrics")?.1.lines().any(|of| of == line).then_some(());
    agent.wait_until("the metrics say so", |agent| shows(agent, r#"kafka_backup_ready{pipeline="back"} 0"#));
    let right = Some(json!({ "source.backup_id": "test" }).to_string());
    let answer = send(&address, Method::PATCH, "/connectors/back/config", right, "application/json");
    assert_eq!(answer.expect("an answer").0, 200);
    finished(&mut agent);
    assert_eq!(restored(&topic), 200);
    agent.wait_until("the metrics say so", |agent| shows(agent, r#"kafka_backup_ready{pipeline="back"} 1"#));
    agent.terminate();
}
