//! What of a restore in transactions was committed, as the restore's group tells; and which journals say of records what is
//! not so, because their transaction was aborted. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};
use crate::record::{Offset, Partition};
use crate::restore::map::Pair;
use crate::restore::state::{Attempt, Journal, Landed, Start, Sum};

/// What was committed.
#[derive(Debug)]
pub(super) struct Committed<'a> {
    /// How far each source has come.
    sources: HashMap<&'a Partition, Offset>,
    /// The journals of what was committed, in the order of what they say.
    pub(super) journals: Vec<Journal>,
    /// The numbers of all others.
    pub(super) void: Vec<u32>,
}

impl<'a> Committed<'a> {
    /// Finds it: `sources` are all, in the plan's order, each with its first offset; `progress` is what the group tells of
    /// each, `journals` are all that there are, and `attempt` is the newest.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) when the cluster has forgotten the progress;
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when the journal of something that was committed is missing.
    pub(super) fn of(
        attempt: &Attempt,
        sources: &[(&'a Partition, Offset)],
        progress: &[Option<Offset>],
        journals: Vec<Journal>,
    ) -> Result<Self> {
        let is_new = journals.is_empty() && progress.iter().all(Option::is_none);
        let at = |((source, first), told): (&(&'a Partition, Offset), &Option<Offset>)| match told {
            Some(next) => Ok((*source, *next)),
            None if is_new => Ok((*source, *first)),
            None => Err(forgotten(source)),
        };
        let next: HashMap<&Partition, Offset> = sources.iter().zip(progress).map(at).collect::<Result<_>>()?;
        let is_committed = |journal: &Journal| {
            let of = |landed: &Landed| next.get(&landed.pair.source).is_some_and(|next| landed.source_next <= *next);
            // The newest attempt had not seen it: so its transaction was not committed then, and could not be later.
            let is_late = journal.attempt < attempt.number && journal.number >= attempt.first_journal;
            !attempt.void.contains(&journal.number) && !is_late && journal.landed.iter().all(of)
        };
        let (journals, void): (Vec<_>, Vec<_>) = journals.into_iter().partition(is_committed);
        let void = void.iter().map(|journal| journal.number).collect();
        let committed = Self { sources: next, journals, void };
        committed.check(sources)?;
        Ok(committed)
    }

    /// Makes sure that the last journal says of each source what was committed with it.
    fn check(&self, sources: &[(&'a Partition, Offset)]) -> Result<()> {
        let journalled: HashMap<&Partition, Offset> = match self.journals.last() {
            Some(journal) => journal.landed.iter().map(|landed| (&landed.pair.source, landed.source_next)).collect(),
            None => sources.iter().copied().collect(),
        };
        match self.sources.iter().find(|(source, next)| journalled.get(*source) != Some(*next)) {
            None => Ok(()),
            Some((source, next)) => {
                Err(Error::damaged(format!("no journal tells where records of {source} have gone"))
                    .with("committed before", next)
                    .hint("a journal of the restore is missing; restore to an empty target under another restore_id"))
            }
        }
    }

    /// Returns how far a source has come.
    pub(super) fn next(&self, source: &Partition) -> Offset {
        self.sources.get(source).copied().unwrap_or_default()
    }

    /// Returns what has come of all that was committed.
    pub(super) fn sum(&self) -> Sum {
        let of = |last: &Journal| Sum { records: last.records, bytes: last.bytes, left_out: last.left_out };
        self.journals.last().map(of).unwrap_or_default()
    }

    /// Returns where each target ended when the last of it was committed; where nothing was, when it was `begun` with.
    pub(super) fn bases<'p>(
        &self,
        pairs: &'p [Pair],
        begun: &BTreeMap<&Pair, &Start>,
    ) -> HashMap<&'p Partition, Offset> {
        let last = self.journals.last().into_iter().flat_map(|journal| &journal.landed);
        let landed: BTreeMap<&Pair, &Landed> = last.map(|landed| (&landed.pair, landed)).collect();
        let mut bases = HashMap::new();
        for pair in pairs {
            let begun = begun.get(pair).map_or(0, |start| start.target_next);
            let base = landed.get(pair).map_or(begun, |landed| landed.target_next);
            // Several sources have the same target: what lies behind the furthest of them.
            let of = bases.entry(&pair.target).or_insert(base);
            *of = base.max(*of);
        }
        bases
    }
}

fn forgotten(source: &Partition) -> Error {
    Error::failed(format!("the cluster does not tell any more how far the restore had come with {source}")).hint(
        "brokers forget a group's offsets after `offsets.retention.minutes`, and somebody may have deleted the group; \
               restore to an empty target under another restore_id",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::map::Exact;
    use crate::restore::state::tests::{attempt, journal, memory, planned};
    use crate::restore::state::{Seen, State};

    /// The journal of a transaction that ends with these runs.
    fn of_transaction(runs: &[(Offset, Offset, u64)]) -> Journal {
        let mut journal = journal(runs);
        journal.is_transactional = true;
        journal
    }

    /// Finds what was committed of a restore of one source when the group tells `next`.
    async fn committed(state: &State, seen: &Seen, next: Offset) -> (Vec<u32>, Vec<u32>) {
        let journals = match seen.journals.last() {
            Some(last) => state.journals_to(*last).await.expect("read"),
            None => Vec::new(),
        };
        let newest = seen.attempt.as_ref().expect("one has begun");
        let source = newest.starts[0].pair.source.clone();
        let told = Committed::of(newest, &[(&source, 0)], &[Some(next)], journals).expect("it is told");
        assert_eq!(told.next(&source), next);
        (told.journals.iter().map(|journal| journal.number).collect(), told.void)
    }

    async fn exact(state: &State, source: Offset) -> Exact {
        let seen = state.look().await.expect("read");
        let map = state.offset_map(&seen).await.expect("sound").expect("there are journals");
        map.iter().next().expect("one pair").1.exact(source)
    }

    #[tokio::test]
    async fn a_journal_of_an_aborted_transaction_that_is_written_late_says_nothing_of_records() {
        let state = planned(&memory()).await;
        let older = state.begin(attempt(7, 0)).await.expect("the first");
        let mut late = state.journals(&older).await.expect("listed");
        let _ = late.put(of_transaction(&[(0, 1, 10)])).await.expect("kept, and committed");
        // A younger process has fenced it, and has looked where the restore stands.
        let seen = state.look().await.expect("read");
        assert_eq!(committed(&state, &seen, 10).await, (vec![0], vec![]));
        let _ = late.put(of_transaction(&[(10, 12, 5)])).await.expect("kept, and never committed");
        let younger = state.begin_behind(&seen, &attempt(7, 1)).await.expect("asked").expect("it begins");
        assert_eq!((younger.number, younger.first_journal), (1, 1));
        assert_eq!(exact(&state, 10).await, Exact::Unfinished, "it was aborted");
        // What it sends again lies behind, and its journal is passed over.
        let mut journals = state.journals(&younger).await.expect("listed");
        let kept = journals.put(of_transaction(&[(10, 20, 3)])).await.expect("kept, and committed");
        assert_eq!(kept.number, 2);
        let seen = state.look().await.expect("read");
        assert_eq!(committed(&state, &seen, 13).await, (vec![0, 2], vec![1]), "the next one calls it void");
        let next = Attempt { void: vec![1], ..attempt(7, 2) };
        let _ = state.begin_behind(&seen, &next).await.expect("asked").expect("it begins");
        assert_eq!((exact(&state, 11).await, exact(&state, 13).await), (Exact::At(21), Exact::Unfinished));
        let seen = state.look().await.expect("read");
        assert_eq!(committed(&state, &seen, 13).await, (vec![0, 2], vec![1]), "and so does the one after it");
    }

    #[tokio::test]
    async fn a_journal_whose_transaction_was_not_committed_is_void_whatever_comes_later() {
        let state = planned(&memory()).await;
        let older = state.begin(attempt(7, 0)).await.expect("the first");
        let mut journals = state.journals(&older).await.expect("listed");
        for runs in [(0, 1, 10), (10, 12, 5)] {
            let _ = journals.put(of_transaction(&[runs])).await.expect("kept");
        }
        let seen = state.look().await.expect("read");
        assert_eq!(committed(&state, &seen, 10).await, (vec![0], vec![1]));
        let next = Attempt { void: vec![1], ..attempt(7, 1) };
        let _ = state.begin_behind(&seen, &next).await.expect("asked").expect("it begins");
        assert_eq!(exact(&state, 10).await, Exact::Unfinished);
        // The progress has passed what the void one says: that was sent by another.
        let seen = state.look().await.expect("read");
        let journals = state.journals_to(1).await.expect("read");
        let newest = seen.attempt.as_ref().expect("there is one");
        let source = newest.starts[0].pair.source.clone();
        let error = Committed::of(newest, &[(&source, 0)], &[Some(15)], journals).expect_err("its journal is missing");
        assert!(error.exit_code() == 4 && error.to_string().contains("(committed before 15)"), "{error}");
    }
}
