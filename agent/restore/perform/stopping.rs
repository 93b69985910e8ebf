//! How a restore ends before it is done: it was told to, cancelled, or fenced off. What is sent until then is
//! [`perform`](super)'s.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Planned;
use crate::error::{Error, Kind, Result};
use crate::restore::state::{Attempt, Name, Seen};

/// How often it is looked whether somebody wants the restore to end.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long a process that was fenced off waits to hear by whom: that one has to look at the targets first.
const YOUNGER_WITHIN: Duration = Duration::from_secs(15);

/// Why a restore was stopped.
pub(super) enum Why {
    /// The process was told to.
    Told,
    /// Somebody has cancelled it.
    Cancelled,
}

impl Why {
    /// Makes the error of a restore that was stopped, and closed with that outcome.
    pub(super) fn source_of(self, closed: Result<()>) -> Error {
        let error = match self {
            Self::Told => Error::new(Kind::Interrupted, "interrupted: the restore is not finished")
                .hint("start it again to go on"),
            Self::Cancelled => Error::new(Kind::Interrupted, "the restore was cancelled"),
        };
        match closed {
            Ok(()) => error,
            Err(why) => error.source(why),
        }
    }
}

impl Planned<'_> {
    /// Waits for the cluster, unless the restore is to end meanwhile: the fence waits for as long as replicas are missing.
    pub(super) async fn unless_stopped<T>(
        &self,
        stop: &watch::Receiver<bool>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            done = work => done,
            why = self.until_stopped(stop.clone()) => {
                Err(why.source_of(Ok(())).with("restore", self.state.restore_id()))
            }
        }
    }

    /// Waits until the process is told to stop, or somebody has cancelled the restore.
    pub(super) async fn until_stopped(&self, mut stop: watch::Receiver<bool>) -> Why {
        let cancelled = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                match self.state.is_cancelled().await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => tracing::warn!("cannot look whether the restore is cancelled: {error}"),
                }
            }
        };
        tokio::select! {
            Ok(_) = stop.wait_for(|stop| *stop) => Why::Told,
            () = cancelled => Why::Cancelled,
        }
    }

    /// Makes the error of a restore that ends before all has landed.
    pub(super) async fn unfinished(&self, error: Error, attempt: &Attempt) -> Error {
        let id = self.state.restore_id();
        match error.kind() {
            Kind::Interrupted => error.with("restore", id),
            Kind::Fenced => self.fenced(error, Some(&attempt.number)).await,
            kind => Error::new(kind, format!("restore `{id}` is not finished"))
                .source(error)
                .hint("what was acknowledged stays in the target; started again, the restore goes on behind it"),
        }
    }

    /// Makes the error of a process that was fenced off by one whose attempt comes behind `last`.
    pub(super) async fn fenced(&self, error: Error, last: Option<&u32>) -> Error {
        match self.younger(last).await {
            Some(younger) => self.state.fenced_by(&younger).source(error),
            None => error.with("restore", self.state.restore_id()).hint(
                "no other process has kept that it goes on: where the restore was stopped for minutes, or waited as long \
                 for brokers or its store, its place has expired; start it again",
            ),
        }
    }

    /// Waits for the attempt of the process that has fenced this one off; `None` where it does not tell of itself.
    async fn younger(&self, last: Option<&u32>) -> Option<Attempt> {
        let deadline = Instant::now() + YOUNGER_WITHIN;
        loop {
            let seen = self.state.look().await.ok();
            if seen.as_ref().is_some_and(|seen| seen.cancelled.is_some()) {
                return None;
            }
            match seen.and_then(|seen| seen.attempt).filter(|newest| Some(&newest.number) > last) {
                None if Instant::now() < deadline => tokio::time::sleep(YOUNGER_WITHIN / 30).await,
                younger => return younger,
            }
        }
    }
}

/// Refuses a restore that shall end.
///
/// # Errors
/// [`Kind::Usage`].
pub fn check_cancelled(id: &str, seen: &Seen) -> Result<()> {
    match seen.names.contains(&Name::Cancelled) {
        true => Err(Error::usage(format!("restore `{id}` was cancelled")).hint("give this one another restore_id")),
        false => Ok(()),
    }
}
