//! Offsets committed for a group from outside: OffsetCommit without a member.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use kafka_protocol::messages as m;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::protocol::StrBytes;

use super::changes::{Codes, Wanted, in_order, lacking};
use super::{Change, Client, CommittedOffset, Requests, group_id};
use crate::kafka::client::topic_name;

/// The versions of OffsetCommit that we speak. Before 2 offsets were elsewhere; 10 goes by the ids of topics.
const VERSIONS: RangeInclusive<i16> = 2..=9;

impl Client {
    /// Commits offsets for a group, whose members must have left; one that is not there is made by it. No member, generation
    /// −1: a group with members refuses with [`ACTIVE`](super::ACTIVE). Leader epochs are left open, since those of another
    /// cluster mean nothing here, and offsets are kept for as long as the broker keeps them.
    ///
    /// The answer stands in the order of `offsets`. What passes is asked again, and only that; see [`Change`] and the
    /// module's words.
    pub async fn commit_offsets(&self, group: &str, offsets: &[CommittedOffset], requests: &Requests) -> Vec<Change> {
        self.change(group, Wanted::Commit(offsets), requests).await
    }

    /// Commits those of `offsets` that `piece` names, in one request to the broker at `address`.
    pub(super) async fn commit_piece(
        &self,
        address: &str,
        group: &str,
        offsets: &[CommittedOffset],
        piece: &[usize],
    ) -> Codes {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for offset in piece.iter().map(|at| &offsets[*at]) {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(offset.partition)
                .with_committed_offset(offset.offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(StrBytes::from_string(offset.metadata.clone())));
            topics.entry(&offset.topic).or_default().push(partition);
        }
        let topic = |(name, partitions): (&str, Vec<OffsetCommitRequestPartition>)| {
            OffsetCommitRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions)
        };
        let request = m::OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_retention_time_ms(-1)
            .with_topics(topics.into_iter().map(topic).collect());
        let answer = self.ask(address, VERSIONS, &request).await?.ok_or_else(|| lacking(address, "OffsetCommit"))?;
        let told = answer.topics.into_iter().flat_map(|topic| {
            let name = topic.name.to_string();
            topic.partitions.into_iter().map(move |told| ((name.clone(), told.partition_index), told.error_code))
        });
        Ok(in_order(piece, |at| (&offsets[at].topic, offsets[at].partition), told))
    }
}
