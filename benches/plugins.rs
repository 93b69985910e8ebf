//! What each shipped plugin costs, against the same transform written natively ([`native`]).
//!
//! `cargo bench --bench plugins` has both transform the same batches of records in turn, in one process, after it has
//! checked that they make the same of them. There are three tables:
//! - Batches in, batches out, on one thread: to decode, transform and encode, without compression. A batch that is as it
//!   was keeps its bytes, and rows that go to several topics become a batch for each; that code is the same on both sides.
//! - The transform alone: decoded rows in, rows and where each goes out. It has no bound.
//! - A pipeline's stages with one worker, with compression, against the same on one thread.
//!
//! Figures are nanoseconds of the process's CPU a record, medians of the rounds. It fails when a bound is missed, or where
//! the two differ. `-- header` measures only what has that in its name.
//!
//! Batches are of 500 records; `BENCH_BATCH_RECORDS=150` makes them 16 KB of 100-byte records, as Kafka's own producer does
//! that never waits. The plugins are those that are committed, the limits the agent's defaults.
//!
//! Needs no broker, and an otherwise idle machine.
#![allow(missing_docs, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

mod native;

use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_backup::batch::records::rows::{Row, Rows};
use kafka_backup::batch::records::{Record, encode, encode_rows, template};
use kafka_backup::batch::transactions::OpenTransactions;
use kafka_backup::batch::{Compression, Header, walk};
use kafka_backup::plugin::columns::Topics;
use kafka_backup::plugin::{Instance, Limits, Plugin};
use kafka_backup::record::{Offset, Partition, Timestamp, TopicId};
use kafka_backup::stages::{OnError, Stage, Stages};
use native::Native;
use nix::time::{ClockId, clock_gettime};
use tokio::runtime::Builder;

/// What a plugin may cost, as a multiple of what the same costs natively.
const BOUND: f64 = 1.3;

/// Rounds of which the median counts, and the CPU that each side has in each.
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(20);

/// Bytes of all batches of a case: more than one core's caches hold next to what is made of them.
const ALL_BYTES: usize = 4 << 20;

/// Bytes of batches that go through a pipeline's stages at once.
const RUN_BYTES: usize = 1 << 20;

/// The time of the first record, and the span of the times of a batch.
const FIRST_MS: i64 = 1_763_805_600_000;
const SPAN_MS: i64 = 1_000;

/// Bytes of the values.
const SIZES: [(&str, usize); 2] = [("100 B", 100), ("1 KB", 1000)];

/// The headers that records have before they are transformed.
#[derive(Clone, Copy, PartialEq)]
enum Headers {
    None,
    /// Two of the producer's.
    Own,
    /// Those, and the injector's: records that were restored before.
    Injected,
}

/// What the values of records are: orders, whose field `customer.region` is looked for.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    /// It stands in the first 64 bytes, as identifiers mostly do.
    Early,
    /// With a space behind each colon and comma, as Python writes.
    Spaced,
    /// Behind everything else.
    Late,
    /// It is not there, nor what it would be in, so the document is read to its end.
    Missing,
}

struct Case {
    name: &'static str,
    plugin: &'static str,
    settings: &'static [(&'static str, &'static str)],
    headers: Headers,
    values: Values,
}

const fn case(
    name: &'static str,
    plugin: &'static str,
    headers: Headers,
    settings: &'static [(&'static str, &'static str)],
) -> Case {
    Case { name, plugin, settings, headers, values: Values::Early }
}

/// A case of records that are copied by a field of JSON.
const fn json(name: &'static str, values: Values) -> Case {
    Case { name, plugin: "restore-fanout", settings: COPIED_BY_JSON, headers: Headers::Own, values }
}

const COPIED_BY_JSON: &[(&str, &str)] =
    &[("by", "json"), ("field", "customer.region"), ("to.eu", "orders-eu"), ("to.us", "orders-us")];

const REGIONS: [&str; 4] = ["eu", "us", "asia", "africa"];

