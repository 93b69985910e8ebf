//! Edits through columns against the same edits made one after the other on records.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::testing::{Host, Made, Sample, apply, batch, check, check_plan, check_stage, logged, random};
use crate::wit::{Batch, Columns, Plan, Touches, Window};
use crate::{Error, Output, Record, Result, Row, Settings, Transform, log};

#[derive(Clone, Debug)]
enum Edit {
    Key(Option<Vec<u8>>),
    Value(Option<Vec<u8>>),
    Add(String, Option<Vec<u8>>),
    Set(String, Option<Vec<u8>>),
    Remove(String),
    Clear,
    Time(i64),
    Topic(String),
    Partition(i32),
}

impl Edit {
    fn through_columns<'a>(&self, row: Row<'a>) -> Row<'a> {
        match self {
            Self::Key(key) => row.key(key.as_deref()),
            Self::Value(value) => row.value(value.as_deref()),
            Self::Add(name, value) => row.add_header(name, value.as_deref()),
            Self::Set(name, value) => row.set_header(name, value.as_deref()),
            Self::Remove(name) => row.remove_header(name),
            Self::Clear => row.clear_headers(),
            Self::Time(time) => row.timestamp(*time),
            Self::Topic(topic) => row.topic(topic),
            Self::Partition(partition) => row.partition(*partition),
        }
    }

    fn plainly(&self, row: &mut Made) {
        let add = |row: &mut Made, name: &String, value: &Option<Vec<u8>>| {
            row.headers.push((name.clone().into_bytes(), value.clone()));
        };
        match self {
            Self::Key(key) => row.key = key.clone(),
            Self::Value(value) => row.value = value.clone(),
            Self::Add(name, value) => add(row, name, value),
            Self::Set(name, value) => {
                row.headers.retain(|(known, _)| known != name.as_bytes());
                add(row, name, value);
            }
            Self::Remove(name) => row.headers.retain(|(known, _)| known != name.as_bytes()),
            Self::Clear => row.headers.clear(),
            Self::Time(time) => row.timestamp = *time,
            Self::Topic(topic) => row.topic = Some(topic.clone()),
            Self::Partition(partition) => row.partition = Some(*partition),
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let cell = || option::of(random::bytes());
    // Few names, so that they meet; and some that nobody has twice.
    let name = || prop_oneof![5 => "[abc]|region|", 1 => "\\PC{1,3}"];
    prop_oneof![
        cell().prop_map(Edit::Key),
        cell().prop_map(Edit::Value),
        (name(), cell()).prop_map(|(name, value)| Edit::Add(name, value)),
        (name(), cell()).prop_map(|(name, value)| Edit::Set(name, value)),
        name().prop_map(Edit::Remove),
        Just(Edit::Clear),
        (0i64..9).prop_map(Edit::Time),
        "[xyz]".prop_map(Edit::Topic),
        (0i32..9).prop_map(Edit::Partition),
    ]
}

fn anything() -> Plan {
    let keeps = Window { from: None, until: None };
    Plan { needs: Columns::all(), touches: Touches::all(), targets: None, keeps, pure: true }
}

proptest! {
    #[test]
    fn edits_through_columns_are_the_edits_of_records(
        records in random::samples().prop_flat_map(|samples| {
            let rows = vec(vec(vec(edit(), 0..5), 0..4), samples.len());
            (Just(samples), rows)
        }),
    ) {
        let (samples, scripts) = records;
        let batch = batch("orders", 3, &samples, Columns::all());
        let mut out = Output::new(&batch);
        let mut expected = Vec::new();
        for (index, rows) in (0..).zip(&scripts) {
            for edits in rows {
                let mut made = Made::unchanged(&samples[index as usize]);
                edits.iter().for_each(|edit| edit.plainly(&mut made));
                expected.push(made);
                edits.iter().fold(out.emit(Record::new(&batch, index)), |row, edit| edit.through_columns(row));
            }
        }
        let answer = out.finish();
        prop_assert_eq!(check(&anything(), &samples, &answer), Ok(()));
        prop_assert_eq!(apply(&samples, &answer), expected);
    }

    #[test]
    fn a_record_shows_what_went_in(samples in random::samples()) {
        let batch = batch("orders", 3, &samples, Columns::all());
        for (index, sample) in (0..).zip(&samples) {
            let record = Record::new(&batch, index);
            prop_assert_eq!((record.offset(), record.timestamp()), (sample.offset, sample.timestamp));
            prop_assert_eq!((record.key(), record.value()), (sample.key.as_deref(), sample.value.as_deref()));
            let headers = record.headers().map(|header| (header.name.to_vec(), header.value.map(<[u8]>::to_vec)));
            prop_assert_eq!(headers.collect::<Vec<_>>(), sample.headers.clone());
            for (name, _) in &sample.headers {
                let last = sample.headers.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.as_deref());
                prop_assert_eq!(record.header(name).map(|header| header.value), last);
            }
        }
    }
}

