//! Looks at the targets of a restore: which topics are there and what is dangerous about them, and how the others are made.

use std::collections::{BTreeMap, BTreeSet};

use super::hazards::{Danger, Hazard};
use super::{NewTopic, PartitionPlan, TopicPlan};
use crate::archive::source::Timeline;
use crate::error::{Error, Result};
use crate::kafka::client::{Client, TopicMetadata};
use crate::kafka::code_name;
use crate::pipeline::{Topic, TopicConfig};
use crate::record::{Partition, Timestamp};
use crate::restore::ends;

/// Kafka's code for a topic that is not there.
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// Kafka's default of `max.message.bytes`.
pub(super) const MOST_BYTES: usize = 1_048_588;

/// Kafka's default of `message.timestamp.after.max.ms`, since 4.0.
const AHEAD_MS: i64 = 3_600_000;

/// How far ahead of its clock a topic takes records.
const AHEAD: &str = "message.timestamp.after.max.ms";

/// How many replicas must be in sync.
const IN_SYNC: &str = "min.insync.replicas";

/// Settings that would take restored records away or change them while they come: they are made when all are there.
const AFTERWARDS: [&str; 10] = [
    "message.timestamp.type",
    "retention.ms",
    "retention.bytes",
    "local.retention.ms",
    "local.retention.bytes",
    "cleanup.policy",
    "message.timestamp.difference.max.ms",
    "message.timestamp.before.max.ms",
    AHEAD,
    "delete.retention.ms",
];

/// What a topic has meanwhile instead: nothing is taken away, and any time is good.
const MEANWHILE: [(&str, &str); 4] = [
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("cleanup.policy", "delete"),
    ("message.timestamp.type", "CreateTime"),
];

/// Returns whether a topic that is made has a setting only while records come.
pub(in crate::restore) fn is_meanwhile(name: &str) -> bool {
    name == AHEAD || MEANWHILE.iter().any(|(known, _)| *known == name)
}

/// The look at the target topics.
pub(super) struct Targets<'a> {
    pub(super) client: &'a Client,
    /// What is dangerous about them.
    pub(super) hazards: Vec<Hazard>,
}

