//! How long it takes until the source's retention deletes what of a partition is not durable.
//!
//! Pure: the clocks come in with each call. Kafka deletes whole segments, oldest first, and by time none before its
//! newest record is `retention.ms` old; so the first batch that is not durable is safe until its own greatest time plus
//! `retention.ms`, and with it all that follows. By size there is no such bound, only a forecast: the log start goes on
//! as it did. Not in it: what somebody deletes (DeleteRecords, the topic), and what producers write while the source
//! cannot be reached.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::record::{Offset, Timestamp};

/// Batches whose times are closer together than this are one, in milliseconds. Half of it keeps twice as many, double
/// makes the headroom of a busy partition coarser than the second in which it is shown.
const RESOLUTION_MS: i64 = 1_000;

/// The most times kept of a partition, 1 KiB; beyond it neighbours are merged, on the safe side.
const MOST_TIMES: usize = 64;

/// Steps of the log start closer together than this are one: a broker that deletes several segments at once does not
/// do so all the time. It looks every five minutes by default.
const STEP: Duration = Duration::from_secs(60);

/// The steps of the log start over which its pace is measured. Half of it follows a change sooner and a whim too.
const MOST_STEPS: usize = 16;

/// How long and how much a topic keeps; `None` is without bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Milliseconds after its time that a record is kept at least: `retention.ms`.
    pub ms: Option<i64>,
    /// Whether a partition that grows beyond a size loses its oldest segments: `retention.bytes`.
    pub by_size: bool,
}

impl Retention {
    /// Reads a topic's settings; `None` when they do not tell.
    pub fn of<'a>(setting: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let number = |name| setting(name)?.trim().parse::<i64>().ok();
        if !setting("cleanup.policy")?.split(',').any(|policy| policy.trim() == "delete") {
            return Some(Self { ms: None, by_size: false });
        }
        let ms = number("retention.ms")?;
        Some(Self { ms: (ms >= 0).then_some(ms), by_size: number("retention.bytes")? >= 0 })
    }
}

/// Up to `next`, batches whose greatest times are not before `time`.
#[derive(Debug, Clone, Copy)]
struct Time {
    next: Offset,
    time: Timestamp,
}

/// The log start went on to `start`.
#[derive(Debug, Clone, Copy)]
struct Step {
    start: Offset,
    at: Instant,
}

/// What the headroom of one partition is computed from; memory is bounded.
#[derive(Debug, Clone, Default)]
pub(super) struct Headroom {
    retention: Option<Retention>,
    /// Times of what was received and is not durable; rising in offset.
    times: VecDeque<Time>,
    start: Option<Offset>,
    steps: VecDeque<Step>,
}

impl Headroom {
    /// Takes note of what the topic's settings say, `None` when they do not tell.
    pub(super) fn retained(&mut self, retention: Option<Retention>) {
        self.retention = retention;
    }

    /// Takes note that batches up to `next` were received, the first of them with the greatest time `time`.
    pub(super) fn received(&mut self, next: Offset, time: Timestamp) {
        match self.times.back_mut() {
            // Received again after a write that failed or a race that was lost.
            Some(last) if next <= last.next => {}
            Some(last) if time != Timestamp::NONE && (0..RESOLUTION_MS).contains(&(time.0 - last.time.0)) => {
                last.next = next;
            }
            _ => self.times.push_back(Time { next, time }),
        }
        if self.times.len() > MOST_TIMES {
            self.halve();
        }
    }

    /// Takes note that everything before `next` is durable.
    pub(super) fn durable(&mut self, next: Offset) {
        while self.times.front().is_some_and(|time| time.next <= next) {
            self.times.pop_front();
        }
    }

    /// Forgets what was received: the source has lost it.
    pub(super) fn forget(&mut self) {
        self.times.clear();
        self.steps.clear();
        self.start = None;
    }

