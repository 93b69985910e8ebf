//! A chain added up from its index: what tables show of a partition.
//!
//! No log is read, unless opening the index needs one (see [`opened`](super::opened)), or a fork was cut in the middle of
//! one. Memory: the indexes of [`AT_ONCE`] partitions, 118 bytes a segment; each is dropped once it is added up. What
//! cannot be read is a finding of its place, and the other places are added up all the same.

use std::sync::Arc;

use super::chain::{Finding, What};
use super::chunks::Segment;
use super::opened::{Opened, Staged};
use super::way::{self, Before, Branch, Left, Part, Reach};
use super::{Place, Timeline, side_by_side};
use crate::archive::Archive;
use crate::archive::catalog::Row;
use crate::archive::index::Index;
use crate::error::Result;
use crate::record::{Offset, OffsetRange, Timestamp};

/// So many partitions are opened at a time. Opening one takes a dozen answers of the store one after the other: with half
/// of it a thousand partitions take twice as long; double of it doubles the memory where all are huge.
pub const AT_ONCE: usize = 8;

/// What a partition's chain holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The offsets that the chain covers, `[first, next)`.
    pub range: Option<OffsetRange>,
    /// The offset of the first record that a read-committed reader gets.
    pub first_record: Option<Offset>,
    /// The offset of the last such record.
    pub last_record: Option<Offset>,
    /// How many such records there are.
    pub records: u64,
    /// Batches that were made of messages of format v0 or v1.
    pub converted: u64,
    /// Segments of the chain; gaps are among them.
    pub segments: u64,
    /// Bytes of their logs.
    pub bytes: u64,
    /// The effective time of the first batch's first record.
    pub first_time: Option<Timestamp>,
    /// The greatest effective time.
    pub max_time: Option<Timestamp>,
    /// When the last segment was sealed.
    pub sealed_at: Option<Timestamp>,
    /// The declared gaps.
    pub gaps: Vec<Gap>,
    /// What is told of stages without reading every sidecar.
    pub staged: Staged,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// How far the chain reaches.
    pub reach: Reach,
    /// Of a fork: what it is beside.
    pub left: Option<Left>,
    /// Of a partition that has forks: what a reader gets along the newest one.
    pub newest: Option<Box<Summary>>,
}

/// Offsets that the source had lost before they could be archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The offsets.
    pub range: OffsetRange,
    /// Why, for people.
    pub reason: String,
    /// When it was found.
    pub at: Timestamp,
}

/// A timeline, its places moved out beside their summaries.
pub type Summarised = (Timeline, Vec<(Place, Summary)>);

/// Adds up every chain of a backup, timelines in the order of [`timelines`](super::timelines).
///
/// # Errors
/// Those of the store while the topics are listed; what cannot be read of a place is among its findings.
pub async fn summarise(archive: &Archive) -> Result<Vec<Summarised>> {
    let timelines = super::timelines(archive).await?;
    let mut summarised: Vec<Summarised> = timelines.into_iter().map(|timeline| (timeline, Vec::new())).collect();
    let mut partitions = Vec::new();
    for (at, (timeline, _)) in summarised.iter_mut().enumerate() {
        let places = std::mem::take(&mut timeline.places);
        let chains = places.chunk_by(|a, b| a.partition == b.partition);
        partitions.extend(chains.map(|chains| (at, chains.to_vec())));
    }
    let summaries = side_by_side::each(partitions, AT_ONCE, |(at, chains)| {
        let archive = archive.clone();
        async move { (at, partition(&archive, &chains).await) }
    });
    for (at, summaries) in summaries.await? {
        summarised[at].1.extend(summaries);
    }
    Ok(summarised)
}

