//! `offset-reset`: what is planned, held against Kafka's own tool; what is refused; and where positions and places come from.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::Value;

use crate::restore::Restore;
use crate::support::agent::{Backup, Ended, program_with};
use crate::support::kafka::{Kafka, tool};
use crate::support::reader::Record;
use crate::support::wait_for;
use crate::support::workload::{Contents, Writer};

/// The time of the first record of each partition.
const BEGAN: i64 = 1_732_000_000_000;

/// Runs `offset-reset`.
fn reset(verb: &str, kafka: &Kafka, group: &str, arguments: &[&str]) -> Ended {
    let of = ["offset-reset", verb, "--groups", group, "--bootstrap-servers", kafka.brokers()];
    program_with(&[&of, arguments].concat())
}

/// Runs Kafka's own tool for a group; returns its lines, sorted.
fn kafkas(kafka: &Kafka, group: &str, arguments: &[&str]) -> Vec<String> {
    let of = ["--bootstrap-server", kafka.brokers(), "--group", group, "--reset-offsets"];
    let class = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    sorted(&tool(class, &[&of, arguments].concat()))
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Makes a topic of two partitions of a hundred records, one a second, and a group at 40 and 60.
fn topic_and_group(kafka: &Kafka, theme: &str) -> (String, String) {
    let topic = kafka.topic(theme, 2, &[("message.timestamp.type", "CreateTime")]);
    let mut contents = Contents::new();
    let record = |number: usize| Record {
        timestamp: BEGAN + 1000 * (number as i64 / 2),
        ..contents.record((number % 2) as i32, number, 50)
    };
    let records: Vec<Record> = (0..200).map(record).collect();
    let _ = Writer::new(kafka, &[]).write(&topic, &records);
    let group = format!("{topic}-readers");
    kafka.commit(&group, &topic, 0, 40);
    kafka.commit(&group, &topic, 1, 60);
    (topic, group)
}

/// Backs a topic up, with a savepoint that has the group.
fn backed_up(kafka: &Kafka, topics: &[&str], group: &str) -> Backup {
    let backup = Backup::of(kafka, topics).source_list("groups", &[group]);
    let _ = backup.backup().ok();
    backup
}

/// Returns (topic, partition) with (target, action) of the only group of a plan.
#[track_caller]
fn rows(ended: &Ended) -> BTreeMap<(String, i64), (Option<i64>, String)> {
    let plan: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let row = |row: &Value| {
        let key = (row["topic"].as_str().expect("text").to_owned(), row["partition"].as_i64().expect("a number"));
        (key, (row["target"]["offset"].as_i64(), row["action"]["do"].as_str().expect("text").to_owned()))
    };
    plan["groups"][0]["rows"].as_array().expect("rows").iter().map(row).collect()
}

fn at(offsets: [i64; 2]) -> BTreeMap<i32, i64> {
    (0..).zip(offsets).collect()
}

#[test]
fn selectors_say_what_those_of_kafkas_own_tool_say() {
    let kafka = Kafka::shared();
    let (topic, group) = topic_and_group(kafka, "selectors");
    kafka.delete_records(&topic, 0, 10);
    let second = format!("{topic}:1");
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), format!("{topic},0,33\n{topic},1,44\n")).expect("written");
    let file = file.path().to_str().expect("UTF-8").to_owned();
    for selector in [
        &["--to-earliest", "--topic", &topic][..],
        &["--to-latest", "--all-topics"],
        &["--to-current", "--topic", &second],
        &["--to-offset", "55", "--topic", &topic],
        &["--shift-by", "-7", "--topic", &topic],
        &["--shift-by", "13", "--all-topics"],
        &["--to-datetime", "2024-11-19T07:07:10.500", "--topic", &topic],
        &["--to-datetime", "2024-11-19T09:07:10.500+02:00", "--topic", &second],
        &["--to-datetime", "2030-01-01T00:00:00.000", "--topic", &topic],
        &["--by-duration", "P1D", "--topic", &topic],
        &["--from-file", &file],
    ] {
        let ours = reset("plan", kafka, &group, &[selector, &["--export"]].concat()).ok();
        assert_eq!(
            sorted(&ours),
            kafkas(kafka, &group, &[selector, &["--dry-run", "--export"]].concat()),
            "{selector:?}"
        );
    }
    assert_eq!(kafka.committed(&group, &topic), at([40, 60]), "a plan changes nothing");
}

