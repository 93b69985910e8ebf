//! Where a plugin's code runs: compiled, checked for what it wants, shut into its memory and its time.
//!
//! The one file that names wasmtime. A plugin may call one function, `log`; it has no file, network, clock or random.
//! One engine in the process, one store for each instance. After a trap an instance is dead, and whoever holds it makes
//! a new one. What comes back from a call are plain values of the right types, no more: `columns` checks what they say.
//!
//! Compiled forms are kept in the user's cache folder, so that the second start of an agent does not compile. Whoever can
//! write there can make this process run what he wants: the folder must be ours, and closed to others; else there is none.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Cache, CacheConfig, Config, Engine, EngineWeak, Module, ResourceLimiter, Store, Trap};

use self::bindings::PluginPre;
use self::bindings::kafka_backup::transform::host as import;
use super::wit::{Batch, Failure, Output, Plan};
use super::{About, Limits};
use crate::error::{Error, Result};

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod bindings {
    wasmtime::component::bindgen!({ path: "wit", world: "plugin" });
}

/// The values of the interface, as `wit/transform.wit` documents them.
pub mod wit {
    pub use super::bindings::kafka_backup::transform::types::{
        Batch, Column, Columns, Failure, HeaderColumn, HeaderEdit, Output, Patch, Plan, Removal, Route, TimestampType,
        Touches, Window,
    };
}

/// The package of the interface, and the version that this agent speaks: plugins of the same 0.x fit.
const PACKAGE: &str = "kafka-backup:transform";
const VERSION: &str = "0.1";

/// How often deadlines are looked at. A tenth would wake an idle process a thousand times a second, ten times as much
/// would let a deadline of a second be late by a tenth.
const TICK: Duration = Duration::from_millis(10);

/// Plugins are tens of kilobytes, those with an interpreter in them tens of megabytes.
const MOST_FILE_BYTES: u64 = 256 << 20;

/// The most elements of tables; a large interpreter has some ten thousand functions.
const MOST_TABLE_ELEMENTS: usize = 1 << 20;

/// What a call may copy out of a plugin's memory, on top of that memory: an answer may name the same bytes many times.
const MOST_ANSWER_BYTES: usize = 256 << 20;

/// Lines and bytes that a plugin may log in one call; more is cut off, and that is said.
const MOST_LINES: usize = 100;
const MOST_LINE_BYTES: usize = 8 << 10;

/// A plugin that is compiled and fits.
pub(super) struct Loaded {
    pre: PluginPre<State>,
    pub(super) about: About,
}

impl Loaded {
    /// Reads, checks and compiles the plugin at `path`.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a file that is none, or not for this agent.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let wrong = |what: String| Error::usage(format!("plugin {}: {what}", path.display()));
        let (engine, linker) = engine()?;
        let bytes = read_file(path)?;
        let began = Instant::now();
        let is_module = is_module(&bytes).map_err(wrong)?;
        let component = if is_module { Some(component_of(engine, &bytes).map_err(wrong)?) } else { None };
        let component = Component::new(engine, component.as_deref().unwrap_or(&bytes));
        let component = component.map_err(|error| wrong(damaged(&format!("{error:#}"))))?;
        let compile = began.elapsed();
        let imports = check(engine, &component).map_err(wrong)?;
        let pre = linker.instantiate_pre(&component).and_then(PluginPre::new);
        let pre = pre.map_err(|error| {
            wrong(format!("is built against another form of interface {VERSION}: build it again"))
                .source(one_line(&error))
        })?;
        let about = About { bytes: bytes.len() as u64, is_module, interface: VERSION, imports, compile };
        Ok(Self { pre, about })
    }

    /// Makes an instance that is not configured yet.
    pub(super) fn start(&self, limits: Limits) -> Result<Live, Fault> {
        let state =
            State { memory: Memory { limit_bytes: limits.memory_bytes, ..Memory::default() }, log: Log::default() };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(limits.memory_bytes.saturating_add(MOST_ANSWER_BYTES));
        store.set_epoch_deadline(ticks(limits.deadline));
        match self.pre.instantiate(&mut store) {
            Ok(plugin) => Ok(Live { store, plugin, limits }),
            Err(error) => Err(fault(&error, &store, limits)),
        }
    }
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// The plugin says so, and lives.
    Told(Failure),
    /// It is dead. `is_late` where it was ended because its time was up.
    Dead { why: String, is_late: bool },
}

/// A running plugin.
pub(super) struct Live {
    store: Store<State>,
    plugin: bindings::Plugin,
    limits: Limits,
}

