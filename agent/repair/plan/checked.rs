//! What a check finds wrong that the plan neither mends nor names: it remains, and a plan that did not say so would call
//! a backup whole that `verify` does not.
//!
//! Pure. Nothing is named twice: what a check says of offsets that an action mends, or of which the plan itself says that
//! they stay wrong, is left out, and so is what it says of an object that an action replaces, makes or deletes. The part
//! of a hole that the plan does not know of is named.

use std::collections::{HashMap, HashSet};

use super::super::{Action, Plan, Remaining, Task};
use crate::archive::source::Place;
use crate::archive::source::chain::{Finding, What};
use crate::archive::{Archive, layout};
use crate::record::{OffsetRange, Partition};
use crate::verify::{Found, Report};

/// Stretches of offsets in order, none of which touches another.
#[derive(Debug, Default)]
struct Stretches(Vec<OffsetRange>);

impl Stretches {
    fn new(mut ranges: Vec<OffsetRange>) -> Self {
        ranges.sort_unstable_by_key(|range| (range.first, range.next));
        let mut joined: Vec<OffsetRange> = Vec::new();
        for range in ranges {
            match joined.last_mut().filter(|last| last.next >= range.first) {
                Some(last) => last.next = last.next.max(range.next),
                None => joined.push(range),
            }
        }
        Self(joined)
    }

    /// Returns the first stretch that has offsets of `range`.
    fn over(&self, range: OffsetRange) -> Option<OffsetRange> {
        let at = self.0.partition_point(|stretch| stretch.next <= range.first);
        self.0.get(at).copied().filter(|stretch| stretch.first < range.next)
    }

    /// Returns what of `range` lies behind the stretches that cover its beginning.
    fn behind(&self, mut range: OffsetRange) -> OffsetRange {
        while let Some(stretch) = self.over(range).filter(|stretch| stretch.first <= range.first) {
            range.first = stretch.next;
        }
        range
    }
}

/// What is said of one chain.
#[derive(Debug, Default)]
struct Told {
    /// Offsets whose bytes, or what describes them, are mended or named.
    bytes: Vec<OffsetRange>,
    /// Offsets whose undecided transactions are.
    undecided: Vec<OffsetRange>,
    has_hole: bool,
}

/// What is said already, in a form that is quickly asked.
struct Known {
    objects: HashSet<String>,
    /// Logs that are replaced: whatever is wrong with their bytes is mended, at offsets of which the plan does not speak too.
    replaced: HashSet<String>,
    chains: HashMap<String, (Stretches, Stretches, bool)>,
}

impl Plan {
    /// Adds to what remains what a check of the backup, as it lies there before anything is done, finds besides.
    pub(super) fn add_findings(&mut self, archive: &Archive, report: &Report) {
        self.of_plan = self.remaining.len();
        self.add(archive, report, true);
    }

    /// Puts what a check finds when everything was done in the place of what one had found before.
    pub fn check_again(&mut self, archive: &Archive, report: &Report) {
        self.remaining.truncate(self.of_plan);
        self.add(archive, report, false);
    }

    fn add(&mut self, archive: &Archive, report: &Report, before: bool) {
        let mut harms = report.findings().filter(|found| found.finding.what.exit_kind().is_some()).peekable();
        if harms.peek().is_none() {
            return;
        }
        let actions = if before { self.actions.as_slice() } else { &[] };
        let known = Known::new(archive, actions, &self.remaining);
        let left = harms.filter_map(|found| {
            let place = place_of(&found);
            let finding = known.left(place.as_ref(), found.finding)?;
            Some(Remaining { place, finding, transaction: None })
        });
        let left: Vec<_> = left.collect();
        self.remaining.extend(left);
    }
}

impl Known {
    fn new(archive: &Archive, actions: &[Action], remaining: &[Remaining]) -> Self {
        let (mut objects, mut replaced) = (HashSet::new(), HashSet::new());
        let mut told: HashMap<String, Told> = HashMap::new();
        for action in actions {
            let folder = action.place.as_ref().map_or("", |place| place.folder.as_str());
            let names = objects_of(&action.task).into_iter();
            objects.extend(names.map(|name| archive.store().describe(&format!("{folder}{name}"))));
            if let Task::Replace(replacement) = &action.task {
                replaced.insert(archive.store().describe(&format!("{folder}{}", replacement.log.name)));
            }
            let Some(range) = mended(&action.task) else { continue };
            let told = told.entry(folder.to_owned()).or_default();
            told.bytes.push(range);
            // What a new sidecar still leaves undecided is among what remains.
            told.undecided.extend(Some(range).filter(|_| matches!(action.task, Task::Sidecar(_))));
        }
        for Remaining { place, finding, .. } in remaining {
            objects.insert(finding.object.clone());
            let Some(place) = place else { continue };
            let told = told.entry(place.folder.clone()).or_default();
            let of = if finding.what == What::Undecided { &mut told.undecided } else { &mut told.bytes };
            of.extend(finding.range.filter(|_| finding.what == What::Undecided || is_of_bytes(finding.what)));
            told.has_hole |= finding.what == What::Hole;
        }
        let chain = |told: Told| (Stretches::new(told.bytes), Stretches::new(told.undecided), told.has_hole);
        Self { objects, replaced, chains: told.into_iter().map(|(folder, told)| (folder, chain(told))).collect() }
    }

