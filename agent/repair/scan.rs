//! A log read through whatever is wrong with it: which stretches of it are sound.
//!
//! A batch is sound if its checksum matches, its offsets follow on those before, end within the segment, and are those of
//! the sidecar's entry, where it has one: a batch's checksum does not cover its base offset. Behind one that is not, the next
//! place where a batch may begin is where its length says, or the next entry of the sidecar. Memory: one chunk, or one
//! batch where that is larger.

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::archive::sidecar::Entry;
use crate::batch::{self, Header, LENGTH_PREFIX_BYTES};
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange};
use crate::store::Store;

/// Bytes of one read.
const CHUNK_BYTES: u64 = 4 << 20;

/// Sound batches one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The offsets that they cover, `[first, next)`.
    pub range: OffsetRange,
    /// Where they begin in the log.
    pub position: u64,
    /// Their length in bytes.
    pub bytes: u64,
}

/// What a log was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The sound pieces in order.
    pub pieces: Vec<Piece>,
    /// XXH3-128 of all bytes.
    pub digest: u128,
    /// What was wrong first.
    pub damage: Option<String>,
}

impl Scan {
    /// Returns the offset behind the last sound batch.
    pub fn next(&self) -> Option<Offset> {
        self.pieces.last().map(|piece| piece.range.next)
    }
}

/// What is known of a log without reading it.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// The first offset that it covers.
    pub first: Offset,
    /// Its length in bytes.
    pub length_bytes: u64,
    /// The offset that no batch reaches beyond; [`Offset::MAX`] where it is not known.
    pub next: Offset,
    /// Places where batches begin.
    pub entries: &'a [Entry],
}

impl Told<'_> {
    /// Knows nothing but what a listing tells.
    pub fn listed(first: Offset, length_bytes: u64) -> Self {
        Self { first, length_bytes, next: Offset::MAX, entries: &[] }
    }

    /// Reads the header of the batch at the start of `bytes`, if all of it is there and sound.
    fn sound(&self, bytes: &[u8], position: u64, next: Offset, begun: bool) -> Option<Header> {
        let header = Header::read(bytes).ok().filter(|header| header.total_bytes <= bytes.len())?;
        let at = self.entries.partition_point(|entry| entry.position < position);
        let entry = self.entries.get(at).filter(|entry| entry.position == position);
        let follows = header.next_offset() > next
            && header.next_offset() <= self.next
            && (!begun || header.base_offset >= next)
            && entry.is_none_or(|entry| entry.offset == header.base_offset);
        (follows && batch::crc_matches(&bytes[..header.total_bytes])).then_some(header)
    }
}

/// Reads the log of `key`; `batch` gets each sound batch.
///
/// # Errors
/// Those of the store, and of `batch`. Damage is in what it returns.
pub async fn scan(
    store: &Store,
    key: &str,
    told: Told<'_>,
    mut batch: impl FnMut(&Header, &Bytes) -> Result<()>,
) -> Result<Scan> {
    let Told { first, length_bytes, .. } = told;
    let mut log = Log { store, key, told, digest: Xxh3::new(), digested: 0 };
    let mut scan = Scan { pieces: Vec::new(), digest: 0, damage: None };
    let (mut position, mut next, mut begun) = (0, first, false);
    while position < length_bytes {
        let chunk = log.chunk(position).await?;
        let mut at = 0;
        while let Some(header) = told.sound(&chunk[at..], position + at as u64, next, begun) {
            let bytes = chunk.slice(at..at + header.total_bytes);
            batch(&header, &bytes)?;
            let place = position + at as u64;
            let total = header.total_bytes as u64;
            match scan.pieces.last_mut().filter(|piece| piece.position + piece.bytes == place) {
                Some(piece) => (piece.bytes, piece.range.next) = (piece.bytes + total, header.next_offset()),
                None => {
                    let first = if place == 0 { first } else { header.base_offset };
                    let range = OffsetRange { first, next: header.next_offset() };
                    scan.pieces.push(Piece { range, position: place, bytes: total });
                }
            }
            (next, begun) = (header.next_offset(), true);
            at += header.total_bytes;
        }
        position += at as u64;
        if at == 0 {
            let _ = scan.damage.get_or_insert_with(|| format!("the batch at position {position} is damaged"));
            position = log.resume(position, next, begun, &chunk).await?;
        }
    }
    scan.digest = log.digest().await?;
    Ok(scan)
}

struct Log<'a> {
    store: &'a Store,
    key: &'a str,
    told: Told<'a>,
    digest: Xxh3,
    digested: u64,
}

