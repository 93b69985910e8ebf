//! The stages of a pipeline: plugins through which record batches go, one after the other, on threads of their own.
//!
//! `source → stages → sink`: whoever has batches of a partition hands them over ([`Stages::pass`]) and waits; no thread of
//! the runtime computes. A partition always has the same worker, and each worker its own instance of every plugin, so a
//! plugin sees the records of a partition in order. Each pipeline has workers of its own: a plugin that uses up its time
//! holds up the partitions of its worker and no other pipeline.
//!
//! What a batch needs is decided from its header, and it is decoded only for a plugin to see it: control batches, those of
//! aborted transactions and empty ones pass as they are, as does what the header proves to lie inside the windows of
//! plugins that do nothing but keep one; and what no plugin has changed keeps its bytes ([`worker`]).
//!
//! **Bounds.** A worker's queue has [`QUEUED`] places; who finds none waits, and with it the payment for its bytes, which
//! is how a slow plugin slows the source down. A worker holds one batch decoded and what came of it beside what it was
//! handed, and hands back what was made when that is some MiB ([`Passed::rest`]). A batch that is large when decoded (over
//! 16 MiB, or 250,000 records) is worked on alone in its pipeline: up to 128 MiB and, for two million records, as much for
//! their rows; each stage may add 64 MiB, and has rows of its own while it works. This is a bound for each pipeline and not
//! for the process: as many pipelines as meet such batches at once hold one each, lest a plugin that uses up its time in
//! one of them hold up the others.
//!
//! **State.** An instance of a plugin that is not pure remembers records. Whenever a partition is begun anew, or a run has
//! failed, its records come again: then such an instance is given up, lest it take them for ones that it has seen.
//!
//! **A restore's stages** may send records elsewhere and make several of one: what is made of a batch is one for each of its
//! targets ([`onward`]). Behind the last one records may be spread over the partitions of their topic by key
//! ([`spread`]). No stage sees what a restore leaves out, and a batch keeps its bytes wherever all that stages made
//! of it for a target is what was in it.
//!
//! **Failure.** What becomes of records that a plugin failed at is [`OnError`]; which they were is told with what was
//! made ([`Passed::left_out`]), so that the archive can keep it. A failure that the plugin calls retriable is never
//! decided upon: it ends the pass, and the batch comes again.

mod making;
pub mod onward;
pub mod spread;
mod worker;

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::batch::transactions::OpenTransactions;
use crate::error::{Error, Kind, Result};
use crate::plugin::{Limits, Plugin, wit};
use crate::record::{AbortedTransaction, LeftOut, Offset, Partition, Timestamp};
use crate::telemetry::metrics::{stage_left_out, stage_seconds};
use onward::{Onward, Piece};
use spread::Spread;
use worker::{Large, Worker};

/// Runs of batches that wait for one worker. With one it would idle while the next is handed over; more only wait longer.
const QUEUED: usize = 4;

/// The most workers of a pipeline, however many cores there are: each has an instance of every plugin.
const MOST_WORKERS: usize = 8;

/// The most stages of a pipeline: what is left out names its stage in one byte.
pub const MOST_STAGES: usize = 64;

/// What becomes of records at which a plugin has failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The partition stops before their batch, and tries again with back-off: nothing is left out.
    Fail,
    /// They are left out: the record alone where the plugin is pure, so that the others can be sent again, and all that
    /// one call was sent where it is not, or where the call took too long.
    Skip,
    /// Their batch is left out, and kept beside the archive as it came.
    DeadLetter,
}

/// A stage, as it is configured.
#[derive(Clone, PartialEq, Eq)]
pub struct Stage {
    /// The name of a plugin that is part of the agent, or the path of its file.
    pub plugin: String,
    /// The plugin's settings; they may hold secrets.
    pub settings: Vec<(String, String)>,
    /// What the plugin may take.
    pub limits: Limits,
    /// What becomes of records at which it fails.
    pub on_error: OnError,
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plugin, settings, limits, on_error } = self;
        let settings: Vec<_> = settings.iter().map(|(name, _)| name).collect();
        let mut shown = f.debug_struct("Stage");
        shown.field("plugin", plugin).field("settings", &settings);
        shown.field("limits", limits).field("on_error", on_error).finish()
    }
}