const CASES: [Case; 13] = [
    case("header-injector, no headers before", "header-injector", Headers::None, &[]),
    case("header-injector, two headers before", "header-injector", Headers::Own, &[]),
    case("header-injector, replacing its own", "header-injector", Headers::Injected, &[]),
    case("pitr-filter, all kept", "pitr-filter", Headers::Own, &[("from", "0"), ("until", "4000000000000")]),
    case("pitr-filter, half kept", "pitr-filter", Headers::Own, &[("until", "1763805600500")]),
    case(
        "restore-fanout, all copied by topic",
        "restore-fanout",
        Headers::Own,
        &[("by", "topic"), ("to.orders", "orders-restored")],
    ),
    case(
        "restore-fanout, copied by key",
        "restore-fanout",
        Headers::Own,
        &[("by", "key"), ("to.tenant-1", "one"), ("to.tenant-2", "one"), ("to.tenant-2", "two")],
    ),
    case(
        "restore-fanout, moved by header",
        "restore-fanout",
        Headers::Own,
        &[
            ("by", "header"),
            ("header", "region"),
            ("mode", "move"),
            ("to.eu", "orders-eu"),
            ("to.us", "orders-us"),
            ("otherwise", "orders-rest"),
        ],
    ),
    json("restore-fanout, copied by JSON", Values::Early),
    json("restore-fanout, copied by JSON with spaces", Values::Spaced),
    json("restore-fanout, copied by JSON's last field", Values::Late),
    json("restore-fanout, copied by a field that JSON lacks", Values::Missing),
    case(
        "restore-fanout, moved by JSON or dropped",
        "restore-fanout",
        Headers::Own,
        &[
            ("by", "json"),
            ("field", "customer.region"),
            ("mode", "move"),
            ("unmatched", "drop"),
            ("to.eu", "orders-eu"),
            ("to.eu", "audit"),
        ],
    ),
];

const CODECS: [(&str, Compression); 3] =
    [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)];

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        bench();
    } else {
        // `cargo test --all-targets` runs benches too, and means a quick look.
        println!("run it as `cargo bench --bench plugins`");
    }
}

fn bench() {
    let each = std::env::var("BENCH_BATCH_RECORDS").map_or(500, |text| text.parse().expect("a number of records"));
    println!("batches of {each} records; nanoseconds of CPU a record, medians of {ROUNDS} rounds");
    // What follows `--` and is no flag chooses among the lines.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let cases = || CASES.iter().filter(|case| is_wanted(case.name));
    let mut kept = true;
    head("decode, transform, encode");
    for case in cases() {
        for (size, value_bytes) in SIZES {
            kept &= case.whole(size, &batches((case.headers, case.values), value_bytes, each));
        }
    }
    head("the transform alone");
    for case in cases() {
        for (size, value_bytes) in SIZES {
            case.alone(size, &batches((case.headers, case.values), value_bytes, each));
        }
    }
    head("decode, inject, encode, compress, through a pipeline's stages");
    for (codec, compression) in CODECS.into_iter().filter(|(codec, _)| is_wanted(codec)) {
        for (size, value_bytes) in SIZES {
            kept &= chain(codec, compression, size, &batches((Headers::Own, Values::Early), value_bytes, each));
        }
    }
    if !kept {
        println!("MISSED");
        std::process::exit(1);
    }
}

impl Case {
    /// Measures what batches cost that become batches; returns whether the bound is kept.
    fn whole(&self, size: &str, batches: &[Vec<Record>]) -> bool {
        let partition = partition();
        let (mut instance, native) = (start(self.plugin, self.settings), Native::new(self.plugin, self.settings));
        let all: Vec<Bytes> = batches.iter().map(|batch| encoded(batch, Compression::None)).collect();
        let targets = instance.plan().targets.clone().unwrap_or_default();
        let mut by_plugin = |batch: &Bytes| {
            let (header, rows) = decoded(batch);
            let mut made = rows.derive().finish(Vec::new());
            // The topics that each call has chosen, and its first row.
            let mut calls: Vec<(usize, Topics)> = Vec::new();
            let taken = instance.apply(&partition, &rows, |_, answer| {
                calls.extend(answer.topics.map(|topics| (made.len(), topics)));
                made.append(answer.rows);
                Ok(())
            });
            taken.expect("the plugin answers");
            match &calls[..] {
                [] => vec![written(batch, &header, &rows, &made)],
                [(0, topics)] => routed(&header, &made, |at| topics.of(at)),
                calls => routed(&header, &made, |at| {
                    let call = calls.partition_point(|(first, _)| *first <= at).checked_sub(1)?;
                    let (first, topics) = &calls[call];
                    let to = topics.of(at - first)?;
                    targets.iter().find(|known| *known == to).map(String::as_str)
                }),
            }
        };
        let natively = |batch: &Bytes| {
            let (header, rows) = decoded(batch);
            let made = native.apply(&partition, &rows);
            match &made.topics {
                Some(topics) => routed(&header, &made.rows, |at| native.topic(topics[at])),
                None => vec![written(batch, &header, &rows, &made.rows)],
            }
        };
        for batch in &all {
            same(self.name, &by_plugin(batch), &natively(batch));
        }
        let plugin = || all.iter().for_each(|batch| drop(black_box(by_plugin(batch))));
        let native = || all.iter().for_each(|batch| drop(black_box(natively(batch))));
        print(self.name, size, measure(records(batches), plugin, native), Some(BOUND))
    }

