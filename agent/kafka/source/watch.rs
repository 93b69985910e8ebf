//! The watch: what is known of the cluster, and who reads what.
//!
//! A state machine behind a channel: it never waits for the network itself. Questions to brokers run as tasks that send
//! their answer back as a [`Command`]; what it has to say is collected, delivered, and only then do the fetchers get
//! their orders, so that a gap comes before the batches after it.

mod questions;
mod runs;
mod tenure;
mod topics;
mod transactions;

pub use topics::no_such_topics;

use std::collections::{BTreeMap, HashMap};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::fetcher::{Fetcher, Order};
use super::{Command, Commands, Item, Options};
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::kafka::Client;
use crate::kafka::fetch::Limits;
use crate::kafka::wire::Toll;
use crate::pipeline::Event;
use crate::record::{Offset, Partition};
use runs::Run;
use tenure::{Group, Tenure};
use topics::Seen;
use transactions::Standing;

/// How long a broker may wait for data in a pass, which reads only what is there: it never has to.
const ONE_PASS_WAIT_MS: i32 = 100;

/// The watch over a cluster.
pub(super) struct Watch {
    client: Client,
    options: Options,
    toll: Toll,
    items: mpsc::Sender<Item>,
    commands: Commands,
    heard: mpsc::UnboundedReceiver<Command>,
    /// The fetchers and the questions on their way; all end with the watch.
    tasks: JoinSet<()>,
    fetchers: HashMap<i32, mpsc::UnboundedSender<Order>>,
    topics: BTreeMap<String, Seen>,
    /// The consumer group that shares the partitions out, where there is one.
    group: Option<Group>,
    /// Every partition of the topics that are there, and those of topics that are gone until the sink has let them go.
    partitions: BTreeMap<Partition, Held>,
    /// Whether what is ours must be looked through: something was found, given, taken away or closed.
    unsettled: bool,
    /// What is wrong now, as told: reasons by subject.
    troubles: BTreeMap<String, String>,
    look: Look,
    outbox: Vec<Item>,
    orders: Vec<(i32, Order)>,
    /// Who waits to hear that we have left the group.
    leaving: Option<oneshot::Sender<()>>,
}

/// When the cluster was and will be looked at.
struct Look {
    /// Whether a look is on its way.
    running: bool,
    /// When the last one began.
    began: Option<Instant>,
    /// When the first good one was heard.
    first: Option<Instant>,
    /// When what the last good one told was true at the earliest.
    known: Option<Instant>,
    /// When the next one is due.
    next: Instant,
    /// When settings are read again.
    configs_next: Instant,
    /// Since when looks fail.
    failing_since: Option<Instant>,
    backoff: Backoff,
}

/// A partition.
#[derive(Debug)]
struct Held {
    tenure: Tenure,
    /// Its topic was deleted, or made again under another id.
    gone: bool,
    leader: i32,
    leader_epoch: i32,
    /// Whether another leader was elected since the last look.
    elected: bool,
    /// Whether it appeared while we ran: then it is read from offset 0.
    young: bool,
    /// Where an open transaction holds the last stable offset, and since when.
    standing: Option<Standing>,
    /// Where a pass ends, exclusive.
    end: Option<Offset>,
    run: Option<Run>,
}

impl Held {
    fn new(leader: i32, leader_epoch: i32, young: bool) -> Self {
        let tenure = Tenure::Free;
        Self { tenure, gone: false, leader, leader_epoch, elected: false, young, standing: None, end: None, run: None }
    }
}

impl Watch {
    pub(super) fn new(
        client: Client,
        options: Options,
        toll: Toll,
        items: mpsc::Sender<Item>,
        commands: Commands,
        heard: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let now = Instant::now();
        let backoff = client.backoff();
        let topics = options.topics.names().iter().map(|name| (name.clone(), Seen::default())).collect();
        let group = options.group_id.clone().map(Group::new);
        Self {
            client,
            options,
            toll,
            items,
            commands,
            heard,
            tasks: JoinSet::new(),
            fetchers: HashMap::new(),
            topics,
            group,
            unsettled: false,
            partitions: BTreeMap::new(),
            troubles: BTreeMap::new(),
            look: Look {
                running: false,
                began: None,
                first: None,
                known: None,
                next: now,
                configs_next: now,
                failing_since: None,
                backoff,
            },
            outbox: Vec::new(),
            orders: Vec::new(),
            leaving: None,
        }
    }

