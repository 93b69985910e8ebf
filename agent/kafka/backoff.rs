//! The waits between attempts live in [`crate::backoff`].
pub use crate::backoff::Backoff;
