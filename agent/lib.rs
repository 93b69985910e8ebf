//! `kafka-backup`: tails Kafka topics into object storage as Kafka's own record batches.
#![warn(missing_docs)]

pub mod archive;
pub mod backup;
pub mod batch;
pub mod budget;
pub mod cli;
pub mod config;
pub mod crash;
pub mod demo;
pub mod error;
pub mod kafka;
pub mod pipeline;
pub mod progress;
pub mod record;
pub mod store;
pub mod telemetry;
