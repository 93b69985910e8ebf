//! Batches in transactions, each with how far its sources have come: both become visible to readers of committed data, or
//! neither does.
//!
//! [`Transactions`] are those of an id that was [fenced](super::fence): what an older process had begun is aborted by then.
//! A transaction begins with the first batch that is sent after the last one. Partitions are added to it before anything
//! goes out to them, those that wait at a time in one request. [`commit`](Transactions::commit) waits until everything has
//! landed, commits the progress to a group ([`Places`] says under which keys) and ends the transaction; [`progress`] reads it
//! back, after the fence. Sequences go on from one transaction to the next.
//!
//! We speak the requests of the first version of transactions (Kafka 0.11 to 4), whose epoch is that of the fence: the
//! second one (KIP-890) has a new epoch for each transaction. What that protects from, a request that a broker takes up
//! late, when its transaction is over, is kept away otherwise: where a coordinator's answer was not heard, the epoch is
//! raised once the transaction is over ([KIP-360](https://cwiki.apache.org/confluence/display/KAFKA/KIP-360)), and with it
//! sequences begin anew.
//!
//! Order: partition added, batches, all landed, progress, end. Retry: what passes, for as long as the caller waits, and told
//! as [`Answer::Trouble`]; an end of which nobody knows whether it was heard is asked for again until the coordinator says
//! that it was done, and never taken for done before. Cancel: a commit or an abort that is given up is gone on with by the
//! next one, and nothing is sent until then. Crash: the next fence aborts what was not committed; without one the
//! coordinator does, when the transaction has been open for five minutes (or one, where brokers allow less). Then it has
//! also fenced us off: a transaction is to be committed far more often than that.
//!
//! Progress is kept as a group's offsets are: brokers forget it when nothing was committed for `offsets.retention.minutes`
//! (a week). Whoever knows that something was committed must not take its absence for a beginning.

pub(super) mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages as m;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::coordinator::{Coordinator, Of, STEP_WITHIN, checked, worst};
use super::fence::take;
use super::{Answer, Producer, Settings};
use crate::batch::outgoing::{Identity, Outgoing};
use crate::crash;
use crate::error::{Error, Result};
use crate::kafka::Client;
use crate::kafka::client::groups::CommittedOffset;
use crate::record::Partition;

/// How long a coordinator is asked before the trouble is told.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// Metadata in one TxnOffsetCommit: it becomes one batch in the log of the coordinator, which takes a megabyte by default.
const PIECE_BYTES: usize = 256 << 10;

/// A producer in transactions. `T` comes back with the answer to each batch.
#[derive(Debug)]
pub struct Transactions<T> {
    client: Client,
    id: String,
    coordinator: Arc<Mutex<Coordinator>>,
    group: Coordinator,
    identity: Identity,
    settings: Settings,
    producer: Producer<T>,
    /// The partitions that the producer has open.
    opened: BTreeSet<Partition>,
    /// Those that are in the running transaction.
    within: BTreeSet<Partition>,
    /// What waits for its partition to be added, in order.
    held: Vec<(Partition, Outgoing, T)>,
    /// At most one request to add partitions: which, and what came of it.
    adding: JoinSet<(Vec<Partition>, Result<()>)>,
    /// Batches that are sent or held, and not answered.
    outstanding: usize,
    /// What was committed last, by key.
    committed: BTreeMap<(String, i32), CommittedOffset>,
    /// The trouble with a coordinator that was told last.
    troubled: Option<String>,
    phase: Phase,
}

/// Where the running transaction stands.
#[derive(Debug)]
enum Phase {
    /// None runs, as far as a coordinator knows.
    Idle,
    /// Batches are taken; a coordinator may know of it.
    Running,
    /// As that, and it can only be aborted: why.
    Broken(String),
    /// It is being committed with this progress: the coordinator may have heard that, or not.
    Committing(Vec<CommittedOffset>),
    /// It is being aborted; whether it was broken.
    Aborting(bool),
    /// It was committed, or aborted; sequences are to begin anew before the next one.
    Ended(bool),
}

