//! The catalogs of a chain that is being written: which are due, and their making.
//!
//! **Order.** A catalog is made when the last segment of it is committed, the lower levels first, and before the next
//! segment is: see `archive::sink`. What a crash leaves out is due again at the next start, by the names of what is there.
//!
//! **What it is made of.** One of level 1 of the rows in memory, at most [`MOST_FOLLOWED`]; one of level n of its parts,
//! which are read back. A part that is damaged or missing is gathered from what it was made of itself, at last the
//! sidecars, and written where it is missing. Where that fails too, the chain goes on without catalogs.
//!
//! **Memory.** A catalog of level 7 (280 thousand segments) is 32 MiB, made of six parts, of which one is in memory at a
//! time: up to 40 MiB beside the budget, in one place of the process at a time, as often as a partition completes
//! 280 thousand segments. Of level 5 it is 1 MiB.
//!
//! Cancel: a dropped call leaves what a crash leaves.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{End, beginning, read};
use crate::archive::Archive;
use crate::archive::catalog::{Catalog, Due, FAN_OUT, Joint, Levels, Name, Notes, Row, Rows};
use crate::archive::sidecar::{Kind as SegmentKind, Sidecar};
use crate::archive::source::Place;
use crate::archive::source::opened::Gathered;
use crate::crash;
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange};
use crate::store::Creation;

/// Segments behind the catalogs that are followed at a start, a request each. There are more than [`FAN_OUT`] only where
/// catalogs were lost or never made; `repair` makes them then.
pub const MOST_FOLLOWED: usize = FAN_OUT * FAN_OUT;

/// From this level on catalogs are made one at a time in the process: below it is a megabyte at most.
const LARGE_LEVEL: u8 = 6;

/// Held by who makes a large catalog.
static LARGE: Semaphore = Semaphore::const_new(1);

/// The catalogs of a chain that is being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upkeep {
    levels: Levels,
    /// The segments that are in no catalog that is there, as far as they follow.
    rows: Vec<(Row, Option<Arc<str>>)>,
    /// The catalogs that are to be made, in this order.
    due: Vec<Due>,
}

