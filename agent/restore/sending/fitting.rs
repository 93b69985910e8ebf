//! What was read of a partition, passed through the stages and made into the batches that its targets take.
//!
//! Order: chunk by chunk; of each target what was made comes in the order of the source, whatever waits to be merged.
//! Memory: stages make more of a chunk than was paid for. That is paid for from what all partitions share
//! ([`UNPAID_BYTES`]), until it has landed; nobody waits for it who holds some that is not sent. Crash: what an earlier
//! process has sent is made once more, found in the target ([`found`]), and not sent.

mod found;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use self::found::Found;
pub(super) use self::found::There;
use crate::backoff::Backoff;
use crate::batch;
use crate::batch::outgoing::{Fitted, Limits, Refit, Window};
use crate::budget::Permit;
use crate::error::{Error, Result};
use crate::pipeline::{Batch, InFlight, Payload};
use crate::record::{LeftOut, Offset, OffsetRange, Partition};
use crate::restore::map::Pair;
use crate::restore::state;
use crate::stages::onward::{Onward, Piece, Targets, What};
use crate::stages::{Passed, Stages};

/// Bytes that stages made beyond what was read, of all partitions together, that are on their way.
pub(super) const UNPAID_BYTES: usize = 8 << 20;

/// Bytes of one partition that wait to be merged, of all of its targets together.
const MOST_WAITING_BYTES: usize = 1 << 20;

/// How often a batch is passed again whose failure a plugin calls passing.
const TRIES: u32 = 6;

/// The waits before that: some seconds in all.
const TRY_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What is sent of one source partition.
#[derive(Debug, Clone)]
pub(in crate::restore) struct Lane {
    /// Where it comes from.
    pub(in crate::restore) source: Partition,
    /// Where it can go; the first is where records go that no stage sends elsewhere.
    pub(in crate::restore) targets: Vec<Target>,
    /// Which records.
    pub(in crate::restore) window: Window,
    /// Whether what was read is sent at once, and does not wait for more to be merged with: where a rate is limited, it
    /// would come in bursts.
    pub(in crate::restore) is_paced: bool,
}

/// A target partition of a source partition.
#[derive(Debug, Clone)]
pub(in crate::restore) struct Target {
    /// From where to where.
    pub(in crate::restore) pair: Pair,
    /// How large batches are made.
    pub(in crate::restore) limits: Limits,
    /// What is made of the source offsets before this one is in the target.
    pub(in crate::restore) from: Offset,
    /// Bytes of that.
    pub(in crate::restore) bytes: u64,
    /// And so much of what is made of the others, in order.
    pub(in crate::restore) found: Vec<state::Found>,
}

impl Lane {
    /// Returns what is wanted of a run that covers `range`: what lies outside of it is not meant.
    fn window_of(&self, range: OffsetRange) -> Window {
        let wanted = self.window.offsets;
        let offsets = OffsetRange { first: wanted.first.max(range.first), next: wanted.next.min(range.next) };
        Window { offsets, ..self.window }
    }
}

pub(super) enum Job {
    Fit(Batch),
    /// Nothing comes behind this offset.
    Close(Offset),
}

/// What became of a job, or of a part of it.
pub(super) struct Made {
    pub(super) source: Partition,
    /// The batches, each with the number of its target.
    pub(super) outcome: Result<Taken>,
    pub(super) paid: Paid,
    /// The end of what was taken for these.
    pub(super) next: Offset,
    /// What is in none of them because a stage failed at it.
    pub(super) left_out: Vec<LeftOut>,
    pub(super) is_close: bool,
}

/// The payment for what is on its way.
#[derive(Default)]
pub(super) struct Paid {
    _read: Permit,
    /// Of a partition only so much is read ahead of what has landed, so that its memory is used again.
    _in_flight: Option<InFlight>,
    _beyond: Option<OwnedSemaphorePermit>,
}

/// What is to be fitted.
pub(super) enum Work {
    /// Archived batches, of which what lies outside of the range is not meant.
    Archived(OffsetRange, Bytes),
    /// What stages made of those.
    Staged(OffsetRange, Vec<Piece>),
    /// There is nothing.
    Nothing,
    /// Nothing comes any more.
    End,
}

/// A batch, and the number of the target that it goes to.
pub(super) type Bound = (usize, Fitted);

/// What has become of some work.
#[derive(Default)]
pub(super) struct Taken {
    /// What is sent now, in order for each target.
    pub(super) send: Vec<Bound>,
    /// What is in the targets already, in order for each; it is before what is sent there.
    pub(super) there: Vec<There>,
    /// What is covered when all of it has landed; `None` while something waits for more to be merged with.
    pub(super) covered: Option<Offset>,
    /// The targets that lack something of what was taken: what is made of the source offsets before this one, and nothing
    /// else, is there then. `None` where no offset parts what is there from what is not.
    pub(super) held: Vec<(usize, Option<Offset>)>,
}

/// What makes batches of one partition into what one target takes.
struct Fit {
    refit: Refit,
    found: Found,
    /// The source offset of the last record that was handed out.
    last: Offset,
}

