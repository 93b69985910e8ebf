//! A fetch session ([KIP-227](https://cwiki.apache.org/confluence/display/KAFKA/KIP-227)): the broker remembers which
//! partitions we read and from where, so that a request names only those that have changed.
//!
//! Fairness: a broker fills an answer in the order of the partitions. One that is not the first gets nothing, and no
//! error, while its next batch is larger than what is left; behind busy neighbours that is for ever. Both sides move
//! a partition that got data to the end. Where that does not help, the session is made anew with the hungriest
//! partition first, which always gets a batch.

use std::collections::{HashMap, HashSet};

use kafka_protocol::messages as m;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::protocol::StrBytes;

use crate::record::{Offset, Partition};

/// The first version with sessions.
const SESSIONS: i16 = 7;
/// The first version that carries the epoch of the last batch fetched.
pub const LAST_FETCHED_EPOCH: i16 = 12;
/// The first version that names topics by id.
const TOPIC_IDS: i16 = 13;

const SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_SESSION_EPOCH: i16 = 71;
const INCONSISTENT_TOPIC_ID: i16 = 103;
const SESSION_TOPIC_ID_ERROR: i16 = 106;

/// Answers in which a partition that is behind may get nothing before it is put first, beyond the number of answers
/// that the others need to have their turn. With less, a session would be made anew over mere bad luck.
const PATIENCE: u32 = 2;

/// A partition to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// The partition.
    pub partition: Partition,
    /// The offset to read next.
    pub position: Offset,
    /// The leader epoch that we know, −1 for none.
    pub leader_epoch: i32,
    /// The leader epoch of the last batch that we hold, −1 for none: the leader tells us if its log differs.
    pub last_epoch: i32,
    /// Whether the leader has said that there is more to read.
    pub behind: bool,
}

/// What bounds an answer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the broker may wait for data, ms.
    pub wait_ms: i32,
    /// The bytes that end the wait.
    pub min_bytes: i32,
    /// The bytes of the answer.
    pub max_bytes: i32,
    /// The bytes of one partition.
    pub partition_max_bytes: i32,
}

/// What to make of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its partitions count.
    Good,
    /// The session is over; ask again, on a new one.
    Again,
    /// The broker refuses with this error code.
    Refused(i16),
}

/// What the broker knows of a partition.
#[derive(Debug)]
struct Sent {
    position: Offset,
    leader_epoch: i32,
    last_epoch: i32,
}

/// A partition's turn.
#[derive(Debug, Default)]
struct Turn {
    /// The number of the answer that last brought it data: the lowest is asked for first.
    served: u64,
    /// Answers since then that brought nothing though there was more to read.
    hungry: u32,
}

/// The state of a fetch session over one connection.
#[derive(Debug, Default)]
pub struct Session {
    id: i32,
    /// The epoch of the next request; 0 asks for a new session.
    epoch: i32,
    sent: HashMap<Partition, Sent>,
    turns: HashMap<Partition, Turn>,
    answers: u64,
    /// What the last request asked for before everything else, where it was a full one: the broker sends at least one
    /// batch of it, whatever its size.
    first: Option<Partition>,
    /// Whether the last answer was empty, or late, for a quota's sake.
    throttled: bool,
}

impl Session {
    /// Makes the next request for exactly the partitions in `wants`, which it orders by whose turn it is.
    pub fn request(&mut self, wants: &mut [Want], limits: &Limits, version: i16) -> m::FetchRequest {
        let turn = |want: &Want| self.turns.get(&want.partition).map_or(0, |turn| turn.served);
        wants.sort_by_cached_key(|want| (turn(want), want.partition.clone()));
        if version < SESSIONS {
            self.epoch = 0;
        }
        if version < TOPIC_IDS && self.replaces(wants) {
            self.renew(self.id);
        }
        let full = self.epoch == 0;
        if full {
            self.sent.clear();
        }
        self.first = wants.first().filter(|_| full).map(|want| want.partition.clone());
        let mut topics = Vec::new();
        for want in wants.iter() {
            let now = Sent { position: want.position, leader_epoch: want.leader_epoch, last_epoch: want.last_epoch };
            if self.sent.get(&want.partition).is_some_and(|sent| sent.is(&now)) {
                continue;
            }
            ask(&mut topics, want, limits, version);
            self.sent.insert(want.partition.clone(), now);
        }
        let forgotten = self.forget(wants, version);
        let request = m::FetchRequest::default()
            .with_max_wait_ms(limits.wait_ms)
            .with_min_bytes(limits.min_bytes)
            .with_max_bytes(limits.max_bytes)
            .with_isolation_level(1)
            .with_topics(topics)
            .with_forgotten_topics_data(forgotten)
            .with_replica_id(m::BrokerId(-1))
            .with_replica_state(ReplicaState::default());
        if version < SESSIONS {
            return request;
        }
        request.with_session_id(self.id).with_session_epoch(self.epoch)
    }

