//! The snapshots of a place: `snapshots/<id>`, sealed JSON, each created if absent and never overwritten.
//!
//! Crash: an object is there whole or not at all. Retries are the store's own. Cancel: a call that is dropped may have
//! created its object or not.

use std::cmp::Reverse;

use serde::Serialize;

use super::{Snapshot, id};
use crate::archive::layout;
use crate::config::value::shown_path;
use crate::error::{Error, Kind, Result};
use crate::groups::script::quoted;
use crate::restore::state::Process;
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

/// A snapshot, as listed; its JSON is stable.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Its name.
    pub id: String,
    /// When it was taken.
    pub created_at: Option<String>,
    /// How many groups it has.
    pub groups: Option<usize>,
    /// How many offsets; absent ones do not count.
    pub offsets: Option<usize>,
    /// What it was taken for.
    pub description: Option<String>,
    /// The cluster; `None` where it has no id.
    pub cluster_id: Option<String>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Summary {
    /// Sums up a snapshot as its place lists it.
    pub fn of(listed: &Listed) -> Self {
        let snapshot = listed.snapshot.as_ref();
        Self {
            id: listed.id.clone(),
            created_at: snapshot.map(|snapshot| snapshot.created_at.clone()).ok(),
            groups: snapshot.map(|snapshot| snapshot.groups.len()).ok(),
            offsets: snapshot.map(|snapshot| snapshot.offsets()).ok(),
            description: snapshot.map(|snapshot| snapshot.description.clone()).ok(),
            cluster_id: snapshot.ok().and_then(|snapshot| snapshot.cluster_id.clone()),
            error: snapshot.err().map(Error::to_string),
        }
    }
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
        let process = Process::this();
        for number in 1..=MOST {
            let (id, process) = (id::of(&snapshot.created_at, number), process.clone());
            let named = Snapshot { id, process, ..snapshot.clone() };
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
        self.newest(usize::MAX).await
    }

    /// As [`list`](Self::list), of the newest, at most so many.
    ///
    /// # Errors
    /// As the store's.
    pub async fn newest(&self, limit: usize) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        for id in self.ids().await?.into_iter().take(limit) {
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

#[cfg(test)]
mod tests {
    use super::super::tests::snapshot;
    use super::*;

    fn place(name: &str) -> Snapshots {
        Snapshots::open(&format!("memory://{name}"), Some("b")).expect("memory")
    }

    #[tokio::test]
    async fn two_within_a_second_have_names_of_their_own_and_the_newest_comes_first() {
        let snapshots = place("snapshots-twice");
        let (first, other) = (snapshot("one"), snapshot("other"));
        let ids = [&first, &other, &other].map(|snapshot| snapshots.create(snapshot));
        let mut names = Vec::new();
        for id in ids {
            names.push(id.await.expect("kept").id);
        }
        let name = id::of(&first.created_at, 1);
        assert_eq!(names, [name.clone(), format!("{name}-2"), format!("{name}-3")]);
        let listed: Vec<_> = snapshots.list().await.expect("listed").into_iter().map(|listed| listed.id).collect();
        assert_eq!(listed, [format!("{name}-3"), format!("{name}-2"), name.clone()]);
        assert_eq!(snapshots.read(&name).await.expect("there").description, "one");
    }

    #[tokio::test]
    async fn a_damaged_one_is_listed_as_such_and_can_be_deleted() {
        let snapshots = place("snapshots-damaged");
        let kept = snapshots.create(&snapshot("one")).await.expect("kept");
        let bad = format!("{}-2", kept.id);
        let mut bytes = Snapshot { id: bad.clone(), ..kept.clone() }.encode().to_vec();
        bytes[20] ^= 1;
        let _ = snapshots.store.create(&format!("{FOLDER}{bad}"), bytes.into()).await.expect("created");
        let _ = snapshots.store.create("snapshots/notes.txt", "mine".into()).await.expect("created");
        let listed = snapshots.list().await.expect("listed");
        assert_eq!((listed.len(), listed[0].id.as_str()), (2, bad.as_str()));
        assert_eq!(listed[0].snapshot.as_ref().map_err(Error::exit_code).expect_err("damaged"), 4);
        assert_eq!(snapshots.read(&bad).await.expect_err("damaged").exit_code(), 4);
        snapshots.delete(&bad).await.expect("gone");
        assert_eq!(snapshots.ids().await.expect("listed"), [kept.id]);
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_told_with_those_that_are() {
        let snapshots = place("snapshots-missing");
        let missing = "snapshot-20200101-000000";
        let error = snapshots.read(missing).await.expect_err("none");
        assert!(error.exit_code() == 10 && error.to_string().contains("no snapshot there at all"), "{error}");
        let kept = snapshots.create(&snapshot("one")).await.expect("kept");
        for error in [snapshots.read(missing).await.map(drop), snapshots.delete(missing).await] {
            let error = error.expect_err("none");
            assert!(error.exit_code() == 10 && error.to_string().contains(&kept.id), "{error}");
        }
        assert_eq!(snapshots.read("../backup.json").await.expect_err("no id").exit_code(), 2);
    }

    #[test]
    fn the_undo_line_names_the_place_as_a_shell_reads_it() {
        let snapshots = Snapshots::open("/my data", Some("b")).expect("a folder");
        let line = snapshots.undo("snapshot-20241203-100000", "--bootstrap-servers k:9092");
        assert_eq!(
            line,
            "undo with: kafka-backup offset-rollback rollback --path '/my data' --backup-id b \
             --snapshot-id snapshot-20241203-100000 --bootstrap-servers k:9092"
        );
    }
}
