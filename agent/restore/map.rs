//! The offset map of a restore: where in the target each source offset is.
//!
//! A *pair* is a source partition and a target partition that gets records of it; one source may have several targets
//! (fan-out), one target several sources (merged topics). For each pair the map holds *runs*: so many records from this
//! source offset on are, one by one, at that target offset and the following. What lies between runs was never restored
//! into that target (compaction, aborted transactions, filters, records of other targets) or, in the target, is not of
//! that pair (markers, other sources).
//!
//! Guarantees: a look-up is exact; a map that was encoded and decoded is equal to what it was; what is pushed twice changes
//! nothing. A map grows while a restore runs, and can be asked all the while: it says how far it has got.
//!
//! Pure. Memory: about four bytes a run ([`runs`]), so 4 MiB for a hundred million records with a hole in each hundred.

mod bytes;
mod runs;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange, Partition};
pub use runs::Run;
use runs::Runs;

/// A source partition, and a target partition that gets records of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Named", try_from = "Named")]
pub struct Pair {
    /// Where the records come from.
    pub source: Partition,
    /// Where they go.
    pub target: Partition,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source, self.target)
    }
}

/// A pair as JSON has it.
#[derive(Serialize, Deserialize)]
struct Named {
    source_topic: String,
    source_topic_id: String,
    source_partition: i32,
    target_topic: String,
    target_topic_id: String,
    target_partition: i32,
}

impl From<Pair> for Named {
    fn from(Pair { source, target }: Pair) -> Self {
        Self {
            source_topic: source.topic.to_string(),
            source_topic_id: source.topic_id.to_string(),
            source_partition: source.index,
            target_topic: target.topic.to_string(),
            target_topic_id: target.topic_id.to_string(),
            target_partition: target.index,
        }
    }
}

impl TryFrom<Named> for Pair {
    type Error = Error;

    fn try_from(named: Named) -> Result<Self> {
        let partition = |topic: String, topic_id: String, index| -> Result<Partition> {
            Ok(Partition { topic: topic.into(), topic_id: topic_id.parse()?, index })
        };
        Ok(Self {
            source: partition(named.source_topic, named.source_topic_id, named.source_partition)?,
            target: partition(named.target_topic, named.target_topic_id, named.target_partition)?,
        })
    }
}

/// The map of all pairs of a restore, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OffsetMap {
    tracks: BTreeMap<Pair, Track>,
}

/// What is known of one pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// The source offsets that were asked for.
    asked: OffsetRange,
    /// Of those before this source offset it is known where they are in the target, if they are.
    covered: Offset,
    /// Where the target ended before the first record.
    target_first: Offset,
    /// The target offset after the last record.
    target_next: Offset,
    /// The restored end: the target offset behind everything that was asked for; `None` while the restore goes on.
    end: Option<Offset>,
    records: u64,
    runs: Runs,
}

/// Where a committed offset, the next one to read, is in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At this record: the first restored one whose source offset is not less than the committed one.
    Record {
        /// Its source offset: the committed one, where that record itself was restored.
        source: Offset,
        /// Its target offset.
        target: Offset,
    },
    /// At the restored end: of what was asked for, nothing from the committed offset on was there to restore.
    End {
        /// The restored end.
        target: Offset,
    },
    /// Not known yet: the restore has not come so far.
    Unfinished {
        /// How far it has come: source offsets before this one are done.
        covered: Offset,
        /// The target offset after the last record so far.
        target: Offset,
    },
    /// Beyond what was asked for: whether the source had records there, the map does not know.
    Beyond {
        /// The end of what was asked for.
        next: Offset,
        /// The restored end, which is the nearest there is.
        target: Offset,
    },
}

/// Where one source record is in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exact {
    /// At this target offset; of several copies, the first.
    At(Offset),
    /// Nowhere: the source had no such record, or it was left out on the way, or went to another target.
    Absent,
    /// Not known yet: the restore has not come so far.
    Unfinished,
    /// It was not asked for.
    Outside,
}

