//! Who is not let in, and what is wrong with a broker's certificate: each has its own words, in bounded time, and the right
//! exit code.

use std::fs;
use std::time::{Duration, Instant};

use super::{backup, filled, flags, shared, snapshot, wait_archived};
use crate::support::agent::{Backup, Ended};
use crate::support::secure::{Authority, PASSWORD, Properties, Secure};

/// A command waits for a cluster for half a minute.
const WITHIN: Duration = Duration::from_secs(45);

/// Something that is wrong, and what is said of it.
struct Wrong {
    what: &'static str,
    address: String,
    properties: Properties,
    words: Vec<String>,
}

/// Changes properties of a listener; an empty value takes one away.
fn changed(secure: &Secure, listener: &str, change: &[(&str, &str)]) -> Properties {
    let mut properties = secure.properties(listener);
    for (name, value) in change {
        properties.retain(|(known, _)| known != name);
        if !value.is_empty() {
            properties.push(((*name).to_owned(), (*value).to_owned()));
        }
    }
    properties
}

/// Returns what is wrong where a client with changed properties asks `at`.
fn wrong(
    secure: &Secure,
    what: &'static str,
    (listener, at): (&str, &str),
    change: &[(&str, &str)],
    words: &[&str],
) -> Wrong {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Wrong { what, address: secure.address(at), properties: changed(secure, listener, change), words }
}

fn passed(secure: &Secure, topic: &str, wrong: &Wrong) -> Ended {
    let backup = Backup::of_brokers(&wrong.address, &[topic]);
    let began = Instant::now();
    let ended = super::with(backup, &wrong.properties).backup();
    assert!(began.elapsed() < WITHIN, "{}: {:?}", wrong.what, began.elapsed());
    assert!(!ended.stderr.contains(PASSWORD), "{}: {}", wrong.what, ended.stderr);
    assert!(secure.kafka().topics().contains(topic));
    ended
}

/// Tries all of these, some at once.
fn assert_refused(secure: &Secure, all: &[Wrong]) {
    let topic = filled(secure, "refused", 1);
    for some in all.chunks(5) {
        std::thread::scope(|scope| {
            for wrong in some {
                let topic = &topic;
                drop(scope.spawn(move || {
                    let words: Vec<&str> = wrong.words.iter().map(String::as_str).chain([&*wrong.address]).collect();
                    let ended = passed(secure, topic, wrong);
                    println!("{}: {}", wrong.what, ended.stderr.trim_end());
                    ended.fails_with(1, &words);
                }));
            }
        });
    }
}

#[test]
fn who_is_not_who_they_say_is_told_so_at_once() {
    let secure = shared();
    let other = ("sasl.password", "another-one");
    let both = "correct `sasl.username` and `sasl.password`";
    let secret = [("sasl.oauthbearer.client.secret", "another-one")];
    let away = [("sasl.oauthbearer.token.endpoint.url", "http://127.0.0.1:1/token")];
    let own =
        [("enable.sasl.oauthbearer.unsecure.jwt", "true"), ("sasl.oauthbearer.config", "principal=me lifeSeconds=0")];
    assert_refused(
        secure,
        &[
            wrong(secure, "PLAIN", ("PLAIN", "PLAIN"), &[other], &["refuses our PLAIN authentication", both]),
            wrong(secure, "SCRAM", ("SCRAM256", "SCRAM256"), &[other], &["refuses our SCRAM-SHA-256", both]),
            wrong(secure, "over TLS", ("TLSSCRAM512", "TLSSCRAM512"), &[other], &["refuses our SCRAM-SHA-512", both]),
            wrong(secure, "a token that is over", ("OAUTH", "OAUTH"), &own, &["refuses our OAUTHBEARER"]),
            wrong(
                secure,
                "another mechanism",
                ("PLAIN", "SCRAM256"),
                &[],
                &["does not take `sasl.mechanism` PLAIN", "it takes SCRAM-SHA-256"],
            ),
            wrong(
                secure,
                "SASL where there is none",
                ("PLAIN", "CLEAR"),
                &[],
                &["has no SASL", "set `security.protocol` to plaintext"],
            ),
        ],
    );
    // These do not come as far as the broker.
    let topic = filled(secure, "tokens", 1);
    for (change, words) in [
        (&secret[..], ["gives us no token: 401", "correct `sasl.oauthbearer.client.id`"]),
        (&away[..], ["cannot get a token from http://127.0.0.1:1/token", "sasl.oauthbearer.token.endpoint.url"]),
    ] {
        let at = wrong(secure, "no token", ("TLSOAUTH", "TLSOAUTH"), change, &words);
        let ended = passed(secure, &topic, &at);
        println!("{}", ended.stderr.trim_end());
        ended.fails_with(1, &words);
    }
}

