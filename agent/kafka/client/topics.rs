//! Topics made and deleted, and their settings changed: what a restore needs of an administrator, over the wire.
//!
//! Settings are changed one by one (IncrementalAlterConfigs): the older call resets every setting that it does not name.
//!
//! Retry: what passes (a controller that dies or moves, a connection that breaks, an answer that comes too late), with
//! back-off, for [`MADE_WITHIN`]; all of it may be done twice.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use kafka_protocol::messages as m;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::time::{Instant, sleep};

use super::{Client, RESOURCE_TOPIC, SOURCE_TOPIC, topic_name};
use crate::backoff::Patience;
use crate::error::{Error, Result};
use crate::kafka::code_name;
use crate::kafka::wire::Throttled;
use crate::pipeline::TopicConfig;
use crate::record::TopicId;

/// How long the controller may take to make a topic, and the topic to get its leaders. A broker that hangs takes half a
/// minute of it.
const MADE_WITHIN: Duration = Duration::from_secs(60);

const TOPIC_ALREADY_EXISTS: i16 = 36;
const NOT_CONTROLLER: i16 = 41;
const REQUEST_TIMED_OUT: i16 = 7;
const INVALID_CONFIG: i16 = 40;
const UNKNOWN_TOPIC_ID: i16 = 100;

const SET: i8 = 0;
const DELETE: i8 = 1;

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions it gets.
    pub partitions: i32,
    /// How many replicas each of them gets; −1 for the cluster's default (Kafka 2.4).
    pub replication_factor: i16,
    /// Its own settings, as (name, value).
    pub configs: Vec<(String, String)>,
}

/// What became of a topic that was to be made.
#[derive(Debug)]
pub enum Made {
    /// It was made, every partition has a leader, and this is its id; [`TopicId::NONE`] before Kafka 2.8.
    Created(TopicId),
    /// There was one of its name.
    Exists,
    /// It was not made, and why.
    Refused(Error),
}

/// Why a topic would not be made.
#[derive(Debug)]
pub struct Refusal {
    /// Whether it is for a setting.
    pub is_setting: bool,
    /// The broker's words.
    pub error: Error,
}

impl Client {
    /// Asks whether a topic would be made, and makes none; returns the settings that it would have, defaults among them,
    /// as far as the cluster tells (Kafka 2.4).
    ///
    /// # Errors
    /// As [`create_topics`](Self::create_topics); that it would not be made is the inner one.
    pub async fn check_topic(&self, topic: &NewTopic) -> Result<std::result::Result<Vec<TopicConfig>, Refusal>> {
        let deadline = Instant::now() + MADE_WITHIN;
        let mut backoff = self.backoff();
        loop {
            let told = self.ask_to_make(&[topic], true).await?.topics.into_iter().next();
            let told = told.ok_or_else(|| Error::failed(format!("nothing is told of topic \"{}\"", topic.name)))?;
            match told.error_code {
                0 => {
                    let config = |config: m::create_topics_response::CreatableTopicConfigs| TopicConfig {
                        name: config.name.to_string(),
                        value: if config.is_sensitive { None } else { config.value.map(|value| value.to_string()) },
                        set: config.config_source == SOURCE_TOPIC,
                    };
                    return Ok(Ok(told.configs.unwrap_or_default().into_iter().map(config).collect()));
                }
                code if passes(code) && Instant::now() < deadline => sleep(backoff.wait()).await,
                code => {
                    let said = told.error_message.as_ref().map(|said| said.as_str());
                    let error = refused(&topic.name, code, said);
                    return Ok(Err(Refusal { is_setting: code == INVALID_CONFIG, error }));
                }
            }
        }
    }

