//! The sink that compares: a task for each partition that is open, a few at a time. What it holds the batches against is
//! a [`Side`].
//!
//! Order: batches of a partition are compared in the order in which they come. A partition is opened when another is
//! done, so that few chunks of segments are in memory; fetched bytes are paid for from the source's budget until they
//! are compared. Nothing is durable here, and nothing is retried: what fails leaves the rest of its partition unread.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::archive::Archive;
use crate::archive::source::chain::Finding;
use crate::batch::Header;
use crate::error::{Error, Result};
use crate::pipeline::{Answer, Batch, Payload, Sink, Tip, Topic};
use crate::record::{Offset, OffsetRange, Partition};

/// Partitions that are compared at a time: each holds a chunk of 4 MiB of its segment. Half of it leaves brokers idle
/// while a store answers, double is memory.
pub(super) const SIDE_BY_SIDE: usize = 8;

/// What the batches of one partition are held against.
pub(in crate::verify) trait Side: Send + 'static {
    /// Returns the first offset of the cluster's log that is compared.
    fn first(&self) -> Offset;

    /// Takes note that the cluster has deleted `range`; returns whether nothing is compared behind it.
    fn deleted(&mut self, range: OffsetRange) -> impl Future<Output = Result<bool>> + Send;

    /// Compares a batch of the cluster, of which the offsets from `from` on are new.
    fn batch(&mut self, from: Offset, header: &Header, bytes: &Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Returns whether nothing is compared behind `next`, up to which the cluster has told.
    fn is_over(&mut self, next: Offset) -> impl Future<Output = Result<bool>> + Send;

    /// Ends when the cluster has told all it has; what is left was not compared.
    fn end(self) -> impl Future<Output = Result<Outcome>> + Send;

    /// Ends with what was compared so far.
    fn give_up(self) -> Outcome;
}

/// Where the sides come from.
pub(in crate::verify) trait Sides: Send + Sync + 'static {
    /// What batches are held against.
    type Side: Side;

    /// Opens that of a partition of the cluster; `None` where nothing of it is compared.
    fn open(&self, partition: &Partition) -> impl Future<Output = Result<Option<Self::Side>>> + Send;

    /// Returns the archive.
    fn archive(&self) -> &Archive;

    /// Returns what of the archive a partition of the cluster is compared with.
    fn folder(&self, partition: &Partition) -> String;

    /// Returns what the cluster is to the archive.
    fn role(&self) -> &'static str;
}

/// What became of a partition.
#[derive(Debug, Default)]
pub(in crate::verify) struct Outcome {
    /// Offsets that both have.
    pub(in crate::verify) offsets: u64,
    /// Bytes that the cluster sent of them.
    pub(in crate::verify) bytes: u64,
    /// What was found.
    pub(in crate::verify) findings: Vec<Finding>,
    /// What was to be compared and was not: `None` where nothing is left, `Some(None)` where it is not known how much.
    pub(in crate::verify) left: Option<Option<OffsetRange>>,
    /// The records of the archive and those of the cluster, where they were counted.
    pub(in crate::verify) records: Option<[Counted; 2]>,
}

/// The records of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::verify) struct Counted {
    /// How many there are.
    pub(in crate::verify) records: u64,
    /// Their digest.
    pub(in crate::verify) digest: String,
}

impl Outcome {
    /// Makes that of a partition of which nothing was compared.
    pub(in crate::verify) fn nothing(left: Option<OffsetRange>) -> Self {
        Self { left: Some(left), ..Self::default() }
    }
}

/// The sink.
pub(super) struct Comparer<S> {
    sides: Arc<S>,
    wanted: HashSet<Partition>,
    open: HashMap<Partition, mpsc::UnboundedSender<Command>>,
    waiting: VecDeque<Partition>,
    tasks: JoinSet<()>,
    told: mpsc::UnboundedSender<Told>,
    heard: mpsc::UnboundedReceiver<Told>,
    outcomes: Vec<(Partition, Outcome)>,
}

/// What a task is told; bounded by the budget that batches are paid from.
enum Command {
    Put(Batch),
    Diverged,
    Close,
}

enum Told {
    Answer(Answer),
    Done(Partition, Outcome),
}

impl<S: Sides> Comparer<S> {
    /// Makes the sink that compares these partitions and no others.
    pub(super) fn new(sides: Arc<S>, wanted: impl Iterator<Item = Partition>) -> Self {
        let (told, heard) = mpsc::unbounded_channel();
        Self {
            sides,
            wanted: wanted.collect(),
            open: HashMap::new(),
            waiting: VecDeque::new(),
            tasks: JoinSet::new(),
            told,
            heard,
            outcomes: Vec::new(),
        }
    }

    /// Returns what became of the partitions that were closed.
    pub(super) fn finish(self) -> Vec<(Partition, Outcome)> {
        self.outcomes
    }

    fn tell(&self, answer: Answer) {
        // We hold the other end.
        let _ = self.told.send(Told::Answer(answer));
    }

    fn begin_waiting(&mut self) {
        while self.open.len() < SIDE_BY_SIDE
            && let Some(partition) = self.waiting.pop_front()
        {
            let (commands, ordered) = mpsc::unbounded_channel();
            self.open.insert(partition.clone(), commands);
            let task = Task { sides: self.sides.clone(), partition, told: self.told.clone() };
            self.tasks.spawn(task.run(ordered));
        }
    }

