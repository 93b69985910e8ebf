//! What is durable of batches that stages failed at, and in which order.

use super::super::tests::{answer, archive, batch, batches, closed, opened, options, partition};
use super::super::{Options, Sink};
use crate::archive::source::chunks::Segment;
use crate::archive::source::{self, chain::Chain, chain::Link, chain::What};
use crate::archive::{Archive, layout};
use crate::pipeline::{Answer, Sink as _};
use crate::plugin::Limits;
use crate::record::{DeadLetter, LeftOut, Offset, OffsetRange};
use crate::stages::{OnError, Stage, Stages};
use crate::verify::{self, Mode};

/// A plugin that fails at the record of this offset.
fn failing(offset: Offset, on_error: OnError) -> Stages {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/faults/faults.wasm");
    let settings = [("fault", "fail"), ("routes", "false"), ("offset", &offset.to_string())];
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let stage = Stage { plugin: file.to_owned(), settings, limits: Limits::default(), on_error };
    Stages::start("p", &[stage], 1).expect("opened")
}

/// Archives offsets `[first, next)` in one go, from wherever the sink asks for.
async fn archived(archive: &Archive, stages: Stages, first: Offset, next: Offset) {
    let mut sink = Sink::new(archive.clone(), options()).through(Some(stages));
    let mut tip = opened(&mut sink).await;
    loop {
        sink.put(batch(tip.generation, tip.next.unwrap_or(first), next));
        sink.close(&partition(), tip.generation);
        tip = loop {
            match answer(&mut sink).await {
                Answer::Restart { tip, .. } => break tip,
                Answer::Closed { .. } => return,
                Answer::Durable { .. } | Answer::Suspended { .. } | Answer::Trouble { .. } => {}
                other => panic!("{other:?}"),
            }
        };
    }
}

/// What is there when a writer whose policy is to skip was killed before its first commit.
async fn skipped_and_killed(path: &str, first: Offset, next: Offset) -> Archive {
    let archive = archive(path).await;
    archived(&archive, failing(4, OnError::Skip), first, next).await;
    let log = format!("{}{}", layout::partition_folder(&partition()), layout::log(first));
    archive.store().delete(&log).await.expect("deleted");
    archive
}

async fn segments(archive: &Archive) -> Vec<Segment> {
    let place = source::timelines(archive).await.expect("listed").remove(0).places.remove(0);
    let mut chain = Chain::open(archive, &place).await.expect("opened");
    let mut segments = Vec::new();
    while let Some(link) = chain.next().await.expect("read") {
        match link {
            Link::Segment(segment) => segments.push(*segment),
            Link::Finding(finding) => panic!("{finding}"),
        }
    }
    segments
}

