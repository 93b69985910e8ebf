//! One chain as it lies there, looked at for repair: which segments are sound, what is wrong with the others, and what
//! is left of writers that lost a race.
//!
//! Nothing is changed. Sidecars are read all; logs only where a sidecar is missing or damaged, around such places as
//! far as transactions go on, and everywhere if asked to look deeply. Memory: a row a segment, one chunk, one sidecar.

mod surveyor;

use std::collections::HashMap;
use std::sync::Arc;

use super::scan::Scan;
use crate::archive::Archive;
use crate::archive::catalog::{Name as CatalogName, Row};
pub use crate::archive::layout::COPIES;
use crate::archive::rebuild::Transactions;
use crate::archive::sidecar::{Kind, Sidecar, Transaction};
use crate::archive::source::Place;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::record::{Offset, OffsetRange};
use crate::store::Store;
use surveyor::Surveyor;

/// Sound segments behind the last one to rebuild that are read for the markers of its transactions. A transaction that
/// is open for longer is left undecided; without a bound one would read a whole archive for a marker that has gone.
const LOOK_AHEAD: usize = 64;

/// Sidecars that are read at a time: one by one a million of them would take hours of waiting for an object store.
const AT_ONCE: usize = 64;

/// An object in a chain's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name below the chain's folder.
    pub name: String,
    /// Its size in bytes when it was listed.
    pub bytes: u64,
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
        /// The sidecar that described it, if it is there and sound.
        sidecar: Option<Box<Sidecar>>,
        /// Whether it is known where it ended.
        is_bounded: bool,
    },
    /// Its batches are sound and its bytes are not what they were: nobody can tell which were changed.
    Altered(Row, Option<Arc<str>>),
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
    /// All logs and sidecars in the folder, by name.
    pub objects: HashMap<String, u64>,
    /// Logs inside another's range.
    pub inside: Vec<(Offset, u64)>,
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
        self.objects.get(&name).map(|&bytes| Object { name, bytes })
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

/// Returns an error for an object that is not as it was when the plan was made.
pub fn changed(store: &Store, key: &str) -> Error {
    Error::new(ErrorKind::Fenced, "an object changed since the plan was made: nothing more is done")
        .with("object", store.describe(key))
        .hint("somebody else writes this backup; run `repair` again")
}
