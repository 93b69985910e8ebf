//! Capture: the batches of topics, from their leaders, as a [`pipeline::Source`].
//!
//! Tasks: one *watch* that knows the cluster (topics, leaders, offsets) and says who reads what, and one *fetcher* per
//! broker that leads something we read, with a connection of its own and one Fetch outstanding. A partition is with
//! exactly one of them at any time; a fetcher that cannot go on gives it back to the watch with the position it had
//! reached, so nothing is lost or read twice when leaders move.
//!
//! Order: within a partition, events come in offset order. Retry: everything that passes is tried again with back-off,
//! and told as [`Event::Trouble`]; a one-pass source gives up after [`GIVE_UP_AFTER`]. Cancel: `next` only
//! waits on a channel; all tasks end when the source is dropped. Crash: nothing here is durable.

mod fetcher;
mod flow;
mod reading;
mod selection;
mod watch;

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::budget::{Budget, RateLimit};
use crate::error::{Error, Result};
use crate::kafka::client::{self, EpochAnswer, OffsetAnswer};
use crate::kafka::membership;
use crate::kafka::wire::Toll;
use crate::kafka::{Client, Properties};
use crate::pipeline::{self, Event, Tip, TopicConfig};
use crate::record::{Offset, Partition, Timestamp};
pub use selection::Selection;
use watch::Watch;
pub use watch::no_such_topics;

/// How often topics, partitions and settings are looked at, unless told otherwise. With half, a cluster of a thousand
/// agents answers twice the metadata; with twice as much, a new topic waits a minute for its first backup.
pub const METADATA_INTERVAL: Duration = Duration::from_secs(30);

/// How long the last stable offset may stand still while the log goes on, unless told otherwise: well beyond Kafka's
/// default transaction time-out of a minute.
pub const TRANSACTION_PATIENCE: Duration = Duration::from_secs(5 * 60);

/// How long a one-pass source keeps trying to read a partition before it fails: longer than a leader election and a
/// broker's restart take.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Events that may wait for the pipeline. Their bytes are bounded by the budget; this bounds their number, so that a
/// slow pipeline stops the fetchers rather than being told of a hundred thousand ends.
const EVENTS: usize = 256;

/// Where a partition begins of which the archive holds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the log start.
    Earliest,
    /// At the end, as a read-committed reader sees it. A partition that appears while we run is read from its
    /// beginning all the same: none of it was there when we began.
    Latest,
    /// At the first record with this time or a later one; at the end where there is none.
    Time(Timestamp),
}

/// What to read and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The connection to the cluster.
    pub properties: Properties,
    /// The topics.
    pub topics: Selection,
    /// The consumer group whose members share the partitions; `None` reads all of them.
    pub group_id: Option<String>,
    /// Where a partition begins of which the archive holds nothing.
    pub start: Start,
    /// How often topics, partitions and settings are looked at ([`METADATA_INTERVAL`]).
    pub metadata_interval: Duration,
    /// How long the last stable offset may stand still while the log goes on, before the transaction that holds it is
    /// named ([`TRANSACTION_PATIENCE`]).
    pub transaction_patience: Duration,
    /// Whether to stop at the last stable offsets seen at the start.
    pub one_pass: bool,
    /// The memory that fetched bytes are paid from.
    pub budget: Budget,
    /// The bytes per second that may be fetched.
    pub rate: RateLimit,
}

/// The batches of topics of a Kafka cluster.
#[derive(Debug)]
pub struct Source {
    client: Client,
    items: mpsc::Receiver<Item>,
    commands: Commands,
    watch: AbortHandle,
    one_pass: bool,
    in_group: bool,
    /// Whether every partition of a pass was told.
    complete: bool,
    /// The partitions that a pass has not finished, with their newest generation.
    unfinished: HashMap<Partition, u32>,
    /// Why the first of the partitions that a pass could not finish failed.
    failure: Option<Error>,
}

/// What the tasks tell the source.
#[derive(Debug)]
enum Item {
    Event(Event),
    /// A pass is over for the partition; counts only for its newest generation.
    Finished {
        partition: Partition,
        generation: u32,
        next: Offset,
    },
    /// A pass cannot go on with the partition; counts only for its newest generation.
    Failed {
        partition: Partition,
        generation: u32,
        error: Error,
    },
    /// Every partition of a pass was assigned.
    Complete,
    /// The source cannot go on.
    Fatal(Error),
}

/// What the watch is told. Bounded by nature: at most one per partition, broker and question on its way.
type Commands = mpsc::UnboundedSender<Command>;

#[derive(Debug)]
enum Command {
    Start(Partition, Tip),
    Stop(Partition),
    /// The sink has let a partition go.
    Closed(Partition),
    /// Everything of a partition before this offset is durable.
    Durable(Partition, Offset),
    /// What the consumer group has told.
    Group(membership::Told),
    /// Leave the group, end, and say so.
    Leave(oneshot::Sender<()>),
    /// The cluster's metadata, and the settings of topics where they were asked for.
    Found(Result<Found>),
    /// The answers to questions for offsets, in their order.
    Offsets(Purpose, Vec<Asked>, Result<Vec<OffsetAnswer>>),
    /// The answers to questions whether a leader's log agrees with what is held, in their order.
    Epochs(Vec<Agreement>, Result<Vec<EpochAnswer>>),
    /// A fetcher gives a partition back.
    Returned(Returned),
    /// A partition that was in trouble is read again.
    Recovered(Partition, u32),
    /// A broker cannot be reached (`Some`) or can again (`None`).
    Broker(String, Option<String>),
    /// A broker has not answered for longer than one that is well takes: does it still lead what is read from it?
    Overdue,
    /// An open transaction holds a partition's last stable offset here (`Some`), or none does (`None`).
    Stable(Partition, Option<Offset>),
    /// What its leader tells of the transactions that are open in a partition whose last stable offset stands there.
    Transactions(Partition, Offset, Result<Vec<(client::ActiveTransaction, Option<String>)>>),
}

