//! The topics of a plan as the cluster has them, and the offsets that their partitions have.
//!
//! Retry: leaders are waited for as [`ends`](crate::restore::ends) has it. What is wrong with one topic costs that one, and is
//! said in its place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::backoff::Patience;
use crate::error::Result;
use crate::groups::SETTLE;
use crate::kafka::client::groups::Partitions;
use crate::kafka::client::{At, Client, Isolation, OffsetQuery, TopicMetadata};
use crate::kafka::code_name;
use crate::record::{Offset, OffsetRange, Partition, Timestamp, TopicId};
use crate::restore::ends;

/// Kafka's error code of a topic that is not there.
const UNKNOWN_TOPIC: i16 = 3;

/// Kafka's error code of a topic that we may not look at.
const FORBIDDEN: i16 = 29;

/// The topics of a plan, as the cluster has them.
#[derive(Debug, Clone, Default)]
pub(super) struct Logs {
    topics: BTreeMap<String, TopicMetadata>,
    ranges: HashMap<Partition, OffsetRange>,
}

impl Logs {
    /// Asks which of these topics there are, with which partitions.
    ///
    /// # Errors
    /// Those of the client.
    pub(super) async fn topics(client: &Client, names: &[String]) -> Result<Self> {
        if names.is_empty() {
            return Ok(Self::default());
        }
        let mut patience = Patience::new(client.backoff(), SETTLE);
        let metadata = loop {
            match client.metadata(Some(names)).await {
                Ok(metadata) => break metadata,
                Err(error) => patience.wait(error).await?,
            }
        };
        let topics = metadata.topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        Ok(Self { topics, ranges: HashMap::new() })
    }

    /// Asks which of these partitions there are, and which offsets they have.
    ///
    /// # Errors
    /// Those of the client, and of a partition without a leader.
    pub(super) async fn look(client: &Client, wanted: &Partitions) -> Result<Self> {
        let names: Vec<String> = wanted.keys().cloned().collect();
        let mut logs = Self::topics(client, &names).await?;
        let mut there = Vec::new();
        for (name, indexes) in wanted {
            let Some(topic) = logs.topics.get(name).filter(|topic| topic.code == 0) else { continue };
            let has: BTreeSet<i32> = topic.partitions.iter().map(|partition| partition.index).collect();
            let (name, topic_id): (Arc<str>, _) = (name.as_str().into(), topic.topic_id);
            let known = indexes.iter().filter(|index| has.contains(*index));
            there.extend(known.map(|index| Partition { topic: name.clone(), topic_id, index: *index }));
        }
        if !there.is_empty() {
            logs.ranges = ends::of(client, &there).await?;
        }
        Ok(logs)
    }

    /// Asks of each partition that there is for the first record that is not older than `time`; `None` where there is none.
    ///
    /// # Errors
    /// Those of the client, and of a partition without a leader.
    pub(super) async fn at_time(&self, client: &Client, time: Timestamp) -> Result<HashMap<Partition, Option<Offset>>> {
        let mut patience = Patience::new(client.backoff(), SETTLE);
        let mut told = HashMap::new();
        loop {
            let left: Vec<&Partition> = self.ranges.keys().filter(|partition| !told.contains_key(*partition)).collect();
            match ask(client, &left, time, &mut told).await {
                Ok(()) => return Ok(told),
                Err(error) => patience.wait(error).await?,
            }
        }
    }

    /// Returns the id of the topic that has this name now.
    pub(super) fn topic_id(&self, topic: &str) -> TopicId {
        self.topics.get(topic).map_or(TopicId::NONE, |topic| topic.topic_id)
    }

    /// Returns the partitions of a topic; `None` where it is not there.
    pub(super) fn partitions(&self, topic: &str) -> Option<Vec<i32>> {
        let told = self.topics.get(topic).filter(|topic| topic.code == 0)?;
        Some(told.partitions.iter().map(|partition| partition.index).collect())
    }

    /// Returns a partition as the cluster has it now.
    pub(super) fn partition(&self, topic: &str, index: i32) -> Partition {
        Partition { topic: topic.into(), topic_id: self.topic_id(topic), index }
    }

    /// Returns the offsets that a partition has, or why nothing can be committed for it; `topic_id` says which topic of that
    /// name it is to be, [`TopicId::NONE`] any.
    ///
    /// # Errors
    /// A line for people, with what to do.
    pub(super) fn find(&self, topic: &str, topic_id: TopicId, index: i32) -> Result<OffsetRange, String> {
        let gone =
            || format!("topic \"{topic}\" is not on the cluster; restore it first, or leave it out with --topic");
        let told = self.topics.get(topic).ok_or_else(gone)?;
        match told.code {
            UNKNOWN_TOPIC => return Err(gone()),
            FORBIDDEN => {
                return Err(format!("topic \"{topic}\" is hidden from this principal; allow it DESCRIBE on the topic"));
            }
            _ => {}
        }
        if !topic_id.is_none() && !told.topic_id.is_none() && topic_id != told.topic_id {
            return Err(format!(
                "topic \"{topic}\" was made anew: it is {} and was {topic_id}, so offsets of it mean other records",
                told.topic_id
            ));
        }
        if let Some(range) = self.ranges.get(&self.partition(topic, index)) {
            return Ok(*range);
        }
        let count = told.partitions.len();
        if told.code == 0 && usize::try_from(index).is_ok_and(|index| index >= count) {
            let noun = if count == 1 { "partition" } else { "partitions" };
            return Err(format!("topic \"{topic}\" has only {count} {noun} on the cluster"));
        }
        Err(format!("topic \"{topic}\" cannot be looked at: {}", code_name(told.code)))
    }

    /// Makes those of topics that have these partitions.
    #[cfg(test)]
    pub(super) fn of(topics: &[(&str, TopicId, &[OffsetRange])]) -> Self {
        let mut logs = Self::default();
        for (name, topic_id, ranges) in topics {
            let partition = |index| crate::kafka::client::PartitionMetadata { index, ..Default::default() };
            let partitions: Vec<_> = (0..).take(ranges.len()).map(partition).collect();
            for (index, range) in (0..).zip(ranges.iter()) {
                let partition = Partition { topic: (*name).into(), topic_id: *topic_id, index };
                let _ = logs.ranges.insert(partition, *range);
            }
            let topic = TopicMetadata { name: (*name).into(), topic_id: *topic_id, partitions, ..Default::default() };
            let _ = logs.topics.insert((*name).into(), topic);
        }
        logs
    }
}

/// Asks the leaders of partitions, and adds what they tell; an error is of one that does not.
async fn ask(
    client: &Client,
    left: &[&Partition],
    time: Timestamp,
    told: &mut HashMap<Partition, Option<Offset>>,
) -> Result<()> {
    if left.is_empty() {
        return Ok(());
    }
    let (leaders, mut outcome) = ends::by_leader(client, left).await?;
    let query = |of: &&Partition| OffsetQuery { partition: (*of).clone(), leader_epoch: -1, at: At::Time(time) };
    for (leader, led) in leaders {
        let queries: Vec<OffsetQuery> = led.iter().map(query).collect();
        let answers = client.list_offsets(leader, &queries, Isolation::Uncommitted).await?;
        for (query, answer) in queries.into_iter().zip(answers) {
            match answer.code {
                0 => drop(told.insert(query.partition, Some(answer.offset).filter(|offset| *offset >= 0))),
                code => outcome = outcome.and(Err(ends::refused(&query.partition, code))),
            }
        }
    }
    outcome
}
