//! What may be asked of connectors, by a program of this machine alone: to pause, resume, stop, begin anew.
//!
//! How a connector is configured is not changed here: a pipeline of the file is changed in the file, and every answer to such
//! a request says so, after all that is wrong with the request itself.

use std::sync::Arc;

use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json};
use bytes::Bytes;

use super::answer::{Status, TASK};
use super::request::{self, Local};
use super::state::{Phase, Target};
use super::worker::{Connector, Worker};
use super::{Answer, Flat, definition, find, task_number};
use crate::api::Refused;
use crate::api::query::Segments;

pub(super) async fn pause(_: Local, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    worker.set_target(known(&worker, &name)?, Target::Paused).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

pub(super) async fn resume(_: Local, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    worker.set_target(known(&worker, &name)?, Target::Started).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

pub(super) async fn stop(_: Local, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    worker.set_target(known(&worker, &name)?, Target::Stopped).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Has a connector begin anew. Without its task there is nothing to it that could: as in Kafka Connect, the task goes on
/// then.
pub(super) async fn restart(
    _: Local,
    State(worker): State<Worker>,
    Segments(name): Segments<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let with_task = request::flag(query.as_deref(), "includeTasks")?;
    let only_failed = request::flag(query.as_deref(), "onlyFailed")?;
    let connector = worker.connector(&name);
    let connector = connector.ok_or_else(|| Refused::not_found(format!("Unknown connector: {name}")))?;
    if !with_task && !only_failed {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let phase = connector.phase();
    let restarts = with_task && (!only_failed || matches!(phase, Phase::Failed(_)));
    if restarts {
        connector.restart();
    }
    let status = Status::new(&name, &phase, worker.id()).restarting(!only_failed, restarts);
    Ok((StatusCode::ACCEPTED, Json(status)).into_response())
}

pub(super) async fn restart_task(
    _: Local,
    State(worker): State<Worker>,
    Segments((name, task)): Segments<(String, String)>,
) -> Answer {
    let task = task_number(&task)?;
    let has_task = |connector: &&Arc<Connector>| task == TASK && connector.phase().of_task().is_some();
    let connector = worker.connector(&name).filter(has_task);
    connector.ok_or_else(|| Refused::not_found(format!("Task {name}-{task} not found")))?.restart();
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn forget_topics(_: Local, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    find(&worker, &name)?.forget_topics();
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Refuses to alter or reset where a connector goes on: that is what the archive holds.
pub(super) async fn offsets(_: Local, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    if find(&worker, &name)?.phase() != Phase::Stopped {
        return Err(Refused::bad(format!(
            "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the \
             specified connector by issuing a 'PUT' request to the '/connectors/{name}/stop' endpoint"
        )));
    }
    Err(Refused::bad(
        "the offsets of an archive are those that it holds, and nobody can alter them: to begin elsewhere, give the \
         pipeline another sink.backup_id",
    ))
}

pub(super) async fn create(
    _: Local,
    State(worker): State<Worker>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let request::Creation { name, config } = request::creation(request::json(&headers, body)?)?;
    check(&config)?;
    if worker.connector(&name).is_some() {
        return Err(Refused::new(StatusCode::CONFLICT, format!("Connector {name} already exists")));
    }
    Err(of_the_file(&worker, &name))
}

pub(super) async fn configure(
    _: Local,
    State(worker): State<Worker>,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let mut config = request::texts(request::json(&headers, body)?)?;
    request::named(&mut config, &name)?;
    check(&config)?;
    Err(of_the_file(&worker, &name))
}

pub(super) async fn alter(
    _: Local,
    State(worker): State<Worker>,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let _changes = request::texts(request::json(&headers, body)?)?;
    find(&worker, &name)?;
    Err(of_the_file(&worker, &name))
}

pub(super) async fn remove(_: Local, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    find(&worker, &name)?;
    Err(of_the_file(&worker, &name))
}

/// Says where pipelines are made and changed.
fn of_the_file(worker: &Worker, name: &str) -> Refused {
    let what = match worker.connector(name) {
        Some(_) => format!("connector {name} is a pipeline of the configuration file: change it there"),
        None => format!("connector {name} cannot be made here: add a pipeline to the configuration file"),
    };
    Refused::new(StatusCode::CONFLICT, format!("{what}, and start the agent again"))
}

/// Refuses a configuration with everything that is wrong with it.
fn check(config: &Flat) -> Result<(), Refused> {
    request::class(config)?;
    let wrong = definition::check(config);
    if wrong.is_empty() {
        return Ok(());
    }
    let lines: String = wrong.iter().map(|wrong| format!("\n{}: {}", wrong.key, wrong.reason)).collect();
    Err(Refused::bad(format!(
        "Connector configuration is invalid and contains the following {} error(s):{lines}\nYou can also find the above list \
         of errors at the endpoint `/connector-plugins/{{connectorType}}/config/validate`",
        wrong.len()
    )))
}

fn known<'a>(worker: &'a Worker, name: &str) -> Result<&'a Arc<Connector>, Refused> {
    worker.connector(name).ok_or_else(|| Refused::not_found(format!("Unknown connector {name}")))
}
