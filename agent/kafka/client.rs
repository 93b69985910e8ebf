//! The control plane of a cluster: who is there, who leads what, which offsets there are, how topics are set.
//!
//! Order: requests to one broker go one after the other over one connection of its own, apart from the connections
//! that fetch: a broker answers a connection in order, and a question would wait behind a long poll for its whole
//! wait. Retry: a question to *any* broker tries them all, known ones first, then `bootstrap.servers`, the next one as
//! soon as one has been silent for two seconds, and takes the first answer; a connection that was kept and turns out
//! dead is opened once more; nothing else is tried again here. Cancel: safe at any point; a connection in mid-answer is
//! closed, and no task is left behind.
//!
//! Identity: a client is of one cluster, the first that answered it. Every connection is asked for its cluster before
//! anything else is believed of it ([`Client::connect`]): brokers that were replaced by those of another cluster, behind
//! the same addresses and with the same topics' names, are an error and not a source.

mod asking;
mod epochs;
pub mod groups;
mod heads;
mod metadata;
mod race;
pub mod topics;
mod transactions;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::messages as m;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::protocol::StrBytes;
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::kafka::identity::Known as KnownTopics;
use crate::kafka::wire::Connection;
use crate::kafka::{Properties, UNKNOWN_TOPIC_ID, code_name};
use crate::pipeline::TopicConfig;
use crate::record::{Offset, Partition, Timestamp};
pub use epochs::{EpochAnswer, EpochQuery};
pub use metadata::{Metadata, PartitionMetadata, TopicMetadata};
pub use transactions::ActiveTransaction;

/// How long a one-shot command waits for a cluster before it gives up: long enough for a broker to start beside us,
/// short enough to be watched.
pub const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// The versions of Metadata that we speak. Version 4 is the first that can ask without creating.
const METADATA: RangeInclusive<i16> = 4..=12;

/// DescribeConfigs: the resource type of a topic.
const RESOURCE_TOPIC: i8 = 2;

/// DescribeConfigs: the source of a setting that was made on the topic itself.
const SOURCE_TOPIC: i8 = 1;

/// A client of a cluster's control plane. Clones share connections and what is known of the brokers.
#[derive(Debug, Clone)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    properties: Properties,
    learnt: Arc<Learnt>,
    /// One connection per address, taken out while it is in use.
    connections: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<Connection>>>>>,
}

/// What was learnt of the cluster, by whichever client asked.
#[derive(Debug, Default)]
struct Learnt {
    known: Mutex<Known>,
    /// The addresses of the brokers that coordinate groups, as far as anybody asked.
    coordinators: Mutex<HashMap<String, String>>,
}

#[derive(Debug, Default)]
struct Known {
    cluster_id: Option<String>,
    brokers: BTreeMap<i32, String>,
    /// The addresses that were silent or failed when they were asked last; they are asked after the others.
    doubtful: HashSet<String>,
}

/// Which offset of a partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The log start: the first offset that can be read.
    Earliest,
    /// The end: the last stable offset under [`Isolation::Committed`], else the high watermark.
    Latest,
    /// The first offset whose record has this time or a later one; −1 where there is none.
    Time(Timestamp),
}

/// What a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Everything up to the high watermark.
    Uncommitted = 0,
    /// Everything up to the last stable offset.
    Committed = 1,
}

/// A question for one offset of a partition, for the partition's leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetQuery {
    /// The partition.
    pub partition: Partition,
    /// The leader epoch that we know, −1 for none: a leader of another epoch refuses, so that no stale one answers.
    pub leader_epoch: i32,
    /// Which offset.
    pub at: At,
}

/// The answer to an [`OffsetQuery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetAnswer {
    /// Kafka's error code, 0 for none.
    pub code: i16,
    /// The offset; −1 where there is none.
    pub offset: Offset,
    /// The leader epoch of the record at the offset, −1 where unknown.
    pub leader_epoch: i32,
}

