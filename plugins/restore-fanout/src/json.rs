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

/// Deeper documents are refused, as they are by serde_json.
const DEPTH: usize = 127;

/// Returns the field at a path of names, if the document up to its end is JSON and it is a string, a number or a boolean.
///
/// It is one loop over numbers that fit into registers: what stands in memory, and calls, would cost more than the bytes.
pub(crate) fn field<'a>(document: &'a [u8], path: &[String]) -> Option<Found<'a>> {
    let mut seen = 0;
    let mut nest = Nest::default();
    // Whether all names above the value that is next are the path's, and the value's own.
    let mut is_next = true;
    let mut at = space(document, 0);
    // Whether the name of a value is next: names are read in one place, so that it costs no call.
    let mut is_named = false;
    loop {
        if is_named {
            (at, is_next) = name(document, at, &nest, path, &mut seen)?;
        }
        let start = at;
        let first = *document.get(at)?;
        at += 1;
        let scalar = match first {
            b'"' => {
                let is_escaped;
                (at, is_escaped) = string(document, at, &mut seen)?;
                let text = &document[start + 1..at - 1];
                Some(if is_escaped { Found::Escaped(text) } else { Found::String(text) })
            }
            b'{' | b'[' => {
                nest.open(first == b'{', is_next)?;
                at = space(document, at);
                if *document.get(at)? != first + 2 {
                    // An array, or an object beyond the path, is no field.
                    if is_next && !nest.is_along(path) {
                        return None;
                    }
                    is_next = false;
                    is_named = nest.is_object();
                    continue;
                }
                at += 1;
                nest.close();
                None
            }
            b't' => {
                at = literal(document, at, b"rue")?;
                Some(Found::Plain(&document[start..at]))
            }
            b'f' => {
                at = literal(document, at, b"alse")?;
                Some(Found::Plain(&document[start..at]))
            }
            b'n' => {
                at = literal(document, at, b"ull")?;
                None
            }
            digit => {
                at = number(document, at, digit)?;
                Some(Found::Plain(&document[start..at]))
            }
        };
        if is_next {
            // A number may go on in what was cut off.
            let is_whole = matches!(document.get(space(document, at)), Some(b',' | b'}'));
            // Strings must be UTF-8. They are all that can be anything but ASCII.
            if seen & HIGH_BITS != 0 {
                std::str::from_utf8(&document[..at]).ok()?;
            }
            return scalar.filter(|_| is_whole && nest.depth == path.len());
        }
        loop {
            at = space(document, at);
            let mark = *document.get(at)?;
            at += 1;
            if mark == b',' {
                at = space(document, at);
                is_named = nest.is_object();
                break;
            }
            let is_closing = mark == if nest.is_object() { b'}' } else { b']' };
            // Behind an object along the path there is none of the field's names any more.
            if !is_closing || nest.along == nest.depth {
                return None;
            }
            nest.close();
        }
    }
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
#[derive(Default)]
struct Nest {
    /// How many they are.
    depth: usize,
    /// A bit for each: whether it is an object; the innermost is the lowest.
    objects: u128,
    /// How many of them, from the outermost on, are objects along the path.
    along: usize,
}

impl Nest {
    #[inline]
    fn open(&mut self, is_object: bool, is_along: bool) -> Option<()> {
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(is_object);
        if is_object && is_along {
            self.along = self.depth;
        }
        (self.depth <= DEPTH).then_some(())
    }

    #[inline]
    fn close(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
        self.along = self.along.min(self.depth);
    }

    #[inline]
    fn is_object(&self) -> bool {
        self.objects & 1 == 1
    }

    /// Returns whether the innermost one is an object that the path leads on from.
    #[inline]
    fn is_along(&self, path: &[String]) -> bool {
        self.along == self.depth && self.depth <= path.len()
    }
}

