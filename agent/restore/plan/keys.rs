//! Records without a key that would go to a compacted topic, which refuses each batch that has one.
//!
//! The archive's index does not tell of keys. So, where a target is compacted and the archived topic was not, all that is
//! going to be restored to it is read once and counted. Of a topic that was compacted itself there are none, but for those
//! of a time before it was: the target names the first.

use super::hazards::{Danger, Hazard};
use super::{PartitionPlan, Plan, TopicPlan};
use crate::archive::Archive;
use crate::archive::source::chunks::{Chunk, Segment};
use crate::archive::source::opened::Opened;
use crate::archive::source::way::Part;
use crate::archive::source::{Timeline, side_by_side};
use crate::batch::{self, outgoing::Window, records::Records};
use crate::error::{Error, Result};
use crate::record::OffsetRange;
use crate::restore::reading::contributes;

/// Partitions that are read at a time: each has a chunk in memory.
const SIDE_BY_SIDE: usize = 8;

/// Returns what is dangerous about the keys of a plan's records.
pub(super) async fn hazards(archive: &Archive, plan: &Plan, timelines: &[Timeline]) -> Result<Vec<Hazard>> {
    let mut hazards = Vec::new();
    for topic in &plan.topics {
        if !topic.compacts || was_compacted(topic, timelines) {
            continue;
        }
        tracing::info!(topic = topic.target, "it is compacted: looking for records without a key");
        let scans = topic.partitions.iter().filter(|of| of.records > 0).map(|of| {
            Ok(Scan {
                archive: archive.clone(),
                way: of.way(&topic.source_partition(of)?)?,
                window: plan.window(of),
                of: of.clone(),
            })
        });
        let scans = scans.collect::<Result<Vec<_>>>()?;
        for counted in side_by_side::each(scans, SIDE_BY_SIDE, Scan::count).await? {
            let (target, count) = counted?;
            if count > 0 {
                let detail = format!("it is compacted, and {count} records have no key: it refuses their batches");
                let subject = match topic.repartition {
                    Some(_) => topic.target.clone(),
                    None => format!("{}-{target}", topic.target),
                };
                hazards.push(Hazard::new(Danger::NullKeys, subject, detail));
            }
        }
    }
    Ok(hazards)
}

/// Returns whether the archive says that a topic was compacted.
fn was_compacted(topic: &TopicPlan, timelines: &[Timeline]) -> bool {
    let of = timelines.iter().find(|of| *of.topic == *topic.source && of.topic_id.to_string() == topic.topic_id);
    let object = of.and_then(|of| of.object.as_ref().ok()?.as_ref());
    let configs = object.and_then(|object| object.topic.configs.as_deref()).unwrap_or_default();
    let policy = configs.iter().find(|config| config.name == "cleanup.policy");
    policy.and_then(|policy| policy.value.as_deref()).is_some_and(|policy| policy.contains("compact"))
}

/// The look at one partition.
struct Scan {
    archive: Archive,
    way: Vec<Part>,
    window: Window,
    of: PartitionPlan,
}

impl Scan {
    /// Returns the target partition, and how many records have no key.
    async fn count(self) -> Result<(i32, u64)> {
        let mut count = 0;
        for part in &self.way {
            let index = Opened::read(&self.archive, &part.place).await?.index;
            for row in index.iter().filter(|row| contributes(row, &self.window)) {
                let overlaps = row.range.next > part.range.first && row.range.first < part.range.next;
                if !overlaps {
                    continue;
                }
                let segment = Segment::open(&self.archive, &part.place, &row).await?;
                let mut chunks = segment.chunks(segment.position_of(self.window.offsets.first));
                while let Some(chunk) = chunks.next().await? {
                    count += self.of_chunk(&segment, chunk, part.range).await?;
                }
            }
        }
        Ok((self.of.target, count))
    }

    async fn of_chunk(&self, segment: &Segment, chunk: Chunk, part: OffsetRange) -> Result<u64> {
        let first = part.first.max(self.window.offsets.first).max(segment.sidecar.range.first);
        let offsets = OffsetRange { first, next: part.next.min(self.window.offsets.next) };
        let (segment, window, torn) = (segment.clone(), Window { offsets, ..self.window }, self.of.torn.clone());
        let counted = tokio::task::spawn_blocking(move || {
            let mut count = 0;
            for item in batch::walk(&chunk.bytes) {
                let (at, header) = item.map_err(|error| error.with("object", segment.describe()))?;
                let is_torn = header.is_transactional()
                    && torn.iter().any(|torn| torn.covers(header.producer_id, header.base_offset));
                if !segment.is_visible(&header) || is_torn || header.base_offset >= window.offsets.next {
                    continue;
                }
                let bytes = chunk.bytes.slice(at..at + header.total_bytes);
                for record in Records::of(&header, &bytes)? {
                    let record = record?;
                    let time = if header.is_log_append_time() { header.max_timestamp } else { record.timestamp };
                    count += u64::from(record.key.is_none() && window.contains(record.offset, time));
                }
            }
            Ok(count)
        });
        counted.await.map_err(|_| Error::failed("looking for records without a key ended by a defect"))?
    }
}