impl Client {
    /// Makes a client; connections are opened when they are needed.
    pub fn new(properties: Properties) -> Self {
        Self::with(properties, Arc::default())
    }

    /// Makes a client of the same cluster with connections of its own. What one of them learns of brokers and coordinators
    /// both know: of several that share the work, one asks for all.
    pub fn beside(&self) -> Self {
        Self::with(self.properties().clone(), self.0.learnt.clone())
    }

    fn with(properties: Properties, learnt: Arc<Learnt>) -> Self {
        Self(Arc::new(Shared { properties, learnt, connections: Mutex::default() }))
    }

    /// Makes a client and waits up to `within` ([`OPEN_WITHIN`]) until a broker of the cluster has answered.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed), naming the brokers that were tried.
    pub async fn open(properties: Properties, within: Duration) -> Result<Self> {
        let client = Self::new(properties);
        let deadline = Instant::now() + within;
        let mut backoff = client.backoff();
        let mut last = None;
        while let Ok(answer) = timeout_at(deadline, client.metadata(Some(&[]))).await {
            match answer {
                Ok(_) => return Ok(client),
                Err(error) if error.retryable() => last = Some(error),
                Err(error) => return Err(error),
            }
            sleep(backoff.wait().min(deadline.saturating_duration_since(Instant::now()))).await;
        }
        let servers = client.properties().bootstrap_servers.join(", ");
        let error = Error::failed(format!("cannot reach the cluster at {servers} within {} s", within.as_secs_f32()))
            .hint("check `bootstrap.servers` and that a broker is running");
        Err(match last {
            Some(last) => error.source(last),
            None => error,
        })
    }

    /// Returns the properties of the client.
    pub fn properties(&self) -> &Properties {
        &self.0.properties
    }

    /// Returns the cluster's id, once a broker has told it.
    pub fn cluster_id(&self) -> Option<String> {
        self.known().cluster_id.clone()
    }

    /// Returns the `host:port` of a broker, as the newest metadata has it.
    pub fn address(&self, broker: i32) -> Option<String> {
        self.known().brokers.get(&broker).cloned()
    }

    /// Returns waits between attempts, as configured.
    pub fn backoff(&self) -> Backoff {
        Backoff::new(self.properties().backoff, self.properties().backoff_max)
    }

    /// Asks any broker for the cluster's brokers and the given topics; all topics for `None`. Creates none.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient), naming the brokers tried, when none answers;
    /// [`Kind::Failed`](crate::error::Kind::Failed) when those that answer are of another cluster than before.
    pub async fn metadata(&self, topics: Option<&[String]>) -> Result<Metadata> {
        let topic = |name: &String| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = m::MetadataRequest::default()
            .with_topics(topics.map(|topics| topics.iter().map(topic).collect()))
            .with_allow_auto_topic_creation(false);
        let answer = self.ask_any(METADATA, &request).await?.ok_or_else(too_old)?;
        let metadata = Metadata::from_answer(answer);
        if metadata.brokers.is_empty() {
            // One that is starting knows of no topics either, and must not be believed.
            return Err(Error::transient("a broker that is starting knows of no brokers yet"));
        }
        self.known().brokers.clone_from(&metadata.brokers);
        Ok(metadata)
    }

