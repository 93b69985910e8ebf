//! What a Fetch asks and what its answer holds. Pure: no I/O, no clock.
//!
//! [`Session`] keeps what the broker remembers of our requests, so that each names only what has changed; [`slice()`]
//! finds the whole, sound, wanted batches in what came back. Batches are looked at from outside (header and checksum);
//! nothing is decoded and nothing is allocated per batch, but for what is still in the formats before v2.

mod session;

use bytes::Bytes;

use crate::batch::{self, legacy};
use crate::record::{Offset, OffsetRange};
pub use session::{LAST_FETCHED_EPOCH, Limits, Session, Verdict, Want};

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

/// What an answer must not contradict. The checksum of a batch covers neither its base offset nor its leader epoch: a bit
/// that flips there on the way would be taken for a hole that compaction left, or for another leader's log.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Where the leader says that what we may read ends; `None` where it does not.
    pub stable_end: Option<Offset>,
    /// The leader's epoch, under which nothing newer can have been written; −1 where it is not sure.
    pub leader_epoch: i32,
    /// The leader epoch of the last batch that we hold, −1 for none.
    pub last_epoch: i32,
    /// Whether this was fetched before: what is odd but may be so (a hole before the last batch, an older epoch) is
    /// believed then. What cannot be so never is.
    pub again: bool,
}

/// Finds in `records` the batches from `position` on that end before `end` (exclusive bound on base offsets, where
/// there is one): whole ones with right checksums, within `bounds`. A partial last batch is left out, as are batches
/// before `position`. What precedes damage is good and is returned with it; of two batches that contradict each other
/// neither is.
///
/// Messages of format v0 or v1 become batches. Where an answer holds both, what it begins with is returned and the rest
/// is left to the next Fetch, so that batches are never copied for the sake of their neighbours.
pub fn slice(records: &Bytes, position: Offset, end: Option<Offset>, bounds: &Bounds) -> Sliced {
    let mut sliced = Sliced::default();
    let mut taking = Taking::new(position, bounds);
    let mut at = 0;
    while let Some(total) = batch::entry_bytes(&records[at..]).filter(|total| *total <= records.len() - at) {
        let start = at;
        if legacy::is_old(&records[start..]) {
            if !taking.is_empty() {
                break;
            }
            at += total;
            if legacy::offset(&records[start..]) >= position || !legacy::crc_matches(&records[start..at]) {
                return converted(&records.slice(start..), position, end, bounds);
            }
            taking.skip(at);
            continue;
        }
        let header = match batch::Header::read(&records[start..]) {
            Ok(header) => header,
            Err(error) => {
                sliced.damage = Some(Damage { offset: taking.now.next, what: error.to_string() });
                break;
            }
        };
        at += total;
        if taking.is_empty() && header.next_offset() <= position {
            // A fetch is not batch-aligned, and brokers may begin a batch early.
            taking.skip(at);
            continue;
        }
        if let Err(damage) = taking.judge(&header) {
            sliced.damage = Some(damage);
            break;
        }
        if end.is_some_and(|end| header.base_offset >= end) {
            sliced.damage = taking.odd_hole(&header);
            sliced.at_end = sliced.damage.is_none();
            break;
        }
        if !batch::crc_matches(&records[start..at]) {
            let what = "its checksum does not match its bytes".to_owned();
            sliced.damage = Some(Damage { offset: header.base_offset, what });
            break;
        }
        taking.take(&header, at);
    }
    if sliced.damage.is_some() {
        taking.confirm(None);
    } else if !sliced.at_end {
        sliced.damage = taking.confirm(records.get(at..));
    }
    let Taking { from, now: Taken { to, next, last_epoch }, .. } = taking;
    if to > from {
        let range = OffsetRange { first: position, next };
        sliced.data = Some(Slice { range, bytes: records.slice(from..to), last_epoch });
    }
    sliced
}

/// Batches being taken, and what makes the last of them doubtful.
struct Taking<'a> {
    bounds: &'a Bounds,
    from: usize,
    now: Taken,
    /// Without the last batch.
    before: Taken,
    /// Whether batches before the position were left out.
    skipped: bool,
    /// What is odd about the last batch, until the next one agrees with it.
    odd: Option<String>,
}

/// How far batches are taken.
#[derive(Clone, Copy)]
struct Taken {
    to: usize,
    next: Offset,
    last_epoch: i32,
}

impl<'a> Taking<'a> {
    fn new(position: Offset, bounds: &'a Bounds) -> Self {
        let now = Taken { to: 0, next: position, last_epoch: bounds.last_epoch };
        Self { bounds, from: 0, now, before: now, skipped: false, odd: None }
    }

    fn is_empty(&self) -> bool {
        self.now.to == self.from
    }

