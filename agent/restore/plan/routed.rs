//! The stages of a restore, and the topics that they may send records to, as they are planned.
//!
//! Rows that a stage sends to a topic go to the partition of the source's number, unless a stage chooses one: then any of
//! the topic's may get some. So every partition that may is looked at before anything is sent, is fenced, and has a place
//! in the offset map. What a stage says that it drops by time is left out as what the restore's own cut leaves out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::hazards::{Danger, Hazard};
use super::made::MOST_BYTES;
use super::{Cut, NewTopic, PartitionPlan, TopicPlan, span};
use crate::archive::source::Timeline;
use crate::error::{Error, Result};
use crate::kafka::client::Client;
use crate::stages::Stages;

/// The most pairs of source and target partitions. The map and what is kept of a restore have a place for each.
const MOST_PAIRS: usize = 100_000;

/// A stage that records go through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePlan {
    /// The plugin's name.
    pub plugin: String,
    /// XXH3-128 of its file.
    pub digest: String,
    /// Whether it makes the same of the same records, however they are split.
    pub pure: bool,
    /// The topics that it may send records to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// Whether it chooses partitions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chooses_partitions: bool,
}

/// A topic that stages may send records to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutedPlan {
    /// The topic.
    pub topic: String,
    /// How it is made; `None` where it is there, or is made as the target of another topic.
    pub create: Option<NewTopic>,
    /// Its `max.message.bytes`.
    pub most_bytes: usize,
    /// What is sent to it is spread by key over so many partitions, all that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repartition: Option<i32>,
    /// Whether a partition of it may get records of several partitions: their order among each other is then not kept.
    pub is_mixed: bool,
}

/// Returns the stages as they are planned.
pub(super) fn stages(stages: &Stages) -> Vec<StagePlan> {
    let planned = stages.declared().iter().map(|stage| StagePlan {
        plugin: stage.plugin.clone(),
        digest: format!("{:032x}", stage.digest),
        pure: stage.is_pure,
        topics: stage.topics.clone(),
        chooses_partitions: stage.chooses_partitions,
    });
    planned.collect()
}

/// Returns what stages say that they keep, as a cut.
pub(super) fn kept(stages: Option<&Stages>) -> Cut {
    let (from, until) = stages.map(Stages::keeps).unwrap_or_default();
    Cut { from_ms: from.map(|time| time.0), until_ms: until.map(|time| time.0), savepoint: None }
}

/// What stages may send to, beside what is restored there anyway.
#[derive(Default)]
pub(super) struct Routing {
    /// For each topic that stages name, for those of the restore where a stage chooses partitions, and for those that are
    /// spread by key, how its partitions would be restored to that nothing else is: they are to be looked at as all others.
    pub(super) topics: Vec<TopicPlan>,
}

impl Routing {
    /// Finds what stages, and what is spread by key, may send records of `topics` to.
    ///
    /// # Errors
    /// Those of the cluster; [`Kind::Usage`](crate::error::Kind::Usage) for too many pairs of partitions.
    pub(super) async fn of(
        client: &Client,
        (stages, repartition): (&[StagePlan], &BTreeMap<String, i32>),
        topics: &[TopicPlan],
        timelines: &[Timeline],
    ) -> Result<Self> {
        let chooses = chooses_partitions(stages);
        let routed = names(stages, topics);
        let names: BTreeSet<String> = routed.iter().chain(repartition.keys()).cloned().collect();
        let (Some(like), most) = widest(topics, timelines) else { return Ok(Self::default()) };
        if names.is_empty() {
            return Ok(Self::default());
        }
        let names: Vec<String> = names.into_iter().collect();
        let metadata = client.metadata(Some(&names)).await?;
        let there = metadata.topics.iter().filter(|topic| topic.code == 0);
        let held: BTreeMap<&str, i32> =
            there.map(|topic| (topic.name.as_str(), topic.partitions.len() as i32)).collect();
        let planned = names.iter().map(|name| {
            let spread = repartition.get(name).copied();
            if !routed.contains(name) {
                let own: Vec<_> = topics.iter().filter(|topic| topic.target == *name).cloned().collect();
                return extra(name, own.first().unwrap_or(like), &own, true, spread, most);
            }
            let held = spread.or(held.get(name.as_str()).copied());
            let all = extra(name, like, topics, chooses || spread.is_some(), held, most);
            TopicPlan { repartition: spread, ..all }
        });
        let planned: Vec<_> = planned.collect();
        let is_routed = |topic: &&TopicPlan| routed.contains(&topic.target);
        let width = |topic: &TopicPlan| match topic.repartition {
            Some(count) => count.unsigned_abs() as usize,
            None if chooses => topic.partitions.len().max(1),
            None => 1,
        };
        let each = |topic: &TopicPlan| topic.repartition.map_or(1, |count| count.unsigned_abs() as usize);
        let sources: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
        let own: usize = topics.iter().map(|topic| topic.partitions.len().saturating_mul(each(topic))).sum();
        let others = sources.saturating_mul(planned.iter().filter(is_routed).map(width).sum::<usize>());
        let pairs = own.saturating_add(others);
        if pairs > MOST_PAIRS {
            let what = format!(
                "records of {sources} partitions may go to {pairs} others by stages and by key, the most is {MOST_PAIRS}"
            );
            return Err(Error::usage(what).hint("restore fewer topics at once"));
        }
        Ok(Self { topics: planned })
    }
}