    /// Hears an answer; where it is good, [`Session::take_turns`] follows.
    pub fn accept(&mut self, answer: &m::FetchResponse, version: i16) -> Verdict {
        match answer.error_code {
            0 => {}
            SESSION_ID_NOT_FOUND | SESSION_TOPIC_ID_ERROR | INCONSISTENT_TOPIC_ID | INVALID_SESSION_EPOCH => {
                // An id that the broker does not know would only be refused again; any other is closed by a full
                // request that names it.
                let id = if answer.error_code == SESSION_ID_NOT_FOUND { 0 } else { self.id };
                self.renew(id);
                return Verdict::Again;
            }
            code => {
                self.renew(self.id);
                return Verdict::Refused(code);
            }
        }
        self.answers += 1;
        self.throttled = answer.throttle_time_ms > 0;
        if version < SESSIONS || answer.session_id == 0 {
            // The broker keeps no session for us (it keeps a thousand): each request is a full one.
            self.renew(0);
        } else {
            self.id = answer.session_id;
            self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
        }
        Verdict::Good
    }

    /// Takes turns after a good answer: `fed` got data; of `wants`, what is behind and was not fed waits on. Where one
    /// has waited too long, the next request makes a new session with it in front. Returns what got nothing even there:
    /// the broker does not send what it says there is.
    pub fn take_turns(&mut self, wants: &[Want], fed: &HashSet<Partition>, limits: &Limits) -> Option<Partition> {
        let served_at_once = (limits.max_bytes / limits.partition_max_bytes.max(1)).max(1) as usize;
        let patience = PATIENCE + (wants.len() / served_at_once) as u32;
        let (mut starved, mut denied) = (false, None);
        for want in wants {
            let fed = fed.contains(&want.partition);
            if !fed && !want.behind && !self.turns.contains_key(&want.partition) {
                continue;
            }
            let turn = self.turns.entry(want.partition.clone()).or_default();
            if fed {
                *turn = Turn { served: self.answers, hungry: 0 };
            } else {
                turn.hungry = if want.behind { turn.hungry + 1 } else { 0 };
                starved |= turn.hungry > patience;
                if want.behind && !self.throttled && self.first.as_ref() == Some(&want.partition) {
                    // Another one that gets nothing has its turn to be first.
                    turn.served = self.answers;
                    denied = Some(want.partition.clone());
                }
            }
        }
        if starved {
            self.turns.values_mut().for_each(|turn| turn.hungry = 0);
            self.renew(self.id);
        }
        denied
    }

    /// Forgets a partition's turn, when it is no longer read here.
    pub fn drop_turn(&mut self, partition: &Partition) {
        self.turns.remove(partition);
    }

    /// Begins a new session with the next request; `id` is the old one, for the broker to close, or 0.
    fn renew(&mut self, id: i32) {
        self.id = id;
        self.epoch = 0;
        self.sent.clear();
    }

    /// Returns whether a partition is wanted in place of another one of its name and index: a broker that knows them by
    /// name would forget the new one with the old.
    fn replaces(&self, wants: &[Want]) -> bool {
        let by_name: HashMap<_, _> =
            wants.iter().map(|want| ((&want.partition.topic, want.partition.index), want.partition.topic_id)).collect();
        self.sent.keys().any(|sent| by_name.get(&(&sent.topic, sent.index)).is_some_and(|id| *id != sent.topic_id))
    }

    /// Takes out what is no longer wanted and returns it for the broker to forget.
    fn forget(&mut self, wants: &[Want], version: i16) -> Vec<ForgottenTopic> {
        if self.sent.len() == wants.len() {
            return Vec::new();
        }
        let wanted: HashSet<&Partition> = wants.iter().map(|want| &want.partition).collect();
        let mut gone: Vec<Partition> = self.sent.keys().filter(|sent| !wanted.contains(sent)).cloned().collect();
        gone.sort();
        let mut forgotten: Vec<ForgottenTopic> = Vec::new();
        let mut last: Option<Partition> = None;
        for partition in gone {
            self.sent.remove(&partition);
            match forgotten.last_mut() {
                Some(topic) if last.as_ref().is_some_and(|last| same_topic(last, &partition)) => {
                    topic.partitions.push(partition.index);
                }
                _ => {
                    let topic = ForgottenTopic::default().with_partitions(vec![partition.index]);
                    forgotten.push(if version >= TOPIC_IDS {
                        topic.with_topic_id(partition.topic_id.0)
                    } else {
                        topic.with_topic(StrBytes::from_string(partition.topic.to_string()).into())
                    });
                }
            }
            last = Some(partition);
        }
        forgotten
    }
}

