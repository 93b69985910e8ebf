//! The maker against librdkafka's mock cluster, which lists no groups: those that are named are kept.

use std::collections::BTreeMap;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, TopicPartitionList};

use super::*;
use crate::archive::savepoint::{Group, Savepoint, lacking};
use crate::config::Config;
use crate::kafka::client::groups::{Choice, ListedGroup, Listing};
use crate::kafka::source::Selection;

struct Bench {
    cluster: MockCluster<'static, rdkafka::producer::DefaultProducerContext>,
    pipeline: config::Pipeline,
    archive: Archive,
}

/// A cluster with a topic, a pipeline of it with `keys` besides, and its backup, which holds nothing yet.
async fn bench(keys: &str) -> Bench {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic("orders", 2, 1).expect("created");
    let path = format!("memory://{}", uuid::Uuid::new_v4());
    let text = format!(
        "[[pipeline]]\nname = \"p\"\n[pipeline.source]\ntype = \"kafka\"\ntopics = [\"orders\"]\n{keys}\n\
         kafka = {{ \"bootstrap.servers\" = \"{}\" }}\n\
         [pipeline.sink]\ntype = \"archive\"\nbackup_id = \"b\"\npath = \"{path}\"\n",
        cluster.bootstrap_servers()
    );
    let pipeline = Config::parse("a.toml", &text, &|_| None).expect("valid").pipelines.remove(0);
    let client = Client::new(Properties::new(pipeline.source.kafka.clone()).expect("good properties"));
    let id = client.metadata(Some(&[])).await.expect("it answers").cluster_id;
    let archive = Archive::create(&Store::open(&path).expect("memory"), "b", id.as_deref()).await.expect("created");
    Bench { cluster, pipeline, archive }
}

/// As [`bench`], with another topic, both of them held by the backup, and two groups, one of which is chosen.
async fn shared() -> Bench {
    let bench = bench("groups = [\"shop\"]").await;
    bench.cluster.create_topic("pay", 1, 1).expect("created");
    (0..3).for_each(|_| bench.write(1));
    bench.commit("shop", 2);
    bench.commit("till", 3);
    bench.hold("orders").await;
    bench.hold("pay").await;
    bench
}

/// What `maker` asks with; `nothing` is neither taken over nor behind an end.
fn asking<'a>(
    maker: &'a Maker,
    before: Option<&'a State>,
    nothing: &'a (BTreeSet<(String, TopicId)>, BTreeSet<Ahead>),
) -> Asking<'a> {
    let (beside, lasting) = nothing;
    Asking { client: &maker.client, scope: &maker.scope, cluster_id: None, before, beside, lasting }
}

/// The names of the topics and of the groups of a state.
fn covered(state: &State) -> (Vec<&str>, Vec<&str>) {
    let topics = state.topics.iter().map(|topic| &*topic.topic);
    (topics.collect(), state.groups.iter().map(|group| &*group.group).collect())
}

impl Bench {
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers());
        config
    }

    /// Writes a record to a partition.
    fn write(&self, partition: i32) {
        let producer: BaseProducer = self.client().create().expect("a producer");
        producer.send(BaseRecord::<(), str>::to("orders").partition(partition).payload("x")).expect("sent");
        producer.flush(Duration::from_secs(10)).expect("delivered");
    }

    fn commit(&self, group: &str, offset: i64) {
        let consumer: BaseConsumer = self.client().set("group.id", group).create().expect("a consumer");
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset("orders", 1, rdkafka::Offset::Offset(offset)).expect("an offset");
        consumer.commit(&offsets, CommitMode::Sync).expect("committed");
    }

    fn maker(&self, reached: Reached) -> Maker {
        Maker::new(std::slice::from_ref(&self.pipeline), reached, Health::new()).expect("well configured").0
    }

    /// A maker of the same backup whose topics are `pay`, and whose groups are `groups`, all for none.
    fn other(&self, groups: &[&str]) -> Maker {
        let mut pipeline = self.pipeline.clone();
        pipeline.source.topics = Selection::named(["pay"]);
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        pipeline.source.groups = Choice::new(groups, None, &[]).expect("no pattern");
        Maker::new(&[pipeline], Reached::default(), Health::new()).expect("well configured").0
    }

    /// Makes the backup hold a topic.
    async fn hold(&self, topic: &str) {
        let client = Client::new(Properties::new(self.pipeline.source.kafka.clone()).expect("good properties"));
        let told = client.metadata(Some(&[topic.to_owned()])).await.expect("told").topics.remove(0);
        let (name, topic_id) = (topic.to_owned(), told.topic_id.to_string());
        let topic = crate::pipeline::Topic { name, topic_id, partitions: 1, replication_factor: 1, configs: None };
        self.archive.put_topic(&topic).await.expect("created");
    }

    async fn read(&self, name: Name) -> (Savepoint, State) {
        self.archive.resolved_savepoint(name).await.expect("sound").expect("there")
    }
}

