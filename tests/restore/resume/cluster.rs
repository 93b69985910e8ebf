//! What happens to the cluster that is restored to: leaders move, a broker dies and returns, or hangs, replicas are missing
//! for a while, connections break and with them acknowledgements. Restores over all paths wait it out, are killed in the
//! midst of it and go on, and in the end everything is there once.
//!
//! `MOVES=n` sets how often each of it happens to one restore (1).

use std::sync::{MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::meddling::set;
use super::paths::{Life, Path, kill_midway};
use super::{COUNT, number};
use crate::crash::report;
use crate::restore::Restore;
use crate::support::cluster::{Cluster, NodeId};
use crate::support::cutting::Cutting;
use crate::support::kafka::Kafka;
use crate::support::{DEADLINE, alone, wait_for, wait_paced};

/// Each node leads one of the partitions, and follows the others.
const REPLICAS: [&[NodeId]; 3] = [&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]];

/// What a restore needs besides its targets, and how many partitions each of these has.
const INTERNAL: [(&str, i32); 2] = [("__transaction_state", 3), ("__consumer_offsets", 3)];

/// Records of each target partition: so many that a restore of them is on its way for as long as it is meant to be.
const RECORDS: i64 = 2001;

/// How long a restore lasts, so that all that happens to the cluster happens while it sends, also where each wait for a broker
/// that hangs takes half a minute.
const SECONDS: usize = 250;

/// What is restored, over each path.
fn paths(cluster: &Cluster) -> &'static [Path] {
    static PATHS: OnceLock<Vec<Path>> = OnceLock::new();
    PATHS.get_or_init(|| {
        Path::all(cluster.kafka(), RECORDS, |theme, partitions| {
            cluster.topic(theme, &REPLICAS[..partitions as usize], &[("min.insync.replicas", "2")])
        })
    })
}

/// Restores over each path to the shared cluster.
struct Story {
    name: &'static str,
    lives: Vec<Life<'static>>,
    paths: &'static [Path],
    cluster: MutexGuard<'static, Cluster>,
    _alone: MutexGuard<'static, ()>,
}

impl Story {
    fn begin(name: &'static str) -> Self {
        let (_alone, cluster) = (alone(), Cluster::shared());
        let began = Instant::now();
        let paths = paths(&cluster);
        report(&format!("{name}: all is written after {:?}", began.elapsed()));
        let life = |path: &'static Path| Life::start(path, path.lasting(cluster.kafka(), name, SECONDS));
        let lives = paths.iter().map(life).collect();
        let mut story = Self { name, lives, paths, cluster, _alone };
        story.goes_on("the beginning");
        story
    }

    /// Waits until each restore that is not done goes on.
    #[track_caller]
    fn goes_on(&mut self, after: &str) {
        let (began, cluster) = (Instant::now(), &self.cluster);
        let ends = |topic: &str| cluster.ends(topic);
        let before: Vec<_> = self.lives.iter().map(|life| life.ends(&ends)).collect();
        for (life, before) in self.lives.iter_mut().zip(&before) {
            life.wait_grown(&ends, before);
        }
        let done = self.lives.iter_mut().filter_map(|life| life.is_done().then_some(())).count();
        report(&format!("{}: all go on {:?} after {after}, {done} are done", self.name, began.elapsed()));
        assert!(done < self.lives.len(), "something is still sent");
    }

    /// Kills each restore and starts it again.
    #[track_caller]
    fn start_again(&mut self) {
        self.lives.iter_mut().for_each(Life::start_again);
    }

    /// Waits until each restore that is not done has said that it waits for replicas.
    #[track_caller]
    fn wait_told(&mut self) {
        for life in &mut self.lives {
            let what = format!("{} says that it waits", life.path.name());
            let tells = |line: &str| {
                let waits = ["NotEnoughReplicas", "waits for partitions that lack a leader or replicas in sync"];
                line.contains(" WARN ") && waits.iter().any(|why| line.contains(why)) && line.ends_with("trying again")
            };
            wait_for(&what, || (life.is_done() || life.log().lines().any(tells)).then_some(()));
        }
    }

    fn targets(&self) -> Vec<String> {
        self.lives.iter().flat_map(|life| life.path.targets(&life.restore)).collect()
    }

    /// Moves the lead of one partition of everything that restores need.
    fn move_leaders(&self, partition: i32) {
        let targets = self.targets();
        let internal = INTERNAL.iter().map(|(topic, partitions)| (*topic, partition % partitions));
        for (topic, partition) in targets.iter().map(|target| (target.as_str(), partition % 2)).chain(internal) {
            let old = self.cluster.led(topic, partition).leader;
            self.cluster.move_leader(topic, partition, old % 3 + 1);
        }
    }

