//! The source, asked what became of transactions: whoever still has the data also knows whether it was aborted.
//!
//! One Fetch for each transaction, at its first batch. It counts only if the source still has that very batch, by its
//! checksum: Kafka forgets an abort with the last of its data, and a topic that was made anew, or lost its end, may have
//! another of the same producer there. Nor is the source asked about what lies beside the way along the newest fork: it
//! went on otherwise there.

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::messages as m;

use super::survey::Survey;
use crate::archive::rebuild::Transactions;
use crate::archive::sidecar::Transaction;
use crate::archive::source::chunks::Chunks;
use crate::archive::source::way::{self, Branch};
use crate::archive::{Archive, layout};
use crate::batch::{self, Header};
use crate::error::{Error, Kind, Result};
use crate::kafka::client::{OPEN_WITHIN, TopicMetadata};
use crate::kafka::fetch::{Limits, Session, Want};
use crate::kafka::wire::Connection;
use crate::kafka::{Client, Properties, code_name};
use crate::record::{Offset, OffsetRange, Partition};

/// The versions of Fetch that are spoken; up to the second, topics go by name.
const FIRST_VERSION: i16 = 4;
const LAST_BY_NAME: i16 = 12;
const LAST_VERSION: i16 = 17;

/// Bytes of one answer: the first batch comes whole, however large it is.
const LIMITS: Limits = Limits { wait_ms: 500, min_bytes: 1, max_bytes: 1 << 20, partition_max_bytes: 1 << 20 };

/// Requests of one partition that may fail before it is given up: a leader that moves costs one or two.
const MOST_FAILURES: u32 = 3;

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

    /// Decides what is undecided of a chain, as far as the source still has it; why it was not is added to `notes`.
    ///
    /// # Errors
    /// Those of the store. A source that does not answer leaves transactions undecided.
    pub(super) async fn decide(
        &self,
        archive: &Archive,
        survey: &Survey,
        transactions: &mut Transactions,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let undecided: Vec<Transaction> = transactions.undecided().collect();
        if undecided.is_empty() {
            return Ok(());
        }
        let partition = &survey.place.partition;
        let way = way::way(archive, partition, Branch::Newest).await?;
        let on_way = way.iter().find(|part| part.place == survey.place).map(|part| part.range);
        let is_shared = |entry: &&Transaction| on_way.is_some_and(|on_way| is_within(entry, on_way));
        let asked: Vec<_> = undecided.iter().filter(is_shared).copied().collect();
        if asked.len() < undecided.len() {
            notes.push(format!(
                "the source was not asked about {} undecided transactions of {} partition {}: a fork went on otherwise",
                undecided.len() - asked.len(),
                partition.topic,
                survey.place.name()
            ));
        }
        if asked.is_empty() {
            return Ok(());
        }
        let held = checksums(archive, survey, &asked).await?;
        let mut answers = HashMap::new();
        if let Err(error) = self.ask(partition, &asked, &held, &mut answers, notes).await {
            notes.push(format!("the source could not be asked about {partition}: {error}"));
        }
        for ((producer_id, first), was_aborted) in answers {
            transactions.tell(producer_id, first, was_aborted);
        }
        Ok(())
    }

    /// Adds to `answers` whether transactions were aborted, of those whose first batch the source still has as it is `held`.
    async fn ask(
        &self,
        partition: &Partition,
        asked: &[Transaction],
        held: &HashMap<(i64, Offset), u32>,
        answers: &mut HashMap<(i64, Offset), bool>,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let names = [partition.topic.to_string()];
        let metadata = self.client.metadata(Some(&names)).await?;
        let told = metadata.topics.iter().find(|topic| *topic.name == *partition.topic);
        let told = told.filter(|topic| topic.code == 0).ok_or_else(|| Error::failed("it does not have the topic"))?;
        if told.topic_id != partition.topic_id {
            return Err(Error::failed(format!("it has another topic of that name, {}", told.topic_id)));
        }
        let mut connection = self.connect(told, partition).await?;
        let (mut refused, mut failures) = (BTreeMap::<String, u64>::new(), 0);
        for entry in asked {
            let key = (entry.producer_id, entry.first);
            let Some(&crc) = held.get(&key) else { continue };
            match fetch(&mut connection, partition, entry).await {
                Ok(answer) => match fate(answer, entry, crc) {
                    Ok(was_aborted) => answers.extend(was_aborted.map(|was_aborted| (key, was_aborted))),
                    Err(error) => *refused.entry(error.to_string()).or_default() += 1,
                },
                Err(error) if failures < MOST_FAILURES => {
                    failures += 1;
                    *refused.entry(error.to_string()).or_default() += 1;
                    connection = self.connect(told, partition).await?;
                }
                Err(error) => return Err(error),
            }
        }
        let refused = refused.into_iter();
        notes
            .extend(refused.map(|(why, count)| format!("{count} times the source did not tell of {partition}: {why}")));
        Ok(())
    }

    async fn connect(&self, topic: &TopicMetadata, partition: &Partition) -> Result<Connection> {
        let led = topic.partitions.iter().find(|led| led.index == partition.index);
        let address = led.and_then(|led| self.client.address(led.leader));
        let address = address.ok_or_else(|| Error::failed("the partition has no leader"))?;
        self.client.connect(&address).await
    }
}

