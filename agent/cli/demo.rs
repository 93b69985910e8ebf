//! `demo`: the whole story in one process, and the commands that tell it: what was archived, and what comes back of it.

use std::time::Duration;

use super::cluster::ClusterArgs;
use super::table::{self, Output, Page};
use super::{ArchiveArgs, Format, offset_mapping, restore, verify};
use crate::backup::stop_on_signals;
use crate::config::Config;
use crate::config::value::shown_path;
use crate::demo::{self, GROUP, Made, Options, RESTORED};
use crate::error::{Error, Result};
use crate::telemetry::{Health, logging};

/// What the user typed after `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the archive goes: a folder or a URL
    #[arg(long, value_name = "PATH|URL", default_value = "./demo-archive")]
    path: String,
    /// How many records are written to the in-process cluster
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Over how many seconds they are written
    #[arg(long, value_name = "SECONDS", default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// Has the group read on, and shows where: with the record after the last it had read, or the demo has failed.
async fn read_on(made: &Made) -> Result<()> {
    logging::say(&format!("\n{GROUP} had read a part of the orders; it reads on in {RESTORED}:"));
    let partitions = made.read_on().await?;
    let mut page = Page::new(format_args!("Consumer Group: {GROUP}"));
    let row = |read_on: &demo::ReadOn| {
        vec![
            format!("orders-{}", read_on.partition),
            table::or_dash(read_on.last),
            format!("{RESTORED}-{}", read_on.partition),
            read_on.first.to_string(),
            if read_on.is_next { "the next one" } else { "ANOTHER ONE" }.to_owned(),
        ]
    };
    let rows: Vec<_> = partitions.iter().map(row).collect();
    page.table(&["Had Read", "Up To", "Reads On In", "At", "Record"], &rows);
    let mut output = Output::stdout()?;
    output.write(page.text().as_bytes())?;
    output.finish()?;
    match partitions.iter().find(|read_on| !read_on.is_next) {
        None => Ok(()),
        Some(wrong) => Err(Error::failed(format!(
            "the group `{GROUP}` did not read on with the record after the last it had read"
        ))
        .with("partition", wrong.partition)
        .with("offset", wrong.first)),
    }
}

/// Restores the orders, and compares what came back with the archive.
async fn bring_back(made: &Made, path: &str, program: &str, on_backup: &str) -> Result<()> {
    let text = demo::restore(made, path).await?;
    let config = Config::parse("the demo", &text, &|_| None)?;
    let args =
        restore::Args { config: "restore.toml".into(), dry_run: false, format: restore::Shown::Table, listen: None };
    logging::say(&format!(
        "\n$ {program} restore --config restore.toml   # orders, as {RESTORED}, and the group {GROUP}"
    ));
    let (_stop, stopped) = stop_on_signals()?;
    for restore in &config.restores {
        if let Some(prepared) = restore::prepare(restore, &args).await? {
            let _ = prepared.perform(&Health::new(), stopped.clone(), &restore::say).await?;
        }
    }
    let servers = &made.cluster.bootstrap_servers;
    logging::say(&format!("\n$ {program} verify {on_backup} --deep --against-restore {RESTORED} -b {servers}"));
    let archive = ArchiveArgs { path: path.to_owned(), backup_id: made.backup_id.clone(), format: Format::Table };
    let against = verify::Against {
        against_restore: Some(RESTORED.to_owned()),
        cluster: ClusterArgs {
            bootstrap_servers: Some(servers.clone()),
            // The mock brokers answer a waiting Fetch when its time is over.
            property: vec![("fetch.wait.max.ms".to_owned(), "50".to_owned())],
            ..ClusterArgs::default()
        },
        ..verify::Against::default()
    };
    verify::run(verify::Args { archive, deep: true, against }).await
}

/// Runs the demo, shows what it made, and says what to try next.
pub async fn run(args: Args) -> Result<()> {
    let Args { path, records, seconds } = args;
    let shown = shown_path(&path);
    logging::say(&format!(
        "An in-process Kafka cluster gets {records} orders and payments within {seconds} s; the agent archives them \
         into {shown}."
    ));
    let made = demo::run(Options { path: path.clone(), records, time: Duration::from_secs(seconds) }).await?;
    let backup_id = &made.backup_id;
    let archive = || ArchiveArgs { path: path.clone(), backup_id: backup_id.clone(), format: Format::Table };
    let program = std::env::args().next().unwrap_or_else(|| "kafka-backup".to_owned());
    let on_backup = format!("--path {shown} --backup-id {backup_id}");
    logging::say(&format!("\n$ {program} show-offset-mapping {on_backup}"));
    offset_mapping::run(offset_mapping::Args { archive: archive(), restore_id: None, state: None }).await?;
    bring_back(&made, &path, &program, &on_backup).await?;
    read_on(&made).await?;
    logging::say(&format!(
        "
The archive stays. What to try next:

  {program} describe {on_backup} --groups
  {program} cat {on_backup} --topic orders --partition 0 --limit 3
  {program} cat {on_backup} --topic payments --from-offset 1000 --to-offset 1005
  find {shown}/{backup_id} -name '*.log'

Each .log is a Kafka log segment; with a Kafka at hand, its own tool reads them:

  kafka-dump-log.sh --deep-iteration --files <one of them>

Your own cluster: put its brokers and topics into config/backup.toml, then

  {program} backup --config config/backup.toml"
    ));
    Ok(())
}
