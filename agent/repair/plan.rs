//! The plan for a whole backup: its own objects, topic by topic, chain by chain.

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

/// Looks at the backup `backup_id` below `root` and says what to do; returns it with the backup, as it will be.
///
/// # Errors
/// [`Kind::NoBackup`] when there is nothing of that name; the store's.
pub async fn plan(root: &Store, backup_id: &str, options: Options<'_>) -> Result<(Archive, Plan)> {
    let mut plan =
        Plan { backup_id: backup_id.to_owned(), actions: Vec::new(), remaining: Vec::new(), notes: Vec::new() };
    let met = options.source.and_then(Source::cluster_id);
    let cluster_id = options.cluster_id.or(met.as_deref());
    let (archive, savepoint) = open(root, backup_id, cluster_id, &mut plan).await?;
    if let Some(source) = options.source {
        source.check(&archive)?;
    }
    for timeline in source::timelines(&archive).await? {
        topic(&archive, &timeline, &mut plan);
        for place in &timeline.places {
            let survey = Survey::of(&archive, place, options.deep).await?;
            let archived = savepoint.as_ref().and_then(|state| archived(state, place));
            chain::plan(&archive, survey, options, archived, &mut plan).await?;
        }
    }
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

/// Opens the backup; where `backup.json` is lost or damaged, as it will be.
async fn open(
    root: &Store,
    backup_id: &str,
    cluster_id: Option<&str>,
    plan: &mut Plan,
) -> Result<(Archive, Option<Savepoint>)> {
    let error = match source::open(root, backup_id).await {
        Ok(archive) => {
            let savepoint = newest_savepoint(&archive, plan).await?;
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
    let savepoint = newest_savepoint(&Archive::assumed(root, backup.clone()), plan).await?;
    let told = savepoint.as_ref().and_then(|state| state.cluster_id.clone());
    backup.cluster_id = match (told, cluster_id) {
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

/// Reads the newest savepoint that can be read.
async fn newest_savepoint(archive: &Archive, plan: &mut Plan) -> Result<Option<Savepoint>> {
    for name in archive.savepoints().await?.into_iter().rev() {
        match archive.resolved_savepoint(name).await {
            Ok(Some((_, state))) => return Ok(Some(state)),
            Ok(None) => {}
            Err(error) if error.kind() == Kind::Damaged => {
                plan.notes.push(format!("a savepoint is damaged, and nothing can bring it back: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
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
            let what = if error.kind() == Kind::Damaged { What::DamagedObject } else { What::Unchecked };
            let detail = format!("{error}; an agent that finds the topic in its cluster writes a newer one");
            let finding = Finding { what, object: archive.store().describe(&folder), range: None, detail };
            plan.remaining.push(Remaining { place: None, finding, transaction: None });
        }
    }
}