impl Targets<'_> {
    fn hazard(&mut self, danger: Danger, subject: impl ToString, detail: impl Into<String>) {
        self.hazards.push(Hazard::new(danger, subject, detail));
    }

    /// Returns how many partitions topics have; of those that are there.
    pub(super) async fn partition_counts(&self, names: &[String]) -> Result<BTreeMap<String, i32>> {
        let metadata = self.client.metadata(Some(names)).await?;
        let there = metadata.topics.into_iter().filter(|topic| topic.code == 0);
        Ok(there.map(|topic| (topic.name, topic.partitions.len() as i32)).collect())
    }

    /// Looks at the targets of all topics, and says in them what becomes of each.
    pub(super) async fn look(&mut self, topics: &mut [TopicPlan], timelines: &[Timeline]) -> Result<()> {
        let names: BTreeSet<String> = topics.iter().map(|topic| topic.target.clone()).collect();
        let names: Vec<_> = names.into_iter().collect();
        let metadata = self.client.metadata(Some(&names)).await?;
        let told: BTreeMap<&str, &TopicMetadata> =
            metadata.topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
        let mut there = Vec::new();
        for name in &names {
            match told.get(name.as_str()).map(|told| told.code) {
                Some(0) => there.push(name.clone()),
                Some(UNKNOWN_TOPIC_OR_PARTITION) | None => {}
                Some(code) => {
                    let code = code_name(code);
                    return Err(Error::failed(format!("the cluster does not tell of topic \"{name}\": {code}")));
                }
            }
        }
        let settings = self.client.topic_configs(&there).await?;
        for topic in topics {
            let Some(told) = told.get(topic.target.as_str()).filter(|told| told.code == 0) else {
                let timeline = timelines.iter().find(|timeline| {
                    *timeline.topic == *topic.source && timeline.topic_id.to_string() == topic.topic_id
                });
                let object = timeline.and_then(|timeline| timeline.object.as_ref().ok()?.as_ref());
                self.missing(topic, object.map(|object| &object.topic), metadata.brokers.len());
                continue;
            };
            let configs = match settings.get(&topic.target) {
                Some(Ok(configs)) => configs.as_slice(),
                _ => &[],
            };
            if let Some(most) = number(configs, "max.message.bytes").and_then(|most| usize::try_from(most).ok()) {
                topic.most_bytes = most;
            }
            self.partitions(topic, told, number(configs, IN_SYNC).unwrap_or(1)).await?;
            self.settings(topic, configs);
        }
        Ok(())
    }

    /// Plans how a topic is made.
    fn missing(&mut self, topic: &mut TopicPlan, object: Option<&Topic>, brokers: usize) {
        let new = new_topic(topic, object, brokers);
        let made = |name: &str| new.configs.iter().chain(&new.afterwards).rev().find(|(known, _)| known == name);
        if let Some(most) = made("max.message.bytes").and_then(|(_, value)| value.parse().ok()) {
            topic.most_bytes = most;
        }
        let in_sync = made(IN_SYNC).and_then(|(_, value)| value.parse::<i64>().ok()).unwrap_or(1);
        if in_sync > i64::from(new.replication_factor) {
            let replicas = counted(new.replication_factor.unsigned_abs().into(), "replica");
            let detail =
                format!("{IN_SYNC} is {in_sync}, and it gets {replicas}: it takes nothing more once it is restored");
            self.hazard(Danger::MinInsyncReplicas, &topic.target, detail);
        }
        // What was not set is the default there as it was here, as far as anybody knows.
        let archived =
            |name: &str| value(object.and_then(|object| object.configs.as_deref()).unwrap_or_default(), name);
        if let Some(keeps) = keeps(archived, topic) {
            let detail = format!("afterwards its {keeps}");
            self.hazard(Danger::OlderThanRetention, &topic.target, detail);
        }
        topic.create = Some(new);
    }

    /// Looks at the partitions of a topic that is there.
    async fn partitions(&mut self, topic: &mut TopicPlan, told: &TopicMetadata, in_sync: i64) -> Result<()> {
        let name = topic.target.clone();
        let mut targets = Vec::new();
        for partition in topic.partitions.iter_mut().filter(|partition| !partition.range().is_empty()) {
            let Some(met) = told.partitions.iter().find(|met| met.index == partition.target) else {
                let has = counted(told.partitions.len() as u64, "partition");
                let detail =
                    format!("the topic has {has}: {} records that would go there are left out", partition.records);
                self.hazard(Danger::PartitionMissing, format!("{name}-{}", partition.target), detail);
                *partition = PartitionPlan::of(partition.source, partition.target, partition.first);
                continue;
            };
            targets.push(Partition { topic: name.as_str().into(), topic_id: told.topic_id, index: met.index });
            if in_sync > i64::from(met.replicas) {
                let replicas = counted(met.replicas.unsigned_abs().into(), "replica");
                let detail =
                    format!("{IN_SYNC} is {in_sync}, and it has {replicas}: it takes nothing until it has more");
                self.hazard(Danger::MinInsyncReplicas, format!("{name}-{}", met.index), detail);
            }
        }
        let logs = ends::of(self.client, &targets).await?;
        for target in &targets {
            if let Some(held) = logs.get(target).filter(|held| !held.is_empty()) {
                let detail = format!("it holds offsets {} to {} already", held.first, held.next - 1);
                self.hazard(Danger::TargetNotEmpty, target, detail);
            }
        }
        Ok(())
    }

    /// Looks at the settings of a topic that is there; where nobody may read them, they are Kafka's defaults.
    fn settings(&mut self, topic: &TopicPlan, configs: &[TopicConfig]) {
        let name = &topic.target;
        let is_stamped = value(configs, "message.timestamp.type") == Some("LogAppendTime");
        if is_stamped {
            let detail = "the topic stamps records with the time at which they are restored";
            self.hazard(Danger::LogAppendTime, name, detail);
        } else if let Some(refusal) = refusal(configs, topic, Timestamp::now().0) {
            self.hazard(Danger::TimestampLimits, name, refusal);
        }
        if let Some(codec) = value(configs, "compression.type").filter(|codec| *codec != "producer") {
            let detail = format!("compression.type is {codec}: batches differ from the archive's, records do not");
            self.hazard(Danger::Recompressed, name, detail);
        }
        if let Some(keeps) = keeps(|name| value(configs, name), topic).filter(|_| !is_stamped) {
            self.hazard(Danger::OlderThanRetention, name, keeps);
        }
    }
}