#[test]
fn what_is_wrong_with_certificates_is_told_on_either_side() {
    let secure = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let stranger = Authority::new("stranger");
    stranger.write(&folder.path().join("ca.pem"));
    stranger.sign("client", 2100).write(&folder.path().join("stranger"));
    let unknown = [("ssl.ca.location", &*file("ca.pem"))];
    let none = [("ssl.certificate.location", ""), ("ssl.key.location", "")];
    let strange = [("ssl.certificate.location", &*file("stranger.crt")), ("ssl.key.location", &*file("stranger.key"))];
    let (over, over_key) = (secure.file("expired-client.crt"), secure.file("expired-client.key"));
    let over = [("ssl.certificate.location", &*over), ("ssl.key.location", &*over_key)];
    let mut by_name =
        wrong(secure, "another name", ("TLS", "TLS"), &[], &["is for other names (127.0.0.1)", "subjectAltName"]);
    by_name.address = by_name.address.replace("127.0.0.1", "localhost");
    assert_refused(
        secure,
        &[
            wrong(secure, "unknown", ("TLS", "TLS"), &unknown, &["authority that is not trusted", "`ssl.ca.location`"]),
            wrong(secure, "over", ("EXPIRED", "EXPIRED"), &[], &["the certificate of broker", "has expired"]),
            by_name,
            wrong(secure, "none of ours", ("MTLS", "MTLS"), &none, &["wants a certificate of ours", "ssl.certificate"]),
            wrong(
                secure,
                "a stranger's",
                ("MTLS", "MTLS"),
                &strange,
                &["does not take our certificate", "ssl.certificate"],
            ),
            wrong(secure, "ours is over", ("MTLS", "MTLS"), &over, &["our certificate"]),
            wrong(secure, "TLS in the clear", ("TLS", "CLEAR"), &[], &["has broken off TLS", "`security.protocol`"]),
            wrong(
                secure,
                "the clear in TLS",
                ("CLEAR", "TLS"),
                &[],
                &["speaks TLS on that port", "`security.protocol`"],
            ),
            wrong(secure, "no SASL", ("CLEAR", "PLAIN"), &[], &["wants that listener SASL?"]),
        ],
    );
}

#[test]
fn what_is_not_checked_is_not_refused() {
    let secure = shared();
    let topic = filled(secure, "lenient", 3);
    let unchecked = [("enable.ssl.certificate.verification", "false"), ("ssl.ca.location", "")];
    let _ = super::with(Backup::of_brokers(&secure.address("EXPIRED"), &[&topic]), &changed(secure, "TLS", &unchecked))
        .backup()
        .ok();
    let nameless = [("ssl.endpoint.identification.algorithm", "none")];
    let by_name = secure.address("TLS").replace("127.0.0.1", "localhost");
    let _ = super::with(Backup::of_brokers(&by_name, &[&topic]), &changed(secure, "TLS", &nameless)).backup().ok();
}

#[test]
fn a_command_about_groups_and_a_file_that_is_not_there_fail_as_they_should() {
    let secure = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let snapshots = folder.path().join("snapshots").display().to_string();
    let mut wrong = flags(secure, "TLSSCRAM256");
    wrong.extend(["-X".to_owned(), "sasl.password=another-one".to_owned()]);
    snapshot(&snapshots, "g", &wrong).fails_with(1, &["refuses our SCRAM-SHA-256 authentication"]);
    let mut missing = flags(secure, "TLS");
    missing.extend(["-X".to_owned(), "ssl.ca.location=/none/ca.pem".to_owned()]);
    snapshot(&snapshots, "g", &missing).fails_with(2, &["`ssl.ca.location`: cannot read /none/ca.pem"]);
}

#[test]
fn an_agent_that_is_refused_says_so_tries_again_and_is_let_in_when_its_password_is_right() {
    let secure = shared();
    let topic = filled(secure, "healed", 10);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    fs::write(&file, "another-one\n").expect("written");
    let reference = format!("${{file:{}}}", file.display());
    let backup = backup(secure, "SCRAM256", &[&topic]).kafka("sasl.password", &reference);
    let mut agent = backup.run();
    agent.wait_until("it is said", |agent| agent.log().contains("refuses our SCRAM-SHA-256").then_some(()));
    agent.wait_until("it is not ready, and says why", |agent| {
        let (status, text) = agent.get("/readyz")?;
        (status == 503 && text.contains("refuses our SCRAM-SHA-256")).then_some(())
    });
    fs::write(&file, PASSWORD).expect("written");
    wait_archived(secure, &mut agent, &backup, &topic);
    agent.terminate();
}
