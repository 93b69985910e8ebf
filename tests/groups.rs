//! Agents of one consumer group: they share the partitions, whoever of them comes, goes, dies or stands still.
//!
//! `REBALANCES=n` sets how often one does (30 where it is not set), `SEED=n` repeats which.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::agent::{Agent, Backup};
use crate::support::chain::{assert_same, headers};
use crate::support::kafka::Kafka;
use crate::support::workload::{Contents, Load, Writer};
use crate::support::{DEADLINE, alone, wait_for, wait_within};

/// No partition may stand still for longer.
const IDLE: Duration = Duration::from_secs(15);

/// Agents that live at the same time.
const MOST: usize = 3;

const PARTITIONS: i32 = 6;

/// Returns how many partitions the group has given an agent.
fn share(agent: &Agent) -> usize {
    agent.metric("kafka_backup_group_partitions") as usize
}

/// Waits until each of `agents` has about the same number of partitions, `all` together.
#[track_caller]
fn wait_until_shared(agents: &mut [Agent], all: usize) {
    wait_for(&format!("{} agents share {all} partitions", agents.len()), || {
        assert!(agents.iter_mut().all(Agent::runs), "an agent ended");
        let shares: Vec<usize> = agents.iter().map(share).collect();
        let least = all / agents.len();
        let fair = shares.iter().all(|share| (least..=least + 1).contains(share));
        (fair && shares.iter().sum::<usize>() == all).then_some(())
    });
}

/// Waits until the archive holds all of the topic; its bytes, and so its records, are the broker's.
#[track_caller]
fn wait_until_whole(kafka: &Kafka, backup: &Backup, topic: &str) {
    let mut records = Vec::new();
    for partition in 0..kafka.partitions(topic) {
        let log = kafka.log_bytes(topic, partition);
        wait_for("the archive has caught up", || {
            (backup.chain(topic, partition).bytes().len() >= log.len()).then_some(())
        });
        assert_same(&format!("{topic}-{partition}"), &backup.chain(topic, partition).bytes(), &log);
        records.push((partition, headers(&log).iter().map(|batch| batch.count as usize).sum::<usize>()));
    }
    let _ = backup.command("verify", &["--deep"]).ok();
    assert_eq!(backup.counts(topic), records, "as many records as the broker has");
}

/// Waits until the group has committed all of the topic: what lag tools show.
#[track_caller]
fn wait_until_committed(kafka: &Kafka, backup: &Backup, group: &str, topic: &str) {
    let ends: BTreeMap<i32, i64> =
        (0..kafka.partitions(topic)).map(|partition| (partition, backup.chain(topic, partition).next())).collect();
    wait_for("the group has committed what is durable", || (kafka.committed(group, topic) == ends).then_some(()));
}

/// Asserts that librdkafka has fetched nothing, once it has told at all.
#[track_caller]
fn assert_never_fetched(agent: &mut Agent) {
    agent.wait_until("librdkafka tells what it did", |agent| {
        (agent.metric("kafka_backup_group_statistics_total") > 0.0).then_some(())
    });
    assert_eq!(agent.metric("kafka_backup_group_fetches") as i64, 0, "librdkafka only takes part in the group");
}

#[test]
fn partitions_and_topics_that_appear_are_shared_too_and_go_to_who_is_left() {
    let kafka = Kafka::shared_with_disk();
    let (theme, mut contents) = (format!("share-{:08x}", fastrand::u32(..)), Contents::new());
    let (first, second) = (format!("{theme}-1"), format!("{theme}-2"));
    let writer = Writer::new(kafka, &[]);
    kafka.create(&first, 4, &[]);
    let backup = Backup::of(kafka, &[]).source("topics_regex", &format!("{theme}-.*"));
    let backup = backup.source("group_id", &theme).source("metadata_interval", "500ms");
    let backup = backup.kafka("statistics.interval.ms", "500");
    let mut agents = [backup.run(), backup.run()];
    wait_until_shared(&mut agents, 4);
    kafka.add_partitions(&first, 6);
    wait_until_shared(&mut agents, 6);
    kafka.create(&second, 4, &[]);
    wait_until_shared(&mut agents, 10);
    let _ = writer.write(&first, &contents.records(6, 50, 300));
    let _ = writer.write(&second, &contents.records(4, 50, 300));
    wait_until_whole(kafka, &backup, &first);
    wait_until_whole(kafka, &backup, &second);
    for agent in &mut agents {
        agent.wait_until("it has captured its part and nothing else", |agent| {
            (agent.metric("kafka_backup_captured_records_total") == 250.0).then_some(())
        });
        assert_never_fetched(agent);
        assert_eq!(agent.get("/readyz").map(|(code, _)| code), Some(200));
    }
    let [leaves, stays] = agents;
    leaves.terminate();
    wait_until_shared(&mut [stays], 10);
    wait_until_committed(kafka, &backup, &theme, &first);
}

