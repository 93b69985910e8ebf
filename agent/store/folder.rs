//! Objects as files of a folder: created whole or not at all, only where there is none, durable when said so.
//!
//! **Order of durable effects:** bytes into a temporary file → fsync → hard link to the name (fails where the name is
//! taken) → fsync of the folder. A crash before the link leaves a temporary file, after it a whole object (and, until
//! the temporary name is removed, a second name of it).
//!
//! Large files are written past the page cache (O_DIRECT): a backup reads nothing of what it wrote, a broker on the
//! same machine needs that cache, and the kernel's work for a byte falls to a fraction. Where a file system does not
//! support it, files are written the ordinary way.

use std::fs::{File, OpenOptions};
use std::io::{Error as IoError, ErrorKind, Result as IoResult};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use nix::fcntl::OFlag;

use super::{Creation, Listed, blocking};
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::frames::Frames;

/// The folder of temporary files, below a store's root; no reader looks into it.
const TEMPORARY: &str = ".tmp";

/// Age after which a temporary file is a dead agent's. A living agent's is never older than its `roll_interval`.
const TEMPORARY_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Bytes are staged up to this size, then written at once. Half of it doubles the writes, double of it doubles the
/// memory of an open segment and is no faster.
const STAGE_BYTES: usize = 1024 * 1024;

/// A first stage: an open segment of a trickling partition costs no more than what it holds.
const STAGE_BYTES_FIRST: usize = 16 * 1024;

/// What O_DIRECT wants buffers, lengths and positions aligned to; enough for every disk in use.
const ALIGNMENT: usize = 4096;

/// A temporary file on its way to a name. Dropped, it leaves nothing.
pub(super) struct LocalFile {
    root: Arc<Path>,
    target: PathBuf,
    stage: Stage,
    /// Made with the first bytes that are written to it.
    temporary: Option<Temporary>,
    synced: bool,
}

impl LocalFile {
    /// Plans a file that becomes `target`; nothing is made yet.
    pub(super) fn new(root: Arc<Path>, target: PathBuf) -> Self {
        Self { root, target, stage: Stage::default(), temporary: None, synced: false }
    }

    /// Appends `bytes`.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        debug_assert!(!self.synced, "a file is written before it is synced");
        while !bytes.is_empty() {
            bytes = self.stage.fill(bytes);
            if self.stage.length == STAGE_BYTES {
                self.put(false).await?;
            }
        }
        Ok(())
    }

    /// Returns the bytes that are staged in memory.
    pub(super) fn held_bytes(&self) -> usize {
        self.stage.length
    }

    /// Writes what is staged and makes the file durable; nothing can be written after it.
    pub(super) async fn sync(&mut self) -> Result<()> {
        if self.synced {
            return Ok(());
        }
        self.put(true).await?;
        self.synced = true;
        Ok(())
    }

    /// Links the file to its name; `place` is the name for people.
    pub(super) async fn link(mut self, place: String) -> Result<Creation> {
        self.sync().await?;
        let Self { root, temporary, target, .. } = self;
        let temporary = temporary.expect("a synced file is there");
        blocking(move || {
            let folder = target.parent().expect("a key has a folder");
            create_folder(&root, folder).map_err(failed("cannot make the folder"))?;
            match std::fs::hard_link(&temporary.path, &target) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Creation::Exists),
                Err(error) => return Err(failed("cannot link")(error)),
            }
            crash::point(linked_point(&target), &place);
            sync_folder(folder).map_err(failed("cannot make the folder durable"))?;
            Ok(Creation::Created)
        })
        .await
    }

    /// Writes the stage to the file, off the runtime's threads; the last time, makes it durable.
    async fn put(&mut self, last: bool) -> Result<()> {
        let root = self.root.clone();
        let mut stage = std::mem::take(&mut self.stage);
        let temporary = self.temporary.take();
        let (temporary, stage) = blocking(move || {
            let mut temporary = match temporary {
                Some(temporary) => temporary,
                None => Temporary::create(&root, !last).map_err(failed("cannot create a temporary file"))?,
            };
            temporary.append(&mut stage).map_err(failed("cannot write"))?;
            if last {
                temporary.file.sync_all().map_err(failed("cannot make durable"))?;
            }
            Ok((temporary, stage))
        })
        .await?;
        self.temporary = Some(temporary);
        if !last {
            self.stage = stage;
        }
        Ok(())
    }
}

/// A file under a name that no other process and no other call uses.
struct Temporary {
    path: PathBuf,
    file: File,
    written: u64,
    direct: bool,
}

