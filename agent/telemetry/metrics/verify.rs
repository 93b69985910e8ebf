//! The metrics of the check of a backup beside its pipeline.

use std::time::Duration;

use crate::record::Timestamp;

/// When the last check that found the backup sound ended.
const SUCCESS: &str = "kafka_backup_verify_last_success_timestamp_seconds";
/// When the last check ended.
const RUN: &str = "kafka_backup_verify_last_run_timestamp_seconds";
/// How long it took.
const SECONDS: &str = "kafka_backup_verify_duration_seconds";
/// What it found, by kind.
const FINDINGS: &str = "kafka_backup_verify_findings";

/// The metrics of the checks of one pipeline's backup.
#[derive(Debug)]
pub struct VerifyMetrics {
    pipeline: String,
}

impl VerifyMetrics {
    /// Makes them; the times are `NaN` until there is one.
    pub fn new(pipeline: &str) -> Self {
        let metrics = Self { pipeline: pipeline.to_owned() };
        // A new gauge is 0: a check of 1970, and an alarm before the first.
        for name in [SUCCESS, RUN, SECONDS] {
            metrics.set(name, f64::NAN);
        }
        metrics
    }

    /// Shows a check that ended now: what it found of each kind.
    pub fn ended(&self, took: Duration, sound: bool, findings: impl IntoIterator<Item = (&'static str, u64)>) {
        let now = Timestamp::now().0 as f64 / 1000.0;
        self.set(RUN, now);
        self.set(SECONDS, took.as_secs_f64());
        if sound {
            self.set(SUCCESS, now);
        }
        for (what, count) in findings {
            metrics::gauge!(FINDINGS, "pipeline" => self.pipeline.clone(), "what" => what).set(count as f64);
        }
    }

    fn set(&self, name: &'static str, value: f64) {
        metrics::gauge!(name, "pipeline" => self.pipeline.clone()).set(value);
    }
}
