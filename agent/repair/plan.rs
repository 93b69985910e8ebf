//! The plan for a whole backup: its own objects, topic by topic, chain by chain, and what a check finds besides.

mod checked;

use super::chain;
use super::source::Source;
use super::survey::{Object, Survey};
use super::{Action, Plan, Remaining, Task};
use crate::archive::savepoint::State as Savepoint;
use crate::archive::source::chain::{Finding, What};
use crate::archive::source::{self, Place, Timeline};
use crate::archive::{Archive, Backup, FORMAT, layout};
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, Timestamp};
use crate::store::Store;
use crate::verify::{self, Mode};

/// How to repair.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Declare offsets whose bytes are gone as gaps.
    pub accept_loss: bool,
    /// Read every byte.
    pub deep: bool,
    /// The cluster's id, for a backup that has lost what says it.
    pub cluster_id: Option<&'a str>,
    /// Whom to ask what became of transactions.
    pub source: Option<&'a Source>,
}

/// What is known of a chain without looking at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beside {
    /// Up to where it was durable once.
    pub(super) archived: Option<Offset>,
    /// When its topic was first seen: none of its segments was sealed before.
    pub(super) seen_first: Option<Timestamp>,
    /// Whether a topic object tells when its topic lived. Else the times of sealing do, and must not be later than they were.
    pub(super) is_dated: bool,
}

/// Looks at the backup `backup_id` below `root` and says what to do; returns it with the backup, as it will be.
///
/// What remains is what a check finds that is not mended, too: a plan without actions says that a backup is whole only where
/// `verify` does.
///
/// # Errors
/// [`Kind::NoBackup`] when there is nothing of that name; [`Kind::Usage`] for a cluster that is not the backup's; the
/// store's while it lists the topics. A chain that cannot be looked at is in the plan.
pub async fn plan(root: &Store, backup_id: &str, options: Options<'_>) -> Result<(Archive, Plan)> {
    let mut plan = Plan {
        backup_id: backup_id.to_owned(),
        actions: Vec::new(),
        remaining: Vec::new(),
        of_plan: 0,
        notes: Vec::new(),
    };
    let (archive, savepoint) = open(root, backup_id, options, &mut plan).await?;
    if let Some(source) = options.source {
        source.check(&archive)?;
    }
    let timelines = source::timelines(&archive).await?;
    for (at, timeline) in timelines.iter().enumerate() {
        topic(&archive, timeline, &mut plan);
        let seen_first = seen_first(&archive, timeline).await;
        let is_dated = seen_first.is_some() || source::seen(&archive, timeline).await.is_some();
        for place in &timeline.places {
            let archived = savepoint.as_ref().and_then(|state| archived(state, place));
            let beside = Beside { archived, seen_first, is_dated };
            look_at(&archive, place, options, beside, &mut plan).await?;
        }
        let mut neighbours = [at.checked_sub(1), Some(at + 1)].into_iter().flatten().filter_map(|at| timelines.get(at));
        if !is_dated && neighbours.any(|other| other.topic == timeline.topic) {
            undated(timeline, &mut plan);
        }
    }
    let mode = if options.deep { Mode::Deep } else { Mode::Plain };
    let report = verify::check(&archive, mode).await?;
    plan.add_findings(&archive, &report);
    if !options.deep {
        plan.notes.push("logs beside sound sidecars were not read; --deep reads them".to_owned());
    }
    if archive.store().describe("").starts_with("s3://") {
        plan.notes.push(
            "unfinished multipart uploads cannot be listed here: a lifecycle rule with `AbortIncompleteMultipartUpload` \
             clears them"
                .to_owned(),
        );
    }
    Ok((archive, plan))
}

