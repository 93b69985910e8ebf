//! What a group has committed, changed: the way that commits and deletions of offsets share.
//!
//! Order: pieces go one after the other, in the order of what is to be changed; a piece lands whole, or its partitions are
//! answered for one by one. Retry: what passes (a coordinator that moves or loads, an answer that is lost, a topic that the
//! coordinator's broker does not know yet) is asked again with back-off, and only those partitions; both changes may be done
//! twice, so one whose answer is lost is simply sent again. It is given up [`GIVE_UP_AFTER`] after the last progress: a
//! partition settled, or a piece made smaller. Cancel: safe; what was sent may land. A crash: the same; who begins anew reads
//! what there is.
//!
//! **Pieces.** The coordinator writes all of a request as one batch into `__consumer_offsets`, and refuses one that does not
//! fit there, in words that tell nothing (Kafka 4.2: UNKNOWN_SERVER_ERROR). So a piece holds at most [`PIECE_BYTES`] of that
//! batch, and one that is refused so is halved.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError as E;
use tokio::time::{Instant, sleep};

use super::coordinators::Unfound;
use super::{ACTIVE, Client, CommittedOffset, GIVE_UP_AFTER, Requests, passes};
use crate::error::{Error, Result};
use crate::kafka::code_name;

/// The most bytes of a piece, as the coordinator writes them. With twice as many, a batch would be near what brokers take
/// (1 MiB); with half, groups of a thousand partitions and long metadata take twice the requests.
const PIECE_BYTES: usize = 512 << 10;

/// What an offset takes in the coordinator's batch beside the names and the metadata: lengths, versions, times.
const RECORD_BYTES: usize = 64;

/// How long a topic may be unknown to a coordinator: longer than the news of a new topic takes, and short for whoever
/// waits to be told that there is none.
const TOPIC_SETTLES: Duration = Duration::from_secs(5);

/// NETWORK_EXCEPTION: Kafka's own code for an answer that did not come.
pub(super) const NO_ANSWER: i16 = 13;

/// What became of one partition of a commit or a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The coordinator has it.
    Done,
    /// It was not done, or nobody knows that it was.
    Refused {
        /// Kafka's code: NETWORK_EXCEPTION where nobody answered.
        code: i16,
        /// One line for people, with Kafka's name of the code.
        why: String,
    },
}

/// What is done with partitions of a group. Partitions are told by where they stand in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// These offsets are committed.
    Commit(&'a [CommittedOffset]),
    /// What is committed for these partitions is deleted.
    Delete(&'a [(String, i32)]),
}

/// A change on its way.
struct Changing<'a> {
    client: &'a Client,
    group: &'a str,
    wanted: Wanted<'a>,
    requests: &'a Requests,
    changes: Vec<Change>,
    /// What this round has yet to ask for.
    left: VecDeque<usize>,
    /// What the next round asks for again.
    again: Vec<(usize, Trouble)>,
    /// The most bytes of a piece.
    most_bytes: usize,
    began: Instant,
    progress: Instant,
}

/// Why something is asked for again.
#[derive(Clone)]
struct Trouble {
    code: i16,
    why: Arc<str>,
}

impl Wanted<'_> {
    fn len(self) -> usize {
        match self {
            Self::Commit(offsets) => offsets.len(),
            Self::Delete(partitions) => partitions.len(),
        }
    }

    fn topic(&self, at: usize) -> &str {
        match self {
            Self::Commit(offsets) => &offsets[at].topic,
            Self::Delete(partitions) => &partitions[at].0,
        }
    }

    /// Returns how many bytes the coordinator writes for one of the partitions: names and all, each time.
    fn bytes(self, group: &str, at: usize) -> usize {
        let metadata = match self {
            Self::Commit(offsets) => offsets[at].metadata.len(),
            Self::Delete(_) => 0,
        };
        RECORD_BYTES + group.len() + self.topic(at).len() + metadata
    }

    /// Returns which authority on the group it takes.
    fn authority(self) -> &'static str {
        match self {
            Self::Commit(_) => "READ",
            Self::Delete(_) => "DELETE",
        }
    }
}

