//! The connectors of this agent: those of the file, and those that were made over HTTP; how that changes.
//!
//! What is asked for is kept first ([`kept`](super::kept)), then the connectors are changed, then whoever runs their pipelines
//! ([`Worker::changes`]) is told, then who asked is answered. Killed anywhere between, the next start does what is kept, and
//! who asked had no answer. One change at a time: who comes second is told what the first has left.
//!
//! A connector of the file is as the file was when it was last read ([`Worker::reload`]). One that was made and cannot run,
//! since a variable is not set or another has its topics by now, is there all the same, failed, with the reason.
//!
//! Cancellation: a change goes on to its end although the request for it is dropped. Crash: see `kept`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};

use super::Flat;
use super::connector::{Connector, Work};
use super::flat::{self, Class, Wrong};
use super::kept::{Entry, Kept};
use super::made;
use super::state::Target;
use crate::api::Refused;
use crate::config::{Config, Pipeline, Restore};
use crate::crash;
use crate::error::{Error, Result};
use crate::store::place;

/// The most connectors that are made over HTTP: each has a client, threads and memory of its own. An agent is meant for some
/// tens.
const MOST_MADE: usize = 200;

/// Configurations that are checked at a time. Twice as many could keep two processors from capture; with half, one that refers
/// to a file on a disk that hangs would keep all others waiting.
const MOST_CHECKS: usize = 2;

/// How long a check waits for its turn: tools that make all their connectors at once need not try again.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// The connectors of this agent. Clones share them.
#[derive(Debug, Clone)]
pub struct Worker(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    id: String,
    /// Locked for moments only.
    connectors: Mutex<Vec<Arc<Connector>>>,
    /// Locked as long as a change takes.
    kept: Mutex<Kept>,
    changes: watch::Sender<()>,
    checks: Arc<Semaphore>,
}

/// What became of the connectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changed {
    /// How many there were not.
    pub new: usize,
    /// How many there are no more.
    pub gone: usize,
    /// How many are configured otherwise.
    pub other: usize,
    /// How many are as they were.
    pub same: usize,
}

/// What is asked for when a connector is configured.
#[derive(Debug)]
pub(super) enum Asked {
    /// One that there must not be, which is to do that.
    New(Target),
    /// One that there may be.
    Any,
    /// Another configuration for this very one.
    Instead(Arc<Connector>),
}

impl Worker {
    /// Makes a connector of each pipeline of `config`, of which none restores, and of each that is kept in
    /// `agent.state_dir`, with what each is to do. `address` is where this agent listens, by which others know it.
    ///
    /// # Errors
    /// When `agent.state_dir` cannot be read and written, or another agent has it.
    pub fn open(config: &Config, address: SocketAddr) -> Result<Self> {
        let kept = Mutex::new(Kept::open(config.agent.state_dir.as_deref())?);
        let (connectors, (changes, _)) = (Mutex::default(), watch::channel(()));
        let checks = Arc::new(Semaphore::new(MOST_CHECKS));
        let worker = Self(Arc::new(Shared { id: id_of(address), connectors, kept, changes, checks }));
        let _ = worker.0.reload(config);
        Ok(worker)
    }

    /// Returns by what name others know this agent: `host:port`.
    pub(super) fn id(&self) -> &str {
        &self.0.id
    }

    /// Returns the connectors, those of the file first, in its order.
    pub fn connectors(&self) -> Vec<Arc<Connector>> {
        self.0.connectors().clone()
    }

    /// Returns the connector of that name.
    pub fn connector(&self, name: &str) -> Option<Arc<Connector>> {
        self.0.connectors().iter().find(|connector| connector.name() == name).cloned()
    }

    /// Returns what hears that there are other connectors than before.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// Returns the id of the cluster that connectors read from, if it is known and one.
    pub(super) fn cluster_id(&self) -> Option<String> {
        let mut ids: Vec<_> = self.connectors().iter().filter_map(|connector| connector.cluster_id()).collect();
        ids.sort();
        ids.dedup();
        if ids.len() == 1 { ids.pop() } else { None }
    }

