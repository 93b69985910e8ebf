//! The wiring of backups: from a configuration to running pipelines, for as long as it takes (`run`) or for one pass
//! (`backup`).
//!
//! Retry: an agent's pipeline that fails starts again, with back-off, and `/readyz` says why it is down; only where the first
//! attempt of every pipeline finds what the user must change does the process end: else the others have data that must not
//! wait for it. A pipeline that is told to rest closes what it holds, and begins anew when it is told to. One pass
//! gives up after a bounded wait.
//! Cancellation: SIGTERM and SIGINT let every pipeline close, upload and commit what it holds, within its
//! `shutdown_timeout`; a second one ends the process at once. Crash: see `archive::sink`, and `connect` for what pipelines are
//! told; nothing here is durable.

mod failures;
mod healing;
mod keeping;
mod losses;
mod objectives;
mod pass;
mod reload;
mod restoring;
mod running;
pub mod savepoints;
mod surviving;
mod topics;
mod watch;

use std::time::{Duration, Instant};

use tokio::sync::watch as channel;
use tokio::task::JoinSet;

use self::pass::Pass;
use self::running::Running;
use self::watch::Watch;
use crate::api::access::{self, Access};
use crate::api::{self, Registry, Restores};
use crate::archive::Archive;
use crate::archive::sink::{self, Reached, Sink};
use crate::budget::{Budget, RateLimit};
use crate::config::{self, Config};
use crate::connect::{self, Worker};
use crate::error::{Error, Kind, Result};
use crate::kafka::Properties;
use crate::kafka::source::{self, Source};
use crate::pipeline::{self, Control};
use crate::stages::{Refused, Stages, Way};
use crate::store::Store;
use crate::telemetry::{Health, http, metrics};

/// How long one pass tries to write to a store that fails before it gives up: as long as to read.
const GIVE_UP_AFTER: Duration = source::GIVE_UP_AFTER;

/// Signals closer together than this are one: `timeout` and others send theirs to the process and to its group.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// Turns true when everything shall stop.
pub(crate) type Stop = channel::Receiver<bool>;

/// Checks what can be known of a configuration beyond its own file, without connecting or writing.
pub fn validate(config: &Config) -> Result<()> {
    let _tls = access::tls(&config.agent)?;
    for (i, pipeline) in config.pipelines.iter().enumerate() {
        let wrong = |key, error: Error| Error::usage(format!("{}: pipeline[{i}].{key}: {error}", config.file));
        Properties::new(pipeline.source.kafka.clone()).map_err(|error| wrong("source.kafka", error))?;
        Store::open(&pipeline.sink.path).map_err(|error| wrong("sink.path", error))?;
    }
    Ok(())
}

/// Opens the plugins of all stages and tries their settings, as the start of a pipeline does.
///
/// # Errors
/// [`Kind::Usage`] for what the user must change, with the path of the key.
pub async fn validate_stages(config: &Config) -> Result<()> {
    let (file, pipelines, restores) = (config.file.clone(), config.pipelines.clone(), config.restores.clone());
    // Opening one compiles it.
    let opened = tokio::task::spawn_blocking(move || {
        for (i, pipeline) in pipelines.iter().enumerate() {
            for (j, stage) in pipeline.stages.iter().enumerate() {
                let wrong = |refused: Refused| {
                    Error::usage(format!("{file}: pipeline[{i}].stage[{j}].{}: {}", refused.key, refused.error))
                };
                let _opened = stage.open(&pipeline.name, j + 1, Way::Capture).map_err(wrong)?;
            }
        }
        for restore in &restores {
            for (j, stage) in restore.stages.iter().enumerate() {
                let wrong =
                    |refused: Refused| Error::usage(format!("{file}: stage[{j}].{}: {}", refused.key, refused.error));
                let _opened = stage.open(&restore.name, j + 1, Way::Restore).map_err(wrong)?;
            }
        }
        Ok(())
    });
    opened.await.map_err(|error| Error::failed("the stages could not be opened").source(error))?
}

/// Runs all pipelines until SIGTERM or SIGINT, then closes them gracefully. SIGHUP has the file read again.
///
/// # Errors
/// [`Kind::Usage`] for a file with a restore, and when the first attempt of every pipeline to start finds what the user must
/// change; [`Kind::Failed`] when what was held could not be made durable within `shutdown_timeout`. That of [`Worker::open`].
pub async fn run(config: Config) -> Result<()> {
    // A daemon that left one out would be taken for one that does it.
    if let Some(restore) = config.restores.first() {
        return Err(not_run_here(&config, restore));
    }
    validate(&config)?;
    let (stop, stopped) = stop_on_signals()?;
    let hang_ups = reload::hang_ups()?;
    let health = Health::new();
    let tls = access::tls(&config.agent)?;
    let listener = http::Listener::bind(&config.agent.listen, tls.clone()).await?;
    access::warn(&config.agent, listener.address());
    let worker = Worker::open(&config, listener.address())?;
    let registry = Registry::default();
    let restart_backoff_max = config.agent.restart_backoff_max;
    // Behind the worker, which has the lock of the folder.
    let kept = (config.agent.state_dir.as_deref(), restart_backoff_max);
    let restores = Restores::open(registry.clone(), health.clone(), kept, stopped.clone());
    let routes = api::routes(registry.clone(), restores.clone()).merge(connect::routes(worker.clone()));
    let routes = api::guarded(routes, Access::new(&config.agent));
    let server = tokio::spawn(listener.serve(metrics::install()?, health.clone(), routes));
    let reloading =
        tokio::spawn(reload::on_hang_ups(hang_ups, config.file, (config.agent, tls.clone()), worker.clone()));
    let renewing = tls.map(|tls| tokio::spawn(tls.renew()));
    let outcome = Running::new(worker, registry, health, restart_backoff_max).run(&stop, stopped).await;
    reloading.abort();
    renewing.iter().for_each(|renewing| renewing.abort());
    server.abort();
    restores.close().await;
    if outcome.is_ok() {
        tracing::info!("stopped");
    }
    outcome
}