#[test]
fn what_one_of_the_two_exports_the_other_reads() {
    let kafka = Kafka::shared();
    let (topic, group) = topic_and_group(kafka, "exports");
    let folder = tempfile::tempdir().expect("a folder");
    let file = |text: &str| {
        let file = folder.path().join("offsets.csv");
        fs::write(&file, text).expect("written");
        file.to_str().expect("UTF-8").to_owned()
    };
    let ours = reset("plan", kafka, &group, &["--shift-by", "5", "--all-topics", "--export"]).ok();
    let _ = kafkas(kafka, &group, &["--from-file", &file(&ours), "--execute"]);
    assert_eq!(kafka.committed(&group, &topic), at([45, 65]));
    let theirs = kafkas(kafka, &group, &["--shift-by", "-20", "--all-topics", "--dry-run", "--export"]).join("\n");
    let _ = reset("execute", kafka, &group, &["--from-file", &file(&theirs), "--no-snapshot"]).ok();
    assert_eq!(kafka.committed(&group, &topic), at([25, 45]));
}

#[test]
fn a_plan_that_was_kept_is_performed_as_it_is_or_not_at_all() {
    let kafka = Kafka::shared();
    let (topic, group) = topic_and_group(kafka, "kept-plan");
    let backup = backed_up(kafka, &[&topic], &group);
    kafka.commit(&group, &topic, 0, 90);
    let of = ["--path", backup.archive(), "--backup-id", "test"];
    let plan = reset("plan", kafka, &group, &[&of[..], &["--format", "json"]].concat());
    let wanted = [(0, (Some(40), "set")), (1, (Some(60), "same"))];
    let wanted = wanted.map(|(at, (offset, action))| ((topic.clone(), at), (offset, action.to_owned())));
    assert_eq!(rows(&plan), wanted.into());
    let file = backup.folder().join("plan.json");
    fs::write(&file, plan.ok()).expect("written");
    let of_cluster = ["--bootstrap-servers", kafka.brokers(), "--plan-file", file.to_str().expect("UTF-8")];
    let execute = || program_with(&[&["offset-reset", "execute"], &of_cluster[..], &of].concat());
    // Somebody has read on.
    kafka.commit(&group, &topic, 0, 95);
    execute().fails_with(1, &["the cluster is no longer as the plan saw it", "plan again"]);
    assert_eq!(kafka.committed(&group, &topic), at([95, 60]));
    kafka.commit(&group, &topic, 0, 90);
    let done = execute();
    assert!(done.stderr.contains("undo with: kafka-backup offset-rollback rollback --path "), "{done:?}");
    assert!(done.ok().contains("\nPartitions set: 1 in 1 group"));
    assert_eq!(kafka.committed(&group, &topic), at([40, 60]));
    // It is as it is to be.
    let _ = execute().ok();
}

#[test]
fn where_nothing_can_be_kept_nothing_is_changed_unless_that_is_wanted() {
    let kafka = Kafka::shared();
    let (topic, group) = topic_and_group(kafka, "unkept");
    let to = ["--to-offset", "7", "--topic", &topic];
    reset("execute", kafka, &group, &to).fails_with(2, &["can be kept nowhere", "--no-snapshot"]);
    assert_eq!(kafka.committed(&group, &topic), at([40, 60]));
    let _ = reset("execute", kafka, &group, &[&to[..], &["--dry-run"]].concat()).ok();
    assert_eq!(kafka.committed(&group, &topic), at([40, 60]));
    let folder = tempfile::tempdir().expect("a folder");
    let state = ["--state", folder.path().to_str().expect("UTF-8")];
    let _ = reset("execute", kafka, &group, &[&to[..], &state].concat()).ok();
    assert_eq!(kafka.committed(&group, &topic), at([7, 7]));
    assert_eq!(fs::read_dir(folder.path().join("snapshots")).expect("the snapshots").count(), 1);
}

#[test]
fn a_group_that_has_members_is_planned_when_it_has_none_any_more() {
    let kafka = Kafka::shared();
    let (topic, group) = topic_and_group(kafka, "waited-for");
    let properties = [("group.id", &*group), ("client.id", "shop-7"), ("enable.auto.commit", "false")];
    let member: BaseConsumer = kafka.client(&properties).create().expect("a consumer");
    member.subscribe(&[&topic]).expect("subscribed");
    wait_for("it is given its partitions", || {
        let _ = member.poll(Duration::from_millis(50));
        member.assignment().is_ok_and(|assigned| assigned.count() == 2).then_some(())
    });
    let to = ["--to-earliest", "--topic", &topic];
    for more in [&[][..], &["--wait-until-empty", "1s"]] {
        let refused = reset("plan", kafka, &group, &[&to[..], more].concat());
        refused.fails_with(1, &["Consumer group has active members; "]);
        assert!(refused.stdout.contains("\nMember: shop-7 on /127.0.0.1\n"), "{refused:?}");
    }
    drop(member);
    let planned = reset("plan", kafka, &group, &[&to[..], &["--wait-until-empty=60s"]].concat());
    assert!(planned.ok().ends_with("\nTotal partitions to reset: 2\n"));
}

