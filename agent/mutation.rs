//! Mutation tests: for a while, decoders are fed what accidents and attackers make of sound input, in a process of its
//! own whose memory is measured.
//!
//! A test of this kind is [`run`], which starts the test binary once more for this one test: the peak of a process is
//! that of everything in it. The child makes case after case, each from a seed of its own, and holds a decoder to its
//! laws in each. It fails when a law is broken, a case does not end, or the process has taken too much; and when it has
//! not done enough: too few cases, or not everything [`Wanted`] has been met.
//!
//! `FUZZ_SECONDS=n` sets the time of all tests of this kind together (20 s), `FUZZ_SEED=n` the seed of the first case;
//! that of the case that failed is printed, so that it comes first when it is repeated.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use fastrand::Rng;

/// The seconds of all these tests together.
const SECONDS: u64 = 20;

/// How many these tests are. They run side by side, or one after the other where there is one thread.
const TESTS: u32 = 2;

/// What a process that decodes may take, program and test included.
const MOST_BYTES: u64 = 256 << 20;

/// The fewest cases in each second. An idle machine makes ten times as many, unoptimised.
const FEWEST: f64 = 100.0;

/// How much longer than its time a child goes on where it has not done enough yet: machines are busy at times.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time of one case, of which most take less than a millisecond and none a second.
const STUCK: Duration = Duration::from_secs(60);

/// Tells a child that it is one.
const WORKER: &str = "FUZZ_WORKER";

/// The words before a child's numbers.
const REPORT: &str = "mutation report:";

/// What must have been met before a test of this kind may pass: parts of what is said of a case.
pub(crate) type Wanted = &'static [&'static str];

/// What was met in the cases so far.
pub(crate) struct Tally {
    wanted: Vec<(&'static str, u64)>,
}

impl Tally {
    fn new(wanted: Wanted) -> Self {
        Self { wanted: wanted.iter().map(|words| (*words, 0)).collect() }
    }

    /// Notes what is said of a case.
    pub(crate) fn note(&mut self, said: &str) {
        for (words, times) in &mut self.wanted {
            *times += u64::from(said.contains(*words));
        }
    }

    fn unmet(&self) -> Vec<&'static str> {
        self.wanted.iter().filter(|(_, times)| *times == 0).map(|(words, _)| *words).collect()
    }
}

/// Runs the mutation test that is the function `test` (its path with the crate's name, as `module_path!` gives it).
///
/// In the child `begin` makes whatever cases need, and looks at what need be looked at only once; what it returns makes
/// one case. Nothing but its random numbers tells one case from another.
pub(crate) fn run<C: FnMut(&mut Rng, &mut Tally)>(test: &str, wanted: Wanted, begin: impl FnOnce() -> C) {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("FUZZ_* are numbers"));
    let seed = number("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let time = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(SECONDS)) / TESTS;
    if env::var_os(WORKER).is_some() {
        work(seed, time, wanted, begin);
    } else {
        supervise(test, seed, time);
    }
}

/// Starts the child, and believes nothing but its numbers.
fn supervise(test: &str, seed: u64, time: Duration) {
    println!("FUZZ_SEED={seed} repeats this");
    let (_, test) = test.split_once("::").expect("a path begins with the crate");
    let program = env::current_exe().expect("this program has a path");
    let child = process::Command::new(program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(WORKER, "1")
        .env("FUZZ_SEED", seed.to_string())
        .output()
        .expect("this program can be started");
    let [told, complained] = [&child.stdout, &child.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let why = || format!("FUZZ_SEED={seed}, {}\n{told}\n{complained}", child.status);
    assert!(child.status.success(), "the child failed: {}", why());
    let report = told.lines().find_map(|line| line.split_once(REPORT)).map(|(_, numbers)| numbers);
    let report = report.unwrap_or_else(|| panic!("the child ran no test: {}", why()));
    let numbers: Vec<u64> = report.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [of, cases, peak_kib, unmet] = numbers[..] else { panic!("the report is another: {}", why()) };
    println!("{test}:{report}");
    assert_eq!(of, seed, "the child took another seed");
    assert!(cases >= fewest(time), "{cases} cases are too few: {}", why());
    assert!(peak_kib > 0 && peak_kib << 10 < MOST_BYTES, "a peak of {peak_kib} KiB: {}", why());
    assert_eq!(unmet, 0, "not everything was met: {}", why());
}

fn fewest(time: Duration) -> u64 {
    (FEWEST * time.as_secs_f64()) as u64 + 1
}

/// What the child does.
fn work<C: FnMut(&mut Rng, &mut Tally)>(seed: u64, time: Duration, wanted: Wanted, begin: impl FnOnce() -> C) {
    let (mut tally, watch, began) = (Tally::new(wanted), Watch::start(), Instant::now());
    let mut case = begin();
    check_peak("before the first case");
    println!("{:>10.1} s and {} KiB before the first case", began.elapsed().as_secs_f32(), peak_kib());
    let mut cases = 0;
    let is_enough = |cases, tally: &Tally| cases >= fewest(time) && tally.unmet().is_empty();
    while began.elapsed() < time || (!is_enough(cases, &tally) && began.elapsed() < time + PATIENCE) {
        let name = format!("FUZZ_SEED={}", seed.wrapping_add(cases));
        watch.begin(&name);
        let named = Named(&name);
        case(&mut Rng::with_seed(mixed(seed.wrapping_add(cases))), &mut tally);
        check_peak(&name);
        drop(named);
        cases += 1;
    }
    let unmet = tally.unmet();
    for (words, times) in &tally.wanted {
        println!("{times:>10} {words}");
    }
    println!("unmet: {unmet:?}");
    println!("{REPORT} seed {seed} : {cases} cases, a peak of {} KiB, {} unmet", peak_kib(), unmet.len());
}

/// Returns the seed of a generator: those of cases differ by one, which generators make similar numbers of.
fn mixed(seed: u64) -> u64 {
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns the most memory that this process has had. Unlike what `getrusage` says, it is not that of a parent too.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a kernel that tells");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a kernel that counts");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[track_caller]
fn check_peak(when: &str) {
    let peak_kib = peak_kib();
    assert!(peak_kib << 10 < MOST_BYTES, "a peak of {peak_kib} KiB, {when}");
}

/// Names a case where it panics.
struct Named<'a>(&'a str);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{} repeats the case that failed", self.0);
        }
    }
}

