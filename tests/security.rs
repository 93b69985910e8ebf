//! Every kind of listener: who is let in, what is said to who is not, and what happens when sessions end and passwords and
//! certificates are changed. The listeners are those of one real broker (`support::secure`).

mod changes;
mod refused;

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use crate::support::agent::{Agent, Backup, Ended, program_in, program_with};
use crate::support::reader::read_committed;
use crate::support::secure::{PASSWORD, Properties, Secure};
use crate::support::wait_for;
use crate::support::workload::{Contents, Writer};

/// A session of the broker is over after five seconds: a restore that lasts as long has said anew who we are.
const LASTS: Duration = Duration::from_secs(12);

/// What is logged when that is done.
const SAID_ANEW: &str = "said anew who we are";

/// Returns the broker that the tests share which change nothing of it.
fn shared() -> &'static Secure {
    static SHARED: OnceLock<Secure> = OnceLock::new();
    SHARED.get_or_init(Secure::start)
}

/// Configures a backup by way of a listener.
fn backup(secure: &Secure, listener: &str, topics: &[&str]) -> Backup {
    with(Backup::of_brokers(&secure.address(listener), topics), &secure.properties(listener))
}

fn with(backup: Backup, properties: &Properties) -> Backup {
    properties.iter().fold(backup, |backup, (name, value)| backup.kafka(name, value))
}

/// Makes a topic with so many records in each of two partitions.
fn filled(secure: &Secure, theme: &str, count: usize) -> String {
    let topic = secure.kafka().topic(theme, 2, &[]);
    write(secure, &topic, count);
    topic
}

fn write(secure: &Secure, topic: &str, count: usize) {
    let records = Contents::new().records(2, count, 300);
    let _ = Writer::new(secure.kafka(), &[]).write(topic, &records);
}

/// Configures a restore of `topic` to `target` by way of a listener.
fn restore_config(
    secure: &Secure,
    listener: &str,
    backup: &Backup,
    (topic, target): (&str, &str),
    more: &str,
) -> String {
    let properties: Vec<_> =
        secure.properties(listener).iter().map(|(name, value)| format!(", {name:?} = {value:?}")).collect();
    format!(
        "[[pipeline]]\nname = {target:?}\n{more}[pipeline.source]\ntype = \"archive\"\nbackup_id = \"test\"\npath = {:?}\n\
         [pipeline.sink]\ntype = \"kafka\"\nrestore_id = {target:?}\ntopics = {{ {topic:?} = {target:?} }}\n\
         kafka = {{ \"bootstrap.servers\" = {:?}{} }}\n",
        backup.archive(),
        secure.address(listener),
        properties.concat()
    )
}

fn restore(backup: &Backup, config: &str, environment: &[(&str, &str)]) -> Ended {
    let file = backup.write_config(config).display().to_string();
    program_in(&["restore", "--config", &file], environment)
}

/// Returns the flags of a command that asks a listener.
fn flags(secure: &Secure, listener: &str) -> Vec<String> {
    let mut flags = vec!["--bootstrap-servers".to_owned(), secure.address(listener)];
    for (name, value) in secure.properties(listener) {
        flags.extend(["-X".to_owned(), format!("{name}={value}")]);
    }
    flags
}

fn snapshot(folder: &str, group: &str, flags: &[String]) -> Ended {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    program_with(&[&["offset-rollback", "snapshot", "--path", folder, "--groups", group], &flags[..]].concat())
}

/// A record by its partition, key and value.
type Held = (i32, Option<Vec<u8>>, Option<Vec<u8>>);

/// Returns what a topic holds, of each partition in order.
fn held(secure: &Secure, topic: &str) -> Vec<Held> {
    let records = read_committed(secure.kafka(), topic).into_iter();
    records.map(|record| (record.partition, record.key, record.value)).collect()
}

/// Asserts that every record of a topic is archived, once.
#[track_caller]
fn assert_archived(secure: &Secure, backup: &Backup, topic: &str) {
    let archived: Vec<_> =
        backup.cat(topic).into_iter().map(|record| (record.partition, record.key, record.value)).collect();
    assert_eq!(archived, held(secure, topic));
}

