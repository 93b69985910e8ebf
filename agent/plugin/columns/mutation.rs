//! The mutation test of the decoder of answers: what it accepts, and what it makes of that, is what the contract says.

mod model;

use bytes::Bytes;
use fastrand::Rng;

use self::model::{Meant, is_plan, meant};
use super::super::wit::{HeaderEdit, Removal, Window};
use super::headers::MOST_NAMES;
use super::*;
use crate::batch::records::Record;
use crate::mutation::{self, Tally, Wanted, piece, strange};
use crate::record::TopicId;

/// How a case may end: every way in which the decoder can refuse, and that it does not.
const WANTED: Wanted = &[
    "rows are made",
    "no row is made",
    "rows are routed",
    "`keeps` has a bound, and `touches` no `drops`",
    "`keeps` is from",
    "`targets` has names, and `touches` no `topics`",
    "cannot be a topic's name",
    "is not among its `targets`",
    "it does `drops`",
    "it does `copies`",
    "it does `keys`",
    "it does `values`",
    "it does `headers`",
    "it does `timestamps`",
    "it does `topics`",
    "it does `partitions`",
    "`source` names record",
    "`source` must not descend",
    "outside the window that it declared",
    "`timestamps` has -",
    "`timestamps` has 0 cells",
    "`partitions` has -",
    "`partitions` has 0 cells",
    "`topics` has 0 cells",
    "`topics` picks name",
    "`keys` has",
    "`values` has",
    "`keys`: ends must not descend",
    "`keys`: ends reach",
    "`keys`: nulls must ascend",
    "`keys`: nulls name",
    "`keys`: rows must ascend",
    "`keys`: rows name",
    "is null and has bytes",
    "`remove`: rows must ascend",
    "`remove`: rows name",
    "`remove` has",
    "`header names`: ends",
    "`header values`: ends",
    "the name of headers, cell",
    "`headers` has",
    "`headers`: row-ends must not descend",
    "`headers`: row-ends reach",
    "headers have",
    "`name-indexes` picks name",
    "is not UTF-8",
];

#[test]
fn no_answer_breaks_the_decoder_or_means_what_the_contract_does_not_say() {
    let test = concat!(module_path!(), "::no_answer_breaks_the_decoder_or_means_what_the_contract_does_not_say");
    mutation::run(test, WANTED, || {
        large();
        |random: &mut Rng, tally: &mut Tally| case(random, tally)
    });
}

fn one_in(random: &mut Rng, times: u32) -> bool {
    random.u32(..times) == 0
}

fn bytes(random: &mut Rng) -> Vec<u8> {
    let any = random.bool();
    (0..random.usize(..12)).map(|_| if any { random.u8(..) } else { random.u8(b'a'..=b'f') }).collect()
}

/// A name of a header; few, so that names meet.
fn name(random: &mut Rng) -> Vec<u8> {
    const NAMES: [&[u8]; 6] = [b"trace", b"x", b"", b"\xff\xfe", b"\xc3", "größe".as_bytes()];
    NAMES[random.usize(..NAMES.len())].to_vec()
}

fn target(random: &mut Rng) -> String {
    ["orders", "a.b", "_c-1", "payments"][random.usize(..4)].to_owned()
}

fn record(random: &mut Rng, offset: i64) -> Record {
    let cell = |random: &mut Rng| (!one_in(random, 4)).then(|| Bytes::from(bytes(random)));
    let header = |random: &mut Rng| (Bytes::from(name(random)), cell(random));
    let timestamp = Timestamp(if one_in(random, 5) { strange(random) } else { random.i64(990..1010) });
    let headers = (0..random.usize(..4)).map(|_| header(random)).collect();
    Record { offset, timestamp, key: cell(random), value: cell(random), headers }
}

/// Numbers of `below`, ascending.
fn some(random: &mut Rng, below: usize) -> Vec<u32> {
    (0..below as u32).filter(|_| random.bool()).collect()
}

fn column(random: &mut Rng, cells: usize, cell: impl Fn(&mut Rng) -> Option<Vec<u8>>) -> Column {
    let mut column = Cells::default();
    (0..cells).for_each(|_| column.push(cell(random).as_deref()));
    column.0
}

