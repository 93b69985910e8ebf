//! Where the places in the target come from, for a backup and a cluster.
//!
//! In this order: the restore that is named; the newest finished restore of the backup into the cluster, if it has all that
//! others brought there that were not undone; the cluster itself, where it is the one that was backed up; the headers of the
//! records. What a restore has kept is read, the cluster is not asked: whether a topic is still the one that was restored is
//! seen where the plan is made, by its id.

use std::collections::BTreeSet;

use super::super::places::{Places, Restored};
use super::super::positions::savepoint::Which;
use crate::archive::source::side_by_side;
use crate::error::{Error, Result};
use crate::record::{Partition, Timestamp, TopicId};
use crate::restore::plan::Plan;
use crate::restore::state::{Done, Phase, Seen, State, restores};
use crate::store::Store;

/// Restores that are read at a time.
const SIDE_BY_SIDE: usize = 8;

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The store of the restores, rooted at the backup's folder.
    pub state: &'a Store,
    /// The backup.
    pub backup_id: &'a str,
    /// The cluster that was backed up; `None` where that is not known.
    pub source_cluster: Option<&'a str>,
    /// The restore that is named.
    pub restore_id: Option<&'a str>,
}

/// Where places come from, and which positions go with them.
#[derive(Debug)]
pub struct Found {
    /// The places.
    pub places: Places,
    /// The savepoint that has the groups' positions as of what was restored.
    pub savepoint: Which,
}

/// Finds where the places in a cluster come from; `None` where only headers could tell.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup) for a restore that is not there;
/// [`Kind::Usage`](crate::error::Kind::Usage) for one that goes to another cluster, was undone, or has sent nothing, and where
/// several restores brought different topics, naming them; [`Kind::Damaged`](crate::error::Kind::Damaged) when what they have
/// kept cannot be read.
pub async fn find(origin: Origin<'_>, cluster_id: Option<&str>) -> Result<Option<Found>> {
    if let Some(id) = origin.restore_id {
        let state = State::open(origin.state, id).await?;
        let seen = looked(state.look().await?)?;
        check(&state, &seen, cluster_id)?;
        return restored(&state, &seen).await.map(Some);
    }
    if let Some((state, seen)) = newest(origin, cluster_id).await? {
        return restored(&state, &seen).await.map(Some);
    }
    let is_same = cluster_id.is_some() && cluster_id == origin.source_cluster;
    Ok(is_same.then_some(Found { places: Places::Same, savepoint: Which::Newest }))
}

/// Makes the error of who finds none of them.
pub fn unknown(origin: Origin<'_>, cluster_id: Option<&str>) -> Error {
    let cluster = cluster_id.unwrap_or("without an id");
    Error::usage("nothing says where in this cluster the group's records are")
        .with("backup", origin.backup_id)
        .with("cluster", cluster)
        .hint(format!(
            "there is no --restore-id, no finished restore of the backup into this cluster in {}, it is not the cluster that was \
             backed up, and the headers of its records were not asked for: --scan-headers",
            origin.state.describe("restores/")
        ))
}

/// Makes sure that the restore that was named can tell.
fn check(state: &State, seen: &Seen, cluster_id: Option<&str>) -> Result<()> {
    let id = state.restore_id();
    if seen.phase() == Phase::Undone {
        return Err(Error::usage(format!("the restore `{id}` was undone: what it brought is deleted")));
    }
    let target = seen.plan.as_ref().map(|plan| &plan.target);
    let other = target.filter(|target| target.cluster_id.is_some() && target.cluster_id.as_deref() != cluster_id);
    if let Some(target) = other {
        return Err(Error::usage(format!("the restore `{id}` went to another cluster"))
            .with("its cluster", target.cluster_id.as_deref().unwrap_or_default())
            .with("this one", cluster_id.unwrap_or("has no id"))
            .hint(format!("it was reached at {}", target.bootstrap_servers)));
    }
    Ok(())
}

/// Finds the newest finished restore of the backup into the cluster.
async fn newest(origin: Origin<'_>, cluster_id: Option<&str>) -> Result<Option<(State, Seen)>> {
    let Some(cluster_id) = cluster_id else { return Ok(None) };
    let ids = restores(origin.state).await?;
    let seen = side_by_side::each(ids, SIDE_BY_SIDE, |id| {
        let store = origin.state.clone();
        async move {
            let state = State::new(&store, &id)?;
            let seen = state.look().await?;
            Ok::<_, Error>((state, seen))
        }
    });
    let mut finished = Vec::new();
    for one in seen.await? {
        let (state, seen) = one?;
        let is_here = |plan: &crate::restore::state::Plan| {
            plan.backup_id == origin.backup_id && plan.target.cluster_id.as_deref() == Some(cluster_id)
        };
        // Of one whose plan cannot be read it is not known where it went.
        if !seen.plan.as_ref().is_none_or(is_here) || seen.phase() != Phase::Done {
            continue;
        }
        let seen = looked(seen).map_err(|error| error.hint("say which restore it is: --restore-id"))?;
        finished.extend(seen.done.clone().map(|done| (finished_at(&done), done, state, seen)));
    }
    finished.sort_by_key(|(at, ..)| *at);
    let Some((_, done, state, seen)) = finished.pop() else { return Ok(None) };
    let brought = sources(&done);
    let lacks = |(.., other, _, _): &&(Timestamp, Done, State, Seen)| !sources(other).is_subset(&brought);
    let others: Vec<&str> = finished.iter().filter(lacks).map(|(_, _, state, _)| state.restore_id()).collect();
    if others.is_empty() {
        return Ok(Some((state, seen)));
    }
    Err(Error::usage(format!("several restores of the backup `{}` brought different topics to this cluster", origin.backup_id))
        .with("the newest", state.restore_id())
        .with("others", others.join(", "))
        .hint("say which one it is: --restore-id"))
}

fn finished_at(done: &Done) -> Timestamp {
    done.finished_at.parse().unwrap_or(Timestamp::NONE)
}

/// Returns the topics of the archive that a restore brought.
fn sources(done: &Done) -> BTreeSet<(std::sync::Arc<str>, TopicId)> {
    let topic = |Partition { topic, topic_id, .. }: &Partition| (topic.clone(), *topic_id);
    done.partitions.iter().map(|outcome| topic(&outcome.pair.source)).collect()
}

/// Refuses what cannot be read of a restore.
fn looked(mut seen: Seen) -> Result<Seen> {
    match seen.damaged.is_empty() {
        true => Ok(seen),
        false => Err(seen.damaged.swap_remove(0)),
    }
}

/// Reads the places that a restore knows, and finds the savepoint that goes with it.
async fn restored(state: &State, seen: &Seen) -> Result<Found> {
    let id = state.restore_id();
    let plan = seen.plan.as_ref().ok_or_else(|| Error::usage(format!("the restore `{id}` has no plan")))?;
    let map = state.offset_map(seen).await?.ok_or_else(|| {
        Error::usage(format!("the restore `{id}` has sent nothing yet")).hint("start it again, and let it finish")
    })?;
    let inner: Plan = plan.read()?;
    let savepoint = match (&inner.cut.savepoint, inner.cut.until()) {
        (Some(name), _) => Which::Named(name.parse()?),
        (None, Some(until)) => Which::AtOrBefore(until),
        // What groups have committed since was not there to be restored.
        (None, None) => plan.made_at.parse().map_or(Which::Newest, Which::Around),
    };
    let places = Places::Restored(Restored::new(id, map, Vec::new()));
    Ok(Found { places, savepoint })
}
