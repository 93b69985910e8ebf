//! `offset-rollback`: what was kept comes back, absence and metadata too, whatever happens in between.
//!
//! `KILLS=n` sets how often a rollback is killed at any moment (5).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use tempfile::TempDir;

use crate::crash::need_crash_points;
use crate::support::agent::{Ended, program_in, program_killed};
use crate::support::kafka::Kafka;
use crate::support::wait_for;

/// What groups have committed, by group, topic and partition, with metadata.
pub(crate) type Standing = BTreeMap<(String, String, i32), (i64, String)>;

/// A folder for snapshots, and a cluster with groups of its own.
pub(crate) struct Place<'a> {
    kafka: &'a Kafka,
    folder: TempDir,
    pub(crate) topics: [String; 2],
    pub(crate) groups: Vec<String>,
}

impl<'a> Place<'a> {
    /// Makes two topics of three partitions, and so many groups that have something committed.
    pub(crate) fn new(kafka: &'a Kafka, theme: &str, groups: usize) -> Self {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable");
        let topics = [1, 2].map(|n| kafka.topic(&format!("{theme}-{n}"), 3, &[]));
        let names = (0..groups).map(|n| format!("{}-g{n}", topics[0])).collect();
        let place = Self { kafka, folder, topics, groups: names };
        for (n, group) in place.groups.iter().enumerate() {
            place.commit(group, 0, &[(0, 5 + n as i64, "mine"), (1, 7, "")]);
        }
        place
    }

    pub(crate) fn path(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// Commits (partition, offset, metadata) of one of the topics.
    pub(crate) fn commit(&self, group: &str, topic: usize, offsets: &[(i32, i64, &str)]) {
        let consumer: BaseConsumer = self.kafka.client(&[("group.id", group)]).create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        for (partition, offset, metadata) in offsets {
            let mut element = list.add_partition(&self.topics[topic], *partition);
            element.set_offset(Offset::Offset(*offset)).expect("an offset");
            element.set_metadata(*metadata);
        }
        consumer.commit(&list, CommitMode::Sync).expect("the coordinator answers");
    }

    /// Moves every group: other offsets, other metadata, partitions and a topic that it had nothing for.
    fn disturb(&self) {
        for group in &self.groups {
            self.commit(group, 0, &[(0, 50, "theirs"), (1, 7, "theirs"), (2, 9, "")]);
            self.commit(group, 1, &[(1, 3, "")]);
        }
    }

    /// Returns what the groups have committed now.
    pub(crate) fn standing(&self) -> Standing {
        let mut standing = Standing::new();
        for group in &self.groups {
            let consumer: BaseConsumer = self.kafka.client(&[("group.id", group)]).create().expect("a consumer");
            let mut list = TopicPartitionList::new();
            self.topics.iter().for_each(|topic| list.add_partition_range(topic, 0, 2));
            let told = consumer.committed_offsets(list, Duration::from_secs(30)).expect("the coordinator answers");
            for element in told.elements() {
                if let Offset::Offset(offset) = element.offset() {
                    let key = (group.clone(), element.topic().to_owned(), element.partition());
                    standing.insert(key, (offset, element.metadata().to_owned()));
                }
            }
        }
        standing
    }

    fn verb(&self, verb: &str, arguments: &[&str]) -> Ended {
        self.verb_in(verb, arguments, &[])
    }

    fn verb_in(&self, verb: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let path = self.path();
        program_in(&[&["offset-rollback", verb, "--path", &path], arguments].concat(), environment)
    }

    /// Runs a verb that asks the cluster.
    fn ask(&self, verb: &str, arguments: &[&str]) -> Ended {
        self.verb(verb, &[&["--bootstrap-servers", self.kafka.brokers()], arguments].concat())
    }

    /// Takes a snapshot of all groups; returns its id.
    fn snapshot(&self) -> String {
        let groups = self.groups.join(",");
        let taken = self.ask("snapshot", &["--groups", &groups, "--description", "Before restore"]);
        taken.ok().trim().to_owned()
    }

    fn rollback(&self, id: &str) -> Ended {
        self.ask("rollback", &["--snapshot-id", id])
    }

    fn snapshots(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("snapshots")).into_iter().flatten();
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }
}

