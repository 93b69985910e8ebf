//! Savepoints: where every consumer group stood, and where every partition ended, at one moment.
//!
//! This file holds the values and their bytes ([`Savepoint`], [`State`]); their names are in [`name`], what is left out
//! of one because an earlier one has it in [`delta`], whether an archive has reached one in [`lacking`] (all pure); [`held`] reads and
//! creates them, [`newest`] finds the newest. Who asks a cluster, and when, is `backup::savepoints`.
//!
//! **What a savepoint promises.** All groups' committed offsets were read first and, when the last had answered, every
//! partition's high watermark. So no group is ahead of the ends that stand beside it, and a transaction whose offsets a
//! group had committed lies before them in every partition.

pub mod delta;
mod held;
mod lacking;
mod name;
mod newest;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::layout::{self, Fork};
use super::sealed;
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, Timestamp};
pub use delta::Gone;
pub use lacking::{Lack, Lost, chain_of, lacking, lost};
pub use name::Name;

/// The type of a share group, whose position is not one offset a partition: it is named, and nothing more.
pub const SHARE: &str = "share";

/// One savepoint, as its object says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Savepoint {
    /// Its name, which its object has too: the beginning of the slot that it was made for, or when it was asked for.
    pub name: Name,
    /// When the groups were begun to be read, RFC 3339.
    pub taken_at: String,
    /// `None` in a full one; else the full one without which this one says nothing ([`delta`]).
    pub full: Option<Name>,
    /// The newest one that its maker knew, always an earlier one; `None` for the first of a backup.
    pub previous: Option<Name>,
    /// The program that made it.
    pub created_by: String,
    /// Everything, or of a delta what differs from the full one.
    #[serde(flatten)]
    pub state: State,
    /// Of a delta: what the full one has and that is no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Gone>,
}

/// What a savepoint keeps. Two are equal if and only if nothing has changed between them: lists are in the order of
/// names and numbers ([`State::sort`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The cluster; `None` where it has no id.
    pub cluster_id: Option<String>,
    /// The ends of all partitions of all topics that agents of the backup capture, but for those of `topics_unread`.
    pub topics: Vec<Topic<End>>,
    /// The topics that the backup holds and of which its maker may not know where they end: it does not cover them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics_unread: Vec<Unread>,
    /// The groups, each with its committed offsets on those topics.
    pub groups: Vec<Group>,
    /// Why groups could not be listed: those that nobody named may be missing.
    pub groups_unread: Option<String>,
    /// The transactions that keep it from being complete, because nobody ends them.
    pub hanging: Vec<Hanging>,
}

/// What is kept of the partitions of one topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Topic<P> {
    /// The topic's name.
    pub topic: String,
    /// Its id as Kafka writes it, `_` where there is none.
    pub topic_id: String,
    /// One for each partition, by index.
    pub partitions: Vec<P>,
}

/// A topic that its maker may not look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unread {
    /// The topic's name.
    pub topic: String,
    /// Its id, as an earlier savepoint has it.
    pub topic_id: String,
    /// Why not.
    pub error: String,
}

/// Where a partition ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The partition's index.
    pub partition: i32,
    /// The end of what the cluster had replicated, exclusive.
    pub high_watermark: Offset,
    /// What is known to be durable of it in the archive; `None` where nobody told.
    pub archived: Option<Archived>,
}

/// How far a chain of the archive was durable: at least so far, and for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// The chain's name within the topic: `3`, or `3@<epoch>-<end>` for a fork.
    pub chain: String,
    /// The end of what is durable of it, exclusive.
    pub next: Offset,
}

impl Archived {
    /// Returns which fork the chain is, `None` for the partition's own; `None` where its name cannot be read.
    pub fn fork(&self) -> Option<Option<Fork>> {
        layout::parse_chain_name(&self.chain).map(|(_, fork)| fork)
    }
}

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub group: String,
    /// `classic`, `consumer` (KIP-848), `streams`, `share`; `unknown` where nobody told.
    #[serde(rename = "type")]
    pub kind: String,
    /// As the cluster calls it: `Stable`, `Empty`; `unknown` where nobody told.
    pub state: String,
    /// Why its offsets, or some of them, could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it has committed.
    pub offsets: Vec<Topic<Committed>>,
}

/// What a group has committed for a partition: index, offset (the next one to read), metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed(pub i32, pub Offset, pub String);

/// A transaction that was open for longer than transactions are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hanging {
    /// The topic.
    pub topic: String,
    /// The partition's index.
    pub partition: i32,
    /// The producer's id; −1 where the leader does not tell.
    pub producer_id: i64,
    /// The transaction's first offset in the partition.
    pub first_offset: Offset,
}

impl Savepoint {
    /// Makes a full one.
    pub fn full(name: Name, taken_at: Timestamp, previous: Option<Name>, state: State) -> Self {
        let created_by = concat!("kafka-backup ", env!("CARGO_PKG_VERSION")).to_owned();
        Self { name, taken_at: taken_at.to_string(), full: None, previous, created_by, state, gone: None }
    }

