//! Catalogs: the sidecars of many segments in one object, in levels, so that a chain of a million segments opens with
//! a few requests.
//!
//! A catalog of level 1 stands for [`FAN_OUT`] segments, counted from the chain's first, one of level n for [`FAN_OUT`]
//! catalogs of level n − 1; each holds a [`Row`] for every segment below it. What a catalog holds is a function of its
//! sidecars alone, so that whoever writes it writes the same bytes, and it may be lost: a reader goes down a level.
//!
//! Pure: bytes, names and the rule of which catalogs are due. Reading and writing them is the parent's `catalogs`, the
//! look-ups over rows are [`index`](super::index)'s.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::sidecar::{Kind, Sidecar};
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange, Timestamp, TopicId};

/// How many parts a catalog has. With 6 any chain of up to a million segments opens with at most 47 requests, each row
/// is written seven times, and an archive has a fifth more objects for it; with 8 it would be 53 requests, with 4 a
/// third more objects.
pub const FAN_OUT: usize = 6;

/// The folder of catalogs in a chain's folder.
pub const FOLDER: &str = "catalog/";

/// The first bytes of every catalog; the digit is the version of the layout.
pub const MAGIC: &[u8; 8] = b"KBCATAL1";

/// What it begins with in any version.
const MAGIC_OF_ANY: &[u8] = b"KBCATAL";

/// Bytes of a row.
pub const ROW_BYTES: usize = 118;

/// Bytes before the rows: magic, topic id, partition, level, range, number of rows.
pub const HEAD_BYTES: usize = 8 + 16 + 4 + 1 + 16 + 4;

/// In place of a time or an offset that there is not.
const NO_TIME: i64 = i64::MIN;
const NO_OFFSET: i64 = -1;

const HAS_ABORTED: u8 = 1;
const HAS_UNDECIDED: u8 = 2;

/// What is known of one segment without opening its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The offsets that the segment covers, `[first, next)`.
    pub range: OffsetRange,
    /// Bytes of the log.
    pub length_bytes: u64,
    /// XXH3-128 of the log; with the length it names the sidecar.
    pub digest: u128,
    /// When the segment was sealed, by the agent's clock.
    pub sealed_at: Timestamp,
    /// What kind of segment it is.
    pub kind: Kind,
    /// It has aborted transactions.
    pub has_aborted: bool,
    /// It has transactions of which it is not known whether they were aborted.
    pub has_undecided: bool,
    /// The leader epoch of the last batch, −1 where it is unknown.
    pub leader_epoch: i32,
    /// Batches in the log.
    pub batches: u64,
    /// Those among them that were made of messages of format v0 or v1.
    pub converted: u64,
    /// Records that a read-committed reader gets.
    pub records: u64,
    /// The offset of the first of these records.
    pub first_record: Option<Offset>,
    /// The offset of the last of these records.
    pub last_record: Option<Offset>,
    /// The effective time of the first data batch's first record, as far as its header tells.
    pub first_time: Option<Timestamp>,
    /// The greatest effective time in the data batches.
    pub max_time: Option<Timestamp>,
    /// The least effective time in the data batches, where it is proven.
    pub min_time: Option<Timestamp>,
}

