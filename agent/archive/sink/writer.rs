//! One partition's writer: takes batches into a growing segment, and starts again where something fails.
//!
//! Commands come one after the other. Batches of an older generation, and calls of one who has not heard of the last
//! restart, are void. A dropped writer leaves what a crash leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::growing::Growing;
use super::{Command, Failing, Options, Reached};
use crate::archive::Archive;
use crate::archive::catalogs::upkeep::Upkeep;
use crate::archive::layout::{self, Fork};
use crate::archive::segment::Builder;
use crate::archive::sidecar::Kind as SegmentKind;
use crate::archive::tip::{Held, Shared};
use crate::batch::Header;
use crate::batch::transactions::OpenTransactions;
use crate::budget::Permit;
use crate::crash;
use crate::error::{Error, Result};
use crate::pipeline::{Answer, Batch, Payload, Tip};
use crate::record::{AbortedTransaction, LeftOut, Offset, OffsetRange, Partition};
use crate::stages::Stages;

/// One partition's writer.
pub(super) struct Writer {
    pub(super) archive: Archive,
    pub(super) partition: Partition,
    options: Options,
    answers: mpsc::UnboundedSender<Answer>,
    held: Arc<AtomicUsize>,
    /// The last generation given out by the sink.
    generations: Arc<AtomicU32>,
    reached: Reached,
    /// Batches of another generation are void.
    pub(super) generation: u32,
    /// The newest chain, as far as we know.
    pub(super) chain: Held,
    /// It was said that the chain goes on without catalogs.
    pub(super) told_broken: bool,
    /// The source has lost the chain from here on: what comes next is a fork's.
    pub(super) cut: Option<Shared>,
    /// The fork whose first segment is on its way.
    pub(super) fork: Option<Fork>,
    /// The name of the segment that we created last; `None` when there is none since the last restart.
    pub(super) last: Option<Offset>,
    pub(super) transactions: OpenTransactions,
    /// What batches go through before they are appended, if they do.
    stages: Option<Stages>,
    /// The aborted transactions that are open where the stages are.
    pub(super) passing: OpenTransactions,
    /// A stage has failed at what comes next, by its policy: the failure that is waited for is not the store's.
    pub(super) is_refused: bool,
    growing: Option<Growing>,
    pub(super) detour: Option<Detour>,
    failing: Failing,
}

/// A sidecar that is damaged, or says otherwise, has the name that our segment's would get: end the segment elsewhere.
#[derive(Clone, Copy)]
pub(super) struct Detour {
    pub(super) roll_bytes: u64,
    /// The length that is blocked; a segment of it is not published by the clock.
    pub(super) blocked_bytes: u64,
}

impl Writer {
    /// Makes a writer; it begins with [`run`](Self::run).
    pub(super) fn new(
        archive: Archive,
        partition: Partition,
        options: Options,
        answers: mpsc::UnboundedSender<Answer>,
        held: Arc<AtomicUsize>,
        generations: Arc<AtomicU32>,
    ) -> Self {
        let folder = layout::partition_folder(&partition);
        Self {
            archive,
            partition,
            options,
            answers,
            held,
            generations,
            reached: Reached::default(),
            generation: 0,
            chain: Held { fork: None, folder, next: None, leader_epoch: -1, is_empty: true, upkeep: Upkeep::default() },
            told_broken: false,
            cut: None,
            fork: None,
            last: None,
            transactions: OpenTransactions::default(),
            stages: None,
            passing: OpenTransactions::default(),
            is_refused: false,
            growing: None,
            detour: None,
            failing: Failing::default(),
        }
    }

    /// Tells `reached` how far the chain is durable.
    pub(super) fn telling(mut self, reached: Reached) -> Self {
        self.reached = reached;
        self
    }

    /// Has batches go through `stages` first.
    pub(super) fn through(mut self, stages: Option<Stages>) -> Self {
        self.stages = stages;
        self
    }

