//! The walk of a survey: from log to log, each with what describes it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{AT_ONCE, Begin, COPIES, LOOK_AHEAD, Object, Segment, State, Step, Survey, note};
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
        let copies = copies.map(|entry| Object { name: format!("{COPIES}{}", entry.name), bytes: entry.size_bytes });
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
                self.steps.push(Step::Hole(OffsetRange { first: next, next: first }));
            }
            let following = logs.get(at + 1..).unwrap_or_default();
            let segment = self.segment(first, bytes, following).await?;
            if self.next.is_none() && first > 0 && is_headless(&segment.state) {
                let below = self.sidecars.first().map_or(0, |&(below, ..)| below).min(first);
                let below = if below < first { below } else { 0 };
                self.steps.push(Step::Hole(OffsetRange { first: below, next: first }));
            }
            self.next = Some(segment.range.next);
            self.steps.push(Step::Segment(Box::new(segment)));
        }
        Ok(self.finish())
    }

    fn finish(mut self) -> Survey {
        self.owned.sort_unstable();
        let mut orphans = Vec::new();
        for &(first, length, digest) in &self.sidecars {
            let name = layout::sidecar(first, length, digest);
            if self.owned.binary_search(&name).is_err() {
                let bytes = self.objects[&name];
                orphans.push((first, Object { name, bytes }));
            }
        }
        Survey {
            place: self.place.clone(),
            steps: self.steps,
            begin: self.begin,
            transactions: self.decider.finish(),
            objects: self.objects,
            inside: self.inside,
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
                None => damaged.push((digest, Object { bytes: self.objects[&name], name })),
            }
        }
        if readable.len() == 1 && damaged.is_empty() && !self.deep {
            let (name, sidecar) = readable.remove(0);
            self.owned.push(name);
            let next_is_bare = following.first().is_some_and(|&(next, bytes)| self.fitting(next, bytes).is_empty());
            return self.sound(sidecar, bytes, next_is_bare).await;
        }
        self.read_unread().await?;
        let row = if readable.is_empty() { self.row(first, bytes).await? } else { None };
        let known = match (readable.as_slice(), &row) {
            ([(_, sidecar)], _) if damaged.is_empty() => Known::Sidecar(sidecar),
            ([], Some((row, _))) if !row.has_aborted && !row.has_undecided => Known::NoneAborted,
            _ => Known::Nothing,
        };
        let told = match readable.as_slice() {
            [(_, sidecar)] => told(sidecar, bytes),
            _ => Told::listed(first, bytes),
        };
        let scan = self.scan(told, known).await?;
        let chosen = readable.iter().position(|(_, sidecar)| sidecar.digest == scan.digest);
        if let Some(at) = chosen {
            let (name, sidecar) = readable.swap_remove(at);
            self.owned.push(name);
            return Ok(self.known_sound(sidecar, bytes));
        }
        let damaged = damaged.into_iter().find(|(digest, _)| *digest == scan.digest).map(|(_, object)| object);
        self.owned.extend(damaged.iter().map(|object| object.name.clone()));
        if readable.len() == 1 && scan.damage.is_none() {
            let (name, sidecar) = readable.remove(0);
            self.owned.push(name);
            let state = State::Altered(Row::of(&sidecar), note(&sidecar));
            return Ok(Segment { range: sidecar.range, bytes, state });
        }
        let described = match readable.len() {
            1 => Some(readable.remove(0)),
            _ => self.described(first, bytes).await?,
        };
        let row = row.filter(|(row, _)| row.digest == scan.digest);
        Ok(self.unsound(first, bytes, following, scan, described, damaged, row))
    }

    /// Tells a log without a sidecar from one that lost bytes.
    #[allow(clippy::too_many_arguments)]
    fn unsound(
        &mut self,
        first: Offset,
        bytes: u64,
        following: &[(Offset, u64)],
        scan: Scan,
        described: Option<(String, Sidecar)>,
        damaged: Option<Object>,
        row: Option<(Row, Option<Arc<str>>)>,
    ) -> Segment {
        let follows = following.iter().map(|&(next, _)| next);
        let reached = scan.next().unwrap_or(first);
        let told = described.as_ref().map(|(_, sidecar)| sidecar.range.next).filter(|next| *next > reached);
        // A sidecar of another length may be a loser's: it is, if a segment begins before it ends, or if there is a sidecar,
        // however damaged, whose name is that of these bytes.
        let was_longer = told.filter(|next| !follows.clone().any(|follows| follows >= reached && follows < *next));
        let is_cut = scan.damage.is_none() && damaged.is_none() && was_longer.is_some();
        // A batch's checksum does not cover its base offset: one beyond everything that follows is damaged.
        let is_beyond = !following.is_empty() && !follows.clone().any(|follows| follows >= reached);
        if scan.damage.is_none() && !scan.pieces.is_empty() && !is_cut && !is_beyond {
            self.wanted = Some(reached);
            self.ahead = 0;
            let range = OffsetRange { first, next: reached };
            return Segment { range, bytes, state: State::Bare { damaged, digest: scan.digest, row } };
        }
        let bound = was_longer.or_else(|| follows.clone().filter(|next| *next > first && *next >= reached).min());
        let beyond = follows.clone().find(|next| *next > first).filter(|_| is_beyond);
        let next = bound.or(beyond).unwrap_or(reached).max(first);
        let damage = scan.damage.clone().unwrap_or_else(|| match is_beyond {
            true => format!("its offsets reach to {reached}, beyond the segments behind it"),
            false => format!("its end is missing: {bytes} bytes are left"),
        });
        let sidecar = described.filter(|(_, sidecar)| sidecar.range.next == next);
        self.owned.extend(sidecar.iter().map(|(name, _)| name.clone()));
        self.wanted = Some(next);
        self.ahead = 0;
        let sidecar = sidecar.map(|(_, sidecar)| Box::new(sidecar));
        let is_bounded = bound.is_some();
        Segment {
            range: OffsetRange { first, next },
            bytes,
            state: State::Broken { scan, damage, sidecar, is_bounded },
        }
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
        let from = self.sidecars.partition_point(|&(offset, length, _)| (offset, length) < (first, bytes));
        let fits = self.sidecars[from..].iter().take_while(|&&(offset, length, _)| (offset, length) == (first, bytes));
        fits.map(|&(.., digest)| digest).collect()
    }

    /// Returns the only sidecar of another length of the log at `first`, if it is sound.
    async fn described(&self, first: Offset, bytes: u64) -> Result<Option<(String, Sidecar)>> {
        let others = self.sidecars.iter().filter(|&&(offset, length, _)| offset == first && length != bytes);
        let [&(_, length, digest)] = others.collect::<Vec<_>>()[..] else { return Ok(None) };
        let name = layout::sidecar(first, length, digest);
        Ok(self.read_sidecar(&name).await?.map(|sidecar| (name, sidecar)))
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

    /// Returns what a catalog says of the segment at `first`.
    async fn row(&mut self, first: Offset, bytes: u64) -> Result<Option<(Row, Option<Arc<str>>)>> {
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
            let at = held.rows.iter().position(|row| row.range.first == first && row.length_bytes == bytes)?;
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
        State::Sound(row, _) | State::Altered(row, _) | State::Bare { row: Some((row, _)), .. } => {
            row.kind == Kind::Data
        }
        State::Undecided(sidecar) | State::Broken { sidecar: Some(sidecar), .. } => sidecar.kind == Kind::Data,
        State::Bare { row: None, .. } | State::Broken { sidecar: None, .. } => false,
    }
}

async fn read_begin(archive: &Archive, place: &Place, bytes: u64) -> Result<Begin> {
    let damaged = || Begin::Damaged(Object { name: layout::BEGIN.to_owned(), bytes });
    match begin::read(archive.store(), &place.partition, &place.folder).await {
        Ok(begin) => Ok(begin.map_or(Begin::None, |begin| Begin::At(begin.offset))),
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(damaged()),
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
                found.push((name, Object { name: name.to_string(), bytes: entry.size_bytes }));
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
