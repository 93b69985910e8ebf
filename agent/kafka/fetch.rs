//! What a Fetch asks and what its answer holds. Pure: no I/O, no clock.
//!
//! [`Session`] keeps what the broker remembers of our requests, so that each names only what has changed; [`slice()`]
//! finds the whole, sound, wanted batches in what came back. Batches are looked at from outside (header and checksum);
//! nothing is decoded and nothing is allocated per batch.

mod session;

use bytes::Bytes;

use crate::batch;
use crate::record::{Offset, OffsetRange};
pub use session::{Limits, Session, Verdict, Want};

/// Where the format of an entry stands; the same in every format.
const MAGIC_AT: usize = 16;

/// What the records of one partition in a Fetch answer come to.
#[derive(Debug, Default)]
pub struct Sliced {
    /// The batches to deliver; `None` when there is no whole one that is wanted.
    pub data: Option<Slice>,
    /// Whether a batch at or past the end of the pass was seen: there is nothing left to bring.
    pub at_end: bool,
    /// What ended the slice early.
    pub problem: Option<Problem>,
}

/// Whole batches of one partition, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// What they cover: from the offset that was asked for to the end of the last batch.
    pub range: OffsetRange,
    /// Their bytes, a slice of the frame.
    pub bytes: Bytes,
    /// The leader epoch of the last batch.
    pub last_epoch: i32,
}

/// Why batches from some offset on cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The batch is not what its producer sent: wrong checksum, or a header that contradicts itself or its neighbour.
    Damaged {
        /// The base offset of the batch, or the offset that was to come.
        offset: Offset,
        /// What is wrong with it.
        what: String,
    },
    /// The batch has format v0 or v1, which brokers before Kafka 4 may still hold.
    OldFormat {
        /// Its offset: of its last record, where it is compressed.
        offset: Offset,
        /// Its format.
        magic: u8,
    },
}

/// Finds in `records` the batches from `position` on that end before `end` (exclusive bound on base offsets, where
/// there is one): whole ones with right checksums. A partial last batch is left out, as are batches before `position`.
/// What precedes a problem is good and is returned with it.
pub fn slice(records: &Bytes, position: Offset, end: Option<Offset>) -> Sliced {
    let mut sliced = Sliced::default();
    let (mut from, mut to, mut at) = (0, 0, 0);
    let (mut next, mut last_epoch) = (position, -1);
    for entry in batch::walk(records) {
        let (start, header) = match entry {
            Ok(found) => found,
            Err(error) => {
                sliced.problem = Some(unreadable(&records[at..], next, &error));
                break;
            }
        };
        at = start + header.total_bytes;
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
            sliced.problem = Some(Problem::Damaged { offset: next, what });
            break;
        }
        if !batch::crc_matches(&records[start..at]) {
            let what = "its checksum does not match its bytes".to_owned();
            sliced.problem = Some(Problem::Damaged { offset: header.base_offset, what });
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

fn unreadable(rest: &[u8], next: Offset, error: &crate::error::Error) -> Problem {
    match (rest.get(MAGIC_AT), rest.first_chunk::<8>()) {
        (Some(magic @ (0 | 1)), Some(offset)) => {
            Problem::OldFormat { offset: i64::from_be_bytes(*offset), magic: *magic }
        }
        _ => Problem::Damaged { offset: next, what: error.to_string() },
    }
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
        assert_eq!((range(&sliced), sliced.problem.clone()), (Some((10, 30, 122)), None));
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
        assert!(matches!(sliced.problem, Some(Problem::Damaged { offset: 10, .. })));
    }

    #[test]
    fn batches_out_of_order_are_damage() {
        let back = slice(&batches(&[(10, 20), (5, 8), (20, 30)]), 10, None);
        assert_eq!(range(&back), Some((10, 20, 61)));
        assert!(matches!(back.problem, Some(Problem::Damaged { offset: 20, .. })));
        let sliced = slice(&batches(&[(0, 10), (5, 15)]), 0, None);
        assert_eq!(range(&sliced), Some((0, 10, 61)));
        assert!(matches!(sliced.problem, Some(Problem::Damaged { offset: 10, .. })));
    }

    #[test]
    fn an_old_format_is_told_from_damage() {
        let mut records = batches(&[(7, 8)]).to_vec();
        records[16] = 1;
        assert_eq!(slice(&records.into(), 0, None).problem, Some(Problem::OldFormat { offset: 7, magic: 1 }));
    }
}
