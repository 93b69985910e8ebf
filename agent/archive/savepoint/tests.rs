//! The laws of savepoints: a delta says what its state says, bytes read back, nothing half passes for whole.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::archive::source::tests::Fixture;
use crate::error::Kind;
use crate::store::Creation;

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn end(partition: i32, high_watermark: Offset, archived: Option<(&str, Offset)>) -> End {
    let archived = archived.map(|(chain, next)| Archived { chain: chain.into(), next });
    End { partition, high_watermark, archived }
}

pub(crate) fn topic<P>(name: &str, partitions: Vec<P>) -> Topic<P> {
    Topic { topic: name.into(), topic_id: "_".into(), partitions }
}

pub(crate) fn group(name: &str, offsets: Vec<Topic<Committed>>) -> Group {
    Group { group: name.into(), kind: "classic".into(), state: "Empty".into(), error: None, offsets }
}

/// A state of one topic with these ends, and one group that has committed each of them.
pub(crate) fn state(ends: &[Offset]) -> State {
    let ends: Vec<_> = (0..).zip(ends).map(|(index, next)| end(index, *next, None)).collect();
    let committed = ends.iter().map(|end| Committed(end.partition, end.high_watermark, String::new())).collect();
    State {
        cluster_id: Some("c".into()),
        topics: vec![topic("orders", ends)],
        groups: vec![group("shop", vec![topic("orders", committed)])],
        ..State::default()
    }
}

/// The name of a savepoint of this minute.
pub(crate) fn at_minute(minute: i64) -> Name {
    Name::at(Timestamp(1_700_000_000_000 + 60_000 * minute))
}

/// A savepoint that says how far the chains of partition 0 of topic `t` were durable.
pub(crate) fn durable(minute: i64, previous: Option<i64>, archived: &[(&str, Offset)]) -> Savepoint {
    let ends = archived.iter().map(|&(chain, next)| end(0, next, Some((chain, next)))).collect();
    let state = State { topics: vec![topic("t", ends)], ..State::default() };
    Savepoint::full(at_minute(minute), Timestamp(0), previous.map(at_minute), state)
}

fn taken() -> Timestamp {
    Timestamp(1_700_000_000_000)
}

fn arbitrary() -> impl Strategy<Value = State> {
    let ends = prop::collection::btree_map(0..4_i32, (0..5_i64, prop::option::of(0..3_i64)), 0..4);
    let topics = prop::collection::btree_map(("[ab]", "[xy]"), ends, 0..4);
    let offsets = prop::collection::btree_map(0..4_i32, (0..5_i64, "[mn]?"), 0..4);
    let groups = prop::collection::btree_map(
        "[g-i]",
        ("c|s", prop::option::of("why"), prop::collection::btree_map(("[ab]", "[xy]"), offsets, 0..3)),
        0..4,
    );
    (topics, groups, prop::option::of("forbidden"), 0..3_i64).prop_map(|(topics, groups, unread, hanging)| {
        let end = |(index, (next, durable)): (i32, (i64, Option<i64>))| {
            let archived = durable.map(|next| Archived { chain: index.to_string(), next });
            End { partition: index, high_watermark: next, archived }
        };
        let ends = |ends: BTreeMap<_, _>| ends.into_iter().map(end).collect::<Vec<_>>();
        let committed =
            |offsets: BTreeMap<_, _>| offsets.into_iter().map(|(i, (o, m))| Committed(i, o, m)).collect::<Vec<_>>();
        let error = unread.clone();
        let topics_unread = error.map(|error| Unread { topic: "c".into(), topic_id: "x".into(), error });
        let topics_unread = topics_unread.into_iter().collect();
        let mut state = State { topics_unread, groups_unread: unread, ..State::default() };
        state.topics = named(topics.into_iter().map(|(key, of)| (key, ends(of))));
        state.groups = groups
            .into_iter()
            .map(|(name, (kind, error, offsets))| Group {
                group: name,
                kind,
                state: "Empty".into(),
                offsets: if error.is_some() {
                    Vec::new()
                } else {
                    named(offsets.into_iter().map(|(k, o)| (k, committed(o))))
                },
                error,
            })
            .collect();
        state.hanging = (0..hanging)
            .map(|first_offset| Hanging { topic: "a".into(), partition: 0, producer_id: 7, first_offset })
            .collect();
        state.sort();
        state
    })
}

