//! A restore taken back: the consumer groups that it has put back, put to where they stood before; the topics that it made, deleted.
//! What of that may be done is [`restoring::undo`](crate::groups::restoring::undo)'s and [`undo`](crate::restore::undo)'s.
//!
//! Order: that the restore is undone, where groups are to be put back; what they have now, kept, and said how to come back to
//! it; the groups; the topics. Deleting a topic deletes what groups have committed for it: whether one has moved on could not be
//! told any more.

use crate::error::{Error, Result};
use crate::groups::restoring::undo::{GroupFate, Undoing};
use crate::groups::snapshot::Snapshots;
use crate::kafka::client::Client;
use crate::restore::state::State;
use crate::restore::undo::{Accept, Fates, Group, Undo};

/// What became of all that a restore has made and set, or would become.
#[derive(Debug)]
pub struct Outcome {
    /// Its topics.
    pub fates: Fates,
    /// Its groups.
    pub undoing: Undoing,
}

/// Says what would be put back and deleted, and changes nothing.
///
/// # Errors
/// As [`Undo::plan`] and [`Undoing::look`].
pub async fn preview(client: &Client, state: &State, accept: &[Accept]) -> Result<Outcome> {
    let fates = Undo { client, state, accept }.plan().await?;
    Ok(Outcome { fates, undoing: Undoing::look(client, state).await? })
}

/// Puts back and deletes. What groups have now is kept in `snapshots` first; `kept` is told under which id, before anything is
/// changed.
///
/// # Errors
/// As [`Undo::perform`] and [`Undoing::perform`].
pub async fn undo(
    client: &Client,
    state: &State,
    accept: &[Accept],
    snapshots: &Snapshots,
    kept: impl FnOnce(&str),
) -> Result<Outcome> {
    let Outcome { fates, mut undoing } = preview(client, state, accept).await?;
    let undo = Undo { client, state, accept };
    if undoing.is_begun() {
        undo.mark(&fates.topics).await?;
        undoing.perform(client, snapshots, kept).await?;
    }
    Ok(Outcome { fates: undo.perform().await?, undoing })
}

impl Outcome {
    /// Refuses to call it undone where something that the restore made or set is left, or with `dry_run` would be.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed), which names what is left.
    pub fn verdict(&self, dry_run: bool) -> Result<()> {
        let (fates, groups) = (&self.fates, &self.undoing.groups);
        let was_not = if dry_run { "would not be" } else { "was not" };
        if let Some(GroupFate { group, why, .. }) = groups.iter().find(|group| group.is_left) {
            return Err(Error::failed(format!(
                "group \"{group}\", which the restore has set, {was_not} put back: {why}"
            )));
        }
        let left: Vec<_> = fates.topics.iter().filter(|fate| fate.is_left()).collect();
        let Some(first) = left.first() else {
            return match fates.group.as_ref().filter(|group| group.is_left()) {
                None => Ok(()),
                Some(Group { group, why, .. }) => Err(Error::failed(format!(
                    "group \"{group}\", to which the restore has committed, {was_not} deleted: {why}"
                ))),
            };
        };
        let others = match (left.len(), dry_run) {
            (1, _) => String::new(),
            (more, false) => format!("; nor were {} more", more - 1),
            (more, true) => format!("; nor would {} more", more - 1),
        };
        // No attempt names it: another restore may have made it.
        let made = if first.is_unsent { "may have made" } else { "made" };
        Err(Error::failed(format!(
            "topic \"{}\", which the restore {made}, {was_not} deleted: {}{others}",
            first.topic, first.why
        )))
    }
}
