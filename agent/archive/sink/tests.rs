//! Tests of the writers against real stores, without a broker: batches are made by our own encoder.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::archive::layout;
use crate::batch::records::{Record, encode, template};
use crate::batch::{Compression, walk};
use crate::budget::{Budget, Permit};
use crate::pipeline::{Payload, Sink as _, Tip};
use crate::record::{OffsetRange, Timestamp, TopicId};
use crate::store::Store;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn partition() -> Partition {
    Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 0 }
}

pub(super) fn options() -> Options {
    Options { roll_bytes: u64::MAX, roll_interval: Duration::from_secs(3600), give_up_after: None }
}

/// One encoded batch a record, with offsets `[first, next)`.
pub(super) fn batches(first: Offset, next: Offset) -> Bytes {
    let mut out = Vec::new();
    for offset in first..next {
        let record = Record {
            offset,
            timestamp: Timestamp(1_700_000_000_000 + offset),
            key: None,
            value: Some(Bytes::from(format!("value {offset}"))),
            headers: Vec::new(),
        };
        out.extend_from_slice(&encode(&template(offset), &[record], Compression::None).expect("encodable"));
    }
    out.into()
}

pub(super) fn batch(generation: u32, first: Offset, next: Offset) -> Batch {
    let payload = Payload::Encoded { bytes: batches(first, next), aborted: Vec::new() };
    Batch::new(partition(), generation, OffsetRange { first, next }, payload, Permit::default())
}

pub(super) async fn archive(path: &str) -> Archive {
    Archive::create(&Store::open(path).expect("opened"), "backup", None).await.expect("created")
}

pub(super) async fn answer(sink: &mut Sink) -> Answer {
    tokio::time::timeout(PATIENCE, sink.answer()).await.expect("an answer in time")
}

/// Opens the partition and returns where it goes on.
pub(super) async fn opened(sink: &mut Sink) -> Tip {
    sink.open(&partition());
    match answer(sink).await {
        Answer::Restart { tip, .. } => tip,
        other => panic!("{other:?}"),
    }
}

/// Closes the partition and returns the ends that became durable on the way.
pub(super) async fn closed(sink: &mut Sink, tip: Tip) -> Vec<Offset> {
    sink.close(&partition(), tip.generation);
    let mut durable = Vec::new();
    loop {
        match answer(sink).await {
            Answer::Durable { next, .. } => durable.push(next),
            Answer::Closed { .. } => return durable,
            other => panic!("{other:?}"),
        }
    }
}

async fn names(archive: &Archive) -> Vec<String> {
    let listed = archive.store().list(&layout::partition_folder(&partition())).await.expect("listed");
    listed.into_iter().map(|entry| entry.name).filter(|name| name != layout::BEGIN).collect()
}

async fn log(archive: &Archive, first: Offset) -> Bytes {
    let key = format!("{}{}", layout::partition_folder(&partition()), layout::log(first));
    archive.store().read(&key).await.expect("read").expect("there")
}

#[tokio::test]
async fn segments_follow_on_each_other_and_hold_what_was_put() {
    let archive = archive("memory://sink-follow").await;
    let one = batches(0, 1).len() as u64;
    let mut sink = Sink::new(archive.clone(), Options { roll_bytes: 3 * one, ..options() });
    let tip = opened(&mut sink).await;
    assert_eq!(tip.next, None);
    sink.put(batch(tip.generation, 5, 10));
    sink.put(batch(tip.generation, 10, 12));
    assert_eq!(closed(&mut sink, tip).await, [8, 11, 12]);
    assert_eq!([log(&archive, 5).await, log(&archive, 8).await, log(&archive, 11).await].concat(), batches(5, 12));
    assert_eq!(archive.tip(&partition()).await.expect("a tip").next, Some(12));
}

#[tokio::test]
async fn a_batch_of_an_older_generation_is_dropped() {
    let archive = archive("memory://sink-generation").await;
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    sink.put(batch(tip.generation - 1, 0, 3));
    assert!(closed(&mut sink, tip).await.is_empty());
    assert!(names(&archive).await.is_empty());
}