/// A topic without partitions is none.
fn named<P>(topics: impl Iterator<Item = ((String, String), Vec<P>)>) -> Vec<Topic<P>> {
    let topics = topics.filter(|(_, partitions)| !partitions.is_empty());
    topics.map(|((topic, topic_id), partitions)| Topic { topic, topic_id, partitions }).collect()
}

proptest! {
    #[test]
    fn a_delta_and_its_full_one_say_what_the_state_says(full in arbitrary(), state in arbitrary()) {
        let (base, name) = (name("20261122T100000.000Z"), name("20261122T100100.000Z"));
        let whole = Savepoint::full(name, taken(), Some(base), state.clone());
        let delta = whole.relative_to(base, &full);
        let read = Savepoint::decode(name, &delta.encode()).expect("sound");
        prop_assert_eq!(&read, &delta);
        let full = Savepoint::full(base, taken(), None, full);
        prop_assert_eq!(read.resolve(Some(&full)).expect("its full one"), state);
    }

    #[test]
    fn equal_states_differ_in_nothing(state in arbitrary()) {
        let (changed, gone) = delta::between(&state, &state);
        prop_assert!(changed.topics.is_empty() && changed.groups.is_empty());
        prop_assert_eq!(gone, Gone::default());
    }

    #[test]
    fn an_archive_lacks_exactly_what_it_has_not_reached(state in arbitrary(), held in 0..5_i64) {
        let lacks = lacking(&state, |_, end| (end.partition > 0).then_some(held));
        for topic in &state.topics {
            for end in &topic.partitions {
                let reached = if end.partition > 0 { held } else { 0 };
                let lack = lacks.iter().find(|lack| {
                    (&lack.topic, &lack.topic_id, lack.partition) == (&topic.topic, &topic.topic_id, end.partition)
                });
                prop_assert_eq!(lack.map_or(0, Lack::offsets), (end.high_watermark - reached).max(0).cast_unsigned());
            }
        }
    }
}

#[test]
fn what_was_durable_once_makes_nothing_complete_and_is_lost_where_it_is_gone() {
    let ends = vec![end(0, 30, Some(("0", 35))), end(1, 30, Some(("1@3-4", 20))), end(2, 30, None)];
    let state = State { topics: vec![topic("orders", ends)], ..State::default() };
    let lacks = lacking(&state, |_, end| (end.partition < 2).then_some(32 - 10 * Offset::from(end.partition)));
    assert_eq!(lacks.iter().map(|lack| (lack.partition, lack.offsets())).collect::<Vec<_>>(), [(1, 8), (2, 30)]);
    let gone = lost(&state, |_, end| (end.partition == 0).then_some(32));
    let told: Vec<_> = gone.iter().map(|lost| (&*lost.chain, lost.archived, lost.next)).collect();
    assert_eq!(told, [("0", 35, Some(32)), ("1@3-4", 20, None)]);
}

#[test]
fn an_end_of_which_nobody_told_is_judged_by_the_chain_that_holds_it_along_the_newest_way() {
    let fork = |epoch, end| Fork { epoch, end };
    let forks = [fork(5, 100), fork(9, 150)];
    for (next, chain) in [(0, None), (100, None), (101, Some(forks[0])), (150, Some(forks[0])), (151, Some(forks[1]))] {
        assert_eq!(chain_of(&end(0, next, None), &forks), chain, "{next}");
    }
    assert_eq!(chain_of(&end(0, 151, Some(("0@5-100", 100))), &forks), Some(forks[0]), "it is told");
    assert_eq!(chain_of(&end(0, 151, Some(("0", 100))), &forks), None);
    // The newest goes back before the one that it was made beside, which is on no way then.
    assert_eq!(chain_of(&end(0, 120, None), &[fork(5, 100), fork(7, 80)]), Some(fork(7, 80)));
    assert_eq!(chain_of(&end(0, 90, None), &[fork(5, 100), fork(7, 80)]), Some(fork(7, 80)));
}