#[tokio::test]
async fn named_groups_are_kept_without_a_listing_and_nothing_is_written_twice() {
    let bench = bench("groups = [\"shop\", \"p-own\"]\ngroup_id = \"p-own\"").await;
    (0..3).for_each(|_| bench.write(1));
    bench.commit("shop", 2);
    bench.commit("p-own", 3);
    bench.commit("other", 1);
    let mut maker = bench.maker(Reached::default());
    let Made::Written(first) = maker.once().await.expect("made") else { panic!("the first one") };
    let (told, state) = bench.read(first).await;
    assert_eq!((told.full, told.previous, &state.groups_unread), (None, None, &None));
    let ends: Vec<_> = state.topics[0].partitions.iter().map(|end| end.high_watermark).collect();
    assert_eq!(ends, [0, 3]);
    assert_eq!(state.groups.len(), 1, "{:?}", state.groups);
    assert_eq!((&*state.groups[0].group, &*state.groups[0].kind), ("shop", "unknown"));
    assert_eq!(state.groups[0].offsets[0].partitions[0].1, 2);
    assert_eq!(maker.once().await.expect("made"), Made::Unchanged(first));
    assert_eq!(
        bench.maker(Reached::default()).once().await.expect("made"),
        Made::Unchanged(first),
        "another agent's eyes"
    );
    bench.commit("shop", 3);
    let Made::Written(second) = maker.once().await.expect("made") else { panic!("it has changed") };
    assert_eq!(bench.read(second).await.0.previous, Some(first));
    assert_eq!(lacking(&bench.read(second).await.1, |_, _| None).len(), 1);
}

#[tokio::test]
async fn all_groups_are_wanted_of_a_cluster_that_lists_none_and_it_is_said() {
    let bench = bench("").await;
    let made = bench.maker(Reached::default()).once().await.expect("made");
    let (_, state) = bench.read(made.name()).await;
    assert!(state.groups_unread.is_some_and(|why| why.contains("cannot list groups")));
}

#[tokio::test]
async fn what_this_agent_saw_durable_stands_beside_the_end_and_stays_when_another_writes() {
    let bench = bench("groups = [\"shop\"]").await;
    bench.write(1);
    let ids = bench.maker(Reached::default()).client.metadata(Some(&["orders".to_owned()])).await.expect("told");
    let topic_id = ids.topics[0].topic_id;
    let partition = Partition { topic: "orders".into(), topic_id, index: 1 };
    let reached = crate::archive::sink::reached_for_tests(&partition, 1);
    let first = bench.maker(reached).once().await.expect("made").name();
    let archived =
        |state: &State| state.topics[0].partitions.iter().map(|end| end.archived.clone()).collect::<Vec<_>>();
    let expected = [None, Some(Archived { chain: "1".into(), next: 1 })];
    assert_eq!(archived(&bench.read(first).await.1), expected);
    bench.write(0);
    let second = bench.maker(Reached::default()).once().await.expect("made").name();
    assert_eq!(archived(&bench.read(second).await.1), expected, "what was durable stays durable");
}

