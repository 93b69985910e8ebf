//! The check of a backup beside the pipeline that writes it.
//!
//! One check at a time, one partition at a time, so that capture is not in want of memory, disk or network. The first
//! begins after a random part of the interval: when the last one was is kept nowhere, and agents that are started
//! together, or again and again, must not all read at once. A check that could not look at everything is made again
//! sooner. What is wrong stands in `/readyz`, under a part of its own, until a later check finds the backup right.
//! Cancel: dropped at any point; nothing is written.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{Mode, Report};
use crate::archive::Archive;
use crate::archive::source::chain::What;
use crate::config;
use crate::error::{Error, Kind, Result};
use crate::store::Store;
use crate::telemetry::{Health, VerifyMetrics};

/// A check that could not look at everything is made again after this, if the interval is longer: a store that was down
/// is back then, and half would ask a large store for everything twice as often while it is sick.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// Findings of one check that are logged one by one; thousands of them say no more.
const MOST_LOGGED: usize = 20;

/// Checks the backup of `pipeline` as often as its configuration says, for ever.
pub async fn run(pipeline: config::Pipeline, health: Health) {
    let Some(every) = pipeline.verify.every else { return };
    let metrics = VerifyMetrics::new(&pipeline.name);
    sleep(every.mul_f64(fastrand::f64())).await;
    loop {
        let began = Instant::now();
        let checked = check(&pipeline).await;
        let wait = match checked {
            Ok(Some(report)) => {
                show(&pipeline, &report, began.elapsed(), &metrics, &health);
                let is_unknown = report.verdict().is_err_and(|error| error.kind() == Kind::Failed);
                if is_unknown { every.min(AGAIN) } else { every }
            }
            // Nothing was archived yet.
            Ok(None) => every,
            Err(error) => {
                failed(&pipeline, &error, began.elapsed(), &metrics, &health);
                every.min(AGAIN)
            }
        };
        sleep_until(began + wait).await;
    }
}

/// Checks once; `None` where there is no backup yet.
async fn check(pipeline: &config::Pipeline) -> Result<Option<Report>> {
    let store = Store::open(&pipeline.sink.path)?;
    let archive = match Archive::open(&store, &pipeline.sink.backup_id).await {
        Ok(archive) => archive,
        Err(error) if error.kind() == Kind::NoBackup => return Ok(None),
        Err(error) => return Err(error),
    };
    let mode = if pipeline.verify.deep { Mode::Deep } else { Mode::Plain };
    tracing::debug!(pipeline = pipeline.name, ?mode, "checking the backup");
    super::check_some(&archive, mode, 1).await.map(Some)
}

/// Logs and shows what a check has found.
fn show(pipeline: &config::Pipeline, report: &Report, took: Duration, metrics: &VerifyMetrics, health: &Health) {
    // What a repair had to leave undecided stays so, and is no alarm.
    let alarms = |what: What| what.exit_kind().is_some_and(|kind| kind != Kind::Partial);
    let harms: Vec<_> = report.findings().filter(|found| alarms(found.finding.what)).collect();
    let count = |what: What| report.findings().filter(|found| found.finding.what == what).count() as u64;
    let counted =
        What::ALL.into_iter().filter(|what| what.exit_kind().is_some()).map(|what| (what.name(), count(what)));
    metrics.ended(took, harms.is_empty(), counted);
    for found in harms.iter().take(MOST_LOGGED) {
        tracing::error!(pipeline = pipeline.name, backup = report.backup_id, "{found}");
    }
    if let Some(more) = harms.len().checked_sub(MOST_LOGGED).filter(|more| *more > 0) {
        tracing::error!(pipeline = pipeline.name, backup = report.backup_id, "{more} more findings; run `verify`");
    }
    let reason = report.verdict().err().zip(harms.first()).map(|(error, worst)| format!("{error}: {worst}"));
    if health.set("", reason) && harms.is_empty() {
        tracing::info!(pipeline = pipeline.name, backup = report.backup_id, "the backup is sound again");
    }
}

/// Logs and shows that a check could not be made.
fn failed(pipeline: &config::Pipeline, error: &Error, took: Duration, metrics: &VerifyMetrics, health: &Health) {
    let what = if error.kind() == Kind::Damaged { What::DamagedObject } else { What::Unchecked };
    metrics.ended(took, false, [(what.name(), 1)]);
    tracing::error!(pipeline = pipeline.name, "the backup could not be checked: {error}");
    health.set("", Some(format!("the backup could not be checked: {error}")));
}
