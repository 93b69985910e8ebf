//! Plugins: transforms of records that run in a sandbox, and what is to be done when one fails.
//!
//! A [`Plugin`] is a file that was compiled; an [`Instance`] of it, configured, transforms [`Rows`] of one partition. It
//! belongs to one thread. [`columns`] makes what crosses the boundary and checks what comes back (pure), `host` runs the
//! code; the interface itself is `wit/transform.wit`, for whoever writes a plugin.
//!
//! **Trust.** What a plugin does is bounded, and what it answers is checked. Opening one compiles it, and that has no
//! bound but the size of the file: open only files that the operator chose.
//!
//! **Failure.** A plugin that traps, takes too long or answers nonsense has failed at its records; the error names it, the
//! partition and the offsets. Its instance is given up, the next call has a new one. Where the plugin is `pure` and did
//! not say which record it was, the records are halved until the one is found, or the time for that is up: a person can
//! then look at it. Retry, and what becomes of the records, is for whoever calls.
//!
//! **Memory.** What an instance holds is bounded by [`Limits::memory_bytes`]. Memory of a WebAssembly module never
//! shrinks, so an instance of a pure plugin that has grown by more than half of that since it was configured is replaced
//! after its call, and one that has grown by less and is then refused memory before that is called its failure. One that is not
//! pure would lose what it has seen, and is kept.

pub mod columns;
mod host;
mod text;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::columns::Answer;
pub use self::host::wit;
use self::host::{End, Fault, Level, Live, Loaded};
pub use self::text::shown;
use crate::batch::records::rows::{Row, Rows};
use crate::error::{Error, Result};
use crate::record::{OffsetRange, Partition};

/// Bytes of columns that one call is sent, unless a single record has more. They are copied twice on their way, which costs
/// less where they stay in a core's own cache; below a quarter the cost of the call itself begins to show.
const CALL_BYTES: usize = 128 << 10;

/// The plugins that are part of the agent.
const SHIPPED: [(&str, &[u8]); 3] = [
    ("header-injector", include_bytes!("../plugins/header-injector/header-injector.wasm")),
    ("pitr-filter", include_bytes!("../plugins/pitr-filter/pitr-filter.wasm")),
    ("restore-fanout", include_bytes!("../plugins/restore-fanout/restore-fanout.wasm")),
];

/// Bytes of all fields of the records of one call, sent or not, unless a single record has more: where a call takes too long
/// its records are left out together, however few of their columns the plugin needs.
const CALL_WHOLE_BYTES: usize = 1 << 20;

/// How much of each value on demand a plugin is expected to ask for before it has asked.
const HEAD_BYTES: usize = 256;

/// The most records of one call; records may be empty.
const CALL_RECORDS: usize = 10_000;

/// What a plugin may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The time of one call.
    pub deadline: Duration,
    /// The memory of one instance.
    pub memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), memory_bytes: 64 << 20 }
    }
}

/// What is known of a plugin's file.
#[derive(Debug, Clone)]
pub struct About {
    /// Its size.
    pub bytes: u64,
    /// Whether it is a core module, which was made a component here.
    pub is_module: bool,
    /// The version of the interface that it is built for, as `0.1.0`.
    pub interface: String,
    /// What it imports.
    pub imports: Vec<String>,
    /// How long it took to compile; much less where the compiled form was kept.
    pub compile: Duration,
    /// XXH3-128 of the file.
    pub digest: u128,
}

/// A transform that was read from a file and compiled. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    file: PathBuf,
    name: String,
    /// Where it is used, as `stage 2 of pipeline x`: that is said with its name.
    part_of: Option<String>,
    loaded: Arc<Loaded>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "plugin `{}` ({})", self.name, self.file.display())
    }
}

/// Returns the names of the plugins that are part of the agent.
pub fn shipped() -> impl Iterator<Item = &'static str> {
    SHIPPED.iter().map(|(name, _)| *name)
}

