//! `show-offset-mapping`: for each partition the first and last record held, and how many a read-committed reader
//! gets. The table and the CSV are the user's page (`docs/offset-management.md`), to the letter. Where a partition has
//! forks, its row is what a reader gets along the newest.

use serde::Serialize;

use super::table::{self, Output, Page};
use super::{ArchiveArgs, Format};
use crate::archive::source::summary::{Gap, Summarised, Summary, findings, summarise};
use crate::archive::source::{self, Place, Timeline, chain};
use crate::error::Result;
use crate::record::Offset;

/// What the user typed after `show-offset-mapping`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) archive: ArchiveArgs,
}

/// Prints the mapping.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup); after printing, the kind of the worst finding, since a row that
/// rests on damage may be wrong.
pub async fn run(args: Args) -> Result<()> {
    let root = super::open(&args.archive.path)?;
    let archive = source::open(&root, &args.archive.backup_id).await?;
    let summarised = summarise(&archive).await?;
    let backup_id = &archive.backup().backup_id;
    if summarised.is_empty() {
        tracing::warn!("the backup `{backup_id}` holds no topic");
    }
    let mut output = Output::stdout()?;
    match args.archive.format {
        Format::Table => output.write(page(backup_id, &summarised).text().as_bytes())?,
        Format::Csv => output.write(lines(&summarised).as_bytes())?,
        Format::Json => output.json(&mapping(backup_id, &summarised))?,
    }
    output.finish()?;
    chain::verdict(backup_id, &findings(&archive, &summarised))
}

fn page(backup_id: &str, summarised: &[Summarised]) -> Page {
    let mut page = Page::new(format_args!("Offset Mapping: {backup_id}"));
    for (timeline, places) in summarised {
        if timeline.is_newest {
            page.line(format_args!("\nTopic: {}", timeline.topic));
            let rows: Vec<_> = places.iter().filter(|(place, _)| place.fork.is_none()).map(row).collect();
            page.table(&["Partition", "First Offset", "Last Offset", "Record Count"], &rows);
        } else {
            older_timeline(&mut page, timeline, places);
        }
        if let Err(error) = &timeline.object {
            page.line(format_args!("Finding: {error}"));
        }
        notes(&mut page, places);
    }
    page
}

fn row((place, summary): &(Place, Summary)) -> Vec<String> {
    let summary = read_by_default(summary);
    vec![
        place.partition.index.to_string(),
        table::or_dash(summary.first_record),
        table::or_dash(summary.last_record),
        summary.records.to_string(),
    ]
}

/// Returns what a reader of the partition gets: along the newest fork, where there is one.
fn read_by_default(summary: &Summary) -> &Summary {
    summary.newest.as_deref().unwrap_or(summary)
}

/// Adds gaps, forks and findings as lines.
pub(super) fn notes(page: &mut Page, places: &[(Place, Summary)]) {
    for (place, summary) in places {
        if let (Some(fork), Some(left)) = (place.fork, &summary.left) {
            let (held, name) = (held(summary), place.name());
            page.line(format_args!("Fork: {name}, leader epoch {} from offset {} on: {held}", fork.epoch, fork.end));
            if !left.lost.is_empty() {
                page.line(format_args!("Lost by the source: offsets {}, held by {}", left.lost, left.held_by));
            }
        }
        for gap in &summary.gaps {
            let (range, reason) = (gap.range, &gap.reason);
            page.line(format_args!("Gap: partition {}, offsets {range}: {reason} ({})", place.name(), gap.at));
        }
        for finding in &summary.findings {
            page.line(format_args!("Finding: partition {}, {finding}", place.name()));
        }
    }
}

fn older_timeline(page: &mut Page, timeline: &Timeline, places: &[(Place, Summary)]) {
    for (place, summary) in places.iter().filter(|(place, _)| place.fork.is_none()) {
        let held = held(read_by_default(summary));
        page.line(format_args!("Older timeline: {}, partition {}: {held}", timeline.topic_id, place.partition.index));
    }
}

fn held(summary: &Summary) -> String {
    match summary.first_record.zip(summary.last_record) {
        Some((first, last)) => format!("offsets {first} to {last}, {}", table::counted(summary.records, "record")),
        None => "no records".to_owned(),
    }
}