/// Watches how far each partition is in the archive: a thread that reads the folder.
struct Monitor {
    end: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    thread: Option<JoinHandle<()>>,
}

/// What was seen of a partition.
#[derive(Clone)]
struct Seen {
    /// The name of its newest segment.
    newest: String,
    /// Since when.
    since: Instant,
    /// The longest time without a new one.
    longest: Duration,
}

impl Monitor {
    /// Watches partitions that have been begun.
    fn start(backup: &Backup, topic: &str) -> Self {
        let timelines = backup.timelines(topic);
        assert_eq!(timelines.len(), 1, "{timelines:?}");
        let folders: Vec<PathBuf> = (0..PARTITIONS).map(|partition| timelines[0].join(partition.to_string())).collect();
        let new = |folder: &PathBuf| Seen { newest: newest(folder), since: Instant::now(), longest: Duration::ZERO };
        let seen = Arc::new(Mutex::new(folders.iter().map(new).collect::<Vec<_>>()));
        let end = Arc::new(AtomicBool::new(false));
        let (ended, told) = (end.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                for (partition, folder) in folders.iter().enumerate() {
                    let newest = newest(folder);
                    let seen = &mut told.lock().expect("nobody panics while holding it")[partition];
                    seen.longest = seen.longest.max(seen.since.elapsed());
                    if newest != seen.newest {
                        (seen.newest, seen.since) = (newest, Instant::now());
                    }
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { end, seen, thread: Some(thread) }
    }

    /// Waits until each partition has gone on after now.
    #[track_caller]
    fn wait_until_all_go_on(&self, agents: &mut [Member]) {
        let now = Instant::now();
        wait_within(DEADLINE, "each partition goes on", || {
            assert!(agents.iter_mut().all(|member| member.agent.runs()), "an agent ended by itself");
            let seen = self.seen.lock().expect("nobody panics while holding it");
            seen.iter().all(|seen| seen.since > now).then_some(())
        });
    }

    /// Ends; returns the longest time for which each partition stood still.
    fn end(mut self) -> Vec<Duration> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().expect("it ends once").join().expect("the archive is readable");
        let seen = self.seen.lock().expect("nobody panics while holding it");
        seen.iter().map(|seen| seen.longest).collect()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Returns the name of the newest segment in a folder.
fn newest(folder: &Path) -> String {
    let names = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.into_string().expect("UTF-8")).filter(|name| name.ends_with(".log"));
    names.max().unwrap_or_default()
}

/// What happens to the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Start,
    Terminate,
    Kill,
    Stop,
    Continue,
}

const CHANGES: [Change; 5] = [Change::Start, Change::Terminate, Change::Kill, Change::Stop, Change::Continue];

/// An agent of the group.
struct Member {
    agent: Agent,
    number: u32,
    is_stopped: bool,
}

/// The agents of the group, one to three of which live.
struct Fleet<'a> {
    backup: &'a Backup,
    members: Vec<Member>,
    random: fastrand::Rng,
    made: BTreeMap<Change, u32>,
    started: u32,
    /// How many shall live next: two and three in turns, and one in between.
    wanted: usize,
}

impl<'a> Fleet<'a> {
    fn new(backup: &'a Backup) -> Self {
        let given = std::env::var("SEED").ok().map(|seed| seed.parse().expect("SEED is a number"));
        let seed = given.unwrap_or_else(|| fastrand::u64(..));
        println!("changes: SEED={seed} repeats them");
        let random = fastrand::Rng::with_seed(seed);
        let mut fleet = Self { backup, members: Vec::new(), random, made: BTreeMap::new(), started: 0, wanted: MOST };
        fleet.start();
        fleet.start();
        fleet
    }

    fn start(&mut self) {
        self.started += 1;
        self.members.push(Member { agent: self.backup.run(), number: self.started, is_stopped: false });
    }