impl Plugin {
    /// Reads and compiles the plugin at `file`, a component or a core module that is built with the SDK. What that takes
    /// is not bounded: `file` is for the operator to choose.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a file that is no plugin, or not one for this agent, with what to do.
    pub fn open(file: &Path) -> Result<Self> {
        let loaded = Loaded::of(&file.display().to_string(), &host::read(file)?)?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { file: file.to_owned(), name, part_of: None, loaded: Arc::new(loaded) })
    }

    /// Finds a plugin by what a configuration calls it: the name of one that is part of the agent, or the path of a file,
    /// which has a slash in it or ends with `.wasm`.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Kind::Usage`](crate::error::Kind::Usage) for a name that no plugin has.
    pub fn find(plugin: &str) -> Result<Self> {
        if plugin.contains('/') || plugin.ends_with(".wasm") {
            return Self::open(Path::new(plugin));
        }
        let Some((name, bytes)) = SHIPPED.iter().find(|(name, _)| *name == plugin) else {
            let names = SHIPPED.map(|(name, _)| format!("`{name}`")).join(", ");
            let what = format!("there is no plugin `{}`", shown(plugin));
            return Err(Error::usage(what).hint(format!("it is {names}, or the path of a .wasm file")));
        };
        let file = PathBuf::from(format!("{name}.wasm"));
        let loaded = Loaded::of(&format!("`{name}`"), bytes)?;
        Ok(Self { file, name: (*name).to_owned(), part_of: None, loaded: Arc::new(loaded) })
    }

    /// Says where it is used, as `stage 2 of pipeline x`, for its errors.
    pub fn as_part_of(self, whole: &str) -> Self {
        Self { part_of: Some(whole.to_owned()), ..self }
    }

    /// Returns its name, which is its file's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what is known of its file.
    pub fn about(&self) -> &About {
        &self.loaded.about
    }

    /// Makes an instance with these settings.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) when the plugin refuses the settings;
    /// [`Kind::Failed`](crate::error::Kind::Failed) when it fails otherwise.
    pub fn start(&self, settings: &[(String, String)], limits: Limits) -> Result<Instance> {
        let (live, plan) = self.live(settings, limits).map_err(|fault| self.unconfigured(fault))?;
        Ok(Instance {
            plugin: self.clone(),
            settings: settings.to_vec(),
            limits,
            live: Some(live),
            plan,
            head_bytes: HEAD_BYTES,
            log: Vec::new(),
        })
    }

    /// Asks what it says of itself with these settings.
    ///
    /// # Errors
    /// Inside, its refusal of the settings, with its own words as the source; outside, as [`start`](Self::start).
    pub fn plan(&self, settings: &[(String, String)], limits: Limits) -> Result<Result<wit::Plan>> {
        match self.live(settings, limits) {
            Ok((_, plan)) => Ok(Ok(plan)),
            Err(told @ Fault::Told(_)) => Ok(Err(self.unconfigured(told))),
            Err(fault) => Err(self.unconfigured(fault)),
        }
    }

    /// Makes one that is configured; returns it with what it says of itself.
    fn live(&self, settings: &[(String, String)], limits: Limits) -> Result<(Live, wit::Plan), Fault> {
        let mut live = self.loaded.start(limits)?;
        let told = live.configure(settings);
        say(self, live.take_log());
        let plan = told?;
        columns::check_plan(&plan)
            .map_err(|why| Fault::Dead { why: format!("what it says of itself is wrong: {why}"), end: End::Wrong })?;
        Ok((live, plan))
    }

    fn unconfigured(&self, fault: Fault) -> Error {
        let what = format!("{} cannot be configured", self.named());
        match fault {
            Fault::Told(failure) => Error::usage(what).source(shown(&failure.message)),
            // Nothing but the settings and the limit are in play yet: both are the operator's.
            Fault::Dead { why, end: End::Starved } => Error::usage(what)
                .source(shown(&why))
                .hint("give it more: `memory_bytes` of its stage, `--memory` on the command line"),
            Fault::Dead { why, .. } => Error::failed(what).source(shown(&why)),
        }
    }

    fn named(&self) -> String {
        let file = self.file.file_name().unwrap_or_default().to_string_lossy();
        let part_of = self.part_of.as_ref().map(|whole| format!("{whole}, ")).unwrap_or_default();
        format!("plugin `{}` ({part_of}{file})", self.name)
    }
}

/// A plugin with its settings, ready to transform.
pub struct Instance {
    plugin: Plugin,
    settings: Vec<(String, String)>,
    limits: Limits,
    /// `None` after it died, and before the next call.
    live: Option<Live>,
    plan: wit::Plan,
    /// How much of each value was asked for last, of those that are on demand: as much is expected of the next call.
    head_bytes: usize,
    /// What the last call has logged.
    log: Vec<(Level, String)>,
}

