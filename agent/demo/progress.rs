//! How far the demo is: two bars on a terminal, a line every other second elsewhere; and when it is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;

use super::cluster::Tally;
use crate::pipeline::{Batch, Log, Observer, Topic};
use crate::record::{Offset, OffsetRange, Partition};
use crate::telemetry::logging;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The observer of the demo's pipeline; it stops the pipeline when everything written has been read.
pub(super) struct Progress {
    tally: Arc<Tally>,
    stop: watch::Sender<bool>,
    began: Instant,
    line_at: Instant,
    bars: Option<[ProgressBar; 2]>,
    partitions: HashMap<Partition, Ends>,
    bytes: u64,
    segments: u64,
    complete: bool,
}

/// How far one partition is; all logs of the demo begin at 0.
#[derive(Default)]
struct Ends {
    read: Offset,
    durable: Offset,
}

impl Progress {
    /// Begins to watch; `stop` is turned true when the demo is over.
    pub(super) fn new(records: u64, tally: Arc<Tally>, stop: watch::Sender<bool>) -> Self {
        let began = Instant::now();
        let line_at = began + LINE_EVERY;
        let (partitions, bytes, segments) = (HashMap::new(), 0, 0);
        Self { tally, stop, began, line_at, bars: bars(records), partitions, bytes, segments, complete: false }
    }

    /// Says how it ended; returns whether everything that was to be written was archived.
    pub(super) fn finish(mut self) -> bool {
        self.show();
        for bar in self.bars.take().iter().flatten() {
            bar.finish_and_clear();
        }
        logging::say(&self.line());
        self.complete && self.durable() >= self.tally.written.load(Ordering::Relaxed)
    }

    fn read(&self) -> u64 {
        self.partitions.values().map(|ends| ends.read.unsigned_abs()).sum()
    }

    fn durable(&self) -> u64 {
        self.partitions.values().map(|ends| ends.durable.unsigned_abs()).sum()
    }

    fn line(&self) -> String {
        let written = HumanCount(self.tally.written.load(Ordering::Relaxed));
        let (durable, bytes) = (HumanCount(self.durable()), HumanBytes(self.bytes));
        format!(
            "{:4.1} s: {written} records written to Kafka, {durable} durable in the archive ({bytes} in {} segments)",
            self.began.elapsed().as_secs_f64(),
            self.segments
        )
    }

    fn show(&self) {
        let Some([kafka, archive]) = &self.bars else { return };
        kafka.set_position(self.tally.written.load(Ordering::Relaxed));
        archive.set_position(self.durable());
        archive.set_message(format!("{} in {} segments", HumanBytes(self.bytes), self.segments));
    }

    fn end_when_complete(&mut self) {
        let complete = self.tally.complete.load(Ordering::Acquire);
        if !self.complete && complete && self.read() >= self.tally.written.load(Ordering::Relaxed) {
            self.complete = true;
            self.stop.send_replace(true);
        }
    }
}

impl Observer for Progress {
    fn received(&mut self, batch: &Batch) {
        self.partitions.entry(batch.partition().clone()).or_default().read = batch.range.next;
        self.tally.read.store(self.read(), Ordering::Relaxed);
        self.end_when_complete();
    }

    fn topic(&mut self, _: &Topic) {}
    fn observed(&mut self, _: &Partition, _: &Log) {}
    fn diverged(&mut self, _: &Partition, _: Offset) {}

    fn opened(&mut self, _: &Partition, _: Option<Offset>) {}

    fn dropped(&mut self, _: &Partition, _: OffsetRange) {}

    fn closed(&mut self, _: &Partition) {}

    fn durable(&mut self, partition: &Partition, next: Offset, _records: u64, bytes: u64, _took: Duration) {
        self.partitions.entry(partition.clone()).or_default().durable = next;
        self.bytes += bytes;
        self.segments += 1;
        self.show();
    }

    fn trouble(&mut self, subject: &str, reason: Option<&str>) {
        if let Some(reason) = reason {
            logging::say(&format!("{subject}: {reason}"));
        }
    }

    fn tick(&mut self) {
        self.end_when_complete();
        self.show();
        if self.bars.is_none() && Instant::now() >= self.line_at {
            self.line_at += LINE_EVERY;
            logging::say(&self.line());
        }
    }
}

/// Makes a bar for what is in Kafka and one for what is in the archive, if stderr is a terminal.
fn bars(records: u64) -> Option<[ProgressBar; 2]> {
    if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        return None;
    }
    let bar = |name: &'static str, colour: &str| {
        let colour = if logging::colour() { colour } else { "" };
        let template = format!("{{prefix:18}} [{{bar:40{colour}}}] {{human_pos:>9}} records  {{msg}}");
        let style = ProgressStyle::with_template(&template).expect("the template is ours").progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(records), ProgressDrawTarget::hidden());
        bar.set_style(style);
        bar.set_prefix(name);
        logging::BARS.add(bar)
    };
    Some([bar("written to Kafka", ".yellow"), bar("in the archive", ".cyan")])
}