fn lines(summarised: &[Summarised]) -> String {
    let mut lines = "topic,partition,first_offset,last_offset,record_count,topic_id\n".to_owned();
    for (timeline, places) in summarised {
        for place in places.iter().filter(|(place, _)| place.fork.is_none()) {
            let mut cells = row(place);
            cells.insert(0, timeline.topic.to_string());
            cells.push(timeline.topic_id.to_string());
            lines.push_str(&table::csv(&cells));
        }
    }
    lines
}

/// The mapping as data; its JSON is stable.
#[derive(Debug, Serialize)]
struct Mapping {
    backup_id: String,
    topics: Vec<TopicMapping>,
}

#[derive(Debug, Serialize)]
struct TopicMapping {
    topic: String,
    topic_id: String,
    newest: bool,
    /// Why its topic object cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    partitions: Vec<PartitionMapping>,
}

#[derive(Debug, Serialize)]
struct PartitionMapping {
    partition: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fork: Option<String>,
    /// Of a fork: what the source had lost when it began, and which chain holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_by_source: Option<LostData>,
    /// Of a partition that has forks: what a reader gets along the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    newest: Option<Held>,
    first_offset: Option<Offset>,
    last_offset: Option<Offset>,
    record_count: u64,
    gaps: Vec<GapData>,
    findings: Vec<String>,
}

/// The records of a way along forks, as data.
#[derive(Debug, Serialize)]
struct Held {
    first_offset: Option<Offset>,
    last_offset: Option<Offset>,
    record_count: u64,
}

/// What a source had lost, as data.
#[derive(Debug, Serialize)]
pub(super) struct LostData {
    first_offset: Offset,
    next_offset: Offset,
    held_by: String,
}

/// Returns what the source had lost when a fork began, as data.
pub(super) fn lost(summary: &Summary) -> Option<LostData> {
    let left = summary.left.as_ref()?;
    let (first_offset, next_offset) = (left.lost.first, left.lost.next);
    Some(LostData { first_offset, next_offset, held_by: left.held_by.clone() })
}

/// A gap as data.
#[derive(Debug, Serialize)]
pub(super) struct GapData {
    first_offset: Offset,
    next_offset: Offset,
    reason: String,
    at: String,
}

/// Returns a summary's gaps as data.
pub(super) fn gaps(summary: &Summary) -> Vec<GapData> {
    let data = |gap: &Gap| GapData {
        first_offset: gap.range.first,
        next_offset: gap.range.next,
        reason: gap.reason.clone(),
        at: gap.at.to_string(),
    };
    summary.gaps.iter().map(data).collect()
}

