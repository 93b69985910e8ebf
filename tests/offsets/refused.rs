//! What is refused: in the words of the user's page, with the exit code of its kind, and with nothing changed. And what looks as
//! if it would be refused and is done whole.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::{Stand, committed, execute, group_name, run, second, write};
use crate::support::agent::{Backup, Ended, program_with};
use crate::support::clients::{commit, groups, offsets};
use crate::support::kafka::{DESCRIBE, GROUP, Kafka};
use crate::support::wait_for;
use crate::support::workload::Writer;

const ACTIVE: &str = "Consumer group has active members";

/// What is missing where a group may only be looked at.
const NO_AUTHORITY: &str = "allow READ on group";

/// Asserts that all of `words` were printed, wherever.
#[track_caller]
fn assert_told(ended: &Ended, words: &[&str]) {
    let all = format!("{}{}", ended.stdout, ended.stderr);
    let missing: Vec<_> = words.iter().filter(|word| !all.contains(**word)).collect();
    assert!(missing.is_empty(), "{missing:?} not in:\n{all}");
}

/// Leaves everybody the authority to look at a group, and no other; returns when that is in force.
fn close(kafka: &Kafka, group: &str, topic: &str) {
    kafka.rule((GROUP, group), DESCRIBE, true);
    let consumer: BaseConsumer = kafka.client(&[("group.id", group)]).create().expect("a consumer");
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, Offset::Offset(Stand::NOW[0])).expect("an offset");
    wait_for("the rule is in force", || {
        let refused = consumer.commit(&offsets, CommitMode::Sync).err()?;
        (refused.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)).then_some(())
    });
}

#[test]
fn a_group_with_members_is_left_alone_until_they_and_their_sessions_have_ended() {
    let stand = Stand::new("refused-active", (&[], &[]));
    let properties = [
        ("group.id", &*stand.group),
        ("client.id", "shop-7"),
        ("group.instance.id", "till-1"),
        ("session.timeout.ms", "6000"),
        ("enable.auto.commit", "false"),
    ];
    let member: BaseConsumer = stand.kafka.client(&properties).create().expect("a consumer");
    member.subscribe(&[&stand.topic]).expect("subscribed");
    wait_for("it is given its partitions", || {
        let _ = member.poll(Duration::from_millis(50));
        member.assignment().is_ok_and(|assigned| assigned.count() == 2).then_some(())
    });
    let refused = stand.execute(&[]);
    refused.fails_with(1, &[ACTIVE]);
    assert_told(&refused, &["shop-7", "till-1", "127.0.0.1"]);
    stand.assert_at(Stand::NOW);
    // A static member does not leave when it closes: its session must end.
    drop(member);
    let refused = stand.execute(&[]);
    refused.fails_with(1, &[ACTIVE]);
    assert_told(&refused, &["till-1"]);
    stand.assert_at(Stand::NOW);
    let _ = stand.execute(&["--wait-until-empty", "40s"]).ok();
    stand.assert_at(Stand::THEN);
}

#[test]
fn a_group_that_nobody_knows_or_that_is_mistyped_is_not_found_and_not_made() {
    let stand = Stand::new("refused-unknown", (&[], &[]));
    let typo = stand.group.replace("unknown", "unkonwn");
    let not_found = format!("Consumer group '{typo}' not found");
    for verb in [
        &["offset-reset", "plan"][..],
        &["offset-reset", "execute"],
        &["offset-reset", "script"],
        &["offset-reset-bulk"],
    ] {
        for more in [&[][..], &["--to-earliest", "--topic", &stand.topic]] {
            run(verb, &stand.backup, stand.kafka, &[&typo], more).fails_with(1, &[&not_found]);
        }
    }
    execute(&stand.backup, stand.kafka, &[&stand.group, &typo], &[]).fails_with(1, &[&not_found]);
    stand.assert_at(Stand::NOW);
    assert!(!groups(stand.kafka).contains_key(&typo));
    let more = ["--to-offset", "7", "--topic", &stand.topic, "--create-group"];
    let _ = run(&["offset-reset", "execute"], &stand.backup, stand.kafka, &[&typo], &more).ok();
    assert_eq!(committed(stand.kafka, &typo).into_values().collect::<Vec<_>>(), [7, 7], "where that is meant");
}

