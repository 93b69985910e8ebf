//! What a restore keeps: objects below `restores/<restore-id>/`, in the backup's folder or, below a folder of the
//! backup's name, in another store.
//!
//! | object | what it says |
//! |---|---|
//! | `plan` | what is to be done; whoever goes on with the restore does this, whatever the archive holds by then |
//! | `attempt-<n>` | a process has begun: its producer id and epoch, and what its first sequence stands for |
//! | `journal-<n>` | how far it has come, and what of the offset map the journal before does not have |
//! | `map` | the whole offset map |
//! | `done` | it is finished, and is never run again |
//! | `cancelled` | somebody wants it to end: looked for before anything is sent, and at each journal |
//! | `undone` | what it made is deleted ([`undo`](super::undo)): nobody goes on with it |
//! | `groups-<n>` | consumer groups are going to be put back: which, from where to where, and where the present is kept |
//! | `groups-done-<n>` | which groups of that number stand there now, and why others do not |
//!
//! None is ever overwritten: each is created if absent. Numbers rise from 0 without a gap. Of two processes that want
//! one name one wins; the other reads what is there and hears which of them is the younger ([`State::begin`],
//! [`Journals::put`]). That only tells them early: what keeps the older one from sending is Kafka's fence.
//!
//! **Order of durable effects, and what a crash after each leaves:**
//!
//! | effect | what is left | what the next start does |
//! |---|---|---|
//! | `plan` | a restore that is planned, and topics that it made | runs that plan, and takes those topics for its own |
//! | the fence in Kafka | markers in the targets; whoever was there before can send no more | fences again |
//! | `attempt-<n>` | nothing of that producer in the targets | fences; finds in the targets, from where the attempt says they ended, nothing that landed |
//! | batches | records behind the last journal | fences; reads in the targets, from where the journal says, what else landed; maps that anew |
//! | `journal-<n>` | the same, with less to read | the same |
//! | `map` | a restore that lacks its last word | finds that everything has landed, takes the map that is there, writes `done` |
//! | `done` | a finished restore | nothing |
//!
//! Where records go in transactions, each has its journal before it is committed: a crash between the two leaves a journal
//! that says of records what is not so. The progress that was committed tells the next start, whose attempt calls it void.
//!
//! Groups are put back when the restore is done ([`groups`]): a start that finds groups begun and no word of how that ended
//! looks at each of their partitions.
//!
//! `cancelled` may come at any time; a restore that is both done and cancelled is done, and one whose `map` is there goes on to
//! `done`: there is nothing to cancel any more. The records that were sent stay. `undone` comes when it is done or cancelled, or
//! has its `map`, before the first topic is deleted.
//!
//! Retries are the caller's. Cancellation: a verb that is dropped may have created its object or not; called again with
//! the same values it finds out.

mod audit;
mod groups;
mod journals;
mod listed;
mod name;
mod objects;
mod seen;

use bytes::Bytes;

use super::map::OffsetMap;
use crate::archive::{layout, sealed};
use crate::config::value::check_restore_id;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::store::{Creation, Store};
pub use audit::Audit;
pub use groups::{Groups, GroupsDone, KeptAt};
pub use journals::Journals;
pub use listed::{Listed, came_to, cancel};
pub use name::Name;
pub use objects::{
    Attempt, Cancelled, Done, Found, Journal, Landed, Outcome, Plan, Process, Start, Sum, Target, Undone, UndoneTopic,
};
use objects::{Owned, digest};
pub use seen::{Phase, Seen};

/// The objects of one restore. Clones share them.
#[derive(Clone)]
pub struct State {
    store: Store,
    restore_id: String,
}

/// Returns the ids of all restores of a backup, in order; `store` is rooted at the backup's folder.
pub async fn restores(store: &Store) -> Result<Vec<String>> {
    let listed = store.list(layout::RESTORES).await?.into_iter();
    let ids = listed.filter(|entry| entry.is_folder && check_restore_id(&entry.name).is_ok());
    Ok(ids.map(|entry| entry.name).collect())
}

impl State {
    /// Makes the state of a restore, which need not be there yet; `store` is rooted at the backup's folder.
    ///
    /// # Errors
    /// [`Kind::Usage`] for what is no restore's id.
    pub fn new(store: &Store, restore_id: &str) -> Result<Self> {
        check_restore_id(restore_id).map_err(Error::usage)?;
        Ok(Self { store: store.clone(), restore_id: restore_id.to_owned() })
    }

