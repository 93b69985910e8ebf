//! What `cat` prints, and where it stops.

use std::io::Write;

use super::super::table::tests::Written;
use super::*;
use crate::archive::sidecar::Kind as SegmentKind;
use crate::archive::source::dead_letters::tests::emptied;
use crate::archive::source::tests::{Fixture, three};
use crate::batch::records::Record;
use crate::batch::{Compression, records};
use crate::error::Kind;
use crate::record::LeftOut;

/// Prints the first place of the archive; returns the lines and how it ended.
async fn printed(fixture: &Fixture, choice: Choice) -> (Vec<serde_json::Value>, Result<()>) {
    let (output, written) = Written::output();
    let mut printer = Printer::new(choice, output);
    let timelines = source::timelines(&fixture.archive).await.expect("listed");
    let (partition, branch) = choose(timelines, &[], &printer.choice).expect("some").remove(0);
    let result = match printer.choice.dead_letters {
        false => printer.partition(&fixture.archive, &partition, branch).await,
        true => printer.dead_letters(&fixture.archive, &partition, branch).await,
    };
    printer.output.finish().expect("written");
    (written.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(), result)
}

async fn offsets(fixture: &Fixture, choice: Choice) -> Vec<i64> {
    let (lines, result) = printed(fixture, choice).await;
    result.expect("sound");
    lines.iter().map(|line| line["offset"].as_i64().expect("a number")).collect()
}

#[tokio::test]
async fn offsets_times_and_the_limit_choose_records() {
    let fixture = three().await;
    let all = Choice::default;
    assert_eq!(offsets(&fixture, all()).await, (0..20).collect::<Vec<_>>());
    let from_to = Choice { from_offset: Some(8), to_offset: Some(12), ..all() };
    assert_eq!(offsets(&fixture, from_to).await, [8, 9, 10, 11]);
    let times = Choice { from_time: Some(Timestamp(1013)), to_time: Some(Timestamp(1016)), ..all() };
    assert_eq!(offsets(&fixture, times).await, [13, 14, 15]);
    assert_eq!(offsets(&fixture, Choice { limit: Some(3), from_offset: Some(9), ..all() }).await, [9, 10, 11]);
    assert_eq!(offsets(&fixture, Choice { limit: Some(0), ..all() }).await, [0_i64; 0]);
}

#[tokio::test]
async fn records_of_a_batch_before_the_segments_name_are_left_out() {
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 0, 3, SegmentKind::First, &[fixture.batch(0, 6)]).await;
    assert_eq!(offsets(&fixture, Choice::default()).await, [3, 4, 5]);
}

#[tokio::test]
async fn a_line_keeps_null_empty_bytes_and_duplicate_headers() {
    let fixture = Fixture::new("b").await;
    let text = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let record = Record {
        offset: 0,
        timestamp: Timestamp(7),
        key: None,
        value: Some(Bytes::from_static(&[0xff, 0])),
        headers: vec![
            (Bytes::from_static(b"h"), text("1")),
            (Bytes::from_static(b"h"), None),
            (Bytes::from_static(&[0xfe]), text("")),
        ],
    };
    let batch = records::encode(&records::template(0), &[record], Compression::Gzip).expect("it fits");
    fixture.segment("t", 0, 0, SegmentKind::First, &[batch]).await;
    let (lines, _) = printed(&fixture, Choice::default()).await;
    let expected = serde_json::json!({
        "topic": "t", "partition": 0, "offset": 0, "timestamp": 7, "key": null, "value": {"base64": "/wA="},
        "headers": [
            {"key": "h", "value": "1"},
            {"key": "h", "value": null},
            {"key": {"base64": "/g=="}, "value": ""},
        ],
    });
    assert_eq!(lines, [expected]);
}

#[tokio::test]
async fn it_prints_up_to_damage_says_where_and_reads_on_behind_it_when_told() {
    let flip = |key: &str, bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        if key.ends_with("0010.log") {
            bytes[70] ^= 1;
        }
        Some(Bytes::from(bytes))
    };
    let fixture = three().await.but(flip).await;
    let (lines, result) = printed(&fixture, Choice::default()).await;
    let error = result.expect_err("damage");
    assert_eq!((lines.len(), error.kind()), (10, Kind::Damaged));
    assert!(error.to_string().ends_with("--from-offset 15 reads on behind it"), "{error}");
    assert_eq!(offsets(&fixture, Choice { from_offset: Some(15), ..Choice::default() }).await.len(), 5);
    assert_eq!(offsets(&fixture, Choice { to_offset: Some(10), ..Choice::default() }).await.len(), 10);
}

