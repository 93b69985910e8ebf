//! Finds one field of a JSON document, reading each byte once, up to where the field ends, and building nothing.
//!
//! What lies behind the field is not looked at: most documents say early where they belong, and to read on would cost ten
//! times as much. So of a name that occurs twice the first one counts. What is read must be what serde_json makes a value
//! of (with text in all strings, those passed over as well), which the tests prove, but for numbers too large for it.

#[path = "json/strings.rs"]
mod strings;

use std::ops::Range;

#[cfg(test)]
pub(crate) use self::strings::unescape;
pub(crate) use self::strings::unescapes_to;
use self::strings::{HIGH_BITS, Marks, ONES, string, word};
use super::same;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A string without its quotes, in which nothing is escaped.
    String(&'a [u8]),
    /// A string without its quotes, still escaped.
    Escaped(&'a [u8]),
    /// A number, `true` or `false`, as it is written.
    Plain(&'a [u8]),
}

/// Why no field is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum No {
    /// The bytes end before it is known.
    Ended,
    /// There is none.
    Field,
}

/// Deeper documents are refused, as they are by serde_json.
const DEPTH: usize = 127;

/// Returns the field at a path of names, if the document up to its end is JSON and it is a string, a number or a boolean;
/// and how far the document was read.
///
/// Only the beginning of the document may be there: what is said of it, but that it ends, is so of the whole.
///
/// This is for documents that are plain up to their fields, as most are: no space, or one behind each colon and comma.
#[inline(always)]
pub(crate) fn find<'a>(document: &'a [u8], path: &[String]) -> Result<(Found<'a>, usize), No> {
    match at::<2>(document, 0) {
        Some(b"{\"") => find_plain::<0>(document, path),
        _ => find_from(document, path),
    }
}

/// Finds the field of a document that begins with a name, with so many spaces behind its colons and commas.
///
/// It is one loop over few numbers, which fit into registers: what stands in memory, and calls, would cost more than the bytes.
/// So it is not part of a larger function, and reads no more than most documents are up to their fields: short numbers,
/// strings of ASCII without escapes. From where there is something else, `find_on` goes on.
#[inline(never)]
fn find_plain<'a, const SPACES: usize>(document: &'a [u8], path: &[String]) -> Result<(Found<'a>, usize), No> {
    let (mut depth, mut start, mut marks) = (0, 2, Marks::NONE);
    while let Some(wanted) = path.get(depth) {
        let Some(end) = marks.next(document, start) else { break };
        let Some((value, first)) = plain_colon::<SPACES>(document, end) else { break };
        let is_wanted = is_name(document, start..end, false, wanted);
        let end = match first {
            b'"' => match marks.next(document, value + 1) {
                Some(end) if document.get(end) == Some(&b'"') => end + 1,
                _ => break,
            },
            b'1'..=b'9' => match short_number(document, value) {
                Some(end) => end,
                None => break,
            },
            b'{' if is_wanted && document.get(value + 1) == Some(&b'"') => {
                (depth, start) = (depth + 1, value + 2);
                continue;
            }
            b' ' if SPACES == 0 && start == 2 => return find_plain::<1>(document, path),
            _ => break,
        };
        if is_wanted {
            if depth + 1 < path.len() || !matches!(document.get(end), Some(b',' | b'}')) {
                break;
            }
            let found = match first {
                b'"' => Found::String(&document[value + 1..end - 1]),
                _ => Found::Plain(&document[value..end]),
            };
            return Ok((found, end + 1));
        }
        let Some(next) = plain_next_name::<SPACES>(document, end) else { break };
        start = next;
    }
    find_on(document, path, depth, start)
}

/// Reads what is between a name, of which the quote is at `end`, and its value; returns where that begins, and with what.
#[inline(always)]
fn plain_colon<const SPACES: usize>(document: &[u8], end: usize) -> Option<(usize, u8)> {
    match SPACES {
        0 => match at::<3>(document, end)? {
            [b'"', b':', first] => Some((end + 2, *first)),
            _ => None,
        },
        _ => match at::<4>(document, end)? {
            [b'"', b':', b' ', first] => Some((end + 3, *first)),
            _ => None,
        },
    }
}

