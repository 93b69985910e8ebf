//! The savepoints of a backup: which there are, one of them, a new one.
//!
//! Names are moments, so that a look for the newest ones needs only the hour's. An object is created whole or not at
//! all, and only if there was none of its name: of several agents one makes a slot's.

use bytes::Bytes;

use super::{Name, Savepoint, State};
use crate::archive::{Archive, layout};
use crate::error::{Error, Result};
use crate::store::{Creation, Listed};

/// How many hours are listed one by one. An agent that was off for a month, or whose clock began in 1970, lists what there
/// is instead: half a million requests for hours that have nothing would keep it for a day. Twice as many would be slower
/// than the whole listing of most backups (a thousand names in one request).
const MOST_HOURS: i64 = 48;

impl Archive {
    /// Returns the names of all savepoints, oldest first; what else lies there is not ours to judge.
    pub async fn savepoints(&self) -> Result<Vec<Name>> {
        Ok(names(self.store().list(layout::SAVEPOINTS).await?))
    }

    /// Returns the names of the savepoints of the hours from that of `first` to that of `last`, oldest first, and perhaps
    /// of later ones: what an agent asks every time must not grow with the backup's age.
    pub async fn savepoints_of_hours(&self, first: Name, last: Name) -> Result<Vec<Name>> {
        if last.hours_since(first) > MOST_HOURS {
            let folder = layout::SAVEPOINTS;
            let listed = match self.store().list_after(folder, &first.hour_prefix()).await? {
                Some(listed) => listed,
                None => self.store().list(folder).await?,
            };
            let found = names(listed).into_iter();
            return Ok(found.filter(|name| *name >= first || name.same_hour(first)).collect());
        }
        let (mut hour, mut found) = (first, Vec::new());
        loop {
            found.extend(names(self.store().list_from(layout::SAVEPOINTS, &hour.hour_prefix()).await?));
            if hour >= last || hour.same_hour(last) {
                return Ok(found);
            }
            hour = hour.next_hour();
        }
    }

    /// Reads one savepoint as its object says it; `None` where there is none.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when it cannot be read.
    pub async fn savepoint(&self, name: Name) -> Result<Option<Savepoint>> {
        let Some(bytes) = self.store().read(&layout::savepoint(name)).await? else { return Ok(None) };
        let told = Savepoint::decode(name, &bytes);
        told.map(Some).map_err(|error| error.with("object", self.store().describe(&layout::savepoint(name))))
    }

    /// Reads one savepoint and, if it is a delta, the full one that it names; returns it with the state it stands for.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when either cannot be read, or the full one is missing.
    pub async fn resolved_savepoint(&self, name: Name) -> Result<Option<(Savepoint, State)>> {
        let Some(savepoint) = self.savepoint(name).await? else { return Ok(None) };
        let full = match savepoint.full {
            Some(full) => Some(self.savepoint(full).await?.ok_or_else(|| {
                Error::damaged(format!("savepoint {name} differs from {full}, which is missing"))
                    .with("missing", self.store().describe(&layout::savepoint(full)))
            })?),
            None => None,
        };
        let state = savepoint.resolve(full.as_ref())?;
        Ok(Some((savepoint, state)))
    }

    /// Creates the savepoint of that name, if there is none.
    ///
    /// # Errors
    /// After an error it is unknown whether it is there: ask.
    pub async fn create_savepoint(&self, name: Name, bytes: Bytes) -> Result<Creation> {
        self.store().create(&layout::savepoint(name), bytes).await
    }
}

fn names(listed: Vec<Listed>) -> Vec<Name> {
    let mut names: Vec<Name> =
        listed.iter().filter(|entry| !entry.is_folder).filter_map(|entry| entry.name.parse().ok()).collect();
    names.sort_unstable();
    names
}
