//! `GET /v1/openapi.json`: the OpenAPI document of all routes that the listener has, Kafka Connect's among them.
//!
//! It is made of a table of [`operations`] and of [`schemas`]; a test holds the table against the routers, in both directions.
//! What every operation of a kind may answer (that it is not allowed, that the body is too large) is added here. Pure.

mod operations;
mod schemas;

use std::sync::LazyLock;

use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use self::operations::{OPERATIONS, Operation, Parameter};
use super::access;

/// The document, which is the same as long as the process lives.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// Answers with the document.
pub(super) async fn answer() -> Response {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([kind], DOCUMENT.as_str()).into_response()
}

fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let methods = paths.entry(operation.path).or_insert_with(|| json!({}));
        methods[operation.method.to_ascii_lowercase()] = operation.described();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "kafka-backup",
            "description": "The agent's own API, and Kafka Connect's REST API as the agent has it.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "agent.token, where the agent has one"},
                "certificate": {"type": "mutualTLS", "description": "signed by an authority of agent.tls.client_ca"},
            },
        },
    })
}

impl Operation {
    fn described(&self) -> Value {
        let mut described = json!({
            "operationId": self.id(),
            "tags": [self.tag()],
            "summary": self.summary,
            "responses": self.responses(),
        });
        let parameters = self.parameters();
        if !parameters.is_empty() {
            described["parameters"] = parameters.into();
        }
        if let Some(schema) = self.body {
            let content = json!({"application/json": {"schema": reference(schema)}});
            described["requestBody"] = json!({"required": self.needs_body, "content": content});
        }
        if self.changes() {
            // Without either, as for programs of the agent's machine where it has neither.
            described["security"] = json!([{"token": []}, {"certificate": []}, {}]);
        }
        described
    }

    fn id(&self) -> String {
        let words = self.path.split(['/', '-', '.', '{', '}']).filter(|word| !word.is_empty()).collect::<Vec<_>>();
        format!("{}_{}", self.method.to_ascii_lowercase(), words.join("_"))
    }

    fn tag(&self) -> &'static str {
        match self.path {
            path if path.starts_with("/v1/") => "agent",
            "/metrics" | "/livez" | "/readyz" => "health",
            _ => "connect",
        }
    }

    fn changes(&self) -> bool {
        let method = Method::from_bytes(self.method.as_bytes()).unwrap_or_default();
        access::changes(&method, self.path)
    }

    fn parameters(&self) -> Vec<Value> {
        let in_path = names(self.path).map(|name| {
            let schema = match name {
                "partition" | "task" => json!({"type": "integer", "minimum": 0, "maximum": i32::MAX}),
                _ => json!({"type": "string", "minLength": 1}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        });
        let in_query = self.query.iter().map(|Parameter { name, schema, about }| {
            json!({"name": name, "in": "query", "required": false, "schema": schema(), "description": about})
        });
        in_path.chain(in_query).collect()
    }

    fn responses(&self) -> Value {
        let mut responses = Map::new();
        for (status, schema) in self.answers {
            let content = match *schema {
                "" => Value::Null,
                "text" => json!({"text/plain": {"schema": {"type": "string"}}}),
                schema => json!({"application/json": {"schema": reference(schema)}}),
            };
            let mut response = json!({"description": meaning(*status)});
            if !content.is_null() {
                response["content"] = content;
            }
            responses.insert(status.to_string(), response);
        }
        for status in self.refusals() {
            let entry = responses.entry(status.to_string());
            let _ = entry.or_insert_with(|| {
                let content = json!({"application/json": {"schema": reference("Error")}});
                json!({"description": meaning(status), "content": content})
            });
        }
        responses.into()
    }

    /// Returns the statuses that it may be refused with.
    fn refusals(&self) -> Vec<u16> {
        let mut refusals = self.refusals.to_vec();
        if names(self.path).next().is_some() {
            refusals.extend([400, 404]);
        }
        if self.body.is_some() {
            refusals.extend([400, 408, 413, 415]);
        }
        if self.changes() {
            refusals.push(401);
        }
        if self.tag() != "health" {
            // To read is refused to a page whose name only leads here.
            refusals.extend([403, 503]);
        }
        refusals.sort_unstable();
        refusals.dedup();
        refusals
    }
}

/// Returns the names of a path's parameters.
fn names(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn meaning(status: u16) -> &'static str {
    match status {
        200 => "done",
        201 => "made",
        202 => "begun",
        204 => "done, with nothing to say",
        400 => "it cannot be meant",
        401 => "the agent's token is missing, or is another one",
        403 => "nothing that this request could show would allow it",
        404 => "there is no such thing",
        408 => "the body does not come",
        409 => "it does not go together with how things are",
        413 => "the body is too large",
        415 => "the body is no JSON",
        _ => {
            "it cannot be answered now: try again after the seconds in Retry-After; without that, what it names is damaged"
        }
    }
}

#[cfg(test)]
mod tests;
