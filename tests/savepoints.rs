//! Savepoints, made by agents of a real Kafka: no group is ever ahead of the ends that stand beside it, whatever writes,
//! reads and commits meanwhile; nothing half passes for whole; of several agents one makes each.
//!
//! What stands in a savepoint is read here from its JSON, without code of the agent. `SAVEPOINT_GROUPS=1000` makes the
//! measuring test measure that many groups of 50 partitions, instead of 50 of 10.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::support::agent::{Agent, Backup, program_with};
use crate::support::kafka::{Kafka, tool};
use crate::support::reader::read_committed;
use crate::support::workload::{Contents, Load, Writer};
use crate::support::{DEADLINE, alone, wait_for, wait_within};

/// A savepoint with what it stands for.
#[derive(Debug, Clone)]
pub(crate) struct Savepoint {
    pub(crate) name: String,
    object: Value,
    /// High watermarks by topic and partition.
    pub(crate) ends: BTreeMap<(String, i64), i64>,
    /// Committed offsets by group, topic and partition.
    pub(crate) offsets: BTreeMap<(String, String, i64), i64>,
}

/// Returns the objects in the folder of savepoints, by name.
fn objects(backup: &Backup) -> BTreeMap<String, Value> {
    let files = fs::read_dir(backup.file("savepoints")).into_iter().flatten().map(|file| file.expect("an entry"));
    let named = files.map(|file| (file.file_name().into_string().expect("UTF-8"), file.path()));
    let read = |path| serde_json::from_slice(&fs::read(path).expect("readable")).expect("whole, and JSON");
    named.filter(|(name, _)| name.ends_with('Z')).map(|(name, path)| (name, read(path))).collect()
}

/// Returns all savepoints, oldest first.
pub(crate) fn savepoints(backup: &Backup) -> Vec<Savepoint> {
    let objects = objects(backup);
    let resolved = |(name, object): (&String, &Value)| {
        assert_eq!(object["name"].as_str(), Some(name.as_str()));
        let mut savepoint =
            Savepoint { name: name.clone(), object: object.clone(), ends: BTreeMap::new(), offsets: BTreeMap::new() };
        if let Some(full) = object["full"].as_str() {
            let full = objects.get(full).unwrap_or_else(|| panic!("{name} differs from {full}, which is missing"));
            assert!(full["full"].is_null(), "{name} differs from one that differs itself");
            savepoint.add(full);
            savepoint.remove(&object["gone"]);
        }
        savepoint.add(object);
        savepoint
    };
    objects.iter().map(resolved).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("{key} is a list in {value}"))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is a text in {value}")).to_owned()
}

impl Savepoint {
    fn add(&mut self, object: &Value) {
        for topic in list(object, "topics") {
            for end in list(topic, "partitions") {
                let partition = end["partition"].as_i64().expect("an index");
                self.ends.insert((text(topic, "topic"), partition), end["high_watermark"].as_i64().expect("an offset"));
            }
        }
        for group in list(object, "groups") {
            for topic in list(group, "offsets") {
                for committed in list(topic, "partitions") {
                    let (partition, offset) = (committed[0].as_i64().expect("an index"), committed[1].as_i64());
                    let key = (text(group, "group"), text(topic, "topic"), partition);
                    self.offsets.insert(key, offset.expect("an offset"));
                }
            }
        }
    }

    fn remove(&mut self, gone: &Value) {
        let groups: BTreeSet<_> = list(gone, "groups").iter().map(|name| name.as_str().expect("a name")).collect();
        self.offsets.retain(|(group, _, _), _| !groups.contains(group.as_str()));
        for group in list(gone, "offsets") {
            for topic in list(group, "offsets") {
                for partition in list(topic, "partitions") {
                    let key = (text(group, "group"), text(topic, "topic"), partition.as_i64().expect("an index"));
                    self.offsets.remove(&key).expect("the full one has it");
                }
            }
        }
        assert!(list(gone, "topics").is_empty(), "no topic was deleted");
    }

    fn group(&self, name: &str) -> Option<&Value> {
        list(&self.object, "groups").iter().find(|group| group["group"] == *name)
    }

