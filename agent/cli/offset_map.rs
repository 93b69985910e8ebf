//! `offset-map`: where in the target of a restore a source offset is, or what the restore's map holds.
//!
//! Of a restore that goes on the map is as far as its journals say. Memory: the map, four bytes a run.

use serde::Serialize;

use super::Format;
use super::restores::RestoreArgs;
use super::table::{self, Output, Page};
use crate::error::{Error, Result};
use crate::record::{Offset, TopicId};
use crate::restore::map::{OffsetMap, Pair, Position, Track};
use crate::restore::state::{Phase, State};

/// What the user typed after `offset-map`.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Show where in the target of a restore a source offset is.\n\nA committed offset, the next one to read, \
    is at the first restored record whose source offset is not less; where there is none, at the restored end. Without \
    --offset it is shown how far each partition is restored, and in how many runs.",
    after_help = "Examples:\n  \
    kafka-backup offset-map --path s3://my-kafka-backups --backup-id production-backup-001 \\\n    \
    --restore-id orders-restore-1f2e3d4c --topic orders --partition 0 --offset 150234\n  \
    kafka-backup offset-map --state ./state --backup-id production-backup-001 \\\n    \
    --restore-id orders-restore-1f2e3d4c --format json\n\n\
    Exit codes: 0 there is a target offset, 1 there is none (the restore has not come so far, or the offset was not asked \
    for), 2 no such topic or partition, 4 damage, 10 no such restore"
)]
pub struct Args {
    #[command(flatten)]
    restore: RestoreArgs,
    /// The topic, by its name at the source; `topic@<topic-id>` for one of several timelines
    #[arg(long, value_name = "TOPIC", allow_hyphen_values = true)]
    topic: Option<String>,
    /// The partition at the source
    #[arg(
        long, value_name = "N", allow_negative_numbers = true, requires = "topic",
        value_parser = super::cat::whole::<i32>,
    )]
    partition: Option<i32>,
    /// The offset at the source
    #[arg(
        long, value_name = "OFFSET", allow_negative_numbers = true, requires = "partition",
        value_parser = super::cat::whole::<Offset>,
    )]
    offset: Option<Offset>,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Format,
}

/// Where a source offset is.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    pair: Pair,
    source_offset: Offset,
    target_offset: Option<Offset>,
    /// Whether that is where this very record is, or what was asked for ends.
    exact: bool,
    /// `record`, `next-record`, `end`, `unfinished`, `beyond`.
    how: &'static str,
    /// The source offset of the record at the target offset.
    source_record: Option<Offset>,
    note: String,
}

/// How far a pair of partitions is restored.
#[derive(Debug, Serialize)]
pub(super) struct PairRow {
    #[serde(flatten)]
    pair: Pair,
    asked_first: Offset,
    asked_next: Offset,
    covered: Offset,
    records: u64,
    runs: u64,
    target_first: Offset,
    target_next: Offset,
    /// The restored end; `None` while the restore goes on.
    end: Option<Offset>,
}

/// Prints where an offset is, or what the map holds.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup) for a backup or a restore that is not there;
/// [`Kind::Usage`](crate::error::Kind::Usage) for a topic or partition that was not restored. After printing,
/// [`Kind::Failed`](crate::error::Kind::Failed) where there is no target offset.
pub async fn run(args: Args) -> Result<()> {
    let state = args.restore.open().await?;
    let mut output = Output::stdout()?;
    let result = show(&state, &args, &mut output).await;
    output.finish()?;
    result
}

async fn show(state: &State, args: &Args, output: &mut Output) -> Result<()> {
    let map = held(state).await?;
    let chosen = choose(&map, &args.restore.restore_id, args.topic.as_deref(), args.partition)?;
    let Some(offset) = args.offset else {
        let rows: Vec<_> = chosen.into_iter().map(|(pair, track)| PairRow::of(pair, track)).collect();
        return print_pairs(&args.restore.restore_id, &rows, args.format, output);
    };
    let found: Vec<_> = chosen.into_iter().map(|(pair, track)| Found::of(pair, track, offset)).collect();
    print_found(&args.restore.restore_id, &found, args.format, output)?;
    match found.iter().find(|found| found.target_offset.is_none()) {
        Some(Found { pair, note, .. }) => {
            Err(Error::failed(format!("offset {offset} of {} has no place in {}: {note}", pair.source, pair.target)))
        }
        None => Ok(()),
    }
}

