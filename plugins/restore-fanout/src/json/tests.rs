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
    for document in [r#"{"a":1,"a":{"b":2}}"#, r#"{"a":{"b":1},"a":{}}"#, r#"{"a":{"b":1},"a":3}"#, r#"{"a":1,"a":2}"#]
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
    for document in ["{\"c\":{\"b\":1},\"c\":{\"a\":1}}", "{\"c\":[],\"c\":{\"a\":1}}", "{\"c\":{\"a\":null,\"a\":1}}"]
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
    // Wherever bytes are looked at together ends.
    for before in 0..150 {
        let (note, number) = ("x".repeat(before), "7".repeat(before % 20));
        let wanted = format!(r#"{{"note":"{note}","n":1{number},"a":{{"id":"{note}","b":"{before}"}},"z":1{number}}}"#);
        for names in [&["a", "b"][..], &["n"], &["z"]] {
            agree(wanted.as_bytes(), &path(names));
            agree_when_cut(wanted.as_bytes(), &path(names));
        }
    }
    // That there is no field is known as soon as it can be.
    for none in ["[1", "x", "{\"a\":{\"", "{\"a\":nul]", "{\"a\":null,", "{\"b\" 1", "\"a\",", "\0"] {
        assert_eq!(find(none.as_bytes(), &path(&["a"])), Err(No::Field), "{none}");
    }
    for ended in ["", "{", "{\"a\":1", "{\"a\":\"x\"", "{\"a\":nul", "{\"a\":\"\\u00", "{\"a\":\"x\"  ", "{\"b\":{"] {
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
