//! `config validate|show`: what can be known of a configuration without writing anything.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::config::Config;
use crate::error::{Error, Result};

/// The verbs of `config`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Check everything that can be known without connecting or writing: keys, values, plugins and their settings
    Validate {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print what holds: all defaults filled in, secrets masked
    Show {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// How to print
        #[arg(long, short = 'o', value_enum, default_value_t)]
        format: Format,
    },
}

/// How `config show` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// As the file is written: TOML, or the YAML of a restore
    #[default]
    #[value(alias = "yaml")]
    Toml,
    /// The same as JSON
    Json,
}

/// Runs the verb.
pub async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Validate { config: file } => {
            let config = Config::load(&file)?;
            crate::backup::validate(&config)?;
            crate::backup::validate_stages(&config).await?;
            let captures = config.pipelines.iter().map(|pipeline| pipeline.name.as_str());
            let names: Vec<&str> =
                captures.chain(config.restores.iter().map(|restore| restore.name.as_str())).collect();
            super::print(&format!("{} is valid: pipelines {}\n", file.display(), names.join(", ")))
        }
        Verb::Show { config, format } => {
            let config = Config::load(&config)?;
            super::print(&match format {
                Format::Toml => config.to_text()?,
                Format::Json => serde_json::to_string_pretty(config.effective())
                    .map(|text| text + "\n")
                    .map_err(|error| Error::failed("cannot print the configuration").source(error))?,
            })
        }
    }
}
