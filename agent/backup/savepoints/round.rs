//! One look at a cluster: what all groups have committed, then where all partitions end.
//!
//! **The order is the promise.** Groups first: when the last coordinator has answered, every offset that was committed
//! by then lies at or before the end that its partition's leader names afterwards, because a consumer commits only what
//! it has read, and nobody reads beyond the high watermark. And a transaction whose offsets were committed had written
//! all its records before.
//!
//! Offsets come by topics' names, and so do the ends that belong to them: the topics' ids are read before the groups and
//! again before the ends, which are guarded by id themselves ([`Client::list_offsets`]). Where they differ (a topic was
//! deleted and made again, or has appeared), the look is taken again. Retry: what passes is asked again with back-off, for
//! [`GIVE_UP_AFTER`]. A partition without a leader fails the look: without its end there is no savepoint.
//!
//! **What is covered** is what this agent has chosen, and what the newest savepoint has besides: another agent of the
//! backup may have chosen otherwise, and each would leave out what is the other's ([`Asking::beside`],
//! [`Asking::before`]). That stays as long as the cluster has it, and of topics only those that the backup has and goes
//! on with ([`beside`](super::beside)). One of these that this agent may not look at is named: the savepoint does not cover
//! it, and the next one asks for it again.
//!
//! A listing of groups is not one moment: a group whose coordinator moves meanwhile may be listed by nobody. So what is
//! named, and what the newest savepoint has, is asked for by itself where it is not listed: its coordinator knows.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::beside::Timeline;
use super::hanging::HeldBack;
use super::scope::Scope;
use crate::archive::savepoint::{Committed, End, Group, SHARE, State, Topic};
use crate::crash;
use crate::error::{Error, Result};
use crate::kafka::client::groups::{CommittedOffset, ListedGroup, Listing, Told};
use crate::kafka::client::{At, Isolation, OffsetQuery, TopicMetadata};
use crate::kafka::{Client, code_name};
use crate::record::{Offset, Partition, Timestamp, TopicId};

/// How often a look begins anew because topics came and went meanwhile: each takes a second, and topics come less often.
const LOOKS: u32 = 5;

/// How long what passes is asked again: longer than a leader election, shorter than most slots.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);

/// How long a coordinator gets to forget what was committed on a topic that is gone.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Kafka's error codes of topics that are not there.
const NOT_THERE: [i16; 2] = [3, 17];

/// And of those that we may not look at.
const NOT_FOR_US: i16 = 29;

/// What is asked for.
pub(super) struct Asking<'a> {
    pub(super) client: &'a Client,
    pub(super) scope: &'a Scope,
    /// The cluster that the backup is of, where that is known.
    pub(super) cluster_id: Option<&'a str>,
    /// What the newest savepoint says.
    pub(super) before: Option<&'a State>,
    /// The topics of that which this agent does not capture and the backup holds.
    pub(super) beside: &'a BTreeSet<Timeline>,
    /// What was committed behind an end for good when it was looked at last.
    pub(super) lasting: &'a BTreeSet<Ahead>,
}

/// Something that a group has committed behind the end of its partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ahead {
    group: String,
    topic: String,
    topic_id: String,
    partition: i32,
    offset: Offset,
}

/// What a cluster has told.
pub(super) struct Taken {
    /// When the groups were begun to be read.
    pub(super) at: Timestamp,
    /// All of it but what is durable and what hangs.
    pub(super) state: State,
    /// The partitions whose last stable offset lies below their end.
    pub(super) held_back: Vec<HeldBack>,
    /// The topics of the newest savepoint that this agent may not look at, and why not.
    pub(super) unread: Vec<(Timeline, String)>,
    /// What was committed behind an end, however often one looked.
    pub(super) ahead: BTreeSet<Ahead>,
    /// How often that was.
    pub(super) looks: u32,
}

