//! The laws of restores that are written in YAML; and the shipped file, held against the keys.

use super::super::Config;
use super::super::keys::Type;
use super::*;

const SHIPPED: &str = include_str!("../../../config/three-phase-restore.yaml");

/// The smallest restore that is complete.
const SMALL: &str = "
mode: restore
backup_id: b-1
target: { bootstrap_servers: [a:9092] }
storage: { backend: filesystem, path: /data }
";

fn load(text: &str) -> Result<Config> {
    Config::parse("a.yaml", text, &|name| name.starts_with("AWS_").then(|| "se/c+r=et&".to_owned()))
}

fn parsed(text: &str) -> Restore {
    load(text).expect("valid").restores.remove(0)
}

fn refused(text: &str) -> String {
    let error = load(text).expect_err(text);
    assert_eq!(error.exit_code(), 2);
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

/// Returns the whole shipped file with what stands behind `#`, but for what belongs to another backend.
fn with_everything() -> String {
    let other = |line: &&str| !line.contains("of azblob, instead") && !line.contains("of filesystem, instead");
    let without = |line: &str| if line.trim().starts_with("# ") { line.replacen("# ", "", 1) } else { line.to_owned() };
    SHIPPED.lines().skip(3).filter(other).map(|line| without(line) + "\n").collect()
}

#[test]
fn the_shipped_file_is_what_the_page_of_offsets_says() {
    let restore = parsed(SHIPPED);
    assert_eq!(restore.name, "production-backup-001");
    assert!(restore.id().starts_with("production-backup-001-"), "{}", restore.id());
    assert_eq!(restore.source.path, "s3://my-kafka-backups?region=us-west-2");
    assert_eq!(restore.sink.kafka["bootstrap.servers"], "kafka-dr:9092");
    assert!(restore.source.topics.is_none() && restore.source.until.is_none() && restore.sink.topics.is_empty());
    let plugins: Vec<_> = restore.stages.iter().map(|stage| stage.plugin.as_str()).collect();
    assert_eq!(plugins, ["header-injector"]);
    let groups = ["order-processor", "payment-service", "analytics-consumer"].map(str::to_owned);
    assert_eq!(restore.groups, Some(Groups { names: groups.to_vec(), positions: None }));
    assert_eq!((restore.sink.merge_below, restore.sink.memory_bytes), (16 << 10, 256 << 20));
}

#[test]
fn the_shipped_file_mentions_every_key_with_its_default() {
    let all = with_everything();
    for key in YAML_KEYS {
        let begins = format!("{}:", key.name());
        let stands = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&begins);
        let line = SHIPPED.lines().find(|line| stands(line));
        let line = line.unwrap_or_else(|| panic!("config/three-phase-restore.yaml does not mention {}", key.path));
        // The page's file asks for what is not the default.
        if matches!(key.holds, Type::Section) || key.default.is_some() {
            assert!(!line.trim().starts_with('#'), "{}", key.path);
        }
    }
    let restore = parsed(&all);
    let secret = "se%2Fc%2Br%3Det%26".replace("%2F", "/");
    let parameters = format!("endpoint=http://minio:9000&path_style=true&access_key={secret}&secret_key={secret}");
    let path = format!("s3://my-kafka-backups/clusters/production?region=us-west-2&{parameters}");
    assert_eq!(restore.source.path, path);
    assert_eq!(restore.sink.topics["orders"], "orders-restored");
    assert_eq!(restore.sink.kafka["security.protocol"], "SSL");
    assert_eq!(restore.sink.accept, ["target-not-empty"]);
    assert_eq!(restore.source.until, Some("2026-11-22T10:00:00Z".parse().expect("a time")));
    let topics = restore.source.topics.expect("two");
    assert_eq!(topics.names(), ["orders", "payments"]);
    assert!(crate::store::Store::open(&restore.source.path).is_ok(), "a store's URL");
}

#[test]
fn secrets_are_never_shown() {
    let config = load(&with_everything()).expect("valid");
    let shown = format!("{config:?} {}", config.to_text().expect("YAML"));
    assert!(shown.contains("secret_key: \"********\"") || shown.contains("secret_key: '********'"), "{shown}");
    let text = config.to_text().expect("YAML");
    assert!(!text.contains("se/c+r=et&") && !text.contains("se/c%2Br"), "{text}");
    assert!(text.contains("mode: restore") && text.contains("merge_below").eq(&false), "{text}");
}