impl Row {
    /// Returns what a catalog holds of a sidecar; the reason of a gap is kept beside it.
    pub fn of(sidecar: &Sidecar) -> Self {
        let has_data = sidecar.kind != Kind::Gap && sidecar.max_time.is_some();
        Self {
            range: sidecar.range,
            length_bytes: sidecar.length_bytes,
            digest: sidecar.digest,
            sealed_at: sidecar.sealed_at,
            kind: sidecar.kind,
            has_aborted: !sidecar.aborted.is_empty(),
            has_undecided: !sidecar.undecided.is_empty(),
            leader_epoch: sidecar.epochs.last().map_or(-1, |epoch| epoch.epoch),
            batches: sidecar.batches,
            converted: sidecar.converted,
            records: sidecar.records,
            first_record: sidecar.first_record,
            last_record: sidecar.last_record,
            first_time: sidecar.entries.first().filter(|_| has_data).map(|entry| entry.first_time),
            max_time: sidecar.max_time,
            min_time: sidecar.min_time,
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        let flags = if self.has_aborted { HAS_ABORTED } else { 0 } | if self.has_undecided { HAS_UNDECIDED } else { 0 };
        out.put_i64(self.range.first);
        out.put_i64(self.range.next);
        out.put_u64(self.length_bytes);
        out.put_u128(self.digest);
        out.put_i64(self.sealed_at.0);
        out.put_u8(self.kind as u8);
        out.put_u8(flags);
        out.put_i32(self.leader_epoch);
        out.put_u64(self.batches);
        out.put_u64(self.converted);
        out.put_u64(self.records);
        out.put_i64(self.first_record.unwrap_or(NO_OFFSET));
        out.put_i64(self.last_record.unwrap_or(NO_OFFSET));
        for time in [self.first_time, self.max_time, self.min_time] {
            out.put_i64(time.map_or(NO_TIME, |time| time.0));
        }
    }

    /// Reads a row; `None` where a field has a value that no row has.
    fn decode(bytes: &[u8; ROW_BYTES]) -> Option<Self> {
        let bytes = &mut bytes.as_slice();
        let range = OffsetRange { first: bytes.get_i64(), next: bytes.get_i64() };
        let (length_bytes, digest, sealed_at) = (bytes.get_u64(), bytes.get_u128(), Timestamp(bytes.get_i64()));
        let kind = Kind::of(bytes.get_u8())?;
        let flags = bytes.get_u8();
        let leader_epoch = bytes.get_i32();
        let (batches, converted, records) = (bytes.get_u64(), bytes.get_u64(), bytes.get_u64());
        let mut offset = || Some(bytes.get_i64()).filter(|offset| *offset != NO_OFFSET);
        let (first_record, last_record) = (offset(), offset());
        let mut time = || Some(bytes.get_i64()).filter(|time| *time != NO_TIME).map(Timestamp);
        let (first_time, max_time, min_time) = (time(), time(), time());
        (flags & !(HAS_ABORTED | HAS_UNDECIDED) == 0).then_some(Self {
            range,
            length_bytes,
            digest,
            sealed_at,
            kind,
            has_aborted: flags & HAS_ABORTED != 0,
            has_undecided: flags & HAS_UNDECIDED != 0,
            leader_epoch,
            batches,
            converted,
            records,
            first_record,
            last_record,
            first_time,
            max_time,
            min_time,
        })
    }
}

/// Rows one after the other, as their bytes: a million of them are 113 MiB. Clones share them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows(Bytes);

impl Rows {
    /// Makes rows of sidecars' rows.
    pub fn new<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Self {
        let mut out = BytesMut::new();
        rows.into_iter().for_each(|row| row.encode(&mut out));
        Self(out.freeze())
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.0.len() / ROW_BYTES
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes that they hold in memory.
    pub fn held_bytes(&self) -> usize {
        self.0.len()
    }

    /// Returns all rows as their bytes, [`ROW_BYTES`] each.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns a row; `None` beyond the last.
    pub fn get(&self, at: usize) -> Option<Row> {
        // Every row was read once when the catalog was.
        self.0.get(at * ROW_BYTES..)?.first_chunk().and_then(Row::decode)
    }

    /// Returns the first offset of a row that is there; cheaper than the whole row.
    pub fn first(&self, at: usize) -> Offset {
        self.field(at, 0)
    }

    /// Returns the greatest effective time of a row that is there; the least value where it has none.
    pub fn max_time(&self, at: usize) -> Timestamp {
        Timestamp(self.field(at, ROW_BYTES - 16))
    }

    /// Returns all rows in order.
    pub fn iter(&self) -> impl Iterator<Item = Row> + '_ {
        self.0.as_chunks().0.iter().filter_map(Row::decode)
    }

    /// Returns the rows `range`, which are there; they share the memory of these.
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        Self(self.0.slice(range.start * ROW_BYTES..range.end * ROW_BYTES))
    }

