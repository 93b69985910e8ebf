//! A chain's index, read from the store: its catalogs, then the segments that are in none yet.
//!
//! **What is damaged** is gone around: where a catalog cannot be read, those of the level below are, and at last the
//! sidecars; a finding says so. So the index is that of the chain's sidecars, whatever of its catalogs is left.
//!
//! **Memory:** the rows, 118 bytes a segment, which lie where they were read to; of what is on its way at most
//! [`READ_AT_ONCE_BYTES`], or one catalog. Listing while an agent writes is no snapshot: catalogs come first, then what
//! lies behind them, so that what moves from there into a catalog is seen at least once. Cancel: a dropped call is void.

use std::collections::VecDeque;

use super::Place;
use super::ahead::Reading;
use super::chain::{Chain, Finding, Link, What};
use super::way::Reach;
use crate::archive::Archive;
use crate::archive::catalog::{Catalog, FAN_OUT, Name, Notes, ROW_BYTES, Row, Rows};
use crate::archive::catalogs::{self, End};
use crate::archive::index::Index;
use crate::archive::sidecar::{Kind as SegmentKind, Sidecar};
use crate::error::{Kind, Result};
use crate::record::{Offset, OffsetRange};

/// Catalogs are read side by side up to this many bytes. Half of it takes longer on a slow link; double of it would be
/// most of what a million rows hold.
const READ_AT_ONCE_BYTES: usize = 32 << 20;

/// And up to this many catalogs: an open chain has a few dozen.
const READ_AT_ONCE: usize = 8;

/// The index of a chain.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The segments.
    pub index: Index,
    /// What is not as it should be, as far as opening met it; `verify` looks at everything.
    pub findings: Vec<Finding>,
    /// How far the chain reaches.
    pub reach: Reach,
    /// What the sidecars that were read say of stages; catalogs do not tell.
    pub staged: Staged,
}

/// What sidecars say of stages: of those segments that were in no catalog that could be read, the newest of a sound chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Staged {
    /// Sidecars that were read.
    pub segments: u64,
    /// The stages that they name, each once.
    pub stages: Vec<String>,
    /// Records that those left out.
    pub records: u64,
    /// Batches among what was left out that were kept as they came.
    pub dead_letters: u64,
}

impl Staged {
    fn add(&mut self, sidecar: &Sidecar) {
        self.segments += 1;
        for stage in &sidecar.stages {
            if !self.stages.contains(stage) {
                self.stages.push(stage.clone());
            }
        }
        self.records += sidecar.left_out.iter().map(|left_out| u64::from(left_out.records)).sum::<u64>();
        self.dead_letters += sidecar.left_out.iter().filter(|left_out| left_out.dead_letter.is_some()).count() as u64;
    }
}

impl Opened {
    /// Opens the index of the chain at `place`.
    ///
    /// # Errors
    /// Those of the store. What is damaged is a finding.
    pub async fn read(archive: &Archive, place: &Place) -> Result<Self> {
        let end = End::find(archive, place).await?;
        let mut gathered = Gathered::default();
        gathered.catalogs(archive, place, &end.catalogs).await?;
        let mut chain = match end.catalogued() {
            None => Chain::listed(archive, place, end.segments),
            Some(first) => Chain::part(archive, place, OffsetRange { first, next: Offset::MAX }, end.segments),
        };
        gathered.walk(&mut chain).await?;
        let mut index = Index::default();
        for (rows, notes) in gathered.pieces {
            index.extend(rows, notes);
        }
        let reach = Reach { is_held: !index.is_empty() || chain.size().0 > 0, next: chain.reached(), is_whole: true };
        Ok(Self { index, findings: gathered.findings, reach, staged: gathered.staged })
    }

    /// Takes in what was added to the chain since it was read.
    ///
    /// # Errors
    /// Those of the store; then it is as it was.
    pub async fn refresh(&mut self, archive: &Archive, place: &Place) -> Result<()> {
        let Some(first) = self.index.range().map(|range| range.next).filter(|next| self.reach.next == Some(*next))
        else {
            // What ends with something else than a segment is looked at again as a whole.
            *self = Self::read(archive, place).await?;
            return Ok(());
        };
        let part = OffsetRange { first, next: Offset::MAX };
        let listing = catalogs::segments_from(archive.store(), place, first, None).await?;
        let mut chain = Chain::part(archive, place, part, listing);
        let mut gathered = Gathered::default();
        gathered.walk(&mut chain).await?;
        for (rows, notes) in gathered.pieces {
            self.index.extend(rows, notes);
        }
        // What was unfinished at the end then is finished, or found again.
        self.findings.retain(|finding| finding.what != What::Unfinished);
        self.findings.append(&mut gathered.findings);
        self.reach.next = chain.reached();
        Ok(())
    }
}

