//! The restores that this agent was asked to run, over HTTP: tasks of the process, each run as `kafka-backup restore` runs it
//! ([`recovery`]).
//!
//! What a restore has planned, sent and finished is in its own objects ([`state`](crate::restore::state)): it survives a `kill -9`
//! wherever that comes. What was asked for is kept in the agent's `state_dir`, where there is one ([`kept`]), so that the next
//! start goes on with it; it is forgotten when it is done, cancelled or taken back.
//!
//! **Order of durable effects:** what was asked for, kept; those of [`recovery`]; when all is done, what was asked for, removed; the
//! answer 202 comes when it is planned, or takes long. Killed before the last, the next start finds that all is done, and removes
//! it.
//!
//! Retry: what may pass is tried again, with back-off; what the user must change stands, is said in `/readyz`, and is tried again
//! when it is told to, or when the agent starts. Cancellation: a request that is dropped leaves what it has begun; the end of the
//! agent stops restores as a signal does, and what is on its way is acknowledged within `shutdown_timeout`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use super::super::groups::refused;
use super::super::{Refused, Registry};
use super::asked::{self, Request};
use super::kept::{self, Kept, Key};
use crate::backoff::Backoff;
use crate::config::Restore;
use crate::crash;
use crate::error::{Error, Kind};
use crate::recovery;
use crate::telemetry::{Health, PipelineMetrics};

/// Restores at a time: each has its own memory (`sink.memory_bytes`), and they share the network.
const MOST_RUNNING: usize = 4;

/// Restores that are known at a time, those among them that have ended.
const MOST_KNOWN: usize = 100;

/// How long whoever begins one waits to hear whether it can be: planning reads the whole backup's index.
const PREPARED_WITHIN: Duration = Duration::from_secs(15);

/// The first pause before one is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Says whether a restore has begun, to whoever asked for it.
type Answer = oneshot::Sender<Result<(), Refused>>;

/// The restores that the agent has been asked to run. Clones share them.
#[derive(Clone)]
pub struct Restores(Arc<Inner>);

struct Inner {
    registry: Registry,
    kept: Kept,
    known: Mutex<BTreeMap<Key, Known>>,
    tasks: Mutex<JoinSet<()>>,
    places: Semaphore,
    health: Health,
    /// The longest pause before one is tried again.
    restart_backoff_max: Duration,
    stopped: watch::Receiver<bool>,
}

struct Known {
    /// What was asked for, with its references.
    request: Request,
    task: Task,
    /// Ends a pause.
    again: Arc<Notify>,
}

/// What this agent does for a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::api) struct Task {
    state: Doing,
    /// Why it waits, or has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// What it does, as the API tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Doing {
    Running,
    /// It is tried again soon.
    Waiting,
    Done,
    Failed,
    /// It is cancelled, or taken back: nobody goes on with it.
    Cancelled,
}

/// One of them, as data.
#[derive(Debug, Serialize)]
pub(in crate::api) struct Entry {
    backup: String,
    restore_id: String,
    task: Task,
}

/// Who asked for a restore, and waits to hear of it.
struct Asker {
    answer: Answer,
    /// What had been asked for before, where the restore had begun by that.
    before: Option<Request>,
}

/// What is to become of a restore that is asked for.
enum Entered {
    /// It is to be begun; what had been asked for before, where it had begun.
    New(Option<Request>),
    /// It waits, and is to go on.
    Waits,
}

/// How an attempt ended that has not come to the end of its restore.
enum Ended {
    /// The agent ends, or the restore is not known any more.
    Left,
    /// It could not be begun, and whoever asked for it hears that.
    Refused(String),
    /// Nobody goes on with it.
    Cancelled(String),
    Error(Error),
}

