//! The watch's view of what is being read: where each partition is, and what to do when its reader gives it back. What
//! leaders are asked on the way is in `questions`.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::fetcher::Order;
use super::super::reading::Reading;
use super::super::{Agreement, Asked, Cause, GIVE_UP_AFTER, Item, Purpose, Returned, Start};
use super::questions::{agreement, question};
use super::{Held, Tenure, Watch};
use crate::backoff::Backoff;
use crate::error::Error;
use crate::kafka::client::{At, EpochQuery, OffsetQuery};
use crate::kafka::code_name;
use crate::pipeline::{Event, Tip};
use crate::record::{Offset, Partition};

/// While a partition is stuck for less than this, the cluster is looked at each [`LOOK_EVERY`]: a new leader is elected
/// within it, or not soon.
const ELECTION: Duration = Duration::from_secs(60);

/// How often the cluster is looked at while a leader is awaited.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long until something is tried again that needs a person, or a new leader: damage, a source that lost records.
const SLOW: Duration = Duration::from_secs(30);

/// Times that a partition may come back from its leader before it is told: a leader election takes a second or two.
const TOLD_AFTER: u32 = 5;

const TOPIC_AUTHORIZATION_FAILED: i16 = 29;

/// A start of a partition, and how far it has come.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) generation: u32,
    /// The offset to read next; `None` until the leader has told where to begin.
    pub(super) position: Option<Offset>,
    /// Whether the sink has kept where the partition begins, or need not.
    pub(super) begun: bool,
    pub(super) last_epoch: i32,
    pub(super) stage: Stage,
    /// Nothing is tried before this.
    not_before: Instant,
    /// Only metadata that is newer than this counts.
    stale_since: Option<Instant>,
    /// Since when it cannot be read.
    stuck_since: Option<Instant>,
    /// Whether the leader is to be asked what it has.
    pub(super) check: bool,
    /// The epoch of the leader that has said that its log agrees with what is held before the position. A Fetch tells
    /// too, but only from version 12 on, and a pass that has nothing to read makes none.
    pub(super) agreed: Option<i32>,
    /// Where the leader's log was found to end, before the position.
    pub(super) lost: Option<Offset>,
    /// Whether it has said that a position beyond the end of the pass is in its log.
    pub(super) beyond: bool,
    pub(super) range_tries: u32,
    backoff: Backoff,
}

/// With whom a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// With the watch, to be placed.
    Waiting,
    /// A question about it is on its way.
    Asking,
    /// With the fetcher of this broker.
    Reading(i32),
    /// With the sink, which says with a new start where to go on.
    Telling,
    /// Nowhere: its pass is over.
    Finished,
}

/// What is to be done with a waiting partition.
enum Next {
    Ask(Purpose, Vec<At>),
    /// Ask the leader whether its log agrees with what is held.
    Agree,
    Read(Offset),
    Finish(Offset),
    /// Wait for the sink, which keeps where the partition begins.
    Begin(Offset),
}

/// What leaders are asked after a look through what waits: one request each.
#[derive(Debug, Default)]
struct Round {
    questions: BTreeMap<(i32, Purpose), Vec<(Asked, OffsetQuery)>>,
    epochs: BTreeMap<i32, Vec<(Agreement, EpochQuery)>>,
}

impl Round {
    /// Does what is next with a waiting partition, or has its leader asked.
    fn plan(
        &mut self,
        next: Next,
        run: &mut Run,
        (partition, end): (&Partition, Option<Offset>),
        (leader, leader_epoch): (i32, i32),
        orders: &mut Vec<(i32, Order)>,
        outbox: &mut Vec<Item>,
    ) {
        let generation = run.generation;
        match next {
            Next::Read(position) => {
                run.stage = Stage::Reading(leader);
                orders.push((leader, Order::Read(run.reading(partition, position, leader_epoch, end))));
            }
            Next::Finish(next) => {
                run.stage = Stage::Finished;
                outbox.push(Item::Finished { partition: partition.clone(), generation, next });
            }
            Next::Begin(offset) => {
                run.stage = Stage::Telling;
                outbox.push(Item::Event(Event::Begins { partition: partition.clone(), generation, offset }));
            }
            Next::Agree => {
                run.stage = Stage::Asking;
                let query = agreement(partition, generation, leader_epoch, run.last_epoch);
                self.epochs.entry(leader).or_default().push(query);
            }
            Next::Ask(purpose, ats) => {
                run.stage = Stage::Asking;
                let asked = self.questions.entry((leader, purpose)).or_default();
                asked.extend(ats.into_iter().map(|at| question(partition, generation, leader_epoch, at)));
            }
        }
    }
}

