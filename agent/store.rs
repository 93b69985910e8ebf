//! Where an archive's objects lie: a folder or any object store that OpenDAL reaches. The only file that names opendal.
//!
//! What it guarantees: an object is created whole or not at all, and only if there was none of its key
//! ([`Creation`]); what was created is durable. Nothing is ever overwritten; nothing but our own temporary files is
//! deleted.
//!
//! On a folder OpenDAL's own writer cannot give that (it is exclusive but not atomic, or atomic but not exclusive), so
//! we commit by temporary file → fsync → hard link to the name, which fails where the name is taken → fsync of the
//! folder. A crash leaves at most a temporary file under `.tmp/`; those older than a day go when an agent starts.
//! Elsewhere the store's conditional write does it; a store without one is refused.
//!
//! Retries are the caller's: only it knows from where to begin again.

mod folder;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::{Bytes, BytesMut};
use opendal::Operator;

use crate::error::{Error, Kind, Result};
use folder::LocalFile;

/// Slices below this are copied together before a remote store gets them: a smaller bound makes a write of each
/// trickled batch, a larger one copies what could be handed over as it is.
const COPY_BELOW_BYTES: usize = 64 * 1024;

/// Copied bytes are handed on at this size.
const HAND_ON_BYTES: usize = 1024 * 1024;

/// Whether an object was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Creation {
    /// It was, by this call.
    Created,
    /// There was one of that key before.
    Exists,
}

/// An object or folder in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The last part of its key, without slash.
    pub name: String,
    /// Its size in bytes; 0 for a folder.
    pub size_bytes: u64,
    /// Whether it is a folder.
    pub is_folder: bool,
}

/// What reaches the objects.
#[derive(Clone)]
enum Place {
    /// A folder of this machine; it need not be there yet.
    Folder(Arc<Path>),
    Remote(Operator),
}

/// A place that holds objects by key. Clones share it.
#[derive(Clone)]
pub struct Store {
    place: Place,
    /// Put before every key; empty or with a slash at its end.
    prefix: String,
    url: Arc<str>,
}

impl Store {
    /// Opens the store at `path`: a folder, `file:///folder`, or `memory://name` (this process's memory, by name).
    ///
    /// Nothing is created or checked yet.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a URL of a service that this build does not reach.
    pub fn open(path: &str) -> Result<Self> {
        let shown = without_secrets(path);
        let wrong = |error: opendal::Error| Error::usage(format!("cannot open the store `{shown}`")).source(error);
        let place = match path.split_once("://") {
            None => {
                let root = std::path::absolute(path)
                    .map_err(|error| Error::usage(format!("`{path}` is no folder")).source(error))?;
                Place::Folder(root.into())
            }
            Some(("file", root)) if root.starts_with('/') => Place::Folder(Path::new(root).into()),
            Some(("memory", name)) => Place::Remote(memory(name).map_err(wrong)?),
            Some((scheme, _)) => {
                return Err(Error::usage(format!("stores of type `{scheme}` are not supported"))
                    .with("path", shown)
                    .hint("use a folder, file:///folder or memory://name"));
            }
        };
        if let Place::Remote(operator) = &place
            && !operator.info().capability().write_with_if_not_exists
        {
            return Err(Error::usage(format!("the store `{shown}` cannot create an object only if it is absent"))
                .hint("without that two agents would overwrite each other; use another store"));
        }
        Ok(Self { place, prefix: String::new(), url: shown.into() })
    }

    /// Returns the part of this store below `folder`.
    pub fn within(&self, folder: &str) -> Self {
        Self { prefix: format!("{}{folder}/", self.prefix), ..self.clone() }
    }

    /// Returns the place of `key` for people.
    pub fn describe(&self, key: &str) -> String {
        format!("{}/{}{key}", self.url.trim_end_matches('/'), self.prefix)
    }