#[test]
fn a_strategy_is_one_of_two() {
    let with = |lines: &str| format!("{SMALL}restore:\n{lines}");
    let stages = |lines: &str| parsed(&with(lines)).stages.len();
    assert_eq!(parsed(SMALL).stages.len(), 0, "nothing is added that was not asked for");
    assert_eq!(stages("  consumer_group_strategy: skip\n"), 0);
    assert_eq!(stages("  consumer_group_strategy: header-based\n"), 1);
    assert_eq!(stages("  consumer_group_strategy: header-based\n  include_original_offset_header: true\n"), 1);
    assert_eq!(stages("  consumer_group_strategy: header-based\n  include_original_offset_header: false\n"), 0);
    let line = refused(&with("  consumer_group_strategy: headers\n"));
    assert_eq!(
        line,
        "a.yaml: restore.consumer_group_strategy: there is no strategy `headers`: it is `header-based` or `skip`"
    );
    let line = refused(&with("  consumer_group_strategy: skip\n  reset_consumer_offsets: true\n"));
    assert!(line.contains("restore.reset_consumer_offsets: true, but the strategy `skip`"), "{line}");
    let line = refused(&with("  consumer_group_strategy: skip\n  include_original_offset_header: true\n"));
    assert!(line.contains("restore.include_original_offset_header: true, but"), "{line}");
    let resets = parsed(&with("  consumer_group_strategy: header-based\n  reset_consumer_offsets: true\n"));
    assert_eq!(resets.groups, Some(Groups::default()), "all of them");
    let named = parsed(&with("  consumer_group_strategy: header-based\n  consumer_groups: [a]\n"));
    assert_eq!(named.groups, None, "named, but not to be put back");
}

#[test]
fn each_backend_takes_what_is_its_own() {
    let with = |storage: &str| SMALL.replace("backend: filesystem, path: /data", storage);
    for (storage, path) in [
        ("backend: filesystem, path: /data, prefix: a/b/", "/data/a/b"),
        ("backend: memory, path: m", "memory://m"),
        ("backend: gcs, bucket: b, prefix: p", "gcs://b/p"),
        (
            "backend: azblob, container: c, access_key: acc, secret_key: YQ==",
            "azblob://c?account_name=acc&account_key=YQ%3D%3D",
        ),
        ("backend: s3, bucket: b, region: eu, path_style: false", "s3://b?region=eu&path_style=false"),
    ] {
        let found = parsed(&with(storage)).source.path;
        assert_eq!(found, path);
        assert!(crate::store::Store::open(&found).is_ok(), "{found}");
    }
    for (storage, wanted) in [
        ("backend: ftp, path: x", "storage.backend: there is no backend `ftp`"),
        ("backend: s3, path: x", "storage.path: does not belong to the backend `s3`"),
        ("backend: filesystem", "storage.path: is missing: the backend `filesystem` needs it"),
        ("backend: filesystem, path: /x, region: eu", "storage.region: does not belong"),
        ("backend: s3, bucket: 'b?x=1'", "storage.bucket: and prefix must not hold `?`"),
        ("backend: s3, bukket: b", "storage.bukket: unknown key, did you mean bucket?"),
    ] {
        let line = refused(&with(storage));
        assert!(line.contains(wanted), "{line}");
    }
}

#[test]
fn what_is_wrong_is_one_line_that_says_where() {
    for (from, to, wanted) in [
        ("mode: restore", "mode: backup", "a.yaml: mode: there is no mode `backup`"),
        ("mode: restore\n", "", "a.yaml: mode: is missing: `restore`"),
        ("backup_id: b-1", "backup_id: a/b", "a.yaml: backup_id: "),
        ("[a:9092]", "[]", "a.yaml: target.bootstrap_servers: must name a broker"),
        ("[a:9092]", "'a:9092,'", "a.yaml: target.bootstrap_servers: must name a broker"),
        ("[a:9092]", "[9092]", "a.yaml: target.bootstrap_servers[0]: must be a text"),
        ("[a:9092]", "[a:9092], kafka: { bootstrap.servers: b:1 }", "target.kafka.\"bootstrap.servers\": are others"),
        ("mode: restore", "mode: restore\ntopcis: [a]", "a.yaml: topcis: unknown key, did you mean topics?"),
        ("mode: restore", "mode: restore\ntopics: [a, a]", "a.yaml: topics[1]: `a` is named twice"),
        ("mode: restore", "mode: restore\ntopic_mapping: { a: b c }", "topic_mapping.a: `b c` is no topic name"),
        ("mode: restore", "mode: restore\nuntil: soon", "a.yaml: until: "),
        ("mode: restore", "mode: restore\nmode: restore", "a.yaml:3:"),
        ("mode: restore", "mode: [", "a.yaml:"),
    ] {
        assert!(SMALL.contains(from));
        let line = refused(&SMALL.replacen(from, to, 1));
        assert!(line.contains(wanted), "{line}");
    }
    assert!(refused("- a").contains("must be a table of keys"));
    assert!(refused("").starts_with("a.yaml:"), "{}", refused(""));
    assert_eq!(parsed(&SMALL.replace("[a:9092]", "'a:9092, b:9092'")).sink.kafka["bootstrap.servers"], "a:9092,b:9092");
}