    /// Takes one row's bytes; `None` where they are none.
    pub fn of_bytes(bytes: &Bytes) -> Option<Self> {
        let row: &[u8; ROW_BYTES] = bytes.as_ref().try_into().ok()?;
        Row::decode(row).map(|_| Self(bytes.clone()))
    }

    /// Returns these rows and then `other`'s.
    pub fn joined(&self, other: &Self) -> Self {
        Self([self.0.as_ref(), other.0.as_ref()].concat().into())
    }

    fn field(&self, at: usize, position: usize) -> i64 {
        self.0
            .get(at * ROW_BYTES + position..)
            .and_then(|bytes| bytes.first_chunk())
            .map_or(NO_TIME, |field| i64::from_be_bytes(*field))
    }
}

/// The reasons of gaps, by the number of their row.
pub type Notes = Vec<(u32, Arc<str>)>;

/// A catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// The topic's id: a catalog that was moved to another partition's folder gives itself away.
    pub topic_id: TopicId,
    /// The partition's index.
    pub partition: i32,
    /// Its level, from 1.
    pub level: u8,
    /// The segments below it, at least one, without a hole between them.
    pub rows: Rows,
    /// The reasons of the gaps among them, in order.
    pub notes: Notes,
}

impl Catalog {
    /// Makes the catalog of level `level` of rows and notes that follow each other.
    pub fn join(topic_id: TopicId, partition: i32, level: u8, parts: &[(Rows, Notes)]) -> Self {
        let mut bytes = BytesMut::with_capacity(parts.iter().map(|(rows, _)| rows.0.len()).sum());
        let mut notes = Notes::new();
        for (rows, noted) in parts {
            let before = (bytes.len() / ROW_BYTES) as u32;
            notes.extend(noted.iter().map(|(at, note)| (before + at, note.clone())));
            bytes.extend_from_slice(&rows.0);
        }
        Self { topic_id, partition, level, rows: Rows(bytes.freeze()), notes }
    }

    /// Returns the offsets that its segments cover, `[first, next)`.
    pub fn range(&self) -> OffsetRange {
        let (first, last) = (self.rows.get(0), self.rows.len().checked_sub(1).and_then(|last| self.rows.get(last)));
        let range =
            first.zip(last).map(|(first, last)| OffsetRange { first: first.range.first, next: last.range.next });
        range.unwrap_or(OffsetRange { first: 0, next: 0 })
    }

    /// Returns its name in the chain's folder.
    pub fn name(&self) -> Name {
        Name { level: self.level, range: self.range() }
    }

    /// Writes the catalog's bytes.
    pub fn encode(&self) -> Bytes {
        let mut joint = Joint::new(self.topic_id, self.partition, self.name(), self.rows.len());
        joint.add(&self.rows, &self.notes);
        joint.finish()
    }

    /// Reads a catalog from its bytes; the rows go on sharing them.
    ///
    /// # Errors
    /// [`Kind::Newer`](crate::error::Kind::Newer) for a later version's; [`Kind::Damaged`](crate::error::Kind::Damaged) for
    /// anything else that [`encode`](Self::encode) has not written.
    pub fn decode(bytes: &Bytes) -> Result<Self> {
        let body = bytes.len().checked_sub(4).filter(|end| *end >= HEAD_BYTES).map(|end| bytes.split_at(end));
        let Some((body, mut crc)) = body else { return Err(Error::damaged("catalog is truncated")) };
        if crc.get_u32() != crc32c::crc32c(body) {
            return Err(Error::damaged("catalog does not match its checksum"));
        }
        if !body.starts_with(MAGIC) {
            let is_newer = body.starts_with(MAGIC_OF_ANY);
            return Err(if is_newer { Error::newer("catalog") } else { Error::damaged("catalog is none") });
        }
        Self::decode_body(bytes.slice(MAGIC.len()..body.len()))
            .ok_or_else(|| Error::damaged("catalog contradicts itself"))
    }

