//! Makes the plan of a restore: what the archive holds of what is asked for, where it goes, and what is dangerous.
//!
//! Reads of the archive the index of each chain, of the cluster its topics with their settings and ends. Nothing is
//! changed. Errors are what the user must change, and those of store and cluster; dangers are the plan's.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::hazards::{self, Danger, Hazard};
use super::torn::torn;
use super::{ChainPlan, Cut, NewTopic, PartitionPlan, Plan, TopicPlan};
use crate::archive::Archive;
use crate::archive::savepoint::{Name, State};
use crate::archive::source::chain::What;
use crate::archive::source::opened::Opened;
use crate::archive::source::way::{self, Branch, Part};
use crate::archive::source::{self, Timeline};
use crate::batch::outgoing::Window;
use crate::config::Restore;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::{At, Client, Isolation, OffsetQuery, TopicMetadata};
use crate::pipeline::{Topic, TopicConfig};
use crate::record::{Offset, OffsetRange, Partition, Timestamp};
use crate::restore::reading::contributes;

/// Kafka's code for a topic that is not there.
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// Kafka's default of `max.message.bytes`.
const MOST_BYTES: usize = 1_048_588;

/// Settings that would take restored records away or change them while they come: they are made when all are there.
const AFTERWARDS: [&str; 10] = [
    "message.timestamp.type",
    "retention.ms",
    "retention.bytes",
    "local.retention.ms",
    "local.retention.bytes",
    "cleanup.policy",
    "message.timestamp.difference.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
    "delete.retention.ms",
];

/// What a topic has meanwhile instead: nothing is taken away, and any time is good.
const MEANWHILE: [(&str, &str); 4] = [
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("cleanup.policy", "delete"),
    ("message.timestamp.type", "CreateTime"),
];

/// Makes the plan of what is asked for.
///
/// # Errors
/// [`Kind::Usage`] for topics, partitions, forks or savepoints that are not there, and for names that collide; else those
/// of the store and of the cluster.
pub async fn make(restore: &Restore, archive: &Archive, client: &Client) -> Result<Plan> {
    let accepted = hazards::accepted(&restore.sink.accept)?;
    let savepoint = Savepoint::find(restore, archive).await?;
    let cut = Cut {
        from_ms: restore.source.from.map(|time| time.0),
        until_ms: restore.source.until.map(|time| time.0),
        savepoint: savepoint.as_ref().map(|savepoint| savepoint.name.to_string()),
    };
    let mut making = Making { restore, archive, savepoint, cut, hazards: Vec::new() };
    let timelines = making.choose(source::timelines(archive).await?)?;
    let mut topics = Vec::new();
    for timeline in &timelines {
        topics.extend(making.topic(timeline).await?);
    }
    making.collisions(&topics)?;
    making.targets(client, &mut topics, &timelines).await?;
    let mut hazards = making.hazards;
    for hazard in &mut hazards {
        hazard.accepted = accepted.contains(&hazard.danger);
    }
    Ok(Plan { cut: making.cut, merge_below: merge_below(restore), topics, hazards })
}

/// Returns whether a topic that is made has a setting only while records come.
pub fn is_meanwhile(name: &str) -> bool {
    MEANWHILE.iter().any(|(known, _)| *known == name)
}

/// Returns below how many bytes batches are merged; none is as small as one byte.
fn merge_below(restore: &Restore) -> usize {
    if restore.sink.merge_below <= 1 { 0 } else { restore.sink.merge_below }
}

/// The savepoint of a cut.
struct Savepoint {
    name: Name,
    taken_at: Timestamp,
    state: State,
}

