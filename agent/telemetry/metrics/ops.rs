//! What is in `ops`, held against the metrics that there are and against the runbook.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{Kind, METRICS};

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the rules that alert.
fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&read("ops/alerts.yml")).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

/// Checks that an expression names metrics, and none but those that are exposed.
fn check(expression: &str) {
    let names = regex::Regex::new("kafka_backup_[a-z_]+").expect("a pattern");
    let mut found = 0;
    for name in names.find_iter(expression).map(|name| name.as_str()) {
        found += 1;
        let is_there = METRICS.iter().any(|metric| match metric.kind {
            Kind::Histogram(_) => {
                ["_bucket", "_sum", "_count"].iter().any(|suffix| name.strip_suffix(suffix) == Some(metric.name))
            }
            _ => name == metric.name,
        });
        assert!(is_there, "{name} of `{expression}` is no series that is exposed");
    }
    assert!(found > 0, "{expression}");
    // Labels by which series are chosen or added up.
    let chosen = regex::Regex::new("by \\(([^)]*)\\)|([a-z_]+)=~?\"").expect("a pattern");
    for label in chosen.captures_iter(expression) {
        let listed = label.get(1).or(label.get(2)).expect("one of both").as_str();
        for label in listed.split(',').map(str::trim) {
            let known = METRICS.iter().any(|metric| metric.labels.contains(&label));
            assert!(known || ["le", "instance"].contains(&label), "no metric has the label {label} of `{expression}`");
        }
    }
}

#[test]
fn alerts_are_of_metrics_that_there_are() {
    let alerts = alerts();
    assert!(alerts.len() > 10);
    alerts.iter().for_each(|alert| check(alert["expr"].as_str().expect("a text")));
}

#[test]
fn each_alert_has_its_entry_in_the_runbook_and_its_test_and_no_other_has() {
    let alerts = alerts();
    let names: BTreeSet<_> = alerts.iter().map(|alert| alert["alert"].as_str().expect("a name").to_owned()).collect();
    let page = read("docs/runbook.md");
    let entries: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("## ").map(str::to_owned)).collect();
    assert_eq!(names, entries);
    for alert in &alerts {
        let name = alert["alert"].as_str().expect("a name");
        let wanted = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"].as_str(), Some(&*wanted), "{name}");
        assert!(alert["annotations"]["summary"].is_string() && alert["labels"]["severity"].is_string(), "{name}");
    }
    let tests: Value = serde_saphyr::from_str(&read("ops/alerts_test.yml")).expect("YAML");
    let of = |wants_some: bool| -> BTreeSet<_> {
        let tests = tests["tests"].as_array().expect("tests").iter();
        let rules = tests.flat_map(|test| test["alert_rule_test"].as_array().expect("rules"));
        let rules =
            rules.filter(|rule| rule["exp_alerts"].as_array().is_some_and(|some| some.is_empty() != wants_some));
        rules.map(|rule| rule["alertname"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!((of(true), of(false)), (names.clone(), names), "each fires in one test and is silent in another");
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&read("ops/dashboard.json")).expect("JSON");
    assert!(dashboard["schemaVersion"].as_u64() >= Some(39) && dashboard["title"] == "kafka-backup");
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64()), "{panel}");
        let place = &panel["gridPos"];
        assert!(places.insert((place["x"].as_u64(), place["y"].as_u64())), "{place}");
        assert!(place["x"].as_u64().zip(place["w"].as_u64()).is_some_and(|(x, w)| x + w <= 24), "{place}");
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{}", panel["title"]);
        targets.iter().for_each(|target| check(target["expr"].as_str().expect("a text")));
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        if variable["type"] == "query" {
            check(variable["definition"].as_str().expect("a text"));
        }
    }
}