/// What a cluster has told of its topics.
#[derive(Debug)]
pub(super) struct Topics {
    cluster_id: Option<String>,
    /// Those that are covered, by name.
    pub(super) covered: BTreeMap<String, TopicMetadata>,
    /// As [`Taken::unread`].
    unread: Vec<(Timeline, String)>,
}

/// The end of a partition, and of what is decided in it.
pub(super) struct Ended {
    partition: Partition,
    leader: i32,
    high_watermark: Offset,
    last_stable: Offset,
}

impl Asking<'_> {
    /// Looks at the cluster.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when it does not answer for everything that is asked.
    pub(super) async fn take(&self) -> Result<Taken> {
        for look in 1..=LOOKS {
            let Topics { covered, .. } = self.topics().await?;
            let at = Timestamp::now();
            let (mut groups, groups_unread) = self.groups(&covered).await?;
            crash::point("savepoint-groups-read", &at);
            if let Some((Topics { cluster_id, unread, .. }, ended)) = self.ends(&covered).await? {
                let ahead = leave_out_ahead(&mut groups, &ended);
                // Of a topic that was just made again, the coordinator may still tell what was committed on the old one.
                // What stayed in spite of all looks stays: a log was truncated, or a tool has committed it.
                if !ahead.is_subset(self.lasting) && look < LOOKS {
                    sleep(AGAIN_AFTER).await;
                    continue;
                }
                let held_back = ended.iter().filter(|ended| ended.last_stable < ended.high_watermark);
                let held_back = held_back.map(|ended| HeldBack {
                    partition: ended.partition.clone(),
                    leader: ended.leader,
                    last_stable: ended.last_stable,
                });
                let held_back = held_back.collect();
                let topics = by_topic(ended);
                let state = State { cluster_id, topics, groups, groups_unread, ..State::default() };
                return Ok(Taken { at, state, held_back, unread, ahead, looks: look });
            }
        }
        Err(Error::transient("topics come and go faster than a savepoint can be made"))
    }

    /// Returns which topics are covered, and which would be if this agent might look at them.
    pub(super) async fn topics(&self) -> Result<Topics> {
        let known = self.known();
        let mut asked = self.scope.topics_to_ask();
        if let Some(asked) = &mut asked {
            let others = known.iter().map(|(name, _)| name).filter(|name| !asked.contains(name));
            let others: Vec<String> = others.cloned().collect();
            asked.extend(others);
        }
        let metadata = self.client.metadata(asked.as_deref()).await?;
        if let (Some(held), Some(met)) = (self.cluster_id, metadata.cluster_id.as_deref())
            && held != met
        {
            return Err(Error::failed(format!("the backup is of cluster {held}, this cluster is {met}"))
                .hint("correct `bootstrap.servers`"));
        }
        let mut told = metadata.topics;
        // A cluster lists only what we may look at: whether the others are there no more, it says when asked by name.
        let listed: HashSet<&str> = told.iter().map(|topic| &*topic.name).collect();
        let unlisted = known.iter().map(|(name, _)| name).filter(|name| !listed.contains(&***name));
        let unlisted: Vec<String> = unlisted.cloned().collect();
        if !unlisted.is_empty() {
            told.extend(self.client.metadata(Some(&unlisted)).await?.topics);
        }
        let (mut covered, mut unread) = (BTreeMap::new(), Vec::new());
        for topic in told {
            let is_covered = self.scope.holds_topic(&topic.name, topic.internal)
                || self.beside.contains(&(topic.name.clone(), topic.topic_id));
            let why = code_name(topic.code);
            match topic.code {
                // Its id is not told either: the newest savepoint has it.
                NOT_FOR_US => {
                    let known = known.iter().filter(|(name, _)| *name == topic.name);
                    unread.extend(known.map(|known| (known.clone(), why.clone())));
                }
                code if !is_covered || NOT_THERE.contains(&code) => {}
                0 => drop(covered.insert(topic.name.clone(), topic)),
                _ => return Err(Error::transient(format!("topic \"{}\" cannot be looked at: {why}", topic.name))),
            }
        }
        Ok(Topics { cluster_id: metadata.cluster_id, covered, unread })
    }

    /// Returns the topics of the newest savepoint that this one shall cover.
    fn known(&self) -> BTreeSet<Timeline> {
        let known = self.before.iter().flat_map(|state| super::beside::timelines(state));
        // Kafka's own topics are captured only by name: see `beside`.
        known.filter(|known| self.beside.contains(known) || self.scope.holds_topic(&known.0, false)).collect()
    }

    /// Returns the groups with what they have committed on `topics`, and why there may be more groups.
    async fn groups(&self, topics: &BTreeMap<String, TopicMetadata>) -> Result<(Vec<Group>, Option<String>)> {
        let listing = self.client.list_groups().await?;
        let chosen = self.choose(&listing);
        let (share, asked): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|group| group.kind == SHARE);
        let partitions = |topic: &TopicMetadata| topic.partitions.iter().map(|partition| partition.index).collect();
        let wanted = topics.iter().map(|(name, topic)| (name.clone(), partitions(topic))).collect();
        let mut told = self.client.committed_offsets(&asked, &wanted).await?;
        let mut groups: Vec<Group> = share.into_iter().map(|group| group_of(group, Vec::new(), None)).collect();
        for listed in asked {
            // One that is not told is there no more.
            let Some(told) = told.remove(&listed.group) else { continue };
            let carried = told.as_ref().err().and_then(|why| self.carried(&listed, why, topics));
            groups.extend(carried.or_else(|| kept(listed, told, topics)));
        }
        // Who named all that it wants cannot tell whether others miss something: what they have said stays.
        let unread = match self.scope.needs_listing() {
            true => listing.unread,
            false => self.before.and_then(|before| before.groups_unread.clone()),
        };
        Ok((groups, unread))
    }

    /// Returns a group that this agent may not read and has not chosen as the newest savepoint has it, and says so:
    /// another agent has chosen it, and may read it.
    pub(super) fn carried(
        &self,
        listed: &ListedGroup,
        why: &str,
        topics: &BTreeMap<String, TopicMetadata>,
    ) -> Option<Group> {
        let before = self.before.filter(|_| !self.scope.holds_group(&listed.group))?;
        let before = before.groups.iter().find(|group| group.group == listed.group)?;
        let is_there = |topic: &&Topic<Committed>| {
            topics.get(&topic.topic).is_some_and(|known| known.topic_id.to_string() == topic.topic_id)
        };
        let offsets: Vec<_> = before.offsets.iter().filter(is_there).cloned().collect();
        let error = Some(format!("as an earlier savepoint has it: {why}"));
        (!offsets.is_empty()).then(|| Group { error, offsets, ..before.clone() })
    }

    /// Returns the groups to ask for: those of the listing that are chosen or stand in the newest savepoint, and those
    /// that nobody has listed, though they are chosen by name or stand there.
    pub(super) fn choose(&self, listing: &Listing) -> Vec<ListedGroup> {
        let before: BTreeMap<&str, &Group> =
            self.before.iter().flat_map(|state| &state.groups).map(|group| (&*group.group, group)).collect();
        let is_chosen =
            |group: &&ListedGroup| self.scope.holds_group(&group.group) || before.contains_key(&*group.group);
        let mut chosen: Vec<ListedGroup> = listing.groups.values().filter(is_chosen).cloned().collect();
        // Of a share group there is nothing to ask for: it is there if it is listed.
        let known = before.values().filter(|group| group.kind != SHARE).map(|group| &*group.group);
        let named: BTreeSet<&str> = self.scope.named_groups().map(String::as_str).chain(known).collect();
        for name in named.into_iter().filter(|name| !listing.groups.contains_key(*name)) {
            let mut group = ListedGroup::named(name);
            if let Some(known) = before.get(name) {
                group.kind.clone_from(&known.kind);
            }
            chosen.push(group);
        }
        chosen
    }

    /// Returns where all partitions end, or `None` when the topics are not those of `before`.
    pub(super) async fn ends(&self, before: &BTreeMap<String, TopicMetadata>) -> Result<Option<(Topics, Vec<Ended>)>> {
        let ids = |topics: &BTreeMap<String, TopicMetadata>| -> Vec<(String, TopicId)> {
            topics.iter().map(|(name, topic)| (name.clone(), topic.topic_id)).collect()
        };
        let deadline = Instant::now() + GIVE_UP_AFTER;
        let mut backoff = self.client.backoff();
        loop {
            let topics = self.topics().await?;
            if ids(&topics.covered) != ids(before) {
                return Ok(None);
            }
            match self.ends_of(&topics.covered).await {
                Ok(ended) => return Ok(Some((topics, ended))),
                Err(error) if !error.retryable() || Instant::now() >= deadline => return Err(error),
                Err(_) => sleep(backoff.wait()).await,
            }
        }
    }

    /// Asks the leaders once.
    async fn ends_of(&self, topics: &BTreeMap<String, TopicMetadata>) -> Result<Vec<Ended>> {
        let mut by_leader: BTreeMap<i32, Vec<OffsetQuery>> = BTreeMap::new();
        for (name, topic) in topics {
            let name: Arc<str> = name.as_str().into();
            for told in &topic.partitions {
                let partition = Partition { topic: name.clone(), topic_id: topic.topic_id, index: told.index };
                if told.leader < 0 {
                    return Err(Error::transient(format!("partition {partition} has no leader, and so no end")));
                }
                let query = OffsetQuery { partition, leader_epoch: told.leader_epoch, at: At::Latest };
                by_leader.entry(told.leader).or_default().push(query);
            }
        }
        let mut asked = JoinSet::new();
        for (leader, queries) in by_leader {
            let client = self.client.clone();
            asked.spawn(async move { ends_at(&client, leader, queries).await });
        }
        let mut ended = Vec::new();
        while let Some(told) = asked.join_next().await {
            ended.extend(told.map_err(|error| Error::failed("a question ended by a defect").source(error))??);
        }
        ended.sort_by(|a, b| a.partition.cmp(&b.partition));
        Ok(ended)
    }
}

