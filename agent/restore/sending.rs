//! The sink of a restore: what was read, made into batches that the target takes, sent in order, and mapped.
//!
//! Order: a partition's batches are fitted one chunk after the other, on threads where computing is allowed, and sent in
//! that order ([`fitting`]); what is acknowledged comes in it too, for each target. Durable is what the target has acknowledged at the offset that was
//! expected: another offset means that somebody else writes there, which ends the partition; in transactions it may be their
//! own markers. A partition is restored when
//! everything up to the end of its window was handed over; one that is closed before is not. Memory: batches hold what
//! the source has paid for until they are acknowledged; merging holds some hundred KiB a partition beside. Crash: what has
//! landed is told by journals ([`journaling`]) up to a cut in each target ([`standing`]); behind it, a later process counts.
//! Where it cannot count, batches go in transactions ([`transacting`]), and are durable when these are committed.

mod fitting;
mod journaling;
mod sent;
mod standing;
mod transacting;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use self::fitting::{Fitting, Job, Made, Paid, Taken, There, UNPAID_BYTES};
pub(super) use self::fitting::{Lane, Target};
pub(super) use self::journaling::Journaling;
use self::journaling::Step;
use self::sent::Sent;
use self::standing::Standing;
pub(super) use self::transacting::Transacting;
use self::transacting::Turn;
use super::map::{OffsetMap, Pair};
use super::state::{Journal, Landed, Sum};
use crate::batch::outgoing::{Fitted, Sources};
use crate::error::{Error, Kind, Result};
use crate::kafka::produce::{self, Producer};
use crate::pipeline::{Answer, Batch, Sink, Tip, Topic};
use crate::record::{LeftOut, Offset, OffsetRange, Partition};
use crate::stages::Stages;

/// What comes back with a batch that was sent.
pub(super) struct Token {
    source: Partition,
    /// The number of the target among those of the source.
    target: usize,
    /// The number of the chunk that it was made of.
    chunk: u64,
    sources: Sources,
    bytes: usize,
    /// The payment for what was read, until all that was made of it has landed.
    _paid: Arc<Paid>,
}

/// A target cluster as a sink.
pub(super) struct Sending {
    outlet: Outlet,
    lanes: HashMap<Partition, Arc<Lane>>,
    stages: Option<Stages>,
    open: HashMap<Partition, Open>,
    /// The offset that the next record of each target partition gets.
    ends: HashMap<Partition, Offset>,
    /// The target partitions that something was sent to.
    opened: HashSet<Partition>,
    answers: VecDeque<Answer>,
    fitted: mpsc::UnboundedReceiver<Made>,
    made: mpsc::UnboundedSender<Made>,
    /// As many chunks are fitted at once as there are cores.
    cores: Arc<Semaphore>,
    /// What pays for what stages make beyond what was read.
    beyond: Arc<Semaphore>,
    map: OffsetMap,
    /// How far each source partition has come, also those that are closed.
    standings: HashMap<Partition, Standing>,
    journaling: Option<Journaling>,
    restore_id: String,
    sum: Sum,
    /// Records that were left out before what this process has begun with.
    left_out_before: u64,
    /// Why everything has ended: another process has taken over, or a transaction cannot be committed.
    ended: Option<Kind>,
}

/// How batches go out.
pub(super) enum Outlet {
    /// As they come: what has landed is counted in the targets.
    Plain(Producer<Token>),
    /// In transactions.
    Within(Box<Transacting>),
}

impl Outlet {
    fn transacting(&mut self) -> Option<&mut Transacting> {
        match self {
            Self::Plain(_) => None,
            Self::Within(transacting) => Some(transacting),
        }
    }
}

/// A partition on its way.
struct Open {
    lane: Arc<Lane>,
    jobs: mpsc::UnboundedSender<Job>,
    fitting: AbortHandle,
    /// Chunks of which not all has landed, in order.
    chunks: VecDeque<Sent>,
    /// How many chunks there were.
    sent: u64,
    /// The end of what was put.
    reached: Offset,
    /// Nothing more comes.
    is_closing: bool,
}

/// What a restore is when a process begins with it.
pub(super) struct Begun {
    /// Its id.
    pub(super) restore_id: String,
    /// The ends of the target partitions.
    pub(super) ends: HashMap<Partition, Offset>,
    /// What earlier processes have kept.
    pub(super) map: OffsetMap,
    /// What has come of all that each lane says has landed.
    pub(super) sum: Sum,
}

