//! The same work for many, a few of them at a time: for places of an archive, each of which takes several answers of a
//! store.
//!
//! Order: results are in the order of what they are of. Memory: the results, and what is under way. Cancel: dropped, it
//! ends what is under way.

use tokio::task::JoinSet;

use crate::error::{Error, Result};

/// Does `work` for each of `items`, `at_once` at a time.
///
/// # Errors
/// A fault of the program: one of the works panicked.
pub(crate) async fn each<I, T, W>(
    items: impl IntoIterator<Item = I>,
    at_once: usize,
    work: impl Fn(I) -> W,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    W: Future<Output = T> + Send + 'static,
{
    let mut waiting = items.into_iter().enumerate();
    let (mut running, mut done) = (JoinSet::new(), Vec::new());
    loop {
        while running.len() < at_once.max(1)
            && let Some((n, item)) = waiting.next()
        {
            let work = work(item);
            let _ = running.spawn(async move { (n, work.await) });
        }
        match running.join_next().await {
            Some(Ok(one)) => done.push(one),
            Some(Err(error)) => return Err(Error::failed("work on a partition ended early").source(error)),
            None => break,
        }
    }
    done.sort_unstable_by_key(|(n, _)| *n);
    Ok(done.into_iter().map(|(_, one)| one).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn results_are_in_order_whatever_ends_first_and_no_more_than_allowed_are_under_way() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = |n: usize| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                let _ = most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // The later ones end first.
                for _ in n..20 {
                    tokio::task::yield_now().await;
                }
                let _ = running.fetch_sub(1, Ordering::SeqCst);
                n
            }
        };
        let done = each(0..20, 4, work).await.expect("none panics");
        assert_eq!(done, (0..20).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 4);
    }
}