    /// Takes over what the file says now, and reads again what the configurations refer to that were made over HTTP. Whatever
    /// is as it was is not touched.
    ///
    /// # Errors
    /// Only for a defect.
    pub async fn reload(&self, config: Config) -> Result<Changed> {
        self.change(move |shared| Ok(shared.reload(&config))).await.map_err(|_| Error::failed("it ended by a defect"))
    }

    /// Keeps what a connector is to do, and then tells it; when this returns, that holds at the next start.
    ///
    /// # Errors
    /// Where there is none, and when it could not be kept; it is not told then.
    pub(super) async fn set_target(&self, name: String, target: Target) -> Result<(), Refused> {
        let told = name.clone();
        self.change(move |shared| shared.set_target(&name, target)).await?;
        if target == Target::Started {
            let _ = self.read_again(told).await;
        }
        Ok(())
    }

    /// Makes a connector, or configures one otherwise; returns it, and whether there was none before.
    ///
    /// # Errors
    /// For a connector of the file; for what cannot run; where nothing is kept. Nothing has changed then.
    pub(super) async fn configure(
        &self,
        name: String,
        given: Flat,
        asked: Asked,
    ) -> Result<(Arc<Connector>, bool), Refused> {
        self.in_turn(move |shared| shared.configure(&name, given, &asked)).await
    }

    /// Checks a configuration, or does what needs that, to its end: few at a time, since whoever asks need not wait for it.
    ///
    /// # Errors
    /// 503 where its turn does not come.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        check: impl FnOnce(&Shared) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let busy = || Refused::unavailable("as many configurations are checked already as may be at a time");
        let turn = tokio::time::timeout(TURN_WITHIN, self.0.checks.clone().acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or_else(busy)?;
        self.change(move |shared| {
            let done = check(shared);
            drop(turn);
            done
        })
        .await
    }

    /// Has a connector begin anew, with what its configuration refers to by now.
    pub(super) async fn restart(&self, connector: &Connector) {
        if !self.read_again(connector.name().to_owned()).await {
            connector.restart();
        }
    }

    /// Reads again what the configuration of a connector refers to that was made over HTTP; returns whether it is another
    /// connector now. What hangs is not waited for: it goes on as it is.
    pub(crate) async fn read_again(&self, name: String) -> bool {
        let read = self.in_turn(move |shared| Ok(shared.read_again(&name)));
        tokio::time::timeout(TURN_WITHIN, read).await.is_ok_and(|read| read.unwrap_or(false))
    }

    /// Removes a connector that was made over HTTP; what it has written stays.
    ///
    /// # Errors
    /// For a connector of the file, and where there is none; when it could not be kept, and nothing has changed then.
    pub(super) async fn remove(&self, name: String) -> Result<(), Refused> {
        self.change(move |shared| {
            let mut kept = shared.kept();
            let connector = shared.find(&name).ok_or_else(|| not_found(&name))?;
            changeable(&connector)?;
            kept.put(&name, Entry::default())?;
            shared.connectors().retain(|other| !Arc::ptr_eq(other, &connector));
            shared.changes.send_replace(());
            crash::point("connectors-told", &name);
            Ok(())
        })
        .await
    }

    /// Does what blocks, to its end.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Shared) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let shared = self.0.clone();
        let change = tokio::task::spawn_blocking(move || change(&shared)).await;
        change.unwrap_or_else(|_| Err(Refused::unavailable("what was asked for ended by a defect")))
    }
}

impl Shared {
    fn connectors(&self) -> MutexGuard<'_, Vec<Arc<Connector>>> {
        // A list, whole after each change.
        self.connectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whole after each change, too.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Option<Arc<Connector>> {
        self.connectors().iter().find(|connector| connector.name() == name).cloned()
    }