#[test]
fn of_a_topic_that_is_not_there_nothing_is_set_and_that_is_said() {
    let kafka = Kafka::shared();
    let lost = kafka.topic("refused-lost", 1, &[]);
    let _ = write(&Writer::new(kafka, &[]), &lost, 1, 10);
    let group = group_name("refused-lost");
    commit(kafka, &group, &[(&lost, 0, 5)], 0);
    let stand = Stand::new("refused-topic", (&[&lost], &[&group]));
    // One group reads both, the other the lost one alone.
    commit(kafka, &stand.group, &[(&lost, 0, 5)], 0);
    stand.commit(Stand::THEN);
    let _ = stand.backup.backup().ok();
    kafka.delete(&lost);
    wait_for("it is gone, and what was committed", || {
        (!kafka.topics().contains(&lost) && committed(kafka, &group).is_empty()).then_some(())
    });
    stand.commit(Stand::NOW);
    let ended = stand.execute(&[]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_told(&ended, &[&lost]);
    stand.assert_at(Stand::THEN);
    execute(&stand.backup, kafka, &[&group], &[]).fails_with(1, &[]);
    assert!(committed(kafka, &group).is_empty());
}

#[test]
fn an_offset_that_a_partition_does_not_have_is_out_of_range_and_nothing_is_set() {
    let stand = Stand::new("refused-range", (&[], &[]));
    let of_first = format!("{}:0", stand.topic);
    let far = ["--to-offset", "150000", "--topic", &of_first];
    let words = ["Offset 150000 is out of range for partition 0 (current: 0-100)"];
    stand.execute(&far).fails_with(1, &words);
    stand.assert_at(Stand::NOW);
    // The end is the next record to read, and one may wait for it.
    let _ = stand.execute(&["--to-offset", "100", "--topic", &of_first]).ok();
    stand.assert_at([100, Stand::NOW[1]]);
    let _ = stand.execute(&[&far[..], &["--clamp"]].concat()).ok();
    stand.assert_at([100, Stand::NOW[1]]);

    // What a group had reached is gone since.
    stand.kafka.delete_records(&stand.topic, 0, 50);
    let first = "Offset 40 is out of range for partition 0 (current: 50-100)";
    stand.execute(&["--topic", &of_first]).fails_with(1, &[first]);
    stand.assert_at([100, Stand::NOW[1]]);
    let ended = stand.execute(&[]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_told(&ended, &[first]);
    stand.assert_at([100, Stand::THEN[1]]);
    let _ = stand.execute(&["--clamp"]).ok();
    stand.assert_at([50, Stand::THEN[1]]);
}

#[test]
fn without_authority_nothing_of_a_group_is_changed_whichever_command_would() {
    let kafka = Kafka::shared();
    let other = group_name("refused-free");
    let stand = Stand::new("refused-authority", (&[], &[&other]));
    commit(kafka, &other, &[(&stand.topic, 0, 1), (&stand.topic, 1, 2)], 0);
    stand.commit(Stand::THEN);
    let _ = stand.backup.backup().ok();
    let snapshots = stand.backup.folder().join("snapshots").display().to_string();
    let cluster = ["--bootstrap-servers", kafka.brokers()];
    let snapshot = ["offset-rollback", "snapshot", "--path", &snapshots, "--groups", &stand.group];
    let _ = program_with(&[&snapshot[..], &cluster].concat()).ok();
    stand.commit(Stand::NOW);
    commit(kafka, &other, &[(&stand.topic, 0, 100), (&stand.topic, 1, 100)], 0);
    close(kafka, &stand.group, &stand.topic);
    let words = [&*stand.group, NO_AUTHORITY];
    let refused = stand.execute(&[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_told(&refused, &words);

    let list = program_with(&["offset-rollback", "list", "--path", &snapshots]).ok();
    let id = list.split_whitespace().find(|word| word.starts_with("snapshot-")).expect("there is one");
    let rollback = ["offset-rollback", "rollback", "--path", &snapshots, "--snapshot-id", id];
    let refused = program_with(&[&rollback[..], &cluster].concat());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_told(&refused, &words);

    let both = [&*stand.group, &other];
    let partly = run(&["offset-reset-bulk"], &stand.backup, kafka, &both, &["--max-concurrent", "4"]);
    assert_eq!(partly.code, Some(3), "{partly:?}");
    assert_told(&partly, &words);
    stand.assert_at(Stand::NOW);
    assert_eq!(committed(kafka, &other).into_values().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn three_phases_restore_all_and_set_the_groups_that_may_be_set() {
    let there = second();
    let other = group_name("refused-free");
    let stand = Stand::new("refused-phases", (&[], &[&other]));
    commit(stand.kafka, &other, &[(&stand.topic, 0, 1), (&stand.topic, 1, 2)], 0);
    let _ = stand.backup.backup().ok();
    close(there, &stand.group, &stand.topic);
    let file = stand.backup.folder().join("phases.yaml");
    let config = format!(
        "mode: restore\nbackup_id: test\ntarget:\n  bootstrap_servers: [\"{}\"]\nstorage:\n  backend: filesystem\n  path: {}\n\
         restore:\n  consumer_group_strategy: header-based\n  reset_consumer_offsets: true\n  consumer_groups: [{}, {other}]\n",
        there.brokers(),
        stand.backup.archive(),
        stand.group
    );
    std::fs::write(&file, config).expect("the test's folder is writable");
    let partly = program_with(&["three-phase-restore", "--config", file.to_str().expect("UTF-8")]);
    assert_eq!(partly.code, Some(3), "{partly:?}");
    assert_told(&partly, &[&stand.group, NO_AUTHORITY]);
    // The mark of the restore's fence, and the records.
    assert_eq!(there.ends(&stand.topic), [101, 101]);
    assert!(committed(there, &stand.group).is_empty());
    assert_eq!(committed(there, &other).into_values().collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn six_hundred_partitions_with_four_kilobytes_of_metadata_all_land() {
    const PARTITIONS: i32 = 600;
    let kafka = Kafka::shared();
    let (topic, group) = (kafka.topic("wide", PARTITIONS, &[]), group_name("wide"));
    let _ = write(&Writer::new(kafka, &[]), &topic, PARTITIONS, 1);
    let at = |offset| (0..PARTITIONS).map(|partition| (&*topic, partition, offset)).collect::<Vec<_>>();
    commit(kafka, &group, &at(1), 4096);
    let then = offsets(kafka, &[&group]);
    let backup = Backup::of(kafka, &[&topic]).source_list("groups", &[&group]);
    let _ = backup.backup().ok();
    commit(kafka, &group, &at(0), 0);
    let _ = execute(&backup, kafka, &[&group], &[]).ok();
    let is = offsets(kafka, &[&group]);
    assert!(then.len() == PARTITIONS as usize && is == then, "{} partitions, as they were", is.len());
}
