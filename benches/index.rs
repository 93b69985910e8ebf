//! What a chain of a million segments costs: to open its index, to look something up in it, and to add a segment.
//!
//! `cargo bench --bench index` makes the catalogs of long chains with the agent's own code (only those that are read: of
//! each level the ones that no higher one stands for), with real segments behind them, in a folder that an S3 server in
//! this process serves, too. Each figure is that of a fresh process: this program again, which opens the index, or runs
//! the agent's writer for one segment. Requests are counted by the server, bytes and CPU by the kernel. It fails when a
//! bound is missed.
//!
//! Needs no broker.
#![allow(missing_docs, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

/// What the tests stand on; not all of it is used here.
#[path = "../tests"]
#[allow(dead_code)]
mod tests {
    pub(crate) mod support;
}

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_backup::archive::catalog::{Catalog, Levels, Name, Notes, Row, Rows};
use kafka_backup::archive::segment::Builder;
use kafka_backup::archive::sidecar::Kind;
use kafka_backup::archive::sink::{Options, Sink};
use kafka_backup::archive::source::Place;
use kafka_backup::archive::source::opened::Opened;
use kafka_backup::archive::{Archive, catalogs, layout};
use kafka_backup::batch::Compression;
use kafka_backup::batch::records::{Record, encode, template};
use kafka_backup::batch::transactions::OpenTransactions;
use kafka_backup::budget::Permit;
use kafka_backup::pipeline::{Answer, Batch, Payload, Sink as _, Tip};
use kafka_backup::record::{Offset, OffsetRange, Partition, Timestamp, TopicId};
use kafka_backup::store::Store;
use nix::sys::resource::{UsageWho, getrusage};
use tests::support::s3::S3;
use tokio::runtime::Runtime;

/// The length that is promised, and the one that takes most objects to open below a million: 25555555 to the base 6.
const OPENED: [Offset; 2] = [1_000_000, 839_807];

/// Segments that are added: an early one, the millionth, and the first that completes a catalog of level 7.
const ADDED: [Offset; 3] = [10, 1_000_000, 279_936];

const REQUESTS_BOUND: usize = 50;
const PEAK_BOUND_MIB: u64 = 200;
const LOOKUP_BOUND_MICROS: f64 = 10.0;

/// Look-ups of each kind.
const LOOKUPS: usize = 1_000_000;

/// A segment closes every minute, its records are all of its first second.
const INTERVAL_MS: i64 = 60_000;
const EPOCH_MS: i64 = 1_700_000_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |flag: &str| arguments.iter().position(|argument| argument == flag).map(|at| arguments[at + 1].clone());
    if let Some(path) = after("--open") {
        Runtime::new().expect("a runtime").block_on(open(&path));
    } else if let Some(path) = after("--start") {
        Runtime::new().expect("a runtime").block_on(add(&path, false));
    } else if let Some(path) = after("--add") {
        Runtime::new().expect("a runtime").block_on(add(&path, true));
    } else if arguments.iter().any(|argument| argument == "--bench") {
        bench();
    } else {
        // `cargo test --all-targets` runs benches too, and means a quick look.
        println!("run it as `cargo bench --bench index`");
    }
}

