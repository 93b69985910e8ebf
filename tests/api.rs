//! The agent's listener from outside: who may change something, in the clear and over TLS, and what it makes of requests that are
//! no good. No broker is needed: the pipeline finds none.

mod groups;
mod restores;

use std::fs;
use std::io::{ErrorKind, Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::agent::{Agent, Backup};
use crate::support::wait_for;

const TOKEN: &str = "0123456789abcdef-of-the-tests";

/// What a request that changes something is answered with where it may: there is no connector of that name.
const PASSED: u16 = 404;

/// The most memory that requests may take: a few bodies of the largest size, buffers and threads.
const MOST_BYTES: u64 = 96 << 20;

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(30);

#[test]
fn without_a_token_a_program_of_this_machine_may_change_something_and_a_page_may_not() {
    let backup = nowhere();
    let (_agent, address) = listening(backup.run());
    let pause = |header: &str| request("PUT", "/connectors/none/pause", header, "");
    assert_eq!(plain(&address, &pause("")), Some(PASSED));
    assert_eq!(plain(&address, &pause("Origin: https://evil.example\r\n")), Some(403));
    assert_eq!(plain(&address, b"PUT /connectors/none/pause HTTP/1.1\r\nHost: evil.example\r\n\r\n"), Some(403));
}

#[test]
fn with_a_token_this_machine_needs_it_too_and_it_is_never_shown() {
    let backup = nowhere();
    let file = backup.folder().join("token");
    fs::write(&file, format!("{TOKEN}\n")).expect("written");
    let (agent, address) = listening(with(&backup, &format!("token = \"${{file:{}}}\"", file.display())));
    let pause = |header: &str| request("PUT", "/connectors/none/pause", header, "");
    assert_eq!(plain(&address, &pause("")), Some(401));
    assert_eq!(plain(&address, &pause("Authorization: Bearer 0123456789abcdef-of-the-test\r\n")), Some(401));
    assert_eq!(plain(&address, &pause(&format!("Authorization: Bearer {TOKEN}\r\n"))), Some(PASSED));
    assert_eq!(plain(&address, &request("GET", "/connectors", "", "")), Some(200), "whoever comes may read");
    assert!(!agent.log().contains(TOKEN), "{}", agent.log());
}

#[test]
fn a_certificate_of_the_right_authority_allows_a_change_over_tls_and_reading_needs_none() {
    let backup = nowhere();
    let pem = |name: &str| pem(name).display().to_string();
    let tls = format!(
        "token = {TOKEN:?}\n[agent.tls]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}",
        pem("agent.crt"),
        pem("agent.key"),
        pem("ca.crt")
    );
    let (agent, address) = listening(with(&backup, &tls));
    let pause = |header: &str| request("PUT", "/connectors/none/pause", header, "");
    let read = request("GET", "/livez", "", "");
    assert_eq!(secured(&address, None, &read), Some(200));
    assert_eq!(secured(&address, None, &pause("")), Some(401));
    assert_eq!(secured(&address, None, &pause(&format!("Authorization: Bearer {TOKEN}\r\n"))), Some(PASSED));
    assert_eq!(secured(&address, Some("client"), &pause("")), Some(PASSED));
    assert_eq!(secured(&address, Some("client"), &pause("Origin: https://evil.example\r\n")), Some(403));
    assert_eq!(secured(&address, Some("stranger"), &read), None, "another authority's is no certificate");
    assert_eq!(plain(&address, &read), None, "nothing is said in the clear");
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}

#[test]
fn certificates_that_have_changed_hold_for_new_connections_and_wrong_ones_change_nothing() {
    let backup = nowhere();
    let at = |name: &str| backup.folder().join(name);
    let write = |name: &str, from: &[&str]| {
        let text = from.iter().flat_map(|name| fs::read(pem(name)).expect("a file of the tests")).collect::<Vec<_>>();
        fs::write(at(name), text).expect("written");
    };
    write("tls.crt", &["agent.crt"]);
    write("tls.key", &["agent.key"]);
    let tls = format!("[agent.tls]\ncertificate = {:?}\nkey = {:?}", at("tls.crt"), at("tls.key"));
    let (agent, address) = listening(with(&backup, &format!("token = {TOKEN:?}\n{tls}")));
    let ask = || converse(&address, None, &request("GET", "/livez", "", ""));
    assert_eq!(ask(), (Some(200), 1));
    write("tls.crt", &["agent.crt", "ca.crt"]);
    agent.signal(Signal::SIGHUP);
    wait_for("the new ones are shown", || (ask() == (Some(200), 2)).then_some(()));
    write("tls.key", &["stranger.key"]);
    agent.signal(Signal::SIGHUP);
    wait_for("the log says so", || agent.log().contains("certificates from before are kept: ").then_some(()));
    assert_eq!(ask(), (Some(200), 2), "they are as they were");
    write("tls.key", &["agent.key"]);
    write("tls.crt", &["agent.crt"]);
    wait_for("the files are found to be others", || (ask() == (Some(200), 1)).then_some(()));
    agent.terminate();
}

#[test]
fn requests_that_are_no_good_are_refused_and_harm_nothing() {
    let backup = nowhere();
    let (mut agent, address) = listening(backup.run());
    let json = "Content-Type: application/json\r\n";
    let (deep, wide) = ("[".repeat(100_000), format!("{{{}\"a\":1}}", "\"a\":1,".repeat(10_000)));
    let mut requests = vec![
        b"\0\x01\x02\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET /v1/backups HTTP/1.1\r\nHost: localhost\r\nX: \xff\xfe\r\n\r\n".to_vec(),
        b"PUT /connectors/x/config HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"
            .to_vec(),
        b"PUT /connectors/x/config HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(1 << 20)).into_bytes(),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(10_000)).into_bytes(),
    ];
    for path in [
        "/v1/index/test/../../../../etc/passwd",
        "/v1/index/test/..%2F..%2Fetc/0",
        "/v1/index/%2e%2e/t/0",
        "/v1/index/test/t/99999999999999999999",
        "/v1/index/test/t/0?offset=%ff",
        "/v1/snapshots/..%2F..%2Fetc",
        "/v1/snapshots/test/..%2F..%2Fpasswd",
        "/v1/restores/test/..%2F..%2Fpasswd",
        "/v1/restores/test/%00",
        "/connectors/%c3%28/status",
        "/connectors/%00/status",
        "/connectors/x/tasks/-1/status",
        "/admin/loggers/%ff",
        "/connectors?expand=%ff",
    ] {
        requests.push(request("GET", path, "", ""));
    }
    for path in [
        "/v1/groups/plan",
        "/v1/groups/execute",
        "/connectors",
        "/v1/snapshots/test/x/rollback",
        "/v1/restores",
        "/v1/restores/test/x/resume",
        "/v1/restores/test/x/undo",
        "/v1/restores/test/x/cancel",
    ] {
        for body in ["{", "[]", "null", "\"x\"", "{\"backup\":7}", "\u{fffd}", deep.as_str(), wide.as_str()] {
            requests.push(request("POST", path, json, body));
        }
        let mut not_text = request("POST", path, json, "xx");
        let end = not_text.len();
        not_text[end - 2..].copy_from_slice(b"\xff\xfe");
        requests.push(not_text);
    }
    for method in ["DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
        for path in ["/", "/metrics", "/v1/backups", "/connectors/x/status", "/nowhere"] {
            requests.push(request(method, path, "", ""));
        }
    }
    for request in &requests {
        let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        // A connection that is closed without an answer is one, too.
        let status = plain(&address, request).unwrap_or(400);
        assert!(status < 500 || status == 503, "{status}: {shown}");
        assert!(agent.runs(), "it ended: {shown}");
    }
    assert_eq!(plain(&address, &request("GET", "/livez", "", "")), Some(200));
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}

#[test]
fn a_body_of_a_gigabyte_and_senders_that_never_end_take_no_memory_and_no_place() {
    let backup = nowhere();
    let (mut agent, address) = listening(backup.run());
    let before = agent.peak_bytes();
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(&address);
            stream.write_all(b"POST /v1/groups/plan HTTP/1.1\r\nHost: localhost\r\nX-").expect("sent");
            stream
        })
        .collect();
    for path in ["/v1/groups/plan", "/connectors", "/v1/backups", "/nowhere"] {
        let mut stream = connect(&address);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("sent");
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
        // 1 GiB, if it is taken.
        for _ in 0..(1 << 30) / 0x10000 {
            if stream.write_all(&chunk).is_err() {
                break;
            }
        }
        assert_eq!(answer(&mut stream), Some(413), "{path}");
        assert!(agent.runs());
    }
    let began = Instant::now();
    assert_eq!(plain(&address, &request("GET", "/livez", "", "")), Some(200));
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?} beside slow senders", began.elapsed());
    let taken = agent.peak_bytes() - before;
    assert!(taken < MOST_BYTES, "it has taken {} MiB", taken >> 20);
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    drop(slow);
}

