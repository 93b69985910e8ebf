//! Where a partition goes on: its newest chain, that chain's end, and what of it a source still has.
//!
//! Nothing is written here, and few objects are read: a listing of the forks, one of the newest chain's folder, and the
//! sidecars at its end. An answer is a hint: who appends behind it is fenced by the name of what it creates.

use super::layout::{self, Fork};
use super::sidecar::Sidecar;
use super::{Archive, Segments, begin, lineage};
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, Partition};

/// Sidecars that are looked at to tell a chain's last segment from the debris of writers that lost a race. A hole
/// before the last segment costs as many requests; more debris than that inside one segment cannot come about by
/// races, since each loser adopts the winner's end.
const MOST_DEBRIS: usize = 16;

/// What is held of a partition: its newest chain, and where that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which chain it is; `None` is the partition's own.
    pub fork: Option<Fork>,
    /// Its folder, with a slash at its end.
    pub folder: String,
    /// The next offset to read; `None` when nothing is held and nothing says where to begin.
    pub next: Option<Offset>,
    /// The leader epoch of the last batch held, −1 when there is none or it is unknown.
    pub leader_epoch: i32,
    /// No segment is held of the chain.
    pub is_empty: bool,
}

/// What a source that has lost records still shares with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// Where the shared part ends, exclusive.
    pub next: Offset,
    /// The leader epoch of its last batch, −1 when there is none or it is unknown.
    pub leader_epoch: i32,
}

/// A chain's folder, listed.
pub(super) struct Listing {
    pub(super) fork: Option<Fork>,
    pub(super) folder: String,
    pub(super) segments: Segments,
}

impl Archive {
    /// Finds the tip of a partition: of the newest fork that has segments, else of the partition's own chain.
    ///
    /// It reads the last two sidecars, more where there is a hole or debris: a `.log` inside another's range is passed
    /// over.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when the last segment has no readable sidecar, or there is no segment and the begin cannot be
    /// read: nothing is appended behind what is not understood.
    pub async fn tip(&self, partition: &Partition) -> Result<Held> {
        if !self.store().exists(layout::BACKUP).await? {
            return Err(Error::transient("the archive is not where it was")
                .with("missing", self.store().describe(layout::BACKUP))
                .hint("is its folder mounted?"));
        }
        let listing = self.newest_chain(partition).await?;
        let last = self.last_of(&listing, listing.segments.logs.len()).await?;
        let mut begins = None;
        if last.is_none() && listing.segments.has_begin {
            begins = begin::read(self.store(), partition, &listing.folder).await?.map(|begin| begin.offset);
        }
        if last.is_some() || begins.is_some() {
            // What a process that ended early had created may not be durable yet, and we are about to follow on it.
            self.store().settle(&listing.folder).await?;
        }
        let Listing { fork, folder, .. } = listing;
        Ok(match last {
            Some((_, last)) => {
                let leader_epoch = last.epochs.last().map_or(-1, |epoch| epoch.epoch);
                Held { fork, folder, next: Some(last.range.next), leader_epoch, is_empty: false }
            }
            None => Held { fork, folder, next: begins, leader_epoch: -1, is_empty: true },
        })
    }

    /// Returns the forks of a partition that have segments, oldest first.
    pub async fn forks(&self, partition: &Partition) -> Result<Vec<Fork>> {
        let mut held = Vec::new();
        for fork in self.fork_names(partition).await? {
            if !self.chain_listing(partition, Some(fork)).await?.segments.logs.is_empty() {
                held.push(fork);
            }
        }
        Ok(held)
    }

    /// Returns where a chain ends; `None` when it has no segments.
    pub async fn end_of(&self, partition: &Partition, fork: Option<Fork>) -> Result<Option<Offset>> {
        let listing = self.chain_listing(partition, fork).await?;
        let last = self.last_of(&listing, listing.segments.logs.len()).await?;
        Ok(last.map(|(_, sidecar)| sidecar.range.next))
    }

    /// Finds what `source` and the chain of `held` share, the chain's offsets from `limit` on left aside: the source's
    /// newest leader epoch, not above the chain's last, is `epoch` (−1: unknown), and ends at `end`.
    ///
    /// It ends where the source's epoch does, and before the chain's first batch of a newer epoch. Sidecars are read
    /// from the end back to the batch before that.
    pub async fn shared(
        &self,
        partition: &Partition,
        held: &Held,
        limit: Offset,
        (epoch, end): (i32, Offset),
    ) -> Result<Shared> {
        let forks = self.forks(partition).await?;
        let mut next = end.clamp(0, limit);
        for part in lineage::stretches(held.fork, &forks).into_iter().rev() {
            let listing = self.chain_listing(partition, part.fork).await?;
            let limit = limit.min(part.range.next);
            let mut upto = listing.segments.logs.partition_point(|&(first, _)| first < limit);
            while let Some((at, sidecar)) = self.last_of(&listing, upto).await? {
                upto = at;
                let first = sidecar.range.first;
                let newer = sidecar.epochs.iter().find(|held| epoch >= 0 && held.epoch > epoch && held.first < limit);
                // A chain's first batch may begin before the chain.
                next = newer.map_or(next, |newer| next.min(newer.first.max(first)));
                let before = sidecar.epochs.iter().rfind(|held| first < next && held.first < next);
                if let Some(before) = before {
                    return Ok(Shared { next, leader_epoch: before.epoch });
                }
            }
        }
        Ok(Shared { next, leader_epoch: -1 })
    }

