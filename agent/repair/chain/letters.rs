//! What dead letters tell of a segment whose sidecar is lost: which batches stages had left out of it, and kept.

use super::Planner;
use crate::archive::sidecar::UNKNOWN_STAGES;
use crate::archive::source::chunks::Chunks;
use crate::archive::source::dead_letters;
use crate::error::Result;
use crate::record::{LeftOut, OffsetRange};

impl Planner<'_> {
    /// Returns the stages and what they left out, as far as the dead letters of the partition tell, of a segment or a piece
    /// of one; `chunks` are its log.
    pub(super) async fn kept(
        &mut self,
        chunks: Chunks,
        range: OffsetRange,
        is_first: bool,
    ) -> Result<(Vec<String>, Vec<LeftOut>)> {
        let (store, partition) = (self.store, self.partition().clone());
        if self.letters.is_none() {
            self.letters = Some(dead_letters::list(store, &partition).await?.0);
        }
        let letters = dead_letters::within(self.letters.as_deref().unwrap_or_default(), range, is_first);
        let left_out = dead_letters::left_out(store, &partition, chunks, letters, &[]).await?;
        let mut stages = self.survey.staged.of(range.first);
        // That there are letters tells of stages where no neighbour does.
        if stages.is_empty() && !left_out.is_empty() {
            stages.push(UNKNOWN_STAGES.to_owned());
        }
        Ok((stages, left_out))
    }
}