/// Makes one pass of all pipelines, up to the last stable offsets seen at start.
///
/// # Errors
/// [`Kind::Usage`] for a file that has only restores, or nothing. That of the only pipeline; of several, [`Kind::Partial`] if some
/// were done. [`Kind::Interrupted`] after a signal.
pub async fn once(config: Config) -> Result<()> {
    if let Some(restore) = config.restores.first().filter(|_| config.pipelines.is_empty()) {
        return Err(not_run_here(&config, restore));
    }
    if config.pipelines.is_empty() {
        return Err(Error::usage(format!("{}: there is no pipeline to make a pass of", config.file)));
    }
    validate(&config)?;
    let (_stop, stopped) = stop_on_signals()?;
    let mut passes = JoinSet::new();
    for pipelines in savepoints::backups(&config.pipelines) {
        let reached = Reached::default();
        for pipeline in pipelines.clone() {
            let (pipelines, reached, stopped) = (pipelines.clone(), reached.clone(), stopped.clone());
            passes.spawn(async move {
                let (outcome, has_read) = pass(&pipeline, reached.clone(), stopped.clone()).await;
                if outcome.is_ok() && !*stopped.borrow() {
                    savepoints::of_pass(&pipelines, reached).await;
                }
                (outcome, has_read)
            });
        }
    }
    let (mut done, mut failed, mut has_read) = (0, Vec::new(), false);
    while let Some(ended) = passes.join_next().await {
        let defect = |error| (Err(Error::failed("a pipeline ended by a defect").source(error)), false);
        let (outcome, read) = ended.unwrap_or_else(defect);
        has_read |= read;
        match outcome {
            Ok(()) => done += 1,
            Err(error) => failed.push(error),
        }
    }
    if *stopped.borrow() {
        return Err(interrupted(failed.pop(), has_read));
    }
    match failed.pop() {
        None => Ok(()),
        Some(error) if done == 0 && failed.is_empty() => Err(error),
        Some(error) => {
            let all = done + failed.len() + 1;
            for error in failed {
                tracing::error!("{error}");
            }
            let kind = if done == 0 { error.kind() } else { Kind::Partial };
            Err(Error::new(kind, format!("{} of {all} pipelines failed", all - done)).source(error))
        }
    }
}

/// Says what runs a restore.
fn not_run_here(config: &Config, restore: &config::Restore) -> Error {
    let groups = if restore.groups.is_some() { ", and puts consumer groups back" } else { "" };
    let hint = format!(
        "`kafka-backup restore --config {}` does it once, and leaves pipelines that capture alone; give those a file of \
         their own",
        config.file
    );
    let what = format!("{}: the pipeline `{}` restores{groups}, which is not done here", config.file, restore.name);
    Error::usage(what).hint(hint)
}

/// Makes one pass of one pipeline; returns what came of it, and whether anything was read.
async fn pass(pipeline: &config::Pipeline, reached: Reached, stopped: Stop) -> (Result<()>, bool) {
    let budget = Budget::new(pipeline.sink.memory_bytes);
    let pass = Pass::new(&pipeline.name);
    let mut watch = Watch::new(pipeline, budget.clone(), Health::new(), Some(pass));
    watch.reached = reached.clone();
    let outcome = attempt(pipeline, Mode::Once, &budget, &mut watch, &Registry::default(), stopped).await;
    let has_read = watch.pass.take().is_some_and(|pass| pass.finish(outcome.is_ok()));
    (outcome.map_err(|error| of_pipeline(error, pipeline)), has_read)
}

/// Names the pipeline in what its user must change.
fn of_pipeline(error: Error, pipeline: &config::Pipeline) -> Error {
    if error.kind() == Kind::Usage { error.with("pipeline", &pipeline.name) } else { error }
}

/// Returns what a pass says that was told to stop; `failure` is what went wrong then.
fn interrupted(failure: Option<Error>, has_read: bool) -> Error {
    match (failure, has_read) {
        (Some(error), _) => Error::new(Kind::Interrupted, "interrupted").source(error),
        (None, true) => Error::new(Kind::Interrupted, "interrupted")
            .hint("what was read is archived; the next pass goes on from there"),
        (None, false) => Error::new(Kind::Interrupted, "interrupted before anything was read"),
    }
}