    /// Asks `broker`, which must lead all the partitions, for offsets; answers are in the order of the queries.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when the broker is unknown or does not answer; errors of
    /// single partitions are in their answers.
    pub async fn list_offsets(
        &self,
        broker: i32,
        queries: &[OffsetQuery],
        isolation: Isolation,
    ) -> Result<Vec<OffsetAnswer>> {
        let address = self.known_address(broker)?;
        let known =
            || KnownTopics::new(queries.iter().map(|query| (&*query.partition.topic, query.partition.topic_id)));
        // A partition may stand only once in a request: several questions of one go in several requests.
        let mut answers = vec![OffsetAnswer { code: -1, offset: -1, leader_epoch: -1 }; queries.len()];
        let mut left: Vec<usize> = (0..queries.len()).collect();
        while !left.is_empty() {
            let mut now: BTreeMap<(&str, i32), usize> = BTreeMap::new();
            left.retain(|at| {
                let key = (&*queries[*at].partition.topic, queries[*at].partition.index);
                now.contains_key(&key) || now.insert(key, *at).is_some()
            });
            let request = list_offsets_request(&now, queries, isolation);
            let Some((answer, gone)) = self.ask_about(&address, 2..=9, &request, known()).await? else {
                return Err(Error::failed(format!("broker {address} has no version of ListOffsets that we know")));
            };
            for (topic, partition) in answer.topics.iter().flat_map(told) {
                let Some(at) = now.get(&(topic, partition.partition_index)) else { continue };
                let is_gone = gone.contains(&queries[*at].partition.topic_id);
                let code = if is_gone { UNKNOWN_TOPIC_ID } else { partition.error_code };
                let offset = partition.offset;
                answers[*at] = OffsetAnswer { code, offset, leader_epoch: partition.leader_epoch };
            }
        }
        Ok(answers)
    }