/// Why a stage cannot be used.
#[derive(Debug)]
pub struct Refused {
    /// The key of the stage that it is about.
    pub key: &'static str,
    /// What is wrong, of which stage.
    pub error: Error,
}

/// Which way a pipeline goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a cluster into an archive.
    Capture,
    /// From an archive into a cluster.
    Restore,
}

/// A plugin that was opened for a stage.
#[derive(Debug)]
pub struct Opened {
    plugin: Plugin,
    declared: Declared,
}

/// What a stage's plugin says of itself, as far as it is planned with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The plugin's name.
    pub plugin: String,
    /// XXH3-128 of its file.
    pub digest: u128,
    /// Whether it makes the same of the same records, however they are split into calls.
    pub is_pure: bool,
    /// The topics that it may send records to.
    pub topics: Vec<String>,
    /// Whether it chooses partitions.
    pub chooses_partitions: bool,
    /// Whether it changes times.
    changes_times: bool,
    /// It drops what is older than the one, and what is not older than the other.
    keeps: (Option<Timestamp>, Option<Timestamp>),
}

impl Declared {
    fn of(plugin: &Plugin, plan: &wit::Plan) -> Self {
        let time = |ms: Option<i64>| ms.map(Timestamp);
        Self {
            plugin: plugin.name().to_owned(),
            digest: plugin.about().digest,
            is_pure: plan.pure,
            topics: plan.targets.clone().unwrap_or_default(),
            chooses_partitions: plan.touches.contains(wit::Touches::PARTITIONS),
            changes_times: plan.touches.contains(wit::Touches::TIMESTAMPS),
            keeps: (time(plan.keeps.from), time(plan.keeps.until)),
        }
    }
}

/// Returns whether a plugin sends records elsewhere.
fn is_routing(plan: &wit::Plan) -> bool {
    plan.touches & (wit::Touches::TOPICS | wit::Touches::PARTITIONS) != wit::Touches::default()
}

impl Stage {
    /// Opens the plugin of the `number`th stage of a pipeline that goes that way, and tries its settings.
    ///
    /// # Errors
    /// As [`Stages::of_capture`] and [`Stages::of_restore`], with what is to be changed.
    pub fn open(&self, pipeline: &str, number: usize, way: Way) -> Result<Opened, Refused> {
        let about = |key| move |error| Refused { key, error };
        let found = Plugin::find(&self.plugin).map_err(|error| error.with("stage", number)).map_err(about("plugin"))?;
        let at = format!("stage {number} of pipeline `{pipeline}`");
        let plugin = found.as_part_of(&at);
        let started = plugin.start(&self.settings, self.limits);
        // What its settings are not to blame for it does by itself.
        let started = started.map_err(|error| match error.kind() {
            Kind::Usage => about("settings")(error),
            _ => about("plugin")(error),
        })?;
        let (plan, name) = (started.plan(), plugin.name());
        let refused =
            |what: &str, hint: &str| about("plugin")(Error::usage(format!("{at}: plugin `{name}` {what}")).hint(hint));
        if way == Way::Capture && (is_routing(plan) || plan.touches.contains(wit::Touches::COPIES)) {
            let hint = "a stage of a capture changes records or drops them: use it in a restore";
            return Err(refused("sends records elsewhere, or makes several of one", hint));
        }
        if plan.touches.contains(wit::Touches::TOPICS) && plan.targets.is_none() {
            let hint = "topics that are not known beforehand need transactions, which a restore does not have yet: have it \
                        name its `targets`";
            return Err(refused("does not say which topics it sends records to", hint));
        }
        let declared = Declared::of(&plugin, plan);
        Ok(Opened { plugin, declared })
    }
}

/// The stages of a pipeline, running. Clones share them; the threads end with the last.
#[derive(Debug, Clone)]
pub struct Stages {
    pipeline: Arc<str>,
    declared: Arc<[Declared]>,
    names: Arc<[String]>,
    workers: Arc<[Queue]>,
}

/// The way to a worker.
#[derive(Debug)]
struct Queue {
    runs: Sender<(Run, OwnedSemaphorePermit)>,
    places: Arc<Semaphore>,
}

/// Batches on their way to a worker.
struct Run {
    partition: Partition,
    /// That of the partition's last start.
    generation: u32,
    bytes: Bytes,
    open: OpenTransactions,
    onward: Option<Onward>,
    answer: oneshot::Sender<Passed>,
}

