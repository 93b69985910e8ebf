//! The index of a chain: where any offset and any time is, out of a million segments.
//!
//! It holds the rows of catalogs as they were read, 118 bytes a segment, and those of segments that are in no catalog yet.
//! Pure: filling it is the parent's `catalogs`. A look-up compares a few dozen numbers and allocates nothing.

use std::sync::Arc;

use super::catalog::{Notes, Row, Rows};
use crate::record::{Offset, OffsetRange, Timestamp};

/// Segments between two running maxima of the time. A look-up by time reads at most as many rows; half of it doubles the
/// maxima, which are 32 KiB for a million segments.
const PEAK_EVERY: usize = 256;

/// The segments of one chain, in order.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// Runs of rows, each behind the one before.
    blocks: Vec<Block>,
    len: usize,
    /// For each whole or begun run of [`PEAK_EVERY`] segments, the greatest time in it or before it: never falling.
    peaks: Vec<Timestamp>,
}

#[derive(Debug, Clone)]
struct Block {
    /// The number of its first segment in the chain.
    start: usize,
    rows: Rows,
    notes: Arc<Notes>,
}

impl Index {
    /// Adds the rows that follow on those there; a hole may be between.
    pub fn extend(&mut self, rows: Rows, notes: Notes) {
        for at in 0..rows.len() {
            let before = self.peaks.last().copied().unwrap_or(Timestamp(i64::MIN));
            let peak = before.max(rows.max_time(at));
            match self.peaks.last_mut().filter(|_| !(self.len + at).is_multiple_of(PEAK_EVERY)) {
                Some(last) => *last = peak,
                None => self.peaks.push(peak),
            }
        }
        let start = self.len;
        self.len += rows.len();
        self.blocks.push(Block { start, rows, notes: Arc::new(notes) });
        self.merge();
    }

    /// Adds the next segment; `note` is the reason of a gap.
    pub fn push(&mut self, row: &Row, note: Option<Arc<str>>) {
        self.extend(Rows::new([row]), note.map(|note| (0, note)).into_iter().collect());
    }

    /// Returns how many segments there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns about how many bytes it holds in memory.
    pub fn held_bytes(&self) -> usize {
        let notes = |block: &Block| block.notes.iter().map(|(_, note)| note.len() + 32).sum::<usize>();
        self.blocks.iter().map(|block| block.rows.held_bytes() + notes(block) + size_of::<Block>()).sum::<usize>()
            + self.peaks.len() * size_of::<Timestamp>()
    }

    /// Returns the offsets from the first segment's first to the last one's end; `None` when there is no segment.
    pub fn range(&self) -> Option<OffsetRange> {
        let (first, last) = (self.get(0)?, self.get(self.len - 1)?);
        Some(OffsetRange { first: first.range.first, next: last.range.next })
    }

    /// Returns the segment of that number.
    pub fn get(&self, at: usize) -> Option<Row> {
        let block = self.block(self.blocks.partition_point(|block| block.start <= at))?;
        block.rows.get(at - block.start)
    }

    /// Returns why the segment of that number is a gap, if it is one.
    pub fn note(&self, at: usize) -> Option<Arc<str>> {
        let block = self.block(self.blocks.partition_point(|block| block.start <= at))?;
        let note = block.notes.binary_search_by_key(&(at - block.start), |(row, _)| *row as usize).ok()?;
        Some(block.notes[note].1.clone())
    }

    /// Returns the number of the first segment that ends behind `offset`: the one that covers it, or, where none does,
    /// the next one; `None` when all end at or before it.
    pub fn at_offset(&self, offset: Offset) -> Option<usize> {
        let after = self.blocks.partition_point(|block| block.rows.first(0) <= offset);
        let Some(block) = self.block(after) else { return (self.len > 0).then_some(0) };
        let (mut low, mut high) = (0, block.rows.len());
        while low < high {
            let middle = low.midpoint(high);
            if block.rows.first(middle) <= offset { low = middle + 1 } else { high = middle }
        }
        // `low` is the number of rows that begin at or before the offset, at least one.
        let at = block.start + low - 1;
        let ends_behind = self.get(at).is_some_and(|row| row.range.next > offset);
        let at = if ends_behind { at } else { at + 1 };
        (at < self.len).then_some(at)
    }

    /// Returns the number of the first segment that has a record of `time` or later; `None` when none has.
    pub fn at_time(&self, time: Timestamp) -> Option<usize> {
        let run = self.peaks.partition_point(|peak| *peak < time);
        if run == self.peaks.len() {
            return None;
        }
        let upto = self.len.min((run + 1) * PEAK_EVERY);
        (run * PEAK_EVERY..upto).find(|at| self.max_time(*at) >= time)
    }