    /// Makes sure that objects can be created, and clears a dead agent's temporary files.
    ///
    /// # Errors
    /// [`Kind::Usage`] when the folder cannot be made or written.
    pub async fn prepare(&self) -> Result<()> {
        let Place::Folder(folder) = self.place.clone() else { return Ok(()) };
        let prepared = blocking(move || folder::prepare(&folder)).await;
        prepared.map_err(|error| {
            Error::usage(format!("cannot write to the folder `{}`", self.url))
                .source(error)
                .hint("make it writable for this user, or choose another path")
        })
    }

    /// Lists the objects and folders directly below `folder` (empty, or with a slash at its end), sorted by name; a
    /// folder that is not there is empty.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let key = format!("{}{folder}", self.prefix);
        let mut listed = match &self.place {
            Place::Folder(root) => {
                let path = root.join(&key);
                blocking(move || folder::list(&path)).await
            }
            Place::Remote(operator) => list_remote(operator, &key).await,
        }
        .map_err(|error| error.with("folder", self.describe(folder)))?;
        listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// Returns whether there is an object of that key.
    pub async fn exists(&self, key: &str) -> Result<bool> {
        let full_key = format!("{}{key}", self.prefix);
        let found = match &self.place {
            Place::Folder(root) => {
                let path = root.join(full_key);
                blocking(move || folder::exists(&path)).await
            }
            Place::Remote(operator) => {
                operator.exists(&full_key).await.map_err(|error| store_error("cannot look for", error))
            }
        };
        found.map_err(|error| error.with("object", self.describe(key)))
    }

    /// Reads an object; `None` when there is none.
    pub async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let full_key = format!("{}{key}", self.prefix);
        let read = match &self.place {
            Place::Folder(root) => {
                let path = root.join(full_key);
                blocking(move || folder::read(&path)).await
            }
            Place::Remote(operator) => match operator.read(&full_key).await {
                Ok(buffer) => Ok(Some(buffer.to_bytes())),
                Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(store_error("cannot read", error)),
            },
        };
        read.map_err(|error| error.with("object", self.describe(key)))
    }

    /// Reads the bytes `range` of an object, fewer where it ends before.
    pub async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let full_key = format!("{}{key}", self.prefix);
        let read = match &self.place {
            Place::Folder(root) => {
                let path = root.join(full_key);
                blocking(move || folder::read_range(&path, range)).await
            }
            Place::Remote(operator) => match operator.read_with(&full_key).range(range).await {
                Ok(buffer) => Ok(buffer.to_bytes()),
                Err(error) => Err(store_error("cannot read", error)),
            },
        };
        read.map_err(|error| error.with("object", self.describe(key)))
    }

    /// Makes durable which objects there are directly below `folder`, for one who found an object there that an
    /// interrupted call had created. Elsewhere than on a folder what can be seen is durable.
    pub async fn settle(&self, folder: &str) -> Result<()> {
        let Place::Folder(root) = &self.place else { return Ok(()) };
        let path = root.join(format!("{}{folder}", self.prefix));
        let settled = blocking(move || folder::settle(&path)).await;
        settled.map_err(|error| error.with("folder", self.describe(folder)))
    }

    /// Creates a small object, whole or not at all, if there is none of that key; it is durable when this returns.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<Creation> {
        let mut upload = self.upload(key).await?;
        upload.write(bytes).await?;
        upload.finish().await
    }

    /// Begins to upload an object of unknown size; it appears with [`Upload::finish`].
    pub async fn upload(&self, key: &str) -> Result<Upload> {
        let full_key = format!("{}{key}", self.prefix);
        let place = self.describe(key);
        let target = match &self.place {
            Place::Folder(root) => Target::Local(LocalFile::new(root.clone(), root.join(full_key))),
            Place::Remote(operator) => {
                let writer = operator.writer_with(&full_key).if_not_exists(true).await;
                let failed = |error| store_error("cannot create", error).with("object", &place);
                let writer = Box::new(writer.map_err(failed)?);
                Target::Remote(Remote { writer, pending: BytesMut::new(), written_bytes: 0 })
            }
        };
        Ok(Upload { target: Some(target), place })
    }
}

