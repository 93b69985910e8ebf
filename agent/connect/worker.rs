//! The connectors of this agent, one for each pipeline: what each is to do, what it does, how far it is.
//!
//! A connector is told what to do through [`Orders`], by whoever asks over HTTP, and its pipeline alone says what it does.
//! What is asked for is kept first (`kept`), then told: it holds at the next start, or nobody was told that it does.
//!
//! Cancellation: a change goes on to its end although the request for it is dropped. Crash: see `kept`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use tokio::sync::watch;

use super::flat::{self, Class};
use super::kept::Kept;
use super::state::{Order, Phase, Target};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::record::{Offset, Partition};

/// The connectors of this agent. Clones share them.
#[derive(Debug, Clone)]
pub struct Worker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: String,
    connectors: Vec<Arc<Connector>>,
    kept: Arc<Mutex<Kept>>,
}

impl Worker {
    /// Makes a connector of each pipeline of `config`, of which none restores; what each is to do is read from `agent.state_dir`. `address` is
    /// where this agent listens, by which others know it.
    ///
    /// # Errors
    /// When `agent.state_dir` cannot be read and written, or another agent has it.
    pub fn open(config: &Config, address: SocketAddr) -> Result<Self> {
        let mut kept = Kept::open(config.agent.state_dir.as_deref())?;
        let is_there = |name: &str| config.pipelines.iter().any(|pipeline| pipeline.name == name);
        for gone in kept.forget_but(is_there) {
            tracing::warn!("there is no pipeline `{gone}` any more, which was to rest: that is forgotten");
        }
        let none = Map::new();
        let mut shown = config.effective().get("pipeline").and_then(Value::as_array).into_iter().flatten();
        let connectors = config.pipelines.iter().map(|pipeline| {
            let shown = shown.next().and_then(Value::as_object).unwrap_or(&none);
            let mut flat = flat::to_flat(Class::ArchiveSink, shown);
            flat.insert("name".to_owned(), pipeline.name.as_str().into());
            Arc::new(Connector::new(&pipeline.name, flat, kept.target(&pipeline.name)))
        });
        let connectors = connectors.collect();
        Ok(Self(Arc::new(Shared { id: id_of(address), connectors, kept: Arc::new(Mutex::new(kept)) })))
    }

    /// Returns by what name others know this agent: `host:port`.
    pub(super) fn id(&self) -> &str {
        &self.0.id
    }

    /// Returns the connectors, in the order of the file.
    pub(super) fn connectors(&self) -> &[Arc<Connector>] {
        &self.0.connectors
    }

    /// Returns the connector of that name.
    pub fn connector(&self, name: &str) -> Option<&Arc<Connector>> {
        self.0.connectors.iter().find(|connector| connector.name == name)
    }

    /// Returns the id of the cluster that connectors read from, if it is known and one.
    pub(super) fn cluster_id(&self) -> Option<String> {
        let mut ids: Vec<_> =
            self.connectors().iter().filter_map(|connector| connector.lock().cluster_id.clone()).collect();
        ids.sort();
        ids.dedup();
        if ids.len() == 1 { ids.pop() } else { None }
    }

    /// Keeps what a connector is to do, and then tells it; when this returns, that holds at the next start.
    ///
    /// # Errors
    /// When it could not be kept; the connector is not told then.
    pub(super) async fn set_target(&self, connector: &Arc<Connector>, target: Target) -> Result<()> {
        let (kept, connector) = (self.0.kept.clone(), connector.clone());
        let change = tokio::task::spawn_blocking(move || {
            // Whole after each change, and one change at a time: who comes second is told second.
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.put(&connector.name, target)?;
            connector.tell(target);
            Ok(())
        });
        change.await.map_err(|error| Error::failed("what was asked for ended by a defect").source(error))?
    }
}

/// Returns how others reach who listens on `address`.
fn id_of(address: SocketAddr) -> String {
    if !address.ip().is_unspecified() {
        return address.to_string();
    }
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    format!("{}:{}", host.unwrap_or_else(|| address.ip().to_string()), address.port())
}

/// A pipeline, as Kafka Connect sees it.
#[derive(Debug)]
pub struct Connector {
    name: String,
    flat: Map<String, Value>,
    orders: watch::Sender<Order>,
    seen: Mutex<Seen>,
}

/// What the pipeline has said.
#[derive(Debug, Default)]
struct Seen {
    phase: Phase,
    cluster_id: Option<String>,
    /// The end of what is durable, exclusive, of each partition that it has; `None` until it has run.
    offsets: Option<BTreeMap<(String, i32), Offset>>,
    /// Topics of which data came.
    topics: BTreeSet<String>,
}

impl Connector {
    /// Makes the connector of a pipeline that has not started.
    pub fn new(name: &str, flat: Map<String, Value>, target: Target) -> Self {
        let (orders, _) = watch::channel(Order { target, restarts: 0 });
        Self { name: name.to_owned(), flat, orders, seen: Mutex::default() }
    }

