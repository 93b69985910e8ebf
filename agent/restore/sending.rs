//! The sink of a restore: what was read, made into batches that the target takes, sent in order, and mapped.
//!
//! Order: a partition's batches are fitted one chunk after the other, on threads where computing is allowed, and sent in
//! that order; what is acknowledged comes in it too. Durable is what the target has acknowledged at the offset that was
//! expected: another offset means that somebody else writes there, which ends the partition. A partition is restored when
//! everything up to the end of its window was handed over; one that is closed before is not. Memory: batches hold what
//! the source has paid for until they are acknowledged; merging holds some hundred KiB a partition beside.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::map::{OffsetMap, Pair};
use crate::batch;
use crate::batch::outgoing::{Fitted, Limits, Refit, Sources, Window};
use crate::budget::Permit;
use crate::error::{Error, Result};
use crate::kafka::produce::{self, Producer};
use crate::pipeline::{Answer, Batch, Payload, Sink, Tip, Topic};
use crate::record::{Offset, OffsetRange, Partition};

/// What is sent of one source partition.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    /// From where to where.
    pub(super) pair: Pair,
    /// Which records.
    pub(super) window: Window,
    /// How large batches are made.
    pub(super) limits: Limits,
    /// Whether what was read is sent at once, and does not wait for more to be merged with: where a rate is limited, it
    /// would come in bursts.
    pub(super) is_paced: bool,
}

/// What comes back with a batch that was sent.
pub(super) struct Token {
    source: Partition,
    sources: Sources,
    bytes: usize,
    /// The payment for what was read, until all that was made of it has landed.
    _paid: Arc<Permit>,
}

/// A target cluster as a sink.
pub(super) struct Sending {
    producer: Producer<Token>,
    lanes: HashMap<Partition, Lane>,
    open: HashMap<Partition, Open>,
    /// The offset that the next record of each target partition gets.
    ends: HashMap<Partition, Offset>,
    /// Of each target partition the sources that are sent to it now.
    opened: HashMap<Partition, usize>,
    answers: VecDeque<Answer>,
    fitted: mpsc::UnboundedReceiver<Made>,
    made: mpsc::UnboundedSender<Made>,
    /// As many chunks are fitted at once as there are cores.
    cores: Arc<Semaphore>,
    map: OffsetMap,
    records: u64,
    bytes: u64,
}

/// A partition on its way.
struct Open {
    lane: Lane,
    jobs: mpsc::UnboundedSender<Job>,
    fitting: AbortHandle,
    /// Chunks of which not all has landed, in order.
    chunks: VecDeque<Sent>,
    /// The end of what was put.
    reached: Offset,
    /// Nothing more comes.
    is_closing: bool,
}

/// A chunk that was sent.
struct Sent {
    /// Batches that have not landed.
    left: usize,
    /// What is covered when they have.
    next: Option<Offset>,
    records: u64,
    bytes: u64,
    since: Instant,
}

enum Job {
    Fit(Batch),
    /// Nothing comes behind this offset.
    Close(Offset),
}

/// What became of a job.
struct Made {
    source: Partition,
    outcome: Result<Vec<Fitted>>,
    permit: Permit,
    /// What is covered when these have landed; `None` while something waits for more to be merged with.
    next: Option<Offset>,
    is_close: bool,
}

impl Sending {
    /// Makes the sink of these partitions; `ends` are the ends of the target partitions.
    pub(super) fn new(producer: Producer<Token>, lanes: Vec<Lane>, ends: HashMap<Partition, Offset>) -> Result<Self> {
        let (made, fitted) = mpsc::unbounded_channel();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut map = OffsetMap::default();
        for Lane { pair, window, .. } in &lanes {
            map.open(pair, window.offsets, ends.get(&pair.target).copied().unwrap_or(0))?;
        }
        Ok(Self {
            producer,
            lanes: lanes.into_iter().map(|lane| (lane.pair.source.clone(), lane)).collect(),
            open: HashMap::new(),
            ends,
            opened: HashMap::new(),
            answers: VecDeque::new(),
            fitted,
            made,
            cores: Arc::new(Semaphore::new(cores)),
            map,
            records: 0,
            bytes: 0,
        })
    }

    /// Returns the offset map, and how many records and bytes have landed.
    pub(super) fn finish(mut self) -> (OffsetMap, u64, u64) {
        (std::mem::take(&mut self.map), self.records, self.bytes)
    }

