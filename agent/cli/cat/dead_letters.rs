//! `cat --dead-letters`: the records of the batches that stages failed at, as they came.
//!
//! Of dead letters only those are printed that a segment leaves out, in the order of the chain: with what `cat` prints
//! without the flag they are each record once. A segment need not name them: where it has an empty batch in the place of
//! a letter, that is its only place. Through a mended plugin they go by `plugin run`.

use super::{Printer, is_harmful};
use crate::archive::Archive;
use crate::archive::sidecar::Kind;
use crate::archive::source::chain::{Chain, Link};
use crate::archive::source::chunks::Segment;
use crate::archive::source::dead_letters::{self, Letter};
use crate::archive::source::way::{self, Branch, Part};
use crate::error::{Error, Result};
use crate::record::{LeftOut, Offset, OffsetRange, Partition};

impl Printer {
    /// Prints the dead letters of a partition along the way of `branch`.
    pub(super) async fn dead_letters(
        &mut self,
        archive: &Archive,
        partition: &Partition,
        branch: Branch,
    ) -> Result<()> {
        let (letters, _) = dead_letters::list(archive.store(), partition).await?;
        let from = self.choice.from_offset.unwrap_or(0);
        let to = self.choice.to_offset.unwrap_or(Offset::MAX);
        for Part { place, range } in way::way(archive, partition, branch).await? {
            let wanted = OffsetRange { first: from.max(range.first), next: to.min(range.next) };
            let mut chain = Chain::open(archive, &place).await?;
            while let Some(link) = chain.next().await? {
                let segment = match link {
                    _ if self.is_done() => return Ok(()),
                    Link::Segment(segment) if segment.sidecar.range.first >= wanted.next => break,
                    Link::Segment(segment) => segment,
                    // What a damaged segment left out nobody can tell.
                    Link::Finding(finding) => match finding.what.exit_kind() {
                        Some(kind) if is_harmful(&finding, wanted) => {
                            return Err(Error::new(kind, finding.to_string()));
                        }
                        _ => continue,
                    },
                };
                let is_wanted =
                    |left_out: &&LeftOut| left_out.range.first < wanted.next && left_out.range.next > wanted.first;
                let mut left_out = segment.sidecar.left_out.clone();
                left_out.extend(unnamed(archive, partition, &segment, &letters).await?);
                left_out.sort_by_key(|left_out| left_out.range.first);
                for left_out in left_out.iter().filter(is_wanted) {
                    let from = wanted.first.max(segment.sidecar.range.first);
                    if let Some((header, bytes)) = dead_letters::read(archive, partition, left_out).await? {
                        self.batch(&header, &bytes, &place, from, wanted.next)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns what a segment leaves out and one of `letters` has, though the segment does not name it.
async fn unnamed(
    archive: &Archive,
    partition: &Partition,
    segment: &Segment,
    letters: &[Letter],
) -> Result<Vec<LeftOut>> {
    let sidecar = &segment.sidecar;
    let named = |letter: &&Letter| !sidecar.left_out.iter().filter_map(Letter::of).any(|named| named == **letter);
    let here = dead_letters::within(letters, sidecar.range, sidecar.kind == Kind::First);
    let others: Vec<_> = here.iter().filter(named).copied().collect();
    let Some(first) = others.first() else { return Ok(Vec::new()) };
    let chunks = segment.chunks(segment.position_of(first.first));
    dead_letters::left_out(archive.store(), partition, chunks, &others, &sidecar.left_out).await
}
