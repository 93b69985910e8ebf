//! The fence: takes the place of whoever produced under a transactional id before.
//!
//! A transaction over all target partitions is begun and aborted. Its markers carry the newest epoch into every
//! partition, also into those that were never written: from then on a broker refuses what an older process sends,
//! though it sends outside of transactions. A plain InitProducerId would not do that. Then the epoch is raised once more:
//! the producer begins with sequence 0.
//!
//! Order: nothing is sent before every marker is written, as the last InitProducerId tells. Retry: what passes, with
//! waits, up to a bound for each step; all steps may be done twice. Cancel, crash: the coordinator ends the transaction
//! after a minute; the next fence does the same anew.

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
use crate::kafka::wire::Throttled;
use crate::kafka::{Client, code_name};
use crate::record::Partition;

/// How long the coordinator lets the transaction be open. It need only be longer than the steps within it.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a step may take: shorter than that, or the coordinator would end the transaction under us.
const STEP_WITHIN: Duration = Duration::from_secs(45);

/// Partitions in one request: thousands in one make a record that the coordinator's log may not take.
const PARTITIONS_PER_REQUEST: usize = 500;

/// The longest wait between two attempts: markers are written in milliseconds.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The first wait while the coordinator is busy with the transaction before, ours as a rule. With the wait after a failure,
/// every restore would begin a tenth of a second later; with less, a slow coordinator would be asked in vain.
const FIRST_WAIT: Duration = Duration::from_millis(10);

const CONCURRENT_TRANSACTIONS: i16 = 51;

const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;

/// FindCoordinator: the key is a transactional id.
const KEY_TRANSACTION: i8 = 1;

/// Fences off whoever produced under `transactional_id` before, in all of `partitions`, and returns whom to produce as,
/// outside of transactions and from sequence 0 on.
///
/// # Errors
/// [`Kind::Fenced`](crate::error::Kind::Fenced) when somebody younger fences us meanwhile;
/// [`Kind::Failed`](crate::error::Kind::Failed), with what to do, without the authority;
/// [`Kind::Transient`](crate::error::Kind::Transient) when the cluster does not get there in time.
pub async fn fence(client: &Client, transactional_id: &str, partitions: &[Partition]) -> Result<Identity> {
    let mut fence = Fence { client, transactional_id, coordinator: None };
    let identity = fence.init().await?;
    let mut partitions: Vec<&Partition> = partitions.iter().collect();
    partitions.sort_unstable();
    partitions.dedup_by(|a, b| (&a.topic, a.index) == (&b.topic, b.index));
    if partitions.is_empty() {
        return Ok(identity);
    }
    for piece in partitions.chunks(PARTITIONS_PER_REQUEST) {
        fence.add(identity, piece).await?;
    }
    fence.abort(identity).await?;
    fence.init().await
}

/// Returns why nobody can be fenced off under `transactional_id`: we may not use it, or the cluster has no transactions.
/// Asked of the coordinator without changing anything; and, where the place is to be `taken`, by taking it, which fences
/// nobody off yet.
///
/// # Errors
/// As [`fence`].
pub async fn hindrance(client: &Client, transactional_id: &str, taken: bool) -> Result<Option<String>> {
    let mut fence = Fence { client, transactional_id, coordinator: None };
    let deadline = Instant::now() + STEP_WITHIN;
    let mut backoff = fence.backoff();
    let failure = loop {
        let failure = match fence.find().await {
            Ok(_) if taken => match fence.try_init().await {
                Ok(_) => return Ok(None),
                Err(failure) => failure,
            },
            Ok(_) => return Ok(None),
            Err(failure) => failure,
        };
        let wait = backoff.wait();
        if !passes(&failure) || Instant::now() + wait > deadline {
            break failure;
        }
        sleep(wait).await;
    };
    match failure {
        Failure::Code(code @ TRANSACTIONAL_ID_AUTHORIZATION_FAILED) => {
            let what = format!("transactional id \"{transactional_id}\" may not be used: {}", code_name(code));
            Ok(Some(format!("{what}; allow WRITE and DESCRIBE on it for this principal")))
        }
        Failure::Error(error) if !error.retryable() => Ok(Some(error.to_string())),
        failure => Err(fence.failed("FindCoordinator", failure)),
    }
}

