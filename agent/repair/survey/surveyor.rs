//! The walk of a survey: from log to log, each with what describes it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::evidence::Evidence;
use super::{
    AT_ONCE, Batch, Begin, COPIES, Inner, LOOK_AHEAD, Object, Segment, Staged, State, Step, Survey, note,
    parse_copy_name,
};
use crate::archive::catalog::{Catalog, Name as CatalogName, Row};
use crate::archive::layout::{self, Name};
use crate::archive::rebuild::{Decider, Known};
use crate::archive::sidecar::{Kind, Sidecar};
use crate::archive::source::Place;
use crate::archive::{Archive, begin, catalog};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::record::{Offset, OffsetRange};
use crate::repair::scan::{Scan, Told, scan};
use crate::store::Store;

pub(super) struct Surveyor<'a> {
    store: &'a Store,
    place: &'a Place,
    deep: bool,
    pub(super) objects: HashMap<String, u64>,
    logs: Vec<(Offset, u64)>,
    sidecars: Vec<(Offset, u64, u128)>,
    begin: Begin,
    catalogs: Vec<(CatalogName, Object)>,
    /// The catalog that was read last.
    catalog: Option<Catalog>,
    copies: Vec<Object>,
    steps: Vec<Step>,
    inside: Vec<(Offset, u64)>,
    /// Names of sidecars that belong to a segment.
    owned: Vec<String>,
    next: Option<Offset>,
    decider: Decider,
    staged: Staged,
    /// Sidecars that were read ahead, by name.
    read_ahead: HashMap<String, Bytes>,
    /// The last segment, if it is sound and its log was not read.
    unread: Option<(Sidecar, u64)>,
    /// The end of the last segment whose transactions are to be decided.
    wanted: Option<Offset>,
    ahead: usize,
}

impl<'a> Surveyor<'a> {
    pub(super) async fn new(archive: &'a Archive, place: &'a Place, deep: bool) -> Result<Self> {
        let store = archive.store();
        let (mut objects, mut logs, mut sidecars) = (HashMap::new(), Vec::new(), Vec::new());
        let mut begin = None;
        for entry in store.list(&place.folder).await?.into_iter().filter(|entry| !entry.is_folder) {
            match Name::parse(&entry.name) {
                Some(Name::Log { first }) => logs.push((first, entry.size_bytes)),
                Some(Name::Sidecar { first, length_bytes, digest }) => sidecars.push((first, length_bytes, digest)),
                None if entry.name == layout::BEGIN => begin = Some(entry.size_bytes),
                None => continue,
            }
            let _ = objects.insert(entry.name, entry.size_bytes);
        }
        logs.sort_unstable();
        sidecars.sort_unstable();
        let begin = match begin {
            Some(bytes) if place.fork.is_none() => read_begin(archive, place, bytes).await?,
            _ => Begin::None,
        };
        let copies = store.list(&format!("{}{COPIES}", place.folder)).await?.into_iter();
        let copies = copies.filter(|entry| !entry.is_folder);
        let copies = copies.map(|entry| Object::listed(format!("{COPIES}{}", entry.name), entry.size_bytes));
        Ok(Self {
            store,
            place,
            deep,
            objects,
            logs,
            sidecars,
            catalogs: list_catalogs(store, place).await?,
            catalog: None,
            copies: copies.collect(),
            steps: Vec::new(),
            inside: Vec::new(),
            owned: Vec::new(),
            next: match begin {
                Begin::At(offset) => Some(offset),
                _ => place.fork.map(|fork| fork.end),
            },
            begin,
            decider: Decider::default(),
            staged: Staged::default(),
            read_ahead: HashMap::new(),
            unread: None,
            wanted: None,
            ahead: 0,
        })
    }

    pub(super) async fn run(mut self) -> Result<Survey> {
        let logs = self.logs.clone();
        // An older agent's begin came too late: the chain itself says where it begins.
        if let (Some(begin), Some(&(first, _))) = (self.next, logs.first())
            && first < begin
            && self.place.fork.is_none()
        {
            self.next = None;
        }
        for (at, &(first, bytes)) in logs.iter().enumerate() {
            if at.is_multiple_of(AT_ONCE) {
                self.read_ahead(&logs[at..logs.len().min(at + AT_ONCE)]).await?;
            }
            if self.next.is_some_and(|next| first < next) {
                self.inside.push((first, bytes));
                continue;
            }
            if let Some(next) = self.next.filter(|next| first > *next) {
                self.hole(next, first);
            }
            let following = logs.get(at + 1..).unwrap_or_default();
            let segment = self.segment(first, bytes, following).await?;
            if self.next.is_none()
                && let Some(begins) = self.begins_before(first, &segment.state)
            {
                self.hole(begins, first);
            }
            self.next = Some(segment.range.next);
            self.steps.push(Step::Segment(Box::new(segment)));
        }
        let inside = self.read_inside().await?;
        Ok(self.finish(inside))
    }

