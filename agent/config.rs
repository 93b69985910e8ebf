//! The configuration: a file in, checked values out. The native one is TOML; a restore may be written in [`yaml`] too.
//!
//! Everything that is wrong is one line of [`Kind::Usage`](crate::error::Kind::Usage) that names the file, the path
//! of the key and what to write instead. Keys, types, defaults and reasons are in [`keys`]; references like
//! `${env:NAME}` are replaced in values after parsing. No I/O but reading the file and what it refers to.

mod agent;
pub mod keys;
pub mod restore;
mod section;
mod substitute;
pub mod value;
mod yaml;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Map, Value};

pub use self::agent::{Agent, Tls};
use self::keys::{KEYS, Key, RESTORE_KEYS};
pub use self::restore::Restore;
use self::section::{File, Section};
pub(crate) use self::substitute::refers;
use crate::error::{Error, Result};
use crate::kafka::client::groups::Choice;
use crate::kafka::given;
use crate::kafka::source::{Selection, Start};
use crate::plugin::Limits;
use crate::stages::{MOST_STAGES, OnError, Stage};
use crate::store::place;

/// The largest segment: Kafka's tools count positions in a file with 31 bits, and a segment closes at the first batch
/// past its size.
const MOST_ROLL_BYTES: u64 = 1 << 30;

/// The largest budget: one payment from it is a 32-bit number.
const MOST_MEMORY_BYTES: u64 = u32::MAX as u64;

/// The most memory of a plugin: addresses in WebAssembly are of 32 bits.
const MOST_PLUGIN_BYTES: u64 = u32::MAX as u64;

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// `[agent]`.
    pub agent: Agent,
    /// Each `[[pipeline]]` that captures, in the order of the file.
    pub pipelines: Vec<Pipeline>,
    /// Each `[[pipeline]]` that restores, in the order of the file.
    pub restores: Vec<Restore>,
    /// The file's name, for errors.
    pub file: String,
    effective: Value,
}

/// `[[pipeline]]`: what is captured into where.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// Its name in logs, metrics and `/readyz`.
    pub name: String,
    /// The limit on what it fetches, if there is one.
    pub max_bytes_per_second: Option<u64>,
    /// How far behind it may be.
    pub objectives: Objectives,
    /// `[pipeline.source]`.
    pub source: Source,
    /// Each `[[pipeline.stage]]`, in the order of the file.
    pub stages: Vec<Stage>,
    /// `[pipeline.sink]`.
    pub sink: Sink,
    /// `[pipeline.verify]`.
    pub verify: Verify,
}

/// How far behind a pipeline may be before `/readyz` says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Objectives {
    /// For how long something may not be durable; `None`: nobody minds.
    pub max_lag: Option<Duration>,
    /// How near the source's retention may come to it; `None`: nobody minds.
    pub min_headroom: Option<Duration>,
}

/// `[pipeline.verify]`: the check of the backup beside the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verify {
    /// How often; `None`: never.
    pub every: Option<Duration>,
    /// Whether every byte is read.
    pub deep: bool,
}

/// `[pipeline.source]` of type `kafka`.
#[derive(Clone, PartialEq)]
pub struct Source {
    /// The topics.
    pub topics: Selection,
    /// The consumer group whose members share the partitions, if there is one.
    pub group_id: Option<String>,
    /// Where a partition begins that the archive holds nothing of.
    pub start: Start,
    /// How often the topics are looked at again.
    pub metadata_interval: Duration,
    /// How long the last stable offset may stand still while the log goes on.
    pub transaction_patience: Duration,
    /// How often a savepoint is made; `None`: only when asked for.
    pub savepoint_interval: Option<Duration>,
    /// The consumer groups whose offsets savepoints keep.
    pub groups: Choice,
    /// The client's properties by librdkafka's names; they hold secrets.
    pub kafka: BTreeMap<String, String>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("topics", &self.topics)
            .field("group_id", &self.group_id)
            .field("start", &self.start)
            .field("metadata_interval", &self.metadata_interval)
            .field("transaction_patience", &self.transaction_patience)
            .field("savepoint_interval", &self.savepoint_interval)
            .field("groups", &self.groups)
            .field("kafka", &self.kafka.keys())
            .finish()
    }
}

