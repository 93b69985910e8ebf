//! What is known without the store, and what of it is believed.

use super::lookup::{Wanted, Way};
use super::*;
use crate::archive::layout;
use crate::archive::sidecar::Kind;
use crate::archive::source::tests::{Fixture, three};
use crate::archive::source::way::Branch;
use crate::record::{Offset, OffsetRange, Timestamp};
use crate::store::Store;

fn place(fork: Option<Fork>) -> Place {
    Place::new(Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 }, fork)
}

/// The row of a segment of ten offsets that no store has.
pub(crate) fn row(first: Offset) -> Row {
    Row {
        range: OffsetRange { first, next: first + 10 },
        length_bytes: 100,
        digest: 0,
        sealed_at: Timestamp(0),
        kind: Kind::Data,
        has_aborted: false,
        has_undecided: false,
        leader_epoch: 0,
        batches: 1,
        converted: 0,
        records: 10,
        first_record: Some(first),
        last_record: Some(first + 9),
        first_time: None,
        max_time: None,
        min_time: None,
    }
}

async fn end(fixture: &Fixture, fork: Option<Fork>) -> Option<Offset> {
    let index = fixture.archive.live().index(&fixture.archive, &place(fork)).await.expect("read");
    index.range().map(|range| range.next)
}

#[tokio::test]
async fn what_this_process_commits_is_there_without_asking_the_store() {
    let fixture = three().await;
    let live = fixture.archive.live();
    assert_eq!(end(&fixture, None).await, Some(20));
    // The store has no such segment: who were to ask it would not find it.
    live.committed(&place(None).partition, None, &row(20), None);
    assert_eq!(end(&fixture, None).await, Some(30));
    live.committed(&place(None).partition, None, &row(20), None);
    assert_eq!(end(&fixture, None).await, Some(30), "told twice it is there once");
}

#[tokio::test]
async fn what_others_commit_is_found_in_the_store() {
    let fixture = three().await;
    assert_eq!(end(&fixture, None).await, Some(20));
    fixture.segment("t", 0, 20, Kind::Data, &[fixture.batch(20, 5)]).await;
    assert_eq!(end(&fixture, None).await, Some(25));
    let partition = place(None).partition;
    fixture.archive.live().committed(&partition, None, &row(25), None);
    fixture.archive.live().left(&partition);
    fixture.segment("t", 0, 25, Kind::Data, &[fixture.batch(25, 1)]).await;
    fixture.segment("t", 0, 26, Kind::Data, &[fixture.batch(26, 1)]).await;
    assert!(!fixture.archive.live().writes(&partition));
    assert!(end(&fixture, None).await >= Some(27), "who does not write any more asks again");
}

#[tokio::test]
async fn a_commit_behind_segments_of_others_makes_the_chain_be_read_anew() {
    let fixture = three().await;
    assert_eq!(end(&fixture, None).await, Some(20));
    for first in [20, 25] {
        fixture.segment("t", 0, first, Kind::Data, &[fixture.batch(first, 5)]).await;
    }
    fixture.archive.live().committed(&place(None).partition, None, &row(25), None);
    assert_eq!(end(&fixture, None).await, Some(30));
    let index = fixture.archive.live().index(&fixture.archive, &place(None)).await.expect("read");
    assert_eq!(index.get(3).map(|row| row.range.first), Some(20));
}

#[tokio::test]
async fn what_is_committed_while_a_chain_is_read_is_not_lost_and_a_dropped_reader_keeps_nothing() {
    let fixture = three().await;
    let live = fixture.archive.live();
    let key = (place(None).partition, None);
    let read = Opened::read(&fixture.archive, &place(None)).await.expect("read");
    let (reading, held) = Reading::begin(live, key.clone());
    assert!(held.is_none());
    live.committed(&key.0, None, &row(20), None);
    live.committed(&key.0, None, &row(30), None);
    let index = reading.end(read.clone(), Instant::now()).expect("they follow");
    assert_eq!(index.range().map(|range| range.next), Some(40));
    assert_eq!(end(&fixture, None).await, Some(40));
    let (reading, _) = Reading::begin(live, key.clone());
    live.committed(&key.0, None, &row(40), None);
    drop(reading);
    assert!(live.lock().reading.is_none());
    assert_eq!(end(&fixture, None).await, Some(50));
}