    /// Leaves out everything up to `at`.
    fn skip(&mut self, at: usize) {
        (self.from, self.now.to, self.before.to) = (at, at, at);
        self.skipped = true;
    }

    /// Says what a batch contradicts; one that is taken already is let go where it may as well be that one.
    fn judge(&mut self, header: &batch::Header) -> std::result::Result<(), Damage> {
        let (base, epoch) = (header.base_offset, header.leader_epoch);
        let Taken { next, last_epoch, .. } = self.now;
        let past = self.bounds.stable_end.is_some_and(|end| header.next_offset() > end);
        let newer = self.bounds.leader_epoch >= 0 && epoch > self.bounds.leader_epoch;
        let what = if past {
            let end = self.bounds.stable_end.unwrap_or_default();
            format!("its offsets {base} to {} reach beyond offset {end}, where the leader ends", header.last_offset())
        } else if newer || epoch < -1 {
            format!("its leader epoch {epoch} is none that was before the leader's {}", self.bounds.leader_epoch)
        } else if base < next && !self.is_empty() {
            self.let_go();
            format!("its base offset {base} lies before the batch in front of it ends")
        } else if self.bounds.again {
            return Ok(());
        } else if base < next || (self.skipped && self.is_empty() && base > next) {
            format!("it begins at offset {base}, where offset {next} was asked for")
        } else if epoch < last_epoch {
            self.let_go();
            format!("its leader epoch {epoch} is older than {last_epoch}, that of the batch in front of it")
        } else {
            return Ok(());
        };
        Err(Damage { offset: self.now.next, what })
    }

    /// Says that a batch lies behind a hole, where that is not believed yet.
    fn odd_hole(&self, header: &batch::Header) -> Option<Damage> {
        let (base, next) = (header.base_offset, self.now.next);
        let odd = base > next && !self.bounds.again;
        odd.then(|| Damage {
            offset: next,
            what: format!("it begins at offset {base}, where offset {next} was to come"),
        })
    }

    fn take(&mut self, header: &batch::Header, to: usize) {
        let Taken { last_epoch, .. } = self.now;
        self.odd = self.odd_hole(header).map(|damage| damage.what);
        if last_epoch >= 0 && header.leader_epoch > last_epoch && !self.bounds.again {
            self.odd = Some(format!("its leader epoch {} follows {last_epoch}", header.leader_epoch));
        }
        self.before = self.now;
        self.now = Taken { to, next: header.next_offset(), last_epoch: header.leader_epoch };
    }

    /// Lets go of the last batch.
    fn let_go(&mut self) {
        self.now = self.before;
        self.odd = None;
    }

    /// Compares the last batch with what follows it, `rest`, mostly a partial batch; one that is odd is let go when
    /// nothing follows. Returns what is to be fetched again.
    fn confirm(&mut self, rest: Option<&[u8]>) -> Option<Damage> {
        let follows = rest.and_then(|rest| rest.first_chunk::<8>()).map(|base| Offset::from_be_bytes(*base));
        let what = match follows.filter(|base| *base >= 0) {
            _ if self.is_empty() => return None,
            Some(base) if base < self.now.next => format!("the next batch begins before it ends, at offset {base}"),
            Some(_) => return None,
            None => self.odd.take()?,
        };
        self.let_go();
        Some(Damage { offset: self.now.next, what })
    }
}

/// Makes batches of the messages of format v0 or v1 with which `rest` begins.
fn converted(rest: &Bytes, position: Offset, end: Option<Offset>, bounds: &Bounds) -> Sliced {
    let bound = end.into_iter().chain(bounds.stable_end).min();
    let legacy::Converted { bytes, next, at_end, damage } = legacy::convert(rest, position, bound);
    let damage = damage.map(|(offset, what)| Damage { offset, what });
    let past = bounds.stable_end.filter(|stable| next > *stable || (at_end && end.is_none_or(|end| end > *stable)));
    if let Some(stable) = past {
        let what = format!("a message lies beyond offset {stable}, where the leader ends");
        let damage = damage.or(Some(Damage { offset: position, what }));
        let data = (!bytes.is_empty() && next <= stable).then(|| old(bytes, position, next));
        return Sliced { data, at_end: false, damage };
    }
    let data = (!bytes.is_empty()).then(|| old(bytes, position, next));
    Sliced { data, at_end, damage }
}

