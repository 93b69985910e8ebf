//! `cat --dead-letters`: the records of the batches that stages failed at, as they came.
//!
//! Of dead letters only those are printed that a segment leaves out, in the order of the chain: with what `cat` prints
//! without the flag they are each record once. Through a mended plugin they go by `plugin run`.

use super::Printer;
use crate::archive::Archive;
use crate::archive::source::chain::{Chain, Link};
use crate::archive::source::dead_letters::DeadLetters;
use crate::archive::source::way::{self, Branch, Part};
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, OffsetRange, Partition};

impl Printer {
    /// Prints the dead letters of a partition along the way of `branch`.
    pub(super) async fn dead_letters(
        &mut self,
        archive: &Archive,
        partition: &Partition,
        branch: Branch,
    ) -> Result<()> {
        let letters = DeadLetters::list(archive, partition).await?;
        let from = self.choice.from_offset.unwrap_or(0);
        let to = self.choice.to_offset.unwrap_or(Offset::MAX);
        for Part { place, range } in way::way(archive, partition, branch).await? {
            let wanted = OffsetRange { first: from.max(range.first), next: to.min(range.next) };
            let mut chain = Chain::open(archive, &place).await?;
            while let Some(link) = chain.next().await? {
                let segment = match link {
                    _ if self.is_done() => return Ok(()),
                    Link::Segment(segment) => segment,
                    // What a damaged segment left out nobody can tell.
                    Link::Finding(finding) => match finding.what.exit_kind() {
                        Some(kind) => return Err(Error::new(kind, finding.to_string())),
                        None => continue,
                    },
                };
                for left_out in segment.sidecar.left_out.iter().filter(|left_out| left_out.is_kept) {
                    let mut reached = left_out.range.first;
                    for letter in letters.within(left_out.range) {
                        let (header, bytes) = letters.read(letter).await?;
                        reached = reached.max(header.next_offset());
                        self.batch(&header, &bytes, &place, wanted.first, wanted.next)?;
                    }
                    if reached < left_out.range.next {
                        let missing = OffsetRange { first: reached, ..left_out.range };
                        return Err(Error::new(Kind::Damaged, "a dead letter is missing").with("offsets", missing));
                    }
                }
            }
        }
        Ok(())
    }
}
