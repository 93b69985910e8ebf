//! Who has a transaction open in a partition ([KIP-664](https://cwiki.apache.org/confluence/display/KAFKA/KIP-664)).

use std::time::Duration;

use kafka_protocol::messages as m;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use tokio::time::timeout;

use super::race::Race;
use super::{Client, topic_name};
use crate::error::{Error, Result};
use crate::kafka::code_name;
use crate::record::{Offset, Timestamp};

/// How long brokers are asked for the name of a transaction's owner. The name only helps: the producer id is there
/// already, and a broker that is away must not hold up who tells of it.
const NAME_WITHIN: Duration = Duration::from_secs(5);

/// A producer with an open transaction in a partition, as the partition's leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveTransaction {
    /// The producer's id.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i32,
    /// The transaction's first offset in the partition.
    pub first_offset: Offset,
    /// When the producer last wrote to the partition, by the time of its records; −1 where unknown.
    pub last_time: Timestamp,
}

impl Client {
    /// Asks `broker`, which must lead the partition, for the transactions that are open in it, the oldest first. Where
    /// the broker lacks the call (before Kafka 2.8), there are none.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when the broker is unknown, does not answer, or does not lead
    /// the partition.
    pub async fn active_transactions(
        &self,
        broker: i32,
        topic: &str,
        partition: i32,
    ) -> Result<Vec<ActiveTransaction>> {
        let address = self.known_address(broker)?;
        let asked = TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(vec![partition]);
        let request = m::DescribeProducersRequest::default().with_topics(vec![asked]);
        let Some(answer) = self.ask(&address, 0..=0, &request).await? else { return Ok(Vec::new()) };
        let mut open = Vec::new();
        for told in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
            if told.error_code != 0 {
                let code = code_name(told.error_code);
                let what = format!("the producers of topic \"{topic}\" partition {partition} cannot be read: {code}");
                return Err(Error::transient(what));
            }
            let active = told.active_producers.into_iter().filter(|producer| producer.current_txn_start_offset >= 0);
            open.extend(active.map(|producer| ActiveTransaction {
                producer_id: producer.producer_id.0,
                producer_epoch: producer.producer_epoch,
                first_offset: producer.current_txn_start_offset,
                last_time: Timestamp(producer.last_timestamp),
            }));
        }
        open.sort_by_key(|transaction| transaction.first_offset);
        Ok(open)
    }

    /// Returns the transactional id that a producer id belongs to: the coordinator of it knows, and only it, so all
    /// brokers are asked. `None` when none of them tells within a few seconds (too old, away, not allowed).
    pub async fn transactional_id(&self, producer_id: i64) -> Option<String> {
        let request = m::ListTransactionsRequest::default().with_producer_id_filters(vec![producer_id.into()]);
        let addresses: Vec<String> = self.known().brokers.values().cloned().collect();
        let mut race = Race::default();
        for address in &addresses {
            race.enter(self.ask(address, 0..=2, &request));
        }
        let told = async {
            while !race.is_empty() {
                let Ok(Some(answer)) = race.next().await else { continue };
                let owner = answer.transaction_states.into_iter().find(|owner| owner.producer_id.0 == producer_id);
                if let Some(owner) = owner {
                    return Some(owner.transactional_id.to_string());
                }
            }
            None
        };
        timeout(NAME_WITHIN, told).await.ok().flatten()
    }
}
