//! Logs that begin inside another's range.

use super::*;
use crate::batch::{Header, records};

/// Returns the segments [0, 10), [10, 15), [20, 25), and inside the second a log of the offsets [12, 18).
async fn over_a_hole() -> Fixture {
    let fixture = three().await.but(|key, bytes| (!key.contains("00000015.")).then_some(bytes)).await;
    fixture.segment("t", 0, 12, SegmentKind::Data, &[fixture.batch(12, 6)]).await;
    fixture.segment("t", 0, 20, SegmentKind::Data, &[fixture.batch(20, 5)]).await;
    fixture
}

#[tokio::test]
async fn a_log_that_reaches_over_a_hole_is_no_debris_and_the_hole_no_gap() {
    let fixture = over_a_hole().await;
    let before = objects(&fixture.archive).await;
    for options in [Options::default(), DEEP, ACCEPTING] {
        let plan = repaired(&fixture, options).await;
        assert_eq!(does(&plan), ["remains: hole", "remains: debris"]);
        assert_eq!(plan.remaining[1].finding.range, Some(OffsetRange { first: 12, next: 18 }));
        assert!(plan.remaining[0].finding.detail.contains("00000012.log"), "{plan:?}");
        assert_eq!(objects(&fixture.archive).await, before);
    }
}

#[tokio::test]
async fn a_log_that_reaches_over_several_segments_is_debris_if_each_of_them_is_proven() {
    let fixture = over_a_hole().await;
    fixture.segment("t", 0, 15, SegmentKind::Data, &[fixture.batch(15, 5)]).await;
    let damaged = fixture.but(|key, bytes| {
        let mut bytes = bytes.to_vec();
        if key.ends_with("00000015.log") {
            bytes[70] ^= 1;
        }
        Some(bytes.into())
    });
    let damaged = damaged.await;
    let plan = planned(&damaged, Options::default()).await;
    assert_eq!(does(&plan), ["remains: debris"], "{plan:?}");
    assert_eq!(does(&repaired(&fixture, Options::default()).await), ["delete debris"]);
    assert!(!objects(&fixture.archive).await.keys().any(|key| key.contains("00000012.")));
    assert_eq!(verdict(&fixture).await, 0);
}

#[tokio::test]
async fn a_log_with_records_that_the_cleaner_has_taken_from_what_covers_it_is_no_debris() {
    let fixture = Fixture::new("b").await;
    // Read again after the source's log cleaner: five records are left of each ten.
    let cleaned = |first| {
        let left = Header { last_offset_delta: 9, ..records::template(first) };
        fixture.batch_of(&left, 5)
    };
    fixture.segment("t", 0, 0, SegmentKind::First, &[cleaned(0), cleaned(10)]).await;
    fixture.segment("t", 0, 10, SegmentKind::Data, &[cleaned(10)]).await;
    let racer = fixture.but(|_, bytes| Some(bytes)).await;
    assert_eq!(does(&repaired(&racer, Options::default()).await), ["delete debris"], "the same batch is held twice");
    fixture.segment("t", 0, 3, SegmentKind::Data, &[fixture.batch(3, 7)]).await;
    let plan = repaired(&fixture, Options::default()).await;
    assert_eq!(does(&plan).iter().filter(|act| *act == "remains: debris").count(), 1, "{plan:?}");
    assert!(objects(&fixture.archive).await.keys().any(|key| key.ends_with("00000003.log")));
}

#[tokio::test]
async fn a_declared_gap_does_not_hold_what_a_log_inside_it_does() {
    let fixture = over_a_hole().await;
    fixture.gap_of("t", "_", 0, 15..20).await;
    let plan = planned(&fixture, DEEP).await;
    assert_eq!(does(&plan), ["remains: debris"]);
    // A gap inside a gap holds nothing.
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 0, 0, SegmentKind::First, &[fixture.batch(0, 5)]).await;
    fixture.gap_of("t", "_", 0, 5..20).await;
    fixture.gap_of("t", "_", 0, 7..9).await;
    assert_eq!(does(&repaired(&fixture, DEEP).await), ["delete debris"]);
    assert_eq!(verdict(&fixture).await, 0);
}
