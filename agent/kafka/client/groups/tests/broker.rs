//! A broker of a few lines, which knows the calls of groups in their newest versions and says what is in its script.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    RequestHeader, ResponseHeader, consumer_group_describe_response, describe_groups_response, list_groups_response,
    share_group_describe_response,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion as _, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// What it says, by group: the code first, then what is committed.
#[derive(Default)]
pub(super) struct Script {
    /// Error codes of ListGroups, one after the other; 0 when there are no more.
    pub(super) listing: Vec<i16>,
    pub(super) groups: Vec<(&'static str, &'static str)>,
    /// Error codes of a group's OffsetFetch, one after the other; 0 when there are no more.
    pub(super) codes: HashMap<&'static str, Vec<i16>>,
    /// How many groups each OffsetFetch asked for.
    pub(super) asked: Vec<usize>,
    /// How often an offset is not decided yet.
    pub(super) undecided: usize,
    /// What one may do with the cluster; `None` where the broker does not tell.
    pub(super) may: Option<i32>,
    /// The ports of those that coordinate groups, one after the other; the last one stays. Itself where there is none.
    pub(super) coordinators: Vec<u16>,
    /// How often a coordinator was asked for.
    pub(super) found: usize,
    /// The partitions of each commit and deletion.
    pub(super) changed: Vec<Vec<i32>>,
    /// Error codes of a partition's commits and deletions, one after the other; 0 when there are no more.
    pub(super) changing: HashMap<i32, Vec<i16>>,
    /// The error code of each deletion as a whole.
    pub(super) deleting: i16,
    /// The most partitions that a commit may have; larger ones fail, in words that tell nothing.
    pub(super) most: Option<usize>,
    /// Of how many commits the answer is lost.
    pub(super) lost: usize,
    /// What was committed.
    pub(super) landed: BTreeMap<i32, i64>,
    /// What is described, by the number of the call: name, code, state.
    pub(super) described: Vec<(i16, &'static str, i16, &'static str)>,
    /// Calls that it lacks.
    pub(super) lacks: Vec<i16>,
}

/// Starts one, and returns a client of it that knows it.
pub(super) async fn scripted(script: Script) -> (Client, Arc<Mutex<Script>>) {
    let (port, script) = broker(script).await;
    let client = client(&format!("127.0.0.1:{port}"));
    client.metadata(Some(&[])).await.expect("it answers");
    (client, script)
}

/// Starts one, and returns its port.
pub(super) async fn broker(script: Script) -> (u16, Arc<Mutex<Script>>) {
    let script = Arc::new(Mutex::new(script));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let read = script.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let script = read.clone();
            tokio::spawn(async move {
                while let Ok(length) = stream.read_i32().await {
                    let mut bytes = vec![0; length as usize];
                    stream.read_exact(&mut bytes).await.expect("a request");
                    // Without an answer the connection ends.
                    let Some(answer) = answer(&script, port, &Call::new(bytes.into())) else { break };
                    stream.write_all(&answer).await.expect("the client listens");
                }
            });
        }
    });
    (port, script)
}

/// The versions that it has, by the number of the call.
const VERSIONS: [(i16, i16); 11] = [
    (18, 3),
    (3, 12),
    (16, 5),
    (10, 4),
    (9, 8),
    (8, 9),
    (47, 0),
    (CLASSIC, 5),
    (CONSUMER, 1),
    (SHARE, 1),
    (STREAMS, 0),
];

/// The numbers of the calls that describe groups.
pub(super) const CLASSIC: i16 = 15;
pub(super) const CONSUMER: i16 = 69;
pub(super) const SHARE: i16 = 77;
pub(super) const STREAMS: i16 = 89;

/// A request.
struct Call {
    key: i16,
    version: i16,
    correlation: i32,
    bytes: Bytes,
}

impl Call {
    fn new(bytes: Bytes) -> Self {
        let mut head = bytes.clone();
        Self { key: head.get_i16(), version: head.get_i16(), correlation: head.get_i32(), bytes }
    }

    fn read<R: Request>(&self) -> R {
        let mut bytes = self.bytes.clone();
        let _ = RequestHeader::decode(&mut bytes, R::header_version(self.version)).expect("a header");
        R::decode(&mut bytes, self.version).expect("a request")
    }

    fn answer<R: Request>(&self, answer: &R::Response) -> Option<BytesMut> {
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        let header = ResponseHeader::default().with_correlation_id(self.correlation);
        header.encode(&mut frame, R::Response::header_version(self.version)).expect("encodes");
        answer.encode(&mut frame, self.version).expect("encodes");
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Some(frame)
    }
}

