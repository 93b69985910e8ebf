//! The loop that both directions share: `source → sink`, and back what is durable.
//!
//! One value flows: [`Batch`], of one partition. The source says which partitions are ours and brings their batches;
//! the sink says where each partition goes on ([`Tip`]), makes batches durable and says so; only then does the source
//! hear of it. The loop holds no bytes of its own: what is in flight is paid for from the [`Budget`](crate::budget).
//!
//! Cancel and crash: the loop may be dropped at any point. The sink alone has durable effects, and its order of them
//! is its own (`archive::sink`).

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::budget::{Budget, Permit};
use crate::error::{Error, Result};
use crate::record::{AbortedTransaction, Offset, OffsetRange, Partition, Timestamp};

/// What a source counts by what one partition has on its way; dropped, it is there no more.
pub type InFlight = Box<dyn Send + Sync>;

/// Consecutive record batches of one partition, or a gap in it.
pub struct Batch {
    partition: Partition,
    generation: u32,
    /// The offsets that this batch covers, `[first, next)`. Offsets inside it may hold no record.
    pub range: OffsetRange,
    /// What it carries.
    pub payload: Payload,
    /// The memory that the payload costs; it goes back when it is dropped.
    pub permit: Permit,
    in_flight: Option<InFlight>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "batch of {:?} {} (generation {})", self.partition, self.range, self.generation)
    }
}

/// What a [`Batch`] carries.
#[derive(Debug)]
pub enum Payload {
    /// Whole v2 record batches, one after the other in offset order, as the broker sent them; their CRCs are checked.
    /// The first may start before the range (a fetch is not batch-aligned).
    Encoded {
        /// The bytes; a slice of the fetched frame.
        bytes: Bytes,
        /// The transactions that the broker reported as aborted with these bytes; they may start before them or lie
        /// beyond them, and may have been reported before.
        aborted: Vec<AbortedTransaction>,
    },
    /// Offsets that the source no longer has and that the archive does not hold.
    Gap {
        /// Why, for people.
        reason: String,
    },
}

impl Batch {
    /// Makes a batch of `partition`, read after the `generation`th start of it.
    pub fn new(partition: Partition, generation: u32, range: OffsetRange, payload: Payload, permit: Permit) -> Self {
        Self { partition, generation, range, payload, permit, in_flight: None }
    }

    /// Adds what shall be dropped when the sink has taken the batch in, at the latest when it is durable: with it a source
    /// bounds what one partition has on its way.
    pub fn in_flight(self, token: impl Send + Sync + 'static) -> Self {
        Self { in_flight: Some(Box::new(token)), ..self }
    }

    /// Takes the batch apart: range, payload, the memory it costs, and the token of
    /// [`in_flight`](Self::in_flight).
    pub fn into_parts(self) -> (OffsetRange, Payload, Permit, Option<InFlight>) {
        (self.range, self.payload, self.permit, self.in_flight)
    }

    /// Returns the partition that the batch was read from.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Returns the generation that the source was given with [`Source::start`]; the sink drops what is older than its
    /// own.
    pub fn generation(&self) -> u32 {
        self.generation
    }
}

/// Where a partition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// The next offset to read; `None` when nothing is held yet and the source's `start` policy decides.
    pub next: Option<Offset>,
    /// The leader epoch of the last batch held, −1 when there is none or it is unknown.
    pub leader_epoch: i32,
    /// Rises with each start; batches carry it.
    pub generation: u32,
}

/// What is known of a partition's topic when it is assigned: what `topic-<n>.json` keeps.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Topic {
    /// The topic's name.
    pub name: String,
    /// The topic's id as Kafka writes it, `_` where there is none.
    pub topic_id: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many replicas each partition has.
    pub replication_factor: i16,
    /// Its settings, by name; `None` where the broker did not tell.
    pub configs: Option<Vec<TopicConfig>>,
}

/// One setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TopicConfig {
    /// The setting's name, as `retention.ms`.
    pub name: String,
    /// Its value; `None` where the broker does not tell (a secret).
    pub value: Option<String>,
    /// Whether it was set on the topic itself; else it is a default of broker or cluster.
    pub set: bool,
}

/// Where a partition's log begins and ends, as its leader said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The first offset that can be read; −1 where it was not told.
    pub start: Offset,
    /// The end of what a read-committed reader may see, exclusive.
    pub last_stable: Offset,
    /// The end as replicated, exclusive.
    pub high_watermark: Offset,
    /// When it was said.
    pub at: Timestamp,
}

