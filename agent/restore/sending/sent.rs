//! A chunk of one partition on its way: what of it has not landed yet, and what that makes durable. Pure.

use std::time::Instant;

use super::standing::Arrived;
use crate::record::Offset;

/// A chunk that was sent.
pub(super) struct Sent {
    pub(super) number: u64,
    /// Batches that have not landed.
    pub(super) left: usize,
    /// What is covered when they have.
    pub(super) next: Option<Offset>,
    /// The end of what it was made of, the targets that lack something of that then, and what has landed in each.
    pub(super) upto: Offset,
    pub(super) held: Vec<(usize, Option<Offset>)>,
    pub(super) arrived: Vec<Arrived>,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) since: Instant,
}

impl Sent {
    /// Makes one of which nothing has landed.
    pub(super) fn new(
        number: u64,
        left: usize,
        upto: Offset,
        next: Option<Offset>,
        held: Vec<(usize, Option<Offset>)>,
    ) -> Self {
        Self { number, left, next, upto, held, arrived: Vec::new(), records: 0, bytes: 0, since: Instant::now() }
    }

    /// Takes note of a batch that has landed before `end`, or that was there.
    pub(super) fn arrive(&mut self, target: usize, end: Option<Offset>, bytes: u64) {
        match self.arrived.iter_mut().find(|arrived| arrived.target == target) {
            Some(arrived) => (arrived.end, arrived.bytes) = (end.or(arrived.end), arrived.bytes + bytes),
            None => self.arrived.push(Arrived { target, end, bytes }),
        }
    }
}
