//! What batches of a source come to beside those of an archive, without a cluster.

use bytes::Bytes;

use super::comparer::{Outcome, Side as _};
use super::comparison::Comparison;
use super::held::Held;
use crate::archive::sidecar::{Kind, UNKNOWN_STAGES};
use crate::archive::source::chain::What;
use crate::archive::source::tests::{Fixture, three};
use crate::archive::source::{self, Fork};
use crate::batch::{self, Compression, Header, records};
use crate::record::{Offset, OffsetRange};

/// Compares the archive of partition 0 of topic `t` with these batches.
async fn compared(fixture: &Fixture, sent: &[Bytes]) -> Outcome {
    compared_from(fixture, None, sent).await
}

/// As [`compared`], where the source's log begins at `start`.
async fn compared_from(fixture: &Fixture, start: Option<Offset>, sent: &[Bytes]) -> Outcome {
    let place = source::timelines(&fixture.archive).await.expect("listed").remove(0).places.remove(0);
    let held = Held::open(&fixture.archive, &place.partition).await.expect("listed");
    let mut comparison = Comparison::begin(held).await.expect("read").expect("something is held");
    let mut from = comparison.first();
    if let Some(start) = start {
        let _ = comparison.deleted(OffsetRange { first: from, next: start }).await.expect("read");
        from = start;
    }
    for bytes in sent {
        let header = Header::read(bytes).expect("sound");
        comparison.batch(from, &header, bytes).await.expect("read");
        from = header.next_offset();
        if comparison.is_over(from).await.expect("read") {
            break;
        }
    }
    comparison.end().await.expect("read")
}

fn whats(outcome: &Outcome) -> Vec<(What, Option<(Offset, Offset)>)> {
    outcome.findings.iter().map(|found| (found.what, found.range.map(|range| (range.first, range.next)))).collect()
}

/// The batches of [`three`].
fn batches(fixture: &Fixture) -> Vec<Bytes> {
    [(0, 5), (5, 5), (10, 5), (15, 5)].map(|(first, count)| fixture.batch(first, count)).into()
}

/// The batch at `first` of which the log cleaner has left the records that `keep` chooses.
fn cleaned(fixture: &Fixture, first: Offset, count: i64, keep: impl Fn(Offset) -> bool) -> Bytes {
    let whole = fixture.batch(first, count);
    let header = Header::read(&whole).expect("sound");
    let left: Vec<_> =
        records::Records::of(&header, &whole).expect("sound").map(|record| record.expect("sound")).collect();
    let left: Vec<_> = left.into_iter().filter(|record| keep(record.offset)).collect();
    records::encode(&header, &left, Compression::Lz4).expect("they fit")
}

#[tokio::test]
async fn equal_batches_are_equal_up_to_where_the_archive_ends() {
    let fixture = three().await;
    let mut sent = batches(&fixture);
    sent.push(fixture.batch(20, 100));
    let outcome = compared(&fixture, &sent).await;
    assert_eq!((whats(&outcome), outcome.offsets, outcome.left), (vec![], 20, None));
    assert_eq!(outcome.bytes, sent[..4].iter().map(|bytes| bytes.len() as u64).sum::<u64>());
}

#[tokio::test]
async fn what_the_source_has_deleted_is_told_and_the_rest_compared() {
    let fixture = three().await;
    let outcome = compared_from(&fixture, Some(7), &batches(&fixture)[1..]).await;
    assert_eq!((whats(&outcome), outcome.offsets), (vec![(What::NoLongerThere, Some((0, 7)))], 13));
    let outcome = compared_from(&fixture, Some(50), &[]).await;
    assert_eq!((whats(&outcome), outcome.offsets, outcome.left), (vec![(What::NoLongerThere, Some((0, 20)))], 0, None));
}

#[tokio::test]
async fn a_source_that_ends_before_the_archive_leaves_the_rest_unread() {
    let fixture = three().await;
    let outcome = compared(&fixture, &batches(&fixture)[..2]).await;
    assert_eq!((outcome.offsets, outcome.left), (10, Some(Some(OffsetRange { first: 10, next: 20 }))));
}

#[tokio::test]
async fn what_the_log_cleaner_left_must_be_what_the_archive_has() {
    let fixture = three().await;
    let mut sent = batches(&fixture);
    sent[1] = cleaned(&fixture, 5, 5, |offset| offset == 7);
    sent.remove(2);
    let outcome = compared(&fixture, &sent).await;
    assert_eq!((whats(&outcome), outcome.left), (vec![(What::Compacted, Some((5, 15)))], None));
    assert!(outcome.findings[0].detail.contains("taken 9 records"), "{}", outcome.findings[0].detail);
}