    /// Serves until the partition is closed or given up.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        if self.restart_at_tip(&mut commands).await.is_none() {
            return;
        }
        loop {
            let roll_at = self.growing.as_ref().map(|growing| growing.roll_at);
            let command = tokio::select! {
                command = commands.recv() => command,
                () = tokio::time::sleep_until(roll_at.unwrap_or_else(Instant::now)), if roll_at.is_some() => {
                    Some(Command::Roll)
                }
            };
            let Some(command) = command else { return };
            let generation = self.generation;
            let closing = matches!(command, Command::Close { generation: heard } if heard == generation);
            let outcome = match command {
                Command::Put(batch) => self.put(batch).await,
                Command::Roll if self.must_wait_for_more() => Ok(()),
                Command::Roll => self.roll().await,
                Command::Begin { generation: heard, offset } if heard == generation => self.begin_at(offset).await,
                Command::Diverge { generation: heard, epoch, end } if heard == generation => {
                    self.diverge(epoch, end).await
                }
                Command::Begin { .. } | Command::Diverge { .. } => Ok(()),
                Command::Close { .. } if closing => self.roll().await,
                // The sender will hear of the restart, and close again.
                Command::Close { .. } => Ok(()),
            };
            let held = self.growing.as_ref().map_or(0, |growing| growing.permit.bytes());
            self.held.store(if self.is_blocked() { 0 } else { held }, Ordering::Relaxed);
            match outcome {
                Ok(()) if closing && generation == self.generation => {
                    // What failed may be gone without a success: nobody else will take the trouble back.
                    self.recovered();
                    self.answer(Answer::Closed { partition: self.partition.clone() });
                    return;
                }
                Ok(()) => {}
                Err(error) => {
                    if self.recover(error, &mut commands).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes a batch into the growing segment; rolls as often as it is full.
    async fn put(&mut self, batch: Batch) -> Result<()> {
        if batch.generation() != self.generation {
            return Ok(());
        }
        // The token is dropped at the end: the source may bring more of this partition then.
        let (range, payload, permit, _in_flight) = batch.into_parts();
        match payload {
            Payload::Gap { reason } => {
                let generation = self.generation;
                self.roll().await?;
                if generation != self.generation || !self.begin_chain(range.first).await? {
                    return Ok(());
                }
                let first = self.next().unwrap_or(range.first);
                self.publish_gap(OffsetRange { first, next: range.next }, reason).await
            }
            Payload::Encoded { bytes, aborted } => match self.stages.clone() {
                Some(stages) => self.put_staged(&stages, range, bytes, &aborted, permit).await,
                None => self.put_encoded(range, bytes, &aborted, permit, Vec::new()).await,
            },
        }
    }

    /// Appends whole batches; `left_out` is what stages left out of them, in order.
    pub(super) async fn put_encoded(
        &mut self,
        range: OffsetRange,
        mut bytes: Bytes,
        mut aborted: &[AbortedTransaction],
        mut permit: Permit,
        mut left_out: Vec<LeftOut>,
    ) -> Result<()> {
        let generation = self.generation;
        if !self.begin_chain(range.first).await? {
            return Ok(());
        }
        let expected = self.growing.as_ref().map(|growing| growing.builder.range().next).or(self.next());
        if expected.is_some_and(|expected| expected != range.first) {
            // Whatever was lost on the way here must not become a hole that looks like compaction.
            return Err(Error::transient("a batch does not follow on the one before").with("offsets", range));
        }
        while !bytes.is_empty() && generation == self.generation {
            let growing = match self.growing.take() {
                Some(growing) => growing,
                None => self.begin(range.first, &bytes).await?,
            };
            let limit_bytes = self.detour.map_or(self.options.roll_bytes, |detour| detour.roll_bytes);
            let (growing, taken) = growing.append(&bytes, aborted, limit_bytes).await;
            self.growing = growing;
            let taken = taken.map_err(|error| {
                // The source checked these bytes; reading them again is the only thing that can help.
                Error::transient("the source sent batches that do not fit").source(error)
            })?;
            let growing = self.growing.as_mut().expect("it took them");
            // Told once: a transaction that ended in this segment must not be opened again in the next.
            aborted = &[];
            let next = growing.builder.range().next;
            growing.builder.leave_out(left_out.extract_if(.., |left_out| left_out.range.first < next));
            growing.write(bytes.split_to(taken), permit.split(taken)).await?;
            if growing.builder.length_bytes() >= limit_bytes {
                self.roll().await?;
            } else if taken == 0 {
                return Err(Error::transient("the source sent a partial batch"));
            }
        }
        Ok(())
    }

    /// Begins a segment whose batches begin with `bytes`.
    async fn begin(&mut self, range_first: Offset, bytes: &[u8]) -> Result<Growing> {
        let first = self.next().unwrap_or(range_first);
        if let Some(cut) = self.cut {
            let leader_epoch = Header::read(bytes).map_or(cut.leader_epoch, |header| header.leader_epoch);
            self.fork = Some(self.fork_from(cut, leader_epoch));
        }
        let begins = self.fork.is_some() || self.chain.is_empty;
        let kind = if begins { SegmentKind::First } else { SegmentKind::Data };
        let builder = Builder::new(&self.partition, first, kind, self.transactions.clone());
        let upload = self.archive.store().upload(&format!("{}{}", self.folder(), layout::log(first))).await?;
        let builder = match &self.stages {
            Some(stages) => builder.staged(stages.names()),
            None => builder,
        };
        Ok(Growing {
            upload,
            builder: match self.fork_note() {
                Some(note) => builder.noted(note),
                None => builder,
            },
            permit: Permit::default(),
            roll_at: Instant::now() + self.options.roll_interval,
        })
    }

    /// Seals the growing segment, if there is one, and publishes it.
    pub(super) async fn roll(&mut self) -> Result<()> {
        let Some(mut growing) = self.growing.take() else { return Ok(()) };
        let started = Instant::now();
        growing.upload.sync().await?;
        crash::point("log-synced", &self.partition);
        let (sidecar, transactions) = growing.builder.seal();
        self.publish(growing.upload, sidecar, transactions, started).await
    }

    async fn publish_gap(&mut self, range: OffsetRange, reason: String) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        tracing::warn!(partition = %self.partition, offsets = %range, reason, "the source has lost records: writing a gap");
        if let Some(cut) = self.cut {
            self.fork = Some(self.fork_from(cut, cut.leader_epoch));
        }
        let note = self.fork_note().map_or(reason.clone(), |note| format!("{reason}; {note}"));
        // In which epochs the lost records were nobody knows. An old one would claim that the source's is as long as the
        // gap, and look like lost records after an election.
        let (log, sidecar) = Builder::gap(&self.partition, range, -1, note);
        let mut upload = self.archive.store().upload(&format!("{}{}", self.folder(), layout::log(range.first))).await?;
        upload.write(log).await?;
        upload.sync().await?;
        crash::point("log-synced", &self.partition);
        self.publish(upload, sidecar, OpenTransactions::default(), started).await
    }

    /// Drops what is growing, waits, and starts again at the tip. `None` when the writer has ended.
    async fn recover(&mut self, error: Error, commands: &mut mpsc::UnboundedReceiver<Command>) -> Option<()> {
        self.held.store(0, Ordering::Relaxed);
        // Told first: where a store is silent, the end of the upload takes its time too.
        let reported = self.report(error);
        if let Some(growing) = self.growing.take() {
            growing.upload.abort().await;
        }
        reported?;
        self.wait(commands).await?;
        self.restart_at_tip(commands).await
    }

    /// Asks the store for the tip until it answers, and has the source start there. `None` when the writer has ended.
    async fn restart_at_tip(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Option<()> {
        let fresh = self.failing.since.is_none();
        loop {
            match self.archive.tip(&self.partition).await {
                Ok(held) => {
                    // What seemed to fail was done after all.
                    let done = held.fork > self.chain.fork || held.next > self.chain.next;
                    if fresh || done {
                        self.recovered();
                    }
                    match self.start_from(held).await {
                        Ok(()) => return Some(()),
                        Err(error) => {
                            self.report(error)?;
                            self.wait(commands).await?;
                        }
                    }
                }
                Err(error) => {
                    self.report(error)?;
                    self.wait(commands).await?;
                }
            }
        }
    }

    /// Has the source start where `held` ends.
    ///
    /// # Errors
    /// Those of the store, about the catalogs that are due there.
    pub(super) async fn start_from(&mut self, held: Held) -> Result<()> {
        self.chain = held;
        self.cut = None;
        self.catalog().await?;
        self.restart();
        Ok(())
    }

    /// Has the source start behind the chain, or where that is cut; everything under way is void.
    pub(super) fn restart(&mut self) {
        // Others may have written, or will.
        self.archive.live().left(&self.partition);
        debug_assert!(self.growing.is_none(), "a segment on its way is published or dropped before");
        self.generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.fork = None;
        self.last = None;
        self.transactions = OpenTransactions::default();
        self.passing = OpenTransactions::default();
        self.is_refused = false;
        let leader_epoch = self.cut.map_or(self.chain.leader_epoch, |cut| cut.leader_epoch);
        let tip = Tip { next: self.next(), leader_epoch, generation: self.generation };
        self.answer(Answer::Restart { partition: self.partition.clone(), tip });
    }

    /// Tells how far the newest chain is durable.
    pub(super) fn tell_reached(&self) {
        if let Some(next) = self.chain.next {
            self.reached.tell(&self.partition, self.chain.fork, next);
        }
    }

    /// Returns where the next segment begins; `None` while nothing says it.
    pub(super) fn next(&self) -> Option<Offset> {
        self.cut.map(|cut| cut.next).or(self.chain.next)
    }

    /// Returns the folder that the next segment goes to.
    pub(super) fn folder(&self) -> String {
        match self.fork {
            Some(fork) => layout::chain_folder(&self.partition, Some(fork)),
            None => self.chain.folder.clone(),
        }
    }

    /// Tells of an error. `None` when it is the end: a one-shot command does not wait for ever.
    fn report(&mut self, error: Error) -> Option<()> {
        let is_named = error.to_string().contains(&self.partition.to_string());
        let error = if is_named { error } else { error.with("partition", &self.partition) };
        let failing_since = self.failing.since();
        if let Some(patience) = self.options.give_up_after
            && (!error.retryable() || failing_since.elapsed() >= patience)
        {
            self.answer(Answer::Failed { partition: Some(self.partition.clone()), error });
            return None;
        }
        self.answer(Answer::Suspended { partition: self.partition.clone() });
        self.answer(Answer::Trouble { subject: self.subject(), reason: Some(error.to_string()) });
        Some(())
    }

    /// Waits before the next try; what comes meanwhile is void, and its memory goes back. A close ends the wait: the
    /// restart that follows tells the loop that what was held is not durable. `None` when nobody listens any more.
    async fn wait(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Option<()> {
        let until = self.failing.retry_at();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Some(()),
                command = commands.recv() => match command? {
                    Command::Put(_) | Command::Roll | Command::Begin { .. } | Command::Diverge { .. } => {}
                    Command::Close { generation } if self.is_refused && generation == self.generation => {
                        // Nothing is held, and to read it again would end here again.
                        tracing::warn!(partition = %self.partition, "letting go before what a stage fails at");
                        self.answer(Answer::Closed { partition: self.partition.clone() });
                        return None;
                    }
                    Command::Close { .. } => return Some(()),
                },
            }
        }
    }

    pub(super) fn recovered(&mut self) {
        if self.failing.since.is_some() {
            self.failing = Failing::default();
            self.answer(Answer::Trouble { subject: self.subject(), reason: None });
        }
    }

    /// Returns how many bytes the growing segment holds in memory that nobody has paid for.
    pub(super) fn unpaid_bytes(&self) -> usize {
        let unpaid = |growing: &Growing| growing.upload.held_bytes().saturating_sub(growing.permit.bytes());
        self.growing.as_ref().map_or(0, unpaid)
    }

    /// Returns what batches go through before they are appended, if they do.
    pub(super) fn stages(&self) -> Option<&Stages> {
        self.stages.as_ref()
    }

    fn must_wait_for_more(&mut self) -> bool {
        let blocked = self.is_blocked();
        if let Some(growing) = self.growing.as_mut().filter(|_| blocked) {
            growing.roll_at = Instant::now() + self.options.roll_interval;
        }
        blocked
    }

    /// Returns whether the growing segment would get the name of a sidecar that cannot be taken.
    fn is_blocked(&self) -> bool {
        let growing = self.growing.as_ref().zip(self.detour);
        growing.is_some_and(|(growing, detour)| growing.builder.length_bytes() == detour.blocked_bytes)
    }

    fn subject(&self) -> String {
        format!("archive of {}", self.partition)
    }

    pub(super) fn answer(&self, answer: Answer) {
        // The loop may be gone already; then nobody needs the answer.
        let _ = self.answers.send(answer);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.archive.live().left(&self.partition);
    }
}
