//! One pipeline of an agent, for as long as the agent lives: it runs, starts again where it fails, and rests while it is told
//! to.
//!
//! What it is told ([`Orders`]) is looked at whenever that changes: what is open is closed as at the end of the process, within
//! `shutdown_timeout`, and then it rests, or begins anew. What was not durable by then is read again. Retry, cancellation
//! and crash: see `backup`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch as channel;
use tokio::task::JoinSet;

use super::watch::Watch;
use super::{Mode, Stop, attempt, of_pipeline};
use crate::api::Registry;
use crate::archive::sink::Reached;
use crate::backoff::Backoff;
use crate::budget::Budget;
use crate::config;
use crate::connect::{Connector, Orders, Phase, Target};
use crate::error::{Error, Kind, Result};
use crate::telemetry::Health;
use crate::verify;

/// The first pause before a failed pipeline starts again; they double up to `restart_backoff_max`.
pub(super) const RESTART_BACKOFF: Duration = Duration::from_secs(1);

/// One pipeline that is kept running.
#[derive(Clone)]
pub(super) struct Keeping {
    /// What it captures into where.
    pub(super) pipeline: config::Pipeline,
    /// What tells it what to do, and hears what it does.
    pub(super) connector: Arc<Connector>,
    /// The longest pause before it starts again.
    pub(super) restart_backoff_max: Duration,
    /// The health of this pipeline alone.
    pub(super) health: Health,
    /// Where the API finds it while it runs.
    pub(super) registry: Registry,
    /// How far each partition is durable: for savepoints.
    pub(super) reached: Reached,
    /// Of a pipeline that was there at the start of the process: what its first attempt finds may end that. Once others have
    /// data that must not wait for it, it does not.
    pub(super) hopes: Option<Hopes>,
}

/// How many connectors of an agent's start have not yet found that the user must change something. Where none is left, nothing
/// is captured by waiting; before, whoever else captures goes on. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Hopes(Arc<AtomicUsize>);

