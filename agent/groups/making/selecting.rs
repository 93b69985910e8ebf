//! Plans by a selector: positions that a person asks for, of groups and partitions that are on the cluster.
//!
//! An offset that a partition does not have is refused, where Kafka's tool takes the nearest: with `--clamp` so does this one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::goals::GroupGoals;
use super::logs::Logs;
use super::rows::{Goal, To};
use super::{Groups, Wanted, assemble, choice};
use crate::backoff::Patience;
use crate::error::{Error, Result};
use crate::groups::plan::Plan;
use crate::groups::positions::Committed;
use crate::groups::positions::csv::{self, Offsets};
use crate::groups::present::{Now, Present};
use crate::groups::selector::{Known, Selector};
use crate::groups::{SETTLE, not_found};
use crate::kafka::client::Client;
use crate::kafka::client::groups::{Listing, Partitions};
use crate::record::{Offset, OffsetRange, Partition, Timestamp, TopicId};

/// Every offset: what is asked for is judged by the range of its partition later, as all that is planned.
const ANY: OffsetRange = OffsetRange { first: Offset::MIN, next: Offset::MAX };

/// The partitions of each group.
type Scope = BTreeMap<String, BTreeSet<(String, i32)>>;

/// Makes the plan; of the groups and partitions of the goals `over`, where there are some: those that are nowhere in the target
/// stay so.
pub(super) async fn plan(
    client: &Client,
    wanted: &Wanted,
    selector: &Selector,
    over: Option<Vec<GroupGoals>>,
) -> Result<Plan> {
    let file = match selector {
        Selector::File(path) => Some(read(path, &wanted.groups)?),
        _ => None,
    };
    let names = names(client, wanted, file.as_ref(), over.as_deref()).await?;
    let present = Present::look(client, &names).await?;
    if over.is_none() && !wanted.create_group {
        check(client, &present, &names).await?;
    }
    let scope = match (&over, &file) {
        (Some(over), _) => of_goals(over),
        (None, Some(file)) => of_file(file, &names, wanted),
        (None, None) => scope(client, wanted, &present).await?,
    };
    let logs = Logs::look(client, &partitions(&scope)).await?;
    let at_time = match selector.time(Timestamp::now()) {
        Some(time) => logs.at_time(client, time).await?,
        None => HashMap::new(),
    };
    let selecting = Selecting { selector, file: file.as_ref(), logs: &logs, at_time: &at_time };
    let now = |group: &str| present.groups.get(group);
    let goals = match over {
        Some(over) => over.into_iter().map(|of| selecting.over(of, &present)).collect(),
        None => scope.iter().map(|(group, of)| selecting.goals(group, of, now(group))).collect(),
    };
    let plan = Plan { positions: shown(selector), places: "this cluster".to_owned(), ..Plan::default() };
    Ok(assemble(plan, goals, &present, &logs, wanted.clamp))
}

/// What a selector goes by.
struct Selecting<'a> {
    selector: &'a Selector,
    file: Option<&'a Offsets>,
    logs: &'a Logs,
    at_time: &'a HashMap<Partition, Option<Offset>>,
}

impl Selecting<'_> {
    /// Selects where in the partitions that goals are of.
    fn over(&self, mut of: GroupGoals, present: &Present) -> GroupGoals {
        let committed = present.groups.get(&of.group).and_then(|now| now.offsets.as_ref().ok());
        for goal in of.goals.iter_mut().filter(|goal| !matches!(goal.to, To::Nowhere(_))) {
            let key = (goal.topic.to_string(), goal.partition);
            goal.to = self.to(&of.group, &key, committed.and_then(|of| of.get(&key)));
        }
        of
    }

    fn goals(&self, group: &str, partitions: &BTreeSet<(String, i32)>, now: Option<&Now>) -> GroupGoals {
        let none = "it has committed nothing, so that nothing says which topics are meant: say --topic";
        let committed = now.filter(|now| !now.is_share()).and_then(|now| now.offsets.as_ref().ok());
        let goal = |key: &(String, i32)| {
            let (topic, partition) = (key.0.as_str().into(), key.1);
            Goal {
                topic,
                topic_id: TopicId::NONE,
                partition,
                to: self.to(group, key, committed.and_then(|of| of.get(key))),
            }
        };
        GroupGoals {
            group: group.to_owned(),
            refused: None,
            lacks: (partitions.is_empty() && committed.is_some()).then(|| none.to_owned()),
            goals: partitions.iter().map(goal).collect(),
        }
    }

    fn to(&self, group: &str, key: &(String, i32), current: Option<&Committed>) -> To {
        let (topic, index) = (key.0.as_str(), key.1);
        let range = match self.logs.find(topic, TopicId::NONE, index) {
            Ok(range) => range,
            Err(why) => return To::Unknown(why),
        };
        let is_named = matches!(self.selector, Selector::Offset(_) | Selector::Shift(_) | Selector::File(_));
        let partition = self.logs.partition(topic, index);
        let known = Known {
            range: if is_named { ANY } else { range },
            current: current.map(|current| current.offset),
            at_time: self.at_time.get(&partition).copied().flatten(),
            in_file: self.file.and_then(|file| file.get(group)?.get(key).copied()),
        };
        match self.selector.choose(&partition.to_string(), &known) {
            Ok(chosen) => {
                if let Some(warning) = &chosen.warning {
                    tracing::warn!("group '{group}': {warning}");
                }
                // What is kept beside an offset is of that offset.
                let kept = current.filter(|current| current.offset == chosen.offset).cloned();
                let committed = kept.unwrap_or(Committed { offset: chosen.offset, metadata: String::new() });
                To::At(committed, None)
            }
            Err(why) => To::Unknown(why),
        }
    }
}

