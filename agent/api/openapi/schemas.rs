//! The schemas of bodies and answers.

use serde_json::{Map, Value, json};

/// Returns all of them, by name.
pub(super) fn all() -> Value {
    let mut all = Map::new();
    for schemas in [plain(), own(), groups(), restores(), connect()] {
        if let Value::Object(schemas) = schemas {
            all.extend(schemas);
        }
    }
    all.into()
}

/// An object that has these fields, some of which may be left out; `?` at the end of a name says so.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let required: Vec<&str> = fields.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('?')).collect();
    let properties: Map<String, Value> =
        fields.iter().map(|(name, schema)| (name.trim_end_matches('?').to_owned(), schema.clone())).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

/// An object of a request, in which nothing else may stand.
fn closed<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let mut object = object(fields);
    object["additionalProperties"] = false.into();
    object
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

fn named(schema: &str) -> Value {
    super::reference(schema)
}

fn text() -> Value {
    json!({"type": "string"})
}

fn count() -> Value {
    json!({"type": "integer"})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

/// The schema of a plain type, or of null.
fn maybe(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

fn properties() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}, "description": "the Kafka client's, by librdkafka's names"})
}

fn plain() -> Value {
    json!({
        "Error": object([("error_code", count()), ("message", text())]),
        "Object": {"type": "object"},
        "Objects": list(json!({"type": "object"})),
        "Names": list(text()),
        "NamesOrObject": {"anyOf": [list(text()), {"type": "object"}]},
    })
}

fn own() -> Value {
    let of_partition =
        [("backup", text()), ("topic", text()), ("topic_id", text()), ("newest", flag()), ("partition", count())];
    let mut place = object(of_partition);
    for (name, schema) in [
        ("fork", maybe(text())),
        ("kind", json!({"type": "string", "enum": ["data", "first", "gap"]})),
        ("first_offset", maybe(count())),
        ("next_offset", count()),
        ("end_offset", maybe(count())),
        ("length_bytes", count()),
        ("records", count()),
        ("position", count()),
        ("position_offset", count()),
        ("segments", count()),
        ("segment", text()),
        ("sidecar", text()),
        ("min_time", maybe(text())),
        ("max_time", maybe(text())),
        ("sealed_at", maybe(text())),
    ] {
        place["properties"][name] = schema;
    }
    let backup = object([("backup", text()), ("path", text()), ("pipeline", text()), ("running", flag())]);
    json!({
        "Backups": list(backup),
        "Place": place,
        "Savepoint": object([("backup", text()), ("savepoint", text())]),
    })
}

fn groups() -> Value {
    let committed = maybe(object([("offset", count()), ("metadata", text())]));
    let row = object([
        ("topic", text()),
        ("topic_id", text()),
        ("partition", count()),
        ("current", committed.clone()),
        ("target", committed),
        ("exactness", json!({})),
        ("action", json!({})),
    ]);
    let group = object([
        ("group", text()),
        ("kind", text()),
        ("state", text()),
        ("refused?", text()),
        ("lacks?", text()),
        ("rows", list(row)),
    ]);
    let plan =
        object([("cluster_id", maybe(text())), ("positions", text()), ("places", text()), ("groups", list(group))]);
    let ask = closed([
        ("backup", text()),
        ("path?", text()),
        ("kafka?", properties()),
        ("groups?", list(text())),
        ("all_groups?", flag()),
        ("restore_id?", text()),
        ("positions?", text()),
        ("to?", text()),
        ("topics?", list(text())),
        ("all_topics?", flag()),
        ("clamp?", flag()),
        ("create_group?", flag()),
        ("scan_headers?", flag()),
    ]);
    let execute = closed([
        ("backup", text()),
        ("path?", text()),
        ("kafka?", properties()),
        ("plan", named("Plan")),
        ("description?", text()),
    ]);
    let report = object([
        ("snapshot", maybe(text())),
        ("groups", list(json!({"type": "object"}))),
        ("set", count()),
        ("same", count()),
        ("failed", json!({"type": "object"})),
        ("metrics", json!({"type": "object"})),
    ]);
    let summary = object([
        ("id", text()),
        ("created_at", maybe(text())),
        ("groups", maybe(count())),
        ("offsets", maybe(count())),
        ("description", maybe(text())),
        ("cluster_id", maybe(text())),
        ("error?", text()),
    ]);
    let snapshot = object([
        ("id", text()),
        ("created_at", text()),
        ("created_by", text()),
        ("cluster_id", maybe(text())),
        ("description", text()),
        ("groups", list(json!({"type": "object"}))),
    ]);
    json!({
        "Ask": ask,
        "Plan": plan,
        "Execute": execute,
        "Report": report,
        "ReportOrPlan": {"anyOf": [named("Report"), named("Plan")]},
        "Snapshots": list(summary),
        "Snapshot": snapshot,
        "Back": closed([("kafka?", properties()), ("dry_run?", flag())]),
    })
}

