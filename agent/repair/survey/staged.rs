//! Which stages the records of a chain's segments went through, as far as sidecars are left, and what follows from it for
//! a segment whose own is lost.
//!
//! Pure. A configuration changes seldom: where the nearest sidecars before and behind name the same stages, a segment
//! between them has those. Memory: the stretches of equal stages.

use std::sync::Arc;

use crate::archive::sidecar::{Kind, Sidecar, UNKNOWN_STAGES};
use crate::record::Offset;

/// The stages along a chain.
#[derive(Debug, Default)]
pub struct Staged {
    stretches: Vec<Stretch>,
}

/// Segments that went through the same stages, but for those whose sidecars are lost.
#[derive(Debug)]
struct Stretch {
    /// Where the first of them begins.
    first: Offset,
    /// Where the last of them begins.
    last: Offset,
    stages: Arc<[String]>,
}

impl Staged {
    /// Takes note of the next sidecar along the chain. A gap has gone through none, whatever its neighbours have.
    pub(super) fn add(&mut self, sidecar: &Sidecar) {
        let first = sidecar.range.first;
        match self.stretches.last_mut() {
            _ if sidecar.kind == Kind::Gap => {}
            Some(stretch) if *stretch.stages == *sidecar.stages => stretch.last = first,
            _ => self.stretches.push(Stretch { first, last: first, stages: sidecar.stages.as_slice().into() }),
        }
    }

    /// Returns the stages of the segment at `first`, whose sidecar is lost: those of its neighbours, where these agree;
    /// none where none of them names any; else that they are unknown.
    pub fn of(&self, first: Offset) -> Vec<String> {
        let at = self.stretches.partition_point(|stretch| stretch.first < first);
        let before = at.checked_sub(1).and_then(|at| self.stretches.get(at));
        let is_within = before.is_some_and(|stretch| first < stretch.last);
        let behind = self.stretches.get(at).filter(|_| !is_within);
        match (before, behind) {
            (Some(stretch), _) if is_within => stretch.stages.to_vec(),
            // Two stretches beside each other differ.
            (Some(_), Some(_)) => vec![UNKNOWN_STAGES.to_owned()],
            (Some(one), None) | (None, Some(one)) if !one.stages.is_empty() => vec![UNKNOWN_STAGES.to_owned()],
            _ => Vec::new(),
        }
    }
}
