mod killed;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::fitting::{Fits, Taken, Work};
use super::*;
use crate::batch::outgoing::{Identity, Limits, Window};
use crate::batch::records::{self, Record, template};
use crate::batch::{Compression, HEADER_BYTES, Header};
use crate::kafka::{Client, Properties};
use crate::record::{OffsetRange, Timestamp, TopicId};
use crate::restore::map::{Exact, Pair};
use crate::stages::onward::{Piece, What};

fn partition(topic: &str) -> Partition {
    Partition { topic: topic.into(), topic_id: TopicId::NONE, index: 0 }
}

fn range(first: Offset, next: Offset) -> OffsetRange {
    OffsetRange { first, next }
}

fn lane(next: Offset, merge_below: usize) -> Lane {
    Lane {
        source: partition("orders"),
        targets: vec![Target {
            pair: Pair { source: partition("orders"), target: partition("orders-restored") },
            limits: Limits { most_bytes: 1 << 20, merge_below, merge_to: 1 << 18 },
            from: 0,
            bytes: 0,
            found: Vec::new(),
        }],
        window: Window { offsets: range(0, next), from: None, until: None },
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

fn run(range: OffsetRange, batches: &[Bytes]) -> Work {
    Work::Archived(range, batches.concat().into())
}

/// Returns the source offsets of what is fitted, batch by batch, and what is covered then.
fn fitted(fits: &mut Fits, lane: &Lane, work: Work, next: Offset) -> (Vec<Vec<Offset>>, Option<Offset>) {
    let Taken { send, covered: next, .. } = fits.take(lane, work, next).expect("sound batches");
    (send.iter().map(|(_, fitted)| fitted.sources.offsets().collect()).collect(), next)
}

#[test]
fn what_lies_outside_of_a_run_is_not_sent() {
    let (lane, mut fits) = (lane(100, 0), Fits::default());
    // The cut of a fork goes through the second batch, and the chain goes on inside of the third.
    let made = fitted(&mut fits, &lane, run(range(0, 3), &[batch_of(0, 2), batch_of(2, 3)]), 3);
    assert_eq!(made, (vec![vec![0, 1], vec![2]], Some(3)));
    let made = fitted(&mut fits, &lane, run(range(3, 6), &[batch_of(2, 2), batch_of(4, 2)]), 6);
    assert_eq!(made, (vec![vec![3], vec![4, 5]], Some(6)));
    assert_eq!(fitted(&mut fits, &lane, Work::Nothing, 100), (vec![], Some(100)));
}

#[test]
fn what_waits_to_be_merged_is_not_covered_and_what_was_sent_before_it_is() {
    let (mut lane, mut fits) = (lane(100, 1 << 14), Fits::default());
    lane.targets[0].limits.merge_to = HEADER_BYTES + 60;
    assert_eq!(fitted(&mut fits, &lane, run(range(0, 2), &[batch_of(0, 2)]), 2), (vec![], None));
    // No more than these two fit together.
    let made = fitted(&mut fits, &lane, run(range(2, 9), &[batch_of(2, 2), batch_of(5, 2)]), 9);
    assert_eq!(made, (vec![vec![0, 1, 2, 3]], Some(5)));
    assert_eq!(fitted(&mut fits, &lane, Work::End, 9), (vec![vec![5, 6]], Some(9)));
    // At a limited rate nothing waits.
    lane.is_paced = true;
    let made = fitted(&mut fits, &lane, run(range(9, 11), &[batch_of(9, 2)]), 11);
    assert_eq!(made, (vec![vec![9, 10]], Some(11)));
}

/// A lane whose records can go to `eu` too.
pub(super) fn forked(next: Offset, merge_below: usize) -> Lane {
    let mut lane = lane(next, merge_below);
    let pair = Pair { source: lane.source.clone(), target: partition("eu") };
    lane.targets.push(Target { pair, ..lane.targets[0].clone() });
    lane
}

/// What stages made of a batch for a target: records of these offsets.
fn piece(target: usize, offsets: &[Offset]) -> Piece {
    let bytes = batch_of(0, offsets.len() as i64);
    let header = Header::read(&bytes).expect("our own header");
    Piece { target, header, bytes, what: What::Made(offsets.iter().copied().collect()) }
}

#[test]
fn each_target_gets_its_records_in_order_and_what_waits_for_any_of_them_is_not_covered() {
    let (lane, mut fits) = (forked(100, 1 << 14), Fits::default());
    let staged = |next, pieces| Work::Staged(range(0, next), pieces);
    let archived = |target, first, what| {
        let bytes = batch_of(first, 2);
        Piece { target, header: Header::read(&bytes).expect("our own header"), bytes, what }
    };
    let first = staged(6, vec![piece(1, &[1, 4]), piece(0, &[0, 1, 1, 5])]);
    assert_eq!(fitted(&mut fits, &lane, first, 6), (vec![], None));
    let second = staged(10, vec![archived(0, 6, What::Whole), piece(1, &[8]), archived(0, 8, What::Cut)]);
    assert_eq!(fitted(&mut fits, &lane, second, 10), (vec![], None), "all of it waits");
    let Taken { send, covered, .. } = fits.take(&lane, Work::End, 10).expect("sound batches");
    let sent: Vec<_> = send.iter().map(|(target, of)| (*target, of.sources.offsets().collect::<Vec<_>>())).collect();
    assert_eq!((sent, covered), (vec![(0, vec![0, 1, 1, 5, 6, 7, 8, 9]), (1, vec![1, 4, 8])], Some(10)));
}

#[test]
fn what_is_cut_away_of_an_archived_batch_is_cut_away_behind_the_stages_too() {
    let (lane, mut fits) = (forked(100, 0), Fits::default());
    let bytes = batch_of(0, 4);
    let header = Header::read(&bytes).expect("our own header");
    let cut = Piece { target: 1, header, bytes, what: What::Cut };
    let made = fitted(&mut fits, &lane, Work::Staged(range(1, 3), vec![cut]), 3);
    assert_eq!(made, (vec![vec![1, 2]], Some(3)));
}

#[test]
fn what_waits_for_many_targets_is_bounded() {
    let (mut lane, mut fits) = (forked(1 << 40, 1 << 20), Fits::default());
    for number in 0..200 {
        let pair = Pair { target: Partition { index: number, ..partition("us") }, ..lane.targets[0].pair.clone() };
        lane.targets.push(Target { pair, ..lane.targets[0].clone() });
    }
    let bytes = batch_of(0, 600);
    let header = Header::read(&bytes).expect("our own header");
    let all = 0..lane.targets.len();
    let pieces = all.map(|target| {
        let what = What::Made((0..600).collect());
        Piece { target, header, bytes: bytes.clone(), what }
    });
    let work = Work::Staged(range(0, 600), pieces.collect());
    let Taken { send, covered, .. } = fits.take(&lane, work, 600).expect("sound");
    assert_eq!((send.len(), covered), (202, Some(600)), "{} bytes are too many to wait", 202 * bytes.len());
}

/// A sink of one partition whose target ends at 10; nobody hears what it sends.
async fn sink(next: Offset) -> Sending {
    sink_of(vec![lane(next, 0)])
}

fn sink_of(lanes: Vec<Lane>) -> Sending {
    let map: BTreeMap<String, String> = [("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())].into();
    let client = Client::new(Properties::new(map).expect("good properties"));
    let identity = Identity { producer_id: 1, epoch: 0 };
    let producer = Producer::start(&client, identity, produce::Settings::default());
    let ends = [(partition("orders-restored"), 10), (partition("eu"), 20)].into();
    let sources: Vec<_> = lanes.iter().map(|lane| lane.source.clone()).collect();
    let begun = Begun { restore_id: "r1".to_owned(), ends, map: OffsetMap::default(), sum: Sum::default() };
    let mut sink = Sending::new(Outlet::Plain(producer), lanes, begun, None, None).expect("sound lanes");
    for source in sources {
        sink.open(&source);
        assert!(matches!(sink.answers.pop_front(), Some(Answer::Restart { tip: Tip { next: Some(0), .. }, .. })));
    }
    sink
}

/// Puts a batch and lets it land at `first`.
fn land(sink: &mut Sending, first_source: Offset, count: u32, first: Offset) {
    let open = sink.open.get_mut(&partition("orders")).expect("open");
    let next = first_source + Offset::from(count);
    open.reached = next;
    let number = open.sent;
    open.sent += 1;
    open.chunks.push_back(Sent { records: 1, bytes: 1, ..Sent::new(number, 1, next, Some(next), Vec::new()) });
    let sources = Sources::dense(first_source, count);
    sink.on_landed(&partition("orders-restored"), first, count, token(number, sources));
}

fn token(chunk: u64, sources: Sources) -> Token {
    Token { source: partition("orders"), target: 0, chunk, sources, bytes: 1, _paid: Arc::default() }
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
    assert!(sink.answers.is_empty() && !sink.finish().await.0.is_finished());
}

fn land_late(sink: &mut Sending) {
    sink.on_landed(&partition("orders-restored"), 21, 1, token(2, Sources::dense(10, 1)));
}

#[tokio::test]
async fn a_partition_is_restored_when_its_end_was_reached_and_not_when_it_was_closed_before() {
    for (next, is_finished) in [(5, true), (6, false)] {
        let mut sink = sink(next).await;
        land(&mut sink, 0, 5, 10);
        sink.open.get_mut(&partition("orders")).expect("open").is_closing = true;
        sink.advance(&partition("orders"));
        assert!(matches!(sink.answers.pop_back(), Some(Answer::Closed { .. })));
        let (map, sum, _) = sink.finish().await;
        assert_eq!((map.is_finished(), sum.records), (is_finished, 5));
        let track = map.iter().next().expect("one").1;
        assert_eq!((track.covered(), track.end()), (5, is_finished.then_some(15)));
    }
}

/// Hands over a chunk of these batches, each with its target and the offsets of its records.
fn hand_over(sink: &mut Sending, next: Offset, is_close: bool, batches: &[(usize, &[Offset])]) {
    let open = sink.open.get_mut(&partition("orders")).expect("open");
    let left = batches.len();
    let records = batches.iter().map(|(_, offsets)| offsets.len() as u64).sum();
    open.chunks.push_back(Sent { records, bytes: 1, ..Sent::new(open.sent, left, next, Some(next), Vec::new()) });
    (open.sent, open.reached) = (open.sent + 1, next);
    open.is_closing |= is_close;
}

fn landed(sink: &mut Sending, target: usize, chunk: u64, first: Offset, offsets: &[Offset]) {
    let token = Token { target, ..token(chunk, offsets.iter().copied().collect()) };
    let name = ["orders-restored", "eu"][target];
    sink.on_landed(&partition(name), first, offsets.len() as u32, token);
}

#[tokio::test]
async fn what_has_landed_in_one_target_is_durable_only_when_all_of_its_chunk_has() {
    let mut sink = sink_of(vec![forked(9, 0)]);
    let chunks: [&[(usize, &[Offset])]; 2] = [&[(0, &[0, 1, 1, 2]), (1, &[1])], &[(0, &[5, 8])]];
    hand_over(&mut sink, 4, false, chunks[0]);
    hand_over(&mut sink, 9, true, chunks[1]);
    landed(&mut sink, 0, 0, 10, &[0, 1, 1, 2]);
    landed(&mut sink, 0, 1, 14, &[5, 8]);
    assert!(sink.answers.is_empty(), "`eu` lacks a record of the first chunk");
    landed(&mut sink, 1, 0, 20, &[1]);
    let durable = |answer: Option<Answer>| match answer {
        Some(Answer::Durable { next, records, .. }) => (next, records),
        other => panic!("{other:?}"),
    };
    assert_eq!([durable(sink.answers.pop_front()), durable(sink.answers.pop_front())], [(4, 5), (9, 2)]);
    assert!(matches!(sink.answers.pop_front(), Some(Answer::Closed { .. })));
    let (map, sum, _) = sink.finish().await;
    assert!(map.is_finished());
    assert_eq!(sum.records, 7, "copies were sent too");
    let lane = forked(9, 0);
    let [own, eu] = [0, 1].map(|target| map.get(&lane.targets[target].pair).expect("it is there"));
    assert_eq!((own.records(), own.end(), eu.records(), eu.end()), (5, Some(16), 1, Some(21)));
    let places = [0, 1, 2, 3, 5, 8].map(|offset| own.exact(offset));
    use Exact::{Absent, At};
    assert_eq!(places, [At(10), At(11), At(13), Absent, At(14), At(15)], "of two copies the first");
    assert_eq!((eu.exact(1), eu.exact(2)), (At(20), Absent));
}

#[tokio::test]
async fn of_sources_that_share_a_target_one_goes_on_when_the_other_has_ended() {
    let other = |mut lane: Lane| {
        lane.source = partition("payments");
        lane.targets.iter_mut().for_each(|target| target.pair.source = partition("payments"));
        lane
    };
    let mut sink = sink_of(vec![other(forked(9, 0)), forked(9, 0)]);
    sink.fail(&partition("payments"), Error::failed("it has ended"));
    assert!(matches!(sink.answers.pop_front(), Some(Answer::Failed { .. })));
    hand_over(&mut sink, 9, true, &[(1, &[3])]);
    // What the other one had on its way lands before.
    let late = Token { source: partition("payments"), ..token(0, Sources::dense(0, 2)) };
    sink.on_landed(&partition("eu"), 20, 2, late);
    landed(&mut sink, 1, 0, 22, &[3]);
    assert!(matches!(sink.answers.pop_front(), Some(Answer::Durable { next: 9, records: 1, .. })));
}

#[tokio::test]
async fn a_process_that_was_fenced_says_so_once_closes_everything_and_is_silent() {
    let mut sink = sink(100).await;
    sink.end_all(Error::new(crate::error::Kind::Fenced, "another process has taken over"));
    let Answer::Failed { partition: None, error } = sink.answer().await else { panic!("everything has failed") };
    assert_eq!(error.kind(), crate::error::Kind::Fenced);
    assert!(matches!(sink.answer().await, Answer::Failed { partition: Some(of), .. } if of == partition("orders")));
    sink.open(&partition("orders"));
    assert!(matches!(sink.answer().await, Answer::Failed { partition: Some(_), .. }), "nothing is opened any more");
    let more = tokio::time::timeout(std::time::Duration::from_millis(20), sink.answer()).await;
    assert!(more.is_err(), "a loop that asks for answers first would hear nothing else: {more:?}");
}