impl Sent {
    fn is(&self, other: &Self) -> bool {
        (self.position, self.leader_epoch, self.last_epoch) == (other.position, other.leader_epoch, other.last_epoch)
    }
}

fn same_topic(a: &Partition, b: &Partition) -> bool {
    a.topic == b.topic && a.topic_id == b.topic_id
}

/// Adds a partition to a request; a topic stands as often as the order of the partitions asks for.
fn ask(topics: &mut Vec<FetchTopic>, want: &Want, limits: &Limits, version: i16) {
    let mut partition = FetchPartition::default()
        .with_partition(want.partition.index)
        .with_current_leader_epoch(want.leader_epoch)
        .with_fetch_offset(want.position)
        .with_partition_max_bytes(limits.partition_max_bytes);
    if version >= LAST_FETCHED_EPOCH {
        partition = partition.with_last_fetched_epoch(want.last_epoch);
    }
    let by_id = version >= TOPIC_IDS;
    match topics.last_mut() {
        Some(last) if by_id && last.topic_id == want.partition.topic_id.0 => last.partitions.push(partition),
        Some(last) if !by_id && *last.topic.as_str() == *want.partition.topic => last.partitions.push(partition),
        _ => {
            let topic = FetchTopic::default().with_partitions(vec![partition]);
            topics.push(if by_id {
                topic.with_topic_id(want.partition.topic_id.0)
            } else {
                topic.with_topic(StrBytes::from_string(want.partition.topic.to_string()).into())
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicId;

    const LIMITS: Limits = Limits { wait_ms: 500, min_bytes: 1, max_bytes: 1 << 20, partition_max_bytes: 1 << 20 };

    fn want(topic: &str, index: i32, position: Offset) -> Want {
        let topic_id = TopicId(uuid::Uuid::from_u128(topic.len() as u128));
        let partition = Partition { topic: topic.into(), topic_id, index };
        Want { partition, position, leader_epoch: 4, last_epoch: 3, behind: false }
    }

    fn asked(request: &m::FetchRequest) -> Vec<(i32, Offset)> {
        let topics = request.topics.iter().flat_map(|topic| &topic.partitions);
        topics.map(|partition| (partition.partition, partition.fetch_offset)).collect()
    }

    fn answer(session_id: i32) -> m::FetchResponse {
        m::FetchResponse::default().with_session_id(session_id)
    }

    #[test]
    fn a_session_names_everything_once_and_then_only_what_changed() {
        let mut session = Session::default();
        let first = session.request(&mut [want("t", 0, 10), want("t", 1, 20)], &LIMITS, 12);
        assert_eq!((first.session_id, first.session_epoch), (0, 0));
        assert_eq!(asked(&first), [(0, 10), (1, 20)]);
        assert_eq!(session.accept(&answer(77), 12), Verdict::Good);
        let second = session.request(&mut [want("t", 0, 15), want("t", 1, 20)], &LIMITS, 12);
        assert_eq!((second.session_id, second.session_epoch, asked(&second)), (77, 1, vec![(0, 15)]));
    }

    #[test]
    fn what_is_no_longer_wanted_is_forgotten_and_comes_back_when_wanted_again() {
        let mut session = Session::default();
        let both = [want("t", 0, 1), want("t", 1, 2)];
        session.request(&mut both.clone(), &LIMITS, 13);
        session.accept(&answer(5), 13);
        let request = session.request(&mut both[1..].to_vec(), &LIMITS, 13);
        let forgotten = &request.forgotten_topics_data;
        assert_eq!((forgotten.len(), forgotten[0].topic_id), (1, both[0].partition.topic_id.0));
        assert_eq!((forgotten[0].partitions.as_slice(), request.topics.len()), (&[0][..], 0));
        session.accept(&answer(5), 13);
        assert_eq!(asked(&session.request(&mut both.clone(), &LIMITS, 13)), [(0, 1)]);
    }

    #[test]
    fn by_name_a_topic_made_again_begins_a_new_session() {
        let mut session = Session::default();
        session.request(&mut [want("t", 0, 50)], &LIMITS, 12);
        session.accept(&answer(77), 12);
        let mut again = want("t", 0, 0);
        again.partition.topic_id = TopicId(uuid::Uuid::from_u128(99));
        let request = session.request(&mut [again], &LIMITS, 12);
        assert_eq!((request.session_epoch, asked(&request)), (0, vec![(0, 0)]));
        assert!(request.forgotten_topics_data.is_empty());
    }

    #[test]
    fn a_session_the_broker_lost_is_made_anew_in_full() {
        for (code, id) in [(SESSION_ID_NOT_FOUND, 0), (INVALID_SESSION_EPOCH, 77)] {
            let mut session = Session::default();
            session.request(&mut [want("t", 0, 1)], &LIMITS, 12);
            session.accept(&answer(77), 12);
            session.request(&mut [want("t", 0, 1)], &LIMITS, 12);
            assert_eq!(session.accept(&answer(0).with_error_code(code), 12), Verdict::Again);
            let request = session.request(&mut [want("t", 0, 1)], &LIMITS, 12);
            assert_eq!((request.session_id, request.session_epoch, asked(&request)), (id, 0, vec![(0, 1)]));
        }
    }

    #[test]
    fn without_a_session_every_request_is_full() {
        let mut session = Session::default();
        for (version, id) in [(12, 0), (12, 0), (4, 0)] {
            let request = session.request(&mut [want("t", 0, 1)], &LIMITS, version);
            assert_eq!((asked(&request).len(), request.session_id), (1, id));
            assert_eq!(session.accept(&answer(0), version), Verdict::Good);
        }
    }

    #[test]
    fn another_error_of_the_whole_answer_is_told() {
        let mut session = Session::default();
        assert_eq!(session.accept(&answer(0).with_error_code(29), 12), Verdict::Refused(29));
    }

    #[test]
    fn who_got_data_moves_to_the_end() {
        let mut session = Session::default();
        let mut wants = [want("t", 0, 1), want("t", 1, 1), want("t", 2, 1)];
        session.request(&mut wants, &LIMITS, 4);
        session.accept(&answer(0), 4);
        session.take_turns(&wants, &HashSet::from([wants[0].partition.clone()]), &LIMITS);
        let order: Vec<_> = asked(&session.request(&mut wants, &LIMITS, 4)).iter().map(|(index, _)| *index).collect();
        assert_eq!(order, [1, 2, 0]);
    }

    #[test]
    fn a_starved_partition_is_put_first_on_a_new_session() {
        let mut session = Session::default();
        let mut wants = [want("t", 0, 1), want("t", 1, 1)];
        wants[1].behind = true;
        for round in 0..100 {
            let request = session.request(&mut wants, &LIMITS, 12);
            if round > 0 && request.session_epoch == 0 {
                assert_eq!(request.topics[0].partitions[0].partition, 1);
                assert_eq!(request.session_id, 9);
                return;
            }
            session.accept(&answer(9), 12);
            let fed = wants.iter().filter(|want| want.partition.index == 0).map(|want| want.partition.clone());
            session.take_turns(&wants, &fed.collect(), &LIMITS);
        }
        panic!("partition 1 starved");
    }

    #[test]
    fn what_gets_nothing_even_in_front_is_named_and_no_quota_is_taken_for_that() {
        for (throttle_ms, version) in [(0, 12), (0, 4), (5, 12)] {
            let mut session = Session::default();
            let mut wants = [want("t", 0, 1), want("t", 1, 1), want("t", 2, 1)];
            wants.iter_mut().for_each(|want| want.behind = want.partition.index > 0);
            let mut denied = HashSet::new();
            for _ in 0..100 {
                session.request(&mut wants, &LIMITS, version);
                session.accept(&answer(9).with_throttle_time_ms(throttle_ms), version);
                let fed = wants.iter().filter(|want| want.partition.index == 0).map(|want| want.partition.clone());
                denied.extend(session.take_turns(&wants, &fed.collect(), &LIMITS).map(|partition| partition.index));
            }
            let expected = if throttle_ms > 0 { HashSet::new() } else { HashSet::from([1, 2]) };
            assert_eq!(denied, expected, "version {version}");
        }
    }

    #[test]
    fn every_version_that_we_use_can_be_written() {
        use kafka_protocol::protocol::Encodable as _;
        for version in 4..=17 {
            let mut session = Session::default();
            for position in 0..3 {
                let mut wants = vec![want("t", 0, position), want("tt", 0, position)];
                wants.truncate(if position == 2 { 1 } else { 2 });
                let request = session.request(&mut wants, &LIMITS, version);
                request.encode(&mut bytes::BytesMut::new(), version).expect("it encodes");
                session.accept(&answer(3), version);
            }
        }
    }
}