#[tokio::test]
async fn the_cache_is_bounded_and_the_one_used_longest_ago_goes() {
    let fixture = Fixture::new("b").await;
    for index in 0..4 {
        fixture.segment("t", index, 0, Kind::First, &[fixture.batch(0, 5)]).await;
    }
    let one = Opened::read(&fixture.archive, &place(None)).await.expect("read").index.held_bytes() + ENTRY_BYTES;
    let live = Live::new(one * 5 / 2);
    let of = |index| Place::new(Partition { index, ..place(None).partition }, None);
    for index in [0, 1, 0, 2, 3, 0] {
        let _ = live.index(&fixture.archive, &of(index)).await.expect("read");
        assert!(live.held_bytes() <= one * 5 / 2, "{} bytes", live.held_bytes());
    }
    let held: Vec<_> = live.lock().chains.keys().map(|(partition, _)| partition.index).collect();
    assert_eq!(held, [0, 3]);
    // Growing by commits drives out others, and at last itself.
    for first in (0..50).map(|n| 5 + 10 * n) {
        live.committed(&of(0).partition, None, &row(first), None);
        assert!(live.held_bytes() <= one * 5 / 2, "{} bytes", live.held_bytes());
    }
    assert!(live.lock().chains.is_empty() && live.held_bytes() == 0);
    let large = Live::new(one - 1);
    assert_eq!(large.index(&fixture.archive, &of(0)).await.expect("used").len(), 1);
    assert_eq!(large.held_bytes(), 0, "one larger than the cache is used and dropped");
}

#[tokio::test]
async fn a_fork_that_this_process_begins_is_the_newest_way_at_once() {
    let fixture = three().await;
    let (archive, partition) = (&fixture.archive, place(None).partition);
    archive.live().committed(&partition, None, &row(20), None);
    let way = async || Way::open(archive, &partition, Branch::Newest).await.expect("read").expect("there is one");
    assert_eq!(way().await.end(), Some(20), "the store has not got it");
    let fork = Fork { epoch: 7, end: 12 };
    fixture.fork_segment(fork, &[fixture.batch(12, 3)]).await;
    archive.live().committed(
        &partition,
        Some(fork),
        &Row { range: OffsetRange { first: 12, next: 15 }, ..row(12) },
        None,
    );
    assert_eq!((way().await.end(), way().await.fork()), (Some(15), Some(fork)));
    let own = Way::open(archive, &partition, Branch::Own).await.expect("read").expect("it is always there");
    assert_eq!(own.end(), Some(20));
    let none = Way::open(archive, &partition, Branch::Fork(Fork { epoch: 8, end: 12 })).await.expect("read");
    assert!(none.is_none());
}

/// A chain of several segments, a gap, and a fork that cuts the last but one.
async fn forked() -> Fixture {
    let fixture = three().await;
    fixture.gap_of("t", "_", 0, 20..25).await;
    fixture.segment("t", 0, 25, Kind::Data, &[fixture.batch(25, 5)]).await;
    fixture.fork_segment(Fork { epoch: 7, end: 18 }, &[fixture.batch(18, 3), fixture.batch(21, 4)]).await;
    fixture
}

#[tokio::test]
async fn every_offset_and_time_is_found_along_every_way() {
    let fixture = forked().await;
    let (archive, partition) = (&fixture.archive, place(None).partition);
    let fork = Fork { epoch: 7, end: 18 };
    for (branch, end) in [(Branch::Newest, 25), (Branch::Fork(fork), 25), (Branch::Own, 30)] {
        let way = Way::open(archive, &partition, branch).await.expect("read").expect("it is there");
        assert_eq!((way.end(), way.extent().range), (Some(end), Some(OffsetRange { first: 0, next: end })));
        for offset in 0..end {
            let found = way.find(archive, Wanted::Offset(offset)).await.expect("read").expect("it is held");
            assert!(found.row.range.contains(offset) && found.position_offset <= offset, "{offset}: {found:?}");
            let in_fork = branch != Branch::Own && offset >= 18;
            assert_eq!(found.place.fork.is_some(), in_fork, "{offset}");
            // The time of each record is its offset + 1000; the gap has none.
            let first = if branch == Branch::Own && (20..25).contains(&offset) { 25 } else { offset };
            let found = way.find(archive, Wanted::Time(Timestamp(1000 + offset))).await.expect("read").expect("held");
            // Of the segment that the fork cuts only what lies before is taken; it may still be where to begin.
            assert!(found.row.range.contains(first) || (in_fork && offset < 20), "{offset}: {found:?}");
            assert!(found.position_offset <= first, "{offset}: {found:?}");
        }
        assert!(way.find(archive, Wanted::Offset(end)).await.expect("read").is_none());
        assert!(way.find(archive, Wanted::Time(Timestamp(1000 + end))).await.expect("read").is_none());
    }
}