/// Returns whom to produce as where nobody is to be fenced off: idempotent, from sequence 0 on.
///
/// # Errors
/// As [`fence`].
pub async fn unfenced(client: &Client) -> Result<Identity> {
    let request = m::InitProducerIdRequest::default().with_transactional_id(None);
    let mut backoff = client.backoff();
    let deadline = Instant::now() + STEP_WITHIN;
    loop {
        let answer = client.ask_any(0..=1, &request).await?;
        let answer =
            answer.ok_or_else(|| Error::failed("the cluster has no idempotent producers").hint("Kafka 0.11"))?;
        let code = answer.error_code;
        if code == 0 {
            return Ok(Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch });
        }
        if !passes(&Failure::Code(code)) || Instant::now() >= deadline {
            return Err(Error::failed(format!("InitProducerId was refused: {}", code_name(code)))
                .hint("allow IDEMPOTENT_WRITE on the cluster for this principal"));
        }
        sleep(backoff.wait()).await;
    }
}

struct Fence<'a> {
    client: &'a Client,
    transactional_id: &'a str,
    /// The address of the id's coordinator, where it is known.
    coordinator: Option<String>,
}

/// Why a step has not succeeded: Kafka's error code, or what is wrong with the connection.
enum Failure {
    Code(i16),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

type Step<T> = std::result::Result<T, Failure>;

impl Fence<'_> {
    async fn init(&mut self) -> Result<Identity> {
        self.try_init().await.map_err(|failure| self.failed("InitProducerId", failure))
    }

