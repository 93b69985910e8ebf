use super::*;
use crate::archive::sidecar::Kind as SegmentKind;
use crate::archive::source::tests::Fixture;
use crate::archive::source::way::{Branch, along};
use crate::archive::source::{Fork, Place};
use crate::batch::Header;
use crate::batch::transactions::OpenTransactions;
use crate::record::{AbortedTransaction, Timestamp};

fn partition() -> Partition {
    Partition { topic: "t".into(), topic_id: "_".parse().expect("an id"), index: 0 }
}

fn window(first: Offset, next: Offset) -> Window {
    Window { offsets: OffsetRange { first, next }, from: None, until: None }
}

fn task(next: Offset) -> Task {
    let range = OffsetRange { first: 0, next };
    let way = vec![Part { place: Place::new(partition(), None), range }];
    Task { partition: partition(), way, window: window(0, next), torn: Vec::new(), over_breaks: false }
}

fn unlimited() -> Limits {
    let none = RateLimit::new(None);
    Limits { budget: Budget::new(64 << 20), bytes: none.clone(), records: none, piece: (usize::MAX, u64::MAX) }
}

/// What was handed on: the offsets that it covers, and the base offsets of its batches.
type Handed = ((Offset, Offset), Vec<Offset>);

/// Reads a partition to its end; returns what was handed on, and what went wrong.
async fn read(fixture: &Fixture, task: Task, limits: Limits) -> (Vec<Handed>, Option<Error>) {
    let first = task.window.offsets.first;
    let mut source = Reading::new(&fixture.archive, vec![task], limits);
    let mut handed = Vec::new();
    loop {
        match source.next().await.expect("errors are told at the end") {
            Some(Event::Assigned(partition)) => {
                source.start(&partition, Tip { next: Some(first), leader_epoch: -1, generation: 1 });
            }
            Some(Event::Batch(batch)) => {
                let (range, payload, ..) = batch.into_parts();
                let bytes = match payload {
                    Payload::Encoded { bytes, .. } => bytes,
                    Payload::Gap { .. } => Bytes::new(),
                };
                let batches = batch::walk(&bytes).map(|item| item.expect("whole").1.base_offset);
                handed.push(((range.first, range.next), batches.collect()));
            }
            Some(Event::Finished { partition, .. }) => source.closed(&partition),
            None => return (handed, source.failure()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn runs_hold_what_a_reader_sees_and_cover_all_that_is_wanted() {
    let fixture = Fixture::new("b").await;
    let batches = [
        fixture.batch(0, 5),
        fixture.batch(5, 5),
        fixture.transactional(10, 5, 7),
        fixture.batch(15, 2),
        fixture.marker(17, 7, false),
        fixture.transactional(18, 2, 8),
        fixture.marker(20, 8, true),
    ];
    let aborted = [AbortedTransaction { producer_id: 7, first: 10 }];
    let _ = fixture.segment_aborting(0, &batches, &aborted, OpenTransactions::default()).await;
    let (handed, failure) = read(&fixture, task(21), unlimited()).await;
    assert_eq!(handed, [((0, 10), vec![0, 5]), ((10, 17), vec![15]), ((17, 20), vec![18]), ((21, 21), vec![])]);
    assert!(failure.is_none());
    // Of a transaction that was in flight nothing is read.
    let torn = vec![Torn { producer_id: 8, first: 18 }];
    let (handed, _) = read(&fixture, Task { torn, ..task(20) }, unlimited()).await;
    assert_eq!(handed.last(), Some(&((20, 20), vec![])));
}

#[tokio::test]
async fn where_a_rate_is_limited_runs_are_as_small_as_batches_allow() {
    let fixture = Fixture::new("b").await;
    let batches: Vec<_> = (0..6).map(|n| fixture.batch(5 * n, 5)).collect();
    fixture.segment("t", 0, 0, SegmentKind::First, &batches).await;
    let piece = |piece| Limits { piece, ..unlimited() };
    let (handed, _) = read(&fixture, task(30), piece((1, u64::MAX))).await;
    assert_eq!(handed.len(), 7, "a run for each batch, and the end");
    let (handed, _) = read(&fixture, task(30), piece((usize::MAX, 6))).await;
    assert_eq!(handed[..2], [((0, 10), vec![0, 5]), ((10, 20), vec![10, 15])]);
}

#[tokio::test]
async fn of_a_batch_across_the_cut_of_a_fork_each_part_has_its_own() {
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 0, 0, SegmentKind::First, &[fixture.batch(0, 2), fixture.batch(2, 3)]).await;
    let fork = Fork { epoch: 1, end: 3 };
    fixture.fork_segment(fork, &[fixture.batch(2, 2), fixture.batch(4, 2)]).await;
    let way = along(&partition(), Branch::Newest, &[fork]);
    let (handed, failure) = read(&fixture, Task { way, ..task(6) }, unlimited()).await;
    assert_eq!(handed, [((0, 3), vec![0, 2]), ((3, 6), vec![2, 4]), ((6, 6), vec![])]);
    assert!(failure.is_none());
}

#[tokio::test]
async fn behind_a_gap_the_records_before_it_in_the_same_batch_are_not_meant() {
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 0, 0, SegmentKind::First, &[fixture.batch(0, 5)]).await;
    fixture.gap_of("t", "_", 0, 5..12).await;
    fixture.segment("t", 0, 12, SegmentKind::Data, &[fixture.batch(10, 5)]).await;
    let (handed, _) = read(&fixture, task(15), unlimited()).await;
    assert_eq!(handed, [((0, 5), vec![0]), ((12, 15), vec![10]), ((15, 15), vec![])]);
}

#[tokio::test]
async fn what_the_archive_lacks_ends_the_partition_unless_that_was_accepted() {
    let whole = crate::archive::source::tests::three().await;
    for (lost, missing) in [("/00000000000000000010.", "[10, 15)"), ("/00000000000000000015.", "[15, 20)")] {
        let fixture = whole.but(|key, bytes| (!key.contains(lost)).then_some(bytes)).await;
        let (handed, failure) = read(&fixture, task(20), unlimited()).await;
        let failure = failure.expect("a hole");
        assert_eq!(failure.kind(), Kind::Hole);
        assert!(failure.to_string().contains(missing), "{failure}");
        let before = if missing.starts_with("[10") { 10 } else { 15 };
        assert_eq!(handed.last().map(|((_, next), _)| *next), Some(before), "nothing says that there is nothing");
        let (handed, failure) = read(&fixture, Task { over_breaks: true, ..task(20) }, unlimited()).await;
        assert_eq!(handed.last().map(|((_, next), _)| *next), Some(20));
        assert!(failure.is_none());
    }
}

#[tokio::test]
async fn batches_above_the_memory_that_a_chunk_costs_are_paid_for_as_a_whole() {
    let fixture = Fixture::new("b").await;
    let noise: Vec<u8> = (0..6 << 20).map(|_| fastrand::u8(..)).collect();
    let record = crate::batch::records::Record {
        offset: 0,
        timestamp: Timestamp(1000),
        key: None,
        value: Some(noise.into()),
        headers: Vec::new(),
    };
    let template: Header = crate::batch::records::template(0);
    let large = crate::batch::records::encode(&template, &[record], crate::batch::Compression::None).expect("it fits");
    fixture.segment("t", 0, 0, SegmentKind::First, &[large]).await;
    let limits = unlimited();
    let mut source = Reading::new(&fixture.archive, vec![task(1)], limits.clone());
    let _assigned = source.next().await.expect("a partition");
    source.start(&partition(), Tip { next: Some(0), leader_epoch: -1, generation: 1 });
    let Some(Event::Batch(batch)) = source.next().await.expect("read") else { panic!("a batch") };
    let (.., permit, _) = batch.into_parts();
    assert!(permit.bytes() > 6 << 20 && limits.budget.used_bytes() >= permit.bytes(), "{} paid", permit.bytes());
}

#[test]
fn a_segment_is_passed_over_only_where_its_row_proves_that_nothing_is_wanted() {
    let row = |times: (Option<i64>, Option<i64>)| {
        let whole = Row {
            range: OffsetRange { first: 10, next: 20 },
            length_bytes: 100,
            digest: 0,
            sealed_at: Timestamp(0),
            kind: SegmentKind::Data,
            has_aborted: false,
            has_undecided: false,
            leader_epoch: 0,
            batches: 1,
            converted: 0,
            records: 10,
            first_record: Some(10),
            last_record: Some(19),
            first_time: Some(Timestamp(150)),
            max_time: None,
            min_time: None,
        };
        Row { min_time: times.0.map(Timestamp), max_time: times.1.map(Timestamp), ..whole }
    };
    let proven = row((Some(100), Some(200)));
    let cut = |from: Option<i64>, until: Option<i64>| Window {
        from: from.map(Timestamp),
        until: until.map(Timestamp),
        ..window(0, Offset::MAX)
    };
    assert!(!contributes(&proven, &window(0, 10)) && contributes(&proven, &window(0, 11)));
    assert!(!contributes(&proven, &window(20, 30)) && contributes(&proven, &window(19, 30)));
    assert!(contributes(&proven, &cut(Some(200), None)) && !contributes(&proven, &cut(Some(201), None)));
    assert!(contributes(&proven, &cut(None, Some(101))) && !contributes(&proven, &cut(None, Some(100))));
    // The first time is no proof of the least: records may go back behind it.
    assert!(contributes(&row((None, Some(200))), &cut(None, Some(1))));
    assert!(contributes(&row((Some(100), None)), &cut(Some(1 << 40), None)));
    assert!(!contributes(&Row { records: 0, ..proven }, &window(0, 100)), "nobody would see anything of it");
}

/// An archive of one segment: two batches that are seen, an aborted one, and its marker.
async fn with_aborted() -> Fixture {
    let fixture = Fixture::new("b").await;
    let batches = [
        fixture.batch(0, 5),
        fixture.transactional(5, 5, 7),
        fixture.marker(10, 7, false),
        fixture.batch(11, 5),
        fixture.batch(16, 4),
    ];
    let aborted = [AbortedTransaction { producer_id: 7, first: 5 }];
    let _ = fixture.segment_aborting(0, &batches, &aborted, OpenTransactions::default()).await;
    fixture
}

/// Flips a bit in the batch of `offset`, so many bytes behind its beginning.
fn flipped(bytes: &Bytes, offset: Offset, at: usize, bit: u8) -> Bytes {
    let walked: Vec<_> = batch::walk(bytes).map(|item| item.expect("sound")).collect();
    let (start, _) = walked.into_iter().find(|(_, header)| header.base_offset == offset).expect("it is there");
    let mut bytes = bytes.to_vec();
    bytes[start + at] ^= bit;
    bytes.into()
}

#[tokio::test]
async fn what_is_left_out_is_proven_too() {
    let whole = with_aborted().await;
    let (_, failure) = read(&whole, task(20), unlimited()).await;
    assert!(failure.is_none(), "{failure:?}");
    // The control bit, or the transactional one, of a batch that should be seen; the count of a marker; an offset that would
    // hide a batch, be it before what is wanted or behind it.
    let wrong = [(0, 22, 0x20, 20), (0, 22, 0x10, 20), (10, 60, 0x01, 20), (11, 6, 0x10, 20), (11, 6, 0x10, 14)];
    for (offset, at, bit, next) in wrong {
        let fixture = whole
            .but(|key, bytes| Some(if key.ends_with(".log") { flipped(&bytes, offset, at, bit) } else { bytes }))
            .await;
        let (_, failure) = read(&fixture, task(next), unlimited()).await;
        // Bytes that are sent are proven there.
        let sent = failure.is_none() && bit == 0x10 && at == 22;
        assert!(sent || failure.is_some_and(|error| error.kind() == Kind::Damaged), "byte {at} of batch {offset}");
    }
}

#[tokio::test]
async fn a_segment_that_lacks_a_batch_is_not_taken_for_one_with_a_hole() {
    let whole = with_aborted().await;
    for lost in [0, 11, 16] {
        let fixture = whole
            .but(|key, bytes| {
                let keep = |(at, header): (usize, Header)| bytes.slice(at..at + header.total_bytes);
                let kept = || batch::walk(&bytes).map(|item| item.expect("sound"));
                let without = || kept().filter(|(_, header)| header.base_offset != lost).map(keep).collect::<Vec<_>>();
                // As long as before, so that only what is in it tells.
                let filled = || {
                    let mut left = without().concat();
                    left.resize(bytes.len(), 0);
                    Bytes::from(left)
                };
                Some(if key.ends_with(".log") { filled() } else { bytes.clone() })
            })
            .await;
        let (_, failure) = read(&fixture, task(20), unlimited()).await;
        assert_eq!(failure.expect("it is damaged").kind(), Kind::Damaged, "without the batch at {lost}");
    }
}

#[tokio::test]
async fn over_an_accepted_break_what_is_sound_before_and_behind_it_is_read() {
    let whole = crate::archive::source::tests::three().await;
    let damaged = whole
        .but(|key, bytes| Some(if key.ends_with("0000.log") { flipped(&bytes, 5, 70, 0x01) } else { bytes }))
        .await;
    let (handed, failure) = read(&damaged, Task { over_breaks: true, ..task(20) }, unlimited()).await;
    assert!(failure.is_none(), "{failure:?}");
    let batches: Vec<Offset> = handed.into_iter().flat_map(|(_, batches)| batches).collect();
    assert_eq!(batches, [0, 10, 15]);
}

#[tokio::test]
async fn a_reader_that_ends_by_a_defect_is_an_error_and_no_silence() {
    let error = whole(async { panic!("a defect") as () }).await.expect_err("it panicked");
    assert!(error.to_string().contains("defect"), "{error}");
}
