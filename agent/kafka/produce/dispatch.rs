//! The one task that owns all state of a producer: which partition goes where, what goes into the next request, what an
//! answer means, what is tried again when.
//!
//! Leaders are looked up for all partitions that seek one at once. A connection is opened when a partition needs it, and
//! numbered: what an older one still tells is void.

mod links;
mod placing;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kafka_protocol::messages as m;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::lane::{Lane, State};
use super::link::{Event, Told, Way};
use super::request::{Head, Layout};
use super::trouble::Troubles;
use super::verdict::{self, MESSAGE_TOO_LARGE, NO_CODE, Verdict};
use super::{Answer, Command, Settings};
use crate::backoff::Backoff;
use crate::batch::outgoing::{Identity, Outgoing};
use crate::error::Error;
use crate::frames::Frames;
use crate::kafka::Client;
use crate::record::{Partition, Timestamp, TopicId};
use links::{Link, Part};

/// The longest wait before a partition is tried again. Leaders are elected in seconds: with ten times this, most of an
/// outage would be our own wait.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

/// A partition forgets a producer that was silent for a day, and with it who was fenced off there: a process that was
/// stopped for longer could append beside the one that took its place. Half of it, so that clocks may differ.
const SILENT_FOR_MS: i64 = 12 * 3_600_000;

/// A request that no broker takes by default (`socket.request.max.bytes` is 100 MiB): it would close the connection, again
/// and again.
const MOST_BYTES: usize = (100 << 20) - (1 << 10);

/// The state of a producer.
pub(super) struct Dispatch<T> {
    client: Client,
    identity: Identity,
    /// In whose transactions its batches are.
    transactional_id: Option<String>,
    settings: Settings,
    /// How long a broker may wait for its replicas.
    replicas_ms: i32,
    commands: mpsc::UnboundedReceiver<Command<T>>,
    told: mpsc::UnboundedReceiver<Told>,
    tell: mpsc::UnboundedSender<Told>,
    answers: mpsc::UnboundedSender<Answer<T>>,
    /// The connections, and at most one look at the cluster. They end with this.
    tasks: JoinSet<()>,
    lanes: Vec<Lane<T>>,
    by_id: HashMap<TopicId, HashMap<i32, usize>>,
    by_name: HashMap<Arc<str>, HashMap<i32, usize>>,
    links: HashMap<Way, Link>,
    /// How many partitions each broker was given, so that its connections get them in turn.
    dealt: HashMap<i32, usize>,
    /// The number of the next connection.
    serial: u64,
    seeking: BTreeSet<usize>,
    looking: bool,
    /// Whether the cluster is to be looked at though nothing seeks.
    look_due: bool,
    looks: Backoff,
    look_not_before: Option<Instant>,
    troubles: Troubles,
    frames: Frames,
    fenced: Option<Error>,
    /// When a broker was last heard, first by whoever fenced, by the clock that goes on while a machine sleeps.
    heard: Timestamp,
}

