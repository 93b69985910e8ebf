//! `offset-rollback`: snapshots of what consumer groups have committed, and the way back to one.
//!
//! What a snapshot is, and the plan back to it, is [`snapshot`](crate::groups::snapshot)'s, the doing
//! [`perform`](crate::groups::perform)'s; here it is asked for and printed. A rollback keeps the present first, in the same
//! place, and says how to come back to that.

mod listing;
pub(super) mod performed;
pub(super) mod planned;
mod show;
mod verifying;

use std::time::Duration;

use serde::Serialize;

use self::performed::Performance;
use super::Format;
use super::cluster::ClusterArgs;
use super::groups::{self, GroupArgs};
use super::table::{self, Output};
use crate::config::value;
use crate::error::{Error, Kind, Result};
use crate::groups::perform::CONNECTIONS;
use crate::groups::present::Present;
use crate::groups::snapshot::{self, Snapshot, Snapshots};
use crate::groups::{ACTIVE, not_found};
use crate::kafka::client::{Client, OPEN_WITHIN};
use crate::telemetry::logging;

/// How many groups a message names.
const NAMED: usize = 20;

/// Where snapshots are.
#[derive(Debug, Clone, clap::Args)]
pub struct PlaceArgs {
    /// Where the snapshots are, below `snapshots/`: a folder or a URL
    #[arg(long, value_name = "PATH|URL", required_unless_present = "state")]
    path: Option<String>,
    /// Those of this backup: below `<backup-id>/snapshots/`
    #[arg(long, value_name = "NAME", value_parser = super::backup_id)]
    backup_id: Option<String>,
    /// Where restores keep their objects, if not with the backup, and snapshots with them: in the place of --path
    #[arg(long, value_name = "PATH|URL", conflicts_with = "path")]
    state: Option<String>,
}

/// Which of them.
#[derive(Debug, Clone, clap::Args)]
pub struct OneArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The snapshot
    #[arg(long, value_name = "ID", value_parser = snapshot_id)]
    snapshot_id: String,
}

/// What can be done.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Keep what groups have committed: offsets, metadata, and what they have not
    #[command(after_help = "Example:\n  \
        kafka-backup offset-rollback snapshot --path /data/offset-snapshots --groups order-processor,payment-service \\\n    \
        --bootstrap-servers kafka:9092 --description \"Before restore operation\"")]
    Snapshot(SnapshotArgs),
    /// List the snapshots of a place, the newest first
    #[command(after_help = "Exit codes: 0 all can be read, 4 one is damaged")]
    List(ListArgs),
    /// Show all that a snapshot holds
    Show(ShowArgs),
    /// Bring groups back to what a snapshot says of them; what is now is kept first
    #[command(after_help = "Example:\n  \
        kafka-backup offset-rollback rollback --path /data/offset-snapshots --snapshot-id snapshot-20241203-100000 \\\n    \
        --bootstrap-servers kafka:9092 --dry-run\n\
        Exit codes: 0 all is as it was, 1 nothing was changed, 3 some of it is not as it was")]
    Rollback(RollbackArgs),
    /// Say where groups stand otherwise than a snapshot says
    #[command(after_help = "Exit codes: 0 nowhere, 4 they differ")]
    Verify(VerifyArgs),
    /// Delete a snapshot
    Delete(DeleteArgs),
}

/// What the user typed after `offset-rollback snapshot`.
#[derive(Debug, clap::Args)]
pub struct SnapshotArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    groups: GroupArgs,
    /// All groups of the cluster
    #[arg(long, conflicts_with = "GroupArgs")]
    all_groups: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// Say what would be kept, and keep nothing
    #[arg(long)]
    dry_run: bool,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Format,
}

/// What the user typed after `offset-rollback list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Format,
}

/// What the user typed after `offset-rollback show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    of: OneArgs,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Format,
}

/// What the user typed after `offset-rollback rollback`.
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    of: OneArgs,
    #[command(flatten)]
    groups: GroupArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Print the plan, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until the groups have no members, 5m unless told otherwise
    #[arg(
        long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "5m",
        value_parser = value::duration
    )]
    wait_until_empty: Option<Duration>,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Format,
}

/// What the user typed after `offset-rollback verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    of: OneArgs,
    #[command(flatten)]
    groups: GroupArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Format,
}

/// What the user typed after `offset-rollback delete`.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    of: OneArgs,
    /// Say what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was kept, or would be; its JSON is stable.
#[derive(Debug, Serialize)]
struct Taken<'a> {
    dry_run: bool,
    #[serde(flatten)]
    snapshot: &'a Snapshot,
}

impl PlaceArgs {
    /// Opens the place.
    ///
    /// # Errors
    /// [`Kind::Usage`] where it is a file's.
    fn open(&self) -> Result<Snapshots> {
        let path = self.state.as_ref().or(self.path.as_ref()).map_or("", String::as_str);
        drop(super::open_as(path, "--path is where the snapshots are")?);
        Snapshots::open(path, self.backup_id.as_deref())
    }
}

/// Does what is asked.
///
/// # Errors
/// [`Kind::NoBackup`] for a snapshot that is not there; [`Kind::Damaged`] for one that cannot be read; else as each verb says.
pub async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Snapshot(args) => take(args).await,
        Verb::List(args) => listing::run(&args.place.open()?, args.format).await,
        Verb::Show(args) => show::run(&args.of.place.open()?.read(&args.of.snapshot_id).await?, args.format),
        Verb::Rollback(args) => rollback(args).await,
        Verb::Verify(args) => verify(args).await,
        Verb::Delete(args) => delete(args).await,
    }
}