/// `[pipeline.sink]` of type `archive`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sink {
    /// The backup's name, one safe path component.
    pub backup_id: String,
    /// A folder, or the URL of a store.
    pub path: String,
    /// The size at which a segment closes.
    pub roll_bytes: u64,
    /// The age at which a segment closes.
    pub roll_interval: Duration,
    /// The bound on fetched data that is not yet written.
    pub memory_bytes: usize,
    /// The time for making durable what is held when told to stop.
    pub shutdown_timeout: Duration,
}

impl Config {
    /// Reads and checks the file at `path`, with references resolved from this process's environment.
    pub fn load(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::usage(format!("there is no configuration file {file}")),
            _ => Error::usage(format!("cannot read the configuration file {file}")).source(error),
        })?;
        Self::parse(&file, &text, &|name| std::env::var(name).ok())
    }

    /// Checks `text`; `file` names it in errors, and by its ending says whether it is YAML; `variable` looks up references
    /// to the environment.
    pub fn parse(file: &str, text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let is_yaml = yaml::is_yaml(file);
        let given = if is_yaml { yaml::parse(file, text)? } else { parse_toml(file, text)? };
        let mut resolver = Resolver { file, variable, referring: HashSet::new() };
        let given = resolver.table("", given)?;
        let read = Rc::new(File { name: file.to_owned(), referring: resolver.referring });
        if is_yaml {
            let agent = Agent::read(&mut Section::open(&read, "agent", KEYS, "agent", Map::new())?)?;
            let (restore, effective) = yaml::read(&read, given)?;
            let (pipelines, restores) = (Vec::new(), vec![restore]);
            return Ok(Self { agent, pipelines, restores, file: file.to_owned(), effective });
        }
        let mut top = Section::open(&read, "", KEYS, "", given)?;
        let mut section = top.section("agent")?;
        let agent = Agent::read(&mut section)?;
        top.keep("agent", section.close());

        let (mut pipelines, mut restores) = (Vec::new(), Vec::<Restore>::new());
        let mut shown = Vec::new();
        for mut section in pipelines_of(&mut top, &agent)? {
            if section.restores() {
                let restore = Restore::read(&mut section)?;
                let is_known = pipelines.iter().map(|known: &Pipeline| &known.name).any(|name| *name == restore.name)
                    || restores.iter().any(|known| known.name == restore.name);
                if is_known {
                    return Err(section.error("name", format!("another pipeline is named `{}` too", restore.name)));
                }
                if let Some(other) = restores.iter().find(|known| known.id() == restore.id()) {
                    let reason = format!("`{}` is the restore of the pipeline `{}` already", restore.id(), other.name);
                    return Err(section.error("sink.restore_id", reason));
                }
                restores.push(restore);
                shown.push(section.close());
                continue;
            }
            let pipeline = Pipeline::read(&mut section)?;
            if let Some((key, reason)) = conflict(&pipelines, &pipeline) {
                return Err(section.error(key, reason));
            }
            pipelines.push(pipeline);
            shown.push(section.close());
        }
        top.keep("pipeline", shown.into());
        Ok(Self { agent, pipelines, restores, file: file.to_owned(), effective: top.close() })
    }

    /// Checks one pipeline by itself, given in the shape of the file's. References are not replaced: what one stands for is
    /// nothing that whoever asks may learn.
    ///
    /// # Errors
    /// The first thing that is wrong, with its [`Error::key`].
    pub fn check_pipeline(given: Map<String, Value>) -> Result<()> {
        let file = Rc::new(File { name: "the pipeline".to_owned(), referring: HashSet::new() });
        let keys = keys_of(&given).unwrap_or(KEYS);
        let mut section = Section::open(&file, "", keys, "pipeline", given)?;
        match section.restores() {
            true => Restore::read(&mut section).map(drop),
            false => Pipeline::read(&mut section).map(drop),
        }
    }

    /// Reads a pipeline that captures, given by itself in the shape of the file's, with references replaced. No message
    /// holds what a reference stands for.
    ///
    /// # Errors
    /// The first thing that is wrong, with its [`Error::key`].
    pub fn pipeline(given: Map<String, Value>, variable: &dyn Fn(&str) -> Option<String>) -> Result<Pipeline> {
        alone(given, variable, KEYS, Pipeline::read)
    }

    /// As [`pipeline`](Self::pipeline), for one that restores.
    ///
    /// # Errors
    /// As there.
    pub fn restore(given: Map<String, Value>, variable: &dyn Fn(&str) -> Option<String>) -> Result<Restore> {
        alone(given, variable, RESTORE_KEYS, Restore::read)
    }

    /// Checks that a pipeline does not get in the way of `others`.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) with its [`Error::key`].
    pub fn check_beside(pipeline: &Pipeline, others: &[&Pipeline]) -> Result<()> {
        let (key, reason) = match conflict(others.iter().copied(), pipeline) {
            None => return Ok(()),
            Some(found) => found,
        };
        Err(Error::usage(format!("the pipeline: {key}: {reason}")).about(key, reason))
    }

    /// Returns everything that holds, defaults filled in and secrets masked, in the shape of the file.
    pub fn effective(&self) -> &Value {
        &self.effective
    }

    /// Returns [`effective`](Self::effective) as the file is written: in TOML, or in YAML.
    pub fn to_text(&self) -> Result<String> {
        let failed = || Error::failed("cannot print the configuration");
        match yaml::is_yaml(&self.file) {
            true => serde_saphyr::to_string(&self.effective).map_err(|error| failed().source(error)),
            false => toml::to_string(&self.effective).map_err(|error| failed().source(error)),
        }
    }
}

