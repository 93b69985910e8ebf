//! What is asked of a cluster over the wire: who leads, who is controller, and that it be otherwise. One connection for
//! each question, so that none of them is a node's that has gone.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{RequestHeader, ResponseHeader, TopicName, describe_quorum_request};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion as _, Request, StrBytes};

use super::super::wait_for;
use super::{Cluster, NodeId};

/// How long a node may take to answer; a frozen one is not asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

const PREFERRED: i8 = 0;

/// Who leads a partition, and who has all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Led {
    /// −1 while there is none.
    pub(crate) leader: NodeId,
    pub(crate) epoch: i32,
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) in_sync: Vec<NodeId>,
}

impl Cluster {
    /// Makes a topic of which nothing expires; each partition has replicas on the nodes given for it, the first of which
    /// leads it.
    pub(crate) fn topic(&self, theme: &str, replicas: &[&[NodeId]], configs: &[(&str, &str)]) -> String {
        let name = format!("{theme}-{:08x}", fastrand::u32(..));
        let assignment = |(partition, nodes): (i32, &&[NodeId])| {
            let nodes = nodes.iter().map(|node| m::BrokerId(*node)).collect();
            CreatableReplicaAssignment::default().with_partition_index(partition).with_broker_ids(nodes)
        };
        let config = |(key, value): &(&str, &str)| {
            let value = Some(StrBytes::from_string((*value).to_owned()));
            CreatableTopicConfig::default().with_name(StrBytes::from_string((*key).to_owned())).with_value(value)
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(&name))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments((0..).zip(replicas).map(assignment).collect())
            .with_configs(configs.iter().chain(&[("retention.ms", "-1")]).map(config).collect());
        let request = m::CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(20_000);
        let made = self.ask(&request, 5).expect("a node answers");
        assert!(made.topics.iter().all(|topic| topic.error_code == 0), "topic {name}: {made:?}");
        wait_for("the topic has leaders", || {
            // At each node: a client may ask any of them first.
            let led = |node: &super::Node| {
                let led = led(&node.address, Some(&name)).ok()?;
                (led.len() == replicas.len() && led.iter().all(|led| led.leader > 0)).then_some(())
            };
            self.answering().map(led).collect::<Option<Vec<()>>>()
        });
        name
    }

    /// Returns who leads a partition, as the first node says that answers.
    pub(crate) fn led(&self, topic: &str, partition: i32) -> Led {
        let led = self.answering().find_map(|node| led(&node.address, Some(topic)).ok());
        led.expect("a node answers").swap_remove(partition as usize)
    }

    /// Returns where each partition of a topic ends, as its leaders say; `None` while one does not.
    pub(crate) fn ends(&self, topic: &str) -> Option<Vec<i64>> {
        let led =
            self.answering().find_map(|node| led(&node.address, Some(topic)).ok()).filter(|led| !led.is_empty())?;
        let end = |(partition, led): (i32, Led)| {
            let leader = self.answering().find(|node| node.id == led.leader)?;
            let asked = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(-1);
            let asked = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
            let request = m::ListOffsetsRequest::default().with_replica_id(m::BrokerId(-1)).with_topics(vec![asked]);
            let answer = call(&leader.address, &request, 2).ok()?;
            let told = answer.topics.first()?.partitions.first()?;
            (told.error_code == 0).then_some(told.offset)
        };
        (0..).zip(led).map(end).collect()
    }

    /// Waits until a partition has a leader other than `old`, and returns it.
    #[track_caller]
    pub(crate) fn wait_led_by_another(&self, topic: &str, partition: i32, old: NodeId) -> NodeId {
        wait_for("another node leads", || {
            let leader = self.led(topic, partition).leader;
            (leader > 0 && leader != old).then_some(leader)
        })
    }

    /// Moves the lead of a partition to one of its replicas.
    pub(crate) fn move_leader(&self, topic: &str, partition: i32, to: NodeId) {
        let mut replicas = self.led(topic, partition).replicas;
        replicas.sort_by_key(|node| *node != to);
        let replicas = replicas.into_iter().map(m::BrokerId).collect();
        let order = ReassignablePartition::default().with_partition_index(partition).with_replicas(Some(replicas));
        let order = ReassignableTopic::default().with_name(topic_name(topic)).with_partitions(vec![order]);
        let request = m::AlterPartitionReassignmentsRequest::default().with_topics(vec![order]).with_timeout_ms(20_000);
        let ordered = self.ask(&request, 0).expect("a node answers");
        assert_eq!(ordered.error_code, 0, "{ordered:?}");
        let elected = TopicPartitions::default().with_topic(topic_name(topic)).with_partitions(vec![partition]);
        let request = m::ElectLeadersRequest::default()
            .with_election_type(PREFERRED)
            .with_topic_partitions(Some(vec![elected]))
            .with_timeout_ms(20_000);
        let elected = self.ask(&request, 2).expect("a node answers");
        assert_eq!(elected.error_code, 0, "{elected:?}");
        wait_for("the leader has moved", || (self.led(topic, partition).leader == to).then_some(()));
    }

