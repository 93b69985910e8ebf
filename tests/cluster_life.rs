//! What happens to a cluster of three in its life: leaders move, brokers die and come back, are restarted one after the
//! other, hang, ask for patience; and a cluster is not another one of the same address.
//!
//! Each story runs under a load with acks=all, and in the end the archive is what the leaders have on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use crate::support::agent::{Agent, Backup};
use crate::support::chain::{Chain, assert_same};
use crate::support::cluster::{Cluster, NodeId};
use crate::support::kafka::Kafka;
use crate::support::reader::{Record, read_committed};
use crate::support::workload::{Contents, Load, Writer};
use crate::support::{alone, wait_for};

/// How soon capture of a partition goes on after its new leader is known.
const GOES_ON_WITHIN: Duration = Duration::from_secs(10);

/// Each node leads one of the partitions, and follows the others.
const REPLICAS: [&[NodeId]; 3] = [&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]];

/// A load on the shared cluster and the agent that captures it. Fields drop in order: the agent tells its log before its
/// folder goes.
struct Story {
    agent: Agent,
    load: Load,
    backup: Backup,
    topic: String,
    cluster: MutexGuard<'static, Cluster>,
    _alone: MutexGuard<'static, ()>,
}

impl Story {
    fn begin(theme: &str) -> Self {
        let (_alone, cluster) = (alone(), Cluster::shared());
        let topic = cluster.topic(theme, &REPLICAS, &[("min.insync.replicas", "2")]);
        let load = Load::start(cluster.kafka(), &topic, 10, Duration::from_millis(25));
        let backup = Backup::of(cluster.kafka(), &[&topic]);
        let agent = backup.run();
        let mut story = Self { agent, load, backup, topic, cluster, _alone };
        (0..3).for_each(|partition| story.goes_on(partition));
        story
    }

    /// Writes a record, with a producer that knows nothing of what was before, and waits until it is archived, which must
    /// not take long.
    #[track_caller]
    fn goes_on(&mut self, partition: i32) {
        let since = Instant::now();
        let record = Record { partition, timestamp: -1, value: Some(b"goes on".to_vec()), ..Record::default() };
        let written = Writer::new(self.cluster.kafka(), &[]).write(&self.topic, &[record])[0].1;
        let chain = || self.backup.chain(&self.topic, partition).next();
        self.agent.wait_until("capture goes on", |_| (chain() > written).then_some(()));
        let took = since.elapsed();
        assert!(took < GOES_ON_WITHIN, "partition {partition} goes on after {took:?} only");
        println!("partition {partition} goes on after {took:?}");
    }

    /// Waits until a partition that `node` led has another leader, and until capture goes on there.
    #[track_caller]
    fn goes_on_elsewhere(&mut self, partition: i32, node: NodeId) {
        let leader = self.cluster.wait_led_by_another(&self.topic, partition, node);
        println!("node {leader} leads partition {partition} now");
        self.goes_on(partition);
    }

    fn leader(&self, partition: i32) -> NodeId {
        self.cluster.led(&self.topic, partition).leader
    }

    /// Ends the load: the archive holds what the leaders hold, as every reader of it says, and nothing is wrong.
    #[track_caller]
    fn ends_whole(mut self) {
        self.load.end();
        self.cluster.heal();
        for partition in 0..3 {
            assert_holds(&self.cluster, &self.backup, &self.topic, partition);
        }
        let agent = &mut self.agent;
        agent.wait_until("nothing is wrong any more", |agent| (agent.get("/readyz")?.0 == 200).then_some(()));
        assert_told(self.cluster.kafka(), &self.backup, &self.topic);
        self.agent.terminate();
    }
}

/// Asserts that a partition's chain becomes its leader's log.
#[track_caller]
fn assert_holds(cluster: &Cluster, backup: &Backup, topic: &str, partition: i32) {
    let log = cluster.log_bytes(cluster.led(topic, partition).leader, topic, partition);
    assert!(!log.is_empty(), "something was written");
    wait_for("the archive has caught up", || (backup.chain(topic, partition).bytes().len() >= log.len()).then_some(()));
    assert_same(&format!("{topic}-{partition}"), &backup.chain(topic, partition).bytes(), &log);
}