fn restores() -> Value {
    let phase = json!({"type": "string", "enum": ["planned", "running", "done", "cancelled", "undone"]});
    let doing = json!({"type": "string", "enum": ["running", "waiting", "done", "failed", "cancelled"]});
    let task = || object([("state", doing.clone()), ("message?", text())]);
    let any = || json!({"type": "object"});
    let pipeline =
        || json!({"type": "object", "description": "a pipeline that restores, in the shape of the configuration file"});
    let undone = object([
        ("restore_id", text()),
        ("dry_run", flag()),
        ("topics", list(any())),
        ("group", maybe(any())),
        ("groups", list(any())),
        ("snapshot", maybe(text())),
    ]);
    let listed = || {
        object([
            ("restore_id", text()),
            ("state", phase.clone()),
            ("started", maybe(text())),
            ("records", maybe(count())),
            ("bytes", maybe(count())),
            ("target", maybe(text())),
            ("target_cluster_id", maybe(text())),
            ("damaged?", list(text())),
        ])
    };
    let mut restore = listed();
    for (name, schema) in [
        ("planned", maybe(object([("records", count()), ("bytes", count())]))),
        ("plan", maybe(json!({"type": "object"}))),
        ("journal_at", maybe(text())),
        ("finished_at", maybe(text())),
        ("cancelled_at", maybe(text())),
        ("undone_at", maybe(text())),
        ("task", maybe(task())),
    ] {
        restore["properties"][name] = schema;
    }
    json!({
        "Restores": list(listed()),
        "Restore": restore,
        "Tasks": list(object([("backup", text()), ("restore_id", text()), ("task", task())])),
        "Start": closed([("restore", pipeline()), ("dry_run?", flag())]),
        "Planned": object([("restore_id", text()), ("plan", maybe(any())), ("groups?", any())]),
        "Begun": object([("backup", text()), ("restore_id", text())]),
        "GoOn": closed([("restore?", maybe(pipeline()))]),
        "TakeBack": closed([("kafka?", maybe(properties())), ("accept?", list(text())), ("dry_run?", flag())]),
        "Undone": undone,
        "Wish": closed([("dry_run?", flag())]),
        "Meaning": object([("restore_id", text()), ("dry_run", flag()), ("message", text())]),
    })
}

fn connect() -> Value {
    let value = json!({"type": ["string", "number", "boolean", "null"]});
    let config = json!({"type": "object", "additionalProperties": value, "maxProperties": 1000});
    let state = ["UNASSIGNED", "RUNNING", "PAUSED", "FAILED", "RESTARTING", "STOPPED"];
    let state = || json!({"type": "string", "enum": state});
    let task = || {
        object([("id", count()), ("state", state()), ("worker_id", text()), ("version?", text()), ("trace?", text())])
    };
    let of_connector = object([("state", state()), ("worker_id", text()), ("version?", text()), ("trace?", text())]);
    let creation = closed([
        ("name?", text()),
        ("config", named("Config")),
        ("initial_state?", json!({"type": "string", "enum": ["RUNNING", "PAUSED", "STOPPED"]})),
    ]);
    let offset = object([("partition", json!({"type": "object"})), ("offset", json!({"type": ["object", "null"]}))]);
    json!({
        "Root": object([("version", text()), ("commit", maybe(text())), ("kafka_cluster_id", maybe(text()))]),
        "Config": config,
        "Creation": creation,
        "Connector": object([("name", text()), ("config", named("Config")), ("tasks", list(json!({"type": "object"}))), ("type", text())]),
        "Status": object([("name", text()), ("connector", of_connector), ("tasks", list(task())), ("type", text())]),
        "TaskStatus": task(),
        "Offsets": object([("offsets", list(offset))]),
        "Level": object([("level", text())]),
    })
}
