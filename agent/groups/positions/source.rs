//! Where groups stand on a running cluster, as that of the source.
//!
//! Offsets that a transaction has yet to decide are waited for. Topics go by their ids of now: a group may have committed
//! for a topic that was made anew since; nothing tells.
//!
//! Retry: each question that fails for a reason that passes is asked again with back-off. Cancel: safe at any point.

use std::collections::BTreeMap;

use super::{Committed, Positions, Standing};
use crate::archive::savepoint::SHARE;
use crate::error::{Error, Result};
use crate::groups::present::patiently;
use crate::kafka::client::Client;
use crate::kafka::client::groups::{CommittedOffset, ListedGroup, Listing, Partitions, Told};
use crate::record::{Partition, TopicId};

/// Reads where groups stand: these, or all for `None`. One that is not there is not among them.
///
/// # Errors
/// Those of the client, once brokers have had the time to come back, and coordinators to move or load.
pub async fn read(client: &Client, groups: Option<&[String]>) -> Result<Positions> {
    let listing = patiently(client, || client.list_groups()).await?;
    let asked = asked(&listing, groups);
    let told: Vec<ListedGroup> = asked.iter().filter(|group| group.kind != SHARE).cloned().collect();
    let all = Partitions::new();
    let told = patiently(client, || client.stable_offsets(&told, &all)).await?;
    let ids = topic_ids(client, &told).await?;
    let servers = client.properties().bootstrap_servers.join(",");
    let mut positions = Positions { from: format!("the cluster at {servers}"), ..Positions::default() };
    for group in asked {
        let is_listed = listing.groups.contains_key(&group.group);
        let standing = match told.get(&group.group) {
            Some(Ok(offsets)) => standing(group.kind, offsets, &ids),
            Some(Err(why)) => Standing { kind: group.kind, error: Some(why.clone()), ..Standing::default() },
            None => Standing { kind: group.kind, ..Standing::default() },
        };
        // One that was named and that nobody lists is there if it has committed something.
        if is_listed || standing.error.is_some() || !standing.offsets.is_empty() {
            let _ = positions.groups.insert(group.group, standing);
        }
    }
    if let Some(why) = listing.unread.filter(|_| groups.is_none()) {
        tracing::warn!("{} may have more groups: {why}", positions.from);
    }
    Ok(positions)
}

/// Returns the groups to ask for: the named ones also where nobody lists them.
fn asked(listing: &Listing, groups: Option<&[String]>) -> Vec<ListedGroup> {
    let listed = |name: &String| listing.groups.get(name).cloned().unwrap_or_else(|| ListedGroup::named(name));
    match groups {
        Some(names) => names.iter().map(listed).collect(),
        None => listing.groups.values().cloned().collect(),
    }
}

/// Returns the ids of the topics that groups have committed for.
async fn topic_ids(client: &Client, told: &BTreeMap<String, Told>) -> Result<BTreeMap<String, TopicId>> {
    let offsets = told.values().filter_map(|told| told.as_ref().ok()).flatten();
    let mut names: Vec<String> = offsets.map(|offset| offset.topic.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let metadata = patiently(client, || client.metadata(Some(&names))).await.map_err(|error| {
        let why = error.to_string();
        Error::new(error.kind(), "the topics of groups are not told").source(why)
    })?;
    Ok(metadata.topics.into_iter().map(|topic| (topic.name, topic.topic_id)).collect())
}

fn standing(kind: String, offsets: &[CommittedOffset], ids: &BTreeMap<String, TopicId>) -> Standing {
    let of = |offset: &CommittedOffset| {
        let topic_id = ids.get(&offset.topic).copied().unwrap_or(TopicId::NONE);
        let partition = Partition { topic: offset.topic.as_str().into(), topic_id, index: offset.partition };
        (partition, Some(Committed { offset: offset.offset, metadata: offset.metadata.clone() }))
    };
    Standing { kind, error: None, offsets: offsets.iter().map(of).collect() }
}
