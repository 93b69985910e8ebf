//! Dead letters: batches that a stage failed at, as they came, beside the partition that leaves them out.
//!
//! One counts where a segment names it ([`LeftOut`]). Of one that no segment names the chain tells what it is
//! ([`left_out`]): where the batch of its offsets is empty, its records are nowhere else, and the sidecar that named it is
//! lost, or was written under another policy. Else a writer that was killed left it, and the batch was read again.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::chunks::Chunks;
use crate::archive::sidecar::STAGE_UNKNOWN;
use crate::archive::{Archive, layout};
use crate::batch::{self, HEADER_BYTES, Header};
use crate::error::{Error, Kind, Result};
use crate::record::{DeadLetter, LeftOut, Offset, OffsetRange, Partition};
use crate::store::Store;

/// A dead letter as its name tells it; the order is that of offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Letter {
    /// The base offset of the batch.
    pub first: Offset,
    /// Its bytes.
    pub length_bytes: u64,
    /// XXH3-128 of them.
    pub digest: u128,
}

impl Letter {
    /// Returns the dead letter of what was left out, if it has one.
    pub fn of(left_out: &LeftOut) -> Option<Self> {
        let DeadLetter { length_bytes, digest } = left_out.dead_letter?;
        Some(Self { first: left_out.range.first, length_bytes, digest })
    }

    /// Returns its key.
    pub fn key(&self, partition: &Partition) -> String {
        layout::dead_letter(partition, self.first, self.length_bytes, self.digest)
    }

    /// Says that it is what `batch`, which has no records any more, left out.
    fn left_out(&self, batch: &Header, records: u32) -> LeftOut {
        let Self { length_bytes, digest, .. } = *self;
        let dead_letter = Some(DeadLetter { length_bytes, digest });
        LeftOut { range: range_of(batch), records, stage: STAGE_UNKNOWN, dead_letter }
    }
}

/// Lists the dead letters of a partition in order; beside them the names in their folder that are none's.
///
/// # Errors
/// Those of the store.
pub async fn list(store: &Store, partition: &Partition) -> Result<(Vec<Letter>, Vec<String>)> {
    let (mut letters, mut strange) = (Vec::new(), Vec::new());
    for entry in store.list(&format!("{}{}", layout::partition_folder(partition), layout::DEAD_LETTERS)).await? {
        match layout::parse_copy(&entry.name).filter(|_| !entry.is_folder) {
            Some((first, length_bytes, digest)) => letters.push(Letter { first, length_bytes, digest }),
            None => strange.push(entry.name),
        }
    }
    letters.sort_unstable();
    Ok((letters, strange))
}

/// Returns those of `letters`, which are in order, whose batches may be in the segment of `range`; `is_first` in its chain.
pub fn within(letters: &[Letter], range: OffsetRange, is_first: bool) -> &[Letter] {
    let behind = letters.partition_point(|letter| letter.first < range.next);
    let mut from = letters.partition_point(|letter| letter.first < range.first);
    // A chain may begin inside a batch.
    if let Some(before) = from.checked_sub(1).filter(|_| is_first) {
        from = letters.partition_point(|letter| letter.first < letters[before].first);
    }
    &letters[from..behind]
}

/// Returns the batches of a log that begin where `letters` do, which are in order; `chunks` begin before the first.
///
/// # Errors
/// [`Kind::Damaged`] for what is no log; else the store's.
pub async fn batches_of(mut chunks: Chunks, letters: &[Letter]) -> Result<Vec<(Letter, Header)>> {
    let mut met = Vec::new();
    let Some(last) = letters.last() else { return Ok(met) };
    while let Some(chunk) = chunks.next().await? {
        for item in batch::walk(&chunk.bytes) {
            let (_, header) = item?;
            if header.base_offset > last.first {
                return Ok(met);
            }
            let from = letters.partition_point(|letter| letter.first < header.base_offset);
            let of_it = letters[from..].iter().take_while(|letter| letter.first == header.base_offset);
            met.extend(of_it.map(|letter| (*letter, header)));
        }
    }
    Ok(met)
}

/// Returns whether `batch`, of a chain, is what was left of the batch of `letter`: it has its place and producer, and no
/// records.
pub fn is_emptied(batch: &Header, letter: &Header) -> bool {
    let told = |header: &Header| {
        let producer = (header.producer_id, header.producer_epoch, header.base_sequence);
        (header.base_offset, header.last_offset_delta, header.leader_epoch, producer)
    };
    batch.count == 0 && !batch.is_control() && told(batch) == told(letter)
}