/// Asks one leader: for high watermarks, and then for what is decided.
async fn ends_at(client: &Client, leader: i32, queries: Vec<OffsetQuery>) -> Result<Vec<Ended>> {
    let ends = client.list_offsets(leader, &queries, Isolation::Uncommitted).await?;
    let stable = client.list_offsets(leader, &queries, Isolation::Committed).await?;
    let mut ended = Vec::with_capacity(queries.len());
    for ((query, end), stable) in queries.into_iter().zip(ends).zip(stable) {
        if let Some(answer) = [end, stable].into_iter().find(|answer| answer.code != 0 || answer.offset < 0) {
            let code = code_name(answer.code);
            return Err(Error::transient(format!("the leader does not tell the end of {}: {code}", query.partition)));
        }
        let (high_watermark, last_stable) = (end.offset, stable.offset);
        ended.push(Ended { partition: query.partition, leader, high_watermark, last_stable });
    }
    Ok(ended)
}

/// Takes out what groups have committed behind the ends, and says so of the group; returns what that was. Kafka lets
/// tools commit anything; nobody could go on from there.
fn leave_out_ahead(groups: &mut [Group], ended: &[Ended]) -> BTreeSet<Ahead> {
    let ends: BTreeMap<(&str, i32), Offset> =
        ended.iter().map(|ended| ((&*ended.partition.topic, ended.partition.index), ended.high_watermark)).collect();
    let mut all = BTreeSet::new();
    for group in groups {
        let mut ahead = Vec::new();
        for topic in &mut group.offsets {
            topic.partitions.retain(|Committed(index, offset, _)| {
                let end = ends.get(&(topic.topic.as_str(), *index)).copied().unwrap_or(0);
                if *offset > end {
                    ahead.push(format!("{}-{index}: {offset}, which ends at {end}", topic.topic));
                    all.insert(Ahead {
                        group: group.group.clone(),
                        topic: topic.topic.clone(),
                        topic_id: topic.topic_id.clone(),
                        partition: *index,
                        offset: *offset,
                    });
                }
                *offset <= end
            });
        }
        group.offsets.retain(|topic| !topic.partitions.is_empty());
        if !ahead.is_empty() {
            let left_out = format!("left out what it has committed behind the end of {}", ahead.join(", "));
            group.error = Some(group.error.take().map_or(left_out.clone(), |error| format!("{error}; {left_out}")));
        }
    }
    all
}

