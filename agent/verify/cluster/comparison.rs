//! What two sides of one partition come to: the source's batches, as they come, against the archive's.
//!
//! Batches of equal bytes are equal. What went through stages of plugins cannot be compared, and that is said. Else their records are held against each other: the source's log cleaner may have
//! taken records, and what it left of a batch is another batch; batches that were made of an older format are cut where
//! a fetch ended. Every record that the source still has must be in the archive, the same at the same offset.

use std::collections::VecDeque;

use bytes::Bytes;

use super::comparer::{Outcome, Side};
use super::held::{Held, HeldBatch};
use crate::archive::source::chain::{Finding, What};
use crate::batch::Header;
use crate::batch::records::{Record, Records};
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange};

/// Differences of one partition that are told one by one; thousands of them say no more.
const MOST_FINDINGS: usize = 10;

/// The comparison of one partition.
pub(super) struct Comparison {
    held: Held,
    /// The archive's next batch, and what of its records is left where they were looked at.
    at: Option<(HeldBatch, Option<VecDeque<Record>>)>,
    first: Offset,
    /// The end of what the source has told of, exclusive.
    told: Offset,
    /// Where the source's log begins, as far as it has told: what is before it was deleted.
    log_start: Offset,
    /// What could not be compared because the archive's side cannot be read.
    unread: Option<(OffsetRange, String)>,
    /// What cannot be compared because it went through stages, from the first of its segments on; whether that is known.
    staged: Option<(OffsetRange, String, bool)>,
    /// The records that the source does not have any more: how many, from where to where, in which segment first.
    taken: Option<(u64, OffsetRange, String)>,
    outcome: Outcome,
    more: u64,
}

/// What is wrong with one batch of the source.
#[derive(Default)]
struct Wrong {
    lacking: Option<(u64, OffsetRange)>,
    differs: Vec<(Offset, String, String)>,
}

impl Comparison {
    /// Begins with the archive's first batch; `None` where it holds nothing.
    pub(super) async fn begin(mut held: Held) -> Result<Option<Self>> {
        let Some(first) = held.next().await? else { return Ok(None) };
        let (at, first) = (Some((first.clone(), None)), first.range.first);
        let outcome = Outcome::default();
        let (told, log_start) = (first, first);
        Ok(Some(Self { held, at, first, told, log_start, unread: None, staged: None, taken: None, outcome, more: 0 }))
    }

    /// Holds the records of a batch against those of the archive.
    async fn records(&mut self, from: Offset, header: &Header, bytes: &Bytes) -> Result<()> {
        let mut wrong = Wrong::default();
        // Of a batch that a fork has cut, the source has another one.
        if let Some((held, None)) = &self.at
            && held.range.next == held.header.next_offset()
            && let Some(what) = header_differs(&held.header, header)
        {
            wrong.differs.push((held.header.base_offset, what, held.object.clone()));
        }
        let mut object = self.at.as_ref().map(|(held, _)| held.object.clone());
        let rewritten = self.at.as_ref().is_some_and(|(held, _)| !held.header.is_converted() && !header.is_converted());
        let (mut equal, mut unread) = (0_u64, None);
        let unreadable = |error| Error::failed("the source sends a batch that cannot be read").source(error);
        for record in Records::of(header, bytes).map_err(unreadable)? {
            let record: Record = record.map_err(unreadable)?;
            if record.offset < from {
                continue;
            }
            match self.record_at(record.offset).await? {
                Found::Record(held, of) => {
                    if let Some(what) = record_differs(&held, &record) {
                        wrong.differs.push((record.offset, what, of));
                    }
                    equal += 1;
                }
                Found::Lacking(of) => {
                    object = object.or(of);
                    let (count, range) =
                        wrong.lacking.get_or_insert((0, OffsetRange { first: record.offset, next: record.offset }));
                    *count += 1;
                    range.next = record.offset + 1;
                }
                Found::Unread => unread = unread.or(Some(record.offset)),
                Found::Broken(of, error) => {
                    wrong.differs.push((record.offset, format!("the archive's batch cannot be read: {error}"), of));
                    break;
                }
                Found::Beyond => break,
            }
        }
        let next = header.next_offset().min(if self.at.is_none() { self.end_of_archive() } else { Offset::MAX });
        let range = OffsetRange { first: from, next };
        let object = object.unwrap_or_default();
        match unread {
            None => self.count(range, bytes.len()),
            Some(_) => {
                let (over, _) = self.unread.get_or_insert_with(|| (range, object.clone()));
                over.next = over.next.max(range.next);
            }
        }
        if rewritten && wrong.lacking.is_none() && wrong.differs.is_empty() && equal > 0 {
            self.note_taken(0, range, &object);
        }
        self.tell(wrong, &object);
        // What is left of the archive's batch below the end of this one is taken by the cleaner.
        self.pass_over(header.next_offset()).await
    }

