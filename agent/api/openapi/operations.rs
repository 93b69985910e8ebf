//! The operations of all routes: what may be asked, and what is answered, by the names of [`schemas`](super::schemas).

use serde_json::{Value, json};

/// A method of a path.
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// As the router has it.
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [Parameter],
    /// The schema of the body.
    pub(super) body: Option<&'static str>,
    /// Whether the body may not be left out.
    pub(super) needs_body: bool,
    /// What is answered where all is well: status and schema; `text` is plain text, an empty one nothing.
    pub(super) answers: &'static [(u16, &'static str)],
    /// Statuses of refusals, besides those of all operations of its kind.
    pub(super) refusals: &'static [u16],
}

/// A parameter behind the `?`.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) schema: fn() -> Value,
    pub(super) about: &'static str,
}

const fn get(path: &'static str, summary: &'static str, answer: &'static [(u16, &'static str)]) -> Operation {
    of("GET", path, summary, answer)
}

const fn of(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Operation {
    Operation { method, path, summary, query: &[], body: None, needs_body: true, answers, refusals: &[] }
}

impl Operation {
    const fn query(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    const fn body(self, schema: &'static str) -> Self {
        Self { body: Some(schema), ..self }
    }

    const fn may_have(self, schema: &'static str) -> Self {
        Self { body: Some(schema), needs_body: false, ..self }
    }

    const fn refused(self, refusals: &'static [u16]) -> Self {
        Self { refusals, ..self }
    }
}

fn text() -> Value {
    json!({"type": "string"})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn texts() -> Value {
    json!({"type": "array", "items": {"type": "string", "enum": ["status", "info"]}})
}

fn limit() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": 10_000, "default": 100})
}

fn offset() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": i64::MAX})
}

const LIMIT: &[Parameter] = &[Parameter { name: "limit", schema: limit, about: "at most so many" }];

const PLACE: &[Parameter] = &[
    Parameter { name: "offset", schema: offset, about: "the offset that is looked for" },
    Parameter {
        name: "time",
        schema: text,
        about: "the time that is looked for: RFC 3339, or milliseconds since 1970",
    },
    Parameter {
        name: "fork",
        schema: text,
        about: "along that fork, <epoch>-<end>; none is the partition's own chain",
    },
];

const EXPAND: &[Parameter] = &[Parameter { name: "expand", schema: texts, about: "what is told of each" }];

const RESTART: &[Parameter] = &[
    Parameter { name: "includeTasks", schema: flag, about: "whether its task begins anew" },
    Parameter { name: "onlyFailed", schema: flag, about: "whether only what has failed does" },
];

const ALL_PLUGINS: &[Parameter] =
    &[Parameter { name: "connectorsOnly", schema: flag, about: "false lists transforms too" }];

const SCOPE: &[Parameter] = &[Parameter { name: "scope", schema: text, about: "cluster is this worker too" }];

const NAME: &str = "/connectors/{name}";

/// All operations, path by path.
pub(super) const OPERATIONS: &[Operation] = &[
    get("/metrics", "Metrics, in Prometheus's text format", &[(200, "text")]),
    get("/livez", "Whether the process lives", &[(200, "text")]),
    get("/readyz", "Whether all pipelines do what they shall, else why not", &[(200, "text"), (503, "text")]),
    get("/v1/backups", "What this agent writes", &[(200, "Backups")]),
    get("/v1/index/{backup}/{topic}/{partition}", "Where an offset or a time is, or what is held", &[(200, "Place")])
        .query(PLACE)
        .refused(&[409]),
    get("/v1/savepoints/{backup}", "The names of the newest savepoints, oldest first", &[(200, "Names")])
        .query(LIMIT)
        .refused(&[409]),
    of("POST", "/v1/savepoints/{backup}", "Makes a savepoint now", &[(201, "Savepoint")]).refused(&[409]),
    of("POST", "/v1/groups/plan", "Where consumer groups would be put; changes nothing", &[(200, "Plan")])
        .body("Ask")
        .refused(&[404, 409]),
    of("POST", "/v1/groups/execute", "Puts groups where a plan says, after a snapshot", &[(200, "Report")])
        .body("Execute")
        .refused(&[404, 409]),
    get("/v1/snapshots/{backup}", "The newest snapshots of groups, the newest first", &[(200, "Snapshots")])
        .query(LIMIT)
        .refused(&[409]),
    get("/v1/snapshots/{backup}/{snapshot}", "All that a snapshot holds", &[(200, "Snapshot")]).refused(&[409]),
    of(
        "POST",
        "/v1/snapshots/{backup}/{snapshot}/rollback",
        "Brings groups back to what a snapshot says",
        &[(200, "ReportOrPlan")],
    )
    .may_have("Back")
    .refused(&[409]),
    get("/v1/restores/{backup}", "The restores of a backup, and how far each has come", &[(200, "Restores")])
        .query(LIMIT)
        .refused(&[409]),
    get("/v1/restores/{backup}/{restore}", "All that a restore has kept", &[(200, "Restore")]).refused(&[409]),
    of("POST", "/v1/restores/{backup}/{restore}/cancel", "Asks a restore to end", &[(200, "Meaning")])
        .may_have("Wish")
        .refused(&[409]),
    get("/v1/restores", "The restores that this agent was asked to run", &[(200, "Tasks")]),
    of("POST", "/v1/restores", "Begins a restore, or with dry_run plans it", &[(200, "Planned"), (202, "Begun")])
        .body("Start")
        .refused(&[404, 409]),
    of("POST", "/v1/restores/{backup}/{restore}/resume", "Goes on with a restore", &[(202, "Begun")])
        .may_have("GoOn")
        .refused(&[409]),
    of(
        "POST",
        "/v1/restores/{backup}/{restore}/undo",
        "Takes back what a restore has made and set",
        &[(200, "Undone")],
    )
    .may_have("TakeBack")
    .refused(&[409]),
    get("/v1/openapi.json", "This document", &[(200, "Object")]),
    get("/", "The worker", &[(200, "Root")]),
    get("/connectors", "The names of all connectors, or what is told of each", &[(200, "NamesOrObject")]).query(EXPAND),
    of("POST", "/connectors", "Makes a connector", &[(201, "Connector")]).body("Creation").refused(&[409]),
    get(NAME, "A connector", &[(200, "Connector")]),
    of("DELETE", NAME, "Deletes a connector", &[(204, "")]).refused(&[409]),
    get("/connectors/{name}/config", "How it is configured", &[(200, "Config")]),
    of("PUT", "/connectors/{name}/config", "Configures it, or makes it", &[(200, "Connector"), (201, "Connector")])
        .body("Config")
        .refused(&[409]),
    of("PATCH", "/connectors/{name}/config", "Changes some keys; null leaves one out", &[(200, "Connector")])
        .body("Config")
        .refused(&[409]),
    get("/connectors/{name}/status", "What it does", &[(200, "Status")]),
    get("/connectors/{name}/tasks", "Its tasks", &[(200, "Objects")]),
    get("/connectors/{name}/tasks/{task}/status", "What its task does", &[(200, "TaskStatus")]),
    of("POST", "/connectors/{name}/tasks/{task}/restart", "Has its task begin anew", &[(204, "")]),
    of("PUT", "/connectors/{name}/pause", "Has it rest", &[(202, "")]).refused(&[409]),
    of("PUT", "/connectors/{name}/resume", "Has it go on", &[(202, "")]).refused(&[409]),
    of("PUT", "/connectors/{name}/stop", "Has it rest, without a task", &[(204, "")]).refused(&[409]),
    of("POST", "/connectors/{name}/restart", "Has it begin anew", &[(202, "Status"), (204, "")]).query(RESTART),
    get("/connectors/{name}/topics", "The topics that it has read", &[(200, "Object")]),
    of("PUT", "/connectors/{name}/topics/reset", "Forgets them", &[(202, "")]),
    get("/connectors/{name}/offsets", "Where it goes on", &[(200, "Offsets")]),
    of("PATCH", "/connectors/{name}/offsets", "Refused: an archive's offsets are those it holds", &[]),
    of("DELETE", "/connectors/{name}/offsets", "Refused: an archive's offsets are those it holds", &[]),
    get("/connector-plugins", "The classes of connectors", &[(200, "Objects")]).query(ALL_PLUGINS),
    get("/connector-plugins/{class}/config", "The keys of a class", &[(200, "Objects")]),
    of("PUT", "/connector-plugins/{class}/config/validate", "Checks a configuration", &[(200, "Object")])
        .body("Config"),
    get("/admin/loggers", "The levels of the log", &[(200, "Object")]),
    get("/admin/loggers/{logger}", "The level of a logger", &[(200, "Object")]),
    of("PUT", "/admin/loggers/{logger}", "Sets the level of a logger", &[(200, "Names"), (204, "")])
        .body("Level")
        .query(SCOPE),
    get("/health", "That the agent answers", &[(200, "Object")]),
];