fn answer(script: &Mutex<Script>, port: u16, call: &Call) -> Option<BytesMut> {
    let mut script = script.lock().expect("nobody panics");
    match call.key {
        18 => {
            let has = VERSIONS.iter().filter(|(key, _)| !script.lacks.contains(key));
            let keys = has.map(|(key, most)| {
                ApiVersion::default().with_api_key(*key).with_min_version(0).with_max_version(*most)
            });
            call.answer::<m::ApiVersionsRequest>(&m::ApiVersionsResponse::default().with_api_keys(keys.collect()))
        }
        3 => {
            let broker = m::metadata_response::MetadataResponseBroker::default()
                .with_node_id(m::BrokerId(1))
                .with_host(StrBytes::from_static_str("127.0.0.1"))
                .with_port(i32::from(port));
            let asks = call.read::<m::MetadataRequest>().include_cluster_authorized_operations;
            let may = script.may.filter(|_| asks).unwrap_or(NOT_TOLD);
            let answer = m::MetadataResponse::default().with_brokers(vec![broker]);
            call.answer::<m::MetadataRequest>(&answer.with_cluster_authorized_operations(may))
        }
        16 => call.answer::<m::ListGroupsRequest>(&listing(&mut script)),
        10 => {
            script.found += 1;
            let first = script.coordinators.first().copied().unwrap_or(port);
            if script.coordinators.len() > 1 {
                let _ = script.coordinators.remove(0);
            }
            let coordinator = |key: StrBytes| {
                let host = StrBytes::from_static_str("127.0.0.1");
                Coordinator::default().with_key(key).with_host(host).with_port(i32::from(first))
            };
            let asked = call.read::<m::FindCoordinatorRequest>().coordinator_keys;
            let coordinators = asked.into_iter().map(coordinator).collect();
            let answer = m::FindCoordinatorResponse::default().with_coordinators(coordinators);
            call.answer::<m::FindCoordinatorRequest>(&answer)
        }
        9 => {
            let request = call.read::<m::OffsetFetchRequest>();
            script.asked.push(request.groups.len());
            let stable = request.require_stable;
            let groups = request.groups.iter().map(|asked| offsets(&mut script, &asked.group_id, stable)).collect();
            call.answer::<m::OffsetFetchRequest>(&m::OffsetFetchResponse::default().with_groups(groups))
        }
        8 => {
            let answer = committed(&mut script, &call.read());
            if script.lost > 0 {
                script.lost -= 1;
                return None;
            }
            call.answer::<m::OffsetCommitRequest>(&answer)
        }
        47 => call.answer::<m::OffsetDeleteRequest>(&deleted(&mut script, &call.read())),
        _ => described(&script, call),
    }
}

fn listing(script: &mut Script) -> m::ListGroupsResponse {
    let code = if script.listing.is_empty() { 0 } else { script.listing.remove(0) };
    let group = |(name, kind): &(&'static str, &'static str)| {
        list_groups_response::ListedGroup::default()
            .with_group_id(group_id(name))
            .with_group_state(StrBytes::from_static_str("Stable"))
            .with_group_type(StrBytes::from_static_str(kind))
    };
    let groups = if code == 0 { script.groups.iter().map(group).collect() } else { Vec::new() };
    m::ListGroupsResponse::default().with_error_code(code).with_groups(groups)
}

fn offsets(script: &mut Script, group: &m::GroupId, stable: bool) -> OffsetFetchResponseGroup {
    let codes = script.codes.get_mut(group.as_str());
    let code = codes.filter(|codes| !codes.is_empty()).map_or(0, |codes| codes.remove(0));
    let partition = |index, code| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(if index == 2 { -1 } else { 40 + i64::from(index) })
            .with_metadata(Some(StrBytes::from_static_str("m")))
            .with_error_code(code)
    };
    let partial = if group.as_str() == "partial" { 29 } else { 0 };
    let undecided = stable && script.undecided > 0;
    if undecided {
        script.undecided -= 1;
    }
    let first = partition(1, if undecided { 88 } else { 0 });
    let topic = OffsetFetchResponseTopics::default()
        .with_name(StrBytes::from_static_str("orders").into())
        .with_partitions(vec![first, partition(0, partial), partition(2, 0)]);
    let topics = if code == 0 { vec![topic] } else { Vec::new() };
    OffsetFetchResponseGroup::default().with_group_id(group.clone()).with_error_code(code).with_topics(topics)
}

/// Returns what is said of a partition that is changed.
fn changing(script: &mut Script, partition: i32) -> i16 {
    let codes = script.changing.get_mut(&partition);
    codes.filter(|codes| !codes.is_empty()).map_or(0, |codes| codes.remove(0))
}

