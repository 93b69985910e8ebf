//! Random histories of interleaved producers: what is rebuilt is what was, and nothing is claimed that was not so.

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::batch::transactions::OpenTransactions;
use crate::batch::{Compression, records};
use crate::record::{AbortedTransaction, TopicId};

fn partition() -> Partition {
    Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 }
}

/// A step of a history.
#[derive(Debug, Clone, Copy)]
enum Step {
    Plain,
    Data { producer: usize },
    End { producer: usize, abort: bool, by_timeout: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Plain),
        4 => (0..3_usize).prop_map(|producer| Step::Data { producer }),
        3 => (0..3_usize, any::<bool>(), any::<bool>())
            .prop_map(|(producer, abort, by_timeout)| Step::End { producer, abort, by_timeout }),
    ]
}

/// A transaction as it was.
#[derive(Debug, Clone, Copy)]
struct Truth {
    producer_id: i64,
    first: Offset,
    /// `None` where nobody has ended it: a history ends with that, an archive does not hold it.
    marker: Option<Offset>,
    aborted: bool,
}

#[derive(Debug, Default)]
struct History {
    batches: Vec<(Header, Bytes)>,
    transactions: Vec<Truth>,
}

impl History {
    /// Plays the steps; producer 2 is of transaction version 2, where each transaction has an epoch of its own.
    fn of(steps: &[Step]) -> Self {
        let mut history = Self::default();
        let mut open: [Option<usize>; 3] = [None; 3];
        let mut epochs = [0_i16; 3];
        let mut next = 0;
        for step in steps {
            match *step {
                Step::Plain => next = history.data(next, -1, -1),
                Step::Data { producer } => {
                    let producer_id = producer as i64 + 10;
                    open[producer] = open[producer].or_else(|| {
                        let truth = Truth { producer_id, first: next, marker: None, aborted: false };
                        history.transactions.push(truth);
                        Some(history.transactions.len() - 1)
                    });
                    next = history.data(next, producer_id, epochs[producer]);
                }
                Step::End { producer, abort, by_timeout } => {
                    let Some(at) = open[producer].take() else { continue };
                    epochs[producer] += i16::from(producer == 2 || (abort && by_timeout));
                    let truth = &mut history.transactions[at];
                    (truth.marker, truth.aborted) = (Some(next), abort);
                    let (header, bytes) = control(next, producer as i64 + 10, epochs[producer], !abort);
                    history.batches.push((header, bytes));
                    next += 1;
                }
            }
        }
        history
    }

    fn data(&mut self, next: Offset, producer_id: i64, producer_epoch: i16) -> Offset {
        let attributes = if producer_id >= 0 { 0x10 } else { 0 };
        let template = Header { attributes, producer_id, producer_epoch, ..records::template(next) };
        let record = |offset| records::Record {
            offset,
            timestamp: Timestamp(1000 + offset),
            key: None,
            value: Some(Bytes::from_static(b"value")),
            headers: Vec::new(),
        };
        let bytes = records::encode(&template, &[record(next), record(next + 1)], Compression::None).expect("it fits");
        self.batches.push((Header::read(&bytes).expect("sound"), bytes));
        next + 2
    }

    fn truth(&self, producer_id: i64, offset: Offset) -> Option<&Truth> {
        let of = |truth: &&Truth| {
            truth.producer_id == producer_id
                && truth.first <= offset
                && truth.marker.is_none_or(|marker| offset < marker)
        };
        self.transactions.iter().find(of)
    }

    /// Leaves out batches, as the log cleaner does between two captures.
    fn without(mut self, holes: &[bool]) -> Self {
        let mut holes = holes.iter().copied().chain(std::iter::repeat(false));
        self.batches.retain(|_| !holes.next().unwrap_or(false));
        self
    }