/// Asserts that the readers of the archive find it sound, and in it what a consumer sees.
#[track_caller]
fn assert_told(kafka: &Kafka, backup: &Backup, topic: &str) {
    let _ = backup.command("verify", &["--deep"]).ok();
    let (ours, theirs) = (backup.cat(topic), read_committed(kafka, topic));
    assert!(ours == theirs, "`cat` shows {} records, a consumer sees {}", ours.len(), theirs.len());
    let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
    theirs.iter().for_each(|record| *counts.entry(record.partition).or_default() += 1);
    assert_eq!(backup.counts(topic), counts.into_iter().collect::<Vec<_>>());
    let bytes: usize = (0..3).map(|partition| backup.chain(topic, partition).bytes().len()).sum();
    let list = backup.command("list", &["--format", "csv"]).ok();
    let row: Vec<&str> = list.lines().nth(1).expect("a topic").split(',').collect();
    assert_eq!((row[0], row[2], row[3], row[5]), (topic, "true", "3", &*bytes.to_string()), "{list}");
    assert_eq!(list.lines().count(), 2, "one timeline: {list}");
}

#[test]
fn capture_follows_leaders_that_move() {
    let mut story = Story::begin("cluster-moves");
    for partition in [0, 1, 2, 0] {
        let old = story.leader(partition);
        story.cluster.move_leader(&story.topic, partition, old % 3 + 1);
        story.goes_on(partition);
    }
    story.ends_whole();
}

#[test]
fn capture_outlives_a_broker_that_is_killed_and_returns() {
    let mut story = Story::begin("cluster-kill");
    let controller = story.cluster.controller();
    let victim = story.cluster.nodes().into_iter().find(|node| *node != controller).expect("three nodes");
    let partition = (0..3).find(|partition| story.leader(*partition) == victim).expect("it leads one");
    story.cluster.kill(victim);
    story.goes_on_elsewhere(partition, victim);
    story.cluster.start_again(victim);
    story.cluster.heal();
    story.cluster.move_leader(&story.topic, partition, victim);
    story.goes_on(partition);
    story.ends_whole();
}

#[test]
fn capture_outlives_the_death_of_the_active_controller() {
    let mut story = Story::begin("cluster-controller");
    let controller = story.cluster.controller();
    let partition = (0..3).find(|partition| story.leader(*partition) == controller).expect("it leads one");
    story.cluster.kill(controller);
    story.goes_on_elsewhere(partition, controller);
    assert_ne!(story.cluster.controller(), controller, "another node is controller");
    story.ends_whole();
}

#[test]
fn capture_goes_on_through_a_rolling_restart() {
    let mut story = Story::begin("cluster-rolling");
    for node in story.cluster.nodes() {
        story.cluster.terminate(node);
        (0..3).for_each(|partition| story.goes_on_elsewhere(partition, node));
        story.cluster.start_again(node);
        // As an operator does: the next one only when everything is in sync again.
        story.cluster.heal();
    }
    story.ends_whole();
}

#[test]
fn capture_leaves_a_leader_that_hangs_with_its_connections_open() {
    let mut story = Story::begin("cluster-hangs");
    let controller = story.cluster.controller();
    let victim = story.cluster.nodes().into_iter().find(|node| *node != controller).expect("three nodes");
    let partition = (0..3).find(|partition| story.leader(*partition) == victim).expect("it leads one");
    story.cluster.freeze(victim);
    story.goes_on_elsewhere(partition, victim);
    story.cluster.thaw(victim);
    story.ends_whole();
}

