//! How `verify` prints what was found.

use bytes::Bytes;

use super::*;
use crate::archive::source::Fork;
use crate::archive::source::tests::{Fixture, three};

async fn report(fixture: &Fixture) -> Report {
    verify::check(&fixture.archive, Mode::Deep).await.expect("looked at")
}

#[tokio::test]
async fn each_topic_has_a_line() {
    let page = page(&report(&three().await).await);
    assert!(page.text().starts_with("Verify: b (deep)\n"), "{}", page.text());
    let row = page.text().lines().last().expect("a row");
    assert!(row.starts_with("t      1           3         4        20       "), "{row}");
    assert!(row.ends_with("sound"), "{row}");
}

#[tokio::test]
async fn damage_is_named_with_object_partition_and_offsets() {
    let flip = |key: &str, bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        if key.ends_with("0010.log") {
            bytes[70] ^= 1;
        }
        Some(Bytes::from(bytes))
    };
    let report = report(&three().await.but(flip).await).await;
    let page = page(&report);
    let line = page.text().lines().last().expect("a finding");
    assert!(line.starts_with("t: partition 0: damaged log: offsets [10, 15): "), "{line}");
    assert!(line.ends_with("00000000000000000010.log)"), "{line}");
    assert_eq!(lines(&report).lines().count(), 2);
    assert!(lines(&report).lines().all(|line| line.ends_with(",mode") || line.ends_with(",deep")));
    let data = serde_json::to_value(data(&report)).expect("data");
    assert_eq!((&data["findings"][0]["first_offset"], &data["mode"]), (&10.into(), &"deep".into()));
}

#[tokio::test]
async fn a_fork_is_no_harm_and_no_partition_of_its_own() {
    let fixture = three().await;
    fixture.fork_segment(Fork { epoch: 7, end: 12 }, &[fixture.batch(12, 3)]).await;
    let data = serde_json::to_value(data(&report(&fixture).await)).expect("data");
    assert_eq!((&data["sound"], &data["topics"][0]["partitions"]), (&true.into(), &1.into()));
    assert_eq!(data["findings"][0]["partition"], "0@7-12");
}
