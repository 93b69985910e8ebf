//! Repair: what can be made whole again of a damaged backup, first as a plan, then done.
//!
//! [`plan`] looks at a backup and writes nothing; what it returns is what [`perform`](perform::perform) does, no more.
//! It makes anew what can be derived (catalogs from sidecars, sidecars from logs, `backup.json`, a damaged `begin.json`),
//! deletes what it has proven to be debris, and, only if told to accept the loss, declares offsets whose bytes are gone
//! as gaps. What nothing can bring back it names, and whatever else [`verify`](crate::verify) finds that it does not mend.
//!
//! A running agent beside it is not disturbed: what its next commit may need, the end of a chain, is left alone.
//!
//! **The order of durable effects**, for one chain. A crash at any step leaves what the next plan finishes, and never
//! fewer sound bytes than there were.
//!
//! | what | order |
//! |---|---|
//! | catalogs | wrong ones are deleted when all else is done, and new ones made: where sidecars are lost they alone tell of them until then. Readers do without one that contradicts what lies there |
//! | a damaged sidecar | it is deleted, the new one is created |
//! | a lost segment | the gap's sidecar, then its log; then the sidecars that lost their logs are deleted |
//! | a damaged log | 1. of each piece behind the first damage: sidecar, log; readers pass over these, they lie inside the damaged one's range. 2. the sidecar of the sound beginning. 3. a copy of that beginning under `repair/`. 4. the damaged log is deleted. 5. the beginning is created under its name. 6. the copy is deleted. 7. so is the old sidecar |
//! | what a kill between 4. and 6. left | the log is created from the copy, the copy is deleted; the old sidecar goes as debris with the next plan |
//! | debris | logs before the sidecars that describe them |
//!
//! [`survey`] looks at a chain, `chain` plans for it, [`scan`] reads through a damaged log, [`source`] asks a cluster what
//! became of transactions.

mod chain;
pub mod perform;
mod plan;
pub mod scan;
pub mod source;
pub mod survey;

use std::fmt;
use std::sync::Arc;

use crate::archive::Backup;
use crate::archive::catalog::{Catalog, Row};
use crate::archive::rebuild::Beyond;
use crate::archive::sidecar::Transaction;
use crate::archive::source::Place;
use crate::archive::source::chain::{Finding, What};
use crate::record::{Offset, OffsetRange};
pub use plan::{Options, plan};
pub use survey::Object;

/// What is to be done, and what cannot be.
#[derive(Debug)]
pub struct Plan {
    /// The backup's name.
    pub backup_id: String,
    /// What is to be done, in order.
    pub actions: Vec<Action>,
    /// What stays wrong when that is done.
    pub remaining: Vec<Remaining>,
    /// So many of these the plan itself names; behind them is what a check has found besides.
    of_plan: usize,
    /// What a person should know besides.
    pub notes: Vec<String>,
}

/// A thing to do.
#[derive(Debug)]
pub struct Action {
    /// The chain that it is done to; `None` for the backup itself.
    pub place: Option<Place>,
    /// What.
    pub task: Task,
}

/// Something that stays wrong.
#[derive(Debug)]
pub struct Remaining {
    /// The chain that it is about, if it is about one.
    pub place: Option<Place>,
    /// What is wrong.
    pub finding: Finding,
    /// Of an undecided transaction: which.
    pub transaction: Option<Transaction>,
}

/// What is done to a backup. Objects are by their names below the chain's folder.
#[derive(Debug)]
pub enum Task {
    /// Make `backup.json` anew.
    Backup {
        /// What it will say.
        backup: Box<Backup>,
        /// The damaged one.
        replaces: Option<Object>,
    },
    /// Delete catalogs that are damaged, or hold something else than the sidecars say.
    DropCatalogs(Vec<Object>),
    /// Make a damaged `begin.json` anew.
    Begin {
        /// Where the chain begins.
        offset: Offset,
        /// The damaged one.
        replaces: Object,
    },
    /// Make a sidecar from its log.
    Sidecar(Box<NewSidecar>),
    /// Finish an interrupted replacement of a damaged log: create the log from its copy.
    Resume {
        /// The offsets that the copy covers.
        range: OffsetRange,
        /// The copy.
        copy: Object,
        /// The copy's digest.
        digest: u128,
    },
    /// Put sound pieces and gaps in place of a damaged log.
    Replace(Box<Replacement>),
    /// Declare lost offsets as a gap.
    Gap {
        /// What the gap is.
        gap: Box<Part>,
        /// Sidecars that lost their logs.
        orphans: Vec<Object>,
        /// What these say was lost, in records.
        records: u64,
    },
    /// Delete what has been proven to be debris, in this order.
    Debris {
        /// The objects.
        objects: Vec<Object>,
        /// The proof, for people.
        why: String,
    },
    /// Make missing catalogs.
    MakeCatalogs(Vec<Catalog>),
}

/// A sidecar to be made.
#[derive(Debug)]
pub struct NewSidecar {
    /// The log.
    pub log: Object,
    /// What the sidecar says that the log does not.
    pub beyond: Beyond,
    /// What it will say in short.
    pub row: Row,
    /// The one in whose place it comes.
    pub replaces: Option<Object>,
    /// Whether that one is sound, and only knows less.
    pub knew_less: bool,
}

/// What comes in place of a damaged log.
#[derive(Debug)]
pub struct Replacement {
    /// The offsets that the damaged log covered.
    pub range: OffsetRange,
    /// The damaged log.
    pub log: Object,
    /// The sidecars that describe it.
    pub sidecars: Vec<Object>,
    /// The pieces, without a hole between; sound ones and gaps take turns.
    pub parts: Vec<Part>,
    /// The records that its sidecar counted, if it is sound.
    pub records: Option<u64>,
}

