//! Finds one field of a JSON document, reading each byte once, up to where the field ends, and building nothing.
//!
//! What lies behind the field is not looked at: most documents say early where they belong, and to read on would cost ten
//! times as much. So of a name that occurs twice the first one counts. What is read must be what serde_json makes a value
//! of (with text in all strings, those passed over as well), which the tests prove, but for numbers too large for it.

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
/// It is one loop over few numbers, which fit into registers: what stands in memory, and calls, would cost more than the bytes.
/// So it is not part of a larger function, and values of other names that are not simple have one of their own.
#[inline(never)]
pub(crate) fn find<'a>(document: &'a [u8], path: &[String]) -> Result<(Found<'a>, usize), No> {
    let mut names = path.iter();
    let mut wanted = names.next().ok_or(No::Field)?;
    let mut seen = 0;
    let mut at = space(document, 0);
    if byte(document, at)? != b'{' {
        return Err(No::Field);
    }
    at = space(document, at + 1);
    loop {
        let is_wanted;
        (at, is_wanted) = name(document, at, Some(wanted), &mut seen)?;
        let start = at;
        let first = byte(document, at)?;
        if is_wanted && first == b'{' {
            wanted = names.next().ok_or(No::Field)?;
            at = space(document, at + 1);
            continue;
        }
        let is_string = first == b'"';
        let mut is_escaped = false;
        if is_string {
            (at, is_escaped) = string(document, at + 1, &mut seen)?;
        } else if first != b'{' && first != b'[' {
            at = plain(document, at, first)?;
        } else if is_wanted {
            return Err(No::Field);
        } else {
            let around = path.len() - names.len();
            let bits;
            (at, bits) = nested(document, at, around)?;
            seen |= bits;
        }
        let end = at;
        at = space(document, at);
        let mark = byte(document, at)?;
        if is_wanted {
            // A number may go on in what was cut off, so what is behind it is looked at too.
            if !matches!(mark, b',' | b'}') || names.len() > 0 || first == b'n' {
                return Err(No::Field);
            }
            // Strings must be UTF-8. They are all that can be anything but ASCII.
            if seen & HIGH_BITS != 0 && std::str::from_utf8(&document[..end]).is_err() {
                return Err(No::Field);
            }
            let found = match is_string {
                true if is_escaped => Found::Escaped(&document[start + 1..end - 1]),
                true => Found::String(&document[start + 1..end - 1]),
                false => Found::Plain(&document[start..end]),
            };
            return Ok((found, at + 1));
        }
        // Behind an object along the path there is none of the field's names any more.
        if mark != b',' {
            return Err(No::Field);
        }
        at = space(document, at + 1);
    }
}

/// Reads an object or array, in which the field is not, inside of `around` others; returns where it ends, and bits as of its
/// strings.
#[inline(never)]
fn nested(document: &[u8], start: usize, around: usize) -> Result<(usize, u64), No> {
    let mut seen = 0;
    let mut nest = Nest { depth: around, objects: 0 };
    let mut at = start;
    loop {
        let first = byte(document, at)?;
        match first {
            b'"' => (at, _) = string(document, at + 1, &mut seen)?,
            b'{' | b'[' => {
                nest.open(first == b'{')?;
                at = space(document, at + 1);
                if byte(document, at)? != first + 2 {
                    if nest.is_object() {
                        (at, _) = name(document, at, None, &mut seen)?;
                    }
                    continue;
                }
                at += 1;
                nest.close();
            }
            _ => at = plain(document, at, first)?,
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
            (at, _) = name(document, at, None, &mut seen)?;
        }
    }
}

/// Reads a number, `true`, `false` or `null`, which begins with `first`; returns where it ends.
#[inline(always)]
fn plain(document: &[u8], at: usize, first: u8) -> Result<usize, No> {
    if first.is_ascii_lowercase() { literal(document, at) } else { number(document, at + 1, first) }
}

/// Returns whether an escaped string is a text.
pub(crate) fn unescapes_to(escaped: &[u8], text: &str) -> bool {
    unescape(escaped).is_some_and(|plain| plain == text)
}

