//! A pipeline that restores, as it is configured: what is asked for, checked as far as the file alone tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::section::Section;
use super::{MOST_MEMORY_BYTES, read_stages, value};
use crate::archive::layout;
use crate::archive::source::Fork;
use crate::error::Result;
use crate::kafka::source::Selection;
use crate::record::{Offset, OffsetRange, Timestamp, TopicId};
use crate::stages::{OnError, Stage};

/// The most partitions of a topic: what a cluster can carry at all.
const MOST_PARTITIONS: i32 = 100_000;

/// A pipeline from an archive into a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Restore {
    /// Its name.
    pub name: String,
    /// The limit on the bytes that it sends, if there is one.
    pub max_bytes_per_second: Option<u64>,
    /// The limit on the records that it sends, if there is one.
    pub max_records_per_second: Option<u64>,
    /// `[pipeline.source]`.
    pub source: Source,
    /// Each `[[pipeline.stage]]`, in the order of the file.
    pub stages: Vec<Stage>,
    /// `[pipeline.sink]`.
    pub sink: Sink,
    /// `[pipeline.groups]`: the consumer groups that are put back once all is restored; `None`: none are.
    pub groups: Option<Groups>,
}

/// The consumer groups that are put back once all is restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Their names; none: all of which the backup knows positions in what is restored.
    pub names: Vec<String>,
    /// Where they stood, if it was said: `savepoint:<name or time>`.
    pub positions: Option<String>,
}

/// `[pipeline.source]` of type `archive`.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The backup's name.
    pub backup_id: String,
    /// A folder, or the URL of a store.
    pub path: String,
    /// The topics by name; `None` for all of the backup.
    pub topics: Option<Selection>,
    /// Names that `topics_exclude` takes out of all.
    pub excludes: Selection,
    /// Topics of which an older one of the name is meant.
    pub timelines: BTreeMap<String, TopicId>,
    /// Of these topics only these partitions.
    pub partitions: Vec<(String, i32)>,
    /// The chains that are meant instead of a partition's newest; `None` is the partition's own.
    pub forks: Vec<(String, i32, Option<Fork>)>,
    /// Only records of this time or later.
    pub from: Option<Timestamp>,
    /// Only records before this time.
    pub until: Option<Timestamp>,
    /// The savepoint, by name or time.
    pub savepoint: Option<String>,
    /// Only these offsets of a partition.
    pub offsets: Vec<(String, i32, OffsetRange)>,
}

/// `[pipeline.sink]` of type `kafka`.
#[derive(Clone, PartialEq)]
pub struct Sink {
    /// Topics that get another name.
    pub topics: BTreeMap<String, String>,
    /// Partitions, of source topics, that become another one.
    pub partitions: Vec<(String, i32, i32)>,
    /// Topics, of the target, whose records are spread by key, over so many partitions.
    pub repartition: BTreeMap<String, i32>,
    /// The restore's name, if it was given one.
    pub restore_id: Option<String>,
    /// Where it keeps its state, if not beside the backup.
    pub state: Option<String>,
    /// The hazards that are meant, by name; whether there is one of that name is the plan's to know.
    pub accept: Vec<String>,
    /// Batches below this size are merged; 0 for none.
    pub merge_below: usize,
    /// The bound on what is read and not yet acknowledged.
    pub memory_bytes: usize,
    /// How often it is kept how far the restore has come.
    pub journal_interval: Duration,
    /// The time for what is on its way when told to stop.
    pub shutdown_timeout: Duration,
    /// The client's properties by librdkafka's names; they hold secrets.
    pub kafka: BTreeMap<String, String>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("topics", &self.topics)
            .field("partitions", &self.partitions)
            .field("repartition", &self.repartition)
            .field("restore_id", &self.restore_id)
            .field("state", &self.state.as_deref().map(value::shown_path))
            .field("accept", &self.accept)
            .field("merge_below", &self.merge_below)
            .field("memory_bytes", &self.memory_bytes)
            .field("journal_interval", &self.journal_interval)
            .field("shutdown_timeout", &self.shutdown_timeout)
            .field("kafka", &self.kafka.keys())
            .finish()
    }
}