    fn set_target(&self, name: &str, target: Target) -> Result<(), Refused> {
        let mut kept = self.kept();
        let connector = self.find(name).ok_or_else(|| unknown(name))?;
        let entry = Entry { target, ..kept.entry(name) };
        kept.put(name, entry)?;
        connector.tell(target);
        if connector.work().is_err() {
            // Nobody runs it who would hear that.
            self.changes.send_replace(());
        }
        crash::point("connectors-told", &name);
        Ok(())
    }

    fn read_again(&self, name: &str) -> bool {
        let Some(old) = self.find(name) else { return false };
        let Some(given) = old.given().cloned() else { return false };
        // Before the lock: a file may take long to read.
        let work = made::read(&given, &environment);
        let kept = self.kept();
        if !self.find(name).is_some_and(|now| Arc::ptr_eq(&now, &old)) {
            return false;
        }
        let connector = read_made(name, (given, work), kept.entry(name).target, &self.connectors(), Some(&old));
        if Arc::ptr_eq(&connector, &old) {
            return false;
        }
        if let Some(place) = self.connectors().iter_mut().find(|other| Arc::ptr_eq(other, &old)) {
            *place = connector;
        }
        self.changes.send_replace(());
        true
    }

    fn configure(&self, name: &str, given: Flat, asked: &Asked) -> Result<(Arc<Connector>, bool), Refused> {
        // Looked at twice: what stands in the way need not wait for plugins to be compiled.
        self.may_configure(&self.kept(), name, asked)?;
        let work = made::read(&given, &environment).map_err(|wrong| invalid(&wrong))?;
        made::check(&work, &given).map_err(|wrong| invalid(&wrong))?;
        let mut kept = self.kept();
        let before = self.may_configure(&kept, name, asked)?;
        beside(name, &work, &self.connectors()).map_err(|error| invalid(&[made::wrong(&error, &given)]))?;
        let target = match asked {
            Asked::New(target) => *target,
            _ => kept.entry(name).target,
        };
        kept.put(name, Entry { target, config: Some(given.clone()) })?;
        let is_same = |other: &Arc<Connector>| other.given() == Some(&given) && other.work() == Ok(&work);
        if let Some(same) = before.clone().filter(is_same) {
            return Ok((same, false));
        }
        let connector = Connector::made(name, (given.clone(), made::shown(&given)), Ok(work), target);
        let connector = Arc::new(match &before {
            Some(before) => connector.behind(before),
            None => connector,
        });
        let mut connectors = self.connectors();
        match connectors.iter_mut().find(|other| other.name() == name) {
            Some(place) => *place = connector.clone(),
            None => connectors.push(connector.clone()),
        }
        drop(connectors);
        self.changes.send_replace(());
        crash::point("connectors-told", &name);
        Ok((connector, before.is_none()))
    }

    /// Returns the connector that is to be configured, if there is one.
    fn may_configure(&self, kept: &Kept, name: &str, asked: &Asked) -> Result<Option<Arc<Connector>>, Refused> {
        let before = self.find(name);
        match (&before, asked) {
            (Some(_), Asked::New(_)) => return Err(conflict(format!("Connector {name} already exists"))),
            (Some(before), Asked::Any) => changeable(before)?,
            (Some(before), Asked::Instead(meant)) if Arc::ptr_eq(before, meant) => changeable(before)?,
            (None, Asked::New(_) | Asked::Any) => {}
            (_, Asked::Instead(_)) => {
                return Err(conflict(format!("connector {name} was changed by another request meanwhile: ask again")));
            }
        }
        if !kept.lasts() {
            return Err(conflict(format!(
                "connector {name} cannot be made here, since it would be gone with the process: give the configuration file \
                 an agent.state_dir, or the pipeline itself"
            )));
        }
        if before.is_none() && kept.made().len() >= MOST_MADE {
            return Err(conflict(format!("there are {MOST_MADE} connectors already, the most that are made here")));
        }
        Ok(before)
    }

