//! The metrics of a restore.

use std::collections::HashMap;

use metrics::{Counter, Gauge, Label};

use super::PipelineMetrics;
use crate::budget::Budget;
use crate::record::{Offset, Partition};

/// Records that the target has acknowledged.
const RECORDS: &str = "kafka_backup_restored_records_total";
/// Bytes of their batches.
const BYTES: &str = "kafka_backup_restored_bytes_total";
/// The end of what is restored of a partition.
const OFFSET: &str = "kafka_backup_restored_offset";
/// Records that are planned.
const PLANNED: &str = "kafka_backup_restore_planned_records";

/// The metrics of one restore.
pub struct RestoreMetrics {
    pipeline: String,
    shared: PipelineMetrics,
    partitions: HashMap<Partition, (Counter, Counter, Gauge)>,
}

impl RestoreMetrics {
    /// Makes those of a restore of up to `planned` records.
    pub fn new(pipeline: &str, planned: u64, budget: &Budget) -> Self {
        let shared = PipelineMetrics::new(pipeline);
        shared.memory_limit_bytes.set(budget.total_bytes() as f64);
        metrics::gauge!(PLANNED, "pipeline" => pipeline.to_owned()).set(planned as f64);
        Self { pipeline: pipeline.to_owned(), shared, partitions: HashMap::new() }
    }

    /// Counts what was acknowledged of a source partition, which is restored up to `next`.
    pub fn restored(&mut self, partition: &Partition, next: Offset, records: u64, bytes: u64) {
        if !self.partitions.contains_key(partition) {
            let labels = vec![
                Label::new("pipeline", self.pipeline.clone()),
                Label::new("topic", partition.topic.to_string()),
                Label::new("partition", partition.index.to_string()),
            ];
            let counter = |name| metrics::counter!(name, labels.clone());
            let made = (counter(RECORDS), counter(BYTES), metrics::gauge!(OFFSET, labels.clone()));
            self.partitions.insert(partition.clone(), made);
        }
        let (counted, weighed, reached) = &self.partitions[partition];
        counted.increment(records);
        weighed.increment(bytes);
        reached.set(next as f64);
    }

    /// Shows how many things are wrong, and how much memory is used.
    pub fn show(&self, troubles: usize, budget: &Budget) {
        self.shared.show(troubles);
        self.shared.memory_used_bytes.set(budget.used_bytes() as f64);
    }
}

impl std::fmt::Debug for RestoreMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestoreMetrics").field("pipeline", &self.pipeline).finish_non_exhaustive()
    }
}