/// Reads a pipeline that is given by itself. No message holds what a reference stands for.
fn alone<T>(
    given: Map<String, Value>,
    variable: &dyn Fn(&str) -> Option<String>,
    keys: &'static [Key],
    read: impl Fn(&mut Section) -> Result<T>,
) -> Result<T> {
    let name = "the pipeline";
    let mut resolver = Resolver { file: name, variable, referring: HashSet::new() };
    let given = resolver.table("", given)?;
    let file = Rc::new(File { name: name.to_owned(), referring: resolver.referring });
    let read = Section::open(&file, "", keys, "pipeline", given).and_then(|mut section| read(&mut section));
    read.map_err(|error| match error.key() {
        Some((key, _)) if file.referring.iter().any(|path| path == key || path.starts_with(&format!("{key}."))) => {
            let (key, reason) = (key.to_owned(), "what its reference stands for is not right");
            Error::usage(format!("{name}: {key}: {reason}")).about(key, reason)
        }
        _ => error,
    })
}

impl Pipeline {
    fn read(section: &mut Section) -> Result<Self> {
        let name = section.read("name", |text| match text.trim() {
            "" => Err("must not be empty".to_owned()),
            _ => Ok(text.to_owned()),
        })?;
        let max_bytes_per_second = section.optional_size("max_bytes_per_second", u64::MAX)?;
        let objectives = Objectives {
            max_lag: section.duration_or_off("max_lag")?,
            min_headroom: section.duration_or_off("min_headroom")?,
        };
        let mut below = section.section("source")?;
        let source = Source::read(&mut below)?;
        section.keep("source", below.close());
        let stages = read_stages(section)?;
        let mut below = section.section("sink")?;
        let sink = Sink::read(&mut below)?;
        section.keep("sink", below.close());
        let mut below = section.section("verify")?;
        let verify = Verify { every: below.duration_or_off("every")?, deep: below.flag("deep")? };
        section.keep("verify", below.close());
        Ok(Self { name, max_bytes_per_second, objectives, source, stages, sink, verify })
    }
}

