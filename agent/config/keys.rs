//! Every key of the native configuration, with its type, default, unit and reason: the one place that knows.
//!
//! The reader takes types and defaults from here, `config show` the order, the unknown-key error the names; a test
//! holds `config/agent.toml` against it.

mod restore;
mod yaml;

pub use restore::RESTORE_KEYS;
pub use yaml::YAML_KEYS;

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A table of further keys.
    Section,
    /// An array of tables.
    Sections,
    /// Text.
    Text,
    /// A list of texts.
    List,
    /// A whole number with a unit of time.
    Duration,
    /// A whole number with a unit of size.
    Size,
    /// A whole number.
    Count,
    /// `true` or `false`.
    Flag,
    /// A table of librdkafka's properties.
    Properties,
}

/// A key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Where it stands, without the numbers of array entries: `pipeline.sink.roll_bytes`.
    pub path: &'static str,
    /// What it holds.
    pub holds: Type,
    /// What holds when it is left out; `None` where it must be given, or where leaving it out means "none".
    pub default: Option<&'static str>,
    /// Whether it must be given.
    pub required: bool,
    /// What it is for, and where the default comes from.
    pub reason: &'static str,
}

impl Key {
    /// Returns the section that the key stands in, empty at the top.
    pub fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Returns the key's name in its section.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }
}

const fn section(path: &'static str, holds: Type, required: bool, reason: &'static str) -> Key {
    Key { path, holds, default: None, required, reason }
}

const fn required(path: &'static str, holds: Type, reason: &'static str) -> Key {
    Key { path, holds, default: None, required: true, reason }
}

const fn optional(path: &'static str, holds: Type, reason: &'static str) -> Key {
    Key { path, holds, default: None, required: false, reason }
}

const fn with_default(path: &'static str, holds: Type, default: &'static str, reason: &'static str) -> Key {
    Key { path, holds, default: Some(default), required: false, reason }
}

