//! Whether a pipeline that runs is believed: one that has failed is not until it has run for a while, so that what fails
//! right after each start is not well for a moment of each; and one of which something has been wrong for long is called
//! failed, although the rest of it goes on.
//!
//! Pure: the clock comes in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a pipeline runs, at the least, before it is believed after a failure. It is believed after the pause that
/// preceded its start; the first of these are so short that what fails after a few requests would pass.
const PROBATION: Duration = Duration::from_secs(5);

/// For how long something is wrong before the task counts as failed. Leaders move and stores answer late every day: half
/// would have tools that restart what has failed do so at each of these, double would leave whoever looks at the task alone
/// in the dark for longer.
const FAILED_AFTER: Duration = Duration::from_secs(30);

/// The most troubles that are told as the reason of a failure; how many more there are is told besides.
const MOST_TOLD: usize = 20;

/// The failures of one pipeline since it last ran well.
#[derive(Debug, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    /// The last one, and how long the pipeline must run before it is believed again.
    last: Option<(String, Duration)>,
    /// Since when both ends are open; `None` while they are not.
    runs_since: Option<Instant>,
    /// What is wrong with parts of it, by subject, and since when.
    troubles: BTreeMap<String, (Instant, String)>,
}

impl Failures {
    /// Takes note that the pipeline has failed, and starts again after `pause`; returns how often it has in a row.
    pub(super) fn failed(&mut self, reason: String, pause: Duration) -> u32 {
        self.closed();
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last = Some((reason, pause.max(PROBATION)));
        self.in_a_row
    }

    /// Takes note that the pipeline is closed; what was wrong with its parts went with it.
    pub(super) fn closed(&mut self) {
        self.runs_since = None;
        self.troubles.clear();
    }

    /// Forgets all failures: the pipeline does not run any more, because it was told so.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes note that both ends are open.
    pub(super) fn runs(&mut self, now: Instant) {
        self.troubles.clear();
        self.runs_since = Some(now);
    }

    /// Takes note that something is wrong (`Some`) or right again with `subject`.
    pub(super) fn trouble(&mut self, subject: &str, reason: Option<&str>, now: Instant) {
        let Some(reason) = reason else {
            self.troubles.remove(subject);
            return;
        };
        // What is wrong may be told in other words each time.
        let since = self.troubles.get(subject).map_or(now, |(since, _)| *since);
        self.troubles.insert(subject.to_owned(), (since, reason.to_owned()));
    }

    /// Returns why the pipeline is not believed although both of its ends are open, if it is not.
    pub(super) fn doubt(&self) -> Option<String> {
        let (reason, probation) = self.last.as_ref().filter(|_| self.runs_since.is_some())?;
        let times = if self.in_a_row == 1 { String::new() } else { format!(" {} times in a row", self.in_a_row) };
        let seconds = probation.as_secs_f64();
        Some(format!("{reason}; it had failed{times}, runs again, and is believed once it has run for {seconds:.0} s"))
    }

    /// Takes note that time has passed; returns whether the pipeline is believed again since just now.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let Some(((_, probation), since)) = self.last.as_ref().zip(self.runs_since) else { return false };
        if now.saturating_duration_since(since) < *probation {
            return false;
        }
        (self.in_a_row, self.last) = (0, None);
        true
    }

    /// Returns why the task of a pipeline whose ends are open counts as failed, if it does; `None` too while they are not.
    pub(super) fn trace(&self, now: Instant) -> Option<String> {
        if let Some((reason, _)) = self.last.as_ref().filter(|_| self.runs_since.is_some()) {
            return Some(reason.clone());
        }
        let stands = |since: &Instant| now.saturating_duration_since(*since) >= FAILED_AFTER;
        let standing = self.troubles.iter().filter(|(_, (since, _))| stands(since));
        let mut lines: Vec<_> = standing.map(|(subject, (_, reason))| format!("{subject}: {reason}")).collect();
        let more = lines.len().saturating_sub(MOST_TOLD);
        lines.truncate(MOST_TOLD);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Returns whether both ends are open.
    pub(super) fn is_running(&self) -> bool {
        self.runs_since.is_some()
    }

    /// Returns whether both ends have been open for that long.
    pub(super) fn has_run_for(&self, lasts: Duration, now: Instant) -> bool {
        self.runs_since.is_some_and(|since| now.saturating_duration_since(since) >= lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_fails_right_after_each_start_is_never_believed() {
        let (mut failures, began) = (Failures::default(), Instant::now());
        failures.runs(began);
        assert_eq!((failures.doubt(), failures.trace(began)), (None, None), "it has not failed yet");
        for attempt in 1..=5 {
            assert_eq!(failures.failed("no such cluster".into(), seconds(60)), attempt);
            assert_eq!(failures.doubt(), None, "that it is down is said already");
            failures.runs(began);
            assert!(!failures.tick(began + seconds(59)));
            assert_eq!(failures.trace(began + seconds(59)).as_deref(), Some("no such cluster"));
        }
        let doubt =
            "no such cluster; it had failed 5 times in a row, runs again, and is believed once it has run for 60 s";
        assert_eq!(failures.doubt().as_deref(), Some(doubt));
    }

    #[test]
    fn what_has_run_for_as_long_as_it_paused_is_believed() {
        let (mut failures, began) = (Failures::default(), Instant::now());
        failures.failed("no broker answers".into(), seconds(1));
        failures.runs(began);
        assert!(!failures.tick(began + seconds(4)), "a second is too short to tell");
        assert!(failures.tick(began + seconds(5)));
        assert_eq!((failures.doubt(), failures.trace(began + seconds(5))), (None, None));
        assert!(!failures.tick(began + seconds(6)), "that is no news");
        assert_eq!(failures.failed("again".into(), seconds(1)), 1, "the row has ended");
    }

    #[test]
    fn a_task_has_failed_when_something_has_been_wrong_for_long() {
        let (mut failures, began) = (Failures::default(), Instant::now());
        failures.runs(began);
        failures.trouble("archive of orders-3", Some("cannot write"), began);
        failures.trouble("broker 1", Some("away"), began + seconds(20));
        assert_eq!(failures.trace(began + seconds(29)), None);
        failures.trouble("archive of orders-3", Some("still cannot"), began + seconds(29));
        assert_eq!(failures.trace(began + seconds(30)).as_deref(), Some("archive of orders-3: still cannot"));
        failures.trouble("archive of orders-3", None, began);
        assert_eq!(failures.trace(began + seconds(40)), None);
        assert_eq!(failures.trace(began + seconds(50)).as_deref(), Some("broker 1: away"));
    }

    #[test]
    fn of_many_troubles_some_are_told() {
        let (mut failures, began) = (Failures::default(), Instant::now());
        for n in 0..MOST_TOLD + 5 {
            failures.trouble(&format!("t-{n:02}"), Some("away"), began);
        }
        failures.runs(began);
        assert_eq!(failures.trace(began + FAILED_AFTER), None, "they were of the last attempt");
        for n in 0..MOST_TOLD + 5 {
            failures.trouble(&format!("t-{n:02}"), Some("away"), began);
        }
        let trace = failures.trace(began + FAILED_AFTER).expect("failed");
        assert!(trace.ends_with("t-19: away\nand 5 more"), "{trace}");
    }
}
