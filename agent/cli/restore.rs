//! `restore`: what a backup holds, sent to a cluster; and its consumer groups put back, where that is asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::table::{self, Output, Page, size};
use super::three_phase;
use crate::backup::stop_on_signals;
use crate::config::{Config, Restore};
use crate::error::{Error, Kind, Result};
use crate::recovery::phases::Preview;
use crate::recovery::{self, Prepared};
use crate::restore::plan::{PartitionPlan, Plan, StagePlan, TopicPlan};
use crate::restore::state::State;
use crate::telemetry::logging::{self, counted};
use crate::telemetry::{Health, http, metrics};

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kafka-backup restore --config restore.toml --dry-run\n  kafka-backup restore --config restore.toml\n  kafka-backup restore --config three-phase-restore.yaml"
)]
pub struct Args {
    /// The configuration file; its pipelines whose source is an archive are restored
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// How to print the plan of a dry run
    #[arg(long, short = 'o', value_enum, default_value_t, requires = "dry_run")]
    pub(super) format: Shown,
    /// Serve /metrics, /livez and /readyz at this address while it restores, as 127.0.0.1:8084
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) listen: Option<String>,
}

/// How a plan is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Shown {
    /// A table for people
    #[default]
    Table,
    /// JSON, as the restore keeps it
    Json,
}

/// Restores, one pipeline after the other, and puts consumer groups back where that is asked for.
///
/// # Errors
/// [`Kind::Usage`] for a file without a restore and for hazards that were not accepted, before anything is changed; else
/// as [`Planned::perform`](crate::restore::perform::Planned::perform); [`Kind::Partial`] where all is restored and groups could not be put back.
pub async fn run(args: Args) -> Result<()> {
    run_all(args, false).await
}

/// As [`run`]; `with_groups` refuses restores that put no groups back.
pub(super) async fn run_all(args: Args, with_groups: bool) -> Result<()> {
    let config = Config::load(&args.config)?;
    if config.restores.is_empty() {
        return Err(Error::usage(format!("{}: no pipeline restores", config.file))
            .hint("a restore is a pipeline whose source has type = \"archive\" and whose sink has type = \"kafka\""));
    }
    if with_groups {
        config.restores.iter().try_for_each(three_phase::check)?;
    }
    let (_stop, stopped) = stop_on_signals()?;
    let health = Health::new();
    if let Some(address) = &args.listen {
        let (listener, metrics) = (http::Listener::bind(address, None).await?, metrics::install()?);
        // It serves as long as the process lives.
        drop(tokio::spawn(listener.serve(metrics, health.clone(), axum::Router::new())));
    }
    // All are planned before anything is done: what is wrong with the last is not found when the first is restored.
    let mut prepared = Vec::new();
    for restore in &config.restores {
        let planned = prepare(restore, &args).await.map_err(|error| error.with("pipeline", &restore.name))?;
        prepared.extend(planned);
    }
    let mut groups_left = None;
    for prepared in prepared {
        let name = prepared.name();
        let part = health.of(format!("pipeline {name}"));
        match prepared.perform(&part, stopped.clone(), &say).await.map_err(|error| error.with("pipeline", name)) {
            // What is restored is: the others are not kept waiting for groups that somebody must stop first.
            Err(error) if error.kind() == Kind::Partial => {
                tracing::error!("{error}");
                let _ = groups_left.get_or_insert(error);
            }
            done => drop(done?),
        }
    }
    groups_left.map_or(Ok(()), Err)
}

/// Plans what one pipeline restores; `None` where nothing is to be done: for a dry run the plan is printed, a restore that is
/// finished stays so.
///
/// # Errors
/// As [`recovery::look`], [`Looked::plan`](recovery::Looked::plan) and [`Prepared::check`].
pub(super) async fn prepare<'a>(restore: &'a Restore, args: &Args) -> Result<Option<Prepared<'a>>> {
    // It says more of a path that is none.
    drop(super::open(&restore.source.path)?);
    let looked = recovery::look(restore).await?;
    if looked.is_done() && restore.groups.is_none() {
        match looked.before().filter(|_| args.dry_run) {
            Some(plan) => print(restore, looked.state(), (plan, None), args.format)?,
            None => {
                let id = looked.state().restore_id();
                logging::say(&format!("{}: restore `{id}` is finished already", restore.name));
            }
        }
        return Ok(None);
    }
    let prepared = looked.plan(&say).await?;
    if args.dry_run {
        let preview = prepared.preview().await?;
        print(restore, prepared.state(), (prepared.plan(), preview.as_ref()), args.format)?;
        return Ok(None);
    }
    prepared.check()?;
    Ok(Some(prepared))
}

/// Writes a line to stderr. Names are of whoever made the groups and the backup: they hold no commands to a terminal.
pub(super) fn say(line: &str) {
    logging::say(&table::shown(line));
}

/// What is said of partitions that get records of several.
const MIXED: &str = ": records of several partitions come together, in no order among them";