    /// Asserts that no group has committed more than there was.
    #[track_caller]
    fn assert_not_ahead(&self) {
        for ((group, topic, partition), offset) in &self.offsets {
            let end = self.ends.get(&(topic.clone(), *partition)).copied().unwrap_or(-1);
            assert!(
                *offset <= end,
                "{}: {group} is at {offset} of {topic}-{partition}, which ends at {end}",
                self.name
            );
        }
    }
}

/// Asserts that each savepoint names the one before it.
#[track_caller]
fn assert_chained(savepoints: &[Savepoint]) {
    for pair in savepoints.windows(2) {
        assert_eq!(pair[1].object["previous"].as_str(), Some(pair[0].name.as_str()), "before {}", pair[1].name);
    }
    assert!(savepoints.first().is_none_or(|first| first.object["previous"].is_null()));
}

/// Reads and commits in a thread of its own until it is ended.
pub(crate) struct Application {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Application {
    fn spawn(step: impl FnMut() + Send + 'static) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let (ended, mut step) = (end.clone(), step);
        let run = move || {
            while !ended.load(Ordering::Relaxed) {
                step();
            }
        };
        Self { end, thread: Some(std::thread::spawn(run)) }
    }

    /// A consumer that commits after every few records.
    pub(crate) fn consumer(kafka: &Kafka, group: &str, topic: &str, isolation: &str) -> Self {
        let consumer = subscribed(kafka, group, topic, &[("isolation.level", isolation)]);
        let mut read = 0;
        Self::spawn(move || {
            let Some(message) = consumer.poll(Duration::from_millis(20)) else { return };
            let message = message.expect("a record");
            read += 1;
            if read % 5 == 0 {
                // A rebalance may be under way; the next one counts.
                let _ = consumer.commit_message(&message, CommitMode::Sync);
            }
        })
    }

    /// Copies `from` to partition 0 of `to`, offsets and records in one transaction; a value is `partition:offset`.
    pub(crate) fn copier(kafka: &Kafka, group: &str, from: &str, to: &str) -> Self {
        let consumer = subscribed(kafka, group, from, &[]);
        let id = format!("{group}-copier");
        let properties = [("transactional.id", id.as_str()), ("linger.ms", "1")];
        let producer: BaseProducer = kafka.client(&properties).create().expect("a producer");
        producer.init_transactions(DEADLINE).expect("the coordinator answers");
        let (from, to) = (from.to_owned(), to.to_owned());
        Self::spawn(move || {
            let mut offsets = BTreeMap::new();
            while offsets.len() < 3 {
                let Some(message) = consumer.poll(Duration::from_millis(20)) else { break };
                let message = message.expect("a record");
                if offsets.is_empty() {
                    producer.begin_transaction().expect("none is open");
                }
                let value = format!("{}:{}", message.partition(), message.offset());
                let record = BaseRecord::<(), str>::to(&to).partition(0).payload(&value);
                producer.send(record).expect("the queue has room");
                offsets.insert(message.partition(), message.offset() + 1);
            }
            if offsets.is_empty() {
                return;
            }
            let mut committed = TopicPartitionList::new();
            for (partition, offset) in offsets {
                committed.add_partition_offset(&from, partition, Offset::Offset(offset)).expect("an offset");
            }
            let member = consumer.group_metadata().expect("it is a member");
            producer.send_offsets_to_transaction(&committed, &member, DEADLINE).expect("the coordinator answers");
            producer.commit_transaction(DEADLINE).expect("the coordinator answers");
        })
    }