/// Rows on their way from the store, in order.
#[derive(Default)]
pub(in crate::archive) struct Gathered {
    /// The rows, each with the reasons of the gaps among them.
    pub(in crate::archive) pieces: Vec<(Rows, Notes)>,
    /// The catalogs that were read.
    pub(in crate::archive) sound: Vec<Name>,
    /// What was met that is not as it should be.
    pub(in crate::archive) findings: Vec<Finding>,
    /// What the sidecars that were read say of stages.
    staged: Staged,
}

impl Gathered {
    /// Reads catalogs that follow on each other.
    pub(in crate::archive) async fn catalogs(
        &mut self,
        archive: &Archive,
        place: &Place,
        names: &[Name],
    ) -> Result<()> {
        let mut waiting = names.iter().copied();
        let mut upcoming = waiting.next();
        let mut reading: VecDeque<(Name, Reading<Catalog>)> = VecDeque::new();
        loop {
            while let Some(name) = upcoming {
                let bytes = |name: Name| FAN_OUT.saturating_pow(name.level.into()).saturating_mul(ROW_BYTES);
                let under_way = reading.iter().fold(bytes(name), |sum, (name, _)| sum.saturating_add(bytes(*name)));
                if !reading.is_empty() && (under_way > READ_AT_ONCE_BYTES || reading.len() >= READ_AT_ONCE) {
                    break;
                }
                let (archive, place) = (archive.clone(), place.clone());
                let read = Reading::begin(async move { catalogs::read(&archive, &place, name).await });
                reading.push_back((name, read));
                upcoming = waiting.next();
            }
            let Some((name, read)) = reading.pop_front() else { return Ok(()) };
            let read = read.end().await;
            self.catalog(archive, place, name, read).await?;
        }
    }

    /// Takes a catalog that was read; goes down a level where that failed.
    async fn catalog(&mut self, archive: &Archive, place: &Place, name: Name, read: Result<Catalog>) -> Result<()> {
        match read {
            Ok(catalog) => {
                self.sound.push(name);
                self.pieces.push((catalog.rows, catalog.notes));
                Ok(())
            }
            Err(error) if error.is_unreadable() => {
                let what = if error.kind() == Kind::Damaged { What::DamagedCatalog } else { What::Unchecked };
                let object = archive.store().describe(&catalogs::key(place, name));
                let detail = format!("{error}; going on with what it was made of");
                self.findings.push(Finding { what, object, range: Some(name.range), detail });
                self.below(archive, place, name).await
            }
            Err(error) => Err(error),
        }
    }

    /// Reads what a catalog was made of: of each lower level what follows, and at last the segments.
    pub(in crate::archive) async fn below(&mut self, archive: &Archive, place: &Place, name: Name) -> Result<()> {
        let OffsetRange { first: mut from, next: until } = name.range;
        for level in (1..name.level).rev() {
            let mut names = catalogs::siblings(archive, place, level, from, &[]).await?;
            names.retain(|name| name.range.next <= until);
            from = names.last().map_or(from, |last| last.range.next);
            Box::pin(self.catalogs(archive, place, &names)).await?;
        }
        if from == until {
            return Ok(());
        }
        let part = OffsetRange { first: from, next: until };
        let listing = catalogs::segments_from(archive.store(), place, from, Some(until)).await?;
        let mut chain = Chain::part(archive, place, part, listing);
        self.walk(&mut chain).await?;
        // At the end of a part nothing is unfinished: somebody had seen what comes behind.
        self.findings.retain(|finding| finding.what != What::Unfinished);
        if let Some(first) = chain.reached().filter(|reached| *reached < until) {
            let detail = "no segment covers them, and a catalog says that they were archived".to_owned();
            let (object, range) = (archive.store().describe(&place.folder), OffsetRange { first, next: until });
            self.findings.push(Finding { what: What::Hole, object, range: Some(range), detail });
        }
        Ok(())
    }

    /// Takes the segments of a chain, to its end.
    async fn walk(&mut self, chain: &mut Chain) -> Result<()> {
        while let Some(link) = chain.next().await? {
            match link {
                Link::Segment(segment) => {
                    self.staged.add(&segment.sidecar);
                    let is_gap = segment.sidecar.kind == SegmentKind::Gap;
                    let note = is_gap.then(|| (0, segment.sidecar.note.as_str().into()));
                    self.pieces.push((Rows::new([&Row::of(&segment.sidecar)]), note.into_iter().collect()));
                }
                Link::Finding(finding) => self.findings.push(finding),
            }
        }
        Ok(())
    }
}
