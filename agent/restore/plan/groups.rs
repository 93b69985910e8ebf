//! Consumer groups whose members read a target: they would see what is restored while it comes, and move on.
//!
//! Asked are those that are active. What counts is what their members have subscribed to, and what the group has committed:
//! members with a pattern, or of another protocol, tell no topics. Consumers without a group are invisible.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Plan;
use super::hazards::{Danger, Hazard};
use crate::error::Result;
use crate::kafka::client::Client;
use crate::kafka::client::groups::{ListedGroup, Partitions};

/// How long coordinators may load or move.
const SETTLE: Duration = Duration::from_secs(15);

/// Groups that are named.
const NAMED: usize = 5;

/// The active groups that read topics.
#[derive(Debug, Default)]
pub(in crate::restore) struct Readers {
    /// Of each topic that is read the groups, with their states.
    pub(in crate::restore) of: BTreeMap<String, Vec<String>>,
    /// Of what it is not known whether it reads one, and why.
    pub(in crate::restore) unread: Vec<(String, String)>,
}

/// Returns what is dangerous about the groups of the cluster.
pub(super) async fn hazards(client: &Client, plan: &Plan) -> Result<Vec<Hazard>> {
    let mut targets = Partitions::new();
    for (topic, of) in plan.partitions().filter(|(topic, of)| topic.create.is_none() && !of.range().is_empty()) {
        targets.entry(topic.target.clone()).or_default().push(of.target);
    }
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let Readers { of, unread } = readers(client, &targets).await?;
    let unread = unread.into_iter().map(|(subject, why)| {
        let detail = format!("whether it reads a target is not told: {why}");
        Hazard::new(Danger::ActiveGroups, subject, detail)
    });
    let read = of.into_iter().map(|(topic, groups)| {
        let detail = format!("active consumer groups read it while it is restored {}", named(&groups));
        Hazard::new(Danger::ActiveGroups, topic, detail)
    });
    Ok(unread.chain(read).collect())
}

/// Returns the first of some groups, after how many there are.
pub(in crate::restore) fn named(groups: &[String]) -> String {
    let more = match groups.len() {
        count @ ..=NAMED => format!("{count}"),
        count => format!("{count}, as"),
    };
    format!("({more}): {}", groups[..groups.len().min(NAMED)].join(", "))
}

/// Returns the active groups that read topics.
///
/// # Errors
/// Those of the client, for as long as coordinators may load or move.
pub(in crate::restore) async fn readers(client: &Client, targets: &Partitions) -> Result<Readers> {
    let deadline = Instant::now() + SETTLE;
    let mut backoff = client.backoff();
    loop {
        match ask(client, targets).await {
            Err(error) if error.retryable() && Instant::now() < deadline => sleep(backoff.wait()).await,
            asked => return asked,
        }
    }
}

async fn ask(client: &Client, targets: &Partitions) -> Result<Readers> {
    let listing = client.list_groups().await?;
    let active: Vec<ListedGroup> = listing.groups.into_values().filter(ListedGroup::is_active).collect();
    let (subscribed, committed) =
        tokio::join!(client.subscriptions(&active), client.committed_offsets(&active, targets));
    let (mut subscribed, committed) = (subscribed?, committed?);
    let mut readers = Readers::default();
    for group in &active {
        let mut unread = Vec::new();
        let mut read = BTreeSet::new();
        match subscribed.remove(&group.group) {
            Some(Ok(topics)) => read = topics,
            Some(Err(why)) => unread.push(why),
            None => {}
        }
        match committed.get(&group.group) {
            Some(Ok(offsets)) => read.extend(offsets.iter().map(|offset| offset.topic.clone())),
            Some(Err(why)) => unread.push(why.clone()),
            None => {}
        }
        let name = format!("\"{}\" ({})", group.group, group.state);
        for topic in targets.keys().filter(|topic| read.contains(*topic)) {
            readers.of.entry(topic.clone()).or_default().push(name.clone());
        }
        if let Some(why) = unread.into_iter().next() {
            readers.unread.push((format!("group {name}"), why));
        }
    }
    readers.unread.extend(listing.unread.map(|why| ("consumer groups".to_owned(), why)));
    Ok(readers)
}
