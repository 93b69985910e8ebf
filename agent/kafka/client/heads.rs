//! What lies at an offset of a partition, read once: the bytes of one Fetch, outside of any session.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};

use super::{Client, topic_name};
use crate::error::{Error, Result};
use crate::record::{Offset, Partition};

/// The bytes of one partition: what begins there, not all of it. One batch is always told whole.
const PARTITION_BYTES: i32 = 256 << 10;

/// The bytes of one answer.
const ANSWER_BYTES: i32 = 4 << 20;

impl Client {
    /// Asks `broker`, which must lead all the partitions, for batches from these offsets on, and does not wait for any;
    /// returns Kafka's error code and the bytes of each, in their order. Of one that is not the first a large batch may be
    /// left out: then there are no bytes.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when the broker is unknown or does not answer.
    pub async fn batches_at(&self, broker: i32, asked: &[(&Partition, Offset)]) -> Result<Vec<(i16, Bytes)>> {
        let address = self.known_address(broker)?;
        // In the order that is asked for: the first one has the right to a large batch.
        let topic = |&(partition, offset): &(&Partition, Offset)| {
            let partition_at = FetchPartition::default()
                .with_partition(partition.index)
                .with_fetch_offset(offset)
                .with_partition_max_bytes(PARTITION_BYTES);
            FetchTopic::default().with_topic(topic_name(&partition.topic)).with_partitions(vec![partition_at])
        };
        let mut topics: Vec<FetchTopic> = Vec::new();
        for topic in asked.iter().map(topic) {
            match topics.iter_mut().find(|known| known.topic == topic.topic) {
                Some(known) => known.partitions.extend(topic.partitions),
                None => topics.push(topic),
            }
        }
        let request = m::FetchRequest::default()
            .with_replica_id(m::BrokerId(-1))
            .with_max_wait_ms(0)
            .with_min_bytes(0)
            .with_max_bytes(ANSWER_BYTES)
            .with_topics(topics);
        let answer = self.ask(&address, 4..=12, &request).await?;
        let too_old = || Error::failed(format!("broker {address} has no version of Fetch that we know"));
        let answer = answer.ok_or_else(too_old)?;
        if answer.error_code != 0 {
            let code = crate::kafka::code_name(answer.error_code);
            return Err(Error::transient(format!("broker {address} does not fetch: {code}")));
        }
        let mut told: BTreeMap<(String, i32), (i16, Bytes)> = BTreeMap::new();
        for topic in answer.responses {
            let name = topic.topic.to_string();
            for partition in topic.partitions {
                let bytes = partition.records.unwrap_or_default();
                told.insert((name.clone(), partition.partition_index), (partition.error_code, bytes));
            }
        }
        let of = |(partition, _): &(&Partition, Offset)| {
            told.remove(&(partition.topic.to_string(), partition.index)).unwrap_or((-1, Bytes::new()))
        };
        Ok(asked.iter().map(of).collect())
    }
}