impl Savepoint {
    async fn find(restore: &Restore, archive: &Archive) -> Result<Option<Self>> {
        let Some(wanted) = &restore.source.savepoint else { return Ok(None) };
        let held = archive.savepoints().await?;
        let none = || {
            let newest = held.iter().max().map_or("none".to_owned(), Name::to_string);
            Error::usage(format!("there is no savepoint `{wanted}`"))
                .hint(format!("the newest is {newest}; `savepoints` lists all"))
        };
        let name = match wanted.parse::<Name>() {
            Ok(name) => held.iter().copied().find(|held| *held == name).ok_or_else(none)?,
            Err(_) => {
                let time: Timestamp = wanted.parse().map_err(|_| none())?;
                held.iter().copied().filter(|name| name.time() <= time).max().ok_or_else(none)?
            }
        };
        let (savepoint, state) = archive.resolved_savepoint(name).await?.ok_or_else(none)?;
        let taken_at = savepoint.taken_at.parse().unwrap_or_else(|_| name.time());
        Ok(Some(Self { name, taken_at, state }))
    }

    /// Returns where a partition ended; `None` where the savepoint does not say.
    fn end_of(&self, partition: &Partition) -> Option<Offset> {
        let id = partition.topic_id.to_string();
        let topic = self.state.topics.iter().find(|topic| *topic.topic == *partition.topic && topic.topic_id == id)?;
        topic.partitions.iter().find(|end| end.partition == partition.index).map(|end| end.high_watermark)
    }
}

struct Making<'a> {
    restore: &'a Restore,
    archive: &'a Archive,
    savepoint: Option<Savepoint>,
    cut: Cut,
    hazards: Vec<Hazard>,
}

