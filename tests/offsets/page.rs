//! The user's page: its topics, records and groups are made, its commands run, and what they print is held against the page
//! itself, line by line. The script that it shows is run with Kafka's own tool.

use std::fs;
use std::path::Path;
use std::process::Command;

use kafka_backup::kafka::client::OPEN_WITHIN;
use kafka_backup::kafka::{Client, Properties};

use super::{committed, second};
use crate::support::agent::{Backup, Ended, ended, program_with};
use crate::support::block_on;
use crate::support::clients::{Application, commit, fill, install};
use crate::support::kafka::Kafka;
use crate::support::wait_for;

const BACKUP: &str = "production-backup-001";
/// The page's cluster.
const BROKERS: &str = "kafka:9092";

/// Topic, partition, records, and where the group is that reads it.
const PARTITIONS: [(&str, i32, usize, i64); 5] = [
    ("orders", 0, 150_234, 150_233),
    ("orders", 1, 148_892, 148_891),
    ("orders", 2, 152_457, 152_456),
    ("payments", 0, 78_235, 78_234),
    ("payments", 1, 76_544, 76_543),
];
const GROUPS: [(&str, &str); 2] = [("order-processor", "orders"), ("payment-service", "payments")];

/// Returns the block of the page that begins with a line.
fn block(first: &str) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/offset-management.md")).expect("the page");
    let blocks =
        page.split("```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap_or_default().1.to_owned());
    let mut found: Vec<String> = blocks.filter(|block| block.starts_with(first)).collect();
    assert_eq!(found.len(), 1, "blocks that begin with `{first}`");
    found.remove(0)
}

/// Asserts that each line of the page is the beginning of one of ours, in order, and that ours besides are the heads of later
/// groups' tables and the rules below them.
#[track_caller]
fn assert_plan(ours: &str, page: &str) {
    let mut page = page.trim_end().lines().peekable();
    for line in ours.trim_end().lines() {
        if page.peek().is_some_and(|wanted| line.starts_with(*wanted) && line.is_empty() == wanted.is_empty()) {
            let _ = page.next();
        } else {
            assert!(
                line.starts_with("Topic ") || line.starts_with('─'),
                "`{line}`; next `{:?}` in:\n{ours}",
                page.peek()
            );
        }
    }
    assert_eq!(page.next(), None, "not in:\n{ours}");
}

/// Returns a page with each digit of ids and times made alike, and rules of one length.
fn without_times(page: &str) -> Vec<String> {
    let line = |line: &str| {
        let (times, rest) = line.split_at(line.char_indices().nth(48).map_or(line.len(), |(at, _)| at));
        let times: String = times.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        let line = times + rest;
        if line.starts_with('─') { "─".to_owned() } else { line }
    };
    page.trim_end().lines().map(line).collect()
}

/// Makes the page's topics, records and groups.
fn make(kafka: &Kafka) {
    for (topic, partitions) in [("orders", 3), ("payments", 2)] {
        kafka.create(topic, partitions, &[]);
    }
    PARTITIONS.iter().for_each(|(topic, partition, records, _)| fill(kafka, topic, *partition, *records));
    for (topic, partition, records, _) in PARTITIONS {
        assert_eq!(kafka.ends(topic)[partition as usize], records as i64);
    }
    for (group, reads) in GROUPS {
        let of = PARTITIONS.iter().filter(|(topic, ..)| *topic == reads);
        commit(kafka, group, &of.map(|(topic, partition, _, next)| (*topic, *partition, *next)).collect::<Vec<_>>(), 0);
    }
}

/// Backs them up.
fn back_up(kafka: &Kafka) -> Backup {
    let backup = Backup::of(kafka, &["orders", "payments"]).sink("roll_bytes", "64MiB");
    let backup = backup.source_list("groups", &GROUPS.map(|(group, _)| group));
    let config = backup.config().replace("backup_id = \"test\"", &format!("backup_id = {BACKUP:?}"));
    let mut pass = backup.start_config("backup", &config, &[]);
    assert!(pass.wait().success(), "{}", pass.log());
    backup
}

/// Loses the groups, with all that they have committed.
fn lose(kafka: &Kafka) {
    block_on(async {
        let servers = [("bootstrap.servers".to_owned(), kafka.brokers().to_owned())];
        let client =
            Client::open(Properties::new(servers.into()).expect("right"), OPEN_WITHIN).await.expect("it is there");
        for (group, _) in GROUPS {
            client.delete_group(group).await.expect("it has no members");
        }
    });
}