/// Sorts ends, which are in order, by their topics.
fn by_topic(ended: Vec<Ended>) -> Vec<Topic<End>> {
    let mut topics: Vec<Topic<End>> = Vec::new();
    for Ended { partition, high_watermark, .. } in ended {
        let end = End { partition: partition.index, high_watermark, archived: None };
        match topics.last_mut() {
            Some(last) if *last.topic == *partition.topic => last.partitions.push(end),
            _ => topics.push(Topic {
                topic: partition.topic.to_string(),
                topic_id: partition.topic_id.to_string(),
                partitions: vec![end],
            }),
        }
    }
    topics
}

/// Makes what is kept of a group; `None` of one that has committed nothing on `topics`.
fn kept(listed: ListedGroup, told: Told, topics: &BTreeMap<String, TopicMetadata>) -> Option<Group> {
    let committed = match told {
        Ok(committed) => committed,
        Err(why) => return Some(group_of(listed, Vec::new(), Some(why))),
    };
    let mut offsets: BTreeMap<String, Vec<Committed>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for CommittedOffset { topic, partition, offset, metadata } in committed {
        if topics.contains_key(&topic) && seen.insert((topic.clone(), partition)) {
            offsets.entry(topic).or_default().push(Committed(partition, offset, metadata));
        }
    }
    if offsets.is_empty() {
        return None;
    }
    let topic = |(topic, partitions): (String, _)| {
        let topic_id = topics.get(&topic).map_or(TopicId::NONE, |topic| topic.topic_id).to_string();
        Topic { topic, topic_id, partitions }
    };
    Some(group_of(listed, offsets.into_iter().map(topic).collect(), None))
}