    /// Cuts the batches into segments, and leaves out what had not been decided when it was captured.
    fn segments(&self, sizes: &[usize]) -> Vec<Segment> {
        let stable = self.transactions.iter().filter(|truth| truth.marker.is_none()).map(|truth| truth.first).min();
        let held = self.batches.partition_point(|(header, _)| stable.is_none_or(|end| header.base_offset < end));
        let (mut at, mut first, mut segments) = (0, 0, Vec::new());
        for size in sizes.iter().cycle() {
            if at == held {
                return segments;
            }
            let batches = at..held.min(at + size);
            at = batches.end;
            let next = self.batches[at - 1].0.next_offset();
            segments.push(Segment { batches, range: OffsetRange { first, next } });
            first = next;
        }
        segments
    }

    /// Returns the log of a segment.
    fn log(&self, segment: &Segment) -> Bytes {
        self.batches[segment.batches.clone()].iter().flat_map(|(_, bytes)| bytes.to_vec()).collect()
    }

    /// Returns what capture writes: each segment with one answer of the broker.
    fn captured(&self, segments: &[Segment]) -> Vec<Sidecar> {
        let mut open = OpenTransactions::default();
        let mut sidecars = Vec::new();
        for (n, segment) in segments.iter().enumerate() {
            let touches = |truth: &&Truth| {
                truth.aborted
                    && truth.first < segment.range.next
                    && truth.marker.is_none_or(|marker| marker >= segment.range.first)
            };
            let told = self.transactions.iter().filter(touches);
            let told: Vec<_> =
                told.map(|truth| AbortedTransaction { producer_id: truth.producer_id, first: truth.first }).collect();
            let mut builder = Builder::new(&partition(), segment.range.first, kind(n), open);
            let log = self.log(segment);
            assert_eq!(builder.append(&log, &told, u64::MAX).expect("sound"), log.len());
            let (sidecar, going_on) = builder.seal();
            sidecars.push(sidecar);
            open = going_on;
        }
        sidecars
    }

    /// Returns sidecars that tell the whole truth, also where a marker has gone.
    fn truthful(&self, segments: &[Segment]) -> Vec<Sidecar> {
        let one = |(n, segment): (usize, &Segment)| {
            let touching = self.transactions.iter().filter(|truth| {
                truth.aborted
                    && truth.first < segment.range.next
                    && truth.marker.is_some_and(|marker| marker >= segment.range.first)
            });
            let entry = |truth: &Truth| Transaction {
                producer_id: truth.producer_id,
                first: truth.first,
                last: truth.marker.filter(|marker| *marker < segment.range.next),
            };
            let beyond = Beyond { aborted: touching.map(entry).collect(), ..beyond(n) };
            let mut rebuild = Rebuild::new(&partition(), segment.range.first, beyond);
            rebuild.append(&self.log(segment)).expect("sound");
            rebuild.finish()
        };
        segments.iter().enumerate().map(one).collect()
    }
}

struct Segment {
    batches: Range<usize>,
    range: OffsetRange,
}

fn kind(n: usize) -> Kind {
    if n == 0 { Kind::First } else { Kind::Data }
}

fn beyond(n: usize) -> Beyond {
    let (kind, sealed_after) = (kind(n), Timestamp::NONE);
    Beyond {
        kind,
        aborted: Vec::new(),
        undecided: Vec::new(),
        sealed_at: None,
        sealed_after,
        note: None,
        stages: Vec::new(),
        left_out: Vec::new(),
    }
}

fn control(offset: Offset, producer_id: i64, producer_epoch: i16, commit: bool) -> (Header, Bytes) {
    let header = Header { attributes: 0x30, producer_id, producer_epoch, ..records::template(offset) };
    let key = Some(Bytes::from(vec![0, 0, 0, u8::from(commit)]));
    let value = Some(Bytes::from_static(&[0; 6]));
    let record = records::Record { offset, timestamp: Timestamp(1), key, value, headers: Vec::new() };
    let bytes = records::encode(&header, &[record], Compression::None).expect("it fits");
    (Header::read(&bytes).expect("sound"), bytes)
}