impl Temporary {
    fn create(root: &Path, direct: bool) -> IoResult<Self> {
        static INSTANCE: LazyLock<String> = LazyLock::new(|| uuid::Uuid::new_v4().simple().to_string());
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = root.join(TEMPORARY).join(format!("{}-{number}", *INSTANCE));
        let (file, direct) = match open(&path, direct) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Never the root itself: where that is gone, the archive is.
                match std::fs::create_dir(root.join(TEMPORARY)) {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                    _ => open(&path, direct)?,
                }
            }
            other => other?,
        };
        Ok(Self { path, file, written: 0, direct })
    }

    /// Appends the stage and empties it. A direct write is padded to whole blocks, and the file cut to its length.
    fn append(&mut self, stage: &mut Stage) -> IoResult<()> {
        if self.direct {
            match self.file.write_all_at(stage.padded(), self.written) {
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    // The disk wants a larger alignment than ours: go on without.
                    self.file = OpenOptions::new().write(true).open(&self.path)?;
                    self.direct = false;
                }
                other => other?,
            }
        }
        if !self.direct {
            self.file.write_all_at(stage.bytes(), self.written)?;
        }
        self.written += stage.length as u64;
        if self.direct && !stage.length.is_multiple_of(ALIGNMENT) {
            self.file.set_len(self.written)?;
        }
        stage.length = 0;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Left behind, it is cleared a day later; after a link it is only a second name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Memory whose bytes begin at a multiple of [`ALIGNMENT`].
#[derive(Default)]
struct Stage {
    memory: Vec<u8>,
    /// Where the aligned part begins.
    offset: usize,
    length: usize,
}

impl Stage {
    /// Takes bytes from the front of `bytes` until the stage is full; returns the rest.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let wanted = (self.length + bytes.len()).min(STAGE_BYTES);
        self.reserve(wanted);
        let (taken, rest) = bytes.split_at(wanted - self.length);
        let at = self.offset + self.length;
        self.memory[at..at + taken.len()].copy_from_slice(taken);
        self.length = wanted;
        rest
    }

    fn reserve(&mut self, wanted: usize) {
        let capacity = self.memory.len().saturating_sub(ALIGNMENT);
        if capacity >= wanted {
            return;
        }
        let capacity = wanted.next_power_of_two().max(STAGE_BYTES_FIRST);
        let memory = vec![0; capacity + ALIGNMENT];
        let offset = memory.as_ptr().align_offset(ALIGNMENT);
        let old = std::mem::replace(&mut self.memory, memory);
        let from = std::mem::replace(&mut self.offset, offset);
        self.memory[offset..offset + self.length].copy_from_slice(&old[from..from + self.length]);
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.offset..self.offset + self.length]
    }

    /// Returns the bytes with zeros up to a whole block.
    fn padded(&mut self) -> &[u8] {
        let padded = self.length.next_multiple_of(ALIGNMENT);
        let from = self.offset;
        if padded > 0 {
            self.memory[from + self.length..from + padded].fill(0);
        }
        &self.memory[from..from + padded]
    }
}

/// Makes the folder of temporary files, sees that files can be made in it, and clears a dead agent's.
pub(super) fn prepare(root: &Path) -> Result<()> {
    let folder = root.join(TEMPORARY);
    let probed = std::fs::create_dir_all(&folder).and_then(|()| Temporary::create(root, false));
    let probed = probed.map_err(failed("cannot create a file"))?;
    // The commit is a hard link; some network and removable file systems have none.
    let link = probed.path.with_extension("link");
    std::fs::hard_link(&probed.path, &link)
        .and_then(|()| std::fs::remove_file(&link))
        .map_err(failed("the file system has no hard links"))?;
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > TEMPORARY_KEPT)) {
            // What cannot be removed now is tried at the next start.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Lists what in a folder has a name that begins with `start`; a folder that is not there is empty.
pub(super) fn list(path: &Path, start: &str) -> Result<Vec<Listed>> {
    list_where(path, |name| name.starts_with(start))
}

/// Lists what in a folder has a name greater than `after`.
pub(super) fn list_after(path: &Path, after: &str) -> Result<Vec<Listed>> {
    list_where(path, |name| name > after)
}

/// Lists what in a folder has a name that is `asked` for; a folder that is not there is empty.
fn list_where(path: &Path, asked: impl Fn(&str) -> bool) -> Result<Vec<Listed>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("cannot list"))?,
    };
    let mut listed = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("cannot list"))?;
        // Before the call for its metadata: a folder of a thousand may have one of that name.
        let Some(name) = entry.file_name().into_string().ok().filter(|name| asked(name)) else { continue };
        // Links are followed: a topic may lie on another disk.
        let metadata = match std::fs::metadata(entry.path()) {
            // It went between the two calls; a link to nothing is an error, not nothing.
            Err(error) if error.kind() == ErrorKind::NotFound && !entry.path().is_symlink() => continue,
            other => other.map_err(failed("cannot list"))?,
        };
        if name != TEMPORARY {
            let size_bytes = if metadata.is_dir() { 0 } else { metadata.len() };
            listed.push(Listed { name, size_bytes, is_folder: metadata.is_dir() });
        }
    }
    Ok(listed)
}

