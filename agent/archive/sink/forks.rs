//! Tests of beginnings and forks: what is kept before the first segment, and how a chain is left.

use bytes::BytesMut;

use super::tests::{answer, archive, batch, batches, closed, opened, options, partition};
use super::*;
use crate::archive::Segments;
use crate::archive::layout::{self, Fork};
use crate::archive::sidecar::{Kind as SegmentKind, Sidecar};
use crate::batch::walk;
use crate::budget::Permit;
use crate::pipeline::{Payload, Sink as _, Tip};
use crate::record::OffsetRange;

/// One batch a record of leader epoch `epoch`, with offsets `[first, next)`.
fn of_epoch(generation: u32, epoch: i32, first: Offset, next: Offset) -> Batch {
    let mut bytes = BytesMut::from(&batches(first, next)[..]);
    let starts: Vec<usize> = walk(&batches(first, next)).map(|item| item.expect("sound").0).collect();
    for at in starts {
        bytes[at + 12..at + 16].copy_from_slice(&epoch.to_be_bytes());
    }
    let payload = Payload::Encoded { bytes: bytes.freeze(), aborted: Vec::new() };
    Batch::new(partition(), generation, OffsetRange { first, next }, payload, Permit::default())
}

/// Waits for the next restart; returns it with the ends that became durable before.
async fn restarted(sink: &mut Sink) -> (Tip, Vec<Offset>) {
    let mut durable = Vec::new();
    loop {
        match answer(sink).await {
            Answer::Restart { tip, .. } => return (tip, durable),
            Answer::Durable { next, .. } => durable.push(next),
            other => panic!("{other:?}"),
        }
    }
}

async fn diverged(sink: &mut Sink, tip: Tip, epoch: i32, end: Offset) -> Tip {
    sink.diverge(&partition(), tip.generation, epoch, end);
    restarted(sink).await.0
}

/// A chain of leader epoch 1 in `[0, 10)` and 2 in `[10, 20)`, one segment each.
async fn two_epochs(archive: &Archive) {
    let mut sink = Sink::new(archive.clone(), Options { roll_bytes: batches(0, 10).len() as u64, ..options() });
    let tip = opened(&mut sink).await;
    sink.put(of_epoch(tip.generation, 1, 0, 10));
    sink.put(of_epoch(tip.generation, 2, 10, 20));
    let _ = closed(&mut sink, tip).await;
    assert_eq!(held(archive, None).await, [(0, 10), (10, 20)]);
}

/// The segments of a chain as (first, next), each with its log as its sidecar says.
async fn held(archive: &Archive, fork: Option<Fork>) -> Vec<(Offset, Offset)> {
    sidecars(archive, fork).await.iter().map(|sidecar| (sidecar.range.first, sidecar.range.next)).collect()
}

async fn sidecars(archive: &Archive, fork: Option<Fork>) -> Vec<Sidecar> {
    let folder = layout::chain_folder(&partition(), fork);
    let segments = Segments::new(archive.store().list(&folder).await.expect("listed"));
    let mut found = Vec::new();
    for &(first, length_bytes) in &segments.logs {
        let log = archive.store().read(&format!("{folder}{}", layout::log(first))).await.expect("read");
        let digest = xxhash_rust::xxh3::xxh3_128(&log.expect("there"));
        let key = format!("{folder}{}", layout::sidecar(first, length_bytes, digest));
        let sidecar = archive.store().read(&key).await.expect("read").expect("a sidecar that fits");
        found.push(Sidecar::decode(&sidecar).expect("sound"));
    }
    found
}

/// All folders of partitions and forks that there are.
async fn folders(archive: &Archive) -> Vec<String> {
    let listed = archive.store().list("topics/orders/_/").await.expect("listed");
    listed.into_iter().map(|entry| entry.name).collect()
}

fn fork(epoch: i32, end: Offset) -> Fork {
    Fork { epoch, end }
}

#[tokio::test]
async fn a_begin_that_was_kept_outlives_its_agent() {
    let archive = archive("memory://forks-begin").await;
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    sink.begin(&partition(), tip.generation, 100);
    let (begun, _) = restarted(&mut sink).await;
    assert_eq!((tip.next, begun.next), (None, Some(100)));
    drop(sink);
    let mut again = Sink::new(archive.clone(), options());
    let tip = opened(&mut again).await;
    assert_eq!(tip.next, Some(100));
    again.put(batch(tip.generation, 100, 103));
    assert_eq!(closed(&mut again, tip).await, [103]);
    assert_eq!(sidecars(&archive, None).await[0].kind, SegmentKind::First);
    assert_eq!(opened(&mut Sink::new(archive, options())).await.next, Some(103), "the chain says more than its begin");
}