fn value<'a>(configs: &'a [TopicConfig], name: &str) -> Option<&'a str> {
    configs.iter().find(|config| config.name == name)?.value.as_deref()
}

fn number(configs: &[TopicConfig], name: &str) -> Option<i64> {
    value(configs, name)?.parse().ok()
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Says which records a topic deletes soon, if there are any; `value` tells its settings.
fn keeps<'a>(value: impl Fn(&str) -> Option<&'a str>, topic: &TopicPlan) -> Option<String> {
    let keeps = value("retention.ms")?.parse::<i64>().ok().filter(|keeps| *keeps >= 0)?;
    if value("cleanup.policy").is_some_and(|policy| !policy.contains("delete")) {
        return None;
    }
    let since = Timestamp::now().0.saturating_sub(keeps);
    let (least, _) = topic.times_ms()?;
    let detail = || format!("retention.ms is {keeps}: records older than {} are deleted soon", Timestamp(since));
    (least < since).then(detail)
}

/// Says which of a topic's limits of time its records exceed, if one.
fn refusal(configs: &[TopicConfig], topic: &TopicPlan, now_ms: i64) -> Option<String> {
    let (least, most) = topic.times_ms()?;
    let ahead = if configs.is_empty() { Some(AHEAD_MS) } else { number(configs, AHEAD) };
    let difference = number(configs, "message.timestamp.difference.max.ms");
    let behind = number(configs, "message.timestamp.before.max.ms");
    let (earlier, later) = (now_ms.saturating_sub(least), most.saturating_sub(now_ms));
    let limits = [
        (AHEAD, ahead, later, most),
        ("message.timestamp.before.max.ms", behind, earlier, least),
        ("message.timestamp.difference.max.ms", difference, later, most),
        ("message.timestamp.difference.max.ms", difference, earlier, least),
    ];
    let is_beyond = |limit: &(&str, Option<i64>, i64, i64)| limit.1.is_some_and(|limit_ms| limit.2 > limit_ms);
    let (name, limit, _, time) = limits.into_iter().find(is_beyond)?;
    let limit = limit.unwrap_or_default();
    Some(format!("{name} is {limit}: the topic refuses records of {}", Timestamp(time)))
}

/// Plans how a topic is made: as the archived one was, but for what would take records away while they come.
fn new_topic(topic: &TopicPlan, object: Option<&Topic>, brokers: usize) -> NewTopic {
    let highest = topic.partitions.iter().map(|partition| partition.target + 1).max().unwrap_or(1);
    let replicas = object.map_or(1, |object| object.replication_factor.max(1));
    let replicas = replicas.min(i16::try_from(brokers).unwrap_or(i16::MAX)).max(1);
    let set = object.and_then(|object| object.configs.as_ref()).into_iter().flatten().filter(|config| config.set);
    let set = set.filter_map(|config| Some((config.name.clone(), config.value.clone()?)));
    // Throttles name the brokers of the other cluster.
    let set: Vec<_> = set.filter(|(name, _)| !name.ends_with(".throttled.replicas")).collect();
    let is_late = |(name, value): &(String, String)| {
        let wants_more = name == IN_SYNC && value.parse().is_ok_and(|wanted: i64| wanted > i64::from(replicas));
        wants_more || AFTERWARDS.contains(&name.as_str())
    };
    let (mut afterwards, mut configs): (Vec<_>, Vec<_>) = set.into_iter().partition(is_late);
    configs.extend(MEANWHILE.map(|(name, value)| (name.to_owned(), value.to_owned())));
    // Brokers before 4.0 take any time, and the oldest do not know the setting.
    let is_ahead = |(_, most): &(i64, i64)| *most > Timestamp::now().0.saturating_add(AHEAD_MS / 2);
    if topic.times_ms().as_ref().is_some_and(is_ahead) {
        configs.push((AHEAD.to_owned(), i64::MAX.to_string()));
    }
    configs.sort();
    afterwards.sort();
    let partitions = object.map_or(highest, |object| object.partitions.max(highest));
    NewTopic { partitions, replication_factor: replicas, configs, afterwards }
}

#[cfg(test)]
mod tests;
