//! Whole batches into a real Kafka: who is fenced off, what lands when connections break and leaders move, and topics made
//! for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_backup::batch::outgoing::{Identity, Limits, Outgoing, Refit, Window};
use kafka_backup::batch::{Header, gap, put_crc};
use kafka_backup::kafka::client::topics::{Made, NewTopic};
use kafka_backup::kafka::client::{At, Isolation, OffsetQuery};
use kafka_backup::kafka::produce::{Answer, Producer, Settings, fence};
use kafka_backup::kafka::{Client, Properties};
use kafka_backup::record::{OffsetRange, Partition};
use tokio::time::timeout;

use crate::support::cluster::Cluster;
use crate::support::cutting::Cutting;
use crate::support::kafka::Kafka;
use crate::support::reader::read_committed;
use crate::support::{DEADLINE, alone, block_on, wait_for};
use crate::transactions::Sender;

/// What each batch of these tests has.
const RECORDS: u32 = 2;

pub(crate) fn client(servers: &str) -> Client {
    let map = [("bootstrap.servers", servers), ("reconnect.backoff.ms", "10"), ("reconnect.backoff.max.ms", "200")];
    let map = map.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Client::new(Properties::new(map.into()).expect("good properties"))
}

/// A transactional id that nobody else has.
pub(crate) fn new_id() -> String {
    format!("kafka-backup-restore-{:08x}", fastrand::u32(..))
}

/// Makes the batch of a number: records whose values are the number.
pub(crate) fn batch(number: u32) -> Outgoing {
    let mut bytes = gap(OffsetRange { first: 0, next: i64::from(RECORDS) }, -1).to_vec();
    for offset in 0..RECORDS as u8 {
        // Length, attributes, time delta, offset delta, no key, a value of 4 bytes, no headers; integers are zigzag.
        bytes.extend_from_slice(&[20, 0, 0, 2 * offset, 1, 8]);
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.push(0);
    }
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[27..43].copy_from_slice(&[1_700_000_000_000_i64.to_be_bytes(); 2].concat());
    bytes[57..61].copy_from_slice(&RECORDS.to_be_bytes());
    put_crc(&mut bytes);
    let header = Header::read(&bytes).expect("a batch");
    let (mut fitted, offsets) = (Vec::new(), OffsetRange { first: 0, next: i64::MAX });
    let mut refit = Refit::new(Limits { most_bytes: usize::MAX, merge_below: 0, merge_to: 0 });
    let window = Window { offsets, from: None, until: None };
    refit.put(&header, &Bytes::from(bytes), &window, &mut fitted).expect("a batch as brokers take it");
    fitted.remove(0).batch
}

pub(crate) async fn partitions(client: &Client, topic: &str) -> Vec<Partition> {
    let told = client.metadata(Some(&[topic.to_owned()])).await.expect("it answers").topics.swap_remove(0);
    let partition = |index| Partition { topic: topic.into(), topic_id: told.topic_id, index };
    told.partitions.iter().map(|told| partition(told.index)).collect()
}

/// Returns the log end of each partition.
async fn ends(client: &Client, partitions: &[Partition]) -> Vec<i64> {
    let mut ends = Vec::new();
    for partition in partitions {
        let told = client.metadata(Some(&[partition.topic.to_string()])).await.expect("it answers");
        let leader = told.topics[0].partitions[partition.index as usize].leader;
        let query = OffsetQuery { partition: partition.clone(), leader_epoch: -1, at: At::Latest };
        ends.push(client.list_offsets(leader, &[query], Isolation::Uncommitted).await.expect("it answers")[0].offset);
    }
    ends
}

async fn answer(producer: &mut Producer<u32>) -> Answer<u32> {
    timeout(DEADLINE, producer.answer()).await.expect("an answer in time")
}

/// Waits until `count` batches have landed: in order of their numbers, one offset after the other.
async fn landed(producer: &mut Producer<u32>, count: usize, next: &mut BTreeMap<i32, (u32, i64)>) {
    let mut landed = 0;
    while landed < count {
        match answer(producer).await {
            Answer::Landed { partition, first, records, token } => {
                landed += 1;
                let next = next.entry(partition.index).or_insert((0, first));
                assert_eq!((token, first, records), (next.0, next.1, RECORDS), "{partition}");
                *next = (token + 1, first + i64::from(RECORDS));
            }
            Answer::Trouble { subject, reason } => println!("{subject}: {reason:?}"),
            answer => panic!("{answer:?}"),
        }
    }
}

