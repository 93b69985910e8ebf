//! The file, read again: SIGHUP has what it says now hold, without an end to what it says as before.
//!
//! A file that cannot be read, or is wrong in any way that can be known without connecting or writing, changes nothing, and one
//! line of the log says why. What `[agent]` says holds when the agent is started again, but for what is in the files of its
//! certificates: they are read again too. Nothing here is durable.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, Config};
use crate::connect::{Changed, Worker};
use crate::error::{Error, Result};
use crate::telemetry::http::Tls;

/// Starts to listen for SIGHUP, which ends the process no more then.
pub(super) fn hang_ups() -> Result<Signal> {
    signal(SignalKind::hangup()).map_err(|error| Error::failed("cannot listen for SIGHUP").source(error))
}

/// Reads `file` again whenever SIGHUP comes, and what `tls` is spoken with, for ever; `agent` is what the process was started
/// with.
pub(super) async fn on_hang_ups(
    mut hang_ups: Signal,
    file: String,
    (agent, tls): (config::Agent, Option<Tls>),
    worker: Worker,
) {
    // Several that come while the file is read are one.
    while hang_ups.recv().await.is_some() {
        match renewed(tls.clone()).await {
            Ok(true) => tracing::info!("SIGHUP: the certificates of agent.tls are others, and hold from now on"),
            Ok(false) => {}
            Err(error) => tracing::error!("SIGHUP: the certificates from before are kept: {error}"),
        }
        match again(&file, &agent, &worker).await {
            Ok(Changed { new, gone, other, same }) => tracing::info!(
                "SIGHUP: {file} is read again; of the pipelines {new} are new, {gone} are gone, {other} are configured \
                 otherwise, {same} are as they were"
            ),
            Err(error) => tracing::error!("SIGHUP: nothing is changed: {error}"),
        }
    }
}

/// Reads again what TLS is spoken with; returns whether that is something else.
async fn renewed(tls: Option<Tls>) -> Result<bool> {
    let Some(tls) = tls else { return Ok(false) };
    let read = tokio::task::spawn_blocking(move || tls.read_again()).await;
    read.map_err(|error| Error::failed("the certificates could not be read").source(error))?
}

async fn again(file: &str, agent: &config::Agent, worker: &Worker) -> Result<Changed> {
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let config = Config::load(Path::new(&path))?;
        super::validate(&config)?;
        Ok(config)
    });
    let config = read.await.map_err(|error| Error::failed("the file could not be read").source(error))??;
    if let Some(restore) = config.restores.first() {
        return Err(super::not_run_here(&config, restore));
    }
    super::validate_stages(&config).await?;
    if config.agent != *agent {
        tracing::warn!("{file}: [agent] is not as it was: that holds when the agent is started again");
    }
    worker.reload(config).await
}
