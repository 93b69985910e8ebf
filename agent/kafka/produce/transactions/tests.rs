//! Transactions against rdkafka's mock brokers, which answer what a test wants; real ones are asked in `tests/transactions.rs`.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Key, RDKafkaRespErr as Code};

use super::*;
use crate::kafka::Properties;
use crate::kafka::produce::fence;
use crate::kafka::produce::tests::batches::batch;
use crate::record::TopicId;

fn partition(index: i32) -> Partition {
    Partition { topic: "t".into(), topic_id: TopicId::NONE, index }
}

/// Starts two brokers with a topic of four partitions, and transactions there.
async fn started() -> (MockCluster<'static, DefaultProducerContext>, Transactions<u32>) {
    let cluster = MockCluster::new(2).expect("a mock cluster");
    cluster.create_topic("t", 4, 1).expect("a topic");
    let servers = cluster.bootstrap_servers();
    let map = [("bootstrap.servers", &*servers), ("reconnect.backoff.ms", "10"), ("reconnect.backoff.max.ms", "50")];
    let map = map.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let client = Client::new(Properties::new(map.into()).expect("good properties"));
    let identity = fence(&client, "restore-1", &(0..4).map(partition).collect::<Vec<_>>()).await.expect("a fence");
    let transactions = Transactions::start(&client, "restore-1", "restore-1", identity, Settings::default());
    (cluster, transactions)
}

fn progress_to(offset: i64) -> Vec<CommittedOffset> {
    vec![CommittedOffset { topic: "t".to_owned(), partition: 0, offset, metadata: format!("m{offset}") }]
}

/// Commits a batch to each partition; returns how many have landed.
async fn commit(transactions: &mut Transactions<u32>, offset: i64) -> Result<usize> {
    (0..4).for_each(|index| transactions.send(&partition(index), batch(2, b"x"), 0));
    let mut landed = 0;
    let mut heard = |answer| landed += usize::from(matches!(answer, Answer::Landed { .. }));
    transactions.commit(&progress_to(offset), &mut heard).await.map(|()| landed)
}

#[tokio::test]
async fn a_commit_outlasts_what_passes() {
    let (cluster, mut transactions) = started().await;
    let before = transactions.identity;
    let busy = Code::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS;
    let moved = Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR;
    let loads = Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    for round in 1..4 {
        cluster.request_errors(Key::AddPartitionsToTxn, &[busy, moved]);
        cluster.request_errors(Key::AddOffsetsToTxn, &[busy, loads]);
        cluster.request_errors(Key::TxnOffsetCommit, &[moved, loads]);
        cluster.request_errors(Key::EndTxn, &[loads, busy, moved]);
        assert_eq!(commit(&mut transactions, round).await.expect("committed"), 4);
        assert_eq!(transactions.outstanding(), 0);
    }
    assert_eq!(transactions.identity, before, "every answer was heard");
}

#[tokio::test]
async fn where_an_answer_was_not_heard_the_next_transaction_has_another_epoch() {
    let (cluster, mut transactions) = started().await;
    let cut = Code::RD_KAFKA_RESP_ERR__TRANSPORT;
    for key in [Key::AddPartitionsToTxn, Key::AddOffsetsToTxn, Key::TxnOffsetCommit, Key::EndTxn] {
        let before = transactions.identity;
        cluster.request_errors(key, &[cut]);
        assert_eq!(commit(&mut transactions, key as i64).await.expect("committed"), 4);
        assert!(transactions.identity.epoch > before.epoch, "{key:?}");
        let before = transactions.identity;
        assert_eq!(commit(&mut transactions, key as i64 + 1000).await.expect("committed"), 4);
        assert_eq!(transactions.identity, before, "the late request is of an older one");
    }
}

#[tokio::test]
async fn an_end_that_is_fenced_off_is_no_success() {
    let (cluster, mut transactions) = started().await;
    cluster.request_errors(Key::EndTxn, &[Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    let error = commit(&mut transactions, 1).await.expect_err("fenced");
    assert_eq!(error.exit_code(), 11, "{error}");
}

#[tokio::test]
async fn a_group_that_may_not_be_used_ends_the_transaction_and_says_what_to_allow() {
    let (cluster, mut transactions) = started().await;
    cluster.request_errors(Key::AddOffsetsToTxn, &[Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED]);
    let error = commit(&mut transactions, 1).await.expect_err("forbidden");
    assert!(!error.retryable() && error.to_string().contains("allow READ on the group"), "{error}");
    transactions.abort(&mut |_| ()).await.expect("aborted");
    assert_eq!(commit(&mut transactions, 1).await.expect("committed"), 4, "it goes on");
}

#[tokio::test]
async fn a_trouble_that_lasts_is_told_once_and_its_end_too() {
    let (_cluster, mut transactions) = started().await;
    let (away, busy) = (Error::transient("away"), Error::transient("busy"));
    let told = [&away, &away, &busy, &busy, &away].map(|error| transactions.trouble(error).is_some());
    assert_eq!(told, [true, false, true, false, true]);
    assert_eq!([(); 2].map(|()| transactions.right_again().is_some()), [true, false]);
}
