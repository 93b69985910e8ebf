//! Where the logs of target partitions begin and end, and whether there are records in them.
//!
//! Retry: what passes (a leader that moves, one that a new topic has not got yet) is asked again, with back-off, for
//! [`SETTLE`]: an end that nobody told must not be taken for that of an empty log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::batch;
use crate::error::{Error, Result};
use crate::kafka::client::{At, Client, Isolation, OffsetQuery};
use crate::kafka::code_name;
use crate::record::{Offset, OffsetRange, Partition};

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

/// Returns those of the partitions whose logs hold batches of records: a log of markers alone is as good as an empty one.
///
/// # Errors
/// As [`of`].
pub(super) async fn with_records(
    client: &Client,
    logs: &HashMap<Partition, OffsetRange>,
) -> Result<HashSet<Partition>> {
    let deadline = Instant::now() + SETTLE;
    let mut backoff = client.backoff();
    let mut full = HashSet::new();
    let mut left: Vec<(&Partition, Offset)> =
        logs.iter().filter(|(_, log)| !log.is_empty()).map(|(of, log)| (of, log.first)).collect();
    while !left.is_empty() {
        match look_at(client, logs, &mut left, &mut full).await {
            Ok(true) => {}
            Err(error) if !error.retryable() || Instant::now() >= deadline => return Err(error),
            Ok(false) if Instant::now() >= deadline => {
                return Err(Error::transient("a partition does not tell what it holds").hint("see to the brokers"));
            }
            _ => sleep(backoff.wait()).await,
        }
    }
    Ok(full)
}

/// Looks at what lies at these offsets; keeps those of which that says nothing yet, and returns whether it said anything.
async fn look_at(
    client: &Client,
    logs: &HashMap<Partition, OffsetRange>,
    left: &mut Vec<(&Partition, Offset)>,
    full: &mut HashSet<Partition>,
) -> Result<bool> {
    let partitions: Vec<&Partition> = left.iter().map(|(partition, _)| *partition).collect();
    let mut said = false;
    let (mut told, mut later) = (Vec::new(), Vec::new());
    let (leaders, are_led) = by_leader(client, &partitions).await?;
    are_led?;
    for (leader, led) in leaders {
        let asked: Vec<_> = left.iter().filter(|(partition, _)| led.contains(partition)).copied().collect();
        told.extend(asked.iter().copied().zip(client.batches_at(leader, &asked).await?));
    }
    for ((partition, offset), (code, bytes)) in told {
        if code != 0 {
            return Err(refused(partition, code));
        }
        match first_records(&bytes, offset) {
            Ok(_) => drop(full.insert(partition.clone())),
            Err(next) if logs.get(partition).is_some_and(|log| next < log.next) => {
                said |= next > offset;
                // Of what said nothing a large batch was left out: it goes first.
                later.insert(if next > offset { later.len() } else { 0 }, (partition, next));
                continue;
            }
            Err(_) => {}
        }
        said = true;
    }
    *left = later;
    Ok(said)
}

/// Returns where the first batch of records is from `offset` on, else where the batches end.
fn first_records(bytes: &[u8], offset: Offset) -> Result<Offset, Offset> {
    let mut next = offset;
    for item in batch::walk(bytes) {
        match item {
            // Older formats know no markers.
            Err(_) => return Ok(next),
            Ok((_, header)) if header.next_offset() <= offset => {}
            Ok((_, header)) if header.count > 0 && !header.is_control() => return Ok(header.base_offset),
            Ok((_, header)) => next = header.next_offset(),
        }
    }
    Err(next)
}

/// Finds the leaders of partitions; an error is of one that has none now.
async fn by_leader<'a>(
    client: &Client,
    left: &[&'a Partition],
) -> Result<(BTreeMap<i32, Vec<&'a Partition>>, Result<()>)> {
    let mut names: Vec<_> = left.iter().map(|target| target.topic.to_string()).collect();
    names.sort_unstable();
    names.dedup();
    let metadata = client.metadata(Some(&names)).await?;
    let mut led: BTreeMap<i32, Vec<&Partition>> = BTreeMap::new();
    let mut outcome = Ok(());
    for target in left {
        let topic = metadata.topics.iter().find(|topic| topic.name == *target.topic);
        let met = topic.and_then(|topic| topic.partitions.iter().find(|met| met.index == target.index));
        match met.map(|met| met.leader).filter(|leader| *leader >= 0) {
            Some(leader) => led.entry(leader).or_default().push(target),
            None => {
                outcome =
                    outcome.and(Err(Error::transient(format!("{target} has no leader")).hint("see to the brokers")))
            }
        }
    }
    Ok((led, outcome))
}

/// Asks the leaders of partitions, and adds what they tell; an error is of one that does not.
async fn ask(client: &Client, left: &[&Partition], told: &mut HashMap<Partition, OffsetRange>) -> Result<()> {
    let (leaders, mut outcome) = by_leader(client, left).await?;
    let query = |target: &&Partition| OffsetQuery { partition: (*target).clone(), leader_epoch: -1, at: At::Latest };
    let asked: BTreeMap<i32, Vec<OffsetQuery>> =
        leaders.into_iter().map(|(leader, led)| (leader, led.iter().map(query).collect())).collect();
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::batch::Header;
    use crate::batch::records::{Record, encode, template};
    use crate::record::Timestamp;

    fn batch_of(offset: Offset, attributes: i16) -> Bytes {
        let record =
            Record { offset, timestamp: Timestamp(1), key: None, value: Some(Bytes::new()), headers: Vec::new() };
        let header = Header { attributes, ..template(offset) };
        encode(&header, &[record], crate::batch::Compression::None).expect("it fits")
    }

    #[test]
    fn a_log_of_markers_holds_no_records() {
        let markers = [batch_of(3, 0x30), batch_of(4, 0x30)].concat();
        assert_eq!(first_records(&markers, 3), Err(5));
        assert_eq!(first_records(&[], 3), Err(3), "nothing was said");
        let with_data = [batch_of(3, 0x30), batch_of(4, 0)].concat();
        assert_eq!(first_records(&with_data, 3), Ok(4));
        assert_eq!(first_records(&with_data, 5), Err(5), "it lies before");
    }
}
