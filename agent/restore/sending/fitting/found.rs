//! What of one target's records is in the target already: found there again in the order in which they are made, told
//! where they are, and not sent. Pure.

use std::collections::VecDeque;

use super::Target;
use crate::batch::outgoing::{Fitted, Sources};
use crate::error::Result;
use crate::record::Offset;
use crate::restore::state;

/// Records that are in the target.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::restore::sending) struct There {
    /// The number of the target.
    pub(in crate::restore::sending) target: usize,
    /// Where they were.
    pub(in crate::restore::sending) sources: Sources,
    /// The target offset of the first; the others follow it.
    pub(in crate::restore::sending) at: Offset,
    /// Bytes of the batch that ends with them, as it would be sent.
    pub(in crate::restore::sending) bytes: usize,
}

/// What is in a target already.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Everything that is made of the source offsets before this one.
    from: Offset,
    /// And so much of what is made of the others.
    runs: VecDeque<state::Found>,
}

impl Found {
    pub(super) fn of(target: &Target) -> Self {
        Self { from: target.from, runs: target.found.iter().copied().collect() }
    }

    /// Returns how many records are to be found yet.
    pub(super) fn left(&self) -> u64 {
        self.runs.iter().map(|run| run.records).sum()
    }

    /// Returns whether what is made of source offsets before `next` may be in the target.
    pub(super) fn is_before(&self, next: Offset) -> bool {
        next < self.from || !self.runs.is_empty()
    }

    /// Returns the source offset from which on nothing is in the target, if nothing is handed out from `first` on; what was
    /// found must be used up.
    pub(super) fn part(&self, first: Offset) -> Option<Offset> {
        self.runs.is_empty().then(|| first.max(self.from))
    }

    /// Takes from a batch what is in the target; the rest is to be sent.
    pub(super) fn sift(
        &mut self,
        fitted: Fitted,
        (target, most_bytes): (usize, usize),
        send: &mut Vec<Fitted>,
        there: &mut Vec<There>,
    ) -> Result<()> {
        if self.runs.is_empty() && fitted.sources.first().is_none_or(|first| first >= self.from) {
            send.push(fitted);
            return Ok(());
        }
        let records = fitted.batch.records();
        let (mut offsets, mut taken) = (fitted.sources.offsets().peekable(), 0);
        while offsets.next_if(|offset| *offset < self.from).is_some() {
            taken += 1;
        }
        while taken < records
            && let Some(run) = self.runs.front_mut()
        {
            let count = u32::try_from(run.records).unwrap_or(u32::MAX).min(records - taken);
            let (sources, at) = (offsets.by_ref().take(count as usize).collect(), run.target);
            taken += count;
            let bytes = if taken == records { fitted.batch.total_bytes() } else { 0 };
            there.push(There { target, sources, at, bytes });
            run.target += Offset::from(count);
            run.records -= u64::from(count);
            if run.records == 0 {
                self.runs.pop_front();
            }
        }
        drop(offsets);
        match taken {
            0 => send.push(fitted),
            taken if taken == records => {}
            taken => send.extend(fitted.behind(taken, most_bytes)?),
        }
        Ok(())
    }
}
