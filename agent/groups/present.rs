//! What a cluster says of consumer groups at one moment: who they are, who reads, what they have committed.
//!
//! Only asks. Offsets that a transaction has yet to decide are waited for: a look that left them out would call absent what
//! is there a moment later.
//!
//! Retry: what passes is asked again with back-off, for [`WITHIN`]; what is wrong with a single group stands in its place.
//! Cancel: safe at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::positions::Committed;
use crate::archive::savepoint::SHARE;
use crate::backoff::Patience;
use crate::error::{Error, Result};
use crate::kafka::client::groups::{Described, ListedGroup, Member, Members, Partitions, Told};
use crate::kafka::client::{Client, Metadata};
use crate::record::TopicId;

/// How long a cluster that answers with what passes is asked: longer than an election.
const WITHIN: Duration = Duration::from_secs(15);

/// Groups whose offsets are asked for at a time. With half the requests cost more than their answers; with twice as many a broker
/// writes one answer while nobody reads the one before.
const PIECE: usize = 32;

/// What is said of a group that is not there.
pub const DEAD: &str = "Dead";

/// What a cluster says, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// The cluster; `None` where it has no id.
    pub cluster_id: Option<String>,
    /// How many brokers it has.
    pub brokers: usize,
    /// The groups that were asked for, by name; none is missing.
    pub groups: BTreeMap<String, Now>,
    /// Every topic that it tells us of, by name.
    pub topics: BTreeMap<String, Topic>,
}

/// A topic of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    /// Its id, [`TopicId::NONE`] where the cluster has none.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
}

/// A group, as it is now.
#[derive(Debug, Clone)]
pub struct Now {
    /// `classic`, `consumer`, `streams`, `share`; `unknown` for one that is not there.
    pub kind: String,
    /// As the cluster calls it; [`DEAD`] for one that is not there.
    pub state: String,
    /// Who reads.
    pub members: Members,
    /// All that it has committed, by topic and partition, or why that cannot be read; empty for a share group.
    pub offsets: std::result::Result<BTreeMap<(String, i32), Committed>, String>,
}

impl Present {
    /// Asks for the groups of these names, each once; one that is not there is told as such.
    ///
    /// # Errors
    /// As the client's, when a broker does not answer.
    pub async fn look(client: &Client, groups: &[String]) -> Result<Self> {
        Self::look_by(std::slice::from_ref(client), groups).await
    }

    /// As [`look`](Self::look), with the work spread over several clients of one cluster, of which there is one at least.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub async fn look_by(clients: &[Client], groups: &[String]) -> Result<Self> {
        let client = clients.first().ok_or_else(|| Error::failed("there is no client to look with"))?;
        // Groups are listed by all brokers: which there are comes first.
        let metadata = patiently(client, || client.metadata(None)).await?;
        let listing = patiently(client, || client.list_groups()).await?;
        let listed = |name: &String| listing.groups.get(name).cloned().unwrap_or_else(|| ListedGroup::named(name));
        let listed: Vec<ListedGroup> = groups.iter().collect::<BTreeSet<_>>().into_iter().map(listed).collect();
        // A share group has no offset a partition, and its coordinator refuses to be asked for one.
        let asked: Vec<ListedGroup> = listed.iter().filter(|group| group.kind != SHARE).cloned().collect();
        let topics = topics(&metadata);
        let partitions = partitions(&topics);
        // One that is listed as empty has no members to be told of; should one come, the coordinator refuses commits to it.
        let unsure: Vec<ListedGroup> = listed.iter().filter(|group| !group.is_empty()).cloned().collect();
        let (mut described, mut told) = tokio::try_join!(
            patiently(client, || client.describe_groups(&unsure)),
            committed(clients, asked, partitions),
        )?;
        let now = |group: &ListedGroup| {
            let now = Now::of(group, described.remove(&group.group), told.remove(&group.group));
            (group.group.clone(), now)
        };
        let groups = listed.iter().map(now).collect();
        Ok(Self { cluster_id: metadata.cluster_id, brokers: metadata.brokers.len(), groups, topics })
    }

    /// Asks once more for what `groups` have committed, as they were found before; all else stays as it was.
    ///
    /// # Errors
    /// As [`look`](Self::look).
    pub async fn read_again(&self, clients: &[Client], groups: &[String]) -> Result<BTreeMap<String, Told>> {
        let asked = groups.iter().map(|group| ListedGroup::named(group)).collect();
        committed(clients, asked, partitions(&self.topics)).await
    }

    /// Returns the id of a topic as plans write it, `_` where there is none.
    pub fn topic_id(&self, topic: &str) -> String {
        self.topics.get(topic).map_or(TopicId::NONE, |topic| topic.id).to_string()
    }

    /// Returns whether the cluster has this partition.
    pub fn has(&self, topic: &str, partition: i32) -> bool {
        self.topics.get(topic).is_some_and(|topic| (0..topic.partitions).contains(&partition))
    }
}

impl Now {
    fn of(listed: &ListedGroup, described: Option<std::result::Result<Described, String>>, told: Option<Told>) -> Self {
        let unknown = |why: String| (listed.kind.clone(), listed.state.clone(), Members::Unknown(why));
        let (kind, state, members) = match described {
            Some(Ok(Described { kind, state, members })) => (kind, state, members),
            Some(Err(why)) => unknown(why),
            None if listed.is_empty() => (listed.kind.clone(), listed.state.clone(), Members::Known(Vec::new())),
            None => unknown("nobody told of its members".to_owned()),
        };
        Self { kind, state, members, offsets: told.map_or_else(|| Ok(BTreeMap::new()), by_partition) }
    }

