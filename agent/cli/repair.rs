//! `repair`: says what can be made whole again of a damaged backup, and does it when told to.
//!
//! Without `--execute` nothing is changed. The plan is [`repair`]'s; here it is asked for, printed,
//! and, when it was done, checked by [`verify`](crate::verify).

use serde::Serialize;

use super::cluster::ClusterArgs;
use super::table::{self, Output, Page};
use super::{ArchiveArgs, Format};
use crate::archive::source::{self, chain};
use crate::error::Result;
use crate::repair::source::Source;
use crate::repair::{self, Act, Action, Line, Options, Plan, perform};
use crate::store::Store;
use crate::verify::{self, Mode};

/// What the user typed after `repair`.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Repair a backup.\n\nWithout --execute the plan is printed and nothing is changed. With it, what can be \
    derived is made anew: catalogs from sidecars, sidecars from logs, backup.json; debris is deleted where it is proven \
    to be debris. Lost offsets are declared as gaps only with --accept-loss. The end of a chain, where an agent may be \
    writing, is left alone.",
    after_help = "Exit codes: 0 nothing remains wrong, 3 transactions remain of which nobody knows whether they were \
    aborted, 4 damage remains, 5 a hole remains, 1 something could not be looked at, 10 no such backup, 11 somebody \
    else changed the backup meanwhile"
)]
pub struct Args {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Do what the plan says
    #[arg(long)]
    execute: bool,
    /// Only print the plan, as without --execute
    #[arg(long, conflicts_with = "execute")]
    dry_run: bool,
    /// Declare offsets whose bytes are gone as gaps
    #[arg(long)]
    accept_loss: bool,
    /// Read every byte of the logs to find damage
    #[arg(long)]
    deep: bool,
    /// The id of the cluster, for a backup that has lost its backup.json and has no savepoint
    #[arg(long, value_name = "ID")]
    cluster_id: Option<String>,
    /// Ask the source what became of undecided transactions
    #[arg(long)]
    against_cluster: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Plans, prints, and performs when told to.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup); after printing, the kind of the worst that remains.
pub async fn run(args: Args) -> Result<()> {
    let source = match args.cluster.properties_if(args.against_cluster)? {
        Some(properties) => Some(Source::open(properties).await?),
        None => None,
    };
    let root = super::open(&args.archive.path)?;
    let options = Options {
        accept_loss: args.accept_loss,
        deep: args.deep,
        cluster_id: args.cluster_id.as_deref(),
        source: source.as_ref(),
    };
    let (archive, mut plan) = repair::plan(&root, &args.archive.backup_id, options).await?;
    let mut state = State::Planned;
    let mut performed = Ok(());
    if args.execute && !args.dry_run {
        let mut done = 0;
        let told = |action: &Action| {
            done += 1;
            tracing::info!("done: {}", table::shown(&sentence(&action.line())));
        };
        performed = perform::perform(&archive, &plan, told).await;
        state = if performed.is_ok() { State::Done } else { State::Interrupted(done) };
    }
    let mut checked = Ok(());
    if state == State::Done {
        checked = check_again(&root, &mut plan, args.deep).await;
    }
    print(&plan, state, args.archive.format)?;
    performed.map_err(|error| error.hint("what was done stays; `repair` goes on from there"))?;
    checked?;
    chain::verdict(&plan.backup_id, plan.remaining.iter().map(|remaining| &remaining.finding))
}

/// Looks at the backup again when everything was done: what a check finds then remains.
async fn check_again(root: &Store, plan: &mut Plan, deep: bool) -> Result<()> {
    // Anew: what is kept in memory is of before.
    let archive = source::open(root, &plan.backup_id).await?;
    let report = verify::check(&archive, if deep { Mode::Deep } else { Mode::Plain }).await?;
    plan.check_again(&archive, &report);
    Ok(())
}

/// How far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Planned,
    Done,
    /// After so many actions something failed.
    Interrupted(usize),
}

fn print(plan: &Plan, state: State, format: Format) -> Result<()> {
    let mut output = Output::stdout()?;
    match format {
        Format::Table => output.write(page(plan, state).text().as_bytes())?,
        Format::Csv => output.write(csv(plan).as_bytes())?,
        Format::Json => output.json(&Data::new(plan, state == State::Done))?,
    }
    output.finish()
}