    /// Reads what stands between magic and checksum; `None` where it does not fit.
    fn decode_body(mut body: Bytes) -> Option<Self> {
        let topic_id = TopicId(uuid::Uuid::from_slice(&body.split_to(16)).ok()?);
        let (partition, level) = (body.get_i32(), body.get_u8());
        let range = OffsetRange { first: body.get_i64(), next: body.get_i64() };
        let count = body.get_u32() as usize;
        let bytes = count.checked_mul(ROW_BYTES).filter(|bytes| *bytes <= body.len())?;
        let rows = Rows(body.split_to(bytes));
        let mut notes = Notes::new();
        for _ in 0..body.try_get_u32().ok()? {
            let (row, length) = (body.try_get_u32().ok()?, body.try_get_u32().ok()? as usize);
            let text = (length <= body.len()).then(|| body.split_to(length))?;
            notes.push((row, std::str::from_utf8(&text).ok()?.into()));
        }
        let catalog = Self { topic_id, partition, level, rows, notes };
        (body.is_empty() && catalog.is_whole() && catalog.range() == range && level > 0).then_some(catalog)
    }

    /// Returns whether its rows can be read and follow each other, and its notes are of gaps among them.
    fn is_whole(&self) -> bool {
        let mut next = None;
        let mut notes = self.notes.iter().map(|(row, _)| *row as usize).peekable();
        for at in 0..self.rows.len() {
            let Some(row) = self.rows.get(at) else { return false };
            if row.range.is_empty() || next.is_some_and(|next| next != row.range.first) {
                return false;
            }
            if (row.kind == Kind::Gap) != notes.next_if_eq(&at).is_some() {
                return false;
            }
            next = Some(row.range.next);
        }
        next.is_some() && notes.next().is_none()
    }
}

/// Where in a catalog's bytes the last row is, told by its first [`HEAD_BYTES`]; `None` where they are no catalog's.
pub fn last_row(head: &[u8]) -> Option<std::ops::Range<u64>> {
    let count = head.get(..HEAD_BYTES).filter(|head| head.starts_with(MAGIC))?.last_chunk()?;
    let before = u64::from(u32::from_be_bytes(*count).checked_sub(1)?) * ROW_BYTES as u64;
    let start = HEAD_BYTES as u64 + before;
    Some(start..start + ROW_BYTES as u64)
}

/// A catalog's bytes on their way, part by part: no more than one part is in memory beside them.
pub struct Joint {
    out: BytesMut,
    count: u32,
    notes: Notes,
}

impl Joint {
    /// Begins the bytes of the catalog `name`, which will have about `rows` rows.
    pub fn new(topic_id: TopicId, partition: i32, name: Name, rows: usize) -> Self {
        // Some of them have a note; growing would double what a large one takes.
        let mut out = BytesMut::with_capacity(HEAD_BYTES + rows * (ROW_BYTES + 2) + 64);
        out.put_slice(MAGIC);
        out.put_slice(topic_id.0.as_bytes());
        out.put_i32(partition);
        out.put_u8(name.level);
        out.put_i64(name.range.first);
        out.put_i64(name.range.next);
        // How many rows there are is known at the end.
        out.put_u32(0);
        Self { out, count: 0, notes: Notes::new() }
    }

    /// Adds the rows that follow, with the reasons of the gaps among them.
    pub fn add(&mut self, rows: &Rows, notes: &Notes) {
        self.notes.extend(notes.iter().map(|(at, note)| (self.count + at, note.clone())));
        self.out.extend_from_slice(&rows.0);
        self.count += rows.len() as u32;
    }

    /// Returns the bytes.
    pub fn finish(self) -> Bytes {
        let Self { mut out, count, notes } = self;
        out[HEAD_BYTES - size_of::<u32>()..HEAD_BYTES].copy_from_slice(&count.to_be_bytes());
        out.put_u32(notes.len() as u32);
        for (row, note) in &notes {
            out.put_u32(*row);
            out.put_u32(note.len() as u32);
            out.put_slice(note.as_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out.freeze()
    }
}

/// The name of a catalog in a chain's folder: `catalog/<level>/<first>-<next>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    /// Its level, from 1.
    pub level: u8,
    /// The offsets that its segments cover, `[first, next)`.
    pub range: OffsetRange,
}

impl Name {
    /// Returns the folder of a level in a chain's folder, with a slash at its end.
    pub fn folder(level: u8) -> String {
        format!("{FOLDER}{level}/")
    }

