//! The archive: one backup in a store, as a folder of segments with sidecars.
//!
//! This file opens a backup (and refuses the wrong one) and keeps topic objects. Names are in [`layout`], which chain
//! holds what in [`lineage`], the sidecar's bytes in [`sidecar`], objects of JSON in [`sealed`], a growing segment in
//! [`segment`], and sidecars made anew from logs in [`rebuild`] (all pure); [`begin`]
//! keeps where a chain begins, [`tip`] finds where it goes on; [`sink`] makes segments durable, [`source`] reads them.
//!
//! Nothing in an archive is overwritten. `backup.json` is created once; a topic's settings go into a new
//! `topic-<n>.json` whenever they change.

pub mod begin;
pub mod catalog;
pub mod catalogs;
pub mod index;
pub mod layout;
pub mod lineage;
pub mod live;
pub mod rebuild;
pub mod savepoint;
pub mod sealed;
pub mod segment;
pub mod sidecar;
pub mod sink;
pub mod source;
pub mod tip;

use serde::{Deserialize, Serialize};

use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::pipeline::Topic;
use crate::record::{Offset, Timestamp};
use crate::store::{Creation, Store};
use layout::Name;

/// The archive format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// What `backup.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The version of the archive format.
    pub format: u32,
    /// The backup's id; also the name of its folder.
    pub backup_id: String,
    /// The id of the cluster whose topics it holds; an agent of another cluster refuses to append.
    pub cluster_id: Option<String>,
    /// How the bytes of its objects are wrapped; `none` is the only way so far.
    pub envelope: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// The program that made it.
    pub created_by: String,
}

/// What `topic-<n>.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicObject {
    /// Its number, which its name says too.
    pub number: u32,
    /// When the agent saw the topic like this, RFC 3339: which of the topics of one name is the newest.
    pub seen_at: String,
    /// The topic and its settings.
    #[serde(flatten)]
    pub topic: Topic,
}

/// One backup in a store. Clones share it.
#[derive(Clone)]
pub struct Archive {
    store: Store,
    backup: Backup,
    live: live::Live,
}

impl Archive {
    /// Opens the backup `backup_id` below the store's root for reading.
    ///
    /// # Errors
    /// [`Kind::NoBackup`] when there is none, [`Kind::Usage`] when its format is newer than this program,
    /// [`Kind::Damaged`] when its `backup.json` cannot be read.
    pub async fn open(root: &Store, backup_id: &str) -> Result<Self> {
        let store = root.within(backup_id);
        match store.read(layout::BACKUP).await? {
            Some(bytes) => {
                let backup = parse_backup(&store, &bytes)?;
                if backup.backup_id != backup_id {
                    return Err(Error::damaged(format!("backup.json is that of the backup `{}`", backup.backup_id))
                        .with("object", store.describe(layout::BACKUP))
                        .hint("a backup's folder bears its id: bring the right object back, or rename the folder"));
                }
                Ok(Self { backup, store, live: live::Live::default() })
            }
            None => Err(Error::new(Kind::NoBackup, format!("there is no backup `{backup_id}`"))
                .with("looked for", store.describe(layout::BACKUP))
                .hint("`list` shows the backups below a path")),
        }
    }

    /// Takes a backup below the store's root to be what `backup` says: `repair`, where `backup.json` itself is lost.
    pub fn assumed(root: &Store, backup: Backup) -> Self {
        Self { store: root.within(&backup.backup_id), backup, live: live::Live::default() }
    }