/// Reads a name with its colon; returns where its value begins, and whether the name is the path's.
#[inline(always)]
fn name(document: &[u8], at: usize, nest: &Nest, path: &[String], seen: &mut u64) -> Option<(usize, bool)> {
    (*document.get(at)? == b'"').then_some(())?;
    let start = at + 1;
    let (end, is_escaped) = string(document, start, seen)?;
    let at = space(document, end);
    (*document.get(at)? == b':').then_some(())?;
    let wanted = if nest.along == nest.depth { path.get(nest.depth - 1) } else { None };
    let is_wanted = wanted.is_some_and(|wanted| {
        let name = &document[start..end - 1];
        if is_escaped { unescapes_to(name, wanted) } else { same(name, wanted.as_bytes()) }
    });
    Some((space(document, at + 1), is_wanted))
}

/// Reads a string behind its first quote; returns where it ends, behind the last, and whether it has escapes. `seen` gets all
/// bits that are set in a byte of the string, and perhaps in some behind it.
#[inline(always)]
fn string(document: &[u8], start: usize, seen: &mut u64) -> Option<(usize, bool)> {
    let mut at = start;
    while let Some((plain, bits)) = block(document, at) {
        *seen |= bits;
        at += plain;
        if plain < BLOCK {
            return closing(document, start, at, seen);
        }
    }
    if let Some(x) = word(document, at) {
        *seen |= x;
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
    let plain = match plain_bytes(low) {
        8 => 8 + plain_bytes(high),
        plain => plain,
    };
    Some((plain, low | high))
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
fn closing(document: &[u8], start: usize, at: usize, seen: &mut u64) -> Option<(usize, bool)> {
    if document.get(at) == Some(&b'"') { Some((at + 1, false)) } else { rare(document, start, at, seen) }
}

/// Reads what is left of a string from `at` on: one that has escapes, or ends with the document.
#[cold]
fn rare(document: &[u8], start: usize, mut at: usize, seen: &mut u64) -> Option<(usize, bool)> {
    let mut escaped = false;
    loop {
        let byte = *document.get(at)?;
        *seen |= u64::from(byte);
        at += 1;
        match byte {
            b'"' => break,
            b'\\' => {
                escaped = true;
                let kind = *document.get(at)?;
                at += 1;
                match kind {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        document.get(at..at + 4)?.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                        at += 4;
                    }
                    _ => return None,
                }
            }
            0..0x20 => return None,
            _ => {}
        }
    }
    if escaped {
        unescape(&document[start..at - 1])?;
    }
    Some((at, escaped))
}

/// Reads a number behind its first character.
#[inline]
fn number(document: &[u8], mut at: usize, mut first: u8) -> Option<usize> {
    if first == b'-' {
        first = *document.get(at)?;
        at += 1;
    }
    match first {
        b'0' => {}
        b'1'..=b'9' => at = digits(document, at),
        _ => return None,
    }
    if document.get(at) == Some(&b'.') {
        document.get(at + 1)?.is_ascii_digit().then_some(())?;
        at = digits(document, at + 2);
    }
    if matches!(document.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(document.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        document.get(at)?.is_ascii_digit().then_some(())?;
        at = digits(document, at + 1);
    }
    Some(at)
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
fn more_digits(document: &[u8], mut at: usize) -> usize {
    while document.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

#[inline]
fn literal(document: &[u8], at: usize, text: &[u8]) -> Option<usize> {
    document.get(at..)?.starts_with(text).then_some(at + text.len())
}

/// Skips white space, of which most documents have none.
#[inline]
fn space(document: &[u8], at: usize) -> usize {
    if document.get(at).is_some_and(|byte| *byte > b' ') { at } else { more_space(document, at) }
}

#[cold]
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

    proptest! {
        #[test]
        fn a_document_is_read_as_serde_json_reads_it(document in document(), names in proptest::collection::vec("[ab]|é", 1..4)) {
            agree(document.as_bytes(), &names);
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
        }
    }
}
