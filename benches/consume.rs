//! The rivals: rdkafka consumers that read a topic to its end and drop every record.
//!
//! Both read committed records with librdkafka's defaults (so `check.crcs` is off, which spares them what the agent
//! does). `poll` is the safe interface; `batch` is the fastest call that librdkafka has, `rd_kafka_consume_batch_queue`,
//! which rdkafka does not wrap.
#![allow(unsafe_code, reason = "rd_kafka_consume_batch_queue is only in the C interface")]

use std::ptr;
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_message_destroy, rd_kafka_queue_destroy, rd_kafka_queue_get_consumer,
    rd_kafka_resp_err_t,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::workload::PARTITIONS;

/// The most messages that one call returns; more of them save nothing.
const BATCH: usize = 10_000;

/// The longest wait for the next messages; a consumer that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Consumes `[poll|batch, brokers, topic, records]`.
pub(crate) fn run(arguments: &[String]) {
    let [way, brokers, topic, records] = arguments else { panic!("--consume poll|batch BROKERS TOPIC RECORDS") };
    let records = records.parse().expect("a number of records");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&partitions).expect("an assignment");
    match way.as_str() {
        "poll" => poll(&consumer, records),
        "batch" => batch(&consumer, records),
        _ => panic!("`{way}` is neither poll nor batch"),
    }
}

fn poll(consumer: &BaseConsumer, records: u64) {
    for read in 0..records {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => drop(message),
            Some(Err(error)) => panic!("the consumer failed: {error}"),
            None => panic!("only {read} of {records} records came"),
        }
    }
}

fn batch(consumer: &BaseConsumer, records: u64) {
    let mut messages = vec![ptr::null_mut(); BATCH];
    let mut read = 0;
    // SAFETY: the consumer outlives the queue, of which the reference that we get here is given back below.
    let queue = unsafe { rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
    while read < records {
        // SAFETY: `messages` has room for `BATCH` pointers, and the call says how many it has filled.
        let filled =
            unsafe { rd_kafka_consume_batch_queue(queue, PATIENCE.as_millis() as i32, messages.as_mut_ptr(), BATCH) };
        assert!(filled > 0, "only {read} of {records} records came");
        for &message in &messages[..filled.unsigned_abs()] {
            // SAFETY: the call gave us this message; it is destroyed once and not used afterwards.
            let error = unsafe {
                let error = (*message).err;
                rd_kafka_message_destroy(message);
                error
            };
            assert_eq!(error, rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR, "the consumer failed");
            read += 1;
        }
    }
    // SAFETY: the reference from above, given back once.
    unsafe { rd_kafka_queue_destroy(queue) };
}
