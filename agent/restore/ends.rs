//! Where the logs of target partitions begin and end.
//!
//! Retry: what passes (a leader that moves, one that a new topic has not got yet) is asked again, with back-off, for
//! [`SETTLE`]: an end that nobody told must not be taken for that of an empty log.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};
use crate::kafka::client::{At, Client, Isolation, OffsetQuery};
use crate::kafka::code_name;
use crate::record::{OffsetRange, Partition};

/// How long partitions may be without a leader that answers: as long as a topic may take to be made.
const SETTLE: Duration = Duration::from_secs(30);

/// Returns the offsets that the target partitions have.
///
/// # Errors
/// [`Kind::Transient`](crate::error::Kind::Transient) when a partition has no leader that answers in time;
/// [`Kind::Failed`](crate::error::Kind::Failed) when one refuses to.
pub(crate) async fn of(client: &Client, targets: &[Partition]) -> Result<HashMap<Partition, OffsetRange>> {
    let deadline = Instant::now() + SETTLE;
    let mut backoff = client.backoff();
    let mut told = HashMap::new();
    loop {
        let left: Vec<&Partition> = targets.iter().filter(|target| !told.contains_key(*target)).collect();
        let Err(error) = ask(client, &left, &mut told).await else { return Ok(told) };
        if !error.retryable() || Instant::now() >= deadline {
            return Err(error);
        }
        sleep(backoff.wait()).await;
    }
}

/// Asks the leaders of partitions, and adds what they tell; an error is of one that does not.
async fn ask(client: &Client, left: &[&Partition], told: &mut HashMap<Partition, OffsetRange>) -> Result<()> {
    let mut names: Vec<_> = left.iter().map(|target| target.topic.to_string()).collect();
    names.sort_unstable();
    names.dedup();
    let metadata = client.metadata(Some(&names)).await?;
    let mut asked: BTreeMap<i32, Vec<OffsetQuery>> = BTreeMap::new();
    let mut outcome = Ok(());
    for target in left {
        let topic = metadata.topics.iter().find(|topic| topic.name == *target.topic);
        let met = topic.and_then(|topic| topic.partitions.iter().find(|met| met.index == target.index));
        let Some(leader) = met.map(|met| met.leader).filter(|leader| *leader >= 0) else {
            outcome = outcome.and(Err(Error::transient(format!("{target} has no leader")).hint("see to the brokers")));
            continue;
        };
        let query = OffsetQuery { partition: (*target).clone(), leader_epoch: -1, at: At::Latest };
        asked.entry(leader).or_default().push(query);
    }
    for (leader, queries) in asked {
        let next = client.list_offsets(leader, &queries, Isolation::Uncommitted).await?;
        let first: Vec<_> = queries.iter().map(|query| OffsetQuery { at: At::Earliest, ..query.clone() }).collect();
        let first = client.list_offsets(leader, &first, Isolation::Uncommitted).await?;
        for ((query, next), first) in queries.into_iter().zip(next).zip(first) {
            match [next.code, first.code].into_iter().find(|code| *code != 0) {
                None if next.offset >= 0 => {
                    told.insert(query.partition, OffsetRange { first: first.offset, next: next.offset });
                }
                code => outcome = outcome.and(Err(refused(&query.partition, code.unwrap_or(-1)))),
            }
        }
    }
    outcome
}

fn refused(partition: &Partition, code: i16) -> Error {
    let what = format!("{partition} does not tell where it ends: {}", code_name(code));
    match code {
        // TOPIC_AUTHORIZATION_FAILED
        29 => Error::failed(what).hint(format!("allow DESCRIBE on topic \"{}\" for this principal", partition.topic)),
        _ => Error::transient(what).hint("see to the brokers"),
    }
}
