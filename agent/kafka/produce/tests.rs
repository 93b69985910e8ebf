//! The producer against a cluster of a few lines, and against rdkafka's mock brokers.

pub(super) mod batches;
mod cluster;
mod hindered;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::time::{Instant, timeout};

use super::*;
use crate::kafka::Properties;
use crate::kafka::client::{At, Isolation, OffsetQuery};
use crate::record::TopicId;
use batches::batch;
use cluster::{Cluster, Fault, TOPIC};

const IDENTITY: Identity = Identity { producer_id: 7, epoch: 3 };

fn client(servers: &str) -> Client {
    let map = [("bootstrap.servers", servers), ("reconnect.backoff.ms", "10"), ("reconnect.backoff.max.ms", "50")];
    let map = map.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Client::new(Properties::new(map.into()).expect("good properties"))
}

fn producer(cluster: &Cluster, settings: Settings) -> Producer<u32> {
    Producer::start(&client(&cluster.servers()), IDENTITY, settings)
}

/// Starts a producer of which the first batch to each of two partitions has landed: until then no other goes with it.
async fn begun(cluster: &Cluster) -> Producer<u32> {
    let mut producer = producer(cluster, Settings::default());
    for index in 0..2 {
        producer.open(&cluster.partition(index), 0);
        send(&producer, &cluster.partition(index), 0..1);
    }
    landed(&mut producer, 2).await;
    producer
}

fn send(producer: &Producer<u32>, partition: &Partition, numbers: std::ops::Range<u32>) {
    numbers.for_each(|number| producer.send(partition, batch(2, &number.to_be_bytes()), number));
}

async fn answer(producer: &mut Producer<u32>) -> Answer<u32> {
    timeout(Duration::from_secs(20), producer.answer()).await.expect("an answer in time")
}

/// Waits for `count` batches of 2 records to land, in order of their tokens and offsets, partition by partition.
async fn landed(producer: &mut Producer<u32>, count: usize) {
    let mut next: BTreeMap<i32, (u32, i64)> = BTreeMap::new();
    for _ in 0..count {
        let answer = loop {
            match answer(producer).await {
                Answer::Trouble { .. } => {}
                answer => break answer,
            }
        };
        let Answer::Landed { partition, first, records: 2, token } = answer else { panic!("{answer:?}") };
        let next = next.entry(partition.index).or_insert((token, first));
        assert_eq!((token, first), *next, "{partition}");
        *next = (token + 1, first + 2);
    }
}

/// Asserts that a partition's log holds the batches of these numbers, each once, in order.
fn assert_log(cluster: &Cluster, index: i32, numbers: std::ops::Range<u32>) {
    let state = cluster.state();
    let held: Vec<_> = state.logs[&index]
        .batches
        .iter()
        // The last record's value stands before the number of its headers.
        .map(|(sequence, bytes)| (*sequence, *bytes[..bytes.len() - 1].last_chunk().expect("a value")))
        .map(|(sequence, value)| (sequence, u32::from_be_bytes(value)))
        .collect();
    let expected: Vec<_> = numbers.clone().map(|number| (2 * (number - numbers.start) as i32, number)).collect();
    assert_eq!(held, expected, "partition {index}");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn batches_of_many_partitions_go_together_and_land_in_order() {
    for version in [3, 9, 13] {
        let cluster = Cluster::start(2, 8, version).await;
        let mut producer = producer(&cluster, Settings { connections: 1, ..Settings::default() });
        for index in 0..8 {
            producer.open(&cluster.partition(index), 0);
            send(&producer, &cluster.partition(index), 0..40);
        }
        landed(&mut producer, 8 * 40).await;
        (0..8).for_each(|index| assert_log(&cluster, index, 0..40));
        let requests = cluster.state().requests.clone();
        assert!(requests.iter().all(|partitions| *partitions <= 4), "a broker leads four: {requests:?}");
        assert!(requests.len() <= 2 * 60, "{} requests for 320 batches", requests.len());
    }
}

#[tokio::test]
async fn at_most_five_batches_of_a_partition_are_on_their_way() {
    let cluster = Cluster::start(1, 2, 13).await;
    let mut producer = begun(&cluster).await;
    cluster.hold();
    (0..2).for_each(|index| send(&producer, &cluster.partition(index), 1..50));
    until("five more are sent", || cluster.state().logs.values().all(|log| log.batches.len() == 6)).await;
    cluster.release();
    landed(&mut producer, 98).await;
    assert!(cluster.state().logs.values().all(|log| log.most_outstanding == 5));
}

#[tokio::test]
async fn whatever_fails_on_the_way_every_batch_lands_once_and_in_order() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let cluster = Cluster::start(2, 3, 13).await;
    let faults = [
        Fault::None,
        Fault::Code(19),
        Fault::AppendedCode(20),
        Fault::AppendedCode(7),
        Fault::Cut,
        Fault::AppendedCut,
        Fault::Code(100),
    ];
    cluster.state().faults.extend((0..120).map(|_| faults[random.usize(..faults.len())]));
    let mut producer = producer(&cluster, Settings::default());
    for index in 0..3 {
        producer.open(&cluster.partition(index), 0);
        send(&producer, &cluster.partition(index), 0..200);
    }
    landed(&mut producer, 600).await;
    (0..3).for_each(|index| assert_log(&cluster, index, 0..200));
    assert!(cluster.state().faults.is_empty() && cluster.state().logs.values().all(|log| log.most_outstanding <= 5));
}

