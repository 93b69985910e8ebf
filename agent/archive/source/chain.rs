//! The way along a partition's segments, and what is found wrong on it.
//!
//! Order: segments come by offset, each with the sidecar that fits it; findings stand between them at their place.
//! Memory: the names of one folder, and a few sidecars, which are read [`ahead`](super::ahead). A listing is no
//! snapshot: while an agent writes, it may show a segment and not the one before. So before anything is called missing,
//! the folder is listed again. Cancel: a dropped walk is void.

use xxhash_rust::xxh3::Xxh3;

use super::Place;
use super::ahead::Ahead;
use super::chunks::{Chunks, Segment};
pub use super::finding::{Finding, What, verdict};
use crate::archive::sidecar::{self, Sidecar};
use crate::archive::{Archive, Segments, begin, catalogs, layout};
use crate::batch;
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, OffsetRange};
use crate::store::Store;

/// A step along a chain.
pub enum Link {
    /// The next segment.
    Segment(Box<Segment>),
    /// Something that is not as it should be, at this place.
    Finding(Finding),
}

/// A walk along the chain of one place.
pub struct Chain {
    store: Store,
    place: Place,
    listing: Segments,
    /// Index of the next log in the listing.
    at: usize,
    /// Where the next segment must begin; `None` at the head, and behind a segment that does not tell its end.
    next: Option<Offset>,
    passed_head: bool,
    /// Whether it was looked at where the chain begins.
    begun: bool,
    /// Index of the next sidecar to look at once the logs are through.
    sidecar_at: usize,
    /// Where on the chain the folder was listed again.
    relisted: Option<Relisted>,
    /// How often it was.
    relists: u32,
    /// Only what begins in `[first, next)` was listed, and is listed again; `next` is [`Offset::MAX`] for the end.
    part: Option<OffsetRange>,
    ahead: Ahead,
}

/// How often a folder is listed again on one walk. Each time is for what a writer did while it was listed, at the chain's
/// end; a chain that has lost all its sidecars would be listed once for each.
const MOST_RELISTS: u32 = 8;

/// A place at which the folder was listed again; there it is believed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relisted {
    Before(Option<Offset>),
    AtEnd,
}

impl Chain {
    /// Lists the segments at `place`; a folder that is not there is an empty chain.
    pub async fn open(archive: &Archive, place: &Place) -> Result<Self> {
        let listing = Segments::new(archive.store().list(&place.folder).await?);
        Ok(Self::listed(archive, place, listing))
    }

    /// Walks along the chain at `place`; `listing` is all of its folder.
    pub(in crate::archive) fn listed(archive: &Archive, place: &Place, listing: Segments) -> Self {
        Self {
            store: archive.store().clone(),
            place: place.clone(),
            listing,
            at: 0,
            // A fork's name says where it begins.
            next: place.fork.map(|fork| fork.end),
            passed_head: place.fork.is_some(),
            begun: place.fork.is_some(),
            sidecar_at: 0,
            relisted: None,
            relists: 0,
            part: None,
            ahead: Ahead::default(),
        }
    }

    /// Walks along a part of the chain at `place`, where a segment begins that another follows, or the chain's first;
    /// `listing` is what was listed of it.
    pub(in crate::archive) fn part(archive: &Archive, place: &Place, part: OffsetRange, listing: Segments) -> Self {
        Self {
            store: archive.store().clone(),
            place: place.clone(),
            listing,
            at: 0,
            next: Some(part.first),
            passed_head: true,
            begun: true,
            sidecar_at: 0,
            relisted: None,
            relists: 0,
            part: Some(part),
            ahead: Ahead::default(),
        }
    }

    /// Lists the segments at `place` to walk from `first` on, where one begins that another follows: what lies before is
    /// passed over unseen.
    pub async fn open_from(archive: &Archive, place: &Place, first: Offset) -> Result<Self> {
        if let Some(listed) = archive.store().list_after(&place.folder, &format!("{first:020}")).await? {
            let part = OffsetRange { first, next: Offset::MAX };
            return Ok(Self::part(archive, place, part, Segments::new(listed)));
        }
        let chain = Self::open(archive, place).await?;
        let at = chain.listing.logs.partition_point(|&(offset, _)| offset < first);
        Ok(Self { at, next: Some(first), passed_head: true, begun: true, ..chain })
    }

