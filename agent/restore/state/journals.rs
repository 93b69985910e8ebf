//! The journals that one attempt writes, one after the other.

use super::{Held, Journal, Name, State};
use crate::archive::sealed;
use crate::error::{Error, Kind, Result};

/// The journals of one attempt.
pub struct Journals {
    state: State,
    attempt: u32,
    next: u32,
}

impl Journals {
    /// Goes on with the journals of `attempt` at the number `next`.
    pub(super) fn new(state: State, attempt: u32, next: u32) -> Self {
        Self { state, attempt, next }
    }

    /// Keeps a journal in the next free number; returns it with its numbers.
    ///
    /// # Errors
    /// [`Kind::Fenced`](crate::error::Kind::Fenced) when a younger attempt has taken that number; of an older one, which
    /// had not heard yet that it was fenced, the journal is passed over. After another error it is unknown whether the
    /// journal is kept: call again with the same one.
    pub async fn put(&mut self, journal: Journal) -> Result<Journal> {
        loop {
            let journal = journal.clone().numbered(self.next, self.attempt);
            let name = Name::Journal(self.next);
            match self.state.create(name, sealed::compact(&journal)).await? {
                Held::Ours => {
                    self.next += 1;
                    return Ok(journal);
                }
                Held::Other(bytes) => {
                    let there: Journal = self.state.decode(name, &bytes)?;
                    if there.attempt > self.attempt {
                        return Err(self.fenced_by(there.attempt).await?);
                    }
                    self.next += 1;
                }
            }
        }
    }

    async fn fenced_by(&self, attempt: u32) -> Result<Error> {
        let unknown = || {
            let what = format!("a younger process goes on with the restore `{}`", self.state.restore_id);
            Error::new(Kind::Fenced, what).with("attempt", attempt)
        };
        Ok(match self.state.attempt(attempt).await {
            Ok(attempt) => attempt.map_or_else(unknown, |attempt| self.state.fenced_by(&attempt)),
            Err(error) if error.is_unreadable() => unknown(),
            Err(error) => return Err(error),
        })
    }
}
