//! Whether an archive has reached a savepoint: what it lacks, partition by partition, and what it has lost. Pure.
//!
//! What counts is where a chain ends now; whether it is whole before that is `verify`'s to tell. What was durable once
//! (`archived`) makes nothing complete: an archive that ends before it has lost something, which is said for itself
//! ([`Lost`]).
//!
//! **Of which chain.** An end with `archived` is one of the chain that this names. One without it does not say of which:
//! the savepoint was made where nobody had told yet, as by hand. It can be judged only along the newest way through the
//! partition's forks, and there by the chain that holds the offset before it ([`chain_of`]). The end of the newest fork
//! says nothing of what lies before that fork. Where the source had lost offsets, such an end may have been one of those;
//! then it is judged by what the newest way has in their place, since nothing tells the two apart.

use super::{Archived, End, State, Topic};
use crate::archive::layout::Fork;
use crate::archive::lineage;
use crate::record::Offset;

/// A partition whose end at the savepoint the archive has not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The topic.
    pub topic: String,
    /// Its id as Kafka writes it.
    pub topic_id: String,
    /// The partition's index.
    pub partition: i32,
    /// Its end at the savepoint, exclusive.
    pub high_watermark: Offset,
    /// The end of what the archive holds, exclusive; `None` where it holds nothing of the partition.
    pub next: Option<Offset>,
}

impl Lack {
    /// Returns how many offsets are missing.
    pub fn offsets(&self) -> u64 {
        (self.high_watermark - self.next.unwrap_or(0)).max(0).cast_unsigned()
    }
}

/// A chain that ends before what was durable of it when the savepoint was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The topic.
    pub topic: String,
    /// Its id as Kafka writes it.
    pub topic_id: String,
    /// The chain: `3`, or `3@<epoch>-<end>`.
    pub chain: String,
    /// The end of what was durable, exclusive.
    pub archived: Offset,
    /// The end of what is there, exclusive; `None` where nothing is.
    pub next: Option<Offset>,
}

/// Returns the chain that an end is judged by, of a partition that has these forks, oldest first; `None` is the
/// partition's own.
pub fn chain_of(end: &End, forks: &[Fork]) -> Option<Fork> {
    if let Some(told) = end.archived.as_ref().and_then(Archived::fork) {
        return told;
    }
    let last = end.high_watermark - 1;
    let way = lineage::stretches(forks.last().copied(), forks);
    way.into_iter().find(|stretch| stretch.range.contains(last)).and_then(|stretch| stretch.fork)
}

/// Returns the partitions whose ends an archive has not reached; none when the savepoint is complete. `next` says how
/// far the chain goes now by which an end is judged ([`chain_of`]).
pub fn lacking(state: &State, next: impl Fn(&Topic<End>, &End) -> Option<Offset>) -> Vec<Lack> {
    let mut lacks = Vec::new();
    for topic in &state.topics {
        for end in &topic.partitions {
            let next = next(topic, end);
            if next.unwrap_or(0) < end.high_watermark {
                let (topic, topic_id) = (topic.topic.clone(), topic.topic_id.clone());
                let (partition, high_watermark) = (end.partition, end.high_watermark);
                lacks.push(Lack { topic, topic_id, partition, high_watermark, next });
            }
        }
    }
    lacks
}

/// Returns the chains that end before what the savepoint calls durable of them; `next` as in [`lacking`].
pub fn lost(state: &State, next: impl Fn(&Topic<End>, &End) -> Option<Offset>) -> Vec<Lost> {
    let mut lost = Vec::new();
    for topic in &state.topics {
        for end in &topic.partitions {
            let Some(archived) = &end.archived else { continue };
            let next = next(topic, end);
            if next.unwrap_or(0) < archived.next {
                let (topic, topic_id) = (topic.topic.clone(), topic.topic_id.clone());
                lost.push(Lost { topic, topic_id, chain: archived.chain.clone(), archived: archived.next, next });
            }
        }
    }
    lost
}