impl<T: Send + 'static> Dispatch<T> {
    pub(super) fn new(
        client: Client,
        (identity, transactional_id): (Identity, Option<String>),
        settings: Settings,
        commands: mpsc::UnboundedReceiver<Command<T>>,
        answers: mpsc::UnboundedSender<Answer<T>>,
    ) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        let looks = waits(&client);
        // Less than we wait for an answer, so that the broker says why it has none.
        let replicas_ms = (client.properties().request_timeout * 2 / 3).as_millis() as i32;
        Self {
            client,
            identity,
            transactional_id,
            settings,
            replicas_ms,
            commands,
            told,
            tell,
            answers,
            tasks: JoinSet::new(),
            lanes: Vec::new(),
            by_id: HashMap::new(),
            by_name: HashMap::new(),
            links: HashMap::new(),
            dealt: HashMap::new(),
            serial: 0,
            seeking: BTreeSet::new(),
            looking: false,
            look_due: false,
            looks,
            look_not_before: None,
            troubles: Troubles::default(),
            frames: Frames::default(),
            fenced: None,
            heard: settings.fenced_at,
        }
    }

    /// Works until the producer is dropped, or fenced.
    pub(super) async fn run(mut self) {
        loop {
            let wake = self.wake();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(told) = self.told.recv() => self.hear(told),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            // All there is, so that one request carries what came together.
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command);
            }
            while let Ok(told) = self.told.try_recv() {
                self.hear(told);
            }
            while self.tasks.try_join_next().is_some() {}
            if self.is_silent() {
                let what = "nothing was heard of a broker for 12 hours: another process may have taken over unnoticed";
                self.fenced
                    .get_or_insert_with(|| Error::failed(what).hint("nothing more is sent from here; start again"));
            }
            if let Some(error) = self.fenced.take() {
                self.answer(Answer::Fenced(error));
                return;
            }
            let now = Instant::now();
            self.look_up(now);
            let ways: Vec<Way> = self.links.keys().copied().collect();
            for way in ways {
                while self.ship(way) {}
            }
            for (subject, reason) in self.troubles.tell(now) {
                self.answer(Answer::Trouble { subject, reason: Some(reason) });
            }
        }
    }

    /// Returns whether nothing was heard for so long that the fence may be forgotten.
    fn is_silent(&self) -> bool {
        Timestamp::now().0.saturating_sub(self.heard.0) > SILENT_FOR_MS
    }

    /// Returns when there is something to do though nothing is told.
    fn wake(&self) -> Option<Instant> {
        let at = |lane: &usize| match self.lanes[*lane].state {
            State::Seeking(at) => Some(at.max(self.look_not_before.unwrap_or(at))),
            _ => None,
        };
        let due = self.look_not_before.filter(|_| self.look_due);
        let seek = self.seeking.iter().filter_map(at).chain(due).filter(|_| !self.looking).min();
        seek.into_iter().chain(self.troubles.due()).min()
    }

    fn obey(&mut self, command: Command<T>) {
        match command {
            Command::Open(partition, sequence) => self.open(partition, sequence),
            Command::Send(partition, batch, token) => self.take(partition, batch, token),
        }
    }

    fn open(&mut self, partition: Partition, sequence: i32) {
        let lane = Lane::new(partition.clone(), sequence, waits(&self.client), Instant::now());
        let at = match self.lane_of(&partition) {
            Some(at) if matches!(self.lanes[at].state, State::Over(_)) => {
                self.lanes[at] = lane;
                at
            }
            Some(_) => {
                debug_assert!(false, "{partition} is open");
                return;
            }
            None => {
                self.lanes.push(lane);
                self.lanes.len() - 1
            }
        };
        self.by_name.entry(partition.topic.clone()).or_default().insert(partition.index, at);
        if !partition.topic_id.is_none() {
            self.by_id.entry(partition.topic_id).or_default().insert(partition.index, at);
        }
        self.seeking.insert(at);
    }

    fn take(&mut self, partition: Partition, batch: Outgoing, token: T) {
        let lane = self.lane_of(&partition);
        let code = match lane.map(|at| &self.lanes[at].state) {
            Some(State::Over(code)) => *code,
            Some(_) => {
                let at = lane.unwrap_or_default();
                self.lanes[at].put(batch, token);
                self.queue(at);
                return;
            }
            None => NO_CODE,
        };
        let error = Error::failed(format!("partition {partition} is not open; nothing is sent to it"));
        self.answer(Answer::Refused { partition, error, code, sequence: -1, batches: vec![(batch, token)] });
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Looked(began, metadata) => self.looked(began, metadata),
            Told::Link(way, serial, event) => {
                if self.links.get(&way).is_none_or(|link| link.serial != serial) {
                    return;
                }
                match event {
                    Event::Up(versions) => self.up(way, versions),
                    Event::Answered(answer) => self.answered(way, answer),
                    Event::Overdue => self.overdue(way),
                    Event::Lost(error) => self.lost(way, &error),
                }
            }
        }
    }

    /// Hears the answer to the first request that is on its way over a connection.
    fn answered(&mut self, way: Way, answer: m::ProduceResponse) {
        // What lay there while we were stopped says nothing of now.
        if !self.is_silent() {
            self.heard = Timestamp::now();
        }
        let Some(parts) = self.links.get_mut(&way).and_then(Link::arrived) else { return };
        self.answers_again(way);
        let now = Instant::now();
        let mut left = parts.len();
        let mut heard = vec![false; parts.len()];
        for topic in &answer.responses {
            let lanes = match topic.topic_id.is_nil() {
                true => self.by_name.get(topic.name.as_str()),
                false => self.by_id.get(&TopicId(topic.topic_id)),
            };
            // Its own list, since the lanes are changed below.
            let lanes: Vec<Option<usize>> = topic
                .partition_responses
                .iter()
                .map(|told| lanes.and_then(|lanes| lanes.get(&told.index)).copied())
                .collect();
            for (told, lane) in topic.partition_responses.iter().zip(lanes) {
                let Some(at) = lane.and_then(|lane| parts.binary_search_by_key(&lane, |part| part.lane).ok()) else {
                    continue;
                };
                if !std::mem::replace(&mut heard[at], true) {
                    left -= 1;
                    let said = told.error_message.as_ref().map(|said| said.as_str());
                    self.landing(way, parts[at], (told.error_code, told.base_offset), said, now);
                }
            }
        }
        for (part, _) in parts.iter().zip(heard).filter(|(_, heard)| left > 0 && !heard) {
            self.lanes[part.lane].unanswered(part.sequence);
            self.go_on(part.lane, now);
        }
    }

    fn landing(&mut self, way: Way, part: Part, told: (i16, i64), said: Option<&str>, now: Instant) {
        let lane = &mut self.lanes[part.lane];
        let (verdict, again) = lane.answered(part.sequence, told, said, now);
        if let Some(reason) = again {
            let subject = lane.partition.to_string();
            self.troubles.note(subject, format!("{way} answers {reason}"), now);
        }
        if verdict == Verdict::Fenced {
            let what = format!("{way}, asked to append to {},", self.lanes[part.lane].partition);
            self.fenced.get_or_insert_with(|| verdict::fenced(&what, told.0));
        }
        self.go_on(part.lane, now);
    }

    /// Goes on with a partition after something has arrived of what it has on its way.
    fn go_on(&mut self, at: usize, now: Instant) {
        let lane = &mut self.lanes[at];
        let mut landed = false;
        while let Some(batch) = lane.land() {
            landed = true;
            let partition = lane.partition.clone();
            let (first, records, token) = (batch.first, batch.records, batch.token);
            // Nobody listens only when the producer was dropped, and this task with it.
            let _ = self.answers.send(Answer::Landed { partition, first, records, token });
        }
        if landed && !self.troubles.is_empty() {
            self.right_again(&self.lanes[at].partition.to_string());
        }
        self.settle(at, None, now);
        self.queue(at);
    }

    /// Lets a partition that has failed go on when nothing of it is on its way any more.
    fn settle(&mut self, at: usize, not_before: Option<Instant>, now: Instant) {
        if let Some((refusal, returned)) = self.lanes[at].settle(not_before, now) {
            let partition = self.lanes[at].partition.clone();
            self.right_again(&partition.to_string());
            self.seeking.remove(&at);
            let (sequence, batches) = (returned.sequence, returned.batches);
            self.answer(Answer::Refused { partition, error: refusal.error, code: refusal.code, sequence, batches });
        }
        if matches!(self.lanes[at].state, State::Seeking(_)) {
            self.seeking.insert(at);
        }
    }

    /// Ends a partition.
    fn refuse(&mut self, at: usize, code: i16, error: Error, now: Instant) {
        self.lanes[at].refuse(code, error);
        self.settle(at, None, now);
    }

    /// Sends the next request on its way; returns whether there was one.
    fn ship(&mut self, way: Way) -> bool {
        let Some((parts, version)) = self.gather(way) else { return false };
        let Some(link) = self.links.get_mut(&way) else { return false };
        let mut order: Vec<&Part> = parts.iter().collect();
        order.sort_by(|a, b| self.lanes[a.lane].partition.cmp(&self.lanes[b.lane].partition));
        let is_transactional = self.transactional_id.is_some();
        let mut sealed = Vec::with_capacity(order.len());
        for part in order {
            let Some(batch) = self.lanes[part.lane].seal(part.sequence, self.identity, is_transactional) else {
                continue;
            };
            sealed.push((part.lane, batch));
        }
        let batches: Vec<_> = sealed.into_iter().map(|(at, batch)| (&self.lanes[at].partition, batch)).collect();
        let client_id = self.client.properties().client_id.as_str();
        let (correlation, transactional_id) = (link.correlation, self.transactional_id.as_deref());
        let head = Head { version, correlation, client_id, transactional_id, timeout_ms: self.replicas_ms };
        let pieces = Layout::pieces(&head, &batches, &self.frames);
        link.ship(parts, pieces, version);
        true
    }

    /// Takes from a connection's queue what goes into its next request, in order of the partitions' numbers, and the version
    /// of the request.
    fn gather(&mut self, way: Way) -> Option<(Vec<Part>, i16)> {
        let link = self.links.get_mut(&way)?;
        let mut room = link.room(self.settings.in_flight_bytes)?;
        room = room.min(self.settings.request_bytes);
        let (mut parts, mut later, mut refused, mut moved) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut total, mut request_version) = (0, None);
        while let Some(at) = link.ready.pop_front() {
            let lane = &mut self.lanes[at];
            lane.queued = false;
            if !matches!(lane.state, State::Led(of) if of == way) {
                moved.push(at);
                continue;
            }
            let Some(bytes) = lane.next_bytes() else { continue };
            if bytes > MOST_BYTES {
                // What is on its way lands first; it comes back here then.
                if !lane.has_sent() {
                    refused.push((at, MESSAGE_TOO_LARGE, too_large(&lane.partition, bytes)));
                }
                continue;
            }
            let Some(version) = link.version(lane.partition.topic_id) else {
                let error = Error::failed(format!("{way} knows topics by id only, and {} has none", lane.partition));
                refused.push((at, NO_CODE, error));
                continue;
            };
            let fits = parts.is_empty() || total + bytes <= room;
            if !fits || request_version.is_some_and(|of| of != version) {
                lane.queued = true;
                link.ready.push_front(at);
                break;
            }
            let Some(sequence) = lane.depart() else { continue };
            request_version = Some(version);
            total += bytes;
            parts.push(Part { lane: at, sequence, bytes });
            if lane.next_bytes().is_some() {
                later.push(at);
            }
        }
        for at in later {
            self.lanes[at].queued = true;
            link.ready.push_back(at);
        }
        for (at, code, error) in refused {
            self.refuse(at, code, error, Instant::now());
        }
        // Another broker leads it by now.
        for at in moved {
            self.queue(at);
        }
        parts.sort_by_key(|part| part.lane);
        (!parts.is_empty()).then(|| (parts, request_version.unwrap_or_default()))
    }

    fn lane_of(&self, partition: &Partition) -> Option<usize> {
        let lanes = match partition.topic_id.is_none() {
            true => self.by_name.get(&partition.topic),
            false => self.by_id.get(&partition.topic_id),
        };
        lanes?.get(&partition.index).copied()
    }

    fn right_again(&mut self, subject: &str) {
        if self.troubles.clear(subject) {
            self.answer(Answer::Trouble { subject: subject.to_owned(), reason: None });
        }
    }

    fn answer(&self, answer: Answer<T>) {
        // Nobody listens only when the producer was dropped, and this task with it.
        let _ = self.answers.send(answer);
    }
}

