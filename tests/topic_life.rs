//! What happens to topics while an agent runs: they come and go, grow, lose their first records, wait for transactions.
//! Each story compares the archive with the broker's own files or a consumer, and names what `list` and `verify` say.

use std::path::PathBuf;

use kafka_backup::kafka::client::{At, EpochQuery, Isolation, OffsetQuery};
use kafka_backup::kafka::{Client, Properties};
use kafka_backup::record::{Partition, TopicId};
use nix::sys::signal::Signal;

use crate::support::agent::{Agent, Backup};
use crate::support::chain::{Chain, assert_prefix, assert_same, headers};
use crate::support::kafka::Kafka;
use crate::support::reader::read_committed;
use crate::support::workload::{Contents, Writer};

/// A producer whose batches hold ten records each.
fn writer_of_tens(kafka: &Kafka) -> Writer {
    Writer::new(kafka, &[("batch.num.messages", "10"), ("linger.ms", "50")])
}

/// Waits until the archive holds the bytes that the broker has of every partition of `topic`, which has one timeline.
fn wait_until_whole(kafka: &Kafka, agent: &mut Agent, backup: &Backup, topic: &str) {
    for partition in 0..kafka.partitions(topic) {
        let log = kafka.log_bytes(topic, partition);
        agent.wait_until("the archive has caught up", |_| {
            (backup.chain(topic, partition).bytes().len() >= log.len()).then_some(())
        });
        assert_same(&format!("{topic}-{partition}"), &backup.chain(topic, partition).bytes(), &log);
    }
}

/// A timeline, as `list` and `verify` must tell it.
struct Told<'a> {
    topic: &'a str,
    folder: PathBuf,
    newest: bool,
    partitions: i32,
    /// That a consumer of committed records gets.
    records: usize,
}

impl<'a> Told<'a> {
    /// A topic that has one timeline.
    fn only(backup: &Backup, topic: &'a str, partitions: i32, records: usize) -> Self {
        let folders = backup.timelines(topic);
        let [folder] = &folders[..] else { panic!("{topic} has one timeline: {folders:?}") };
        Self { topic, folder: folder.clone(), newest: true, partitions, records }
    }

    /// Returns the row of `list`: what there is on disk.
    fn row(&self) -> String {
        let id = self.folder.file_name().and_then(|name| name.to_str()).expect("a topic id");
        let chains = (0..self.partitions).map(|partition| Chain::read(&self.folder.join(partition.to_string())));
        let (segments, bytes) =
            chains.fold((0, 0), |(segments, bytes), chain| (segments + chain.0.len(), bytes + chain.bytes().len()));
        format!("{},{id},{},{},{segments},{bytes}", self.topic, self.newest, self.partitions)
    }
}

