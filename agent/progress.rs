//! How far one partition is: what its leader has, what is durable, and for how long the difference has been there.
//!
//! Pure: the clock comes in with each call. The *durable lag* is now − the moment when this agent first saw the high
//! watermark beyond what is durable; it is the RPO, since what was written before that moment survives the loss of
//! the source. Kept per partition in bounded memory, whatever the pace of observations.

mod headroom;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::headroom::Headroom;
pub use self::headroom::Retention;
use crate::record::{Offset, Timestamp};

/// Sightings closer together than this are one. Half of it keeps twice as many, double makes the lag of a busy
/// partition coarser than the second in which it is shown.
const RESOLUTION: Duration = Duration::from_millis(250);

/// The most sightings kept, 2 KiB a partition: 16 s at full resolution, and from then on the older half twice as
/// coarse each time. Half of it makes the lag after a long outage jump in larger steps, double buys little.
const MOST_SIGHTINGS: usize = 64;

/// That the high watermark was first seen at (or beyond what was known before, up to) an offset.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    high_watermark: Offset,
    first_seen: Instant,
}

/// The progress of one partition.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    high_watermark: Option<Offset>,
    last_stable: Option<Offset>,
    durable: Option<Offset>,
    /// Sightings of high watermarks beyond what is durable; rising in offset and time.
    pending: VecDeque<Sighting>,
    headroom: Headroom,
}

impl Progress {
    /// Makes the progress of a partition of which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of what the leader says: the end of what is replicated and of what is decided.
    pub fn observe(&mut self, high_watermark: Offset, last_stable: Offset, now: Instant) {
        self.last_stable = Some(last_stable);
        let before = self.high_watermark.replace(high_watermark);
        if before.is_some_and(|before| high_watermark < before) {
            self.retreat(high_watermark);
        }
        let seen = self.pending.back().map_or(self.durable, |sighting| Some(sighting.high_watermark));
        if seen.is_some_and(|seen| high_watermark <= seen) {
            return;
        }
        match self.pending.back_mut() {
            Some(last) if now.duration_since(last.first_seen) < RESOLUTION => {
                last.high_watermark = high_watermark;
            }
            _ => self.pending.push_back(Sighting { high_watermark, first_seen: now }),
        }
        if self.pending.len() > MOST_SIGHTINGS {
            self.halve();
        }
    }

    /// Takes note that everything before `next` is durable, or that there is nothing to keep before it.
    pub fn durable(&mut self, next: Offset, now: Instant) {
        self.durable = Some(next);
        self.headroom.durable(next);
        while self.pending.front().is_some_and(|sighting| sighting.high_watermark <= next) {
            self.pending.pop_front();
        }
        // A chain that is found to end earlier than was known: what lies between is not durable after all.
        if let Some(high_watermark) = self.high_watermark.filter(|high_watermark| *high_watermark > next)
            && self.pending.is_empty()
        {
            self.pending.push_back(Sighting { high_watermark, first_seen: now });
        }
    }

    /// Takes note of what the topic's settings say of retention, `None` when they do not tell.
    pub fn retained(&mut self, retention: Option<Retention>) {
        self.headroom.retained(retention);
    }

    /// Takes note of where the leader's log starts.
    pub fn starts(&mut self, start: Offset, now: Instant) {
        self.headroom.starts(start, now);
    }

    /// Takes note that batches up to `next` were received, the first of them with the greatest time `time`.
    pub fn received(&mut self, next: Offset, time: Timestamp) {
        self.headroom.received(next, time);
    }

    /// Takes note that the leader has lost records that were received.
    pub fn diverged(&mut self) {
        self.headroom.forget();
    }

    /// Returns the seconds until the source's retention may delete what is not durable, or, when all is, what would be
    /// written now; infinite where it never will. `None` until settings and both ends are known.
    pub fn headroom_seconds(&self, now: Instant, clock: Timestamp) -> Option<f64> {
        let waits = (self.lag()? > 0).then(|| self.durable_lag(now));
        self.headroom.seconds(self.durable?, waits, (now, clock))
    }

    /// Returns the seconds that the source keeps at least what is written now; infinite where it never deletes. `None` until
    /// it is known.
    pub fn kept_seconds(&self, now: Instant, clock: Timestamp) -> Option<f64> {
        self.headroom.seconds(self.high_watermark?, None, (now, clock))
    }

    /// Returns the records (offsets, to be exact) that the source has and the archive has not; `None` until both ends
    /// are known.
    pub fn lag(&self) -> Option<u64> {
        Some(self.high_watermark?.saturating_sub(self.durable?).max(0).cast_unsigned())
    }

    /// Returns for how long there has been something that is not durable; 0 when there is nothing, and until it is
    /// known where the archive begins (what lies before is not wanted). Never too little: where sightings were merged,
    /// the earliest counts.
    pub fn durable_lag(&self, now: Instant) -> Duration {
        let oldest = self.pending.front().filter(|_| self.durable.is_some());
        oldest.map_or(Duration::ZERO, |sighting| now.saturating_duration_since(sighting.first_seen))
    }

    /// Returns the end of what the leader has, exclusive.
    pub fn high_watermark(&self) -> Option<Offset> {
        self.high_watermark
    }

    /// Returns the end of what is decided, exclusive.
    pub fn last_stable(&self) -> Option<Offset> {
        self.last_stable
    }

    /// Returns the end of what is durable, exclusive.
    pub fn durable_next(&self) -> Option<Offset> {
        self.durable
    }

