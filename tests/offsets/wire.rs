//! Groups over the wire, through the library, on a real Kafka: what is committed and deleted for them, who is in them, and
//! what is refused.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use kafka_backup::kafka::Client;
use kafka_backup::kafka::client::groups::{
    ACTIVE, Change, CommittedOffset, Described, ListedGroup, Member, Members, Partitions, Requests,
};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::timeout;

use crate::produce::client;
use crate::support::kafka::{DESCRIBE, GROUP, Kafka};
use crate::support::{block_on, wait_for};

/// Kafka's number of topics, and of the operation read, for rules.
const TOPIC: i8 = 2;
const READ: i8 = 3;

/// A client that knows the cluster.
fn connected(kafka: &Kafka) -> Client {
    let client = client(kafka.brokers());
    let _ = block_on(client.metadata(Some(&[]))).expect("the broker answers");
    client
}

/// A group that nobody else is in.
fn new_group(theme: &str) -> String {
    format!("{theme}-{:08x}", fastrand::u32(..))
}

fn offset(topic: &str, partition: i32, offset: i64, metadata: &str) -> CommittedOffset {
    CommittedOffset { topic: topic.to_owned(), partition, offset, metadata: metadata.to_owned() }
}

fn commit(client: &Client, group: &str, offsets: &[CommittedOffset]) -> Vec<Change> {
    block_on(client.commit_offsets(group, offsets, &Requests::default()))
}

fn delete(client: &Client, group: &str, topic: &str, partitions: &[i32]) -> Vec<Change> {
    let partitions: Vec<_> = partitions.iter().map(|partition| (topic.to_owned(), *partition)).collect();
    block_on(client.delete_offsets(group, &partitions, &Requests::default()))
}

fn stable(client: &Client, group: &str) -> Vec<CommittedOffset> {
    let told = block_on(client.stable_offsets(&[ListedGroup::named(group)], &Partitions::new())).expect("told");
    told.get(group).map_or_else(Vec::new, |told| told.clone().expect("they can be read"))
}

fn describe(client: &Client, group: &str) -> Described {
    let mut told = block_on(client.describe_groups(&[ListedGroup::named(group)])).expect("told");
    told.remove(group).expect("it is told of").expect("it can be described")
}

#[track_caller]
fn assert_refused(change: &Change, expected: i16, says: &str) {
    match change {
        Change::Refused { code, why } => assert!(*code == expected && why.contains(says), "{change:?}"),
        Change::Done => panic!("it was done"),
    }
}

#[test]
fn six_hundred_offsets_with_long_metadata_all_land_and_those_deleted_are_gone() {
    let kafka = Kafka::shared();
    let (client, group) = (connected(kafka), new_group("wide"));
    let topic = kafka.topic("wide", 600, &[]);
    // As long as brokers allow.
    let metadata = "m".repeat(4096);
    let mut wanted: Vec<_> = (0..600).map(|at| offset(&topic, at, i64::from(at), &metadata)).collect();
    let requests = Requests::default();
    let changes = block_on(client.commit_offsets(&group, &wanted, &requests));
    assert!(changes.iter().all(|change| *change == Change::Done), "{changes:?}");
    assert_eq!((stable(&client, &group), requests.count() - requests.retries()), (wanted.clone(), 5));
    // A byte more is too much, and costs only itself.
    let longer = [offset(&topic, 0, 9, &format!("{metadata}m")), offset(&topic, 1, 9, "")];
    let changes = commit(&client, &group, &longer);
    assert_refused(&changes[0], 12, "OffsetMetadataTooLarge (12)");
    assert_eq!(changes[1], Change::Done);
    wanted[1] = longer[1].clone();
    let gone: Vec<i32> = (100..600).collect();
    assert!(delete(&client, &group, &topic, &gone).iter().all(|change| *change == Change::Done));
    assert_eq!(stable(&client, &group), wanted[..100]);
    // Nothing is there: it is done, and nothing is made by it.
    assert_eq!(delete(&client, &group, &topic, &[100, 599]), [Change::Done, Change::Done]);
    let never = new_group("never");
    assert_eq!(delete(&client, &never, &topic, &[0]), [Change::Done]);
    assert_eq!((describe(&client, &never).state.as_str(), stable(&client, &never)), ("Dead", Vec::new()));
    kafka.delete(&topic);
}

