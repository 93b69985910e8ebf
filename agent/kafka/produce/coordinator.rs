//! The coordinator of a transactional id or of a group: found, asked, and asked again until it agrees.
//!
//! Retry: what passes (a connection that breaks, a coordinator that moves, loads, or is busy with the transaction before),
//! with waits, up to a bound for each step. A patient one waits without a bound where the coordinator itself does, for
//! partitions that lack a leader or replicas, and logs what it waits for. Cancel: safe at any point; what was asked may
//! have been done.

use std::ops::RangeInclusive;
use std::time::Duration;

use kafka_protocol::messages as m;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::add_partitions_to_txn_response::AddPartitionsToTxnTopicResult;
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::time::{Instant, sleep};

use super::verdict;
use crate::backoff::Backoff;
use crate::batch::outgoing::Identity;
use crate::error::{Error, Result};
use crate::kafka::wire::{Connection, Throttled};
use crate::kafka::{Client, code_name};
use crate::record::Partition;

/// How long a step may take: shorter than the shortest transaction may be open, or the coordinator would end it under us.
pub(super) const STEP_WITHIN: Duration = Duration::from_secs(45);

/// The longest wait between two attempts: markers are written in milliseconds.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait for the transaction before to be over: each second transaction finds it busy.
const BUSY_WAIT: Duration = Duration::from_millis(20);

/// A transaction that is not over by then waits for something else than its markers' way there and back.
const BUSY_WITHIN: Duration = Duration::from_secs(1);

/// How long a patient one tries before it says so.
const SAID_AFTER: Duration = Duration::from_secs(2);

/// CONCURRENT_TRANSACTIONS.
const BUSY: i16 = 51;

/// INVALID_TXN_STATE.
const INVALID_STATE: i16 = 48;

/// INVALID_PRODUCER_EPOCH.
const OTHER_EPOCH: i16 = 47;

/// PRODUCER_FENCED.
const OTHER_PRODUCER: i16 = 90;

/// UNKNOWN_PRODUCER_ID, by which librdkafka's mock cluster says PRODUCER_FENCED.
const UNKNOWN_PRODUCER: i16 = 59;

/// A producer id that no coordinator has given to anybody.
const NOBODY: i64 = i64::MAX;

/// TRANSACTIONAL_ID_AUTHORIZATION_FAILED.
pub(super) const FORBIDDEN: i16 = 53;

/// INVALID_TRANSACTION_TIMEOUT.
pub(super) const TIMEOUT_TOO_LONG: i16 = 50;

/// Partitions in one request: thousands in one make a record that the coordinator's log may not take.
const PARTITIONS_PER_REQUEST: usize = 500;

/// What is coordinated.
#[derive(Debug, Clone)]
pub(super) enum Of {
    /// The transactions of an id.
    Transactions(String),
    /// A group.
    Group(String),
}

/// A coordinator.
#[derive(Debug)]
pub(super) struct Coordinator {
    client: Client,
    of: Of,
    /// How long a step may take.
    within: Duration,
    is_patient: bool,
    /// The connection to it, of its own: that of the client may ask twice, and does not say so.
    connection: Option<Connection>,
    /// Whether something that it was asked has no answer: it may yet be done, much later.
    unanswered: bool,
}

/// Why a step has not succeeded: Kafka's error code, that the cluster has no such call, or what is wrong with the connection.
#[derive(Debug)]
pub(super) enum Failure {
    Code(i16),
    Unsupported(Error),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// What came of a step.
pub(super) type Step<T> = std::result::Result<T, Failure>;

impl Coordinator {
    /// Makes one that is not found yet.
    pub(super) fn new(client: &Client, of: Of, within: Duration) -> Self {
        Self { client: client.clone(), of, within, is_patient: false, connection: None, unanswered: false }
    }

    /// Makes one that waits for the transaction before to be over for as long as that takes, and logs what it waits for.
    pub(super) fn patient(client: &Client, of: Of, within: Duration) -> Self {
        Self { is_patient: true, ..Self::new(client, of, within) }
    }

    /// Returns whether something that it was asked has no answer, and may yet be done.
    pub(super) fn is_unanswered(&self) -> bool {
        self.unanswered
    }

    /// Forgets that: the epoch that it was asked in is over.
    pub(super) fn forget_unanswered(&mut self) {
        self.unanswered = false;
    }

