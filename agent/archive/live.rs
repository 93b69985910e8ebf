//! The indexes that a running agent keeps open: a segment can be found in them as soon as it is committed.
//!
//! What this process commits is followed without asking the store: [`Live::committed`]. A chain that others write, or
//! that this process has not written yet, is looked at again for each question. So an answer is never older than the
//! question, and a commit costs no request. [`lookup`] finds offsets and times.
//!
//! Memory: at most [`CACHE_BYTES`] of indexes; the one that was used longest ago goes. Cancel: a dropped question leaves
//! nothing behind. Locks are held for a few look-ups in memory, never while the store is asked: capture does not wait.

pub mod lookup;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Archive;
use super::catalog::Row;
use super::index::Index;
use super::layout::Fork;
use super::source::Place;
use super::source::opened::Opened;
use crate::error::Result;
use crate::record::{Partition, TopicId};

/// Bytes of indexes that are kept: half a million segments, which is more than most backups have. Half of it reads long
/// chains anew for each question that goes around; double is memory that capture could have.
pub const CACHE_BYTES: usize = 64 << 20;

/// What a chain costs beside its index.
const ENTRY_BYTES: usize = size_of::<Cached>() + 128;

/// A chain of a partition; `None` is the partition's own.
type Key = (Partition, Option<Fork>);

/// The open indexes of one backup. Clones share them.
#[derive(Clone)]
pub struct Live {
    state: Arc<Mutex<State>>,
    /// Held by the one who reads from the store: chains may be large, and two who ask for one read it once.
    reader: Arc<tokio::sync::Mutex<()>>,
}

struct State {
    limit_bytes: usize,
    held_bytes: usize,
    chains: BTreeMap<Key, Cached>,
    /// Counts the uses.
    uses: u64,
    /// The partitions that this process writes.
    written: HashMap<Partition, Written>,
    /// What is committed while a chain is read from the store.
    reading: Option<(Key, Vec<Commit>)>,
}

struct Cached {
    opened: Opened,
    bytes: usize,
    last_used: u64,
    /// When it began to be read from the store last.
    read_at: Instant,
}

/// A partition that this process writes.
#[derive(Default)]
struct Written {
    /// The chain that the last segment went to.
    fork: Option<Fork>,
    /// The forks that have segments, oldest first; `None` until somebody asks.
    forks: Option<Vec<Fork>>,
}

struct Commit {
    row: Row,
    note: Option<Arc<str>>,
}

impl Default for Live {
    fn default() -> Self {
        Self::new(CACHE_BYTES)
    }
}

impl Live {
    /// Makes one that keeps at most `limit_bytes` of indexes.
    pub fn new(limit_bytes: usize) -> Self {
        let state = State {
            limit_bytes,
            held_bytes: 0,
            chains: BTreeMap::new(),
            uses: 0,
            written: HashMap::new(),
            reading: None,
        };
        Self { state: Arc::new(Mutex::new(state)), reader: Arc::default() }
    }

    /// Takes note that this process has committed a segment to the chain `fork` of `partition` (`None`: its own);
    /// `note` is the reason of a gap. Asks the store nothing.
    pub fn committed(&self, partition: &Partition, fork: Option<Fork>, row: &Row, note: Option<Arc<str>>) {
        let commit = Commit { row: *row, note };
        let mut state = self.lock();
        state.begin_writing(partition, fork);
        let key = (partition.clone(), fork);
        let bytes =
            state.chains.get_mut(&key).map(|cached| follow(&mut cached.opened, &commit).then(|| cached.weigh()));
        match bytes {
            Some(Some((before, now))) => {
                state.held_bytes = state.held_bytes - before + now;
                state.evict();
            }
            // Others wrote between; the next question reads it anew.
            Some(None) => state.forget(&key),
            None => {}
        }
        if let Some((read, commits)) = &mut state.reading
            && *read == key
        {
            commits.push(commit);
        }
    }

    /// Takes note that this process does not know any more where a partition ends: its writer has ended, or asks the
    /// store where to go on.
    pub fn left(&self, partition: &Partition) {
        let _: Option<Written> = self.lock().written.remove(partition);
    }

    /// Returns whether this process writes the partition.
    pub fn writes(&self, partition: &Partition) -> bool {
        self.lock().written.contains_key(partition)
    }