    pub(crate) fn end(mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().expect("it ends once").join().expect("it ends well");
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn subscribed(kafka: &Kafka, group: &str, topic: &str, properties: &[(&str, &str)]) -> BaseConsumer {
    let common = [("group.id", group), ("auto.offset.reset", "earliest"), ("enable.auto.commit", "false")];
    let consumer: BaseConsumer = kafka.client(&[&common[..], properties].concat()).create().expect("a consumer");
    consumer.subscribe(&[topic]).expect("subscribed");
    consumer
}

pub(crate) fn group_name(theme: &str) -> String {
    format!("{theme}-{:08x}", fastrand::u32(..))
}

/// Makes a savepoint from the command line and returns its name.
pub(crate) fn create(backup: &Backup) -> String {
    create_counting(backup).0
}

/// As [`create`]; returns how many requests the cluster got for it, too.
fn create_counting(backup: &Backup) -> (String, usize) {
    let config = backup.write_config(&backup.config());
    let config = config.to_str().expect("UTF-8");
    let level = "kafka_backup::kafka::wire=trace";
    let ended = program_with(&["savepoints", "create", "--config", config, "--log-level", level]);
    let requests = ended.stderr.lines().filter(|line| line.contains("TRACE") && line.contains("asking ")).count();
    assert!(requests > 0, "{}", ended.stderr);
    (ended.ok().trim_end().to_owned(), requests)
}

/// Waits until `count` savepoints are there.
fn wait_until_made(agent: &mut Agent, backup: &Backup, count: usize) {
    agent.wait_until("savepoints are made", |_| (objects(backup).len() >= count).then_some(()));
}

#[test]
fn no_group_is_ahead_of_the_ends_and_every_transaction_it_had_committed_is_whole() {
    let _alone = alone();
    let kafka = Kafka::shared();
    let (input, output) = (kafka.topic("sp-in", 3, &[]), kafka.topic("sp-out", 1, &[]));
    let mixed = kafka.topic("sp-mixed", 2, &[]);
    let [plain, dirty, copier] = ["sp-plain", "sp-dirty", "sp-copier"].map(group_name);
    let backup = Backup::of(kafka, &[&input, &output, &mixed]).source("savepoint_interval", "1s");
    let mut agent = backup.run();
    let loads = [Load::start(kafka, &input, 2, Duration::from_millis(10)), Load::transactions(kafka, &mixed)];
    let applications = [
        Application::consumer(kafka, &plain, &mixed, "read_committed"),
        Application::consumer(kafka, &dirty, &mixed, "read_uncommitted"),
        Application::copier(kafka, &copier, &input, &output),
    ];
    agent.wait_until("each group is in five savepoints, at five places", |_| {
        let savepoints = savepoints(&backup);
        let places = |group: &String| {
            let of = |savepoint: &Savepoint| -> Vec<i64> {
                savepoint.offsets.iter().filter(|((name, _, _), _)| name == group).map(|(_, offset)| *offset).collect()
            };
            savepoints.iter().map(of).filter(|offsets| !offsets.is_empty()).collect::<BTreeSet<_>>().len()
        };
        [&plain, &dirty, &copier].into_iter().all(|group| places(group) >= 5).then_some(())
    });
    applications.into_iter().for_each(Application::end);
    loads.into_iter().for_each(Load::end);
    agent.terminate();

    let savepoints = savepoints(&backup);
    assert_chained(&savepoints);
    // Where each record of the input went.
    let copies = read_committed(kafka, &output).into_iter().map(|record| {
        let value = String::from_utf8(record.value.expect("a value")).expect("text");
        let (partition, offset) = value.split_once(':').expect("partition:offset");
        ((partition.parse::<i64>().expect("an index"), offset.parse::<i64>().expect("an offset")), record.offset)
    });
    let copies: BTreeMap<_, _> = copies.collect();
    let mut looked_at = 0;
    for savepoint in &savepoints {
        savepoint.assert_not_ahead();
        let end = savepoint.ends[&(output.clone(), 0)];
        for ((group, _, partition), next) in &savepoint.offsets {
            for offset in (0..*next).filter(|_| *group == copier) {
                let at = copies.get(&(*partition, offset)).expect("what was committed was copied");
                assert!(*at < end, "{}: {partition}:{offset} went to {at}, which is not before {end}", savepoint.name);
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 0, "the copier has committed something");
    let _ = backup.command("savepoints", &["--limit", "0"]).ok();
    let _ = backup.command("verify", &["--deep"]).ok();
}

#[test]
fn nothing_is_written_where_nothing_has_changed_and_a_change_is_a_delta() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("sp-equal", 40, &[]);
    let group = group_name("sp-equal");
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(40, 5, 100));
    (0..20).for_each(|partition| kafka.commit(&group, &topic, partition, 3));
    let backup = Backup::of(kafka, &[&topic]).source("savepoint_interval", "500ms").source_list("groups", &[&group]);
    let _ = backup.backup().ok();
    let before = objects(&backup);
    assert_eq!(before.len(), 1, "a pass makes one");
    let mut agent = backup.run();
    let looked_at = |agent: &Agent| agent.metric("kafka_backup_savepoint_timestamp_seconds");
    let later = |agent: &mut Agent, seconds: f64| {
        let from = looked_at(agent);
        agent.wait_until("the cluster was looked at again", |agent| (looked_at(agent) > from + seconds).then_some(()));
    };
    agent.wait_until("there is a first one", |agent| (looked_at(agent) > 0.0).then_some(()));
    later(&mut agent, 2.5);
    assert_eq!(objects(&backup).len(), before.len(), "nothing has changed");
    kafka.commit(&group, &topic, 0, 4);
    wait_until_made(&mut agent, &backup, before.len() + 1);
    agent.terminate();

    let savepoints = savepoints(&backup);
    assert_chained(&savepoints);
    let last = savepoints.last().expect("there are some");
    assert_eq!(last.offsets[&(group.clone(), topic.clone(), 0)], 4);
    assert_eq!((last.offsets.len(), last.ends.len()), (20, 40));
    // The hour may have ended in between.
    let first_of_hour = savepoints.iter().rev().nth(1).is_none_or(|before| before.name[..11] != last.name[..11]);
    assert_eq!(last.object["full"].is_null(), first_of_hour, "{}", last.object);
    if !first_of_hour {
        assert_eq!(list(&last.object, "topics").len(), 0, "no end has moved: {}", last.object);
    }
    let shown = backup.command("savepoints", &["--format", "csv"]).ok();
    assert!(shown.lines().last().is_some_and(|line| line.contains(",1,40,yes,")), "{shown}");
}

#[test]
fn of_two_agents_one_makes_each_savepoint_and_names_the_one_before() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("sp-two", 4, &[]);
    let group = group_name("sp-two");
    let backup = Backup::of(kafka, &[&topic]).source("group_id", &group).source("savepoint_interval", "1s");
    let load = Load::start(kafka, &topic, 1, Duration::from_millis(50));
    let mut agents = [backup.run(), backup.run()];
    let written = |agents: &[Agent]| -> Vec<f64> {
        agents.iter().map(|agent| agent.metric("kafka_backup_savepoints_written_total")).collect()
    };
    wait_for("both have made some", || {
        assert!(agents.iter_mut().all(Agent::runs), "an agent ended");
        written(&agents).iter().all(|count| *count >= 2.0).then_some(())
    });
    load.end();
    let counts = written(&agents);
    agents.into_iter().for_each(Agent::terminate);
    let savepoints = savepoints(&backup);
    assert_chained(&savepoints);
    assert!(savepoints.len() >= counts.iter().sum::<f64>() as usize, "each was written once: {counts:?}");
    for savepoint in &savepoints {
        assert!(savepoint.name.ends_with(".000Z"), "{}", savepoint.name);
        assert!(savepoint.offsets.keys().all(|(name, _, _)| *name != group), "the agents' own group is left out");
    }
}

#[test]
fn an_agent_killed_at_any_step_of_a_savepoint_leaves_whole_ones_only() {
    if cfg!(not(debug_assertions)) {
        panic!("crash points are in debug builds only: run `cargo test` without --release");
    }
    let kafka = Kafka::shared();
    let topic = kafka.topic("sp-crash", 2, &[]);
    let group = group_name("sp-crash");
    let load = Load::start(kafka, &topic, 1, Duration::from_millis(20));
    let backup = Backup::of(kafka, &[&topic]).source("savepoint_interval", "300ms");
    let mut before = 0;
    for (round, (point, more)) in [("savepoint-groups-read", 1), ("savepoint-created", 2)].into_iter().enumerate() {
        kafka.commit(&group, &topic, 0, round as i64);
        let mut agent = backup.run_with(&[("KAFKA_BACKUP_CRASH_AT", &format!("{point}:2"))]);
        assert_eq!(agent.wait().signal(), Some(9), "{}", agent.log());
        let savepoints = savepoints(&backup);
        assert_eq!(savepoints.len(), before + more, "{point}: what was begun is not there, what was made is");
        assert_chained(&savepoints);
        savepoints.iter().for_each(Savepoint::assert_not_ahead);
        let _ = backup.command("savepoints", &[]).ok();
        before = savepoints.len();
    }
    let mut agent = backup.run();
    wait_until_made(&mut agent, &backup, before + 2);
    load.end();
    agent.terminate();
    assert_chained(&savepoints(&backup));
}

#[test]
fn groups_of_every_protocol_are_kept_with_their_types_and_share_groups_are_named() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("sp-types", 2, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(2, 5, 100));
    let [classic, consumer, share] = ["sp-classic", "sp-consumer", "sp-share"].map(group_name);
    kafka.commit(&classic, &topic, 1, 2);
    let member = subscribed(kafka, &consumer, &topic, &[("group.protocol", "consumer")]);
    let read = wait_within(DEADLINE, "the consumer reads", || member.poll(Duration::from_millis(100)));
    member.commit_message(&read.expect("a record"), CommitMode::Sync).expect("committed");
    let arguments =
        ["--bootstrap-server", kafka.brokers(), "--topic", &topic, "--group", &share, "--timeout-ms", "2000"];
    let _ = tool("org.apache.kafka.tools.consumer.ConsoleShareConsumer", &arguments);

