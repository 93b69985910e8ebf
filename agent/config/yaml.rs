//! A restore that is written in YAML, as it is documented for `three-phase-restore`: what it says in the words of the native
//! configuration.
//!
//! Its keys are in [`YAML_KEYS`]; what it cannot say has the native default. The offset strategies are
//! `docs/offset-management.md`'s.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::keys::{RESTORE_KEYS, YAML_KEYS};
use super::restore::{self, Groups, Restore, Sink, Source};
use super::section::{File, Section};
use super::{MOST_MEMORY_BYTES, read_stage, value};
use crate::error::{Error, Result};
use crate::kafka::source::Selection;
use crate::record::Timestamp;
use crate::stages::Stage;

/// What is written otherwise in a URL's parameter; the rest keeps an endpoint readable.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/').remove(b':');

/// Returns whether a file of this name is YAML.
pub(super) fn is_yaml(file: &str) -> bool {
    let ending = Path::new(file).extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ending.eq_ignore_ascii_case("yaml") || ending.eq_ignore_ascii_case("yml"))
}

/// Reads YAML as the values that JSON has.
pub(super) fn parse(file: &str, text: &str) -> Result<Map<String, Value>> {
    let read: Value = serde_saphyr::from_str(text).map_err(|error| {
        let at = error.location().map_or(String::new(), |at| format!("{}:{}:", at.line(), at.column()));
        let message = error.without_snippet().to_string();
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        Error::usage(format!("{file}:{at} {message}"))
    })?;
    match read {
        Value::Object(table) => Ok(table),
        _ => Err(Error::usage(format!("{file}: must be a table of keys, as `mode: restore`"))),
    }
}

/// Reads the restore; returns beside it everything that holds, secrets masked.
pub(super) fn read(file: &Rc<File>, given: Map<String, Value>) -> Result<(Restore, Value)> {
    let mut top = Section::open(file, "", YAML_KEYS, "", given)?;
    top.read("mode", |text| match text {
        "restore" => Ok(()),
        _ => {
            Err(format!("there is no mode `{text}` of a YAML file: it is `restore`; what captures is written in TOML"))
        }
    })?;
    let backup_id = top.read("backup_id", |text| value::check_backup_id(text).map(|()| text.to_owned()))?;
    let mut below = top.section("target")?;
    let kafka = read_kafka(&mut below)?;
    top.keep("target", below.close());
    let mut below = top.section("storage")?;
    let path = read_storage(&mut below)?;
    top.keep("storage", below.close());
    let mut below = top.section("restore")?;
    let Wanted { stages, groups, accept } = read_wanted(file, &mut below)?;
    top.keep("restore", below.close());
    let (names, timelines) = restore::read_names(&mut top)?;
    let none = Selection::new(Vec::new(), None, &[])?;
    let topics = if names.is_empty() { None } else { Some(Selection::new(names, None, &[])?) };
    let renamed = restore::read_renamed(&mut top, "topic_mapping")?;
    let until = top.given_text("until")?.map(|text| text.parse::<Timestamp>()).transpose();
    let until = until.map_err(|error| top.error("until", error))?;
    let source = Source {
        backup_id: backup_id.clone(),
        path,
        topics,
        excludes: none,
        timelines,
        partitions: Vec::new(),
        forks: Vec::new(),
        from: None,
        until,
        savepoint: None,
        offsets: Vec::new(),
    };
    let mut native = Section::open(file, "", RESTORE_KEYS, "pipeline.sink", Map::new())?;
    let sink = Sink {
        topics: renamed,
        partitions: Vec::new(),
        repartition: BTreeMap::new(),
        restore_id: None,
        state: None,
        accept,
        merge_below: native.read("merge_below", restore::merge_below)?,
        memory_bytes: native.size("memory_bytes", MOST_MEMORY_BYTES)? as usize,
        journal_interval: native.duration("journal_interval")?,
        shutdown_timeout: native.duration("shutdown_timeout")?,
        kafka,
    };
    let (max_bytes_per_second, max_records_per_second) = (None, None);
    let restore =
        Restore { name: backup_id, max_bytes_per_second, max_records_per_second, source, stages, sink, groups };
    Ok((restore, top.close()))
}

/// Reads how the cluster is reached, in librdkafka's words.
fn read_kafka(section: &mut Section) -> Result<BTreeMap<String, String>> {
    let servers = section.listed("bootstrap_servers")?.unwrap_or_default();
    if servers.is_empty() || servers.iter().any(String::is_empty) {
        return Err(section.error("bootstrap_servers", "must name a broker, as `- kafka-dr:9092`"));
    }
    let mut kafka = section.properties("kafka")?;
    let servers = servers.join(",");
    match kafka.get("bootstrap.servers") {
        Some(other) if *other != servers => {
            Err(section.error("kafka.\"bootstrap.servers\"", "are others than bootstrap_servers: leave it out"))
        }
        _ => {
            kafka.insert("bootstrap.servers".to_owned(), servers);
            Ok(kafka)
        }
    }
}

