//! SIGHUP: the file is read again, and what is as it was is not touched.

use std::fmt::Write as _;

use nix::sys::signal::Signal;

use super::task_state_of;
use crate::support::agent::{Agent, Backup, program_with};
use crate::support::kafka::Kafka;
use crate::support::wait_for;
use crate::support::workload::{Contents, Writer};

/// Writes a file of pipelines: name, topic and `roll_interval`; each has a backup of its name.
fn file(backup: &Backup, pipelines: &[(&str, &str, &str)]) -> String {
    let mut text = "[agent]\nlisten = \"127.0.0.1:0\"\n".to_owned();
    let (brokers, path) = (Kafka::shared().brokers(), backup.archive());
    for (name, topic, roll_interval) in pipelines {
        let _ = write!(
            text,
            "[[pipeline]]\nname = {name:?}\n[pipeline.source]\ntype = \"kafka\"\ntopics = [{topic:?}]\n\
             kafka = {{ \"bootstrap.servers\" = {brokers:?} }}\n[pipeline.sink]\ntype = \"archive\"\n\
             backup_id = {name:?}\npath = {path:?}\nroll_interval = {roll_interval:?}\n"
        );
    }
    text
}

fn held(backup: &Backup, backup_id: &str, topic: &str) -> usize {
    let ended = program_with(&["cat", "--path", backup.archive(), "--backup-id", backup_id, "--topic", topic]);
    if ended.code == Some(0) { ended.stdout.lines().count() } else { 0 }
}

fn write(topic: &str) {
    let _ = Writer::new(Kafka::shared(), &[]).write(topic, &Contents::new().records(1, 20, 100));
}

fn run(agent: &mut Agent, names: &[&str]) {
    for name in names {
        agent.wait_until(name, |agent| (task_state_of(agent, name)? == "RUNNING").then_some(()));
    }
}

#[test]
fn the_file_is_read_again_and_what_is_as_it_was_is_not_touched() {
    let kafka = Kafka::shared();
    let topics = ["same", "gone", "other", "new"].map(|name| kafka.topic(&format!("reload-{name}"), 1, &[]));
    let [same, gone, other, new] = topics.each_ref().map(String::as_str);
    let backup = Backup::of(kafka, &[same]);
    let before = file(&backup, &[("same", same, "1s"), ("gone", gone, "1h"), ("other", other, "1h")]);
    let mut agent = backup.run_config(&before, &[]);
    run(&mut agent, &["same", "gone", "other"]);
    topics.iter().for_each(|topic| write(topic));
    for name in ["gone", "other"] {
        agent.wait_until("it has read", |agent| {
            agent.get(&format!("/connectors/{name}/topics"))?.1.contains("reload-").then_some(())
        });
    }
    agent.rewrite(&file(&backup, &[("new", new, "1s"), ("same", same, "1s"), ("other", other, "1s")]));
    agent.signal(Signal::SIGHUP);
    let said = "of the pipelines 1 are new, 1 are gone, 1 are configured otherwise, 1 are as they were";
    agent.wait_until("it says so", |agent| agent.log().contains(said).then_some(()));
    assert_eq!(agent.get("/connectors/gone").map(|(status, _)| status), Some(404));
    assert_eq!(agent.get("/connectors").expect("an answer").1, "[\"new\",\"same\",\"other\"]");
    run(&mut agent, &["new", "same", "other"]);
    agent.wait_until("it has closed", |agent| agent.log().contains("closed pipeline=\"gone\"").then_some(()));
    assert_eq!(held(&backup, "gone", gone), 20, "it closed durably");
    [same, gone, other, new].iter().for_each(|topic| write(topic));
    for (name, topic) in [("new", new), ("same", same), ("other", other)] {
        wait_for("it has caught up", || (held(&backup, name, topic) == 40).then_some(()));
        let _ = program_with(&["verify", "--deep", "--path", backup.archive(), "--backup-id", name]).ok();
    }
    let log = agent.log();
    assert_eq!(log.matches("capturing pipeline=\"same\"").count(), 1, "it was not touched:\n{log}");
    assert_eq!(log.matches("capturing pipeline=\"other\"").count(), 2, "{log}");
    assert_eq!(held(&backup, "gone", gone), 20, "it captures no more");
    agent.wait_until("all is well", |agent| (agent.get("/readyz")?.0 == 200).then_some(()));
    agent.terminate();
}

#[test]
fn a_file_that_is_wrong_changes_nothing() {
    let kafka = Kafka::shared();
    let (topic, other) = (kafka.topic("reload", 1, &[]), kafka.topic("reload-other", 1, &[]));
    let backup = Backup::of(kafka, &[&topic]);
    let right = file(&backup, &[("a", &topic, "1s")]);
    let mut agent = backup.run_config(&right, &[]);
    run(&mut agent, &["a"]);
    let stage = "[[pipeline.stage]]\nplugin = \"/nowhere/x.wasm\"\n";
    let with_stage =
        file(&backup, &[("b", &other, "1s")]).replace("[pipeline.sink]", &format!("{stage}[pipeline.sink]"));
    for (count, (text, why)) in (1..).zip([
        ("[[pipeline]".to_owned(), ".toml:1:"),
        (file(&backup, &[("b", &other, "soon")]), "roll_interval"),
        (with_stage, "there is no plugin /nowhere/x.wasm"),
        (right.replace("[agent]", "[[agent]]"), "must be a table"),
    ]) {
        agent.rewrite(&text);
        agent.signal(Signal::SIGHUP);
        let line = agent.wait_until("it says so", |agent| {
            let log = agent.log();
            let mut lines = log.lines().filter(|line| line.contains("SIGHUP: nothing is changed: "));
            lines.nth(count - 1).map(str::to_owned)
        });
        assert!(line.contains(why), "{line}");
        assert_eq!(agent.get("/connectors").expect("an answer").1, "[\"a\"]");
    }
    write(&topic);
    wait_for("it captures", || (held(&backup, "a", &topic) == 20).then_some(()));
    agent.terminate();
}
