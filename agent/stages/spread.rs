//! Records spread over the partitions of their target topic by key: the last step of a restore's stages, and the only one
//! where a restore has none.
//!
//! Pure. A record goes where Kafka's own partitioner sends its key; one without a key goes round robin by its offset and the
//! number of its partition at the source, so that it goes to the same partition whenever it is read again, and however
//! batches are cut. Where a stage has chosen a partition, that holds.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Over how many partitions records are spread, by target topic.
#[derive(Debug, Clone, Default)]
pub struct Spread(Arc<BTreeMap<String, i32>>);

impl Spread {
    /// Makes it of topics of the target, with how many partitions each has.
    pub fn new(topics: &BTreeMap<String, i32>) -> Self {
        Self(Arc::new(topics.clone()))
    }

    /// Returns whether nothing is spread.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns over how many partitions of a topic records are spread, where they are.
    pub(super) fn over(&self, topic: &str) -> Option<u32> {
        self.0.get(topic).map(|partitions| partitions.unsigned_abs().max(1))
    }
}