    /// Makes topics and waits until all their partitions have leaders; what became of them is in their order. One that is
    /// made in answer to a question whose answer was lost counts as there before.
    ///
    /// # Errors
    /// [`Kind::Transient`](crate::error::Kind::Transient) when nobody answers, or leaders do not come in time;
    /// [`Kind::Failed`](crate::error::Kind::Failed) where the cluster is too old.
    pub async fn create_topics(&self, topics: &[NewTopic]) -> Result<Vec<Made>> {
        let deadline = Instant::now() + MADE_WITHIN;
        let mut told = self.make(topics, deadline).await?;
        let made: Vec<&NewTopic> = topics.iter().filter(|topic| told.get(&topic.name).is_some_and(is_made)).collect();
        let ids = self.led(&made, deadline).await?;
        let outcome = |topic: &NewTopic| match told.remove(&topic.name) {
            Some(Ok(())) => Made::Created(ids.get(&topic.name).copied().unwrap_or_default()),
            Some(Err((TOPIC_ALREADY_EXISTS, _))) => Made::Exists,
            Some(Err((code, said))) => Made::Refused(refused(&topic.name, code, said.as_deref())),
            None => {
                Made::Refused(Error::failed(format!("topic \"{}\" was not made: nothing is told of it", topic.name)))
            }
        };
        Ok(topics.iter().map(outcome).collect())
    }

    /// Deletes the topic of this id, called `topic`: another one of that name stays. One that is not there is deleted.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed), with the broker's own words, where it refuses, and where it knows topics
    /// by their names alone (before Kafka 2.8); [`Kind::Transient`](crate::error::Kind::Transient) when nobody answers.
    pub async fn delete_topic(&self, topic: &str, topic_id: TopicId) -> Result<()> {
        let state = DeleteTopicState::default().with_name(None).with_topic_id(topic_id.0);
        let wait = self.properties().request_timeout / 2;
        let request =
            m::DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(wait.as_millis() as i32);
        let deadline = Instant::now() + MADE_WITHIN;
        let mut backoff = self.backoff();
        loop {
            let answer = self.ask_controller(6..=6, &request).await?;
            let too_old = || Error::failed(format!("topic \"{topic}\" cannot be deleted by its id before Kafka 2.8"));
            let told = answer.ok_or_else(too_old)?.responses.into_iter().next();
            let told = told.ok_or_else(|| Error::failed(format!("nothing is told of topic \"{topic}\"")))?;
            match told.error_code {
                0 | UNKNOWN_TOPIC_ID => return Ok(()),
                code if passes(code) && Instant::now() < deadline => sleep(backoff.wait()).await,
                code => {
                    let said = told.error_message.as_ref().map(|said| said.as_str());
                    let error = Error::failed(format!("topic \"{topic}\" was not deleted: {}", words(code, said)));
                    return Err(match code {
                        // TOPIC_AUTHORIZATION_FAILED
                        29 => error.hint(format!("allow DELETE and DESCRIBE on topic \"{topic}\" for this principal")),
                        // TOPIC_DELETION_DISABLED
                        73 => error.hint("the brokers have delete.topic.enable=false"),
                        _ => error,
                    });
                }
            }
        }
    }

    /// Changes settings of a topic, each by itself: to a value, or, with `None`, back to the cluster's default. All others
    /// stay as they are.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed), with the broker's own words, where it refuses, and where it cannot
    /// (before Kafka 2.3); [`Kind::Transient`](crate::error::Kind::Transient) when no broker answers.
    pub async fn alter_configs(&self, topic: &str, changes: &[(String, Option<String>)]) -> Result<()> {
        let change = |(name, value): &(String, Option<String>)| {
            AlterableConfig::default()
                .with_name(StrBytes::from_string(name.clone()))
                .with_config_operation(if value.is_some() { SET } else { DELETE })
                .with_value(value.clone().map(StrBytes::from_string))
        };
        let resource = AlterConfigsResource::default()
            .with_resource_type(RESOURCE_TOPIC)
            .with_resource_name(StrBytes::from_string(topic.to_owned()))
            .with_configs(changes.iter().map(change).collect());
        let request = m::IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let mut patience = self.patience();
        while let Err(error) = self.try_to_alter(topic, &request).await {
            patience.wait(error).await?;
        }
        Ok(())
    }