    fn order(&self, partition: &Partition, command: Command) {
        if let Some(commands) = self.open.get(partition) {
            // A task ends only when it was closed.
            let _ = commands.send(command);
        }
    }
}

impl<S: Sides> Sink for Comparer<S> {
    fn topic(&mut self, _topic: Topic) {
        self.tell(Answer::TopicKept);
    }

    fn open(&mut self, partition: &Partition) {
        if self.wanted.contains(partition) {
            self.waiting.push_back(partition.clone());
            self.begin_waiting();
        } else {
            self.tell(Answer::Enough { partition: partition.clone() });
        }
    }

    fn begin(&mut self, _partition: &Partition, _generation: u32, _offset: Offset) {}

    fn diverge(&mut self, partition: &Partition, _generation: u32, _epoch: i32, _end: Offset) {
        self.order(partition, Command::Diverged);
    }

    fn put(&mut self, batch: Batch) {
        let partition = batch.partition().clone();
        self.order(&partition, Command::Put(batch));
    }

    fn close(&mut self, partition: &Partition, _generation: u32) {
        if self.open.contains_key(partition) {
            self.order(partition, Command::Close);
        } else {
            self.waiting.retain(|waiting| waiting != partition);
            self.tell(Answer::Closed { partition: partition.clone() });
        }
    }

    fn relieve(&mut self) {}

    async fn answer(&mut self) -> Answer {
        loop {
            match self.heard.recv().await {
                Some(Told::Answer(answer)) => return answer,
                Some(Told::Done(partition, outcome)) => {
                    self.open.remove(&partition);
                    self.outcomes.push((partition.clone(), outcome));
                    self.begin_waiting();
                    return Answer::Closed { partition };
                }
                // We hold a sender.
                None => tokio::time::sleep(Duration::MAX).await,
            }
        }
    }
}

/// The comparison of one partition.
struct Task<S> {
    sides: Arc<S>,
    partition: Partition,
    told: mpsc::UnboundedSender<Told>,
}

impl<S: Sides> Task<S> {
    async fn run(self, mut ordered: mpsc::UnboundedReceiver<Command>) {
        let mut failure = None;
        let mut comparison = match self.sides.open(&self.partition).await {
            Ok(comparison) => comparison,
            Err(error) => {
                failure = Some(error);
                None
            }
        };
        let first = comparison.as_ref().map(Side::first);
        let is_nothing = match &mut comparison {
            Some(comparison) => comparison.is_over(comparison.first()).await,
            None => Ok(true),
        };
        match is_nothing {
            Ok(false) => {
                let tip = Tip { next: first, leader_epoch: -1, generation: 1 };
                self.tell(Answer::Restart { partition: self.partition.clone(), tip });
            }
            Ok(true) => self.enough(),
            Err(error) => {
                failure = Some(error);
                self.enough();
            }
        }
        while let Some(command) = ordered.recv().await {
            let outcome = match (command, comparison.as_mut().filter(|_| failure.is_none())) {
                (Command::Close, _) => break,
                (Command::Put(batch), Some(comparison)) => put(comparison, batch).await,
                (Command::Diverged, Some(_)) => {
                    self.enough();
                    continue;
                }
                (_, None) => continue,
            };
            match outcome {
                Ok(true) => self.enough(),
                Ok(false) => {}
                Err(error) => {
                    failure = Some(error);
                    self.enough();
                }
            }
        }
        let outcome = self.outcome(comparison, failure).await;
        let _ = self.told.send(Told::Done(self.partition, outcome));
    }

    async fn outcome(&self, comparison: Option<S::Side>, failure: Option<Error>) -> Outcome {
        let mut outcome = match (comparison, &failure) {
            (Some(comparison), None) => match comparison.end().await {
                Ok(outcome) => outcome,
                Err(error) => self.failed(Outcome::nothing(None), &error),
            },
            (Some(comparison), Some(_)) => comparison.give_up(),
            // Nothing is held, and so nothing is left.
            (None, None) => Outcome::default(),
            (None, Some(_)) => Outcome::default(),
        };
        if let Some(error) = failure {
            outcome = self.failed(outcome, &error);
        }
        outcome
    }

    /// Says that the archive's side could not be read on.
    fn failed(&self, mut outcome: Outcome, error: &Error) -> Outcome {
        let folder = self.sides.folder(&self.partition);
        outcome.left = None;
        outcome.findings.push(Finding::of_error(self.sides.archive(), &folder, error));
        outcome
    }

    fn enough(&self) {
        self.tell(Answer::Enough { partition: self.partition.clone() });
    }

    fn tell(&self, answer: Answer) {
        // Nobody listens only when the sink was dropped.
        let _ = self.told.send(Told::Answer(answer));
    }
}

/// Compares a batch; returns whether the archive ends with it.
async fn put(comparison: &mut impl Side, batch: Batch) -> Result<bool> {
    let (range, payload, permit, in_flight) = batch.into_parts();
    drop(in_flight);
    let ends = match payload {
        Payload::Gap { .. } => comparison.deleted(range).await?,
        Payload::Encoded { bytes, .. } => compare(comparison, range, &bytes).await?,
    };
    drop(permit);
    Ok(ends)
}

async fn compare(comparison: &mut impl Side, range: OffsetRange, bytes: &Bytes) -> Result<bool> {
    for item in crate::batch::walk(bytes) {
        let (at, header) = item?;
        comparison.batch(range.first, &header, &bytes.slice(at..at + header.total_bytes)).await?;
    }
    comparison.is_over(range.next).await
}