impl Watch {
    /// Starts a partition anew.
    pub(super) fn start(&mut self, partition: &Partition, tip: Tip) {
        self.stop(partition);
        self.stable(partition, None);
        let backoff = self.client.backoff();
        let Some(held) = self.partitions.get_mut(partition).filter(|held| held.tenure == Tenure::Ours) else { return };
        let begin = if held.young && !self.options.one_pass { Some(0) } else { None };
        held.run = Some(Run {
            generation: tip.generation,
            position: tip.next.or(begin),
            // The log start is where it is; any other beginning would be another one at the next start.
            begun: tip.next.is_some() || self.options.start == Start::Earliest,
            last_epoch: if tip.next.is_some() { tip.leader_epoch } else { -1 },
            stage: Stage::Waiting,
            not_before: Instant::now(),
            stale_since: None,
            stuck_since: None,
            check: false,
            agreed: None,
            lost: None,
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
        let (mut old, mut awaited) = (false, false);
        let mut leaderless = Vec::new();
        let mut round = Round::default();
        for (partition, held) in &mut self.partitions {
            let Held { leader, leader_epoch, .. } = *held;
            awaited |= held.run.as_ref().is_some_and(|run| run.awaits_leader(now));
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
            let next = run.next(self.options.start, self.options.one_pass, held.end, leader_epoch);
            let (orders, outbox) = (&mut self.orders, &mut self.outbox);
            round.plan(next, run, (partition, held.end), (leader, leader_epoch), orders, outbox);
        }
        if old {
            self.look_soon(now);
        }
        if awaited {
            self.look_within(LOOK_EVERY, now);
        }
        for (partition, generation) in leaderless {
            self.try_again(&partition, generation, "it has no leader");
        }
        for ((leader, purpose), questions) in round.questions {
            self.ask(leader, purpose, questions);
        }
        for (leader, questions) in round.epochs {
            self.ask_epochs(leader, questions);
        }
        wake
    }

    /// Hears that a fetcher cannot read a partition on.
    pub(super) fn returned(&mut self, returned: Returned) {
        let Returned { partition, generation, position, last_epoch, cause } = returned;
        // Who reads it next tells anew what holds its end.
        self.stable(&partition, None);
        let Some(held) = self.partitions.get_mut(&partition) else { return };
        if let Cause::Moved(_, Some((leader, epoch))) = &cause {
            held.learn(*leader, *epoch);
        }
        let Some(run) = held.run.as_mut().filter(|run| run.generation == generation) else { return };
        run.position = Some(position);
        run.last_epoch = last_epoch;
        run.stage = Stage::Waiting;
        match cause {
            // It is placed with its new leader at once.
            Cause::Led => {}
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
            Cause::Diverged(epoch, end) => self.diverged(&partition, generation, epoch, end),
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

    /// Has the sink go on beside what it holds, since the source's log does not agree with it beyond `end`.
    pub(super) fn diverged(&mut self, partition: &Partition, generation: u32, epoch: i32, end: Offset) {
        let Some(run) = self.current(partition, generation) else { return };
        run.stage = Stage::Telling;
        let partition = partition.clone();
        self.outbox.push(Item::Event(Event::Diverged { partition, generation, epoch, end }));
    }

    /// Tries again after a wait, with newer metadata; tells what is wrong when that has not helped for a while.
    pub(super) fn try_again(&mut self, partition: &Partition, generation: u32, reason: &str) {
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
    pub(super) fn give_up(&mut self, partition: &Partition, generation: u32, reason: &str) {
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

    pub(super) fn current(&mut self, partition: &Partition, generation: u32) -> Option<&mut Run> {
        let held = self.partitions.get_mut(partition)?;
        held.run.as_mut().filter(|run| run.generation == generation)
    }
}

impl Run {
    /// Says what is to be done with a waiting partition.
    fn next(&self, start: Start, one_pass: bool, end: Option<Offset>, leader_epoch: i32) -> Next {
        if self.position.is_some() && self.last_epoch >= 0 && self.agreed != Some(leader_epoch) {
            return Next::Agree;
        }
        if self.check {
            return Next::Ask(Purpose::Check, vec![At::Earliest, At::Latest]);
        }
        match (self.position, end) {
            // Finished, or a source that has lost what the archive holds: a pass must not end well over that.
            (Some(position), Some(end)) if position > end && !self.beyond => {
                Next::Ask(Purpose::Check, vec![At::Earliest, At::Latest])
            }
            (Some(position), Some(_)) if !self.begun => Next::Begin(position),
            (Some(position), Some(end)) if position >= end => Next::Finish(position),
            (Some(position), end) if !one_pass || end.is_some() => {
                if self.begun {
                    Next::Read(position)
                } else {
                    Next::Begin(position)
                }
            }
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

    /// Returns whether it waits for a leader that may come any moment.
    fn awaits_leader(&self, now: Instant) -> bool {
        self.stage == Stage::Waiting && self.stuck_since.is_some_and(|since| now - since < ELECTION)
    }

    /// Has it placed at once: there is a new leader.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.stage == Stage::Waiting && self.stuck_since.is_some() {
            self.not_before = now;
            self.backoff.reset();
        }
    }

    /// Waits a while, and for newer metadata.
    pub(super) fn put_off(&mut self, now: Instant) {
        self.stuck_since.get_or_insert(now);
        self.stale_since = Some(now);
        self.not_before = now + self.backoff.wait();
    }
}

fn stuck(partition: &Partition, reason: &str) -> Error {
    let Partition { topic, index, .. } = partition;
    Error::failed(format!("topic \"{topic}\" partition {index} cannot be read: {reason}"))
}
