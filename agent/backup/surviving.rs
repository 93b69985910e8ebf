//! The task of one pipeline, which a defect in it does not end for good, nor any other: it starts again with back-off and jitter, as
//! one that fails.
//!
//! What it held when the defect was met is read again. Retry: for ever. Cancellation: dropping it drops the task.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Stop;
use super::keeping::RESTART_BACKOFF;
use crate::backoff::Backoff;
use crate::connect::{Connector, Phase};
use crate::error::{Error, Result};
use crate::telemetry::{Health, PipelineMetrics};

/// Runs what `run` makes, once and after each defect again, until it ends.
///
/// # Errors
/// What it ends with; [`Kind::Failed`](crate::error::Kind::Failed) for a defect while it was to close.
pub(super) async fn run<F>(
    connector: &Connector,
    health: Health,
    restart_backoff_max: Duration,
    mut stopped: Stop,
    run: impl Fn(Stop) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let metrics = PipelineMetrics::new(connector.name());
    let mut backoff = Backoff::new(RESTART_BACKOFF.min(restart_backoff_max), restart_backoff_max);
    loop {
        let (mut task, began) = (JoinSet::new(), Instant::now());
        let _ = task.spawn(run(stopped.clone()));
        let error = match task.join_next().await {
            Some(Ok(outcome)) => return outcome,
            Some(Err(defect)) => Error::failed("a pipeline ended by a defect").source(defect),
            None => return Ok(()),
        };
        if *stopped.borrow() {
            return Err(error);
        }
        if began.elapsed() > restart_backoff_max {
            backoff.reset();
        }
        let pause = backoff.wait();
        let seconds = pause.as_secs_f64();
        tracing::error!(pipeline = connector.name(), "{error}; starting again in {seconds:.1} s");
        health.replace([(String::new(), error.to_string())]);
        metrics.failures.set(f64::from(backoff.attempts()));
        metrics.restarts.increment(1);
        connector.is(Phase::Failed(error.to_string()));
        if tokio::time::timeout(pause, stopped.wait_for(|stop| *stop)).await.is_ok() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::watch as channel;

    use super::*;
    use crate::config::Config;
    use crate::connect::Target;

    #[tokio::test]
    async fn a_pipeline_with_a_defect_is_failed_and_starts_again() {
        let text = "[[pipeline]]\nname = \"defect\"\n[pipeline.source]\ntype = \"kafka\"\ntopics = [\"t\"]\n\
                    kafka = { \"bootstrap.servers\" = \"127.0.0.1:1\" }\n\
                    [pipeline.sink]\ntype = \"archive\"\nbackup_id = \"b\"\npath = \"/archive\"\n";
        let pipeline = Config::parse("a.toml", text, &|_| None).expect("valid").pipelines.remove(0);
        let connector = Connector::of_file(pipeline, serde_json::Map::new(), Target::Started);
        let (health, (_stop, stopped), runs) = (Health::new(), channel::channel(false), AtomicUsize::new(0));
        let part = health.of("pipeline defect");
        let outcome = run(&connector, part, Duration::from_millis(20), stopped, |_| {
            let first = runs.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                assert!(!first, "a defect, for the test");
                Ok(())
            }
        });
        outcome.await.expect("the second one ends well");
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        let failed = matches!(connector.phase(), Phase::Failed(why) if why.starts_with("a pipeline ended by a defect"));
        assert!(failed && health.reasons().len() == 1, "until the next one says otherwise");
    }
}
