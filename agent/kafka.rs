//! Kafka: what we say to brokers and what they answer.
//!
//! Two clients share one map of properties with librdkafka's names ([`Properties`]): our own client of the wire
//! protocol, which moves whole record batches, and rdkafka for group membership. Here is the wire client, in layers,
//! each of which knows only those below it:
//!
//! - `given`: properties as they were given, and the references to files in them.
//! - [`properties`]: what the user configured, checked once.
//! - [`security`]: how brokers are spoken to, and as whom: TLS and SASL, for both clients.
//! - [`wire`]: one connection; requests, answers, memory for answers.
//! - [`client`]: the control plane of a cluster: metadata, offsets, topics and their settings.
//! - `identity`: whether a name still stands for the topic that we know; pure.
//! - [`fetch`]: fetch sessions and what an answer holds; pure.
//! - [`membership`]: one member of a consumer group, through rdkafka.
//! - [`produce`]: batches into a cluster, in order and exactly once, and the fence before them.
//! - [`source`]: capture, as a [`pipeline::Source`](crate::pipeline::Source).

pub mod client;
pub mod fetch;
pub(crate) mod given;
mod identity;
pub mod membership;
pub mod produce;
pub mod properties;
pub mod security;
pub mod source;
pub mod wire;

pub use client::Client;
pub use properties::Properties;
pub use source::Source;

use kafka_protocol::error::ResponseError;

/// The error code of a topic that is not there any more, whatever bears its name now.
const UNKNOWN_TOPIC_ID: i16 = 100;

/// Returns Kafka's name of an error code with its number, as `NotLeaderOrFollower (6)`.
///
/// Codes: <https://kafka.apache.org/protocol#protocol_error_codes>.
pub fn code_name(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        None => "none (0)".to_owned(),
        Some(ResponseError::Unknown(code)) => format!("error code {code}"),
        Some(error) => format!("{error} ({code})"),
    }
}
