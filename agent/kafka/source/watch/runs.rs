//! The watch's view of what is being read: where each partition is, and what to do when its reader gives it back.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::fetcher::Order;
use super::super::reading::Reading;
use super::super::{Asked, Cause, Command, GIVE_UP_AFTER, Item, Purpose, Returned, Start};
use super::{Held, Watch};
use crate::backoff::Backoff;
use crate::budget::Permit;
use crate::error::{Error, Result};
use crate::kafka::client::{At, Isolation, OffsetAnswer, OffsetQuery};
use crate::kafka::code_name;
use crate::pipeline::{Batch, Event, Payload, Tip};
use crate::record::{Offset, OffsetRange, Partition};

/// How long until something is tried again that needs a person, or a new leader: damage, a source that lost records.
const SLOW: Duration = Duration::from_secs(30);

/// Times that a partition may come back from its leader before it is told: a leader election takes a second or two.
const TOLD_AFTER: u32 = 5;

/// Times that a leader may say "out of range" of an offset that is in range, before it is told.
const RANGE_TRIES: u32 = 3;

const TOPIC_AUTHORIZATION_FAILED: i16 = 29;

/// A start of a partition, and how far it has come.
#[derive(Debug)]
pub(super) struct Run {
    generation: u32,
    /// The offset to read next; `None` until the leader has told where to begin.
    position: Option<Offset>,
    last_epoch: i32,
    stage: Stage,
    /// Nothing is tried before this.
    not_before: Instant,
    /// Only metadata that is newer than this counts.
    stale_since: Option<Instant>,
    /// Since when it cannot be read.
    stuck_since: Option<Instant>,
    /// Whether the leader is to be asked what it has.
    check: bool,
    /// Whether it has said that a position beyond the end of the pass is in its log.
    beyond: bool,
    range_tries: u32,
    backoff: Backoff,
}

/// With whom a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// With the watch, to be placed.
    Waiting,
    /// A question about it is on its way.
    Asking,
    /// With the fetcher of this broker.
    Reading(i32),
    /// Nowhere: its pass is over.
    Finished,
}

/// What is to be done with a waiting partition.
enum Next {
    Ask(Purpose, Vec<At>),
    Read(Offset),
    Finish(Offset),
}

/// What a leader has told of a partition.
#[derive(Debug, Default)]
struct Told {
    code: i16,
    earliest: Option<Offset>,
    latest: Option<Offset>,
    time: Option<Offset>,
}

/// What a position out of range comes to.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// The log starts later, here.
    Gap(Offset),
    /// The log ends earlier, here.
    Lost(Offset),
    /// It is in range.
    Within,
}

impl Watch {
    /// Starts a partition anew.
    pub(super) fn start(&mut self, partition: &Partition, tip: Tip) {
        self.stop(partition);
        let backoff = self.client.backoff();
        let Some(held) = self.partitions.get_mut(partition) else { return };
        let begin = if held.young && !self.options.one_pass { Some(0) } else { None };
        held.run = Some(Run {
            generation: tip.generation,
            position: tip.next.or(held.begin).or(begin),
            last_epoch: if tip.next.is_some() { tip.leader_epoch } else { -1 },
            stage: Stage::Waiting,
            not_before: Instant::now(),
            stale_since: None,
            stuck_since: None,
            check: false,
            beyond: false,
            range_tries: 0,
            backoff,
        });
    }

    /// Stops a partition.
    pub(super) fn stop(&mut self, partition: &Partition) {
        let Some(run) = self.partitions.get_mut(partition).and_then(|held| held.run.take()) else { return };
        if let Stage::Reading(broker) = run.stage {
            self.orders.push((broker, Order::Drop(partition.clone())));
        }
        self.trouble(partition.to_string(), None);
    }

