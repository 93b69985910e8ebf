//! Logs whose bytes changed where no checksum looks: the base offset and the leader epoch of a batch.

use super::*;

/// Changes the leader epoch of the first batch of a log.
fn alter(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[15] ^= 1;
    bytes.into()
}

#[tokio::test]
async fn an_altered_log_gets_no_new_sidecar_if_a_catalog_knows_other_bytes() {
    let fixture = many().await;
    let altered = fixture.but(|key, bytes| match key {
        key if key.ends_with("00000100.log") => Some(alter(&bytes)),
        key => (!key.contains("00000100.")).then_some(bytes),
    });
    let altered = altered.await;
    for options in [Options::default(), ACCEPTING] {
        let plan = repaired(&altered, options).await;
        assert_eq!(does(&plan), ["remains: damaged log"]);
        assert_eq!(plan.remaining[0].finding.range, Some(OffsetRange { first: 100, next: 110 }));
    }
    assert_eq!(verdict(&altered).await, 4);
}

#[tokio::test]
async fn an_altered_log_gets_no_new_sidecar_if_the_name_of_the_damaged_one_tells_other_bytes() {
    for name in ["00000000.", "00000010.", "00000015."] {
        let fixture = three().await;
        let altered = fixture.but(|key, bytes| match key.contains(name) {
            true if key.ends_with(".log") => Some(alter(&bytes)),
            true => Some(bytes.slice(1..)),
            false => Some(bytes),
        });
        let altered = altered.await;
        for options in [Options::default(), ACCEPTING] {
            assert_eq!(does(&repaired(&altered, options).await), ["remains: damaged log"], "{name}");
        }
        assert_eq!(verdict(&altered).await, 4);
        // Unaltered it gets one.
        let damaged = fixture.but(|key, bytes| {
            Some(if key.contains(name) && key.ends_with(".index") { bytes.slice(1..) } else { bytes })
        });
        let damaged = damaged.await;
        assert_eq!(does(&repaired(&damaged, Options::default()).await), ["make sidecar"], "{name}");
        assert_eq!(verdict(&damaged).await, 0);
    }
}

#[tokio::test]
async fn a_log_that_reaches_beyond_all_that_follows_gets_no_sidecar_that_would_cover_it() {
    let fixture = three().await;
    let raised = fixture.but(|key, bytes| match key {
        key if key.ends_with("00000010.log") => {
            let mut bytes = bytes.to_vec();
            bytes[6] ^= 1;
            Some(bytes.into())
        }
        key => (!key.contains("00000010.")).then_some(bytes),
    });
    let raised = raised.await;
    let before = objects(&raised.archive).await;
    assert_eq!(does(&repaired(&raised, ACCEPTING).await), ["remains: damaged log"]);
    assert_eq!(objects(&raised.archive).await, before);
}