#[tokio::test]
async fn of_two_agents_one_makes_a_slots_savepoint_and_the_other_follows_it() {
    let bench = bench("groups = [\"shop\"]").await;
    let interval = Duration::from_secs(60);
    let (mut one, mut other) = (bench.maker(Reached::default()), bench.maker(Reached::default()));
    let slot = Name::slot(Timestamp::now(), interval);
    bench.write(0);
    let (a, b) = tokio::join!(one.round(Some(slot)), other.round(Some(slot)));
    let mut made = [a.expect("made"), b.expect("made")];
    made.sort_by_key(|made| matches!(made, Made::ByAnother(_)));
    assert_eq!(made, [Made::Written(slot), Made::ByAnother(slot)]);
    bench.write(0);
    // The loser of this slot makes one next; its predecessor is the winner's.
    let loser = if one.newest.is_some() { &mut other } else { &mut one };
    let Made::Written(next) = loser.round(None).await.expect("made") else { panic!("it has changed") };
    assert_eq!(bench.read(next).await.0.previous, Some(slot));
    assert_eq!(one.round(Some(slot)).await.expect("looked"), Made::ByAnother(next), "a newer one stands for it too");
}

#[tokio::test]
async fn a_handle_is_answered_with_the_name_or_why_there_is_none() {
    let bench = bench("groups = [\"shop\"]\nsavepoint_interval = \"off\"").await;
    let (maker, handle) =
        Maker::new(std::slice::from_ref(&bench.pipeline), Reached::default(), Health::new()).expect("well configured");
    let task = tokio::spawn(maker.run());
    let name: Name = handle.now().await.expect("made").parse().expect("a name");
    assert_eq!(bench.archive.savepoints().await.expect("listed"), [name]);
    task.abort();
    let _ = task.await;
    assert!(handle.now().await.expect_err("nobody makes any").retryable());
}

#[tokio::test]
async fn a_cluster_that_is_another_one_gets_no_savepoint_into_the_backup() {
    let bench = bench("groups = [\"shop\"]").await;
    let other = MockCluster::new(1).expect("a mock cluster");
    other.create_topic("orders", 2, 1).expect("created");
    let mut pipeline = bench.pipeline.clone();
    pipeline.source.kafka = BTreeMap::from([("bootstrap.servers".to_owned(), other.bootstrap_servers())]);
    let (mut maker, _) = Maker::new(&[pipeline], Reached::default(), Health::new()).expect("well configured");
    let error = maker.once().await.expect_err("another cluster");
    assert!(error.to_string().contains("the backup is of cluster"), "{error}");
    assert!(bench.archive.savepoints().await.expect("listed").is_empty());
}

#[tokio::test]
async fn a_topic_that_is_another_one_between_groups_and_ends_begins_the_look_anew() {
    let bench = bench("groups = [\"shop\"]").await;
    let maker = bench.maker(Reached::default());
    let nothing = (BTreeSet::new(), BTreeSet::new());
    let asking = asking(&maker, None, &nothing);
    let mut before = asking.topics().await.expect("told").covered;
    assert!(asking.ends(&before).await.expect("told").is_some());
    before.get_mut("orders").expect("it is there").topic_id = TopicId(uuid::Uuid::from_u128(7));
    assert!(asking.ends(&before).await.expect("told").is_none(), "its offsets are not those of the one that ends");
    before.remove("orders");
    assert!(asking.ends(&before).await.expect("told").is_none(), "it has appeared");
}

#[tokio::test]
async fn that_there_is_none_for_long_stands_in_readyz_until_there_is_one() {
    let bench = bench("groups = [\"shop\"]\nsavepoint_interval = \"1s\"").await;
    let health = Health::new();
    let pipelines = std::slice::from_ref(&bench.pipeline);
    let (mut maker, _) = Maker::new(pipelines, Reached::default(), health.of("savepoints")).expect("well configured");
    let away = || Err(Error::transient("no broker answers"));
    maker.tell(&away());
    assert!(health.reasons().is_empty(), "one may fall into an election");
    maker.failing = maker.failing.map(|(since, error)| (since - PATIENT_FOR, error));
    maker.tell(&away());
    let told = health.reasons();
    assert!(told.len() == 1 && told[0].contains("no savepoint could be made for 30 s: no broker answers"), "{told:?}");
    let made = maker.once().await;
    maker.tell(&made);
    assert!(health.reasons().is_empty(), "{made:?}");
}

