//! Where a partition goes on: its newest chain, that chain's end, and what of it a source still has.
//!
//! Nothing is written here, and few objects are read: a listing of the forks, the names of the newest chain's catalogs,
//! a listing of what lies behind them, and the sidecars of that ([`catalogs`]). A chain without catalogs is
//! listed as a whole. An answer is a hint: who appends behind it is fenced by the name of what it creates.
//!
//! Where the store cannot begin a listing in the middle (azblob, memory), a hole behind all catalogs of which not even a
//! sidecar is left looks like the chain's end: the agent goes on there, and fills it with what the source still has.
//! Where its segments then meet those behind, readers pass over what lies inside another's range.

use super::catalog::{Catalog, Name};
use super::catalogs::upkeep::Upkeep;
use super::catalogs::{self, End};
use super::layout::{self, Fork};
use super::sidecar::{Epoch, Sidecar};
use super::source::Place;
use super::{Archive, Segments, begin, lineage};
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, Partition, Timestamp};

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
    /// Its catalogs, those that are due among them.
    pub upkeep: Upkeep,
}

/// What a source that has lost records still shares with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// Where the shared part ends, exclusive.
    pub next: Offset,
    /// The leader epoch of its last batch, −1 when there is none or it is unknown.
    pub leader_epoch: i32,
}

