//! The integration tests: the built binary against a real Apache Kafka 4.2, and 2.8 for what is old.
//!
//! They start what they need by themselves (`support`), under `target/kafka`. Wanted besides Rust: JDK 17 and Maven.
//! With `KAFKA_BROKERS=host:port` the tests that need not read a broker's disk use that cluster; the others fail and
//! say so. `SEED=n` repeats the contents of a run, `KILLS=n` sets how often the kill test kills,
//! `REBALANCES=n` how often members of a group come and go; `FAULTS=word` chooses among the ways in which a store fails.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod aborted;
mod bad_input;
mod cluster_life;
mod crash;
mod duel;
mod duel_s3;
mod faults;
mod fidelity;
mod groups;
mod harness;
mod history;
mod legacy;
mod membership;
mod readers;
mod roll;
mod scale;
mod support;
mod topic_life;