/// A backup of a cluster that is not there.
fn nowhere() -> Backup {
    Backup::of_brokers("127.0.0.1:1", &["t"])
}

/// Starts an agent with further lines of `[agent]`, whose tables come last.
fn with(backup: &Backup, lines: &str) -> Agent {
    let (own, tables) =
        lines.split_once("\n[").map_or((lines, String::new()), |(own, rest)| (own, format!("[{rest}\n")));
    let config = backup.config().replace("[agent]\n", &format!("[agent]\n{own}\n"));
    backup.run_config(&config.replacen("[[pipeline]]", &format!("{tables}[[pipeline]]"), 1), &[])
}

/// Waits until it listens; returns it with where.
fn listening(mut agent: Agent) -> (Agent, String) {
    let address = agent.wait_until("it listens", |agent| {
        let log = agent.log();
        let address = log.split("listening on http").nth(1)?.trim_start_matches('s').strip_prefix("://")?;
        Some(address.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect::<String>())
    });
    (agent, address)
}

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api").join(name)
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(WITHIN)).expect("set");
    stream.set_write_timeout(Some(WITHIN)).expect("set");
    stream
}

/// Returns the status of the answer in the clear; `None` where there is none.
fn plain(address: &str, request: &[u8]) -> Option<u16> {
    let mut stream = connect(address);
    // It may have answered and closed before all is sent.
    let _ = stream.write_all(request);
    answer(&mut stream)
}