    /// Returns whether it is a share group, of which nothing can be set.
    pub fn is_share(&self) -> bool {
        self.kind == SHARE
    }

    /// Returns whether it is there: it has members, or has committed something.
    pub fn exists(&self) -> bool {
        self.state != DEAD || self.offsets.as_ref().is_ok_and(|offsets| !offsets.is_empty())
    }

    /// Returns whether somebody reads in its name. A group that tells neither members nor state is not called active: its
    /// coordinator refuses a commit to it if it is.
    pub fn is_active(&self) -> bool {
        match &self.members {
            Members::Known(members) => !members.is_empty(),
            Members::Unknown(_) => !matches!(self.state.as_str(), "Empty" | DEAD | "unknown"),
        }
    }

    /// Returns its members, as far as they are known.
    pub fn known_members(&self) -> &[Member] {
        match &self.members {
            Members::Known(members) => members,
            Members::Unknown(_) => &[],
        }
    }
}

/// Takes what a group has committed by partition.
pub(super) fn by_partition(told: Told) -> std::result::Result<BTreeMap<(String, i32), Committed>, String> {
    let offsets = told?.into_iter();
    Ok(offsets
        .map(|told| ((told.topic, told.partition), Committed { offset: told.offset, metadata: told.metadata }))
        .collect())
}

fn topics(metadata: &Metadata) -> BTreeMap<String, Topic> {
    let sound = metadata.topics.iter().filter(|topic| topic.code == 0);
    let topic = |topic: &crate::kafka::client::TopicMetadata| {
        let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        (topic.name.clone(), Topic { id: topic.topic_id, partitions })
    };
    sound.map(topic).collect()
}

/// Says of which partitions an old broker, which cannot tell all at once, is to tell.
fn partitions(topics: &BTreeMap<String, Topic>) -> Partitions {
    topics.iter().map(|(name, topic)| (name.clone(), (0..topic.partitions).collect())).collect()
}

/// Asks what groups have committed, so many at a time, over all clients.
async fn committed(
    clients: &[Client],
    asked: Vec<ListedGroup>,
    partitions: Partitions,
) -> Result<BTreeMap<String, Told>> {
    let (partitions, mut asking) = (Arc::new(partitions), JoinSet::new());
    for (piece, client) in asked.chunks(PIECE).zip(clients.iter().cycle()) {
        let (piece, client, partitions) = (piece.to_vec(), client.clone(), partitions.clone());
        asking.spawn(async move { patiently(&client, || client.stable_offsets(&piece, &partitions)).await });
    }
    let mut all = BTreeMap::new();
    while let Some(answer) = asking.join_next().await {
        all.append(&mut answer.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?);
    }
    Ok(all)
}

/// Asks until there is an answer, or a failure that stays.
pub(crate) async fn patiently<T, F: Future<Output = Result<T>>>(client: &Client, ask: impl Fn() -> F) -> Result<T> {
    let mut patience = Patience::new(client.backoff(), WITHIN);
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => patience.wait(error).await?,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a group in `state` that has committed `offsets` on topic `t`.
    pub(in crate::groups) fn group(state: &str, members: usize, offsets: &[(i32, i64)]) -> Now {
        let member = |n: usize| Member {
            member_id: format!("m-{n}"),
            client_id: format!("c-{n}"),
            host: "/127.0.0.1".to_owned(),
            instance_id: None,
        };
        let committed = |(partition, offset): &(i32, i64)| {
            (("t".to_owned(), *partition), Committed { offset: *offset, metadata: String::new() })
        };
        Now {
            kind: "classic".to_owned(),
            state: state.to_owned(),
            members: Members::Known((0..members).map(member).collect()),
            offsets: Ok(offsets.iter().map(committed).collect()),
        }
    }

    /// Returns a cluster with topic `t` of so many partitions and these groups.
    pub(in crate::groups) fn present(partitions: i32, groups: &[(&str, Now)]) -> Present {
        Present {
            cluster_id: Some("c".to_owned()),
            brokers: 1,
            groups: groups.iter().map(|(name, now)| ((*name).to_owned(), now.clone())).collect(),
            topics: [("t".to_owned(), Topic { id: TopicId::NONE, partitions })].into(),
        }
    }

    #[test]
    fn who_has_members_is_active_whatever_the_state_and_a_state_alone_counts_where_members_are_unknown() {
        assert!(group("Empty", 1, &[]).is_active() && !group("Stable", 0, &[]).is_active());
        let unknown = |state: &str| Now { members: Members::Unknown("why".to_owned()), ..group(state, 0, &[]) };
        assert!(unknown("Stable").is_active() && unknown("PreparingRebalance").is_active());
        assert!(!unknown("Empty").is_active() && !unknown(DEAD).is_active() && !unknown("unknown").is_active());
    }

    #[test]
    fn a_group_that_only_has_offsets_is_there() {
        assert!(group(DEAD, 0, &[(0, 1)]).exists() && group("Empty", 0, &[]).exists() && !group(DEAD, 0, &[]).exists());
    }
}
