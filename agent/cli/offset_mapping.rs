//! `show-offset-mapping`: for each partition the first and last record held, and how many a read-committed reader
//! gets. The table and the CSV are the user's page (`docs/offset-management.md`), to the letter. Where a partition has
//! forks, its row is what a reader gets along the newest. With `--restore-id` there are further columns behind the page's:
//! what became of the partition in that restore ([`targets`]).

mod targets;

use serde::Serialize;

use self::targets::{CSV_HEADS, HEADS, Target, Targets};
use super::restores::{beside, restore_id};

use super::table::{self, Output, Page};
use super::{ArchiveArgs, Format};
use crate::archive::source::summary::{Gap, Summarised, Summary, findings, summarise};
use crate::archive::source::{self, Place, Timeline, chain};
use crate::error::Result;
use crate::record::{Offset, Partition};
use crate::restore::state::State;

/// What the user typed after `show-offset-mapping`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    kafka-backup show-offset-mapping --path /data/backups --backup-id production-backup-001\n  \
    kafka-backup show-offset-mapping --path /data/backups --backup-id production-backup-001 \\\n    \
    --restore-id orders-restore-1f2e3d4c --format csv\n\n\
    Exit codes: 0 shown, 1 the restore has sent nothing yet, 4 damage, 10 no such backup or restore")]
pub struct Args {
    #[command(flatten)]
    pub(super) archive: ArchiveArgs,
    /// Show beside each partition where it went in this restore
    #[arg(long, value_name = "ID", value_parser = restore_id)]
    pub(super) restore_id: Option<String>,
    /// Where the restores keep their objects, if not with the backup: a folder or a URL
    #[arg(long, value_name = "PATH|URL", requires = "restore_id")]
    pub(super) state: Option<String>,
}

/// Prints the mapping.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup); those of the restore that is asked for; after printing, the kind of the
/// worst finding, since a row that rests on damage may be wrong.
pub async fn run(args: Args) -> Result<()> {
    let root = super::open(&args.archive.path)?;
    let archive = source::open(&root, &args.archive.backup_id).await?;
    let backup_id = &archive.backup().backup_id;
    let targets = match &args.restore_id {
        Some(restore_id) => {
            let state = args.state.as_deref().map(|state| beside(state, backup_id)).transpose()?;
            let state = State::open(state.as_ref().unwrap_or(archive.store()), restore_id).await?;
            Some(Targets::open(&archive, &state).await?)
        }
        None => None,
    };
    let targets = targets.as_ref();
    let summarised = summarise(&archive).await?;
    if summarised.is_empty() {
        tracing::warn!("the backup `{backup_id}` holds no topic");
    }
    let mut output = Output::stdout()?;
    match args.archive.format {
        Format::Table => output.write(page(backup_id, &summarised, targets).text().as_bytes())?,
        Format::Csv => output.write(lines(&summarised, targets).as_bytes())?,
        Format::Json => output.json(&mapping(backup_id, &summarised, targets))?,
    }
    output.finish()?;
    chain::verdict(backup_id, &findings(&archive, &summarised))
}

