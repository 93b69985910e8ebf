//! What the two sides of a restored pair come to: the archive's records, each with the place that the offset map names,
//! against the target's, as they come.
//!
//! Order: both sides go by offset, and so do the places. A record of the target where none was to be is one too many, a place
//! that was passed over is one that is missing; so one that is left out does not make all behind it differ. Memory: one
//! batch of each side, decoded, and what [`tally`](super::tally) keeps.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::tally::{Digests, Tally};
use crate::archive::source::way::Part;
use crate::batch::outgoing::Window;
use crate::batch::records::{Record, Records};
use crate::batch::{self, HEADER_BYTES, Header};
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange};
use crate::restore::map::{OffsetMap, Pair, Run, Track};
use crate::restore::plan::Torn;
use crate::verify::cluster::comparer::{Outcome, Side};
use crate::verify::cluster::held::{Held, HeldBatch};

/// What is compared of one pair.
#[derive(Debug)]
pub(super) struct Lane {
    /// From where to where.
    pub(super) pair: Pair,
    /// Where the records are.
    pub(super) map: Arc<OffsetMap>,
    /// The archive's chains.
    pub(super) parts: Vec<Part>,
    /// Which records the plan takes.
    pub(super) window: Window,
    /// Transactions that it leaves out.
    pub(super) torn: Vec<Torn>,
    /// The offsets that the target has.
    pub(super) log: OffsetRange,
    /// Whether a log cleaner may take records of the target.
    pub(super) is_compacted: bool,
    /// Where the archive's side lies, for people.
    pub(super) folder: String,
}

/// The comparison of one pair.
pub(super) struct Lockstep {
    held: Held,
    lane: Arc<Lane>,
    /// What of the target belongs to the restore: from where it ended before the first record to the restored end.
    target: OffsetRange,
    /// The archive's next batch, and what of its records is left where they were looked at.
    batch: Option<(HeldBatch, Option<VecDeque<Record>>)>,
    /// The archive's next record.
    next: Option<Expected>,
    run: Option<Run>,
    /// Where the target's records that are too many have come to.
    passed: Option<Run>,
    /// Something of the archive in front of the next record could not be read.
    is_behind_damage: bool,
    /// The end of what the target has told of, exclusive.
    told: Offset,
    digests: Digests,
    tally: Tally,
    bytes: u64,
}

/// A record of the archive, and where in the target it is.
struct Expected {
    record: Record,
    target: Offset,
    is_behind_damage: bool,
}

impl Lockstep {
    /// Makes the comparison of a pair; `None` where nothing is known of it.
    pub(super) fn new(held: Held, lane: Arc<Lane>) -> Option<Self> {
        let track = lane.map.get(&lane.pair)?;
        let target = OffsetRange { first: track.target_first(), next: track.end().unwrap_or(track.target_next()) };
        Some(Self {
            held,
            target,
            batch: None,
            next: None,
            run: None,
            passed: None,
            is_behind_damage: false,
            told: target.first,
            digests: Digests::default(),
            tally: Tally::new(lane.is_compacted),
            bytes: 0,
            lane,
        })
    }

    fn track(&self) -> Option<&Track> {
        self.lane.map.get(&self.lane.pair)
    }

    /// Makes the archive's next batch that has records which the plan takes the current one; whether there is one.
    async fn open_batch(&mut self) -> Result<bool> {
        if self.batch.as_ref().is_some_and(|(_, records)| records.as_ref().is_some_and(VecDeque::is_empty)) {
            self.batch = None;
        }
        while self.batch.is_none() {
            let Some(held) = self.held.next().await? else { return Ok(false) };
            self.is_behind_damage |= held.is_behind_damage;
            let header = &held.header;
            let is_torn = |torn: &Torn| torn.covers(header.producer_id, header.base_offset);
            let is_left_out = header.is_transactional() && self.lane.torn.iter().any(is_torn);
            if !held.is_visible || is_left_out {
                continue;
            }
            if batch::crc_matches(&held.bytes) {
                self.batch = Some((held, None));
            } else {
                self.is_behind_damage = true;
            }
        }
        Ok(true)
    }

    /// Makes the archive's next record the current one; whether there is one.
    async fn advance(&mut self) -> Result<bool> {
        while self.next.is_none() {
            if !self.open_batch().await? {
                return Ok(false);
            }
            let Some((held, records)) = &mut self.batch else { return Ok(false) };
            if records.is_none() {
                let Ok(decoded) = decoded(held, &self.lane.window) else {
                    (self.is_behind_damage, self.batch) = (true, None);
                    continue;
                };
                *records = Some(decoded);
            }
            if let Some(record) = records.as_mut().and_then(VecDeque::pop_front) {
                self.place(record);
            }
        }
        Ok(true)
    }

