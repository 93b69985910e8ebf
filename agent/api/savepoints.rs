//! `/v1/savepoints/{backup}`: the savepoints that there are, and making one now.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;

use super::{Refused, Registry, Running, is_local, patiently};

/// A savepoint that was made, as data.
#[derive(Serialize)]
struct Made {
    backup: String,
    savepoint: String,
}

/// Lists the names of the savepoints, oldest first.
pub(super) async fn list(
    State(registry): State<Registry>,
    Path(backup): Path<String>,
) -> Result<Json<Vec<String>>, Refused> {
    let archive = one(&registry, &backup)?.archive;
    let names = patiently(archive.savepoints()).await?;
    Ok(Json(names.into_iter().map(|name| name.to_string()).collect()))
}

/// Makes a savepoint.
pub(super) async fn make(
    State(registry): State<Registry>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(backup): Path<String>,
) -> Result<Response, Refused> {
    if !is_local(peer) {
        let message = "only this machine may make a savepoint: send the request from where the agent runs";
        return Err(Refused::new(StatusCode::FORBIDDEN, message));
    }
    let make = one(&registry, &backup)?.savepoints;
    let make = make.ok_or_else(|| Refused::unavailable("the pipeline makes no savepoints yet"))?;
    // It knows by itself how long cluster and store may take.
    let savepoint = make().await?;
    Ok((StatusCode::CREATED, Json(Made { backup, savepoint })).into_response())
}

/// Returns a pipeline that writes the backup; pipelines may write backups of one name into several places.
fn one(registry: &Registry, backup: &str) -> Result<Running, Refused> {
    let mut writers = registry.writers(backup)?;
    let place = |running: &Running| running.archive.store().describe("");
    let first = writers.remove(0);
    if writers.iter().any(|other| place(other) != place(&first)) {
        let message = format!("this agent writes several backups of the name `{backup}`: GET /v1/backups lists them");
        return Err(Refused::new(StatusCode::CONFLICT, message));
    }
    Ok(first)
}
