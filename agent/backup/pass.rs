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
    has_read: bool,
    records: u64,
    bytes: u64,
    segments: u64,
}

/// A partition's way through the pass, in offsets.
#[derive(Default)]
struct Way {
    first: Option<Offset>,
    /// The farthest that was read: what is read again is no step back.
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
            has_read: false,
            records: 0,
            bytes: 0,
            segments: 0,
        }
    }

    /// A partition was opened at `next`.
    pub(super) fn opened(&mut self, partition: &Partition, next: Option<Offset>) {
        let way = self.partitions.entry(partition.clone()).or_default();
        way.first = way.first.or(next);
        way.reached = way.reached.max(next);
    }

    /// A partition ends at `end`; what it gets afterwards is left to the next pass.
    pub(super) fn observed(&mut self, partition: &Partition, end: Offset) {
        self.partitions.entry(partition.clone()).or_default().end.get_or_insert(end);
    }

    /// A batch was read.
    pub(super) fn received(&mut self, partition: &Partition, range: OffsetRange) {
        self.has_read = true;
        let way = self.partitions.entry(partition.clone()).or_default();
        way.first.get_or_insert(range.first);
        way.reached = way.reached.max(Some(range.next));
    }

    /// A segment is durable.
    pub(super) fn durable(&mut self, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
        self.segments += 1;
    }

    /// Shows how far it is.
    pub(super) fn tick(&mut self) {
        if let Some(bar) = &self.bar {
            if let Some((done, all)) = self.offsets() {
                bar.set_length(all);
                bar.set_position(done);
            }
            bar.set_message(self.status());
        } else if Instant::now() >= self.line_at {
            self.line_at = Instant::now() + LINE_EVERY;
            logging::say(&format!("{}: {}", self.pipeline, self.status()));
        }
    }

    /// Ends the pass and says what became of it; of one that failed or never began, only what it left. Returns whether
    /// anything was read.
    pub(super) fn finish(self, done: bool) -> bool {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let began = done && !self.partitions.is_empty();
        if !began && self.segments == 0 {
            return self.has_read;
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let partitions = self.partitions.len();
        let s = if partitions == 1 { "" } else { "s" };
        logging::say(&format!(
            "{}: {} from {partitions} partition{s} in {seconds:.1} s",
            self.pipeline,
            self.written()
        ));
        self.has_read
    }

    fn status(&self) -> String {
        match self.offsets() {
            None => "waiting for the cluster".to_owned(),
            Some((done, all)) => {
                let percent = (done * 100).checked_div(all).unwrap_or(100);
                format!("{percent} % read, {}", self.written())
            }
        }
    }

    fn written(&self) -> String {
        let s = if self.segments == 1 { "" } else { "s" };
        let (records, bytes, segments) = (HumanCount(self.records), HumanBytes(self.bytes), self.segments);
        format!("{records} records ({bytes}) archived in {segments} segment{s}")
    }

    /// Returns the offsets read and those to be read; `None` before any partition's are known.
    fn offsets(&self) -> Option<(u64, u64)> {
        let mut sum = None;
        for way in self.partitions.values() {
            let (Some(first), Some(end)) = (way.first, way.end) else { continue };
            let all = (end - first).max(0).cast_unsigned();
            let done = (way.reached.unwrap_or(first) - first).max(0).cast_unsigned().min(all);
            let (done_before, all_before) = sum.unwrap_or((0, 0));
            sum = Some((done_before + done, all_before + all));
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
    let template = format!("{{prefix}} [{{bar:30{colour}}}] {{msg}}, {{elapsed}}");
    let style = ProgressStyle::with_template(&template).expect("the template is ours").progress_chars("=> ");
    bar.set_style(style);
    bar.set_prefix(pipeline.to_owned());
    Some(logging::BARS.add(bar))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicId;

    fn partition(index: i32) -> Partition {
        Partition { topic: "t".into(), topic_id: TopicId::NONE, index }
    }

    #[test]
    fn a_pass_is_done_when_every_partition_has_reached_the_end_first_seen() {
        let mut pass = Pass::new("p");
        pass.opened(&partition(0), Some(100));
        pass.observed(&partition(0), 300);
        pass.observed(&partition(0), 900);
        pass.opened(&partition(1), None);
        pass.observed(&partition(1), 50);
        assert_eq!(pass.offsets(), Some((0, 200)));
        pass.received(&partition(0), OffsetRange { first: 100, next: 250 });
        pass.received(&partition(1), OffsetRange { first: 40, next: 60 });
        assert_eq!(pass.offsets(), Some((160, 210)));
        pass.durable(7, 1 << 20);
        assert_eq!(pass.status(), "76 % read, 7 records (1.00 MiB) archived in 1 segment");
    }

    #[test]
    fn a_pass_waits_for_the_cluster_until_it_knows_an_end() {
        let mut pass = Pass::new("p");
        assert_eq!(pass.status(), "waiting for the cluster");
        pass.opened(&partition(0), Some(100));
        assert_eq!(pass.status(), "waiting for the cluster");
        pass.observed(&partition(0), 100);
        assert!(pass.status().starts_with("100 % read"), "{}", pass.status());
        assert!(!pass.finish(false), "nothing was read");
    }

    #[test]
    fn what_is_read_again_is_no_step_back() {
        let mut pass = Pass::new("p");
        pass.opened(&partition(0), Some(0));
        pass.observed(&partition(0), 100);
        pass.received(&partition(0), OffsetRange { first: 0, next: 80 });
        pass.opened(&partition(0), Some(0));
        pass.received(&partition(0), OffsetRange { first: 0, next: 10 });
        assert_eq!(pass.offsets(), Some((80, 100)));
        assert!(pass.finish(false));
    }
}