    /// Takes note of where the log starts.
    pub(super) fn starts(&mut self, start: Offset, now: Instant) {
        let before = self.start.replace(start);
        if before.is_none_or(|before| start <= before) {
            return;
        }
        match self.steps.back_mut() {
            Some(last) if now.duration_since(last.at) < STEP => last.start = start,
            _ => self.steps.push_back(Step { start, at: now }),
        }
        if self.steps.len() > MOST_STEPS {
            self.steps.pop_front();
        }
    }

    /// Returns the seconds until retention may delete what lies at `durable`, the end of what is durable; without end
    /// where it never will. `waits` is for how long there has been something that is not durable, if there is anything.
    /// `None` while the topic's settings are not known.
    pub(super) fn seconds(
        &self,
        durable: Offset,
        waits: Option<Duration>,
        (now, clock): (Instant, Timestamp),
    ) -> Option<f64> {
        let retention = self.retention?;
        let by_time = retention.ms.map(|ms| match waits {
            None => ms as f64 / 1e3,
            Some(waits) => {
                let known = self.times.front().map(|time| time.time).filter(|time| *time != Timestamp::NONE);
                let age = known.map_or(waits.as_secs_f64(), |time| (clock.0 - time.0) as f64 / 1e3);
                ms as f64 / 1e3 - age
            }
        });
        let by_size = self.pace(now).filter(|_| retention.by_size).zip(self.start);
        let by_size = by_size.map(|(pace, start)| (durable - start) as f64 / pace);
        let least = by_time.unwrap_or(f64::INFINITY).min(by_size.unwrap_or(f64::INFINITY));
        Some(least.max(0.0))
    }

    /// Returns how many offsets a second the log start goes on; `None` until it has gone on twice.
    fn pace(&self, now: Instant) -> Option<f64> {
        let (first, last) = (self.steps.front()?, self.steps.back()?);
        let steps = u32::try_from(self.steps.len() - 1).ok().filter(|steps| *steps > 0)?;
        let took = last.at.duration_since(first.at);
        // It goes on in jumps: only a pause of more than twice the usual one says that it has become slower.
        let still = now.saturating_duration_since(last.at);
        let took = if still > 2 * (took / steps) { took + still } else { took };
        Some((last.start - first.start) as f64 / took.as_secs_f64())
    }

    /// Merges neighbours, the later offset with the earlier time.
    fn halve(&mut self) {
        let earlier = |pair: &[Time]| pair.iter().map(|time| time.time).min().unwrap_or(Timestamp::NONE);
        let merged = self.times.make_contiguous().chunks(2);
        self.times = merged.map(|pair| Time { next: pair[pair.len() - 1].next, time: earlier(pair) }).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn settings<'a>(policy: &'a str, ms: &'a str, bytes: &'a str) -> Option<Retention> {
        Retention::of(|name| match name {
            "cleanup.policy" => Some(policy),
            "retention.ms" => Some(ms),
            "retention.bytes" => Some(bytes),
            _ => None,
        })
    }

    fn headroom(ms: &str, bytes: &str) -> Headroom {
        Headroom { retention: settings("delete", ms, bytes), ..Headroom::default() }
    }

