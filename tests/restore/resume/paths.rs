//! The four paths that records take to a target, as one: counted there on three ways, and in transactions.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::together::{self, Together};
use super::{Case, PARTITIONS, Way, was_killed};
use crate::restore::Restore;
use crate::support::agent::Agent;
use crate::support::kafka::Kafka;
use crate::support::{DEADLINE, wait_paced};

/// The longest wait for more to come: half a minute for a broker that hangs, more than once on the way through a beginning.
const LONGEST: Duration = Duration::from_secs(180);

/// How many partitions each target has.
pub(super) const TARGETS: i32 = 2;

/// A path, with what is restored over it.
pub(super) enum Path {
    /// What has landed is counted in the targets.
    Counted(Case),
    /// Records come together, in transactions.
    Together(Together),
}

impl Path {
    /// Makes one of each, of topics that `make` makes, of so many partitions; about `count` records for each target partition.
    pub(super) fn all(kafka: &Kafka, count: i64, make: impl Fn(&str, i32) -> String + Sync) -> Vec<Self> {
        let counted = |way: Way| {
            let topic = make(&format!("{way:?}").to_lowercase(), PARTITIONS);
            Self::Counted(Case::written(kafka, topic, way, count))
        };
        let together = || {
            let [topic, other] = together::PARTITIONS;
            let topics = [make("together", topic), make("together-too", other)];
            let each = count as usize * TARGETS as usize / (topic + other) as usize;
            Self::Together(Together::written(kafka, topics, each))
        };
        thread::scope(|scope| {
            let ways = [Way::Verbatim, Way::Merged, Way::Staged];
            let mut making: Vec<_> = ways.into_iter().map(|way| scope.spawn(move || counted(way))).collect();
            making.push(scope.spawn(together));
            making.into_iter().map(|path| path.join().expect("it is written")).collect()
        })
    }

    /// Configures a restore that is as fast as it can be.
    pub(super) fn fast(&self, kafka: &Kafka, name: &str) -> Restore<'_> {
        match self {
            Self::Counted(case) => case.fast(kafka, name),
            Self::Together(together) => together.fast(kafka, name),
        }
    }

    /// Configures the same one so that it takes so long from its beginning to its end, at least.
    pub(super) fn lasting(&self, kafka: &Kafka, name: &str, seconds: usize) -> Restore<'_> {
        let records = match self {
            Self::Counted(case) => case.wanted.len(),
            Self::Together(together) => together.records(),
        };
        let restore = self.fast(kafka, name).sink("journal_interval = \"500ms\"");
        restore.pipeline(&format!("max_records_per_second = {}", records / seconds))
    }

    /// Returns the topics that it is restored to.
    pub(super) fn targets(&self, restore: &Restore<'_>) -> Vec<String> {
        match self {
            Self::Counted(case) => case.targets(restore),
            Self::Together(_) => vec![restore.target().to_owned()],
        }
    }

    /// Asserts that all of it is in the targets, once, as readers see it, and that the map leads there.
    #[track_caller]
    pub(super) fn assert_right(&self, kafka: &Kafka, restore: &Restore<'_>) {
        match self {
            Self::Counted(case) => case.assert_right(kafka, restore),
            Self::Together(together) => together.assert_right(kafka, restore),
        }
    }

    /// Returns its name.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Counted(case) => format!("{:?}", case.way),
            Self::Together(_) => "Together".to_owned(),
        }
    }
}

/// A restore on its way over a path.
pub(super) struct Life<'a> {
    pub(super) path: &'a Path,
    pub(super) restore: Restore<'a>,
    agent: Agent,
    is_done: bool,
}

impl<'a> Life<'a> {
    /// Starts a restore.
    pub(super) fn start(path: &'a Path, restore: Restore<'a>) -> Self {
        Self { path, agent: restore.start(&[]), restore, is_done: false }
    }

    /// Returns what the process says that runs now.
    pub(super) fn log(&self) -> String {
        self.agent.log()
    }

    /// Returns whether it has ended, which it must have done well.
    #[track_caller]
    pub(super) fn is_done(&mut self) -> bool {
        self.is_done = self.is_done || (!self.agent.runs() && !was_killed(&mut self.agent));
        self.is_done
    }

    /// Kills it as `kill -9` does, unless it is done.
    #[track_caller]
    pub(super) fn kill(&mut self) {
        if !self.is_done() {
            self.agent.signal(Signal::SIGKILL);
            self.is_done = !was_killed(&mut self.agent);
        }
    }

    /// Kills it and starts it again.
    #[track_caller]
    pub(super) fn start_again(&mut self) {
        self.kill();
        if !self.is_done {
            self.agent = self.restore.start(&[]);
        }
    }

    /// Asks it to end (SIGTERM), which it does though it waits for the cluster, and starts it again.
    #[track_caller]
    pub(super) fn end_and_start_again(&mut self) {
        if !self.is_done() {
            self.agent.signal(Signal::SIGTERM);
            let status = self.agent.wait();
            assert_eq!(status.code(), Some(130), "{status}:\n{}", self.agent.log());
            self.agent = self.restore.start(&[]);
        }
    }

    /// Kills it and starts it again so that it ends soon.
    #[track_caller]
    pub(super) fn hurry(&mut self, restore: &Restore<'_>) {
        self.kill();
        if !self.is_done {
            self.agent = restore.start(&[]);
        }
    }
}

/// Where a topic's partitions end, as told by whoever is asked; `None` while nobody tells.
pub(super) type Ends<'a> = &'a dyn Fn(&str) -> Option<Vec<i64>>;

impl Life<'_> {
    /// Returns where the partitions of its targets end; nothing of those that are not there yet.
    pub(super) fn ends(&self, ends: Ends<'_>) -> Vec<i64> {
        self.path.targets(&self.restore).iter().flat_map(|target| ends(target).unwrap_or_default()).collect()
    }

    /// Waits until more records have come to each partition of its targets than were there, unless it is done.
    #[track_caller]
    pub(super) fn wait_grown(&mut self, ends: Ends<'_>, before: &[i64]) {
        let name = self.path.name();
        let all = self.path.targets(&self.restore).len() * TARGETS as usize;
        wait_paced(LONGEST, Duration::from_millis(100), &format!("more comes over {name}"), || {
            let now = self.ends(ends);
            let has_grown = |(at, end): (usize, &i64)| *end > before.get(at).copied().unwrap_or(0) + 10;
            let has_grown = now.len() == all && now.iter().enumerate().all(has_grown);
            (self.is_done() || has_grown).then_some(())
        });
    }
}

/// Restores over each path, `changed`; kills each restore several times when something has come, and asserts that all is
/// right in the end.
pub(super) fn kill_midway<'a>(
    kafka: &Kafka,
    paths: &'a [Path],
    name: &str,
    changed: impl Fn(Restore<'a>) -> Restore<'a> + Sync,
) {
    let ends = |topic: &str| kafka.topics().contains(topic).then(|| kafka.ends(topic));
    let kill = |path: &'a Path| {
        let mut life = Life::start(path, changed(path.lasting(kafka, name, 15)));
        for _ in 0..2 {
            let before = life.ends(&ends);
            life.wait_grown(&ends, &before);
            life.start_again();
        }
        life.hurry(&changed(path.fast(kafka, name)));
        wait_paced(DEADLINE, Duration::from_millis(100), "it is done", || life.is_done().then_some(()));
        path.assert_right(kafka, &life.restore);
    };
    thread::scope(|scope| paths.iter().for_each(|path| drop(scope.spawn(|| kill(path)))));
}
