//! What starts of a restore have done with consumer groups, as they have kept it. Pure.
//!
//! Of a start that has kept no outcome nobody knows how far it came: a partition that stands where it stood was not set, one
//! that stands where it was to stand was, and of one that stands elsewhere nobody can tell.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::groups::perform::Report;
use crate::groups::plan::{Action, GroupPlan, Plan, Row};
use crate::groups::positions::Committed;
use crate::groups::present::DEAD;
use crate::restore::state::{Groups, GroupsDone};

/// Topics and partitions.
pub(super) type Keys = BTreeSet<(String, i32)>;

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
    /// Topics and partitions that were read back as they were to be, or that had moved on: they are the group's own since.
    pub(super) own: Keys,
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
                if let Some(done) = done {
                    let failed = done.failed.get(&group.group);
                    let own =
                        group.rows.iter().map(key).filter(|key| failed.is_none_or(|failed| !failed.contains(key)));
                    changed.own.extend(own);
                }
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

    /// Leaves out of a plan what is a group's own, and leaves alone what nobody can tell whether it was set and that stands
    /// elsewhere by now; returns what is left alone, by group.
    pub(super) fn spare(&self, plan: &mut Plan) -> BTreeMap<String, Keys> {
        let mut spared = BTreeMap::new();
        for group in &mut plan.groups {
            let Some(changed) = self.groups.get(&group.group) else { continue };
            group.rows.retain(|row| !changed.own.contains(&key(row)));
            if changed.is_open {
                let _ = spared.insert(group.group.clone(), changed.spare(group));
            }
        }
        spared
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

    fn spare(&self, group: &mut GroupPlan) -> Keys {
        let mut spared = Keys::new();
        for row in group.rows.iter_mut().filter(|row| row.action.is_change()) {
            let Some(change) = self.partitions.get(&(row.topic.clone(), row.partition)) else { continue };
            if row.current != change.before && row.current != change.wanted {
                let wanted = change.wanted.as_ref().map_or(-1, |wanted| wanted.offset);
                row.action = Action::Skip(format!(
                    "somebody has moved it since an earlier start was to set it to {wanted}; where that is not as it should \
                     be, set it with `offset-reset`"
                ));
                let _ = spared.insert(key(row));
            }
        }
        spared
    }
}

fn key(row: &Row) -> (String, i32) {
    (row.topic.clone(), row.partition)
}

/// Returns whether of a group nothing can come that is worth keeping: it is refused, or all of it is skipped, and not because it
/// has moved on.
pub(super) fn is_idle(group: &GroupPlan, spared: &BTreeMap<String, Keys>) -> bool {
    let spared = spared.get(&group.group);
    let is_skipped =
        |row: &Row| matches!(row.action, Action::Skip(_)) && spared.is_none_or(|spared| !spared.contains(&key(row)));
    group.refused.is_some() || (!group.rows.is_empty() && group.rows.iter().all(is_skipped))
}