#[test]
fn what_the_headers_of_all_rows_have_alike_is_said_once() {
    let text = |at: i64| at.to_string();
    let samples: Vec<Sample> = (0..3).map(|at| Sample::new(at).header("a", text(at)).header("b", "x")).collect();
    let batch = batch("orders", 0, &samples, Columns::HEADERS);
    let sent = batch.headers.as_ref().expect("asked for");
    assert_eq!((&sent.row_ends, &sent.name_indexes[..]), (&None, &[0, 1][..]));
    let mut out = Output::new(&batch);
    for (index, sample) in (0..).zip(&samples) {
        let record = Record::new(&batch, index);
        let headers = record.headers().map(|header| (header.name.to_vec(), header.value.map(<[u8]>::to_vec)));
        assert_eq!(headers.collect::<Vec<_>>(), sample.headers);
        assert_eq!(record.header("a").and_then(|header| header.value), Some(text(sample.offset).as_bytes()));
        assert_eq!(record.header("c"), None);
        out.emit(record).set_header("c", Some(b"1")).add_header("a", None);
    }
    let mut answer = out.finish();
    assert_eq!(check(&anything(), &samples, &answer), Ok(()));
    for (made, sample) in apply(&samples, &answer).iter().zip(&samples) {
        let added = [(b"c".to_vec(), Some(b"1".to_vec())), (b"a".to_vec(), None)];
        assert_eq!(made.headers, [&sample.headers[..], &added].concat());
    }
    let add = answer.headers.as_mut().and_then(|edit| edit.add.as_mut()).expect("some are added");
    assert_eq!((&add.row_ends, &add.name_indexes[..]), (&None, &[0, 1][..]));
    add.name_indexes.push(0);
    assert_eq!(check(&anything(), &samples, &answer).expect_err("one more"), "header values: 6 for 9 headers");
}

/// Fails at a value `bad`, reads keys without asking at `key`, and routes without a word at `route`.
struct Careless;

impl Transform for Careless {
    fn new(_: &Settings) -> Result<Self> {
        Ok(Self)
    }

    fn needs(&self) -> Columns {
        Columns::VALUES
    }

    fn begin(&mut self, batch: &Batch) -> Result<()> {
        log::info(format!("{} records", batch.len()));
        Ok(())
    }

    fn record(&mut self, record: Record<'_>, out: &mut Output) -> Result<()> {
        match record.value() {
            Some(b"bad") => return Err(Error::new("it is bad")),
            Some(b"key") => drop(record.key()),
            Some(b"route") => drop(out.emit(record).topic("elsewhere")),
            _ => drop(out.emit(record)),
        }
        Ok(())
    }
}

fn careless(values: &[&str]) -> Result<Vec<Made>> {
    let samples: Vec<Sample> = values.iter().map(|value| Sample::new(0).value(value)).collect();
    Host::<Careless>::new(&[])?.apply("orders", 0, &samples)
}

#[test]
fn an_error_blames_its_record() {
    let error = careless(&["good", "bad"]).expect_err("one is bad");
    assert_eq!((error.message(), error.record(), error.is_retriable()), ("it is bad", Some(1), false));
}

#[test]
#[should_panic(expected = "return Columns::KEYS from `needs`")]
fn a_column_that_was_not_asked_for_cannot_be_read() {
    careless(&["key"]).ok();
}

#[test]
fn what_was_not_declared_is_refused() {
    let error = careless(&["route"]).expect_err("routing was not declared");
    assert_eq!(error.message(), "wrong answer: topics, which `touches` does not name");
}

