//! Offsets committed and deleted, whatever comes between.

use rdkafka::mocking::MockCoordinator;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as E};

use super::broker::{Script, broker, scripted};
use super::*;

fn offsets(count: i32) -> Vec<CommittedOffset> {
    (0..count).map(|partition| offset("orders", partition, i64::from(partition) * 10, "")).collect()
}

fn all_done(changes: &[Change]) -> bool {
    changes.iter().all(|change| *change == Change::Done)
}

fn refused(change: &Change) -> (i16, &str) {
    match change {
        Change::Done => panic!("it was done"),
        Change::Refused { code, why } => (*code, why),
    }
}

#[tokio::test]
async fn offsets_land_whoever_coordinates_the_group_by_then_and_whatever_passes() {
    let cluster = MockCluster::new(2).expect("a mock cluster");
    cluster.create_topic("orders", 3, 1).expect("created");
    let client = client(&cluster.bootstrap_servers());
    client.metadata(Some(&[])).await.expect("it answers");
    let requests = Requests::default();
    for (broker, next) in [(1, 5), (2, 7), (1, 9)] {
        // The cluster takes commits wherever they go: that they went wrong is said for it.
        let (loads, moved) = (E::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, E::RD_KAFKA_RESP_ERR_NOT_COORDINATOR);
        cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[moved, loads]);
        cluster.coordinator(MockCoordinator::Group("a".to_owned()), broker).expect("moved");
        let wanted = [offset("orders", 2, next, "kept"), offset("orders", 0, next + 1, "")];
        assert!(all_done(&client.commit_offsets("a", &wanted, &requests).await));
        let told = client.committed_offsets(&[ListedGroup::named("a")], &super::wanted()).await.expect("told");
        assert_eq!(told["a"], Ok(vec![wanted[1].clone(), wanted[0].clone()]));
    }
    let reasons = [("CoordinatorLoadInProgress (14)".to_owned(), 3), ("NotCoordinator (16)".to_owned(), 3)];
    assert_eq!(requests.reasons(), reasons.into());
    assert_eq!(requests.count(), requests.retries() + 3);
    assert!(requests.percentile(0.99) >= requests.percentile(0.5));
}

#[tokio::test]
async fn what_the_coordinator_cannot_keep_at_once_is_halved_until_it_can() {
    let (client, script) = scripted(Script { most: Some(3), ..Script::default() }).await;
    let requests = Requests::default();
    assert!(all_done(&client.commit_offsets("a", &offsets(20), &requests).await));
    let script = script.lock().expect("nobody panics");
    assert_eq!(script.landed, (0..20).map(|partition| (partition, i64::from(partition) * 10)).collect());
    let sizes: Vec<usize> = script.changed.iter().map(Vec::len).collect();
    assert_eq!(sizes, [20, 10, 5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2], "and not tried so large again");
    assert_eq!(requests.reasons(), [("UnknownServerError (-1)".to_owned(), 3)].into());
}

#[tokio::test]
async fn one_that_the_coordinator_cannot_keep_even_alone_is_refused_and_the_others_land() {
    let (client, script) = scripted(Script { changing: [(1, vec![-1; 9])].into(), ..Script::default() }).await;
    let changes = client.commit_offsets("a", &offsets(4), &Requests::default()).await;
    let (code, why) = refused(&changes[1]);
    assert!(code == -1 && why.contains("UnknownServerError (-1)") && why.contains("see its log"), "{why}");
    assert_eq!(script.lock().expect("nobody panics").landed.keys().copied().collect::<Vec<_>>(), [0, 2, 3]);
    assert!(changes.iter().filter(|change| **change == Change::Done).count() == 3);
}

#[tokio::test]
async fn pieces_are_bounded_by_what_the_coordinator_writes() {
    let (client, script) = scripted(Script::default()).await;
    let offsets: Vec<_> = (0..600).map(|partition| offset("orders", partition, 1, &"m".repeat(4096))).collect();
    assert!(all_done(&client.commit_offsets("a", &offsets, &Requests::default()).await));
    let script = script.lock().expect("nobody panics");
    let sizes: Vec<usize> = script.changed.iter().map(Vec::len).collect();
    assert_eq!((sizes.iter().sum::<usize>(), sizes.len()), (600, 5));
    assert!(sizes.iter().all(|size| size * 4096 <= 512 << 10));
    assert_eq!(script.landed.len(), 600);
}

