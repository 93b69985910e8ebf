//! Transactions that were in flight at a savepoint: of these nothing is restored, so that none comes back in part.
//!
//! A transaction is whole before an end when its producer's marker lies before it, or when none of its records lies
//! behind it. What is captured is decided, so what was durable when the savepoint before was made, and a segment that was
//! sealed before the savepoint was made, hold no record of a transaction that was in flight then: batches' headers are
//! looked at from there on, up to the markers of those in flight. That is also why a marker which compaction took does not
//! tear what it had committed, but for what was captured as late as that.

use std::collections::HashMap;

use super::Torn;
use crate::archive::Archive;
use crate::archive::savepoint::Archived;
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
        } else if header.base_offset < self.end {
            self.torn.push(Torn { producer_id, first: header.base_offset });
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

/// Returns the transactions of a partition that are not whole before `end`, at a savepoint of that time. Of the chain that
/// `decided` names nothing was in flight before its end.
///
/// # Errors
/// Those of the store; [`Kind::Damaged`](crate::error::Kind::Damaged) for batches that cannot be read.
pub(super) async fn torn(
    archive: &Archive,
    way: &[Part],
    end: Offset,
    taken_at: Timestamp,
    decided: Option<&Archived>,
) -> Result<Vec<Torn>> {
    let mut tracker = Tracker { end, ..Tracker::default() };
    let sealed_before = Timestamp(taken_at.0.saturating_sub(CLOCKS_MS));
    // What the parents of the chain hold is decided as well.
    let at = decided.and_then(|decided| way.iter().position(|part| part.place.name() == decided.chain));
    for (number, part) in way.iter().enumerate() {
        let index = Opened::read(archive, &part.place).await?.index;
        let decided = match (at, decided) {
            (Some(at), Some(_)) if number < at => Offset::MAX,
            (Some(at), Some(decided)) if number == at => decided.next,
            _ => 0,
        };
        let range = OffsetRange { first: part.range.first.max(decided.min(part.range.next)), ..part.range };
        let mut sealed_last = Timestamp::NONE;
        for row in index.iter() {
            // Of a sidecar that was made anew nobody knows when it was sealed: not before the one before it, whose time it
            // has then.
            let is_known = row.sealed_at > sealed_last;
            sealed_last = row.sealed_at;
            let is_earlier = row.range.next <= range.first || (is_known && row.sealed_at < sealed_before);
            if is_earlier && row.range.next <= end {
                continue;
            }
            if row.range.first >= part.range.next {
                break;
            }
            if !tracker.goes_on(row.range.first) {
                return Ok(tracker.torn);
            }
            tracker.pass_all(&Segment::open(archive, &part.place, &row).await?, range).await?;
        }
    }
    // What was captured ends before the markers: nobody knows what became of them.
    tracker.torn.extend(tracker.open.into_iter().map(|(producer_id, first)| Torn { producer_id, first }));
    Ok(tracker.torn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::sidecar::{Kind as SegmentKind, Sidecar};
    use crate::archive::source::Place;
    use crate::archive::source::tests::Fixture;
    use crate::batch::records::template;
    use crate::record::{Partition, TopicId};

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

    #[test]
    fn one_batch_across_the_end_is_torn_though_nothing_was_open_before_it() {
        let mut tracker = Tracker { end: 5, ..Tracker::default() };
        let across = Header { last_offset_delta: 9, count: 10, ..batch(1, 0, DATA) };
        tracker.pass(&across);
        assert_eq!(tracker.torn, [Torn { producer_id: 1, first: 0 }]);
        assert_eq!(torn_at(5, &[(1, 5, DATA), (1, 6, MARKER)]), [], "one behind the end is not before it in part");
    }

    async fn torn_of(fixture: &Fixture, end: Offset, taken_at: i64, decided: Option<Offset>) -> Vec<(i64, Offset)> {
        let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 };
        let range = OffsetRange { first: 0, next: Offset::MAX };
        let way = [Part { place: Place::new(partition, None), range }];
        let decided = decided.map(|next| Archived { chain: "0".into(), next });
        let torn = torn(&fixture.archive, &way, end, Timestamp(taken_at), decided.as_ref()).await.expect("sound");
        torn.iter().map(|torn| (torn.producer_id, torn.first)).collect()
    }

    /// A committed transaction whose marker compaction took, then one of the same producer across offset 20.
    async fn compacted() -> Fixture {
        let fixture = Fixture::new("b").await;
        let early = [fixture.transactional(0, 5, 7), fixture.batch(8, 2)];
        fixture.segment("t", 0, 0, SegmentKind::First, &early).await;
        let late = [fixture.transactional(10, 10, 7), fixture.transactional(20, 5, 7), fixture.marker(25, 7, true)];
        fixture.segment("t", 0, 10, SegmentKind::Data, &late).await;
        fixture
    }

    #[tokio::test]
    async fn a_marker_that_compaction_took_does_not_tear_what_was_decided_long_before() {
        let (fixture, now) = (compacted().await, 1_700_000_000_000);
        assert_eq!(torn_of(&fixture, 20, now, None).await, [(7, 0)], "nobody knows better");
        assert_eq!(torn_of(&fixture, 20, now, Some(10)).await, [(7, 10)], "the savepoint before knew it durable");
        assert_eq!(torn_of(&fixture, 20, now + 1 + CLOCKS_MS, None).await, [(7, 10)], "it was sealed long before");
    }

    #[tokio::test]
    async fn what_was_sealed_at_an_unknown_time_is_looked_at() {
        let fixture = compacted().await;
        let late = 1_700_000_000_000 + 10 * CLOCKS_MS;
        assert_eq!(torn_of(&fixture, 20, late, None).await, [(7, 10)]);
        // The sidecar of the first segment was made anew, and has no time.
        let rebuilt = fixture.but(|key, bytes| {
            let mut sidecar = Sidecar::decode(&bytes).ok().filter(|_| key.contains("/00000000000000000000."));
            if let Some(sidecar) = &mut sidecar {
                sidecar.sealed_at = Timestamp::NONE;
            }
            Some(sidecar.map_or(bytes, |sidecar| sidecar.encode()))
        });
        assert_eq!(torn_of(&rebuilt.await, 20, late, None).await, [(7, 0)]);
    }
}
