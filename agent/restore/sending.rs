//! The sink of a restore: what was read, made into batches that the target takes, sent in order, and mapped.
//!
//! Order: a partition's batches are fitted one chunk after the other, on threads where computing is allowed, and sent in
//! that order ([`fitting`]); what is acknowledged comes in it too, for each target. Durable is what the target has acknowledged at the offset that was
//! expected: another offset means that somebody else writes there, which ends the partition. A partition is restored when
//! everything up to the end of its window was handed over; one that is closed before is not. Memory: batches hold what
//! the source has paid for until they are acknowledged; merging holds some hundred KiB a partition beside.

mod fitting;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use self::fitting::{Fitting, Job, Made, Paid, UNPAID_BYTES};
pub(super) use self::fitting::{Lane, Target};
use super::map::OffsetMap;
use crate::batch::outgoing::{Fitted, Sources};
use crate::error::{Error, Result};
use crate::kafka::produce::{self, Producer};
use crate::pipeline::{Answer, Batch, Sink, Tip, Topic};
use crate::record::{LeftOut, Offset, Partition};
use crate::stages::Stages;

/// What comes back with a batch that was sent.
pub(super) struct Token {
    source: Partition,
    /// The number of the target among those of the source.
    target: usize,
    /// The number of the chunk that it was made of.
    chunk: u64,
    sources: Sources,
    bytes: usize,
    /// The payment for what was read, until all that was made of it has landed.
    _paid: Arc<Paid>,
}

/// A target cluster as a sink.
pub(super) struct Sending {
    producer: Producer<Token>,
    lanes: HashMap<Partition, Arc<Lane>>,
    stages: Option<Stages>,
    open: HashMap<Partition, Open>,
    /// The offset that the next record of each target partition gets.
    ends: HashMap<Partition, Offset>,
    /// The target partitions that something was sent to.
    opened: HashSet<Partition>,
    answers: VecDeque<Answer>,
    fitted: mpsc::UnboundedReceiver<Made>,
    made: mpsc::UnboundedSender<Made>,
    /// As many chunks are fitted at once as there are cores.
    cores: Arc<Semaphore>,
    /// What pays for what stages make beyond what was read.
    beyond: Arc<Semaphore>,
    map: OffsetMap,
    sum: Sum,
    /// Another process has taken over: the producer tells nothing more.
    is_fenced: bool,
}

/// What came of all partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    /// Records that have landed, copies among them.
    pub(super) records: u64,
    /// Bytes of their batches.
    pub(super) bytes: u64,
    /// Records that were left out because a stage failed at them.
    pub(super) left_out: u64,
}

/// A partition on its way.
struct Open {
    lane: Arc<Lane>,
    jobs: mpsc::UnboundedSender<Job>,
    fitting: AbortHandle,
    /// Chunks of which not all has landed, in order.
    chunks: VecDeque<Sent>,
    /// How many chunks there were.
    sent: u64,
    /// The end of what was put.
    reached: Offset,
    /// Nothing more comes.
    is_closing: bool,
}

/// A chunk that was sent.
struct Sent {
    number: u64,
    /// Batches that have not landed.
    left: usize,
    /// What is covered when they have.
    next: Option<Offset>,
    records: u64,
    bytes: u64,
    since: Instant,
}

impl Sending {
    /// Makes the sink of these partitions, which go through the stages; `ends` are the ends of the target partitions.
    pub(super) fn new(
        producer: Producer<Token>,
        lanes: Vec<Lane>,
        ends: HashMap<Partition, Offset>,
        stages: Option<Stages>,
    ) -> Result<Self> {
        let (made, fitted) = mpsc::unbounded_channel();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut map = OffsetMap::default();
        for Lane { targets, window, .. } in &lanes {
            for Target { pair, .. } in targets {
                map.open(pair, window.offsets, ends.get(&pair.target).copied().unwrap_or(0))?;
            }
        }

        Ok(Self {
            producer,
            lanes: lanes.into_iter().map(|lane| (lane.source.clone(), Arc::new(lane))).collect(),
            stages,
            open: HashMap::new(),
            ends,
            opened: HashSet::new(),
            answers: VecDeque::new(),
            fitted,
            made,
            cores: Arc::new(Semaphore::new(cores)),
            beyond: Arc::new(Semaphore::new(UNPAID_BYTES)),
            map,
            sum: Sum::default(),
            is_fenced: false,
        })
    }

    /// Returns the offset map, and what came of all.
    pub(super) fn finish(mut self) -> (OffsetMap, Sum) {
        (std::mem::take(&mut self.map), self.sum)
    }

    fn on_made(&mut self, made: Made) {
        let Some(open) = self.open.get_mut(&made.source) else { return };
        let batches = match made.outcome {
            Ok(batches) => batches,
            Err(error) => return self.fail(&made.source, error),
        };
        let (paid, number) = (Arc::new(made.paid), open.sent);
        open.sent += 1;
        let (left, since) = (batches.len(), Instant::now());
        let mut sent = Sent { number, left, next: made.next, records: 0, bytes: 0, since };
        for (target, Fitted { batch, sources }) in batches {
            sent.records += u64::from(batch.records());
            sent.bytes += batch.total_bytes() as u64;
            let (source, bytes, _paid) = (made.source.clone(), batch.total_bytes(), paid.clone());
            let partition = &open.lane.targets[target].pair.target;
            if !self.opened.contains(partition) {
                self.producer.open(partition, 0);
                self.opened.insert(partition.clone());
            }
            self.producer.send(partition, batch, Token { source, target, chunk: number, sources, bytes, _paid });
        }
        open.is_closing |= made.is_close;
        open.chunks.push_back(sent);
        self.leave_out(&made.source, &made.left_out);
        self.advance(&made.source);
    }

