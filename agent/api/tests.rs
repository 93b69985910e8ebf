//! What the API answers, over HTTP.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::*;
use crate::archive::layout::Fork;
use crate::archive::source::tests::{Fixture, three};
use crate::record::{OffsetRange, Partition, TopicId};

/// Serves a registry; returns its address.
async fn serve(registry: &Registry) -> SocketAddr {
    // reqwest is built for the store's TLS, and asks for its cryptography even where none is spoken.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let socket = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    let routes = guarded(routes(registry.clone(), Restores::none(registry.clone())), Access::default())
        .into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(socket, routes).await });
    address
}

async fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("http://{address}{path}")).await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// A registry of one pipeline that writes the fixture's backup.
fn registry(fixture: &Fixture) -> (Registry, Entry) {
    let registry = starting();
    let entry = registry.runs("p", fixture.archive.clone());
    (registry, entry)
}

/// A registry of one pipeline that does not run yet.
fn starting() -> Registry {
    Registry(Arc::new(Mutex::new(vec![Registered {
        pipeline: "p".into(),
        backup_id: "b".into(),
        path: "memory://x".into(),
        place: Place { backup_id: "b".into(), path: "memory://x".into(), kafka: BTreeMap::new() },
        archive: None,
        savepoints: None,
    }])))
}

#[tokio::test]
async fn an_offset_is_answered_with_its_segment_and_where_to_begin() {
    let fixture = three().await;
    let (registry, _entry) = registry(&fixture);
    let address = serve(&registry).await;
    let (status, place) = get(address, "/v1/index/b/t/0?offset=7").await;
    let expected = json!({
        "backup": "b", "topic": "t", "topic_id": "_", "newest": true, "partition": 0, "fork": null, "kind": "first",
        "segment": "b/topics/t/_/0/00000000000000000000.log", "first_offset": 0, "next_offset": 10, "records": 10,
        "position": 0, "position_offset": 0, "end_offset": 20, "max_time": "1970-01-01T00:00:01.009Z",
    });
    assert_eq!(status, 200, "{place}");
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&place[key], value, "{key} in {place}");
    }
    assert!(place["sidecar"].as_str().is_some_and(|key| key.ends_with(".index")), "{place}");
    assert!(place["sealed_at"].is_string() && place["length_bytes"].as_u64() > Some(0), "{place}");
    let (_, by_time) = get(address, "/v1/index/b/t@_/0?time=1970-01-01T00:00:01.012Z").await;
    assert_eq!((&by_time["first_offset"], &by_time["position_offset"]), (&10.into(), &10.into()));
    let (_, extent) = get(address, "/v1/index/b/t/0").await;
    assert_eq!(
        (&extent["first_offset"], &extent["end_offset"], &extent["segments"]),
        (&0.into(), &20.into(), &3.into())
    );
}

#[tokio::test]
async fn forks_are_read_as_readers_read_them() {
    let fixture = three().await;
    fixture.fork_segment(Fork { epoch: 7, end: 12 }, &[fixture.batch(12, 3)]).await;
    let (registry, _entry) = registry(&fixture);
    let address = serve(&registry).await;
    let of = async |query: &str| get(address, &format!("/v1/index/b/t/0?{query}")).await;
    assert_eq!(of("offset=13").await.1["fork"], "7-12");
    assert_eq!(of("offset=11").await.1["fork"], Value::Null);
    assert_eq!(of("offset=13&fork=none").await.1["fork"], Value::Null);
    assert_eq!(of("fork=7-12").await.1["end_offset"], 15);
    assert_eq!(of("fork=none").await.1["end_offset"], 20);
    assert_eq!(of("offset=16").await.0, 404);
    assert_eq!(of("fork=8-12").await.0, 404);
}