fn any_cell(random: &mut Rng) -> Option<Vec<u8>> {
    random.bool().then(|| bytes(random))
}

fn patch(random: &mut Rng, rows: usize) -> Patch {
    let chosen = random.bool().then(|| some(random, rows));
    let count = chosen.as_ref().map_or(rows, Vec::len);
    Patch { rows: chosen, cells: column(random, count, any_cell) }
}

fn header_edit(random: &mut Rng, rows: usize) -> HeaderEdit {
    let removal = |random: &mut Rng| Removal {
        name: random.bool().then(|| name(random)),
        rows: random.bool().then(|| some(random, rows)),
    };
    let remove = (0..random.usize(..3)).map(|_| removal(random)).collect();
    let add = random.bool().then(|| {
        let names = random.usize(1..4);
        let names_of_row =
            |random: &mut Rng| -> Vec<u32> { (0..random.usize(..3)).map(|_| random.u32(..names as u32)).collect() };
        let (mut row_ends, mut name_indexes) = (None, names_of_row(random));
        let mut headers = name_indexes.len() * rows;
        if random.bool() {
            let each: Vec<_> = (0..rows).map(|_| names_of_row(random)).collect();
            row_ends = Some(ends_of(&each));
            name_indexes = each.concat();
            headers = name_indexes.len();
        }
        let names = column(random, names, |random| (!one_in(random, 200)).then(|| name(random)));
        HeaderColumn { row_ends, names, name_indexes, values: column(random, headers, any_cell) }
    });
    HeaderEdit { remove, add }
}

/// Where each of these lists ends, one after the other.
fn ends_of(lists: &[Vec<u32>]) -> Vec<u32> {
    let ends = lists.iter().scan(0, |end, list| {
        *end += list.len() as u32;
        Some(*end)
    });
    ends.collect()
}

/// An answer as a plugin gives it that holds to the contract (but for names of headers that are null or no text).
fn sound(random: &mut Rng, sent: usize) -> Output {
    let source = random.bool().then(|| {
        let mut source: Vec<u32> = (0..random.usize(..6)).map(|_| random.u32(..sent as u32)).collect();
        source.sort_unstable();
        source
    });
    let rows = source.as_ref().map_or(sent, Vec::len);
    let topics = one_in(random, 3).then(|| {
        let names: Vec<_> = (0..random.usize(..4)).map(|_| target(random)).collect();
        Route { indexes: (0..rows).map(|_| random.u32(..=names.len() as u32)).collect(), names }
    });
    Output {
        topics,
        partitions: one_in(random, 3).then(|| (0..rows).map(|_| random.i32(-1..5)).collect()),
        timestamps: one_in(random, 3).then(|| (0..rows).map(|_| random.i64(0..2000)).collect()),
        keys: one_in(random, 3).then(|| patch(random, rows)),
        values: one_in(random, 3).then(|| patch(random, rows)),
        headers: one_in(random, 2).then(|| header_edit(random, rows)),
        source,
    }
}

fn plan(random: &mut Rng) -> Plan {
    let mut touches = Touches::all();
    if one_in(random, 4) {
        touches ^= [
            Touches::DROPS,
            Touches::COPIES,
            Touches::KEYS,
            Touches::VALUES,
            Touches::HEADERS,
            Touches::TIMESTAMPS,
            Touches::TOPICS,
            Touches::PARTITIONS,
        ][random.usize(..8)];
    }
    let targets = one_in(random, 3).then(|| {
        let mut targets: Vec<_> = (0..random.usize(..5)).map(|_| target(random)).collect();
        if one_in(random, 8) {
            targets.push(strange_name(random));
        }
        targets
    });
    let mut bound = || one_in(random, 6).then(|| if random.bool() { strange(random) } else { random.i64(980..1020) });
    Plan { needs: Columns::all(), touches, targets, keeps: Window { from: bound(), until: bound() }, pure: true }
}

fn strange_name(random: &mut Rng) -> String {
    match random.u8(..6) {
        0 => String::new(),
        1 => ".".repeat(random.usize(1..4)),
        2 => "n".repeat(random.usize(248..252)),
        3 => "größe\u{202e}\u{1b}[2J\n".to_owned(),
        4 => "a/b c".to_owned(),
        _ => String::from_utf8_lossy(&bytes(random)).into_owned(),
    }
}

