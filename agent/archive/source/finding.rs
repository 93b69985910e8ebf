//! What is found wrong in an archive: what it is, where, and which exit code it stands for.
//!
//! Pure values. Each reader decides what it stops at; a check collects them all.

use std::fmt;

use super::chunks::Segment;
use super::{Place, Timeline};
use crate::archive::sidecar::Sidecar;
use crate::archive::{Archive, layout};
use crate::error::{Error, Kind, Result};
use crate::record::{LeftOut, OffsetRange};

/// Stretches that a line for people lists one by one.
const MOST_STRETCHES: usize = 5;

/// What was found, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub what: What,
    /// The object that it is about, for people.
    pub object: String,
    /// The offsets that it is about, as far as they are known.
    pub range: Option<OffsetRange>,
    /// More, for people.
    pub detail: String,
}

/// What a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// No segment covers these offsets, and none says why.
    Hole,
    /// A segment without the sidecar that describes it: its aborted transactions are unknown.
    NoSidecar,
    /// A sidecar that cannot be read, or describes something else.
    DamagedSidecar,
    /// A log whose bytes are not what they were.
    DamagedLog,
    /// Another object that cannot be read.
    DamagedObject,
    /// It could not be looked at.
    Unchecked,
    /// A sidecar at the chain's end whose log is not there (yet): a writer stopped between the two, or still writes.
    Unfinished,
    /// A log inside another's range: a loser's. No reader reads it.
    Debris,
    /// A chain that begins before the offset that was kept for it: an older agent's, whose begin came too late.
    EarlyBegin,
    /// The source had lost offsets that are held; what it had in their place is in a fork.
    Fork,
    /// A catalog that cannot be read, or holds something else than its sidecars say.
    DamagedCatalog,
    /// A catalog that a writer must have made, and that is not there.
    MissingCatalog,
    /// The source has other records than the archive at these offsets.
    Difference,
    /// An object whose name nothing explains. No reader reads it.
    UnknownObject,
    /// Of two objects that were written one after the other, the later has the earlier time.
    ClockBack,
    /// The source's log cleaner has taken records that the archive holds.
    Compacted,
    /// The source does not hold these offsets any more.
    NoLongerThere,
    /// A transaction of which nothing that is left tells whether it was aborted: readers leave its records out.
    Undecided,
    /// Records that are not held because a stage of a pipeline failed at them, and its policy was to leave them out.
    LeftOut,
    /// Which stages records went through is not known any more: the sidecar that said it was lost.
    UnknownStages,
    /// A dead letter that no segment names, and that has records which its chain does not.
    UnnamedLetter,
}

impl What {
    /// All there are, the worst first.
    pub const ALL: [Self; 21] = [
        Self::DamagedLog,
        Self::NoSidecar,
        Self::DamagedSidecar,
        Self::DamagedCatalog,
        Self::MissingCatalog,
        Self::DamagedObject,
        Self::Difference,
        Self::Hole,
        Self::Unchecked,
        Self::Undecided,
        Self::Unfinished,
        Self::EarlyBegin,
        Self::Fork,
        Self::UnnamedLetter,
        Self::LeftOut,
        Self::UnknownStages,
        Self::UnknownObject,
        Self::ClockBack,
        Self::Compacted,
        Self::NoLongerThere,
        Self::Debris,
    ];

    /// Returns the exit code that it stands for; 0 for what harms nothing.
    pub fn exit_kind(self) -> Option<Kind> {
        match self {
            Self::Hole => Some(Kind::Hole),
            Self::NoSidecar | Self::DamagedSidecar | Self::DamagedLog | Self::DamagedObject => Some(Kind::Damaged),
            Self::DamagedCatalog | Self::MissingCatalog | Self::Difference => Some(Kind::Damaged),
            Self::Unchecked => Some(Kind::Failed),
            Self::Undecided => Some(Kind::Partial),
            Self::Unfinished | Self::Debris | Self::EarlyBegin | Self::Fork | Self::LeftOut => None,
            Self::UnknownObject | Self::ClockBack | Self::Compacted | Self::NoLongerThere => None,
            Self::UnknownStages => None,
            // Its records are there, and `cat --dead-letters` prints those that are nowhere else.
            Self::UnnamedLetter => None,
        }
    }

