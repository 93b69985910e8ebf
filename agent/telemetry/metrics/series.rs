//! The series of this process: where what is recorded goes to, and the page that `/metrics` and a command's file have of it.
//!
//! A series is dropped when what it is about is gone for good ([`forget_pipeline`](Series::forget_pipeline)): whoever makes and
//! removes connectors, or topics, must not make the page, and the memory of whoever scrapes it, grow without bound. Who still
//! has a handle to one that was dropped records into nothing. To record is an atomic operation; to look a handle up is a lock
//! that others look up under, too. Nothing here is durable.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{
    Counter, Gauge, GaugeFn as _, Histogram, HistogramFn, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::formatting;

use super::table::{Kind, METRICS, Metric};

type Cells<C> = RwLock<HashMap<Key, Arc<C>>>;

/// All series. Clones share them.
#[derive(Clone, Default)]
pub struct Series(Arc<Shared>);

#[derive(Default)]
struct Shared {
    counters: Cells<AtomicU64>,
    /// The bits of numbers.
    gauges: Cells<AtomicU64>,
    histograms: Cells<Counts>,
}

/// How many values there were up to each bound, and their sum.
struct Counts {
    bounds: &'static [f64],
    /// Of those above one bound and not above the next; the last one's are above all.
    each: Vec<AtomicU64>,
    /// The bits of a number.
    sum: AtomicU64,
}

impl Series {
    /// Drops all series of a pipeline that is gone.
    pub fn forget_pipeline(&self, pipeline: &str) {
        self.retain(|key| label(key, "pipeline") != Some(pipeline));
    }

    /// Drops all series of a topic that a pipeline has no more.
    pub fn forget_topic(&self, pipeline: &str, topic: &str) {
        self.retain(|key| label(key, "pipeline") != Some(pipeline) || label(key, "topic") != Some(topic));
    }

    fn retain(&self, is_kept: impl Fn(&Key) -> bool) {
        let Shared { counters, gauges, histograms } = &*self.0;
        for numbers in [counters, gauges] {
            numbers.write().unwrap_or_else(PoisonError::into_inner).retain(|key, _| is_kept(key));
        }
        histograms.write().unwrap_or_else(PoisonError::into_inner).retain(|key, _| is_kept(key));
    }

    /// Writes everything in Prometheus's text format, in the order of the table.
    pub fn render(&self) -> String {
        let Shared { counters, gauges, histograms } = &*self.0;
        let (counters, gauges, histograms) = (by_name(counters), by_name(gauges), by_name(histograms));
        let mut page = String::new();
        for metric in METRICS {
            let name = metric.name;
            match metric.kind {
                Kind::Counter => write_family(&mut page, metric, &counters, |page, labels, counter| {
                    write_line(page, (name, ""), labels, None, counter.load(Ordering::Relaxed));
                }),
                Kind::Gauge => write_family(&mut page, metric, &gauges, |page, labels, gauge| {
                    write_line(page, (name, ""), labels, None, value_of(gauge));
                }),
                Kind::Histogram(_) => write_family(&mut page, metric, &histograms, |page, labels, counts| {
                    counts.write(page, name, labels);
                }),
            }
        }
        page
    }
}

impl std::fmt::Debug for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Series").finish_non_exhaustive()
    }
}

/// What each means stands in the table, which writes it.
impl Recorder for Series {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(cell(&self.0.counters, key, AtomicU64::default))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(cell(&self.0.gauges, key, AtomicU64::default))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(cell(&self.0.histograms, key, || Counts::new(bounds(key.name()))))
    }
}

/// Returns the cell of a series, which is made where there is none.
fn cell<C>(cells: &Cells<C>, key: &Key, make: impl FnOnce() -> C) -> Arc<C> {
    if let Some(cell) = cells.read().unwrap_or_else(PoisonError::into_inner).get(key) {
        return cell.clone();
    }
    let mut cells = cells.write().unwrap_or_else(PoisonError::into_inner);
    cells.entry(key.clone()).or_insert_with(|| Arc::new(make())).clone()
}

fn bounds(name: &str) -> &'static [f64] {
    let known = METRICS.iter().find(|metric| metric.name == name);
    match known.map(|metric| metric.kind) {
        Some(Kind::Histogram(bounds)) => bounds,
        _ => &[],
    }
}

fn label<'a>(key: &'a Key, name: &str) -> Option<&'a str> {
    key.labels().find(|label| label.key() == name).map(Label::value)
}

/// Series by the name of their metric, then by their labels.
type Families<C> = HashMap<String, BTreeMap<String, Arc<C>>>;

fn by_name<C>(cells: &Cells<C>) -> Families<C> {
    let mut families = Families::new();
    for (key, cell) in cells.read().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = families.entry(key.name().to_owned()).or_default().insert(labels_of(key), cell.clone());
    }
    families
}

/// Writes all series of a metric, if there are any.
fn write_family<C>(page: &mut String, metric: &Metric, families: &Families<C>, write: impl Fn(&mut String, &str, &C)) {
    let Some(series) = families.get(metric.name) else { return };
    formatting::write_help_line(page, metric.name, None, None, metric.meaning);
    formatting::write_type_line(page, metric.name, None, None, metric.type_name());
    for (labels, cell) in series {
        write(page, labels, cell);
    }
    page.push('\n');
}

