//! The check of a backup beside the pipeline that writes it.
//!
//! One check at a time, one partition at a time, so that capture is not in want of memory, disk or network. The first
//! begins after a random part of the interval: when the last one was is kept nowhere, and agents that are started
//! together, or again and again, must not all read at once. A check that could not look at everything is made again
//! sooner. What is wrong stands in `/readyz`, under a part of its own, until a later check finds the backup right. That
//! there is no backup is wrong as soon as there was one: a check has seen it, or the pipeline has written to it.
//! Cancel: dropped at any point; nothing is written.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{Mode, Report};
use crate::archive::Archive;
use crate::archive::sink::Reached;
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

/// Checks the backup of `pipeline` as often as its configuration says, for ever; `reached` is told by its sink.
pub async fn run(pipeline: config::Pipeline, reached: Reached, health: Health) {
    let Some(every) = pipeline.verify.every else { return };
    let mut checks =
        Checks { metrics: VerifyMetrics::new(&pipeline.name), pipeline, reached, health, was_there: false };
    sleep(every.mul_f64(fastrand::f64())).await;
    loop {
        let began = Instant::now();
        let wait = match checks.once().await {
            Looked::AtAll => every,
            Looked::AtSome => every.min(AGAIN),
        };
        sleep_until(began + wait).await;
    }
}

/// How much a check could look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// At everything that there is.
    AtAll,
    /// Not at everything that should be there.
    AtSome,
}

/// The checks of the backup of one pipeline.
struct Checks {
    pipeline: config::Pipeline,
    reached: Reached,
    metrics: VerifyMetrics,
    health: Health,
    /// Whether there was a backup when one looked.
    was_there: bool,
}

impl Checks {
    /// Checks once, and tells.
    async fn once(&mut self) -> Looked {
        let began = Instant::now();
        // Before the check: what is written meanwhile is no reproach.
        let is_written = self.was_there || self.reached.is_any();
        match check(&self.pipeline).await {
            Ok(report) => {
                self.was_there = true;
                show(&self.pipeline, &report, began.elapsed(), &self.metrics, &self.health);
                let is_unknown = report.verdict().is_err_and(|error| error.kind() == Kind::Failed);
                if is_unknown { Looked::AtSome } else { Looked::AtAll }
            }
            // Nothing was archived yet.
            Err(error) if error.kind() == Kind::NoBackup && !is_written => Looked::AtAll,
            Err(error) => {
                failed(&self.pipeline, &error, began.elapsed(), &self.metrics, &self.health);
                Looked::AtSome
            }
        }
    }
}

/// Checks once.
async fn check(pipeline: &config::Pipeline) -> Result<Report> {
    let store = Store::open(&pipeline.sink.path)?;
    let archive = Archive::open(&store, &pipeline.sink.backup_id).await?;
    let mode = if pipeline.verify.deep { Mode::Deep } else { Mode::Plain };
    tracing::debug!(pipeline = pipeline.name, ?mode, "checking the backup");
    super::check_some(&archive, mode, 1).await
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::sink::reached_for_tests;
    use crate::config::Config;
    use crate::record::{Partition, TopicId};

    /// The checks of a backup that is not there.
    fn checks(reached: Reached) -> Checks {
        let path = format!("memory://{}", uuid::Uuid::new_v4());
        let text = format!(
            "[[pipeline]]\nname = \"p\"\n[pipeline.source]\ntype = \"kafka\"\ntopics = [\"t\"]\n\
             kafka = {{ \"bootstrap.servers\" = \"localhost:1\" }}\n\
             [pipeline.sink]\ntype = \"archive\"\nbackup_id = \"b\"\npath = \"{path}\"\n"
        );
        let pipeline = Config::parse("a.toml", &text, &|_| None).expect("valid").pipelines.remove(0);
        let metrics = VerifyMetrics::new(&pipeline.name);
        Checks { pipeline, reached, metrics, health: Health::new(), was_there: false }
    }

    async fn make_backup(checks: &Checks) -> Store {
        let root = Store::open(&checks.pipeline.sink.path).expect("memory");
        let _ = Archive::create(&root, "b", None).await.expect("created");
        root
    }

    #[tokio::test]
    async fn a_backup_that_was_there_is_missed() {
        let mut checks = checks(Reached::default());
        assert_eq!(checks.once().await, Looked::AtAll, "nothing was archived yet");
        assert_eq!(checks.health.count(), 0);
        let root = make_backup(&checks).await;
        assert_eq!((checks.once().await, checks.health.count()), (Looked::AtAll, 0));
        root.within("b").delete(crate::archive::layout::BACKUP).await.expect("deleted");
        assert_eq!((checks.once().await, checks.health.count()), (Looked::AtSome, 1));
        assert!(checks.health.reasons()[0].contains("could not be checked"), "{:?}", checks.health.reasons());
        let _ = make_backup(&checks).await;
        assert_eq!((checks.once().await, checks.health.count()), (Looked::AtAll, 0), "it is back");
    }

    #[tokio::test]
    async fn a_backup_that_the_pipeline_has_written_to_is_missed_at_the_first_check() {
        let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 };
        let mut checks = checks(reached_for_tests(&partition, 5));
        assert_eq!((checks.once().await, checks.health.count()), (Looked::AtSome, 1));
    }
}
