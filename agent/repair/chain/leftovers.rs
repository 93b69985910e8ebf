//! The plan for what lies beside a chain: at its end, inside its segments, in its catalogs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Planner, UNFINISHED_KEPT_MS};
use crate::archive::catalog::{Catalog, Levels, Name, Notes, ROW_BYTES, Rows};
use crate::archive::layout;
use crate::archive::sidecar::Sidecar;
use crate::archive::source::chain::What;
use crate::error::{Kind as ErrorKind, Result};
use crate::record::{Offset, OffsetRange, Timestamp};
use crate::repair::Task;
use crate::repair::scan::{Told, scan};
use crate::repair::survey::{self, Batch, Begin, Inner, Object, Segment, State, copy_name, parse_copy_name};

impl<'a> Planner<'a> {
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
                old.push(self.seen(object).await?);
            }
        }
        if !old.is_empty() {
            let why = "a writer stopped before the commit, more than a day ago".to_owned();
            self.tasks.push(Task::Debris { objects: old, why });
        }
        Ok(())
    }

    /// Plans to delete what has been proven to be left over; what has not is named.
    pub(super) async fn debris(&mut self) -> Result<()> {
        let survey = self.survey;
        for inner in &survey.inside {
            self.inner(inner).await?;
        }
        let inside: HashSet<Offset> = survey.inside.iter().map(|inner| inner.first).collect();
        let mut objects = Vec::new();
        for (first, object) in &survey.orphans {
            if !inside.contains(first) && self.sound_over(*first).is_some() && !self.tells_of_a_longer_end(object) {
                objects.push(self.seen(object).await?);
            }
        }
        for copy in &survey.copies {
            if self.is_spent(copy).await? {
                objects.push(self.seen(copy).await?);
            } else if !self.is_taken(copy) {
                self.copy_remains(copy);
            }
        }
        if !objects.is_empty() {
            let why = "the chain has passed there, and they describe none of its logs".to_owned();
            self.tasks.push(Task::Debris { objects, why });
        }
        Ok(())
    }

    /// Plans for a log inside another's range: it goes if sound segments, without a hole between, hold what it does.
    async fn inner(&mut self, inner: &Inner) -> Result<()> {
        let Some(over) = self.sound_over(inner.first) else { return Ok(()) };
        let held = self.held_up_to(inner).await?;
        let name = layout::log(inner.first);
        if held < inner.next() || inner.scan.damage.is_some() {
            let why = match &inner.scan.damage {
                Some(damage) => format!("{damage}, so that nothing tells what else it held"),
                None => format!("from offset {held} on nothing else is proven to hold what it does: keep it"),
            };
            let range = OffsetRange { first: inner.first, next: inner.next() };
            let detail = format!("it begins inside the segment of the offsets {}; {why}", over.range);
            self.remains(What::Debris, &name, Some(range), detail);
            return Ok(());
        }
        let mut objects = vec![Object { name, bytes: inner.bytes, digest: Some(inner.scan.digest) }];
        for (_, object) in self.survey.orphans.iter().filter(|(orphan, _)| *orphan == inner.first) {
            objects.push(self.seen(object).await?);
        }
        let why = format!("the segment of the offsets {} covers it, and is proven", over.range);
        self.tasks.push(Task::Debris { objects, why });
        Ok(())
    }

    /// Returns up to where proven segments hold what a log inside the first of them does.
    async fn held_up_to(&mut self, inner: &Inner) -> Result<Offset> {
        let (mut reached, mut held) = (inner.first, Vec::new());
        while reached < inner.next() {
            let Some(segment) = self.sound_over(reached) else { break };
            // What a segment is said to hold counts only when it was read.
            let Some(batches) = self.proof(segment).await? else { break };
            held.extend_from_slice(&batches);
            reached = segment.range.next;
        }
        let missing = inner.batches.iter().find(|batch| !batch.is_in(&held));
        Ok(missing.map_or(reached, |batch| batch.range.first.clamp(inner.first, reached)))
    }

    /// Reads a segment's log; returns those of its batches that lie where a log inside another does, `None` if it is not
    /// what its sidecar says.
    async fn proof(&mut self, segment: &Segment) -> Result<Option<Arc<[Batch]>>> {
        let first = segment.range.first;
        if let Some(known) = self.proofs.get(&first) {
            return Ok(known.clone());
        }
        let digest = match &segment.state {
            State::Sound(row, _) => Some(row.digest),
            State::Undecided(sidecar) => Some(sidecar.digest),
            State::Bare { digest, .. } => Some(*digest),
            State::Broken { .. } | State::Altered(_) => None,
        };
        let (mut batches, inside) = (Vec::new(), &self.survey.inside);
        let is_asked_for = |batch: &Batch| inside.iter().any(|inner| inner.reaches(batch.range));
        let key = self.key(&layout::log(first));
        let scan = scan(self.store, &key, Told::listed(first, segment.bytes), |header, _| {
            batches.extend(Batch::of(header).filter(is_asked_for));
            Ok(())
        });
        let scan = scan.await?;
        let is_sound = scan.damage.is_none() && Some(scan.digest) == digest;
        let proof = is_sound.then(|| batches.into());
        let _ = self.proofs.insert(first, proof.clone());
        Ok(proof)
    }

    /// Returns the segment that covers `first`, if its log and sidecar are sound, or will be.
    fn sound_over(&self, first: Offset) -> Option<&'a Segment> {
        let steps = &self.survey.steps;
        let behind = steps.partition_point(|step| step.range().first <= first);
        let segment = steps.get(behind.checked_sub(1)?)?.segment()?;
        (segment.is_sound() && segment.range.contains(first)).then_some(segment)
    }

    /// Returns whether a sidecar describes more than the chain's last log has: a log that was cut would look so.
    fn tells_of_a_longer_end(&self, object: &Object) -> bool {
        let Some(last) = self.survey.segments().last() else { return false };
        let named = layout::Name::parse(&object.name);
        named.is_some_and(|named| match named {
            layout::Name::Sidecar { first, length_bytes, .. } => first == last.range.first && length_bytes > last.bytes,
            layout::Name::Log { .. } => false,
        })
    }

    /// Returns whether the log of a copy that an interrupted repair left is there, and holds the copy's bytes.
    async fn is_spent(&self, copy: &Object) -> Result<bool> {
        let Some((first, length, digest)) = parse_copy_name(&copy.name) else { return Ok(false) };
        let log = self.survey.segments().find(|segment| segment.range.first == first);
        if !log.is_some_and(|log| log.is_sound() && log.bytes >= length) {
            return Ok(false);
        }
        let held = survey::digest(self.store, &self.key(&layout::log(first)), length).await?;
        Ok(held == Some(digest))
    }

    /// Returns whether what is planned takes a copy, and deletes it.
    fn is_taken(&self, copy: &Object) -> bool {
        self.tasks.iter().any(|task| match task {
            Task::Resume { copy: taken, .. } => taken.name == copy.name,
            Task::Replace(replacement) => {
                replacement.parts.first().is_some_and(|part| copy_name(&part.row) == copy.name)
            }
            _ => false,
        })
    }

    fn copy_remains(&mut self, copy: &Object) {
        let (what, detail) = match parse_copy_name(&copy.name) {
            Some((first, ..)) => (
                What::DamagedObject,
                format!(
                    "an earlier repair put aside what was sound of the log at offset {first}; no log holds it, and it fits \
                     no hole: it may be the only copy"
                ),
            ),
            None => (What::UnknownObject, "its name is none that a repair gives".to_owned()),
        };
        self.remains(what, &copy.name, None, detail);
    }

    /// Returns the catalogs that are wrong, and those that are missing then.
    pub(super) async fn catalogs(&mut self) -> Result<(Vec<Object>, Vec<Catalog>)> {
        let mut due = self.due();
        let end = self.survey.end().unwrap_or(0);
        let mut wrong = Vec::new();
        let survey = self.survey;
        let altered: Vec<_> = survey.segments().filter(|segment| matches!(segment.state, State::Altered(_))).collect();
        for (name, object) in &survey.catalogs {
            // What a living agent has added since the folder was listed is not ours to judge.
            if name.range.next > end && self.is_whole {
                continue;
            }
            let Some(bytes) = self.store.read(&self.key(&object.name)).await? else { continue };
            let held = match Catalog::decode(&bytes) {
                // What we would put in its place may be less than it holds.
                Err(error) if error.kind() == ErrorKind::Newer => {
                    let _ = due.remove(name);
                    self.remains(What::Unchecked, &object.name, Some(name.range), error.to_string());
                    continue;
                }
                held => held.ok(),
            };
            match (held, due.get(name)) {
                (Some(held), Some(wanted)) if held == *wanted => {
                    let _ = due.remove(name);
                }
                // Behind a hole nothing says what they should hold.
                (Some(_), None) if !self.is_whole && !self.changes(name.range) => {}
                // It may be all that tells that such a log is not what it was.
                _ if altered.iter().any(|segment| name.range.contains(segment.range.first)) => {
                    let _ = due.remove(name);
                    let detail = "it is left for as long as a log that it tells of is not what it was".to_owned();
                    self.remains(What::DamagedCatalog, &object.name, Some(name.range), detail);
                }
                _ => {
                    let digest = Some(xxhash_rust::xxh3::xxh3_128(&bytes));
                    wrong.push(Object { name: object.name.clone(), bytes: bytes.len() as u64, digest });
                }
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

    /// Returns whether something of `range` is replaced, or declared as a gap.
    fn changes(&self, range: OffsetRange) -> bool {
        let meets = |other: OffsetRange| other.first < range.next && range.first < other.next;
        self.tasks.iter().any(|task| match task {
            Task::Replace(replacement) => meets(replacement.range),
            Task::Gap { gap, .. } => meets(gap.range),
            _ => false,
        })
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
