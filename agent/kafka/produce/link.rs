//! A connection to one broker: requests go out as they come, answers come back in their order, several are on their
//! way at once. Who we are is said anew when everything on its way is answered, and before anything else goes out.
//!
//! Retry: none here; whatever goes wrong ends the connection and is told, and what was on its way has no answer. Cancel:
//! at any point, nothing is kept here.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages as m;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::request::TOPIC_IDS;
use crate::error::{Error, Result};
use crate::kafka::Client;
use crate::kafka::client::Metadata;
use crate::kafka::wire::{Receiving, Sending};

/// The first version of Produce that takes batches of format v2.
const FIRST: i16 = 3;

/// The last version for transactions whose partitions we add ourselves; above, a broker adds them, and each transaction
/// has an epoch of its own ([KIP-890](https://cwiki.apache.org/confluence/display/KAFKA/KIP-890)).
const TRANSACTIONS: i16 = 11;

/// An answer is overdue this long after the request was sent, or the answer before it came: time to ask whether the
/// broker still leads. With less, replicas that catch up would look like a dead broker; with more, a leader that hangs
/// is left later.
const OVERDUE: Duration = Duration::from_secs(3);

/// What a connection tells, and what a look at the cluster does.
#[derive(Debug)]
pub(super) enum Event {
    /// It is open, and takes these versions.
    Up(Versions),
    /// The next request is answered.
    Answered(m::ProduceResponse),
    /// The next answer is late.
    Overdue,
    /// It has ended.
    Lost(Error),
}

/// The highest versions of Produce that a broker and we have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Versions {
    pub(super) by_id: Option<i16>,
    pub(super) by_name: Option<i16>,
}

/// Which of the connections to which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Way {
    /// The broker's id.
    pub(super) broker: i32,
    /// Which one of those to it.
    pub(super) number: usize,
}

impl fmt::Display for Way {
    /// To a reader it is the broker that matters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broker {}", self.broker)
    }
}

/// What the tasks tell.
#[derive(Debug)]
pub(super) enum Told {
    /// The connection of that way that has this number among all that there were.
    Link(Way, u64, Event),
    /// A look at the cluster that began then.
    Looked(Instant, Result<Metadata>),
}

/// A request to be sent.
#[derive(Debug)]
pub(super) struct Shipment {
    /// Its bytes, one piece behind the other.
    pub(super) pieces: Vec<Bytes>,
    pub(super) version: i16,
    pub(super) correlation: i32,
}

/// A connection to a broker.
pub(super) struct Line {
    pub(super) way: Way,
    pub(super) serial: u64,
    pub(super) client: Client,
    /// Whether its batches are in transactions.
    pub(super) transactional: bool,
    pub(super) shipments: mpsc::UnboundedReceiver<Shipment>,
    pub(super) tell: mpsc::UnboundedSender<Told>,
}

impl Line {
    /// Connects and works until the connection ends.
    pub(super) async fn run(mut self) {
        let Err(error) = self.serve().await;
        self.tell(Event::Lost(error));
    }

    async fn serve(&mut self) -> Result<Infallible> {
        let Way { broker, .. } = self.way;
        let unknown = || Error::transient(format!("broker {broker} is not in the cluster's metadata"));
        let address = self.client.address(broker).ok_or_else(unknown)?;
        let mut connection = self.client.connect(&address).await?;
        let by_id = connection.version::<m::ProduceRequest>(TOPIC_IDS..=TOPIC_IDS).filter(|_| !self.transactional);
        let last = if self.transactional { TRANSACTIONS } else { TOPIC_IDS - 1 };
        let by_name = connection.version::<m::ProduceRequest>(FIRST..=last);
        self.tell(Event::Up(Versions { by_id, by_name }));
        let (number, tell) = ((self.way, self.serial), self.tell.clone());
        loop {
            // Bounded by what may be on its way.
            let (sent, awaited) = mpsc::unbounded_channel();
            let renewal = connection.renewal();
            let (sending, receiving) = connection.halves();
            // Both are over when it is time to say anew who we are and everything on its way is answered.
            tokio::try_join!(
                write(sending, &mut self.shipments, sent, renewal),
                read(receiving, awaited, number, &tell)
            )?;
            connection.renew().await?;
        }
    }

    fn tell(&self, event: Event) {
        // Nobody hears it only when the producer was dropped, and this task with it.
        let _ = self.tell.send(Told::Link(self.way, self.serial, event));
    }
}

/// Writes requests until it is time for the `renewal`.
async fn write(
    sending: &mut Sending,
    shipments: &mut mpsc::UnboundedReceiver<Shipment>,
    sent: mpsc::UnboundedSender<(i16, i32)>,
    renewal: Option<Instant>,
) -> Result<()> {
    loop {
        let shipment = match renewal {
            None => shipments.recv().await,
            // However much there is to send.
            Some(renewal) if renewal <= Instant::now() => return Ok(()),
            Some(renewal) => match timeout_at(renewal, shipments.recv()).await {
                Ok(shipment) => shipment,
                Err(_) => return Ok(()),
            },
        };
        let Some(Shipment { pieces, version, correlation }) = shipment else { return Err(ended()) };
        sending.send_all(&pieces).await?;
        sent.send((version, correlation)).map_err(|_| ended())?;
    }
}

/// Reads answers until nobody sends any more and all are there.
async fn read(
    receiving: &mut Receiving,
    mut awaited: mpsc::UnboundedReceiver<(i16, i32)>,
    (way, serial): (Way, u64),
    tell: &mpsc::UnboundedSender<Told>,
) -> Result<()> {
    loop {
        let Some(next) = awaited.recv().await else { return Ok(()) };
        // What was sent before a quota held the connection up is looked at when that is over.
        let quiet = receiving.quiet_for();
        let answer = receiving.receive::<m::ProduceRequest>(next, quiet, None);
        tokio::pin!(answer);
        let mut patience = OVERDUE + quiet;
        let answer = loop {
            match timeout(patience, &mut answer).await {
                Ok(answer) => break answer?,
                Err(_) => drop(tell.send(Told::Link(way, serial, Event::Overdue))),
            }
            patience = OVERDUE;
        };
        let _ = tell.send(Told::Link(way, serial, Event::Answered(answer.message)));
    }
}

fn ended() -> Error {
    Error::transient("the connection was given up")
}
