//! The targets of a restore: topics made, partitions found, settings given back.
//!
//! Retry: the client's, and until brokers tell of topics that were made a moment ago. What was made stays when something
//! later fails: a topic of a restore that is not finished keeps the settings that take nothing away.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::backoff::Patience;
use crate::error::{Error, Result};
use crate::kafka::client::topics::{Made, NewTopic};
use crate::kafka::client::{Client, Metadata};
use crate::pipeline::TopicConfig;
use crate::record::{Partition, TopicId};
use crate::restore::map::Pair;
use crate::restore::plan::{self, PartitionPlan, Plan, RoutedPlan, TopicPlan};

/// How long a topic may be unknown to the broker that is asked: they learn of one after the other, in milliseconds, and one
/// that returns in seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// A partition of the plan, with where its records can go.
pub(in crate::restore) struct Assigned<'a> {
    /// Where they come from, by the topic's id.
    pub(in crate::restore) source: Partition,
    /// What is taken of it.
    pub(in crate::restore) of: &'a PartitionPlan,
    /// Where they can go; the first is where records go that no stage sends elsewhere.
    pub(in crate::restore) targets: Vec<Toward>,
}

/// A target of a partition.
pub(in crate::restore) struct Toward {
    /// Source and target, by their topics' ids.
    pub(in crate::restore) pair: Pair,
    /// The target's `max.message.bytes`.
    pub(in crate::restore) most_bytes: usize,
}

/// Makes the topics that are missing. Those that are there by now are taken for ours where they are as we make them: an
/// earlier start of this restore has made them.
pub(super) async fn make(client: &Client, plan: &Plan) -> Result<()> {
    let wanted: Vec<NewTopic> = plan.new_topics().into_iter().map(|(topic, new)| wanted(topic, new)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut exist = Vec::new();
    for (topic, made) in wanted.iter().zip(client.create_topics(&wanted).await?) {
        match made {
            Made::Created(_) => tracing::info!(topic = topic.name, partitions = topic.partitions, "made"),
            Made::Exists => exist.push(topic),
            Made::Refused(error) => return Err(error),
        }
    }
    let names: Vec<String> = exist.iter().map(|topic| topic.name.clone()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let metadata = told(client, &names).await?;
    let mut settings = client.topic_configs(&names).await?;
    for topic in exist {
        let told = metadata.topics.iter().find(|told| told.name == topic.name);
        let partitions = told.map_or(0, |told| told.partitions.len());
        let held = settings.remove(&topic.name).transpose()?.unwrap_or_default();
        if !is_as_made(topic, partitions, &held) {
            return Err(Error::failed(format!("topic \"{}\" was made by somebody else meanwhile", topic.name))
                .hint("plan again, with another restore_id: nothing was sent"));
        }
        tracing::info!(topic = topic.name, "an earlier start of this restore has made it");
    }
    Ok(())
}

/// Returns whether a topic has the partitions and settings of one that a restore makes: those while records come, or those
/// that it gets afterwards.
pub(in crate::restore) fn is_ours(name: &str, new: &plan::NewTopic, partitions: usize, held: &[TopicConfig]) -> bool {
    let meanwhile = wanted(name, new);
    let mut configs: BTreeMap<String, String> = meanwhile.configs.iter().cloned().collect();
    configs.retain(|name, _| !new.meanwhile.contains(name));
    configs.extend(new.afterwards.iter().cloned());
    let afterwards = NewTopic { configs: configs.into_iter().collect(), ..meanwhile.clone() };
    is_as_made(&meanwhile, partitions, held) || is_as_made(&afterwards, partitions, held)
}

/// Returns how a topic is made.
fn wanted(name: &str, new: &plan::NewTopic) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        partitions: new.partitions,
        replication_factor: new.replication_factor,
        configs: new.configs.clone(),
    }
}

/// Returns whether a topic has the partitions and settings of one that we make.
fn is_as_made(topic: &NewTopic, partitions: usize, held: &[TopicConfig]) -> bool {
    let mut held: Vec<_> = held.iter().filter(|config| config.set).collect();
    held.sort_by(|a, b| a.name.cmp(&b.name));
    let mut wanted = topic.configs.clone();
    wanted.sort();
    let same = |(config, (name, value)): (&&TopicConfig, &(String, String))| {
        config.name == *name && config.value.as_ref() == Some(value)
    };
    usize::try_from(topic.partitions) == Ok(partitions)
        && held.len() == wanted.len()
        && held.iter().zip(&wanted).all(same)
}

