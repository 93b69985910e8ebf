//! Groups, asked of librdkafka's mock cluster (which lists none) and of a broker of a few lines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::list_groups_response;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable as _, Encodable, HeaderVersion, Request};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::{ClientConfig, TopicPartitionList};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::kafka::Properties;

fn client(servers: &str) -> Client {
    let map = [("bootstrap.servers", servers), ("retry.backoff.ms", "10"), ("retry.backoff.max.ms", "50")];
    let map = map.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Client::new(Properties::new(map.into()).expect("good properties"))
}

fn wanted() -> Partitions {
    [("orders".to_owned(), vec![0, 1, 2])].into()
}

fn offset(topic: &str, partition: i32, offset: Offset, metadata: &str) -> CommittedOffset {
    CommittedOffset { topic: topic.into(), partition, offset, metadata: metadata.into() }
}

#[tokio::test]
async fn groups_by_name_are_read_from_a_cluster_that_lists_none_and_takes_one_at_a_time() {
    let cluster = MockCluster::new(2).expect("a mock cluster");
    cluster.create_topic("orders", 3, 1).expect("created");
    for (group, next) in [("a", 5), ("b", 7)] {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", group);
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset("orders", 1, rdkafka::Offset::Offset(next)).expect("an offset");
        consumer.commit(&offsets, CommitMode::Sync).expect("committed");
    }
    let client = client(&cluster.bootstrap_servers());
    client.metadata(Some(&[])).await.expect("it answers");
    let listing = client.list_groups().await.expect("it answers");
    assert!(listing.groups.is_empty() && listing.unread.is_some_and(|why| why.contains("cannot list groups")));
    let named = ["a", "b", "never"].map(ListedGroup::named);
    let told = client.committed_offsets(&named, &wanted()).await.expect("told");
    assert_eq!(told["a"], Ok(vec![offset("orders", 1, 5, "")]));
    assert_eq!(told["b"], Ok(vec![offset("orders", 1, 7, "")]));
    assert_eq!(told["never"], Ok(Vec::new()));
}

/// What the broker of a few lines says, by group: the code first, then what is committed.
#[derive(Default)]
struct Script {
    /// Error codes of ListGroups, one after the other; 0 when there are no more.
    listing: Vec<i16>,
    groups: Vec<(&'static str, &'static str)>,
    /// Error codes of a group's OffsetFetch, one after the other; 0 when there are no more.
    codes: HashMap<&'static str, Vec<i16>>,
    /// How many groups each OffsetFetch asked for.
    asked: Vec<usize>,
    /// What one may do with the cluster; `None` where the broker does not tell.
    may: Option<i32>,
}

/// A broker that knows the calls of groups in their newest versions, and says what is in the script.
async fn broker(script: Arc<Mutex<Script>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let script = script.clone();
            tokio::spawn(async move {
                while let Ok(length) = stream.read_i32().await {
                    let mut request = vec![0; length as usize];
                    stream.read_exact(&mut request).await.expect("a request");
                    let answer = answer(&script, address.port(), request.into());
                    stream.write_all(&answer).await.expect("the client listens");
                }
            });
        }
    });
    address.to_string()
}

/// Versions that the broker has: ApiVersions, Metadata, ListGroups, FindCoordinator, OffsetFetch.
const VERSIONS: [(i16, i16); 5] = [(18, 3), (3, 12), (16, 5), (10, 4), (9, 8)];

