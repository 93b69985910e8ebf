//! What may be asked of connectors, by whom [`access`](crate::api::access) lets: to pause, resume, stop, begin anew; to be made,
//! configured otherwise, removed.
//!
//! A pipeline of the file is changed in the file, and every answer to such a request says so, after all that is wrong with the
//! request itself. The order in which a change takes effect is [`Worker`]'s.

use std::sync::Arc;

use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use bytes::Bytes;

use super::answer::{Info, Status, TASK};
use super::connector::Connector;
use super::flat::Wrong;
use super::request;
use super::state::{Phase, Target};
use super::worker::{self, Asked, Worker};
use super::{Answer, Flat, definition, find, made, task_number};
use crate::api::Refused;
use crate::api::access::Permitted;
use crate::api::query::Segments;

pub(super) async fn pause(_: Permitted, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    worker.set_target(name, Target::Paused).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

pub(super) async fn resume(_: Permitted, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    worker.set_target(name, Target::Started).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

pub(super) async fn stop(_: Permitted, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    worker.set_target(name, Target::Stopped).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Has a connector begin anew. Without its task there is nothing to it that could: as in Kafka Connect, the task goes on
/// then.
pub(super) async fn restart(
    _: Permitted,
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
        worker.restart(&connector).await;
    }
    let status = Status::new((&name, connector.class()), &phase, worker.id()).restarting(!only_failed, restarts);
    Ok((StatusCode::ACCEPTED, Json(status)).into_response())
}

pub(super) async fn restart_task(
    _: Permitted,
    State(worker): State<Worker>,
    Segments((name, task)): Segments<(String, String)>,
) -> Answer {
    let task = task_number(&task)?;
    let has_task = |connector: &Arc<Connector>| task == TASK && connector.phase().of_task().is_some();
    let connector = worker.connector(&name).filter(has_task);
    let connector = connector.ok_or_else(|| Refused::not_found(format!("Task {name}-{task} not found")))?;
    worker.restart(&connector).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn forget_topics(
    _: Permitted,
    State(worker): State<Worker>,
    Segments(name): Segments<String>,
) -> Answer {
    find(&worker, &name)?.forget_topics();
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Refuses to alter or reset where a connector goes on: that is what the archive holds.
pub(super) async fn offsets(_: Permitted, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
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
    _: Permitted,
    State(worker): State<Worker>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let request::Creation { name, config, target } = request::creation(request::json(&headers, body)?)?;
    check(&name, &config)?;
    let (connector, _) = worker.configure(name, config, Asked::New(target)).await?;
    Ok(made(&connector))
}

pub(super) async fn configure(
    _: Permitted,
    State(worker): State<Worker>,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let mut config = request::texts(request::json(&headers, body)?)?;
    request::named(&mut config, &name)?;
    check(&name, &config)?;
    match worker.configure(name, config, Asked::Any).await? {
        (connector, true) => Ok(made(&connector)),
        (connector, false) => Ok(Json(info(&connector)).into_response()),
    }
}

/// Changes single keys of a configuration; those that are null are left out from now on.
pub(super) async fn alter(
    _: Permitted,
    State(worker): State<Worker>,
    Segments(name): Segments<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let (changes, removed) = request::changes(request::json(&headers, body)?)?;
    let connector = find(&worker, &name)?;
    // A pipeline of the file has none, and is refused with that.
    let mut config = connector.given().cloned().unwrap_or_default();
    config.retain(|key, _| !removed.contains(key));
    config.extend(changes);
    request::named(&mut config, &name)?;
    if connector.given().is_some() {
        check(&name, &config)?;
    }
    let (connector, _) = worker.configure(name, config, Asked::Instead(connector)).await?;
    Ok(Json(info(&connector)).into_response())
}

pub(super) async fn remove(_: Permitted, State(worker): State<Worker>, Segments(name): Segments<String>) -> Answer {
    worker.remove(name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn info(connector: &Connector) -> Info {
    Info::new(connector)
}

/// Answers with a connector that there was not.
fn made(connector: &Connector) -> Response {
    let location = format!("/connectors/{}", request::encoded(connector.name()));
    (StatusCode::CREATED, [(header::LOCATION, location)], Json(info(connector))).into_response()
}

/// Refuses a configuration with everything that is wrong with its texts.
fn check(name: &str, config: &Flat) -> Result<(), Refused> {
    request::class(config)?;
    let mut wrong = definition::check(config);
    wrong.extend(made::wrong_name(name).map(|reason| Wrong { key: "name".to_owned(), reason }));
    if wrong.is_empty() { Ok(()) } else { Err(worker::invalid(&wrong)) }
}
