//! A look at every object of a restore, for `verify`.

use super::objects::digest;
use super::{Attempt, Cancelled, Done, Groups, GroupsDone, Name, Plan, State, Undone};
use crate::archive::source::side_by_side;
use crate::error::{Error, Result};
use crate::restore::map::OffsetMap;

/// Objects that are read at a time.
const SIDE_BY_SIDE: usize = 8;

/// What is wrong with a restore's objects.
#[derive(Debug, Default)]
pub struct Audit {
    /// Names that nothing explains; folders with a slash at their end.
    pub strange: Vec<String>,
    /// Those that are missing or cannot be read, in order, each with why.
    pub wrong: Vec<(Name, Error)>,
}

impl State {
    /// Reads every object of the restore.
    ///
    /// # Errors
    /// Those of the store while it lists; what cannot be read is told.
    pub async fn audit(&self) -> Result<Audit> {
        let (names, strange) = self.names().await?;
        let of = |number: fn(&Name) -> Option<u32>| names.iter().filter_map(number).max();
        let (attempts, journals, groups) = (of(Name::attempt), of(Name::journal), of(Name::groups));
        // Those that are missing among the numbered ones, too.
        let mut wanted: Vec<_> = names.iter().copied().filter(|name| name.number().is_none()).collect();
        wanted.extend((0..attempts.map_or(0, |last| last + 1)).map(Name::Attempt));
        wanted.extend((0..journals.map_or(0, |last| last + 1)).map(Name::Journal));
        wanted.extend((0..groups.map_or(0, |last| last + 1)).map(Name::Groups));
        wanted.sort_unstable();
        let looked = side_by_side::each(wanted, SIDE_BY_SIDE, |name| {
            let state = self.clone();
            async move { (name, state.look_at(name).await) }
        });
        let wrong = looked.await?.into_iter().filter_map(|(name, looked)| Some((name, looked.err()?))).collect();
        Ok(Audit { strange, wrong })
    }

    async fn look_at(&self, name: Name) -> Result<()> {
        let is_there = match name {
            Name::Plan => self.read::<Plan>(name).await?.is_some(),
            Name::Attempt(_) => self.read::<Attempt>(name).await?.is_some(),
            Name::Journal(n) => match self.journal(n).await? {
                Some(journal) => journal.map().map(|_| true).map_err(|error| self.unreadable(name, error))?,
                None => false,
            },
            Name::Map => self.look_at_map().await?,
            Name::Done => self.read::<Done>(name).await?.is_some(),
            Name::Cancelled => self.read::<Cancelled>(name).await?.is_some(),
            Name::Undone => self.read::<Undone>(name).await?.is_some(),
            Name::Groups(_) => self.read::<Groups>(name).await?.is_some(),
            Name::GroupsDone(_) => self.read::<GroupsDone>(name).await?.is_some(),
        };
        match (is_there, name.number()) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err(self.missing(name)),
            (false, None) => Err(Error::transient("it went while we looked")),
        }
    }

    async fn look_at_map(&self) -> Result<bool> {
        let Some(bytes) = self.store.read(&self.key(Name::Map)).await? else { return Ok(false) };
        // Of one that cannot be read, what it says of the map is not known; it is looked at by itself.
        let done = self.read::<Done>(Name::Done).await.ok().flatten();
        self.decode_map(&bytes, done.as_ref()).map(|_: OffsetMap| true)
    }

    /// Returns an error for an object that others say there is.
    pub(super) fn missing(&self, name: Name) -> Error {
        self.unreadable(name, Error::damaged("it is missing, and there is one of a higher number"))
    }

    /// Reads the map, which must be the one that `done` names.
    pub(super) fn decode_map(&self, bytes: &[u8], done: Option<&Done>) -> Result<OffsetMap> {
        let map = match done.is_some_and(|done| done.map_digest != digest(bytes)) {
            true => Err(Error::damaged("it is not the one that `done` names")),
            false => OffsetMap::decode(bytes),
        };
        map.map_err(|error| self.unreadable(Name::Map, error))
    }
}
