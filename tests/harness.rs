//! The harness tells the truth: what it writes is what it reads back, and its broker is real, and nothing of it outlives it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal;
use nix::unistd::Pid;

use crate::support::chain::headers;
use crate::support::kafka::Kafka;
use crate::support::reader::read_committed;
use crate::support::reaper::Process;
use crate::support::workload::{Contents, Writer};
use crate::support::{DEADLINE, wait_for};

#[test]
fn the_harness_reads_back_what_it_wrote() {
    let kafka = Kafka::shared_with_disk();
    let topic = kafka.topic("harness", 2, &[]);
    let records = Contents::new().records(2, 50, 100);
    let places = Writer::new(kafka, &[]).write(&topic, &records);
    let read = read_committed(kafka, &topic);
    assert_eq!((places.len(), read.len()), (100, 100));
    let written = records.iter().filter(|record| record.partition == 1).map(|record| &record.value);
    assert!(written.eq(read[50..].iter().map(|record| &record.value)), "values and their order");
    let in_log: i32 = headers(&kafka.log_bytes(&topic, 1)).iter().map(|header| header.count).sum();
    assert_eq!(in_log, 50);
}

/// The variable that makes this binary the one which is killed.
const VICTIM: &str = "KAFKA_BACKUP_TESTS_VICTIM";

#[test]
fn what_the_tests_started_ends_also_when_they_are_killed() {
    if std::env::var_os(VICTIM).is_some() {
        let started = Process::start(Command::new("sleep").arg("600")).expect("sleep starts");
        println!("started {}.", started.id());
        std::thread::sleep(DEADLINE);
        return;
    }
    let name = "harness::what_the_tests_started_ends_also_when_they_are_killed";
    let mut tests = Command::new(std::env::current_exe().expect("this binary has a path"));
    tests.args([name, "--exact", "--nocapture"]).env(VICTIM, "1").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut tests = Process::start(&mut tests).expect("this binary runs");
    let lines = BufReader::new(tests.child().stdout.take().expect("a pipe")).lines();
    let mut numbers = lines.filter_map(|line| line.ok()?.split_once("started ")?.1.strip_suffix('.')?.parse().ok());
    let started = Pid::from_raw(numbers.next().expect("the victim says what it started"));
    assert!(signal::kill(started, None).is_ok(), "it runs");
    tests.child().kill().expect("the victim runs");
    wait_for("what the victim started has ended", || signal::kill(started, None).is_err().then_some(()));
}