#[test]
fn a_quota_slows_capture_and_nothing_else() {
    const BYTES_PER_SECOND: f64 = 150_000.0;
    let cluster = Cluster::shared();
    let topic = cluster.topic("cluster-quota", &REPLICAS, &[]);
    let records = Contents::new().records(1, 2000, 1000);
    let _ = Writer::new(cluster.kafka(), &[("linger.ms", "20")]).write(&topic, &records);
    let bytes = cluster.log_bytes(1, &topic, 0).len() as f64;
    cluster.quota("kafka-backup", Some(BYTES_PER_SECOND));
    let backup = Backup::of(cluster.kafka(), &[&topic]).kafka("max.partition.fetch.bytes", "100000");
    let began = Instant::now();
    let mut agent = backup.run();
    agent.wait_until("all of it has come", |_| (backup.chain(&topic, 0).next() == 2000).then_some(()));
    let (took, fetches) = (began.elapsed(), agent.metric("kafka_backup_fetches_total"));
    cluster.quota("kafka-backup", None);
    // A quota is an average over eleven windows of a second.
    let least = Duration::from_secs_f64(bytes / BYTES_PER_SECOND - 11.0);
    assert!(took > least, "{bytes} bytes in {took:?}");
    assert!(agent.metric("kafka_backup_throttle_seconds_total") >= 1.0, "the brokers' wish was heard");
    let bound = 30.0 + 10.0 * took.as_secs_f64();
    assert!(fetches < bound, "{fetches} Fetch answers in {took:?}");
    assert_eq!(agent.get("/readyz").map(|(code, _)| code), Some(200), "patience is no trouble");
    assert_holds(&cluster, &backup, &topic, 0);
    agent.terminate();
    let _ = backup.command("verify", &["--deep"]).ok();
}

/// Two topics whose leader `first` is about to lose what only it holds.
struct Losing {
    cluster: MutexGuard<'static, Cluster>,
    first: NodeId,
    second: NodeId,
    topics: [String; 2],
    writer: Writer,
    contents: Contents,
    _alone: MutexGuard<'static, ()>,
}

impl Losing {
    fn begin() -> Self {
        let (_alone, cluster) = (alone(), Cluster::shared());
        let controller = cluster.controller();
        let mut others = cluster.nodes().into_iter().filter(|node| *node != controller);
        let (first, second) = (others.next().expect("a node"), others.next().expect("a node"));
        let configs = [("unclean.leader.election.enable", "true"), ("min.insync.replicas", "1")];
        let topic = |theme| cluster.topic(theme, &[&[first, second]], &configs);
        let topics = [topic("cluster-lost-running"), topic("cluster-lost-away")];
        let writer = Writer::new(cluster.kafka(), &[("batch.num.messages", "10"), ("linger.ms", "20")]);
        Self { cluster, first, second, topics, writer, contents: Contents::new(), _alone }
    }

    /// Writes as many records to each topic.
    fn write(&mut self, count: usize) {
        for topic in &self.topics {
            let _ = self.writer.write(topic, &self.contents.records(1, count, 300));
        }
    }

    /// Waits until `node` leads both topics, alone or with others.
    fn wait_led_by(&self, node: NodeId) {
        for topic in &self.topics {
            wait_for("it leads", || (self.cluster.led(topic, 0).leader == node).then_some(()));
        }
    }

    /// Lets the first node write on alone, then die, and the second one lead without what it had missed.
    ///
    /// Returns what the first one had.
    fn lose(&mut self, mut archived: impl FnMut()) -> [Vec<u8>; 2] {
        self.cluster.kill(self.second);
        for topic in &self.topics {
            let alone = vec![self.first];
            wait_for("the first is alone", || (self.cluster.led(topic, 0).in_sync == alone).then_some(()));
        }
        self.write(60);
        archived();
        let had = self.topics.each_ref().map(|topic| self.cluster.log_bytes(self.first, topic, 0));
        self.cluster.kill(self.first);
        self.cluster.start_again(self.second);
        self.wait_led_by(self.second);
        had
    }
}

/// Returns the folders of a partition's forks.
fn forks(backup: &Backup, topic: &str) -> Vec<PathBuf> {
    let timelines = backup.timelines(topic);
    let entries = timelines.iter().flat_map(|timeline| std::fs::read_dir(timeline).into_iter().flatten());
    let folders = entries.map(|entry| entry.expect("an entry").path());
    let is_fork = |folder: &Path| folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("0@"));
    folders.filter(|folder| is_fork(folder)).collect()
}