impl Archive {
    /// Finds the tip of a partition: of the newest fork that has segments, else of the partition's own chain.
    ///
    /// It reads the sidecars of the segments that are in no catalog; where they are many, or do not follow on each other,
    /// the last two of them, more where there is a hole or debris: a `.log` inside another's range is passed over.
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
        let fork = self.newest_fork(partition).await?;
        let place = Place::new(partition.clone(), fork);
        let end = End::find(self, &place).await?;
        let (upkeep, followed) = Upkeep::take_up(self, &place, &end).await?;
        let (has_begin, catalog) = (end.segments.has_begin, end.catalogs.last().copied());
        let last = match followed {
            Some(last) => Some(last),
            None => self.last_at(&place, end).await?,
        };
        let folder = place.folder;
        let mut begins = None;
        if last.is_none() && has_begin {
            begins = begin::read(self.store(), partition, &folder).await?.map(|begin| begin.offset);
        }
        if last.is_some() || begins.is_some() {
            // What a process that ended early had created may not be durable yet, and we are about to follow on it.
            self.store().settle(&folder).await?;
        }
        if let Some(name) = catalog {
            self.store().settle(&format!("{folder}{}", Name::folder(name.level))).await?;
        }
        Ok(match last {
            Some(last) => {
                let leader_epoch = last.epochs.last().map_or(-1, |epoch| epoch.epoch);
                Held { fork, folder, next: Some(last.range.next), leader_epoch, is_empty: false, upkeep }
            }
            None => Held { fork, folder, next: begins, leader_epoch: -1, is_empty: true, upkeep },
        })
    }

    /// Returns the forks of a partition that have segments, oldest first.
    pub async fn forks(&self, partition: &Partition) -> Result<Vec<Fork>> {
        let mut held = Vec::new();
        for fork in self.fork_names(partition).await? {
            if self.is_held(partition, fork).await? {
                held.push(fork);
            }
        }
        Ok(held)
    }

    /// Returns where a chain ends; `None` when it has no segments.
    pub async fn end_of(&self, partition: &Partition, fork: Option<Fork>) -> Result<Option<Offset>> {
        let place = Place::new(partition.clone(), fork);
        let end = End::find(self, &place).await?;
        Ok(self.last_at(&place, end).await?.map(|sidecar| sidecar.range.next))
    }

    /// Returns where a chain goes on: where it ends or, while it has no segments, where it begins; `None` where nothing
    /// says so.
    pub async fn next_of(&self, partition: &Partition, fork: Option<Fork>) -> Result<Option<Offset>> {
        match self.end_of(partition, fork).await? {
            Some(next) => Ok(Some(next)),
            None => {
                let begin = begin::read(self.store(), partition, &layout::chain_folder(partition, fork)).await?;
                Ok(begin.map(|begin| begin.offset))
            }
        }
    }

    /// Returns when the last segment of the chain at `place` was sealed; `None` when it has no segments.
    pub async fn last_sealed(&self, place: &Place) -> Result<Option<Timestamp>> {
        let end = End::find(self, place).await?;
        Ok(self.last_at(place, end).await?.map(|sidecar| sidecar.sealed_at))
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
        let mut search = Search { epoch, limit, next: end.clamp(0, limit) };
        for part in lineage::stretches(held.fork, &forks).into_iter().rev() {
            let place = Place::new(partition.clone(), part.fork);
            let found = End::find(self, &place).await?;
            search.limit = limit.min(part.range.next);
            let mut upto = found.segments.logs.partition_point(|&(first, _)| first < search.limit);
            while let Some((at, sidecar)) = self.last_of(&place.folder, &found.segments, upto).await? {
                upto = at;
                if let Some(shared) = search.look_at(&sidecar) {
                    return Ok(shared);
                }
            }
            let limit = search.limit;
            for name in found.catalogs.into_iter().rev().filter(|name| name.range.first < limit) {
                let catalog = catalogs::upkeep::read_or_gather(self, &place, name).await?;
                if let Some(shared) = self.shared_in(&place, &catalog, &mut search).await? {
                    return Ok(shared);
                }
            }
        }
        Ok(Shared { next: search.next, leader_epoch: -1 })
    }

    /// Searches the segments of a catalog from its end back; of those that are wholly newer no sidecar is read.
    async fn shared_in(&self, place: &Place, catalog: &Catalog, search: &mut Search) -> Result<Option<Shared>> {
        let is_newer = |at: usize| {
            let row = catalog.rows.get(at);
            row.is_some_and(|row| {
                search.epoch >= 0 && row.leader_epoch > search.epoch && row.range.next <= search.limit
            })
        };
        // Leader epochs never fall along a chain.
        let mut upto = catalog.rows.len();
        while upto > 1 && is_newer(upto - 1) && is_newer(upto - 2) {
            upto -= 1;
        }
        for at in (0..upto).rev() {
            let Some(row) = catalog.rows.get(at).filter(|row| row.range.first < search.limit) else { continue };
            let Some(sidecar) = catalogs::sidecar_of(self, place, &row).await? else {
                let key = layout::sidecar(row.range.first, row.length_bytes, row.digest);
                return Err(Error::damaged("sidecar is not there, or cannot be read")
                    .with("object", self.store().describe(&format!("{}{key}", place.folder))));
            };
            if let Some(shared) = search.look_at(&sidecar) {
                return Ok(Some(shared));
            }
        }
        Ok(None)
    }

    /// Returns the newest fork of a partition that has segments; `None` is the partition's own chain.
    pub(super) async fn newest_fork(&self, partition: &Partition) -> Result<Option<Fork>> {
        for fork in self.fork_names(partition).await?.into_iter().rev() {
            // A writer that stopped before its first commit has made no fork.
            if self.is_held(partition, fork).await? {
                return Ok(Some(fork));
            }
        }
        Ok(None)
    }

    /// Returns whether a fork has segments.
    async fn is_held(&self, partition: &Partition, fork: Fork) -> Result<bool> {
        let folder = layout::chain_folder(partition, Some(fork));
        // Its first segment is named after it; only where that is lost the folder must be looked through.
        let first = format!("{folder}{}", layout::log(fork.end));
        Ok(self.store().exists(&first).await? || !Segments::new(self.store().list(&folder).await?).logs.is_empty())
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

    /// Returns the sidecar of a chain's last segment.
    async fn last_at(&self, place: &Place, end: End) -> Result<Option<Sidecar>> {
        let last = self.last_of(&place.folder, &end.segments, end.segments.logs.len()).await?;
        Ok(last.map(|(_, sidecar)| sidecar).or(end.last))
    }

    /// Returns the last segment among the first `upto` logs that lies inside no other's range, and its sidecar.
    ///
    /// Where a segment begins at which another ends, it is none's debris; else the ones before are asked.
    pub(super) async fn last_of(
        &self,
        folder: &str,
        segments: &Segments,
        upto: usize,
    ) -> Result<Option<(usize, Sidecar)>> {
        let logs = &segments.logs;
        let Some(mut at) = upto.checked_sub(1) else { return Ok(None) };
        let mut last = self.sidecar_of(folder, segments, at).await?;
        for before in (0..at).rev().take(MOST_DEBRIS) {
            let Some(sidecar) = self.readable_sidecar(folder, segments, before).await? else { continue };
            let (first, next) = (logs[at].0, sidecar.range.next);
            if next == first {
                break;
            }
            if next > first {
                tracing::warn!(folder, offset = first, "passing over a segment inside another's range");
                (at, last) = (before, sidecar);
            }
        }
        Ok(Some((at, last)))
    }

    /// Reads a sidecar, if it can be read: `verify` tells of damage; what comes after it is sound, and the source must
    /// not be kept waiting.
    pub(super) async fn readable_sidecar(
        &self,
        folder: &str,
        segments: &Segments,
        at: usize,
    ) -> Result<Option<Sidecar>> {
        let (first, length_bytes) = segments.logs[at];
        if segments.sidecars(first, length_bytes).next().is_none() {
            return Ok(None);
        }
        match self.sidecar_of(folder, segments, at).await {
            Ok(sidecar) => Ok(Some(sidecar)),
            Err(error) if error.kind() == Kind::Damaged => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the sidecar that describes the `at`th log.
    async fn sidecar_of(&self, folder: &str, segments: &Segments, at: usize) -> Result<Sidecar> {
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

/// The search for what a source shares with a chain, from the chain's end back.
struct Search {
    /// The source's newest leader epoch, not above the chain's last; −1 where it is unknown.
    epoch: i32,
    /// The chain's offsets from here on are left aside.
    limit: Offset,
    /// What is shared ends here or before.
    next: Offset,
}

impl Search {
    /// Looks at the segment before the ones that were looked at; returns what is shared, once it is known.
    fn look_at(&mut self, sidecar: &Sidecar) -> Option<Shared> {
        let first = sidecar.range.first;
        let is_newer = |held: &Epoch| self.epoch >= 0 && held.epoch > self.epoch && held.first < self.limit;
        // A chain's first batch may begin before the chain.
        let newer = sidecar.epochs.iter().find(|held| is_newer(held));
        self.next = newer.map_or(self.next, |newer| self.next.min(newer.first.max(first)));
        let next = self.next;
        let before = sidecar.epochs.iter().rfind(|held| first < next && held.first < next)?;
        Some(Shared { next, leader_epoch: before.epoch })
    }
}
