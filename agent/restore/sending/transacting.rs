//! The transactions of a restore whose records cannot be counted in the targets: several sources come together in one, or a
//! stage remembers what it has seen.
//!
//! Each transaction has whole chunks, and how far each source has come with them. Order: everything that was sent has
//! landed, the journal, the commit with the progress; from then on it is durable. A journal whose progress was not
//! committed is void: where a later process begins, the group tells alone. Nothing more is sent from the moment that a
//! commit is due until it is done. Crash: the next fence aborts what was not committed.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::Token;
use crate::batch::outgoing::Outgoing;
use crate::error::{Error, Result};
use crate::kafka::produce::{Answer, Places, Transactions};
use crate::record::{Offset, Partition};

/// So many bytes are enough for a transaction, however soon it comes.
const ENOUGH_BYTES: usize = 256 << 20;

/// So long a transaction may be open: coordinators end one after a minute, or five.
const MOST_OPEN: Duration = Duration::from_secs(15);

/// So long taking back what is not committed may take: the next fence does it as well.
const ABORT_WITHIN: Duration = Duration::from_secs(10);

/// The transactions of one process.
pub(in crate::restore) struct Transacting {
    /// `None` while they commit.
    transactions: Option<Transactions<Token>>,
    places: Places,
    /// The number of each source.
    numbers: HashMap<Partition, usize>,
    /// How far each has come with what was sent.
    progress: Vec<Offset>,
    every: Duration,
    due: Instant,
    bytes: usize,
    /// The target partitions of the running transaction: its end takes an offset of each.
    within: BTreeSet<Partition>,
    /// Whether any source has come further than what was committed.
    has_news: bool,
    phase: Phase,
    /// What is told while they commit.
    heard: (mpsc::UnboundedSender<Answer<Token>>, mpsc::UnboundedReceiver<Answer<Token>>),
}

/// Where the running transaction stands.
enum Phase {
    Sending,
    /// What was sent is waited for.
    Landing,
    /// Its journal is written.
    Journaling,
    /// In a task of its own: who waits here is called away all the time, and would have to begin anew.
    Committing(JoinHandle<(Transactions<Token>, Result<()>)>),
    /// Nothing can be sent any more.
    Over,
}

/// What is to be done.
pub(super) enum Turn {
    /// Something was told.
    Told(Answer<Token>),
    /// All of the transaction has landed: its journal is due.
    Landed,
    /// It is committed: its end has taken an offset of each of these.
    Committed(BTreeSet<Partition>),
}

impl Transacting {
    /// Begins; `sources` are all in the plan's order, each with how far it had come.
    pub(in crate::restore) fn new(
        transactions: Transactions<Token>,
        places: Places,
        sources: impl IntoIterator<Item = (Partition, Offset)>,
        every: Duration,
    ) -> Self {
        let (sources, progress): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
        let every = every.min(MOST_OPEN);
        Self {
            transactions: Some(transactions),
            places,
            numbers: sources.into_iter().enumerate().map(|(number, source)| (source, number)).collect(),
            progress,
            every,
            due: Instant::now() + every,
            bytes: 0,
            within: BTreeSet::new(),
            has_news: false,
            phase: Phase::Sending,
            heard: mpsc::unbounded_channel(),
        }
    }

    /// Commits where each source begins, before anything is sent: what was never committed is told from what was forgotten.
    ///
    /// # Errors
    /// As [`Transactions::commit`].
    pub(in crate::restore) async fn begin(&mut self) -> Result<()> {
        let progress = self.places.write(&self.progress);
        let Some(transactions) = &mut self.transactions else { return Ok(()) };
        let mut heard = |answer| {
            if let Answer::Trouble { subject, reason: Some(reason) } = answer {
                tracing::warn!("{subject}: {reason}; trying again");
            }
        };
        transactions.commit(&progress, &mut heard).await
    }

    /// Sends a batch.
    pub(super) fn send(&mut self, target: &Partition, batch: Outgoing, token: Token) {
        self.bytes += batch.total_bytes();
        if !self.within.contains(target) {
            self.within.insert(target.clone());
        }
        if let Some(transactions) = &mut self.transactions {
            transactions.send(target, batch, token);
        }
    }

