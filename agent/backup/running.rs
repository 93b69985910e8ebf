//! The pipelines that an agent runs, and how they become others: what runs is held against what is wanted
//! ([`Worker::connectors`]) whenever either has changed, and the difference is done.
//!
//! A pipeline that is wanted no more, or otherwise, is told to close, and ends as at the end of the process: what it holds
//! is durable by then, or read again by whoever comes next. Only then does another of its name start, or one that writes to
//! the same backup: two never write at once because of a change. Whatever is as it was is not touched. What makes the
//! savepoints of a backup covers all pipelines that are wanted for it, those that rest among them, and is made anew when they
//! are others: no slot is lost by that, since the first thing that it does is to look at the slot that is.
//!
//! Retry and crash: see `backup`; nothing here is durable. Cancellation: dropping it drops all that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio::task::{self, JoinError, JoinSet};

use super::Stop;
use super::healing::Healing;
use super::keeping::{Hopes, Keeping};
use super::restoring::Restoring;
use super::savepoints::{self, Handle, Maker, Place};
use super::surviving;
use crate::api::Registry;
use crate::archive::sink::Reached;
use crate::config;
use crate::connect::{Connector, Phase, Work, Worker};
use crate::error::{Error, Result};
use crate::telemetry::{Health, PipelineMetrics, SavepointMetrics, metrics};

/// The pipelines of an agent.
pub(super) struct Running {
    worker: Worker,
    registry: Registry,
    health: Health,
    restart_backoff_max: Duration,
    /// Those that run, and those that close, by name.
    pipelines: BTreeMap<String, One>,
    tasks: JoinSet<Result<()>>,
    backups: Vec<Backup>,
    makers: JoinSet<()>,
    /// The connectors that do not run, of which `/readyz` says why.
    idle: BTreeSet<String>,
    /// What reads those again that cannot run.
    healing: Healing,
    /// The names of all that there are, or were until they have closed: of those there are metrics.
    known: BTreeSet<String>,
    /// Those that the start began with; `None` before.
    hopes: Option<Hopes>,
}

/// A pipeline that runs.
struct One {
    connector: Arc<Connector>,
    task: task::Id,
    stop: channel::Sender<bool>,
    /// Whether it was told to.
    closes: bool,
}

/// A backup that pipelines write.
struct Backup {
    place: Place,
    /// Those that are wanted for it.
    connectors: Vec<Arc<Connector>>,
    reached: Reached,
    maker: Option<(task::AbortHandle, Handle)>,
}

impl Running {
    /// Makes the set of the pipelines of `worker`, none of which runs yet.
    pub(super) fn new(worker: Worker, registry: Registry, health: Health, restart_backoff_max: Duration) -> Self {
        Self {
            healing: Healing::new(worker.clone(), restart_backoff_max),
            known: BTreeSet::new(),
            worker,
            registry,
            health,
            restart_backoff_max,
            pipelines: BTreeMap::new(),
            tasks: JoinSet::new(),
            backups: Vec::new(),
            makers: JoinSet::new(),
            idle: BTreeSet::new(),
            hopes: None,
        }
    }

