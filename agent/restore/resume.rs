//! Where a restore goes on that another process has begun: what of it is in the targets.
//!
//! A process sends to a target partition with sequences from 0, one for each record, and each takes the next offset behind
//! the end that its attempt names. So whatever is in the target of it says by its header alone whether anything else came
//! between: its offset and its sequence are as far apart as the first ones. What its producer sent last is what has landed;
//! contents are never compared, so it does not matter what the target makes of them. Nothing is guessed: where offsets are
//! missing behind that, as retention and compaction leave them, the restore does not go on.
//!
//! Where several sources come together in a target, or a stage remembers records, nothing can be counted: then records go in
//! transactions, and each commits how far every source has come to a group of the restore's ([`resume_committed`]).
//!
//! It is read after the fence: nobody of the restore sends any more. It leaves to the caller: what is made of the source,
//! of which the first records are then told where they are and not sent.

mod committed;
mod tails;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::committed::Committed;
pub(super) use self::tails::Tails;
use super::ends;
use super::map::{OffsetMap, Pair};
use super::perform::targets::Assigned;
use super::plan::Plan;
use super::state::{Attempt, Seen, Start, State, Sum};
use crate::batch::Header;
use crate::batch::outgoing::Identity;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::Client;
use crate::record::{Offset, OffsetRange, Partition};

/// A restore that goes on.
pub(super) struct Resumed {
    /// Where, pair by pair.
    pub(super) starts: Vec<Start>,
    /// What the journals say.
    pub(super) map: OffsetMap,
    /// What came of all that the starts say has landed.
    pub(super) sum: Sum,
}

/// Finds where a restore goes on with `pairs`; `logs` are the ends of the targets, behind the fence of `identity`.
///
/// # Errors
/// [`Kind::Damaged`] when what was kept cannot be read; [`Kind::Failed`] when a target is no longer what it was, somebody
/// else has written to it, or it does not tell what has landed; those of the cluster.
pub(super) async fn resume(
    client: &Client,
    state: &State,
    seen: &Seen,
    pairs: &[Pair],
    logs: &HashMap<Partition, OffsetRange>,
    (identity, is_fenced): (Identity, bool),
) -> Result<Resumed> {
    let map = state.offset_map(seen).await?.unwrap_or_default();
    let mut tails = Tails::new(seen, pairs, logs, (producers(state, seen, identity).await?, &map))?;
    ends::walk(client, tails.ranges(), |target, header| tails.see(target, header)).await?;
    let starts = tails.starts(is_fenced)?;
    let (records, bytes) = starts.iter().fold((0, 0), |sum, start| (sum.0 + start.records, sum.1 + start.bytes));
    Ok(Resumed { starts, map, sum: Sum { records, bytes, left_out: tails.left_out } })
}

/// Returns the producers that have sent for the restore, or have fenced: this process's, and those of all attempts.
async fn producers(state: &State, seen: &Seen, identity: Identity) -> Result<Vec<i64>> {
    let mut ours = vec![identity.producer_id];
    for n in &seen.attempts {
        ours.extend(state.attempt(*n).await?.map(|attempt| attempt.producer_id));
    }
    ours.sort_unstable();
    ours.dedup();
    Ok(ours)
}

/// How what has landed of a restore is told, when it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Path {
    /// It is counted in the targets.
    Sequences,
    /// A group of the cluster keeps it, in transactions with the records; why it cannot be counted.
    Transactions(String),
}