/// An output behind which the disk is full.
struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_output_that_takes_nothing_more_is_named_and_not_the_archive() {
    let fixture = Fixture::new("b").await;
    // More than is gathered before a write.
    for partition in 0..2 {
        fixture.segment("t", partition, 0, SegmentKind::First, &[fixture.batch(0, 4000)]).await;
    }
    let timelines = source::timelines(&fixture.archive).await.expect("listed");
    let chosen = choose(timelines, &[], &Choice::default()).expect("two");
    let printer = Printer::new(Choice::default(), Output::to(Box::new(Full)));
    let error = print(&fixture.archive, &chosen, printer).await.expect_err("full");
    assert_eq!((error.kind(), &*error.to_string()), (Kind::Failed, "cannot write to stdout: no storage space"));
}

#[tokio::test]
async fn it_prints_up_to_a_hole() {
    let fixture = three().await.but(|key, bytes| (!key.contains("0010.")).then_some(bytes)).await;
    let (lines, result) = printed(&fixture, Choice::default()).await;
    assert_eq!((lines.len(), result.expect_err("a hole").kind()), (10, Kind::Hole));
    assert_eq!(offsets(&fixture, Choice { from_offset: Some(15), ..Choice::default() }).await.len(), 5);
}

#[tokio::test]
async fn an_older_timeline_is_picked_by_its_id_and_an_unknown_topic_is_told_what_there_is() {
    let fixture = Fixture::new("b").await;
    let (old, new) = ("BBBBBBBBBBBBBBBBBBBBBQ", "4u0fkXLXQ-Or5QvZq9JvUA");
    fixture.segment_of("t", old, 0, 0, SegmentKind::First, &[fixture.batch(0, 5)]).await;
    fixture.segment_of("t", new, 0, 0, SegmentKind::First, &[fixture.batch(0, 5)]).await;
    let timelines = async || source::timelines(&fixture.archive).await.expect("listed");
    let ids = |chosen: Vec<(Partition, Branch)>| chosen.iter().map(|(p, _)| p.topic_id.to_string()).collect::<Vec<_>>();
    let all = Choice::default();
    assert_eq!(ids(choose(timelines().await, &["t".into()], &all).expect("held")), [new]);
    assert_eq!(ids(choose(timelines().await, &[format!("t@{old}")], &all).expect("held")), [old]);
    let error = choose(timelines().await, &["x".into()], &all).expect_err("unknown");
    assert_eq!((error.kind(), error.to_string().contains(&format!("t@{new}"))), (Kind::Usage, true));
    assert!(choose(timelines().await, &[], &Choice { partition: vec![4], ..Choice::default() }).is_err());
}

#[tokio::test]
async fn of_many_topics_the_first_ten_are_named() {
    let fixture = Fixture::new("b").await;
    for n in 10..22 {
        fixture.topic(&format!("t{n}"), "_", 1).await;
    }
    let timelines = source::timelines(&fixture.archive).await.expect("listed");
    let error = choose(timelines, &["x".into()], &Choice::default()).expect_err("unknown").to_string();
    assert!(error.ends_with("t18@_, t19@_ and 2 more"), "{error}");
}

#[test]
fn an_end_before_its_beginning_is_refused() {
    let offsets = Choice { from_offset: Some(10), to_offset: Some(5), ..Choice::default() };
    let error = offsets.check().expect_err("backwards");
    assert_eq!((error.kind(), error.to_string()), (Kind::Usage, "--from-offset 10 is after --to-offset 5".into()));
    let times = Choice { from_time: Some(Timestamp(2)), to_time: Some(Timestamp(1)), ..Choice::default() };
    assert_eq!(times.check().expect_err("backwards").kind(), Kind::Usage);
    Choice { from_offset: Some(5), to_offset: Some(5), ..Choice::default() }.check().expect("nothing is a range too");
}

/// Partition 0 of topic `t` as [0, 20), with times like its offsets, and two forks: from 12 on, and from 7 on.
async fn forked() -> Fixture {
    let fixture = three().await;
    let later = |first, count| fixture.batch_of(&Header { leader_epoch: 7, ..records::template(first) }, count);
    fixture.fork_segment(Fork { epoch: 7, end: 12 }, &[later(12, 3)]).await;
    // Its first batch begins before the cut.
    fixture.fork_segment(Fork { epoch: 9, end: 7 }, &[later(6, 5)]).await;
    fixture
}