/// Reads what is between a value and the next name; returns where that begins.
#[inline(always)]
fn plain_next_name<const SPACES: usize>(document: &[u8], end: usize) -> Option<usize> {
    match SPACES {
        0 => (at::<2>(document, end)? == b",\"").then_some(end + 2),
        _ => (at::<3>(document, end)? == b", \"").then_some(end + 3),
    }
}

/// Finds the field of a document of which nothing was read.
#[inline(never)]
fn find_from<'a>(document: &'a [u8], path: &[String]) -> Result<(Found<'a>, usize), No> {
    let start = space(document, 0);
    if path.is_empty() || byte(document, start)? != b'{' {
        return Err(No::Field);
    }
    find_on(document, path, 0, quote(document, start + 1)?)
}

/// Finds the field from a name on, which begins at `start` in an object that `depth` names lead to. What is before is ASCII.
#[inline(never)]
fn find_on<'a>(
    document: &'a [u8],
    path: &[String],
    mut depth: usize,
    mut start: usize,
) -> Result<(Found<'a>, usize), No> {
    let (mut marks, mut seen) = (Marks::NONE, 0);
    loop {
        let wanted = path.get(depth).ok_or(No::Field)?;
        let (end, is_escaped) = string(document, start, &mut marks, &mut seen)?;
        let is_wanted = is_name(document, start..end, is_escaped, wanted);
        let (value, first) = colon(document, end + 1)?;
        if is_wanted && first == b'{' {
            depth += 1;
            if depth == path.len() {
                return Err(No::Field);
            }
            start = quote(document, value + 1)?;
            continue;
        }
        let mut is_escaped = false;
        let mut at = match first {
            b'"' => {
                let last;
                (last, is_escaped) = string(document, value + 1, &mut marks, &mut seen)?;
                last + 1
            }
            b'{' | b'[' if is_wanted => return Err(No::Field),
            b'{' | b'[' => {
                let (end, bits) = nested(document, value, depth + 1)?;
                seen |= bits;
                end
            }
            _ => plain(document, value, first)?,
        };
        if !is_wanted {
            // Behind an object along the path there is none of the field's names any more.
            start = next_name(document, at)?;
            continue;
        }
        let end = at;
        at = space(document, at);
        let mark = byte(document, at)?;
        // A number may go on in what was cut off, so what is behind it is looked at too.
        if !matches!(mark, b',' | b'}') || depth + 1 < path.len() || first == b'n' {
            return Err(No::Field);
        }
        // Strings must be UTF-8. They are all that can be anything but ASCII.
        if seen & HIGH_BITS != 0 && std::str::from_utf8(&document[..end]).is_err() {
            return Err(No::Field);
        }
        let found = match first {
            b'"' if is_escaped => Found::Escaped(&document[value + 1..end - 1]),
            b'"' => Found::String(&document[value + 1..end - 1]),
            _ => Found::Plain(&document[value..end]),
        };
        return Ok((found, at + 1));
    }
}

