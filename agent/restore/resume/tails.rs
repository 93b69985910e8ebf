//! What is in the targets behind the last journal of a restore that is counted. Pure.

use std::collections::{BTreeMap, HashMap};

use super::{acknowledged, check_pairs, covers, foreign, lost, newest, replaced};
use crate::batch::Header;
use crate::batch::outgoing::Identity;
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange, Partition};
use crate::restore::map::{OffsetMap, Pair};
use crate::restore::state::{Found, Landed, Seen, Start};

/// Sequences of a producer: Kafka begins again at 0 behind the greatest number.
const SEQUENCES: Offset = 1 << 31;

/// What is in the targets behind the last journal.
pub(in crate::restore) struct Tails<'a> {
    /// Of each target where it was begun with, how far it had come by the last journal, and what is read of it.
    tails: BTreeMap<&'a Partition, (&'a Start, Option<&'a Landed>, Tail<'a>)>,
    /// Records that stages had failed at by then.
    pub(super) left_out: u64,
}

impl<'a> Tails<'a> {
    /// Makes them, of which nothing is read yet; `ours` are the producers of this restore, and the map is what the journals
    /// say.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when what was kept cannot be read; [`Kind::Failed`] when there are other targets.
    pub(in crate::restore) fn new(
        seen: &'a Seen,
        pairs: &[Pair],
        logs: &HashMap<Partition, OffsetRange>,
        (ours, map): (Vec<i64>, &OffsetMap),
    ) -> Result<Self> {
        let attempt = newest(seen)?;
        let begun = attempt.starts.iter().map(|start| (&start.pair, start)).collect();
        check_pairs(pairs, &begun)?;
        let journal = seen.resumed_from();
        let journalled: BTreeMap<&Pair, &Landed> =
            journal.iter().flat_map(|journal| &journal.landed).map(|landed| (&landed.pair, landed)).collect();
        let acknowledged = acknowledged(map, attempt);
        let tail = |(pair, start): (&'a Pair, &'a Start)| {
            let landed = journalled.get(pair).copied();
            let base = landed.map_or(start.target_next, |landed| landed.target_next);
            let tail = Tail {
                target: &pair.target,
                own: Identity { producer_id: attempt.producer_id, epoch: attempt.epoch },
                ours: ours.clone(),
                began: start.target_next,
                base,
                acknowledged: acknowledged.get(&pair.target).copied(),
                log: logs.get(&pair.target).copied().unwrap_or(OffsetRange { first: 0, next: 0 }),
                landed: base,
                next: base,
                marker: None,
            };
            (&pair.target, (start, landed, tail))
        };
        let left_out = journal.map_or(attempt.left_out, |journal| journal.left_out);
        Ok(Self { tails: begun.into_iter().map(tail).collect(), left_out })
    }

    /// Returns what is to be read of the targets.
    pub(in crate::restore) fn ranges(&self) -> HashMap<Partition, OffsetRange> {
        let range = |tail: &Tail<'_>| {
            let first = tail.acknowledged.map_or(tail.base, |at| tail.base.min(at));
            OffsetRange { first: first.max(tail.log.first), next: tail.log.next }
        };
        self.tails.iter().map(|(target, (_, _, tail))| ((*target).clone(), range(tail))).collect()
    }

    /// Looks at a batch of a target; `None` is one of an old format.
    ///
    /// # Errors
    /// [`Kind::Failed`] when it is somebody else's.
    pub(in crate::restore) fn see(&mut self, target: &Partition, header: Option<&Header>) -> Result<bool> {
        let Some((_, _, tail)) = self.tails.get_mut(target) else { return Ok(false) };
        match header {
            Some(header) => tail.see(header).map(|()| true),
            None => Err(foreign(target, "batches of an old format")),
        }
    }

    /// Returns where the restore goes on, when all was looked at.
    ///
    /// # Errors
    /// [`Kind::Failed`] when a target does not tell what has landed.
    pub(in crate::restore) fn starts(&self, is_fenced: bool) -> Result<Vec<Start>> {
        let start = |(start, journalled, tail): &(&Start, Option<&Landed>, Tail<'_>)| {
            Ok(go_on(start, *journalled, tail.landed(is_fenced)?, tail.log.next))
        };
        self.tails.values().map(start).collect()
    }
}