/// Returns the groups of a performed plan of which something is left to be set, with what that is. What has moved on, `spared`, is
/// not.
pub(super) fn left(plan: &Plan, report: &Report, spared: &BTreeMap<String, Keys>) -> BTreeMap<String, Keys> {
    let mut all = BTreeMap::new();
    for group in &plan.groups {
        let told = report.groups.iter().find(|told| told.group == group.group && told.refused.is_none());
        let of = told.filter(|_| group.refused.is_none());
        let mut left: Keys = match of {
            Some(told) => told.failed.iter().map(|failed| (failed.topic.clone(), failed.partition)).collect(),
            None => group.rows.iter().map(key).collect(),
        };
        if let Some(spared) = spared.get(&group.group) {
            left.retain(|key| !spared.contains(key));
        }
        if of.is_none() || !left.is_empty() {
            let _ = all.insert(group.group.clone(), left);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::perform::{Failed, GroupReport};
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
        let done = set.map(|set| {
            // Where a group is not set, nothing of it is.
            let plan: Plan = begun.read().expect("a plan");
            let others = plan.groups.iter().filter(|group| !set.contains(&&*group.group));
            let failed = others.map(|group| (group.group.clone(), group.rows.iter().map(key).collect())).collect();
            GroupsDone::now(&begun, names(set), failed)
        });
        (begun, done)
    }

    #[test]
    fn a_start_that_was_killed_leaves_what_moved_on_and_sets_the_rest() {
        let rows = (0..3).map(|of| row(of, None, at(10), Action::Set)).collect();
        let earlier = Earlier::of(&[kept(0, rows, None)]).expect("read");
        assert!(!earlier.has_set("g") && earlier.next() == 1);
        let set = |of, current| row(of, current, at(10), Action::Set);
        let mut next = plan(vec![set(0, None), row(1, at(10), at(10), Action::Same), set(2, at(12)), set(3, at(1))]);
        let spared = earlier.spare(&mut next);
        assert_eq!(spared["g"], [("t".to_owned(), 2)].into());
        let actions: Vec<bool> = next.groups[0].rows.iter().map(|row| row.action == Action::Set).collect();
        assert_eq!(actions, [true, false, false, true], "of the last nothing was begun");
        assert!(next.groups[0].rows[2].action.to_string().contains("moved it since"), "{next:?}");
    }

    #[test]
    fn a_group_that_could_not_be_set_is_set_later_wherever_it_stands_then() {
        let rows = vec![row(0, at(1), at(10), Action::Set)];
        let earlier = Earlier::of(&[kept(0, rows.clone(), Some(&[]))]).expect("read");
        let mut next = plan(vec![row(0, at(5), at(10), Action::Set)]);
        assert!(earlier.spare(&mut next).is_empty());
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

    fn report(failed: &[i32], refused: Option<&str>) -> Report {
        let failed =
            failed.iter().map(|partition| Failed { topic: "t".into(), partition: *partition, why: "so".into() });
        let (failed, refused) = (failed.collect(), refused.map(str::to_owned));
        let group = GroupReport { group: "g".into(), failed, refused, ..GroupReport::default() };
        Report { groups: vec![group], ..Report::default() }
    }

    #[test]
    fn what_is_left_of_a_group_is_what_failed_and_what_was_skipped_but_for_what_moved_on() {
        let keys = |of: &[i32]| of.iter().map(|of| ("t".to_owned(), *of)).collect::<Keys>();
        let skip = |of| row(of, None, at(10), Action::Skip("so".into()));
        let plan = plan(vec![row(0, None, at(10), Action::Set), skip(1), skip(2)]);
        let (none, moved) = (BTreeMap::new(), BTreeMap::from([("g".to_owned(), keys(&[1, 2]))]));
        assert_eq!(left(&plan, &report(&[1, 2], None), &none)["g"], keys(&[1, 2]));
        assert!(left(&plan, &report(&[1, 2], None), &moved).is_empty());
        assert_eq!(left(&plan, &report(&[0, 1, 2], None), &moved)["g"], keys(&[0]));
        assert_eq!(left(&plan, &report(&[], Some("active")), &none)["g"], keys(&[0, 1, 2]));
        let skipped = GroupPlan { rows: vec![skip(1), skip(2)], ..plan.groups[0].clone() };
        assert!(is_idle(&skipped, &none) && !is_idle(&skipped, &moved) && !is_idle(&plan.groups[0], &none));
    }

    #[test]
    fn of_a_group_that_was_set_in_part_only_the_rest_is_set_later() {
        let set = |of, current| row(of, current, at(10), Action::Set);
        let (begun, _) = kept(0, vec![set(0, at(1)), set(1, at(1))], None);
        let failed = [("g".to_owned(), [("t".to_owned(), 1)].into())].into();
        let done = GroupsDone::now(&begun, Vec::new(), failed);
        let earlier = Earlier::of(&[(begun, Some(done))]).expect("read");
        assert!(!earlier.has_set("g"));
        // It has read on in the one, and stands in the other.
        let mut next = plan(vec![set(0, at(25)), set(1, at(1))]);
        assert!(earlier.spare(&mut next).is_empty());
        assert_eq!(next.groups[0].rows, [set(1, at(1))]);
    }
}
