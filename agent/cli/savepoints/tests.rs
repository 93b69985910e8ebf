//! What `savepoints` says of archives that have reached a savepoint, have not, and have lost what was durable.

use super::super::table::tests::Written;
use super::*;
use crate::archive::savepoint::tests::{name, state, topic};
use crate::archive::savepoint::{Archived, End, Hanging, Unread};
use crate::archive::source::Fork;
use crate::archive::source::tests::{Fixture, three};
use crate::record::{Partition, Timestamp, TopicId};

async fn listed(archive: &Archive, limit: usize, format: Format) -> (String, Result<()>) {
    let (mut output, written) = Written::output();
    let result = list(archive, limit, format, &mut output).await;
    output.finish().expect("written");
    (written.text(), result)
}

/// Three savepoints of an archive that holds the offsets [0, 15) of `t-0`: reached, not reached, damaged.
async fn archive() -> Archive {
    let archive = three().await.archive;
    let held = archive.tip(&Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 0 }).await.expect("read");
    let next = held.next.expect("it holds something");
    let at = |end| {
        let mut state = state(&[end, 0]);
        state.topics[0] = topic("t", std::mem::take(&mut state.topics[0].partitions));
        state
    };
    let [first, second, third] = ["20261122T100000.000Z", "20261122T100100.000Z", "20261122T100200.000Z"].map(name);
    let full = Savepoint::full(first, Timestamp(0), None, at(next));
    let mut state = at(next + 30);
    state.groups_unread = Some("forbidden".into());
    state.groups[0].error = Some("not allowed".into());
    state.hanging = vec![Hanging { topic: "t".into(), partition: 0, producer_id: 9, first_offset: next }];
    let delta = Savepoint::full(second, Timestamp(0), Some(first), state).relative_to(first, &full.state);
    for savepoint in [&full, &delta] {
        let _ = archive.create_savepoint(savepoint.name, savepoint.encode()).await.expect("created");
    }
    let _ = archive.create_savepoint(third, delta.encode()).await.expect("created");
    archive
}

#[tokio::test]
async fn a_savepoint_is_complete_when_every_end_is_passed_and_damage_is_a_row_and_exit_code_4() {
    let archive = archive().await;
    let (csv, result) = listed(&archive, 0, Format::Csv).await;
    assert_eq!(result.expect_err("damage").exit_code(), 4);
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines[1], "20261122T100000.000Z,1970-01-01T00:00:00.000Z,full,1,2,yes,");
    let note = "groups unread: forbidden; group shop: not allowed; a transaction of producer 9 hangs in t-0 at";
    let start = format!("20261122T100100.000Z,1970-01-01T00:00:00.000Z,delta,1,2,no: t-0 lacks 30,{note}");
    assert!(lines[2].starts_with(&start), "{csv}");
    assert!(lines[3].starts_with("20261122T100200.000Z,,unreadable,,,,"), "{csv}");
    let (table, _) = listed(&archive, 0, Format::Table).await;
    assert_eq!(table.lines().count(), 7, "{table}");
    assert!(table.contains("no: t-0 lacks 30"), "{table}");
}

#[tokio::test]
async fn a_savepoint_that_does_not_cover_a_topic_of_the_backup_is_not_complete() {
    let fixture = three().await;
    let unread = |topic: &str| Unread { topic: topic.into(), topic_id: "_".into(), error: "forbidden".into() };
    let mut state = State { topics_unread: vec![unread("pay"), unread("till")], ..State::default() };
    for (at, cell) in [("0", "no: pay is not covered, and 1 more"), ("1", "no: t-0 lacks 5, and 2 more")] {
        let savepoint = Savepoint::full(name(&format!("20261122T10{at}000.000Z")), Timestamp(0), None, state.clone());
        fixture.savepoint(&savepoint).await;
        let (csv, result) = listed(&fixture.archive, 1, Format::Csv).await;
        result.expect("nothing is lost");
        let row = format!(",\"{cell}\",topic pay unread: forbidden (and 1 more)\n");
        assert!(csv.ends_with(&row), "{csv}");
        state.topics = vec![topic("t", vec![End { partition: 0, high_watermark: 25, archived: None }])];
    }
    let (json, _) = listed(&fixture.archive, 0, Format::Json).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json[0]["complete"], &json[0]["topics_unread"][1]["topic"]), (&false.into(), &"till".into()));
}

#[tokio::test]
async fn a_limit_shows_the_newest() {
    let (json, _) = listed(&archive().await, 2, Format::Json).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["name"], "20261122T100100.000Z", "its full one is read though it is not shown");
    assert_eq!((&json[0]["complete"], &json[0]["lacks"][0]["offsets"]), (&false.into(), &30.into()));
    assert_eq!(json.as_array().map(Vec::len), Some(2));
}

