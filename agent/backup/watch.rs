//! What a pipeline shows of itself while it runs: metrics and health, per partition the progress behind them, and for
//! one pass how far it is.
//!
//! It outlives the attempts of its pipeline, so that a lag that began before a failure still counts after it, and a
//! pipeline that fails again and again is not well in between. `/readyz`, the metrics and the state that Kafka Connect's tools
//! see are told from here alone, so that they agree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failures::Failures;
use super::losses::Losses;
use super::objectives;
use super::pass::Pass;
use crate::archive::sink::Reached;
use crate::batch::Header;
use crate::budget::Budget;
use crate::config::{self, Objectives};
use crate::connect::{Connector, Phase};
use crate::error::Error;
use crate::pipeline::{Batch, Log, Observer, Payload, Topic};
use crate::progress::{Progress, Retention};
use crate::record::{Offset, OffsetRange, Partition, Timestamp};
use crate::telemetry::{Health, PartitionMetrics, PipelineMetrics, metrics};

/// How long after a start a topic that was not found again is taken for one that is gone. Half may be too short for a
/// cluster that starts with us, double keeps a lag that nobody can make good for longer.
const GONE_AFTER: Duration = Duration::from_secs(5 * 60);

/// The observer of one pipeline.
pub(super) struct Watch {
    /// The health of this pipeline alone.
    pub(super) health: Health,
    /// The metrics of the pipeline as a whole.
    pub(super) metrics: PipelineMetrics,
    /// How far one pass is; `None` for an agent, which has no end.
    pub(super) pass: Option<Pass>,
    /// How far each partition is durable, as the sink tells: for savepoints.
    pub(super) reached: Reached,
    /// What is told of the pipeline over HTTP; `None` for a pass.
    pub(super) connector: Option<Arc<Connector>>,
    pipeline: String,
    budget: Budget,
    has_run: bool,
    partitions: HashMap<Partition, Watched>,
    /// What the topics keep, by name.
    retention: HashMap<String, Option<Retention>>,
    losses: Losses,
    objectives: Objectives,
    /// The subjects of the objectives that are missed, as they were last said.
    missed: HashSet<String>,
    failures: Failures,
    /// What the connector was last told that the pipeline does; `None`: nothing by us.
    phase: Option<Phase>,
    /// Others may read its partitions when it does not.
    shares: bool,
    /// Topics of which it has no partition any more, and since when.
    gone: HashMap<Arc<str>, Instant>,
    /// The topics, with their ids, that were found since both ends were opened; `None` when they were looked through.
    found: Option<HashSet<(String, String)>>,
}

struct Watched {
    progress: Progress,
    metrics: PartitionMetrics,
    /// The end of the last gap that was counted: a gap that could not be written is received again.
    gaps_until: Offset,
    /// Where the source's log ended when a fork was last counted, until the archive goes on beside it.
    fork_at: Option<Offset>,
}

impl Watch {
    /// Watches a pipeline that is starting.
    pub(super) fn new(pipeline: &config::Pipeline, budget: Budget, health: Health, pass: Option<Pass>) -> Self {
        let metrics = PipelineMetrics::new(&pipeline.name);
        metrics.memory_limit_bytes.set(budget.total_bytes() as f64);
        health.set("", Some("starting".to_owned()));
        metrics.show(health.count());
        Self {
            health,
            metrics,
            reached: Reached::default(),
            connector: None,
            pipeline: pipeline.name.clone(),
            budget,
            has_run: false,
            partitions: HashMap::new(),
            retention: HashMap::new(),
            losses: Losses::default(),
            objectives: pipeline.objectives,
            missed: HashSet::new(),
            failures: Failures::default(),
            phase: None,
            shares: pipeline.source.group_id.is_some() && pass.is_none(),
            gone: HashMap::new(),
            found: None,
            pass,
        }
    }