fn committed(script: &mut Script, request: &m::OffsetCommitRequest) -> m::OffsetCommitResponse {
    assert_eq!((request.generation_id_or_member_epoch, request.member_id.as_str()), (-1, ""), "nobody's member");
    let asked: Vec<_> = request.topics.iter().flat_map(|topic| &topic.partitions).collect();
    script.changed.push(asked.iter().map(|partition| partition.partition_index).collect());
    let fits = script.most.is_none_or(|most| asked.len() <= most);
    let mut topics = Vec::new();
    for topic in &request.topics {
        let mut told = Vec::new();
        for partition in &topic.partitions {
            assert_eq!(partition.committed_leader_epoch, -1);
            let index = partition.partition_index;
            let code = if fits { changing(script, index) } else { -1 };
            if code == 0 {
                script.landed.insert(index, partition.committed_offset);
            }
            told.push(OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code));
        }
        topics.push(OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(told));
    }
    m::OffsetCommitResponse::default().with_topics(topics)
}

fn deleted(script: &mut Script, request: &m::OffsetDeleteRequest) -> m::OffsetDeleteResponse {
    let asked = request.topics.iter().flat_map(|topic| &topic.partitions);
    script.changed.push(asked.map(|partition| partition.partition_index).collect());
    if script.deleting != 0 {
        return m::OffsetDeleteResponse::default().with_error_code(script.deleting);
    }
    let mut topics = Vec::new();
    for topic in &request.topics {
        let mut told = Vec::new();
        for partition in &topic.partitions {
            let (index, code) = (partition.partition_index, changing(script, partition.partition_index));
            told.push(OffsetDeleteResponsePartition::default().with_partition_index(index).with_error_code(code));
        }
        topics.push(OffsetDeleteResponseTopic::default().with_name(topic.name.clone()).with_partitions(told));
    }
    m::OffsetDeleteResponse::default().with_topics(topics)
}

/// Describes groups: each has one member, who is called after the call.
fn described(script: &Script, call: &Call) -> Option<BytesMut> {
    let text = StrBytes::from_static_str;
    let told = |asked: &str| {
        let told = script.described.iter().find(|(key, name, ..)| *key == call.key && *name == asked);
        told.map_or((69, ""), |(_, _, code, state)| (*code, *state))
    };
    match call.key {
        CLASSIC => {
            use describe_groups_response::{DescribedGroup, DescribedGroupMember};
            let member = DescribedGroupMember::default()
                .with_client_id(text("classic"))
                .with_client_host(text("/127.0.0.1"))
                .with_group_instance_id(Some(text("static")));
            let group = |id: m::GroupId| {
                // Before its version 6 it tells of no group that it is not there.
                let (code, state) = if told(&id).0 == 69 { (0, DEAD) } else { told(&id) };
                let members = if state == "Stable" { vec![member.clone()] } else { Vec::new() };
                let group = DescribedGroup::default().with_group_id(id).with_error_code(code);
                group.with_group_state(StrBytes::from_string(state.to_owned())).with_members(members)
            };
            let groups = call.read::<m::DescribeGroupsRequest>().groups.into_iter().map(group).collect();
            call.answer::<m::DescribeGroupsRequest>(&m::DescribeGroupsResponse::default().with_groups(groups))
        }
        CONSUMER => {
            use consumer_group_describe_response::{DescribedGroup, Member};
            let group = |id: m::GroupId| {
                let (code, state) = told(&id);
                let members = if state == "Stable" {
                    vec![Member::default().with_client_id(text("consumer"))]
                } else {
                    Vec::new()
                };
                DescribedGroup::default()
                    .with_group_id(id)
                    .with_error_code(code)
                    .with_group_state(text(state))
                    .with_members(members)
            };
            let groups = call.read::<m::ConsumerGroupDescribeRequest>().group_ids.into_iter().map(group).collect();
            let answer = m::ConsumerGroupDescribeResponse::default().with_groups(groups);
            call.answer::<m::ConsumerGroupDescribeRequest>(&answer)
        }
        SHARE => {
            let group = |id: m::GroupId| {
                let (code, state) = told(&id);
                let group = share_group_describe_response::DescribedGroup::default().with_group_id(id);
                group.with_error_code(code).with_group_state(text(state))
            };
            let groups = call.read::<m::ShareGroupDescribeRequest>().group_ids.into_iter().map(group).collect();
            call.answer::<m::ShareGroupDescribeRequest>(&m::ShareGroupDescribeResponse::default().with_groups(groups))
        }
        STREAMS => {
            use streams::{DescribedGroup, StreamsGroupDescribeRequest, StreamsGroupDescribeResponse, StreamsMember};
            let group = |group_id: StrBytes| {
                let (error_code, state) = told(&group_id);
                let member = StreamsMember { client_id: text("streams"), ..StreamsMember::default() };
                let members = if state == "Stable" { vec![member] } else { Vec::new() };
                DescribedGroup { error_code, group_id, group_state: text(state), members }
            };
            let groups = call.read::<StreamsGroupDescribeRequest>().group_ids.into_iter().map(group).collect();
            call.answer::<StreamsGroupDescribeRequest>(&StreamsGroupDescribeResponse { throttle_time_ms: 0, groups })
        }
        other => panic!("nobody asks for {other}"),
    }
}