fn answer(script: &Mutex<Script>, port: u16, mut request: Bytes) -> BytesMut {
    let mut peeked = request.clone();
    let (key, version) = (peeked.get_i16(), peeked.get_i16());
    let header_version = if key == 18 && version < 3 { 1 } else { 2 };
    let header = RequestHeader::decode(&mut request, header_version).expect("a header");
    let mut script = script.lock().expect("nobody panics");
    let mut body = BytesMut::new();
    match key {
        18 => {
            let keys = VERSIONS
                .map(|(key, most)| ApiVersion::default().with_api_key(key).with_min_version(0).with_max_version(most));
            put::<m::ApiVersionsRequest>(
                &mut body,
                0,
                &m::ApiVersionsResponse::default().with_api_keys(keys.to_vec()),
                version,
            );
        }
        3 => {
            let broker = m::metadata_response::MetadataResponseBroker::default()
                .with_node_id(m::BrokerId(1))
                .with_host(StrBytes::from_static_str("127.0.0.1"))
                .with_port(i32::from(port));
            let request = m::MetadataRequest::decode(&mut request, version).expect("a request");
            let asks = request.include_cluster_authorized_operations;
            let may = script.may.filter(|_| asks).unwrap_or(NOT_TOLD);
            let answer = m::MetadataResponse::default().with_brokers(vec![broker]);
            put::<m::MetadataRequest>(&mut body, 1, &answer.with_cluster_authorized_operations(may), version);
        }
        16 => {
            let code = if script.listing.is_empty() { 0 } else { script.listing.remove(0) };
            let group = |(name, kind): &(&'static str, &'static str)| {
                list_groups_response::ListedGroup::default()
                    .with_group_id(group_id(name))
                    .with_group_state(StrBytes::from_static_str("Stable"))
                    .with_group_type(StrBytes::from_static_str(kind))
            };
            let groups = if code == 0 { script.groups.iter().map(group).collect() } else { Vec::new() };
            let answer = m::ListGroupsResponse::default().with_error_code(code).with_groups(groups);
            put::<m::ListGroupsRequest>(&mut body, 1, &answer, version);
        }
        10 => {
            let request = m::FindCoordinatorRequest::decode(&mut request, version).expect("a request");
            let coordinator = |key: StrBytes| {
                m::find_coordinator_response::Coordinator::default()
                    .with_key(key)
                    .with_host(StrBytes::from_static_str("127.0.0.1"))
                    .with_port(i32::from(port))
            };
            let coordinators = request.coordinator_keys.into_iter().map(coordinator).collect();
            put::<m::FindCoordinatorRequest>(
                &mut body,
                1,
                &m::FindCoordinatorResponse::default().with_coordinators(coordinators),
                version,
            );
        }
        9 => {
            let request = m::OffsetFetchRequest::decode(&mut request, version).expect("a request");
            script.asked.push(request.groups.len());
            let groups = request.groups.iter().map(|asked| offsets(&mut script, &asked.group_id)).collect();
            put::<m::OffsetFetchRequest>(&mut body, 1, &m::OffsetFetchResponse::default().with_groups(groups), version);
        }
        other => panic!("nobody asks for {other}"),
    }
    let mut reply = BytesMut::new();
    let mut head = BytesMut::new();
    ResponseHeader::default()
        .with_correlation_id(header.correlation_id)
        .encode(&mut head, if key == 18 || key == 3 && version < 9 { 0 } else { 1 })
        .expect("encodes");
    reply.put_i32((head.len() + body.len()) as i32);
    reply.extend_from_slice(&head);
    reply.extend_from_slice(&body);
    reply
}

fn put<R: Request>(body: &mut BytesMut, header: i16, answer: &R::Response, version: i16)
where
    R::Response: Encodable + HeaderVersion,
{
    assert_eq!(R::Response::header_version(version), header, "a version of the script");
    answer.encode(body, version).expect("encodes");
}

fn group_id(name: &str) -> m::GroupId {
    StrBytes::from_string(name.to_owned()).into()
}

fn offsets(script: &mut Script, group: &m::GroupId) -> OffsetFetchResponseGroup {
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
    let topic = OffsetFetchResponseTopics::default()
        .with_name(StrBytes::from_static_str("orders").into())
        .with_partitions(vec![partition(1, 0), partition(0, partial), partition(2, 0)]);
    let topics = if code == 0 { vec![topic] } else { Vec::new() };
    OffsetFetchResponseGroup::default().with_group_id(group.clone()).with_error_code(code).with_topics(topics)
}

async fn scripted(script: Script) -> (Client, Arc<Mutex<Script>>) {
    let script = Arc::new(Mutex::new(script));
    let client = client(&broker(script.clone()).await);
    client.metadata(Some(&[])).await.expect("it answers");
    (client, script)
}