/// Returns the undo line's arguments, of a command that has changed something.
pub(crate) fn undo_of(ended: &Ended) -> Vec<String> {
    let line = ended.stderr.lines().find_map(|line| line.strip_prefix("undo with: kafka-backup "));
    let line = line.unwrap_or_else(|| panic!("no undo line: {ended:#?}"));
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn what_was_kept_comes_back_with_metadata_and_absence_and_the_undo_line_takes_that_back() {
    let place = Place::new(Kafka::shared(), "rollback", 2);
    let before = place.standing();
    let id = place.snapshot();
    assert_eq!(place.ask("verify", &["--snapshot-id", &id]).code, Some(0));
    place.disturb();
    let disturbed = place.standing();
    let planned = place.ask("rollback", &["--snapshot-id", &id, "--dry-run"]).ok();
    assert!(planned.contains("DELETE") && planned.contains("\nTotal partitions to change: 8\n"), "{planned}");
    assert_eq!((place.standing(), place.snapshots().len()), (disturbed.clone(), 1), "nothing is changed or kept");
    let done = place.rollback(&id);
    assert_eq!((done.code, place.standing()), (Some(0), before.clone()), "{done:#?}");
    assert_eq!(place.ask("verify", &["--snapshot-id", &id]).code, Some(0));
    let undo = undo_of(&done);
    let undone = program_in(&undo.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    assert_eq!((undone.code, place.standing()), (Some(0), disturbed), "{undone:#?}");
    let again = program_in(&undo.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    assert!(again.code == Some(0) && place.snapshots().len() == 3, "nothing to do, and nothing kept: {again:#?}");
}

#[test]
fn of_a_snapshot_only_the_groups_that_are_named_come_back() {
    let place = Place::new(Kafka::shared(), "rollback-some", 2);
    let (before, id) = (place.standing(), place.snapshot());
    place.disturb();
    let disturbed = place.standing();
    let [named, other] = [0, 1].map(|n| place.groups[n].as_str());
    let mistyped = format!("{named}x");
    let unknown = place.ask("rollback", &["--snapshot-id", &id, "--groups", &format!("{named},{mistyped}")]);
    assert_eq!(place.standing(), disturbed);
    unknown.fails_with(1, &[&format!("does not hold group '{mistyped}'"), other]);
    let _ = place.ask("rollback", &["--snapshot-id", &id, "--groups", named]).ok();
    let mut expected = disturbed;
    expected.retain(|(group, ..), _| group == other);
    expected.extend(before.into_iter().filter(|((group, ..), _)| group == named));
    assert_eq!(place.standing(), expected);
    let verify = |group| place.ask("verify", &["--snapshot-id", &id, "--group", group]).code;
    assert_eq!((verify(named), verify(other)), (Some(0), Some(4)));
}

#[test]
fn a_group_that_was_deleted_comes_back() {
    let place = Place::new(Kafka::shared(), "rollback-deleted", 1);
    let (before, id) = (place.standing(), place.snapshot());
    let kafka = Kafka::shared();
    let admin: rdkafka::admin::AdminClient<_> = kafka.client(&[]).create().expect("a client");
    let groups = [place.groups[0].as_str()];
    let gone = crate::support::block_on(admin.delete_groups(&groups, &rdkafka::admin::AdminOptions::new()));
    assert!(gone.expect("the broker answers").iter().all(Result::is_ok));
    assert!(place.standing().is_empty());
    let _ = place.rollback(&id).ok();
    assert_eq!(place.standing(), before);
}

#[test]
fn verify_says_what_differs_and_ends_with_4() {
    let place = Place::new(Kafka::shared(), "rollback-verify", 1);
    let id = place.snapshot();
    place.commit(&place.groups[0], 0, &[(0, 6, "mine"), (1, 7, "other"), (2, 1, "")]);
    let found = place.ask("verify", &["--snapshot-id", &id, "--format", "json"]);
    found.fails_with(4, &["3 partitions are not as in", &id]);
    let json: Value = serde_json::from_str(&found.stdout).expect("JSON");
    let told: Vec<_> = json["differences"].as_array().expect("a list").iter().map(|of| &of["partition"]).collect();
    assert_eq!(told, [0, 1, 2]);
    assert_eq!(
        (&json["differences"][0]["snapshot"]["offset"], &json["differences"][0]["now"]["offset"]),
        (&5.into(), &6.into())
    );
    assert_eq!(json["differences"][2]["snapshot"], Value::Null);
}

#[test]
fn the_list_has_the_newest_first_and_two_within_a_second_are_two() {
    let place = Place::new(Kafka::shared(), "rollback-list", 2);
    let ids: Vec<String> = std::thread::scope(|scope| {
        let taking: Vec<_> = (0..4).map(|_| scope.spawn(|| place.snapshot())).collect();
        taking.into_iter().map(|taking| taking.join().expect("taken")).collect()
    });
    let unique: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), 4, "{ids:?}");
    let listed = place.verb("list", &[]).ok();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines[2], "ID                          Created               Groups  Description");
    assert!(lines[4..].iter().all(|line| line.ends_with("  2       Before restore")) && lines.len() == 8, "{listed}");
    let json: Value = serde_json::from_str(&place.verb("list", &["-o", "json"]).ok()).expect("JSON");
    let created: Vec<_> = json.as_array().expect("a list").iter().map(|row| row["created_at"].as_str()).collect();
    assert!(created.is_sorted_by(|a, b| a >= b), "{created:?}");
    let _ = place.verb("delete", &["--snapshot-id", &ids[0], "--dry-run"]).ok();
    assert_eq!(place.snapshots().len(), 4);
    let _ = place.verb("delete", &["--snapshot-id", &ids[0]]).ok();
    assert_eq!(place.snapshots().len(), 3);
    place.verb("show", &["--snapshot-id", &ids[0]]).fails_with(10, &["there is no snapshot", &ids[0], &ids[1]]);
    let shown = place.verb("show", &["--snapshot-id", &ids[1], "-o", "csv"]).ok();
    assert!(shown.contains(&format!("{},{},0,5,mine\n", place.groups[0], place.topics[0])), "{shown}");
    assert!(shown.contains(&format!("{},{},2,,\n", place.groups[0], place.topics[0])), "absence: {shown}");
}

