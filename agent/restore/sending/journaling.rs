//! When a journal of a restore is written: now and then, one at a time, beside the sending.
//!
//! Retry: a journal that could not be kept is put again, the same one, with waits: until then nothing is lost by it, a later
//! process only has more to read. Cancel, crash: the journal is there or not.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::record::Offset;
use crate::restore::map::{OffsetMap, Pair};
use crate::restore::state::{Journal, Journals};

/// So many bytes that have landed are enough for a journal, however soon: a later process reads so much of the target again.
const ENOUGH_BYTES: u64 = 256 << 20;

/// The waits before a journal is put again.
const PUT_AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The journals of one process.
pub(in crate::restore) struct Journaling {
    every: Duration,
    /// `None` while one is written.
    journals: Option<Journals>,
    writing: Option<JoinHandle<Written>>,
    /// One that is not kept yet.
    journal: Option<(Journal, HashMap<Pair, Offset>)>,
    due: Instant,
    /// Whether something has landed that is in no journal, and how many bytes.
    landed: Option<u64>,
    /// Source offsets before these are in the journals' maps.
    mapped: HashMap<Pair, Offset>,
    backoff: Backoff,
}

struct Written {
    journals: Journals,
    outcome: Result<()>,
}

/// What is to be done.
pub(super) enum Step {
    /// A journal is to be written.
    Due,
    /// One is kept; whether only after it could not be.
    Kept(bool),
    /// One could not be kept; it is put again.
    Late(Error),
    /// A younger process has taken over.
    Fenced(Error),
}

impl Journaling {
    /// Begins; `map` is what the journals there are say.
    pub(in crate::restore) fn new(journals: Journals, every: Duration, map: &OffsetMap) -> Self {
        let (writing, journal, landed) = (None, None, None);
        let backoff = Backoff::new(PUT_AGAIN_AFTER.0, PUT_AGAIN_AFTER.1);
        let (due, mapped) = (Instant::now() + every, covered(map));
        Self { every, journals: Some(journals), writing, journal, due, landed, mapped, backoff }
    }

    /// Takes note that something has landed, now or before this process began.
    pub(super) fn landed(&mut self, bytes: u64) {
        let landed = self.landed.get_or_insert(0);
        *landed += bytes;
    }

    /// Returns what of a map is in no journal.
    pub(super) fn news(&self, map: &OffsetMap) -> OffsetMap {
        map.after(|pair| self.mapped.get(pair).copied().unwrap_or(Offset::MIN))
    }

    /// Waits for what is to be done. Cancel: safe.
    pub(super) async fn step(&mut self) -> Step {
        if let Some(writing) = &mut self.writing {
            let written = writing.await;
            self.writing = None;
            return self.written(written.ok());
        }
        match (self.landed, &self.journal) {
            (None, None) => std::future::pending().await,
            (Some(bytes), None) if bytes >= ENOUGH_BYTES => {}
            _ => sleep_until(self.due).await,
        }
        Step::Due
    }

    /// Begins to write a journal, which `make` makes, unless one waits to be put again.
    pub(super) fn write(&mut self, make: impl FnOnce(&Self) -> Journal, map: &OffsetMap) {
        if self.journal.is_none() {
            self.journal = Some((make(self), covered(map)));
            self.landed = None;
        }
        self.put();
    }

    fn put(&mut self) {
        let (Some((journal, _)), Some(mut journals)) = (&self.journal, self.journals.take()) else { return };
        let journal = journal.clone();
        self.writing = Some(tokio::spawn(async move {
            let outcome = journals.put(journal).await.map(drop);
            Written { journals, outcome }
        }));
    }

    /// Writes what is in no journal yet, when nothing more comes.
    ///
    /// # Errors
    /// As [`Journals::put`].
    pub(super) async fn close(&mut self, make: impl FnOnce(&Self) -> Journal, map: &OffsetMap) -> Result<()> {
        if self.journal.is_some() {
            self.put();
            self.end().await?;
        }
        if self.landed.is_some() {
            self.write(make, map);
            self.end().await?;
        }
        Ok(())
    }

    /// Waits for the journal that is written.
    async fn end(&mut self) -> Result<()> {
        let Some(writing) = &mut self.writing else { return Err(ended()) };
        let written = writing.await;
        self.writing = None;
        match self.written(written.ok()) {
            Step::Fenced(error) | Step::Late(error) => Err(error),
            Step::Kept(_) | Step::Due => Ok(()),
        }
    }

    fn written(&mut self, written: Option<Written>) -> Step {
        let outcome = match written {
            Some(Written { journals, outcome }) => {
                self.journals = Some(journals);
                outcome
            }
            None => Err(ended()),
        };
        match outcome {
            Ok(()) => {
                self.mapped.extend(self.journal.take().map(|(_, mapped)| mapped).unwrap_or_default());
                self.due = Instant::now() + self.every;
                let was_late = self.backoff.attempts() > 0;
                self.backoff.reset();
                Step::Kept(was_late)
            }
            Err(error) if error.kind() == crate::error::Kind::Fenced => Step::Fenced(error),
            Err(error) => {
                self.due = Instant::now() + self.backoff.wait();
                Step::Late(error)
            }
        }
    }
}

fn ended() -> Error {
    Error::failed("writing journals ended by a defect")
}

fn covered(map: &OffsetMap) -> HashMap<Pair, Offset> {
    map.iter().map(|(pair, track)| (pair.clone(), track.covered())).collect()
}
