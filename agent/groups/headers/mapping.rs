//! The offset map that headers come to. Pure.
//!
//! Records come in the order of their target partition. One whose source offset is below that of another before it changes
//! nothing: whoever has not read it begins before it anyway, at the other one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Names, Scan, Scanned};
use crate::archive::source::summary::{Summarised, Summary};
use crate::error::Result;
use crate::record::{Offset, OffsetRange, Partition, TopicId};
use crate::restore::map::{OffsetMap, Pair, Run};

/// What the archive holds, by topic: of each the newest timeline.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources(BTreeMap<Arc<str>, Topic>);

#[derive(Debug, Clone)]
struct Topic {
    topic_id: TopicId,
    partitions: BTreeMap<i32, Held>,
}

/// What the archive holds of a partition.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// What it covers.
    range: OffsetRange,
    /// The last record.
    last: Option<Offset>,
    /// Whether all of that could be read.
    is_sure: bool,
}

impl Held {
    fn of(summary: &Summary) -> Self {
        let newest = summary.newest.as_deref().unwrap_or(summary);
        let is_sure = summary.findings.is_empty() && newest.findings.is_empty();
        let range = newest.range.filter(|_| is_sure);
        let unknown = OffsetRange { first: 0, next: if is_sure { 0 } else { Offset::MAX } };
        Self { range: range.unwrap_or(unknown), last: newest.last_record, is_sure }
    }

    /// Returns the source offsets of which it is known where they are, when `found` is the last one that was found. Behind it,
    /// where the archive has records, it is not known.
    fn known(self, found: Option<Offset>) -> OffsetRange {
        let is_all = self.is_sure && self.last <= found;
        let next = if is_all { self.range.next } else { found.map_or(self.range.first, |found| found + 1) };
        OffsetRange { first: self.range.first, next }
    }
}

impl Sources {
    /// Takes what summaries tell.
    pub(super) fn of(summarised: &[Summarised]) -> Self {
        let mut topics = BTreeMap::new();
        for (timeline, places) in summarised.iter().filter(|(timeline, _)| timeline.is_newest) {
            let own = places.iter().filter(|(place, _)| place.fork.is_none());
            let partitions = own.map(|(place, summary)| (place.partition.index, Held::of(summary))).collect();
            let _ = topics.insert(timeline.topic.clone(), Topic { topic_id: timeline.topic_id, partitions });
        }
        Self(topics)
    }

    /// Returns which topic the records of a target's topic are of, where their headers do not tell.
    fn namesake(&self, target: &str) -> Option<&str> {
        let same = self.0.get_key_value(target);
        let only = || self.0.iter().next().filter(|_| self.0.len() == 1);
        same.or_else(only).map(|(name, _)| &**name)
    }

    fn partition(&self, topic: &str, index: i32) -> Option<(Partition, Held)> {
        let (name, topic) = self.0.get_key_value(topic)?;
        let held = topic.partitions.get(&index)?;
        Some((Partition { topic: name.clone(), topic_id: topic.topic_id, index }, *held))
    }
}

/// What the headers have told so far.
#[derive(Debug)]
pub(super) struct Mapping {
    sources: Sources,
    names: Names,
    /// As far as all that the archive covers had been asked for.
    map: OffsetMap,
    targets: BTreeMap<Partition, Target>,
    topics: BTreeMap<Arc<str>, Scanned>,
}

/// What was seen of a target partition.
#[derive(Debug)]
struct Target {
    /// Where its log began.
    first: Offset,
    /// The offset behind the last record that told its place.
    end: Option<Offset>,
    /// Records since then that did not.
    without: u64,
    /// Records that are not in the map yet.
    open: Option<Open>,
}

/// Records that follow each other, at the source and in the target.
#[derive(Debug)]
struct Open {
    pair: Pair,
    /// What the archive holds of their source.
    held: OffsetRange,
    run: Run,
}

