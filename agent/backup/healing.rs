//! Connectors that cannot run as they are configured: what their configurations refer to may be back, and whoever has their
//! topics may be gone.
//!
//! Each is read again with back-off and jitter ([`Worker::read_again`]) for as long as it is broken and not told to rest; one that
//! can run then is another connector, which starts. Every try counts as a start after a failure. Retry: for ever. Nothing here
//! is durable; dropping it ends all tries.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

use super::keeping::RESTART_BACKOFF;
use crate::backoff::Backoff;
use crate::connect::{Connector, Worker};
use crate::telemetry::PipelineMetrics;

/// What reads broken connectors again.
pub(super) struct Healing {
    worker: Worker,
    /// The longest pause between two tries.
    restart_backoff_max: Duration,
    broken: Vec<(Arc<Connector>, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Healing {
    /// Makes what reads none yet.
    pub(super) fn new(worker: Worker, restart_backoff_max: Duration) -> Self {
        Self { worker, restart_backoff_max, broken: Vec::new(), tasks: JoinSet::new() }
    }

    /// Has those read again that are `broken` now, and no others.
    pub(super) fn heal(&mut self, broken: &[Arc<Connector>]) {
        let is_among =
            |connector: &Arc<Connector>, all: &[Arc<Connector>]| all.iter().any(|it| Arc::ptr_eq(it, connector));
        self.broken.retain(|(connector, task)| {
            let stays = is_among(connector, broken);
            if !stays {
                task.abort();
                // What runs now has not failed yet.
                PipelineMetrics::new(connector.name()).failures.set(0.0);
            }
            stays
        });
        while self.tasks.try_join_next().is_some() {}
        let known: Vec<_> = self.broken.iter().map(|(connector, _)| connector.clone()).collect();
        for connector in broken.iter().filter(|connector| !is_among(connector, &known)) {
            let name = connector.name().to_owned();
            let task = self.tasks.spawn(try_again(self.worker.clone(), name, self.restart_backoff_max));
            self.broken.push((connector.clone(), task));
        }
    }
}

/// Reads one again until it is another.
async fn try_again(worker: Worker, name: String, restart_backoff_max: Duration) {
    let metrics = PipelineMetrics::new(&name);
    let mut backoff = Backoff::new(RESTART_BACKOFF.min(restart_backoff_max), restart_backoff_max);
    for failures in 1_u32.. {
        metrics.failures.set(f64::from(failures));
        tokio::time::sleep(backoff.wait()).await;
        metrics.restarts.increment(1);
        if worker.read_again(name.clone()).await {
            return;
        }
    }
}