/// An object that is being written and not yet there. Dropped, it leaves nothing.
pub struct Upload {
    /// `None` once it has ended.
    target: Option<Target>,
    place: String,
}

enum Target {
    Local(LocalFile),
    Remote(Remote),
}

/// An upload through OpenDAL.
struct Remote {
    writer: Box<opendal::Writer>,
    /// Small slices, copied together, so that they do not keep whole frames in memory.
    pending: BytesMut,
    written_bytes: usize,
}

impl Upload {
    /// Appends `bytes`; some of them may stay in memory ([`held_bytes`](Self::held_bytes)).
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let wrote = match self.target.as_mut().expect("an upload is written before it ends") {
            Target::Local(file) => file.write(&bytes).await,
            Target::Remote(remote) => remote.write(bytes).await,
        };
        wrote.map_err(|error| error.with("object", &self.place))
    }

    /// Returns how many of the written bytes are in this process's memory now.
    pub fn held_bytes(&self) -> usize {
        match &self.target {
            Some(Target::Local(file)) => file.held_bytes(),
            Some(Target::Remote(remote)) => remote.written_bytes,
            None => 0,
        }
    }

    /// Makes the bytes written so far durable where that is possible before the object appears (a folder).
    pub async fn sync(&mut self) -> Result<()> {
        let synced = match self.target.as_mut().expect("an upload is synced before it ends") {
            Target::Local(file) => file.sync().await,
            Target::Remote(remote) => remote.flush().await,
        };
        synced.map_err(|error| error.with("object", &self.place))
    }

    /// Makes the object appear if there is none of its key; it is durable when this returns.
    ///
    /// # Errors
    /// After an error it is unknown whether the object is there: ask the store.
    pub async fn finish(mut self) -> Result<Creation> {
        let finished = match self.target.take().expect("an upload ends once") {
            Target::Local(file) => file.link(self.place.clone()).await,
            Target::Remote(remote) => remote.close().await,
        };
        finished.map_err(|error| error.with("object", &self.place))
    }

    /// Ends the upload without an object.
    pub async fn abort(mut self) {
        if let Some(Target::Remote(mut remote)) = self.target.take() {
            // What an unreachable store keeps of it is its own lifecycle rule's to clear.
            let _ = remote.writer.abort().await;
        }
    }
}

impl Remote {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.written_bytes += bytes.len();
        if bytes.len() < COPY_BELOW_BYTES {
            self.pending.extend_from_slice(&bytes);
            return if self.pending.len() < HAND_ON_BYTES { Ok(()) } else { self.flush().await };
        }
        self.flush().await?;
        self.hand_on(bytes).await
    }

    async fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = self.pending.split().freeze();
        self.hand_on(pending).await
    }

    async fn hand_on(&mut self, bytes: Bytes) -> Result<()> {
        self.writer.write(bytes).await.map_err(|error| store_error("cannot upload", error))
    }

    async fn close(mut self) -> Result<Creation> {
        self.flush().await?;
        match self.writer.close().await {
            Ok(_) => Ok(Creation::Created),
            Err(error) if error.kind() == opendal::ErrorKind::ConditionNotMatch => Ok(Creation::Exists),
            Err(error) => Err(store_error("cannot complete an upload", error)),
        }
    }
}

async fn list_remote(operator: &Operator, folder: &str) -> Result<Vec<Listed>> {
    let entries = operator.list(folder).await.map_err(|error| store_error("cannot list", error))?;
    Ok(entries
        .into_iter()
        .filter(|entry| entry.path() != folder)
        .map(|entry| Listed {
            name: entry.name().trim_end_matches('/').to_owned(),
            size_bytes: entry.metadata().content_length(),
            is_folder: entry.metadata().is_dir(),
        })
        .collect())
}