impl Restore {
    pub(super) fn read(section: &mut Section) -> Result<Self> {
        let name = section.read("name", |text| match text.trim() {
            "" => Err("must not be empty".to_owned()),
            _ => Ok(text.to_owned()),
        })?;
        let max_bytes_per_second = section.optional_size("max_bytes_per_second", u64::MAX)?;
        let max_records_per_second = section.optional_count("max_records_per_second")?;
        let mut below = section.section("source")?;
        let source = Source::read(&mut below)?;
        section.keep("source", below.close());
        let stages = read_stages(section)?;
        check_policies(section, &stages)?;
        let mut below = section.section("sink")?;
        let sink = Sink::read(&mut below)?;
        section.keep("sink", below.close());
        let mut below = section.section("groups")?;
        let groups = Groups::read(&mut below)?;
        section.keep("groups", below.close());
        Ok(Self { name, max_bytes_per_second, max_records_per_second, source, stages, sink, groups })
    }
}

impl Groups {
    fn read(section: &mut Section) -> Result<Option<Self>> {
        let resets = section.flag("reset")?;
        for key in ["groups", "positions"] {
            if !resets && section.has(key) {
                return Err(section.error(key, "does nothing without reset = true"));
            }
        }
        let names = section.optional_list("groups")?.unwrap_or_default();
        check_names(section, "groups", &names)?;
        let positions = section.given_text("positions")?;
        Ok(resets.then_some(Self { names, positions }))
    }
}

/// Refuses names of groups that are none, or are named twice.
pub(super) fn check_names(section: &Section, key: &str, names: &[String]) -> Result<()> {
    for (i, group) in names.iter().enumerate() {
        let at = format!("{key}[{i}]");
        if group.is_empty() {
            return Err(section.error(&at, "must not be empty"));
        }
        if names[..i].contains(group) {
            return Err(section.error(&at, format!("`{group}` is named twice")));
        }
    }
    Ok(())
}

impl Restore {
    /// Returns whether a stage leaves out records that it fails at: which ones, may depend on how long it takes.
    pub fn skips(&self) -> bool {
        self.stages.iter().any(|stage| stage.on_error == OnError::Skip)
    }

    /// Returns the restore's id: the one that it was given, or its name with a digest of what is asked for.
    pub fn id(&self) -> String {
        if let Some(id) = &self.sink.restore_id {
            return id.clone();
        }
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let name: String = self.name.chars().map(safe).collect();
        format!("{name}-{:08x}", self.asked() as u32)
    }

    /// Returns the digest of what is asked for: another one of the same id is another restore.
    pub fn request(&self) -> String {
        format!("{:016x}", self.asked())
    }

    fn asked(&self) -> u64 {
        let sink = &self.sink;
        let servers = sink.kafka.get("bootstrap.servers");
        // With other keys to the same store it is the same restore.
        let source = Source { path: value::shown_path(&self.source.path), ..self.source.clone() };
        // What is printed of a stage hides its settings' values: they may be secrets, and nobody reads them out of a digest.
        let stages: Vec<_> = self.stages.iter().map(|stage| (&stage.plugin, &stage.settings, stage.on_error)).collect();
        let mut asked = format!("{:?}", (source, stages, &sink.topics, &sink.partitions, servers));
        if !sink.repartition.is_empty() {
            asked += &format!("{:?}", sink.repartition);
        }
        xxhash_rust::xxh3::xxh3_64(asked.as_bytes())
    }
}