    /// Measures what rows cost that become rows.
    fn alone(&self, size: &str, batches: &[Vec<Record>]) {
        let partition = partition();
        let (mut instance, native) = (start(self.plugin, self.settings), Native::new(self.plugin, self.settings));
        let all: Vec<Rows> = batches.iter().map(|batch| decoded(&encoded(batch, Compression::None)).1).collect();
        for rows in &all {
            self.check(&mut instance, &native, rows);
        }
        let plugin = || {
            for rows in &all {
                let taken = instance.apply(&partition, rows, |_, answer| {
                    drop(black_box(answer));
                    Ok(())
                });
                taken.expect("the plugin answers");
            }
        };
        let native = || {
            for rows in &all {
                drop(black_box(native.apply(&partition, rows)));
            }
        };
        print(self.name, size, measure(records(batches), plugin, native), None);
    }

    /// Ends the bench where plugin and native code make different things of rows.
    fn check(&self, instance: &mut Instance, native: &Native, rows: &Rows) {
        let mut by_plugin = Vec::new();
        let taken = instance.apply(&partition(), rows, |_, answer| {
            assert!(answer.partitions.is_none(), "no plugin here chooses partitions");
            for (at, row) in answer.rows.rows().iter().enumerate() {
                let topic = answer.topics.as_ref().and_then(|topics| topics.of(at));
                by_plugin.push((answer.rows.record(row), topic.map(str::to_owned)));
            }
            Ok(())
        });
        taken.expect("the plugin answers");
        let made = native.apply(&partition(), rows);
        let topic = |at: usize| native.topic(*made.topics.as_ref()?.get(at)?).map(str::to_owned);
        let natively = made.rows.rows().iter().enumerate().map(|(at, row)| (made.rows.record(row), topic(at)));
        let natively: Vec<_> = natively.collect();
        same(self.name, &by_plugin, &natively);
    }
}

/// Writes rows as the batch that they came in; one that is as it was keeps its bytes.
fn written(batch: &Bytes, header: &Header, rows: &Rows, made: &Rows) -> Bytes {
    if made.rows() == rows.rows() {
        return batch.clone();
    }
    encode_rows(header, made, Compression::None).expect("they fit")
}

/// Writes rows as a batch for each topic that they go to, in the order in which these first come.
fn routed<'a>(header: &Header, made: &Rows, topic: impl Fn(usize) -> Option<&'a str>) -> Vec<Bytes> {
    let mut groups: Vec<(Option<&str>, Vec<Row>)> = Vec::new();
    // A topic's name is always the same one of the same rows: where it lies is looked at, not what it says.
    let is_same = |left: Option<&str>, right: Option<&str>| left.map(str::as_ptr) == right.map(str::as_ptr);
    for (at, row) in made.rows().iter().enumerate() {
        let to = topic(at);
        match groups.iter_mut().find(|(known, _)| is_same(*known, to)) {
            Some((_, rows)) => rows.push(*row),
            None => {
                let mut rows = Vec::with_capacity(made.len());
                rows.push(*row);
                groups.push((to, rows));
            }
        }
    }
    let encode = |(_, rows)| encode_rows(header, &made.derive().finish(rows), Compression::None).expect("they fit");
    groups.into_iter().map(encode).collect()
}