impl Restores {
    /// Goes on with what is kept in `state_dir`, of which this process has the lock; `registry` knows where backups are, `stopped`
    /// turns true when all shall stop. What cannot be read there is logged, and left alone.
    pub fn open(
        registry: Registry,
        health: Health,
        (state_dir, restart_backoff_max): (Option<&Path>, Duration),
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let restores = Self(Arc::new(Inner {
            registry,
            kept: Kept::new(state_dir),
            known: Mutex::default(),
            tasks: Mutex::default(),
            places: Semaphore::new(MOST_RUNNING),
            health,
            restart_backoff_max,
            stopped,
        }));
        for (key, request) in restores.0.kept.read() {
            let task = Task { state: Doing::Waiting, message: None };
            let again = Arc::default();
            restores.known().insert(key.clone(), Known { request: request.clone(), task, again });
            restores.spawn(key, request, None);
        }
        restores
    }

    /// Makes those of an agent that keeps nothing and goes on until the process ends.
    #[cfg(test)]
    pub(in crate::api) fn none(registry: Registry) -> Self {
        let (stop, stopped) = watch::channel(false);
        std::mem::forget(stop);
        Self::open(registry, Health::new(), (None, FIRST_PAUSE), stopped)
    }

    /// Returns those that are known, in order.
    pub(in crate::api) fn entries(&self) -> Vec<Entry> {
        let entry = |((backup, restore_id), known): (&Key, &Known)| Entry {
            backup: backup.clone(),
            restore_id: restore_id.clone(),
            task: known.task.clone(),
        };
        self.known().iter().map(entry).collect()
    }

    /// Returns what is done for one here; `None` where it is not known.
    pub(in crate::api) fn task(&self, key: &Key) -> Option<Task> {
        self.known().get(key).map(|known| known.task.clone())
    }

    /// Returns what was asked for; `None` where it is not known.
    pub(super) fn asked(&self, key: &Key) -> Option<Request> {
        self.known().get(key).map(|known| known.request.clone())
    }

    /// Reads what is asked for, in this agent's surroundings as they are now.
    ///
    /// # Errors
    /// 400 for the first thing that is wrong; as [`Registry::place`] where it is left to the agent where the backup is.
    pub(super) fn read(&self, request: &Request) -> Result<Restore, Refused> {
        asked::read(request, |backup| Ok(self.0.registry.place(backup)?.path))
    }

    /// Begins a restore, or goes on with it; returns once it is known whether it can be, or after a while.
    ///
    /// # Errors
    /// 409 where it runs here already, or a pipeline has its name; 503 where as many run as may; else why it cannot be.
    pub(super) async fn start(&self, request: Map<String, Value>, restore: &Restore) -> Result<Key, Refused> {
        if self.0.registry.has(&restore.name) {
            let message =
                format!("a pipeline of this agent is named `{}`: give the restore another name", restore.name);
            return Err(Refused::new(StatusCode::CONFLICT, message));
        }
        let key = kept::key(restore);
        let before = match self.enter(&key, &request)? {
            Entered::Waits => return self.hurry(key, request).await,
            Entered::New(before) => before,
        };
        let (answer, mut answered) = oneshot::channel();
        self.spawn(key.clone(), request, Some(Asker { answer, before }));
        let told = match tokio::time::timeout(PREPARED_WITHIN, &mut answered).await {
            Ok(told) => Some(told.unwrap_or_else(|_| Err(defect()))),
            Err(_) => {
                // It may have been told in this very moment.
                answered.close();
                answered.try_recv().ok()
            }
        };
        told.unwrap_or(Ok(())).map(|()| key)
    }

    /// Says whether a restore may be taken back: not while it runs here.
    ///
    /// # Errors
    /// 409.
    pub(super) fn check_rests(&self, key: &Key) -> Result<(), Refused> {
        match self.task(key) {
            Some(Task { state: Doing::Running | Doing::Waiting, .. }) => {
                let message = format!("the restore `{}` runs here: cancel it first, or wait until it is done", key.1);
                Err(Refused::new(StatusCode::CONFLICT, message))
            }
            _ => Ok(()),
        }
    }

    /// Takes note that somebody wants a restore to end, or has taken it back. One that runs finds that itself.
    pub(super) fn give_up(&self, key: &Key, why: &str) {
        match self.known().get(key) {
            // It looks again, and finds that.
            Some(Known { task: Task { state: Doing::Running | Doing::Waiting, .. }, again, .. }) => {
                return again.notify_one();
            }
            Some(_) => {}
            None => return,
        }
        self.0.kept.remove(key);
        self.is(key, Doing::Cancelled, Some(why.to_owned()));
    }

