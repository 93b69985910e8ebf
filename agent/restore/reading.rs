//! The source of a restore: an archive's chains, read along the way that the plan names.
//!
//! Order: a partition's batches come by offset, in runs of whole batches that a read-committed reader sees; what is left
//! out of a chunk (control batches, aborted and torn transactions, gaps) is covered by the run behind it, at last by one
//! without batches. Of a batch that reaches beyond what its run covers, at the cut of a fork or where a chain begins, the
//! rest is not meant. Segments that cannot contribute are not read. What is left out of the others is proven as well as
//! what is sent ([`proof`]). Retry: none; what cannot be read ends the partition, and its error is told when the others are
//! through ([`Reading::failure`]); where a break of the chain was accepted, the rest of that segment is left out. Memory: a chunk is paid for before it is read,
//! as large as the largest so far, and a partition has at most two on their way.

mod proof;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use self::proof::Proof;
use super::plan::Torn;
use crate::archive::Archive;
use crate::archive::catalog::Row;
use crate::archive::source::chunks::{CHUNK_BYTES, Chunk, Segment};
use crate::archive::source::opened::Opened;
use crate::archive::source::way::Part;
use crate::batch;
use crate::batch::outgoing::Window;
use crate::budget::{Budget, Permit, RateLimit};
use crate::error::{Error, Kind, Result};
use crate::pipeline::{Batch, Event, Payload, Source, Tip};
use crate::record::{Offset, OffsetRange, Partition};

/// Chunks of a partition on their way. With one the reader waits for the target; more wait behind each other.
const CHUNKS_UNDER_WAY: usize = 2;

/// Partitions that are read at once. Half of them leave a target of many brokers idle, more only share the same line.
const AT_ONCE: usize = 32;

/// What is read of one partition.
#[derive(Debug, Clone)]
pub(super) struct Task {
    /// The partition.
    pub(super) partition: Partition,
    /// The chains, with what is taken of each.
    pub(super) way: Vec<Part>,
    /// Which records are wanted.
    pub(super) window: Window,
    /// Transactions that are left out.
    pub(super) torn: Vec<Torn>,
    /// Whether what the archive lacks between segments was accepted.
    pub(super) over_breaks: bool,
}

/// What limits a restore.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// The memory.
    pub(super) budget: Budget,
    /// Bytes per second.
    pub(super) bytes: RateLimit,
    /// Records per second.
    pub(super) records: RateLimit,
    /// What is handed on at once, where a rate is limited: its bytes and its records, but for one larger batch.
    pub(super) piece: (usize, u64),
}

/// What the readers of all partitions share.
#[derive(Debug, Default)]
struct Shared {
    /// The first error of a partition that cannot be read.
    failure: Mutex<Option<Error>>,
    /// The bytes of the largest chunk so far: batches above [`CHUNK_BYTES`] make larger ones.
    largest: AtomicUsize,
}

/// The archive as a source.
pub(super) struct Reading {
    archive: Archive,
    limits: Limits,
    shared: Arc<Shared>,
    waiting: VecDeque<Arc<Task>>,
    /// Those that the loop has heard of and that are not closed.
    open: HashMap<Partition, (Arc<Task>, Option<AbortHandle>)>,
    events: mpsc::Receiver<Result<Event>>,
    sender: mpsc::Sender<Result<Event>>,
}

impl Reading {
    /// Makes the source of these partitions.
    pub(super) fn new(archive: &Archive, tasks: Vec<Task>, limits: Limits) -> Self {
        // What is in it is paid for; the bound is for those without bytes.
        let (sender, events) = mpsc::channel(2 * AT_ONCE);
        let waiting = tasks.into_iter().map(Arc::new).collect();
        let (archive, shared) = (archive.clone(), Arc::default());
        Self { archive, limits, shared, waiting, open: HashMap::new(), events, sender }
    }

