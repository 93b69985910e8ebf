//! What is sent says what the records are; what comes back is taken as it is meant, or refused.

use proptest::prelude::*;

use super::super::wit::{HeaderEdit, Removal, Window};
use super::headers::{BLOCK_BYTES, MOST_NAMES};
use super::*;
use crate::batch::records::Record;
use crate::batch::records::tests::records;
use crate::record::TopicId;

fn partition() -> Partition {
    Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 }
}

fn everything() -> Plan {
    let keeps = Window { from: None, until: None };
    Plan { needs: Columns::all(), touches: Touches::all(), targets: None, keeps, pure: true }
}

fn unchanged() -> Output {
    Output { source: None, topics: None, partitions: None, timestamps: None, keys: None, values: None, headers: None }
}

fn column(cells: &[Option<&[u8]>]) -> Column {
    let mut column = Cells::default();
    cells.iter().for_each(|cell| column.push(*cell));
    column.0
}

/// Three records with values `a`, null, empty; the first has headers x=1, y=null, x=2.
fn three() -> Rows {
    let record = |offset, value: Option<&'static [u8]>| Record {
        offset,
        timestamp: Timestamp(1000 + offset),
        key: Some(Bytes::from_static(b"k")),
        value: value.map(Bytes::from_static),
        headers: Vec::new(),
    };
    let mut records = [record(5, Some(b"a")), record(7, None), record(8, Some(b""))];
    records[0].headers = [("x", Some("1")), ("y", None), ("x", Some("2"))]
        .map(|(name, value)| {
            (Bytes::from_static(name.as_bytes()), value.map(|value| Bytes::from_static(value.as_bytes())))
        })
        .to_vec();
    Rows::from_records(&records).expect("small")
}

fn taken(output: Output) -> Result<Vec<Record>, Wrong> {
    taken_by(&everything(), output)
}

fn taken_by(plan: &Plan, output: Output) -> Result<Vec<Record>, Wrong> {
    let answer = answer(&three(), 0..3, output, plan)?;
    Ok(answer.rows.rows().iter().map(|row| answer.rows.record(row)).collect())
}

fn headers(record: &Record) -> Vec<(&str, Option<&str>)> {
    let text = |bytes| std::str::from_utf8(bytes).expect("text");
    record.headers.iter().map(|(name, value)| (text(name), value.as_deref().map(text))).collect()
}

#[test]
fn what_is_sent_is_what_was_asked_for() {
    let sent = columns(&partition(), &three(), 1..3, Columns::VALUES);
    assert_eq!((&*sent.topic, sent.partition, &sent.offsets[..]), ("orders", 3, &[7, 8][..]));
    assert_eq!(sent.timestamps, [1007, 1008]);
    assert!(sent.keys.is_none() && sent.headers.is_none());
    let values = sent.values.expect("asked for");
    assert_eq!((values.ends, values.nulls, values.data), (vec![0, 0], vec![0], Vec::new()));
    let sent = columns(&partition(), &three(), 0..3, Columns::HEADERS).headers.expect("asked for");
    assert_eq!((&sent.names.data[..], sent.names.ends), (&b"xy"[..], vec![1, 2]));
    assert_eq!((sent.row_ends, sent.name_indexes, sent.values.nulls), (Some(vec![3, 3, 3]), vec![0, 1, 0], vec![1]));
}

