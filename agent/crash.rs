//! Crash points: the places between two durable effects, where a test may kill the process.
//!
//! Only builds with debug assertions have them; in a release build [`point`] is empty. `KAFKA_BACKUP_CRASH_AT=name:n`
//! kills the process (SIGKILL) at the `n`th passing of a point (the first, when `:n` is left out);
//! `KAFKA_BACKUP_CRASH_TRACE=file` appends a line `name partition` at each passing, so that a test that killed from
//! outside can tell between which two effects the process was.

/// Passes a crash point; `subject` says what it was about (a partition, an object).
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &'static str, _subject: &dyn std::fmt::Display) {}

/// Passes a crash point; `subject` says what it was about (a partition, an object).
#[cfg(debug_assertions)]
pub fn point(name: &'static str, subject: &dyn std::fmt::Display) {
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{LazyLock, Mutex};

    static PASSED: AtomicU32 = AtomicU32::new(0);
    static AT: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let at = std::env::var("KAFKA_BACKUP_CRASH_AT").ok()?;
        let (name, n) = at.split_once(':').unwrap_or((&at, "1"));
        Some((name.to_owned(), n.parse().unwrap_or(1)))
    });
    static TRACE: LazyLock<Option<Mutex<std::fs::File>>> = LazyLock::new(|| {
        let path = std::env::var_os("KAFKA_BACKUP_CRASH_TRACE")?;
        std::fs::OpenOptions::new().create(true).append(true).open(path).ok().map(Mutex::new)
    });

    if let Some(trace) = TRACE.as_ref() {
        let mut file = trace.lock().expect("nobody panics while holding the trace");
        let _ = file.write_all(format!("{name} {subject}\n").as_bytes());
    }
    if AT.as_ref().is_some_and(|(at, n)| at == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *n) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}