    let backup = Backup::of(kafka, &[&topic]).source("groups_regex", ".*").source_list("groups_exclude", &["x.*"]);
    let _ = backup.backup().ok();
    let savepoint = savepoints(&backup).pop().expect("a pass makes one");
    let told = |name: &str, key: &str| savepoint.group(name).unwrap_or_else(|| panic!("{name} is there"))[key].clone();
    assert_eq!((told(&classic, "type"), told(&classic, "state")), ("classic".into(), "Empty".into()));
    assert_eq!((told(&consumer, "type"), told(&consumer, "state")), ("consumer".into(), "Stable".into()));
    assert_eq!((told(&share, "type"), told(&share, "offsets")), ("share".into(), Value::Array(Vec::new())));
    assert!(savepoint.object["groups_unread"].is_null(), "without an authorizer everybody sees all groups");
    assert_eq!(savepoint.offsets[&(classic, topic.clone(), 1)], 2);
    savepoint.assert_not_ahead();
    let ended = &list(&savepoint.object, "topics")[0]["partitions"][0];
    assert_eq!(ended["archived"]["next"], ended["high_watermark"], "a pass has archived all of it: {ended}");
    let shown = backup.command("savepoints", &["--format", "json"]).ok();
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown[0]["complete"], &shown[0]["kind"]), (&true.into(), &"full".into()));

    assert_eq!(create(&backup), savepoint.name, "nothing has changed since");
    kafka.commit(&group_name("sp-more"), &topic, 0, 1);
    let dry = backup.write_config(&backup.config());
    let dry = program_with(&["savepoints", "create", "--dry-run", "--config", dry.to_str().expect("UTF-8")]);
    assert!(dry.stderr.contains("it would be written"), "{dry:?}");
    assert_eq!((dry.ok(), objects(&backup).len()), (String::new(), 1));
    let second = create(&backup);
    assert_eq!(savepoints(&backup).pop().map(|savepoint| savepoint.name), Some(second));
}

