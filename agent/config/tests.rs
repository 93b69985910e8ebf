//! The laws of the configuration, tried through its public face; and the shipped files, held against the keys.

use super::keys::{KEYS, RESTORE_KEYS, Type};
use super::*;
use crate::record::OffsetRange;

/// The smallest configuration that is complete.
const SMALL: &str = r#"
[[pipeline]]
name = "orders"
[pipeline.source]
type = "kafka"
topics = ["orders"]
kafka = { "bootstrap.servers" = "127.0.0.1:9092", "sasl.password" = "${PASSWORD}" }
[pipeline.sink]
type = "archive"
backup_id = "b-1"
path = "/data"
"#;

fn parse(text: &str) -> Result<Config> {
    Config::parse("a.toml", text, &|name| (name == "PASSWORD").then(|| "hunter2".to_owned()))
}

fn refused(text: &str) -> String {
    let error = parse(text).expect_err("it is wrong");
    assert_eq!(error.exit_code(), 2);
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

/// Returns the complaint about [`SMALL`] after `from` was replaced by `to`.
fn refused_with(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    refused(&SMALL.replacen(from, to, 1))
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = parse(SMALL).expect("valid");
    let pipeline = &config.pipelines[0];
    assert_eq!(config.agent.listen, "127.0.0.1:8083");
    assert_eq!(pipeline.sink.roll_bytes, 64 << 20);
    assert_eq!(pipeline.sink.roll_interval, Duration::from_secs(60));
    assert_eq!(pipeline.sink.shutdown_timeout, Duration::from_secs(25));
    assert_eq!(pipeline.source.start, Start::Earliest);
    assert_eq!(pipeline.source.metadata_interval, crate::kafka::source::METADATA_INTERVAL);
    assert_eq!(pipeline.source.transaction_patience, crate::kafka::source::TRANSACTION_PATIENCE);
    assert_eq!(pipeline.source.savepoint_interval, Some(Duration::from_secs(60)));
    assert!(pipeline.source.groups.holds("any"));
    assert_eq!(pipeline.source.group_id, None);
    assert_eq!(pipeline.max_bytes_per_second, None);
    assert_eq!(pipeline.objectives, Objectives::default());
    assert_eq!(pipeline.verify, Verify { every: None, deep: false });
}

#[test]
fn a_check_beside_the_pipeline_is_asked_for() {
    let verified = |lines: &str| parse(&format!("{SMALL}[pipeline.verify]\n{lines}"));
    let config = verified("every = \"24h\"\ndeep = true\n").expect("valid");
    assert_eq!(config.pipelines[0].verify, Verify { every: Some(Duration::from_secs(86_400)), deep: true });
    assert!(config.to_text().expect("TOML").contains("deep = true"));
    let refused = |lines: &str| verified(lines).expect_err("wrong").to_string();
    assert!(refused("deep = \"perhaps\"\n").ends_with("verify.deep: must be true or false, not a text"));
    assert!(refused("every = \"0s\"\n").ends_with("verify.every: must be more than 0, or \"off\""));
}

#[test]
fn an_unknown_key_names_the_nearest_known_one_on_one_line() {
    assert_eq!(
        refused_with("path =", "rol_bytes = \"1MiB\"\npath ="),
        "a.toml: pipeline[0].sink.rol_bytes: unknown key, did you mean roll_bytes?"
    );
    assert_eq!(
        refused_with("name =", "roll_bytes = \"1MiB\"\nname ="),
        "a.toml: pipeline[0].roll_bytes: unknown key here, did you mean pipeline.sink.roll_bytes?"
    );
    assert_eq!(refused("[agnet]\n"), "a.toml: agnet: unknown key, did you mean agent?");
    assert!(refused_with("type = \"kafka\"", "zzzzzzzzzzzz = 1").contains("known here: type, topics, topics_regex"));
    assert!(refused_with("path =", "fencing = \"off\"\npath =").ends_with("it belongs to a later version"));
}

#[test]
fn a_syntax_error_is_one_line_with_its_place() {
    assert!(refused("[agent]\nlisten = \n").starts_with("a.toml:2:"), "{}", refused("[agent]\nlisten = \n"));
    assert!(refused_with("name =", "name = \"x\"\nname =").starts_with("a.toml:4:"));
}

#[test]
fn a_number_without_a_unit_is_an_error() {
    for bare in ["60", "\"60\""] {
        let line = refused_with("path =", &format!("roll_interval = {bare}\npath ="));
        assert!(line.starts_with("a.toml: pipeline[0].sink.roll_interval: `60` has no unit"), "{line}");
    }
}

#[test]
fn values_that_cannot_work_are_refused() {
    for (from, to, says) in [
        ("[\"orders\"]", "[]", "pipeline[0].source.topics: must name at least one topic"),
        ("topics = [\"orders\"]", "", "source.topics: must name at least one topic, unless topics_regex is given"),
        ("topics = [\"orders\"]", "topics_regex = \"*\"", "source.topics_regex: `*` is no regular expression"),
        ("topics = [\"orders\"]", "topics_regex = \" \"", "source.topics_regex: must not be empty"),
        ("topics =", "topics_exclude = [\"a\"]\ntopics =", "topics_exclude: excludes from what topics_regex matches"),
        ("topics =", "topics_regex = \"a\"\ntopics_exclude = [\"x\", \"(\"]\ntopics =", "topics_exclude[1]: `(` is no"),
        (
            "topics =",
            "topics_regex = \"a\"\ntopics_exclude = [\"or.*\"]\ntopics =",
            "topics[0]: `orders` is named here",
        ),
        ("topics =", "group_id = \"\"\ntopics =", "source.group_id: must not be empty"),
        (
            "kafka = {",
            "group_id = \"g\"\nkafka = { \"group.id\" = \"h\",",
            "group_id: `g`, but kafka has \"group.id\" = \"h\"",
        ),
        ("topics =", "transaction_patience = \"0s\"\ntopics =", "transaction_patience: must be more than 0"),
        ("[pipeline.source]", "max_lag = \"0s\"\n[pipeline.source]", "].max_lag: must be more than 0, or \"off\""),
        ("[pipeline.source]", "min_headroom = \"6\"\n[pipeline.source]", "].min_headroom: `6` has no unit"),
        ("topics =", "savepoint_interval = \"0s\"\ntopics =", "savepoint_interval: must be more than 0, or \"off\""),
        (
            "topics =",
            "savepoint_interval = \"never\"\ntopics =",
            "with a unit: write it as \"60s\"; \"off\" turns it off",
        ),
        ("topics =", "groups_regex = \"*\"\ntopics =", "source.groups_regex: `*` is no regular expression"),
        ("topics =", "groups_exclude = [\"x\", \"(\"]\ntopics =", "groups_exclude[1]: `(` is no regular expression"),
        ("topics =", "groups = [\"g\", \"g\"]\ntopics =", "groups[1]: `g` is named twice"),
        ("topics =", "groups = [\"\"]\ntopics =", "groups[0]: must not be empty"),
        (
            "topics =",
            "groups = [\"g\"]\ngroups_exclude = [\"x\"]\ntopics =",
            "groups_exclude: excludes from what groups_regex",
        ),
        (
            "topics =",
            "groups = [\"g1\"]\ngroups_regex = \"h\"\ngroups_exclude = [\"g.\"]\ntopics =",
            "groups[0]: `g1` is named here and excluded by groups_exclude",
        ),
        ("[\"orders\"]", "\"orders\"", "topics: must be a list of texts, not a text"),
        ("[\"orders\"]", "[\"a\", \"a\"]", "topics[1]: `a` is named twice"),
        ("[\"orders\"]", "[\"or ders\"]", "topics[0]: `or ders` is no topic name"),
        ("type = \"kafka\"", "type = \"kafak\"", "there is no source of type `kafak`"),
        ("type = \"archive\"", "type = \"kafka\"", "sink.type: `kafka` is the sink of a restore"),
        ("\"b-1\"", "\"../b\"", "sink.backup_id: `../b` is no backup id"),
        ("path =", "roll_bytes = \"0B\"\npath =", "roll_bytes: must be more than 0"),
        ("path =", "roll_bytes = \"2GiB\"\npath =", "roll_bytes: `2GiB` is too large"),
        ("path =", "roll_interval = \"0s\"\npath =", "roll_interval: must be more than 0"),
        ("\"/data\"", "\" \"", "sink.path: must not be empty"),
        ("name = \"orders\"", "", "pipeline[0].name: is missing"),
        ("\"bootstrap.servers\"", "\"bootstrap\"", "needs \"bootstrap.servers\""),
        ("topics =", "start = \"soon\"\ntopics =", "`soon` is neither earliest, latest nor a time"),
        ("${PASSWORD}", "${PASSWROD}", "kafka.\"sasl.password\": environment variable PASSWROD is not set"),
        ("[[pipeline]]", "[agent]\nlisten = \"8083\"\n[[pipeline]]", "agent.listen: `8083` is no address"),
    ] {
        let line = refused_with(from, to);
        assert!(line.starts_with("a.toml: ") && line.contains(says), "{to}: {line}");
    }
    assert!(refused("").contains("at least one [[pipeline]] is needed"));
}

#[test]
fn two_pipelines_do_not_share_a_name_or_a_topic_of_a_backup() {
    assert!(refused(&format!("{SMALL}{SMALL}")).contains("pipeline[1].name: another pipeline is named `orders` too"));
    let at =
        |path: &str| SMALL.replace("name = \"orders\"", "name = \"other\"").replace("\"/data\"", &format!("{path:?}"));
    // One place may be written in several ways.
    for path in ["/data/", "file:///data", "/data/../data"] {
        assert!(
            refused(&format!("{SMALL}{}", at(path))).contains("writes topic `orders` to backup `b-1` too"),
            "{path}"
        );
    }
    let second = at("/data/");
    let other_topic = second.replace("[\"orders\"]", "[\"payments\"]");
    assert!(parse(&format!("{SMALL}{other_topic}")).is_ok());
}

#[test]
fn a_topic_named_by_one_pipeline_is_not_matched_by_another_of_the_same_backup() {
    let second = SMALL.replace("name = \"orders\"", "name = \"other\"");
    let matching = second.replace("topics = [\"orders\"]", "topics_regex = \"ord.*\"");
    for text in [format!("{SMALL}{matching}"), format!("{matching}{SMALL}")] {
        assert!(refused(&text).contains("writes topic `orders` to backup `b-1` too"));
    }
    let excluding = matching.replace("\"ord.*\"", "\"ord.*\"\ntopics_exclude = [\"orders\"]");
    assert!(parse(&format!("{SMALL}{excluding}")).is_ok());
}

#[test]
fn two_pipelines_do_not_share_a_group() {
    let first = SMALL.replace("topics =", "group_id = \"g\"\ntopics =");
    let second = first.replace("name = \"orders\"", "name = \"other\"").replace("\"b-1\"", "\"b-2\"");
    let line = refused(&format!("{first}{second}"));
    assert!(line.contains("pipeline[1].source.group_id: pipeline `orders` is in group `g` too"), "{line}");
    let elsewhere = second.replace("127.0.0.1:9092", "127.0.0.1:9192");
    assert!(parse(&format!("{first}{elsewhere}")).is_ok(), "another cluster has another group of that name");
}

#[test]
fn topics_are_chosen_by_name_and_by_pattern() {
    let keys = "topics_regex = \"shop[.].*\"\ntopics_exclude = [\"shop[.]test\"]\ngroup_id = \"g\"\ntopics =";
    let config = parse(&SMALL.replace("topics =", keys)).expect("valid");
    let source = &config.pipelines[0].source;
    for (name, holds) in [("orders", true), ("shop.a", true), ("shop.test", false), ("workshop.a", false)] {
        assert_eq!(source.topics.holds(name, false), holds, "{name}");
    }
    assert_eq!(source.group_id.as_deref(), Some("g"));
}

#[test]
fn savepoints_can_be_turned_off_and_their_groups_chosen() {
    let keys = "savepoint_interval = \"off\"\ngroups = [\"g\"]\ngroups_regex = \"shop-.*\"\ntopics =";
    let config = parse(&SMALL.replace("topics =", keys)).expect("valid");
    let source = &config.pipelines[0].source;
    assert_eq!(source.savepoint_interval, None);
    for (name, holds) in [("g", true), ("shop-a", true), ("other", false)] {
        assert_eq!(source.groups.holds(name), holds, "{name}");
    }
}

#[test]
fn kafka_properties_may_be_written_with_unquoted_dots() {
    let text = SMALL.replacen("kafka = {", "kafka.fetch.wait.max.ms = 100\nkafka.enable = { x = true }\n#", 1);
    assert!(refused(&text).contains("needs \"bootstrap.servers\""));
    let text = text.replacen("kafka.enable", "kafka.bootstrap.servers = \"a:1\"\nkafka.enable", 1);
    let kafka = parse(&text).expect("valid").pipelines[0].source.kafka.clone();
    assert_eq!(kafka["fetch.wait.max.ms"], "100");
    assert_eq!(kafka["bootstrap.servers"], "a:1");
    assert_eq!(kafka["enable.x"], "true");
}

#[test]
fn what_is_shown_has_all_defaults_and_no_secret() {
    let config = parse(SMALL).expect("valid");
    let shown = config.effective().to_string();
    assert!(!shown.contains("hunter2") && !format!("{config:?}").contains("hunter2"), "{shown}");
    assert!(shown.contains("\"roll_interval\":\"60s\"") && shown.contains(value::MASK), "{shown}");
    let toml = config.to_text().expect("printable");
    let again = parse(&toml).expect("what is shown reads back");
    assert_eq!(again.effective(), config.effective());
}

#[test]
fn what_a_reference_stands_for_in_a_plugins_settings_is_shown_nowhere() {
    let stage = r#"
[[pipeline.stage]]
plugin = "mask"
[pipeline.stage.settings]
salt = "${PASSWORD}"
by.field = ["plain", "x-${env:PASSWORD}"]
"a.b" = "${NONE:-hunter2}"
kept = "$${PASSWORD}"
token = { of = "hunter2" }
[pipeline.sink]"#;
    let config = parse(&SMALL.replace("[pipeline.sink]", stage)).expect("valid");
    let given: Vec<_> = config.pipelines[0].stages[0].settings.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(given, ["hunter2", "plain", "x-hunter2", "hunter2", "${PASSWORD}", "hunter2"], "the plugin has them");
    let shown = &config.effective()["pipeline"][0]["stage"][0]["settings"];
    let mask = value::MASK;
    let wanted = serde_json::json!({
        "salt": mask, "by": { "field": ["plain", mask] }, "a.b": mask, "kept": "${PASSWORD}", "token": { "of": mask }
    });
    assert_eq!(*shown, wanted);
    let printed = format!("{config:?} {}", config.to_text().expect("TOML"));
    assert!(!printed.contains("hunter2") && printed.contains("salt"), "{printed}");
}

/// Returns (section, key, rest of the line) of each key that `text` mentions, commented out or not.
fn mentioned(text: &str) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim().trim_start_matches('#').trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_start_matches('[').split(']').next().unwrap_or("").to_owned();
        } else if let Some((key, rest)) = line.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            found.push((section.clone(), key.to_owned(), rest.to_owned()));
        }
    }
    found
}

