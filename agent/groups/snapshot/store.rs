//! The snapshots of a place: `snapshots/<id>`, sealed JSON, each created if absent and never overwritten.
//!
//! Crash: an object is there whole or not at all. Retries are the store's own. Cancel: a call that is dropped may have
//! created its object or not.

use std::cmp::Reverse;

use super::{Snapshot, id};
use crate::archive::layout;
use crate::config::value::shown_path;
use crate::error::{Error, Kind, Result};
use crate::store::{Creation, Store};

const FOLDER: &str = layout::SNAPSHOTS;

/// Snapshots within one second, at most: who takes more than that is a loop gone wrong.
const MOST: u32 = 1000;

/// The snapshots of a place. Clones share it.
#[derive(Clone)]
pub struct Snapshots {
    /// Rooted where `snapshots/` is.
    store: Store,
    /// The place as the command line has it, without secrets.
    path: String,
    backup_id: Option<String>,
}

/// A snapshot, as its place lists it.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub id: String,
    /// What it says, or why it cannot be read.
    pub snapshot: Result<Snapshot>,
}

impl Snapshots {
    /// Opens the snapshots at `path`, a folder or a URL: those below `<path>/snapshots/`, or of a backup, below
    /// `<path>/<backup-id>/snapshots/`. Nothing need be there yet, and nothing is made.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(path: &str, backup_id: Option<&str>) -> Result<Self> {
        let root = Store::open(path)?;
        let store = match backup_id {
            Some(backup_id) => root.within(backup_id),
            None => root,
        };
        Ok(Self { store, path: shown_path(path), backup_id: backup_id.map(str::to_owned) })
    }

    /// Opens the snapshots of a backup, in whose folder `store` is rooted.
    pub fn of(store: &Store) -> Self {
        let path = store.describe("");
        Self { store: store.clone(), path: path.trim_end_matches('/').to_owned(), backup_id: None }
    }

    /// Returns where a snapshot, or with an empty name where they all lie, for people.
    pub fn describe(&self, id: &str) -> String {
        self.store.describe(&format!("{FOLDER}{id}"))
    }

    /// Keeps a snapshot, whose name is made of when it was taken; returns it with its name, durable.
    ///
    /// # Errors
    /// As the store's; after an error it is unknown whether it is there.
    pub async fn create(&self, snapshot: &Snapshot) -> Result<Snapshot> {
        self.store.prepare().await?;
        for number in 1..=MOST {
            let named = Snapshot { id: id::of(&snapshot.created_at, number), ..snapshot.clone() };
            let (key, bytes) = (format!("{FOLDER}{}", named.id), named.encode());
            if self.store.create(&key, bytes.clone()).await? == Creation::Created {
                return Ok(named);
            }
            // A request that was repeated meets its own object; all others of this second are somebody else's.
            if self.store.read(&key).await?.is_some_and(|held| held == bytes) {
                self.store.settle(FOLDER).await?;
                return Ok(named);
            }
        }
        Err(Error::failed(format!("{MOST} snapshots were taken within one second")).with("folder", self.describe("")))
    }

    /// Returns the names of all snapshots, the newest first; what else lies there is not ours to judge.
    pub async fn ids(&self) -> Result<Vec<String>> {
        let listed = self.store.list(FOLDER).await?.into_iter().filter(|entry| !entry.is_folder);
        let mut ids: Vec<_> = listed.filter_map(|entry| Some((id::parse(&entry.name)?, entry.name))).collect();
        ids.sort_unstable_by_key(|(order, _)| Reverse(*order));
        Ok(ids.into_iter().map(|(_, id)| id).collect())
    }

    /// Reads all snapshots, the newest first. One that cannot be read is told in its place.
    ///
    /// # Errors
    /// As the store's.
    pub async fn list(&self) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        for id in self.ids().await? {
            match self.held(&id).await {
                Ok(Some(snapshot)) => all.push(Listed { id, snapshot: Ok(snapshot) }),
                // Somebody has deleted it meanwhile.
                Ok(None) => {}
                Err(error) if error.is_unreadable() => all.push(Listed { id, snapshot: Err(error) }),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// [`Kind::NoBackup`], which names those that there are, when it is not there; [`Kind::Damaged`] when it cannot be read.
    pub async fn read(&self, id: &str) -> Result<Snapshot> {
        match self.held(id).await? {
            Some(snapshot) => Ok(snapshot),
            None => Err(self.missing(id).await?),
        }
    }

    /// Deletes a snapshot, also one that cannot be read.
    ///
    /// # Errors
    /// [`Kind::NoBackup`] when it is not there.
    pub async fn delete(&self, id: &str) -> Result<()> {
        self.find(id).await?;
        self.store.delete(&format!("{FOLDER}{id}")).await
    }

    /// Makes sure that there is a snapshot of this name.
    ///
    /// # Errors
    /// [`Kind::NoBackup`], which names those that there are, when it is not there.
    pub async fn find(&self, id: &str) -> Result<()> {
        id::check(id).map_err(Error::usage)?;
        match self.store.exists(&format!("{FOLDER}{id}")).await? {
            true => Ok(()),
            false => Err(self.missing(id).await?),
        }
    }

    /// Returns the line that says how to bring back what was kept; `cluster` is how the command line names the cluster.
    pub fn undo(&self, id: &str, cluster: &str) -> String {
        let backup_id = self.backup_id.as_ref().map(|id| format!(" --backup-id {}", quoted(id))).unwrap_or_default();
        let path = quoted(&self.path);
        format!(
            "undo with: kafka-backup offset-rollback rollback --path {path}{backup_id} --snapshot-id {id} {cluster}"
        )
    }

    async fn held(&self, id: &str) -> Result<Option<Snapshot>> {
        id::check(id).map_err(Error::usage)?;
        let Some(bytes) = self.store.read(&format!("{FOLDER}{id}")).await? else { return Ok(None) };
        Snapshot::decode(id, &bytes).map(Some).map_err(|error| error.with("object", self.describe(id)))
    }

    async fn missing(&self, id: &str) -> Result<Error> {
        let there = self.ids().await?;
        Ok(Error::new(Kind::NoBackup, format!("there is no snapshot `{id}`"))
            .with("looked in", self.describe(""))
            .hint(match there.len() {
                0 => "there is no snapshot there at all".to_owned(),
                1..=20 => format!("there is: {}", there.join(", ")),
                more => format!("there are {more}, as {}", there[..3].join(", ")),
            }))
    }
}

/// Returns a word as a POSIX shell reads it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,=@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
