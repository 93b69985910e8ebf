//! What groups have committed: OffsetFetch.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic};
use kafka_protocol::protocol::StrBytes;

use super::rounds::{Outcome, Question, outcome_of};
use super::{Client, CommittedOffset, ListedGroup, Partitions, Told, group_id};
use crate::error::{Error, Result};
use crate::kafka::client::topic_name;
use crate::record::Offset;

/// What groups have committed.
struct Committed<'a> {
    /// What is asked for at least.
    topics: &'a Partitions,
    /// Whether a group is asked for again while a transaction has yet to decide an offset of it.
    stable: bool,
}

impl Client {
    /// Returns what each of `groups` has committed, by its name; of a group that is there no more, nothing. Offsets
    /// that a transaction has yet to decide are not among them. It is at least what was committed on `topics`, given
    /// with their partitions.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when a coordinator cannot be reached.
    pub async fn committed_offsets(
        &self,
        groups: &[ListedGroup],
        topics: &Partitions,
    ) -> Result<BTreeMap<String, Told>> {
        self.ask_groups(&Committed { topics, stable: false }, listed(groups)).await
    }

    /// As [`Client::committed_offsets`], but waits while a transaction has yet to decide an offset anew, for as long as for
    /// a coordinator that moves; after that the group's offsets are not told. A first offset of a partition that is not
    /// decided is as one that is not there. Brokers before Kafka 2.5 do not tell that something is undecided.
    ///
    /// # Errors
    /// As [`Client::committed_offsets`].
    pub async fn stable_offsets(&self, groups: &[ListedGroup], topics: &Partitions) -> Result<BTreeMap<String, Told>> {
        self.ask_groups(&Committed { topics, stable: true }, listed(groups)).await
    }
}

impl Question for Committed<'_> {
    type Told = Vec<CommittedOffset>;

    async fn ask(&self, client: &Client, address: &str, groups: &[String]) -> Result<BTreeMap<String, Offsets>> {
        let group =
            |group: &String| OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(None);
        let request = m::OffsetFetchRequest::default()
            .with_groups(groups.iter().map(group).collect())
            .with_require_stable(self.stable);
        if let Some(answer) = client.ask(address, 8..=9, &request).await? {
            return Ok(answer.groups.into_iter().map(told).collect());
        }
        let mut all = BTreeMap::new();
        for group in groups {
            let request = m::OffsetFetchRequest::default().with_group_id(group_id(group));
            let all_topics = request.clone().with_topics(None).with_require_stable(self.stable);
            let mut answer = client.ask(address, 7..=7, &all_topics).await?;
            if answer.is_none() {
                // They could be asked for everything too, but librdkafka's mock cluster cannot.
                answer = client.ask(address, 1..=6, &request.with_topics(Some(asked(self.topics)))).await?;
            }
            let Some(answer) = answer else {
                return Err(Error::failed(format!("broker {address} has no version of OffsetFetch that we know")));
            };
            all.insert(group.clone(), told_alone(answer));
        }
        Ok(all)
    }
}

/// All that a group has committed, or what came of asking.
type Offsets = Outcome<Vec<CommittedOffset>>;

/// Returns groups with the addresses of their coordinators, where these were told.
fn listed(groups: &[ListedGroup]) -> BTreeMap<String, Option<String>> {
    groups.iter().map(|group| (group.group.clone(), group.coordinator.clone())).collect()
}

fn refused(code: i16) -> Offsets {
    outcome_of(code, || "its offsets cannot be read".to_owned())
}

fn told(group: m::offset_fetch_response::OffsetFetchResponseGroup) -> (String, Offsets) {
    let name = group.group_id.to_string();
    if group.error_code != 0 {
        return (name, refused(group.error_code));
    }
    let partitions = group.topics.into_iter().flat_map(|topic| {
        let name = topic.name.to_string();
        topic.partitions.into_iter().map(move |told| {
            (name.clone(), told.partition_index, told.committed_offset, told.metadata, told.error_code)
        })
    });
    (name, all_of(partitions))
}

fn told_alone(answer: m::OffsetFetchResponse) -> Offsets {
    if answer.error_code != 0 {
        return refused(answer.error_code);
    }
    let partitions = answer.topics.into_iter().flat_map(|topic| {
        let name = topic.name.to_string();
        topic.partitions.into_iter().map(move |told| {
            (name.clone(), told.partition_index, told.committed_offset, told.metadata, told.error_code)
        })
    });
    all_of(partitions)
}

/// Takes all offsets of a group, or none: half of them would look like a group that never read the rest.
fn all_of(partitions: impl Iterator<Item = (String, i32, Offset, Option<StrBytes>, i16)>) -> Offsets {
    let mut offsets = Vec::new();
    for (topic, partition, offset, metadata, code) in partitions {
        if ResponseError::try_from_code(code) == Some(ResponseError::UnstableOffsetCommit) {
            return outcome_of(code, || format!("a transaction has yet to decide its offset of {topic}-{partition}"));
        }
        if code != 0 {
            return outcome_of(code, || format!("its offset of {topic}-{partition} cannot be read"));
        }
        // −1: asked for, and never committed.
        if offset >= 0 {
            let metadata = metadata.map(|metadata| metadata.to_string()).unwrap_or_default();
            offsets.push(CommittedOffset { topic, partition, offset, metadata });
        }
    }
    offsets.sort_unstable();
    Outcome::Told(offsets)
}

fn asked(topics: &Partitions) -> Vec<OffsetFetchRequestTopic> {
    let topic = |(name, partitions): (&String, &Vec<i32>)| {
        OffsetFetchRequestTopic::default().with_name(topic_name(name)).with_partition_indexes(partitions.clone())
    };
    topics.iter().map(topic).collect()
}
