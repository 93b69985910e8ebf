//! The one error type of the program.
//!
//! An [`Error`] says what failed, on which thing (context pairs: topic, partition, offset, object), why (the
//! source), and what to do (the hint), on one line that a person can act on at three in the morning. Code branches
//! on [`Error::kind`] and [`Error::retryable`] alone, never on text. Exit codes are a function of the kind.

use std::fmt;

/// What a caller may do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What the user typed or configured is wrong; nothing was changed. Exit code 2.
    Usage,
    /// It failed, and trying again will not help by itself. Exit code 1.
    Failed,
    /// It failed for a reason that passes (network, leader moving, throttling): try again. Exit code 1 when given up.
    Transient,
    /// Partly done, or read back otherwise than set. Exit code 3.
    Partial,
    /// Damage or a difference was found. Exit code 4.
    Damaged,
    /// What is held was written by a newer version of this program, which reads it. Exit code 1.
    Newer,
    /// The archive has a hole that it does not declare. Exit code 5.
    Hole,
    /// There is no backup, or no restore, of that name. Exit code 10.
    NoBackup,
    /// Somebody else holds what we were about to write. Exit code 11.
    Fenced,
    /// The user or the system asked us to stop. Exit code 130.
    Interrupted,
}

/// An error: kind, what failed, context pairs, source and hint.
///
/// It displays on one line as `what (key value, key value): source; hint`.
pub struct Error {
    kind: Kind,
    what: String,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    about: Option<Box<(String, String)>>,
}

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error of `kind`; `what` is lowercase, without a full stop, and names the thing.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), context: Vec::new(), hint: None, source: None, about: None }
    }

    /// Makes a [`Kind::Usage`] error.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// Makes a [`Kind::Failed`] error.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Kind::Failed, what)
    }

    /// Makes a [`Kind::Transient`] error.
    pub fn transient(what: impl Into<String>) -> Self {
        Self::new(Kind::Transient, what)
    }

    /// Makes a [`Kind::Damaged`] error.
    pub fn damaged(what: impl Into<String>) -> Self {
        Self::new(Kind::Damaged, what)
    }

    /// Makes a [`Kind::Newer`] error about `thing`.
    pub fn newer(thing: &str) -> Self {
        Self::new(Kind::Newer, format!("{thing} was written by a newer kafka-backup")).hint("upgrade this one")
    }

    /// Adds a context pair, as `("object", path)` or `("offset", offset)`.
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.context.push((key, value.to_string()));
        self
    }

    /// Says what to do about it, as an instruction.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the error underneath.
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says which key of a configuration it is about, and the reason alone: for whoever shows it beside the key.
    pub fn about(mut self, key: impl Into<String>, reason: impl Into<String>) -> Self {
        self.about = Some(Box::new((key.into(), reason.into())));
        self
    }

    /// Returns the path of the key of a configuration that it is about, and the reason alone, if it is about one.
    pub fn key(&self) -> Option<(&str, &str)> {
        self.about.as_deref().map(|(key, reason)| (key.as_str(), reason.as_str()))
    }

    /// Returns what a caller may do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns whether trying the same again can succeed.
    pub fn retryable(&self) -> bool {
        self.kind == Kind::Transient
    }

    /// Returns whether this program cannot read what is held, however often it tries.
    pub fn is_unreadable(&self) -> bool {
        matches!(self.kind, Kind::Damaged | Kind::Newer)
    }

    /// Returns the exit code of the process that ends with this error (design: 0 done, 1 failed, 2 usage, …).
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Failed | Kind::Transient | Kind::Newer => 1,
            Kind::Usage => 2,
            Kind::Partial => 3,
            Kind::Damaged => 4,
            Kind::Hole => 5,
            Kind::NoBackup => 10,
            Kind::Fenced => 11,
            Kind::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for (i, (key, value)) in self.context.iter().enumerate() {
            write!(f, "{}{key} {value}", if i == 0 { " (" } else { ", " })?;
        }
        if !self.context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(source) = &self.source {
            // A source may span lines (a TOML error does); a person reads one.
            let source = source.to_string();
            write!(f, ": {}", source.split_whitespace().collect::<Vec<_>>().join(" "))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_one_line_that_names_the_thing_and_what_to_do() {
        let error = Error::damaged("sidecar is truncated")
            .with("object", "a.index")
            .with("offset", 812)
            .source(std::io::Error::other("two\nlines"))
            .hint("run `repair`");
        assert_eq!(error.to_string(), "sidecar is truncated (object a.index, offset 812): two lines; run `repair`");
        assert_eq!(error.exit_code(), 4);
    }
}
