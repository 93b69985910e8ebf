//! What a restore does for consumer groups: positions found before anything is restored, groups put back when all is.
//!
//! Phase 1 finds where the groups stood and refuses names that nobody knows; phase 2 is the restore; phase 3 puts the groups
//! back ([`restoring`]). What cannot be put back does not undo what is restored: it is said, and is
//! [`Kind::Partial`].

use std::collections::BTreeMap;

use super::Say;
use super::named::Named;
use crate::archive::Archive;
use crate::config::{Restore, value};
use crate::error::{Error, Kind, Result};
use crate::groups::ACTIVE;
use crate::groups::perform::GroupReport;
use crate::groups::places::Exactness;
use crate::groups::plan::{Action, GroupPlan, Plan as GroupsPlan, Row};
use crate::groups::restoring::{self, Chosen, Ends, Next, Outcome, Restoring};
use crate::groups::script::quoted;
use crate::groups::snapshot::Snapshots;
use crate::kafka::client::Client;
use crate::record::{Partition, Timestamp};
use crate::restore::plan::Plan;
use crate::restore::state::{Seen, State};
use crate::store::Store;
use crate::telemetry::logging::counted;

/// The groups of a restore, found.
pub struct Phase {
    chosen: Chosen,
    snapshots: Snapshots,
    /// Where the restores keep their objects, rooted at the backup's folder.
    store: Store,
    /// Records of this time and later are left out.
    until: Option<Timestamp>,
}

impl Phase {
    /// Finds where the groups stood; `None` where none are to be put back.
    ///
    /// # Errors
    /// `Consumer group '…' not found`; as [`restoring::positions`].
    pub async fn find(
        restore: &Restore,
        (archive, store): (&Archive, &Store),
        (plan, seen): (&Plan, &Seen),
    ) -> Result<Option<Self>> {
        let Some(asked) = &restore.groups else { return Ok(None) };
        let place = restore.sink.state.as_deref().unwrap_or(&restore.source.path);
        let snapshots = Snapshots::open(place, Some(&restore.source.backup_id))?;
        let planned = seen.plan.as_ref().and_then(|plan| plan.made_at.parse().ok());
        let positions = restoring::positions((asked, plan, planned), archive, &snapshots).await?;
        let chosen = restoring::choose(positions, &asked.names, &restoring::sources(plan)?)?;
        Ok(Some(Self { chosen, snapshots, store: store.clone(), until: plan.times().1 }))
    }

    /// Says what was found.
    pub fn first(&self, restore: &Restore, say: Say<'_>) {
        let positions = &self.chosen.positions;
        let groups = counted(positions.groups.len() as u64, "group");
        say(&format!("Phase 1: {}: {groups} of {} to put back", restore.name, positions.from));
        for (group, standing) in &positions.groups {
            let mut topics: Vec<&str> = standing.offsets.keys().map(|source| &*source.topic).collect();
            topics.dedup();
            let partitions = counted(standing.offsets.len() as u64, "partition");
            say(&format!("Phase 1: group {group}: {partitions} of {}", topics.join(", ")));
        }
        for skipped in &self.chosen.skipped {
            say(&format!("Phase 1: group {}: skipped: {}", skipped.group, skipped.why));
        }
    }

    /// Returns whether the restore has put back every one of them before; the cluster is not asked.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when what the restore has kept of them cannot be read.
    pub async fn is_over(&self, state: &State) -> Result<bool> {
        let is_lacking = self.chosen.skipped.iter().any(|skipped| skipped.is_lacking);
        Ok(!is_lacking && restoring::are_set(state, &self.chosen).await?)
    }