impl Source {
    fn read(section: &mut Section) -> Result<Self> {
        section.read("type", |_| Ok(()))?;
        let backup_id = section.read("backup_id", |text| value::check_backup_id(text).map(|()| text.to_owned()))?;
        let path = read_path(section)?;
        let (names, timelines) = read_names(section)?;
        let regex = section.given_text("topics_regex")?;
        let excludes = section.optional_list("topics_exclude")?.unwrap_or_default();
        let select = |names: Vec<String>, regex: Option<&str>| Selection::new(names, regex, &excludes);
        let topics = match (names.is_empty(), &regex) {
            (true, None) => None,
            _ => Some(select(names, regex.as_deref()).map_err(|error| section.error("topics_regex", error))?),
        };
        let excludes = select(Vec::new(), None).map_err(|error| section.error("topics_exclude", error))?;
        let partitions = section.parsed_list("partitions", partition)?;
        let forks = section.parsed_list("forks", chain)?;
        let time = |text: Option<String>| text.map(|text| text.parse::<Timestamp>()).transpose();
        let from = time(section.given_text("from")?).map_err(|error| section.error("from", error))?;
        let until = time(section.given_text("until")?).map_err(|error| section.error("until", error))?;
        if let Some((from, until)) = from.zip(until).filter(|(from, until)| from >= until) {
            return Err(section.error("until", format!("{until} is not after from, {from}")));
        }
        let savepoint = section.given_text("savepoint")?;
        let offsets = section.parsed_list("offsets", offsets)?;
        once(section, "forks", forks.iter().map(|(topic, index, _)| (topic, *index)))?;
        once(section, "offsets", offsets.iter().map(|(topic, index, _)| (topic, *index)))?;
        Ok(Self { backup_id, path, topics, excludes, timelines, partitions, forks, from, until, savepoint, offsets })
    }
}

impl Sink {
    fn read(section: &mut Section) -> Result<Self> {
        section.read("type", |text| match text {
            "kafka" => Ok(()),
            _ => Err(format!("`{text}` is no sink of an archive: it is `kafka`")),
        })?;
        let topics = read_renamed(section, "topics")?;
        let partitions = section.parsed_list("partitions", |text| {
            let (from, to) = text.rsplit_once(':')?;
            let (topic, index) = partition(from)?;
            Some((topic, index, to.parse().ok().filter(|to| *to >= 0)?))
        })?;
        once(section, "partitions", partitions.iter().map(|(topic, index, _)| (topic, *index)))?;
        let repartition = read_repartition(section, &topics, &partitions)?;
        let restore_id = section.given_text("restore_id")?;
        if let Some(id) = &restore_id {
            value::check_restore_id(id).map_err(|reason| section.error("restore_id", reason))?;
        }
        let kafka = section.properties("kafka")?;
        if kafka.get("bootstrap.servers").is_none_or(|servers| servers.trim().is_empty()) {
            return Err(section.error("kafka", "needs \"bootstrap.servers\", as \"127.0.0.1:9092\""));
        }
        Ok(Self {
            topics,
            partitions,
            repartition,
            restore_id,
            state: section.given_text("state")?,
            accept: section.optional_list("accept")?.unwrap_or_default(),
            merge_below: section.read("merge_below", merge_below)?,
            memory_bytes: section.size("memory_bytes", MOST_MEMORY_BYTES)? as usize,
            journal_interval: section.duration("journal_interval")?,
            shutdown_timeout: section.duration("shutdown_timeout")?,
            kafka,
        })
    }
}

/// Reads the names of topics, and which of them are older ones of that name.
pub(super) fn read_names(section: &mut Section) -> Result<(Vec<String>, BTreeMap<String, TopicId>)> {
    let (mut names, mut timelines) = (Vec::new(), BTreeMap::new());
    for (i, text) in section.optional_list("topics")?.unwrap_or_default().into_iter().enumerate() {
        let at = format!("topics[{i}]");
        let (name, topic_id) = match text.split_once('@') {
            Some((name, id)) => (name.to_owned(), Some(id.parse().map_err(|error| section.error(&at, error))?)),
            None => (text, None),
        };
        value::check_topic(&name).map_err(|reason| section.error(&at, reason))?;
        if names.contains(&name) {
            return Err(section.error(&at, format!("`{name}` is named twice")));
        }
        timelines.extend(topic_id.map(|id| (name.clone(), id)));
        names.push(name);
    }
    Ok((names, timelines))
}

/// Reads a table of topics that get another name.
pub(super) fn read_renamed(section: &mut Section, key: &str) -> Result<BTreeMap<String, String>> {
    let topics = section.properties(key)?;
    for (from, to) in &topics {
        value::check_topic(to).map_err(|reason| section.error(&format!("{key}.{from}"), reason))?;
    }
    Ok(topics)
}

