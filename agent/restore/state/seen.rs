//! A restore as it lies there: which objects it has, and the newest of each that can be read.

use serde::Serialize;

use super::objects::Owned;
use super::{Attempt, Cancelled, Done, Journal, Name, Plan, State, Undone};
use crate::archive::source::side_by_side;
use crate::error::{Error, Result};
use crate::restore::map::OffsetMap;

/// Journals that are read at a time: a long restore has thousands of them, and a store answers in tens of milliseconds.
const SIDE_BY_SIDE: usize = 8;

/// How far a restore has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing was sent yet.
    Planned,
    /// A process has begun. Whether it still runs, or none does, nothing here tells.
    Running,
    /// It is finished.
    Done,
    /// Somebody wanted it to end before all of it had landed.
    Cancelled,
    /// What it made is deleted, or is being deleted.
    Undone,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Planned => "planned",
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Undone => "undone",
        })
    }
}

/// A restore as it lies there.
#[derive(Debug, Default)]
pub struct Seen {
    /// All names, in order.
    pub names: Vec<Name>,
    /// The numbers of the attempts, in order.
    pub attempts: Vec<u32>,
    /// The numbers of the journals, in order.
    pub journals: Vec<u32>,
    /// Names that nothing explains; folders with a slash at their end.
    pub strange: Vec<String>,
    /// The plan.
    pub plan: Option<Plan>,
    /// The newest attempt that can be read.
    pub attempt: Option<Attempt>,
    /// The newest journal that can be read: of the newest attempt, or, where that has none, of those before.
    pub journal: Option<Journal>,
    /// That it is finished.
    pub done: Option<Done>,
    /// That it shall end.
    pub cancelled: Option<Cancelled>,
    /// That what it made is deleted.
    pub undone: Option<Undone>,
    /// Those that cannot be read, each with its object.
    pub damaged: Vec<Error>,
}

impl Seen {
    /// Returns how far it has come, as the names say.
    pub fn phase(&self) -> Phase {
        let has = |name| self.names.contains(&name);
        match self.attempts.is_empty() {
            _ if has(Name::Undone) => Phase::Undone,
            _ if has(Name::Done) => Phase::Done,
            // Of one that has landed there is nothing to cancel: whoever starts it ends it.
            _ if has(Name::Cancelled) && !self.has_landed() => Phase::Cancelled,
            false => Phase::Running,
            true => Phase::Planned,
        }
    }

    /// Returns whether all of it is in the targets: nothing is sent any more, and it lacks at most its last word.
    pub fn has_landed(&self) -> bool {
        self.names.contains(&Name::Map)
    }

    /// Returns whether what a journal says is so, as far as the objects tell: that of a transaction is, when a later one of
    /// its attempt was begun, or a later attempt does not call it void.
    fn is_valid(&self, journal: &Journal) -> bool {
        let Some(attempt) = self.attempt.as_ref().filter(|_| journal.is_transactional) else { return true };
        match journal.attempt == attempt.number {
            true => self.journals.last() != Some(&journal.number),
            false => journal.number < attempt.first_journal && !attempt.void.contains(&journal.number),
        }
    }

    /// Returns the journal behind which the newest attempt goes on; `None` where that has none.
    pub fn resumed_from(&self) -> Option<&Journal> {
        let attempt = self.attempt.as_ref()?.number;
        self.journal.as_ref().filter(|journal| journal.attempt == attempt)
    }
}

impl State {
    /// Looks at the restore; one that is not there has no names.
    ///
    /// # Errors
    /// Those of the store. What cannot be read is named, not an error.
    pub async fn look(&self) -> Result<Seen> {
        let (names, strange) = self.names().await?;
        let mut seen = Seen { strange, ..Seen::default() };
        seen.attempts = names.iter().filter_map(Name::attempt).collect();
        seen.journals = names.iter().filter_map(Name::journal).collect();
        seen.names = names;
        seen.plan = self.listed(&mut seen, Name::Plan).await?;
        for n in seen.attempts.clone().into_iter().rev() {
            seen.attempt = self.listed(&mut seen, Name::Attempt(n)).await?;
            if seen.attempt.is_some() {
                break;
            }
        }
        self.newest_journal(&mut seen).await?;
        seen.done = self.listed(&mut seen, Name::Done).await?;
        seen.cancelled = self.listed(&mut seen, Name::Cancelled).await?;
        seen.undone = self.listed(&mut seen, Name::Undone).await?;
        Ok(seen)
    }

