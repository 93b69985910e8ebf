//! What the integration tests stand on: a real broker, workloads, an independent reader of topics and one of archives,
//! the agent as a process, and the promise that nothing of it outlives the tests.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) mod agent;
pub(crate) mod chain;
#[allow(dead_code, reason = "benches have nobody who reads")]
pub(crate) mod clients;
pub(crate) mod cluster;
pub(crate) mod connect;
pub(crate) mod cutting;
pub(crate) mod kafka;
pub(crate) mod lossy;
pub(crate) mod old_kafka;
pub(crate) mod reader;
pub(crate) mod reaper;
pub(crate) mod s3;
pub(crate) mod sample;
#[allow(dead_code, reason = "benches speak in the clear")]
pub(crate) mod secure;
pub(crate) mod workload;

/// Long enough for a step on a machine that is busy with other tests; a test that waits this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Returns cargo's target folder.
pub(crate) fn target() -> PathBuf {
    let tmp = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().expect("cargo's temporary folder is in the target folder").to_owned()
}

/// Waits until `condition` gives a value; panics with `what` after [`DEADLINE`].
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(DEADLINE, what, condition)
}

/// Waits until `condition` gives a value; panics with `what` after `deadline`.
#[track_caller]
pub(crate) fn wait_within<T>(deadline: Duration, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_paced(deadline, Duration::from_millis(20), what, condition)
}

/// As [`wait_within`], with at least `pace` between two looks: where looking costs what is waited for.
#[track_caller]
pub(crate) fn wait_paced<T>(
    deadline: Duration,
    pace: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < deadline, "waited {deadline:?} for this, in vain: {what}");
        std::thread::sleep(pace);
    }
}

/// Waits until no other test that needs most of the machine runs, and keeps them waiting: what a user is promised in
/// seconds is not to be measured while a hundred agents start beside it.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a future of a client library to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        // The tests' HTTP client has the features of the agent's, which brings no cryptography of its own.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("a runtime starts")
    });
    RUNTIME.block_on(future)
}