/// Reads `orders:6`, topics of the target with how many partitions they have.
fn read_repartition(
    section: &mut Section,
    topics: &BTreeMap<String, String>,
    partitions: &[(String, i32, i32)],
) -> Result<BTreeMap<String, i32>> {
    let listed = section.parsed_list("repartition", |text| {
        let (topic, count) = text.rsplit_once(':')?;
        let count = count.parse().ok().filter(|count: &i32| (1..=MOST_PARTITIONS).contains(count))?;
        Some((topic.to_owned(), count))
    })?;
    let mut repartition = BTreeMap::new();
    for (i, (topic, count)) in listed.into_iter().enumerate() {
        let at = format!("repartition[{i}]");
        value::check_topic(&topic).map_err(|reason| section.error(&at, reason))?;
        if repartition.insert(topic.clone(), count).is_some() {
            return Err(section.error(&at, format!("`{topic}` is named twice")));
        }
    }
    for (i, (source, index, _)) in partitions.iter().enumerate() {
        let target = topics.get(source).unwrap_or(source);
        if repartition.contains_key(target) {
            let reason =
                format!("`{source}-{index}` has no partition to become: `{target}` is spread by key (repartition)");
            return Err(section.error(&format!("partitions[{i}]"), reason));
        }
    }
    Ok(repartition)
}

/// Refuses a policy that only a capture has.
fn check_policies(section: &Section, stages: &[Stage]) -> Result<()> {
    let Some(at) = stages.iter().position(|stage| stage.on_error == OnError::DeadLetter) else { return Ok(()) };
    let reason = "a restore has no dead letters, the archive keeps the record: use `skip`, which names it";
    Err(section.error(&format!("stage[{at}].on_error"), reason))
}

/// Refuses a partition that a list says two things of.
fn once<'a>(section: &Section, key: &str, named: impl Iterator<Item = (&'a String, i32)>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (i, (topic, index)) in named.enumerate() {
        if !seen.insert((topic, index)) {
            return Err(section.error(&format!("{key}[{i}]"), format!("`{topic}-{index}` is named twice")));
        }
    }
    Ok(())
}

/// Reads below how many bytes batches are merged; 0 needs no unit.
pub(super) fn merge_below(text: &str) -> Result<usize, String> {
    const MOST_BYTES: u64 = 1 << 30;
    match text.trim() {
        "0" => Ok(0),
        text => match value::size(text)? {
            bytes if bytes > MOST_BYTES => Err(format!("`{text}` is too large: at most {MOST_BYTES} bytes")),
            bytes => Ok(bytes as usize),
        },
    }
}

/// Reads the path of a backup.
fn read_path(section: &mut Section) -> Result<String> {
    section.read("path", |text| match text.trim() {
        "" => Err("must not be empty".to_owned()),
        path => Ok(path.to_owned()),
    })
}

/// Reads `orders-3`.
fn partition(text: &str) -> Option<(String, i32)> {
    let (topic, index) = text.rsplit_once('-')?;
    let index = index.parse().ok().filter(|index: &i32| *index >= 0)?;
    (!topic.is_empty()).then(|| (topic.to_owned(), index))
}

/// Reads `orders-3@7-150234`, or `orders-3`.
fn chain(text: &str) -> Option<(String, i32, Option<Fork>)> {
    let Some((name, fork)) = text.split_once('@') else {
        return partition(text).map(|(topic, index)| (topic, index, None));
    };
    let (topic, index) = partition(name)?;
    let (index, fork) = layout::parse_chain_name(&format!("{index}@{fork}"))?;
    Some((topic, index, fork))
}

/// Reads `orders-3:100..250`, of which one end may be left out.
fn offsets(text: &str) -> Option<(String, i32, OffsetRange)> {
    let (name, range) = text.rsplit_once(':')?;
    let (topic, index) = partition(name)?;
    let (first, next) = range.split_once("..")?;
    let end = |text: &str, open: Offset| match text {
        "" => Some(open),
        text => text.parse::<Offset>().ok().filter(|offset| *offset >= 0),
    };
    let range = OffsetRange { first: end(first, 0)?, next: end(next, Offset::MAX)? };
    (range.first < range.next).then_some((topic, index, range))
}
