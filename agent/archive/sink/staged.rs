//! Batches that go through stages before they are appended: what becomes of what the stages failed at.
//!
//! **Order of durable effects**, before those of the segment (`archive::sink`): the dead letters of a run of batches, each
//! created if absent under a name that its bytes give, and only then the segment that leaves them out. A crash between the
//! two leaves a dead letter whose batch no segment leaves out: the batch is read again, and where it is left out again its
//! dead letter is there. So a dead letter counts where a sidecar says so; of one that none names the chain tells what it is
//! (`archive::source::dead_letters`).
//!
//! A failure for which the policy is to stop ends the segment before the failing batch, so that everything before it is
//! durable, and is then an error like any other: back-off, the store's tip, and the same batch again.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::writer::Writer;
use crate::archive::layout;
use crate::batch::Header;
use crate::budget::Permit;
use crate::crash;
use crate::error::Result;
use crate::record::{AbortedTransaction, OffsetRange};
use crate::stages::Stages;

/// What a growing segment may hold in memory beyond what is paid for, since stages made more of what was.
const MOST_UNPAID_BYTES: usize = 8 << 20;

impl Writer {
    /// Takes what the stages make of whole batches.
    pub(super) async fn put_staged(
        &mut self,
        stages: &Stages,
        range: OffsetRange,
        bytes: Bytes,
        mut aborted: &[AbortedTransaction],
        mut permit: Permit,
    ) -> Result<()> {
        let generation = self.generation;
        let (mut first, mut rest) = (range.first, bytes);
        while !rest.is_empty() && generation == self.generation {
            let given = rest.len();
            let open = std::mem::take(&mut self.passing);
            let passed = stages.pass(&self.partition, generation, rest, open, aborted).await?;
            self.passing = passed.open;
            for batch in passed.dead_letters {
                self.keep_dead_letter(batch).await?;
            }
            rest = passed.rest;
            let mut paid = permit.split(given - rest.len());
            paid.keep(passed.bytes.len());
            let _is_paid = paid.grow(passed.bytes.len());
            if let Some(next) = passed.next {
                let range = OffsetRange { first, next };
                self.put_encoded(range, passed.bytes, aborted, paid, passed.left_out).await?;
                (first, aborted) = (next, &[]);
            }
            if generation != self.generation {
                return Ok(());
            }
            if let Some(failure) = passed.failure {
                self.roll().await?;
                // Another writer may have been ahead, and past it.
                self.is_refused = generation == self.generation;
                return if self.is_refused { Err(failure) } else { Ok(()) };
            }
            if self.unpaid_bytes() > MOST_UNPAID_BYTES {
                self.roll().await?;
            }
        }
        Ok(())
    }

    async fn keep_dead_letter(&self, batch: Bytes) -> Result<()> {
        let first = Header::read(&batch)?.base_offset;
        let key = layout::dead_letter(&self.partition, first, batch.len() as u64, xxh3_128(&batch));
        crash::point("dead-letter-due", &self.partition);
        // One that is there has these bytes: its name says so.
        let _created = self.archive.store().create(&key, batch).await?;
        crash::point("dead-letter-kept", &self.partition);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
