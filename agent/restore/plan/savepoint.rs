//! The savepoint that a restore is cut at.

use crate::archive::Archive;
use crate::archive::savepoint::{Archived, End, Name, State, Topic};
use crate::config::Restore;
use crate::error::{Error, Result};
use crate::record::{Partition, Timestamp};

/// The savepoint of a cut.
pub(super) struct Savepoint {
    pub(super) name: Name,
    pub(super) taken_at: Timestamp,
    state: State,
    /// What the one before it says; `None` where there is none that can be read.
    before: Option<State>,
}

impl Savepoint {
    /// Finds the one that is asked for, if one is.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage), which names the newest, when there is none of that name or time.
    pub(super) async fn find(restore: &Restore, archive: &Archive) -> Result<Option<Self>> {
        let Some(wanted) = &restore.source.savepoint else { return Ok(None) };
        let held = archive.savepoints().await?;
        let none = || {
            let newest = held.iter().max().map_or("none".to_owned(), Name::to_string);
            Error::usage(format!("there is no savepoint `{wanted}`"))
                .hint(format!("the newest is {newest}; `savepoints` lists all"))
        };
        let name = match wanted.parse::<Name>() {
            Ok(name) => held.iter().copied().find(|held| *held == name).ok_or_else(none)?,
            Err(_) => {
                let time: Timestamp = wanted.parse().map_err(|_| none())?;
                held.iter().copied().filter(|name| name.time() <= time).max().ok_or_else(none)?
            }
        };
        let (savepoint, state) = archive.resolved_savepoint(name).await?.ok_or_else(none)?;
        let taken_at = savepoint.taken_at.parse().unwrap_or_else(|_| name.time());
        let before = match savepoint.previous {
            Some(previous) => archive.resolved_savepoint(previous).await,
            None => Ok(None),
        };
        let before = match before {
            Ok(before) => before.map(|(_, state)| state),
            Err(error) if error.is_unreadable() => None,
            Err(error) => return Err(error),
        };
        Ok(Some(Self { name, taken_at, state, before }))
    }

    /// Returns where a partition ended; `None` where the savepoint does not say.
    pub(super) fn end_of(&self, partition: &Partition) -> Option<&End> {
        end_in(&self.state, partition)
    }

    /// Returns of which chain what was durable when this savepoint was made, and up to where. What is archived is decided,
    /// and the one before was finished before the ends of this one were asked for: no transaction was in flight there.
    pub(super) fn decided_of(&self, partition: &Partition) -> Option<&Archived> {
        end_in(self.before.as_ref()?, partition)?.archived.as_ref()
    }

    /// Returns the topics whose ends it says.
    pub(super) fn topics(&self) -> &[Topic<End>] {
        &self.state.topics
    }

    /// Returns whether a topic's ends could not be read then.
    pub(super) fn is_unread(&self, topic: &str) -> bool {
        self.state.topics_unread.iter().any(|unread| *unread.topic == *topic)
    }
}

fn end_in<'a>(state: &'a State, partition: &Partition) -> Option<&'a End> {
    let id = partition.topic_id.to_string();
    let topic = state.topics.iter().find(|topic| *topic.topic == *partition.topic && topic.topic_id == id)?;
    topic.partitions.iter().find(|end| end.partition == partition.index)
}