#[test]
fn agent_toml_mentions_every_key_with_its_default() {
    let text = include_str!("../../config/agent.toml");
    parse(text).expect("config/agent.toml is valid");
    let mentioned = mentioned(text);
    for key in KEYS.iter().filter(|key| !matches!(key.holds, Type::Section | Type::Sections)) {
        let found = mentioned.iter().find(|(section, name, _)| section == key.section() && name == key.name());
        let (_, _, rest) = found.unwrap_or_else(|| panic!("config/agent.toml does not mention {}", key.path));
        if let Some(default) = key.default {
            let shown = if key.holds == Type::Flag { default.to_owned() } else { format!("\"{default}\"") };
            assert!(rest.starts_with(&shown), "{}: {rest}", key.path);
        }
    }
    for (section, name, _) in &mentioned {
        let known = KEYS.iter().any(|key| key.section() == section && key.name() == name);
        assert!(known, "config/agent.toml mentions {section}.{name}, which nobody knows");
    }
}

#[test]
fn restore_toml_mentions_every_key_with_its_default() {
    let text = include_str!("../../config/restore.toml");
    let config = parse(text).expect("config/restore.toml is valid");
    assert_eq!((config.pipelines.len(), config.restores.len()), (0, 1));
    // What stands behind `#` is valid too.
    let all: String = text.lines().map(|line| format!("{}\n", line.replacen("# ", "", 1))).collect();
    let keys = RESTORE_KEYS.iter().filter(|key| !matches!(key.holds, Type::Section | Type::Sections));
    for key in keys {
        let line = all.lines().find(|line| line.trim().starts_with(&format!("{} = ", key.name())));
        let line = line.unwrap_or_else(|| panic!("config/restore.toml does not mention {}", key.path));
        if let Some(default) = key.default {
            let shown = if key.holds == Type::Flag { default.to_owned() } else { format!("\"{default}\"") };
            let at_default = format!("{} = {shown}", key.name());
            assert!(all.lines().any(|line| line.trim().starts_with(&at_default)), "{}: {line}", key.path);
        }
    }
}

