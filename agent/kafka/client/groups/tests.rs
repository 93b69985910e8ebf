//! Groups, asked of librdkafka's mock cluster (which lists none) and of a broker of a few lines.

mod broker;
mod changes;
mod descriptions;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::{ClientConfig, TopicPartitionList};

use super::*;
use crate::kafka::Properties;
use broker::{Script, scripted};

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
async fn an_offset_that_a_transaction_has_yet_to_decide_is_waited_for_only_where_that_is_wanted() {
    let (client, script) = scripted(Script { undecided: 3, ..Script::default() }).await;
    let named = [ListedGroup::named("a")];
    let told = client.committed_offsets(&named, &wanted()).await.expect("told");
    assert_eq!((told["a"].as_ref().map(Vec::len), script.lock().expect("nobody panics").asked.len()), (Ok(2), 1));
    let told = client.stable_offsets(&named, &wanted()).await.expect("told");
    assert_eq!(told["a"], Ok(vec![offset("orders", 0, 40, "m"), offset("orders", 1, 41, "m")]));
    assert_eq!(script.lock().expect("nobody panics").asked.len(), 5, "until it was decided");
}

#[tokio::test]
async fn who_coordinates_a_group_is_asked_once_and_of_one_client_for_all() {
    let (client, script) = scripted(Script { groups: vec![("a", "Classic")], ..Script::default() }).await;
    let _ = client.list_groups().await.expect("listed");
    let found = || script.lock().expect("nobody panics").found;
    let _ = client.commit_offsets("a", &[offset("orders", 0, 1, "")], &Requests::default()).await;
    assert_eq!(found(), 0, "who listed it coordinates it");
    let other = client.beside();
    let _ = other.commit_offsets("a", &[offset("orders", 0, 1, "")], &Requests::default()).await;
    assert_eq!(found(), 0);
    for _ in 0..2 {
        let _ = other.commit_offsets("b", &[offset("orders", 0, 1, "")], &Requests::default()).await;
    }
    assert_eq!(found(), 1);
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
