//! What the agent tells of itself: the log ([`logging`], [`levels`]), metrics ([`metrics`]), health ([`health`]) and the listener
//! that shows them ([`http`]).
//!
//! Nothing here decides anything; capture goes on whether or not somebody looks.

pub mod health;
pub mod http;
pub mod levels;
pub mod logging;
pub mod metrics;

pub use health::Health;
pub use metrics::{PartitionMetrics, PipelineMetrics, RestoreMetrics, SavepointMetrics, VerifyMetrics};