/// What a source tells.
#[derive(Debug)]
pub enum Event {
    /// A topic was found, or its settings have changed.
    Topic(Topic),
    /// A partition is ours: ask the sink where to go on, then [`Source::start`] it.
    Assigned(Partition),
    /// A partition is no longer ours: the sink closes it, and [`Source::closed`] follows. Until then it is not assigned
    /// again.
    Revoked(Partition),
    /// Nothing is held of a partition, and by the source's `start` policy it begins at `offset`: the sink keeps that,
    /// so that a later start begins nowhere else, and says with [`Answer::Restart`] where to go on.
    Begins {
        /// The partition.
        partition: Partition,
        /// That of the tip for which this was asked.
        generation: u32,
        /// The first offset that shall be held.
        offset: Offset,
    },
    /// The source has lost records that the sink holds: what both have ends, in leader epoch `epoch`, at `end`. The
    /// sink goes on beside what it holds, never over it, and says with [`Answer::Restart`] from where.
    Diverged {
        /// The partition.
        partition: Partition,
        /// That of the tip for which this was found.
        generation: u32,
        /// The newest leader epoch, not above that of the last batch held, that the source's log has; −1 where it has
        /// none or cannot tell.
        epoch: i32,
        /// Where that epoch ends in the source's log, exclusive.
        end: Offset,
    },
    /// Data of a partition.
    Batch(Batch),
    /// What the leader said of a partition's log.
    Observed {
        /// The partition.
        partition: Partition,
        /// Where it begins and ends.
        log: Log,
    },
    /// A one-pass source has brought everything of this partition, up to `next`.
    Finished {
        /// The partition.
        partition: Partition,
        /// The end of the pass, exclusive.
        next: Offset,
    },
    /// Something is wrong (`Some`) or right again (`None`) with what `subject` names; capture goes on by itself.
    Trouble {
        /// What it is about, as `broker 3` or `orders-3`.
        subject: String,
        /// What is wrong, with what is being done about it.
        reason: Option<String>,
    },
}

/// Where batches come from.
pub trait Source: Send {
    /// Waits for the next event. Cancel safe. `None` when a one-pass source has nothing more to bring.
    fn next(&mut self) -> impl Future<Output = Result<Option<Event>>> + Send;

    /// Reads `partition` from `tip` on; what was read of it before is void.
    fn start(&mut self, partition: &Partition, tip: Tip);

    /// Stops reading `partition`.
    fn stop(&mut self, partition: &Partition);

    /// Hears that everything of `partition` before `next` is durable.
    fn durable(&mut self, partition: &Partition, next: Offset);

    /// Hears that the sink has let go of `partition`: nothing of it is on its way any more.
    fn closed(&mut self, partition: &Partition);
}

/// What a sink answers.
#[derive(Debug)]
pub enum Answer {
    /// Everything of the partition before `next` is durable.
    Durable {
        /// The partition.
        partition: Partition,
        /// The end of what is durable, exclusive.
        next: Offset,
        /// Records that became durable with it, as a read-committed reader counts them.
        records: u64,
        /// Bytes that became durable with it.
        bytes: u64,
        /// How long it took to make them durable, from the decision to do so.
        took: Duration,
    },
    /// Start the partition from here: it was opened, another writer was ahead, or a write failed and was given up.
    Restart {
        /// The partition.
        partition: Partition,
        /// Where to go on.
        tip: Tip,
    },
    /// A write failed: do not read the partition until its [`Answer::Restart`].
    Suspended {
        /// The partition.
        partition: Partition,
    },
    /// The sink wants no more of the partition: it is to be read no further, and closed.
    Enough {
        /// The partition.
        partition: Partition,
    },
    /// The partition is closed; everything put before it was closed is durable.
    Closed {
        /// The partition.
        partition: Partition,
    },
    /// Something is wrong (`Some`) or right again (`None`) with what `subject` names; the sink tries again by itself.
    Trouble {
        /// What it is about, as `archive of orders-3`.
        subject: String,
        /// What is wrong.
        reason: Option<String>,
    },
    /// What a topic is was kept; one of these, or a failure, follows on each [`Sink::topic`].
    TopicKept,
    /// The sink has given up on a partition, or, where none is named, on everything.
    Failed {
        /// The partition; it is closed.
        partition: Option<Partition>,
        /// Why.
        error: Error,
    },
}

