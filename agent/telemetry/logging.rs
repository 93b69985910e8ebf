//! The log: lines on stderr, for people or as JSON, and the progress bars among them.
//!
//! Which lines: `--log-level`, else `RUST_LOG`, else what the verb takes (`info` where the log is the output, `warn`
//! where it would only disturb). Both take tracing's filters, as `info,kafka_backup::kafka=debug`; [`levels`](super::levels)
//! changes them while the process runs. Colour only on a terminal and without `NO_COLOR`.

use std::io::{self, IsTerminal as _, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::levels::Levels;
use crate::error::{Error, Result};
use crate::record::Timestamp;

/// The progress bars of this process; the log goes above them.
pub static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Whether the log is written as JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// How the log is written.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to log: error, warn, info, debug, trace, or a filter as for RUST_LOG, which it overrides
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How to write the log
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: Format,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Human,
    /// One JSON object a line
    Json,
}

/// Starts the log of this process; `talkative` where the log is what a person watches. A second start changes nothing.
pub fn start(args: &Args, talkative: bool) -> Result<()> {
    let given = args.log_level.clone().or_else(|| std::env::var("RUST_LOG").ok().filter(|level| !level.is_empty()));
    let level = given.unwrap_or_else(|| if talkative { "info" } else { "warn" }.to_owned());
    let filter = EnvFilter::try_new(&level).map_err(|error| {
        Error::usage(format!("`{level}` is no log level")).source(error).hint("write error, warn, info, debug or trace")
    })?;
    IS_JSON.store(args.log_format == Format::Json, Ordering::Relaxed);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines);
    let (levels, started) = match args.log_format {
        Format::Human => {
            let lines = lines.with_target(false).with_ansi(colour()).with_filter_reloading();
            let handle = lines.reload_handle();
            (Levels::new(&level, Box::new(move |filter| handle.reload(filter).is_ok())), lines.try_init())
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_ansi(false).with_filter_reloading();
            let handle = lines.reload_handle();
            (Levels::new(&level, Box::new(move |filter| handle.reload(filter).is_ok())), lines.try_init())
        }
    };
    // Only tests start it twice in one process, and the first log is as good.
    if started.is_ok() {
        levels.install();
    }
    Ok(())
}

/// Returns whether stderr may have colours: a terminal, and nobody asked for none (<https://no-color.org>).
pub fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes to stderr why the process ends, as lines of its log are written, whatever is logged.
pub fn fail(reason: &str) {
    match IS_JSON.load(Ordering::Relaxed) {
        true => say(&failure(reason)),
        false => say(&format!("error: {reason}")),
    }
}

/// Returns a line of the log, in JSON, that says why the process ends.
fn failure(reason: &str) -> String {
    let timestamp = Timestamp::now().to_string();
    let target = "kafka_backup";
    serde_json::json!({ "timestamp": timestamp, "level": "ERROR", "message": reason, "target": target }).to_string()
}

/// Writes a line for people to stderr, above the progress bars. An unwritable stderr is nobody's loss.
pub fn say(line: &str) {
    let _ = writeln!(Lines, "{line}");
}

/// Returns a count with its noun: `1 segment`, `2 segments`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Stderr, with the progress bars out of the way while a line is written.
#[derive(Debug, Clone, Copy)]
struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        BARS.suspend(|| io::stderr().lock().write_all(bytes))
    }

    fn write_fmt(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        self.write_all(text.to_string().as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}
