//! `offset-reset-bulk`: many groups, over few connections, with failures that pass and some that do not.
//!
//! `KILLS=n` sets how often it is killed at any moment (5).

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::Value;

use super::rollback::{Place, Standing, undo_of};
use crate::crash::need_crash_points;
use crate::support::agent::{Ended, program_in, program_killed};
use crate::support::cutting::Cutting;
use crate::support::kafka::Kafka;
use crate::support::wait_for;
use crate::support::workload::{Contents, Writer};

/// Groups, and what they are to be set to: the ends of two topics.
struct Bulk<'a> {
    kafka: &'a Kafka,
    place: Place<'a>,
    wanted: Standing,
}

impl<'a> Bulk<'a> {
    fn new(kafka: &'a Kafka, theme: &str, groups: usize) -> Self {
        let place = Place::new(kafka, theme, groups);
        let (writer, mut contents) = (Writer::new(kafka, &[]), Contents::new());
        let mut wanted = Standing::new();
        for topic in &place.topics {
            // So many that no group stands at an end already.
            let _ = writer.write(topic, &contents.records(3, 90, 50));
            for (partition, end) in kafka.ends(topic).into_iter().enumerate() {
                let of = |group: &String| ((group.clone(), topic.clone(), partition as i32), (end, String::new()));
                wanted.extend(place.groups.iter().map(of));
            }
        }
        Self { kafka, place, wanted }
    }

    fn arguments(&self, servers: &str) -> Vec<String> {
        let [first, second] = &self.place.topics;
        let groups = self.place.groups.join(",");
        let path = self.place.path();
        let all = [
            "offset-reset-bulk",
            "--state",
            &path,
            "-b",
            servers,
            "--groups",
            &groups,
            "--topic",
            first,
            "--topic",
            second,
            "--to-latest",
            "--max-concurrent",
            "10",
        ];
        all.map(str::to_owned).to_vec()
    }

    fn run(&self, more: &[&str], environment: &[(&str, &str)]) -> Ended {
        self.run_over(self.kafka.brokers(), more, environment)
    }

    fn run_over(&self, servers: &str, more: &[&str], environment: &[(&str, &str)]) -> Ended {
        let arguments = self.arguments(servers);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        program_in(&arguments, environment)
    }

    /// Takes the groups back to where they were, by the undo line of a run.
    fn undo(&self, of: &Ended) {
        let undo = undo_of(of);
        let _ = program_in(&undo.iter().map(String::as_str).collect::<Vec<_>>(), &[]).ok();
    }
}

#[test]
fn many_groups_are_set_and_how_it_went_is_told() {
    let bulk = Bulk::new(Kafka::shared(), "bulk", 40);
    let before = bulk.place.standing();
    let planned = bulk.run(&["--dry-run"], &[]).ok();
    assert!(planned.contains("\nTotal partitions to reset: 240\n"), "{planned}");
    assert_eq!(bulk.place.standing(), before, "nothing is changed");
    let done = bulk.run(&[], &[]);
    assert_eq!((done.code, bulk.place.standing()), (Some(0), bulk.wanted.clone()), "{done:#?}");
    for word in
        ["Partitions set: 240 in 40 groups (so already: 0, failed: 0)", "partitions/s", "p50", "p99", "0 retries"]
    {
        assert!(done.stdout.contains(word), "{word}: {}", done.stdout);
    }
    bulk.undo(&done);
    assert_eq!(bulk.place.standing(), before);
}

#[test]
fn failures_that_pass_are_asked_again_and_all_lands() {
    let kafka = Kafka::shared();
    let bulk = Bulk::new(kafka, "bulk-failing", 40);
    let front = Cutting::refusing_commits(kafka.brokers(), 10);
    let done = bulk.run_over(front.address(), &["-o", "json"], &[]);
    let json: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:#?}"));
    assert!(front.cuts() >= 4 && json["metrics"]["retries"].as_u64() > Some(0), "{json:#}");
    assert_eq!((done.code, bulk.place.standing()), (Some(0), bulk.wanted.clone()), "{done:#?}");
    assert_eq!((&json["set"], &json["failed"]), (&240.into(), &Value::Object(Default::default())));
}

