//! Where records are in the target, as their own headers tell: what is known where no restore has left a map.
//!
//! The headers tell a record's source topic, partition and offset, but no topic id, and neither what was asked for nor how far
//! that had come: behind the last record of a partition lies its restored end, whatever had been committed. Where a record was
//! restored twice, its first copy stands. Pure.

use std::collections::BTreeMap;

use super::links::Links;
use crate::error::Result;
use crate::record::{Offset, OffsetRange, Partition, TopicId};
use crate::restore::map::{OffsetMap, Pair};

/// All that headers may tell of.
const ANY: OffsetRange = OffsetRange { first: 0, next: Offset::MAX };

/// Where records are in the target, as their headers tell.
#[derive(Debug)]
pub struct HeaderMap(Links);

/// A look through the targets, in the order of their offsets.
#[derive(Debug, Default)]
pub struct Scan {
    map: OffsetMap,
}

impl Scan {
    /// Returns the pair of a source partition as headers name it, and a target partition.
    pub fn pair(topic: &str, partition: i32, target: &Partition) -> Pair {
        let source = Partition { topic: topic.into(), topic_id: TopicId::NONE, index: partition };
        Pair { source, target: target.clone() }
    }

    /// Notes that the record at the target offset `target` says that it is from `source`. A pair's records are noted in the
    /// order of their target offsets; one whose source offset is not greater than that of an earlier one is taken for a copy,
    /// as nobody loses by that.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) for an offset that is none.
    pub fn note(&mut self, pair: &Pair, source: Offset, target: Offset) -> Result<()> {
        if self.map.get(pair).is_none() {
            self.map.open(pair, ANY, target)?;
        }
        self.map.push(pair, source, target, 1)
    }

    /// Ends the look; returns what it has found.
    ///
    /// # Errors
    /// None that can be: each end lies behind the last record.
    pub fn finish(mut self) -> Result<HeaderMap> {
        let ends: BTreeMap<Pair, Offset> =
            self.map.iter().map(|(pair, track)| (pair.clone(), track.target_next())).collect();
        for (pair, end) in &ends {
            self.map.finish(pair, *end)?;
        }
        Ok(HeaderMap(Links::new(self.map, BTreeMap::new())))
    }
}

impl HeaderMap {
    /// Returns the map: its sources have no topic ids.
    pub fn map(&self) -> &OffsetMap {
        self.0.map()
    }

    pub(super) fn links(&self) -> &Links {
        &self.0
    }
}