/// Runs a generated script with Kafka's own tool.
fn run_script(script: &Path, tools: &Path) -> Ended {
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").expect("a path"));
    ended(Command::new("bash").arg(script).env("PATH", path).stdin(std::process::Stdio::null()))
}

#[test]
fn what_the_users_page_shows_is_what_its_commands_print() {
    let kafka = second();
    make(kafka);
    let backup = back_up(kafka);
    let of = ["--path", backup.archive(), "--backup-id", BACKUP];
    let cluster = ["--bootstrap-servers", kafka.brokers()];
    let run = |verb: &[&str], more: &[&str]| program_with(&[verb, &of, more].concat());
    let mapping = run(&["show-offset-mapping"], &[]).ok();
    assert_eq!(mapping.trim_end(), block("Offset Mapping: ").trim_end());

    let snapshots = backup.folder().join("snapshots").display().to_string();
    let snapshot = |description: &str| {
        let groups = ["--groups", "order-processor,payment-service", "--description", description];
        let verb = ["offset-rollback", "snapshot", "--path", &snapshots];
        program_with(&[&verb, &groups[..], &cluster].concat()).ok()
    };
    let _ = snapshot("Before migration");
    // Those of one second have a suffix.
    let second = || jiff::Timestamp::now().as_second();
    let taken = second();
    wait_for("the next second", || (second() > taken).then_some(()));
    let _ = snapshot("Before restore");
    lose(kafka);
    let list = program_with(&["offset-rollback", "list", "--path", &snapshots]).ok();
    assert_eq!(without_times(&list), without_times(&block("Offset Snapshots")), "{list}");

    let groups = ["--groups", "order-processor,payment-service"];
    let plan = run(&["offset-reset", "plan"], &[&groups[..], &cluster].concat()).ok();
    assert_plan(&plan, &block("Offset Reset Plan"));
    assert!(GROUPS.iter().all(|(group, _)| committed(kafka, group).is_empty()), "a plan changes nothing");

    // Done, and taken back to where there was nothing; then by the script, run as the page says.
    let of_orders = [&["--groups", "order-processor"][..], &cluster].concat();
    let done = run(&["offset-reset", "execute"], &of_orders);
    let id = done.stderr.split_whitespace().find(|word| word.starts_with("snapshot-")).expect("an id").to_owned();
    let _ = done.ok();
    let set = committed(kafka, "order-processor");
    let back = ["--snapshot-id", &id];
    let _ = run(&["offset-rollback", "rollback"], &[&back[..], &cluster].concat()).ok();
    assert!(committed(kafka, "order-processor").is_empty(), "it had committed nothing");
    let script = backup.folder().join("reset-offsets.sh");
    let output = ["--output", script.to_str().expect("UTF-8")];
    let _ = run(&["offset-reset", "script"], &[&of_orders[..], &output].concat()).ok();
    assert_script(&fs::read_to_string(&script).expect("it is written"), kafka.brokers());
    let tools = backup.folder().join("tools");
    fs::create_dir(&tools).expect("the folder is writable");
    install(&tools, "kafka-consumer-groups", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand");
    let _ = run_script(&script, &tools).ok();
    assert_eq!(committed(kafka, "order-processor"), set);
    let wanted = PARTITIONS.iter().filter(|(topic, ..)| *topic == "orders");
    let wanted = wanted.map(|(topic, partition, _, next)| (((*topic).to_owned(), *partition), *next));
    assert_eq!(set, wanted.collect());

    // Kafka's tool ends well whatever becomes of an offset, and so would a script that only looked at that.
    let reader = Application { kafka, group: "order-processor", protocol: "classic" };
    let member = reader.join("orders");
    let failed = run_script(&script, &tools);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("partition 0 of orders was not set"), "{failed:?}");
    assert_eq!(failed.stdout.matches("Error:").count(), 1, "nothing is tried behind it: {failed:?}");
    drop(member);
}

/// Asserts that a script holds the lines of the page's in their order, but for the time and for the words that stand for more.
#[track_caller]
fn assert_script(script: &str, brokers: &str) {
    let mut ours = script.lines();
    let page = block("#!/bin/bash").replace(BROKERS, brokers);
    for line in page.trim_end().lines().filter(|line| !line.is_empty() && *line != "# ... more commands") {
        let line = line.find("Generated: ").map_or(line, |_| "# Generated: ");
        let is_it = |ours: &str| ours == line || (line.ends_with(": ") && ours.starts_with(line));
        assert!(ours.any(is_it), "`{line}` is not, or not there, in:\n{script}");
    }
}
