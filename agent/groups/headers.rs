//! Where records of a backup are in a cluster, told by the records themselves: the headers that `header-injector` writes.
//!
//! For targets of which no restore has kept a map: its state is gone, or another tool restored. The topics are read once, as a
//! read-committed consumer gets them, from their log starts up to the ends seen at the start. [`mapping`] makes the offset map
//! of what the headers say, [`reading`] brings them.
//!
//! **What the map is worth.** Of each source partition the first record with a given source offset or a later one is exact:
//! nothing that a group has not read lies before it. What is not there any more, or was left out on the way, nobody tells; so
//! behind the last record that was found the map goes on only where the archive shows that there is nothing. Records that
//! lack the headers are counted, as are those that name what the backup does not hold: they are not in the map.
//!
//! Retry: as a pass of [`Source`](crate::kafka::Source). Nothing is durable here. Cancel: safe at any point. Memory: fetched
//! bytes within a budget, and the map, four bytes a run of records.

mod mapping;
mod reading;

use serde::Serialize;

use crate::archive::Archive;
use crate::archive::source::summary::summarise;
use crate::error::{Error, Result};
use crate::kafka::Client;
use crate::record::Offset;
use crate::restore::map::OffsetMap;
use mapping::{Mapping, Sources};

/// The names of the headers, as `header-injector` has been told them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The header with the offset at the source, in decimal.
    pub offset: String,
    /// The header with the partition at the source, in decimal.
    pub partition: String,
    /// The header with the topic at the source; the plugin writes none unless told to.
    pub topic: String,
}

impl Default for Names {
    /// Returns those that the plugin writes unless told otherwise.
    fn default() -> Self {
        Self::with_prefix("x-kafka-backup-")
    }
}

impl Names {
    /// Returns the names that begin with `prefix` and end as the plugin's own do.
    pub fn with_prefix(prefix: &str) -> Self {
        let name = |of: &str| format!("{prefix}{of}");
        Self { offset: name("offset"), partition: name("partition"), topic: name("topic") }
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Where records are. Sources are the backup's newest timelines, targets the cluster's topics as they are now; every pair
    /// is finished.
    pub map: OffsetMap,
    /// What was read of each topic, by name.
    pub topics: Vec<Scanned>,
}

/// What was read of one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Scanned {
    /// The topic on the cluster.
    pub topic: String,
    /// Records.
    pub records: u64,
    /// Of them, those whose place at the source is known.
    pub placed: u64,
    /// Those without the headers.
    pub without: u64,
    /// Those that tell no place and lie among records that do: a group that goes on behind these does not get them.
    pub among: u64,
    /// Those whose headers cannot be read: no numbers, or one of the two is missing.
    pub unreadable: u64,
    /// Those whose headers name what the backup does not hold.
    pub foreign: u64,
    /// Those of which it is not known which topic they are of.
    pub nameless: u64,
    /// Those that lie behind records which were behind them at the source, and copies: a group may get them again.
    pub again: u64,
    /// The offset of one that is unreadable, foreign or nameless, as an example, with its partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub example: Option<(i32, Offset)>,
}

impl Scanned {
    /// Returns what is to be said of it, each a line; nothing where every record told its place, in order.
    pub fn notes(&self) -> Vec<String> {
        let topic = &self.topic;
        let like = self
            .example
            .map_or(String::new(), |(partition, offset)| format!(", as {topic}-{partition} offset {offset}"));
        let lines = [
            (self.without, "have no headers that tell where they were".to_owned()),
            (
                self.among,
                "tell no place and lie among those that do: a group that goes on behind these does not get them"
                    .to_owned(),
            ),
            (self.unreadable, format!("have headers that cannot be read{like}")),
            (self.foreign, format!("name a partition or an offset that the backup does not hold{like}")),
            (
                self.nameless,
                format!(
                    "do not tell their topic, which the backup does not have by that name{like}: inject it (`topic = true`)"
                ),
            ),
            (self.again, "are copies, or lie behind later ones: a group may get them again".to_owned()),
        ];
        let said = lines.into_iter().filter(|(count, _)| *count > 0);
        said.map(|(count, what)| format!("topic \"{topic}\": {count} of {} records {what}", self.records)).collect()
    }
}

/// Reads `topics` of the cluster, and finds in the headers of their records where those of `archive` are.
///
/// A record is of the topic that its headers tell; where they do not, of the archive's topic of the same name, or of its only
/// one. How far it is, and what the records do not tell, is said as it goes.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for a topic that is not there; [`Kind::Failed`](crate::error::Kind::Failed) when
/// no record tells where it was, or one cannot be read; those of the cluster and of the archive's store.
pub async fn scan(client: &Client, topics: &[String], archive: &Archive, names: &Names) -> Result<Scan> {
    let backup_id = &archive.backup().backup_id;
    let sources = Sources::of(&summarise(archive).await?);
    let read = reading::read(client, topics, Mapping::new(sources, names.clone())).await?;
    let scan = read.finish()?;
    for line in scan.topics.iter().flat_map(Scanned::notes) {
        tracing::warn!("{line}");
    }
    if scan.topics.iter().all(|topic| topic.placed == 0) {
        let what =
            format!("no record of topic \"{}\" tells where it was in the backup `{backup_id}`", topics.join("\", \""));
        let notes: Vec<String> = scan.topics.iter().flat_map(Scanned::notes).collect();
        let error = Error::failed(what).with("header", &names.offset);
        return Err(error.source(notes.join("; ")).hint(
            "name the restore with --restore-id, or restore with `include_original_offset_header: true`, which injects the headers",
        ));
    }
    Ok(scan)
}
