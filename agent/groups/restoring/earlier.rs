//! What starts of a restore have done with consumer groups, as they have kept it. Pure.
//!
//! Of a start that has kept no outcome nobody knows how far it came: a partition that stands where it stood was not set, one
//! that stands where it was to stand was, and of one that stands elsewhere nobody can tell.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::groups::plan::{Action, GroupPlan, Plan, Row};
use crate::groups::positions::Committed;
use crate::groups::present::DEAD;
use crate::restore::state::{Groups, GroupsDone};

/// What has been done with groups.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    groups: BTreeMap<String, Changed>,
    next: u32,
}

/// What has been done with one group.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Whether it was there before it was first set.
    pub(super) was_there: bool,
    /// Whether it was read back as it was to be.
    pub(super) is_set: bool,
    /// Whether the start that was the last to begin with it has kept no outcome.
    pub(super) is_open: bool,
    /// By topic and partition.
    pub(super) partitions: BTreeMap<(String, i32), Change>,
}

/// What has been done with one partition of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// The topic's id then.
    pub(super) topic_id: String,
    /// What was committed before.
    pub(super) before: Option<Committed>,
    /// What was to be.
    pub(super) wanted: Option<Committed>,
}

impl Earlier {
    /// Takes what was kept, in order.
    ///
    /// # Errors
    /// [`Kind::Newer`](crate::error::Kind::Newer) for a plan of another form.
    pub(super) fn of(kept: &[(Groups, Option<GroupsDone>)]) -> Result<Self> {
        let mut earlier = Self { next: kept.last().map_or(0, |(begun, _)| begun.number + 1), ..Self::default() };
        for (begun, done) in kept {
            let plan: Plan = begun.read()?;
            for group in plan.groups.iter().filter(|group| group.refused.is_none()) {
                let is_first = !earlier.groups.contains_key(&group.group);
                let changed = earlier.groups.entry(group.group.clone()).or_default();
                changed.was_there |= is_first && group.state != DEAD;
                changed.is_open = done.is_none();
                changed.is_set |= done.as_ref().is_some_and(|done| done.set.contains(&group.group));
                group.changes().for_each(|row| changed.add(row));
            }
        }
        Ok(earlier)
    }

    /// Returns the number that the next start has.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// Returns whether a group was set, all of it: it is the group's own since.
    pub(super) fn has_set(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|changed| changed.is_set)
    }

    /// Returns the groups of which something was to be changed, by name.
    pub(super) fn changed(&self) -> impl Iterator<Item = (&str, &Changed)> {
        let changed = self.groups.iter().filter(|(_, changed)| !changed.partitions.is_empty());
        changed.map(|(group, changed)| (group.as_str(), changed))
    }

    /// Leaves partitions alone of which nobody can tell whether they were set, and that stand elsewhere by now.
    pub(super) fn spare(&self, plan: &mut Plan) {
        for group in &mut plan.groups {
            if let Some(changed) = self.groups.get(&group.group).filter(|changed| changed.is_open) {
                changed.spare(group);
            }
        }
    }
}

impl Changed {
    fn add(&mut self, row: &Row) {
        let change = Change {
            topic_id: row.topic_id.clone(),
            before: row.current.clone(),
            wanted: if row.action == Action::Delete { None } else { row.target.clone() },
        };
        let at = (row.topic.clone(), row.partition);
        match self.partitions.get_mut(&at) {
            // It stood where it had been set: what it had before is what counts.
            Some(held) if held.wanted == change.before => held.wanted = change.wanted,
            _ => {
                let _ = self.partitions.insert(at, change);
            }
        }
    }

    fn spare(&self, group: &mut GroupPlan) {
        for row in group.rows.iter_mut().filter(|row| matches!(row.action, Action::Set | Action::Delete)) {
            let Some(change) = self.partitions.get(&(row.topic.clone(), row.partition)) else { continue };
            if row.current != change.before && row.current != change.wanted {
                let wanted = change.wanted.as_ref().map_or(-1, |wanted| wanted.offset);
                row.action = Action::Skip(format!(
                    "somebody has moved it since an earlier start was to set it to {wanted}; where that is not as it should \
                     be, set it with `offset-reset`"
                ));
            }
        }
    }
}