#[test]
fn a_damaged_snapshot_is_said_and_nothing_is_done_with_it() {
    let place = Place::new(Kafka::shared(), "rollback-damaged", 1);
    let (id, before) = (place.snapshot(), place.standing());
    let other = place.snapshot();
    let file = place.folder.path().join("snapshots").join(&id);
    let mut bytes = fs::read(&file).expect("a snapshot");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&file, bytes).expect("written");
    let listed = place.verb("list", &[]);
    listed.fails_with(4, &[&id, "cannot be read"]);
    assert!(listed.stdout.contains("damaged: ") && listed.stdout.contains(&other), "{}", listed.stdout);
    for verb in ["rollback", "verify"] {
        place.ask(verb, &["--snapshot-id", &id]).fails_with(4, &[&id]);
    }
    assert_eq!((place.standing(), place.snapshots().len()), (before, 2));
}

#[test]
fn where_the_present_cannot_be_kept_nothing_is_changed() {
    let place = Place::new(Kafka::shared(), "rollback-unkept", 1);
    let id = place.snapshot();
    place.disturb();
    let disturbed = place.standing();
    // Root may write to what is read-only; nobody can make a folder of a file.
    let staging = place.folder.path().join(".tmp");
    fs::remove_dir_all(&staging).expect("the staging folder goes");
    fs::write(&staging, "a file").expect("written");
    let refused = place.rollback(&id);
    assert!(refused.code == Some(2) || refused.code == Some(1), "{refused:#?}");
    assert_eq!((place.standing(), place.snapshots().len()), (disturbed, 1), "{refused:#?}");
}

#[test]
fn an_unknown_group_is_refused_and_not_made() {
    let place = Place::new(Kafka::shared(), "rollback-unknown", 1);
    let wrong = format!("{}x", place.groups[0]);
    let refused = place.ask("snapshot", &["--groups", &wrong]);
    refused.fails_with(1, &[&format!("error: Consumer group '{wrong}' not found; ")]);
    assert!(place.snapshots().is_empty());
    let kept = place.ask("snapshot", &["--groups", &place.groups[0], "--dry-run"]);
    assert!(kept.code == Some(0) && place.snapshots().is_empty(), "{kept:#?}");
    place.rollback("snapshot-20200101-000000").fails_with(10, &["there is no snapshot"]);
    place.rollback("../x").fails_with(2, &["is no snapshot's id"]);
}

