//! What the map of a large restore costs: a hundred million records of one partition, with a hole in each hundred.
//!
//! `cargo bench --bench map` makes such a map as a restore does, record batch by record batch, and writes its object. A
//! fresh process, this program again, reads that and looks records up in it: its peak is that of the program and the
//! map, its time the kernel's. It fails when a bound is missed.
//!
//! Needs no broker.
#![allow(missing_docs, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use kafka_backup::record::{Offset, OffsetRange, Partition, TopicId};
use kafka_backup::restore::map::{Exact, OffsetMap, Pair, Position};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};

const RECORDS: Offset = 100_000_000;
const LOOKUPS: u32 = 1_000_000;

const PEAK_BOUND_MIB: i64 = 64;
const LOOKUP_BOUND_MICROS: f64 = 1.0;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--look-up") {
        look_up(&arguments[at + 1]);
    } else if arguments.iter().any(|argument| argument == "--bench") {
        bench();
    } else {
        // `cargo test --all-targets` runs benches too, and means a quick look.
        println!("run it as `cargo bench --bench map`");
    }
}

fn pair() -> Pair {
    let partition = |topic: &str| Partition { topic: topic.into(), topic_id: TopicId::NONE, index: 0 };
    Pair { source: partition("orders"), target: partition("orders-restored") }
}

fn bench() {
    let began = cpu();
    let map = make();
    let made = cpu() - began;
    let bytes = map.encode();
    let file = std::env::temp_dir().join(format!("kafka-backup-map-{}", std::process::id()));
    std::fs::write(&file, &bytes).expect("it is writable");
    let program = std::env::current_exe().expect("this program has a path");
    let told = Command::new(program).arg("--look-up").arg(&file).output().expect("it can be started");
    std::fs::remove_file(&file).expect("it was written");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told = String::from_utf8(told.stdout).expect("UTF-8");
    let numbers: Vec<f64> = told.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    let [peak_mib, read_s, exact, translated] = numbers[..] else { panic!("{told}") };
    let (records, runs) = map.size();
    println!(
        "| records | runs | made, CPU s | in memory MiB | object MiB | read, CPU s | peak MiB | record µs | committed µs |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    println!(
        "| {records} | {runs} | {:.2} | {:.1} | {:.1} | {read_s:.2} | {peak_mib:.0} | {exact:.2} | {translated:.2} |",
        made.as_secs_f64(),
        mib(map.memory_bytes()),
        mib(bytes.len()),
    );
    let kept = peak_mib as i64 <= PEAK_BOUND_MIB
        && mib(map.memory_bytes()) as i64 <= PEAK_BOUND_MIB
        && exact <= LOOKUP_BOUND_MICROS
        && translated <= LOOKUP_BOUND_MICROS;
    println!("\nbounds: {PEAK_BOUND_MIB} MiB, {LOOKUP_BOUND_MICROS} µs: {}", if kept { "kept" } else { "MISSED" });
    assert!(kept, "a bound is missed");
}

/// A hole behind each hundred records or so, anywhere.
fn make() -> OffsetMap {
    let mut map = OffsetMap::default();
    let asked = OffsetRange { first: 0, next: 2 * RECORDS };
    map.open(&pair(), asked, 0).expect("a range");
    let (mut random, mut source, mut target) = (fastrand::Rng::with_seed(7), 0, 0);
    while target < RECORDS {
        let length = random.u64(1..199).min((RECORDS - target).unsigned_abs());
        map.push(&pair(), source, target, length).expect("in order");
        source += length as Offset + 1;
        target += length as Offset;
    }
    map.finish(&pair(), target).expect("behind the last record");
    map
}

/// What the fresh process does.
fn look_up(file: &str) {
    let began = cpu();
    let map = OffsetMap::decode(&std::fs::read(file).expect("it is there")).expect("sound");
    let read = cpu() - began;
    let track = map.get(&pair()).expect("it is there");
    let last = track.last_run().expect("there are some").source_next();
    let mut random = fastrand::Rng::with_seed(1);
    let mut each = |look: &dyn Fn(Offset)| {
        let began = cpu();
        for _ in 0..LOOKUPS {
            look(random.i64(0..last));
        }
        (cpu() - began).as_secs_f64() * 1e6 / f64::from(LOOKUPS)
    };
    let exact = each(&|source| {
        assert!(matches!(black_box(track.exact(source)), Exact::At(_) | Exact::Absent));
    });
    // As `offset-map` and resets of groups ask: by the partition's name.
    let source = pair().source;
    let translated = each(&|committed| {
        let positions = black_box(map.translate(&source, committed));
        assert!(matches!(positions[..], [(_, Position::Record { .. })]));
    });
    let peak_mib = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel counts").max_rss() as f64 / 1024.0;
    println!("{peak_mib} {} {exact} {translated}", read.as_secs_f64());
}

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("the kernel counts").into()
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