/// Asserts that `list` and `verify` tell these timelines and no other, that they have no forks, and that nothing is
/// wrong with them.
#[track_caller]
fn assert_told(backup: &Backup, timelines: &[Told<'_>]) {
    let mut rows: Vec<_> = timelines.iter().map(|told| format!("{},,,", told.row())).collect();
    rows.sort();
    let list = backup.command("list", &["--format", "csv"]).ok();
    let mut listed: Vec<_> = list.lines().skip(1).collect();
    listed.sort_unstable();
    assert_eq!(listed, rows, "{list}");

    let mut rows: Vec<_> = timelines.iter().map(|told| format!("{},{},sound", told.row(), told.records)).collect();
    rows.sort();
    let verify = backup.command("verify", &["--deep", "--format", "json"]).ok();
    let report: serde_json::Value = serde_json::from_str(&verify).expect("JSON");
    let row = |topic: &serde_json::Value| {
        let cells = ["topic", "topic_id", "newest", "partitions", "segments", "bytes", "records", "result"];
        let text = |name| topic[name].as_str().map_or_else(|| topic[name].to_string(), str::to_owned);
        cells.map(text).join(",")
    };
    let mut verified: Vec<_> = report["topics"].as_array().expect("topics").iter().map(row).collect();
    verified.sort();
    assert_eq!((verified, report["sound"].as_bool()), (rows, Some(true)), "{verify}");
    assert_eq!(report["findings"], serde_json::json!([]), "{verify}");
}

/// Returns the offsets of the one gap in a chain, which `show-offset-mapping` must tell.
#[track_caller]
fn told_gap(backup: &Backup, topic: &str, partition: i32) -> (i64, i64) {
    let batches = headers(&backup.chain(topic, partition).bytes());
    let gaps: Vec<_> = batches.iter().filter(|batch| batch.count == 0).collect();
    let [gap] = gaps[..] else { panic!("one gap: {gaps:?}") };
    let (first, next) = (gap.base_offset, gap.last_offset + 1);
    let mapping = backup.command("show-offset-mapping", &[]).ok();
    let told: Vec<_> = mapping.lines().filter(|line| line.contains("Gap: ")).collect();
    assert_eq!(told.len(), 1, "{mapping}");
    assert!(told[0].contains(&format!("Gap: partition {partition}, offsets [{first}, {next}): ")), "{mapping}");
    (first, next)
}

fn is_ready(agent: &Agent) -> Option<()> {
    agent.get("/readyz").filter(|(code, _)| *code == 200).map(|_| ())
}

fn not_ready_over(agent: &Agent, words: &[&str]) -> Option<()> {
    let (code, reasons) = agent.get("/readyz")?;
    (code == 503 && words.iter().all(|word| reasons.contains(word))).then_some(())
}

#[test]
fn a_pattern_finds_topics_and_partitions_made_while_the_agent_runs() {
    let kafka = Kafka::shared_with_disk();
    let mut contents = Contents::new();
    let first = kafka.topic("pattern", 1, &[]);
    let theme = first.clone();
    let _ = Writer::new(kafka, &[]).write(&first, &contents.records(1, 10, 100));
    let named = kafka.topic("by-name", 1, &[]);
    let backup = Backup::of(kafka, &[&named])
        .source("topics_regex", &format!(".*{theme}.*"))
        .source_list("topics_exclude", &[".*-test"])
        .source("metadata_interval", "1s");
    let mut agent = backup.run();
    wait_until_whole(kafka, &mut agent, &backup, &first);

    let (second, excluded, hidden) = (format!("{theme}-second"), format!("{theme}-test"), format!("__{theme}"));
    for topic in [&second, &excluded, &hidden] {
        kafka.create(topic, 1, &[]);
        let _ = Writer::new(kafka, &[]).write(topic, &contents.records(1, 20, 100));
    }
    kafka.add_partitions(&first, 3);
    let _ = Writer::new(kafka, &[]).write(&first, &contents.records(3, 10, 100));
    let _ = Writer::new(kafka, &[]).write(&named, &contents.records(1, 5, 100));
    for topic in [&first, &second, &named] {
        wait_until_whole(kafka, &mut agent, &backup, topic);
        assert_eq!(backup.cat(topic), read_committed(kafka, topic));
    }
    for topic in [&excluded, &hidden] {
        assert!(backup.timelines(topic).is_empty(), "{topic} is not asked for");
    }
    agent.terminate();
    let told = [(&first, 3, 40), (&second, 1, 20), (&named, 1, 5)];
    assert_told(&backup, &told.map(|(topic, partitions, records)| Told::only(&backup, topic, partitions, records)));
}

#[test]
fn a_pattern_that_matches_nothing_yet_waits_and_a_pass_refuses_it() {
    let kafka = Kafka::shared_with_disk();
    let theme = format!("not-yet-{:08x}", fastrand::u32(..));
    let backup = Backup::of(kafka, &[]).source("topics_regex", &theme).source("metadata_interval", "1s");
    backup.backup().fails_with(2, &[&theme]);
    let mut agent = backup.run();
    agent.wait_until("it waits", |agent| agent.get("/readyz").map(|_| ()));
    kafka.create(&theme, 2, &[]);
    let _ = Writer::new(kafka, &[]).write(&theme, &Contents::new().records(2, 50, 100));
    wait_until_whole(kafka, &mut agent, &backup, &theme);
    agent.terminate();
    assert_told(&backup, &[Told::only(&backup, &theme, 2, 100)]);
}

#[test]
fn internal_topics_are_captured_by_exact_name_only() {
    let kafka = Kafka::shared_with_disk();
    // A consumer group writes to it.
    let topic = kafka.topic("before-internal", 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, 5, 100));
    kafka.commit("internal-group", &topic, 0, 3);
    let internal = "__consumer_offsets";
    let backup = Backup::of(kafka, &[internal]);
    let _ = backup.backup().ok();
    let held: usize = (0..kafka.partitions(internal))
        .map(|partition| {
            let bytes = backup.chain(internal, partition).bytes();
            assert_prefix(internal, &bytes, &kafka.log_bytes(internal, partition));
            bytes.len()
        })
        .sum();
    assert!(held > 0, "the commit at least is held");
    let records = backup.cat(internal).len();
    assert!(records > 0, "a commit is a record");
    assert_told(&backup, &[Told::only(&backup, internal, kafka.partitions(internal), records)]);
}

