//! The agent's log, which is all that a plugin can reach.
//!
//! Natively (in tests) lines are kept per thread; [`testing::logged`](crate::testing::logged) takes them.

pub use crate::bindings::kafka_backup::transform::host::Level;

/// Logs what only matters when something is being looked for.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref());
}

/// Logs what an operator may want to know. Not per record: the agent leaves out some of very many lines.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

/// Logs what an operator should look at.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}

/// Logs an error. To fail, return an [`Error`](crate::Error) instead.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref());
}

#[cfg(target_arch = "wasm32")]
pub(crate) fn write(level: Level, message: &str) {
    crate::bindings::kafka_backup::transform::host::log(level, message);
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn write(level: Level, message: &str) {
    LINES.with_borrow_mut(|lines| lines.push((level, message.to_owned())));
}

#[cfg(not(target_arch = "wasm32"))]
thread_local! {
    pub(crate) static LINES: std::cell::RefCell<Vec<(Level, String)>> = const { std::cell::RefCell::new(Vec::new()) };
}
