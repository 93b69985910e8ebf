//! The command line: the verbs, and what they share.
//!
//! Data goes to stdout ([`table::Output`] is the one way there), everything else to stderr. Each verb is a file in
//! `cli/` with its `Args` and a `run`; this file only parses and dispatches. `--help` of each verb is its reference.

pub mod backup;
pub mod cat;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod describe;
pub mod groups;
pub mod list;
pub mod offset_map;
pub mod offset_mapping;
pub mod offset_reset;
pub mod offset_reset_bulk;
pub mod offset_rollback;
pub mod plugin;
pub mod repair;
pub mod restore;
pub mod restores;
pub mod run;
pub mod savepoints;
pub mod table;
pub mod three_phase;
pub mod verify;

use std::io::ErrorKind;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::value::shown_path;
use crate::error::{Error, Kind, Result};
use crate::store::Store;
use crate::telemetry::{logging, metrics::Textfile};

/// What the user typed.
#[derive(Debug, Parser)]
#[command(name = "kafka-backup", version, about, propagate_version = true, subcommand_required = true)]
pub struct Cli {
    #[command(flatten)]
    logging: logging::Args,
    /// Write the metrics of a command that ends to this file, in Prometheus's text format, also when it fails
    #[arg(long, global = true, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent: all pipelines of a configuration, until it is told to stop
    Run(run::Args),
    /// Archive everything up to the last stable offsets seen at start, then exit
    Backup(backup::Args),
    /// Send what a backup holds to a cluster
    Restore(restore::Args),
    /// Find where consumer groups stood, send what a backup holds to a cluster, put the groups back
    ThreePhaseRestore(three_phase::Args),
    /// List the backups below a path, or the topics of one
    List(list::Args),
    /// Show what a backup holds: topics with their settings, partitions, times, gaps
    Describe(describe::Args),
    /// Show the first and last offset and the record count of every partition
    ShowOffsetMapping(offset_mapping::Args),
    /// Show where in the target of a restore a source offset is
    OffsetMap(offset_map::Args),
    /// Put consumer groups back to the records they had reached: show, do, or write a script
    #[command(subcommand)]
    OffsetReset(offset_reset::Verb),
    /// Set the offsets of many groups, over few connections
    OffsetResetBulk(Box<offset_reset_bulk::Args>),
    /// Keep what consumer groups have committed, and bring it back
    #[command(subcommand)]
    OffsetRollback(offset_rollback::Verb),
    /// List the restores of a backup, show one, cancel one, or undo one
    #[command(subcommand)]
    Restores(restores::Verb),
    /// List the savepoints of a backup and whether the archive has reached them, or create one
    Savepoints(savepoints::Args),
    /// Check a backup: is everything there, is it what was written, is it what the source has
    Verify(verify::Args),
    /// Make whole again what can be: catalogs, sidecars, declared gaps; only with --execute
    Repair(repair::Args),
    /// Print records as JSON lines
    Cat(cat::Args),
    /// Show everything in one process: an in-process cluster, a producer, the agent, the archive
    Demo(demo::Args),
    /// Check a configuration, or show it with all defaults filled in
    #[command(subcommand)]
    Config(config::Verb),
    /// Check a plugin, or pass records through it without a cluster
    #[command(subcommand)]
    Plugin(plugin::Verb),
    /// Print the version
    Version,
}

impl Cli {
    /// Reads the command line of this process. Where help or the version was asked for, it is printed and the process
    /// ends.
    ///
    /// # Errors
    /// [`Kind::Usage`] for what cannot be understood.
    pub fn read() -> Result<Self> {
        use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
        Self::try_parse().map_err(|error| match error.kind() {
            DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | DisplayVersion => error.exit(),
            _ => usage(&error.to_string()),
        })
    }

    /// Runs the verb to its end. SIGINT ends a verb that holds nothing at once; the others close first.
    pub async fn run(self) -> Result<()> {
        let captures =
            matches!(self.verb, Verb::Run(_) | Verb::Backup(_) | Verb::Restore(_) | Verb::ThreePhaseRestore(_));
        logging::start(&self.logging, captures)?;
        if let (Verb::Run(_), Some(_)) = (&self.verb, &self.metrics_file) {
            let error = Error::usage("run writes no metrics file: it does not end by itself");
            return Err(error.hint("leave --metrics-file out, and have /metrics of agent.listen read"));
        }
        let name = self.verb.name();
        let textfile = self.metrics_file.map(|path| Textfile::new(&path, name)).transpose()?;
        if !(captures || matches!(self.verb, Verb::Demo(_))) {
            tokio::spawn(end_on_interrupt(textfile.clone()));
        }
        let outcome = self.verb.run().await;
        match textfile {
            Some(textfile) => textfile.finish(outcome),
            None => outcome,
        }
    }
}