    /// Returns the first error of a partition that could not be read to its end.
    pub(super) fn failure(&self) -> Option<Error> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Source for Reading {
    async fn next(&mut self) -> Result<Option<Event>> {
        if self.open.len() < AT_ONCE
            && let Some(task) = self.waiting.pop_front()
        {
            let partition = task.partition.clone();
            self.open.insert(partition.clone(), (task, None));
            return Ok(Some(Event::Assigned(partition)));
        }
        if self.open.is_empty() {
            return Ok(None);
        }
        self.events.recv().await.transpose()
    }

    fn start(&mut self, partition: &Partition, tip: Tip) {
        let Some((task, running)) = self.open.get_mut(partition) else { return };
        let reader = Reader {
            archive: self.archive.clone(),
            limits: self.limits.clone(),
            shared: self.shared.clone(),
            task: task.clone(),
            generation: tip.generation,
            under_way: Arc::new(Semaphore::new(CHUNKS_UNDER_WAY)),
            sender: self.sender.clone(),
            covered: tip.next.unwrap_or(task.window.offsets.first),
        };
        if let Some(before) = running.replace(tokio::spawn(reader.run()).abort_handle()) {
            before.abort();
        }
    }

    fn stop(&mut self, partition: &Partition) {
        if let Some(running) = self.open.get_mut(partition).and_then(|(_, running)| running.take()) {
            running.abort();
        }
    }

    fn durable(&mut self, _: &Partition, _: Offset) {}

    fn closed(&mut self, partition: &Partition) {
        self.stop(partition);
        self.open.remove(partition);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        for (_, running) in self.open.values() {
            running.iter().for_each(AbortHandle::abort);
        }
    }
}

/// Reads one partition.
struct Reader {
    archive: Archive,
    limits: Limits,
    shared: Arc<Shared>,
    task: Arc<Task>,
    generation: u32,
    under_way: Arc<Semaphore>,
    sender: mpsc::Sender<Result<Event>>,
    /// Everything before this offset was handed on, or there is nothing of it.
    covered: Offset,
}

/// Nobody listens any more.
struct Gone;

impl Reader {
    async fn run(self) {
        let (partition, shared, sender) = (self.task.partition.clone(), self.shared.clone(), self.sender.clone());
        let first = self.task.window.offsets.first;
        let (next, outcome) = match whole(self.read_all()).await {
            Ok(read) => read,
            Err(error) => (first, Err(error)),
        };
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(Gone)) => return,
            Err(error) => {
                let error = error.with("topic", &partition.topic).with("partition", partition.index);
                tracing::error!("{error}; other partitions go on");
                let mut failure = shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = failure.get_or_insert(error);
            }
        }
        // Whoever listened may be gone.
        let _ = sender.send(Ok(Event::Finished { partition, next })).await;
    }

    async fn read_all(mut self) -> (Offset, Result<Result<(), Gone>>) {
        let outcome = self.read().await;
        (self.covered, outcome)
    }

    async fn read(&mut self) -> Result<Result<(), Gone>> {
        let task = self.task.clone();
        for part in &task.way {
            let range = OffsetRange { next: part.range.next.min(task.window.offsets.next), ..part.range };
            if range.next <= self.covered {
                continue;
            }
            if range.first > self.covered && !task.over_breaks {
                return Err(lacks(OffsetRange { first: self.covered, next: range.first }));
            }
            let index = Opened::read(&self.archive, &part.place).await?.index;
            let from = self.covered.max(range.first);
            let Some(at) = index.at_offset(from) else { continue };
            for row in index.iter_from(at).take_while(|row| row.range.first < range.next) {
                if row.range.first > self.covered.max(from) && !task.over_breaks {
                    return Err(lacks(OffsetRange { first: self.covered, next: row.range.first }));
                }
                // What a batch there has before is not the segment's.
                self.covered = self.covered.max(from).max(row.range.first);
                if contributes(&row, &task.window) {
                    match self.segment(part, &row, range).await {
                        Ok(Ok(())) => {}
                        Ok(Err(Gone)) => return Ok(Err(Gone)),
                        Err(error) if task.over_breaks && error.is_unreadable() => {
                            tracing::warn!("{}: {error}; what is left of that segment is left out", task.partition);
                        }
                        Err(error) => return Err(error),
                    }
                }
                self.covered = self.covered.max(row.range.next.min(range.next));
            }
        }
        self.end().await
    }

    /// Covers what lies behind the last batch, when all that is wanted has been looked at.
    async fn end(&mut self) -> Result<Result<(), Gone>> {
        let next = self.task.window.offsets.next;
        if self.covered < next && !self.task.over_breaks {
            let missing = OffsetRange { first: self.covered, next };
            return Err(lacks(missing));
        }
        // So long it takes to send what was handed on, at the rate that is allowed.
        self.limits.bytes.pass(0).await;
        self.limits.records.pass(0).await;
        let payload = Payload::Gap { reason: "no batch lies there".to_owned() };
        let range = OffsetRange { first: self.covered.min(next), next };
        let batch = Batch::new(self.task.partition.clone(), self.generation, range, payload, Permit::default());
        self.covered = next;
        Ok(self.sender.send(Ok(Event::Batch(batch))).await.map_err(|_| Gone))
    }

    /// Reads what is wanted of one segment.
    async fn segment(&mut self, part: &Part, row: &Row, range: OffsetRange) -> Result<Result<(), Gone>> {
        let segment = Segment::open(&self.archive, &part.place, row).await?;
        let mut position = segment.position_of(self.covered);
        if let Some(from) = self.task.window.from {
            position = position.max(segment.position_of_time(from));
        }
        let mut chunks = segment.chunks(position);
        let mut proof = Proof::new(row, position == 0);
        let of_segment = |error: Error| error.with("object", segment.describe());
        loop {
            let semaphore = self.under_way.clone();
            let Ok(under_way) = semaphore.acquire_owned().await else { return Ok(Err(Gone)) };
            let expected = self.shared.largest.load(Ordering::Relaxed).max(CHUNK_BYTES as usize);
            let mut permit = self.limits.budget.acquire(expected).await;
            let Some(chunk) = chunks.next().await? else { return proof.end().map(Ok).map_err(of_segment) };
            let length = chunk.bytes.len();
            self.shared.largest.fetch_max(length, Ordering::Relaxed);
            if length > permit.bytes() && permit.bytes() < self.limits.budget.total_bytes() {
                // Paid for anew as a whole: who held a part of it while waiting for the rest could wait for ever.
                drop(permit);
                permit = self.limits.budget.acquire(length).await;
            }
            permit.keep(length);
            let (runs, end) = self.runs(&segment, &chunk, range, &mut proof);
            if self.hand_on_all(runs, &chunk, permit, under_way).await.is_err() {
                return Ok(Err(Gone));
            }
            if end.map_err(of_segment)? {
                return Ok(Ok(()));
            }
        }
    }

    /// Finds the runs of batches of a chunk that a reader sees, as far as it is sound; and whether nothing of the segment
    /// comes behind, or what is wrong there.
    fn runs(
        &self,
        segment: &Segment,
        chunk: &Chunk,
        range: OffsetRange,
        proof: &mut Proof<'_>,
    ) -> (Vec<Run>, Result<bool>) {
        let mut run = Run::default();
        let mut runs = Vec::new();
        let mut end = Ok(false);
        for item in batch::walk(&chunk.bytes) {
            let looked = item.and_then(|(at, header)| {
                let bytes = &chunk.bytes[at..];
                proof.pass(&header)?;
                if header.base_offset >= range.next {
                    return Ok((at, header, false));
                }
                let is_visible = segment.is_visible(&header);
                let is_torn = |torn: &Torn| torn.covers(header.producer_id, header.base_offset);
                let is_wanted = is_visible
                    && header.next_offset() > self.covered
                    && !(header.is_transactional() && self.task.torn.iter().any(is_torn));
                // What is wanted is proven where it is sent, which is too late to go on behind it.
                if !is_wanted || self.task.over_breaks {
                    proof::sound(&header, bytes)?;
                }
                if is_visible {
                    proof.see(&header, bytes)?;
                }
                Ok((at, header, is_wanted))
            });
            let (at, header, is_wanted) = match looked {
                Ok((_, header, _)) if header.base_offset >= range.next => match proof.is_proven_beyond() {
                    true => {
                        end = Ok(true);
                        break;
                    }
                    false => continue,
                },
                Ok(looked) => looked,
                Err(error) => {
                    end = Err(error);
                    break;
                }
            };
            if is_wanted {
                let (bytes, records) = self.limits.piece;
                if run.end != at || run.end - run.start >= bytes || run.records >= records {
                    runs.extend(run.take());
                    run.start = at;
                }
                run.end = at + header.total_bytes;
                run.records += u64::from(header.count.unsigned_abs());
                run.next = header.next_offset().min(range.next);
            }
        }
        runs.extend(run.take());
        (runs, end)
    }

    /// Hands on the runs of a chunk.
    async fn hand_on_all(
        &mut self,
        runs: Vec<Run>,
        chunk: &Chunk,
        mut permit: Permit,
        under_way: OwnedSemaphorePermit,
    ) -> Result<(), Gone> {
        let under_way = Arc::new(under_way);
        for run in runs {
            let bytes = chunk.bytes.slice(run.start..run.end);
            self.limits.bytes.pass(bytes.len()).await;
            self.limits.records.pass(run.records as usize).await;
            let paid = permit.split(bytes.len());
            self.hand_on(bytes, run.next, paid, under_way.clone()).await?;
        }
        Ok(())
    }

    async fn hand_on(
        &mut self,
        bytes: Bytes,
        next: Offset,
        permit: Permit,
        under_way: Arc<OwnedSemaphorePermit>,
    ) -> Result<(), Gone> {
        let range = OffsetRange { first: self.covered, next };
        self.covered = next;
        let payload = Payload::Encoded { bytes, aborted: Vec::new() };
        let batch = Batch::new(self.task.partition.clone(), self.generation, range, payload, permit);
        self.sender.send(Ok(Event::Batch(batch.in_flight(under_way)))).await.map_err(|_| Gone)
    }
}