/// Returns the text of a string that has been checked; `None` for half of a surrogate pair, which is no text.
pub(crate) fn unescape(escaped: &[u8]) -> Option<String> {
    let mut plain = String::with_capacity(escaped.len());
    let mut chars = std::str::from_utf8(escaped).ok()?.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            plain.push(char);
            continue;
        }
        plain.push(match chars.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => match hex(&mut chars)? {
                high @ 0xd800..=0xdbff => {
                    (chars.next()? == '\\' && chars.next()? == 'u').then_some(())?;
                    let low = hex(&mut chars)?;
                    (0xdc00..=0xdfff).contains(&low).then_some(())?;
                    char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))?
                }
                unit => char::from_u32(unit)?,
            },
            other => other,
        });
    }
    Some(plain)
}

fn hex(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    (0..4).try_fold(0, |unit, _| Some(unit * 16 + chars.next()?.to_digit(16)?))
}

/// One, and the highest bit, in each byte of a word.
const ONES: u64 = u64::MAX / 255;
const HIGH_BITS: u64 = ONES * 0x80;

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

/// Reads a name with its colon; returns where its value begins, and whether the name is what is wanted. `seen` gets bits as of
/// a string.
#[inline(always)]
fn name(document: &[u8], at: usize, wanted: Option<&String>, seen: &mut u64) -> Result<(usize, bool), No> {
    if byte(document, at)? != b'"' {
        return Err(No::Field);
    }
    let start = at + 1;
    let (end, is_escaped) = string(document, start, seen)?;
    let at = space(document, end);
    if byte(document, at)? != b':' {
        return Err(No::Field);
    }
    let is_wanted = wanted.is_some_and(|wanted| {
        let name = &document[start..end - 1];
        if is_escaped { unescapes_to(name, wanted) } else { same(name, wanted.as_bytes()) }
    });
    Ok((space(document, at + 1), is_wanted))
}

/// Reads a string behind its first quote; returns where it ends, behind the last, and whether it has escapes. `all_seen` gets
/// all bits that are set in a byte of the string, and perhaps in some behind it.
#[inline(always)]
fn string(document: &[u8], start: usize, all_seen: &mut u64) -> Result<(usize, bool), No> {
    let (end, is_escaped, seen) = bits_of_string(document, start)?;
    *all_seen |= seen;
    Ok((end, is_escaped))
}

/// Reads a string; returns where it ends, whether it has escapes, and the bits.
#[inline(always)]
fn bits_of_string(document: &[u8], start: usize) -> Result<(usize, bool, u64), No> {
    match block(document, start) {
        Some((plain, bits)) if plain < BLOCK => closing(document, start, start + plain, bits),
        _ => long_string(document, start),
    }
}

/// Reads a string that goes on behind its first block, or is near the end of what is there.
#[inline(never)]
fn long_string(document: &[u8], start: usize) -> Result<(usize, bool, u64), No> {
    let (mut at, mut seen) = (start, 0);
    while let Some((plain, bits)) = block(document, at) {
        seen |= bits;
        at += plain;
        if plain < BLOCK {
            return closing(document, start, at, seen);
        }
    }
    if let Some(x) = word(document, at) {
        seen |= x;
        at += plain_bytes(x);
    }
    closing(document, start, at, seen)
}

/// Bytes of a string that are looked at at once.
const BLOCK: usize = 16;

/// Returns how many of the bytes from `at` on are nothing but themselves in a string, up to a block, and all their bits.
#[inline]
fn block(document: &[u8], at: usize) -> Option<(usize, u64)> {
    let chunk = document.get(at..)?.first_chunk::<BLOCK>()?;
    let x = u128::from_le_bytes(*chunk);
    let (low, high) = (x as u64, (x >> 64) as u64);
    Some((plain_of_block(low, high), low | high))
}

/// Returns how many of sixteen bytes are nothing but themselves in a string.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline]
fn plain_of_block(low: u64, high: u64) -> usize {
    use core::arch::wasm32::{u8x16_bitmask, u8x16_eq, u8x16_le, u8x16_splat, u64x2, v128_or};
    let x = u64x2(low, high);
    let quotes = v128_or(u8x16_eq(x, u8x16_splat(b'"')), u8x16_eq(x, u8x16_splat(b'\\')));
    let special = u8x16_bitmask(v128_or(quotes, u8x16_le(x, u8x16_splat(0x1f))));
    (u32::from(special) | 1 << BLOCK).trailing_zeros() as usize
}

/// Returns how many of sixteen bytes are nothing but themselves in a string.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline]
fn plain_of_block(low: u64, high: u64) -> usize {
    match plain_bytes(low) {
        8 => 8 + plain_bytes(high),
        plain => plain,
    }
}

