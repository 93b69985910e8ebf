//! A race of questions: entered one after the other, answered by whichever is first.
//!
//! All of them run in the task that waits; dropping the race drops those that are still on their way.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Futures of one kind, of which the first to end is wanted.
pub(super) struct Race<F>(Vec<Pin<Box<F>>>);

impl<F> Default for Race<F> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<F: Future> Race<F> {
    /// Lets one more run.
    pub(super) fn enter(&mut self, future: F) {
        self.0.push(Box::pin(future));
    }

    /// Returns whether nothing runs.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for the next one to end; for ever where nothing runs. Cancel: safe, all go on with the next call.
    pub(super) async fn next(&mut self) -> F::Output {
        poll_fn(|context| {
            for at in 0..self.0.len() {
                if let Poll::Ready(output) = self.0[at].as_mut().poll(context) {
                    drop(self.0.swap_remove(at));
                    return Poll::Ready(output);
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn the_first_to_end_wins_whoever_was_entered_first() {
        let mut race = Race::default();
        let mut enter = || {
            let (tell, told) = oneshot::channel();
            race.enter(told);
            tell
        };
        let (first, second, third) = (enter(), enter(), enter());
        second.send(2).expect("it waits");
        assert_eq!(race.next().await, Ok(2));
        drop(third);
        assert!(race.next().await.is_err());
        first.send(1).expect("it waits");
        assert_eq!((race.is_empty(), race.next().await), (false, Ok(1)));
        assert!(race.is_empty());
    }
}