#[tokio::test]
async fn another_record_or_one_too_many_is_a_difference() {
    type Change = fn(&mut records::Record);
    let fixture = three().await;
    let other = |first: Offset, change: Change| {
        let whole = fixture.batch(first, 5);
        let header = Header::read(&whole).expect("sound");
        let read = records::Records::of(&header, &whole).expect("sound").map(|record| record.expect("sound"));
        let mut read: Vec<_> = read.collect();
        change(&mut read[2]);
        records::encode(&header, &read, Compression::Lz4).expect("they fit")
    };
    let changes: [(&str, Change); 4] = [
        ("key", |record| record.key = None),
        ("value", |record| record.value = Some(Bytes::new())),
        ("timestamp", |record| record.timestamp.0 += 1),
        ("headers", |record| record.headers.push((Bytes::from_static(b"h"), None))),
    ];
    for (name, change) in changes {
        let mut sent = batches(&fixture);
        sent[2] = other(10, change);
        let outcome = compared(&fixture, &sent).await;
        assert_eq!(whats(&outcome), [(What::Difference, Some((12, 13)))]);
        assert!(outcome.findings[0].detail.contains(name) && outcome.findings[0].object.ends_with("0010.log"));
    }
    let sparse = Fixture::new("b").await;
    let kept = cleaned(&sparse, 0, 9, |offset| offset != 4);
    sparse.segment("t", 0, 0, Kind::First, &[kept, sparse.batch(12, 3)]).await;
    let outcome = compared(&sparse, &[sparse.batch(0, 9), sparse.batch(9, 3), sparse.batch(12, 3)]).await;
    assert_eq!(whats(&outcome), [(What::Difference, Some((4, 5))), (What::Difference, Some((9, 12)))]);
}

#[tokio::test]
async fn the_header_of_a_batch_must_be_the_same() {
    let fixture = three().await;
    let mut sent = batches(&fixture);
    sent[3] = fixture.transactional(15, 5, 9);
    let outcome = compared(&fixture, &sent).await;
    assert_eq!(whats(&outcome), [(What::Difference, Some((15, 16)))]);
    assert!(outcome.findings[0].detail.contains("attributes"), "{}", outcome.findings[0].detail);
}

#[tokio::test]
async fn what_was_made_of_an_older_format_may_be_cut_elsewhere() {
    let old = Bytes::from_static(include_bytes!("../../batch/legacy/v1.log"));
    let converted = batch::legacy::convert(&old, 0, None).bytes;
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 0, 0, Kind::First, std::slice::from_ref(&converted)).await;
    let mut again = Vec::new();
    for item in batch::walk(&converted) {
        let (at, header) = item.expect("sound");
        let bytes = converted.slice(at..at + header.total_bytes);
        for record in records::Records::of(&header, &bytes).expect("sound") {
            let record = record.expect("sound");
            let template = Header { base_offset: record.offset, last_offset_delta: 0, ..header };
            again.push(records::encode(&template, &[record], Compression::None).expect("it fits"));
        }
    }
    let outcome = compared(&fixture, &again).await;
    assert_eq!((whats(&outcome), outcome.offsets, outcome.left), (vec![], 12, None));
}

#[tokio::test]
async fn a_hole_that_the_source_still_has_is_a_difference_and_damage_is_not_compared() {
    let without = three().await.but(|key, bytes| (!key.contains("00000010.")).then_some(bytes)).await;
    let sent = batches(&without);
    assert_eq!(whats(&compared(&without, &sent).await), [(What::Difference, Some((10, 15)))]);
    let bare =
        three().await.but(|key, bytes| (!key.contains("00000010.") || key.ends_with(".log")).then_some(bytes)).await;
    let outcome = compared(&bare, &sent).await;
    assert_eq!((whats(&outcome), outcome.offsets), (vec![(What::Unchecked, Some((10, 15)))], 15));
}

#[tokio::test]
async fn what_went_through_stages_cannot_be_compared_and_the_rest_is() {
    for (stage, says) in [("mask 00", "they went through stages"), (UNKNOWN_STAGES, "or may have gone, through stages")]
    {
        let fixture = Fixture::new("b").await;
        fixture.segment("t", 0, 0, Kind::First, &[fixture.batch(0, 5)]).await;
        let made = [cleaned(&fixture, 5, 5, |offset| offset > 6), fixture.batch(10, 5)];
        fixture.segment_through(&[stage], 5, &made, &[]).await;
        fixture.segment("t", 0, 15, Kind::Data, &[fixture.batch(15, 5)]).await;
        let outcome = compared(&fixture, &batches(&fixture)).await;
        assert_eq!(whats(&outcome), [(What::Unchecked, Some((5, 10)))]);
        assert!(outcome.findings[0].detail.contains(says), "{}", outcome.findings[0].detail);
        assert_eq!((outcome.offsets, outcome.left), (15, None));
    }
}

#[tokio::test]
async fn a_fork_is_compared_with_what_it_shares() {
    let fixture = three().await;
    fixture.fork_segment(Fork { epoch: 7, end: 12 }, &[fixture.transactional(12, 6, 5)]).await;
    let mut sent = batches(&fixture);
    sent[2] = cleaned(&fixture, 10, 2, |_| true);
    sent[3] = fixture.transactional(12, 6, 5);
    let outcome = compared(&fixture, &sent).await;
    // The archive's batch reaches over the cut: of its header nothing is compared, of its records those before.
    assert!(whats(&outcome).iter().all(|(what, _)| *what == What::Compacted), "{:?}", outcome.findings);
    assert_eq!((outcome.offsets, outcome.left), (18, None));
}
