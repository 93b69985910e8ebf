//! What a savepoint may leave out because an earlier, full one says it: what changed, and what is gone. Pure.
//!
//! Partitions and committed offsets are compared one by one; of a group that changed in anything, its type, state and
//! error stand in the delta; what could not be read or listed and what hangs are few and stand there whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Committed, End, Group, State, Topic};

/// What a full savepoint has and a later one has not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Groups by name.
    pub groups: Vec<String>,
    /// Partitions by index.
    pub topics: Vec<Topic<i32>>,
    /// Committed offsets of groups that are still there.
    pub offsets: Vec<GoneOffsets>,
}

/// Committed offsets that a group has no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneOffsets {
    /// The group.
    pub group: String,
    /// The partitions, by index.
    pub offsets: Vec<Topic<i32>>,
}

/// What belongs to one partition.
trait OfPartition: Clone + PartialEq {
    fn index(&self) -> i32;
}

impl OfPartition for i32 {
    fn index(&self) -> i32 {
        *self
    }
}

impl OfPartition for End {
    fn index(&self) -> i32 {
        self.partition
    }
}

impl OfPartition for Committed {
    fn index(&self) -> i32 {
        self.0
    }
}

/// Returns what of `state` differs from `full`, and what `full` has besides.
pub fn between(full: &State, state: &State) -> (State, Gone) {
    let (topics, gone_topics) = differing(&full.topics, &state.topics);
    let before: BTreeMap<&str, &Group> = full.groups.iter().map(|group| (&*group.group, group)).collect();
    let (mut groups, mut gone_offsets) = (Vec::new(), Vec::new());
    for group in &state.groups {
        let Some(&before) = before.get(&*group.group) else {
            groups.push(group.clone());
            continue;
        };
        if before == group {
            continue;
        }
        let (offsets, gone) = differing(&before.offsets, &group.offsets);
        let Group { group: name, kind, state, error, .. } = group.clone();
        groups.push(Group { group: name, kind, state, error, offsets });
        if !gone.is_empty() {
            gone_offsets.push(GoneOffsets { group: group.group.clone(), offsets: gone });
        }
    }
    let there: BTreeMap<&str, ()> = state.groups.iter().map(|group| (&*group.group, ())).collect();
    let gone_groups = before.keys().filter(|name| !there.contains_key(**name)).map(|name| (*name).to_owned()).collect();
    // Each field is named, so that none is forgotten.
    let State { cluster_id, topics: _, topics_unread, groups: _, groups_unread, hanging } = state.clone();
    let changed = State { cluster_id, topics, topics_unread, groups, groups_unread, hanging };
    (changed, Gone { groups: gone_groups, topics: gone_topics, offsets: gone_offsets })
}

/// Returns the state that differs from `full` in `changed` and `gone`.
pub fn resolve(full: &State, changed: &State, gone: &Gone) -> State {
    let mut groups: BTreeMap<&str, Group> = full.groups.iter().map(|group| (&*group.group, group.clone())).collect();
    for name in &gone.groups {
        groups.remove(&**name);
    }
    let gone_of: BTreeMap<&str, &[Topic<i32>]> =
        gone.offsets.iter().map(|gone| (&*gone.group, &*gone.offsets)).collect();
    for group in &changed.groups {
        let before = groups.remove(&*group.group).map(|group| group.offsets).unwrap_or_default();
        let gone = gone_of.get(&*group.group).copied().unwrap_or_default();
        let offsets = applied(&before, &group.offsets, gone);
        groups.insert(&group.group, Group { offsets, ..group.clone() });
    }
    let mut state = State {
        cluster_id: changed.cluster_id.clone(),
        topics: applied(&full.topics, &changed.topics, &gone.topics),
        topics_unread: changed.topics_unread.clone(),
        groups: groups.into_values().collect(),
        groups_unread: changed.groups_unread.clone(),
        hanging: changed.hanging.clone(),
    };
    state.sort();
    state
}

type Flat<'a, P> = BTreeMap<(&'a str, &'a str, i32), &'a P>;

fn flat<P: OfPartition>(topics: &[Topic<P>]) -> Flat<'_, P> {
    let partitions = topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|of| ((topic.topic.as_str(), topic.topic_id.as_str(), of.index()), of))
    });
    partitions.collect()
}

fn nested<'a, P>(flat: impl IntoIterator<Item = ((&'a str, &'a str, i32), P)>) -> Vec<Topic<P>> {
    let mut topics: Vec<Topic<P>> = Vec::new();
    for ((topic, topic_id, _), of) in flat {
        match topics.last_mut() {
            Some(last) if last.topic == topic && last.topic_id == topic_id => last.partitions.push(of),
            _ => topics.push(Topic { topic: topic.to_owned(), topic_id: topic_id.to_owned(), partitions: vec![of] }),
        }
    }
    topics
}

/// Returns what of `after` differs from `before`, and the partitions that only `before` has.
fn differing<P: OfPartition>(before: &[Topic<P>], after: &[Topic<P>]) -> (Vec<Topic<P>>, Vec<Topic<i32>>) {
    if before == after {
        return (Vec::new(), Vec::new());
    }
    let (before, after) = (flat(before), flat(after));
    let changed = after.iter().filter(|(key, of)| before.get(*key) != Some(*of)).map(|(key, of)| (*key, (*of).clone()));
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (*key, key.2));
    (nested(changed), nested(gone))
}

fn applied<P: OfPartition>(before: &[Topic<P>], changed: &[Topic<P>], gone: &[Topic<i32>]) -> Vec<Topic<P>> {
    let mut all = flat(before);
    for key in flat(gone).keys() {
        all.remove(key);
    }
    all.extend(flat(changed));
    nested(all.into_iter().map(|(key, of)| (key, of.clone())))
}