/// Why an answer is not taken.
#[derive(Debug)]
pub enum Untaken {
    /// It cannot be: the plugin has failed at its records.
    Wrong(String),
    /// Whoever takes it has failed.
    Failed(Error),
}

impl From<Error> for Untaken {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Where records failed, and how.
struct Failed {
    fault: Fault,
    rows: Range<usize>,
    /// Whether no record was at fault: a new instance could not be configured.
    in_configure: bool,
}

impl Failed {
    /// Whether one of the records has ended the plugin, at once. Where it was late, each half would take as long again.
    fn can_be_narrowed(&self) -> bool {
        !self.in_configure && matches!(&self.fault, Fault::Dead { end, .. } if *end != End::Late)
    }
}

/// How records of which some failed are sent again.
enum Parts {
    Halves([Range<usize>; 2]),
    /// All but this one, which is to blame.
    Around(Range<usize>),
}

impl Failed {
    /// Whether it says nothing of the records: the same ones may pass later.
    fn must_be_told(&self) -> bool {
        self.in_configure || matches!(&self.fault, Fault::Told(failure) if failure.retriable)
    }

    /// Returns how the records of a pure plugin are sent again without those that are to blame; `None` where they all are,
    /// or where each part might take as long again.
    fn parts(&self) -> Option<Parts> {
        let Range { start, end } = self.rows;
        let middle = start + (end - start) / 2;
        match &self.fault {
            _ if self.rows.len() < 2 => None,
            Fault::Dead { end: End::Late, .. } => None,
            Fault::Told(failure) if failure.record.is_some_and(|at| (at as usize) < self.rows.len()) => {
                let one = start + failure.record.unwrap_or_default() as usize;
                Some(Parts::Around(one..one + 1))
            }
            Fault::Told(_) | Fault::Dead { .. } => Some(Parts::Halves([start..middle, middle..end])),
        }
    }
}

impl Instance {
    /// Returns what it says of itself.
    pub fn plan(&self) -> &wit::Plan {
        &self.plan
    }

    /// Returns what it is called in errors.
    pub fn named(&self) -> String {
        self.plugin.named()
    }

    /// Gives up what it remembers of records: the next call has a new instance.
    pub fn renew(&mut self) {
        self.live = None;
    }

    /// Transforms rows of `partition`, call by call; each answer is handed on with the rows that it is for.
    ///
    /// # Errors
    /// What the plugin, or `take`, failed with. What was handed on before stays so.
    pub fn apply(
        &mut self,
        partition: &Partition,
        rows: &Rows,
        mut take: impl FnMut(Range<usize>, Answer) -> Result<(), Untaken>,
    ) -> Result<()> {
        let mut next = 0;
        while let Some(piece) = self.piece(rows, next) {
            next = piece.end;
            let called = self.call(partition, rows, piece.clone());
            self.say();
            let taken = called.map(|answer| take(piece.clone(), answer));
            match taken {
                Ok(Ok(())) => {}
                Ok(Err(Untaken::Failed(error))) => return Err(error),
                // Why says which record it was, where one alone is to blame.
                Ok(Err(Untaken::Wrong(why))) => {
                    let failed = self.untaken(piece, why);
                    return Err(self.described(partition, rows, failed));
                }
                Err(failed) => return Err(self.blame(partition, rows, failed)),
            }
        }
        Ok(())
    }

    /// Says that an answer is not taken. An instance that is not pure remembers records that nobody has.
    fn untaken(&mut self, rows: Range<usize>, why: String) -> Failed {
        self.live = self.live.take().filter(|_| self.plan.pure);
        Failed { fault: Fault::Dead { why, end: End::Wrong }, rows, in_configure: false }
    }

