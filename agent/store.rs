//! Where an archive's objects lie: a folder or any object store that OpenDAL reaches. Only this file's children name
//! opendal: `remote` (operations, errors), `answer` (what its errors say), `location` (URLs), `multipart` (streaming
//! uploads).
//!
//! What it guarantees: an object is created whole or not at all, and only if there was none of its key
//! ([`Creation`]); what was created is durable. Nothing is ever overwritten; nothing but our own temporary files is
//! deleted, unless somebody asked for it by name ([`Store::delete`]).
//!
//! On a folder OpenDAL's own writer cannot give that (it is exclusive but not atomic, or atomic but not exclusive), so
//! we commit by temporary file → fsync → hard link to the name, which fails where the name is taken → fsync of the
//! folder. A crash leaves at most a temporary file under `.tmp/`; those older than a day go when an agent starts.
//! Elsewhere the store's conditional write does it; a store without one is refused.
//!
//! Retries are the caller's, but for a few seconds' worth inside `remote`: only the caller knows from where to begin
//! again. A conditional request that is repeated after its answer was lost meets its own object and answers
//! [`Creation::Exists`]: who gets that looks at what is there before it believes in another writer.

mod answer;
mod folder;
mod location;
mod multipart;
pub(crate) mod place;
mod remote;
mod timing;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::frames::Frames;
use folder::LocalFile;
use location::Location;
use multipart::Multipart;
use remote::Remote;
use timing::timed;

/// Whether an object was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Creation {
    /// It was, by this call.
    Created,
    /// There was one of that key before; it may be this call's own, created by a request whose answer was lost.
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
    Remote(Arc<Remote>),
}

/// Idle memory that is kept for large reads of a folder. With half, a restore of a few partitions, of which each has two
/// reads on their way, would often find none; with twice as many, more than 64 MiB
/// could lie idle where batches are large: as many times 8 MiB as pieces.
const KEPT: usize = 8;

/// A place that holds objects by key. Clones share it.
#[derive(Clone)]
pub struct Store {
    place: Place,
    /// Put before every key; empty or with a slash at its end.
    prefix: String,
    url: Arc<str>,
    /// What is read of large files of a folder.
    frames: Arc<Frames>,
}

impl Store {
    /// Opens the store at `path`: a folder, `file:///folder`, `memory://name` (this process's memory, by name), or an
    /// object store, `s3://bucket/prefix?region=…`, `gcs://…`, `azblob://…` (`docs/stores.md` has the parameters).
    ///
    /// Nothing is created or checked yet, and nothing is sent.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a URL of a service that this build does not reach, or with a
    /// parameter that it does not have.
    pub fn open(path: &str) -> Result<Self> {
        let shown = location::without_secrets(path);
        let place = match path.split_once("://") {
            None => {
                location::check_folder(path)?;
                let root = std::path::absolute(path)
                    .map_err(|error| Error::usage(format!("`{path}` is no folder")).source(error))?;
                Place::Folder(root.into())
            }
            Some((scheme @ ("file" | "memory"), rest)) if rest.contains('?') => {
                return Err(Error::usage(format!("`{scheme}` has no parameters"))
                    .with("path", shown)
                    .hint("leave out the `?` and what follows it"));
            }
            Some(("file", root)) if root.starts_with('/') => Place::Folder(Path::new(root).into()),
            Some(("memory", name)) => Place::Remote(Remote::memory(name)?.into()),
            Some((scheme, rest)) => Place::Remote(Remote::open(Location::parse(scheme, rest)?)?.into()),
        };
        Ok(Self { place, prefix: String::new(), url: shown.into(), frames: Frames::keeping(KEPT).into() })
    }

    /// Returns the part of this store below `folder`.
    pub fn within(&self, folder: &str) -> Self {
        Self { prefix: format!("{}{folder}/", self.prefix), ..self.clone() }
    }

    /// Returns whether it is this process's memory: there is nothing to wait for, and nothing gained by asking early.
    pub(crate) fn is_memory(&self) -> bool {
        self.url.starts_with("memory://")
    }

    /// Returns the place of `key` for people.
    pub fn describe(&self, key: &str) -> String {
        format!("{}/{}{key}", self.url.trim_end_matches('/'), self.prefix)
    }

