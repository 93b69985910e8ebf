//! Metrics: the handles to them, made once per partition; what each is called and means is in `table`, `series` keeps them, and
//! `textfile` writes those of a command that ends.
//!
//! Names follow Prometheus: base units, `_total` for counters. Of a partition, series carry `pipeline`, `topic` and
//! `partition`. Recording costs an atomic operation; without [`install`] it costs nothing and goes nowhere.

#[cfg(test)]
mod ops;
mod restore;
mod savepoints;
mod series;
mod table;
mod textfile;
mod verify;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, Label};

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::record::{Partition, Timestamp};
pub use restore::RestoreMetrics;
pub use savepoints::SavepointMetrics;
pub use series::Series;
pub use table::{Kind, METRICS, Metric, Unit};
pub use textfile::Textfile;
pub use verify::VerifyMetrics;

/// Records that became durable.
const RECORDS: &str = "kafka_backup_captured_records_total";
/// Bytes that became durable.
const BYTES: &str = "kafka_backup_captured_bytes_total";
/// Segments that became durable.
const SEGMENTS: &str = "kafka_backup_captured_segments_total";
/// What the source has and the archive has not.
const LAG: &str = "kafka_backup_lag_records";
/// For how long the source has had something that the archive has not.
const DURABLE_LAG: &str = "kafka_backup_durable_lag_seconds";
/// The end of what the source has.
const HIGH_WATERMARK: &str = "kafka_backup_high_watermark_offset";
/// The end of what is decided at the source.
const LAST_STABLE: &str = "kafka_backup_last_stable_offset";
/// The end of what is durable.
const DURABLE: &str = "kafka_backup_durable_offset";
/// How long until the source deletes what is not durable.
const HEADROOM: &str = "kafka_backup_headroom_seconds";
/// Stretches that the source had deleted before they were archived.
const GAPS: &str = "kafka_backup_gaps_total";
/// The offsets in them.
const GAP_OFFSETS: &str = "kafka_backup_gap_offsets_total";
/// Times that the source had lost what the archive holds.
const FORKS: &str = "kafka_backup_forks_total";
/// Offsets that were read and not durable when their partition was let go.
const DROPPED_OFFSETS: &str = "kafka_backup_dropped_offsets_total";
/// How long making a segment durable took.
const UPLOAD: &str = "kafka_backup_upload_latency_seconds";
/// Whether nothing is wrong with a pipeline.
const READY: &str = "kafka_backup_ready";
/// How many things are wrong with a pipeline.
const TROUBLES: &str = "kafka_backup_troubles";
/// Starts after a failure.
const RESTARTS: &str = "kafka_backup_pipeline_restarts_total";
/// Failures since a pipeline last ran for long enough.
const FAILURES: &str = "kafka_backup_pipeline_consecutive_failures";
/// What is paid from the memory budget.
const MEMORY_USED: &str = "kafka_backup_memory_used_bytes";
/// The size of the memory budget.
const MEMORY_LIMIT: &str = "kafka_backup_memory_limit_bytes";
/// Bytes of Fetch answers; recorded by `kafka::source`.
const FETCHED: &str = "kafka_backup_fetched_bytes_total";
/// Fetch answers; recorded by `kafka::source`.
const FETCHES: &str = "kafka_backup_fetches_total";
/// Waits that brokers asked for; recorded by `kafka::wire`.
const THROTTLE: &str = "kafka_backup_throttle_seconds_total";
/// Records that stages failed at and are not in the archive, or not restored; recorded by `stages`.
const STAGE_LEFT_OUT: &str = "kafka_backup_stage_left_out_records_total";
/// Time that the plugin of a stage took; recorded by `stages`.
const STAGE_SECONDS: &str = "kafka_backup_stage_duration_seconds";
/// Always 1; its labels tell the version.
const BUILD: &str = "kafka_backup_build_info";

/// What this process records into, once it does.
static SERIES: Mutex<Option<Series>> = Mutex::new(None);

fn series() -> MutexGuard<'static, Option<Series>> {
    SERIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has this process record from now on, once, and returns what it records into.
///
/// # Errors
/// Only for a defect: something else records already.
pub fn install() -> Result<Series> {
    // Held until it is installed: who comes second gets the one of the first.
    let mut held = series();
    if let Some(series) = &*held {
        return Ok(series.clone());
    }
    let series = Series::default();
    metrics::set_global_recorder(series.clone())
        .map_err(|error| Error::failed("cannot install the metrics").source(error))?;
    metrics::gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // A counter that is there from the beginning has a rate from its first increment on.
    for counter in [FETCHED, FETCHES, THROTTLE] {
        metrics::counter!(counter).increment(0);
    }
    Ok(held.insert(series).clone())
}

