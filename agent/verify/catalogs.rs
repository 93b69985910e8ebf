//! The catalogs of one chain, held against its sidecars: each is exactly what they give, none is missing that the
//! segments before the last complete, and none is there that the chain's segments do not give.
//!
//! Memory: a running digest for each level, the reasons of gaps, the names of the catalogs, and one catalog at a time.

use std::collections::BTreeSet;
use std::mem;

use xxhash_rust::xxh3::Xxh3;

use crate::archive::Archive;
use crate::archive::catalog::{self, Catalog, Due, Levels, Name, Notes, Row, Rows};
use crate::archive::sidecar::{Kind, Sidecar};
use crate::archive::source::Place;
use crate::archive::source::chain::{Finding, What};
use crate::error::{Kind as ErrorKind, Result};
use crate::record::{Offset, OffsetRange};

/// Levels that are followed; the chain that fills the last has two thousand million segments.
const LEVELS: usize = 12;

/// The catalogs of one chain.
pub(super) struct Catalogs<'a> {
    archive: &'a Archive,
    place: &'a Place,
    /// Those that were listed and that no segment has explained yet.
    listed: BTreeSet<(Offset, Offset, u8)>,
    levels: Levels,
    /// At n − 1 what is open of level n.
    open: Vec<Wanted>,
    /// Those that the last segment has completed: its writer may have stopped before it wrote them.
    fresh: Vec<(Name, Wanted)>,
    /// The chain cannot be followed any more: what catalogs there must be is not known.
    is_lost: bool,
}

/// What a catalog must hold.
#[derive(Default)]
struct Wanted {
    rows: u32,
    digest: Xxh3,
    notes: Notes,
    /// A segment's sidecar is damaged: what its row must be is not known.
    has_unknown: bool,
}

impl<'a> Catalogs<'a> {
    /// Lists the catalogs of the chain at `place`; names that are none's are findings.
    pub(super) async fn list(archive: &'a Archive, place: &'a Place, findings: &mut Vec<Finding>) -> Result<Self> {
        let folder = format!("{}{}", place.folder, catalog::FOLDER);
        let mut listed = BTreeSet::new();
        for entry in archive.store().list(&folder).await? {
            let Some(level) = Name::parse_level(&entry.name).filter(|_| entry.is_folder) else {
                findings.push(Finding::unknown(archive, &format!("{folder}{}", entry.name)));
                continue;
            };
            for entry in archive.store().list(&format!("{}{}", place.folder, Name::folder(level))).await? {
                match Name::parse(level, &entry.name).filter(|_| !entry.is_folder) {
                    Some(name) => {
                        listed.insert((name.range.next, name.range.first, level));
                    }
                    None => findings.push(Finding::unknown(archive, &format!("{folder}{level}/{}", entry.name))),
                }
            }
        }
        let open = (0..LEVELS).map(|_| Wanted::default()).collect();
        let levels = Levels::default();
        Ok(Self { archive, place, listed, levels, open, fresh: Vec::new(), is_lost: false })
    }

    /// Takes the chain's next segment.
    pub(super) async fn segment(&mut self, sidecar: &Sidecar, findings: &mut Vec<Finding>) -> Result<()> {
        let rows = Rows::new([&Row::of(sidecar)]);
        let note = (sidecar.kind == Kind::Gap).then_some(sidecar.note.as_str());
        for wanted in &mut self.open {
            if let Some(note) = note {
                wanted.notes.push((wanted.rows, note.into()));
            }
            wanted.digest.update(rows.as_bytes());
            wanted.rows += 1;
        }
        self.add(sidecar.range, findings).await
    }

