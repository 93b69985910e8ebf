//! Reading an archive: which backups, topics, timelines and partitions there are, and the way along a partition's
//! chain.
//!
//! Guarantees: nothing is written; what is found wrong is a value ([`Finding`](chain::Finding)) that says where, so
//! that each reader decides what it stops at; memory is constant, whatever the size of a chain or a segment. A
//! [`Chain`](chain::Chain) walks from segment to segment, [`Chunks`](chunks::Chunks) through the batches of one,
//! [`summary`] adds a chain up. Errors of the store are passed on as they are: the caller tries again or gives up.

pub mod audit;
pub mod chain;
pub mod chunks;
pub mod summary;

use std::sync::Arc;

use super::{Archive, Segments, TopicObject, layout};
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, Partition, Timestamp, TopicId};
use crate::store::Store;

/// No cluster has a topic of more partitions; a topic object that says so is damaged, and must not cost memory.
const MOST_PARTITIONS: i32 = 1_000_000;

/// One of the topics that bore a name: made, perhaps deleted, and known by its id.
#[derive(Debug)]
pub struct Timeline {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's id.
    pub topic_id: TopicId,
    /// Whether it is the newest of its name, as far as its topic object and its segments tell.
    pub is_newest: bool,
    /// The newest topic object; `None` where there is none, an error where it is damaged.
    pub object: Result<Option<TopicObject>>,
    /// Its partitions in order, each followed by its forks; partitions that hold nothing are among them.
    pub places: Vec<Place>,
}

/// Where a chain lies: a partition, or a fork of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The partition.
    pub partition: Partition,
    /// The fork, if it is one.
    pub fork: Option<Fork>,
    /// The folder, relative to the backup's, with a slash at its end.
    pub folder: String,
}

/// What tells a fork from its partition: Kafka had lost records that the archive holds, and went on otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fork {
    /// The leader epoch with which it went on.
    pub epoch: i32,
    /// The offset from which on it differs.
    pub end: Offset,
}

/// Opens the backup `backup_id` below `root` for reading.
///
/// # Errors
/// As [`Archive::open`]; [`Kind::NoBackup`] names the backups that are there.
pub async fn open(root: &Store, backup_id: &str) -> Result<Archive> {
    let error = match Archive::open(root, backup_id).await {
        Err(error) if error.kind() == Kind::NoBackup => error,
        other => return other,
    };
    let Ok(found) = backups(root).await else { return Err(error) };
    Err(Error::new(Kind::NoBackup, format!("there is no backup `{backup_id}`"))
        .with("path", root.describe("").trim_end_matches('/'))
        .hint(match found.len() {
            0 => "there is no backup below that path at all".to_owned(),
            1..=20 => format!("there is: {}", found.join(", ")),
            more => format!("there are {more}, as {}; `list` shows all", found[..3].join(", ")),
        }))
}

/// Returns the names of the backups below `root`: of the folders with a `backup.json`.
pub async fn backups(root: &Store) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in root.list("").await?.into_iter().filter(|entry| entry.is_folder) {
        if root.within(&entry.name).list("").await?.iter().any(|inside| inside.name == layout::BACKUP) {
            found.push(entry.name);
        }
    }
    Ok(found)
}

/// Returns the timelines of all topics, sorted by name and the newest of a name first.
///
/// # Errors
/// Those of the store; a damaged topic object is in the timeline.
pub async fn timelines(archive: &Archive) -> Result<Vec<Timeline>> {
    let mut found = Vec::new();
    for topic in archive.store().list(layout::TOPICS).await?.into_iter().filter(|entry| entry.is_folder) {
        let mut timelines = Vec::new();
        let folder = format!("{}{}/", layout::TOPICS, topic.name);
        for entry in archive.store().list(&folder).await?.into_iter().filter(|entry| entry.is_folder) {
            // Whatever else lies there is not ours to judge.
            if let Some(topic_id) = entry.name.parse::<TopicId>().ok().filter(|id| id.to_string() == entry.name) {
                timelines.push(timeline(archive, &topic.name, topic_id).await?);
            }
        }
        if timelines.len() > 1 {
            timelines = newest_first(archive, timelines).await?;
        }
        if let Some(newest) = timelines.first_mut() {
            newest.is_newest = true;
        }
        found.append(&mut timelines);
    }
    Ok(found)
}

