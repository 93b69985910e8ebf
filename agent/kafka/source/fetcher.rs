//! The fetcher of one broker: a connection, a fetch session, one Fetch outstanding.
//!
//! Order: the next request goes out as soon as an answer has been looked through, before its batches are delivered, so
//! that the broker works while the pipeline does; what cannot be read on goes back to the watch after everything before
//! it was delivered. Retry: whatever is wrong with the connection gives all partitions back, and the next connection is
//! tried after a wait. Cancel: at any point; nothing is kept here that the watch or the sink relies on.

use std::time::Duration;

use kafka_protocol::messages as m;
use metrics::Counter;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::reading::{Reading, Readings, Yield};
use super::{Command, Commands, Item};
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::kafka::fetch::{Limits, Session, Verdict, Want};
use crate::kafka::identity::{self, Known};
use crate::kafka::wire::{Connection, Toll};
use crate::kafka::{Client, code_name};
use crate::record::Partition;

/// The versions of Fetch that we speak.
const FIRST_VERSION: i16 = 4;
const LAST_VERSION: i16 = 17;
/// The last version that names topics by name.
const LAST_BY_NAME: i16 = 12;

/// New sessions in a row that a broker may refuse before the connection is given up.
const SESSIONS: u32 = 3;

/// An answer is overdue this long after the broker had to send it: a broker that is well takes milliseconds. With less,
/// a cold read from a slow disk would look like a dead broker; with more, a leader that moved away from one that cannot
/// be reached is noticed later.
const OVERDUE: Duration = Duration::from_secs(3);

/// How often that is said.
const OVERDUE_AGAIN: Duration = Duration::from_secs(1);

/// A Fetch costs us about a microsecond for each partition that is read, and the broker about as much, however little
/// it brings. Where many partitions get a record now and then, one Fetch follows the other for a handful of records; a
/// rest of so much for each partition bounds that at 2 % of a core. Half of it doubles the bound; double delays the
/// records of a thousand partitions by 100 ms instead of 50.
const REST_PER_PARTITION: Duration = Duration::from_micros(50);

/// A shorter rest is none: the clock is no finer, and so few partitions cost little.
const SHORTEST_REST: Duration = Duration::from_millis(1);

/// The longest rest, so that ten thousand partitions are looked at as soon as one.
const LONGEST_REST: Duration = Duration::from_millis(200);

/// No rest follows an answer of this share of the most: the bytes are what costs then, and there are more.
const WORTH_A_FETCH: usize = 4;

/// The longest a fetcher waits for room before it looks again by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the watch orders.
#[derive(Debug)]
pub(super) enum Order {
    /// Read a partition, in place of an older generation of it.
    Read(Reading),
    /// Read it no longer.
    Drop(Partition),
    /// Give it back with the position it has reached: another broker leads it now.
    Return(Partition),
}

/// The fetcher of one broker.
pub(super) struct Fetcher {
    broker: i32,
    client: Client,
    toll: Toll,
    limits: Limits,
    orders: mpsc::UnboundedReceiver<Order>,
    items: mpsc::Sender<Item>,
    commands: Commands,
    readings: Readings,
    session: Session,
    version: i16,
    fetched_bytes: Counter,
    fetches: Counter,
}

impl Fetcher {
    pub(super) fn new(
        broker: i32,
        client: Client,
        (toll, limits): (Toll, Limits),
        orders: mpsc::UnboundedReceiver<Order>,
        (items, commands): (mpsc::Sender<Item>, Commands),
    ) -> Self {
        Self {
            broker,
            client,
            toll,
            limits,
            orders,
            items,
            commands,
            readings: Readings::default(),
            session: Session::default(),
            version: -1,
            fetched_bytes: metrics::counter!("kafka_backup_fetched_bytes_total"),
            fetches: metrics::counter!("kafka_backup_fetches_total"),
        }
    }