    /// Returns what the names of catalogs that begin at `first` begin with in their level's folder.
    pub fn prefix(first: Offset) -> String {
        format!("{first:020}-")
    }

    /// Reads the name of a level's folder in [`FOLDER`]; `None` when it is none.
    pub fn parse_level(name: &str) -> Option<u8> {
        let level: u8 = name.parse().ok()?;
        (level > 0 && level.to_string() == name).then_some(level)
    }

    /// Reads the name of an object in the folder of `level`; `None` when it is no catalog's.
    pub fn parse(level: u8, name: &str) -> Option<Self> {
        let (first, next) = name.split_once('-')?;
        let range = OffsetRange { first: first.parse().ok()?, next: next.parse().ok()? };
        let parsed = Self { level, range };
        (!range.is_empty() && range.first >= 0 && parsed.file() == name).then_some(parsed)
    }

    /// Returns the name within the folder of its level.
    pub fn file(&self) -> String {
        format!("{:020}-{:020}", self.range.first, self.range.next)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::folder(self.level), self.file())
    }
}

/// A catalog that is due, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Its name.
    pub name: Name,
    /// The ranges of its parts: segments for level 1, else catalogs of the level below.
    pub parts: Vec<OffsetRange>,
}

/// What of a chain no higher catalog stands for yet, level by level: the rule of which catalogs there are.
///
/// It holds fewer than [`FAN_OUT`] ranges a level, however long the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Levels {
    /// At 0 the segments, at n the catalogs of level n, each in order.
    open: Vec<Vec<OffsetRange>>,
    next: Option<Offset>,
    /// The chain has a hole: catalogs end before it.
    is_broken: bool,
}

impl Levels {
    /// Adds a catalog that is there and follows on what was added before; those of a level come before those of a lower
    /// one. Returns the catalogs that are due with it, the lowest first: such as should be there, and are not.
    pub fn add_catalog(&mut self, name: Name) -> Vec<Due> {
        self.add_at(usize::from(name.level), name.range)
    }

    /// Adds the chain's next segment; returns the catalogs that are due with it, the lowest first.
    pub fn add(&mut self, segment: OffsetRange) -> Vec<Due> {
        self.add_at(0, segment)
    }

    fn add_at(&mut self, mut level: usize, mut range: OffsetRange) -> Vec<Due> {
        self.is_broken |= self.next.is_some_and(|next| next != range.first);
        self.next = Some(range.next);
        if self.is_broken {
            return Vec::new();
        }
        let mut due = Vec::new();
        loop {
            let open = self.level(level);
            open.push(range);
            if open.len() < FAN_OUT {
                return due;
            }
            let parts = std::mem::take(open);
            level += 1;
            range = OffsetRange { first: parts[0].first, next: range.next };
            due.push(Due { name: Name { level: level as u8, range }, parts });
        }
    }

    /// Ends the catalogs here: what follows is in none.
    pub fn break_off(&mut self) {
        self.is_broken = true;
    }

    /// Returns the segments that no catalog stands for, in order.
    pub fn segments(&self) -> &[OffsetRange] {
        self.open.first().map_or(&[], Vec::as_slice)
    }

