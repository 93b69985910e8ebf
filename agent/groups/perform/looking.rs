//! The look before anything is changed: whether groups are as the plan saw them, and what is left to do. Pure.

use crate::groups::ACTIVE;
use crate::groups::plan::{Action, GroupPlan, Plan, Row};
use crate::groups::positions::Committed;
use crate::groups::present::{DEAD, Now, Present};
use crate::kafka::client::groups::{CommittedOffset, Member};

/// What is found of a group of a plan.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) group: String,
    /// Partitions that are where they are to be.
    pub(super) same: u64,
    /// Partitions that the plan leaves as they are, and why, though they were wanted.
    pub(super) skipped: Vec<(String, i32, String)>,
    /// Why positions of it are missing in the plan.
    pub(super) lacks: Option<String>,
    pub(super) rest: Rest,
}

/// What is left to do of a group.
#[derive(Debug, Clone)]
pub(super) enum Rest {
    /// This; perhaps nothing.
    Job(Job),
    /// Nothing may be done: why, how many partitions are left so, and who reads.
    Refused { why: String, partitions: u64, members: Vec<Member> },
}

/// What is to be done to one group.
#[derive(Debug, Clone, Default)]
pub(super) struct Job {
    pub(super) group: String,
    pub(super) set: Vec<CommittedOffset>,
    pub(super) delete: Vec<(String, i32)>,
}

/// Looks at all groups of `plan`, in its order.
pub(super) fn found(plan: &Plan, present: &Present) -> Vec<Found> {
    plan.groups.iter().map(|group| found_group(group, present)).collect()
}

fn found_group(group: &GroupPlan, present: &Present) -> Found {
    let mut found = Found {
        group: group.group.clone(),
        same: 0,
        skipped: Vec::new(),
        lacks: group.lacks.clone(),
        rest: Rest::Job(Job { group: group.group.clone(), ..Job::default() }),
    };
    let left = group.rows.iter().filter(|row| row.action.is_change()).count() as u64;
    let now = present.groups.get(&group.group);
    let refuse = |why: String| {
        let members = now.map(|now| now.known_members().to_vec()).unwrap_or_default();
        Rest::Refused { why, partitions: left.max(1), members }
    };
    let Some(now) = now else {
        found.rest = refuse("nobody told of it".to_owned());
        return found;
    };
    if let Some(why) = &group.refused {
        found.rest = refuse(why.clone());
        return found;
    }
    // To commit for it would make it, and a mistyped name is nobody's.
    if !matches!(group.state.as_str(), "" | DEAD) && !now.exists() {
        found.rest = refuse(format!(
            "the cluster is no longer as the plan saw it: group '{}' is not there, and was {}",
            group.group, group.state
        ));
        return found;
    }
    let mut job = Job { group: group.group.clone(), ..Job::default() };
    for row in &group.rows {
        match look(row, now, present) {
            Seen::Same => found.same += 1,
            Seen::Skipped(why) => found.skipped.push((row.topic.clone(), row.partition, why)),
            Seen::ToDo => job.add(row),
            Seen::Otherwise(how) => {
                found.rest = refuse(format!("the cluster is no longer as the plan saw it: {how}"));
                return found;
            }
        }
    }
    // Who reads does not matter where nothing is to be done.
    found.rest = if now.is_active() && job.partitions() > 0 { refuse(ACTIVE.to_owned()) } else { Rest::Job(job) };
    found
}

/// How a partition of a plan is found.
enum Seen {
    Same,
    ToDo,
    Skipped(String),
    /// Otherwise than the plan saw it.
    Otherwise(String),
}

fn look(row: &Row, now: &Now, present: &Present) -> Seen {
    if let Action::Skip(why) = &row.action {
        return Seen::Skipped(why.clone());
    }
    let committed = match &now.offsets {
        Ok(offsets) => offsets.get(&(row.topic.clone(), row.partition)),
        Err(why) => return Seen::Otherwise(format!("what the group has committed cannot be read: {why}")),
    };
    let is = present.topic_id(&row.topic);
    // An id of `_` is none: such a cluster, or such a plan, tells topics by their names.
    if row.topic_id != "_" && is != row.topic_id && row.target.is_some() {
        let how = if is == "_" { "is not there any more" } else { "was made anew" };
        return Seen::Otherwise(format!("topic \"{}\" {how}", row.topic));
    }
    match committed {
        committed if committed == row.target.as_ref() => Seen::Same,
        committed if committed == row.current.as_ref() => match row.action {
            Action::Same => Seen::Otherwise(moved(row, committed)),
            _ => Seen::ToDo,
        },
        committed => Seen::Otherwise(moved(row, committed)),
    }
}

fn moved(row: &Row, committed: Option<&Committed>) -> String {
    let said =
        |committed: Option<&Committed>| committed.map_or_else(|| "nothing".to_owned(), |told| told.offset.to_string());
    let (was, is) = (said(row.current.as_ref()), said(committed));
    let metadata = if was == is { ", with other metadata" } else { "" };
    format!("topic \"{}\" partition {} had {was} committed, and has {is}{metadata}", row.topic, row.partition)
}

impl Found {
    /// Returns whether nothing may be done to it.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.rest, Rest::Refused { .. })
    }

    /// Takes what is left to do; `None` for nothing.
    pub(super) fn job(self) -> Option<Job> {
        match self.rest {
            Rest::Job(job) => Some(job).filter(|job| job.partitions() > 0),
            Rest::Refused { .. } => None,
        }
    }
}

