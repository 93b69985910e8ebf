//! `describe`: one backup in full: where it is from, what it holds of each partition, its gaps, the topics' settings; with
//! `--groups` its consumer groups instead ([`groups`]).

mod groups;

use serde::Serialize;

use super::offset_mapping::{GapData, LostData, gaps, lost, notes};
use super::table::{self, Output, Page};
use super::{ArchiveArgs, Format};
use crate::archive::Backup;
use crate::archive::source::opened::Staged;
use crate::archive::source::summary::{Summarised, Summary, findings, summarise};
use crate::archive::source::{self, Place, chain};
use crate::error::Result;
use crate::pipeline::{Topic, TopicConfig};
use crate::record::{Offset, OffsetRange, Timestamp};

/// What the user typed after `describe`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    kafka-backup describe --path s3://my-kafka-backups --backup-id production-backup-001\n  \
    kafka-backup describe --path s3://my-kafka-backups --backup-id production-backup-001 --groups \\\n    \
    --savepoint 2026-11-22T10:00:00Z")]
pub struct Args {
    /// The backup, and how to print
    #[command(flatten)]
    pub archive: ArchiveArgs,
    /// Show its consumer groups instead: type, state, and where each stood
    #[arg(long)]
    groups: bool,
    /// The savepoint that tells of the groups: its name, or a time, for the newest one up to then [default: the newest]
    #[arg(long, value_name = "ID|TIME", requires = "groups")]
    savepoint: Option<String>,
}

/// Describes the backup.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup); after printing, the kind of the worst finding. Of groups: those of
/// [`groups::show`].
pub async fn run(args: Args) -> Result<()> {
    let root = super::open(&args.archive.path)?;
    let archive = source::open(&root, &args.archive.backup_id).await?;
    if args.groups {
        let mut output = Output::stdout()?;
        groups::show(&archive, args.savepoint.as_deref(), args.archive.format, &mut output).await?;
        return output.finish();
    }
    let summarised = summarise(&archive).await?;
    let description = Description::new(archive.backup(), &summarised);
    let mut output = Output::stdout()?;
    match args.archive.format {
        Format::Json => output.json(&description)?,
        Format::Csv => output.write(description.csv().as_bytes())?,
        Format::Table => output.write(page(&description, &summarised).text().as_bytes())?,
    }
    output.finish()?;
    chain::verdict(&archive.backup().backup_id, &findings(&archive, &summarised))
}

/// A backup as data; its JSON is stable.
#[derive(Debug, Serialize)]
struct Description {
    #[serde(flatten)]
    backup: Backup,
    segments: u64,
    records: u64,
    bytes: u64,
    topics: Vec<TopicData>,
}

#[derive(Debug, Serialize)]
struct TopicData {
    topic: String,
    topic_id: String,
    newest: bool,
    /// What `topic-<n>.json` says; `None` where there is none, or it cannot be read.
    settings: Option<Topic>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    partitions: Vec<PartitionData>,
}

#[derive(Debug, Serialize)]
struct PartitionData {
    partition: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fork: Option<String>,
    /// Of a fork: what the source had lost when it began, and which chain holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_by_source: Option<LostData>,
    covers_from: Option<Offset>,
    covers_to: Option<Offset>,
    first_offset: Option<Offset>,
    last_offset: Option<Offset>,
    record_count: u64,
    /// Batches that were made of messages of format v0 or v1.
    converted_batches: u64,
    segments: u64,
    bytes: u64,
    first_time: Option<String>,
    max_time: Option<String>,
    sealed_at: Option<String>,
    gaps: Vec<GapData>,
    /// Only where a sidecar that was read names stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    stages: Option<StagesData>,
    findings: Vec<String>,
}

/// What is told of stages by the sidecars that are in no catalog yet: reading all takes a request for each segment.
#[derive(Debug, Serialize)]
struct StagesData {
    /// The last so many of `segments` are told of here.
    of_segments: u64,
    /// Each its plugin's name, and the digest of the plugin's file.
    plugins: Vec<String>,
    left_out_records: u64,
    dead_letters: u64,
}

