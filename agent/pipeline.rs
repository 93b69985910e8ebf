//! The loop that both directions share: `source → sink`, and back what is durable.
//!
//! One value flows: [`Batch`], of one partition. The source says which partitions are ours and brings their batches;
//! the sink says where each partition goes on ([`Tip`]), makes batches durable and says so; only then does the source
//! hear of it. The loop holds no bytes of its own: what is in flight is paid for from the [`Budget`](crate::budget).
//!
//! Cancel and crash: the loop may be dropped at any point. The sink alone has durable effects, and its order of them
//! is its own (`archive::sink`).

use bytes::Bytes;

use crate::budget::{Budget, Permit};
use crate::error::Result;
use crate::record::{AbortedTransaction, Offset, OffsetRange, Partition, Timestamp};

/// Consecutive record batches of one partition, or a gap in it.
#[derive(Debug)]
pub struct Batch {
    partition: Partition,
    generation: u32,
    /// The offsets that this batch covers, `[first, next)`. Offsets inside it may hold no record.
    pub range: OffsetRange,
    /// What it carries.
    pub payload: Payload,
    /// The memory that the payload costs; it goes back when the batch is dropped.
    pub permit: Permit,
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
        Self { partition, generation, range, payload, permit }
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
    /// Its settings, by name.
    pub configs: Vec<TopicConfig>,
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

/// What a source tells.
#[derive(Debug)]
pub enum Event {
    /// A topic was found, or its settings have changed.
    Topic(Topic),
    /// A partition is ours: ask the sink where to go on, then [`Source::start`] it.
    Assigned(Partition),
    /// A partition is no longer ours: the sink closes it.
    Revoked(Partition),
    /// Data of a partition.
    Batch(Batch),
    /// What the leader said of a partition's end.
    Observed {
        /// The partition.
        partition: Partition,
        /// The log end as replicated, exclusive.
        high_watermark: Offset,
        /// The end of what a read-committed reader may see, exclusive.
        last_stable: Offset,
        /// When it was said.
        at: Timestamp,
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
    },
    /// Start the partition again from here: another writer was ahead, or a write failed and was given up.
    Restart {
        /// The partition.
        partition: Partition,
        /// Where to go on.
        tip: Tip,
    },
    /// The partition is closed; everything put before is durable.
    Closed {
        /// The partition.
        partition: Partition,
    },
    /// Something is wrong (`Some`) or right again (`None`) with the partition; the sink tries again by itself.
    Trouble {
        /// The partition.
        partition: Partition,
        /// What is wrong.
        reason: Option<String>,
    },
    /// The partition cannot go on until somebody has acted.
    Failed {
        /// The partition.
        partition: Partition,
        /// Why.
        error: crate::error::Error,
    },
}

/// Where batches become durable.
pub trait Sink: Send {
    /// Keeps what is known of a topic.
    fn topic(&mut self, topic: &Topic) -> impl Future<Output = Result<()>> + Send;

    /// Opens a partition; its [`Tip`] comes as [`Answer::Restart`], since finding it may take requests.
    fn open(&mut self, partition: &Partition);

    /// Takes a batch. Never waits: what is in flight is bounded by the budget that the batch's permit is from.
    fn put(&mut self, batch: Batch);

    /// Makes durable what it holds of the partition and lets it go; [`Answer::Closed`] follows.
    fn close(&mut self, partition: &Partition);

    /// Makes durable the largest of what it holds, because memory is short.
    fn relieve(&mut self);

    /// Waits for the next answer. Cancel safe.
    fn answer(&mut self) -> impl Future<Output = Answer> + Send;
}

/// The bound on what is in flight, for the loop to relay its pressure.
pub type Memory = Budget;
