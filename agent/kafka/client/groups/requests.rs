//! How requests went, counted: how many there were, how long each took, and how often something was asked again, and why.
//!
//! Shared among the tasks of one job. It takes four bytes a request, and no lock is held for longer than to add a number.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Counts requests.
#[derive(Debug, Default)]
pub struct Requests {
    /// How long each of them took, in microseconds; more than an hour counts as that.
    took_us: Mutex<Vec<u32>>,
    again: Mutex<BTreeMap<String, u64>>,
}

impl Requests {
    /// Counts one, which took so long until its answer, or until it was clear that there is none.
    pub fn note(&self, took: Duration) {
        locked(&self.took_us).push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Counts that something of a request is asked again, for this reason: Kafka's name of it.
    pub fn again(&self, why: &str) {
        *locked(&self.again).entry(why.to_owned()).or_default() += 1;
    }

    /// Returns how many there were.
    pub fn count(&self) -> u64 {
        locked(&self.took_us).len() as u64
    }

    /// Returns how often something was asked again.
    pub fn retries(&self) -> u64 {
        locked(&self.again).values().sum()
    }

    /// Returns how often something was asked again, by reason.
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        locked(&self.again).clone()
    }

    /// Returns the least time within which this share of the requests, from 0 to 1, was answered: the median for 0.5. Zero where
    /// there were none.
    pub fn percentile(&self, share: f64) -> Duration {
        let mut took_us = locked(&self.took_us).clone();
        if took_us.is_empty() {
            return Duration::ZERO;
        }
        let rank = (share.clamp(0.0, 1.0) * took_us.len() as f64).ceil() as usize;
        let (_, took_us, _) = took_us.select_nth_unstable(rank.saturating_sub(1));
        Duration::from_micros(u64::from(*took_us))
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_requests_took() {
        let requests = Requests::default();
        assert_eq!((requests.count(), requests.percentile(0.99)), (0, Duration::ZERO));
        (1..=100).rev().for_each(|ms| requests.note(Duration::from_millis(ms)));
        let ms = |share| requests.percentile(share).as_millis();
        assert_eq!((ms(0.0), ms(0.5), ms(0.99), ms(0.991), ms(1.0)), (1, 50, 99, 100, 100));
        requests.note(Duration::from_secs(36_000));
        assert_eq!((requests.count(), requests.percentile(1.0).as_micros()), (101, u128::from(u32::MAX)));
    }

    #[test]
    fn what_is_asked_again_is_counted_by_reason() {
        let requests = Requests::default();
        ["moved", "lost", "moved"].iter().for_each(|why| requests.again(why));
        assert_eq!(requests.retries(), 3);
        assert_eq!(requests.reasons(), [("lost".to_owned(), 1), ("moved".to_owned(), 2)].into());
    }
}
