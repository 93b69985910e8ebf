//! Finds one field of a JSON document, reading each byte once and building nothing.
//!
//! The whole document is checked, so that a field is found only in what is JSON; of a name that occurs twice the last
//! one counts, as for most readers. What is accepted is what serde_json accepts, which the tests prove, but for numbers
//! too large for it.

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A string, still escaped, without its quotes.
    String(&'a [u8]),
    /// A number, `true` or `false`, as it is written.
    Plain(&'a [u8]),
}

/// Deeper documents are refused, by serde_json as well: each level takes stack, and a plugin has little.
const DEPTH: usize = 127;

/// Returns the field at a path of names, if the document is JSON and it holds a string, a number or a boolean there.
pub(crate) fn field<'a>(document: &'a [u8], path: &[String]) -> Option<Found<'a>> {
    let mut scanner = Scanner { rest: document, seen: 0, found: None };
    scanner.space();
    scanner.value(Some(path), 0)?;
    scanner.space();
    // Strings must be UTF-8. They are all that can be anything but ASCII, so that the whole document is if they are.
    if scanner.seen & HIGH_BITS != 0 {
        std::str::from_utf8(document).ok()?;
    }
    if scanner.rest.is_empty() { scanner.found } else { None }
}

/// Returns whether an escaped string is a text.
pub(crate) fn unescapes_to(escaped: &[u8], text: &str) -> bool {
    if !escaped.contains(&b'\\') {
        return escaped == text.as_bytes();
    }
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

struct Scanner<'a> {
    rest: &'a [u8],
    /// All bits that are set in a byte of a string, and perhaps in some behind it.
    seen: u64,
    found: Option<Found<'a>>,
}

impl<'a> Scanner<'a> {
    /// Reads a value. `path` is what is left of the path to the field, if all names above this value are the path's.
    fn value(&mut self, path: Option<&[String]>, depth: usize) -> Option<()> {
        let start = self.rest;
        let found = match self.next()? {
            b'{' => return self.object(path, depth + 1),
            b'[' => return self.array(depth + 1),
            b'"' => Some(Found::String(self.string()?)),
            first => {
                match first {
                    b't' => self.literal(b"rue")?,
                    b'f' => self.literal(b"alse")?,
                    b'n' => self.literal(b"ull")?,
                    digit => self.number(digit)?,
                }
                (first != b'n').then(|| Found::Plain(&start[..start.len() - self.rest.len()]))
            }
        };
        if path.is_some_and(<[String]>::is_empty) {
            self.found = found;
        }
        Some(())
    }

