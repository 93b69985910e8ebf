//! Makes the plan of a restore: what the archive holds of what is asked for, where it goes, and what is dangerous.
//!
//! Reads of the archive the index of each chain, of the cluster its topics with their settings and ends. Nothing is
//! changed. Errors are what the user must change, and those of store and cluster; dangers are the plan's.

use std::collections::HashMap;

use super::hazards::{self, Danger, Hazard};
use super::savepoint::Savepoint;
use super::targets::{MOST_BYTES, Targets};
use super::torn::torn;
use super::{ChainPlan, Cut, PartitionPlan, Plan, TopicPlan, Torn, routed, span};
use crate::archive::Archive;
use crate::archive::catalog::Row;
use crate::archive::layout;
use crate::archive::source::chain::What;
use crate::archive::source::opened::Opened;
use crate::archive::source::way::{self, Branch, Part};
use crate::archive::source::{self, Place, Timeline};
use crate::batch::outgoing::Window;
use crate::config::Restore;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::Client;
use crate::record::{Offset, OffsetRange, Partition};
use crate::restore::reading::contributes;
use crate::stages::Stages;

/// Makes the plan of what is asked for, through these stages.
///
/// # Errors
/// [`Kind::Usage`] for topics, partitions, forks or savepoints that are not there, and for names that collide; else those
/// of the store and of the cluster.
pub async fn make(restore: &Restore, archive: &Archive, client: &Client, stages: Option<&Stages>) -> Result<Plan> {
    let accepted = hazards::accepted(&restore.sink.accept)?;
    let savepoint = Savepoint::find(restore, archive).await?;
    let cut = Cut {
        from_ms: restore.source.from.map(|time| time.0),
        until_ms: restore.source.until.map(|time| time.0),
        savepoint: savepoint.as_ref().map(|savepoint| savepoint.name.to_string()),
    };
    let keeps = routed::kept(stages);
    let mut making = Making { restore, archive, savepoint, cut: cut.within(&keeps), hazards: Vec::new() };
    let timelines = making.choose(source::timelines(archive).await?)?;
    let mut topics = Vec::new();
    for timeline in &timelines {
        topics.extend(making.topic(timeline).await?);
    }
    collisions(&topics)?;
    let mut targets = Targets { client, hazards: Vec::new() };
    let stages = stages.map(routed::stages).unwrap_or_default();
    let mut routing = routed::Routing::of(&stages, &topics, &timelines, &targets).await?;
    targets.look(&mut topics, &timelines).await?;
    if !routing.extra().is_empty() {
        targets.look(routing.extra(), &timelines).await?;
    }
    let mut hazards = making.hazards;
    for hazard in targets.hazards {
        // Of a topic that stages send to as well it is told once.
        if !hazards.contains(&hazard) {
            hazards.push(hazard);
        }
    }
    let routed = routing.finish(&mut topics, &mut hazards);
    for hazard in &mut hazards {
        hazard.accepted = accepted.contains(&hazard.danger);
    }
    Ok(Plan { cut, merge_below: merge_below(restore), topics, stages, keeps, routed, hazards })
}

/// Returns below how many bytes batches are merged; none is as small as one byte.
fn merge_below(restore: &Restore) -> usize {
    if restore.sink.merge_below <= 1 { 0 } else { restore.sink.merge_below }
}

struct Making<'a> {
    restore: &'a Restore,
    archive: &'a Archive,
    savepoint: Option<Savepoint>,
    /// What is left out, by the request and by the stages.
    cut: Cut,
    hazards: Vec<Hazard>,
}

