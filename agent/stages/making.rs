//! What one stage makes of the rows of a batch: bounded, and with where it sends them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::onward::Targets;
use super::spread::Spread;
use crate::batch::records::rows::Rows;
use crate::error::Result;
use crate::plugin::columns::{Answer, Topics};
use crate::plugin::{Instance, Untaken};
use crate::record::Partition;
use crate::record::partitioner::partition_of;

/// The most bytes that a stage may make of one batch, beyond those that it was given.
const MOST_ADDED_BYTES: usize = 64 << 20;

/// Rows that a stage has made.
pub(super) struct Flow {
    pub(super) rows: Rows,
    pub(super) routes: Routes,
}

/// Where stages have sent rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Routes {
    /// What is spread by key once all stages have seen it.
    spread: Spread,
    topics: Vec<Arc<str>>,
    /// One for each row; none at all where no stage has sent any.
    of: Vec<Route>,
}

/// Where stages have sent one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Route {
    topic: Option<u32>,
    /// −1: left open.
    partition: i32,
}

impl Route {
    const OPEN: Self = Self { topic: None, partition: -1 };
}

impl Routes {
    /// Makes those of rows that no stage has sent anywhere.
    pub(super) fn new(spread: Spread) -> Self {
        Self { spread, ..Self::default() }
    }

    /// Chooses the partitions of rows of which no stage has, where they are spread by key; `source` is the number of their
    /// partition there.
    pub(super) fn spread(&mut self, rows: &Rows, targets: &Targets, source: i32) {
        let over: Vec<_> = self.topics.iter().map(|topic| self.spread.over(topic)).collect();
        let otherwise = self.spread.over(targets.topic());
        if otherwise.is_none() && over.iter().all(Option::is_none) {
            return;
        }
        self.of.resize(rows.len(), Route::OPEN);
        for (row, route) in rows.rows().iter().zip(&mut self.of).filter(|(_, route)| route.partition < 0) {
            let partitions = route.topic.map_or(otherwise, |topic| over[topic as usize]);
            if let Some(partitions) = partitions {
                let counter = row.offset.cast_unsigned().wrapping_add(u64::from(source.unsigned_abs()));
                route.partition = partition_of(rows.bytes(row.key), counter, partitions).cast_signed();
            }
        }
    }

    /// Returns whether no row was sent anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Returns where the row of that number was sent.
    pub(super) fn of(&self, row: usize) -> Route {
        self.of.get(row).copied().unwrap_or(Route::OPEN)
    }

    /// Returns the number of the target that a route leads to.
    pub(super) fn number(&self, route: Route, targets: &Targets) -> Result<usize, String> {
        let topic = route.topic.and_then(|topic| self.topics.get(topic as usize)).map(|topic| &**topic);
        let partition = (route.partition >= 0).then_some(route.partition);
        // What is still to be spread goes to any of them.
        let spread = || self.spread.over(topic.unwrap_or(targets.topic())).map(|_| 0);
        targets.number(topic, partition.or_else(spread))
    }

    /// Adds those of more rows, each made of a row of `sent` in `given`; `before` rows are there already.
    fn extend(&mut self, given: &Self, sent: Range<usize>, answer: &Answer, before: usize) {
        if given.is_empty() && self.is_empty() && answer.topics.is_none() && answer.partitions.is_none() {
            return;
        }
        self.of.resize(before, Route::OPEN);
        let names: Vec<u32> = answer.topics.iter().flat_map(Topics::names).map(|name| self.topic(name)).collect();
        for row in 0..answer.rows.len() {
            let source = answer.source.as_ref().map_or(row, |source| source[row] as usize);
            let mut route = given.of(sent.start + source);
            if let Some(name) = answer.topics.as_ref().and_then(|topics| topics.index_of(row)) {
                // The partition that an earlier stage chose is one of another topic.
                route = Route { topic: Some(names[name]), partition: -1 };
            }
            if let Some(partition) = answer.partitions.as_ref().map(|partitions| partitions[row])
                && partition >= 0
            {
                route.partition = partition;
            }
            self.of.push(route);
        }
    }

    fn topic(&mut self, name: &str) -> u32 {
        let known = self.topics.iter().position(|topic| **topic == *name);
        let at = known.unwrap_or_else(|| {
            self.topics.push(name.into());
            self.topics.len() - 1
        });
        at as u32
    }
}

/// What a stage makes of one batch, bounded.
struct Making<'a> {
    given: (&'a Rows, &'a Routes),
    /// Where rows can go, if this is where that is known.
    targets: Option<&'a Targets>,
    made: Flow,
    bytes: usize,
    most_bytes: usize,
}