#[derive(Debug)]
struct Found {
    metadata: client::Metadata,
    configs: Option<std::collections::BTreeMap<String, Result<Vec<TopicConfig>>>>,
    /// Every topic's name, where one of ours was missing in a pass.
    names: Vec<String>,
}

/// Why offsets were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Purpose {
    /// To know where to begin, and where a pass ends.
    Begin,
    /// Because the leader said that our position is out of range.
    Check,
}

#[derive(Debug, Clone)]
struct Asked {
    partition: Partition,
    generation: u32,
    at: client::At,
}

/// A partition whose leader, of that epoch, is asked whether its log agrees with what is held.
#[derive(Debug)]
struct Agreement {
    partition: Partition,
    generation: u32,
    leader_epoch: i32,
}

/// A partition that a fetcher cannot read on.
#[derive(Debug)]
struct Returned {
    partition: Partition,
    generation: u32,
    position: Offset,
    last_epoch: i32,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    /// Another broker leads it, as the watch knows.
    Led,
    /// This broker does not lead it (any more), or not yet: Kafka's error code, and who leads it, where that was said,
    /// as (broker, epoch).
    Moved(i16, Option<(i32, i32)>),
    /// The broker cannot be reached.
    Unreachable(String),
    /// The leader has nothing at the position.
    OutOfRange,
    /// The leader's log differs from what we hold: the newest epoch they share, and its end.
    Diverged(i32, Offset),
    /// Bytes that cannot be taken, and why.
    Unusable(Error),
    /// Another error of Kafka.
    Refused(i16),
}

impl Source {
    /// Begins to read. A pass waits here until the cluster answers; else an unreachable cluster is trouble that passes.
    ///
    /// # Errors
    /// Of a pass: [`Kind::Failed`](crate::error::Kind::Failed), naming the brokers tried, after
    /// [`client::OPEN_WITHIN`].
    pub async fn open(options: Options) -> Result<Self> {
        let client = if options.one_pass {
            Client::open(options.properties.clone(), client::OPEN_WITHIN).await?
        } else {
            Client::new(options.properties.clone())
        };
        let (told, items) = mpsc::channel(EVENTS);
        let (commands, heard) = mpsc::unbounded_channel();
        let (one_pass, in_group) = (options.one_pass, options.group_id.is_some());
        let toll = Toll { budget: options.budget.clone(), rate: options.rate.clone() };
        let watch = Watch::new(client.clone(), options, toll, told, commands.clone(), heard);
        let watch = tokio::spawn(watch.run()).abort_handle();
        Ok(Self {
            client,
            items,
            commands,
            watch,
            one_pass,
            in_group,
            complete: false,
            unfinished: HashMap::new(),
            failure: None,
        })
    }

    /// Ends the source; where it is in a group it leaves it first, so that the others need not wait to hear that it is
    /// gone.
    pub async fn close(mut self) {
        // Nobody reads what is still to be told: a task that waits to tell it must not keep us.
        self.items.close();
        let (left, done) = oneshot::channel();
        self.tell(Command::Leave(left));
        // It ends without an answer only when the watch had ended before.
        let _ = done.await;
    }

    /// Returns the client of the cluster's control plane, which shares its connections.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn tell(&self, command: Command) {
        // The watch hears nothing more only when it has ended; `next` then says why.
        let _ = self.commands.send(command);
    }
}

impl pipeline::Source for Source {
    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if self.one_pass && self.complete && self.unfinished.is_empty() {
                return self.failure.take().map_or(Ok(None), Err);
            }
            match self.items.recv().await {
                Some(Item::Event(event)) => {
                    if let Event::Assigned(partition) = &event {
                        self.unfinished.insert(partition.clone(), 0);
                    }
                    return Ok(Some(event));
                }
                Some(Item::Finished { partition, generation, next }) => {
                    // One of an older generation was overtaken by a restart.
                    if self.unfinished.get(&partition) == Some(&generation) {
                        self.unfinished.remove(&partition);
                        return Ok(Some(Event::Finished { partition, next }));
                    }
                }
                Some(Item::Failed { partition, generation, error }) => {
                    if self.unfinished.get(&partition) == Some(&generation) {
                        self.unfinished.remove(&partition);
                        tracing::error!("{error}; the other partitions are read to their end");
                        self.failure.get_or_insert(error);
                        return Ok(Some(Event::Finished { partition, next: 0 }));
                    }
                }
                Some(Item::Complete) => self.complete = true,
                Some(Item::Fatal(error)) => return Err(error),
                None => return Err(Error::failed("the Kafka source has ended; its log says why")),
            }
        }
    }

    fn start(&mut self, partition: &Partition, tip: Tip) {
        self.unfinished.insert(partition.clone(), tip.generation);
        self.tell(Command::Start(partition.clone(), tip));
    }

    fn stop(&mut self, partition: &Partition) {
        self.unfinished.remove(partition);
        self.tell(Command::Stop(partition.clone()));
    }

    fn durable(&mut self, partition: &Partition, next: Offset) {
        if self.in_group {
            self.tell(Command::Durable(partition.clone(), next));
        }
    }

    fn closed(&mut self, partition: &Partition) {
        self.tell(Command::Closed(partition.clone()));
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // The watch owns all other tasks: they end with it.
        self.watch.abort();
    }
}

#[cfg(test)]
mod tests;
