//! `offset-reset`: what is planned, held against Kafka's own tool; what is refused; and where positions and places come from.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::Value;

use crate::restore::Restore;
use crate::support::agent::{Backup, Ended, ended, program_with};
use crate::support::cutting::Cutting;
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
    let is_offset = |line: &&str| !line.is_empty() && !line.starts_with("Warn: ");
    let mut lines: Vec<String> = text.lines().filter(is_offset).map(str::to_owned).collect();
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
    let later = reset("plan", kafka, &group, &["--by-duration", "-PT1H", "--topic", &topic, "--export"]).ok();
    assert_eq!(sorted(&later), [format!("{topic},0,100"), format!("{topic},1,100")], "nothing is of in an hour");
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
    // What it goes to may go before it is performed, or have been changed by hand.
    let more = ["--topic", &topic, "--to-offset", "20", "--format", "json"];
    let plan = reset("plan", kafka, &group, &more).ok();
    fs::write(&file, &plan).expect("written");
    kafka.delete_records(&topic, 0, 30);
    for dry in [&["--dry-run"][..], &[]] {
        let refused = program_with(&[&["offset-reset", "execute"], &of_cluster[..], &of, dry].concat());
        refused
            .fails_with(1, &["the cluster is no longer as the plan saw it: Offset 20 is out of range", "plan again"]);
    }
    for (is, was, wrong) in [
        ("\"offset\": -7", "\"offset\": 20", "does not go with a target of -7"),
        ("\"partition\": 0", "\"partition\": 1", "twice"),
        ("\"curent\"", "\"current\"", "is no plan"),
    ] {
        assert!(plan.contains(was), "{plan}");
        fs::write(&file, plan.replace(was, is)).expect("written");
        execute().fails_with(2, &[wrong]);
    }
    fs::write(
        &file,
        plan.replace(&group, &format!("{group}-mistyped")).replace("\"partition\": 0", "\"partition\": 9"),
    )
    .expect("written");
    execute().fails_with(1, &["has only 2 partitions"]);
    assert_eq!(kafka.committed(&group, &topic), at([40, 60]), "nothing was changed");
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
fn what_was_set_and_could_not_be_printed_is_no_failure_to_set_it() {
    let kafka = Kafka::shared();
    let (topic, group) = topic_and_group(kafka, "unprinted");
    let of = ["--groups", &group, "-b", kafka.brokers(), "--to-offset", "7", "--topic", &topic, "--no-snapshot"];
    for verb in [&["offset-reset", "execute"][..], &["offset-reset-bulk"]] {
        kafka.commit(&group, &topic, 0, 40);
        let mut command = Command::new("sh");
        let _ = command.args(["-c", "exec \"$0\" \"$@\" > /dev/full", env!("CARGO_BIN_EXE_kafka-backup")]);
        let _ = command.args(verb).args(of);
        ended(&mut command).fails_with(3, &["all is done, but what came of it could not be printed"]);
        assert_eq!(kafka.committed(&group, &topic), at([7, 7]), "{verb:?}");
    }
}

