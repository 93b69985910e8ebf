//! A pipeline as a connector's configuration, and back: Kafka Connect's is one flat map of texts.
//!
//! [`ROWS`] says which of Kafka Connect's keys stand for which of a pipeline's; every other key of a pipeline has its own
//! dotted path, as `sink.roll_interval`, which those have besides. Stages are `transforms`, whose names are a connector's
//! own: `transforms.<name>.type` is the plugin, `transforms.<name>.<setting>` one of its settings, and
//! `stage.<name>.<key>` what else a stage has. There and back again nothing changes, but that what is a default is written
//! out. Pure.

use serde_json::{Map, Value};

use super::Flat;
use crate::config::keys::{KEYS, Key, RESTORE_KEYS, Type};
use crate::stages::MOST_STAGES;

/// A class of connectors, by what its pipelines do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A pipeline that captures: to Kafka Connect what reads from Kafka is a sink.
    ArchiveSink,
    /// A pipeline that restores.
    ArchiveSource,
}

/// All classes.
pub(super) const CLASSES: [Class; 2] = [Class::ArchiveSink, Class::ArchiveSource];

impl Class {
    /// Returns the class of that name, which may be written without what stands before its dot.
    pub(super) fn of(name: &str) -> Option<Self> {
        let is_named = |class: &&Self| name == class.name() || Some(name) == class.name().strip_prefix("kafka-backup.");
        CLASSES.iter().find(is_named).copied()
    }

    /// Returns its name, as `connector.class` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ArchiveSink => "kafka-backup.ArchiveSink",
            Self::ArchiveSource => "kafka-backup.ArchiveSource",
        }
    }

    /// Returns what Kafka Connect calls such a connector.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::ArchiveSink => "sink",
            Self::ArchiveSource => "source",
        }
    }

    /// Returns the keys of its pipelines, with their paths below the pipeline; what the class itself says is not among
    /// them.
    pub(super) fn keys(self) -> impl Iterator<Item = (&'static str, &'static Key)> {
        let keys: &'static [Key] = match self {
            Self::ArchiveSink => KEYS,
            Self::ArchiveSource => RESTORE_KEYS,
        };
        let below = keys.iter().filter_map(|key| Some((key.path.strip_prefix("pipeline.")?, key)));
        below.filter(|(path, _)| !matches!(*path, SOURCE_TYPE | SINK_TYPE))
    }

    fn types(self) -> (&'static str, &'static str) {
        match self {
            Self::ArchiveSink => ("kafka", "archive"),
            Self::ArchiveSource => ("archive", "kafka"),
        }
    }
}

/// What the class of a connector says.
const SOURCE_TYPE: &str = "source.type";
const SINK_TYPE: &str = "sink.type";

/// Keys of Kafka Connect that stand for one of a pipeline: (Kafka Connect's, the pipeline's). One that ends in a dot stands
/// for all that begin with it.
const ROWS: [(&str, &str); 4] = [
    ("topics", "source.topics"),
    ("topics.regex", "source.topics_regex"),
    ("consumer.override.", "source.kafka."),
    ("producer.override.", "sink.kafka."),
];

/// Keys of Kafka Connect that stand for no single one of a pipeline.
pub(super) const CLASS: &str = "connector.class";
pub(super) const TASKS_MAX: &str = "tasks.max";
pub(super) const TRANSFORMS: &str = "transforms";
pub(super) const TOLERANCE: &str = "errors.tolerance";

/// The most entries of a list: each is compared with all before it, some dozen times where something is wrong.
const MOST_LISTED: usize = 4096;

/// The most patterns of a list: each is compiled, and compared with every name.
const MOST_PATTERNS: usize = 100;

/// For how many keys that nobody knows it is said which one was probably meant: each is compared with all that there are.
const MOST_NEAREST: usize = 20;

/// What is wrong with a key of a connector's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// The key.
    pub(super) key: String,
    /// What is wrong, without the key.
    pub(super) reason: String,
}

