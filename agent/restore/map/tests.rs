//! The laws of the offset map, against a table of every record.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::error::Kind;
use crate::record::TopicId;

const ASKED: OffsetRange = OffsetRange { first: 3, next: 100_000 };

fn partition(topic: &str, index: i32) -> Partition {
    Partition { topic: topic.into(), topic_id: TopicId::NONE, index }
}

fn pair(source: i32, target: i32) -> Pair {
    Pair { source: partition("orders", source), target: partition("orders-restored", target) }
}

/// Runs of `orders-0`, each (source, target, length), in a map that asked for [3, 100000).
fn map(runs: &[(Offset, Offset, u64)]) -> OffsetMap {
    let mut map = OffsetMap::default();
    map.open(&pair(0, 0), ASKED, 1).expect("a range");
    for &(source, target, length) in runs {
        map.push(&pair(0, 0), source, target, length).expect("in order");
    }
    map
}

fn only(map: &OffsetMap) -> &Track {
    map.get(&pair(0, 0)).expect("it was opened")
}

/// One step of a restore: so many records of a source, behind a hole, into a target, behind offsets of others.
#[derive(Debug, Clone)]
struct Step {
    source: i32,
    target: i32,
    hole: Offset,
    others: Offset,
    length: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..2, 0..3, prop_oneof![3 => Just(0), 1 => 1..300_i64], prop_oneof![3 => Just(0), 1 => 1..300_i64]);
    let step = (step, prop_oneof![4 => 1..4_u64, 1 => 1..300_u64]);
    let step = step.prop_map(|((source, target, hole, others), length)| Step { source, target, hole, others, length });
    prop::collection::vec(step, 0..150)
}

/// Where every record is, pair by pair.
type Table = HashMap<Pair, BTreeMap<Offset, Offset>>;

/// Restores `steps`; returns the table, and the map after each step.
fn restored(steps: &[Step]) -> (Table, Vec<OffsetMap>) {
    let (mut table, mut map) = (Table::new(), OffsetMap::default());
    let (mut sources, mut targets) = ([ASKED.first; 2], [1_i64; 3]);
    for source in 0..2 {
        for target in 0..3 {
            map.open(&pair(source, target), ASKED, 1).expect("a range");
            let _ = table.insert(pair(source, target), BTreeMap::new());
        }
    }
    let mut maps = vec![map.clone()];
    for step in steps {
        let pair = pair(step.source, step.target);
        let source = sources[step.source as usize] + step.hole;
        let target = targets[step.target as usize] + step.others;
        map.push(&pair, source, target, step.length).expect("in order");
        let length = step.length as Offset;
        table.get_mut(&pair).expect("opened").extend((0..length).map(|n| (source + n, target + n)));
        sources[step.source as usize] = source + length;
        targets[step.target as usize] = target + length;
        maps.push(map.clone());
    }
    (table, maps)
}

