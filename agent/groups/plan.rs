//! What is to become of consumer groups, as a value: for each partition where the group is, and where it is to be.
//!
//! Pure. [`making`](super::making) makes it, [`perform`](super::perform) does it; it is printed, and can be kept as JSON and
//! performed later, if the cluster is still as it says.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::places::Exactness;
use super::positions::Committed;
use crate::error::{Error, Result};

/// What is to become of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The cluster that it is for; `None` where it has no id.
    pub cluster_id: Option<String>,
    /// Where the positions are from, for people.
    pub positions: String,
    /// Where the places in the target are from, for people: `restore orders-1f2e3d4c`.
    pub places: String,
    /// The groups, by name.
    pub groups: Vec<GroupPlan>,
}

/// What is to become of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupPlan {
    /// The group.
    pub group: String,
    /// Its type, as the cluster calls it: `classic`, `consumer`, `streams`; `unknown` for one that is not there.
    pub kind: String,
    /// Its state, as the cluster calls it; `Dead` for one that is not there.
    pub state: String,
    /// Why nothing of it is touched: it is a share group, it has active members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Why partitions of it may be missing here: not all of its positions could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Its partitions, by topic and number.
    pub rows: Vec<Row>,
}

/// What is to become of one partition of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The topic on the cluster.
    pub topic: String,
    /// Its id there, as Kafka writes it, `_` where there is none: a topic made anew is another one.
    pub topic_id: String,
    /// The partition.
    pub partition: i32,
    /// What the group has committed; `None` for nothing.
    pub current: Option<Committed>,
    /// What it is to have; `None` for nothing, or where that is not known ([`Action::Skip`]).
    pub target: Option<Committed>,
    /// What is to be done.
    pub action: Action,
    /// How exact the target is; `None` where that is no question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exactness: Option<Exactness>,
}

/// What is done with a partition of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "do", content = "why")]
pub enum Action {
    /// The target is committed.
    Set,
    /// What is committed is deleted.
    Delete,
    /// Nothing: it is so already.
    Same,
    /// Nothing, for this reason; the partition stays as it is.
    Skip(String),
}

impl Plan {
    /// Returns how many partitions would be changed.
    pub fn changes(&self) -> usize {
        self.groups.iter().map(|group| group.changes().count()).sum()
    }

    /// Makes sure that it says one thing: each group and each partition once, and of each what goes with its action. One that
    /// was made here does; one from a file may have been changed by hand.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) with the first thing that is wrong.
    pub fn check(&self) -> Result<()> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.groups.iter().find(|group| !seen.insert(&group.group)) {
            return Err(wrong(format!("group '{}' is there twice", twice.group)));
        }
        self.groups.iter().try_for_each(GroupPlan::check)
    }

    /// Returns the groups and partitions that are wanted and are not to be had: each group that is refused or of which
    /// positions are missing, and each partition that is skipped.
    pub fn lacking(&self) -> usize {
        let skipped = |group: &GroupPlan| group.rows.iter().filter(|row| matches!(row.action, Action::Skip(_))).count();
        let of = |group: &GroupPlan| match group.refused {
            Some(_) => 1,
            None => skipped(group) + usize::from(group.lacks.is_some()),
        };
        self.groups.iter().map(of).sum()
    }
}

impl GroupPlan {
    /// Returns the partitions that would be changed.
    pub fn changes(&self) -> impl Iterator<Item = &Row> {
        let is_refused = self.refused.is_some();
        self.rows.iter().filter(move |row| !is_refused && row.action.is_change())
    }

    fn check(&self) -> Result<()> {
        let group = &self.group;
        if group.is_empty() {
            return Err(wrong("a group has no name"));
        }
        let mut seen = BTreeSet::new();
        for row in &self.rows {
            let Row { topic, partition, .. } = row;
            if !seen.insert((topic, partition)) {
                return Err(wrong(format!("group '{group}' has {topic}-{partition} twice")));
            }
            let target = row.target.as_ref().map(|target| target.offset);
            let agrees = match &row.action {
                Action::Set => target.is_some_and(|offset| offset >= 0),
                Action::Delete => target.is_none(),
                Action::Same => row.target == row.current,
                Action::Skip(_) => true,
            };
            if !agrees {
                let target = target.map_or_else(|| "nothing".to_owned(), |offset| offset.to_string());
                return Err(wrong(format!(
                    "group '{group}', {topic}-{partition}: {} does not go with a target of {target}",
                    row.action
                )));
            }
        }
        Ok(())
    }
}

fn wrong(what: impl fmt::Display) -> Error {
    Error::usage(format!("the plan is not sound: {what}")).hint("plan again; nothing was changed")
}

impl Action {
    /// Returns whether what is committed becomes something else.
    pub fn is_change(&self) -> bool {
        matches!(self, Self::Set | Self::Delete)
    }
}

impl fmt::Display for Action {
    /// Writes it as the user's page has it: `SET`, `SAME`, `SKIP: <why>`; `DELETE` besides.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set => f.write_str("SET"),
            Self::Delete => f.write_str("DELETE"),
            Self::Same => f.write_str("SAME"),
            Self::Skip(why) => write!(f, "SKIP: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(partition: i32, target: Option<i64>, action: Action) -> Row {
        let at = |offset| Committed { offset, metadata: String::new() };
        let (topic, topic_id) = ("t".to_owned(), "_".to_owned());
        Row { topic, topic_id, partition, current: Some(at(5)), target: target.map(at), action, exactness: None }
    }

    fn plan(groups: &[(&str, &[Row])]) -> Plan {
        let group = |(name, rows): &(&str, &[Row])| GroupPlan {
            group: (*name).to_owned(),
            rows: rows.to_vec(),
            ..GroupPlan::default()
        };
        Plan { groups: groups.iter().map(group).collect(), ..Plan::default() }
    }

    #[test]
    fn a_plan_that_says_two_things_is_refused_with_what_is_wrong() {
        let sound = [
            row(0, Some(7), Action::Set),
            row(1, None, Action::Delete),
            row(2, Some(5), Action::Same),
            row(3, None, Action::Skip("so".to_owned())),
        ];
        plan(&[("g", &sound), ("h", &sound)]).check().expect("sound");
        for (rows, wrong) in [
            (vec![row(0, None, Action::Set)], "t-0: SET does not go with a target of nothing"),
            (vec![row(0, Some(-5), Action::Set)], "SET does not go with a target of -5"),
            (vec![row(0, Some(7), Action::Delete)], "DELETE does not go with a target of 7"),
            (vec![row(0, Some(7), Action::Same)], "SAME does not go with a target of 7"),
            (vec![row(0, Some(7), Action::Set), row(0, Some(9), Action::Set)], "has t-0 twice"),
        ] {
            let error = plan(&[("g", &rows)]).check().expect_err(wrong);
            assert!(error.exit_code() == 2 && error.to_string().contains(wrong), "{error}");
        }
        assert!(plan(&[("g", &sound), ("g", &[])]).check().is_err_and(|error| error.to_string().contains("twice")));
        assert!(plan(&[("", &sound)]).check().is_err());
        let text = serde_json::to_string(&plan(&[("g", &sound)])).expect("JSON");
        let text = text.replace("\"current\"", "\"curent\"");
        assert!(serde_json::from_str::<Plan>(&text).is_err(), "a key that nobody knows");
    }
}
