//! The consumer groups that a restore has put back, as its objects say it.
//!
//! **Order of durable effects, and what a crash after each leaves:**
//!
//! | effect | what is left | what the next start does |
//! |---|---|---|
//! | the snapshot of the present | a snapshot that nothing names | makes another one |
//! | `groups-<n>` | groups of which nobody knows whether they were set | looks: what stands where it stood is set, what stands where it was to stand is done, what stands elsewhere has moved on and stays |
//! | the commits | the same | the same |
//! | `groups-done-<n>` | groups that are set, and perhaps others, or partitions of others, that could not be | sets those that could not be, in the next number |
//!
//! A partition of a group that was set once is never set again by the restore, wherever the group stands by then.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::objects::Owned;
use super::{Creation, Held, Name, Process, State};
use crate::archive::sealed;
use crate::error::{Error, Result};
use crate::record::Timestamp;

/// Consumer groups are going to be put back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Groups {
    /// The restore.
    pub restore_id: String,
    /// Its number, which its name says too.
    pub number: u32,
    /// When, RFC 3339.
    pub begun_at: String,
    /// Who.
    pub process: Process,
    /// Where it is kept what they had committed before.
    pub snapshot: KeptAt,
    /// What is to become of them, as the plan of a reset has it.
    pub plan: serde_json::Value,
}

/// Where a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAt {
    /// The folder or the URL, without secrets.
    pub place: String,
    /// Its id.
    pub id: String,
}

/// What became of groups that were to be put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupsDone {
    /// The restore.
    pub restore_id: String,
    /// Of which number.
    pub number: u32,
    /// When, RFC 3339.
    pub finished_at: String,
    /// The groups that were read back as they were to be, by name.
    pub set: Vec<String>,
    /// The others, by name, with the topics and partitions that were not set; what is not named is the group's own since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, BTreeSet<(String, i32)>>,
}

impl Groups {
    /// Makes that of this moment; its number is given when it is kept.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) for a plan that JSON cannot say.
    pub fn now(restore_id: &str, process: Process, snapshot: KeptAt, plan: &impl Serialize) -> Result<Self> {
        let cannot = |error: serde_json::Error| Error::failed("the plan of groups has no JSON form").source(error);
        let plan = serde_json::to_value(plan).map_err(cannot)?;
        let begun_at = Timestamp::now().to_string();
        Ok(Self { restore_id: restore_id.to_owned(), number: 0, begun_at, process, snapshot, plan })
    }

    /// Returns the plan.
    ///
    /// # Errors
    /// [`Kind::Newer`](crate::error::Kind::Newer) when it is of another form.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.plan).map_err(|error| Error::newer("what became of consumer groups").source(error))
    }
}

impl GroupsDone {
    /// Makes that of this moment.
    pub fn now(of: &Groups, set: Vec<String>, failed: BTreeMap<String, BTreeSet<(String, i32)>>) -> Self {
        let finished_at = Timestamp::now().to_string();
        Self { restore_id: of.restore_id.clone(), number: of.number, finished_at, set, failed }
    }
}

impl State {
    /// Reads which groups were going to be put back, in order, each with what became of that, where it is known.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when one cannot be read, or is missing.
    pub async fn groups(&self) -> Result<Vec<(Groups, Option<GroupsDone>)>> {
        let (names, _) = self.names().await?;
        let Some(last) = names.iter().filter_map(Name::groups).max() else { return Ok(Vec::new()) };
        let mut read = Vec::new();
        for n in 0..=last {
            let name = Name::Groups(n);
            let begun: Groups = self.read(name).await?.ok_or_else(|| self.missing(name))?;
            read.push((begun, self.read(Name::GroupsDone(n)).await?));
        }
        Ok(read)
    }

    /// Keeps that groups are going to be put back, in this number; returns it with that. `None` where another process has
    /// begun that number: it is to be looked again where they stand.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when one is there that cannot be read.
    pub async fn begin_groups(&self, number: u32, groups: Groups) -> Result<Option<Groups>> {
        let groups = Groups { number, ..groups };
        match self.create(Name::Groups(number), sealed::compact(&groups)).await? {
            Held::Ours => Ok(Some(groups)),
            Held::Other(_) => Ok(None),
        }
    }

    /// Keeps what became of groups; returns what holds.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when one is there that cannot be read.
    pub async fn end_groups(&self, done: &GroupsDone) -> Result<(Creation, GroupsDone)> {
        self.keep(Name::GroupsDone(done.number), done).await
    }
}

impl Owned for Groups {
    fn owner(&self) -> (&str, Name) {
        (&self.restore_id, Name::Groups(self.number))
    }
}

impl Owned for GroupsDone {
    fn owner(&self) -> (&str, Name) {
        (&self.restore_id, Name::GroupsDone(self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{groups, memory, planned, whole};
    use super::*;

    #[tokio::test]
    async fn groups_are_kept_in_numbers_that_one_process_has() {
        let state = whole(&memory()).await;
        assert!(state.groups().await.expect("read").is_empty());
        let first = state.begin_groups(0, groups()).await.expect("kept").expect("it is the first");
        assert_eq!(state.begin_groups(0, groups()).await.expect("asked"), None, "another one has begun that number");
        assert_eq!(state.begin_groups(0, first.clone()).await.expect("asked"), Some(first.clone()), "asked again");
        let left = [("h".to_owned(), [("t".to_owned(), 0)].into())].into();
        let done = GroupsDone::now(&first, vec!["g".to_owned()], left);
        let (created, held) = state.end_groups(&done).await.expect("kept");
        assert_eq!((created, &held), (Creation::Created, &done));
        let second = state.begin_groups(1, groups()).await.expect("kept").expect("the next");
        assert_eq!(state.groups().await.expect("read"), [(first, Some(done)), (second, None)]);
        let audit = state.audit().await.expect("listed");
        assert!(audit.strange.is_empty() && audit.wrong.is_empty(), "{audit:?}");
    }

    #[tokio::test]
    async fn groups_that_are_missing_among_the_numbered_are_damage() {
        let state = planned(&memory()).await;
        let _ = state.begin_groups(1, groups()).await.expect("kept");
        let error = state.groups().await.expect_err("the first is missing");
        assert!(error.exit_code() == 4 && error.to_string().contains("groups-0"), "{error}");
        let wrong = state.audit().await.expect("listed").wrong;
        assert_eq!(wrong.iter().map(|(name, _)| *name).collect::<Vec<_>>(), [Name::Groups(0)]);
    }
}