/// Waits until a running agent has archived everything that was written so far.
#[track_caller]
fn wait_archived(secure: &Secure, agent: &mut Agent, backup: &Backup, topic: &str) {
    let ends = secure.kafka().ends(topic);
    agent.wait_until("everything is archived", |_| {
        (0..).zip(&ends).all(|(partition, end)| backup.chain(topic, partition).next() >= *end).then_some(())
    });
}

#[test]
fn each_listener_takes_a_capture_a_restore_and_a_command_about_groups() {
    let secure = shared();
    let topic = filled(secure, "listeners", 100);
    let wanted = held(secure, &topic);
    secure.kafka().commit("readers", &topic, 0, 7);
    let tried: Vec<_> = Secure::listeners().collect();
    assert_eq!(tried.len(), 11);
    let by_way_of = |listener: &str| {
        let backup = backup(secure, listener, &[&topic]);
        let _ = backup.backup().ok();
        assert_archived(secure, &backup, &topic);
        let target = format!("{topic}-{}", listener.to_lowercase());
        let config = restore_config(secure, listener, &backup, (&topic, &target), "");
        let _ = restore(&backup, &config, &[]).ok();
        assert_eq!(held(secure, &target), wanted, "{listener}");
        let snapshots = backup.folder().join("snapshots").display().to_string();
        let said = snapshot(&snapshots, "readers", &flags(secure, listener));
        assert!(!said.stderr.contains(PASSWORD), "{}", said.stderr);
        let _ = said.ok();
    };
    // Three at once: each has a process of its own, and the machine two cores.
    for some in tried.chunks(3) {
        std::thread::scope(|scope| some.iter().for_each(|listener| drop(scope.spawn(|| by_way_of(listener)))));
    }
}