/// Joins a group, and waits until partitions are assigned.
fn join(kafka: &Kafka, group: &str, topic: &str, properties: &[(&str, &str)]) -> BaseConsumer {
    let own = [("group.id", group), ("client.id", "reader"), ("group.instance.id", "reader-1")];
    let consumer: BaseConsumer = kafka.client(&[&own, properties].concat()).create().expect("a consumer");
    consumer.subscribe(&[topic]).expect("subscribed");
    wait_for("partitions are assigned", || {
        let _ = consumer.poll(Duration::from_millis(100));
        (consumer.assignment().expect("it tells").count() > 0).then_some(())
    });
    consumer
}

#[test]
fn a_group_with_members_is_not_touched_and_says_who_they_are_until_a_static_one_is_given_up() {
    let kafka = Kafka::shared();
    let client = connected(kafka);
    let topic = kafka.topic("members", 2, &[]);
    let classic: &[(&str, &str)] = &[("session.timeout.ms", "6000")];
    for (kind, properties) in [("classic", classic), ("consumer", &[("group.protocol", "consumer")])] {
        let group = new_group(kind);
        assert_eq!(commit(&client, &group, &[offset(&topic, 0, 3, "")]), [Change::Done]);
        let consumer = join(kafka, &group, &topic, properties);
        let described = wait_for("the group is stable", || {
            Some(describe(&client, &group)).filter(|described| described.state == "Stable")
        });
        let Members::Known(members) = &described.members else { panic!("{described:?}") };
        assert_eq!((described.kind.as_str(), members.len()), (kind, 1));
        let Member { client_id, host, instance_id, .. } = &members[0];
        assert_eq!((&**client_id, &**host, instance_id.as_deref()), ("reader", "/127.0.0.1", Some("reader-1")));
        let refused = || {
            assert_refused(&commit(&client, &group, &[offset(&topic, 0, 7, "")])[0], 25, ACTIVE);
            assert_refused(&delete(&client, &group, &topic, &[0])[0], 86, ACTIVE);
            assert_eq!(stable(&client, &group), [offset(&topic, 0, 3, "")]);
        };
        refused();
        // A static member that closed may come back: it counts until its session ends.
        drop(consumer);
        refused();
        let listing = block_on(client.list_groups()).expect("listed");
        assert_eq!((&*listing.groups[&group].kind, listing.groups[&group].is_active()), (kind, true));
        if kind == "classic" {
            wait_for("its session has ended", || {
                (commit(&client, &group, &[offset(&topic, 0, 7, "")])[0] == Change::Done).then_some(())
            });
            let expected =
                Described { kind: kind.to_owned(), state: "Empty".to_owned(), members: Members::Known(vec![]) };
            assert_eq!(describe(&client, &group), expected);
        }
    }
}

/// Sends a request whose versions are flexible, and returns what follows the head of its answer.
fn call(kafka: &Kafka, key: i16, version: i16, body: &[u8]) -> bytes::Bytes {
    let mut request = Vec::new();
    request.put_i32(0);
    request.put_i16(key);
    request.put_i16(version);
    request.put_i32(0);
    request.put_i16(5);
    request.put_slice(b"tests");
    request.put_u8(0);
    request.put_slice(body);
    let length = (request.len() - 4) as u32;
    request[..4].copy_from_slice(&length.to_be_bytes());
    let mut broker = TcpStream::connect(kafka.brokers()).expect("the broker listens");
    broker.write_all(&request).expect("sent");
    let mut length = [0; 4];
    broker.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    broker.read_exact(&mut answer).expect("an answer");
    // Correlation and tags.
    bytes::Bytes::from(answer).slice(5..)
}

