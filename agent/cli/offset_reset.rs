//! `offset-reset`: consumer groups put back to the records they had reached: planned, done, or written as a script of Kafka's
//! own tool. What is planned is [`making`](crate::groups::making)'s, what is done [`perform`](crate::groups::perform)'s; here
//! it is asked for and printed. The plan is as on the user's page (`docs/offset-management.md`), with columns behind its own.
//!
//! `plan` and `script` change nothing on the cluster. `execute` keeps what was before it changes anything, and prints how to
//! bring that back first.

pub mod args;
mod execute;
pub(super) mod page;
mod selectors;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Format;
use super::table::Output;
use crate::config::value::shown_path;
use crate::error::{Error, Result};
use crate::groups::plan::Plan;
use crate::groups::positions::csv;
use crate::groups::script::{Script, script};
use crate::record::Timestamp;
use crate::telemetry::logging;
use args::ResetArgs;

/// What can be done.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Show what would become of groups: where each is, and where it would be
    #[command(after_help = "Examples:\n  \
        kafka-backup offset-reset plan --path s3://my-kafka-backups --backup-id production-backup-001 \\\n    \
        --groups order-processor,payment-service --bootstrap-servers kafka:9092\n  \
        kafka-backup offset-reset plan --groups order-processor --to-earliest --topic orders:0,1 \\\n    \
        --bootstrap-servers kafka:9092\n\
        Exit codes: 0 a partition can be set or is so already, 1 none, or a group was not found")]
    Plan(Box<PlanArgs>),
    /// Set the offsets of groups, after what they have now is kept as a snapshot
    #[command(after_help = "Examples:\n  \
        kafka-backup offset-reset execute --path s3://my-kafka-backups --backup-id production-backup-001 \\\n    \
        --groups order-processor --bootstrap-servers kafka:9092\n  \
        kafka-backup offset-reset plan … --format json > plan.json\n  \
        kafka-backup offset-reset execute --plan-file plan.json --path s3://my-kafka-backups \\\n    \
        --backup-id production-backup-001 --bootstrap-servers kafka:9092\n\
        Exit codes: 0 all is set and was read back, 3 some of it, 1 nothing")]
    Execute(Box<execute::Args>),
    /// Write a shell script that does it with Kafka's own tool
    #[command(after_help = "Example:\n  \
        kafka-backup offset-reset script --path s3://my-kafka-backups --backup-id production-backup-001 \\\n    \
        --groups order-processor --bootstrap-servers kafka:9092 --output reset-offsets.sh")]
    Script(Box<ScriptArgs>),
}

/// What the user typed after `offset-reset plan`.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    reset: ResetArgs,
    /// Print the offsets as Kafka's tool exports them and reads them from a file: CSV, group,topic,partition,offset
    #[arg(long, conflicts_with = "format")]
    export: bool,
}

/// What the user typed after `offset-reset script`.
#[derive(Debug, clap::Args)]
pub struct ScriptArgs {
    #[command(flatten)]
    reset: ResetArgs,
    /// Where to write the script, which can be run; else it is printed
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Plans, resets, or writes a script.
///
/// # Errors
/// As [`ResetArgs::plan`]; after printing, [`Kind::Failed`](crate::error::Kind::Failed) where no partition can be set, and as
/// [`Report::verdict`](crate::groups::perform::Report::verdict).
pub async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Plan(args) => plan(*args).await,
        Verb::Execute(args) => execute::run(*args).await,
        Verb::Script(args) => write(*args).await,
    }
}

async fn plan(args: PlanArgs) -> Result<()> {
    let (client, plan) = args.reset.plan().await?;
    let mut output = Output::stdout()?;
    if args.export {
        output.write(export(&args.reset, &plan).as_bytes())?;
    } else {
        let members = page::members(&client, &plan).await?;
        page::print(&plan, &members, args.reset.format, &mut output)?;
    }
    output.finish()?;
    page::verdict(&plan)
}

/// Returns a plan as Kafka's tool exports it: without the group where one is named.
fn export(args: &ResetArgs, plan: &Plan) -> String {
    csv::write(&csv::of_plan(plan), args.groups.names().len() == 1)
}

async fn write(args: ScriptArgs) -> Result<()> {
    if args.reset.format != Format::Table {
        return Err(Error::usage("a script has no other format").hint("`offset-reset plan` has: --format json"));
    }
    if let Some((key, _)) = args.reset.cluster.property.first() {
        return Err(Error::usage(format!("a script cannot carry `-X {key}=…`: Kafka's own tool has no such flag"))
            .hint("write the properties to a file, and name it with --command-config"));
    }
    let (client, plan) = args.reset.plan().await?;
    let servers = client.properties().bootstrap_servers.join(",");
    let config = args.reset.cluster.command_config.as_ref().map(|file| file.display().to_string());
    let text = script(
        &plan,
        &Script {
            backup_id: args.reset.backup_id.as_deref().unwrap_or("none"),
            generated: Timestamp::now(),
            bootstrap_servers: &servers,
            command_config: config.as_deref(),
        },
    );
    match &args.output {
        None => super::print(&text)?,
        Some(file) => {
            save(file, &text)?;
            logging::say(&format!(
                "written to {}; stop the consumers, then run it",
                shown_path(&file.display().to_string())
            ));
        }
    }
    page::verdict(&plan)
}

/// Writes a script that can be run; one that was there is replaced as a whole.
fn save(file: &Path, text: &str) -> Result<()> {
    let failed = |error| Error::failed(format!("cannot write {}", file.display())).source(error);
    let mut name = file.file_name().ok_or_else(|| Error::usage(format!("`{}` is no file", file.display())))?.to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let staged = file.with_file_name(name);
    let mut opened = std::fs::OpenOptions::new();
    let _ = opened.write(true).create_new(true).mode(0o755);
    let written = opened.open(&staged).and_then(|mut staged| {
        staged.write_all(text.as_bytes())?;
        staged.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(&staged, file));
    renamed.map_err(|error| {
        // What is left of it is of no use to anybody.
        let _ = std::fs::remove_file(&staged);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_script_that_is_saved_can_be_run_and_replaces_the_one_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("reset.sh");
        for text in ["#!/bin/bash\n", "#!/bin/bash\ntrue\n"] {
            save(&file, text).expect("written");
            assert_eq!(std::fs::read_to_string(&file).expect("read"), text);
        }
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{mode:o}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
        let error = save(&folder.path().join("none/reset.sh"), "").expect_err("no folder");
        assert!(error.exit_code() == 1 && error.to_string().contains("none/reset.sh"), "{error}");
    }
}
