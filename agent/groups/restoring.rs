//! The consumer groups of a restore: put back to the records that they had reached, once all is restored; and back again, when
//! the restore is undone ([`undo`]).
//!
//! Which groups those are, and where they stood, is found before anything is restored ([`positions`], [`choose`]): a mistyped
//! name costs no restore. Of what groups have committed only that counts which the restore takes. Where it leaves out what a
//! group had read, the group is put to the restored end, and the plan says so.
//!
//! **Order of durable effects**, the last of them the restore's own `done`: the snapshot of the present, the restore's
//! `groups-<n>` with the plan, the commits, `groups-done-<n>` when they were read back. What a crash between two of them leaves
//! is said in [`state`](crate::restore::state). What was set once of a group is never set again by its restore.
//!
//! Retry: the client's, of what failed for a reason that passes. Cancel: as a crash.

mod earlier;
pub mod undo;

use std::collections::{BTreeMap, BTreeSet};

use self::earlier::{Earlier, Keys};
use super::making::{self, Groups as Which, Wanted, origin};
use super::not_found;
use super::perform::{Performing, Report};
use super::places::Places;
use super::plan::Plan;
use super::positions::savepoint::Which as Savepoint;
use super::positions::{Positions, savepoint};
use super::snapshot::{self, Snapshots};
use crate::archive::Archive;
use crate::archive::savepoint::SHARE;
use crate::config::restore::Groups as Configured;
use crate::crash;
use crate::error::{Error, Result};
use crate::kafka::client::Client;
use crate::record::{Offset, Partition, Timestamp};
use crate::restore::plan::Plan as RestorePlan;
use crate::restore::state::{Groups, GroupsDone, KeptAt, Process, State};
use crate::store::Store;

/// Groups that are set at a time: each takes a round trip or two, and a coordinator answers thousands a second.
const AT_A_TIME: usize = 32;

/// What is kept as the reason of snapshots.
const DESCRIPTION: &str = "before restore";

/// The groups that are to be put back, with where they stood.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// Where they stood, in what the restore takes and nowhere else.
    pub positions: Positions,
    /// Those that are left as they are.
    pub skipped: Vec<Skipped>,
}

/// A group that is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The group.
    pub group: String,
    /// Why.
    pub why: String,
    /// Whether it was to be put back and cannot be.
    pub is_lacking: bool,
}

/// Returns the source partitions that a restore takes, also those of which there was nothing.
///
/// # Errors
/// Those of a plan that names a topic id which is none.
pub fn sources(plan: &RestorePlan) -> Result<BTreeSet<Partition>> {
    let taken = plan.partitions().map(|(topic, of)| topic.source_partition(of));
    let vacant = plan.vacant.iter().map(|vacant| Ok(vacant.pair.source.clone()));
    taken.chain(vacant).collect()
}

/// Finds where groups stood: at the savepoint that is asked for, else at that of the restore's cut, else at the newest at or
/// before `until` it; else, `planned` before, around then, and at the newest.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for what says no positions; else as [`savepoint::read`] and [`Snapshots::read`].
pub async fn positions(
    (asked, plan, planned): (&Configured, &RestorePlan, Option<Timestamp>),
    archive: &Archive,
    snapshots: &Snapshots,
) -> Result<Positions> {
    let Some(asked) = &asked.positions else {
        let which = match (&plan.cut.savepoint, plan.cut.until()) {
            (Some(name), _) => Savepoint::Named(name.parse()?),
            (None, Some(until)) => Savepoint::AtOrBefore(until),
            // What groups have committed since was not there to be restored.
            (None, None) => planned.map_or(Savepoint::Newest, Savepoint::Around),
        };
        return savepoint::read(archive, which).await;
    };
    match asked.split_once(':') {
        Some(("savepoint", which)) => savepoint::read(archive, which.parse()?).await,
        Some(("snapshot", id)) => {
            let snapshot = snapshots.read(id).await?;
            if let (Some(of), Some(was)) = (&snapshot.cluster_id, &archive.backup().cluster_id)
                && of != was
            {
                return Err(Error::usage(format!("groups.positions: snapshot {id} is of another cluster"))
                    .with("taken of", of)
                    .with("the backup is of", was)
                    .hint(
                        "its offsets mean other records; name one of the cluster that was backed up, or a savepoint",
                    ));
            }
            Ok(snapshot.positions())
        }
        _ => Err(Error::usage(format!("groups.positions: cannot read `{asked}`"))
            .hint("write savepoint:2026-11-22T10:00:00Z, or snapshot: with the id of one")),
    }
}