    /// Looks up where a record of the archive's current batch is in the target.
    fn place(&mut self, record: Record) {
        let source = record.offset;
        if self.run.is_none_or(|run| run.source_next() <= source) {
            self.run = self.track().and_then(|track| track.run_from(source));
        }
        match self.run.filter(|run| run.source <= source) {
            Some(run) => {
                let is_behind_damage = std::mem::take(&mut self.is_behind_damage);
                self.next = Some(Expected { target: run.target + (source - run.source), record, is_behind_damage });
            }
            None => {
                self.digests.of_archive(&record);
                let object = self.object();
                self.tally.differ(Some(source), None, "it was not restored: the offset map names no place", object);
            }
        }
    }

    /// Compares a record of the target, which may have stamped it with a time of its own.
    async fn record(&mut self, record: &Record, is_stamped: bool) -> Result<()> {
        let at = record.offset;
        while self.advance().await? && self.next.as_ref().is_some_and(|next| next.target < at) {
            self.miss();
        }
        let Some(next) = self.next.take_if(|next| next.target == at) else {
            self.too_many(record);
            return Ok(());
        };
        let source = next.record.offset;
        self.tally.came(&next.record);
        if is_stamped {
            self.tally.stamped(source);
        }
        let what = differs(&next.record, record, is_stamped);
        if what.is_none() && !is_stamped {
            self.digests.of_both(record);
        } else {
            self.digests.of_archive(&next.record);
            self.digests.of_target(record);
        }
        if let Some(what) = what {
            let object = self.object();
            self.tally.differ(Some(source), Some(at), what, object);
        }
        Ok(())
    }

    /// Takes note of a record that the target has and the archive's side does not.
    fn too_many(&mut self, record: &Record) {
        let source = self.source_of(record.offset);
        let is_unread = match &self.next {
            Some(next) => next.is_behind_damage,
            None => self.is_behind_damage || self.held.was_damaged(),
        };
        let what = match source {
            Some(source) if is_unread => return self.tally.unread(source),
            Some(_) => "the archive has no such record, and the target has one",
            None => "it is one too many: nothing of the archive was restored to there",
        };
        self.digests.of_target(record);
        let object = self.object();
        self.tally.differ(source, Some(record.offset), what, object);
    }

    /// Takes note that the target does not have the archive's next record.
    fn miss(&mut self) {
        let Some(next) = self.next.take() else { return };
        self.digests.of_archive(&next.record);
        self.tally.came(&next.record);
        let object = self.object();
        self.tally.missing(&next.record, next.target, object);
    }

    /// Returns the source offset of which the map says that it is at an offset of the target.
    fn source_of(&mut self, target: Offset) -> Option<Offset> {
        // Those that are asked about only rise.
        let mut run = self.passed.or_else(|| self.track()?.run_from(self.lane.window.offsets.first))?;
        while run.target_next() <= target {
            self.passed = Some(run);
            run = self.track()?.run_from(run.source_next())?;
        }
        self.passed = Some(run);
        (run.target <= target).then(|| run.source + (target - run.target))
    }

    /// Returns where the archive's side is, for people: the next record is of the current batch.
    fn object(&self) -> String {
        self.batch.as_ref().map_or(&self.lane.folder, |(held, _)| &held.object).clone()
    }

    /// Compares a batch of the target as a whole; whether it is the archive's next one, as it was.
    async fn is_as_it_was(&mut self, from: Offset, header: &Header, bytes: &Bytes) -> Result<bool> {
        let may_be = self.next.is_none() && !self.tally.has_missed() && from <= header.base_offset;
        if !may_be || !self.open_batch().await? || self.is_behind_damage {
            return Ok(false);
        }
        let Some((held, None)) = &self.batch else { return Ok(false) };
        let (first, next) = (held.header.base_offset, held.header.next_offset());
        let run = self.track().and_then(|track| track.run_from(first));
        let is_there =
            run.is_some_and(|run| run.source == first && run.target == header.base_offset && run.source_next() >= next);
        let is_whole = held.range == OffsetRange { first, next } && is_taken(&self.lane.window, &held.header);
        let is_same = is_there
            && is_whole
            && is_alike(&held.header, header)
            && held.bytes[HEADER_BYTES..] == bytes[HEADER_BYTES..];
        if is_same {
            self.digests.of_batch(header, bytes)?;
            self.batch = None;
        }
        Ok(is_same)
    }
}