#[test]
fn an_active_group_is_refused_with_its_members_and_waited_for_where_that_is_wanted() {
    let kafka = Kafka::shared();
    let place = Place::new(kafka, "rollback-active", 2);
    let (id, before) = (place.snapshot(), place.standing());
    place.disturb();
    let disturbed = place.standing();
    let (leaves, has_joined) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let properties =
                [("group.id", place.groups[1].as_str()), ("client.id", "reader"), ("enable.auto.commit", "false")];
            let consumer: BaseConsumer = kafka.client(&properties).create().expect("a consumer");
            consumer.subscribe(&[&place.topics[0]]).expect("subscribed");
            while !leaves.load(Ordering::Relaxed) {
                let _ = consumer.poll(Duration::from_millis(100));
                let count = consumer.assignment().expect("an assignment").count();
                has_joined.fetch_or(count > 0, Ordering::Relaxed);
            }
        });
        wait_for("the consumer has joined", || has_joined.load(Ordering::Relaxed).then_some(()));
        let refused = place.rollback(&id);
        refused.fails_with(
            1,
            &["error: Consumer group has active members; ", "--wait-until-empty", "--describe --members"],
        );
        assert!(refused.stderr.contains("client id reader, host /"), "{}", refused.stderr);
        assert_eq!((place.standing(), place.snapshots().len()), (disturbed, 1), "not even the other group");
        let waiting = scope.spawn(|| place.ask("rollback", &["--snapshot-id", &id, "--wait-until-empty", "45s"]));
        leaves.store(true, Ordering::Relaxed);
        let _ = waiting.join().expect("it ends").ok();
        assert_eq!(place.standing(), before);
    });
}

#[test]
fn a_rollback_that_is_killed_between_two_effects_and_run_again_ends_the_same() {
    need_crash_points();
    let place = Place::new(Kafka::shared(), "rollback-crash", 3);
    let (before, id) = (place.standing(), place.snapshot());
    let points = ["groups-snapshot", "groups-commit:1", "groups-commit:3", "groups-delete:2", "groups-read-back"];
    for point in points {
        place.disturb();
        let servers = place.kafka.brokers();
        let arguments = ["--bootstrap-servers", servers, "--snapshot-id", &id];
        let died = place.verb_in("rollback", &arguments, &[("KAFKA_BACKUP_CRASH_AT", point)]);
        assert_eq!(died.signal, Some(9), "{point}: {died:#?}");
        let undo = undo_of_if(&died);
        assert!(
            point == "groups-snapshot" || undo,
            "{point}: the way back is said before anything is changed: {died:#?}"
        );
        let again = place.rollback(&id);
        assert_eq!((again.code, place.standing()), (Some(0), before.clone()), "{point}: {again:#?}");
    }
}

fn undo_of_if(ended: &Ended) -> bool {
    ended.stderr.contains("undo with: kafka-backup offset-rollback rollback ")
}

#[test]
fn a_rollback_that_is_killed_at_any_moment_and_run_again_ends_the_same() {
    let place = Place::new(Kafka::shared(), "rollback-killed", 20);
    let (before, id) = (place.standing(), place.snapshot());
    let kills = std::env::var("KILLS").map_or(5, |kills| kills.parse().expect("a number"));
    place.disturb();
    let began = std::time::Instant::now();
    let _ = place.rollback(&id).ok();
    let whole_ms = began.elapsed().as_millis() as u64;
    for kill in 0..kills {
        place.disturb();
        let after = Duration::from_millis(fastrand::u64(..whole_ms));
        let path = place.path();
        let arguments =
            ["offset-rollback", "rollback", "--path", &path, "--snapshot-id", &id, "-b", place.kafka.brokers()];
        let _ = program_killed(&arguments, after);
        let again = place.rollback(&id);
        assert_eq!(
            (again.code, place.standing()),
            (Some(0), before.clone()),
            "kill {kill} after {after:?}: {again:#?}"
        );
    }
}
