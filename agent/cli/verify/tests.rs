//! How `verify` prints what was found.

use bytes::Bytes;

use super::*;
use crate::archive::source::Fork;
use crate::archive::source::dead_letters::tests::emptied;
use crate::archive::source::tests::{Fixture, three};
use crate::record::{LeftOut, OffsetRange};

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

#[tokio::test]
async fn what_stages_left_out_is_told_in_one_line_and_listed_stretch_by_stretch() {
    let fixture = Fixture::new("b").await;
    let left_out = |first: i64, records, dead_letter| LeftOut {
        range: OffsetRange { first, next: first + 5 },
        records,
        stage: 0,
        dead_letter,
    };
    let batch = fixture.batch(5, 5);
    let letter = fixture.dead_letter(&batch).await;
    let batches = [fixture.batch(0, 5), emptied(&batch), fixture.batch(10, 5), fixture.batch(15, 5)];
    let all = [left_out(0, 1, None), left_out(5, 5, Some(letter)), left_out(15, 2, None)];
    fixture.staged_segment(0, &batches, &all).await;
    let report = report(&fixture).await;
    let page = page(&report);
    for line in [
        "stage 1 (mask 00) left out 3 records: skipped, and not kept; they were in the batches of [0, 5), [15, 20) (",
        "offsets [5, 10): stage 1 (mask 00) left out 5 records: kept as they came, as dead letters (",
    ] {
        assert!(page.text().contains(line), "{line} in\n{}", page.text());
    }
    let data = serde_json::to_value(data(&report)).expect("data");
    let listed: Vec<_> = data["left_out"].as_array().expect("a list").iter().collect();
    let places =
        listed.iter().map(|it| [&it["first_offset"], &it["next_offset"], &it["records"]].map(|it| it.as_i64()));
    let exact = [[0, 5, 1], [5, 10, 5], [15, 20, 2]].map(|it| it.map(Some));
    assert_eq!(places.collect::<Vec<_>>(), exact);
    assert_eq!((&listed[0]["stage"], &listed[0]["plugin"]), (&1.into(), &"mask 00".into()));
    assert!(listed[0]["dead_letter"].is_null());
    let key = listed[1]["dead_letter"].as_str().expect("an object");
    assert!(key.starts_with("topics/t/_/0/dead-letter/00000000000000000005."), "{key}");
}

#[tokio::test]
async fn what_a_restore_made_of_it_has_a_line_for_each_pair() {
    let partition = |topic: &str| crate::record::Partition {
        topic: topic.into(),
        topic_id: crate::record::TopicId::NONE,
        index: 3,
    };
    let pair = crate::restore::map::Pair { source: partition("t"), target: partition("copy") };
    let same = PairReport {
        pair,
        archive_records: Some(20),
        archive_digest: Some("ab".to_owned()),
        target_records: Some(20),
        target_digest: Some("ab".to_owned()),
        result: "the same".to_owned(),
    };
    let unknown =
        PairReport { archive_records: None, archive_digest: None, result: "1 unchecked".to_owned(), ..same.clone() };
    let restored = Some(Restored { restore_id: "r1".to_owned(), pairs: vec![same, unknown] });
    let report = Report { restored, ..report(&three().await).await };
    let page = page(&report);
    let lines: Vec<_> = page.text().lines().rev().collect();
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["t-3", "copy-3", "20", "20", "ab", "ab", "the", "same"]
    );
    assert!(lines[0].split_whitespace().eq(["t-3", "copy-3", "-", "20", "-", "ab", "1", "unchecked"]), "{}", lines[0]);
    assert!(page.text().contains("compared with restore r1:"));
    let data = serde_json::to_value(data(&report)).expect("data");
    let pair = &data["restored"]["pairs"][0];
    assert_eq!((&pair["source_topic"], &pair["target_partition"]), (&"t".into(), &3.into()));
    assert_eq!((&pair["archive_digest"], &pair["result"]), (&"ab".into(), &"the same".into()));
}