impl Making<'_> {
    fn hazard(&mut self, danger: Danger, subject: impl ToString, detail: impl Into<String>) {
        self.hazards.push(Hazard::new(danger, subject, detail));
    }

    /// Returns the timelines that are asked for.
    fn choose(&self, timelines: Vec<Timeline>) -> Result<Vec<Timeline>> {
        let asked = &self.restore.source;
        for topic in asked.topics.iter().flat_map(|topics| topics.names()) {
            let id = asked.timelines.get(topic);
            let is_meant =
                |timeline: &&Timeline| *timeline.topic == **topic && id.is_none_or(|id| *id == timeline.topic_id);
            if !timelines.iter().any(|timeline| is_meant(&timeline)) {
                let name = id.map_or(topic.clone(), |id| format!("{topic}@{id}"));
                let mut held: Vec<_> = timelines.iter().map(|timeline| timeline.topic.to_string()).collect();
                held.dedup();
                held.truncate(10);
                return Err(Error::usage(format!("the backup holds no topic `{name}`"))
                    .hint(format!("it holds {}; `list` shows all", held.join(", "))));
            }
        }
        let chosen = timelines.into_iter().filter(|timeline| {
            let name = &*timeline.topic;
            let is_asked = match &asked.topics {
                Some(topics) => topics.holds(name, false),
                None => !asked.excludes.excludes(name),
            };
            is_asked && asked.timelines.get(name).map_or(timeline.is_newest, |id| *id == timeline.topic_id)
        });
        let chosen: Vec<_> = chosen.collect();
        if chosen.is_empty() {
            return Err(Error::usage("the backup holds no topic that is asked for").hint("`list` shows what it holds"));
        }
        // With a slip of the pen a topic would go to the one of its own name.
        let is_chosen = |topic: &str| chosen.iter().any(|timeline| &*timeline.topic == topic);
        if let Some((topic, to)) = self.restore.sink.topics.iter().find(|(topic, _)| !is_chosen(topic)) {
            return Err(Error::usage(format!("sink.topics: no topic `{topic}` is restored, that could become `{to}`"))
                .hint("`list` shows what the backup holds; source.topics says what is restored"));
        }
        let has = |topic: &str, index: i32| {
            let of_topic = chosen.iter().filter(|timeline| &*timeline.topic == topic);
            let is_held = of_topic.flat_map(|timeline| &timeline.places).any(|place| place.partition.index == index);
            let mut only = asked.partitions.iter().filter(|(name, _)| name == topic).peekable();
            is_held && (only.peek().is_none() || only.any(|(_, named)| *named == index))
        };
        let named = asked.partitions.iter().map(|(topic, index)| ("source.partitions", topic, *index));
        let named = named.chain(asked.offsets.iter().map(|(topic, index, _)| ("source.offsets", topic, *index)));
        let named = named.chain(asked.forks.iter().map(|(topic, index, _)| ("source.forks", topic, *index)));
        let moved = self.restore.sink.partitions.iter().map(|(topic, index, _)| ("sink.partitions", topic, *index));
        for (key, topic, index) in named.chain(moved) {
            if !has(topic, index) {
                return Err(Error::usage(format!("{key}: the backup holds no `{topic}-{index}` that is asked for")));
            }
        }
        Ok(chosen)
    }

    /// Plans what is read of a topic; `None` where nothing is asked for of it.
    async fn topic(&mut self, timeline: &Timeline) -> Result<Option<TopicPlan>> {
        let name = timeline.topic.to_string();
        if let Err(error) = &timeline.object {
            let lost = if timeline.places.is_empty() { "nothing of it is restored" } else { "its settings are lost" };
            self.hazard(Danger::ChainBreak, &name, format!("what it was cannot be read, {lost}: {error}"));
        }
        let (asked, sink) = (&self.restore.source, &self.restore.sink);
        let only: Vec<_> =
            asked.partitions.iter().filter(|(topic, _)| *topic == name).map(|(_, index)| *index).collect();
        let mut partitions = Vec::new();
        for place in timeline.places.iter().filter(|place| place.fork.is_none()) {
            let partition = &place.partition;
            if !only.is_empty() && !only.contains(&partition.index) {
                continue;
            }
            let branch = self.branch(&name, partition, &timeline.places)?;
            let target = sink.partitions.iter().find(|(topic, index, _)| (topic, *index) == (&name, partition.index));
            let target = target.map_or(partition.index, |(_, _, to)| *to);
            let way = way::way(self.archive, partition, branch).await?;
            partitions.push(self.partition(partition, &way, target).await?);
        }
        if partitions.is_empty() {
            return Ok(None);
        }
        let target = sink.topics.get(&name).cloned().unwrap_or_else(|| name.clone());
        let topic_id = timeline.topic_id.to_string();
        Ok(Some(TopicPlan { source: name, topic_id, target, create: None, most_bytes: MOST_BYTES, partitions }))
    }

    /// Returns which chain of a partition is meant.
    fn branch(&self, topic: &str, partition: &Partition, places: &[Place]) -> Result<Branch> {
        let others = places.iter().filter(|other| other.partition == *partition);
        let forks: Vec<_> = others.filter_map(|other| other.fork).collect();
        let mut asked = self.restore.source.forks.iter();
        match asked.find(|(name, index, _)| (name.as_str(), *index) == (topic, partition.index)) {
            None if forks.is_empty() => Ok(Branch::Own),
            None => Ok(Branch::Newest),
            Some((_, _, None)) => Ok(Branch::Own),
            Some((_, _, Some(fork))) if forks.contains(fork) => Ok(Branch::Fork(*fork)),
            Some((_, index, Some(fork))) => {
                let chain = layout::chain_name(*index, Some(*fork));
                Err(Error::usage(format!("source.forks: `{topic}` has no chain `{chain}`"))
                    .hint("`describe` names them"))
            }
        }
    }

    /// Returns which offsets of a partition are asked for, and which transactions are in flight at their end.
    async fn wanted(&mut self, partition: &Partition, way: &[Part]) -> Result<(OffsetRange, Vec<Torn>)> {
        let asked = self.restore.source.offsets.iter();
        let mut asked = asked.filter(|(topic, index, _)| (&**topic, *index) == (&*partition.topic, partition.index));
        let mut wanted = asked.next().map_or(OffsetRange { first: 0, next: Offset::MAX }, |(.., range)| *range);
        let Some(savepoint) = &self.savepoint else { return Ok((wanted, Vec::new())) };
        let Some(end) = savepoint.end_of(partition) else {
            // Else it was not there.
            if savepoint.is_unread(&partition.topic) {
                let detail = "the savepoint does not say where it ended: nothing of it is restored";
                self.hazard(Danger::SavepointIncomplete, partition, detail);
            }
            return Ok((OffsetRange { next: wanted.first, ..wanted }, Vec::new()));
        };
        let torn = torn(self.archive, way, end, savepoint.taken_at).await?;
        if !torn.is_empty() {
            let transactions = if torn.len() == 1 { "transaction was" } else { "transactions were" };
            let detail = format!(
                "{} {transactions} in flight at the savepoint: what of them lies before it is left out here, and may be in \
                 elsewhere",
                torn.len()
            );
            self.hazard(Danger::TransactionsInFlight, partition, detail);
        }
        wanted.next = wanted.next.min(end);
        Ok((wanted, torn))
    }

    /// Plans what is read of a partition.
    async fn partition(&mut self, partition: &Partition, way: &[Part], target: i32) -> Result<PartitionPlan> {
        let (wanted, torn) = self.wanted(partition, way).await?;
        let mut planned = PartitionPlan { torn, ..PartitionPlan::of(partition.index, target, wanted.first) };
        let mut undecided = 0;
        for part in way {
            undecided += self.part(partition, part, wanted, &mut planned).await?;
        }
        if undecided > 0 {
            let detail = format!(
                "{undecided} segments have transactions of which nobody knows whether they were aborted: they are left out"
            );
            self.hazard(Danger::UndecidedTransactions, partition, detail);
        }
        let end = self.savepoint.as_ref().and_then(|savepoint| savepoint.end_of(partition));
        if let Some(end) = end.filter(|end| planned.next < *end && *end > wanted.first && wanted.next >= *end) {
            let detail = format!("the archive ends at offset {}, the savepoint at {end}", planned.next);
            self.hazard(Danger::SavepointIncomplete, partition, detail);
        }
        Ok(planned)
    }

    /// Adds what is read of a chain; returns how many segments have transactions that are undecided.
    async fn part(
        &mut self,
        partition: &Partition,
        part: &Part,
        wanted: OffsetRange,
        planned: &mut PartitionPlan,
    ) -> Result<u64> {
        let Opened { index, findings, reach, .. } = Opened::read(self.archive, &part.place).await?;
        let Some(held) = index.range() else { return Ok(0) };
        let end = reach.next.unwrap_or(held.next).min(part.range.next).min(wanted.next);
        let range = OffsetRange { first: held.first.max(part.range.first).max(wanted.first), next: end };
        if range.is_empty() {
            return Ok(0);
        }
        for finding in findings.iter().filter(|finding| is_break(finding.what)) {
            if finding.range.is_none_or(|at| at.next > range.first && at.first < range.next) {
                self.hazard(Danger::ChainBreak, partition, format!("{}: {}", finding.object, finding.detail));
            }
        }
        if planned.chains.is_empty() {
            planned.first = range.first;
        } else if range.first > planned.next {
            let missing = OffsetRange { first: planned.next, next: range.first };
            let detail = format!("`{}` goes on behind offsets that no chain holds: {missing}", part.place.name());
            self.hazard(Danger::ChainBreak, partition, detail);
        }
        planned.next = range.next;
        let window = Window { offsets: range, from: self.cut.from(), until: self.cut.until() };
        let mut undecided = 0;
        let rows = index.iter_from(index.at_offset(range.first).unwrap_or(index.len()));
        for row in rows.take_while(|row| row.range.first < range.next) {
            undecided += u64::from(row.has_undecided);
            if contributes(&row, &window) {
                planned.segments += 1;
                planned.records += row.records;
                planned.bytes += row.length_bytes;
                planned.times_ms = span(planned.times_ms, times(&row, &self.cut));
            }
        }
        planned.chains.push(ChainPlan { chain: part.place.name(), first: range.first, next: range.next });
        Ok(undecided)
    }
}