    /// Returns the id whose transactions are coordinated, or the group.
    pub(super) fn key(&self) -> &str {
        match &self.of {
            Of::Transactions(key) | Of::Group(key) => key,
        }
    }

    /// Returns the id as a request has it.
    pub(super) fn transactional_id(&self) -> m::TransactionalId {
        StrBytes::from_string(self.key().to_owned()).into()
    }

    /// Returns the group as a request has it.
    pub(super) fn group_id(&self) -> m::GroupId {
        StrBytes::from_string(self.key().to_owned()).into()
    }

    /// Takes the id, and lets its transactions be open for that long: whoever had it is fenced off at the coordinator, and its
    /// transaction aborted. Where it is `ours`, and only as long as it is, its epoch is raised.
    pub(super) async fn init(&mut self, ours: Option<Identity>, timeout: Duration) -> Step<Identity> {
        let mut request = m::InitProducerIdRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_transaction_timeout_ms(timeout.as_millis() as i32);
        let mut versions = 0..=1;
        if let Some(ours) = ours {
            request = request.with_producer_id(ours.producer_id.into()).with_producer_epoch(ours.epoch);
            // Older ones would raise it for whoever asks.
            versions = 3..=4;
        }
        let answer = self.try_step("InitProducerId", versions, &request, |answer| checked(answer.error_code)).await?;
        Ok(Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch })
    }

    /// Asks whether the id may be taken, and leaves it to whoever has it, transaction and all: what is asked is to raise the
    /// epoch of a producer that is nobody's. Brokers that have no such question (before Kafka 2.5) tell it only to who takes
    /// the id.
    pub(super) async fn may_init(&mut self, timeout: Duration) -> Step<()> {
        let request = m::InitProducerIdRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_transaction_timeout_ms(timeout.as_millis() as i32)
            .with_producer_id(NOBODY.into())
            .with_producer_epoch(0);
        let check = |answer: &m::InitProducerIdResponse| match answer.error_code {
            OTHER_EPOCH | OTHER_PRODUCER | UNKNOWN_PRODUCER => Ok(()),
            code => checked(code),
        };
        match self.try_step("InitProducerId", 3..=4, &request, check).await {
            Err(Failure::Unsupported(_)) => self.init(None, timeout).await.map(drop),
            asked => asked.map(drop),
        }
    }

    /// Adds partitions, in order, to the running transaction.
    pub(super) async fn add(&mut self, identity: Identity, partitions: &[&Partition]) -> Result<()> {
        let topic = |partitions: &[&Partition]| {
            let name = partitions.first().map(|first| first.topic.to_string()).unwrap_or_default();
            AddPartitionsToTxnTopic::default()
                .with_name(StrBytes::from_string(name).into())
                .with_partitions(partitions.iter().map(|partition| partition.index).collect())
        };
        for piece in partitions.chunks(PARTITIONS_PER_REQUEST) {
            let topics = piece.chunk_by(|a, b| a.topic == b.topic).map(topic).collect();
            let request = m::AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(self.transactional_id())
                .with_v3_and_below_producer_id(identity.producer_id.into())
                .with_v3_and_below_producer_epoch(identity.epoch)
                .with_v3_and_below_topics(topics);
            let worst = |answer: &m::AddPartitionsToTxnResponse| worst_of(&answer.results_by_topic_v3_and_below);
            drop(self.step("AddPartitionsToTxn", 0..=3, &request, worst).await?);
        }
        Ok(())
    }

    /// Ends the running transaction.
    pub(super) async fn end(&mut self, identity: Identity, committed: bool) -> Result<()> {
        let request = m::EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(identity.producer_id.into())
            .with_producer_epoch(identity.epoch)
            .with_committed(committed);
        let check = |answer: &m::EndTxnResponse| match answer.error_code {
            // It never heard of what is to be aborted.
            INVALID_STATE if !committed => Ok(()),
            code => checked(code),
        };
        self.step("EndTxn", 0..=4, &request, check).await.map(drop)
    }

    /// As [`try_step`](Self::try_step), with an error for people.
    pub(super) async fn step<R>(
        &mut self,
        name: &str,
        ours: RangeInclusive<i16>,
        request: &R,
        check: impl Fn(&R::Response) -> Step<()>,
    ) -> Result<R::Response>
    where
        R: Request,
        R::Response: Throttled,
    {
        self.try_step(name, ours, request, check).await.map_err(|failure| self.failed(name, failure))
    }