/// Returns the partitions that something is taken of, with their targets.
pub(super) async fn assigned<'a>(client: &Client, plan: &'a Plan) -> Result<Vec<Assigned<'a>>> {
    assign_all(plan, &there(&told(client, &names(plan)).await?))
}

/// As [`assigned`], before the topics that are missing are made: those have no ids yet.
pub(in crate::restore) async fn foreseen<'a>(client: &Client, plan: &'a Plan) -> Result<Vec<Assigned<'a>>> {
    let metadata = client.metadata(Some(&names(plan))).await?;
    assign_all(plan, &to_be(plan, &metadata))
}

/// As [`foreseen`], of the partitions that nothing is taken of: where records of them would go. Targets that are not there, and
/// are not made, are not among them.
pub(in crate::restore) async fn foreseen_vacant<'a>(client: &Client, plan: &'a Plan) -> Result<Vec<Assigned<'a>>> {
    let vacant: Vec<_> = plan.partitions().filter(|(_, of)| of.range().is_empty()).collect();
    if vacant.is_empty() {
        return Ok(Vec::new());
    }
    let metadata = client.metadata(Some(&names(plan))).await?;
    let there = to_be(plan, &metadata);
    let is_there = |toward: &Toward| {
        let has = there.get(&*toward.pair.target.topic).map_or(0, |(_, partitions)| *partitions);
        toward.pair.target.index < has
    };
    let mut assigned =
        vacant.into_iter().map(|(topic, of)| assign(plan, &there, topic, of)).collect::<Result<Vec<_>>>()?;
    assigned.iter_mut().for_each(|of| of.targets.retain(is_there));
    Ok(assigned)
}

/// Returns the topics that are there or will be made, with how many partitions each has; the latter have no ids yet.
fn to_be<'a>(plan: &'a Plan, metadata: &'a Metadata) -> HashMap<&'a str, (TopicId, i32)> {
    let mut there = there(metadata);
    for (topic, new) in plan.new_topics() {
        there.entry(topic).or_insert((TopicId::NONE, new.partitions));
    }
    there
}

/// Returns the names of the plan's targets.
fn names(plan: &Plan) -> Vec<String> {
    let mut names: Vec<_> = plan.topics.iter().map(|topic| topic.target.clone()).collect();
    names.extend(plan.routed.iter().map(|topic| topic.topic.clone()));
    names.sort();
    names.dedup();
    names
}

/// Returns the topics that are there, with how many partitions each has.
fn there(metadata: &Metadata) -> HashMap<&str, (TopicId, i32)> {
    let there = metadata.topics.iter().filter(|topic| topic.code == 0);
    there.map(|topic| (&*topic.name, (topic.topic_id, topic.partitions.len() as i32))).collect()
}

fn assign_all<'a>(plan: &'a Plan, there: &HashMap<&str, (TopicId, i32)>) -> Result<Vec<Assigned<'a>>> {
    let taken = plan.partitions().filter(|(_, of)| !of.range().is_empty());
    taken.map(|(topic, of)| assign(plan, there, topic, of)).collect()
}

/// Asks for topics until all of them are told.
async fn told(client: &Client, names: &[String]) -> Result<Metadata> {
    let mut patience = Patience::new(client.backoff(), TOLD_WITHIN);
    loop {
        let error = match client.metadata(Some(names)).await {
            Ok(metadata) => {
                let is_told = |name: &&String| metadata.topics.iter().any(|of| of.name == **name && of.code == 0);
                let Some(name) = names.iter().find(|name| !is_told(name)) else { return Ok(metadata) };
                untold(name)
            }
            Err(error) => error,
        };
        patience.wait(error).await?;
    }
}

fn untold(name: &str) -> Error {
    Error::transient(format!("the cluster does not tell of topic \"{name}\""))
}