/// Reads an object or array, in which the field is not, inside of `around` others; returns where it ends, and bits as of its
/// strings.
#[inline(never)]
fn nested(document: &[u8], start: usize, around: usize) -> Result<(usize, u64), No> {
    let (mut marks, mut seen) = (Marks::NONE, 0);
    let mut nest = Nest { depth: around, objects: 0 };
    let mut at = start;
    loop {
        let first = byte(document, at)?;
        match first {
            b'"' => {
                (at, _) = string(document, at + 1, &mut marks, &mut seen)?;
                at += 1;
            }
            b'{' | b'[' => {
                nest.open(first == b'{')?;
                at = space(document, at + 1);
                if byte(document, at)? != first + 2 {
                    if nest.is_object() {
                        at = named(document, quote(document, at)?, &mut marks, &mut seen)?;
                    }
                    continue;
                }
                at += 1;
                nest.close();
            }
            b'1'..=b'9' if let Some(end) = short_number(document, at) => at = end,
            _ => at = plain(document, at, first)?,
        }
        // Mostly the next field of the same object follows.
        if nest.is_object()
            && let Some(start) = plain_next_name::<0>(document, at).or_else(|| plain_next_name::<1>(document, at))
        {
            at = named(document, start, &mut marks, &mut seen)?;
            continue;
        }
        loop {
            if nest.depth == around {
                return Ok((at, seen));
            }
            at = space(document, at);
            let mark = byte(document, at)?;
            at += 1;
            if mark == b',' {
                at = space(document, at);
                break;
            }
            if mark != if nest.is_object() { b'}' } else { b']' } {
                return Err(No::Field);
            }
            nest.close();
        }
        if nest.is_object() {
            at = named(document, quote(document, at)?, &mut marks, &mut seen)?;
        }
    }
}

/// Reads a number, `true`, `false` or `null`, which begins with `first`; returns where it ends.
#[inline]
fn plain(document: &[u8], at: usize, first: u8) -> Result<usize, No> {
    if first.is_ascii_lowercase() { literal(document, at) } else { number(document, at + 1, first) }
}

/// Returns where a number ends that begins with a digit but 0, if it has no more than digits, seventeen at most, and something
/// follows that ends it.
#[inline(always)]
fn short_number(document: &[u8], start: usize) -> Option<usize> {
    let mut end = start + 1;
    let digits = digits_of_word(word(document, end)?);
    end += digits;
    if digits == 8 {
        end += digits_of_word(word(document, end)?);
    }
    matches!(document.get(end), Some(b',' | b'}')).then_some(end)
}

/// The objects and arrays around a value.
struct Nest {
    /// How many they are, all that the document has around it.
    depth: usize,
    /// A bit for each that is not along the path: whether it is an object; the innermost is the lowest.
    objects: u128,
}

impl Nest {
    #[inline]
    fn open(&mut self, is_object: bool) -> Result<(), No> {
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(is_object);
        if self.depth <= DEPTH { Ok(()) } else { Err(No::Field) }
    }

    #[inline]
    fn close(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }

    #[inline]
    fn is_object(&self) -> bool {
        self.objects & 1 == 1
    }
}

/// Passes over a name, behind its first quote, with its colon; returns where its value begins.
#[inline(always)]
fn named(document: &[u8], start: usize, marks: &mut Marks, seen: &mut u64) -> Result<usize, No> {
    let (end, _) = string(document, start, marks, seen)?;
    Ok(colon(document, end + 1)?.0)
}

/// Returns whether a name is what is wanted.
#[inline(always)]
fn is_name(document: &[u8], place: Range<usize>, is_escaped: bool, wanted: &str) -> bool {
    if is_escaped {
        return unescapes_to(&document[place], wanted);
    }
    // Most are known by their length.
    place.len() == wanted.len() && same(&document[place], wanted.as_bytes())
}

/// Reads what is before a string; returns where it begins, behind its quote.
#[inline(always)]
fn quote(document: &[u8], at: usize) -> Result<usize, No> {
    if document.get(at) == Some(&b'"') { Ok(at + 1) } else { spaced_quote(document, at) }
}

#[cold]
#[inline(never)]
fn spaced_quote(document: &[u8], at: usize) -> Result<usize, No> {
    let at = space(document, at);
    if byte(document, at)? == b'"' { Ok(at + 1) } else { Err(No::Field) }
}

/// Reads what is between a name and its value; returns where that begins, and with what.
#[inline(always)]
fn colon(document: &[u8], at: usize) -> Result<(usize, u8), No> {
    match self::at(document, at) {
        Some([b':', first, _]) if *first > b' ' => Ok((at + 1, *first)),
        Some([b':', b' ', first]) if *first > b' ' => Ok((at + 2, *first)),
        _ => spaced_colon(document, at),
    }
}