/// A segment in place of a part of a damaged or lost one.
#[derive(Debug)]
pub struct Part {
    /// The offsets that it covers.
    pub range: OffsetRange,
    /// The bytes of the damaged log, position and length; `None` for a gap.
    pub bytes: Option<(u64, u64)>,
    /// What its sidecar says that its log does not.
    pub beyond: Beyond,
    /// What its sidecar will say in short.
    pub row: Row,
    /// The reason, of a gap.
    pub note: Option<Arc<str>>,
}

impl Plan {
    /// Returns whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Returns the lines of the plan, for tables and data.
    pub fn lines(&self) -> Vec<Line> {
        let remaining = self.remaining.iter().map(|remaining| Line {
            act: Act::Remains(remaining.finding.what),
            place: remaining.place.clone(),
            range: remaining.finding.range,
            object: remaining.finding.object.clone(),
            detail: remaining.finding.detail.clone(),
            transaction: remaining.transaction,
        });
        self.actions.iter().map(Action::line).chain(remaining).collect()
    }
}

/// A line of a plan.
#[derive(Debug)]
pub struct Line {
    /// What is done, or remains.
    pub act: Act,
    /// The chain.
    pub place: Option<Place>,
    /// The offsets.
    pub range: Option<OffsetRange>,
    /// The object, or the first of them.
    pub object: String,
    /// More, for people.
    pub detail: String,
    /// Of an undecided transaction: which.
    pub transaction: Option<Transaction>,
}

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It is done.
    Does(&'static str),
    /// It stays wrong.
    Remains(What),
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Does(what) => f.write_str(what),
            Self::Remains(what) => write!(f, "remains: {}", what.name()),
        }
    }
}

impl Action {
    /// Returns the line that says it.
    pub fn line(&self) -> Line {
        let (does, range, object, detail) = match &self.task {
            Task::Backup { backup, replaces } => {
                let cluster = backup.cluster_id.as_deref().unwrap_or("unknown, so that any cluster's agent may append");
                let was = if replaces.is_some() { "it is damaged" } else { "it is lost" };
                let detail = format!("{was}; the cluster's id is {cluster}");
                ("make backup.json", None, crate::archive::layout::BACKUP.to_owned(), detail)
            }
            Task::DropCatalogs(catalogs) => {
                let detail = format!("{} of them are damaged, or hold what the sidecars do not say", catalogs.len());
                ("delete catalogs", None, first(catalogs), detail)
            }
            Task::Begin { offset, replaces } => {
                let detail = format!("it is damaged; the chain begins at offset {offset}");
                ("make begin.json", None, replaces.name.clone(), detail)
            }
            Task::Sidecar(new) => ("make sidecar", Some(new.row.range), new.log.name.clone(), new.detail()),
            Task::Resume { range, copy, .. } => {
                let detail = "an earlier repair was interrupted before it created the log".to_owned();
                ("finish repair", Some(*range), copy.name.clone(), detail)
            }
            Task::Replace(replacement) => {
                ("replace log", Some(replacement.range), replacement.log.name.clone(), replacement.detail())
            }
            Task::Gap { gap, orphans, records } => {
                let lost = if orphans.is_empty() {
                    "how many records were lost is not known".to_owned()
                } else {
                    format!("lost: {records} records by {} left", counted(orphans.len() as u64, "sidecar"))
                };
                ("declare gap", Some(gap.range), crate::archive::layout::log(gap.range.first), lost)
            }
            Task::Debris { objects, why } => {
                let more = if objects.len() > 1 { format!("{} objects: ", objects.len()) } else { String::new() };
                ("delete debris", None, first(objects), format!("{more}{why}"))
            }
            Task::MakeCatalogs(catalogs) => {
                let object = catalogs.first().map(|catalog| catalog.name().to_string()).unwrap_or_default();
                ("make catalogs", None, object, format!("{} of them are not there", catalogs.len()))
            }
        };
        let place = self.place.clone();
        Line { act: Act::Does(does), place, range, object, detail, transaction: None }
    }
}

/// Says how many there are: `1 sidecar`, `2 sidecars`.
fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn first(objects: &[Object]) -> String {
    objects.first().map(|object| object.name.clone()).unwrap_or_default()
}

impl NewSidecar {
    fn detail(&self) -> String {
        let why = match (&self.replaces, self.knew_less) {
            (None, _) => "it is not there",
            (Some(_), false) => "it is damaged",
            (Some(_), true) => "more is known of its transactions",
        };
        let undecided = match self.beyond.undecided.len() {
            0 => String::new(),
            count => format!(", but those of {} undecided", counted(count as u64, "transaction")),
        };
        let kept = match self.beyond.left_out.iter().filter(|left_out| left_out.dead_letter.is_some()).count() {
            0 => String::new(),
            count => format!("; {} of it", counted(count as u64, "dead letter")),
        };
        format!("{why}; the log has {} records{undecided}{kept}", self.row.records)
    }
}

impl Replacement {
    fn detail(&self) -> String {
        let kept: u64 = self.parts.iter().map(|part| part.row.records).sum();
        let lost: i64 =
            self.parts.iter().filter(|part| part.bytes.is_none()).map(|part| part.range.next - part.range.first).sum();
        let records = match self.records {
            Some(records) => format!("{} of {records} records", records.saturating_sub(kept)),
            None => "an unknown number of records".to_owned(),
        };
        format!("lost: {lost} offsets, {records}; kept: {kept} records in {} pieces", self.parts.len())
    }
}

#[cfg(test)]
mod tests;
