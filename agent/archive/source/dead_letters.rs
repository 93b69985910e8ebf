//! Dead letters: batches that a stage failed at, as they came, beside the partition that leaves them out.
//!
//! One counts where a segment names it ([`LeftOut`]); what a crash left behind besides has no segment that does.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::archive::{Archive, layout};
use crate::batch::{self, HEADER_BYTES, Header};
use crate::error::{Error, Result};
use crate::record::{DeadLetter, LeftOut, Partition};

/// Returns the key of the dead letter of what was left out, if it has one.
pub fn key(partition: &Partition, left_out: &LeftOut) -> Option<String> {
    let DeadLetter { length_bytes, digest } = left_out.dead_letter?;
    Some(layout::dead_letter(partition, left_out.range.first, length_bytes, digest))
}

/// Reads the dead letter of what was left out, and holds it against its name and its checksum; `None` where it has none.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when it is not there, or not the batch that its name says; else the
/// store's.
pub async fn read(archive: &Archive, partition: &Partition, left_out: &LeftOut) -> Result<Option<(Header, Bytes)>> {
    let Some((key, letter)) = key(partition, left_out).zip(left_out.dead_letter) else { return Ok(None) };
    let bytes = archive.store().read(&key).await?.ok_or_else(|| missing(archive, &key))?;
    let header = checked(left_out, letter, &bytes)?;
    if batch::crc_matches(&bytes) && xxh3_128(&bytes) == letter.digest {
        return Ok(Some((header, bytes)));
    }
    Err(Error::damaged("a dead letter does not match its checksum").with("object", archive.store().describe(&key)))
}

/// Looks at the header of the dead letter of what was left out, as far as it has one.
///
/// # Errors
/// As [`read`].
pub async fn look_at(archive: &Archive, partition: &Partition, left_out: &LeftOut) -> Result<()> {
    let Some((key, letter)) = key(partition, left_out).zip(left_out.dead_letter) else { return Ok(()) };
    if !archive.store().exists(&key).await? {
        return Err(missing(archive, &key));
    }
    let bytes = archive.store().read_range(&key, 0..HEADER_BYTES as u64).await?;
    checked(left_out, letter, &bytes).map(drop)
}

fn missing(archive: &Archive, key: &str) -> Error {
    Error::damaged("a segment leaves a batch out, and the dead letter that has it is missing")
        .with("object", archive.store().describe(key))
}

fn checked(left_out: &LeftOut, letter: DeadLetter, bytes: &[u8]) -> Result<Header> {
    let header = Header::read(bytes)?;
    let is_it = (header.base_offset, header.next_offset()) == (left_out.range.first, left_out.range.next)
        && header.total_bytes as u64 == letter.length_bytes;
    if is_it { Ok(header) } else { Err(Error::damaged("a dead letter is not the batch that its name says")) }
}