/// Plans for one chain; what keeps it from being looked at is said, and the other chains are gone on with.
async fn look_at(
    archive: &Archive,
    place: &Place,
    options: Options<'_>,
    beside: Beside,
    plan: &mut Plan,
) -> Result<()> {
    let planned = match Survey::of(archive, place, options.deep).await {
        Ok(survey) => chain::plan(archive, survey, options, beside, plan).await,
        Err(error) => Err(error),
    };
    match planned {
        Err(error) if error.kind() == Kind::Interrupted => Err(error),
        Err(error) => {
            let finding = Finding::of_end(archive, place, &error);
            plan.remaining.push(Remaining { place: Some(place.clone()), finding, transaction: None });
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Opens the backup; where `backup.json` is lost or damaged, as it will be.
async fn open(
    root: &Store,
    backup_id: &str,
    options: Options<'_>,
    plan: &mut Plan,
) -> Result<(Archive, Option<Savepoint>)> {
    let error = match source::open(root, backup_id).await {
        Ok(archive) => {
            check_cluster(&archive, options.cluster_id, plan)?;
            // A savepoint that the store does not give is named by the check.
            let savepoint = newest_savepoint(&archive).await.unwrap_or_default();
            return Ok((archive, savepoint));
        }
        Err(error) if matches!(error.kind(), Kind::NoBackup | Kind::Damaged) => error,
        Err(error) => return Err(error),
    };
    let store = root.within(backup_id);
    if store.list(layout::TOPICS).await?.is_empty() {
        return Err(error);
    }
    let listed = store.list_from("", layout::BACKUP).await?.into_iter().find(|entry| entry.name == layout::BACKUP);
    let replaces = match listed {
        Some(entry) => Some(Object::listed(entry.name, entry.size_bytes).seen(&store, "").await?),
        None => None,
    };
    let mut backup = Backup {
        format: FORMAT,
        backup_id: backup_id.to_owned(),
        cluster_id: None,
        envelope: "none".to_owned(),
        created: Timestamp::now().to_string(),
        created_by: concat!("kafka-backup ", env!("CARGO_PKG_VERSION"), " repair").to_owned(),
    };
    let savepoint = newest_savepoint(&Archive::assumed(root, backup.clone())).await?;
    let told = savepoint.as_ref().and_then(|state| state.cluster_id.clone());
    let met = options.source.and_then(Source::cluster_id);
    let given = options.cluster_id.or(met.as_deref());
    backup.cluster_id = match (told, given) {
        (Some(told), Some(given)) if told != given => {
            return Err(Error::usage(format!("--cluster-id {given} is not the one of the newest savepoint, {told}")));
        }
        (told, given) => told.or_else(|| given.map(str::to_owned)),
    };
    if backup.cluster_id.is_none() {
        plan.notes.push(
            "the id of the cluster is not known: an agent of any cluster may append then; --cluster-id says it"
                .to_owned(),
        );
    }
    let task = Task::Backup { backup: Box::new(backup.clone()), replaces };
    plan.actions.push(Action { place: None, task });
    Ok((Archive::assumed(root, backup), savepoint))
}

/// Holds the cluster that the user named against the one that `backup.json` does.
fn check_cluster(archive: &Archive, given: Option<&str>, plan: &mut Plan) -> Result<()> {
    match (given, archive.backup().cluster_id.as_deref()) {
        (Some(given), Some(held)) if given != held => {
            Err(Error::usage(format!("--cluster-id {given} is not the one that backup.json says, {held}"))
                .hint("leave it out: it is for a backup that has lost its backup.json"))
        }
        (Some(_), None) => {
            plan.notes.push("backup.json is sound and names no cluster: --cluster-id changes nothing".to_owned());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Returns the newest savepoint that can be read; of the others the check tells.
async fn newest_savepoint(archive: &Archive) -> Result<Option<Savepoint>> {
    for name in archive.savepoints().await?.into_iter().rev() {
        match archive.resolved_savepoint(name).await {
            Ok(Some((_, state))) => return Ok(Some(state)),
            Ok(None) => {}
            Err(error) if error.is_unreadable() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Returns when the topic of a timeline was first seen; `None` where its first topic object does not tell.
async fn seen_first(archive: &Archive, timeline: &Timeline) -> Option<Timestamp> {
    let object = archive.topic_object(&timeline.topic, &timeline.topic_id.to_string(), 0).await.ok()?;
    object.seen_at.parse().ok()
}

/// Says that nothing that is left tells how old the topic of a timeline is, where a sidecar is made whose segment may have
/// been sealed at any time.
fn undated(timeline: &Timeline, plan: &mut Plan) {
    let is_one = |action: &Action| {
        let is_of = action.place.as_ref().is_some_and(|place| timeline.places.contains(place));
        is_of
            && matches!(&action.task, Task::Sidecar(new) if new.beyond.sealed_at.is_none_or(|at| at == Timestamp::NONE))
    };
    if plan.actions.iter().any(is_one) {
        plan.notes.push(format!(
            "which of the topics that were named {} is the newest is not certain: when {} lived is lost with its topic \
             objects and sidecars, and only the times of its records are left",
            timeline.topic, timeline.topic_id
        ));
    }
}

/// Returns up to where a chain was durable when the savepoint was made.
fn archived(state: &Savepoint, place: &Place) -> Option<Offset> {
    let topic_id = place.partition.topic_id.to_string();
    let topic =
        state.topics.iter().find(|topic| *topic.topic == *place.partition.topic && topic.topic_id == topic_id)?;
    let end = topic.partitions.iter().find(|end| end.partition == place.partition.index)?;
    end.archived.as_ref().filter(|archived| archived.chain == place.name()).map(|archived| archived.next)
}

/// Says what is wrong with a topic's own object.
fn topic(archive: &Archive, timeline: &Timeline, plan: &mut Plan) {
    let name = format!("{}@{}", timeline.topic, timeline.topic_id);
    match &timeline.object {
        Ok(Some(_)) => {}
        Ok(None) => plan.notes.push(format!(
            "the settings of topic {name} are lost, and which partitions it has beyond those that hold something; an \
             agent that finds the topic in its cluster writes them anew"
        )),
        Err(error) => {
            let folder = layout::timeline_folder(&timeline.topic, timeline.topic_id);
            let (what, detail) = match error.kind() {
                Kind::Damaged => {
                    let detail = format!("{error}; an agent that finds the topic in its cluster writes a newer one");
                    (What::DamagedObject, detail)
                }
                _ => (What::Unchecked, error.to_string()),
            };
            let finding = Finding { what, object: archive.store().describe(&folder), range: None, detail };
            plan.remaining.push(Remaining { place: None, finding, transaction: None });
        }
    }
}

#[cfg(test)]
mod tests;
