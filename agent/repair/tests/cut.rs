//! Logs that lost their end between two batches: each batch that is left is sound.

use super::*;

/// Returns an archive of one segment of the offsets [0, 10) whose log has only [0, 5) left.
async fn cut() -> Fixture {
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 0, 0, SegmentKind::First, &[fixture.batch(0, 5), fixture.batch(5, 5)]).await;
    fixture.but(|key, bytes| Some(if key.ends_with(".log") { beginning(&bytes) } else { bytes })).await
}

/// Returns the first batch.
fn beginning(bytes: &Bytes) -> Bytes {
    bytes.slice(..crate::batch::entry_bytes(bytes).expect("a batch"))
}

/// Adds the sidecar of a writer that lost the race for the log at `first`, longer than what anybody else tells.
async fn add_loser(fixture: &Fixture, first: Offset, next: Offset) {
    let objects = objects(&fixture.archive).await;
    let sidecar = objects
        .iter()
        .filter(|(key, _)| key.ends_with(".index"))
        .find_map(|(_, bytes)| Sidecar::decode(bytes).ok().filter(|sidecar| sidecar.range.first == first));
    let made = Sidecar::decode(&objects_of_three().await).expect("sound");
    let sidecar = sidecar.unwrap_or(made);
    let loser = Sidecar { range: OffsetRange { first, next }, length_bytes: 100_000, digest: 7, ..sidecar };
    fixture.create(&format!("{FOLDER}{}", layout::sidecar(first, 100_000, 7)), loser.encode()).await;
}

/// Returns the bytes of any sidecar of the partition.
async fn objects_of_three() -> Bytes {
    let objects = objects(&three().await.archive).await;
    objects.into_iter().find(|(key, _)| key.ends_with(".index")).expect("there are some").1
}

#[tokio::test]
async fn a_last_log_is_cut_if_the_name_of_any_sidecar_tells_that_it_was_longer() {
    for (has_loser, is_damaged) in [(true, false), (false, true), (true, true)] {
        let cut = cut().await;
        let cut =
            cut.but(|key, bytes| Some(if is_damaged && key.ends_with(".index") { bytes.slice(1..) } else { bytes }));
        let cut = cut.await;
        if has_loser {
            add_loser(&cut, 0, 12).await;
        }
        let before = objects(&cut.archive).await;
        for options in [Options::default(), DEEP] {
            let plan = repaired(&cut, options).await;
            assert_eq!(does(&plan), ["remains: damaged log"], "{has_loser} {is_damaged}");
            assert_eq!((objects(&cut.archive).await, verdict(&cut).await), (before.clone(), 4));
        }
        // What tells of the loss stays when it was accepted, until the chain goes on.
        assert_eq!(does(&repaired(&cut, ACCEPTING).await), ["make sidecar"]);
        assert!(planned(&cut, DEEP).await.is_empty() && verdict(&cut).await == 0);
        let after = objects(&cut.archive).await;
        assert!(before.iter().all(|(key, bytes)| after.get(key) == Some(bytes)) && after.len() == before.len() + 1);
        cut.segment("t", 0, 5, SegmentKind::Data, &[cut.batch(5, 5)]).await;
        assert_eq!(does(&repaired(&cut, DEEP).await), ["delete debris"]);
        assert_eq!(verdict(&cut).await, 0);
    }
}

#[tokio::test]
async fn a_last_log_is_cut_if_a_catalog_tells_that_it_was_longer() {
    let fixture = Fixture::new("b").await;
    for n in 0..6 {
        let kind = if n == 0 { SegmentKind::First } else { SegmentKind::Data };
        fixture.segment("t", 0, n * 10, kind, &[fixture.batch(n * 10, 5), fixture.batch(n * 10 + 5, 5)]).await;
    }
    assert_eq!(does(&repaired(&fixture, DEEP).await), ["make catalogs"]);
    let cut = fixture.but(|key, bytes| match key {
        key if key.ends_with("00000050.log") => Some(beginning(&bytes)),
        key => (!key.contains("00000050.")).then_some(bytes),
    });
    let cut = cut.await;
    let plan = repaired(&cut, Options::default()).await;
    assert_eq!(does(&plan), ["remains: damaged log"]);
    assert_eq!(plan.remaining[0].finding.range, Some(OffsetRange { first: 50, next: 60 }));
}

#[tokio::test]
async fn a_log_is_whole_whatever_losers_tell_if_the_next_one_follows_or_a_sidecar_has_its_name() {
    let without = |damages: bool| {
        move |key: &str, bytes: Bytes| match key.contains("00000010.") && key.ends_with(".index") {
            true => damages.then(|| bytes.slice(1..)),
            false => Some(bytes),
        }
    };
    let follows = three().await.but(without(false)).await;
    add_loser(&follows, 10, 30).await;
    assert_eq!(does(&repaired(&follows, Options::default()).await), ["make sidecar", "delete debris"]);
    assert_eq!(verdict(&follows).await, 0);
    // The last one.
    let named = three().await.but(without(true)).await;
    let named = named.but(|key, bytes| (!key.contains("00000015.")).then_some(bytes)).await;
    add_loser(&named, 10, 30).await;
    let plan = repaired(&named, Options::default()).await;
    assert_eq!(does(&plan), ["make sidecar"]);
    assert_eq!(verdict(&named).await, 0);
}