#[tokio::test]
async fn agents_with_other_topics_and_groups_cover_the_backup_and_none_undoes_what_another_made() {
    let bench = shared().await;
    let (mut one, mut other) = (bench.maker(Reached::default()), bench.other(&["till"]));
    let first = one.once().await.expect("made").name();
    assert_eq!(covered(&bench.read(first).await.1), (vec!["orders"], vec!["shop"]));
    let Made::Written(second) = other.once().await.expect("made") else { panic!("there is more") };
    assert_eq!(covered(&bench.read(second).await.1), (vec!["orders", "pay"], vec!["shop", "till"]));
    for _ in 0..2 {
        assert_eq!(one.once().await.expect("made"), Made::Unchanged(second));
        assert_eq!(other.once().await.expect("made"), Made::Unchanged(second));
    }
    bench.write(0);
    let third = other.once().await.expect("made").name();
    assert_eq!(bench.read(third).await.1.topics[0].partitions[0].high_watermark, 1, "asked for, not only kept");
}

#[tokio::test]
async fn a_newest_savepoint_that_cannot_be_read_makes_nobody_forget_what_others_cover() {
    let bench = shared().await;
    let _ = bench.maker(Reached::default()).once().await.expect("made");
    let damaged = bench.other(&["till"]).once().await.expect("made").name().later();
    let _ = bench.archive.create_savepoint(damaged, bytes::Bytes::from_static(b"{}")).await.expect("created");
    let made = bench.maker(Reached::default()).round(Some(damaged.later())).await.expect("made").name();
    let (savepoint, state) = bench.read(made).await;
    assert_eq!((savepoint.previous, covered(&state)), (Some(damaged), (vec!["orders", "pay"], vec!["shop", "till"])));
}

#[tokio::test]
async fn a_group_of_another_agent_that_may_not_be_read_stays_as_it_was_and_that_is_said() {
    let bench = bench("groups = [\"shop\"]").await;
    let maker = bench.maker(Reached::default());
    let topics = asking(&maker, None, &Default::default()).topics().await.expect("told").covered;
    let mut before = crate::archive::savepoint::tests::state(&[1]);
    before.groups.push(Group { group: "till".into(), ..before.groups[0].clone() });
    let topic_id = topics["orders"].topic_id.to_string();
    before.groups.iter_mut().for_each(|group| group.offsets[0].topic_id.clone_from(&topic_id));
    let nothing = Default::default();
    let asking = asking(&maker, Some(&before), &nothing);
    let carried = |group: &str| asking.carried(&ListedGroup::named(group), "forbidden", &topics);
    let till = carried("till").expect("it stands there");
    assert_eq!(till.offsets, before.groups[1].offsets);
    assert_eq!(till.error.as_deref(), Some("as an earlier savepoint has it: forbidden"));
    assert!(carried("shop").is_none(), "its own is asked for by this agent");
    assert!(carried("new").is_none());
}