impl Side for Lockstep {
    fn first(&self) -> Offset {
        self.target.first
    }

    async fn deleted(&mut self, range: OffsetRange) -> Result<bool> {
        while self.advance().await? {
            let Some(next) = self.next.take_if(|next| next.target < range.next) else { break };
            self.tally.came(&next.record);
            self.tally.deleted(next.record.offset);
        }
        self.is_over(range.next).await
    }

    async fn batch(&mut self, from: Offset, header: &Header, bytes: &Bytes) -> Result<()> {
        let from = from.max(self.target.first);
        if header.is_control() || header.count == 0 || header.base_offset >= self.target.next {
            return Ok(());
        }
        self.bytes += bytes.len() as u64;
        if self.is_as_it_was(from, header, bytes).await? {
            return Ok(());
        }
        let unreadable = |error| Error::failed("the target sends a batch that cannot be read").source(error);
        for record in Records::of(header, bytes).map_err(unreadable)? {
            let record = record.map_err(unreadable)?;
            if record.offset >= from && record.offset < self.target.next {
                self.record(&record, header.is_log_append_time()).await?;
            }
        }
        Ok(())
    }

    async fn is_over(&mut self, next: Offset) -> Result<bool> {
        self.told = self.told.max(next);
        Ok(self.told >= self.target.next)
    }

    async fn end(mut self) -> Result<Outcome> {
        // Behind its end a log has nothing: what should be there is missing, and nobody has yet to tell of it.
        if self.told < self.target.next.min(self.lane.log.next) {
            let left = OffsetRange { first: self.told, next: self.target.next };
            return Ok(Outcome { left: Some(Some(left)), records: None, ..self.give_up() });
        }
        while self.advance().await? {
            self.miss();
        }
        if self.is_behind_damage || self.held.was_damaged() {
            self.tally.damaged(self.lane.window.offsets);
        }
        let has_later = self.lane.log.next > self.target.next;
        self.tally.judge_missed(has_later, &self.lane.folder);
        Ok(self.give_up())
    }

    fn give_up(self) -> Outcome {
        let target = &self.lane.pair.target;
        let records = self.tally.is_all().then(|| self.digests.counted());
        Outcome {
            offsets: (self.told.min(self.target.next) - self.target.first).max(0).unsigned_abs(),
            bytes: self.bytes,
            findings: self.tally.findings(&self.lane.folder, &format!("{}-{}", target.topic, target.index)),
            left: None,
            records,
        }
    }
}

/// Returns the records of a batch of the archive that are taken of it.
fn decoded(held: &HeldBatch, window: &Window) -> Result<VecDeque<Record>> {
    let mut records = VecDeque::new();
    for record in Records::of(&held.header, &held.bytes)? {
        let record = record?;
        if held.range.contains(record.offset) && window.contains(record.offset, record.timestamp) {
            records.push_back(record);
        }
    }
    Ok(records)
}

/// Returns whether a window takes all of a batch, as far as its header proves it.
fn is_taken(window: &Window, header: &Header) -> bool {
    window.offsets.contains(header.base_offset)
        && window.offsets.contains(header.last_offset())
        && window.from.is_none_or(|from| header.proven_min_time().is_some_and(|least| least >= from))
        && window.until.is_none_or(|until| header.max_timestamp < until)
}

/// Returns whether the records of two batches are the same if their bytes are; of those with holes that is not asked.
fn is_alike(held: &Header, target: &Header) -> bool {
    /// Codec, kind of timestamp, delete horizon.
    const OF_RECORDS: i16 = 0x07 | 0x08 | 0x40;
    let of = |header: &Header| {
        let times = (header.base_timestamp, header.max_timestamp);
        (header.attributes & OF_RECORDS, header.count, header.last_offset_delta, header.total_bytes, times)
    };
    held.is_dense() && of(held) == of(target)
}

/// Says what differs between two records; their times are not asked about where the target makes its own.
fn differs(archive: &Record, target: &Record, is_stamped: bool) -> Option<&'static str> {
    let differs = [
        (archive.key != target.key, "its key is another"),
        (archive.value != target.value, "its value is another"),
        (archive.timestamp != target.timestamp && !is_stamped, "its time is another"),
        (archive.headers != target.headers, "its headers are others"),
    ];
    differs.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
}