#[tokio::test]
async fn it_reads_the_newest_fork_with_what_it_shares_and_another_when_told() {
    let fixture = forked().await;
    let read = async |fork: &str| {
        let fork = if fork.is_empty() { Vec::new() } else { vec![chain_name(fork).expect("a name")] };
        offsets(&fixture, Choice { fork, ..Choice::default() }).await
    };
    assert_eq!(read("").await, (0..11).collect::<Vec<_>>());
    assert_eq!(read("0@9-7").await, (0..11).collect::<Vec<_>>());
    assert_eq!(read("0@7-12").await, (0..15).collect::<Vec<_>>());
    assert_eq!(read("0").await, (0..20).collect::<Vec<_>>());
    let some = Choice { from_offset: Some(5), to_offset: Some(9), ..Choice::default() };
    assert_eq!(offsets(&fixture, some).await, [5, 6, 7, 8]);
}

#[tokio::test]
async fn a_fork_that_is_not_there_is_told_which_are() {
    let fixture = forked().await;
    let timelines = source::timelines(&fixture.archive).await.expect("listed");
    let choice = Choice { fork: vec![chain_name("0@8-12").expect("a name")], ..Choice::default() };
    let error = choose(timelines, &[], &choice).expect_err("unknown");
    assert_eq!((error.kind(), error.to_string().ends_with("there is: 0@7-12, 0@9-7")), (Kind::Usage, true), "{error}");
    assert!(chain_name("0@8").is_err());
}

#[tokio::test]
async fn a_fork_is_not_printed_behind_what_its_parent_has_lost() {
    let holed = forked().await.but(|key, bytes| (!key.contains("/0/0000000000000000000")).then_some(bytes)).await;
    let (lines, result) = printed(&holed, Choice::default()).await;
    assert_eq!((lines.len(), result.expect_err("a hole").kind()), (0, Kind::Hole));
    assert_eq!(offsets(&holed, Choice { from_offset: Some(7), ..Choice::default() }).await, [7, 8, 9, 10]);
}

#[tokio::test]
async fn dead_letters_are_printed_as_they_came_where_a_segment_leaves_them_out() {
    let fixture = Fixture::new("b").await;
    let letter = fixture.dead_letter(&fixture.batch(10, 5)).await;
    let _left_by_a_crash = fixture.dead_letter(&fixture.batch(10, 4)).await;
    fixture.staged_segment(0, &[fixture.batch(0, 10)], &[]).await;
    let kept = LeftOut { range: OffsetRange { first: 10, next: 15 }, records: 5, stage: 0, dead_letter: Some(letter) };
    fixture.staged_segment(10, &[crate::batch::gap(kept.range, 0)], &[kept]).await;
    let choice = || Choice { dead_letters: true, ..Choice::default() };
    assert_eq!(offsets(&fixture, choice()).await, [10, 11, 12, 13, 14]);
    assert_eq!(offsets(&fixture, Choice { to_offset: Some(12), ..choice() }).await, [10, 11]);
    assert_eq!(offsets(&fixture, Choice::default()).await, (0..10).collect::<Vec<_>>());
    let lost = LeftOut { range: OffsetRange { first: 15, next: 16 }, ..kept };
    // Of the same name, but for another offset.

    fixture.staged_segment(15, &[crate::batch::gap(lost.range, 0)], &[lost]).await;
    let (lines, result) = printed(&fixture, choice()).await;
    assert_eq!((lines.len(), result.expect_err("it is missing").kind()), (5, Kind::Damaged));
}

#[tokio::test]
async fn a_dead_letter_that_no_segment_names_is_printed_where_its_records_are_nowhere_else() {
    let fixture = Fixture::new("b").await;
    let _left_by_a_crash = fixture.dead_letter(&fixture.batch(0, 10)).await;
    let batch = fixture.batch(10, 5);
    let _unnamed = fixture.dead_letter(&batch).await;
    fixture.staged_segment(0, &[fixture.batch(0, 10), emptied(&batch)], &[]).await;
    let choice = || Choice { dead_letters: true, ..Choice::default() };
    assert_eq!(offsets(&fixture, choice()).await, [10, 11, 12, 13, 14]);
    assert_eq!(offsets(&fixture, Choice { to_offset: Some(10), ..choice() }).await, Vec::<Offset>::new());
}
