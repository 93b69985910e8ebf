//! Where a chain begins, and where it is left: the begin of a partition, and the forks beside it.
//!
//! Nothing of a fork is durable before its first segment is; until then the old chain is the newest, and everything
//! here can be done again.

use super::writer::Writer;
use crate::archive::layout::{self, Fork};
use crate::archive::tip::{Held, Shared};
use crate::error::Result;
use crate::record::{Offset, OffsetRange};

impl Writer {
    /// Keeps that the chain begins at `offset`, or takes over what another writer has kept, and starts there.
    pub(super) async fn begin_at(&mut self, offset: Offset) -> Result<()> {
        let mut kept = None;
        if self.chain.next.is_none() {
            self.check_chain().await?;
            kept = Some(self.archive.keep_begin(&self.partition, offset).await?);
        }
        let held = self.archive.tip(&self.partition).await?;
        self.start_from(begun(held, kept)).await
    }

    /// Makes sure that it is kept where the chain begins, before anything of it is: at `first`, unless something says
    /// otherwise. `false` when another writer began elsewhere: the source starts there.
    pub(super) async fn begin_chain(&mut self, first: Offset) -> Result<bool> {
        if self.chain.next.is_some() {
            return Ok(true);
        }
        self.check_chain().await?;
        let kept = self.archive.keep_begin(&self.partition, first).await?;
        if kept == first {
            self.chain.next = Some(first);
            return Ok(true);
        }
        let held = begun(self.archive.tip(&self.partition).await?, Some(kept));
        tracing::warn!(
            partition = %self.partition, mine = first, next = held.next,
            "another writer has begun the chain: going on with its"
        );
        self.start_from(held).await?;
        Ok(false)
    }

    /// Leaves the chain where the source does: of what is held, the source still has what lies before `end` in leader
    /// epoch `epoch` and in older ones. It starts there; its next batch begins a fork.
    ///
    /// The source may find that it shares still less: then this is called again, and goes further back.
    pub(super) async fn diverge(&mut self, epoch: i32, end: Offset) -> Result<()> {
        let generation = self.generation;
        // The source has lost it, so nobody else has it.
        self.roll().await?;
        if generation != self.generation {
            return Ok(());
        }
        let held = self.archive.tip(&self.partition).await?;
        let moved = (held.fork, held.next) != (self.chain.fork, self.chain.next);
        let Some(limit) = self.next().filter(|_| !moved) else {
            // Another writer was ahead: the source says what it thinks of its chain.
            return self.start_from(held).await;
        };
        let shared = self.archive.shared(&self.partition, &held, limit, (epoch, end)).await?;
        if shared.next < limit {
            tracing::warn!(
                partition = %self.partition, from = shared.next, held = held.next, epoch, end,
                "the source has lost records that the archive holds: going on beside them"
            );
            self.cut = Some(shared);
        } else {
            // Nothing of it is lost; the source has no epochs by which it could know that.
            let shared = Shared { next: limit, leader_epoch: -1 };
            match &mut self.cut {
                Some(cut) => *cut = shared,
                None => self.chain.leader_epoch = -1,
            }
        }
        self.restart();
        Ok(())
    }

    /// Returns the fork whose first batch has `leader_epoch`. Its name is greater than that of the chain it is made
    /// beside, also when the source goes on with an older epoch: names tell the lineage.
    pub(super) fn fork_from(&self, cut: Shared, leader_epoch: i32) -> Fork {
        let epoch = self.chain.fork.map_or(leader_epoch, |left| leader_epoch.max(left.epoch.saturating_add(1)));
        Fork { epoch, end: cut.next }
    }

    /// Says for people what the fork on its way is beside.
    pub(super) fn fork_note(&self) -> Option<String> {
        let Fork { epoch, end } = self.fork?;
        let goes_on = format!("from offset {end} on it goes on here with leader epoch {epoch}");
        let left = layout::chain_name(self.partition.index, self.chain.fork);
        Some(match self.chain.next.filter(|_| !self.chain.is_empty) {
            Some(next) => {
                let lost = OffsetRange { first: end, next };
                format!("the source had lost the offsets {lost} that `{left}` holds; {goes_on}")
            }
            None => format!("the source had lost what `{left}` was to begin with; {goes_on}"),
        })
    }

    /// Returns whether a fork is on its way beside a chain that is no longer the newest: its name would not be greater
    /// than that of the one made meanwhile.
    pub(super) async fn has_moved(&self) -> Result<bool> {
        if self.fork.is_none() {
            return Ok(false);
        }
        let newest = self.archive.newest_fork(&self.partition).await?;
        Ok(newest != self.chain.fork && newest != self.fork)
    }
}

/// Returns `held` with the begin that was `kept`, where a listing does not show it yet: else the source would ask to
/// begin again, and be told the same.
fn begun(held: Held, kept: Option<Offset>) -> Held {
    Held { next: held.next.or(kept), ..held }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::catalogs::upkeep::Upkeep;

    #[test]
    fn a_begin_that_is_kept_holds_though_no_listing_shows_it_yet() {
        let held = |next| Held {
            fork: None,
            folder: "0/".into(),
            next,
            leader_epoch: -1,
            is_empty: true,
            upkeep: Upkeep::default(),
        };
        assert_eq!(begun(held(None), Some(42)).next, Some(42));
        assert_eq!(begun(held(Some(50)), Some(42)).next, Some(50), "segments say more");
        assert_eq!(begun(held(None), None).next, None);
    }
}
