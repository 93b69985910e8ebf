//! Makes batches durable: one writer a partition, which grows a segment, seals it and publishes it.
//!
//! **Order of durable effects**, and what a crash after each leaves behind (`publish` is the code):
//! 1. the log's bytes, under no name (a temporary file, an unfinished upload): debris that is cleared later;
//! 2. the sidecar `<first>.<length>-<digest>.index`, created if absent: a sidecar without a log at the chain's tip,
//!    which readers call unfinished; the same log, written again, takes it, another one gets a sidecar of another name;
//! 3. the log `<first>.log`, created if absent: **the commit**, and the fence. From here the segment is in the archive;
//! 4. the pipeline is told, and with it the source: hints, which the next start does without.
//!
//! Two writers at one tip race for one key. The loser drops its segment, adopts the winner's end and has the source
//! start there. Any other failure is treated alike: drop, wait (back-off with jitter), ask the store for the tip, start
//! there. So a writer never has to know what a failed request did. Within a partition commits are strictly sequential.
//!
//! Cancel: a dropped writer leaves what a crash leaves.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::segment::{Builder, OpenTransactions};
use super::sidecar::{Kind as SegmentKind, Sidecar};
use super::{Archive, Segments, layout};
use crate::backoff::Backoff;
use crate::budget::Permit;
use crate::crash;
use crate::error::{Error, Result};
use crate::pipeline::{self, Answer, Batch, Payload, Tip, Topic};
use crate::record::{AbortedTransaction, Offset, OffsetRange, Partition};
use crate::store::{Creation, Upload};

/// Waits between tries begin here and double up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(200);

/// The longest wait between tries: a store that came back is noticed within it.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// How an archive is written.
#[derive(Debug, Clone)]
pub struct Options {
    /// A segment is published when its log has this many bytes.
    pub roll_bytes: u64,
    /// A segment is published this long after its first batch.
    pub roll_interval: Duration,
    /// For one-shot commands: give up when a partition's store has failed for this long. `None` tries for ever.
    pub give_up_after: Option<Duration>,
}

/// The archive as a sink.
pub struct Sink {
    archive: Archive,
    options: Options,
    writers: HashMap<Partition, Handle>,
    answer_sender: mpsc::UnboundedSender<Answer>,
    answers: mpsc::UnboundedReceiver<Answer>,
    tasks: JoinSet<()>,
}

/// A writer, seen from the sink.
struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    /// Bytes of the budget that its growing segment holds.
    held: Arc<AtomicUsize>,
}

enum Command {
    Put(Batch),
    Roll,
    /// Close, if the sender has heard of the writer's last restart.
    Close {
        generation: u32,
    },
}

impl Sink {
    /// Makes a sink into `archive`; nothing is written yet.
    pub fn new(archive: Archive, options: Options) -> Self {
        let (answer_sender, answers) = mpsc::unbounded_channel();
        Self { archive, options, writers: HashMap::new(), answer_sender, answers, tasks: JoinSet::new() }
    }

    fn send(&self, partition: &Partition, command: Command) {
        if let Some(writer) = self.writers.get(partition) {
            // A writer that has ended answered Closed or Failed before.
            let _ = writer.commands.send(command);
        }
    }
}

impl pipeline::Sink for Sink {
    fn topic(&mut self, topic: Topic) {
        let (archive, answers) = (self.archive.clone(), self.answer_sender.clone());
        let give_up_after = self.options.give_up_after;
        self.tasks.spawn(async move {
            let mut failing = Failing::default();
            let subject = format!("topic object of {}", topic.name);
            while let Err(error) = archive.put_topic(&topic).await {
                if give_up_after.is_some_and(|patience| !error.retryable() || failing.since().elapsed() >= patience) {
                    let _ = answers.send(Answer::TopicKept);
                    let _ = answers.send(Answer::Failed { partition: None, error: error.with("topic", &topic.name) });
                    return;
                }
                let _ = answers.send(Answer::Trouble { subject: subject.clone(), reason: Some(error.to_string()) });
                failing.since();
                tokio::time::sleep_until(failing.retry_at()).await;
            }
            if failing.since.is_some() {
                let _ = answers.send(Answer::Trouble { subject, reason: None });
            }
            let _ = answers.send(Answer::TopicKept);
        });
    }

    fn open(&mut self, partition: &Partition) {
        let (commands, received) = mpsc::unbounded_channel();
        let held = Arc::new(AtomicUsize::new(0));
        self.writers.insert(partition.clone(), Handle { commands, held: held.clone() });
        let writer = Writer {
            archive: self.archive.clone(),
            folder: layout::partition_folder(partition),
            partition: partition.clone(),
            options: self.options.clone(),
            answers: self.answer_sender.clone(),
            held,
            generation: 0,
            next: None,
            last: None,
            leader_epoch: -1,
            transactions: OpenTransactions::default(),
            growing: None,
            detour: None,
            failing: Failing::default(),
        };
        self.tasks.spawn(writer.run(received));
    }