fn group_of(listed: ListedGroup, offsets: Vec<Topic<Committed>>, error: Option<String>) -> Group {
    Group { group: listed.group, kind: listed.kind, state: listed.state, error, offsets }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_behind_an_end_is_left_out_and_said() {
        let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 };
        let ended = [Ended { partition, leader: 1, high_watermark: 10, last_stable: 10 }];
        let group = |offsets: &[(i32, Offset)]| {
            let partitions = offsets.iter().map(|(index, offset)| Committed(*index, *offset, String::new())).collect();
            let offsets = vec![Topic { topic: "t".to_owned(), topic_id: "_".to_owned(), partitions }];
            Group { group: "g".into(), kind: "classic".into(), state: "Empty".into(), error: None, offsets }
        };
        let mut groups = [group(&[(0, 10)]), group(&[(0, 11)])];
        assert_eq!(leave_out_ahead(&mut groups, &ended).len(), 1);
        assert_eq!((&groups[0], groups[1].offsets.len()), (&group(&[(0, 10)]), 0));
        let said = groups[1].error.as_deref().expect("it is said");
        assert!(said.contains("t-0: 11, which ends at 10"), "{said}");
        assert!(leave_out_ahead(&mut groups[..1], &ended).is_empty(), "the end itself is what is read next");
    }
}
