//! The group that says how far a restore in transactions has come: nothing needs it when the restore is taken back.

use serde::Serialize;

use super::{Action, Kept, Undo};
use crate::crash;
use crate::error::Result;
use crate::kafka::client::Client;
use crate::kafka::client::groups::{ListedGroup, Partitions, Told};
use crate::kafka::produce::Places;
use crate::restore::perform::transactional_id;

/// The group of a restore, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its name.
    pub group: String,
    /// What becomes of it.
    pub action: Action,
    /// Why.
    pub why: String,
}

impl Group {
    /// Returns what becomes of it by what it has `told` that it has committed; `None` where there is nothing.
    fn of(group: String, told: Option<Told>, is_transactional: bool) -> Option<Self> {
        let (action, why) = match told {
            Some(Ok(offsets)) if offsets.is_empty() => return None,
            Some(Ok(offsets)) if offsets.iter().all(Places::is_progress) => {
                (Action::Delete, "how far the restore had come is committed to it".to_owned())
            }
            Some(Ok(_)) => (Action::Keep, "another program has committed to it".to_owned()),
            // Else there is none, as far as anybody knows.
            Some(Err(why)) if is_transactional => (Action::Keep, format!("what it has committed is not told: {why}")),
            Some(Err(_)) | None => return None,
        };
        Some(Self { group, action, why })
    }

    /// Returns whether it is left.
    pub fn is_left(&self) -> bool {
        self.action == Action::Keep
    }

    /// Deletes it, where that is meant.
    pub(super) async fn delete(&mut self, client: &Client) {
        if self.action == Action::Delete {
            let answer = client.delete_group(&self.group).await;
            self.answered(answer);
        }
    }

    /// Takes what came of its deletion. Topics are deleted by then, which is to be told: no error ends the command here.
    fn answered(&mut self, answer: Result<()>) {
        match answer {
            Ok(()) => {
                crash::point("restore-group-deleted", &self.group);
                tracing::info!(group = self.group, "deleted");
                self.action = Action::Deleted;
            }
            Err(error) => (self.action, self.why) = (Action::Keep, error.to_string()),
        }
    }
}

impl Undo<'_> {
    /// Looks what has become of the group of the restore.
    pub(super) async fn group(&self, kept: &Kept) -> Result<Option<Group>> {
        let id = transactional_id(self.state.restore_id());
        let mut told = self.client.committed_offsets(&[ListedGroup::named(&id)], &Partitions::new()).await?;
        let told = told.remove(&id);
        Ok(Group::of(id, told, kept.is_transactional))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::kafka::client::groups::CommittedOffset;

    fn of(told: Option<Told>, is_transactional: bool) -> Option<Action> {
        Group::of("g".to_owned(), told, is_transactional).map(|group| group.action)
    }

    fn committed(metadata: &str) -> CommittedOffset {
        CommittedOffset { topic: "t".to_owned(), partition: 0, offset: 5, metadata: metadata.to_owned() }
    }

    #[test]
    fn the_group_of_a_restore_is_deleted_and_one_that_others_use_stays() {
        assert_eq!(of(Some(Ok(vec![committed("1:0:5,7")])), false), Some(Action::Delete));
        assert_eq!(of(Some(Ok(vec![committed("1:0:5,7"), committed("")])), true), Some(Action::Keep));
        assert_eq!((of(Some(Ok(vec![])), true), of(None, true)), (None, None), "there is none");
        let forbidden = || Some(Err("GroupAuthorizationFailed".to_owned()));
        assert_eq!((of(forbidden(), true), of(forbidden(), false)), (Some(Action::Keep), None));
    }

    #[test]
    fn a_group_whose_coordinator_is_away_is_left_and_told_with_the_topics() {
        let group = || Group { group: "g".to_owned(), action: Action::Delete, why: String::new() };
        for error in [Error::transient("its coordinator is away"), Error::failed("its coordinator is away")] {
            let mut left = group();
            left.answered(Err(error));
            assert!(left.is_left() && left.why.contains("its coordinator is away"), "{left:?}");
        }
        let mut deleted = group();
        deleted.answered(Ok(()));
        assert_eq!(deleted.action, Action::Deleted);
    }
}