    /// Asks the coordinator until it agrees, or does not for a reason that stays.
    pub(super) async fn try_step<R>(
        &mut self,
        name: &str,
        ours: RangeInclusive<i16>,
        request: &R,
        check: impl Fn(&R::Response) -> Step<()>,
    ) -> Step<R::Response>
    where
        R: Request,
        R::Response: Throttled,
    {
        let mut backoff = self.backoff();
        let began = Instant::now();
        let (mut deadline, mut said) = (began + self.within, String::new());
        loop {
            let failure = match self.ask(ours.clone(), request).await {
                Ok(answer) => match check(&answer) {
                    Ok(()) => return Ok(answer),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let is_busy = matches!(failure, Failure::Code(BUSY));
            let mut wait = backoff.wait();
            if is_busy && began.elapsed() < BUSY_WITHIN {
                wait = wait.min(BUSY_WAIT);
            }
            if self.is_patient && is_busy {
                // It answers, and waits itself.
                deadline = Instant::now() + self.within;
            }
            if !passes(&failure) || Instant::now() + wait > deadline {
                return Err(failure);
            }
            if self.is_patient && began.elapsed() >= SAID_AFTER {
                self.say(name, &failure, &mut said);
            }
            // A topic is new, the transaction before is not over, an offset is not decided: it is the right one.
            if !matches!(failure, Failure::Code(3 | BUSY | 88)) {
                self.connection = None;
            }
            sleep(wait).await;
        }
    }

    /// Logs why a step is tried again, unless that was said before.
    fn say(&self, name: &str, failure: &Failure, said: &mut String) {
        let why = match failure {
            Failure::Code(code) => self.said(name, *code),
            Failure::Error(error) | Failure::Unsupported(error) => error.to_string(),
        };
        if *said != why {
            tracing::warn!("{why}; trying again");
            *said = why;
        }
    }

    /// Says what a coordinator means by an error code.
    fn said(&self, name: &str, code: i16) -> String {
        let (of, key) = (self.kind(), self.key());
        match code {
            BUSY => format!(
                "{of} \"{key}\" waits for partitions that lack a leader or replicas in sync (`min.insync.replicas`): the \
                 transaction before is not over, {name} is answered {}",
                code_name(code)
            ),
            _ => format!("{name} for {of} \"{key}\" was refused: {}", code_name(code)),
        }
    }

    fn kind(&self) -> &'static str {
        match self.of {
            Of::Transactions(_) => "transactional id",
            Of::Group(_) => "group",
        }
    }

    /// Returns the waits between attempts.
    pub(super) fn backoff(&self) -> Backoff {
        let properties = self.client.properties();
        Backoff::new(properties.backoff, properties.backoff_max.min(LONGEST_WAIT))
    }

    async fn ask<R>(&mut self, ours: RangeInclusive<i16>, request: &R) -> Step<R::Response>
    where
        R: Request,
        R::Response: Throttled,
    {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.client.connect(&self.find().await?).await?,
        };
        let Some(version) = connection.version::<R>(ours) else {
            let what = format!("broker {} is too old for transactions with progress", connection.broker());
            return Err(Failure::Unsupported(Error::failed(what).hint("Kafka 2.5 at least")));
        };
        // So it stays where the caller waits no longer.
        let before = std::mem::replace(&mut self.unanswered, true);
        let answer = connection.call(request, version).await?;
        self.unanswered = before;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Finds the coordinator.
    pub(super) async fn find(&self) -> Step<String> {
        let key = StrBytes::from_string(self.key().to_owned());
        let request = m::FindCoordinatorRequest::default().with_key_type(match self.of {
            Of::Group(_) => 0,
            Of::Transactions(_) => 1,
        });
        let many = request.clone().with_coordinator_keys(vec![key.clone()]);
        if let Some(answer) = self.client.ask_any(4..=6, &many).await? {
            let told = answer.coordinators.into_iter().next().ok_or(Failure::Code(15))?;
            checked(told.error_code)?;
            return Ok(address(&told.host, told.port));
        }
        let answer = self.client.ask_any(1..=3, &request.with_key(key)).await?;
        let unknown = || Error::failed("the cluster has no version of FindCoordinator that we know");
        let answer = answer.ok_or_else(|| Failure::Unsupported(unknown()))?;
        checked(answer.error_code)?;
        Ok(address(&answer.host, answer.port))
    }

    /// Makes an error for people of a failure of the request of that name.
    pub(super) fn failed(&self, name: &str, failure: Failure) -> Error {
        let (what, id) = (self.kind(), self.key());
        let code = match failure {
            Failure::Error(error) | Failure::Unsupported(error) => return error.with(what, id),
            Failure::Code(code) => code,
        };
        if matches!(code, OTHER_EPOCH | OTHER_PRODUCER) {
            return verdict::fenced(&format!("the coordinator of {what} \"{id}\""), code);
        }
        let said = self.said(name, code);
        let error = if passes(&Failure::Code(code)) { Error::transient(said) } else { Error::failed(said) };
        error.hint(self.hint(code))
    }

    fn hint(&self, code: i16) -> String {
        let id = self.key();
        match code {
            FORBIDDEN => format!("allow WRITE and DESCRIBE on transactional id \"{id}\" for this principal"),
            30 => "allow READ on the group for this principal".to_owned(),
            29 => match self.of {
                Of::Transactions(_) => "allow WRITE on the target topics for this principal".to_owned(),
                Of::Group(_) => "allow READ on the target topics for this principal".to_owned(),
            },
            31 => "allow IDEMPOTENT_WRITE on the cluster for this principal".to_owned(),
            TIMEOUT_TOO_LONG => "raise `transaction.max.timeout.ms` of the brokers to 60000".to_owned(),
            3 => "the target topics are not there; make them first".to_owned(),
            // OFFSET_METADATA_TOO_LARGE
            12 => "leave `offset.metadata.max.bytes` of the brokers at 4096".to_owned(),
            // INVALID_PRODUCER_ID_MAPPING
            INVALID_STATE | 49 => {
                "the coordinator has ended the transaction, or forgotten the id: start again".to_owned()
            }
            BUSY => "see to the brokers of the target topics".to_owned(),
            _ => "try again when the brokers' logs say that they are well".to_owned(),
        }
    }
}

/// Returns whether the same may succeed in a moment: a connection was lost, the coordinator loads, has moved, or is busy
/// with the transaction before; a topic was made a moment ago; an offset is committed and its marker not written yet.
pub(super) fn passes(failure: &Failure) -> bool {
    match failure {
        Failure::Error(error) => error.retryable(),
        Failure::Unsupported(_) => false,
        // OPERATION_NOT_ATTEMPTED (55) stands beside the code that is the cause.
        Failure::Code(code) => matches!(*code, 3 | 7 | 13..=16 | BUSY | 55 | 88 | 89),
    }
}

/// Returns what an error code makes of a step.
pub(super) fn checked(code: i16) -> Step<()> {
    if code == 0 { Ok(()) } else { Err(Failure::Code(code)) }
}

/// Finds of several codes the one that says most: one that stays, else one that passes.
pub(super) fn worst(codes: impl Iterator<Item = i16>) -> Step<()> {
    let codes = codes.filter(|code| *code != 0);
    checked(codes.min_by_key(|code| (passes(&Failure::Code(*code)), *code == 55)).unwrap_or(0))
}

fn worst_of(topics: &[AddPartitionsToTxnTopicResult]) -> Step<()> {
    worst(topics.iter().flat_map(|topic| &topic.results_by_partition).map(|told| told.partition_error_code))
}

/// Returns an address; an IPv6 one needs its brackets back.
fn address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey as Key, RDKafkaRespErr as Code};

    use super::*;
    use crate::kafka::Properties;

    #[tokio::test]
    async fn a_patient_one_waits_for_partitions_without_replicas_for_as_long_as_it_takes() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        let map = [("bootstrap.servers".to_owned(), cluster.bootstrap_servers())];
        let client = Client::new(Properties::new(map.into()).expect("good properties"));
        let (of, within) = (Of::Transactions("restore-1".to_owned()), Duration::from_millis(100));
        let busy = [Code::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS; 20];
        let mut patient = Coordinator::patient(&client, of.clone(), within);
        cluster.request_errors(Key::InitProducerId, &busy);
        patient.init(None, STEP_WITHIN).await.expect("the partitions are there again");
        let mut other = Coordinator::new(&client, of, within);
        cluster.request_errors(Key::InitProducerId, &busy);
        let failure = other.init(None, STEP_WITHIN).await.expect_err("it has its bound");
        let text = other.failed("InitProducerId", failure).to_string();
        let words = ["\"restore-1\" waits for partitions", "`min.insync.replicas`", "see to the brokers"];
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}