impl Sending {
    /// Makes the sink of these partitions, which go through the stages.
    pub(super) fn new(
        outlet: Outlet,
        lanes: Vec<Lane>,
        begun: Begun,
        stages: Option<Stages>,
        journaling: Option<Journaling>,
    ) -> Result<Self> {
        let (made, fitted) = mpsc::unbounded_channel();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let Begun { restore_id, ends, mut map, sum } = begun;
        let mut standings = HashMap::new();
        for lane in &lanes {
            let end = |target: &Target| ends.get(&target.pair.target).copied().unwrap_or(0);
            for target in &lane.targets {
                // What was found there was sent before any journal.
                let first = target.found.first().map_or_else(|| end(target), |found| found.target);
                map.open(&target.pair, lane.window.offsets, first)?;
            }
            standings.insert(lane.source.clone(), Standing::new(lane, |number| end(&lane.targets[number])));
        }
        Ok(Self {
            outlet,
            lanes: lanes.into_iter().map(|lane| (lane.source.clone(), Arc::new(lane))).collect(),
            stages,
            open: HashMap::new(),
            ends,
            opened: HashSet::new(),
            answers: VecDeque::new(),
            fitted,
            made,
            cores: Arc::new(Semaphore::new(cores)),
            beyond: Arc::new(Semaphore::new(UNPAID_BYTES)),
            map,
            standings,
            journaling,
            restore_id,
            sum,
            left_out_before: sum.left_out,
            ended: None,
        })
    }

    /// Keeps how far it has come; returns the offset map, and what came of all.
    ///
    /// # Errors
    /// As [`Journaling::close`]: what is in the targets is there all the same.
    pub(super) async fn finish(mut self) -> (OffsetMap, Sum, Result<()>) {
        let kept = match (&mut self.outlet, self.journaling.take()) {
            _ if self.ended == Some(Kind::Fenced) => Ok(()),
            (Outlet::Plain(_), Some(mut journaling)) => {
                journaling.close(|journaling| self.journal(journaling), &self.map).await
            }
            // All that was committed has its journal.
            (Outlet::Within(transacting), _) => transacting.abort().await,
            (Outlet::Plain(_), None) => Ok(()),
        };
        (std::mem::take(&mut self.map), self.sum, kept)
    }

    /// Makes a journal of this moment.
    fn journal(&self, journaling: &Journaling) -> Journal {
        let mut landed: Vec<Landed> = match &self.outlet {
            Outlet::Plain(_) => {
                let lanes = self.lanes.iter().filter_map(|(source, lane)| Some((lane, self.standings.get(source)?)));
                lanes.flat_map(|(lane, standing)| standing.landed(lane)).collect()
            }
            Outlet::Within(transacting) => {
                let lanes = self.lanes.iter().map(|(source, lane)| (lane, transacting.progress(source)));
                lanes.flat_map(|(lane, next)| self.within(lane, next)).collect()
            }
        };
        landed.sort_unstable_by(|a, b| a.pair.cmp(&b.pair));
        let is_within = matches!(self.outlet, Outlet::Within(_));
        let left_out = match is_within {
            true => self.sum.left_out,
            false => self.left_out_before + self.standings.values().map(Standing::left_out).sum::<u64>(),
        };
        let sum = Sum { left_out, ..self.sum };
        let mut journal = Journal::new(&self.restore_id, sum, landed, &journaling.news(&self.map));
        journal.is_transactional = is_within;
        journal
    }

    /// Returns how far a source has come in each target when its transaction is committed.
    fn within<'a>(&'a self, lane: &'a Lane, source_next: Offset) -> impl Iterator<Item = Landed> + 'a {
        lane.targets.iter().map(move |Target { pair, .. }| Landed {
            pair: pair.clone(),
            source_next,
            sequences: 0,
            target_next: self.ends.get(&pair.target).copied().unwrap_or(0),
            bytes: 0,
        })
    }