/// Chooses the groups that are put back: those of `names`, or where there are none all that have committed something in
/// `sources`.
///
/// # Errors
/// `Consumer group '…' not found` for a name that the positions do not have.
pub fn choose(mut positions: Positions, names: &[String], sources: &BTreeSet<Partition>) -> Result<Chosen> {
    if let Some(name) = names.iter().find(|name| !positions.groups.contains_key(*name)) {
        let known: Vec<&str> = positions.groups.keys().take(10).map(String::as_str).collect();
        let known = if known.is_empty() { "no groups".to_owned() } else { known.join(", ") };
        return Err(not_found(name).hint(format!("{} has {known}; nothing was changed", positions.from)));
    }
    let mut skipped = Vec::new();
    positions.groups.retain(|name, standing| {
        let is_named = names.contains(name);
        if !names.is_empty() && !is_named {
            return false;
        }
        standing.offsets.retain(|source, committed| committed.is_some() && sources.contains(source));
        let mut skip = |why: &str, is_lacking| {
            skipped.push(Skipped { group: name.clone(), why: why.to_owned(), is_lacking });
            false
        };
        match (&standing.error, standing.offsets.is_empty()) {
            _ if standing.kind == SHARE => skip("it is a share group, which has no offset a partition", is_named),
            (_, false) => true,
            (Some(why), true) => skip(&format!("what it had committed is not known: {why}"), true),
            (None, true) if is_named => skip("it had committed nothing in what is restored", true),
            (None, true) => false,
        }
    });
    Ok(Chosen { positions, skipped })
}

/// Returns whether a restore has put back all of these groups before.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when what the restore has kept cannot be read.
pub async fn are_set(state: &State, chosen: &Chosen) -> Result<bool> {
    let earlier = Earlier::of(&state.groups().await?)?;
    Ok(chosen.positions.groups.iter().all(|(group, standing)| standing.error.is_none() && earlier.has_set(group)))
}

/// The groups of a restore of which all is in the target.
pub struct Restoring<'a> {
    /// The cluster that it restored to.
    pub client: &'a Client,
    /// What the restore keeps.
    pub state: &'a State,
    /// Where the restores of the backup keep that, rooted at the backup's folder.
    pub store: &'a Store,
    /// The backup.
    pub backup_id: &'a str,
    /// Where the present is kept.
    pub snapshots: &'a Snapshots,
}

/// What is to become of groups, and what has become of them before.
#[derive(Debug)]
pub struct Next {
    /// What is to be done.
    pub plan: Plan,
    /// The groups that this restore has set already, by name: they stay as they are.
    pub before: Vec<String>,
    /// The restored end of each target partition, by topic and number.
    pub ends: Ends,
    /// What is left alone, because it has moved on, by group.
    spared: BTreeMap<String, Keys>,
    number: u32,
}

/// Where partitions end, by topic and number.
pub type Ends = BTreeMap<(String, i32), Offset>;

/// What became of groups.
#[derive(Debug)]
pub struct Outcome {
    /// What was to be done.
    pub plan: Plan,
    /// The groups that the restore had set before.
    pub before: Vec<String>,
    /// The restored end of each target partition, by topic and number.
    pub ends: Ends,
    /// What was done.
    pub report: Report,
    /// The snapshot of what was before; `None` where nothing could be set.
    pub snapshot: Option<String>,
}

