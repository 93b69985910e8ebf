//! Reading an archive: which backups, topics, timelines and partitions there are, and the way along a partition's
//! chain.
//!
//! Guarantees: nothing is written; what is found wrong is a value ([`Finding`](chain::Finding)) that says where, so
//! that each reader decides what it stops at; memory is constant, whatever the size of a segment, but for the index. A
//! [`Chain`](chain::Chain) walks from segment to segment, [`Chunks`](chunks::Chunks) through the batches of one;
//! [`Opened`](opened::Opened) is a chain's index without the walk; [`summary`] adds a chain up, [`way`] leads through the
//! forks of a partition. Errors of the store are passed on as they are: the caller tries again or gives up.

mod ahead;
pub mod audit;
pub mod chain;
pub mod chunks;
pub mod dead_letters;
pub mod finding;
pub mod opened;
pub(crate) mod side_by_side;
pub mod summary;
pub mod way;

use std::sync::Arc;

pub use super::layout::Fork;
use super::{Archive, TopicObject, layout};
use crate::error::{Error, Kind, Result};
use crate::record::{Partition, Timestamp, TopicId};
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
    /// Whether it is the newest of its name, as far as its topic objects tell, or else its segments.
    pub is_newest: bool,
    /// The newest topic object; `None` where there is none, an error where it, or the folder, cannot be read.
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

impl Place {
    /// Makes the place of a partition's chain, or of a fork of it.
    pub fn new(partition: Partition, fork: Option<Fork>) -> Self {
        let folder = layout::chain_folder(&partition, fork);
        Self { partition, fork, folder }
    }

    /// Returns its name within the topic: `3`, or `3@<epoch>-<end>` for a fork.
    pub fn name(&self) -> String {
        layout::chain_name(self.partition.index, self.fork)
    }
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

/// Returns the names of the backups below `root`: of the folders with a `backup.json`, and of those that cannot be looked
/// into, since they may have one.
///
/// # Errors
/// Those of the store while it lists `root`.
pub async fn backups(root: &Store) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in root.list("").await?.into_iter().filter(|entry| entry.is_folder) {
        let folder = root.within(&entry.name);
        let is_backup = match folder.list("").await {
            Ok(listed) => listed.iter().any(|inside| inside.name == layout::BACKUP),
            // Whoever opens it hears why.
            Err(_) => folder.exists(layout::BACKUP).await.unwrap_or(true),
        };
        if is_backup {
            found.push(entry.name);
        }
    }
    Ok(found)
}

/// Returns the timelines of all topics, sorted by name and the newest of a name first.
///
/// # Errors
/// Those of the store while it lists the topics; what cannot be read of one is in its timeline.
pub async fn timelines(archive: &Archive) -> Result<Vec<Timeline>> {
    let mut found = Vec::new();
    for topic in archive.store().list(layout::TOPICS).await?.into_iter().filter(|entry| entry.is_folder) {
        let timelines = timelines_of(archive, &topic.name).await;
        found.extend(timelines.unwrap_or_else(|error| {
            vec![Timeline { is_newest: true, ..Timeline::unreadable(&topic.name, TopicId::NONE, error) }]
        }));
    }
    Ok(found)
}

/// Returns the timelines of one topic, the newest first.
pub(crate) async fn timelines_of(archive: &Archive, topic: &str) -> Result<Vec<Timeline>> {
    let mut timelines = Vec::new();
    let folder = format!("{}{topic}/", layout::TOPICS);
    for entry in archive.store().list(&folder).await?.into_iter().filter(|entry| entry.is_folder) {
        // Whatever else lies there is not ours to judge.
        if let Some(topic_id) = entry.name.parse::<TopicId>().ok().filter(|id| id.to_string() == entry.name) {
            let read = timeline(archive, topic, topic_id).await;
            timelines.push(read.unwrap_or_else(|error| Timeline::unreadable(topic, topic_id, error)));
        }
    }
    if timelines.len() > 1 {
        timelines = newest_first(archive, timelines).await;
    }
    if let Some(newest) = timelines.first_mut() {
        newest.is_newest = true;
    }
    Ok(timelines)
}