#[tokio::test]
async fn topics_of_another_agent_that_may_not_be_looked_at_are_named_by_each_of_the_two() {
    let bench = shared().await;
    let forbid = |topic: &str, is_forbidden| {
        let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        let code = if is_forbidden { denied } else { RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR };
        bench.cluster.topic_error(topic, code).expect("taken");
    };
    let (mut one, mut other) = (bench.maker(Reached::default()), bench.other(&["till"]));
    let _ = one.once().await.expect("made");
    for at in 0..2 {
        for (maker, own, others) in [(&mut other, "pay", "orders"), (&mut one, "orders", "pay")] {
            forbid(others, true);
            let name = maker.once().await.expect("made").name();
            forbid(others, false);
            let state = bench.read(name).await.1;
            assert_eq!(covered(&state).0, [own]);
            let unread: Vec<_> = state.topics_unread.iter().map(|unread| &*unread.topic).collect();
            // They know of each other by what each has made; what is said of it then lasts.
            assert_eq!(unread, [others], "{at}");
            assert!(maker.unread.contains(&format!("looked at: {others} (")), "{}", maker.unread);
            assert!(state.topics_unread[0].error.contains("(29)"), "{:?}", state.topics_unread);
        }
    }
    let made = other.once().await.expect("made").name();
    let state = bench.read(made).await.1;
    assert_eq!((covered(&state).0, &*state.topics_unread), (vec!["orders", "pay"], &[][..]), "it may look again");
}

#[tokio::test]
async fn what_the_backup_does_not_hold_is_nobodys_to_cover() {
    let bench = bench("groups = [\"shop\"]").await;
    bench.cluster.create_topic("pay", 1, 1).expect("created");
    let _ = bench.maker(Reached::default()).once().await.expect("made");
    let made = bench.other(&["till"]).once().await.expect("made");
    assert_eq!(covered(&bench.read(made.name()).await.1), (vec!["pay"], vec![]));
}

