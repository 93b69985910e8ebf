//! `verify`: says whether a backup is what was written. What is looked at is [`verify`](crate::verify)'s; here it is
//! asked for and printed.

use serde::Serialize;

use super::table::{self, Output, Page};
use super::{ArchiveArgs, Format};
use crate::archive::source::dead_letters::Letter;
use crate::archive::{Archive, source};
use crate::cli::cluster::ClusterArgs;
use crate::error::Result;
use crate::record::Offset;
use crate::restore::state::State;
use crate::verify::cluster::{self, Compared};
use crate::verify::restored::{self, PairReport, Restored};
use crate::verify::{self, Count, Found, Mode, Report, Stretch, TopicReport};

/// What the user typed after `verify`.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Check a backup.\n\nWithout --deep everything but the logs is read: the chains of segments and their \
    sidecars, catalogs, topic objects, savepoints. With --deep every byte is, and each sidecar is held against its log. \
    With --against-cluster the archive is compared with what the source still has, batch by batch; with --against-restore \
    what a restore takes of it with what its target has, record by record.",
    after_help = "Exit codes: 0 sound (forks, work that a writer left unfinished at the end of a chain, and what the source \
    has compacted or deleted since, included), 4 damage or a difference, 5 a hole that nothing declares, 1 something could \
    not be looked at or compared, 3 transactions of which a repair could not find out whether they were aborted, 10 no such backup"
)]
pub struct Args {
    #[command(flatten)]
    pub(super) archive: ArchiveArgs,
    /// Read every byte of the logs too
    #[arg(long)]
    pub(super) deep: bool,
    #[command(flatten)]
    pub(super) against: Against,
}

/// What to compare with, if with something.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Against {
    /// Compare with what the source still has
    #[arg(long)]
    pub(super) against_cluster: bool,
    /// Compare with what this restore has made of it; the cluster is its target
    #[arg(
        long, value_name = "RESTORE-ID", conflicts_with = "against_cluster", value_parser = super::restores::restore_id,
    )]
    pub(super) against_restore: Option<String>,
    /// Where the restore keeps its objects, if not with the backup: a folder or a URL
    #[arg(long, value_name = "PATH|URL", requires = "against_restore")]
    pub(super) state: Option<String>,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
}

impl Against {
    /// Finds what the restore keeps.
    async fn state(&self, archive: &Archive, restore_id: &str) -> Result<State> {
        let beside = match &self.state {
            Some(state) => super::restores::beside(state, &archive.backup().backup_id)?,
            None => archive.store().clone(),
        };
        State::open(&beside, restore_id).await
    }
}

/// Checks the backup.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup); after printing, the kind of the worst finding.
pub async fn run(args: Args) -> Result<()> {
    let against = &args.against;
    let is_asked = against.against_cluster || against.against_restore.is_some();
    let properties = against.cluster.properties_if(is_asked)?;
    let root = super::open(&args.archive.path)?;
    let archive = source::open(&root, &args.archive.backup_id).await?;
    let restore = match &against.against_restore {
        Some(restore_id) => Some(against.state(&archive, restore_id).await?),
        None => None,
    };
    let mode = if args.deep { Mode::Deep } else { Mode::Plain };
    let mut report = verify::check(&archive, mode).await?;
    match (properties, restore) {
        (Some(properties), Some(state)) => restored::compare(&archive, &state, properties, &mut report).await,
        (Some(properties), None) => cluster::compare(&archive, properties, &mut report).await,
        (None, _) => {}
    }
    if report.topics.is_empty() {
        tracing::warn!("the backup `{}` holds no topic", report.backup_id);
    }
    let mut output = Output::stdout()?;
    match args.archive.format {
        Format::Table => output.write(page(&report).text().as_bytes())?,
        Format::Csv => output.write(lines(&report).as_bytes())?,
        Format::Json => output.json(&data(&report))?,
    }
    output.finish()?;
    report.verdict()
}

fn page(report: &Report) -> Page {
    let mode = if report.mode == Mode::Deep { " (deep)" } else { "" };
    let mut page = Page::new(format_args!("Verify: {}{mode}", report.backup_id));
    let row = |topic: &TopicReport| {
        let older = if topic.newest { "" } else { "@" };
        let id = if topic.newest { "" } else { &topic.topic_id };
        vec![
            format!("{}{older}{id}", topic.topic),
            topic.partitions.to_string(),
            topic.count.segments.to_string(),
            topic.count.batches.to_string(),
            topic.count.records.to_string(),
            table::size(topic.count.bytes),
            topic.result(),
        ]
    };
    let rows: Vec<_> = report.topics.iter().map(row).collect();
    page.table(&["Topic", "Partitions", "Segments", "Batches", "Records", "Bytes", "Result"], &rows);
    for found in report.findings() {
        page.line(format_args!("{found}"));
    }
    if report.savepoints > 0 || !report.findings.is_empty() {
        let result = verify::summed_up(&report.findings);
        page.line(format_args!("{}: {result}", table::counted(report.savepoints, "savepoint")));
    }
    if let Some(Compared { partitions, offsets, bytes }) = report.compared {
        let (partitions, bytes) = (table::counted(partitions, "partition"), table::size(bytes));
        page.line(format_args!("compared with the source: {partitions}, {offsets} offsets, {bytes}"));
    }
    if let Some(restored) = &report.restored {
        pairs(&mut page, restored);
    }
    page
}