/// Where batches become durable.
pub trait Sink: Send {
    /// Keeps what is known of a topic.
    fn topic(&mut self, topic: Topic);

    /// Opens a partition; its [`Tip`] comes as [`Answer::Restart`], since finding it may take requests.
    fn open(&mut self, partition: &Partition);

    /// Keeps that a partition of which nothing is held begins at `offset`, or takes what another has kept; its
    /// [`Answer::Restart`] says which. Ignored if `generation` is not that of the sink's last restart.
    fn begin(&mut self, partition: &Partition, generation: u32, offset: Offset);

    /// Makes durable what it holds and goes on beside it: what the source still has of it ends, in leader epoch
    /// `epoch`, at `end`. [`Answer::Restart`] says from where. Ignored if `generation` is not that of the last restart.
    fn diverge(&mut self, partition: &Partition, generation: u32, epoch: i32, end: Offset);

    /// Takes a batch. Never waits: what is in flight is bounded by the budget that the batch's permit is from.
    fn put(&mut self, batch: Batch);

    /// Makes durable what it holds of the partition and lets it go: [`Answer::Closed`] follows, or
    /// [`Answer::Restart`] when that failed and the partition must be read again. `generation` is the one of the last
    /// restart that the caller has heard of: if the sink has sent another since, it ignores the call.
    fn close(&mut self, partition: &Partition, generation: u32);

    /// Makes durable the largest of what it holds, because memory is short.
    fn relieve(&mut self);

    /// Waits for the next answer. Cancel safe.
    fn answer(&mut self) -> impl Future<Output = Answer> + Send;
}

/// Who watches a pipeline: metrics, health, progress. Its calls must be cheap.
pub trait Observer: Send {
    /// A batch has come from the source.
    fn received(&mut self, batch: &Batch);
    /// A topic was found, or its settings have changed.
    fn topic(&mut self, topic: &Topic);
    /// The source told where a partition's log begins and ends.
    fn observed(&mut self, partition: &Partition, log: &Log);
    /// The source has lost what the sink holds of a partition from `end` on.
    fn diverged(&mut self, partition: &Partition, end: Offset);
    /// A partition was opened at `next` (`None`: nothing is held yet).
    fn opened(&mut self, partition: &Partition, next: Option<Offset>);
    /// Everything of a partition before `next` is durable.
    fn durable(&mut self, partition: &Partition, next: Offset, records: u64, bytes: u64, took: Duration);
    /// Offsets of a partition that is no longer ours were read, and are not durable: this pipeline reads them no more.
    fn dropped(&mut self, partition: &Partition, range: OffsetRange);
    /// A partition is closed: it is no longer this pipeline's. Not told of those that are closed because the pipeline stops.
    fn closed(&mut self, partition: &Partition);
    /// Something is wrong (`Some`) or right again (`None`).
    fn trouble(&mut self, subject: &str, reason: Option<&str>);
    /// A second has passed.
    fn tick(&mut self);
}

/// What the loop needs besides source and sink.
pub struct Control {
    /// The budget whose pressure the loop relays to the sink.
    pub budget: Budget,
    /// Turns true when the pipeline shall stop.
    pub stop: watch::Receiver<bool>,
    /// How long closing may take after that.
    pub shutdown_timeout: Duration,
}

/// Runs a pipeline until a one-pass source is exhausted, or until it is told to stop; then all that the sink held is
/// durable.
///
/// # Errors
/// What the source or the sink gave up on, after everything else was closed in order; after a stop, that something held
/// could not be made durable in time. What is durable stays so; the next run reads the rest again.
pub async fn run(
    source: &mut impl Source,
    sink: &mut impl Sink,
    observer: &mut impl Observer,
    mut control: Control,
) -> Result<()> {
    let mut flow = Flow::new(source, sink, observer);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        if flow.is_done() {
            return flow.failure.map_or(Ok(()), Err);
        }
        let deadline = flow.stopping;
        tokio::select! {
            // Answers first: they free memory.
            biased;
            answer = flow.sink.answer() => flow.on_answer(answer),
            () = control.budget.pressed() => flow.sink.relieve(),
            _ = ticks.tick() => flow.observer.tick(),
            () = stopped(&mut control.stop), if deadline.is_none() => {
                flow.begin_to_stop(control.shutdown_timeout).await;
            }
            () = std::future::ready(()), if flow.must_stop() => flow.begin_to_stop(control.shutdown_timeout).await,
            () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                return Err(flow.overdue());
            }
            event = flow.source.next(), if flow.is_reading() => match event {
                Ok(Some(event)) => flow.on_event(event),
                Ok(None) => flow.exhausted = true,
                Err(error) => flow.source_failed(error),
            },
        }
    }
}