    /// Makes one that holds what differs of this full one's state from that of the full one `base`.
    pub fn relative_to(&self, base: Name, state: &State) -> Self {
        let (state, gone) = delta::between(state, &self.state);
        Self { full: Some(base), state, gone: Some(gone), ..self.header() }
    }

    /// Returns its bytes.
    pub fn encode(&self) -> Bytes {
        sealed::compact(self)
    }

    /// Reads the object `name`.
    ///
    /// # Errors
    /// [`Kind::Damaged`] for what is no savepoint, or another one than its name says; [`Kind::Newer`] for a newer
    /// program's.
    pub fn decode(name: Name, bytes: &[u8]) -> Result<Self> {
        let unreadable = |kind| Error::new(kind, format!("savepoint {name} cannot be read"));
        let savepoint: Self = sealed::read(bytes).map_err(|error| unreadable(error.kind()).source(error))?;
        let damaged = || unreadable(Kind::Damaged);
        if savepoint.name != name {
            return Err(damaged().with("it is", savepoint.name));
        }
        if savepoint.full.is_some() != savepoint.gone.is_some() || savepoint.full.is_some_and(|full| full >= name) {
            return Err(damaged().source(Error::damaged("it is neither full nor a delta of an earlier one")));
        }
        if let Some(previous) = savepoint.previous.filter(|previous| *previous >= name) {
            let error = format!("the savepoint before it, {previous}, is not before it");
            return Err(damaged().source(Error::damaged(error)));
        }
        Ok(savepoint)
    }

    /// Returns the whole state that it stands for; `full` is the full one that it names.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when `full` is not that one.
    pub fn resolve(&self, full: Option<&Self>) -> Result<State> {
        match (&self.gone, full) {
            (None, _) => Ok(self.state.clone()),
            (Some(gone), Some(full)) if self.full == Some(full.name) && full.full.is_none() => {
                Ok(delta::resolve(&full.state, &self.state, gone))
            }
            (Some(_), _) => Err(Error::damaged(format!("savepoint {} lacks the full one it differs from", self.name))),
        }
    }

    /// Returns it without its state.
    fn header(&self) -> Self {
        let (taken_at, created_by) = (self.taken_at.clone(), self.created_by.clone());
        Self { taken_at, created_by, state: State::default(), gone: None, ..*self }
    }
}

impl State {
    /// Brings everything into the one order that equality and deltas rest on.
    pub fn sort(&mut self) {
        for topic in &mut self.topics {
            topic.partitions.sort_by_key(|end| end.partition);
        }
        self.topics.sort_by(|a, b| (&a.topic, &a.topic_id).cmp(&(&b.topic, &b.topic_id)));
        self.topics_unread.sort();
        for group in &mut self.groups {
            for topic in &mut group.offsets {
                topic.partitions.sort_by_key(|committed| committed.0);
            }
            group.offsets.sort_by(|a, b| (&a.topic, &a.topic_id).cmp(&(&b.topic, &b.topic_id)));
        }
        self.groups.sort_by(|a, b| a.group.cmp(&b.group));
        self.hanging.sort();
    }

    /// Returns how many partitions it has the ends of.
    pub fn partitions(&self) -> usize {
        self.topics.iter().map(|topic| topic.partitions.len()).sum()
    }

    /// Returns whether it has all topics and groups that `other` has, wherever they stand, and could read those groups that
    /// `other` could.
    pub fn covers(&self, other: &Self) -> bool {
        let key = |topic: &Topic<End>| (topic.topic.clone(), topic.topic_id.clone());
        let topics: BTreeSet<_> = self.topics.iter().map(key).collect();
        let groups: BTreeMap<&str, &Group> = self.groups.iter().map(|group| (&*group.group, group)).collect();
        let covers_group = |other: &Group| {
            let ours = groups.get(&*other.group);
            ours.is_some_and(|ours| ours.error.is_none() || other.error.is_some())
        };
        other.topics.iter().all(|topic| topics.contains(&key(topic))) && other.groups.iter().all(covers_group)
    }

    /// Takes over from an earlier state what was durable there and is not known better here: what was, stays.
    pub fn keep_archived(&mut self, earlier: &Self) {
        for topic in &mut self.topics {
            let same = |other: &&Topic<End>| (&other.topic, &other.topic_id) == (&topic.topic, &topic.topic_id);
            let Some(earlier) = earlier.topics.iter().find(same) else { continue };
            for end in &mut topic.partitions {
                let at = earlier.partitions.binary_search_by_key(&end.partition, |end| end.partition);
                let before = at.ok().and_then(|at| earlier.partitions[at].archived.as_ref());
                let rank = |archived: &Archived| (archived.fork(), archived.next);
                if before.map(rank) > end.archived.as_ref().map(rank) {
                    end.archived = before.cloned();
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