/// Returns how what has landed is told.
pub(super) fn path(plan: &Plan, skips: bool, assigned: &[Assigned<'_>]) -> Path {
    if skips {
        return Path::Transactions("a stage leaves out records that it fails at".to_owned());
    }
    if let Some(stage) = plan.stages.iter().find(|stage| !stage.pure) {
        return Path::Transactions(format!("`{}` remembers records", stage.plugin));
    }
    let mut sources: BTreeMap<&Partition, &Partition> = BTreeMap::new();
    for pair in assigned.iter().flat_map(|assigned| assigned.targets.iter().map(|toward| &toward.pair)) {
        if let Some(other) = sources.insert(&pair.target, &pair.source).filter(|other| **other != pair.source) {
            return Path::Transactions(format!("{other} and {} come together in {}", pair.source, pair.target));
        }
    }
    Path::Sequences
}

/// Finds where a restore goes on that sends in transactions: where its `group` says, which has kept `progress`, source by
/// source.
///
/// # Errors
/// As [`resume`]; [`Kind::Failed`] when the cluster has forgotten the progress.
pub(super) async fn resume_committed(
    client: &Client,
    state: &State,
    seen: &Seen,
    assigned: &[Assigned<'_>],
    logs: &HashMap<Partition, OffsetRange>,
    (identity, progress): (Identity, &[Option<Offset>]),
) -> Result<(Resumed, Vec<u32>)> {
    let attempt = newest(seen)?;
    let begun: BTreeMap<&Pair, &Start> = attempt.starts.iter().map(|start| (&start.pair, start)).collect();
    let pairs: Vec<Pair> = pairs(assigned);
    check_pairs(&pairs, &begun)?;
    let journals = match seen.journals.last() {
        Some(&last) => state.journals_to(last).await?,
        None => Vec::new(),
    };
    let sources: Vec<_> = assigned.iter().map(|of| (&of.source, of.of.first)).collect();
    let committed = Committed::of(attempt, &sources, progress, journals)?;
    let map = state.map_of(&committed.journals)?;
    let ours = producers(state, seen, identity).await?;
    let acknowledged = acknowledged(&map, attempt);
    let mut ranges = HashMap::new();
    for (target, base) in committed.bases(&pairs, &begun) {
        let log = logs.get(target).copied().unwrap_or(OffsetRange { first: 0, next: 0 });
        if log.next < base {
            return Err(lost(target, log.next, base));
        }
        let first = acknowledged.get(target).map_or(base, |at| base.min(*at)).max(log.first);
        ranges.insert(target.clone(), OffsetRange { first, next: log.next });
    }
    ends::walk(client, ranges, |target, header| {
        let Some(header) = header else { return Err(foreign(target, "batches of an old format")) };
        if let Some(at) = acknowledged.get(target).filter(|at| header.is_control() && covers(header, **at)) {
            return Err(replaced(target, *at, header));
        }
        match ours.contains(&header.producer_id) {
            true => Ok(true),
            false => {
                let what = format!("a batch of producer {}", header.producer_id);
                Err(foreign(target, &what).with("offset", header.base_offset))
            }
        }
    })
    .await?;
    let start = |pair: Pair| {
        let next = logs.get(&pair.target).map_or(0, |log| log.next);
        let first = committed.next(&pair.source);
        Start::new(pair, first, next)
    };
    let (sum, starts) = (committed.sum(), pairs.iter().cloned().map(start).collect());
    Ok((Resumed { starts, map, sum }, committed.void))
}

/// Returns the last record of each target that is known to have been acknowledged. A log that loses some loses them from
/// its end on: as long as this one is there, all before it were not lost. Its end alone does not tell: behind a cut, fences
/// leave markers where records were.
fn acknowledged<'a>(map: &'a OffsetMap, attempt: &'a Attempt) -> HashMap<&'a Partition, Offset> {
    let mapped = map.iter().filter(|(_, track)| track.records() > 0);
    let mapped = mapped.map(|(pair, track)| (&pair.target, track.target_next() - 1));
    let found = attempt.starts.iter().flat_map(|start| start.found.iter().map(move |run| (&start.pair.target, run)));
    let found = found.map(|(target, run)| (target, run.target + run.records.cast_signed() - 1));
    let mut last: HashMap<&Partition, Offset> = HashMap::new();
    for (target, at) in mapped.chain(found) {
        let of = last.entry(target).or_insert(at);
        *of = at.max(*of);
    }
    last
}

/// Returns whether an offset is one of a batch's.
fn covers(header: &Header, at: Offset) -> bool {
    header.base_offset <= at && at < header.next_offset()
}

/// Returns all target partitions, each once, in order.
pub(super) fn targets(assigned: &[Assigned<'_>]) -> Vec<Partition> {
    let targets: BTreeSet<_> = pairs(assigned).into_iter().map(|pair| pair.target).collect();
    targets.into_iter().collect()
}

/// Returns all pairs of partitions.
pub(super) fn pairs(assigned: &[Assigned<'_>]) -> Vec<Pair> {
    assigned.iter().flat_map(|assigned| assigned.targets.iter().map(|toward| toward.pair.clone())).collect()
}

fn lost(target: &Partition, log_end: Offset, acknowledged: Offset) -> Error {
    Error::failed(format!("{target} has lost records that it had acknowledged"))
        .with("log end", log_end)
        .with("acknowledged before", acknowledged)
        .hint("they are not sent again behind others: restore to an empty target under another restore_id")
}

/// Makes the error of a target that has another batch where a record of the restore was acknowledged.
fn replaced(target: &Partition, at: Offset, header: &Header) -> Error {
    let what = if header.is_control() { "a marker" } else { "records" };
    Error::failed(format!("{target} has lost records that it had acknowledged"))
        .with("offset", at)
        .with("there now", format_args!("{what} of producer {}", header.producer_id))
        .hint("they are not sent again behind others: restore to an empty target under another restore_id")
}

/// Returns the newest attempt.
fn newest(seen: &Seen) -> Result<&Attempt> {
    let newest = seen.attempt.as_ref().filter(|attempt| Some(&attempt.number) == seen.attempts.last());
    newest.ok_or_else(|| {
        Error::new(Kind::Damaged, "what the restore has begun with cannot be read: where it stands is not known")
            .hint("`restores show` says more; what was sent stays, restore to an empty target under another restore_id")
    })
}

/// Makes sure that targets are those that were begun with.
fn check_pairs(pairs: &[Pair], begun: &BTreeMap<&Pair, &Start>) -> Result<()> {
    let hint = "what was sent is not there as it was: restore to an empty target under another restore_id";
    if let Some(pair) = pairs.iter().find(|pair| !begun.contains_key(*pair)) {
        let is_same = |other: &&&Pair| {
            let (a, b) = (&other.target, &pair.target);
            other.source == pair.source && (&a.topic, a.index) == (&b.topic, b.index)
        };
        let what = match begun.keys().find(is_same) {
            Some(_) => format!("topic \"{}\" was made anew since the restore was begun", pair.target.topic),
            None => format!("the restore was begun without {}", pair.target),
        };
        return Err(Error::failed(what).hint(hint));
    }
    match begun.keys().find(|pair| !pairs.contains(pair)) {
        Some(gone) => Err(Error::failed(format!("{} is there no more", gone.target)).hint(hint)),
        None => Ok(()),
    }
}

fn foreign(target: &Partition, what: &str) -> Error {
    Error::failed(format!("somebody else has written to {target}, which is restored to: {what}")).hint(
        "nothing was sent behind that; stop that producer, and restore to an empty target under another restore_id",
    )
}