/// Returns the topics that stages may send to: those that they name, and where one chooses partitions all others too.
fn names(stages: &[StagePlan], topics: &[TopicPlan]) -> BTreeSet<String> {
    let named = stages.iter().flat_map(|stage| &stage.topics);
    let others = topics.iter().map(|topic| &topic.target).filter(|_| chooses_partitions(stages));
    named.chain(others).cloned().collect()
}

fn chooses_partitions(stages: &[StagePlan]) -> bool {
    stages.iter().any(|stage| stage.chooses_partitions)
}

/// Returns the plans of topics that stages may send to, when all were looked at; says of hazards that are theirs what would
/// happen.
pub(super) fn finish(
    planned: Vec<TopicPlan>,
    stages: &[StagePlan],
    topics: &mut [TopicPlan],
    hazards: &mut [Hazard],
) -> Vec<RoutedPlan> {
    let mut routed = Vec::new();
    let names = names(stages, topics);
    // The others are only spread: what they are is told by the topics that go there.
    for extra in planned.into_iter().filter(|extra| names.contains(&extra.target)) {
        let name = &extra.target;
        let prefix = format!("{name}-");
        let is_restored_to = |subject: &str| {
            let mut of_name = topics.iter().filter(|topic| topic.target == *name);
            of_name.any(|topic| topic.partitions.iter().any(|of| subject == format!("{name}-{}", of.target)))
        };
        for hazard in hazards.iter_mut().filter(|hazard| hazard.danger == Danger::PartitionMissing) {
            let number = hazard.subject.strip_prefix(&prefix).is_some_and(|number| number.parse::<i32>().is_ok());
            if number && !is_restored_to(&hazard.subject) {
                hazard.detail =
                    "the topic has no such partition: a record that a stage sends there ends the restore of its \
                                 partition"
                        .to_owned();
            }
        }
        let chooses = chooses_partitions(stages) || extra.repartition.is_some();
        let is_mixed = is_mixed(name, topics, chooses);
        let is_restored = topics.iter().any(|topic| topic.target == *name);
        let create = extra.create.filter(|_| !is_restored);
        let (most_bytes, repartition) = (extra.most_bytes, extra.repartition);
        routed.push(RoutedPlan { topic: extra.target, create, most_bytes, repartition, is_mixed });
    }
    routed
}

/// Returns the topic that has the most partitions, and how many.
fn widest<'a>(topics: &'a [TopicPlan], timelines: &[Timeline]) -> (Option<&'a TopicPlan>, i32) {
    let width = |topic: &TopicPlan| {
        let timeline =
            timelines.iter().find(|of| *of.topic == *topic.source && of.topic_id.to_string() == topic.topic_id);
        let object = timeline.and_then(|timeline| timeline.object.as_ref().ok()?.as_ref());
        let highest = topic.partitions.iter().map(|of| of.source + 1).max().unwrap_or(0);
        object.map_or(highest, |object| object.topic.partitions.max(highest))
    };
    let widest = topics.iter().max_by_key(|topic| width(topic));
    (widest, widest.map_or(0, width))
}

/// Plans the partitions of a topic that only stages send to: of the same times as all that is restored.
fn extra(
    name: &str,
    like: &TopicPlan,
    topics: &[TopicPlan],
    chooses_partitions: bool,
    held: Option<i32>,
    most: i32,
) -> TopicPlan {
    let all = || topics.iter().flat_map(|topic| &topic.partitions).filter(|of| !of.range().is_empty());
    let numbers: BTreeSet<i32> = match chooses_partitions {
        true => (0..held.unwrap_or(most)).collect(),
        false => all().map(|of| of.source).collect(),
    };
    let own: BTreeSet<i32> = topics
        .iter()
        .filter(|topic| topic.target == name)
        .flat_map(|topic| &topic.partitions)
        .map(|of| of.target)
        .collect();
    let times_ms = all().map(|of| of.times_ms).reduce(span).flatten();
    let planned = |number: &i32| PartitionPlan { next: 1, times_ms, ..PartitionPlan::of(*number, *number, 0) };
    TopicPlan {
        target: name.to_owned(),
        create: None,
        most_bytes: MOST_BYTES,
        partitions: numbers.difference(&own).map(planned).collect(),
        only_routed: true,
        ..like.clone()
    }
}

