//! The groups that a restore has set, put back to where they stood before.
//!
//! A group is put back only where nobody has moved it since: each of its partitions stands where the restore has set it, or
//! where it stood before. One that has moved on, or is read by members, stays, and it is said why. What a group had not
//! committed is deleted again; a group that the restore has made is gone then.
//!
//! **Order of durable effects:** the snapshot of the present, the commits and deletions, the deletion of groups that were not
//! there before and have nothing left. A start after a crash finds those that stand where they stood before, and does the rest.

use std::collections::BTreeMap;

use serde::Serialize;

use super::earlier::{Changed, Earlier};
use crate::crash;
use crate::error::{Error, Result};
use crate::groups::ACTIVE;
use crate::groups::perform::Report;
use crate::groups::plan::{Action, GroupPlan, Plan, Row};
use crate::groups::positions::Committed;
use crate::groups::present::{Now, Present};
use crate::groups::snapshot::Snapshots;
use crate::kafka::client::Client;
use crate::restore::state::State;

/// What becomes of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is going to be put back.
    PutBack,
    /// It was.
    Done,
    /// It stays.
    Keep,
    /// It stands where it stood before the restore.
    Same,
}

/// A group that the restore has set, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupFate {
    /// The group.
    pub group: String,
    /// What becomes of it.
    pub action: Fate,
    /// Why.
    pub why: String,
    /// Whether something is left of what the restore has set.
    #[serde(skip)]
    pub is_left: bool,
    /// Whether the restore has made it.
    #[serde(skip)]
    pub is_made: bool,
}

/// The groups that a restore has set, as they stand now.
#[derive(Debug, Default)]
pub struct Undoing {
    /// What becomes of each, by name.
    pub groups: Vec<GroupFate>,
    /// The snapshot of what was before they were put back; `None` where nothing was.
    pub snapshot: Option<String>,
    plan: Plan,
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PutBack => "put back",
            Self::Done => "done",
            Self::Keep => "keep",
            Self::Same => "same",
        })
    }
}

impl Undoing {
    /// Looks what would become of the groups that a restore has set; nothing is changed.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when what the restore has kept cannot be read; those of the cluster.
    pub async fn look(client: &Client, state: &State) -> Result<Self> {
        let earlier = Earlier::of(&state.groups().await?)?;
        let names: Vec<String> = earlier.changed().map(|(group, _)| group.to_owned()).collect();
        if names.is_empty() {
            return Ok(Self::default());
        }
        let present = Present::look(client, &names).await?;
        Ok(Self::of(&earlier, &present, state.restore_id()))
    }

    fn of(earlier: &Earlier, present: &Present, restore_id: &str) -> Self {
        let mut undoing = Self::default();
        undoing.plan.cluster_id.clone_from(&present.cluster_id);
        undoing.plan.positions = format!("before restore {restore_id}");
        for (group, changed) in earlier.changed() {
            let (fate, plan) = judge(group, changed, present.groups.get(group));
            undoing.plan.groups.extend(plan);
            undoing.groups.push(fate);
        }
        undoing
    }

    /// Returns whether something is to be changed.
    pub fn is_begun(&self) -> bool {
        self.groups.iter().any(|group| group.action == Fate::PutBack)
    }

    /// Puts back what is to be put back, after the present is kept; `kept` is told the snapshot's id before anything is
    /// changed.
    ///
    /// # Errors
    /// Those of the cluster and the store before anything is changed; what could not be put back is said of its group.
    pub async fn perform(&mut self, client: &Client, snapshots: &Snapshots, kept: impl FnOnce(&str)) -> Result<()> {
        if !self.is_begun() {
            return Ok(());
        }
        if !self.plan.groups.is_empty() {
            let description = format!("before undoing: {}", self.plan.positions);
            let id = super::keep(client, snapshots, &self.plan, &description).await?;
            kept(&id);
            self.snapshot = Some(id);
            let report = super::performing(client).perform(&self.plan, &description).await?;
            self.take(&report);
        }
        // What is left are those of which nothing was to be put back.
        self.groups
            .iter_mut()
            .filter(|group| group.action == Fate::PutBack)
            .for_each(|group| group.action = Fate::Done);
        for group in self.groups.iter_mut().filter(|group| group.action == Fate::Done && group.is_made) {
            if let Err(error) = delete_if_empty(client, &group.group).await {
                (group.action, group.is_left, group.why) = (Fate::Keep, true, error.to_string());
            }
        }
        Ok(())
    }

    /// Takes what came of the plan.
    fn take(&mut self, report: &Report) {
        for planned in &self.plan.groups {
            let Some(group) = self.groups.iter_mut().find(|group| group.group == planned.group) else { continue };
            let told = report.groups.iter().find(|told| told.group == group.group);
            let failed = told.and_then(|told| {
                let first =
                    told.failed.first().map(|failed| format!("{}-{}: {}", failed.topic, failed.partition, failed.why));
                told.refused.clone().or(first)
            });
            match (told, failed) {
                (Some(_), None) => group.action = Fate::Done,
                (_, why) => {
                    let why = why.unwrap_or_else(|| "nobody told what became of it".to_owned());
                    (group.action, group.is_left, group.why) = (Fate::Keep, true, why);
                }
            }
        }
    }
}

