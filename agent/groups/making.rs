//! Makes plans: looks at a cluster, and says for each partition of each group where it is and where it is to be.
//!
//! Nothing is changed here, and no group is made. What a group is to have is a goal for each of its partitions, whichever way
//! it was found: translated from positions ([`from_positions`]), by a selector ([`from_selector`]); each becomes a row once
//! the cluster has said what it has. A rollback is another thing: it brings back what was, in range or not
//! ([`rollback`](super::snapshot::rollback)).
//!
//! **What is refused and what is skipped.** A group that is named and that nobody knows is an error: nothing is planned, so
//! that a mistyped name neither passes nor makes a group. A group that has members, or cannot be looked at, is refused as a
//! whole; a partition whose topic is not there, or whose offset is not, is skipped. Both are in the plan, with why.
//!
//! A partition for which a group had committed nothing is left alone.

mod choice;
mod goals;
mod logs;
pub mod origin;
mod rows;
mod selecting;

use std::collections::BTreeSet;

use super::places::Places;
use super::plan::{Action, GroupPlan, Plan, Row};
use super::positions::{Positions, Standing};
use super::present::{Now, Present};
use super::selector::Selector;
use super::{ACTIVE, SHARE_GROUP, not_found};
use crate::error::{Error, Result};
use crate::kafka::client::Client;
use crate::kafka::client::groups::Partitions;
pub use choice::{Groups, Wanted};
use goals::GroupGoals;
use logs::Logs;
use rows::Goal;

/// Plans that groups get what they had at positions, where that is in the target.
///
/// A group that is not on the cluster yet is made by the commit: the positions know it.
///
/// # Errors
/// `Consumer group '…' not found` for a named one that the positions do not have; those of the client.
pub async fn from_positions(client: &Client, wanted: &Wanted, positions: &Positions, places: &Places) -> Result<Plan> {
    let goals = goals_of(wanted, positions, places)?;
    let plan = Plan { positions: positions.from.clone(), places: places.to_string(), ..Plan::default() };
    finish(client, plan, goals, wanted.clamp).await
}

/// Plans that groups get what a selector says of the partitions that are wanted; of all that they have committed where none are.
///
/// # Errors
/// `Consumer group '…' not found` for a named one that is not on the cluster, unless it is to be made; those of the client;
/// what is wrong with the selector's file.
pub async fn from_selector(client: &Client, wanted: &Wanted, selector: &Selector) -> Result<Plan> {
    selecting::plan(client, wanted, selector, None).await
}

/// As [`from_selector`], of the groups of positions and of the partitions where they are in the target. What is nowhere there is
/// left alone, whatever the cluster has under its name.
///
/// # Errors
/// As [`from_selector`] and [`from_positions`].
pub async fn from_selector_over(
    client: &Client,
    wanted: &Wanted,
    selector: &Selector,
    positions: &Positions,
    places: &Places,
) -> Result<Plan> {
    let over = goals_of(wanted, positions, places)?;
    selecting::plan(client, wanted, selector, Some(over)).await
}

/// Makes sure that each offset that a kept plan sets is still one of its partition.
///
/// # Errors
/// [`Kind::Failed`](crate::error::Kind::Failed) with the first that is not; those of the client.
pub async fn still_holds(client: &Client, plan: &Plan) -> Result<()> {
    let set = || plan.groups.iter().flat_map(GroupPlan::changes).filter(|row| row.action == Action::Set);
    let mut partitions = Partitions::new();
    for row in set() {
        partitions.entry(row.topic.clone()).or_default().push(row.partition);
    }
    for of in partitions.values_mut() {
        of.sort_unstable();
        of.dedup();
    }
    let logs = Logs::look(client, &partitions).await?;
    for row in set() {
        if let Err(why) = rows::holds(row, &logs) {
            let what = format!("the cluster is no longer as the plan saw it: {why}");
            return Err(Error::failed(what).hint("plan again; nothing was changed"));
        }
    }
    Ok(())
}

fn goals_of(wanted: &Wanted, positions: &Positions, places: &Places) -> Result<Vec<GroupGoals>> {
    let chosen = chosen(wanted, positions)?.into_iter();
    Ok(chosen.map(|(group, standing)| goals::of(group, standing, places, wanted)).collect())
}

/// Returns the groups that are wanted of positions.
fn chosen<'a>(wanted: &'a Wanted, positions: &'a Positions) -> Result<Vec<(&'a str, &'a Standing)>> {
    let Groups::Named(names) = &wanted.groups else {
        return Ok(positions.groups.iter().map(|(group, standing)| (group.as_str(), standing)).collect());
    };
    let names: BTreeSet<&String> = names.iter().collect();
    let find = |name: &'a String| {
        let missing = || {
            let near = choice::near(name, positions.groups.keys().map(String::as_str));
            not_found(name).hint(format!("{} has no group of that name{near}", positions.from))
        };
        positions.groups.get(name).map(|standing| (name.as_str(), standing)).ok_or_else(missing)
    };
    names.into_iter().map(find).collect()
}

/// Looks at the cluster, and makes the rows.
async fn finish(client: &Client, plan: Plan, goals: Vec<GroupGoals>, clamp: bool) -> Result<Plan> {
    let names: Vec<String> = goals.iter().map(|of| of.group.clone()).collect();
    let present = Present::look(client, &names).await?;
    let logs = Logs::look(client, &goals::partitions(&goals)).await?;
    Ok(assemble(plan, goals, &present, &logs, clamp))
}

/// Makes the rows of what was seen. Pure.
fn assemble(plan: Plan, goals: Vec<GroupGoals>, present: &Present, logs: &Logs, clamp: bool) -> Plan {
    let of_group = |of: GroupGoals| {
        let now = present.groups.get(&of.group);
        let committed = now.and_then(|now| now.offsets.as_ref().ok());
        let current = |goal: &Goal| committed?.get(&(goal.topic.to_string(), goal.partition));
        let mut rows: Vec<Row> = of.goals.iter().map(|goal| rows::row(goal, logs, current(goal), clamp)).collect();
        rows.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        let (kind, state) = now.map(|now| (now.kind.clone(), now.state.clone())).unwrap_or_default();
        let refused = of.refused.or_else(|| now.and_then(|now| refusal(now, &rows)));
        GroupPlan { group: of.group, kind, state, refused, lacks: of.lacks, rows }
    };
    let mut groups: Vec<GroupPlan> = goals.into_iter().map(of_group).collect();
    groups.sort_by(|a, b| a.group.cmp(&b.group));
    Plan { cluster_id: present.cluster_id.clone(), groups, ..plan }
}

/// Returns why nothing of a group may be touched. Who reads does not matter where nothing is to be done.
fn refusal(now: &Now, rows: &[Row]) -> Option<String> {
    if now.is_share() {
        return Some(SHARE_GROUP.to_owned());
    }
    let unread = now.offsets.as_ref().err();
    let is_read = || now.is_active() && rows.iter().any(|row| row.action.is_change());
    unread.cloned().or_else(|| is_read().then(|| ACTIVE.to_owned()))
}
