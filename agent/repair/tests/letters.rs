//! Dead letters beside sidecars that are lost.

use super::*;
use crate::archive::sidecar::STAGE_UNKNOWN;
use crate::archive::source::dead_letters::tests::emptied;
use crate::record::LeftOut;

/// Three segments, of which the second leaves a batch out that is kept; what it says of that.
async fn letters() -> (Fixture, LeftOut) {
    let fixture = Fixture::new("b").await;
    fixture.topic("t", "_", 1).await;
    let batch = fixture.batch(10, 5);
    let dead_letter = Some(fixture.dead_letter(&batch).await);
    let kept = LeftOut { range: OffsetRange { first: 10, next: 15 }, records: 5, stage: 0, dead_letter };
    // What a writer left that was killed: the chain has their records.
    let _ = (fixture.dead_letter(&fixture.batch(0, 10)).await, fixture.dead_letter(&fixture.batch(15, 5)).await);
    fixture.staged_segment(0, &[fixture.batch(0, 10)], &[]).await;
    fixture.staged_segment(10, &[emptied(&batch), fixture.batch(15, 5), fixture.batch(20, 5)], &[kept]).await;
    fixture.staged_segment(25, &[fixture.batch(25, 5)], &[]).await;
    (fixture, kept)
}

fn is_second_sidecar(key: &str) -> bool {
    key.contains("/0/00000000000000000010.") && key.ends_with(".index")
}

async fn second_sidecar(fixture: &Fixture) -> Sidecar {
    let objects = objects(&fixture.archive).await;
    let (_, bytes) = objects.iter().find(|(key, _)| is_second_sidecar(key)).expect("it is there");
    Sidecar::decode(bytes).expect("sound")
}

#[tokio::test]
async fn a_sidecar_made_anew_names_the_dead_letters_of_what_its_log_leaves_out() {
    let (fixture, kept) = letters().await;
    let lost = fixture.but(|key, bytes| (!is_second_sidecar(key)).then_some(bytes)).await;
    let plan = repaired(&lost, Options::default()).await;
    assert_eq!(does(&plan), ["make sidecar"]);
    assert!(plan.lines()[0].detail.ends_with("; 1 dead letter of it"), "{:?}", plan.lines());
    let sidecar = second_sidecar(&lost).await;
    assert_eq!(sidecar.left_out, [LeftOut { stage: STAGE_UNKNOWN, ..kept }]);
    // Its neighbours tell them.
    assert_eq!(sidecar.stages, ["mask 00"]);
    assert_eq!(verdict(&lost).await, 0);
    assert!(planned(&lost, DEEP).await.is_empty());
    let report = verify::check(&lost.archive, Mode::Plain).await.expect("checked");
    let told: String = report.findings().map(|found| format!("{found}\n")).collect();
    assert!(told.contains("[10, 15): a stage that nothing names any more left out 5 records: kept"), "{told}");
    assert!(!told.contains("unnamed"), "{told}");
}

#[tokio::test]
async fn a_piece_of_a_damaged_log_names_them_too_where_its_sidecar_is_lost() {
    let (fixture, kept) = letters().await;
    let damaged = fixture.but(|key, bytes| {
        let mut bytes = bytes.to_vec();
        if key.ends_with("/0/00000000000000000010.log") {
            bytes[61 + 70] ^= 1;
        }
        (!is_second_sidecar(key)).then(|| bytes.into())
    });
    let damaged = damaged.await;
    assert_eq!(does(&repaired(&damaged, ACCEPTING).await), ["replace log"]);
    let sidecar = second_sidecar(&damaged).await;
    assert_eq!((sidecar.range.next, sidecar.left_out), (15, vec![LeftOut { stage: STAGE_UNKNOWN, ..kept }]));
    assert_eq!(verdict(&damaged).await, 0);
}
