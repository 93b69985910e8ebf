//! Where in the target of a restore a group's committed offsets are: the smallest position from which nothing is lost.
//!
//! A group's place in a target partition is found over all sources of it that are the group's: its place is at the first
//! record that the group has not read, whichever source it is of; where there is none, at the restored end. What lies behind
//! that place and had been read is read again, and counted. A source that the group had committed nothing for counts as not
//! read, if the group had committed something for another partition of that topic.
//!
//! Guarantees: from a place on comes every restored record that the group had not read; it is never beyond the restored end;
//! it is exact where one source partition becomes one target partition. Pure.

mod header_map;
mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use self::links::Links;
use super::positions::Committed;
use crate::record::{Offset, OffsetRange, Partition, TopicId};
use crate::restore::map::{OffsetMap, Pair};

pub use self::header_map::{HeaderMap, Scan};

/// Where places come from.
#[derive(Debug)]
pub enum Places {
    /// The cluster is the one that was backed up: each offset is where it was.
    Same,
    /// A restore has kept where each record went.
    Restored(Restored),
    /// The headers of the records in the target say where they are from.
    Scanned(HeaderMap),
}

/// The places that a restore knows.
#[derive(Debug)]
pub struct Restored {
    restore_id: String,
    links: Links,
}

/// How exact a position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is", content = "records")]
pub enum Exactness {
    /// The group reads on with the very record, or the end of what was restored.
    Exact,
    /// It reads so many records again that it had read, and loses none. Saturates.
    Again(u64),
    /// What it had read is not all there: it is set to the nearest there is, because that was wanted (`--clamp`).
    Clamped,
}

/// Where a group is to be set in one target partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The target partition.
    pub target: Partition,
    /// The next record to read there.
    pub offset: Offset,
    /// How exact that is.
    pub exactness: Exactness,
    /// What the group kept beside its offset; empty where it kept different things for several sources.
    pub metadata: String,
}

/// Why there is no place for a committed offset. Its text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The restore has not come so far.
    Unfinished {
        /// The source partition.
        source: Partition,
        /// Source offsets before this one are done.
        covered: Offset,
    },
    /// What was restored ends before it: by a gap or a cut.
    Beyond {
        /// The source partition.
        source: Partition,
        /// What the group had committed there.
        committed: Offset,
        /// The end of what was restored, in the source.
        next: Offset,
    },
    /// The partition was not restored.
    NotRestored,
    /// The offset is not in the partition, which has these.
    OutOfRange {
        /// What there is.
        range: OffsetRange,
    },
}

/// Where a group is to be set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placed {
    /// For each target partition of what it had committed, its place, or why it has none.
    pub targets: BTreeMap<Partition, Result<Place, Refusal>>,
    /// The source partitions that it had committed offsets for and that went nowhere: [`Refusal::NotRestored`].
    pub nowhere: Vec<Partition>,
}

impl Places {
    /// Returns where a group is to be set that had committed `offsets`, by source partition; with `clamp` at the nearest there
    /// is where what it had read is not all there. Offsets that are `None` count as nothing committed.
    pub fn all(&self, offsets: &BTreeMap<Partition, Option<Committed>>, clamp: bool) -> Placed {
        let committed = offsets.iter().filter_map(|(source, committed)| Some((source, committed.as_ref()?)));
        let Some(links) = self.links() else {
            let same = |(source, committed): (&Partition, &Committed)| {
                let Committed { offset, metadata } = committed.clone();
                let place = Place { target: source.clone(), offset, exactness: Exactness::Exact, metadata };
                (source.clone(), Ok(place))
            };
            return Placed { targets: committed.map(same).collect(), nowhere: Vec::new() };
        };
        let (mut read, mut topics, mut nowhere) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        for (source, committed) in committed {
            let known = self.known_as(source);
            if !links.has(&known) {
                nowhere.push(source.clone());
            }
            let _ = topics.insert((known.topic.clone(), known.topic_id));
            let _ = read.insert(known, committed);
        }
        let is_read = |source: &Partition| topics.contains(&(source.topic.clone(), source.topic_id));
        Placed { targets: links.places(&read, is_read, clamp), nowhere }
    }