#[cold]
#[inline(never)]
fn spaced_colon(document: &[u8], at: usize) -> Result<(usize, u8), No> {
    let at = space(document, at);
    if byte(document, at)? != b':' {
        return Err(No::Field);
    }
    let value = space(document, at + 1);
    Ok((value, byte(document, value)?))
}

/// Reads what is between a value and the next name; returns where that begins.
#[inline(always)]
fn next_name(document: &[u8], at: usize) -> Result<usize, No> {
    match self::at::<3>(document, at) {
        Some([b',', b'"', _]) => Ok(at + 2),
        Some(b", \"") => Ok(at + 3),
        _ => spaced_next_name(document, at),
    }
}

#[cold]
#[inline(never)]
fn spaced_next_name(document: &[u8], at: usize) -> Result<usize, No> {
    let at = space(document, at);
    if byte(document, at)? == b',' { quote(document, at + 1) } else { Err(No::Field) }
}

/// Returns the bytes at a place.
#[inline(always)]
fn at<const N: usize>(document: &[u8], at: usize) -> Option<&[u8; N]> {
    document.get(at..)?.first_chunk()
}

/// Reads a number behind its first character.
fn number(document: &[u8], mut at: usize, mut first: u8) -> Result<usize, No> {
    if first == b'-' {
        first = byte(document, at)?;
        at += 1;
    }
    match first {
        b'0' => {}
        b'1'..=b'9' => at = digits(document, at),
        _ => return Err(No::Field),
    }
    match document.get(at) {
        Some(b'.' | b'e' | b'E') => fraction(document, at),
        _ => Ok(at),
    }
}

/// Reads what a number has behind its digits.
#[inline(never)]
fn fraction(document: &[u8], mut at: usize) -> Result<usize, No> {
    if document.get(at) == Some(&b'.') {
        at = some_digits(document, at + 1)?;
    }
    if matches!(document.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(document.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        at = some_digits(document, at)?;
    }
    Ok(at)
}

/// Skips digits, of which there must be one.
#[inline]
fn some_digits(document: &[u8], at: usize) -> Result<usize, No> {
    if byte(document, at)?.is_ascii_digit() { Ok(digits(document, at + 1)) } else { Err(No::Field) }
}

/// Skips digits.
fn digits(document: &[u8], mut at: usize) -> usize {
    while let Some(x) = word(document, at) {
        let digits = digits_of_word(x);
        at += digits;
        if digits < 8 {
            return at;
        }
    }
    while document.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

/// Returns how many of eight bytes, from the lowest on, are digits.
#[inline(always)]
fn digits_of_word(x: u64) -> usize {
    // A digit less '0' is below ten, and adding what ten lacks to 128 shows others.
    let x = x ^ (ONES * u64::from(b'0'));
    let others = (x.wrapping_add(ONES * (128 - 10)) | x) & HIGH_BITS;
    others.trailing_zeros() as usize / 8
}

#[inline(never)]
fn literal(document: &[u8], at: usize) -> Result<usize, No> {
    let rest = &document[at..];
    let literals: [&[u8]; 3] = [b"true", b"false", b"null"];
    match literals.into_iter().find(|literal| literal.first() == rest.first()) {
        Some(literal) if rest.starts_with(literal) => Ok(at + literal.len()),
        Some(literal) if literal.starts_with(rest) => Err(No::Ended),
        _ => Err(No::Field),
    }
}

#[inline]
fn byte(document: &[u8], at: usize) -> Result<u8, No> {
    document.get(at).copied().ok_or(No::Ended)
}

/// Skips white space, of which most documents have none.
#[inline]
fn space(document: &[u8], at: usize) -> usize {
    if document.get(at).is_some_and(|byte| *byte > b' ') { at } else { more_space(document, at) }
}

#[cold]
#[inline(never)]
fn more_space(document: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = document.get(at) {
        at += 1;
    }
    at
}

#[cfg(test)]
#[path = "json/tests.rs"]
mod tests;