#[tokio::test]
async fn only_what_failed_is_asked_again_and_what_is_refused_says_why() {
    // It loads; may not; too long; a topic that is new; and a group with members.
    let changing = [(1, vec![14, 16]), (2, vec![29]), (3, vec![12]), (4, vec![3]), (5, vec![25])].into();
    let (client, script) = scripted(Script { changing, ..Script::default() }).await;
    let requests = Requests::default();
    let changes = client.commit_offsets("a", &offsets(6), &requests).await;
    assert!(all_done(&[&changes[..2], &changes[4..5]].concat()));
    let (code, why) = refused(&changes[2]);
    assert_eq!((code, why), (29, "TopicAuthorizationFailed (29); allow READ on topic \"orders\" for this principal"));
    assert!(refused(&changes[3]).1.contains("OffsetMetadataTooLarge (12); "), "{changes:?}");
    assert_eq!(refused(&changes[5]), (25, ACTIVE));
    assert_eq!(script.lock().expect("nobody panics").changed, [vec![0, 1, 2, 3, 4, 5], vec![1, 4], vec![1]]);
    assert_eq!((requests.count(), requests.retries()), (3, 2));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_sent_again() {
    for lost in 1..6 {
        let (client, script) = scripted(Script { lost, ..Script::default() }).await;
        assert!(all_done(&client.commit_offsets("a", &offsets(3), &Requests::default()).await), "{lost}");
        let script = script.lock().expect("nobody panics");
        assert_eq!((script.landed.len(), script.changed.len()), (3, lost + 1));
    }
}

#[tokio::test]
async fn a_cluster_that_stays_away_is_given_up_and_nothing_is_called_done() {
    // Port 1 is nobody's. Groups are committed for in tasks of their own: the answer can be had from one.
    let client = client("127.0.0.1:1");
    let task = tokio::spawn(async move { client.commit_offsets("a", &offsets(2), &Requests::default()).await });
    let changes = task.await.expect("it ends");
    for change in &changes {
        let (code, why) = refused(change);
        assert!(code == 13 && why.contains("127.0.0.1:1") && why.contains("given up after 15 s"), "{why}");
    }
    assert_eq!(changes.len(), 2);
}

#[tokio::test]
async fn a_coordinator_that_moves_in_the_middle_is_followed_with_what_is_left() {
    let (port, new) = broker(Script::default()).await;
    let changing = [(1, vec![16]), (2, vec![16])].into();
    let (client, old) = scripted(Script { changing, ..Script::default() }).await;
    let own = client.addresses()[0].rsplit(':').next().expect("a port").parse().expect("a number");
    old.lock().expect("nobody panics").coordinators = vec![own, port];
    assert!(all_done(&client.commit_offsets("a", &offsets(3), &Requests::default()).await));
    assert_eq!(old.lock().expect("nobody panics").changed, [vec![0, 1, 2]]);
    assert_eq!(new.lock().expect("nobody panics").changed, [vec![1, 2]]);
}

#[tokio::test]
async fn deletions_say_what_became_of_each_and_nothing_of_a_group_that_is_not_there_is_done() {
    let partitions: Vec<(String, i32)> = (0..3).map(|partition| ("orders".to_owned(), partition)).collect();
    let (client, script) =
        scripted(Script { changing: [(1, vec![86]), (2, vec![14])].into(), ..Script::default() }).await;
    let changes = client.delete_offsets("a", &partitions, &Requests::default()).await;
    assert_eq!(
        (changes[0].clone(), refused(&changes[1]), changes[2].clone()),
        (Change::Done, (86, ACTIVE), Change::Done)
    );
    assert_eq!(script.lock().expect("nobody panics").changed, [vec![0, 1, 2], vec![2]]);
    let whole = async |code| {
        script.lock().expect("nobody panics").deleting = code;
        client.delete_offsets("a", &partitions[..1], &Requests::default()).await.remove(0)
    };
    assert_eq!(whole(69).await, Change::Done);
    assert_eq!(refused(&whole(68).await), (68, ACTIVE));
    let why = "GroupAuthorizationFailed (30); allow DELETE on group \"a\" for this principal";
    assert_eq!(refused(&whole(30).await), (30, why));
}

#[tokio::test]
async fn a_share_group_and_a_broker_that_lacks_the_call_are_said() {
    let (client, _) = scripted(Script { changing: [(0, vec![69])].into(), lacks: vec![47], ..Script::default() }).await;
    let changes = client.commit_offsets("a", &offsets(1), &Requests::default()).await;
    assert!(refused(&changes[0]).1.ends_with("\"a\" is no group that commits offsets: a share group?"), "{changes:?}");
    let changes = client.delete_offsets("a", &[("orders".to_owned(), 0)], &Requests::default()).await;
    assert!(refused(&changes[0]).1.contains("has no version of OffsetDelete"), "{changes:?}");
    assert!(client.commit_offsets("a", &[], &Requests::default()).await.is_empty());
}
