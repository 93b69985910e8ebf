//! Whole batches into Kafka, in order and exactly once: the produce half of the wire client.
//!
//! [`fence`] takes the place of whoever produced under a transactional id before, and gives an [`Identity`]; a
//! [`Producer`] of that identity sends batches with sequences counted from where each partition was opened. Progress is
//! the sequence: what a process sent is found again in the target's headers, and a younger process fences it. Where that
//! does not do, [`Transactions`] of the same identity send, and say how far they are in the same transaction.
//!
//! Order: per partition as sent, at most five batches on their way; answers of a partition in its order. Retry: what
//! passes (a leader that moves, a connection that breaks, too few replicas) is sent again, the same bytes, for as long
//! as the producer lives, and told as [`Answer::Trouble`] after a second; what does not pass ends the partition and
//! comes back. Cancel: dropping the producer ends its tasks and closes its connections; what was on its way may land.
//! Crash: the same, by the next fence at the latest. Memory: what the caller handed in, and the requests on their way, in
//! recycled memory; the queues are bounded by the permits that callers put into their tokens.

mod authority;
mod coordinator;
mod dispatch;
mod fence;
mod lane;
mod link;
mod request;
mod transactions;
mod trouble;
mod verdict;

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::batch::outgoing::{Identity, Outgoing};
use crate::error::{Error, Kind};
use crate::kafka::Client;
use crate::record::{Offset, Partition, Timestamp};
pub use authority::check_authority;
use dispatch::Dispatch;
pub use fence::{fence, hindrance, unfenced};
pub use transactions::places::Places;
pub use transactions::{Transactions, progress};

/// The bounds of a producer, and since when it has its place.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The bytes of a request, but for a single larger batch. With half, a hundred partitions of small batches need twice
    /// the requests; with double, a connection has less on its way at once.
    pub request_bytes: usize,
    /// The bytes on their way over one connection. With half, a broker that syncs its disk leaves the line idle; each
    /// doubling costs its size in memory for each connection.
    pub in_flight_bytes: usize,
    /// How many connections to each broker the partitions share in turn, each partition one while it is led there: a broker works on the
    /// requests of one connection one after the other, and unpacks every batch for that. With one, one of its cores does
    /// all; more than it has cores only wait for each other.
    pub connections: usize,
    /// How long a topic may be unknown, or another one under its name, before its partitions are refused: brokers
    /// learn of a new topic one after the other.
    pub settle: Duration,
    /// A moment before its [`fence`] was there: from then on brokers count how long they remember who was fenced off, however
    /// long it takes until the producer starts.
    pub fenced_at: Timestamp,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            request_bytes: (2 << 20) - (16 << 10),
            in_flight_bytes: 4 << 20,
            connections: 4,
            settle: Duration::from_secs(30),
            fenced_at: Timestamp::now(),
        }
    }
}

/// What a producer tells.
#[derive(Debug)]
pub enum Answer<T> {
    /// A batch is in the log, on all replicas in sync.
    Landed {
        /// Its partition.
        partition: Partition,
        /// The offset of its first record.
        first: Offset,
        /// How many records it has.
        records: u32,
        /// What was handed in with it.
        token: T,
    },
    /// A partition takes a batch no more. It comes back with all that was sent behind it: none of them was acknowledged,
    /// though after a lost connection some may have landed, as the target's tail tells. The partition is over, and may be
    /// opened again.
    Refused {
        /// The partition.
        partition: Partition,
        /// Why, and what to do.
        error: Error,
        /// Kafka's error code; −1 where it gave none.
        code: i16,
        /// The sequence of the first batch that comes back.
        sequence: i32,
        /// The batches, in order.
        batches: Vec<(Outgoing, T)>,
    },
    /// A younger process has taken our place ([`Kind::Fenced`](crate::error::Kind::Fenced)): nothing more is sent, and
    /// nothing else is told from now on.
    Fenced(Error),
    /// Something has been tried again for more than a second (`Some`), or is right again (`None`).
    Trouble {
        /// What it is about: `broker 3`, `orders-3`, `cluster`.
        subject: String,
        /// What is wrong.
        reason: Option<String>,
    },
}

/// What the producer is told.
enum Command<T> {
    Open(Partition, i32),
    Send(Partition, Outgoing, T),
}

/// An idempotent producer of whole batches. `T` comes back with the answer to each.
#[derive(Debug)]
pub struct Producer<T> {
    commands: mpsc::UnboundedSender<Command<T>>,
    answers: mpsc::UnboundedReceiver<Answer<T>>,
    dispatch: AbortHandle,
    fenced: bool,
}

impl<T: Send + 'static> Producer<T> {
    /// Starts a producer outside of transactions; connections are opened when they are needed.
    pub fn start(client: &Client, identity: Identity, settings: Settings) -> Self {
        Self::start_as(client, (identity, None), settings)
    }

    /// Starts one whose batches are in the transactions of an id, where there is one. Whoever starts it adds each partition
    /// to the running transaction before anything is sent to it.
    fn start_as(client: &Client, who: (Identity, Option<String>), settings: Settings) -> Self {
        let (commands, heard) = mpsc::unbounded_channel();
        let (answer, answers) = mpsc::unbounded_channel();
        let dispatch = Dispatch::new(client.clone(), who, settings, heard, answer);
        let dispatch = tokio::spawn(dispatch.run()).abort_handle();
        Self { commands, answers, dispatch, fenced: false }
    }

    /// Opens a partition, which must not be open; its next batch has that sequence. One that was refused may be opened
    /// again.
    pub fn open(&self, partition: &Partition, first_sequence: i32) {
        self.tell(Command::Open(partition.clone(), first_sequence));
    }

    /// Sends a batch to a partition that is open. Never waits: the caller bounds what is on its way.
    pub fn send(&self, partition: &Partition, batch: Outgoing, token: T) {
        self.tell(Command::Send(partition.clone(), batch, token));
    }

    /// Waits for the next answer. Cancel: safe, nothing is lost.
    pub async fn answer(&mut self) -> Answer<T> {
        let answer = self.answers.recv().await.unwrap_or_else(|| {
            let what = "the producer has ended; its log says why";
            Answer::Fenced(if self.fenced { Error::new(Kind::Fenced, what) } else { Error::failed(what) })
        });
        self.fenced |= matches!(answer, Answer::Fenced(_));
        answer
    }

    fn tell(&self, command: Command<T>) {
        // It hears nothing more only when it was fenced; `answer` says so.
        let _ = self.commands.send(command);
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // It owns all other tasks: they end with it.
        self.dispatch.abort();
    }
}

#[cfg(test)]
mod tests;