fn bench() {
    let mut kept = true;
    println!("| segments | store | requests | peak MiB | CPU s | wall s | look-up by offset µs | by time µs |");
    println!("|---|---|---|---|---|---|---|---|");
    for count in OPENED {
        let prefix = format!("open-{count}");
        make(&S3::shared().folder(&prefix), count);
        for (store, path) in places(&prefix) {
            let before = requests(&prefix);
            let told = child("--open", &path);
            let requests = requests(&prefix) - before;
            let [segments, peak_mib, cpu, wall, by_offset, by_time] = told[..] else { panic!("{told:?}") };
            assert_eq!(segments as Offset, count);
            let shown = if store == "S3" { requests.to_string() } else { String::new() };
            println!(
                "| {count} | {store} | {shown} | {peak_mib:.0} | {cpu:.2} | {wall:.2} | {by_offset:.2} | {by_time:.2} |"
            );
            kept &= requests <= REQUESTS_BOUND && peak_mib as u64 <= PEAK_BOUND_MIB;
            kept &= by_offset <= LOOKUP_BOUND_MICROS && by_time <= LOOKUP_BOUND_MICROS;
        }
    }
    println!(
        "\n| segment added | store | requests at the start | for the segment | KiB written | KiB read | CPU ms | wall ms | peak MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut costs = Vec::new();
    for count in ADDED {
        for (store, path) in places(&format!("add-{count}")) {
            let prefix = format!("add-{count}");
            let folder = S3::shared().folder(&prefix);
            let _ = std::fs::remove_dir_all(&folder);
            make(&folder, count - 1);
            let before = requests(&prefix);
            let _ = child("--start", &path);
            let at_start = requests(&prefix) - before;
            let told = child("--add", &path);
            let added = requests(&prefix) - before - 2 * at_start;
            let [written, read, cpu, wall, peak_mib] = told[..] else { panic!("{told:?}") };
            // The kernel counts what is read of files, not of sockets.
            let (start, for_it, read) = match store {
                "S3" => (at_start.to_string(), added.to_string(), String::new()),
                _ => (String::new(), String::new(), format!("{read:.1}")),
            };
            println!(
                "| {count} | {store} | {start} | {for_it} | {written:.1} | {read} | {cpu:.1} | {wall:.1} | {peak_mib:.0} |"
            );
            if store == "S3" {
                costs.push(added);
            }
        }
    }
    // Neither completes a catalog.
    kept &= costs[0] == costs[1];
    println!(
        "\nbounds: at most {REQUESTS_BOUND} requests and {PEAK_BOUND_MIB} MiB to open, {LOOKUP_BOUND_MICROS} µs of CPU a \
         look-up; the millionth segment takes the requests of the tenth"
    );
    if !kept {
        println!("MISSED");
        std::process::exit(1);
    }
}

/// The ways to reach what lies below `prefix`.
fn places(prefix: &str) -> [(&'static str, String); 2] {
    let folder = S3::shared().folder(prefix);
    [("folder", folder.to_str().expect("UTF-8").to_owned()), ("S3", S3::shared().url(prefix))]
}

fn requests(prefix: &str) -> usize {
    S3::shared().requests(prefix).values().sum()
}

/// Runs this program again; returns the numbers that it prints.
fn child(verb: &str, path: &str) -> Vec<f64> {
    let output = Command::new(std::env::current_exe().expect("this program has a path"))
        .args([verb, path])
        .output()
        .expect("this program starts again");
    assert!(output.status.success(), "{verb} {path}: {}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).expect("numbers");
    told.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

fn partition() -> Partition {
    Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 0 }
}

/// The log of a segment of one record at `offset`.
fn log(offset: Offset) -> Bytes {
    let record = Record {
        offset,
        timestamp: Timestamp(EPOCH_MS + offset * INTERVAL_MS),
        key: None,
        value: Some(Bytes::from_static(b"a record")),
        headers: Vec::new(),
    };
    encode(&template(offset), &[record], Compression::None).expect("it fits")
}

/// Makes an archive below `folder` whose one partition has `count` segments of one offset each: the catalogs that no
/// other stands for, and the last six segments.
fn make(folder: &Path, count: Offset) {
    let runtime = Runtime::new().expect("a runtime");
    std::fs::create_dir_all(folder).expect("made");
    let store = Store::open(folder.to_str().expect("UTF-8")).expect("opened");
    let archive = runtime.block_on(Archive::create(&store, "b", None)).expect("created");
    assert_eq!(runtime.block_on(archive.keep_begin(&partition(), 0)).expect("kept"), 0);
    let place = Place::new(partition(), None);
    let create = |key: String, bytes: Bytes| {
        let _ = runtime.block_on(archive.store().create(&key, bytes)).expect("created");
    };
    let (mut levels, mut parts): (Levels, Vec<Vec<(Name, Rows)>>) = (Levels::default(), vec![Vec::new(); 16]);
    let mut row = None;
    for offset in 0..count {
        let is_real = offset + 6 >= count;
        if is_real || row.is_none() {
            let kind = if offset == 0 { Kind::First } else { Kind::Data };
            let mut builder = Builder::new(&partition(), offset, kind, OpenTransactions::default());
            let log = log(offset);
            builder.append(&log, &[], u64::MAX).expect("sound");
            let (sidecar, _) = builder.seal();
            row = Some(Row::of(&sidecar));
            if is_real {
                let name = layout::sidecar(offset, sidecar.length_bytes, sidecar.digest);
                create(format!("{}{name}", place.folder), sidecar.encode());
                create(format!("{}{}", place.folder, layout::log(offset)), log);
            }
        }
        let row = synthetic(row.expect("made above"), offset, is_real);
        parts[0].push((Name { level: 0, range: row.range }, Rows::new([&row])));
        for due in levels.add(row.range) {
            let below: Vec<(Rows, Notes)> = std::mem::take(&mut parts[usize::from(due.name.level) - 1])
                .into_iter()
                .map(|(_, rows)| (rows, Notes::new()))
                .collect();
            let catalog = Catalog::join(TopicId::NONE, 0, due.name.level, &below);
            parts[usize::from(due.name.level)].push((due.name, catalog.rows));
        }
    }
    for (name, rows) in parts.into_iter().skip(1).flatten() {
        let catalog = Catalog { topic_id: TopicId::NONE, partition: 0, level: name.level, rows, notes: Notes::new() };
        create(catalogs::key(&place, name), catalog.encode());
    }
}

/// Returns the row of a segment at `offset`, made of another one's unless it is real.
fn synthetic(row: Row, offset: Offset, is_real: bool) -> Row {
    if is_real {
        return row;
    }
    let time = Some(Timestamp(EPOCH_MS + offset * INTERVAL_MS));
    Row {
        range: OffsetRange { first: offset, next: offset + 1 },
        kind: if offset == 0 { Kind::First } else { Kind::Data },
        first_record: Some(offset),
        last_record: Some(offset),
        first_time: time,
        max_time: time,
        min_time: time,
        ..row
    }
}

/// Opens the index, looks things up, and prints what it cost.
async fn open(path: &str) {
    let began = Instant::now();
    let store = Store::open(path).expect("opened");
    // Not counted as a part of the index: `backup.json`, which every command reads.
    let archive = Archive::open(&store, "b").await.expect("a backup");
    let opened = Opened::read(&archive, &Place::new(partition(), None)).await.expect("read");
    assert!(opened.findings.is_empty(), "{:?}", opened.findings);
    let (wall, cpu, peak_mib) = (began.elapsed(), cpu(), peak_mib());
    let count = opened.index.len() as i64;
    let asked: Vec<i64> = (0..LOOKUPS).map(|_| fastrand::i64(0..count)).collect();
    let by_offset = micros(&asked, |at| opened.index.at_offset(at) == Some(at as usize));
    let by_time =
        micros(&asked, |at| opened.index.at_time(Timestamp(EPOCH_MS + at * INTERVAL_MS)) == Some(at as usize));
    println!("{count} {peak_mib} {} {} {by_offset} {by_time}", cpu.as_secs_f64(), wall.as_secs_f64());
}

/// Returns the CPU of a look-up.
fn micros(asked: &[i64], is_right: impl Fn(i64) -> bool) -> f64 {
    let before = cpu();
    assert!(asked.iter().all(|at| black_box(is_right(black_box(*at)))), "a wrong answer");
    (cpu() - before).as_secs_f64() * 1e6 / asked.len() as f64
}

/// Runs the agent's writer for the next segment, or only starts it, and prints what it cost.
async fn add(path: &str, adds: bool) {
    let store = Store::open(path).expect("opened");
    let archive = Archive::open(&store, "b").await.expect("a backup");
    let options = Options { roll_bytes: u64::MAX, roll_interval: Duration::from_secs(3600), give_up_after: None };
    let mut sink = Sink::new(archive, options);
    sink.open(&partition());
    let Answer::Restart { tip, .. } = sink.answer().await else { panic!("it does not start") };
    let next = tip.next.expect("something is held");
    let (began, before, io_before) = (Instant::now(), cpu(), io());
    if adds {
        let payload = Payload::Encoded { bytes: log(next), aborted: Vec::new() };
        let range = OffsetRange { first: next, next: next + 1 };
        sink.put(Batch::new(partition(), tip.generation, range, payload, Permit::default()));
    }
    close(&mut sink, tip).await;
    let (wall, cpu, io) = (began.elapsed(), cpu() - before, io());
    let kib = |before: u64, after: u64| (after - before) as f64 / 1024.0;
    let (written, read) = (kib(io_before.1, io.1), kib(io_before.0, io.0));
    println!("{written} {read} {} {} {}", cpu.as_secs_f64() * 1e3, wall.as_secs_f64() * 1e3, peak_mib());
}

async fn close(sink: &mut Sink, tip: Tip) {
    sink.close(&partition(), tip.generation);
    loop {
        match sink.answer().await {
            Answer::Durable { .. } => {}
            Answer::Closed { .. } => return,
            other => panic!("{other:?}"),
        }
    }
}

/// Returns the CPU time of this process.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel counts");
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_secs(value.tv_sec().unsigned_abs()) + Duration::from_micros(value.tv_usec().unsigned_abs())
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// Returns the bytes that this process has read, but from sockets, and written.
fn io() -> (u64, u64) {
    let told = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let field = |name: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim().parse().expect("a number")
    };
    (field("rchar:"), field("wchar:"))
}

/// Returns the most memory that this process has had.
fn peak_mib() -> u64 {
    let told = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a field");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib >> 10
}
