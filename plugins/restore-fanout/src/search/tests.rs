use kafka_backup_transform::Columns;
use kafka_backup_transform::testing::{Sample, offering};
use proptest::prelude::*;

use super::*;

/// Returns what is found in values of which so much is asked for, and how many were asked for as a whole.
fn found(values: &[Option<Vec<u8>>], path: &[String], head_bytes: usize) -> (Vec<Option<String>>, usize) {
    let sample = |value: &Option<Vec<u8>>| Sample { value: value.clone(), ..Sample::default() };
    let samples: Vec<Sample> = values.iter().map(sample).collect();
    offering(&samples, Columns::VALUES_ON_DEMAND, || {
        let mut search = Search::of_heads(path, head_bytes);
        let found = (0..samples.len() as u32).map(|record| search.field(record, text)).collect();
        (found, search.cut)
    })
}

fn text(found: Found<'_>) -> Option<String> {
    match found {
        Found::Escaped(escaped) => json::unescape(escaped),
        Found::String(text) | Found::Plain(text) => String::from_utf8(text.to_vec()).ok(),
    }
}

/// Returns what is found in values that are all there.
fn plainly(values: &[Option<Vec<u8>>], path: &[String]) -> Vec<Option<String>> {
    values.iter().map(|value| text(json::find(value.as_ref()?, path).ok()?.0)).collect()
}

