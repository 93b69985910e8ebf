//! The metrics of a pipeline's savepoints.

use metrics::{Counter, Gauge};

use crate::record::Timestamp;

/// When the newest savepoint was last seen to hold.
const AT: &str = "kafka_backup_savepoint_timestamp_seconds";
/// How long the last look at the cluster took.
const SECONDS: &str = "kafka_backup_savepoint_duration_seconds";
/// The groups in the newest savepoint.
const GROUPS: &str = "kafka_backup_savepoint_groups";
/// Those of them whose offsets could not be read.
const UNREADABLE: &str = "kafka_backup_savepoint_groups_unreadable";
/// Savepoints that this agent has written.
const WRITTEN: &str = "kafka_backup_savepoints_written_total";
/// Tries that came to nothing.
const FAILURES: &str = "kafka_backup_savepoint_failures_total";

/// The metrics of one pipeline's savepoints.
pub struct SavepointMetrics {
    at: Gauge,
    seconds: Gauge,
    groups: Gauge,
    unreadable: Gauge,
    written: Counter,
    failures: Counter,
}

impl SavepointMetrics {
    /// Makes the handles; done once for each pipeline.
    pub fn new(pipeline: &str) -> Self {
        let gauge = |name| metrics::gauge!(name, "pipeline" => pipeline.to_owned());
        let counter = |name| metrics::counter!(name, "pipeline" => pipeline.to_owned());
        let (at, seconds) = (gauge(AT), gauge(SECONDS));
        // A new gauge is 0: a savepoint of 1970, and an alarm before the first try.
        at.set(f64::NAN);
        seconds.set(f64::NAN);
        let (groups, unreadable) = (gauge(GROUPS), gauge(UNREADABLE));
        Self { at, seconds, groups, unreadable, written: counter(WRITTEN), failures: counter(FAILURES) }
    }

    /// Shows that the newest savepoint held at `at`.
    pub fn held(&self, at: Timestamp) {
        self.at.set(at.0 as f64 / 1000.0);
    }

    /// Shows what a look at the cluster took and found, and counts the savepoint where one was `written`.
    pub fn looked(&self, seconds: f64, groups: usize, unreadable: usize, written: bool) {
        self.seconds.set(seconds);
        self.groups.set(groups as f64);
        self.unreadable.set(unreadable as f64);
        self.written.increment(u64::from(written));
    }

    /// Counts a try that came to nothing.
    pub fn failed(&self) {
        self.failures.increment(1);
    }
}

impl std::fmt::Debug for SavepointMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavepointMetrics").finish_non_exhaustive()
    }
}