#[tokio::test]
async fn the_loser_of_a_race_goes_on_behind_the_winner() {
    let archive = archive("memory://sink-race").await;
    let (mut winner, mut loser) = (Sink::new(archive.clone(), options()), Sink::new(archive.clone(), options()));
    let (won, lost) = (opened(&mut winner).await, opened(&mut loser).await);
    winner.put(batch(won.generation, 0, 4));
    loser.put(batch(lost.generation, 0, 9));
    assert_eq!(closed(&mut winner, won).await, [4]);
    loser.close(&partition(), lost.generation);
    let Answer::Restart { tip, .. } = answer(&mut loser).await else { panic!("no restart") };
    assert_eq!((tip.next, tip.generation), (Some(4), lost.generation + 1));
    loser.put(batch(tip.generation, 4, 9));
    assert_eq!(closed(&mut loser, tip).await, [9]);
    assert_eq!([log(&archive, 0).await, log(&archive, 4).await].concat(), batches(0, 9));
}

#[tokio::test]
async fn a_segment_that_is_there_already_with_the_same_bytes_is_taken() {
    let archive = archive("memory://sink-same").await;
    let (mut one, mut other) = (Sink::new(archive.clone(), options()), Sink::new(archive.clone(), options()));
    let mut tips = Vec::new();
    for sink in [&mut one, &mut other] {
        let tip = opened(sink).await;
        sink.put(batch(tip.generation, 0, 4));
        tips.push(tip);
    }
    assert_eq!(closed(&mut one, tips[0]).await, [4]);
    assert_eq!(closed(&mut other, tips[1]).await, [4], "the same bytes are as good as mine");
    assert_eq!(names(&archive).await.len(), 2);
}