    /// Places what waits: with a fetcher, or with a question to its leader. Returns when something is due again.
    /// In a pass, what could not be read for [`GIVE_UP_AFTER`] has failed.
    pub(super) fn place(&mut self, now: Instant) -> Instant {
        let mut wake = now + SLOW;
        let mut old = false;
        let mut leaderless = Vec::new();
        let mut questions: BTreeMap<(i32, Purpose), Vec<(Asked, OffsetQuery)>> = BTreeMap::new();
        for (partition, held) in &mut self.partitions {
            let Held { leader, leader_epoch, .. } = *held;
            let Some(run) = held.run.as_mut().filter(|run| run.stage == Stage::Waiting) else { continue };
            if self.options.one_pass && run.stuck_since.is_some_and(|since| now - since > GIVE_UP_AFTER) {
                let reason = self.troubles.get(&partition.to_string()).map_or("no broker sends it", String::as_str);
                let error = stuck(partition, reason);
                run.stage = Stage::Finished;
                let (partition, generation) = (partition.clone(), run.generation);
                self.outbox.push(Item::Failed { partition, generation, error });
                continue;
            }
            if run.not_before > now {
                wake = wake.min(run.not_before);
                continue;
            }
            if run.stale_since.is_some_and(|since| self.look.known.is_none_or(|known| known < since)) {
                old = true;
                continue;
            }
            if leader < 0 {
                leaderless.push((partition.clone(), run.generation));
                continue;
            }
            match run.next(self.options.start, self.options.one_pass, held.end) {
                Next::Read(position) => {
                    run.stage = Stage::Reading(leader);
                    let reading = run.reading(partition, position, leader_epoch, held.end);
                    self.orders.push((leader, Order::Read(reading)));
                }
                Next::Finish(next) => {
                    run.stage = Stage::Finished;
                    let (partition, generation) = (partition.clone(), run.generation);
                    self.outbox.push(Item::Finished { partition, generation, next });
                }
                Next::Ask(purpose, ats) => {
                    run.stage = Stage::Asking;
                    let asked = questions.entry((leader, purpose)).or_default();
                    asked.extend(ats.into_iter().map(|at| question(partition, run.generation, leader_epoch, at)));
                }
            }
        }
        if old {
            self.look_soon(now);
        }
        for (partition, generation) in leaderless {
            self.try_again(&partition, generation, "it has no leader");
        }
        for ((leader, purpose), questions) in questions {
            self.ask(leader, purpose, questions);
        }
        wake
    }

    fn ask(&mut self, leader: i32, purpose: Purpose, questions: Vec<(Asked, OffsetQuery)>) {
        let (client, commands) = (self.client.clone(), self.commands.clone());
        let (asked, queries): (Vec<_>, Vec<_>) = questions.into_iter().unzip();
        // What a pass ends at is what a reader may see; whether records were lost is a matter of the whole log.
        let isolation = match purpose {
            Purpose::Begin => Isolation::Committed,
            Purpose::Check => Isolation::Uncommitted,
        };
        self.tasks.spawn(async move {
            let answers = client.list_offsets(leader, &queries, isolation).await;
            let _ = commands.send(Command::Offsets(purpose, asked, answers));
        });
    }