/// Writes one line; `besides` is a label that the series itself has not.
fn write_line(
    page: &mut String,
    (name, suffix): (&str, &str),
    labels: &str,
    besides: Option<&str>,
    value: impl std::fmt::Display,
) {
    let comma = if labels.is_empty() || besides.is_none() { "" } else { "," };
    let _ = match (labels, besides.unwrap_or_default()) {
        ("", "") => writeln!(page, "{name}{suffix} {value}"),
        (labels, besides) => writeln!(page, "{name}{suffix}{{{labels}{comma}{besides}}} {value}"),
    };
}

fn value_of(gauge: &AtomicU64) -> f64 {
    f64::from_bits(gauge.load(Ordering::Relaxed))
}

/// Writes labels as they stand between braces.
fn labels_of(key: &Key) -> String {
    let each = key.labels().map(|label| {
        let value = label.value().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{}=\"{value}\"", label.key())
    });
    each.collect::<Vec<_>>().join(",")
}

impl Counts {
    fn new(bounds: &'static [f64]) -> Self {
        let each = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, each, sum: AtomicU64::default() }
    }

    fn write(&self, page: &mut String, name: &str, labels: &str) {
        let mut count = 0;
        let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, each) in bounds.zip(&self.each) {
            count += each.load(Ordering::Relaxed);
            write_line(page, (name, "_bucket"), labels, Some(&format!("le=\"{bound}\"")), count);
        }
        write_line(page, (name, "_sum"), labels, None, value_of(&self.sum));
        // What is recorded meanwhile is in neither or in both: the last bucket is the count.
        write_line(page, (name, "_count"), labels, None, count);
    }
}

impl HistogramFn for Counts {
    fn record(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        let _ = self.each[at].fetch_add(1, Ordering::Relaxed);
        self.sum.increment(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(record: impl FnOnce()) -> Series {
        let series = Series::default();
        metrics::with_local_recorder(&series, record);
        series
    }

    #[test]
    fn a_page_is_prometheus_text_format_in_the_order_of_the_table() {
        let page = recorded(|| {
            metrics::gauge!("kafka_backup_build_info", "version" => "a\"b\\c\nd").set(1.0);
            metrics::counter!("kafka_backup_store_failures_total", "operation" => "read").increment(2);
            metrics::gauge!("kafka_backup_ready", "pipeline" => "q").set(0.5);
            metrics::gauge!("kafka_backup_ready", "pipeline" => "p").set(f64::NAN);
            let upload = metrics::histogram!("kafka_backup_upload_latency_seconds", "pipeline" => "p");
            [0.001, 0.0011, 0.5, 100.0].into_iter().for_each(|seconds| upload.record(seconds));
        })
        .render();
        let lines: Vec<_> = page.lines().filter(|line| !line.starts_with("# HELP") && !line.is_empty()).collect();
        let of = |begin: &str| lines.iter().filter(|line| line.starts_with(begin)).copied().collect::<Vec<_>>();
        assert_eq!(
            of("kafka_backup_ready"),
            [r#"kafka_backup_ready{pipeline="p"} NaN"#, r#"kafka_backup_ready{pipeline="q"} 0.5"#]
        );
        assert_eq!(lines[0], "# TYPE kafka_backup_upload_latency_seconds histogram");
        let buckets = of("kafka_backup_upload_latency_seconds");
        let begin = "kafka_backup_upload_latency_seconds_bucket{pipeline=\"p\",le=";
        for (bound, count) in [("0.001", 1), ("0.0025", 2), ("0.25", 2), ("0.5", 3), ("60", 3), ("+Inf", 4)] {
            assert!(buckets.contains(&&*format!("{begin}\"{bound}\"}} {count}")), "{bound}: {buckets:?}");
        }
        assert!(page.contains("kafka_backup_upload_latency_seconds_count{pipeline=\"p\"} 4\n"));
        assert!(page.contains("kafka_backup_upload_latency_seconds_sum{pipeline=\"p\"} 100.5021\n"));
        assert_eq!(lines[lines.len() - 1], r#"kafka_backup_build_info{version="a\"b\\c\nd"} 1"#);
        assert_eq!(
            of("kafka_backup_store_failures_total"),
            ["kafka_backup_store_failures_total{operation=\"read\"} 2"]
        );
    }

    #[test]
    fn what_comes_and_goes_leaves_no_series() {
        let series = Series::default();
        metrics::with_local_recorder(&series, || {
            for round in 0..60 {
                let (pipeline, topic) = (format!("made-{round}"), format!("t-{round}"));
                metrics::gauge!("kafka_backup_ready", "pipeline" => pipeline.clone()).set(1.0);
                metrics::histogram!("kafka_backup_upload_latency_seconds", "pipeline" => pipeline.clone()).record(1.0);
                let lag = |of: &str, topic: &str| {
                    metrics::gauge!(
                        "kafka_backup_lag_records", "pipeline" => of.to_owned(), "topic" => topic.to_owned(),
                        "partition" => "0"
                    )
                };
                let held = lag("stays", &topic);
                lag(&pipeline, "stays").set(1.0);
                lag("stays", "stays").set(1.0);
                series.forget_pipeline(&pipeline);
                series.forget_topic("stays", &topic);
                held.set(7.0);
            }
        });
        let page = series.render();
        let left: Vec<_> = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        assert_eq!(left, [r#"kafka_backup_lag_records{pipeline="stays",topic="stays",partition="0"} 1"#]);
    }
}