impl Restoring<'_> {
    /// Plans what is to become of groups that stood so.
    ///
    /// # Errors
    /// As [`origin::find`] and [`making::from_positions`]; [`Kind::Damaged`](crate::error::Kind::Damaged) when what the restore
    /// has kept cannot be read.
    pub async fn next(&self, chosen: &Chosen) -> Result<Next> {
        let earlier = Earlier::of(&self.state.groups().await?)?;
        let (mut positions, mut before) = (chosen.positions.clone(), Vec::new());
        positions.groups.retain(|group, _| {
            let is_set = earlier.has_set(group);
            before.extend(is_set.then(|| group.clone()));
            !is_set
        });
        let number = earlier.next();
        if positions.groups.is_empty() {
            return Ok(Next { plan: Plan::default(), before, ends: Ends::new(), spared: BTreeMap::new(), number });
        }
        let id = self.state.restore_id();
        let of =
            origin::Origin { state: self.store, backup_id: self.backup_id, source_cluster: None, restore_id: Some(id) };
        let lost = || Error::transient(format!("the restore `{id}` was there, and is not told"));
        let found = origin::find(of, self.client.cluster_id().as_deref()).await?.ok_or_else(lost)?;
        let wanted = Wanted { groups: Which::All, topics: None, clamp: true, create_group: true };
        let mut plan = making::from_positions(self.client, &wanted, &positions, &found.places).await?;
        let spared = earlier.spare(&mut plan);
        Ok(Next { plan, before, ends: ends(&found.places), spared, number })
    }

    /// Puts groups back that stood so; `told` gets the id of the snapshot of what was, before anything is changed.
    ///
    /// # Errors
    /// As [`next`](Self::next); those of the store. What could not be set is in the report.
    pub async fn perform(&self, chosen: &Chosen, told: &(dyn Fn(&str) + Sync)) -> Result<Outcome> {
        loop {
            let Next { plan, before, ends, spared, number } = self.next(chosen).await?;
            if plan.groups.iter().all(|group| earlier::is_idle(group, &spared)) {
                let report = match plan.groups.is_empty() {
                    true => Report::default(),
                    false => performing(self.client).perform(&plan, DESCRIPTION).await?,
                };
                return Ok(Outcome { plan, before, ends, report, snapshot: None });
            }
            let kept = self.keep(&plan).await?;
            let begun = Groups::now(self.state.restore_id(), Process::this(), kept.clone(), &plan)?;
            // Another process of this restore may have begun as well: what it has set is so already.
            let Some(begun) = self.state.begin_groups(number, begun).await? else { continue };
            told(&kept.id);
            let report = performing(self.client).perform(&plan, DESCRIPTION).await?;
            let left = earlier::left(&plan, &report, &spared);
            let set = plan.groups.iter().map(|group| group.group.clone()).filter(|group| !left.contains_key(group));
            let _ = self.state.end_groups(&GroupsDone::now(&begun, set.collect(), left)).await?;
            return Ok(Outcome { plan, before, ends, report, snapshot: Some(kept.id) });
        }
    }

    /// Keeps what the groups have that are to be changed.
    async fn keep(&self, plan: &Plan) -> Result<KeptAt> {
        let description = format!("{DESCRIPTION} {} puts groups back", self.state.restore_id());
        let kept = keep(self.client, self.snapshots, plan, &description).await?;
        Ok(KeptAt { place: self.snapshots.describe(""), id: kept })
    }
}

/// Returns where what was restored ends.
fn ends(places: &Places) -> Ends {
    let mut ends = Ends::new();
    if let Places::Restored(restored) = places {
        for (pair, track) in restored.map().iter() {
            let end = ends.entry((pair.target.topic.to_string(), pair.target.index)).or_default();
            *end = track.end().unwrap_or_default().max(*end);
        }
    }
    ends
}

