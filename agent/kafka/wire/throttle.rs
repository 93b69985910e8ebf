//! Quotas: how long a broker asks us to be quiet, obeyed by the connection and counted in a metric.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kafka_protocol::messages as m;
use metrics::Counter;

/// An answer that may ask us to be quiet for a while
/// ([KIP-219](https://cwiki.apache.org/confluence/display/KAFKA/KIP-219)).
pub trait Throttled {
    /// Returns for how many milliseconds.
    fn throttle_time_ms(&self) -> i32;
}

macro_rules! throttled {
    ($($answer:ty),* $(,)?) => {
        $(impl Throttled for $answer {
            fn throttle_time_ms(&self) -> i32 {
                self.throttle_time_ms
            }
        })*
    };
}

throttled!(
    m::AddOffsetsToTxnResponse,
    m::AddPartitionsToTxnResponse,
    m::CreateTopicsResponse,
    m::DeleteGroupsResponse,
    m::DeleteTopicsResponse,
    m::ConsumerGroupDescribeResponse,
    m::DescribeConfigsResponse,
    m::DescribeGroupsResponse,
    m::DescribeProducersResponse,
    m::EndTxnResponse,
    m::FetchResponse,
    m::FindCoordinatorResponse,
    m::IncrementalAlterConfigsResponse,
    m::InitProducerIdResponse,
    m::ListGroupsResponse,
    m::ListOffsetsResponse,
    m::ListTransactionsResponse,
    m::MetadataResponse,
    m::OffsetCommitResponse,
    m::OffsetDeleteResponse,
    m::OffsetFetchResponse,
    m::OffsetForLeaderEpochResponse,
    m::ProduceResponse,
    m::ShareGroupDescribeResponse,
    m::TxnOffsetCommitResponse,
);

macro_rules! unthrottled {
    ($($answer:ty),* $(,)?) => {
        $(impl Throttled for $answer {
            fn throttle_time_ms(&self) -> i32 {
                0
            }
        })*
    };
}

// Quotas are of those who have said who they are.
unthrottled!(m::SaslAuthenticateResponse, m::SaslHandshakeResponse);

/// A broker never asks for longer than its quota window allows; a value beyond this is nonsense, not obedience.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts what a broker asked for, and returns it as a wait; `None` when it asked for nothing.
pub(super) fn told(throttle_time_ms: i32) -> Option<Duration> {
    // Counters hold whole numbers: the milliseconds are kept here, the seconds are told.
    static TOTAL_MS: AtomicU64 = AtomicU64::new(0);
    static SECONDS: LazyLock<Counter> = LazyLock::new(|| metrics::counter!("kafka_backup_throttle_seconds_total"));
    let ms = u64::try_from(throttle_time_ms).ok().filter(|ms| *ms > 0)?;
    let total_ms = TOTAL_MS.fetch_add(ms, Ordering::Relaxed) + ms;
    SECONDS.absolute(total_ms / 1000);
    Some(Duration::from_millis(ms).min(LONGEST))
}