impl<'a> Making<'a> {
    fn of(given: (&'a Rows, &'a Routes), targets: Option<&'a Targets>, most_added_bytes: usize) -> Self {
        let (rows, routes) = given;
        let bytes: usize = rows.rows().iter().map(|row| rows.size_bytes(row)).sum();
        // Topics keep their numbers.
        let routes = Routes { of: Vec::new(), topics: routes.topics.clone(), spread: routes.spread.clone() };
        let made = Flow { rows: rows.derive().finish(Vec::new()), routes };
        Self { given, targets, made, bytes: 0, most_bytes: bytes.saturating_add(most_added_bytes) }
    }

    /// Takes the answer to the rows of that range.
    fn take(&mut self, sent: Range<usize>, answer: Answer) -> Result<(), Untaken> {
        let bytes = self.bytes.saturating_add(answer.bytes);
        if bytes > self.most_bytes {
            return Err(Untaken::Wrong(format!("it makes more than {} bytes of one batch", self.most_bytes)));
        }
        let before = self.made.rows.len();
        self.made.routes.extend(self.given.1, sent, &answer, before);
        if let Err(why) = self.check(before, &answer.rows) {
            self.made.routes.of.truncate(before);
            return Err(Untaken::Wrong(why));
        }
        self.bytes = bytes;
        self.made.rows.append(answer.rows);
        Ok(())
    }

    /// Checks that there is a target for each row from that number on.
    fn check(&self, before: usize, rows: &Rows) -> Result<(), String> {
        let Some(targets) = self.targets.filter(|_| !self.made.routes.is_empty()) else { return Ok(()) };
        let mut known = HashSet::new();
        for (at, row) in rows.rows().iter().enumerate() {
            let route = self.made.routes.of(before + at);
            if known.insert(route)
                && let Err(nowhere) = self.made.routes.number(route, targets)
            {
                return Err(format!("it sends the record of offset {} to {nowhere}", row.offset));
            }
        }
        Ok(())
    }
}

/// Passes rows through one stage; all of them, or none. `targets` are those that rows can go to, where no later stage
/// sends them elsewhere.
pub(super) fn whole(
    instance: &mut Instance,
    partition: &Partition,
    given: (&Rows, &Routes),
    targets: Option<&Targets>,
) -> Result<Flow> {
    let mut making = Making::of(given, targets, MOST_ADDED_BYTES);
    instance.apply(partition, given.0, |sent, answer| making.take(sent, answer))?;
    Ok(making.made)
}

/// Passes rows through one stage; `skipped` is told how many were left out because the plugin failed at them.
pub(super) fn skipping(
    instance: &mut Instance,
    partition: &Partition,
    given: (&Rows, &Routes),
    targets: Option<&Targets>,
    skipped: impl FnMut(u32),
) -> Result<Flow> {
    bounded(instance, partition, Making::of(given, targets, MOST_ADDED_BYTES), skipped)
}