impl Client {
    /// Does what is wanted with a group; says what became of each partition.
    pub(super) async fn change(&self, group: &str, wanted: Wanted<'_>, requests: &Requests) -> Vec<Change> {
        let unasked = Change::Refused { code: NO_ANSWER, why: "nobody was asked".to_owned() };
        let mut changing = Changing {
            client: self,
            group,
            wanted,
            requests,
            changes: vec![unasked; wanted.len()],
            left: (0..wanted.len()).collect(),
            again: Vec::new(),
            most_bytes: PIECE_BYTES,
            began: Instant::now(),
            progress: Instant::now(),
        };
        let mut backoff = self.backoff();
        let mut progress = changing.progress;
        loop {
            while !changing.left.is_empty() {
                changing.ask().await;
            }
            if changing.again.is_empty() {
                return changing.changes;
            }
            if changing.progress.elapsed() >= GIVE_UP_AFTER {
                changing.give_up();
                return changing.changes;
            }
            if changing.progress > progress {
                progress = changing.progress;
                backoff.reset();
            }
            sleep(backoff.wait()).await;
            changing.begin_round();
        }
    }
}

impl Changing<'_> {
    /// Asks for the next piece.
    async fn ask(&mut self) {
        let address = match self.client.coordinator(self.group).await {
            Ok(address) => address,
            Err(Unfound::Silent(error)) => return self.lost(&[], &error),
            Err(Unfound::Said(code)) if passes(E::try_from_code(code).unwrap_or(E::Unknown(code))) => {
                return self.put_off(&[], Trouble::of(code));
            }
            Err(Unfound::Said(code)) => return self.refuse_all(code),
        };
        let piece = self.next_piece();
        let began = Instant::now();
        let answer = match self.wanted {
            Wanted::Commit(offsets) => self.client.commit_piece(&address, self.group, offsets, &piece).await,
            Wanted::Delete(partitions) => self.client.delete_piece(&address, self.group, partitions, &piece).await,
        };
        self.requests.note(began.elapsed());
        match answer {
            Ok(codes) => self.take(&piece, &codes),
            Err(error) => self.lost(&piece, &error),
        }
    }

    /// Takes the next piece off what is left: one partition at least.
    fn next_piece(&mut self) -> Vec<usize> {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while let Some(at) = self.left.pop_front() {
            bytes += self.wanted.bytes(self.group, at);
            if bytes > self.most_bytes && !piece.is_empty() {
                self.left.push_front(at);
                break;
            }
            piece.push(at);
        }
        piece
    }

    /// Takes the codes of a piece's partitions, which are in its order.
    fn take(&mut self, piece: &[usize], codes: &[i16]) {
        let (mut too_large, mut moved, mut said) = (Vec::new(), None, None);
        for (at, code) in piece.iter().copied().zip(codes.iter().copied()) {
            match E::try_from_code(code) {
                None => self.settle(at, Change::Done),
                // Nothing is committed by a group that is not there.
                Some(E::GroupIdNotFound) if matches!(self.wanted, Wanted::Delete(_)) => self.settle(at, Change::Done),
                Some(error) if is_too_large(error) && piece.len() > 1 => {
                    said = said.or(Some(code));
                    too_large.push(at);
                }
                Some(error) if self.asks_again(error) => {
                    said = said.or(Some(code));
                    if !matches!(error, E::UnstableOffsetCommit | E::UnknownTopicOrPartition) {
                        moved = Some(Trouble::of(code));
                    }
                    self.again.push((at, Trouble::of(code)));
                }
                Some(_) => self.refuse(at, code),
            }
        }
        if let Some(code) = said {
            self.requests.again(&code_name(code));
        }
        if !too_large.is_empty() {
            let bytes: usize = piece.iter().map(|at| self.wanted.bytes(self.group, *at)).sum();
            self.most_bytes = self.most_bytes.min(bytes / 2);
            too_large.into_iter().rev().for_each(|at| self.left.push_front(at));
            self.progress = Instant::now();
        }
        if let Some(trouble) = moved {
            self.leave(trouble);
        }
    }

    /// Returns whether an error passes by itself, or may.
    fn asks_again(&self, error: E) -> bool {
        passes(error) || error == E::UnknownTopicOrPartition && self.began.elapsed() < TOPIC_SETTLES
    }

    /// Takes note that nobody answered for a piece.
    fn lost(&mut self, piece: &[usize], error: &Error) {
        if error.retryable() {
            self.put_off(piece, Trouble { code: NO_ANSWER, why: error.to_string().into() });
            return;
        }
        let why = error.to_string();
        for at in piece.iter().copied().chain(std::mem::take(&mut self.left)) {
            self.settle(at, Change::Refused { code: NO_ANSWER, why: why.clone() });
        }
    }

    /// Leaves a piece, and what is left of the round, to the next round.
    fn put_off(&mut self, piece: &[usize], trouble: Trouble) {
        self.requests.again(&code_name(trouble.code));
        self.again.extend(piece.iter().map(|at| (*at, trouble.clone())));
        self.leave(trouble);
    }

    /// Leaves what is left to the next round, and to whoever coordinates the group by then.
    fn leave(&mut self, trouble: Trouble) {
        self.client.forget_coordinator(self.group);
        self.again.extend(self.left.drain(..).map(|at| (at, trouble.clone())));
    }

    fn begin_round(&mut self) {
        let mut again: Vec<usize> = self.again.drain(..).map(|(at, _)| at).collect();
        again.sort_unstable();
        self.left = again.into();
    }

    fn settle(&mut self, at: usize, change: Change) {
        self.changes[at] = change;
        self.progress = Instant::now();
    }

    fn refuse(&mut self, at: usize, code: i16) {
        let why = self.why(at, code);
        self.settle(at, Change::Refused { code, why });
    }

    fn refuse_all(&mut self, code: i16) {
        while let Some(at) = self.left.pop_front() {
            self.refuse(at, code);
        }
    }

    fn give_up(&mut self) {
        for (at, Trouble { code, why }) in std::mem::take(&mut self.again) {
            let why = format!("{why}; given up after {} s, try again", GIVE_UP_AFTER.as_secs());
            self.settle(at, Change::Refused { code, why });
        }
    }

    /// Says why a partition is refused, and what to do.
    fn why(&self, at: usize, code: i16) -> String {
        let (name, group, topic) = (code_name(code), self.group, self.wanted.topic(at));
        match E::try_from_code(code) {
            Some(error) if is_active(error) => ACTIVE.to_owned(),
            Some(E::GroupAuthorizationFailed) => {
                format!("{name}; allow {} on group \"{group}\" for this principal", self.wanted.authority())
            }
            Some(E::TopicAuthorizationFailed) => format!("{name}; allow READ on topic \"{topic}\" for this principal"),
            Some(E::OffsetMetadataTooLarge) => {
                format!("{name}; what the group keeps beside the offset is longer than `offset.metadata.max.bytes`")
            }
            Some(E::GroupIdNotFound) => format!("{name}; \"{group}\" is no group that commits offsets: a share group?"),
            Some(E::UnknownTopicOrPartition) => format!("{name}; the cluster has no topic \"{topic}\""),
            Some(error) if is_too_large(error) => {
                format!("{name}; the coordinator cannot keep it, see its log, and `max.message.bytes` of its topic")
            }
            _ => name,
        }
    }
}