impl Open {
    /// Returns whether a record is the next one; `topic` is the one that it tells, or is taken to be of.
    fn goes_on(&self, target: Offset, (topic, partition, source): (&str, i32, Offset)) -> bool {
        let Self { pair, held, run } = self;
        let place = (partition, source, target) == (pair.source.index, run.source_next(), run.target_next());
        place && held.contains(source) && *pair.source.topic == *topic
    }
}

/// What a record's headers say.
#[derive(Debug, PartialEq, Eq)]
enum Told<'a> {
    Nothing,
    Unreadable,
    Place { topic: Option<&'a str>, partition: i32, offset: Offset },
}

impl Mapping {
    pub(super) fn new(sources: Sources, names: Names) -> Self {
        Self { sources, names, map: OffsetMap::default(), targets: BTreeMap::new(), topics: BTreeMap::new() }
    }

    /// Begins with a target partition, whose log begins at `first`.
    pub(super) fn begin(&mut self, target: &Partition, first: Offset) {
        let begun = Target { first, end: None, without: 0, open: None };
        let _ = self.targets.entry(target.clone()).or_insert(begun);
        let _ = self.scanned(&target.topic);
    }

    /// Takes the record at `offset` of a target partition.
    ///
    /// # Errors
    /// Those of the map, for records that do not come in order.
    pub(super) fn see<'a>(
        &mut self,
        target: &Partition,
        offset: Offset,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<()> {
        let told = self.told(headers);
        let scanned = self.scanned(&target.topic);
        scanned.records += 1;
        let count = match told {
            Told::Nothing => &mut scanned.without,
            Told::Unreadable => &mut scanned.unreadable,
            Told::Place { topic, partition, offset: source } => {
                return self.place(target, offset, (topic, partition, source));
            }
        };
        *count += 1;
        if told == Told::Unreadable {
            let _ = scanned.example.get_or_insert((target.index, offset));
        }
        if let Some(target) = self.targets.get_mut(target) {
            target.without += 1;
        }
        Ok(())
    }

    fn place(
        &mut self,
        target: &Partition,
        offset: Offset,
        (topic, partition, source): (Option<&str>, i32, Offset),
    ) -> Result<()> {
        let Some(name) = topic.or_else(|| self.sources.namesake(&target.topic)) else {
            self.odd(target, offset, |scanned| &mut scanned.nameless);
            return Ok(());
        };
        // Most records follow the one before.
        if let Some(Target { end, without: 0, open: Some(open), .. }) = self.targets.get_mut(target)
            && open.goes_on(offset, (name, partition, source))
        {
            open.run.length += 1;
            *end = Some(offset + 1);
            self.scanned(&target.topic).placed += 1;
            return Ok(());
        }
        let held = self.sources.partition(name, partition).filter(|(_, held)| held.range.contains(source));
        let Some((of, held)) = held else {
            self.odd(target, offset, |scanned| &mut scanned.foreign);
            return Ok(());
        };
        self.flush(target)?;
        let pair = Pair { source: of, target: target.clone() };
        if self.map.get(&pair).is_none() {
            self.map.open(&pair, held.range, offset)?;
        }
        let is_again =
            self.map.get(&pair).and_then(|track| track.last_run()).is_some_and(|last| source < last.source_next());
        let Some(seen) = self.targets.get_mut(target) else { return Ok(()) };
        let among = if seen.end.is_some() { seen.without } else { 0 };
        (seen.without, seen.end) = (0, Some(offset + 1));
        seen.open = Some(Open { pair, held: held.range, run: Run { source, target: offset, length: 1 } });
        let scanned = self.scanned(&target.topic);
        scanned.placed += 1;
        scanned.among += among;
        scanned.again += u64::from(is_again);
        if is_again { self.flush(target) } else { Ok(()) }
    }

    /// Counts a record whose place is of no use, and keeps the first as an example.
    fn odd(&mut self, target: &Partition, offset: Offset, count: impl Fn(&mut Scanned) -> &mut u64) {
        let scanned = self.scanned(&target.topic);
        *count(scanned) += 1;
        let _ = scanned.example.get_or_insert((target.index, offset));
        if let Some(target) = self.targets.get_mut(target) {
            target.without += 1;
        }
    }

