//! The error of a plugin: a message for an operator, the record to blame, and whether trying again can help.

use std::fmt;

use crate::wit::Failure;

/// What a plugin's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a plugin cannot do what it was asked to.
///
/// Any [`std::error::Error`] becomes one with `?`. The record is filled in by the SDK for an error that
/// [`Transform::record`](crate::Transform::record) returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    message: String,
    record: Option<u32>,
    retriable: bool,
}

impl Error {
    /// Makes an error of a message: one line, lowercase, what is wrong and what to do.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), record: None, retriable: false }
    }

    /// Says that the same batch may work later.
    #[must_use]
    pub fn retriable(mut self) -> Self {
        self.retriable = true;
        self
    }

    /// Blames a record of the batch (from 0), unless one is blamed already.
    #[must_use]
    pub fn at(mut self, record: u32) -> Self {
        self.record.get_or_insert(record);
        self
    }

    /// Returns the message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the record of the batch that is to blame (from 0).
    pub fn record(&self) -> Option<u32> {
        self.record
    }

    /// Returns whether the same batch may work later.
    pub fn is_retriable(&self) -> bool {
        self.retriable
    }

    pub(crate) fn into_failure(self) -> Failure {
        Failure { message: self.message, record: self.record, retriable: self.retriable }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// `Error` itself is no `std::error::Error`: that is what allows this conversion, and nobody but the agent receives one.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}
