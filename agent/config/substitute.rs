//! References in values: `${env:NAME}`, `${NAME}`, `${NAME:-default}` and `${file:/path}`; `$${` is a plain `${`.
//!
//! A default and a file's path may hold references in turn, as `${DATA:-${HOME}/archive}`.
//!
//! They are replaced after parsing, in values only, so that what a variable holds can never become syntax. A file's
//! last line break does not belong to its value. As in a shell, a default also stands in for an empty variable. Who refers to
//! a file need not be trusted with the process: only a regular one is read, and so many bytes of it.

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

/// The most bytes of a file that a value refers to. A bundle of certificates has some hundred thousand; a device has no end.
const MOST_FILE_BYTES: u64 = 1 << 20;

/// Replaces the references in `text`; the error is the reason without the key.
///
/// `variable` looks up the environment.
pub(super) fn substitute<'a>(text: &'a str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Cow<'a, str>, String> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(plain) = before.strip_suffix('$') {
            out.push_str(plain);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let inside = &from[2..];
        let end = closing(inside).ok_or("`${` without `}` (a plain `${` is written `$${`)")?;
        out.push_str(&resolve(&inside[..end], variable)?);
        rest = &inside[end + 1..];
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

/// Returns whether `text` holds a reference.
pub(crate) fn refers(text: &str) -> bool {
    text.match_indices("${").any(|(at, _)| !text[..at].ends_with('$'))
}

/// Returns where the `}` stands that closes the reference inside which `text` begins.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1;
    for (at, brace) in text.match_indices(['{', '}']) {
        let before = &text[..at];
        if brace == "}" {
            open -= 1;
        } else if before.ends_with('$') && !before.ends_with("$$") {
            open += 1;
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

/// Reads a regular file, whole.
fn read(path: &str) -> io::Result<String> {
    // To open a FIFO waits for whoever writes to it.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    let read = file.take(MOST_FILE_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MOST_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MOST_FILE_BYTES} bytes")));
    }
    Ok(text)
}

fn resolve(reference: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    if let Some(path) = reference.strip_prefix("file:") {
        let path = substitute(path, variable)?;
        let text = read(&path).map_err(|error| format!("cannot read file `{path}`: {error}"))?;
        return Ok(text.trim_end_matches(['\n', '\r']).to_owned());
    }
    let reference = reference.strip_prefix("env:").unwrap_or(reference);
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!(
            "`${{{reference}}}` is no reference: write ${{NAME}}, ${{NAME:-default}} or ${{file:/path}}"
        ));
    }
    match (variable(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => substitute(default, variable).map(Cow::into_owned),
        (None, None) => Err(format!("environment variable {name} is not set")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn replaced(text: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "HOST" => Some("broker".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOST}\"".to_owned()),
            _ => None,
        };
        substitute(text, &variable).map(Cow::into_owned)
    }

    #[test]
    fn references_are_replaced_wherever_they_stand_in_a_value() {
        assert_eq!(replaced("${HOST}:9092,${env:HOST}-2:9092"), Ok("broker:9092,broker-2:9092".into()));
        assert_eq!(replaced("${NONE:-b}${EMPTY:-c}${HOST:-d}[${EMPTY}]"), Ok("bcbroker[]".into()));
        assert_eq!(replaced("$${HOST} costs $5"), Ok("${HOST} costs $5".into()));
    }

    #[test]
    fn a_plain_dollar_is_no_reference() {
        for (text, is_one) in [("${HOST}", true), ("$${HOST}", false), ("a $${ ${HOST}", true), ("$5", false)] {
            assert_eq!(refers(text), is_one, "{text}");
        }
        assert!(refers("$${${HOST}}") && replaced("$${${HOST}}") == Ok("${broker}".into()));
    }

    #[test]
    fn a_default_may_hold_references() {
        assert_eq!(replaced("${NONE:-${HOST}/arc}/x"), Ok("broker/arc/x".into()));
        assert_eq!(replaced("${NONE:-${EMPTY:-${HOST}}}-${HOST:-${NONE}}"), Ok("broker-broker".into()));
        assert_eq!(replaced("${NONE:-$${HOST}}"), Ok("${HOST}".into()));
        assert_eq!(replaced("${NONE:-${TRICK}}"), Ok("${HOST}\"".into()));
        assert_eq!(replaced("${NONE:-${GONE}}"), Err("environment variable GONE is not set".into()));
        assert!(replaced("${NONE:-${HOST}").expect_err("open").contains("without `}`"));
        assert!(replaced("${${HOST}}").expect_err("no name").contains("is no reference"));
    }

    #[test]
    fn what_a_variable_holds_is_not_looked_at_again() {
        assert_eq!(replaced("${TRICK}"), Ok("${HOST}\"".into()));
    }

    #[test]
    fn what_is_unset_is_named() {
        assert_eq!(replaced("a${NONE}b"), Err("environment variable NONE is not set".into()));
        assert!(replaced("${file:/none/there}").expect_err("no file").starts_with("cannot read file `/none/there`"));
        assert!(replaced("${HOST").expect_err("open").contains("without `}`"));
        assert!(replaced("${a b}").expect_err("no name").contains("is no reference"));
    }

    #[test]
    fn a_file_is_read_without_its_last_line_break() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "s3cret\n").expect("written");
        assert_eq!(replaced(&format!("${{file:{}}}", file.path().display())), Ok("s3cret".into()));
    }

    #[test]
    fn what_has_no_end_or_is_no_file_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let (fifo, large) = (folder.path().join("fifo"), folder.path().join("large"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
        std::fs::write(&large, vec![b'x'; 1 + MOST_FILE_BYTES as usize]).expect("written");
        for (path, reason) in [
            (Path::new("/dev/zero"), "it is no regular file"),
            (&fifo, "it is no regular file"),
            (folder.path(), "it is no regular file"),
            (&large, "it has more than 1048576 bytes"),
        ] {
            let said = replaced(&format!("${{file:{}}}", path.display())).expect_err("refused");
            assert!(said.ends_with(reason), "{said}");
        }
    }
}