    /// Puts the groups back, when all is restored, and says what came of it.
    ///
    /// # Errors
    /// [`Kind::Partial`] where a group or a partition could not be put back; as [`Restoring::perform`].
    pub async fn third(&self, restore: &Restore, client: &Client, state: &State, say: Say<'_>) -> Result<()> {
        let told = |snapshot: &str| {
            let cluster = Named::of(client.properties());
            say(&undo_line(restore, state.restore_id(), cluster.words()));
            say(&format!("the groups alone: {}", self.snapshots.undo(snapshot, cluster.words())));
            cluster.secrets().iter().for_each(|secrets| say(secrets));
        };
        let outcome = self.restoring(restore, client, state).perform(&self.chosen, &told).await?;
        for skipped in self.chosen.skipped.iter().filter(|skipped| skipped.is_lacking) {
            say(&format!("Phase 3: group {}: not put back: {}", skipped.group, skipped.why));
        }
        for group in &outcome.before {
            say(&format!(
                "Phase 3: group {group}: this restore has put it back before, it stays as it is; `offset-reset` sets it anew"
            ));
        }
        for (plan, report) in outcome.plan.groups.iter().zip(&outcome.report.groups) {
            lines(plan, report).iter().for_each(|line| say(line));
            let cut = self.until.and_then(|until| at_the_cut(plan, &outcome.ends, until));
            cut.iter().for_each(|line| say(line));
        }
        self.verdict(&outcome)
    }

    /// Returns what a dry run shows of the groups: for a restore that is done what would be set, else where they stood.
    ///
    /// # Errors
    /// Those of the cluster, and of what the restore has kept.
    pub async fn preview(
        &self,
        (restore, plan, is_done): (&Restore, &Plan, bool),
        client: &Client,
        state: &State,
    ) -> Result<Preview> {
        if is_done {
            let Next { plan, before, .. } = self.restoring(restore, client, state).next(&self.chosen).await?;
            return Ok(Preview::Set { plan, before });
        }
        let mut rows = Vec::new();
        for (group, standing) in &self.chosen.positions.groups {
            for (source, committed) in &standing.offsets {
                let offset = committed.as_ref().map(|committed| committed.offset);
                let (source, to) = (source.clone(), goes_to(plan, source));
                rows.push(Stood { group: group.clone(), source, offset, to });
            }
        }
        Ok(Preview::Stood { from: self.chosen.positions.from.clone(), rows })
    }

    fn restoring<'a>(&'a self, restore: &'a Restore, client: &'a Client, state: &'a State) -> Restoring<'a> {
        let (backup_id, snapshots) = (restore.source.backup_id.as_str(), &self.snapshots);
        Restoring { client, state, store: &self.store, backup_id, snapshots }
    }

    fn verdict(&self, outcome: &Outcome) -> Result<()> {
        let lacking: Vec<_> = self.chosen.skipped.iter().filter(|skipped| skipped.is_lacking).collect();
        let mut reasons: BTreeMap<&str, u64> =
            outcome.report.failed.iter().map(|(why, count)| (why.as_str(), *count)).collect();
        for skipped in &lacking {
            *reasons.entry(&skipped.why).or_default() += 1;
        }
        // Of a group that was put back before that is still so.
        let before =
            outcome.before.iter().filter_map(|group| self.chosen.positions.groups.get(group)?.error.as_deref());
        for why in before {
            *reasons.entry(why).or_default() += 1;
        }
        let Some((why, _)) = reasons.iter().max_by_key(|(_, count)| **count) else { return Ok(()) };
        let others = if reasons.len() > 1 { ", and others" } else { "" };
        let is_active = reasons.keys().any(|why| why.contains(ACTIVE));
        let hint = match is_active {
            true => "stop their consumers and run the same again: what is set stays so",
            false => "`offset-reset plan` shows where each partition is to be",
        };
        let why = fitting(why);
        let what = format!("all is restored, but not all consumer groups could be put back: {why}{others}");
        Err(Error::new(Kind::Partial, what).hint(hint))
    }
}

/// What is going to become of groups, as a dry run shows it.
pub enum Preview {
    /// Where they stood; where that is in the target is known when it is restored.
    Stood {
        /// Where that is from.
        from: String,
        /// Each partition of each group.
        rows: Vec<Stood>,
    },
    /// What would be set.
    Set {
        /// The plan.
        plan: GroupsPlan,
        /// The groups that the restore has set before.
        before: Vec<String>,
    },
}