    /// Hears the answers to questions for offsets.
    pub(super) fn answered(&mut self, purpose: Purpose, asked: Vec<Asked>, answers: Result<Vec<OffsetAnswer>>) {
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                let mut partitions: Vec<_> =
                    asked.into_iter().map(|asked| (asked.partition, asked.generation)).collect();
                partitions.dedup();
                for (partition, generation) in partitions {
                    self.try_again(&partition, generation, &error.to_string());
                }
                return;
            }
        };
        let mut told: BTreeMap<(Partition, u32), Told> = BTreeMap::new();
        for (asked, answer) in asked.into_iter().zip(answers) {
            told.entry((asked.partition, asked.generation)).or_default().add(asked.at, answer);
        }
        for ((partition, generation), told) in told {
            if told.code != 0 {
                let reason = format!("its leader does not tell its offsets: {}", code_name(told.code));
                self.try_again(&partition, generation, &reason);
                continue;
            }
            match purpose {
                Purpose::Begin => self.begin(&partition, generation, &told),
                Purpose::Check => self.checked(&partition, generation, &told),
            }
        }
    }

    fn begin(&mut self, partition: &Partition, generation: u32, told: &Told) {
        let start = self.options.start;
        let Some(held) = self.partitions.get_mut(partition) else { return };
        held.end = held.end.or(told.latest.filter(|_| self.options.one_pass));
        let Some(run) = held.run.as_mut().filter(|run| run.generation == generation) else { return };
        run.position = run.position.or(match start {
            Start::Earliest => told.earliest,
            Start::Latest => told.latest,
            Start::Time(_) => told.time.filter(|offset| *offset >= 0).or(told.latest),
        });
        run.stage = Stage::Waiting;
        // Resolved once: a restart before anything is durable must not begin later.
        held.begin = held.begin.or(run.position);
    }

    fn checked(&mut self, partition: &Partition, generation: u32, told: &Told) {
        let end = self.partitions.get(partition).and_then(|held| held.end);
        let Some(run) = self.current(partition, generation) else { return };
        let (Some(position), Some(earliest), Some(latest)) = (run.position, told.earliest, told.latest) else {
            run.stage = Stage::Waiting;
            return;
        };
        let beyond = end.is_some_and(|end| position > end);
        run.check = false;
        run.stage = Stage::Waiting;
        let reason = match range(position, earliest, latest) {
            Range::Gap(next) => {
                run.position = Some(next);
                // The batch that the epoch was of is gone on the leader too.
                run.last_epoch = -1;
                let reason = format!("the source's log starts at offset {next}: what was before was deleted there");
                let payload = Payload::Gap { reason };
                let range = OffsetRange { first: position, next };
                let gap = Batch::new(partition.clone(), generation, range, payload, Permit::default());
                self.outbox.push(Item::Event(Event::Batch(gap)));
                return;
            }
            Range::Within if beyond => {
                run.beyond = true;
                return;
            }
            Range::Within if run.range_tries < RANGE_TRIES => {
                run.range_tries += 1;
                run.put_off(Instant::now());
                return;
            }
            Range::Within => format!(
                "the leader refuses offset {position}, though its log is [{earliest}, {latest}): it does not know \
                 leader epoch {} of the last record that the archive holds",
                run.last_epoch
            ),
            Range::Lost(end) => format!(
                "the source ends at offset {end}, but the archive holds its records up to {position}: the source has \
                 lost records"
            ),
        };
        self.give_up(partition, generation, &reason);
    }

    /// Hears that a fetcher cannot read a partition on.
    pub(super) fn returned(&mut self, returned: Returned) {
        let Returned { partition, generation, position, last_epoch, cause } = returned;
        let Some(held) = self.partitions.get_mut(&partition) else { return };
        if let Cause::Moved(_, Some((leader, epoch))) = &cause {
            held.learn(*leader, *epoch);
        }
        let Some(run) = held.run.as_mut().filter(|run| run.generation == generation) else { return };
        run.position = Some(position);
        run.last_epoch = last_epoch;
        run.stage = Stage::Waiting;
        match cause {
            Cause::OutOfRange => {
                run.check = true;
                run.stuck_since.get_or_insert_with(Instant::now);
            }
            Cause::Moved(code, _) => {
                self.try_again(&partition, generation, &format!("its leader refuses: {}", code_name(code)));
            }
            // The broker itself is told as trouble.
            Cause::Unreachable(reason) => self.try_again(&partition, generation, &reason),
            Cause::Refused(code) if code != TOPIC_AUTHORIZATION_FAILED => {
                self.try_again(&partition, generation, &format!("its leader refuses: {}", code_name(code)));
            }
            Cause::Refused(code) => {
                self.give_up(&partition, generation, &format!("it may not be read: {}", code_name(code)));
            }
            Cause::Diverged(epoch, end) => {
                let reason = format!(
                    "the archive holds its records up to {position} of leader epoch {last_epoch}, but the source's log \
                     went another way at offset {end} (epoch {epoch}): the source has lost records"
                );
                self.give_up(&partition, generation, &reason);
            }
            Cause::Unusable(error) if self.options.one_pass => self.fail(&partition, generation, error),
            Cause::Unusable(error) => self.give_up(&partition, generation, &error.to_string()),
        }
    }

    /// Hears that a partition that was in trouble is read again.
    pub(super) fn recovered(&mut self, partition: &Partition, generation: u32) {
        let Some(run) = self.current(partition, generation) else { return };
        run.stuck_since = None;
        run.range_tries = 0;
        run.backoff.reset();
        self.trouble(partition.to_string(), None);
    }

    /// Tries again after a wait, with newer metadata; tells what is wrong when that has not helped for a while.
    fn try_again(&mut self, partition: &Partition, generation: u32, reason: &str) {
        let now = Instant::now();
        let Some(run) = self.current(partition, generation) else { return };
        run.stage = Stage::Waiting;
        run.put_off(now);
        let attempts = run.backoff.attempts();
        if attempts >= TOLD_AFTER {
            self.trouble(partition.to_string(), Some(format!("{reason}; it is tried again")));
        }
        self.look_soon(now);
    }

    /// Tells what will not pass by itself, and tries again slowly; a pass ends with it.
    fn give_up(&mut self, partition: &Partition, generation: u32, reason: &str) {
        if self.options.one_pass {
            self.fail(partition, generation, stuck(partition, reason));
            return;
        }
        let now = Instant::now();
        let Some(run) = self.current(partition, generation) else { return };
        run.stage = Stage::Waiting;
        run.put_off(now);
        run.not_before = now + SLOW;
        let slow_s = SLOW.as_secs();
        self.trouble(partition.to_string(), Some(format!("{reason}; it is tried again every {slow_s} s")));
    }

    /// Ends the pass of a partition that cannot be read; the others go on.
    fn fail(&mut self, partition: &Partition, generation: u32, error: Error) {
        let Some(run) = self.current(partition, generation) else { return };
        run.stage = Stage::Finished;
        self.outbox.push(Item::Failed { partition: partition.clone(), generation, error });
    }

    fn current(&mut self, partition: &Partition, generation: u32) -> Option<&mut Run> {
        let held = self.partitions.get_mut(partition)?;
        held.run.as_mut().filter(|run| run.generation == generation)
    }
}