#[tokio::test]
async fn a_damaged_sidecar_in_the_way_makes_the_segment_end_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = archive(folder.path().to_str().expect("UTF-8")).await;
    let mut first = Sink::new(archive.clone(), options());
    let tip = opened(&mut first).await;
    first.put(batch(tip.generation, 0, 4));
    assert_eq!(closed(&mut first, tip).await, [4]);
    // Leave only the sidecar, damaged: what a disk fault after a crash before the commit would leave.
    let path = folder.path().join("backup").join(layout::partition_folder(&partition()));
    let sidecar = names(&archive).await.into_iter().find(|name| name.ends_with(".index")).expect("a sidecar");
    std::fs::write(path.join(&sidecar), b"damaged").expect("written");
    std::fs::remove_file(path.join(layout::log(0))).expect("removed");

    let mut second = Sink::new(archive.clone(), options());
    let mut tip = opened(&mut second).await;
    let mut durable = Vec::new();
    second.put(batch(tip.generation, 0, 4));
    second.close(&partition(), tip.generation);
    loop {
        match answer(&mut second).await {
            Answer::Restart { tip: again, .. } => {
                tip = again;
                second.put(batch(tip.generation, tip.next.unwrap_or(0), 4));
                second.close(&partition(), tip.generation);
            }
            Answer::Durable { next, .. } => durable.push(next),
            Answer::Closed { .. } => break,
            Answer::Suspended { .. } | Answer::Trouble { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(durable, [2, 4]);
    assert_eq!([log(&archive, 0).await, log(&archive, 2).await].concat(), batches(0, 4));
}

#[tokio::test]
async fn a_gap_is_a_segment_of_empty_batches() {
    let archive = archive("memory://sink-gap").await;
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    sink.put(batch(tip.generation, 0, 2));
    let gap = OffsetRange { first: 2, next: 7 };
    let payload = Payload::Gap { reason: "retention was ahead".into() };
    sink.put(Batch::new(partition(), tip.generation, gap, payload, Permit::default()));
    sink.put(batch(tip.generation, 7, 8));
    assert_eq!(closed(&mut sink, tip).await, [2, 7, 8]);
    assert!(walk(&log(&archive, 2).await).all(|item| item.expect("sound").1.is_gap()));
}

#[tokio::test]
async fn short_memory_rolls_what_is_held() {
    let archive = archive("memory://sink-memory").await;
    let budget = Budget::new(2000);
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    let bytes = batches(0, 10);
    let permit = budget.acquire(bytes.len()).await;
    let range = OffsetRange { first: 0, next: 10 };
    let payload = Payload::Encoded { bytes, aborted: Vec::new() };
    sink.put(Batch::new(partition(), tip.generation, range, payload, permit));
    let waiting = tokio::spawn({
        let budget = budget.clone();
        async move { budget.acquire(2000).await.bytes() }
    });
    loop {
        tokio::select! {
            () = budget.pressed() => sink.relieve(),
            answer = answer(&mut sink) => {
                assert!(matches!(answer, Answer::Durable { next: 10, .. }));
                break;
            }
        }
    }
    assert_eq!(waiting.await.expect("served"), 2000);
}

#[tokio::test]
async fn the_clock_rolls_an_idle_partition() {
    let archive = archive("memory://sink-clock").await;
    let mut sink = Sink::new(archive.clone(), Options { roll_interval: Duration::from_millis(50), ..options() });
    let tip = opened(&mut sink).await;
    sink.put(batch(tip.generation, 0, 2));
    assert!(matches!(answer(&mut sink).await, Answer::Durable { next: 2, .. }));
}

#[tokio::test]
async fn a_batch_that_does_not_follow_is_never_a_hole() {
    let archive = archive("memory://sink-follows").await;
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    sink.put(batch(tip.generation, 0, 3));
    sink.put(batch(tip.generation, 5, 6));
    assert!(matches!(answer(&mut sink).await, Answer::Suspended { .. }));
    assert!(names(&archive).await.is_empty());
}

#[tokio::test]
async fn a_folder_that_goes_away_gets_nothing_and_no_hole_when_it_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("mount");
    let archive = archive(root.to_str().expect("UTF-8")).await;
    let mut sink = Sink::new(archive.clone(), Options { roll_interval: Duration::from_millis(50), ..options() });
    let tip = opened(&mut sink).await;
    sink.put(batch(tip.generation, 0, 3));
    assert!(matches!(answer(&mut sink).await, Answer::Durable { next: 3, .. }));
    // Unmounted: the mount point is an empty folder.
    std::fs::rename(&root, folder.path().join("away")).expect("moved");
    std::fs::create_dir(&root).expect("made");
    sink.put(batch(tip.generation, 3, 6));
    assert!(matches!(answer(&mut sink).await, Answer::Suspended { .. }));
    // Mounted again.
    std::fs::rename(&root, folder.path().join("shadow")).expect("moved");
    std::fs::rename(folder.path().join("away"), &root).expect("moved");
    loop {
        match answer(&mut sink).await {
            Answer::Restart { tip, .. } => {
                assert_eq!(tip.next, Some(3));
                break;
            }
            Answer::Trouble { .. } | Answer::Suspended { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_partition_that_is_let_go_after_a_failed_write_leaves_no_trouble_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("mount");
    let archive = archive(root.to_str().expect("UTF-8")).await;
    let mut sink = Sink::new(archive, options());
    let tip = opened(&mut sink).await;
    std::fs::rename(&root, folder.path().join("away")).expect("moved");
    std::fs::create_dir(&root).expect("made");
    sink.put(batch(tip.generation, 0, 3));
    assert!(matches!(answer(&mut sink).await, Answer::Suspended { .. }));
    std::fs::rename(&root, folder.path().join("shadow")).expect("moved");
    std::fs::rename(folder.path().join("away"), &root).expect("moved");
    let (mut troubled, mut closing) = (false, false);
    loop {
        match answer(&mut sink).await {
            Answer::Trouble { reason, .. } => troubled = reason.is_some(),
            // It was revoked meanwhile: nothing is written again.
            Answer::Restart { tip, .. } => {
                assert!(troubled, "nothing was written yet that could have ended it");
                sink.close(&partition(), tip.generation);
                closing = true;
            }
            Answer::Closed { .. } => break,
            Answer::Suspended { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(closing && !troubled, "nobody would take it back any more");
}

#[tokio::test]
async fn a_busy_writer_is_asked_to_roll_once() {
    let archive = archive("memory://sink-press").await;
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    let budget = Budget::new(1 << 20);
    let bytes = batches(0, 50);
    let permit = budget.acquire(bytes.len()).await;
    let payload = Payload::Encoded { bytes, aborted: Vec::new() };
    sink.put(Batch::new(partition(), tip.generation, OffsetRange { first: 0, next: 50 }, payload, permit));
    let held = sink.writers[&partition()].held.clone();
    while held.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    for at in 50..60 {
        sink.relieve();
        sink.put(batch(tip.generation, at, at + 1));
    }
    assert_eq!(closed(&mut sink, tip).await, [50, 60]);
}