    fn on_made(&mut self, made: Made) {
        let Some(open) = self.open.get_mut(&made.source) else { return };
        let Taken { send, there, covered, held } = match made.outcome {
            Ok(taken) => taken,
            Err(error) => return self.fail(&made.source, error),
        };
        let (paid, number) = (Arc::new(made.paid), open.sent);
        open.sent += 1;
        let mut sent = Sent::new(number, send.len(), made.next, covered, held);
        for There { target, sources, at, bytes } in there {
            let pair = &open.lane.targets[target].pair;
            let records = match note(&mut self.map, pair, &sources, at) {
                Ok(records) => records,
                Err(error) => return self.fail(&made.source, error),
            };
            sent.arrive(target, None, bytes as u64);
            (sent.records, self.sum.records) = (sent.records + records, self.sum.records + records);
            self.sum.bytes += bytes as u64;
        }
        for (target, Fitted { batch, sources }) in send {
            sent.records += u64::from(batch.records());
            sent.bytes += batch.total_bytes() as u64;
            let (source, bytes, _paid) = (made.source.clone(), batch.total_bytes(), paid.clone());
            let partition = &open.lane.targets[target].pair.target;
            let token = Token { source, target, chunk: number, sources, bytes, _paid };
            match &mut self.outlet {
                Outlet::Within(transacting) => transacting.send(partition, batch, token),
                Outlet::Plain(producer) => {
                    if !self.opened.contains(partition) {
                        producer.open(partition, 0);
                        self.opened.insert(partition.clone());
                    }
                    producer.send(partition, batch, token);
                }
            }
        }
        if let Outlet::Within(transacting) = &mut self.outlet {
            transacting.reach(&made.source, made.next);
        }
        open.is_closing |= made.is_close;
        open.chunks.push_back(sent);
        self.leave_out(&made.source, &made.left_out);
        self.advance(&made.source);
    }

    /// Tells of records that a stage failed at.
    fn leave_out(&mut self, source: &Partition, left_out: &[LeftOut]) {
        for LeftOut { range, records, stage, .. } in left_out {
            tracing::warn!(
                topic = &*source.topic,
                partition = source.index,
                offsets = %range,
                records,
                stage = stage + 1,
                "left out of the restore"
            );
            self.sum.left_out += u64::from(*records);
        }
        if let Some(standing) = self.standings.get_mut(source) {
            standing.leave_out(left_out);
        }
        if let Some(stages) = &self.stages {
            stages.count(left_out);
        }
    }

    fn on_landed(&mut self, target: &Partition, first: Offset, records: u32, token: Token) {
        // Also of a source that has ended: others go on behind it.
        let next = first + Offset::from(records);
        let expected = self.ends.insert(target.clone(), next).unwrap_or(first);
        let is_within = matches!(self.outlet, Outlet::Within(_));
        match self.outlet.transacting() {
            _ if expected == first => {}
            // What has the offsets between is looked at before the transaction is committed.
            Some(transacting) if expected < first => {
                transacting.doubt(target, OffsetRange { first: expected, next: first })
            }
            // A transaction with it must not be committed: what was sent behind would be called right.
            Some(_) => return self.end_all(foreign(target, expected, first)),
            None => return self.fail_all(target, foreign(target, expected, first)),
        }
        // What a transaction has is in the map, whatever became of its source.
        let lane = self.lanes.get(&token.source).filter(|_| is_within || self.open.contains_key(&token.source));
        let Some(pair) = lane.map(|lane| &lane.targets[token.target].pair) else { return };
        if let Err(error) = note(&mut self.map, pair, &token.sources, first) {
            return if is_within { self.end_all(error) } else { self.fail(&token.source, error) };
        }
        self.sum.records += u64::from(records);
        self.sum.bytes += token.bytes as u64;
        if let Some(journaling) = self.journaling.as_mut().filter(|_| !is_within) {
            journaling.landed(token.bytes as u64);
        }
        let Some(open) = self.open.get_mut(&token.source) else { return };
        // Targets do not wait for each other: a later chunk may have landed in one of them.
        if let Some(sent) = open.chunks.iter_mut().find(|sent| sent.number == token.chunk) {
            sent.left -= 1;
            sent.arrive(token.target, Some(next), token.bytes as u64);
        }
        self.advance(&token.source);
    }

    /// Tells what has become durable of a partition, and that it is closed where nothing more comes.
    fn advance(&mut self, source: &Partition) {
        // In transactions nothing is durable before they are committed.
        if self.outlet.transacting().is_none() {
            self.pass(source);
        }
    }

