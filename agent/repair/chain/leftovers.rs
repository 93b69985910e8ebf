//! The plan for what lies beside a chain: at its end, inside its segments, in its catalogs.

use std::collections::{HashMap, HashSet};

use super::{Planner, UNFINISHED_KEPT_MS};
use crate::archive::catalog::{Catalog, Levels, Name, Notes, ROW_BYTES, Rows};
use crate::archive::layout;
use crate::archive::sidecar::Sidecar;
use crate::archive::source::chain::What;
use crate::error::{Kind as ErrorKind, Result};
use crate::record::{Offset, OffsetRange, Timestamp};
use crate::repair::Task;
use crate::repair::perform::copy_name;
use crate::repair::scan::{Told, scan};
use crate::repair::survey::{Begin, Object, Segment, State};

impl Planner<'_> {
    /// Plans for what lies at and beyond the chain's end; it was durable up to `archived` once.
    pub(super) async fn end(&mut self, archived: Option<Offset>) -> Result<()> {
        let survey = self.survey;
        let end = match (survey.end(), &survey.begin, survey.place.fork) {
            (Some(end), ..) => Some(end),
            (None, Begin::At(offset), _) => Some(*offset),
            (None, _, Some(fork)) => Some(fork.end),
            (None, ..) => survey.orphans.first().map(|(first, _)| *first),
        };
        let Some(end) = end else { return Ok(()) };
        let beyond = survey.orphans.iter().filter(|(first, _)| *first >= end);
        let lost = beyond.clone().map(|(first, _)| *first).chain(archived).filter(|next| *next > end).max();
        if let Some(next) = lost {
            let detail = "the end of the chain is lost: bring its logs back from a copy; an agent that runs again reads \
                          the offsets from the source, or declares them as a gap";
            self.remains(What::Hole, &layout::log(end), Some(OffsetRange { first: end, next }), detail.to_owned());
            return Ok(());
        }
        let mut old = Vec::new();
        for (_, object) in beyond {
            let bytes = self.store.read(&self.key(&object.name)).await?.unwrap_or_default();
            let sealed_at = Sidecar::decode(&bytes).ok().map(|sidecar| sidecar.sealed_at);
            if sealed_at.is_some_and(|at| at.0.saturating_add(UNFINISHED_KEPT_MS) < Timestamp::now().0) {
                old.push(object.clone());
            }
        }
        if !old.is_empty() {
            let why = "a writer stopped before the commit, more than a day ago".to_owned();
            self.tasks.push(Task::Debris { objects: old, why });
        }
        Ok(())
    }

    /// Plans to delete what has been proven to be left over.
    pub(super) async fn debris(&mut self) -> Result<()> {
        let survey = self.survey;
        let inside: HashSet<Offset> = survey.inside.iter().map(|(first, _)| *first).collect();
        for &(first, bytes) in &survey.inside {
            let Some(segment) = self.sound_over(first) else { continue };
            let range = segment.range;
            if !self.is_proven(segment).await? {
                continue;
            }
            let mut objects = vec![Object { name: layout::log(first), bytes }];
            let its = survey.orphans.iter().filter(|(orphan, _)| *orphan == first);
            objects.extend(its.map(|(_, object)| object.clone()));
            let why = format!("the segment of the offsets {range} covers it, and is proven");
            self.tasks.push(Task::Debris { objects, why });
        }
        let orphans =
            survey.orphans.iter().filter(|(first, _)| !inside.contains(first) && self.sound_over(*first).is_some());
        let mut objects: Vec<_> = orphans.map(|(_, object)| object.clone()).collect();
        objects.extend(self.spent_copies());
        if !objects.is_empty() {
            let why = "the chain has passed there, and they describe none of its logs".to_owned();
            self.tasks.push(Task::Debris { objects, why });
        }
        Ok(())
    }

    /// Returns the segment that covers `first`, if its log and sidecar are sound, or will be.
    fn sound_over(&self, first: Offset) -> Option<&Segment> {
        let steps = &self.survey.steps;
        let behind = steps.partition_point(|step| step.range().first <= first);
        let segment = steps.get(behind.checked_sub(1)?)?.segment()?;
        let is_sound = matches!(segment.state, State::Sound(..) | State::Bare { .. } | State::Undecided(_));
        (is_sound && segment.range.contains(first)).then_some(segment)
    }

    /// Returns the copies of an interrupted repair whose log is there.
    fn spent_copies(&self) -> Vec<Object> {
        let is_held = |copy: &&Object| {
            self.survey.segments().any(|segment| match &segment.state {
                State::Sound(row, _) => copy.name == copy_name(row),
                _ => false,
            })
        };
        self.survey.copies.iter().filter(is_held).cloned().collect()
    }

    /// Reads a segment's log, unless that was done, and returns whether it is what its sidecar says.
    async fn is_proven(&self, segment: &Segment) -> Result<bool> {
        let State::Sound(row, _) = &segment.state else { return Ok(matches!(segment.state, State::Bare { .. })) };
        let key = self.key(&layout::log(segment.range.first));
        let scan = scan(self.store, &key, Told::listed(segment.range.first, segment.bytes), |_, _| Ok(())).await?;
        Ok(scan.damage.is_none() && scan.digest == row.digest)
    }

    /// Returns the catalogs that are wrong, and those that are missing then.
    pub(super) async fn catalogs(&mut self) -> Result<(Vec<Object>, Vec<Catalog>)> {
        let mut due = self.due();
        let end = self.survey.end().unwrap_or(0);
        let mut wrong = Vec::new();
        let survey = self.survey;
        for (name, object) in &survey.catalogs {
            // What a living agent has added since the folder was listed is not ours to judge.
            if name.range.next > end && self.is_whole {
                continue;
            }
            let bytes = self.store.read(&self.key(&object.name)).await?;
            let held = match bytes.map(|bytes| Catalog::decode(&bytes)) {
                // What we would put in its place may be less than it holds.
                Some(Err(error)) if error.kind() == ErrorKind::Newer => {
                    let _ = due.remove(name);
                    self.remains(What::Unchecked, &object.name, Some(name.range), error.to_string());
                    continue;
                }
                held => held.and_then(Result::ok),
            };
            match (held, due.get(name)) {
                (Some(held), Some(wanted)) if held == *wanted => {
                    let _ = due.remove(name);
                }
                // Behind a hole nothing says what they should hold.
                (Some(_), None) if !self.is_whole => {}
                _ => wrong.push(object.clone()),
            }
        }
        let mut missing: Vec<_> = due.into_values().collect();
        missing.sort_by_key(|catalog| (catalog.level, catalog.range().first));
        // They share the rows of the whole chain, of which a few need not keep all in memory.
        let whole: usize = self.rows.len() * ROW_BYTES;
        if missing.iter().map(|catalog| catalog.rows.held_bytes()).sum::<usize>() < whole {
            missing.iter_mut().for_each(|catalog| catalog.rows = Rows::default().joined(&catalog.rows));
        }
        Ok((wrong, missing))
    }

    /// Returns the catalogs of the chain as it will be; they share one copy of its rows.
    fn due(&self) -> HashMap<Name, Catalog> {
        let mut levels = Levels::default();
        let mut due = HashMap::new();
        let rows = Rows::new(self.rows.iter().map(|(row, _)| row));
        let (topic_id, partition) = (self.partition().topic_id, self.partition().index);
        for (at, (row, _)) in self.rows.iter().enumerate() {
            for made in levels.add(row.range) {
                let from = self.rows[..=at].partition_point(|(row, _)| row.range.first < made.name.range.first);
                let of = &self.rows[from..=at];
                let notes: Notes = (0..).zip(of).filter_map(|(at, (_, note))| Some((at, note.clone()?))).collect();
                let rows = rows.part(from..at + 1);
                let _ = due.insert(made.name, Catalog { topic_id, partition, level: made.name.level, rows, notes });
            }
        }
        due
    }
}
