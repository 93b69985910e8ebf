//! What a read-committed consumer sees of a topic: the independent witness for what the agent kept.

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
    let consumer: BaseConsumer = kafka
        .client(&[
            ("group.id", "witness"),
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("check.crcs", "true"),
        ])
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    let count = kafka.partitions(topic);
    for partition in 0..count {
        partitions.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&partitions).expect("an assignment");
    let mut records = Vec::new();
    let mut ended = std::collections::BTreeSet::new();
    let began = std::time::Instant::now();
    while ended.len() < count as usize {
        assert!(began.elapsed() < DEADLINE, "the consumer reached the end of {ended:?} only");
        match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => records.push(to_record(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
            Some(Err(error)) => panic!("the consumer failed: {error}"),
            None => {}
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
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