    /// Makes sure that a folder can hold objects, and clears a dead agent's temporary files. An object store is asked
    /// nothing: its first answers tell.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) when the folder cannot be made or written.
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
        self.list_from(folder, "").await
    }

    /// Lists as [`list`](Self::list) does what has a name that begins with `prefix`; an object store is asked for no
    /// more than that.
    pub async fn list_from(&self, folder: &str, prefix: &str) -> Result<Vec<Listed>> {
        let key = format!("{}{folder}", self.prefix);
        let mut listed = timed("list", async {
            match &self.place {
                Place::Folder(root) => {
                    let (path, prefix) = (root.join(&key), prefix.to_owned());
                    blocking(move || folder::list(&path, &prefix)).await
                }
                Place::Remote(remote) => remote.list(&key, prefix).await,
            }
        })
        .await
        .map_err(|error| error.with("folder", self.describe(folder)))?;
        listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// Lists what is directly below `folder` and has a name greater than `name`, sorted by name, in as few requests as
    /// that takes; `None` where the store cannot begin a listing in the middle (azblob, memory, S3 Express): it would
    /// list all of a folder in silence.
    pub async fn list_after(&self, folder: &str, name: &str) -> Result<Option<Vec<Listed>>> {
        let key = format!("{}{folder}", self.prefix);
        let listed = timed("list", async {
            match &self.place {
                Place::Folder(root) => {
                    let (path, name) = (root.join(&key), name.to_owned());
                    blocking(move || folder::list_after(&path, &name)).await.map(Some)
                }
                Place::Remote(remote) => remote.list_after(&key, name).await,
            }
        })
        .await;
        let mut listed = listed.map_err(|error| error.with("folder", self.describe(folder)))?;
        if let Some(listed) = &mut listed {
            listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        Ok(listed)
    }

    /// Returns whether there is an object of that key.
    pub async fn exists(&self, key: &str) -> Result<bool> {
        let full_key = format!("{}{key}", self.prefix);
        let found = timed("exists", async {
            match &self.place {
                Place::Folder(root) => {
                    let path = root.join(full_key);
                    blocking(move || folder::exists(&path)).await
                }
                Place::Remote(remote) => remote.exists(&full_key).await,
            }
        })
        .await;
        found.map_err(|error| error.with("object", self.describe(key)))
    }

    /// Reads an object; `None` when there is none.
    pub async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let full_key = format!("{}{key}", self.prefix);
        let read = timed("read", async {
            match &self.place {
                Place::Folder(root) => {
                    let path = root.join(full_key);
                    blocking(move || folder::read(&path)).await
                }
                Place::Remote(remote) => remote.read(&full_key).await,
            }
        })
        .await;
        read.map_err(|error| error.with("object", self.describe(key)))
    }

    /// Reads the bytes `range` of an object, fewer where it ends before.
    pub async fn read_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let full_key = format!("{}{key}", self.prefix);
        let read = timed("read", async {
            match &self.place {
                Place::Folder(root) => {
                    let (path, frames) = (root.join(full_key), self.frames.clone());
                    blocking(move || folder::read_range(&path, range, &frames)).await
                }
                Place::Remote(remote) => remote.read_range(&full_key, range).await,
            }
        })
        .await;
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

    /// Deletes an object; it is gone durably when this returns. One that is not there is no error. Only `repair` and
    /// `prune` call this, of objects that the user was shown: nothing that an agent runs ever deletes.
    ///
    /// # Errors
    /// After an error it is unknown whether the object is there.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let full_key = format!("{}{key}", self.prefix);
        let deleted = timed("delete", async {
            match &self.place {
                Place::Folder(root) => {
                    let path = root.join(full_key);
                    blocking(move || folder::delete(&path)).await
                }
                Place::Remote(remote) => remote.delete(&full_key).await,
            }
        })
        .await;
        deleted.map_err(|error| error.with("object", self.describe(key)))
    }

    /// Begins to upload an object of unknown size; it appears with [`Upload::finish`].
    pub async fn upload(&self, key: &str) -> Result<Upload> {
        let full_key = format!("{}{key}", self.prefix);
        let place = self.describe(key);
        let target = match &self.place {
            Place::Folder(root) => Target::Local(LocalFile::new(root.clone(), root.join(full_key))),
            Place::Remote(remote) => Target::Remote(Box::new(Multipart::new(remote.clone(), full_key))),
        };
        Ok(Upload { target: Some(target), place })
    }
}

/// An object that is being written and not yet there. Dropped, it leaves nothing that a reader sees.
pub struct Upload {
    /// `None` once it has ended.
    target: Option<Target>,
    place: String,
}

enum Target {
    Local(LocalFile),
    Remote(Box<Multipart>),
}

impl Upload {
    /// Appends `bytes`; some of them may stay in memory ([`held_bytes`](Self::held_bytes)), but as copies: the memory
    /// of `bytes` itself is free when this returns.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let wrote = match self.target.as_mut().expect("an upload is written before it ends") {
            Target::Local(file) => file.write(&bytes).await,
            Target::Remote(upload) => upload.write(bytes).await,
        };
        wrote.map_err(|error| {
            timing::failed("upload");
            error.with("object", &self.place)
        })
    }

    /// Returns how many of the written bytes are in this process's memory now.
    pub fn held_bytes(&self) -> usize {
        match &self.target {
            Some(Target::Local(file)) => file.held_bytes(),
            Some(Target::Remote(upload)) => upload.held_bytes(),
            None => 0,
        }
    }

    /// Makes the bytes written so far durable where that is possible before the object appears (a folder).
    pub async fn sync(&mut self) -> Result<()> {
        let synced = match self.target.as_mut().expect("an upload is synced before it ends") {
            Target::Local(file) => timed("sync", file.sync()).await,
            Target::Remote(_) => Ok(()),
        };
        synced.map_err(|error| error.with("object", &self.place))
    }

    /// Makes the object appear if there is none of its key; it is durable when this returns.
    ///
    /// # Errors
    /// After an error it is unknown whether the object is there: ask the store.
    pub async fn finish(mut self) -> Result<Creation> {
        let finished = match self.target.take().expect("an upload ends once") {
            Target::Local(file) => timed("create", file.link(self.place.clone())).await,
            Target::Remote(upload) => timed("create", upload.finish()).await,
        };
        finished.map_err(|error| error.with("object", &self.place))
    }

    /// Ends the upload without an object; what an unreachable store keeps of it is its lifecycle rule's to clear.
    pub async fn abort(mut self) {
        if let Some(Target::Remote(upload)) = self.target.take() {
            upload.abort().await;
        }
    }
}

/// Runs blocking file work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::failed("file work ended early").source(error)),
    }
}

#[cfg(test)]
mod tests;
