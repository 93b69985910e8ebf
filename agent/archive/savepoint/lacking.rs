//! Whether an archive has reached a savepoint: what it lacks, partition by partition. Pure.

use super::{Archived, State};
use crate::record::Offset;

/// A partition whose end at the savepoint the archive has not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The topic.
    pub topic: String,
    /// Its id as Kafka writes it.
    pub topic_id: String,
    /// The partition's index.
    pub partition: i32,
    /// Its end at the savepoint, exclusive.
    pub high_watermark: Offset,
    /// The end of what the archive holds, exclusive; `None` where it holds nothing of the partition.
    pub next: Option<Offset>,
}

impl Lack {
    /// Returns how many offsets are missing.
    pub fn offsets(&self) -> u64 {
        (self.high_watermark - self.next.unwrap_or(0)).max(0).cast_unsigned()
    }
}

/// Returns the partitions whose ends an archive has not reached; none when the savepoint is complete. `next` says how
/// far the archive goes of a topic, id and partition: of the chain that the savepoint names, or else of the newest.
pub fn lacking(state: &State, next: impl Fn(&str, &str, i32, Option<&Archived>) -> Option<Offset>) -> Vec<Lack> {
    let mut lacks = Vec::new();
    for topic in &state.topics {
        for end in &topic.partitions {
            let next = next(&topic.topic, &topic.topic_id, end.partition, end.archived.as_ref());
            if next.unwrap_or(0) < end.high_watermark {
                let (topic, topic_id) = (topic.topic.clone(), topic.topic_id.clone());
                let (partition, high_watermark) = (end.partition, end.high_watermark);
                lacks.push(Lack { topic, topic_id, partition, high_watermark, next });
            }
        }
    }
    lacks
}