#[test]
fn a_restore_is_read_and_what_is_wrong_with_it_is_named() {
    let text = include_str!("../../config/restore.toml");
    let with = |line: &str| {
        let (section, key) = line.split_once(": ").expect("section: line");
        parse(&text.replacen(&format!("[pipeline.{section}]\n"), &format!("[pipeline.{section}]\n  {key}\n"), 1))
    };
    let restore = with("source: offsets = [\"orders-0:100..250\", \"or-d-3:..9\"]").expect("valid").restores.remove(0);
    let range = |first, next| OffsetRange { first, next };
    let offsets = [("orders".to_owned(), 0, range(100, 250)), ("or-d".to_owned(), 3, range(0, 9))];
    assert_eq!(restore.source.offsets, offsets);
    assert!(restore.id().starts_with("orders-restore-"), "{}", restore.id());
    let other = with("source: until = \"2026-11-22T10:00:00Z\"").expect("valid").restores.remove(0);
    assert_ne!(restore.id(), other.id());
    let keyed = |key: &str| {
        let path = format!("path = \"s3://backups?region=r&secret_access_key={key}\"");
        parse(&text.replace("path = \"/data/backups\"", &path)).expect("valid").restores.remove(0).id()
    };
    let until = |time: &str| {
        let stage = format!("[[pipeline.stage]]\nplugin = \"pitr-filter\"\nsettings = {{ until = {time} }}\n");
        parse(&text.replace("[pipeline.sink]", &format!("{stage}[pipeline.sink]")))
            .expect("valid")
            .restores
            .remove(0)
            .id()
    };
    assert_eq!(until("1000"), until("1000"));
    assert_ne!(until("1000"), until("2000"), "another setting of a stage makes it another restore");
    assert_eq!(keyed("one"), keyed("other"), "with another key to its store it is the same restore");
    assert_eq!(with("sink: merge_below = \"0\"").expect("valid").restores.remove(0).sink.merge_below, 0);
    let limited = |line: &str| parse(&text.replacen("[[pipeline]]\n", &format!("[[pipeline]]\n{line}\n"), 1));
    for line in ["max_records_per_second = 1000", "max_records_per_second = \"1000\""] {
        assert_eq!(limited(line).expect("valid").restores.remove(0).max_records_per_second, Some(1000));
    }
    for (line, wanted) in [
        ("max_records_per_second = \"1KiB\"", "max_records_per_second: `1KiB` is no whole number"),
        ("max_records_per_second = 0", "max_records_per_second: must be more than 0"),
    ] {
        let error = limited(line).expect_err(line).to_string();
        assert!(error.contains(wanted), "{error}");
    }
    for (line, wanted) in [
        ("source: from = \"5\"\n  until = \"5\"", "until: 1970-01-01T00:00:00.005Z is not after from"),
        ("source: from = \"yesterday\"", "source.from: `yesterday` is no time"),
        ("source: offsets = [\"orders:1..2\"]", "source.offsets[0]: cannot read `orders:1..2`"),
        ("source: offsets = [\"orders-0:5..5\"]", "source.offsets[0]: cannot read `orders-0:5..5`"),
        ("source: partitions = [\"orders\"]", "source.partitions[0]: cannot read `orders`"),
        ("source: forks = [\"orders-0@x\"]", "source.forks[0]: cannot read `orders-0@x`"),
        ("source: group_id = \"g\"", "source.group_id: unknown key"),
        ("source: offsets = [\"o-0:..5\", \"o-0:9..\"]", "source.offsets[1]: `o-0` is named twice"),
        ("source: forks = [\"o-0\", \"o-0@1-5\"]", "source.forks[1]: `o-0` is named twice"),
        ("sink: partitions = [\"o-0:1\", \"o-0:2\"]", "sink.partitions[1]: `o-0` is named twice"),
        ("sink: merge_below = \"2GiB\"", "sink.merge_below: `2GiB` is too large"),
        ("sink: merge_below = \"16\"", "sink.merge_below: `16` has no unit"),
        ("sink: restore_id = \"../x\"", "sink.restore_id: `../x`"),
        ("sink: partitions = [\"orders-0:-1\"]", "sink.partitions[0]: cannot read"),
        ("sink: repartition = [\"orders\"]", "sink.repartition[0]: cannot read `orders`"),
        ("sink: repartition = [\"orders:0\"]", "sink.repartition[0]: cannot read `orders:0`"),
        ("sink: repartition = [\"o:3\", \"o:6\"]", "sink.repartition[1]: `o` is named twice"),
        ("sink: repartition = [\"a b:3\"]", "sink.repartition[0]: `a b` is no topic name"),
        (
            "sink: topics = { o = \"p\" }\n  partitions = [\"o-0:1\"]\n  repartition = [\"p:3\"]",
            "sink.partitions[0]: `o-0` has no partition to become: `p` is spread by key",
        ),
        ("sink: topics = { orders = \"a b\" }", "sink.topics.orders: `a b` is no topic name"),
    ] {
        let error = with(line).expect_err(line).to_string();
        assert!(error.contains(wanted) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn the_groups_that_are_put_back_are_chosen_and_none_by_chance() {
    let text = include_str!("../../config/restore.toml");
    let with = |lines: &str| parse(&format!("{text}\n[pipeline.groups]\n{lines}\n"));
    let groups = |lines: &str| with(lines).expect("valid").restores.remove(0).groups;
    assert_eq!((parse(text).expect("valid").restores.remove(0).groups, groups("reset = false")), (None, None));
    let (names, positions) = (vec!["g".to_owned()], Some("savepoint:20261122T100000.000Z".to_owned()));
    let named = groups("reset = true\ngroups = [\"g\"]\npositions = \"savepoint:20261122T100000.000Z\"");
    assert_eq!(named, Some(restore::Groups { names, positions }));
    assert_eq!(groups("reset = true"), Some(restore::Groups::default()));
    let id = |lines: &str| with(lines).expect("valid").restores.remove(0).id();
    assert_eq!(id("reset = true"), id("reset = false"), "the records are the same");
    for (lines, wanted) in [
        ("groups = [\"g\"]", "groups.groups: does nothing without reset = true"),
        ("positions = \"savepoint:x\"", "groups.positions: does nothing without reset = true"),
        ("reset = true\ngroups = [\"g\", \"g\"]", "groups.groups[1]: `g` is named twice"),
        ("reset = true\ngroups = [\"\"]", "groups.groups[0]: must not be empty"),
        ("reste = true", "groups.reste: unknown key, did you mean reset?"),
    ] {
        let error = with(lines).expect_err(lines).to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let line = refused(&format!("{SMALL}[pipeline.groups]\nreset = true\n"));
    assert!(line.contains("pipeline[0].groups: unknown key here: it belongs to a pipeline that restores"), "{line}");
}

#[test]
fn backup_toml_is_valid() {
    let config = parse(include_str!("../../config/backup.toml")).expect("config/backup.toml is valid");
    assert_eq!(config.pipelines.len(), 1);
}
