//! One chain as it lies there, looked at for repair: which segments are sound, what is wrong with the others, and what
//! is left of writers that lost a race.
//!
//! Nothing is changed. Sidecars are read all; logs only where a sidecar is missing or damaged, around such places as
//! far as transactions go on, inside others' ranges, and everywhere if asked to look deeply. Memory: a row a segment,
//! one chunk, one sidecar.

mod evidence;
mod staged;
mod surveyor;

use std::collections::HashMap;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::scan::Scan;
use crate::archive::Archive;
use crate::archive::catalog::{Name as CatalogName, Row};
use crate::archive::layout;
pub use crate::archive::layout::COPIES;
use crate::archive::rebuild::Transactions;
use crate::archive::sidecar::{Kind, Sidecar, Transaction};
use crate::archive::source::Place;
use crate::batch::Header;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::record::{Offset, OffsetRange};
use crate::store::Store;
pub use staged::Staged;
use surveyor::Surveyor;

/// Sound segments behind the last one to rebuild that are read for the markers of its transactions. A transaction that
/// is open for longer is left undecided; without a bound one would read a whole archive for a marker that has gone.
const LOOK_AHEAD: usize = 64;

/// Bytes of one read of an object of which only the digest is wanted.
const PIECE_BYTES: u64 = 4 << 20;

/// Sidecars that are read at a time: one by one a million of them would take hours of waiting for an object store.
const AT_ONCE: usize = 64;

/// An object in a chain's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name below the chain's folder.
    pub name: String,
    /// Its size in bytes when it was listed.
    pub bytes: u64,
    /// XXH3-128 of its bytes, if they were read. What is to be deleted was.
    pub digest: Option<u128>,
}

impl Object {
    /// Returns an object of which only a listing tells.
    pub fn listed(name: String, bytes: u64) -> Self {
        Self { name, bytes, digest: None }
    }

    /// Reads the object in `folder`, so that it can be told from another one when it is deleted.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] when it is shorter than it was listed; the store's.
    pub async fn seen(self, store: &Store, folder: &str) -> Result<Self> {
        let key = format!("{folder}{}", self.name);
        let digest = digest(store, &key, self.bytes).await?;
        Ok(Self { digest: Some(digest.ok_or_else(|| changed(store, &key))?), ..self })
    }
}

/// A place along a chain.
#[derive(Debug)]
pub enum Step {
    /// A log.
    Segment(Box<Segment>),
    /// Offsets that nothing covers.
    Hole(OffsetRange),
}

impl Step {
    /// Returns the offsets that it is about.
    pub fn range(&self) -> OffsetRange {
        match self {
            Self::Segment(segment) => segment.range,
            Self::Hole(range) => *range,
        }
    }

    /// Returns the segment, if it is one.
    pub fn segment(&self) -> Option<&Segment> {
        if let Self::Segment(segment) = self { Some(segment) } else { None }
    }
}

/// A log, and what is known of it.
#[derive(Debug)]
pub struct Segment {
    /// The offsets that it covers; of a broken one those that it did, as far as that is known.
    pub range: OffsetRange,
    /// Its bytes.
    pub bytes: u64,
    /// What is the matter with it.
    pub state: State,
}

impl Segment {
    /// Returns whether its log and its sidecar are sound, or will be.
    pub fn is_sound(&self) -> bool {
        matches!(self.state, State::Sound(..) | State::Bare { .. } | State::Undecided(_))
    }
}

/// What is the matter with a segment.
#[derive(Debug)]
pub enum State {
    /// Nothing: what its sidecar says in short, and, of a gap, why.
    Sound(Row, Option<Arc<str>>),
    /// It is sound, but its sidecar holds transactions that were undecided when that was rebuilt.
    Undecided(Box<Sidecar>),
    /// Its log is sound, its sidecar is not there (`None`) or damaged.
    Bare {
        /// The damaged sidecar.
        damaged: Option<Object>,
        /// The log's digest.
        digest: u128,
        /// What a catalog says of it.
        row: Option<(Row, Option<Arc<str>>)>,
    },
    /// Bytes of its log are damaged, or missing.
    Broken {
        /// What is left.
        scan: Scan,
        /// What is wrong.
        damage: String,
        /// The sidecar that described it, or more than it, if one is there and sound.
        sidecar: Option<Box<Sidecar>>,
        /// Whether it is known where it ended.
        is_bounded: bool,
    },
    /// Its batches are sound and its bytes are not what they were: nobody can tell which were changed. What its sidecar
    /// or a catalog says of it; `None` where only the name of a sidecar is left.
    Altered(Option<(Row, Option<Arc<str>>)>),
}

/// A log that begins inside another's range.
#[derive(Debug)]
pub struct Inner {
    /// The offset that it begins at.
    pub first: Offset,
    /// Its bytes.
    pub bytes: u64,
    /// What of it is sound.
    pub scan: Scan,
    /// Its batches but for those of a gap, in order.
    pub batches: Vec<Batch>,
}

/// A batch of a log, as one tells whether another log holds its records too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Its offsets.
    pub range: OffsetRange,
    /// Its checksum.
    pub crc: u32,
    /// Whether it has a record at each of its offsets.
    pub is_dense: bool,
}