    fn pass(&mut self, source: &Partition) {
        let Some(open) = self.open.get_mut(source) else { return };
        let (mut records, mut bytes) = (0, 0);
        while open.chunks.front().is_some_and(|sent| sent.left == 0) {
            let Some(sent) = open.chunks.pop_front() else { break };
            if let Some(standing) = self.standings.get_mut(source) {
                standing.pass(sent.upto, &sent.held, &sent.arrived);
            }
            records += sent.records;
            bytes += sent.bytes;
            if let Some(next) = sent.next {
                let mut targets = open.lane.targets.iter();
                if let Err(error) = targets.try_for_each(|target| self.map.reach(&target.pair, next)) {
                    return self.fail(source, error);
                }
                let (partition, took) = (source.clone(), sent.since.elapsed());
                self.answers.push_back(Answer::Durable { partition, next, records, bytes, took });
                (records, bytes) = (0, 0);
            } else if let Some(behind) = open.chunks.front_mut() {
                behind.records += std::mem::take(&mut records);
                behind.bytes += std::mem::take(&mut bytes);
            } else {
                // What has arrived of it is in the standing.
                open.chunks.push_front(Sent { records, bytes, arrived: Vec::new(), ..sent });
                break;
            }
        }
        let is_done = open.chunks.iter().all(|sent| sent.left == 0);
        if open.is_closing && is_done {
            let (map, ends) = (&mut self.map, &self.ends);
            let finish = |Target { pair, .. }: &Target| map.finish(pair, ends.get(&pair.target).copied().unwrap_or(0));
            if open.reached >= open.lane.window.offsets.next
                && let Err(error) = open.lane.targets.iter().try_for_each(finish)
            {
                return self.fail(source, error);
            }
            self.remove(source);
            self.answers.push_back(Answer::Closed { partition: source.clone() });
        }
    }

    fn on_answer(&mut self, answer: produce::Answer<Token>) -> Option<Answer> {
        match answer {
            produce::Answer::Landed { partition, first, records, token } => {
                self.on_landed(&partition, first, records, token);
            }
            produce::Answer::Refused { partition, error, .. } => match self.outlet.transacting() {
                None => self.fail_all(&partition, error),
                // The transaction cannot be committed any more, and with it nothing of what the others have sent.
                Some(_) => self.end_all(error),
            },
            produce::Answer::Fenced(error) => self.end_all(error),
            produce::Answer::Trouble { subject, reason } => return Some(Answer::Trouble { subject, reason }),
        }
        None
    }

    /// Goes on with the running transaction.
    fn on_turn(&mut self, turn: Result<Turn>) -> Option<Answer> {
        match turn {
            Err(error) => self.end_all(error),
            Ok(Turn::Told(answer)) => return self.on_answer(answer),
            Ok(Turn::Landed) => drop(self.on_step(Step::Due)),
            Ok(Turn::Committed(targets)) => {
                // The end of a transaction is a marker in each.
                for target in targets {
                    *self.ends.entry(target).or_default() += 1;
                }
                let open: Vec<_> = self.open.keys().cloned().collect();
                open.iter().for_each(|source| self.pass(source));
            }
        }
        None
    }

    /// Goes on with the journals.
    fn on_step(&mut self, step: Step) -> Option<Answer> {
        let subject = || "journal".to_owned();
        if let (Step::Kept(_), Some(transacting)) = (&step, self.outlet.transacting()) {
            transacting.kept();
        }
        match step {
            Step::Due => {
                if let Some(mut journaling) = self.journaling.take() {
                    journaling.write(|journaling| self.journal(journaling), &self.map);
                    self.journaling = Some(journaling);
                }
            }
            Step::Kept(false) => {}
            Step::Kept(true) => return Some(Answer::Trouble { subject: subject(), reason: None }),
            Step::Late(error) => return Some(Answer::Trouble { subject: subject(), reason: Some(error.to_string()) }),
            Step::Fenced(error) => self.end_all(error),
        }
        None
    }

    /// Ends everything: nothing is sent any more, and nothing is heard of what is on its way.
    fn end_all(&mut self, error: Error) {
        self.ended = Some(error.kind());
        self.answers.push_back(Answer::Failed { partition: None, error });
        let open: Vec<_> = self.open.keys().cloned().collect();
        for source in open {
            self.fail(&source, Error::failed("nothing more is sent"));
        }
    }

    fn fail(&mut self, source: &Partition, error: Error) {
        if self.remove(source) {
            let error = error.with("topic", &source.topic).with("partition", source.index);
            self.answers.push_back(Answer::Failed { partition: Some(source.clone()), error });
        }
    }

    /// Ends all sources of a target that takes nothing more.
    fn fail_all(&mut self, target: &Partition, error: Error) {
        let is_of = |open: &Open| open.lane.targets.iter().any(|other| other.pair.target == *target);
        let sources: Vec<_> =
            self.open.iter().filter(|(_, open)| is_of(open)).map(|(source, _)| source.clone()).collect();
        let mut told = Some(error);
        for source in sources {
            let other = || Error::failed(format!("{target} takes nothing more"));
            let error = told.take().unwrap_or_else(other);
            self.fail(&source, error);
        }
    }

    fn remove(&mut self, source: &Partition) -> bool {
        let Some(open) = self.open.remove(source) else { return false };
        open.fitting.abort();
        true
    }
}