/// Returns the groups of a plan that stand where they are to stand, but for partitions that were skipped, and the others;
/// `failed` are those of which a partition could not be set.
pub(super) fn outcome(plan: &Plan, failed: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
    let is_set = |group: &&GroupPlan| group.refused.is_none() && !failed.contains(&group.group);
    let (set, others): (Vec<_>, Vec<_>) = plan.groups.iter().partition(is_set);
    let names = |of: Vec<&GroupPlan>| of.into_iter().map(|group| group.group.clone()).collect();
    (names(set), names(others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::state::{KeptAt, Process};

    fn at(offset: i64) -> Option<Committed> {
        Some(Committed { offset, metadata: String::new() })
    }

    fn row(partition: i32, current: Option<Committed>, target: Option<Committed>, action: Action) -> Row {
        Row { topic: "t".into(), topic_id: "_".into(), partition, current, target, action, exactness: None }
    }

    fn plan(rows: Vec<Row>) -> Plan {
        let group = GroupPlan { group: "g".into(), state: "Dead".into(), rows, ..GroupPlan::default() };
        Plan { groups: vec![group], ..Plan::default() }
    }

    fn kept(number: u32, rows: Vec<Row>, set: Option<&[&str]>) -> (Groups, Option<GroupsDone>) {
        let snapshot = KeptAt { place: "p".into(), id: "s".into() };
        let begun = Groups::now("r1", Process::this(), snapshot, &plan(rows)).expect("JSON");
        let begun = Groups { number, ..begun };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let done = set.map(|set| GroupsDone::now(&begun, names(set), Vec::new()));
        (begun, done)
    }

    #[test]
    fn a_start_that_was_killed_leaves_what_moved_on_and_sets_the_rest() {
        let rows = (0..3).map(|of| row(of, None, at(10), Action::Set)).collect();
        let earlier = Earlier::of(&[kept(0, rows, None)]).expect("read");
        assert!(!earlier.has_set("g") && earlier.next() == 1);
        let set = |of, current| row(of, current, at(10), Action::Set);
        let mut next = plan(vec![set(0, None), row(1, at(10), at(10), Action::Same), set(2, at(12)), set(3, at(1))]);
        earlier.spare(&mut next);
        let actions: Vec<bool> = next.groups[0].rows.iter().map(|row| row.action == Action::Set).collect();
        assert_eq!(actions, [true, false, false, true], "of the last nothing was begun");
        assert!(next.groups[0].rows[2].action.to_string().contains("moved it since"), "{next:?}");
    }

    #[test]
    fn a_group_that_could_not_be_set_is_set_later_wherever_it_stands_then() {
        let rows = vec![row(0, at(1), at(10), Action::Set)];
        let earlier = Earlier::of(&[kept(0, rows.clone(), Some(&[]))]).expect("read");
        let mut next = plan(vec![row(0, at(5), at(10), Action::Set)]);
        earlier.spare(&mut next);
        assert_eq!(next.groups[0].rows[0].action, Action::Set);
        assert!(Earlier::of(&[kept(0, rows, Some(&["g"]))]).expect("read").has_set("g"));
    }

    #[test]
    fn what_counts_is_what_a_group_had_before_it_was_first_set() {
        let starts = [
            kept(0, vec![row(0, at(1), at(10), Action::Set), row(1, at(1), at(10), Action::Set)], Some(&[])),
            kept(1, vec![row(0, at(10), at(11), Action::Set), row(1, at(7), at(11), Action::Set)], Some(&["g"])),
        ];
        let earlier = Earlier::of(&starts).expect("read");
        let (name, changed) = earlier.changed().next().expect("one");
        assert!(name == "g" && !changed.was_there);
        let of = |partition| changed.partitions[&("t".to_owned(), partition)].clone();
        assert_eq!((of(0).before, of(0).wanted), (at(1), at(11)));
        assert_eq!((of(1).before, of(1).wanted), (at(7), at(11)), "it had not been set, and somebody moved it");
    }

    #[test]
    fn a_group_is_set_when_none_of_its_partitions_failed() {
        let named = |group: &str, refused: Option<&str>| GroupPlan {
            group: group.into(),
            refused: refused.map(str::to_owned),
            ..GroupPlan::default()
        };
        let plan = Plan { groups: vec![named("a", None), named("b", Some("x")), named("c", None)], ..Plan::default() };
        let (set, others) = outcome(&plan, &["c".to_owned()].into());
        assert_eq!((set, others), (vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()]));
    }
}