    async fn try_init(&mut self) -> Step<Identity> {
        let request = m::InitProducerIdRequest::default()
            .with_transactional_id(Some(self.id()))
            .with_transaction_timeout_ms(TRANSACTION_TIMEOUT.as_millis() as i32);
        let answer = self.try_step(0..=1, &request, |answer| checked(answer.error_code)).await?;
        Ok(Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch })
    }

    async fn add(&mut self, identity: Identity, partitions: &[&Partition]) -> Result<()> {
        let topic = |partitions: &[&Partition]| {
            let name = partitions.first().map(|first| first.topic.to_string()).unwrap_or_default();
            AddPartitionsToTxnTopic::default()
                .with_name(StrBytes::from_string(name).into())
                .with_partitions(partitions.iter().map(|partition| partition.index).collect())
        };
        let topics = partitions.chunk_by(|a, b| a.topic == b.topic).map(topic).collect();
        let request = m::AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.id())
            .with_v3_and_below_producer_id(identity.producer_id.into())
            .with_v3_and_below_producer_epoch(identity.epoch)
            .with_v3_and_below_topics(topics);
        let worst = |answer: &m::AddPartitionsToTxnResponse| worst_of(&answer.results_by_topic_v3_and_below);
        self.step("AddPartitionsToTxn", 0..=3, &request, worst).await.map(drop)
    }

    async fn abort(&mut self, identity: Identity) -> Result<()> {
        let request = m::EndTxnRequest::default()
            .with_transactional_id(self.id())
            .with_producer_id(identity.producer_id.into())
            .with_producer_epoch(identity.epoch)
            .with_committed(false);
        self.step("EndTxn", 0..=4, &request, |answer| checked(answer.error_code)).await.map(drop)
    }

    fn id(&self) -> m::TransactionalId {
        StrBytes::from_string(self.transactional_id.to_owned()).into()
    }

    /// As [`try_step`](Self::try_step), with an error for people.
    async fn step<R>(
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
        self.try_step(ours, request, check).await.map_err(|failure| self.failed(name, failure))
    }

    /// Asks the coordinator until it agrees, or does not for a reason that stays.
    async fn try_step<R>(
        &mut self,
        ours: RangeInclusive<i16>,
        request: &R,
        check: impl Fn(&R::Response) -> Step<()>,
    ) -> Step<R::Response>
    where
        R: Request,
        R::Response: Throttled,
    {
        let (mut backoff, mut busy) = (self.backoff(), Backoff::new(FIRST_WAIT, LONGEST_WAIT));
        let deadline = Instant::now() + STEP_WITHIN;
        loop {
            let failure = match self.ask(ours.clone(), request).await {
                Ok(answer) => match check(&answer) {
                    Ok(()) => return Ok(answer),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let wait = match failure {
                Failure::Code(CONCURRENT_TRANSACTIONS) => busy.wait(),
                _ => backoff.wait(),
            };
            if !passes(&failure) || Instant::now() + wait > deadline {
                return Err(failure);
            }
            if !matches!(failure, Failure::Code(3 | CONCURRENT_TRANSACTIONS)) {
                self.coordinator = None;
            }
            sleep(wait).await;
        }
    }

    fn backoff(&self) -> Backoff {
        let properties = self.client.properties();
        Backoff::new(properties.backoff, properties.backoff_max.min(LONGEST_WAIT))
    }

    async fn ask<R>(&mut self, ours: RangeInclusive<i16>, request: &R) -> Step<R::Response>
    where
        R: Request,
        R::Response: Throttled,
    {
        let address = match self.coordinator.take() {
            Some(address) => address,
            None => self.find().await?,
        };
        let answer = self.client.ask(&address, ours, request).await?;
        let too_old = || Error::failed(format!("broker {address} has no transactions that we know"));
        let answer = answer.ok_or_else(|| too_old().hint("Kafka 0.11 at least"))?;
        self.coordinator = Some(address);
        Ok(answer)
    }

    /// Finds the id's coordinator.
    async fn find(&self) -> Step<String> {
        let key = StrBytes::from_string(self.transactional_id.to_owned());
        let request = m::FindCoordinatorRequest::default().with_key_type(KEY_TRANSACTION);
        let many = request.clone().with_coordinator_keys(vec![key.clone()]);
        if let Some(answer) = self.client.ask_any(4..=6, &many).await? {
            let told = answer.coordinators.into_iter().next().ok_or(Failure::Code(15))?;
            checked(told.error_code)?;
            return Ok(address(&told.host, told.port));
        }
        let answer = self.client.ask_any(1..=3, &request.with_key(key)).await?;
        let answer =
            answer.ok_or_else(|| Error::failed("the cluster has no version of FindCoordinator that we know"))?;
        checked(answer.error_code)?;
        Ok(address(&answer.host, answer.port))
    }

    fn failed(&self, name: &str, failure: Failure) -> Error {
        let id = self.transactional_id;
        let code = match failure {
            Failure::Error(error) => return error.with("transactional id", id),
            Failure::Code(code) => code,
        };
        if matches!(code, 47 | 90) {
            return verdict::fenced(&format!("the coordinator of transactional id \"{id}\""), code);
        }
        let what = format!("{name} for transactional id \"{id}\" was refused: {}", code_name(code));
        let hint = match code {
            TRANSACTIONAL_ID_AUTHORIZATION_FAILED => {
                format!("allow WRITE and DESCRIBE on transactional id \"{id}\" for this principal")
            }
            29 => "allow WRITE on the target topics for this principal".to_owned(),
            31 => "allow IDEMPOTENT_WRITE on the cluster for this principal".to_owned(),
            // INVALID_TRANSACTION_TIMEOUT
            50 => format!("raise `transaction.max.timeout.ms` of the brokers to {}", TRANSACTION_TIMEOUT.as_millis()),
            3 => "the target topics are not there; make them first".to_owned(),
            _ => "try again when the brokers' logs say that they are well".to_owned(),
        };
        let error = if passes(&Failure::Code(code)) { Error::transient(what) } else { Error::failed(what) };
        error.hint(hint)
    }
}

/// Returns whether the same may succeed in a moment: a connection was lost, the coordinator loads, has moved, or is busy
/// with the transaction before; a topic was made a moment ago.
fn passes(failure: &Failure) -> bool {
    match failure {
        Failure::Error(error) => error.retryable(),
        // OPERATION_NOT_ATTEMPTED (55) stands beside the code that is the cause.
        Failure::Code(code) => matches!(*code, 3 | 7 | 13..=16 | CONCURRENT_TRANSACTIONS | 55 | 89),
    }
}

fn checked(code: i16) -> Step<()> {
    if code == 0 { Ok(()) } else { Err(Failure::Code(code)) }
}

/// Returns the code that says most: one that stays, else one that passes.
fn worst_of(topics: &[AddPartitionsToTxnTopicResult]) -> Step<()> {
    let codes = topics.iter().flat_map(|topic| &topic.results_by_partition).map(|told| told.partition_error_code);
    let codes = codes.filter(|code| *code != 0);
    checked(codes.min_by_key(|code| (passes(&Failure::Code(*code)), *code == 55)).unwrap_or(0))
}

/// Returns an address; an IPv6 one needs its brackets back.
fn address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
