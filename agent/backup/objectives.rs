//! What a partition misses of its pipeline's objectives: `max_lag` and `min_headroom`, in the words of `/readyz`.
//!
//! Pure: the clocks come in. Where everything is durable nothing is missed.

use std::time::Instant;

use crate::config::Objectives;
use crate::progress::Progress;
use crate::record::{Partition, Timestamp};

/// Returns what `partition` misses at `now`, by `clock`: by what it is called, what to say.
pub(super) fn missed(
    objectives: &Objectives,
    partition: &Partition,
    progress: &Progress,
    (now, clock): (Instant, Timestamp),
) -> impl Iterator<Item = (String, String)> {
    let lag = progress.lag().filter(|lag| *lag > 0);
    let late = lag.and_then(|lag| late(objectives, partition, progress, lag, now));
    let near = lag.and_then(|lag| near(objectives, partition, progress, lag, (now, clock)));
    late.into_iter().chain(near)
}

fn late(
    objectives: &Objectives,
    partition: &Partition,
    progress: &Progress,
    lag: u64,
    now: Instant,
) -> Option<(String, String)> {
    let most = objectives.max_lag?;
    let lasts = progress.durable_lag(now);
    if lasts <= most {
        return None;
    }
    let reason = format!(
        "{lag} offsets from {} on are not durable, the oldest known for {} s: max_lag is {} s; if nothing else is wrong with \
         the pipeline, it is too slow: give it more memory_bytes or max_bytes_per_second, or share it by group_id",
        progress.durable_next()?,
        lasts.as_secs(),
        most.as_secs_f64()
    );
    Some((format!("lag of {partition}"), reason))
}

fn near(
    objectives: &Objectives,
    partition: &Partition,
    progress: &Progress,
    lag: u64,
    at: (Instant, Timestamp),
) -> Option<(String, String)> {
    let bound = objectives.min_headroom?.as_secs_f64();
    // What is kept for less than the bound could never have it.
    let bound = progress.kept_seconds(at.0, at.1).map_or(bound, |kept| bound.min(kept / 2.0));
    let left = progress.headroom_seconds(at.0, at.1).filter(|left| *left < bound)?;
    let reason = format!(
        "the source may delete the first of {lag} offsets from {} on, which are not durable, in {left:.0} s: min_headroom is \
         {bound} s here; raise the topic's retention.ms or retention.bytes until the archive has them",
        progress.durable_next()?
    );
    Some((format!("headroom of {partition}"), reason))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::progress::Retention;
    use crate::record::TopicId;

    const HOUR_MS: i64 = 3_600_000;

    /// Returns what is missed, after so many seconds, of a partition that keeps an hour and of which 10 of 15 offsets are
    /// durable.
    fn missed_after(seconds: u64, objectives: Objectives) -> Vec<(String, String)> {
        let (mut progress, began) = (Progress::new(), Instant::now());
        progress.retained(Some(Retention { ms: Some(HOUR_MS), by_size: false }));
        progress.durable(10, began);
        progress.observe(15, 15, began);
        let partition = Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 };
        let at = (began + Duration::from_secs(seconds), Timestamp(0));
        missed(&objectives, &partition, &progress, at).collect()
    }

    const fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn what_is_late_is_named_with_its_figures() {
        let objectives = Objectives { max_lag: seconds(60), min_headroom: None };
        assert_eq!(missed_after(60, objectives), []);
        let missed = missed_after(61, objectives);
        assert_eq!(missed[0].0, "lag of orders-3");
        let says = "5 offsets from 10 on are not durable, the oldest known for 61 s: max_lag is 60 s; ";
        assert!(missed[0].1.starts_with(says), "{missed:?}");
    }

    #[test]
    fn what_may_soon_be_deleted_is_named_with_its_figures() {
        let objectives = Objectives { max_lag: None, min_headroom: seconds(600) };
        assert_eq!(missed_after(3000, objectives), []);
        let missed = missed_after(3001, objectives);
        assert_eq!(missed[0].0, "headroom of orders-3");
        let says = "the source may delete the first of 5 offsets from 10 on, which are not durable, in 599 s: ";
        assert!(missed[0].1.starts_with(says), "{missed:?}");
    }

    #[test]
    fn a_topic_that_keeps_less_than_the_bound_is_named_at_half_of_what_it_keeps() {
        let objectives = Objectives { max_lag: None, min_headroom: seconds(6 * 3600) };
        assert_eq!(missed_after(1799, objectives), []);
        assert_eq!(missed_after(1801, objectives).len(), 1);
    }

    #[test]
    fn nobody_minds_by_default() {
        assert_eq!(missed_after(100_000, Objectives::default()), []);
    }
}
