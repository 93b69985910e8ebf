//! `offset-reset execute`: a plan, made now or before, performed; it is printed, and what came of it.
//!
//! How to bring back what was is printed before anything is changed.

use std::path::{Path, PathBuf};

use super::super::Format;
use super::super::offset_rollback::performed::{self, Performance};
use super::super::table::Output;
use super::args::ResetArgs;
use super::page;
use crate::error::{Error, Result};
use crate::groups::making;
use crate::groups::perform::{CONNECTIONS, Performing};
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
        conflicts_with_all = ["GroupArgs", "all_groups", "positions", "restore_id", "topic", "all_topics", "clamp", "create_group",
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
/// As [`ResetArgs::plan`] and [`Performing::perform`](crate::groups::perform::Performing::perform); after that, as
/// [`performed::end`].
pub(super) async fn run(args: Args) -> Result<()> {
    let snapshots = args.snapshots()?;
    let (client, plan) = match &args.plan_file {
        Some(file) => {
            let plan = read(file)?;
            let client = Client::open(args.reset.cluster.properties()?, OPEN_WITHIN).await?;
            making::still_holds(&client, &plan).await?;
            (client, plan)
        }
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
        if args.plan_file.is_some() {
            foresee(&client, &plan).await?;
        }
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
    performed::end("Offset Reset", &report, format, output)
}

/// Reads a plan that was kept.
fn read(file: &Path) -> Result<Plan> {
    let text =
        std::fs::read(file).map_err(|error| Error::usage(format!("cannot read {}", file.display())).source(error))?;
    let plan: Plan = serde_json::from_slice(&text).map_err(|error| {
        Error::usage(format!("{} is no plan", file.display()))
            .source(error)
            .hint("`offset-reset plan --format json` prints one")
    })?;
    plan.check().map(|()| plan)
}

/// Makes sure that a kept plan could be performed now.
async fn foresee(client: &Client, plan: &Plan) -> Result<()> {
    let performing = Performing {
        clients: std::slice::from_ref(client),
        snapshots: None,
        max_concurrent: CONNECTIONS,
        all_or_nothing: true,
        wait_until_empty: None,
        progress: &(),
    };
    let report = performing.foresee(plan).await?;
    match report.groups.iter().any(|group| group.refused.is_some()) {
        true => report.verdict(),
        false => Ok(()),
    }
}

impl Args {
    /// Opens the place of the snapshot that is taken first.
    fn snapshots(&self) -> Result<Option<Snapshots>> {
        if self.no_snapshot || self.dry_run {
            return Ok(None);
        }
        self.reset.keeping().map(Some)
    }
}