    /// Returns where the offset `committed` of one source partition is, in each of its targets, as if no other partition were
    /// restored there.
    ///
    /// # Errors
    /// Why it is nowhere, or not known in one of the targets.
    pub fn of(&self, source: &Partition, committed: Offset, clamp: bool) -> Result<Vec<Place>, Refusal> {
        let committed = Committed { offset: committed, metadata: String::new() };
        let placed = match self.links() {
            None => self.all(&[(source.clone(), Some(committed))].into(), clamp),
            Some(links) => {
                let known = self.known_as(source);
                let targets = links.places(&[(known, &committed)].into(), |_| false, clamp);
                Placed { targets, nowhere: Vec::new() }
            }
        };
        if placed.targets.is_empty() {
            return Err(Refusal::NotRestored);
        }
        placed.targets.into_values().collect()
    }

    /// Returns the target partitions that something was restored to, or could have been; none where the cluster is the one
    /// that was backed up.
    pub fn targets(&self) -> impl Iterator<Item = &Partition> {
        self.links().into_iter().flat_map(Links::targets)
    }

    fn links(&self) -> Option<&Links> {
        match self {
            Self::Same => None,
            Self::Restored(restored) => Some(&restored.links),
            Self::Scanned(headers) => Some(headers.links()),
        }
    }

    /// Returns a source partition as the links name it: headers tell no topic ids.
    fn known_as(&self, source: &Partition) -> Partition {
        match self {
            Self::Scanned(_) => Partition { topic_id: TopicId::NONE, ..source.clone() },
            Self::Same | Self::Restored(_) => source.clone(),
        }
    }
}

impl fmt::Display for Places {
    /// Writes where they come from, as [`Plan::places`](super::plan::Plan::places) has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("the cluster that was backed up"),
            Self::Restored(restored) => write!(f, "restore {}", restored.restore_id),
            Self::Scanned(_) => f.write_str("the headers of the restored records"),
        }
    }
}

impl Restored {
    /// Makes the places of a restore, of its offset map and of the pairs of which there was nothing to restore, each with the
    /// restored end of its target: 0, or where the target began.
    pub fn new(
        restore_id: impl Into<String>,
        map: OffsetMap,
        vacant: impl IntoIterator<Item = (Pair, Offset)>,
    ) -> Self {
        Self { restore_id: restore_id.into(), links: Links::new(map, vacant.into_iter().collect()) }
    }

    /// Returns the restore's id.
    pub fn restore_id(&self) -> &str {
        &self.restore_id
    }

    /// Returns the restore's offset map.
    pub fn map(&self) -> &OffsetMap {
        self.links.map()
    }
}

/// Returns `offset` if it is in a partition that has `range`, whose end is in range too; with `clamp` the nearest there is.
///
/// # Errors
/// [`Refusal::OutOfRange`] without `clamp`.
pub fn check(offset: Offset, range: OffsetRange, clamp: bool) -> Result<(Offset, Exactness), Refusal> {
    // A range that two requests told may have its ends crossed.
    let nearest = offset.min(range.next).max(range.first);
    match nearest == offset {
        true => Ok((offset, Exactness::Exact)),
        false if clamp => Ok((nearest, Exactness::Clamped)),
        false => Err(Refusal::OutOfRange { range }),
    }
}

impl Refusal {
    /// Returns its text for the offset that was refused and the number of its partition: an offset that is out of range as
    /// the user's page has it.
    pub fn why(&self, offset: Offset, partition: i32) -> String {
        match self {
            Self::OutOfRange { range } => super::out_of_range(offset, partition, *range),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished { source, covered } => {
                write!(f, "the restore is not finished: it has come to offset {covered} of {source}")
            }
            Self::Beyond { source, committed, next } => {
                write!(f, "the group had read {source} up to {committed}, and it was restored only up to {next}")
            }
            Self::NotRestored => f.write_str("not restored"),
            Self::OutOfRange { range } => write!(f, "out of range (current: {}-{})", range.first, range.next),
        }
    }
}

impl fmt::Display for Exactness {
    /// Writes it as plans show it: `exact`, `re-reads 12`, `clamped`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Again(records) => write!(f, "re-reads {records}"),
            Self::Clamped => f.write_str("clamped"),
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