/// Makes durable which names there are in a folder.
pub(super) fn settle(path: &Path) -> Result<()> {
    sync_folder(path).map_err(failed("cannot make the folder durable"))
}

/// Returns whether there is something of that name.
pub(super) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(failed("cannot look for"))
}

/// Deletes a file, durably; one that is not there is none.
pub(super) fn delete(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("cannot delete")(error)),
    }
    let folder = path.parent().expect("a key has a folder");
    sync_folder(folder).map_err(failed("cannot make the folder durable"))
}

/// Reads a file; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<Bytes>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("cannot read")(error)),
    }
}

/// Reads the bytes `range` of a file, fewer where it ends before.
pub(super) fn read_range(path: &Path, range: Range<u64>, frames: &Frames) -> Result<Bytes> {
    let read = || {
        let file = File::open(path)?;
        let there = file.metadata()?.len();
        let length = range.end.min(there).saturating_sub(range.start) as usize;
        let mut frame = frames.take(length);
        let (bytes, mut done) = (frame.bytes_mut(), 0);
        while done < length {
            match file.read_at(&mut bytes[done..], range.start + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(frame.freeze().slice(..done))
    };
    read().map_err(failed("cannot read"))
}

/// Opens a new file, past the page cache if `direct` and if the file system can.
fn open(path: &Path, direct: bool) -> IoResult<(File, bool)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    if direct {
        match options.clone().custom_flags(OFlag::O_DIRECT.bits()).open(path) {
            // Some file systems make the file before they refuse the flag.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                let _ = std::fs::remove_file(path);
            }
            other => return other.map(|file| (file, true)),
        }
    }
    options.open(path).map(|file| (file, false))
}

fn linked_point(target: &Path) -> &'static str {
    match target.extension().and_then(|extension| extension.to_str()) {
        Some("log") => "log-linked",
        Some("index") => "sidecar-linked",
        None if is_catalog(target) => "catalog-linked",
        _ => "object-linked",
    }
}

fn is_catalog(target: &Path) -> bool {
    let of_level = target.parent().and_then(Path::parent);
    of_level.is_some_and(|folder| folder.ends_with("catalog"))
}

/// Makes a folder below `root` and those between, each name durable in its parent; the root itself is never made: where
/// that is gone, the archive is.
fn create_folder(root: &Path, folder: &Path) -> IoResult<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|_| folder != root).ok_or(ErrorKind::NotFound)?;
    create_folder(root, parent)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(parent),
    }
}

fn sync_folder(folder: &Path) -> IoResult<()> {
    File::open(folder)?.sync_all()
}

fn failed(what: &'static str) -> impl FnOnce(IoError) -> Error {
    move |error| {
        let kind = match error.kind() {
            // The agent tries these again too; a one-shot command need not wait for somebody to act.
            ErrorKind::Unsupported
            | ErrorKind::InvalidInput
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem => Kind::Failed,
            // Space is made while we run, disks come back: it may pass.
            _ => Kind::Transient,
        };
        Error::new(kind, what).source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_of_any_length_holds_what_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        for length in [0, 1, ALIGNMENT, STAGE_BYTES - 1, STAGE_BYTES, STAGE_BYTES + 1, 3 * STAGE_BYTES + 5000] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let target = folder.path().join(format!("{length}"));
            let mut file = LocalFile::new(folder.path().into(), target.clone());
            for chunk in bytes.chunks(300_001) {
                file.write(chunk).await.expect("written");
            }
            assert_eq!(file.link(String::new()).await.expect("linked"), Creation::Created);
            assert_eq!(std::fs::read(&target).expect("read"), bytes, "{length}");
        }
        assert_eq!(std::fs::read_dir(folder.path().join(TEMPORARY)).expect("listed").count(), 0);
    }

    #[test]
    fn a_stage_grows_with_what_it_holds() {
        let mut stage = Stage::default();
        assert!(stage.fill(&[1; 100]).is_empty());
        assert_eq!(stage.memory.len(), STAGE_BYTES_FIRST + ALIGNMENT);
        assert_eq!(stage.fill(&[2; STAGE_BYTES]).len(), 100);
        assert_eq!((stage.bytes()[99], stage.bytes()[100], stage.length), (1, 2, STAGE_BYTES));
    }
}
