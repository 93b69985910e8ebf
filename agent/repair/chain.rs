//! The plan for one chain: from what a survey found to what is done, and the chain that comes of it.
//!
//! [`broken`] is about logs that lost bytes, [`lost`] about offsets that nothing covers, [`letters`] about what stages kept
//! of a segment, [`leftovers`] about what lies beside the chain. Memory: two rows a segment, and the names of the
//! partition's dead letters where one of its sidecars is lost.

mod broken;
mod leftovers;
mod letters;
mod lost;

use std::collections::HashMap;
use std::sync::Arc;

use super::plan::{Beside, Options};
use super::survey::{Batch, Begin, Object, Segment, State, Step, Survey, changed, note};
use super::{Action, NewSidecar, Part, Plan, Remaining, Task};
use crate::archive::catalog::Row;
use crate::archive::rebuild::{Beyond, Rebuild, Transactions};
use crate::archive::sidecar::{Kind, Sidecar, Transaction};
use crate::archive::source::chain::{Finding, What};
use crate::archive::source::chunks::Chunks;
use crate::archive::source::dead_letters::Letter;
use crate::archive::{Archive, layout};
use crate::error::Result;
use crate::record::{Offset, OffsetRange, Partition, Timestamp};
use crate::store::Store;

/// A sidecar at the bare end of a chain is a commit that may still come, for so long after its segment was sealed.
const UNFINISHED_KEPT_MS: i64 = 24 * 3600 * 1000;

/// Plans what to do with one chain, and adds it to `plan`.
///
/// # Errors
/// Those of the store and of the source.
pub(super) async fn plan(
    archive: &Archive,
    mut survey: Survey,
    options: Options<'_>,
    beside: Beside,
    plan: &mut Plan,
) -> Result<()> {
    let mut transactions = std::mem::take(&mut survey.transactions);
    if let Some(source) = options.source {
        source.decide(archive, &survey, &mut transactions, &mut plan.notes).await?;
    }
    let mut planner = Planner {
        store: archive.store(),
        options,
        beside,
        transactions,
        survey: &survey,
        rows: Vec::new(),
        is_whole: true,
        sealed_after: beside.seen_first.unwrap_or(Timestamp::NONE),
        proofs: HashMap::new(),
        letters: None,
        tasks: Vec::new(),
        remaining: Vec::new(),
    };
    planner.begin().await?;
    planner.steps().await?;
    planner.end(beside.archived).await?;
    planner.debris().await?;
    let (dropped, missing) = planner.catalogs().await?;
    let Planner { tasks, remaining, .. } = planner;
    let dropped = (!dropped.is_empty()).then_some(Task::DropCatalogs(dropped));
    let missing = (!missing.is_empty()).then_some(Task::MakeCatalogs(missing));
    let place = Some(survey.place.clone());
    // Catalogs go last of all: until then they are evidence of what sidecars that were lost had told.
    let tasks = tasks.into_iter().chain(dropped).chain(missing);
    plan.actions.extend(tasks.map(|task| Action { place: place.clone(), task }));
    plan.remaining.extend(remaining);
    Ok(())
}

struct Planner<'a> {
    store: &'a Store,
    options: Options<'a>,
    beside: Beside,
    survey: &'a Survey,
    transactions: Transactions,
    /// The chain as it will be.
    rows: Vec<(Row, Option<Arc<str>>)>,
    /// Whether everything up to here is understood, so that a catalog that says otherwise is wrong.
    is_whole: bool,
    /// When the last segment before was sealed, or when the topic was first seen.
    sealed_after: Timestamp,
    /// What the logs of segments were found to be that were read so that something may be deleted.
    proofs: HashMap<Offset, Option<Arc<[Batch]>>>,
    /// The dead letters of the partition, once they were asked for.
    letters: Option<Vec<Letter>>,
    tasks: Vec<Task>,
    remaining: Vec<Remaining>,
}

