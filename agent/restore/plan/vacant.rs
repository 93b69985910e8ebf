//! Source partitions of which there is nothing to restore, and where records of them would go.
//!
//! No record of theirs is sent, and they have no pair in the offset map. Consumer groups have committed there all the same: an
//! empty partition has a position too. In the target they read on where it ended when the restore was planned: what comes
//! behind that is theirs to read.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{PartitionPlan, Plan, TopicPlan};
use crate::archive::source::Timeline;
use crate::config::Restore;
use crate::error::Result;
use crate::kafka::client::Client;
use crate::record::{Offset, Partition};
use crate::restore::ends;
use crate::restore::map::{OffsetMap, Pair};
use crate::restore::perform::targets;

/// A source partition of which there is nothing to restore, with a target partition that would get its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vacant {
    /// Both. The target's topic has no id where the restore makes it ([`of`]).
    #[serde(flatten)]
    pub pair: Pair,
    /// Where the target ended when the restore was planned; 0 in a topic that it makes.
    pub end: Offset,
}

/// Returns the vacant partitions of a plan, with the ids of target topics as far as the offset map tells them.
pub fn of(plan: &Plan, map: &OffsetMap) -> Vec<Vacant> {
    let ids: BTreeMap<&str, _> = map.iter().map(|(pair, _)| (&*pair.target.topic, pair.target.topic_id)).collect();
    let with_id = |vacant: &Vacant| {
        let mut vacant = vacant.clone();
        if let Some(topic_id) = ids.get(&*vacant.pair.target.topic) {
            vacant.pair.target.topic_id = *topic_id;
        }
        vacant
    };
    plan.vacant.iter().map(with_id).collect()
}

/// Finds the vacant partitions of a plan that is made but for them.
///
/// # Errors
/// Those of the cluster.
pub(super) async fn find(
    client: &Client,
    restore: &Restore,
    plan: &Plan,
    timelines: &[Timeline],
) -> Result<Vec<Vacant>> {
    let topics = plan.topics.iter().map(|topic| with_all(restore, topic, timelines)).collect();
    let all = Plan { topics, ..plan.clone() };
    let assigned = targets::foreseen_vacant(client, &all).await?;
    let made = plan.new_topics();
    let pairs: BTreeSet<&Pair> = assigned.iter().flat_map(|of| &of.targets).map(|toward| &toward.pair).collect();
    let targets = pairs.iter().map(|pair| &pair.target);
    let there: BTreeSet<&Partition> = targets.filter(|target| !made.contains_key(&*target.topic)).collect();
    let logs = ends::of(client, &there.into_iter().cloned().collect::<Vec<_>>()).await?;
    let end = |pair: &Pair| logs.get(&pair.target).map_or(0, |log| log.next);
    Ok(pairs.into_iter().map(|pair| Vacant { pair: pair.clone(), end: end(pair) }).collect())
}

/// Returns a topic with those of its partitions that the archive knows of and has nothing at all of.
fn with_all(restore: &Restore, topic: &TopicPlan, timelines: &[Timeline]) -> TopicPlan {
    let is_it = |of: &&Timeline| *of.topic == *topic.source && of.topic_id.to_string() == topic.topic_id;
    let object = timelines.iter().find(is_it).and_then(|timeline| timeline.object.as_ref().ok()?.as_ref());
    let count = object.map_or(0, |object| object.topic.partitions);
    let mut only = restore.source.partitions.iter().filter(|(name, _)| *name == topic.source).peekable();
    let is_all = only.peek().is_none();
    let asked: BTreeSet<i32> = only.map(|(_, index)| *index).collect();
    let known: BTreeSet<i32> = topic.partitions.iter().map(|of| of.source).collect();
    let lacking = (0..count).filter(|index| !known.contains(index) && (is_all || asked.contains(index)));
    let target = |index: i32| topic.repartition.map_or(index, |count| index % count);
    let mut all = topic.clone();
    all.partitions.extend(lacking.map(|index| PartitionPlan::of(index, target(index), 0)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{OffsetRange, TopicId};

    fn partition(topic: &str, topic_id: TopicId, index: i32) -> Partition {
        Partition { topic: topic.into(), topic_id, index }
    }

    #[test]
    fn a_vacant_partition_of_a_topic_that_was_made_gets_the_id_of_the_one_that_was() {
        let id = TopicId(uuid::Uuid::from_u128(7));
        let mut map = OffsetMap::default();
        let pair = Pair { source: partition("a", TopicId::NONE, 0), target: partition("a-new", id, 0) };
        map.open(&pair, OffsetRange { first: 0, next: 5 }, 0).expect("a range");
        let vacant = |topic: &str, index| Vacant {
            pair: Pair { source: partition("a", TopicId::NONE, index), target: partition(topic, TopicId::NONE, index) },
            end: 0,
        };
        let plan = serde_json::json!({ "cut": {}, "merge_below": 0, "topics": [], "hazards": [] });
        let plan: Plan = serde_json::from_value(plan).expect("a plan of before knew none");
        assert!(of(&plan, &map).is_empty());
        let plan = Plan { vacant: vec![vacant("a-new", 1), vacant("b-new", 2)], ..plan };
        let kept: Plan = serde_json::from_value(serde_json::to_value(&plan).expect("JSON")).expect("read back");
        assert_eq!(kept, plan);
        let ids: Vec<TopicId> = of(&kept, &map).into_iter().map(|vacant| vacant.pair.target.topic_id).collect();
        assert_eq!(ids, [id, TopicId::NONE], "of the other topic nothing is known");
    }
}