/// Asserts that an archive holds what the first leader had, and beside it what the second one made of it from 100 on.
#[track_caller]
fn assert_forked(losing: &Losing, backup: &Backup, topic: &str, had: &[u8]) {
    let leader = losing.cluster.led(topic, 0).leader;
    let log = losing.cluster.log_bytes(leader, topic, 0);
    let from = crate::support::chain::up_to(&log, 100).len();
    let fork = wait_for(&format!("a fork of {topic} holds what the source has from offset 100 on"), || {
        let forks = forks(backup, topic);
        assert!(forks.len() <= 1, "one fork: {forks:?}");
        let chain = forks.first().map(|fork| (fork.clone(), Chain::read(fork)))?;
        (chain.1.bytes().len() >= log.len() - from).then_some(chain)
    });
    assert_same("the chain from before", &backup.chain(topic, 0).bytes(), had);
    assert_same("the fork", &fork.1.bytes(), &log[from..]);
    let name = fork.0.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(name.ends_with("-100"), "both have what was before offset 100: {name}");
    let verified = backup.command("verify", &["--deep"]).ok();
    assert!(verified.contains(&name), "`verify` tells of the fork {name}:\n{verified}");
    let mapping = backup.command("show-offset-mapping", &[]).ok();
    assert!(mapping.contains("from offset 100"), "{mapping}");
    let list = backup.command("list", &["--format", "csv"]).ok();
    let row: Vec<&str> = list.lines().nth(1).expect("a topic").split(',').collect();
    let bytes = had.len() + log.len() - from;
    assert_eq!((row[0], row[3], row[5]), (topic, "1", &*bytes.to_string()), "{list}");
}

#[test]
fn records_that_an_unclean_election_lost_stay_and_a_fork_goes_on_beside_them() {
    let mut losing = Losing::begin();
    let [running, away] = losing.topics.clone();
    losing.write(100);
    let live = Backup::of(losing.cluster.kafka(), &[&running]);
    let later = Backup::of(losing.cluster.kafka(), &[&away]);
    let mut agent = live.run();
    let had = losing.lose(|| {
        agent.wait_until("all of it is archived", |_| (live.chain(&running, 0).next() == 160).then_some(()));
        let _ = later.backup().ok();
    });
    losing.write(30);
    let told = |text: &str| text.contains(&running) && text.contains("lost what the archive holds from offset 100 on");
    agent.wait_until("the agent tells of it", |agent| {
        (told(&agent.log()) && told(&agent.get("/readyz")?.1)).then_some(())
    });
    // The old leader returns and cuts off what the new one does not have.
    losing.cluster.heal();
    losing.write(30);
    assert_forked(&losing, &live, &running, &had[0]);
    assert!(agent.runs());
    agent.terminate();
    // What went on while no agent ran is found by the next pass, although the log ends where the archive did: at 160.
    let pass = later.backup();
    assert!(pass.stderr.contains("lost what the archive holds from offset 100 on"), "{}", pass.stderr);
    let _ = pass.ok();
    assert_forked(&losing, &later, &away, &had[1]);
}

/// Every file below `folder` with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).expect("a readable file"));
        }
    }
    files
}

#[test]
fn another_cluster_of_the_same_address_and_topic_is_never_appended() {
    let mut kafka = Kafka::start();
    let mut contents = Contents::new();
    kafka.create("orders", 1, &[]);
    let _ = Writer::new(&kafka, &[]).write("orders", &contents.records(1, 100, 300));
    let backup = Backup::of(&kafka, &["orders"]);
    let mut agent = backup.run();
    agent.wait_until("all of it is archived", |_| (backup.chain("orders", 0).next() == 100).then_some(()));
    let held = files(Path::new(backup.archive()));
    kafka.replace();
    kafka.create("orders", 1, &[]);
    let _ = Writer::new(&kafka, &[]).write("orders", &contents.records(1, 300, 300));
    agent.wait_until("the running agent refuses it", |agent| {
        let (code, reasons) = agent.get("/readyz")?;
        (code == 503 && reasons.contains("another cluster")).then_some(())
    });
    agent.terminate();
    let mut refused = backup.run();
    assert_eq!((refused.wait().code(), refused.log().contains("another cluster")), (Some(2), true));
    backup.backup().fails_with(2, &["another cluster"]);
    assert!(files(Path::new(backup.archive())) == held, "nothing was written");
}
