//! What the API answers, over HTTP.

use std::net::{Ipv4Addr, SocketAddr};

use reqwest::Method;

use super::*;
use crate::config::Config;

const CONFIG: &str = r#"
[[pipeline]]
name = "orders"
[pipeline.source]
type = "kafka"
topics = ["orders"]
kafka = { "bootstrap.servers" = "127.0.0.1:1", "sasl.password" = "hush" }
[pipeline.sink]
type = "archive"
backup_id = "b"
path = "/archive"
"#;

/// A worker of one pipeline that nobody runs, and where it is served.
async fn serve() -> (Worker, SocketAddr) {
    // reqwest is built for the store's TLS, and asks for its cryptography even where none is spoken.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let socket = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    let config = Config::parse("a.toml", CONFIG, &|_| None).expect("valid");
    let worker = Worker::open(&config, address).expect("nothing is kept");
    let routes = routes(worker.clone()).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(socket, routes).await });
    (worker, address)
}

async fn ask(address: SocketAddr, method: Method, path: &str, body: Option<&str>) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut request = client.request(method, format!("http://{address}{path}"));
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_owned());
    }
    let answer = request.send().await.expect("an answer");
    let (status, text) = (answer.status().as_u16(), answer.text().await.expect("a body"));
    (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") })
}

async fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    ask(address, Method::GET, path, None).await
}

#[tokio::test]
async fn a_pipeline_is_a_connector_with_or_without_a_slash() {
    let (_worker, address) = serve().await;
    for path in ["/connectors", "/connectors/"] {
        assert_eq!(get(address, path).await, (200, json!(["orders"])));
    }
    let (_, info) = get(address, "/connectors/orders/").await;
    assert_eq!((&info["type"], &info["config"]["topics"]), (&"sink".into(), &"orders".into()));
    assert_eq!(info["tasks"], json!([{"connector": "orders", "task": 0}]));
    let (_, all) = get(address, "/connectors?expand=info&expand=status").await;
    assert_eq!(all["orders"]["info"], info);
    assert_eq!(all["orders"]["status"]["connector"]["state"], "UNASSIGNED");
    assert!(!all.to_string().contains("hush"), "{all}");
}

#[tokio::test]
async fn what_the_pipeline_says_is_what_is_answered() {
    let (worker, address) = serve().await;
    let connector = worker.connector("orders").expect("it is there");
    assert_eq!(get(address, "/connectors/orders/offsets").await.0, 503, "nobody knows yet");
    connector.runs(Some("cluster"));
    assert_eq!(get(address, "/").await.1["kafka_cluster_id"], "cluster");
    assert_eq!(get(address, "/connectors/orders/offsets").await.1, json!({"offsets": []}));
    connector.is(Phase::Failed("the store is full".into()));
    let (_, status) = get(address, "/connectors/orders/tasks/0/status").await;
    assert_eq!((&status["state"], &status["trace"]), (&"FAILED".into(), &"the store is full".into()));
    connector.is(Phase::Stopped);
    assert_eq!(get(address, "/connectors/orders/tasks").await.1, json!([]));
    assert_eq!(get(address, "/connectors/orders/tasks/0/status").await.0, 404);
}

#[tokio::test]
async fn an_order_reaches_the_pipeline() {
    let (worker, address) = serve().await;
    let mut orders = worker.connector("orders").expect("it is there").orders();
    for (verb, status, target) in
        [("pause", 202, Target::Paused), ("stop", 204, Target::Stopped), ("resume", 202, Target::Started)]
    {
        let path = format!("/connectors/orders/{verb}");
        assert_eq!(ask(address, Method::PUT, &path, None).await, (status, Value::Null));
        assert_eq!(orders.target(), target, "{verb}");
    }
    let path = "/connectors/orders/restart?includeTasks=true";
    let (status, body) = ask(address, Method::POST, path, None).await;
    assert_eq!((status, &body["tasks"][0]["state"]), (202, &"RESTARTING".into()));
    orders.changed().await;
    let _ = orders.target();
    for path in ["/connectors/orders/restart", "/connectors/orders/restart?includeTasks=true&onlyFailed=true"] {
        assert!(ask(address, Method::POST, path, None).await.0 < 300, "{path}");
    }
    let waited = tokio::time::timeout(std::time::Duration::ZERO, orders.changed());
    assert!(waited.await.is_err(), "nothing has failed, and without its task there is nothing that could begin anew");
}

#[tokio::test]
async fn who_is_not_of_this_machine_may_read_and_change_nothing() {
    let (worker, address) = serve().await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for (method, path) in [
        (Method::PUT, "/connectors/orders/pause"),
        (Method::PUT, "/connectors/orders/resume"),
        (Method::PUT, "/connectors/orders/stop"),
        (Method::POST, "/connectors/orders/restart?includeTasks=true"),
        (Method::POST, "/connectors/orders/tasks/0/restart"),
        (Method::PUT, "/connectors/orders/topics/reset"),
        (Method::PATCH, "/connectors/orders/offsets"),
        (Method::DELETE, "/connectors/orders/offsets"),
        (Method::POST, "/connectors"),
        (Method::PUT, "/connectors/orders/config"),
        (Method::PATCH, "/connectors/orders/config"),
        (Method::DELETE, "/connectors/orders"),
        (Method::PUT, "/connector-plugins/ArchiveSink/config/validate"),
        (Method::PUT, "/admin/loggers/root"),
    ] {
        let request =
            client.request(method, format!("http://{address}{path}")).header("origin", "https://evil.example");
        assert_eq!(request.send().await.expect("an answer").status().as_u16(), 403, "{path}");
    }
    assert_eq!(worker.connector("orders").expect("it is there").orders().target(), Target::Started);
}

#[tokio::test]
async fn what_stands_in_the_file_is_changed_in_the_file() {
    let (_worker, address) = serve().await;
    let (_, config) = get(address, "/connectors/orders/config").await;
    let body = config.to_string();
    for (method, path, body) in [
        (Method::PUT, "/connectors/orders/config", Some(body.as_str())),
        (Method::PATCH, "/connectors/orders/config", Some("{}")),
        (Method::DELETE, "/connectors/orders", None),
    ] {
        let (status, answer) = ask(address, method, path, body).await;
        assert!(answer["message"].as_str().is_some_and(|message| message.contains("change it there")), "{answer}");
        assert_eq!((status, &answer["error_code"]), (409, &409.into()));
    }
    let mut other = config.clone();
    other["name"] = "other".into();
    let new = json!({"name": "other", "config": other}).to_string();
    let (status, answer) = ask(address, Method::POST, "/connectors", Some(&new)).await;
    assert!(status == 409 && answer["message"].as_str().is_some_and(|m| m.contains("cannot be made here")), "{answer}");
    let bad = json!({"name": "orders", "config": {"connector.class": "ArchiveSink"}}).to_string();
    assert_eq!(ask(address, Method::POST, "/connectors", Some(&bad)).await.0, 400, "what is wrong comes first");
}

#[tokio::test]
async fn a_huge_or_malformed_body_is_refused_as_everything_is() {
    let (_worker, address) = serve().await;
    let huge = format!("{{\"a\": \"{}\"}}", "x".repeat(MOST_BODY_BYTES));
    let path = "/connector-plugins/ArchiveSink/config/validate";
    for (body, status) in [("{", 400), ("[]", 400), ("", 400), (huge.as_str(), 413)] {
        let (answered, answer) = ask(address, Method::PUT, path, Some(body)).await;
        assert_eq!((answered, &answer["error_code"]), (status, &status.into()));
    }
    assert_eq!(ask(address, Method::PUT, path, None).await.0, 415);
}
