//! What groups have committed: OffsetFetch, asked of one coordinator.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic};
use kafka_protocol::protocol::StrBytes;

use super::{Client, CommittedOffset, GROUPS_PER_REQUEST, Partitions, passes};
use crate::error::{Error, Result};
use crate::kafka::client::topic_name;
use crate::kafka::code_name;
use crate::record::Offset;

/// What came of asking for a group.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All that it has committed.
    Told(Vec<CommittedOffset>),
    /// Why it is not told, for good.
    Refused(String),
    /// There is no such group any more.
    Gone,
    /// It passes: what the broker said, or why it said nothing.
    Again(Result<String>),
}

impl Client {
    /// Asks the broker at `address` for what `groups` have committed; each of them has its outcome.
    pub(super) async fn offsets_from(
        &self,
        address: &str,
        groups: &[String],
        topics: &Partitions,
    ) -> Vec<(String, Outcome)> {
        let mut outcomes = Vec::with_capacity(groups.len());
        for piece in groups.chunks(GROUPS_PER_REQUEST) {
            match self.offsets_of(address, piece, topics).await {
                Ok(mut told) => {
                    let outcome = |group: &String| {
                        let unanswered = || Outcome::Again(Ok("the coordinator did not answer for it".to_owned()));
                        (group.clone(), told.remove(group).unwrap_or_else(unanswered))
                    };
                    outcomes.extend(piece.iter().map(outcome));
                }
                Err(error) => {
                    let again = |group: &String| {
                        let why = Error::new(error.kind(), error.to_string());
                        (group.clone(), Outcome::Again(Err(why)))
                    };
                    // It is away: the pieces that follow would only wait for the same.
                    outcomes.extend(groups[outcomes.len()..].iter().map(again));
                    break;
                }
            }
        }
        outcomes
    }

    async fn offsets_of(
        &self,
        address: &str,
        groups: &[String],
        topics: &Partitions,
    ) -> Result<BTreeMap<String, Outcome>> {
        let group =
            |group: &String| OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(None);
        let request = m::OffsetFetchRequest::default().with_groups(groups.iter().map(group).collect());
        if let Some(answer) = self.ask(address, 8..=9, &request).await? {
            return Ok(answer.groups.into_iter().map(told).collect());
        }
        let mut all = BTreeMap::new();
        for group in groups {
            let request = m::OffsetFetchRequest::default().with_group_id(group_id(group));
            let mut answer = self.ask(address, 7..=7, &request.clone().with_topics(None)).await?;
            if answer.is_none() {
                // They could be asked for everything too, but librdkafka's mock cluster cannot.
                answer = self.ask(address, 1..=6, &request.with_topics(Some(asked(topics)))).await?;
            }
            let Some(answer) = answer else {
                return Err(Error::failed(format!("broker {address} has no version of OffsetFetch that we know")));
            };
            all.insert(group.clone(), told_alone(answer));
        }
        Ok(all)
    }
}

/// Returns what an error code of a coordinator means; `what` says what it is about.
pub(super) fn outcome_of(code: i16, what: impl Fn() -> String) -> Outcome {
    let why = || format!("{}: {}", what(), code_name(code));
    match ResponseError::try_from_code(code) {
        Some(ResponseError::GroupIdNotFound) => Outcome::Gone,
        Some(error) if passes(error) => Outcome::Again(Ok(why())),
        _ => Outcome::Refused(why()),
    }
}

fn refused(code: i16) -> Outcome {
    outcome_of(code, || "its offsets cannot be read".to_owned())
}

fn told(group: m::offset_fetch_response::OffsetFetchResponseGroup) -> (String, Outcome) {
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

fn told_alone(answer: m::OffsetFetchResponse) -> Outcome {
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
fn all_of(partitions: impl Iterator<Item = (String, i32, Offset, Option<StrBytes>, i16)>) -> Outcome {
    let mut offsets = Vec::new();
    for (topic, partition, offset, metadata, code) in partitions {
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

fn group_id(group: &str) -> m::GroupId {
    StrBytes::from_string(group.to_owned()).into()
}
