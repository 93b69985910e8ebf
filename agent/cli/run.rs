//! `run`: the daemon.

use std::path::PathBuf;

use crate::config::Config;
use crate::error::Result;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs all pipelines of the file until SIGTERM or SIGINT, which end it gracefully and well; SIGHUP has it read the file again.
pub async fn run(args: Args) -> Result<()> {
    crate::backup::run(Config::load(&args.config)?).await
}