impl Source {
    fn read(section: &mut Section) -> Result<Self> {
        section.read("type", |text| match text {
            "kafka" => Ok(()),
            _ => Err(format!("there is no source of type `{text}`: it is `kafka`, or `archive` to restore")),
        })?;
        let topics = read_topics(section)?;
        let group_id = section.given_text("group_id")?;
        let kafka = section.properties("kafka")?;
        if kafka.get("bootstrap.servers").is_none_or(|servers| servers.trim().is_empty()) {
            return Err(section.error("kafka", "needs \"bootstrap.servers\", as \"127.0.0.1:9092\""));
        }
        if let (Some(group_id), Some(other)) = (&group_id, kafka.get("group.id"))
            && group_id != other
        {
            return Err(section.error("group_id", format!("`{group_id}`, but kafka has \"group.id\" = \"{other}\"")));
        }
        let start = section.read("start", value::start)?;
        let metadata_interval = section.duration("metadata_interval")?;
        let transaction_patience = section.duration("transaction_patience")?;
        let savepoint_interval = section.duration_or_off("savepoint_interval")?;
        let groups = read_groups(section)?;
        Ok(Self { topics, group_id, start, metadata_interval, transaction_patience, savepoint_interval, groups, kafka })
    }
}

/// Reads which topics are chosen: by name, by pattern, or both.
fn read_topics(section: &mut Section) -> Result<Selection> {
    let topics = section.optional_list("topics")?.unwrap_or_default();
    let regex = section.given_text("topics_regex")?;
    let excludes = section.optional_list("topics_exclude")?.unwrap_or_default();
    if topics.is_empty() && regex.is_none() {
        return Err(section.error("topics", "must name at least one topic, unless topics_regex is given"));
    }
    if regex.is_none() && !excludes.is_empty() {
        let reason = "excludes from what topics_regex matches, which is not given: leave it out";
        return Err(section.error("topics_exclude", reason));
    }
    let check = |pattern: &str| Selection::new(Vec::new(), Some(pattern), &[]).map(drop);
    if let Some(regex) = &regex {
        check(regex).map_err(|error| section.error("topics_regex", error))?;
    }
    for (i, exclude) in excludes.iter().enumerate() {
        check(exclude).map_err(|error| section.error(&format!("topics_exclude[{i}]"), error))?;
    }
    let selection = Selection::new(topics, regex.as_deref(), &excludes)?;
    let topics = selection.names();
    for (i, topic) in topics.iter().enumerate() {
        let at = format!("topics[{i}]");
        value::check_topic(topic).map_err(|reason| section.error(&at, reason))?;
        if topics[..i].contains(topic) {
            return Err(section.error(&at, format!("`{topic}` is named twice")));
        }
        if selection.excludes(topic) {
            return Err(section.error(&at, format!("`{topic}` is named here and excluded by topics_exclude")));
        }
    }
    Ok(selection)
}

/// Reads which consumer groups savepoints keep: by name, by pattern, or all.
fn read_groups(section: &mut Section) -> Result<Choice> {
    let groups = section.optional_list("groups")?.unwrap_or_default();
    let regex = section.given_text("groups_regex")?;
    let excludes = section.optional_list("groups_exclude")?.unwrap_or_default();
    let check = |pattern: &str| Choice::new(Vec::new(), Some(pattern), &[]).map(drop);
    if let Some(regex) = &regex {
        check(regex).map_err(|error| section.error("groups_regex", error))?;
    }
    for (i, exclude) in excludes.iter().enumerate() {
        check(exclude).map_err(|error| section.error(&format!("groups_exclude[{i}]"), error))?;
    }
    let choice = Choice::new(groups, regex.as_deref(), &excludes)?;
    if !choice.needs_listing() && !excludes.is_empty() {
        let reason = "excludes from what groups_regex matches, or from all groups: leave it out, or groups";
        return Err(section.error("groups_exclude", reason));
    }
    let groups = choice.names();
    for (i, group) in groups.iter().enumerate() {
        let at = format!("groups[{i}]");
        if group.is_empty() {
            return Err(section.error(&at, "must not be empty"));
        }
        if groups[..i].contains(group) {
            return Err(section.error(&at, format!("`{group}` is named twice")));
        }
        if choice.excludes(group) {
            return Err(section.error(&at, format!("`{group}` is named here and excluded by groups_exclude")));
        }
    }
    Ok(choice)
}