impl Verb {
    /// Returns its name on the command line, without that of a verb below it.
    fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Backup(_) => "backup",
            Self::Restore(_) => "restore",
            Self::ThreePhaseRestore(_) => "three-phase-restore",
            Self::List(_) => "list",
            Self::Describe(_) => "describe",
            Self::ShowOffsetMapping(_) => "show-offset-mapping",
            Self::OffsetMap(_) => "offset-map",
            Self::OffsetReset(_) => "offset-reset",
            Self::OffsetResetBulk(_) => "offset-reset-bulk",
            Self::OffsetRollback(_) => "offset-rollback",
            Self::Restores(_) => "restores",
            Self::Savepoints(_) => "savepoints",
            Self::Verify(_) => "verify",
            Self::Repair(_) => "repair",
            Self::Cat(_) => "cat",
            Self::Demo(_) => "demo",
            Self::Config(_) => "config",
            Self::Plugin(_) => "plugin",
            Self::Version => "version",
        }
    }

    async fn run(self) -> Result<()> {
        match self {
            Self::Run(args) => run::run(args).await,
            Self::Backup(args) => backup::run(args).await,
            Self::Restore(args) => inside(restore::run(args)).await,
            Self::ThreePhaseRestore(args) => inside(three_phase::run(args)).await,
            Self::List(args) => list::run(args).await,
            Self::Describe(args) => describe::run(args).await,
            Self::ShowOffsetMapping(args) => offset_mapping::run(args).await,
            Self::OffsetMap(args) => offset_map::run(args).await,
            Self::OffsetReset(verb) => offset_reset::run(verb).await,
            Self::OffsetResetBulk(args) => offset_reset_bulk::run(*args).await,
            Self::OffsetRollback(verb) => offset_rollback::run(verb).await,
            Self::Restores(verb) => restores::run(verb).await,
            Self::Savepoints(args) => savepoints::run(args).await,
            Self::Verify(args) => verify::run(args).await,
            Self::Repair(args) => repair::run(args).await,
            Self::Cat(args) => cat::run(args).await,
            Self::Demo(args) => demo::run(args).await,
            Self::Config(verb) => config::run(verb).await,
            Self::Plugin(verb) => plugin::run(verb).await,
            Self::Version => print(&format!("kafka-backup {}\n", env!("CARGO_PKG_VERSION"))),
        }
    }
}

/// Runs a verb on the threads of the runtime. The one that waits for the runtime's end is none of them: it would be woken, by
/// a call of the kernel, for every answer of a broker.
async fn inside(verb: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    match tokio::spawn(verb).await {
        Ok(outcome) => outcome,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}

/// Folds clap's message to an error of one line: what is wrong, and the flag or value that it thinks was meant.
fn usage(message: &str) -> Error {
    let mut what = Vec::new();
    for paragraph in message.split("\n\n").take_while(|paragraph| !paragraph.starts_with("Usage:")) {
        // The first line says what is wrong; those below list flags or values.
        let (first, rest) = paragraph.trim().split_once('\n').unwrap_or((paragraph.trim(), ""));
        let rest: Vec<_> = rest.lines().map(str::trim).collect();
        what.push(format!("{first} {}", rest.join(", ")).trim_end().to_owned());
    }
    what.retain(|paragraph| !paragraph.starts_with("For more information"));
    let what = what.join("; ");
    Error::usage(what.strip_prefix("error: ").unwrap_or(&what)).hint("try --help")
}

/// Ends the process with [`Kind::Interrupted`] on SIGINT. From a task of its own, since a verb may be busy computing.
async fn end_on_interrupt(textfile: Option<Textfile>) {
    if tokio::signal::ctrl_c().await.is_ok() {
        let interrupted = || Error::new(Kind::Interrupted, "interrupted");
        let outcome = textfile.map_or_else(|| Err(interrupted()), |textfile| textfile.finish(Err(interrupted())));
        let error = outcome.err().unwrap_or_else(interrupted);
        logging::say(&format!("error: {error}"));
        std::process::exit(error.exit_code().into());
    }
}

/// Which backup a verb reads, and how it prints.
#[derive(Debug, clap::Args)]
pub struct ArchiveArgs {
    /// Where the archive is: a folder or a URL
    #[arg(long, value_name = "PATH|URL")]
    pub path: String,
    /// The name of the backup
    #[arg(long, value_name = "NAME", value_parser = backup_id)]
    pub backup_id: String,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub format: Format,
}

/// How a verb prints its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Tables for people
    #[default]
    Table,
    /// JSON, stable for programs
    Json,
    /// Comma-separated values with a header line
    Csv,
}

