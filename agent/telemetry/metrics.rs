//! Metrics: what each is called, what it means, and the handles to them, made once per partition.
//!
//! Names follow Prometheus: base units, `_total` for counters. Of a partition, series carry `pipeline`, `topic` and
//! `partition`. Recording costs an atomic operation; without [`install`] it costs nothing and goes nowhere.

mod restore;
mod savepoints;
mod verify;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, Label, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::record::{Partition, Timestamp};
pub use restore::RestoreMetrics;
pub use savepoints::SavepointMetrics;
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
/// Partitions that a consumer group has given; recorded by `kafka::membership`.
const GROUP_PARTITIONS: &str = "kafka_backup_group_partitions";
/// Fetches of the client that only takes part in a group; recorded by `kafka::membership`.
const GROUP_FETCHES: &str = "kafka_backup_group_fetches";
/// Reports of that client; recorded by `kafka::membership`.
const GROUP_STATISTICS: &str = "kafka_backup_group_statistics_total";
/// Records that stages failed at and are not in the archive, or not restored; recorded by `stages`.
const STAGE_LEFT_OUT: &str = "kafka_backup_stage_left_out_records_total";
/// Always 1; its labels tell the version.
const BUILD: &str = "kafka_backup_build_info";

/// Upper bounds of the upload latency: from a local folder (milliseconds) to a store that is barely alive.
const UPLOAD_SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Installs the recorder of this process, once, and returns the handle that renders it.
pub fn install() -> Result<PrometheusHandle> {
    static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    // Held until it is installed: who comes second gets the handle of the first.
    let mut held = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*held {
        return Ok(handle.clone());
    }
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Full(UPLOAD.to_owned()), &UPLOAD_SECONDS);
    let recorder = builder.expect("the list of buckets is not empty").build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|error| Error::failed("cannot install the metrics").source(error))?;
    describe();
    metrics::gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // A counter that is there from the beginning has a rate from its first increment on.
    for counter in [FETCHED, FETCHES, THROTTLE] {
        metrics::counter!(counter).increment(0);
    }
    Ok(held.insert(handle).clone())
}

/// Returns the counter of what a stage's plugin failed at and is left out by this policy.
pub fn stage_left_out(pipeline: &str, stage: u8, plugin: &str, policy: &'static str) -> Counter {
    metrics::counter!(
        STAGE_LEFT_OUT, "pipeline" => pipeline.to_owned(), "stage" => stage.to_string(),
        "plugin" => plugin.to_owned(), "policy" => policy
    )
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!(
        STAGE_LEFT_OUT,
        Unit::Count,
        "Records at which a stage's plugin failed and that the archive, or a restore's target, does not hold, by policy: \
         skip or dead-letter."
    );
    describe_counter!(RECORDS, Unit::Count, "Records that became durable, as a read-committed reader counts them.");
    describe_counter!(BYTES, Unit::Bytes, "Bytes of record batches that became durable.");
    describe_counter!(SEGMENTS, Unit::Count, "Segments that became durable.");
    describe_gauge!(
        LAG,
        Unit::Count,
        "Offsets between what is durable and the high watermark last told by the leader."
    );
    describe_gauge!(
        DURABLE_LAG,
        Unit::Seconds,
        "Time since the high watermark was first seen beyond what is durable; 0 when equal, as of the leader's last \
         answer. The recovery point objective."
    );
    describe_gauge!(HIGH_WATERMARK, Unit::Count, "End of what the source has replicated, exclusive.");
    describe_gauge!(LAST_STABLE, Unit::Count, "End of what a read-committed reader of the source may see, exclusive.");
    describe_gauge!(DURABLE, Unit::Count, "End of what is durable in the archive, exclusive.");
    describe_gauge!(
        HEADROOM,
        Unit::Seconds,
        "Time until the source's retention may delete what is not durable, or, when all is, what would be written \
         now; +Inf where it never will, NaN while it is not known."
    );
    describe_counter!(GAPS, Unit::Count, "Stretches that the source had deleted before they were archived.");
    describe_counter!(GAP_OFFSETS, Unit::Count, "Offsets that the source had deleted before they were archived.");
    describe_counter!(FORKS, Unit::Count, "Times that the source had lost records that the archive holds.");
    describe_counter!(
        DROPPED_OFFSETS,
        Unit::Count,
        "Offsets that were read and not durable when their partition was let go."
    );
    describe_histogram!(UPLOAD, Unit::Seconds, "Time from closing a segment to its being durable.");
    describe_gauge!(READY, "1 when nothing is wrong with the pipeline, else 0; /readyz says what is.");
    describe_gauge!(TROUBLES, Unit::Count, "Things that are wrong with the pipeline: its lines of /readyz.");
    describe_counter!(RESTARTS, Unit::Count, "Starts of a pipeline after a failure.");
    describe_gauge!(
        FAILURES,
        Unit::Count,
        "Failures of a pipeline since it last ran for long enough to be believed; 0 when it does."
    );
    describe_gauge!(MEMORY_USED, Unit::Bytes, "Bytes that were read and are not yet written, or acknowledged.");
    describe_gauge!(MEMORY_LIMIT, Unit::Bytes, "Bound on them (memory_bytes).");
    describe_counter!(FETCHED, Unit::Bytes, "Bytes of Fetch answers.");
    describe_counter!(FETCHES, Unit::Count, "Fetch answers.");
    describe_counter!(THROTTLE, Unit::Seconds, "Time that brokers asked us to wait (quotas), which we did.");
    describe_gauge!(GROUP_PARTITIONS, Unit::Count, "Partitions that this member of the consumer group has.");
    describe_gauge!(GROUP_FETCHES, Unit::Count, "Fetches of the client that only takes part in the group: 0.");
    describe_counter!(GROUP_STATISTICS, Unit::Count, "Reports of that client about itself.");
    restore::describe();
    savepoints::describe();
    verify::describe();
    describe_gauge!(BUILD, "Always 1; the label tells the version.");
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
    use std::collections::BTreeSet;
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
        PipelineMetrics::new("p").upload_seconds.record(0.02);
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
            "kafka_backup_upload_latency_seconds_bucket{pipeline=\"p\",le=\"0.025\"} 1".to_owned(),
            "# TYPE kafka_backup_captured_bytes_total counter".to_owned(),
            "kafka_backup_ready{pipeline=\"well\"} 1".to_owned(),
            "kafka_backup_ready{pipeline=\"ill\"} 0".to_owned(),
            "kafka_backup_troubles{pipeline=\"ill\"} 2".to_owned(),
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }

    /// Adds the names of metrics in the Rust files of `folder` to `names`.
    fn names_in(folder: &std::path::Path, names: &mut BTreeSet<String>) {
        let pattern = regex::Regex::new("\"(kafka_backup_[a-z_]+)\"").expect("a pattern");
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                names_in(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("readable");
                names.extend(pattern.captures_iter(&text).map(|found| found[1].to_owned()));
            }
        }
    }

    #[test]
    fn every_metric_is_in_the_documentation_and_nothing_else() {
        let mut names = BTreeSet::new();
        names_in(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("agent"), &mut names);
        let row = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
        let documented: BTreeSet<String> = include_str!("../../docs/metrics.md").lines().filter_map(row).collect();
        assert!(names.len() > 20, "{names:?}");
        assert_eq!(names, documented);
    }
}