impl StagesData {
    fn new(staged: &Staged) -> Option<Self> {
        let Staged { segments, stages, records, dead_letters } = staged;
        (!stages.is_empty()).then(|| Self {
            of_segments: *segments,
            plugins: stages.clone(),
            left_out_records: *records,
            dead_letters: *dead_letters,
        })
    }
}

impl Description {
    fn new(backup: &Backup, summarised: &[Summarised]) -> Self {
        let topics: Vec<_> = summarised.iter().map(TopicData::new).collect();
        let sum = |of: fn(&PartitionData) -> u64| topics.iter().flat_map(|topic| &topic.partitions).map(of).sum();
        Self {
            backup: backup.clone(),
            segments: sum(|partition| partition.segments),
            records: sum(|partition| partition.record_count),
            bytes: sum(|partition| partition.bytes),
            topics,
        }
    }

    fn csv(&self) -> String {
        let heads = [
            "topic,topic_id,newest,partition,fork,covers_from,covers_to,first_offset,last_offset",
            "record_count,converted_batches,segments,bytes,first_time,max_time,sealed_at,gaps,findings\n",
        ];
        let mut lines = heads.join(",");
        for topic in &self.topics {
            for partition in &topic.partitions {
                let mut cells = vec![topic.topic.clone(), topic.topic_id.clone(), topic.newest.to_string()];
                cells.extend(partition.cells());
                lines.push_str(&table::csv(&cells));
            }
        }
        lines
    }
}

impl TopicData {
    fn new((timeline, places): &Summarised) -> Self {
        Self {
            topic: timeline.topic.to_string(),
            topic_id: timeline.topic_id.to_string(),
            newest: timeline.is_newest,
            settings: timeline.object.as_ref().ok().and_then(Option::as_ref).map(|object| object.topic.clone()),
            error: timeline.object.as_ref().err().map(ToString::to_string),
            partitions: places.iter().map(PartitionData::new).collect(),
        }
    }
}