impl Making<'_> {
    fn hazard(&mut self, danger: Danger, subject: impl ToString, detail: impl Into<String>) {
        self.hazards.push(Hazard { danger, subject: subject.to_string(), detail: detail.into(), accepted: false });
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
        let has = |topic: &str, index: i32| {
            let of_topic = chosen.iter().filter(|timeline| &*timeline.topic == topic);
            of_topic.flat_map(|timeline| &timeline.places).any(|place| place.partition.index == index)
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
        let (asked, sink) = (&self.restore.source, &self.restore.sink);
        let only: Vec<_> =
            asked.partitions.iter().filter(|(topic, _)| *topic == name).map(|(_, index)| *index).collect();
        let mut partitions = Vec::new();
        for place in timeline.places.iter().filter(|place| place.fork.is_none()) {
            let partition = &place.partition;
            if !only.is_empty() && !only.contains(&partition.index) {
                continue;
            }
            let forks: Vec<_> = timeline
                .places
                .iter()
                .filter(|other| other.partition == *partition)
                .filter_map(|other| other.fork)
                .collect();
            let branch = match asked.forks.iter().find(|(topic, index, _)| (topic, *index) == (&name, partition.index))
            {
                None if forks.is_empty() => Branch::Own,
                None => Branch::Newest,
                Some((_, _, None)) => Branch::Own,
                Some((_, _, Some(fork))) if forks.contains(fork) => Branch::Fork(*fork),
                Some((_, index, Some(fork))) => {
                    let chain = crate::archive::layout::chain_name(*index, Some(*fork));
                    return Err(Error::usage(format!("source.forks: `{name}` has no chain `{chain}`"))
                        .hint("`describe` names them"));
                }
            };
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

    /// Plans what is read of a partition.
    async fn partition(&mut self, partition: &Partition, way: &[Part], target: i32) -> Result<PartitionPlan> {
        let asked = self.restore.source.offsets.iter();
        let asked = asked.filter(|(topic, index, _)| (&**topic, *index) == (&*partition.topic, partition.index));
        let mut wanted = asked.map(|(.., range)| *range).next().unwrap_or(OffsetRange { first: 0, next: Offset::MAX });
        let mut torn_ones = Vec::new();
        if let Some(savepoint) = &self.savepoint {
            match savepoint.end_of(partition) {
                Some(end) => {
                    wanted.next = wanted.next.min(end);
                    torn_ones = torn(self.archive, way, end, savepoint.taken_at).await?;
                }
                // It was not there, or nobody looked.
                None => wanted.next = wanted.first,
            }
            if !torn_ones.is_empty() {
                let detail = format!(
                    "{} transactions were in flight at the savepoint: what of them lies before it is left out here, and may be \
                     in elsewhere",
                    torn_ones.len()
                );
                self.hazard(Danger::TransactionsInFlight, partition, detail);
            }
        }
        let mut planned = PartitionPlan {
            source: partition.index,
            target,
            first: wanted.first,
            next: wanted.first,
            chains: Vec::new(),
            torn: torn_ones,
            segments: 0,
            records: 0,
            bytes: 0,
        };
        let mut undecided = 0_u64;
        let mut times: Option<(Timestamp, Timestamp)> = None;
        for part in way {
            let Opened { index, findings, reach } = Opened::read(self.archive, &part.place).await?;
            let Some(held) = index.range() else { continue };
            let end = reach.next.unwrap_or(held.next).min(part.range.next).min(wanted.next);
            let range = OffsetRange { first: held.first.max(part.range.first).max(wanted.first), next: end };
            if range.is_empty() {
                continue;
            }
            for finding in findings.iter().filter(|finding| is_break(finding.what)) {
                if finding.range.is_none_or(|at| at.next > range.first && at.first < range.next) {
                    self.hazard(Danger::ChainBreak, partition, format!("{}: {}", finding.object, finding.detail));
                }
            }
            if planned.chains.is_empty() {
                planned.first = range.first;
            }
            planned.next = range.next;
            let window = Window { offsets: range, from: self.cut.from(), until: self.cut.until() };
            for row in index.iter_from(index.at_offset(range.first).unwrap_or(index.len())) {
                if row.range.first >= range.next {
                    break;
                }
                undecided += u64::from(row.has_undecided);
                if contributes(&row, &window) {
                    planned.segments += 1;
                    planned.records += row.records;
                    planned.bytes += row.length_bytes;
                    if let Some((first, last)) = row.min_time.or(row.first_time).zip(row.max_time) {
                        let (least, most) = times.unwrap_or((first, last));
                        times = Some((least.min(first), most.max(last)));
                    }
                }
            }
            planned.chains.push(ChainPlan { chain: part.place.name(), first: range.first, next: range.next });
        }
        if undecided > 0 {
            let detail = format!(
                "{undecided} segments have transactions of which nobody knows whether they were aborted: they are left out"
            );
            self.hazard(Danger::UndecidedTransactions, partition, detail);
        }
        if let Some(end) = self.savepoint.as_ref().and_then(|savepoint| savepoint.end_of(partition))
            && planned.next < end
            && end > wanted.first
            && wanted.next >= end
        {
            let detail = format!("the archive ends at offset {}, the savepoint at {end}", planned.next);
            self.hazard(Danger::SavepointIncomplete, partition, detail);
        }
        self.too_early(partition, times);
        Ok(planned)
    }

    /// Kafka refuses records of more than an hour ahead of its clock; what we make takes them, what is there may not.
    fn too_early(&mut self, partition: &Partition, times: Option<(Timestamp, Timestamp)>) {
        const AHEAD_MS: i64 = 3_600_000;
        if let Some((_, last)) = times.filter(|(_, last)| last.0 > Timestamp::now().0.saturating_add(AHEAD_MS)) {
            let detail =
                format!("records have times up to {last}: brokers since Kafka 4.0 refuses what is an hour ahead");
            self.hazard(Danger::TimestampLimits, partition, detail);
        }
    }

    /// Refuses two sources of one target partition: their records would be mixed.
    fn collisions(&self, topics: &[TopicPlan]) -> Result<()> {
        let mut taken: HashMap<(&str, i32), String> = HashMap::new();
        for topic in topics {
            for partition in &topic.partitions {
                let name = format!("{}-{}", topic.source, partition.source);
                if let Some(other) = taken.insert((&topic.target, partition.target), name.clone()) {
                    return Err(Error::usage(format!(
                        "`{other}` and `{name}` would both go to `{}-{}`",
                        topic.target, partition.target
                    ))
                    .hint("give one of them another topic (sink.topics) or partition (sink.partitions)"));
                }
            }
        }
        Ok(())
    }

    /// Looks at the target topics: which are there and what is dangerous about them, and how the others are made.
    async fn targets(&mut self, client: &Client, topics: &mut [TopicPlan], timelines: &[Timeline]) -> Result<()> {
        let names: BTreeSet<String> = topics.iter().map(|topic| topic.target.clone()).collect();
        let names: Vec<_> = names.into_iter().collect();
        let metadata = client.metadata(Some(&names)).await?;
        let told: BTreeMap<&str, &TopicMetadata> =
            metadata.topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
        let mut there = Vec::new();
        for name in &names {
            match told.get(name.as_str()).map(|told| told.code) {
                Some(0) => there.push(name.clone()),
                Some(UNKNOWN_TOPIC_OR_PARTITION) | None => {}
                Some(code) => {
                    let code = crate::kafka::code_name(code);
                    return Err(Error::failed(format!("the cluster does not tell of topic \"{name}\": {code}")));
                }
            }
        }
        let settings = client.topic_configs(&there).await?;
        let brokers = metadata.brokers.len();
        for topic in topics {
            let timeline = timelines
                .iter()
                .find(|timeline| *timeline.topic == *topic.source && timeline.topic_id.to_string() == topic.topic_id);
            let object =
                timeline.and_then(|timeline| timeline.object.as_ref().ok()?.as_ref()).map(|object| &object.topic);
            match told.get(topic.target.as_str()).filter(|told| told.code == 0) {
                None => topic.create = Some(new_topic(topic, object, brokers)),
                Some(told) => {
                    let configs = match settings.get(&topic.target) {
                        Some(Ok(configs)) => configs.as_slice(),
                        _ => &[],
                    };
                    self.there(client, topic, told, configs).await?;
                }
            }
            if let Some(most) = number(topic.create.as_ref().map(|new| &new.configs), "max.message.bytes") {
                topic.most_bytes = most;
            }
        }
        Ok(())
    }

    /// Looks at a target topic that is there.
    async fn there(
        &mut self,
        client: &Client,
        topic: &mut TopicPlan,
        told: &TopicMetadata,
        configs: &[TopicConfig],
    ) -> Result<()> {
        let value =
            |name: &str| configs.iter().find(|config| config.name == name).and_then(|config| config.value.as_deref());
        let parsed = |name: &str| value(name).and_then(|value| value.parse::<i64>().ok());
        if let Some(most) = parsed("max.message.bytes").and_then(|most| usize::try_from(most).ok()) {
            topic.most_bytes = most;
        }
        let name = topic.target.clone();
        let mut queries: BTreeMap<i32, Vec<OffsetQuery>> = BTreeMap::new();
        for partition in &topic.partitions {
            let Some(met) = told.partitions.iter().find(|met| met.index == partition.target) else {
                let detail = format!(
                    "the topic has {} partitions: what would go there cannot be restored",
                    told.partitions.len()
                );
                self.hazard(Danger::PartitionMissing, format!("{name}-{}", partition.target), detail);
                continue;
            };
            let of = Partition { topic: name.as_str().into(), topic_id: told.topic_id, index: met.index };
            let query = OffsetQuery { partition: of, leader_epoch: -1, at: At::Latest };
            queries.entry(met.leader).or_default().push(query);
            let wanted = parsed("min.insync.replicas").unwrap_or(1);
            if wanted > i64::from(met.replicas) {
                let detail = format!("min.insync.replicas is {wanted}, and it has {} replicas", met.replicas);
                self.hazard(Danger::MinInsyncReplicas, format!("{name}-{}", met.index), detail);
            }
        }
        for (leader, asked) in queries {
            let latest = client.list_offsets(leader, &asked, Isolation::Uncommitted).await?;
            let first: Vec<_> = asked.iter().map(|query| OffsetQuery { at: At::Earliest, ..query.clone() }).collect();
            let earliest = client.list_offsets(leader, &first, Isolation::Uncommitted).await?;
            for ((query, latest), earliest) in asked.iter().zip(latest).zip(earliest) {
                if latest.offset > earliest.offset {
                    let detail = format!("it holds offsets {} to {} already", earliest.offset, latest.offset - 1);
                    self.hazard(Danger::TargetNotEmpty, &query.partition, detail);
                }
            }
        }
        if value("message.timestamp.type") == Some("LogAppendTime") {
            self.hazard(
                Danger::LogAppendTime,
                &name,
                "the topic stamps records with the time at which they are restored",
            );
        }
        if let Some(codec) = value("compression.type").filter(|codec| *codec != "producer") {
            let detail = format!("compression.type is {codec}: batches differ from the archive's, records do not");
            self.hazard(Danger::Recompressed, &name, detail);
        }
        let keeps = parsed("retention.ms").filter(|keeps| *keeps >= 0);
        let deletes = value("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
        if let Some(keeps) = keeps.filter(|_| deletes) {
            let detail = format!(
                "retention.ms is {keeps}: records older than {} are deleted soon",
                Timestamp(Timestamp::now().0.saturating_sub(keeps))
            );
            if self.is_older(topic, Timestamp::now().0.saturating_sub(keeps)).await? {
                self.hazard(Danger::OlderThanRetention, &name, detail);
            }
        }
        Ok(())
    }

    /// Returns whether a topic has records that are wanted of before a time.
    async fn is_older(&self, topic: &TopicPlan, than_ms: i64) -> Result<bool> {
        if self.cut.from_ms.is_some_and(|from| from >= than_ms) {
            return Ok(false);
        }
        for partition in &topic.partitions {
            for chain in &partition.chains {
                let Some((index, fork)) = crate::archive::layout::parse_chain_name(&chain.chain) else { continue };
                let of = Partition { topic: topic.source.as_str().into(), topic_id: topic.topic_id.parse()?, index };
                let place = source::Place::new(of, fork);
                let opened = Opened::read(self.archive, &place).await?;
                let at = opened.index.at_offset(chain.first).unwrap_or(opened.index.len());
                // The first record's time stands for those whose least is not proven.
                let is_old = |time: Option<Timestamp>| time.is_some_and(|time| (0..than_ms).contains(&time.0));
                let mut rows = opened.index.iter_from(at).take_while(|row| row.range.first < chain.next);
                if rows.any(|row| row.records > 0 && is_old(row.min_time.or(row.first_time))) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Returns whether a finding is one of records that are not there, or cannot be read.
fn is_break(what: What) -> bool {
    let of_catalogs = matches!(what, What::DamagedCatalog | What::MissingCatalog | What::Undecided);
    what.exit_kind().is_some_and(|kind| kind != Kind::Partial) && !of_catalogs
}

fn number(configs: Option<&Vec<(String, String)>>, name: &str) -> Option<usize> {
    configs?.iter().find(|(known, _)| known == name)?.1.parse().ok()
}

/// Plans how a topic is made: as the archived one was, but for what would take records away while they come.
fn new_topic(topic: &TopicPlan, object: Option<&Topic>, brokers: usize) -> NewTopic {
    let highest = topic.partitions.iter().map(|partition| partition.target + 1).max().unwrap_or(1);
    let set = object.and_then(|object| object.configs.as_ref()).into_iter().flatten().filter(|config| config.set);
    let set: Vec<_> = set.filter_map(|config| Some((config.name.clone(), config.value.clone()?))).collect();
    let is_late = |name: &str| AFTERWARDS.contains(&name);
    // Throttles name the brokers of the other cluster.
    let is_foreign = |name: &str| name.ends_with(".throttled.replicas");
    let mut configs: Vec<_> = set.iter().filter(|(name, _)| !is_late(name) && !is_foreign(name)).cloned().collect();
    let mut afterwards: Vec<(String, String)> = set.iter().filter(|(name, _)| is_late(name)).cloned().collect();
    for (name, value) in MEANWHILE {
        configs.push((name.to_owned(), value.to_owned()));
    }
    configs.sort();
    afterwards.sort();
    let replicas = object.map_or(1, |object| object.replication_factor.max(1));
    NewTopic {
        partitions: object.map_or(highest, |object| object.partitions.max(highest)),
        replication_factor: replicas.min(i16::try_from(brokers).unwrap_or(i16::MAX)).max(1),
        configs,
        afterwards,
    }
}