    /// Returns the node that is the active controller.
    pub(crate) fn controller(&self) -> NodeId {
        let asked = describe_quorum_request::TopicData::default()
            .with_topic_name(topic_name("__cluster_metadata"))
            .with_partitions(vec![describe_quorum_request::PartitionData::default()]);
        let request = m::DescribeQuorumRequest::default().with_topics(vec![asked]);
        wait_for("there is a controller", || {
            let answer = self.ask(&request, 0)?;
            let told = answer.topics.first()?.partitions.first()?;
            (told.error_code == 0 && told.leader_id.0 > 0).then_some(told.leader_id.0)
        })
    }

    /// Bounds what a client may fetch from each broker, in bytes a second; `None` lifts the bound.
    pub(crate) fn quota(&self, client_id: &str, bytes_per_second: Option<f64>) {
        let entity = EntityData::default()
            .with_entity_type(StrBytes::from_static_str("client-id"))
            .with_entity_name(Some(StrBytes::from_string(client_id.to_owned())));
        let op = OpData::default()
            .with_key(StrBytes::from_static_str("consumer_byte_rate"))
            .with_value(bytes_per_second.unwrap_or_default())
            .with_remove(bytes_per_second.is_none());
        let entry = EntryData::default().with_entity(vec![entity]).with_ops(vec![op]);
        let request = m::AlterClientQuotasRequest::default().with_entries(vec![entry]);
        let answer = self.ask(&request, 1).expect("a node answers");
        assert!(answer.entries.iter().all(|entry| entry.error_code == 0), "{answer:?}");
    }

    /// Returns who leads each partition of each topic; `None` when no node answers.
    pub(super) fn all_led(&self) -> Option<Vec<Led>> {
        self.answering().find_map(|node| led(&node.address, None).ok())
    }

    /// Returns whether the node answers and knows itself as part of the cluster.
    pub(super) fn joined(&self, id: NodeId) -> bool {
        let nothing = m::MetadataRequest::default().with_topics(Some(Vec::new()));
        let node = self.answering().find(|node| node.id == id);
        let answer = node.and_then(|node| call(&node.address, &nothing, 9).ok());
        answer.is_some_and(|answer| answer.brokers.iter().any(|broker| broker.node_id.0 == id))
    }

    /// Asks the first node that answers.
    fn ask<R: Request>(&self, request: &R, version: i16) -> Option<R::Response> {
        self.answering().find_map(|node| call(&node.address, request, version).ok())
    }
}

/// Asks a node who leads the partitions of a topic, or of all.
fn led(address: &str, topic: Option<&str>) -> io::Result<Vec<Led>> {
    let asked = topic.map(|name| vec![MetadataRequestTopic::default().with_name(Some(topic_name(name)))]);
    let request = m::MetadataRequest::default().with_topics(asked);
    let mut answer = call(address, &request, 9)?;
    let ids = |nodes: Vec<m::BrokerId>| {
        let mut ids: Vec<NodeId> = nodes.into_iter().map(|node| node.0).collect();
        ids.sort_unstable();
        ids
    };
    for topic in &mut answer.topics {
        topic.partitions.sort_by_key(|partition| partition.partition_index);
    }
    let partitions = answer.topics.into_iter().flat_map(|topic| topic.partitions);
    let led = partitions.map(|partition| Led {
        leader: partition.leader_id.0,
        epoch: partition.leader_epoch,
        replicas: ids(partition.replica_nodes),
        in_sync: ids(partition.isr_nodes),
    });
    Ok(led.collect())
}

fn topic_name(name: &str) -> TopicName {
    StrBytes::from_string(name.to_owned()).into()
}

/// Sends one request over a connection of its own and reads the answer.
fn call<R: Request>(address: &str, request: &R, version: i16) -> io::Result<R::Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("tests")));
    let mut sent = BytesMut::new();
    sent.put_i32(0);
    header.encode(&mut sent, R::header_version(version)).map_err(io::Error::other)?;
    request.encode(&mut sent, version).map_err(io::Error::other)?;
    let length = (sent.len() - 4) as i32;
    sent[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&sent)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer)?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, R::Response::header_version(version)).map_err(io::Error::other)?;
    R::Response::decode(&mut answer, version).map_err(io::Error::other)
}
