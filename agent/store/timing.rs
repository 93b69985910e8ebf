//! How long operations on a store take, and how many fail, by kind, told in metrics.

use std::time::Instant;

use crate::error::Result;

/// Performs an operation, and tells how long it took or that it failed.
pub(super) async fn timed<T>(operation: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let began = Instant::now();
    let done = work.await;
    match &done {
        Ok(_) => metrics::histogram!("kafka_backup_store_operation_duration_seconds", "operation" => operation)
            .record(began.elapsed()),
        Err(_) => failed(operation),
    }
    done
}

/// Tells that an operation has failed.
pub(super) fn failed(operation: &'static str) {
    metrics::counter!("kafka_backup_store_failures_total", "operation" => operation).increment(1);
}
