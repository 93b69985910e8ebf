//! What a restore made of the partitions of a backup: the columns that `--restore-id` adds.
//!
//! A source partition has a row for each target partition that got records of it. Of a restore that goes on it is as far as its
//! journals say.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::archive::Archive;
use crate::cli::table;
use crate::error::{Error, Result};
use crate::record::{Offset, Partition};
use crate::restore::map::{OffsetMap, Pair, Track};
use crate::restore::state::{Phase, State};

/// The heads of the columns behind the page's own.
pub(super) const HEADS: [&str; 5] = ["Target", "Target First", "Target Next", "Records", "Restored End"];

/// The same in CSV, behind a comma.
pub(super) const CSV_HEADS: &str =
    "target_topic,target_topic_id,target_partition,target_first,target_next,restored_records,restored_end";

/// Where the partitions of a backup went in one restore.
#[derive(Debug)]
pub(super) struct Targets {
    restore_id: String,
    phase: Phase,
    by_source: BTreeMap<Partition, Vec<Target>>,
}

/// What one target partition got of a source partition.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Target {
    target_topic: String,
    target_topic_id: String,
    target_partition: i32,
    /// Where the target ended before the first record.
    target_first: Offset,
    /// The target offset behind the last record.
    target_next: Offset,
    /// Records that were restored; copies count once.
    restored_records: u64,
    /// The target offset behind all that was asked for; `None` while the restore goes on.
    restored_end: Option<Offset>,
}

impl Targets {
    /// Reads what the restore has kept.
    ///
    /// # Errors
    /// [`Kind::NoBackup`](crate::error::Kind::NoBackup) for a restore that is not there;
    /// [`Kind::Failed`](crate::error::Kind::Failed) for one that has sent nothing yet;
    /// [`Kind::Usage`](crate::error::Kind::Usage) for one of another backup.
    pub(super) async fn open(archive: &Archive, state: &State) -> Result<Self> {
        let seen = state.look().await?;
        let (restore_id, phase) = (state.restore_id().to_owned(), seen.phase());
        let backup_id = &archive.backup().backup_id;
        if let Some(other) = seen.plan.as_ref().map(|plan| &plan.backup_id).filter(|of| *of != backup_id) {
            return Err(Error::usage(format!("the restore `{restore_id}` restored the backup `{other}`")));
        }
        let map = state.offset_map(&seen).await?.ok_or_else(|| {
            Error::failed(format!("the restore `{restore_id}` has no offset map: it is {phase}"))
                .hint("`restores show` tells how far it has come")
        })?;
        Ok(Self::new(restore_id, phase, &map))
    }

    fn new(restore_id: String, phase: Phase, map: &OffsetMap) -> Self {
        let mut by_source: BTreeMap<Partition, Vec<Target>> = BTreeMap::new();
        for (pair, track) in map.iter() {
            by_source.entry(pair.source.clone()).or_default().push(Target::new(pair, track));
        }
        Self { restore_id, phase, by_source }
    }

    /// Returns which restore it is, for people.
    pub(super) fn title(&self) -> String {
        match self.phase {
            Phase::Running => format!("Restore: {} (running: as far as its last journal)", self.restore_id),
            phase => format!("Restore: {} ({phase})", self.restore_id),
        }
    }

    /// Returns the restore's id.
    pub(super) fn restore_id(&self) -> &str {
        &self.restore_id
    }

    /// Returns what got records of a partition.
    pub(super) fn of(&self, source: &Partition) -> &[Target] {
        self.by_source.get(source).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the rows of a partition that has the cells `own`: one for each target, or one that says that there is none.
    pub(super) fn rows(&self, source: &Partition, own: &[String]) -> Vec<Vec<String>> {
        let with = |cells: Vec<String>| [own, &cells].concat();
        match self.of(source) {
            [] => vec![with(vec!["-".to_owned(); HEADS.len()])],
            targets => targets.iter().map(|target| with(target.cells())).collect(),
        }
    }

    /// Returns the lines of a partition in CSV, where `own` are the cells before.
    pub(super) fn lines(&self, source: &Partition, own: &[String]) -> String {
        let line = |cells: Vec<String>| table::csv(&[own, &cells].concat());
        match self.of(source) {
            [] => line(vec![String::new(); CSV_HEADS.split(',').count()]),
            targets => targets.iter().map(|target| line(target.csv_cells())).collect(),
        }
    }

    /// Returns what was restored of partitions that have no row: of older timelines, or of what the backup does not hold any more.
    pub(super) fn beside<'a>(&'a self, has_row: impl Fn(&Partition) -> bool + 'a) -> impl Iterator<Item = String> + 'a {
        let rest = self.by_source.iter().filter(move |(source, _)| !has_row(source));
        rest.flat_map(|(source, targets)| {
            targets.iter().map(move |to| {
                let (topic, index) = (&to.target_topic, to.target_partition);
                let records = table::counted(to.restored_records, "record");
                format!(
                    "Restored besides: {source:?} to {topic}-{index}, offsets [{}, {}), {records}",
                    to.target_first, to.target_next
                )
            })
        })
    }
}

impl Target {
    fn new(pair: &Pair, track: &Track) -> Self {
        Self {
            target_topic: pair.target.topic.to_string(),
            target_topic_id: pair.target.topic_id.to_string(),
            target_partition: pair.target.index,
            target_first: track.target_first(),
            target_next: track.target_next(),
            restored_records: track.records(),
            restored_end: track.end(),
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            format!("{}-{}", self.target_topic, self.target_partition),
            self.target_first.to_string(),
            self.target_next.to_string(),
            self.restored_records.to_string(),
            table::or_dash(self.restored_end),
        ]
    }

    fn csv_cells(&self) -> Vec<String> {
        vec![
            self.target_topic.clone(),
            self.target_topic_id.clone(),
            self.target_partition.to_string(),
            self.target_first.to_string(),
            self.target_next.to_string(),
            self.restored_records.to_string(),
            self.restored_end.map(|end| end.to_string()).unwrap_or_default(),
        ]
    }
}