    /// Asks any broker for the settings of topics. Where the brokers lack the call, every list is empty.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when no broker answers. What is wrong with a single topic
    /// stands in its place.
    pub async fn topic_configs(&self, topics: &[String]) -> Result<BTreeMap<String, Result<Vec<TopicConfig>>>> {
        let resource = |name: &String| {
            DescribeConfigsResource::default()
                .with_resource_type(RESOURCE_TOPIC)
                .with_resource_name(StrBytes::from_string(name.clone()))
                .with_configuration_keys(None)
        };
        let request = m::DescribeConfigsRequest::default().with_resources(topics.iter().map(resource).collect());
        let Some(answer) = self.ask_any(1..=4, &request).await? else {
            return Ok(topics.iter().map(|topic| (topic.clone(), Ok(Vec::new()))).collect());
        };
        let settings = answer.results.into_iter().map(|result| {
            let name = result.resource_name.to_string();
            if result.error_code != 0 {
                let code = code_name(result.error_code);
                let error = Error::failed(format!("the settings of topic \"{name}\" cannot be read: {code}"));
                return (name, Err(error));
            }
            let config = |config: m::describe_configs_response::DescribeConfigsResourceResult| TopicConfig {
                name: config.name.to_string(),
                value: if config.is_sensitive { None } else { config.value.map(|value| value.to_string()) },
                set: config.config_source == SOURCE_TOPIC,
            };
            (name, Ok(result.configs.into_iter().map(config).collect()))
        });
        Ok(settings.collect())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.learnt.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn coordinators_known(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.0.learnt.coordinators.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<Option<Connection>>>>> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_old() -> Error {
    Error::failed("the cluster is too old: no common version of Metadata").hint("Kafka 0.11 at least")
}

fn topic_name(name: &str) -> m::TopicName {
    StrBytes::from_string(name.to_owned()).into()
}

/// Pairs each partition of a topic with the topic's name.
fn told(topic: &ListOffsetsTopicResponse) -> impl Iterator<Item = (&str, &ListOffsetsPartitionResponse)> {
    topic.partitions.iter().map(|partition| (topic.name.as_str(), partition))
}

fn list_offsets_request(
    now: &BTreeMap<(&str, i32), usize>,
    queries: &[OffsetQuery],
    isolation: Isolation,
) -> m::ListOffsetsRequest {
    let mut topics: Vec<ListOffsetsTopic> = Vec::new();
    for ((topic, index), at) in now {
        let query = &queries[*at];
        let timestamp = match query.at {
            At::Latest => -1,
            At::Earliest => -2,
            At::Time(time) => time.0,
        };
        let partition = ListOffsetsPartition::default()
            .with_partition_index(*index)
            .with_current_leader_epoch(query.leader_epoch)
            .with_timestamp(timestamp);
        match topics.last_mut() {
            Some(last) if &**last.name == *topic => last.partitions.push(partition),
            _ => topics.push(ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition])),
        }
    }
    m::ListOffsetsRequest::default()
        .with_replica_id(m::BrokerId(-1))
        .with_isolation_level(isolation as i8)
        .with_topics(topics)
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::asking::PATIENCE;
    use super::*;
    use crate::record::TopicId;

    #[tokio::test]
    async fn an_unreachable_cluster_fails_within_its_bound_and_names_the_brokers_tried() {
        // Port 1 is nobody's: connections to it are refused at once.
        let map = [("bootstrap.servers".to_owned(), "127.0.0.1:1,localhost:1".to_owned())];
        let properties = Properties::new(map.into()).expect("good properties");
        let began = Instant::now();
        let error = Client::open(properties, Duration::from_millis(300)).await.expect_err("nobody is there");
        assert!(began.elapsed() < Duration::from_secs(3));
        assert_eq!(error.kind(), crate::error::Kind::Failed);
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:1, localhost:1") && !text.contains('\n'), "{text}");
    }

    fn client(servers: &str) -> Client {
        let map = [("bootstrap.servers".to_owned(), servers.to_owned())];
        Client::new(Properties::new(map.into()).expect("good properties"))
    }

    #[tokio::test]
    async fn a_broker_that_takes_connections_and_is_silent_holds_up_one_look_a_little_and_the_next_not_at_all() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        // The system accepts for it; nobody ever answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = silent.local_addr().expect("bound").to_string();
        let client = client(&format!("{address},{}", cluster.bootstrap_servers()));
        let began = Instant::now();
        client.metadata(Some(&[])).await.expect("the other one answers");
        assert!((PATIENCE..PATIENCE * 3).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(client.addresses().last(), Some(&address), "it is asked last from now on");
    }

    #[tokio::test]
    async fn a_broker_of_another_cluster_is_refused_and_nothing_it_says_is_taken_over() {
        let (ours, other) =
            (MockCluster::new(1).expect("a mock cluster"), MockCluster::new(2).expect("a mock cluster"));
        let client = client(&ours.bootstrap_servers());
        let known = client.metadata(Some(&[])).await.expect("it answers").brokers;
        let (id, met) = (client.cluster_id().expect("it has an id"), other.bootstrap_servers());
        let error = client.connect(met.split(',').next().expect("a broker")).await.expect_err("another cluster");
        assert!(!error.retryable() && error.to_string().contains(&format!("it was {id}")), "{error}");
        // A broker of ours that another cluster has taken the address of.
        client.known().brokers = BTreeMap::from([(1, met.split(',').next().expect("a broker").to_owned())]);
        client.connections().clear();
        let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 };
        let asked = OffsetQuery { partition, leader_epoch: -1, at: At::Latest };
        let error = client.list_offsets(1, &[asked], Isolation::Committed).await.expect_err("another cluster");
        assert!(error.to_string().contains("another cluster"), "{error}");
        client.metadata(Some(&[])).await.expect("the bootstrap server is of ours still");
        assert_eq!((client.address(1), client.cluster_id()), (known.get(&1).cloned(), Some(id)));
    }

    #[test]
    fn questions_are_grouped_by_topic() {
        let partition = |topic: &str, index| Partition { topic: topic.into(), topic_id: TopicId::NONE, index };
        let query = |topic: &str, index, at| OffsetQuery { partition: partition(topic, index), leader_epoch: 3, at };
        let queries = [query("b", 0, At::Latest), query("a", 1, At::Earliest), query("a", 0, At::Time(Timestamp(9)))];
        let now = queries
            .iter()
            .enumerate()
            .map(|(at, query)| ((&*query.partition.topic, query.partition.index), at))
            .collect();
        let request = list_offsets_request(&now, &queries, Isolation::Committed);
        let asked: Vec<_> = request.topics.iter().map(|topic| topic.partitions.len()).collect();
        assert_eq!((asked, request.isolation_level), (vec![2, 1], 1));
        let times: Vec<_> = request.topics[0].partitions.iter().map(|partition| partition.timestamp).collect();
        assert_eq!(times, [9, -2]);
    }
}
