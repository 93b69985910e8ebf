//! The fence: takes the place of whoever produced under a transactional id before.
//!
//! A transaction over all target partitions is begun and aborted. Its markers carry the newest epoch into every
//! partition, also into those that were never written: from then on a broker refuses what an older process sends,
//! though it sends outside of transactions. A plain InitProducerId would not do that. Then the epoch is raised once more:
//! the producer begins with sequence 0.
//!
//! Order: nothing is sent before every marker is written, as the last InitProducerId tells. Retry: what passes, with
//! waits, up to a bound for each step, but for markers that wait for their partitions' leaders or replicas: these are
//! waited for as records are later; all steps may be done twice. Cancel, crash: the coordinator ends the transaction
//! after a minute; the next fence does the same anew.

use std::time::Duration;

use kafka_protocol::messages as m;
use tokio::time::{Instant, sleep};

use super::coordinator::{Coordinator, FORBIDDEN, Failure, Of, STEP_WITHIN, Step, TIMEOUT_TOO_LONG, passes};
use crate::batch::outgoing::Identity;
use crate::error::{Error, Kind, Result};
use crate::kafka::{Client, code_name};
use crate::record::Partition;

/// How long the coordinator lets the fence's own transaction be open. It need only be longer than the steps within it.
const FENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it lets those be open that may follow ([`Transactions`](super::Transactions)). With half, partitions that lack
/// replicas while brokers are restarted one after the other would end them, and with them the process; with more, readers
/// of committed data wait longer behind a process that has died and is not started again.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(300);

/// The cluster does not know the call, or what it is asked for.
const UNSUPPORTED_VERSION: i16 = 35;

/// How often the place is taken that another process takes at the same time.
const TRIES: u32 = 5;

/// Fences off whoever produced under `transactional_id` before, in all of `partitions`, and returns whom to produce as,
/// from sequence 0 on, outside of transactions or in them.
///
/// # Errors
/// [`Kind::Fenced`](crate::error::Kind::Fenced) when somebody younger fences us meanwhile;
/// [`Kind::Failed`](crate::error::Kind::Failed), with what to do, without the authority;
/// [`Kind::Transient`](crate::error::Kind::Transient) when the cluster does not get there in time.
pub async fn fence(client: &Client, transactional_id: &str, partitions: &[Partition]) -> Result<Identity> {
    let mut coordinator = coordinator(client, transactional_id);
    let failed = |coordinator: &Coordinator, failure| coordinator.failed("InitProducerId", failure);
    let mut partitions: Vec<&Partition> = partitions.iter().collect();
    partitions.sort_unstable();
    partitions.dedup_by(|a, b| (&a.topic, a.index) == (&b.topic, b.index));
    for _ in 0..TRIES {
        let mut before = None;
        if !partitions.is_empty() {
            let identity =
                coordinator.init(None, FENCE_TIMEOUT).await.map_err(|failure| failed(&coordinator, failure))?;
            coordinator.add(identity, &partitions).await?;
            coordinator.end(identity, false).await?;
            before = Some(identity);
        }
        let taken = take(&mut coordinator, None).await.map_err(|failure| failed(&coordinator, failure))?;
        // Another process may have fenced, and sent, since our markers were written: then they fence nobody off.
        // Another producer's id comes when the epochs of the one before are used up: there nobody is in between.
        let is_next = |before: Identity| before.producer_id != taken.producer_id || before.epoch + 1 == taken.epoch;
        if before.is_none_or(is_next) {
            return Ok(taken);
        }
    }
    Err(Error::new(
        Kind::Fenced,
        format!("others take the place of transactional id \"{transactional_id}\" all the time"),
    )
    .hint("one process of a restore is enough"))
}

/// Takes the id for what follows, and lets its transactions be open for as long as the brokers allow, where that is
/// shorter than we want.
pub(super) async fn take(coordinator: &mut Coordinator, ours: Option<Identity>) -> Step<Identity> {
    match coordinator.init(ours, TRANSACTION_TIMEOUT).await {
        Err(Failure::Code(TIMEOUT_TOO_LONG)) => coordinator.init(ours, FENCE_TIMEOUT).await,
        done => done,
    }
}

/// Returns why nobody can be fenced off under `transactional_id`: we may not use it, or the cluster has no transactions.
/// Asked of the coordinator without changing anything; and, where the place is to be `taken` soon, whether it may be, which
/// makes the id known to the coordinator. Whoever has the place keeps it, and its transaction goes on, but before Kafka 2.5,
/// where it is taken.
///
/// # Errors
/// As [`fence`]: nothing else is a reason to go on without a fence.
pub async fn hindrance(client: &Client, transactional_id: &str, taken: bool) -> Result<Option<String>> {
    let mut coordinator = coordinator(client, transactional_id);
    let deadline = Instant::now() + STEP_WITHIN;
    let mut backoff = coordinator.backoff();
    let failure = loop {
        let failure = match coordinator.find().await {
            Ok(_) if taken => match coordinator.may_init(FENCE_TIMEOUT).await {
                Ok(()) => return Ok(None),
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
        Failure::Code(code @ FORBIDDEN) => {
            let what = format!("transactional id \"{transactional_id}\" may not be used: {}", code_name(code));
            Ok(Some(format!("{what}; allow WRITE and DESCRIBE on it for this principal")))
        }
        Failure::Code(code @ UNSUPPORTED_VERSION) => {
            Ok(Some(format!("the cluster has no transactions: {}", code_name(code))))
        }
        Failure::Unsupported(error) => Ok(Some(format!("the cluster has no transactions: {error}"))),
        failure => Err(coordinator.failed("FindCoordinator", failure)),
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

fn coordinator(client: &Client, transactional_id: &str) -> Coordinator {
    Coordinator::patient(client, Of::Transactions(transactional_id.to_owned()), STEP_WITHIN)
}