#[tokio::test]
async fn a_partition_follows_its_leader() {
    let cluster = Cluster::start(3, 1, 13).await;
    let mut producer = producer(&cluster, Settings::default());
    let partition = cluster.partition(0);
    producer.open(&partition, 0);
    for round in 0..6 {
        send(&producer, &partition, 10 * round..10 * round + 5);
        cluster.state().logs.get_mut(&0).expect("it").leader = (round % 3) as i32 + 1;
        send(&producer, &partition, 10 * round + 5..10 * round + 10);
        landed(&mut producer, 10).await;
    }
    assert_log(&cluster, 0, 0..60);
}

#[tokio::test]
async fn a_leader_that_hangs_is_left_when_another_one_leads() {
    let cluster = Cluster::start(2, 1, 13).await;
    let mut producer = producer(&cluster, Settings::default());
    let partition = cluster.partition(0);
    producer.open(&partition, 0);
    send(&producer, &partition, 0..5);
    landed(&mut producer, 5).await;
    // The other one is asked for the cluster's state too.
    cluster.state().frozen.push(1);
    send(&producer, &partition, 5..10);
    let began = Instant::now();
    cluster.state().logs.get_mut(&0).expect("it").leader = 2;
    landed(&mut producer, 5).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_log(&cluster, 0, 0..10);
}

/// Waits for a refusal, and returns code, first sequence, the tokens that came back, and the error's text.
async fn refused(producer: &mut Producer<u32>) -> (i16, i32, Vec<u32>, String) {
    loop {
        match answer(producer).await {
            Answer::Refused { code, sequence, batches, error, .. } => {
                return (code, sequence, batches.into_iter().map(|(_, token)| token).collect(), error.to_string());
            }
            Answer::Trouble { .. } | Answer::Landed { .. } => {}
            answer => panic!("{answer:?}"),
        }
    }
}

#[tokio::test]
async fn a_refused_batch_comes_back_with_all_behind_it_and_the_others_go_on() {
    let cluster = Cluster::start(1, 2, 13).await;
    cluster.state().logs.get_mut(&0).expect("it").refused.insert(6, 10);
    // What fails before it must land first.
    cluster.state().faults.push_back(Fault::Code(19));
    let mut producer = producer(&cluster, Settings::default());
    for index in 0..2 {
        producer.open(&cluster.partition(index), 0);
        send(&producer, &cluster.partition(index), 0..20);
    }
    let (code, sequence, tokens, error) = refused(&mut producer).await;
    assert_eq!((code, sequence, tokens), (10, 6, (3..20).collect::<Vec<_>>()));
    assert!(error.contains("`max.message.bytes`") && error.contains("\"orders\" partition 0"), "{error}");
    assert_log(&cluster, 0, 0..3);
    send(&producer, &cluster.partition(0), 20..21);
    assert_eq!(refused(&mut producer).await.2, [20], "nothing more is sent there");
    producer.open(&cluster.partition(0), 6);
    cluster.state().logs.get_mut(&0).expect("it").refused.clear();
    send(&producer, &cluster.partition(0), 3..6);
    until("both go on", || cluster.state().logs.values().map(|log| log.batches.len()).eq([6, 20])).await;
    assert_log(&cluster, 0, 0..6);
    assert_log(&cluster, 1, 0..20);
}