#[tokio::test]
async fn a_lost_sidecar_is_damage_and_not_a_miss() {
    let fixture = three().await;
    let (archive, partition) = (&fixture.archive, place(None).partition);
    archive.live().committed(&partition, None, &row(20), None);
    let way = Way::open(archive, &partition, Branch::Own).await.expect("read").expect("it is there");
    archive.live().committed(&partition, None, &row(20), None);
    let found = way.find(archive, Wanted::Offset(19)).await.expect("read").expect("held");
    assert_eq!(found.row.range.first, 15);
    let way = Way::open(archive, &partition, Branch::Own).await.expect("read").expect("it is there");
    let error = way.find(archive, Wanted::Offset(25)).await.expect_err("nobody has written its sidecar");
    assert_eq!(error.kind(), crate::error::Kind::Damaged);
    assert!(error.to_string().contains(&layout::sidecar(20, 100, 0)), "{error}");
}

#[tokio::test]
async fn a_store_that_fails_is_an_error_and_is_asked_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Store::open(folder.path().to_str().expect("UTF-8")).expect("opened");
    let archive = Archive::create(&root, "b", None).await.expect("created");
    std::fs::create_dir_all(folder.path().join("b/topics/t/_")).expect("made");
    let there = folder.path().join("b/topics/t/_/0");
    std::fs::write(&there, "").expect("written");
    let error = archive.live().index(&archive, &place(None)).await.expect_err("it is no folder");
    assert!(error.to_string().contains("t/_/0"), "{error}");
    std::fs::remove_file(&there).expect("removed");
    assert!(archive.live().index(&archive, &place(None)).await.expect("an empty chain").is_empty());
}

/// Writes the next segment of partition 0 to the store; returns its row.
async fn grow(fixture: &Fixture, end: &mut Offset) -> Row {
    let kind = if *end == 0 { Kind::First } else { Kind::Data };
    fixture.segment("t", 0, *end, kind, &[fixture.batch(*end, 5)]).await;
    *end += 5;
    let read = Opened::read(&fixture.archive, &place(None)).await.expect("read");
    read.index.get(read.index.len() - 1).expect("it was written")
}

#[tokio::test]
async fn whoever_writes_an_answer_is_never_older_than_the_question() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let fixture = Fixture::new("b").await;
    let (live, partition) = (fixture.archive.live(), place(None).partition);
    let (mut truth, mut writes) = (0, false);
    for step in 0..200 {
        match random.u8(0..6) {
            // Others write only what this process has left to them, or has not begun to write.
            0 if !writes => drop(grow(&fixture, &mut truth).await),
            1 | 2 => {
                let row = grow(&fixture, &mut truth).await;
                live.committed(&partition, None, &row, None);
                writes = true;
            }
            3 if random.bool() => {
                live.left(&partition);
                writes = false;
            }
            4 if random.u8(0..4) == 0 => live.lock().forget(&(partition.clone(), None)),
            _ => {}
        }
        if random.bool() {
            let index = live.index(&fixture.archive, &place(None)).await.expect("read");
            let found = (index.len() as Offset * 5, index.range().map_or(0, |range| range.next));
            assert_eq!(found, (truth, truth), "step {step} of seed {seed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_beside_commits_miss_nothing_that_was_committed_before() {
    use std::sync::atomic::{AtomicI64, Ordering};
    let fixture = Arc::new(Fixture::new("b").await);
    let committed = Arc::new(AtomicI64::new(0));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (fixture, committed) = (fixture.clone(), committed.clone());
        asking.spawn(async move {
            while committed.load(Ordering::SeqCst) < 200 {
                let before = committed.load(Ordering::SeqCst);
                let index = fixture.archive.live().index(&fixture.archive, &place(None)).await.expect("read");
                let end = index.range().map_or(0, |range| range.next);
                assert!(end >= before && index.len() as Offset * 5 == end, "{end} and {before}");
                tokio::task::yield_now().await;
            }
        });
    }
    let mut end = 0;
    while end < 200 {
        let row = grow(&fixture, &mut end).await;
        if end == 100 {
            fixture.archive.live().left(&place(None).partition);
        }
        fixture.archive.live().committed(&place(None).partition, None, &row, None);
        committed.store(end, Ordering::SeqCst);
    }
    while let Some(asked) = asking.join_next().await {
        asked.expect("nothing was missed");
    }
}