    /// Reads what it is ordered to, until nobody orders any more.
    pub(super) async fn run(mut self) {
        let mut backoff = self.client.backoff();
        loop {
            if self.readings.is_empty() {
                let Some(order) = self.orders.recv().await else { return };
                self.obey(order);
                self.take_orders();
                continue;
            }
            let Some(address) = self.client.address(self.broker) else {
                self.give_back(&format!("broker {} is not in the cluster's metadata", self.broker));
                continue;
            };
            if let Err(error) = self.serve(&address, &mut backoff).await {
                let reason = error.to_string();
                self.tell(Command::Broker(address, Some(reason.clone())));
                self.pause(&reason, backoff.wait()).await;
            }
        }
    }

    /// Waits before the broker is tried again. What is ordered meanwhile goes back at once: who leads it may change
    /// before the wait is over.
    async fn pause(&mut self, reason: &str, wait: Duration) {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            self.give_back(reason);
            tokio::select! {
                () = &mut over => return,
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
            }
        }
    }

    /// Waits for `future`, which is the broker's to end, and obeys orders meanwhile; says when it is overdue.
    async fn meanwhile<T>(&mut self, wait: Duration, future: impl Future<Output = T>) -> T {
        let overdue = tokio::time::sleep(wait + OVERDUE);
        tokio::pin!(future, overdue);
        loop {
            tokio::select! {
                biased;
                outcome = &mut future => return outcome,
                Some(order) = self.orders.recv() => self.obey(order),
                () = &mut overdue => {
                    self.tell(Command::Overdue);
                    overdue.as_mut().reset(Instant::now() + OVERDUE_AGAIN);
                }
            }
        }
    }

    /// Fetches over one connection until nothing is left to read, or something is wrong with it.
    async fn serve(&mut self, address: &str, backoff: &mut Backoff) -> Result<()> {
        let client = self.client.clone();
        let mut connection = self.meanwhile(Duration::ZERO, client.connect(address)).await?;
        self.session = Session::default();
        let mut asked = None;
        let (mut first, mut refused) = (true, 0);
        loop {
            if asked.is_none() {
                self.take_orders();
                if self.readings.is_empty() {
                    // The broker would close an idle connection after a while, and that would look like trouble.
                    return Ok(());
                }
                asked = self.ask(&mut connection).await?;
            }
            let Some(wants) = asked.take() else {
                self.wait_for_room().await;
                continue;
            };
            let wait = Duration::from_millis(self.limits.wait_ms as u64);
            let (version, toll) = (self.version, self.toll.clone());
            let answer = connection.receive::<m::FetchRequest>(version, wait, Some(&toll));
            let answer = self.meanwhile(wait, answer).await?;
            self.fetches.increment(1);
            self.fetched_bytes.increment(answer.frame_bytes as u64);
            match self.session.accept(&answer.message, self.version) {
                Verdict::Good => refused = 0,
                Verdict::Again if refused < SESSIONS => {
                    refused += 1;
                    continue;
                }
                Verdict::Again => return Err(refusal(address, answer.message.error_code)),
                Verdict::Refused(code) => return Err(refusal(address, code)),
            }
            if std::mem::take(&mut first) {
                backoff.reset();
                self.tell(Command::Broker(address.to_owned(), None));
            }
            let gone = self.gone(&mut connection, &answer.message, &wants).await?;
            let told_of = (&wants[..], self.version);
            let mut result = self.readings.look_through(answer.message, told_of, answer.frame_bytes, answer.permit);
            result.commands.extend(gone);
            if let Some(denied) = self.session.take_turns(&wants, &result.fed, &self.limits) {
                self.readings.denied(&denied, Instant::now(), &mut result);
            }
            self.take_orders();
            let rest = rest(wants.len(), answer.frame_bytes, &self.limits);
            if connection.is_quiet() || rest >= SHORTEST_REST {
                // Asking would wait (when quiet, for up to a minute); what we have must not.
                self.deliver(result).await;
                self.meanwhile(rest, tokio::time::sleep(rest)).await;
                continue;
            }
            let next = self.ask(&mut connection).await;
            // Also when asking failed: the positions have moved past these batches.
            self.deliver(result).await;
            asked = next?;
        }
    }

    /// Gives back what belongs to topics that are not there any more, before an answer that goes by name counts.
    async fn gone(
        &mut self,
        connection: &mut Connection,
        answer: &m::FetchResponse,
        wants: &[Want],
    ) -> Result<Vec<Command>> {
        let known = if self.version <= LAST_BY_NAME { Known::of(answer, wants) } else { Known::default() };
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let version = connection.version::<m::MetadataRequest>(identity::VERSIONS);
        let version = version.ok_or_else(|| identity::cannot_tell(connection.broker()))?;
        let question = known.question();
        let told = self.meanwhile(Duration::ZERO, connection.call(&question, version)).await?;
        Ok(self.readings.disown(&known.gone(&told)))
    }

    /// Sends the next request; `None` when there is nothing to ask for now.
    async fn ask(&mut self, connection: &mut Connection) -> Result<Option<Vec<Want>>> {
        let mut wants = self.readings.wants();
        if wants.is_empty() {
            return Ok(None);
        }
        let last = if self.readings.all_have_ids() { LAST_VERSION } else { LAST_BY_NAME };
        let version = connection.version::<m::FetchRequest>(FIRST_VERSION..=last).ok_or_else(|| {
            Error::transient(format!("broker {} has no version of Fetch that we know", connection.broker()))
        })?;
        if version != self.version {
            self.session = Session::default();
            self.version = version;
        }
        let request = self.session.request(&mut wants, &self.limits, version);
        connection.send(&request, version).await?;
        Ok(Some(wants))
    }

    /// Waits until something may be asked for: an order, or room.
    async fn wait_for_room(&mut self) {
        let wake = self.readings.wake();
        tokio::select! {
            order = self.orders.recv() => match order {
                Some(order) => self.obey(order),
                // The watch is gone, and this task with it, in a moment.
                None => tokio::time::sleep(LOOK_AGAIN).await,
            },
            () = wake.notified() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }

    async fn deliver(&mut self, result: Yield) {
        for item in result.items {
            // Nobody listens only when the source was dropped; this task ends then.
            let _ = self.items.send(item).await;
        }
        for command in result.commands {
            self.tell(command);
        }
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            self.obey(order);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Read(reading) => self.readings.add(reading),
            Order::Drop(partition) => {
                self.readings.remove(&partition);
                self.session.drop_turn(&partition);
            }
            Order::Return(partition) => {
                self.session.drop_turn(&partition);
                if let Some(command) = self.readings.take_back(&partition) {
                    self.tell(command);
                }
            }
        }
    }

    fn give_back(&mut self, reason: &str) {
        for command in self.readings.give_back(reason) {
            self.tell(command);
        }
    }

    fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

/// Returns how long to rest after an answer of `frame_bytes` bytes to a request for `partitions` partitions.
fn rest(partitions: usize, frame_bytes: usize, limits: &Limits) -> Duration {
    if frame_bytes >= limits.max_bytes.max(0) as usize / WORTH_A_FETCH {
        return Duration::ZERO;
    }
    let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
    REST_PER_PARTITION.saturating_mul(partitions).min(LONGEST_REST)
}

fn refusal(address: &str, code: i16) -> Error {
    Error::transient(format!("broker {address} refuses to fetch: {}", code_name(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_partitions_that_bring_little_are_asked_less_often() {
        let limits = Limits { wait_ms: 500, min_bytes: 1, max_bytes: 4 << 20, partition_max_bytes: 1 << 20 };
        assert!(rest(4, 100, &limits) < SHORTEST_REST);
        assert_eq!(rest(1_000, 100, &limits), Duration::from_millis(50));
        assert_eq!(rest(1_000, 1 << 20, &limits), Duration::ZERO, "the bytes are worth it");
        assert_eq!(rest(100_000, 100, &limits), LONGEST_REST);
    }
}
