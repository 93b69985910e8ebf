//! Restore: what an archive holds, sent to a cluster again, exactly once.
//!
//! **Plan, then perform.** [`plan`] makes of a request, an archive and a cluster a value that says everything that will be
//! done; [`perform`] does it. Batches flow as in the other direction: `reading` is the source, `sending` the sink of a
//! [`pipeline`](crate::pipeline). [`map`] says where each source offset is in the target (pure); [`state`] keeps what a
//! restore has planned, begun and done as objects of a store, so that another process, on another machine, can go on with it:
//! `resume` finds in the targets what has landed. [`recovery`](crate::recovery) goes from a configuration to that.
//!
//! Everything that a restore must remember is in those objects and in the targets' logs. What a process knows besides is
//! lost with it, and nothing is missing.

pub(crate) mod ends;
pub mod map;
pub mod perform;
pub mod plan;
mod progress;
mod reading;
mod resume;
mod sending;
pub mod state;
pub mod undo;

#[cfg(test)]
mod tests;