/// Finds the targets of one partition; `there` are the topics of the cluster, with how many partitions each has.
fn assign<'a>(
    plan: &Plan,
    there: &HashMap<&str, (TopicId, i32)>,
    topic: &TopicPlan,
    of: &'a PartitionPlan,
) -> Result<Assigned<'a>> {
    let find = |name: &str| there.get(name).copied().ok_or_else(|| untold(name));
    let source = topic.source_partition(of)?;
    let toward = |name: &str, topic_id, index, most_bytes| {
        let target = Partition { topic: name.into(), topic_id, index };
        Toward { pair: Pair { source: source.clone(), target }, most_bytes }
    };
    let (topic_id, _) = find(&topic.target)?;
    let mut targets = vec![toward(&topic.target, topic_id, of.target, topic.most_bytes)];
    let spread = (0..topic.repartition.unwrap_or(0)).filter(|index| *index != of.target);
    targets.extend(spread.map(|index| toward(&topic.target, topic_id, index, topic.most_bytes)));
    let chooses_partitions = plan.stages.iter().any(|stage| stage.chooses_partitions);
    let is_known = |routed: &&RoutedPlan| routed.topic == topic.target && topic.repartition.is_some();
    for routed in plan.routed.iter().filter(|routed| !is_known(routed)) {
        let (topic_id, partitions) = find(&routed.topic)?;
        let own = (routed.topic == topic.target).then_some(of.target);
        let any = chooses_partitions || routed.repartition.is_some();
        let reached = if any { 0..partitions } else { of.source..(of.source + 1).min(partitions) };
        let others = reached.filter(|index| own != Some(*index));
        targets.extend(others.map(|index| toward(&routed.topic, topic_id, index, routed.most_bytes)));
    }
    Ok(Assigned { source, of, targets })
}

/// Gives the topics that were made the settings that they could not have while records came. It may be done again.
pub(super) async fn set_afterwards(client: &Client, plan: &Plan) -> Result<()> {
    for (topic, new) in plan.new_topics() {
        let mut changes: BTreeMap<&str, Option<&str>> =
            new.meanwhile.iter().map(|name| (name.as_str(), None)).collect();
        changes.extend(new.afterwards.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))));
        let owned = |(name, value): (&str, Option<&str>)| (name.to_owned(), value.map(str::to_owned));
        let changes: Vec<_> = changes.into_iter().map(owned).collect();
        client.alter_configs(topic, &changes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_ours_only_where_it_is_as_we_make_it() {
        let configs = [("retention.ms", "-1"), ("cleanup.policy", "delete")];
        let configs = configs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let topic = NewTopic { name: "t".into(), partitions: 2, replication_factor: 1, configs };
        let config = |name: &str, value: &str, set| TopicConfig { name: name.into(), value: Some(value.into()), set };
        let made = [config("retention.ms", "-1", true), config("cleanup.policy", "delete", true)];
        let default = config("segment.bytes", "1", false);
        assert!(is_as_made(&topic, 2, &[&made[..], &[default]].concat()));
        assert!(!is_as_made(&topic, 3, &made), "it has another partition");
        assert!(!is_as_made(&topic, 2, &made[..1]) && !is_as_made(&topic, 2, &[]), "it lacks a setting");
        let other = config("retention.ms", "1000", true);
        assert!(!is_as_made(&topic, 2, &[other, made[1].clone()]), "somebody has set it otherwise");
    }

    #[test]
    fn a_topic_is_ours_while_records_come_and_afterwards() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let new = plan::NewTopic {
            partitions: 2,
            replication_factor: 1,
            configs: vec![pair("retention.ms", "-1"), pair("max.message.bytes", "5")],
            meanwhile: vec!["retention.ms".to_owned()],
            afterwards: vec![pair("cleanup.policy", "compact")],
        };
        let config = |name: &str, value: &str| TopicConfig { name: name.into(), value: Some(value.into()), set: true };
        let (most, kept) = (config("max.message.bytes", "5"), config("retention.ms", "-1"));
        let compacts = config("cleanup.policy", "compact");
        assert!(is_ours("t", &new, 2, &[most.clone(), kept.clone()]));
        assert!(is_ours("t", &new, 2, &[most.clone(), compacts.clone()]));
        assert!(!is_ours("t", &new, 1, &[most.clone(), kept.clone()]), "it lacks a partition");
        assert!(!is_ours("t", &new, 2, &[most, kept, compacts]) && !is_ours("t", &new, 2, &[]), "it is another's");
    }
}