impl Timeline {
    fn unreadable(topic: &str, topic_id: TopicId, error: Error) -> Self {
        Self { topic: topic.into(), topic_id, is_newest: false, object: Err(error), places: Vec::new() }
    }
}

/// Reads what there is of one timeline.
async fn timeline(archive: &Archive, topic: &str, topic_id: TopicId) -> Result<Timeline> {
    let folder = layout::timeline_folder(topic, topic_id);
    let listed = archive.store().list(&folder).await?;
    let object = match archive.topic(topic, &topic_id.to_string()).await {
        Ok(Some((_, object))) if !(0..=MOST_PARTITIONS).contains(&object.topic.partitions) => {
            Err(Error::damaged(format!("topic object says {} partitions", object.topic.partitions))
                .with("topic", topic))
        }
        other => other.map(|found| found.map(|(_, object)| object)),
    };
    let topic: Arc<str> = topic.into();
    let place = |index, fork| Place::new(Partition { topic: topic.clone(), topic_id, index }, fork);
    let folders = listed.iter().filter(|entry| entry.is_folder);
    let mut places: Vec<_> = folders
        .filter_map(|entry| layout::parse_chain_name(&entry.name))
        .map(|(index, fork)| place(index, fork))
        .collect();
    // A partition without records has no folder, but it is there.
    let promised = object.as_ref().ok().and_then(Option::as_ref).map_or(0, |object| object.topic.partitions);
    let mut missing: Vec<i32> = (0..promised).collect();
    for held in places.iter().filter(|place| place.fork.is_none()) {
        if let Ok(at) = missing.binary_search(&held.partition.index) {
            missing.remove(at);
        }
    }
    places.extend(missing.into_iter().map(|index| place(index, None)));
    places.sort_by_key(|place| (place.partition.index, place.fork));
    Ok(Timeline { topic, topic_id, is_newest: false, object, places })
}

/// Sorts the timelines of one name. They did not live at one time: any time in the life of each tells.
///
/// Those of topic objects come first. When the latest segment was sealed counts only where one of the timelines has none
/// that can be read: what was captured of a topic may be sealed after it was deleted, and a rebuilt sidecar may not know
/// the time.
async fn newest_first(archive: &Archive, timelines: Vec<Timeline>) -> Vec<Timeline> {
    let mut dated = Vec::new();
    for timeline in timelines {
        dated.push((seen(archive, &timeline).await, timeline));
    }
    if dated.iter().any(|(seen, _)| seen.is_none()) {
        for (alive, timeline) in &mut dated {
            for place in &timeline.places {
                // What cannot be read tells nothing here; who walks the place says why.
                *alive = (*alive).max(archive.last_sealed(place).await.ok().flatten());
            }
        }
    }
    dated.sort_by_key(|(alive, _)| std::cmp::Reverse(*alive));
    dated.into_iter().map(|(_, timeline)| timeline).collect()
}

/// Returns when the topic of a timeline was seen: by the newest topic object that can be read.
pub(crate) async fn seen(archive: &Archive, timeline: &Timeline) -> Option<Timestamp> {
    let newest = timeline.object.as_ref().ok().and_then(Option::as_ref);
    if let Some(seen_at) = newest.and_then(|object| object.seen_at.parse().ok()) {
        return Some(seen_at);
    }
    let folder = layout::timeline_folder(&timeline.topic, timeline.topic_id);
    let listed = archive.store().list(&folder).await.ok()?;
    let mut numbers: Vec<_> = listed.iter().filter_map(|entry| layout::parse_topic_object(&entry.name)).collect();
    numbers.sort_unstable();
    for n in numbers.into_iter().rev() {
        let object = archive.topic_object(&timeline.topic, &timeline.topic_id.to_string(), n).await;
        if let Some(seen_at) = object.ok().and_then(|object| object.seen_at.parse().ok()) {
            return Some(seen_at);
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests;
