//! One segment, read: its batches in chunks, and which of its records a read-committed reader sees.
//!
//! Order: chunks come front to back, each of whole batches. Memory: one chunk, or one batch where that is larger. A
//! chunk's checksums are the caller's to check. Cancel safe: a dropped read has moved nothing.

use bytes::Bytes;

use super::Place;
use crate::archive::catalog::Row;
use crate::archive::sidecar::{Entry, Sidecar, Transaction};
use crate::archive::{Archive, layout};
use crate::batch::{self, Header, LENGTH_PREFIX_BYTES};
use crate::error::{Error, Result};
use crate::record::{Offset, Timestamp};
use crate::store::Store;

/// Bytes of one read. Half of it doubles the requests to an object store; double of it is memory without more speed.
pub(crate) const CHUNK_BYTES: u64 = 4 << 20;

/// One segment of a chain, with the sidecar that describes it.
#[derive(Clone)]
pub struct Segment {
    store: Store,
    /// The log's key, relative to the backup's folder.
    log: String,
    /// The sidecar's key, relative to the backup's folder.
    sidecar_key: String,
    /// What the sidecar says.
    pub sidecar: Sidecar,
}

impl Segment {
    /// Makes the segment whose log and sidecar have these keys in `store`.
    pub(super) fn new(store: Store, log: String, sidecar_key: String, sidecar: Sidecar) -> Self {
        Self { store, log, sidecar_key, sidecar }
    }

    /// Reads the sidecar of the segment of `row` in the chain at `place`.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when it is not there or cannot be read; else the store's.
    pub async fn open(archive: &Archive, place: &Place, row: &Row) -> Result<Self> {
        let Row { range, length_bytes, digest, .. } = *row;
        let key = format!("{}{}", place.folder, layout::sidecar(range.first, length_bytes, digest));
        let damaged = |error: Error| error.with("sidecar", archive.store().describe(&key));
        let bytes = archive.store().read(&key).await?.ok_or_else(|| damaged(Error::damaged("sidecar is lost")))?;
        let sidecar = Sidecar::decode(&bytes).map_err(damaged)?;
        let is_of_row = Row::of(&sidecar) == *row
            && (sidecar.topic_id, sidecar.partition) == (place.partition.topic_id, place.partition.index);
        if !is_of_row {
            return Err(damaged(Error::damaged("sidecar describes another segment")));
        }
        let log = format!("{}{}", place.folder, layout::log(range.first));
        Ok(Self::new(archive.store().clone(), log, key, sidecar))
    }

    /// Returns the log's chunks from `position` on, where a batch begins: 0, or an entry of the sidecar.
    pub fn chunks(&self, position: u64) -> Chunks {
        Chunks { position, ..Chunks::new(&self.store, &self.log, self.sidecar.length_bytes) }
    }

    /// Returns where to begin to read for records at or after `offset`.
    pub fn position_of(&self, offset: Offset) -> u64 {
        self.position(self.entry_of(offset))
    }

    /// Returns where to begin to read for records of `time` or later: none is before it.
    pub fn position_of_time(&self, time: Timestamp) -> u64 {
        self.position(self.entry_of_time(time))
    }

    /// Returns the sidecar's last entry at or before `offset`; the first where there is none.
    pub fn entry_of(&self, offset: Offset) -> Option<&Entry> {
        let entries = &self.sidecar.entries;
        let behind = entries.partition_point(|entry| entry.offset <= offset);
        entries.get(behind.saturating_sub(1))
    }

    /// Returns the sidecar's first entry behind which a record of `time` or later may be; the first where there is none.
    pub fn entry_of_time(&self, time: Timestamp) -> Option<&Entry> {
        let entries = &self.sidecar.entries;
        entries.iter().find(|entry| entry.max_time >= time).or(entries.first())
    }