impl<T: Send + 'static> Transactions<T> {
    /// Starts the transactions of `transactional_id`, whose [`fence`](super::fence) gave `identity`; how far they are is kept
    /// in `group`. Nothing is asked yet.
    pub fn start(client: &Client, transactional_id: &str, group: &str, identity: Identity, settings: Settings) -> Self {
        let id = transactional_id.to_owned();
        Self {
            client: client.clone(),
            coordinator: Arc::new(Mutex::new(Coordinator::new(client, Of::Transactions(id.clone()), TELL_AFTER))),
            group: Coordinator::new(client, Of::Group(group.to_owned()), TELL_AFTER),
            identity,
            settings,
            producer: Producer::start_as(client, (identity, Some(id.clone())), settings),
            id,
            opened: BTreeSet::new(),
            within: BTreeSet::new(),
            held: Vec::new(),
            adding: JoinSet::new(),
            outstanding: 0,
            committed: BTreeMap::new(),
            troubled: None,
            phase: Phase::Idle,
        }
    }

    /// Sends a batch in the running transaction; begins one where none runs. Never waits: the caller bounds what is on its
    /// way, and listens ([`answer`](Self::answer)), because only then partitions are added.
    pub fn send(&mut self, partition: &Partition, batch: Outgoing, token: T) {
        self.outstanding += 1;
        if matches!(self.phase, Phase::Running) && self.within.contains(partition) {
            self.producer.send(partition, batch, token);
        } else {
            self.held.push((partition.clone(), batch, token));
        }
    }

    /// Returns the client that they go over.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the producer whose markers end the running transaction.
    pub fn producer_id(&self) -> i64 {
        self.identity.producer_id
    }

    /// Returns how many batches have no answer yet.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Waits for the next answer, and meanwhile adds partitions to the transaction. After [`Answer::Refused`] the
    /// transaction can only be aborted, and batches of partitions that are not in it yet have no answer.
    /// [`Answer::Fenced`] is the last; its error says whether it is that, or something else that ends it. Cancel: safe,
    /// nothing is lost.
    pub async fn answer(&mut self) -> Answer<T> {
        loop {
            if let Some(answer) = self.next().await {
                return answer;
            }
        }
    }

    /// Waits until all batches of the running transaction have landed, and commits them with `progress`: from then on
    /// readers of committed data see both. Answers that come meanwhile go to `heard`. Without
    /// batches and new progress nothing is done. Cancel: call it again with the same progress.
    ///
    /// # Errors
    /// [`Kind::Fenced`](crate::error::Kind::Fenced) when a younger process has taken over, or the transaction was open for
    /// too long: after this alone nobody knows whether it was committed; [`progress`] tells, after the next fence.
    /// [`Kind::Failed`](crate::error::Kind::Failed) when a batch was refused, or a topic is gone or forbidden: nothing of the
    /// transaction is committed, and it is to be aborted.
    pub async fn commit(&mut self, progress: &[CommittedOffset], heard: &mut impl FnMut(Answer<T>)) -> Result<()> {
        if self.finish(heard).await? == Some(false) {
            return Err(self.not_that("was aborted"));
        }
        while self.outstanding > 0 && !matches!(self.phase, Phase::Broken(_)) {
            let answer = self.answer().await;
            hear(answer, heard)?;
        }
        if let Phase::Broken(why) = &self.phase {
            return Err(self.not_that(&format!("cannot be committed: {why}")));
        }
        let is_new = |of: &CommittedOffset| self.committed.get(&key(of)) != Some(of);
        if matches!(self.phase, Phase::Idle) && !progress.iter().any(is_new) {
            return Ok(());
        }
        // All of it: brokers forget each key by itself.
        let progress = progress.to_vec();
        crash::point("transaction-landed", &self.id);
        self.phase = Phase::Running;
        self.keep(&progress, heard).await?;
        crash::point("transaction-kept", &self.id);
        self.phase = Phase::Committing(progress);
        let _ = self.finish(heard).await?;
        crash::point("transaction-committed", &self.id);
        Ok(())
    }

    /// Aborts the running transaction: readers of committed data see nothing of it. What was not sent yet is given up, its
    /// tokens with it; what was sent is waited for, so that nothing of it lands behind the end. Cancel: call it again.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); [`Kind::Failed`](crate::error::Kind::Failed) too where a commit was given up before and
    /// is done now.
    pub async fn abort(&mut self, heard: &mut impl FnMut(Answer<T>)) -> Result<()> {
        self.outstanding -= self.held.len();
        self.held.clear();
        match self.finish(heard).await? {
            Some(true) => return Err(self.not_that("was committed")),
            Some(false) => return Ok(()),
            None => {}
        }
        while self.outstanding > 0 || !self.adding.is_empty() {
            if let Some(answer) = self.next().await {
                hear(answer, heard)?;
            }
        }
        match self.phase {
            Phase::Idle => return Ok(()),
            _ => self.phase = Phase::Aborting(matches!(self.phase, Phase::Broken(_))),
        }
        self.finish(heard).await.map(drop)
    }

    /// Waits for something: an answer, or that partitions were added and there is nothing to tell.
    async fn next(&mut self) -> Option<Answer<T>> {
        self.begin_adding();
        tokio::select! {
            answer = self.producer.answer() => Some(self.note(answer)),
            Some(added) = self.adding.join_next() => {
                let (partitions, added) = added.expect("nobody aborts it, and it does not panic");
                self.added(partitions, added)
            }
        }
    }

    fn note(&mut self, answer: Answer<T>) -> Answer<T> {
        match &answer {
            Answer::Landed { .. } => self.outstanding -= 1,
            Answer::Refused { error, batches, .. } => {
                self.outstanding -= batches.len();
                self.phase = Phase::Broken(error.to_string());
            }
            Answer::Fenced(_) | Answer::Trouble { .. } => {}
        }
        answer
    }

    /// Begins to add the partitions that are waited for, unless some are being added: those that come meanwhile go together.
    fn begin_adding(&mut self) {
        if self.held.is_empty() || !self.adding.is_empty() || !matches!(self.phase, Phase::Idle | Phase::Running) {
            return;
        }
        self.phase = Phase::Running;
        let new: BTreeSet<Partition> = self.held.iter().map(|(partition, ..)| partition.clone()).collect();
        let (coordinator, identity) = (self.coordinator.clone(), self.identity);
        let add = async move {
            let added = coordinator.lock().await.add(identity, &new.iter().collect::<Vec<_>>()).await;
            (new.into_iter().collect(), added)
        };
        drop(self.adding.spawn(add));
    }

    /// Sends what waited for partitions that are in the transaction now, or returns why they are not.
    fn added(&mut self, partitions: Vec<Partition>, added: Result<()>) -> Option<Answer<T>> {
        match added {
            Err(error) if error.retryable() => return self.trouble(&error),
            Err(error) => return Some(Answer::Fenced(error)),
            Ok(()) => crash::point("transaction-added", &self.id),
        }
        for partition in partitions {
            if self.opened.insert(partition.clone()) {
                self.producer.open(&partition, 0);
            }
            let _ = self.within.insert(partition);
        }
        let (ready, held): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|(of, ..)| self.within.contains(of));
        self.held = held;
        for (partition, batch, token) in ready {
            self.producer.send(&partition, batch, token);
        }
        self.right_again()
    }

    /// Has `progress` be part of the transaction.
    async fn keep(&mut self, progress: &[CommittedOffset], heard: &mut impl FnMut(Answer<T>)) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.try_keep(progress, began).await {
                Ok(()) => break,
                Err(error) if error.retryable() => self.trouble(&error).into_iter().for_each(&mut *heard),
                Err(error) => return Err(error),
            }
            sleep(self.client.backoff().wait()).await;
        }
        self.right_again().into_iter().for_each(heard);
        Ok(())
    }

    async fn try_keep(&mut self, progress: &[CommittedOffset], began: Instant) -> Result<()> {
        self.check_topics(progress, began).await?;
        if progress.is_empty() {
            return Ok(());
        }
        let mut coordinator = self.coordinator.lock().await;
        let identity = self.identity;
        let request = m::AddOffsetsToTxnRequest::default()
            .with_transactional_id(coordinator.transactional_id())
            .with_producer_id(identity.producer_id.into())
            .with_producer_epoch(identity.epoch)
            .with_group_id(self.group.group_id());
        let added = coordinator.step("AddOffsetsToTxn", 0..=3, &request, |answer| checked(answer.error_code)).await;
        drop(added.map_err(|error| error.with("group", self.group.key()))?);
        let mut from = 0;
        while from < progress.len() {
            let mut bytes = 0;
            let piece = progress[from..].iter().take_while(|of| {
                bytes += of.metadata.len() + of.topic.len();
                bytes <= PIECE_BYTES
            });
            // One alone is far smaller.
            let next = from + piece.count().max(1);
            let request = m::TxnOffsetCommitRequest::default()
                .with_transactional_id(coordinator.transactional_id())
                .with_group_id(self.group.group_id())
                .with_producer_id(identity.producer_id.into())
                .with_producer_epoch(identity.epoch)
                .with_topics(progress[from..next].chunk_by(|a, b| a.topic == b.topic).map(offsets_of).collect());
            let check = |answer: &m::TxnOffsetCommitResponse| {
                worst(answer.topics.iter().flat_map(|topic| &topic.partitions).map(|told| told.error_code))
            };
            drop(self.group.step("TxnOffsetCommit", 0..=4, &request, check).await?);
            from = next;
        }
        Ok(())
    }

    /// Makes sure that every topic of the transaction is the one that was meant: batches go to their names, which may stand
    /// for others by now.
    async fn check_topics(&self, progress: &[CommittedOffset], began: Instant) -> Result<()> {
        let names = self.within.iter().map(|partition| &*partition.topic);
        let names: BTreeSet<&str> = names.chain(progress.iter().map(|of| of.topic.as_str())).collect();
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let metadata = self.client.metadata(Some(&names)).await?;
        let there: BTreeMap<&str, _> =
            metadata.topics.iter().filter(|topic| topic.code == 0).map(|topic| (topic.name.as_str(), topic)).collect();
        let is_other = |of: &&Partition| {
            there.get(&*of.topic).is_some_and(|topic| {
                !of.topic_id.is_none() && !topic.topic_id.is_none() && topic.topic_id != of.topic_id
            })
        };
        let what = match self.within.iter().find(is_other) {
            Some(of) => format!("topic \"{}\" is not the one of id {} any more", of.topic, of.topic_id),
            None => match names.iter().find(|name| !there.contains_key(name.as_str())) {
                Some(name) => format!("topic \"{name}\" is not there any more, or not to be seen"),
                None => return Ok(()),
            },
        };
        // Brokers learn of topics one after the other.
        let is_settled = began.elapsed() >= self.settings.settle;
        let error = if is_settled { Error::failed(what) } else { Error::transient(what) };
        Err(error.hint("nothing of the transaction is committed; start anew when the topic is as it should be"))
    }

    /// Goes on with an end that was begun, until it is sure; returns whether that was a commit, where there was one.
    async fn finish(&mut self, heard: &mut impl FnMut(Answer<T>)) -> Result<Option<bool>> {
        if let Phase::Committing(_) | Phase::Aborting(_) = self.phase {
            let committed = matches!(self.phase, Phase::Committing(_));
            loop {
                let ended = self.coordinator.lock().await.end(self.identity, committed).await;
                match ended {
                    Ok(()) => break,
                    Err(error) if error.retryable() => self.trouble(&error).into_iter().for_each(&mut *heard),
                    Err(error) => return Err(error),
                }
            }
            self.right_again().into_iter().for_each(&mut *heard);
            self.within.clear();
            let unanswered = self.group.is_unanswered() || self.coordinator.lock().await.is_unanswered();
            // What was refused may have landed: nobody knows which sequence comes next.
            let anew = unanswered || matches!(self.phase, Phase::Aborting(true));
            let next = if anew { Phase::Ended(committed) } else { Phase::Idle };
            if let Phase::Committing(progress) = std::mem::replace(&mut self.phase, next) {
                self.committed.extend(progress.into_iter().map(|of| (key(&of), of)));
            }
            if !anew {
                return Ok(Some(committed));
            }
        }
        let Phase::Ended(committed) = self.phase else { return Ok(None) };
        self.begin_anew(heard).await?;
        Ok(Some(committed))
    }

    /// Raises the epoch: what a coordinator was asked in the old one and has not answered is not done any more.
    async fn begin_anew(&mut self, heard: &mut impl FnMut(Answer<T>)) -> Result<()> {
        loop {
            let raised = {
                let mut coordinator = self.coordinator.lock().await;
                let raised = take(&mut coordinator, Some(self.identity)).await;
                raised.map_err(|failure| coordinator.failed("InitProducerId", failure))
            };
            match raised {
                Ok(identity) => self.identity = identity,
                Err(error) if error.retryable() => {
                    self.trouble(&error).into_iter().for_each(&mut *heard);
                    continue;
                }
                Err(error) => return Err(error),
            }
            break;
        }
        self.right_again().into_iter().for_each(heard);
        self.coordinator.lock().await.forget_unanswered();
        self.group.forget_unanswered();
        self.opened.clear();
        self.producer = Producer::start_as(&self.client, (self.identity, Some(self.id.clone())), self.settings);
        self.phase = Phase::Idle;
        Ok(())
    }

    /// Tells of trouble with a coordinator, unless that was told last.
    fn trouble(&mut self, error: &Error) -> Option<Answer<T>> {
        let reason = error.to_string();
        let is_new = self.troubled.as_ref() != Some(&reason);
        self.troubled = Some(reason.clone());
        is_new.then(|| Answer::Trouble { subject: self.subject(), reason: Some(reason) })
    }

    fn right_again(&mut self) -> Option<Answer<T>> {
        let was = self.troubled.take();
        was.map(|_| Answer::Trouble { subject: self.subject(), reason: None })
    }

    fn subject(&self) -> String {
        format!("transaction of {}", self.id)
    }

    fn not_that(&self, what: &str) -> Error {
        Error::failed(format!("the transaction of \"{}\" {what}", self.id))
            .hint("go on from the progress that was committed")
    }
}

