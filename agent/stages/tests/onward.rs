//! What a restore sends of what goes through its stages, and where.

use std::sync::Arc;

use super::super::onward::{Onward, Piece, Targets, What};
use super::*;
use crate::batch::outgoing::Window;

fn target(topic: &str, index: i32) -> Partition {
    Partition { topic: topic.into(), topic_id: TopicId::NONE, index }
}

/// Everything of `orders-3` to `kept-3`, where it is not sent to partitions of `eu` or `us`.
fn onward() -> Onward {
    let all = [target("kept", 3), target("eu", 3), target("us", 3), target("kept", 0)];
    Onward { window: Window::EVERYTHING, targets: Arc::new(Targets::new(3, &all)) }
}

async fn sent_within(stages: &[Stage], bytes: Bytes, onward: Onward) -> Passed {
    let stages = Stages::of_restore("p", stages, &Spread::default()).expect("they are opened");
    stages.pass_on(&partition(), bytes, onward).await.expect("they live")
}

async fn sent(stages: &[Stage], bytes: Bytes) -> Passed {
    sent_within(stages, bytes, onward()).await
}

/// The target of a piece, and the source offsets of its records.
fn told(piece: &Piece) -> (usize, Vec<Offset>) {
    let records = Records::of(&piece.header, &piece.bytes).expect("sound").map(|record| record.expect("sound").offset);
    let offsets = match &piece.what {
        What::Made(sources) => {
            assert!(
                crate::batch::crc_matches(&piece.bytes) && piece.header.is_dense() && piece.header.base_offset == 0
            );
            sources.offsets().collect()
        }
        What::Cut | What::Whole => records.collect(),
    };
    (piece.target, offsets)
}

fn all_told(passed: &Passed) -> Vec<(usize, Vec<Offset>)> {
    assert!(passed.failure.is_none() && passed.bytes.is_empty(), "{:?}", passed.failure);
    passed.pieces.iter().map(told).collect()
}

fn fanout(settings: &[(&str, &str)]) -> Stage {
    stage("restore-fanout", settings, OnError::Fail)
}

#[tokio::test]
async fn what_stages_leave_alone_goes_on_as_it_was_archived() {
    let bytes = three();
    let wide = stage("pitr-filter", &[("until", "1000000")], OnError::Fail);
    let made = sent(&[stage("faults", &[], OnError::Fail), wide], bytes.clone()).await;
    assert_eq!(all_told(&made).len(), 3);
    let mut at = bytes.as_ptr();
    for piece in &made.pieces {
        assert_eq!((piece.target, &piece.what, piece.bytes.as_ptr()), (0, &What::Whole, at));
        at = piece.bytes.as_ptr_range().end;
    }
}

#[tokio::test]
async fn whole_batches_that_are_sent_elsewhere_keep_their_bytes_there_too() {
    let bytes = three();
    let copied = sent(&[fanout(&[("by", "topic"), ("to.orders", "eu")])], bytes.clone()).await;
    let targets: Vec<_> = copied.pieces.iter().map(|piece| (piece.target, piece.what == What::Whole)).collect();
    assert_eq!(targets, [0, 1].repeat(3).into_iter().map(|target| (target, true)).collect::<Vec<_>>());
    assert_eq!(copied.pieces[0].bytes.as_ptr(), copied.pieces[1].bytes.as_ptr());
    let moved = sent(&[fanout(&[("by", "topic"), ("to.orders", "us"), ("mode", "move")])], bytes).await;
    assert!(moved.pieces.iter().all(|piece| piece.target == 2 && piece.what == What::Whole) && moved.pieces.len() == 3);
}

#[tokio::test]
async fn records_go_where_they_are_sent_in_order_with_the_offsets_that_they_had() {
    let by_key = [("by", "key"), ("mode", "move"), ("to.k1", "eu"), ("to.k4", "eu"), ("to.k7", "us")];
    let made = sent(&[fanout(&by_key)], batch(&template(0), 10)).await;
    let wanted = [(0, vec![0, 2, 3, 5, 6, 8, 9]), (1, vec![1, 4]), (2, vec![7])];
    assert_eq!(all_told(&made), wanted);
    assert_eq!(made.made_bytes, made.pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>());
}

