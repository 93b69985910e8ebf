//! `savepoints`: the savepoints of a backup, and whether the archive has reached them; `savepoints create` makes one
//! now, without a running agent.
//!
//! Only what is shown is read: the newest names, each savepoint, the full one that some differ from, once, and of each
//! chain where it ends now. Memory: the rows, and a few savepoints at a time.

mod ends;

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;

use serde::Serialize;

use self::ends::Ends;
use super::Format;
use super::table::{self, Output, Page};
use crate::archive::savepoint::{Lack, Lost, Name, Savepoint, State, Unread, lacking, lost};
use crate::archive::source::side_by_side;
use crate::archive::{Archive, source};
use crate::backup::savepoints::{self, Made};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::record::Offset;

/// How many savepoints are shown unless told otherwise: an afternoon and a day of them. Each costs a request.
const SHOWN: usize = 100;

/// Savepoints that are read at a time, a megabyte each at worst: one after the other a hundred would take seconds.
const SIDE_BY_SIDE: usize = 8;

/// Full savepoints that are kept for those that differ from them: one an hour, and that of another agent beside it.
const FULLS: usize = 2;

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
    #[arg(
        long, value_name = "COUNT", default_value_t = SHOWN, allow_negative_numbers = true,
        value_parser = super::cat::whole::<usize>,
    )]
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
    /// `None` where it cannot be told.
    complete: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lacks: Vec<LackRow>,
    /// Topics of the backup that it does not cover.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    topics_unread: Vec<Unread>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<LostRow>,
    /// Partitions of which it cannot be told how far they go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<String>,
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

/// What was durable of a chain and is there no more.
#[derive(Debug, Serialize)]
struct LostRow {
    topic: String,
    topic_id: String,
    chain: String,
    archived: Offset,
    next: Option<Offset>,
}

