//! The catalogs of a chain in the store: which there are, and what lies behind them; nothing here writes.
//!
//! A chain is found by names alone: from the highest level down, each catalog begins where the one before ends, and the
//! first begins where the chain does by its own word (`begin.json`, or the name of a fork); then come the segments that
//! are in none. Names that do not follow are passed over. What the last catalog promises is looked at, unless a segment
//! begins where it ends: a name alone must not move a chain's end.
//!
//! **Requests.** Where the store can begin a listing in the middle, each level costs one, and so does what lies behind.
//! Elsewhere (azblob, memory) a listing by the prefix of the next offset finds one catalog or segment at a time. There a
//! hole behind all catalogs of which not even a sidecar is left looks like the chain's end: it needs the whole folder, as
//! `verify` lists it.
//! Without catalogs, or without a word of where the chain begins, the whole folder is listed.
//!
//! Cancel: a dropped call is void.

pub mod upkeep;

use super::catalog::{self, Catalog, Name, Row, Rows};
use super::sidecar::Sidecar;
use super::source::Place;
use super::{Archive, Segments, begin, layout};
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, OffsetRange};
use crate::store::Store;

/// Catalogs at a chain's end that are found not to hold what they promise before the catalogs are given up. One damaged
/// catalog of each level is less.
const MOST_DOUBTED: usize = 12;

/// How a chain ends.
pub struct End {
    /// The catalogs that no other stands for, in the order of their offsets.
    pub catalogs: Vec<Name>,
    /// The segments behind them; all of the chain where there are no catalogs.
    pub segments: Segments,
    /// The last segment that is in catalogs, where no segment begins at their end.
    pub last: Option<Sidecar>,
}

impl End {
    /// Returns where the catalogs end; `None` when there are none.
    pub fn catalogued(&self) -> Option<Offset> {
        self.catalogs.last().map(|last| last.range.next)
    }

    /// Finds how the chain at `place` ends.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn find(archive: &Archive, place: &Place) -> Result<Self> {
        let mut doubted = Vec::new();
        loop {
            let catalogs =
                if doubted.len() < MOST_DOUBTED { names(archive, place, &doubted).await? } else { Vec::new() };
            let Some(&promise) = catalogs.last() else {
                let segments = Segments::new(archive.store().list(&place.folder).await?);
                return Ok(Self { catalogs, segments, last: None });
            };
            let segments = segments_from(archive.store(), place, promise.range.next, None).await?;
            if segments.logs.first().is_some_and(|&(first, _)| first == promise.range.next) {
                return Ok(Self { catalogs, segments, last: None });
            }
            if let Some(last) = last_segment(archive, place, promise).await? {
                return Ok(Self { catalogs, segments, last: Some(last) });
            }
            let object = archive.store().describe(&key(place, promise));
            tracing::warn!(object, "passing over a catalog: the last segment that it promises is not there");
            doubted.push(promise);
        }
    }
}

/// Reads a catalog.
///
/// # Errors
/// [`Kind::Damaged`] when it is not there, cannot be read, or is another one's; else the store's.
pub async fn read(archive: &Archive, place: &Place, name: Name) -> Result<Catalog> {
    let key = key(place, name);
    let read = archive.store().read(&key).await?;
    let damaged = |error: Error| error.with("object", archive.store().describe(&key));
    let bytes = read.ok_or_else(|| damaged(Error::damaged("catalog is not there")))?;
    let catalog = Catalog::decode(&bytes).map_err(damaged)?;
    let partition = &place.partition;
    let is_ours = (catalog.topic_id, catalog.partition) == (partition.topic_id, partition.index);
    match is_ours && catalog.name() == name {
        true => Ok(catalog),
        false => Err(damaged(Error::damaged("catalog is another one's"))),
    }
}

/// Returns the key of a catalog.
pub fn key(place: &Place, name: Name) -> String {
    format!("{}{name}", place.folder)
}

/// Returns the catalogs of a chain that no other stands for, in the order of their offsets, `doubted` left aside.
async fn names(archive: &Archive, place: &Place, doubted: &[Name]) -> Result<Vec<Name>> {
    let folder = format!("{}{}", place.folder, catalog::FOLDER);
    let listed = archive.store().list(&folder).await?;
    let folders = listed.iter().filter(|entry| entry.is_folder);
    let mut levels: Vec<u8> = folders.filter_map(|entry| Name::parse_level(&entry.name)).collect();
    levels.sort_unstable();
    let mut next = if levels.is_empty() { None } else { beginning(archive, place).await? };
    let mut names: Vec<Name> = Vec::new();
    for level in levels.into_iter().rev() {
        let Some(from) = next else { break };
        names.extend(siblings(archive, place, level, from, doubted).await?);
        next = names.last().map_or(next, |last| Some(last.range.next));
    }
    Ok(names)
}

/// Returns the catalogs of a level that follow on each other from `from` on, `doubted` left aside.
pub(super) async fn siblings(
    archive: &Archive,
    place: &Place,
    level: u8,
    from: Offset,
    doubted: &[Name],
) -> Result<Vec<Name>> {
    let folder = format!("{}{}", place.folder, Name::folder(level));
    let store = archive.store();
    let mut siblings = Vec::new();
    let mut next = from;
    let mut follow = |listed: Vec<crate::store::Listed>, next: &mut Offset| {
        let before = siblings.len();
        for entry in listed.iter().filter(|entry| !entry.is_folder) {
            let name = Name::parse(level, &entry.name).filter(|name| name.range.first == *next);
            if let Some(name) = name.filter(|name| !doubted.contains(name)) {
                *next = name.range.next;
                siblings.push(name);
            }
        }
        siblings.len() > before
    };
    match store.list_after(&folder, &Name::prefix(next)).await? {
        Some(listed) => {
            follow(listed, &mut next);
        }
        None => while follow(store.list_from(&folder, &Name::prefix(next)).await?, &mut next) {},
    }
    Ok(siblings)
}