    /// Forgets a restore of which nothing has begun; returns whether it was one.
    pub(super) fn forget(&self, key: &Key) -> bool {
        let known = self.known();
        if !known.get(key).is_some_and(|known| matches!(known.task.state, Doing::Waiting | Doing::Failed)) {
            return false;
        }
        drop(known);
        self.is_wrong(key, None);
        let gone = self.known().remove(key);
        self.0.kept.remove(key);
        gone.iter().for_each(|known| known.again.notify_one());
        true
    }

    /// Waits until all have stopped, when everything stops.
    pub async fn close(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.0.tasks));
        while tasks.join_next().await.is_some() {}
    }

    /// Has one go on at once that waits, by what is asked for now.
    async fn hurry(&self, key: Key, request: Request) -> Result<Key, Refused> {
        self.0.kept.put(&key, &request).await?;
        if let Some(known) = self.known().get_mut(&key) {
            known.request = request;
            known.again.notify_one();
        }
        Ok(key)
    }

    /// Takes a place for one, unless that waits: it has one.
    fn enter(&self, key: &Key, request: &Request) -> Result<Entered, Refused> {
        let (mut known, mut before) = (self.known(), None);
        if let Some(known) = known.get(key) {
            match known.task.state {
                Doing::Running => {
                    let message = format!("the restore `{}` runs here already", key.1);
                    return Err(Refused::new(StatusCode::CONFLICT, message));
                }
                Doing::Waiting => return Ok(Entered::Waits),
                Doing::Failed => before = Some(known.request.clone()),
                Doing::Done | Doing::Cancelled => {}
            }
        } else if known.len() >= MOST_KNOWN {
            let ended = known.iter().find(|(_, of)| matches!(of.task.state, Doing::Done | Doing::Cancelled));
            let Some(ended) = ended.map(|(key, _)| key.clone()) else {
                return Err(Refused::unavailable(format!("{MOST_KNOWN} restores are known here: cancel some")));
            };
            known.remove(&ended);
        }
        if known.values().filter(|known| known.task.state == Doing::Running).count() >= MOST_RUNNING {
            return Err(Refused::unavailable(format!("{MOST_RUNNING} restores run here already")));
        }
        let task = Task { state: Doing::Running, message: None };
        known.insert(key.clone(), Known { request: request.clone(), task, again: Arc::default() });
        Ok(Entered::New(before))
    }

    /// Has a task run one that is known.
    fn spawn(&self, key: Key, request: Request, asker: Option<Asker>) {
        let restores = self.clone();
        let mut tasks = lock(&self.0.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let (running, of) = (restores.clone(), key.clone());
            let ran = tokio::spawn(async move { running.run(&of, &request, asker).await });
            if let Err(error) = ran.await {
                tracing::error!(restore = key.1, "a restore ended by a defect: {error}");
                restores.is(&key, Doing::Failed, Some("it ended by a defect: the agent's log says more".to_owned()));
            }
        });
    }

    /// Runs one to its end, or until it is to be left.
    async fn run(&self, key: &Key, request: &Request, asker: Option<Asker>) {
        let (mut answer, before) = asker.map_or((None, None), |Asker { answer, before }| (Some(answer), before));
        if answer.is_some()
            && let Err(error) = self.0.kept.put(key, request).await
        {
            let why = error.to_string();
            drop(answer.map(|answer| answer.send(Err(Refused::unavailable(why.clone())))));
            return self.unbegun(key, before, why).await;
        }
        crash::point("restores-kept", &key.1);
        let mut backoff = Backoff::new(FIRST_PAUSE.min(self.0.restart_backoff_max), self.0.restart_backoff_max);
        loop {
            let error = match self.attempt(key, &mut answer).await {
                Ok(()) => {
                    crash::point("restores-done", &key.1);
                    self.0.kept.remove(key);
                    return self.is(key, Doing::Done, None);
                }
                Err(Ended::Left) => return,
                Err(Ended::Refused(why)) => return self.unbegun(key, before, why).await,
                Err(Ended::Cancelled(why)) => {
                    self.0.kept.remove(key);
                    return self.is(key, Doing::Cancelled, Some(why));
                }
                Err(Ended::Error(error)) => error,
            };
            if !matches!(error.kind(), Kind::Transient | Kind::Failed) {
                let path = format!("/v1/restores/{}/{}/resume", key.0, key.1);
                tracing::error!(restore = key.1, "{error}; POST {path} tries again");
                return self.is(key, Doing::Failed, Some(error.to_string()));
            }
            let pause = backoff.wait();
            tracing::error!(restore = key.1, "{error}; trying again in {:.1} s", pause.as_secs_f64());
            self.is(key, Doing::Waiting, Some(error.to_string()));
            self.wait(key, pause).await;
        }
    }

    /// Goes on with one to its end.
    async fn attempt(&self, key: &Key, answer: &mut Option<Answer>) -> Result<(), Ended> {
        let mut stopped = self.0.stopped.clone();
        let place = tokio::select! {
            place = self.0.places.acquire() => place,
            _ = stopped.wait_for(|stop| *stop) => return Err(Ended::Left),
        };
        // It is never closed.
        let _place = place.map_err(|_| Ended::Left)?;
        let Some(request) = self.begins(key) else { return Err(Ended::Left) };
        let restore = match self.read(&request) {
            Ok(restore) if kept::key(&restore) == *key => restore,
            Ok(restore) => {
                let what = format!("what was asked for is the restore `{}` by now", restore.id());
                let error = Error::usage(what).hint("what it refers to has changed: ask for that one");
                return Err(Ended::Error(error));
            }
            // The pipeline that writes the backup may only start, or be made again.
            Err(refused) if refused.status == StatusCode::BAD_REQUEST => {
                return Err(Ended::Error(Error::usage(refused.message)));
            }
            Err(refused) => return Err(Ended::Error(Error::failed(refused.message))),
        };
        let (name, health) = (restore.name.as_str(), self.health(key));
        let say = |line: &str| tracing::info!(restore = name, "{line}");
        // Nobody may wait any more.
        let asked = Mutex::new(answer.take());
        let begins = |_: Option<&str>| drop(lock(&asked).take().map(|answer| answer.send(Ok(()))));
        let outcome = recovery::run(&restore, &health, self.0.stopped.clone(), begins, &say).await;
        let unanswered = lock(&asked).take();
        match outcome {
            Ok(_) => {
                drop(unanswered.map(|answer| answer.send(Ok(()))));
                Ok(())
            }
            Err(error) => Err(self.ended(error, unanswered, &restore).await),
        }
    }

    /// Says how an attempt ended that failed.
    async fn ended(&self, error: Error, unanswered: Option<Answer>, restore: &Restore) -> Ended {
        let why = error.to_string();
        if *self.0.stopped.borrow() && error.kind() == Kind::Interrupted {
            drop(unanswered.map(|answer| answer.send(Err(Refused::unavailable("the agent ends")))));
            return Ended::Left;
        }
        let was_told = |answer: Answer, error| answer.send(Err(refused(error))).is_ok();
        let (kind, again) = (error.kind(), Error::new(error.kind(), why.clone()));
        if unanswered.is_some_and(|answer| was_told(answer, error)) {
            return Ended::Refused(why);
        }
        // Only whoever cancels one interrupts it besides the end of the agent.
        if kind == Kind::Interrupted || is_given_up(restore).await {
            return Ended::Cancelled(why);
        }
        Ended::Error(again)
    }

    /// Takes note that one runs; returns what is asked for, if it is known.
    fn begins(&self, key: &Key) -> Option<Request> {
        self.is_wrong(key, None);
        let mut known = self.known();
        let known = known.get_mut(key)?;
        known.task = Task { state: Doing::Running, message: None };
        Some(known.request.clone())
    }

    /// Takes note of what one does, which does not run.
    fn is(&self, key: &Key, state: Doing, message: Option<String>) {
        let reason = message.clone().filter(|_| matches!(state, Doing::Waiting | Doing::Failed));
        match self.known().get_mut(key) {
            Some(known) => known.task = Task { state, message },
            None => return,
        }
        self.is_wrong(key, reason);
    }

    /// Says what is wrong with one, in `/readyz` and the metrics.
    fn is_wrong(&self, key: &Key, reason: Option<String>) {
        let health = self.health(key);
        health.replace(reason.map(|reason| (String::new(), reason)));
        let name = self.known().get(key).and_then(|known| Some(known.request.get("name")?.as_str()?.to_owned()));
        // A pipeline of that name has the word.
        if let Some(name) = name.filter(|name| !self.0.registry.has(name)) {
            PipelineMetrics::new(&name).show(health.count());
        }
    }

    async fn wait(&self, key: &Key, pause: Duration) {
        let Some(again) = self.known().get(key).map(|known| known.again.clone()) else { return };
        let mut stopped = self.0.stopped.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = again.notified() => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
    }

    /// Takes back that one was begun, which could not be; one that had been asked for `before` stays so.
    async fn unbegun(&self, key: &Key, before: Option<Request>, why: String) {
        tracing::warn!(restore = key.1, "a restore that was asked for could not be begun: {why}");
        let Some(before) = before else {
            let _ = self.known().remove(key);
            return self.0.kept.remove(key);
        };
        if let Err(error) = self.0.kept.put(key, &before).await {
            tracing::error!(restore = key.1, "{error}");
        }
        if let Some(known) = self.known().get_mut(key) {
            known.request = before;
        }
        self.is(key, Doing::Failed, Some(why));
    }

    fn health(&self, (backup, id): &Key) -> Health {
        self.0.health.of(format!("restore {id} of backup {backup}"))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        lock(&self.0.known)
    }
}