#[tokio::test]
async fn the_newest_savepoints_are_found_however_long_ago_they_were_made() {
    let folder = tempfile::tempdir().expect("a folder");
    for path in [folder.path().to_str().expect("UTF-8").to_owned(), format!("memory://{}", uuid::Uuid::new_v4())] {
        let root = crate::store::Store::open(&path).expect("opened");
        let archive = crate::archive::Archive::create(&root, "b", None).await.expect("created");
        assert_eq!(archive.newest_savepoints(2).await.expect("listed"), (vec![], false));
        let now = Timestamp::now().0;
        let ages = [20_000 * 86_400_000, 400 * 86_400_000, 3 * 3_600_000, 60_000, -60_000];
        let names = ages.map(|age_ms| Name::at(Timestamp(now - age_ms)));
        for name in names {
            let _ = archive.create_savepoint(name, bytes::Bytes::new()).await.expect("created");
        }
        for count in 0..7_usize {
            let older = names.len().saturating_sub(count);
            let expected = (names[older..].to_vec(), older > 0);
            assert_eq!(archive.newest_savepoints(count).await.expect("listed"), expected, "{count} in {path}");
        }
    }
}

#[test]
fn a_savepoint_has_the_documented_form() {
    let mut state = state(&[30]);
    state.topics[0].partitions[0].archived = Some(Archived { chain: "0@7-12".into(), next: 20 });
    state.hanging.push(Hanging { topic: "orders".into(), partition: 0, producer_id: 9, first_offset: 20 });
    let savepoint = Savepoint::full(name("20261122T100000.000Z"), taken(), None, state);
    let text = String::from_utf8(savepoint.encode().to_vec()).expect("JSON");
    let (told, _) = text.split_once(",\n\"checksum\"").expect("sealed");
    let expected = concat!(
        r#"{"name":"20261122T100000.000Z","taken_at":"2023-11-14T22:13:20.000Z","full":null,"previous":null,"#,
        r#""created_by":"kafka-backup "#,
        env!("CARGO_PKG_VERSION"),
        r#"","cluster_id":"c","#,
        r#""topics":[{"topic":"orders","topic_id":"_","partitions":[{"partition":0,"high_watermark":30,"#,
        r#""archived":{"chain":"0@7-12","next":20}}]}],"groups":[{"group":"shop","type":"classic","state":"Empty","#,
        r#""offsets":[{"topic":"orders","topic_id":"_","partitions":[[0,30,""]]}]}],"groups_unread":null,"#,
        r#""hanging":[{"topic":"orders","partition":0,"producer_id":9,"first_offset":20}]"#
    );
    assert_eq!(told, expected);
}

#[test]
fn what_is_not_the_object_of_its_name_is_damage() {
    let (first, second) = (name("20261122T100000.000Z"), name("20261122T100100.000Z"));
    let full = Savepoint::full(first, taken(), None, state(&[30]));
    let bytes = full.encode();
    assert_eq!(Savepoint::decode(second, &bytes).expect_err("another's").kind(), Kind::Damaged);
    assert_eq!(Savepoint::decode(first, &bytes[..bytes.len() - 4]).expect_err("half").kind(), Kind::Damaged);
    let delta = Savepoint::full(second, taken(), Some(first), state(&[31])).relative_to(first, &full.state);
    assert_eq!(delta.resolve(None).expect_err("no full one").kind(), Kind::Damaged);
    assert_eq!(delta.resolve(Some(&delta)).expect_err("not the full one").kind(), Kind::Damaged);
    for previous in [second, name("20261122T100200.000Z")] {
        let turned = Savepoint { previous: Some(previous), ..delta.clone() };
        let error = Savepoint::decode(second, &turned.encode()).expect_err("its past lies in its future");
        assert_eq!(error.kind(), Kind::Damaged, "{previous}");
    }
    let headless = Savepoint { gone: None, ..delta };
    assert_eq!(Savepoint::decode(second, &headless.encode()).expect_err("neither").kind(), Kind::Damaged);
}