    fn reload(&self, config: &Config) -> Changed {
        let mut kept = self.kept();
        let (gone, taken) = kept.forget(|name| config.pipelines.iter().any(|pipeline| pipeline.name == name));
        for name in gone {
            tracing::warn!("there is no pipeline `{name}` any more, which was to rest: that is forgotten");
        }
        for name in taken {
            tracing::warn!("pipeline `{name}` stands in {} now: how it was made over HTTP is forgotten", config.file);
        }
        if let Err(error) = kept.settle() {
            tracing::error!(
                "{error}; killed before anything else is kept, the next start would remember what is forgotten"
            );
        }
        let before = self.connectors().clone();
        let old = |name: &str| before.iter().find(|connector| connector.name() == name);
        let (none, mut now) = (Map::new(), Vec::new());
        let mut shown = config.effective().get("pipeline").and_then(Value::as_array).into_iter().flatten();
        for pipeline in &config.pipelines {
            let shown = shown.next().and_then(Value::as_object).unwrap_or(&none);
            let mut flat = flat::to_flat(Class::ArchiveSink, shown);
            flat.insert("name".to_owned(), pipeline.name.as_str().into());
            let connector = Connector::of_file(pipeline.clone(), flat, kept.entry(&pipeline.name).target);
            now.push(instead(connector, old(&pipeline.name)));
        }
        for (name, given) in kept.made() {
            let work = made::read(&given, &environment);
            let connector = read_made(&name, (given, work), kept.entry(&name).target, &now, old(&name));
            now.push(connector);
        }
        let mut changed = Changed::default();
        for connector in &now {
            match old(connector.name()) {
                None => changed.new += 1,
                Some(old) if Arc::ptr_eq(old, connector) => changed.same += 1,
                Some(_) => changed.other += 1,
            }
        }
        changed.gone = before.len() - changed.same - changed.other;
        *self.connectors() = now;
        self.changes.send_replace(());
        changed
    }
}

/// Returns the connector that comes of a configuration which was kept, and of reading it now, beside `others`.
fn read_made(
    name: &str,
    (given, work): (Flat, Result<Work, Vec<Wrong>>),
    target: Target,
    others: &[Arc<Connector>],
    old: Option<&Arc<Connector>>,
) -> Arc<Connector> {
    let fits = |work: &Work| beside(name, work, others).map_err(|error| vec![made::wrong(&error, &given)]);
    // It was read before, and is as it was: what it refers to is away, perhaps for the moment at which a secret is changed.
    if let (Err(wrong), Some(old)) = (&work, old)
        && old.given() == Some(&given)
        && old.work().is_ok_and(|before| fits(before).is_ok())
    {
        let line = made::line(wrong);
        tracing::warn!("connector `{name}` goes on with what its references stood for before: {line}");
        return old.clone();
    }
    let work = work.and_then(|work| fits(&work).map(|()| work));
    let work = work.map_err(|wrong| format!("it cannot run as it is configured: {}", made::line(&wrong)));
    let shown = made::shown(&given);
    instead(Connector::made(name, (given, shown), work, target), old)
}

/// Returns the connector that there was, if this one is no other.
fn instead(connector: Connector, old: Option<&Arc<Connector>>) -> Arc<Connector> {
    let Some(old) = old else { return Arc::new(connector) };
    if old.given() == connector.given() && old.work() == connector.work() {
        return old.clone();
    }
    Arc::new(connector.behind(old))
}

