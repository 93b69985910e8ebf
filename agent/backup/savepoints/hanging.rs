//! Transactions that hang: a partition's last stable offset that stands below its end for longer than transactions are
//! open. The archive cannot pass it, so no savepoint behind it becomes complete; so it is named.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::archive::savepoint::Hanging;
use crate::archive::source::side_by_side;
use crate::error::Result;
use crate::kafka::Client;
use crate::kafka::client::ActiveTransaction;
use crate::record::{Offset, Partition};

/// In how many partitions the producers are asked for, one request each. A producer that hangs does so in all its
/// partitions; beyond this many the offsets alone are named.
const MOST_NAMED: usize = 100;

/// How many leaders are asked at a time: a leader is asked over one connection, one question after the other.
const LEADERS_AT_ONCE: usize = 16;

/// How long one leader may take for all that it is asked. The names only help, the offsets are there already: a broker
/// that is away must not hold up the savepoint by a time-out for each of its partitions.
const NAMES_WITHIN: Duration = Duration::from_secs(10);

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
        let standing = self.standing(held_back, earlier, Instant::now());
        let client = client.clone();
        let asked = move |partition: Partition, leader| {
            let client = client.clone();
            async move { client.active_transactions(leader, &partition.topic, partition.index).await }
        };
        let told = open_in(standing.iter().take(MOST_NAMED).copied(), NAMES_WITHIN, asked).await;
        let mut hanging = Vec::new();
        for held in standing {
            let HeldBack { partition, last_stable, .. } = held;
            // A leader that does not tell leaves the offset, which is what counts.
            let open = told.get(partition).map(Vec::as_slice).unwrap_or_default();
            let Partition { topic, index, .. } = partition;
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

/// Returns what the leaders of these partitions tell of them, by `ask`: all leaders side by side, the partitions of each
/// one after the other. What a leader does not tell `within` that time is missing.
async fn open_in<'a, A>(
    held: impl Iterator<Item = &'a HeldBack>,
    within: Duration,
    ask: impl Fn(Partition, i32) -> A + Clone + Send + Sync + 'static,
) -> HashMap<Partition, Vec<ActiveTransaction>>
where
    A: Future<Output = Result<Vec<ActiveTransaction>>> + Send + 'static,
{
    let mut by_leader: BTreeMap<i32, Vec<Partition>> = BTreeMap::new();
    for held in held {
        by_leader.entry(held.leader).or_default().push(held.partition.clone());
    }
    let of_leader = |(leader, partitions): (i32, Vec<Partition>)| {
        let ask = ask.clone();
        async move {
            let deadline = Instant::now() + within;
            let mut told = Vec::new();
            for partition in partitions {
                let Ok(open) = timeout_at(deadline, ask(partition.clone(), leader)).await else { break };
                told.extend(open.ok().map(|open| (partition, open)));
            }
            told
        }
    };
    // One that ends by a defect leaves the offsets, too.
    side_by_side::each(by_leader, LEADERS_AT_ONCE, of_leader).await.unwrap_or_default().into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Barrier;

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

    #[tokio::test]
    async fn leaders_are_asked_for_names_side_by_side_and_one_that_is_silent_costs_its_own() {
        let both = Arc::new(Barrier::new(2));
        let ask = move |partition: Partition, leader| {
            let both = both.clone();
            async move {
                match leader {
                    3 => std::future::pending().await,
                    // Neither is told before the other is asked.
                    _ => {
                        let _ = both.wait().await;
                    }
                }
                let (producer_id, first_offset) = (i64::from(partition.index), 7);
                let last_time = crate::record::Timestamp::NONE;
                Ok(vec![ActiveTransaction { producer_id, producer_epoch: 0, first_offset, last_time }])
            }
        };
        let held = [(0, 1), (1, 2), (2, 3), (3, 3)].map(|(index, leader)| {
            let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index };
            HeldBack { partition, leader, last_stable: 7 }
        });
        let told = open_in(held[..2].iter(), Duration::from_secs(60), ask.clone()).await;
        let mut producers: Vec<_> = told.values().flatten().map(|open| open.producer_id).collect();
        producers.sort_unstable();
        assert_eq!(producers, [0, 1]);
        assert!(open_in(held[2..].iter(), Duration::from_millis(10), ask).await.is_empty());
    }

    #[test]
    fn what_hung_before_hangs_still() {
        let earlier = Hanging { topic: "t".into(), partition: 3, producer_id: 9, first_offset: 7 };
        let mut standing = Standing::new(Duration::from_secs(300));
        assert_eq!(standing.standing(&held(7), std::slice::from_ref(&earlier), Instant::now()).len(), 1);
        assert!(standing.standing(&held(8), &[earlier], Instant::now()).is_empty());
    }
}