#[test]
fn a_topic_made_again_while_the_agent_runs_gets_a_timeline_of_its_own() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("remade", 2, &[]);
    let mut contents = Contents::new();
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(2, 10, 100));
    let backup = Backup::of(kafka, &[&topic]).source("metadata_interval", "1s");
    let mut agent = backup.run();
    wait_until_whole(kafka, &mut agent, &backup, &topic);
    let mut older = Vec::new();
    for round in 0..2 {
        let held: Vec<_> = backup.timelines(&topic);
        older.extend(held.into_iter().filter(|timeline| !older.contains(timeline)).collect::<Vec<_>>());
        let before: Vec<_> = older.iter().map(|timeline| Chain::read(&timeline.join("1")).bytes()).collect();
        kafka.delete(&topic);
        kafka.create(&topic, 2, &[]);
        // More than before: a reader that goes on by name and offset would take the later ones for the old topic's.
        let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(2, 15 + 5 * round, 100));
        let newer = agent.wait_until("it archives the topic made again", |_| {
            let newer = backup.timelines(&topic).into_iter().find(|timeline| !older.contains(timeline))?;
            let whole = (0..2).all(|partition| {
                Chain::read(&newer.join(partition.to_string())).bytes() == kafka.log_bytes(&topic, partition)
            });
            whole.then_some(newer)
        });
        assert_eq!(Chain::read(&newer.join("1")).0[0].first, 0, "from its beginning");
        let after: Vec<_> = older.iter().map(|timeline| Chain::read(&timeline.join("1")).bytes()).collect();
        assert!(before == after, "the older ones are untouched");
        agent.wait_until("it is ready", is_ready);
    }
    assert_eq!((older.len(), backup.timelines(&topic).len()), (2, 3));
    agent.terminate();
    assert_eq!(backup.cat(&topic), read_committed(kafka, &topic), "the newest is meant unless told otherwise");
    let newest = backup.timelines(&topic).into_iter().find(|timeline| !older.contains(timeline)).expect("the third");
    let folders = older.into_iter().chain([newest]).zip([20, 30, 40]);
    let told =
        folders.map(|(folder, records)| Told { topic: &topic, folder, newest: records == 40, partitions: 2, records });
    assert_told(&backup, &told.collect::<Vec<_>>());
}

#[test]
fn what_a_leader_says_of_a_topic_made_again_is_not_taken_for_the_old_one() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("successor", 1, &[]);
    let _ = Writer::new(kafka, &[]).write(&topic, &Contents::new().records(1, 10, 100));
    let map = [("bootstrap.servers".to_owned(), kafka.brokers().to_owned())];
    let client = Client::new(Properties::new(map.into()).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let metadata = runtime.block_on(client.metadata(Some(std::slice::from_ref(&topic)))).unwrap();
    let (ours, leader) = (metadata.topics[0].topic_id, metadata.topics[0].partitions[0].leader);
    for (topic_id, code) in [(ours, 0), (TopicId(uuid::Uuid::from_u128(7)), 100), (TopicId::NONE, 0)] {
        let partition = Partition { topic: topic.as_str().into(), topic_id, index: 0 };
        let query = EpochQuery { partition: partition.clone(), leader_epoch: -1, epoch: 0 };
        assert_eq!(runtime.block_on(client.epoch_ends(leader, &[query])).unwrap()[0].code, code, "{topic_id}");
        let query = OffsetQuery { partition, leader_epoch: -1, at: At::Latest };
        let told = runtime.block_on(client.list_offsets(leader, &[query], Isolation::Committed)).unwrap();
        assert_eq!(told[0].code, code, "{topic_id}");
    }
}