    /// Forgets sightings beyond `high_watermark`: the leader no longer has what was seen (an unclean election).
    fn retreat(&mut self, high_watermark: Offset) {
        while let Some(last) = self.pending.pop_back_if(|last| last.high_watermark > high_watermark) {
            let below = self.pending.back().map_or(self.durable, |below| Some(below.high_watermark));
            if below.is_none_or(|below| below < high_watermark) {
                self.pending.push_back(Sighting { high_watermark, ..last });
                return;
            }
        }
    }

    /// Merges neighbours, the later offset with the earlier time.
    fn halve(&mut self) {
        let merged = self
            .pending
            .make_contiguous()
            .chunks(2)
            .map(|pair| Sighting { high_watermark: pair[pair.len() - 1].high_watermark, ..pair[0] });
        self.pending = merged.collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that is driven.
    struct Clock(Instant);

    impl Clock {
        fn new() -> Self {
            Self(Instant::now())
        }

        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_lag_counts_from_the_first_sight_of_what_is_not_durable() {
        let (clock, mut progress) = (Clock::new(), Progress::new());
        progress.durable(10, clock.at(0));
        progress.observe(10, 10, clock.at(0));
        assert_eq!((progress.lag(), progress.durable_lag(clock.at(100))), (Some(0), Duration::ZERO));
        progress.observe(15, 15, clock.at(100));
        progress.observe(20, 18, clock.at(110));
        assert_eq!((progress.lag(), progress.durable_lag(clock.at(130))), (Some(10), seconds(30)));
        progress.durable(15, clock.at(131));
        assert_eq!(progress.durable_lag(clock.at(132)), seconds(22));
        progress.durable(20, clock.at(133));
        assert_eq!((progress.lag(), progress.durable_lag(clock.at(200))), (Some(0), Duration::ZERO));
    }

    #[test]
    fn seeing_the_same_end_again_does_not_make_the_lag_younger() {
        let (clock, mut progress) = (Clock::new(), Progress::new());
        progress.durable(0, clock.at(0));
        for second in 1..=50 {
            progress.observe(5, 5, clock.at(second));
        }
        assert_eq!(progress.durable_lag(clock.at(61)), seconds(60));
    }

    #[test]
    fn half_of_what_was_seen_at_once_being_durable_leaves_its_age() {
        let (clock, mut progress) = (Clock::new(), Progress::new());
        progress.observe(100, 100, clock.at(0));
        progress.durable(50, clock.at(5));
        assert_eq!((progress.lag(), progress.durable_lag(clock.at(7))), (Some(50), seconds(7)));
    }

    #[test]
    fn the_lag_is_known_when_it_is_known_where_the_archive_begins_and_counts_from_before() {
        let (clock, mut progress) = (Clock::new(), Progress::new());
        progress.observe(100, 100, clock.at(0));
        assert_eq!((progress.lag(), progress.durable_lag(clock.at(3))), (None, Duration::ZERO));
        progress.durable(40, clock.at(4));
        assert_eq!((progress.lag(), progress.durable_lag(clock.at(5))), (Some(60), seconds(5)));
        progress.durable(100, clock.at(6));
        assert_eq!((progress.lag(), progress.durable_lag(clock.at(7))), (Some(0), Duration::ZERO));
    }

    #[test]
    fn memory_is_bounded_and_the_lag_is_never_too_little() {
        let (clock, mut progress) = (Clock::new(), Progress::new());
        progress.durable(0, clock.at(0));
        for second in 1..=100_000_i64 {
            progress.observe(second, second, clock.at(second.cast_unsigned()));
        }
        assert!(progress.pending.len() <= MOST_SIGHTINGS);
        for durable in (0..100_000_i64).step_by(997) {
            progress.durable(durable, clock.at(100_000));
            let exact = seconds(100_000 - (durable + 1).cast_unsigned());
            assert!(progress.durable_lag(clock.at(100_000)) >= exact, "{durable}");
        }
        progress.durable(100_000, clock.at(100_000));
        assert_eq!(progress.durable_lag(clock.at(100_001)), Duration::ZERO);
    }

    #[test]
    fn recent_sightings_stay_exact_to_the_resolution() {
        let (clock, mut progress) = (Clock::new(), Progress::new());
        progress.durable(0, clock.at(0));
        for step in 1..=40_i64 {
            progress.observe(step, step, clock.at(0) + Duration::from_millis(100 * step.cast_unsigned()));
        }
        progress.durable(30, clock.at(4));
        let lag = progress.durable_lag(clock.at(4));
        assert!(lag >= Duration::from_millis(900) && lag <= Duration::from_millis(900) + RESOLUTION, "{lag:?}");
    }

    #[test]
    fn a_leader_that_lost_records_leaves_no_lag_for_them() {
        let (clock, mut progress) = (Clock::new(), Progress::new());
        progress.durable(10, clock.at(0));
        progress.observe(12, 12, clock.at(1));
        progress.observe(20, 20, clock.at(5));
        progress.observe(11, 11, clock.at(6));
        assert_eq!((progress.lag(), progress.durable_lag(clock.at(7))), (Some(1), seconds(6)));
        progress.observe(9, 9, clock.at(8));
        assert_eq!((progress.lag(), progress.durable_lag(clock.at(9))), (Some(0), Duration::ZERO));
        progress.observe(11, 11, clock.at(10));
        assert_eq!(progress.durable_lag(clock.at(12)), seconds(2));
    }
}
