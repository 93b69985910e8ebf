//! What is to become of consumer groups, as a value: for each partition where the group is, and where it is to be.
//!
//! Pure. [`making`](super::making) makes it, [`perform`](super::perform) does it; it is printed, and can be kept as JSON and
//! performed later, if the cluster is still as it says.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::places::Exactness;
use super::positions::Committed;

/// What is to become of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        self.rows.iter().filter(move |row| !is_refused && matches!(row.action, Action::Set | Action::Delete))
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
