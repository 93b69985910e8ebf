//! What a restore is going to do, as a value: which offsets of which chains go to which partitions, which topics are made
//! for it, and what of it is dangerous.
//!
//! Pure. [`making`] makes it of an archive, a cluster and a request; it is printed, kept as the restore's `plan` object,
//! and performed as it is, also by another process later. Nothing of it is a secret.

pub(super) mod groups;
pub mod hazards;
mod keys;
mod made;
pub mod making;
pub mod routed;
mod savepoint;
mod targets;
mod together;
mod torn;
pub mod vacant;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::hazards::{Danger, Hazard};
pub use self::routed::{RoutedPlan, StagePlan};
pub use self::vacant::Vacant;
use crate::archive::layout;
use crate::archive::source::Place;
use crate::archive::source::way::Part;
use crate::batch::outgoing::Window;
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange, Partition, Timestamp};
use crate::stages::Stages;

/// What a restore is going to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The digest of what was asked for.
    #[serde(default)]
    pub request: String,
    /// What is left out.
    pub cut: Cut,
    /// Batches of fewer bytes are merged.
    pub merge_below: usize,
    /// The topics, by name.
    pub topics: Vec<TopicPlan>,
    /// The stages that records go through, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StagePlan>,
    /// What stages say that they keep: what is outside is left out as well.
    #[serde(default, skip_serializing_if = "Cut::is_none")]
    pub keeps: Cut,
    /// The topics that stages may send records to, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routed: Vec<RoutedPlan>,
    /// The partitions of which there is nothing to restore, in order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vacant: Vec<Vacant>,
    /// What is dangerous about it.
    pub hazards: Vec<Hazard>,
}

/// Which records are taken: those inside all of these, of the offsets that each partition says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The least effective time, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<i64>,
    /// The effective time that is too late already, in milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
    /// The savepoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<String>,
}

impl Cut {
    /// Returns whether nothing is left out.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the times that are inside of both.
    fn within(&self, other: &Self) -> Self {
        let until_ms = [self.until_ms, other.until_ms].into_iter().flatten().min();
        Self { from_ms: self.from_ms.max(other.from_ms), until_ms, savepoint: self.savepoint.clone() }
    }

    /// Returns the least effective time.
    pub fn from(&self) -> Option<Timestamp> {
        self.from_ms.map(Timestamp)
    }

    /// Returns the effective time that is too late already.
    pub fn until(&self) -> Option<Timestamp> {
        self.until_ms.map(Timestamp)
    }
}

/// What becomes of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPlan {
    /// Its name in the archive.
    pub source: String,
    /// Which one of that name, as Kafka writes its id.
    pub topic_id: String,
    /// The target topic.
    pub target: String,
    /// How the target topic is made; `None` where it is there.
    pub create: Option<NewTopic>,
    /// The target's `max.message.bytes`.
    pub most_bytes: usize,
    /// The target is compacted while records come.
    #[serde(default)]
    pub compacts: bool,
    /// Its records are spread by key over so many partitions of the target, all that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repartition: Option<i32>,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionPlan>,
    /// Only stages send to these partitions, or what is spread by key: while it is planned alone, then it becomes one of [`Plan::routed`].
    #[serde(skip)]
    only_routed: bool,
}

/// A topic that is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTopic {
    /// How many partitions it gets.
    pub partitions: i32,
    /// How many replicas each of them gets.
    pub replication_factor: i16,
    /// The settings that it is made with.
    pub configs: Vec<(String, String)>,
    /// Those among them that it has only while records come.
    pub meanwhile: Vec<String>,
    /// The settings that it gets when everything is restored: before, they would take records away or change them.
    pub afterwards: Vec<(String, String)>,
}

/// What becomes of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPlan {
    /// Its number in the archive.
    pub source: i32,
    /// Its number in the target.
    pub target: i32,
    /// The first offset that is taken.
    pub first: Offset,
    /// The offset behind the last one that is taken.
    pub next: Offset,
    /// The chains that hold them, in order.
    pub chains: Vec<ChainPlan>,
    /// Transactions that were in flight at the savepoint: what of them lies before it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub torn: Vec<Torn>,
    /// Segments that are read.
    pub segments: u64,
    /// Records in these, of which the cut may leave some out.
    pub records: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Bytes of a batch that the largest record would have alone, at least, as far as the index tells.
    #[serde(default)]
    pub record_bytes: u64,
    /// The least and the greatest time of what is taken, in milliseconds since the epoch, as far as the index tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times_ms: Option<(i64, i64)>,
}

