//! `offset-reset execute`: a plan, made now or before, performed; it is printed, and what came of it.
//!
//! How to bring back what was is printed before anything is changed.

use std::path::{Path, PathBuf};

use super::super::Format;
use super::super::offset_rollback::performed::{self, CONNECTIONS, Performance};
use super::super::table::Output;
use super::args::ResetArgs;
use super::page;
use crate::error::{Error, Result};
use crate::groups::plan::Plan;
use crate::groups::snapshot::Snapshots;
use crate::kafka::client::{Client, OPEN_WITHIN};

/// What the user typed after `offset-reset execute`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    reset: ResetArgs,
    /// Perform this plan, as `offset-reset plan --format json` printed it, if the cluster is still as it says
    #[arg(
        long, value_name = "FILE",
        conflicts_with_all = ["groups", "all_groups", "positions", "restore_id", "topic", "all_topics", "clamp", "create_group",
            "scan_headers", "SelectorArgs"]
    )]
    plan_file: Option<PathBuf>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not keep what the groups have now: it cannot be brought back then
    #[arg(long)]
    no_snapshot: bool,
}

/// Performs a plan, or says what would be done, and prints that.
///
/// # Errors
/// As [`ResetArgs::plan`] and [`Performing::perform`](crate::groups::perform::Performing::perform); after printing, as
/// [`Report::verdict`](crate::groups::perform::Report::verdict).
pub(super) async fn run(args: Args) -> Result<()> {
    let snapshots = args.snapshots()?;
    let (client, plan) = match &args.plan_file {
        Some(file) => (Client::open(args.reset.cluster.properties()?, OPEN_WITHIN).await?, read(file)?),
        None => args.reset.plan().await?,
    };
    let format = args.reset.format;
    let mut output = Output::stdout()?;
    // Data is what came of it: the plan is for people.
    if args.dry_run || format == Format::Table {
        let members = page::members(&client, &plan).await?;
        page::print(&plan, &members, format, &mut output)?;
    }
    // Where there is nothing to perform the plan says why.
    if args.dry_run || plan.groups.iter().all(|group| group.rows.is_empty() && group.refused.is_none()) {
        output.finish()?;
        return page::verdict(&plan);
    }
    let how = Performance {
        cluster: &args.reset.cluster,
        snapshots: snapshots.as_ref(),
        max_concurrent: CONNECTIONS,
        // Who has looked at a plan wants that plan, and not a part of it.
        all_or_nothing: args.plan_file.is_some(),
        wait_until_empty: args.reset.wait_until_empty.filter(|_| args.plan_file.is_some()),
    };
    let report = performed::perform(&client, &plan, &how, &format!("Before reset: {}", plan.positions)).await?;
    performed::print("Offset Reset", &report, format, &mut output)?;
    output.finish()?;
    report.verdict()
}

/// Reads a plan that was kept.
fn read(file: &Path) -> Result<Plan> {
    let text =
        std::fs::read(file).map_err(|error| Error::usage(format!("cannot read {}", file.display())).source(error))?;
    serde_json::from_slice(&text).map_err(|error| {
        Error::usage(format!("{} is no plan", file.display()))
            .source(error)
            .hint("`offset-reset plan --format json` prints one")
    })
}

impl Args {
    /// Opens the place of the snapshot that is taken first.
    fn snapshots(&self) -> Result<Option<Snapshots>> {
        if self.no_snapshot || self.dry_run {
            return Ok(None);
        }
        let snapshots = self.reset.snapshots()?.ok_or_else(|| {
            Error::usage("what the groups have now can be kept nowhere")
                .hint("add --state, or --path and --backup-id; or --no-snapshot, and it cannot be brought back")
        })?;
        Ok(Some(snapshots))
    }
}