/// Takes the pipelines of the file, at least one; where others can be made over HTTP and last, there may be none.
fn pipelines_of(top: &mut Section, agent: &Agent) -> Result<Vec<Section>> {
    match agent.state_dir.is_some() && !top.gives("pipeline") {
        true => Ok(Vec::new()),
        false => top.sections("pipeline", keys_of),
    }
}

/// Returns the keys of a pipeline, by its source, if they are not those of one that captures.
fn keys_of(pipeline: &Map<String, Value>) -> Option<&'static [Key]> {
    let source = pipeline.get("source").and_then(|source| source.get("type"));
    (source.and_then(Value::as_str) == Some("archive")).then_some(RESTORE_KEYS)
}

/// Reads the stages of a pipeline, of which there may be none.
fn read_stages(section: &mut Section) -> Result<Vec<Stage>> {
    let (mut stages, mut shown) = (Vec::new(), Vec::new());
    for mut below in section.optional_sections("stage")? {
        stages.push(read_stage(&mut below)?);
        shown.push(below.close());
    }
    if stages.len() > MOST_STAGES {
        return Err(section.error("stage", format!("there are {} stages, the most is {MOST_STAGES}", stages.len())));
    }
    if !shown.is_empty() {
        section.keep("stage", shown.into());
    }
    Ok(stages)
}

fn read_stage(section: &mut Section) -> Result<Stage> {
    let plugin = section.read("plugin", |text| match text.trim() {
        "" => Err("must not be empty".to_owned()),
        plugin => Ok(plugin.to_owned()),
    })?;
    let settings = section.settings("settings")?;
    let on_error = section.read("on_error", |text| match text {
        "fail" => Ok(OnError::Fail),
        "skip" => Ok(OnError::Skip),
        "dead-letter" => Ok(OnError::DeadLetter),
        _ => Err(format!("there is no policy `{text}`: it is `fail`, `skip` or `dead-letter`")),
    })?;
    let deadline = section.duration("deadline")?;
    let memory_bytes = section.size("memory_bytes", MOST_PLUGIN_BYTES)? as usize;
    Ok(Stage { plugin, settings, limits: Limits { deadline, memory_bytes }, on_error })
}

impl Sink {
    fn read(section: &mut Section) -> Result<Self> {
        section.read("type", |text| match text {
            "archive" => Ok(()),
            "kafka" => Err("`kafka` is the sink of a restore, whose source is an `archive`".to_owned()),
            _ => Err(format!("there is no sink of type `{text}`: it is `archive`")),
        })?;
        Ok(Self {
            backup_id: section.read("backup_id", |text| value::check_backup_id(text).map(|()| text.to_owned()))?,
            path: section.read("path", |text| match text.trim() {
                "" => Err("must not be empty".to_owned()),
                path => Ok(path.to_owned()),
            })?,
            roll_bytes: section.size("roll_bytes", MOST_ROLL_BYTES)?,
            roll_interval: section.duration("roll_interval")?,
            memory_bytes: section.size("memory_bytes", MOST_MEMORY_BYTES)? as usize,
            shutdown_timeout: section.duration("shutdown_timeout")?,
        })
    }
}