/// Measures a pipeline's stage with one worker against one thread; returns whether the bound is kept.
fn chain(codec: &str, compression: Compression, size: &str, batches: &[Vec<Record>]) -> bool {
    let partition = partition();
    let limits = Limits::default();
    let stage = Stage { plugin: "header-injector".to_owned(), settings: Vec::new(), limits, on_error: OnError::Fail };
    let stages = Stages::start("bench", &[stage], 1).expect("a shipped plugin");
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    let runs = runs(batches, compression);
    let by_plugin = |run: &Bytes| {
        let (mut made, mut rest) = (Vec::new(), run.clone());
        while !rest.is_empty() {
            let passed = stages.pass(&partition, 1, rest, OpenTransactions::default(), &[]);
            let passed = runtime.block_on(passed).expect("the worker lives");
            assert!(passed.failure.is_none(), "{:?}", passed.failure);
            made.push(passed.bytes);
            rest = passed.rest;
        }
        made
    };
    let natively = |run: &Bytes| {
        let mut made = BytesMut::with_capacity(run.len() + run.len() / 2);
        for item in walk(run) {
            let (at, header) = item.expect("it was just encoded");
            let batch = run.slice(at..at + header.total_bytes);
            let rows = native::inject(&partition, &Rows::of(&header, &batch).expect("it was just encoded"));
            made.extend_from_slice(&encode_rows(&header, &rows, compression).expect("they fit"));
        }
        made.freeze()
    };
    for run in &runs {
        same(codec, &[by_plugin(run).concat()], &[natively(run).to_vec()]);
    }
    let plugin = || runs.iter().for_each(|run| drop(black_box(by_plugin(run))));
    let native = || runs.iter().for_each(|run| drop(black_box(natively(run))));
    print(codec, size, measure(records(batches), plugin, native), Some(BOUND))
}

/// Encodes batches and joins them to what an answer to a Fetch may have of one partition.
fn runs(batches: &[Vec<Record>], compression: Compression) -> Vec<Bytes> {
    let mut runs = vec![BytesMut::new()];
    for batch in batches {
        let batch = encoded(batch, compression);
        match runs.last_mut() {
            Some(run) if run.is_empty() || run.len() + batch.len() <= RUN_BYTES => run.extend_from_slice(&batch),
            _ => runs.push(BytesMut::from(&batch[..])),
        }
    }
    runs.into_iter().map(BytesMut::freeze).collect()
}

fn same<T: PartialEq + std::fmt::Debug>(name: &str, by_plugin: &[T], natively: &[T]) {
    if by_plugin == natively {
        return;
    }
    let at = by_plugin.iter().zip(natively).position(|(left, right)| left != right);
    let at = at.unwrap_or(by_plugin.len().min(natively.len()));
    eprintln!("{name}: row {at} is {:?} by the plugin and {:?} natively", by_plugin.get(at), natively.get(at));
    std::process::exit(1);
}

/// Prints the head of a table.
fn head(what: &str) {
    println!("\n| {what} | records | plugin | native | ratio | bound | |\n|---|---|---|---|---|---|---|");
}

/// Prints a line; returns whether the bound is kept, if there is one.
fn print(name: &str, size: &str, [plugin, native]: [f64; 2], bound: Option<f64>) -> bool {
    let ratio = plugin / native;
    let kept = bound.is_none_or(|bound| ratio <= bound);
    let (bound, verdict) = match bound {
        Some(bound) => (bound.to_string(), if kept { "kept" } else { "MISSED" }),
        None => ("none".to_owned(), ""),
    };
    println!("| {name} | {size} | {plugin:.1} | {native:.1} | {ratio:.2} | {bound} | {verdict} |");
    kept
}

/// Returns the nanoseconds a record of both, which take turns.
fn measure(records: usize, mut plugin: impl FnMut(), mut native: impl FnMut()) -> [f64; 2] {
    let mut sides: [&mut dyn FnMut(); 2] = [&mut plugin, &mut native];
    let passes = [0, 1].map(|side| passes(sides[side]));
    let mut costs = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        // Each follows the other as often as it goes first.
        for side in [round % 2, (round + 1) % 2] {
            let cost = cpu_of(passes[side], sides[side]);
            costs[side].push(cost.as_nanos() as f64 / (passes[side] * records) as f64);
        }
    }
    costs.map(|mut costs| {
        costs.sort_by(f64::total_cmp);
        costs[costs.len() / 2]
    })
}

/// Returns how many passes take a round.
fn passes(work: &mut dyn FnMut()) -> usize {
    let mut passes = 1;
    loop {
        let took = cpu_of(passes, work);
        if took >= ROUND {
            return passes;
        }
        passes = if took < ROUND / 4 { passes * 4 } else { passes + 1 + passes / 4 };
    }
}

/// Returns the CPU that passes take of this process: the stages have a thread of their own.
fn cpu_of(passes: usize, work: &mut dyn FnMut()) -> Duration {
    let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("the kernel counts"));
    let before = cpu();
    (0..passes).for_each(|_| work());
    cpu() - before
}

fn partition() -> Partition {
    Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 }
}

/// Starts a shipped plugin as a stage does.
fn start(plugin: &str, settings: &[(&str, &str)]) -> Instance {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("plugins/{plugin}/{plugin}.wasm"));
    let settings: Vec<_> = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let plugin = Plugin::open(&file).expect("a committed plugin");
    plugin.start(&settings, Limits::default()).expect("the settings are right")
}