impl PartitionData {
    fn new((place, summary): &(Place, Summary)) -> Self {
        let time = |time: Option<Timestamp>| known(time).map(|time| time.to_string());
        Self {
            partition: place.partition.index,
            fork: place.fork.map(|fork| fork.to_string()),
            lost_by_source: lost(summary),
            covers_from: summary.range.map(|range| range.first),
            covers_to: summary.range.map(|range| range.next),
            first_offset: summary.first_record,
            last_offset: summary.last_record,
            record_count: summary.records,
            converted_batches: summary.converted,
            segments: summary.segments,
            bytes: summary.bytes,
            first_time: time(summary.first_time),
            max_time: time(summary.max_time),
            sealed_at: time(summary.sealed_at),
            gaps: gaps(summary),
            stages: StagesData::new(&summary.staged),
            findings: summary.findings.iter().map(ToString::to_string).collect(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let offset = |offset: Option<Offset>| offset.map(|offset| offset.to_string()).unwrap_or_default();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        vec![
            self.partition.to_string(),
            text(&self.fork),
            offset(self.covers_from),
            offset(self.covers_to),
            offset(self.first_offset),
            offset(self.last_offset),
            self.record_count.to_string(),
            self.converted_batches.to_string(),
            self.segments.to_string(),
            self.bytes.to_string(),
            text(&self.first_time),
            text(&self.max_time),
            text(&self.sealed_at),
            self.gaps.len().to_string(),
            self.findings.len().to_string(),
        ]
    }
}

fn page(description: &Description, summarised: &[Summarised]) -> Page {
    let backup = &description.backup;
    let mut page = Page::new(format_args!("Backup: {}", backup.backup_id));
    page.line(format_args!("Created:   {} by {}", backup.created, backup.created_by));
    page.line(format_args!("Cluster:   {}", table::or_dash(backup.cluster_id.as_ref())));
    page.line(format_args!("Format:    {}, envelope {}", backup.format, backup.envelope));
    let (records, segments) = (table::counted(description.records, "record"), description.segments);
    let (segments, bytes) = (table::counted(segments, "segment"), table::size(description.bytes));
    page.line(format_args!("Holds:     {records} in {segments}, {bytes}"));
    for ((_, places), topic) in summarised.iter().zip(&description.topics) {
        let older = if topic.newest { "" } else { ", an older timeline" };
        page.line(format_args!("\nTopic: {} ({}{older})", topic.topic, topic.topic_id));
        let heads = ["Partition", "Covers", "First Offset", "Last Offset", "Record Count", "Segments", "Bytes"];
        let times = ["First Time", "Last Time"];
        let rows: Vec<_> = places.iter().map(|(place, summary)| row(place, summary)).collect();
        page.table(&[&heads[..], &times[..]].concat(), &rows);
        notes(&mut page, places);
        converted(&mut page, places);
        staged(&mut page, places);
        if let Some(error) = &topic.error {
            page.line(format_args!("Finding: {error}"));
        }
        settings(&mut page, topic.settings.as_ref());
    }
    page
}

fn row(place: &Place, summary: &Summary) -> Vec<String> {
    vec![
        place.name(),
        table::or_dash(summary.range.as_ref().map(OffsetRange::to_string)),
        table::or_dash(summary.first_record),
        table::or_dash(summary.last_record),
        summary.records.to_string(),
        summary.segments.to_string(),
        table::size(summary.bytes),
        table::or_dash(known(summary.first_time)),
        table::or_dash(known(summary.max_time)),
    ]
}

/// Returns a time unless it is Kafka's "none", as of all records of format v0.
fn known(time: Option<Timestamp>) -> Option<Timestamp> {
    time.filter(|time| *time != Timestamp::NONE)
}

/// Says which partitions are not what the broker held, bit by bit.
fn converted(page: &mut Page, places: &[(Place, Summary)]) {
    for (place, summary) in places.iter().filter(|(_, summary)| summary.converted > 0) {
        let batches = if summary.converted == 1 { "batch" } else { "batches" };
        page.line(format_args!(
            "Converted: partition {}, {} {batches} made of record format v0 or v1",
            place.partition.index, summary.converted
        ));
    }
}

/// Says which stages the records of partitions went through, as far as that is known without reading every sidecar.
fn staged(page: &mut Page, places: &[(Place, Summary)]) {
    for (place, Summary { staged, segments, .. }) in places.iter().filter(|(_, told)| !told.staged.stages.is_empty()) {
        let left_out = match staged.records {
            0 => "nothing was left out".to_owned(),
            records => {
                let letters = table::counted(staged.dead_letters, "dead letter");
                format!("left out {}, {letters} kept", table::counted(records, "record"))
            }
        };
        let of = match segments - staged.segments.min(*segments) {
            0 => String::new(),
            _ => format!(" (of the last {} of {segments} segments; `verify` tells of all)", staged.segments),
        };
        page.line(format_args!("Stages: partition {}, {}: {left_out}{of}", place.name(), staged.stages.join(", ")));
    }
}

/// Adds the settings that somebody had chosen; the brokers' defaults are in the JSON.
fn settings(page: &mut Page, topic: Option<&Topic>) {
    let Some(topic) = topic else {
        page.line("Settings: unknown");
        return;
    };
    let text = |config: &TopicConfig| format!("{}={}", config.name, config.value.as_deref().unwrap_or("(secret)"));
    let set = match &topic.configs {
        None => "the others unknown".to_owned(),
        Some(configs) => {
            let set: Vec<_> = configs.iter().filter(|config| config.set).map(text).collect();
            if set.is_empty() { "all defaults".to_owned() } else { set.join(", ") }
        }
    };
    let partitions = table::counted(topic.partitions.unsigned_abs().into(), "partition");
    page.line(format_args!("Settings: {partitions}, replication factor {}; {set}", topic.replication_factor));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::archive::sidecar::Kind;
    use crate::archive::source::dead_letters::tests::emptied;
    use crate::archive::source::tests::Fixture;

    #[tokio::test]
    async fn a_description_names_ranges_gaps_and_chosen_settings() {
        let fixture = Fixture::new("b").await;
        fixture.topic("orders", "_", 2).await;
        fixture.segment("orders", 0, 5, Kind::First, &[fixture.batch(5, 5)]).await;
        fixture.gap_of("orders", "_", 0, 10..20).await;
        let old = Bytes::from_static(include_bytes!("../batch/legacy/v1.log"));
        let batches = crate::batch::legacy::convert(&old, 0, None).bytes;
        fixture.segment("orders", 1, 0, Kind::First, &[batches]).await;
        let summarised = summarise(&fixture.archive).await.expect("sound");
        let description = Description::new(fixture.archive.backup(), &summarised);
        let page = page(&description, &summarised);
        for part in [
            "Backup: b",
            "Topic: orders (_)",
            "0          [5, 20)  5             9            5             2 ",
            "1          [0, 12)  0             11           12            1 ",
            "Converted: partition 1, 4 batches made of record format v0 or v1",
            "Gap: partition 0, offsets [10, 20): retention",
            "retention.ms=1000",
        ] {
            assert!(page.text().contains(part), "{part} in\n{}", page.text());
        }
        assert!(!page.text().contains("segment.bytes"), "a default was not chosen");
        let json = serde_json::to_value(&description).expect("data");
        assert_eq!(json["topics"][0]["partitions"][0]["gaps"][0]["next_offset"], 20);
        assert_eq!(description.csv().lines().count(), 3);
    }

    #[tokio::test]
    async fn stages_are_told_as_far_as_sidecars_were_read_anyway() {
        let fixture = Fixture::new("b").await;
        let batch = fixture.batch(5, 5);
        let dead_letter = Some(fixture.dead_letter(&batch).await);
        let range = OffsetRange { first: 5, next: 10 };
        let kept = crate::record::LeftOut { range, records: 5, stage: 0, dead_letter };
        fixture.staged_segment(0, &[fixture.batch(0, 5), emptied(&batch)], &[kept]).await;
        let mut summarised = summarise(&fixture.archive).await.expect("sound");
        let text = |summarised: &[Summarised]| {
            page(&Description::new(fixture.archive.backup(), summarised), summarised).text().to_owned()
        };
        let line = "Stages: partition 0, mask 00: left out 5 records, 1 dead letter kept";
        assert!(text(&summarised).contains(&format!("{line}\n")), "{}", text(&summarised));
        let json = serde_json::to_value(Description::new(fixture.archive.backup(), &summarised)).expect("data");
        let stages = &json["topics"][0]["partitions"][0]["stages"];
        let told = serde_json::json!({
            "of_segments": 1, "plugins": ["mask 00"], "left_out_records": 5, "dead_letters": 1
        });
        assert_eq!(*stages, told);
        summarised[0].1[0].1.segments = 40;
        let part = format!("{line} (of the last 1 of 40 segments; `verify` tells of all)\n");
        assert!(text(&summarised).contains(&part), "{}", text(&summarised));
    }

    #[tokio::test]
    async fn a_damaged_topic_object_is_told_and_is_damage() {
        let fixture = Fixture::new("b").await;
        fixture.topic("t", "_", 1).await;
        fixture.segment("t", 0, 0, Kind::First, &[fixture.batch(0, 5)]).await;
        let cut = |key: &str, bytes: Bytes| Some(if key.ends_with(".json") { bytes.slice(..9) } else { bytes });
        let broken = fixture.but(cut).await;
        let summarised = summarise(&broken.archive).await.expect("listed");
        let text = page(&Description::new(broken.archive.backup(), &summarised), &summarised).text().to_owned();
        assert!(text.contains("Finding: topic object cannot be read"), "{text}");
        assert!(text.contains("[0, 5)"), "{text}");
        let verdict = chain::verdict("b", &findings(&broken.archive, &summarised));
        assert_eq!(verdict.expect_err("damage").exit_code(), 4);
    }
}