/// Ends the process where a case does not end.
#[derive(Clone)]
struct Watch {
    current: Arc<Mutex<(String, Instant)>>,
}

impl Watch {
    fn start() -> Self {
        let watch = Self { current: Arc::new(Mutex::new(("the beginning".to_owned(), Instant::now()))) };
        let watching = watch.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_secs(1));
                let current = watching.current.lock().unwrap_or_else(PoisonError::into_inner);
                if current.1.elapsed() > STUCK {
                    eprintln!("{} does not end", current.0);
                    process::exit(1);
                }
            }
        });
        watch
    }

    fn begin(&self, name: &str) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = (name.to_owned(), Instant::now());
    }
}

/// Returns a number at which arithmetic or a check may go wrong.
pub(crate) fn strange(random: &mut Rng) -> i64 {
    const POWERS: [u32; 10] = [0, 1, 3, 7, 8, 15, 16, 31, 32, 63];
    let near = 1_i64.wrapping_shl(POWERS[random.usize(..POWERS.len())]).wrapping_add(random.i64(-2..=2));
    match random.u8(..4) {
        0 => near,
        1 => near.wrapping_neg(),
        2 => random.i64(-3..100),
        _ => random.i64(..) >> random.u32(..64),
    }
}

/// Returns where a slice of that many things begins and ends.
pub(crate) fn piece(random: &mut Rng, length: usize) -> std::ops::Range<usize> {
    let start = random.usize(..=length);
    // Short ones more often: long ones are half of everything.
    let most = (length - start) >> random.u32(..8);
    start..start + random.usize(..=most)
}

/// Changes bytes in one way, without knowing what they mean.
pub(crate) fn mutate(random: &mut Rng, bytes: &mut Vec<u8>) {
    let range = piece(random, bytes.len());
    match random.u8(..9) {
        0..3 if !bytes.is_empty() => {
            let at = random.usize(..bytes.len());
            bytes[at] = if random.bool() { strange(random) as u8 } else { bytes[at] ^ 1 << random.u8(..8) };
        }
        3 => {
            // A number of two, four or eight bytes, as all of Kafka's are that are not varints.
            let number = strange(random).to_be_bytes();
            let width = 2 << random.u8(..3);
            let end = (range.start + width).min(bytes.len());
            bytes[range.start..end].copy_from_slice(&number[8 - width..][..end - range.start]);
        }
        4 => bytes.truncate(range.start),
        5 => drop(bytes.drain(range)),
        6 => {
            let copy = bytes[range].to_vec();
            let at = random.usize(..=bytes.len());
            drop(bytes.splice(at..at, copy));
        }
        7 => {
            let filler = vec![if random.bool() { 0 } else { random.u8(..) }; random.usize(..40)];
            drop(bytes.splice(range.start..range.start, filler));
        }
        _ => {
            let copy = bytes[range].to_vec();
            let at = random.usize(..=bytes.len() - copy.len());
            bytes[at..at + copy.len()].copy_from_slice(&copy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "the child ran no test")]
    fn a_child_that_does_nothing_is_a_failure() {
        supervise("kafka_backup::mutation::tests::no_such_test", 1, Duration::ZERO);
    }
}