/// A list of an answer.
enum List<'a> {
    Numbers(&'a mut Vec<u32>),
    Partitions(&'a mut Vec<i32>),
    Times(&'a mut Vec<i64>),
    Names(&'a mut Vec<String>),
    Bytes(&'a mut Vec<u8>),
    Removals(&'a mut Vec<Removal>),
}

fn lists_of(column: &mut Column) -> [List<'_>; 3] {
    [List::Numbers(&mut column.ends), List::Numbers(&mut column.nulls), List::Bytes(&mut column.data)]
}

/// Returns every list of an answer; that of removals, or those in them.
fn lists(output: &mut Output, in_removals: bool) -> Vec<List<'_>> {
    let mut lists = Vec::new();
    lists.extend(output.source.as_mut().map(List::Numbers));
    lists.extend(output.partitions.as_mut().map(List::Partitions));
    lists.extend(output.timestamps.as_mut().map(List::Times));
    if let Some(route) = &mut output.topics {
        lists.extend([List::Names(&mut route.names), List::Numbers(&mut route.indexes)]);
    }
    for patch in [&mut output.keys, &mut output.values].into_iter().flatten() {
        lists.extend(patch.rows.as_mut().map(List::Numbers));
        lists.extend(lists_of(&mut patch.cells));
    }
    let Some(edit) = &mut output.headers else { return lists };
    if let Some(add) = &mut edit.add {
        lists.extend(add.row_ends.as_mut().map(List::Numbers));
        lists.push(List::Numbers(&mut add.name_indexes));
        lists.extend(lists_of(&mut add.names));
        lists.extend(lists_of(&mut add.values));
    }
    if in_removals {
        for removal in &mut edit.remove {
            lists.extend(removal.rows.as_mut().map(List::Numbers));
            lists.extend(removal.name.as_mut().map(List::Bytes));
        }
    } else {
        lists.push(List::Removals(&mut edit.remove));
    }
    lists
}

/// Changes one thing in an answer.
fn mutate(random: &mut Rng, output: &mut Output) {
    if one_in(random, 12) {
        return forget(random, output);
    }
    let mut lists = lists(output, random.bool());
    if lists.is_empty() {
        return;
    }
    let chosen = random.usize(..lists.len());
    match &mut lists[chosen] {
        List::Numbers(list) => change(random, list, |random| strange(random) as u32),
        List::Partitions(list) => change(random, list, |random| strange(random) as i32),
        List::Times(list) => change(random, list, strange),
        List::Names(list) => change(random, list, strange_name),
        List::Bytes(list) => mutation::mutate(random, list),
        List::Removals(list) => {
            let again: Vec<_> = list.iter().cycle().take(random.usize(..600) * list.len().min(1)).cloned().collect();
            list.extend(again);
        }
    }
}

/// Leaves a part of an answer out.
fn forget(random: &mut Rng, output: &mut Output) {
    let mut add = output.headers.as_mut().and_then(|edit| edit.add.as_mut());
    match random.u8(..8) {
        7 => add.iter_mut().for_each(|add| add.row_ends = None),
        0 => output.source = None,
        1 => output.partitions = None,
        2 => output.timestamps = None,
        3 => output.topics = None,
        4 => output.keys = None,
        5 => output.values = None,
        _ => output.headers = None,
    }
}

fn change<T: Clone + Ord>(random: &mut Rng, list: &mut Vec<T>, strange: impl Fn(&mut Rng) -> T) {
    let range = piece(random, list.len());
    match random.u8(..10) {
        0 | 1 if !list.is_empty() => {
            let at = random.usize(..list.len());
            list[at] = strange(random);
        }
        2 if !list.is_empty() => {
            let (a, b) = (random.usize(..list.len()), random.usize(..list.len()));
            list.swap(a, b);
        }
        3 => list.push(strange(random)),
        4 => drop(list.pop()),
        5 => drop(list.drain(range)),
        6 => {
            let copy = list[range].to_vec();
            let at = random.usize(..=list.len());
            drop(list.splice(at..at, copy));
        }
        7 => list.clear(),
        8 => list.sort_unstable(),
        _ => {
            // The next of a list of numbers, most of the times.
            let copy = list.last().cloned();
            list.extend(copy);
        }
    }
}

fn case(random: &mut Rng, tally: &mut Tally) {
    let mut offset = random.i64(0..50);
    let records: Vec<_> = (0..random.usize(1..9))
        .map(|_| {
            offset += random.i64(1..4);
            record(random, offset)
        })
        .collect();
    let mut rows = Rows::from_records(&records).expect("small");
    rows.is_log_append_time = random.bool();
    let start = random.usize(..records.len());
    let sent = start..random.usize(start + 1..=records.len());
    let (plan, mut output) = (plan(random), sound(random, sent.len()));
    for _ in 0..random.u8(..4) {
        mutate(random, &mut output);
    }
    let told = check_plan(&plan);
    assert_eq!(told.is_ok(), is_plan(&plan), "{plan:?}: {told:?}");
    if let Err(why) = told {
        return tally.note(&why);
    }
    let is_stamped = output.timestamps.is_some();
    let meant = meant(&records[sent.clone()], &output, &plan);
    let shown = format!("{sent:?} of {records:?}\n{plan:?}\n{output:?}");
    match (answer(&rows, sent, output, &plan), meant) {
        (Ok(answer), Some(meant)) => {
            judge(&answer, meant, &shown, tally);
            assert_eq!(answer.rows.is_log_append_time, rows.is_log_append_time && !is_stamped);
        }
        // What is bounded is not in the contract.
        (Err(why), meant) => {
            let is_bound = why.starts_with("`remove` has");
            assert!(meant.is_none() || is_bound, "refused, {why}: {shown}");
            tally.note(&why);
        }
        (Ok(answer), None) => panic!("accepted: {shown}\n{answer:?}"),
    }
}

/// Holds what was made of an answer to what it means.
fn judge(answer: &Answer, meant: Vec<Meant>, shown: &str, tally: &mut Tally) {
    let rows = &answer.rows;
    assert_eq!(rows.len(), meant.len(), "{shown}");
    assert!(answer.partitions.as_ref().is_none_or(|partitions| partitions.len() == rows.len()), "{shown}");
    assert!(rows.rows().is_sorted_by_key(|row| row.offset), "{shown}");
    for (at, meant) in meant.iter().enumerate() {
        let row = &rows.rows()[at];
        let made = Meant {
            record: rows.record(row),
            topic: answer.topics.as_ref().and_then(|topics| topics.of(at)).map(str::to_owned),
            partition: answer.partitions.as_ref().map_or(-1, |partitions| partitions[at]),
        };
        assert_eq!(&made, meant, "row {at} of {shown}");
        assert_eq!(row.headers.count as usize, made.record.headers.len(), "row {at} of {shown}");
    }
    tally.note(if meant.is_empty() { "no row is made" } else { "rows are made" });
    if meant.iter().any(|row| row.topic.is_some()) {
        tally.note("rows are routed");
    }
    again(rows, meant);
}

/// What was made can be sent to the next plugin; that one answers with all of it.
fn again(rows: &Rows, meant: Vec<Meant>) {
    let partition = Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 };
    let Batch { timestamps, keys, values, headers, offsets, .. } =
        columns(&partition, rows, 0..rows.len(), Columns::all());
    let patch = |cells: Option<Column>| cells.map(|cells| Patch { rows: None, cells });
    let output = Output {
        source: None,
        topics: None,
        partitions: None,
        timestamps: Some(timestamps),
        keys: patch(keys),
        values: patch(values),
        headers: Some(HeaderEdit { remove: vec![Removal { name: None, rows: None }], add: headers }),
    };
    let keeps = Window { from: None, until: None };
    let everything = Plan { needs: Columns::all(), touches: Touches::all(), targets: None, keeps, pure: true };
    let answer = answer(rows, 0..rows.len(), output, &everything).expect("our own columns");
    assert!(answer.rows.rows().iter().map(|row| row.offset).eq(offsets));
    for (row, meant) in answer.rows.rows().iter().zip(meant) {
        assert_eq!(answer.rows.record(row), meant.record);
    }
}

fn nothing_changed() -> Output {
    Output { source: None, topics: None, partitions: None, timestamps: None, keys: None, values: None, headers: None }
}

/// Answers that are as large as they may be, and larger.
fn large() {
    let keeps = Window { from: None, until: None };
    let plan = Plan { needs: Columns::all(), touches: Touches::all(), targets: None, keeps, pure: true };
    let value = Some(vec![7; 1 << 20].into());
    let record = Record { offset: 5, timestamp: Timestamp(1), key: None, value, headers: Vec::new() };
    let rows = Rows::from_records(&[record]).expect("small");
    let refused = |output: Output| answer(&rows, 0..1, output, &plan).expect_err("too large");
    let copies = |rows| Output { source: Some(vec![0; rows]), ..nothing_changed() };
    let times = MOST_BYTES >> 20;
    assert!(refused(copies(times + 2)).contains("the most is"));
    let made = answer(&rows, 0..1, copies(times + 1), &plan).expect("as large as may be");
    assert_eq!(made.rows.len(), times + 1);
    assert!(refused(copies(MOST_ROWS + 1)).contains("the most is"));
    let headers = |names: Vec<u8>, name_indexes: Vec<u32>, row_ends: Option<Vec<u32>>| {
        let values = Column { ends: vec![0; name_indexes.len()], nulls: Vec::new(), data: Vec::new() };
        let names = Column { ends: vec![names.len() as u32], nulls: Vec::new(), data: names };
        Some(HeaderEdit { remove: Vec::new(), add: Some(HeaderColumn { row_ends, names, name_indexes, values }) })
    };
    let long = headers(vec![b'n'; 1 << 20], vec![0; 1 << 20], Some(vec![1 << 20]));
    assert!(refused(Output { headers: long, ..nothing_changed() }).contains("the headers are more than"));
    let long = headers(vec![b'n'; 1 << 20], vec![0; 1 << 20], None);
    assert!(refused(Output { headers: long, ..nothing_changed() }).contains("the headers are more than"));
    let dictionary = |cells| {
        let names = Column { ends: vec![0; cells], nulls: Vec::new(), data: Vec::new() };
        let values = Column { ends: vec![0], nulls: Vec::new(), data: Vec::new() };
        let add = HeaderColumn { row_ends: None, names, name_indexes: vec![cells as u32 - 1], values };
        Output { headers: Some(HeaderEdit { remove: Vec::new(), add: Some(add) }), ..nothing_changed() }
    };
    for cells in [MOST_NAMES + 1, 15 << 20] {
        assert!(refused(dictionary(cells)).starts_with("`header names` has"));
    }
    let _ = answer(&rows, 0..1, dictionary(MOST_NAMES), &plan).expect("as many as may be");

    // As many rows as may be, each of which has something of everything.
    let least = Record { offset: 5, timestamp: Timestamp(1), key: None, value: None, headers: Vec::new() };
    let rows = Rows::from_records(&[least]).expect("small");
    let count = MOST_ROWS as u32;
    let cells = || Column { ends: (1..=count).collect(), nulls: Vec::new(), data: vec![b'c'; MOST_ROWS] };
    let name = vec![b'n'; MOST_BYTES / MOST_ROWS - 4];
    let output = Output {
        timestamps: Some(vec![9; MOST_ROWS]),
        partitions: Some(vec![1; MOST_ROWS]),
        topics: Some(Route { names: vec!["orders".to_owned()], indexes: vec![1; MOST_ROWS] }),
        keys: Some(Patch { rows: Some((0..count).collect()), cells: cells() }),
        values: Some(Patch { rows: None, cells: cells() }),
        headers: headers(name.clone(), vec![0; MOST_ROWS], Some((1..=count).collect())),
        ..copies(MOST_ROWS)
    };
    let answer = answer(&rows, 0..1, output, &plan).expect("as large as may be");
    let last = answer.rows.rows().last().expect("a million");
    let record = answer.rows.record(last);
    assert_eq!(
        (answer.rows.len(), record.timestamp, record.value),
        (MOST_ROWS, Timestamp(9), Some((&b"c"[..]).into()))
    );
    assert_eq!(record.headers, [(Bytes::from(name), Some(Bytes::new()))]);
}