impl Log<'_> {
    /// Reads from `position` on: at least one batch, where a length can be believed.
    async fn chunk(&mut self, position: u64) -> Result<Bytes> {
        let left = self.told.length_bytes - position;
        let mut bytes = self.read(position, left.min(CHUNK_BYTES)).await?;
        let needed = batch::entry_bytes(&bytes).unwrap_or(LENGTH_PREFIX_BYTES) as u64;
        if needed > bytes.len() as u64 && needed <= left {
            bytes = self.read(position, needed).await?;
        }
        self.digest_up_to(position, &bytes);
        Ok(bytes)
    }

    async fn read(&self, position: u64, length: u64) -> Result<Bytes> {
        let bytes = self.store.read_range(self.key, position..position + length).await?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        Err(Error::transient("a log became shorter while it was read").with("object", self.store.describe(self.key)))
    }

    fn digest_up_to(&mut self, position: u64, bytes: &Bytes) {
        let end = position + bytes.len() as u64;
        if position <= self.digested && self.digested < end {
            self.digest.update(&bytes[(self.digested - position) as usize..]);
            self.digested = end;
        }
    }

    /// Returns where to go on behind the damaged batch at `position`.
    async fn resume(&mut self, position: u64, next: Offset, begun: bool, chunk: &Bytes) -> Result<u64> {
        let Told { length_bytes, entries, .. } = self.told;
        let behind = batch::entry_bytes(chunk).filter(|total| *total > LENGTH_PREFIX_BYTES);
        let behind = behind.map(|total| position + total as u64);
        if behind == Some(length_bytes) {
            return Ok(length_bytes);
        }
        if let Some(behind) = behind.filter(|behind| *behind < length_bytes) {
            let bytes = self.chunk(behind).await?;
            if self.told.sound(&bytes, behind, next, begun).is_some() {
                return Ok(behind);
            }
        }
        let entry = entries.iter().find(|entry| entry.position > position && entry.offset >= next);
        Ok(entry.map_or(length_bytes, |entry| entry.position.min(length_bytes)))
    }

    /// Returns the digest of the whole log.
    async fn digest(mut self) -> Result<u128> {
        while self.digested < self.told.length_bytes {
            let position = self.digested;
            let bytes = self.read(position, (self.told.length_bytes - position).min(CHUNK_BYTES)).await?;
            self.digest_up_to(position, &bytes);
        }
        Ok(self.digest.digest128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::source::tests::Fixture;
    use crate::record::Timestamp;

    fn entry(offset: Offset, position: u64) -> Entry {
        Entry { offset, position, first_time: Timestamp(0), max_time: Timestamp(0), min_time: None }
    }

    /// Returns the ranges of the sound pieces of a log of four batches of ten offsets, with `change` made to its bytes.
    async fn pieces(change: impl FnOnce(&mut Vec<u8>, &[usize]), entries: &[(Offset, usize)]) -> Vec<(i64, i64)> {
        let fixture = Fixture::new("b").await;
        let batches: Vec<_> = (0..4).map(|n| fixture.batch(n * 10, 10)).collect();
        let mut starts = vec![0];
        batches.iter().for_each(|batch| starts.push(starts[starts.len() - 1] + batch.len()));
        let mut bytes = batches.concat();
        change(&mut bytes, &starts);
        let length = bytes.len() as u64;
        fixture.create("log", bytes.clone().into()).await;
        let entries: Vec<_> = entries.iter().map(|&(offset, n)| entry(offset, starts[n] as u64)).collect();
        let mut seen = Vec::new();
        let told = Told { first: 0, length_bytes: length, next: 40, entries: &entries };
        let scan = scan(fixture.archive.store(), "log", told, |header, _| {
            seen.push(header.base_offset);
            Ok(())
        });
        let scan = scan.await.expect("read");
        assert_eq!(scan.digest, xxhash_rust::xxh3::xxh3_128(&bytes));
        assert_eq!(scan.damage.is_none(), seen == [0, 10, 20, 30]);
        for piece in &scan.pieces {
            let bytes = &bytes[piece.position as usize..(piece.position + piece.bytes) as usize];
            assert!(batch::walk(bytes).all(|item| item.is_ok()));
        }
        scan.pieces.iter().map(|piece| (piece.range.first, piece.range.next)).collect()
    }

    #[tokio::test]
    async fn a_sound_log_is_one_piece() {
        assert_eq!(pieces(|_, _| {}, &[]).await, [(0, 40)]);
    }

    #[tokio::test]
    async fn what_lies_behind_a_damaged_batch_is_found_by_its_length_or_by_an_entry() {
        assert_eq!(pieces(|bytes, at| bytes[at[1] + 70] ^= 1, &[]).await, [(0, 10), (20, 40)]);
        assert_eq!(pieces(|bytes, _| bytes[70] ^= 1, &[]).await, [(10, 40)]);
        assert_eq!(pieces(|bytes, at| bytes[at[3] + 70] ^= 1, &[]).await, [(0, 30)]);
        assert_eq!(pieces(|bytes, at| bytes[at[1] + 9] ^= 1, &[]).await, [(0, 10)], "its length is damaged");
        assert_eq!(pieces(|bytes, at| bytes[at[1] + 9] ^= 1, &[(0, 0), (20, 2)]).await, [(0, 10), (20, 40)]);
        assert_eq!(pieces(|bytes, at| bytes.truncate(at[3] + 5), &[]).await, [(0, 30)]);
        assert_eq!(pieces(|bytes, _| bytes[0] ^= 1, &[]).await, [(10, 40)], "offsets beyond the segment");
        assert_eq!(
            pieces(|bytes, at| bytes[at[2] + 7] ^= 1, &[(20, 2)]).await,
            [(0, 20), (30, 40)],
            "others than told"
        );
    }
}