    /// Returns where the chain lies.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Returns where the walk has come to: the end of the last segment, or where the first one must begin; `None` when
    /// neither is known.
    pub fn reached(&self) -> Option<Offset> {
        self.next
    }

    /// Returns how many logs there are, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        (self.listing.logs.len(), self.listing.logs.iter().map(|&(_, length_bytes)| length_bytes).sum())
    }

    /// Returns the names in the chain's folder that are neither of segments nor of what belongs to them; folders with a
    /// slash at their end.
    pub fn strange(&self) -> &[String] {
        &self.listing.strange
    }

    /// Takes the next step; `None` behind the last.
    ///
    /// # Errors
    /// Those of the store. What is damaged is a finding, not an error.
    pub async fn next(&mut self) -> Result<Option<Link>> {
        if !std::mem::replace(&mut self.begun, true)
            && let Some(finding) = self.begin().await?
        {
            return Ok(Some(Link::Finding(finding)));
        }
        loop {
            let Some(&(first, length_bytes)) = self.listing.logs.get(self.at) else {
                if self.has_open_end() && self.relist(Relisted::AtEnd).await? {
                    continue;
                }
                return Ok(self.ending());
            };
            if let Some(next) = self.next
                && first < next
            {
                self.at += 1;
                let detail = format!("it lies inside the segment that ends before offset {next}");
                return Ok(Some(self.found(What::Debris, self.log(first), None, detail)));
            }
            let missing = self.next.is_some_and(|next| first > next);
            let bare = self.listing.sidecars(first, length_bytes).next().is_none();
            if (missing || bare) && self.relist(Relisted::Before(self.next)).await? {
                continue;
            }
            if let Some(next) = self.next.filter(|_| missing) {
                self.next = Some(first);
                return Ok(Some(self.hole(next, first)));
            }
            return self.segment(first, length_bytes).await.map(Some);
        }
    }

    /// Looks at where the chain begins by its own word.
    async fn begin(&mut self) -> Result<Option<Finding>> {
        if !self.listing.has_begin {
            return Ok(None);
        }
        let object = self.store.describe(&format!("{}{}", self.place.folder, layout::BEGIN));
        let begin = match begin::read(&self.store, &self.place.partition, &self.place.folder).await {
            Ok(Some(begin)) => begin.offset,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == Kind::Damaged => {
                let detail = error.to_string();
                return Ok(Some(Finding { what: What::DamagedObject, object, range: None, detail }));
            }
            Err(error) => return Err(error),
        };
        match self.listing.logs.first() {
            Some(&(first, _)) if first < begin => {
                let detail =
                    format!("the chain begins at offset {first} already, before offset {begin} that was kept for it");
                Ok(Some(Finding { what: What::EarlyBegin, object, range: None, detail }))
            }
            _ => {
                (self.next, self.passed_head) = (Some(begin), true);
                Ok(None)
            }
        }
    }

    /// Steps to the segment at `first`, or says why it cannot be read.
    async fn segment(&mut self, first: Offset, length_bytes: u64) -> Result<Link> {
        match self.sidecar_of(first, length_bytes).await {
            Ok((key, sidecar)) => {
                let headless = !self.passed_head && sidecar.kind == sidecar::Kind::Data && first > 0;
                self.passed_head = true;
                if headless {
                    // The same log comes again, and is then where it belongs.
                    self.next = Some(first);
                    let below = self.listing.sidecars.first().map_or(0, |&(below, ..)| below);
                    return Ok(self.hole(if below < first { below } else { 0 }, first));
                }
                self.at += 1;
                self.next = Some(sidecar.range.next);
                Ok(Link::Segment(Box::new(Segment::new(self.store.clone(), self.log(first), key, sidecar))))
            }
            Err(error) if error.kind() == Kind::Damaged => {
                self.passed_head = true;
                self.at += 1;
                let (what, detail) = self.why_unread(first, length_bytes, &error);
                // Where the next segment begins is a function of the log alone; a cut log leaves it to its sidecar.
                self.next = match self.end_of_log(first, length_bytes).await? {
                    Some(end) => Some(end),
                    None => self.end_by_sidecar(first).await?,
                };
                let range = self.next.map(|next| OffsetRange { first, next });
                Ok(self.found(what, self.log(first), range, detail))
            }
            Err(error) => Err(error),
        }
    }

    /// Finds the sidecar of the log at `first`: the one of its length and, if two fit, of its digest.
    async fn sidecar_of(&mut self, first: Offset, length_bytes: u64) -> Result<(String, Sidecar)> {
        let mut fitting: Vec<u128> = self.listing.sidecars(first, length_bytes).collect();
        if fitting.len() > 1 {
            let digest = self.digest_of_log(first, length_bytes).await?;
            fitting.retain(|&fits| fits == digest);
        }
        let Some(&digest) = fitting.first() else {
            return Err(Error::damaged("segment has no sidecar that fits its log"));
        };
        let key = format!("{}{}", self.place.folder, layout::sidecar(first, length_bytes, digest));
        let following = self.listing.logs.get(self.at + 1..).unwrap_or_default().iter();
        // Of two that fit one log, the log's digest must tell: in its turn.
        let upcoming = following.filter_map(|&(first, length_bytes)| {
            let mut fitting = self.listing.sidecars(first, length_bytes);
            fitting.next().filter(|_| fitting.next().is_none()).map(|digest| (first, length_bytes, digest))
        });
        let wanted = (first, length_bytes, digest);
        let Some(bytes) = self.ahead.read(&self.store, &self.place.folder, wanted, upcoming).await? else {
            return Err(Error::transient("sidecar went while we read it").with("object", self.store.describe(&key)));
        };
        let sidecar = Sidecar::decode(&bytes).map_err(|error| error.with("sidecar", &key))?;
        let partition = &self.place.partition;
        let fits = sidecar.range.first == first
            && sidecar.range.next > first
            && sidecar.length_bytes == length_bytes
            && sidecar.digest == digest
            && sidecar.topic_id == partition.topic_id
            && sidecar.partition == partition.index;
        if fits {
            Ok((key, sidecar))
        } else {
            Err(Error::damaged("sidecar describes another segment").with("sidecar", key))
        }
    }

    /// Says what is wrong with a segment that has no readable sidecar.
    fn why_unread(&self, first: Offset, length_bytes: u64, error: &Error) -> (What, String) {
        if self.listing.sidecars(first, length_bytes).next().is_some() {
            return (What::DamagedSidecar, error.to_string());
        }
        match self.listing.sidecars.iter().find(|sidecar| sidecar.0 == first) {
            Some((_, other, _)) => (What::DamagedLog, format!("it has {length_bytes} bytes, its sidecar says {other}")),
            None => (What::NoSidecar, "the segment has no sidecar: its aborted transactions are unknown".to_owned()),
        }
    }

    async fn digest_of_log(&self, first: Offset, length_bytes: u64) -> Result<u128> {
        const PIECE_BYTES: u64 = 4 << 20;
        let key = format!("{}{}", self.place.folder, layout::log(first));
        let mut digest = Xxh3::new();
        let mut at = 0;
        while at < length_bytes {
            let bytes = self.store.read_range(&key, at..length_bytes.min(at + PIECE_BYTES)).await?;
            if bytes.is_empty() {
                return Err(Error::damaged("log is shorter than it was listed"));
            }
            digest.update(&bytes);
            at += bytes.len() as u64;
        }
        Ok(digest.digest128())
    }

    /// Reads the log's batches for the offset behind the last one; `None` where the log does not tell it.
    async fn end_of_log(&self, first: Offset, length_bytes: u64) -> Result<Option<Offset>> {
        let key = format!("{}{}", self.place.folder, layout::log(first));
        let mut chunks = Chunks::new(&self.store, &key, length_bytes);
        let mut end = None;
        loop {
            let chunk = match chunks.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(end),
                Err(error) if error.kind() == Kind::Damaged => return Ok(None),
                Err(error) => return Err(error),
            };
            for item in batch::walk(&chunk.bytes) {
                let Ok((at, header)) = item else { return Ok(None) };
                if !batch::crc_matches(&chunk.bytes[at..at + header.total_bytes]) {
                    return Ok(None);
                }
                end = Some(header.next_offset());
            }
        }
    }

    /// Asks the sidecar of the segment at `first` for its end, whatever length of log it describes; `None` unless there
    /// is a single one that can be read.
    async fn end_by_sidecar(&self, first: Offset) -> Result<Option<Offset>> {
        let mut others = self.listing.sidecars.iter().filter(|sidecar| sidecar.0 == first);
        let (Some(&(_, length_bytes, digest)), None) = (others.next(), others.next()) else { return Ok(None) };
        let key = format!("{}{}", self.place.folder, layout::sidecar(first, length_bytes, digest));
        let bytes = self.store.read(&key).await?.unwrap_or_default();
        Ok(Sidecar::decode(&bytes).ok().map(|sidecar| sidecar.range.next).filter(|&next| next > first))
    }

    /// Looks at the sidecars whose log is not there. One at the chain's tip is unfinished work; one beyond it was
    /// written by somebody who had seen the segments between.
    fn ending(&mut self) -> Option<Link> {
        let tip = match (self.next, self.listing.logs.is_empty()) {
            (Some(next), _) => next,
            (None, true) => self.listing.sidecars.first()?.0,
            // The last segment does not tell its end; it has been reported.
            (None, false) => return None,
        };
        while let Some(&(first, length_bytes, digest)) = self.listing.sidecars.get(self.sidecar_at) {
            self.sidecar_at += 1;
            if first < tip {
                continue;
            }
            let key = format!("{}{}", self.place.folder, layout::sidecar(first, length_bytes, digest));
            if first == tip {
                let detail = "its log is not there: a writer stopped before the commit, or is still writing".to_owned();
                return Some(self.found(What::Unfinished, key, None, detail));
            }
            self.next = Some(first);
            return Some(self.hole(tip, first));
        }
        None
    }

    /// Returns whether there is a sidecar at or beyond the end of the last segment.
    fn has_open_end(&self) -> bool {
        self.listing.sidecars.last().is_some_and(|&(first, ..)| self.next.is_none_or(|next| first >= next))
    }

    /// Lists the folder again, unless that was done here; at the end only once, or a busy writer would keep us for ever.
    async fn relist(&mut self, here: Relisted) -> Result<bool> {
        if self.relisted == Some(here) || self.relisted == Some(Relisted::AtEnd) || self.relists == MOST_RELISTS {
            return Ok(false);
        }
        self.relisted = Some(here);
        self.relists += 1;
        // What was passed is not passed again, also where it did not tell its end.
        let passed = self.at.checked_sub(1).and_then(|last| self.listing.logs.get(last)).map(|&(first, _)| first);
        self.listing = match self.part {
            None => Segments::new(self.store.list(&self.place.folder).await?),
            Some(part) => {
                let until = Some(part.next).filter(|until| *until < Offset::MAX);
                catalogs::segments_from(&self.store, &self.place, part.first, until).await?
            }
        };
        let behind = self.next.max(passed.map(|passed| passed + 1));
        self.at = self.listing.logs.partition_point(|&(first, _)| behind.is_some_and(|behind| first < behind));
        Ok(true)
    }

    fn hole(&self, first: Offset, next: Offset) -> Link {
        let named = |(sidecar, ..): &&(Offset, u64, u128)| first <= *sidecar && *sidecar < next;
        let detail = match self.listing.sidecars.iter().find(named) {
            Some(&(lost, ..)) => format!("the segment at offset {lost} is lost: its sidecar is there, its log is not"),
            None => "no segment covers them".to_owned(),
        };
        self.found(What::Hole, self.log(first), Some(OffsetRange { first, next }), detail)
    }

    fn found(&self, what: What, key: String, range: Option<OffsetRange>, detail: String) -> Link {
        Link::Finding(Finding { what, object: self.store.describe(&key), range, detail })
    }

    fn log(&self, first: Offset) -> String {
        format!("{}{}", self.place.folder, layout::log(first))
    }
}