    /// Opens the backup `backup_id` for writing, and makes it if there is none.
    ///
    /// # Errors
    /// [`Kind::Usage`] when the backup is of another cluster or of a newer format, or the store cannot be written.
    pub async fn create(root: &Store, backup_id: &str, cluster_id: Option<&str>) -> Result<Self> {
        root.prepare().await?;
        let store = root.within(backup_id);
        if store.read(layout::BACKUP).await?.is_none() {
            // A new identity over somebody's segments would make a chain of two clusters, or hide what is missing.
            if !store.list(layout::TOPICS).await?.is_empty() {
                return Err(Error::usage(format!("the backup `{backup_id}` has lost its backup.json"))
                    .with("missing", store.describe(layout::BACKUP))
                    .hint("bring it back from a copy, or use another backup_id"));
            }
            let backup = Backup {
                format: FORMAT,
                backup_id: backup_id.to_owned(),
                cluster_id: cluster_id.map(str::to_owned),
                envelope: "none".to_owned(),
                created: Timestamp::now().to_string(),
                created_by: concat!("kafka-backup ", env!("CARGO_PKG_VERSION")).to_owned(),
            };
            // Another agent may be first; then its object holds.
            let _: Creation = store.create(layout::BACKUP, sealed::pretty(&backup)).await?;
            crash::point("backup-created", &backup_id);
        }
        let archive = Self::open(root, backup_id).await?;
        archive.check_cluster(cluster_id)?;
        Ok(archive)
    }

    /// Returns what `backup.json` says.
    pub fn backup(&self) -> &Backup {
        &self.backup
    }

    /// Returns the store, rooted at the backup's folder.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the indexes that this process keeps open; clones share them.
    pub fn live(&self) -> &live::Live {
        &self.live
    }

    /// Returns the newest topic object of a timeline, with its number.
    pub async fn topic(&self, topic: &str, topic_id: &str) -> Result<Option<(u32, TopicObject)>> {
        let folder = layout::timeline_folder(topic, topic_id);
        let listed = self.store.list(&folder).await?;
        let newest = listed.iter().filter_map(|entry| layout::parse_topic_object(&entry.name)).max();
        let Some(n) = newest else { return Ok(None) };
        Ok(Some((n, self.topic_object(topic, topic_id, n).await?)))
    }

    /// Reads the `n`th topic object of a timeline, which was listed.
    ///
    /// # Errors
    /// [`Kind::Damaged`] when it cannot be read, or is another one's; [`Kind::Newer`] when a newer program wrote it.
    pub async fn topic_object(&self, topic: &str, topic_id: &str, n: u32) -> Result<TopicObject> {
        let key = format!("{}{}", layout::timeline_folder(topic, topic_id), layout::topic_object(n));
        let Some(bytes) = self.store.read(&key).await? else {
            return Err(Error::transient("topic object went while we read it").with("object", key));
        };
        let unreadable =
            |kind| Error::new(kind, "topic object cannot be read").with("object", self.store.describe(&key));
        let object: TopicObject = sealed::read(&bytes).map_err(|error| unreadable(error.kind()).source(error))?;
        if object.number != n || object.topic.name != topic || object.topic.topic_id != topic_id {
            let it_is = format!("{}, number {}", object.topic.name, object.number);
            return Err(unreadable(Kind::Damaged).with("it is that of", it_is));
        }
        Ok(object)
    }

    /// Keeps what is known of a topic: a new object when it differs from the newest. Settings that the broker did not
    /// tell this time are those of the newest.
    pub async fn put_topic(&self, topic: &Topic) -> Result<()> {
        let mut topic = topic.clone();
        let mut existed = None;
        loop {
            // A newest object that cannot be read is superseded, like an outdated one.
            let n = match self.topic(&topic.name, &topic.topic_id).await {
                Ok(Some((n, newest))) => {
                    topic.configs = topic.configs.or_else(|| newest.topic.configs.clone());
                    if newest.topic == topic {
                        return Ok(());
                    }
                    n + 1
                }
                Ok(None) => 0,
                Err(error) if error.is_unreadable() => self.next_topic_number(&topic).await?,
                Err(error) => return Err(error),
            };
            let folder = layout::timeline_folder(&topic.name, &topic.topic_id);
            let key = format!("{folder}{}", layout::topic_object(n));
            let object = TopicObject { number: n, seen_at: Timestamp::now().to_string(), topic: topic.clone() };
            let creation = self.store.create(&key, sealed::pretty(&object)).await?;
            crash::point("topic-created", &topic.name);
            if creation == Creation::Created {
                return Ok(());
            }
            // Another agent was first; its object is listed now, unless listings lag behind what exists.
            if existed.replace(n) == Some(n) {
                return Err(Error::transient("the store says that a topic object exists and does not list it")
                    .with("object", self.store.describe(&key)));
            }
        }
    }