#[tokio::test]
async fn a_forbidden_group_costs_itself_and_one_that_moves_is_asked_again() {
    let codes = [("forbidden", vec![30]), ("moves", vec![16, 14]), ("gone", vec![69])].into();
    let groups = vec![("moves", "Classic"), ("forbidden", "Consumer"), ("gone", "Classic"), ("partial", "Classic")];
    let (client, script) = scripted(Script { groups, codes, ..Script::default() }).await;
    let listing = client.list_groups().await.expect("listed");
    assert_eq!(
        (listing.unread, &*listing.groups["forbidden"].kind, &*listing.groups["moves"].state),
        (None, "consumer", "Stable")
    );
    let told =
        client.committed_offsets(&listing.groups.into_values().collect::<Vec<_>>(), &wanted()).await.expect("told");
    assert_eq!(told["moves"], Ok(vec![offset("orders", 0, 40, "m"), offset("orders", 1, 41, "m")]));
    let why = told["forbidden"].clone().expect_err("forbidden");
    assert_eq!(why, "its offsets cannot be read: GroupAuthorizationFailed (30)");
    let why = told["partial"].clone().expect_err("half of them is none");
    assert_eq!(why, "its offset of orders-0 cannot be read: TopicAuthorizationFailed (29)");
    assert!(!told.contains_key("gone"));
    assert_eq!(script.lock().expect("nobody panics").asked, [4, 1, 1], "all at once, then the one that moves");
}

#[tokio::test]
async fn many_groups_go_in_pieces_of_bounded_size() {
    let names: Vec<String> = (0..250).map(|n| format!("g{n}")).collect();
    let (client, script) = scripted(Script::default()).await;
    let named: Vec<_> = names.iter().map(|name| ListedGroup::named(name)).collect();
    let told = client.committed_offsets(&named, &wanted()).await.expect("told");
    assert_eq!((told.len(), told.values().all(Result::is_ok)), (250, true));
    assert_eq!(script.lock().expect("nobody panics").asked, [100, 100, 50]);
}

#[tokio::test]
async fn a_listing_that_is_forbidden_is_said_and_one_that_loads_fails_for_now() {
    let script = Script { listing: vec![31, 14], groups: vec![("a", "Classic")], ..Script::default() };
    let (client, _) = scripted(script).await;
    let forbidden = client.list_groups().await.expect("an answer");
    assert!(
        forbidden.groups.is_empty() && forbidden.unread.is_some_and(|why| why.contains("ClusterAuthorizationFailed"))
    );
    assert!(client.list_groups().await.expect_err("it loads").retryable());
    assert_eq!(client.list_groups().await.expect("listed").groups.len(), 1);
}

#[tokio::test]
async fn a_coordinator_that_is_away_is_looked_for_again() {
    let (client, _) = scripted(Script::default()).await;
    // Port 1 is nobody's; the cluster knows better who coordinates.
    let lost = ListedGroup { coordinator: Some("127.0.0.1:1".into()), ..ListedGroup::named("a") };
    assert_eq!(client.committed_offsets(&[lost], &wanted()).await.expect("told")["a"].as_ref().map(Vec::len), Ok(2));
}

#[tokio::test]
async fn a_listing_of_only_what_one_may_see_says_that_there_may_be_more() {
    // Describe, Alter, and what a broker without an authorizer says: all.
    for (may, whole) in [(Some(0), false), (Some(1 << 7), false), (Some(1 << 8), true), (Some(-1), true), (None, true)]
    {
        let (client, _) = scripted(Script { groups: vec![("mine", "Classic")], may, ..Script::default() }).await;
        let listing = client.list_groups().await.expect("listed");
        assert_eq!((listing.groups.len(), listing.unread.is_none()), (1, whole), "{may:?}");
        assert!(listing.unread.is_none_or(|why| why.contains("allow it Describe on the cluster")));
    }
}

#[test]
fn a_listing_says_the_same_whoever_answered_first() {
    let told = |whys: [&str; 2]| {
        let mut listing = Listing::default();
        whys.into_iter().for_each(|why| listing.may_lack(why.to_owned()));
        listing.unread
    };
    assert_eq!(told(["broker a", "broker b"]), told(["broker b", "broker a"]));
}