    /// Returns the newest chain of a partition, listed.
    pub(super) async fn newest_chain(&self, partition: &Partition) -> Result<Listing> {
        for fork in self.fork_names(partition).await?.into_iter().rev() {
            let listing = self.chain_listing(partition, Some(fork)).await?;
            // A writer that stopped before its first commit has made no fork.
            if !listing.segments.logs.is_empty() {
                return Ok(listing);
            }
        }
        self.chain_listing(partition, None).await
    }

    /// Returns the forks of a partition that have a folder, oldest first.
    async fn fork_names(&self, partition: &Partition) -> Result<Vec<Fork>> {
        let timeline = layout::timeline_folder(&partition.topic, partition.topic_id);
        let listed = self.store().list_from(&timeline, &format!("{}@", partition.index)).await?;
        let names = listed.iter().filter(|entry| entry.is_folder).filter_map(|entry| {
            let (index, fork) = layout::parse_chain_name(&entry.name)?;
            fork.filter(|_| index == partition.index)
        });
        let mut forks: Vec<_> = names.collect();
        forks.sort_unstable();
        Ok(forks)
    }

    pub(super) async fn chain_listing(&self, partition: &Partition, fork: Option<Fork>) -> Result<Listing> {
        let folder = layout::chain_folder(partition, fork);
        let segments = Segments::new(self.store().list(&folder).await?);
        Ok(Listing { fork, folder, segments })
    }

    /// Returns the last segment among the first `upto` logs that lies inside no other's range, and its sidecar.
    ///
    /// Where a segment begins at which another ends, it is none's debris; else the ones before are asked.
    pub(super) async fn last_of(&self, listing: &Listing, upto: usize) -> Result<Option<(usize, Sidecar)>> {
        let logs = &listing.segments.logs;
        let Some(mut at) = upto.checked_sub(1) else { return Ok(None) };
        let mut last = self.sidecar_of(listing, at).await?;
        for before in (0..at).rev().take(MOST_DEBRIS) {
            let Some(sidecar) = self.readable_sidecar(listing, before).await? else { continue };
            let (first, next) = (logs[at].0, sidecar.range.next);
            if next == first {
                break;
            }
            if next > first {
                tracing::warn!(
                    folder = listing.folder,
                    offset = first,
                    "passing over a segment inside another's range"
                );
                (at, last) = (before, sidecar);
            }
        }
        Ok(Some((at, last)))
    }

    /// Reads a sidecar, if it can be read: `verify` tells of damage; what comes after it is sound, and the source must
    /// not be kept waiting.
    async fn readable_sidecar(&self, listing: &Listing, at: usize) -> Result<Option<Sidecar>> {
        let (first, length_bytes) = listing.segments.logs[at];
        if listing.segments.sidecars(first, length_bytes).next().is_none() {
            return Ok(None);
        }
        match self.sidecar_of(listing, at).await {
            Ok(sidecar) => Ok(Some(sidecar)),
            Err(error) if error.kind() == Kind::Damaged => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the sidecar that describes the `at`th log.
    async fn sidecar_of(&self, listing: &Listing, at: usize) -> Result<Sidecar> {
        let Listing { folder, segments, .. } = listing;
        let (first, length_bytes) = segments.logs[at];
        let log = || self.store().describe(&format!("{folder}{}", layout::log(first)));
        let mut fitting = segments.sidecars(first, length_bytes).peekable();
        let mut chosen = fitting.next();
        if fitting.peek().is_some() {
            // Two sidecars of one length: the log itself says which is its own.
            let bytes = self.store().read(&format!("{folder}{}", layout::log(first))).await?.unwrap_or_default();
            let digest = xxhash_rust::xxh3::xxh3_128(&bytes);
            chosen = segments.sidecars(first, length_bytes).find(|&found| found == digest);
        }
        let Some(digest) = chosen else {
            // A listing beside a living writer is no snapshot: the sidecar may have come between two of its pages.
            return Err(Error::transient("segment has no sidecar").with("object", log()).hint("run `verify`"));
        };
        let key = format!("{folder}{}", layout::sidecar(first, length_bytes, digest));
        let Some(bytes) = self.store().read(&key).await? else {
            return Err(Error::transient("sidecar went while we read it").with("object", self.store().describe(&key)));
        };
        Sidecar::decode(&bytes).map_err(|error| error.with("object", self.store().describe(&key)))
    }
}
