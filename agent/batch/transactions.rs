//! The aborted transactions that are open while the batches of a partition pass.
//!
//! Pure. Which transactions were aborted the broker tells with a Fetch response; where they end, the markers among the
//! batches do.

use crate::record::{AbortedTransaction, Offset};

/// The aborted transactions of a partition whose marker has not been seen yet.
///
/// It outlives segments: a transaction may span several, and the broker reports an abort whose marker lies beyond
/// what is archived.
#[derive(Debug, Default, Clone)]
pub struct OpenTransactions(Vec<AbortedTransaction>);

impl OpenTransactions {
    /// Adds what a Fetch response reported; entries may repeat.
    pub fn report(&mut self, aborted: &[AbortedTransaction]) {
        for entry in aborted {
            if !self.0.contains(entry) {
                self.0.push(*entry);
            }
        }
    }

    /// Returns whether a transactional data batch of `producer_id` at `offset` is aborted.
    pub fn covers(&self, producer_id: i64, offset: Offset) -> bool {
        self.0.iter().any(|open| open.producer_id == producer_id && open.first <= offset)
    }

    /// Takes out the transactions that `producer_id`'s control batch at `offset` ends: those that began before it.
    ///
    /// An earlier control batch must not end them (it is the commit of the producer's transaction before), and
    /// producer epochs are not compared: with transaction version 2 a marker's epoch is its data's + 1.
    pub fn end(&mut self, producer_id: i64, offset: Offset) -> impl Iterator<Item = AbortedTransaction> + '_ {
        self.0.extract_if(.., move |open| open.producer_id == producer_id && open.first < offset)
    }

    /// Returns those that began before `offset`.
    pub fn begun_before(&self, offset: Offset) -> impl Iterator<Item = &AbortedTransaction> {
        self.0.iter().filter(move |open| open.first < offset)
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
