//! Two processes of one restore: the younger brings it to its end, the older sends nothing more, and says who took over.
//!
//! `RACES=n` sets how many there are (4).

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Case, Way, number, random};
use crate::crash::report;
use crate::restore::Restore;
use crate::support::agent::Agent;
use crate::support::kafka::Kafka;

/// Ends of the two.
const WELL: Option<i32> = Some(0);
const FENCED: Option<i32> = Some(11);

/// Asserts that a process that was fenced off names the other one, in its last line.
#[track_caller]
fn assert_names(fenced: &Agent, other: &Agent) {
    let (log, named) = (fenced.log(), format!("process {} on ", other.id()));
    let last = log.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains(&named), "{named:?} not in the last line of:\n{log}");
}

/// Returns whether all that is to be brought is in the targets.
fn has_landed(case: &Case, kafka: &Kafka, restore: &Restore<'_>) -> bool {
    let there = kafka.topics();
    let wanted = |partition| case.wanted.iter().filter(|record| record.partition == partition).count() as i64;
    case.targets(restore).iter().all(|target| {
        there.contains(target) && kafka.ends(target).iter().zip(0..).all(|(end, index)| *end > wanted(index))
    })
}

/// Has a second process of a restore begin while the first is stopped at a random moment.
fn race(case: &Case, kafka: &Kafka, race: u32, whole: Duration, random: &mut fastrand::Rng) {
    let name = format!("race-{race}");
    let (slow, to_its_end) = (case.slow(kafka, &name), race.is_multiple_of(2));
    let mut first = slow.start(&[]);
    std::thread::sleep(whole.mul_f64(random.f64()));
    first.signal(Signal::SIGSTOP);
    let (kept, is_all_there) = (slow.state_names(), has_landed(case, kafka, &slow));
    let mut second = if to_its_end { case.fast(kafka, &name).start(&[]) } else { slow.start(&[]) };
    let attempts = |kept: &[String]| kept.iter().filter(|name| name.starts_with("attempt-")).count();
    // One that was stopped before it had told of itself cannot be named while it stands still.
    let is_known = if to_its_end {
        assert_eq!(second.wait().code(), WELL, "{}", second.log());
        first.signal(Signal::SIGCONT);
        true
    } else {
        std::thread::sleep(whole.mul_f64(random.f64()));
        second.signal(Signal::SIGSTOP);
        let is_known = attempts(&slow.state_names()) > attempts(&kept);
        first.signal(Signal::SIGCONT);
        // It ends whether it is fenced off or not.
        let _ = first.wait();
        second.signal(Signal::SIGCONT);
        is_known
    };
    let codes = (first.wait().code(), second.wait().code());
    report(&format!("race {race}, the first stopped when {kept:?} was kept: {codes:?}"));
    match codes {
        (WELL, WELL) => {}
        (FENCED, WELL) if !is_known => {}
        (FENCED, WELL) => assert_names(&first, &second),
        (WELL, FENCED) => assert_names(&second, &first),
        _ => panic!("{codes:?}\nthe first:\n{}\nthe second:\n{}", first.log(), second.log()),
    }
    let had_begun = kept.iter().any(|name| name == "attempt-0") && !kept.iter().any(|name| name == "map");
    if to_its_end && had_begun && !is_all_there {
        assert_eq!(codes, (FENCED, WELL), "the older one: {}", first.log());
    }
    let again = slow.run();
    assert!(again.stderr.contains("is finished already"), "{again:?}");
    let _ = again.ok();
    case.assert_right(kafka, &slow);
}

#[test]
fn of_two_processes_of_a_restore_the_younger_one_ends_it_and_the_older_one_names_it() {
    let kafka = Kafka::shared();
    let case = Case::new(kafka, "resume-races", Way::Verbatim);
    let (whole, mut random) = (case.undisturbed(kafka), random("races"));
    (0..number("RACES", 4)).for_each(|number| race(&case, kafka, number, whole, &mut random));
}