/// Returns the least and the greatest time of what a cut takes of a segment, as far as its row tells: where the least is
/// not proven, the first record's stands for it. Records without a time count for nothing.
fn times(row: &Row, cut: &Cut) -> Option<(i64, i64)> {
    let least = row.min_time.or(row.first_time)?.0.max(cut.from_ms.unwrap_or(0));
    let most = row.max_time?.0.min(cut.until_ms.map_or(i64::MAX, |until| until.saturating_sub(1)));
    (0 <= most).then_some((least.max(0).min(most), most))
}

/// Refuses two sources of one target partition: their records would be mixed.
fn collisions(topics: &[TopicPlan]) -> Result<()> {
    let mut taken: HashMap<(&str, i32), String> = HashMap::new();
    for topic in topics {
        for partition in &topic.partitions {
            let name = format!("{}-{}", topic.source, partition.source);
            if let Some(other) = taken.insert((&topic.target, partition.target), name.clone()) {
                let to = format!("{}-{}", topic.target, partition.target);
                return Err(Error::usage(format!("`{other}` and `{name}` would both go to `{to}`"))
                    .hint("give one of them another topic (sink.topics) or partition (sink.partitions)"));
            }
        }
    }
    Ok(())
}

/// Returns whether a finding is one of records that are not there, or cannot be read.
fn is_break(what: What) -> bool {
    let of_catalogs = matches!(what, What::DamagedCatalog | What::MissingCatalog | What::Undecided);
    what.exit_kind().is_some_and(|kind| kind != Kind::Partial) && !of_catalogs
}

