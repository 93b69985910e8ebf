//! The sink that compares: a task for each partition that is open, a few at a time.
//!
//! Order: batches of a partition are compared in the order in which they come. A partition is opened when another is
//! done, so that few chunks of segments are in memory; fetched bytes are paid for from the source's budget until they
//! are compared. Nothing is durable here, and nothing is retried: what fails leaves the rest of its partition unread.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::comparison::Comparison;
use super::held::Held;
use crate::archive::Archive;
use crate::archive::source::chain::Finding;
use crate::error::Error;
use crate::pipeline::{Answer, Batch, Payload, Sink, Tip, Topic};
use crate::record::{Offset, OffsetRange, Partition};

/// Partitions that are compared at a time: each holds a chunk of 4 MiB of its segment. Half of it leaves brokers idle
/// while a store answers, double is memory.
pub(super) const SIDE_BY_SIDE: usize = 8;

/// What became of a partition.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Offsets that both have.
    pub(super) offsets: u64,
    /// Bytes that the source sent of them.
    pub(super) bytes: u64,
    /// What was found.
    pub(super) findings: Vec<Finding>,
    /// What the archive holds and was not compared: `None` where nothing is left, `Some(None)` where it is not known how
    /// much.
    pub(super) left: Option<Option<OffsetRange>>,
}

impl Outcome {
    /// Makes that of a partition of which nothing was compared.
    pub(super) fn nothing(left: Option<OffsetRange>) -> Self {
        Self { left: Some(left), ..Self::default() }
    }
}

/// The sink.
pub(super) struct Comparer {
    archive: Archive,
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

impl Comparer {
    /// Makes the sink that compares these partitions and no others.
    pub(super) fn new(archive: Archive, wanted: impl Iterator<Item = Partition>) -> Self {
        let (told, heard) = mpsc::unbounded_channel();
        Self {
            archive,
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
            let task = Task { archive: self.archive.clone(), partition, told: self.told.clone() };
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

impl Sink for Comparer {
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
struct Task {
    archive: Archive,
    partition: Partition,
    told: mpsc::UnboundedSender<Told>,
}

impl Task {
    async fn run(self, mut ordered: mpsc::UnboundedReceiver<Command>) {
        let mut failure = None;
        let mut comparison = match self.open().await {
            Ok(comparison) => comparison,
            Err(error) => {
                failure = Some(error);
                None
            }
        };
        match &comparison {
            Some(comparison) => {
                let tip = Tip { next: Some(comparison.first()), leader_epoch: -1, generation: 1 };
                self.tell(Answer::Restart { partition: self.partition.clone(), tip });
            }
            None => self.enough(),
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

    /// Opens the archive's side; `None` where it holds nothing.
    async fn open(&self) -> Result<Option<Comparison>, Error> {
        let held = Held::open(&self.archive, &self.partition).await?;
        Comparison::begin(held).await
    }

    async fn outcome(&self, comparison: Option<Comparison>, failure: Option<Error>) -> Outcome {
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
        let folder = crate::archive::layout::partition_folder(&self.partition);
        outcome.left = None;
        outcome.findings.push(Finding::of_error(&self.archive, &folder, error));
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
async fn put(comparison: &mut Comparison, batch: Batch) -> Result<bool, Error> {
    let (range, payload, permit, in_flight) = batch.into_parts();
    drop(in_flight);
    let ends = match payload {
        Payload::Gap { .. } => comparison.deleted(range).await?,
        Payload::Encoded { bytes, .. } => compare(comparison, range, &bytes).await?,
    };
    drop(permit);
    Ok(ends)
}

async fn compare(comparison: &mut Comparison, range: OffsetRange, bytes: &Bytes) -> Result<bool, Error> {
    for item in crate::batch::walk(bytes) {
        let (at, header) = item?;
        comparison.batch(range.first, &header, &bytes.slice(at..at + header.total_bytes)).await?;
    }
    comparison.is_over(range.next).await
}
