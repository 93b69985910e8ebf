//! Where a plugin's code runs: compiled, checked for what it wants, shut into its memory and its time.
//!
//! Nothing else names wasmtime. A plugin may log, and ask for values of the records of its call; it has no file,
//! network, clock or random.
//! One engine in the process, one store for each instance. After a trap an instance is dead, and whoever holds it makes
//! a new one. What comes back from a call are plain values of the right types, no more: `columns` checks what they say.
//!
//! [`loading`] makes of a file what can be compiled, [`cache`] keeps what was.

mod cache;
mod loading;

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Engine, EngineWeak, ResourceLimiter, Store, Trap};

use self::bindings::PluginPre;
use self::bindings::kafka_backup::transform::host as import;
use super::columns::Values;
use super::wit::{Batch, Column, Failure, Output, Plan};
use super::{About, Limits, shown};

use crate::error::{Error, Result};

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod bindings {
    wasmtime::component::bindgen!({ path: "wit", world: "plugin", imports: { default: trappable } });
}

/// The values of the interface, as `wit/transform.wit` documents them.
pub mod wit {
    pub use super::bindings::kafka_backup::transform::types::{
        Batch, Column, Columns, Failure, HeaderColumn, HeaderEdit, Output, Patch, Plan, Removal, Route, TimestampType,
        Touches, Window,
    };
}

/// Reads the file of a plugin.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) for one that cannot be read, or is too large.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    loading::read(path)
}

/// How often deadlines are looked at. A tenth would wake an idle process a thousand times a second, ten times as much
/// would let a deadline of a second be late by a tenth.
const TICK: Duration = Duration::from_millis(10);

/// The most that an instance may consist of: a component that an encoder makes has one memory, one or two tables and a
/// handful of modules. What each costs besides its contents is not charged to the plugin's memory.
const MOST_MEMORIES: usize = 8;
const MOST_TABLES: usize = 64;
const MOST_INSTANCES: usize = 64;

/// What an element of a table takes: a reference to a function is one word, others take two.
const TABLE_ELEMENT_BYTES: usize = 16;

/// What a call may copy out of a plugin's memory, on top of that memory: an answer may name the same bytes many times.
const MOST_ANSWER_BYTES: usize = 256 << 20;

/// The lines that a plugin may log in one call; more are left out, and that is said.
const MOST_LINES: usize = 100;

/// A plugin that is compiled and fits.
pub(super) struct Loaded {
    pre: PluginPre<State>,
    pub(super) about: About,
}

impl Loaded {
    /// Checks and compiles the plugin whose file has these bytes; `called` names it in errors.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a file that is none, or not for this agent.
    pub(super) fn of(called: &str, bytes: &[u8]) -> Result<Self> {
        // Names in a file are its author's text too.
        let wrong = |what: String| Error::usage(format!("plugin {called}: {}", shown(&what)));
        let (engine, linker) = engine()?;
        let began = Instant::now();
        let is_module = loading::is_module(bytes).map_err(wrong)?;
        let component = if is_module { Some(loading::component_of(engine, bytes).map_err(wrong)?) } else { None };
        let component = component.as_deref().unwrap_or(bytes);
        loading::check_depth(component).map_err(wrong)?;
        let component = cache::component(engine, component);
        let component = component.map_err(|error| wrong(loading::damaged(&format!("{error:#}"))))?;
        let compile = began.elapsed();
        let (imports, interface) = loading::check(engine, &component).map_err(wrong)?;
        let pre = linker.instantiate_pre(&component).and_then(PluginPre::new);
        let pre = pre.map_err(|error| {
            wrong(format!("is built against another form of interface {} than this agent has: build it with the SDK of this agent's version", loading::VERSION))
                .source(one_line(&error))
        })?;
        let about = About {
            bytes: bytes.len() as u64,
            is_module,
            interface,
            imports,
            compile,
            digest: xxhash_rust::xxh3::xxh3_128(bytes),
        };
        Ok(Self { pre, about })
    }

