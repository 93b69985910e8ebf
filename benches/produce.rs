//! The rival: an rdkafka producer that sends values from a file.

use std::fs;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _};

use crate::workload::{PARTITIONS, STRETCH};

/// How long the broker has for what was sent, and for an answer.
const PATIENCE: Duration = Duration::from_secs(300);

/// Produces `[brokers, topic, records in a batch at most, records, file of values]`.
pub(crate) fn run(arguments: &[String]) {
    let [brokers, topic, batch_records, records, file] = arguments else {
        panic!("--produce BROKERS TOPIC BATCH_RECORDS RECORDS FILE")
    };
    let records: u64 = records.parse().expect("a number of records");
    let values = fs::read(file).expect("the file of values");
    let value_bytes = values.len() / records as usize;
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("linger.ms", if batch_records == "1" { "0" } else { "50" })
        .set("batch.size", "1048576")
        .set("message.max.bytes", "2000000")
        .set("batch.num.messages", batch_records)
        .set("compression.type", "lz4")
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "1048576");
    let producer = BaseProducer::from_config(&config).expect("a producer");
    for (number, value) in (0..records).zip(values.chunks_exact(value_bytes)) {
        let partition = (number / STRETCH % PARTITIONS as u64) as i32;
        let mut record = BaseRecord::<(), _>::to(topic).partition(partition).payload(value);
        while let Err((error, back)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
    producer.flush(PATIENCE).expect("the broker takes what was sent");
}

/// Counts the offsets of a topic that hold records: a restore's fence takes one of each partition.
pub(crate) fn count(brokers: &str, topic: &str) -> u64 {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "count").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut records = 0;
    for partition in 0..PARTITIONS {
        let (_, end) = consumer.fetch_watermarks(topic, partition, PATIENCE).expect("the broker answers");
        records += end.unsigned_abs() - u64::from(starts_with_marker(&consumer, topic, partition));
    }
    records
}

/// Returns whether the first offset of a partition is no record.
fn starts_with_marker(consumer: &BaseConsumer, topic: &str, partition: i32) -> bool {
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).expect("a partition");
    consumer.assign(&list).expect("an assignment");
    // What comes first may be trouble with a connection, or of the partition before.
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(Ok(message)) = consumer.poll(PATIENCE)
            && message.partition() == partition
        {
            return message.offset() > 0;
        }
    }
    panic!("{topic}-{partition} holds no record");
}