/// Returns whether a partition of a topic may get records of several source partitions.
fn is_mixed(name: &str, topics: &[TopicPlan], chooses_partitions: bool) -> bool {
    let mut sources: BTreeMap<i32, BTreeSet<(&str, i32)>> = BTreeMap::new();
    let all = topics.iter().flat_map(|topic| topic.partitions.iter().map(move |of| (topic, of)));
    for (topic, of) in all.filter(|(_, of)| !of.range().is_empty()) {
        let source = (topic.source.as_str(), of.source);
        sources.entry(if chooses_partitions { 0 } else { of.source }).or_default().insert(source);
        if topic.target == name {
            sources.entry(of.target).or_default().insert(source);
        }
    }
    sources.values().any(|sources| sources.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(source: &str, target: &str, partitions: &[(i32, i32)]) -> TopicPlan {
        let planned = |(from, to): &(i32, i32)| PartitionPlan {
            next: 10,
            times_ms: Some((100 + i64::from(*from), 200)),
            ..PartitionPlan::of(*from, *to, 0)
        };
        TopicPlan {
            source: source.into(),
            topic_id: "_".into(),
            target: target.into(),
            create: None,
            most_bytes: MOST_BYTES,
            compacts: false,
            repartition: None,
            partitions: partitions.iter().map(planned).collect(),
            only_routed: false,
        }
    }

    #[test]
    fn a_topic_that_stages_send_to_is_looked_at_in_each_partition_that_may_get_something() {
        let topics = [topic("a", "a-new", &[(0, 0), (2, 5)]), topic("b", "eu", &[(1, 0), (3, 3)])];
        let (like, most) = widest(&topics, &[]);
        let like = like.expect("there is one");
        assert_eq!((like.source.as_str(), most), ("b", 4));
        let numbers = |planned: &TopicPlan| planned.partitions.iter().map(|of| of.target).collect::<Vec<_>>();
        let planned = extra("us", like, &topics, false, None, most);
        assert_eq!((numbers(&planned), planned.times_ms()), (vec![0, 1, 2, 3], Some((100, 200))));
        let planned = extra("eu", like, &topics, false, None, most);
        assert_eq!(numbers(&planned), [1, 2], "the others are restored to anyway");
        assert_eq!(numbers(&extra("us", like, &topics, true, Some(7), most)), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_topic_that_is_spread_by_key_is_looked_at_in_each_of_its_partitions() {
        let spread = |topic: TopicPlan| TopicPlan { repartition: Some(5), ..topic };
        let topics = [spread(topic("a", "all", &[(0, 0), (2, 2)])), spread(topic("b", "all", &[(7, 2)]))];
        let planned = extra("all", &topics[0], &topics, true, Some(5), 8);
        assert!(planned.partitions.iter().map(|of| of.target).eq([1, 3, 4]), "the others are restored to anyway");
        assert_eq!(planned.repartition, Some(5));
        assert!(finish(vec![planned], &[], &mut topics.clone(), &mut []).is_empty(), "no stage sends there");
    }

    #[test]
    fn partitions_that_come_together_are_told() {
        let alone = [topic("a", "a", &[(0, 0), (1, 1)])];
        assert!(!is_mixed("eu", &alone, false) && is_mixed("eu", &alone, true));
        let two = [topic("a", "a", &[(0, 0)]), topic("b", "b", &[(0, 0)])];
        assert!(is_mixed("eu", &two, false));
        let moved = [topic("a", "eu", &[(0, 1), (1, 0)])];
        assert!(is_mixed("eu", &moved, false), "partition 1 gets the records of 0, and those that are sent of 1");
        assert!(!is_mixed("eu", &[topic("a", "eu", &[(0, 0)])], true));
    }

    #[test]
    fn what_is_made_for_a_topic_that_is_restored_to_as_well_is_made_once() {
        let new = NewTopic {
            partitions: 3,
            replication_factor: 1,
            configs: Vec::new(),
            meanwhile: Vec::new(),
            afterwards: Vec::new(),
        };
        let mut topics = [TopicPlan { create: Some(new.clone()), ..topic("a", "eu", &[(0, 0)]) }];
        let planned = |name: &str| TopicPlan { create: Some(new.clone()), ..topic("b", name, &[(2, 2)]) };
        let missing = |subject: &str| Hazard::new(Danger::PartitionMissing, subject, "left out");
        let mut hazards = [missing("eu-0"), missing("us-2")];
        let stage = StagePlan {
            plugin: "p".into(),
            digest: "0".into(),
            pure: true,
            topics: vec!["eu".into(), "us".into()],
            chooses_partitions: false,
        };
        let routed = finish(vec![planned("eu"), planned("us")], &[stage], &mut topics, &mut hazards);
        assert_eq!(routed.iter().map(|of| of.create.clone()).collect::<Vec<_>>(), [None, Some(new)]);
        assert_eq!(hazards[0].detail, "left out");
        assert!(hazards[1].detail.contains("ends the restore"), "{}", hazards[1].detail);
    }
}