#[test]
fn a_topic_deleted_while_the_agent_runs_is_kept_and_said() {
    let kafka = Kafka::shared_with_disk();
    let (gone, other) = (kafka.topic("gone", 1, &[]), kafka.topic("stays", 1, &[]));
    let mut contents = Contents::new();
    // A long roll: what is in memory when the topic goes must be made durable.
    let backup = Backup::of(kafka, &[&gone, &other]).source("metadata_interval", "1s").sink("roll_interval", "10m");
    let mut agent = backup.run();
    let _ = Writer::new(kafka, &[]).write(&gone, &contents.records(1, 30, 100));
    agent.wait_until("it has read it", |agent| (agent.metric("kafka_backup_last_stable_offset") >= 30.0).then_some(()));
    let log = kafka.log_bytes(&gone, 0);
    kafka.delete(&gone);
    agent.wait_until("it is not ready and says why", |agent| not_ready_over(agent, &[&gone, "was deleted"]));
    agent.wait_until("what was read of it is kept", |_| (backup.chain(&gone, 0).next() == 30).then_some(()));
    assert_same(&gone, &backup.chain(&gone, 0).bytes(), &log);
    let _ = Writer::new(kafka, &[]).write(&other, &contents.records(1, 10, 100));
    agent.wait_until("it has read the other", |agent| {
        let (_, page) = agent.get("/metrics")?;
        let mut ends = page.lines().filter(|line| line.starts_with("kafka_backup_last_stable_offset{"));
        ends.any(|line| line.contains(&*other) && line.ends_with(" 10")).then_some(())
    });
    agent.terminate();
    assert_same(&other, &backup.chain(&other, 0).bytes(), &kafka.log_bytes(&other, 0));
    assert_eq!(backup.counts(&gone), [(0, 30)]);
    assert_told(&backup, &[Told::only(&backup, &gone, 1, 30), Told::only(&backup, &other, 1, 10)]);
    // The archive knows the topic: an agent that starts now waits for it.
    let mut agent = backup.run();
    agent.wait_until("it waits for the topic", |agent| not_ready_over(agent, &[&gone, "does not exist"]));
}

#[test]
fn records_deleted_ahead_of_a_running_agent_leave_a_declared_gap() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("ahead", 1, &[]);
    let (writer, mut contents) = (writer_of_tens(kafka), Contents::new());
    let _ = writer.write(&topic, &contents.records(1, 50, 100));
    let backup = Backup::of(kafka, &[&topic]);
    let mut agent = backup.run();
    wait_until_whole(kafka, &mut agent, &backup, &topic);
    agent.signal(Signal::SIGSTOP);
    let first = read_committed(kafka, &topic);
    let _ = writer.write(&topic, &contents.records(1, 50, 100));
    kafka.delete_records(&topic, 0, 75);
    agent.signal(Signal::SIGCONT);
    agent.wait_until("it goes on behind the gap", |_| (backup.chain(&topic, 0).next() == 100).then_some(()));
    assert_eq!(agent.metric("kafka_backup_gaps_total"), 1.0);
    assert!(agent.log().contains("lost records"), "{}", agent.log());
    agent.wait_until("it is ready again", is_ready);
    agent.terminate();
    let cat = backup.cat(&topic);
    // What it had fetched before it was stopped, it may have held.
    let rest = read_committed(kafka, &topic);
    assert_eq!(cat[..50], first[..]);
    assert!(cat.ends_with(&rest) && cat.len() >= 50 + rest.len());
    let (first, next) = told_gap(&backup, &topic, 0);
    assert!(first >= 50 && next <= 75, "the gap is of what was deleted: [{first}, {next})");
    assert_told(&backup, &[Told::only(&backup, &topic, 1, cat.len())]);
}

#[test]
fn a_partition_that_appears_with_its_first_records_gone_begins_with_a_declared_gap() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("appears", 1, &[]);
    let backup = Backup::of(kafka, &[&topic]).source("metadata_interval", "1s");
    let mut agent = backup.run();
    agent.wait_until("it watches the topic", |_| (!backup.timelines(&topic).is_empty()).then_some(()));
    // Stopped, it cannot see the partition before its first records are gone.
    agent.signal(Signal::SIGSTOP);
    kafka.add_partitions(&topic, 2);
    let mut records = Contents::new().records(1, 50, 100);
    records.iter_mut().for_each(|record| record.partition = 1);
    let _ = writer_of_tens(kafka).write(&topic, &records);
    kafka.delete_records(&topic, 1, 20);
    agent.signal(Signal::SIGCONT);
    agent.wait_until("it archives", |_| (backup.chain(&topic, 1).next() == 50).then_some(()));
    let chain = backup.chain(&topic, 1);
    assert_eq!((chain.0[0].first, chain.0[0].next), (0, 20), "the gap from the beginning");
    agent.terminate();
    assert_eq!(backup.cat(&topic), read_committed(kafka, &topic));
    assert_eq!(told_gap(&backup, &topic, 1), (0, 20));
    assert_told(&backup, &[Told::only(&backup, &topic, 2, 30)]);
}