/// Asserts that a topic holds, in each partition, the batches of the numbers from 0 on, each once and in order.
pub(crate) fn assert_holds(kafka: &Kafka, topic: &str, partitions: i32, batches: u32) {
    let mut values: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    for record in read_committed(kafka, topic) {
        let value = record.value.expect("a value").try_into().expect("four bytes");
        values.entry(record.partition).or_default().push(u32::from_be_bytes(value));
    }
    let expected: Vec<u32> = (0..batches).flat_map(|number| [number; RECORDS as usize]).collect();
    assert_eq!(values.len(), partitions as usize);
    values.iter().for_each(|(partition, values)| assert!(*values == expected, "partition {partition}: {values:?}"));
}

/// Sends a batch as somebody, and returns what became of it.
async fn try_to_send(client: &Client, identity: Identity, partition: &Partition) -> Answer<u32> {
    let mut producer = Producer::start(client, identity, Settings::default());
    producer.open(partition, 0);
    producer.send(partition, batch(0), 0);
    answer(&mut producer).await
}

#[test]
fn a_fence_ends_who_was_before_in_every_partition_also_where_nothing_was_ever_written() {
    let kafka = Kafka::shared();
    let (topic, id) = (kafka.topic("fence", 6, &[]), new_id());
    block_on(async {
        let client = client(kafka.brokers());
        let partitions = partitions(&client, &topic).await;
        let old = fence(&client, &id, &partitions).await.expect("the first fence");
        assert_eq!(ends(&client, &partitions).await, [1; 6], "a marker in each");
        let mut running = Producer::start(&client, old, Settings::default());
        running.open(&partitions[0], 0);
        running.send(&partitions[0], batch(0), 0);
        let told = answer(&mut running).await;
        assert!(matches!(told, Answer::Landed { first: 1, records: RECORDS, .. }), "{told:?}");
        let new = fence(&client, &id, &partitions).await.expect("the second fence");
        assert_eq!(ends(&client, &partitions).await, [4, 2, 2, 2, 2, 2]);
        running.send(&partitions[0], batch(1), 1);
        let mut told = vec![answer(&mut running).await];
        for partition in &partitions[1..] {
            told.push(try_to_send(&client, old, partition).await);
        }
        for told in told {
            assert!(matches!(&told, Answer::Fenced(error) if error.exit_code() == 11), "{told:?}");
        }
        assert_eq!(ends(&client, &partitions).await, [4, 2, 2, 2, 2, 2], "nothing of it has landed");
        for partition in &partitions {
            let told = try_to_send(&client, new, partition).await;
            assert!(matches!(told, Answer::Landed { .. }), "sequence 0 goes on: {told:?}");
        }
    });
}

#[test]
fn ten_thousand_batches_land_once_and_in_order_while_connections_are_cut() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("cut", 6, &[]);
    let front = Cutting::start(kafka.brokers());
    const EACH: u32 = 1667;
    block_on(async {
        let client = client(front.address());
        let partitions = partitions(&client, &topic).await;
        let identity = fence(&client, &new_id(), &partitions).await.expect("a fence");
        let mut producer = Producer::start(&client, identity, Settings::default());
        partitions.iter().for_each(|partition| producer.open(partition, 0));
        for number in 0..EACH {
            partitions.iter().for_each(|partition| producer.send(partition, batch(number), number));
        }
        landed(&mut producer, 6 * EACH as usize, &mut BTreeMap::new()).await;
    });
    println!("{} cuts", front.cuts());
    assert!(front.cuts() >= 10, "{} cuts", front.cuts());
    assert_holds(kafka, &topic, 6, EACH);
}

/// How far a load has come.
#[derive(Default)]
struct Load {
    /// The batches of each partition that have landed, at least.
    landed: AtomicU32,
    stop: AtomicBool,
}

