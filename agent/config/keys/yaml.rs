//! The keys of a restore that is written in YAML. A test holds `config/three-phase-restore.yaml` against them.

use super::{Key, Type, optional, required, section, with_default};

/// All keys of such a file, in the order in which it is best read.
pub static YAML_KEYS: &[Key] = &[
    required("mode", Type::Text, "`restore`"),
    required("backup_id", Type::Text, "the name of the backup; it names the restore too"),
    section("target", Type::Section, true, "the cluster that is restored to"),
    required("target.bootstrap_servers", Type::List, "addresses of some of its brokers, as `kafka-dr:9092`"),
    optional("target.kafka", Type::Properties, "the client's other properties, by librdkafka's names"),
    section("storage", Type::Section, true, "where the backup lies"),
    required("storage.backend", Type::Text, "`s3`, `gcs`, `azblob`, `filesystem` or `memory`"),
    optional("storage.bucket", Type::Text, "the bucket, of s3 and gcs"),
    optional("storage.container", Type::Text, "the container, of azblob"),
    optional("storage.path", Type::Text, "the folder, of filesystem; the name, of memory"),
    optional("storage.prefix", Type::Text, "the folder inside of it"),
    optional("storage.region", Type::Text, "the bucket's region, of s3"),
    optional("storage.endpoint", Type::Text, "the service's URL, where it is not the provider's own"),
    optional("storage.path_style", Type::Flag, "whether URLs name the bucket in their path, of s3"),
    optional("storage.access_key", Type::Text, "the id of the access key, of s3; the account's name, of azblob"),
    optional("storage.secret_key", Type::Text, "the secret key, of s3; the account's key, of azblob"),
    section("restore", Type::Section, false, "what records and consumer groups become"),
    with_default(
        "restore.consumer_group_strategy",
        Type::Text,
        "skip",
        "`header-based` adds to each record where it was, as headers; `skip` adds nothing",
    ),
    optional(
        "restore.include_original_offset_header",
        Type::Flag,
        "whether `header-based` adds its headers; true where it is left out",
    ),
    with_default(
        "restore.reset_consumer_offsets",
        Type::Flag,
        "false",
        "whether consumer groups are put back to where they were, once all is restored",
    ),
    optional("restore.consumer_groups", Type::List, "these groups; without it, all that the backup knows"),
    optional("restore.accept", Type::List, "hazards that `--dry-run` names and that are meant, as `target-not-empty`"),
    optional("topics", Type::List, "topics to restore, by exact name; without it, all of the backup"),
    optional("topic_mapping", Type::Properties, "topics that get another name: `orders: orders-restored`"),
    optional("until", Type::Text, "only records before this time (exclusive), as `2026-11-22T10:00:00Z`"),
];
