//! `cat --dead-letters`: the records of the batches that stages failed at, as they came.
//!
//! Of dead letters only those are printed that a segment leaves out, in the order of the chain: with what `cat` prints
//! without the flag they are each record once. Through a mended plugin they go by `plugin run`.

use super::{Printer, is_harmful};
use crate::archive::Archive;
use crate::archive::source::chain::{Chain, Link};
use crate::archive::source::dead_letters;
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
                for left_out in segment.sidecar.left_out.iter().filter(is_wanted) {
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