/// Returns how many of eight bytes, from the lowest on, are nothing but themselves in a string.
///
/// `(x - n) & !x` has the high bit of each byte of `x` that is less than `n`, and above the first such byte perhaps others,
/// so the lowest bit is the one to believe.
#[inline]
fn plain_bytes(x: u64) -> usize {
    let less = |x: u64, n: u64| x.wrapping_sub(ONES * n) & !x & HIGH_BITS;
    let equal = |x: u64, byte: u8| less(x ^ (ONES * u64::from(byte)), 1);
    let special = less(x, 0x20) | equal(x, b'"') | equal(x, b'\\');
    special.trailing_zeros() as usize / 8
}

/// Returns the eight bytes from `at` on, the first one lowest.
#[inline]
fn word(document: &[u8], at: usize) -> Option<u64> {
    document.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// Returns where a string ends, of which the byte at `at` is the first one that is not just itself.
#[inline]
fn closing(document: &[u8], start: usize, at: usize, seen: u64) -> Result<(usize, bool, u64), No> {
    if document.get(at) == Some(&b'"') { Ok((at + 1, false, seen)) } else { rare(document, start, at, seen) }
}

/// Reads what is left of a string from `at` on: one that has escapes, or ends with the document.
#[cold]
#[inline(never)]
fn rare(document: &[u8], start: usize, mut at: usize, mut seen: u64) -> Result<(usize, bool, u64), No> {
    let mut escaped = false;
    loop {
        let next = byte(document, at)?;
        seen |= u64::from(next);
        at += 1;
        match next {
            b'"' => break,
            b'\\' => {
                escaped = true;
                let kind = byte(document, at)?;
                at += 1;
                match kind {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        let digits = document.get(at..at + 4).ok_or(No::Ended)?;
                        if !digits.iter().all(u8::is_ascii_hexdigit) {
                            return Err(No::Field);
                        }
                        at += 4;
                    }
                    _ => return Err(No::Field),
                }
            }
            0..0x20 => return Err(No::Field),
            _ => {}
        }
    }
    if escaped && unescape(&document[start..at - 1]).is_none() {
        return Err(No::Field);
    }
    Ok((at, escaped, seen))
}

/// Reads a number behind its first character.
#[inline(always)]
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
#[inline]
fn digits(document: &[u8], at: usize) -> usize {
    // Eight at a time, as above: a digit less '0' is below ten, and adding what ten lacks to 128 shows others.
    if let Some(x) = word(document, at) {
        let x = x ^ (ONES * u64::from(b'0'));
        let others = (x.wrapping_add(ONES * (128 - 10)) | x) & HIGH_BITS;
        if others != 0 {
            return at + others.trailing_zeros() as usize / 8;
        }
    }
    more_digits(document, at)
}