#[test]
fn a_transaction_that_hangs_keeps_savepoints_from_being_complete_and_is_named() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("sp-hang", 1, &[]);
    let (plain, hanging) = (Writer::new(kafka, &[]), Writer::transactional(kafka, "sp-hang"));
    let mut contents = Contents::new();
    let _ = plain.write(&topic, &contents.records(1, 10, 100));
    hanging.begin();
    let _ = hanging.write(&topic, &contents.records(1, 1, 100));
    let _ = plain.write(&topic, &contents.records(1, 5, 100));
    let backup =
        Backup::of(kafka, &[&topic]).source("savepoint_interval", "300ms").source("transaction_patience", "1s");
    let mut agent = backup.run();
    let named = agent.wait_until("a savepoint names it", |_| {
        let last = savepoints(&backup).pop()?;
        list(&last.object, "hanging").first().cloned()
    });
    assert_eq!((&named["topic"], &named["first_offset"]), (&topic.as_str().into(), &10.into()));
    assert!(named["producer_id"].as_i64().is_some_and(|id| id >= 0), "{named}");
    let shown = backup.command("savepoints", &[]).ok();
    let last = shown.lines().last().expect("a row");
    assert!(last.contains(&format!("no: {topic}-0 lacks 6")) && last.contains("hangs in"), "{shown}");
    hanging.commit();
    let complete = |_: &Agent| {
        let shown = backup.command("savepoints", &["--limit", "1", "--format", "csv"]).ok();
        shown.lines().last().is_some_and(|line| line.ends_with(",yes,")).then_some(())
    };
    agent.wait_until("it is over and all is archived", complete);
    agent.terminate();
}

