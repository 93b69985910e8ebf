//! The integration tests: the built binary against a real Apache Kafka 4.2, and 2.8 for what is old.
//!
//! They start what they need by themselves (`support`), under `target/kafka`. Wanted besides Rust: JDK 17 and Maven.
//! With `KAFKA_BROKERS=host:port` the tests that need not read a broker's disk use that cluster; the others fail and
//! say so. `SEED=n` repeats the contents of a run, `KILLS=n` sets how often the kill test kills,
//! and how often restores are killed on each of their ways (5), `RACES=n` how often two processes of one restore meet (4),
//! `FOREIGN=n` how often somebody else writes to what is restored (5), `MOVES=n` how often each thing happens to the cluster
//! that is restored to (1),
//! `REBALANCES=n` how often members of a group come and go; `FAULTS=word` chooses among the ways in which a store fails.
//! `PYTHON=interpreter` has the reader in `docs` tested too, `WRITE_GOLDEN=1` writes what is in `tests/golden` anew.
//! Of the tests beside the code, `FUZZ_SECONDS=n` sets how long decoders are fed mutations (20 s in all), `CASES=n` how many
//! random logs and cuts a restore is tried with, `FUZZ_SEED=n` the first of them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod aborted;
mod api;
mod bad_input;
mod catalogs;
mod cluster_life;
mod connect;
mod crash;
mod damage;
mod duel;
mod duel_s3;
mod faults;
mod fidelity;
mod golden;
mod groups;
mod harness;
mod health;
mod history;
mod index;
mod legacy;
mod membership;
mod offsets;
mod plugins;
mod produce;
mod readers;
mod repair;
mod restore;
mod roll;
mod savepoints;
mod scale;
mod security;
mod stages;
mod support;
mod topic_life;
mod transactions;
mod verify;
