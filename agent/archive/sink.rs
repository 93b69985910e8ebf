//! Makes batches durable: one writer a partition ([`writer`]), which grows a segment, seals it and publishes it
//! ([`commit`]); it keeps where a chain begins, and goes on in a fork where the source has lost what is held ([`fork`]).
//!
//! **Order of durable effects**, and what a crash after each leaves behind (`commit` is the code):
//! 0. before a partition's first segment: where its chain begins, created if absent: a chain that holds nothing yet, and
//!    begins nowhere else, whoever comes next;
//! 1. the log's bytes, under no name (a temporary file, an unfinished upload): debris that is cleared later;
//! 2. the sidecar `<first>.<length>-<digest>.index`, created if absent: a sidecar without a log at the chain's tip,
//!    which readers call unfinished; the same log, written again, takes it, another one gets a sidecar of another name;
//! 3. the log `<first>.log`, created if absent: **the commit**, and the fence. From here the segment is in the archive;
//! 4. the catalogs that this segment completes, each created if absent, the lower levels first, and all of them before
//!    the next segment's log: those that a crash leaves out are due at the next start, and made before the source starts.
//!    Until then readers open what they would stand for. Where they cannot be made (a hole, a chain of many segments that
//!    was written without them), the chain goes on without, which is said once.
//!
//! Between 3 and 4 the pipeline is told, and with it the source: hints, which the next start does without. What a
//! savepoint counts as archived ([`Reached`]) has its catalogs.
//!
//! A fork has the same order, in a folder of its own; before it, what is held of the chain that the source has left is
//! published there. The fork's folder comes with its first sidecar, and the fork with its first log: a crash before that
//! leaves the old chain as the newest, the next start hears from the source again that it has lost records, and makes
//! the same fork, because the name is a function of what the source and the archive hold. A folder without a log is no
//! fork.
//!
//! Two writers at one tip race for one key. The loser drops its segment, adopts the winner's end and has the source
//! start there. Any other failure is treated alike: drop, wait (back-off with jitter), ask the store for the tip, start
//! there. So a writer never has to know what a failed request did. Within a partition commits are strictly sequential.
//!
//! Cancel: a dropped writer leaves what a crash leaves.

mod commit;
mod fork;
mod growing;
mod reached;
mod staged;
mod topics;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Archive;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::pipeline::{self, Answer, Batch, Topic};
use crate::record::{Offset, Partition};
use crate::stages::Stages;
pub use reached::Reached;
#[cfg(test)]
pub(crate) use reached::reached_for_tests;
use topics::Topics;
use writer::Writer;

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
    /// The partitions that are open.
    writers: HashMap<Partition, Handle>,
    /// The last generation given out, to whichever partition: a batch that was read for an earlier writer of a partition
    /// is never taken for one of the present's.
    generations: Arc<AtomicU32>,
    reached: Reached,
    stages: Option<Stages>,
    topics: Topics,
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
    /// Keep where the chain begins, if the sender has heard of the writer's last restart.
    Begin {
        generation: u32,
        offset: Offset,
    },
    /// Go on beside the chain, if the sender has heard of the writer's last restart.
    Diverge {
        generation: u32,
        epoch: i32,
        end: Offset,
    },
    /// Close, if the sender has heard of the writer's last restart.
    Close {
        generation: u32,
    },
}

impl Sink {
    /// Makes a sink into `archive`; nothing is written yet.
    pub fn new(archive: Archive, options: Options) -> Self {
        let (answer_sender, answers) = mpsc::unbounded_channel();
        Self {
            archive,
            options,
            writers: HashMap::new(),
            generations: Arc::default(),
            reached: Reached::default(),
            stages: None,
            topics: Topics::default(),
            answer_sender,
            answers,
            tasks: JoinSet::new(),
        }
    }

    /// Tells `reached` how far each partition is durable.
    pub fn telling(self, reached: Reached) -> Self {
        Self { reached, ..self }
    }

    /// Has batches go through `stages` before they are appended.
    pub fn through(self, stages: Option<Stages>) -> Self {
        Self { stages, ..self }
    }

    /// Returns the archive that it writes.
    pub fn archive(&self) -> &Archive {
        &self.archive
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
        if self.topics.ask(&topic) {
            let (archive, topics, answers) = (self.archive.clone(), self.topics.clone(), self.answer_sender.clone());
            let give_up_after = self.options.give_up_after;
            self.tasks.spawn(async move { topics.keep(&archive, topic, give_up_after, &answers).await });
        }
    }

    fn open(&mut self, partition: &Partition) {
        debug_assert!(!self.writers.contains_key(partition), "{partition} is open already");
        let (commands, received) = mpsc::unbounded_channel();
        let held = Arc::new(AtomicUsize::new(0));
        self.writers.insert(partition.clone(), Handle { commands, held: held.clone() });
        let (options, answers) = (self.options.clone(), self.answer_sender.clone());
        let writer =
            Writer::new(self.archive.clone(), partition.clone(), options, answers, held, self.generations.clone());
        let writer = writer.telling(self.reached.clone()).through(self.stages.clone());
        self.tasks.spawn(writer.run(received));
    }

    fn begin(&mut self, partition: &Partition, generation: u32, offset: Offset) {
        self.send(partition, Command::Begin { generation, offset });
    }

    fn diverge(&mut self, partition: &Partition, generation: u32, epoch: i32, end: Offset) {
        self.send(partition, Command::Diverge { generation, epoch, end });
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
                answer = self.answers.recv() => {
                    let answer = answer.expect("the sink itself holds a sender");
                    if let Answer::Closed { partition } | Answer::Failed { partition: Some(partition), .. } = &answer {
                        let _ = self.writers.remove(partition);
                    }
                    return answer;
                }
                // Writers end after their last answer; one that ended otherwise must not be waited for.
                Some(ended) = self.tasks.join_next() => if let Err(error) = ended {
                    let error = Error::failed("a writer of the archive ended by a defect").source(error);
                    return Answer::Failed { partition: None, error };
                },
            }
        }
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
mod catalogued;
#[cfg(test)]
mod forks;
#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;
