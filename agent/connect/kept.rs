//! What connectors are to do, kept in `agent.state_dir` beyond the process: `connectors.json`.
//!
//! Order of durable effects: a new file is written beside the old one and synced, takes its place by one rename, and the
//! folder is synced; only then is a connector told. Killed in between, the next start finds the old file or the new one,
//! whole: what had been asked for holds, or does not, and whoever asked had no answer. What is left of a file that was
//! being written is written over by the next one.
//!
//! One process at a time: it holds a lock on `lock` for as long as it lives. Retry: none; who asked hears what failed.
//! Without a folder nothing is kept.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state::Target;
use crate::crash;
use crate::error::{Error, Result};

/// The name of the file, and that of the one which is being written.
const FILE: &str = "connectors.json";
const NEW: &str = "connectors.json.new";

/// The version of the file's format.
const FORMAT: u32 = 1;

/// What connectors are to do.
#[derive(Debug)]
pub(super) struct Kept {
    /// Where it is kept.
    place: Option<Place>,
    /// Those that do not run, by name.
    targets: BTreeMap<String, Target>,
    /// Whether the file says what `targets` do: after a failure nobody knows what a rename did.
    is_certain: bool,
}

#[derive(Debug)]
struct Place {
    folder: PathBuf,
    /// Held until it is dropped.
    _lock: File,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    #[serde(default)]
    connectors: BTreeMap<String, StoredConnector>,
}

#[derive(Serialize, Deserialize)]
struct StoredConnector {
    target_state: Target,
}

impl Kept {
    /// Reads what is kept in `folder`, which is made where there is none; `None`: nothing is kept.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) where another agent has the folder, or it cannot be one;
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) where the file cannot be read: to run what was paused may be the
    /// wrong thing.
    pub(super) fn open(folder: Option<&Path>) -> Result<Self> {
        let Some(folder) = folder else {
            return Ok(Self { place: None, targets: BTreeMap::new(), is_certain: true });
        };
        let lock = lock(folder)?;
        let file = folder.join(FILE);
        let targets = match fs::read(&file) {
            Ok(bytes) => read(&file, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Error::failed(format!("cannot read {}", file.display())).source(error)),
        };
        let place = Some(Place { folder: folder.to_owned(), _lock: lock });
        Ok(Self { place, targets, is_certain: true })
    }

    /// Returns what the connector is to do.
    pub(super) fn target(&self, name: &str) -> Target {
        self.targets.get(name).copied().unwrap_or_default()
    }

    /// Forgets connectors that there are no more, and returns their names; the file forgets them when it is next written.
    pub(super) fn forget_but(&mut self, is_there: impl Fn(&str) -> bool) -> Vec<String> {
        let gone: Vec<_> = self.targets.keys().filter(|name| !is_there(name)).cloned().collect();
        self.targets.retain(|name, _| is_there(name));
        gone
    }

    /// Keeps what the connector is to do; when it returns, that holds beyond the process. It blocks.
    ///
    /// # Errors
    /// When it could not be kept. What holds at the next start is then not certain.
    pub(super) fn put(&mut self, name: &str, target: Target) -> Result<()> {
        if self.is_certain && self.target(name) == target {
            return Ok(());
        }
        let mut targets = self.targets.clone();
        match target {
            Target::Started => drop(targets.remove(name)),
            target => drop(targets.insert(name.to_owned(), target)),
        }
        if let Some(place) = &self.place {
            self.is_certain = false;
            write(&place.folder, &targets, name).map_err(|error| {
                Error::failed(format!("cannot write {}", place.folder.join(FILE).display()))
                    .source(error)
                    .hint("nothing is changed now; what holds at the next start is not certain until it is asked again")
            })?;
            self.is_certain = true;
        }
        self.targets = targets;
        Ok(())
    }
}

/// Makes the folder where there is none, and takes its lock.
fn lock(folder: &Path) -> Result<File> {
    let wrong = |error: std::io::Error| {
        Error::usage(format!("agent.state_dir: cannot write to {}", folder.display())).source(error)
    };
    fs::create_dir_all(folder).map_err(wrong)?;
    // Its own name is to last as what is put into it.
    if let Some(parent) = folder.canonicalize().map_err(wrong)?.parent() {
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(wrong)?;
    }
    let lock = File::create(folder.join("lock")).map_err(wrong)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(Error::usage(format!("agent.state_dir: another agent has {}", folder.display()))
                .hint("give each agent a folder of its own"))
        }
        Err(TryLockError::Error(error)) => Err(wrong(error)),
    }
}

