//! Whether a topic is still the one that we read, where a call goes by name.
//!
//! From version 13 on a Fetch names topics by id, and one that was deleted and made again is an error. Before that, and
//! where a leader is asked for offsets and epochs, its successor answers in its place, and nothing in the answer tells
//! them apart: the empty log of a new topic looks like one that has lost everything. So the broker that has answered is
//! asked for the ids, over the same connection, before the answer counts: it takes a change of the metadata in before
//! it lets a new topic answer, and an id that is still the old one then was the old one when it answered.
//!
//! No I/O: what to ask, and what the answer says. A cluster without topic ids (before Kafka 2.8) cannot be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use kafka_protocol::messages as m;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::protocol::StrBytes;

use super::fetch::Want;
use crate::error::Error;
use crate::record::TopicId;

/// The versions of Metadata that tell topic ids.
pub(super) const VERSIONS: RangeInclusive<i16> = 10..=12;

/// The topics that an answer says something of, with the ids by which we know them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known(BTreeMap<String, TopicId>);

/// Makes the error of a broker that is too old to tell the ids that others have told.
pub(super) fn cannot_tell(broker: &str) -> Error {
    Error::transient(format!("broker {broker} goes by name and cannot tell the ids that others have told"))
}

impl Known {
    /// Returns the topics that have ids.
    pub(super) fn new<'a>(topics: impl Iterator<Item = (&'a str, TopicId)>) -> Self {
        let with_ids = topics.filter(|(_, id)| !id.is_none());
        Self(with_ids.map(|(name, id)| (name.to_owned(), id)).collect())
    }

    /// Returns the topics of which `answer`, to a request for `wants`, brings records or an error.
    pub(super) fn of(answer: &m::FetchResponse, wants: &[Want]) -> Self {
        let telling = answer.responses.iter().filter(|topic| topic.partitions.iter().any(tells));
        let telling: BTreeSet<&str> = telling.map(|topic| topic.topic.as_str()).collect();
        let wanted = wants.iter().map(|want| (&*want.partition.topic, want.partition.topic_id));
        Self::new(wanted.filter(|(name, _)| telling.contains(name)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the question for their ids.
    pub(super) fn question(&self) -> m::MetadataRequest {
        let name = |name: &String| StrBytes::from_string(name.clone()).into();
        let topic = |topic: &String| MetadataRequestTopic::default().with_name(Some(name(topic)));
        m::MetadataRequest::default()
            .with_topics(Some(self.0.keys().map(topic).collect()))
            .with_allow_auto_topic_creation(false)
    }

    /// Returns the ids of those that are not there any more, whatever bears their name now.
    pub(super) fn gone(mut self, told: &m::MetadataResponse) -> Vec<TopicId> {
        for topic in &told.topics {
            let name = topic.name.as_ref().map(|name| name.as_str()).unwrap_or_default();
            if self.0.get(name) == Some(&TopicId(topic.topic_id)) {
                self.0.remove(name);
            }
        }
        self.0.into_values().collect()
    }
}

/// Returns whether something follows from what is said of a partition. Offsets alone change nothing in the archive.
fn tells(data: &PartitionData) -> bool {
    data.error_code != 0
        || data.diverging_epoch.epoch >= 0
        || data.records.as_ref().is_some_and(|records| !records.is_empty())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::messages::fetch_response::FetchableTopicResponse;
    use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
    use uuid::Uuid;

    use super::*;
    use crate::record::Partition;

    fn want(topic: &str, id: u128) -> Want {
        let partition = Partition { topic: topic.into(), topic_id: TopicId(Uuid::from_u128(id)), index: 0 };
        Want { partition, position: 0, leader_epoch: -1, last_epoch: -1, behind: false }
    }

    fn answer(topics: &[(&str, PartitionData)]) -> m::FetchResponse {
        let topic = |(name, data): &(&str, PartitionData)| {
            let name = StrBytes::from_string((*name).to_owned());
            FetchableTopicResponse::default().with_topic(name.into()).with_partitions(vec![data.clone()])
        };
        m::FetchResponse::default().with_responses(topics.iter().map(topic).collect())
    }

    fn told(topics: &[(&str, u128)]) -> m::MetadataResponse {
        let topic = |(name, id): &(&str, u128)| {
            let name = StrBytes::from_string((*name).to_owned());
            MetadataResponseTopic::default().with_name(Some(name.into())).with_topic_id(Uuid::from_u128(*id))
        };
        m::MetadataResponse::default().with_topics(topics.iter().map(topic).collect())
    }

    #[test]
    fn only_what_brings_records_or_an_error_is_asked_for() {
        let records = PartitionData::default().with_records(Some(Bytes::from_static(b"x")));
        let refused = PartitionData::default().with_error_code(1);
        let empty = PartitionData::default().with_records(Some(Bytes::new()));
        let answer = answer(&[("a", records.clone()), ("b", refused), ("c", empty), ("d", records)]);
        let wants = [want("a", 1), want("b", 2), want("c", 3), want("d", 0), want("e", 5)];
        let known = Known::of(&answer, &wants);
        let names: Vec<_> = known.0.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "b"], "c brings nothing, d has no id, e did not answer");
        assert_eq!(known.question().topics.map(|topics| topics.len()), Some(2));
    }

    #[test]
    fn a_topic_is_gone_when_another_bears_its_name_and_when_none_does() {
        let known = || {
            Known(
                ["a", "b", "c"]
                    .map(str::to_owned)
                    .into_iter()
                    .zip([1, 2, 3].map(|id| want("", id).partition.topic_id))
                    .collect(),
            )
        };
        assert_eq!(known().gone(&told(&[("a", 1), ("b", 2), ("c", 3)])), []);
        let gone = known().gone(&told(&[("a", 1), ("b", 9), ("c", 0)]));
        assert_eq!(gone, [2, 3].map(|id| want("", id).partition.topic_id));
        assert_eq!(known().gone(&told(&[])).len(), 3);
    }
}
