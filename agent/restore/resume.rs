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

use std::collections::{BTreeMap, HashMap};

use super::ends;
use super::map::{OffsetMap, Pair};
use super::perform::targets::Assigned;
use super::plan::Plan;
use super::state::{Attempt, Found, Journal, Landed, Seen, Start, State, Sum};
use crate::batch::Header;
use crate::batch::outgoing::Identity;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::Client;
use crate::record::{Offset, OffsetRange, Partition};

/// Sequences of a producer: Kafka begins again at 0 behind the greatest number.
const SEQUENCES: Offset = 1 << 31;

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
    let mut tails = Tails::new(seen, pairs, logs, identity)?;
    let map = state.offset_map(seen).await?.unwrap_or_default();
    ends::walk(client, tails.ranges(), |target, header| tails.see(target, header)).await?;
    let starts = tails.starts(is_fenced)?;
    let (records, bytes) = starts.iter().fold((0, 0), |sum, start| (sum.0 + start.records, sum.1 + start.bytes));
    Ok(Resumed { starts, map, sum: Sum { records, bytes, left_out: tails.left_out } })
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
    let is_new = seen.journals.is_empty() && progress.iter().all(Option::is_none);
    let at = |number: usize, first: Offset| match progress[number] {
        Some(next) => Ok(next),
        None if is_new => Ok(first),
        None => Err(forgotten(&assigned[number].source)),
    };
    let sources: HashMap<&Partition, Offset> = (assigned.iter().enumerate())
        .map(|(number, of)| Ok((&of.source, at(number, of.of.first)?)))
        .collect::<Result<_>>()?;
    let journals = match seen.journals.last() {
        Some(&last) => state.journals_to(last).await?,
        None => Vec::new(),
    };
    let is_committed = |journal: &Journal| {
        let of = |landed: &Landed| sources.get(&landed.pair.source).is_some_and(|next| landed.source_next <= *next);
        let is_late = journal.attempt < attempt.number && journal.number >= attempt.first_journal;
        !attempt.void.contains(&journal.number) && !is_late && journal.landed.iter().all(of)
    };
    let (committed, void): (Vec<_>, Vec<_>) = journals.into_iter().partition(is_committed);
    let last = committed.last();
    check_progress(assigned, &sources, last)?;
    let landed: BTreeMap<&Pair, &Landed> =
        last.iter().flat_map(|journal| &journal.landed).map(|landed| (&landed.pair, landed)).collect();
    let mut ours = vec![identity.producer_id];
    for n in &seen.attempts {
        ours.extend(state.attempt(*n).await?.map(|attempt| attempt.producer_id));
    }
    // Several sources have the same target: what lies behind the furthest of them.
    let mut bases: HashMap<Partition, Offset> = HashMap::new();
    for pair in &pairs {
        let begun = begun.get(pair).map_or(0, |start| start.target_next);
        let base = landed.get(pair).map_or(begun, |landed| landed.target_next);
        let of = bases.entry(pair.target.clone()).or_insert(base);
        *of = base.max(*of);
    }
    let mut ranges = HashMap::new();
    for (target, base) in bases {
        let log = logs.get(&target).copied().unwrap_or(OffsetRange { first: 0, next: 0 });
        if log.next < base {
            return Err(lost(&target, log.next, base));
        }
        ranges.insert(target, OffsetRange { first: base.max(log.first), next: log.next });
    }
    ends::walk(client, ranges, |target, header| match header {
        Some(header) if ours.contains(&header.producer_id) => Ok(true),
        Some(header) => {
            let what = format!("a batch of producer {}", header.producer_id);
            Err(foreign(target, &what).with("offset", header.base_offset))
        }
        None => Err(foreign(target, "batches of an old format")),
    })
    .await?;
    let start = |pair: Pair| {
        let next = logs.get(&pair.target).map_or(0, |log| log.next);
        let first = sources.get(&pair.source).copied().unwrap_or_default();
        Start::new(pair, first, next)
    };
    let sum = last.map(|of| Sum { records: of.records, bytes: of.bytes, left_out: of.left_out }).unwrap_or_default();
    let (map, starts) = (state.map_of(&committed)?, pairs.into_iter().map(start).collect());
    Ok((Resumed { starts, map, sum }, void.iter().map(|journal| journal.number).collect()))
}

