//! Dead letters: batches that a stage failed at, as they came, beside the partition that leaves them out.
//!
//! One counts where a segment says that it leaves the batch out ([`LeftOut`](crate::record::LeftOut)); what a crash left
//! behind besides has no segment that does.

use std::collections::BTreeMap;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use crate::archive::{Archive, layout};
use crate::batch::{self, HEADER_BYTES, Header};
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange, Partition};

/// The dead letters of one partition, as they were listed.
pub struct DeadLetters {
    archive: Archive,
    partition: Partition,
    /// By first offset. Of one there may be several, after the source had lost what it had there.
    named: BTreeMap<Offset, Vec<DeadLetter>>,
    /// Names in their folder that are none's.
    pub strange: Vec<String>,
}

/// One dead letter, as its name tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetter {
    /// The batch's base offset.
    pub first: Offset,
    /// Its bytes.
    pub length_bytes: u64,
    /// XXH3-128 of them.
    pub digest: u128,
}

impl DeadLetters {
    /// Lists those of a partition.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(archive: &Archive, partition: &Partition) -> Result<Self> {
        let folder = format!("{}{}", layout::partition_folder(partition), layout::DEAD_LETTERS);
        let (mut named, mut strange) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
        for entry in archive.store().list(&folder).await? {
            match layout::parse_dead_letter(&entry.name).filter(|_| !entry.is_folder) {
                Some((first, length_bytes, digest)) => {
                    named.entry(first).or_default().push(DeadLetter { first, length_bytes, digest });
                }
                None => strange.push(format!("{folder}{}", entry.name)),
            }
        }
        Ok(Self { archive: archive.clone(), partition: partition.clone(), named, strange })
    }

    /// Returns those whose batches begin at `offsets`, in order.
    pub fn within(&self, offsets: OffsetRange) -> impl Iterator<Item = DeadLetter> + '_ {
        self.named.range(offsets.first..offsets.next).flat_map(|(_, letters)| letters).copied()
    }

    /// Returns the object's key.
    pub fn key(&self, letter: DeadLetter) -> String {
        layout::dead_letter(&self.partition, letter.first, letter.length_bytes, letter.digest)
    }

    /// Reads the header of one.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when it is not the batch that its name says; else the store's.
    pub async fn header(&self, letter: DeadLetter) -> Result<Header> {
        let bytes = self.archive.store().read_range(&self.key(letter), 0..HEADER_BYTES as u64).await?;
        checked(letter, &bytes)
    }

    /// Reads one, and holds it against its name and its checksum.
    ///
    /// # Errors
    /// As [`header`](Self::header).
    pub async fn read(&self, letter: DeadLetter) -> Result<(Header, Bytes)> {
        let bytes = self.archive.store().read_range(&self.key(letter), 0..letter.length_bytes).await?;
        let header = checked(letter, &bytes)?;
        if batch::crc_matches(&bytes) && xxh3_128(&bytes) == letter.digest {
            return Ok((header, bytes));
        }
        Err(Error::damaged("a dead letter does not match its checksum").with("offset", letter.first))
    }
}

fn checked(letter: DeadLetter, bytes: &[u8]) -> Result<Header> {
    let header = Header::read(bytes)?;
    if (header.base_offset, header.total_bytes as u64) == (letter.first, letter.length_bytes) {
        return Ok(header);
    }
    Err(Error::damaged("a dead letter is not the batch that its name says").with("offset", letter.first))
}