impl Load {
    /// Waits until every partition goes on.
    #[track_caller]
    fn goes_on(&self, after: &str) {
        let (began, before) = (Instant::now(), self.landed.load(Ordering::Relaxed));
        wait_for("every partition goes on", || (self.landed.load(Ordering::Relaxed) > before + 100).then_some(()));
        println!("every partition goes on {:?} after {after}", began.elapsed());
    }
}

/// Sends to all partitions, some batches ahead of what has landed, until it is to stop; returns how many to each.
async fn keep_sending(mut producer: Producer<u32>, partitions: Vec<Partition>, load: Arc<Load>) -> u32 {
    const AHEAD: u32 = 20;
    let (mut sent, mut landed_all) = (0, 0);
    let mut next = BTreeMap::new();
    while !load.stop.load(Ordering::Relaxed) {
        while sent < landed_all + AHEAD {
            partitions.iter().for_each(|partition| producer.send(partition, batch(sent), sent));
            sent += 1;
        }
        landed(&mut producer, partitions.len(), &mut next).await;
        if next.len() == partitions.len() {
            landed_all = next.values().map(|(number, _)| *number).min().unwrap_or_default();
            load.landed.store(landed_all, Ordering::Relaxed);
        }
    }
    let landed_of = |partition: &Partition| next.get(&partition.index).map_or(0, |(number, _)| *number);
    let left = partitions.iter().map(|partition| (sent - landed_of(partition)) as usize).sum();
    landed(&mut producer, left, &mut next).await;
    sent
}

/// Commits one transaction after the other, until it is to stop; returns how many.
async fn keep_committing(client: Client, topic: String, load: Arc<Load>) -> u32 {
    let id = new_id();
    let mut sender = Sender::start(&client, &id, &topic).await;
    while !load.stop.load(Ordering::Relaxed) {
        sender.send();
        sender.commit().await.expect("committed");
    }
    let next = Sender::start(&client, &id, &topic).await.next;
    assert_eq!(next, sender.next, "progress is that of all transactions");
    next
}

#[test]
fn batches_follow_leaders_that_move_and_outlive_a_broker_that_is_killed() {
    let (_alone, mut cluster) = (alone(), Cluster::shared());
    let topic = cluster.topic("produce-moves", &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]], &[("min.insync.replicas", "2")]);
    let client = client(cluster.kafka().brokers());
    let load = Arc::new(Load::default());
    let (producer, partitions) = block_on(async {
        let partitions = partitions(&client, &topic).await;
        let identity = fence(&client, &new_id(), &partitions).await.expect("a fence");
        let producer = Producer::start(&client, identity, Settings::default());
        partitions.iter().for_each(|partition| producer.open(partition, 0));
        (producer, partitions)
    });
    let sending = std::thread::spawn({
        let load = load.clone();
        move || block_on(keep_sending(producer, partitions, load))
    });
    let in_transactions =
        cluster.topic("in-transactions", &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]], &[("min.insync.replicas", "2")]);
    let committing = std::thread::spawn({
        let (load, client, topic) = (load.clone(), client.clone(), in_transactions.clone());
        move || block_on(keep_committing(client, topic, load))
    });
    load.goes_on("the beginning");
    for partition in 0..2 {
        cluster.move_leader(&topic, partition, (partition + 2) % 3 + 1);
        load.goes_on("a leader has moved");
    }
    let victim = cluster.led(&topic, 2).leader;
    cluster.kill(victim);
    load.goes_on("a leader was killed");
    cluster.start_again(victim);
    load.goes_on("it has returned");
    load.stop.store(true, Ordering::Relaxed);
    let sent = sending.join().expect("it sends to the end");
    let committed = committing.join().expect("it commits to the end");
    println!("{sent} batches to each partition, {committed} in transactions");
    assert!(committed > 20, "{committed} transactions");
    assert_holds(cluster.kafka(), &topic, 3, sent);
    assert_holds(cluster.kafka(), &in_transactions, 3, committed);
}

