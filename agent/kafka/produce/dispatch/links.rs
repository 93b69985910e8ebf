//! The connections of a producer, as the one task sees them: which is open, what is on its way over it, what waits for
//! it, and what happens when it opens, is late, or is lost.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Dispatch, NO_CODE, waits};
use crate::backoff::Backoff;
use crate::error::Error;
use crate::kafka::produce::lane::State;
use crate::kafka::produce::link::{Line, Shipment, Versions, Way};
use crate::record::TopicId;

/// The requests on their way over one connection. With fewer, a broker that waits for its replicas idles between two of
/// them; with more, those that come together later would not go together.
const PIPELINED: usize = 5;

/// A connection to a broker.
pub(super) struct Link {
    /// The number of the connection, the newest there was.
    pub(super) serial: u64,
    /// The partitions that have something to send there, in turn.
    pub(super) ready: VecDeque<usize>,
    /// The number of the next request.
    pub(super) correlation: i32,
    /// `None` while there is no connection.
    line: Option<(mpsc::UnboundedSender<Shipment>, AbortHandle)>,
    /// `None` while it is not open yet.
    versions: Option<Versions>,
    in_flight: VecDeque<Vec<Part>>,
    bytes_in_flight: usize,
    backoff: Backoff,
    /// When it may be tried again.
    down_until: Option<Instant>,
    /// Whether an answer is late.
    overdue: bool,
    /// Whether it was lost, or an answer was late, and nothing was answered since.
    failing: bool,
}

/// A batch in a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) lane: usize,
    pub(super) sequence: i32,
    pub(super) bytes: usize,
}

impl Link {
    fn new(backoff: Backoff) -> Self {
        Self {
            serial: 0,
            ready: VecDeque::new(),
            correlation: 0,
            line: None,
            versions: None,
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            backoff,
            down_until: None,
            overdue: false,
            failing: false,
        }
    }

    /// Returns how many bytes may go out now; the first batch of a request may be larger. `None` when nothing may.
    pub(super) fn room(&self, in_flight_bytes: usize) -> Option<usize> {
        self.versions?;
        let left = in_flight_bytes.saturating_sub(self.bytes_in_flight);
        let may = self.in_flight.is_empty() || (self.in_flight.len() < PIPELINED && left > 0);
        may.then_some(left)
    }

    /// Returns the version of Produce for a topic, by its id where both sides have one.
    pub(super) fn version(&self, topic_id: TopicId) -> Option<i16> {
        let versions = self.versions?;
        versions.by_id.filter(|_| !topic_id.is_none()).or(versions.by_name)
    }

    /// Sends a request.
    pub(super) fn ship(&mut self, parts: Vec<Part>, pieces: Vec<Bytes>, version: i16) {
        self.bytes_in_flight += parts.iter().map(|part| part.bytes).sum::<usize>();
        self.in_flight.push_back(parts);
        let shipment = Shipment { pieces, version, correlation: self.correlation };
        self.correlation = self.correlation.wrapping_add(1);
        if let Some((shipments, _)) = &self.line {
            // Where the line has just ended, it tells so, and all that is on its way goes out again.
            let _ = shipments.send(shipment);
        }
    }

    /// Takes what was in the first request that is on its way: it is answered.
    pub(super) fn arrived(&mut self) -> Option<Vec<Part>> {
        let parts = self.in_flight.pop_front()?;
        self.bytes_in_flight -= parts.iter().map(|part| part.bytes).sum::<usize>();
        self.backoff.reset();
        (self.overdue, self.failing) = (false, false);
        Some(parts)
    }

    /// Returns until when it must not be opened.
    pub(super) fn is_down(&self, now: Instant) -> Option<Instant> {
        self.down_until.filter(|until| self.line.is_none() && *until > now)
    }

    /// Returns the partitions of which something is on its way, where an answer is late.
    pub(super) fn late_lanes(&self) -> impl Iterator<Item = usize> {
        let late = self.in_flight.iter().filter(|_| self.overdue).flatten();
        late.map(|part| part.lane)
    }
}

