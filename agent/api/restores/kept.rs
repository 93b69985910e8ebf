//! What was asked for of restores that are not done, in `<agent.state_dir>/restores/`: a file each, which its owner alone may read.
//! A request stands there as it was sent, its references as they were written: no file holds what one stands for, nor where the
//! agent has found the backup.
//!
//! Order of durable effects: the file beside, synced; its name, by one rename; the folder, synced. Killed in between, the next start
//! finds the request or does not, whole. One process at a time: whoever opens this has the lock of the folder above.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::asked::Request;
use crate::config::Restore;
use crate::error::{Error, Result};

/// The version of the files' format.
const FORMAT: u32 = 1;

/// What a restore is known by: the backup, and the restore's id.
pub(in crate::api) type Key = (String, String);

/// Returns what a restore is known by.
pub(super) fn key(restore: &Restore) -> Key {
    (restore.source.backup_id.clone(), restore.id())
}

/// The folder.
pub(super) struct Kept(Option<PathBuf>);

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    backup: String,
    restore_id: String,
    restore: Request,
}

impl Kept {
    /// Keeps what is asked for below `state_dir`; `None`: nothing is kept.
    pub(super) fn new(state_dir: Option<&Path>) -> Self {
        Self(state_dir.map(|folder| folder.join("restores")))
    }

    /// Returns what is kept. What cannot be read is logged, and left alone.
    pub(super) fn read(&self) -> Vec<(Key, Request)> {
        let mut kept = Vec::new();
        for file in self.0.iter().flat_map(fs::read_dir).flatten().flatten() {
            let path = file.path();
            if path.extension().is_none_or(|of| of != "json") {
                continue;
            }
            match read(&path) {
                Ok(Stored { backup, restore_id, restore, .. }) => kept.push(((backup, restore_id), restore)),
                Err(error) => tracing::error!("{error}; the restore that was asked for there does not go on"),
            }
        }
        kept
    }

    /// Keeps what is asked for; when it returns, that holds beyond the process.
    pub(super) async fn put(&self, key: &Key, request: &Request) -> Result<()> {
        let Some(file) = self.file(key) else { return Ok(()) };
        let (backup, restore_id) = key.clone();
        let stored = Stored { format: FORMAT, backup, restore_id, restore: request.clone() };
        let failed = |error: io::Error| Error::failed("cannot keep in agent.state_dir what is asked for").source(error);
        let written = tokio::task::spawn_blocking(move || write(&file, &stored)).await;
        written
            .map_err(|error| Error::failed("keeping what is asked for ended by a defect").source(error))?
            .map_err(failed)
    }

    /// Forgets what was asked for. Where that fails, the next start finds that nothing is left to do.
    pub(super) fn remove(&self, key: &Key) {
        let Some(file) = self.file(key) else { return };
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", file.display());
            }
            _ => {}
        }
    }

    /// Returns the file of a restore. Both names are of objects, and together may be longer than a file's.
    fn file(&self, key: &Key) -> Option<PathBuf> {
        let name = xxhash_rust::xxh3::xxh3_128(format!("{}/{}", key.0, key.1).as_bytes());
        self.0.as_ref().map(|folder| folder.join(format!("{name:032x}.json")))
    }
}

fn read(file: &Path) -> Result<Stored> {
    let unreadable = || Error::damaged(format!("cannot read {}", file.display()));
    let bytes = fs::read(file).map_err(|error| unreadable().source(error))?;
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| unreadable().source(error))?;
    if stored.format > FORMAT {
        return Err(Error::newer(&file.display().to_string()));
    }
    Ok(stored)
}

fn write(file: &Path, stored: &Stored) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    if let Some(parent) = folder.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    let staged = file.with_extension("new");
    // What another process left there may have been made with other rights.
    let _ = fs::remove_file(&staged);
    let mut opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
    opened.write_all(&serde_json::to_vec_pretty(stored)?)?;
    opened.sync_all()?;
    fs::rename(&staged, file)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_found_again_until_it_is_removed_and_what_is_broken_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = Kept::new(Some(folder.path()));
        assert_eq!(kept.read(), []);
        let key = ("b".repeat(200), "r".repeat(220));
        let request: Request = [("name".to_owned(), "${env:NAME}".into())].into_iter().collect();
        kept.put(&key, &request).await.expect("kept");
        fs::write(folder.path().join("restores/broken.json"), "{").expect("written");
        assert_eq!(kept.read(), [(key.clone(), request)]);
        kept.remove(&key);
        assert_eq!(kept.read(), []);
        assert!(folder.path().join("restores/broken.json").exists());
    }
}
