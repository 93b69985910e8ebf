//! Looks at the targets of a restore: which topics are there and what is dangerous about them, and how the others are made.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::hazards::{Danger, Hazard};
use super::made::{self, AHEAD, AHEAD_MS, IN_SYNC, counted, number, value};
use super::{PartitionPlan, Plan, TopicPlan};
use crate::archive::source::Timeline;
use crate::error::{Error, Result};
use crate::kafka::client::{Client, TopicMetadata};
use crate::kafka::code_name;
use crate::pipeline::{Topic, TopicConfig};
use crate::record::{Partition, Timestamp};
use crate::restore::ends;

/// Kafka's code for a topic that is not there.
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// Looks at the targets of all topics of a plan, and says in it what becomes of each and what is dangerous about that.
///
/// # Errors
/// Those of the cluster; [`Kind::Failed`](crate::error::Kind::Failed) where it does not tell what a target is like, or
/// would not make one.
pub(super) async fn look(client: &Client, plan: &mut Plan, timelines: &[Timeline]) -> Result<()> {
    let names: BTreeSet<String> = plan.topics.iter().map(|topic| topic.target.clone()).collect();
    let names: Vec<_> = names.into_iter().collect();
    let metadata = client.metadata(Some(&names)).await?;
    let told: BTreeMap<&str, &TopicMetadata> =
        metadata.topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
    let is_routed = plan.stages.iter().any(|stage| !stage.topics.is_empty());
    let mut targets = Targets { client, is_routed, hazards: Vec::new() };
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match told.get(name.as_str()).map(|told| told.code) {
            Some(0) => there.push(name),
            Some(UNKNOWN_TOPIC_OR_PARTITION) | None => missing.push(name),
            Some(code) => {
                let code = code_name(code);
                return Err(Error::failed(format!("the cluster does not tell of topic \"{name}\": {code}")));
            }
        }
    }
    for name in missing {
        targets.missing(&mut plan.topics, &name, timelines, metadata.brokers.len()).await?;
    }
    let mut settings = client.topic_configs(&there).await?;
    for name in there {
        let configs = told_of(&name, settings.remove(&name))?;
        for topic in plan.topics.iter_mut().filter(|topic| topic.target == name) {
            targets.size(topic, &configs);
            if let Some(told) = told.get(name.as_str()) {
                spread_over(topic, told.partitions.len())?;
                targets.partitions(topic, told, number(&configs, IN_SYNC).unwrap_or(1)).await?;
            }
            topic.compacts = value(&configs, "cleanup.policy").is_some_and(|policy| policy.contains("compact"));
            targets.settings(topic, &configs);
            targets.keeps(topic, &configs, "its");
        }
    }
    plan.hazards.append(&mut targets.hazards);
    Ok(())
}

/// Makes sure that a topic has the partitions that its records are spread over: others would not be where a producer of it
/// looks for their keys.
fn spread_over(topic: &TopicPlan, has: usize) -> Result<()> {
    match topic.repartition {
        Some(count) if usize::try_from(count) != Ok(has) => {
            let (name, has) = (&topic.target, counted(has as u64, "partition"));
            Err(Error::usage(format!("sink.repartition: `{name}:{count}`, but the topic is there and has {has}"))
                .hint("name as many as it has, or have another topic made (sink.topics)"))
        }
        _ => Ok(()),
    }
}

/// Returns the settings of a topic that is there. Those that nobody may read are no proof that there is no danger.
fn told_of(name: &str, told: Option<Result<Vec<TopicConfig>>>) -> Result<Vec<TopicConfig>> {
    let untold = || Error::failed(format!("the cluster does not tell the settings of topic \"{name}\""));
    told.unwrap_or_else(|| Err(untold())).map_err(|error| {
        error.hint("allow DESCRIBE_CONFIGS on it for this principal: what is dangerous about it depends on them")
    })
}

/// The look at the target topics.
struct Targets<'a> {
    client: &'a Client,
    /// Stages may send records elsewhere.
    is_routed: bool,
    /// What is dangerous about them.
    hazards: Vec<Hazard>,
}