    fn put(&mut self, batch: Batch) {
        if let Some(writer) = self.writers.get(batch.partition()) {
            let _ = writer.commands.send(Command::Put(batch));
        }
    }

    fn close(&mut self, partition: &Partition, generation: u32) {
        self.send(partition, Command::Close { generation });
    }

    fn relieve(&mut self) {
        let largest = self.writers.values().max_by_key(|writer| writer.held.load(Ordering::Relaxed));
        // Taken to zero until the writer has something again: the next one that is asked is another one.
        if let Some(writer) = largest.filter(|writer| writer.held.swap(0, Ordering::Relaxed) > 0) {
            let _ = writer.commands.send(Command::Roll);
        }
    }

    async fn answer(&mut self) -> Answer {
        loop {
            tokio::select! {
                biased;
                answer = self.answers.recv() => return answer.expect("the sink itself holds a sender"),
                // Writers end after their last answer; one that ended otherwise must not be waited for.
                Some(ended) = self.tasks.join_next() => if let Err(error) = ended {
                    let error = Error::failed("a writer of the archive ended by a defect").source(error);
                    return Answer::Failed { partition: None, error };
                },
            }
        }
    }
}

/// One partition's writer.
struct Writer {
    archive: Archive,
    partition: Partition,
    /// The partition's folder in the archive.
    folder: String,
    options: Options,
    answers: mpsc::UnboundedSender<Answer>,
    held: Arc<AtomicUsize>,
    /// Batches of another generation are void.
    generation: u32,
    /// The end of the chain, as far as we know; `None` when there is no chain yet.
    next: Option<Offset>,
    /// The name of the segment that we created last; `None` when there is none since the last restart.
    last: Option<Offset>,
    leader_epoch: i32,
    transactions: OpenTransactions,
    growing: Option<Growing>,
    detour: Option<Detour>,
    failing: Failing,
}

/// A segment on its way.
struct Growing {
    upload: Upload,
    builder: Builder,
    /// What is paid for bytes that are still in memory.
    permit: Permit,
    roll_at: Instant,
}

/// A damaged sidecar has the name that our segment's would get: end the segment elsewhere.
#[derive(Clone, Copy)]
struct Detour {
    roll_bytes: u64,
    /// The length that is blocked; a segment of it is not published by the clock.
    blocked_bytes: u64,
}

