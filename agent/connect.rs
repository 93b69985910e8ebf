//! Kafka Connect's REST API: each pipeline of the configuration file is a connector, and others can be made
//! (`docs/connect.md`).
//!
//! Paths, shapes, codes and error bodies are those of Kafka Connect 4.2, but for a list of differences with their reasons in
//! `docs/connect.md`, which a test holds against Apache's own worker. What a connector is to do can be asked for, and holds
//! at the next start where there is an `agent.state_dir` (`worker`); how one of the file is configured is the file's to say.
//!
//! Access: whoever reaches the listener may read; who may change anything, [`access`](crate::api::access) says. Secrets are
//! masked in every answer. A request never touches capture: it reads what the pipeline has said, and leaves an order.
//!
//! Cancellation: a dropped request leaves nothing half done. Crash: see `kept`.

mod answer;
mod change;
mod connector;
mod definition;
mod flat;
mod kept;
mod loggers;
mod made;
mod request;
mod state;
mod worker;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{MethodRouter, get, post, put};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use self::answer::{Info, Offsets, Root, Status, TASK, TaskStatus};
pub use self::connector::{Connector, Orders, Work};
use self::definition::Plugin;
use self::flat::{CLASS, CLASSES, Class};
pub use self::state::{Phase, Target};
pub use self::worker::{Changed, Worker};
use crate::api::Refused;
use crate::api::query::Segments;
use crate::plugin;

/// The version of connectors, tasks and the worker.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The most bytes of a request. A configuration has a few hundred; Kafka Connect has no bound, and a worker much memory.
const MOST_BODY_BYTES: usize = 256 << 10;

/// A connector's configuration: every value is a text.
type Flat = Map<String, Value>;

type Answer = Result<Response, Refused>;

/// Returns the routes of the API, which are to be [`guarded`](crate::api::guarded).
pub fn routes(worker: Worker) -> Router {
    let mut router = Router::new().route("/", get(root));
    for (path, methods) in table() {
        // Kafka Connect takes both, and people write both.
        router = router.route(&format!("{path}/"), methods.clone()).route(path, methods);
    }
    router
        .method_not_allowed_fallback(|| async {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, "HTTP 405 Method Not Allowed")
        })
        .layer(DefaultBodyLimit::max(MOST_BODY_BYTES))
        .with_state(worker)
}

/// Returns the routes below the root with their paths, as they are without a slash at the end.
pub(crate) fn table() -> Vec<(&'static str, MethodRouter<Worker>)> {
    vec![
        ("/connectors", get(connectors).post(change::create)),
        ("/connectors/{name}", get(connector).delete(change::remove)),
        ("/connectors/{name}/config", get(config).put(change::configure).patch(change::alter)),
        ("/connectors/{name}/status", get(status)),
        ("/connectors/{name}/tasks", get(tasks)),
        ("/connectors/{name}/tasks/{task}/status", get(task_status)),
        ("/connectors/{name}/tasks/{task}/restart", post(change::restart_task)),
        ("/connectors/{name}/pause", put(change::pause)),
        ("/connectors/{name}/resume", put(change::resume)),
        ("/connectors/{name}/stop", put(change::stop)),
        ("/connectors/{name}/restart", post(change::restart)),
        ("/connectors/{name}/topics", get(topics)),
        ("/connectors/{name}/topics/reset", put(change::forget_topics)),
        ("/connectors/{name}/offsets", get(offsets).patch(change::offsets).delete(change::offsets)),
        ("/connector-plugins", get(plugins)),
        ("/connector-plugins/{class}/config", get(definitions)),
        ("/connector-plugins/{class}/config/validate", put(validate)),
        ("/admin/loggers", get(loggers::list)),
        ("/admin/loggers/{logger}", get(loggers::one).put(loggers::set)),
        ("/health", get(health)),
    ]
}

async fn root(State(worker): State<Worker>) -> Json<Root> {
    Json(Root { version: VERSION, commit: None, kafka_cluster_id: worker.cluster_id() })
}

/// Says that the agent answers; whether its pipelines do what they shall is what `/readyz` says.
async fn health() -> Json<Value> {
    let message = "Worker has completed startup and is ready to handle requests.";
    Json(json!({ "status": "healthy", "message": message }))
}