/// Adds what the pairs of a restore come to.
pub(super) fn pairs(page: &mut Page, restored: &Restored) {
    page.line(format_args!("compared with restore {}:", restored.restore_id));
    let row = |pair: &PairReport| {
        let digest = |digest: &Option<String>| table::or_dash(digest.as_deref());
        vec![
            format!("{}-{}", pair.pair.source.topic, pair.pair.source.index),
            format!("{}-{}", pair.pair.target.topic, pair.pair.target.index),
            table::or_dash(pair.archive_records),
            table::or_dash(pair.target_records),
            digest(&pair.archive_digest),
            digest(&pair.target_digest),
            pair.result.clone(),
        ]
    };
    let rows: Vec<_> = restored.pairs.iter().map(row).collect();
    let heads = ["Source", "Target", "Archived", "Restored", "Digest of Archive", "Digest of Target", "Result"];
    page.table(&heads, &rows);
}

/// The report as data; its JSON is stable.
#[derive(Debug, Serialize)]
struct Data {
    backup_id: String,
    mode: Mode,
    sound: bool,
    topics: Vec<TopicData>,
    savepoints: u64,
    compared: Option<Compared>,
    restored: Option<Restored>,
    findings: Vec<FindingData>,
    left_out: Vec<LeftOutData>,
}

#[derive(Debug, Serialize)]
struct TopicData {
    topic: String,
    topic_id: String,
    newest: bool,
    partitions: u64,
    #[serde(flatten)]
    count: Count,
    result: String,
}

#[derive(Debug, Serialize)]
struct FindingData {
    topic: Option<String>,
    topic_id: Option<String>,
    partition: Option<String>,
    what: &'static str,
    first_offset: Option<i64>,
    next_offset: Option<i64>,
    object: String,
    detail: String,
}

/// Batches of which a stage left out records.
#[derive(Debug, Serialize)]
struct LeftOutData {
    topic: String,
    topic_id: String,
    partition: String,
    /// From 1; `None` where nothing tells it any more.
    stage: Option<u8>,
    /// The plugin's name, and the digest of its file.
    plugin: Option<String>,
    first_offset: Offset,
    next_offset: Offset,
    records: u32,
    /// The object that they were kept as; `None` where they were skipped.
    dead_letter: Option<String>,
}

fn data(report: &Report) -> Data {
    let topic = |topic: &TopicReport| TopicData {
        topic: topic.topic.clone(),
        topic_id: topic.topic_id.clone(),
        newest: topic.newest,
        partitions: topic.partitions,
        count: topic.count,
        result: topic.result(),
    };
    Data {
        backup_id: report.backup_id.clone(),
        mode: report.mode,
        sound: report.is_sound(),
        topics: report.topics.iter().map(topic).collect(),
        savepoints: report.savepoints,
        compared: report.compared,
        restored: report.restored.clone(),
        findings: findings(report).collect(),
        left_out: left_out(report).collect(),
    }
}

fn left_out(report: &Report) -> impl Iterator<Item = LeftOutData> + '_ {
    let all = report.topics.iter().flat_map(|topic| topic.left_out.iter().map(move |told| (topic, told)));
    all.map(|(topic, (place, Stretch { stage, left_out }))| LeftOutData {
        topic: topic.topic.clone(),
        topic_id: topic.topic_id.clone(),
        partition: place.name(),
        stage: stage.as_ref().map(|_| left_out.stage + 1),
        plugin: stage.as_ref().map(ToString::to_string),
        first_offset: left_out.range.first,
        next_offset: left_out.range.next,
        records: left_out.records,
        dead_letter: Letter::of(left_out).map(|letter| letter.key(&place.partition)),
    })
}

fn findings(report: &Report) -> impl Iterator<Item = FindingData> + '_ {
    report.findings().map(|Found { topic, partition, finding }| FindingData {
        topic: topic.map(|topic| topic.topic.clone()),
        topic_id: topic.map(|topic| topic.topic_id.clone()),
        partition: partition.map(str::to_owned),
        what: finding.what.name(),
        first_offset: finding.range.map(|range| range.first),
        next_offset: finding.range.map(|range| range.next),
        object: finding.object.clone(),
        detail: finding.detail.clone(),
    })
}

/// Returns the findings as CSV: only the head where there are none.
fn lines(report: &Report) -> String {
    let mut lines = "topic,topic_id,partition,finding,first_offset,next_offset,object,detail,mode\n".to_owned();
    let offset = |offset: Option<i64>| offset.map(|offset| offset.to_string()).unwrap_or_default();
    let mode = if report.mode == Mode::Deep { "deep" } else { "plain" };
    for finding in findings(report) {
        lines.push_str(&table::csv(&[
            finding.topic.unwrap_or_default(),
            finding.topic_id.unwrap_or_default(),
            finding.partition.unwrap_or_default(),
            finding.what.to_owned(),
            offset(finding.first_offset),
            offset(finding.next_offset),
            finding.object,
            finding.detail,
            mode.to_owned(),
        ]));
    }
    lines
}

#[cfg(test)]
mod tests;
