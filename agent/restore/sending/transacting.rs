//! The transactions of a restore whose records cannot be counted in the targets: several sources come together in one, or a
//! stage remembers what it has seen.
//!
//! Each transaction has whole chunks, and how far each source has come with them. Order: everything that was sent has
//! landed, the journal, the commit with the progress; from then on it is durable. A journal whose progress was not
//! committed is void: where a later process begins, the group tells alone. Nothing more is sent from the moment that a
//! commit is due until it is done. Crash: the next fence aborts what was not committed.
//!
//! A transaction ends with a marker in each of its targets, of one offset; but where a leader moves while markers are
//! written, its coordinator may write one again, and each has an offset. So a batch that comes to a later offset than was
//! expected may be nobody else's doing: before the transaction is committed, what lies before such a batch is read.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Token, foreign};
use crate::batch::Header;
use crate::batch::outgoing::Outgoing;
use crate::error::{Error, Result};
use crate::kafka::Client;
use crate::kafka::produce::{Answer, Places, Transactions};
use crate::record::{Offset, OffsetRange, Partition};
use crate::restore::ends;

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
    /// Offsets of targets that others of its batches lie behind, and that nothing of it has.
    gaps: VecDeque<(Partition, OffsetRange)>,
    /// Whose markers may be there.
    ours: BTreeSet<i64>,
    phase: Phase,
    /// What is told while they commit.
    heard: (mpsc::UnboundedSender<Answer<Token>>, mpsc::UnboundedReceiver<Answer<Token>>),
}

/// Where the running transaction stands.
enum Phase {
    Sending,
    /// What was sent is waited for.
    Landing,
    /// What lies before batches that came to later offsets than expected is looked at.
    Looking(JoinHandle<Result<()>>),
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
        let ours = BTreeSet::from([transactions.producer_id()]);
        Self {
            gaps: VecDeque::new(),
            ours,
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

    /// Takes note that a batch came behind these offsets of a target: what has them is looked at before the commit.
    pub(super) fn doubt(&mut self, target: &Partition, gap: OffsetRange) {
        self.gaps.push_back((target.clone(), gap));
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
        self.ours.insert(transactions.producer_id());
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
                (Phase::Landing, Some(transactions)) if !self.gaps.is_empty() => {
                    let (client, gaps) = (transactions.client().clone(), std::mem::take(&mut self.gaps));
                    self.phase = Phase::Looking(tokio::spawn(look(client, gaps, self.ours.clone())));
                }
                (Phase::Looking(looking), _) => {
                    let defect = |_| Err(Error::failed("looking at what lies in a target ended by a defect"));
                    let looked = looking.await.unwrap_or_else(defect);
                    self.phase = if looked.is_ok() { Phase::Landing } else { Phase::Over };
                    looked?;
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
        match &self.phase {
            Phase::Committing(committing) => committing.abort(),
            Phase::Looking(looking) => looking.abort(),
            _ => {}
        }
    }
}

/// Makes sure that nothing lies in these offsets but markers of our own.
async fn look(client: Client, gaps: VecDeque<(Partition, OffsetRange)>, ours: BTreeSet<i64>) -> Result<()> {
    for (target, gap) in gaps {
        let of_others = || foreign(&target, gap.first, gap.next);
        let look =
            |_: &Partition, header: Option<&Header>| is_ours(header, &ours).then_some(true).ok_or_else(of_others);
        ends::walk(&client, HashMap::from([(target.clone(), gap)]), look).await?;
        tracing::debug!("{target}: markers were written again at {gap}");
    }
    Ok(())
}

/// Returns whether a batch is a marker of ours; `None` is one of an old format.
fn is_ours(header: Option<&Header>, ours: &BTreeSet<i64>) -> bool {
    header.is_some_and(|header| header.is_control() && ours.contains(&header.producer_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::records::template;

    #[test]
    fn a_marker_that_was_written_again_is_ours_and_all_else_is_not() {
        let ours = BTreeSet::from([7, 8]);
        let header = |attributes, producer_id| Header { attributes, producer_id, ..template(3) };
        assert!(is_ours(Some(&header(0x30, 7)), &ours) && is_ours(Some(&header(0x30, 8)), &ours));
        assert!(!is_ours(Some(&header(0x30, 9)), &ours), "a marker of somebody else");
        // Ours would have told where it landed.
        assert!(
            !is_ours(Some(&header(0x10, 7)), &ours) && !is_ours(Some(&header(0, -1)), &ours) && !is_ours(None, &ours)
        );
    }
}