    /// Makes an instance that is not configured yet.
    pub(super) fn start(&self, limits: Limits) -> Result<Live, Fault> {
        let memory = Memory { limit_bytes: limits.memory_bytes, ..Memory::default() };
        let state = State { memory, ..State::default() };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(limits.memory_bytes.saturating_add(MOST_ANSWER_BYTES));
        store.set_epoch_deadline(ticks(limits.deadline));
        match self.pre.instantiate(&mut store) {
            Ok(plugin) => Ok(Live { store, plugin, limits, configured_bytes: 0 }),
            Err(error) => Err(fault(&error, store.data(), limits, "it cannot be started")),
        }
    }
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// The plugin says so, and lives.
    Told(Failure),
    /// It is dead, or as good as.
    Dead { why: String, end: End },
}

impl Fault {
    /// Returns what is wrong with what the plugin says, where that is the fault.
    pub(super) fn wrong(&self) -> Option<&str> {
        match self {
            Self::Dead { why, end: End::Wrong } => Some(why),
            _ => None,
        }
    }
}

/// How a plugin came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its time was up.
    Late,
    /// It was refused memory.
    Starved,
    /// What it says cannot be taken.
    Wrong,
    /// It trapped, or could not be run.
    Trapped,
}

/// A running plugin.
pub(super) struct Live {
    store: Store<State>,
    plugin: bindings::Plugin,
    limits: Limits,
    /// What its memory took once it was configured.
    configured_bytes: usize,
}

impl Live {
    /// Tells the plugin its settings; returns what it needs.
    pub(super) fn configure(&mut self, settings: &[(String, String)]) -> Result<Plan, Fault> {
        self.begin();
        let told = self.plugin.kafka_backup_transform_transform().call_configure(&mut self.store, settings);
        self.configured_bytes = self.store.data().memory.bytes;
        self.end(told)
    }

    /// Has the plugin transform a batch, whose values it may ask for meanwhile, if there are any.
    pub(super) fn apply(&mut self, batch: &Batch, values: Option<Values>) -> Result<Output, Fault> {
        self.begin();
        self.store.data_mut().values = values;
        let told = self.plugin.kafka_backup_transform_transform().call_apply(&mut self.store, batch);
        self.store.data_mut().values = None;
        self.end(told)
    }

    /// Returns how many bytes of each value the last call has asked for, if it has asked for the beginnings of all.
    pub(super) fn head_bytes(&self) -> Option<usize> {
        self.store.data().head_bytes
    }

    /// Returns by how much the plugin's memory has grown since it was configured.
    pub(super) fn grown_bytes(&self) -> usize {
        self.store.data().memory.bytes.saturating_sub(self.configured_bytes)
    }

    /// Takes what the plugin has logged since the last time.
    pub(super) fn take_log(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.store.data_mut().log.lines)
    }

    fn begin(&mut self) {
        self.store.set_epoch_deadline(ticks(self.limits.deadline));
        let state = self.store.data_mut();
        state.memory.denied = None;
        state.log = Log::default();
        state.misasked = None;
        state.head_bytes = None;
    }

    fn end<T>(&self, told: wasmtime::Result<Result<T, Failure>>) -> Result<T, Fault> {
        match told {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(Fault::Told(failure)),
            Err(error) => Err(fault(&error, self.store.data(), self.limits, "its answer cannot be read")),
        }
    }
}

/// How grave a line of a plugin is.
pub(super) use import::Level;

/// What belongs to one instance.
#[derive(Default)]
struct State {
    memory: Memory,
    log: Log,
    /// What it may ask for while a call lasts.
    values: Option<Values>,
    /// What it asked for in this call, and must not: the end of it.
    misasked: Option<String>,
    /// How many bytes of each value it asked for in this call, when it asked for the beginnings of all.
    head_bytes: Option<usize>,
}

impl State {
    /// Answers what a plugin asks of the values of its call.
    fn ask<T>(&mut self, asked: impl FnOnce(&Values) -> Result<T, String>) -> wasmtime::Result<T> {
        let answered = match &self.values {
            Some(values) => asked(values),
            None => {
                Err("it asked for values, which only a plugin may that needs `values-on-demand`, in `apply`".into())
            }
        };
        answered.map_err(|why| {
            let error = wasmtime::Error::msg(why.clone());
            self.misasked = Some(why);
            error
        })
    }
}

/// What a call has logged.
#[derive(Default)]
struct Log {
    lines: Vec<(Level, String)>,
    /// The last line of level `error`: what a panic said.
    last_error: Option<String>,
}

