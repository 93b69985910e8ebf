//! What a check has found: one value for the verb that prints it, for the agent, and for whoever mends an archive.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::Mode;
use super::cluster::Compared;
use super::place::Checked;
use super::restored::Restored;
use crate::archive::Archive;
use crate::archive::sidecar::Sidecar;
use crate::archive::source::chain::{self, Finding, What};
use crate::archive::source::{Place, Timeline};
use crate::error::Result;
use crate::record::LeftOut;

/// What a check of one backup has found.
#[derive(Debug)]
pub struct Report {
    /// The backup.
    pub backup_id: String,
    /// How it was looked at.
    pub mode: Mode,
    /// Of each timeline, in the order of [`timelines`](crate::archive::source::timelines).
    pub topics: Vec<TopicReport>,
    /// Savepoints that were read.
    pub savepoints: u64,
    /// What is of no topic: savepoints, names that nothing explains, a cluster that does not answer.
    pub findings: Vec<Finding>,
    /// How much was compared with the source, if that was asked for.
    pub compared: Option<Compared>,
    /// What the archive and what was restored of it come to, if that was asked for.
    pub restored: Option<Restored>,
}

/// What was found of one timeline.
#[derive(Debug)]
pub struct TopicReport {
    /// The topic's name.
    pub topic: String,
    /// Its id as Kafka writes it, `_` where it has none.
    pub topic_id: String,
    /// Whether it is the newest of its name.
    pub newest: bool,
    /// Its partitions, those that hold nothing among them.
    pub partitions: u64,
    /// What was looked at.
    pub count: Count,
    /// With the name of the chain (`3`, or `3@<epoch>-<end>`), where it is one's.
    pub findings: Vec<(Option<String>, Finding)>,
    /// What stages left out, stretch by stretch, with the chain that does.
    pub left_out: Vec<(Place, Stretch)>,
}

/// Batches of which a stage left out records.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The stage as the segment names it; `None` where nothing tells it any more.
    pub stage: Option<Arc<str>>,
    /// Which batches, and how many of their records.
    pub left_out: LeftOut,
}

impl Stretch {
    /// Returns those that a sidecar tells of, in order.
    pub(super) fn all(sidecar: &Sidecar) -> impl Iterator<Item = Self> + '_ {
        let names: Vec<Arc<str>> = match sidecar.left_out.is_empty() {
            true => Vec::new(),
            false => sidecar.stages.iter().map(|name| name.as_str().into()).collect(),
        };
        sidecar
            .left_out
            .iter()
            .map(move |left_out| Self { stage: names.get(usize::from(left_out.stage)).cloned(), left_out: *left_out })
    }
}

/// What was looked at: in a deep check counted from the logs, else added up from the sidecars.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Segments.
    pub segments: u64,
    /// Batches in them.
    pub batches: u64,
    /// Records that a read-committed reader gets.
    pub records: u64,
    /// Bytes of the logs.
    pub bytes: u64,
}

/// A finding, and what it is of.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The timeline; `None` for what is of no topic.
    pub topic: Option<&'a TopicReport>,
    /// The chain: `3`, or `3@<epoch>-<end>`.
    pub partition: Option<&'a str>,
    /// What it is.
    pub finding: &'a Finding,
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(topic) = self.topic {
            write!(f, "{}: ", topic.topic)?;
        }
        if let Some(partition) = self.partition {
            write!(f, "partition {partition}: ")?;
        }
        self.finding.fmt(f)
    }
}