    /// Makes the next change: one of those that were made least often of those that can be made.
    fn change(&mut self, monitor: &Monitor) {
        let running = self.members.iter().filter(|member| !member.is_stopped).count();
        let is_stopped = running < self.members.len();
        let mut can: Vec<Change> = CHANGES.to_vec();
        can.retain(|change| match change {
            Change::Start => self.members.len() < self.wanted,
            Change::Terminate | Change::Kill => running > 1 && self.members.len() >= self.wanted,
            Change::Stop => running > 1 && !is_stopped,
            Change::Continue => is_stopped,
        });
        self.random.shuffle(&mut can);
        let change = *can.iter().min_by_key(|change| self.made.get(change).unwrap_or(&0)).expect("some can be made");
        // After one that the group finds out only by a time-out the next such one waits until it has: a partition may
        // be hit twice in a row, but its 15 s count from the first time on. What stands still goes on before or after.
        let waits = match change {
            Change::Kill | Change::Stop => true,
            Change::Continue => self.random.bool(),
            _ => false,
        };
        if waits {
            monitor.wait_until_all_go_on(&mut self.members);
        }
        *self.made.entry(change).or_default() += 1;
        let number = self.make(change);
        println!("{change:?} agent {number}: {} live", self.members.len());
        std::thread::sleep(Duration::from_millis(self.random.u64(100..1200)));
    }

    /// Makes a change; returns to whom.
    fn make(&mut self, change: Change) -> u32 {
        let stopped = change == Change::Continue;
        if change == Change::Start {
            self.start();
            return self.started;
        }
        let places: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].is_stopped == stopped).collect();
        let at = places[self.random.usize(..places.len())];
        let number = self.members[at].number;
        if matches!(change, Change::Terminate | Change::Kill) {
            self.wanted = if self.wanted == MOST { MOST - 1 } else { MOST };
        }
        match change {
            Change::Terminate => self.members.remove(at).agent.terminate(),
            Change::Kill => self.members.remove(at).agent.kill(),
            _ => {
                let signal = if stopped { Signal::SIGCONT } else { Signal::SIGSTOP };
                self.members[at].agent.signal(signal);
                self.members[at].is_stopped = !stopped;
            }
        }
        number
    }

    /// Has whoever stands still go on; returns all that live, at least two.
    fn settle(mut self) -> Vec<Agent> {
        self.members.iter().for_each(|member| member.agent.signal(Signal::SIGCONT));
        while self.members.len() < 2 {
            self.start();
        }
        self.members.into_iter().map(|member| member.agent).collect()
    }
}

#[test]
fn agents_of_a_group_that_come_go_die_and_stand_still_lose_nothing_and_no_partition_stands_still_for_long() {
    let _alone = alone();
    let changes: u32 =
        std::env::var("REBALANCES").map_or(30, |changes| changes.parse().expect("REBALANCES is a number"));
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("group", PARTITIONS, &[]);
    let load = Load::start(kafka, &topic, 2, Duration::from_millis(40));
    let backup = Backup::of(kafka, &[&topic]).sink("roll_interval", "500ms").source("group_id", &topic);
    let backup = backup.kafka("statistics.interval.ms", "500");
    let mut fleet = Fleet::new(&backup);
    wait_for("each partition is begun", || {
        (0..PARTITIONS).all(|partition| !backup.chain(&topic, partition).0.is_empty()).then_some(())
    });
    let monitor = Monitor::start(&backup, &topic);
    let began = Instant::now();
    (0..changes).for_each(|_| fleet.change(&monitor));
    monitor.wait_until_all_go_on(&mut fleet.members);
    let took = began.elapsed();
    let made = fleet.made.clone();
    let mut agents = fleet.settle();
    wait_until_shared(&mut agents, PARTITIONS as usize);
    let idle = monitor.end();
    load.end();
    let longest = idle.iter().max().expect("partitions");
    let _ = writeln!(
        std::io::stderr(),
        "{changes} changes in {:.0} s ({made:?}): a partition stood still for {:.1} s at most",
        took.as_secs_f64(),
        longest.as_secs_f64()
    );
    assert!(*longest <= IDLE, "longest time without progress of each partition: {idle:?}");
    wait_until_whole(kafka, &backup, &topic);
    wait_until_committed(kafka, &backup, &topic, &topic);
    agents.iter_mut().for_each(assert_never_fetched);
    agents.into_iter().for_each(Agent::terminate);
    wait_until_whole(kafka, &backup, &topic);
}