/// What is taken of one chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainPlan {
    /// Its name within the topic: `3`, or `3@<epoch>-<end>` for a fork.
    pub chain: String,
    /// The first offset that is taken from it.
    pub first: Offset,
    /// The offset behind the last one that is taken from it.
    pub next: Offset,
}

/// A transaction of which not all was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Torn {
    /// The producer.
    pub producer_id: i64,
    /// The first offset that may be the transaction's.
    pub first: Offset,
}

impl Torn {
    /// Returns whether a transactional batch is of this transaction; batches behind the cut are not asked about.
    pub fn covers(&self, producer_id: i64, offset: Offset) -> bool {
        self.producer_id == producer_id && self.first <= offset
    }
}

impl PartitionPlan {
    /// Returns the offsets that are taken.
    pub fn range(&self) -> OffsetRange {
        OffsetRange { first: self.first, next: self.next }
    }

    /// Makes one of which nothing is taken yet, from `first` on.
    fn of(source: i32, target: i32, first: Offset) -> Self {
        let (next, chains, torn) = (first, Vec::new(), Vec::new());
        Self {
            source,
            target,
            first,
            next,
            chains,
            torn,
            segments: 0,
            records: 0,
            bytes: 0,
            record_bytes: 0,
            times_ms: None,
        }
    }

    /// Returns the way along the partition of which it is.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) where it names what is no chain.
    pub(crate) fn way(&self, source: &Partition) -> Result<Vec<Part>> {
        let part = |chain: &ChainPlan| {
            let named = layout::parse_chain_name(&chain.chain);
            let (_, fork) = named.ok_or_else(|| Error::failed(format!("the plan names a chain `{}`", chain.chain)))?;
            let range = OffsetRange { first: chain.first, next: chain.next };
            Ok(Part { place: Place::new(source.clone(), fork), range })
        };
        self.chains.iter().map(part).collect()
    }
}

impl TopicPlan {
    /// Returns a partition of it in the archive.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) where its id is none.
    pub(crate) fn source_partition(&self, of: &PartitionPlan) -> Result<Partition> {
        let topic_id = self.topic_id.parse()?;
        Ok(Partition { topic: self.source.as_str().into(), topic_id, index: of.source })
    }

    /// Returns the least and the greatest time of what is taken, as far as the index tells.
    fn times_ms(&self) -> Option<(i64, i64)> {
        let times = self.partitions.iter().filter_map(|partition| partition.times_ms);
        times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }
}

/// Returns the span of both.
fn span(a: Option<(i64, i64)>, b: Option<(i64, i64)>) -> Option<(i64, i64)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (one, other) => one.or(other),
    }
}

impl Plan {
    /// Returns the least effective time that is taken, and the one that is too late already.
    pub fn times(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        let cut = self.cut.within(&self.keeps);
        (cut.from(), cut.until())
    }

    /// Returns the topics that are made, by name.
    pub fn new_topics(&self) -> BTreeMap<&str, &NewTopic> {
        let topics = self.topics.iter().filter_map(|topic| Some((topic.target.as_str(), topic.create.as_ref()?)));
        let routed = self.routed.iter().filter_map(|topic| Some((topic.topic.as_str(), topic.create.as_ref()?)));
        topics.chain(routed).collect()
    }

    /// Makes sure that these stages are those that were planned.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for others: a plugin's file may have been replaced since.
    pub fn check_stages(&self, stages: Option<&Stages>) -> Result<()> {
        let given = stages.map(routed::stages).unwrap_or_default();
        if given == self.stages {
            return Ok(());
        }
        Err(Error::usage("the restore was planned before, with other plugins than the files that are there now")
            .hint("put them back, or give this one another restore_id"))
    }

    /// Returns the partitions, with their topics.
    pub fn partitions(&self) -> impl Iterator<Item = (&TopicPlan, &PartitionPlan)> {
        self.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)))
    }

    /// Returns which records of a partition are taken.
    pub(crate) fn window(&self, of: &PartitionPlan) -> Window {
        let (from, until) = self.times();
        Window { offsets: of.range(), from, until }
    }

    /// Returns how many records, at most, and bytes are read.
    pub fn size(&self) -> (u64, u64) {
        self.partitions().fold((0, 0), |(records, bytes), (_, of)| (records + of.records, bytes + of.bytes))
    }
}