    /// Returns its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns its configuration.
    pub(super) fn flat(&self) -> &Map<String, Value> {
        &self.flat
    }

    /// Returns what it does.
    pub fn phase(&self) -> Phase {
        self.lock().phase.clone()
    }

    /// Returns where each of its partitions goes on; `None` until it has run.
    pub(super) fn offsets(&self) -> Option<BTreeMap<(String, i32), Offset>> {
        self.lock().offsets.clone()
    }

    /// Returns the topics of which data came since they were last forgotten.
    pub(super) fn topics(&self) -> Vec<String> {
        self.lock().topics.iter().cloned().collect()
    }

    /// Forgets of which topics data came.
    pub(super) fn forget_topics(&self) {
        self.lock().topics.clear();
    }

    /// Tells it what to do. Nothing is kept of that.
    pub(crate) fn tell(&self, target: Target) {
        self.order(|order| order.target = target);
    }

    /// Has it begin anew, if it does not rest.
    pub(crate) fn restart(&self) {
        self.order(|order| order.restarts += 1);
    }

    /// Returns what tells its pipeline what to do.
    pub fn orders(&self) -> Orders {
        Orders(self.orders.subscribe())
    }

    /// Hears what the pipeline does.
    pub fn is(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// Hears that both ends of the pipeline are open, and from which cluster it reads.
    pub fn runs(&self, cluster_id: Option<&str>) {
        let mut seen = self.lock();
        seen.phase = Phase::Running;
        seen.cluster_id = cluster_id.map(str::to_owned);
        // Its partitions are opened anew.
        seen.offsets = Some(BTreeMap::new());
    }

    /// Hears that data of a partition came.
    pub fn received(&self, partition: &Partition) {
        let mut seen = self.lock();
        if !seen.topics.contains(&*partition.topic) {
            seen.topics.insert(partition.topic.to_string());
        }
    }

    /// Hears that everything of a partition before `next` is durable.
    pub fn durable(&self, partition: &Partition, next: Offset) {
        let key = (partition.topic.to_string(), partition.index);
        self.lock().offsets.get_or_insert_default().insert(key, next);
    }

    /// Hears that the pipeline has a partition no more. Where it only rests, how far it was stays what it is.
    pub fn closed(&self, partition: &Partition) {
        if self.orders.borrow().target == Target::Started
            && let Some(offsets) = &mut self.lock().offsets
        {
            offsets.remove(&(partition.topic.to_string(), partition.index));
        }
    }

    fn order(&self, change: impl FnOnce(&mut Order)) {
        self.orders.send_if_modified(|order| {
            let before = *order;
            change(order);
            *order != before
        });
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // What was said last, whole after each change.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a pipeline what to do.
#[derive(Debug)]
pub struct Orders(watch::Receiver<Order>);

impl Orders {
    /// Waits until there is something new to do. Cancel safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who could say so.
            std::future::pending::<()>().await;
        }
    }

    /// Returns what is to be done now, and takes note that it is known.
    pub fn target(&mut self) -> Target {
        self.0.borrow_and_update().target
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicId;

    fn partition(index: i32) -> Partition {
        Partition { topic: "orders".into(), topic_id: TopicId::NONE, index }
    }

    #[test]
    fn how_far_it_was_stays_while_it_rests_and_goes_with_a_partition_that_others_have() {
        let connector = Connector::new("orders", Map::new(), Target::Started);
        assert_eq!(connector.offsets(), None, "nobody knows before it has run");
        connector.runs(Some("c"));
        for index in 0..2 {
            connector.durable(&partition(index), 7);
        }
        connector.closed(&partition(1));
        connector.tell(Target::Paused);
        connector.closed(&partition(0));
        assert_eq!(connector.offsets(), Some(BTreeMap::from([(("orders".to_owned(), 0), 7)])));
    }

    #[tokio::test]
    async fn what_was_asked_for_already_is_no_order() {
        let connector = Connector::new("orders", Map::new(), Target::Paused);
        let mut orders = connector.orders();
        assert_eq!(orders.target(), Target::Paused);
        connector.tell(Target::Paused);
        let waited = tokio::time::timeout(std::time::Duration::ZERO, orders.changed());
        assert!(waited.await.is_err());
        connector.restart();
        orders.changed().await;
    }

    #[test]
    fn an_agent_that_listens_everywhere_is_known_by_the_machines_name() {
        assert_eq!(id_of("127.0.0.1:8083".parse().expect("an address")), "127.0.0.1:8083");
        let id = id_of("0.0.0.0:8083".parse().expect("an address"));
        assert!(id.ends_with(":8083") && !id.starts_with("0.0.0.0"), "{id}");
    }
}