    /// Takes note that both ends are open, and which cluster the source is. What has failed before is not believed yet.
    pub(super) fn running(&mut self, cluster_id: Option<&str>) {
        let now = Instant::now();
        self.has_run = true;
        self.found = Some(HashSet::new());
        self.failures.runs(now);
        self.say(self.failures.doubt(), now);
        if let Some(connector) = &self.connector {
            connector.runs(cluster_id);
            self.phase = Some(Phase::Running);
        }
        self.tell_phase(now);
    }

    /// Takes note that the pipeline starts, and no longer does what it was told before.
    pub(super) fn starts(&mut self, phase: Phase) {
        self.failures.closed();
        self.say(Some("starting".to_owned()), Instant::now());
        self.is(phase);
    }

    /// Takes note that the pipeline rests, as it was told: nothing is wrong with it, and it has no lag.
    pub(super) fn rests(&mut self, phase: Phase) {
        self.retire();
        self.failures.forget();
        self.metrics.failures.set(0.0);
        self.say(None, Instant::now());
        self.is(phase);
    }

    /// Takes note that the pipeline has ended for good: nothing of it is to alarm.
    pub(super) fn ends(&mut self) {
        self.retire();
        self.health.clear();
        self.metrics.failures.set(0.0);
        self.metrics.show(0);
        self.metrics.memory_used_bytes.set(0.0);
    }

    fn is(&mut self, phase: Phase) {
        if self.phase.as_ref() == Some(&phase) {
            return;
        }
        self.phase = Some(phase.clone());
        if let Some(connector) = &self.connector {
            connector.is(phase);
        }
    }

    /// Tells the state of the task of a pipeline whose ends are open.
    fn tell_phase(&mut self, now: Instant) {
        if self.failures.is_running() {
            self.is(self.failures.trace(now).map_or(Phase::Running, Phase::Failed));
        }
    }

    /// Says what is wrong with the pipeline itself, and with its partitions what does not end with an attempt, in place of
    /// all that was said.
    fn say(&mut self, reason: Option<String>, now: Instant) {
        let missed = self.find_missed(now);
        self.missed = missed.iter().map(|(subject, _)| subject.clone()).collect();
        let losses = self.losses.standing().map(|(subject, reason)| (subject.to_owned(), reason.to_owned()));
        let itself = reason.map(|reason| (String::new(), reason));
        self.health.replace(itself.into_iter().chain(losses).chain(missed));
        self.metrics.show(self.health.count());
    }

    /// Returns the objectives that partitions miss.
    fn find_missed(&self, now: Instant) -> Vec<(String, String)> {
        let at = (now, Timestamp::now());
        let of = |(partition, watched): (_, &Watched)| {
            objectives::missed(&self.objectives, partition, &watched.progress, at).collect::<Vec<_>>()
        };
        self.partitions.iter().flat_map(of).collect()
    }

    /// Says which objectives are missed, with their figures, and no longer those that were; the log is told when the first
    /// one is and when the last one no longer is.
    fn say_missed(&mut self, now: Instant) {
        let missed = self.find_missed(now);
        let was = std::mem::replace(&mut self.missed, missed.iter().map(|(subject, _)| subject.clone()).collect());
        if was.is_empty()
            && let Some((subject, reason)) = missed.first()
        {
            let others = missed.len() - 1;
            tracing::warn!(pipeline = self.pipeline, others, "{subject}: {reason}");
        } else if missed.is_empty() && !was.is_empty() {
            tracing::info!(pipeline = self.pipeline, "no partition misses max_lag or min_headroom any more");
        }
        for subject in was.difference(&self.missed) {
            self.health.set(subject, None);
        }
        for (subject, reason) in missed {
            self.health.set(&subject, Some(reason));
        }
    }

    /// Shows no lag of partitions any more: whoever reads them shows it, or nobody does, as it was told.
    fn retire(&mut self) {
        for (_, watched) in self.partitions.drain() {
            watched.metrics.retire();
        }
    }

