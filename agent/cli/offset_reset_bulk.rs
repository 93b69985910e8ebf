//! `offset-reset-bulk`: `offset-reset execute` for thousands of groups and partitions, over few connections.
//!
//! A group that cannot be set keeps no other from being set: what came of it is counted by reason. The plan is
//! [`ResetArgs`]'s, the doing [`perform`](crate::groups::perform)'s.

use super::Format;
use super::offset_reset::args::ResetArgs;
use super::offset_reset::page;
use super::offset_rollback::performed::{self, Performance};
use super::table::Output;
use crate::error::Result;
use crate::groups::snapshot::Snapshots;

/// What the user typed after `offset-reset-bulk`.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Reset the offsets of many groups.\n\nAs offset-reset execute, with many groups at a time over few connections. \
    Only partitions that failed for a reason that passes are asked for again. What a group that is refused keeps does not \
    keep the others from being set.",
    after_help = "Example:\n  \
    kafka-backup offset-reset-bulk --path s3://my-kafka-backups --backup-id production-backup-001 \\\n    \
    --groups order-processor,payment-service,analytics --bootstrap-servers kafka:9092 --max-concurrent 100\n\
    Exit codes: 0 all is set and was read back, 3 some of it, 1 nothing"
)]
pub struct Args {
    #[command(flatten)]
    reset: ResetArgs,
    /// Groups that are set at a time, at most
    #[arg(long, value_name = "GROUPS", default_value_t = 100, value_parser = at_least_one)]
    max_concurrent: usize,
    /// Print the plan, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not keep what the groups have now: it cannot be brought back then
    #[arg(long)]
    no_snapshot: bool,
}

/// Plans, performs, and prints what came of it.
///
/// # Errors
/// As [`ResetArgs::plan`] and [`perform`](crate::groups::perform); after that, as [`performed::end`].
pub async fn run(args: Args) -> Result<()> {
    let snapshots = args.snapshots()?;
    let (client, plan) = args.reset.plan().await?;
    let mut output = Output::stdout()?;
    if args.dry_run {
        page::print(&plan, &page::members(&client, &plan).await?, args.reset.format, &mut output)?;
        output.finish()?;
        return page::verdict(&plan);
    }
    if plan.groups.iter().all(|group| group.rows.is_empty() && group.refused.is_none()) {
        output.finish()?;
        return page::verdict(&plan);
    }
    let how = Performance {
        cluster: &args.reset.cluster,
        snapshots: snapshots.as_ref(),
        max_concurrent: args.max_concurrent,
        all_or_nothing: false,
        wait_until_empty: None,
    };
    let report = performed::perform(&client, &plan, &how, &format!("Before bulk reset: {}", plan.positions)).await?;
    if args.reset.format == Format::Csv {
        // Rows are of groups: how it went as a whole is for people.
        performed::say_metrics(&report);
    }
    performed::end("Bulk Offset Reset", &report, args.reset.format, output)
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

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("it is a number from 1 on".to_owned()),
        Ok(number) => Ok(number),
    }
}
