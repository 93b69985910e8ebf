//! The dead letters of a partition: each batch that a segment leaves out, and says it was kept, is there as it came.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_128;

use super::Mode;
use crate::archive::source::chain::{Finding, What};
use crate::archive::{Archive, layout};
use crate::batch::{self, HEADER_BYTES, Header};
use crate::error::{Error, Result};
use crate::record::{LeftOut, Offset, OffsetRange, Partition};

/// What segments of one chain left out and say was kept.
#[derive(Debug, Default)]
pub(super) struct Kept(Vec<OffsetRange>);

impl Kept {
    /// Adds what a segment says.
    pub(super) fn add(&mut self, left_out: &[LeftOut]) {
        self.0.extend(left_out.iter().filter(|left_out| left_out.is_kept).map(|left_out| left_out.range));
    }

    /// Looks for their batches: at their headers, or in a deep check at every byte.
    pub(super) async fn check(
        &self,
        archive: &Archive,
        partition: &Partition,
        mode: Mode,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let folder = format!("{}{}", layout::partition_folder(partition), layout::DEAD_LETTERS);
        // Of one offset there may be several, after the source had lost what it had there.
        let mut named: BTreeMap<Offset, Vec<(u64, u128)>> = BTreeMap::new();
        for entry in archive.store().list(&folder).await? {
            match layout::parse_dead_letter(&entry.name).filter(|_| !entry.is_folder) {
                Some((first, length_bytes, digest)) => named.entry(first).or_default().push((length_bytes, digest)),
                None => findings.push(Finding::unknown(archive, &format!("{folder}{}", entry.name))),
            }
        }
        for range in &self.0 {
            let mut first = range.first;
            while first < range.next {
                match one(archive, partition, first, named.get(&first), mode, findings).await? {
                    Some(next) => first = next,
                    None => {
                        let (object, range) = (archive.store().describe(&folder), OffsetRange { first, ..*range });
                        let detail =
                            "a segment leaves them out, and the dead letter that has them is not there".to_owned();
                        findings.push(Finding { what: What::DamagedObject, object, range: Some(range), detail });
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns where the batch of the dead letter at `first` ends, exclusive; `None` where there is no sound one.
async fn one(
    archive: &Archive,
    partition: &Partition,
    first: Offset,
    named: Option<&Vec<(u64, u128)>>,
    mode: Mode,
    findings: &mut Vec<Finding>,
) -> Result<Option<Offset>> {
    let mut next = None;
    for &(length_bytes, digest) in named.into_iter().flatten() {
        let key = layout::dead_letter(partition, first, length_bytes, digest);
        let read = match mode {
            Mode::Plain => archive.store().read_range(&key, 0..HEADER_BYTES as u64).await,
            Mode::Deep => archive.store().read_range(&key, 0..length_bytes).await,
        };
        let is_whole = |bytes: &[u8]| mode == Mode::Plain || (batch::crc_matches(bytes) && xxh3_128(bytes) == digest);
        let sound = read.and_then(|bytes| match Header::read(&bytes) {
            Ok(header)
                if header.base_offset == first && header.total_bytes as u64 == length_bytes && is_whole(&bytes) =>
            {
                Ok(header.next_offset())
            }
            _ => Err(Error::damaged("it is not the batch that its name says")),
        });
        match sound {
            Ok(end) => next = next.max(Some(end)),
            Err(error) => findings.push(Finding::of_error(archive, &key, &error)),
        }
    }
    Ok(next)
}
