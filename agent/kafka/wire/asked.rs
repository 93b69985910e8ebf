//! How long brokers take to answer, by kind of request, told in a metric.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use kafka_protocol::messages::ApiKey;
use tokio::time::Instant;

/// When the requests that are on their way over one connection were sent; their answers come in the same order. The halves
/// of a connection share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(Arc<Mutex<VecDeque<Instant>>>);

impl Asked {
    /// Takes note that a request is sent.
    pub(super) fn ask(&self) {
        self.lock(|sent| sent.push_back(Instant::now()));
    }

    /// Takes note that the answer to the first of them has begun to come.
    pub(super) fn answered(&self, key: i16) {
        let Some(sent) = self.lock(VecDeque::pop_front) else { return };
        let api = ApiKey::try_from(key).map_or_else(|()| key.to_string(), |api| format!("{api:?}"));
        // Once for each request: looking the series up costs less than writing the request did.
        metrics::histogram!("kafka_backup_kafka_request_duration_seconds", "api" => api).record(sent.elapsed());
    }

    fn lock<T>(&self, change: impl FnOnce(&mut VecDeque<Instant>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
