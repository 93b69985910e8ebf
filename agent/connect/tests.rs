//! What the API answers, over HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use reqwest::Method;

use super::*;
use crate::api::access::Access;
use crate::api::guarded;
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

/// A worker of one pipeline that nobody runs, and where it is served. It keeps nothing.
async fn serve() -> (Worker, SocketAddr) {
    serve_with(None).await
}

/// As [`serve`], with a folder for what is kept.
async fn serve_with(state_dir: Option<&Path>) -> (Worker, SocketAddr) {
    // reqwest is built for the store's TLS, and asks for its cryptography even where none is spoken.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let socket = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    let mut config = Config::parse("a.toml", CONFIG, &|_| None).expect("valid");
    config.agent.state_dir = state_dir.map(Path::to_owned);
    let worker = Worker::open(&config, address).expect("the folder is nobody else's");
    let routes = guarded(routes(worker.clone()), Access::default()).into_make_service_with_connect_info::<SocketAddr>();
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
    let bad = json!({"name": "orders", "config": {"connector.class": "ArchiveSink"}}).to_string();
    assert_eq!(ask(address, Method::POST, "/connectors", Some(&bad)).await.0, 400, "what is wrong comes first");
}

fn made(name: &str, topic: &str) -> Value {
    json!({
        "connector.class": "ArchiveSink", "name": name, "topics": topic, "sink.backup_id": "b", "sink.path": "/archive",
        "consumer.override.bootstrap.servers": "127.0.0.1:1", "consumer.override.sasl.password": "hush",
    })
}

#[tokio::test]
async fn without_a_folder_for_it_nothing_is_made() {
    let (worker, address) = serve().await;
    let new = json!({"name": "made", "config": made("made", "t")}).to_string();
    let (status, answer) = ask(address, Method::POST, "/connectors", Some(&new)).await;
    let message = answer["message"].as_str().expect("why");
    assert!(status == 409 && message.contains("agent.state_dir") && !message.contains('\n'), "{message}");
    assert!(worker.connector("made").is_none());
}

#[tokio::test]
async fn what_is_made_is_configured_otherwise_and_removed_and_each_lasts() {
    let folder = tempfile::tempdir().expect("a folder");
    let (worker, address) = serve_with(Some(folder.path())).await;
    let mut changes = worker.changes();
    let new = json!({"name": "made", "config": made("made", "t"), "initial_state": "STOPPED"}).to_string();
    let (status, answer) = ask(address, Method::POST, "/connectors", Some(&new)).await;
    assert_eq!((status, &answer["config"]["topics"], &answer["type"]), (201, &"t".into(), &"sink".into()));
    assert!(!answer.to_string().contains("hush"), "{answer}");
    assert!(changes.has_changed().expect("the worker lives"));
    assert_eq!(ask(address, Method::POST, "/connectors", Some(&new)).await.0, 409, "it is there");
    let first = worker.connector("made").expect("made");
    assert_eq!(first.orders().target(), Target::Stopped);

    changes.mark_unchanged();
    let same = made("made", "t").to_string();
    assert_eq!(ask(address, Method::PUT, "/connectors/made/config", Some(&same)).await.0, 200);
    assert!(!changes.has_changed().expect("the worker lives"), "nothing is otherwise");
    let alter = json!({"topics": "u", "sink.roll_interval": "5s"}).to_string();
    let (status, answer) = ask(address, Method::PATCH, "/connectors/made/config", Some(&alter)).await;
    assert_eq!((status, &answer["config"]["sink.roll_interval"]), (200, &"5s".into()), "{answer}");
    let alter = json!({"sink.roll_interval": null}).to_string();
    let (_, answer) = ask(address, Method::PATCH, "/connectors/made/config", Some(&alter)).await;
    assert_eq!((&answer["config"]["topics"], answer["config"].get("sink.roll_interval")), (&"u".into(), None));
    let second = worker.connector("made").expect("it is there");
    assert!(changes.has_changed().expect("the worker lives") && !std::sync::Arc::ptr_eq(&first, &second));
    assert_eq!(second.capture().expect("it captures").source.kafka["sasl.password"], "hush", "PATCH left it");
    assert_eq!(second.orders().target(), Target::Stopped, "what it is to do stays");

    let kept = || std::fs::read_to_string(folder.path().join("connectors.json")).expect("kept");
    assert!(kept().contains("\"topics\": \"u\""), "{}", kept());
    assert_eq!(ask(address, Method::DELETE, "/connectors/made", None).await, (204, Value::Null));
    assert!(worker.connector("made").is_none() && !kept().contains("made"));
    assert_eq!(ask(address, Method::DELETE, "/connectors/made", None).await.0, 404);
}

#[tokio::test]
async fn what_cannot_run_is_not_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let (worker, address) = serve_with(Some(folder.path())).await;
    for (key, value, says) in [
        ("topics", "orders", "sink.backup_id: pipeline `orders` writes topic `orders` to backup `b` too"),
        ("sink.path", "${NOBODY_HAS_SET_THIS}", "sink.path: environment variable NOBODY_HAS_SET_THIS is not set"),
        ("sink.path", "nowhere://x", "sink.path: "),
        ("consumer.override.fetch.wait.max.ms", "soon", "Kafka property `fetch.wait.max.ms` is `soon`"),
        ("consumer.override.sasl.password", "********", "stands for a secret that is not shown"),
        ("connector.class", "ArchiveSource", "\nsink.backup_id: unknown key"),
    ] {
        let mut config = made("made", "t");
        config[key] = value.into();
        let (status, answer) = ask(address, Method::PUT, "/connectors/made/config", Some(&config.to_string())).await;
        assert!(status == 400 && answer["message"].as_str().is_some_and(|why| why.contains(says)), "{key}: {answer}");
    }
    let long = json!({"name": "x".repeat(250), "config": made(&"x".repeat(250), "t")}).to_string();
    assert_eq!(ask(address, Method::POST, "/connectors", Some(&long)).await.0, 400);
    assert!(worker.connectors().len() == 1 && !folder.path().join("connectors.json").exists());
}

#[tokio::test]
async fn what_is_kept_and_cannot_run_any_more_is_failed_and_can_be_mended() {
    let folder = tempfile::tempdir().expect("a folder");
    let kept =
        json!({"format": 1, "connectors": {"made": {"target_state": "STARTED", "config": made("made", "orders")}}});
    std::fs::write(folder.path().join("connectors.json"), kept.to_string()).expect("written");
    let (worker, address) = serve_with(Some(folder.path())).await;
    let (_, status) = get(address, "/connectors/made/status").await;
    let trace = status["tasks"][0]["trace"].as_str().expect("why");
    assert!(trace.contains("pipeline `orders` writes topic `orders`"), "{status}");
    assert!(worker.connector("made").expect("it is there").work().is_err());
    let alter = json!({"topics": "t"}).to_string();
    assert_eq!(ask(address, Method::PATCH, "/connectors/made/config", Some(&alter)).await.0, 200);
    assert!(worker.connector("made").expect("it is there").work().is_ok());
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