/// Says in what `pipeline` gets in the way of one before it, if it does: the key, and the reason.
///
/// Topics that one backup would get twice are found where at least one of the two names them. Two patterns cannot be
/// compared: if both match a topic, both pipelines capture it, and the archive keeps it once, at twice the reading. One place may
/// be written in several ways. It may block, to look where links lead.
fn conflict<'a>(before: impl IntoIterator<Item = &'a Pipeline>, pipeline: &Pipeline) -> Option<(&'static str, String)> {
    let is_same = |one: &Sink, other: &Sink| {
        one.backup_id == other.backup_id
            && (one.path == other.path || place::real(&one.path) == place::real(&other.path))
    };
    for other in before {
        if other.name == pipeline.name {
            return Some(("name", format!("another pipeline is named `{}` too", pipeline.name)));
        }
        let cluster = |source: &Source| source.kafka.get("bootstrap.servers").cloned();
        if let Some(group_id) = &pipeline.source.group_id
            && other.source.group_id.as_ref() == Some(group_id)
            && cluster(&other.source) == cluster(&pipeline.source)
        {
            let reason = format!(
                "pipeline `{}` is in group `{group_id}` too, and each would get only a part of the partitions: give \
                 each a group of its own",
                other.name
            );
            return Some(("source.group_id", reason));
        }
        let (mine, theirs) = (&pipeline.source.topics, &other.source.topics);
        let named = mine.names().iter().find(|topic| theirs.holds(topic, false));
        let topic = named.or_else(|| theirs.names().iter().find(|topic| mine.holds(topic, false)));
        if let Some(topic) = topic.filter(|_| is_same(&other.sink, &pipeline.sink)) {
            let reason = format!(
                "pipeline `{}` writes topic `{topic}` to backup `{}` too: give one of them another backup_id",
                other.name, pipeline.sink.backup_id
            );
            return Some(("sink.backup_id", reason));
        }
    }
    None
}

/// Reads TOML as the values that JSON has.
fn parse_toml(file: &str, text: &str) -> Result<Map<String, Value>> {
    let table: toml::Table = text.parse().map_err(|error| syntax_error(file, text, &error))?;
    Ok(table.into_iter().map(|(key, value)| (key, json_of(value))).collect())
}

/// Leaves of TOML's types those that JSON has.
fn json_of(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json_of).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, json_of(value))).collect(),
    }
}

/// Makes one line of a TOML error, with line and column.
fn syntax_error(file: &str, text: &str, error: &toml::de::Error) -> Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    Error::usage(format!("{file}:{line}:{column}: {message}"))
}

/// Returns the path of the key `name` below `path`. A name with dots (librdkafka's have them) is shown as the file must
/// quote it.
fn below(path: &str, name: &str) -> String {
    let name = if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

/// Returns the name of a property of a Kafka client, of its path.
fn property_of(path: &str) -> Option<String> {
    let name = path.strip_prefix("kafka.").or_else(|| path.split_once(".kafka.").map(|(_, name)| name))?;
    // A name with dots is one key in quotes, or tables in tables.
    Some(name.replace('"', ""))
}

/// Replaces references, and keeps where there were any.
struct Resolver<'a> {
    file: &'a str,
    variable: &'a dyn Fn(&str) -> Option<String>,
    referring: HashSet<String>,
}

impl Resolver<'_> {
    fn table(&mut self, path: &str, table: Map<String, Value>) -> Result<Map<String, Value>> {
        let mut resolved = Map::new();
        for (key, value) in table {
            let path = below(path, &key);
            resolved.insert(key, self.value(path, value)?);
        }
        Ok(resolved)
    }

    fn value(&mut self, path: String, value: Value) -> Result<Value> {
        Ok(match value {
            Value::String(text) => {
                let replaced = match property_of(&path).is_some_and(|name| given::is_renewed(&name)) {
                    true => substitute::keep_files(&text, self.variable),
                    false => substitute::substitute(&text, self.variable),
                };
                let resolved = replaced
                    .map_err(|reason| {
                        Error::usage(format!("{}: {path}: {reason}", self.file)).about(path.clone(), reason)
                    })?
                    .into();
                if substitute::refers(&text) {
                    self.referring.insert(path);
                }
                resolved
            }
            Value::Array(values) => {
                let mut resolved = Vec::with_capacity(values.len());
                for (i, value) in values.into_iter().enumerate() {
                    resolved.push(self.value(format!("{path}[{i}]"), value)?);
                }
                resolved.into()
            }
            Value::Object(table) => self.table(&path, table)?.into(),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests;