    /// Transforms rows as [`apply`](Self::apply) does, and goes on where the plugin has failed for good: `refused` is told
    /// what it failed at, and why. Of a pure plugin that is single records, as far as can be found out in the time of two
    /// calls; of another one all the records of a call, because what it had seen of them is lost with it.
    ///
    /// # Errors
    /// A failure that the plugin calls retriable, or that no record is to blame for; and what `take` failed with.
    pub fn apply_past_failures(
        &mut self,
        partition: &Partition,
        rows: &Rows,
        mut take: impl FnMut(Range<usize>, Answer) -> Result<(), Untaken>,
        mut refused: impl FnMut(Range<usize>, Error),
    ) -> Result<()> {
        let mut next = 0;
        while let Some(piece) = self.piece(rows, next) {
            next = piece.end;
            // What is still to be sent, the first records last.
            let mut left = vec![piece];
            let began = Instant::now();
            while let Some(range) = left.pop() {
                let called = self.call(partition, rows, range.clone());
                self.say();
                let failed = match called.map(|answer| take(range.clone(), answer)) {
                    Ok(Ok(())) => continue,
                    Ok(Err(Untaken::Failed(error))) => return Err(error),
                    Ok(Err(Untaken::Wrong(why))) => self.untaken(range.clone(), why),
                    Err(failed) => failed,
                };
                let is_in_time = began.elapsed() < self.limits.deadline.saturating_mul(2);
                let parts = if self.plan.pure && is_in_time { failed.parts() } else { None };
                match parts {
                    _ if failed.must_be_told() => return Err(self.described(partition, rows, failed)),
                    Some(Parts::Halves(halves)) => left.extend(halves.into_iter().rev()),
                    Some(Parts::Around(one)) => {
                        left.extend(
                            [one.end..range.end, range.start..one.start].into_iter().filter(|part| !part.is_empty()),
                        );
                        refused(one, self.described(partition, rows, failed));
                    }
                    None => refused(range, self.described(partition, rows, failed)),
                }
            }
        }
        Ok(())
    }

    /// Returns the rows from `start` on that the next call takes, if any are left.
    fn piece(&self, rows: &Rows, start: usize) -> Option<Range<usize>> {
        (start < rows.len()).then(|| piece(rows, start, self.plan.needs, self.head_bytes))
    }

    /// Has a range of rows transformed. Whether the memory suffices should not hang on what an instance has done before: where
    /// a pure one that has grown has ended for want of it, a new one is asked.
    fn call(&mut self, partition: &Partition, rows: &Rows, range: Range<usize>) -> Result<Answer, Failed> {
        let may_be_worn = self.plan.pure && self.live.as_ref().is_some_and(|live| live.grown_bytes() > 0);
        match self.call_once(partition, rows, range.clone()) {
            Err(Failed { fault: Fault::Dead { end: End::Starved, .. }, .. }) if may_be_worn => {
                self.call_once(partition, rows, range)
            }
            told => told,
        }
    }

    fn call_once(&mut self, partition: &Partition, rows: &Rows, range: Range<usize>) -> Result<Answer, Failed> {
        let failed = |fault, in_configure| Failed { fault, rows: range.clone(), in_configure };
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.plugin.live(&self.settings, self.limits).map_err(|fault| failed(fault, true))?.0,
        };
        let needs = self.plan.needs;
        let values = columns::Values::of(rows, range.clone(), needs);
        let told = live.apply(&columns::columns(partition, rows, range.clone(), needs), values);
        self.log = live.take_log();
        self.head_bytes = live.head_bytes().unwrap_or(self.head_bytes);
        let told = told.and_then(|output| {
            columns::answer(rows, range.clone(), output, &self.plan)
                .map_err(|why| Fault::Dead { why: format!("its answer is wrong: {why}"), end: End::Wrong })
        });
        let is_dead = matches!(told, Err(Fault::Dead { .. }));
        self.live = Some(live).filter(|live| !is_dead && !self.is_overgrown(live.grown_bytes()));
        told.map_err(|fault| failed(fault, false))
    }

    /// Whether an instance that has grown so much is to be replaced. Only a pure one can be without being noticed.
    fn is_overgrown(&self, grown_bytes: usize) -> bool {
        self.plan.pure && grown_bytes > self.limits.memory_bytes / 2
    }

    /// Passes on what the last call has logged. What is logged while a record is searched for would say the same again.
    fn say(&mut self) {
        say(&self.plugin, std::mem::take(&mut self.log));
    }

    /// Says which record it was, as far as that can be found out.
    fn blame(&mut self, partition: &Partition, rows: &Rows, failed: Failed) -> Error {
        let failed = self.narrowed(partition, rows, failed);
        self.described(partition, rows, failed)
    }

