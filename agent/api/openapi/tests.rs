//! The document against the routers.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use reqwest::{Method, StatusCode};

use super::*;
use crate::api::access::Access;
use crate::api::{Registry, Restores, guarded, routes, table};
use crate::config::{Agent, Config};
use crate::connect::{self, Worker};

/// Those of the listener itself.
const HEALTH: [&str; 3] = ["/metrics", "/livez", "/readyz"];

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

const CONFIG: &str = r#"
[[pipeline]]
name = "orders"
[pipeline.source]
type = "kafka"
topics = ["orders"]
kafka = { "bootstrap.servers" = "127.0.0.1:1" }
[pipeline.sink]
type = "archive"
backup_id = "b"
path = "memory://x"
"#;

/// Serves all routes but the listener's own; `token` is the agent's.
async fn serve(token: Option<&str>) -> SocketAddr {
    // reqwest is built for the store's TLS, and asks for its cryptography even where none is spoken.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let socket = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    let config = Config::parse("a.toml", CONFIG, &|_| None).expect("valid");
    let worker = Worker::open(&config, address).expect("nothing is kept");
    let access = Access::new(&Agent { token: token.map(str::to_owned), ..config.agent });
    let registry = Registry::new(&config.pipelines);
    let routes = routes(registry.clone(), Restores::none(registry)).merge(connect::routes(worker));
    let service = guarded(routes, access).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(socket, service).await });
    address
}

/// Returns a path with names that nothing has.
fn filled(path: &str) -> String {
    let part = |part: &str| match part {
        "{partition}" | "{task}" => "7".to_owned(),
        part => part.replace('{', "no-").replace('}', ""),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

async fn status(address: SocketAddr, method: &Method, path: &str) -> StatusCode {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client.request(method.clone(), format!("http://{address}{}", filled(path)));
    request.send().await.expect("an answer").status()
}

fn paths() -> BTreeSet<&'static str> {
    let own = table().into_iter().map(|(path, _)| path);
    let connect = connect::table().into_iter().map(|(path, _)| path);
    own.chain(connect).chain(["/"]).collect()
}

#[tokio::test]
async fn every_route_is_an_operation_and_every_operation_a_route() {
    let told: BTreeSet<_> = OPERATIONS.iter().map(|of| of.path).collect();
    let routed: BTreeSet<_> = paths().into_iter().chain(HEALTH).collect();
    assert_eq!(told, routed);
    let address = serve(None).await;
    for path in paths() {
        for method in &METHODS {
            let is_routed = status(address, method, path).await != StatusCode::METHOD_NOT_ALLOWED;
            let is_told = OPERATIONS.iter().any(|of| of.path == path && of.method == method.as_str());
            assert_eq!(is_routed, is_told, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn what_may_change_something_asks_for_the_token_and_what_reads_does_not() {
    let address = serve(Some("0123456789abcdef")).await;
    for operation in OPERATIONS.iter().filter(|of| !HEALTH.contains(&of.path)) {
        let method: Method = operation.method.parse().expect("a method");
        let is_asked = status(address, &method, operation.path).await == StatusCode::UNAUTHORIZED;
        let is_harmless = operation.method == "GET" || operation.path.ends_with("/config/validate");
        assert_eq!(is_asked, !is_harmless, "{method} {}", operation.path);
    }
    assert_eq!(status(address, &Method::POST, "/nowhere").await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(address, &Method::OPTIONS, "/connectors").await, StatusCode::UNAUTHORIZED);
}

#[test]
fn the_document_is_whole_in_itself() {
    let document = document();
    let mut ids = BTreeSet::new();
    assert!(OPERATIONS.iter().all(|of| ids.insert(of.id())), "an id is there twice");
    let schemas = document["components"]["schemas"].as_object().expect("an object");
    let text = document.to_string();
    let references = text.split("\"#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next());
    let used: BTreeSet<&str> = references.collect();
    assert_eq!(used, schemas.keys().map(String::as_str).collect(), "each schema is there, and is used");
}

#[tokio::test]
async fn it_is_served_as_json() {
    let address = serve(None).await;
    let answer = reqwest::get(format!("http://{address}/v1/openapi.json")).await.expect("an answer");
    assert_eq!(answer.headers()["content-type"], "application/json");
    let read: Value = answer.json().await.expect("JSON");
    assert_eq!((&read["openapi"], &read["paths"]["/v1/backups"]["get"]["tags"][0]), (&"3.1.0".into(), &"agent".into()));
}