/// The heartbeat of a member of a streams group that reads one topic: joining in epoch 0, leaving in epoch −1.
fn streams_heartbeat(group: &str, epoch: i32, topic: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let text = |body: &mut Vec<u8>, text: &str| {
        body.put_u8(text.len() as u8 + 1);
        body.put_slice(text.as_bytes());
    };
    text(&mut body, group);
    text(&mut body, "member-1");
    body.put_i32(epoch);
    body.put_i32(0);
    // Neither an instance id nor a rack.
    body.put_slice(&[0, 0]);
    body.put_i32(60_000);
    if epoch == 0 {
        // A topology: its epoch, and one part of one source topic, without all else.
        body.put_i8(1);
        body.put_i32(0);
        body.put_u8(2);
        text(&mut body, "0");
        body.put_u8(2);
        text(&mut body, topic);
        body.put_slice(&[1, 1, 1, 1, 1, 0, 0]);
        // No tasks yet, of three sorts.
        body.put_slice(&[1, 1, 1]);
        text(&mut body, "process-1");
        // No endpoint, no client tags.
        body.put_slice(&[0xff, 1]);
    } else {
        body.put_i8(-1);
        body.put_slice(&[0, 0, 0, 0, 0xff, 0]);
    }
    // No offsets of tasks, no shutdown, no tags.
    body.put_slice(&[0, 0, 0, 0]);
    body
}

#[test]
fn a_streams_group_is_described_and_its_offsets_are_its_own_while_it_has_members() {
    let kafka = Kafka::shared();
    let (client, group) = (connected(kafka), new_group("streams"));
    let topic = kafka.topic("streams", 2, &[]);
    let beat = |epoch| {
        let mut answer = call(kafka, 88, 0, &streams_heartbeat(&group, epoch, &topic));
        answer.advance(4);
        let code = answer.get_i16();
        // A coordinator that is asked for the first time is not there yet.
        assert!(matches!(code, 0 | 14..=16), "{code}: {answer:?}");
        (code == 0).then_some(())
    };
    wait_for("the member has joined", || beat(0));
    let described = describe(&client, &group);
    let Members::Known(members) = &described.members else { panic!("{described:?}") };
    assert_eq!((described.kind.as_str(), members.len()), ("streams", 1), "{described:?}");
    let expected = Member {
        member_id: "member-1".to_owned(),
        client_id: "tests".to_owned(),
        host: "/127.0.0.1".to_owned(),
        instance_id: None,
    };
    assert_eq!(members[0], expected);
    assert_refused(&commit(&client, &group, &[offset(&topic, 0, 7, "")])[0], 25, ACTIVE);
    wait_for("the member has left", || beat(-1));
    assert_eq!(describe(&client, &group).state, "Empty");
    let wanted = [offset(&topic, 0, 7, "kept by streams")];
    assert_eq!((commit(&client, &group, &wanted), stable(&client, &group)), (vec![Change::Done], wanted.to_vec()));
    let listed = block_on(client.list_groups()).expect("listed").groups.remove(&group).expect("it is there");
    assert_eq!((listed.kind.as_str(), listed.is_active()), ("streams", false));
}

#[test]
fn a_share_group_is_named_and_commits_nothing() {
    use kafka_protocol::messages::ShareGroupHeartbeatRequest;
    use kafka_protocol::protocol::{Encodable as _, Request as _, StrBytes};
    let kafka = Kafka::shared();
    let (client, group) = (connected(kafka), new_group("share"));
    let topic = kafka.topic("share", 1, &[]);
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let heartbeat = ShareGroupHeartbeatRequest::default()
        .with_group_id(text(&group).into())
        .with_member_id(text("member-1"))
        .with_subscribed_topic_names(Some(vec![text(&topic).into()]));
    let mut body = Vec::new();
    heartbeat.encode(&mut body, 1).expect("a request");
    wait_for("the member has joined", || {
        let mut answer = call(kafka, ShareGroupHeartbeatRequest::KEY, 1, &body);
        answer.advance(4);
        let code = answer.get_i16();
        assert!(matches!(code, 0 | 14..=16), "{code}: {answer:?}");
        (code == 0).then_some(())
    });
    assert_refused(&commit(&client, &group, &[offset(&topic, 0, 7, "")])[0], 69, "a share group?");
    let described = describe(&client, &group);
    assert!(described.kind == "share" && matches!(described.members, Members::Unknown(_)), "{described:?}");
    let listed = block_on(client.list_groups()).expect("listed").groups.remove(&group).expect("it is there");
    assert_eq!(
        block_on(client.describe_groups(&[listed])).expect("told")[&group].as_ref().expect("named").kind,
        "share"
    );
}