fn path(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

#[test]
fn a_field_is_found_wherever_the_beginning_ends() {
    let documents: [&[u8]; 9] = [
        br#"{"id":17,"a":{"b":"in the end"}}"#,
        r#"{"größe":"\u00e9 é 😀 \ud83d\ude00 \\\"","a":{"b":"größe"}}"#.as_bytes(),
        br#"{"z":[1,{"a":{"b":1}},"}"], "a" : { "b" : -12.5e3 } }"#,
        br#"{"a":{"b":true}}"#,
        br#"{"a":{"\u0062":"gr\u00f6\u00dfe"}}"#,
        b"{\"x\":\"\xc3\",\"a\":{\"b\":1}}",
        br#"{"a":{"c":1}}"#,
        br#"{"a":{"b":12"#,
        b"\x00\x00\x00\x01no JSON",
    ];
    let mut values: Vec<_> = documents.map(|document| Some(document.to_vec())).into();
    values.extend([None, Some(Vec::new())]);
    let path = path(&["a", "b"]);
    let wanted = plainly(&values, &path);
    assert_eq!(wanted.iter().flatten().collect::<Vec<_>>(), ["in the end", "größe", "-12.5e3", "true", "größe"]);
    let longest = values.iter().flatten().map(Vec::len).max().unwrap_or(0);
    for head_bytes in 0..longest + 2 {
        assert_eq!(found(&values, &path, head_bytes).0, wanted, "{head_bytes}");
    }
    let (_, wholes) = found(&values, &path, longest + 1);
    assert_eq!(wholes, 0, "there is no more of them");
}

#[test]
fn as_much_is_asked_for_as_was_needed() {
    let path = path(&["f"]);
    let document = |before: usize| Some(format!(r#"{{"b":"{}","f":1}}"#, "x".repeat(before)).into_bytes());
    let mut reach = Reach::default();
    let mut learn = |values: &[Option<Vec<u8>>]| {
        let samples: Vec<_> = values.iter().map(|value| Sample { value: value.clone(), ..Sample::default() }).collect();
        offering(&samples, Columns::VALUES_ON_DEMAND, || {
            let mut search = Search::new(&path, &reach);
            (0..samples.len() as u32).for_each(|record| assert_eq!(search.field(record, text).as_deref(), Some("1")));
            reach = reach.learned(&search);
            (search.head_bytes, search.cut)
        })
    };
    let mostly = |few: usize| [vec![document(1000); few], vec![document(70); 320]].concat();
    assert_eq!(learn(&mostly(0)), (FIRST_BYTES, 0));
    assert_eq!(learn(&mostly(5)), (96, 5), "a few are asked for as a whole");
    assert_eq!(learn(&mostly(20)), (96, 20), "more are too many");
    assert_eq!(learn(&mostly(20)), (1024, 0));
    assert_eq!(learn(&mostly(0)).0, 1024, "what was needed is not forgotten at once");
    let forgotten = (0..500).map(|_| learn(&mostly(0)).0).last();
    assert_eq!(forgotten, Some(96));
    assert_eq!(learn(&vec![document(4000); 32]), (96, 32));
    assert_eq!(learn(&vec![document(4070); 32]), (4032, 32));
    assert_eq!(learn(&[document(10)]), (MOST_BYTES, 0), "there is a most");
}

#[test]
fn documents_that_lack_the_field_are_not_asked_for_one_by_one_again() {
    let path = path(&["f"]);
    // The second is as long as what is asked for of it: that it is whole cannot be seen.
    for (bytes, asked) in [(1000, 1024), (1024, 1024)] {
        let samples = vec![Sample::default().value(format!(r#"{{"b":"{}"}}"#, "x".repeat(bytes - 8))); 40];
        let mut reach = Reach::default();
        let mut learn = || {
            offering(&samples, Columns::VALUES_ON_DEMAND, || {
                let mut search = Search::new(&path, &reach);
                (0..samples.len() as u32).for_each(|record| assert_eq!(search.field(record, text), None));
                reach = reach.learned(&search);
                (search.head_bytes, search.cut)
            })
        };
        assert_eq!(learn(), (FIRST_BYTES, 40));
        assert_eq!([learn(), learn(), learn()], [(asked, 0); 3], "{bytes}");
    }
}

#[test]
fn a_few_documents_that_lack_the_field_do_not_make_all_be_asked_for() {
    let path = path(&["f"]);
    let lacking = Sample::default().value(format!(r#"{{"f":null,"b":"{}"}}"#, "x".repeat(200)));
    let samples = [vec![lacking], vec![Sample::default().value(r#"{"a":1,"f":1,"b":2}"#); 99]].concat();
    let mut reach = Reach::default();
    let mut asked = || {
        offering(&samples, Columns::VALUES_ON_DEMAND, || {
            let mut search = Search::new(&path, &reach);
            let found = (0..samples.len() as u32).filter_map(|record| search.field(record, text)).count();
            assert_eq!(found, 99);
            reach = reach.learned(&search);
            search.head_bytes
        })
    };
    assert_eq!([asked(), asked()], [FIRST_BYTES, LEAST_BYTES]);
}

#[test]
fn values_of_which_no_beginning_tells_teach_nothing() {
    let path = path(&["f"]);
    let mut reach = Reach { bytes: 60 };
    for _ in 0..3 {
        let value = |before: usize| format!(r#"{{"b":"{}","f":1}}"#, "x".repeat(before)).into_bytes();
        let sample = |before| Sample::default().value(value(before));
        let samples = [vec![sample(5000); 20], vec![sample(44)]].concat();
        offering(&samples, Columns::VALUES_ON_DEMAND, || {
            let mut search = Search::new(&path, &reach);
            (0..samples.len() as u32).for_each(|record| assert_eq!(search.field(record, text).as_deref(), Some("1")));
            assert_eq!((search.head_bytes, search.cut), (LEAST_BYTES, 0));
            reach = reach.learned(&search);
        });
    }
}

#[test]
fn all_of_a_value_that_comes_alone_is_asked_for_only_where_its_longest_beginning_does_not_tell() {
    let path = path(&["f"]);
    // As an instance that has only seen fields at the beginning, and as a new one.
    for bytes in [0, 20] {
        for (before, reached) in [(10, true), (1000, true), (4000, true), (5000, false)] {
            let value = format!(r#"{{"b":"{}","f":1,"c":"{}"}}"#, "x".repeat(before), "x".repeat(100_000));
            let samples = [Sample::default().value(value)];
            offering(&samples, Columns::VALUES_ON_DEMAND, || {
                let mut search = Search::new(&path, &Reach { bytes });
                assert_eq!(search.field(0, text).as_deref(), Some("1"));
                assert_eq!(search.reached > before, reached, "{before}");
            });
        }
    }
}

proptest! {
    #[test]
    fn what_is_found_does_not_depend_on_how_much_is_asked_for(
        words in proptest::collection::vec("[a-c\\\\\"\n]{0,70}|\\PC{0,40}", 1..6),
        names in proptest::collection::vec("[bf]|é", 1..3),
        bytes in proptest::collection::vec(any::<u8>(), 0..20),
        head_bytes in 0usize..200,
        cut in any::<prop::sample::Index>(),
    ) {
        let document = |word: &String| serde_json::json!({ "b": word, "é": { "f": word }, "f": { "b": 1, "f": word } }).to_string();
        let mut values: Vec<_> = words.iter().map(|word| Some(document(word).into_bytes())).collect();
        let mut damaged = document(&words[0]).into_bytes();
        damaged.truncate(cut.index(damaged.len()));
        damaged.extend(&bytes);
        values.extend([None, Some(bytes), Some(damaged)]);
        let path: Vec<String> = names;
        prop_assert_eq!(found(&values, &path, head_bytes).0, plainly(&values, &path));
    }
}