/// Reads where the backup lies: a folder, or the URL of a store.
fn read_storage(section: &mut Section) -> Result<String> {
    /// A backend: the scheme of its URLs, the key that holds its place, and the other keys with their parameters.
    type Backend = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);
    const BACKENDS: [Backend; 5] = [
        ("filesystem", "", "path", &[]),
        ("memory", "memory", "path", &[]),
        (
            "s3",
            "s3",
            "bucket",
            &[
                ("region", "region"),
                ("endpoint", "endpoint"),
                ("path_style", "path_style"),
                ("access_key", "access_key"),
                ("secret_key", "secret_key"),
            ],
        ),
        ("gcs", "gcs", "bucket", &[("endpoint", "endpoint")]),
        (
            "azblob",
            "azblob",
            "container",
            &[("endpoint", "endpoint"), ("access_key", "account_name"), ("secret_key", "account_key")],
        ),
    ];
    let (backend, scheme, place, parameters) = section.read("backend", |text| {
        let known = BACKENDS.iter().find(|(backend, ..)| *backend == text);
        known.ok_or_else(|| format!("there is no backend `{text}`: it is s3, gcs, azblob, filesystem or memory"))
    })?;
    let is_of_it = |key: &str| key == *place || key == "prefix" || parameters.iter().any(|(known, _)| *known == key);
    for key in ["bucket", "container", "path", "region", "endpoint", "path_style", "access_key", "secret_key"] {
        if section.has(key) && !is_of_it(key) {
            return Err(section.error(key, format!("does not belong to the backend `{backend}`: leave it out")));
        }
    }
    let missing = || format!("is missing: the backend `{backend}` needs it");
    let mut path = section.given_text(place)?.ok_or_else(|| section.error(place, missing()))?;
    if let Some(prefix) = section.given_text("prefix")? {
        let _ = write!(path, "/{}", prefix.trim_matches('/'));
    }
    if scheme.is_empty() {
        return Ok(path);
    }
    // A URL's place holds neither.
    if let Some(other) = path.chars().find(|c| "?#".contains(*c)) {
        return Err(section.error(place, format!("and prefix must not hold `{other}`")));
    }
    let mut url = format!("{scheme}://{path}");
    let mut separator = '?';
    for (key, parameter) in *parameters {
        let text = match *key {
            "path_style" => section.has(key).then(|| section.flag(key)).transpose()?.map(|flag| flag.to_string()),
            "access_key" | "secret_key" => section.secret(key)?,
            _ => section.given_text(key)?,
        };
        if let Some(text) = text {
            let _ = write!(url, "{separator}{parameter}={}", utf8_percent_encode(&text, ENCODED));
            separator = '&';
        }
    }
    Ok(url)
}

/// What records and consumer groups are to become.
struct Wanted {
    stages: Vec<Stage>,
    groups: Option<Groups>,
    accept: Vec<String>,
}

fn read_wanted(file: &Rc<File>, section: &mut Section) -> Result<Wanted> {
    let is_header_based = section.read("consumer_group_strategy", |text| match text {
        "header-based" => Ok(true),
        "skip" => Ok(false),
        _ => Err(format!("there is no strategy `{text}`: it is `header-based` or `skip`")),
    })?;
    let included = "include_original_offset_header";
    let adds = if section.has(included) { section.flag(included)? } else { is_header_based };
    if adds && !is_header_based {
        return Err(section.error(included, "true, but the strategy `skip` adds nothing: it needs `header-based`"));
    }
    let resets = section.flag("reset_consumer_offsets")?;
    if resets && !is_header_based {
        let reason = "true, but the strategy `skip` leaves offsets alone: it needs `header-based`";
        return Err(section.error("reset_consumer_offsets", reason));
    }
    let names = section.optional_list("consumer_groups")?.unwrap_or_default();
    restore::check_names(section, "consumer_groups", &names)?;
    let accept = section.optional_list("accept")?.unwrap_or_default();
    let mut stages = Vec::new();
    if adds {
        let plugin = [("plugin".to_owned(), Value::from("header-injector"))];
        let given = plugin.into_iter().collect();
        stages.push(read_stage(&mut Section::open(file, "restore", RESTORE_KEYS, "pipeline.stage", given)?)?);
    }
    Ok(Wanted { stages, groups: resets.then_some(Groups { names, positions: None }), accept })
}

#[cfg(test)]
mod tests;
