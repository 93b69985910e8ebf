//! `offset-reset execute` that is killed at its crash points and at random moments (`KILLS` of them, 5 where it is not set): each
//! partition is where it was or where it is to be, and the next run ends as one that was never killed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{execute, group_name, run_in, write};
use crate::crash::{need_crash_points, report};
use crate::support::agent::Backup;
use crate::support::clients::{Offsets, commit, offsets};
use crate::support::kafka::Kafka;
use crate::support::reaper::Process;
use crate::support::wait_for;
use crate::support::workload::Writer;

const GROUPS: usize = 24;
const PARTITIONS: i32 = 4;

/// Groups that are to be put back.
struct Groups {
    kafka: &'static Kafka,
    topic: String,
    names: Vec<String>,
    backup: Backup,
    /// Where they are before, and where afterwards.
    before: Offsets,
    after: Offsets,
}

impl Groups {
    fn new() -> Self {
        let kafka = Kafka::shared();
        let topic = kafka.topic("groups-killed", PARTITIONS, &[]);
        let _ = write(&Writer::new(kafka, &[]), &topic, PARTITIONS, 100);
        let names: Vec<String> = (0..GROUPS).map(|_| group_name("killed")).collect();
        let named: Vec<&str> = names.iter().map(String::as_str).collect();
        let backup = Backup::of(kafka, &[&topic]).source_list("groups", &named);
        let (before, after) = (Offsets::new(), Offsets::new());
        let mut groups = Self { kafka, topic, names, backup, before, after };
        groups.commit(10, 7);
        groups.after = groups.offsets();
        let _ = groups.backup.backup().ok();
        groups.commit(50, 0);
        groups.before = groups.offsets();
        groups
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    /// Commits for each group offsets from `first` on, with metadata.
    fn commit(&self, first: i64, metadata: usize) {
        for (number, group) in (0..).zip(&self.names) {
            let offsets: Vec<_> = (0..PARTITIONS)
                .map(|partition| (&*self.topic, partition, first + number + i64::from(partition)))
                .collect();
            commit(self.kafka, group, &offsets, metadata);
        }
    }

    fn offsets(&self) -> Offsets {
        offsets(self.kafka, &self.names())
    }

    /// Asserts that no partition is anywhere else than before or afterwards; returns how many are where they are to be.
    #[track_caller]
    fn assert_between(&self, when: &str) -> usize {
        let is = self.offsets();
        assert_eq!(is.len(), GROUPS * PARTITIONS as usize, "{when}");
        let elsewhere = is
            .iter()
            .find(|(place, offset)| ![self.before.get(*place), self.after.get(*place)].contains(&Some(*offset)));
        assert_eq!(elsewhere, None, "{when}");
        is.iter().filter(|(place, offset)| self.after.get(*place) == Some(*offset)).count()
    }

    /// Runs it again, to its end, and puts all back where it was before.
    #[track_caller]
    fn run_again(&self, when: &str) {
        let ended = execute(&self.backup, self.kafka, &self.names(), &[]);
        assert_eq!(ended.code, Some(0), "{when}: {ended:?}");
        assert_eq!(self.offsets(), self.after, "{when}");
        self.commit(50, 0);
        assert_eq!(self.offsets(), self.before);
    }
}

#[test]
fn a_reset_that_is_killed_anywhere_ends_as_one_that_was_not_when_it_is_run_again() {
    need_crash_points();
    let groups = Groups::new();
    let reset = ["offset-reset", "execute"];
    let points = [("groups-snapshot", 1), ("groups-commit", 1), ("groups-commit", GROUPS / 2), ("groups-read-back", 1)];
    for (point, n) in points {
        let when = format!("killed at {point}:{n}");
        let environment = [("KAFKA_BACKUP_CRASH_AT", &*format!("{point}:{n}"))];
        let died = run_in(&reset, &groups.backup, groups.kafka, &groups.names(), &[], &environment);
        assert_eq!(died.signal, Some(9), "{when}: {died:?}");
        let set = groups.assert_between(&when);
        if point == "groups-snapshot" {
            assert_eq!(set, 0, "the present is kept before anything is set");
        }
        groups.run_again(&when);
    }
    let began = Instant::now();
    groups.run_again("never killed");
    let longest = began.elapsed();
    let kills: u32 = std::env::var("KILLS").map_or(5, |kills| kills.parse().expect("KILLS is a number"));
    for kill in 1..=kills {
        let set = kill_at_random(&groups, longest);
        report(&format!("kill {kill:3} of a reset: {set} of {} partitions were set", groups.after.len()));
        groups.run_again(&format!("kill {kill}"));
    }
}

/// Kills a run at any moment; returns how many partitions it had set.
fn kill_at_random(groups: &Groups, longest: Duration) -> usize {
    let names = groups.names().join(",");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-backup"));
    command.args([
        "offset-reset",
        "execute",
        "--path",
        groups.backup.archive(),
        "--backup-id",
        "test",
        "--groups",
        &names,
    ]);
    command.args(["--bootstrap-servers", groups.kafka.brokers()]).stdin(Stdio::null());
    let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null())).expect("the program starts");
    std::thread::sleep(longest.mul_f64(fastrand::f64()));
    let _ = process.child().kill();
    let _ = wait_for("it has ended", || process.child().try_wait().expect("a child"));
    groups.assert_between("killed at a random moment")
}