impl Job {
    fn add(&mut self, row: &Row) {
        let (topic, partition) = (row.topic.clone(), row.partition);
        match (&row.action, &row.target) {
            (Action::Set, Some(Committed { offset, metadata })) => {
                self.set.push(CommittedOffset { topic, partition, offset: *offset, metadata: metadata.clone() });
            }
            (Action::Delete, None) => self.delete.push((topic, partition)),
            // No sound plan has another one that is to be done.
            _ => {}
        }
    }

    /// Returns how many partitions it changes.
    pub(super) fn partitions(&self) -> usize {
        self.set.len() + self.delete.len()
    }

    /// Returns its group with each topic and partition that it changes: first those that it sets, then those that it deletes.
    pub(super) fn names(&self) -> impl Iterator<Item = (String, String, i32)> {
        let set = self.set.iter().map(|set| (set.topic.clone(), set.partition));
        set.chain(self.delete.iter().cloned()).map(|(topic, partition)| (self.group.clone(), topic, partition))
    }

    /// Returns what each of these partitions is to have, in the same order.
    pub(super) fn targets(&self) -> impl Iterator<Item = Option<Committed>> {
        let set = self.set.iter().map(|set| Some(Committed { offset: set.offset, metadata: set.metadata.clone() }));
        set.chain(self.delete.iter().map(|_| None))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::groups::present::tests::{group, present};

    /// Returns a row of topic `t`.
    pub(in crate::groups::perform) fn row(
        partition: i32,
        current: Option<i64>,
        target: Option<i64>,
        action: Action,
    ) -> Row {
        let committed = |offset: i64| Committed { offset, metadata: String::new() };
        Row {
            topic: "t".to_owned(),
            topic_id: "_".to_owned(),
            partition,
            current: current.map(committed),
            target: target.map(committed),
            action,
            exactness: None,
        }
    }

    /// Returns a plan of group `g`.
    pub(in crate::groups::perform) fn plan(rows: Vec<Row>) -> Plan {
        let group = GroupPlan { group: "g".to_owned(), rows, ..GroupPlan::default() };
        Plan { groups: vec![group], ..Plan::default() }
    }

    fn one(rows: Vec<Row>, now: Now) -> Found {
        found(&plan(rows), &present(4, &[("g", now)])).remove(0)
    }

    fn why(found: &Found) -> &str {
        match &found.rest {
            Rest::Refused { why, .. } => why,
            Rest::Job(job) => panic!("not refused: {job:?}"),
        }
    }

    #[test]
    fn what_is_as_planned_is_to_be_done_and_what_is_at_its_target_is_done() {
        let rows = vec![
            row(0, None, Some(5), Action::Set),
            row(1, Some(3), Some(6), Action::Set),
            row(2, Some(4), None, Action::Delete),
            row(3, Some(1), Some(1), Action::Same),
        ];
        let found = one(rows, group("Empty", 0, &[(1, 6), (2, 4), (3, 1)]));
        assert_eq!((found.same, found.skipped.len()), (2, 0), "one of them was set by an earlier run");
        let job = found.job().expect("something is left");
        assert_eq!(job.set.iter().map(|set| (set.partition, set.offset)).collect::<Vec<_>>(), [(0, 5)]);
        assert_eq!(job.delete, [("t".to_owned(), 2)]);
    }

    #[test]
    fn what_has_moved_since_is_refused_with_what_it_was_and_is() {
        let found = one(vec![row(1, Some(3), Some(6), Action::Set)], group("Empty", 0, &[(1, 4)]));
        let wanted = "the cluster is no longer as the plan saw it: topic \"t\" partition 1 had 3 committed, and has 4";
        assert_eq!(why(&found), wanted);
        let found = one(vec![row(1, Some(3), Some(3), Action::Same)], group("Empty", 0, &[]));
        assert!(why(&found).ends_with("had 3 committed, and has nothing"), "{}", why(&found));
        let mut anew = row(0, None, Some(1), Action::Set);
        anew.topic_id = "AAAAAAAAAAAAAAAAAAAAAQ".to_owned();
        assert!(why(&one(vec![anew], group("Empty", 0, &[]))).contains("topic \"t\" is not there any more"));
        let mut mistyped = plan(vec![row(0, None, Some(5), Action::Set)]);
        mistyped.groups[0].state = "Empty".to_owned();
        let found = super::found(&mistyped, &present(1, &[("g", group("Dead", 0, &[]))])).remove(0);
        assert!(why(&found).ends_with("group 'g' is not there, and was Empty"), "{}", why(&found));
    }

    #[test]
    fn an_active_group_is_refused_with_its_members_unless_nothing_is_to_be_done() {
        let rows = vec![row(0, Some(3), Some(6), Action::Set), row(1, None, Some(6), Action::Set)];
        let found = one(rows.clone(), group("Stable", 2, &[(0, 3)]));
        let Rest::Refused { why, partitions, members } = found.rest else { panic!("active") };
        assert_eq!((why.as_str(), partitions, members.len()), (ACTIVE, 2, 2));
        assert!(!one(rows, group("Stable", 1, &[(0, 6), (1, 6)])).is_refused());
    }

    #[test]
    fn a_refusal_of_the_plan_stays_one_and_what_it_skips_is_told() {
        let mut refused = plan(vec![row(0, Some(3), Some(6), Action::Set)]);
        refused.groups[0].refused = Some("a share group".to_owned());
        assert_eq!(why(&found(&refused, &present(1, &[("g", group("Empty", 0, &[]))]))[0]), "a share group");
        let found =
            one(vec![row(0, Some(3), None, Action::Skip("not restored".to_owned()))], group("Empty", 0, &[(0, 4)]));
        assert_eq!(found.skipped, [("t".to_owned(), 0, "not restored".to_owned())]);
        assert!(found.job().is_none());
    }
}
