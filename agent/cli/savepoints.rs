//! `savepoints`: the savepoints of a backup, and whether the archive has reached them; `savepoints create` makes one
//! now, without a running agent.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde::Serialize;

use super::Format;
use super::table::{self, Output, Page};
use crate::archive::savepoint::{Archived, Lack, Name, Savepoint, State, lacking};
use crate::archive::{Archive, layout, source};
use crate::backup::savepoints::{self, Made};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::record::{Offset, Partition, TopicId};

/// How many savepoints are shown unless told otherwise: an afternoon and a day of them. Each costs a request.
const SHOWN: usize = 100;

/// What the user typed after `savepoints`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Where the archive is: a folder or a URL
    #[arg(long, value_name = "PATH|URL", required = true)]
    path: Option<String>,
    /// The name of the backup
    #[arg(long, value_name = "NAME", value_parser = super::backup_id, required = true)]
    backup_id: Option<String>,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Format,
    /// Show only so many, the newest; 0 shows all
    #[arg(long, value_name = "COUNT", default_value_t = SHOWN)]
    limit: usize,
}

/// What else can be done.
#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a savepoint now and print its name, or that of the newest one when nothing has changed since
    Create(CreateArgs),
}

/// What the user typed after `savepoints create`.
#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// The configuration file of the agent
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only of the backup that this pipeline of the file writes
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Ask the cluster and say what there is, but write nothing
    #[arg(long)]
    dry_run: bool,
}