fn mapping(backup_id: &str, summarised: &[Summarised]) -> Mapping {
    let partition = |(place, summary): &(Place, Summary)| PartitionMapping {
        partition: place.partition.index,
        fork: place.fork.map(|fork| fork.to_string()),
        lost_by_source: lost(summary),
        newest: summary.newest.as_deref().map(|newest| Held {
            first_offset: newest.first_record,
            last_offset: newest.last_record,
            record_count: newest.records,
        }),
        first_offset: summary.first_record,
        last_offset: summary.last_record,
        record_count: summary.records,
        gaps: gaps(summary),
        findings: summary.findings.iter().map(ToString::to_string).collect(),
    };
    let topic = |(timeline, places): &Summarised| TopicMapping {
        topic: timeline.topic.to_string(),
        topic_id: timeline.topic_id.to_string(),
        newest: timeline.is_newest,
        error: timeline.object.as_ref().err().map(ToString::to_string),
        partitions: places.iter().map(partition).collect(),
    };
    Mapping { backup_id: backup_id.to_owned(), topics: summarised.iter().map(topic).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Archive;
    use crate::archive::sidecar::Kind;
    use crate::archive::source::Fork;
    use crate::archive::source::tests::{Fixture, three};
    use crate::pipeline::Topic;
    use crate::store::Store;

    #[tokio::test]
    async fn the_table_is_the_users_page_to_the_letter() {
        let fixture = Fixture::new("production-backup-001").await;
        fixture.topic("orders", "_", 2).await;
        fixture.segment("orders", 0, 0, Kind::First, &[fixture.batch(0, 150_234)]).await;
        let summarised = summarise(&fixture.archive).await.expect("sound");
        let expected = "\
Offset Mapping: production-backup-001
══════════════════════════════════════════════════════════════

Topic: orders
─────────────────────────────────────────────────────────────
Partition  First Offset  Last Offset  Record Count
─────────────────────────────────────────────────────────────
0          0             150233       150234
1          -             -            0
";
        assert_eq!(page("production-backup-001", &summarised).text(), expected);
    }

    #[tokio::test]
    async fn gaps_and_older_timelines_are_lines_below_the_topic() {
        let fixture = Fixture::new("b").await;
        let (old, new) = ("BBBBBBBBBBBBBBBBBBBBBQ", "4u0fkXLXQ-Or5QvZq9JvUA");
        fixture.topic("t", old, 1).await;
        fixture.segment_of("t", old, 0, 0, Kind::First, &[fixture.batch(0, 5)]).await;
        fixture.topic("t", new, 1).await;
        fixture.gap_of("t", new, 0, 0..7).await;
        fixture.segment_of("t", new, 0, 7, Kind::Data, &[fixture.batch(7, 3)]).await;
        let summarised = summarise(&fixture.archive).await.expect("sound");
        let page = page("b", &summarised);
        let lines: Vec<_> = page.text().lines().skip(3).collect();
        assert_eq!(lines[0], "Topic: t");
        assert_eq!(lines[4], "0          7             9            3");
        assert!(lines[5].starts_with("Gap: partition 0, offsets [0, 7): retention ("), "{}", lines[5]);
        assert_eq!(lines[6], format!("Older timeline: {old}, partition 0: offsets 0 to 4, 5 records"));
        let csv = format!(
            "topic,partition,first_offset,last_offset,record_count,topic_id\nt,0,7,9,3,{new}\nt,0,0,4,5,{old}\n"
        );
        assert_eq!(super::lines(&summarised), csv);
    }

    #[tokio::test]
    async fn the_row_of_a_forked_partition_is_what_a_reader_of_the_newest_gets() {
        let fixture = three().await;
        fixture.fork_segment(Fork { epoch: 7, end: 12 }, &[fixture.batch(12, 2)]).await;
        let summarised = summarise(&fixture.archive).await.expect("sound");
        let page = page("b", &summarised);
        let lines: Vec<_> = page.text().lines().skip(7).collect();
        assert_eq!(lines[0], "0          0             13           14");
        assert_eq!(lines[1], "Fork: 0@7-12, leader epoch 7 from offset 12 on: offsets 12 to 13, 2 records");
        assert_eq!(lines[2], "Lost by the source: offsets [12, 20), held by 0");
        let json = serde_json::to_value(mapping("b", &summarised)).expect("data");
        let partitions = &json["topics"][0]["partitions"];
        assert_eq!(
            (&partitions[0]["record_count"], &partitions[0]["newest"]["record_count"]),
            (&20.into(), &14.into())
        );
        assert_eq!(
            (&partitions[1]["fork"], &partitions[1]["lost_by_source"]["next_offset"]),
            (&"7-12".into(), &20.into())
        );
        chain::verdict("b", &findings(&fixture.archive, &summarised)).expect("sound");
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_read_is_told_beside_the_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
        let archive = Archive::create(&root, "b", None).await.expect("created");
        // A file where partition 1's folder should be: listing it fails, as where one may not look.
        let there = folder.path().join("b/topics/t/_/0");
        std::fs::create_dir_all(there).expect("made");
        std::fs::write(folder.path().join("b/topics/t/_/1"), "").expect("written");
        let topic = Topic {
            name: "t".into(),
            topic_id: "_".into(),
            partitions: 2,
            replication_factor: 1,
            configs: Some(Vec::new()),
        };
        archive.put_topic(&topic).await.expect("kept");
        let summarised = summarise(&archive).await.expect("the others are looked at");
        let page = page("b", &summarised);
        assert!(page.text().contains("\n0          -  "), "{}", page.text());
        assert!(page.text().contains("Finding: partition 1, unchecked: "), "{}", page.text());
        let verdict = chain::verdict("b", &findings(&archive, &summarised));
        assert_eq!(verdict.expect_err("not a success").exit_code(), 1);
    }
}