/// Where a group stood in one partition.
pub struct Stood {
    /// The group.
    pub group: String,
    /// The partition of the archive.
    pub source: Partition,
    /// What it had committed.
    pub offset: Option<i64>,
    /// Where the records go, for people.
    pub to: String,
}

impl Preview {
    /// Returns it as JSON.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Self::Stood { from, rows } => {
                let row = |of: &Stood| {
                    serde_json::json!({
                        "group": of.group, "topic": &*of.source.topic, "partition": of.source.index,
                        "committed": of.offset, "goes_to": of.to,
                    })
                };
                serde_json::json!({ "positions": from, "stood": rows.iter().map(row).collect::<Vec<_>>() })
            }
            Self::Set { plan, before } => serde_json::json!({ "plan": plan, "set_before": before }),
        }
    }
}

/// Says where records of a source partition go.
fn goes_to(plan: &Plan, source: &Partition) -> String {
    let id = source.topic_id.to_string();
    let topic = plan.topics.iter().find(|topic| *topic.source == *source.topic && topic.topic_id == id);
    let own = topic.map(|topic| {
        let of = topic.partitions.iter().find(|of| of.source == source.index);
        match (topic.repartition, of) {
            (Some(_), _) => format!("{} by key", topic.target),
            (None, Some(of)) => format!("{}-{}", topic.target, of.target),
            (None, None) => format!("{}-{}", topic.target, source.index),
        }
    });
    let routed = plan.routed.iter().map(|routed| format!("{} by stages", routed.topic));
    own.into_iter().chain(routed).collect::<Vec<_>>().join(", ")
}

/// Returns why a partition is not set without a way out that only `offset-reset` has.
pub fn fitting(why: &str) -> String {
    why.replace(", or leave it out with --topic", "")
}

/// Says what became of a group.
fn lines(plan: &GroupPlan, report: &GroupReport) -> Vec<String> {
    let group = &plan.group;
    if let Some(why) = &report.refused {
        return vec![format!("Phase 3: group {group}: not put back: {}", fitting(why))];
    }
    let mut said = vec![format!("{} set", counted(report.set, "partition"))];
    if report.same > 0 {
        said.push(format!("{} stood there already", counted(report.same, "partition")));
    }
    let again: u64 = plan.rows.iter().filter_map(|row| row.exactness).map(again).fold(0, u64::saturating_add);
    if again > 0 {
        said.push(format!("reads {} again", counted(again, "record")));
    }
    let mut lines = vec![format!("Phase 3: group {group}: {}", said.join(", "))];
    let is_clamped = |row: &&Row| row.exactness == Some(Exactness::Clamped) && !matches!(row.action, Action::Skip(_));
    for row in plan.rows.iter().filter(is_clamped) {
        let at = row.target.as_ref().map_or_else(|| "-".to_owned(), |target| target.offset.to_string());
        lines.push(format!(
            "Phase 3: group {group}: {}-{} is set to {at}, the nearest there is: what it had read was not all restored",
            row.topic, row.partition
        ));
    }
    for failed in &report.failed {
        let why = fitting(&failed.why);
        lines.push(format!("Phase 3: group {group}: {}-{} is not set: {why}", failed.topic, failed.partition));
    }
    lines.extend(plan.lacks.iter().map(|why| format!("Phase 3: group {group}: {why}")));
    lines
}

/// Says which partitions of a group are at the restored end of a restore that leaves out later records.
fn at_the_cut(plan: &GroupPlan, ends: &Ends, until: Timestamp) -> Option<String> {
    let is_at_end = |row: &&Row| {
        let end = ends.get(&(row.topic.clone(), row.partition));
        end.is_some() && end == row.target.as_ref().map(|target| &target.offset)
    };
    let at: Vec<String> = plan
        .rows
        .iter()
        .filter(|row| row.exactness == Some(Exactness::Exact))
        .filter(is_at_end)
        .map(|row| format!("{}-{}", row.topic, row.partition))
        .collect();
    (!at.is_empty() && plan.refused.is_none()).then(|| {
        format!(
            "Phase 3: group {}: at the restored end of {}: what it had read of {until} or later is not restored",
            plan.group,
            at.join(", ")
        )
    })
}

