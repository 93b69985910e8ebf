//! What a Fetch asks and what its answer holds. Pure: no I/O, no clock.
//!
//! [`Session`] keeps what the broker remembers of our requests, so that each names only what has changed; [`slice()`]
//! finds the whole, sound, wanted batches in what came back. Batches are looked at from outside (header and checksum);
//! nothing is decoded and nothing is allocated per batch, but for what is still in the formats before v2.

mod session;

use bytes::Bytes;

use crate::batch::{self, legacy};
use crate::record::{Offset, OffsetRange};
pub use session::{Limits, Session, Verdict, Want};

/// What the records of one partition in a Fetch answer come to.
#[derive(Debug, Default)]
pub struct Sliced {
    /// The batches to deliver; `None` when there is no whole one that is wanted.
    pub data: Option<Slice>,
    /// Whether a batch at or past the end of the pass was seen: there is nothing left to bring.
    pub at_end: bool,
    /// What ended the slice early.
    pub damage: Option<Damage>,
}

/// Whole batches of one partition, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// What they cover: from the offset that was asked for to the end of the last batch.
    pub range: OffsetRange,
    /// Their bytes, a slice of the frame; our own, marked, where the broker sent messages of format v0 or v1.
    pub bytes: Bytes,
    /// The leader epoch of the last batch.
    pub last_epoch: i32,
}

/// Where batches cannot be taken any more, and why: a wrong checksum, or a header that contradicts itself or its
/// neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The base offset of the batch, or the offset that was to come.
    pub offset: Offset,
    /// What is wrong with it.
    pub what: String,
}

/// Finds in `records` the batches from `position` on that end before `end` (exclusive bound on base offsets, where
/// there is one): whole ones with right checksums. A partial last batch is left out, as are batches before `position`.
/// What precedes damage is good and is returned with it.
///
/// Messages of format v0 or v1 become batches. Where an answer holds both, what it begins with is returned and the rest
/// is left to the next Fetch, so that batches are never copied for the sake of their neighbours.
pub fn slice(records: &Bytes, position: Offset, end: Option<Offset>) -> Sliced {
    let mut sliced = Sliced::default();
    let (mut from, mut to, mut at) = (0, 0, 0);
    let (mut next, mut last_epoch) = (position, -1);
    while let Some(total) = batch::entry_bytes(&records[at..]).filter(|total| *total <= records.len() - at) {
        let start = at;
        if legacy::is_old(&records[start..]) {
            if to > from {
                break;
            }
            at += total;
            if legacy::offset(&records[start..]) >= position || !legacy::crc_matches(&records[start..at]) {
                return converted(&records.slice(start..), position, end);
            }
            (from, to) = (at, at);
            continue;
        }
        let header = match batch::Header::read(&records[start..]) {
            Ok(header) => header,
            Err(error) => {
                sliced.damage = Some(Damage { offset: next, what: error.to_string() });
                break;
            }
        };
        at += total;
        if to == from && header.next_offset() <= position {
            // A fetch is not batch-aligned, and brokers may begin a batch early.
            (from, to) = (at, at);
            continue;
        }
        if end.is_some_and(|end| header.base_offset >= end) {
            sliced.at_end = true;
            break;
        }
        if to > from && header.base_offset < next {
            let what = format!("its base offset {} lies before the batch in front of it ends", header.base_offset);
            sliced.damage = Some(Damage { offset: next, what });
            break;
        }
        if !batch::crc_matches(&records[start..at]) {
            let what = "its checksum does not match its bytes".to_owned();
            sliced.damage = Some(Damage { offset: header.base_offset, what });
            break;
        }
        to = at;
        next = header.next_offset();
        last_epoch = header.leader_epoch;
    }
    if to > from {
        let range = OffsetRange { first: position, next };
        sliced.data = Some(Slice { range, bytes: records.slice(from..to), last_epoch });
    }
    sliced
}

