//! What others have made: the newest savepoint, and the one that a slot has already.
//!
//! **Order in time.** Each savepoint is named later than the one it follows, whatever the clock says. One that lies
//! farther in the future than clocks may be apart is there because a clock was wrong, this one or another's: it stands
//! for no slot, and savepoints go on behind it by milliseconds until the clock has passed it. To wait for that would be a
//! backup without savepoints for as long as the clock was wrong.

use std::sync::Arc;

use super::plan::Newest;
use super::{Maker, Name};
use crate::archive::Archive;
use crate::archive::savepoint::State;
use crate::error::{Error, Result};
use crate::record::Timestamp;

/// How far the clocks of agents may be apart: a savepoint whose name lies farther in the future is none of this slot.
const SKEW_MS: i64 = 60_000;

impl Maker {
    /// Looks for savepoints of others: takes the newest one over that the next one follows, and returns the one that
    /// stands for the slot `name` already, where it is one.
    pub(super) async fn look(&mut self, archive: &Archive, name: Name, is_slot: bool) -> Result<Option<Name>> {
        let horizon = horizon(name);
        let names = match self.looked {
            // From a moment that lies in the future on, what is there is newer than anything before.
            Some(looked) if looked > horizon => archive.savepoints_of_hours(looked, looked).await?,
            Some(looked) => archive.savepoints_of_hours(looked.min(name), horizon).await?,
            None => archive.savepoints().await?,
        };
        let known = self.newest.as_ref().map(|newest| newest.name);
        let newest = names.last().copied().max(known);
        let ahead = newest.filter(|newest| *newest > horizon);
        self.tell_ahead(ahead);
        let before = names.iter().copied().rfind(|other| *other < name || !is_slot && *other <= horizon);
        let standing = names.iter().copied().rfind(|other| is_slot && (name..=horizon).contains(other));
        let standing = standing.filter(|_| ahead.is_none());
        if let Some(newest) = ahead.or(standing).max(before)
            && known.is_none_or(|known| known < newest)
        {
            // What is known stays known when it cannot be read now: without it the next one would seem to be the first.
            let loaded = Newest::load(archive, newest, self.newest.clone()).await?;
            if loaded.state.is_none() && self.readable.is_none() {
                self.readable = readable_before(archive, newest).await?;
            }
            self.newest = Some(loaded);
        }
        if let Some(state) = self.newest.as_ref().and_then(|newest| newest.state.clone()) {
            self.readable = Some(state);
        }
        self.looked = Some(newest.map_or(name, |newest| newest.max(name)));
        Ok(standing)
    }

    /// Returns the name under which one is made that is wanted at `name`: that, or the first one behind the newest.
    pub(super) fn name_behind_newest(&self, name: Name) -> Result<Name> {
        let Some(newest) = self.newest.as_ref().map(|newest| newest.name).filter(|newest| *newest >= name) else {
            return Ok(name);
        };
        let behind = newest.later();
        if behind > newest {
            return Ok(behind);
        }
        Err(Error::failed(format!("no savepoint can come behind {newest}, which has the last name there is"))
            .hint("it was made with a wrong clock: move it out of the backup, if nothing follows it"))
    }

    /// Logs that the newest savepoint lies in the future, when that has changed.
    fn tell_ahead(&mut self, ahead: Option<Name>) {
        if let Some(newest) = ahead.filter(|_| !self.is_behind) {
            tracing::warn!(
                pipeline = self.pipeline.name,
                "the newest savepoint, {newest}, lies in the future by this clock: those that follow are named behind \
                 it until the clock has passed it; is the clock right?"
            );
        }
        self.is_behind = ahead.is_some();
    }
}

/// How many savepoints before one that cannot be read are tried: a few may be damaged together, a day of them is another
/// matter.
const TRIED: usize = 32;

/// Returns what the newest savepoint before `name` says that can be read.
async fn readable_before(archive: &Archive, name: Name) -> Result<Option<Arc<State>>> {
    let names = archive.savepoints().await?;
    for name in names.into_iter().rev().filter(|other| *other < name).take(TRIED) {
        match archive.resolved_savepoint(name).await {
            Ok(Some((_, state))) => return Ok(Some(Arc::new(state))),
            Ok(None) => {}
            Err(error) if error.is_unreadable() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Returns the newest savepoint not before `name` and not too far in the future.
pub(super) async fn newer(archive: &Archive, name: Name) -> Result<Option<Name>> {
    let horizon = horizon(name);
    let names = archive.savepoints_of_hours(name, horizon).await?;
    Ok(names.into_iter().rfind(|other| (name..=horizon).contains(other)))
}

/// Returns the last name that may be of the present, or `name` where that is later.
fn horizon(name: Name) -> Name {
    Name::at(Timestamp(Timestamp::now().0 + SKEW_MS)).max(name)
}