fn page(backup_id: &str, summarised: &[Summarised], targets: Option<&Targets>) -> Page {
    let mut page = Page::new(format_args!("Offset Mapping: {backup_id}"));
    if let Some(targets) = targets {
        page.line(targets.title());
    }
    for (timeline, places) in summarised {
        if timeline.is_newest {
            page.line(format_args!("\nTopic: {}", timeline.topic));
            let own = places.iter().filter(|(place, _)| place.fork.is_none());
            let rows = own.flat_map(|of| match targets {
                Some(targets) => targets.rows(&of.0.partition, &row(of)),
                None => vec![row(of)],
            });
            let behind = if targets.is_some() { &HEADS[..] } else { &[] };
            let heads = [&["Partition", "First Offset", "Last Offset", "Record Count"], behind].concat();
            page.table(&heads, &rows.collect::<Vec<_>>());
        } else {
            older_timeline(&mut page, timeline, places);
        }
        if let Err(error) = &timeline.object {
            page.line(format_args!("Finding: {error}"));
        }
        notes(&mut page, places);
    }
    // Restores of older timelines are rare: a line each will do.
    let has_row = |source: &Partition| {
        let newest = summarised.iter().filter(|(timeline, _)| timeline.is_newest);
        newest.flat_map(|(_, places)| places).any(|(place, _)| place.partition == *source)
    };
    for (at, line) in targets.iter().flat_map(|targets| targets.beside(has_row)).enumerate() {
        page.line(format_args!("{}{line}", if at == 0 { "\n" } else { "" }));
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

fn lines(summarised: &[Summarised], targets: Option<&Targets>) -> String {
    let mut lines = "topic,partition,first_offset,last_offset,record_count,topic_id".to_owned();
    lines.push_str(&targets.map_or(String::new(), |_| format!(",{CSV_HEADS}")));
    lines.push('\n');
    for (timeline, places) in summarised {
        for place in places.iter().filter(|(place, _)| place.fork.is_none()) {
            let mut cells = row(place);
            cells.insert(0, timeline.topic.to_string());
            cells.push(timeline.topic_id.to_string());
            let line = targets.map_or_else(|| table::csv(&cells), |targets| targets.lines(&place.0.partition, &cells));
            lines.push_str(&line);
        }
    }
    lines
}

/// The mapping as data; its JSON is stable.
#[derive(Debug, Serialize)]
struct Mapping {
    backup_id: String,
    /// The restore whose targets stand with the partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_id: Option<String>,
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
    /// Where it went in the restore that was asked for; on the partition itself, not on its forks.
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<Target>>,
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

fn mapping(backup_id: &str, summarised: &[Summarised], targets: Option<&Targets>) -> Mapping {
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
        targets: targets.filter(|_| place.fork.is_none()).map(|targets| targets.of(&place.partition).to_vec()),
    };
    let topic = |(timeline, places): &Summarised| TopicMapping {
        topic: timeline.topic.to_string(),
        topic_id: timeline.topic_id.to_string(),
        newest: timeline.is_newest,
        error: timeline.object.as_ref().err().map(ToString::to_string),
        partitions: places.iter().map(partition).collect(),
    };
    let restore_id = targets.map(|targets| targets.restore_id().to_owned());
    Mapping { backup_id: backup_id.to_owned(), restore_id, topics: summarised.iter().map(topic).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Archive;
    use crate::archive::sidecar::Kind;
    use crate::archive::source::Fork;
    use crate::archive::source::tests::{Fixture, three};
    use crate::pipeline::Topic;
    use crate::record::{OffsetRange, TopicId};
    use crate::restore::map::{OffsetMap, Pair};
    use crate::restore::state::tests::planned;
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
        assert_eq!(page("production-backup-001", &summarised, None).text(), expected);
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
        let page = page("b", &summarised, None);
        let lines: Vec<_> = page.text().lines().skip(3).collect();
        assert_eq!(lines[0], "Topic: t");
        assert_eq!(lines[4], "0          7             9            3");
        assert!(lines[5].starts_with("Gap: partition 0, offsets [0, 7): retention ("), "{}", lines[5]);
        assert_eq!(lines[6], format!("Older timeline: {old}, partition 0: offsets 0 to 4, 5 records"));
        let csv = format!(
            "topic,partition,first_offset,last_offset,record_count,topic_id\nt,0,7,9,3,{new}\nt,0,0,4,5,{old}\n"
        );
        assert_eq!(super::lines(&summarised, None), csv);
    }

    #[tokio::test]
    async fn the_row_of_a_forked_partition_is_what_a_reader_of_the_newest_gets() {
        let fixture = three().await;
        fixture.fork_segment(Fork { epoch: 7, end: 12 }, &[fixture.batch(12, 2)]).await;
        let summarised = summarise(&fixture.archive).await.expect("sound");
        let page = page("b", &summarised, None);
        let lines: Vec<_> = page.text().lines().skip(7).collect();
        assert_eq!(lines[0], "0          0             13           14");
        assert_eq!(lines[1], "Fork: 0@7-12, leader epoch 7 from offset 12 on: offsets 12 to 13, 2 records");
        assert_eq!(lines[2], "Lost by the source: offsets [12, 20), held by 0");
        let json = serde_json::to_value(mapping("b", &summarised, None)).expect("data");
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
        let page = page("b", &summarised, None);
        assert!(page.text().contains("\n0          -  "), "{}", page.text());
        assert!(page.text().contains("Finding: partition 1, unchecked: "), "{}", page.text());
        let verdict = chain::verdict("b", &findings(&archive, &summarised));
        assert_eq!(verdict.expect_err("not a success").exit_code(), 1);
    }

    #[tokio::test]
    async fn a_restore_adds_its_targets_behind_the_columns_of_the_page_a_row_each() {
        let fixture = Fixture::new("b").await;
        fixture.topic("orders", "_", 2).await;
        fixture.segment("orders", 0, 0, Kind::First, &[fixture.batch(0, 10)]).await;
        fixture.segment("orders", 1, 0, Kind::First, &[fixture.batch(0, 5)]).await;
        let at = |topic: &str, index| Partition { topic: topic.into(), topic_id: TopicId::NONE, index };
        let mut map = OffsetMap::default();
        for (source, index, records) in [(at("orders", 0), 0, 4), (at("orders", 0), 1, 3), (at("old", 7), 0, 2)] {
            let pair = Pair { source, target: at("copy", index) };
            map.open(&pair, OffsetRange { first: 0, next: 10 }, 1).expect("a range");
            map.push(&pair, 0, 1, records).expect("in order");
            if index == 0 {
                map.finish(&pair, 1 + records as Offset).expect("behind the last");
            }
        }
        let state = planned(fixture.archive.store()).await;
        let _ = state.put_map(&map).await.expect("kept");
        let targets = Targets::open(&fixture.archive, &state).await.expect("read");
        let summarised = summarise(&fixture.archive).await.expect("sound");
        let page = page("b", &summarised, Some(&targets));
        let lines: Vec<_> = page.text().lines().skip(2).collect();
        assert!(lines[0].starts_with("Restore: r1 ("), "{}", lines[0]);
        let heads = "Partition  First Offset  Last Offset  Record Count  \
                     Target  Target First  Target Next  Records  Restored End";
        assert_eq!(lines[4], heads);
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(cells(lines[6]), "0 0 9 10 copy-0 1 5 4 5");
        assert_eq!(cells(lines[7]), "0 0 9 10 copy-1 1 4 3 -");
        assert_eq!(cells(lines[8]), "1 0 4 5 - - - - -");
        assert_eq!(lines[10], "Restored besides: old-7 (_) to copy-0, offsets [1, 3), 2 records");
        let csv = super::lines(&summarised, Some(&targets));
        assert_eq!(csv.lines().nth(2), Some("orders,0,0,9,10,_,copy,_,1,1,4,3,"));
        assert_eq!(csv.lines().nth(3), Some("orders,1,0,4,5,_,,,,,,,"));
        let json = serde_json::to_value(mapping("b", &summarised, Some(&targets))).expect("data");
        let partitions = &json["topics"][0]["partitions"];
        assert_eq!((&json["restore_id"], &partitions[0]["targets"][1]["target_next"]), (&"r1".into(), &4.into()));
        assert_eq!(partitions[1]["targets"], serde_json::json!([]));
    }
}