#[tokio::test]
async fn copies_of_a_record_in_one_partition_stand_side_by_side() {
    let twice = [("by", "key"), ("to.k1", "kept"), ("to.k2", "kept")];
    let made = sent(&[fanout(&twice)], batch(&template(0), 4)).await;
    assert_eq!(all_told(&made), [(0, vec![0, 1, 1, 2, 2, 3])]);
    let values: Vec<_> = Records::of(&made.pieces[0].header, &made.pieces[0].bytes).expect("sound").collect();
    assert_eq!(values[1].as_ref().expect("sound").value, values[2].as_ref().expect("sound").value);
}

#[tokio::test]
async fn a_chosen_partition_is_one_of_the_topic_that_the_record_goes_to() {
    let chosen = |partition| stage("faults", &[("partition", partition)], OnError::Fail);
    let made = sent(&[chosen("0")], batch(&template(0), 2)).await;
    assert_eq!((made.pieces[0].target, &made.pieces[0].what), (3, &What::Whole));
    let both = [fanout(&[("by", "topic"), ("to.orders", "eu"), ("mode", "move")]), chosen("7")];
    let said = sent(&both, batch(&template(0), 2)).await.failure.expect("nowhere").to_string();
    let wanted = "plugin `faults` (stage 2 of pipeline `p`, faults.wasm) failed at orders-3 offsets [0, 2): it sends the \
                  record of offset 0 to `eu-7`, a partition that the target does not have";
    assert_eq!(said, wanted);
    let skipping = Stage { on_error: OnError::Skip, ..chosen("7") };
    let skipped = sent(&[skipping], batch(&template(0), 2)).await;
    assert_eq!((all_told(&skipped).len(), skipped.left_out[0].records), (0, 2));
}

#[tokio::test]
async fn no_stage_sees_what_is_cut_away() {
    // A stage that fails at every record that must not come to it.
    let range = OffsetRange { first: 5, next: 24 };
    for offset in ["4", "24", "9", "21"] {
        let window = Window { offsets: range, from: Some(Timestamp(10_000)), until: Some(Timestamp(21_000)) };
        let within = Onward { window, ..onward() };
        let failing = stage("faults", &[("fault", "panic"), ("offset", offset)], OnError::Fail);
        let made = sent_within(&[failing, stage("header-injector", &[], OnError::Fail)], three(), within).await;
        let offsets: Vec<_> = all_told(&made).into_iter().filter(|(_, offsets)| offsets.len() < 10).collect();
        assert_eq!(offsets, [(0, vec![20])], "of the last batch; the first one is not decoded");
        assert_eq!(made.pieces[0].what, What::Cut);
        assert!(matches!(&made.pieces[1].what, What::Made(sources) if sources.offsets().eq(10..20)));
    }
}

#[tokio::test]
async fn a_batch_that_is_cut_and_not_changed_is_cut_where_it_is_sent() {
    let window = Window { offsets: OffsetRange { first: 5, next: 15 }, ..Window::EVERYTHING };
    let made = sent_within(&[stage("faults", &[], OnError::Fail)], three(), Onward { window, ..onward() }).await;
    assert!(made.failure.is_none() && made.pieces.iter().all(|piece| piece.what == What::Cut));
    assert_eq!(made.pieces.len(), 3, "what is outside is for whoever sends to prove");
}

#[tokio::test]
async fn records_whose_time_the_broker_set_come_with_that_time_as_their_own() {
    let stamped = Header { attributes: 0x08, max_timestamp: Timestamp(77_000), ..template(0) };
    let made = sent(&[stage("header-injector", &[], OnError::Fail)], batch(&stamped, 3)).await;
    let piece = &made.pieces[0];
    assert!(!piece.header.is_log_append_time());
    let records = Records::of(&piece.header, &piece.bytes).expect("sound");
    let times: Vec<_> = records.map(|record| record.expect("sound").timestamp.0).collect();
    assert_eq!(times, vec![times[0]; 3]);
}