/// Commits `offset` for all partitions of `topic`, in `groups` groups.
fn commit_all(kafka: &Kafka, theme: &str, topic: &str, groups: usize, partitions: i32, offset: i64) {
    let commit = |group: usize| {
        let consumer: BaseConsumer =
            kafka.client(&[("group.id", &format!("{theme}-{group}"))]).create().expect("a consumer");
        let mut offsets = TopicPartitionList::new();
        for partition in 0..partitions {
            offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
        }
        consumer.commit(&offsets, CommitMode::Sync).expect("the coordinator answers");
    };
    std::thread::scope(|scope| {
        for first in 0..4 {
            scope.spawn(move || (first..groups).step_by(4).for_each(commit));
        }
    });
}

#[test]
fn what_a_savepoint_of_many_groups_costs() {
    let _alone = alone();
    let many =
        std::env::var("SAVEPOINT_GROUPS").ok().map(|groups| groups.parse().expect("SAVEPOINT_GROUPS is a number"));
    let (groups, partitions) = many.map_or((50, 10), |groups: usize| (groups, 50));
    // Its own: a thousand groups would be in everybody's savepoints.
    let kafka = Kafka::start();
    let topic = kafka.topic("sp-many", partitions, &[]);
    let _ = Writer::new(&kafka, &[]).write(&topic, &Contents::new().records(partitions, 10, 100));
    let backup = Backup::of(&kafka, &[&topic]);
    let _ = backup.backup().ok();
    let measure = |what: &str| {
        let before = objects(&backup).len();
        let began = Instant::now();
        let (name, requests) = create_counting(&backup);
        let took = began.elapsed();
        let made = objects(&backup);
        let bytes = fs::metadata(backup.file("savepoints").join(&name)).expect("it is there").len();
        let kind = if made[&name]["full"].is_null() { "full" } else { "delta" };
        let (written, bytes) = if made.len() > before { (kind, bytes) } else { ("none", 0) };
        println!(
            "{groups} groups x {partitions} partitions, {what}: {written}, {bytes} bytes, {requests} requests, \
             {took:.2?} with the start of the process"
        );
        (written, bytes, took)
    };
    commit_all(&kafka, "many", &topic, groups, partitions, 1);
    let (kind, full, _) = measure("the first");
    assert_eq!(kind, "full");
    assert_eq!(measure("nothing changed").0, "none");
    commit_all(&kafka, "many", &topic, 1, partitions, 2);
    let (kind, delta, took) = measure("one group changed");
    // Unless the hour has ended.
    assert!(kind == "full" || delta < full / 10, "{delta} of {full} bytes");
    commit_all(&kafka, "many", &topic, groups, partitions, 3);
    measure("all groups changed");
    commit_all(&kafka, "many", &topic, groups, partitions, 4);
    measure("all groups changed again");
    assert!(took < Duration::from_secs(30), "{took:?}");
    let last = savepoints(&backup).pop().expect("some were made");
    assert_eq!(last.offsets.len(), groups * partitions as usize);
    assert!(last.offsets.values().all(|offset| *offset == 4));
}