impl Sink for Sending {
    fn topic(&mut self, _: Topic) {
        self.answers.push_back(Answer::TopicKept);
    }

    fn open(&mut self, partition: &Partition) {
        let refused = |error| Answer::Failed { partition: Some(partition.clone()), error };
        if self.ended.is_some() {
            return self.answers.push_back(refused(Error::failed("nothing more is sent")));
        }
        let Some(lane) = self.lanes.get(partition).cloned() else {
            let error = Error::failed("nothing is planned for a partition that was read");
            return self.answers.push_back(refused(error));
        };
        let (jobs, heard) = mpsc::unbounded_channel();
        let fitting = Fitting {
            lane: lane.clone(),
            stages: self.stages.clone(),
            cores: self.cores.clone(),
            beyond: self.beyond.clone(),
            made: self.made.clone(),
        };
        let fitting = tokio::spawn(fitting.run(heard)).abort_handle();
        let first = lane.window.offsets.first;
        let reached = lane.targets.iter().map(|target| target.from).min().unwrap_or(first).max(first);
        let open = Open { lane, jobs, fitting, chunks: VecDeque::new(), sent: 0, reached, is_closing: false };
        self.open.insert(partition.clone(), open);
        let tip = Tip { next: Some(reached), leader_epoch: -1, generation: 1 };
        self.answers.push_back(Answer::Restart { partition: partition.clone(), tip });
    }

    /// An archive begins where its chain does.
    fn begin(&mut self, _: &Partition, _: u32, _: Offset) {}

    /// What is archived does not change.
    fn diverge(&mut self, _: &Partition, _: u32, _: i32, _: Offset) {}

    fn put(&mut self, batch: Batch) {
        if let Some(open) = self.open.get_mut(batch.partition()) {
            open.reached = batch.range.next;
            // It ends only with the partition.
            let _ = open.jobs.send(Job::Fit(batch));
        }
    }

    fn close(&mut self, partition: &Partition, _: u32) {
        if let Some(open) = self.open.get(partition) {
            let _ = open.jobs.send(Job::Close(open.reached));
        }
    }

    /// What waits to be merged is not paid for.
    fn relieve(&mut self) {}

    async fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            if self.ended.is_some() {
                std::future::pending::<()>().await;
            }
            if let Outlet::Within(transacting) = &mut self.outlet {
                // Who has ended waits for the others as long as they send.
                if !self.open.is_empty() && self.open.values().all(|open| open.is_closing) {
                    transacting.end();
                }
                let (may_send, is_journaling) = (transacting.is_sending(), transacting.is_journaling());
                tokio::select! {
                    Some(made) = self.fitted.recv(), if may_send => self.on_made(made),
                    step = step(&mut self.journaling), if is_journaling => {
                        if let Some(trouble) = self.on_step(step) {
                            return trouble;
                        }
                    }
                    turn = transacting.turn() => {
                        if let Some(trouble) = self.on_turn(turn) {
                            return trouble;
                        }
                    }
                }
                continue;
            }
            let Outlet::Plain(producer) = &mut self.outlet else { continue };
            tokio::select! {
                Some(made) = self.fitted.recv() => self.on_made(made),
                step = step(&mut self.journaling) => {
                    if let Some(trouble) = self.on_step(step) {
                        return trouble;
                    }
                }
                answer = producer.answer() => {
                    if let Some(trouble) = self.on_answer(answer) {
                        return trouble;
                    }
                }
            }
        }
    }
}

async fn step(journaling: &mut Option<Journaling>) -> Step {
    match journaling {
        Some(journaling) => journaling.step().await,
        None => std::future::pending().await,
    }
}

/// Notes in the map where records are that lie one behind the other from `at` on; returns how many.
fn note(map: &mut OffsetMap, pair: &Pair, sources: &Sources, mut at: Offset) -> Result<u64> {
    let mut records = 0;
    for (source, length) in sources.iter() {
        map.push(pair, source, at, length.into())?;
        at += Offset::from(length);
        records += u64::from(length);
    }
    Ok(records)
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.open.values().for_each(|open| open.fitting.abort());
    }
}

/// Makes the error of a record that came to another offset than the next one.
fn foreign(target: &Partition, expected: Offset, met: Offset) -> Error {
    Error::failed(format!("somebody else writes to {target}, which is restored to"))
        .with("offset", expected.min(met))
        .hint("stop that producer; what was sent stays, and `offset-map` of this restore is not to be relied on")
}

#[cfg(test)]
mod tests;