    /// Runs the pipelines that are wanted until `stopped`, and then until all have closed; nothing of them runs on when it
    /// returns. `stop` is told when one of them ends the process.
    ///
    /// # Errors
    /// That of the first pipeline that ends the process; the others close what they hold first.
    pub(super) async fn run(mut self, stop: &channel::Sender<bool>, mut stopped: Stop) -> Result<()> {
        let (mut changes, mut outcome, mut is_stopping) = (self.worker.changes(), Ok(()), false);
        loop {
            if *stopped.borrow() && !is_stopping {
                is_stopping = true;
                self.pipelines.values_mut().for_each(One::close);
            }
            if !is_stopping {
                self.become_what_is_wanted();
            }
            if is_stopping && self.tasks.is_empty() {
                break;
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Err(error) = self.ended(ended, is_stopping) {
                        // The others close what they hold; the first error is the one that ends the process.
                        stop.send_replace(true);
                        outcome = outcome.and(Err(error));
                    }
                }
                Some(Err(error)) = self.makers.join_next() => self.lost_maker(&error),
                // Whoever could say so is gone only when the process ends.
                _ = changes.changed(), if !is_stopping => {}
                _ = stopped.wait_for(|stop| *stop), if !is_stopping => {}
            }
        }
        // They are made to the last, and hold nothing that must be closed.
        self.makers.shutdown().await;
        outcome
    }

    /// Does what lies between what runs and what is wanted, as far as it can be done now.
    fn become_what_is_wanted(&mut self) {
        let all = self.worker.connectors();
        let is_first = self.hopes.is_none();
        let _ = self.hopes.get_or_insert_with(|| Hopes::new(all.len()));
        let wanted: Vec<_> = all.iter().filter(|connector| connector.work().is_ok()).cloned().collect();
        let running = self.pipelines.values().map(|one| (&one.connector, one.closes));
        let Plan { close, start } = plan(&wanted, &running.collect::<Vec<_>>());
        self.tell_idle(&all, &start);
        for name in close {
            if let Some(one) = self.pipelines.get_mut(&name) {
                tracing::info!(pipeline = name, "closing, since it is configured otherwise or not at all now");
                one.close();
            }
        }
        self.make_savepoints(&wanted);
        for connector in start {
            self.start(&connector, is_first);
        }
        self.forget_gone(&all);
    }

    /// Drops the metrics of connectors that are gone, and have closed.
    fn forget_gone(&mut self, all: &[Arc<Connector>]) {
        let pipelines = &self.pipelines;
        self.known.extend(all.iter().map(|connector| connector.name().to_owned()));
        self.known.retain(|name| {
            let is_there = pipelines.contains_key(name) || all.iter().any(|connector| connector.name() == name);
            if !is_there {
                metrics::forget_pipeline(name);
            }
            is_there
        });
    }

    fn start(&mut self, connector: &Arc<Connector>, is_first: bool) {
        let (stop, stopped) = channel::channel(false);
        let task = match connector.work() {
            Ok(Work::Capture(pipeline)) => {
                let mut keeping = self.keeping(connector, pipeline);
                keeping.hopes = self.hopes.clone().filter(|_| is_first && connector.is_of_file());
                let run = move |stopped| keeping.clone().run(stopped);
                self.spawn(connector.clone(), stopped, run)
            }
            Ok(Work::Restore(restore)) => {
                let restoring = Restoring {
                    restore: (**restore).clone(),
                    connector: connector.clone(),
                    restart_backoff_max: self.restart_backoff_max,
                    health: self.health.of_pipeline(connector.name()),
                    metrics: PipelineMetrics::new(connector.name()),
                };
                self.spawn(connector.clone(), stopped, move |stopped| restoring.clone().run(stopped))
            }
            Err(_) => return,
        };
        let one = One { connector: connector.clone(), task, stop, closes: false };
        self.pipelines.insert(connector.name().to_owned(), one);
    }

    /// Runs a pipeline in a task of its own, which survives a defect in it.
    fn spawn<F>(
        &mut self,
        connector: Arc<Connector>,
        stopped: Stop,
        run: impl Fn(Stop) -> F + Send + Sync + 'static,
    ) -> task::Id
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (health, bound) = (self.health.of_pipeline(connector.name()), self.restart_backoff_max);
        self.tasks.spawn(async move { surviving::run(&connector, health, bound, stopped, run).await }).id()
    }

    /// Makes what keeps a pipeline running.
    fn keeping(&self, connector: &Arc<Connector>, pipeline: &config::Pipeline) -> Keeping {
        self.registry.add(pipeline);
        if let Some(path) = connector.given_path() {
            self.registry.shows(&pipeline.name, path);
        }
        let place = savepoints::place(pipeline);
        let backup = self.backups.iter().find(|backup| backup.place == place);
        if let Some((_, handle)) = backup.and_then(|backup| backup.maker.as_ref()) {
            self.registry.makes_savepoints(&pipeline.name, handle.clone().into_function());
        }
        Keeping {
            pipeline: pipeline.clone(),
            connector: connector.clone(),
            restart_backoff_max: self.restart_backoff_max,
            health: self.health.of_pipeline(&pipeline.name),
            registry: self.registry.clone(),
            reached: backup.map(|backup| backup.reached.clone()).unwrap_or_default(),
            hopes: None,
        }
    }

    /// Takes note that a pipeline has ended.
    fn ended(&mut self, ended: Result<(task::Id, Result<()>), JoinError>, is_stopping: bool) -> Result<()> {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(Error::failed("a pipeline ended by a defect").source(error))),
        };
        let found = self.pipelines.iter().find(|(_, one)| one.task == id).map(|(name, _)| name.clone());
        let one = found.and_then(|name| self.pipelines.remove_entry(&name));
        let Some((name, one)) = one else { return outcome };
        if is_stopping || !one.closes {
            return outcome;
        }
        if let Err(error) = outcome {
            tracing::error!(pipeline = name, "{error}; what it held is read again when it is captured next");
        }
        let captures = |connector: &Connector| connector.capture().is_some();
        if captures(&one.connector) && !self.worker.connector(&name).is_some_and(|connector| captures(&connector)) {
            self.registry.remove(&name);
        }
        if self.worker.connector(&name).is_none() {
            tracing::info!(pipeline = name, "closed");
        }
        Ok(())
    }

    /// Has the savepoints of each backup cover the pipelines that are wanted for it. Where none can be made, `/readyz` says why.
    fn make_savepoints(&mut self, wanted: &[Arc<Connector>]) {
        let mut groups: Vec<(Place, Vec<Arc<Connector>>)> = Vec::new();
        for connector in wanted {
            let Some(pipeline) = connector.capture() else { continue };
            let place = savepoints::place(pipeline);
            match groups.iter_mut().find(|(other, _)| *other == place) {
                Some((_, connectors)) => connectors.push(connector.clone()),
                None => groups.push((place, vec![connector.clone()])),
            }
        }
        let (mut kept, gone): (Vec<_>, Vec<_>) =
            self.backups.drain(..).partition(|backup| groups.iter().any(|(place, _)| *place == backup.place));
        for backup in gone {
            backup.end();
            self.health.of(savepoints_of(&backup.place)).clear();
        }
        for (place, connectors) in groups {
            let old = kept.iter().position(|backup| backup.place == place).map(|at| kept.swap_remove(at));
            let is_same = |old: &Backup| {
                let pairs = old.connectors.iter().zip(&connectors);
                old.connectors.len() == connectors.len() && pairs.into_iter().all(|(old, new)| Arc::ptr_eq(old, new))
            };
            let backup = match old {
                Some(old) if is_same(&old) => old,
                old => self.begin(place, connectors, old),
            };
            self.backups.push(backup);
        }
    }

    /// Begins to make savepoints that cover `connectors`, instead of `old`.
    fn begin(&mut self, place: Place, connectors: Vec<Arc<Connector>>, old: Option<Backup>) -> Backup {
        let reached = old.as_ref().map(|old| old.reached.clone()).unwrap_or_default();
        if let Some(old) = old {
            old.end();
        }
        let health = self.health.of(savepoints_of(&place));
        health.clear();
        let pipelines: Vec<config::Pipeline> =
            connectors.iter().filter_map(|connector| connector.capture().cloned()).collect();
        let maker = match Maker::new(&pipelines, reached.clone(), health.clone()) {
            Ok((maker, handle)) => Some((self.makers.spawn(maker.run()), handle)),
            Err(error) => {
                health.set("", Some(format!("none are made: {error}")));
                None
            }
        };
        if let Some((_, handle)) = &maker {
            for pipeline in &pipelines {
                // Of those that have yet to start it is said then.
                self.registry.makes_savepoints(&pipeline.name, handle.clone().into_function());
            }
        }
        Backup { place, connectors, reached, maker }
    }

    /// Says that what makes savepoints has ended. The archive matters more: pipelines go on without, and it is said for as
    /// long as they do.
    fn lost_maker(&self, error: &JoinError) {
        // It was ended.
        if error.is_cancelled() {
            return;
        }
        tracing::error!("what makes savepoints ended by a defect: {error}");
        let reason = "none are made any more, because of a defect: restart the agent, and report what it logged";
        self.health.of("savepoints").set("", Some(reason.to_owned()));
    }

    /// Says in `/readyz` and the metrics which connectors do not run although they are wanted, but for those that `start`.
    fn tell_idle(&mut self, all: &[Arc<Connector>], start: &[Arc<Connector>]) {
        let (mut idle, mut broken) = (BTreeSet::new(), Vec::new());
        for connector in all {
            let name = connector.name();
            // While one runs, or closes, that has its name, that one has the word.
            if self.pipelines.contains_key(name) || start.iter().any(|other| Arc::ptr_eq(other, connector)) {
                continue;
            }
            let reason = match (connector.phase(), connector.work()) {
                (Phase::Paused | Phase::Stopped, _) => continue,
                (_, Err(reason)) => {
                    broken.push(connector.clone());
                    reason.to_owned()
                }
                (_, Ok(_)) => "it waits until what has written to its backup has closed".to_owned(),
            };
            idle.insert(name.to_owned());
            if self.health.of_pipeline(name).set("", Some(reason.clone())) {
                tracing::error!(pipeline = name, "{reason}");
            }
        }
        for name in self.idle.difference(&idle).filter(|name| !self.pipelines.contains_key(*name)) {
            self.health.of_pipeline(name).clear();
        }
        self.idle = idle;
        self.healing.heal(&broken);
    }
}

