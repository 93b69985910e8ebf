//! The dead letters of a partition: each batch that a segment leaves out, and says it was kept, is there as it came.

use super::Mode;
use crate::archive::source::chain::{Finding, What};
use crate::archive::source::dead_letters::DeadLetters;
use crate::archive::{Archive, layout};
use crate::error::Result;
use crate::record::{LeftOut, OffsetRange, Partition};

/// What segments of one chain left out and say was kept.
#[derive(Debug, Default)]
pub(super) struct Kept(Vec<OffsetRange>);

impl Kept {
    /// Adds what a segment says.
    pub(super) fn add(&mut self, left_out: &[LeftOut]) {
        self.0.extend(left_out.iter().filter(|left_out| left_out.is_kept).map(|left_out| left_out.range));
    }

    /// Looks for their batches: at their headers, or in a deep check at every byte.
    ///
    /// # Errors
    /// Those of the store while it lists them.
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
        let letters = DeadLetters::list(archive, partition).await?;
        findings.extend(letters.strange.iter().map(|key| Finding::unknown(archive, key)));
        for range in &self.0 {
            let mut reached = range.first;
            for letter in letters.within(*range) {
                let header = match mode {
                    Mode::Plain => letters.header(letter).await,
                    Mode::Deep => letters.read(letter).await.map(|(header, _)| header),
                };
                match header {
                    Ok(header) if letter.first <= reached => reached = reached.max(header.next_offset()),
                    Ok(_) => break,
                    Err(error) => findings.push(Finding::of_error(archive, &letters.key(letter), &error)),
                }
            }
            if reached < range.next {
                let object = archive.store().describe(&layout::partition_folder(partition));
                let range = Some(OffsetRange { first: reached, ..*range });
                let detail = "a segment leaves them out, and the dead letter that has them is not there".to_owned();
                findings.push(Finding { what: What::DamagedObject, object, range, detail });
            }
        }
        Ok(())
    }
}