#[test]
fn what_the_headers_of_all_rows_have_alike_is_sent_once() {
    let sent = |rows: &[&[&'static str]]| {
        let record = |names: &&[&'static str]| Record {
            offset: 0,
            timestamp: Timestamp(0),
            key: None,
            value: None,
            headers: names.iter().map(|name| (Bytes::from_static(name.as_bytes()), None)).collect(),
        };
        let rows = Rows::from_records(&rows.iter().map(record).collect::<Vec<_>>()).expect("small");
        let sent = columns(&partition(), &rows, 0..rows.len(), Columns::HEADERS).headers.expect("asked for");
        assert_eq!(sent.values.ends.len(), rows.rows().iter().map(|row| row.headers.count as usize).sum::<usize>());
        (sent.row_ends, sent.name_indexes)
    };
    assert_eq!(sent(&[&["a", "b", "a"], &["a", "b", "a"]]), (None, vec![0, 1, 0]));
    assert_eq!(sent(&[&[], &[], &[]]), (None, vec![]));
    assert_eq!(sent(&[&["a"]]), (None, vec![0]));
    assert_eq!(sent(&[&["a", "b"], &["a", "b"], &["a"]]), (Some(vec![2, 4, 5]), vec![0, 1, 0, 1, 0]));
    assert_eq!(sent(&[&["a", "b"], &["b", "a"], &["b", "a"]]), (Some(vec![2, 4, 6]), vec![0, 1, 1, 0, 1, 0]));
    assert_eq!(sent(&[&[], &["a"], &[]]), (Some(vec![0, 1, 1]), vec![0]));
    assert_eq!(sent(&[&["a"], &["a", "b"], &["a"]]), (Some(vec![1, 3, 4]), vec![0, 0, 1, 0]));
}

#[test]
fn rows_that_are_alike_get_headers_whose_names_are_said_once() {
    let long = "v".repeat(BLOCK_BYTES + 1);
    let add = HeaderColumn {
        row_ends: None,
        names: column(&[Some(b"a"), Some(b"b")]),
        name_indexes: vec![1, 0],
        values: column(&[None, Some(b"1"), Some(b""), Some(long.as_bytes()), Some(b"5"), None]),
    };
    let remove = vec![Removal { name: Some(b"x".to_vec()), rows: None }];
    let edit = HeaderEdit { remove, add: Some(add) };
    let records = taken(Output { headers: Some(edit), ..unchanged() }).expect("right");
    assert_eq!(headers(&records[0]), [("y", None), ("b", None), ("a", Some("1"))]);
    assert_eq!(headers(&records[1]), [("b", Some("")), ("a", Some(&*long))]);
    assert_eq!(headers(&records[2]), [("b", Some("5")), ("a", None)]);
}

#[test]
fn an_answer_drops_copies_and_patches() {
    let output = Output {
        source: Some(vec![0, 0, 2]),
        timestamps: Some(vec![1, 2, 3]),
        values: Some(Patch { rows: Some(vec![1, 2]), cells: column(&[Some(b"new"), None]) }),
        keys: Some(Patch { rows: None, cells: column(&[Some(b""), None, Some(b"z")]) }),
        ..unchanged()
    };
    let records = taken(output).expect("right");
    let shown: Vec<_> = records
        .iter()
        .map(|record| (record.offset, record.timestamp.0, record.key.as_deref(), record.value.as_deref()))
        .collect();
    assert_eq!(
        shown,
        [(5, 1, Some(&b""[..]), Some(&b"a"[..])), (5, 2, None, Some(&b"new"[..])), (8, 3, Some(&b"z"[..]), None),]
    );
    assert_eq!(headers(&records[1]), headers(&records[0]), "a copy has all that is not mentioned");
}

#[test]
fn headers_are_taken_away_first_and_then_added_behind_what_is_left() {
    let add = HeaderColumn {
        row_ends: Some(vec![1, 1, 3]),
        names: column(&[Some(b"x"), Some(b"n")]),
        name_indexes: vec![0, 1, 1],
        values: column(&[Some(b"3"), None, Some(b"")]),
    };
    let remove = vec![Removal { name: Some(b"x".to_vec()), rows: None }];
    let edit = HeaderEdit { remove, add: Some(add) };
    let records = taken(Output { headers: Some(edit), ..unchanged() }).expect("right");
    assert_eq!(headers(&records[0]), [("y", None), ("x", Some("3"))]);
    assert_eq!(headers(&records[1]), []);
    assert_eq!(headers(&records[2]), [("n", None), ("n", Some(""))]);
    let all = HeaderEdit { remove: vec![Removal { name: None, rows: Some(vec![0]) }], add: None };
    assert_eq!(headers(&taken(Output { headers: Some(all), ..unchanged() }).expect("right")[0]), []);
}

#[test]
fn rows_are_routed_or_left_where_they_are() {
    let topics = Some(Route { names: vec!["a".to_owned()], indexes: vec![0, 1, 0] });
    let output = Output { topics, partitions: Some(vec![-1, 4, 0]), ..unchanged() };
    let answer = answer(&three(), 0..3, output, &everything()).expect("right");
    let topics = answer.topics.expect("routed");
    assert_eq!([0, 1, 2].map(|row| topics.of(row)), [None, Some("a"), None]);
    assert_eq!(answer.partitions, Some(vec![-1, 4, 0]));
}

/// Each wrong answer, and what must be said of it.
#[test]
fn what_is_wrong_with_an_answer_is_said() {
    let value = |cells: Column| Output { values: Some(Patch { rows: None, cells }), ..unchanged() };
    let patch = |rows: Vec<u32>| {
        let cells = column(&vec![None; rows.len()]);
        Output { values: Some(Patch { rows: Some(rows), cells }), ..unchanged() }
    };
    let raw = |ends: Vec<u32>, nulls: Vec<u32>, data: &[u8]| value(Column { ends, nulls, data: data.to_vec() });
    let route = |name: &str, index| {
        let route = Route { names: vec![name.to_owned()], indexes: vec![0, 0, index] };
        Output { topics: Some(route), ..unchanged() }
    };
    let add = |row_ends: Vec<u32>, name: Option<&[u8]>, name_indexes: Vec<u32>| {
        let values = column(&vec![None; name_indexes.len()]);
        // Without ends all rows are alike.
        let row_ends = Some(row_ends).filter(|ends| !ends.is_empty());
        let add = Some(HeaderColumn { row_ends, names: column(&[name]), name_indexes, values });
        Output { headers: Some(HeaderEdit { remove: Vec::new(), add }), ..unchanged() }
    };
    let remove = |times, rows: Vec<u32>| {
        let remove = vec![Removal { name: None, rows: Some(rows) }; times];
        Output { headers: Some(HeaderEdit { remove, add: None }), ..unchanged() }
    };
    let source = |source: &[u32]| Output { source: Some(source.to_vec()), ..unchanged() };
    let cases = [
        (source(&[0, 3]), "`source` names record 3 of 3"),
        (source(&[1, 0]), "`source` must not descend"),
        (Output { timestamps: Some(vec![1, 2]), ..unchanged() }, "`timestamps` has 2 cells for 3 rows"),
        (Output { timestamps: Some(vec![1, 2, -5]), ..unchanged() }, "`timestamps` has -5"),
        (Output { partitions: Some(vec![0, -2, 0]), ..unchanged() }, "`partitions` has -2"),
        (value(column(&[None])), "`values` has 1 cells for 3 rows"),
        (raw(vec![1, 0, 1], vec![], b"x"), "`values`: ends must not descend"),
        (raw(vec![1, 1, 9], vec![], b"x"), "`values`: ends reach 9 of 1"),
        (raw(vec![0, 0, 1], vec![], b"xy"), "`values`: ends reach 1 of 2"),
        (raw(vec![1, 1, 1], vec![0], b"x"), "`values`: cell 0 is null and has bytes"),
        (raw(vec![0, 0, 0], vec![1, 1], b""), "`values`: nulls must ascend"),
        (raw(vec![0, 0, 0], vec![3], b""), "`values`: nulls name 3 of 3"),
        (patch(vec![2, 1]), "`values`: rows must ascend"),
        (patch(vec![3]), "`values`: rows name 3 of 3"),
        (route("a", 2), "`topics` picks name 2 of 1"),
        (route("a b", 0), "`a b` cannot be a topic's name"),
        (route("..", 1), "`..` cannot be a topic's name"),
        (remove(257, vec![3]), "`remove` has 257 entries, the most is 256"),
        (remove(256, vec![3]), "`remove`: rows name 3 of 3"),
        (add(vec![0, 0], Some(b"n"), vec![]), "`headers` has 2 cells for 3 rows"),
        (add(vec![0, 0, 2], Some(b"n"), vec![0]), "`headers`: row-ends reach 2 of 1"),
        (add(vec![], Some(b"n"), vec![0]), "3 headers have 1 values"),
        (add(vec![0, 0, 1], Some(b"n"), vec![1]), "`name-indexes` picks name 1 of 1"),
        (add(vec![0, 0, 1], None, vec![0]), "the name of headers, cell 0, is null"),
        (add(vec![0, 0, 1], Some(b"\xff"), vec![0]), "the name of header 0 is not UTF-8"),
    ];
    for (output, said) in cases {
        assert_eq!(taken(output).expect_err(said), said);
    }
}

#[test]
fn what_was_not_declared_is_refused() {
    let nothing = Plan { touches: Touches::empty(), ..everything() };
    let cells = || column(&[None, None, None]);
    let none = || Patch { rows: None, cells: cells() };
    let cases = [
        (Output { source: Some(vec![0]), ..unchanged() }, "drops"),
        (Output { source: Some(vec![0, 0, 1, 2]), ..unchanged() }, "copies"),
        (Output { keys: Some(none()), ..unchanged() }, "keys"),
        (Output { values: Some(none()), ..unchanged() }, "values"),
        (Output { headers: Some(HeaderEdit { remove: Vec::new(), add: None }), ..unchanged() }, "headers"),
        (Output { timestamps: Some(vec![0; 3]), ..unchanged() }, "timestamps"),
        (Output { topics: Some(Route { names: vec![], indexes: vec![0; 3] }), ..unchanged() }, "topics"),
        (Output { partitions: Some(vec![0; 3]), ..unchanged() }, "partitions"),
    ];
    for (output, what) in cases {
        let said = format!("it does `{what}`, which it did not declare");
        assert_eq!(taken_by(&nothing, output).expect_err(what), said);
    }
    let one = Plan { targets: Some(vec!["a".to_owned()]), ..everything() };
    let routed = |name: &str| Output {
        topics: Some(Route { names: vec![name.to_owned()], indexes: vec![1; 3] }),
        ..unchanged()
    };
    let _ = taken_by(&one, routed("a")).expect("declared");
    assert!(taken_by(&one, routed("b")).expect_err("another").contains("not among its `targets`"));
    let until = Plan { keeps: Window { from: Some(1005), until: Some(1008) }, ..everything() };
    assert!(taken_by(&until, unchanged()).expect_err("it kept the last").contains("outside the window"));
    let _ = taken_by(&until, Output { source: Some(vec![0, 1]), ..unchanged() }).expect("the window is half-open");
}

#[test]
fn a_plugin_that_does_nothing_but_keep_a_window_drops_nothing_inside() {
    let keeps = Window { from: Some(1005), until: Some(1008) };
    let window = Plan { needs: Columns::default(), touches: Touches::DROPS, keeps, ..everything() };
    assert!(is_window(&window));
    let rows = |source: &[u32]| Output { source: Some(source.to_vec()), ..unchanged() };
    let _ = taken_by(&window, rows(&[0, 1])).expect("all that are inside");
    let said = taken_by(&window, rows(&[1])).expect_err("one is missing");
    assert!(said.contains("it dropped a record inside the window"), "{said}");
    for wider in [
        Plan { needs: Columns::KEYS, ..window.clone() },
        Plan { touches: Touches::DROPS | Touches::HEADERS, ..window.clone() },
        Plan { pure: false, ..window.clone() },
    ] {
        assert!(!is_window(&wider));
        let _ = taken_by(&wider, rows(&[1])).expect("it may drop for reasons of its own");
    }
}

#[test]
fn a_name_that_is_no_text_may_stay_where_it_was() {
    let name = Bytes::from_static(&[0xff]);
    let record =
        Record { offset: 0, timestamp: Timestamp(0), key: None, value: None, headers: vec![(name.clone(), None)] };
    let rows = Rows::from_records(std::slice::from_ref(&record)).expect("small");
    let add = HeaderColumn {
        row_ends: Some(vec![1]),
        names: column(&[Some(&name)]),
        name_indexes: vec![0],
        values: column(&[None]),
    };
    let edit = HeaderEdit { remove: vec![Removal { name: None, rows: None }], add: Some(add) };
    let answer =
        answer(&rows, 0..1, Output { headers: Some(edit), ..unchanged() }, &everything()).expect("it was there");
    assert_eq!(answer.rows.record(&answer.rows.rows()[0]), record);
}

#[test]
fn a_small_answer_that_means_a_large_one_is_refused() {
    let big = Record {
        offset: 0,
        timestamp: Timestamp(0),
        key: None,
        value: Some(vec![0; 1 << 20].into()),
        headers: Vec::new(),
    };
    let rows = Rows::from_records(&[big]).expect("small");
    let copies = |count| Output { source: Some(vec![0; count]), ..unchanged() };
    let times = 1 + MOST_BYTES / (1 << 20);
    assert_eq!(answer(&rows, 0..1, copies(times), &everything()).expect("64 MiB more").rows.len(), times);
    assert!(answer(&rows, 0..1, copies(times + 1), &everything()).expect_err("65 MiB more").contains("the most is"));
    assert!(answer(&rows, 0..1, copies(MOST_ROWS + 1), &everything()).expect_err("rows").contains("the most is"));
}

/// An answer that names each of these headers, `null` all of them, for each row.
fn adding(names: Column, rows: &[Vec<u32>]) -> HeaderColumn {
    let name_indexes = rows.concat();
    let values = column(&vec![None; name_indexes.len()]);
    let row_ends = rows.iter().scan(0, |end, row| {
        *end += row.len() as u32;
        Some(*end)
    });
    HeaderColumn { row_ends: Some(row_ends.collect()), names, name_indexes, values }
}

#[test]
fn one_row_cannot_have_more_bytes_of_headers_than_an_answer() {
    let name = vec![b'n'; 1 << 20];
    // A terabyte, and what is written of it is the least that shows that it is too much.
    let add = adding(column(&[Some(&name)]), &[vec![0], vec![0; 1 << 20], vec![]]);
    let edit = HeaderEdit { remove: Vec::new(), add: Some(add) };
    let said = taken(Output { headers: Some(edit), ..unchanged() }).expect_err("a terabyte");
    assert!(said.starts_with("the headers are more than "), "{said}");
    // Three times as much, said once.
    let values = column(&vec![None; 3 << 20]);
    let names = column(&[Some(&name)]);
    let add = Some(HeaderColumn { row_ends: None, names, name_indexes: vec![0; 1 << 20], values });
    let output = Output { headers: Some(HeaderEdit { remove: Vec::new(), add }), ..unchanged() };
    assert!(taken(output).expect_err("three terabytes").starts_with("the headers are more than "));
}

#[test]
fn a_record_larger_than_an_answer_may_add_can_pass() {
    let value = Some(vec![0; MOST_BYTES + 1].into());
    let big = Record { offset: 0, timestamp: Timestamp(0), key: None, value, headers: Vec::new() };
    let rows = Rows::from_records(&[big]).expect("below 4 GiB");
    let headers = Some(HeaderEdit { remove: Vec::new(), add: Some(adding(column(&[Some(b"n")]), &[vec![0]])) });
    let answer = answer(&rows, 0..1, Output { headers, ..unchanged() }, &everything()).expect("a header more");
    assert_eq!(answer.rows.rows()[0].headers.count, 1);
}

#[test]
fn what_an_answer_costs_to_be_understood_is_bounded() {
    let headers = (0..100_000).map(|_| (Bytes::from_static(b"\xff"), None)).collect();
    let record = Record { offset: 0, timestamp: Timestamp(0), key: None, value: None, headers };
    let rows = Rows::from_records(&[record]).expect("small");
    let refused = |source: Vec<u32>, edit| {
        let output = Output { source: Some(source), headers: Some(edit), ..unchanged() };
        answer(&rows, 0..1, output, &everything()).expect_err("too much")
    };
    let said = "it takes away, or names, too many headers of rows that have too many";
    let remove = (0..200).map(|_| Removal { name: Some(b"x".to_vec()), rows: None }).collect();
    assert_eq!(refused(vec![0; 1000], HeaderEdit { remove, add: None }), said);
    let add = adding(column(&[Some(b"\xff")]), &[vec![0; 10_000]]);
    assert_eq!(refused(vec![0], HeaderEdit { remove: Vec::new(), add: Some(add) }), said);
}

#[test]
fn a_dictionary_has_no_more_names_than_can_be_meant() {
    let named = |cells: usize, headers: usize| {
        let names = Column { ends: vec![0; cells], nulls: Vec::new(), data: Vec::new() };
        let add = adding(names, &[vec![0; headers], vec![], vec![]]);
        let edit = HeaderEdit { remove: Vec::new(), add: Some(add) };
        taken(Output { headers: Some(edit), ..unchanged() })
    };
    let _ = named(MOST_NAMES, 1).expect("as many as may be");
    let said = named(MOST_NAMES + 1, 1).expect_err("one too many");
    assert_eq!(said, "`header names` has 1048577 cells, the most is 1048576");
    let _ = named(MOST_NAMES + 1, MOST_NAMES + 1).expect("each may be another header's");
}

#[test]
fn routes_are_looked_up_in_time_that_is_bounded() {
    let names: Vec<_> = (0..MOST_TARGETS).map(|number| format!("topic-{number}")).collect();
    let plan = Plan { targets: Some(names.clone()), ..everything() };
    let routed = |names| Output { topics: Some(Route { names, indexes: vec![1; 3] }), ..unchanged() };
    let _ = taken_by(&plan, routed(names.clone())).expect("all are declared");
    let said = taken_by(&plan, routed([names, vec!["one".to_owned()]].concat())).expect_err("too many");
    assert_eq!(said, "`topics` has 10001 names, the most is 10000");
}

#[test]
fn what_a_plugin_says_of_itself_must_not_contradict_itself() {
    let keeps = |from, until| Plan { keeps: Window { from, until }, ..everything() };
    let targets = |targets: &[&str]| {
        let targets = Some(targets.iter().map(|name| (*name).to_owned()).collect());
        Plan { targets, ..everything() }
    };
    for sound in [everything(), keeps(Some(1), Some(2)), keeps(None, Some(0)), targets(&["a", "b.c"]), targets(&[])] {
        assert_eq!(check_plan(&sound), Ok(()));
    }
    let without = |touch, plan: Plan| Plan { touches: Touches::all() ^ touch, ..plan };
    assert_eq!(check_plan(&without(Touches::TOPICS, targets(&[]))), Ok(()), "it never routes, and says so");
    let many = Plan { targets: Some(vec!["a".to_owned(); MOST_TARGETS + 1]), ..everything() };
    for (plan, said) in [
        (without(Touches::DROPS, keeps(Some(1), None)), "`keeps` has a bound, and `touches` no `drops`"),
        (without(Touches::TOPICS, targets(&["a"])), "`targets` has names, and `touches` no `topics`"),
        (keeps(Some(5), Some(5)), "`keeps` is from 5 until 5, which is nothing"),
        (targets(&["a", "\u{1b}[2J"]), "` [2J` cannot be a topic's name"),
        (many, "`targets` has 10001 names, the most is 10000"),
    ] {
        assert_eq!(check_plan(&plan).expect_err(said), said);
    }
}

#[test]
fn times_that_a_plugin_set_are_not_the_brokers() {
    let mut rows = three();
    rows.is_log_append_time = true;
    let is_brokers = |timestamps| {
        let output = Output { timestamps, ..unchanged() };
        answer(&rows, 0..3, output, &everything()).expect("right").rows.is_log_append_time
    };
    assert!(is_brokers(None));
    assert!(!is_brokers(Some(vec![1, 2, 3])));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn columns_hold_the_records_and_give_them_back(records in records()) {
        let rows = Rows::from_records(&records).expect("small");
        let sent = columns(&partition(), &rows, 0..records.len(), Columns::all());
        // The columns that were sent, as an answer that replaces everything by itself.
        let remove = vec![Removal { name: None, rows: None }];
        let output = Output {
            keys: sent.keys.map(|cells| Patch { rows: None, cells }),
            values: sent.values.map(|cells| Patch { rows: None, cells }),
            timestamps: Some(sent.timestamps),
            headers: Some(HeaderEdit { remove, add: sent.headers }),
            ..unchanged()
        };
        let answer = answer(&rows, 0..records.len(), output, &everything()).expect("right");
        let read: Vec<_> = answer.rows.rows().iter().map(|row| answer.rows.record(row)).collect();
        prop_assert_eq!(read, records);
    }

    #[test]
    fn no_answer_makes_it_panic(
        ends in prop::collection::vec(0_u32..8, 0..5),
        nulls in prop::collection::vec(0_u32..5, 0..3),
        data in prop::collection::vec(any::<u8>(), 0..8),
        numbers in prop::collection::vec(0_u32..5, 0..5),
        which in 0..6,
    ) {
        let cells = || Column { ends: ends.clone(), nulls: nulls.clone(), data: data.clone() };
        let patch = |rows| Some(Patch { rows, cells: cells() });
        let removal = Removal { name: Some(data.clone()), rows: Some(numbers.clone()) };
        let add = |names, values| {
            // Ends of nothing stand for rows that are alike.
            let row_ends = Some(ends.clone()).filter(|ends| !ends.is_empty());
            Some(HeaderColumn { row_ends, names, name_indexes: numbers.clone(), values })
        };
        let headers = |remove, add| Some(HeaderEdit { remove, add });
        let output = match which {
            0 => Output { source: Some(numbers.clone()), values: patch(None), ..unchanged() },
            1 => Output { values: patch(Some(numbers.clone())), ..unchanged() },
            2 => Output { headers: headers(vec![removal], None), ..unchanged() },
            3 => Output { headers: headers(vec![], add(cells(), cells())), ..unchanged() },
            4 => Output { headers: headers(vec![removal], add(column(&[Some(b"n")]), cells())), ..unchanged() },
            _ => Output { topics: Some(Route { names: vec!["t".into()], indexes: numbers.clone() }), ..unchanged() },
        };
        if let Ok(answer) = answer(&three(), 0..3, output, &everything()) {
            for row in answer.rows.rows() {
                let _ = answer.rows.record(row);
            }
        }
    }
}