fn bounded(
    instance: &mut Instance,
    partition: &Partition,
    mut making: Making<'_>,
    mut skipped: impl FnMut(u32),
) -> Result<Flow> {
    let (mut count, mut first) = (0, None);
    let (given, _) = making.given;
    instance.apply_past_failures(
        partition,
        given,
        |sent, answer| making.take(sent, answer),
        |range, error| {
            count += range.len();
            first.get_or_insert(error);
        },
    )?;
    if let Some(error) = first {
        tracing::warn!(records = count, "{error}; left out what it failed at");
        skipped(count as u32);
    }
    Ok(making.made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::records::Record;
    use crate::plugin::{Limits, Plugin};
    use crate::record::{Timestamp, TopicId};

    fn instance(plugin: &str, settings: &[(&str, &str)]) -> Instance {
        let settings: Vec<_> = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Plugin::find(plugin).and_then(|plugin| plugin.start(&settings, Limits::default())).expect("it starts")
    }

    fn partition() -> Partition {
        Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 }
    }

    fn rows(offsets: Range<i64>) -> Rows {
        let record = |offset| Record { offset, timestamp: Timestamp(0), key: None, value: None, headers: Vec::new() };
        Rows::from_records(&offsets.map(record).collect::<Vec<_>>()).expect("small")
    }

    #[test]
    fn only_what_is_too_much_of_a_batch_is_skipped() {
        let (given, routes) = (rows(0..100), Routes::default());
        let text = "x".repeat(990);
        let off = [("offset", "false"), ("timestamp", "false"), ("partition", "false"), ("headers.name", &text)];
        let mut instance = instance("header-injector", &off);
        let (mut skipped, making) = (0, Making::of((&given, &routes), None, 40_500));
        let made = bounded(&mut instance, &partition(), making, |records| skipped += records).expect("it lives");
        assert_eq!((made.rows.len(), skipped), (40, 60), "a record is a thousand bytes with its header");
        assert!(made.rows.rows().iter().map(|row| row.offset).eq(0..40));
    }

    #[test]
    fn what_is_too_much_of_a_batch_names_who_made_it_and_of_what() {
        let (given, routes) = (rows(7..9), Routes::default());
        let mut making = Making::of((&given, &routes), None, 10);
        let mut instance = instance("header-injector", &[]);
        let taken = |sent, answer| making.take(sent, answer);
        let said = instance.apply(&partition(), &given, taken).expect_err("too much");
        let wanted = "plugin `header-injector` (header-injector.wasm) failed at orders-3 offsets [7, 9): \
                      it makes more than 10 bytes of one batch";
        assert_eq!(said.to_string(), wanted);
    }

    #[test]
    fn a_later_stage_leaves_a_row_where_an_earlier_one_sent_it_unless_it_sends_it_itself() {
        let target = |topic: &str, index| Partition { topic: topic.into(), topic_id: TopicId::NONE, index };
        let all = [target("kept", 5), target("eu", 3), target("audit", 3)];
        let targets = Targets::new(3, &all);
        let mut copying = instance("restore-fanout", &[("by", "topic"), ("to.orders", "eu")]);
        let once = whole(&mut copying, &partition(), (&rows(7..9), &Routes::default()), None).expect("sent");
        let numbers = |flow: &Flow| -> Vec<_> {
            let number = |row| flow.routes.number(flow.routes.of(row), &targets).expect("a target");
            (0..flow.rows.len()).map(number).collect()
        };
        assert_eq!(numbers(&once), [0, 1, 0, 1], "the one that is not sent goes to the pipeline's partition");
        let mut auditing = instance("restore-fanout", &[("by", "topic"), ("to.orders", "audit")]);
        let twice = whole(&mut auditing, &partition(), (&once.rows, &once.routes), Some(&targets)).expect("sent");
        assert_eq!(numbers(&twice), [0, 2, 1, 2, 0, 2, 1, 2]);
        let mut keeping = instance("pitr-filter", &[("until", "1000")]);
        let kept = whole(&mut keeping, &partition(), (&twice.rows, &twice.routes), Some(&targets)).expect("kept");
        assert_eq!(numbers(&kept), numbers(&twice));
        let faults = format!("{}/plugins/faults/faults.wasm", env!("CARGO_MANIFEST_DIR"));
        let mut choosing = instance(&faults, &[("partition", "7")]);
        let all = [target("kept", 5), target("eu", 3), target("kept", 7)];
        let targets = Targets::new(3, &all);
        let numbers = |flow: &Flow| -> Vec<_> {
            let number = |row| flow.routes.number(flow.routes.of(row), &targets).expect("a target");
            (0..flow.rows.len()).map(number).collect()
        };
        let chosen = whole(&mut choosing, &partition(), (&rows(7..9), &Routes::default()), None).expect("chosen");
        assert_eq!(numbers(&chosen), [2, 2]);
        let both = whole(&mut copying, &partition(), (&chosen.rows, &chosen.routes), Some(&targets)).expect("sent");
        assert_eq!(numbers(&both), [2, 1, 2, 1], "a topic without a partition leaves the choice to the pipeline");
    }

    #[test]
    fn a_partition_that_the_target_does_not_have_is_named() {
        let target = |topic: &str, index| Partition { topic: topic.into(), topic_id: TopicId::NONE, index };
        let all = [target("orders", 3), target("eu", 0)];
        let targets = Targets::new(3, &all);
        let mut sending = instance("restore-fanout", &[("by", "topic"), ("to.orders", "eu")]);
        let (given, routes) = (rows(7..9), Routes::default());
        let said = whole(&mut sending, &partition(), (&given, &routes), Some(&targets));
        let said = said.err().expect("nowhere").to_string();
        let wanted = "plugin `restore-fanout` (restore-fanout.wasm) failed at orders-3 offsets [7, 9): it sends the record \
                      of offset 7 to `eu-3`, a partition that the target does not have";
        assert_eq!(said, wanted);
    }
}