impl<T: Send + 'static> Dispatch<T> {
    /// Puts a partition into its connection's queue, where it has something to send; opens a connection where there is none.
    pub(super) fn queue(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        let State::Led(way) = lane.state else { return };
        if lane.queued || lane.next_bytes().is_none() {
            return;
        }
        let now = Instant::now();
        let link = self.links.entry(way).or_insert_with(|| Link::new(waits(&self.client)));
        if let Some(until) = link.is_down(now) {
            lane.drain();
            self.settle(at, Some(until), now);
            return;
        }
        lane.queued = true;
        link.ready.push_back(at);
        if link.line.is_none() {
            self.connect(way);
        }
    }

    fn connect(&mut self, way: Way) {
        let Some(link) = self.links.get_mut(&way) else { return };
        self.serial += 1;
        link.serial = self.serial;
        let (shipments, ordered) = mpsc::unbounded_channel();
        let (client, tell) = (self.client.clone(), self.tell.clone());
        let transactional = self.transactional_id.is_some();
        let line = Line { way, serial: link.serial, client, transactional, shipments: ordered, tell };
        link.line = Some((shipments, self.tasks.spawn(line.run())));
    }

    /// Hears that a connection is open.
    pub(super) fn up(&mut self, way: Way, versions: Versions) {
        let Some(link) = self.links.get_mut(&way) else { return };
        if versions.by_name.is_none() && versions.by_id.is_none() {
            let error = Error::failed(format!("{way} has no version of Produce that we know"));
            self.lost(way, &error);
            return;
        }
        link.versions = Some(versions);
        link.correlation = 0;
    }

    /// Hears that an answer is late: the cluster may have another leader by now.
    pub(super) fn overdue(&mut self, way: Way) {
        if let Some(link) = self.links.get_mut(&way) {
            (link.overdue, link.failing) = (true, true);
            self.look_due = true;
            let reason = "it has not answered for some seconds".to_owned();
            self.troubles.note(way.to_string(), reason, Instant::now());
        }
    }

    /// Hears that a connection is lost: what was on its way has no answer, and what waits for it looks for the leader
    /// anew.
    pub(super) fn lost(&mut self, way: Way, error: &Error) {
        let now = Instant::now();
        let Some(link) = self.links.get_mut(&way) else { return };
        if let Some((_, task)) = link.line.take() {
            task.abort();
        }
        let until = now + link.backoff.wait();
        link.down_until = Some(until);
        (link.versions, link.bytes_in_flight, link.overdue, link.failing) = (None, 0, false, true);
        let on_way: Vec<Part> = std::mem::take(&mut link.in_flight).into_iter().flatten().collect();
        let waiting = std::mem::take(&mut link.ready);
        let mut lanes: Vec<usize> = on_way.iter().map(|part| part.lane).chain(waiting.iter().copied()).collect();
        lanes.sort_unstable();
        lanes.dedup();
        for part in on_way {
            self.lanes[part.lane].unanswered(part.sequence);
        }
        for at in waiting {
            self.lanes[at].queued = false;
            self.lanes[at].drain();
        }
        tracing::debug!("{way}: {error}");
        if error.retryable() {
            self.troubles.note(way.to_string(), error.to_string(), now);
        }
        for at in lanes {
            if error.retryable() {
                self.settle(at, Some(until), now);
            } else {
                self.refuse(at, NO_CODE, Error::failed(error.to_string()), now);
            }
        }
    }

    /// Takes note that there is nothing wrong with a connection; the broker is right again when that is so of all to it.
    pub(super) fn answers_again(&mut self, way: Way) {
        let fails = |(other, link): (&Way, &Link)| other.broker == way.broker && link.failing;
        if !self.troubles.is_empty() && !self.links.iter().any(fails) {
            self.right_again(&way.to_string());
        }
    }

    /// Forgets connections that are down and that nobody needs: what is wrong with them concerns us no longer.
    pub(super) fn forget_links(&mut self) {
        if !self.seeking.is_empty() {
            // One of these may need it in a moment; there will be another look.
            return;
        }
        let needed = |way: &Way| self.lanes.iter().any(|lane| matches!(lane.state, State::Led(of) if of == *way));
        let down = self.links.iter().filter(|(_, link)| link.line.is_none()).map(|(way, _)| *way);
        let gone: Vec<Way> = down.filter(|way| !needed(way)).collect();
        for way in gone {
            self.links.remove(&way);
            self.answers_again(way);
        }
    }
}