/// Returns when `stop` is true, or never, when nobody can say it any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Where a partition stands between source and sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closing,
}

/// A partition in the loop.
#[derive(Debug, Clone, Copy)]
struct Flowing {
    state: State,
    /// That of the last restart; batches of another are void.
    generation: u32,
    /// The first offset that was handed to the sink.
    first: Option<Offset>,
    /// The end of what was handed to the sink, exclusive.
    put: Offset,
    /// While stopping: what was handed to the sink and lost to a failed write is read again up to here, exclusive.
    until: Option<Offset>,
    /// It is no longer ours: a restart does not read it again.
    revoked: bool,
}

struct Flow<'a, S, K, O> {
    source: &'a mut S,
    sink: &'a mut K,
    observer: &'a mut O,
    partitions: HashMap<Partition, Flowing>,
    /// Topics handed to the sink of which it has not answered yet.
    topics: usize,
    /// A one-pass source has nothing more to bring, or the source has failed.
    exhausted: bool,
    /// When closing must be done, once it has begun.
    stopping: Option<Instant>,
    /// The first thing that was given up; the rest is closed in order before it is returned.
    failure: Option<Error>,
    /// The failure is one of the source or of the whole sink: nothing goes on.
    broken: bool,
}

impl<'a, S: Source, K: Sink, O: Observer> Flow<'a, S, K, O> {
    fn new(source: &'a mut S, sink: &'a mut K, observer: &'a mut O) -> Self {
        Self {
            source,
            sink,
            observer,
            partitions: HashMap::new(),
            topics: 0,
            exhausted: false,
            stopping: None,
            failure: None,
            broken: false,
        }
    }

    fn is_done(&self) -> bool {
        (self.exhausted || self.stopping.is_some()) && self.topics == 0 && self.partitions.is_empty()
    }

    /// Returns whether the source has something to bring: while stopping, only what must be read again.
    fn is_reading(&self) -> bool {
        let again = || self.partitions.values().any(|flowing| flowing.until.is_some());
        !self.exhausted && (self.stopping.is_none() || again())
    }

    fn must_stop(&self) -> bool {
        self.broken && self.stopping.is_none()
    }

