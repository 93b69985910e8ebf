//! `backup`: one pass.

use std::path::PathBuf;

use crate::config::Config;
use crate::error::Result;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Archives everything up to the last stable offsets seen at start.
pub async fn run(args: Args) -> Result<()> {
    crate::backup::once(Config::load(&args.config)?).await
}