/// Returns a connector's configuration of what holds of a pipeline, in the shape of the file.
pub(super) fn to_flat(class: Class, pipeline: &Map<String, Value>) -> Flat {
    let mut flat = Flat::new();
    let mut put = |key: String, text: String| drop(flat.insert(key, text.into()));
    put(CLASS.into(), class.name().into());
    put(TASKS_MAX.into(), "1".into());
    for (path, key) in class.keys().filter(|(path, _)| !path.starts_with("stage")) {
        let Some(value) = at(pipeline, path) else { continue };
        match (key.holds, value) {
            (Type::Section | Type::Sections, _) => {}
            (Type::Properties, Value::Object(properties)) => {
                for (name, value) in properties {
                    put(connects(&format!("{path}.{name}")), text_of(value));
                }
            }
            (Type::List, Value::Array(list)) => put(connects(path), list_of(list)),
            (_, value) => put(connects(path), text_of(value)),
        }
    }
    let stages: Vec<_> =
        at(pipeline, "stage").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object).collect();
    let names: Vec<_> = (1..=stages.len()).map(|number| format!("stage{number}")).collect();
    if !stages.is_empty() {
        put(TRANSFORMS.into(), names.join(","));
    }
    let skips = |stage: &Map<String, Value>| stage.get("on_error").and_then(Value::as_str) == Some("skip");
    let tolerance = if !stages.is_empty() && stages.iter().all(|stage| skips(stage)) { "all" } else { "none" };
    put(TOLERANCE.into(), tolerance.into());
    for (name, stage) in names.iter().zip(&stages) {
        for (key, value) in *stage {
            match (key.as_str(), value) {
                ("plugin", plugin) => put(format!("transforms.{name}.type"), text_of(plugin)),
                ("settings", Value::Object(settings)) => {
                    put_settings(&format!("transforms.{name}"), settings, &mut put);
                }
                (key, value) => put(format!("stage.{name}.{key}"), text_of(value)),
            }
        }
    }
    flat
}