impl Live {
    /// Tells the plugin its settings; returns what it needs.
    pub(super) fn configure(&mut self, settings: &[(String, String)]) -> Result<Plan, Fault> {
        self.begin();
        let told = self.plugin.kafka_backup_transform_transform().call_configure(&mut self.store, settings);
        self.end(told)
    }

    /// Has the plugin transform a batch.
    pub(super) fn apply(&mut self, batch: &Batch) -> Result<Output, Fault> {
        self.begin();
        let told = self.plugin.kafka_backup_transform_transform().call_apply(&mut self.store, batch);
        self.end(told)
    }

    /// Returns what the plugin's memory takes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().memory.bytes
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
    }

    fn end<T>(&self, told: wasmtime::Result<Result<T, Failure>>) -> Result<T, Fault> {
        match told {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(Fault::Told(failure)),
            Err(error) => Err(fault(&error, &self.store, self.limits)),
        }
    }
}

/// How grave a line of a plugin is.
pub(super) use import::Level;

/// What belongs to one instance.
struct State {
    memory: Memory,
    log: Log,
}

/// What a call has logged.
#[derive(Default)]
struct Log {
    lines: Vec<(Level, String)>,
    /// The last line of level `error`: what a panic said.
    last_error: Option<String>,
}

impl import::Host for State {
    fn log(&mut self, level: Level, message: String) {
        let mut end = message.len().min(MOST_LINE_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        // A plugin's text reaches terminals: it must not move cursors there.
        let line = |c: char| if c.is_control() { ' ' } else { c };
        let line: String = message[..end].trim_end().chars().map(line).collect();
        if matches!(level, Level::Error) {
            self.log.last_error = Some(line.clone());
        }
        match self.log.lines.len() {
            ..MOST_LINES => self.log.lines.push((level, line)),
            MOST_LINES => self.log.lines.push((Level::Warn, "it logs more than is kept of one call".to_owned())),
            _ => {}
        }
    }
}

impl bindings::kafka_backup::transform::types::Host for State {}

/// The bound on a plugin's memory, which remembers what it refused: all that wasmtime reports then is a panic.
#[derive(Default)]
struct Memory {
    limit_bytes: usize,
    bytes: usize,
    denied: Option<usize>,
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let all = self.bytes.saturating_add(desired.saturating_sub(current));
        if all > self.limit_bytes {
            self.denied = Some(all);
            return Ok(false);
        }
        self.bytes = all;
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MOST_TABLE_ELEMENTS)
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
    config.epoch_interruption(true).cache(cache());
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

/// Opens the cache of compiled forms, where it is safe.
fn cache() -> Option<Cache> {
    let folder = cache_folder()?;
    let opened = closed_folder(&folder).and_then(|()| {
        let mut config = CacheConfig::new();
        config.with_directory(&folder);
        Cache::new(config).map_err(|error| one_line(&error))
    });
    match opened {
        Ok(cache) => Some(cache),
        Err(why) => {
            tracing::debug!("compiled plugins are not kept in {}: {why}", folder.display());
            None
        }
    }
}

fn cache_folder() -> Option<PathBuf> {
    let given = |name| std::env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = given("XDG_CACHE_HOME").or_else(|| given("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("kafka-backup").join("plugins"))
}

/// Makes the folder, if need be, and makes sure that nobody else can write there.
fn closed_folder(folder: &Path) -> Result<(), String> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| error.to_string())?;
    let metadata = fs::symlink_metadata(folder).map_err(|error| error.to_string())?;
    let is_ours = metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw();
    let is_closed = metadata.mode() & 0o022 == 0;
    if is_ours && is_closed { Ok(()) } else { Err("others can write there".to_owned()) }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let named = || path.display().to_string();
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::usage(format!("there is no plugin {}", named())),
        _ => Error::usage(format!("cannot read plugin {}", named())).source(error),
    })?;
    if !metadata.is_file() {
        return Err(Error::usage(format!("plugin {} is no file", named())));
    }
    if metadata.len() > MOST_FILE_BYTES {
        let what = format!("plugin {} has {} bytes, the most is {MOST_FILE_BYTES}", named(), metadata.len());
        return Err(Error::usage(what));
    }
    fs::read(path).map_err(|error| Error::usage(format!("cannot read plugin {}", named())).source(error))
}