/// Makes sure that the last journal that was committed says of each source what was committed with it.
fn check_progress(
    assigned: &[Assigned<'_>],
    committed: &HashMap<&Partition, Offset>,
    last: Option<&Journal>,
) -> Result<()> {
    let journalled: HashMap<&Partition, Offset> = match last {
        Some(journal) => journal.landed.iter().map(|landed| (&landed.pair.source, landed.source_next)).collect(),
        None => assigned.iter().map(|of| (&of.source, of.of.first)).collect(),
    };
    match committed.iter().find(|(source, next)| journalled.get(*source) != Some(*next)) {
        None => Ok(()),
        Some((source, next)) => Err(Error::damaged(format!("no journal tells where records of {source} have gone"))
            .with("committed before", next)
            .hint("a journal of the restore is missing; restore to an empty target under another restore_id")),
    }
}

/// Returns all pairs of partitions.
pub(super) fn pairs(assigned: &[Assigned<'_>]) -> Vec<Pair> {
    assigned.iter().flat_map(|assigned| assigned.targets.iter().map(|toward| toward.pair.clone())).collect()
}

fn forgotten(source: &Partition) -> Error {
    Error::failed(format!("the cluster does not tell any more how far the restore had come with {source}")).hint(
        "brokers forget a group's offsets after `offsets.retention.minutes`, and somebody may have deleted the group; \
               restore to an empty target under another restore_id",
    )
}

fn lost(target: &Partition, log_end: Offset, acknowledged: Offset) -> Error {
    Error::failed(format!("{target} has lost records that it had acknowledged"))
        .with("log end", log_end)
        .with("acknowledged before", acknowledged)
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

/// What is in the targets behind the last journal.
pub(super) struct Tails<'a> {
    /// Of each target where it was begun with, how far it had come by the last journal, and what is read of it.
    tails: BTreeMap<&'a Partition, (&'a Start, Option<&'a Landed>, Tail<'a>)>,
    /// Records that stages had failed at by then.
    left_out: u64,
}

impl<'a> Tails<'a> {
    /// Makes them, of which nothing is read yet.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when what was kept cannot be read; [`Kind::Failed`] when there are other targets.
    pub(super) fn new(
        seen: &'a Seen,
        pairs: &[Pair],
        logs: &HashMap<Partition, OffsetRange>,
        identity: Identity,
    ) -> Result<Self> {
        let attempt = newest(seen)?;
        let begun = attempt.starts.iter().map(|start| (&start.pair, start)).collect();
        check_pairs(pairs, &begun)?;
        let journal = seen.resumed_from();
        let journalled: BTreeMap<&Pair, &Landed> =
            journal.iter().flat_map(|journal| &journal.landed).map(|landed| (&landed.pair, landed)).collect();
        let tail = |(pair, start): (&'a Pair, &'a Start)| {
            let landed = journalled.get(pair).copied();
            let base = landed.map_or(start.target_next, |landed| landed.target_next);
            let tail = Tail {
                target: &pair.target,
                own: Identity { producer_id: attempt.producer_id, epoch: attempt.epoch },
                ours: [attempt.producer_id, identity.producer_id],
                began: start.target_next,
                base,
                log: logs.get(&pair.target).copied().unwrap_or(OffsetRange { first: 0, next: 0 }),
                landed: base,
                next: base,
                marker: None,
            };
            (&pair.target, (start, landed, tail))
        };
        let left_out = journal.map_or(attempt.left_out, |journal| journal.left_out);
        Ok(Self { tails: begun.into_iter().map(tail).collect(), left_out })
    }

    /// Returns what is to be read of the targets.
    pub(super) fn ranges(&self) -> HashMap<Partition, OffsetRange> {
        let range = |tail: &Tail<'_>| OffsetRange { first: tail.base.max(tail.log.first), next: tail.log.next };
        self.tails.iter().map(|(target, (_, _, tail))| ((*target).clone(), range(tail))).collect()
    }

    /// Looks at a batch of a target; `None` is one of an old format.
    ///
    /// # Errors
    /// [`Kind::Failed`] when it is somebody else's.
    pub(super) fn see(&mut self, target: &Partition, header: Option<&Header>) -> Result<bool> {
        let Some((_, _, tail)) = self.tails.get_mut(target) else { return Ok(false) };
        match header {
            Some(header) => tail.see(header).map(|()| true),
            None => Err(foreign(target, "batches of an old format")),
        }
    }

    /// Returns where the restore goes on, when all was looked at.
    ///
    /// # Errors
    /// [`Kind::Failed`] when a target does not tell what has landed.
    pub(super) fn starts(&self, is_fenced: bool) -> Result<Vec<Start>> {
        let start = |(start, journalled, tail): &(&Start, Option<&Landed>, Tail<'_>)| {
            Ok(go_on(start, *journalled, tail.landed(is_fenced)?, tail.log.next))
        };
        self.tails.values().map(start).collect()
    }
}

/// Makes the start of a pair of which records of an attempt that began with `start` have landed up to `landed`.
fn go_on(start: &Start, journalled: Option<&Landed>, landed: Offset, target_next: Offset) -> Start {
    let base = journalled.map_or(start.target_next, |landed| landed.target_next);
    let behind = (landed > base).then(|| Found { target: base, records: (landed - base).unsigned_abs() });
    match journalled {
        None => Start { target_next, found: start.found.iter().copied().chain(behind).collect(), ..start.clone() },
        Some(at) => {
            let before: u64 = start.found.iter().map(|found| found.records).sum();
            Start {
                pair: start.pair.clone(),
                source_first: at.source_next,
                target_next,
                records: start.records + before + at.sequences,
                bytes: at.bytes,
                found: behind.into_iter().collect(),
            }
        }
    }
}

/// What is in a target partition behind the last journal.
struct Tail<'a> {
    target: &'a Partition,
    /// Who sent.
    own: Identity,
    /// Whose markers may be there: fences'.
    ours: [i64; 2],
    /// Where sequence 0 is.
    began: Offset,
    /// From where on it is read.
    base: Offset,
    /// What the log holds.
    log: OffsetRange,
    /// The end of what has landed.
    landed: Offset,
    /// The end of what was told.
    next: Offset,
    /// The first offset that is missing before a marker, or `None` where no marker was seen.
    marker: Option<Option<Offset>>,
}