/// What became of a run of batches.
#[derive(Debug, Default)]
pub struct Passed {
    /// Of a capture: the batches, as many as there were and in the same order, up to the one that ended the pass; each covers the
    /// offsets that it covered before.
    pub bytes: Bytes,
    /// Of a restore: what is sent of the batches, up to the one that ended the pass, in order for each target.
    pub pieces: Vec<Piece>,
    /// The bytes of those that were made anew.
    pub made_bytes: usize,
    /// The offset behind the last batch that passed; `None` where there is none.
    pub next: Option<Offset>,
    /// Batches that did not pass: those from the one on that ended the pass, or those that are to be passed next, where
    /// enough was made for once.
    pub rest: Bytes,
    /// The aborted transactions that are still open behind them.
    pub open: OpenTransactions,
    /// Which records are not in them.
    pub left_out: Vec<LeftOut>,
    /// The batches that are to be kept beside, as they came: those of [`left_out`](Self::left_out) that have one, in order.
    pub dead_letters: Vec<Bytes>,
    /// Why the pass ended before the last batch.
    pub failure: Option<Error>,
}

impl Passed {
    /// Makes that of a run of which nothing passed.
    fn failed(failure: Error, run: Bytes) -> Self {
        Self { failure: Some(failure), rest: run, ..Self::default() }
    }
}

