//! Capture from rdkafka's cluster of mock brokers, in this process.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use tokio::time::timeout;

use super::*;
use crate::batch;
use crate::pipeline::{Batch, Log, Payload, Source as _};

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(topics: &[(&str, i32)], brokers: i32) -> Cluster {
    let cluster = MockCluster::new(brokers).expect("a mock cluster");
    for (topic, partitions) in topics {
        cluster.create_topic(topic, *partitions, 1).expect("a topic");
    }
    cluster
}

fn produce(cluster: &Cluster, topic: &str, partition: i32, records: std::ops::Range<usize>) {
    let producer: ThreadedProducer<_> = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("compression.codec", "lz4")
        .create_with_context(DefaultProducerContext)
        .expect("a producer");
    for record in records {
        let (key, value) = (record.to_string(), format!("value {record}"));
        let record = BaseRecord::to(topic).partition(partition).key(&key).payload(&value);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
    }
    producer.flush(Duration::from_secs(20)).expect("produced");
}

pub(super) fn options(servers: &str, topics: &[&str], one_pass: bool) -> Options {
    let map = [("bootstrap.servers", servers), ("fetch.wait.max.ms", "50"), ("reconnect.backoff.max.ms", "200")];
    let map = map.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Options {
        properties: Properties::new(map.into()).expect("good properties"),
        topics: Selection::named(topics.iter().copied()),
        group_id: None,
        transaction_patience: TRANSACTION_PATIENCE,
        start: Start::Earliest,
        metadata_interval: Duration::from_millis(200),
        one_pass,
        budget: Budget::new(64 << 20),
        rate: RateLimit::new(None),
    }
}

async fn next(source: &mut Source) -> Result<Option<Event>> {
    timeout(Duration::from_secs(30), source.next()).await.expect("an event in time")
}

/// Starts whatever is assigned, from the beginning, until `done` says so.
async fn read(source: &mut Source, mut done: impl FnMut(&Event) -> bool) -> Option<Event> {
    while let Some(event) = next(source).await.expect("no error") {
        if let Event::Begins { partition, generation, offset } = &event {
            // As a sink does that has kept it.
            let tip = Tip { next: Some(*offset), leader_epoch: -1, generation: generation + 1 };
            source.start(partition, tip);
        }
        if let Event::Assigned(partition) = &event {
            source.start(partition, Tip { next: None, leader_epoch: -1, generation: 1 });
        }
        if done(&event) {
            return Some(event);
        }
    }
    None
}

/// The ends of what was delivered, by partition; each batch must go on where the last one ended, and be sound.
#[derive(Default)]
struct Chains {
    next: BTreeMap<i32, Offset>,
    finished: BTreeMap<i32, Offset>,
    records: i32,
}

impl Chains {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Batch(batch) => self.batch(batch),
            Event::Finished { partition, next } => {
                self.finished.insert(partition.index, *next);
            }
            _ => {}
        }
    }

    fn batch(&mut self, batch: &Batch) {
        let next = self.next.entry(batch.partition().index).or_insert(batch.range.first);
        assert_eq!(*next, batch.range.first, "nothing lost, nothing twice");
        *next = batch.range.next;
        let Payload::Encoded { bytes, .. } = &batch.payload else { panic!("a gap") };
        for item in batch::walk(bytes) {
            let (at, header) = item.expect("sound");
            assert!(batch::crc_matches(&bytes[at..at + header.total_bytes]));
            self.records += header.count;
        }
    }
}

#[tokio::test]
async fn a_pass_brings_every_record_of_every_partition_once_and_ends() {
    let cluster = cluster(&[("orders", 3)], 2);
    for partition in 0..2 {
        produce(&cluster, "orders", partition, 0..500);
    }
    let mut source = Source::open(options(&cluster.bootstrap_servers(), &["orders"], true)).await.expect("open");
    let mut chains = Chains::default();
    let (mut topics, mut observed) = (0, 0);
    read(&mut source, |event| {
        chains.hear(event);
        topics += i32::from(matches!(event, Event::Topic(topic) if topic.partitions == 3));
        observed += i32::from(matches!(event, Event::Observed { log: Log { high_watermark: 500, .. }, .. }));
        false
    })
    .await;
    assert_eq!(chains.finished, BTreeMap::from([(0, 500), (1, 500), (2, 0)]));
    assert_eq!((chains.next.clone(), chains.records), (BTreeMap::from([(0, 500), (1, 500)]), 1000));
    assert_eq!((topics, observed >= 2), (1, true));
    assert!(next(&mut source).await.expect("no error").is_none());
}