    fn on_made(&mut self, made: Made) {
        let Some(open) = self.open.get_mut(&made.source) else { return };
        let batches = match made.outcome {
            Ok(batches) => batches,
            Err(error) => return self.fail(&made.source, error),
        };
        let paid = Arc::new(made.permit);
        let mut sent = Sent { left: batches.len(), next: made.next, records: 0, bytes: 0, since: Instant::now() };
        for Fitted { batch, sources } in batches {
            sent.records += u64::from(batch.records());
            sent.bytes += batch.total_bytes() as u64;
            let token = Token { source: made.source.clone(), sources, bytes: batch.total_bytes(), _paid: paid.clone() };
            self.producer.send(&open.lane.pair.target, batch, token);
        }
        open.is_closing |= made.is_close;
        open.chunks.push_back(sent);
        self.advance(&made.source);
    }

    fn on_landed(&mut self, target: &Partition, first: Offset, records: u32, token: Token) {
        let Some(open) = self.open.get_mut(&token.source) else { return };
        let end = self.ends.entry(target.clone()).or_insert(first);
        if *end != first {
            let error = foreign(target, *end, first);
            return self.fail(&token.source, error);
        }
        *end = first + Offset::from(records);
        let mut at = first;
        for (source, length) in token.sources.iter() {
            if let Err(error) = self.map.push(&open.lane.pair, source, at, length.into()) {
                return self.fail(&token.source, error);
            }
            at += Offset::from(length);
        }
        self.records += u64::from(records);
        self.bytes += token.bytes as u64;
        if let Some(sent) = open.chunks.iter_mut().find(|sent| sent.left > 0) {
            sent.left -= 1;
        }
        self.advance(&token.source);
    }

    /// Tells what has become durable of a partition, and that it is closed where nothing more comes.
    fn advance(&mut self, source: &Partition) {
        let Some(open) = self.open.get_mut(source) else { return };
        let (mut records, mut bytes) = (0, 0);
        while open.chunks.front().is_some_and(|sent| sent.left == 0) {
            let Some(sent) = open.chunks.pop_front() else { break };
            records += sent.records;
            bytes += sent.bytes;
            if let Some(next) = sent.next {
                if let Err(error) = self.map.reach(&open.lane.pair, next) {
                    return self.fail(source, error);
                }
                let (partition, took) = (source.clone(), sent.since.elapsed());
                self.answers.push_back(Answer::Durable { partition, next, records, bytes, took });
                (records, bytes) = (0, 0);
            } else if let Some(behind) = open.chunks.front_mut() {
                behind.records += std::mem::take(&mut records);
                behind.bytes += std::mem::take(&mut bytes);
            } else {
                open.chunks.push_front(Sent { records, bytes, ..sent });
                break;
            }
        }
        let is_done = open.chunks.iter().all(|sent| sent.left == 0);
        if open.is_closing && is_done {
            let pair = &open.lane.pair;
            let end = self.ends.get(&pair.target).copied().unwrap_or(0);
            if open.reached >= open.lane.window.offsets.next
                && let Err(error) = self.map.finish(pair, end)
            {
                return self.fail(source, error);
            }
            self.remove(source);
            self.answers.push_back(Answer::Closed { partition: source.clone() });
        }
    }

    fn fail(&mut self, source: &Partition, error: Error) {
        if self.remove(source) {
            let error = error.with("topic", &source.topic).with("partition", source.index);
            self.answers.push_back(Answer::Failed { partition: Some(source.clone()), error });
        }
    }

    fn remove(&mut self, source: &Partition) -> bool {
        let Some(open) = self.open.remove(source) else { return false };
        open.fitting.abort();
        true
    }
}

impl Sink for Sending {
    fn topic(&mut self, _: Topic) {
        self.answers.push_back(Answer::TopicKept);
    }

    fn open(&mut self, partition: &Partition) {
        let Some(lane) = self.lanes.get(partition).cloned() else {
            let error = Error::failed("nothing is planned for a partition that was read");
            return self.answers.push_back(Answer::Failed { partition: Some(partition.clone()), error });
        };
        let (jobs, heard) = mpsc::unbounded_channel();
        let fitting = Fitting { lane: lane.clone(), cores: self.cores.clone(), made: self.made.clone() };
        let fitting = tokio::spawn(fitting.run(heard)).abort_handle();
        let sources = self.opened.entry(lane.pair.target.clone()).or_default();
        if *sources == 0 {
            self.producer.open(&lane.pair.target, 0);
        }
        *sources += 1;
        let reached = lane.window.offsets.first;
        let open = Open { lane, jobs, fitting, chunks: VecDeque::new(), reached, is_closing: false };
        self.open.insert(partition.clone(), open);
        let tip = Tip { next: Some(reached), leader_epoch: -1, generation: 1 };
        self.answers.push_back(Answer::Restart { partition: partition.clone(), tip });
    }

    /// An archive begins where its chain does.
    fn begin(&mut self, _: &Partition, _: u32, _: Offset) {}

