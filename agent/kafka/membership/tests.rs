//! What goes wrong with a membership, on rdkafka's cluster of mock brokers, which answers with errors as told. How members
//! share partitions is tested on a real Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// Long enough for anything here on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn cluster(partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("orders", partitions, 1).expect("a topic");
    cluster
}

/// A member, and what it was told.
struct Joined {
    membership: Membership,
    told: mpsc::Receiver<Told>,
    ours: BTreeSet<Name>,
}

impl Joined {
    fn new(cluster: &Cluster, group_id: &str, properties: &[(&str, &str)]) -> Self {
        let servers = cluster.bootstrap_servers();
        let fixed = [
            ("bootstrap.servers", servers.as_str()),
            ("statistics.interval.ms", "100"),
            // The mock coordinator lets nearly a session pass at each rebalance; the first takes three seconds.
            ("session.timeout.ms", "4500"),
            ("heartbeat.interval.ms", "200"),
        ];
        let all = fixed.iter().chain(properties);
        let map = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let properties = Properties::new(map).expect("good properties");
        let (tell, told) = mpsc::channel();
        let tell = move |what| drop(tell.send(what));
        let membership = Membership::join(&properties, group_id, Duration::from_secs(1), tell).expect("joined");
        membership.subscribe(&["orders".to_owned(), "missing".to_owned()]);
        Self { membership, told, ours: BTreeSet::new() }
    }

    /// Hears until `done`; follows what is ours, without closing what is revoked.
    fn hear(&mut self, what: &str, mut done: impl FnMut(&Told, &BTreeSet<Name>) -> bool) -> Told {
        let began = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(began.elapsed());
            let told = self.told.recv_timeout(left).unwrap_or_else(|_| panic!("never told: {what}"));
            match &told {
                Told::Assigned(new) => {
                    for name in new {
                        assert!(self.ours.insert(name.clone()), "{name:?} is told once");
                    }
                }
                Told::Revoked { partitions, .. } => {
                    for name in partitions {
                        assert!(self.ours.remove(name), "{name:?} was ours");
                    }
                }
                Told::Trouble(_) => {}
            }
            if done(&told, &self.ours) {
                return told;
            }
        }
    }

    fn hear_ours(&mut self, count: usize) {
        self.hear(&format!("{count} partitions"), |_, ours| ours.len() == count);
    }

    /// Waits until `condition` gives something.
    fn wait<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(began.elapsed() < DEADLINE, "in vain: {what}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Returns the offsets that a group has committed.
fn committed(cluster: &Cluster, group_id: &str, partitions: i32) -> BTreeMap<i32, i64> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", group_id);
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_range("orders", 0, partitions - 1);
    let list = consumer.committed_offsets(list, Duration::from_secs(10)).expect("an answer");
    let elements = list.elements();
    let offsets = elements.iter().filter_map(|element| match element.offset() {
        rdkafka::Offset::Offset(offset) => Some((element.partition(), offset)),
        _ => None,
    });
    offsets.collect()
}

#[test]
fn an_error_of_the_group_is_trouble_with_an_advice_and_passes() {
    let cluster = cluster(1);
    cluster
        .request_errors(RDKafkaApiKey::JoinGroup, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 2]);
    let mut member = Joined::new(&cluster, "forbidden", &[]);
    let told = member.hear("trouble", |told, _| matches!(told, Told::Trouble(_)));
    let Told::Trouble(Some(line)) = told else { panic!("{told:?}") };
    assert!(line.contains("grant READ on the group"), "{line}");
    member.hear("it is well again", |told, _| *told == Told::Trouble(None));
    assert_eq!(member.ours.len(), 1);
}

#[test]
fn a_member_that_another_has_fenced_reads_on_and_joins_anew() {
    let cluster = cluster(2);
    let mut member = Joined::new(&cluster, "static", &[("group.instance.id", "one")]);
    member.hear_ours(2);
    cluster.request_errors(RDKafkaApiKey::Heartbeat, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
    let told = member.hear("trouble", |told, _| !matches!(told, Told::Assigned(_)));
    let Told::Trouble(Some(line)) = told else { panic!("nothing is revoked: {told:?}") };
    assert!(line.contains("group.instance.id"), "{line}");
    let told = member.hear("the next", |_, _| true);
    assert_eq!(told, Told::Trouble(None), "what it has again is no news");
    member.membership.durable("orders", 1, 3);
    Joined::wait("it is a member that may commit", || {
        (committed(&cluster, "static", 2).get(&1) == Some(&3)).then_some(())
    });
}

#[test]
fn what_is_lost_is_read_on_until_the_group_says_who_has_it() {
    let cluster = cluster(2);
    let mut member = Joined::new(&cluster, "lost", &[]);
    member.hear_ours(2);
    cluster.request_errors(RDKafkaApiKey::Heartbeat, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
    // It has to join anew: only as a member may it commit.
    Joined::wait("it is a member again", || {
        member.membership.durable("orders", 0, 1 + committed(&cluster, "lost", 2).get(&0).unwrap_or(&0));
        (committed(&cluster, "lost", 2).get(&0) > Some(&2)).then_some(())
    });
    assert!(member.told.try_recv().is_err(), "the owner was told of nothing");
}

#[test]
fn leaving_a_group_whose_coordinator_is_away_is_bounded() {
    let cluster = cluster(1);
    let mut member = Joined::new(&cluster, "away", &[]);
    member.hear_ours(1);
    cluster.broker_down(1).expect("down");
    member.membership.durable("orders", 0, 5);
    let began = Instant::now();
    drop(member.membership);
    assert!(began.elapsed() < LEAVE_WITHIN + Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn properties_that_librdkafka_refuses_are_the_users_to_correct() {
    let map = [("bootstrap.servers", "127.0.0.1:1"), ("partition.assignment.strategy", "best")];
    let map = map.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let properties = Properties::new(map.into()).expect("known properties");
    let error = Membership::join(&properties, "g", Duration::from_secs(1), drop).expect_err("refused");
    assert_eq!(error.kind(), crate::error::Kind::Usage);
    assert!(error.to_string().contains("partition.assignment.strategy"), "{error}");
}
