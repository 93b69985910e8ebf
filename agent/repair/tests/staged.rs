//! Sidecars that are lost where records went through stages.

use super::*;
use crate::archive::sidecar::UNKNOWN_STAGES;

/// The stages of each segment; one with none is a gap.
const THROUGH: [Option<&[&str]>; 9] = [
    Some(&[]),
    Some(&[]),
    Some(&["mask 00"]),
    Some(&["mask 00"]),
    None,
    Some(&["mask 00"]),
    Some(&["mask 00", "drop 11"]),
    Some(&["mask 00", "drop 11"]),
    Some(&["mask 00", "drop 11"]),
];

async fn staged() -> Fixture {
    let fixture = Fixture::new("b").await;
    for (first, stages) in (0..).step_by(10).zip(THROUGH) {
        match stages {
            Some(stages) => fixture.segment_through(stages, first, &[fixture.batch(first, 10)], &[]).await,
            None => fixture.gap_of("t", "_", 0, first..first + 10).await,
        }
    }
    fixture
}

#[tokio::test]
async fn a_sidecar_made_anew_has_the_stages_of_its_neighbours_or_says_that_they_are_unknown() {
    const UNKNOWN: &[&str] = &[UNKNOWN_STAGES];
    let both: &[&str] = &["mask 00", "drop 11"];
    for (lost, wanted) in [
        (&[0][..], &[][..]),
        (&[1], UNKNOWN),
        (&[2], UNKNOWN),
        (&[3], &["mask 00"]),
        (&[3, 4], &["mask 00"]),
        (&[5], UNKNOWN),
        (&[7], both),
        // Nothing behind it tells that they went on.
        (&[8], UNKNOWN),
        (&[1, 2, 3, 5, 6], UNKNOWN),
        // Nobody has ever heard of stages here.
        (&[0, 1, 2, 3, 4, 5, 6, 7, 8], &[]),
    ] {
        let is_lost =
            |key: &str| key.ends_with(".index") && lost.iter().any(|at| key.contains(&format!("/{:020}.", at * 10)));
        let stripped = staged().await.but(|key, bytes| (!is_lost(key)).then_some(bytes)).await;
        let plan = repaired(&stripped, DEEP).await;
        assert_eq!(does(&plan).iter().filter(|act| *act == "make sidecar").count(), lost.len(), "{lost:?}");
        let after = objects(&stripped.archive).await;
        for (_, bytes) in after.iter().filter(|(key, _)| is_lost(key)) {
            let sidecar = Sidecar::decode(bytes).expect("sound");
            let wanted = if sidecar.kind == SegmentKind::Gap { &[] } else { wanted };
            assert_eq!(sidecar.stages, wanted, "{lost:?}: {}", sidecar.range);
            assert_eq!(sidecar.note.contains("what its stages left out is not known"), !wanted.is_empty(), "{lost:?}");
        }
        assert!(planned(&stripped, DEEP).await.is_empty() && verdict(&stripped).await == 0, "{lost:?}");
        let report = verify::check(&stripped.archive, Mode::Deep).await.expect("checked");
        let is_told = report.findings().any(|found| found.finding.what == What::UnknownStages);
        assert_eq!(is_told, wanted == UNKNOWN, "{lost:?}");
    }
}
