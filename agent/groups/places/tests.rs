//! Places of small restores, one fact each.

use super::*;

fn partition(topic: &str, index: i32) -> Partition {
    Partition { topic: topic.into(), topic_id: TopicId::NONE, index }
}

fn pair(source: Partition, target: Partition) -> Pair {
    Pair { source, target }
}

fn committed(offset: Offset, metadata: &str) -> Option<Committed> {
    Some(Committed { offset, metadata: metadata.to_owned() })
}

/// `orders-0` and `orders-1` become `copy-0`, one record of each by turns from offset 100 on; all ten of both are restored.
fn merged() -> OffsetMap {
    let mut map = OffsetMap::default();
    for index in 0..2 {
        let pair = pair(partition("orders", index), partition("copy", 0));
        map.open(&pair, OffsetRange { first: 0, next: 10 }, 100).expect("a range");
        for n in 0..10 {
            map.push(&pair, n, 100 + 2 * n + Offset::from(index), 1).expect("in order");
        }
        map.finish(&pair, 121).expect("behind the last");
    }
    map
}

fn only(placed: &Placed) -> &Result<Place, Refusal> {
    placed.targets.get(&partition("copy", 0)).expect("it has a row")
}

#[test]
fn of_two_sources_the_place_is_at_the_first_record_that_was_not_read() {
    let places = Places::Restored(Restored::new("r1", merged(), []));
    let offsets = [(partition("orders", 0), committed(7, "a")), (partition("orders", 1), committed(3, "a"))];
    let placed = places.all(&offsets.into(), false);
    let place = only(&placed).clone().expect("placed");
    // Records 3, 4, 5, 6 of orders-0 had been read, of which that at 106 lies before.
    assert_eq!((place.offset, place.exactness, place.metadata.as_str()), (107, Exactness::Again(3), "a"));
    assert_eq!((place.exactness.to_string(), places.to_string()), ("re-reads 3".into(), "restore r1".into()));
}

#[test]
fn a_source_without_a_committed_offset_was_not_read_if_its_topic_was() {
    let mut map = merged();
    let other = pair(partition("payments", 0), partition("copy", 0));
    map.open(&other, OffsetRange { first: 0, next: 1 }, 50).expect("a range");
    map.push(&other, 0, 99, 1).expect("in order");
    let places = Places::Restored(Restored::new("r1", map, []));
    let placed =
        places.all(&[(partition("orders", 0), committed(10, "")), (partition("orders", 1), None)].into(), false);
    let place = only(&placed).clone().expect("payments is not the group's, and may be unfinished");
    assert_eq!((place.offset, place.exactness), (101, Exactness::Again(9)));
    assert_eq!(places.all(&[(partition("orders", 1), None)].into(), false), Placed::default());
}

#[test]
fn different_metadata_of_several_sources_is_left_out() {
    let places = Places::Restored(Restored::new("r1", merged(), []));
    let offsets = [(partition("orders", 0), committed(10, "a")), (partition("orders", 1), committed(10, "b"))];
    let place = only(&places.all(&offsets.into(), false)).clone().expect("placed");
    assert_eq!((place.offset, place.exactness, place.metadata.as_str()), (121, Exactness::Exact, ""));
}

#[test]
fn what_a_restore_has_not_come_to_or_was_not_asked_for_is_refused_or_clamped() {
    let mut map = OffsetMap::default();
    let unfinished = pair(partition("orders", 0), partition("copy", 0));
    map.open(&unfinished, OffsetRange { first: 0, next: 10 }, 5).expect("a range");
    map.push(&unfinished, 0, 5, 3).expect("in order");
    let cut = pair(partition("cut", 0), partition("cut", 0));
    map.open(&cut, OffsetRange { first: 0, next: 10 }, 0).expect("a range");
    map.finish(&cut, 0).expect("an end");
    let places = Places::Restored(Restored::new("r1", map, []));
    let of = |topic, offset, clamp| places.of(&partition(topic, 0), offset, clamp);
    assert_eq!(of("orders", 2, false).expect("it is there")[0].offset, 7);
    let refusal = of("orders", 4, false).expect_err("not there yet");
    assert_eq!(refusal.to_string(), "the restore is not finished: it has come to offset 3 of orders-0");
    let place = &of("orders", 4, true).expect("clamped")[0];
    assert_eq!((place.offset, place.exactness), (8, Exactness::Clamped));
    let refusal = of("cut", 11, false).expect_err("beyond");
    assert_eq!(refusal.to_string(), "the group had read cut-0 up to 11, and it was restored only up to 10");
    let place = &of("cut", 11, true).expect("clamped")[0];
    assert_eq!((place.offset, place.exactness), (0, Exactness::Clamped));
    assert_eq!(of("other", 0, true), Err(Refusal::NotRestored));
}

#[test]
fn a_partition_of_which_there_was_nothing_to_restore_is_at_the_restored_end() {
    let vacant = pair(partition("orders", 3), partition("copy", 3));
    let places = Places::Restored(Restored::new("r1", merged(), [(vacant, 0)]));
    let offsets = [
        (partition("orders", 3), committed(77, "m")),
        (partition("orders", 4), committed(1, "")),
        (partition("orders", 0), committed(10, "")),
    ];
    let placed = places.all(&offsets.into(), false);
    let place = placed.targets[&partition("copy", 3)].clone().expect("placed");
    assert_eq!((place.offset, place.exactness, place.metadata.as_str()), (0, Exactness::Exact, "m"));
    assert_eq!(placed.nowhere, [partition("orders", 4)]);
    assert_eq!(places.targets().count(), 2);
}

#[test]
fn on_its_own_cluster_a_group_stays_where_it_was() {
    let offsets = [(partition("orders", 0), committed(7, "kept")), (partition("orders", 1), None)];
    let placed = Places::Same.all(&offsets.into(), false);
    assert_eq!(placed.targets.len(), 1);
    let place = placed.targets[&partition("orders", 0)].clone().expect("placed");
    assert_eq!((place.offset, place.exactness, place.metadata.as_str()), (7, Exactness::Exact, "kept"));
    assert_eq!(Places::Same.of(&partition("x", 1), 3, false).expect("placed")[0].offset, 3);
}

#[test]
fn an_offset_is_in_range_up_to_the_end_itself() {
    let range = OffsetRange { first: 10, next: 20 };
    for offset in [10, 20] {
        assert_eq!(check(offset, range, false), Ok((offset, Exactness::Exact)));
    }
    assert_eq!(check(21, range, true), Ok((20, Exactness::Clamped)));
    assert_eq!(check(9, range, true), Ok((10, Exactness::Clamped)));
    let refusal = check(150_000, OffsetRange { first: 0, next: 100 }, false).expect_err("out of range");
    assert_eq!(refusal.why(150_000, 0), "Offset 150000 is out of range for partition 0 (current: 0-100)");
    assert_eq!(refusal.to_string(), "out of range (current: 0-100)");
}
