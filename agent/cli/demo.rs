//! `demo`: the whole story in one process, and the commands that tell it.

use std::time::Duration;

use super::{ArchiveArgs, Format, offset_mapping, verify};
use crate::config::value::shown_path;
use crate::demo::{self, Options};
use crate::error::Result;
use crate::telemetry::logging;

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

/// Runs the demo, shows what it made, and says what to try next.
pub async fn run(args: Args) -> Result<()> {
    let Args { path, records, seconds } = args;
    let shown = shown_path(&path);
    logging::say(&format!(
        "An in-process Kafka cluster gets {records} orders and payments within {seconds} s; the agent archives them \
         into {shown}."
    ));
    let backup_id = demo::run(Options { path: path.clone(), records, time: Duration::from_secs(seconds) }).await?;
    let archive = || ArchiveArgs { path: path.clone(), backup_id: backup_id.clone(), format: Format::Table };
    let program = std::env::args().next().unwrap_or_else(|| "kafka-backup".to_owned());
    let on_backup = format!("--path {shown} --backup-id {backup_id}");
    logging::say(&format!("\n$ {program} show-offset-mapping {on_backup}"));
    offset_mapping::run(offset_mapping::Args { archive: archive() }).await?;
    logging::say(&format!("\n$ {program} verify {on_backup}"));
    verify::run(verify::Args { archive: archive(), deep: true, against: verify::Against::default() }).await?;
    logging::say(&format!(
        "
The archive stays. What to try next:

  {program} describe {on_backup}
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