#[tokio::test]
async fn the_begin_of_another_agent_holds() {
    let archive = archive("memory://forks-begin-other").await;
    let (mut policy, mut earliest) = (Sink::new(archive.clone(), options()), Sink::new(archive.clone(), options()));
    let (by_policy, from_start) = (opened(&mut policy).await, opened(&mut earliest).await);
    assert_eq!(archive.keep_begin(&partition(), 42).await.expect("kept"), 42);
    policy.begin(&partition(), by_policy.generation, 100);
    assert_eq!(restarted(&mut policy).await.0.next, Some(42));
    // One who began to read before, elsewhere, has nothing in the archive yet, and goes there too.
    earliest.put(batch(from_start.generation, 0, 50));
    let (tip, _) = restarted(&mut earliest).await;
    assert_eq!((tip.next, held(&archive, None).await), (Some(42), vec![]));
}

#[tokio::test]
async fn a_begin_that_cannot_be_read_suspends_the_partition() {
    let archive = archive("memory://forks-begin-damaged").await;
    let key = format!("{}{}", layout::partition_folder(&partition()), layout::BEGIN);
    let _ = archive.store().create(&key, bytes::Bytes::from_static(b"{")).await.expect("created");
    let mut sink = Sink::new(archive, options());
    sink.open(&partition());
    assert!(matches!(answer(&mut sink).await, Answer::Suspended { .. }));
    let Answer::Trouble { reason: Some(reason), .. } = answer(&mut sink).await else { panic!("no reason") };
    assert!(reason.contains("begin.json"), "{reason}");
}

#[tokio::test]
async fn a_fork_goes_on_beside_what_the_source_has_lost() {
    let archive = archive("memory://forks-beside").await;
    two_epochs(&archive).await;
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    sink.put(of_epoch(tip.generation, 2, 20, 23));
    sink.diverge(&partition(), tip.generation, 1, 8);
    let (cut, durable) = restarted(&mut sink).await;
    assert_eq!(durable, [23], "what only the agent has left is durable first");
    assert_eq!((cut.next, cut.leader_epoch, folders(&archive).await), (Some(8), 1, vec!["0".to_owned()]));
    sink.put(of_epoch(cut.generation, 3, 8, 12));
    assert_eq!(closed(&mut sink, cut).await, [12]);
    assert_eq!(held(&archive, None).await, [(0, 10), (10, 20), (20, 23)]);
    assert_eq!(held(&archive, Some(fork(3, 8))).await, [(8, 12)]);
    let first = sidecars(&archive, Some(fork(3, 8))).await.remove(0);
    assert_eq!(first.kind, SegmentKind::First);
    assert!(first.note.starts_with("the source had lost the offsets [8, 23) that `0` holds;"), "{}", first.note);

    let mut next = Sink::new(archive.clone(), options());
    let tip = opened(&mut next).await;
    assert_eq!((tip.next, tip.leader_epoch), (Some(12), 3));
    next.put(of_epoch(tip.generation, 3, 12, 14));
    assert_eq!(closed(&mut next, tip).await, [14]);
    assert_eq!(held(&archive, Some(fork(3, 8))).await, [(8, 12), (12, 14)]);
    assert_eq!(sidecars(&archive, Some(fork(3, 8))).await[1].kind, SegmentKind::Data);
}

#[tokio::test]
async fn the_cut_is_where_the_older_of_two_epochs_ends() {
    let archive = archive("memory://forks-cut").await;
    two_epochs(&archive).await;
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    // The source's epoch 1 is longer than ours: ours ends at 10.
    let tip = diverged(&mut sink, tip, 1, 30).await;
    assert_eq!((tip.next, tip.leader_epoch), (Some(10), 1));
    // It shares still less; nothing was made meanwhile.
    let tip = diverged(&mut sink, tip, 1, 4).await;
    assert_eq!((tip.next, tip.leader_epoch), (Some(4), 1));
    let tip = diverged(&mut sink, tip, 0, 9).await;
    assert_eq!((tip.next, tip.leader_epoch), (Some(0), -1));
    assert_eq!(folders(&archive).await, ["0"]);
}

#[tokio::test]
async fn a_source_without_epochs_is_cut_at_its_end_and_never_asked_in_circles() {
    let archive = archive("memory://forks-no-epoch").await;
    two_epochs(&archive).await;
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    let same = diverged(&mut sink, tip, -1, 35).await;
    assert_eq!((same.next, same.leader_epoch), (Some(20), -1), "nothing is lost");
    let cut = diverged(&mut sink, same, -1, 15).await;
    assert_eq!((cut.next, cut.leader_epoch), (Some(15), 2));
    let same = diverged(&mut sink, cut, -1, 15).await;
    assert_eq!((same.next, same.leader_epoch), (Some(15), -1));
    sink.put(of_epoch(same.generation, -1, 15, 18));
    assert_eq!(closed(&mut sink, same).await, [18]);
    assert_eq!(held(&archive, Some(fork(-1, 15))).await, [(15, 18)]);
}