#[test]
fn a_beginning_at_the_end_is_kept_across_a_kill_before_the_first_segment() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("latest", 2, &[]);
    let mut contents = Contents::new();
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(2, 40, 100));
    let backup = Backup::of(kafka, &[&topic]).source("start", "latest").sink("roll_interval", "10m");
    let mut agent = backup.run();
    let begun =
        || backup.timelines(&topic).iter().all(|timeline| (0..2).all(|n| timeline.join(n.to_string()).exists()));
    agent.wait_until("it has begun", |agent| {
        (agent.metric("kafka_backup_last_stable_offset") >= 80.0 && begun()).then_some(())
    });
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(2, 10, 100));
    agent.wait_until("it has read more", |agent| {
        (agent.metric("kafka_backup_last_stable_offset") >= 100.0).then_some(())
    });
    agent.kill();
    assert!(backup.chain(&topic, 0).0.is_empty(), "no segment was made");
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(2, 10, 100));
    let mut agent = backup.run();
    agent.wait_until("it has read it all", |agent| {
        (agent.metric("kafka_backup_last_stable_offset") >= 120.0).then_some(())
    });
    agent.terminate();
    let mut expected = read_committed(kafka, &topic);
    expected.retain(|record| record.offset >= 40);
    assert_eq!(backup.cat(&topic), expected);
    assert_eq!(backup.counts(&topic), [(0, 20), (1, 20)]);
    assert_told(&backup, &[Told::only(&backup, &topic, 2, 40)]);
}

#[test]
fn a_beginning_in_time_is_the_first_record_of_that_time() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("since", 1, &[]);
    let mut records = Contents::new().records(1, 100, 100);
    let begin = jiff::Timestamp::now().as_millisecond() - 100_000;
    for (number, record) in records.iter_mut().enumerate() {
        record.timestamp = begin + 1000 * number as i64;
    }
    let _ = writer_of_tens(kafka).write(&topic, &records);
    let backup = Backup::of(kafka, &[&topic]).source("start", &(begin + 60_000).to_string());
    let _ = backup.backup().ok();
    let mut expected = read_committed(kafka, &topic);
    expected.retain(|record| record.offset >= 60);
    assert_eq!(backup.cat(&topic), expected);
    let _ = backup.backup().ok();
    assert_eq!(backup.chain(&topic, 0).next(), 100);
    assert_told(&backup, &[Told::only(&backup, &topic, 1, 40)]);
}

#[test]
fn a_transaction_that_nobody_ends_is_named_and_holds_nothing_back_once_it_is_ended() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("hanging", 1, &[]);
    let mut contents = Contents::new();
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(1, 10, 100));
    let hanging = Writer::transactional(kafka, "hanging");
    hanging.begin();
    let _ = hanging.write(&topic, &contents.records(1, 5, 100));
    let _ = Writer::new(kafka, &[]).write(&topic, &contents.records(1, 20, 100));
    let backup = Backup::of(kafka, &[&topic]).source("transaction_patience", "1s");
    let mut agent = backup.run();
    let id = hanging.transactional_id();
    agent.wait_until("it names the transaction", |agent| {
        not_ready_over(agent, &["producer id", id, "since offset 10", "--start-offset 10"])
    });
    agent.wait_until("what comes before it is held", |_| (backup.chain(&topic, 0).next() == 10).then_some(()));
    hanging.abort();
    agent.wait_until("it is ready again", is_ready);
    wait_until_whole(kafka, &mut agent, &backup, &topic);
    agent.terminate();
    assert_eq!(backup.cat(&topic), read_committed(kafka, &topic));
    assert_told(&backup, &[Told::only(&backup, &topic, 1, 30)]);
}