    /// Brings into the map what of a target partition is not there yet.
    fn flush(&mut self, target: &Partition) -> Result<()> {
        let open = self.targets.get_mut(target).and_then(|target| target.open.take());
        let Some(Open { pair, run, .. }) = open else { return Ok(()) };
        self.map.push(&pair, run.source, run.target, run.length)
    }

    fn scanned(&mut self, topic: &Arc<str>) -> &mut Scanned {
        let new = || Scanned { topic: topic.to_string(), ..Scanned::default() };
        self.topics.entry(topic.clone()).or_insert_with(new)
    }

    /// Reads what headers say; of several of one name the last counts, as for Kafka's own clients.
    fn told<'a>(&self, headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Told<'a> {
        let (mut topic, mut partition, mut offset) = (None, None, None);
        for (name, value) in headers {
            let told = [
                (&self.names.offset, &mut offset),
                (&self.names.partition, &mut partition),
                (&self.names.topic, &mut topic),
            ];
            for (own, told) in told {
                if own.as_bytes() == name {
                    *told = Some(value.and_then(|value| std::str::from_utf8(value).ok()));
                }
            }
        }
        match (offset, partition) {
            (None, None) => Told::Nothing,
            (Some(Some(offset)), Some(Some(partition))) if topic != Some(None) => {
                let numbers = offset.parse().ok().zip(partition.parse().ok());
                let place = |(offset, partition)| Told::Place { topic: topic.flatten(), partition, offset };
                numbers.map_or(Told::Unreadable, place)
            }
            _ => Told::Unreadable,
        }
    }

    /// Returns what was found, when all was seen.
    ///
    /// # Errors
    /// Those of the map.
    pub(super) fn finish(mut self) -> Result<Scan> {
        let targets: Vec<Partition> = self.targets.keys().cloned().collect();
        targets.iter().try_for_each(|target| self.flush(target))?;
        let mut found: BTreeMap<&Partition, Offset> = BTreeMap::new();
        for (pair, track) in self.map.iter() {
            if let Some(run) = track.last_run() {
                let last = found.entry(&pair.source).or_insert(0);
                *last = (*last).max(run.source_next() - 1);
            }
        }
        let mut map = OffsetMap::default();
        for (pair, track) in self.map.iter() {
            let held = self.sources.partition(&pair.source.topic, pair.source.index).map(|(_, held)| held);
            let asked = held.map_or(track.asked(), |held| held.known(found.get(&pair.source).copied()));
            map.open(pair, asked, track.target_first())?;
            for run in track.runs() {
                map.push(pair, run.source, run.target, run.length)?;
            }
            map.finish(pair, self.end(&pair.target).max(track.target_next()))?;
        }
        for pair in self.vacant() {
            let held = self.sources.partition(&pair.source.topic, pair.source.index);
            let Some((_, held)) = held.filter(|_| map.get(&pair).is_none()) else { continue };
            let end = self.end(&pair.target);
            map.open(&pair, held.range, end)?;
            map.finish(&pair, end)?;
        }
        Ok(Scan { map, topics: self.topics.into_values().collect() })
    }

    /// Returns where what was restored of a target partition ends: where its log begins if that is nothing.
    fn end(&self, target: &Partition) -> Offset {
        self.targets.get(target).map_or(0, |seen| seen.end.unwrap_or(seen.first))
    }

