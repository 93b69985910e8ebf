//! Committed offsets deleted: OffsetDelete (Kafka 2.4).

use std::collections::BTreeMap;

use kafka_protocol::messages as m;
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};

use super::changes::{Codes, Wanted, in_order, lacking};
use super::{Change, Client, Requests, group_id};
use crate::kafka::client::topic_name;

impl Client {
    /// Deletes what a group has committed for partitions; where there is nothing, it is done. A group whose members read one of
    /// the topics refuses that one with [`ACTIVE`](super::ACTIVE).
    ///
    /// The answer stands in the order of `partitions`. What passes is asked again, and only that; see [`Change`] and the
    /// module's words.
    pub async fn delete_offsets(&self, group: &str, partitions: &[(String, i32)], requests: &Requests) -> Vec<Change> {
        self.change(group, Wanted::Delete(partitions), requests).await
    }

    /// Deletes what is committed for those of `partitions` that `piece` names, in one request to the broker at `address`.
    pub(super) async fn delete_piece(
        &self,
        address: &str,
        group: &str,
        partitions: &[(String, i32)],
        piece: &[usize],
    ) -> Codes {
        let mut topics: BTreeMap<&str, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
        for (topic, partition) in piece.iter().map(|at| &partitions[*at]) {
            let partition = OffsetDeleteRequestPartition::default().with_partition_index(*partition);
            topics.entry(topic).or_default().push(partition);
        }
        let topic = |(name, partitions): (&str, Vec<OffsetDeleteRequestPartition>)| {
            OffsetDeleteRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions)
        };
        let request = m::OffsetDeleteRequest::default()
            .with_group_id(group_id(group))
            .with_topics(topics.into_iter().map(topic).collect());
        let answer = self.ask(address, 0..=0, &request).await?.ok_or_else(|| lacking(address, "OffsetDelete"))?;
        // What is wrong with the group is wrong with each of them.
        if answer.error_code != 0 {
            return Ok(vec![answer.error_code; piece.len()]);
        }
        let told = answer.topics.into_iter().flat_map(|topic| {
            let name = topic.name.to_string();
            topic.partitions.into_iter().map(move |told| ((name.clone(), told.partition_index), told.error_code))
        });
        Ok(in_order(piece, |at| (&partitions[at].0, partitions[at].1), told))
    }
}