/// Asks for the first batch of a transaction.
async fn fetch(connection: &mut Connection, partition: &Partition, entry: &Transaction) -> Result<m::FetchResponse> {
    let last = if partition.topic_id.is_none() { LAST_BY_NAME } else { LAST_VERSION };
    let version = connection.version::<m::FetchRequest>(FIRST_VERSION..=last);
    let version = version.ok_or_else(|| Error::failed("it has no version of Fetch that we know"))?;
    let want =
        Want { partition: partition.clone(), position: entry.first, leader_epoch: -1, last_epoch: -1, behind: true };
    let request = Session::default().request(&mut [want], &LIMITS, version);
    connection.call(&request, version).await
}

/// Reads from an answer whether the transaction was aborted, whose first batch is held with the checksum `crc`; `None`
/// where the source does not have that batch any more.
fn fate(answer: m::FetchResponse, entry: &Transaction, crc: u32) -> Result<Option<bool>> {
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
        is_first_of(entry, &header) && header.crc == crc && batch::crc_matches(&records[at..at + header.total_bytes])
    });
    let aborted = data.aborted_transactions.unwrap_or_default();
    let was_aborted =
        aborted.iter().any(|aborted| aborted.producer_id.0 == entry.producer_id && aborted.first_offset <= entry.first);
    Ok(has_it.then_some(was_aborted))
}

/// Returns whether all of a transaction lies within what the source shares with the chain.
fn is_within(entry: &Transaction, shared: OffsetRange) -> bool {
    // Without a marker in what was read it goes on to the chain's end, and perhaps beyond.
    let ends_within = entry.last.map_or(shared.next == Offset::MAX, |last| last < shared.next);
    shared.contains(entry.first) && ends_within
}

fn is_first_of(entry: &Transaction, header: &Header) -> bool {
    let is_it = (header.producer_id, header.base_offset) == (entry.producer_id, entry.first);
    is_it && header.count > 0 && !header.is_control()
}

/// Reads the checksums of the transactions' first batches from the logs, of those that are there and sound.
async fn checksums(archive: &Archive, survey: &Survey, asked: &[Transaction]) -> Result<HashMap<(i64, Offset), u32>> {
    let mut found = HashMap::new();
    for segment in survey.segments() {
        let mut wanted: Vec<_> = asked.iter().filter(|entry| segment.range.contains(entry.first)).collect();
        if wanted.is_empty() {
            continue;
        }
        let key = format!("{}{}", survey.place.folder, layout::log(segment.range.first));
        let mut chunks = Chunks::new(archive.store(), &key, segment.bytes);
        while !wanted.is_empty() {
            let chunk = match chunks.next().await {
                Ok(Some(chunk)) => chunk,
                // What follows on damage is not asked about.
                Ok(None) => break,
                Err(error) if error.kind() == Kind::Damaged => break,
                Err(error) => return Err(error),
            };
            for (at, header) in batch::walk(&chunk.bytes).map_while(Result::ok) {
                let is_sound = || batch::crc_matches(&chunk.bytes[at..at + header.total_bytes]);
                let Some(n) = wanted.iter().position(|entry| is_first_of(entry, &header)) else { continue };
                if is_sound() {
                    let entry = wanted.swap_remove(n);
                    let _ = found.insert((entry.producer_id, entry.first), header.crc);
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
