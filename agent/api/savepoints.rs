//! `/v1/savepoints/{backup}`: the newest savepoints, and making one now.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;

use super::access::Permitted;
use super::query::{self, Segments};
use super::{Refused, Registry, Running, patiently, still_there};

/// A savepoint that was made, as data.
#[derive(Serialize)]
struct Made {
    backup: String,
    savepoint: String,
}

/// Lists the names of the newest savepoints, oldest first.
pub(super) async fn list(
    State(registry): State<Registry>,
    Segments(backup): Segments<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<String>>, Refused> {
    let limit = query::limit(query.as_deref().unwrap_or_default())?;
    let archive = one(&registry, &backup)?.archive;
    let names = patiently(async {
        let (names, _) = archive.newest_savepoints(limit).await?;
        if names.is_empty() {
            still_there(&archive).await?;
        }
        Ok::<_, Refused>(names)
    });
    Ok(Json(names.await?.into_iter().map(|name| name.to_string()).collect()))
}

/// Makes a savepoint.
pub(super) async fn make(
    _: Permitted,
    State(registry): State<Registry>,
    Segments(backup): Segments<String>,
) -> Result<Response, Refused> {
    let make = one(&registry, &backup)?.savepoints;
    let make = make.ok_or_else(|| Refused::unavailable("the pipeline makes no savepoints yet"))?;
    // It knows by itself how long cluster and store may take.
    let savepoint = make().await?;
    Ok((StatusCode::CREATED, Json(Made { backup, savepoint })).into_response())
}

/// Returns a pipeline that writes the backup; pipelines may write backups of one name into several places.
fn one(registry: &Registry, backup: &str) -> Result<Running, Refused> {
    let mut writers = registry.writers(backup)?.running;
    let place = |running: &Running| running.archive.store().describe("");
    let first = writers.remove(0);
    if writers.iter().any(|other| place(other) != place(&first)) {
        return Err(Refused::several(backup));
    }
    Ok(first)
}
