//! The source, asked what became of transactions: whoever still has the data also knows whether it was aborted.
//!
//! One Fetch for each transaction, at its first batch. It counts only if the source still has that very batch: Kafka
//! forgets an abort with the last of its data.

use std::collections::HashMap;

use kafka_protocol::messages as m;

use crate::archive::Archive;
use crate::archive::rebuild::Transactions;
use crate::archive::sidecar::Transaction;
use crate::batch;
use crate::error::{Error, Result};
use crate::kafka::client::{OPEN_WITHIN, TopicMetadata};
use crate::kafka::fetch::{Limits, Session, Want};
use crate::kafka::wire::Connection;
use crate::kafka::{Client, Properties, code_name};
use crate::record::Partition;

/// The versions of Fetch that are spoken; up to the second, topics go by name.
const FIRST_VERSION: i16 = 4;
const LAST_BY_NAME: i16 = 12;
const LAST_VERSION: i16 = 17;

/// Bytes of one answer: the first batch comes whole, however large it is.
const LIMITS: Limits = Limits { wait_ms: 500, min_bytes: 1, max_bytes: 1 << 20, partition_max_bytes: 1 << 20 };

/// A cluster that is asked.
#[derive(Debug)]
pub struct Source {
    client: Client,
}

impl Source {
    /// Reaches the cluster.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) when no broker answers.
    pub async fn open(properties: Properties) -> Result<Self> {
        Ok(Self { client: Client::open(properties, OPEN_WITHIN).await? })
    }

    /// Returns the cluster's id, if it has one.
    pub fn cluster_id(&self) -> Option<String> {
        self.client.cluster_id()
    }

    /// Refuses a cluster that is not the backup's.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage), with both ids.
    pub fn check(&self, archive: &Archive) -> Result<()> {
        match (&archive.backup().cluster_id, self.cluster_id()) {
            (Some(held), Some(met)) if *held != met => {
                Err(Error::usage(format!("the backup is of cluster {held}, this cluster is {met}"))
                    .hint("leave out --against-cluster, or correct --bootstrap-servers"))
            }
            _ => Ok(()),
        }
    }

    /// Decides what is undecided of a partition, as far as the source still has it; why it was not is added to `notes`.
    ///
    /// # Errors
    /// None: a source that does not answer leaves transactions undecided.
    pub async fn decide(
        &self,
        partition: &Partition,
        transactions: &mut Transactions,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let undecided: Vec<Transaction> = transactions.undecided().collect();
        if undecided.is_empty() {
            return Ok(());
        }
        match self.ask(partition, &undecided).await {
            Ok(answers) => {
                for entry in undecided {
                    if let Some(&was_aborted) = answers.get(&(entry.producer_id, entry.first)) {
                        transactions.tell(entry.producer_id, entry.first, was_aborted);
                    }
                }
            }
            Err(error) => notes.push(format!("the source could not be asked about {partition}: {error}")),
        }
        Ok(())
    }

    /// Returns whether transactions were aborted, by producer and first offset, of those that the source still has.
    async fn ask(&self, partition: &Partition, undecided: &[Transaction]) -> Result<HashMap<(i64, i64), bool>> {
        let names = [partition.topic.to_string()];
        let metadata = self.client.metadata(Some(&names)).await?;
        let told = metadata.topics.iter().find(|topic| *topic.name == *partition.topic);
        let told = told.filter(|topic| topic.code == 0).ok_or_else(|| Error::failed("it does not have the topic"))?;
        if told.topic_id != partition.topic_id {
            return Err(Error::failed(format!("it has another topic of that name, {}", told.topic_id)));
        }
        let mut connection = self.connect(told, partition).await?;
        let mut answers = HashMap::new();
        for entry in undecided {
            if let Some(was_aborted) = fetch(&mut connection, partition, entry).await? {
                let _ = answers.insert((entry.producer_id, entry.first), was_aborted);
            }
        }
        Ok(answers)
    }

    async fn connect(&self, topic: &TopicMetadata, partition: &Partition) -> Result<Connection> {
        let led = topic.partitions.iter().find(|led| led.index == partition.index);
        let address = led.and_then(|led| self.client.address(led.leader));
        let address = address.ok_or_else(|| Error::failed("the partition has no leader"))?;
        self.client.connect(&address).await
    }
}

/// Asks whether the transaction was aborted; `None` where the source does not have its first batch any more.
async fn fetch(connection: &mut Connection, partition: &Partition, entry: &Transaction) -> Result<Option<bool>> {
    let last = if partition.topic_id.is_none() { LAST_BY_NAME } else { LAST_VERSION };
    let version = connection.version::<m::FetchRequest>(FIRST_VERSION..=last);
    let version = version.ok_or_else(|| Error::failed("it has no version of Fetch that we know"))?;
    let want =
        Want { partition: partition.clone(), position: entry.first, leader_epoch: -1, last_epoch: -1, behind: true };
    let request = Session::default().request(&mut [want], &LIMITS, version);
    let answer = connection.call(&request, version).await?;
    if answer.error_code != 0 {
        return Err(Error::failed(format!("it refuses: {}", code_name(answer.error_code))));
    }
    let Some(data) = answer.responses.into_iter().flat_map(|topic| topic.partitions).next() else { return Ok(None) };
    // 1: the offset is out of what the source has.
    match data.error_code {
        0 => {}
        1 => return Ok(None),
        code => return Err(Error::failed(format!("it refuses: {}", code_name(code)))),
    }
    let records = data.records.unwrap_or_default();
    let has_it = batch::walk(&records).map_while(Result::ok).any(|(at, header)| {
        header.producer_id == entry.producer_id
            && header.base_offset == entry.first
            && header.count > 0
            && !header.is_control()
            && batch::crc_matches(&records[at..at + header.total_bytes])
    });
    let aborted = data.aborted_transactions.unwrap_or_default();
    let was_aborted =
        aborted.iter().any(|aborted| aborted.producer_id.0 == entry.producer_id && aborted.first_offset <= entry.first);
    Ok(has_it.then_some(was_aborted))
}
