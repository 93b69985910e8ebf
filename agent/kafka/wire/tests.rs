//! The connection against brokers of a few lines.

use bytes::{Buf as _, Bytes};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;

fn properties(address: &str, more: &[(&str, &str)]) -> Properties {
    let mut map: std::collections::BTreeMap<String, String> =
        more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    map.insert("bootstrap.servers".to_owned(), address.to_owned());
    Properties::new(map).expect("good properties")
}

/// Answers each request with what `answer` makes of (key, version): header version and body; `None` closes.
async fn broker<F>(answer: F) -> String
where
    F: Fn(i16, i16) -> Option<(i16, BytesMut)> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        while let Ok(length) = stream.read_i32().await {
            let mut request = vec![0; length as usize];
            stream.read_exact(&mut request).await.expect("a request");
            let mut request = Bytes::from(request);
            let (key, version, correlation) = (request.get_i16(), request.get_i16(), request.get_i32());
            let Some((header_version, body)) = answer(key, version) else { return };
            let mut reply = BytesMut::new();
            reply.put_i32((body.len() + 4 + usize::from(header_version == 1)) as i32);
            reply.put_i32(correlation);
            reply.put_bytes(0, usize::from(header_version == 1));
            reply.extend_from_slice(&body);
            stream.write_all(&reply).await.expect("the client listens");
        }
    });
    address
}

fn versions(code: i16, version: i16, most: i16) -> BytesMut {
    let keys = [(18, 0, 2), (MetadataRequest::KEY, 0, most)];
    let keys = keys.map(|(key, least, most)| {
        ApiVersion::default().with_api_key(key).with_min_version(least).with_max_version(most)
    });
    let mut body = BytesMut::new();
    let answer = ApiVersionsResponse::default().with_error_code(code).with_api_keys(keys.to_vec());
    answer.encode(&mut body, version).expect("encodes");
    body
}

#[tokio::test]
async fn a_broker_that_refuses_our_first_question_is_asked_in_version_0() {
    let address = broker(|_, version| {
        let code = if version > 2 { UNSUPPORTED_VERSION } else { 0 };
        Some((0, versions(code, 0, 5)))
    })
    .await;
    let connection = Connection::open(&address, &properties(&address, &[])).await.expect("it opens");
    assert_eq!(connection.version::<MetadataRequest>(4..=12), Some(5));
    assert_eq!(connection.version::<MetadataRequest>(6..=12), None);
    assert_eq!(connection.version::<kafka_protocol::messages::FetchRequest>(0..=17), None);
}

#[tokio::test]
async fn a_lost_connection_is_transient_and_names_the_broker() {
    let address = broker(|key, version| (key == 18).then(|| (0, versions(0, version, 5)))).await;
    let mut connection = Connection::open(&address, &properties(&address, &[])).await.expect("it opens");
    let error = connection.call(&MetadataRequest::default(), 5).await.expect_err("the broker closes");
    assert!(error.retryable() && error.to_string().contains(&address), "{error}");
    let error = connection.call(&MetadataRequest::default(), 5).await.expect_err("it is of no more use");
    assert!(error.to_string().contains("mid-answer"), "{error}");
}

#[tokio::test]
async fn an_answer_that_asks_for_quiet_delays_the_next_request() {
    let address = broker(|key, version| {
        let mut body = BytesMut::new();
        match key {
            18 => body = versions(0, version, 5),
            _ => MetadataResponse::default().with_throttle_time_ms(80).encode(&mut body, version).expect("encodes"),
        }
        Some((0, body))
    })
    .await;
    let mut connection = Connection::open(&address, &properties(&address, &[])).await.expect("it opens");
    let request = MetadataRequest::default().with_topics(Some(Vec::new()));
    connection.call(&request, 5).await.expect("an answer");
    let began = Instant::now();
    connection.call(&request, 5).await.expect("an answer");
    assert!(began.elapsed() >= Duration::from_millis(75));
}

#[tokio::test]
async fn what_is_no_kafka_broker_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("the client listens");
        let _ = stream.read_i32().await;
    });
    let error = Connection::open(&address, &properties(&address, &[])).await.expect_err("no Kafka");
    assert!(error.to_string().contains("listener of Kafka"), "{error}");
}

#[tokio::test]
async fn a_silent_broker_fails_within_the_setup_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let properties = properties(&address, &[("socket.connection.setup.timeout.ms", "50")]);
    let error = Connection::open(&address, &properties).await.expect_err("nobody answers");
    assert!(error.retryable() && error.to_string().contains("50 ms"), "{error}");
}
