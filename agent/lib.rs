//! `kafka-backup` tails Kafka topics into object storage as Kafka's own record batches.
//!
//! **The one idea.** A broker stores and sends *record batches*; capture appends those bytes, checksums checked, to a
//! segment that is a Kafka log segment. Nothing is decompressed, nobody looks at records that nobody asked for.
//!
//! **Where things are** (imports go down this list only):
//!
//! | file | what it is |
//! |---|---|
//! | [`cli`], `cli/<verb>.rs` | the command line: parses, calls, prints |
//! | [`demo`] | the whole story in one process |
//! | [`backup`] | wiring: from a configuration to running pipelines |
//! | [`connect`] | Kafka Connect's REST API: pipelines as connectors, told to pause, resume, stop, begin anew |
//! | [`api`] | the agent's API over HTTP, `/v1`; who may change something over HTTP, and the OpenAPI document of all of it |
//! | [`recovery`] | wiring: from a configuration to a restore performed, consumer groups put back, and all of that taken back |
//! | [`repair`] | what can be made whole again of a damaged backup: a plan, then done |
//! | [`verify`] | whether a backup is what was written: checks, comparison with the source |
//! | [`groups`] | consumer groups put back: `positions`, `places`, `plan` (pure), `making`, `perform`, `snapshot` |
//! | [`restore`] | what is archived, sent to a cluster again: `plan`, `perform`, `map` (where each source offset is in the target), `state` (its objects) |
//! | [`config`] | the configuration file: keys, defaults, units |
//! | [`telemetry`] | log, metrics, health, the HTTP listener |
//! | [`archive`] | the archive: `layout`, `sidecar`, `segment`, `catalog`, `index` (pure), `sink` (writes), `source` (reads), `live` |
//! | [`kafka`] | the wire client: connections, fetch sessions, `source`; `produce` |
//! | [`stages`] | the plugins of a pipeline in a row, on threads of their own |
//! | [`plugin`] | transforms of records in a sandbox: `columns` (pure), `host` |
//! | [`store`] | objects by key, in a folder or anything OpenDAL reaches |
//! | [`pipeline`] | `Source`, `Sink`, and the loop between them |
//! | [`progress`] | what is durable of what has been seen (pure) |
//! | [`batch`] | the record batch: header, checksum, records, codecs (pure) |
//! | [`backoff`], [`budget`], `frames`, `pem`, [`crash`], [`error`], [`record`] | waits, memory that is paid for, memory that is used again, certificates and keys, crash points, errors, the words of the field |
//!
//! **How data flows.** `kafka::source` fetches frames, pays for them from the `budget`, slices them into `Batch`es of
//! one partition each; `pipeline` hands them to `archive::sink`, whose writers (one a partition) have them go through the
//! `stages`, if there are any, and append them to growing
//! segments and publish those; `Answer`s flow back: durable, or "start again from here".
//!
//! **What is easily broken:**
//! - The creation of `<first>.log` is the commit and the fence; the sidecar is durable before it. See `archive::sink`.
//! - Every start of a partition has a *generation*; batches of an older one are void wherever they are met.
//! - Whatever goes wrong with a write, the writer drops what it holds and asks the store for the tip. It never guesses
//!   what a failed request did.
//! - A transaction's abort is reported once per fetch, may concern bytes before or after those of the fetch, and must
//!   not be reported twice to one chain position: see `batch::transactions::OpenTransactions`.
//! - A batch's memory is paid for until the sink no longer holds its bytes; a queue without a permit is unbounded.

pub mod api;
pub mod archive;
pub mod backoff;
pub mod backup;
pub mod batch;
pub mod budget;
pub mod cli;
pub mod config;
pub mod connect;
pub mod crash;
pub mod demo;
pub mod error;
mod frames;
pub mod groups;
pub mod kafka;
#[cfg(test)]
mod mutation;
mod pem;
pub mod pipeline;
pub mod plugin;
pub mod progress;
pub mod record;
pub mod recovery;
pub mod repair;
pub mod restore;
pub mod stages;
pub mod store;
pub mod telemetry;
pub mod verify;