    /// Forgets partitions of topics that are gone since before the last start: nobody will make their lag good.
    fn forget_gone(&mut self, now: Instant) {
        if !self.failures.has_run_for(GONE_AFTER, now) {
            return;
        }
        let Some(found) = self.found.take() else { return };
        let is_there =
            |partition: &Partition| found.contains(&(partition.topic.to_string(), partition.topic_id.to_string()));
        let gone: Vec<_> = self.partitions.keys().filter(|partition| !is_there(partition)).cloned().collect();
        for partition in gone {
            self.leave(&partition, now);
        }
    }

    /// Returns whether both ends were ever open.
    pub(super) fn has_run(&self) -> bool {
        self.has_run
    }

    /// Takes note that the pipeline is down and starts again after `pause`; what was wrong with its parts went with it.
    pub(super) fn failed(&mut self, error: &Error, pause: Duration) {
        self.metrics.restarts.increment(1);
        self.metrics.failures.set(f64::from(self.failures.failed(error.to_string(), pause)));
        if self.shares {
            self.retire();
        }
        self.say(Some(error.to_string()), Instant::now());
        self.is(Phase::Failed(error.to_string()));
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

    /// Drops the metrics of topics that have been gone for so long that whoever scrapes has seen how they ended.
    fn forget_topics(&mut self, now: Instant) {
        let Self { pipeline, gone, .. } = self;
        gone.retain(|topic, since| {
            let stays = now.saturating_duration_since(*since) < GONE_AFTER;
            if !stays {
                metrics::forget_topic(pipeline, topic);
            }
            stays
        });
    }

    /// Watches a partition no more.
    fn leave(&mut self, partition: &Partition, now: Instant) {
        let Some(watched) = self.partitions.remove(partition) else { return };
        watched.metrics.retire();
        if !self.partitions.keys().any(|other| other.topic == partition.topic) {
            let _ = self.gone.insert(partition.topic.clone(), now);
        }
    }

    fn of(&mut self, partition: &Partition) -> &mut Watched {
        let Self { pipeline, retention, partitions, gone, .. } = self;
        partitions.entry(partition.clone()).or_insert_with(|| {
            let _ = gone.remove(&partition.topic);
            let mut progress = Progress::new();
            progress.retained(retention.get(&*partition.topic).copied().flatten());
            let metrics = PartitionMetrics::new(pipeline, partition);
            Watched { progress, metrics, gaps_until: 0, fork_at: None }
        })
    }

    fn gap(&mut self, partition: &Partition, range: OffsetRange, why: &str) {
        let watched = self.of(partition);
        if range.next <= watched.gaps_until {
            return;
        }
        watched.gaps_until = range.next;
        watched.metrics.gap((range.next - range.first).max(0).cast_unsigned());
        let (subject, reason) = self.losses.gap(partition, range, why, Instant::now());
        self.tell(&subject, Some(&reason));
    }

    /// Says what is wrong, or right again, with `subject`; the log is told what is new.
    fn tell(&mut self, subject: &str, reason: Option<&str>) {
        if !self.health.set(subject, reason.map(str::to_owned)) {
            return;
        }
        self.metrics.show(self.health.count());
        match reason {
            Some(reason) => tracing::warn!(pipeline = self.pipeline, "{subject}: {reason}"),
            None => tracing::info!(pipeline = self.pipeline, "{subject}: well again"),
        }
    }

    /// Says no longer what the source has lost; it is counted, and the archive tells of it.
    fn leave_unsaid(&mut self, losses: &[String]) {
        for subject in losses {
            self.health.set(subject, None);
            tracing::info!(pipeline = self.pipeline, "{subject}: no longer shown in /readyz; the archive tells of it");
        }
        if !losses.is_empty() {
            self.metrics.show(self.health.count());
        }
    }
}

impl Observer for Watch {
    fn received(&mut self, batch: &Batch) {
        let watched = self.of(batch.partition());
        // The first batch of a partition that the archive holds nothing of says where the archive begins.
        if watched.progress.durable_next().is_none() {
            watched.progress.durable(batch.range.first, Instant::now());
        }
        match &batch.payload {
            Payload::Encoded { bytes, .. } => {
                // A header that cannot be read is the sink's to refuse.
                let time = Header::read(bytes).map_or(Timestamp::NONE, |header| header.max_timestamp);
                watched.progress.received(batch.range.next, time);
                if let Some(connector) = &self.connector {
                    connector.received(batch.partition());
                }
            }
            Payload::Gap { reason } => self.gap(batch.partition(), batch.range, reason),
        }
        if let Some(pass) = &mut self.pass {
            pass.received(batch.partition(), batch.range);
        }
    }