/// Asserts that a track says what the table of its records does, of every offset there is and some more.
fn assert_says(track: &Track, table: &BTreeMap<Offset, Offset>) {
    let last = table.keys().next_back().map_or(ASKED.first, |last| last + 3);
    for offset in -2..last {
        let next = table.range(offset..).next();
        let expected = match next {
            Some((&source, &target)) => Position::Record { source, target },
            None => Position::Unfinished { covered: track.covered(), target: track.target_next() },
        };
        assert_eq!(track.translate(offset), expected, "offset {offset}");
        match table.get(&offset) {
            Some(&target) => assert_eq!(track.exact(offset), Exact::At(target), "offset {offset}"),
            None => assert!(!matches!(track.exact(offset), Exact::At(_)), "offset {offset}"),
        }
    }
    assert_eq!(track.records(), table.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_map_says_where_every_record_is(steps in steps()) {
        let (table, maps) = restored(&steps);
        let map = maps.last().expect("one at least");
        for (pair, table) in &table {
            assert_says(map.get(pair).expect("opened"), table);
        }
    }

    #[test]
    fn a_map_reads_back_and_is_written_the_same(steps in steps()) {
        let (_, maps) = restored(&steps);
        let mut map = maps.last().expect("one at least").clone();
        prop_assert_eq!(&OffsetMap::decode(&map.encode()).expect("sound"), &map);
        for (n, pair) in map.tracks.keys().cloned().collect::<Vec<_>>().into_iter().enumerate() {
            if n % 2 == 0 {
                map.finish(&pair, 1_000_000).expect("behind everything");
            }
        }
        prop_assert_eq!(OffsetMap::decode(&map.encode()).expect("sound"), map);
    }

    #[test]
    fn what_journals_add_makes_the_whole_map(steps in steps(), cuts in prop::collection::vec(0..150_usize, 0..4)) {
        let (_, maps) = restored(&steps);
        let whole = maps.last().expect("one at least");
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(maps.len() - 1)).collect();
        cuts.sort_unstable();
        let mut joined = OffsetMap::default();
        for map in cuts.iter().map(|&cut| &maps[cut]).chain([whole]) {
            let held = joined.clone();
            let part = map.after(|pair| held.get(pair).map_or(0, Track::covered));
            let part = OffsetMap::decode(&part.encode()).expect("sound");
            joined.absorb(&part).expect("it goes on");
            // A journal that is read twice, or was written twice, changes nothing.
            joined.absorb(&part).expect("it is known");
        }
        prop_assert_eq!(&joined, whole);
    }

    #[test]
    fn whatever_bytes_are_read_as_a_map_are_written_the_same(
        steps in steps(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in any::<prop::sample::Index>(), is_cut in any::<bool>(),
    ) {
        let bytes = restored(&steps).1.last().expect("one at least").encode();
        let mut body = bytes[..bytes.len() - 8].to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if is_cut {
            body.truncate(length.index(body.len()));
        }
        body.extend(xxh3_64(&body).to_be_bytes());
        match OffsetMap::decode(&body) {
            Ok(map) => prop_assert_eq!(map.encode(), body),
            Err(error) => prop_assert!(error.is_unreadable(), "{}", error),
        }
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_is_damage() {
    let bytes = map(&[(3, 1, 40), (50, 41, 3), (60, 900, 1)]).encode();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            let error = OffsetMap::decode(&flipped).expect_err("flipped");
            assert_eq!(error.kind(), Kind::Damaged, "byte {at} bit {bit}");
        }
        assert_eq!(OffsetMap::decode(&bytes[..at]).expect_err("cut").kind(), Kind::Damaged, "length {at}");
    }
}

#[test]
fn a_map_of_a_newer_program_is_no_damage() {
    let mut newer = b"KBOFMAP2".to_vec();
    newer.extend(xxh3_64(&newer).to_be_bytes());
    assert_eq!(OffsetMap::decode(&newer).expect_err("newer").kind(), Kind::Newer);
}

#[test]
fn a_claimed_count_takes_no_memory() {
    let mut bytes = MAGIC_AND_MANY.to_vec();
    bytes.extend(xxh3_64(&bytes).to_be_bytes());
    assert_eq!(OffsetMap::decode(&bytes).expect_err("a claim").kind(), Kind::Damaged);
}

/// The magic, and two thousand million pairs that do not follow.
const MAGIC_AND_MANY: &[u8] = b"KBOFMAP1\xff\xff\xff\xff\x07";

#[test]
fn a_committed_offset_is_at_the_first_restored_record_that_is_not_before_it() {
    let map = map(&[(10, 1, 5), (20, 6, 1)]);
    let at = |committed| only(&map).translate(committed);
    assert_eq!(at(12), Position::Record { source: 12, target: 3 });
    assert_eq!(at(15), Position::Record { source: 20, target: 6 });
    // What was not asked for lies before the first record, and nothing of that is lost.
    assert_eq!(at(0), Position::Record { source: 10, target: 1 });
}

#[test]
fn behind_the_last_record_is_the_restored_end_as_it_was_recorded() {
    let mut map = map(&[(10, 1, 5)]);
    assert_eq!(only(&map).translate(15), Position::Unfinished { covered: 15, target: 6 });
    map.reach(&pair(0, 0), 500).expect("opened");
    assert_eq!(only(&map).translate(15), Position::Unfinished { covered: 500, target: 6 });
    map.finish(&pair(0, 0), 9).expect("behind the last");
    assert_eq!(only(&map).translate(15), Position::End { target: 9 });
    assert_eq!(only(&map).translate(ASKED.next), Position::End { target: 9 });
    assert_eq!(only(&map).translate(ASKED.next + 1), Position::Beyond { next: ASKED.next, target: 9 });
}

#[test]
fn records_behind_a_target_offset_and_before_a_source_offset_are_counted() {
    let runs: Vec<_> = (0..200).map(|n| (10 + 7 * n, 1 + 4 * n, 3)).collect();
    let map = map(&runs);
    let table: Vec<_> =
        runs.iter().flat_map(|&(source, target, _)| (0..3).map(move |n| (source + n, target + n))).collect();
    for target in (-1..810).step_by(3) {
        for source in (0..1420).step_by(5).chain([Offset::MIN, Offset::MAX]) {
            let counted = table.iter().filter(|record| record.0 < source && record.1 >= target).count() as u64;
            assert_eq!(only(&map).records_between(target, source), counted, "from {target} on, before {source}");
        }
    }
}

#[test]
fn a_record_that_is_nowhere_is_told_from_one_that_is_not_there_yet() {
    let map = map(&[(10, 1, 5), (20, 6, 1)]);
    let exact = [2, 9, 10, 14, 15, 20, 21, ASKED.next].map(|source| only(&map).exact(source));
    use Exact::{Absent, At, Outside, Unfinished};
    assert_eq!(exact, [Outside, Absent, At(1), At(5), Absent, At(6), Unfinished, Outside]);
}

#[test]
fn of_several_copies_the_first_stands() {
    let map = map(&[(10, 1, 1), (10, 2, 1), (11, 3, 1), (11, 4, 1), (10, 5, 3)]);
    assert_eq!([10, 11, 12].map(|source| only(&map).exact(source)), [Exact::At(1), Exact::At(3), Exact::At(7)]);
}

#[test]
fn a_partition_has_a_position_in_each_of_its_targets_and_none_when_it_was_never_restored() {
    let mut map = map(&[(10, 1, 5)]);
    let other = pair(0, 7);
    map.open(&other, ASKED, 0).expect("a range");
    map.push(&other, 15, 30, 2).expect("in order");
    let positions: Vec<_> = map.translate(&partition("orders", 0), 12).into_iter().map(|(_, at)| at).collect();
    assert_eq!(positions, [Position::Record { source: 12, target: 3 }, Position::Record { source: 15, target: 30 }]);
    assert_eq!(map.translate(&partition("orders", 1), 12), []);
}

#[test]
fn what_contradicts_a_map_is_refused() {
    let mut map = map(&[(10, 10, 5)]);
    let pair = pair(0, 0);
    for (source, target, length) in
        [(20, 14, 1), (2, 20, 1), (ASKED.next, 20, 1), (20, 20, 0), (20, -1, 1), (20, i64::MAX, 1), (20, 20, u64::MAX)]
    {
        let error = map.push(&pair, source, target, length).expect_err("wrong");
        assert!(error.to_string().contains("orders-0 -> orders-restored-0"), "{error}");
    }
    map.open(&pair, OffsetRange { first: 0, next: 1 }, 1).expect_err("another range");
    map.finish(&pair, 14).expect_err("before the last record");
    map.push(&Pair { target: partition("x", 0), ..pair }, 20, 20, 1).expect_err("not opened");
}

/// The bounds for a hundred million records with a hole in each hundred, at a tenth of that: `benches/map.rs` has them
/// whole, and times the look-ups.
#[test]
fn a_large_map_is_small_and_says_where_its_records_are() {
    let (records, asked) = (10_000_000_i64, OffsetRange { first: 0, next: 11_000_000 });
    let mut map = OffsetMap::default();
    map.open(&pair(0, 0), asked, 0).expect("a range");
    let (mut random, mut source, mut target) = (fastrand::Rng::with_seed(7), 0, 0);
    let mut some = Vec::new();
    while target < records {
        let length = random.u64(1..199);
        map.push(&pair(0, 0), source, target, length).expect("in order");
        if random.u8(..) == 0 {
            some.push((source, target, length as Offset));
        }
        source += length as Offset + 1;
        target += length as Offset;
    }
    assert!(map.memory_bytes() * 10 < 64 << 20, "{} bytes", map.memory_bytes());
    let map = OffsetMap::decode(&map.encode()).expect("sound");
    assert!(map.memory_bytes() * 10 < 64 << 20, "{} bytes", map.memory_bytes());
    for (source, target, length) in some {
        assert_eq!(only(&map).exact(source + length - 1), Exact::At(target + length - 1));
        assert_eq!(only(&map).exact(source + length), Exact::Absent);
        assert!(
            matches!(only(&map).translate(source + length), Position::Record { source: next, .. } if next == source + length + 1)
        );
    }
}