fn decoded(batch: &Bytes) -> (Header, Rows) {
    let header = Header::read(batch).expect("it was just encoded");
    let rows = Rows::of(&header, batch).expect("it was just encoded");
    (header, rows)
}

fn encoded(batch: &[Record], compression: Compression) -> Bytes {
    encode(&template(batch[0].offset), batch, compression).expect("they fit")
}

fn records(batches: &[Vec<Record>]) -> usize {
    batches.iter().map(Vec::len).sum()
}

/// Makes batches of `each` records with values of `value_bytes`: orders of four regions and eight tenants.
fn batches(kind: (Headers, Values), value_bytes: usize, each: usize) -> Vec<Vec<Record>> {
    let mut random = fastrand::Rng::with_seed(7);
    let count = (ALL_BYTES / (each * value_bytes)).max(1);
    let mut batch = |number: usize| {
        let first = (1_000_000 + number * each) as Offset;
        (0..each).map(|at| record(&mut random, kind, value_bytes, first, at, each)).collect()
    };
    (0..count).map(&mut batch).collect()
}

fn record(
    random: &mut fastrand::Rng,
    (headers, values): (Headers, Values),
    value_bytes: usize,
    first: Offset,
    at: usize,
    each: usize,
) -> Record {
    let region = REGIONS[random.usize(..REGIONS.len())];
    let offset = first + at as Offset;
    // Times go back a little now and then, as those of several producers do.
    let time = FIRST_MS + (at as i64 * SPAN_MS / each as i64 + random.i64(-20..20)).max(0);
    let mut all = Vec::new();
    if headers != Headers::None {
        let trace = format!("00-{:016x}{:016x}-{:016x}-01", random.u64(..), random.u64(..), random.u64(..));
        all.push((Bytes::from("traceparent"), Some(Bytes::from(trace))));
        all.push((Bytes::from("region"), Some(Bytes::from(region))));
    }
    if headers == Headers::Injected {
        all.push((Bytes::from("x-kafka-backup-offset"), Some(Bytes::from((offset / 2).to_string()))));
        all.push((Bytes::from("x-kafka-backup-timestamp"), Some(Bytes::from(time.to_string()))));
        all.push((Bytes::from("x-kafka-backup-partition"), Some(Bytes::from("11"))));
    }
    Record {
        offset,
        timestamp: Timestamp(time),
        key: Some(Bytes::from(format!("tenant-{}", random.u8(..8)))),
        value: Some(value(random, region, values, value_bytes)),
        headers: all,
    }
}

/// Makes an order as JSON, as long as is asked for: items, and a note for the rest.
fn value(random: &mut fastrand::Rng, region: &str, values: Values, bytes: usize) -> Bytes {
    let mut value = Vec::with_capacity(bytes);
    let (order, total) = (random.u32(..10_000_000), random.u32(100..100_000));
    let id = order >> 3;
    let end = match values {
        Values::Late => format!(r#"","customer":{{"id":"{id:06x}","region":"{region}"}}}}"#),
        _ => r#""}"#.to_owned(),
    };
    let written = match values {
        Values::Early => {
            write!(value, r#"{{"order":{order},"customer":{{"id":"{id:06x}","region":"{region}"}},"total":{total}"#)
        }
        Values::Spaced => {
            write!(
                value,
                r#"{{"order": {order}, "customer": {{"id": "{id:06x}", "region": "{region}"}}, "total": {total}"#
            )
        }
        Values::Late | Values::Missing => write!(value, r#"{{"order":{order},"total":{total}"#),
    };
    written.expect("memory is writable");
    let (comma, colon) = if values == Values::Spaced { (", ", ": ") } else { (",", ":") };
    let mut opening = format!(r#"{comma}"items"{colon}["#);
    while value.len() + 78 + end.len() < bytes {
        let (item, price) = (random.u64(..) >> 16, random.u32(100..1_000_000));
        write!(value, r#"{opening}{{"sku"{colon}"{item:012x}"{comma}"cents"{colon}{price}{comma}"vat"{colon}19}}"#)
            .expect("memory is writable");
        opening = comma.to_owned();
    }
    if opening == comma {
        value.push(b']');
    }
    write!(value, r#"{comma}"note"{colon}""#).expect("memory is writable");
    while value.len() + end.len() < bytes {
        value.push(random.alphanumeric() as u8);
    }
    value.extend_from_slice(end.as_bytes());
    value.into()
}
