//! Consumer groups over HTTP, against a real broker.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::agent::{Agent, Backup};
use crate::support::block_on;
use crate::support::kafka::Kafka;
use crate::support::workload::{Contents, Writer};

#[test]
fn groups_are_put_where_a_plan_says_and_back_and_a_plan_that_is_no_longer_so_is_refused() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("api-groups", 2, &[]);
    Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 40, 100));
    let group = format!("{topic}-g");
    kafka.commit(&group, &topic, 0, 9);
    kafka.commit(&group, &topic, 1, 11);
    let backup = Backup::of(kafka, &[&topic]);
    let agent = listening(backup.run());
    let plan_of = |to: &str| {
        let ask = json!({"backup": "test", "groups": [group], "to": to, "topics": [topic]});
        let (status, plan) = ask_agent(&agent, Method::POST, "/v1/groups/plan", &ask);
        assert_eq!(status, 200, "{plan}");
        plan
    };
    let (plan, old) = (plan_of("earliest"), plan_of("latest"));
    assert_eq!(kafka.committed(&group, &topic), [(0, 9), (1, 11)].into(), "a plan changes nothing");
    let execute =
        |plan: &Value| ask_agent(&agent, Method::POST, "/v1/groups/execute", &json!({"backup": "test", "plan": plan}));
    let (status, report) = execute(&plan);
    assert_eq!((status, &report["set"]), (200, &2.into()), "{report}");
    assert_eq!(kafka.committed(&group, &topic), [(0, 0), (1, 0)].into());
    let (status, refused) = execute(&old);
    assert_eq!(status, 409, "the cluster is no longer as it saw it: {refused}");
    assert_eq!(kafka.committed(&group, &topic), [(0, 0), (1, 0)].into());
    let snapshot = report["snapshot"].as_str().expect("what was before is kept");
    let (_, listed) = ask_agent(&agent, Method::GET, "/v1/snapshots/test", &Value::Null);
    assert_eq!(listed[0]["id"], *snapshot, "{listed}");
    let (_, shown) = ask_agent(&agent, Method::GET, &format!("/v1/snapshots/test/{snapshot}"), &Value::Null);
    assert_eq!(shown["groups"][0]["group"], *group, "{shown}");
    let back = format!("/v1/snapshots/test/{snapshot}/rollback");
    let (status, planned) = ask_agent(&agent, Method::POST, &back, &json!({"dry_run": true}));
    assert_eq!((status, &planned["groups"][0]["rows"][0]["target"]["offset"]), (200, &9.into()), "{planned}");
    let (status, report) = ask_agent(&agent, Method::POST, &back, &json!({}));
    assert_eq!(status, 200, "{report}");
    assert_eq!(kafka.committed(&group, &topic), [(0, 9), (1, 11)].into());
    let missing = json!({"backup": "test", "groups": ["nobody"], "to": "earliest", "topics": [topic]});
    let (status, refused) = ask_agent(&agent, Method::POST, "/v1/groups/plan", &missing);
    assert!(
        status == 409 && refused["message"].as_str().is_some_and(|why| why.contains("'nobody' not found")),
        "{refused}"
    );
    agent.terminate();
}

/// Waits until an agent listens.
pub(super) fn listening(mut agent: Agent) -> Agent {
    let _ = agent.wait_until("it listens", |agent| agent.address());
    agent
}

/// Sends the agent a request with a body in JSON; returns the status and the body of its answer.
pub(super) fn ask_agent(agent: &Agent, method: Method, path: &str, body: &Value) -> (u16, Value) {
    try_ask(&agent.address().expect("it listens"), method, path, body).expect("an answer")
}

/// As [`ask_agent`]; `None` where no answer comes.
pub(super) fn try_ask(address: &str, method: Method, path: &str, body: &Value) -> Option<(u16, Value)> {
    block_on(async {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client");
        let request = client.request(method, format!("http://{address}{path}"));
        let request = if body.is_null() { request } else { request.json(body) };
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
    })
}