/// The end of a partition, with the chain that was durable of it and up to where.
type Ended = (Offset, Option<(&'static str, Offset)>);

/// Adds a savepoint of the ends of the partitions of `t`, each with what was durable of it.
async fn save(fixture: &Fixture, at: &str, ends: &[Ended]) {
    let end = |(index, (high_watermark, archived)): (i32, &Ended)| End {
        partition: index,
        high_watermark: *high_watermark,
        archived: archived.map(|(chain, next)| Archived { chain: chain.into(), next }),
    };
    let topics = vec![topic("t", (0..).zip(ends).map(end).collect())];
    let savepoint = Savepoint::full(name(at), Timestamp(0), None, State { topics, ..State::default() });
    fixture.savepoint(&savepoint).await;
}

#[tokio::test]
async fn what_was_durable_and_has_gone_since_is_not_complete_and_exits_with_5() {
    let fixture = three().await;
    save(&fixture, "20261122T100000.000Z", &[(20, Some(("0", 20)))]).await;
    let (csv, result) = listed(&fixture.archive, 0, Format::Csv).await;
    result.expect("all is there");
    assert!(csv.ends_with(",yes,\n"), "{csv}");
    let gone = fixture.but(|key, bytes| (!key.contains("00000015")).then_some(bytes)).await;
    let (csv, result) = listed(&gone.archive, 0, Format::Csv).await;
    assert_eq!(result.expect_err("a hole").exit_code(), 5);
    assert!(csv.ends_with(",no: t-0 lacks 5,t-0 was durable up to 20 and ends at 15: run verify\n"), "{csv}");
    let gone = fixture.but(|key, bytes| (!key.contains("/_/0/")).then_some(bytes)).await;
    let (csv, result) = listed(&gone.archive, 0, Format::Csv).await;
    assert_eq!(result.expect_err("a hole").exit_code(), 5);
    assert!(csv.ends_with(",no: t-0 lacks 20,t-0 was durable up to 20 and is gone: run verify\n"), "{csv}");
}

#[tokio::test]
async fn what_was_durable_beyond_the_end_is_missed_though_the_savepoint_is_complete() {
    let fixture = three().await;
    save(&fixture, "20261122T100000.000Z", &[(18, Some(("0", 25)))]).await;
    let (csv, result) = listed(&fixture.archive, 0, Format::Csv).await;
    assert_eq!(result.expect_err("a hole").exit_code(), 5);
    assert!(csv.ends_with(",yes,t-0 was durable up to 25 and ends at 20: run verify\n"), "{csv}");
}

#[tokio::test]
async fn the_end_of_a_fork_is_not_that_of_the_chain_it_was_made_beside() {
    let fixture = three().await.but(|key, bytes| (!key.contains("00000015")).then_some(bytes)).await;
    let cut = fixture.but(|key, bytes| (!key.contains("00000010.")).then_some(bytes)).await;
    for (held, cells) in
        [(&fixture, ["yes", "yes", "no: t-0 lacks 3"]), (&cut, ["no: t-0 lacks 2", "yes", "no: t-0 lacks 3"])]
    {
        held.fork_segment(Fork { epoch: 7, end: 12 }, &[held.batch(12, 3)]).await;
        for (at, next) in [12, 15, 18].into_iter().enumerate() {
            save(held, &format!("20261122T100{at}00.000Z"), &[(next, None)]).await;
        }
        let (csv, result) = listed(&held.archive, 0, Format::Csv).await;
        result.expect("nobody has told that there was more");
        let told: Vec<_> = csv.lines().skip(1).map(|line| line.split(',').nth(5).unwrap_or_default()).collect();
        assert_eq!(told, cells);
    }
}

#[tokio::test]
async fn a_partition_of_which_all_was_deleted_before_it_was_read_is_reached() {
    let fixture = three().await;
    let partition = Partition { topic: "t".into(), topic_id: TopicId::NONE, index: 1 };
    let _ = fixture.archive.keep_begin(&partition, 100).await.expect("kept");
    save(&fixture, "20261122T100000.000Z", &[(20, None), (100, None)]).await;
    let (csv, result) = listed(&fixture.archive, 0, Format::Csv).await;
    result.expect("all is there");
    assert!(csv.ends_with(",yes,\n"), "{csv}");
}

#[tokio::test]
async fn a_chain_that_cannot_be_read_leaves_open_whether_a_savepoint_is_complete_and_is_damage() {
    let fixture = three().await;
    save(&fixture, "20261122T100000.000Z", &[(20, Some(("0", 20)))]).await;
    save(&fixture, "20261122T100100.000Z", &[(20, Some(("0", 20)))]).await;
    let cut = |key: &str, bytes: bytes::Bytes| {
        Some(if key.contains("00000015.") && key.ends_with(".index") { bytes.slice(1..) } else { bytes })
    };
    let (csv, result) = listed(&fixture.but(cut).await.archive, 0, Format::Csv).await;
    assert_eq!(result.expect_err("damage").exit_code(), 4);
    let rows: Vec<_> = csv.lines().skip(1).collect();
    assert!(
        rows.len() == 2 && rows.iter().all(|row| row.ends_with(",,nobody knows where t-0 ends: run verify")),
        "{csv}"
    );
}

#[tokio::test]
async fn a_delta_of_a_full_one_that_cannot_be_read_is_a_row_of_its_own() {
    let fixture = three().await;
    save(&fixture, "20261122T100000.000Z", &[(20, None)]).await;
    let full = fixture.archive.savepoint(name("20261122T100000.000Z")).await.expect("read").expect("there");
    for at in ["20261122T100100.000Z", "20261122T100200.000Z"] {
        let delta = Savepoint::full(name(at), Timestamp(0), None, State::default()).relative_to(full.name, &full.state);
        fixture.savepoint(&delta).await;
    }
    let cut =
        |key: &str, bytes: bytes::Bytes| Some(if key.ends_with("T100000.000Z") { bytes.slice(1..) } else { bytes });
    let gone = |key: &str, bytes: bytes::Bytes| (!key.ends_with("T100000.000Z")).then_some(bytes);
    for broken in [fixture.but(cut).await, fixture.but(gone).await] {
        let (csv, result) = listed(&broken.archive, 2, Format::Csv).await;
        assert_eq!(result.expect_err("damage").exit_code(), 4);
        assert_eq!(csv.matches(",unreadable,").count(), 2, "{csv}");
    }
}
