//! The keys of a pipeline that restores: its source is an archive, its sink a cluster. A test holds `config/restore.toml`
//! against them.

use super::{Key, Type, optional, required, section, with_default};

/// All keys of such a pipeline, in the order in which it is best read.
pub static RESTORE_KEYS: &[Key] = &[
    required("pipeline.name", Type::Text, "names the restore in logs and metrics, and begins its id"),
    optional(
        "pipeline.max_bytes_per_second",
        Type::Size,
        "limit on the bytes that are sent, all partitions together, so that the target serves others too; none by default",
    ),
    optional(
        "pipeline.max_records_per_second",
        Type::Count,
        "limit on the records that are sent, all partitions together; none by default",
    ),
    section("pipeline.source", Type::Section, true, "where the data comes from"),
    required("pipeline.source.type", Type::Text, "`archive`"),
    required("pipeline.source.backup_id", Type::Text, "the name of the backup"),
    required("pipeline.source.path", Type::Text, "where the backup lies: a folder, or the URL of a store"),
    optional(
        "pipeline.source.topics",
        Type::List,
        "topics to restore, by exact name; `orders@<topic-id>` is an older one of that name; without this and \
         topics_regex, all of the backup",
    ),
    optional(
        "pipeline.source.topics_regex",
        Type::Text,
        "a regular expression: topics of the backup whose whole name matches are restored",
    ),
    optional(
        "pipeline.source.topics_exclude",
        Type::List,
        "regular expressions: topics whose whole name matches one of them are not taken by topics_regex, or not among all",
    ),
    optional(
        "pipeline.source.partitions",
        Type::List,
        "of topics that are named here only these partitions, as `orders-3`",
    ),
    optional(
        "pipeline.source.forks",
        Type::List,
        "chains to restore instead of a partition's newest, as `describe` names them: `orders-3@7-150234`, or `orders-3` \
         for what the partition held before any fork",
    ),
    optional(
        "pipeline.source.from",
        Type::Text,
        "only records of this time or later, as \"2026-11-22T10:00:00Z\" or in milliseconds since 1970",
    ),
    optional("pipeline.source.until", Type::Text, "only records before this time (exclusive)"),
    optional(
        "pipeline.source.savepoint",
        Type::Text,
        "only what was there at a savepoint: its name as `savepoints` lists it, or a time, which means the newest \
         at or before it",
    ),
    optional(
        "pipeline.source.offsets",
        Type::List,
        "only these offsets of a partition, the second exclusive: `orders-3:100..250`, `orders-3:100..`, `orders-3:..250`",
    ),
    section(
        "pipeline.stage",
        Type::Sections,
        false,
        "a plugin that records go through on their way; several are passed in the order of the file",
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
        "what becomes of records that the plugin fails at: `fail` ends the restore of their partition; `skip` leaves them out, \
         names and counts them; there are no dead letters, as the archive keeps the records",
    ),
    with_default("pipeline.stage.deadline", Type::Duration, "10s", "how long one call of the plugin may take"),
    with_default(
        "pipeline.stage.memory_bytes",
        Type::Size,
        "64MiB",
        "how much memory one instance of the plugin may have; each worker has one",
    ),
    section("pipeline.sink", Type::Section, true, "where the data goes"),
    required("pipeline.sink.type", Type::Text, "`kafka`"),
    optional(
        "pipeline.sink.topics",
        Type::Properties,
        "topics that get another name: `{ orders = \"orders-restored\" }`; all others keep theirs",
    ),
    optional(
        "pipeline.sink.partitions",
        Type::List,
        "partitions that become another one of their topic: `orders-3:0` puts what partition 3 held into partition 0",
    ),
    optional(
        "pipeline.sink.repartition",
        Type::List,
        "topics of the target whose records are spread over so many partitions by key, as Kafka's own partitioner does, as \
         `orders:6`; several topics may go to one so (sink.topics)",
    ),
    optional(
        "pipeline.sink.restore_id",
        Type::Text,
        "names the restore; without it the pipeline's name and a digest of what is asked for",
    ),
    optional(
        "pipeline.sink.state",
        Type::Text,
        "where the restore keeps its plan, progress and offset map: a folder or the URL of a store; without it beside the \
         backup, which must be writable then",
    ),
    optional(
        "pipeline.sink.accept",
        Type::List,
        "hazards that the plan names and that are known and meant, as `target-not-empty`; without its name each stops the \
         restore before anything is sent",
    ),
    with_default(
        "pipeline.sink.merge_below",
        Type::Size,
        "16KiB",
        "adjacent batches below this size are merged into larger ones of the same codec, since each costs the cluster a \
         request's share; half of it leaves more of them as they were, double costs more of our own work; 0 merges none",
    ),
    with_default(
        "pipeline.sink.memory_bytes",
        Type::Size,
        "256MiB",
        "bound on what is read and not yet acknowledged; at least one largest batch of each partition in work should fit",
    ),
    with_default(
        "pipeline.sink.journal_interval",
        Type::Duration,
        "10s",
        "how often it is kept how far the restore has come, or after 256 MiB: after a crash so much of the target is looked \
         through; longer saves a small object each, shorter saves that look",
    ),
    with_default(
        "pipeline.sink.shutdown_timeout",
        Type::Duration,
        "25s",
        "time for what is on its way to be acknowledged when told to stop",
    ),
    required(
        "pipeline.sink.kafka",
        Type::Properties,
        "the client's properties by librdkafka's names; `bootstrap.servers` must be among them",
    ),
    section("pipeline.groups", Type::Section, false, "what becomes of consumer groups once all is restored"),
    with_default(
        "pipeline.groups.reset",
        Type::Flag,
        "false",
        "whether consumer groups are put back to the records that they had reached; what they have committed on the target \
         before is kept as a snapshot",
    ),
    optional(
        "pipeline.groups.groups",
        Type::List,
        "these groups, by exact name; without it, all of which the savepoint has positions in what is restored",
    ),
    optional(
        "pipeline.groups.positions",
        Type::Text,
        "where groups stood: `savepoint:` with the name or time of one, `snapshot:` with the id of one; without it the \
         newest savepoint at or before the cut",
    ),
];