fn print(restore: &Restore, state: &State, (plan, groups): (&Plan, Option<&Preview>), shown: Shown) -> Result<()> {
    let mut output = Output::stdout()?;
    match (shown, groups) {
        (Shown::Json, groups) => {
            let mut json = serde_json::json!({ "restore_id": state.restore_id(), "plan": plan });
            if let Some(groups) = groups {
                json["groups"] = groups.json();
            }
            output.json(&json)?;
        }
        (Shown::Table, groups) => {
            let mut page = page(restore, state, plan);
            groups.into_iter().for_each(|groups| three_phase::add_to(&mut page, groups));
            output.write(page.text().as_bytes())?;
        }
    }
    output.finish()
}

fn page(restore: &Restore, state: &State, plan: &Plan) -> Page {
    let mut page = Page::new(format!("Restore {} of backup {}", state.restore_id(), restore.source.backup_id));
    let row = |(topic, of): (&TopicPlan, &PartitionPlan)| {
        vec![
            format!("{}-{}", topic.source, of.source),
            match topic.repartition {
                Some(_) => format!("{} by key", topic.target),
                None => format!("{}-{}", topic.target, of.target),
            },
            of.first.to_string(),
            of.next.to_string(),
            of.segments.to_string(),
            of.records.to_string(),
            size(of.bytes),
        ]
    };
    let rows: Vec<_> = plan.partitions().map(row).collect();
    page.table(&["Source", "Target", "First Offset", "Next Offset", "Segments", "Records", "Size"], &rows);
    let (records, bytes) = plan.size();
    page.line(format!("Up to {}, {}", counted(records, "record"), size(bytes)));
    for (number, stage) in (1..).zip(&plan.stages) {
        page.line(format!("Stage {number}: {}", described(stage)));
    }
    if let Some(kept) = kept(plan) {
        page.line(format!("Stages keep records {kept}"));
    }
    for (topic, (partitions, sources)) in spread(plan) {
        let mixed = if sources > 1 { MIXED } else { "" };
        page.line(format!("Records go to {} of {topic} by key{mixed}", counted(partitions.into(), "partition")));
    }
    for routed in &plan.routed {
        let mixed = if routed.is_mixed { MIXED } else { "" };
        page.line(format!("Stages send records to {}{mixed}", routed.topic));
    }
    page.line(transactions(restore, plan));
    for (topic, new) in plan.new_topics() {
        let (partitions, replicas) =
            (counted(new.partitions.unsigned_abs().into(), "partition"), new.replication_factor);
        let afterwards: String =
            new.afterwards.iter().map(|(name, value)| format!(", afterwards {name}={value}")).collect();
        page.line(format!("Topic {topic} is made: {partitions}, {replicas}-fold{afterwards}"));
    }
    for hazard in &plan.hazards {
        let accepted = if hazard.accepted { " (accepted)" } else { "" };
        page.line(format!("Hazard {}{accepted}: {}: {}", hazard.danger, hazard.subject, hazard.detail));
    }
    page
}

/// Says whether records go in transactions, which is how the restore goes on when it is stopped.
fn transactions(restore: &Restore, plan: &Plan) -> &'static str {
    let is_mixed = plan.routed.iter().any(|routed| routed.is_mixed) || spread(plan).values().any(|(_, from)| *from > 1);
    match plan.stages.iter().all(|stage| stage.pure) && !restore.skips() && !is_mixed {
        true => "Stopped and started again, it goes on behind the records that are there: each reader sees each once",
        false => {
            "Records go in transactions, because they could not be counted when it goes on: readers of uncommitted data may \
             see some of transactions that were aborted, which are sent again"
        }
    }
}

/// Returns the topics whose records are spread by key: over how many partitions, and of how many of the source.
fn spread(plan: &Plan) -> BTreeMap<&str, (u32, usize)> {
    let mut topics = BTreeMap::new();
    for routed in &plan.routed {
        // Any partition may send there.
        let sources = plan.partitions().count();
        topics.extend(routed.repartition.map(|count| (routed.topic.as_str(), (count.unsigned_abs(), sources))));
    }
    for topic in &plan.topics {
        if let Some(count) = topic.repartition {
            topics.entry(topic.target.as_str()).or_insert((count.unsigned_abs(), 0)).1 += topic.partitions.len();
        }
    }
    topics
}

/// Says what a stage is and does.
fn described(stage: &StagePlan) -> String {
    let mut text = stage.plugin.clone();
    if !stage.topics.is_empty() {
        text += &format!(", sends records to {}", stage.topics.join(", "));
    }
    if stage.chooses_partitions {
        text += ", chooses partitions";
    }
    if !stage.pure {
        text += ", remembers records";
    }
    text
}

/// Says of which times records are that the stages keep, if they say so.
fn kept(plan: &Plan) -> Option<String> {
    let (from, until) = (plan.keeps.from(), plan.keeps.until());
    match (from, until) {
        (None, None) => None,
        (Some(from), None) => Some(format!("from {from} on")),
        (None, Some(until)) => Some(format!("before {until}")),
        (Some(from), Some(until)) => Some(format!("from {from} on, before {until}")),
    }
}