/// Adds up the chains of one partition: its own, and the forks.
async fn partition(archive: &Archive, chains: &[Place]) -> Vec<(Place, Summary)> {
    let (mut summaries, mut indexes) = (Vec::new(), Vec::new());
    for place in chains {
        let mut summary = Summary::default();
        let index = summary.read(archive, place).await;
        summaries.push((place.clone(), summary));
        // One at a time is in memory, but where forks share offsets.
        indexes.push(index.filter(|_| chains.len() > 1));
    }
    let reaches: Vec<_> = summaries.iter().map(|(place, summary)| (place, summary.reach)).collect();
    let forks = way::forks(archive, &reaches);
    if forks.is_empty() {
        return summaries;
    }
    let held = summaries.iter().filter(|(_, summary)| summary.reach.is_held).filter_map(|(place, _)| place.fork);
    let parts = way::along(&chains[0].partition, Branch::Newest, &held.collect::<Vec<_>>());
    for (at, left, finding) in forks {
        summaries[at].1.left = Some(left);
        summaries[at].1.findings.extend(finding);
    }
    let mut newest = Summary::default();
    for part in &parts {
        // What could not be read is a finding of its place.
        let index = chains.iter().position(|place| *place == part.place).and_then(|at| indexes[at].as_ref());
        let Some(index) = index else { continue };
        if let Err(error) = newest.follow(archive, part, index).await {
            // Damage on the way was found in its chain already; a cut segment's log was looked at only here.
            summaries[0].1.findings.push(Finding::of_end(archive, &part.place, &error));
            break;
        }
    }
    if chains[0].fork.is_none() {
        summaries[0].1.newest = Some(Box::new(newest));
    }
    summaries
}

/// Returns everything that was found wrong: with the topic objects, then with the places.
pub fn findings(archive: &Archive, summarised: &[Summarised]) -> Vec<Finding> {
    let mut findings: Vec<_> =
        summarised.iter().filter_map(|(timeline, _)| Finding::of_object(archive, timeline)).collect();
    let places = summarised.iter().flat_map(|(_, places)| places);
    findings.extend(places.flat_map(|(_, summary)| summary.findings.iter().cloned()));
    findings
}

impl Summary {
    /// Adds up the chain at `place`, as far as it can be read; returns its index.
    async fn read(&mut self, archive: &Archive, place: &Place) -> Option<Index> {
        match Opened::read(archive, place).await {
            Ok(Opened { index, findings, reach, staged }) => {
                self.staged = staged;
                index.iter().for_each(|row| self.add(&row));
                self.gaps.extend(index.gaps().map(Gap::new));
                (self.findings, self.reach) = (findings, reach);
                self.findings.extend(undecided(archive, place, &index));
                Some(index)
            }
            Err(error) => {
                // It may hold anything: no fork is to miss it.
                self.reach = Reach { is_held: true, next: None, is_whole: false };
                self.findings.push(Finding::of_end(archive, place, &error));
                None
            }
        }
    }

    /// Adds up what a reader takes from a part of a way.
    async fn follow(&mut self, archive: &Archive, part: &Part, index: &Index) -> Result<()> {
        let end = part.range.next;
        for row in index.iter().take_while(|row| row.range.first < end) {
            if row.range.next <= end {
                self.add(&row);
                continue;
            }
            let segment = Segment::open(archive, &part.place, &row).await?;
            let Before { records, first, last } = way::count_before(&segment, end).await?;
            let range = OffsetRange { next: end, ..row.range };
            self.add(&Row { range, records, first_record: first, last_record: last, ..row });
        }
        let gaps = index.gaps().take_while(|(row, _)| row.range.first < end);
        self.gaps.extend(gaps.map(|(row, reason)| {
            let range = OffsetRange { next: row.range.next.min(end), ..row.range };
            Gap::new((Row { range, ..row }, reason))
        }));
        Ok(())
    }

    fn add(&mut self, row: &Row) {
        let first = self.range.map_or(row.range.first, |range| range.first);
        self.range = Some(OffsetRange { first, next: row.range.next });
        self.first_record = self.first_record.or(row.first_record);
        self.last_record = row.last_record.or(self.last_record);
        self.records += row.records;
        self.converted += row.converted;
        self.segments += 1;
        self.bytes += row.length_bytes;
        self.max_time = self.max_time.max(row.max_time);
        self.sealed_at = Some(row.sealed_at);
        self.first_time = self.first_time.or(row.first_time);
    }
}

/// Returns the finding that a chain holds undecided transactions, if it does: their records are not counted.
fn undecided(archive: &Archive, place: &Place, index: &Index) -> Option<Finding> {
    let mut held = index.iter().filter(|row| row.has_undecided);
    let first = held.next()?.range;
    let (count, next) = held.fold((1, first.next), |(count, _), row| (count + 1, row.range.next));
    let detail = format!(
        "{count} of its segments hold transactions of which nobody knows any more whether they were aborted; \
                          their records are not counted"
    );
    let range = Some(OffsetRange { next, ..first });
    Some(Finding { what: What::Undecided, object: archive.store().describe(&place.folder), range, detail })
}

impl Gap {
    fn new((row, reason): (Row, Arc<str>)) -> Self {
        Self { range: row.range, reason: reason.to_string(), at: row.sealed_at }
    }
}