    /// Lists the restore's names, in order, and those that nothing explains.
    pub(super) async fn names(&self) -> Result<(Vec<Name>, Vec<String>)> {
        let (mut names, mut strange) = (Vec::new(), Vec::new());
        for entry in self.store.list(&self.folder()).await? {
            match Name::parse(&entry.name).filter(|_| !entry.is_folder) {
                Some(name) => names.push(name),
                None => strange.push(format!("{}{}", entry.name, if entry.is_folder { "/" } else { "" })),
            }
        }
        names.sort_unstable();
        Ok((names, strange))
    }

    /// Reads an object that was listed; `None` where it was not, or cannot be read, which is noted.
    async fn listed<T: Owned>(&self, seen: &mut Seen, name: Name) -> Result<Option<T>> {
        if !seen.names.contains(&name) {
            return Ok(None);
        }
        match self.read(name).await {
            Err(error) if error.is_unreadable() => {
                seen.damaged.push(error);
                Ok(None)
            }
            read => read,
        }
    }

    async fn newest_journal(&self, seen: &mut Seen) -> Result<()> {
        let newest = seen.attempt.as_ref().map(|attempt| (attempt.number, attempt.first_journal));
        for n in seen.journals.clone().into_iter().rev() {
            // A journal behind these may be of an older attempt that had not heard yet that it was fenced.
            if newest.is_some_and(|(_, first)| n < first) && seen.journal.is_some() {
                break;
            }
            let Some(journal) = self.listed::<Journal>(seen, Name::Journal(n)).await? else { continue };
            let is_newest = newest.is_none_or(|(attempt, _)| journal.attempt >= attempt);
            if is_newest || seen.journal.as_ref().is_none_or(|held| held.attempt < journal.attempt) {
                seen.journal = Some(journal);
            }
            if is_newest {
                break;
            }
        }
        Ok(())
    }

    /// Returns the offset map as far as the restore has kept it: its object, or what the journals say together. `None`
    /// where there is neither.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when any of these cannot be read, is missing, or contradicts
    /// another: a map without it would call records absent that were restored.
    pub async fn offset_map(&self, seen: &Seen) -> Result<Option<OffsetMap>> {
        if let Some(bytes) = self.store.read(&self.key(Name::Map)).await? {
            return self.decode_map(&bytes, seen.done.as_ref()).map(Some);
        }
        let Some(&last) = seen.journals.last() else { return Ok(None) };
        let mut journals = self.journals_to(last).await?;
        journals.retain(|journal| seen.is_valid(journal));
        self.map_of(&journals).map(Some)
    }

    /// Reads all journals up to the last one, in the order of what they say.
    ///
    /// # Errors
    /// As [`offset_map`](Self::offset_map).
    pub(in crate::restore) async fn journals_to(&self, last: u32) -> Result<Vec<Journal>> {
        let read = side_by_side::each(0..=last, SIDE_BY_SIDE, |n| {
            let state = self.clone();
            async move { state.journal(n).await?.ok_or_else(|| state.missing(Name::Journal(n))) }
        });
        let mut journals = read.await?.into_iter().collect::<Result<Vec<_>>>()?;
        // What an older attempt wrote late lies before what the younger one has found.
        journals.sort_by_key(|journal| (journal.attempt, journal.number));
        Ok(journals)
    }

    /// Returns what journals say together.
    ///
    /// # Errors
    /// As [`offset_map`](Self::offset_map).
    pub(in crate::restore) fn map_of(&self, journals: &[Journal]) -> Result<OffsetMap> {
        let mut map = OffsetMap::default();
        for journal in journals {
            let name = Name::Journal(journal.number);
            let piece = journal.map().map_err(|error| self.unreadable(name, error))?;
            let contradicts = |error: Error| self.unreadable(name, Error::damaged(error.to_string()));
            map.absorb(&piece).map_err(contradicts)?;
        }
        Ok(map)
    }
}