/// How long a pipeline runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Until it is told to stop.
    Agent,
    /// To the last stable offsets seen at start.
    Once,
}

/// Starts a pipeline and runs it to its end.
async fn attempt(
    pipeline: &config::Pipeline,
    mode: Mode,
    budget: &Budget,
    watch: &mut Watch,
    registry: &Registry,
    mut stopped: Stop,
) -> Result<()> {
    let starting = start(pipeline, mode, budget);
    let (mut source, sink) = tokio::select! {
        started = watch.meanwhile(starting) => started?,
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    let mut sink = sink.telling(watch.reached.clone());
    watch.running(sink.archive().backup().cluster_id.as_deref());
    let _runs = registry.runs(&pipeline.name, sink.archive().clone());
    let topics = pipeline.source.topics.to_string();
    tracing::info!(pipeline = pipeline.name, topics, backup = pipeline.sink.backup_id, "capturing");
    let shutdown_timeout = pipeline.sink.shutdown_timeout;
    let control = Control { budget: budget.clone(), stop: stopped, shutdown_timeout };
    let outcome = pipeline::run(&mut source, &mut sink, watch, control).await;
    source.close().await;
    outcome
}

/// Opens both ends of a pipeline, and makes the backup where there is none.
///
/// What the user must change is looked at first, before a cluster that may be down; and nothing is made before the
/// cluster has said who it is and that it has the topics: a backup belongs to one cluster for ever.
pub(crate) async fn start(pipeline: &config::Pipeline, mode: Mode, budget: &Budget) -> Result<(Source, Sink)> {
    let properties = Properties::new(pipeline.source.kafka.clone())?;
    let stages = open_stages(pipeline).await?;
    let store = Store::open(&pipeline.sink.path)?;
    let held = match Archive::open(&store, &pipeline.sink.backup_id).await {
        Ok(archive) => Some(archive),
        Err(error) if error.kind() == Kind::NoBackup => None,
        Err(error) => {
            // Where nothing can be read it may be that nothing can be written either, which is the user's to change.
            if matches!(error.kind(), Kind::Transient | Kind::Failed) {
                store.prepare().await?;
            }
            return Err(error);
        }
    };
    let source = Source::open(source::Options {
        properties,
        topics: pipeline.source.topics.clone(),
        // One pass reads everything: what a group would leave to others, nobody else may be there to read.
        group_id: pipeline.source.group_id.clone().filter(|_| mode == Mode::Agent),
        start: pipeline.source.start,
        metadata_interval: pipeline.source.metadata_interval,
        transaction_patience: pipeline.source.transaction_patience,
        one_pass: mode == Mode::Once,
        budget: budget.clone(),
        rate: RateLimit::new(pipeline.max_bytes_per_second),
    })
    .await?;
    let wanted = pipeline.source.topics.names();
    let metadata = source.client().metadata(Some(wanted)).await?;
    let create = || Archive::create(&store, &pipeline.sink.backup_id, metadata.cluster_id.as_deref());
    // On the wrong cluster topics are missing too: a backup that is there tells that first.
    let held = if held.is_some() { Some(create().await?) } else { None };
    topics::check(&pipeline.source.topics, &metadata, source.client(), mode, held.as_ref()).await?;
    let archive = match held {
        Some(archive) => archive,
        None => create().await?,
    };
    let options = sink::Options {
        roll_bytes: pipeline.sink.roll_bytes,
        roll_interval: pipeline.sink.roll_interval,
        give_up_after: (mode == Mode::Once).then_some(GIVE_UP_AFTER),
    };
    Ok((source, Sink::new(archive, options).through(stages)))
}

/// Opens the stages of a pipeline, which compiles their plugins; `None` where it has none.
async fn open_stages(pipeline: &config::Pipeline) -> Result<Option<Stages>> {
    if pipeline.stages.is_empty() {
        return Ok(None);
    }
    let (name, stages) = (pipeline.name.clone(), pipeline.stages.clone());
    let opened = tokio::task::spawn_blocking(move || Stages::of_capture(&name, &stages)).await;
    opened.map_err(|error| Error::failed("the stages could not be opened").source(error))?.map(Some)
}

/// Listens for SIGTERM and SIGINT: the first asks everything to stop, the second ends the process.
pub(crate) fn stop_on_signals() -> Result<(channel::Sender<bool>, Stop)> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Error::failed("cannot listen for signals").source(error));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (stop, stopped) = channel::channel(false);
    let sender = stop.clone();
    tokio::spawn(async move {
        let mut asked: Option<Instant> = None;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if asked.is_some_and(|asked| asked.elapsed() < SAME_SIGNAL) {
                continue;
            }
            if asked.is_some() {
                tracing::warn!("{name} again: ending at once; the next start reads again what was not durable");
                std::process::exit(i32::from(Error::new(Kind::Interrupted, name).exit_code()));
            }
            asked = Some(Instant::now());
            tracing::info!("{name}: closing what is held");
            sender.send_replace(true);
        }
    });
    Ok((stop, stopped))
}

#[cfg(test)]
mod tests;
