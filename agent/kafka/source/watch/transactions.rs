//! The watch's view of transactions that hold a partition's end: a read-committed reader sees nothing behind the first
//! open one, so a transaction that nobody ends stops the backup of its partition.

use std::time::Duration;

use tokio::time::Instant;

use super::super::Command;
use super::{Tenure, Watch};
use crate::error::Result;
use crate::kafka::client::ActiveTransaction;
use crate::record::{Offset, Partition, Timestamp};

/// How often the leader is asked again for a transaction that it did not tell.
const AGAIN: Duration = Duration::from_secs(30);

/// A last stable offset that stands still while the log goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    at: Offset,
    since: Timestamp,
    /// When the leader is asked whose transaction it is.
    ask_at: Instant,
}

impl Watch {
    /// Hears that an open transaction holds the last stable offset at `held_at`, or that none does.
    pub(super) fn stable(&mut self, partition: &Partition, held_at: Option<Offset>) {
        let patience = self.options.transaction_patience;
        let Some(held) = self.partitions.get_mut(partition) else { return };
        if held.standing.map(|standing| standing.at) == held_at {
            return;
        }
        let ask_at = Instant::now() + patience;
        held.standing = held_at.map(|at| Standing { at, since: Timestamp::now(), ask_at });
        self.trouble(subject(partition), None);
    }

    /// Asks whose transactions have held their partitions for too long; returns when to look again.
    pub(super) fn name_transactions(&mut self, now: Instant) -> Instant {
        let mut wake = now + AGAIN;
        for (partition, held) in &mut self.partitions {
            let Some(standing) = held.standing.as_mut().filter(|_| held.tenure == Tenure::Ours) else { continue };
            if standing.ask_at > now {
                wake = wake.min(standing.ask_at);
                continue;
            }
            standing.ask_at = now + AGAIN;
            let (partition, at, leader) = (partition.clone(), standing.at, held.leader);
            let (client, commands) = (self.client.clone(), self.commands.clone());
            self.tasks.spawn(async move {
                let open = async {
                    let mut named = Vec::new();
                    for open in client.active_transactions(leader, &partition.topic, partition.index).await? {
                        let name = client.transactional_id(open.producer_id).await;
                        named.push((open, name));
                    }
                    Ok(named)
                };
                let open = open.await;
                let _ = commands.send(Command::Transactions(partition, at, open));
            });
        }
        wake
    }

    /// Hears which transactions are open in a partition whose last stable offset stands at `at`.
    pub(super) fn transactions(
        &mut self,
        partition: &Partition,
        at: Offset,
        open: Result<Vec<(ActiveTransaction, Option<String>)>>,
    ) {
        let standing = self.partitions.get(partition).and_then(|held| held.standing);
        let Some(standing) = standing.filter(|standing| standing.at == at) else { return };
        let whose = match open {
            Ok(open) => whose(partition, at, &open),
            Err(error) => format!("its leader does not tell whose transaction that is: {error}"),
        };
        let reason = format!(
            "the last stable offset has stood at {at} since {}; nothing behind it can be captured: {whose}",
            standing.since
        );
        self.trouble(subject(partition), Some(reason));
    }
}

/// Names the transactions that began at the offset `at` or before, or all where none did.
fn whose(partition: &Partition, at: Offset, open: &[(ActiveTransaction, Option<String>)]) -> String {
    let name = |(open, id): &(ActiveTransaction, Option<String>)| {
        let id = id
            .as_ref()
            .map_or_else(|| "transactional id unknown".to_owned(), |id| format!("transactional id \"{id}\""));
        format!(
            "producer id {} (epoch {}, {id}) since offset {}",
            open.producer_id, open.producer_epoch, open.first_offset
        )
    };
    let first: Vec<_> = open.iter().filter(|(open, _)| open.first_offset <= at).map(name).collect();
    let names = if first.is_empty() { open.iter().map(name).collect() } else { first };
    if names.is_empty() {
        return "the leader knows of no open transaction".to_owned();
    }
    let Partition { topic, index, .. } = partition;
    format!(
        "an open transaction of {}; if its application is gone, end it: kafka-transactions.sh abort --topic {topic} \
         --partition {index} --start-offset {at}",
        names.join(" and of ")
    )
}

fn subject(partition: &Partition) -> String {
    format!("transaction on {partition}")
}