impl OffsetMap {
    /// Adds a pair of which the source offsets `asked` are wanted, and whose target ends at `target_first`. A pair that
    /// is there stays as it is.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) when the pair is there and other offsets of it were asked for, or
    /// the offsets are none.
    pub fn open(&mut self, pair: &Pair, asked: OffsetRange, target_first: Offset) -> Result<()> {
        if asked.first < 0 || asked.next < asked.first || target_first < 0 {
            return Err(wrong(pair, format!("{asked} into offset {target_first} is no range")));
        }
        match self.tracks.get(pair) {
            Some(track) if track.asked == asked => Ok(()),
            Some(track) => Err(wrong(pair, format!("{asked} is asked for, and before it was {}", track.asked))),
            None => {
                let _ = self.tracks.insert(pair.clone(), Track::new(asked, target_first));
                Ok(())
            }
        }
    }

    /// Notes that `length` records from `source` on are at `target` and the following offsets. Records behind which
    /// there are some already are known, or copies of such: they change nothing but where the target ends.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) for records that were not asked for, or new ones that lie before the
    /// last one in the target: offsets of the target only rise.
    pub fn push(&mut self, pair: &Pair, source: Offset, target: Offset, length: u64) -> Result<()> {
        let track = self.track(pair)?;
        track.push(source, target, length).map_err(|what| wrong(pair, what))
    }

    /// Notes that source offsets before `covered` are done for the pair, whether there were records or not.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) for a pair that was not opened.
    pub fn reach(&mut self, pair: &Pair, covered: Offset) -> Result<()> {
        let track = self.track(pair)?;
        track.covered = track.covered.max(covered.min(track.asked.next));
        Ok(())
    }

    /// Notes that all that was asked for of the pair is done, and that the target offset behind it is `end`.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) for a pair that was not opened, or an end before the last record.
    pub fn finish(&mut self, pair: &Pair, end: Offset) -> Result<()> {
        let track = self.track(pair)?;
        if end < track.target_next {
            let what =
                format!("the restored end {end} lies before the last record, which ends at {}", track.target_next);
            return Err(wrong(pair, what));
        }
        track.covered = track.asked.next;
        track.end = Some(end);
        Ok(())
    }

    /// Returns what is known of a pair.
    pub fn get(&self, pair: &Pair) -> Option<&Track> {
        self.tracks.get(pair)
    }

    /// Returns all pairs with what is known of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Pair, &Track)> {
        self.tracks.iter()
    }

    /// Returns where a committed offset of a source partition is, in each target that gets records of it; nothing for a
    /// partition that was never restored.
    pub fn translate(&self, source: &Partition, committed: Offset) -> Vec<(&Pair, Position)> {
        let of = self.tracks.iter().filter(|(pair, _)| pair.source == *source);
        of.map(|(pair, track)| (pair, track.translate(committed))).collect()
    }

    /// Returns whether all that was asked for is done.
    pub fn is_finished(&self) -> bool {
        self.tracks.values().all(|track| track.end.is_some())
    }

    /// Returns what of each pair lies at `covered(pair)` and behind: what a journal adds to the one before.
    pub fn after(&self, covered: impl Fn(&Pair) -> Offset) -> Self {
        let part = |(pair, track): (&Pair, &Track)| {
            let mut part = track.without_runs();
            for run in track.runs.since(covered(pair)) {
                part.records += run.length;
                part.runs.push(run);
            }
            (pair.clone(), part)
        };
        Self { tracks: self.tracks.iter().map(part).collect() }
    }

    /// Adds what a later map of the same restore holds.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) where the two contradict each other; this one is then of no use.
    pub fn absorb(&mut self, later: &Self) -> Result<()> {
        for (pair, track) in &later.tracks {
            self.open(pair, track.asked, track.target_first)?;
            for run in track.runs.iter() {
                self.push(pair, run.source, run.target, run.length)?;
            }
            self.reach(pair, track.covered)?;
            let held = self.track(pair)?;
            held.target_next = held.target_next.max(track.target_next);
            if let Some(end) = track.end {
                self.finish(pair, end)?;
            }
        }
        Ok(())
    }

    /// Returns how many records it holds the places of, and in how many runs.
    pub fn size(&self) -> (u64, u64) {
        let add = |(records, runs), track: &Track| (records + track.records, runs + track.runs.len());
        self.tracks.values().fold((0, 0), add)
    }

    /// Returns how much memory its runs take.
    pub fn memory_bytes(&self) -> usize {
        self.tracks.values().map(|track| track.runs.memory_bytes()).sum()
    }

    fn track(&mut self, pair: &Pair) -> Result<&mut Track> {
        self.tracks.get_mut(pair).ok_or_else(|| wrong(pair, "the pair was not opened".to_owned()))
    }
}

