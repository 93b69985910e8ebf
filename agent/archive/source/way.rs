//! The way along a partition that has forks: the newest one, with what it shares with its parents, or another by name.
//!
//! And what every fork must find: a parent that holds everything before it.

use super::chain::{Finding, What};
use super::chunks::Segment;
use super::{Fork, Place};
use crate::archive::{Archive, lineage};
use crate::batch::{self, records::Records};
use crate::error::Result;
use crate::record::{Offset, OffsetRange, Partition};

/// A chain on the way, and the offsets that are taken from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it lies.
    pub place: Place,
    /// What a reader takes from it, `[first, next)`; `next` is [`Offset::MAX`] for the last part.
    pub range: OffsetRange,
}

/// Which chain of a partition a reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Branch {
    /// The newest, with what it shares.
    #[default]
    Newest,
    /// The partition's own chain alone.
    Own,
    /// That fork, with what it shares.
    Fork(Fork),
}

/// Returns the way along a partition, its parts in the order of offsets.
///
/// # Errors
/// Those of the store.
pub async fn way(archive: &Archive, partition: &Partition, branch: Branch) -> Result<Vec<Part>> {
    // A folder without segments is no fork: a writer stopped before its first commit.
    Ok(along(partition, branch, &archive.forks(partition).await?))
}

/// Returns the way along a partition that has these forks, oldest first.
pub fn along(partition: &Partition, branch: Branch, forks: &[Fork]) -> Vec<Part> {
    let chosen = match branch {
        Branch::Newest => forks.last().copied(),
        Branch::Own => None,
        Branch::Fork(fork) => Some(fork),
    };
    let part =
        |stretch: lineage::Stretch| Part { place: Place::new(partition.clone(), stretch.fork), range: stretch.range };
    lineage::stretches(chosen, forks).into_iter().map(part).collect()
}

/// The records of a segment that a read-committed reader gets before an offset.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// How many there are.
    pub records: u64,
    /// The offset of the first.
    pub first: Option<Offset>,
    /// The offset of the last.
    pub last: Option<Offset>,
}

/// Counts the records of `segment` before `end`, which lies inside it: a fork was cut there.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged), or the store's.
pub async fn count_before(segment: &Segment, end: Offset) -> Result<Before> {
    let from = segment.sidecar.range.first;
    let mut before = Before::default();
    let mut chunks = segment.chunks(0);
    while let Some(chunk) = chunks.next().await? {
        for item in batch::walk(&chunk.bytes) {
            let (at, header) = item.map_err(|error| error.with("object", segment.describe()))?;
            if header.base_offset >= end {
                return Ok(before);
            }
            if !segment.is_visible(&header) {
                continue;
            }
            if header.is_dense() && header.base_offset >= from && header.next_offset() <= end {
                before.records += header.count as u64;
                before.first = before.first.or(Some(header.base_offset));
                before.last = Some(header.last_offset());
                continue;
            }
            let bytes = chunk.bytes.slice(at..at + header.total_bytes);
            for record in Records::of(&header, &bytes)? {
                let offset = record?.offset;
                if (from..end).contains(&offset) {
                    before.records += 1;
                    before.first = before.first.or(Some(offset));
                    before.last = Some(offset);
                }
            }
        }
    }
    Ok(before)
}

/// How far a chain was found to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// Whether there is any segment.
    pub is_held: bool,
    /// The end of the last segment, or where the first must begin.
    pub next: Option<Offset>,
    /// The walk came to the chain's end.
    pub is_whole: bool,
}

/// What a fork is beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The offsets that the source had lost, as far as they are held; empty where none were.
    pub lost: OffsetRange,
    /// The name of the chain that holds them.
    pub held_by: String,
}

/// Looks at the forks among the chains of one topic: returns for each its index, what it is beside, and what is wrong
/// with its beginning.
pub fn forks(archive: &Archive, chains: &[(&Place, Reach)]) -> Vec<(usize, Left, Option<Finding>)> {
    let mut found = Vec::new();
    for (at, &(place, reach)) in chains.iter().enumerate() {
        let Some(fork) = place.fork.filter(|_| reach.is_held) else { continue };
        let siblings = || chains.iter().filter(|(other, _)| other.partition == place.partition);
        let forks: Vec<Fork> =
            siblings().filter(|(_, reach)| reach.is_held).filter_map(|(other, _)| other.fork).collect();
        let reach_of = |fork: Option<Fork>| {
            siblings().find(|(other, _)| other.fork == fork).map_or_else(Reach::default, |&(_, reach)| reach)
        };
        let named = |fork| Place::new(place.partition.clone(), fork).name();
        let left = lineage::left(fork, &forks);
        // A chain that only begins somewhere holds nothing that could be lost.
        let held_to = Some(reach_of(left)).filter(|left| left.is_held).and_then(|left| left.next);
        let lost = OffsetRange { first: fork.end, next: held_to.unwrap_or(fork.end).max(fork.end) };
        let parent = lineage::parent(fork, &forks);
        let shared = reach_of(parent);
        let first = shared.next.unwrap_or(0);
        // What ended the parent's walk is a finding of its own.
        let missing = first < fork.end && (shared.is_whole || shared == Reach::default());
        let finding = missing.then(|| Finding {
            what: What::Hole,
            object: archive.store().describe(&place.folder),
            range: Some(OffsetRange { first, next: fork.end }),
            detail: format!("the fork goes on from `{}`, which does not hold them", named(parent)),
        });
        found.push((at, Left { lost, held_by: named(left) }, finding));
    }
    found
}

impl Left {
    /// Says for people what the fork at `place` is beside.
    pub fn describe(&self, place: &Place) -> String {
        let Some(fork) = place.fork else { return String::new() };
        let goes_on = format!("`{}` goes on from offset {} with leader epoch {}", place.name(), fork.end, fork.epoch);
        if self.lost.is_empty() {
            return format!("the source had lost nothing that is held; {goes_on}");
        }
        format!("the source had lost them; `{}` holds them, {goes_on}", self.held_by)
    }
}
