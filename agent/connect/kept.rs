//! What is kept of connectors in `agent.state_dir` beyond the process: what each is to do, and how those are configured
//! that were made over HTTP, with `${…}` as it was sent. It is one file, `connectors.json`, which only its owner may read.
//!
//! Order of durable effects: a new file is written beside the old one and synced, takes its place by one rename, and the
//! folder is synced; only then is a connector told, made or removed. Killed in between, the next start finds the old file or
//! the new one, whole: what had been asked for holds, or does not, and whoever asked had no answer. What is left of a file
//! that was being written is written over by the next one.
//!
//! One process at a time: it holds a lock on `lock` for as long as it lives. Retry: none; who asked hears what failed.
//! Without a folder nothing is kept.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Flat;
use super::state::Target;
use crate::crash;
use crate::error::{Error, Result};

/// The name of the file, and that of the one which is being written.
const FILE: &str = "connectors.json";
const NEW: &str = "connectors.json.new";

/// The version of the file's format.
const FORMAT: u32 = 1;

/// What is kept of a connector.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// What it is to do.
    #[serde(rename = "target_state")]
    pub(super) target: Target,
    /// How it is configured, as it was sent; `None` for a pipeline of the file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) config: Option<Flat>,
}

/// What is kept of all connectors.
#[derive(Debug)]
pub(super) struct Kept {
    /// Where it is kept.
    place: Option<Place>,
    /// By name, those of which there is something to keep.
    entries: BTreeMap<String, Entry>,
    /// Whether the file says what `entries` do: after a failure nobody knows what a rename did.
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
    connectors: BTreeMap<String, Entry>,
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
            return Ok(Self { place: None, entries: BTreeMap::new(), is_certain: true });
        };
        let lock = lock(folder)?;
        let file = folder.join(FILE);
        let entries = match fs::read(&file) {
            Ok(bytes) => read(&file, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Error::failed(format!("cannot read {}", file.display())).source(error)),
        };
        let place = Some(Place { folder: folder.to_owned(), _lock: lock });
        Ok(Self { place, entries, is_certain: true })
    }

    /// Returns whether anything is kept beyond the process.
    pub(super) fn lasts(&self) -> bool {
        self.place.is_some()
    }

    /// Returns what is kept of the connector.
    pub(super) fn entry(&self, name: &str) -> Entry {
        self.entries.get(name).cloned().unwrap_or_default()
    }

    /// Returns the connectors that were made over HTTP: their names, and how they are configured.
    pub(super) fn made(&self) -> Vec<(String, Flat)> {
        let made = self.entries.iter().filter_map(|(name, entry)| Some((name.clone(), entry.config.clone()?)));
        made.collect()
    }

    /// Forgets what the file has come to say otherwise: what a pipeline was to do that is there no more, and how a connector
    /// was made whose name a pipeline of the file has now. Returns the names of both. Until it is [`settled`](Self::settle) the
    /// next start would remember them.
    pub(super) fn forget(&mut self, is_of_file: impl Fn(&str) -> bool) -> (Vec<String>, Vec<String>) {
        let gone = self.entries.iter().filter(|(name, entry)| entry.config.is_none() && !is_of_file(name));
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        self.entries.retain(|name, _| !gone.contains(name));
        let mut taken = Vec::new();
        for (name, entry) in self.entries.iter_mut().filter(|(name, _)| is_of_file(name)) {
            if entry.config.take().is_some() {
                taken.push(name.clone());
            }
        }
        self.entries.retain(|_, entry| *entry != Entry::default());
        self.is_certain &= gone.is_empty() && taken.is_empty();
        (gone, taken)
    }

    /// Has the file say what holds, if it may not; when it returns, what was forgotten is so beyond the process. It blocks.
    ///
    /// # Errors
    /// When that could not be kept. The next change keeps it too.
    pub(super) fn settle(&mut self) -> Result<()> {
        if self.is_certain { Ok(()) } else { self.write(&self.entries.clone(), "*") }
    }

    /// Keeps what is to be kept of the connector, nothing if that is what holds anyway; when it returns, that holds beyond
    /// the process. It blocks.
    ///
    /// # Errors
    /// When it could not be kept. What holds at the next start is then not certain.
    pub(super) fn put(&mut self, name: &str, entry: Entry) -> Result<()> {
        if self.is_certain && self.entry(name) == entry {
            return Ok(());
        }
        let mut entries = self.entries.clone();
        match entry == Entry::default() {
            true => drop(entries.remove(name)),
            false => drop(entries.insert(name.to_owned(), entry)),
        }
        self.write(&entries, name).map_err(|error| {
            error.hint("nothing is changed now; what holds at the next start is not certain until it is asked again")
        })?;
        self.entries = entries;
        crash::point("connectors-kept", &name);
        Ok(())
    }

    fn write(&mut self, entries: &BTreeMap<String, Entry>, subject: &str) -> Result<()> {
        self.is_certain = false;
        if let Some(place) = &self.place {
            write(&place.folder, entries, subject).map_err(|error| {
                Error::failed(format!("cannot write {}", place.folder.join(FILE).display())).source(error)
            })?;
        }
        self.is_certain = true;
        Ok(())
    }
}