impl Fit {
    fn new(target: &Target) -> Self {
        Self { refit: Refit::new(target.limits), found: Found::of(target), last: -1 }
    }

    /// Returns what of all up to `next` the target lacks when what was handed out has landed; `None` where it is nothing.
    fn held(&self, next: Offset) -> Option<Option<Offset>> {
        if self.found.is_before(next) {
            return Some(None);
        }
        // Of copies of one record some may have gone before; what waits may be there already.
        let first = self.refit.waits_from()?;
        Some(self.found.part(first).filter(|cut| *cut > self.last))
    }
}

/// What makes batches of one partition into what its targets take: something for each target that has got records.
#[derive(Default)]
pub(super) struct Fits(BTreeMap<usize, Fit>);

impl Fits {
    /// Begins with a lane: what is in its targets is waited for from the first.
    pub(super) fn of(lane: &Lane) -> Self {
        let is_begun = |target: &Target| !target.found.is_empty() || target.from > lane.window.offsets.first;
        let found = lane.targets.iter().enumerate().filter(|(_, target)| is_begun(target));
        Self(found.map(|(number, target)| (number, Fit::new(target))).collect())
    }

    /// Takes what is to be fitted, all of the source up to `next`.
    ///
    /// # Errors
    /// Those of [`Refit::put`]; [`Kind::Failed`](crate::error::Kind::Failed) when a target holds more than is made.
    pub(super) fn take(&mut self, lane: &Lane, work: Work, next: Offset) -> Result<Taken> {
        let mut out = Taken::default();
        let is_end = matches!(work, Work::End);
        match work {
            Work::Archived(range, bytes) => {
                let window = lane.window_of(range);
                self.with(lane, 0, &mut out, |refit, out| {
                    batch::walk(&bytes).try_for_each(|item| {
                        let (at, header) = item?;
                        refit.put(&header, &bytes.slice(at..at + header.total_bytes), &window, out)
                    })
                })?;
            }
            Work::Staged(range, pieces) => {
                let window = lane.window_of(range);
                for piece in pieces {
                    self.with(lane, piece.target, &mut out, |refit, out| put(refit, piece, &window, out))?;
                }
                self.0.values_mut().for_each(|fit| fit.refit.spare());
            }
            Work::Nothing | Work::End => {}
        }
        if is_end || lane.is_paced || self.waiting_bytes() > MOST_WAITING_BYTES {
            self.flush(lane, &mut out)?;
        }
        if is_end && next >= lane.window.offsets.next {
            self.check_found(lane)?;
        }
        out.covered = match self.0.values().filter_map(|fit| fit.refit.waits_from()).min() {
            None => Some(next),
            Some(_) if out.send.is_empty() && out.there.is_empty() => None,
            waits_from => waits_from,
        };
        let held = |(target, fit): (&usize, &Fit)| Some((*target, fit.held(next)?));
        out.held = self.0.iter().filter_map(held).collect();
        Ok(out)
    }

    /// Makes sure that what is in the targets was made.
    fn check_found(&self, lane: &Lane) -> Result<()> {
        let Some((target, fit)) = self.0.iter().find(|(_, fit)| fit.found.left() > 0) else { return Ok(()) };
        let pair = &lane.targets[*target].pair;
        Err(Error::failed(format!(
            "{} holds {} records more than {} gives",
            pair.target,
            fit.found.left(),
            pair.source
        ))
        .hint("the archive, or a plugin, is not what it was when they were sent; nothing is sent again")
        .with("restored from", &lane.source))
    }

    fn with(
        &mut self,
        lane: &Lane,
        target: usize,
        out: &mut Taken,
        put: impl FnOnce(&mut Refit, &mut Vec<Fitted>) -> Result<()>,
    ) -> Result<()> {
        let to = &lane.targets[target];
        let fit = self.0.entry(target).or_insert_with(|| Fit::new(to));
        let (mut fitted, mut send) = (Vec::new(), Vec::new());
        put(&mut fit.refit, &mut fitted)?;
        for fitted in fitted {
            fit.last = fitted.sources.last().unwrap_or(fit.last);
            fit.found.sift(fitted, (target, to.limits.most_bytes), &mut send, &mut out.there)?;
        }
        out.send.extend(send.into_iter().map(|fitted| (target, fitted)));
        Ok(())
    }

    fn waiting_bytes(&self) -> usize {
        self.0.values().map(|fit| fit.refit.waiting_bytes()).sum()
    }

    fn flush(&mut self, lane: &Lane, out: &mut Taken) -> Result<()> {
        let targets: Vec<usize> = self.0.keys().copied().collect();
        targets.into_iter().try_for_each(|target| self.with(lane, target, out, Refit::flush))
    }
}

fn put(refit: &mut Refit, piece: Piece, window: &Window, out: &mut Vec<Fitted>) -> Result<()> {
    let Piece { header, bytes, what, .. } = piece;
    match what {
        What::Cut => refit.put(&header, &bytes, window, out),
        What::Whole => refit.put(&header, &bytes, &Window::EVERYTHING, out),
        What::Made(sources) => refit.put_made(&header, &bytes, sources, out),
    }
}

