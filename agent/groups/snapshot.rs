//! Snapshots: what consumer groups had committed at one moment, kept so that it can be brought back.
//!
//! A snapshot is of whole groups: it says of each of them everything that was committed, with metadata, and so also what was
//! not. For the partitions of the topics that a group had committed on, and for those that are about to be changed, it says
//! absence in so many words. It is an object of its own in a folder of a store, `snapshots/<id>`, never overwritten
//! ([`store`]); its name is when it was taken ([`id`], pure). A [`rollback`] is a plan like others.
//!
//! The values here are pure, but for [`take`], which only asks.

pub mod id;
mod rollback;
mod store;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::positions::{self, Positions, Standing};
use super::present::{Now, Present};
pub use super::script::quoted;
use crate::archive::savepoint::Topic;
use crate::archive::sealed;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::Client;
use crate::record::{Offset, Partition, TopicId};
use crate::restore::state::Process;
pub use rollback::rollback;
pub use store::{Listed, Snapshots, Summary};

const CREATED_BY: &str = concat!("kafka-backup ", env!("CARGO_PKG_VERSION"));

/// How many groups a message names.
const NAMED: usize = 20;

/// Why a share group is named without offsets.
const SHARED: &str = "a share group: where it stands is not one offset a partition";

/// What groups had committed at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name, which its object has too; empty until it is kept ([`Snapshots::create`]).
    pub id: String,
    /// When it was taken, RFC 3339, to the second.
    pub created_at: String,
    /// The program that took it.
    pub created_by: String,
    /// The process that has kept it, in an instance of its own: two that say the same are two.
    pub process: Process,
    /// The cluster; `None` where it has no id.
    pub cluster_id: Option<String>,
    /// What it was taken for, for people.
    pub description: String,
    /// The groups, by name.
    pub groups: Vec<Group>,
}

/// One group of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub group: String,
    /// `classic`, `consumer`, `streams`, `share`; `unknown` for one that was not there.
    #[serde(rename = "type")]
    pub kind: String,
    /// As the cluster called it; `Dead` for one that was not there.
    pub state: String,
    /// Why it has no offsets here: it is a share group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it had committed, by topic and partition.
    pub offsets: Vec<Topic<Kept>>,
}

/// What a group had committed for a partition: index, offset (the next one to read; `None`: nothing), metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept(pub i32, pub Option<Offset>, pub String);

/// Takes a snapshot of the groups of these names, which is not kept yet. Of a group that is not there it says that nothing
/// was committed. The absence of an offset is said also for `also`, partitions of groups that are about to be changed.
///
/// # Errors
/// [`Kind::Failed`] where the offsets of a group cannot be read: a snapshot that lacks them could not bring them back.
pub async fn take(
    client: &Client,
    groups: &[String],
    also: &[(String, Partition)],
    description: &str,
) -> Result<Snapshot> {
    let also: Vec<_> =
        also.iter().map(|(group, partition)| (group.clone(), partition.topic.to_string(), partition.index)).collect();
    Snapshot::of(&Present::look(client, groups).await?, &also, description)
}

impl Snapshot {
    /// Makes the snapshot of what a cluster has said just now; `also` are groups with topics and partitions of which
    /// absence is said too.
    ///
    /// # Errors
    /// As [`take`].
    pub fn of(present: &Present, also: &[(String, String, i32)], description: &str) -> Result<Self> {
        let mut wanted: BTreeMap<&str, Vec<(&str, i32)>> = BTreeMap::new();
        for (group, topic, partition) in also {
            wanted.entry(group).or_default().push((topic, *partition));
        }
        let mut groups = Vec::with_capacity(present.groups.len());
        for (name, now) in &present.groups {
            groups.push(Group::of(name, now, wanted.get(&**name).map_or(&[], Vec::as_slice), present)?);
        }
        Ok(Self {
            id: String::new(),
            created_at: id::now(),
            created_by: CREATED_BY.to_owned(),
            process: Process::this(),
            cluster_id: present.cluster_id.clone(),
            description: description.to_owned(),
            groups,
        })
    }

    /// Returns its bytes.
    pub fn encode(&self) -> Bytes {
        sealed::compact(self)
    }

    /// Reads the object `id`.
    ///
    /// # Errors
    /// [`Kind::Damaged`] for what is no snapshot, or another one than its name says; [`Kind::Newer`] for a newer program's.
    pub fn decode(id: &str, bytes: &[u8]) -> Result<Self> {
        let unreadable = |kind| Error::new(kind, format!("snapshot {id} cannot be read"));
        let snapshot: Self = sealed::read(bytes).map_err(|error| unreadable(error.kind()).source(error))?;
        if snapshot.id != id {
            return Err(unreadable(Kind::Damaged).with("it is", snapshot.id));
        }
        Ok(snapshot)
    }