impl Tail<'_> {
    /// Looks at a batch.
    fn see(&mut self, header: &Header) -> Result<()> {
        if header.next_offset() <= self.base {
            return Ok(());
        }
        let offset = header.base_offset;
        if header.is_control() {
            if !self.ours.contains(&header.producer_id) {
                return Err(self.foreign(header, "a marker of"));
            }
            let missing = (offset > self.next).then_some(self.next);
            self.marker = Some(self.marker.flatten().or(missing));
            self.next = header.next_offset();
            return Ok(());
        }
        let is_own = (header.producer_id, header.producer_epoch) == (self.own.producer_id, self.own.epoch);
        if !is_own {
            return Err(self.foreign(header, "records of"));
        }
        // Offsets that are missing before it are its own too, as long as this holds.
        if Offset::from(header.base_sequence) != (offset - self.began).rem_euclid(SEQUENCES) || self.marker.is_some() {
            return Err(foreign(self.target, "records that are not there any more").with("before offset", offset));
        }
        (self.landed, self.next) = (header.next_offset(), header.next_offset());
        Ok(())
    }

    /// Returns the end of what has landed, when all up to the log's end was looked at.
    fn landed(&self, is_fenced: bool) -> Result<Offset> {
        let log_end = self.log.next;
        let is_lost = log_end < self.base || (is_fenced && self.marker.is_none() && self.next == log_end);
        if is_lost {
            return Err(lost(self.target, log_end, self.base));
        }
        let missing = self.marker.flatten().or((self.next < log_end).then_some(self.next));
        match missing {
            None => Ok(self.landed),
            Some(missing) => Err(Error::failed(format!(
                "{} does not tell any more how much of the restore has landed: offsets are missing there",
                self.target
            ))
            .with("(from offset", missing)
            .hint(
                "retention, compaction or `kafka-delete-records` has taken what was sent last; nothing is sent again: restore \
                 to an empty target under another restore_id",
            )),
        }
    }

    fn foreign(&self, header: &Header, what: &str) -> Error {
        foreign(self.target, &format!("{what} producer {}", header.producer_id)).with("offset", header.base_offset)
    }
}