    /// Looks for the archive's record at `offset`; what lies before it the source does not have any more.
    async fn record_at(&mut self, offset: Offset) -> Result<Found> {
        self.pass_over(offset).await?;
        let Some((held, records)) = &mut self.at else {
            let is_beyond = self.held.reached().is_none_or(|end| offset >= end);
            return Ok(match is_beyond {
                true => Found::Beyond,
                false if self.held.was_damaged() => Found::Unread,
                false => Found::Lacking(None),
            });
        };
        if offset < held.range.first {
            return Ok(if held.is_behind_damage { Found::Unread } else { Found::Lacking(Some(held.object.clone())) });
        }
        let (range, object) = (held.range, held.object.clone());
        if records.is_none() {
            match decoded(held) {
                Ok(decoded) => *records = Some(decoded),
                Err(error) => return Ok(Found::Broken(object, error)),
            }
        }
        let mut before = 0;
        let found = loop {
            match records.as_mut().and_then(VecDeque::pop_front) {
                Some(record) if record.offset < offset => before += u64::from(record.offset >= self.log_start),
                Some(record) if record.offset == offset => break Some(record),
                Some(record) => {
                    records.as_mut().expect("it was decoded above").push_front(record);
                    break None;
                }
                None => break None,
            }
        };
        if before > 0 {
            self.note_taken(before, OffsetRange { first: range.first, next: offset }, &object);
        }
        Ok(found.map_or(Found::Lacking(Some(object.clone())), |record| Found::Record(Box::new(record), object)))
    }

    /// Passes over the archive's batches that end at or before `offset`: the source does not have what is left of them.
    async fn pass_over(&mut self, offset: Offset) -> Result<()> {
        while let Some((held, records)) = &self.at {
            if held.range.next > offset {
                return Ok(());
            }
            let left = match records {
                Some(records) => records.len() as u64,
                None => held.header.count.max(0) as u64,
            };
            if left > 0 && !held.is_staged {
                let (range, object) = (held.range, held.object.clone());
                self.note_taken(left, range, &object);
            }
            self.advance().await?;
        }
        Ok(())
    }

    async fn advance(&mut self) -> Result<()> {
        self.at = self.held.next().await?.map(|held| (held, None));
        Ok(())
    }

    fn end_of_archive(&self) -> Offset {
        self.held.reached().unwrap_or(self.first)
    }

    fn count(&mut self, range: OffsetRange, bytes: usize) {
        self.outcome.offsets += (range.next - range.first).max(0).cast_unsigned();
        self.outcome.bytes += bytes as u64;
    }

    fn note_taken(&mut self, count: u64, range: OffsetRange, object: &str) {
        let (taken, over, _) = self.taken.get_or_insert_with(|| (0, range, object.to_owned()));
        *taken += count;
        over.next = over.next.max(range.next);
    }

    fn tell(&mut self, wrong: Wrong, object: &str) {
        if let Some((count, range)) = wrong.lacking {
            let detail = format!("the source has {count} records there that the archive lacks");
            self.found(range, object.to_owned(), detail);
        }
        for (offset, what, object) in wrong.differs {
            self.found(OffsetRange { first: offset, next: offset + 1 }, object, what);
        }
    }

    fn found(&mut self, range: OffsetRange, object: String, detail: String) {
        if self.outcome.findings.len() < MOST_FINDINGS {
            let (what, range) = (What::Difference, Some(range));
            self.outcome.findings.push(Finding { what, object, range, detail });
        } else {
            self.more += 1;
        }
    }
}

impl Side for Comparison {
    fn first(&self) -> Offset {
        self.first
    }

    async fn deleted(&mut self, range: OffsetRange) -> Result<bool> {
        let mut object = None;
        self.log_start = range.next;
        while let Some((held, _)) = &self.at {
            object = object.or_else(|| Some(held.object.clone()));
            if held.range.next > range.next {
                break;
            }
            self.advance().await?;
        }
        let next = if self.at.is_some() { range.next } else { self.end_of_archive().min(range.next) };
        let range = Some(OffsetRange { first: range.first, next });
        let detail = "the source has deleted them since".to_owned();
        let object = object.unwrap_or_default();
        self.outcome.findings.push(Finding { what: What::NoLongerThere, object, range, detail });
        self.is_over(next).await
    }

