//! How far one pass is: a bar on a terminal, a line now and then elsewhere, and the sum at the end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::record::{Offset, OffsetRange, Partition};
use crate::telemetry::logging;

/// How often a line is written where there is no terminal: often enough to see that it lives, seldom enough for a log.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress of one pass of one pipeline.
pub(super) struct Pass {
    pipeline: String,
    bar: Option<ProgressBar>,
    began: Instant,
    line_at: Instant,
    partitions: HashMap<Partition, Way>,
    records: u64,
    bytes: u64,
    segments: u64,
}

/// A partition's way through the pass, in offsets.
#[derive(Default)]
struct Way {
    first: Option<Offset>,
    reached: Option<Offset>,
    /// The last stable offset when it was first seen.
    end: Option<Offset>,
}

impl Pass {
    /// Begins the pass of the pipeline of that name.
    pub(super) fn new(pipeline: &str) -> Self {
        let began = Instant::now();
        Self {
            pipeline: pipeline.to_owned(),
            bar: bar(pipeline),
            began,
            line_at: began + LINE_EVERY,
            partitions: HashMap::new(),
            records: 0,
            bytes: 0,
            segments: 0,
        }
    }

    /// A partition was opened at `next`.
    pub(super) fn opened(&mut self, partition: &Partition, next: Option<Offset>) {
        let way = self.partitions.entry(partition.clone()).or_default();
        way.first = way.first.or(next);
        way.reached = next.or(way.reached);
    }

    /// A partition ends at `end`; what it gets afterwards is left to the next pass.
    pub(super) fn observed(&mut self, partition: &Partition, end: Offset) {
        self.partitions.entry(partition.clone()).or_default().end.get_or_insert(end);
    }

    /// A batch was read.
    pub(super) fn received(&mut self, partition: &Partition, range: OffsetRange) {
        let way = self.partitions.entry(partition.clone()).or_default();
        way.first.get_or_insert(range.first);
        way.reached = Some(range.next);
    }

    /// A segment is durable.
    pub(super) fn durable(&mut self, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
        self.segments += 1;
    }

    /// Shows how far it is.
    pub(super) fn tick(&mut self) {
        let (done, all) = self.offsets();
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(done);
            bar.set_message(HumanBytes(self.bytes).to_string());
        } else if Instant::now() >= self.line_at {
            self.line_at = Instant::now() + LINE_EVERY;
            let percent = (done * 100).checked_div(all).unwrap_or(100);
            logging::say(&format!("{}: {percent} % read, {}", self.pipeline, self.written()));
        }
    }

    /// Ends the pass and says what became of it; of one that failed, only what it left.
    pub(super) fn finish(self, done: bool) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if !done && self.segments == 0 {
            return;
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let partitions = self.partitions.len();
        let s = if partitions == 1 { "" } else { "s" };
        logging::say(&format!(
            "{}: {} from {partitions} partition{s} in {seconds:.1} s",
            self.pipeline,
            self.written()
        ));
    }

    fn written(&self) -> String {
        let s = if self.segments == 1 { "" } else { "s" };
        let (records, bytes, segments) = (HumanCount(self.records), HumanBytes(self.bytes), self.segments);
        format!("{records} records ({bytes}) archived in {segments} segment{s}")
    }

    /// Returns the offsets read and those to be read.
    fn offsets(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        for way in self.partitions.values() {
            let (Some(first), Some(end)) = (way.first, way.end) else { continue };
            let all = (end - first).max(0).cast_unsigned();
            sum.0 += (way.reached.unwrap_or(first) - first).max(0).cast_unsigned().min(all);
            sum.1 += all;
        }
        sum
    }
}

/// Makes a bar on stderr if that is a terminal.
fn bar(pipeline: &str) -> Option<ProgressBar> {
    if !std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        return None;
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    let colour = if logging::colour() { ".cyan" } else { "" };
    let template = format!("{{prefix}} [{{bar:30{colour}}}] {{percent}} % of offsets, {{msg}} archived, {{elapsed}}");
    let style = ProgressStyle::with_template(&template).expect("the template is ours").progress_chars("=> ");
    bar.set_style(style);
    bar.set_prefix(pipeline.to_owned());
    Some(logging::BARS.add(bar))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicId;

    #[test]
    fn a_pass_is_done_when_every_partition_has_reached_the_end_first_seen() {
        let partition = |index| Partition { topic: "t".into(), topic_id: TopicId::NONE, index };
        let mut pass = Pass::new("p");
        pass.opened(&partition(0), Some(100));
        pass.observed(&partition(0), 300);
        pass.observed(&partition(0), 900);
        pass.opened(&partition(1), None);
        pass.observed(&partition(1), 50);
        assert_eq!(pass.offsets(), (0, 200));
        pass.received(&partition(0), OffsetRange { first: 100, next: 250 });
        pass.received(&partition(1), OffsetRange { first: 40, next: 60 });
        assert_eq!(pass.offsets(), (160, 210));
        pass.durable(7, 1 << 20);
        assert_eq!(pass.written(), "7 records (1.00 MiB) archived in 1 segment");
    }
}