    /// Finds the state of a restore that is there.
    ///
    /// # Errors
    /// [`Kind::NoBackup`], which names those that there are, when it is not.
    pub async fn open(store: &Store, restore_id: &str) -> Result<Self> {
        let there = restores(store).await?;
        if there.iter().any(|id| id == restore_id) {
            return Self::new(store, restore_id);
        }
        Err(Error::new(Kind::NoBackup, format!("there is no restore `{restore_id}`"))
            .with("looked in", store.describe(layout::RESTORES))
            .hint(match there.len() {
                0 => "there is no restore of that backup at all".to_owned(),
                1..=20 => format!("there is: {}", there.join(", ")),
                more => format!("there are {more}, as {}", there[..3].join(", ")),
            }))
    }

    /// Returns the id.
    pub fn restore_id(&self) -> &str {
        &self.restore_id
    }

    /// Keeps the plan, if there is none; returns the one that holds, which may be another one that was there.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when one is there that cannot be read: no other is made, since something may run by it.
    pub async fn put_plan(&self, plan: &Plan) -> Result<(Creation, Plan)> {
        self.store.prepare().await?;
        self.keep(Name::Plan, plan).await
    }

    /// Keeps that an attempt begins, in the next number; returns it with that. Its process has fenced all others by now.
    ///
    /// # Errors
    /// [`Kind::Fenced`] when the newest attempt is of a greater epoch of the same producer: that one is the younger, and
    /// has fenced this one. Which of two producer ids is the younger, Kafka alone knows.
    pub async fn begin(&self, attempt: Attempt) -> Result<Attempt> {
        let mut existed = None;
        loop {
            let seen = self.look().await?;
            if let Some(begun) = self.begin_behind(&seen, &attempt).await? {
                return Ok(begun);
            }
            let next = seen.attempts.last().map_or(0, |n| n + 1);
            // Another process was first; its attempt is listed now, unless listings lag behind what exists.
            if existed.replace(next) == Some(next) {
                return Err(Error::transient("the store says that an attempt exists and does not list it")
                    .with("object", self.describe(Name::Attempt(next))));
            }
        }
    }