/// Keeps what groups of a plan have that may be changed; returns the snapshot's id.
async fn keep(client: &Client, snapshots: &Snapshots, plan: &Plan, description: &str) -> Result<String> {
    let open = || plan.groups.iter().filter(|group| group.refused.is_none());
    let groups: Vec<String> = open().map(|group| group.group.clone()).collect();
    let mut also = Vec::new();
    for group in open() {
        for row in group.changes() {
            let topic_id = row.topic_id.parse().unwrap_or_default();
            let partition = Partition { topic: row.topic.as_str().into(), topic_id, index: row.partition };
            also.push((group.group.clone(), partition));
        }
    }
    let kept = snapshots.create(&snapshot::take(client, &groups, &also, description).await?).await?;
    crash::point("groups-snapshot", &kept.id);
    Ok(kept.id)
}

/// Returns how a plan is performed of which the present is kept already.
fn performing(client: &Client) -> Performing<'_> {
    Performing {
        clients: std::slice::from_ref(client),
        snapshots: None,
        max_concurrent: AT_A_TIME,
        all_or_nothing: false,
        wait_until_empty: None,
        progress: &(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::positions::{Committed, Standing};
    use crate::record::TopicId;

    fn at(topic: &str, index: i32) -> Partition {
        Partition { topic: topic.into(), topic_id: TopicId::NONE, index }
    }

    fn positions() -> Positions {
        let committed = |offset| Some(Committed { offset, metadata: String::new() });
        let standing = |kind: &str, error: Option<&str>, topics: &[&str]| Standing {
            kind: kind.to_owned(),
            error: error.map(str::to_owned),
            offsets: topics.iter().map(|topic| (at(topic, 0), committed(5))).collect(),
        };
        let groups = [
            ("both", standing("classic", None, &["orders", "payments"])),
            ("elsewhere", standing("classic", None, &["payments"])),
            ("shared", standing("share", None, &[])),
            ("unread", standing("unknown", Some("not told"), &[])),
        ];
        let groups = groups.into_iter().map(|(name, standing)| (name.to_owned(), standing)).collect();
        Positions { from: "savepoint s".to_owned(), groups }
    }

    /// Groups that are put back, and those that are not, each with whether it is lacking.
    type Parted = (Vec<String>, Vec<(String, bool)>);

    fn chosen(names: &[&str]) -> Result<Parted> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let Chosen { positions, skipped } = choose(positions(), &names, &[at("orders", 0)].into())?;
        assert!(positions.groups.values().all(|of| of.offsets.keys().all(|of| &*of.topic == "orders")));
        let skipped = skipped.into_iter().map(|of| (of.group, of.is_lacking)).collect();
        Ok((positions.groups.into_keys().collect(), skipped))
    }

    #[test]
    fn without_names_all_groups_are_put_back_that_were_in_what_is_restored() {
        let (groups, skipped) = chosen(&[]).expect("none is named");
        let wanted = [("shared".to_owned(), false), ("unread".to_owned(), true)];
        assert_eq!((groups, skipped), (vec!["both".to_owned()], wanted.to_vec()));
    }

    #[test]
    fn named_groups_are_put_back_and_what_cannot_be_is_said() {
        let (groups, skipped) = chosen(&["both", "elsewhere", "shared"]).expect("all are known");
        let wanted = [("elsewhere".to_owned(), true), ("shared".to_owned(), true)];
        assert_eq!((groups, skipped), (vec!["both".to_owned()], wanted.to_vec()));
    }

    #[test]
    fn a_name_that_nobody_knows_is_refused_in_the_words_of_the_page() {
        let error = chosen(&["both", "my-group"]).expect_err("there is none");
        assert_eq!(error.exit_code(), 1);
        let line = error.to_string();
        assert!(line.starts_with("Consumer group 'my-group' not found; savepoint s has both, elsewhere"), "{line}");
    }
}