fn again(exactness: Exactness) -> u64 {
    if let Exactness::Again(records) = exactness { records } else { 0 }
}

/// Returns the line that says how to take a restore back, its groups too; `cluster` is how the command line names the cluster.
fn undo_line(restore: &Restore, restore_id: &str, cluster: &str) -> String {
    let shown = |place: &str| quoted(&value::shown_path(place));
    let state = restore.sink.state.as_deref().map(|state| format!(" --state {}", shown(state))).unwrap_or_default();
    format!(
        "undo with: kafka-backup restores undo --path {} --backup-id {}{state} --restore-id {} {cluster}",
        shown(&restore.source.path),
        quoted(&restore.source.backup_id),
        quoted(restore_id)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::groups::perform::Failed;
    use crate::groups::positions::Committed;

    fn row(partition: i32, exactness: Exactness) -> Row {
        let at = |offset| Some(Committed { offset, metadata: String::new() });
        let (topic, topic_id) = ("orders".to_owned(), "_".to_owned());
        let exactness = Some(exactness);
        Row { topic, topic_id, partition, current: None, target: at(100), action: Action::Set, exactness }
    }

    #[test]
    fn what_became_of_a_group_is_a_line_and_what_is_not_exact_others() {
        let rows = vec![row(0, Exactness::Exact), row(1, Exactness::Clamped), row(2, Exactness::Again(7))];
        let plan = GroupPlan { group: "g".to_owned(), rows, ..GroupPlan::default() };
        let report = GroupReport { group: "g".to_owned(), set: 3, ..GroupReport::default() };
        let said = lines(&plan, &report);
        assert_eq!(said[0], "Phase 3: group g: 3 partitions set, reads 7 records again");
        assert!(said.len() == 2 && said[1].contains("orders-1 is set to 100, the nearest there is"), "{said:?}");
        let failed = vec![Failed { topic: "orders".into(), partition: 2, why: "so it is".into() }];
        let said = lines(&plan, &GroupReport { set: 2, failed, ..report.clone() });
        assert!(said[2].ends_with("orders-2 is not set: so it is"), "{said:?}");
        let why = "topic \"orders\" is not on the cluster; restore it first, or leave it out with --topic".to_owned();
        let failed = vec![Failed { topic: "orders".into(), partition: 2, why }];
        let said = lines(&plan, &GroupReport { set: 2, failed, ..report.clone() });
        assert!(
            said[2].ends_with("is not on the cluster; restore it first"),
            "this command has no such flag: {said:?}"
        );
        let ends = [(("orders".to_owned(), 0), 100), (("orders".to_owned(), 2), 101)].into();
        let cut = at_the_cut(&plan, &ends, Timestamp(0)).expect("one is at its end");
        assert!(cut.contains("at the restored end of orders-0: what it had read of 1970-01-01"), "{cut}");
        assert_eq!(at_the_cut(&plan, &Ends::new(), Timestamp(0)), None);
        let said = lines(&plan, &GroupReport { refused: Some(ACTIVE.to_owned()), ..report });
        assert_eq!(said, ["Phase 3: group g: not put back: Consumer group has active members"]);
    }

    #[test]
    fn the_undo_line_carries_where_the_state_is_and_no_secret() {
        let text = "[[pipeline]]\nname = \"r\"\n[pipeline.source]\ntype = \"archive\"\nbackup_id = \"b\"\n\
                    path = \"s3://x/y?secret_access_key=hush\"\n[pipeline.sink]\ntype = \"kafka\"\nstate = \"/a b\"\n\
                    kafka = { \"bootstrap.servers\" = \"k:1\" }\n";
        let restore = Config::parse("a.toml", text, &|_| None).expect("valid").restores.remove(0);
        let line = undo_line(&restore, "r-1", "--bootstrap-servers k:1");
        assert!(line.ends_with("--backup-id b --state '/a b' --restore-id r-1 --bootstrap-servers k:1"), "{line}");
        assert!(line.contains("--path ") && !line.contains("hush"), "{line}");
    }
}
