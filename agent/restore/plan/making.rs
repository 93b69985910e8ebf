//! Makes the plan of a restore: what the archive holds of what is asked for, where it goes, and what is dangerous.
//!
//! Reads of the archive the index of each chain, of the cluster its topics with their settings and ends. Nothing is
//! changed. Errors are what the user must change, and those of store and cluster; dangers are the plan's.

use super::hazards::{self, Danger, Hazard};
use super::made::MOST_BYTES;
use super::savepoint::Savepoint;
use super::torn::torn;
use super::{
    ChainPlan, Cut, PartitionPlan, Plan, TopicPlan, Torn, groups, keys, routed, span, targets, together, vacant,
};
use crate::archive::Archive;
use crate::archive::catalog::Row;
use crate::archive::source::chain::What;
use crate::archive::source::opened::Opened;
use crate::archive::source::way::{self, Branch, Part};
use crate::archive::source::{self, Fork, Timeline};
use crate::archive::{layout, lineage, savepoint};
use crate::batch::{self, outgoing::Window};
use crate::config::Restore;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::Client;
use crate::kafka::produce;
use crate::record::{Offset, OffsetRange, Partition};
use crate::restore::perform::transactional_id;
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
    making.topics_lost(&timelines);
    let mut topics = Vec::new();
    for timeline in &timelines {
        topics.extend(making.topic(timeline).await?);
    }
    together::collisions(&topics)?;
    let stages = stages.map(routed::stages).unwrap_or_default();
    together::repartitioned(restore, &stages, &topics)?;
    let routing = routed::Routing::of(client, (&stages, &restore.sink.repartition), &topics, &timelines).await?;
    let own = topics.len();
    topics.extend(routing.topics);
    let mut plan = Plan {
        request: restore.request(),
        cut,
        merge_below: merge_below(restore),
        topics,
        stages,
        keeps,
        routed: Vec::new(),
        vacant: Vec::new(),
        hazards: making.hazards,
    };
    targets::look(client, &mut plan, &timelines).await?;
    plan.hazards.extend(keys::hazards(archive, &plan, &timelines).await?);
    plan.hazards.extend(groups::hazards(client, &plan).await?);
    let transactional_id = transactional_id(&restore.id());
    let hindrance = produce::hindrance(client, &transactional_id, false).await?;
    plan.hazards.extend(hindrance.iter().map(|why| Hazard::new(Danger::NoFence, &transactional_id, why)));
    let routed = plan.topics.split_off(own);
    plan.routed = routed::finish(routed, &plan.stages, &mut plan.topics, &mut plan.hazards);
    plan.vacant = vacant::find(client, restore, &plan, &timelines).await?;
    plan.hazards.extend(together::hazards(restore, client, &plan, hindrance.as_deref()).await?);
    // Of a topic that stages send to as well it is told once.
    let mut told = Vec::new();
    for mut hazard in std::mem::take(&mut plan.hazards) {
        hazard.accepted = accepted.contains(&hazard.danger);
        if !told.contains(&hazard) {
            told.push(hazard);
        }
    }
    plan.hazards = told;
    let is_nothing = plan.partitions().all(|(_, of)| of.range().is_empty());
    if is_nothing && plan.new_topics().is_empty() && plan.hazards.is_empty() {
        return Err(Error::usage("nothing that the backup holds is asked for, and no topic is to be made")
            .hint("`describe` shows what it holds, by topic, offset and time"));
    }
    Ok(plan)
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
        let topic_target = sink.topics.get(&name).cloned().unwrap_or_else(|| name.clone());
        let repartition = sink.repartition.get(&topic_target).copied();
        let mut partitions = Vec::new();
        for place in timeline.places.iter().filter(|place| place.fork.is_none()) {
            let partition = &place.partition;
            if !only.is_empty() && !only.contains(&partition.index) {
                continue;
            }
            let branch = self.branch(&name, partition).await?;
            let target = sink.partitions.iter().find(|(topic, index, _)| (topic, *index) == (&name, partition.index));
            let target = target.map_or(partition.index, |(_, _, to)| *to);
            let target = repartition.map_or(target, |count| target % count);
            let way = way::way(self.archive, partition, branch).await?;
            partitions.push(self.partition(partition, &way, target).await?);
        }
        self.partitions_lost(timeline, &only);
        if partitions.is_empty() {
            return Ok(None);
        }
        let topic_id = timeline.topic_id.to_string();
        Ok(Some(TopicPlan {
            source: name,
            topic_id,
            target: topic_target,
            create: None,
            most_bytes: MOST_BYTES,
            compacts: false,
            repartition,
            only_routed: false,
            partitions,
        }))
    }

    /// Says what the savepoint names of a topic and the archive does not have.
    fn partitions_lost(&mut self, timeline: &Timeline, only: &[i32]) {
        let id = timeline.topic_id.to_string();
        let topics = self.savepoint.iter().flat_map(|savepoint| savepoint.topics());
        let ends = topics.filter(|topic| *topic.topic == *timeline.topic && topic.topic_id == id);
        let is_held = |index| timeline.places.iter().any(|place| place.partition.index == index);
        let lost = ends.flat_map(|topic| &topic.partitions).filter(|end| {
            let is_asked = only.is_empty() || only.contains(&end.partition);
            is_asked && end.high_watermark > 0 && !is_held(end.partition)
        });
        let lost: Vec<_> = lost.map(|end| (end.partition, end.high_watermark)).collect();
        for (index, end) in lost {
            let detail = format!("the archive holds nothing of it, the savepoint ends at {end}");
            self.hazard(Danger::SavepointIncomplete, format!("{}-{index}", timeline.topic), detail);
        }
    }

    /// Says which topics the savepoint names that are asked for and of which nothing is restored.
    fn topics_lost(&mut self, chosen: &[Timeline]) {
        let asked = &self.restore.source;
        let is_asked = |name: &str| match &asked.topics {
            Some(topics) => topics.holds(name, false),
            None => !asked.excludes.excludes(name),
        };
        let is_chosen = |name: &str, id: &str| {
            chosen.iter().any(|timeline| *timeline.topic == *name && timeline.topic_id.to_string() == id)
        };
        let topics = self.savepoint.iter().flat_map(|savepoint| savepoint.topics());
        let lost = topics.filter(|topic| {
            let (name, id) = (topic.topic.as_str(), topic.topic_id.as_str());
            let has_records = topic.partitions.iter().any(|end| end.high_watermark > 0);
            has_records && is_asked(name) && !asked.timelines.contains_key(name) && !is_chosen(name, id)
        });
        let lost: Vec<_> = lost.map(|topic| (topic.topic.clone(), topic.topic_id.clone())).collect();
        for (name, id) in lost {
            let detail =
                format!("the savepoint is of the topic of id {id}: restore `{name}@{id}`, if the backup holds it");
            self.hazard(Danger::SavepointIncomplete, name, detail);
        }
    }

    /// Returns which chain of a partition is meant: the one that is asked for, else the one that the savepoint is of, else
    /// the newest.
    async fn branch(&mut self, topic: &str, partition: &Partition) -> Result<Branch> {
        let forks = self.archive.forks(partition).await?;
        let end = self.savepoint.as_ref().and_then(|savepoint| savepoint.end_of(partition));
        let told = end.map(|end| (savepoint::chain_of(end, &forks), end.high_watermark - 1));
        let mut asked = self.restore.source.forks.iter();
        let chosen = match asked.find(|(name, index, _)| (name.as_str(), *index) == (topic, partition.index)) {
            None if told.is_none() => return Ok(if forks.is_empty() { Branch::Own } else { Branch::Newest }),
            None => return Ok(told.and_then(|(fork, _)| fork).map_or(Branch::Own, Branch::Fork)),
            Some((_, _, chosen)) => *chosen,
        };
        if chosen.is_some_and(|fork| !forks.contains(&fork)) {
            let chain = layout::chain_name(partition.index, chosen);
            return Err(
                Error::usage(format!("source.forks: `{topic}` has no chain `{chain}`")).hint("`describe` names them")
            );
        }
        let is_on_way = |(fork, last): (Option<Fork>, Offset)| {
            last < 0 || lineage::stretches(chosen, &forks).iter().any(|at| at.fork == fork && at.range.contains(last))
        };
        if let Some(told) = told.filter(|told| !is_on_way(*told)) {
            let names = [told.0, chosen].map(|fork| layout::chain_name(partition.index, fork));
            let detail = format!("the savepoint is of chain `{}`, and `{}` is asked for", names[0], names[1]);
            self.hazard(Danger::SavepointIncomplete, partition, detail);
        }
        Ok(chosen.map_or(Branch::Own, Branch::Fork))
    }

    /// Returns the offsets of a partition that are asked for, if any are named.
    fn offsets_of(&self, partition: &Partition) -> Option<OffsetRange> {
        let mut asked = self.restore.source.offsets.iter();
        let named = asked.find(|(topic, index, _)| (&**topic, *index) == (&*partition.topic, partition.index));
        named.map(|(.., range)| *range)
    }

    /// Returns which offsets of a partition are asked for, and which transactions are in flight at their end.
    async fn wanted(&mut self, partition: &Partition, way: &[Part]) -> Result<(OffsetRange, Vec<Torn>)> {
        let everything = OffsetRange { first: 0, next: Offset::MAX };
        let mut wanted = self.offsets_of(partition).unwrap_or(everything);
        let Some(savepoint) = &self.savepoint else { return Ok((wanted, Vec::new())) };
        let Some(end) = savepoint.end_of(partition).map(|end| end.high_watermark) else {
            // Else it was not there.
            if savepoint.is_unread(&partition.topic) {
                let detail = "the savepoint does not say where it ended: nothing of it is restored";
                self.hazard(Danger::SavepointIncomplete, partition, detail);
            }
            return Ok((OffsetRange { next: wanted.first, ..wanted }, Vec::new()));
        };
        let decided = savepoint.decided_of(partition);
        let torn = torn(self.archive, way, end, savepoint.taken_at, decided).await?;
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
        let (mut undecided, mut reached) = (0, None);
        for part in way {
            let (more, next) = self.part(partition, part, wanted, reached, &mut planned).await?;
            undecided += more;
            reached = reached.max(Some(next.min(part.range.next)));
        }
        if undecided > 0 {
            let detail = format!(
                "{undecided} segments have transactions of which nobody knows whether they were aborted: they are left out"
            );
            self.hazard(Danger::UndecidedTransactions, partition, detail);
        }
        let reached = reached.unwrap_or(0);
        let end = self.savepoint.as_ref().and_then(|savepoint| savepoint.end_of(partition));
        let end = end.map(|end| end.high_watermark);
        if let Some(end) = end.filter(|end| reached < *end && *end > wanted.first && wanted.next >= *end) {
            let detail = format!("the archive ends at offset {reached}, the savepoint at {end}");
            self.hazard(Danger::SavepointIncomplete, partition, detail);
        }
        if let (Some(asked), Some(end)) = (self.offsets_of(partition), end)
            && asked.first >= end
        {
            return Err(Error::usage(format!(
                "source.offsets: of what `{partition}` is asked for, nothing was there at the savepoint: it ends at {end}"
            ))
            .hint("`savepoints` shows where each partition ended"));
        }
        if let Some(asked) = self.offsets_of(partition).filter(|_| !wanted.is_empty()) {
            let next = asked.next.min(end.unwrap_or(Offset::MAX));
            let begins_late = asked.first > 0 && planned.first > asked.first;
            if planned.range().is_empty() || begins_late || (next < Offset::MAX && next > reached) {
                let held = match planned.range() {
                    held if held.is_empty() => "none".to_owned(),
                    held => held.to_string(),
                };
                return Err(Error::usage(format!(
                    "source.offsets: of what `{partition}` is asked for, {held} is held"
                ))
                .hint("`describe` shows what the backup holds"));
            }
        }
        Ok(planned)
    }

    /// Adds what is read of a chain; `reached` is how far those before it on the way reach. Returns how many segments have
    /// transactions that are undecided, and how far the chain reaches.
    async fn part(
        &mut self,
        partition: &Partition,
        part: &Part,
        wanted: OffsetRange,
        reached: Option<Offset>,
        planned: &mut PartitionPlan,
    ) -> Result<(u64, Offset)> {
        let Opened { index, findings, reach, .. } = Opened::read(self.archive, &part.place).await?;
        let held = index.range();
        let reach = reach.next.or(held.map(|held| held.next)).unwrap_or(0);
        let first = held.map_or(reach, |held| held.first).max(part.range.first);
        if let Some(before) = reached {
            let missing = OffsetRange {
                first: before.min(part.range.first).max(wanted.first),
                next: first.min(part.range.next).min(wanted.next),
            };
            if !missing.is_empty() {
                let detail = format!("`{}` goes on behind offsets that no chain holds: {missing}", part.place.name());
                self.hazard(Danger::ChainBreak, partition, detail);
            }
        }
        // Of what is asked for, not of what can be read: what cannot may lie before it, or be all there was.
        let asked = OffsetRange { first: part.range.first.max(wanted.first), next: part.range.next.min(wanted.next) };
        for finding in findings.iter().filter(|finding| !asked.is_empty() && is_break(finding.what)) {
            if finding.range.is_none_or(|at| at.next > asked.first && at.first < asked.next) {
                self.hazard(Danger::ChainBreak, partition, format!("{}: {}", finding.object, finding.detail));
            }
        }
        let end = reach.min(part.range.next).min(wanted.next);
        let range = OffsetRange { first: first.max(wanted.first), next: end };
        if held.is_none() || range.is_empty() {
            return Ok((0, reach));
        }
        if planned.chains.is_empty() {
            planned.first = range.first;
        }
        planned.next = range.next;
        let window = Window { offsets: range, from: self.cut.from(), until: self.cut.until() };
        let mut undecided = 0;
        let rows = index.iter_from(index.at_offset(range.first).unwrap_or(index.len()));
        for row in rows.take_while(|row| row.range.first < range.next) {
            // Records of which nobody knows are not counted.
            let may_lack = row.has_undecided && contributes(&Row { records: row.records.max(1), ..row }, &window);
            undecided += u64::from(may_lack);
            if contributes(&row, &window) {
                planned.add(&row, &self.cut);
            }
        }
        planned.chains.push(ChainPlan { chain: part.place.name(), first: range.first, next: range.next });
        Ok((undecided, reach))
    }
}