/// Returns the status of the answer over TLS, to the client whose certificate it is.
fn secured(address: &str, client: Option<&str>, request: &[u8]) -> Option<u16> {
    converse(address, client, request).0
}

/// As [`secured`]; returns how many certificates the agent has shown, too.
fn converse(address: &str, client: Option<&str>, request: &[u8]) -> (Option<u16>, usize) {
    let chain = |name: &str| CertificateDer::pem_file_iter(pem(name)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut roots = RootCertStore::empty();
    chain("ca.crt").expect("PEM").into_iter().for_each(|root| roots.add(root).expect("a root"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_root_certificates(roots);
    let config = match client {
        None => config.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(pem(&format!("{name}.key"))).expect("a key");
            config.with_client_auth_cert(chain(&format!("{name}.crt")).expect("PEM"), key).expect("they go together")
        }
    };
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut stream = StreamOwned::new(connection, connect(address));
    let _ = stream.write_all(request);
    let status = answer(&mut stream);
    (status, stream.conn.peer_certificates().map_or(0, <[_]>::len))
}

/// Reads the status of an answer; `None` where the connection ends before one.
fn answer(stream: &mut impl Read) -> Option<u16> {
    let (mut read, mut buffer) = (Vec::new(), [0; 1024]);
    while !read.windows(2).any(|end| end == b"\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(count) => read.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("there is no answer within {WITHIN:?}")
            }
            Err(_) => return None,
        }
    }
    let line = String::from_utf8_lossy(&read).into_owned();
    line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}
