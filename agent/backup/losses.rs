//! What was lost: records that were deleted before they were archived (a gap), records that the archive holds and the
//! source no longer has (a fork), and records that were read and not durable when their partition was let go (dropped).
//! This agent can mend none of them, so none is ever "right again": it is said for as long as somebody must see it, and
//! never for ever.
//!
//! Pure: the clock comes in. A loss stands until data behind it is durable, or for [`STANDS`] when none comes; the
//! counters and the archive tell of it afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::record::{Offset, OffsetRange, Partition};

/// How long a loss is said of a partition that gets no data. Alerts fire after minutes of a state that lasts: half
/// would slip through between two looks of a slow one, much more would keep a replica "not ready" for nothing.
const STANDS: Duration = Duration::from_secs(10 * 60);

/// One loss.
#[derive(Debug, Clone)]
struct Loss {
    partition: Partition,
    reason: String,
    since: Instant,
    /// Data behind this offset ends it; `None` until it is known where the archive goes on.
    behind: Option<Offset>,
}

/// The losses that stand, by what `/readyz` calls them.
#[derive(Debug, Default)]
pub(super) struct Losses {
    standing: BTreeMap<String, Loss>,
}

impl Losses {
    /// Takes note of a gap; returns what to call it and what to say.
    pub(super) fn gap(
        &mut self,
        partition: &Partition,
        range: OffsetRange,
        why: &str,
        now: Instant,
    ) -> (String, String) {
        let lost = range.next - range.first;
        let reason = format!(
            "{lost} offsets {range} are not in the archive and cannot be had any more: {why}; compare \
             kafka_backup_headroom_seconds with the topic's retention; `describe` lists the gap"
        );
        self.stand(format!("gap in {partition}"), partition, reason, now, Some(range.next))
    }

    /// Takes note that the source's log ends at `end`, before what the archive holds; returns what to call it and what
    /// to say.
    pub(super) fn fork(&mut self, partition: &Partition, end: Offset, now: Instant) -> (String, String) {
        let reason = format!(
            "the source has lost what the archive holds from offset {end} on (an unclean leader election does that); \
             the archive keeps it and goes on in a fork beside it"
        );
        self.stand(format!("fork of {partition}"), partition, reason, now, None)
    }

    /// Takes note that a partition was let go with `range` read and not durable; returns what to call it and what to
    /// say.
    pub(super) fn dropped(&mut self, partition: &Partition, range: OffsetRange, now: Instant) -> (String, String) {
        let reason = format!(
            "{} offsets {range} were read but not durable when it was let go: another reader of the group reads them \
             again, unless its topic was deleted",
            range.next - range.first
        );
        // If it comes back, it is made good with the last of these offsets.
        self.stand(format!("dropped of {partition}"), partition, reason, now, Some(range.next - 1))
    }

    fn stand(
        &mut self,
        subject: String,
        partition: &Partition,
        reason: String,
        since: Instant,
        behind: Option<Offset>,
    ) -> (String, String) {
        let loss = Loss { partition: partition.clone(), reason: reason.clone(), since, behind };
        self.standing.insert(subject.clone(), loss);
        (subject, reason)
    }

    /// Takes note that the archive goes on at `next` in a partition.
    pub(super) fn opened(&mut self, partition: &Partition, next: Offset) {
        for loss in self.standing.values_mut().filter(|loss| loss.partition == *partition) {
            loss.behind.get_or_insert(next);
        }
    }

    /// Takes note that everything of a partition before `next` is durable; returns what ends with it.
    pub(super) fn durable(&mut self, partition: &Partition, next: Offset) -> Vec<String> {
        self.end(|loss| loss.partition == *partition && loss.behind.is_some_and(|behind| next > behind))
    }

    /// Returns what has stood for long enough.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<String> {
        self.end(|loss| now.saturating_duration_since(loss.since) >= STANDS)
    }

    /// Returns what stands: what to call it and what to say.
    pub(super) fn standing(&self) -> impl Iterator<Item = (&str, &str)> {
        self.standing.iter().map(|(subject, loss)| (subject.as_str(), loss.reason.as_str()))
    }

    fn end(&mut self, over: impl Fn(&Loss) -> bool) -> Vec<String> {
        self.standing.extract_if(.., |_, loss| over(loss)).map(|(subject, _)| subject).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::record::TopicId;

    fn partition(index: i32) -> Partition {
        Partition { topic: Arc::from("orders"), topic_id: TopicId::NONE, index }
    }

    fn names(losses: &Losses) -> Vec<&str> {
        losses.standing().map(|(subject, _)| subject).collect()
    }

    #[test]
    fn a_gap_stands_until_data_behind_it_is_durable() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        let (subject, reason) = losses.gap(&partition(3), OffsetRange { first: 10, next: 25 }, "retention", now);
        assert_eq!(subject, "gap in orders-3");
        assert!(reason.starts_with("15 offsets [10, 25) are not in the archive and cannot be had"), "{reason}");
        assert!(losses.durable(&partition(3), 25).is_empty(), "that is the gap itself");
        assert!(losses.durable(&partition(2), 99).is_empty());
        assert_eq!(names(&losses), ["gap in orders-3"]);
        assert_eq!(losses.durable(&partition(3), 26), ["gap in orders-3"]);
        assert!(names(&losses).is_empty());
    }

    #[test]
    fn a_fork_stands_until_data_of_the_fork_is_durable() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        losses.fork(&partition(0), 50, now);
        assert!(losses.durable(&partition(0), 80).is_empty(), "what was held of the old chain");
        losses.opened(&partition(0), 50);
        losses.opened(&partition(0), 55);
        assert!(losses.durable(&partition(0), 50).is_empty());
        assert_eq!(losses.durable(&partition(0), 51), ["fork of orders-0"]);
    }

    #[test]
    fn what_was_dropped_stands_until_it_is_durable_after_all() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        let (subject, reason) = losses.dropped(&partition(3), OffsetRange { first: 10, next: 25 }, now);
        assert_eq!(subject, "dropped of orders-3");
        assert!(reason.starts_with("15 offsets [10, 25) were read but not durable when it was let go"), "{reason}");
        assert!(losses.durable(&partition(3), 24).is_empty());
        assert_eq!(losses.durable(&partition(3), 25), ["dropped of orders-3"]);
        losses.dropped(&partition(3), OffsetRange { first: 10, next: 25 }, now);
        assert_eq!(losses.expired(now + STANDS), ["dropped of orders-3"]);
    }

    #[test]
    fn nothing_stands_for_ever() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        losses.fork(&partition(0), 50, now);
        losses.gap(&partition(1), OffsetRange { first: 0, next: 1 }, "retention", now + STANDS / 2);
        assert!(losses.expired(now + STANDS / 2).is_empty());
        assert_eq!(losses.expired(now + STANDS), ["fork of orders-0"]);
        assert_eq!(losses.expired(now + 2 * STANDS), ["gap in orders-1"]);
    }
}
