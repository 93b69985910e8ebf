//! A shell script that does what a plan says, with Kafka's own tool.
//!
//! Pure.
