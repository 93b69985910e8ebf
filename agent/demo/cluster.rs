//! The demo's Kafka: librdkafka's mock cluster in a thread of its own, and the producer that fills it.
//!
//! The mock broker is real to a client, but its log is short: of each partition it keeps 5 MiB
//! (`rd_kafka_mock_partition_new`). So the producer waits for the agent rather than run ahead of it and have it find
//! gaps. Cancel: dropping [`Cluster`] ends the producer, then the brokers, and waits for both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::RESTORED;
use super::shop::{Event, Shop, TOPICS};
use crate::error::{Error, Result};

/// Brokers of the cluster.
const BROKERS: i32 = 3;

/// Records that may be written and not yet read. At about 400 bytes a record, five partitions, and even without
/// compression, this is a third of what the mock brokers keep; a tenth of it would have the producer wait for the
/// agent's fetches.
const MOST_AHEAD: u64 = 20_000;

/// How often the producer writes what is due.
const PULSE: Duration = Duration::from_millis(10);

/// How long the brokers may take for the last records.
const FLUSH: Duration = Duration::from_secs(5);

/// What producer and agent know of each other.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Records that the brokers have.
    pub(super) written: AtomicU64,
    /// Records that the agent has read.
    pub(super) read: AtomicU64,
    /// The producer has written all that it will write.
    pub(super) complete: AtomicBool,
    end: AtomicBool,
}

/// A running cluster.
pub struct Cluster {
    /// Where its brokers listen.
    pub bootstrap_servers: String,
    pub(super) tally: Arc<Tally>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    /// Starts brokers, and a producer that writes `records` within about `time`.
    pub(super) fn start(records: u64, time: Duration) -> Result<Self> {
        let tally = Arc::new(Tally::default());
        let (sender, started) = mpsc::channel();
        let told = tally.clone();
        let thread = thread::Builder::new().name("demo-cluster".to_owned()).spawn(move || {
            let brokers = brokers();
            let servers = brokers.as_ref().map(MockCluster::bootstrap_servers).map_err(Clone::clone);
            let begun = servers.and_then(|servers| Ok((producer(&servers, told.clone())?, servers)));
            let producer = match begun {
                Ok((producer, servers)) => {
                    let _ = sender.send(Ok(servers));
                    producer
                }
                Err(error) => return drop(sender.send(Err(error))),
            };
            write(&producer, records, time, &told);
            while !told.end.load(Ordering::Relaxed) {
                thread::park_timeout(PULSE);
            }
        });
        let failed = |error: KafkaError| Error::failed("the in-process cluster did not start").source(error);
        let thread = thread.map_err(|error| Error::failed("cannot start a thread").source(error))?;
        let bootstrap_servers = started.recv().expect("the thread answers first").map_err(failed)?;
        Ok(Self { bootstrap_servers, tally, thread: Some(thread) })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.tally.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

fn brokers() -> Result<MockCluster<'static, impl ClientContext>, KafkaError> {
    let cluster = MockCluster::new(BROKERS)?;
    for (topic, partitions) in TOPICS {
        cluster.create_topic(topic, partitions, BROKERS)?;
    }
    // The mock brokers make no topics when they are asked to.
    cluster.create_topic(RESTORED, TOPICS[0].1, BROKERS)?;
    Ok(cluster)
}

/// Counts deliveries.
struct Deliveries(Arc<Tally>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        match delivered {
            Ok(_) => drop(self.0.written.fetch_add(1, Ordering::Relaxed)),
            Err((error, _)) => tracing::warn!(%error, "a record of the demo was not written"),
        }
    }
}

fn producer(servers: &str, tally: Arc<Tally>) -> Result<BaseProducer<Deliveries>, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("client.id", "web-shop")
        .set("linger.ms", "20")
        .set("compression.type", "lz4")
        .create_with_context(Deliveries(tally))
}

/// Writes what is due, as long as the agent keeps up, and for no more than twice the time: the demo ends by itself.
fn write(producer: &BaseProducer<Deliveries>, records: u64, time: Duration, tally: &Tally) {
    let mut shop = Shop::new();
    let (began, mut sent) = (Instant::now(), 0);
    while sent < records && began.elapsed() < time * 2 && !tally.end.load(Ordering::Relaxed) {
        let due = (records as f64 * began.elapsed().as_secs_f64() / time.as_secs_f64()) as u64;
        let room = tally.read.load(Ordering::Relaxed) + MOST_AHEAD;
        while sent < due.min(records).min(room) && send(producer, &shop.event()) {
            sent += 1;
        }
        producer.poll(PULSE);
    }
    if let Err(error) = producer.flush(FLUSH) {
        tracing::warn!(%error, "the last records of the demo were not written");
    }
    tally.complete.store(true, Ordering::Release);
}

/// Hands a record over; `false` when the producer's queue is full.
fn send(producer: &BaseProducer<Deliveries>, event: &Event) -> bool {
    let headers = OwnedHeaders::new_with_capacity(2)
        .insert(Header { key: "trace-id", value: Some(&event.trace_id) })
        .insert(Header { key: "source", value: Some(event.source) });
    let record = BaseRecord::to(event.topic).key(&event.key).payload(&event.value).headers(headers);
    match producer.send(record) {
        Ok(()) => true,
        Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => false,
        Err((error, _)) => {
            tracing::warn!(%error, "a record of the demo was not written");
            true
        }
    }
}
