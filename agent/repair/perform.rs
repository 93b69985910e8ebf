//! Does what a plan says, in its order, and nothing else.
//!
//! Before an object is deleted it is read again: one that has other bytes than when the plan was made ends the work.
//! What is there already as it should be, made by an earlier run that was interrupted, is taken.

use bytes::Bytes;

use super::chain::build;
use super::survey::{self, Object, changed, copy_name};
use super::{Action, NewSidecar, Part, Plan, Replacement, Task};
use crate::archive::begin::Begin;
use crate::archive::catalog::{Catalog, Row};
use crate::archive::rebuild::Beyond;
use crate::archive::segment::Builder;
use crate::archive::sidecar::Sidecar;
use crate::archive::source::chunks::Chunks;
use crate::archive::source::{Place, side_by_side};
use crate::archive::{Archive, layout, sealed};
use crate::crash;
use crate::error::{Error, Result};
use crate::record::{OffsetRange, Timestamp};
use crate::store::{Creation, Store};

/// Bytes of one read of a log that is copied.
const PIECE_BYTES: u64 = 4 << 20;

/// Catalogs that are created at a time: one by one the 200 000 of a million segments would take hours at an object store.
const CATALOGS_AT_ONCE: usize = 16;

/// Bytes of the catalogs that are created at a time; a single one may have more.
const CATALOG_BYTES: usize = 64 << 20;

/// Does what `plan` says to the backup that it was made for; `done` is told of each action when it is done.
///
/// # Errors
/// [`Kind::Fenced`](crate::error::Kind::Fenced) when an object is not as it was; the store's. What was done before
/// stays, and a new plan goes on from there.
pub async fn perform(archive: &Archive, plan: &Plan, mut done: impl FnMut(&Action)) -> Result<()> {
    for action in &plan.actions {
        let work = Work { store: archive.store(), place: action.place.as_ref() };
        work.task(&action.task).await.map_err(|error| match &action.place {
            Some(place) => error.with("topic", &place.partition.topic).with("partition", place.name()),
            None => error,
        })?;
        done(action);
    }
    Ok(())
}

struct Work<'a> {
    store: &'a Store,
    place: Option<&'a Place>,
}