/// Drops all series of a pipeline that is gone.
pub fn forget_pipeline(pipeline: &str) {
    if let Some(series) = &*series() {
        series.forget_pipeline(pipeline);
    }
}

/// Drops all series of a topic that a pipeline has no more.
pub fn forget_topic(pipeline: &str, topic: &str) {
    if let Some(series) = &*series() {
        series.forget_topic(pipeline, topic);
    }
}

/// Returns the histogram of the seconds that the plugin of a stage takes for one run of batches.
pub fn stage_seconds(pipeline: &str, stage: u8, plugin: &str) -> Histogram {
    metrics::histogram!(
        STAGE_SECONDS, "pipeline" => pipeline.to_owned(), "stage" => stage.to_string(), "plugin" => plugin.to_owned()
    )
}

/// Returns the counter of what a stage's plugin failed at and is left out by this policy.
pub fn stage_left_out(pipeline: &str, stage: u8, plugin: &str, policy: &'static str) -> Counter {
    metrics::counter!(
        STAGE_LEFT_OUT, "pipeline" => pipeline.to_owned(), "stage" => stage.to_string(),
        "plugin" => plugin.to_owned(), "policy" => policy
    )
}

/// The metrics of one partition of one pipeline. Clones write to the same series.
#[derive(Clone)]
pub struct PartitionMetrics {
    records: Counter,
    bytes: Counter,
    segments: Counter,
    lag: Gauge,
    durable_lag: Gauge,
    high_watermark: Gauge,
    last_stable: Gauge,
    durable: Gauge,
    headroom: Gauge,
    gaps: Counter,
    gap_offsets: Counter,
    forks: Counter,
    dropped_offsets: Counter,
}

impl PartitionMetrics {
    /// Makes the handles; done once for each partition.
    pub fn new(pipeline: &str, partition: &Partition) -> Self {
        let labels = vec![
            Label::new("pipeline", pipeline.to_owned()),
            Label::new("topic", partition.topic.to_string()),
            Label::new("partition", partition.index.to_string()),
        ];
        let counter = |name| metrics::counter!(name, labels.clone());
        let gauge = |name| metrics::gauge!(name, labels.clone());
        let headroom = gauge(HEADROOM);
        // A new gauge is 0, which would be an alarm.
        headroom.set(f64::NAN);
        Self {
            records: counter(RECORDS),
            bytes: counter(BYTES),
            segments: counter(SEGMENTS),
            lag: gauge(LAG),
            durable_lag: gauge(DURABLE_LAG),
            high_watermark: gauge(HIGH_WATERMARK),
            last_stable: gauge(LAST_STABLE),
            durable: gauge(DURABLE),
            headroom,
            gaps: counter(GAPS),
            gap_offsets: counter(GAP_OFFSETS),
            forks: counter(FORKS),
            dropped_offsets: counter(DROPPED_OFFSETS),
        }
    }

    /// Counts a gap of `offsets` offsets.
    pub fn gap(&self, offsets: u64) {
        self.gaps.increment(1);
        self.gap_offsets.increment(offsets);
    }

    /// Counts a fork.
    pub fn fork(&self) {
        self.forks.increment(1);
    }

    /// Counts `offsets` offsets that were read and not durable when the partition was let go.
    pub fn dropped(&self, offsets: u64) {
        self.dropped_offsets.increment(offsets);
    }

    /// Counts a segment of `records` records and `bytes` bytes that became durable.
    pub fn captured(&self, records: u64, bytes: u64) {
        self.records.increment(records);
        self.bytes.increment(bytes);
        self.segments.increment(1);
    }

    /// Shows `progress` as it is `now`, by `clock`; called at changes and once a second, since a lag grows by itself.
    pub fn show(&self, progress: &Progress, now: Instant, clock: Timestamp) {
        let offsets = [
            (&self.high_watermark, progress.high_watermark()),
            (&self.last_stable, progress.last_stable()),
            (&self.durable, progress.durable_next()),
        ];
        for (gauge, offset) in offsets {
            if let Some(offset) = offset {
                gauge.set(offset as f64);
            }
        }
        if let Some(lag) = progress.lag() {
            self.lag.set(lag as f64);
        }
        self.durable_lag.set(progress.durable_lag(now).as_secs_f64());
        self.headroom.set(progress.headroom_seconds(now, clock).unwrap_or(f64::NAN));
    }

    /// Ends what would alarm of a partition that is no longer ours: whoever has it now shows it. The counters and
    /// offsets stay as they are.
    pub fn retire(&self) {
        self.lag.set(0.0);
        self.durable_lag.set(0.0);
        self.headroom.set(f64::NAN);
    }
}