async fn configs(client: &Client, topic: &str) -> BTreeMap<String, String> {
    let told = client.topic_configs(&[topic.to_owned()]).await.expect("it answers").remove(topic).expect("the topic");
    let set = told.expect("its settings").into_iter().filter(|config| config.set);
    set.map(|config| (config.name, config.value.unwrap_or_default())).collect()
}

/// Waits until the broker tells these settings of a topic, and no others: it learns of a change a moment after the controller
/// has agreed to it.
#[track_caller]
fn wait_for_configs(client: &Client, topic: &str, wanted: &[(&str, &str)]) {
    let wanted = wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let what = format!("{topic} has the settings {wanted:?}");
    wait_for(&what, || (block_on(configs(client, topic)) == wanted).then_some(()));
}

#[test]
fn a_topic_is_made_as_asked_and_its_settings_change_one_by_one() {
    let kafka = Kafka::shared();
    let name = format!("made-{:08x}", fastrand::u32(..));
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let new = |name: &str, replication_factor, configs: &[(&str, &str)]| NewTopic {
        name: name.to_owned(),
        partitions: 3,
        replication_factor,
        configs: owned(configs),
    };
    let wanted = [("max.message.bytes", "2000000"), ("segment.bytes", "10485760"), ("retention.ms", "-1")];
    let topics = [
        new(&name, 1, &wanted),
        new(&format!("{name}-replicas"), 99, &[]),
        new(&format!("{name}-config"), 1, &[("no.such.setting", "1")]),
    ];
    let client = client(kafka.brokers());
    block_on(async {
        let made = client.create_topics(&topics).await.expect("the controller answers");
        let Made::Created(id) = made[0] else { panic!("{made:?}") };
        let partitions = partitions(&client, &name).await;
        assert_eq!((partitions.len(), partitions[0].topic_id), (3, id));
        let texts: Vec<String> = made[1..].iter().map(|made| format!("{made:?}")).collect();
        assert!(
            texts[0].contains("InvalidReplicationFactor (38)") && texts[1].contains("no.such.setting"),
            "{texts:?}"
        );
    });
    wait_for_configs(&client, &name, &wanted);
    block_on(async {
        let again = client.create_topics(&topics[..1]).await.expect("the controller answers");
        assert!(matches!(again[..], [Made::Exists]), "{again:?}");
        let changes =
            [("retention.ms", Some("9000000")), ("max.message.bytes", None), ("cleanup.policy", Some("compact"))];
        let changes = changes.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        client.alter_configs(&name, &changes).await.expect("changed");
    });
    let expected = [("cleanup.policy", "compact"), ("retention.ms", "9000000"), ("segment.bytes", "10485760")];
    wait_for_configs(&client, &name, &expected);
    block_on(async {
        let wrong = [("retention.ms".to_owned(), Some("soon".to_owned()))];
        let error = client.alter_configs(&name, &wrong).await.expect_err("refused");
        assert!(!error.retryable() && error.to_string().contains("retention.ms"), "{error}");
    });
}

#[test]
fn a_topic_deleted_while_it_is_written_is_refused_and_its_namesake_stays_empty() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("written-gone", 1, &[]);
    block_on(async {
        let client = client(kafka.brokers());
        let old = partitions(&client, &topic).await.swap_remove(0);
        let settings = Settings { settle: Duration::from_secs(1), ..Settings::default() };
        let identity = fence(&client, &new_id(), std::slice::from_ref(&old)).await.expect("a fence");
        let mut producer = Producer::start(&client, identity, settings);
        producer.open(&old, 0);
        producer.send(&old, batch(0), 0);
        landed(&mut producer, 1, &mut BTreeMap::new()).await;
        tokio::task::block_in_place(|| {
            kafka.delete(&topic);
            kafka.create(&topic, 1, &[]);
        });
        producer.send(&old, batch(1), 1);
        let told = loop {
            match answer(&mut producer).await {
                Answer::Trouble { .. } => {}
                told => break told,
            }
        };
        let Answer::Refused { error, batches, .. } = told else { panic!("{told:?}") };
        assert!(batches.len() == 1 && error.to_string().contains(&topic), "{error}");
        let new = partitions(&client, &topic).await;
        assert!(new[0].topic_id != old.topic_id && ends(&client, &new).await == [0]);
    });
}
