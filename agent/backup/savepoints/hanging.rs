//! Transactions that hang: a partition's last stable offset that stands below its end for longer than transactions are
//! open. The archive cannot pass it, so no savepoint behind it becomes complete; so it is named.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::archive::savepoint::Hanging;
use crate::kafka::Client;
use crate::record::{Offset, Partition};

/// In how many partitions the producers are asked for, one request each. A producer that hangs does so in all its
/// partitions; beyond this many the offsets alone are named.
const MOST_NAMED: usize = 100;

/// A partition whose last stable offset lies below its end.
#[derive(Debug, Clone)]
pub(super) struct HeldBack {
    pub(super) partition: Partition,
    pub(super) leader: i32,
    pub(super) last_stable: Offset,
}

/// Since when last stable offsets stand where they do.
pub(super) struct Standing {
    patience: Duration,
    since: HashMap<Partition, (Offset, Instant)>,
}

impl Standing {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, since: HashMap::new() }
    }

    /// Returns the transactions that hang, given what is held back now and what hung before.
    pub(super) async fn hanging(
        &mut self,
        client: &Client,
        held_back: &[HeldBack],
        earlier: &[Hanging],
    ) -> Vec<Hanging> {
        let mut hanging = Vec::new();
        let standing = self.standing(held_back, earlier, Instant::now());
        for (asked, held) in standing.into_iter().enumerate() {
            let HeldBack { partition: Partition { topic, index, .. }, leader, last_stable } = held;
            let open = match asked < MOST_NAMED {
                // A leader that does not tell leaves the offset, which is what counts.
                true => client.active_transactions(*leader, topic, *index).await.unwrap_or_default(),
                false => Vec::new(),
            };
            let first = open.iter().filter(|open| open.first_offset <= *last_stable);
            let mut named: Vec<_> = first.map(|open| (open.producer_id, open.first_offset)).collect();
            if named.is_empty() {
                named.push((-1, *last_stable));
            }
            hanging.extend(named.into_iter().map(|(producer_id, first_offset)| Hanging {
                topic: topic.to_string(),
                partition: *index,
                producer_id,
                first_offset,
            }));
        }
        hanging
    }

    /// Returns what has been held back at one offset for longer than the patience, or was so by an earlier savepoint:
    /// a new process need not wait anew.
    fn standing<'a>(&mut self, held_back: &'a [HeldBack], earlier: &[Hanging], now: Instant) -> Vec<&'a HeldBack> {
        let before = std::mem::take(&mut self.since);
        let mut standing = Vec::new();
        for held in held_back {
            let at = held.last_stable;
            let since =
                before.get(&held.partition).filter(|(offset, _)| *offset == at).map_or(now, |(_, since)| *since);
            self.since.insert(held.partition.clone(), (at, since));
            let hung = earlier.iter().any(|earlier| {
                earlier.topic == *held.partition.topic
                    && earlier.partition == held.partition.index
                    && earlier.first_offset == at
            });
            if hung || now - since >= self.patience {
                standing.push(held);
            }
        }
        standing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TopicId;

    fn held(last_stable: Offset) -> Vec<HeldBack> {
        let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 3 };
        vec![HeldBack { partition, leader: 1, last_stable }]
    }

    #[test]
    fn what_stands_at_one_offset_for_longer_than_the_patience_hangs() {
        let (mut standing, began) = (Standing::new(Duration::from_secs(300)), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        assert!(standing.standing(&held(7), &[], at(0)).is_empty());
        assert!(standing.standing(&held(8), &[], at(200)).is_empty(), "it moved");
        assert!(standing.standing(&held(8), &[], at(499)).is_empty());
        assert_eq!(standing.standing(&held(8), &[], at(500)).len(), 1);
        assert!(standing.standing(&[], &[], at(501)).is_empty());
        assert!(standing.standing(&held(8), &[], at(502)).is_empty(), "it was over, and is another one");
    }

    #[test]
    fn what_hung_before_hangs_still() {
        let earlier = Hanging { topic: "t".into(), partition: 3, producer_id: 9, first_offset: 7 };
        let mut standing = Standing::new(Duration::from_secs(300));
        assert_eq!(standing.standing(&held(7), std::slice::from_ref(&earlier), Instant::now()).len(), 1);
        assert!(standing.standing(&held(8), &[earlier], Instant::now()).is_empty());
    }
}