async fn take(args: SnapshotArgs) -> Result<()> {
    if args.groups.is_empty() && !args.all_groups {
        return Err(groups::none_named());
    }
    let (snapshots, properties) = (args.place.open()?, args.cluster.properties()?);
    let client = Client::open(properties, OPEN_WITHIN).await?;
    let (names, lacks) = if args.all_groups { all_groups(&client).await? } else { (args.groups.names(), None) };
    let present = Present::look(&client, &names).await?;
    if !args.all_groups {
        check_known(&client, &present).await?;
    }
    let taken = Snapshot::of(&present, &[], &args.description)?;
    let taken = if args.dry_run { taken } else { snapshots.create(&taken).await? };
    say_shares(&taken);
    let holds = format!(
        "{}, {}",
        table::counted(taken.groups.len() as u64, "group"),
        table::counted(taken.offsets() as u64, "offset")
    );
    let where_to = snapshots.describe(&taken.id);
    match args.dry_run {
        true => logging::say(&format!("would keep {holds} below {}", table::shown(&where_to))),
        false => logging::say(&format!("kept {holds} in {}", table::shown(&where_to))),
    }
    let mut output = Output::stdout()?;
    match args.format {
        Format::Json => output.json(&Taken { dry_run: args.dry_run, snapshot: &taken })?,
        Format::Table | Format::Csv if args.dry_run => show::print(&taken, args.format, &mut output)?,
        Format::Table | Format::Csv => output.write(format!("{}\n", taken.id).as_bytes())?,
    }
    output.finish()?;
    match lacks {
        Some(why) => Err(Error::new(Kind::Partial, format!("groups may be missing in the snapshot: {why}"))),
        None => Ok(()),
    }
}

/// Returns all groups that the cluster tells of, and why there may be more.
async fn all_groups(client: &Client) -> Result<(Vec<String>, Option<String>)> {
    let listing = client.list_groups().await?;
    Ok((listing.groups.into_keys().collect(), listing.unread))
}

/// Refuses a group that is not there: a mistyped name must not pass for one that had committed nothing.
async fn check_known(client: &Client, present: &Present) -> Result<()> {
    let unreadable = |name: &String| present.groups[name].offsets.is_err();
    let Some(missing) = present.groups.keys().find(|name| !present.groups[*name].exists() && !unreadable(name)) else {
        return Ok(());
    };
    let there: Vec<String> = all_groups(client).await?.0;
    let hint = match there.len() {
        0 => "the cluster has no groups".to_owned(),
        1..=NAMED => format!("the cluster has: {}", there.join(", ")),
        more => format!("the cluster has {more} groups, as {}", there[..3].join(", ")),
    };
    Err(not_found(missing).hint(hint))
}

fn say_shares(snapshot: &Snapshot) {
    for group in &snapshot.groups {
        if let Some(why) = &group.error {
            logging::say(&format!("group {} is named without offsets: {why}", table::shown(&group.group)));
        }
    }
}

/// Reads a snapshot; of its groups only those that are named, where some are.
async fn read(snapshots: &Snapshots, id: &str, groups: &GroupArgs) -> Result<Snapshot> {
    let mut snapshot = snapshots.read(id).await?;
    if !groups.is_empty() {
        snapshot.only(&groups.names())?;
    }
    Ok(snapshot)
}

async fn rollback(args: RollbackArgs) -> Result<()> {
    let (snapshots, properties) = (args.of.place.open()?, args.cluster.properties()?);
    let wanted = read(&snapshots, &args.of.snapshot_id, &args.groups).await?;
    let client = Client::open(properties, OPEN_WITHIN).await?;
    let mut plan = snapshot::rollback(&client, &wanted).await?;
    let waits = args.wait_until_empty.filter(|_| !args.dry_run);
    if let Some(within) = waits
        && performed::wait(&client, &plan, within).await?
    {
        // Who left has committed where it stopped.
        plan = snapshot::rollback(&client, &wanted).await?;
    }
    let mut output = Output::stdout()?;
    let title = format!("Offset Rollback Plan: {}", wanted.id);
    say_shares(&wanted);
    wanted.leave_out_unkept(&mut plan);
    if args.dry_run {
        planned::print(&title, &plan, args.format, &mut output)?;
        output.finish()?;
        return planned::verdict(&plan, ACTIVE);
    }
    if args.format == Format::Table {
        planned::print(&title, &plan, args.format, &mut output)?;
    }
    let how = Performance {
        cluster: &args.cluster,
        snapshots: Some(&snapshots),
        max_concurrent: CONNECTIONS,
        all_or_nothing: true,
        wait_until_empty: None,
    };
    let report = performed::perform(&client, &plan, &how, &format!("Before rollback to {}", wanted.id)).await?;
    performed::end("Offset Rollback", &report, args.format, output)
}

async fn verify(args: VerifyArgs) -> Result<()> {
    let properties = args.cluster.properties()?;
    let wanted = read(&args.of.place.open()?, &args.of.snapshot_id, &args.groups).await?;
    let client = Client::open(properties, OPEN_WITHIN).await?;
    say_shares(&wanted);
    verifying::run(&wanted, &snapshot::rollback(&client, &wanted).await?, args.format)
}

async fn delete(args: DeleteArgs) -> Result<()> {
    let (snapshots, id) = (args.of.place.open()?, &args.of.snapshot_id);
    if args.dry_run {
        snapshots.find(id).await?;
        logging::say(&format!("would delete {}", snapshots.describe(id)));
        return Ok(());
    }
    snapshots.delete(id).await?;
    logging::say(&format!("deleted {}", snapshots.describe(id)));
    Ok(())
}

/// Reads a snapshot's id from the command line.
fn snapshot_id(text: &str) -> Result<String, String> {
    snapshot::id::check(text).map(|()| text.to_owned())
}
