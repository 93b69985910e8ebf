//! Transactions that were in flight at a savepoint: of these nothing is restored, so that none comes back in part.
//!
//! A transaction is whole before an end when its producer's marker lies before it, or when none of its records lies
//! behind it. What is captured is decided, so a segment that was sealed before the savepoint was made holds no record of a
//! transaction that was in flight then: batches' headers are looked at from the first one on that was sealed later, up to
//! the markers of those in flight.

use std::collections::HashMap;

use super::Torn;
use crate::archive::Archive;
use crate::archive::source::chunks::Segment;
use crate::archive::source::opened::Opened;
use crate::archive::source::way::Part;
use crate::batch::{self, Header};
use crate::error::Result;
use crate::record::{Offset, OffsetRange, Timestamp};

/// Clocks of agents differ: what was sealed less than this before a savepoint is looked at as well.
const CLOCKS_MS: i64 = 3_600_000;

/// The transactions of a partition around an end, as its batches pass in order.
#[derive(Debug, Default)]
struct Tracker {
    end: Offset,
    /// By producer: the first record behind its last marker.
    open: HashMap<i64, Offset>,
    torn: Vec<Torn>,
}

impl Tracker {
    /// Takes the next batch.
    fn pass(&mut self, header: &Header) {
        if !header.is_transactional() {
            return;
        }
        let producer_id = header.producer_id;
        if header.is_control() {
            self.open.remove(&producer_id);
        } else if header.count == 0 {
        } else if header.last_offset() < self.end {
            self.open.entry(producer_id).or_insert(header.base_offset);
        } else if let Some(first) = self.open.remove(&producer_id) {
            self.torn.push(Torn { producer_id, first });
        }
    }

    /// Takes the batches of a segment, as far as they are in `range`.
    async fn pass_all(&mut self, segment: &Segment, range: OffsetRange) -> Result<()> {
        let mut chunks = segment.chunks(0);
        while let Some(chunk) = chunks.next().await? {
            for item in batch::walk(&chunk.bytes) {
                let (_, header) = item.map_err(|error| error.with("object", segment.describe()))?;
                if range.contains(header.base_offset) {
                    self.pass(&header);
                }
            }
        }
        Ok(())
    }

    /// Returns whether a batch at `offset` can still tell something.
    fn goes_on(&self, offset: Offset) -> bool {
        offset < self.end || !self.open.is_empty()
    }
}

/// Returns the transactions of a partition that are not whole before `end`, at a savepoint of that time.
///
/// # Errors
/// Those of the store; [`Kind::Damaged`](crate::error::Kind::Damaged) for batches that cannot be read.
pub(super) async fn torn(archive: &Archive, way: &[Part], end: Offset, taken_at: Timestamp) -> Result<Vec<Torn>> {
    let mut tracker = Tracker { end, ..Tracker::default() };
    let sealed_before = Timestamp(taken_at.0.saturating_sub(CLOCKS_MS));
    for part in way {
        let index = Opened::read(archive, &part.place).await?.index;
        for row in index.iter() {
            let is_earlier = row.range.next <= part.range.first || row.sealed_at < sealed_before;
            if is_earlier && row.range.next <= end {
                continue;
            }
            if row.range.first >= part.range.next {
                break;
            }
            if !tracker.goes_on(row.range.first) {
                return Ok(tracker.torn);
            }
            tracker.pass_all(&Segment::open(archive, &part.place, &row).await?, part.range).await?;
        }
    }
    // What was captured ends before the markers: nobody knows what became of them.
    tracker.torn.extend(tracker.open.into_iter().map(|(producer_id, first)| Torn { producer_id, first }));
    Ok(tracker.torn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::records::template;

    fn batch(producer_id: i64, offset: Offset, attributes: i16) -> Header {
        Header { producer_id, attributes, count: 1, ..template(offset) }
    }

    const DATA: i16 = 0x10;
    const MARKER: i16 = 0x30;

    fn torn_at(end: Offset, batches: &[(i64, Offset, i16)]) -> Vec<(i64, Offset)> {
        let mut tracker = Tracker { end, ..Tracker::default() };
        for (producer_id, offset, attributes) in batches {
            if tracker.goes_on(*offset) {
                tracker.pass(&batch(*producer_id, *offset, *attributes));
            }
        }
        tracker.torn.iter().map(|torn| (torn.producer_id, torn.first)).collect()
    }

    #[test]
    fn a_transaction_that_goes_on_behind_the_end_is_torn_from_its_first_record_on() {
        let batches =
            [(1, 0, DATA), (1, 1, MARKER), (1, 2, DATA), (2, 3, DATA), (1, 4, DATA), (2, 5, MARKER), (1, 6, MARKER)];
        assert_eq!(torn_at(4, &batches), [(1, 2)]);
        assert_eq!(torn_at(5, &batches), []);
        assert_eq!(torn_at(3, &batches), [(1, 2)]);
    }

    #[test]
    fn one_whose_records_lie_before_the_end_is_whole_wherever_its_marker_is() {
        assert_eq!(torn_at(2, &[(1, 0, DATA), (2, 1, DATA), (2, 2, DATA), (1, 3, MARKER), (2, 4, MARKER)]), [(2, 1)]);
        // The next transaction of a producer is another one.
        assert_eq!(torn_at(2, &[(1, 0, DATA), (1, 2, MARKER), (1, 3, DATA), (1, 4, MARKER)]), []);
    }

    #[test]
    fn what_is_in_no_transaction_is_never_torn() {
        assert_eq!(torn_at(1, &[(1, 0, 0), (1, 1, 0), (-1, 2, 0)]), []);
    }
}