fn read(file: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Target>> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |error: serde_json::Error| {
        Error::damaged(format!("cannot read {}", file.display()))
            .source(error)
            .hint("remove it, and every pipeline runs; pause again what shall not")
    };
    // What a newer one has besides, nobody here knows.
    if serde_json::from_slice::<Format>(bytes).map_err(damaged)?.format > FORMAT {
        return Err(Error::newer(&file.display().to_string()));
    }
    let stored: Stored = serde_json::from_slice(bytes).map_err(damaged)?;
    let targets = stored.connectors.into_iter().map(|(name, connector)| (name, connector.target_state));
    Ok(targets.filter(|(_, target)| *target != Target::Started).collect())
}

fn write(folder: &Path, targets: &BTreeMap<String, Target>, name: &str) -> std::io::Result<()> {
    let connectors = targets.iter().map(|(name, target)| (name.clone(), StoredConnector { target_state: *target }));
    let stored = Stored { format: FORMAT, connectors: connectors.collect() };
    let new = folder.join(NEW);
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec_pretty(&stored)?)?;
    crash::point("connectors-written", &name);
    file.sync_all()?;
    crash::point("connectors-synced", &name);
    fs::rename(&new, folder.join(FILE))?;
    crash::point("connectors-renamed", &name);
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn what_is_kept_holds_for_the_next_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("deep/state");
        let mut kept = Kept::open(Some(&state)).expect("made");
        kept.put("orders", Target::Paused).expect("kept");
        kept.put("payments", Target::Stopped).expect("kept");
        drop(kept);
        let mut kept = Kept::open(Some(&state)).expect("read");
        let targets = ["orders", "payments", "other"].map(|name| kept.target(name));
        assert_eq!(targets, [Target::Paused, Target::Stopped, Target::Started]);
        kept.put("orders", Target::Started).expect("kept");
        drop(kept);
        assert_eq!(Kept::open(Some(&state)).expect("read").target("orders"), Target::Started);
    }

    #[test]
    fn connectors_that_are_gone_are_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut kept = Kept::open(Some(folder.path())).expect("made");
        kept.put("orders", Target::Paused).expect("kept");
        kept.put("gone", Target::Paused).expect("kept");
        assert_eq!(kept.forget_but(|name| name == "orders"), ["gone"]);
        assert_eq!((kept.target("orders"), kept.target("gone")), (Target::Paused, Target::Started));
    }

    #[test]
    fn a_folder_is_one_agents() {
        let folder = tempfile::tempdir().expect("a folder");
        let _first = Kept::open(Some(folder.path())).expect("made");
        let error = Kept::open(Some(folder.path())).expect_err("it has one");
        assert!(error.kind() == Kind::Usage && error.to_string().contains("another agent has"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_taken_for_none() {
        let folder = tempfile::tempdir().expect("a folder");
        for (text, kind) in [
            ("{\"format\": 1, \"connectors\": {\"orders\": {\"target_state\": \"PAU", Kind::Damaged),
            ("{\"format\": 1, \"connectors\": {\"orders\": {\"target_state\": \"ASLEEP\"}}}", Kind::Damaged),
            ("{\"format\": 2, \"plans\": []}", Kind::Newer),
        ] {
            fs::write(folder.path().join(FILE), text).expect("written");
            assert_eq!(Kept::open(Some(folder.path())).expect_err(text).kind(), kind);
        }
    }

    #[test]
    fn what_could_not_be_kept_is_not_taken_for_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let mut kept = Kept::open(Some(&state)).expect("made");
        fs::create_dir(state.join(NEW)).expect("a folder in the way");
        let error = kept.put("orders", Target::Paused).expect_err("in the way");
        assert!(error.to_string().contains("connectors.json"), "{error}");
        assert_eq!(kept.target("orders"), Target::Started);
        fs::remove_dir(state.join(NEW)).expect("out of the way");
        kept.put("orders", Target::Started).expect("written, although nothing seems to change");
        assert!(state.join(FILE).exists());
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let mut kept = Kept::open(None).expect("nothing to open");
        kept.put("orders", Target::Paused).expect("remembered");
        assert_eq!(kept.target("orders"), Target::Paused);
    }
}