    /// Returns where the chain begins, if that is before its first log, at `first`, and no `begin.json` says it.
    fn begins_before(&self, first: Offset, state: &State) -> Option<Offset> {
        // An interrupted repair may have deleted the first log, and not yet created it from its copy.
        let copy = self.copies.iter().filter_map(|copy| parse_copy_name(&copy.name)).map(|(copy, ..)| copy).min();
        let copy = copy.filter(|copy| *copy < first);
        if first == 0 || !is_headless(state) {
            return copy;
        }
        let below = self.sidecars.first().map(|&(below, ..)| below).filter(|below| *below < first).unwrap_or(0);
        Some(copy.map_or(below, |copy| copy.min(below)))
    }

    /// Steps over a hole; where a copy may fill it from inside, another begins.
    fn hole(&mut self, first: Offset, next: Offset) {
        let copies = self.copies.iter().filter_map(|copy| parse_copy_name(&copy.name));
        let inside = copies.map(|(copy, ..)| copy).filter(|copy| first < *copy && *copy < next);
        let mut bounds: Vec<_> = inside.chain([first, next]).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let holes = bounds.windows(2).map(|pair| Step::Hole(OffsetRange { first: pair[0], next: pair[1] }));
        self.steps.extend(holes);
    }

    /// Reads the logs inside others: what they hold that no other does is not debris.
    async fn read_inside(&self) -> Result<Vec<Inner>> {
        let mut inside = Vec::new();
        for &(first, bytes) in &self.inside {
            let mut batches = Vec::new();
            let key = format!("{}{}", self.place.folder, layout::log(first));
            let scan = scan(self.store, &key, Told::listed(first, bytes), |header, _| {
                batches.extend(Batch::of(header));
                Ok(())
            });
            let scan = scan.await?;
            inside.push(Inner { first, bytes, scan, batches });
        }
        Ok(inside)
    }

    fn finish(mut self, inside: Vec<Inner>) -> Survey {
        self.owned.sort_unstable();
        let mut orphans = Vec::new();
        for &(first, length, digest) in &self.sidecars {
            let name = layout::sidecar(first, length, digest);
            if self.owned.binary_search(&name).is_err() {
                let bytes = self.objects[&name];
                orphans.push((first, Object::listed(name, bytes)));
            }
        }
        Survey {
            place: self.place.clone(),
            steps: self.steps,
            begin: self.begin,
            transactions: self.decider.finish(),
            staged: self.staged,
            objects: self.objects,
            inside,
            orphans,
            catalogs: self.catalogs,
            copies: self.copies,
        }
    }

    /// Looks at the log at `first`; `following` are the logs behind it.
    async fn segment(&mut self, first: Offset, bytes: u64, following: &[(Offset, u64)]) -> Result<Segment> {
        let (mut readable, mut damaged) = (Vec::new(), Vec::new());
        for digest in self.fitting(first, bytes) {
            let name = layout::sidecar(first, bytes, digest);
            match self.read_sidecar(&name).await? {
                Some(sidecar) => readable.push((name, sidecar)),
                None => damaged.push((digest, Object::listed(name.clone(), self.objects[&name]))),
            }
        }
        if readable.len() == 1 && damaged.is_empty() && !self.deep {
            let (name, sidecar) = readable.remove(0);
            self.owned.push(name);
            let next_is_bare = following.first().is_some_and(|&(next, bytes)| self.fitting(next, bytes).is_empty());
            return self.sound(sidecar, bytes, next_is_bare).await;
        }
        self.read_unread().await?;
        let scan = match readable.as_slice() {
            [(_, sidecar)] if damaged.is_empty() => self.scan(told(sidecar, bytes), Known::Sidecar(sidecar)).await?,
            [] if self.is_none_aborted(first, bytes).await? => {
                self.scan(Told::listed(first, bytes), Known::NoneAborted).await?
            }
            _ => self.scan(Told::listed(first, bytes), Known::Nothing).await?,
        };
        if let Some(at) = readable.iter().position(|(_, sidecar)| sidecar.digest == scan.digest) {
            let (name, sidecar) = readable.swap_remove(at);
            self.owned.push(name);
            return Ok(self.known_sound(sidecar, bytes));
        }
        let damaged = damaged.into_iter().find(|(digest, _)| *digest == scan.digest).map(|(_, object)| object);
        readable.extend(self.of_other_lengths(first, bytes).await?);
        let row = self.row(first).await?;
        let evidence = Evidence { first, bytes, scan, readable, named: self.named(first), damaged, row, following };
        let (segment, own) = evidence.judge();
        self.owned.extend(own);
        if matches!(segment.state, State::Bare { .. } | State::Broken { .. }) {
            self.wanted = Some(segment.range.next);
            self.ahead = 0;
        }
        Ok(segment)
    }