/// Batches that lie one behind the other.
#[derive(Default)]
struct Run {
    start: usize,
    end: usize,
    records: u64,
    next: Offset,
}

impl Run {
    fn take(&mut self) -> Option<Self> {
        let run = std::mem::take(self);
        (run.end > run.start).then_some(run)
    }
}

fn lacks(missing: OffsetRange) -> Error {
    Error::new(Kind::Hole, "the archive lacks offsets, and declares no gap")
        .with("offsets", missing)
        .hint("`verify` says more; where the plan names the break, accept = [\"chain-break\"] restores what is there")
}

/// Waits for what reads a partition; a defect in it is an error of that partition. Cancel: it is aborted.
async fn whole<T: Send + 'static>(reading: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let mut tasks = JoinSet::new();
    tasks.spawn(reading);
    match tasks.join_next().await {
        Some(Ok(read)) => Ok(read),
        _ => Err(Error::failed("reading it ended by a defect")),
    }
}

/// Returns whether a segment may have records that are wanted: what its row proves otherwise is not read.
pub(super) fn contributes(row: &Row, window: &Window) -> bool {
    let overlaps = row.range.next > window.offsets.first && row.range.first < window.offsets.next;
    let is_late_enough = window.from.is_none_or(|from| row.max_time.is_none_or(|most| most >= from));
    let is_early_enough = window.until.is_none_or(|until| row.min_time.is_none_or(|least| least < until));
    overlaps && row.records > 0 && is_late_enough && is_early_enough
}

#[cfg(test)]
mod tests;
