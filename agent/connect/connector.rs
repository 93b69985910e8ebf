//! One connector: what it is configured to do, what it is told, and what its pipeline has said.
//!
//! It is told what to do through [`Orders`], by whoever asks over HTTP, and its pipeline alone says what it does. How it is
//! configured never changes: another configuration is another connector of the same name ([`Connector::behind`]), so that
//! who runs one sees by that which are new. Nothing here is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use tokio::sync::watch;

use super::Flat;
use super::flat::{self, Class};
use super::state::{Order, Phase, Target};
use crate::config;
use crate::record::{Offset, Partition};

/// A pipeline, as Kafka Connect sees it.
#[derive(Debug)]
pub struct Connector {
    name: String,
    /// How it is configured, as it may be shown.
    flat: Flat,
    /// How it was configured over HTTP, as it was sent; `None` for a pipeline of the file.
    given: Option<Flat>,
    class: Class,
    /// What it runs, or why it cannot.
    work: Result<Work, String>,
    orders: watch::Sender<Order>,
    seen: Mutex<Seen>,
}

/// What a connector runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// A pipeline that captures, for as long as it is wanted.
    Capture(Box<config::Pipeline>),
    /// A restore, which is done once.
    Restore(Box<config::Restore>),
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
    /// Makes the connector of a pipeline of the file that has not started; `flat` is shown as its configuration.
    pub fn of_file(pipeline: config::Pipeline, flat: Map<String, Value>, target: Target) -> Self {
        let name = pipeline.name.clone();
        Self::new(&name, Class::ArchiveSink, Ok(Work::Capture(Box::new(pipeline))), (flat, None), target)
    }

    /// Makes a connector that was configured over HTTP, as `given`, and what has come of that.
    pub(super) fn made(name: &str, (given, shown): (Flat, Flat), work: Result<Work, String>, target: Target) -> Self {
        let class = given.get(flat::CLASS).and_then(Value::as_str).and_then(Class::of);
        Self::new(name, class.unwrap_or(Class::ArchiveSink), work, (shown, Some(given)), target)
    }

    fn new(
        name: &str,
        class: Class,
        work: Result<Work, String>,
        (flat, given): (Flat, Option<Flat>),
        target: Target,
    ) -> Self {
        let (orders, _) = watch::channel(Order { target, restarts: 0 });
        let phase = at_rest(target).unwrap_or_else(|| match &work {
            Ok(_) => Phase::Unassigned,
            Err(reason) => Phase::Failed(reason.clone()),
        });
        let seen = Mutex::new(Seen { phase, ..Seen::default() });
        Self { name: name.to_owned(), flat, given, class, work, orders, seen }
    }

    /// Takes the place of another of its name, which closes before this one starts.
    pub(super) fn behind(self, other: &Self) -> Self {
        {
            let mut seen = self.lock();
            seen.topics.clone_from(&other.lock().topics);
            if self.work.is_ok() && other.work.is_ok() && self.orders.borrow().target == Target::Started {
                seen.phase = Phase::Restarting;
            }
        }
        self
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its configuration, as it may be shown.
    pub(super) fn flat(&self) -> &Flat {
        &self.flat
    }

    /// Returns how it was configured over HTTP; `None` for a pipeline of the file.
    pub(super) fn given(&self) -> Option<&Flat> {
        self.given.as_ref()
    }

    /// Returns where its backup is, as it was given over HTTP and may be shown: what a reference in it stands for is in no answer.
    pub fn given_path(&self) -> Option<&str> {
        self.given.as_ref().and_then(|_| self.flat.get("sink.path")).and_then(Value::as_str)
    }

    /// Returns whether it is a pipeline of the file.
    pub fn is_of_file(&self) -> bool {
        self.given.is_none()
    }

    /// Returns what it runs.
    ///
    /// # Errors
    /// Why it cannot run, on one line.
    pub fn work(&self) -> Result<&Work, &str> {
        self.work.as_ref().map_err(String::as_str)
    }

    /// Returns the pipeline that it runs, if that captures.
    pub fn capture(&self) -> Option<&config::Pipeline> {
        match &self.work {
            Ok(Work::Capture(pipeline)) => Some(pipeline.as_ref()),
            _ => None,
        }
    }

    /// Returns its class.
    pub(super) fn class(&self) -> Class {
        self.class
    }

    /// Returns what it does.
    pub fn phase(&self) -> Phase {
        self.lock().phase.clone()
    }

    /// Returns the id of the cluster that it reads from, once it has run.
    pub(super) fn cluster_id(&self) -> Option<String> {
        self.lock().cluster_id.clone()
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
        if let Err(reason) = &self.work {
            // Nobody runs it who could say so.
            self.lock().phase = at_rest(target).unwrap_or_else(|| Phase::Failed(reason.clone()));
        }
    }

    /// Returns what it is to do.
    pub(super) fn target(&self) -> Target {
        self.orders.borrow().target
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
        if self.target() == Target::Started
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

/// Returns what a connector does that is to rest and has not run.
fn at_rest(target: Target) -> Option<Phase> {
    match target {
        Target::Started => None,
        Target::Paused => Some(Phase::Paused),
        Target::Stopped => Some(Phase::Stopped),
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

    fn broken(target: Target) -> Connector {
        Connector::made("orders", (Flat::new(), Flat::new()), Err("no topic is named".into()), target)
    }

    #[test]
    fn how_far_it_was_stays_while_it_rests_and_goes_with_a_partition_that_others_have() {
        let connector = broken(Target::Started);
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
        let connector = broken(Target::Paused);
        let mut orders = connector.orders();
        assert_eq!(orders.target(), Target::Paused);
        connector.tell(Target::Paused);
        let waited = tokio::time::timeout(std::time::Duration::ZERO, orders.changed());
        assert!(waited.await.is_err());
        connector.restart();
        orders.changed().await;
    }

    #[test]
    fn what_cannot_run_says_why_unless_it_is_to_rest() {
        let connector = broken(Target::Started);
        let failed = Phase::Failed("no topic is named".into());
        assert_eq!(connector.phase(), failed);
        connector.tell(Target::Stopped);
        assert_eq!(connector.phase(), Phase::Stopped);
        connector.tell(Target::Started);
        assert_eq!(connector.phase(), failed);
    }

    #[test]
    fn another_configuration_has_the_topics_of_the_one_before_and_not_its_offsets() {
        let old = broken(Target::Started);
        old.runs(Some("c"));
        old.received(&partition(0));
        old.durable(&partition(0), 7);
        let new = broken(Target::Started).behind(&old);
        assert_eq!((new.topics(), new.offsets()), (vec!["orders".to_owned()], None));
    }
}