    /// Says what failed, where, and why.
    fn described(&self, partition: &Partition, rows: &Rows, failed: Failed) -> Error {
        let Failed { fault, rows: range, in_configure } = failed;
        if in_configure {
            // It could be once: no record is to blame, and another time it may be again.
            let what = format!("{} cannot be configured again", self.plugin.named());
            let why = match fault {
                Fault::Told(failure) => failure.message,
                Fault::Dead { why, .. } => why,
            };
            return Error::transient(what).source(shown(&why));
        }
        let (why, record, retriable) = match fault {
            Fault::Told(failure) => (failure.message, failure.record, failure.retriable),
            Fault::Dead { why, .. } => (why, None, false),
        };
        let sent = &rows.rows()[range];
        let one = record.and_then(|at| sent.get(at as usize)).or(if let [one] = sent { Some(one) } else { None });
        let place = match (one, sent.first().zip(sent.last())) {
            (Some(row), _) => format!("{partition} offset {}", row.offset),
            (None, Some((first, last))) => {
                format!(
                    "{partition} offsets {}",
                    OffsetRange { first: first.offset, next: last.offset.saturating_add(1) }
                )
            }
            (None, None) => partition.to_string(),
        };
        let what = format!("{} failed at {place}", self.plugin.named());
        let error = if retriable { Error::transient(what) } else { Error::failed(what) };
        error.source(shown(&why))
    }

    /// Looks for the record that ended a pure plugin, for no longer than two calls may take: whoever waits for the answer
    /// has other partitions to serve.
    fn narrowed(&mut self, partition: &Partition, rows: &Rows, failed: Failed) -> Failed {
        if !self.plan.pure {
            return failed;
        }
        let (began, most, sent) = (Instant::now(), self.limits.deadline.saturating_mul(2), failed.rows.len());
        let whole = failed.fault.wrong().map(str::to_owned);
        let mut found =
            halved(failed, |half| if began.elapsed() < most { self.call(partition, rows, half).err() } else { None });
        // What is wrong with an answer to fewer records may be something else, and make less sense.
        if let (Fault::Dead { why, .. }, Some(whole)) = (&mut found.fault, whole)
            && *why != whole
        {
            *why = format!("{why}; to all {sent} records of the call: {whole}");
        }
        found
    }
}

/// Halves the records that a plugin died of for as long as one half fails by itself; `call` tells how a half fails.
fn halved(mut failed: Failed, mut call: impl FnMut(Range<usize>) -> Option<Failed>) -> Failed {
    while failed.can_be_narrowed() && failed.rows.len() > 1 {
        let middle = failed.rows.start + failed.rows.len() / 2;
        let halves = [failed.rows.start..middle, middle..failed.rows.end];
        match halves.into_iter().find_map(&mut call).filter(Failed::can_be_narrowed) {
            Some(found) => failed = found,
            None => break,
        }
    }
    failed
}

/// Returns the rows from `start` on that one call takes of a plugin that needs these columns and asks for so many bytes of
/// values on demand: what is not sent costs the call nothing, but is lost with it.
fn piece(rows: &Rows, start: usize, needs: wit::Columns, head_bytes: usize) -> Range<usize> {
    let (mut bytes, mut whole_bytes) = (0, 0);
    let mut fits = |row: &Row| {
        bytes += columns::sent_bytes(rows, row, needs, head_bytes);
        whole_bytes += rows.size_bytes(row);
        bytes <= CALL_BYTES && whole_bytes <= CALL_WHOLE_BYTES
    };
    let count = rows.rows()[start..].iter().take(CALL_RECORDS).take_while(|row| fits(row)).count();
    start..rows.len().min(start + count.max(1))
}

/// Passes on what a plugin has logged.
fn say(plugin: &Plugin, log: Vec<(Level, String)>) {
    for (level, line) in log {
        let Plugin { name: plugin, part_of, .. } = plugin;
        let stage = part_of.as_deref();
        match level {
            Level::Error => tracing::error!(plugin, stage, "{line}"),
            Level::Warn => tracing::warn!(plugin, stage, "{line}"),
            Level::Info => tracing::info!(plugin, stage, "{line}"),
            Level::Debug => tracing::debug!(plugin, stage, "{line}"),
        }
    }
}

#[cfg(test)]
mod shipped;
#[cfg(test)]
mod tests;