#[tokio::test]
async fn what_precedes_a_failing_batch_is_durable_and_nothing_behind_it() {
    let archive = archive("memory://staged-fail").await;
    let once = Options { give_up_after: Some(std::time::Duration::ZERO), ..options() };
    let mut sink = Sink::new(archive.clone(), once).through(Some(failing(4, OnError::Fail)));
    let tip = opened(&mut sink).await;
    sink.put(batch(tip.generation, 0, 7));
    assert!(matches!(sink.answer().await, Answer::Durable { next: 4, .. }));
    match sink.answer().await {
        Answer::Failed { partition: Some(failed), error } => {
            assert_eq!(failed, partition());
            assert!(error.to_string().contains("failed at orders-0 offset 4: a failure on purpose"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let segments = segments(&archive).await;
    assert_eq!(segments.iter().map(|segment| segment.sidecar.range.next).collect::<Vec<_>>(), [4]);
    assert_eq!(segments[0].sidecar.stages.len(), 1);
    assert!(segments[0].sidecar.stages[0].starts_with("faults "), "{:?}", segments[0].sidecar.stages);
}

#[tokio::test]
async fn a_dead_letter_is_there_with_the_segment_that_leaves_it_out_and_is_missed_without() {
    let archive = archive("memory://staged-dead").await;
    let one = batches(0, 1).len() as u64;
    let options = Options { roll_bytes: 3 * one, ..options() };
    let mut sink = Sink::new(archive.clone(), options).through(Some(failing(4, OnError::DeadLetter)));
    let tip = opened(&mut sink).await;
    sink.put(batch(tip.generation, 0, 7));
    let _ = closed(&mut sink, tip).await;

    let segments = segments(&archive).await;
    let left_out: Vec<_> = segments.iter().map(|segment| segment.sidecar.left_out.clone()).collect();
    let range = OffsetRange { first: 4, next: 5 };
    let batch = batches(4, 5);
    let digest = xxhash_rust::xxh3::xxh3_128(&batch);
    let letter = DeadLetter { length_bytes: batch.len() as u64, digest };
    let kept = LeftOut { range, records: 1, stage: 0, dead_letter: Some(letter) };
    assert_eq!(left_out.concat(), [kept], "told once, by the segment that covers it");
    assert_eq!(segments.iter().map(|segment| segment.sidecar.records).sum::<u64>(), 6);
    let key = layout::dead_letter(&partition(), 4, batch.len() as u64, digest);
    assert_eq!(archive.store().read(&key).await.expect("read").expect("there"), batch);

    for mode in [Mode::Plain, Mode::Deep] {
        let report = verify::check(&archive, mode).await.expect("looked at");
        report.verdict().expect("sound");
        let told: String = report.findings().map(|found| format!("{found}\n")).collect();
        assert!(told.contains("left out 1 record: kept as they came, as dead letters"), "{told}");
        assert!(!told.contains("unknown object"), "{told}");
    }
    archive.store().delete(&key).await.expect("deleted");
    let report = verify::check(&archive, Mode::Plain).await.expect("looked at");
    assert_eq!(report.verdict().expect_err("a loss").exit_code(), 4);
}

#[tokio::test]
async fn what_is_skipped_is_told_by_its_segment() {
    let archive = archive("memory://staged-skip").await;
    let mut sink = Sink::new(archive.clone(), options()).through(Some(failing(4, OnError::Skip)));
    let tip = opened(&mut sink).await;
    sink.put(batch(tip.generation, 0, 7));
    assert_eq!(closed(&mut sink, tip).await, [7]);
    let segments = segments(&archive).await;
    assert_eq!((segments[0].sidecar.records, segments[0].sidecar.left_out.len()), (6, 1));
    assert_eq!(segments[0].sidecar.left_out[0].dead_letter, None);
}

#[tokio::test]
async fn a_sidecar_that_was_written_under_another_policy_is_not_taken_for_one_that_tells_of_dead_letters() {
    let archive = skipped_and_killed("memory://staged-changed", 0, 7).await;
    archived(&archive, failing(4, OnError::DeadLetter), 0, 7).await;
    let segments = segments(&archive).await;
    assert_eq!(segments.iter().map(|segment| segment.sidecar.records).sum::<u64>(), 6);
    let left_out: Vec<_> = segments.iter().flat_map(|segment| segment.sidecar.left_out.clone()).collect();
    assert_eq!(left_out.len(), 1);
    assert!(left_out[0].dead_letter.is_some(), "it says that it was skipped: {left_out:?}");
    let report = verify::check(&archive, Mode::Deep).await.expect("looked at");
    report.verdict().expect("sound");
    assert!(!report.findings().any(|found| found.finding.what == What::UnnamedLetter), "{report:?}");
}

#[tokio::test]
async fn a_lone_batch_is_archived_though_its_sidecar_is_of_another_policy_and_its_letter_is_told() {
    let archive = skipped_and_killed("memory://staged-lone", 4, 5).await;
    archived(&archive, failing(4, OnError::DeadLetter), 4, 5).await;
    let segments = segments(&archive).await;
    assert_eq!(segments.iter().map(|segment| segment.sidecar.range.next).collect::<Vec<_>>(), [5]);
    let report = verify::check(&archive, Mode::Deep).await.expect("looked at");
    report.verdict().expect("sound");
    let told = report.findings().find(|found| found.finding.what == What::UnnamedLetter).expect("it is told");
    assert!(told.finding.detail.contains("its 1 record is nowhere else; keep it"), "{told}");
}