/// Makes the start of a pair of which records of an attempt that began with `start` have landed up to `landed`.
fn go_on(start: &Start, journalled: Option<&Landed>, landed: Offset, target_next: Offset) -> Start {
    let base = journalled.map_or(start.target_next, |landed| landed.target_next);
    let behind = (landed > base).then(|| Found { target: base, records: (landed - base).unsigned_abs() });
    match journalled {
        None => Start { target_next, found: start.found.iter().copied().chain(behind).collect(), ..start.clone() },
        Some(at) => {
            let before: u64 = start.found.iter().map(|found| found.records).sum();
            Start {
                pair: start.pair.clone(),
                source_first: at.source_next,
                target_next,
                records: start.records + before + at.sequences,
                bytes: at.bytes,
                found: behind.into_iter().collect(),
            }
        }
    }
}

/// What is in a target partition behind the last journal.
struct Tail<'a> {
    target: &'a Partition,
    /// Who sent.
    own: Identity,
    /// Who has sent, or fenced, for this restore.
    ours: Vec<i64>,
    /// Where sequence 0 is.
    began: Offset,
    /// From where on it is not known what it holds.
    base: Offset,
    /// The last record that is known to have been acknowledged: it is looked at too.
    acknowledged: Option<Offset>,
    /// What the log holds.
    log: OffsetRange,
    /// The end of what has landed.
    landed: Offset,
    /// The end of what was told.
    next: Offset,
    /// The first offset that is missing before a marker, or `None` where no marker was seen.
    marker: Option<Option<Offset>>,
}

