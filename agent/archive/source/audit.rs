//! A segment checked against itself: each batch's checksum, the log's digest, and whether the sidecar tells the truth
//! about the log.
//!
//! The sidecar is made anew from the log by the writer's own [`Builder`], with the transactions that it names, and both
//! must be the same but for the note and the time of sealing. Of transactions the log proves a part ([`Markers`]); for
//! the rest the sidecar's own checksum stands.
//!
//! From segment to segment go the aborted transactions that are open ([`Carried`]).
//!
//! Memory: one chunk of the log, a sidecar, and an offset for each producer with an open transaction. Nothing is
//! decompressed but markers, and batches with missing offsets at either end of the segment.

mod carried;
mod markers;

pub use self::carried::Carried;
use self::markers::Markers;
use super::chain::{Finding, What};
use super::chunks::{Chunk, Segment};
use crate::archive::segment::Builder;
use crate::archive::sidecar::{Kind as SegmentKind, Sidecar};
use crate::batch::{self, Header};
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, OffsetRange, Partition};

/// Findings of one segment that are told one by one; thousands of them say no more.
const MOST_FINDINGS: usize = 10;

/// What a segment was found to be.
#[derive(Debug, Default)]
pub struct Audit {
    /// Batches read.
    pub batches: u64,
    /// Records that a read-committed reader gets; of a damaged log what its sidecar says.
    pub records: u64,
    /// What is wrong; at most a few, the last of which says how many more.
    pub findings: Vec<Finding>,
}

/// Reads the whole log of `segment` and checks it, behind what is `carried` along from the segments before.
///
/// # Errors
/// Those of the store: then nothing is known. Damage is a finding.
pub async fn audit(segment: &Segment, carried: &mut Carried) -> Result<Audit> {
    carried.begin(&segment.sidecar);
    let mut tally = Tally::new(segment, carried);
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
    /// The sidecar that the log gives; `None` once the log was found damaged.
    builder: Option<Builder>,
    markers: Markers,
    carried: &'a mut Carried,
    /// Whether the log was read to its end, and every batch is as it was.
    is_sound: bool,
    /// The offset behind the last batch; the segment's first before any.
    next: Offset,
    batches: u64,
    records: u64,
    findings: Vec<Finding>,
    more: usize,
}

impl<'a> Tally<'a> {
    fn new(segment: &'a Segment, carried: &'a mut Carried) -> Self {
        let sidecar = &segment.sidecar;
        let partition = Partition { topic: "".into(), topic_id: sidecar.topic_id, index: sidecar.partition };
        let (aborted, undecided) = (sidecar.aborted.clone(), sidecar.undecided.clone());
        let builder = Builder::decided(&partition, sidecar.range.first, sidecar.kind, aborted, undecided);
        Self {
            segment,
            builder: Some(builder),
            markers: Markers::default(),
            carried,
            is_sound: false,
            next: sidecar.range.first,
            batches: 0,
            records: sidecar.records,
            findings: Vec::new(),
            more: 0,
        }
    }

    /// Takes the next chunk; `false` when the log cannot be followed any further.
    fn chunk(&mut self, chunk: &Chunk) -> bool {
        for item in batch::walk(&chunk.bytes) {
            let (at, header) = match item {
                Ok(item) => item,
                Err(error) => {
                    self.rest_is_lost(&error.with("chunk at", chunk.position));
                    return false;
                }
            };
            let bytes = chunk.bytes.slice(at..at + header.total_bytes);
            let position = chunk.position + at as u64;
            if !batch::crc_matches(&bytes) {
                let what = format!("the batch at position {position} does not match its checksum");
                self.damaged_log(covered(&header), what);
            } else if header.next_offset() <= self.next || (self.batches > 0 && header.base_offset < self.next) {
                let what = format!("the batch at position {position} goes back in offsets, {} was expected", self.next);
                self.damaged_log(covered(&header), what);
            } else {
                self.sound_batch(&header, &bytes, position);
            }
            self.next = self.next.max(header.next_offset());
            self.batches += 1;
        }
        if let Some(builder) = &mut self.builder
            && let Err(error) = builder.append(&chunk.bytes, &[], u64::MAX)
        {
            let range = OffsetRange { first: builder.range().next, next: self.next };
            self.damaged_log(range, format!("the batches from position {} on: {error}", chunk.position));
        }
        true
    }

