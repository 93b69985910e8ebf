//! The targets of a restore: topics made, partitions found, settings given back.
//!
//! Retry: none but the client's. What was made stays when something later fails: a topic of a restore that is not
//! finished keeps the settings that take nothing away.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};
use crate::kafka::client::Client;
use crate::kafka::client::topics::{Made, NewTopic};
use crate::record::{Partition, TopicId};
use crate::restore::map::Pair;
use crate::restore::plan::targets::is_meanwhile;
use crate::restore::plan::{self, PartitionPlan, Plan, TopicPlan};

/// A partition of the plan, with where its records go.
pub(super) struct Assigned<'a> {
    /// Source and target, by their topics' ids.
    pub(super) pair: Pair,
    /// Its topic.
    pub(super) topic: &'a TopicPlan,
    /// What is taken of it.
    pub(super) of: &'a PartitionPlan,
}

/// Returns the topics that are made, each with the new topic that the plan makes of it.
fn new_topics(plan: &Plan) -> impl Iterator<Item = (&TopicPlan, &plan::NewTopic)> {
    plan.topics.iter().filter_map(|topic| Some((topic, topic.create.as_ref()?)))
}

/// Makes the topics that are missing.
pub(super) async fn make(client: &Client, plan: &Plan) -> Result<()> {
    let mut wanted: BTreeMap<&str, NewTopic> = BTreeMap::new();
    for (topic, new) in new_topics(plan) {
        let made = NewTopic {
            name: topic.target.clone(),
            partitions: new.partitions,
            replication_factor: new.replication_factor,
            configs: new.configs.clone(),
        };
        let known = wanted.entry(&topic.target).or_insert_with(|| made.clone());
        known.partitions = known.partitions.max(made.partitions);
    }
    let wanted: Vec<_> = wanted.into_values().collect();
    if wanted.is_empty() {
        return Ok(());
    }
    for (topic, made) in wanted.iter().zip(client.create_topics(&wanted).await?) {
        match made {
            Made::Created(_) => tracing::info!(topic = topic.name, partitions = topic.partitions, "made"),
            Made::Exists => {
                return Err(Error::failed(format!("topic \"{}\" was made by somebody else meanwhile", topic.name))
                    .hint("plan again, with another restore_id: nothing was sent"));
            }
            Made::Refused(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the partitions that something is taken of, with their targets.
pub(super) async fn assigned<'a>(client: &Client, plan: &'a Plan) -> Result<Vec<Assigned<'a>>> {
    let mut names: Vec<_> = plan.topics.iter().map(|topic| topic.target.clone()).collect();
    names.sort();
    names.dedup();
    let metadata = client.metadata(Some(&names)).await?;
    let there = metadata.topics.iter().filter(|topic| topic.code == 0);
    let ids: HashMap<&str, TopicId> = there.map(|topic| (&*topic.name, topic.topic_id)).collect();
    let assign = |(topic, of): (&'a TopicPlan, &'a PartitionPlan)| {
        let target_id = ids.get(topic.target.as_str()).copied();
        let target_id = target_id
            .ok_or_else(|| Error::failed(format!("the cluster does not tell of topic \"{}\"", topic.target)))?;
        let source =
            Partition { topic: topic.source.as_str().into(), topic_id: topic.topic_id.parse()?, index: of.source };
        let target = Partition { topic: topic.target.as_str().into(), topic_id: target_id, index: of.target };
        Ok(Assigned { pair: Pair { source, target }, topic, of })
    };
    plan.partitions().filter(|(_, of)| !of.range().is_empty()).map(assign).collect()
}

/// Gives the topics that were made the settings that they could not have while records came.
pub(super) async fn set_afterwards(client: &Client, plan: &Plan) -> Result<()> {
    for (topic, new) in new_topics(plan) {
        let meanwhile = new.configs.iter().filter(|(name, _)| is_meanwhile(name));
        let mut changes: BTreeMap<&str, Option<&str>> = meanwhile.map(|(name, _)| (name.as_str(), None)).collect();
        changes.extend(new.afterwards.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))));
        let owned = |(name, value): (&str, Option<&str>)| (name.to_owned(), value.map(str::to_owned));
        let changes: Vec<_> = changes.into_iter().map(owned).collect();
        client.alter_configs(&topic.target, &changes).await?;
    }
    Ok(())
}