/// Lists savepoints, or makes one.
///
/// # Errors
/// [`Kind::NoBackup`] for a backup that is not there. After all are printed: [`Kind::Damaged`] when one cannot be read,
/// [`Kind::Hole`] when the archive ends before what one calls durable. Of `create`: why there is none.
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
    let (names, is_cut) = match limit {
        0 => (archive.savepoints().await?, false),
        limit => archive.newest_savepoints(limit).await?,
    };
    if is_cut {
        tracing::info!("older savepoints are not shown; --limit 0 shows all");
    }
    let (mut ends, mut fulls) = (Ends::default(), Fulls::default());
    let (mut rows, mut damaged, mut any_lost) = (Vec::new(), Vec::new(), false);
    for names in names.chunks(SIDE_BY_SIDE) {
        let read = side_by_side::each(names.to_vec(), SIDE_BY_SIDE, |name| {
            let archive = archive.clone();
            async move { (name, archive.savepoint(name).await) }
        });
        for (name, read) in read.await? {
            match fulls.resolve(archive, read).await {
                Ok(Some((savepoint, state))) => {
                    damaged.extend(ends.look(archive, &state).await?);
                    let row = Row::of(&savepoint, &state, &ends);
                    any_lost |= !row.lost.is_empty();
                    rows.push(row);
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
    }
    print(archive, &rows, format, output)?;
    let worst = damaged.pop();
    for error in damaged {
        tracing::error!("{error}");
    }
    let backup_id = &archive.backup().backup_id;
    match worst {
        Some(error) => Err(error),
        None if any_lost => Err(Error::new(Kind::Hole, "the archive ends before what was durable of it")
            .with("backup", backup_id)
            .hint("run `verify`")),
        None => Ok(()),
    }
}

/// The full savepoints that were read last, by name; `None` for one that is not there or cannot be read.
#[derive(Default)]
struct Fulls(VecDeque<(Name, Option<Savepoint>)>);

impl Fulls {
    /// Finds out what a savepoint stands for. The full one that it differs from is read once.
    async fn resolve(
        &mut self,
        archive: &Archive,
        read: Result<Option<Savepoint>>,
    ) -> Result<Option<(Savepoint, State)>> {
        let Some(savepoint) = read? else { return Ok(None) };
        let Some(base) = savepoint.full else {
            self.keep(savepoint.name, Some(savepoint.clone()));
            let state = savepoint.state.clone();
            return Ok(Some((savepoint, state)));
        };
        if self.of(base).is_none() {
            let (full, error) = match archive.savepoint(base).await {
                Ok(full) => (full, None),
                Err(error) if error.kind() == Kind::Damaged => (None, Some(error)),
                Err(error) => return Err(error),
            };
            self.keep(base, full);
            if let Some(error) = error {
                let lacking = format!("savepoint {} differs from one that cannot be read", savepoint.name);
                return Err(Error::damaged(lacking).source(error));
            }
        }
        let state = savepoint.resolve(self.of(base).and_then(Option::as_ref))?;
        Ok(Some((savepoint, state)))
    }

    fn of(&self, name: Name) -> Option<&Option<Savepoint>> {
        self.0.iter().find(|(kept, _)| *kept == name).map(|(_, full)| full)
    }

    fn keep(&mut self, name: Name, full: Option<Savepoint>) {
        if self.0.len() >= FULLS {
            let _ = self.0.pop_front();
        }
        self.0.push_back((name, full));
    }
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
    fn of(savepoint: &Savepoint, state: &State, ends: &Ends) -> Self {
        let lack = |lack: Lack| {
            let offsets = lack.offsets();
            LackRow { topic: lack.topic, topic_id: lack.topic_id, partition: lack.partition, offsets }
        };
        let gone = |Lost { topic, topic_id, chain, archived, next }| LostRow { topic, topic_id, chain, archived, next };
        let (lacks, lost) =
            (lacking(state, |topic, end| ends.of(topic, end)), lost(state, |topic, end| ends.of(topic, end)));
        let unknown = ends.unknown(state);
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
            complete: match lacks.is_empty() && state.topics_unread.is_empty() {
                true => unknown.is_empty().then_some(true),
                false => Some(false),
            },
            topics_unread: state.topics_unread.clone(),
            lacks: lacks.into_iter().map(lack).collect(),
            lost: lost.into_iter().map(gone).collect(),
            unknown,
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
            topics_unread: Vec::new(),
            lost: Vec::new(),
            unknown: Vec::new(),
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
        let lacks = self.lacks.iter().map(|lack| format!("{}-{} lacks {}", lack.topic, lack.partition, lack.offsets));
        let mut why = lacks.chain(self.topics_unread.iter().map(|topic| format!("{} is not covered", topic.topic)));
        let Some(first) = why.next() else { return "yes".to_owned() };
        match why.count() {
            0 => format!("no: {first}"),
            more => format!("no: {first}, and {more} more"),
        }
    }

    fn note(&self) -> Option<String> {
        let mut notes = Vec::new();
        if let Some(first) = self.lost.first() {
            let ends = first.next.map_or_else(|| "is gone".to_owned(), |next| format!("ends at {next}"));
            let (chain, archived, more) =
                (format!("{}-{}", first.topic, first.chain), first.archived, more(&self.lost));
            notes.push(format!("{chain} was durable up to {archived} and {ends}{more}: run verify"));
        }
        if let Some(first) = self.unknown.first() {
            notes.push(format!("nobody knows where {first} ends{}: run verify", more(&self.unknown)));
        }
        if let Some(first) = self.topics_unread.first() {
            notes.push(format!("topic {} unread: {}{}", first.topic, first.error, more(&self.topics_unread)));
        }
        notes.extend(self.groups_unread.iter().map(|why| format!("groups unread: {why}")));
        if let Some(first) = self.refused.first() {
            notes.push(format!("group {first}{}", more(&self.refused)));
        }
        notes.extend(self.hanging.iter().cloned());
        notes.extend(self.error.clone());
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// Says how many there are beside the first.
fn more<T>(of: &[T]) -> String {
    if of.len() > 1 { format!(" (and {} more)", of.len() - 1) } else { String::new() }
}

#[cfg(test)]
mod tests;