    /// Returns the segments from that number on, in order.
    pub fn iter_from(&self, at: usize) -> impl Iterator<Item = Row> + '_ {
        (at..self.len).filter_map(|at| self.get(at))
    }

    /// Returns all segments, in order.
    pub fn iter(&self) -> impl Iterator<Item = Row> + '_ {
        self.blocks.iter().flat_map(|block| block.rows.iter())
    }

    /// Returns the gaps with their reasons, in order.
    pub fn gaps(&self) -> impl Iterator<Item = (Row, Arc<str>)> + '_ {
        let of = |block: &'_ Block, at: u32| block.rows.get(at as usize);
        self.blocks.iter().flat_map(move |block| {
            block.notes.iter().filter_map(move |(at, note)| Some((of(block, *at)?, note.clone())))
        })
    }

    fn max_time(&self, at: usize) -> Timestamp {
        let block = self.block(self.blocks.partition_point(|block| block.start <= at));
        block.map_or(Timestamp(i64::MIN), |block| block.rows.max_time(at - block.start))
    }

    /// Returns the block before the `after`th.
    fn block(&self, after: usize) -> Option<&Block> {
        self.blocks.get(after.checked_sub(1)?)
    }

    /// Joins small blocks at the end with their neighbours, like the digits of a number: each row is copied a few times,
    /// and there are few blocks however many segments are added one by one.
    fn merge(&mut self) {
        while let [.., left, right] = self.blocks.as_slice()
            && right.rows.len() >= left.rows.len()
            && right.rows.len() < PEAK_EVERY * PEAK_EVERY
        {
            let before = left.rows.len() as u32;
            let shifted = right.notes.iter().map(|(at, note)| (before + at, note.clone()));
            let joined = Block {
                start: left.start,
                rows: left.rows.joined(&right.rows),
                notes: Arc::new(left.notes.iter().cloned().chain(shifted).collect()),
            };
            self.blocks.truncate(self.blocks.len() - 2);
            self.blocks.push(joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::archive::sidecar::Kind;

    fn row(first: Offset, next: Offset, max_time: i64) -> Row {
        Row {
            range: OffsetRange { first, next },
            length_bytes: 1,
            digest: 0,
            sealed_at: Timestamp(0),
            kind: Kind::Data,
            has_aborted: false,
            has_undecided: false,
            leader_epoch: 0,
            batches: 1,
            converted: 0,
            records: 1,
            first_record: None,
            last_record: None,
            first_time: None,
            max_time: (max_time > 0).then_some(Timestamp(max_time)),
            min_time: None,
        }
    }

    #[test]
    fn an_empty_index_finds_nothing() {
        let index = Index::default();
        assert_eq!((index.at_offset(0), index.at_time(Timestamp(0)), index.range()), (None, None, None));
    }

    #[test]
    fn a_gap_has_its_reason() {
        let mut index = Index::default();
        index.push(&row(0, 5, 1), None);
        index.push(&Row { kind: Kind::Gap, ..row(5, 9, 0) }, Some("retention".into()));
        index.push(&row(9, 10, 1), None);
        assert_eq!((index.note(1).as_deref(), index.note(0)), (Some("retention"), None));
        let gaps: Vec<_> = index.gaps().map(|(row, note)| (row.range.first, note.to_string())).collect();
        assert_eq!(gaps, [(5, "retention".to_owned())]);
    }

    proptest! {
        /// Against a plain search, with holes between the segments and rows that come alone and in runs.
        #[test]
        fn every_offset_and_time_is_found_as_by_a_plain_search(
            parts in prop::collection::vec((0_i64..3, 1_i64..4, 0_i64..40, any::<bool>()), 1..700),
            asked in prop::collection::vec((-1_i64..1800, 0_i64..45), 20),
        ) {
            let (mut index, mut rows, mut run, mut next) = (Index::default(), Vec::new(), Vec::new(), 0);
            for (hole, length, time, flush) in parts {
                let row = row(next + hole, next + hole + length, time);
                next = row.range.next;
                rows.push(row);
                run.push(row);
                if flush {
                    index.extend(Rows::new(&run), Notes::new());
                    run.clear();
                }
            }
            run.iter().for_each(|row| index.push(row, None));
            prop_assert!(index.iter().eq(rows.iter().copied()) && index.len() == rows.len());
            prop_assert!(index.iter_from(3).eq(rows.iter().skip(3).copied()));
            for (offset, time) in asked {
                prop_assert_eq!(index.at_offset(offset), rows.iter().position(|row| row.range.next > offset));
                let by_time = rows.iter().position(|row| row.max_time.is_some_and(|max| max.0 >= time));
                prop_assert_eq!(index.at_time(Timestamp(time)), by_time);
            }
        }
    }
}