/// Returns what `group` has committed, of transactions that are decided; those that are not are waited for. To be asked
/// after the fence.
///
/// # Errors
/// [`Kind::Transient`](crate::error::Kind::Transient) when the coordinator does not get there in time;
/// [`Kind::Failed`](crate::error::Kind::Failed), with what to do, without the authority, and before Kafka 2.5.
pub async fn progress(client: &Client, group: &str) -> Result<Vec<CommittedOffset>> {
    let mut coordinator = Coordinator::patient(client, Of::Group(group.to_owned()), STEP_WITHIN);
    let request = m::OffsetFetchRequest::default()
        .with_group_id(coordinator.group_id())
        .with_topics(None)
        .with_require_stable(true);
    let check = |answer: &m::OffsetFetchResponse| {
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        worst(partitions.map(|told| told.error_code).chain([answer.error_code]))
    };
    // The only one that waits and asks for one group; all that can wait have it.
    let answer = coordinator.step("OffsetFetch", 7..=7, &request, check).await?;
    let told = answer.topics.into_iter().flat_map(|topic| {
        let name = topic.name.to_string();
        topic.partitions.into_iter().map(move |told| CommittedOffset {
            topic: name.clone(),
            partition: told.partition_index,
            offset: told.committed_offset,
            metadata: told.metadata.map(|metadata| metadata.to_string()).unwrap_or_default(),
        })
    });
    let mut told: Vec<_> = told.filter(|told| told.offset >= 0).collect();
    told.sort_unstable();
    Ok(told)
}

/// Hands an answer on, but for the one that is the last.
fn hear<T>(answer: Answer<T>, heard: &mut impl FnMut(Answer<T>)) -> Result<()> {
    match answer {
        Answer::Fenced(error) => Err(error),
        answer => {
            heard(answer);
            Ok(())
        }
    }
}

fn key(of: &CommittedOffset) -> (String, i32) {
    (of.topic.clone(), of.partition)
}

fn offsets_of(of: &[CommittedOffset]) -> TxnOffsetCommitRequestTopic {
    let name = of.first().map(|first| first.topic.clone()).unwrap_or_default();
    let partition = |of: &CommittedOffset| {
        TxnOffsetCommitRequestPartition::default()
            .with_partition_index(of.partition)
            .with_committed_offset(of.offset)
            .with_committed_metadata(Some(StrBytes::from_string(of.metadata.clone())))
    };
    TxnOffsetCommitRequestTopic::default()
        .with_name(StrBytes::from_string(name).into())
        .with_partitions(of.iter().map(partition).collect())
}

#[cfg(test)]
mod tests;
