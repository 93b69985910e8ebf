//! How far the chains go by which the ends of savepoints are judged, each asked for once.

use std::collections::{HashMap, HashSet};

use crate::archive::Archive;
use crate::archive::savepoint::{Archived, End, State, Topic, chain_of};
use crate::archive::source::{Fork, Place, side_by_side};
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, Partition, TopicId};

/// Chains that are asked for at a time: each takes a few answers of the store, and a backup has thousands.
const AT_ONCE: usize = 16;

/// A chain; `None` is the partition's own.
type Key = (Partition, Option<Fork>);

/// How far chains go now.
#[derive(Default)]
pub(super) struct Ends {
    /// The forks of the partitions of which an end does not say its chain, oldest first.
    forks: HashMap<Partition, Vec<Fork>>,
    /// Where each chain goes on; `None` within where nothing is held, `None` where it cannot be told.
    next: HashMap<Key, Option<Option<Offset>>>,
}

impl Ends {
    /// Looks at the chains of a savepoint that were not looked at yet; returns what is damaged of them.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn look(&mut self, archive: &Archive, state: &State) -> Result<Vec<Error>> {
        let judged = || judged(state).map(|(topic, end)| (partition(topic, end), end));
        let untold: HashSet<_> = judged()
            .filter(|(partition, end)| told(end).is_none() && !self.forks.contains_key(partition))
            .map(|(partition, _)| partition)
            .collect();
        let forks = side_by_side::each(untold, AT_ONCE, |partition| {
            let archive = archive.clone();
            async move { (archive.forks(&partition).await, partition) }
        });
        for (forks, partition) in forks.await? {
            let _ = self.forks.insert(partition, forks?);
        }
        let unknown: HashSet<_> = judged()
            .map(|(partition, end)| self.key(partition, end))
            .filter(|key| !self.next.contains_key(key))
            .collect();
        let next = side_by_side::each(unknown, AT_ONCE, |key| {
            let archive = archive.clone();
            async move { (archive.next_of(&key.0, key.1).await, key) }
        });
        let mut damaged = Vec::new();
        for (next, key) in next.await? {
            let next = match next {
                Ok(next) => Some(next),
                Err(error) if error.kind() == Kind::Damaged => {
                    damaged.push(error);
                    None
                }
                Err(error) => return Err(error),
            };
            let _ = self.next.insert(key, next);
        }
        Ok(damaged)
    }

    /// Returns how far the chain goes by which `end` is judged; of one that cannot be told nothing is missing.
    pub(super) fn of(&self, topic: &Topic<End>, end: &End) -> Option<Offset> {
        match self.next.get(&self.key(partition(topic, end), end)) {
            Some(None) => Some(Offset::MAX),
            Some(Some(next)) => *next,
            None => None,
        }
    }

    /// Returns the chains of a savepoint of which it cannot be told how far they go, as people name them.
    pub(super) fn unknown(&self, state: &State) -> Vec<String> {
        let keys = judged(state).map(|(topic, end)| self.key(partition(topic, end), end));
        let unknown = keys.filter(|key| matches!(self.next.get(key), Some(None)));
        unknown.map(|(of, fork)| format!("{}-{}", of.topic, Place::new(of.clone(), fork).name())).collect()
    }

    fn key(&self, partition: Partition, end: &End) -> Key {
        let fork = chain_of(end, self.forks.get(&partition).map(Vec::as_slice).unwrap_or_default());
        (partition, fork)
    }
}

/// Returns the ends that can lack or lose anything.
fn judged(state: &State) -> impl Iterator<Item = (&Topic<End>, &End)> {
    let ends = state.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |end| (topic, end)));
    ends.filter(|(_, end)| end.high_watermark > 0 || end.archived.is_some())
}

/// Returns the chain that an end says it is of.
fn told(end: &End) -> Option<Option<Fork>> {
    end.archived.as_ref().and_then(Archived::fork)
}

fn partition(topic: &Topic<End>, end: &End) -> Partition {
    let topic_id = topic.topic_id.parse().unwrap_or(TopicId::NONE);
    Partition { topic: topic.topic.as_str().into(), topic_id, index: end.partition }
}