/// Says what becomes of a group, and, where it is put back, how.
fn judge(group: &str, changed: &Changed, now: Option<&Now>) -> (GroupFate, Option<GroupPlan>) {
    let fate = |action, why: String, is_left| GroupFate {
        group: group.to_owned(),
        action,
        why,
        is_left,
        is_made: !changed.was_there,
    };
    let offsets = match now.map(|now| &now.offsets) {
        Some(Ok(offsets)) => offsets,
        Some(Err(why)) => return (fate(Fate::Keep, format!("what it has committed is not told: {why}"), true), None),
        None => return (fate(Fate::Keep, "nobody told of it".to_owned(), true), None),
    };
    let mut rows = Vec::new();
    for ((topic, partition), change) in &changed.partitions {
        let current = offsets.get(&(topic.clone(), *partition));
        if current != change.before.as_ref() && current != change.wanted.as_ref() {
            let said = |at: Option<&Committed>| at.map_or_else(|| "nothing".to_owned(), |at| at.offset.to_string());
            let (is, was) = (said(current), said(change.wanted.as_ref()));
            let why = format!("it has moved on since: {topic}-{partition} is at {is}, and was set to {was}");
            return (fate(Fate::Keep, why, false), None);
        }
        let action = match (&change.before, current == change.before.as_ref()) {
            (_, true) => Action::Same,
            (Some(_), false) => Action::Set,
            (None, false) => Action::Delete,
        };
        rows.push(Row {
            topic: topic.clone(),
            topic_id: change.topic_id.clone(),
            partition: *partition,
            current: current.cloned(),
            target: change.before.clone(),
            action,
            exactness: None,
        });
    }
    if rows.iter().all(|row| row.action == Action::Same) {
        // An undo that was killed had taken everything from it, and it was not there before.
        let is_shell =
            !changed.was_there && offsets.is_empty() && now.is_some_and(|now| now.exists() && !now.is_active());
        return match is_shell {
            true => (fate(Fate::PutBack, "the restore has made it, and nothing is left in it".to_owned(), false), None),
            false => (fate(Fate::Same, "it stands where it stood before the restore".to_owned(), false), None),
        };
    }
    let (kind, state) = now.map(|now| (now.kind.clone(), now.state.clone())).unwrap_or_default();
    if now.is_some_and(Now::is_active) {
        return (fate(Fate::Keep, format!("{ACTIVE}: stop them and undo again"), true), None);
    }
    let back = match changed.was_there {
        true => "nobody has moved it since the restore has set it",
        false => "the restore has made it, and nobody has moved it since",
    };
    let plan = GroupPlan { group: group.to_owned(), kind, state, rows, ..GroupPlan::default() };
    (fate(Fate::PutBack, back.to_owned(), false), Some(plan))
}

/// Deletes a group that the restore has made, where nothing of it is left.
async fn delete_if_empty(client: &Client, group: &str) -> Result<()> {
    let present = Present::look(client, &[group.to_owned()]).await?;
    let offsets: BTreeMap<_, _> = match present.groups.get(group).map(|now| &now.offsets) {
        Some(Ok(offsets)) => offsets.clone(),
        _ => return Err(Error::failed("what it has committed is not told after it was put back")),
    };
    // What others have committed to it, for other topics, is theirs.
    if !offsets.is_empty() || !present.groups.get(group).is_some_and(Now::exists) {
        return Ok(());
    }
    client.delete_group(group).await?;
    crash::point("groups-made-deleted", &group);
    tracing::info!(group, "deleted");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::client::groups::{Member, Members};

    fn at(offset: i64) -> Option<Committed> {
        Some(Committed { offset, metadata: String::new() })
    }

    /// A group of which partition 0 was set from `before` to 10, and that has committed `offset` there by now.
    fn judged(before: Option<Committed>, offset: Option<i64>, members: usize) -> (GroupFate, Option<GroupPlan>) {
        use super::super::earlier::Change;
        let change = Change { topic_id: "_".into(), before, wanted: at(10) };
        let partitions = [(("t".to_owned(), 0), change)].into();
        let changed = Changed { partitions, ..Changed::default() };
        let member = Member { member_id: "m".into(), client_id: "c".into(), host: "/h".into(), instance_id: None };
        let now = Now {
            kind: "classic".into(),
            state: if members > 0 { "Stable" } else { "Empty" }.into(),
            members: Members::Known(vec![member; members]),
            offsets: Ok(offset.and_then(at).map(|at| (("t".to_owned(), 0), at)).into_iter().collect()),
        };
        judge("g", &changed, Some(&now))
    }

    #[test]
    fn a_group_that_nobody_moved_is_put_back_and_absence_is_too() {
        for (before, action) in [(at(3), Action::Set), (None, Action::Delete)] {
            let (fate, plan) = judged(before.clone(), Some(10), 0);
            assert_eq!((fate.action, fate.is_left), (Fate::PutBack, false), "{fate:?}");
            let row = &plan.expect("it is put back").rows[0];
            assert_eq!((&row.action, &row.target), (&action, &before));
        }
    }

    #[test]
    fn a_group_that_moved_on_or_is_read_stays_and_one_that_was_put_back_is_left_alone() {
        let (moved, plan) = judged(at(3), Some(12), 0);
        assert!(moved.action == Fate::Keep && !moved.is_left && plan.is_none(), "{moved:?}");
        assert!(moved.why.ends_with("t-0 is at 12, and was set to 10"), "{moved:?}");
        let (active, plan) = judged(at(3), Some(10), 1);
        assert!(active.action == Fate::Keep && active.is_left && plan.is_none(), "{active:?}");
        assert!(active.why.starts_with("Consumer group has active members"), "{active:?}");
        assert_eq!(judged(at(3), Some(3), 0).0.action, Fate::Same);
    }

    #[test]
    fn a_group_that_the_restore_made_and_of_which_nothing_is_left_is_only_to_be_deleted() {
        let (shell, plan) = judged(None, None, 0);
        assert!(shell.action == Fate::PutBack && plan.is_none(), "{shell:?}");
        assert_eq!(judged(None, None, 1).0.action, Fate::Same, "somebody reads with it");
    }
}