/// Checks that what the connector `name` is to run does not get in the way of other connectors.
fn beside(name: &str, work: &Work, connectors: &[Arc<Connector>]) -> Result<()> {
    let others = || connectors.iter().filter(|other| other.name() != name);
    match work {
        Work::Capture(pipeline) => {
            let others: Vec<&Pipeline> = others().filter_map(|other| other.capture()).collect();
            Config::check_beside(pipeline, &others)
        }
        Work::Restore(restore) => {
            let root = |restore: &Restore| {
                let state = restore.sink.state.as_ref().unwrap_or(&restore.source.path);
                (place::real(state), restore.source.backup_id.clone(), restore.id())
            };
            let is_same = |other: &&Arc<Connector>| match other.work() {
                Ok(Work::Restore(other)) => root(other) == root(restore),
                _ => false,
            };
            let Some(other) = others().find(is_same) else { return Ok(()) };
            let reason = format!("`{}` is the restore of the connector `{}` already", restore.id(), other.name());
            Err(Error::usage(format!("the pipeline: sink.restore_id: {reason}")).about("sink.restore_id", reason))
        }
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Refuses to change a connector of the file.
fn changeable(connector: &Connector) -> Result<(), Refused> {
    match connector.given() {
        Some(_) => Ok(()),
        None => Err(conflict(format!(
            "connector {} is a pipeline of the configuration file: change it there, and have the agent read it again by SIGHUP",
            connector.name()
        ))),
    }
}

/// Refuses a configuration with everything that is wrong with it.
pub(super) fn invalid(wrong: &[Wrong]) -> Refused {
    let lines: String = wrong.iter().map(|wrong| format!("\n{}: {}", wrong.key, wrong.reason)).collect();
    Refused::bad(format!(
        "Connector configuration is invalid and contains the following {} error(s):{lines}\nYou can also find the above list \
         of errors at the endpoint `/connector-plugins/{{connectorType}}/config/validate`",
        wrong.len()
    ))
}

fn unknown(name: &str) -> Refused {
    Refused::not_found(format!("Unknown connector {name}"))
}

pub(super) fn not_found(name: &str) -> Refused {
    Refused::not_found(format!("Connector {name} not found"))
}

fn conflict(message: String) -> Refused {
    Refused::new(StatusCode::CONFLICT, message)
}

/// Returns how others reach who listens on `address`.
fn id_of(address: SocketAddr) -> String {
    if !address.ip().is_unspecified() {
        return address.to_string();
    }
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    format!("{}:{}", host.unwrap_or_else(|| address.ip().to_string()), address.port())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn an_agent_that_listens_everywhere_is_known_by_the_machines_name() {
        assert_eq!(id_of("127.0.0.1:8083".parse().expect("an address")), "127.0.0.1:8083");
        let id = id_of("0.0.0.0:8083".parse().expect("an address"));
        assert!(id.ends_with(":8083") && !id.starts_with("0.0.0.0"), "{id}");
    }

    fn config(pipelines: &[(&str, &str)]) -> Config {
        let each = |(name, topic): &(&str, &str)| {
            format!(
                "[[pipeline]]\nname = \"{name}\"\n[pipeline.source]\ntype = \"kafka\"\ntopics = [\"{topic}\"]\n\
                 kafka = {{ \"bootstrap.servers\" = \"127.0.0.1:1\" }}\n\
                 [pipeline.sink]\ntype = \"archive\"\nbackup_id = \"b\"\npath = \"/archive\"\n"
            )
        };
        Config::parse("a.toml", &pipelines.iter().map(each).collect::<String>(), &|_| None).expect("valid")
    }

    /// A worker with one connector that was made, which refers to `secret` by a property that is read with the connector: those
    /// that say who we are each connection reads for itself.
    fn with_made(folder: &Path) -> Worker {
        let (config, address) = (without_pipelines(folder), "127.0.0.1:1".parse().expect("an address"));
        let kept = serde_json::json!({ "format": 1, "connectors": { "made": { "target_state": "STARTED", "config": {
            "connector.class": "ArchiveSink", "name": "made", "topics": "t", "sink.backup_id": "b", "sink.path": "/archive",
            "consumer.override.bootstrap.servers": "127.0.0.1:1",
            "consumer.override.client.id": format!("${{file:{}}}", folder.join("secret").display()),
        } } } });
        std::fs::write(folder.join("connectors.json"), kept.to_string()).expect("written");
        Worker::open(&config, address).expect("read")
    }

    fn without_pipelines(folder: &Path) -> Config {
        Config::parse("a.toml", &format!("[agent]\nstate_dir = {folder:?}\n"), &|_| None).expect("valid")
    }

    fn now(worker: &Worker) -> (Arc<Connector>, bool) {
        let connector = worker.connector("made").expect("it is there");
        let runs = connector.work().is_ok();
        (connector, runs)
    }

    #[tokio::test]
    async fn what_cannot_be_read_for_a_moment_stays_what_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "one").expect("written");
        let worker = with_made(folder.path());
        let (before, runs) = now(&worker);
        assert!(runs);
        std::fs::remove_file(&secret).expect("removed");
        let told = worker.reload(without_pipelines(folder.path())).await.expect("taken");
        assert!(told == changed([0, 0, 0, 1]) && Arc::ptr_eq(&now(&worker).0, &before), "{told:?}");
        worker.restart(&before).await;
        assert!(Arc::ptr_eq(&now(&worker).0, &before), "it begins anew as it was");
        std::fs::write(&secret, "two").expect("written");
        worker.restart(&before).await;
        let (after, runs) = now(&worker);
        assert!(runs && !Arc::ptr_eq(&after, &before), "the secret that was changed is taken over");
    }

    #[tokio::test]
    async fn what_could_not_be_read_is_read_again_when_it_is_told_to_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secret");
        for resumes in [true, false] {
            let worker = with_made(folder.path());
            let (broken, runs) = now(&worker);
            assert!(!runs);
            worker.restart(&broken).await;
            assert!(Arc::ptr_eq(&now(&worker).0, &broken), "nothing is otherwise");
            std::fs::write(&secret, "one").expect("written");
            match resumes {
                true => worker.set_target("made".to_owned(), Target::Started).await.expect("told"),
                false => worker.restart(&broken).await,
            }
            assert!(now(&worker).1, "{resumes}");
            std::fs::remove_file(&secret).expect("removed");
        }
    }

    fn changed([new, gone, other, same]: [usize; 4]) -> Changed {
        Changed { new, gone, other, same }
    }

    #[tokio::test]
    async fn few_checks_run_at_a_time_although_nobody_waits_for_them() {
        let address = "127.0.0.1:1".parse().expect("an address");
        let worker = Worker::open(&config(&[("a", "x")]), address).expect("nothing is kept");
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let gone = Arc::new(Mutex::new(gone));
        let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..MOST_CHECKS {
            let (began, gone, worker) = (began.clone(), gone.clone(), worker.clone());
            let check = tokio::spawn(async move {
                let check = worker.in_turn(move |_| {
                    let _ = began.send(());
                    let _ = gone.lock().map(|gone| gone.recv());
                    Ok(())
                });
                check.await
            });
            begun.recv().await.expect("it has begun");
            check.abort();
        }
        let third = tokio::time::timeout(Duration::ZERO, worker.in_turn(|_| Ok(())));
        assert!(third.await.is_err(), "all turns are taken, although nobody waits for them any more");
        drop(go);
        worker.in_turn(|_| Ok(())).await.expect("a turn is free");
    }

    #[tokio::test]
    async fn what_is_as_it_was_is_the_same_connector_when_the_file_is_read_again() {
        let address = "127.0.0.1:1".parse().expect("an address");
        let worker = Worker::open(&config(&[("a", "x"), ("b", "y"), ("c", "z")]), address).expect("nothing is kept");
        let before = worker.connectors();
        let told = worker.reload(config(&[("d", "w"), ("c", "v"), ("a", "x")])).await.expect("taken");
        assert_eq!(told, changed([1, 1, 1, 1]));
        let now = worker.connectors();
        let names: Vec<_> = now.iter().map(|connector| connector.name()).collect();
        assert_eq!(names, ["d", "c", "a"], "the order of the file");
        assert!(Arc::ptr_eq(&now[2], &before[0]) && !Arc::ptr_eq(&now[1], &before[2]));
    }
}