impl Stages {
    /// Opens the plugins of a pipeline's stages that capture goes through, and starts their workers; at least one of each.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a plugin that cannot be opened, refuses its settings, or does what only
    /// a restore can do: send records elsewhere, or make several of one.
    pub fn of_capture(pipeline: &str, stages: &[Stage]) -> Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::start(pipeline, stages, cores.min(MOST_WORKERS))
    }

    /// Opens the plugins of a pipeline's stages that a restore goes through, and starts their workers; at least one of each,
    /// or none where records are spread by key and no more.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a plugin that cannot be opened, refuses its settings, or sends records
    /// to topics that it does not name beforehand.
    pub fn of_restore(pipeline: &str, stages: &[Stage], spread: &Spread) -> Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::begin(pipeline, stages, spread, cores.min(MOST_WORKERS), Way::Restore)
    }

    /// Opens them with so many workers.
    ///
    /// # Errors
    /// As [`of_capture`](Self::of_capture).
    pub fn start(pipeline: &str, stages: &[Stage], workers: usize) -> Result<Self> {
        Self::begin(pipeline, stages, &Spread::default(), workers, Way::Capture)
    }

    fn begin(pipeline: &str, stages: &[Stage], spread: &Spread, workers: usize, way: Way) -> Result<Self> {
        let (mut opened, mut declared, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (number, stage) in (1..).zip(stages) {
            let Opened { plugin, declared: said } =
                stage.open(pipeline, number, way).map_err(|refused| refused.error)?;
            // There from the start: the first one that is left out is seen as an increase.
            let policy = match stage.on_error {
                OnError::Fail => None,
                OnError::Skip => Some("skip"),
                OnError::DeadLetter => Some("dead-letter"),
            };
            if let (Some(policy), Ok(number)) = (policy, u8::try_from(number)) {
                stage_left_out(pipeline, number, &said.plugin, policy).increment(0);
            }
            names.push(format!("{} {:032x}", said.plugin, said.digest));
            declared.push(said);
            opened.push((plugin, stage));
        }
        let large = Large::default();
        let workers = (0..workers.max(1)).map(|_| {
            let (runs, received) = bounded(QUEUED);
            let started =
                opened.iter().map(|(plugin, stage)| Ok((plugin.start(&stage.settings, stage.limits)?, stage.on_error)));
            let worker = Worker::new(started.collect::<Result<_>>()?, spread.clone(), large.clone());
            let times = (1..).zip(&declared).map(|(number, said)| stage_seconds(pipeline, number, &said.plugin));
            work(worker.timed(times.collect()), received)?;
            Ok(Queue { runs, places: Arc::new(Semaphore::new(QUEUED)) })
        });
        let workers = workers.collect::<Result<Vec<_>>>()?;
        Ok(Self { pipeline: pipeline.into(), declared: declared.into(), names: names.into(), workers: workers.into() })
    }

    /// Returns what the plugin of each stage says of itself.
    pub fn declared(&self) -> &[Declared] {
        &self.declared
    }

    /// Returns the least effective time that stages keep, and the one that is too late already for one of them. What lies
    /// outside can be left out before all stages: the one that drops it remembers nothing, and those before it change no time
    /// and remember nothing either.
    pub fn keeps(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        // The first that changes times is itself given the source's; one that remembers is to be given all that it drops.
        let last = self.declared.iter().position(|stage| stage.changes_times || !stage.is_pure);
        let behind = last.map_or(self.declared.len(), |at| if self.declared[at].is_pure { at + 1 } else { at });
        let of_source = &self.declared[..behind];
        let from = of_source.iter().filter_map(|stage| stage.keeps.0).max();
        (from, of_source.iter().filter_map(|stage| stage.keeps.1).min())
    }

    /// Returns what each stage is called: its plugin's name, and the digest of the plugin's file.
    pub fn names(&self) -> &Arc<[String]> {
        &self.names
    }

    /// Counts what is left out because a stage failed at it.
    pub fn count(&self, left_out: &[LeftOut]) {
        for LeftOut { records, stage, dead_letter, .. } in left_out {
            let plugin = &self.declared[usize::from(*stage)].plugin;
            let policy = if dead_letter.is_some() { "dead-letter" } else { "skip" };
            stage_left_out(&self.pipeline, stage + 1, plugin, policy).increment((*records).into());
        }
    }

    /// Passes whole batches of a partition, read after its `generation`th start, through all stages, in order. `open` are the aborted transactions that were open
    /// before them, `aborted` those that the broker reported with them.
    ///
    /// Cancel: what was handed over is transformed for nobody.
    pub async fn pass(
        &self,
        partition: &Partition,
        generation: u32,
        bytes: Bytes,
        mut open: OpenTransactions,
        aborted: &[AbortedTransaction],
    ) -> Result<Passed> {
        open.report(aborted);
        self.hand_over(partition, generation, bytes, open, None).await
    }

    /// Passes whole batches of a partition that is restored through all stages, in order: what of them is wanted, to where
    /// it goes.
    ///
    /// Cancel: what was handed over is transformed for nobody.
    pub async fn pass_on(&self, partition: &Partition, bytes: Bytes, onward: Onward) -> Result<Passed> {
        // What is restored of a partition is read once.
        self.hand_over(partition, 1, bytes, OpenTransactions::default(), Some(onward)).await
    }

    async fn hand_over(
        &self,
        partition: &Partition,
        generation: u32,
        bytes: Bytes,
        open: OpenTransactions,
        onward: Option<Onward>,
    ) -> Result<Passed> {
        let defect = || Error::failed("a worker of the stages ended by a defect");
        let queue = &self.workers[worker_of(partition, self.workers.len())];
        let place = queue.places.clone().acquire_owned().await.map_err(|_| defect())?;
        let (answer, answered) = oneshot::channel();
        let run = Run { partition: partition.clone(), generation, bytes, open, onward, answer };
        // There is room for as many as there are places: this never waits.
        queue.runs.try_send((run, place)).map_err(|_| defect())?;
        answered.await.map_err(|_| defect())
    }
}

/// Starts a worker's thread, which ends when nobody can hand over any more.
fn work(mut worker: Worker, runs: Receiver<(Run, OwnedSemaphorePermit)>) -> Result<()> {
    let work = move || {
        for (run, place) in runs {
            drop(place);
            let Run { partition, generation, bytes, open, onward, answer } = run;
            // Whoever asked may be gone: then nobody needs the answer.
            let is_void = || answer.is_closed();
            worker.begin(&partition, generation);
            let passed = panic::catch_unwind(AssertUnwindSafe(|| {
                worker.pass(&partition, &bytes, open, onward.as_ref(), &is_void)
            }));
            let passed = passed.unwrap_or_else(|_| {
                worker.forget_all();
                Passed::failed(Error::transient("a worker of the stages met a defect"), bytes)
            });
            let _ = answer.send(passed);
        }
    };
    let started = thread::Builder::new().name("stages".to_owned()).spawn(work);
    started.map(drop).map_err(|error| Error::failed("cannot start a worker of the stages").source(error))
}

/// Returns which of so many workers a partition has: always the same.
fn worker_of(partition: &Partition, workers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (&partition.topic, partition.index).hash(&mut hasher);
    (hasher.finish() % workers as u64) as usize
}

#[cfg(test)]
mod tests;