    /// Returns the ids of the topics of that name of which this process writes a partition.
    pub fn written_ids(&self, topic: &str) -> Vec<TopicId> {
        let state = self.lock();
        let mut ids: Vec<_> =
            state.written.keys().filter(|held| &*held.topic == topic).map(|held| held.topic_id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Returns the bytes of the indexes that are kept.
    pub fn held_bytes(&self) -> usize {
        self.lock().held_bytes
    }

    /// Returns the index of the chain at `place`, as it is now.
    ///
    /// # Errors
    /// Those of the store, which is asked unless this process writes the partition and has the chain open.
    pub async fn index(&self, archive: &Archive, place: &Place) -> Result<Index> {
        let key = (place.partition.clone(), place.fork);
        let asked_at = Instant::now();
        if let Some(index) = self.lock().known(&key, None) {
            return Ok(index);
        }
        let _reader = self.reader.lock().await;
        // The one who was before us may have read it for us.
        if let Some(index) = self.lock().known(&key, Some(asked_at)) {
            return Ok(index);
        }
        loop {
            let (reading, held) = Reading::begin(self, key.clone());
            let read_at = Instant::now();
            let opened = match held {
                Some(mut opened) => {
                    opened.refresh(archive, place).await?;
                    opened
                }
                None => Opened::read(archive, place).await?,
            };
            // What was committed behind something that was not read: by now it can be.
            if let Some(index) = reading.end(opened, read_at) {
                return Ok(index);
            }
        }
    }

    /// Returns the forks of a partition that have segments, oldest first.
    ///
    /// # Errors
    /// Those of the store, which is asked unless this process writes the partition and it was asked before.
    pub async fn forks(&self, archive: &Archive, partition: &Partition) -> Result<Vec<Fork>> {
        if let Some(forks) = self.lock().written.get(partition).and_then(|written| written.forks.clone()) {
            return Ok(forks);
        }
        let forks = archive.forks(partition).await?;
        let mut state = self.lock();
        let Some(written) = state.written.get_mut(partition) else { return Ok(forks) };
        written.forks = Some(forks);
        written.add_fork();
        Ok(written.forks.clone().unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done when a holder panics: at worst an index is read anew.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin_writing(&mut self, partition: &Partition, fork: Option<Fork>) {
        if !self.written.contains_key(partition) {
            // What was read of the other chains before is older than what others may have written to them.
            let others = self.chains.range((partition.clone(), None)..).map(|(key, _)| key);
            let others = others.take_while(|key| key.0 == *partition).filter(|key| key.1 != fork);
            others.cloned().collect::<Vec<_>>().iter().for_each(|key| self.forget(key));
        }
        let written = self.written.entry(partition.clone()).or_default();
        written.fork = fork;
        written.add_fork();
    }

    /// Returns the index of a chain if it is known as it is now: this process writes the partition, or it was read at
    /// `since` or later.
    fn known(&mut self, key: &Key, since: Option<Instant>) -> Option<Index> {
        let is_followed = self.written.contains_key(&key.0);
        let cached = self.chains.get_mut(key)?;
        if !is_followed && since.is_none_or(|since| cached.read_at < since) {
            return None;
        }
        self.uses += 1;
        cached.last_used = self.uses;
        Some(cached.opened.index.clone())
    }

    fn keep(&mut self, key: Key, opened: Opened, read_at: Instant) {
        self.forget(&key);
        self.uses += 1;
        let mut cached = Cached { opened, bytes: 0, last_used: self.uses, read_at };
        let (_, bytes) = cached.weigh();
        // One that is larger than the cache would drive out all others, and be dropped itself with the next.
        if bytes <= self.limit_bytes {
            self.held_bytes += bytes;
            let _: Option<Cached> = self.chains.insert(key, cached);
            self.evict();
        }
    }

    /// Drops what was used longest ago until the rest fits.
    fn evict(&mut self) {
        while self.held_bytes > self.limit_bytes {
            let oldest = self.chains.iter().min_by_key(|(_, cached)| cached.last_used).map(|(key, _)| key.clone());
            match oldest {
                Some(key) => self.forget(&key),
                None => return,
            }
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(cached) = self.chains.remove(key) {
            self.held_bytes -= cached.bytes;
        }
    }
}

impl Cached {
    /// Weighs it anew; returns its bytes before and now.
    fn weigh(&mut self) -> (usize, usize) {
        let now = self.opened.index.held_bytes() + ENTRY_BYTES;
        (std::mem::replace(&mut self.bytes, now), now)
    }
}

impl Written {
    /// Makes sure that the fork that is written is among the forks, if they are known.
    fn add_fork(&mut self) {
        if let (Some(fork), Some(forks)) = (self.fork, &mut self.forks)
            && let Err(at) = forks.binary_search(&fork)
        {
            forks.insert(at, fork);
        }
    }
}

/// A chain that is being read from the store: what is committed to it meanwhile is kept for the end.
struct Reading<'a> {
    live: &'a Live,
}

impl<'a> Reading<'a> {
    /// Begins to read; returns what is held of it.
    fn begin(live: &'a Live, key: Key) -> (Self, Option<Opened>) {
        let mut state = live.lock();
        let held = state.chains.get(&key).map(|cached| cached.opened.clone());
        state.reading = Some((key, Vec::new()));
        (Self { live }, held)
    }

    /// Takes in what was read, and what was committed meanwhile; `None` where something is missing between the two.
    fn end(self, mut opened: Opened, read_at: Instant) -> Option<Index> {
        let mut state = self.live.lock();
        let (key, commits) = state.reading.take()?;
        if !commits.iter().all(|commit| follow(&mut opened, commit)) {
            state.forget(&key);
            return None;
        }
        let index = opened.index.clone();
        state.keep(key, opened, read_at);
        Some(index)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.live.lock().reading = None;
    }
}

/// Adds a segment that follows, unless it is there already; returns `false` where something may be missing before it.
fn follow(opened: &mut Opened, commit: &Commit) -> bool {
    let range = commit.row.range;
    match opened.index.range() {
        Some(held) if range.next <= held.next => return true,
        Some(held) if range.first == held.next => {}
        // Of a chain that was empty when it was read, others may have written the beginning.
        _ => return false,
    }
    opened.index.push(&commit.row, commit.note.clone());
    opened.reach.is_held = true;
    opened.reach.next = Some(range.next);
    true
}

#[cfg(test)]
pub(crate) mod tests;