/// Returns where the chain begins, by its own word; `None` where that is not there or cannot be read.
pub(super) async fn beginning(archive: &Archive, place: &Place) -> Result<Option<Offset>> {
    if let Some(fork) = place.fork {
        return Ok(Some(fork.end));
    }
    match begin::read(archive.store(), &place.partition, &place.folder).await {
        Ok(begin) => Ok(begin.map(|begin| begin.offset)),
        Err(error) if error.kind() == Kind::Damaged => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lists the segments of a chain that begin at `from` or behind it, and before `until`; one must end at `from`.
///
/// Where the store cannot begin a listing in the middle, and where not all of the chain is asked for, segment follows on
/// segment; the whole folder is listed where one does not. But of the chain's end it is one that nothing follows, not
/// even a sidecar.
pub(super) async fn segments_from(
    store: &Store,
    place: &Place,
    from: Offset,
    until: Option<Offset>,
) -> Result<Segments> {
    if until.is_none()
        && let Some(listed) = store.list_after(&place.folder, &format!("{from:020}")).await?
    {
        return Ok(Segments::new(listed));
    }
    let mut listed = Vec::new();
    let mut next = from;
    while until.is_none_or(|until| next < until) {
        let found = store.list_from(&place.folder, &format!("{next:020}.")).await?;
        let here = Segments::new(found.clone());
        listed.extend(found);
        let Some(&(first, length_bytes)) = here.logs.first() else {
            if until.is_none() && here.sidecars.is_empty() {
                break;
            }
            // A sidecar without its log is at the chain's end, or a log is lost.
            return all_between(store, place, from, until.unwrap_or(Offset::MAX)).await;
        };
        match end_of(store, place, &here, first, length_bytes).await? {
            Some(end) => next = end,
            // Where the next one begins only the whole folder tells.
            None => return all_between(store, place, from, until.unwrap_or(Offset::MAX)).await,
        }
    }
    Ok(Segments::new(listed))
}

async fn all_between(store: &Store, place: &Place, from: Offset, until: Offset) -> Result<Segments> {
    let mut segments = Segments::new(store.list(&place.folder).await?);
    segments.logs.retain(|&(first, _)| (from..until).contains(&first));
    segments.sidecars.retain(|&(first, ..)| (from..until).contains(&first));
    Ok(segments)
}

/// Returns where a segment ends by the one sidecar that fits it; `None` where none or several do, or it cannot be read.
async fn end_of(
    store: &Store,
    place: &Place,
    segments: &Segments,
    first: Offset,
    length_bytes: u64,
) -> Result<Option<Offset>> {
    let mut fitting = segments.sidecars(first, length_bytes);
    let (Some(digest), None) = (fitting.next(), fitting.next()) else { return Ok(None) };
    let key = format!("{}{}", place.folder, layout::sidecar(first, length_bytes, digest));
    let bytes = store.read(&key).await?.unwrap_or_default();
    let range = Sidecar::decode(&bytes).ok().map(|sidecar| sidecar.range);
    Ok(range.filter(|range| range.first == first && range.next > first).map(|range| range.next))
}

/// Reads the sidecar of the last segment of a catalog; `None` where the catalog does not tell it, or the segment is not
/// there, or is none of this chain that ends where the catalog does.
async fn last_segment(archive: &Archive, place: &Place, name: Name) -> Result<Option<Sidecar>> {
    let Some(row) = last_row(archive, place, name).await? else { return Ok(None) };
    let OffsetRange { first, next } = row.range;
    if next != name.range.next || first < name.range.first {
        return Ok(None);
    }
    let listed = archive.store().list_from(&place.folder, &format!("{first:020}.")).await?;
    if !Segments::new(listed).logs.contains(&(first, row.length_bytes)) {
        return Ok(None);
    }
    sidecar_of(archive, place, &row).await
}

/// Reads the sidecar of the segment of `row`; `None` where it is not there, or says otherwise.
pub(super) async fn sidecar_of(archive: &Archive, place: &Place, row: &Row) -> Result<Option<Sidecar>> {
    let key = format!("{}{}", place.folder, layout::sidecar(row.range.first, row.length_bytes, row.digest));
    let bytes = archive.store().read(&key).await?.unwrap_or_default();
    let partition = &place.partition;
    let fits = |sidecar: &Sidecar| {
        Row::of(sidecar) == *row && (sidecar.topic_id, sidecar.partition) == (partition.topic_id, partition.index)
    };
    Ok(Sidecar::decode(&bytes).ok().filter(fits))
}

/// Reads the last row of a catalog, which may have 32 MiB of them, as it is: the sidecar that it names has a checksum.
async fn last_row(archive: &Archive, place: &Place, name: Name) -> Result<Option<Row>> {
    let key = key(place, name);
    let head = archive.store().read_range(&key, 0..catalog::HEAD_BYTES as u64).await?;
    let Some(range) = catalog::last_row(&head) else { return Ok(None) };
    let bytes = archive.store().read_range(&key, range).await?;
    Ok(Rows::of_bytes(&bytes).and_then(|rows| rows.get(0)))
}