#[test]
fn a_group_is_named_whole_where_its_name_has_a_comma_and_an_empty_name_is_none() {
    let kafka = Kafka::shared();
    let (topic, group) = topic_and_group(kafka, "comma");
    let whole = format!("{group},eu");
    kafka.commit(&whole, &topic, 0, 11);
    let folder = tempfile::tempdir().expect("a folder");
    let place = ["--state", folder.path().to_str().expect("UTF-8"), "-b", kafka.brokers()];
    let snapshot = ["offset-rollback", "snapshot", "--group", &whole, "--group", &whole, "-o", "json"];
    let taken: Value = serde_json::from_str(&program_with(&[&snapshot, &place[..]].concat()).ok()).expect("JSON");
    let groups = taken["groups"].as_array().expect("groups");
    assert!(groups.len() == 1 && groups[0]["group"] == *whole, "{taken}");
    let to = ["--to-offset", "7", "--topic", &topic];
    for verb in [&["offset-reset", "execute"][..], &["offset-reset-bulk"]] {
        let done = program_with(&[verb, &["--group", &whole], &to, &place].concat());
        assert_eq!((done.code, kafka.committed(&whole, &topic)), (Some(0), at([7, 7])), "{done:?}");
        for wrong in [["--groups", ""], ["--group", ""], ["--groups", "a,"]] {
            let more = [&wrong[..], &to, &["--create-group"], &place].concat();
            program_with(&[verb, &more].concat()).fails_with(2, &["a group's name is empty"]);
        }
    }
    assert_eq!(kafka.committed(&group, &topic), at([40, 60]), "it was not named");
    let unset = ["offset-rollback", "snapshot", "--groups", ""];
    program_with(&[&unset, &place[..]].concat()).fails_with(2, &["a group's name is empty"]);
    program_with(&[&unset[..2], &place].concat()).fails_with(2, &["no group is named", "--all-groups"]);
    let script = ["offset-reset", "script", "--group", &whole, "-X", "client.id=me"];
    let refused = program_with(&[&script, &to[..], &place].concat());
    refused.fails_with(2, &["cannot carry `-X client.id=…`", "--command-config"]);
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
    let source = format!("source:{}", kafka.brokers());
    assert_eq!(planned(&source), [5, 5]);
    // What passes is asked again there, too.
    let front = Cutting::of_offsets(kafka.brokers());
    assert_eq!(planned(&format!("source:{}", front.address())), [5, 5]);
    assert!(front.cuts() > 0, "the first question is cut");
    let file = backup.folder().join("source.properties");
    let with_file = || {
        let of_source = ["--positions", &source, "--source-config", file.to_str().expect("UTF-8"), "--format", "json"];
        reset("plan", kafka, &group, &[&of[..], &of_source].concat())
    };
    fs::write(&file, "client.id=reads-the-source\nrequest.timeout.ms=20000\n").expect("written");
    assert_eq!(rows(&with_file()).into_values().filter_map(|(offset, _)| offset).collect::<Vec<_>>(), [5, 5]);
    fs::write(&file, "no.such.property=1\n").expect("written");
    with_file().fails_with(2, &["no.such.property"]);
    // Positions say which partitions are meant, and a selector where in them.
    let over =
        |selector: &[&str]| rows(&reset("plan", kafka, &group, &[&of[..], selector, &["--format", "json"]].concat()));
    let latest = over(&["--to-latest"]);
    assert_eq!(latest.into_values().filter_map(|(offset, _)| offset).collect::<Vec<_>>(), [100, 100]);
    let first = over(&["--to-offset", "7", "--positions", &format!("snapshot:{id}")]);
    assert_eq!(first.into_values().filter_map(|(offset, _)| offset).collect::<Vec<_>>(), [7, 7]);
    let other = format!("{group}-other");
    kafka.commit(&other, &topic, 0, 11);
    kafka.commit(&other, &topic, 1, 12);
    let beside = format!("group:{other}");
    assert_eq!(planned(&beside), [11, 12]);
    let shown = reset("plan", kafka, &group, &["--positions", &beside, "--format", "json"]).ok();
    assert!(shown.contains("\"places\": \"this cluster\""), "no backup is asked: {shown}");
    let both = ["--positions", &beside, "--restore-id", "zzz"];
    reset("plan", kafka, &group, &both).fails_with(2, &["is of this cluster", "--restore-id"]);
    // A snapshot's offsets are those of its cluster.
    let (folder, of_snapshot) = (format!("{}/test", backup.archive()), format!("snapshot:{id}"));
    let alone = ["--path", &folder, "--positions", &of_snapshot, "--format", "json"];
    let here = rows(&reset("plan", kafka, &group, &alone));
    assert_eq!(here.into_values().filter_map(|(offset, _)| offset).collect::<Vec<_>>(), [90, 60]);
    let words = [&*id, "is of another cluster", "taken of", "this is", "--backup-id", "--restore-id"];
    reset("plan", super::second(), &group, &alone).fails_with(2, &words);
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
    // Before the first record lies the marker of the restore's fence.
    let set = |offset: i64| (Some(offset + 1), "set".to_owned());
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
    // Of the topic that has its name a selector says nothing: it is not what was restored.
    let latest = rows(&planned(&["--restore-id", alone.id(), "--to-latest"]));
    assert_eq!(latest[&(second.clone(), 0)], (None, "skip".to_owned()));
    assert_eq!(latest[&(target(&first, "alone"), 1)].1, "set");
    // A topic of that name is another one now.
    kafka.delete(&target(&first, "alone"));
    wait_for("the topic is gone", || (!kafka.topics().contains(&target(&first, "alone"))).then_some(()));
    kafka.create(&target(&first, "alone"), 2, &[]);
    let more = ["--restore-id", alone.id(), "--topic", &target(&first, "alone")];
    planned(&more).fails_with(1, &[&target(&first, "alone"), "was made anew"]);
}