    fn check_cluster(&self, cluster_id: Option<&str>) -> Result<()> {
        match (&self.backup.cluster_id, cluster_id) {
            (Some(held), Some(met)) if held != met => Err(Error::usage(format!(
                "the backup `{}` is of another cluster: it holds topics of cluster {held}, this cluster is {met}",
                self.backup.backup_id
            ))
            .hint("use another backup_id, or the right bootstrap.servers")),
            _ => Ok(()),
        }
    }

    async fn next_topic_number(&self, topic: &Topic) -> Result<u32> {
        let listed = self.store.list(&layout::timeline_folder(&topic.name, &topic.topic_id)).await?;
        Ok(listed.iter().filter_map(|entry| layout::parse_topic_object(&entry.name)).max().map_or(0, |n| n + 1))
    }
}

/// The segments and sidecars in a listing of a partition's folder.
pub struct Segments {
    /// (first offset, length in bytes) of each log, in order.
    pub logs: Vec<(Offset, u64)>,
    /// (first offset, length of the log described, its digest) of each sidecar, in order.
    pub sidecars: Vec<(Offset, u64, u128)>,
    /// Whether there is an object that says where the chain begins.
    pub has_begin: bool,
    /// Names that nothing explains; folders with a slash at their end.
    pub strange: Vec<String>,
}

impl Segments {
    /// Sorts out a listing.
    pub fn new(listed: Vec<crate::store::Listed>) -> Self {
        let mut segments = Self { logs: Vec::new(), sidecars: Vec::new(), has_begin: false, strange: Vec::new() };
        for entry in listed {
            if entry.is_folder {
                let folder = format!("{}/", entry.name);
                segments.strange.extend((folder != catalog::FOLDER).then_some(folder));
                continue;
            }
            match Name::parse(&entry.name) {
                Some(Name::Log { first }) => segments.logs.push((first, entry.size_bytes)),
                Some(Name::Sidecar { first, length_bytes, digest }) => {
                    segments.sidecars.push((first, length_bytes, digest));
                }
                None if entry.name == layout::BEGIN => segments.has_begin = true,
                None => segments.strange.push(entry.name),
            }
        }
        segments.logs.sort_unstable();
        segments.sidecars.sort_unstable();
        segments
    }

    /// Returns the digests of the sidecars that fit a log of `length_bytes` at `first`.
    pub fn sidecars(&self, first: Offset, length_bytes: u64) -> impl Iterator<Item = u128> + '_ {
        let from = self.sidecars.partition_point(|&(offset, length, _)| (offset, length) < (first, length_bytes));
        self.sidecars[from..]
            .iter()
            .take_while(move |&&(offset, length, _)| (offset, length) == (first, length_bytes))
            .map(|&(_, _, digest)| digest)
    }
}

fn parse_backup(store: &Store, bytes: &[u8]) -> Result<Backup> {
    /// Read first: a newer format may have changed everything else.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let unreadable = |error: Error| {
        let object = store.describe(layout::BACKUP);
        Error::new(error.kind(), "backup.json cannot be read").with("object", object).source(error)
    };
    let Format { format } = sealed::read(bytes).map_err(unreadable)?;
    if format > FORMAT {
        return Err(Error::usage(format!("the backup has format {format}, this program knows up to {FORMAT}"))
            .with("object", store.describe(layout::BACKUP))
            .hint("use a newer kafka-backup"));
    }
    let backup: Backup = sealed::read(bytes).map_err(unreadable)?;
    if backup.envelope != "none" {
        return Err(Error::usage(format!("the backup's envelope `{}` is unknown to this program", backup.envelope))
            .hint("use a newer kafka-backup"));
    }
    Ok(backup)
}