impl Track {
    fn new(asked: OffsetRange, target_first: Offset) -> Self {
        Self {
            asked,
            covered: asked.first,
            target_first,
            target_next: target_first,
            end: None,
            records: 0,
            runs: Runs::default(),
        }
    }

    /// Returns where a committed offset is in the target.
    pub fn translate(&self, committed: Offset) -> Position {
        if let Some(run) = self.runs.since(committed).next() {
            return Position::Record { source: run.source, target: run.target };
        }
        match self.end {
            Some(target) if committed <= self.asked.next => Position::End { target },
            Some(target) => Position::Beyond { next: self.asked.next, target },
            None => Position::Unfinished { covered: self.covered, target: self.target_next },
        }
    }

    /// Returns where the source record `source` is in the target.
    pub fn exact(&self, source: Offset) -> Exact {
        match self.runs.since(source).next() {
            Some(run) if run.source == source => Exact::At(run.target),
            _ if !self.asked.contains(source) => Exact::Outside,
            _ if source < self.covered => Exact::Absent,
            _ => Exact::Unfinished,
        }
    }

    /// Returns the source offsets that were asked for.
    pub fn asked(&self) -> OffsetRange {
        self.asked
    }

    /// Returns how far it has come: source offsets before this one are done.
    pub fn covered(&self) -> Offset {
        self.covered
    }

    /// Returns where the target ended before the first record.
    pub fn target_first(&self) -> Offset {
        self.target_first
    }

    /// Returns the target offset after the last record so far.
    pub fn target_next(&self) -> Offset {
        self.target_next
    }

    /// Returns the restored end; `None` while the restore goes on.
    pub fn end(&self) -> Option<Offset> {
        self.end
    }

    /// Returns how many records were restored; copies count once.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Returns in how many runs they are.
    pub fn run_count(&self) -> u64 {
        self.runs.len()
    }

    /// Returns the runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        self.runs.iter()
    }

    /// Returns the run that holds the source offset `source`, from it on, or else the first one behind it.
    pub fn run_from(&self, source: Offset) -> Option<Run> {
        self.runs.since(source).next()
    }

    /// Returns how many records lie at the target offset `target` and behind whose source offset is less than
    /// `source_next`. It goes through the runs between the two, and no others.
    pub fn records_between(&self, target: Offset, source_next: Offset) -> u64 {
        let behind = self.runs.since_target(target).take_while(|run| run.source < source_next);
        behind.map(|run| (run.source_next().min(source_next) - run.source).unsigned_abs()).sum()
    }

    /// Returns the last run.
    pub fn last_run(&self) -> Option<Run> {
        self.runs.last()
    }

    /// Takes records; says what is wrong with them.
    fn push(&mut self, source: Offset, target: Offset, length: u64) -> Result<(), String> {
        let ends = i64::try_from(length).ok().and_then(|n| source.checked_add(n).zip(target.checked_add(n)));
        let Some((source_next, next)) = ends.filter(|_| length > 0 && target >= 0) else {
            return Err(format!("{length} records from {source} on at {target} are none"));
        };
        if source < self.asked.first || source_next > self.asked.next {
            return Err(format!("records [{source}, {source_next}) are not among those asked for, {}", self.asked));
        }
        let known = self.runs.last().map_or(source, |run| run.source_next()).max(source);
        if known < source_next {
            let new = Run { source, target, length }.since(known);
            if let Some(last) = self.runs.last().filter(|last| new.target < last.target_next()) {
                return Err(format!(
                    "record {known} is at target offset {}, before {} where the record before it ends",
                    new.target,
                    last.target_next()
                ));
            }
            self.records += new.length;
            self.runs.push(new);
        }
        self.covered = self.covered.max(source_next);
        self.target_next = self.target_next.max(next);
        Ok(())
    }

    fn without_runs(&self) -> Self {
        let mut track = Self::new(self.asked, self.target_first);
        (track.covered, track.target_next, track.end) = (self.covered, self.target_next, self.end);
        track
    }
}

fn wrong(pair: &Pair, what: String) -> Error {
    Error::failed("the offset map cannot take that").with("pair", pair).source(what)
}

#[cfg(test)]
mod tests;