/// Reads a connector's configuration: its class, and the pipeline in the shape of the file. What is known of single keys
/// is checked, and not whether the whole is a pipeline.
///
/// # Errors
/// Everything that is wrong, at least one thing.
pub(super) fn from_flat(flat: &Flat) -> Result<(Class, Map<String, Value>), Vec<Wrong>> {
    let mut wrong = Vec::new();
    let text = |key: &str| flat.get(key).and_then(Value::as_str);
    let class = text(CLASS).and_then(Class::of);
    let Some(class) = class else {
        let reason = format!("there are {} and {}", CLASSES[0].name(), CLASSES[1].name());
        return Err(vec![Wrong { key: CLASS.into(), reason }]);
    };
    let mut reader = Reader { class, pipeline: Map::new(), stages: Vec::new(), unknown: 0 };
    reader.put(SOURCE_TYPE, class.types().0.into());
    reader.put(SINK_TYPE, class.types().1.into());
    let names = text(TRANSFORMS).map(split).unwrap_or_default();
    // Each is compared with all before it, and every key with all of them: whoever may ask may send very many.
    if names.len() > MOST_STAGES {
        let reason = format!("there are {} stages, the most is {MOST_STAGES}", names.len());
        return Err(vec![Wrong { key: TRANSFORMS.into(), reason }]);
    }
    for name in names {
        if name.is_empty() || reader.stages.iter().any(|(known, _)| *known == name) {
            wrong.push(Wrong { key: TRANSFORMS.into(), reason: format!("`{name}` is no name, or is there twice") });
        } else {
            reader.stages.push((name, Map::new()));
        }
    }
    for (key, value) in flat {
        let read = match value.as_str() {
            Some(text) => reader.read(key, text),
            None => Err("must be a text, as all of Kafka Connect's values are".to_owned()),
        };
        wrong.extend(read.err().map(|reason| Wrong { key: key.clone(), reason }));
    }
    if text(TOLERANCE) == Some("all") {
        for (_, stage) in &mut reader.stages {
            if !stage.contains_key("on_error") {
                stage.insert("on_error".into(), "skip".into());
            }
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let Reader { mut pipeline, stages, .. } = reader;
    if !stages.is_empty() {
        pipeline.insert("stage".into(), stages.into_iter().map(|(_, stage)| Value::Object(stage)).collect());
    }
    Ok((class, pipeline))
}

/// Returns which key of a connector's configuration a key of its pipeline is, given as errors name it:
/// `source.kafka."group.id"`, `stage[0].plugin`.
pub(super) fn key_of(path: &str, flat: &Flat) -> String {
    let names = flat.get(TRANSFORMS).and_then(Value::as_str).map(split).unwrap_or_default();
    let plain = path.replace('"', "");
    let stage = plain.strip_prefix("stage[").and_then(|rest| rest.split_once(']'));
    if let Some((number, rest)) = stage {
        let name = number.parse().ok().and_then(|number: usize| names.get(number)).map_or("", String::as_str);
        let key = rest.trim_start_matches('.');
        return match key.strip_prefix("settings").map(|rest| rest.trim_start_matches('.')) {
            Some("") | None if key == "plugin" || key.starts_with("settings") => format!("transforms.{name}.type"),
            Some(setting) => format!("transforms.{name}.{setting}"),
            None => format!("stage.{name}.{key}"),
        };
    }
    // An entry of a list is one of its key.
    let plain = match plain.rsplit_once('[') {
        Some((key, number)) if number.strip_suffix(']').is_some_and(|n| n.parse::<usize>().is_ok()) => key.to_owned(),
        _ => plain,
    };
    match plain.as_str() {
        "source.kafka" => "consumer.override.bootstrap.servers".to_owned(),
        "sink.kafka" => "producer.override.bootstrap.servers".to_owned(),
        "stage" => TRANSFORMS.to_owned(),
        SOURCE_TYPE | SINK_TYPE => CLASS.to_owned(),
        path => connects(path),
    }
}

/// Returns Kafka Connect's key for that of a pipeline.
pub(super) fn connects(path: &str) -> String {
    for (connects, ours) in ROWS {
        if let Some(rest) = path.strip_prefix(ours).filter(|rest| ours.ends_with('.') || rest.is_empty()) {
            return format!("{connects}{rest}");
        }
    }
    path.to_owned()
}

/// Reads a configuration key by key.
struct Reader {
    class: Class,
    pipeline: Map<String, Value>,
    /// By their names, in order.
    stages: Vec<(String, Map<String, Value>)>,
    /// How many keys nobody knows.
    unknown: usize,
}

impl Reader {
    fn read(&mut self, key: &str, text: &str) -> Result<(), String> {
        match key {
            CLASS | TRANSFORMS => return Ok(()),
            TASKS_MAX => {
                let is_count = text.trim().parse::<u32>().is_ok_and(|count| count > 0);
                return if is_count { Ok(()) } else { Err(format!("`{text}` is no number of tasks from 1 on")) };
            }
            TOLERANCE => {
                let is_known = matches!(text, "none" | "all");
                return if is_known { Ok(()) } else { Err(format!("`{text}` is neither none nor all")) };
            }
            _ => {}
        }
        if let Some(rest) = key.strip_prefix("transforms.") {
            let (stage, setting) = self.stage(rest)?;
            return put_in_stage(stage, &setting, text);
        }
        if let Some(rest) = key.strip_prefix("stage.") {
            let (stage, key) = self.stage(rest)?;
            if !["on_error", "deadline", "memory_bytes"].contains(&key.as_str()) {
                return Err(format!("a stage has no `{key}`: there are on_error, deadline and memory_bytes"));
            }
            stage.insert(key, text.into());
            return Ok(());
        }
        let path = ours(key);
        for (known, declared) in self.class.keys().filter(|(known, _)| !known.starts_with("stage")) {
            let is_property = path.strip_prefix(known).is_some_and(|rest| rest.starts_with('.'));
            let value = match declared.holds {
                Type::Section | Type::Sections => continue,
                Type::Properties if !is_property => continue,
                Type::Properties => text.into(),
                _ if known != path => continue,
                Type::List => {
                    bounded(list(text), if known.ends_with("_exclude") { MOST_PATTERNS } else { MOST_LISTED })?
                }
                _ => text.into(),
            };
            return match self.put_once(&path, known, value) {
                true => Ok(()),
                false => Err(format!("is there twice: it is `{}` too", if key == path { connects(key) } else { path })),
            };
        }
        Err(self.unknown(key))
    }

    /// Finds the stage whose name `rest` begins with, and what is said of it.
    fn stage(&mut self, rest: &str) -> Result<(&mut Map<String, Value>, String), String> {
        let of = |name: &str| Some(rest.strip_prefix(name)?.strip_prefix('.')?.to_owned());
        // A name may be another's beginning, and have dots.
        let found = self.stages.iter_mut().filter(|(name, _)| of(name).is_some()).max_by_key(|(name, _)| name.len());
        let (name, stage) = found.ok_or_else(|| format!("`{TRANSFORMS}` does not name it"))?;
        let key = of(name).unwrap_or_default();
        Ok((stage, key))
    }

    fn put(&mut self, path: &str, value: Value) {
        self.put_once(path, path, value);
    }

    /// Puts a value where `path` says, `known` being that of its key; returns whether nothing was there.
    fn put_once(&mut self, path: &str, known: &str, value: Value) -> bool {
        let mut table = &mut self.pipeline;
        // What stands behind a key is a property, whose name has dots of its own.
        let (place, property) = match path.strip_prefix(known).and_then(|rest| rest.strip_prefix('.')) {
            Some(property) => (known, Some(property)),
            None => (path, None),
        };
        let (sections, name) = match property {
            Some(property) => (Some(place), property),
            None => place.rsplit_once('.').map_or((None, place), |(sections, name)| (Some(sections), name)),
        };
        for section in sections.into_iter().flat_map(|sections| sections.split('.')) {
            let below = table.entry(section).or_insert_with(|| Map::new().into());
            let Value::Object(below) = below else { return false };
            table = below;
        }
        table.insert(name.to_owned(), value).is_none()
    }

    /// Says that nobody knows a key, and which one was probably meant.
    fn unknown(&mut self, key: &str) -> String {
        self.unknown += 1;
        let known = self.class.keys().filter(|(path, _)| !path.starts_with("stage")).map(|(path, _)| connects(path));
        let near = |known: &String| strsim::damerau_levenshtein(key, known);
        // Nobody has mistyped one of ours as something that long.
        let known = known.filter(|_| key.len() <= 100 && self.unknown <= MOST_NEAREST);
        let nearest = known.min_by_key(near).filter(|known| near(known) <= key.len().max(6) / 3);
        nearest.map_or_else(|| "unknown key".to_owned(), |known| format!("unknown key, did you mean {known}?"))
    }
}

fn put_in_stage(stage: &mut Map<String, Value>, key: &str, text: &str) -> Result<(), String> {
    if key == "type" {
        stage.insert("plugin".into(), text.into());
        return Ok(());
    }
    let settings = stage.entry("settings").or_insert_with(|| Map::new().into());
    if let Value::Object(settings) = settings {
        settings.insert(key.to_owned(), as_list(text).map_or_else(|| text.into(), Value::Array));
    }
    Ok(())
}

/// Writes a plugin's settings, tables inside as dotted names.
fn put_settings(prefix: &str, settings: &Map<String, Value>, put: &mut impl FnMut(String, String)) {
    for (name, value) in settings {
        let key = format!("{prefix}.{name}");
        match value {
            Value::Object(inner) => put_settings(&key, inner, put),
            Value::Array(list) => put(key, Value::Array(list.clone()).to_string()),
            // Else it would be read as a list; to a plugin a list of one is the one.
            value if as_list(&text_of(value)).is_some() => put(key, Value::Array(vec![value.clone()]).to_string()),
            value => put(key, text_of(value)),
        }
    }
}

/// Returns the pipeline's key for Kafka Connect's.
fn ours(key: &str) -> String {
    for (connects, ours) in ROWS {
        if let Some(rest) = key.strip_prefix(connects).filter(|rest| connects.ends_with('.') || rest.is_empty()) {
            return format!("{ours}{rest}");
        }
    }
    key.to_owned()
}

fn at<'a>(pipeline: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut names = path.split('.');
    let first = pipeline.get(names.next()?)?;
    names.try_fold(first, |value, name| value.get(name))
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Writes a list as Kafka Connect's are, with commas; where that would be read otherwise, as JSON.
fn list_of(values: &[Value]) -> String {
    let plain = values.iter().map(text_of).collect::<Vec<_>>().join(",");
    let same = Value::Array(values.to_vec());
    if list(&plain) == same { plain } else { same.to_string() }
}

/// Reads a list: texts with commas between them, or in JSON.
fn list(text: &str) -> Value {
    as_list(text).unwrap_or_else(|| split(text).into_iter().map(Value::from).collect()).into()
}

/// Refuses a list of more than so many entries.
fn bounded(list: Value, most: usize) -> Result<Value, String> {
    let count = list.as_array().map_or(0, Vec::len);
    if count > most { Err(format!("it has {count} entries, the most is {most}")) } else { Ok(list) }
}

/// Reads a list in JSON.
fn as_list(text: &str) -> Option<Vec<Value>> {
    let list: Vec<Value> = serde_json::from_str(text).ok()?;
    list.iter().all(|value| value.is_string() || value.is_number() || value.is_boolean()).then_some(list)
}

/// Splits a list as Kafka Connect does.
fn split(text: &str) -> Vec<String> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    text.split(',').map(|text| text.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    const CAPTURE: &str = r#"
        [[pipeline]]
        name = "orders"
        max_bytes_per_second = "50MiB"
        [pipeline.source]
        type = "kafka"
        topics = ["orders", "payments"]
        topics_regex = "shop[.].*"
        topics_exclude = ["a{1,2}", "[1]", "x"]
        groups = []
        kafka = { "bootstrap.servers" = "127.0.0.1:1,127.0.0.1:2", "sasl.password" = "hush" }
        [[pipeline.stage]]
        plugin = "header-injector"
        settings = { topic = true, to.eu = ["a", "b"], to.us = "[\"x\"]", retries = 5 }
        on_error = "skip"
        [[pipeline.stage]]
        plugin = "/plugins/mine.wasm"
        deadline = "5s"
        [pipeline.sink]
        type = "archive"
        backup_id = "b"
        path = "s3://bucket?secret_access_key=hush"
        [pipeline.verify]
        every = "1d"
        deep = true
    "#;

    const RESTORE: &str = r#"
        [[pipeline]]
        name = "back"
        max_records_per_second = 1000
        [pipeline.source]
        type = "archive"
        backup_id = "b"
        path = "/archive"
        topics = ["orders"]
        offsets = ["orders-3:100..250"]
        [pipeline.sink]
        type = "kafka"
        topics = { orders = "orders-restored", "shop.eu" = "shop" }
        kafka = { "bootstrap.servers" = "dr:9092" }
    "#;

    fn effective(text: &str) -> Map<String, Value> {
        let config = Config::parse("a.toml", text, &|_| None).expect("valid");
        config.effective()["pipeline"][0].as_object().expect("a table").clone()
    }

    #[test]
    fn every_key_of_a_pipeline_comes_back_as_it_was() {
        for (class, text) in [(Class::ArchiveSink, CAPTURE), (Class::ArchiveSource, RESTORE)] {
            let flat = to_flat(class, &effective(text));
            let (read, pipeline) = from_flat(&flat).expect("sound");
            Config::check_pipeline(pipeline.clone()).expect("a pipeline");
            assert_eq!((read, to_flat(class, &pipeline)), (class, flat.clone()));
            for (path, key) in class.keys() {
                let is_given = at(&effective(text), path).is_some();
                let is_value = !matches!(key.holds, Type::Section | Type::Sections | Type::Properties);
                let is_there = flat.contains_key(&connects(path)) || path.starts_with("stage");
                assert!(!is_given || !is_value || is_there, "{path} is in {flat:?}");
            }
        }
    }

    #[test]
    fn connects_own_keys_stand_for_what_they_do() {
        let flat = to_flat(Class::ArchiveSink, &effective(CAPTURE));
        let expected = json!({
            "connector.class": "kafka-backup.ArchiveSink", "tasks.max": "1", "name": "orders",
            "topics": "orders,payments", "topics.regex": "shop[.].*",
            "source.topics_exclude": r#"["a{1,2}","[1]","x"]"#, "source.groups": "",
            "consumer.override.bootstrap.servers": "127.0.0.1:1,127.0.0.1:2",
            "consumer.override.sasl.password": "********",
            "sink.path": "s3://bucket?secret_access_key=********", "sink.roll_interval": "60s", "verify.deep": "true",
            "transforms": "stage1,stage2", "transforms.stage1.type": "header-injector",
            "transforms.stage1.topic": "true", "transforms.stage1.to.eu": r#"["a","b"]"#,
            "transforms.stage1.to.us": r#"["[\"x\"]"]"#, "transforms.stage1.retries": "5",
            "stage.stage1.on_error": "skip", "stage.stage2.on_error": "fail", "stage.stage2.deadline": "5s",
            "errors.tolerance": "none",
        });
        for (key, value) in expected.as_object().expect("an object") {
            assert_eq!(flat.get(key), Some(value), "{key}");
        }
        let restore = to_flat(Class::ArchiveSource, &effective(RESTORE));
        assert_eq!(restore["producer.override.bootstrap.servers"], "dr:9092");
        assert_eq!((&restore["sink.topics.shop.eu"], &restore["topics"]), (&"shop".into(), &"orders".into()));
        assert_eq!(restore["max_records_per_second"], "1000");
    }

    #[test]
    fn all_that_is_wrong_with_single_keys_is_told() {
        let flat = json!({
            "connector.class": "ArchiveSink", "tasks.max": "0", "sink.rol_bytes": "1MiB", "topics": "a",
            "source.topics": "b", "errors.tolerance": "some", "transforms": "t,t", "transforms.u.type": "x",
            "stage.t.plugin": "y", "key.converter": "Json", "source.type": "archive",
        });
        let wrong = from_flat(flat.as_object().expect("an object")).expect_err("much is");
        let of = |key: &str| wrong.iter().find(|wrong| wrong.key == key).map_or("", |wrong| wrong.reason.as_str());
        assert_eq!(of("tasks.max"), "`0` is no number of tasks from 1 on");
        assert_eq!(of("sink.rol_bytes"), "unknown key, did you mean sink.roll_bytes?");
        assert_eq!(of("source.topics"), "is there twice: it is `topics` too");
        assert_eq!(of("errors.tolerance"), "`some` is neither none nor all");
        assert_eq!(of("transforms"), "`t` is no name, or is there twice");
        assert_eq!(of("transforms.u.type"), "`transforms` does not name it");
        assert_eq!(of("stage.t.plugin"), "a stage has no `plugin`: there are on_error, deadline and memory_bytes");
        assert_eq!((of("key.converter"), of("source.type")), ("unknown key", "unknown key"));
        assert_eq!(wrong.len(), 9, "{wrong:?}");
        assert_eq!(from_flat(&Flat::new()).expect_err("no class")[0].key, "connector.class");
    }

    #[test]
    fn very_many_stages_are_refused_before_they_are_looked_at() {
        let names: Vec<_> = (0..60_000).map(|number| format!("t{number}")).collect();
        let flat = json!({ "connector.class": "ArchiveSink", "transforms": names.join(","), "nobody": "x" });
        let wrong = from_flat(flat.as_object().expect("an object")).expect_err("too many");
        let reason = "there are 60000 stages, the most is 64".to_owned();
        assert_eq!(wrong, [Wrong { key: "transforms".into(), reason }], "nothing else was looked at");
    }

    #[test]
    fn a_list_has_an_end() {
        let given = |count: usize| vec!["a"; count].join(",");
        let flat = json!({
            "connector.class": "ArchiveSink", "topics": given(MOST_LISTED + 1), "source.groups": given(MOST_LISTED),
            "source.topics_exclude": given(MOST_PATTERNS + 1),
        });
        let wrong = from_flat(flat.as_object().expect("an object")).expect_err("too many");
        let reasons: Vec<_> = wrong.iter().map(|wrong| (wrong.key.as_str(), wrong.reason.as_str())).collect();
        let [topics, patterns] = ["it has 4097 entries, the most is 4096", "it has 101 entries, the most is 100"];
        assert_eq!(reasons, [("topics", topics), ("source.topics_exclude", patterns)]);
    }

    #[test]
    fn which_key_was_meant_is_said_of_the_first_unknown_ones() {
        let keys = (0..1000).map(|number| (format!("sink.rol_bytes{number}"), "1MiB".into()));
        let flat = [(CLASS.to_owned(), "ArchiveSink".into())].into_iter().chain(keys).collect();
        let wrong = from_flat(&flat).expect_err("nobody knows them");
        let nearest = wrong.iter().filter(|wrong| wrong.reason.contains("did you mean")).count();
        assert_eq!((wrong.len(), nearest), (1000, MOST_NEAREST));
    }

    #[test]
    fn an_errors_path_is_found_again() {
        let flat = json!({ "transforms": "hide,tag" });
        for (path, key) in [
            ("source.topics[1]", "topics"),
            ("source.topics_regex", "topics.regex"),
            ("source.kafka", "consumer.override.bootstrap.servers"),
            ("source.kafka.\"group.id\"", "consumer.override.group.id"),
            ("sink.roll_bytes", "sink.roll_bytes"),
            ("stage[1].plugin", "transforms.tag.type"),
            ("stage[0].settings", "transforms.hide.type"),
            ("stage[0].settings.\"to.eu\"", "transforms.hide.to.eu"),
            ("stage[1].deadline", "stage.tag.deadline"),
            ("stage", "transforms"),
        ] {
            assert_eq!(key_of(path, flat.as_object().expect("an object")), key);
        }
    }

    #[test]
    fn a_tolerance_is_that_of_stages_that_say_nothing() {
        let flat = json!({
            "connector.class": "ArchiveSink", "errors.tolerance": "all", "transforms": "a,a.b",
            "transforms.a.type": "x", "transforms.a.b.type": "y", "stage.a.b.on_error": "dead-letter",
        });
        let (_, pipeline) = from_flat(flat.as_object().expect("an object")).expect("sound");
        let stages = json!([{ "plugin": "x", "on_error": "skip" }, { "plugin": "y", "on_error": "dead-letter" }]);
        assert_eq!(pipeline["stage"], stages);
    }
}
