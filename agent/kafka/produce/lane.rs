//! One partition on its way: what waits, what was sent and is not acknowledged, and who leads it. Pure but for the
//! clock that it is given.
//!
//! Order is kept by three rules: batches go out in the order of their sequences over one connection, at most
//! [`WINDOW`] of them, and the first alone; after a failure nothing more goes out until nothing is on its way any more; and then everything
//! that has not landed goes out again, the same bytes, from the first on. The broker drops what it has already.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::link::Way;
use super::request::Sealed;
use super::verdict::{self, Verdict};
use crate::backoff::Backoff;
use crate::batch::HEADER_BYTES;
use crate::batch::outgoing::{Identity, Outgoing};
use crate::error::Error;
use crate::kafka::code_name;
use crate::record::{Offset, Partition};

/// The batches of a partition that are sent and not acknowledged: a broker remembers the last five of a producer, and
/// knows a re-sent one only among them.
pub(super) const WINDOW: usize = 5;

/// Failures in a row after which only the first batch is sent, until it has landed: what is refused for a minute need not
/// go over the wire five times a second.
const PATIENT: u32 = 2;

/// A partition on its way.
pub(super) struct Lane<T> {
    pub(super) partition: Partition,
    pub(super) state: State,
    /// Whether it stands in its connection's queue.
    pub(super) queued: bool,
    next_sequence: i32,
    waiting: VecDeque<(Outgoing, T)>,
    flying: VecDeque<Flying<T>>,
    on_way: usize,
    /// Whether something has landed since it was opened: the broker knows the producer.
    known: bool,
    backoff: Backoff,
    /// Since when it is not sure that the topic is there at all.
    unsettled: Option<Instant>,
}

/// Where a partition stands.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing is on its way, and who leads it is to be looked up then.
    Seeking(Instant),
    /// It goes this way, to its leader.
    Led(Way),
    /// Something failed; what is on its way is waited for, until then nothing is sent.
    Draining(Option<Refusal>),
    /// Nothing more is sent, for this error code.
    Over(i16),
}

/// A batch that will never be taken.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: i16,
    pub(super) error: Error,
}

/// A batch that was sent.
struct Flying<T> {
    sequence: i32,
    batch: Outgoing,
    token: T,
    /// Its header as it was sent first; what stands behind it never changes.
    head: Option<[u8; HEADER_BYTES]>,
    on_way: bool,
    landed: Option<Offset>,
}

/// A batch that has landed.
pub(super) struct Landed<T> {
    pub(super) first: Offset,
    pub(super) records: u32,
    pub(super) token: T,
}

/// What comes back of a partition that takes nothing more.
pub(super) struct Returned<T> {
    pub(super) sequence: i32,
    pub(super) batches: Vec<(Outgoing, T)>,
}

impl<T> Lane<T> {
    pub(super) fn new(partition: Partition, next_sequence: i32, backoff: Backoff, now: Instant) -> Self {
        Self {
            partition,
            state: State::Seeking(now),
            queued: false,
            next_sequence,
            waiting: VecDeque::new(),
            flying: VecDeque::new(),
            on_way: 0,
            known: false,
            backoff,
            unsettled: None,
        }
    }

    /// Takes a batch in.
    pub(super) fn put(&mut self, batch: Outgoing, token: T) {
        self.waiting.push_back((batch, token));
    }

