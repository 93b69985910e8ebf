//! Where the logs of target partitions begin and end, and whether there are records in them.
//!
//! Retry: what passes (a leader that moves or hangs, one that a new topic has not got yet) is asked again, with back-off,
//! for [`SETTLE`]: an end that nobody told must not be taken for that of an empty log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;

use crate::backoff::Patience;
use crate::batch::{self, Header};
use crate::error::{Error, Result};
use crate::kafka::client::{At, Client, Isolation, OffsetQuery};
use crate::kafka::code_name;
use crate::record::{OffsetRange, Partition};

/// How long partitions may be without a leader that answers. A broker that hangs is waited for during half a minute by
/// itself, and by then another one leads: with less than twice that, the first such broker would end it.
const SETTLE: Duration = Duration::from_secs(75);

/// Returns the offsets that the target partitions have.
///
/// # Errors
/// [`Kind::Transient`](crate::error::Kind::Transient) when a partition has no leader that answers in time;
/// [`Kind::Failed`](crate::error::Kind::Failed) when one refuses to.
pub(crate) async fn of(client: &Client, targets: &[Partition]) -> Result<HashMap<Partition, OffsetRange>> {
    let mut patience = Patience::new(client.backoff(), SETTLE);
    let mut told = HashMap::new();
    loop {
        let left: Vec<&Partition> = targets.iter().filter(|target| !told.contains_key(*target)).collect();
        let Err(error) = ask(client, &left, &mut told).await else { return Ok(told) };
        patience.wait(error).await?;
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
    let mut full = HashSet::new();
    let look = |partition: &Partition, header: Option<&Header>| {
        // Older formats know no markers.
        let is_data = header.is_none_or(|header| header.count > 0 && !header.is_control());
        if is_data {
            full.insert(partition.clone());
        }
        Ok(!is_data)
    };
    walk(client, logs.clone(), look).await?;
    Ok(full)
}

/// Looks at the headers of the batches in these offsets of partitions, in order: `None` stands for one of an old format.
/// A partition of which `look` returns false is done.
///
/// # Errors
/// As [`of`]; those of `look`.
pub(super) async fn walk(
    client: &Client,
    ranges: HashMap<Partition, OffsetRange>,
    mut look: impl FnMut(&Partition, Option<&Header>) -> Result<bool>,
) -> Result<()> {
    let mut patience = Patience::new(client.backoff(), SETTLE);
    let mut left: Vec<(Partition, OffsetRange)> = ranges.into_iter().filter(|(_, range)| !range.is_empty()).collect();
    left.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    while !left.is_empty() {
        match look_on(client, &mut left, &mut look).await {
            Ok(true) => patience.reset(),
            Ok(false) => {
                let error = Error::transient("a partition does not tell what it holds").hint("see to the brokers");
                patience.wait(error).await?;
            }
            Err(error) => patience.wait(error).await?,
        }
    }
    Ok(())
}

/// Looks at what lies next; keeps what was not looked at yet, and returns whether anything was told.
async fn look_on(
    client: &Client,
    left: &mut Vec<(Partition, OffsetRange)>,
    look: &mut impl FnMut(&Partition, Option<&Header>) -> Result<bool>,
) -> Result<bool> {
    let mut told = Vec::new();
    {
        let partitions: Vec<&Partition> = left.iter().map(|(partition, _)| partition).collect();
        let (leaders, are_led) = by_leader(client, &partitions).await?;
        are_led?;
        for (leader, led) in leaders {
            let is_led = |(partition, _): &&(Partition, OffsetRange)| led.contains(&partition);
            let asked: Vec<_> = left.iter().filter(is_led).map(|(of, range)| (of, range.first)).collect();
            let answers = client.batches_at(leader, &asked).await?;
            told.extend(asked.into_iter().map(|(partition, _)| partition.clone()).zip(answers));
        }
    }
    look_at_all(left, told, look)
}

/// What a partition told: Kafka's error code, and batches.
type Told = (i16, Bytes);

/// Looks at what partitions told; keeps what was not looked at yet, and returns whether anything was told. Where one does not
/// tell, all others are looked at all the same: nothing is looked at twice.
fn look_at_all(
    left: &mut Vec<(Partition, OffsetRange)>,
    told: Vec<(Partition, Told)>,
    look: &mut impl FnMut(&Partition, Option<&Header>) -> Result<bool>,
) -> Result<bool> {
    let (mut later, mut outcome, mut said) = (Vec::new(), Ok(()), false);
    for (partition, (code, bytes)) in told {
        let Some((_, range)) = left.iter().find(|(of, _)| *of == partition) else { continue };
        if code != 0 {
            outcome = outcome.and(Err(refused(&partition, code)));
            later.push((partition, *range));
            continue;
        }
        match look_at(&partition, *range, &bytes, look)? {
            Some(rest) => {
                let has_said = rest.first > range.first;
                said |= has_said;
                // Of what said nothing a large batch was left out: it goes first.
                later.insert(if has_said { later.len() } else { 0 }, (partition, rest));
            }
            None => said = true,
        }
    }
    *left = later;
    outcome.map(|()| said)
}

/// Looks at the batches in `bytes` that lie in a range; returns the rest of the range, `None` where there is none.
fn look_at(
    partition: &Partition,
    range: OffsetRange,
    bytes: &[u8],
    look: &mut impl FnMut(&Partition, Option<&Header>) -> Result<bool>,
) -> Result<Option<OffsetRange>> {
    let mut next = range.first;
    for item in batch::walk(bytes) {
        match item {
            // Where it ends is not known.
            Err(_) => {
                let _ = look(partition, None)?;
                return Ok(None);
            }
            Ok((_, header)) if header.next_offset() <= next => {}
            Ok((_, header)) if header.base_offset >= range.next => return Ok(None),
            Ok((_, header)) => {
                next = header.next_offset();
                if !look(partition, Some(&header))? {
                    return Ok(None);
                }
            }
        }
    }
    Ok((next < range.next).then_some(OffsetRange { first: next, ..range }))
}

/// Finds the leaders of partitions; an error is of one that has none now.
pub(crate) async fn by_leader<'a>(
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

/// Makes the error of a partition that does not tell its offsets.
pub(crate) fn refused(partition: &Partition, code: i16) -> Error {
    let what = format!("{partition} does not tell where it ends: {}", code_name(code));
    match code {
        // TOPIC_AUTHORIZATION_FAILED
        29 => Error::failed(what).hint(format!("allow DESCRIBE on topic \"{}\" for this principal", partition.topic)),
        _ => Error::transient(what).hint("see to the brokers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::records::{Record, encode, template};
    use crate::record::{Offset, Timestamp};

    fn batch_of(offset: Offset, attributes: i16) -> Bytes {
        let record =
            Record { offset, timestamp: Timestamp(1), key: None, value: Some(Bytes::new()), headers: Vec::new() };
        let header = Header { attributes, ..template(offset) };
        encode(&header, &[record], crate::batch::Compression::None).expect("it fits")
    }

    /// Looks at bytes from `first` on until there are records; returns where these begin, and what is left.
    fn records_from(bytes: &[u8], first: Offset) -> (Option<Offset>, Option<OffsetRange>) {
        let partition = Partition { topic: "t".into(), topic_id: crate::record::TopicId::NONE, index: 0 };
        let mut met = None;
        let rest = look_at(&partition, OffsetRange { first, next: 9 }, bytes, &mut |_, header| {
            let is_data = header.is_none_or(|header| !header.is_control());
            met = header.filter(|_| is_data).map(|header| header.base_offset);
            Ok(!is_data)
        });
        (met, rest.expect("nothing is refused"))
    }

    #[test]
    fn a_log_of_markers_holds_no_records() {
        let rest = |first| Some(OffsetRange { first, next: 9 });
        let markers = [batch_of(3, 0x30), batch_of(4, 0x30)].concat();
        assert_eq!(records_from(&markers, 3), (None, rest(5)));
        assert_eq!(records_from(&[], 3), (None, rest(3)), "nothing was said");
        let with_data = [batch_of(3, 0x30), batch_of(4, 0)].concat();
        assert_eq!(records_from(&with_data, 3), (Some(4), None));
        assert_eq!(records_from(&with_data, 5), (None, rest(5)), "it lies before");
        assert_eq!(records_from(&batch_of(9, 0), 3), (None, None), "it lies behind");
    }

    #[test]
    fn what_one_partition_has_told_is_not_looked_at_again_because_another_does_not_tell() {
        let partition = |index| Partition { topic: "t".into(), topic_id: crate::record::TopicId::NONE, index };
        let range = OffsetRange { first: 3, next: 5 };
        let (mut left, mut met) = (vec![(partition(0), range), (partition(1), range)], Vec::new());
        let mut look = |partition: &Partition, header: Option<&Header>| {
            met.push((partition.index, header.map(|header| header.base_offset)));
            Ok(true)
        };
        let two = Bytes::from([batch_of(3, 0), batch_of(4, 0x30)].concat());
        // NOT_LEADER_OR_FOLLOWER
        let told = vec![(partition(0), (0, two.clone())), (partition(1), (6, Bytes::new()))];
        let error = look_at_all(&mut left, told, &mut look).expect_err("its leader has moved");
        assert!(error.retryable() && left == [(partition(1), range)], "{error}: {left:?}");
        assert!(
            look_at_all(&mut left, vec![(partition(1), (0, two))], &mut look).expect("it tells") && left.is_empty()
        );
        assert_eq!(met, [(0, Some(3)), (0, Some(4)), (1, Some(3)), (1, Some(4))]);
    }
}