#[tokio::test]
async fn a_restart_reads_again_from_its_tip_with_its_generation() {
    let cluster = cluster(&[("orders", 1)], 1);
    produce(&cluster, "orders", 0, 0..100);
    produce(&cluster, "orders", 0, 100..200);
    let mut source = Source::open(options(&cluster.bootstrap_servers(), &["orders"], true)).await.expect("open");
    let finished = read(&mut source, |event| matches!(event, Event::Finished { .. })).await.expect("finished");
    let Event::Finished { partition, .. } = finished else { unreachable!() };
    source.start(&partition, Tip { next: Some(100), leader_epoch: -1, generation: 2 });
    let mut chains = Chains::default();
    let mut generations = Vec::new();
    read(&mut source, |event| {
        chains.hear(event);
        generations.extend(if let Event::Batch(batch) = event {
            Some((batch.generation(), batch.range.first))
        } else {
            None
        });
        false
    })
    .await;
    assert_eq!(generations.first(), Some(&(2, 100)));
    assert_eq!((chains.next[&0], chains.finished[&0]), (200, 200));
}

#[tokio::test]
async fn a_pass_over_a_topic_that_does_not_exist_names_it() {
    let cluster = cluster(&[("orders", 1)], 1);
    let mut source = Source::open(options(&cluster.bootstrap_servers(), &["order"], true)).await.expect("open");
    let error = next(&mut source).await.expect_err("no such topic");
    assert_eq!(error.kind(), crate::error::Kind::Usage);
    assert!(error.to_string().starts_with("topic \"order\" does not exist on the cluster"), "{error}");
}

#[tokio::test]
async fn a_tail_goes_on_with_new_records_and_follows_the_leader() {
    let cluster = cluster(&[("orders", 1)], 2);
    cluster.partition_leader("orders", 0, Some(1)).expect("a leader");
    produce(&cluster, "orders", 0, 0..100);
    let mut source = Source::open(options(&cluster.bootstrap_servers(), &["orders"], false)).await.expect("open");
    let mut chains = Chains::default();
    for (leader, end) in [(2, 200), (1, 300), (2, 400)] {
        read(&mut source, |event| {
            chains.hear(event);
            chains.next.get(&0) == Some(&(end - 100))
        })
        .await;
        cluster.partition_leader("orders", 0, Some(leader)).expect("a leader");
        produce(&cluster, "orders", 0, 0..100);
    }
    read(&mut source, |event| {
        chains.hear(event);
        chains.next.get(&0) == Some(&400)
    })
    .await;
    assert_eq!(chains.records, 400);
}

#[tokio::test]
async fn a_broker_that_is_away_is_trouble_until_it_is_back() {
    let cluster = cluster(&[("orders", 1)], 1);
    produce(&cluster, "orders", 0, 0..100);
    let mut source = Source::open(options(&cluster.bootstrap_servers(), &["orders"], false)).await.expect("open");
    let mut chains = Chains::default();
    read(&mut source, |event| {
        chains.hear(event);
        chains.next.get(&0) == Some(&100)
    })
    .await;
    cluster.broker_down(1).expect("down");
    let broker = |event: &Event, down: bool| matches!(event, Event::Trouble { subject, reason } if subject.starts_with("broker ") && reason.is_some() == down);
    read(&mut source, |event| broker(event, true)).await;
    cluster.broker_up(1).expect("up");
    read(&mut source, |event| broker(event, false)).await;
    produce(&cluster, "orders", 0, 100..200);
    read(&mut source, |event| {
        chains.hear(event);
        chains.next.get(&0) == Some(&200)
    })
    .await;
    assert_eq!(chains.records, 200);
}

#[tokio::test]
async fn a_topic_that_appears_later_is_read_from_its_beginning() {
    let cluster = cluster(&[("orders", 1)], 1);
    let mut late = options(&cluster.bootstrap_servers(), &["payments"], false);
    late.start = Start::Latest;
    let mut source = Source::open(late).await.expect("open");
    let missing = read(&mut source, |event| matches!(event, Event::Trouble { reason: Some(_), .. })).await;
    assert!(matches!(missing, Some(Event::Trouble { subject, .. }) if subject == "topic \"payments\""));
    cluster.create_topic("payments", 1, 1).expect("a topic");
    produce(&cluster, "payments", 0, 0..100);
    let mut chains = Chains::default();
    read(&mut source, |event| {
        chains.hear(event);
        chains.next.get(&0) == Some(&100)
    })
    .await;
    assert_eq!(chains.records, 100);
}

#[tokio::test]
async fn an_unreachable_cluster_is_trouble_for_a_tail_and_not_its_end() {
    let mut source = Source::open(options("127.0.0.1:1", &["orders"], false)).await.expect("open");
    let event = next(&mut source).await.expect("no error");
    assert!(matches!(event, Some(Event::Trouble { subject, reason: Some(_) }) if subject.contains("127.0.0.1:1")));
}