    /// Holds a sound batch against what the sidecar says of it.
    fn sound_batch(&mut self, header: &Header, bytes: &bytes::Bytes, position: u64) {
        let sidecar = &self.segment.sidecar;
        if (sidecar.kind == SegmentKind::Gap) != header.is_gap() {
            let is = if header.is_gap() { "a gap's" } else { "none of a gap's" };
            let kind = sidecar.kind;
            self.lie(covered(header), format!("it says kind {kind:?}, the batch at position {position} is {is}"));
        }
        if let Some(lie) = self.carried.batch(header, sidecar) {
            self.lie(covered(header), lie);
        }
        match self.markers.batch(header, bytes, &self.segment.sidecar) {
            Ok(None) => {}
            Ok(Some(lie)) => self.lie(covered(header), lie),
            Err(error) => self.damaged_log(covered(header), format!("the marker at position {position}: {error}")),
        }
    }

    /// Compares the sidecar with the one that the log gives.
    fn end(&mut self) {
        let Some(builder) = self.builder.take() else { return };
        let (said, (found, _)) = (&self.segment.sidecar, builder.seal());
        self.records = found.records;
        self.is_sound = found.digest == said.digest;
        if found.digest != said.digest {
            let what = "its bytes do not match the sidecar's digest, though each batch is sound".to_owned();
            self.damaged_log(said.range, what);
            return;
        }
        for lie in self.markers.unmet(said).into_iter().chain(differences(said, &found)) {
            self.lie(self.segment.sidecar.range, lie);
        }
    }

    /// Says that from here on the log cannot be read.
    fn rest_is_lost(&mut self, error: &Error) {
        let range = OffsetRange { first: self.next, next: self.segment.sidecar.range.next };
        self.damaged_log(range, error.to_string());
    }

    fn damaged_log(&mut self, range: OffsetRange, detail: String) {
        // A damaged batch changes digest and counts, too; that would tell the same again.
        self.builder = None;
        let object = self.segment.describe();
        self.found(Finding { what: What::DamagedLog, object, range: Some(range), detail });
    }

    fn lie(&mut self, range: OffsetRange, detail: String) {
        let object = self.segment.describe_sidecar();
        self.found(Finding { what: What::DamagedSidecar, object, range: Some(range), detail });
    }

    fn found(&mut self, finding: Finding) {
        if self.findings.len() < MOST_FINDINGS { self.findings.push(finding) } else { self.more += 1 }
    }

    fn finish(mut self) -> Audit {
        self.carried.end(&self.segment.sidecar, self.is_sound);
        if self.more > 0 {
            let what = self.findings.first().map_or(What::DamagedLog, |first| first.what);
            let (object, detail) = (self.segment.describe(), format!("{} more findings like these", self.more));
            let range = Some(self.segment.sidecar.range);
            self.findings.push(Finding { what, object, range, detail });
        }
        Audit { batches: self.batches, records: self.records, findings: self.findings }
    }
}

fn covered(header: &Header) -> OffsetRange {
    OffsetRange { first: header.base_offset, next: header.next_offset() }
}

/// Returns what a sidecar says otherwise than the one that its log gives; transactions, note and the time of sealing are
/// not among it.
fn differences(said: &Sidecar, found: &Sidecar) -> Vec<String> {
    let pairs = [
        ("first offset", said.range.first.to_string(), found.range.first.to_string()),
        ("next offset", said.range.next.to_string(), found.range.next.to_string()),
        ("bytes", said.length_bytes.to_string(), found.length_bytes.to_string()),
        ("batches", said.batches.to_string(), found.batches.to_string()),
        ("converted batches", said.converted.to_string(), found.converted.to_string()),
        ("records", said.records.to_string(), found.records.to_string()),
        ("first record", format!("{:?}", said.first_record), format!("{:?}", found.first_record)),
        ("last record", format!("{:?}", said.last_record), format!("{:?}", found.last_record)),
        ("max time", format!("{:?}", said.max_time), format!("{:?}", found.max_time)),
        ("min time", format!("{:?}", said.min_time), format!("{:?}", found.min_time)),
        ("entries", said.entries.len().to_string(), found.entries.len().to_string()),
    ];
    let differ = pairs.into_iter().filter(|(_, said, found)| said != found);
    let mut told: Vec<String> =
        differ.map(|(field, said, found)| format!("it says {field} {said}, the log has {found}")).collect();
    if said.entries.len() == found.entries.len()
        && let Some((said, found)) = said.entries.iter().zip(&found.entries).find(|(said, found)| said != found)
    {
        told.push(format!("it has the entry {said:?}, the log gives {found:?}"));
    }
    if said.epochs != found.epochs {
        told.push(format!("it says leader epochs {:?}, the log has {:?}", said.epochs, found.epochs));
    }
    told
}