    /// Returns where the groups stood.
    pub fn positions(&self) -> Positions {
        let standing = |group: &Group| {
            let offsets = group.kept().map(|(topic, kept)| (partition(topic, kept.0), kept.committed())).collect();
            (group.group.clone(), Standing { kind: group.kind.clone(), error: group.error.clone(), offsets })
        };
        Positions { from: format!("snapshot {}", self.id), groups: self.groups.iter().map(standing).collect() }
    }

    /// Takes the groups out of a plan of which nothing could be kept: a share group has nothing that could be brought back, and
    /// keeps nobody from being.
    pub fn leave_out_unkept(&self, plan: &mut Plan) {
        plan.groups.retain(|group| !self.groups.iter().any(|of| of.group == group.group && of.error.is_some()));
    }

    /// Leaves the groups of these names.
    ///
    /// # Errors
    /// [`Kind::Failed`] for one that it does not hold: a mistyped name must not pass for one that stands as it did.
    pub fn only(&mut self, names: &[String]) -> Result<()> {
        let Some(missing) = names.iter().find(|name| self.groups.iter().all(|group| group.group != **name)) else {
            self.groups.retain(|group| names.contains(&group.group));
            return Ok(());
        };
        let held: Vec<&str> = self.groups.iter().take(NAMED).map(|group| &*group.group).collect();
        let more = if self.groups.len() > NAMED { ", …" } else { "" };
        Err(Error::failed(format!("snapshot {} does not hold group '{missing}'", self.id))
            .hint(format!("it holds: {}{more}", held.join(", "))))
    }

    /// Returns how many offsets it holds; absent ones do not count.
    pub fn offsets(&self) -> usize {
        self.groups.iter().flat_map(Group::kept).filter(|(_, kept)| kept.1.is_some()).count()
    }
}

impl Group {
    fn of(name: &str, now: &Now, also: &[(&str, i32)], present: &Present) -> Result<Self> {
        let whole = Self {
            group: name.to_owned(),
            kind: now.kind.clone(),
            state: now.state.clone(),
            error: now.is_share().then(|| SHARED.to_owned()),
            offsets: Vec::new(),
        };
        if now.is_share() {
            return Ok(whole);
        }
        let committed = now.offsets.as_ref().map_err(|why| {
            Error::failed(format!("what group '{name}' has committed cannot be read: {why}"))
                .hint("nothing was changed; a snapshot without it could not bring it back")
        })?;
        let mut topics: BTreeMap<&str, BTreeMap<i32, Kept>> = BTreeMap::new();
        let absent = |partition| Kept(partition, None, String::new());
        for (topic, partition) in also {
            topics.entry(topic).or_default().insert(*partition, absent(*partition));
        }
        for (topic, _) in committed.keys() {
            let partitions = topics.entry(topic).or_default();
            for partition in 0..present.topics.get(topic).map_or(0, |topic| topic.partitions) {
                partitions.entry(partition).or_insert_with(|| absent(partition));
            }
        }
        for ((topic, partition), committed) in committed {
            let kept = Kept(*partition, Some(committed.offset), committed.metadata.clone());
            topics.entry(topic).or_default().insert(*partition, kept);
        }
        let topic = |(topic, partitions): (&str, BTreeMap<i32, Kept>)| Topic {
            topic: topic.to_owned(),
            topic_id: present.topic_id(topic),
            partitions: partitions.into_values().collect(),
        };
        Ok(Self { offsets: topics.into_iter().map(topic).collect(), ..whole })
    }

    /// Returns what is kept of each partition, with its topic.
    pub fn kept(&self) -> impl Iterator<Item = (&Topic<Kept>, &Kept)> {
        self.offsets.iter().flat_map(|topic| topic.partitions.iter().map(move |kept| (topic, kept)))
    }
}

impl Kept {
    /// Returns what was committed, `None` for nothing.
    pub fn committed(&self) -> Option<positions::Committed> {
        self.1.map(|offset| positions::Committed { offset, metadata: self.2.clone() })
    }
}

fn partition(topic: &Topic<Kept>, index: i32) -> Partition {
    // Sealed bytes: an id that cannot be read is one that we cannot know, and stands for no other topic.
    let topic_id = topic.topic_id.parse().unwrap_or(TopicId::NONE);
    Partition { topic: topic.topic.as_str().into(), topic_id, index }
}

#[cfg(test)]
pub(super) mod tests;