/// Makes batches of one partition into what its targets take.
pub(super) struct Fitting {
    pub(super) lane: Arc<Lane>,
    pub(super) stages: Option<Stages>,
    /// As many chunks are fitted at once as there are permits.
    pub(super) cores: Arc<Semaphore>,
    /// What pays for bytes beyond those that were read.
    pub(super) beyond: Arc<Semaphore>,
    pub(super) made: mpsc::UnboundedSender<Made>,
}

/// Nobody listens any more, or nothing more can be made.
struct Over;

impl Fitting {
    pub(super) async fn run(self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let targets = self.lane.targets.iter().map(|target| &target.pair.target);
        let targets = Arc::new(Targets::new(self.lane.source.index, targets));
        let mut fits = Fits::of(&self.lane);
        while let Some(job) = jobs.recv().await {
            let Ok(_core) = self.cores.acquire().await else { return };
            let done = match (job, &self.stages) {
                (Job::Close(reached), _) => self.fit(&mut fits, Work::End, self.blank(reached, true)).await,
                (Job::Fit(batch), Some(stages)) => self.stage(&mut fits, stages, &targets, batch).await,
                (Job::Fit(batch), None) => {
                    let (range, payload, read, in_flight) = batch.into_parts();
                    let work = match payload {
                        Payload::Encoded { bytes, .. } => Work::Archived(range, bytes),
                        Payload::Gap { .. } => Work::Nothing,
                    };
                    let paid = Paid { _read: read, _in_flight: in_flight, _beyond: None };
                    self.fit(&mut fits, work, Made { paid, ..self.blank(range.next, false) }).await
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Passes a run through the stages, part by part, and fits what they make of it.
    async fn stage(&self, fits: &mut Fits, stages: &Stages, targets: &Arc<Targets>, batch: Batch) -> Result<(), Over> {
        let (range, payload, mut read, _in_flight) = batch.into_parts();
        let Payload::Encoded { bytes: mut rest, .. } = payload else {
            let paid = Paid { _read: read, ..Paid::default() };
            let made = Made { paid, ..self.blank(range.next, false) };
            return self.fit(fits, Work::Nothing, made).await;
        };
        let onward = Onward { window: self.lane.window_of(range), targets: targets.clone() };
        let mut waits = Backoff::new(TRY_AFTER.0, TRY_AFTER.1);
        // After a failure the others have forgotten what they had seen of this partition.
        let may_try_again = stages.declared().iter().all(|stage| stage.is_pure);
        while !rest.is_empty() {
            let given = rest.len();
            let passed = match stages.pass_on(&self.lane.source, rest, onward.clone()).await {
                Ok(passed) => passed,
                Err(error) => return self.fail(error),
            };
            let Passed { pieces, made_bytes, next, left_out, failure, .. } = passed;
            rest = passed.rest;
            let passed_bytes = given - rest.len();
            if passed_bytes > 0 {
                let next = if rest.is_empty() { range.next } else { next.unwrap_or(range.first).min(range.next) };
                let beyond = self.pay(made_bytes.saturating_sub(passed_bytes)).await?;
                let paid = Paid { _read: read.split(passed_bytes), _in_flight: None, _beyond: beyond };
                let made = Made { paid, left_out, ..self.blank(next, false) };
                self.fit(fits, Work::Staged(range, pieces), made).await?;
                waits.reset();
            }
            match failure {
                Some(error) if may_try_again && error.retryable() && waits.attempts() < TRIES => {
                    tracing::warn!("{error}; trying again");
                    tokio::time::sleep(waits.wait()).await;
                }
                Some(error) => return self.fail(error),
                None => {}
            }
        }
        Ok(())
    }

    /// Pays for bytes that were not read; more than there are cost all of them.
    async fn pay(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Over> {
        if bytes == 0 {
            return Ok(None);
        }
        let bytes = bytes.min(UNPAID_BYTES) as u32;
        self.beyond.clone().acquire_many_owned(bytes).await.map(Some).map_err(|_| Over)
    }

    /// Fits what was read, or what was made of it, where computing is allowed.
    async fn fit(&self, fits: &mut Fits, work: Work, made: Made) -> Result<(), Over> {
        let (mut own, lane, next) = (std::mem::take(fits), self.lane.clone(), made.next);
        let fitted = tokio::task::spawn_blocking(move || (own.take(&lane, work, next), own)).await;
        let Ok((outcome, again)) = fitted else {
            return self.fail(Error::failed("fitting batches ended by a defect"));
        };
        *fits = again;
        self.made.send(Made { outcome, ..made }).map_err(|_| Over)
    }

    fn fail(&self, error: Error) -> Result<(), Over> {
        // Whoever listened may be gone.
        let _ = self.made.send(Made { outcome: Err(error), ..self.blank(0, false) });
        Err(Over)
    }

    fn blank(&self, next: Offset, is_close: bool) -> Made {
        Made {
            source: self.lane.source.clone(),
            outcome: Ok(Taken::default()),
            paid: Paid::default(),
            next,
            left_out: Vec::new(),
            is_close,
        }
    }
}