    async fn try_to_alter(&self, topic: &str, request: &m::IncrementalAlterConfigsRequest) -> Result<()> {
        let Some(answer) = self.ask_any(0..=1, request).await? else {
            let what =
                format!("the settings of topic \"{topic}\" cannot be changed one by one by brokers before Kafka 2.3");
            return Err(Error::failed(what).hint("change them with the tools of that version"));
        };
        // One was asked about.
        if let Some(told) = answer.responses.iter().find(|told| told.error_code != 0) {
            let (code, said) = (told.error_code, told.error_message.as_ref().map(|said| said.as_str()));
            let what = format!("the settings of topic \"{topic}\" were not changed: {}", words(code, said));
            return Err(if passes(code) {
                Error::transient(what)
            } else {
                with_hint(Error::failed(what), code, topic)
            });
        }
        Ok(())
    }

    /// Asks the controller to make topics, until it does or does not; what it says of each.
    async fn make(&self, topics: &[NewTopic], deadline: Instant) -> Result<BTreeMap<String, Told>> {
        let mut told: BTreeMap<String, Told> = BTreeMap::new();
        let mut backoff = self.backoff();
        // Some of these may be made though the controller said that it took too long.
        let mut unsure = Vec::new();
        loop {
            let left: Vec<&NewTopic> = topics.iter().filter(|topic| !told.contains_key(&topic.name)).collect();
            if left.is_empty() {
                return Ok(told);
            }
            for topic in self.ask_to_make(&left, false).await?.topics {
                let name = topic.name.to_string();
                let outcome = match topic.error_code {
                    0 => Ok(()),
                    TOPIC_ALREADY_EXISTS if unsure.contains(&name) => Ok(()),
                    code if passes(code) && Instant::now() < deadline => {
                        if code == REQUEST_TIMED_OUT {
                            unsure.push(name);
                        }
                        continue;
                    }
                    code => Err((code, topic.error_message.map(|said| said.to_string()))),
                };
                told.insert(name, outcome);
            }
            if told.len() < topics.len() {
                if Instant::now() >= deadline {
                    return Ok(told);
                }
                sleep(backoff.wait()).await;
            }
        }
    }

    async fn ask_to_make(&self, topics: &[&NewTopic], validate_only: bool) -> Result<m::CreateTopicsResponse> {
        let config = |(name, value): &(String, String)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string(name.clone()))
                .with_value(Some(StrBytes::from_string(value.clone())))
        };
        let topic = |topic: &&NewTopic| {
            CreatableTopic::default()
                .with_name(topic_name(&topic.name))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replication_factor)
                .with_configs(topic.configs.iter().map(config).collect())
        };
        // The controller's wait ends before ours.
        let wait = self.properties().request_timeout / 2;
        let request = m::CreateTopicsRequest::default()
            .with_topics(topics.iter().map(topic).collect())
            .with_timeout_ms(wait.as_millis() as i32)
            .with_validate_only(validate_only);
        let answer = self.ask_controller(2..=7, &request).await?;
        answer.ok_or_else(|| Error::failed("the cluster has no version of CreateTopics that we know"))
    }

    fn patience(&self) -> Patience {
        Patience::new(self.backoff(), MADE_WITHIN)
    }

    /// Asks the controller, again where it does not answer.
    async fn ask_controller<R>(&self, ours: RangeInclusive<i16>, request: &R) -> Result<Option<R::Response>>
    where
        R: Request,
        R::Response: Throttled,
    {
        let mut patience = self.patience();
        loop {
            match self.try_to_ask_controller(ours.clone(), request).await {
                Err(error) => patience.wait(error).await?,
                answered => return answered,
            }
        }
    }

    /// Asks the controller: with ZooKeeper only that makes and deletes topics; with KRaft any broker passes the request on.
    async fn try_to_ask_controller<R>(&self, ours: RangeInclusive<i16>, request: &R) -> Result<Option<R::Response>>
    where
        R: Request,
        R::Response: Throttled,
    {
        let controller = self.metadata(Some(&[])).await?.controller;
        match self.address(controller) {
            Some(address) => self.ask(&address, ours, request).await,
            None => self.ask_any(ours, request).await,
        }
    }

    /// Waits until all partitions of topics have leaders, and returns the topics' ids.
    async fn led(&self, topics: &[&NewTopic], deadline: Instant) -> Result<BTreeMap<String, TopicId>> {
        let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (mut backoff, mut patience) = (self.backoff(), self.patience());
        loop {
            let metadata = match self.metadata(Some(&names)).await {
                Ok(metadata) => metadata,
                Err(error) => {
                    patience.wait(error).await?;
                    continue;
                }
            };
            let led = metadata.topics.iter().filter(|topic| {
                let led = topic.partitions.iter().filter(|partition| partition.leader >= 0).count();
                let all = topics.iter().find(|new| new.name == topic.name).map_or(0, |new| new.partitions);
                topic.code == 0 && led >= 1.max(all) as usize
            });
            let ids: BTreeMap<String, TopicId> = led.map(|topic| (topic.name.clone(), topic.topic_id)).collect();
            if ids.len() == names.len() {
                return Ok(ids);
            }
            let wait = backoff.wait();
            if Instant::now() + wait > deadline {
                let missing = names.iter().find(|name| !ids.contains_key(*name)).cloned().unwrap_or_default();
                let what = format!("topic \"{missing}\" was made and has partitions without a leader");
                return Err(Error::transient(what).hint("are enough brokers up? start again when they are"));
            }
            sleep(wait).await;
        }
    }
}