#[test]
fn a_group_that_is_read_keeps_no_other_from_being_set() {
    let kafka = Kafka::shared();
    let bulk = Bulk::new(kafka, "bulk-active", 3);
    let (leaves, has_joined) = (AtomicBool::new(false), AtomicBool::new(false));
    let active = bulk.place.groups[1].clone();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let properties = [("group.id", active.as_str()), ("client.id", "reader"), ("enable.auto.commit", "false")];
            let consumer: BaseConsumer = kafka.client(&properties).create().expect("a consumer");
            consumer.subscribe(&[&bulk.place.topics[0]]).expect("subscribed");
            while !leaves.load(Ordering::Relaxed) {
                let _ = consumer.poll(Duration::from_millis(100));
                let count = consumer.assignment().expect("an assignment").count();
                has_joined.fetch_or(count > 0, Ordering::Relaxed);
            }
        });
        wait_for("the consumer has joined", || has_joined.load(Ordering::Relaxed).then_some(()));
        let before = bulk.place.standing();
        let done = bulk.run(&["-o", "json"], &[]);
        done.fails_with(3, &["are not set: Consumer group has active members (", "--wait-until-empty"]);
        assert!(done.stderr.contains("client id reader, host /"), "{}", done.stderr);
        let json: Value = serde_json::from_str(&done.stdout).expect("JSON");
        assert_eq!((&json["set"], &json["groups"][1]["members"][0]["client_id"]), (&12.into(), &"reader".into()));
        let now = bulk.place.standing();
        for (key, is) in &now {
            let wanted = if key.0 == active { &before[key] } else { &bulk.wanted[key] };
            assert_eq!(is, wanted, "{key:?}");
        }
        leaves.store(true, Ordering::Relaxed);
    });
    let done = bulk.run(&["--wait-until-empty", "45s"], &[]);
    assert_eq!((done.code, bulk.place.standing()), (Some(0), bulk.wanted.clone()), "{done:#?}");
    assert!(done.stdout.contains("so already: 12"), "{}", done.stdout);
}

#[test]
fn where_the_present_cannot_be_kept_no_group_is_changed() {
    let bulk = Bulk::new(Kafka::shared(), "bulk-unkept", 2);
    let before = bulk.place.standing();
    // Root may write to what is read-only; nobody can make a folder of a file.
    fs::write(std::path::Path::new(&bulk.place.path()).join(".tmp"), "a file").expect("written");
    let refused = bulk.run(&[], &[]);
    assert!(refused.code == Some(2) || refused.code == Some(1), "{refused:#?}");
    assert_eq!(bulk.place.standing(), before);
}

#[test]
fn a_bulk_reset_that_is_killed_between_two_effects_and_run_again_ends_the_same() {
    need_crash_points();
    let bulk = Bulk::new(Kafka::shared(), "bulk-crash", 20);
    let before = bulk.place.standing();
    for point in ["groups-snapshot", "groups-commit:1", "groups-commit:11", "groups-commit:20", "groups-read-back"] {
        let died = bulk.run(&[], &[("KAFKA_BACKUP_CRASH_AT", point)]);
        assert_eq!(died.signal, Some(9), "{point}: {died:#?}");
        let again = bulk.run(&[], &[]);
        assert_eq!((again.code, bulk.place.standing()), (Some(0), bulk.wanted.clone()), "{point}: {again:#?}");
        // The first run's snapshot is the one to go back to, whatever it had set when it died.
        bulk.undo(if point == "groups-snapshot" { &again } else { &died });
        assert_eq!(bulk.place.standing(), before, "{point}");
    }
}

#[test]
fn a_bulk_reset_that_is_killed_at_any_moment_and_run_again_ends_the_same() {
    let bulk = Bulk::new(Kafka::shared(), "bulk-killed", 40);
    let kills = std::env::var("KILLS").map_or(5, |kills| kills.parse().expect("a number"));
    let before = bulk.place.standing();
    let began = std::time::Instant::now();
    let first = bulk.run(&[], &[]);
    let whole_ms = began.elapsed().as_millis() as u64;
    bulk.undo(&first);
    for kill in 0..kills {
        let after = Duration::from_millis(fastrand::u64(..whole_ms));
        let arguments = bulk.arguments(bulk.kafka.brokers());
        let _ = program_killed(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), after);
        let again = bulk.run(&[], &[]);
        assert_eq!(
            (again.code, bulk.place.standing()),
            (Some(0), bulk.wanted.clone()),
            "kill {kill} after {after:?}: {again:#?}"
        );
        bulk.undo(&first);
        assert_eq!(bulk.place.standing(), before, "kill {kill}");
    }
}