/// Tells a core module (`true`) from a component by the version in its first eight bytes.
fn is_module(bytes: &[u8]) -> Result<bool, String> {
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Ok(true),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(false),
        [0, b'a', b's', b'm', _, _, _, _, ..] => Err("is WebAssembly of a version that is not known here".to_owned()),
        [0, b'a', b's', b'm', ..] => Err(damaged("it ends after its first bytes")),
        [] => Err("the file is empty".to_owned()),
        _ => Err("is no WebAssembly: it does not begin with `\\0asm`".to_owned()),
    }
}

/// Makes a component of a core module.
fn component_of(engine: &Engine, module: &[u8]) -> Result<Vec<u8>, String> {
    // The encoder takes for granted that the module is sound, and panics where it is not.
    Module::validate(engine, module).map_err(|error| damaged(&format!("{error:#}")))?;
    let encoder = wit_component::ComponentEncoder::default().validate(true).module(module);
    encoder.and_then(|mut encoder| encoder.encode()).map_err(|error| {
        let error = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
        if error.contains("wasi_snapshot_preview1") {
            return wanting("wasi_snapshot_preview1");
        }
        if let Some(version) = version_in(&error) {
            return other_version(version);
        }
        format!("is a core module that cannot be made a plugin, is it built with the SDK? {error}")
    })
}

/// Checks what a component wants and gives; returns the names of its imports.
fn check(engine: &Engine, component: &Component) -> Result<Vec<String>, String> {
    let described = component.component_type();
    let imports: Vec<String> = described.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let exports: Vec<String> = described.exports(engine).map(|(name, _)| name.to_owned()).collect();
    for name in imports.iter().chain(&exports) {
        if let Some(version) = version_in(name).filter(|version| *version != VERSION) {
            return Err(other_version(version));
        }
    }
    if let Some(foreign) = imports.iter().find(|name| version_in(name).is_none()) {
        return Err(wanting(foreign));
    }
    if !exports.iter().any(|name| name.starts_with(&format!("{PACKAGE}/transform@"))) {
        return Err(format!("is no plugin: it does not export `{PACKAGE}/transform`"));
    }
    Ok(imports)
}

/// Returns the `major.minor` of our interface that a text names.
fn version_in(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(PACKAGE)?;
    let (_, version) = rest.split_once('@')?;
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    let version = &version[..end];
    let minor = version.match_indices('.').nth(1).map_or(version.len(), |(at, _)| at);
    Some(&version[..minor])
}

fn other_version(version: &str) -> String {
    format!("needs interface {version}, this agent speaks {VERSION}: build it with the SDK of this version")
}

fn wanting(import: &str) -> String {
    let how = if import.starts_with("wasi") {
        "build it for wasm32-unknown-unknown, or with its tool's switch that leaves WASI out"
    } else {
        "a plugin gets `log` and nothing else"
    };
    format!("imports `{import}`, which no plugin gets; {how}")
}

fn damaged(why: &str) -> String {
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    if is_cut(&why) { format!("the file is damaged, or cut off: {why}") } else { format!("the file is damaged: {why}") }
}

fn is_cut(error: &str) -> bool {
    error.contains("out of bounds") || error.contains("unexpected end") || error.contains("ends after")
}

/// Says why a call did not come back.
fn fault(error: &wasmtime::Error, store: &Store<State>, limits: Limits) -> Fault {
    let State { memory, log } = store.data();
    let trap = error.downcast_ref::<Trap>();
    let is_late = trap == Some(&Trap::Interrupt);
    let why = match trap {
        _ if memory.denied.is_some() => {
            let wanted = memory.denied.unwrap_or_default().div_ceil(1 << 20);
            format!("needs more memory than it may have: {wanted} MiB, the limit is {} MiB", limits.memory_bytes >> 20)
        }
        Some(Trap::Interrupt) => format!("took longer than {} s", limits.deadline.as_secs_f64()),
        Some(Trap::StackOverflow) => "its call stack is exhausted: it calls itself too deeply".to_owned(),
        Some(Trap::UnreachableCodeReached) => match &log.last_error {
            Some(last) if last.starts_with("panicked") => last.clone(),
            Some(last) => format!("panicked: {last}"),
            None => "panicked, and did not say why".to_owned(),
        },
        Some(trap) => trap.to_string(),
        None => format!("its answer cannot be read: {}", one_line(error)),
    };
    Fault::Dead { why, is_late }
}

/// Returns an error and what is below it on one line, without the frames of the plugin's stack.
fn one_line(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.join(": ").split_whitespace().collect::<Vec<_>>().join(" ")
}
