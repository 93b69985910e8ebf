//! A segment checked against itself: each batch's checksum, the log's digest, and whether the sidecar tells the truth
//! about the log.
//!
//! Memory: one chunk of the log. Nothing is decompressed but a batch with missing offsets at either end of the
//! segment. What the sidecar alone knows (aborted transactions) cannot be checked against anything; its own checksum
//! stands for it.

use xxhash_rust::xxh3::Xxh3;

use super::chain::{Finding, What};
use super::chunks::{Chunk, Segment};
use crate::batch::{self, Header, records};
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, OffsetRange, Timestamp};

/// Findings of one segment that are told one by one; thousands of them say no more.
const MOST_FINDINGS: usize = 10;

/// What a segment was found to be.
#[derive(Debug, Default)]
pub struct Audit {
    /// Batches read.
    pub batches: u64,
    /// Records that a read-committed reader gets.
    pub records: u64,
    /// What is wrong; at most a few, the last of which says how many more.
    pub findings: Vec<Finding>,
}

/// Reads the whole log of `segment` and checks it.
///
/// # Errors
/// Those of the store: then nothing is known. Damage is a finding.
pub async fn audit(segment: &Segment) -> Result<Audit> {
    let mut tally = Tally::new(segment);
    let mut chunks = segment.chunks(0);
    loop {
        match chunks.next().await {
            Ok(Some(chunk)) if tally.chunk(&chunk) => {}
            Ok(Some(_)) => break,
            Ok(None) => {
                tally.end();
                break;
            }
            Err(error) if error.kind() == Kind::Damaged => {
                tally.rest_is_lost(&error);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(tally.finish())
}

struct Tally<'a> {
    segment: &'a Segment,
    digest: Xxh3,
    /// The offset behind the last batch; the segment's first before any.
    next: Offset,
    batches: u64,
    converted: u64,
    records: u64,
    first_record: Option<Offset>,
    last_record: LastRecord,
    max_time: Option<Timestamp>,
    /// Entries of the sidecar whose batch was met.
    entries: usize,
    findings: Vec<Finding>,
    more: usize,
}

/// The last visible record: known, or inside a batch that must be opened for it.
enum LastRecord {
    Known(Option<Offset>),
    In(bytes::Bytes, Header),
}

impl<'a> Tally<'a> {
    fn new(segment: &'a Segment) -> Self {
        Self {
            segment,
            digest: Xxh3::new(),
            next: segment.sidecar.range.first,
            batches: 0,
            converted: 0,
            records: 0,
            first_record: None,
            last_record: LastRecord::Known(None),
            max_time: None,
            entries: 0,
            findings: Vec::new(),
            more: 0,
        }
    }

    /// Takes the next chunk; `false` when the log cannot be followed any further.
    fn chunk(&mut self, chunk: &Chunk) -> bool {
        self.digest.update(&chunk.bytes);
        for item in batch::walk(&chunk.bytes) {
            let (at, header) = match item {
                Ok(item) => item,
                Err(error) => {
                    self.rest_is_lost(&error.with("chunk at", chunk.position));
                    return false;
                }
            };
            let bytes = &chunk.bytes[at..at + header.total_bytes];
            let position = chunk.position + at as u64;
            if !batch::crc_matches(bytes) {
                let what = format!("the batch at position {position} does not match its checksum");
                self.damaged_log(covered(&header), what);
            } else if header.next_offset() <= self.next || (self.batches > 0 && header.base_offset < self.next) {
                let what = format!("the batch at position {position} goes back in offsets, {} was expected", self.next);
                self.damaged_log(covered(&header), what);
            } else if let Err(error) = self.count(&chunk.bytes, at, &header) {
                self.damaged_log(covered(&header), format!("the batch at position {position}: {error}"));
            }
            self.place(position, &header);
            self.next = self.next.max(header.next_offset());
            self.batches += 1;
            self.converted += u64::from(header.is_converted());
        }
        true
    }

    /// Counts a sound batch as a read-committed reader does.
    fn count(&mut self, bytes: &bytes::Bytes, at: usize, header: &Header) -> Result<()> {
        if header.count > 0 && !header.is_control() {
            self.max_time = self.max_time.max(Some(header.max_timestamp));
        }
        if !self.segment.is_visible(header) {
            return Ok(());
        }
        let first = self.segment.sidecar.range.first;
        let bytes = bytes.slice(at..at + header.total_bytes);
        if header.base_offset < first || (self.first_record.is_none() && !header.is_dense()) {
            let survey = records::survey(&bytes, header, first)?;
            self.records += u64::from(survey.count);
            self.first_record = self.first_record.or(survey.first);
        } else {
            self.records += header.count as u64;
            self.first_record = self.first_record.or(Some(header.base_offset));
        }
        self.last_record = if header.is_dense() {
            LastRecord::Known(Some(header.last_offset()))
        } else {
            LastRecord::In(bytes, *header)
        };
        Ok(())
    }

    /// Counts the sidecar's entries that point at this batch, rightly.
    fn place(&mut self, position: u64, header: &Header) {
        let entry = self.segment.sidecar.entries.get(self.entries);
        if entry.is_some_and(|entry| entry.position == position && entry.offset == header.base_offset) {
            self.entries += 1;
        }
    }

    /// Compares what was read with what the sidecar says.
    fn end(&mut self) {
        if !self.findings.is_empty() {
            // A damaged batch changes digest and counts, too; that would tell the same again.
            return;
        }
        let range = self.segment.sidecar.range;
        if self.digest.digest128() != self.segment.sidecar.digest {
            self.damaged_log(
                range,
                "its bytes do not match the sidecar's digest, though each batch is sound".to_owned(),
            );
            return;
        }
        let last_record = match std::mem::replace(&mut self.last_record, LastRecord::Known(None)) {
            LastRecord::Known(last) => last,
            LastRecord::In(bytes, header) => match records::survey(&bytes, &header, range.first) {
                Ok(survey) => survey.last,
                Err(error) => {
                    self.damaged_log(covered(&header), error.to_string());
                    return;
                }
            },
        };
        let sidecar = &self.segment.sidecar;
        let pairs = [
            ("next offset", sidecar.range.next.to_string(), self.next.to_string()),
            ("batches", sidecar.batches.to_string(), self.batches.to_string()),
            ("converted batches", sidecar.converted.to_string(), self.converted.to_string()),
            ("records", sidecar.records.to_string(), self.records.to_string()),
            ("first record", format!("{:?}", sidecar.first_record), format!("{:?}", self.first_record)),
            ("last record", format!("{:?}", sidecar.last_record), format!("{last_record:?}")),
            ("max time", format!("{:?}", sidecar.max_time), format!("{:?}", self.max_time)),
            ("entries", sidecar.entries.len().to_string(), self.entries.to_string()),
        ];
        for (field, said, found) in pairs.into_iter().filter(|(_, said, found)| said != found) {
            let detail = format!("it says {field} {said}, the log has {found}");
            let object = self.segment.describe_sidecar();
            self.found(Finding { what: What::DamagedSidecar, object, range: Some(range), detail });
        }
    }

    /// Says that from here on the log cannot be read.
    fn rest_is_lost(&mut self, error: &Error) {
        let range = OffsetRange { first: self.next, next: self.segment.sidecar.range.next };
        self.damaged_log(range, error.to_string());
    }

    fn damaged_log(&mut self, range: OffsetRange, detail: String) {
        let object = self.segment.describe();
        self.found(Finding { what: What::DamagedLog, object, range: Some(range), detail });
    }

    fn found(&mut self, finding: Finding) {
        if self.findings.len() < MOST_FINDINGS { self.findings.push(finding) } else { self.more += 1 }
    }

    fn finish(mut self) -> Audit {
        if self.more > 0 {
            let (object, detail) = (self.segment.describe(), format!("{} more findings like these", self.more));
            let range = Some(self.segment.sidecar.range);
            self.findings.push(Finding { what: What::DamagedLog, object, range, detail });
        }
        Audit { batches: self.batches, records: self.records, findings: self.findings }
    }
}

fn covered(header: &Header) -> OffsetRange {
    OffsetRange { first: header.base_offset, next: header.next_offset() }
}