/// Reads what there is of one timeline.
async fn timeline(archive: &Archive, topic: &str, topic_id: TopicId) -> Result<Timeline> {
    let object = match archive.topic(topic, &topic_id.to_string()).await {
        Ok(Some((_, object))) if !(0..=MOST_PARTITIONS).contains(&object.topic.partitions) => {
            Err(Error::damaged(format!("topic object says {} partitions", object.topic.partitions))
                .with("topic", topic))
        }
        Ok(found) => Ok(found.map(|(_, object)| object)),
        Err(error) if error.kind() == Kind::Damaged => Err(error),
        Err(error) => return Err(error),
    };
    let topic: Arc<str> = topic.into();
    let folder = layout::timeline_folder(&topic, topic_id);
    let place = |index, fork, name: &str| Place {
        partition: Partition { topic: topic.clone(), topic_id, index },
        fork,
        folder: format!("{folder}{name}/"),
    };
    let mut places = Vec::new();
    for entry in archive.store().list(&folder).await?.into_iter().filter(|entry| entry.is_folder) {
        if let Some((index, fork)) = parse_folder(&entry.name) {
            places.push(place(index, fork, &entry.name));
        }
    }
    // A partition without records has no folder, but it is there.
    let promised = object.as_ref().ok().and_then(Option::as_ref).map_or(0, |object| object.topic.partitions);
    let mut missing: Vec<i32> = (0..promised).collect();
    for held in &places {
        if let Ok(at) = missing.binary_search(&held.partition.index) {
            missing.remove(at);
        }
    }
    places.extend(missing.into_iter().map(|index| place(index, None, &index.to_string())));
    places.sort_by_key(|place| (place.partition.index, place.fork));
    Ok(Timeline { topic, topic_id, is_newest: false, object, places })
}

/// Reads the name of a partition's folder: `3`, or `3@<epoch>-<end>` for a fork.
fn parse_folder(name: &str) -> Option<(i32, Option<Fork>)> {
    let (index, fork) = match name.split_once('@') {
        None => (name, None),
        Some((index, fork)) => {
            let (epoch, end) = fork.split_once('-')?;
            (index, Some(Fork { epoch: epoch.parse().ok()?, end: end.parse().ok()? }))
        }
    };
    let number: i32 = index.parse().ok()?;
    (number.to_string() == index).then_some((number, fork))
}

/// Sorts the timelines of one name by when each was last known to live: its topic object, or its latest segment.
async fn newest_first(archive: &Archive, timelines: Vec<Timeline>) -> Result<Vec<Timeline>> {
    let mut dated = Vec::new();
    for timeline in timelines {
        let object = timeline.object.as_ref().ok().and_then(Option::as_ref);
        let mut alive: Option<Timestamp> = object.and_then(|object| object.seen_at.parse().ok());
        for place in &timeline.places {
            alive = alive.max(last_sealed(archive, place).await?);
        }
        dated.push((alive, timeline));
    }
    dated.sort_by_key(|(alive, _)| std::cmp::Reverse(*alive));
    Ok(dated.into_iter().map(|(_, timeline)| timeline).collect())
}

/// Returns when the last segment of a chain was sealed; `None` where there is none, or it does not say.
async fn last_sealed(archive: &Archive, place: &Place) -> Result<Option<Timestamp>> {
    let listing = Segments::new(archive.store().list(&place.folder).await?);
    let Some(&(first, length_bytes)) = listing.logs.last() else { return Ok(None) };
    let Some(digest) = listing.sidecars(first, length_bytes).next() else { return Ok(None) };
    let key = format!("{}{}", place.folder, layout::sidecar(first, length_bytes, digest));
    let bytes = archive.store().read(&key).await?.unwrap_or_default();
    Ok(super::sidecar::Sidecar::decode(&bytes).ok().map(|sidecar| sidecar.sealed_at))
}

#[cfg(test)]
pub(crate) mod tests;
