//! Asking for a savepoint now: what a person, or a program, has of the task that makes them.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::api::MakeSavepoint;
use crate::error::{Error, Result};

/// Requests for a savepoint that may wait; each is a person, or a program that waits for its answer.
const WAITING: usize = 8;

/// Where the answer to a request goes.
type Reply = oneshot::Sender<Result<String>>;

/// The requests, as the maker hears them.
pub(super) type Requests = mpsc::Receiver<Reply>;

/// Asks a running [`Maker`](super::Maker) for savepoints. Clones ask the same one.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::Sender<Reply>);

impl Handle {
    /// Makes a handle, and what the maker hears.
    pub(super) fn new() -> (Self, Requests) {
        let (ask, requests) = mpsc::channel(WAITING);
        (Self(ask), requests)
    }

    /// Makes a savepoint now and returns its name, or that of the newest one when nothing has changed since.
    ///
    /// # Errors
    /// Why none could be made: [`Kind::Transient`](crate::error::Kind::Transient) while cluster or store are away.
    pub async fn now(&self) -> Result<String> {
        let gone = || Error::transient("the pipeline makes no savepoints any more").hint("is the agent being stopped?");
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Returns what the API calls.
    pub(in crate::backup) fn into_function(self) -> MakeSavepoint {
        Arc::new(move || {
            let handle = self.clone();
            Box::pin(async move { handle.now().await })
        })
    }
}