    /// Returns its name in tables and data.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hole => "hole",
            Self::NoSidecar => "no sidecar",
            Self::DamagedSidecar => "damaged sidecar",
            Self::DamagedLog => "damaged log",
            Self::DamagedObject => "damaged object",
            Self::Unchecked => "unchecked",
            Self::Unfinished => "unfinished",
            Self::Debris => "debris",
            Self::EarlyBegin => "early begin",
            Self::Fork => "fork",
            Self::DamagedCatalog => "damaged catalog",
            Self::MissingCatalog => "missing catalog",
            Self::Difference => "difference",
            Self::UnknownObject => "unknown object",
            Self::ClockBack => "clock went back",
            Self::Compacted => "compacted since",
            Self::NoLongerThere => "no longer there",
            Self::Undecided => "undecided transaction",
            Self::LeftOut => "left out by a stage",
            Self::UnknownStages => "unknown stages",
            Self::UnnamedLetter => "unnamed dead letter",
        }
    }
}

impl Finding {
    /// Returns what is wrong with the topic object of a timeline, or with its folder, if anything is.
    pub fn of_object(archive: &Archive, timeline: &Timeline) -> Option<Self> {
        let error = timeline.object.as_ref().err()?;
        let folder = layout::timeline_folder(&timeline.topic, timeline.topic_id);
        let object = archive.store().describe(&folder);
        let what = if error.kind() == Kind::Damaged { What::DamagedObject } else { What::Unchecked };
        Some(Self { what, object, range: None, detail: error.to_string() })
    }

    /// Returns the finding that a walk along `place` ended with `error`.
    pub fn of_end(archive: &Archive, place: &Place, error: &Error) -> Self {
        let what = if error.kind() == Kind::Damaged { What::DamagedLog } else { What::Unchecked };
        let object = archive.store().describe(&place.folder);
        Self { what, object, range: None, detail: error.to_string() }
    }

    /// Returns the finding that the object of `key` could not be taken: damage where it is damaged, else that it was not
    /// looked at.
    pub fn of_error(archive: &Archive, key: &str, error: &Error) -> Self {
        let what = if error.kind() == Kind::Damaged { What::DamagedObject } else { What::Unchecked };
        Self { what, object: archive.store().describe(key), range: None, detail: error.to_string() }
    }

    /// Returns the finding that nothing explains the name of an object.
    pub fn unknown(archive: &Archive, key: &str) -> Self {
        let detail = "nothing explains its name, and no reader reads it".to_owned();
        Self { what: What::UnknownObject, object: archive.store().describe(key), range: None, detail }
    }

    /// Adds that a segment's sidecar does not know the stages of its records; neighbours are told of together.
    fn unknown_stages(segment: &Segment, findings: &mut Vec<Self>) {
        let range = segment.sidecar.range;
        let told = findings.iter_mut().rev().find(|known| known.what == What::UnknownStages);
        match told.and_then(|known| known.range.as_mut()).filter(|known| known.next == range.first) {
            Some(known) => known.next = range.next,
            None => {
                let what = What::UnknownStages;
                let detail =
                    "the sidecar that said which stages they went through was lost, and what is left does not tell"
                        .to_owned();
                findings.push(Self { what, object: segment.describe(), range: Some(range), detail });
            }
        }
    }

