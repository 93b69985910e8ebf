//! A restore as a connector of an agent: it is done once, rests while it is told to, and goes on where it came to.
//!
//! What a restore has done is kept beside its backup ([`restore`](crate::restore)), not here: another start, of this agent or
//! another, after a pause or `kill -9`, goes on from there, and one that is finished is not done again, however often it is
//! started. Retry: what may pass is tried again, with back-off; what the user must change, or has decided, stands until the
//! connector is told something. Cancellation: as `keeping`; what is on its way is acknowledged within `shutdown_timeout`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;

use super::Stop;
use super::keeping::{RESTART_BACKOFF, Told, told, until_told};
use crate::backoff::Backoff;
use crate::config;
use crate::connect::{Connector, Orders, Phase, Target};
use crate::error::{Error, Kind, Result};
use crate::recovery::{self, Ended};
use crate::restore::perform::Summary;
use crate::telemetry::{Health, PipelineMetrics};

/// One restore.
#[derive(Clone)]
pub(super) struct Restoring {
    /// What is restored to where.
    pub(super) restore: config::Restore,
    /// What tells it what to do, and hears what it does.
    pub(super) connector: Arc<Connector>,
    /// The longest pause before it is tried again.
    pub(super) restart_backoff_max: Duration,
    /// Its health alone.
    pub(super) health: Health,
    /// What shows the same as numbers.
    pub(super) metrics: PipelineMetrics,
}

impl Restoring {
    /// Restores, and then waits until it is told to stop.
    ///
    /// # Errors
    /// None: what was not done is done by the next start.
    pub(super) async fn run(self, stopped: Stop) -> Result<()> {
        self.keep(stopped).await;
        self.is_wrong(None);
        Ok(())
    }

    async fn keep(&self, mut stopped: Stop) {
        let mut backoff = Backoff::new(RESTART_BACKOFF.min(self.restart_backoff_max), self.restart_backoff_max);
        let mut orders = self.connector.orders();
        loop {
            let again = match orders.target() {
                Target::Paused => self.rests(Phase::Paused),
                Target::Stopped => self.rests(Phase::Stopped),
                Target::Started => match self.attempt(&mut orders, &mut stopped).await {
                    // It looks at its orders at once.
                    None => {
                        backoff.reset();
                        Some(Duration::ZERO)
                    }
                    Some(Ok(ended)) => self.finished(ended),
                    Some(Err(error)) => self.failed(&error, &mut backoff),
                },
            };
            if *stopped.borrow() {
                return;
            }
            let waiting = told(&mut orders, &mut stopped);
            let told = match again {
                Some(pause) => tokio::time::timeout(pause, waiting).await.ok(),
                None => Some(waiting.await),
            };
            match told {
                Some(Told::Stop) => return,
                Some(Told::Order) => {
                    backoff.reset();
                    self.connector.is(Phase::Restarting);
                }
                None => {}
            }
        }
    }

    /// Goes on with the restore to its end; `None` when it was told something before.
    async fn attempt(&self, orders: &mut Orders, stopped: &mut Stop) -> Option<Result<Ended>> {
        self.is_wrong(Some("starting".to_owned()));
        if self.connector.phase() != Phase::Restarting {
            self.connector.is(Phase::Unassigned);
        }
        let begins = |cluster_id: Option<&str>| {
            self.is_wrong(None);
            self.metrics.failures.set(0.0);
            self.connector.runs(cluster_id);
            tracing::info!(pipeline = self.restore.name, restore = self.restore.id(), "restoring");
        };
        let (halt, halted) = channel::channel(false);
        let say = |line: &str| tracing::info!(pipeline = self.restore.name, "{line}");
        let running = recovery::run(&self.restore, &self.health, halted, begins, &say);
        let (outcome, was_told) = until_told(running, &halt, orders, stopped).await;
        if !was_told && !*stopped.borrow() {
            return Some(outcome);
        }
        // That it was interrupted is what was asked for. What it had finished by then, the next look finds.
        if let Err(error) = outcome
            && error.kind() != Kind::Interrupted
        {
            tracing::error!(pipeline = self.restore.name, "{error}; it closed because it was told to");
        }
        self.connector.is(Phase::Restarting);
        None
    }

    fn rests(&self, phase: Phase) -> Option<Duration> {
        self.is_wrong(None);
        self.metrics.failures.set(0.0);
        self.connector.is(phase);
        None
    }

    /// Says what is wrong with it as a whole, instead of all that was said before.
    fn is_wrong(&self, reason: Option<String>) {
        self.health.replace(reason.map(|reason| (String::new(), reason)));
        self.metrics.show(self.health.count());
    }

    fn finished(&self, ended: Ended) -> Option<Duration> {
        let (pipeline, id) = (&self.restore.name, self.restore.id());
        match ended {
            Ended::Now(Some(Summary { records, partitions, left_out, .. })) => {
                tracing::info!(pipeline, records, partitions, left_out, "restore `{id}` is finished");
            }
            Ended::Now(None) => tracing::info!(pipeline, "restore `{id}` is finished, with its consumer groups now"),
            Ended::Before => tracing::info!(pipeline, "restore `{id}` is finished already"),
        }
        self.rests(Phase::Stopped)
    }

    /// Says why it failed; returns when it is tried again, if it is.
    fn failed(&self, error: &Error, backoff: &mut Backoff) -> Option<Duration> {
        self.is_wrong(Some(error.to_string()));
        self.connector.is(Phase::Failed(error.to_string()));
        // Whatever else it is does not pass by itself.
        let pause = matches!(error.kind(), Kind::Transient | Kind::Failed).then(|| backoff.wait());
        self.metrics.restarts.increment(u64::from(pause.is_some()));
        // What does not pass has failed as often as it was tried since it was told anything: once.
        self.metrics.failures.set(f64::from(backoff.attempts().max(1)));
        let then = match pause {
            Some(pause) => format!("trying again in {:.1} s", pause.as_secs_f64()),
            None => format!("POST /connectors/{}/restart?includeTasks=true tries again", self.restore.name),
        };
        tracing::error!(pipeline = self.restore.name, "{error}; {then}");
        pause
    }
}
