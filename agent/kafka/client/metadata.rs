//! What a cluster says of its brokers, topics and partitions: plain values.

use std::collections::BTreeMap;

use kafka_protocol::messages as m;

use crate::record::TopicId;

/// A cluster's brokers and the topics that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The cluster's id; `None` where it has none.
    pub cluster_id: Option<String>,
    /// The broker that is the controller, or passes on what is for it; −1 where there is none.
    pub controller: i32,
    /// The brokers' `host:port` by id.
    pub brokers: BTreeMap<i32, String>,
    /// The topics.
    pub topics: Vec<TopicMetadata>,
}

/// A topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Its name.
    pub name: String,
    /// Its id; [`TopicId::NONE`] below Metadata v10.
    pub topic_id: TopicId,
    /// Kafka's error code, 0 for none; 3 for a topic that does not exist.
    pub code: i16,
    /// Whether it is Kafka's own, as `__consumer_offsets`.
    pub internal: bool,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionMetadata>,
}

/// A partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// Its index.
    pub index: i32,
    /// The broker that leads it; −1 while there is none.
    pub leader: i32,
    /// The leader's epoch; −1 below Metadata v7.
    pub leader_epoch: i32,
    /// How many replicas it has.
    pub replicas: i16,
    /// Kafka's error code, 0 for none.
    pub code: i16,
}

impl Metadata {
    /// Takes over an answer.
    pub(super) fn from_answer(answer: m::MetadataResponse) -> Self {
        let broker = |broker: &m::metadata_response::MetadataResponseBroker| {
            // An IPv6 address needs its brackets back.
            let host = broker.host.as_str();
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            (broker.node_id.0, format!("{host}:{}", broker.port))
        };
        let mut topics: Vec<TopicMetadata> = answer.topics.iter().map(topic).collect();
        for topic in &mut topics {
            topic.partitions.sort_by_key(|partition| partition.index);
        }
        Self {
            controller: answer.controller_id.0,
            cluster_id: answer.cluster_id.map(|id| id.to_string()),
            brokers: answer.brokers.iter().map(broker).collect(),
            topics,
        }
    }
}

fn topic(topic: &m::metadata_response::MetadataResponseTopic) -> TopicMetadata {
    let partition = |partition: &m::metadata_response::MetadataResponsePartition| PartitionMetadata {
        index: partition.partition_index,
        leader: partition.leader_id.0,
        leader_epoch: partition.leader_epoch,
        replicas: i16::try_from(partition.replica_nodes.len()).unwrap_or(i16::MAX),
        code: partition.error_code,
    };
    TopicMetadata {
        name: topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default(),
        topic_id: TopicId(topic.topic_id),
        code: topic.error_code,
        internal: topic.is_internal,
        partitions: topic.partitions.iter().map(partition).collect(),
    }
}