/// Reads a file of offsets.
fn read(path: &std::path::Path, groups: &Groups) -> Result<Offsets> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::usage(format!("cannot read {}", path.display())).source(error))?;
    let single = match groups {
        Groups::Named(names) if names.len() == 1 => names.first().map(String::as_str),
        _ => None,
    };
    let mut offsets = csv::read(&text, single)
        .map_err(|error| Error::usage(format!("{} cannot be read", path.display())).source(error))?;
    if let Groups::Named(names) = groups {
        let missing = names.iter().find(|name| !offsets.contains_key(*name));
        if let Some(name) = missing {
            let near = choice::near(name, offsets.keys().map(String::as_str));
            return Err(Error::usage(format!("{} says nothing of group '{name}'{near}", path.display())));
        }
        offsets.retain(|group, _| names.contains(group));
    }
    Ok(offsets)
}

/// Returns the groups that are wanted.
async fn names(
    client: &Client,
    wanted: &Wanted,
    file: Option<&Offsets>,
    over: Option<&[GroupGoals]>,
) -> Result<Vec<String>> {
    Ok(match (over, &wanted.groups, file) {
        (Some(over), ..) => over.iter().map(|group| group.group.clone()).collect(),
        (None, Groups::Named(names), _) => names.clone(),
        (None, Groups::All, Some(file)) => file.keys().cloned().collect(),
        (None, Groups::All, None) => {
            let listing = listing(client).await?;
            if let Some(why) = listing.unread {
                tracing::warn!("there may be more groups: {why}");
            }
            listing.groups.into_keys().collect()
        }
    })
}

async fn listing(client: &Client) -> Result<Listing> {
    let mut patience = Patience::new(client.backoff(), SETTLE);
    loop {
        match client.list_groups().await {
            Ok(listing) => return Ok(listing),
            Err(error) => patience.wait(error).await?,
        }
    }
}

/// Makes sure that the groups are there.
async fn check(client: &Client, present: &Present, names: &[String]) -> Result<()> {
    let is_missing = |name: &&String| !present.groups.get(*name).is_some_and(Now::exists);
    let Some(name) = names.iter().find(is_missing) else { return Ok(()) };
    let listing = listing(client).await?;
    let near = choice::near(name, listing.groups.keys().map(String::as_str));
    let why = listing.unread.map(|why| format!(" ({why})")).unwrap_or_default();
    Err(not_found(name).hint(format!("the cluster has none of that name{why}{near}; to make it, add --create-group")))
}

/// Returns the partitions of the target that goals are of.
fn of_goals(goals: &[GroupGoals]) -> Scope {
    let keys = goals.iter().map(|group| {
        let there = group.goals.iter().filter(|goal| !matches!(goal.to, To::Nowhere(_)));
        (group.group.clone(), there.map(|goal| (goal.topic.to_string(), goal.partition)).collect())
    });
    keys.collect()
}

/// Returns the partitions that a file names.
fn of_file(file: &Offsets, names: &[String], wanted: &Wanted) -> Scope {
    let keys = names.iter().map(|name| {
        let keys = file.get(name).into_iter().flat_map(|of| of.keys().cloned());
        (name.clone(), keys.filter(|(topic, partition)| wanted.holds(topic, *partition)).collect())
    });
    keys.collect()
}

/// Returns the partitions that are wanted, or, where none are, those that each group has committed something for.
async fn scope(client: &Client, wanted: &Wanted, present: &Present) -> Result<Scope> {
    let Some(topics) = &wanted.topics else {
        let keys = present.groups.iter().map(|(name, now)| {
            let committed = now.offsets.iter().flat_map(|of| of.keys().cloned());
            (name.clone(), committed.collect())
        });
        return Ok(keys.collect());
    };
    let names: Vec<String> = topics.iter().map(|(topic, _)| topic.to_owned()).collect();
    let logs = Logs::topics(client, &names).await?;
    let mut keys = BTreeSet::new();
    for (topic, partitions) in topics.iter() {
        let there = match logs.partitions(topic) {
            Some(there) => there,
            None => return Err(missing(client, topic)),
        };
        let of = partitions.map_or(there, |of| of.iter().copied().collect());
        keys.extend(of.into_iter().map(|partition| (topic.to_owned(), partition)));
    }
    Ok(present.groups.keys().map(|name| (name.clone(), keys.clone())).collect())
}

fn missing(client: &Client, topic: &str) -> Error {
    let servers = client.properties().bootstrap_servers.join(",");
    Error::failed(format!("topic \"{topic}\" is not on the cluster, or hidden from this principal"))
        .hint(format!("list those that there are: kafka-topics --bootstrap-server {servers} --list"))
}

fn partitions(scope: &Scope) -> Partitions {
    let mut partitions = Partitions::new();
    let all: BTreeSet<&(String, i32)> = scope.values().flatten().collect();
    for (topic, partition) in all {
        partitions.entry(topic.clone()).or_default().push(*partition);
    }
    partitions
}

/// Returns a selector for people, as it was typed.
fn shown(selector: &Selector) -> String {
    match selector {
        Selector::Earliest => "--to-earliest".to_owned(),
        Selector::Latest => "--to-latest".to_owned(),
        Selector::Current => "--to-current".to_owned(),
        Selector::Datetime(time) => format!("--to-datetime {time}"),
        Selector::Duration(ms) => format!("--by-duration of {ms} ms"),
        Selector::Offset(offset) => format!("--to-offset {offset}"),
        Selector::Shift(by) => format!("--shift-by {by}"),
        Selector::File(path) => format!("--from-file {}", path.display()),
    }
}