#[tokio::test]
async fn a_sequence_that_nothing_explains_ends_the_partition_and_says_to_read_the_tail() {
    let cluster = Cluster::start(1, 1, 13).await;
    cluster.state().logs.get_mut(&0).expect("it").next_sequence = Some(1000);
    let mut producer = producer(&cluster, Settings::default());
    producer.open(&cluster.partition(0), 0);
    send(&producer, &cluster.partition(0), 0..9);
    let (code, sequence, tokens, error) = refused(&mut producer).await;
    assert_eq!((code, sequence, tokens.len()), (45, 0, 9));
    assert!(error.contains("target's tail is read"), "{error}");
}

#[tokio::test]
async fn a_younger_process_ends_the_producer() {
    let cluster = Cluster::start(1, 2, 13).await;
    let mut producer = begun(&cluster).await;
    cluster.state().epoch = IDENTITY.epoch + 1;
    send(&producer, &cluster.partition(0), 1..9);
    for _ in 0..2 {
        let told = answer(&mut producer).await;
        assert!(matches!(&told, Answer::Fenced(error) if error.exit_code() == 11), "{told:?}");
        send(&producer, &cluster.partition(1), 1..9);
    }
    assert_log(&cluster, 1, 0..1);
}

#[tokio::test]
async fn sequences_go_on_with_zero_behind_the_greatest() {
    let cluster = Cluster::start(1, 1, 13).await;
    let mut producer = producer(&cluster, Settings::default());
    producer.open(&cluster.partition(0), i32::MAX - 2);
    send(&producer, &cluster.partition(0), 0..4);
    landed(&mut producer, 4).await;
    let sequences: Vec<i32> = cluster.state().logs[&0].batches.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, [i32::MAX - 2, i32::MAX, 1, 3]);
}

#[tokio::test]
async fn a_topic_made_again_is_not_written() {
    let settle = Duration::from_millis(200);
    for code in [13, 12] {
        let cluster = Cluster::start(1, 1, code).await;
        let mut producer = producer(&cluster, Settings { settle, ..Settings::default() });
        let topic_id = TopicId(cluster.state().topic_id);
        let partition = Partition { topic_id, ..cluster.partition(0) };
        cluster.state().topic_id = uuid::Uuid::new_v4();
        producer.open(&partition, 0);
        send(&producer, &partition, 0..3);
        let (code, _, tokens, error) = refused(&mut producer).await;
        assert_eq!((code, tokens), (3, vec![0, 1, 2]));
        assert!(error.contains(&partition.topic_id.to_string()) && error.contains(TOPIC), "{error}");
        assert!(cluster.state().requests.is_empty(), "nothing was sent");
    }
}

#[tokio::test]
async fn a_topic_that_goes_while_it_is_written_is_refused_and_a_new_one_settles() {
    let cluster = Cluster::start(1, 1, 13).await;
    let settle = Duration::from_millis(300);
    let mut producer = producer(&cluster, Settings { settle, ..Settings::default() });
    let partition = cluster.partition(0);
    cluster.state().faults.extend([Fault::Code(100), Fault::Code(3)]);
    producer.open(&partition, 0);
    send(&producer, &partition, 0..3);
    landed(&mut producer, 3).await;
    cluster.state().topic_id = uuid::Uuid::new_v4();
    send(&producer, &partition, 3..5);
    let (code, sequence, tokens, _) = refused(&mut producer).await;
    assert_eq!((code, sequence, tokens), (3, 6, vec![3, 4]));
}

#[tokio::test]
async fn a_broker_that_answers_for_another_cluster_is_sent_nothing() {
    let cluster = Cluster::start(1, 1, 13).await;
    let client = client(&cluster.servers());
    client.metadata(Some(&[])).await.expect("it answers");
    cluster.state().cluster_id = "other";
    let mut producer = Producer::start(&client, IDENTITY, Settings::default());
    producer.open(&cluster.partition(0), 0);
    send(&producer, &cluster.partition(0), 0..2);
    let (code, _, tokens, error) = refused(&mut producer).await;
    assert_eq!((code, tokens), (-1, vec![0, 1]));
    assert!(error.contains("another cluster") && cluster.state().requests.is_empty(), "{error}");
}