/// What is locked here is whole after each change.
fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn defect() -> Refused {
    Refused::unavailable("it ended by a defect: the agent's log says more")
}

/// Returns whether somebody wants a restore to end, or has taken it back; what cannot be read says nothing.
async fn is_given_up(restore: &Restore) -> bool {
    match recovery::seen(restore).await {
        Ok(seen) => seen.cancelled.is_some() || seen.undone.is_some(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn request(path: &Path) -> Request {
        let request = json!({
            "name": "r",
            "source": {"type": "archive", "backup_id": "b", "path": path},
            "sink": {"type": "kafka", "kafka": {"bootstrap.servers": "127.0.0.1:1"}},
        });
        request.as_object().expect("an object").clone()
    }

    fn open(folder: &Path, stopped: &watch::Receiver<bool>) -> Restores {
        let options = (Some(folder), Duration::from_secs(60));
        Restores::open(Registry::default(), Health::new(), options, stopped.clone())
    }

    #[tokio::test]
    async fn what_cannot_be_begun_is_refused_and_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_stop, stopped) = watch::channel(false);
        let restores = open(folder.path(), &stopped);
        let request = request(&folder.path().join("none"));
        let restore = restores.read(&request).expect("right");
        let why = restores.start(request, &restore).await.expect_err("there is no backup");
        assert_eq!(why.status, StatusCode::NOT_FOUND, "{}", why.message);
        restores.close().await;
        assert!(restores.entries().is_empty());
        assert_eq!(fs::read_dir(folder.path().join("restores")).expect("listed").count(), 0);
    }

    #[tokio::test]
    async fn what_was_asked_for_goes_on_at_the_next_start_and_what_it_cannot_do_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let (stop, stopped) = watch::channel(false);
        let request = request(folder.path());
        let first = open(folder.path(), &stopped);
        let key = kept::key(&first.read(&request).expect("right"));
        first.0.kept.put(&key, &request).await.expect("kept");
        let again = open(folder.path(), &stopped);
        assert_eq!(again.asked(&key), Some(request));
        let failed = async {
            while again.task(&key).is_none_or(|task| task.state != Doing::Failed) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), failed).await.expect("there is no backup there");
        assert!(again.0.health.reasons()[0].starts_with("restore r-"), "{:?}", again.0.health.reasons());
        assert!(again.forget(&key) && again.0.health.reasons().is_empty());
        stop.send_replace(true);
        again.close().await;
        assert!(open(folder.path(), &stopped).entries().is_empty(), "it is forgotten for good");
    }
}