impl Work<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.place.map_or("", |place| place.folder.as_str()))
    }

    fn place(&self) -> &Place {
        self.place.expect("a task of a chain has its place")
    }

    async fn task(&self, task: &Task) -> Result<()> {
        match task {
            Task::Backup { backup, replaces } => {
                self.delete_all(replaces.iter()).await?;
                let creation = self.store.create(layout::BACKUP, sealed::pretty(&**backup)).await?;
                if creation == Creation::Exists { Err(changed(self.store, layout::BACKUP)) } else { Ok(()) }
            }
            Task::DropCatalogs(catalogs) => self.delete_all(catalogs.iter()).await,
            Task::Begin { offset, replaces } => {
                self.delete(replaces).await?;
                let begin = Begin {
                    topic_id: self.place().partition.topic_id.to_string(),
                    partition: self.place().partition.index,
                    offset: *offset,
                    created: Timestamp::now().to_string(),
                    created_by: concat!("kafka-backup ", env!("CARGO_PKG_VERSION"), " repair").to_owned(),
                };
                let _ = self.store.create(&self.key(layout::BEGIN), sealed::pretty(&begin)).await?;
                Ok(())
            }
            Task::Sidecar(new) => self.sidecar(new).await,
            Task::Resume { range, copy, digest } => self.take_copy(*range, copy, *digest).await,
            Task::Replace(replacement) => self.replace(replacement).await,
            Task::Gap { gap, orphans, .. } => {
                let (log, sidecar) = self.gap(gap);
                self.put(&self.sidecar_name(&sidecar), sidecar.encode()).await?;
                crash::point("repair-sidecar", &gap.range);
                self.put(&layout::log(gap.range.first), log).await?;
                crash::point("repair-log", &gap.range);
                // The gap's own may have been made by a run that was interrupted.
                let own = self.sidecar_name(&sidecar);
                self.delete_all(orphans.iter().filter(|orphan| orphan.name != own)).await
            }
            Task::Debris { objects, .. } => self.delete_all(objects.iter()).await,
            Task::MakeCatalogs(catalogs) => self.catalogs(catalogs).await,
        }
    }

    /// Makes catalogs, a level after the one below it.
    async fn catalogs(&self, catalogs: &[Catalog]) -> Result<()> {
        for level in catalogs.chunk_by(|one, other| one.level == other.level) {
            let largest = level.iter().map(|catalog| catalog.rows.held_bytes()).max().unwrap_or(0).max(1);
            let at_once = (CATALOG_BYTES / largest).clamp(1, CATALOGS_AT_ONCE);
            // After a failure no more than these are tried.
            for some in level.chunks(CATALOGS_AT_ONCE * 8) {
                let made = side_by_side::each(some.iter().cloned(), at_once, |catalog| {
                    let (store, key) = (self.store.clone(), self.key(&catalog.name().to_string()));
                    async move {
                        put(&store, &key, catalog.encode()).await?;
                        crash::point("repair-catalog", &catalog.name());
                        Ok(())
                    }
                });
                made.await?.into_iter().collect::<Result<()>>()?;
            }
        }
        Ok(())
    }

    fn sidecar_name(&self, sidecar: &Sidecar) -> String {
        layout::sidecar(sidecar.range.first, sidecar.length_bytes, sidecar.digest)
    }

    /// Makes a sidecar from its log.
    async fn sidecar(&self, new: &NewSidecar) -> Result<()> {
        let key = self.key(&new.log.name);
        let first = new.row.range.first;
        let chunks = Chunks::new(self.store, &key, new.log.bytes);
        let sidecar = build(chunks, &self.place().partition, first, new.beyond.clone()).await?;
        if Row::of(&sidecar) != new.row {
            return Err(changed(self.store, &key));
        }
        if let Some(replaces) = &new.replaces {
            self.delete(replaces).await?;
        }
        self.put(&self.sidecar_name(&sidecar), sidecar.encode()).await?;
        crash::point("repair-sidecar", &new.row.range);
        Ok(())
    }

    /// Makes the log and the sidecar of a gap.
    fn gap(&self, part: &Part) -> (Bytes, Sidecar) {
        let note = part.note.as_deref().unwrap_or_default().to_owned();
        let (log, sidecar) = Builder::gap(&self.place().partition, part.range, -1, note);
        (log, Sidecar { sealed_at: part.row.sealed_at, ..sidecar })
    }

    /// Puts pieces in place of a damaged log, in the order that the parent says.
    async fn replace(&self, replacement: &Replacement) -> Result<()> {
        let Replacement { log, parts, sidecars, .. } = replacement;
        let Some((beginning, others)) = parts.split_first() else { return Ok(()) };
        for part in others {
            self.piece(log, part).await?;
        }
        let sidecar = self.sidecar_of(log, beginning.beyond.clone(), beginning).await?;
        let own = self.sidecar_name(&sidecar);
        self.put(&own, sidecar.encode()).await?;
        crash::point("repair-sidecar", &beginning.range);
        let old = sidecars.iter().filter(|old| old.name != own);
        if beginning.bytes == Some((0, log.bytes)) {
            // It lost its end, and is sound as it is.
            return self.delete_all(old).await;
        }
        let Row { length_bytes, digest, .. } = beginning.row;
        let copy = Object { name: copy_name(&beginning.row), bytes: length_bytes, digest: Some(digest) };
        self.write_part(log, beginning, &copy.name).await?;
        crash::point("repair-copy", &beginning.range);
        self.delete(log).await?;
        self.take_copy(beginning.range, &copy, digest).await?;
        self.delete_all(old).await
    }

    /// Makes a piece that has a name of its own: sidecar, then log.
    async fn piece(&self, log: &Object, part: &Part) -> Result<()> {
        let sidecar = self.sidecar_of(log, part.beyond.clone(), part).await?;
        self.put(&self.sidecar_name(&sidecar), sidecar.encode()).await?;
        crash::point("repair-sidecar", &part.range);
        self.write_part(log, part, &layout::log(part.range.first)).await?;
        crash::point("repair-log", &part.range);
        Ok(())
    }

    async fn sidecar_of(&self, log: &Object, beyond: Beyond, part: &Part) -> Result<Sidecar> {
        let Some((position, bytes)) = part.bytes else { return Ok(self.gap(part).1) };
        let key = self.key(&log.name);
        let chunks = Chunks::new(self.store, &key, position + bytes).starting_at(position);
        let sidecar = build(chunks, &self.place().partition, part.range.first, beyond).await?;
        if Row::of(&sidecar) == part.row { Ok(sidecar) } else { Err(changed(self.store, &key)) }
    }

    /// Writes the log of a part under `name`.
    async fn write_part(&self, log: &Object, part: &Part, name: &str) -> Result<()> {
        match part.bytes {
            None => self.put(name, self.gap(part).0).await,
            Some((position, bytes)) => self.copy(&log.name, (position, bytes), name, part.row.digest).await,
        }
    }

    /// Creates the log at the beginning of `range` from its copy, and deletes that.
    async fn take_copy(&self, range: OffsetRange, copy: &Object, digest: u128) -> Result<()> {
        self.copy(&copy.name, (0, copy.bytes), &layout::log(range.first), digest).await?;
        crash::point("repair-log", &range);
        self.delete(copy).await
    }

    /// Creates `to` with a stretch of the object `from`, whose digest is known.
    async fn copy(&self, from: &str, (position, length): (u64, u64), to: &str, digest: u128) -> Result<()> {
        let (from, to) = (self.key(from), self.key(to));
        let mut upload = self.store.upload(&to).await?;
        let mut seen = xxhash_rust::xxh3::Xxh3::new();
        let mut at = position;
        while at < position + length {
            let bytes = self.store.read_range(&from, at..(position + length).min(at + PIECE_BYTES)).await?;
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
            seen.update(&bytes);
            upload.write(bytes).await?;
        }
        if at != position + length || seen.digest128() != digest {
            upload.abort().await;
            return Err(changed(self.store, &from));
        }
        match upload.finish().await? {
            Creation::Created => Ok(()),
            Creation::Exists if self.is(&to, length, digest).await? => Ok(()),
            Creation::Exists => Err(changed(self.store, &to)),
        }
    }

    /// Returns whether an object has these bytes and no more.
    async fn is(&self, key: &str, length: u64, digest: u128) -> Result<bool> {
        let held = survey::digest(self.store, key, length).await?;
        Ok(held == Some(digest) && self.store.read_range(key, length..length + 1).await?.is_empty())
    }

    /// Creates an object, or finds it as it should be.
    async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        put(self.store, &self.key(name), bytes).await
    }

    async fn delete_all(&self, objects: impl Iterator<Item = &Object>) -> Result<()> {
        for object in objects {
            self.delete(object).await?;
        }
        Ok(())
    }

    /// Deletes an object that is as it was when the plan was made, or not there any more.
    async fn delete(&self, object: &Object) -> Result<()> {
        let digest = object.digest.expect("the plan has read what it says to delete");
        let key = self.key(&object.name);
        let (folder, name) = key.rsplit_once('/').map_or(("", key.as_str()), |(folder, name)| (folder, name));
        let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let listed = self.store.list_from(&folder, name).await?.into_iter().find(|entry| entry.name == name);
        match listed {
            None => return Ok(()),
            Some(listed)
                if listed.size_bytes == object.bytes
                    && survey::digest(self.store, &key, object.bytes).await? == Some(digest) => {}
            Some(_) => return Err(changed(self.store, &key)),
        }
        self.store.delete(&key).await.map_err(|error: Error| error.hint("`repair` may be run again"))?;
        crash::point("repair-deleted", &object.name);
        Ok(())
    }
}

/// Creates the object of `key`, or finds it as it should be.
async fn put(store: &Store, key: &str, bytes: Bytes) -> Result<()> {
    if store.create(key, bytes.clone()).await? == Creation::Created {
        return Ok(());
    }
    let held = store.read(key).await?;
    let same = held.as_ref().is_some_and(|held| *held == bytes || says_the_same(held, &bytes));
    if same { Ok(()) } else { Err(changed(store, key)) }
}

/// Returns whether two objects are sidecars that differ in their times and notes alone: one of a run that was
/// interrupted.
fn says_the_same(held: &[u8], bytes: &[u8]) -> bool {
    let sidecars = Sidecar::decode(held).ok().zip(Sidecar::decode(bytes).ok());
    sidecars.is_some_and(|(held, wanted)| held.says_the_same(&wanted))
}