    /// Returns what of a finding is not said yet.
    fn left(&self, place: Option<&Place>, finding: &Finding) -> Option<Finding> {
        let chain = place.and_then(|place| self.chains.get(&place.folder));
        let is_new = match (chain, finding.range) {
            _ if finding.what == What::DamagedLog && self.replaced.contains(&finding.object) => false,
            (Some((bytes, ..)), Some(range)) if finding.what == What::Hole => {
                let range = bytes.behind(range);
                let left = Finding { range: Some(range), ..finding.clone() };
                return (!range.is_empty()).then_some(left);
            }
            (Some((bytes, ..)), Some(range)) if is_of_bytes(finding.what) => bytes.over(range).is_none(),
            (Some((_, undecided, _)), Some(range)) if finding.what == What::Undecided => {
                undecided.over(range).is_none()
            }
            (Some((.., true)), None) if finding.what == What::Hole => false,
            (None, Some(_)) if is_of_bytes(finding.what) || finding.what == What::Undecided => true,
            _ => !self.objects.contains(&finding.object),
        };
        is_new.then(|| finding.clone())
    }
}

/// Returns whether a finding is about bytes at some offsets, or about what describes them: each of these may be seen as
/// another of them, by a walk that cannot go on or by one that has looked closer.
fn is_of_bytes(what: What) -> bool {
    matches!(what, What::Hole | What::DamagedLog | What::NoSidecar | What::DamagedSidecar)
}

/// Returns the offsets of which a task mends whatever is wrong with their bytes.
fn mended(task: &Task) -> Option<OffsetRange> {
    match task {
        Task::Sidecar(new) => Some(new.row.range),
        Task::Resume { range, .. } => Some(*range),
        Task::Replace(replacement) => Some(replacement.range),
        Task::Gap { gap, .. } => Some(gap.range),
        _ => None,
    }
}

/// Returns the names of objects that are not as they were once a task is done.
fn objects_of(task: &Task) -> Vec<String> {
    match task {
        Task::DropCatalogs(objects) | Task::Debris { objects, .. } => {
            objects.iter().map(|object| object.name.clone()).collect()
        }
        Task::Begin { replaces, .. } => vec![replaces.name.clone()],
        Task::Resume { copy, .. } => vec![copy.name.clone()],
        Task::MakeCatalogs(catalogs) => catalogs.iter().map(|catalog| catalog.name().to_string()).collect(),
        // Of a log without a sidecar that fits, a check names no offsets.
        Task::Sidecar(new) => vec![new.log.name.clone()],
        Task::Replace(replacement) => {
            let sidecars = replacement.sidecars.iter().map(|sidecar| sidecar.name.clone());
            sidecars.chain([replacement.log.name.clone()]).collect()
        }
        Task::Gap { gap, .. } => vec![layout::log(gap.range.first)],
        Task::Backup { .. } => Vec::new(),
    }
}

fn place_of(found: &Found<'_>) -> Option<Place> {
    let (topic, (index, fork)) = (found.topic?, layout::parse_chain_name(found.partition?)?);
    let partition = Partition { topic: topic.topic.as_str().into(), topic_id: topic.topic_id.parse().ok()?, index };
    Some(Place::new(partition, fork))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range((first, next): (i64, i64)) -> OffsetRange {
        OffsetRange { first, next }
    }

    #[test]
    fn only_what_of_a_hole_is_not_said_yet_is_left() {
        let known = Stretches::new([(20, 25), (0, 10), (10, 15)].map(range).to_vec());
        let left = [(0, 10), (5, 18), (14, 15), (15, 22), (22, 30), (30, 40)].map(|asked| known.behind(range(asked)));
        assert_eq!(
            left.map(|left| (left.first, left.next)),
            [(15, 10), (15, 18), (15, 15), (15, 22), (25, 30), (30, 40)]
        );
        assert_eq!(known.over(range((14, 30))).map(|over| over.next), Some(15));
        assert_eq!(known.over(range((15, 20))), None);
    }
}