impl std::fmt::Debug for PartitionMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionMetrics").finish_non_exhaustive()
    }
}

/// The metrics of one pipeline. Clones write to the same series.
#[derive(Clone)]
pub struct PipelineMetrics {
    /// Seconds from closing a segment to its being durable.
    pub upload_seconds: Histogram,
    /// Starts after a failure.
    pub restarts: Counter,
    /// Failures since it last ran for long enough.
    pub failures: Gauge,
    /// Bytes paid from the memory budget.
    pub memory_used_bytes: Gauge,
    /// The size of the memory budget in bytes.
    pub memory_limit_bytes: Gauge,
    ready: Gauge,
    troubles: Gauge,
}

impl PipelineMetrics {
    /// Makes the handles; done once for each pipeline.
    pub fn new(pipeline: &str) -> Self {
        let pipeline = || pipeline.to_owned();
        Self {
            upload_seconds: metrics::histogram!(UPLOAD, "pipeline" => pipeline()),
            restarts: metrics::counter!(RESTARTS, "pipeline" => pipeline()),
            failures: metrics::gauge!(FAILURES, "pipeline" => pipeline()),
            memory_used_bytes: metrics::gauge!(MEMORY_USED, "pipeline" => pipeline()),
            memory_limit_bytes: metrics::gauge!(MEMORY_LIMIT, "pipeline" => pipeline()),
            ready: metrics::gauge!(READY, "pipeline" => pipeline()),
            troubles: metrics::gauge!(TROUBLES, "pipeline" => pipeline()),
        }
    }

    /// Shows how many things are wrong with the pipeline.
    pub fn show(&self, troubles: usize) {
        self.troubles.set(troubles as f64);
        self.ready.set(if troubles == 0 { 1.0 } else { 0.0 });
    }
}

impl std::fmt::Debug for PipelineMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineMetrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::progress::Retention;
    use crate::record::TopicId;

    const LABELS: &str = "{pipeline=\"p\",topic=\"shown\",partition=\"3\"}";

    #[test]
    fn a_partition_shows_what_it_captured_and_how_far_it_is() {
        let handle = install().expect("installed");
        let partition = Partition { topic: Arc::from("shown"), topic_id: TopicId::NONE, index: 3 };
        let metrics = PartitionMetrics::new("p", &partition);
        let (mut progress, now) = (Progress::new(), Instant::now());
        progress.observe(12, 11, now);
        progress.durable(10, now);
        metrics.captured(10, 512);
        metrics.gap(7);
        metrics.dropped(3);
        metrics.show(&progress, now + std::time::Duration::from_secs(4), Timestamp::now());
        let unknown = format!("kafka_backup_headroom_seconds{LABELS} NaN");
        assert!(handle.render().contains(&unknown), "nothing is known of the topic's retention");
        progress.retained(Some(Retention { ms: None, by_size: true }));
        metrics.show(&progress, now + std::time::Duration::from_secs(4), Timestamp::now());
        // Other tests record for `p`.
        PipelineMetrics::new("uploads").upload_seconds.record(0.02);
        PipelineMetrics::new("well").show(0);
        PipelineMetrics::new("ill").show(2);
        let text = handle.render();
        for line in [
            format!("kafka_backup_captured_records_total{LABELS} 10"),
            format!("kafka_backup_captured_bytes_total{LABELS} 512"),
            format!("kafka_backup_captured_segments_total{LABELS} 1"),
            format!("kafka_backup_lag_records{LABELS} 2"),
            format!("kafka_backup_durable_lag_seconds{LABELS} 4"),
            format!("kafka_backup_last_stable_offset{LABELS} 11"),
            format!("kafka_backup_headroom_seconds{LABELS} inf"),
            format!("kafka_backup_gaps_total{LABELS} 1"),
            format!("kafka_backup_gap_offsets_total{LABELS} 7"),
            format!("kafka_backup_forks_total{LABELS} 0"),
            format!("kafka_backup_dropped_offsets_total{LABELS} 3"),
            "kafka_backup_upload_latency_seconds_bucket{pipeline=\"uploads\",le=\"0.025\"} 1".to_owned(),
            "# TYPE kafka_backup_captured_bytes_total counter".to_owned(),
            "kafka_backup_ready{pipeline=\"well\"} 1".to_owned(),
            "kafka_backup_ready{pipeline=\"ill\"} 0".to_owned(),
            "kafka_backup_troubles{pipeline=\"ill\"} 2".to_owned(),
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }
}
