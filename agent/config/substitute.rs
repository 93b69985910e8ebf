//! References in values: `${env:NAME}`, `${NAME}`, `${NAME:-default}` and `${file:/path}`; `$${` is a plain `${`.
//!
//! A default and a file's path may hold references in turn, as `${DATA:-${HOME}/archive}`.
//!
//! They are replaced after parsing, in values only, so that what a variable holds can never become syntax. A file's
//! last line break does not belong to its value. As in a shell, a default also stands in for an empty variable. Who refers to
//! a file need not be trusted with the process: only a regular one is read, and so many bytes of it. A file that a property of
//! the Kafka clients' security refers to is read again later.

use std::borrow::Cow;

use crate::kafka::given;

/// Replaces the references in `text`; the error is the reason without the key.
///
/// `variable` looks up the environment.
pub(super) fn substitute<'a>(text: &'a str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Cow<'a, str>, String> {
    replace(text, variable, Files::Read)
}

/// As [`substitute`], but for references to files: those are tried, and left for the Kafka clients, which read them again
/// for each connection ([`given`]).
pub(super) fn keep_files<'a>(text: &'a str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Cow<'a, str>, String> {
    replace(text, variable, Files::Kept)
}

/// What becomes of references to files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Files {
    /// What they hold stands there.
    Read,
    /// They stand there, and nothing else looks like one.
    Kept,
}

fn replace<'a>(text: &'a str, variable: &dyn Fn(&str) -> Option<String>, files: Files) -> Result<Cow<'a, str>, String> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(plain) = before.strip_suffix('$') {
            out.push_str(plain);
            let looks_like_one = files == Files::Kept && given::begins_reference(from);
            out.push_str(if looks_like_one { "$${" } else { "${" });
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let inside = &from[2..];
        let end = closing(inside).ok_or("`${` without `}` (a plain `${` is written `$${`)")?;
        out.push_str(&resolve(&inside[..end], variable, files)?);
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

fn resolve(reference: &str, variable: &dyn Fn(&str) -> Option<String>, files: Files) -> Result<String, String> {
    let plain = |text: String| if files == Files::Kept { given::plain(&text) } else { text };
    if let Some(path) = reference.strip_prefix("file:") {
        let path = substitute(path, variable)?;
        let held = given::read(&path)?;
        let kept = given::reference(&path).filter(|_| files == Files::Kept);
        return Ok(kept.unwrap_or_else(|| plain(held)));
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
        (Some(value), None) => Ok(plain(value)),
        (Some(value), Some(_)) if !value.is_empty() => Ok(plain(value)),
        (_, Some(default)) => replace(default, variable, files).map(Cow::into_owned),
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
    fn a_reference_to_a_file_may_be_kept_and_nothing_else_becomes_one() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display().to_string();
        let variable = |name: &str| match name {
            "FILE" => Some(path.clone()),
            "TRICK" => Some("${file:/etc/passwd}".to_owned()),
            _ => None,
        };
        let kept = |text: &str| keep_files(text, &variable).map(Cow::into_owned);
        assert_eq!(kept("${file:${FILE}}"), Ok(format!("${{file:{path}}}")));
        assert_eq!(kept("${NONE:-${file:${FILE}}}x"), Ok(format!("${{file:{path}}}x")));
        for text in ["${TRICK}", "$${file:/etc/passwd}", "${NONE:-${TRICK}}"] {
            let kept = kept(text).expect("a value");
            assert_eq!(given::resolve(&kept).as_deref(), Ok("${file:/etc/passwd}"), "{text}");
        }
        assert!(kept("${file:/none/there}").expect_err("no file").starts_with("cannot read file `/none/there`"));
        assert_eq!(kept("$${HOST} costs $5"), Ok("${HOST} costs $5".into()));
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
        std::fs::write(&large, vec![b'x'; 1 + given::MOST_FILE_BYTES as usize]).expect("written");
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