/// What the controller says of a topic: its error code and words, where it was not made.
type Told = std::result::Result<(), (i16, Option<String>)>;

fn is_made(told: &Told) -> bool {
    told.is_ok()
}

/// NOT_CONTROLLER, REQUEST_TIMED_OUT, NETWORK_EXCEPTION, THROTTLING_QUOTA_EXCEEDED: the same may succeed in a moment.
fn passes(code: i16) -> bool {
    matches!(code, NOT_CONTROLLER | REQUEST_TIMED_OUT | 13 | 89)
}

fn refused(topic: &str, code: i16, said: Option<&str>) -> Error {
    with_hint(Error::failed(format!("topic \"{topic}\" was not made: {}", words(code, said))), code, topic)
}

fn words(code: i16, said: Option<&str>) -> String {
    match said {
        Some(said) => format!("{}, {said}", code_name(code)),
        None => code_name(code),
    }
}

fn with_hint(error: Error, code: i16, topic: &str) -> Error {
    match code {
        // TOPIC_AUTHORIZATION_FAILED, CLUSTER_AUTHORIZATION_FAILED
        29 | 31 => {
            error.hint(format!("allow CREATE, ALTER_CONFIGS and DESCRIBE on topic \"{topic}\" for this principal"))
        }
        // INVALID_REPLICATION_FACTOR
        38 => error.hint("ask for no more replicas than there are brokers"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rdkafka::mocking::MockCluster;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::kafka::Properties;

    /// Starts a front before a broker that breaks the first three connections; returns its address, and how many there were.
    async fn breaking(broker: String) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (address, met) = (listener.local_addr().expect("bound").to_string(), Arc::new(AtomicUsize::new(0)));
        let count = met.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if count.fetch_add(1, Ordering::Relaxed) >= 3 {
                    let mut broker = TcpStream::connect(&broker).await.expect("it listens");
                    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut broker).await });
                }
            }
        });
        (address, met)
    }

    #[tokio::test]
    async fn topics_are_made_and_set_by_who_answers_after_connections_have_broken() {
        // It knows neither request, and says so: then it was asked.
        let cluster = MockCluster::new(1).expect("a mock cluster");
        for is_made in [true, false] {
            let (address, met) = breaking(cluster.bootstrap_servers()).await;
            let map = [("bootstrap.servers", &*address), ("reconnect.backoff.ms", "10")];
            let map = map.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let client = Client::new(Properties::new(map.into()).expect("good properties"));
            let error = if is_made {
                let topic = NewTopic { name: "t".into(), partitions: 1, replication_factor: 1, configs: Vec::new() };
                client.create_topics(&[topic]).await.expect_err("it does not know that").to_string()
            } else {
                client.alter_configs("t", &[]).await.expect_err("it does not know that").to_string()
            };
            let answered = ["no version of CreateTopics", "before Kafka 2.3"].iter().any(|words| error.contains(words));
            assert!(answered && met.load(Ordering::Relaxed) > 3, "{error}");
        }
    }
}