#[test]
fn a_plan_that_contradicts_itself_is_refused() {
    let window = |from, until| Plan { keeps: Window { from, until }, ..anything() };
    let targets =
        |names: &[&str]| Plan { targets: Some(names.iter().map(|name| name.to_string()).collect()), ..anything() };
    for sound in [anything(), window(Some(1), Some(2)), window(None, Some(0)), targets(&["a.b"]), targets(&[])] {
        assert_eq!(check_plan(&sound), Ok(()));
    }
    let without = |touch, plan: Plan| Plan { touches: Touches::all() - touch, ..plan };
    for (plan, said) in [
        (without(Touches::DROPS, window(Some(1), None)), "`keeps` has a bound, and `touches` no `drops`"),
        (without(Touches::TOPICS, targets(&["a"])), "`targets` has names, and `touches` no `topics`"),
        (window(Some(5), Some(5)), "`keeps` ends before it begins"),
        (targets(&["a b"]), "`a b` cannot be a topic's name"),
        (targets(&[".."]), "`..` cannot be a topic's name"),
    ] {
        assert_eq!(check_plan(&plan).expect_err(said), said);
    }
}

#[test]
fn no_stage_takes_topics_that_are_not_known_beforehand() {
    assert!(check_stage(&anything()).expect_err("it may send rows anywhere").contains("no `targets` are named"));
    assert_eq!(check_stage(&Plan { targets: Some(Vec::new()), ..anything() }), Ok(()));
    assert_eq!(check_stage(&Plan { touches: Touches::all() - Touches::TOPICS, ..anything() }), Ok(()));
    struct Anywhere;
    impl Transform for Anywhere {
        fn new(_: &Settings) -> Result<Self> {
            Ok(Self)
        }

        fn touches(&self) -> Touches {
            Touches::TOPICS
        }

        fn targets(&self) -> Option<Vec<String>> {
            None
        }

        fn record(&mut self, _: Record<'_>, _: &mut Output) -> Result<()> {
            Ok(())
        }
    }
    assert!(Host::<Anywhere>::new(&[]).is_err());
}

#[test]
fn what_an_answer_costs_to_be_understood_is_bounded_as_by_the_agent() {
    let headers = (0..100_000).map(|_| (vec![0xff], None)).collect();
    let samples = [Sample { headers, ..Sample::new(0) }];
    let batch = batch("orders", 0, &samples, Columns::empty());
    let refused = |edit: &dyn Fn(Row<'_>)| {
        let mut out = Output::new(&batch);
        (0..1000).for_each(|_| edit(out.emit(Record::new(&batch, 0))));
        check(&anything(), &samples, &out.finish()).expect_err("too much")
    };
    let said = "it takes away, or names, too many headers of rows that have too many";
    assert_eq!(
        refused(&|row| {
            (0..16).fold(row, |row, name| row.remove_header(format!("x{name}")));
        }),
        said
    );
    assert_eq!(
        refused(&|row| {
            (0..10).fold(row, |row, _| row.add_header([0xff], None));
        }),
        said
    );
    let names = (0..10_001).map(|name| name.to_string());
    let mut out = Output::new(&batch);
    names.for_each(|name| {
        out.emit(Record::new(&batch, 0)).topic(&name);
    });
    let said = check(&anything(), &samples, &out.finish()).expect_err("too many topics");
    assert_eq!(said, "`topics` has 10001 names, the most is 10000");
}

/// Says in the key what it is told of time and headers.
struct Told;

impl Transform for Told {
    fn new(_: &Settings) -> Result<Self> {
        Ok(Self)
    }

    fn needs(&self) -> Columns {
        Columns::HEADERS
    }

    fn record(&mut self, record: Record<'_>, out: &mut Output) -> Result<()> {
        let names: Vec<_> = record.headers().map(|header| header.name.to_vec()).collect();
        let told = format!("{} {}", record.has_log_append_time(), String::from_utf8_lossy(&names.concat()));
        out.emit(record).key(Some(told.as_bytes()));
        Ok(())
    }
}

#[test]
fn both_times_and_both_forms_of_headers_can_be_sent() {
    let samples = [0, 1].map(|at| Sample::new(at).header("a", "1").header("b", "2"));
    let told = |host: Host<Told>| {
        let mut host = host;
        let made = host.apply("orders", 0, &samples).expect("it cannot fail");
        made.into_iter().map(|made| String::from_utf8(made.key.expect("a key")).expect("text")).collect::<Vec<_>>()
    };
    let host = || Host::<Told>::new(&[]).expect("no settings");
    assert_eq!(told(host()), ["false ab"; 2]);
    assert_eq!(told(host().with_spelled_headers()), ["false ab"; 2]);
    assert_eq!(told(host().with_log_append_time()), ["true ab"; 2]);
    let headers = batch("orders", 0, &samples, Columns::HEADERS).headers.expect("asked for");
    assert_eq!((&headers.row_ends, &headers.name_indexes[..]), (&None, &[0, 1][..]));
    let spelled = headers.spelled();
    assert_eq!((spelled.row_ends, &spelled.name_indexes[..]), (Some(vec![2, 4]), &[0, 1, 0, 1][..]));
}