    async fn batch(&mut self, from: Offset, header: &Header, bytes: &Bytes) -> Result<()> {
        let from = from.max(header.base_offset).max(self.first);
        self.pass_over(header.base_offset).await?;
        let next = header.next_offset();
        match &self.at {
            Some((held, None)) if held.bytes == *bytes && held.range.next == next => {
                self.count(OffsetRange { first: from, next }, bytes.len());
                self.advance().await
            }
            None if self.end_of_archive() <= from => Ok(()),
            Some((held, _)) if held.is_staged && held.range.first < next => {
                let range = OffsetRange { first: held.range.first.max(from), next };
                let is_known = !held.has_unknown_stages;
                let (all, _, all_known) = self.staged.get_or_insert_with(|| (range, held.object.clone(), is_known));
                all.next = next;
                *all_known &= is_known;
                self.pass_over(next).await
            }
            _ => self.records(from, header, bytes).await,
        }
    }

    async fn is_over(&mut self, next: Offset) -> Result<bool> {
        self.told = self.told.max(next);
        self.pass_over(next).await?;
        Ok(self.at.is_none() && next >= self.end_of_archive())
    }

    async fn end(mut self) -> Result<Outcome> {
        self.pass_over(self.told).await?;
        if self.at.is_some() {
            self.held.skip_to_end().await?;
        }
        let end = self.end_of_archive();
        let left = OffsetRange { first: self.told, next: end };
        let mut outcome = self.give_up();
        outcome.left = (!left.is_empty()).then_some(Some(left));
        Ok(outcome)
    }

    fn give_up(mut self) -> Outcome {
        if let Some((count, range, object)) = self.taken.take() {
            let detail = match count {
                0 => {
                    "the source's log cleaner has written them anew; the records that are left are the same".to_owned()
                }
                count => {
                    format!("the source's log cleaner has taken {count} records; those that are left are the same")
                }
            };
            self.outcome.findings.push(Finding { what: What::Compacted, object, range: Some(range), detail });
        }
        if let Some((range, object)) = self.unread.take() {
            let detail = "they could not be compared: the archive's side cannot be read".to_owned();
            self.outcome.findings.push(Finding { what: What::Unchecked, object, range: Some(range), detail });
        }
        if let Some((range, object, is_known)) = self.staged.take() {
            let went = if is_known { "they went" } else { "they went, or may have gone," };
            let detail = format!("{went} through stages of plugins, and are not what the source had");
            self.outcome.findings.push(Finding { what: What::Unchecked, object, range: Some(range), detail });
        }
        if self.more > 0
            && let Some(last) = self.outcome.findings.iter().rfind(|finding| finding.what == What::Difference)
        {
            let detail = format!("{} more findings like these", self.more);
            let (what, object, range) = (What::Difference, last.object.clone(), None);
            self.outcome.findings.push(Finding { what, object, range, detail });
        }
        self.outcome
    }
}

/// What the archive has at an offset of the source.
enum Found {
    /// A record, of this segment.
    Record(Box<Record>, String),
    /// None; the segment before which, or in which, it is missing.
    Lacking(Option<String>),
    /// It cannot be read: its segment was passed over.
    Unread,
    /// A batch of this segment that cannot be read.
    Broken(String, Error),
    /// The archive ends before it.
    Beyond,
}

fn decoded(held: &HeldBatch) -> Result<VecDeque<Record>> {
    let mut records = VecDeque::new();
    for record in Records::of(&held.header, &held.bytes)? {
        let record = record?;
        if held.range.contains(record.offset) {
            records.push_back(record);
        }
    }
    Ok(records)
}

/// Says what of two headers the log cleaner cannot have changed; a batch of an older format has only records.
fn header_differs(held: &Header, source: &Header) -> Option<String> {
    /// Kind of timestamp, transactional, control.
    const KEPT: i16 = 0x08 | 0x10 | 0x20;
    if held.base_offset != source.base_offset || held.is_converted() || source.is_converted() || held.is_gap() {
        return None;
    }
    let pairs = [
        ("last offset", held.last_offset(), source.last_offset()),
        ("leader epoch", held.leader_epoch.into(), source.leader_epoch.into()),
        ("attributes", (held.attributes & KEPT).into(), (source.attributes & KEPT).into()),
        ("producer id", held.producer_id, source.producer_id),
        ("producer epoch", held.producer_epoch.into(), source.producer_epoch.into()),
        ("base sequence", held.base_sequence.into(), source.base_sequence.into()),
    ];
    let (name, held, source) = pairs.into_iter().find(|(_, held, source)| held != source)?;
    Some(format!("the batch's {name} is {held} in the archive and {source} at the source"))
}

/// Says what of two records of one offset differs.
fn record_differs(held: &Record, source: &Record) -> Option<String> {
    let differs = [
        ("key", held.key != source.key),
        ("value", held.value != source.value),
        ("timestamp", held.timestamp != source.timestamp),
        ("headers", held.headers != source.headers),
    ];
    let (name, _) = differs.into_iter().find(|(_, differs)| *differs)?;
    Some(format!("the record's {name} is another at the source"))
}