    /// Returns whether the chain has a hole, behind which there are no catalogs.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn level(&mut self, level: usize) -> &mut Vec<OffsetRange> {
        if self.open.len() <= level {
            self.open.resize_with(level + 1, Vec::new);
        }
        &mut self.open[level]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first: Offset) -> Row {
        Row {
            range: OffsetRange { first, next: first + 10 },
            length_bytes: 99,
            digest: first as u128,
            sealed_at: Timestamp(5),
            kind: if first == 10 { Kind::Gap } else { Kind::Data },
            has_aborted: first == 20,
            has_undecided: false,
            leader_epoch: -1,
            batches: 3,
            converted: 0,
            records: 10,
            first_record: Some(first),
            last_record: None,
            first_time: Some(Timestamp(1)),
            max_time: Some(Timestamp(first)),
            min_time: None,
        }
    }

    fn catalog() -> Catalog {
        let parts = [0, 10, 20].map(|first| {
            let notes = if first == 10 { vec![(0, "lost".into())] } else { Vec::new() };
            (Rows::new([&row(first)]), notes)
        });
        Catalog::join(TopicId::NONE, 3, 2, &parts)
    }

    #[test]
    fn a_catalog_reads_back() {
        let catalog = catalog();
        assert_eq!(Catalog::decode(&catalog.encode()).expect("sound"), catalog);
        assert_eq!(catalog.rows.iter().collect::<Vec<_>>(), [row(0), row(10), row(20)]);
        assert_eq!((catalog.notes[0].0, catalog.rows.first(2), catalog.rows.max_time(1)), (1, 20, Timestamp(10)));
        assert_eq!(catalog.name().to_string(), "catalog/2/00000000000000000000-00000000000000000030");
        assert_eq!(Name::parse(2, &catalog.name().file()), Some(catalog.name()));
        for other in
            ["", "0-30", "00000000000000000000-00000000000000000000", "+0000000000000000000-00000000000000000030"]
        {
            assert_eq!(Name::parse(2, other), None, "{other}");
        }
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_found() {
        let bytes = catalog().encode();
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 0x40;
            assert!(Catalog::decode(&flipped.into()).is_err(), "byte {at}");
            assert!(Catalog::decode(&bytes.slice(..at)).is_err(), "length {at}");
        }
    }

    #[test]
    fn a_catalog_with_a_hole_is_none() {
        let parts = [0, 20].map(|first| (Rows::new([&row(first)]), Notes::new()));
        let catalog = Catalog::join(TopicId::NONE, 0, 1, &parts);
        assert!(Catalog::decode(&catalog.encode()).is_err());
    }

    fn segment(n: usize) -> OffsetRange {
        OffsetRange { first: n as Offset * 10, next: n as Offset * 10 + 10 }
    }

    #[test]
    fn each_level_is_due_when_the_one_below_is_full() {
        let mut levels = Levels::default();
        let due: Vec<Vec<Due>> = (0..FAN_OUT * FAN_OUT).map(|n| levels.add(segment(n))).collect();
        assert!(due[..FAN_OUT - 1].iter().all(Vec::is_empty));
        assert_eq!(due[FAN_OUT - 1][0].name, Name { level: 1, range: OffsetRange { first: 0, next: 60 } });
        let last = due.last().expect("there are some");
        let named: Vec<_> = last.iter().map(|due| (due.name.level, due.name.range.first, due.parts.len())).collect();
        assert_eq!(named, [(1, 300, FAN_OUT), (2, 0, FAN_OUT)]);
        assert!(levels.segments().is_empty());
    }

    #[test]
    fn a_chain_is_taken_up_behind_its_catalogs() {
        let (mut whole, count) = (Levels::default(), 100);
        let mut catalogs: Vec<Name> = Vec::new();
        for n in 0..count {
            for due in whole.add(segment(n)) {
                catalogs.retain(|name| name.range.first < due.name.range.first);
                catalogs.push(due.name);
            }
        }
        let mut taken_up = Levels::default();
        assert!(catalogs.iter().all(|name| taken_up.add_catalog(*name).is_empty()));
        let covered = catalogs.last().map_or(0, |name| name.range.next as usize / 10);
        (covered..count).for_each(|n| assert!(taken_up.add(segment(n)).is_empty()));
        for n in count..1_000 {
            assert_eq!(taken_up.add(segment(n)), whole.add(segment(n)), "{n}");
        }
    }

    #[test]
    fn behind_a_hole_nothing_is_due() {
        let mut levels = Levels::default();
        assert!(levels.add(segment(0)).is_empty());
        assert!((2..100).all(|n| levels.add(segment(n)).is_empty()) && levels.is_broken());
    }
}