impl Report {
    /// Returns everything that was found: what is of no topic last.
    pub fn findings(&self) -> impl Iterator<Item = Found<'_>> {
        let of_topics = self.topics.iter().flat_map(|topic| {
            let findings = topic.findings.iter();
            findings.map(|(partition, finding)| Found { topic: Some(topic), partition: partition.as_deref(), finding })
        });
        of_topics.chain(self.findings.iter().map(|finding| Found { topic: None, partition: None, finding }))
    }

    /// Returns whether nothing was found that harms.
    pub fn is_sound(&self) -> bool {
        !self.findings().any(|found| found.finding.what.exit_kind().is_some())
    }

    /// Returns the error that the findings amount to, if to any.
    ///
    /// # Errors
    /// As [`chain::verdict`].
    pub fn verdict(&self) -> Result<()> {
        chain::verdict(&self.backup_id, self.findings().map(|found| found.finding))
    }
}

impl TopicReport {
    /// Begins the report of a timeline.
    pub(super) fn new(archive: &Archive, timeline: &Timeline) -> Self {
        Self {
            topic: timeline.topic.to_string(),
            topic_id: timeline.topic_id.to_string(),
            newest: timeline.is_newest,
            partitions: timeline.places.iter().filter(|place| place.fork.is_none()).count() as u64,
            count: Count::default(),
            findings: Finding::of_object(archive, timeline).map(|finding| (None, finding)).into_iter().collect(),
            left_out: Vec::new(),
        }
    }

    /// Adds what was found of one chain.
    pub(super) fn add(&mut self, place: &Place, checked: Checked) {
        self.count.add(checked.count);
        let name = place.name();
        self.findings.extend(checked.findings.into_iter().map(|finding| (Some(name.clone()), finding)));
        self.left_out.extend(checked.left_out.into_iter().map(|stretch| (place.clone(), stretch)));
    }

    /// Returns the result in a word or two: the worst of what was found.
    pub fn result(&self) -> String {
        summed_up(self.findings.iter().map(|(_, finding)| finding))
    }
}

impl Count {
    fn add(&mut self, other: Self) {
        self.segments += other.segments;
        self.batches += other.batches;
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Returns what findings come to in a word or two, the worst first; `sound` where nothing harms.
pub fn summed_up<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    let findings: Vec<What> = findings.into_iter().map(|finding| finding.what).collect();
    let count = |what: What| findings.iter().filter(|found| **found == what).count() as u64;
    let told: Vec<_> = What::ALL
        .into_iter()
        .filter(|what| *what != What::Debris)
        .map(|what| (what, count(what)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let sound = told.iter().all(|(what, _)| what.exit_kind().is_none());
    let words = told.iter().map(|&(what, count)| counted(what, count));
    sound.then(|| "sound".to_owned()).into_iter().chain(words).collect::<Vec<_>>().join(", ")
}

/// Returns how many findings there are: `1 hole`, `2 holes`, `3 unchecked`.
fn counted(what: What, count: u64) -> String {
    let s = if count == 1 { "" } else { "s" };
    match what {
        What::NoSidecar => format!("{count} segment{s} without a sidecar"),
        What::Unfinished | What::ClockBack | What::Compacted | What::NoLongerThere | What::UnknownStages => {
            what.name().to_owned()
        }
        What::Unchecked | What::Debris | What::LeftOut => format!("{count} {}", what.name()),
        _ => format!("{count} {}{s}", what.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_reads_well_in_the_plural() {
        let told = [(What::Hole, 3), (What::DamagedLog, 1), (What::NoSidecar, 2), (What::Unchecked, 2)];
        let told = told.map(|(what, count)| counted(what, count));
        assert_eq!(told, ["3 holes", "1 damaged log", "2 segments without a sidecar", "2 unchecked"]);
    }

    #[test]
    fn what_harms_nothing_is_sound_and_is_said() {
        let finding = |what| Finding { what, object: String::new(), range: None, detail: String::new() };
        assert_eq!(summed_up(&[]), "sound");
        assert_eq!(summed_up(&[finding(What::Fork), finding(What::Unfinished)]), "sound, unfinished, 1 fork");
        assert_eq!(summed_up(&[finding(What::Fork), finding(What::Hole)]), "1 hole, 1 fork");
    }
}