impl Upkeep {
    /// Takes up the chain behind the catalogs of `end`; returns what was found to be its last segment too. Where the
    /// segments behind the catalogs do not simply follow, the chain goes on without catalogs, and no last one is returned.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn take_up(archive: &Archive, place: &Place, end: &End) -> Result<(Self, Option<Sidecar>)> {
        let mut upkeep = Self::default();
        for name in &end.catalogs {
            upkeep.due.extend(upkeep.levels.add_catalog(*name));
        }
        let begins = match end.catalogued() {
            Some(next) => Some(next),
            None if end.segments.has_begin || place.fork.is_some() => beginning(archive, place).await?,
            None => None,
        };
        match upkeep.follow(archive, place, end, begins).await? {
            Some(last) => Ok((upkeep, last.or_else(|| end.last.clone()))),
            None => {
                upkeep.break_off();
                Ok((upkeep, None))
            }
        }
    }

    /// Follows the segments behind the catalogs; returns the last one, or `None` where they cannot be followed.
    async fn follow(
        &mut self,
        archive: &Archive,
        place: &Place,
        end: &End,
        begins: Option<Offset>,
    ) -> Result<Option<Option<Sidecar>>> {
        let logs = &end.segments.logs;
        if logs.len() > MOST_FOLLOWED {
            return Ok(None);
        }
        let (mut next, mut last) = (begins, None);
        for (at, &(first, _)) in logs.iter().enumerate() {
            if last.is_some() && next.is_some_and(|next| first < next) {
                tracing::warn!(folder = place.folder, offset = first, "passing over a segment inside another's range");
                continue;
            }
            let read = archive.readable_sidecar(&place.folder, &end.segments, at).await?;
            let Some(sidecar) = read else { return Ok(None) };
            let is_headless = next.is_none() && sidecar.kind == SegmentKind::Data && first > 0;
            if is_headless || !is_of(&sidecar, place, first) || next.is_some_and(|next| next != first) {
                return Ok(None);
            }
            next = Some(sidecar.range.next);
            self.add(&sidecar);
            last = Some(sidecar);
        }
        Ok(Some(last))
    }

    /// Adds the chain's next segment, whose log is committed.
    pub fn add(&mut self, sidecar: &Sidecar) {
        let note = (sidecar.kind == SegmentKind::Gap).then(|| sidecar.note.as_str().into());
        self.due.extend(self.levels.add(sidecar.range));
        if self.levels.is_broken() {
            self.break_off();
        } else {
            self.rows.push((Row::of(sidecar), note));
        }
    }

    /// Returns whether the chain goes on without catalogs.
    pub fn is_broken(&self) -> bool {
        self.levels.is_broken()
    }

    fn break_off(&mut self) {
        self.levels.break_off();
        self.rows.clear();
        self.due.clear();
    }

    /// Makes the catalogs that are due.
    ///
    /// # Errors
    /// Those of the store; what was not made is still due.
    pub async fn make(&mut self, archive: &Archive, place: &Place) -> Result<()> {
        let mut below = None;
        while let Some(due) = self.due.first().cloned() {
            let Name { level, range } = due.name;
            let _large = large(level).await;
            let made = match level {
                1 => Ok(self.of_rows(place, &due)),
                _ => of_parts(archive, place, &due, below.take()).await,
            };
            let bytes = match made {
                Ok(bytes) => bytes,
                Err(error) if error.is_unreadable() => {
                    let object = archive.store().describe(&super::key(place, due.name));
                    tracing::warn!(object, "cannot make a catalog, going on without catalogs: {error}; run `repair`");
                    self.break_off();
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            put(archive, place, due.name, bytes.clone()).await?;
            crash::point("catalog-created", &format_args!("{} level {level}", place.partition));
            below = Some((due.name, bytes));
            self.due.remove(0);
            if level == 1 {
                self.rows.retain(|(row, _)| row.range.next > range.next);
            }
        }
        Ok(())
    }

    /// Makes a catalog of level 1.
    fn of_rows(&self, place: &Place, due: &Due) -> Bytes {
        let mut joint = joint(place, due.name);
        for (row, note) in self.rows.iter().filter(|(row, _)| due.parts.contains(&row.range)) {
            let notes: Notes = note.iter().map(|note| (0, note.clone())).collect();
            joint.add(&Rows::new([row]), &notes);
        }
        joint.finish()
    }
}

/// Makes a catalog of those of the level below; `below` is one that was made just now.
async fn of_parts(archive: &Archive, place: &Place, due: &Due, below: Option<(Name, Bytes)>) -> Result<Bytes> {
    let mut joint = joint(place, due.name);
    for part in &due.parts {
        let name = Name { level: due.name.level - 1, range: *part };
        let catalog = match &below {
            Some((made, bytes)) if *made == name => Catalog::decode(bytes)?,
            _ => match read(archive, place, name).await {
                Err(error) if error.is_unreadable() => {
                    tracing::warn!("gathering anew what a catalog should hold: {error}");
                    let (catalog, sound) = gather(archive, place, name).await?;
                    mend(archive, place, &catalog, &sound).await?;
                    catalog
                }
                read => read?,
            },
        };
        joint.add(&catalog.rows, &catalog.notes);
    }
    Ok(joint.finish())
}

/// Reads a catalog, or gathers what it should hold; writes nothing.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when neither can be done; else the store's.
pub async fn read_or_gather(archive: &Archive, place: &Place, name: Name) -> Result<Catalog> {
    match read(archive, place, name).await {
        Err(error) if error.is_unreadable() => Ok(gather(archive, place, name).await?.0),
        read => read,
    }
}

/// Makes a catalog again of what is there below it; returns the catalogs that were sound, too.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when its segments are not all there, or cannot be read.
async fn gather(archive: &Archive, place: &Place, name: Name) -> Result<(Catalog, Vec<Name>)> {
    let mut gathered = Gathered::default();
    gathered.below(archive, place, name).await?;
    let partition = &place.partition;
    let joined = Catalog::join(partition.topic_id, partition.index, name.level, &gathered.pieces);
    // Decoding sees to it that there is no hole.
    let whole = Catalog::decode(&joined.encode()).ok().filter(|catalog| catalog.name() == name);
    let lost = || {
        Error::damaged("what a catalog was made of is not all there")
            .with("catalog", archive.store().describe(&super::key(place, name)))
    };
    Ok((whole.ok_or_else(lost)?, gathered.sound))
}

/// Writes what is missing of a catalog that was gathered, and of those below it but for the `sound` ones.
async fn mend(archive: &Archive, place: &Place, catalog: &Catalog, sound: &[Name]) -> Result<()> {
    let mut levels = Levels::default();
    for (at, row) in catalog.rows.iter().enumerate() {
        for due in levels.add(row.range).into_iter().filter(|due| due.name.level <= catalog.level) {
            let stands_for = |sound: &Name| sound.level >= due.name.level && sound.range.contains(row.range.first);
            if !sound.iter().any(stands_for) {
                let count = FAN_OUT.pow(due.name.level.into());
                put(archive, place, due.name, part_of(catalog, due.name, at + 1 - count..at + 1).encode()).await?;
            }
        }
    }
    Ok(())
}

/// Returns the catalog `name` whose rows are those of the numbers `rows` in `catalog`.
fn part_of(catalog: &Catalog, name: Name, rows: std::ops::Range<usize>) -> Catalog {
    let notes = catalog.notes.iter().filter(|(at, _)| rows.contains(&(*at as usize)));
    let notes = notes.map(|(at, note)| (at - rows.start as u32, note.clone())).collect();
    Catalog { level: name.level, notes, rows: catalog.rows.part(rows), ..*catalog }
}

/// Writes a catalog, unless it is there: of one name there is one content.
async fn put(archive: &Archive, place: &Place, name: Name, bytes: Bytes) -> Result<()> {
    let (store, key) = (archive.store(), super::key(place, name));
    if store.create(&key, bytes).await? == Creation::Created {
        return Ok(());
    }
    // An interrupted call may have created it, and we are about to go on behind it.
    store.settle(&format!("{}{}", place.folder, Name::folder(name.level))).await?;
    match read(archive, place, name).await {
        Err(error) if error.is_unreadable() => {
            tracing::warn!("a damaged catalog stands where ours would go: {error}; run `repair`");
            Ok(())
        }
        read => read.map(drop),
    }
}

fn joint(place: &Place, name: Name) -> Joint {
    let rows = FAN_OUT.saturating_pow(name.level.into());
    Joint::new(place.partition.topic_id, place.partition.index, name, rows)
}

/// Waits until a catalog of that level may be made.
async fn large(level: u8) -> Option<SemaphorePermit<'static>> {
    match level >= LARGE_LEVEL {
        true => LARGE.acquire().await.ok(),
        false => None,
    }
}

fn is_of(sidecar: &Sidecar, place: &Place, first: Offset) -> bool {
    let OffsetRange { first: begins, next } = sidecar.range;
    let is_ours = (sidecar.topic_id, sidecar.partition) == (place.partition.topic_id, place.partition.index);
    is_ours && begins == first && next > first
}