impl Targets<'_> {
    fn hazard(&mut self, danger: Danger, subject: impl ToString, detail: impl Into<String>) {
        self.hazards.push(Hazard::new(danger, subject, detail));
    }

    /// Plans how a topic is made.
    async fn missing(
        &mut self,
        topics: &mut [TopicPlan],
        name: &str,
        timelines: &[Timeline],
        brokers: usize,
    ) -> Result<()> {
        let archived = |topic: &TopicPlan| -> Option<&Topic> {
            let of = timelines
                .iter()
                .find(|timeline| *timeline.topic == *topic.source && timeline.topic_id.to_string() == topic.topic_id);
            of.and_then(|timeline| timeline.object.as_ref().ok()?.as_ref()).map(|object| &object.topic)
        };
        let of: Vec<_> =
            topics.iter().filter(|topic| topic.target == name).map(|topic| (topic, archived(topic))).collect();
        let mut checked = made::plan(self.client, &of, brokers).await?;
        self.hazards.append(&mut checked.hazards);
        for topic in topics.iter_mut().filter(|topic| topic.target == name) {
            self.size(topic, &checked.meanwhile);
            self.settings(topic, &checked.meanwhile);
            self.keeps(topic, &checked.afterwards, "afterwards its");
            topic.create = Some(checked.new.clone());
        }
        Ok(())
    }

    /// Takes over how large a target's batches may be.
    fn size(&mut self, topic: &mut TopicPlan, configs: &[TopicConfig]) {
        if let Some(most) = number(configs, "max.message.bytes").and_then(|most| usize::try_from(most).ok()) {
            topic.most_bytes = most;
        }
        for of in topic.partitions.iter().filter(|of| of.record_bytes > topic.most_bytes as u64) {
            let detail = format!(
                "max.message.bytes is {}, and a record alone has {} bytes or more: it is refused, and ends the partition",
                topic.most_bytes, of.record_bytes
            );
            self.hazards.push(Hazard::new(Danger::RecordTooLarge, format!("{}-{}", topic.target, of.target), detail));
        }
    }

    /// Looks at the partitions of a topic that is there.
    async fn partitions(&mut self, topic: &mut TopicPlan, told: &TopicMetadata, in_sync: i64) -> Result<()> {
        let name = topic.target.clone();
        let mut targets = Vec::new();
        for partition in topic.partitions.iter_mut().filter(|partition| !partition.range().is_empty()) {
            let Some(met) = told.partitions.iter().find(|met| met.index == partition.target) else {
                let has = counted(told.partitions.len() as u64, "partition");
                let records = partition.records;
                let detail = match self.is_routed {
                    false => format!("the topic has {has}: {records} records that would go there are left out"),
                    true => format!(
                        "the topic has {has}: all {records} records of partition {} of the source are left out, also what \
                         stages would send elsewhere",
                        partition.source
                    ),
                };
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
        let full: HashSet<Partition> = ends::with_records(self.client, &logs).await?;
        for target in targets.iter().filter(|target| full.contains(target)) {
            if let Some(held) = logs.get(target) {
                let detail = format!("it holds offsets {} to {} already", held.first, held.next - 1);
                self.hazard(Danger::TargetNotEmpty, target, detail);
            }
        }
        Ok(())
    }

    /// Looks at the settings that a topic has while records come.
    fn settings(&mut self, topic: &TopicPlan, configs: &[TopicConfig]) {
        let name = &topic.target;
        if value(configs, "message.timestamp.type") == Some("LogAppendTime") {
            let detail = "the topic stamps records with the time at which they are restored";
            self.hazard(Danger::LogAppendTime, name, detail);
        } else if let Some(refusal) = refusal(configs, topic, Timestamp::now().0) {
            self.hazard(Danger::TimestampLimits, name, refusal);
        }
        if let Some(codec) = value(configs, "compression.type").filter(|codec| *codec != "producer") {
            let detail = format!("compression.type is {codec}: batches differ from the archive's, records do not");
            self.hazard(Danger::Recompressed, name, detail);
        }
    }

    /// Looks at what a topic keeps with the settings that it has in the end.
    fn keeps(&mut self, topic: &TopicPlan, configs: &[TopicConfig], whose: &str) {
        let is_stamped = value(configs, "message.timestamp.type") == Some("LogAppendTime") && topic.create.is_none();
        if let Some(keeps) = keeps(configs, topic, Timestamp::now().0).filter(|_| !is_stamped) {
            self.hazard(Danger::OlderThanRetention, &topic.target, format!("{whose} {keeps}"));
        }
        if let Some(keeps) = keeps_bytes(configs, topic) {
            self.hazard(Danger::OlderThanRetention, &topic.target, format!("{whose} {keeps}"));
        }
    }
}

fn deletes(configs: &[TopicConfig]) -> bool {
    value(configs, "cleanup.policy").is_none_or(|policy| policy.contains("delete"))
}

/// Says which records a topic deletes soon, if there are any. The plan is kept: it says nothing of this moment.
fn keeps(configs: &[TopicConfig], topic: &TopicPlan, now_ms: i64) -> Option<String> {
    let keeps = number(configs, "retention.ms").filter(|keeps| *keeps >= 0 && deletes(configs))?;
    let (least, _) = topic.times_ms()?;
    let detail =
        || format!("retention.ms is {keeps}, and records are as old as {}: they are deleted soon", Timestamp(least));
    (least < now_ms.saturating_sub(keeps)).then(detail)
}

/// Says which partition gets more than a topic keeps of one, if one does.
fn keeps_bytes(configs: &[TopicConfig], topic: &TopicPlan) -> Option<String> {
    let keeps = number(configs, "retention.bytes").filter(|keeps| *keeps >= 0 && deletes(configs))?;
    if let Some(count) = topic.repartition {
        let each = topic.partitions.iter().map(|of| of.bytes).sum::<u64>() / u64::from(count.unsigned_abs().max(1));
        let detail =
            || format!("retention.bytes is {keeps}, and each partition gets about {each}: the oldest are deleted soon");
        return (each > keeps.unsigned_abs()).then(detail);
    }
    let most = topic.partitions.iter().max_by_key(|of| of.bytes).filter(|of| of.bytes > keeps.unsigned_abs())?;
    Some(format!(
        "retention.bytes is {keeps}, and partition {} gets {}: its oldest are deleted soon",
        most.target, most.bytes
    ))
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

#[cfg(test)]
mod tests;
