//! Where an offset or a time is: along the forks of a partition, down to the position in a log.
//!
//! One small object is read for an answer, the segment's sidecar; what else it takes is [`Live`](super::Live)'s to know.

use crate::archive::Archive;
use crate::archive::catalog::Row;
use crate::archive::index::Index;
use crate::archive::layout::Fork;
use crate::archive::sidecar::Entry;
use crate::archive::source::Place;
use crate::archive::source::chunks::Segment;
use crate::archive::source::way::{self, Branch, Part};
use crate::error::Result;
use crate::record::{Offset, OffsetRange, Partition, Timestamp};

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The segment that covers this offset.
    Offset(Offset),
    /// The first segment that may hold a record of this time or later.
    Time(Timestamp),
}

/// Where something is.
#[derive(Debug, Clone)]
pub struct Found {
    /// The chain: where forks share offsets, the one that holds them.
    pub place: Place,
    /// The segment.
    pub row: Row,
    /// Where to begin to read in its log.
    pub position: u64,
    /// The base offset of the batch there.
    pub position_offset: Offset,
}

/// What a partition holds, along its forks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The offsets that are covered, `[first, next)`; `None` where no segment is held.
    pub range: Option<OffsetRange>,
    /// Segments, those that a fork cuts among them.
    pub segments: usize,
    /// Bytes of their logs.
    pub bytes: u64,
    /// The greatest effective time in them.
    pub max_time: Option<Timestamp>,
    /// When the last one was sealed.
    pub sealed_at: Option<Timestamp>,
}

/// The indexes along a way through the forks of a partition.
pub struct Way(Vec<(Part, Index)>);

impl Way {
    /// Opens the way of `branch`; `None` where it names a fork that there is not.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open(archive: &Archive, partition: &Partition, branch: Branch) -> Result<Option<Self>> {
        let live = archive.live();
        let forks = live.forks(archive, partition).await?;
        if matches!(branch, Branch::Fork(fork) if !forks.contains(&fork)) {
            return Ok(None);
        }
        let mut parts = Vec::new();
        for part in way::along(partition, branch, &forks) {
            let index = live.index(archive, &part.place).await?;
            parts.push((part, index));
        }
        Ok(Some(Self(parts)))
    }

    /// Looks for `wanted`; `None` where nothing covers it.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) where the segment's sidecar cannot be read; else the store's.
    pub async fn find(&self, archive: &Archive, wanted: Wanted) -> Result<Option<Found>> {
        let held = self.0.iter().find_map(|(part, index)| {
            let at = match wanted {
                Wanted::Offset(offset) => index.at_offset(offset).filter(|_| part.range.contains(offset)),
                Wanted::Time(time) => index.at_time(time),
            };
            let covers = |row: &Row| match wanted {
                Wanted::Offset(offset) => row.range.contains(offset),
                Wanted::Time(_) => row.range.first < part.range.next,
            };
            Some((&part.place, index.get(at?).filter(covers)?))
        });
        let Some((place, row)) = held else { return Ok(None) };
        let segment = Segment::open(archive, place, &row).await?;
        let entry = match wanted {
            Wanted::Offset(offset) => segment.entry_of(offset),
            Wanted::Time(time) => segment.entry_of_time(time),
        };
        // Every log begins with an entry; a sidecar without any is one of another program.
        let (position, position_offset) =
            entry.map_or((0, row.range.first), |Entry { position, offset, .. }| (*position, *offset));
        Ok(Some(Found { place: place.clone(), row, position, position_offset }))
    }

    /// Returns what there is along the way.
    pub fn extent(&self) -> Extent {
        let mut extent = Extent { range: None, segments: 0, bytes: 0, max_time: None, sealed_at: None };
        for (part, index) in &self.0 {
            for row in index.iter().take_while(|row| row.range.first < part.range.next) {
                let first = extent.range.map_or(row.range.first, |range| range.first);
                extent.range = Some(OffsetRange { first, next: row.range.next.min(part.range.next) });
                extent.segments += 1;
                extent.bytes += row.length_bytes;
                extent.max_time = extent.max_time.max(row.max_time);
                extent.sealed_at = Some(row.sealed_at);
            }
        }
        extent
    }

    /// Returns the fork whose way it is; `None` is the partition itself.
    pub fn fork(&self) -> Option<Fork> {
        self.0.last().and_then(|(part, _)| part.place.fork)
    }

    /// Returns where the way ends, exclusive: the next offset that will be held; `None` where no segment is held.
    pub fn end(&self) -> Option<Offset> {
        let ends = |(part, index): &(Part, Index)| index.range().map(|range| range.next.min(part.range.next));
        self.0.iter().rev().find_map(ends)
    }
}