#[test]
fn a_topic_that_is_mistyped_is_named_and_one_without_a_choice_is_asked_for() {
    let kafka = Kafka::shared();
    let (topic, group) = topic_and_group(kafka, "typed");
    let other = format!("{topic}-x");
    let words = [&*other, "is not on the cluster", "--list"];
    reset("plan", kafka, &group, &["--to-earliest", "--topic", &other]).fails_with(1, &words);
    reset("plan", kafka, &group, &["--to-earliest"]).fails_with(2, &["no topic is named", "--all-topics"]);
    reset("plan", kafka, &group, &[]).fails_with(2, &["--path"]);
    let beyond = reset("plan", kafka, &group, &["--to-earliest", "--topic", &format!("{topic}:7")]);
    beyond.fails_with(1, &["has only 2 partitions"]);
}

#[test]
fn positions_are_those_of_a_savepoint_a_snapshot_a_cluster_or_another_group() {
    let kafka = Kafka::shared();
    let (topic, group) = topic_and_group(kafka, "whence");
    let backup = backed_up(kafka, &[&topic], &group);
    let of = ["--path", backup.archive(), "--backup-id", "test"];
    kafka.commit(&group, &topic, 0, 90);
    let done = reset("execute", kafka, &group, &[&of[..], &["--to-offset", "5", "--topic", &topic]].concat());
    let id =
        done.stderr.split_whitespace().find(|word| word.starts_with("snapshot-")).expect("there is one").to_owned();
    let _ = done.ok();
    let planned = |from: &str| {
        let more = ["--positions", from, "--format", "json"];
        let planned = rows(&reset("plan", kafka, &group, &[&of[..], &more].concat()));
        planned.into_values().map(|(offset, _)| offset.unwrap_or(-1)).collect::<Vec<_>>()
    };
    let year = "savepoint:2999-01-01T00:00:00Z";
    assert_eq!((planned(year), planned(&format!("snapshot:{id}"))), (vec![40, 60], vec![90, 60]));
    assert_eq!(planned(&format!("source:{}", kafka.brokers())), [5, 5]);
    let other = format!("{group}-other");
    kafka.commit(&other, &topic, 0, 11);
    kafka.commit(&other, &topic, 1, 12);
    let beside = format!("group:{other}");
    assert_eq!(planned(&beside), [11, 12]);
    let mistyped = format!("{group}-mistyped");
    let not_found = format!("Consumer group '{mistyped}' not found");
    reset("plan", kafka, &mistyped, &["--positions", &beside]).fails_with(1, &[&not_found, "--create-group"]);
    let nobody = ["--positions", "group:nobody-at-all"];
    reset("plan", kafka, &group, &nobody).fails_with(1, &["Consumer group 'nobody-at-all' not found"]);
    let early = [&of[..], &["--positions", "savepoint:2001-01-01T00:00:00Z"]].concat();
    reset("plan", kafka, &group, &early).fails_with(2, &["there is no savepoint", "the newest is"]);
}

#[test]
fn places_are_those_of_the_newest_restore_unless_another_one_brought_other_topics() {
    let kafka = Kafka::shared();
    let ((first, group), (second, _)) = (topic_and_group(kafka, "place-a"), topic_and_group(kafka, "place-b"));
    kafka.commit(&group, &second, 0, 8);
    let backup = backed_up(kafka, &[&first, &second], &group);
    let of = ["--path", backup.archive(), "--backup-id", "test", "--format", "json"];
    let planned = |more: &[&str]| reset("plan", kafka, &group, &[&of[..], more].concat());
    let both = Restore::named(kafka, &backup, &[&first, &second], "both");
    let _ = both.run().ok();
    let target = |topic: &str, name: &str| format!("{topic}-{name}");
    let set = |offset: i64| (Some(offset), "set".to_owned());
    let of_both = [
        ((target(&first, "both"), 0), set(40)),
        ((target(&first, "both"), 1), set(60)),
        ((target(&second, "both"), 0), set(8)),
    ];
    assert_eq!(rows(&planned(&[])), of_both.clone().into());
    let alone = Restore::named(kafka, &backup, &[&first], "alone");
    let _ = alone.run().ok();
    planned(&[]).fails_with(2, &["brought different topics", alone.id(), both.id(), "--restore-id"]);
    assert_eq!(rows(&planned(&["--restore-id", both.id()])), of_both.into());
    // What the one restore lacks is said.
    let lacking = rows(&planned(&["--restore-id", alone.id()]));
    assert_eq!(lacking[&(second.clone(), 0)], (None, "skip".to_owned()));
    assert_eq!(lacking[&(target(&first, "alone"), 1)], set(60));
    // A topic of that name is another one now.
    kafka.delete(&target(&first, "alone"));
    wait_for("the topic is gone", || (!kafka.topics().contains(&target(&first, "alone"))).then_some(()));
    kafka.create(&target(&first, "alone"), 2, &[]);
    let more = ["--restore-id", alone.id(), "--topic", &target(&first, "alone")];
    planned(&more).fails_with(1, &[&target(&first, "alone"), "was made anew"]);
}