    /// Takes note that all of a source before `next` was sent.
    pub(super) fn reach(&mut self, source: &Partition, next: Offset) {
        if let Some(number) = self.numbers.get(source) {
            self.has_news |= self.progress[*number] < next;
            self.progress[*number] = self.progress[*number].max(next);
        }
    }

    /// Returns how far a source has come with what was sent.
    pub(super) fn progress(&self, source: &Partition) -> Offset {
        self.numbers.get(source).map_or(0, |number| self.progress[*number])
    }

    /// Returns whether more may be sent.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.phase, Phase::Sending)
    }

    /// Returns whether its journal is being written.
    pub(super) fn is_journaling(&self) -> bool {
        matches!(self.phase, Phase::Journaling)
    }

    /// Ends the sending: the transaction is committed as soon as everything has landed.
    pub(super) fn end(&mut self) {
        if self.is_sending() {
            self.phase = Phase::Landing;
        }
    }

    /// Takes note that the journal is kept.
    pub(super) fn kept(&mut self) {
        let Some(mut transactions) = self.transactions.take() else { return };
        let (progress, heard) = (self.places.write(&self.progress), self.heard.0.clone());
        self.phase = Phase::Committing(tokio::spawn(async move {
            // Whoever listened may be gone.
            let committed = transactions.commit(&progress, &mut |answer| drop(heard.send(answer))).await;
            (transactions, committed)
        }));
    }

    /// Waits for what is to be done. Cancel: safe.
    ///
    /// # Errors
    /// As [`Transactions::commit`]: nothing more is to be sent.
    pub(super) async fn turn(&mut self) -> Result<Turn> {
        loop {
            match (&mut self.phase, &mut self.transactions) {
                (Phase::Committing(committing), _) => {
                    let (transactions, committed) = tokio::select! {
                        Some(answer) = self.heard.1.recv() => return Ok(Turn::Told(answer)),
                        ended = committing => match ended {
                            Ok(ended) => ended,
                            Err(_) => {
                                self.phase = Phase::Over;
                                return Err(Error::failed("committing a transaction ended by a defect"));
                            }
                        },
                    };
                    self.transactions = Some(transactions);
                    self.phase = Phase::Sending;
                    committed?;
                    (self.due, self.bytes, self.has_news) = (Instant::now() + self.every, 0, false);
                    return Ok(Turn::Committed(std::mem::take(&mut self.within)));
                }
                (Phase::Sending, Some(transactions)) => {
                    let is_enough = self.bytes >= ENOUGH_BYTES;
                    tokio::select! {
                        answer = transactions.answer() => return Ok(Turn::Told(answer)),
                        () = sleep_until(self.due), if self.has_news && !is_enough => self.phase = Phase::Landing,
                        () = std::future::ready(()), if is_enough => self.phase = Phase::Landing,
                    }
                }
                (Phase::Landing, Some(transactions)) if transactions.outstanding() > 0 => {
                    return Ok(Turn::Told(transactions.answer().await));
                }
                (Phase::Landing, _) => {
                    self.phase = Phase::Journaling;
                    return Ok(Turn::Landed);
                }
                (Phase::Journaling, Some(transactions)) => return Ok(Turn::Told(transactions.answer().await)),
                _ => std::future::pending().await,
            }
        }
    }

    /// Takes back what is not committed, so that readers of committed data need not wait for it to expire.
    ///
    /// # Errors
    /// As [`Transactions::abort`]; [`Kind::Transient`](crate::error::Kind::Transient) when it takes too long.
    pub(super) async fn abort(&mut self) -> Result<()> {
        let late = |_| Error::transient("the transaction is not aborted yet: its coordinator does it in some minutes");
        if let Phase::Committing(committing) = &mut self.phase {
            let committing = timeout(ABORT_WITHIN, committing).await.map_err(late)?;
            self.transactions = committing.ok().map(|(transactions, _)| transactions);
            self.phase = Phase::Over;
        }
        let Some(transactions) = &mut self.transactions else { return Ok(()) };
        timeout(ABORT_WITHIN, transactions.abort(&mut |_| {})).await.map_err(late)?
    }
}

impl Drop for Transacting {
    fn drop(&mut self) {
        if let Phase::Committing(committing) = &self.phase {
            committing.abort();
        }
    }
}