    /// Adds what a segment's sidecar says that stages left out, one finding for each stage and policy; or that it does not
    /// know them.
    pub fn left_out(segment: &Segment, findings: &mut Vec<Self>) {
        let sidecar = &segment.sidecar;
        if sidecar.has_unknown_stages() {
            Self::unknown_stages(segment, findings);
        }
        let mut sums: Vec<(LeftOut, u64, Vec<OffsetRange>)> = Vec::new();
        for left_out in &sidecar.left_out {
            let alike = |(sum, ..): &&mut (LeftOut, u64, Vec<OffsetRange>)| {
                (sum.stage, sum.dead_letter.is_some()) == (left_out.stage, left_out.dead_letter.is_some())
            };
            match sums.iter_mut().find(alike) {
                Some((sum, records, stretches)) => {
                    sum.range.next = left_out.range.next;
                    *records += u64::from(left_out.records);
                    stretches.push(left_out.range);
                }
                None => sums.push((*left_out, left_out.records.into(), vec![left_out.range])),
            }
        }
        for (sum, records, stretches) in sums {
            let stage = stage_of(sidecar, sum.stage);
            let s = if records == 1 { "" } else { "s" };
            let fate = match sum.dead_letter {
                Some(_) => "kept as they came, as dead letters",
                None => "skipped, and not kept",
            };
            let listed = match stretches.len() {
                1 => String::new(),
                2..=MOST_STRETCHES => {
                    let listed: Vec<_> = stretches.iter().map(OffsetRange::to_string).collect();
                    format!("; they were in the batches of {}", listed.join(", "))
                }
                more => format!("; they were in {more} stretches of batches, which --format json lists"),
            };
            let detail = format!("{stage} left out {records} record{s}: {fate}{listed}");
            let (object, range) = (segment.describe(), Some(sum.range));
            findings.push(Self { what: What::LeftOut, object, range, detail });
        }
    }

    /// Adds what a segment's sidecar says of undecided transactions; one that spans segments is told of once.
    pub fn undecided(segment: &Segment, findings: &mut Vec<Self>) {
        let sidecar = &segment.sidecar;
        for entry in &sidecar.undecided {
            let detail =
                format!("producer {}: the markers that are left do not tell whether it was aborted", entry.producer_id);
            let range =
                OffsetRange { first: entry.first, next: entry.last.map_or(sidecar.range.next, |last| last + 1) };
            let known = findings.iter_mut().rev().find(|known| {
                known.what == What::Undecided
                    && known.detail == detail
                    && known.range.is_some_and(|known| known.first == range.first)
            });
            match known {
                Some(known) => known.range = Some(range),
                None => findings.push(Self {
                    what: What::Undecided,
                    object: segment.describe(),
                    range: Some(range),
                    detail,
                }),
            }
        }
    }

    /// Returns the key below the backup's folder of the object that it is about.
    pub fn key(&self, archive: &Archive) -> Option<&str> {
        self.object.strip_prefix(archive.store().describe("").as_str())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what.name())?;
        if let Some(range) = self.range {
            write!(f, ": offsets {range}")?;
        }
        write!(f, ": {} ({})", self.detail, self.object)
    }
}

/// Returns for people which stage has this number in a segment.
fn stage_of(sidecar: &Sidecar, number: u8) -> String {
    match sidecar.stages.get(usize::from(number)) {
        Some(name) => format!("stage {} ({name})", number + 1),
        None => "a stage that nothing names any more".to_owned(),
    }
}

/// Returns the error that `findings` amount to, if to any; `backup_id` is named in it.
///
/// # Errors
/// The worst kind: damage, or a difference, before a hole, since it may be one too, both before what could not be
/// looked at, and that before what nobody can know any more.
pub fn verdict<'a>(backup_id: &str, findings: impl IntoIterator<Item = &'a Finding>) -> Result<()> {
    let harms: Vec<(What, Kind)> =
        findings.into_iter().filter_map(|finding| Some((finding.what, finding.what.exit_kind()?))).collect();
    let any = |kind| harms.iter().any(|(_, harm)| *harm == kind);
    let only_differs = || harms.iter().all(|(what, kind)| *what == What::Difference || *kind != Kind::Damaged);
    let (kind, what) = match () {
        () if any(Kind::Damaged) && only_differs() => {
            (Kind::Damaged, "the archive differs from what it was compared with")
        }
        () if any(Kind::Damaged) => (Kind::Damaged, "the archive is damaged"),
        () if any(Kind::Hole) => (Kind::Hole, "the archive has an undeclared hole"),
        () if any(Kind::Failed) => (Kind::Failed, "the archive could not be checked"),
        () if !harms.is_empty() => (Kind::Partial, "transactions are undecided, and their records left out"),
        () => return Ok(()),
    };
    Err(Error::new(kind, what).with("backup", backup_id).with("findings", harms.len()))
}