#[test]
fn properties_of_javas_clients_are_read_from_a_file() {
    let secure = shared();
    let topic = filled(secure, "java", 1);
    secure.kafka().commit("java", &topic, 0, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("client.properties");
    let text = format!(
        "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
         sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\\n  username=\"agent\" \\\n  \
         password=\"{PASSWORD}\";\n",
        secure.file("ca.pem")
    );
    std::fs::write(&file, text).expect("written");
    let flags = ["--bootstrap-servers", &secure.address("TLSSCRAM512"), "--command-config"].map(str::to_owned);
    let flags = [&flags[..], &[file.display().to_string()]].concat();
    let _ = snapshot(&folder.path().join("snapshots").display().to_string(), "java", &flags).ok();
}

#[test]
fn a_member_of_a_group_is_let_in_as_the_wire_client_is() {
    let secure = shared();
    let listeners = ["MTLS", "OAUTH", "TLSPLAIN", "TLSSCRAM256", "TLSSCRAM512", "TLSOAUTH"];
    let by_way_of = |listener: &str| {
        let topic = filled(secure, "members", 20);
        let group = format!("{topic}-group");
        let backup = backup(secure, listener, &[&topic]).source("group_id", &group);
        let mut agent = backup.run();
        wait_archived(secure, &mut agent, &backup, &topic);
        let ends = secure.kafka().ends(&topic);
        agent.wait_until("what is durable is committed", |_| {
            let committed = secure.kafka().committed(&group, &topic);
            (0..).zip(&ends).all(|(partition, end)| committed.get(&partition) == Some(end)).then_some(())
        });
        assert_eq!(agent.metric("kafka_backup_group_partitions"), 2.0, "{listener}");
        assert!(!agent.log().contains(PASSWORD));
        agent.terminate();
    };
    for some in listeners.chunks(3) {
        std::thread::scope(|scope| some.iter().for_each(|listener| drop(scope.spawn(|| by_way_of(listener)))));
    }
}

#[test]
fn certificates_and_an_encrypted_key_may_be_given_by_themselves() {
    let secure = shared();
    let topic = filled(secure, "inline", 5);
    let (certificate, key) = secure.authority().sign("client", 2100).given(PASSWORD);
    let authority = std::fs::read_to_string(secure.file("ca.pem")).expect("written");
    let group = format!("{topic}-group");
    let said = [
        ("security.protocol", "SSL"),
        ("ssl.ca.pem", &*authority),
        ("ssl.certificate.pem", &*certificate),
        ("ssl.key.pem", &*key),
        ("ssl.key.password", PASSWORD),
    ];
    let backup = Backup::of_brokers(&secure.address("MTLS"), &[&topic]).source("group_id", &group);
    let backup = said.iter().fold(backup, |backup, (name, value)| backup.kafka(name, value));
    let mut agent = backup.run();
    wait_archived(secure, &mut agent, &backup, &topic);
    agent.wait_until("the group's member is let in too", |agent| {
        (agent.metric("kafka_backup_group_partitions") == 2.0).then_some(())
    });
    agent.terminate();
    let wrong = backup.kafka("ssl.key.password", "another-one").backup();
    wrong.fails_with(2, &["the password does not decrypt the key", "`ssl.key.password`"]);
}

#[test]
fn capture_goes_on_over_the_end_of_its_sessions() {
    let secure = shared();
    let listeners = ["PLAIN", "SCRAM256", "TLSSCRAM512", "TLSOAUTH"];
    let agents: Vec<_> = listeners
        .iter()
        .map(|listener| {
            let topic = filled(secure, "sessions", 10);
            let backup = backup(secure, listener, &[&topic]);
            let agent = backup.run_with(&[("RUST_LOG", "kafka_backup=debug")]);
            (topic, backup, agent)
        })
        .collect();
    for (topic, backup, mut agent) in agents {
        let anew = |agent: &Agent| agent.log().matches(SAID_ANEW).count();
        agent.wait_until("a third session", |agent| {
            write(secure, &topic, 5);
            (anew(agent) >= 4).then_some(())
        });
        wait_archived(secure, &mut agent, &backup, &topic);
        let log = agent.log();
        assert!(!log.contains("was lost") && !log.contains(PASSWORD), "{log}");
        agent.terminate();
        assert_archived(secure, &backup, &topic);
    }
    assert!(secure.tokens().given() > 1, "a token is renewed before it is over");
}

#[test]
fn a_restore_goes_on_over_the_end_of_its_sessions() {
    let secure = shared();
    let topic = filled(secure, "long", 4_000);
    let backup = backup(secure, "CLEAR", &[&topic]);
    let _ = backup.backup().ok();
    let bytes: usize = (0..2).map(|partition| backup.chain(&topic, partition).bytes().len()).sum();
    let rate = format!("max_bytes_per_second = \"{}B\"\n", bytes as u64 / LASTS.as_secs());
    let listeners = ["SCRAM512", "TLSPLAIN"];
    std::thread::scope(|scope| {
        for listener in listeners {
            let (topic, backup, rate) = (&topic, &backup, &rate);
            drop(scope.spawn(move || {
                let target = format!("{topic}-{}", listener.to_lowercase());
                let config = restore_config(secure, listener, backup, (topic, &target), rate);
                let done = restore(backup, &config, &[("RUST_LOG", "kafka_backup=debug")]);
                assert!(done.stderr.matches(SAID_ANEW).count() >= 2, "{}", done.stderr);
                assert!(!done.stderr.contains("was lost"), "{}", done.stderr);
                let _ = done.ok();
                assert_eq!(held(secure, &target), held(secure, topic), "{listener}");
            }));
        }
    });
}

#[test]
fn no_secret_is_in_what_is_kept_or_told() {
    let secure = shared();
    let topic = filled(secure, "secrets", 5);
    for listener in ["TLSPLAIN", "TLSOAUTH"] {
        let backup = backup(secure, listener, &[&topic]);
        let mut agent = backup.run_with(&[("RUST_LOG", "trace")]);
        wait_archived(secure, &mut agent, &backup, &topic);
        let pages = ["/metrics", "/connectors?expand=info&expand=status", "/connectors/test/config", "/v1/backups"];
        let told: BTreeSet<String> = pages.iter().filter_map(|page| agent.get(page)).map(|(_, text)| text).collect();
        assert!(told.len() > 1, "{told:?}");
        assert!(told.iter().all(|text| !text.contains(PASSWORD)), "{told:?}");
        wait_for("the agent has told much", || (agent.log().len() > 1_000).then_some(()));
        assert!(!agent.log().contains(PASSWORD), "{}", agent.log());
        agent.terminate();
    }
}