    /// Returns the pairs of source partitions of which the archive has no records, each with the partition of the same number
    /// of the topics that its topic went to: what a group had committed there is the end of what was restored.
    fn vacant(&self) -> Vec<Pair> {
        let mut went: Vec<(&str, &str)> =
            self.map.iter().map(|(pair, _)| (&*pair.source.topic, &*pair.target.topic)).collect();
        went.sort_unstable();
        went.dedup();
        let mut pairs = Vec::new();
        for (source, target) in went {
            let Some((name, topic)) = self.sources.0.get_key_value(source) else { continue };
            for target in self.targets.keys().filter(|to| *to.topic == *target) {
                let held = topic.partitions.get(&target.index);
                if held.is_some_and(|held| held.is_sure && held.last.is_none()) {
                    let source = Partition { topic: name.clone(), topic_id: topic.topic_id, index: target.index };
                    pairs.push(Pair { source, target: target.clone() });
                }
            }
        }
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::map::Position;

    fn held(first: Offset, next: Offset, last: Option<Offset>) -> Held {
        Held { range: OffsetRange { first, next }, last, is_sure: true }
    }

    /// `orders` has records up to 99 in partition 0, none in 1, and up to 9 in 2.
    fn mapping(topics: &[&str]) -> Mapping {
        let partitions = [(0, held(0, 100, Some(99))), (1, held(5, 5, None)), (2, held(0, 20, Some(9)))];
        let topic = Topic { topic_id: TopicId::NONE, partitions: partitions.into() };
        let topics = topics.iter().map(|name| (Arc::from(*name), topic.clone()));
        let mut mapping = Mapping::new(Sources(topics.collect()), Names::default());
        for index in 0..3 {
            mapping.begin(&at("copy", index), 7);
        }
        mapping
    }

    fn at(topic: &str, index: i32) -> Partition {
        Partition { topic: topic.into(), topic_id: TopicId::NONE, index }
    }

    fn see(mapping: &mut Mapping, target: (i32, Offset), headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes())));
        mapping.see(&at("copy", target.0), target.1, headers).expect("in order");
    }

    /// A record of `orders`-`partition` at `source`.
    fn of(mapping: &mut Mapping, target: (i32, Offset), partition: i32, source: Offset) {
        let (partition, source) = (partition.to_string(), source.to_string());
        see(mapping, target, &[("x-kafka-backup-offset", &source), ("x-kafka-backup-partition", &partition)]);
    }

    fn positions(scan: &Scan, index: i32, committed: Offset) -> Vec<Position> {
        scan.map.translate(&at("orders", index), committed).into_iter().map(|(_, position)| position).collect()
    }

    #[test]
    fn a_committed_offset_is_at_the_first_record_that_was_not_read() {
        let mut mapping = mapping(&["orders"]);
        for (target, source) in [(7, 10), (8, 11), (9, 20), (12, 21)] {
            of(&mut mapping, (0, target), 0, source);
        }
        let scan = mapping.finish().expect("a map");
        assert_eq!(positions(&scan, 0, 0), [Position::Record { source: 10, target: 7 }]);
        assert_eq!(positions(&scan, 0, 11), [Position::Record { source: 11, target: 8 }]);
        assert_eq!(positions(&scan, 0, 12), [Position::Record { source: 20, target: 9 }]);
        assert_eq!(positions(&scan, 0, 22), [Position::End { target: 13 }]);
        let beyond = Position::Beyond { next: 22, target: 13 };
        assert_eq!(positions(&scan, 0, 23), [beyond], "the archive has more, and it may have been left out");
        assert_eq!(scan.topics[0].notes(), [""; 0]);
    }

    #[test]
    fn behind_the_last_record_of_the_archive_the_end_is_known() {
        let mut mapping = mapping(&["orders"]);
        of(&mut mapping, (2, 7), 2, 9);
        let scan = mapping.finish().expect("a map");
        assert_eq!(positions(&scan, 2, 20), [Position::End { target: 8 }]);
        assert_eq!(positions(&scan, 1, 5), [Position::End { target: 7 }], "of it there was nothing to restore");
        assert_eq!(positions(&scan, 0, 5), [], "it was not restored");
    }

    #[test]
    fn the_end_is_that_of_all_sources_of_a_target() {
        let mut mapping = mapping(&["orders"]);
        of(&mut mapping, (0, 7), 2, 9);
        of(&mut mapping, (0, 8), 0, 99);
        see(&mut mapping, (0, 9), &[]);
        let scan = mapping.finish().expect("a map");
        assert_eq!(positions(&scan, 2, 10), [Position::End { target: 9 }]);
        assert_eq!(positions(&scan, 0, 100), [Position::End { target: 9 }]);
        assert_eq!((scan.topics[0].without, scan.topics[0].among), (1, 0), "it is a new one");
    }

    #[test]
    fn records_out_of_order_and_copies_never_move_a_position_forward() {
        let mut mapping = mapping(&["orders"]);
        let sources = [30, 31, 10, 11, 31, 32, 12, 40];
        for (target, source) in (7..).zip(sources) {
            of(&mut mapping, (0, target), 0, source);
        }
        let scan = mapping.finish().expect("a map");
        for committed in 0..=40 {
            let first = sources.iter().position(|source| *source >= committed).expect("there is one") as Offset + 7;
            let [Position::Record { target, .. }] = positions(&scan, 0, committed)[..] else { panic!("{committed}") };
            assert_eq!(target, first, "{committed}");
        }
        assert_eq!((scan.topics[0].placed, scan.topics[0].again), (8, 4));
    }

    #[test]
    fn what_tells_no_place_is_counted_and_said() {
        let mut mapping = mapping(&["orders"]);
        of(&mut mapping, (0, 7), 0, 10);
        see(&mut mapping, (0, 8), &[("trace", "x")]);
        see(&mut mapping, (0, 9), &[("x-kafka-backup-offset", "ten"), ("x-kafka-backup-partition", "0")]);
        see(&mut mapping, (0, 10), &[("x-kafka-backup-offset", "10")]);
        of(&mut mapping, (0, 11), 0, 100);
        of(&mut mapping, (0, 12), 3, 1);
        of(&mut mapping, (0, 13), 0, 11);
        let scan = mapping.finish().expect("a map");
        let told = &scan.topics[0];
        assert_eq!((told.records, told.placed, told.without, told.among), (7, 2, 1, 5));
        assert_eq!((told.unreadable, told.foreign, told.example), (2, 2, Some((0, 9))));
        let notes = told.notes();
        assert_eq!(notes[0], "topic \"copy\": 1 of 7 records have no headers that tell where they were");
        assert!(notes[2].ends_with("2 of 7 records have headers that cannot be read, as copy-0 offset 9"), "{notes:?}");
        assert_eq!(positions(&scan, 0, 12), [Position::End { target: 14 }]);
    }

    #[test]
    fn the_topic_is_the_headers_or_the_namesake_or_the_only_one() {
        let place = [("x-kafka-backup-offset", "3"), ("x-kafka-backup-partition", "0")];
        let mut two = mapping(&["orders", "pay"]);
        see(&mut two, (0, 7), &place);
        see(&mut two, (0, 8), &[place[0], place[1], ("x-kafka-backup-topic", "pay")]);
        let scan = two.finish().expect("a map");
        assert_eq!((scan.topics[0].nameless, scan.topics[0].placed), (1, 1));
        let sources: Vec<_> = scan.map.iter().map(|(pair, _)| pair.source.to_string()).collect();
        assert_eq!(sources, ["pay-0", "pay-1"], "and the one of which there was nothing");
        assert_eq!(mapping(&["copy", "pay"]).sources.namesake("copy"), Some("copy"));
    }

    #[test]
    fn of_a_partition_that_cannot_be_read_nothing_is_believed_behind_what_was_found() {
        let mut mapping = mapping(&["orders"]);
        let unsure = Held { range: OffsetRange { first: 0, next: Offset::MAX }, last: None, is_sure: false };
        for topic in mapping.sources.0.values_mut() {
            topic.partitions.values_mut().for_each(|held| *held = unsure);
        }
        of(&mut mapping, (0, 7), 0, 10);
        let scan = mapping.finish().expect("a map");
        assert_eq!(positions(&scan, 0, 11), [Position::End { target: 8 }]);
        assert_eq!(positions(&scan, 0, 12), [Position::Beyond { next: 11, target: 8 }]);
        assert_eq!(positions(&scan, 1, 5), [], "it may have records");
    }
}
