//! Waits that grow, with jitter, so that a thousand clients of a broker that comes back do not all return at once.
//!
//! Pure but for the random generator.

use std::time::Duration;

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

#[cfg(test)]
mod tests {
    use super::*;

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
