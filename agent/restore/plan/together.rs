//! What comes together in one target partition: refused where it was not asked for, and where it could not be brought to its
//! end.

use std::collections::{BTreeSet, HashMap};

use super::hazards::{Danger, Hazard};
use super::{Plan, StagePlan, TopicPlan};
use crate::config::Restore;
use crate::error::{Error, Result};
use crate::kafka::client::Client;
use crate::kafka::produce::Places;
use crate::record::Partition;
use crate::restore::perform::{targets, within};
use crate::restore::resume::{self, Path};

/// Refuses two sources of one target partition: their records would be mixed.
pub(super) fn collisions(topics: &[TopicPlan]) -> Result<()> {
    let mut taken: HashMap<(&str, i32), String> = HashMap::new();
    for topic in topics.iter().filter(|topic| topic.repartition.is_none()) {
        for partition in &topic.partitions {
            let name = format!("{}-{}", topic.source, partition.source);
            if let Some(other) = taken.insert((&topic.target, partition.target), name.clone()) {
                let to = format!("{}-{}", topic.target, partition.target);
                return Err(Error::usage(format!("`{other}` and `{name}` would both go to `{to}`")).hint(
                    "give one of them another topic (sink.topics) or partition (sink.partitions), or spread them by \
                           key (sink.repartition)",
                ));
            }
        }
    }
    Ok(())
}

/// Refuses topics that are to be spread by key and to which nothing goes: a slip of the pen would leave it out.
pub(super) fn repartitioned(restore: &Restore, stages: &[StagePlan], topics: &[TopicPlan]) -> Result<()> {
    let is_reached = |name: &String| {
        let mut routed = stages.iter().flat_map(|stage| &stage.topics);
        topics.iter().any(|topic| topic.target == *name) || routed.any(|topic| topic == name)
    };
    match restore.sink.repartition.keys().find(|name| !is_reached(name)) {
        None => Ok(()),
        Some(name) => Err(Error::usage(format!("sink.repartition: nothing is restored to a topic `{name}`"))
            .hint("it names topics of the target, as sink.topics has them on the right")),
    }
}

/// Looks at the transactions that records go in where they could not be counted, before anything is made: whether they are
/// allowed, and what is dangerous about them. `hindrance` is why there can be none.
///
/// # Errors
/// As [`within::check`].
pub(super) async fn hazards(
    restore: &Restore,
    client: &Client,
    plan: &Plan,
    hindrance: Option<&str>,
) -> Result<Option<Hazard>> {
    let assigned = targets::foreseen(client, plan).await?;
    let Path::Transactions(why) = resume::path(plan, restore.skips(), &assigned) else { return Ok(None) };
    let targets = resume::targets(&assigned);
    within::check(client, &restore.id(), (&why, hindrance), &targets).await?;
    Ok(too_many(&targets, assigned.len()))
}

/// Says where how far so many sources have come has no place beside their targets.
fn too_many(targets: &[Partition], sources: usize) -> Option<Hazard> {
    let error = Places::new(targets, sources).err()?;
    let topics: BTreeSet<&str> = targets.iter().map(|target| &*target.topic).collect();
    let topics: Vec<&str> = topics.into_iter().collect();
    Some(Hazard::new(Danger::TooManySources, topics.join(", "), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::PartitionPlan;
    use super::super::made::MOST_BYTES;
    use super::*;
    use crate::record::TopicId;

    #[test]
    fn a_target_partition_has_one_source() {
        let topic = |source: &str, partitions: &[(i32, i32)]| TopicPlan {
            source: source.into(),
            topic_id: "_".into(),
            target: "all".into(),
            create: None,
            most_bytes: MOST_BYTES,
            compacts: false,
            repartition: None,
            only_routed: false,
            partitions: partitions.iter().map(|(from, to)| PartitionPlan::of(*from, *to, 0)).collect(),
        };
        collisions(&[topic("a", &[(0, 0), (1, 1)]), topic("b", &[(0, 2)])]).expect("each has its own");
        let error = collisions(&[topic("a", &[(0, 0)]), topic("b", &[(3, 0)])]).expect_err("both").to_string();
        assert!(error.starts_with("`a-0` and `b-3` would both go to `all-0`"), "{error}");
    }

    #[test]
    fn more_sources_than_have_a_place_are_a_hazard_that_nothing_waves_through() {
        let target = |index| Partition { topic: "all".into(), topic_id: TopicId::NONE, index };
        assert_eq!(too_many(&[target(0), target(1)], 400), None);
        let hazard = too_many(&[target(0), target(1)], 401).expect("there is no room");
        assert_eq!((hazard.danger, &*hazard.subject), (Danger::TooManySources, "all"));
        let error = super::super::hazards::check(&[hazard]).expect_err("it is refused").to_string();
        for words in [
            "all: too-many-sources: 401 partitions cannot go into 2",
            "200 to a target partition",
            "nothing was changed",
        ] {
            assert!(error.contains(words), "{error}");
        }
        assert!(!error.contains("accept ="), "{error}");
    }
}