    /// Returns a node that is not the active controller, and leads a target partition.
    fn follower(&self) -> NodeId {
        let (controller, targets) = (self.cluster.controller(), self.targets());
        let mut leaders = targets.iter().flat_map(|target| [0, 1].map(|at| self.cluster.led(target, at).leader));
        leaders.find(|leader| *leader != controller).expect("not one node leads all of them")
    }

    /// Lets each restore end fast, while `meanwhile` is done all the time, and asserts that all is right.
    #[track_caller]
    fn ends_right(mut self, meanwhile: impl Fn(&Self)) {
        let began = Instant::now();
        self.cluster.heal();
        let kafka = self.cluster.kafka();
        for (life, path) in self.lives.iter_mut().zip(self.paths) {
            life.hurry(&path.fast(kafka, self.name));
        }
        wait_paced(DEADLINE, Duration::from_millis(100), "all are done", || {
            let is_done = self.lives.iter_mut().all(Life::is_done);
            if !is_done {
                meanwhile(&self);
            }
            is_done.then_some(())
        });
        report(&format!("{}: all are done after {:?}", self.name, began.elapsed()));
        self.cluster.heal();
        let kafka = self.cluster.kafka();
        thread::scope(|scope| {
            for life in &self.lives {
                let (path, restore): (&Path, &Restore<'_>) = (life.path, &life.restore);
                drop(scope.spawn(move || path.assert_right(kafka, restore)));
            }
        });
        report(&format!("{}: all are right after {:?}", self.name, began.elapsed()));
    }
}

#[test]
fn a_restore_follows_leaders_that_move() {
    let mut story = Story::begin("moves");
    for number in 0..number("MOVES", 1) as i32 {
        story.move_leaders(2 * number);
        story.goes_on("leaders have moved");
        story.start_again();
        story.move_leaders(2 * number + 1);
        story.goes_on("they have moved while it began again");
    }
    let partition = std::cell::Cell::new(0);
    story.ends_right(|story| story.move_leaders(partition.replace(partition.get() + 1)));
}

#[test]
fn a_restore_outlives_a_broker_that_dies_and_returns() {
    let mut story = Story::begin("dies");
    for _ in 0..number("MOVES", 1) {
        let victim = story.cluster.controller();
        story.cluster.kill(victim);
        story.start_again();
        story.goes_on("a broker has died");
        story.start_again();
        story.cluster.start_again(victim);
        story.goes_on("it has returned");
        story.cluster.heal();
    }
    story.ends_right(|_| {});
}

#[test]
fn a_restore_leaves_a_broker_that_hangs_with_its_connections_open() {
    let mut story = Story::begin("hangs");
    for _ in 0..number("MOVES", 1) {
        let victim = story.follower();
        story.cluster.freeze(victim);
        story.goes_on("a broker hangs");
        story.start_again();
        story.goes_on("it has begun again meanwhile");
        story.cluster.thaw(victim);
        story.goes_on("the broker does not hang any more");
        let victim = story.follower();
        story.cluster.freeze(victim);
        story.start_again();
        story.goes_on("it has begun while another broker hangs");
        story.cluster.heal();
    }
    story.ends_right(|_| {});
}

#[test]
fn a_restore_waits_while_replicas_are_missing_and_says_so() {
    let mut story = Story::begin("starved");
    for _ in 0..number("MOVES", 1) {
        let victim = story.follower();
        story.cluster.kill(victim);
        story.goes_on("a broker has died");
        for target in story.targets() {
            set(story.cluster.kafka(), &target, "min.insync.replicas", "3");
        }
        story.wait_told();
        // Killed while it sends, and told to end while it waits to begin.
        story.start_again();
        story.wait_told();
        story.lives.iter_mut().for_each(Life::end_and_start_again);
        story.wait_told();
        story.cluster.start_again(victim);
        story.goes_on("all replicas are there again");
        story.cluster.heal();
        for target in story.targets() {
            set(story.cluster.kafka(), &target, "min.insync.replicas", "2");
        }
    }
    story.ends_right(|_| {});
}

#[test]
fn a_restore_outlives_connections_that_break_and_answers_that_nobody_hears() {
    let kafka = Kafka::shared();
    let front = Cutting::often(kafka.brokers());
    let paths = Path::all(kafka, COUNT, |theme, partitions| kafka.topic(theme, partitions, &[]));
    kill_midway(kafka, &paths, "cut", |restore| Restore { brokers: front.address().to_owned(), ..restore });
    report(&format!("{} cuts", front.cuts()));
    assert!(front.cuts() >= 20, "{} cuts", front.cuts());
}