#[tokio::test]
async fn forks_of_forks_are_greater_by_name_though_an_old_epoch_comes_back() {
    let archive = archive("memory://forks-of-forks").await;
    two_epochs(&archive).await;
    let mut sink = Sink::new(archive.clone(), Options { roll_bytes: 1, ..options() });
    let mut tip = opened(&mut sink).await;
    // As told, where it is cut, the epoch of what comes then, and the fork that it makes.
    for (told, cut, epoch, made) in [
        ((2, 15), 15, 4, fork(4, 15)),
        ((4, 17), 17, 6, fork(6, 17)),
        ((2, 12), 12, 7, fork(7, 12)),
        // A leader comes back that never saw epoch 7, nor 4: it goes on with its epoch 2.
        ((2, 18), 12, 2, fork(8, 12)),
    ] {
        tip = diverged(&mut sink, tip, told.0, told.1).await;
        assert_eq!(tip.next, Some(cut));
        sink.put(of_epoch(tip.generation, epoch, cut, cut + 4));
        for next in cut + 1..=cut + 4 {
            assert!(matches!(answer(&mut sink).await, Answer::Durable { next: durable, .. } if durable == next));
        }
        let held = archive.tip(&partition()).await.expect("a tip");
        assert_eq!((held.fork, held.next), (Some(made), Some(cut + 4)));
    }
}

#[tokio::test]
async fn two_writers_that_diverge_at_once_make_one_fork() {
    for different_rolls in [false, true] {
        let archive = archive(&format!("memory://forks-race-{different_rolls}")).await;
        two_epochs(&archive).await;
        let (mut one, mut other) = (Sink::new(archive.clone(), options()), Sink::new(archive.clone(), options()));
        let (first, second) = (opened(&mut one).await, opened(&mut other).await);
        let first = diverged(&mut one, first, 2, 15).await;
        let second = diverged(&mut other, second, 2, 15).await;
        let end = if different_rolls { 22 } else { 19 };
        one.put(of_epoch(first.generation, 3, 15, 19));
        other.put(of_epoch(second.generation, 3, 15, end));
        assert_eq!(closed(&mut one, first).await, [19]);
        other.close(&partition(), second.generation);
        if different_rolls {
            let (tip, durable) = restarted(&mut other).await;
            assert_eq!((tip.next, tip.leader_epoch, durable), (Some(19), 3, vec![]));
            other.put(of_epoch(tip.generation, 3, 19, 22));
            assert_eq!(closed(&mut other, tip).await, [22]);
        } else {
            assert!(matches!(answer(&mut other).await, Answer::Durable { next: 19, .. }));
        }
        assert_eq!(folders(&archive).await, ["0", "0@3-15"]);
        let expected: &[_] = if different_rolls { &[(15, 19), (19, 22)] } else { &[(15, 19)] };
        assert_eq!(held(&archive, Some(fork(3, 15))).await, expected);
    }
}

#[tokio::test]
async fn one_that_is_behind_adds_to_the_old_chain_and_follows_into_the_fork() {
    let archive = archive("memory://forks-behind").await;
    two_epochs(&archive).await;
    let (mut ahead, mut behind) = (Sink::new(archive.clone(), options()), Sink::new(archive.clone(), options()));
    let (one, other) = (opened(&mut ahead).await, opened(&mut behind).await);
    behind.put(of_epoch(other.generation, 2, 20, 25));
    let one = diverged(&mut ahead, one, 2, 15).await;
    ahead.put(of_epoch(one.generation, 3, 15, 19));
    assert_eq!(closed(&mut ahead, one).await, [19]);
    behind.diverge(&partition(), other.generation, 2, 15);
    let (tip, durable) = restarted(&mut behind).await;
    assert_eq!((durable, tip.next, tip.leader_epoch), (vec![25], Some(19), 3));
    assert_eq!(held(&archive, None).await, [(0, 10), (10, 20), (20, 25)]);
    assert_eq!(folders(&archive).await, ["0", "0@3-15"]);
}