#[tokio::test]
async fn trouble_is_told_when_it_lasts_and_when_it_is_over() {
    let cluster = Cluster::start(1, 1, 13).await;
    cluster.state().faults.extend((0..1000).map(|_| Fault::Code(19)));
    let mut producer = producer(&cluster, Settings::default());
    producer.open(&cluster.partition(0), 0);
    send(&producer, &cluster.partition(0), 0..1);
    let told = timeout(Duration::from_secs(5), producer.answer()).await.expect("trouble");
    let Answer::Trouble { subject, reason: Some(reason) } = told else { panic!("{told:?}") };
    assert_eq!((&*subject, &*reason), ("orders-0", "broker 1 answers NotEnoughReplicas (19)"));
    cluster.state().faults.clear();
    let told = answer(&mut producer).await;
    assert!(matches!(told, Answer::Landed { first: 0, .. }), "{told:?}");
    let told = answer(&mut producer).await;
    assert!(matches!(&told, Answer::Trouble { subject, reason: None } if subject == "orders-0"), "{told:?}");
}

#[tokio::test]
async fn a_batch_larger_than_a_request_goes_alone_and_others_share_what_fits() {
    let cluster = Cluster::start(1, 3, 13).await;
    cluster.hold();
    let mut producer =
        producer(&cluster, Settings { request_bytes: 1000, in_flight_bytes: 2000, ..Settings::default() });
    for index in 0..3 {
        producer.open(&cluster.partition(index), 0);
        producer.send(&cluster.partition(index), batch(2, &vec![0; if index == 1 { 5000 } else { 300 }]), 0);
    }
    until("it is sent", || cluster.state().requests.len() >= 2).await;
    cluster.release();
    landed(&mut producer, 3).await;
    let requests = cluster.state().requests.clone();
    assert!(requests.len() >= 2 && requests.contains(&1), "{requests:?}");
}