/// Returns the map of a restore as far as it goes.
async fn held(state: &State) -> Result<OffsetMap> {
    let seen = state.look().await?;
    let id = state.restore_id();
    state.offset_map(&seen).await?.ok_or_else(|| {
        Error::failed(format!("the restore `{id}` has no offset map yet")).hint(match seen.phase() {
            Phase::Planned => "it is planned, and nothing was sent",
            Phase::Running => "it has not written its first journal: ask again in some seconds",
            Phase::Cancelled => "it was cancelled before it had written one",
            Phase::Undone => "it was undone before it had written one",
            Phase::Done => "its map is gone: bring the object back from a copy",
        })
    })
}

/// Returns the pairs whose source is chosen.
fn choose<'a>(
    map: &'a OffsetMap,
    restore_id: &str,
    topic: Option<&str>,
    partition: Option<i32>,
) -> Result<Vec<(&'a Pair, &'a Track)>> {
    let Some(topic) = topic else { return Ok(map.iter().collect()) };
    let (name, topic_id) = match topic.split_once('@') {
        Some((name, topic_id)) => (name, Some(topic_id.parse::<TopicId>()?)),
        None => (topic, None),
    };
    let of = |pair: &Pair| {
        let source = &pair.source;
        *source.topic == *name && topic_id.is_none_or(|topic_id| topic_id == source.topic_id)
    };
    let of_topic: Vec<_> = map.iter().filter(|(pair, _)| of(pair)).collect();
    if of_topic.is_empty() {
        let mut names: Vec<_> = map.iter().map(|(pair, _)| &*pair.source.topic).collect();
        names.dedup();
        return Err(Error::usage(format!("the restore `{restore_id}` has no topic `{topic}`"))
            .hint(format!("it has, by their names at the source: {}", names.join(", "))));
    }
    let Some(partition) = partition else { return Ok(of_topic) };
    let chosen: Vec<_> = of_topic.iter().copied().filter(|(pair, _)| pair.source.index == partition).collect();
    if chosen.is_empty() {
        let mut there: Vec<_> = of_topic.iter().map(|(pair, _)| pair.source.index.to_string()).collect();
        there.dedup();
        return Err(Error::usage(format!("the restore `{restore_id}` has no partition {partition} of `{topic}`"))
            .hint(format!("it has: {}", there.join(", "))));
    }
    Ok(chosen)
}

impl Found {
    fn of(pair: &Pair, track: &Track, offset: Offset) -> Self {
        let asked = track.asked();
        let (target_offset, how, source_record, note) = match track.translate(offset) {
            Position::Record { source, target } if source == offset => {
                (Some(target), "record", Some(source), String::new())
            }
            Position::Record { source, target } => {
                let why = match offset < asked.first {
                    true => format!("offsets before {} were not asked for", asked.first),
                    false => "there was no such record to restore".to_owned(),
                };
                (Some(target), "next-record", Some(source), format!("{why}; the next one is {source}"))
            }
            Position::End { target } if offset == asked.next => (Some(target), "end", None, "restored end".to_owned()),
            Position::End { target } => {
                (Some(target), "end", None, "restored end: there was no record from here on to restore".to_owned())
            }
            Position::Unfinished { covered, .. } => {
                (None, "unfinished", None, format!("the restore has come to source offset {covered}"))
            }
            Position::Beyond { target, .. } => {
                (None, "beyond", None, format!("only offsets {asked} were asked for; the restored end is {target}"))
            }
        };
        let exact = how == "record" || (how == "end" && offset == asked.next);
        Self { pair: pair.clone(), source_offset: offset, target_offset, exact, how, source_record, note }
    }
}

impl PairRow {
    /// Returns how far a pair is restored.
    pub(super) fn of(pair: &Pair, track: &Track) -> Self {
        Self {
            pair: pair.clone(),
            asked_first: track.asked().first,
            asked_next: track.asked().next,
            covered: track.covered(),
            records: track.records(),
            runs: track.run_count(),
            target_first: track.target_first(),
            target_next: track.target_next(),
            end: track.end(),
        }
    }
}

