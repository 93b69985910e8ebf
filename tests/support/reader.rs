//! What a consumer sees of a topic: the independent witness for what the agent kept.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::DEADLINE;
use super::kafka::Kafka;

/// A record: what a producer writes and what a consumer gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    /// Where it is; of no meaning in a record to be written.
    pub(crate) offset: i64,
    /// −1 in a record to be written: now.
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Reads `topic` as a read-committed consumer does, each partition to its end, in order of partition and offset.
pub(crate) fn read_committed(kafka: &Kafka, topic: &str) -> Vec<Record> {
    read_all_committed(kafka, &[topic]).remove(topic).expect("it was asked for")
}

/// Reads topics as one read-committed consumer does: each as [`read_committed`].
pub(crate) fn read_all_committed(kafka: &Kafka, topics: &[&str]) -> BTreeMap<String, Vec<Record>> {
    read_all(kafka, topics, "read_committed")
}

/// Reads topics as one consumer of that `isolation.level` does, each partition to its end, in order of partition and
/// offset.
pub(crate) fn read_all(kafka: &Kafka, topics: &[&str], isolation: &str) -> BTreeMap<String, Vec<Record>> {
    let consumer: BaseConsumer = kafka
        .client(&[
            ("group.id", "witness"),
            ("isolation.level", isolation),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            // An end is told by an answer without records, for which the broker waits as long.
            ("fetch.wait.max.ms", "50"),
            ("check.crcs", "true"),
        ])
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..kafka.partitions(topic) {
            partitions.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition");
        }
    }
    consumer.assign(&partitions).expect("an assignment");
    let mut records: BTreeMap<String, Vec<Record>> =
        topics.iter().map(|topic| ((*topic).to_owned(), Vec::new())).collect();
    // Each end is told once; of which topic, the client does not say.
    let mut ended = 0;
    let began = std::time::Instant::now();
    while ended < partitions.count() {
        assert!(began.elapsed() < DEADLINE, "the consumer reached {ended} of {} ends", partitions.count());
        match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => records.get_mut(message.topic()).expect("asked for").push(to_record(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => panic!("the consumer failed: {error}"),
            None => {}
        }
    }
    for records in records.values_mut() {
        records.sort_by_key(|record| (record.partition, record.offset));
    }
    records
}

fn to_record(message: &BorrowedMessage<'_>) -> Record {
    let header =
        |header: rdkafka::message::Header<'_, &[u8]>| (header.key.to_owned(), header.value.map(<[u8]>::to_vec));
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: message.headers().map(|headers| headers.iter().map(header).collect()).unwrap_or_default(),
    }
}
