//! The memory budget of a pipeline, and the limit on its bytes per second.
//!
//! A response is paid for after its length is known and before its body is read, so the bytes in flight never exceed
//! [`Budget::total_bytes`]. The payment travels with the batches ([`Permit`]) and comes back when the sink no longer
//! holds their bytes. A waiter that finds the budget short raises [`Budget::pressed`], on which the sink closes what
//! it holds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How often a waiter presses again. Shorter closes more segments than needed, longer leaves the source waiting.
const PRESSURE_EVERY: Duration = Duration::from_millis(100);

/// Bytes paid from a [`Budget`]; they come back when this is dropped.
#[derive(Debug, Default)]
pub struct Permit(Option<OwnedSemaphorePermit>);

impl Permit {
    /// Takes up to `bytes` out of this permit into one of its own; what is not there is not taken.
    pub fn split(&mut self, bytes: usize) -> Self {
        let Some(permit) = &mut self.0 else { return Self(None) };
        Self(permit.split(bytes.min(permit.num_permits())))
    }

    /// Gives back all but `bytes`.
    pub fn keep(&mut self, bytes: usize) {
        let surplus = self.bytes().saturating_sub(bytes);
        drop(self.split(surplus));
    }

    /// Pays for more of the same budget, up to `bytes` in all, if that is there now; returns whether they are paid for.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let Some(permit) = &mut self.0 else { return true };
        let more = bytes.saturating_sub(permit.num_permits());
        let Ok(wanted) = u32::try_from(more) else { return false };
        match permit.semaphore().clone().try_acquire_many_owned(wanted) {
            Ok(more) => {
                permit.merge(more);
                true
            }
            Err(_) => false,
        }
    }

    /// Adds the bytes of `other` to this permit.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
    }

    /// Returns how many bytes this permit holds.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

/// A bound on the bytes that a pipeline holds in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    pressure: Arc<Notify>,
    total_bytes: usize,
}

impl Budget {
    /// Makes a budget of `total_bytes` (at most 4 GiB − 1, the range of one payment).
    pub fn new(total_bytes: usize) -> Self {
        let total_bytes = total_bytes.clamp(1, u32::MAX as usize);
        Self { permits: Arc::new(Semaphore::new(total_bytes)), pressure: Arc::default(), total_bytes }
    }

    /// Pays for `bytes`, waiting until they are there; more than the whole budget costs the whole budget, so that one
    /// huge batch passes alone instead of never.
    ///
    /// Cancel safe: a dropped wait pays nothing.
    pub async fn acquire(&self, bytes: usize) -> Permit {
        let bytes = bytes.min(self.total_bytes) as u32;
        if let Ok(permit) = self.permits.clone().try_acquire_many_owned(bytes) {
            return Permit(Some(permit));
        }
        let waiting = self.permits.clone().acquire_many_owned(bytes);
        tokio::pin!(waiting);
        loop {
            // Again and again: what was closed for us may not have been enough.
            self.pressure.notify_one();
            if let Ok(permit) = tokio::time::timeout(PRESSURE_EVERY, &mut waiting).await {
                return Permit(Some(permit.expect("the semaphore of a budget is never closed")));
            }
        }
    }

    /// Waits until somebody has found the budget short. Cancel safe.
    pub async fn pressed(&self) {
        self.pressure.notified().await;
    }

    /// Returns the size of the budget in bytes.
    pub fn total_bytes(&self) -> usize {
        self.total_bytes
    }

    /// Returns the bytes that are paid for now.
    pub fn used_bytes(&self) -> usize {
        self.total_bytes - self.permits.available_permits()
    }
}

/// A limit on bytes per second, shared by all connections of a pipeline. Clones share it.
///
/// It is a schedule, not a bucket: each call books its bytes behind those before it and sleeps until the booking
/// begins, so the mean rate holds over any stretch and nothing is saved up while idle.
#[derive(Debug, Clone)]
pub struct RateLimit {
    bytes_per_second: Option<u64>,
    free_at: Arc<Mutex<Option<Instant>>>,
}

impl RateLimit {
    /// Makes a limit; `None` is no limit.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Arc::default() }
    }

    /// Books `bytes` and waits until all earlier bookings are used up.
    pub async fn pass(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let begins = {
            let mut free_at = self.free_at.lock().await;
            let begins = free_at.unwrap_or_else(Instant::now).max(Instant::now());
            *free_at = Some(begins + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
            begins
        };
        tokio::time::sleep_until(begins).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_short_budget_raises_pressure_and_serves_when_bytes_come_back() {
        let budget = Budget::new(100);
        let mut held = budget.acquire(80).await;
        let part = held.split(30);
        assert_eq!((held.bytes(), part.bytes(), budget.used_bytes()), (50, 30, 80));
        let waiter = tokio::spawn({
            let budget = budget.clone();
            async move { budget.acquire(500).await.bytes() }
        });
        budget.pressed().await;
        drop((held, part));
        assert_eq!(waiter.await.expect("the waiter ends"), 100);
        assert_eq!(budget.used_bytes(), 0);
    }
}