#[tokio::test]
async fn an_agent_that_is_never_first_adds_what_the_slots_savepoint_lacks_and_the_next_ones_keep_it() {
    let bench = shared().await;
    let interval = Duration::from_secs(60);
    let slot = Name::slot(Timestamp::now(), interval);
    let (mut late, mut first) = (bench.maker(Reached::default()), bench.other(&["till"]));
    assert_eq!(first.round(Some(slot)).await.expect("made"), Made::Written(slot));
    assert_eq!(late.round(Some(slot)).await.expect("made"), Made::Written(slot.later()));
    let (told, state) = bench.read(slot.later()).await;
    assert_eq!((told.previous, covered(&state).0), (Some(slot), vec!["orders", "pay"]));
    let next = Name::slot(Timestamp(slot.time().0 + 60_000), interval);
    bench.write(0);
    assert_eq!(first.round(Some(next)).await.expect("made"), Made::Written(next));
    assert_eq!(covered(&bench.read(next).await.1).0, ["orders", "pay"]);
    assert_eq!(late.round(Some(next)).await.expect("looked"), Made::ByAnother(next));
    let mut pipeline = bench.pipeline.clone();
    // Port 1 is nobody's.
    pipeline.source.kafka = BTreeMap::from([("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())]);
    let (mut cut_off, _) = Maker::new(&[pipeline], Reached::default(), Health::new()).expect("well configured");
    assert_eq!(cut_off.round(Some(next)).await.expect("the slot has one"), Made::ByAnother(next));
}

#[tokio::test]
async fn a_group_that_no_broker_lists_is_asked_for_by_name_where_it_is_named_or_was_there() {
    let bench = bench("groups = [\"shop\"]").await;
    (0..3).for_each(|_| bench.write(1));
    bench.commit("shop", 2);
    let maker = bench.maker(Reached::default());
    let mut before = crate::archive::savepoint::tests::state(&[]);
    before.groups = [("moved", "consumer"), ("shared", "share")]
        .map(|(name, kind)| Group { kind: kind.into(), ..crate::archive::savepoint::tests::group(name, Vec::new()) })
        .into();
    let nothing = (BTreeSet::new(), BTreeSet::new());
    let mut listing = Listing::default();
    listing.groups.insert("other".into(), ListedGroup::named("other"));
    // Every broker has told, but one had not got it yet and the other had it no more.
    let chosen = asking(&maker, Some(&before), &nothing).choose(&listing);
    let chosen: Vec<_> = chosen.iter().map(|group| (&*group.group, &*group.kind)).collect();
    assert_eq!(chosen, [("moved", "consumer"), ("shop", "unknown")]);

    let _ = bench.maker(Reached::default()).once().await.expect("made");
    bench.commit("shop", 3);
    let mut pipeline = bench.pipeline.clone();
    pipeline.source.groups = Choice::default();
    let (mut all, _) = Maker::new(&[pipeline], Reached::default(), Health::new()).expect("well configured");
    let made = all.once().await.expect("made");
    let state = bench.read(made.name()).await.1;
    assert_eq!((covered(&state).1, state.groups[0].offsets[0].partitions[0].1), (vec!["shop"], 3));
}

#[tokio::test]
async fn what_is_committed_behind_an_end_for_good_costs_many_looks_once() {
    let bench = bench("groups = [\"shop\"]").await;
    bench.commit("shop", 99);
    let maker = bench.maker(Reached::default());
    let mut known = (BTreeSet::new(), BTreeSet::new());
    let taken = asking(&maker, None, &known).take().await.expect("told");
    assert!(taken.looks > 1 && taken.state.groups[0].error.is_some(), "it may be what was on a deleted topic");
    known.1 = taken.ahead;
    let again = asking(&maker, None, &known).take().await.expect("told");
    assert_eq!((again.looks, &again.ahead, &again.state), (1, &known.1, &taken.state));
}

#[tokio::test]
async fn a_savepoint_of_the_future_stands_for_no_slot_and_is_followed_not_waited_for() {
    let bench = bench("groups = [\"shop\"]").await;
    let slot = Name::slot(Timestamp::now(), Duration::from_secs(60));
    let future = Name::at(Timestamp(slot.time().0 + 3_600_000));
    // The clock went through this slot before, and on from there, and was set back.
    for (name, previous) in [(slot, None), (future, Some(slot))] {
        let savepoint = Savepoint::full(name, Timestamp(0), previous, State::default());
        let _ = bench.archive.create_savepoint(name, savepoint.encode()).await.expect("created");
    }
    let (mut one, mut other) = (bench.maker(Reached::default()), bench.maker(Reached::default()));
    let behind = [future.later(), future.later().later(), future.later().later().later()];
    assert_eq!(one.round(Some(slot)).await.expect("made"), Made::Written(behind[0]));
    assert_eq!(other.round(Some(slot)).await.expect("made"), Made::Unchanged(behind[0]));
    bench.write(0);
    assert_eq!(other.round(Some(slot)).await.expect("made"), Made::Written(behind[1]));
    bench.write(0);
    assert_eq!(one.once().await.expect("made"), Made::Written(behind[2]), "asked for, it is the same");
    let previous = [bench.read(behind[1]).await.0.previous, bench.read(behind[2]).await.0.previous];
    assert_eq!(previous, [Some(behind[0]), Some(behind[1])]);
}

#[tokio::test]
async fn nothing_comes_behind_the_last_name_there_is_and_that_is_said() {
    let bench = bench("groups = [\"shop\"]").await;
    let last = Name::at(Timestamp(i64::MAX));
    let savepoint = Savepoint::full(last, Timestamp(0), None, State::default());
    let _ = bench.archive.create_savepoint(last, savepoint.encode()).await.expect("created");
    let error = bench.maker(Reached::default()).once().await.expect_err("it would be before itself");
    assert!(error.to_string().contains("no savepoint can come behind"), "{error}");
}

#[tokio::test]
async fn a_backup_that_has_gone_is_told_and_one_that_is_yet_to_be_made_is_waited_for() {
    let bench = bench("groups = [\"shop\"]").await;
    let mut unmade = bench.pipeline.clone();
    unmade.sink.backup_id = "unmade".to_owned();
    let (mut waiting, _) = Maker::new(&[unmade], Reached::default(), Health::new()).expect("well configured");
    assert!(waiting.slot().await.is_some() && waiting.failing.is_none(), "its pipeline tells why it does not start");
    let mut maker = bench.maker(Reached::default());
    assert!(maker.slot().await.is_some() && maker.failing.is_none());
    bench.archive.store().delete(layout::BACKUP).await.expect("deleted");
    assert!(maker.slot().await.is_some());
    assert!(maker.failing.is_some_and(|(_, error)| error.contains("there is no backup")));
}
