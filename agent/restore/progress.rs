//! How far a restore is: a bar on a terminal with rate and time left, a line now and then elsewhere, and metrics.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::budget::Budget;
use crate::pipeline::{Batch, Log, Observer, Topic};
use crate::record::{Offset, OffsetRange, Partition};
use crate::telemetry::{Health, RestoreMetrics, logging};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress of one restore.
pub(super) struct Progress {
    name: String,
    health: Health,
    budget: Budget,
    metrics: RestoreMetrics,
    bar: Option<ProgressBar>,
    began: Instant,
    line_at: Instant,
    /// Records to be restored, at most.
    all: u64,
    records: u64,
    bytes: u64,
}

impl Progress {
    /// Begins that of a restore of up to `all` records.
    pub(super) fn new(name: &str, all: u64, budget: Budget, health: Health) -> Self {
        let began = Instant::now();
        let (bar, metrics) = (bar(name, all), RestoreMetrics::new(name, all, &budget));
        metrics.show(health.count(), &budget);
        let (name, line_at) = (name.to_owned(), began + LINE_EVERY);
        Self { name, health, budget, metrics, bar, began, line_at, all, records: 0, bytes: 0 }
    }

    /// Ends it.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn status(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        let rate = self.records as f64 / seconds;
        let left = self.all.saturating_sub(self.records);
        let left = match rate {
            rate if rate > 0.0 => format!(", {} left", HumanDuration(Duration::from_secs_f64(left as f64 / rate))),
            _ => String::new(),
        };
        let (records, all, bytes) = (HumanCount(self.records), HumanCount(self.all), HumanBytes(self.bytes));
        format!("{records} of {all} records ({bytes}), {}/s{left}", HumanCount(rate as u64))
    }
}

impl Observer for Progress {
    fn received(&mut self, _: &Batch) {}
    fn topic(&mut self, _: &Topic) {}
    fn observed(&mut self, _: &Partition, _: &Log) {}
    fn diverged(&mut self, _: &Partition, _: Offset) {}
    fn opened(&mut self, _: &Partition, _: Option<Offset>) {}

    fn durable(&mut self, partition: &Partition, next: Offset, records: u64, bytes: u64, _: Duration) {
        self.metrics.restored(partition, next, records, bytes);
        self.records += records;
        self.bytes += bytes;
    }

    fn dropped(&mut self, _: &Partition, _: OffsetRange) {}
    fn closed(&mut self, _: &Partition) {}

    fn trouble(&mut self, subject: &str, reason: Option<&str>) {
        self.health.set(subject, reason.map(str::to_owned));
        self.metrics.show(self.health.count(), &self.budget);
        match reason {
            Some(reason) => tracing::warn!("{subject}: {reason}; trying again"),
            None => tracing::info!("{subject}: right again"),
        }
    }

    fn tick(&mut self) {
        self.metrics.show(self.health.count(), &self.budget);
        if let Some(bar) = &self.bar {
            bar.set_position(self.records.min(self.all));
            bar.set_message(self.status());
        } else if Instant::now() >= self.line_at {
            self.line_at = Instant::now() + LINE_EVERY;
            logging::say(&format!("{}: {}", self.name, self.status()));
        }
    }
}

/// Makes a bar on stderr if that is a terminal.
fn bar(name: &str, all: u64) -> Option<ProgressBar> {
    if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        return None;
    }
    let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::hidden());
    let colour = if logging::colour() { ".cyan" } else { "" };
    let template = format!("{{prefix}} [{{bar:30{colour}}}] {{msg}}");
    bar.set_style(ProgressStyle::with_template(&template).expect("the template is ours").progress_chars("=> "));
    bar.set_prefix(name.to_owned());
    Some(logging::BARS.add(bar))
}