/// All keys of a file whose pipelines capture, in the order in which it is best read.
pub static KEYS: &[Key] = &[
    section("agent", Type::Section, false, "the process itself"),
    with_default(
        "agent.listen",
        Type::Text,
        "127.0.0.1:8083",
        "address of /metrics, /livez, /readyz, /v1 and Kafka Connect's REST API; port 0 takes a free one; the port is Kafka \
         Connect's, whose tools are to find the agent there; only this machine reaches the default",
    ),
    optional(
        "agent.state_dir",
        Type::Text,
        "a folder of this agent's own for what was asked for over HTTP: that a pipeline is paused, and connectors that were \
         made; without it a pause holds until the process ends, and none can be made",
    ),
    with_default(
        "agent.restart_backoff_max",
        Type::Duration,
        "60s",
        "longest pause before a failed pipeline is started again; the first is 1s and each doubles, with jitter; \
         longer delays recovery after an outage, shorter hammers what is already down",
    ),
    optional(
        "agent.token",
        Type::Text,
        "the token that whoever changes something over HTTP shows, as `Authorization: Bearer …`, from this machine too; at \
         least 16 signs, best from a file: ${file:/path}; without it and without tls.client_ca only programs of this machine \
         may change anything",
    ),
    section(
        "agent.tls",
        Type::Section,
        false,
        "TLS of the listener, for those who read too; files in PEM, read at start and when they have changed",
    ),
    optional("agent.tls.certificate", Type::Text, "the listener's certificate, and those between it and its authority"),
    optional("agent.tls.key", Type::Text, "the key of the certificate"),
    optional(
        "agent.tls.client_ca",
        Type::Text,
        "the authorities of clients' certificates: whoever shows one may change something; nobody has to show one to read",
    ),
    section("pipeline", Type::Sections, true, "what is captured into where; as many as needed"),
    required("pipeline.name", Type::Text, "names the pipeline in logs, metrics and /readyz"),
    optional(
        "pipeline.max_bytes_per_second",
        Type::Size,
        "limit on what the pipeline fetches, so that catching up leaves the brokers and the network to others; none by \
         default, since lag is data at risk",
    ),
    with_default(
        "pipeline.max_lag",
        Type::Duration,
        "off",
        "for how long something that the source has may not be durable before /readyz names its partition, or `off`; off by \
         default, since only who needs the backup knows; well beyond roll_interval, below which a quiet topic always is",
    ),
    with_default(
        "pipeline.min_headroom",
        Type::Duration,
        "off",
        "how near the source's retention may come to what is not durable before /readyz names its partition, or `off`; half of \
         what a topic keeps where that is less; off by default, since it is the time that somebody needs to help",
    ),
    section("pipeline.source", Type::Section, true, "where the data comes from"),
    required("pipeline.source.type", Type::Text, "`kafka`"),
    optional(
        "pipeline.source.topics",
        Type::List,
        "topics to capture, by exact name; needed unless topics_regex is given",
    ),
    optional(
        "pipeline.source.topics_regex",
        Type::Text,
        "a regular expression: topics whose whole name matches are captured, also those that appear later; never \
         Kafka's own, nor names that begin with `__`, which are captured only when topics names them",
    ),
    optional(
        "pipeline.source.topics_exclude",
        Type::List,
        "regular expressions: topics whose whole name matches one of them are not taken by topics_regex",
    ),
    optional(
        "pipeline.source.group_id",
        Type::Text,
        "the consumer group in which agents share the partitions and commit how far they are; without it this agent \
         reads all of them",
    ),
    with_default(
        "pipeline.source.start",
        Type::Text,
        "earliest",
        "where a partition begins that the archive holds nothing of: `earliest`, `latest` or a time; a backup should \
         hold what is there",
    ),
    with_default(
        "pipeline.source.metadata_interval",
        Type::Duration,
        "30s",
        "how soon new topics and partitions, deleted and re-created topics are noticed; one small request per interval",
    ),
    with_default(
        "pipeline.source.transaction_patience",
        Type::Duration,
        "5m",
        "how long a transaction may hold back what can be read while its partition goes on, before /readyz names it; \
         well beyond Kafka's transaction time-out of a minute; half may name what is only slow",
    ),
    with_default(
        "pipeline.source.savepoint_interval",
        Type::Duration,
        "60s",
        "how often the committed offsets of consumer groups are kept with the ends of all partitions, or `off`; what a \
         restore can put groups back to; none is written where nothing has changed; half doubles the requests to every \
         broker, double lets groups read a minute more again",
    ),
    optional(
        "pipeline.source.groups",
        Type::List,
        "consumer groups whose offsets savepoints keep, by exact name; all of the cluster when neither this nor \
         groups_regex is given; never group_id itself",
    ),
    optional(
        "pipeline.source.groups_regex",
        Type::Text,
        "a regular expression: savepoints keep the offsets of the groups whose whole name matches, besides groups",
    ),
    optional(
        "pipeline.source.groups_exclude",
        Type::List,
        "regular expressions: groups whose whole name matches one of them are not kept, unless groups names them",
    ),
    required(
        "pipeline.source.kafka",
        Type::Properties,
        "the client's properties by librdkafka's names; `bootstrap.servers` must be among them",
    ),
    section(
        "pipeline.stage",
        Type::Sections,
        false,
        "a plugin that records go through before they are archived; several are passed in the order of the file",
    ),
    required(
        "pipeline.stage.plugin",
        Type::Text,
        "the name of a plugin that is part of the agent, as `header-injector`, or the path of a .wasm file",
    ),
    optional("pipeline.stage.settings", Type::Properties, "the plugin's settings, which its README lists"),
    with_default(
        "pipeline.stage.on_error",
        Type::Text,
        "fail",
        "what becomes of records that the plugin fails at: `fail` stops their partition before them and tries again, so \
         that nothing is left out; `skip` leaves them out; `dead-letter` leaves their batch out and keeps it as it came, \
         in the partition's folder; both are counted and told in the archive",
    ),
    with_default(
        "pipeline.stage.deadline",
        Type::Duration,
        "10s",
        "how long one call of the plugin may take, a thousand times more than an honest one needs; a plugin that does not \
         come back holds up the partitions of its worker that long",
    ),
    with_default(
        "pipeline.stage.memory_bytes",
        Type::Size,
        "64MiB",
        "how much memory one instance of the plugin may have; each worker has one, and there is a worker for each core, up \
         to 8; a call sends about 1 MiB of records, and most plugins need a few times that",
    ),
    section("pipeline.sink", Type::Section, true, "where the data goes"),
    required("pipeline.sink.type", Type::Text, "`archive`"),
    required("pipeline.sink.backup_id", Type::Text, "names the backup: everything is under `<path>/<backup_id>/`"),
    required("pipeline.sink.path", Type::Text, "a folder, or the URL of a store"),
    with_default(
        "pipeline.sink.roll_bytes",
        Type::Size,
        "64MiB",
        "a segment closes at this size; half of it doubles the objects of a backup, double delays what is durable \
         under load; at most 1GiB, since Kafka's tools read files below 2 GiB",
    ),
    with_default(
        "pipeline.sink.roll_interval",
        Type::Duration,
        "60s",
        "a segment closes at this age, by the clock: the most that the loss of the source can cost on a quiet topic",
    ),
    with_default(
        "pipeline.sink.memory_bytes",
        Type::Size,
        "256MiB",
        "bound on fetched data that is not yet written; when it is short the largest segment closes early and the \
         broker waits; at least one largest batch of each broker should fit",
    ),
    with_default(
        "pipeline.sink.shutdown_timeout",
        Type::Duration,
        "25s",
        "time for closing, uploading and committing what is in memory when told to stop; what is late is read again \
         at the next start; Kubernetes kills after 30s: the rest is for saying what was late",
    ),
    section("pipeline.verify", Type::Section, false, "the check of the backup beside the pipeline that writes it"),
    with_default(
        "pipeline.verify.every",
        Type::Duration,
        "off",
        "how often the whole backup is checked, or `off`; the first check begins after a random part of it, so that agents \
         that are started together do not read together; off by default, since it reads each sidecar, and with deep every \
         byte, which a store may charge for; give it to one of several agents of a backup",
    ),
    with_default(
        "pipeline.verify.deep",
        Type::Flag,
        "false",
        "whether every byte of the logs is read too; without it damage inside a log is found by who reads it",
    ),
];

/// Keys of the design that this version does not know yet, so that the error can say so.
pub const LATER: &[&str] =
    &["pipeline.sink.savepoint_interval", "pipeline.sink.batches", "pipeline.sink.fencing", "restore"];

/// Returns whether pipelines that restore have a key at `path`.
pub fn is_of_restores(path: &str) -> bool {
    RESTORE_KEYS.iter().any(|key| key.path == path)
}

/// Returns the key at `path`.
pub fn key(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Returns those of `keys` that stand directly in `section`.
pub fn keys_in(keys: &'static [Key], section: &str) -> impl Iterator<Item = &'static Key> {
    keys.iter().filter(move |key| key.section() == section)
}