#[test]
fn what_may_not_be_done_says_which_authority_is_missing_and_a_topic_that_is_not_there_is_said() {
    let kafka = Kafka::shared();
    let client = connected(kafka);
    let (open, closed) = (kafka.topic("open", 1, &[]), kafka.topic("closed", 1, &[]));
    let (forbidden, undeletable) = (new_group("forbidden"), new_group("undeletable"));
    kafka.rule((TOPIC, &closed), DESCRIBE, true);
    kafka.rule((GROUP, &forbidden), DESCRIBE, true);
    kafka.rule((GROUP, &undeletable), READ, true);
    let ruled = wait_for("the rules are in force", || {
        let changes = commit(&client, &forbidden, &[offset(&open, 0, 1, "")]);
        (changes[0] != Change::Done).then_some(changes)
    });
    let why = format!("GroupAuthorizationFailed (30); allow READ on group \"{forbidden}\" for this principal");
    assert_eq!(ruled, [Change::Refused { code: 30, why }]);
    let missing = new_group("not-there");
    let offsets = [offset(&closed, 0, 1, ""), offset(&open, 0, 1, ""), offset(&missing, 0, 1, "")];
    let changes = commit(&client, &undeletable, &offsets);
    let why = format!("TopicAuthorizationFailed (29); allow READ on topic \"{closed}\" for this principal");
    assert_eq!(changes[..2], [Change::Refused { code: 29, why }, Change::Done]);
    assert_refused(&changes[2], 3, &format!("UnknownTopicOrPartition (3); the cluster has no topic \"{missing}\""));
    let changes = delete(&client, &undeletable, &open, &[0]);
    assert_refused(&changes[0], 30, &format!("allow DELETE on group \"{undeletable}\""));
    assert_eq!(stable(&client, &undeletable), [offset(&open, 0, 1, "")]);
}

#[test]
fn an_offset_of_a_transaction_that_is_open_is_waited_for_and_then_told() {
    let kafka = Kafka::shared();
    let (client, group) = (connected(kafka), new_group("undecided"));
    let topic = kafka.topic("undecided", 1, &[]);
    assert_eq!(commit(&client, &group, &[offset(&topic, 0, 5, "")]), [Change::Done]);
    let consumer: BaseConsumer = kafka.client(&[("group.id", &group)]).create().expect("a consumer");
    let producer: BaseProducer = kafka.client(&[("transactional.id", &group)]).create().expect("a producer");
    producer.init_transactions(Duration::from_secs(30)).expect("the coordinator answers");
    producer.begin_transaction().expect("begun");
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&topic, 0, Offset::Offset(9)).expect("an offset");
    let member = consumer.group_metadata().expect("of a group");
    producer.send_offsets_to_transaction(&offsets, &member, Duration::from_secs(30)).expect("sent");
    let named = [ListedGroup::named(&group)];
    let told = block_on(client.committed_offsets(&named, &Partitions::new())).expect("told");
    assert_eq!(told, BTreeMap::from([(group.clone(), Ok(vec![offset(&topic, 0, 5, "")]))]));
    let nothing = Partitions::new();
    let waits = block_on(async { timeout(Duration::from_secs(1), client.stable_offsets(&named, &nothing)).await });
    assert!(waits.is_err(), "{waits:?}");
    producer.commit_transaction(Duration::from_secs(30)).expect("committed");
    assert_eq!(stable(&client, &group), [offset(&topic, 0, 9, "")]);
    // What it commits itself comes after what we have set.
    assert_eq!(commit(&client, &group, &[offset(&topic, 0, 2, "back")]), [Change::Done]);
    let mut own = TopicPartitionList::new();
    own.add_partition_offset(&topic, 0, Offset::Offset(3)).expect("an offset");
    consumer.commit(&own, CommitMode::Sync).expect("committed");
    assert_eq!(stable(&client, &group), [offset(&topic, 0, 3, "")]);
}