    fn position(&self, entry: Option<&Entry>) -> u64 {
        let position = entry.map_or(0, |entry| entry.position);
        // `verify` finds an entry beyond the log; here it must not hide the whole segment.
        if position < self.sidecar.length_bytes { position } else { 0 }
    }

    /// Returns whether a batch of this segment has records that a read-committed reader sees. Of one that begins
    /// before the segment, the records before `sidecar.range.first` are not the segment's.
    pub fn is_visible(&self, header: &Header) -> bool {
        self.holds(header)
            && !(header.is_transactional()
                && (self.sidecar.is_aborted(header.producer_id, header.base_offset)
                    || self.sidecar.is_undecided(header.producer_id, header.base_offset)))
    }

    /// Returns the transaction of a batch that has records, if nobody knows any more whether it was aborted: readers
    /// leave it out and say so.
    pub fn undecided(&self, header: &Header) -> Option<&Transaction> {
        let (producer_id, offset) = (header.producer_id, header.base_offset);
        let mut undecided = self.sidecar.undecided.iter();
        undecided.find(|entry| self.holds(header) && header.is_transactional() && entry.covers(producer_id, offset))
    }

    fn holds(&self, header: &Header) -> bool {
        header.count > 0 && !header.is_control() && header.next_offset() > self.sidecar.range.first
    }

    /// Returns the place of the log for people.
    pub fn describe(&self) -> String {
        self.store.describe(&self.log)
    }

    /// Returns the place of the sidecar for people.
    pub fn describe_sidecar(&self) -> String {
        self.store.describe(&self.sidecar_key)
    }
}

/// Whole batches of a log.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Where the first one begins in the log.
    pub position: u64,
    /// The batches, one after the other.
    pub bytes: Bytes,
}

/// A log, chunk by chunk.
pub struct Chunks {
    store: Store,
    log: String,
    length_bytes: u64,
    position: u64,
}

impl Chunks {
    /// Opens the log of that key, which has `length_bytes`.
    pub fn new(store: &Store, log: &str, length_bytes: u64) -> Self {
        Self { store: store.clone(), log: log.to_owned(), length_bytes, position: 0 }
    }

    /// Begins to read at `position`, where a batch begins.
    pub fn starting_at(self, position: u64) -> Self {
        Self { position, ..self }
    }

    /// Reads the next chunk; `None` at the log's end.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when the log ends inside a batch or before its length; else the
    /// store's.
    pub async fn next(&mut self) -> Result<Option<Chunk>> {
        let mut wanted = CHUNK_BYTES;
        loop {
            let left = self.length_bytes.saturating_sub(self.position);
            if left == 0 {
                return Ok(None);
            }
            let wanted_now = wanted.min(left);
            let bytes = self.store.read_range(&self.log, self.position..self.position + wanted_now).await?;
            if bytes.len() as u64 != wanted_now {
                return Err(self.damaged("log is shorter than it was listed"));
            }
            match whole_batches(&bytes) {
                Ok(whole) => {
                    let position = self.position;
                    self.position += whole as u64;
                    return Ok(Some(Chunk { position, bytes: bytes.slice(..whole) }));
                }
                Err(needed) if needed as u64 > left => return Err(self.damaged("log ends inside a batch")),
                Err(needed) => wanted = needed as u64,
            }
        }
    }

    fn damaged(&self, what: &str) -> Error {
        Error::damaged(what).with("object", self.store.describe(&self.log)).with("position", self.position)
    }
}

/// Returns the length of the whole batches at the front of `bytes`; where there is none, the bytes that one needs.
fn whole_batches(bytes: &[u8]) -> Result<usize, usize> {
    let mut whole = 0;
    loop {
        let needed = batch::entry_bytes(&bytes[whole..]).unwrap_or(LENGTH_PREFIX_BYTES);
        if needed > bytes.len() - whole {
            return if whole > 0 { Ok(whole) } else { Err(needed) };
        }
        whole += needed;
    }
}
