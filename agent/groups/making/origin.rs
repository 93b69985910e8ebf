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
use crate::restore::plan::{Plan, vacant};
use crate::restore::state::{Done, Phase, Seen, State, restores};
use crate::store::Store;

/// Restores that are read at a time.
const SIDE_BY_SIDE: usize = 8;

/// Where to look.
#[derive(Clone, Copy)]
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
    Err(Error::usage(format!(
        "several restores of the backup `{}` brought different topics to this cluster",
        origin.backup_id
    ))
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
        Error::usage(format!("the restore `{id}` has sent nothing yet")).hint("start it, and let it finish")
    })?;
    let inner: Plan = plan.read()?;
    let savepoint = match (&inner.cut.savepoint, inner.cut.until()) {
        (Some(name), _) => Which::Named(name.parse()?),
        (None, Some(until)) => Which::AtOrBefore(until),
        // What groups have committed since was not there to be restored.
        (None, None) => plan.made_at.parse().map_or(Which::Newest, Which::Around),
    };
    let vacant: Vec<_> = vacant::of(&inner, &map).into_iter().map(|of| (of.pair, of.end)).collect();
    let places = Places::Restored(Restored::new(id, map, vacant));
    Ok(Found { places, savepoint })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::OffsetRange;
    use crate::restore::map::{OffsetMap, Pair};
    use crate::restore::state::{Attempt, Outcome, Process, Target, Undone};

    fn pair(topic: &str) -> Pair {
        let partition = |topic: String| Partition { topic: topic.into(), topic_id: TopicId::NONE, index: 0 };
        Pair { source: partition(topic.to_owned()), target: partition(format!("{topic}-restored")) }
    }

    fn memory() -> Store {
        Store::open(&format!("memory://{}", uuid::Uuid::new_v4())).expect("memory").within("b")
    }

    /// Keeps a restore of topics into the cluster `cluster`, which has come to its map; `finished` is when it was.
    async fn restore(store: &Store, id: &str, cluster: &str, topics: &[&str], finished: Option<&str>) -> State {
        let state = State::new(store, id).expect("an id");
        let target = Target { bootstrap_servers: "kafka-dr:9092".to_owned(), cluster_id: Some(cluster.to_owned()) };
        let inner = json!({"cut": {"until_ms": 5}, "merge_below": 0, "topics": [], "hazards": []});
        let plan = crate::restore::state::Plan::new(id, "b", target, &inner).expect("JSON");
        let _ = state.put_plan(&plan).await.expect("kept");
        let _ = state.begin(Attempt::new(&plan, (7, 0), Process::this(), Vec::new())).await.expect("the first");
        let mut map = OffsetMap::default();
        for topic in topics {
            map.open(&pair(topic), OffsetRange { first: 0, next: 10 }, 0).expect("a range");
            map.finish(&pair(topic), 0).expect("an end");
        }
        let (_, map_digest) = state.put_map(&map).await.expect("kept");
        let Some(finished) = finished else { return state };
        let outcome = |topic: &&str| Outcome { pair: pair(topic), records: 0, end: 0, digest: None };
        let done = Done {
            restore_id: id.to_owned(),
            finished_at: finished.to_owned(),
            attempt: 0,
            records: 0,
            bytes: 0,
            left_out: 0,
            map_digest,
            partitions: topics.iter().map(outcome).collect(),
        };
        let _ = state.finish(&done).await.expect("kept");
        state
    }

    async fn found(store: &Store, restore_id: Option<&str>, cluster: &str) -> Result<Option<(String, Which)>> {
        let origin = Origin { state: store, backup_id: "b", source_cluster: Some("home"), restore_id };
        Ok(find(origin, Some(cluster)).await?.map(|found| (found.places.to_string(), found.savepoint)))
    }

    /// Asserts that a restore is found.
    #[track_caller]
    fn assert_is(found: Result<Option<(String, Which)>>, id: &str) {
        let restored = (format!("restore {id}"), Which::AtOrBefore(Timestamp(5)));
        assert_eq!(found.expect("it can be read"), Some(restored));
    }

    const EARLY: Option<&str> = Some("2026-11-22T10:00:00.000Z");
    const LATE: Option<&str> = Some("2026-11-22T11:00:00.000Z");

    #[tokio::test]
    async fn the_newest_finished_restore_into_the_cluster_is_found_with_the_savepoint_of_its_cut() {
        let store = memory();
        let _ = restore(&store, "r2", "dr", &["orders"], EARLY).await;
        let newest = restore(&store, "r1", "dr", &["orders", "payments"], LATE).await;
        let _ = restore(&store, "r3", "other", &["orders"], LATE).await;
        let _ = restore(&store, "r4", "dr", &["orders"], None).await;
        assert_is(found(&store, None, "dr").await, "r1");
        assert_is(found(&store, Some("r2"), "dr").await, "r2");
        assert_is(found(&store, Some("r4"), "dr").await, "r4");
        let _ = newest.undo(&Undone::now("r1", Process::this(), Vec::new())).await.expect("kept");
        assert_is(found(&store, None, "dr").await, "r2");
        let error = found(&store, Some("r1"), "dr").await.expect_err("it was undone");
        assert!(error.exit_code() == 2 && error.to_string().contains("was undone"), "{error}");
    }

    #[tokio::test]
    async fn several_restores_of_different_topics_are_named() {
        let store = memory();
        let _ = restore(&store, "r1", "dr", &["payments"], EARLY).await;
        let _ = restore(&store, "r2", "dr", &["orders"], LATE).await;
        let error = found(&store, None, "dr").await.expect_err("which one");
        let told = error.to_string();
        assert!(
            error.exit_code() == 2 && told.contains("newest r2, others r1") && told.contains("--restore-id"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn without_a_restore_it_is_the_cluster_that_was_backed_up_or_nobody_knows() {
        let store = memory();
        let same = found(&store, None, "home").await.expect("it can be read");
        assert_eq!(same, Some(("the cluster that was backed up".to_owned(), Which::Newest)));
        assert_eq!(found(&store, None, "dr").await.expect("it can be read"), None);
        let origin = Origin { state: &store, backup_id: "b", source_cluster: None, restore_id: None };
        let told = unknown(origin, Some("dr")).to_string();
        let ways = ["--restore-id", "finished restore", "was backed up", "--scan-headers"];
        assert!(ways.iter().all(|way| told.contains(way)), "{told}");
    }

    #[tokio::test]
    async fn a_restore_into_another_cluster_is_refused_by_name() {
        let store = memory();
        let _ = restore(&store, "r1", "other", &["orders"], LATE).await;
        let error = found(&store, Some("r1"), "dr").await.expect_err("another cluster");
        assert!(error.exit_code() == 2 && error.to_string().contains("kafka-dr:9092"), "{error}");
        let error = found(&store, Some("r9"), "dr").await.expect_err("no such restore");
        assert_eq!(error.exit_code(), 10, "{error}");
    }
}
