//! Where a leader's log and ours part: the end of a leader epoch, as the leader has it
//! ([KIP-320](https://cwiki.apache.org/confluence/display/KAFKA/KIP-320)).

use std::collections::BTreeMap;

use kafka_protocol::messages as m;
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};

use super::{Client, topic_name};
use crate::error::Result;
use crate::kafka::UNKNOWN_TOPIC_ID;
use crate::kafka::identity::Known;
use crate::record::{Offset, Partition};

/// A question for the end of a leader epoch, for the partition's leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochQuery {
    /// The partition.
    pub partition: Partition,
    /// The leader epoch that we know, −1 for none: a leader of another epoch refuses.
    pub leader_epoch: i32,
    /// The epoch asked for: that of the last record that we hold.
    pub epoch: i32,
}

/// The answer to an [`EpochQuery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochAnswer {
    /// Kafka's error code, 0 for none.
    pub code: i16,
    /// The newest epoch of the leader's log that is not above the one asked for; −1 where it knows none.
    pub epoch: i32,
    /// Where that epoch ends in the leader's log, exclusive; −1 where it is unknown.
    pub end: Offset,
}

impl EpochAnswer {
    /// The answer of a leader that cannot tell.
    const UNKNOWN: Self = Self { code: 0, epoch: -1, end: -1 };
}

impl Client {
    /// Asks `broker`, which must lead all the partitions, where epochs end in its logs; answers are in the order of the
    /// queries, of which no two are for one partition. A broker that lacks the call (before Kafka 2.1) cannot tell.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when the broker is unknown or does not answer; errors of
    /// single partitions are in their answers.
    pub async fn epoch_ends(&self, broker: i32, queries: &[EpochQuery]) -> Result<Vec<EpochAnswer>> {
        let address = self.known_address(broker)?;
        let known = Known::new(queries.iter().map(|query| (&*query.partition.topic, query.partition.topic_id)));
        let Some((answer, gone)) = self.ask_about(&address, 2..=4, &request(queries), known).await? else {
            return Ok(vec![EpochAnswer::UNKNOWN; queries.len()]);
        };
        let told = answer.topics.iter().flat_map(|topic| {
            let name = topic.topic.as_str();
            topic.partitions.iter().map(move |told| ((name, told.partition), told))
        });
        let told: BTreeMap<_, _> = told.collect();
        let answer = |EpochQuery { partition, .. }: &EpochQuery| match told.get(&(&*partition.topic, partition.index)) {
            Some(_) if gone.contains(&partition.topic_id) => {
                EpochAnswer { code: UNKNOWN_TOPIC_ID, ..EpochAnswer::UNKNOWN }
            }
            Some(told) => EpochAnswer { code: told.error_code, epoch: told.leader_epoch, end: told.end_offset },
            // UNKNOWN_SERVER_ERROR: it was asked of, and must be answered.
            None => EpochAnswer { code: -1, ..EpochAnswer::UNKNOWN },
        };
        Ok(queries.iter().map(answer).collect())
    }
}

fn request(queries: &[EpochQuery]) -> m::OffsetForLeaderEpochRequest {
    let mut topics: BTreeMap<&str, Vec<OffsetForLeaderPartition>> = BTreeMap::new();
    for query in queries {
        let partition = OffsetForLeaderPartition::default()
            .with_partition(query.partition.index)
            .with_current_leader_epoch(query.leader_epoch)
            .with_leader_epoch(query.epoch);
        topics.entry(&query.partition.topic).or_default().push(partition);
    }
    let topic =
        |(name, partitions)| OffsetForLeaderTopic::default().with_topic(topic_name(name)).with_partitions(partitions);
    m::OffsetForLeaderEpochRequest::default()
        .with_replica_id(m::BrokerId(-1))
        .with_topics(topics.into_iter().map(topic).collect())
}