impl One {
    fn close(&mut self) {
        self.closes = true;
        self.stop.send_replace(true);
    }
}

impl Backup {
    fn end(&self) {
        if let Some((maker, _)) = &self.maker {
            maker.abort();
        }
        // It has the name of the first; nothing is known now.
        if let Some(first) = self.connectors.first() {
            drop(SavepointMetrics::new(first.name()));
        }
    }
}

fn savepoints_of(place: &Place) -> String {
    format!("savepoints of backup {}", place.backup_id)
}

/// What is to be done.
#[derive(Debug, Default)]
struct Plan {
    /// The names of those that are to close.
    close: Vec<String>,
    /// What is to start now; what must wait for others to close comes later.
    start: Vec<Arc<Connector>>,
}

/// Plans what makes of what runs, or closes, what is wanted.
fn plan(wanted: &[Arc<Connector>], running: &[(&Arc<Connector>, bool)]) -> Plan {
    let is_wanted = |connector: &Arc<Connector>| wanted.iter().any(|wanted| Arc::ptr_eq(wanted, connector));
    let goes = running.iter().filter(|(connector, closes)| *closes || !is_wanted(connector));
    let (mut close, mut names, mut places) = (Vec::new(), BTreeSet::new(), Vec::new());
    for (connector, closes) in goes {
        if !closes {
            close.push(connector.name().to_owned());
        }
        names.insert(connector.name());
        places.extend(connector.capture().map(savepoints::place));
    }
    let runs = |connector: &Arc<Connector>| running.iter().any(|(running, _)| Arc::ptr_eq(running, connector));
    let may_start = |connector: &&Arc<Connector>| {
        let place = connector.capture().map(savepoints::place);
        !runs(connector) && !names.contains(connector.name()) && place.is_none_or(|place| !places.contains(&place))
    };
    let start = wanted.iter().filter(may_start).cloned().collect();
    Plan { close, start }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::connect::Target;

    fn toml(name: &str, backup_id: &str) -> String {
        format!(
            "[[pipeline]]\nname = \"{name}\"\n[pipeline.source]\ntype = \"kafka\"\ntopics = [\"t\"]\n\
             kafka = {{ \"bootstrap.servers\" = \"127.0.0.1:1\" }}\n\
             [pipeline.sink]\ntype = \"archive\"\nbackup_id = \"{backup_id}\"\npath = \"/archive\"\n"
        )
    }

    fn connector(name: &str, backup_id: &str) -> Arc<Connector> {
        let text = toml(name, backup_id);
        let pipeline = Config::parse("a.toml", &text, &|_| None).expect("valid").pipelines.remove(0);
        Arc::new(Connector::of_file(pipeline, serde_json::Map::new(), Target::Started))
    }

    /// Returns the names of those that close and of those that start.
    fn planned(wanted: &[&Arc<Connector>], running: &[(&Arc<Connector>, bool)]) -> (Vec<String>, Vec<String>) {
        let wanted: Vec<_> = wanted.iter().map(|connector| Arc::clone(connector)).collect();
        let Plan { close, start } = plan(&wanted, running);
        (close, start.iter().map(|connector| connector.name().to_owned()).collect())
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_as_it_was_is_left_alone() {
        let (a, b, c) = (connector("a", "1"), connector("b", "2"), connector("c", "3"));
        assert_eq!(planned(&[&b, &c], &[(&a, false), (&b, false)]), (names(&["a"]), names(&["c"])));
        assert_eq!(planned(&[&b], &[(&b, false)]), (names(&[]), names(&[])));
    }

    #[test]
    fn what_is_configured_otherwise_starts_when_the_one_before_has_closed() {
        let (old, new) = (connector("a", "1"), connector("a", "2"));
        assert_eq!(planned(&[&new], &[(&old, false)]), (names(&["a"]), names(&[])));
        assert_eq!(planned(&[&new], &[(&old, true)]), (names(&[]), names(&[])), "it was told already");
        assert_eq!(planned(&[&new], &[]), (names(&[]), names(&["a"])));
    }

    #[test]
    fn what_has_another_name_now_waits_for_the_one_that_writes_to_its_backup() {
        let (old, new, other) = (connector("old", "1"), connector("new", "1"), connector("other", "2"));
        assert_eq!(planned(&[&new, &other], &[(&old, false)]), (names(&["old"]), names(&["other"])));
        assert_eq!(planned(&[&new, &other], &[(&other, false)]), (names(&[]), names(&["new"])));
        let beside = connector("beside", "1");
        assert_eq!(planned(&[&new, &beside], &[(&new, false)]), (names(&[]), names(&["beside"])), "two may share one");
    }

    /// What would run no pipelines.
    fn none() -> Running {
        let (address, text) = ("127.0.0.1:1".parse().expect("an address"), toml("a", "1"));
        let mut config = Config::parse("a.toml", &text, &|_| None).expect("valid");
        config.pipelines.clear();
        let worker = Worker::open(&config, address).expect("nothing is kept");
        Running::new(worker, Registry::default(), Health::new(), Duration::from_secs(1))
    }

    #[tokio::test]
    async fn nothing_makes_savepoints_once_all_pipelines_have_ended() {
        let (mut running, token) = (none(), Arc::new(()));
        let held = token.clone();
        running.makers.spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        running.tasks.spawn(async {
            tokio::task::yield_now().await;
            Ok(())
        });
        let (stop, stopped) = channel::channel(true);
        running.run(&stop, stopped).await.expect("both end well");
        assert_eq!(Arc::strong_count(&token), 1, "its task is gone, not going");
    }

    #[tokio::test]
    async fn a_defect_in_what_makes_savepoints_is_told_and_stops_no_pipeline() {
        let mut running = none();
        let (told, health, (stop, stopped)) = (running.health.clone(), running.health.clone(), channel::channel(false));
        let end = stop.clone();
        running.makers.spawn(async { panic!("a defect, for the test") });
        running.tasks.spawn(async move {
            while told.reasons().is_empty() {
                tokio::task::yield_now().await;
            }
            end.send_replace(true);
            Ok(())
        });
        running.run(&stop, stopped).await.expect("the pipeline ends well");
        let reasons = health.reasons();
        assert!(reasons.len() == 1 && reasons[0].starts_with("savepoints: none"), "{reasons:?}");
    }

    /// Waits until something is so.
    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(30), async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{what}"));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_told_everywhere_and_runs_once_it_can() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secret");
        let kept = serde_json::json!({ "format": 1, "connectors": { "unread": { "target_state": "STARTED", "config": {
            "connector.class": "ArchiveSink", "name": "unread", "topics": "t", "sink.backup_id": "b",
            "sink.path": folder.path().join("archive"), "consumer.override.bootstrap.servers": "127.0.0.1:1",
            "consumer.override.client.id": format!("${{file:{}}}", secret.display()),
        } } } });
        std::fs::write(folder.path().join("connectors.json"), kept.to_string()).expect("written");
        let text = format!("[agent]\nstate_dir = {:?}\n", folder.path());
        let config = Config::parse("a.toml", &text, &|_| None).expect("valid");
        let worker = Worker::open(&config, "127.0.0.1:1".parse().expect("an address")).expect("read");
        let (health, (stop, stopped)) = (Health::new(), channel::channel(false));
        let bound = Duration::from_millis(50);
        let running = Running::new(worker.clone(), Registry::default(), health.clone(), bound);
        let page = metrics::install().expect("installed");
        let shows = |name: &str, value: &str| {
            let line = format!("kafka_backup_{name}{{pipeline=\"unread\"}} {value}");
            page.render().lines().any(|shown| shown == line)
        };
        let says = || health.reasons().iter().any(|reason| reason.contains("cannot read file"));
        let seen = async {
            until("it is told", || says() && shows("ready", "0") && shows("troubles", "1")).await;
            let failures = |count: &str| shows("pipeline_consecutive_failures", count);
            until("it is tried again", || !failures("0") && !failures("1")).await;
            std::fs::write(&secret, "x").expect("written");
            let runs = || worker.connector("unread").is_some_and(|connector| connector.work().is_ok());
            until("it is read", || runs() && !says()).await;
            stop.send_replace(true);
        };
        let (outcome, ()) = tokio::join!(running.run(&stop, stopped), seen);
        outcome.expect("it closes");
    }

    #[tokio::test]
    async fn the_first_pipeline_that_ends_the_process_says_why() {
        let mut running = none();
        running.tasks.spawn(async { Err(Error::usage("no such topic")) });
        let (stop, stopped) = channel::channel(false);
        let error = running.run(&stop, stopped).await.expect_err("it ends the process");
        assert_eq!(error.to_string(), "no such topic");
        assert!(*stop.borrow(), "the others are told to close");
    }
}
