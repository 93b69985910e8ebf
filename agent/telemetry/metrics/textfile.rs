//! The metrics of a command that ends, in a file: Prometheus's text format, for the textfile collector of `node_exporter`.
//!
//! Order: everything is written to a temporary file beside it, made durable, and renamed: whoever reads finds the old file or
//! the new one, whole. The temporary file does not end in `.prom`, which the collector takes. Crash: a command that is killed
//! leaves the old file, whose end time grows old, and at most a temporary file that the next one of its process id
//! replaces.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Series;
use crate::error::{Error, Result};
use crate::record::Timestamp;

/// What is so while a process lives, and alarms when it is not: of a command that has ended it would stand, as it was last, for
/// ever. It would hide that no agent is there, too.
const OF_AGENTS: [&str; 11] = [
    "kafka_backup_build_info",
    "kafka_backup_ready",
    "kafka_backup_troubles",
    "kafka_backup_pipeline_consecutive_failures",
    "kafka_backup_durable_lag_seconds",
    "kafka_backup_headroom_seconds",
    "kafka_backup_memory_used_bytes",
    "kafka_backup_savepoint_timestamp_seconds",
    "kafka_backup_savepoint_duration_seconds",
    "kafka_backup_savepoint_groups",
    "kafka_backup_savepoint_groups_unreadable",
];

/// Whether the command did all that it was to do.
const SUCCESS: &str = "kafka_backup_command_success";
/// Its exit code.
const EXIT_CODE: &str = "kafka_backup_command_exit_code";
/// How long it took.
const SECONDS: &str = "kafka_backup_command_duration_seconds";
/// When it ended.
const END: &str = "kafka_backup_command_end_timestamp_seconds";

/// A file for the metrics of a command.
#[derive(Clone)]
pub struct Textfile {
    path: PathBuf,
    command: &'static str,
    began: Instant,
    series: Series,
}

impl Textfile {
    /// Makes the file of a command that begins; its metrics are kept from now on.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) when nothing can be written beside `path`: known before anything is done.
    pub fn new(path: &Path, command: &'static str) -> Result<Self> {
        let beside = temporary(path);
        let tried =
            if path.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { File::create(&beside).map(drop) };
        tried.and_then(|()| fs::remove_file(&beside)).map_err(|error| {
            Error::usage(format!("cannot write the metrics file {}", path.display()))
                .source(error)
                .hint("--metrics-file is a file in a folder that is there and can be written")
        })?;
        Ok(Self { path: path.to_owned(), command, began: Instant::now(), series: super::install()? })
    }

    /// Writes the metrics of the command, which has ended with `outcome`, and returns that.
    ///
    /// # Errors
    /// That of the command; [`Kind::Failed`](crate::error::Kind::Failed) where it did all and the file could not be written.
    pub fn finish(&self, outcome: Result<()>) -> Result<()> {
        let code = outcome.as_ref().err().map_or(0, Error::exit_code);
        let gauge = |name, value: f64| metrics::gauge!(name, "command" => self.command).set(value);
        gauge(SUCCESS, if code == 0 { 1.0 } else { 0.0 });
        gauge(EXIT_CODE, code.into());
        gauge(SECONDS, self.began.elapsed().as_secs_f64());
        gauge(END, Timestamp::now().0 as f64 / 1000.0);
        let written = write(&self.path, &of_command(&self.series.render())).map_err(|error| {
            let _ = fs::remove_file(temporary(&self.path));
            Error::failed(format!("cannot write the metrics file {}", self.path.display())).source(error)
        });
        match (outcome, written) {
            (Ok(()), Err(error)) => Err(error.hint("the command itself has done all that it was to do")),
            (outcome, Ok(())) => outcome,
            (outcome, Err(error)) => {
                tracing::error!("{error}");
                outcome
            }
        }
    }
}

impl std::fmt::Debug for Textfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Textfile").field("path", &self.path).field("command", &self.command).finish_non_exhaustive()
    }
}

/// Leaves out what is an agent's to say.
fn of_command(page: &str) -> String {
    let is_kept = |line: &&str| {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|kind| line.strip_prefix(kind));
        let name = described.unwrap_or(line).split([' ', '{']).next().unwrap_or_default();
        !OF_AGENTS.contains(&name)
    };
    page.split_inclusive('\n').filter(is_kept).collect()
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = temporary(path);
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// Returns where the file is written before it has its name.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_has_its_metrics_written_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("backup.prom");
        fs::write(&path, "old").expect("writable");
        let file = Textfile::new(&path, "fails").expect("writable");
        let error = file.finish(Err(Error::usage("no such topic"))).expect_err("that of the command");
        assert_eq!(error.to_string(), "no such topic");
        let text = fs::read_to_string(&path).expect("the file");
        for line in [
            "kafka_backup_command_success{command=\"fails\"} 0",
            "kafka_backup_command_exit_code{command=\"fails\"} 2",
            "# TYPE kafka_backup_command_end_timestamp_seconds gauge",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside it");
        file.finish(Ok(())).expect("written");
        assert!(
            fs::read_to_string(&path).expect("the file").contains("kafka_backup_command_success{command=\"fails\"} 1")
        );
    }

    #[test]
    fn what_alarms_of_an_agent_is_not_left_behind_by_a_command() {
        use super::super::{PipelineMetrics, SavepointMetrics};
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("backup.prom");
        let file = Textfile::new(&path, "leaves").expect("writable");
        SavepointMetrics::new("left").held(Timestamp::now());
        PipelineMetrics::new("left").show(1);
        file.finish(Ok(())).expect("written");
        let (text, page) = (fs::read_to_string(&path).expect("the file"), file.series.render());
        for name in OF_AGENTS {
            assert!(!text.contains(&format!("{name}{{")) && !text.contains(&format!(" {name} ")), "{name}:\n{text}");
        }
        assert!(page.contains("kafka_backup_ready{pipeline=\"left\"}"), "a process that lives shows it:\n{page}");
        assert!(text.contains("kafka_backup_pipeline_restarts_total{pipeline=\"left\"}"), "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_is_refused_before_anything_is_done() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [folder.path().join("nowhere/x.prom"), folder.path().to_owned()] {
            let error = Textfile::new(&path, "refused").expect_err("it cannot be");
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }

    #[test]
    fn a_success_whose_metrics_are_lost_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = Textfile::new(&folder.path().join("x.prom"), "lost").expect("writable");
        drop(folder);
        assert_eq!(file.finish(Ok(())).expect_err("nobody hears of it").exit_code(), 1);
        assert_eq!(file.finish(Err(Error::usage("first"))).expect_err("that of the command").exit_code(), 2);
    }
}
