//! Properties as they were given, and the references to files in them, read again whenever the value is needed:
//! `${file:/path}`; `$${file:` is a plain `${file:`.
//!
//! Only properties of security are renewed so ([`is_renewed`]); in a configuration file all other references, and all
//! references of other keys, are replaced once, when it is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

/// The most bytes of a file that a value refers to. A bundle of certificates has some hundred thousand; a device has no end.
pub(crate) const MOST_FILE_BYTES: u64 = 1 << 20;

/// What begins a reference.
const BEGIN: &str = "${file:";

/// Returns the value of the first of these names that is set.
pub(super) fn value<'a>(map: &'a BTreeMap<String, String>, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| map.get(*name)).map(String::as_str)
}

/// Returns whether what a property's value refers to is read again for each connection.
pub(crate) fn is_renewed(name: &str) -> bool {
    ["sasl.", "enable.sasl.", "ssl.", "enable.ssl.", "https."].iter().any(|prefix| name.starts_with(prefix))
}

/// Returns a reference to the file; `None` where its name cannot stand in one.
pub(crate) fn reference(path: &str) -> Option<String> {
    (!path.contains('}')).then(|| format!("{BEGIN}{path}}}"))
}

/// Returns whether a reference begins with `text`.
pub(crate) fn begins_reference(text: &str) -> bool {
    text.starts_with(BEGIN)
}

/// Returns `text` so that nothing in it is a reference.
pub(crate) fn plain(text: &str) -> String {
    text.replace(BEGIN, "$${file:")
}

/// Replaces the references in `text`; the error is the reason without the property.
pub(crate) fn resolve(text: &str) -> Result<Cow<'_, str>, String> {
    if !text.contains(BEGIN) {
        return Ok(Cow::Borrowed(text));
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(BEGIN) {
        let (before, from) = (&rest[..at], &rest[at + BEGIN.len()..]);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str(BEGIN);
            rest = from;
            continue;
        }
        out.push_str(before);
        let end = from.find('}').ok_or("`${file:` without `}` (a plain `${file:` is written `$${file:`)")?;
        out.push_str(&read(&from[..end])?);
        rest = &from[end + 1..];
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

/// Reads what stands for a reference to a file: all of it but the last line break.
pub(crate) fn read(path: &str) -> Result<String, String> {
    let text = read_bytes(path).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
    let text = text.map_err(|error| format!("cannot read file `{path}`: {error}"))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Reads a regular file, whole. Who refers to one need not be trusted with the process.
///
/// # Errors
/// Also for what is no regular file, or too long for anything that is referred to.
pub(super) fn read_bytes(path: &str) -> io::Result<Vec<u8>> {
    // To open a FIFO waits for whoever writes to it.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let read = file.take(MOST_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if read as u64 > MOST_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MOST_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_stands_for_what_the_file_holds_now() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let refers = format!("<{}>", reference(file.path().to_str().expect("UTF-8")).expect("a name without braces"));
        for held in ["one", "two"] {
            std::fs::write(file.path(), format!("{held}\n")).expect("written");
            assert_eq!(resolve(&refers).as_deref(), Ok(format!("<{held}>").as_str()));
        }
        assert!(resolve("${file:/none/there}").expect_err("no file").starts_with("cannot read file `/none/there`"));
        assert!(resolve("${file:/none").expect_err("open").contains("without `}`"));
    }

    #[test]
    fn what_is_plain_is_no_reference() {
        for text in ["${file:/none/there}", "$${file:x}", "$$${file:x}${file:y}", "a${b}$", ""] {
            assert_eq!(resolve(&plain(text)).as_deref(), Ok(text));
        }
        assert_eq!(reference("/odd}name"), None);
    }
}
