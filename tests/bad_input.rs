//! What is wrong is said in one clear line, with the exit code that tells whose turn it is.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kafka_backup::archive::sealed;

use crate::support::agent::{Backup, Ended, program_with};
use crate::support::chain::assert_same;
use crate::support::kafka::{Kafka, free_port};
use crate::support::workload::{Contents, Writer};

/// Runs `verb` on a configuration and asserts that it ends as a mistake of the user's, in one line that holds `words`.
#[track_caller]
fn refused(verb: &[&str], backup: &Backup, config: &str, words: &[&str]) {
    let file = backup.write_config(config);
    let arguments = [verb, &["--config", file.to_str().expect("UTF-8")]].concat();
    program_with(&arguments).fails_with(2, words);
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_known_one_named() {
    let backup = Backup::of_brokers("127.0.0.1:1", &["orders"]).sink("roll_byte", "1MiB");
    for verb in [&["run"][..], &["backup"], &["config", "validate"], &["config", "show"]] {
        refused(verb, &backup, &backup.config(), &["sink.roll_byte:", "roll_bytes"]);
    }
    let backup = Backup::of_brokers("127.0.0.1:1", &["orders"]).kafka("fetch.max.byte", "1");
    refused(&["backup"], &backup, &backup.config(), &["fetch.max.byte`", "fetch.max.bytes"]);
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_named() {
    for verb in ["run", "backup"] {
        program_with(&[verb, "--config", "/nowhere/agent.toml"]).fails_with(2, &["/nowhere/agent.toml"]);
    }
    let backup = Backup::of_brokers("127.0.0.1:1", &["orders"]);
    refused(&["backup"], &backup, "[agent\nlisten = 1", &["agent-"]);
}

#[test]
fn a_topic_that_does_not_exist_is_named() {
    let kafka = Kafka::shared();
    let there = kafka.topic("there", 1, &[]);
    let backup = Backup::of(kafka, &[&there, "never-made"]);
    backup.backup().fails_with(2, &["never-made"]);
    refused(&["run"], &backup, &backup.config(), &["never-made"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("unwritable", 1, &[]);
    let backup = Backup::of(kafka, &[&topic]);
    // Below a file there is no folder, not even for root.
    let path = backup.write_config("not a folder").join("archive").display().to_string();
    let backup = Backup::of(kafka, &[&topic]).path(&path);
    backup.backup().fails_with(2, &[&path]);
    refused(&["run"], &backup, &backup.config(), &[&path]);
}

/// Makes a backup, changes a field of its `backup.json`, and returns how another pass, an agent and a reader take it.
fn with_changed(field: &str, value: serde_json::Value) -> (Backup, Vec<Ended>) {
    let kafka = Kafka::shared();
    let topic = kafka.topic("changed", 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, 10, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let _ = backup.backup().ok();
    let file = backup.file("backup.json");
    let mut content: serde_json::Value = serde_json::from_slice(&fs::read(&file).expect("it is there")).expect("JSON");
    assert!(!content[field].is_null(), "{field} is in {content}");
    content[field] = value;
    content.as_object_mut().expect("an object").shift_remove("checksum");
    fs::write(&file, sealed::pretty(&content)).expect("it is writable");
    let config = backup.write_config(&backup.config());
    let run = program_with(&["run", "--config", config.to_str().expect("UTF-8")]);
    let ended =
        vec![backup.backup(), run, backup.command("verify", &["--deep"]), backup.command("cat", &["--topic", &topic])];
    (backup, ended)
}

#[test]
fn a_backup_of_a_newer_format_is_refused_by_writers_and_readers() {
    let (_backup, ended) = with_changed("format", 99.into());
    for ended in ended {
        ended.fails_with(2, &["format", "99"]);
    }
}

#[test]
fn a_backup_of_another_cluster_is_refused_by_writers_and_can_be_read() {
    let (_backup, ended) = with_changed("cluster_id", "of-another-cluster".into());
    for ended in &ended[..2] {
        ended.fails_with(2, &["cluster", "of-another-cluster"]);
    }
    assert!(ended[2..].iter().all(|ended| ended.code == Some(0)), "{ended:#?}");
}

#[test]
fn a_backup_that_does_not_exist_is_told_apart() {
    let backup = Backup::of_brokers("127.0.0.1:1", &["orders"]);
    for verb in ["describe", "verify", "show-offset-mapping"] {
        backup.command(verb, &[]).fails_with(10, &["test"]);
    }
}

#[test]
fn an_unreachable_broker_ends_a_pass_after_a_bounded_wait() {
    let broker = format!("127.0.0.1:{}", free_port());
    let backup = Backup::of_brokers(&broker, &["orders"]);
    let began = Instant::now();
    backup.backup().fails_with(1, &[&broker]);
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    // Nothing is made of a backup that never began.
    assert!(!backup.file("backup.json").exists());
}

/// Passes connections to `port` on to a broker until the test process ends.
fn forward(port: u16, broker: String) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is still free");
    let pass = |mut from: TcpStream, mut to: TcpStream| std::thread::spawn(move || io::copy(&mut from, &mut to));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, broker) = (client.expect("a connection"), TcpStream::connect(&broker).expect("the broker"));
            pass(client.try_clone().expect("a socket"), broker.try_clone().expect("a socket"));
            pass(broker, client);
        }
    });
}

#[test]
fn an_agent_waits_for_an_unreachable_broker_says_so_and_comes_alive() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("late", 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, 10, 100));
    let port = free_port();
    let backup = Backup::of_brokers(&format!("127.0.0.1:{port}"), &[&topic]).kafka("reconnect.backoff.max.ms", "500");
    let mut agent = backup.run();
    let reason = agent.wait_until("it is not ready and says why", |agent| {
        agent.get("/readyz").filter(|(code, reason)| *code == 503 && reason.contains(&format!("127.0.0.1:{port}")))
    });
    assert_eq!(agent.get("/livez").map(|(code, _)| code), Some(200), "it lives; {reason:?}");
    forward(port, kafka.brokers().to_owned());
    agent.wait_until("it is ready", |agent| agent.get("/readyz").filter(|(code, _)| *code == 200));
    agent.wait_until("it archives", |_| (backup.chain(&topic, 0).next() == 10).then_some(()));
}

#[test]
fn an_agent_outlives_its_broker_and_goes_on_when_it_is_back() {
    let mut kafka = Kafka::start();
    let topic = kafka.topic("restart", 2, &[]);
    let mut contents = Contents::new();
    let _ = Writer::new(&kafka, &[]).write(&topic, &contents.records(2, 50, 300));
    let backup = Backup::of(&kafka, &[&topic]).kafka("reconnect.backoff.max.ms", "500");
    let mut agent = backup.run();
    agent.wait_until("it archives", |_| (backup.chain(&topic, 1).next() == 50).then_some(()));
    kafka.stop();
    agent.wait_until("it is not ready", |agent| agent.get("/readyz").filter(|(code, _)| *code == 503));
    kafka.start_again();
    let _ = Writer::new(&kafka, &[]).write(&topic, &contents.records(2, 50, 300));
    agent.wait_until("it archives again", |_| (backup.chain(&topic, 1).next() == 100).then_some(()));
    agent.wait_until("it is ready", |agent| agent.get("/readyz").filter(|(code, _)| *code == 200));
    agent.terminate();
    for partition in 0..2 {
        assert_same("after the restart", &backup.chain(&topic, partition).bytes(), &kafka.log_bytes(&topic, partition));
    }
}