    /// Tells of records that a stage failed at.
    fn leave_out(&mut self, source: &Partition, left_out: &[LeftOut]) {
        for LeftOut { range, records, stage, .. } in left_out {
            tracing::warn!(
                topic = &*source.topic,
                partition = source.index,
                offsets = %range,
                records,
                stage = stage + 1,
                "left out of the restore"
            );
            self.sum.left_out += u64::from(*records);
        }
        if let Some(stages) = &self.stages {
            stages.count(left_out);
        }
    }

    fn on_landed(&mut self, target: &Partition, first: Offset, records: u32, token: Token) {
        // Also of a source that has ended: others go on behind it.
        let next = first + Offset::from(records);
        let expected = self.ends.insert(target.clone(), next).unwrap_or(first);
        if expected != first {
            let error = foreign(target, expected, first);
            return self.fail_all(target, error);
        }
        let Some(open) = self.open.get_mut(&token.source) else { return };
        let (mut at, pair) = (first, &open.lane.targets[token.target].pair);
        for (source, length) in token.sources.iter() {
            if let Err(error) = self.map.push(pair, source, at, length.into()) {
                return self.fail(&token.source, error);
            }
            at += Offset::from(length);
        }
        self.sum.records += u64::from(records);
        self.sum.bytes += token.bytes as u64;
        // Targets do not wait for each other: a later chunk may have landed in one of them.
        if let Some(sent) = open.chunks.iter_mut().find(|sent| sent.number == token.chunk) {
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
                let mut targets = open.lane.targets.iter();
                if let Err(error) = targets.try_for_each(|target| self.map.reach(&target.pair, next)) {
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
            let (map, ends) = (&mut self.map, &self.ends);
            let finish = |Target { pair, .. }: &Target| map.finish(pair, ends.get(&pair.target).copied().unwrap_or(0));
            if open.reached >= open.lane.window.offsets.next
                && let Err(error) = open.lane.targets.iter().try_for_each(finish)
            {
                return self.fail(source, error);
            }
            self.remove(source);
            self.answers.push_back(Answer::Closed { partition: source.clone() });
        }
    }

    /// Ends everything: nothing is sent any more, and nothing is heard of what is on its way.
    fn on_fenced(&mut self, error: Error) {
        self.is_fenced = true;
        self.answers.push_back(Answer::Failed { partition: None, error });
        let open: Vec<_> = self.open.keys().cloned().collect();
        for source in open {
            self.fail(&source, Error::failed("nothing more is sent"));
        }
    }

    fn fail(&mut self, source: &Partition, error: Error) {
        if self.remove(source) {
            let error = error.with("topic", &source.topic).with("partition", source.index);
            self.answers.push_back(Answer::Failed { partition: Some(source.clone()), error });
        }
    }

    /// Ends all sources of a target that takes nothing more.
    fn fail_all(&mut self, target: &Partition, error: Error) {
        let is_of = |open: &Open| open.lane.targets.iter().any(|other| other.pair.target == *target);
        let sources: Vec<_> =
            self.open.iter().filter(|(_, open)| is_of(open)).map(|(source, _)| source.clone()).collect();
        let mut told = Some(error);
        for source in sources {
            let other = || Error::failed(format!("{target} takes nothing more"));
            let error = told.take().unwrap_or_else(other);
            self.fail(&source, error);
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
        let refused = |error| Answer::Failed { partition: Some(partition.clone()), error };
        if self.is_fenced {
            return self.answers.push_back(refused(Error::failed("nothing more is sent")));
        }
        let Some(lane) = self.lanes.get(partition).cloned() else {
            let error = Error::failed("nothing is planned for a partition that was read");
            return self.answers.push_back(refused(error));
        };
        let (jobs, heard) = mpsc::unbounded_channel();
        let fitting = Fitting {
            lane: lane.clone(),
            stages: self.stages.clone(),
            cores: self.cores.clone(),
            beyond: self.beyond.clone(),
            made: self.made.clone(),
        };
        let fitting = tokio::spawn(fitting.run(heard)).abort_handle();
        let reached = lane.window.offsets.first;
        let open = Open { lane, jobs, fitting, chunks: VecDeque::new(), sent: 0, reached, is_closing: false };
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
                answer = self.producer.answer(), if !self.is_fenced => match answer {
                    produce::Answer::Landed { partition, first, records, token } => {
                        self.on_landed(&partition, first, records, token);
                    }
                    produce::Answer::Refused { partition, error, .. } => {
                        self.fail_all(&partition, error);
                    }
                    produce::Answer::Fenced(error) => self.on_fenced(error),
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

/// Makes the error of a record that came to another offset than the next one.
fn foreign(target: &Partition, expected: Offset, met: Offset) -> Error {
    Error::failed(format!("somebody else writes to {target}, which is restored to"))
        .with("offset", expected.min(met))
        .hint("stop that producer; what was sent stays, and `offset-map` of this restore is not to be relied on")
}

#[cfg(test)]
mod tests;