    /// Returns whether a catalog says that in the log at `first` nothing was aborted, of the bytes that it has.
    async fn is_none_aborted(&mut self, first: Offset, bytes: u64) -> Result<bool> {
        let says_so = |row: &Row| row.length_bytes == bytes && !row.has_aborted && !row.has_undecided;
        let Some((row, _)) = self.row(first).await?.filter(|(row, _)| says_so(row)) else { return Ok(false) };
        // The log is read once for this alone: what it is known for must be known before its transactions are looked at.
        let key = format!("{}{}", self.place.folder, layout::log(first));
        Ok(super::digest(self.store, &key, bytes).await? == Some(row.digest))
    }

    /// Takes a segment whose sidecar is sound, and reads its log where others need to know of its transactions.
    async fn sound(&mut self, sidecar: Sidecar, bytes: u64, next_is_bare: bool) -> Result<Segment> {
        let is_open = self.wanted.is_some_and(|wanted| self.decider.is_open_before(wanted));
        let goes_on = is_open && self.ahead < LOOK_AHEAD;
        self.ahead += 1;
        if next_is_bare || goes_on || !sidecar.undecided.is_empty() {
            self.read_unread().await?;
            let _ = self.scan(told(&sidecar, bytes), Known::Sidecar(&sidecar)).await?;
        } else {
            self.unread = Some((sidecar.clone(), bytes));
        }
        Ok(self.known_sound(sidecar, bytes))
    }

    fn known_sound(&mut self, sidecar: Sidecar, bytes: u64) -> Segment {
        let range = sidecar.range;
        self.staged.add(&sidecar);
        if sidecar.undecided.is_empty() {
            return Segment { range, bytes, state: State::Sound(Row::of(&sidecar), note(&sidecar)) };
        }
        self.wanted = Some(range.next);
        self.ahead = 0;
        Segment { range, bytes, state: State::Undecided(Box::new(sidecar)) }
    }

    /// Reads the log before a segment whose transactions must be decided: they may have begun there.
    async fn read_unread(&mut self) -> Result<()> {
        let Some((sidecar, bytes)) = self.unread.take() else { return Ok(()) };
        let _ = self.scan(told(&sidecar, bytes), Known::Sidecar(&sidecar)).await?;
        Ok(())
    }

    async fn scan(&mut self, told: Told<'_>, known: Known<'_>) -> Result<Scan> {
        let first = told.first;
        self.decider.segment(OffsetRange { first, next: first }, known);
        let key = format!("{}{}", self.place.folder, layout::log(first));
        let decider = &mut self.decider;
        scan(self.store, &key, told, |header, bytes| decider.batch(header, bytes, known)).await
    }

    fn fitting(&self, first: Offset, bytes: u64) -> Vec<u128> {
        let fits = self.named(first).iter().filter(|&&(_, length, _)| length == bytes);
        fits.map(|&(.., digest)| digest).collect()
    }

    /// Returns what the names of the sidecars of the log at `first` tell: its offset, length and digest.
    fn named(&self, first: Offset) -> &[(Offset, u64, u128)] {
        let from = self.sidecars.partition_point(|&(offset, ..)| offset < first);
        let named = &self.sidecars[from..];
        &named[..named.partition_point(|&(offset, ..)| offset == first)]
    }

    /// Returns the sound sidecars of the log at `first` that describe another length.
    async fn of_other_lengths(&self, first: Offset, bytes: u64) -> Result<Vec<(String, Sidecar)>> {
        let mut others = Vec::new();
        for &(_, length, digest) in self.named(first).iter().filter(|&&(_, length, _)| length != bytes) {
            let name = layout::sidecar(first, length, digest);
            others.extend(self.read_sidecar(&name).await?.map(|sidecar| (name, sidecar)));
        }
        Ok(others)
    }

    /// Reads the sidecars of these logs, all at once.
    async fn read_ahead(&mut self, logs: &[(Offset, u64)]) -> Result<()> {
        self.read_ahead.clear();
        let mut reads = JoinSet::new();
        for &(first, bytes) in logs {
            for digest in self.fitting(first, bytes) {
                let name = layout::sidecar(first, bytes, digest);
                let (store, key) = (self.store.clone(), format!("{}{name}", self.place.folder));
                reads.spawn(async move { (name, store.read(&key).await) });
            }
        }
        while let Some(read) = reads.join_next().await {
            let (name, read) = read.map_err(|error| Error::failed("reading a sidecar ended early").source(error))?;
            let _ = self.read_ahead.insert(name, read?.unwrap_or_default());
        }
        Ok(())
    }