impl Batch {
    /// Returns the batch of that header; `None` for one that only stands for a gap.
    pub fn of(header: &Header) -> Option<Self> {
        let range = OffsetRange { first: header.base_offset, next: header.next_offset() };
        (!header.is_gap()).then_some(Self { range, crc: header.crc, is_dense: header.is_dense() })
    }

    /// Returns whether `held`, batches in order, hold all records of this one: it is among them, or they have a record at
    /// each of its offsets. What the source's log cleaner has rewritten since may have fewer.
    pub fn is_in(&self, held: &[Self]) -> bool {
        let from = held.partition_point(|batch| batch.range.next <= self.range.first);
        let mut reached = self.range.first;
        for batch in &held[from..] {
            if batch == self {
                return true;
            }
            if !batch.is_dense || batch.range.first > reached {
                return false;
            }
            reached = batch.range.next;
            if reached >= self.range.next {
                return true;
            }
        }
        false
    }
}

impl Inner {
    /// Returns the offset behind its last sound batch.
    pub fn next(&self) -> Offset {
        self.scan.next().unwrap_or(self.first)
    }

    /// Returns whether it may hold records of `range`.
    pub fn reaches(&self, range: OffsetRange) -> bool {
        !self.batches.is_empty() && self.first < range.next && self.next() > range.first
    }
}

/// Where a chain begins, as its `begin.json` says.
#[derive(Debug)]
pub enum Begin {
    /// There is none.
    None,
    /// At this offset.
    At(Offset),
    /// It cannot be read.
    Damaged(Object),
}

/// A chain as it lies there.
#[derive(Debug)]
pub struct Survey {
    /// Where.
    pub place: Place,
    /// Its segments and holes, in order.
    pub steps: Vec<Step>,
    /// Where it begins.
    pub begin: Begin,
    /// The transactions of what must be rebuilt.
    pub transactions: Transactions,
    /// Which stages the records went through, as far as sidecars tell.
    pub staged: Staged,
    /// All logs and sidecars in the folder, by name.
    pub objects: HashMap<String, u64>,
    /// Logs inside another's range.
    pub inside: Vec<Inner>,
    /// Sidecars that describe no log of the chain.
    pub orphans: Vec<(Offset, Object)>,
    /// Catalogs, whatever they hold.
    pub catalogs: Vec<(CatalogName, Object)>,
    /// What an interrupted repair left.
    pub copies: Vec<Object>,
}

impl Survey {
    /// Looks at the chain at `place`; if `deep`, at every byte of it.
    ///
    /// A listing is no snapshot while an agent writes: what looks wrong is looked at again.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn of(archive: &Archive, place: &Place, deep: bool) -> Result<Self> {
        let mut survey = Surveyor::new(archive, place, deep).await?.run().await?;
        for _ in 0..2 {
            let wrong = |step: &Step| !matches!(step, Step::Segment(found) if matches!(found.state, State::Sound(..)));
            if !survey.steps.iter().any(wrong) {
                break;
            }
            let again = Surveyor::new(archive, place, deep).await?;
            if again.objects == survey.objects {
                break;
            }
            survey = again.run().await?;
        }
        Ok(survey)
    }

    /// Returns the segments in order.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.steps.iter().filter_map(Step::segment)
    }

    /// Returns where the chain ends; `None` where it has no segment.
    pub fn end(&self) -> Option<Offset> {
        self.segments().last().map(|segment| segment.range.next)
    }

    /// Returns the object of that name.
    pub fn object(&self, name: String) -> Option<Object> {
        self.objects.get(&name).map(|&bytes| Object::listed(name, bytes))
    }
}

/// Returns the reason of a gap, as catalogs hold it.
pub fn note(sidecar: &Sidecar) -> Option<Arc<str>> {
    (sidecar.kind == Kind::Gap).then(|| sidecar.note.as_str().into())
}

/// Returns the transactions of `given` that touch `range`, as its own sidecar would hold them.
pub fn within(given: &[Transaction], range: OffsetRange) -> Vec<Transaction> {
    let touches = |entry: &&Transaction| entry.first < range.next && entry.last.is_none_or(|last| last >= range.first);
    let cut = |entry: &Transaction| Transaction { last: entry.last.filter(|last| *last < range.next), ..*entry };
    given.iter().filter(touches).map(cut).collect()
}

/// Returns the name of the copy of the log that `row` describes.
pub fn copy_name(row: &Row) -> String {
    layout::copy(row.range.first, row.length_bytes, row.digest)
}

/// Reads the name of a copy: the first offset, the length and the digest of the log; `None` when it is none's.
pub fn parse_copy_name(name: &str) -> Option<(Offset, u64, u128)> {
    layout::parse_copy(name.strip_prefix(COPIES)?)
}

/// Returns the digest of the first `length` bytes of an object; `None` where it has fewer.
pub async fn digest(store: &Store, key: &str, length: u64) -> Result<Option<u128>> {
    let mut seen = Xxh3::new();
    let mut at = 0;
    while at < length {
        let bytes = store.read_range(key, at..length.min(at + PIECE_BYTES)).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        at += bytes.len() as u64;
        seen.update(&bytes);
    }
    Ok(Some(seen.digest128()))
}

/// Returns an error for an object that is not as it was when the plan was made.
pub fn changed(store: &Store, key: &str) -> Error {
    Error::new(ErrorKind::Fenced, "an object changed since the plan was made: nothing more is done")
        .with("object", store.describe(key))
        .hint("somebody else writes this backup; run `repair` again")
}