#[tokio::test]
async fn damage_of_the_archive_is_no_stages_to_decide_on() {
    let mut damaged = three().to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    for plugin in ["header-injector", "faults"] {
        let made = sent(&[stage(plugin, &[], OnError::Skip)], damaged.clone().into()).await;
        let error = made.failure.expect("it is damaged");
        assert_eq!((error.kind(), made.left_out.len(), made.next), (Kind::Damaged, 0, Some(20)), "{error}");
    }
}

#[tokio::test]
async fn what_a_stage_of_a_restore_fails_at_is_skipped_and_told() {
    let failing = stage("faults", &[("fault", "panic"), ("offset", "12")], OnError::Skip);
    let made = sent(&[failing], three()).await;
    assert_eq!(all_told(&made)[1], (0, (10..20).filter(|offset| *offset != 12).collect()));
    let range = OffsetRange { first: 10, next: 20 };
    assert_eq!(made.left_out, [LeftOut { range, records: 1, stage: 0, dead_letter: None }]);
}

#[tokio::test]
async fn of_a_batch_that_is_cut_only_what_was_meant_is_told_as_left_out() {
    let range = OffsetRange { first: 13, next: 18 };
    let window = Window { offsets: range, ..Window::EVERYTHING };
    let failing = stage("faults", &[("fault", "panic"), ("offset", "15")], OnError::DeadLetter);
    let made = sent_within(&[failing], three(), Onward { window, ..onward() }).await;
    let told: Vec<_> = made.left_out.iter().map(|left_out| (left_out.range, left_out.records)).collect();
    assert_eq!(told, [(OffsetRange { first: 10, next: 20 }, 5)]);
}

#[tokio::test]
async fn what_a_failure_ended_the_pass_before_comes_again() {
    let failing = stage("faults", &[("fault", "fail-retriable"), ("offset", "12")], OnError::Skip);
    let (bytes, first) = (three(), batch(&template(0), 10));
    let made = sent(&[failing], bytes.clone()).await;
    assert!(made.failure.is_some_and(|error| error.retryable()));
    assert_eq!((made.pieces.len(), made.next, made.rest), (1, Some(10), bytes.slice(first.len()..)));
}

#[test]
fn topics_that_are_not_named_beforehand_are_refused() {
    let error = Stages::of_restore("p", &[stage("faults", &[("targets", "false")], OnError::Fail)], &Spread::default())
        .expect_err("refused");
    let wanted = "stage 1 of pipeline `p`: plugin `faults` does not say which topics it sends records to; topics that are \
                  not known beforehand need transactions, which a restore does not have yet: have it name its `targets`";
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Usage, wanted));
}

#[test]
fn windows_of_stages_are_left_out_before_them_as_far_as_no_one_notices() {
    let keeps =
        |stages: &[Stage]| Stages::of_restore("p", stages, &Spread::default()).expect("they are opened").keeps();
    let window = |from, until| stage("pitr-filter", &[("from", from), ("until", until)], OnError::Fail);
    let (early, late) = (window("10", "500"), window("100", "900"));
    let time = |ms| Some(Timestamp(ms));
    let injector = stage("header-injector", &[], OnError::Fail);
    assert_eq!(keeps(&[early.clone(), injector, late.clone()]), (time(100), time(500)));
    let remembering = stage("faults", &[("pure", "false")], OnError::Fail);
    assert_eq!(keeps(&[early, remembering, late]), (time(10), time(500)), "it would remember other records");
    let stages = Stages::of_restore("p", &[window("10", "500"), window("100", "400")], &Spread::default())
        .expect("they are opened");
    let keeps = |changes_times: [bool; 2], is_pure: [bool; 2]| {
        let declared = stages.declared.iter().zip(changes_times.into_iter().zip(is_pure));
        let declared =
            declared.map(|(said, (changes_times, is_pure))| Declared { changes_times, is_pure, ..said.clone() });
        Stages { declared: declared.collect(), ..stages.clone() }.keeps()
    };
    assert_eq!(keeps([false; 2], [true; 2]), (time(100), time(400)));
    assert_eq!(keeps([true, false], [true; 2]), (time(10), time(500)), "it is given the source's times itself");
    assert_eq!(keeps([false; 2], [true, false]), (time(10), time(500)), "it is sent all that comes to it");
    assert_eq!(keeps([true, false], [false, true]), (None, None));
}