    /// Watches until the source is dropped, or cannot go on.
    pub(super) async fn run(mut self) {
        let error = loop {
            let now = Instant::now();
            let wake = match self.step(now) {
                Ok(wake) => wake,
                Err(error) => break error,
            };
            self.flush().await;
            let first = tokio::select! {
                command = self.heard.recv() => command,
                () = sleep_until(wake) => None,
            };
            let mut next = first;
            let mut failed = None;
            while let Some(command) = next {
                failed = self.hear(command).err();
                next = if failed.is_some() { None } else { self.heard.try_recv().ok() };
            }
            if let Some(error) = failed {
                break error;
            }
            if let Some(left) = self.leaving.take() {
                self.leave().await;
                let _ = left.send(());
                return;
            }
        };
        self.flush().await;
        let _ = self.items.send(Item::Fatal(error)).await;
    }

    /// Starts what is due; returns when to look again, if nothing is heard before.
    fn step(&mut self, now: Instant) -> Result<Instant> {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                return Err(Error::failed("a task of the Kafka source broke").source(error));
            }
        }
        self.look_if_due(now)?;
        let wake = self.place(now).min(self.share_out(now)).min(self.name_transactions(now));
        // Placing may have found that the metadata is old.
        self.look_if_due(now)?;
        Ok(if self.look.running { wake } else { wake.min(self.look.next) })
    }

    fn hear(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Start(partition, tip) => self.start(&partition, tip),
            Command::Stop(partition) => self.stop(&partition),
            Command::Closed(partition) => self.closed(&partition),
            Command::Durable(partition, next) => self.durable(&partition, next),
            Command::Group(told) => self.group_told(told),
            // Nothing that was heard before it matters any more.
            Command::Leave(left) => self.leaving = Some(left),
            Command::Found(found) => self.found(found)?,
            Command::Offsets(purpose, asked, answers) => self.answered(purpose, asked, answers),
            Command::Epochs(asked, answers) => self.agreed(asked, answers),
            Command::Returned(returned) => self.returned(returned),
            Command::Recovered(partition, generation) => self.recovered(&partition, generation),
            Command::Broker(address, reason) => self.trouble(format!("broker {address}"), reason),
            Command::Overdue => self.look_soon(Instant::now()),
            Command::Stable(partition, held_at) => self.stable(&partition, held_at),
            Command::Transactions(partition, at, open) => self.transactions(&partition, at, open),
        }
        Ok(())
    }

    /// Delivers what is to be told, then gives the orders.
    async fn flush(&mut self) {
        for item in self.outbox.drain(..) {
            // Nobody listens only when the source was dropped; this task ends then.
            let _ = self.items.send(item).await;
        }
        for (broker, order) in std::mem::take(&mut self.orders) {
            // A fetcher ends only by a panic, which the next step finds.
            let _ = self.fetcher(broker).send(order);
        }
    }

    fn fetcher(&mut self, broker: i32) -> &mpsc::UnboundedSender<Order> {
        self.fetchers.entry(broker).or_insert_with(|| {
            let (orders, ordered) = mpsc::unbounded_channel();
            let properties = self.client.properties();
            let wait_ms = properties.fetch_wait_ms;
            let limits = Limits {
                wait_ms: if self.options.one_pass { wait_ms.min(ONE_PASS_WAIT_MS) } else { wait_ms },
                min_bytes: properties.fetch_min_bytes,
                max_bytes: properties.fetch_max_bytes,
                partition_max_bytes: properties.partition_max_bytes,
            };
            let told = (self.items.clone(), self.commands.clone());
            let fetcher = Fetcher::new(broker, self.client.clone(), (self.toll.clone(), limits), ordered, told);
            self.tasks.spawn(fetcher.run());
            orders
        })
    }

    /// Tells what is wrong with `subject`, or that it is right again; only what is news.
    fn trouble(&mut self, subject: String, reason: Option<String>) {
        let told = match &reason {
            Some(reason) => self.troubles.insert(subject.clone(), reason.clone()),
            None => self.troubles.remove(&subject),
        };
        if told != reason {
            self.outbox.push(Item::Event(Event::Trouble { subject, reason }));
        }
    }
}
