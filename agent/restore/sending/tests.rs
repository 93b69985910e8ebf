use std::collections::BTreeMap;

use super::*;
use crate::batch::outgoing::Identity;
use crate::batch::records::{self, Record, template};
use crate::batch::{Compression, HEADER_BYTES};
use crate::kafka::{Client, Properties};
use crate::record::{Timestamp, TopicId};

fn partition(topic: &str) -> Partition {
    Partition { topic: topic.into(), topic_id: TopicId::NONE, index: 0 }
}

fn range(first: Offset, next: Offset) -> OffsetRange {
    OffsetRange { first, next }
}

fn lane(next: Offset, merge_below: usize) -> Lane {
    Lane {
        pair: Pair { source: partition("orders"), target: partition("orders-restored") },
        window: Window { offsets: range(0, next), from: None, until: None },
        limits: Limits { most_bytes: 1 << 20, merge_below, merge_to: 1 << 18 },
        is_paced: false,
    }
}

/// A batch of these offsets.
fn batch_of(first: Offset, count: i64) -> Bytes {
    let record = |offset| Record {
        offset,
        timestamp: Timestamp(1000),
        key: None,
        value: Some(Bytes::from(format!("value {offset}"))),
        headers: Vec::new(),
    };
    let records: Vec<_> = (first..first + count).map(record).collect();
    records::encode(&template(first), &records, Compression::None).expect("they fit")
}

fn job(range: OffsetRange, batches: &[Bytes]) -> Job {
    let payload = Payload::Encoded { bytes: batches.concat().into(), aborted: Vec::new() };
    Job::Fit(Batch::new(partition("orders"), 1, range, payload, Permit::default()))
}

/// Returns the source offsets of what was fitted, batch by batch, and what is covered then.
fn fitted(made: Made) -> (Vec<Vec<Offset>>, Option<Offset>) {
    let batches = made.outcome.expect("sound batches");
    (batches.iter().map(|fitted| fitted.sources.offsets().collect()).collect(), made.next)
}

#[test]
fn what_lies_outside_of_a_run_is_not_sent() {
    let lane = lane(100, 0);
    let refit = Refit::new(lane.limits);
    // The cut of a fork goes through the second batch, and the chain goes on inside of the third.
    let (made, refit) = fit(refit, &lane, job(range(0, 3), &[batch_of(0, 2), batch_of(2, 3)]));
    assert_eq!(fitted(made), (vec![vec![0, 1], vec![2]], Some(3)));
    let (made, refit) = fit(refit, &lane, job(range(3, 6), &[batch_of(2, 2), batch_of(4, 2)]));
    assert_eq!(fitted(made), (vec![vec![3], vec![4, 5]], Some(6)));
    let gap = Payload::Gap { reason: "nothing lies there".to_owned() };
    let gap = Job::Fit(Batch::new(partition("orders"), 1, range(6, 100), gap, Permit::default()));
    assert_eq!(fitted(fit(refit, &lane, gap).0), (vec![], Some(100)));
}

#[test]
fn what_waits_to_be_merged_is_not_covered_and_what_was_sent_before_it_is() {
    let mut lane = lane(100, 1 << 14);
    lane.limits.merge_to = HEADER_BYTES + 60;
    let refit = Refit::new(lane.limits);
    let (made, refit) = fit(refit, &lane, job(range(0, 2), &[batch_of(0, 2)]));
    assert_eq!(fitted(made), (vec![], None));
    // No more than these two fit together.
    let (made, refit) = fit(refit, &lane, job(range(2, 9), &[batch_of(2, 2), batch_of(5, 2)]));
    assert_eq!(fitted(made), (vec![vec![0, 1, 2, 3]], Some(4)));
    let (made, refit) = fit(refit, &lane, Job::Close(9));
    assert_eq!(fitted(made), (vec![vec![5, 6]], Some(9)));
    // At a limited rate nothing waits.
    lane.is_paced = true;
    assert_eq!(fitted(fit(refit, &lane, job(range(9, 11), &[batch_of(9, 2)])).0), (vec![vec![9, 10]], Some(11)));
}

/// A sink of one partition whose target ends at 10; nobody hears what it sends.
async fn sink(next: Offset) -> Sending {
    let map: BTreeMap<String, String> = [("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())].into();
    let client = Client::new(Properties::new(map).expect("good properties"));
    let identity = Identity { producer_id: 1, epoch: 0 };
    let producer = Producer::start(&client, identity, produce::Settings::default());
    let ends = [(partition("orders-restored"), 10)].into();
    let mut sink = Sending::new(producer, vec![lane(next, 0)], ends).expect("one lane");
    sink.open(&partition("orders"));
    assert!(matches!(sink.answers.pop_front(), Some(Answer::Restart { tip: Tip { next: Some(0), .. }, .. })));
    sink
}

/// Puts a batch and lets it land at `first`.
fn land(sink: &mut Sending, first_source: Offset, count: u32, first: Offset) {
    let open = sink.open.get_mut(&partition("orders")).expect("open");
    let next = first_source + Offset::from(count);
    open.reached = next;
    open.chunks.push_back(Sent { left: 1, next: Some(next), records: 1, bytes: 1, since: Instant::now() });
    let sources = Sources::dense(first_source, count);
    let token = Token { source: partition("orders"), sources, bytes: 1, _paid: Arc::default() };
    sink.on_landed(&partition("orders-restored"), first, count, token);
}

#[tokio::test]
async fn a_record_of_somebody_else_is_noticed_by_its_offset() {
    let mut sink = sink(100).await;
    land(&mut sink, 0, 5, 10);
    assert!(matches!(sink.answers.pop_front(), Some(Answer::Durable { next: 5, .. })));
    land(&mut sink, 5, 5, 16);
    let Some(Answer::Failed { partition: Some(of), error }) = sink.answers.pop_front() else { panic!("it fails") };
    assert_eq!(of, partition("orders"));
    let text = error.to_string();
    assert!(text.contains("somebody else writes to orders-restored-0") && text.contains("offset 15"), "{text}");
    // What lands later is nobody's business any more.
    land_late(&mut sink);
    assert!(sink.answers.is_empty() && !sink.finish().0.is_finished());
}

fn land_late(sink: &mut Sending) {
    let token = Token { source: partition("orders"), sources: Sources::dense(10, 1), bytes: 1, _paid: Arc::default() };
    sink.on_landed(&partition("orders-restored"), 21, 1, token);
}

#[tokio::test]
async fn a_partition_is_restored_when_its_end_was_reached_and_not_when_it_was_closed_before() {
    for (next, is_finished) in [(5, true), (6, false)] {
        let mut sink = sink(next).await;
        land(&mut sink, 0, 5, 10);
        sink.open.get_mut(&partition("orders")).expect("open").is_closing = true;
        sink.advance(&partition("orders"));
        assert!(matches!(sink.answers.pop_back(), Some(Answer::Closed { .. })));
        let (map, records, _) = sink.finish();
        assert_eq!((map.is_finished(), records), (is_finished, 5));
        let track = map.iter().next().expect("one").1;
        assert_eq!((track.covered(), track.end()), (5, is_finished.then_some(15)));
    }
}
