//! Waits that grow, with jitter, so that a thousand clients of a broker that comes back do not all return at once; and the
//! patience to try again what passes, which says what it waits for.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};

/// How long something is tried before that is said: leaders move every day.
const SAID_AFTER: Duration = Duration::from_secs(2);

/// The waits between attempts: each twice the last, up to a bound, each spread by ±20 %.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    bound: Duration,
    attempts: u32,
}

impl Backoff {
    /// Makes waits that begin with `first` and grow up to `bound`.
    pub fn new(first: Duration, bound: Duration) -> Self {
        Self { first, bound: bound.max(first), attempts: 0 }
    }

    /// Returns the next wait.
    pub fn wait(&mut self) -> Duration {
        let grown = self.first.saturating_mul(1 << self.attempts.min(20)).min(self.bound);
        self.attempts = self.attempts.saturating_add(1);
        grown.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    /// Returns how many waits were given since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// Has what fails for a reason that passes tried again, up to a bound; what lasts is logged, each reason once.
#[derive(Debug)]
pub struct Patience {
    backoff: Backoff,
    within: Duration,
    began: Instant,
    said: String,
}

impl Patience {
    /// Makes one that lasts for `within`.
    pub fn new(backoff: Backoff, within: Duration) -> Self {
        Self { backoff, within, began: Instant::now(), said: String::new() }
    }

    /// Waits before the next try of what has failed. Cancel: safe.
    ///
    /// # Errors
    /// The failure itself, where it stays or the bound is reached.
    pub async fn wait(&mut self, error: Error) -> Result<()> {
        if !error.retryable() || self.began.elapsed() >= self.within {
            return Err(error);
        }
        let why = error.to_string();
        if self.began.elapsed() >= SAID_AFTER && self.said != why {
            tracing::warn!("{why}; trying again");
            self.said = why;
        }
        sleep(self.backoff.wait()).await;
        Ok(())
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.began = Instant::now();
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_passes_is_waited_for_up_to_a_bound_and_what_stays_is_not() {
        let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
        let mut patience = Patience::new(backoff.clone(), Duration::from_secs(60));
        assert!(patience.wait(Error::transient("away")).await.is_ok());
        let error = patience.wait(Error::failed("gone")).await.expect_err("it stays");
        assert_eq!(error.to_string(), "gone");
        let mut none = Patience::new(backoff, Duration::ZERO);
        assert!(none.wait(Error::transient("away")).await.is_err());
    }

    #[test]
    fn waits_grow_to_their_bound_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<_> = (0..100).map(|_| backoff.wait()).collect();
        assert!(waits[0] <= Duration::from_millis(120));
        assert!(waits[99] >= Duration::from_millis(800) && waits[99] <= Duration::from_millis(1200));
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(120));
    }
}
