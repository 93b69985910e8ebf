//! Every metric, with its type, unit, labels and meaning: the one place that knows. What is exposed says it as it is
//! here, and so is the table of `docs/metrics.md`.
//!
//! Tests hold the page, the names in the code and what an agent exposes against it.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// It only grows, from 0 at the start of the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts values by size, at these upper bounds.
    Histogram(&'static [f64]),
}

/// What a metric is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Things, which the name names.
    Count,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it is measured in.
    pub unit: Unit,
    /// The names of the labels that each of its series has.
    pub labels: &'static [&'static str],
    /// What it means.
    pub meaning: &'static str,
}

/// Upper bounds of the upload latency: from a local folder (milliseconds) to a store that is barely alive.
const UPLOAD_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Upper bounds of requests, operations and calls, of which there are many kinds: fewer, so that their series stay few.
const FEW_SECONDS: &[f64] = &[0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

const PARTITION: &[&str] = &["pipeline", "topic", "partition"];
const PIPELINE: &[&str] = &["pipeline"];
const GROUP: &[&str] = &["group"];
const COMMAND: &[&str] = &["command"];

const fn counter(name: &'static str, unit: Unit, labels: &'static [&'static str], meaning: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit, labels, meaning }
}

const fn gauge(name: &'static str, unit: Unit, labels: &'static [&'static str], meaning: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, labels, meaning }
}

const fn seconds(
    name: &'static str,
    bounds: &'static [f64],
    labels: &'static [&'static str],
    meaning: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Histogram(bounds), unit: Unit::Seconds, labels, meaning }
}

/// All metrics, in the order in which they are best read.
pub static METRICS: &[Metric] = &[
    counter(
        "kafka_backup_captured_records_total",
        Unit::Count,
        PARTITION,
        "records that became durable, as a read-committed reader counts them",
    ),
    counter("kafka_backup_captured_bytes_total", Unit::Bytes, PARTITION, "bytes of record batches that became durable"),
    counter("kafka_backup_captured_segments_total", Unit::Count, PARTITION, "segments that became durable"),
    gauge("kafka_backup_lag_records", Unit::Count, PARTITION, "offsets between what is durable and the high watermark"),
    gauge(
        "kafka_backup_durable_lag_seconds",
        Unit::Seconds,
        PARTITION,
        "time since the high watermark was first seen beyond what is durable; 0 when equal. What the loss of the \
         source would cost now",
    ),
    gauge(
        "kafka_backup_headroom_seconds",
        Unit::Seconds,
        PARTITION,
        "time until the source's retention may delete what is not durable; see below. `+Inf` where it never will, \
         `NaN` while that is not known",
    ),
    counter(
        "kafka_backup_gaps_total",
        Unit::Count,
        PARTITION,
        "stretches that the source had deleted before they were archived",
    ),
    counter(
        "kafka_backup_gap_offsets_total",
        Unit::Count,
        PARTITION,
        "offsets in them: records lost, but for what compaction had taken before",
    ),
    counter(
        "kafka_backup_forks_total",
        Unit::Count,
        PARTITION,
        "times that the source had lost records that the archive holds (unclean leader election); the archive keeps \
         them and goes on beside them",
    ),
    counter(
        "kafka_backup_dropped_offsets_total",
        Unit::Count,
        PARTITION,
        "offsets that were read and not durable when the partition was let go while the store failed: another reader \
         of the group reads them again; if the topic was deleted they are lost",
    ),
    gauge(
        "kafka_backup_high_watermark_offset",
        Unit::Count,
        PARTITION,
        "end of what the source has replicated, exclusive",
    ),
    gauge(
        "kafka_backup_last_stable_offset",
        Unit::Count,
        PARTITION,
        "end of what a read-committed reader of the source may see, exclusive. A transaction that hangs holds it back",
    ),
    gauge("kafka_backup_durable_offset", Unit::Count, PARTITION, "end of what is durable in the archive, exclusive"),
    seconds(
        "kafka_backup_upload_latency_seconds",
        UPLOAD_SECONDS,
        PIPELINE,
        "time from closing a segment to its being durable",
    ),
    gauge(
        "kafka_backup_ready",
        Unit::Count,
        PIPELINE,
        "1 when nothing is wrong with the pipeline, 0 while it starts or something is: source or archive cannot be \
         reached, a topic is missing",
    ),
    gauge(
        "kafka_backup_troubles",
        Unit::Count,
        PIPELINE,
        "how many things are wrong: the pipeline's lines of `/readyz`",
    ),
    counter(
        "kafka_backup_stage_left_out_records_total",
        Unit::Count,
        &["pipeline", "stage", "plugin", "policy"],
        "records at which the plugin of a stage failed and that the archive, or the target of a restore, does not \
         hold; the policy is `skip` or `dead-letter`",
    ),
    seconds(
        "kafka_backup_stage_duration_seconds",
        FEW_SECONDS,
        &["pipeline", "stage", "plugin"],
        "time that the plugin of a stage took for one run of batches, about 1 MiB of them",
    ),
    counter("kafka_backup_pipeline_restarts_total", Unit::Count, PIPELINE, "starts of a pipeline after a failure"),
    gauge(
        "kafka_backup_pipeline_consecutive_failures",
        Unit::Count,
        PIPELINE,
        "failures of a pipeline since it last ran for long enough to be believed; 0 when it does",
    ),
    gauge(
        "kafka_backup_memory_used_bytes",
        Unit::Bytes,
        PIPELINE,
        "bytes that were read and are not yet written, or acknowledged",
    ),
    gauge("kafka_backup_memory_limit_bytes", Unit::Bytes, PIPELINE, "bound on them (`memory_bytes`)"),
    counter(
        "kafka_backup_restored_records_total",
        Unit::Count,
        PARTITION,
        "of a partition of the source: records that the target has acknowledged",
    ),
    counter(
        "kafka_backup_restored_bytes_total",
        Unit::Bytes,
        PARTITION,
        "of a partition of the source: bytes of their batches",
    ),
    gauge(
        "kafka_backup_restored_offset",
        Unit::Count,
        PARTITION,
        "of a partition of the source: end of the source offsets that are restored, exclusive",
    ),
    gauge("kafka_backup_restore_planned_records", Unit::Count, PIPELINE, "records that a restore has to send, at most"),
    gauge(
        "kafka_backup_savepoint_timestamp_seconds",
        Unit::Seconds,
        PIPELINE,
        "when the newest savepoint was last seen to hold, in seconds since the epoch: made by this agent or another \
         one, or found unchanged; `NaN` before the first; the pipeline is the first that writes the backup",
    ),
    gauge(
        "kafka_backup_savepoint_duration_seconds",
        Unit::Seconds,
        PIPELINE,
        "time that the last one took, from the first request to its being durable",
    ),
    gauge("kafka_backup_savepoint_groups", Unit::Count, PIPELINE, "consumer groups in it"),
    gauge(
        "kafka_backup_savepoint_groups_unreadable",
        Unit::Count,
        PIPELINE,
        "those of them whose offsets could not be read (not allowed, coordinator away); the savepoint says why",
    ),
    counter(
        "kafka_backup_savepoints_written_total",
        Unit::Count,
        PIPELINE,
        "savepoints that this agent has written; none is where nothing has changed or another agent was first",
    ),
    counter(
        "kafka_backup_savepoint_failures_total",
        Unit::Count,
        PIPELINE,
        "tries that came to nothing (cluster or store away); the next slot tries again",
    ),
    gauge(
        "kafka_backup_verify_last_success_timestamp_seconds",
        Unit::Seconds,
        PIPELINE,
        "when the last check ended that found the whole backup sound (`[pipeline.verify]`), in seconds since the \
         epoch; `NaN` before the first since the start",
    ),
    gauge(
        "kafka_backup_verify_last_run_timestamp_seconds",
        Unit::Seconds,
        PIPELINE,
        "when the last check ended, whatever it found; `NaN` before the first",
    ),
    gauge("kafka_backup_verify_duration_seconds", Unit::Seconds, PIPELINE, "time that it took"),
    gauge(
        "kafka_backup_verify_findings",
        Unit::Count,
        &["pipeline", "what"],
        "what it found that harms, by kind, as `verify` names it: `damaged log`, `hole`, `unchecked`, …",
    ),
    gauge("kafka_backup_group_partitions", Unit::Count, GROUP, "partitions that this member of the consumer group has"),
    gauge(
        "kafka_backup_group_fetches",
        Unit::Count,
        GROUP,
        "Fetch requests of the membership's own client; always 0, since it is there for membership alone",
    ),
    counter(
        "kafka_backup_group_statistics_total",
        Unit::Count,
        GROUP,
        "reports that the 0 of `kafka_backup_group_fetches` rests on",
    ),
    counter("kafka_backup_fetched_bytes_total", Unit::Bytes, &[], "bytes of Fetch answers, with what was read twice"),
    counter("kafka_backup_fetches_total", Unit::Count, &[], "Fetch answers"),
    counter(
        "kafka_backup_throttle_seconds_total",
        Unit::Seconds,
        &[],
        "time for which brokers have asked us to wait (quotas); it is waited",
    ),
    seconds(
        "kafka_backup_kafka_request_duration_seconds",
        FEW_SECONDS,
        &["api"],
        "time from sending a request to the first bytes of its answer, by Kafka's name of its kind; a Fetch waits \
         for data for up to `fetch.wait.max.ms`",
    ),
    seconds(
        "kafka_backup_store_operation_duration_seconds",
        FEW_SECONDS,
        &["operation"],
        "time that an operation on the archive's store took, with the tries within it: `list`, `exists`, `read`, \
         `create` (the end of an upload, with which the object appears), `sync`, `delete`",
    ),
    counter(
        "kafka_backup_store_failures_total",
        Unit::Count,
        &["operation"],
        "operations on the archive's store that failed; `upload` is the part of an upload before its end",
    ),
    gauge("kafka_backup_build_info", Unit::Count, &["version"], "always 1"),
    gauge(
        "kafka_backup_command_success",
        Unit::Count,
        COMMAND,
        "1 when the command that wrote this file (`--metrics-file`) did all that it was to do, else 0",
    ),
    gauge("kafka_backup_command_exit_code", Unit::Count, COMMAND, "its exit code"),
    gauge("kafka_backup_command_duration_seconds", Unit::Seconds, COMMAND, "time that it took"),
    gauge(
        "kafka_backup_command_end_timestamp_seconds",
        Unit::Seconds,
        COMMAND,
        "when it ended, in seconds since the epoch",
    ),
];

impl Metric {
    /// Returns the word for its type, as Prometheus has it.
    pub fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Returns the table of the page on metrics.
    fn to_markdown() -> String {
        let mut page = "| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n".to_owned();
        for metric in METRICS {
            let unit = match metric.unit {
                Unit::Seconds => "seconds",
                Unit::Bytes => "bytes",
                Unit::Count => "",
            };
            let (name, kind, labels) = (metric.name, metric.type_name(), metric.labels.join(", "));
            page += &format!("| `{name}` | {kind} | {unit} | {labels} | {} |\n", metric.meaning);
        }
        page
    }

    /// Adds the names of metrics in the Rust files of `folder` to `names`.
    fn names_in(folder: &Path, names: &mut BTreeSet<String>) {
        let pattern = regex::Regex::new("\"(kafka_backup_[a-z_]+)\"").expect("a pattern");
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                names_in(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("metrics/table.rs")
            {
                let text = std::fs::read_to_string(&path).expect("readable");
                names.extend(pattern.captures_iter(&text).map(|found| found[1].to_owned()));
            }
        }
    }

    #[test]
    fn every_metric_of_the_code_is_in_the_table_and_nothing_else() {
        let mut names = BTreeSet::new();
        names_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("agent"), &mut names);
        let known: BTreeSet<_> = METRICS.iter().map(|metric| metric.name.to_owned()).collect();
        assert_eq!(known.len(), METRICS.len(), "a name stands for one metric");
        assert_eq!(names, known);
    }

    #[test]
    fn names_tell_unit_and_type_as_prometheus_wants_it() {
        for Metric { name, kind, unit, labels, .. } in METRICS {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(name.contains("_seconds"), *unit == Unit::Seconds, "{name}");
            assert_eq!(name.contains("_bytes"), *unit == Unit::Bytes, "{name}");
            // What anybody may send would make series without bound.
            let bounded = [
                "pipeline",
                "topic",
                "partition",
                "group",
                "stage",
                "plugin",
                "policy",
                "what",
                "version",
                "api",
                "operation",
                "command",
            ];
            assert!(labels.iter().all(|label| bounded.contains(label)), "{name}");
        }
    }

    /// `WRITE_DOCS=1` writes the page's table anew.
    #[test]
    fn the_page_has_the_table_as_it_is() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        let page = std::fs::read_to_string(&path).expect("the page");
        let begin = page.find("| metric |").expect("a table");
        let end = begin + page[begin..].find("\n\n").expect("text behind it") + 1;
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(&path, format!("{}{}{}", &page[..begin], to_markdown(), &page[end..])).expect("writable");
            return;
        }
        assert_eq!(&page[begin..end], to_markdown(), "write it with WRITE_DOCS=1 cargo test --lib table");
    }
}