/// Reads a backup's name from the command line.
pub fn backup_id(text: &str) -> Result<String, String> {
    crate::config::value::check_backup_id(text).map(|()| text.to_owned())
}

/// Opens the store that a verb reads.
///
/// # Errors
/// [`Kind::Usage`] where the path is a file's; a folder need not be there, and then holds no backup.
fn open(path: &str) -> Result<Store> {
    open_as(path, "--path is where the backups lie")
}

/// As [`open`], for another flag; `hint` says what it is.
fn open_as(path: &str, hint: &str) -> Result<Store> {
    let store = Store::open(path)?;
    let is_file = match folder_of(path).map(std::fs::metadata) {
        Some(Ok(metadata)) => !metadata.is_dir(),
        Some(Err(error)) => error.kind() == ErrorKind::NotADirectory,
        None => false,
    };
    if is_file {
        return Err(Error::usage(format!("`{}` is no folder", shown_path(path))).hint(hint));
    }
    Ok(store)
}

/// Returns the folder of this machine that `path` is, if it is one.
fn folder_of(path: &str) -> Option<&str> {
    if path.contains("://") { path.strip_prefix("file://") } else { Some(path) }
}

/// Writes data to stdout. A reader that has gone away (`| head`) ends the output without a word.
fn print(text: &str) -> Result<()> {
    let mut output = table::Output::stdout()?;
    output.write(text.as_bytes())?;
    output.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the line that `arguments` are refused with.
    fn refused(arguments: &str) -> String {
        let error = Cli::try_parse_from(arguments.split(' ')).expect_err("wrong");
        let line = usage(&error.to_string()).to_string();
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    }

    #[test]
    fn a_wrong_flag_is_refused_in_one_line_that_keeps_what_was_meant() {
        let tip = "unexpected argument '--paht' found; tip: a similar argument exists: '--path'; try --help";
        assert_eq!(refused("k list --paht x"), tip);
        let missing = "the following required arguments were not provided: --path <PATH|URL>, --backup-id <NAME>; \
                       try --help";
        assert_eq!(refused("k verify"), missing);
        let values = "invalid value 'x' for '--format <FORMAT>' [possible values: table, json, csv]; try --help";
        assert_eq!(refused("k list --path p --format x"), values);
        assert!(refused("k lits").starts_with("unrecognized subcommand 'lits'; tip: "), "{}", refused("k lits"));
    }

    #[test]
    fn negative_numbers_are_refused_as_such() {
        for flag in ["--partition", "--limit", "--from-offset", "--to-offset"] {
            let line = refused(&format!("k cat --path p --backup-id b {flag} -1"));
            let start = format!("invalid value '-1' for '{flag} <");
            assert!(line.starts_with(&start) && line.contains("from 0 on"), "{line}");
        }
        let line = refused("k savepoints --path p --backup-id b --limit -1");
        assert!(line.starts_with("invalid value '-1' for '--limit <") && line.contains("from 0 on"), "{line}");
        let dashed = Cli::try_parse_from(["k", "cat", "--path", "p", "--backup-id", "b", "--topic", "-dash"]);
        let _ = dashed.expect("Kafka allows such a name");
    }

    #[test]
    fn a_path_that_is_a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("UTF-8").to_owned();
        for path in [path.clone(), format!("{path}/below"), format!("file://{path}")] {
            assert_eq!(open(&path).err().map(|error| error.kind()), Some(Kind::Usage), "{path}");
        }
    }
}
