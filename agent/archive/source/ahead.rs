//! Sidecars of a chain, read before the walk comes to them: a chain is as long as its reads one after the other else.
//!
//! Order: what is asked for is answered in its turn, and so is an error; nobody sees what was read and not asked for.
//! Memory: [`READ_AHEAD`] sidecars. Cancel: dropped, it ends the reads that are under way.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::archive::layout;
use crate::error::{Error, Result};
use crate::record::Offset;
use crate::store::Store;

/// So many sidecars are on their way or wait to be asked for: at most 50 KiB each, as a writer makes them. With half of
/// it a chain on a store that takes 20 ms an answer walks 400 segments a second; double of it, for each of the chains
/// that are walked side by side, is what stores begin to refuse.
const READ_AHEAD: usize = 16;

/// What a sidecar's name says: the first offset, and its log's bytes and digest.
pub(super) type Named = (Offset, u64, u128);

/// The reads of one chain's sidecars.
#[derive(Default)]
pub(super) struct Ahead {
    /// In the order of the chain.
    under_way: VecDeque<(Named, Reading<Option<Bytes>>)>,
}

impl Ahead {
    /// Returns the bytes of the sidecar `wanted` in `folder`, and begins to read those that follow it in the chain,
    /// `upcoming`; `None` where it is not there.
    ///
    /// # Errors
    /// Those of the store while it read this one.
    pub(super) async fn read(
        &mut self,
        store: &Store,
        folder: &str,
        wanted: Named,
        upcoming: impl Iterator<Item = Named>,
    ) -> Result<Option<Bytes>> {
        let key = |(first, length_bytes, digest)| format!("{folder}{}", layout::sidecar(first, length_bytes, digest));
        // The walk passed over what lies before.
        while self.under_way.front().is_some_and(|(named, _)| *named < wanted) {
            drop(self.under_way.pop_front());
        }
        let is_next = self.under_way.front().is_some_and(|(named, _)| *named == wanted);
        let read = if is_next { self.under_way.pop_front() } else { None };
        let last = self.under_way.back().map_or(wanted, |(named, _)| *named);
        // In memory a task costs more than the read: a check of a small archive takes a tenth longer.
        let free = if store.is_memory() { 0 } else { READ_AHEAD - self.under_way.len() };
        for named in upcoming.take(READ_AHEAD).filter(|named| *named > last).take(free) {
            let (store, key) = (store.clone(), key(named));
            self.under_way.push_back((named, Reading::begin(async move { store.read(&key).await })));
        }
        match read {
            Some((_, reading)) => reading.end().await,
            None => store.read(&key(wanted)).await,
        }
    }
}

/// A read under way, which ends when nobody waits for it any more.
pub(super) struct Reading<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Reading<T> {
    pub(super) fn begin(read: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self(tokio::spawn(read))
    }

    /// Waits for what was read.
    pub(super) async fn end(mut self) -> Result<T> {
        (&mut self.0).await.map_err(|error| Error::failed("a read ended early").source(error))?
    }
}

impl<T> Drop for Reading<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_window_is_read_ahead_in_order_and_what_was_passed_over_is_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
        let named = |first: Offset| (first, 7, 1);
        for first in (0..100).filter(|first| *first != 30) {
            let key = format!("f/{}", layout::sidecar(first, 7, 1));
            let _ = store.create(&key, Bytes::from(first.to_string())).await.expect("created");
        }
        let mut ahead = Ahead::default();
        // The walk passes over [20, 25), and the sidecar of 30 is not there.
        for first in (0..100).filter(|first| !(20..25).contains(first)) {
            let read = ahead.read(&store, "f/", named(first), (first + 1..100).map(named)).await.expect("read");
            assert_eq!(read, (first != 30).then(|| Bytes::from(first.to_string())));
            let under_way: Vec<_> = ahead.under_way.iter().map(|((first, ..), _)| *first).collect();
            let until = (first + 1 + READ_AHEAD as Offset).min(100);
            assert_eq!(under_way, (first + 1..until).collect::<Vec<_>>());
        }
    }
}