    const fn after(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_never_deleted_has_room_without_end() {
        let now = (Instant::now(), Timestamp(0));
        for (policy, ms, bytes) in [("compact", "1000", "1"), ("", "1000", "1"), ("delete", "-1", "-1")] {
            let headroom = Headroom { retention: settings(policy, ms, bytes), ..Headroom::default() };
            assert_eq!(headroom.seconds(5, Some(after(100)), now), Some(f64::INFINITY), "{policy}");
        }
        assert_eq!(settings("compact,delete", "1000", "-1"), Some(Retention { ms: Some(1000), by_size: false }));
        assert_eq!(Retention::of(|_| None), None);
        assert_eq!(Headroom::default().seconds(5, None, now), None, "nobody told");
    }

    #[test]
    fn by_time_it_is_what_the_first_batch_that_is_not_durable_has_left() {
        let (mut headroom, now) = (headroom("3600000", "-1"), Instant::now());
        let at = |ms| (now, Timestamp(ms));
        assert_eq!(headroom.seconds(0, None, at(0)), Some(3600.0), "a record written now has all of it");
        headroom.received(10, Timestamp(HOUR_MS));
        headroom.received(20, Timestamp(HOUR_MS + 60_000));
        assert_eq!(headroom.seconds(0, Some(after(1)), at(HOUR_MS + 600_000)), Some(3000.0));
        headroom.durable(9);
        assert_eq!(headroom.seconds(9, Some(after(1)), at(HOUR_MS + 600_000)), Some(3000.0), "some of it is not");
        headroom.durable(10);
        assert_eq!(headroom.seconds(10, Some(after(1)), at(HOUR_MS + 600_000)), Some(3060.0));
        assert_eq!(headroom.seconds(10, Some(after(1)), at(9 * HOUR_MS)), Some(0.0), "it may go at any moment");
    }

    #[test]
    fn a_batch_without_a_time_is_as_old_as_we_have_known_of_it() {
        let (mut headroom, now) = (headroom("3600000", "-1"), (Instant::now(), Timestamp(HOUR_MS)));
        assert_eq!(headroom.seconds(0, Some(after(600)), now), Some(3000.0), "seen, not received");
        headroom.received(10, Timestamp::NONE);
        assert_eq!(headroom.seconds(0, Some(after(600)), now), Some(3000.0));
    }

    #[test]
    fn times_take_bounded_memory_and_never_give_too_much_room() {
        let (mut headroom, now) = (headroom("3600000", "-1"), Instant::now());
        for second in 1..=10_000 {
            headroom.received(second, Timestamp(1000 * second));
            headroom.received(second, Timestamp(1000 * second));
        }
        assert!(headroom.times.len() <= MOST_TIMES);
        for durable in (0..10_000).step_by(97) {
            headroom.durable(durable);
            let exact = (HOUR_MS + 1000 * (durable + 1) - 10_000_000) as f64 / 1e3;
            let seconds = headroom.seconds(durable, Some(after(1)), (now, Timestamp(10_000_000))).expect("told");
            assert!(seconds <= exact.max(0.0), "{durable}: {seconds}");
        }
    }

    #[test]
    fn by_size_the_log_start_goes_on_as_it_did() {
        let (mut headroom, began) = (headroom("-1", "1000000"), Instant::now());
        let at = |seconds| began + after(seconds);
        headroom.starts(0, at(0));
        headroom.starts(1000, at(300));
        let clock = Timestamp(0);
        assert_eq!(headroom.seconds(9000, None, (at(300), clock)), Some(f64::INFINITY), "once is no pace");
        // Two segments at once, 300 s later: 1000 offsets in 300 s, twice.
        headroom.starts(1500, at(600));
        headroom.starts(2000, at(601));
        assert_eq!(headroom.seconds(9000, None, (at(610), clock)), Some(7000.0 / (1000.0 / 300.0)));
        assert_eq!(headroom.seconds(2000, None, (at(610), clock)), Some(0.0), "it is the next to go");
        assert_eq!(headroom.seconds(9000, None, (at(3600), clock)), Some(7000.0 / (1000.0 / 3300.0)), "it has slowed");
    }

    #[test]
    fn the_smaller_of_both_counts() {
        let (mut headroom, began) = (headroom("3600000", "1000000"), Instant::now());
        for step in 0..9_i64 {
            headroom.starts(1000 * step, began + after(100 * step.cast_unsigned()));
        }
        let now = (began + after(800), Timestamp(0));
        assert_eq!(headroom.seconds(10_000, None, now), Some(200.0));
        assert_eq!(headroom.seconds(1_000_000, None, now), Some(3600.0));
    }
}