#[tokio::test]
async fn a_quota_delays_the_next_request() {
    let cluster = Cluster::start(1, 1, 13).await;
    cluster.state().throttle_ms = 300;
    let mut producer = producer(&cluster, Settings::default());
    producer.open(&cluster.partition(0), 0);
    send(&producer, &cluster.partition(0), 0..1);
    landed(&mut producer, 1).await;
    let began = Instant::now();
    send(&producer, &cluster.partition(0), 1..2);
    landed(&mut producer, 1).await;
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_wait_for_an_answer_may_be_given_up() {
    let cluster = Cluster::start(1, 1, 13).await;
    let mut producer = producer(&cluster, Settings::default());
    producer.open(&cluster.partition(0), 0);
    send(&producer, &cluster.partition(0), 0..100);
    let mut tokens = Vec::new();
    while tokens.len() < 100 {
        tokio::select! {
            biased;
            () = tokio::task::yield_now() => {}
            answer = producer.answer() => match answer {
                Answer::Landed { token, .. } => tokens.push(token),
                answer => panic!("{answer:?}"),
            },
        }
        if let Ok(Answer::Landed { token, .. }) = timeout(Duration::from_micros(50), producer.answer()).await {
            tokens.push(token);
        }
    }
    assert!(tokens.into_iter().eq(0..100));
}

#[tokio::test]
async fn dropping_a_producer_ends_its_tasks_and_closes_its_connections() {
    let cluster = Cluster::start(3, 6, 13).await;
    let client = client(&cluster.servers());
    client.metadata(Some(&[])).await.expect("it answers");
    let before = || tokio::runtime::Handle::current().metrics().num_alive_tasks() - cluster.state().connections;
    let (tasks, connections) = (before(), cluster.state().connections);
    cluster.hold();
    let producer: Producer<u32> = Producer::start(&client, IDENTITY, Settings::default());
    for index in 0..6 {
        producer.open(&cluster.partition(index), 0);
        send(&producer, &cluster.partition(index), 0..20);
    }
    until("it is on its way", || cluster.state().logs.values().all(|log| log.batches.len() == 1)).await;
    drop(producer);
    // The client keeps its own, one a broker at most.
    until("connections close", || cluster.state().connections <= connections + 2).await;
    until("tasks end", || before() == tasks).await;
}

async fn ends(client: &Client, brokers: i32, partitions: i32) -> i64 {
    let mut ends = 0;
    let told = client.metadata(Some(&["t".to_owned()])).await.expect("it answers");
    for broker in 1..=brokers {
        let led = told.topics[0].partitions.iter().filter(|partition| partition.leader == broker);
        let query = |index| OffsetQuery { partition: mock_partition(index), leader_epoch: -1, at: At::Latest };
        let queries: Vec<_> = led.map(|partition| query(partition.index)).collect();
        let answers = client.list_offsets(broker, &queries, Isolation::Uncommitted).await.expect("it answers");
        ends += answers.iter().map(|answer| answer.offset).sum::<i64>();
    }
    assert!(partitions > 0);
    ends
}

fn mock_partition(index: i32) -> Partition {
    Partition { topic: "t".into(), topic_id: TopicId::NONE, index }
}

fn mock(brokers: i32, partitions: i32) -> (MockCluster<'static, rdkafka::producer::DefaultProducerContext>, Client) {
    let cluster = MockCluster::new(brokers).expect("a mock cluster");
    cluster.create_topic("t", partitions, 1).expect("a topic");
    let client = client(&cluster.bootstrap_servers());
    (cluster, client)
}

#[tokio::test]
async fn several_brokers_of_another_maker_take_what_is_sent() {
    let (cluster, client) = mock(3, 9);
    use RDKafkaRespErr as Code;
    let errors = [
        Code::RD_KAFKA_RESP_ERR__TRANSPORT,
        Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
    ];
    cluster.request_errors(RDKafkaApiKey::Produce, &errors);
    let mut producer = Producer::start(&client, IDENTITY, Settings::default());
    let mut tokens = BTreeSet::new();
    for index in 0..9 {
        producer.open(&mock_partition(index), 0);
        send(&producer, &mock_partition(index), 0..30);
    }
    while tokens.len() < 9 * 30 {
        match answer(&mut producer).await {
            Answer::Landed { partition, token, .. } => assert!(tokens.insert((partition.index, token)), "once"),
            Answer::Trouble { .. } => {}
            answer => panic!("{answer:?}"),
        }
    }
    // The mock appends whatever it is sent again: nothing was sent again that had landed.
    assert_eq!(ends(&client, 3, 9).await, 2 * 9 * 30);
}

#[tokio::test]
async fn a_fence_outlasts_what_passes() {
    let (cluster, client) = mock(2, 4);
    use RDKafkaRespErr as Code;
    let busy = Code::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS;
    let moved = Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR;
    let loads = Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    cluster.request_errors(RDKafkaApiKey::FindCoordinator, &[Code::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE]);
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[busy, moved, loads]);
    let new = Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    cluster.request_errors(RDKafkaApiKey::AddPartitionsToTxn, &[new, busy, Code::RD_KAFKA_RESP_ERR__TRANSPORT]);
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[busy, moved]);
    let partitions: Vec<_> = (0..4).map(mock_partition).collect();
    let identity = fence(&client, "restore-1", &partitions).await.expect("a fence");
    assert!(identity.producer_id >= 0 && identity.epoch >= 0);
}

#[tokio::test]
async fn a_fence_without_authority_says_what_to_allow_and_a_fenced_one_that_it_is() {
    let (cluster, client) = mock(1, 1);
    use RDKafkaRespErr as Code;
    let forbidden = Code::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[forbidden]);
    let error = fence(&client, "restore-1", &[mock_partition(0)]).await.expect_err("forbidden");
    assert!(
        !error.retryable() && error.to_string().contains("allow WRITE and DESCRIBE on transactional id"),
        "{error}"
    );
    cluster.request_errors(RDKafkaApiKey::EndTxn, &[Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    let error = fence(&client, "restore-1", &[mock_partition(0)]).await.expect_err("fenced");
    assert_eq!(error.exit_code(), 11, "{error}");
}