impl Writer {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
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
                Command::Close { .. } if closing => self.roll().await,
                // The sender will hear of the restart, and close again.
                Command::Close { .. } => Ok(()),
            };
            let held = self.growing.as_ref().map_or(0, |growing| growing.permit.bytes());
            self.held.store(if self.is_blocked() { 0 } else { held }, Ordering::Relaxed);
            match outcome {
                Ok(()) if closing && generation == self.generation => {
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
                self.roll().await?;
                let first = self.next.unwrap_or(range.first);
                self.publish_gap(OffsetRange { first, next: range.next }, reason).await
            }
            Payload::Encoded { bytes, aborted } => self.put_encoded(range, bytes, &aborted, permit).await,
        }
    }

    async fn put_encoded(
        &mut self,
        range: OffsetRange,
        mut bytes: Bytes,
        mut aborted: &[AbortedTransaction],
        mut permit: Permit,
    ) -> Result<()> {
        let generation = self.generation;
        let expected = self.growing.as_ref().map(|growing| growing.builder.range().next).or(self.next);
        if expected.is_some_and(|expected| expected != range.first) {
            // Whatever was lost on the way here must not become a hole that looks like compaction.
            return Err(Error::transient("a batch does not follow on the one before").with("offsets", range));
        }
        while !bytes.is_empty() && generation == self.generation {
            if self.growing.is_none() {
                self.growing = Some(self.begin(range.first).await?);
            }
            let limit_bytes = self.detour.map_or(self.options.roll_bytes, |detour| detour.roll_bytes);
            let growing = self.growing.as_mut().expect("begun above");
            let taken = growing.builder.append(&bytes, aborted, limit_bytes).map_err(|error| {
                // The source checked these bytes; reading them again is the only thing that can help.
                Error::transient("the source sent batches that do not fit").source(error)
            })?;
            // Told once: a transaction that ended in this segment must not be opened again in the next.
            aborted = &[];
            growing.write(bytes.split_to(taken), permit.split(taken)).await?;
            if growing.builder.length_bytes() >= limit_bytes {
                self.roll().await?;
            } else if taken == 0 {
                return Err(Error::transient("the source sent a partial batch"));
            }
        }
        Ok(())
    }

    async fn begin(&mut self, range_first: Offset) -> Result<Growing> {
        let first = self.next.unwrap_or(range_first);
        let kind = if self.next.is_none() { SegmentKind::First } else { SegmentKind::Data };
        let upload = self.archive.store().upload(&format!("{}{}", self.folder, layout::log(first))).await?;
        Ok(Growing {
            upload,
            builder: Builder::new(&self.partition, first, kind, self.transactions.clone()),
            permit: Permit::default(),
            roll_at: Instant::now() + self.options.roll_interval,
        })
    }

    /// Seals the growing segment, if there is one, and publishes it.
    async fn roll(&mut self) -> Result<()> {
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
        let (log, sidecar) = Builder::gap(&self.partition, range, self.leader_epoch, reason);
        let mut upload = self.archive.store().upload(&format!("{}{}", self.folder, layout::log(range.first))).await?;
        upload.write(log).await?;
        upload.sync().await?;
        crash::point("log-synced", &self.partition);
        self.publish(upload, sidecar, OpenTransactions::default(), started).await
    }

    /// Publishes a sealed segment. The order is the archive's law: what describes a log must be there before the log
    /// is, because the log's name is the commit, and part of what the sidecar says exists nowhere else.
    async fn publish(
        &mut self,
        upload: Upload,
        sidecar: Sidecar,
        transactions: OpenTransactions,
        started: Instant,
    ) -> Result<()> {
        self.check_chain().await?;
        self.put_sidecar(&sidecar).await?;
        crash::point("sidecar-created", &self.partition);
        match upload.finish().await {
            Ok(Creation::Created) => {}
            // Also after an error it may be there, and be mine: only the store knows.
            outcome => {
                if !self.is_mine(&sidecar, outcome.err()).await? {
                    return self.adopt_winner(&sidecar).await;
                }
                self.archive.store().settle(&self.folder).await?;
            }
        }
        crash::point("log-created", &self.partition);
        self.next = Some(sidecar.range.next);
        self.last = Some(sidecar.range.first);
        self.leader_epoch = sidecar.epochs.last().map_or(self.leader_epoch, |epoch| epoch.epoch);
        self.transactions = transactions;
        self.detour = None;
        self.recovered();
        self.answer(Answer::Durable {
            partition: self.partition.clone(),
            next: sidecar.range.next,
            records: sidecar.records,
            bytes: sidecar.length_bytes,
            took: started.elapsed(),
        });
        crash::point("reported", &self.partition);
        Ok(())
    }

    /// Makes sure that what we are about to follow on is there: a folder that was unmounted, or came back older, must
    /// not get a segment behind a hole.
    async fn check_chain(&self) -> Result<()> {
        let key = match self.last {
            Some(first) => format!("{}{}", self.folder, layout::log(first)),
            None => layout::BACKUP.to_owned(),
        };
        if self.archive.store().exists(&key).await? {
            return Ok(());
        }
        Err(Error::transient("the archive is not where it was")
            .with("missing", self.archive.store().describe(&key))
            .hint("is its folder mounted?"))
    }

    /// Creates the sidecar, or takes the one that is there: the same name describes the same log.
    async fn put_sidecar(&mut self, sidecar: &Sidecar) -> Result<()> {
        let key =
            format!("{}{}", self.folder, layout::sidecar(sidecar.range.first, sidecar.length_bytes, sidecar.digest));
        let store = self.archive.store();
        if store.create(&key, sidecar.encode()).await? == Creation::Created {
            return Ok(());
        }
        let held = store.read(&key).await?.unwrap_or_default();
        if Sidecar::decode(&held).is_ok_and(|held| held.says_the_same(sidecar)) {
            return Ok(());
        }
        let blocked_bytes = sidecar.length_bytes;
        let roll_bytes = if sidecar.batches > 1 { blocked_bytes / 2 } else { blocked_bytes + 1 };
        self.detour = Some(Detour { roll_bytes, blocked_bytes });
        Err(Error::transient("a damaged sidecar stands where ours would go: ending the segment elsewhere")
            .with("object", store.describe(&key)))
    }

    /// Returns whether the log of that name holds the bytes that `sidecar` describes; `error` is why we have to ask,
    /// and is returned when there is no log at all.
    async fn is_mine(&self, sidecar: &Sidecar, error: Option<Error>) -> Result<bool> {
        let first = sidecar.range.first;
        let segments = Segments::new(self.archive.store().list(&self.folder).await?);
        let Some(&(_, length_bytes)) = segments.logs.iter().find(|(offset, _)| *offset == first) else {
            return Err(error.unwrap_or_else(|| Error::transient("the store says that a log exists and lists none")));
        };
        if length_bytes != sidecar.length_bytes {
            return Ok(false);
        }
        // Whoever created the log created its sidecar before. If mine is the only one that fits, the log is mine.
        if segments.sidecars(first, length_bytes).eq([sidecar.digest]) {
            return Ok(true);
        }
        let log = self.archive.store().read(&format!("{}{}", self.folder, layout::log(first))).await?;
        Ok(log.is_some_and(|log| xxhash_rust::xxh3::xxh3_128(&log) == sidecar.digest))
    }

    /// Another writer took the key: go on behind what it wrote.
    async fn adopt_winner(&mut self, mine: &Sidecar) -> Result<()> {
        let tip = self.archive.tip(&self.partition).await?;
        let (next, leader_epoch) = tip.ok_or_else(|| Error::transient("the winner's segment is not listed yet"))?;
        tracing::warn!(
            partition = %self.partition, mine = %mine.range, next,
            "another writer was ahead: dropping my segment and going on behind its"
        );
        self.recovered();
        self.start_from(Some(next), leader_epoch);
        Ok(())
    }

    /// Drops what is growing, waits, and starts again at the tip. `None` when the writer has ended.
    async fn recover(&mut self, error: Error, commands: &mut mpsc::UnboundedReceiver<Command>) -> Option<()> {
        if let Some(growing) = self.growing.take() {
            growing.upload.abort().await;
        }
        self.held.store(0, Ordering::Relaxed);
        self.report(error)?;
        self.wait(commands).await?;
        self.restart_at_tip(commands).await
    }

    /// Asks the store for the tip until it answers, and has the source start there. `None` when the writer has ended.
    async fn restart_at_tip(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) -> Option<()> {
        let fresh = self.failing.since.is_none();
        loop {
            match self.archive.tip(&self.partition).await {
                Ok(tip) => {
                    // What seemed to fail was done after all.
                    let done = tip.map(|(next, _)| next) > self.next;
                    if fresh || done {
                        self.recovered();
                    }
                    self.start_from(tip.map(|(next, _)| next), tip.map_or(-1, |(_, epoch)| epoch));
                    return Some(());
                }
                Err(error) => {
                    self.report(error)?;
                    self.wait(commands).await?;
                }
            }
        }
    }

    /// Has the source start at `next`; everything under way is void.
    fn start_from(&mut self, next: Option<Offset>, leader_epoch: i32) {
        self.generation += 1;
        self.next = next;
        self.last = None;
        self.leader_epoch = leader_epoch;
        self.transactions = OpenTransactions::default();
        let tip = Tip { next, leader_epoch, generation: self.generation };
        self.answer(Answer::Restart { partition: self.partition.clone(), tip });
    }

    /// Tells of an error. `None` when it is the end: a one-shot command does not wait for ever.
    fn report(&mut self, error: Error) -> Option<()> {
        let error = error.with("partition", &self.partition);
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
                    Command::Put(_) | Command::Roll => {}
                    Command::Close { .. } => return Some(()),
                },
            }
        }
    }

    fn recovered(&mut self) {
        if self.failing.since.is_some() {
            self.failing = Failing::default();
            self.answer(Answer::Trouble { subject: self.subject(), reason: None });
        }
    }

    fn must_wait_for_more(&mut self) -> bool {
        let blocked = self.is_blocked();
        if let Some(growing) = self.growing.as_mut().filter(|_| blocked) {
            growing.roll_at = Instant::now() + self.options.roll_interval;
        }
        blocked
    }

    /// Returns whether the growing segment would get the name of a damaged sidecar.
    fn is_blocked(&self) -> bool {
        let growing = self.growing.as_ref().zip(self.detour);
        growing.is_some_and(|(growing, detour)| growing.builder.length_bytes() == detour.blocked_bytes)
    }

    fn subject(&self) -> String {
        format!("archive of {}", self.partition)
    }

    fn answer(&self, answer: Answer) {
        // The loop may be gone already; then nobody needs the answer.
        let _ = self.answers.send(answer);
    }
}

impl Growing {
    /// Hands bytes to the upload, and keeps paying for what that holds in memory.
    async fn write(&mut self, bytes: Bytes, permit: Permit) -> Result<()> {
        self.permit.merge(permit);
        self.upload.write(bytes).await?;
        self.permit.keep(self.upload.held_bytes());
        Ok(())
    }
}

/// How long something has failed, and when to try again.
struct Failing {
    since: Option<Instant>,
    backoff: Backoff,
}

impl Default for Failing {
    fn default() -> Self {
        Self { since: None, backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX) }
    }
}

impl Failing {
    /// Returns since when it fails: since now, if it did not before.
    fn since(&mut self) -> Instant {
        *self.since.get_or_insert_with(Instant::now)
    }

    /// Returns when to try again.
    fn retry_at(&mut self) -> Instant {
        Instant::now() + self.backoff.wait()
    }
}

#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;