#[tokio::test]
async fn a_fork_made_meanwhile_is_followed_and_not_made_again_under_another_name() {
    let archive = archive("memory://forks-meanwhile").await;
    two_epochs(&archive).await;
    let (mut one, mut other) = (Sink::new(archive.clone(), options()), Sink::new(archive.clone(), options()));
    let (first, second) = (opened(&mut one).await, opened(&mut other).await);
    let first = diverged(&mut one, first, 2, 15).await;
    let second = diverged(&mut other, second, 2, 12).await;
    one.put(of_epoch(first.generation, 3, 15, 19));
    other.put(of_epoch(second.generation, 5, 12, 14));
    assert_eq!(closed(&mut one, first).await, [19]);
    other.close(&partition(), second.generation);
    assert_eq!(restarted(&mut other).await.0.next, Some(19), "the source says what it shares with that");
    assert_eq!(folders(&archive).await, ["0", "0@3-15"]);
}

#[tokio::test]
async fn a_fork_without_its_first_log_is_none_and_is_made_by_the_next() {
    let archive = archive("memory://forks-interrupted").await;
    two_epochs(&archive).await;
    let key = format!("topics/orders/_/0@3-15/{}", layout::sidecar(15, 99, 1));
    let _ = archive.store().create(&key, bytes::Bytes::from_static(b"of a dead one")).await.expect("created");
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    assert_eq!((tip.next, tip.leader_epoch), (Some(20), 2));
    let tip = diverged(&mut sink, tip, 2, 15).await;
    sink.put(of_epoch(tip.generation, 3, 15, 19));
    drop(sink);
    // Killed again, before anything of the fork was durable.
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    let tip = diverged(&mut sink, tip, 2, 15).await;
    sink.put(of_epoch(tip.generation, 3, 15, 19));
    assert_eq!(closed(&mut sink, tip).await, [19]);
    assert_eq!(held(&archive, Some(fork(3, 15))).await, [(15, 19)]);
}

#[tokio::test]
async fn a_fork_may_begin_with_a_gap_or_inside_a_batch() {
    let archive = archive("memory://forks-gap").await;
    two_epochs(&archive).await;
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    let tip = diverged(&mut sink, tip, 2, 15).await;
    let range = OffsetRange { first: 15, next: 40 };
    let payload = Payload::Gap { reason: "retention was ahead".into() };
    sink.put(Batch::new(partition(), tip.generation, range, payload, Permit::default()));
    assert_eq!(closed(&mut sink, tip).await, [40]);
    let gap = sidecars(&archive, Some(fork(2, 15))).await.remove(0);
    assert_eq!((gap.kind, gap.range), (SegmentKind::Gap, range));
    assert!(gap.note.starts_with("retention was ahead; the source had lost the offsets [15, 20)"), "{}", gap.note);

    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    assert_eq!((tip.next, tip.leader_epoch), (Some(40), -1), "nobody knows the epochs of what is lost");
    let tip = diverged(&mut sink, tip, -1, 30).await;
    let range = OffsetRange { first: 30, next: 34 };
    let payload =
        Payload::Encoded { bytes: crate::batch::gap(OffsetRange { first: 26, next: 34 }, 9), aborted: Vec::new() };
    sink.put(Batch::new(partition(), tip.generation, range, payload, Permit::default()));
    assert_eq!(closed(&mut sink, tip).await, [34]);
    assert_eq!(held(&archive, Some(fork(9, 30))).await, [(30, 34)]);
}

#[tokio::test]
async fn a_partition_that_comes_back_takes_nothing_that_was_read_for_its_earlier_writer() {
    let archive = archive("memory://forks-generations").await;
    let mut sink = Sink::new(archive.clone(), options());
    let before = opened(&mut sink).await;
    sink.put(batch(before.generation, 0, 3));
    assert_eq!(closed(&mut sink, before).await, [3]);
    let after = opened(&mut sink).await;
    assert!(after.generation > before.generation);
    sink.put(batch(before.generation, 3, 9));
    sink.put(batch(after.generation, 3, 5));
    assert_eq!(closed(&mut sink, after).await, [5]);
}

#[tokio::test]
async fn a_begin_that_the_source_has_lost_is_left_for_a_fork() {
    let archive = archive("memory://forks-lost-begin").await;
    let mut sink = Sink::new(archive.clone(), options());
    let tip = opened(&mut sink).await;
    sink.begin(&partition(), tip.generation, 100);
    let (tip, _) = restarted(&mut sink).await;
    let tip = diverged(&mut sink, tip, 3, 80).await;
    assert_eq!((tip.next, tip.leader_epoch), (Some(80), -1));
    sink.put(of_epoch(tip.generation, 4, 80, 85));
    assert_eq!(closed(&mut sink, tip).await, [85]);
    let first = sidecars(&archive, Some(fork(4, 80))).await.remove(0);
    assert!(first.note.starts_with("the source had lost what `0` was to begin with;"), "{}", first.note);
}