#[tokio::test]
async fn what_is_not_there_or_not_meant_is_told_as_connect_does() {
    let fixture = three().await.but(|key, bytes| (!key.contains("0010.")).then_some(bytes)).await;
    fixture.topic("empty", "_", 1).await;
    let (registry, _entry) = registry(&fixture);
    let address = serve(&registry).await;
    for (path, status, words) in [
        ("/v1/index/x/t/0", 404, "`x`"),
        ("/v1/index/b/x/0", 404, "no topic `x`"),
        ("/v1/index/b/t@BBBBBBBBBBBBBBBBBBBBBQ/0", 404, "BBBBBBBBBBBBBBBBBBBBBQ"),
        ("/v1/index/b/t/7", 404, "no partition 7"),
        ("/v1/index/b/t/0?offset=20", 404, "up to offset 20"),
        ("/v1/index/b/t/0?offset=12", 404, "no segment covers it"),
        ("/v1/index/b/t/0?time=2030-01-01T00:00:00Z", 404, "up to offset 20"),
        ("/v1/index/b/empty/0?offset=0", 404, "nothing yet"),
        ("/v1/index/b/t/x", 400, "no partition"),
        ("/v1/index/b/t/007", 400, "no partition"),
        ("/v1/index/b/t/+5", 400, "no partition"),
        ("/v1/index/%ff/t/0", 400, "badly encoded"),
        ("/v1/index/b/%ff/0", 400, "badly encoded"),
        ("/v1/savepoints/%ff", 400, "badly encoded"),
        ("/v1/savepoints/b?limit=0", 400, "no limit"),
        ("/v1/index/b/t@x/0", 400, "no topic id"),
        ("/v1/index/b/t/0?offset=007", 400, "no offset"),
        ("/v1/index/b/t/0?offset=-1", 400, "no offset"),
        ("/v1/index/b/t/0?when=1", 400, "`when`"),
        ("/v1/nothing", 404, "/v1/nothing"),
        ("/v1/index/b", 404, "/v1/index/b"),
    ] {
        let (answered, body) = get(address, path).await;
        assert_eq!((answered, &body["error_code"]), (status, &status.into()), "{path}: {body}");
        let message = body["message"].as_str().expect("text");
        assert!(message.contains(words) && !message.contains('\n'), "{path}: {message}");
    }
    let answer = reqwest::Client::new().delete(format!("http://{address}/v1/backups")).send().await.expect("an answer");
    assert_eq!(answer.status(), 405);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_unavailable_and_damage_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = crate::store::Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
    let archive = Archive::create(&root, "b", None).await.expect("created");
    std::fs::create_dir_all(folder.path().join("b/topics/t/_")).expect("made");
    // A file where the partition's folder should be: listing it fails.
    std::fs::write(folder.path().join("b/topics/t/_/0"), "").expect("written");
    let registry = starting();
    let entry = registry.runs("p", archive.clone());
    let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 };
    assert_eq!(get(serve(&registry).await, "/v1/index/b/t@_/0?offset=1").await.0, 404, "a file is no partition");
    let row = crate::archive::live::tests::row(0);
    archive.live().committed(&partition, None, &row, None);
    let (status, body) = get(serve(&registry).await, "/v1/index/b/t/0?offset=1").await;
    assert_eq!((status, &body["error_code"]), (503, &503.into()), "{body}");
    drop(entry);
    let fixture = three().await;
    let _entry = registry.runs("p", fixture.archive.clone());
    let address = serve(&registry).await;
    assert_eq!(get(address, "/v1/index/b/t/0?offset=1").await.0, 200);
    for first in [15, 20] {
        let row = crate::archive::catalog::Row { range: OffsetRange { first, next: first + 5 }, ..row };
        fixture.archive.live().committed(&partition, None, &row, None);
    }
    let (status, body) = get(address, "/v1/index/b/t/0?offset=22").await;
    let says = |what: &str| body["message"].as_str().is_some_and(|text| text.contains(what));
    assert!(status == 503 && says("sidecar is lost") && says("topics/t/_/0/"), "{body}");
}

#[tokio::test]
async fn a_pipeline_that_is_starting_is_unavailable_and_listed() {
    let registry = starting();
    let address = serve(&registry).await;
    assert_eq!(get(address, "/v1/index/b/t/0").await.0, 503);
    let fixture = three().await;
    let entry = registry.runs("p", fixture.archive.clone());
    let listed = json!([{ "backup": "b", "path": "memory://x", "pipeline": "p", "running": true }]);
    assert_eq!(get(address, "/v1/backups").await, (200, listed));
    drop(entry);
    assert_eq!(get(address, "/v1/savepoints/b").await.0, 503);
    assert_eq!(get(address, "/v1/backups").await.1[0]["running"], false);
}

#[tokio::test]
async fn a_savepoint_is_made_when_this_machine_asks() {
    let fixture = three().await;
    let (registry, _entry) = registry(&fixture);
    let address = serve(&registry).await;
    let post = async || {
        let answer = reqwest::Client::new().post(format!("http://{address}/v1/savepoints/b")).send().await;
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    assert_eq!(post().await.0, 503, "nothing makes them yet");
    registry.makes_savepoints("p", Arc::new(|| Box::pin(async { Ok("20261122T100000.000Z".to_owned()) })));
    assert_eq!(post().await, (201, json!({ "backup": "b", "savepoint": "20261122T100000.000Z" })));
    registry.makes_savepoints("p", Arc::new(|| Box::pin(async { Err(Error::transient("no leader")) })));
    assert_eq!(post().await, (503, json!({ "error_code": 503, "message": "no leader" })));
    assert_eq!(get(address, "/v1/savepoints/b").await, (200, json!([])));
}

/// Sends a request to make a savepoint with a header.
async fn post(address: SocketAddr, header: (&str, &str)) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("http://{address}/v1/savepoints/b"));
    let answer = request.header(header.0, header.1).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