async fn connectors(State(worker): State<Worker>, RawQuery(query): RawQuery) -> Json<Value> {
    let expand = request::parameters(query.as_deref(), "expand");
    if expand.is_empty() {
        return Json(worker.connectors().iter().map(|connector| connector.name()).collect());
    }
    let connectors = worker.connectors();
    let expanded = connectors.iter().map(|connector| {
        let mut parts = Map::new();
        if expand.contains(&"status") {
            let (known, phase) = ((connector.name(), connector.class()), connector.phase());
            parts.insert("status".into(), json!(Status::new(known, &phase, worker.id())));
        }
        if expand.contains(&"info") {
            parts.insert("info".into(), json!(Info::new(connector)));
        }
        (connector.name().to_owned(), Value::Object(parts))
    });
    Json(Value::Object(expanded.collect()))
}

async fn connector(State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    let connector = find(&worker, &name)?;
    Ok(Json(Info::new(&connector)).into_response())
}

async fn config(State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    Ok(Json(find(&worker, &name)?.flat()).into_response())
}

async fn status(State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    let none = || Refused::not_found(format!("No status found for connector {name}"));
    let connector = worker.connector(&name).ok_or_else(none)?;
    Ok(Json(Status::new((&name, connector.class()), &connector.phase(), worker.id())).into_response())
}

async fn tasks(State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    let connector = find(&worker, &name)?;
    Ok(Json(answer::tasks(&name, connector.flat(), &connector.phase())).into_response())
}

async fn task_status(State(worker): State<Worker>, Segments((name, task)): Segments<(String, String)>) -> Answer {
    // As in Kafka Connect, a number below 0 is that of a task which there is not.
    let task: i32 = text_number(&task)?;
    let phase = worker.connector(&name).filter(|_| u32::try_from(task) == Ok(TASK)).map(|connector| connector.phase());
    let status = phase.and_then(|phase| TaskStatus::new(&phase, worker.id()));
    let status = status.ok_or_else(|| Refused::not_found(format!("No status found for task {name}-{task}")))?;
    Ok(Json(status).into_response())
}

async fn topics(State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    let topics = find(&worker, &name)?.topics();
    let answer = Map::from_iter([(name, json!({ "topics": topics }))]);
    Ok(Json(answer).into_response())
}

/// Answers with what the archive holds, as far as this agent knows.
async fn offsets(State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    let connector = find(&worker, &name)?;
    if connector.class() == Class::ArchiveSource {
        return Err(Refused::bad(format!(
            "connector {name} is a restore, which keeps beside its backup how far it is: `restores show` says it"
        )));
    }
    let offsets = connector.offsets().ok_or_else(|| {
        Refused::unavailable(format!(
            "connector {name} has not run since this agent started: `describe` says what is held"
        ))
    })?;
    Ok(Json(Offsets::new(offsets)).into_response())
}

async fn plugins(RawQuery(query): RawQuery) -> Json<Vec<Plugin>> {
    let mut plugins: Vec<_> = CLASSES.into_iter().map(Plugin::of).collect();
    if request::parameters(query.as_deref(), "connectorsOnly").contains(&"false") {
        plugins.extend(plugin::shipped().map(Plugin::of_transform));
    }
    Json(plugins)
}

async fn definitions(Segments(class): Segments<String>) -> Answer {
    let class = Class::of(&class).ok_or_else(|| Refused::not_found(format!("Unknown plugin {class}.")))?;
    Ok(Json(definition::definitions(class)).into_response())
}

/// Checks a configuration, and changes nothing.
async fn validate(
    State(worker): State<Worker>,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let given = request::texts(request::json(&headers, body)?)?;
    let class = request::class_of(&name)?;
    let told = given.get(CLASS).and_then(Value::as_str);
    match told {
        Some(told) if Class::of(told) == Some(class) => {}
        Some(told) => {
            let message = format!("Included connector type {told} does not match request type {name}");
            return Err(Refused::bad(message));
        }
        None => drop(request::class(&given)?),
    }
    let checked = worker.in_turn(move |_| Ok(definition::validate(&name, class, &given))).await?;
    Ok(Json(checked).into_response())
}

fn find(worker: &Worker, name: &str) -> Result<Arc<Connector>, Refused> {
    worker.connector(name).ok_or_else(|| worker::not_found(name))
}

/// Reads the number of a task; what is none leads nowhere.
fn task_number(text: &str) -> Result<u32, Refused> {
    text_number(text)
}

fn text_number<N: std::str::FromStr>(text: &str) -> Result<N, Refused> {
    text.parse().map_err(|_| Refused::not_found("HTTP 404 Not Found"))
}

#[cfg(test)]
mod tests;