fn print_found(restore_id: &str, found: &[Found], format: Format, output: &mut Output) -> Result<()> {
    match format {
        Format::Json => output.json(&found),
        Format::Csv => {
            output.write(format!("{PAIR_COLUMNS},source_offset,target_offset,exact,how\n").as_bytes())?;
            for found in found {
                let target = found.target_offset.map(|offset| offset.to_string()).unwrap_or_default();
                let own = [found.source_offset.to_string(), target, found.exact.to_string(), found.how.to_owned()];
                output.write(table::csv(&[pair_cells(&found.pair), own.to_vec()].concat()).as_bytes())?;
            }
            Ok(())
        }
        Format::Table => {
            let mut page = Page::new(format_args!("Offset Map: {restore_id}"));
            for of_source in found.chunk_by(|a, b| a.pair.source == b.pair.source) {
                page.line(format_args!("\nSource: {:?}", of_source[0].pair.source));
                let row = |found: &Found| {
                    vec![
                        found.source_offset.to_string(),
                        found.pair.target.topic.to_string(),
                        found.pair.target.index.to_string(),
                        table::or_dash(found.target_offset),
                        if found.exact { "yes" } else { "no" }.to_owned(),
                        table::or_dash(Some(&found.note).filter(|note| !note.is_empty())),
                    ]
                };
                let heads = ["Source Offset", "Target Topic", "Partition", "Target Offset", "Exact", "Note"];
                page.table(&heads, &of_source.iter().map(row).collect::<Vec<_>>());
            }
            output.write(page.text().as_bytes())
        }
    }
}

fn print_pairs(restore_id: &str, rows: &[PairRow], format: Format, output: &mut Output) -> Result<()> {
    match format {
        Format::Json => output.json(&rows),
        Format::Csv => output.write(pair_lines(rows).as_bytes()),
        Format::Table => {
            let mut page = Page::new(format_args!("Offset Map: {restore_id}"));
            pair_table(&mut page, rows);
            output.write(page.text().as_bytes())
        }
    }
}

const PAIR_COLUMNS: &str =
    "source_topic,source_topic_id,source_partition,target_topic,target_topic_id,target_partition";

fn pair_cells(pair: &Pair) -> Vec<String> {
    let cells = [&pair.source, &pair.target]
        .map(|partition| [partition.topic.to_string(), partition.topic_id.to_string(), partition.index.to_string()]);
    cells.concat()
}

/// Returns the rows as CSV.
pub(super) fn pair_lines(rows: &[PairRow]) -> String {
    let mut lines =
        format!("{PAIR_COLUMNS},asked_first,asked_next,covered,records,runs,target_first,target_next,end\n");
    for row in rows {
        let mut cells = pair_cells(&row.pair);
        cells.extend([row.asked_first, row.asked_next, row.covered].map(|offset| offset.to_string()));
        cells.extend([row.records, row.runs].map(|count| count.to_string()));
        cells.extend([row.target_first, row.target_next].map(|offset| offset.to_string()));
        cells.push(row.end.map(|end| end.to_string()).unwrap_or_default());
        lines.push_str(&table::csv(&cells));
    }
    lines
}