impl Planner<'_> {
    fn partition(&self) -> &Partition {
        &self.survey.place.partition
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.survey.place.folder)
    }

    fn remains(&mut self, what: What, name: &str, range: Option<OffsetRange>, detail: String) {
        let finding = Finding { what, object: self.store.describe(&self.key(name)), range, detail };
        self.remaining.push(Remaining { place: Some(self.survey.place.clone()), finding, transaction: None });
    }

    /// Reads an object that is to be deleted.
    async fn seen(&self, object: &Object) -> Result<Object> {
        object.clone().seen(self.store, &self.survey.place.folder).await
    }

    async fn all_seen(&self, objects: &[Object]) -> Result<Vec<Object>> {
        let mut seen = Vec::with_capacity(objects.len());
        for object in objects {
            seen.push(self.seen(object).await?);
        }
        Ok(seen)
    }

    /// Plans for a `begin.json` that cannot be read: the chain itself says where it begins, if there is one.
    async fn begin(&mut self) -> Result<()> {
        let Begin::Damaged(object) = &self.survey.begin else { return Ok(()) };
        match self.survey.steps.first() {
            Some(Step::Segment(segment)) => {
                let replaces = self.seen(object).await?;
                self.tasks.push(Task::Begin { offset: segment.range.first, replaces });
            }
            _ => {
                let detail = "nothing else says where the chain begins: bring it back from a copy".to_owned();
                self.remains(What::DamagedObject, layout::BEGIN, None, detail);
            }
        }
        Ok(())
    }

    async fn steps(&mut self) -> Result<()> {
        let survey = self.survey;
        for (at, step) in survey.steps.iter().enumerate() {
            match step {
                Step::Hole(range) => self.hole(*range).await?,
                Step::Segment(segment) => self.segment(segment, at == 0, at + 1 == survey.steps.len()).await?,
            }
            // A gap may have been declared much later.
            if let Some((row, _)) = self.rows.last().filter(|(row, _)| row.kind != Kind::Gap) {
                self.sealed_after = self.sealed_after.max(row.sealed_at);
            }
        }
        Ok(())
    }

    async fn segment(&mut self, segment: &Segment, is_first: bool, is_last: bool) -> Result<()> {
        let log = layout::log(segment.range.first);
        match &segment.state {
            State::Sound(row, note) => self.rows.push((*row, note.clone())),
            State::Altered(row) => {
                self.is_whole &= row.is_some();
                self.rows.extend(row.clone());
                let detail = "its bytes are not what they were, though each batch is sound: bring it back from a copy";
                self.remains(What::DamagedLog, &log, Some(segment.range), detail.to_owned());
            }
            State::Undecided(sidecar) => self.undecided(segment, sidecar).await?,
            State::Bare { damaged, digest, row } => {
                let (aborted, undecided) = self.transactions.of(segment.range);
                let kind = if is_first { Kind::First } else { Kind::Data };
                let chunks = Chunks::new(self.store, &self.key(&log), segment.bytes);
                let (stages, left_out) = self.kept(chunks, segment.range, is_first).await?;
                let beyond = Beyond {
                    kind: row.as_ref().map_or(kind, |(row, _)| row.kind),
                    aborted,
                    undecided,
                    sealed_at: row.as_ref().map(|(row, _)| row.sealed_at).or_else(|| self.sealed_at_least()),
                    sealed_after: self.sealed_after,
                    note: row.as_ref().and_then(|(_, note)| note.as_deref().map(str::to_owned)),
                    stages,
                    left_out,
                };
                self.rebuild(segment, beyond, damaged.clone(), *digest, false).await?;
            }
            State::Broken { .. } => self.broken(segment, is_first, is_last).await?,
        }
        Ok(())
    }

    /// Returns the earliest time at which a segment was sealed, where times of sealing alone tell which topic of a name is
    /// the newest: what its producers said of the time must not count then.
    fn sealed_at_least(&self) -> Option<Timestamp> {
        Some(self.sealed_after).filter(|after| !self.beside.is_dated && *after > Timestamp::NONE)
    }

    /// Plans for a sidecar that was rebuilt once: perhaps more is known by now.
    async fn undecided(&mut self, segment: &Segment, sidecar: &Sidecar) -> Result<()> {
        let (mut aborted, undecided) = self.transactions.of(segment.range);
        let is_still = |entry: &Transaction| undecided.iter().any(|still| overlap(entry, still));
        if sidecar.undecided.iter().all(is_still) {
            self.rows.push((Row::of(sidecar), note(sidecar)));
            self.tell_undecided(segment, &sidecar.undecided);
            return Ok(());
        }
        let same = |a: &Transaction, b: &Transaction| (a.producer_id, a.first) == (b.producer_id, b.first);
        let kept = sidecar.aborted.iter().filter(|old| !aborted.iter().any(|new| same(old, new)));
        let kept: Vec<_> = kept.copied().collect();
        aborted.extend(kept);
        let beyond = Beyond { aborted, undecided, ..beyond(sidecar) };
        let name = layout::sidecar(segment.range.first, segment.bytes, sidecar.digest);
        let replaces = self.survey.object(name);
        self.rebuild(segment, beyond, replaces, sidecar.digest, true).await
    }

    /// Names undecided transactions, one that spans segments once.
    fn tell_undecided(&mut self, segment: &Segment, undecided: &[Transaction]) {
        for entry in undecided {
            let next = entry.last.map_or(segment.range.next, |last| last + 1);
            let known = |told: &&mut Remaining| {
                told.transaction.is_some_and(|told| (told.producer_id, told.first) == (entry.producer_id, entry.first))
            };
            if let Some(range) = self.remaining.iter_mut().find(known).and_then(|told| told.finding.range.as_mut()) {
                range.next = next;
                continue;
            }
            let detail =
                format!("producer {}: the markers that are left do not tell whether it was aborted", entry.producer_id);
            let range = OffsetRange { first: entry.first, next };
            self.remains(What::Undecided, &layout::log(segment.range.first), Some(range), detail);
            if let Some(told) = self.remaining.last_mut() {
                told.transaction = Some(*entry);
            }
        }
    }

    /// Plans to make the sidecar of a sound log.
    async fn rebuild(
        &mut self,
        segment: &Segment,
        beyond: Beyond,
        replaces: Option<Object>,
        digest: u128,
        knew_less: bool,
    ) -> Result<()> {
        let name = layout::log(segment.range.first);
        let key = self.key(&name);
        let chunks = Chunks::new(self.store, &key, segment.bytes);
        let sidecar = build(chunks, self.partition(), segment.range.first, beyond.clone()).await?;
        if sidecar.digest != digest {
            return Err(changed(self.store, &key));
        }
        let row = Row::of(&sidecar);
        let beyond = pinned(beyond, &sidecar);
        self.rows.push((row, note(&sidecar)));
        self.tell_undecided(segment, &sidecar.undecided);
        let log = Object { name, bytes: segment.bytes, digest: Some(digest) };
        let replaces = match replaces {
            Some(object) => Some(self.seen(&object).await?),
            None => None,
        };
        self.tasks.push(Task::Sidecar(Box::new(NewSidecar { log, beyond, row, replaces, knew_less })));
        Ok(())
    }

    /// Returns the sidecar that is there for the log of these offsets and bytes, if it can be read.
    async fn held(&self, range: OffsetRange, length_bytes: u64, digest: u128) -> Result<Option<Sidecar>> {
        let name = layout::sidecar(range.first, length_bytes, digest);
        if !self.survey.objects.contains_key(&name) {
            return Ok(None);
        }
        let bytes = self.store.read(&self.key(&name)).await?.unwrap_or_default();
        let partition = self.partition();
        Ok(Sidecar::decode(&bytes).ok().filter(|held| {
            (held.range, held.length_bytes, held.digest) == (range, length_bytes, digest)
                && (held.topic_id, held.partition) == (partition.topic_id, partition.index)
        }))
    }

    /// Plans to delete what has the names of the sidecars of new segments, and does not say what they will.
    async fn make_way(&mut self, parts: &[Part]) -> Result<()> {
        let mut wrong = Vec::new();
        for Part { range, row, .. } in parts {
            let name = layout::sidecar(range.first, row.length_bytes, row.digest);
            if let Some(object) = self.survey.object(name)
                && self.held(*range, row.length_bytes, row.digest).await?.is_none_or(|held| Row::of(&held) != *row)
            {
                wrong.push(self.seen(&object).await?);
            }
        }
        if !wrong.is_empty() {
            let why = "the sidecar of a piece is to have its name, and it does not say what that will".to_owned();
            self.tasks.push(Task::Debris { objects: wrong, why });
        }
        Ok(())
    }
}