    fn source_failed(&mut self, error: Error) {
        self.exhausted = true;
        self.broken = true;
        self.failure.get_or_insert(error);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            // What comes while we stop is the next start's.
            Event::Topic(_) | Event::Assigned(_) if self.stopping.is_some() => {}
            Event::Topic(topic) => {
                self.topics += 1;
                self.observer.topic(&topic);
                self.sink.topic(topic);
            }
            Event::Assigned(partition) => {
                self.sink.open(&partition);
                let state = State::Open;
                let flowing = Flowing { state, generation: 0, first: None, put: 0, until: None, revoked: false };
                self.partitions.insert(partition, flowing);
            }
            Event::Revoked(partition) => match self.partitions.get_mut(&partition) {
                Some(flowing) => {
                    flowing.revoked = true;
                    self.close(&partition);
                }
                None => self.source.closed(&partition),
            },
            // While we stop there is nothing to keep: nothing of it was read.
            Event::Begins { partition, generation, offset } => {
                if self.is_current(&partition, generation) {
                    self.sink.begin(&partition, generation, offset);
                }
            }
            Event::Diverged { partition, generation, epoch, end } => {
                if self.is_current(&partition, generation) {
                    self.observer.diverged(&partition, end);
                    self.sink.diverge(&partition, generation, epoch, end);
                }
            }
            Event::Finished { partition, .. } => self.close(&partition),
            Event::Batch(batch) => self.put(batch),
            Event::Observed { partition, log } => self.observer.observed(&partition, &log),
            Event::Trouble { subject, reason } => self.observer.trouble(&subject, reason.as_deref()),
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Durable { partition, next, records, bytes, took } => {
                self.observer.durable(&partition, next, records, bytes, took);
                self.source.durable(&partition, next);
            }
            Answer::Restart { partition, tip } => self.restart(&partition, tip),
            Answer::Suspended { partition } => self.source.stop(&partition),
            Answer::Enough { partition } => {
                self.source.stop(&partition);
                self.close(&partition);
            }
            Answer::Closed { partition } => self.closed(&partition),
            Answer::Trouble { subject, reason } => self.observer.trouble(&subject, reason.as_deref()),
            Answer::TopicKept => self.topics = self.topics.saturating_sub(1),
            Answer::Failed { partition, error } => {
                self.failure.get_or_insert(error);
                match partition {
                    // The others go on to their end.
                    Some(partition) => {
                        self.source.stop(&partition);
                        self.closed(&partition);
                    }
                    None => self.broken = true,
                }
            }
        }
    }

    fn put(&mut self, batch: Batch) {
        let Some(flowing) = self.partitions.get_mut(batch.partition()) else { return };
        if batch.generation() != flowing.generation {
            return;
        }
        let (partition, next) = (batch.partition().clone(), batch.range.next);
        flowing.first.get_or_insert(batch.range.first);
        flowing.put = next;
        let read_again = flowing.until.is_some_and(|until| next >= until);
        self.observer.received(&batch);
        self.sink.put(batch);
        if read_again {
            self.source.stop(&partition);
            self.close(&partition);
        }
    }

    /// Starts a partition where the sink says; while stopping, only to read again what the sink had and lost.
    fn restart(&mut self, partition: &Partition, tip: Tip) {
        self.observer.opened(partition, tip.next);
        let Some(flowing) = self.partitions.get_mut(partition) else { return };
        flowing.generation = tip.generation;
        let lost = tip.next.unwrap_or(0) < flowing.put;
        if flowing.revoked && lost {
            let first = tip.next.or(flowing.first).unwrap_or(0);
            self.observer.dropped(partition, OffsetRange { first, next: flowing.put });
            // Told once, however often the sink starts again.
            flowing.put = first;
        }
        if flowing.revoked || self.broken || (self.stopping.is_some() && !lost) {
            self.sink.close(partition, tip.generation);
            return;
        }
        flowing.until = self.stopping.and(Some(flowing.put));
        flowing.state = State::Open;
        self.exhausted = false;
        self.source.start(partition, tip);
    }

    fn close(&mut self, partition: &Partition) {
        let Some(flowing) = self.partitions.get_mut(partition) else { return };
        flowing.until = None;
        if flowing.state == State::Open {
            flowing.state = State::Closing;
            self.sink.close(partition, flowing.generation);
        }
    }

    fn closed(&mut self, partition: &Partition) {
        let flowing = self.partitions.remove(partition);
        if self.stopping.is_none() || flowing.is_some_and(|flowing| flowing.revoked) {
            self.observer.closed(partition);
        }
        self.source.closed(partition);
    }

    /// Returns whether the partition is read, in that generation, to go on being read.
    fn is_current(&self, partition: &Partition, generation: u32) -> bool {
        let flowing = self.partitions.get(partition);
        let current = |flowing: &Flowing| flowing.generation == generation && flowing.state == State::Open;
        self.stopping.is_none() && flowing.is_some_and(current)
    }

    /// Stops reading, hands over what was read already, and closes everything.
    async fn begin_to_stop(&mut self, timeout: Duration) {
        let partitions: Vec<_> = self.partitions.keys().cloned().collect();
        for partition in &partitions {
            self.source.stop(partition);
        }
        while !self.exhausted {
            tokio::select! {
                biased;
                event = self.source.next() => match event {
                    Ok(Some(Event::Batch(batch))) => self.put(batch),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                },
                () = std::future::ready(()) => break,
            }
        }
        self.stopping = Some(Instant::now() + timeout);
        for partition in &partitions {
            self.close(partition);
        }
    }

    fn overdue(&mut self) -> Error {
        if let Some(failure) = self.failure.take() {
            return failure;
        }
        let mut names: Vec<_> = self.partitions.keys().map(Partition::to_string).collect();
        names.sort();
        if self.topics > 0 {
            names.push("the settings of topics".to_owned());
        }
        Error::failed(format!("stopped before everything read was durable: {}", names.join(", ")))
            .hint("what is durable stays; of the rest nothing is kept, and it is to be read again")
    }
}