/// Adds the rows as a table.
pub(super) fn pair_table(page: &mut Page, rows: &[PairRow]) {
    let row = |row: &PairRow| {
        vec![
            row.pair.source.to_string(),
            row.pair.target.to_string(),
            format!("[{}, {})", row.asked_first, row.asked_next),
            row.covered.to_string(),
            row.records.to_string(),
            row.runs.to_string(),
            table::or_dash(row.end),
        ]
    };
    let heads = ["Source", "Target", "Asked For", "Come To", "Records", "Runs", "Restored End"];
    page.table(&heads, &rows.iter().map(row).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::table::tests::Written;
    use super::*;
    use crate::record::{OffsetRange, Partition};
    use crate::restore::state::tests::{memory, planned};

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn partition(topic: &str, index: i32) -> Partition {
        Partition { topic: topic.into(), topic_id: TopicId::NONE, index }
    }

    /// `orders-0` is restored into two partitions of `copy`; of `pay-0` only the beginning is.
    async fn restored() -> State {
        let asked = OffsetRange { first: 10, next: 100 };
        let pairs = [("orders", 0), ("orders", 1), ("pay", 0)];
        let pairs = pairs.map(|(topic, index)| Pair { source: partition(topic, 0), target: partition("copy", index) });
        let mut map = OffsetMap::default();
        for (n, pair) in pairs.iter().enumerate() {
            map.open(pair, asked, 1).expect("a range");
            map.push(pair, 10 + 5 * n as Offset, 1, 5).expect("in order");
        }
        for pair in &pairs[..2] {
            map.finish(pair, 7).expect("behind the last");
        }
        let state = planned(&memory()).await;
        let _ = state.put_map(&map).await.expect("kept");
        state
    }

    async fn shown(arguments: &str) -> (String, Result<()>) {
        let line = format!("k --path p --backup-id b --restore-id r1 {arguments}");
        let args = Line::try_parse_from(line.split_whitespace()).expect("right").args;
        let (mut output, written) = Written::output();
        let result = show(&restored().await, &args, &mut output).await;
        output.finish().expect("written");
        (written.text(), result)
    }

    #[tokio::test]
    async fn an_offset_is_shown_in_each_target_and_whether_it_is_exact() {
        let (text, result) = shown("--topic orders --partition 0 --offset 12").await;
        result.expect("there is one in both");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines[0], lines[3]), ("Offset Map: r1", "Source: orders-0 (_)"));
        assert_eq!(lines[7].split_whitespace().collect::<Vec<_>>(), ["12", "copy", "0", "3", "yes", "-"]);
        let note = "there was no such record to restore; the next one is 15";
        assert!(lines[8].starts_with("12 ") && lines[8].ends_with(&format!("no     {note}")), "{text}");
        let (text, _) = shown("--topic orders --partition 0 --offset 2 -o json").await;
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let first = &json[0];
        assert_eq!((&first["source_topic"], &first["target_partition"]), (&"orders".into(), &0.into()));
        assert_eq!((&first["target_offset"], &first["how"]), (&1.into(), &"next-record".into()));
        assert!(first["note"].as_str().is_some_and(|note| note.starts_with("offsets before 10 were not asked for")));
    }

    #[tokio::test]
    async fn behind_the_last_record_is_the_restored_end() {
        let (csv, result) = shown("--topic orders --partition 0 --offset 100 -o csv").await;
        result.expect("it is the end");
        assert_eq!(csv.lines().nth(1), Some("orders,_,0,copy,_,0,100,7,true,end"));
        let (csv, _) = shown("--topic orders --partition 0 --offset 40 -o csv").await;
        assert_eq!(csv.lines().nth(1), Some("orders,_,0,copy,_,0,40,7,false,end"));
    }

    #[tokio::test]
    async fn an_offset_without_a_place_is_shown_with_the_reason_and_no_success() {
        for (of, note) in [
            ("orders --partition 0 --offset 101", "only offsets [10, 100) were asked for; the restored end is 7"),
            ("pay --partition 0 --offset 90", "the restore has come to source offset 25"),
        ] {
            let (text, result) = shown(&format!("--topic {of}")).await;
            let error = result.expect_err("it has no place");
            assert!(error.exit_code() == 1 && error.to_string().ends_with(note), "{error}");
            assert!(text.lines().last().is_some_and(|line| line.contains("-              no     ")), "{text}");
        }
    }

    #[tokio::test]
    async fn without_an_offset_it_is_shown_how_far_each_partition_is() {
        let (csv, result) = shown("-o csv").await;
        result.expect("shown");
        let lines: Vec<_> = csv.lines().skip(1).collect();
        assert_eq!(lines[0], "orders,_,0,copy,_,0,10,100,100,5,1,1,6,7");
        assert_eq!(lines[2], "pay,_,0,copy,_,0,10,100,25,5,1,1,6,");
        let (text, _) = shown("--topic pay").await;
        assert!(text.ends_with("pay-0   copy-0  [10, 100)  25       5        1     -\n"), "{text}");
    }

    #[tokio::test]
    async fn what_was_not_restored_is_refused_with_what_was() {
        for (arguments, words) in [
            ("--topic x", "no topic `x`; it has, by their names at the source: orders, pay"),
            ("--topic orders@4u0fkXLXQ-Or5QvZq9JvUA", "it has, by their names at the source: orders, pay"),
            ("--topic orders --partition 3", "no partition 3 of `orders`; it has: 0"),
        ] {
            let error = shown(arguments).await.1.expect_err("it was not restored");
            assert!(error.exit_code() == 2 && error.to_string().contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn a_restore_that_has_sent_nothing_has_no_map() {
        let Err(error) = held(&planned(&memory()).await).await else { panic!("there is none") };
        assert!(error.exit_code() == 1 && error.to_string().contains("nothing was sent"), "{error}");
    }

    #[test]
    fn an_offset_is_of_a_partition_and_not_negative() {
        let parse = |arguments: &str| {
            Line::try_parse_from(format!("k --path p --backup-id b --restore-id r1 {arguments}").split_whitespace())
        };
        for wrong in ["--offset 5", "--topic t --offset 5", "--partition 3", "--topic t --partition 0 --offset -1"] {
            let _ = parse(wrong).expect_err(wrong);
        }
        let _ = Line::try_parse_from("k --state s --backup-id b --restore-id r1".split(' ')).expect("it is elsewhere");
        let _ = Line::try_parse_from("k --backup-id b --restore-id r1".split(' ')).expect_err("it is nowhere");
    }
}