    /// What is archived does not change.
    fn diverge(&mut self, _: &Partition, _: u32, _: i32, _: Offset) {}

    fn put(&mut self, batch: Batch) {
        if let Some(open) = self.open.get_mut(batch.partition()) {
            open.reached = batch.range.next;
            // It ends only with the partition.
            let _ = open.jobs.send(Job::Fit(batch));
        }
    }

    fn close(&mut self, partition: &Partition, _: u32) {
        if let Some(open) = self.open.get(partition) {
            let _ = open.jobs.send(Job::Close(open.reached));
        }
    }

    /// What waits to be merged is not paid for.
    fn relieve(&mut self) {}

    async fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            tokio::select! {
                Some(made) = self.fitted.recv() => self.on_made(made),
                answer = self.producer.answer() => match answer {
                    produce::Answer::Landed { partition, first, records, token } => {
                        self.on_landed(&partition, first, records, token);
                    }
                    produce::Answer::Refused { partition, error, .. } => {
                        let sources = self.open.iter().filter(|(_, open)| open.lane.pair.target == partition);
                        let sources: Vec<_> = sources.map(|(source, _)| source.clone()).collect();
                        let mut told = Some(error);
                        for source in sources {
                            let other = || Error::failed(format!("{partition} takes nothing more"));
                            let error = told.take().unwrap_or_else(other);
                            self.fail(&source, error);
                        }
                    }
                    produce::Answer::Fenced(error) => return Answer::Failed { partition: None, error },
                    produce::Answer::Trouble { subject, reason } => return Answer::Trouble { subject, reason },
                },
            }
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.open.values().for_each(|open| open.fitting.abort());
    }
}

/// Makes batches of one partition into what the target takes.
struct Fitting {
    lane: Lane,
    cores: Arc<Semaphore>,
    made: mpsc::UnboundedSender<Made>,
}

impl Fitting {
    async fn run(self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let mut refit = Refit::new(self.lane.limits);
        while let Some(job) = jobs.recv().await {
            let Ok(_core) = self.cores.acquire().await else { return };
            let lane = self.lane.clone();
            let Ok((made, again)) = tokio::task::spawn_blocking(move || fit(refit, &lane, job)).await else {
                let outcome = Err(Error::failed("fitting batches ended by a defect"));
                let source = self.lane.pair.source.clone();
                let _ =
                    self.made.send(Made { source, outcome, permit: Permit::default(), next: None, is_close: false });
                return;
            };
            refit = again;
            if self.made.send(made).is_err() {
                return;
            }
        }
    }
}

fn fit(mut refit: Refit, lane: &Lane, job: Job) -> (Made, Refit) {
    let mut out = Vec::new();
    let source = lane.pair.source.clone();
    let made = match job {
        Job::Close(reached) => {
            let outcome = refit.flush(&mut out).map(|()| out);
            Made { source, outcome, permit: Permit::default(), next: Some(reached), is_close: true }
        }
        Job::Fit(batch) => {
            let (range, payload, permit, under_way) = batch.into_parts();
            let outcome = match payload {
                Payload::Encoded { bytes, .. } => put(&mut refit, lane, range, &bytes, &mut out),
                Payload::Gap { .. } => Ok(()),
            };
            drop(under_way);
            let next = if refit.waits() { out.last().and_then(behind) } else { Some(range.next) };
            Made { source, outcome: outcome.map(|()| out), permit, next, is_close: false }
        }
    };
    (made, refit)
}

/// Fits the batches of a run, of which what lies outside of `range` is not meant.
fn put(refit: &mut Refit, lane: &Lane, range: OffsetRange, bytes: &Bytes, out: &mut Vec<Fitted>) -> Result<()> {
    let wanted = lane.window.offsets;
    let offsets = OffsetRange { first: wanted.first.max(range.first), next: wanted.next.min(range.next) };
    let window = Window { offsets, ..lane.window };
    for item in batch::walk(bytes) {
        let (at, header) = item?;
        refit.put(&header, &bytes.slice(at..at + header.total_bytes), &window, out)?;
    }
    if lane.is_paced { refit.flush(out) } else { Ok(()) }
}

/// Returns the source offset behind the last record of a batch: what waits behind it is not covered.
fn behind(last: &Fitted) -> Option<Offset> {
    last.sources.iter().last().map(|(first, records)| first + Offset::from(records))
}

/// Makes the error of a record that came to another offset than the next one.
fn foreign(target: &Partition, expected: Offset, met: Offset) -> Error {
    Error::failed(format!("somebody else writes to {target}, which is restored to"))
        .with("offset", expected.min(met))
        .hint("stop that producer; what was sent stays, and `offset-map` of this restore is not to be relied on")
}

#[cfg(test)]
mod tests;