/// Makes batches of the messages of format v0 or v1 with which `rest` begins.
fn converted(rest: &Bytes, position: Offset, end: Option<Offset>) -> Sliced {
    let legacy::Converted { bytes, next, at_end, damage } = legacy::convert(rest, position, end);
    let range = OffsetRange { first: position, next };
    let data = (!bytes.is_empty()).then_some(Slice { range, bytes, last_epoch: -1 });
    Sliced { data, at_end, damage: damage.map(|(offset, what)| Damage { offset, what }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches of the given ranges; empty ones, which brokers serve like any other.
    fn batches(ranges: &[(Offset, Offset)]) -> Bytes {
        let each = ranges.iter().map(|(first, next)| batch::gap(OffsetRange { first: *first, next: *next }, 5));
        each.flat_map(|bytes| bytes.to_vec()).collect()
    }

    fn range(sliced: &Sliced) -> Option<(Offset, Offset, usize)> {
        sliced.data.as_ref().map(|data| (data.range.first, data.range.next, data.bytes.len()))
    }

    #[test]
    fn whole_batches_from_the_position_on_are_taken_without_copying() {
        let records = batches(&[(0, 10), (10, 20), (25, 30)]);
        let sliced = slice(&records, 10, None);
        assert_eq!((range(&sliced), sliced.damage.clone()), (Some((10, 30, 122)), None));
        let data = sliced.data.expect("data");
        assert_eq!((data.bytes.as_ptr(), data.last_epoch), (records[61..].as_ptr(), 5));
    }

    #[test]
    fn a_batch_that_begins_before_the_position_and_reaches_beyond_it_is_taken_whole() {
        assert_eq!(range(&slice(&batches(&[(0, 10), (10, 20)]), 15, None)), Some((15, 20, 61)));
    }

    #[test]
    fn a_partial_last_batch_is_dropped() {
        let records = batches(&[(0, 10), (10, 20)]);
        assert_eq!(range(&slice(&records.slice(..121), 0, None)), Some((0, 10, 61)));
        assert_eq!(range(&slice(&records.slice(..60), 0, None)), None);
        assert_eq!(range(&slice(&Bytes::new(), 0, None)), None);
    }

    #[test]
    fn what_is_already_held_is_skipped() {
        let sliced = slice(&batches(&[(0, 10), (10, 20)]), 20, None);
        assert_eq!((range(&sliced), sliced.at_end), (None, false));
    }

    #[test]
    fn a_pass_stops_before_its_end() {
        let sliced = slice(&batches(&[(0, 10), (10, 20), (20, 30)]), 0, Some(20));
        assert_eq!((range(&sliced), sliced.at_end), (Some((0, 20, 122)), true));
    }

    #[test]
    fn a_wrong_checksum_ends_the_slice_and_names_the_offset() {
        let mut records = batches(&[(0, 10), (10, 20), (20, 30)]).to_vec();
        records[61 + 40] ^= 1;
        let sliced = slice(&records.into(), 0, None);
        assert_eq!(range(&sliced), Some((0, 10, 61)));
        assert!(matches!(sliced.damage, Some(Damage { offset: 10, .. })));
    }

    #[test]
    fn batches_out_of_order_are_damage() {
        let back = slice(&batches(&[(10, 20), (5, 8), (20, 30)]), 10, None);
        assert_eq!(range(&back), Some((10, 20, 61)));
        assert!(matches!(back.damage, Some(Damage { offset: 20, .. })));
        let sliced = slice(&batches(&[(0, 10), (5, 15)]), 0, None);
        assert_eq!(range(&sliced), Some((0, 10, 61)));
        assert!(matches!(sliced.damage, Some(Damage { offset: 10, .. })));
    }

    /// Kafka's own messages of format v1, offsets 0 to 11; no leader epoch.
    const OLD: &[u8] = include_bytes!("../batch/legacy/v1.log");

    #[test]
    fn messages_of_an_old_format_come_as_batches_without_a_leader_epoch() {
        let sliced = slice(&Bytes::from_static(OLD), 0, None);
        let data = sliced.data.expect("data");
        assert_eq!((data.range.next, data.last_epoch, sliced.at_end, sliced.damage), (12, -1, false, None));
        assert!(batch::walk(&data.bytes).all(|item| item.is_ok_and(|(_, header)| header.is_converted())));
    }

    #[test]
    fn of_an_answer_in_two_formats_the_first_is_taken_and_the_rest_is_left_to_the_next_fetch() {
        let upgraded = Bytes::from([OLD, &batches(&[(12, 20), (20, 25)])].concat());
        assert_eq!(slice(&upgraded, 0, None).data.map(|data| data.range.next), Some(12));
        let sliced = slice(&upgraded, 12, None);
        assert_eq!(range(&sliced), Some((12, 25, 122)));
        assert_eq!(sliced.data.map(|data| data.bytes.as_ptr()), Some(upgraded[OLD.len()..].as_ptr()));
        let mut old = OLD.to_vec();
        old.drain(..142);
        let downgraded = Bytes::from([&batches(&[(0, 3)])[..], &old].concat());
        assert_eq!(range(&slice(&downgraded, 0, None)), Some((0, 3, 61)));
        assert_eq!(slice(&downgraded, 3, None).data.map(|data| data.range.next), Some(12));
    }

    #[test]
    fn a_batch_whose_format_was_damaged_is_damage() {
        let mut records = batches(&[(7, 8)]).to_vec();
        records[16] = 1;
        let records = Bytes::from(records);
        for position in [0, 9] {
            let sliced = slice(&records, position, None);
            assert!(sliced.data.is_none() && matches!(sliced.damage, Some(Damage { offset: 7, .. })), "{sliced:?}");
        }
    }
}
