//! Consumer groups, put back by the built binary on a real Kafka: planned, set, read back, taken back, and read on with by
//! Kafka's own clients.

mod reset;
mod wire;