    fn object(&mut self, path: Option<&[String]>, depth: usize) -> Option<()> {
        if self.opens_empty(b'}', depth)? {
            return Some(());
        }
        loop {
            (self.next()? == b'"').then_some(())?;
            let name = self.string()?;
            self.mark(b':')?;
            let below = path.and_then(<[String]>::split_first).filter(|(first, _)| unescapes_to(name, first));
            if below.is_some() {
                // The last one of a name counts: whatever an earlier one held is forgotten.
                self.found = None;
            }
            self.value(below.map(|(_, rest)| rest), depth)?;
            if self.closes(b'}')? {
                return Some(());
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        if self.opens_empty(b']', depth)? {
            return Some(());
        }
        loop {
            self.value(None, depth)?;
            if self.closes(b']')? {
                return Some(());
            }
        }
    }

    /// Reads space, and the closing bracket if it is next.
    fn opens_empty(&mut self, bracket: u8, depth: usize) -> Option<bool> {
        (depth <= DEPTH).then_some(())?;
        self.space();
        let empty = self.rest.first() == Some(&bracket);
        if empty {
            self.rest = &self.rest[1..];
        }
        Some(empty)
    }

    /// Reads what is behind a value: the closing bracket, or a comma.
    fn closes(&mut self, bracket: u8) -> Option<bool> {
        self.space();
        match self.next()? {
            b',' => {
                self.space();
                Some(false)
            }
            other => (other == bracket).then_some(true),
        }
    }

    /// Reads a mark between spaces.
    fn mark(&mut self, mark: u8) -> Option<()> {
        self.space();
        (self.next()? == mark).then_some(())?;
        self.space();
        Some(())
    }

    /// Reads the rest of a string, with its quote; returns what is between.
    fn string(&mut self) -> Option<&'a [u8]> {
        let start = self.rest;
        let mut escaped = false;
        loop {
            self.skip_plain();
            match self.next()? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    match self.next()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            let (unit, rest) = self.rest.split_at_checked(4)?;
                            unit.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                            self.rest = rest;
                        }
                        _ => return None,
                    }
                }
                0..0x20 => return None,
                _ => {}
            }
        }
        let text = &start[..start.len() - self.rest.len() - 1];
        if escaped {
            unescape(text)?;
        }
        Some(text)
    }

    /// Skips bytes that are nothing but themselves in a string, up to the one that is not.
    ///
    /// Eight at a time, which is what makes long values cheap: `(x - n) & !x` has the high bit of each byte of `x` that is
    /// less than `n`, and above the first such byte perhaps others, so the lowest bit is the one to believe.
    fn skip_plain(&mut self) {
        let less = |x: u64, n: u64| x.wrapping_sub(ONES * n) & !x & HIGH_BITS;
        let equal = |x: u64, byte: u8| less(x ^ (ONES * u64::from(byte)), 1);
        while let Some((chunk, rest)) = self.rest.split_first_chunk() {
            let x = u64::from_le_bytes(*chunk);
            self.seen |= x;
            let special = less(x, 0x20) | equal(x, b'"') | equal(x, b'\\');
            if special != 0 {
                self.rest = &self.rest[special.trailing_zeros() as usize / 8..];
                return;
            }
            self.rest = rest;
        }
        let plain = |byte: &&u8| !matches!(**byte, 0..0x20 | b'"' | b'\\');
        let (plain, rest) = self.rest.split_at(self.rest.iter().take_while(plain).count());
        self.seen |= plain.iter().fold(0, |seen, byte| seen | u64::from(*byte));
        self.rest = rest;
    }

    fn number(&mut self, first: u8) -> Option<()> {
        let first = if first == b'-' { self.next()? } else { first };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return None,
        }
        if self.rest.first() == Some(&b'.') {
            self.rest = &self.rest[1..];
            self.next()?.is_ascii_digit().then_some(())?;
            self.digits();
        }
        if matches!(self.rest.first(), Some(b'e' | b'E')) {
            self.rest = &self.rest[1..];
            if matches!(self.rest.first(), Some(b'+' | b'-')) {
                self.rest = &self.rest[1..];
            }
            self.next()?.is_ascii_digit().then_some(())?;
            self.digits();
        }
        Some(())
    }

    fn digits(&mut self) {
        // Eight at a time, as above: a digit less '0' is below ten, and adding what ten lacks to 128 shows others.
        while let Some((chunk, rest)) = self.rest.split_first_chunk() {
            let x = u64::from_le_bytes(*chunk) ^ (ONES * u64::from(b'0'));
            let others = (x.wrapping_add(ONES * (128 - 10)) | x) & HIGH_BITS;
            if others != 0 {
                self.rest = &self.rest[others.trailing_zeros() as usize / 8..];
                return;
            }
            self.rest = rest;
        }
        let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.rest = &self.rest[count..];
    }

    fn literal(&mut self, text: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    #[inline]
    fn space(&mut self) {
        let count = self.rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count();
        self.rest = &self.rest[count..];
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn path(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn text(found: Option<Found<'_>>) -> Option<String> {
        match found? {
            Found::String(escaped) => unescape(escaped),
            Found::Plain(text) => Some(String::from_utf8_lossy(text).into_owned()),
        }
    }

    /// Finds the field as serde_json sees it; of a number, what it is worth.
    fn model(document: &[u8], path: &[String]) -> Option<Value> {
        let document: Value = serde_json::from_slice(document).ok()?;
        let found = path.iter().try_fold(&document, |value, name| value.as_object()?.get(name))?;
        (!found.is_null() && !found.is_array() && !found.is_object()).then(|| found.clone())
    }

    fn agree(document: &[u8], path: &[String]) {
        let found = field(document, path).map(|found| match found {
            Found::String(escaped) => Value::String(unescape(escaped).expect("it was checked")),
            Found::Plain(plain) => serde_json::from_slice(plain).expect("it was checked"),
        });
        assert_eq!(found, model(document, path), "{}", String::from_utf8_lossy(document));
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
    fn the_last_one_of_a_name_counts() {
        for document in
            [r#"{"a":1,"a":{"b":2}}"#, r#"{"a":{"b":1},"a":{}}"#, r#"{"a":{"b":1},"a":3}"#, r#"{"a":1,"a":2}"#]
        {
            agree(document.as_bytes(), &path(&["a", "b"]));
            agree(document.as_bytes(), &path(&["a"]));
        }
    }

    #[test]
    fn what_is_no_json_has_no_field() {
        let wrong = [
            "",
            "{",
            "{\"a\":1",
            "{\"a\":1}x",
            "{\"a\":01}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":\"\n\"}",
            "[1 2]",
            "{\"a\":-}",
            "{\"a\":1.}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":tru}",
            "{\"a\":1]",
            "{\"a\" 1}",
            "{\"a\":\"\\u12\"}",
        ];
        for document in wrong {
            agree(document.as_bytes(), &path(&["a"]));
            assert_eq!(field(document.as_bytes(), &path(&["a"])), None, "{document}");
        }
        for depth in [126, 127, 128] {
            let document = format!("{{\"b\":{}{},\"a\":1}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
            agree(document.as_bytes(), &path(&["a"]));
        }
    }

    #[test]
    fn escapes_are_read_as_the_text_that_they_are() {
        agree(br#"{"\u0061\ud83d\ude00":"\b\f\n\r\t\/\\\"\u00e9"}"#, &path(&["a\u{1f600}"]));
        assert!(unescapes_to(br#"\u0061b"#, "ab"));
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