impl Tail<'_> {
    /// Looks at a batch.
    fn see(&mut self, header: &Header) -> Result<()> {
        let is_own = (header.producer_id, header.producer_epoch) == (self.own.producer_id, self.own.epoch);
        if let Some(at) = self.acknowledged.filter(|at| covers(header, *at)) {
            // What lies before where the attempt began is of an earlier one.
            let is_earlier = at < self.began && self.ours.contains(&header.producer_id);
            let is_of_the_restore = !header.is_control() && (is_own || is_earlier);
            if !is_of_the_restore {
                return Err(replaced(self.target, at, header));
            }
        }
        if header.next_offset() <= self.base {
            return Ok(());
        }
        let offset = header.base_offset;
        if header.is_control() {
            if !self.ours.contains(&header.producer_id) {
                return Err(self.foreign(header, "a marker of"));
            }
            let missing = (offset > self.next).then_some(self.next);
            self.marker = Some(self.marker.flatten().or(missing));
            self.next = header.next_offset();
            return Ok(());
        }
        if !is_own {
            return Err(self.foreign(header, "records of"));
        }
        // Offsets that are missing before it are its own too, as long as this holds.
        if Offset::from(header.base_sequence) != (offset - self.began).rem_euclid(SEQUENCES) || self.marker.is_some() {
            return Err(foreign(self.target, "records that are not there any more").with("before offset", offset));
        }
        (self.landed, self.next) = (header.next_offset(), header.next_offset());
        Ok(())
    }

    /// Returns the end of what has landed, when all up to the log's end was looked at.
    fn landed(&self, is_fenced: bool) -> Result<Offset> {
        let log_end = self.log.next;
        let acknowledged = self.acknowledged.map_or(self.base, |at| self.base.max(at + 1));
        let is_lost = log_end < acknowledged || (is_fenced && self.marker.is_none() && self.next == log_end);
        if is_lost {
            return Err(lost(self.target, log_end, acknowledged));
        }
        let missing = self.marker.flatten().or((self.next < log_end).then_some(self.next));
        match missing {
            None => Ok(self.landed),
            Some(missing) => Err(Error::failed(format!(
                "{} does not tell any more how much of the restore has landed: offsets are missing there",
                self.target
            ))
            .with("(from offset", missing)
            .hint(
                "retention, compaction or `kafka-delete-records` has taken what was sent last; nothing is sent again: restore \
                 to an empty target under another restore_id",
            )),
        }
    }

    fn foreign(&self, header: &Header, what: &str) -> Error {
        foreign(self.target, &format!("{what} producer {}", header.producer_id)).with("offset", header.base_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::records::template;
    use crate::record::TopicId;

    const OWN: Identity = Identity { producer_id: 7, epoch: 4 };

    fn target() -> Partition {
        Partition { topic: "orders-restored".into(), topic_id: TopicId::NONE, index: 3 }
    }

    /// A target that ended at 11 when the attempt began, and whose log is `[first, next)` now.
    fn tail(target: &Partition, (base, first, next): (Offset, Offset, Offset)) -> Tail<'_> {
        Tail {
            target,
            own: OWN,
            ours: vec![7],
            began: 11,
            base,
            acknowledged: (base > 11).then_some(base - 1),
            log: OffsetRange { first, next },
            landed: base,
            next: base,
            marker: None,
        }
    }

    /// A batch of `[first, next)` as the attempt sends it, where nothing else has come between.
    fn own(first: Offset, next: Offset) -> Header {
        Header {
            last_offset_delta: (next - first - 1) as i32,
            producer_id: 7,
            producer_epoch: 4,
            base_sequence: (first - 11).rem_euclid(SEQUENCES) as i32,
            count: (next - first) as i32,
            ..template(first)
        }
    }

    fn marker(offset: Offset, producer_id: i64) -> Header {
        Header { attributes: 0x30, producer_id, producer_epoch: 6, count: 1, ..template(offset) }
    }

    fn landed(at: (Offset, Offset, Offset), headers: &[Header]) -> Result<Offset> {
        let target = target();
        let mut tail = tail(&target, at);
        headers.iter().try_for_each(|header| tail.see(header))?;
        tail.landed(true)
    }

    #[test]
    fn what_the_producer_sent_last_has_landed_and_all_before_it() {
        let at = |base, next| (base, 0, next);
        assert_eq!(landed(at(11, 12), &[marker(11, 7)]).expect("nothing has"), 11);
        assert_eq!(landed(at(11, 32), &[own(11, 16), own(16, 31), marker(31, 7)]).expect("it tells"), 31);
        // Behind a journal; the batch before it is told whole.
        assert_eq!(landed(at(16, 32), &[own(11, 16), own(16, 31), marker(31, 7)]).expect("it tells"), 31);
        let two = [own(11, 31), marker(31, 7), marker(32, 7)];
        assert_eq!(landed(at(11, 33), &two).expect("a start that died has fenced too"), 31);
        // Compaction and retention take what lies before; sequences begin again behind the greatest.
        assert_eq!(landed((11, 25, 32), &[own(25, 31), marker(31, 7)]).expect("it tells"), 31);
        let far = 11 + SEQUENCES;
        assert_eq!(own(far + 5, far + 9).base_sequence, 5);
        assert_eq!(landed(at(far, far + 10), &[own(far + 5, far + 9), marker(far + 9, 7)]).expect("it tells"), far + 9);
    }

    #[test]
    fn whoever_else_has_written_is_named_with_the_offset() {
        let fails = |headers: &[Header]| {
            let error = landed((11, 0, 40), headers).expect_err("somebody else has written").to_string();
            assert!(error.contains("somebody else has written to orders-restored-3"), "{error}");
            error
        };
        let other = Header { producer_id: 9, ..own(16, 20) };
        assert!(fails(&[own(11, 16), other]).contains("records of producer 9 (offset 16)"));
        let plain = Header { producer_id: -1, base_sequence: -1, ..own(16, 20) };
        assert!(fails(&[own(11, 16), plain]).contains("producer -1"));
        assert!(fails(&[own(11, 16), marker(16, 9)]).contains("a marker of producer 9 (offset 16)"));
        // One that is gone by now: what came behind it is a record too far.
        let behind = Header { base_sequence: 5, ..own(17, 20) };
        assert!(fails(&[own(11, 16), behind]).contains("(before offset 17"));
        assert!(fails(&[marker(11, 7), own(12, 16)]).contains("(before offset 12"));
    }

    #[test]
    fn a_target_that_does_not_tell_what_has_landed_is_never_guessed() {
        let untold = |at, headers: &[Header], from: &str| {
            let error = landed(at, headers).expect_err("it does not tell").to_string();
            assert!(error.contains("does not tell any more") && error.contains(from), "{error}");
        };
        untold((11, 31, 32), &[marker(31, 7)], "(from offset 11");
        untold((11, 32, 32), &[], "(from offset 11");
        untold((11, 0, 40), &[own(11, 16), marker(20, 7), marker(39, 7)], "(from offset 16");
        untold((11, 0, 40), &[own(11, 16), marker(16, 7)], "(from offset 17");
        for (at, headers) in [((31, 0, 20), &[][..]), ((31, 0, 31), &[]), ((11, 0, 20), &[own(11, 20)])] {
            let error = landed(at, headers).expect_err("it was cut off").to_string();
            assert!(error.contains("has lost records that it had acknowledged"), "{error}");
        }
    }

    #[test]
    fn a_tail_that_was_cut_off_is_not_hidden_by_the_markers_behind_the_cut() {
        // Before 31 all had been acknowledged; the log was cut, and two starts have fenced since.
        for cut in [29, 20, 11] {
            let own = (cut > 11).then(|| own(11, cut));
            let markers = (cut..33).map(|offset| marker(offset, 7));
            let headers: Vec<Header> = own.into_iter().chain(markers).collect();
            let error = landed((31, 0, 33), &headers).expect_err("it was cut off").to_string();
            assert!(
                error.contains("has lost records that it had acknowledged (offset 30, there now a marker"),
                "{error}"
            );
        }
        let other = Header { producer_id: 9, ..own(25, 31) };
        let error = landed((31, 0, 32), &[own(11, 25), other, marker(31, 7)]).expect_err("another's").to_string();
        assert!(error.contains("(offset 30, there now records of producer 9)"), "{error}");
        assert_eq!(landed((31, 0, 33), &[own(25, 31), marker(31, 7), marker(32, 7)]).expect("it is there"), 31);
        // Where it was deleted or compacted away nobody can tell, and nothing says that it was lost.
        assert_eq!(landed((31, 31, 32), &[marker(31, 7)]).expect("it tells"), 31);
        assert_eq!(landed((31, 0, 32), &[own(11, 20), marker(31, 7)]).expect("it tells"), 31);
    }

    #[test]
    fn what_an_earlier_attempt_sent_last_is_looked_for_too() {
        let target = target();
        let at = |headers: &[Header]| {
            let mut tail = Tail { acknowledged: Some(8), ..tail(&target, (11, 0, 13)) };
            headers.iter().try_for_each(|header| tail.see(header))?;
            tail.landed(true)
        };
        let earlier = Header { producer_epoch: 2, ..own(5, 9) };
        let markers = [9, 10, 11, 12].map(|offset| marker(offset, 7));
        assert_eq!(at(&[&[earlier], &markers[..]].concat()).expect("it is there"), 11);
        let other = Header { producer_id: 9, ..earlier };
        let error = at(&[&[other], &markers[..]].concat()).expect_err("another's").to_string();
        assert!(error.contains("(offset 8, there now records of producer 9)"), "{error}");
        let error = at(&[&[Header { last_offset_delta: 2, ..earlier }, marker(8, 7)], &markers[..]].concat());
        assert!(error.expect_err("cut off").to_string().contains("(offset 8, there now a marker"));
    }

    #[test]
    fn a_record_that_the_map_leads_to_is_never_sent_again() {
        // Acknowledged up to 40, though no cut goes through it behind 31.
        let target = target();
        let mut tail = Tail { acknowledged: Some(40), ..tail(&target, (31, 0, 36)) };
        [own(11, 31), marker(31, 7)].iter().try_for_each(|header| tail.see(header)).expect("its own");
        let error = tail.landed(true).expect_err("it was cut off").to_string();
        assert!(error.contains("acknowledged before 41"), "{error}");
    }
}