#[tokio::test]
async fn a_page_in_a_browser_of_this_machine_makes_no_savepoint() {
    let fixture = three().await;
    let (registry, _entry) = registry(&fixture);
    let address = serve(&registry).await;
    registry.makes_savepoints("p", Arc::new(|| Box::pin(async { Ok("20261122T100000.000Z".to_owned()) })));
    let own = format!("http://{address}");
    for (header, status) in [
        (("origin", "https://evil.example"), 403),
        (("sec-fetch-site", "cross-site"), 403),
        (("host", "evil.example:8083"), 403),
        (("origin", own.as_str()), 201),
    ] {
        let (answered, body) = post(address, header).await;
        assert_eq!(answered, status, "{header:?}: {body}");
        assert_eq!(body["error_code"].as_u64().unwrap_or(201), u64::from(status), "{header:?}: {body}");
    }
}

#[tokio::test]
async fn a_backup_that_is_not_yet_there_or_out_of_reach_is_unavailable_with_when_to_ask_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = crate::store::Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
    let archive = Archive::create(&root, "b", None).await.expect("created");
    let registry = starting();
    let _entry = registry.runs("p", archive);
    registry.makes_savepoints("p", Arc::new(|| Box::pin(async { Err(Error::new(Kind::NoBackup, "no backup")) })));
    let address = serve(&registry).await;
    assert_eq!(post(address, ("x", "y")).await.0, 503);
    assert_eq!(get(address, "/v1/index/b/t/0").await.0, 404);
    assert_eq!(get(address, "/v1/savepoints/b").await, (200, json!([])));
    // As when a disk is unmounted.
    std::fs::rename(folder.path().join("b"), folder.path().join("away")).expect("renamed");
    for path in ["/v1/index/b/t/0", "/v1/index/b/t/0?offset=1", "/v1/savepoints/b"] {
        let answer = reqwest::get(format!("http://{address}{path}")).await.expect("an answer");
        let again = answer.headers().get("retry-after").and_then(|seconds| seconds.to_str().ok()?.parse::<u32>().ok());
        assert_eq!((answer.status().as_u16(), again), (503, Some(5)), "{path}");
    }
}

#[tokio::test]
async fn what_a_pipeline_that_is_starting_may_hold_is_not_known_to_be_missing() {
    let fixture = three().await;
    let (registry, _entry) = registry(&fixture);
    let other = starting().lock().remove(0);
    registry.lock().push(Registered { pipeline: "q".into(), ..other });
    let address = serve(&registry).await;
    assert_eq!(get(address, "/v1/index/b/x/0").await.0, 404, "it writes to the same place");
    registry.lock()[1].path = "memory://y".into();
    assert_eq!(get(address, "/v1/index/b/x/0").await.0, 503);
    assert_eq!(get(address, "/v1/index/b/t/0").await.0, 200);
}

#[tokio::test]
async fn a_topic_whose_object_cannot_be_read_is_damage_and_not_missing() {
    let fixture = Fixture::new("b").await;
    fixture.topic("t", "_", 3).await;
    let broken = fixture.but(|_, bytes| Some(bytes.slice(..9))).await;
    let (registry, _entry) = registry(&broken);
    let address = serve(&registry).await;
    let answer = reqwest::get(format!("http://{address}/v1/index/b/t/2")).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.headers().get("retry-after")), (503, None), "that does not pass");
    let body: Value = answer.json().await.expect("JSON");
    assert!(body["message"].as_str().is_some_and(|text| text.contains("topics/t/_/")), "it names the object: {body}");
}

#[tokio::test]
async fn savepoints_are_listed_up_to_a_limit_the_newest() {
    let fixture = three().await;
    let names: Vec<_> = (0..102).map(|n| format!("20261122T1000{:02}.{:03}Z", n / 10, n % 10)).collect();
    for name in &names {
        fixture.create(&format!("savepoints/{name}"), bytes::Bytes::new()).await;
    }
    let (registry, _entry) = registry(&fixture);
    let address = serve(&registry).await;
    assert_eq!(get(address, "/v1/savepoints/b").await, (200, json!(names[2..])));
    assert_eq!(get(address, "/v1/savepoints/b?limit=2").await, (200, json!(names[100..])));
    assert_eq!(get(address, "/v1/savepoints/b?limit=10000").await, (200, json!(names)));
}

#[tokio::test]
async fn two_backups_of_one_name_are_told_apart_by_what_they_hold() {
    let (fixture, other) = (three().await, Fixture::new("b").await);
    other.topic("else", "_", 1).await;
    let (registry, _entry) = registry(&fixture);
    let mut second = starting().lock().remove(0);
    second.pipeline = "q".into();
    registry.lock().push(second);
    let _other = registry.runs("q", other.archive.clone());
    let address = serve(&registry).await;
    assert_eq!(get(address, "/v1/index/b/t/0").await.0, 200);
    assert_eq!(get(address, "/v1/index/b/else/0").await.0, 200);
    assert_eq!(get(address, "/v1/index/b/none/0").await.0, 404);
    assert_eq!(get(address, "/v1/savepoints/b").await.0, 409);
}
