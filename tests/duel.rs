//! Two agents that write the same backup: the chain stays whole, whoever wins a segment.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::agent::{Agent, Backup};
use crate::support::chain::assert_same;
use crate::support::kafka::Kafka;
use crate::support::wait_for;
use crate::support::workload::{Contents, Load, Writer};

/// What the loser of a race says.
const LOST: &str = "another writer";

fn segments(backup: &Backup, topic: &str, partitions: i32) -> usize {
    (0..partitions).map(|partition| backup.chain(topic, partition).0.len()).sum()
}

/// Waits until the archive holds all of the topic; its bytes are the broker's.
fn wait_until_whole(kafka: &Kafka, backup: &Backup, topic: &str) {
    for partition in 0..kafka.partitions(topic) {
        let log = kafka.log_bytes(topic, partition);
        wait_for("the archive has caught up", || {
            (backup.chain(topic, partition).bytes().len() >= log.len()).then_some(())
        });
        assert_same(&format!("{topic}-{partition}"), &backup.chain(topic, partition).bytes(), &log);
    }
    let _ = backup.command("verify", &["--deep"]).ok();
}

fn races_lost(agent: &Agent) -> usize {
    agent.log().matches(LOST).count()
}

#[test]
fn an_agent_that_was_stopped_across_rolls_of_another_says_so_and_goes_on() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("duel", 2, &[]);
    let load = Load::start(kafka, &topic, 10, Duration::from_millis(25));
    let first = Backup::of(kafka, &[&topic]).sink("roll_bytes", "24KiB").sink("roll_interval", "500ms");
    let second = Backup::of(kafka, &[&topic]).sink("roll_bytes", "40KiB").sink("roll_interval", "700ms");
    let second = second.path(first.archive());
    let mut agents = [first.run(), second.run()];
    for (stopped, other) in [(0, 1), (1, 0), (0, 1)] {
        let before = segments(&first, &topic, 2);
        agents[stopped].wait_until("both have begun", |agent| {
            (agent.metric("kafka_backup_last_stable_offset") > 0.0).then_some(())
        });
        agents[stopped].signal(Signal::SIGSTOP);
        agents[other].wait_until("the other rolls", |_| (segments(&first, &topic, 2) >= before + 8).then_some(()));
        let lost = races_lost(&agents[stopped]);
        agents[stopped].signal(Signal::SIGCONT);
        agents[stopped].wait_until("it says that it lost", |agent| (races_lost(agent) > lost).then_some(()));
    }
    load.end();
    wait_until_whole(kafka, &first, &topic);
    assert!(agents.iter_mut().all(Agent::runs), "both still run");
    // Both go on: what is written now has two takers again.
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 100, 300));
    wait_until_whole(kafka, &first, &topic);
    agents.into_iter().for_each(Agent::terminate);
    wait_until_whole(kafka, &first, &topic);
}

#[test]
fn two_passes_at_once_make_one_archive() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("duel-passes", 3, &[]);
    let _ = Writer::new(kafka, &[("linger.ms", "2")]).write(&topic, &Contents::new().records(3, 2000, 500));
    let first = Backup::of(kafka, &[&topic]).sink("roll_bytes", "64KiB");
    let second = Backup::of(kafka, &[&topic]).sink("roll_bytes", "100KiB").path(first.archive());
    let mut passes = [first.start("backup", &[]), second.start("backup", &[])];
    for pass in &mut passes {
        assert_eq!(pass.wait().code(), Some(0), "{}", pass.log());
    }
    wait_until_whole(kafka, &first, &topic);
}

#[test]
fn an_agent_that_loses_a_race_while_it_ends_still_leaves_everything_it_held_in_the_archive() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("duel-end", 1, &[]);
    let (writer, mut contents) = (Writer::new(kafka, &[]), Contents::new());
    let seen =
        |records: f64| move |agent: &Agent| (agent.metric("kafka_backup_last_stable_offset") >= records).then_some(());
    let slow = Backup::of(kafka, &[&topic]).sink("roll_bytes", "1GiB").sink("roll_interval", "1h");
    let _ = writer.write(&topic, &contents.records(1, 100, 300));
    let mut agent = slow.run();
    agent.wait_until("it holds the first records", seen(100.0));
    // Another writer takes the place that the agent's segment will be named for, and ends before it.
    let _ = Backup::of(kafka, &[&topic]).path(slow.archive()).backup().ok();
    let _ = writer.write(&topic, &contents.records(1, 50, 300));
    agent.wait_until("it holds more than the other", seen(150.0));
    agent.terminate();
    assert_eq!(slow.chain(&topic, 0).next(), 150);
    wait_until_whole(kafka, &slow, &topic);
}
