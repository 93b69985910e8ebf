//! `restores`: the restores of a backup, all of one, the wish that one end, and one taken back.
//!
//! What is shown is what restores have kept ([`state`](crate::restore::state)), in the backup's folder or elsewhere; only
//! `undo` asks a cluster. Memory: a row each, and a few restores at a time; of one that is shown, its offset map.

mod show;
mod undo;

use super::Format;
use super::table::{self, Output, Page};
use crate::archive::source::{self, side_by_side};
use crate::config::value;
use crate::error::{Error, Result};
use crate::restore::state::{Listed as Row, State, cancel, restores};
use crate::store::Store;
use crate::telemetry::logging;

/// Restores that are read at a time, a few requests each.
const SIDE_BY_SIDE: usize = 8;

/// Where the restores of a backup keep their objects.
#[derive(Debug, clap::Args)]
pub struct StateArgs {
    /// Where the archive is: a folder or a URL
    #[arg(long, value_name = "PATH|URL", required_unless_present = "state")]
    path: Option<String>,
    /// The name of the backup
    #[arg(long, value_name = "NAME", value_parser = super::backup_id)]
    backup_id: String,
    /// Where the restores keep their objects, if not with the backup: a folder or a URL
    #[arg(long, value_name = "PATH|URL")]
    state: Option<String>,
}

impl StateArgs {
    /// Opens the store of the restores, rooted at the backup's folder.
    ///
    /// # Errors
    /// [`Kind::NoBackup`](crate::error::Kind::NoBackup) for a backup that is not there, where they are kept with it.
    pub(super) async fn open(&self) -> Result<Store> {
        match &self.state {
            Some(state) => beside(state, &self.backup_id),
            None => {
                let root = super::open(self.path.as_deref().unwrap_or_default())?;
                Ok(source::open(&root, &self.backup_id).await?.store().clone())
            }
        }
    }
}

/// One restore of a backup.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    state: StateArgs,
    /// The restore
    #[arg(long, value_name = "ID", value_parser = restore_id)]
    pub(super) restore_id: String,
}

impl RestoreArgs {
    /// Finds what it has kept.
    ///
    /// # Errors
    /// As [`StateArgs::open`] and [`State::open`].
    pub(super) async fn open(&self) -> Result<State> {
        State::open(&self.state.open().await?, &self.restore_id).await
    }
}

/// Opens the store of the restores of a backup that are not kept with it.
pub(super) fn beside(state: &str, backup_id: &str) -> Result<Store> {
    Ok(super::open_as(state, "--state is where the restores keep their objects")?.within(backup_id))
}

/// Reads a restore's id from the command line.
pub(super) fn restore_id(text: &str) -> Result<String, String> {
    value::check_restore_id(text).map(|()| text.to_owned())
}

/// What can be done.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// List the restores of a backup: how far each has come
    #[command(after_help = "Example:\n  \
        kafka-backup restores list --path s3://my-kafka-backups --backup-id production-backup-001")]
    List(ListArgs),
    /// Show all that a restore has kept: plan, attempts, how far it has come, what became of it
    #[command(after_help = "Example:\n  \
        kafka-backup restores show --path s3://my-kafka-backups --backup-id production-backup-001 \\\n    \
        --restore-id orders-restore-1f2e3d4c --format json")]
    Show(show::Args),
    /// Ask a restore to end: a running one stops at its next journal, and what it has sent stays
    #[command(after_help = "Example:\n  \
        kafka-backup restores cancel --path s3://my-kafka-backups --backup-id production-backup-001 \\\n    \
        --restore-id orders-restore-1f2e3d4c --dry-run")]
    Cancel(CancelArgs),
    /// Put consumer groups back that a restore has set, and delete what it made, where nobody else has used it since; one that
    /// is not finished is to be cancelled first
    #[command(after_help = "Examples:\n  \
        kafka-backup restores undo --path s3://my-kafka-backups --backup-id production-backup-001 \\\n    \
        --restore-id orders-restore-1f2e3d4c --bootstrap-servers kafka-dr:9092 --dry-run\n\
        Exit codes: 0 all that the restore made is gone, 1 some of it was not deleted, or a group not put back;\n\
        with --dry-run: as far as that can be foreseen")]
    Undo(undo::Args),
}

/// What the user typed after `restores list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    state: StateArgs,
    /// How to print
    #[arg(long, short = 'o', value_enum, default_value_t)]
    format: Format,
}

/// What the user typed after `restores cancel`.
#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    #[command(flatten)]
    restore: RestoreArgs,
    /// Say what it would mean, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Lists, shows, cancels or undoes.
///
/// # Errors
/// [`Kind::NoBackup`](crate::error::Kind::NoBackup) for a backup or a restore that is not there; after printing,
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when something cannot be read.
pub async fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::List(args) => {
            let store = args.state.open().await?;
            let mut output = Output::stdout()?;
            let result = list(&store, &args.state.backup_id, args.format, &mut output).await;
            output.finish()?;
            result
        }
        Verb::Show(args) => show::run(args).await,
        Verb::Cancel(args) => {
            logging::say(&cancel(&args.restore.open().await?, args.dry_run).await?);
            Ok(())
        }
        Verb::Undo(args) => undo::run(args).await,
    }
}

async fn list(store: &Store, backup_id: &str, format: Format, output: &mut Output) -> Result<()> {
    let ids = restores(store).await?;
    if ids.is_empty() {
        tracing::warn!("the backup `{backup_id}` has no restores in {}", store.describe(""));
    }
    let rows = side_by_side::each(ids, SIDE_BY_SIDE, |id| {
        let store = store.clone();
        async move { Row::read(&store, &id).await }
    });
    let (mut rows_read, mut damaged) = (Vec::new(), Vec::new());
    for read in rows.await? {
        let (row, errors) = read?;
        rows_read.push(row);
        damaged.extend(errors);
    }
    print(backup_id, &rows_read, format, output)?;
    verdict(damaged)
}

