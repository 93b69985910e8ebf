//! The bound on what one partition has in flight, so that no partition takes the whole budget from the others.
//!
//! Bytes count from their delivery until the sink has taken them in: not until they are durable, since a segment on its
//! way is larger than this bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Bytes that a partition may have in flight. With half, a store that takes parts of 8 MiB two at a time would wait
/// for us; with twice as much, four partitions could hold half of the default budget.
pub(super) const BOUND_BYTES: usize = 16 << 20;

/// The bytes that a partition has in flight.
#[derive(Debug)]
pub(super) struct Flow {
    held_bytes: AtomicUsize,
    /// Raised when bytes come back.
    wake: Arc<Notify>,
}

/// Bytes in flight; dropped, they no longer are.
pub(super) struct InFlight {
    bytes: usize,
    flow: Arc<Flow>,
}

impl Flow {
    pub(super) fn new(wake: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { held_bytes: AtomicUsize::new(0), wake })
    }

    /// Returns whether no more should be fetched for now.
    pub(super) fn is_full(&self) -> bool {
        self.held_bytes.load(Ordering::Relaxed) >= BOUND_BYTES
    }

    /// Counts `bytes` until what this returns is dropped.
    pub(super) fn count(self: &Arc<Self>, bytes: usize) -> InFlight {
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        InFlight { bytes, flow: self.clone() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.flow.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if before >= BOUND_BYTES {
            self.flow.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_flow_opens_when_bytes_are_taken_in() {
        let wake = Arc::new(Notify::new());
        let flow = Flow::new(wake.clone());
        let (most, rest) = (flow.count(BOUND_BYTES - 1), flow.count(1));
        assert!(flow.is_full());
        drop(rest);
        wake.notified().await;
        assert!(!flow.is_full());
        drop(most);
    }
}