/// Rebuilds the segments whose sidecars are not `kept`.
fn rebuild(history: &History, segments: &[Segment], sidecars: &[Sidecar], kept: &[bool]) -> Vec<Sidecar> {
    let is_kept = |n: usize| kept.get(n).copied().unwrap_or(false);
    let mut decider = Decider::default();
    for (n, segment) in segments.iter().enumerate() {
        let known = if is_kept(n) { Known::Sidecar(&sidecars[n]) } else { Known::Nothing };
        decider.segment(segment.range, known);
        for (header, bytes) in &history.batches[segment.batches.clone()] {
            decider.batch(header, bytes, known).expect("sound");
        }
    }
    let mut transactions = decider.finish();
    let one = |(n, segment): (usize, &Segment)| {
        let (aborted, undecided) = transactions.of(segment.range);
        let mut rebuild = Rebuild::new(&partition(), segment.range.first, Beyond { aborted, undecided, ..beyond(n) });
        rebuild.append(&history.log(segment)).expect("sound");
        rebuild.finish()
    };
    let all: Vec<_> = segments.iter().enumerate().map(one).collect();
    let pairs = all.into_iter().enumerate();
    pairs.map(|(n, rebuilt)| if is_kept(n) { sidecars[n].clone() } else { rebuilt }).collect()
}

/// Leaves aside what cannot be known again, and in which order transactions stand.
fn told(sidecar: &Sidecar) -> Sidecar {
    let mut told = Sidecar { sealed_at: Timestamp::NONE, note: String::new(), ..sidecar.clone() };
    told.aborted.sort_unstable_by_key(|entry| (entry.first, entry.producer_id, entry.last));
    told
}

proptest! {
    /// Without holes everything is as it was, but for transactions whose marker lies beyond the archive's end.
    #[test]
    fn without_holes_every_sidecar_is_rebuilt_as_it_was(
        steps in prop::collection::vec(step(), 1..60),
        sizes in prop::collection::vec(1_usize..9, 1..4),
        kept in prop::collection::vec(any::<bool>(), 0..12),
    ) {
        let history = History::of(&steps);
        let segments = history.segments(&sizes);
        let captured = history.captured(&segments);
        for (rebuilt, was) in rebuild(&history, &segments, &captured, &kept).iter().zip(&captured) {
            if rebuilt.undecided.is_empty() {
                prop_assert_eq!(told(rebuilt), told(was));
            }
            let end = segments.last().map_or(0, |last| last.range.next);
            for undecided in &rebuilt.undecided {
                let truth = history.truth(undecided.producer_id, undecided.first).expect("there was one");
                prop_assert!(truth.marker.is_some_and(|marker| marker >= end), "{:?} of {:?}", undecided, truth);
            }
        }
    }

    /// With holes, wherever they are, nothing is claimed that was not so.
    #[test]
    fn with_holes_nothing_is_claimed_that_was_not_so(
        steps in prop::collection::vec(step(), 1..80),
        sizes in prop::collection::vec(1_usize..9, 1..4),
        kept in prop::collection::vec(prop::bool::weighted(0.3), 0..20),
        holes in prop::collection::vec(prop::bool::weighted(0.25), 0..80),
    ) {
        let history = History::of(&steps).without(&holes);
        let segments = history.segments(&sizes);
        let sidecars = history.truthful(&segments);
        let rebuilt = rebuild(&history, &segments, &sidecars, &kept);
        for (segment, sidecar) in segments.iter().zip(&rebuilt) {
            for (header, _) in &history.batches[segment.batches.clone()] {
                let (producer_id, offset) = (header.producer_id, header.base_offset);
                if header.is_control() || !header.is_transactional() || sidecar.is_undecided(producer_id, offset) {
                    continue;
                }
                let truth = history.truth(producer_id, offset).expect("there was one");
                prop_assert_eq!(sidecar.is_aborted(producer_id, offset), truth.aborted, "{} {}", producer_id, offset);
            }
        }
    }
}

/// Returns the sidecar of the only segment of such batches.
fn alone(batches: &[(Header, Bytes)]) -> Sidecar {
    let history = History { batches: batches.to_vec(), transactions: Vec::new() };
    rebuild(&history, &history.segments(&[usize::MAX]), &[], &[]).remove(0)
}