impl Run {
    /// Says what is to be done with a waiting partition.
    fn next(&self, start: Start, one_pass: bool, end: Option<Offset>) -> Next {
        if self.check {
            return Next::Ask(Purpose::Check, vec![At::Earliest, At::Latest]);
        }
        match (self.position, end) {
            // Finished, or a source that has lost what the archive holds: a pass must not end well over that.
            (Some(position), Some(end)) if position > end && !self.beyond => {
                Next::Ask(Purpose::Check, vec![At::Earliest, At::Latest])
            }
            (Some(position), Some(end)) if position >= end => Next::Finish(position),
            (Some(position), end) if !one_pass || end.is_some() => Next::Read(position),
            (Some(_), _) => Next::Ask(Purpose::Begin, vec![At::Latest]),
            (None, _) => Next::Ask(
                Purpose::Begin,
                match start {
                    Start::Earliest if one_pass => vec![At::Earliest, At::Latest],
                    Start::Earliest => vec![At::Earliest],
                    Start::Latest => vec![At::Latest],
                    Start::Time(time) => vec![At::Time(time), At::Latest],
                },
            ),
        }
    }

    fn reading(&self, partition: &Partition, position: Offset, leader_epoch: i32, end: Option<Offset>) -> Reading {
        Reading {
            partition: partition.clone(),
            generation: self.generation,
            position,
            leader_epoch,
            last_epoch: self.last_epoch,
            end,
            recovering: self.stuck_since.is_some(),
        }
    }

    /// Waits a while, and for newer metadata.
    fn put_off(&mut self, now: Instant) {
        self.stuck_since.get_or_insert(now);
        self.stale_since = Some(now);
        self.not_before = now + self.backoff.wait();
    }
}

impl Told {
    fn add(&mut self, at: At, answer: OffsetAnswer) {
        if answer.code != 0 {
            self.code = answer.code;
            return;
        }
        match at {
            At::Earliest => self.earliest = Some(answer.offset),
            At::Latest => self.latest = Some(answer.offset),
            At::Time(_) => self.time = Some(answer.offset),
        }
    }
}

/// Says what it means that a leader with the log `[earliest, latest)` has nothing at `position`. Only a later start
/// is a gap: an end before the position means that the source lost what the archive holds.
fn range(position: Offset, earliest: Offset, latest: Offset) -> Range {
    if earliest > position {
        Range::Gap(earliest)
    } else if latest < position {
        Range::Lost(latest)
    } else {
        Range::Within
    }
}

fn question(partition: &Partition, generation: u32, leader_epoch: i32, at: At) -> (Asked, OffsetQuery) {
    let asked = Asked { partition: partition.clone(), generation, at };
    (asked, OffsetQuery { topic: partition.topic.clone(), index: partition.index, leader_epoch, at })
}

fn stuck(partition: &Partition, reason: &str) -> Error {
    let Partition { topic, index, .. } = partition;
    Error::failed(format!("topic \"{topic}\" partition {index} cannot be read: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_log_start_makes_a_gap() {
        assert_eq!(range(5, 9, 20), Range::Gap(9));
        assert_eq!(range(5, 0, 4), Range::Lost(4));
        assert_eq!(range(5, 0, 5), Range::Within);
        assert_eq!(range(5, 5, 5), Range::Within);
    }
}