/// Makes the folder where there is none, and takes its lock.
fn lock(folder: &Path) -> Result<File> {
    let wrong = |error: std::io::Error| {
        Error::usage(format!("agent.state_dir: cannot write to {}", folder.display())).source(error)
    };
    // A new one is for this user alone, as what is kept in it is.
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(wrong)?;
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

fn read(file: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Entry>> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |error: serde_json::Error| {
        Error::damaged(format!("cannot read {}", file.display())).source(error).hint(
            "remove it, and every pipeline of the file runs; pause again what shall not, and make again what was made",
        )
    };
    // What a newer one has besides, nobody here knows.
    if serde_json::from_slice::<Format>(bytes).map_err(damaged)?.format > FORMAT {
        return Err(Error::newer(&file.display().to_string()));
    }
    let stored: Stored = serde_json::from_slice(bytes).map_err(damaged)?;
    Ok(stored.connectors.into_iter().filter(|(_, entry)| *entry != Entry::default()).collect())
}

fn write(folder: &Path, entries: &BTreeMap<String, Entry>, name: &str) -> std::io::Result<()> {
    let stored = Stored { format: FORMAT, connectors: entries.clone() };
    let new = folder.join(NEW);
    // A configuration may hold a secret. What another process left there may have been made with other rights.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
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

    fn rests(target: Target) -> Entry {
        Entry { target, config: None }
    }

    fn made(target: Target) -> Entry {
        let config = serde_json::json!({ "sink.path": "${ARCHIVE}", "topics": "orders" });
        Entry { target, config: config.as_object().cloned() }
    }

    #[test]
    fn what_is_kept_holds_for_the_next_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("deep/state");
        let mut kept = Kept::open(Some(&state)).expect("made");
        kept.put("orders", rests(Target::Paused)).expect("kept");
        kept.put("payments", rests(Target::Stopped)).expect("kept");
        drop(kept);
        let mut kept = Kept::open(Some(&state)).expect("read");
        let targets = ["orders", "payments", "other"].map(|name| kept.entry(name).target);
        assert_eq!(targets, [Target::Paused, Target::Stopped, Target::Started]);
        kept.put("orders", Entry::default()).expect("kept");
        drop(kept);
        assert_eq!(Kept::open(Some(&state)).expect("read").entry("orders").target, Target::Started);
    }

    #[test]
    fn what_was_made_is_kept_as_it_was_sent_and_only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let mut kept = Kept::open(Some(&state)).expect("made");
        kept.put("a", made(Target::Started)).expect("kept");
        kept.put("b", made(Target::Paused)).expect("kept");
        kept.put("b", Entry::default()).expect("removed");
        let rights = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((rights(&state.join(FILE)), rights(&state)), (0o600, 0o700));
        drop(kept);
        let kept = Kept::open(Some(&state)).expect("read");
        assert_eq!(kept.made(), [("a".to_owned(), made(Target::Started).config.expect("it has one"))]);
    }

    #[test]
    fn what_the_file_says_otherwise_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut kept = Kept::open(Some(folder.path())).expect("made");
        for (name, entry) in [
            ("orders", rests(Target::Paused)),
            ("gone", rests(Target::Paused)),
            ("mine", made(Target::Started)),
            ("taken", made(Target::Started)),
            ("taken-paused", made(Target::Paused)),
        ] {
            kept.put(name, entry).expect("kept");
        }
        let (gone, taken) = kept.forget(|name| name == "orders" || name.starts_with("taken"));
        assert_eq!((gone, taken), (vec!["gone".to_owned()], vec!["taken".to_owned(), "taken-paused".to_owned()]));
        assert_eq!((kept.entry("gone"), kept.entry("taken")), (Entry::default(), Entry::default()));
        assert_eq!(kept.entry("taken-paused"), rests(Target::Paused), "what it is to do holds");
        assert_eq!((kept.entry("orders"), kept.entry("mine")), (rests(Target::Paused), made(Target::Started)));
    }

    #[test]
    fn what_was_forgotten_is_so_at_the_next_start_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let next = || {
            let kept = Kept::open(Some(folder.path())).expect("read");
            (kept.entry("gone"), kept.entry("taken"))
        };
        for settles in [true, false] {
            let mut kept = Kept::open(Some(folder.path())).expect("made");
            kept.put("gone", rests(Target::Paused)).expect("kept");
            kept.put("taken", made(Target::Started)).expect("kept");
            let _ = kept.forget(|name| name == "taken");
            match settles {
                true => kept.settle().expect("kept"),
                // To resume what is thought to run already is an order all the same.
                false => kept.put("gone", Entry::default()).expect("kept"),
            }
            drop(kept);
            assert_eq!(next(), (Entry::default(), Entry::default()), "{settles}");
        }
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
        let error = kept.put("orders", rests(Target::Paused)).expect_err("in the way");
        assert!(error.to_string().contains("connectors.json"), "{error}");
        assert_eq!(kept.entry("orders").target, Target::Started);
        fs::remove_dir(state.join(NEW)).expect("out of the way");
        kept.put("orders", Entry::default()).expect("written, although nothing seems to change");
        assert!(state.join(FILE).exists());
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let mut kept = Kept::open(None).expect("nothing to open");
        kept.put("orders", rests(Target::Paused)).expect("remembered");
        assert_eq!(kept.entry("orders").target, Target::Paused);
    }
}