fn data(offset: Offset, producer_id: i64, epoch: i16) -> (Header, Bytes) {
    let mut history = History::default();
    let _ = history.data(offset, producer_id, epoch);
    history.batches.remove(0)
}

fn entry(first: Offset, last: Option<Offset>) -> Transaction {
    Transaction { producer_id: 7, first, last }
}

#[test]
fn an_abort_right_behind_its_data_is_proven_and_one_behind_a_hole_is_not() {
    let sidecar = alone(&[data(0, 7, 0), data(2, -1, -1), control(4, 7, 0, false)]);
    assert_eq!((sidecar.aborted, sidecar.undecided, sidecar.records), (vec![entry(0, Some(4))], vec![], 2));
    let sidecar = alone(&[data(0, 7, 0), data(3, -1, -1), control(5, 7, 0, false)]);
    assert_eq!((sidecar.aborted, sidecar.undecided, sidecar.records), (vec![], vec![entry(0, Some(5))], 2));
}

#[test]
fn a_marker_behind_a_hole_is_proven_only_where_each_transaction_has_an_epoch_of_its_own() {
    let sidecar = alone(&[data(0, 7, 3), control(9, 7, 4, true)]);
    assert_eq!((sidecar.undecided, sidecar.records, sidecar.first_record), (vec![entry(0, Some(9))], 0, None));
    let known = [data(0, 7, 2), control(2, 7, 3, true)];
    let sidecar = alone(&[&known[..], &[data(3, 7, 3), control(9, 7, 4, true)]].concat());
    assert_eq!((sidecar.undecided, sidecar.records), (vec![], 4));
    let sidecar = alone(&[&known[..], &[data(3, 7, 3), control(9, 7, 4, false)]].concat());
    assert_eq!((sidecar.undecided, sidecar.aborted), (vec![], vec![entry(3, Some(9))]));
    let sidecar = alone(&[&known[..], &[data(3, 7, 3), control(9, 7, 5, true)]].concat());
    assert_eq!(sidecar.undecided, [entry(3, Some(9))], "of another transaction");
}

#[test]
fn a_transaction_without_a_marker_is_undecided_and_a_gap_hides_one() {
    let gap = batch::gap(OffsetRange { first: 2, next: 5 }, -1);
    let gap = (Header::read(&gap).expect("sound"), gap);
    let sidecar = alone(&[data(0, 7, 0), gap.clone(), control(5, 7, 0, false)]);
    assert_eq!((sidecar.kind, sidecar.undecided), (Kind::First, vec![entry(0, Some(5))]));
    assert_eq!(alone(&[data(0, 7, 0), data(2, -1, -1)]).undecided, [entry(0, None)]);
    assert_eq!((alone(std::slice::from_ref(&gap)).kind, alone(&[gap]).records), (Kind::Gap, 0));
}

#[test]
fn a_row_that_says_that_nothing_was_aborted_decides() {
    let batches = [data(0, 7, 0), data(2, -1, -1)];
    let mut decider = Decider::default();
    for (header, bytes) in &batches {
        decider.batch(header, bytes, Known::NoneAborted).expect("sound");
    }
    assert!(!decider.is_open_before(4));
    assert_eq!(decider.finish().of(OffsetRange { first: 0, next: 4 }), (vec![], vec![]));
}

#[test]
fn what_the_source_tells_decides() {
    let mut decider = Decider::default();
    for (header, bytes) in [data(0, 7, 0), data(2, 8, 0), data(4, 9, 0)] {
        decider.batch(&header, &bytes, Known::Nothing).expect("sound");
    }
    let mut transactions = decider.finish();
    assert_eq!(transactions.undecided().map(|entry| entry.first).collect::<Vec<_>>(), [0, 2, 4]);
    transactions.tell(7, 0, true);
    transactions.tell(8, 2, false);
    let (aborted, undecided) = transactions.of(OffsetRange { first: 0, next: 6 });
    assert_eq!((aborted, undecided[0].producer_id, undecided.len()), (vec![entry(0, None)], 9, 1));
}
