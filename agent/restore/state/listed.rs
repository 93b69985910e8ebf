//! A restore of a backup as it is listed, and the wish that it end: what the command line and the API have of one.

use serde::Serialize;

use super::{Cancelled, Phase, Process, Seen, State};
use crate::error::{Error, Result};
use crate::store::Store;

/// A restore, as listed; its JSON is stable.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// Its id.
    pub restore_id: String,
    /// How far it has come.
    pub state: Phase,
    /// When the first attempt began.
    pub started: Option<String>,
    /// The records that have landed, as far as it was kept.
    pub records: Option<u64>,
    /// Their bytes.
    pub bytes: Option<u64>,
    /// The brokers of the cluster that it goes to.
    pub target: Option<String>,
    /// The id of that cluster.
    pub target_cluster_id: Option<String>,
    /// What of it cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

impl Listed {
    /// Reads a restore; returns what of it cannot be read, too.
    pub async fn read(store: &Store, id: &str) -> Result<(Self, Vec<Error>)> {
        let state = State::new(store, id)?;
        let mut seen = state.look().await?;
        let started = started(&state, &mut seen).await?;
        let (records, bytes) = came_to(&seen).unzip();
        let target = seen.plan.as_ref().map(|plan| &plan.target);
        let row = Self {
            restore_id: id.to_owned(),
            state: seen.phase(),
            started,
            records,
            bytes,
            target: target.map(|target| target.bootstrap_servers.clone()),
            target_cluster_id: target.and_then(|target| target.cluster_id.clone()),
            damaged: seen.damaged.iter().map(ToString::to_string).collect(),
        };
        Ok((row, seen.damaged))
    }
}

/// Returns when the first attempt began.
async fn started(state: &State, seen: &mut Seen) -> Result<Option<String>> {
    let Some(&first) = seen.attempts.first() else { return Ok(None) };
    if let Some(attempt) = seen.attempt.as_ref().filter(|attempt| attempt.number == first) {
        return Ok(Some(attempt.started_at.clone()));
    }
    match state.attempt(first).await {
        Ok(attempt) => Ok(attempt.map(|attempt| attempt.started_at)),
        Err(error) if error.is_unreadable() => {
            // Where no attempt can be read this one is told already.
            if seen.attempt.is_some() {
                seen.damaged.push(error);
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns how many records and bytes have landed, as far as it was kept.
pub fn came_to(seen: &Seen) -> Option<(u64, u64)> {
    let done = seen.done.as_ref().map(|done| (done.records, done.bytes));
    done.or(seen.journal.as_ref().map(|journal| (journal.records, journal.bytes)))
}

/// Asks a restore to end, or with `dry_run` only whether that can be; returns what that means, for people.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage) where there is nothing to cancel; those of the store.
pub async fn cancel(state: &State, dry_run: bool) -> Result<String> {
    let (id, seen) = (state.restore_id(), state.look().await?);
    let phase = seen.phase();
    if phase == Phase::Done {
        return Err(Error::usage(format!("the restore `{id}` is done: there is nothing to cancel"))
            .hint("what it has restored is in the target"));
    }
    if phase == Phase::Undone {
        return Err(Error::usage(format!("the restore `{id}` was undone: there is nothing to cancel")));
    }
    if seen.has_landed() {
        return Err(Error::usage(format!("all of the restore `{id}` has landed: there is nothing to cancel"))
            .hint("started again it is done in a moment; `restores undo` takes it back"));
    }
    let means = match phase {
        Phase::Planned => "nothing was sent; whoever begins it stops before it sends anything",
        _ => {
            "a process that runs it stops at its next journal, and none goes on with it; what was sent stays in the target"
        }
    };
    let would = format!("the restore `{id}` would be cancelled: {means}");
    if dry_run && phase != Phase::Cancelled {
        return Ok(would);
    }
    let wish = Cancelled::now(id, Process::this());
    let holds = state.cancel(&wish).await?.1;
    Ok(match holds == wish {
        true => format!("the restore `{id}` is cancelled: {means}"),
        false => format!("the restore `{id}` was cancelled at {} by {}", holds.cancelled_at, holds.process),
    })
}