impl Hopes {
    /// Makes those of an agent that starts with so many connectors.
    pub(super) fn new(connectors: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(connectors)))
    }

    /// Takes note that one is gone, and returns whether it was the last one.
    fn lose(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

impl Keeping {
    /// Runs it again and again until it is told to stop, but while it is told to rest.
    ///
    /// # Errors
    /// [`Kind::Usage`] where its first attempt to start finds what the user must change, nobody told it anything before, and
    /// all others have found the same; [`Kind::Failed`] when what was held at the end could not be made durable.
    pub(super) async fn run(self, stopped: Stop) -> Result<()> {
        let health = self.health.clone();
        let of_checks = health.of(format!("backup of pipeline {}", self.pipeline.name));
        let budget = Budget::new(self.pipeline.sink.memory_bytes);
        let mut watch = Watch::new(&self.pipeline, budget.clone(), health, None);
        watch.reached = self.reached.clone();
        watch.connector = Some(self.connector.clone());
        // It holds nothing that must be closed: it ends with us.
        let mut beside = JoinSet::new();
        beside.spawn(verify::periodic::run(self.pipeline.clone(), self.reached.clone(), of_checks.clone()));
        let outcome = self.keep(&mut watch, &budget, stopped).await;
        beside.shutdown().await;
        of_checks.clear();
        watch.ends();
        outcome
    }

    async fn keep(&self, watch: &mut Watch, budget: &Budget, mut stopped: Stop) -> Result<()> {
        let (pipeline, restart_backoff_max) = (&self.pipeline, self.restart_backoff_max);
        let mut backoff = Backoff::new(RESTART_BACKOFF.min(restart_backoff_max), restart_backoff_max);
        let has_rested = matches!(self.connector.phase(), Phase::Paused | Phase::Stopped);
        let (mut orders, mut first) = (self.connector.orders(), !has_rested);
        if has_rested {
            watch.starts(Phase::Unassigned);
        }
        loop {
            if orders.target() != Target::Started {
                first = false;
                if rest(&pipeline.name, watch, &mut orders, &mut stopped).await == Told::Stop {
                    return Ok(());
                }
                watch.starts(Phase::Unassigned);
            }
            let began = Instant::now();
            let (halt, halted) = channel::channel(false);
            let running = attempt(pipeline, Mode::Agent, budget, watch, &self.registry, halted);
            let (outcome, was_told) = until_told(running, &halt, &mut orders, &mut stopped).await;
            let error = match outcome {
                // Told to stop: what it says now is the last word.
                outcome if *stopped.borrow() => return outcome,
                outcome if was_told => {
                    if let Err(error) = outcome {
                        tracing::error!(pipeline = pipeline.name, "{error}; it closed because it was told to");
                    }
                    first = false;
                    backoff.reset();
                    if orders.target() == Target::Started {
                        watch.starts(Phase::Restarting);
                    }
                    continue;
                }
                Ok(()) => Error::failed("the source ended by itself"),
                Err(error) if error.kind() == Kind::Usage && first && !watch.has_run() => {
                    if self.hopes.as_ref().is_some_and(Hopes::lose) {
                        return Err(of_pipeline(error, pipeline));
                    }
                    error
                }
                Err(error) => error,
            };
            first = false;
            // Having run for long, it failed for a new reason.
            if began.elapsed() > restart_backoff_max {
                backoff.reset();
            }
            let pause = backoff.wait();
            let seconds = pause.as_secs_f64();
            tracing::error!(pipeline = pipeline.name, "{error}; starting again in {seconds:.1} s");
            watch.failed(&error, pause);
            let waited = tokio::time::timeout(pause, told(&mut orders, &mut stopped));
            match watch.meanwhile(waited).await {
                Ok(Told::Stop) => return Ok(()),
                Ok(Told::Order) => {
                    backoff.reset();
                    watch.starts(Phase::Restarting);
                }
                Err(_) => {}
            }
        }
    }
}

/// What a pipeline is told while it runs or waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// To close what it holds, since the process ends.
    Stop,
    /// To look at its orders.
    Order,
}

/// Waits until a pipeline is told something. Cancel safe.
pub(super) async fn told(orders: &mut Orders, stopped: &mut Stop) -> Told {
    tokio::select! {
        biased;
        // Whoever could say so is gone only when the process ends.
        _ = stopped.wait_for(|stop| *stop) => Told::Stop,
        () = orders.changed() => Told::Order,
    }
}

/// Waits for as long as the pipeline is told to rest.
async fn rest(name: &str, watch: &mut Watch, orders: &mut Orders, stopped: &mut Stop) -> Told {
    loop {
        let phase = match orders.target() {
            Target::Started => return Told::Order,
            Target::Paused => Phase::Paused,
            Target::Stopped => Phase::Stopped,
        };
        tracing::warn!(pipeline = name, "it rests, as it was told over HTTP: PUT /connectors/{name}/resume ends that");
        watch.rests(phase);
        if watch.meanwhile(told(orders, stopped)).await == Told::Stop {
            return Told::Stop;
        }
    }
}

/// Waits until an attempt has ended, which is asked to close when the pipeline is told anything; returns what came of it,
/// and whether it closed to look at its orders.
pub(super) async fn until_told<T>(
    attempt: impl Future<Output = Result<T>>,
    halt: &channel::Sender<bool>,
    orders: &mut Orders,
    stopped: &mut Stop,
) -> (Result<T>, bool) {
    tokio::pin!(attempt);
    let told = tokio::select! {
        outcome = &mut attempt => return (outcome, false),
        told = told(orders, stopped) => told,
    };
    halt.send_replace(true);
    (attempt.await, told == Told::Order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_all_have_found_that_the_user_must_change_something_is_there_no_hope() {
        let hopes = Hopes::new(3);
        let lost: Vec<_> = (0..3).map(|_| hopes.clone().lose()).collect();
        assert_eq!(lost, [false, false, true]);
    }
}
