//! How far this process has seen each partition's chain durable: what its writers tell, for whoever keeps it.
//!
//! Pure but for the lock, which is held for a look-up. What is told stays true: a chain only grows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::archive::layout::Fork;
use crate::record::{Offset, Partition};

/// The newest chain of each partition, and the end of what is durable of it, exclusive.
type Ends = HashMap<Partition, (Option<Fork>, Offset)>;

/// The ends of chains, by partition. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Reached(Arc<Mutex<Ends>>);

impl Reached {
    /// Takes note that the newest chain of `partition` is durable up to `next`, exclusive.
    pub(super) fn tell(&self, partition: &Partition, fork: Option<Fork>, next: Offset) {
        self.lock().insert(partition.clone(), (fork, next));
    }

    /// Returns the newest chain that is known of `partition`, and the end of what is durable of it, exclusive.
    pub fn of(&self, partition: &Partition) -> Option<(Option<Fork>, Offset)> {
        self.lock().get(partition).copied()
    }

    /// Returns whether anything is known to be durable.
    pub fn is_any(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Forgets the partitions for which `there` does not hold, as those of deleted topics.
    pub fn keep(&self, there: impl Fn(&Partition) -> bool) {
        self.lock().retain(|partition, _| there(partition));
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes one that was told of `partition` up to `next`.
#[cfg(test)]
pub(crate) fn reached_for_tests(partition: &Partition, next: Offset) -> Reached {
    let reached = Reached::default();
    reached.tell(partition, None, next);
    reached
}
