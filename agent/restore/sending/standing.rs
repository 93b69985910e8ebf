//! How far a source partition has come in each of its targets, as a later process can go on from it. Pure.
//!
//! Of each target it is a cut through both: what is made of the source offsets before it, and nothing else, is in the
//! target before it. Chunks end with such a cut where nothing waits to be merged; what landed behind is found again by
//! counting, whatever else had come.

use std::collections::VecDeque;

use super::fitting::{Lane, Target};
use crate::record::{LeftOut, Offset};
use crate::restore::state::Landed;

/// How far a source partition has come.
#[derive(Debug)]
pub(super) struct Standing {
    targets: Vec<InTarget>,
    /// What stages failed at that a later process would meet again: the first offset, and how many records.
    left_out: VecDeque<(Offset, u64)>,
    /// How many records they failed at before that.
    left_out_before: u64,
}

/// How far it has come in one target.
#[derive(Debug, Clone, Copy)]
struct InTarget {
    /// Where the target ended when this process began.
    began: Offset,
    /// Everything before this source offset had landed then.
    from: Offset,
    /// The end of what has landed of the chunks that are done, and its bytes.
    end: Offset,
    bytes: u64,
    cut: Option<Cut>,
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    source: Offset,
    target: Offset,
    bytes: u64,
}

/// What of one chunk has landed in one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived {
    /// The number of the target.
    pub(super) target: usize,
    /// The offset behind it; `None` where it was there before.
    pub(super) end: Option<Offset>,
    /// Bytes of its batches.
    pub(super) bytes: u64,
}

impl Standing {
    /// Begins; `began` are the ends of the targets.
    pub(super) fn new(lane: &Lane, began: impl Fn(usize) -> Offset) -> Self {
        let of = |(number, target): (usize, &Target)| {
            let (from, began) = (target.from, began(number));
            InTarget { began, from, end: began, bytes: target.bytes, cut: None }
        };
        let targets = lane.targets.iter().enumerate().map(of).collect();
        Self { targets, left_out: VecDeque::new(), left_out_before: 0 }
    }

    /// Takes note of what stages failed at.
    pub(super) fn leave_out(&mut self, left_out: &[LeftOut]) {
        self.left_out.extend(left_out.iter().map(|left| (left.range.first, u64::from(left.records))));
    }

    /// Takes note of a chunk of which all has landed, as all chunks before it: up to `next`, but for what the targets that
    /// are `held` lack.
    pub(super) fn pass(&mut self, next: Offset, held: &[(usize, Option<Offset>)], arrived: &[Arrived]) {
        for Arrived { target, end, bytes } in arrived {
            let of = &mut self.targets[*target];
            of.end = end.unwrap_or(of.end);
            of.bytes += bytes;
        }
        let mut held = held.iter().copied().peekable();
        for (number, of) in self.targets.iter_mut().enumerate() {
            let source = match held.next_if(|(target, _)| *target == number) {
                Some((_, source)) => source,
                None => Some(next),
            };
            if let Some(source) = source {
                of.cut = Some(Cut { source, target: of.end, bytes: of.bytes });
            }
        }
        let from = |of: &InTarget| of.cut.map_or(of.from, |cut| cut.source);
        let first = self.targets.iter().map(from).min().unwrap_or_default();
        while let Some((_, records)) = self.left_out.pop_front_if(|(offset, _)| *offset < first) {
            self.left_out_before += records;
        }
    }

    /// Returns how far it has come, target by target, but for those that no cut goes through yet.
    pub(super) fn landed<'a>(&'a self, lane: &'a Lane) -> impl Iterator<Item = Landed> + 'a {
        lane.targets.iter().zip(&self.targets).filter_map(|(target, of)| {
            of.cut.map(|cut| Landed {
                pair: target.pair.clone(),
                source_next: cut.source,
                sequences: (cut.target - of.began).unsigned_abs(),
                target_next: cut.target,
                bytes: cut.bytes,
            })
        })
    }

    /// Returns how many records stages failed at before where a later process would go on.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::OffsetRange;
    use crate::restore::sending::tests::forked;

    fn cuts(standing: &Standing, lane: &Lane) -> Vec<(Offset, Offset, u64, u64)> {
        standing.landed(lane).map(|of| (of.source_next, of.target_next, of.sequences, of.bytes)).collect()
    }

    #[test]
    fn a_cut_parts_what_is_there_from_what_is_not_in_each_target_by_itself() {
        let lane = forked(100, 0);
        let mut standing = Standing::new(&lane, |number| [10, 20][number]);
        assert!(cuts(&standing, &lane).is_empty(), "where it goes on is where it has begun");
        let arrived = |target, end| Arrived { target, end: Some(end), bytes: 5 };
        standing.pass(8, &[(1, Some(3))], &[arrived(0, 14), arrived(1, 21)]);
        assert_eq!(cuts(&standing, &lane), [(8, 14, 4, 5), (3, 21, 1, 5)]);
        // Copies of one record are on both sides: the cut stays where it was.
        standing.pass(12, &[(0, None)], &[arrived(0, 16)]);
        assert_eq!(cuts(&standing, &lane), [(8, 14, 4, 5), (12, 21, 1, 5)]);
        standing.pass(20, &[], &[]);
        assert_eq!(cuts(&standing, &lane), [(20, 16, 6, 10), (20, 21, 1, 5)]);
    }

    #[test]
    fn what_was_left_out_is_told_once_however_often_it_is_met_again() {
        let lane = forked(100, 0);
        let mut standing = Standing::new(&lane, |_| 0);
        let range = |first| OffsetRange { first, next: first + 1 };
        let left = |first| LeftOut { range: range(first), records: 1, stage: 0, dead_letter: None };
        standing.leave_out(&[left(3), left(9)]);
        assert_eq!(standing.left_out(), 0);
        standing.pass(8, &[], &[]);
        assert_eq!(standing.left_out(), 1, "the other is met again");
        standing.pass(20, &[(0, Some(9))], &[]);
        assert_eq!(standing.left_out(), 1);
        standing.pass(30, &[], &[]);
        assert_eq!(standing.left_out(), 2);
    }
}