/// Keeps a record whose value begins with a byte of the setting, and puts its last byte into the key.
struct Ends {
    head: u32,
}

impl Transform for Ends {
    fn new(settings: &Settings) -> Result<Self> {
        Ok(Self { head: settings.number("head")?.unwrap_or(2) })
    }

    fn value_head(&self) -> Option<u32> {
        Some(self.head)
    }

    fn record(&mut self, record: Record<'_>, out: &mut Output) -> Result<()> {
        let head = record.value_head();
        let last = match head {
            Some(head) if head.len() == self.head as usize => record.whole_value().unwrap_or_default(),
            head => head.unwrap_or_default().to_vec(),
        };
        let told = format!("{:?} {:?}", head.map(String::from_utf8_lossy), last.last().map(|byte| *byte as char));
        out.emit(record).key(Some(told.as_bytes()));
        Ok(())
    }
}

#[test]
fn how_a_value_begins_comes_and_the_whole_can_be_asked_for() {
    let samples = ["abc", "ab", "a", ""].map(|value| Sample::new(0).value(value));
    let samples = [&samples[..], &[Sample::new(4)]].concat();
    let mut host = Host::<Ends>::new(&[]).expect("no settings");
    assert_eq!(host.plan().needs, Columns::VALUES_ON_DEMAND);
    let made = host.apply("orders", 0, &samples).expect("it cannot fail");
    let told: Vec<_> =
        made.iter().map(|made| String::from_utf8_lossy(made.key.as_deref().unwrap_or_default())).collect();
    assert_eq!(
        told,
        ["Some(\"ab\") Some('c')", "Some(\"ab\") Some('b')", "Some(\"a\") Some('a')", "Some(\"\") None", "None None"]
    );
    assert_eq!(made[0].value, samples[0].value);
}

#[test]
fn an_answer_keeps_its_window_and_names_topics_that_can_be() {
    let samples = [4, 5, 7, 8].map(|time| Sample::new(time).timestamp(time));
    let wide = Plan { keeps: Window { from: Some(5), until: Some(8) }, ..anything() };
    let rows = |source: &[u32]| {
        let batch = batch("orders", 0, &samples, Columns::empty());
        let mut out = Output::new(&batch);
        for record in source {
            out.emit(Record::new(&batch, *record));
        }
        out.finish()
    };
    assert_eq!(check(&wide, &samples, &rows(&[1, 2])), Ok(()));
    assert_eq!(check(&wide, &samples, &rows(&[1])), Ok(()), "it may look at more than the time");
    for outside in [0, 3] {
        let said = check(&wide, &samples, &rows(&[outside])).expect_err("outside");
        assert!(said.ends_with("which is outside of `keeps`"), "{said}");
    }
    let exact = Plan { needs: Columns::empty(), touches: Touches::DROPS, ..wide };
    assert_eq!(check(&exact, &samples, &rows(&[1, 2])), Ok(()));
    assert!(check(&exact, &samples, &rows(&[1])).expect_err("dropped").contains("inside of `keeps` was dropped"));

    let batch = batch("orders", 0, &samples, Columns::empty());
    let mut out = Output::new(&batch);
    out.emit(Record::new(&batch, 0)).topic("no topic");
    let said = check(&anything(), &samples, &out.finish()).expect_err("a space");
    assert_eq!(said, "`no topic` cannot be a topic's name");
    let mut out = Output::new(&batch);
    for name in 0..257 {
        out.emit(Record::new(&batch, 0)).remove_header(name.to_string());
    }
    assert_eq!(
        check(&anything(), &samples, &out.finish()).expect_err("too many"),
        "removes headers 257 times, the most is 256"
    );
}

#[test]
fn what_is_logged_can_be_seen() {
    logged();
    careless(&["good"]).expect("it is good");
    assert_eq!(logged(), [(log::Level::Info, "1 records".to_owned())]);
}

#[test]
fn names_made_up_per_record_do_not_make_a_dictionary_slow() {
    let samples: Vec<Sample> = (0..20_000).map(Sample::new).collect();
    let batch = batch("orders", 0, &samples, Columns::empty());
    let mut out = Output::new(&batch);
    for index in 0..batch.len() {
        out.emit(Record::new(&batch, index)).set_header(format!("n-{index}"), None);
    }
    assert_eq!(out.finish().headers.map(|edit| edit.remove.len()), Some(20_000));
}