/// Says a line in one sentence.
fn sentence(line: &Line) -> String {
    let place = line.place.as_ref().map(|place| format!("{} partition {}: ", place.partition.topic, place.name()));
    let range = line.range.map(|range| format!(" offsets {range}")).unwrap_or_default();
    format!("{}{}{range}: {} ({})", place.unwrap_or_default(), line.act, line.detail, line.object)
}

fn page(plan: &Plan, state: State) -> Page {
    let named = match state {
        State::Planned => "plan".to_owned(),
        State::Done => "done".to_owned(),
        State::Interrupted(done) => format!("interrupted: {done} of {} actions were done", plan.actions.len()),
    };
    let mut page = Page::new(format_args!("Repair: {} ({named})", plan.backup_id));
    let (actions, remaining): (Vec<_>, Vec<_>) =
        plan.lines().into_iter().partition(|line| matches!(line.act, Act::Does(_)));
    if actions.is_empty() {
        page.line("nothing to do");
    } else {
        let row = |line: &Line| {
            let place = line.place.as_ref();
            vec![
                line.act.to_string(),
                place.map(|place| place.partition.topic.to_string()).unwrap_or_default(),
                place.map(|place| place.name()).unwrap_or_default(),
                line.range.map(|range| range.to_string()).unwrap_or_default(),
                line.detail.clone(),
            ]
        };
        let rows: Vec<_> = actions.iter().map(row).collect();
        page.table(&["What", "Topic", "Partition", "Offsets", "Why"], &rows);
    }
    for line in &remaining {
        page.line(sentence(line));
    }
    for note in &plan.notes {
        page.line(format_args!("note: {note}"));
    }
    if state == State::Planned && !plan.is_empty() {
        page.line("nothing was changed; --execute does it");
    }
    page
}

fn csv(plan: &Plan) -> String {
    let mut lines = "action,topic,topic_id,partition,first_offset,next_offset,producer_id,object,detail\n".to_owned();
    for line in plan.lines() {
        let data = LineData::new(line);
        let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
        lines.push_str(&table::csv(&[
            data.action,
            data.topic.unwrap_or_default(),
            data.topic_id.unwrap_or_default(),
            data.partition.unwrap_or_default(),
            number(data.first_offset),
            number(data.next_offset),
            number(data.producer_id),
            data.object,
            data.detail,
        ]));
    }
    lines
}

/// A plan as data; its JSON is stable.
#[derive(Debug, Serialize)]
struct Data<'a> {
    backup_id: &'a str,
    executed: bool,
    actions: Vec<LineData>,
    remaining: Vec<LineData>,
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct LineData {
    action: String,
    topic: Option<String>,
    topic_id: Option<String>,
    partition: Option<String>,
    first_offset: Option<i64>,
    next_offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    producer_id: Option<i64>,
    object: String,
    detail: String,
}

impl<'a> Data<'a> {
    fn new(plan: &'a Plan, executed: bool) -> Self {
        let (actions, remaining): (Vec<_>, Vec<_>) =
            plan.lines().into_iter().partition(|line| matches!(line.act, Act::Does(_)));
        Self {
            backup_id: &plan.backup_id,
            executed,
            actions: actions.into_iter().map(LineData::new).collect(),
            remaining: remaining.into_iter().map(LineData::new).collect(),
            notes: &plan.notes,
        }
    }
}

impl LineData {
    fn new(line: Line) -> Self {
        let place = line.place.as_ref();
        Self {
            action: match line.act {
                Act::Does(what) => what.to_owned(),
                Act::Remains(what) => what.name().to_owned(),
            },
            topic: place.map(|place| place.partition.topic.to_string()),
            topic_id: place.map(|place| place.partition.topic_id.to_string()),
            partition: place.map(|place| place.name()),
            first_offset: line.range.map(|range| range.first),
            next_offset: line.range.map(|range| range.next),
            producer_id: line.transaction.map(|transaction| transaction.producer_id),
            object: line.object,
            detail: line.detail,
        }
    }
}
