//! A chain added up from its sidecars: what tables show of a partition.
//!
//! No log is read, unless a segment has two fitting sidecars or none (see [`chain`](super::chain)), or a fork was cut in
//! the middle of one. What cannot be read
//! is a finding of its place, and the other places are added up all the same.

use super::chain::{Chain, Finding, Link};
use super::chunks::Segment;
use super::way::{self, Branch, Left, Part, Reach};
use super::{Place, Timeline};
use crate::archive::Archive;
use crate::archive::sidecar::{Kind, Sidecar};
use crate::error::Result;
use crate::record::{Offset, OffsetRange, Timestamp};

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
    let mut summarised = Vec::new();
    for mut timeline in super::timelines(archive).await? {
        let mut summaries = Vec::new();
        for place in std::mem::take(&mut timeline.places) {
            let summary = Summary::read(archive, &place).await;
            summaries.push((place, summary));
        }
        follow_forks(archive, &mut summaries).await;
        summarised.push((timeline, summaries));
    }
    Ok(summarised)
}

/// Adds what the forks among the chains of a topic are beside, and what a reader gets along the newest of each partition.
async fn follow_forks(archive: &Archive, summaries: &mut [(Place, Summary)]) {
    let chains: Vec<_> = summaries.iter().map(|(place, summary)| (place, summary.reach)).collect();
    for (at, left, finding) in way::forks(archive, &chains) {
        summaries[at].1.left = Some(left);
        summaries[at].1.findings.extend(finding);
    }
    let forked: Vec<_> = summaries.iter().filter(|(_, summary)| summary.left.is_some()).collect();
    let forked: Vec<_> = forked.into_iter().map(|(place, _)| place.partition.clone()).collect();
    for (place, summary) in summaries.iter_mut().filter(|(place, _)| place.fork.is_none()) {
        if forked.contains(&place.partition) {
            let mut newest = Summary::default();
            let read = match way::way(archive, &place.partition, Branch::Newest).await {
                Ok(parts) => newest.follow(archive, &parts).await,
                Err(error) => Err(error),
            };
            // Damage on the way was found in its chain already; a cut segment's log was looked at only here.
            summary.findings.extend(read.err().map(|error| Finding::of_end(archive, place, &error)));
            summary.newest = Some(Box::new(newest));
        }
    }
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
    /// Adds up the chain at `place`, as far as it can be read.
    pub async fn read(archive: &Archive, place: &Place) -> Self {
        let mut summary = Self::default();
        if let Err(error) = summary.walk(archive, place).await {
            summary.findings.push(Finding::of_end(archive, place, &error));
        }
        summary
    }

    async fn walk(&mut self, archive: &Archive, place: &Place) -> Result<()> {
        let mut chain = Chain::open(archive, place).await?;
        let walked = loop {
            match chain.next().await {
                Ok(Some(Link::Segment(segment))) => self.add(&segment.sidecar),
                Ok(Some(Link::Finding(finding))) => self.findings.push(finding),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.reach = Reach { is_held: chain.size().0 > 0, next: chain.reached(), is_whole: walked.is_ok() };
        walked
    }

    /// Adds up what a reader takes from each part of a way.
    async fn follow(&mut self, archive: &Archive, parts: &[Part]) -> Result<()> {
        for part in parts {
            let mut chain = Chain::open(archive, &part.place).await?;
            while let Some(link) = chain.next().await? {
                match link {
                    Link::Segment(segment) if segment.sidecar.range.first >= part.range.next => break,
                    Link::Segment(segment) if segment.sidecar.range.next > part.range.next => {
                        self.add(&before(&segment, part.range.next).await?);
                    }
                    Link::Segment(segment) => self.add(&segment.sidecar),
                    Link::Finding(_) => {}
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, sidecar: &Sidecar) {
        let first = self.range.map_or(sidecar.range.first, |range| range.first);
        self.range = Some(OffsetRange { first, next: sidecar.range.next });
        self.first_record = self.first_record.or(sidecar.first_record);
        self.last_record = sidecar.last_record.or(self.last_record);
        self.records += sidecar.records;
        self.converted += sidecar.converted;
        self.segments += 1;
        self.bytes += sidecar.length_bytes;
        self.max_time = self.max_time.max(sidecar.max_time);
        self.sealed_at = Some(sidecar.sealed_at);
        if sidecar.kind == Kind::Gap {
            self.gaps.push(Gap { range: sidecar.range, reason: sidecar.note.clone(), at: sidecar.sealed_at });
        } else if sidecar.max_time.is_some() {
            self.first_time = self.first_time.or(sidecar.entries.first().map(|entry| entry.first_time));
        }
    }
}

/// Returns what the sidecar of `segment` would say if it ended at `end`, as far as a summary asks.
async fn before(segment: &Segment, end: Offset) -> Result<Sidecar> {
    let counted = way::count_before(segment, end).await?;
    let mut sidecar = segment.sidecar.clone();
    sidecar.range.next = end;
    sidecar.records = counted.records;
    (sidecar.first_record, sidecar.last_record) = (counted.first, counted.last);
    Ok(sidecar)
}