/// A savepoint, as listed.
#[derive(Debug, Serialize)]
struct Row {
    name: Name,
    taken_at: Option<String>,
    /// `full` or `delta`; `None` where it cannot be read.
    kind: Option<&'static str>,
    previous: Option<Name>,
    groups: Option<usize>,
    partitions: Option<usize>,
    complete: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lacks: Vec<LackRow>,
    groups_unread: Option<String>,
    /// Groups whose offsets could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hanging: Vec<String>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What the archive lacks of a partition.
#[derive(Debug, Serialize)]
struct LackRow {
    topic: String,
    topic_id: String,
    partition: i32,
    offsets: u64,
}

/// How far the archive goes, by (topic, id, chain's name); and the newest chain of a partition, by its index as name.
type Ends = BTreeMap<(String, String, String), Option<Offset>>;

/// Lists savepoints, or makes one.
///
/// # Errors
/// [`Kind::NoBackup`] for a backup that is not there; after all are printed [`Kind::Damaged`] when one cannot be read. Of
/// `create`: why there is none.
pub async fn run(args: Args) -> Result<()> {
    if let Some(Verb::Create(args)) = args.verb {
        return create(args).await;
    }
    // Without a verb behind it the command line has them, or was refused.
    let (path, backup_id) = (args.path.unwrap_or_default(), args.backup_id.unwrap_or_default());
    let archive = source::open(&super::open(&path)?, &backup_id).await?;
    let mut output = Output::stdout()?;
    let result = list(&archive, args.limit, args.format, &mut output).await;
    output.finish()?;
    result
}

async fn create(args: CreateArgs) -> Result<()> {
    let config = Config::load(&args.config)?;
    crate::backup::validate(&config)?;
    let known: Vec<_> = config.pipelines.iter().map(|pipeline| pipeline.name.clone()).collect();
    let chosen = |name: &str| args.pipeline.as_deref().is_none_or(|wanted| wanted == name);
    let mut backups = savepoints::backups(&config.pipelines);
    backups.retain(|pipelines| pipelines.iter().any(|pipeline| chosen(&pipeline.name)));
    if backups.is_empty() {
        let wanted = args.pipeline.unwrap_or_default();
        return Err(
            Error::usage(format!("there is no pipeline `{wanted}`")).hint(format!("there is: {}", known.join(", ")))
        );
    }
    let mut output = Output::stdout()?;
    for pipelines in &backups {
        let backup_id = &pipelines[0].sink.backup_id;
        let named = |error: Error| error.with("backup", backup_id);
        let (made, state) = savepoints::create(pipelines, args.dry_run).await.map_err(named)?;
        let (groups, partitions) = (state.groups.len() as u64, state.partitions() as u64);
        let holds = format!("{}, {}", table::counted(groups, "group"), table::counted(partitions, "partition"));
        let what = match made {
            Made::Unchanged(name) => format!("nothing has changed since {name}"),
            Made::Written(_) | Made::ByAnother(_) if args.dry_run => "it would be written".to_owned(),
            Made::Written(_) | Made::ByAnother(_) => "written".to_owned(),
        };
        crate::telemetry::logging::say(&format!("{backup_id}: {what} ({holds})"));
        if !args.dry_run {
            output.write(format!("{}\n", made.name()).as_bytes())?;
        }
    }
    output.finish()
}

async fn list(archive: &Archive, limit: usize, format: Format, output: &mut Output) -> Result<()> {
    let names = archive.savepoints().await?;
    let from = if limit == 0 { 0 } else { names.len().saturating_sub(limit) };
    if from > 0 {
        tracing::info!("{from} older savepoints are not shown; --limit 0 shows all");
    }
    let mut ends = Ends::new();
    let (mut rows, mut damaged, mut full) = (Vec::new(), Vec::new(), None);
    for &name in &names[from..] {
        match read(archive, name, &mut full).await {
            Ok(Some((savepoint, state))) => {
                let lacks = lacks(archive, &state, &mut ends).await?;
                rows.push(Row::of(&savepoint, &state, lacks));
            }
            // `prune` was faster.
            Ok(None) => {}
            Err(error) if error.kind() == Kind::Damaged => {
                rows.push(Row::damaged(name, &error));
                damaged.push(error);
            }
            Err(error) => return Err(error),
        }
    }
    print(archive, &rows, format, output)?;
    let Some(error) = damaged.pop() else { return Ok(()) };
    for error in damaged {
        tracing::error!("{error}");
    }
    Err(error)
}

/// Reads a savepoint; `full` keeps the last full one, which those behind it differ from.
async fn read(archive: &Archive, name: Name, full: &mut Option<Savepoint>) -> Result<Option<(Savepoint, State)>> {
    let Some(savepoint) = archive.savepoint(name).await? else { return Ok(None) };
    match savepoint.full {
        None => *full = Some(savepoint.clone()),
        Some(base) if full.as_ref().is_none_or(|full| full.name != base) => *full = archive.savepoint(base).await?,
        Some(_) => {}
    }
    let state = savepoint.resolve(full.as_ref())?;
    Ok(Some((savepoint, state)))
}

/// Returns what the archive lacks of a savepoint; `ends` keeps how far it goes.
async fn lacks(archive: &Archive, state: &State, ends: &mut Ends) -> Result<Vec<Lack>> {
    for topic in &state.topics {
        let topic_id: TopicId = topic.topic_id.parse().unwrap_or(TopicId::NONE);
        for end in topic.partitions.iter().filter(|end| end.high_watermark > 0) {
            let key = key(&topic.topic, &topic.topic_id, end.partition, end.archived.as_ref());
            if ends.contains_key(&key) {
                continue;
            }
            let partition = Partition { topic: topic.topic.as_str().into(), topic_id, index: end.partition };
            let fork = end.archived.as_ref().and_then(Archived::fork);
            let next = match fork {
                Some(fork) => archive.end_of(&partition, fork).await?,
                None => archive.tip(&partition).await?.next,
            };
            ends.insert(key, next);
        }
    }
    let known = |topic: &str, id: &str, index, archived: Option<&Archived>| {
        let next = ends.get(&key(topic, id, index, archived)).copied().flatten();
        next.max(archived.map(|archived| archived.next))
    };
    Ok(lacking(state, known))
}

/// Returns how [`Ends`] calls the chain that counts: the one that the savepoint names, or else the newest.
fn key(topic: &str, topic_id: &str, index: i32, archived: Option<&Archived>) -> (String, String, String) {
    let chain =
        archived.map_or_else(|| format!("{} newest", layout::chain_name(index, None)), |held| held.chain.clone());
    (topic.to_owned(), topic_id.to_owned(), chain)
}

fn print(archive: &Archive, rows: &[Row], format: Format, output: &mut Output) -> Result<()> {
    match format {
        Format::Json => output.json(&rows),
        Format::Csv => {
            output.write(b"name,taken_at,kind,groups,partitions,complete,note\n")?;
            for row in rows {
                output.write(table::csv(&row.cells().map(Option::unwrap_or_default)).as_bytes())?;
            }
            Ok(())
        }
        Format::Table => {
            let shown: Vec<_> = rows.iter().map(|row| row.cells().map(table::or_dash).to_vec()).collect();
            let mut page = Page::new(format_args!("Savepoints: {}", archive.backup().backup_id));
            page.table(&["Name", "Taken", "Kind", "Groups", "Partitions", "Complete", "Note"], &shown);
            output.write(page.text().as_bytes())
        }
    }
}

impl Row {
    fn of(savepoint: &Savepoint, state: &State, lacks: Vec<Lack>) -> Self {
        let lack = |lack: Lack| {
            let offsets = lack.offsets();
            LackRow { topic: lack.topic, topic_id: lack.topic_id, partition: lack.partition, offsets }
        };
        let refused =
            state.groups.iter().filter_map(|group| Some(format!("{}: {}", group.group, group.error.as_ref()?)));
        // A transaction hangs in many partitions.
        let mut producers = HashSet::new();
        let hanging = state.hanging.iter().filter(|hanging| producers.insert(hanging.producer_id)).map(|hanging| {
            let whose = match hanging.producer_id {
                -1 => "a transaction".to_owned(),
                id => format!("a transaction of producer {id}"),
            };
            format!("{whose} hangs in {}-{} at {}", hanging.topic, hanging.partition, hanging.first_offset)
        });
        Self {
            name: savepoint.name,
            taken_at: Some(savepoint.taken_at.clone()),
            kind: Some(if savepoint.full.is_some() { "delta" } else { "full" }),
            previous: savepoint.previous,
            groups: Some(state.groups.len()),
            partitions: Some(state.partitions()),
            complete: Some(lacks.is_empty()),
            lacks: lacks.into_iter().map(lack).collect(),
            groups_unread: state.groups_unread.clone(),
            refused: refused.collect(),
            hanging: hanging.collect(),
            error: None,
        }
    }

