//! Restore: what an archive holds, sent to a cluster again, exactly once.
//!
//! [`map`] says where each source offset is in the target (pure).

pub mod map;