    /// Returns whether nothing waits and nothing was sent that is not acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.flying.is_empty()
    }

    /// Returns whether something was sent that is not acknowledged.
    pub(super) fn has_sent(&self) -> bool {
        !self.flying.is_empty()
    }

    /// Returns the length of the batch to be sent next; `None` while there is none.
    pub(super) fn next_bytes(&self) -> Option<usize> {
        // A broker that does not know the producer takes whatever sequence comes first.
        let one_by_one = !self.known || self.backoff.attempts() >= PATIENT;
        if !matches!(self.state, State::Led(_)) || (one_by_one && self.on_way > 0) {
            return None;
        }
        if let Some(again) = self.flying.iter().find(|flying| flying.is_due()) {
            return Some(again.batch.total_bytes());
        }
        let next = self.waiting.front().filter(|_| self.flying.len() < WINDOW);
        next.map(|(batch, _)| batch.total_bytes())
    }

    /// Sends the batch of [`Lane::next_bytes`]: returns its sequence.
    pub(super) fn depart(&mut self) -> Option<i32> {
        self.next_bytes()?;
        self.on_way += 1;
        if let Some(again) = self.flying.iter_mut().find(|flying| flying.is_due()) {
            again.on_way = true;
            return Some(again.sequence);
        }
        let (batch, token) = self.waiting.pop_front()?;
        let sequence = self.next_sequence;
        self.next_sequence = after(sequence, batch.records());
        self.flying.push_back(Flying { sequence, batch, token, head: None, on_way: true, landed: None });
        Some(sequence)
    }

    /// Returns the batch of that sequence as it is sent, the first time and each time after.
    pub(super) fn seal(&mut self, sequence: i32, identity: Identity, transactional: bool) -> Option<Sealed> {
        let flying = self.flying.iter_mut().find(|flying| flying.sequence == sequence)?;
        let head = *flying.head.get_or_insert_with(|| flying.batch.seal(identity, sequence, transactional));
        Some(Sealed { head, payload: flying.batch.payload().clone() })
    }

    /// Hears the broker's answer to a batch, which it judges; returns why it is tried again, where it is.
    pub(super) fn answered(
        &mut self,
        sequence: i32,
        (code, base_offset): (i16, Offset),
        said: Option<&str>,
        now: Instant,
    ) -> (Verdict, Option<String>) {
        let is_first = self.flying.iter().find(|flying| flying.landed.is_none()).map(|flying| flying.sequence);
        let is_first = is_first == Some(sequence);
        let Some(flying) = self.arrived(sequence) else { return (Verdict::Landed, None) };
        let verdict = match verdict::judge(code, base_offset) {
            // What failed before it is the cause, or may be.
            Verdict::OutOfOrder | Verdict::Refused if !is_first => Verdict::Again,
            Verdict::OutOfOrder => Verdict::Refused,
            verdict => verdict,
        };
        match verdict {
            Verdict::Landed => flying.landed = Some(base_offset),
            Verdict::Refused => self.refuse(code, verdict::refused(&self.partition, code, said)),
            Verdict::Unsettled | Verdict::Again if is_first => {
                if verdict == Verdict::Unsettled {
                    self.unsettled.get_or_insert(now);
                }
                self.drain();
                return (verdict, Some(code_name(code)));
            }
            _ => self.drain(),
        }
        (verdict, None)
    }

    /// Hears that no answer will come: the connection is lost.
    pub(super) fn unanswered(&mut self, sequence: i32) {
        if self.arrived(sequence).is_some() {
            self.drain();
        }
    }

    fn arrived(&mut self, sequence: i32) -> Option<&mut Flying<T>> {
        let flying = self.flying.iter_mut().find(|flying| flying.sequence == sequence && flying.on_way)?;
        flying.on_way = false;
        self.on_way -= 1;
        Some(flying)
    }

    /// Sends nothing more until nothing is on its way.
    pub(super) fn drain(&mut self) {
        if let State::Led(_) = self.state {
            self.state = State::Draining(None);
        }
    }

    /// Ends with an error, when nothing is on its way any more.
    pub(super) fn refuse(&mut self, code: i16, error: Error) {
        if !matches!(self.state, State::Draining(Some(_)) | State::Over(_)) {
            self.state = State::Draining(Some(Refusal { code, error }));
        }
    }

    /// Takes the first batch where it has landed: everything before it has been taken.
    pub(super) fn land(&mut self) -> Option<Landed<T>> {
        let first = self.flying.front()?.landed?;
        let Flying { batch, token, .. } = self.flying.pop_front()?;
        self.backoff.reset();
        self.unsettled = None;
        self.known = true;
        Some(Landed { first, records: batch.records(), token })
    }

    /// Goes on after a failure when nothing is on its way any more: looks for who leads after a wait, of at least until
    /// `not_before`; or ends, and gives back what has not landed.
    pub(super) fn settle(&mut self, not_before: Option<Instant>, now: Instant) -> Option<(Refusal, Returned<T>)> {
        if self.on_way > 0 {
            return None;
        }
        match &mut self.state {
            State::Draining(refusal) => match refusal.take() {
                Some(refusal) => {
                    self.state = State::Over(refusal.code);
                    let returned = self.give_back();
                    return Some((refusal, returned));
                }
                // A broker that is down has its own waits.
                None => {
                    let at = not_before.unwrap_or_else(|| now + self.backoff.wait());
                    self.state = State::Seeking(at);
                }
            },
            State::Seeking(_) | State::Led(_) | State::Over(_) => {}
        }
        None
    }

    /// Gives back everything that has not landed.
    fn give_back(&mut self) -> Returned<T> {
        let sequence = self.flying.front().map_or(self.next_sequence, |flying| flying.sequence);
        self.next_sequence = sequence;
        let flying = self.flying.drain(..).map(|flying| (flying.batch, flying.token));
        Returned { sequence, batches: flying.chain(self.waiting.drain(..)).collect() }
    }

    /// Looks for the leader again after a wait.
    pub(super) fn seek_later(&mut self, now: Instant) {
        self.state = State::Seeking(now + self.backoff.wait());
    }

    /// Looks again as [`Lane::seek_later`], where the topic does not seem to be there; returns for how long it has not.
    pub(super) fn unsettled(&mut self, now: Instant) -> Duration {
        self.seek_later(now);
        now.saturating_duration_since(*self.unsettled.get_or_insert(now))
    }
}

impl<T> Flying<T> {
    fn is_due(&self) -> bool {
        !self.on_way && self.landed.is_none()
    }
}

/// Returns the sequence after `records` that begin with `sequence`: behind 2^31−1 comes 0.
fn after(sequence: i32, records: u32) -> i32 {
    (sequence as u32).wrapping_add(records) as i32 & i32::MAX
}

#[cfg(test)]
mod tests;