    /// Reads a sidecar; `None` where it is not what its name and folder say.
    async fn read_sidecar(&self, name: &str) -> Result<Option<Sidecar>> {
        let bytes = match self.read_ahead.get(name) {
            Some(bytes) => bytes.clone(),
            None => self.store.read(&format!("{}{name}", self.place.folder)).await?.unwrap_or_default(),
        };
        let partition = &self.place.partition;
        let decoded = match Sidecar::decode(&bytes) {
            Err(error) if error.kind() == ErrorKind::Newer => return Err(error.with("sidecar", name)),
            decoded => decoded.ok(),
        };
        Ok(decoded.filter(|sidecar| {
            let of = layout::sidecar(sidecar.range.first, sidecar.length_bytes, sidecar.digest);
            of == name
                && !sidecar.range.is_empty()
                && (sidecar.topic_id, sidecar.partition) == (partition.topic_id, partition.index)
        }))
    }

    /// Returns what a catalog says of the segment at `first`, whatever its log is by now.
    async fn row(&mut self, first: Offset) -> Result<Option<(Row, Option<Arc<str>>)>> {
        let is_cached = self.catalog.as_ref().is_some_and(|held| held.range().contains(first));
        if !is_cached {
            let covering: Vec<_> = self.catalogs.iter().map(|(name, _)| *name).collect();
            for name in covering.into_iter().filter(|name| name.range.contains(first)) {
                self.catalog = read_catalog(self.store, self.place, name).await?;
                if self.catalog.is_some() {
                    break;
                }
            }
        }
        Ok(self.catalog.as_ref().and_then(|held| {
            let at = held.rows.iter().position(|row| row.range.first == first)?;
            let note = held.notes.iter().find(|(row, _)| *row as usize == at).map(|(_, note)| note.clone());
            Some((held.rows.get(at)?, note))
        }))
    }
}

/// Returns what a sidecar tells of its log, which has `bytes`.
fn told(sidecar: &Sidecar, bytes: u64) -> Told<'_> {
    let OffsetRange { first, next } = sidecar.range;
    Told { first, length_bytes: bytes, next, entries: &sidecar.entries }
}

/// Returns whether a chain cannot begin with this segment.
fn is_headless(state: &State) -> bool {
    match state {
        State::Sound(row, _) | State::Altered(Some((row, _))) | State::Bare { row: Some((row, _)), .. } => {
            row.kind == Kind::Data
        }
        State::Undecided(sidecar) | State::Broken { sidecar: Some(sidecar), .. } => sidecar.kind == Kind::Data,
        State::Altered(None) | State::Bare { row: None, .. } | State::Broken { sidecar: None, .. } => false,
    }
}

async fn read_begin(archive: &Archive, place: &Place, bytes: u64) -> Result<Begin> {
    match begin::read(archive.store(), &place.partition, &place.folder).await {
        Ok(begin) => Ok(begin.map_or(Begin::None, |begin| Begin::At(begin.offset))),
        Err(error) if error.kind() == ErrorKind::Damaged => {
            Ok(Begin::Damaged(Object::listed(layout::BEGIN.to_owned(), bytes)))
        }
        Err(error) => Err(error),
    }
}

/// Lists the catalogs of a chain, lower levels first.
async fn list_catalogs(store: &Store, place: &Place) -> Result<Vec<(CatalogName, Object)>> {
    let mut found = Vec::new();
    let folder = format!("{}{}", place.folder, catalog::FOLDER);
    let levels = store.list(&folder).await?.into_iter().filter(|entry| entry.is_folder);
    let mut levels: Vec<u8> = levels.filter_map(|entry| CatalogName::parse_level(&entry.name)).collect();
    levels.sort_unstable();
    for level in levels {
        for entry in store.list(&format!("{}{}", place.folder, CatalogName::folder(level))).await? {
            if let Some(name) = CatalogName::parse(level, &entry.name) {
                found.push((name, Object::listed(name.to_string(), entry.size_bytes)));
            }
        }
    }
    Ok(found)
}

/// Reads a catalog; `None` where it is not there, or not what its name and folder say.
async fn read_catalog(store: &Store, place: &Place, name: CatalogName) -> Result<Option<Catalog>> {
    let bytes = store.read(&format!("{}{name}", place.folder)).await?;
    let partition = &place.partition;
    Ok(bytes
        .and_then(|bytes| Catalog::decode(&bytes).ok())
        .filter(|held| held.name() == name && (held.topic_id, held.partition) == (partition.topic_id, partition.index)))
}