impl import::Host for State {
    fn log(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        let line = shown(message.trim_end());
        if matches!(level, Level::Error) {
            self.log.last_error = Some(line.clone());
        }
        match self.log.lines.len() {
            ..MOST_LINES => self.log.lines.push((level, line)),
            MOST_LINES => self.log.lines.push((Level::Warn, "it logs more than is kept of one call".to_owned())),
            _ => {}
        }
        Ok(())
    }

    fn value_heads(&mut self, most_bytes: u32) -> wasmtime::Result<Column> {
        self.head_bytes = Some(most_bytes as usize).max(self.head_bytes);
        self.ask(|values| Ok(values.heads(most_bytes)))
    }

    fn value(&mut self, record: u32) -> wasmtime::Result<Option<Vec<u8>>> {
        self.ask(|values| values.value(record))
    }
}

impl bindings::kafka_backup::transform::types::Host for State {}

/// The bound on a plugin's memory, which remembers what it refused: all that wasmtime reports then is a panic.
#[derive(Default)]
struct Memory {
    limit_bytes: usize,
    /// What all memories and tables of the instance take together.
    bytes: usize,
    denied: Option<usize>,
}

impl Memory {
    fn grow(&mut self, bytes: usize) -> bool {
        let all = self.bytes.saturating_add(bytes);
        if all > self.limit_bytes {
            self.denied = Some(all);
            return false;
        }
        self.bytes = all;
        true
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT_BYTES)))
    }

    fn instances(&self) -> usize {
        MOST_INSTANCES
    }

    fn tables(&self) -> usize {
        MOST_TABLES
    }

    fn memories(&self) -> usize {
        MOST_MEMORIES
    }
}

/// Returns the engine of this process, which is made at the first call, and what plugins are linked to.
fn engine() -> Result<(&'static Engine, &'static Linker<State>)> {
    static ENGINE: OnceLock<Result<(Engine, Linker<State>), String>> = OnceLock::new();
    let made = ENGINE.get_or_init(|| make_engine().map_err(|error| one_line(&error)));
    match made {
        Ok((engine, linker)) => Ok((engine, linker)),
        Err(why) => Err(Error::failed("plugins cannot be run on this machine").source(why.as_str())),
    }
}

fn make_engine() -> wasmtime::Result<(Engine, Linker<State>)> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    let engine = Engine::new(&config)?;
    let mut linker = Linker::new(&engine);
    bindings::Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut State| state)?;
    let clock = engine.weak();
    std::thread::Builder::new().name("plugin-deadlines".to_owned()).spawn(move || tick(&clock))?;
    Ok((engine, linker))
}

/// Moves the clock of all deadlines for as long as there is an engine.
fn tick(engine: &EngineWeak) {
    while let Some(engine) = engine.upgrade() {
        engine.increment_epoch();
        drop(engine);
        std::thread::sleep(TICK);
    }
}

fn ticks(time: Duration) -> u64 {
    // The first one may come at once.
    u64::try_from(time.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX >> 1) + 1
}

/// Says why a call did not come back; `untrapped` is what could not be done where no trap ended it.
fn fault(error: &wasmtime::Error, state: &State, limits: Limits, untrapped: &str) -> Fault {
    let trap = error.downcast_ref::<Trap>().copied();
    let why = why(trap, state, limits).unwrap_or_else(|| format!("{untrapped}: {}", one_line(error)));
    let end = match trap {
        Some(Trap::Interrupt) => End::Late,
        None if state.misasked.is_some() => End::Wrong,
        _ if denied(trap, &state.memory).is_some() => End::Starved,
        _ => End::Trapped,
    };
    Fault::Dead { why, end }
}

/// Returns how much memory a plugin wanted in vain, where that may have ended it. A plugin may live on without the memory
/// that it was refused: what ends it later has its own reason.
fn denied(trap: Option<Trap>, memory: &Memory) -> Option<usize> {
    memory.denied.filter(|_| matches!(trap, None | Some(Trap::UnreachableCodeReached)))
}

/// Says how much memory is wanted and what the limit is, in the unit in which the limit was most likely written.
fn too_little(wanted: usize, limit: usize) -> String {
    let units = [(1 << 20, "MiB"), (1 << 10, "KiB")];
    let (unit, name) =
        units.into_iter().find(|(unit, _)| limit >= *unit && limit.is_multiple_of(*unit)).unwrap_or((1, "bytes"));
    let (wanted, limit) = (wanted.div_ceil(unit), limit / unit);
    format!("needs more memory than it may have: {wanted} {name}, the limit is {limit} {name}")
}