/// What was made of messages from `first` on, before `next`: they carry no leader epoch.
fn old(bytes: Bytes, first: Offset, next: Offset) -> Slice {
    Slice { range: OffsetRange { first, next }, bytes, last_epoch: -1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches of the given ranges; empty ones, which brokers serve like any other.
    fn batches(ranges: &[(Offset, Offset)]) -> Bytes {
        let each = ranges.iter().map(|(first, next)| batch::gap(OffsetRange { first: *first, next: *next }, 5));
        each.flat_map(|bytes| bytes.to_vec()).collect()
    }

    /// Nothing is known, and what is odd has come before.
    const ANY: Bounds = Bounds { stable_end: None, leader_epoch: -1, last_epoch: -1, again: true };

    fn slice(records: &Bytes, position: Offset, end: Option<Offset>) -> Sliced {
        super::slice(records, position, end, &ANY)
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
        assert_eq!(range(&back), None, "either may be the wrong one");
        assert!(matches!(back.damage, Some(Damage { offset: 10, .. })));
        let sliced = slice(&batches(&[(0, 10), (10, 20), (15, 25)]), 0, None);
        assert_eq!(range(&sliced), Some((0, 10, 61)));
        assert!(matches!(sliced.damage, Some(Damage { offset: 10, .. })));
        let partial = batches(&[(0, 10), (10, 20), (15, 25)]).slice(..2 * 61 + 8);
        assert_eq!(range(&slice(&partial, 0, None)), Some((0, 10, 61)), "what is cut off tells its offset too");
    }

    /// What is known of a log whose leader of epoch 5 ends at offset 1030.
    const LEADER: Bounds = Bounds { stable_end: Some(1030), leader_epoch: 5, last_epoch: 5, again: false };

    /// Flips each bit before the checksum in each batch of the log: what is taken must be as it was.
    fn flipped(ranges: &[(Offset, Offset)], end: Option<Offset>) {
        let sound = batches(ranges);
        for at in 0..ranges.len() {
            for bit in (0..17 * 8).map(|bit| at * 61 * 8 + bit) {
                let mut records = sound.to_vec();
                records[bit / 8] ^= 1 << (bit % 8);
                let sliced = super::slice(&records.into(), 1000, end, &LEADER);
                assert!(!sliced.at_end, "bit {bit}: {sliced:?}");
                let Some(data) = sliced.data else { continue };
                let taken = data.bytes.len() / 61;
                assert!(data.bytes[..] == sound[..taken * 61], "bit {bit} was taken: {:?}", data.range);
                assert_eq!(data.range.next, ranges[taken - 1].1, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_bit_that_flips_outside_the_checksum_moves_no_position() {
        flipped(&[(1000, 1010), (1010, 1020), (1020, 1030)], None);
        flipped(&[(1000, 1010), (1010, 1020)], None);
        flipped(&[(1000, 1010)], None);
        flipped(&[(1000, 1010)], Some(1020));
    }

    #[test]
    fn what_is_odd_but_sound_is_believed_when_it_comes_again() {
        let again = Bounds { again: true, ..LEADER };
        let older = Bounds { last_epoch: 5, leader_epoch: 7, ..LEADER };
        let newer = Bounds { last_epoch: 3, ..LEADER };
        for (ranges, bounds) in [
            (&[(1000, 1010), (1015, 1030)], LEADER),
            (&[(990, 1010), (1010, 1030)], LEADER),
            (&[(990, 1000), (1010, 1030)], LEADER),
            (&[(1000, 1010), (1010, 1030)], Bounds { last_epoch: 6, ..older }),
        ] {
            let records = batches(ranges);
            let first = super::slice(&records, 1000, None, &bounds);
            assert!(first.damage.is_some() && first.data.is_none_or(|data| data.range.next <= 1010), "{ranges:?}");
            let second = super::slice(&records, 1000, None, &Bounds { again: true, ..bounds });
            assert_eq!((second.damage, second.data.map(|data| data.range.next)), (None, Some(1030)), "{ranges:?}");
        }
        let records = batches(&[(1005, 1010), (1012, 1020), (1020, 1030)]);
        let sliced = super::slice(&records, 1000, None, &newer);
        assert_eq!((sliced.damage, sliced.data.map(|data| data.range.next)), (None, Some(1030)), "neighbours agree");
        for bounds in [Bounds { stable_end: Some(1029), ..again }, Bounds { leader_epoch: 4, ..again }] {
            assert!(super::slice(&records, 1000, None, &bounds).damage.is_some(), "what cannot be is never believed");
        }
    }

    #[test]
    fn a_message_of_an_old_format_beyond_the_end_of_the_leader_is_damage() {
        let bounds = Bounds { stable_end: Some(12), ..ANY };
        let sound = super::slice(&Bytes::from_static(OLD), 0, None, &bounds);
        assert_eq!((sound.data.map(|data| data.range.next), sound.damage), (Some(12), None));
        let mut far = OLD.to_vec();
        far[1] ^= 1;
        let sliced = super::slice(&far.into(), 0, None, &bounds);
        assert!(sliced.damage.is_some() && sliced.data.is_none_or(|data| data.range.next <= 12));
        let sliced = super::slice(&Bytes::from_static(OLD), 0, Some(12), &bounds);
        assert_eq!(sliced.damage, None);
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