impl PartitionPlan {
    /// Adds a segment that is read.
    fn add(&mut self, row: &Row, cut: &Cut) {
        self.segments += 1;
        self.records += row.records;
        self.bytes += row.length_bytes;
        self.record_bytes = self.record_bytes.max(record_bytes(row));
        self.times_ms = span(self.times_ms, times(row, cut));
    }
}

/// Returns how many bytes of batches one of a segment's records has at least: not all of them can have less than their
/// share. Of aborted ones, which are not counted, nobody knows the bytes.
fn record_bytes(row: &Row) -> u64 {
    let heads = row.batches.saturating_mul(batch::HEADER_BYTES as u64);
    let is_counted = row.records > 0 && !row.has_aborted && !row.has_undecided;
    if is_counted { row.length_bytes.saturating_sub(heads).div_ceil(row.records) } else { 0 }
}

/// Returns the least and the greatest time of what a cut takes of a segment, as far as its row tells: where the least is
/// not proven, the first record's stands for it. Records without a time count for nothing.
fn times(row: &Row, cut: &Cut) -> Option<(i64, i64)> {
    let least = row.min_time.or(row.first_time)?.0.max(cut.from_ms.unwrap_or(0));
    let most = row.max_time?.0.min(cut.until_ms.map_or(i64::MAX, |until| until.saturating_sub(1)));
    (0 <= most).then_some((least.max(0).min(most), most))
}

/// Returns whether a finding is one of records that are not there, or cannot be read.
fn is_break(what: What) -> bool {
    let of_catalogs = matches!(what, What::DamagedCatalog | What::MissingCatalog | What::Undecided);
    what.exit_kind().is_some_and(|kind| kind != Kind::Partial) && !of_catalogs
}

#[cfg(test)]
mod laws;
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
    fn a_segment_of_few_records_and_many_bytes_has_a_large_one() {
        let of = |records, length_bytes, has_aborted| Row { records, length_bytes, has_aborted, ..row(0, None, 0) };
        assert_eq!(record_bytes(&of(1, 20_061, false)), 20_000);
        assert_eq!(record_bytes(&of(10, 20_061, false)), 2_000, "perhaps, and at least so many");
        assert_eq!((record_bytes(&of(1, 20_061, true)), record_bytes(&of(0, 20_061, false))), (0, 0), "nobody knows");
    }

    #[test]
    fn damage_of_the_index_alone_is_no_break() {
        assert!([What::Hole, What::DamagedLog, What::NoSidecar].into_iter().all(is_break));
        assert!(
            ![What::DamagedCatalog, What::MissingCatalog, What::Undecided, What::Unfinished].into_iter().any(is_break)
        );
    }
}