/// Returns the first of what cannot be read; the others are logged.
fn verdict(damaged: Vec<Error>) -> Result<()> {
    let mut damaged = damaged.into_iter();
    let first = damaged.next();
    damaged.for_each(|error| tracing::error!("{error}"));
    first.map_or(Ok(()), Err)
}

fn print(backup_id: &str, rows: &[Row], format: Format, output: &mut Output) -> Result<()> {
    match format {
        Format::Json => output.json(&rows),
        Format::Csv => {
            output.write(b"restore_id,state,started,records,target,note\n")?;
            for row in rows {
                output.write(table::csv(&cells(row).map(Option::unwrap_or_default)).as_bytes())?;
            }
            Ok(())
        }
        Format::Table => {
            let shown: Vec<_> = rows.iter().map(|row| cells(row).map(table::or_dash).to_vec()).collect();
            let mut page = Page::new(format_args!("Restores: {backup_id}"));
            page.table(&["Restore", "State", "Started", "Records", "Target", "Note"], &shown);
            output.write(page.text().as_bytes())
        }
    }
}

fn cells(row: &Row) -> [Option<String>; 6] {
    [
        Some(row.restore_id.clone()),
        Some(row.state.to_string()),
        row.started.clone(),
        row.records.map(|records| records.to_string()),
        row.target.clone(),
        (!row.damaged.is_empty()).then(|| row.damaged.join("; ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::Written;
    use super::*;
    use crate::restore::state::tests::{attempt, journal, landed, memory, planned, undone, whole};

    async fn listed(store: &Store, format: Format) -> (String, Result<()>) {
        let (mut output, written) = Written::output();
        let result = list(store, "b", format, &mut output).await;
        output.finish().expect("written");
        (written.text(), result)
    }

    #[tokio::test]
    async fn each_restore_is_a_row_with_how_far_it_has_come() {
        let store = memory();
        listed(&store, Format::Table).await.1.expect("there are none");
        let state = planned(&store).await;
        let (csv, _) = listed(&store, Format::Csv).await;
        assert_eq!(csv.lines().nth(1), Some("r1,planned,,,kafka-dr:9092,"));
        let begun = state.begin(attempt(7, 0)).await.expect("the first");
        let _ = state.journals(&begun).await.expect("listed").put(journal(&[(0, 1, 10)])).await.expect("kept");
        let _ = state.begin(attempt(7, 1)).await.expect("the second");
        let (csv, result) = listed(&store, Format::Csv).await;
        result.expect("sound");
        let row = format!("r1,running,{},10,kafka-dr:9092,", begun.started_at);
        assert_eq!(csv.lines().nth(1), Some(row.as_str()));
        let (table, _) = listed(&store, Format::Table).await;
        assert!(table.starts_with("Restores: b\n") && table.lines().count() == 5, "{table}");
        let (json, _) = listed(&store, Format::Json).await;
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&json[0]["state"], &json[0]["target_cluster_id"]), (&"running".into(), &"dr".into()));
    }

    #[tokio::test]
    async fn a_restore_that_cannot_be_read_is_a_row_and_exit_code_4() {
        let store = memory();
        let _ = store.create("restores/r1/plan", "{}".into()).await.expect("created");
        let (table, result) = listed(&store, Format::Table).await;
        let error = result.expect_err("damage");
        assert!(error.exit_code() == 4 && error.to_string().contains("restores/r1/plan"), "{error}");
        assert!(
            table.contains("r1       planned  -        -        -       the plan of the restore cannot"),
            "{table}"
        );
    }

    #[tokio::test]
    async fn a_restore_is_cancelled_once_and_a_dry_run_changes_nothing() {
        let state = planned(&memory()).await;
        let said = cancel(&state, true).await.expect("it could be");
        assert!(said.contains("would be cancelled: nothing was sent"), "{said}");
        assert!(!state.is_cancelled().await.expect("asked"));
        let _ = state.begin(attempt(7, 0)).await.expect("the first");
        let said = cancel(&state, false).await.expect("it is");
        assert!(said.contains("is cancelled: ") && said.contains("what was sent stays"), "{said}");
        assert!(state.is_cancelled().await.expect("asked"));
        for dry_run in [false, true] {
            let said = cancel(&state, dry_run).await.expect("it was");
            assert!(said.contains("was cancelled at 2"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_finished_restore_and_one_that_was_undone_cannot_be_cancelled() {
        let state = whole(&memory()).await;
        let error = cancel(&state, false).await.expect_err("it is done");
        assert!(error.exit_code() == 2 && error.to_string().contains("is done"), "{error}");
        let _ = undone(&state).await;
        let error = cancel(&state, false).await.expect_err("it is undone");
        assert!(error.exit_code() == 2 && error.to_string().contains("was undone"), "{error}");
    }

    #[tokio::test]
    async fn a_restore_of_which_all_has_landed_cannot_be_cancelled() {
        let state = landed(&memory()).await;
        for dry_run in [true, false] {
            let error = cancel(&state, dry_run).await.expect_err("there is nothing to cancel");
            let told = error.to_string();
            assert!(
                error.exit_code() == 2 && told.contains("has landed") && told.contains("`restores undo`"),
                "{told}"
            );
        }
        assert!(!state.is_cancelled().await.expect("asked"));
    }
}