/// Returns what a sidecar says that its log does not.
fn beyond(sidecar: &Sidecar) -> Beyond {
    Beyond {
        kind: sidecar.kind,
        aborted: sidecar.aborted.clone(),
        undecided: sidecar.undecided.clone(),
        sealed_at: Some(sidecar.sealed_at),
        sealed_after: Timestamp::NONE,
        note: Some(sidecar.note.clone()),
        stages: sidecar.stages.clone(),
        left_out: sidecar.left_out.clone(),
    }
}

/// Returns whether two entries may be of one transaction.
fn overlap(a: &Transaction, b: &Transaction) -> bool {
    let reaches = |a: &Transaction, b: &Transaction| a.last.is_none_or(|last| last >= b.first);
    a.producer_id == b.producer_id && reaches(a, b) && reaches(b, a)
}

/// Keeps the time of sealing that does not follow from the log alone: of records from times to come, which are not believed,
/// some may have come when the plan is performed.
fn pinned(beyond: Beyond, sidecar: &Sidecar) -> Beyond {
    let follows = sidecar.max_time.is_none_or(|time| time <= sidecar.sealed_at);
    Beyond { sealed_at: beyond.sealed_at.or((!follows).then_some(sidecar.sealed_at)), ..beyond }
}

/// Makes the sidecar of a log, or of a stretch of one.
pub(super) async fn build(mut chunks: Chunks, partition: &Partition, first: Offset, beyond: Beyond) -> Result<Sidecar> {
    let mut rebuild = Rebuild::new(partition, first, beyond);
    while let Some(chunk) = chunks.next().await? {
        rebuild.append(&chunk.bytes).map_err(|error| error.with("partition", partition))?;
    }
    Ok(rebuild.finish())
}