    /// Takes what was found instead of a segment, or between two.
    pub(super) async fn finding(&mut self, finding: &Finding, findings: &mut Vec<Finding>) -> Result<()> {
        match (finding.what, finding.range) {
            (What::NoSidecar | What::DamagedSidecar | What::DamagedLog, Some(range)) => {
                for wanted in &mut self.open {
                    wanted.has_unknown = true;
                    wanted.rows += 1;
                }
                self.add(range, findings).await
            }
            (What::NoSidecar | What::DamagedSidecar | What::DamagedLog | What::Hole, _) => {
                self.is_lost = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn add(&mut self, range: OffsetRange, findings: &mut Vec<Finding>) -> Result<()> {
        if self.is_lost {
            return Ok(());
        }
        // There is a segment behind those that completed them.
        for (name, wanted) in mem::take(&mut self.fresh) {
            self.check(name, wanted, true, findings).await?;
        }
        for Due { name, .. } in self.levels.add(range) {
            if let Some(wanted) = self.open.get_mut(usize::from(name.level) - 1) {
                self.fresh.push((name, mem::take(wanted)));
            }
        }
        Ok(())
    }

    /// Ends with the chain, which ends at `reached`.
    pub(super) async fn end(mut self, reached: Option<Offset>, findings: &mut Vec<Finding>) -> Result<()> {
        for (name, wanted) in mem::take(&mut self.fresh) {
            self.check(name, wanted, false, findings).await?;
        }
        let mut promised: Option<(Offset, Name)> = None;
        for (next, first, level) in mem::take(&mut self.listed) {
            let name = Name { level, range: OffsetRange { first, next } };
            let Some(_) = self.read(name, findings).await? else { continue };
            let behind = reached.is_none_or(|reached| next > reached);
            if behind && !self.is_lost {
                promised = Some((next, name));
            } else if !self.is_lost {
                self.found(What::DamagedCatalog, name, "the chain's segments do not give it".to_owned(), findings);
            }
        }
        if let Some((next, name)) = promised {
            let range = reached.map(|first| OffsetRange { first, next });
            let detail = format!("they were archived, as a catalog says: {}", self.describe(name));
            let object = self.archive.store().describe(&self.place.folder);
            findings.push(Finding { what: What::Hole, object, range, detail });
        }
        Ok(())
    }

    /// Holds a catalog against what its sidecars give.
    async fn check(&mut self, name: Name, wanted: Wanted, must_be: bool, findings: &mut Vec<Finding>) -> Result<()> {
        let was_listed = self.listed.remove(&(name.range.next, name.range.first, name.level));
        if !was_listed && !must_be {
            return Ok(());
        }
        let before = findings.len();
        match self.read(name, findings).await? {
            Some(catalog) if !wanted.is_met_by(&catalog) => {
                self.found(What::DamagedCatalog, name, "it does not hold what its sidecars say".to_owned(), findings);
            }
            None if findings.len() == before => {
                let detail = "the segments that complete it are followed by another".to_owned();
                self.found(What::MissingCatalog, name, detail, findings);
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads a catalog; `None` where there is none, or it cannot be read, which is a finding.
    async fn read(&self, name: Name, findings: &mut Vec<Finding>) -> Result<Option<Catalog>> {
        let Some(bytes) = self.archive.store().read(&self.key(name)).await? else { return Ok(None) };
        let partition = &self.place.partition;
        match Catalog::decode(&bytes) {
            Ok(catalog)
                if catalog.name() == name
                    && (catalog.topic_id, catalog.partition) == (partition.topic_id, partition.index) =>
            {
                return Ok(Some(catalog));
            }
            Ok(_) => self.found(What::DamagedCatalog, name, "it is another one's".to_owned(), findings),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                self.found(What::DamagedCatalog, name, error.to_string(), findings);
            }
            Err(error) if error.kind() == ErrorKind::Newer => {
                self.found(What::Unchecked, name, error.to_string(), findings);
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    fn found(&self, what: What, name: Name, detail: String, findings: &mut Vec<Finding>) {
        findings.push(Finding { what, object: self.describe(name), range: Some(name.range), detail });
    }

    fn key(&self, name: Name) -> String {
        format!("{}{name}", self.place.folder)
    }

    fn describe(&self, name: Name) -> String {
        self.archive.store().describe(&self.key(name))
    }
}

impl Wanted {
    fn is_met_by(&self, catalog: &Catalog) -> bool {
        let mut digest = Xxh3::new();
        digest.update(catalog.rows.as_bytes());
        let same = digest.digest128() == self.digest.digest128() && catalog.notes == self.notes;
        catalog.rows.len() == self.rows as usize && (self.has_unknown || same)
    }
}
