//! `three-phase-restore`, and how `restore` shows what becomes of consumer groups. What is done is
//! [`phases`](crate::recovery::phases)'; what cannot be put back does not undo what is restored: the exit code is 3.

use super::restore;
use super::table::{self, Page};
use crate::config::Restore;
use crate::error::{Error, Result};
use crate::groups::plan::{GroupPlan, Row};
use crate::groups::positions::Committed;
use crate::recovery::phases::{Preview, Stood, fitting};

/// Arguments of `three-phase-restore`.
#[derive(Debug, clap::Args)]
// What it flattens has the same name, and clap wants names of groups to differ.
#[group(skip)]
#[command(
    after_help = "Examples:\n  kafka-backup three-phase-restore --config three-phase-restore.yaml --dry-run\n  kafka-backup three-phase-restore --config three-phase-restore.yaml\nExit codes: 0 done, 1 failed, 3 all is restored and a group or partition could not be put back"
)]
pub struct Args {
    #[command(flatten)]
    restore: restore::Args,
}

/// Restores, and puts consumer groups back.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for a file that puts none back; else as [`restore::run`].
pub async fn run(args: Args) -> Result<()> {
    restore::run_all(args.restore, true).await
}

/// Refuses a restore that puts no groups back.
pub(super) fn check(restore: &Restore) -> Result<()> {
    match restore.groups {
        Some(_) => Ok(()),
        None => Err(Error::usage(format!("`{}` puts no consumer groups back: it has no third phase", restore.name))
            .hint(
                "set restore.reset_consumer_offsets: true (in TOML [pipeline.groups] reset = true), or use `restore`",
            )),
    }
}

/// Adds what becomes of groups to the page of a restore's plan.
pub(super) fn add_to(page: &mut Page, groups: &Preview) {
    match groups {
        Preview::Stood { from, rows } => {
            page.line(format!("\nConsumer groups, as they stood at {from}"));
            let row =
                |of: &Stood| vec![of.group.clone(), of.source.to_string(), table::or_dash(of.offset), of.to.clone()];
            let rows: Vec<_> = rows.iter().map(row).collect();
            page.table(&["Group", "Source", "Committed", "Goes To"], &rows);
        }
        Preview::Set { plan, before } => {
            page.line(format!("\nConsumer groups, from {}", plan.positions));
            let mut rows = Vec::new();
            for group in &plan.groups {
                rows.extend(
                    group.refused.iter().map(|why| vec![group.group.clone(), format!("SKIP: {}", fitting(why))]),
                );
                rows.extend(group.rows.iter().filter(|_| group.refused.is_none()).map(|row| cells(group, row)));
            }
            page.table(&["Group", "Partition", "Current", "Target", "Action", "Exactness"], &rows);
            for group in before {
                page.line(format!("Group {group}: this restore has put it back before, it stays as it is"));
            }
        }
    }
}

fn cells(group: &GroupPlan, row: &Row) -> Vec<String> {
    let offset = |at: &Option<Committed>| table::or_dash(at.as_ref().map(|at| at.offset));
    vec![
        group.group.clone(),
        format!("{}-{}", row.topic, row.partition),
        offset(&row.current),
        offset(&row.target),
        fitting(&row.action.to_string()),
        row.exactness.map_or_else(String::new, |exactness| exactness.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_restore_without_a_third_phase_is_refused() {
        let text = "[[pipeline]]\nname = \"r\"\n[pipeline.source]\ntype = \"archive\"\nbackup_id = \"b\"\n\
                    path = \"/a\"\n[pipeline.sink]\ntype = \"kafka\"\nkafka = { \"bootstrap.servers\" = \"k:1\" }\n";
        let restore = Config::parse("a.toml", text, &|_| None).expect("valid").restores.remove(0);
        let error = check(&restore).expect_err("it puts none back");
        assert!(error.exit_code() == 2 && error.to_string().contains("reset_consumer_offsets: true"), "{error}");
    }
}
