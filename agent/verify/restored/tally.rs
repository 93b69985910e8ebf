//! What is found of one restored pair, counted: the first record that differs, and how many of each kind.
//!
//! Of a compacted target a record may be gone when its key came again behind it, or when it was a tombstone. Memory: the
//! keys that were missed and have not come again, up to [`MOST_MISSED`].

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::archive::source::chain::{Finding, What};
use crate::batch::Header;
use crate::batch::records::Record;
use crate::batch::records::digest::RecordDigest;
use crate::error::Result;
use crate::record::{Offset, OffsetRange};
use crate::verify::cluster::comparer::Counted;

/// Keys that are remembered because a log cleaner has taken their record: some 40 MiB. With half of it a topic of many
/// keys could not be compared, with double it would cost memory for few.
const MOST_MISSED: usize = 1 << 20;

/// The digests of both sides: one, as long as they are the same.
#[derive(Default)]
pub(super) struct Digests {
    same: RecordDigest,
    apart: Option<[RecordDigest; 2]>,
}

impl Digests {
    /// Adds a record that both sides have.
    pub(super) fn of_both(&mut self, record: &Record) {
        match &mut self.apart {
            None => self.same.add_record(record),
            Some(apart) => apart.iter_mut().for_each(|digest| digest.add_record(record)),
        }
    }

    /// Adds a batch that both sides have.
    ///
    /// # Errors
    /// As [`RecordDigest::add_batch`].
    pub(super) fn of_batch(&mut self, header: &Header, bytes: &[u8]) -> Result<()> {
        match &mut self.apart {
            None => self.same.add_batch(header, bytes, |_, _| true),
            Some(apart) => apart.iter_mut().try_for_each(|digest| digest.add_batch(header, bytes, |_, _| true)),
        }
    }

    /// Adds a record of the archive.
    pub(super) fn of_archive(&mut self, record: &Record) {
        self.apart()[0].add_record(record);
    }

    /// Adds a record of the target.
    pub(super) fn of_target(&mut self, record: &Record) {
        self.apart()[1].add_record(record);
    }

    fn apart(&mut self) -> &mut [RecordDigest; 2] {
        let same = &self.same;
        self.apart.get_or_insert_with(|| [same.clone(), same.clone()])
    }

    /// Returns what the archive's side and the target's come to.
    pub(super) fn counted(&self) -> [Counted; 2] {
        let counted = |digest: &RecordDigest| Counted { records: digest.records(), digest: digest.to_string() };
        match &self.apart {
            None => [counted(&self.same), counted(&self.same)],
            Some([archive, target]) => [counted(archive), counted(target)],
        }
    }
}

/// Records, and between which source offsets they lie.
#[derive(Default)]
struct Stretch(Option<(u64, OffsetRange)>);

/// What was found.
#[derive(Default)]
pub(super) struct Tally {
    is_compacted: bool,
    differing: u64,
    first: Option<Difference>,
    /// Records that the target has deleted.
    deleted: Stretch,
    /// Records that the target has and that the archive's side could not be read for.
    unread: Stretch,
    /// Records to which the target has given a time of its own.
    stamped: Stretch,
    /// Records that a log cleaner has taken.
    taken: Stretch,
    /// Those among them of which nobody knows whether it was right to.
    unclear: Stretch,
    /// By their keys, the records that are missing and whose key has not come again: where they were.
    missed: HashMap<u64, (Offset, Offset)>,
    has_missed_too_many: bool,
}

/// A record that differs.
struct Difference {
    source: Option<Offset>,
    target: Option<Offset>,
    what: &'static str,
    object: String,
}

impl Tally {
    /// Makes an empty one.
    pub(super) fn new(is_compacted: bool) -> Self {
        Self { is_compacted, ..Self::default() }
    }

    /// Takes note of a record that differs.
    pub(super) fn differ(
        &mut self,
        source: Option<Offset>,
        target: Option<Offset>,
        what: &'static str,
        object: String,
    ) {
        self.differing += 1;
        let _ = self.first.get_or_insert(Difference { source, target, what, object });
    }

    /// Takes note that the target has deleted a record.
    pub(super) fn deleted(&mut self, source: Offset) {
        self.deleted.add(source);
    }

    /// Takes note that the target has a record for which the archive's side cannot be read.
    pub(super) fn unread(&mut self, source: Offset) {
        self.unread.add(source);
    }

