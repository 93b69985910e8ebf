//! The binary: parses the command line, builds the runtime, and turns the outcome into an exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; for `run`: stopped as asked |
//! | 1 | failed, nothing half-done that is not said |
//! | 2 | what the user typed or configured is wrong; nothing was changed |
//! | 3 | partly done, or read back otherwise than set |
//! | 4 | damage or a difference was found |
//! | 5 | the archive has a hole that it does not declare |
//! | 10 | there is no backup, or no restore, of that name |
//! | 11 | somebody else holds what was to be written |
//! | 130 | interrupted |
//!
//! An error is one line on stderr, `error: what (on which thing): why; what to do`.

use std::process::ExitCode;

use kafka_backup::cli::Cli;
use kafka_backup::error::{Error, Result};

/// The most threads that wait for sockets and disks. The work is bytes passing by: one core carries a gigabit, and
/// further threads only take turns.
const MOST_THREADS: usize = 4;

fn main() -> ExitCode {
    match Cli::read().and_then(start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let reason = error.to_string();
            kafka_backup::telemetry::logging::fail(&kafka_backup::cli::table::shown(&reason));
            ExitCode::from(error.exit_code())
        }
    }
}

fn start(cli: Cli) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MOST_THREADS))
        .thread_name("kafka-backup")
        .enable_all()
        .build()
        .map_err(|error| Error::failed("cannot start the runtime").source(error))?;
    let outcome = runtime.block_on(cli.run());
    // A blocked thread (a hanging disk) must not keep a process that has said its last word.
    runtime.shutdown_background();
    outcome
}
