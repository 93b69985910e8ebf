//! Passwords, certificates and tokens in files that are changed while an agent runs: it goes on, as a member of its group too,
//! without a restart, and nothing is lost.

use std::fs;
use std::path::Path;

use super::{assert_archived, backup, wait_archived, write};
use crate::support::agent::{Agent, Backup};
use crate::support::secure::{Authority, CHANGED, Secure, token};

/// An agent of a group of its own.
struct Running {
    topic: String,
    group: String,
    backup: Backup,
    agent: Agent,
}

impl Running {
    fn start(secure: &Secure, listener: &str, change: &[(&str, &str)]) -> Self {
        let topic = super::filled(secure, "changes", 10);
        let group = format!("{topic}-group");
        let backup = backup(secure, listener, &[&topic]).source("group_id", &group);
        let backup = change.iter().fold(backup, |backup, (name, value)| backup.kafka(name, value));
        let agent = backup.run();
        let mut running = Self { topic, group, backup, agent };
        running.goes_on(secure);
        running
    }

    /// Waits until everything is archived and, by the group's member, committed.
    #[track_caller]
    fn goes_on(&mut self, secure: &Secure) {
        wait_archived(secure, &mut self.agent, &self.backup, &self.topic);
        let ends = secure.kafka().ends(&self.topic);
        self.agent.wait_until("what is durable is committed", |_| {
            let committed = secure.kafka().committed(&self.group, &self.topic);
            (0..).zip(&ends).all(|(partition, end)| committed.get(&partition) == Some(end)).then_some(())
        });
    }
}

#[test]
fn a_password_and_a_certificate_are_changed_while_agents_run_and_nothing_is_lost() {
    let mut secure = Secure::start();
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let shown = |path: &Path| path.display().to_string();
    fs::write(file("password"), crate::support::secure::PASSWORD).expect("written");
    secure.authority().sign("client", 2100).write(&file("client"));
    fs::write(file("token"), token(3_600)).expect("written");
    let password = format!("${{file:{}}}", file("password").display());
    let by_password = [("sasl.username", CHANGED), ("sasl.password", &*password)];
    let (certificate, key) = (shown(&file("client.crt")), shown(&file("client.key")));
    let by_certificate = [("ssl.certificate.location", &*certificate), ("ssl.key.location", &*key)];
    let url = format!("file://{}", file("token").display());
    let by_token = [("sasl.oauthbearer.token.endpoint.url", &*url)];
    let mut agents = [
        Running::start(&secure, "TLSSCRAM256", &by_password),
        Running::start(&secure, "MTLS", &by_certificate),
        Running::start(&secure, "OAUTH", &by_token),
    ];
    // The broker changes first, and ends every connection.
    secure.change_password(CHANGED, "hush-anew");
    let next = Authority::new("next");
    next.write(Path::new(&secure.file("clients-ca.pem")));
    fs::write(file("token"), "no token").expect("written");
    secure.kafka_mut().stop();
    secure.kafka_mut().start_again();
    for running in &mut agents {
        write(&secure, &running.topic, 20);
    }
    for (running, words) in agents.iter_mut().zip(["refuses our SCRAM-SHA-256", "our certificate", "OAUTHBEARER"]) {
        running.agent.wait_until("it is refused", |agent| agent.log().contains(words).then_some(()));
    }
    next.sign("client", 2100).write(&file("client"));
    fs::write(file("password"), "hush-anew\n").expect("written");
    fs::write(file("token"), token(3_600)).expect("written");
    for running in &mut agents {
        running.goes_on(&secure);
    }
    for running in agents {
        let log = running.agent.log();
        assert!(!log.contains("hush-"), "{log}");
        running.agent.terminate();
        assert_archived(&secure, &running.backup, &running.topic);
    }
}