/// Returns this process's memory store of that name: two pipelines, or a test's writer and reader, share it.
fn memory(name: &str) -> opendal::Result<Operator> {
    static STORES: LazyLock<Mutex<HashMap<String, Operator>>> = LazyLock::new(Mutex::default);
    let mut stores = STORES.lock().expect("nobody panics while holding the map");
    if let Some(operator) = stores.get(name) {
        return Ok(operator.clone());
    }
    let operator = Operator::new(opendal::services::Memory::default())?;
    Ok(stores.entry(name.to_owned()).or_insert(operator).clone())
}

/// Runs blocking file work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::failed("file work ended early").source(error)),
    }
}

/// Returns a URL as it may be shown: without its user and its parameters, where credentials may stand.
fn without_secrets(path: &str) -> String {
    let Some((scheme, rest)) = path.split_once("://") else { return path.to_owned() };
    let place = rest.split_once('?').map_or(rest, |(place, _)| place);
    let place = place.split_once('@').map_or(place, |(_, place)| place);
    format!("{scheme}://{place}")
}

fn store_error(what: &str, error: opendal::Error) -> Error {
    let kind = match error.kind() {
        opendal::ErrorKind::Unsupported | opendal::ErrorKind::ConfigInvalid => Kind::Failed,
        _ => Kind::Transient,
    };
    Error::new(kind, what).source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of store passes the same suite.
    async fn creates_once_and_whole(store: Store) {
        store.prepare().await.expect("a writable store");
        assert_eq!(store.create("a/b/x", Bytes::from_static(b"one")).await.expect("created"), Creation::Created);
        assert_eq!(store.create("a/b/x", Bytes::from_static(b"two")).await.expect("refused"), Creation::Exists);
        assert_eq!(store.read("a/b/x").await.expect("read").as_deref(), Some(&b"one"[..]));
        assert_eq!(store.read_range("a/b/x", 1..3).await.expect("read"), &b"ne"[..]);
        assert_eq!(store.read("a/none").await.expect("read"), None);
        let mut dropped = store.upload("a/b/y").await.expect("begun");
        dropped.write(Bytes::from_static(b"half")).await.expect("written");
        drop(dropped);
        let names = |listed: Vec<Listed>| listed.into_iter().map(|entry| entry.name).collect::<Vec<_>>();
        assert_eq!(names(store.list("a/b/").await.expect("listed")), ["x"]);
        assert_eq!(names(store.list("a/").await.expect("listed")), ["b"]);
        assert!(store.list("none/").await.expect("listed").is_empty());
        assert_eq!(names(store.within("a").list("b/").await.expect("listed")), ["x"]);
    }

    #[tokio::test]
    async fn a_folder_creates_once_and_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
        creates_once_and_whole(store).await;
        assert_eq!(std::fs::read_dir(folder.path().join(".tmp")).expect("listed").count(), 0);
    }

    #[tokio::test]
    async fn memory_creates_once_and_whole() {
        creates_once_and_whole(Store::open("memory://store-suite").expect("opened")).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_32_writers_of_one_key_one_wins() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [folder.path().to_str().expect("UTF-8"), "memory://store-race"] {
            let store = Store::open(path).expect("opened");
            let writers: Vec<_> = (0..32_u8)
                .map(|n| {
                    let store = store.clone();
                    tokio::spawn(async move { (n, store.create("key", Bytes::from(vec![n; 1000])).await) })
                })
                .collect();
            let mut winners = Vec::new();
            for writer in writers {
                let (n, creation) = writer.await.expect("no panic");
                if creation.expect("an answer") == Creation::Created {
                    winners.push(n);
                }
            }
            assert_eq!(winners.len(), 1, "{path}");
            assert_eq!(store.read("key").await.expect("read").as_deref(), Some(&vec![winners[0]; 1000][..]));
        }
    }
}