#[cfg(test)]
pub(in crate::restore) mod tests {
    use super::*;
    use crate::archive::sidecar::Kind as SegmentKind;
    use crate::record::Timestamp;

    /// Plans what is asked for as far as the archive tells, without a cluster.
    pub(in crate::restore) async fn of_archive(restore: &Restore, archive: &Archive) -> (Cut, Vec<TopicPlan>) {
        let savepoint = Savepoint::find(restore, archive).await.expect("read");
        let (from_ms, until_ms) = (restore.source.from.map(|time| time.0), restore.source.until.map(|time| time.0));
        let cut = Cut { from_ms, until_ms, savepoint: savepoint.as_ref().map(|savepoint| savepoint.name.to_string()) };
        let mut making = Making { restore, archive, savepoint, cut, hazards: Vec::new() };
        let timelines = making.choose(source::timelines(archive).await.expect("listed")).expect("held");
        let mut topics = Vec::new();
        for timeline in &timelines {
            topics.extend(making.topic(timeline).await.expect("read"));
        }
        (making.cut, topics)
    }

    fn row(first: i64, least: Option<i64>, most: i64) -> Row {
        let time = |ms| Some(Timestamp(ms));
        Row {
            range: OffsetRange { first: 0, next: 10 },
            length_bytes: 100,
            digest: 0,
            sealed_at: Timestamp(0),
            kind: SegmentKind::Data,
            has_aborted: false,
            has_undecided: false,
            leader_epoch: 0,
            batches: 1,
            converted: 0,
            records: 10,
            first_record: Some(0),
            last_record: Some(9),
            first_time: time(first),
            max_time: time(most),
            min_time: least.map(Timestamp),
        }
    }

    #[test]
    fn the_times_of_what_is_taken_are_those_of_the_segments_inside_of_the_cut() {
        let cut = |from_ms, until_ms| Cut { from_ms, until_ms, savepoint: None };
        assert_eq!(times(&row(50, Some(20), 90), &cut(None, None)), Some((20, 90)));
        assert_eq!(times(&row(50, None, 90), &cut(None, None)), Some((50, 90)));
        assert_eq!(times(&row(50, Some(20), 90), &cut(Some(30), Some(80))), Some((30, 79)));
        assert_eq!(times(&row(-1, Some(-1), -1), &cut(None, None)), None, "records without a time");
        assert_eq!(times(&row(-1, Some(-1), 90), &cut(None, None)), Some((0, 90)));
        assert_eq!(span(span(None, Some((5, 7))), Some((1, 6))), Some((1, 7)));
    }

    #[test]
    fn a_target_partition_has_one_source() {
        let topic = |source: &str, partitions: &[(i32, i32)]| TopicPlan {
            source: source.into(),
            topic_id: "_".into(),
            target: "all".into(),
            create: None,
            most_bytes: MOST_BYTES,
            partitions: partitions.iter().map(|(from, to)| PartitionPlan::of(*from, *to, 0)).collect(),
        };
        collisions(&[topic("a", &[(0, 0), (1, 1)]), topic("b", &[(0, 2)])]).expect("each has its own");
        let error = collisions(&[topic("a", &[(0, 0)]), topic("b", &[(3, 0)])]).expect_err("both").to_string();
        assert!(error.starts_with("`a-0` and `b-3` would both go to `all-0`"), "{error}");
    }

    #[test]
    fn damage_of_the_index_alone_is_no_break() {
        assert!([What::Hole, What::DamagedLog, What::NoSidecar].into_iter().all(is_break));
        assert!(
            ![What::DamagedCatalog, What::MissingCatalog, What::Undecided, What::Unfinished].into_iter().any(is_break)
        );
    }
}