#[test]
fn what_was_durable_stays_durable_whoever_writes_next() {
    let known = |ends: Vec<End>| State { topics: vec![topic("orders", ends)], ..State::default() };
    let earlier = known(vec![end(0, 9, Some(("0", 5))), end(1, 9, Some(("1@3-4", 6))), end(2, 9, None)]);
    let mut now = known(vec![end(0, 9, None), end(1, 9, Some(("1", 8))), end(2, 9, Some(("2", 1))), end(3, 1, None)]);
    now.keep_archived(&earlier);
    let archived: Vec<_> = now.topics[0].partitions.iter().map(|end| end.archived.as_ref().map(|a| a.next)).collect();
    assert_eq!(archived, [Some(5), Some(6), Some(1), None], "a newer fork counts more than a longer chain");
    let mut again = known(vec![end(0, 9, Some(("0", 7)))]);
    again.keep_archived(&earlier);
    assert_eq!(again.topics[0].partitions[0].archived.as_ref().map(|a| a.next), Some(7));
}

#[tokio::test]
async fn savepoints_are_found_by_name_and_a_delta_with_its_full_one() {
    let archive = Fixture::new("b").await.archive;
    let names = ["20261122T095900.000Z", "20261122T100000.000Z", "20261122T110000.500Z"].map(name);
    let full = Savepoint::full(names[0], taken(), None, state(&[30, 40]));
    let delta = Savepoint::full(names[1], taken(), Some(names[0]), state(&[30, 41])).relative_to(names[0], &full.state);
    for savepoint in [&full, &delta] {
        let created = archive.create_savepoint(savepoint.name, savepoint.encode()).await.expect("created");
        assert_eq!(created, Creation::Created);
    }
    let orphan = Savepoint { name: names[2], full: Some(name("20261122T080000.000Z")), ..delta.clone() };
    let _ = archive.create_savepoint(names[2], orphan.encode()).await.expect("created");
    let _ = archive.store().create("savepoints/other", delta.encode()).await.expect("created");
    assert_eq!(archive.savepoints().await.expect("listed"), names);
    assert_eq!(archive.savepoints_of_hours(names[1], names[2]).await.expect("listed"), names[1..]);
    assert_eq!(archive.savepoints_of_hours(names[0], names[0]).await.expect("listed"), names[..1]);
    let (told, whole) = archive.resolved_savepoint(names[1]).await.expect("sound").expect("there");
    assert_eq!((told, whole), (delta, state(&[30, 41])));
    assert_eq!(archive.resolved_savepoint(names[2]).await.expect_err("no full one").kind(), Kind::Damaged);
    let again = archive.create_savepoint(names[1], full.encode()).await.expect("asked");
    assert_eq!(again, Creation::Exists);
}

#[tokio::test]
async fn a_look_over_many_years_costs_one_listing() {
    let archive = Fixture::new("b").await.archive;
    let (early, late) = (name("20261122T095900.000Z"), name("90001122T100000.000Z"));
    for name in [early, late] {
        let savepoint = Savepoint::full(name, taken(), None, state(&[1]));
        let _ = archive.create_savepoint(name, savepoint.encode()).await.expect("created");
    }
    let look =
        |first| tokio::time::timeout(std::time::Duration::from_secs(10), archive.savepoints_of_hours(first, late));
    assert_eq!(look(Name::at(Timestamp(0))).await.expect("in time").expect("listed"), [early, late]);
    assert_eq!(look(name("20261122T095959.999Z")).await.expect("in time").expect("listed"), [early, late], "its hour");
    assert_eq!(look(name("20261122T100000.000Z")).await.expect("in time").expect("listed"), [late]);
}

#[test]
fn a_state_covers_another_when_nothing_of_it_is_missing_wherever_it_stands() {
    let (one, later) = (state(&[3]), state(&[9]));
    assert!(one.covers(&later) && one.covers(&State::default()) && !State::default().covers(&one));
    let mut recreated = later.clone();
    recreated.topics[0].topic_id = "another".into();
    assert!(!one.covers(&recreated));
    let mut more = later;
    more.groups.push(group("pay", Vec::new()));
    assert!(!one.covers(&more) && more.covers(&one));
}

#[test]
fn a_group_that_could_not_be_read_does_not_stand_for_one_that_could() {
    let (read, mut refused) = (state(&[7]), state(&[7]));
    refused.groups[0].error = Some("not allowed".into());
    assert!(read.covers(&refused) && refused.covers(&refused) && read.covers(&read));
    assert!(!refused.covers(&read));
    assert!(!State::default().covers(&read) && read.covers(&State::default()));
}
