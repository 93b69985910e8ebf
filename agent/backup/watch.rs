//! What a pipeline shows of itself while it runs: metrics and health, per partition the progress behind them, and for
//! one pass how far it is.
//!
//! It outlives the attempts of its pipeline, so that a lag that began before a failure still counts after it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::pass::Pass;
use crate::budget::Budget;
use crate::error::Error;
use crate::pipeline::{Batch, Observer};
use crate::progress::Progress;
use crate::record::{Offset, Partition};
use crate::telemetry::{Health, PartitionMetrics, PipelineMetrics};

/// The observer of one pipeline.
pub(super) struct Watch {
    /// The health of this pipeline alone.
    pub(super) health: Health,
    /// The metrics of the pipeline as a whole.
    pub(super) metrics: PipelineMetrics,
    /// How far one pass is; `None` for an agent, which has no end.
    pub(super) pass: Option<Pass>,
    pipeline: String,
    budget: Budget,
    has_run: bool,
    partitions: HashMap<Partition, Watched>,
}

struct Watched {
    progress: Progress,
    metrics: PartitionMetrics,
}

impl Watch {
    /// Watches the pipeline of that name, which is starting.
    pub(super) fn new(pipeline: &str, budget: Budget, health: Health, pass: Option<Pass>) -> Self {
        let metrics = PipelineMetrics::new(pipeline);
        metrics.memory_limit_bytes.set(budget.total_bytes() as f64);
        health.set("", Some("starting".to_owned()));
        metrics.show(health.count());
        Self {
            health,
            metrics,
            pass,
            pipeline: pipeline.to_owned(),
            budget,
            has_run: false,
            partitions: HashMap::new(),
        }
    }

    /// Takes note that both ends are open.
    pub(super) fn running(&mut self) {
        self.has_run = true;
        self.health.clear();
        self.metrics.show(self.health.count());
    }

    /// Returns whether both ends were ever open.
    pub(super) fn has_run(&self) -> bool {
        self.has_run
    }

    /// Takes note that the pipeline is down and will start again; what was wrong with its parts went with it.
    pub(super) fn failed(&mut self, error: &Error) {
        self.metrics.restarts.increment(1);
        self.health.clear();
        self.health.set("", Some(error.to_string()));
        self.metrics.show(self.health.count());
    }

    /// Waits for `future` while the clock goes on: lag grows although nothing runs.
    pub(super) async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        tokio::pin!(future);
        loop {
            tokio::select! {
                outcome = &mut future => return outcome,
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn of(&mut self, partition: &Partition) -> &mut Watched {
        let pipeline = &self.pipeline;
        self.partitions.entry(partition.clone()).or_insert_with(|| Watched {
            progress: Progress::new(),
            metrics: PartitionMetrics::new(pipeline, partition),
        })
    }
}

impl Observer for Watch {
    fn received(&mut self, batch: &Batch) {
        let watched = self.of(batch.partition());
        // The first batch of a partition that the archive holds nothing of says where the archive begins.
        if watched.progress.durable_next().is_none() {
            watched.progress.durable(batch.range.first, Instant::now());
        }
        if let Some(pass) = &mut self.pass {
            pass.received(batch.partition(), batch.range);
        }
    }

    fn observed(&mut self, partition: &Partition, high_watermark: Offset, last_stable: Offset) {
        self.of(partition).progress.observe(high_watermark, last_stable, Instant::now());
        if let Some(pass) = &mut self.pass {
            pass.observed(partition, last_stable);
        }
    }

    fn opened(&mut self, partition: &Partition, next: Option<Offset>) {
        let watched = self.of(partition);
        if let Some(next) = next {
            watched.progress.durable(next, Instant::now());
        }
        if let Some(pass) = &mut self.pass {
            pass.opened(partition, next);
        }
    }

    fn durable(&mut self, partition: &Partition, next: Offset, records: u64, bytes: u64, took: Duration) {
        let now = Instant::now();
        let watched = self.of(partition);
        watched.progress.durable(next, now);
        watched.metrics.captured(records, bytes);
        watched.metrics.show(&watched.progress, now);
        self.metrics.upload_seconds.record(took.as_secs_f64());
        if let Some(pass) = &mut self.pass {
            pass.durable(records, bytes);
        }
    }

    fn closed(&mut self, partition: &Partition) {
        if let Some(watched) = self.partitions.remove(partition) {
            watched.metrics.retire();
        }
    }

    fn trouble(&mut self, subject: &str, reason: Option<&str>) {
        if !self.health.set(subject, reason.map(str::to_owned)) {
            return;
        }
        self.metrics.show(self.health.count());
        match reason {
            Some(reason) => tracing::warn!(pipeline = self.pipeline, "{subject}: {reason}"),
            None => tracing::info!(pipeline = self.pipeline, "{subject}: well again"),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for watched in self.partitions.values() {
            watched.metrics.show(&watched.progress, now);
        }
        self.metrics.memory_used_bytes.set(self.budget.used_bytes() as f64);
        if let Some(pass) = &mut self.pass {
            pass.tick();
        }
    }
}
