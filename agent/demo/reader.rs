//! The demo's consumer group: it reads a part of the orders, and later reads on in what was restored of them.
//!
//! It assigns its partitions by itself: a group that members had joined takes no commits from outside on the mock brokers, even
//! when they have left.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{ClientConfig, TopicPartitionList};

use super::RESTORED;
use super::shop::TOPICS;
use crate::error::{Error, Result};
use crate::record::Offset;

/// The group.
pub const GROUP: &str = "order-mailer";

/// Records of each partition that the group leaves unread, at most; of few records it leaves a quarter.
const MOST_UNREAD: Offset = 500;

/// How long brokers of the same process may take.
const WITHIN: Duration = Duration::from_secs(30);

/// Where the group has stopped: by partition.
pub(super) type Stops = BTreeMap<i32, Stop>;

/// Where the group has stopped in one partition.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    /// The last record it has read; `None` where that is none.
    last: Option<Offset>,
    /// The next one, which it has committed.
    next: Offset,
    /// What that is.
    following: Content,
}

/// A record but for its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    time: Option<i64>,
}

impl Content {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let (key, value) = (owned(message.key()), owned(message.payload()));
        Self { key, value, time: message.timestamp().to_millis() }
    }
}

/// Where the group reads on in one partition.
#[derive(Debug)]
pub struct ReadOn {
    /// The partition, of the orders and of what was restored of them.
    pub partition: i32,
    /// The last record it had read of the orders.
    pub last: Option<Offset>,
    /// The first record that it gets now.
    pub first: Offset,
    /// Whether that is the one after the last it had read.
    pub is_next: bool,
}

/// Has the group read the orders up to a little before their end, and commit how far it has come.
///
/// # Errors
/// Those of the cluster; it blocks.
pub(super) fn read_part(servers: &str) -> Result<Stops> {
    let (topic, partitions) = TOPICS[0];
    let consumer = consumer(servers).map_err(failed)?;
    let mut stops: BTreeMap<i32, Offset> = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        let (first, next) = consumer.fetch_watermarks(topic, partition, WITHIN).map_err(failed)?;
        if first < next {
            let unread = ((next - first) / 4).clamp(1, MOST_UNREAD);
            let _ = stops.insert(partition, next - unread);
            assignment.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).map_err(failed)?;
        }
    }
    consumer.assign(&assignment).map_err(failed)?;
    let (mut read, mut last) = (Stops::new(), BTreeMap::new());
    each(&consumer, stops.len(), |message| {
        let (partition, offset) = (message.partition(), message.offset());
        let is_at_stop = stops.get(&partition).is_some_and(|stop| offset >= *stop);
        if is_at_stop && !read.contains_key(&partition) {
            let stop = Stop { last: last.get(&partition).copied(), next: offset, following: Content::of(message) };
            let _ = read.insert(partition, stop);
        } else if !is_at_stop {
            let _ = last.insert(partition, offset);
        }
        read.len()
    })?;
    let mut committed = TopicPartitionList::new();
    for (partition, stop) in &read {
        committed.add_partition_offset(topic, *partition, rdkafka::Offset::Offset(stop.next)).map_err(failed)?;
    }
    consumer.commit(&committed, CommitMode::Sync).map_err(failed)?;
    Ok(read)
}

/// Has the group read on in what was restored, from where it was put.
///
/// # Errors
/// Those of the cluster, among them that nothing is committed there; it blocks.
pub(super) fn read_on(servers: &str, stops: &Stops) -> Result<Vec<ReadOn>> {
    let consumer = consumer(servers).map_err(failed)?;
    let mut assignment = TopicPartitionList::new();
    for partition in stops.keys() {
        assignment.add_partition_offset(RESTORED, *partition, rdkafka::Offset::Stored).map_err(failed)?;
    }
    consumer.assign(&assignment).map_err(failed)?;
    let mut met: BTreeMap<i32, ReadOn> = BTreeMap::new();
    each(&consumer, stops.len(), |message| {
        if let Some(stop) = stops.get(&message.partition()) {
            let (partition, first) = (message.partition(), message.offset());
            let is_next = Content::of(message) == stop.following;
            let _ = met.entry(partition).or_insert(ReadOn { partition, last: stop.last, first, is_next });
        }
        met.len()
    })?;
    Ok(met.into_values().collect())
}

/// Hands over what comes until `look` has seen enough of `count` partitions.
fn each(consumer: &BaseConsumer, count: usize, mut look: impl FnMut(&BorrowedMessage<'_>) -> usize) -> Result<()> {
    let began = Instant::now();
    let mut seen = 0;
    while seen < count {
        if began.elapsed() > WITHIN {
            return Err(Error::failed(format!("the group `{GROUP}` got nothing of {} partitions", count - seen)));
        }
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            seen = look(&message.map_err(failed)?);
        }
    }
    Ok(())
}

fn consumer(servers: &str) -> std::result::Result<BaseConsumer, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", GROUP)
        .set("client.id", GROUP)
        .set("enable.auto.commit", "false")
        // Where nothing is committed it is not to begin anywhere.
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "50")
        .create()
}

fn failed(error: KafkaError) -> Error {
    Error::failed(format!("the group `{GROUP}` cannot read")).source(error)
}