impl Trouble {
    fn of(code: i16) -> Self {
        Self { code, why: code_name(code).into() }
    }
}

/// Returns the codes of the partitions of a piece, in its order, as `told` has them.
pub(super) fn in_order<'a>(
    piece: &[usize],
    partition: impl Fn(usize) -> (&'a str, i32),
    told: impl Iterator<Item = ((String, i32), i16)>,
) -> Vec<i16> {
    let told: std::collections::HashMap<(String, i32), i16> = told.collect();
    let code = |at: &usize| {
        let (topic, partition) = partition(*at);
        told.get(&(topic.to_owned(), partition)).copied().unwrap_or(NO_ANSWER)
    };
    piece.iter().map(code).collect()
}

/// The error of a broker that lacks the call.
pub(super) fn lacking(address: &str, call: &str) -> Error {
    Error::failed(format!("broker {address} has no version of {call} that we know"))
}

/// What is asked of one piece: the codes of its partitions, in its order.
pub(super) type Codes = Result<Vec<i16>>;

/// Returns whether an error says that the group has members: what they have read is theirs to say.
fn is_active(error: E) -> bool {
    matches!(
        error,
        E::UnknownMemberId
            | E::IllegalGeneration
            | E::RebalanceInProgress
            | E::NonEmptyGroup
            | E::FencedInstanceId
            | E::GroupSubscribedToTopic
            | E::FencedMemberEpoch
            | E::StaleMemberEpoch
    )
}

/// Returns whether an error may be of a request that is too large for the coordinator's topic.
fn is_too_large(error: E) -> bool {
    matches!(error, E::UnknownServerError | E::MessageTooLarge | E::RecordListTooLarge | E::InvalidCommitOffsetSize)
}