    fn topic(&mut self, topic: &Topic) {
        let configs = topic.configs.as_deref().unwrap_or_default();
        let setting = |name: &str| configs.iter().find(|config| config.name == name)?.value.as_deref();
        let retention = Retention::of(setting);
        for (_, watched) in self.partitions.iter_mut().filter(|(partition, _)| *partition.topic == topic.name) {
            watched.progress.retained(retention);
        }
        self.retention.insert(topic.name.clone(), retention);
        if let Some(found) = &mut self.found {
            found.insert((topic.name.clone(), topic.topic_id.clone()));
        }
    }

    fn observed(&mut self, partition: &Partition, log: &Log) {
        let (progress, now) = (&mut self.of(partition).progress, Instant::now());
        progress.observe(log.high_watermark, log.last_stable, now);
        if log.start >= 0 {
            progress.starts(log.start, now);
        }
        if let Some(pass) = &mut self.pass {
            pass.observed(partition, log.last_stable);
        }
    }

    fn diverged(&mut self, partition: &Partition, end: Offset) {
        let watched = self.of(partition);
        // Found again, because going on beside it has failed.
        if watched.fork_at.replace(end) == Some(end) {
            return;
        }
        watched.gaps_until = 0;
        watched.progress.diverged();
        watched.metrics.fork();
        let (subject, reason) = self.losses.fork(partition, end, Instant::now());
        self.tell(&subject, Some(&reason));
    }

    fn opened(&mut self, partition: &Partition, next: Option<Offset>) {
        let watched = self.of(partition);
        if let Some(next) = next {
            watched.progress.durable(next, Instant::now());
            watched.fork_at = watched.fork_at.filter(|end| next > *end);
            self.losses.opened(partition, next);
            if let Some(connector) = &self.connector {
                connector.durable(partition, next);
            }
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
        watched.metrics.show(&watched.progress, now, Timestamp::now());
        if let Some(connector) = &self.connector {
            connector.durable(partition, next);
        }
        let over = self.losses.durable(partition, next);
        self.leave_unsaid(&over);
        self.metrics.upload_seconds.record(took.as_secs_f64());
        if let Some(pass) = &mut self.pass {
            pass.durable(records, bytes);
        }
    }

    fn dropped(&mut self, partition: &Partition, range: OffsetRange) {
        self.of(partition).metrics.dropped((range.next - range.first).max(0).cast_unsigned());
        let (subject, reason) = self.losses.dropped(partition, range, Instant::now());
        self.tell(&subject, Some(&reason));
    }

    fn closed(&mut self, partition: &Partition) {
        self.leave(partition, Instant::now());
        if let Some(connector) = &self.connector {
            connector.closed(partition);
        }
    }

    fn trouble(&mut self, subject: &str, reason: Option<&str>) {
        self.failures.trouble(subject, reason, Instant::now());
        self.tell(subject, reason);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let clock = Timestamp::now();
        for watched in self.partitions.values() {
            watched.metrics.show(&watched.progress, now, clock);
        }
        let over = self.losses.expired(now);
        self.leave_unsaid(&over);
        if self.failures.tick(now) {
            tracing::info!(pipeline = self.pipeline, "it has run for as long as it had paused: well again");
            self.metrics.failures.set(0.0);
            self.health.set("", None);
        }
        self.forget_gone(now);
        self.forget_topics(now);
        self.say_missed(now);
        self.tell_phase(now);
        self.metrics.show(self.health.count());
        self.metrics.memory_used_bytes.set(self.budget.used_bytes() as f64);
        if let Some(pass) = &mut self.pass {
            pass.tick();
        }
    }
}

#[cfg(test)]
mod tests;