fn too_large(partition: &Partition, bytes: usize) -> Error {
    Error::failed(format!("a batch of {bytes} bytes for {partition} is more than a broker takes in a request"))
        .hint("it takes 100 MiB (`socket.request.max.bytes`)")
}

/// Returns the waits between attempts of a producer.
fn waits(client: &Client) -> Backoff {
    let properties = client.properties();
    Backoff::new(properties.backoff, properties.backoff_max.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Properties;

    #[tokio::test]
    async fn who_was_silent_for_longer_than_a_fence_is_remembered_sends_nothing_more() {
        let map = [("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())];
        let client = Client::new(Properties::new(map.into()).expect("good properties"));
        let (commands, heard) = mpsc::unbounded_channel();
        let (answer, mut answers) = mpsc::unbounded_channel();
        let identity = Identity { producer_id: 1, epoch: 0 };
        // It has looked at the targets since, or was stopped.
        let fenced_at = Timestamp(Timestamp::now().0 - SILENT_FOR_MS - 1_000);
        let settings = Settings { fenced_at, ..Settings::default() };
        let dispatch = Dispatch::<()>::new(client, (identity, None), settings, heard, answer);
        let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 };
        commands.send(Command::Open(partition, 0)).expect("it listens");
        dispatch.run().await;
        let Some(Answer::Fenced(error)) = answers.recv().await else { panic!("it goes on") };
        assert!(error.to_string().contains("12 hours"), "{error}");
    }
}
