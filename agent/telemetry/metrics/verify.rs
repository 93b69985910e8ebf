//! The metrics of the check of a backup beside its pipeline.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
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

/// The metrics of the checks of one pipeline's backup. Dropped, they say that nothing is known: what nobody checks any more is
/// no alarm.
#[derive(Debug)]
pub struct VerifyMetrics {
    pipeline: String,
    /// The kinds that were shown.
    shown: Mutex<BTreeSet<&'static str>>,
}

impl VerifyMetrics {
    /// Makes them; the times are `NaN` until there is one.
    pub fn new(pipeline: &str) -> Self {
        let metrics = Self { pipeline: pipeline.to_owned(), shown: Mutex::default() };
        metrics.know_nothing();
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
            self.find(what, count);
            let _ = self.shown.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
        }
    }

    fn know_nothing(&self) {
        // A new gauge is 0: a check of 1970, and an alarm before the first.
        for name in [SUCCESS, RUN, SECONDS] {
            self.set(name, f64::NAN);
        }
        for what in self.shown.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.find(what, 0);
        }
    }

    fn find(&self, what: &'static str, count: u64) {
        metrics::gauge!(FINDINGS, "pipeline" => self.pipeline.clone(), "what" => what).set(count as f64);
    }

    fn set(&self, name: &'static str, value: f64) {
        metrics::gauge!(name, "pipeline" => self.pipeline.clone()).set(value);
    }
}

impl Drop for VerifyMetrics {
    fn drop(&mut self) {
        self.know_nothing();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Series;
    use super::*;

    #[test]
    fn what_nobody_checks_any_more_is_no_alarm() {
        let series = Series::default();
        metrics::with_local_recorder(&series, || {
            let checks = VerifyMetrics::new("p");
            checks.ended(Duration::from_secs(1), false, [("damaged log", 1)]);
            let line = "kafka_backup_verify_findings{pipeline=\"p\",what=\"damaged log\"} ";
            assert!(series.render().contains(&format!("{line}1\n")));
            drop(checks);
            let page = series.render();
            assert!(page.contains(&format!("{line}0\n")), "{page}");
            assert!(page.contains("kafka_backup_verify_last_run_timestamp_seconds{pipeline=\"p\"} NaN\n"), "{page}");
        });
    }
}