    /// As [`begin`](Self::begin), of an attempt that goes on behind all that was `seen`; `None` where another process has
    /// begun since: it is to be looked again where the restore stands.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub async fn begin_behind(&self, seen: &Seen, attempt: &Attempt) -> Result<Option<Attempt>> {
        self.store.prepare().await?;
        if let Some(newest) = seen.attempt.as_ref().filter(|newest| newest.producer_id == attempt.producer_id) {
            if (newest.epoch, &newest.process) == (attempt.epoch, &attempt.process) {
                // The answer to an earlier call was lost.
                return Ok(Some(newest.clone()));
            }
            if newest.epoch >= attempt.epoch {
                return Err(self.fenced_by(newest));
            }
        }
        let number = seen.attempts.last().map_or(0, |n| n + 1);
        // A journal that an older process writes from now on is no one that was seen.
        let first_journal = seen.journals.last().map_or(0, |n| n + 1);
        let attempt = Attempt { number, first_journal, ..attempt.clone() };
        match self.create(Name::Attempt(number), sealed::pretty(&attempt)).await? {
            Held::Ours => Ok(Some(attempt)),
            Held::Other(_) => Ok(None),
        }
    }

    /// Begins to write the journals of an attempt.
    pub async fn journals(&self, attempt: &Attempt) -> Result<Journals> {
        let next = self.look().await?.journals.last().map_or(0, |n| n + 1);
        Ok(Journals::new(self.clone(), attempt.number, next.max(attempt.first_journal)))
    }

    /// Keeps the whole offset map, if there is none; returns its digest, for [`Done`]. One that is there already was made
    /// by an attempt that had come as far.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when one is there that cannot be read.
    pub async fn put_map(&self, map: &OffsetMap) -> Result<(Creation, String)> {
        let bytes = map.encode();
        match self.create(Name::Map, bytes.clone()).await? {
            Held::Ours => Ok((Creation::Created, digest(&bytes))),
            Held::Other(bytes) => {
                let _ = OffsetMap::decode(&bytes).map_err(|error| self.unreadable(Name::Map, error))?;
                Ok((Creation::Exists, digest(&bytes)))
            }
        }
    }

    /// Keeps that the restore is finished; returns what holds.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when it was finished before and that cannot be read.
    pub async fn finish(&self, done: &Done) -> Result<(Creation, Done)> {
        self.keep(Name::Done, done).await
    }

    /// Keeps that somebody wants the restore to end; returns what holds.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when it was cancelled before and that cannot be read.
    pub async fn cancel(&self, cancelled: &Cancelled) -> Result<(Creation, Cancelled)> {
        self.store.prepare().await?;
        self.keep(Name::Cancelled, cancelled).await
    }

    /// Keeps that what the restore made is going to be deleted; returns what holds.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when that was begun before and cannot be read.
    pub async fn undo(&self, undone: &Undone) -> Result<(Creation, Undone)> {
        self.keep(Name::Undone, undone).await
    }

    /// Returns whether somebody wants the restore to end.
    pub async fn is_cancelled(&self) -> Result<bool> {
        self.store.exists(&self.key(Name::Cancelled)).await
    }

    /// Reads the plan; `None` where there is none.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when it cannot be read, [`Kind::Newer`] when a newer program wrote it.
    pub async fn plan(&self) -> Result<Option<Plan>> {
        self.read(Name::Plan).await
    }

    /// Reads an attempt.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub async fn attempt(&self, n: u32) -> Result<Option<Attempt>> {
        self.read(Name::Attempt(n)).await
    }

    /// Reads a journal.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub async fn journal(&self, n: u32) -> Result<Option<Journal>> {
        self.read(Name::Journal(n)).await
    }

    /// Returns where a name lies, for people.
    pub fn describe(&self, name: Name) -> String {
        self.store.describe(&self.key(name))
    }

    /// Creates an object if there is none of its name; returns the one that holds.
    async fn keep<T: Owned>(&self, name: Name, value: &T) -> Result<(Creation, T)> {
        match self.create(name, sealed::pretty(value)).await? {
            Held::Ours => Ok((Creation::Created, value.clone())),
            Held::Other(bytes) => Ok((Creation::Exists, self.decode(name, &bytes)?)),
        }
    }

    async fn create(&self, name: Name, bytes: Bytes) -> Result<Held> {
        let key = self.key(name);
        if self.store.create(&key, bytes.clone()).await? == Creation::Created {
            crash::point(name.crash_point(), &self.restore_id);
            return Ok(Held::Ours);
        }
        let Some(held) = self.store.read(&key).await? else {
            return Err(Error::transient("the store says that an object exists and does not give it")
                .with("object", self.store.describe(&key)));
        };
        self.store.settle(&self.folder()).await?;
        // A request that was repeated meets its own object.
        Ok(if held == bytes { Held::Ours } else { Held::Other(held) })
    }

    async fn read<T: Owned>(&self, name: Name) -> Result<Option<T>> {
        let Some(bytes) = self.store.read(&self.key(name)).await? else { return Ok(None) };
        self.decode(name, &bytes).map(Some)
    }

    fn decode<T: Owned>(&self, name: Name, bytes: &[u8]) -> Result<T> {
        let value: T = sealed::read(bytes).map_err(|error| self.unreadable(name, error))?;
        if value.owner() != (self.restore_id.as_str(), name) {
            let (restore_id, of) = value.owner();
            let error = Error::damaged(format!("it is the {of} of the restore `{restore_id}`"));
            return Err(self.unreadable(name, error));
        }
        Ok(value)
    }

    fn unreadable(&self, name: Name, error: Error) -> Error {
        Error::new(error.kind(), format!("the {name} of the restore cannot be read"))
            .with("object", self.describe(name))
            .source(error)
    }

    /// Makes the error of a process that a younger one has taken the place of.
    pub(super) fn fenced_by(&self, attempt: &Attempt) -> Error {
        Error::new(Kind::Fenced, format!("a younger process goes on with the restore `{}`", self.restore_id))
            .with("attempt", attempt.number)
            .with("begun", &attempt.started_at)
            .with("by", &attempt.process)
            .hint("this one has stopped; what it has sent is there, and is not sent again")
    }

    fn folder(&self) -> String {
        layout::restore_folder(&self.restore_id)
    }

    fn key(&self, name: Name) -> String {
        format!("{}{name}", self.folder())
    }
}

/// Whose object there is of a name.
enum Held {
    Ours,
    Other(Bytes),
}

#[cfg(test)]
pub(crate) mod tests;
