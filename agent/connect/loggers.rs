//! `/admin/loggers`: how much is logged, by logger. What is set holds until the process ends.

use std::collections::BTreeMap;

use axum::extract::RawQuery;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json};
use bytes::Bytes;
use serde::Serialize;

use super::Answer;
use super::request;
use crate::api::Refused;
use crate::api::access::Permitted;
use crate::api::query::Segments;
use crate::telemetry::levels::{self, Level, Levels};

/// The level of a logger, as data.
#[derive(Serialize)]
struct LevelData {
    level: String,
    last_modified: Option<i64>,
}

impl LevelData {
    fn of(level: Level) -> Self {
        Self { level: level.level.to_string().to_uppercase(), last_modified: level.modified.map(|at| at.0) }
    }
}

pub(super) async fn list() -> Answer {
    let all = Levels::get().map(Levels::all).unwrap_or_default();
    let all: BTreeMap<_, _> = all.into_iter().map(|(name, level)| (name, LevelData::of(level))).collect();
    Ok(Json(all).into_response())
}

pub(super) async fn one(Segments(logger): Segments<String>) -> Answer {
    let level = Levels::get().and_then(|levels| levels.all().remove(&logger));
    let level = level.ok_or_else(|| Refused::not_found(format!("Logger {logger} not found.")))?;
    Ok(Json(LevelData::of(level)).into_response())
}

pub(super) async fn set(
    _: Permitted,
    Segments(logger): Segments<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let given = request::texts(request::json(&headers, body)?)?;
    let level = given.get("level").and_then(|level| level.as_str());
    let missing = || Refused::bad("Desired 'level' parameter was not specified in request.");
    let level = level.ok_or_else(missing)?;
    let unknown = || Refused::not_found(format!("invalid log level '{level}'."));
    let parsed = levels::level_of(level).ok_or_else(unknown)?;
    let all = Levels::get().ok_or_else(|| Refused::unavailable("this process has no log of its own"))?;
    if !all.set(&logger, parsed) {
        return Err(Refused::bad(format!(
            "`{}` is no name of a logger, as kafka_backup::kafka",
            logger.escape_debug()
        )));
    }
    tracing::info!("logger {logger}: {parsed} from now on");
    // Of the whole cluster this worker is all that is asked.
    match request::parameters(query.as_deref(), "scope")[..] {
        ["cluster"] => Ok(StatusCode::NO_CONTENT.into_response()),
        _ => Ok(Json([logger]).into_response()),
    }
}