#[cold]
#[inline(never)]
fn more_digits(document: &[u8], mut at: usize) -> usize {
    while document.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize as _;
    use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
    use serde_json::Value;

    fn field<'a>(document: &'a [u8], path: &[String]) -> Option<Found<'a>> {
        find(document, path).ok().map(|(found, _)| found)
    }

    fn path(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn text(found: Option<Found<'_>>) -> Option<String> {
        match found? {
            Found::Escaped(escaped) => unescape(escaped),
            Found::String(text) | Found::Plain(text) => Some(String::from_utf8_lossy(text).into_owned()),
        }
    }

    /// Finds the field as serde_json sees it, the first one of a name; of a number, what it is worth.
    ///
    /// All other values are built too: those that serde_json ignores need not be text.
    struct First<'a>(&'a [String]);

    impl<'de> DeserializeSeed<'de> for First<'_> {
        type Value = Option<Value>;

        fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Option<Value>, D::Error> {
            if self.0.is_empty() {
                let value = Value::deserialize(value)?;
                return Ok(Some(value).filter(|value| !value.is_null() && !value.is_array() && !value.is_object()));
            }
            value.deserialize_any(self)
        }
    }

    impl<'de> Visitor<'de> for First<'_> {
        type Value = Option<Value>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("anything")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Value>, A::Error> {
            let mut found = None;
            while let Some(name) = map.next_key::<String>()? {
                if found.is_none() && name == self.0[0] {
                    found = Some(map.next_value_seed(First(&self.0[1..]))?);
                } else {
                    map.next_value::<Value>()?;
                }
            }
            Ok(found.flatten())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Option<Value>, A::Error> {
            while seq.next_element::<Value>()?.is_some() {}
            Ok(None)
        }

        fn visit_bool<E>(self, _: bool) -> Result<Option<Value>, E> {
            Ok(None)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Option<Value>, E> {
            Ok(None)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Option<Value>, E> {
            Ok(None)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Option<Value>, E> {
            Ok(None)
        }

        fn visit_str<E>(self, _: &str) -> Result<Option<Value>, E> {
            Ok(None)
        }

        fn visit_unit<E>(self) -> Result<Option<Value>, E> {
            Ok(None)
        }
    }

    /// Returns what serde_json finds; an error where the document is none, or not all of its strings are text.
    fn model(document: &[u8], path: &[String]) -> serde_json::Result<Option<Value>> {
        let mut reader = serde_json::Deserializer::from_slice(document);
        let found = First(path).deserialize(&mut reader)?;
        reader.end()?;
        Ok(found)
    }

    /// Compares with the model where the document is one; of others, what is behind the field does not matter.
    fn agree(document: &[u8], path: &[String]) {
        let found = field(document, path).map(|found| match found {
            Found::Escaped(escaped) => Value::String(unescape(escaped).expect("it was checked")),
            Found::String(text) => Value::String(String::from_utf8(text.to_vec()).expect("it was checked")),
            Found::Plain(plain) => serde_json::from_slice(plain).expect("it was checked"),
        });
        if let Ok(wanted) = model(document, path) {
            assert_eq!(found, wanted, "{}", String::from_utf8_lossy(document));
        }
    }

    #[test]
    fn a_field_is_found_by_the_path_of_its_names() {
        let document = br#" {"a": [{"b": 0}], "c": {"b": "x", "n": -1.50e2}, "t": true, "z": null, "a.b": "dot"} "#;
        assert_eq!(text(field(document, &path(&["c", "b"]))), Some("x".to_owned()));
        assert_eq!(text(field(document, &path(&["c", "n"]))), Some("-1.50e2".to_owned()));
        assert_eq!(text(field(document, &path(&["t"]))), Some("true".to_owned()));
        for none in [&["z"][..], &["a"], &["a", "b"], &["c"], &["b"], &["c", "b", "x"]] {
            assert_eq!(field(document, &path(none)), None, "{none:?}");
        }
    }

    #[test]
    fn the_first_one_of_a_name_counts() {
        for document in
            [r#"{"a":1,"a":{"b":2}}"#, r#"{"a":{"b":1},"a":{}}"#, r#"{"a":{"b":1},"a":3}"#, r#"{"a":1,"a":2}"#]
        {
            agree(document.as_bytes(), &path(&["a", "b"]));
            agree(document.as_bytes(), &path(&["a"]));
        }
    }

    #[test]
    fn what_is_no_json_up_to_the_field_has_none() {
        let wrong = [
            "",
            "{",
            "{\"a\":1",
            "{\"a\":12x}",
            "{\"a\":01}",
            "{\"a\":1]",
            "{a:1}",
            "{\"a\":\"\n\"}",
            "{\"b\":[1 2],\"a\":1}",
            "{\"b\":{\"c\":1,},\"a\":1}",
            "{\"a\":-}",
            "{\"a\":1.}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":tru}",
            "{\"a\" 1}",
            "{\"a\":\"\\u12\"}",
        ];
        for document in wrong {
            assert_eq!(field(document.as_bytes(), &path(&["a"])), None, "{document}");
        }
        assert_eq!(field(b"{\"b\":\"\xff\",\"a\":1}", &path(&["a"])), None);
        for depth in [126, 127, 128] {
            let document = format!("{{\"b\":{}{},\"a\":1}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
            assert_eq!(field(document.as_bytes(), &path(&["a"])).is_some(), depth < 128, "{depth}");
        }
    }

    #[test]
    fn what_lies_behind_the_field_is_not_looked_at() {
        for document in ["{\"a\":1,", "{\"a\":1}x", "{\"a\": 1 ,\"a\":2", "{\"a\":1,\"b\":\"\\ud800"] {
            assert_eq!(field(document.as_bytes(), &path(&["a"])), Some(Found::Plain(b"1")), "{document}");
        }
        for document in
            ["{\"c\":{\"b\":1},\"c\":{\"a\":1}}", "{\"c\":[],\"c\":{\"a\":1}}", "{\"c\":{\"a\":null,\"a\":1}}"]
        {
            assert_eq!(field(document.as_bytes(), &path(&["c", "a"])), None, "{document}");
        }
    }

    #[test]
    fn escapes_are_read_as_the_text_that_they_are() {
        agree(br#"{"\u0061\ud83d\ude00":"\b\f\n\r\t\/\\\"\u00e9"}"#, &path(&["a\u{1f600}"]));
        assert!(unescapes_to(br#"\u0061b"#, "ab"));
    }

    #[test]
    fn what_is_passed_over_must_be_text_too() {
        for document in [
            &b"{\"\\\"\":\"\xe7u\",\"a\":\"4:\"}"[..],
            b"{\"b\":[\"\xe7u\"],\"a\":1}",
            b"{\"b\":\"\\ud800\",\"a\":1}",
            b"{\"b\":{\"\\udc00\":1},\"a\":1}",
        ] {
            let shown = String::from_utf8_lossy(document);
            assert_eq!(field(document, &path(&["a"])), None, "{shown}");
            assert!(model(document, &path(&["a"])).is_err(), "{shown}");
        }
    }

    fn document() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "\\PC{0,4}".prop_map(Value::from),
            "[a-z\\\\\"\n]{0,60}".prop_map(Value::from),
        ];
        let tree = leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("[ab]|é|\"", inner), 0..4)
                    .prop_map(|fields| Value::from(fields.into_iter().collect::<serde_json::Map<_, _>>())),
            ]
        });
        (tree, any::<bool>()).prop_map(|(tree, pretty)| if pretty { format!("{tree:#}") } else { tree.to_string() })
    }

    /// Holds what is said of each beginning of a document to what is said of the whole.
    fn agree_when_cut(document: &[u8], path: &[String]) {
        let whole = find(document, path);
        for length in 0..document.len() {
            let cut = find(&document[..length], path);
            assert!(cut == Err(No::Ended) || cut == whole, "{length} of {}", String::from_utf8_lossy(document));
        }
    }

    #[test]
    fn a_document_that_is_cut_says_nothing_else_than_the_whole() {
        let documents = [
            &br#"{"\u0061\ud83d\ude00":{"c":-1.50e+2},"a":"gr\u00f6\u00dfe","z":[true,false,null]}"#[..],
            "{\"größe\":\"größe 😀\",\"a\":{\"b\":\"größe\"}}".as_bytes(),
            b"{\"b\":\"\xc3\xc3\",\"a\":1}",
            br#"{"b":"\ud800\ud800","a":1}"#,
            br#"{"b":tru,"a":1}"#,
            br#"{"b":"\uzzzz","a":1}"#,
            br#"  {  "b"  :  [ { } , [ ] , 01 ] , "a" : 1 }"#,
            br#"["a"]"#,
        ];
        for document in documents {
            for names in [&["a"][..], &["z"], &["a", "b"], &["a\u{1f600}", "c"], &["gr\u{f6}\u{df}e"]] {
                agree_when_cut(document, &path(names));
            }
        }
        // That there is no field is known as soon as it can be.
        for none in ["[1", "x", "{\"a\":{\"", "{\"a\":nul]", "{\"a\":null,", "{\"b\" 1", "\"a\",", "\0"] {
            assert_eq!(find(none.as_bytes(), &path(&["a"])), Err(No::Field), "{none}");
        }
        for ended in ["", "{", "{\"a\":1", "{\"a\":\"x\"", "{\"a\":nul", "{\"a\":\"\\u00", "{\"a\":\"x\"  ", "{\"b\":{"]
        {
            assert_eq!(find(ended.as_bytes(), &path(&["a"])), Err(No::Ended), "{ended}");
        }
    }

    proptest! {
        #[test]
        fn a_document_is_read_as_serde_json_reads_it(document in document(), names in proptest::collection::vec("[ab]|é", 1..4)) {
            agree(document.as_bytes(), &names);
            agree_when_cut(document.as_bytes(), &names);
        }

        #[test]
        fn a_damaged_document_is_read_as_serde_json_reads_it(
            document in document(), at: prop::sample::Index, byte in prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\ue.-0".to_vec())],
            names in proptest::collection::vec("[ab]", 1..3),
        ) {
            let mut document = document.into_bytes();
            let at = at.index(document.len());
            document[at] = byte;
            // A number that serde_json cannot hold is the one thing on which we differ.
            prop_assume!(serde_json::from_slice::<Value>(&document).err().is_none_or(|error| !error.to_string().contains("out of range")));
            agree(&document, &names);
            agree_when_cut(&document, &names);
        }
    }
}