fn foreign(target: &Partition, what: &str) -> Error {
    Error::failed(format!("somebody else has written to {target}, which is restored to: {what}")).hint(
        "nothing was sent behind that; stop that producer, and restore to an empty target under another restore_id",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::records::template;
    use crate::record::TopicId;

    const OWN: Identity = Identity { producer_id: 7, epoch: 4 };

    fn target() -> Partition {
        Partition { topic: "orders-restored".into(), topic_id: TopicId::NONE, index: 3 }
    }

    /// A target that ended at 11 when the attempt began, and whose log is `[first, next)` now.
    fn tail(target: &Partition, (base, first, next): (Offset, Offset, Offset)) -> Tail<'_> {
        Tail {
            target,
            own: OWN,
            ours: [7, 7],
            began: 11,
            base,
            log: OffsetRange { first, next },
            landed: base,
            next: base,
            marker: None,
        }
    }

    /// A batch of `[first, next)` as the attempt sends it, where nothing else has come between.
    fn own(first: Offset, next: Offset) -> Header {
        Header {
            last_offset_delta: (next - first - 1) as i32,
            producer_id: 7,
            producer_epoch: 4,
            base_sequence: (first - 11).rem_euclid(SEQUENCES) as i32,
            count: (next - first) as i32,
            ..template(first)
        }
    }

    fn marker(offset: Offset, producer_id: i64) -> Header {
        Header { attributes: 0x30, producer_id, producer_epoch: 6, count: 1, ..template(offset) }
    }

    fn landed(at: (Offset, Offset, Offset), headers: &[Header]) -> Result<Offset> {
        let target = target();
        let mut tail = tail(&target, at);
        headers.iter().try_for_each(|header| tail.see(header))?;
        tail.landed(true)
    }

    #[test]
    fn what_the_producer_sent_last_has_landed_and_all_before_it() {
        let at = |base, next| (base, 0, next);
        assert_eq!(landed(at(11, 12), &[marker(11, 7)]).expect("nothing has"), 11);
        assert_eq!(landed(at(11, 32), &[own(11, 16), own(16, 31), marker(31, 7)]).expect("it tells"), 31);
        // Behind a journal; the batch before it is told whole.
        assert_eq!(landed(at(16, 32), &[own(11, 16), own(16, 31), marker(31, 7)]).expect("it tells"), 31);
        let two = [own(11, 31), marker(31, 7), marker(32, 7)];
        assert_eq!(landed(at(11, 33), &two).expect("a start that died has fenced too"), 31);
        // Compaction and retention take what lies before; sequences begin again behind the greatest.
        assert_eq!(landed((11, 25, 32), &[own(25, 31), marker(31, 7)]).expect("it tells"), 31);
        let far = 11 + SEQUENCES;
        assert_eq!(own(far + 5, far + 9).base_sequence, 5);
        assert_eq!(landed(at(far, far + 10), &[own(far + 5, far + 9), marker(far + 9, 7)]).expect("it tells"), far + 9);
    }

    #[test]
    fn whoever_else_has_written_is_named_with_the_offset() {
        let fails = |headers: &[Header]| {
            let error = landed((11, 0, 40), headers).expect_err("somebody else has written").to_string();
            assert!(error.contains("somebody else has written to orders-restored-3"), "{error}");
            error
        };
        let other = Header { producer_id: 9, ..own(16, 20) };
        assert!(fails(&[own(11, 16), other]).contains("records of producer 9 (offset 16)"));
        let plain = Header { producer_id: -1, base_sequence: -1, ..own(16, 20) };
        assert!(fails(&[own(11, 16), plain]).contains("producer -1"));
        assert!(fails(&[own(11, 16), marker(16, 9)]).contains("a marker of producer 9 (offset 16)"));
        // One that is gone by now: what came behind it is a record too far.
        let behind = Header { base_sequence: 5, ..own(17, 20) };
        assert!(fails(&[own(11, 16), behind]).contains("(before offset 17"));
        assert!(fails(&[marker(11, 7), own(12, 16)]).contains("(before offset 12"));
    }

    #[test]
    fn a_target_that_does_not_tell_what_has_landed_is_never_guessed() {
        let untold = |at, headers: &[Header], from: &str| {
            let error = landed(at, headers).expect_err("it does not tell").to_string();
            assert!(error.contains("does not tell any more") && error.contains(from), "{error}");
        };
        untold((11, 31, 32), &[marker(31, 7)], "(from offset 11");
        untold((11, 32, 32), &[], "(from offset 11");
        untold((11, 0, 40), &[own(11, 16), marker(20, 7), marker(39, 7)], "(from offset 16");
        untold((11, 0, 40), &[own(11, 16), marker(16, 7)], "(from offset 17");
        for (at, headers) in [((31, 0, 20), &[][..]), ((31, 0, 31), &[]), ((11, 0, 20), &[own(11, 20)])] {
            let error = landed(at, headers).expect_err("it was cut off").to_string();
            assert!(error.contains("has lost records that it had acknowledged"), "{error}");
        }
    }
}
