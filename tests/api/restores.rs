//! Restores over HTTP, against a real broker: begun, killed, gone on with, cancelled, taken back.

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};

use super::groups::{ask_agent, listening};
use crate::crash::need_crash_points;
use crate::support::agent::{Agent, Backup};
use crate::support::kafka::Kafka;
use crate::support::reader::read_committed;
use crate::support::wait_for;
use crate::support::workload::{Contents, Writer};

/// Records of a restore, and how many of them go in a second where it is killed in the middle.
const RECORDS: usize = 400;
const A_SECOND: usize = 80;

/// What the tests' backup is restored to, and how often it is kept how far that is.
fn restore(topic: &str) -> Value {
    json!({
        "name": "back",
        "source": {"type": "archive", "backup_id": "test", "topics": [topic]},
        "sink": {
            "type": "kafka", "topics": {topic: format!("{topic}-back")}, "journal_interval": "100ms",
            "kafka": {"bootstrap.servers": Kafka::shared().brokers()},
        },
    })
}

/// Backs up a topic of its own.
fn backed_up(theme: &str) -> (Backup, String) {
    let kafka = Kafka::shared();
    let topic = kafka.topic(theme, 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, RECORDS, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    (backup, topic)
}

/// Starts the agent of a backup, which keeps what it is told.
fn run(backup: &Backup, point: &str) -> Agent {
    let state = backup.folder().join("state");
    let config = backup.config().replace("[agent]\n", &format!("[agent]\nstate_dir = {state:?}\n"));
    listening(backup.run_config(&config, &[("KAFKA_BACKUP_CRASH_AT", point)]))
}

fn get(agent: &Agent, path: &str) -> Value {
    ask_agent(agent, Method::GET, path, &Value::Null).1
}

fn post(agent: &Agent, path: &str, body: &Value) -> (u16, Value) {
    ask_agent(agent, Method::POST, path, body)
}

fn restored(topic: &str) -> usize {
    read_committed(Kafka::shared(), &format!("{topic}-back")).len()
}

/// Asserts that nothing in the agent's folder names where the backup is: it was left to the agent.
#[track_caller]
fn assert_unresolved(backup: &Backup) {
    let files = fs::read_dir(backup.folder().join("state/restores")).expect("something is kept");
    for file in files {
        let text = fs::read_to_string(file.expect("an entry").path()).expect("a readable file");
        assert!(!text.contains(backup.archive()), "{text}");
        assert!(text.contains("\"backup_id\": \"test\""), "{text}");
    }
}

#[test]
fn a_restore_over_http_is_done_once_although_the_agent_is_killed_at_each_step() {
    need_crash_points();
    let points =
        ["restores-kept", "restore-topics", "restore-fence", "restore-attempt", "restore-done", "restores-done"];
    for point in points {
        let (backup, topic) = backed_up("api-crash");
        let mut agent = run(&backup, point);
        // Whoever asked has an answer or not; what was asked for is kept.
        let address = agent.address().expect("it listens");
        drop(std::thread::spawn({
            let body = json!({ "restore": restore(&topic) });
            move || super::groups::try_ask(&address, Method::POST, "/v1/restores", &body)
        }));
        let _ = agent.wait();
        assert_unresolved(&backup);
        let mut agent = run(&backup, "none");
        let known = agent.wait_until("it is done", |agent| {
            let here = get(agent, "/v1/restores");
            (here[0]["task"]["state"] == "done").then_some(here)
        });
        assert_eq!(restored(&topic), RECORDS, "each record once ({point})");
        let path = format!("/v1/restores/test/{}", known[0]["restore_id"].as_str().expect("an id"));
        assert_eq!(get(&agent, &path)["state"], "done", "{point}");
        agent.kill();
        let agent = run(&backup, "none");
        assert_eq!(get(&agent, "/v1/restores"), json!([]), "a finished restore is not run again ({point})");
        assert_eq!(restored(&topic), RECORDS, "{point}");
        agent.terminate();
    }
}

#[test]
fn a_restore_that_is_killed_goes_on_by_itself_is_not_run_again_and_is_taken_back() {
    let (kafka, (backup, topic)) = (Kafka::shared(), backed_up("api-restore"));
    let target = format!("{topic}-back");
    let mut request = json!({ "restore": restore(&topic) });
    request["restore"]["max_records_per_second"] = A_SECOND.into();
    let agent = run(&backup, "none");
    let mut planned = request.clone();
    planned["dry_run"] = true.into();
    let (status, plan) = post(&agent, "/v1/restores", &planned);
    assert_eq!((status, &plan["plan"]["topics"][0]["target"]), (200, &target.as_str().into()), "{plan}");
    assert!(!kafka.topics().contains(&target), "a dry run makes nothing");
    let (status, begun) = post(&agent, "/v1/restores", &request);
    assert_eq!(status, 202, "{begun}");
    let path = format!("/v1/restores/test/{}", begun["restore_id"].as_str().expect("an id"));
    let (status, again) = post(&agent, "/v1/restores", &request);
    assert_eq!(status, 409, "it runs already: {again}");
    let (status, again) = post(&agent, &format!("{path}/undo"), &json!({}));
    assert_eq!(status, 409, "it runs: {again}");
    wait_for("some of it has landed", || get(&agent, &path)["records"].as_u64().filter(|records| *records > 0));
    agent.kill();
    assert_unresolved(&backup);

    let agent = run(&backup, "none");
    let done = || (get(&agent, &path)["task"]["state"] == "done").then_some(());
    wait_for("it is done", done);
    assert_eq!(restored(&topic), RECORDS, "each record once");
    let (status, _) = post(&agent, "/v1/restores", &request);
    assert_eq!(status, 202);
    wait_for("it is still done", done);
    assert_eq!(restored(&topic), RECORDS, "it was not run again");
    let (status, why) = post(&agent, &format!("{path}/cancel"), &json!({}));
    assert_eq!(status, 400, "there is nothing to cancel: {why}");
    let (status, would) = post(&agent, &format!("{path}/undo"), &json!({"dry_run": true}));
    assert_eq!((status, &would["topics"][0]["action"]), (200, &"delete".into()), "{would}");
    let (status, undone) = post(&agent, &format!("{path}/undo"), &json!({}));
    assert_eq!((status, &undone["topics"][0]["action"]), (200, &"deleted".into()), "{undone}");
    assert_eq!(get(&agent, &path)["state"], "undone");
    agent.terminate();
}

#[test]
fn a_restore_that_is_cancelled_is_not_gone_on_with() {
    let (backup, topic) = backed_up("api-cancel");
    let mut request = json!({ "restore": restore(&topic) });
    request["restore"]["max_records_per_second"] = 4.into();
    let agent = run(&backup, "none");
    let (status, begun) = post(&agent, "/v1/restores", &request);
    assert_eq!(status, 202, "{begun}");
    let path = format!("/v1/restores/test/{}", begun["restore_id"].as_str().expect("an id"));
    wait_for("it has begun", || (get(&agent, &path)["state"] == "running").then_some(()));
    let (status, told) = post(&agent, &format!("{path}/cancel"), &json!({}));
    assert_eq!(status, 200, "{told}");
    wait_for("it has ended", || (get(&agent, &path)["task"]["state"] == "cancelled").then_some(()));
    assert_eq!(agent.get("/readyz").map(|(status, _)| status), Some(200), "that was asked for");
    let (status, why) = post(&agent, &format!("{path}/resume"), &json!({}));
    assert!(status == 400 && why["message"].as_str().is_some_and(|why| why.contains("was cancelled")), "{why}");
    agent.kill();
    let agent = run(&backup, "none");
    assert_eq!(get(&agent, "/v1/restores"), json!([]));
    agent.terminate();
}

#[test]
fn what_cannot_be_restored_is_refused_and_nothing_is_kept_of_it() {
    let (backup, topic) = backed_up("api-refused");
    let agent = run(&backup, "none");
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut request = json!({ "restore": restore(&topic) });
        change(&mut request["restore"]);
        let (status, answer) = post(&agent, "/v1/restores", &request);
        (status, answer["message"].as_str().unwrap_or_default().to_owned())
    };
    let (status, why) = refused(&|restore| restore["source"]["backup_id"] = "other".into());
    assert!(status == 404 && why.contains("`other`"), "{why}");
    let (status, why) = refused(&|restore| restore["sink"]["nowhere"] = 1.into());
    assert!(status == 400 && why.contains("nowhere"), "{why}");
    let (status, why) = refused(&|restore| restore["sink"]["topics"][&topic] = topic.clone().into());
    assert!(status == 400 && why.contains("not-empty"), "{why}");
    let (status, why) = refused(&|restore| restore["groups"] = json!({"reset": true, "groups": ["nobody"]}));
    assert!(status == 409 && why.contains("Consumer group 'nobody' not found"), "{status} {why}");
    assert_eq!(get(&agent, "/v1/restores"), json!([]));
    assert_eq!(fs::read_dir(backup.folder().join("state/restores")).map_or(0, |kept| kept.count()), 0);
    agent.terminate();
}
