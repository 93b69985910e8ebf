//! `list`: the backups below a path or, with `--backup-id`, the topics of one.

use serde::Serialize;

use super::Format;
use super::table::{self, Output, Page};
use crate::archive::source::chain::Chain;
use crate::archive::{Archive, source};
use crate::error::{Error, Kind, Result};
use crate::store::Store;

/// What the user typed after `list`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the archive is: a folder or a URL
    #[arg(long, value_name = "PATH|URL")]
    pub path: String,
    /// List the topics of this backup
    #[arg(long, value_name = "NAME", value_parser = super::backup_id)]
    pub backup_id: Option<String>,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub format: Format,
}

/// A backup, as listed.
#[derive(Debug, Serialize)]
struct BackupRow {
    backup_id: String,
    created: Option<String>,
    cluster_id: Option<String>,
    topics: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A timeline of a topic, as listed.
#[derive(Debug, Serialize)]
struct TopicRow {
    topic: String,
    topic_id: String,
    newest: bool,
    partitions: usize,
    segments: usize,
    bytes: u64,
}

/// Lists what there is.
///
/// # Errors
/// [`Kind::NoBackup`] for a backup that is not there; [`Kind::Damaged`] when one could not be opened, after all others
/// are printed.
pub async fn run(args: Args) -> Result<()> {
    let root = Store::open(&args.path)?;
    let mut output = Output::stdout()?;
    let result = match &args.backup_id {
        Some(backup_id) => list_topics(&source::open(&root, backup_id).await?, args.format, &mut output).await,
        None => list_backups(&root, &args.path, args.format, &mut output).await,
    };
    output.finish()?;
    result
}

async fn list_backups(root: &Store, path: &str, format: Format, output: &mut Output) -> Result<()> {
    let mut rows = Vec::new();
    let mut broken = 0;
    for backup_id in source::backups(root).await? {
        match Archive::open(root, &backup_id).await {
            Ok(archive) => {
                let topics = archive.store().list(crate::archive::layout::TOPICS).await?;
                let topics = topics.iter().filter(|entry| entry.is_folder).count();
                let backup = archive.backup().clone();
                let (created, cluster_id) = (Some(backup.created), backup.cluster_id);
                rows.push(BackupRow { backup_id, created, cluster_id, topics: Some(topics), error: None });
            }
            Err(error) if error.retryable() => return Err(error),
            Err(error) => {
                tracing::error!("{error}");
                broken += 1;
                let error = Some(error.to_string());
                rows.push(BackupRow { backup_id, created: None, cluster_id: None, topics: None, error });
            }
        }
    }
    if rows.is_empty() {
        tracing::warn!("there is no backup below `{path}`");
    }
    let cells = |row: &BackupRow| {
        [Some(row.backup_id.clone()), row.created.clone(), row.cluster_id.clone(), row.topics.map(|n| n.to_string())]
    };
    match format {
        Format::Json => output.json(&rows)?,
        Format::Csv => {
            output.write(b"backup_id,created,cluster_id,topics\n")?;
            for row in &rows {
                output.write(table::csv(&cells(row).map(Option::unwrap_or_default)).as_bytes())?;
            }
        }
        Format::Table => {
            let rows: Vec<_> = rows.iter().map(|row| cells(row).map(table::or_dash).to_vec()).collect();
            let mut page = Page::new(format_args!("Backups: {path}"));
            page.table(&["Backup", "Created", "Cluster", "Topics"], &rows);
            output.write(page.text().as_bytes())?;
        }
    }
    if broken > 0 {
        let what = format!("{} cannot be opened", table::counted(broken, "backup"));
        return Err(Error::new(Kind::Damaged, what).with("path", path));
    }
    Ok(())
}

async fn list_topics(archive: &Archive, format: Format, output: &mut Output) -> Result<()> {
    let mut rows = Vec::new();
    for timeline in source::timelines(archive).await? {
        let mut row = TopicRow {
            topic: timeline.topic.to_string(),
            topic_id: timeline.topic_id.to_string(),
            newest: timeline.is_newest,
            partitions: timeline.places.iter().filter(|place| place.fork.is_none()).count(),
            segments: 0,
            bytes: 0,
        };
        for place in &timeline.places {
            let (segments, bytes) = Chain::open(archive, place).await?.size();
            row.segments += segments;
            row.bytes += bytes;
        }
        rows.push(row);
    }
    let backup_id = &archive.backup().backup_id;
    match format {
        Format::Json => output.json(&rows)?,
        Format::Csv => {
            output.write(b"topic,topic_id,newest,partitions,segments,bytes\n")?;
            for row in &rows {
                let numbers = [row.partitions as u64, row.segments as u64, row.bytes].map(|number| number.to_string());
                let [partitions, segments, bytes] = numbers;
                let newest = row.newest.to_string();
                let cells = [row.topic.clone(), row.topic_id.clone(), newest, partitions, segments, bytes];
                output.write(table::csv(&cells).as_bytes())?;
            }
        }
        Format::Table => {
            let mut page = Page::new(format_args!("Topics: {backup_id}"));
            let rows: Vec<_> = rows.into_iter().map(topic_cells).collect();
            page.table(&["Topic", "Partitions", "Segments", "Bytes", "Topic Id"], &rows);
            output.write(page.text().as_bytes())?;
        }
    }
    Ok(())
}

fn topic_cells(row: TopicRow) -> Vec<String> {
    let id = if row.newest { row.topic_id } else { format!("{} (older timeline)", row.topic_id) };
    vec![row.topic, row.partitions.to_string(), row.segments.to_string(), table::size(row.bytes), id]
}