/// Returns what a log leaves out and `letters` hold, but for what is `told` to be kept as dead letters; which stage failed
/// at it nothing tells. Of two letters for one batch the one with more records.
///
/// # Errors
/// As [`batches_of`].
pub async fn left_out(
    store: &Store,
    partition: &Partition,
    chunks: Chunks,
    letters: &[Letter],
    told: &[LeftOut],
) -> Result<Vec<LeftOut>> {
    let mut found: Vec<LeftOut> = Vec::new();
    for (letter, batch) in batches_of(chunks, letters).await? {
        let is_told = told.iter().any(|told| told.dead_letter.is_some() && told.range.first == letter.first);
        if batch.count > 0 || is_told {
            continue;
        }
        let header = match header(store, partition, &letter).await {
            Ok(header) if is_emptied(&batch, &header) => header,
            // What cannot be read is for a check to tell.
            Err(error) if error.kind() != Kind::Damaged => return Err(error),
            _ => continue,
        };
        let more = letter.left_out(&batch, header.count.cast_unsigned());
        match found.last_mut().filter(|known| known.range.first == letter.first) {
            Some(known) if known.records < more.records => *known = more,
            Some(_) => {}
            None => found.push(more),
        }
    }
    Ok(found)
}

/// Reads the header of a dead letter.
///
/// # Errors
/// [`Kind::Damaged`] when it is not there, or not the batch that its name says; else the store's.
pub async fn header(store: &Store, partition: &Partition, letter: &Letter) -> Result<Header> {
    let key = letter.key(partition);
    let bytes = store.read_range(&key, 0..HEADER_BYTES as u64).await?;
    let header = Header::read(&bytes)?;
    let is_it = (header.base_offset, header.total_bytes as u64) == (letter.first, letter.length_bytes);
    if is_it { Ok(header) } else { Err(unlike(store, &key)) }
}

/// Reads the dead letter of what was left out, and holds it against its name and its checksum; `None` where it has none.
///
/// # Errors
/// [`Kind::Damaged`] when it is not there, or not the batch that its name says; else the store's.
pub async fn read(archive: &Archive, partition: &Partition, left_out: &LeftOut) -> Result<Option<(Header, Bytes)>> {
    let Some(letter) = Letter::of(left_out) else { return Ok(None) };
    let (store, key) = (archive.store(), letter.key(partition));
    let bytes = store.read(&key).await?.ok_or_else(|| missing(store, &key))?;
    let header = Header::read(&bytes)?;
    let is_it = range_of(&header) == left_out.range
        && (header.total_bytes, bytes.len() as u64) == (bytes.len(), letter.length_bytes);
    if !is_it {
        return Err(unlike(store, &key));
    }
    if batch::crc_matches(&bytes) && xxh3_128(&bytes) == letter.digest {
        return Ok(Some((header, bytes)));
    }
    Err(Error::damaged("a dead letter does not match its checksum").with("object", store.describe(&key)))
}

/// Looks at the header of the dead letter of what was left out, as far as it has one.
///
/// # Errors
/// As [`read`].
pub async fn look_at(archive: &Archive, partition: &Partition, left_out: &LeftOut) -> Result<()> {
    let Some(letter) = Letter::of(left_out) else { return Ok(()) };
    let (store, key) = (archive.store(), letter.key(partition));
    if !store.exists(&key).await? {
        return Err(missing(store, &key));
    }
    let header = header(store, partition, &letter).await?;
    if range_of(&header) == left_out.range { Ok(()) } else { Err(unlike(store, &key)) }
}

fn range_of(header: &Header) -> OffsetRange {
    OffsetRange { first: header.base_offset, next: header.next_offset() }
}

fn missing(store: &Store, key: &str) -> Error {
    Error::damaged("a segment leaves a batch out, and the dead letter that has it is missing")
        .with("object", store.describe(key))
}

fn unlike(store: &Store, key: &str) -> Error {
    Error::damaged("a dead letter is not the batch that its name says").with("object", store.describe(key))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::batch::Compression;
    use crate::batch::records::encode;

    /// Returns what stages leave of a batch that is kept as a dead letter.
    pub(crate) fn emptied(batch: &Bytes) -> Bytes {
        encode(&Header::read(batch).expect("sound"), &[], Compression::None).expect("it fits")
    }

    #[test]
    fn of_a_chain_that_begins_inside_a_batch_its_letter_is_within() {
        let letter = |first, digest| Letter { first, length_bytes: 1, digest };
        let letters = [letter(0, 1), letter(5, 1), letter(5, 2), letter(10, 1), letter(20, 1)];
        let range = OffsetRange { first: 8, next: 20 };
        assert_eq!(within(&letters, range, false), &letters[3..4]);
        assert_eq!(within(&letters, range, true), &letters[1..4]);
        assert_eq!(within(&letters, OffsetRange { first: 0, next: 5 }, true), &letters[..1]);
    }
}