/// Says why a call ended by `trap`, or for want of memory.
fn why(trap: Option<Trap>, State { memory, log, misasked, .. }: &State, limits: Limits) -> Option<String> {
    let last = log.last_error.as_deref();
    // It has lived on without memory that it was refused, and this is what ended it.
    if let (None, Some(misasked)) = (trap, misasked) {
        return Some(misasked.clone());
    }
    if let Some(wanted) = denied(trap, memory) {
        return Some(too_little(wanted, limits.memory_bytes));
    }
    let trap = trap?;
    let what = match trap {
        Trap::UnreachableCodeReached => {
            return Some(match last {
                Some(last) if last.starts_with("panicked") => last.to_owned(),
                Some(last) => format!("panicked: {last}"),
                None => "panicked, and did not say why".to_owned(),
            });
        }
        Trap::Interrupt => format!("took longer than {} s", limits.deadline.as_secs_f64()),
        Trap::StackOverflow => "its call stack is exhausted: it calls itself too deeply".to_owned(),
        // The stack of a compiled language lies at the beginning of its memory, and so ends there.
        Trap::MemoryOutOfBounds => {
            "it touched memory that is not its own, as a plugin does that calls itself too deeply".to_owned()
        }
        trap => trap.to_string(),
    };
    Some(match last {
        Some(last) => format!("{what}; it said: {last}"),
        None => what,
    })
}

/// Returns an error and what is below it on one line, without the frames of the plugin's stack.
fn one_line(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    shown(&causes.join(": ").split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(limit_bytes: usize) -> State {
        State { memory: Memory { limit_bytes, ..Memory::default() }, ..State::default() }
    }

    #[test]
    fn tables_and_memories_share_one_bound() {
        let mut memory = state(1 << 20).memory;
        let mut grows = |from, to| memory.table_growing(from, to, None).expect("no trap");
        assert!(grows(0, 30_000));
        assert!(grows(0, 30_000), "the second table");
        assert!(!grows(30_000, 36_000), "96 KB are left beside 960");
        assert!(memory.memory_growing(0, 64 << 10, None).expect("no trap"));
        assert!(!memory.memory_growing(64 << 10, 128 << 10, None).expect("no trap"));
        assert_eq!(memory.bytes, 60_000 * TABLE_ELEMENT_BYTES + (64 << 10));
        assert!(!memory.table_growing(0, usize::MAX, None).expect("no trap"));
        assert!(memory.instances() <= 64 && memory.tables() <= 64 && memory.memories() <= 8);
    }

    #[test]
    fn the_last_error_that_was_logged_is_in_the_message_of_every_trap() {
        let mut state = state(0);
        import::Host::log(&mut state, Level::Error, "the table is full\n".to_owned()).expect("it is kept");
        for trap in [Trap::UnreachableCodeReached, Trap::IntegerDivisionByZero, Trap::StackOverflow, Trap::Interrupt] {
            let said = why(Some(trap), &state, Limits::default()).expect("a trap has a reason");
            assert!(said.ends_with(": the table is full"), "{said}");
        }
        assert_eq!(why(None, &state, Limits::default()), None, "no trap: the error itself says what it is");
    }

    #[test]
    fn memory_that_was_refused_is_blamed_only_where_it_can_be_the_reason() {
        let mut state = state(0);
        state.memory.denied = Some(80 << 20);
        let said = |trap| why(trap, &state, Limits::default()).expect("a reason");
        let memory = "needs more memory than it may have: 80 MiB, the limit is 64 MiB";
        assert_eq!([said(None), said(Some(Trap::UnreachableCodeReached))], [memory; 2]);
        assert_eq!(said(Some(Trap::Interrupt)), "took longer than 10 s");
        assert!(said(Some(Trap::IntegerDivisionByZero)).contains("divide by zero"));
    }

    #[test]
    fn a_limit_of_memory_is_told_as_it_was_written() {
        let said = |limit| too_little((1 << 20) + 1, limit).replace("needs more memory than it may have: ", "");
        assert_eq!(said(1 << 20), "2 MiB, the limit is 1 MiB");
        assert_eq!(said(1 << 10), "1025 KiB, the limit is 1 KiB");
        assert_eq!(said(1_000_000), "1048577 bytes, the limit is 1000000 bytes");
        assert_eq!(said(0), "1048577 bytes, the limit is 0 bytes");
    }
}