    fn damaged(name: Name, error: &Error) -> Self {
        Self {
            name,
            taken_at: None,
            kind: None,
            previous: None,
            groups: None,
            partitions: None,
            complete: None,
            lacks: Vec::new(),
            groups_unread: None,
            refused: Vec::new(),
            hanging: Vec::new(),
            error: Some(error.to_string()),
        }
    }

    fn cells(&self) -> [Option<String>; 7] {
        let count = |count: Option<usize>| count.map(|count| count.to_string());
        [
            Some(self.name.to_string()),
            self.taken_at.clone(),
            Some(self.kind.unwrap_or("unreadable").to_owned()),
            count(self.groups),
            count(self.partitions),
            self.complete.map(|_| self.complete_text()),
            self.note(),
        ]
    }

    fn complete_text(&self) -> String {
        let Some(first) = self.lacks.first() else { return "yes".to_owned() };
        let more = match self.lacks.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        format!("no: {}-{} lacks {}{more}", first.topic, first.partition, first.offsets)
    }

    fn note(&self) -> Option<String> {
        let mut notes: Vec<String> = self.groups_unread.iter().map(|why| format!("groups unread: {why}")).collect();
        if let Some(first) = self.refused.first() {
            let more =
                if self.refused.len() > 1 { format!(" (and {} more)", self.refused.len() - 1) } else { String::new() };
            notes.push(format!("group {first}{more}"));
        }
        notes.extend(self.hanging.iter().cloned());
        notes.extend(self.error.clone());
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::archive::savepoint::Hanging;
    use crate::archive::savepoint::tests::{name, state, topic};
    use crate::archive::source::tests::three;
    use crate::record::Timestamp;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("nobody panics").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    async fn listed(archive: &Archive, limit: usize, format: Format) -> (String, Result<()>) {
        let written = Shared::default();
        let mut output = Output::to(Box::new(written.clone()));
        let result = list(archive, limit, format, &mut output).await;
        output.finish().expect("written");
        let text = String::from_utf8(written.0.lock().expect("nobody panics").clone()).expect("UTF-8");
        (text, result)
    }

    /// Three savepoints of an archive that holds the offsets [0, 15) of `t-0`: reached, not reached, damaged.
    async fn archive() -> Archive {
        let archive = three().await.archive;
        let held =
            archive.tip(&Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 }).await.expect("read");
        let next = held.next.expect("it holds something");
        let at = |end| {
            let mut state = state(&[end, 0]);
            state.topics[0] = topic("t", std::mem::take(&mut state.topics[0].partitions));
            state
        };
        let [first, second, third] = ["20261122T100000.000Z", "20261122T100100.000Z", "20261122T100200.000Z"].map(name);
        let full = Savepoint::full(first, Timestamp(0), None, at(next));
        let mut state = at(next + 30);
        state.groups_unread = Some("forbidden".into());
        state.groups[0].error = Some("not allowed".into());
        state.hanging = vec![Hanging { topic: "t".into(), partition: 0, producer_id: 9, first_offset: next }];
        let delta = Savepoint::full(second, Timestamp(0), Some(first), state).relative_to(first, &full.state);
        for savepoint in [&full, &delta] {
            let _ = archive.create_savepoint(savepoint.name, savepoint.encode()).await.expect("created");
        }
        let _ = archive.create_savepoint(third, delta.encode()).await.expect("created");
        archive
    }

    #[tokio::test]
    async fn a_savepoint_is_complete_when_every_end_is_passed_and_damage_is_a_row_and_exit_code_4() {
        let archive = archive().await;
        let (csv, result) = listed(&archive, 0, Format::Csv).await;
        assert_eq!(result.expect_err("damage").exit_code(), 4);
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines[1], "20261122T100000.000Z,1970-01-01T00:00:00.000Z,full,1,2,yes,");
        let note = "groups unread: forbidden; group shop: not allowed; a transaction of producer 9 hangs in t-0 at";
        let start = format!("20261122T100100.000Z,1970-01-01T00:00:00.000Z,delta,1,2,no: t-0 lacks 30,{note}");
        assert!(lines[2].starts_with(&start), "{csv}");
        assert!(lines[3].starts_with("20261122T100200.000Z,,unreadable,,,,"), "{csv}");
        let (table, _) = listed(&archive, 0, Format::Table).await;
        assert_eq!(table.lines().count(), 7, "{table}");
        assert!(table.contains("no: t-0 lacks 30"), "{table}");
    }

    #[tokio::test]
    async fn a_limit_shows_the_newest() {
        let (json, _) = listed(&archive().await, 2, Format::Json).await;
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json[0]["name"], "20261122T100100.000Z", "its full one is read though it is not shown");
        assert_eq!((&json[0]["complete"], &json[0]["lacks"][0]["offsets"]), (&false.into(), &30.into()));
        assert_eq!(json.as_array().map(Vec::len), Some(2));
    }
}