    /// Takes note that something of the archive could not be read, whatever it was.
    pub(super) fn damaged(&mut self, range: OffsetRange) {
        let _ = self.unread.0.get_or_insert((0, range));
    }

    /// Takes note that the target has given a record a time of its own.
    pub(super) fn stamped(&mut self, source: Offset) {
        self.stamped.add(source);
    }

    /// Takes note of a record of the archive, wherever it is: its key has come again.
    pub(super) fn came(&mut self, record: &Record) {
        if let (false, Some(key)) = (self.missed.is_empty(), &record.key) {
            self.missed.remove(&xxh3_64(key));
        }
    }

    /// Takes note of a record that the target does not have.
    pub(super) fn missing(&mut self, record: &Record, target: Offset, object: String) {
        let Some(key) = record.key.as_ref().filter(|_| self.is_compacted) else {
            return self.differ(Some(record.offset), Some(target), "it is missing in the target", object);
        };
        self.taken.add(record.offset);
        // A tombstone may be gone for good.
        if record.value.is_none() {
        } else if self.missed.len() < MOST_MISSED {
            self.missed.insert(xxh3_64(key), (record.offset, target));
        } else {
            self.has_missed_too_many = true;
        }
    }

    /// Returns whether keys are missed.
    pub(super) fn has_missed(&self) -> bool {
        !self.missed.is_empty()
    }

    /// Judges what a log cleaner has taken, now that no record of the archive comes any more: of each key it leaves the
    /// last. `has_later` says whether the target has records that came after the restore, with keys that nobody looked at.
    pub(super) fn judge_missed(&mut self, has_later: bool, folder: &str) {
        let missed = std::mem::take(&mut self.missed);
        if has_later || self.has_missed_too_many {
            missed.values().for_each(|(source, _)| self.unclear.add(*source));
            return;
        }
        let Some((source, target)) = missed.values().min().copied() else { return };
        let what = "it is missing in the target, and is the last of its key";
        self.differing += missed.len() as u64;
        if self.first.as_ref().is_none_or(|first| first.source.is_none_or(|first| source < first)) {
            let (source, target) = (Some(source), Some(target));
            self.first = Some(Difference { source, target, what, object: folder.to_owned() });
        }
    }

    /// Returns whether all records of both sides were compared.
    pub(super) fn is_all(&self) -> bool {
        self.deleted.0.is_none() && self.unread.0.is_none()
    }

    /// Returns what was found between the archive's side in `folder` and `target`.
    pub(super) fn findings(self, folder: &str, target: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(Difference { source, target: at, what, object }) = self.first {
            let offset = |offset: Option<Offset>| offset.map_or("none".to_owned(), |offset| offset.to_string());
            let all = match self.differing {
                1 => String::new(),
                n => format!("; {n} records differ in all"),
            };
            let detail = format!(
                "the record at source offset {}, at offset {} of {target}: {what}{all}",
                offset(source),
                offset(at)
            );
            let range = source.map(|source| OffsetRange { first: source, next: source + 1 });
            findings.push(Finding { what: What::Difference, object, range, detail });
        }
        let told = [
            (What::Unchecked, self.deleted, "the target has deleted them since, and they cannot be compared"),
            (What::Unchecked, self.unread, "the archive's side cannot be read, and they cannot be compared"),
            (What::Unchecked, self.stamped, "the target gives records times of its own, which cannot be compared"),
            (
                What::Unchecked,
                self.unclear,
                "the target's log cleaner may have taken them for later records of their keys, which cannot be told",
            ),
            (What::Compacted, self.taken, "the target's log cleaner has taken them"),
        ];
        for (what, Stretch(told), why) in told {
            if let Some((count, range)) = told {
                let records = match count {
                    0 => "records".to_owned(),
                    1 => "1 record".to_owned(),
                    n => format!("{n} records"),
                };
                let detail = format!("{records} of {target}: {why}");
                findings.push(Finding { what, object: folder.to_owned(), range: Some(range), detail });
            }
        }
        findings
    }
}

impl Stretch {
    /// Counts a record, and widens the stretch to it.
    fn add(&mut self, source: Offset) {
        let (count, range) = self.0.get_or_insert((0, OffsetRange { first: source, next: source }));
        *count += 1;
        (range.first, range.next) = (range.first.min(source), range.next.max(source + 1));
    }
}
