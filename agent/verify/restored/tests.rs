//! What the two sides of a pair come to, without a cluster.

use bytes::Bytes;

use super::*;
use crate::archive::sidecar::Kind;
use crate::archive::source::Fork;
use crate::archive::source::tests::Fixture;
use crate::archive::source::way::{Branch, along};
use crate::batch::records::{self, Record, Records};
use crate::batch::transactions::OpenTransactions;
use crate::batch::{Compression, Header};
use crate::record::{AbortedTransaction, Offset, Timestamp, TopicId};
use crate::restore::map::Run;
use crate::restore::plan::Torn;
use crate::verify::cluster::comparer::Side as _;

/// The target offset of the first record: a fence has put a marker before it.
const BASE: Offset = 1;

fn pair() -> Pair {
    let partition = |topic: &str| Partition { topic: topic.into(), topic_id: TopicId::NONE, index: 0 };
    Pair { source: partition("t"), target: partition("t-restored") }
}

/// What is compared: the records of the archive's side as they were sent, and what the target has instead.
struct Case {
    fixture: Fixture,
    window: Window,
    torn: Vec<Torn>,
    branch: Vec<Fork>,
    is_compacted: bool,
    /// The target's records.
    target: Vec<Record>,
    runs: Vec<Run>,
    /// The end of the target's log, where it is another than that of the restore.
    log_next: Option<Offset>,
    /// The target has deleted what lies before.
    deleted: Offset,
    /// The target's batches hold so many records.
    of: usize,
    template: Header,
}

/// A case in which the source offsets `sources` were restored.
fn case(fixture: Fixture, next: Offset, sources: &[Offset]) -> Case {
    let (mut runs, mut target): (Vec<Run>, Vec<Record>) = (Vec::new(), Vec::new());
    for (n, source) in sources.iter().enumerate() {
        let at = BASE + n as Offset;
        match runs.last_mut().filter(|run| run.source_next() == *source) {
            Some(run) => run.length += 1,
            None => runs.push(Run { source: *source, target: at, length: 1 }),
        }
        let record = fixture.batch(*source, 1);
        let record = Records::read(&record).expect("sound").next().expect("one").expect("sound");
        target.push(Record { offset: at, ..record });
    }
    Case {
        fixture,
        window: Window { offsets: OffsetRange { first: 0, next }, from: None, until: None },
        torn: Vec::new(),
        branch: Vec::new(),
        is_compacted: false,
        target,
        runs,
        log_next: None,
        deleted: 0,
        of: 4,
        template: records::template(0),
    }
}

impl Case {
    /// Compares.
    async fn outcome(&self) -> Outcome {
        let mut map = OffsetMap::default();
        map.open(&pair(), self.window.offsets, BASE).expect("a range");
        let mut end = BASE;
        for run in &self.runs {
            map.push(&pair(), run.source, run.target, run.length).expect("in order");
            end = run.target_next();
        }
        map.finish(&pair(), end).expect("behind the last");
        let branch = if self.branch.is_empty() { Branch::Own } else { Branch::Newest };
        // As a plan has them.
        let mut parts = along(&pair().source, branch, &self.branch);
        for part in &mut parts {
            part.range.first = part.range.first.max(self.window.offsets.first);
            part.range.next = part.range.next.min(self.window.offsets.next);
        }
        parts.retain(|part| !part.range.is_empty());
        let lane = Lane {
            pair: pair(),
            map: Arc::new(map),
            parts,
            window: self.window,
            torn: self.torn.clone(),
            log: OffsetRange { first: self.deleted, next: self.log_next.unwrap_or(end) },
            is_compacted: self.is_compacted,
            folder: "the folder".to_owned(),
        };
        let held = Held::along(&self.fixture.archive, lane.parts.clone(), lane.window);
        let mut lockstep = Lockstep::new(held, Arc::new(lane)).expect("it is in the map");
        let mut from = lockstep.first();
        if self.deleted > from {
            let _ = lockstep.deleted(OffsetRange { first: from, next: self.deleted }).await.expect("read");
            from = self.deleted;
        }
        let left: Vec<_> = self.target.iter().filter(|record| record.offset >= self.deleted).cloned().collect();
        for records in left.chunks(self.of) {
            let template = Header { base_offset: records[0].offset, last_offset_delta: 0, ..self.template };
            let bytes = records::encode(&template, records, Compression::Lz4).expect("they fit");
            let header = Header::read(&bytes).expect("sound");
            lockstep.batch(from, &header, &bytes).await.expect("read");
            from = header.next_offset();
            if lockstep.is_over(from).await.expect("read") {
                break;
            }
        }
        lockstep.end().await.expect("read")
    }

    /// Returns what is found, in words.
    async fn told(&self) -> Vec<(What, String)> {
        self.outcome().await.findings.into_iter().map(|finding| (finding.what, finding.detail)).collect()
    }

    async fn assert_agrees(&self, records: u64) {
        let outcome = self.outcome().await;
        assert_eq!(outcome.findings, []);
        assert_eq!(outcome.left, None);
        let [archive, target] = outcome.records.expect("all was compared");
        assert_eq!((archive.records, &archive), (records, &target));
    }

    /// Asserts that there is one difference, and its place.
    async fn assert_differs(&self, source: Option<Offset>, at: &str, what: &str, all: u64) {
        let outcome = self.outcome().await;
        let [found] = &outcome.findings[..] else { panic!("{:?}", outcome.findings) };
        assert_eq!(found.what, What::Difference, "{found}");
        assert_eq!(found.range, source.map(|first| OffsetRange { first, next: first + 1 }), "{found}");
        let place = format!("the record at source offset {}, at offset {at} of t-restored-0: ", table(source));
        assert!(found.detail.starts_with(&place) && found.detail.contains(what), "{found}");
        assert_eq!(found.detail.contains("differ in all"), all > 1, "{found}");
        assert!(all == 1 || found.detail.ends_with(&format!("; {all} records differ in all")), "{found}");
        let [archive, target] = outcome.records.expect("all was compared");
        assert_ne!(archive.digest, target.digest);
    }
}

fn table(offset: Option<Offset>) -> String {
    offset.map_or("none".to_owned(), |offset| offset.to_string())
}

/// Three segments of twenty records.
async fn plain() -> Case {
    let sources: Vec<Offset> = (0..20).collect();
    case(crate::archive::source::tests::three().await, 20, &sources)
}

#[tokio::test]
async fn what_was_restored_agrees_however_it_lies_in_batches() {
    for of in [1, 3, 5, 20] {
        Case { of, ..plain().await }.assert_agrees(20).await;
    }
    // As they were, batch by batch.
    let mut case = plain().await;
    case.of = 5;
    let outcome = case.outcome().await;
    assert_eq!((outcome.offsets, outcome.findings.len()), (20, 0));
}

#[tokio::test]
async fn each_kind_of_difference_is_found_where_it_is() {
    type Change = fn(&mut Case);
    let changes: [(Change, Option<Offset>, &str, &str, u64); 11] = [
        (|case| case.target[7].value = Some(Bytes::from_static(b"value 8")), Some(7), "8", "value is another", 1),
        (|case| case.target[7].value = None, Some(7), "8", "value is another", 1),
        (|case| case.target[7].key = Some(Bytes::new()), Some(7), "8", "key is another", 1),
        (|case| case.target[12].timestamp.0 += 1, Some(12), "13", "time is another", 1),
        (|case| case.target[3].headers.push((Bytes::from_static(b"h"), None)), Some(3), "4", "headers are others", 1),
        (|case| drop(case.target.remove(9)), Some(9), "10", "missing in the target", 1),
        (
            |case| {
                case.target.truncate(19);
                case.log_next = Some(20);
            },
            Some(19),
            "20",
            "missing in the target",
            1,
        ),
        (|case| drop(case.target.remove(0)), Some(0), "1", "missing in the target", 1),
        (
            |case| {
                let at = case.target[5].offset;
                case.target.swap(5, 6);
                (case.target[5].offset, case.target[6].offset) = (at, at + 1);
            },
            Some(5),
            "6",
            "key is another",
            2,
        ),
        (
            // Nothing was restored to there.
            |case| {
                case.target[10..].iter_mut().for_each(|record| record.offset += 1);
                let more = Record { offset: 11, ..case.target[9].clone() };
                case.target.insert(10, more);
                case.runs[0].length = 10;
                case.runs.push(Run { source: 10, target: 12, length: 10 });
            },
            None,
            "11",
            "one too many",
            1,
        ),
        (
            // The map says that it was restored from an offset at which nothing is taken.
            |case| case.runs = vec![Run { source: 0, target: BASE, length: 21 }],
            Some(20),
            "21",
            "the archive has no such record",
            1,
        ),
    ];
    for (n, (change, source, at, what, all)) in changes.into_iter().enumerate() {
        for of in [1, 5, 20] {
            let mut case = Case { of, ..plain().await };
            if n == 10 {
                case.window.offsets.next = 21;
                case.target.push(Record { offset: 21, ..case.target[0].clone() });
            }
            change(&mut case);
            case.assert_differs(source, at, what, all).await;
        }
    }
}

#[tokio::test]
async fn a_record_without_a_place_in_the_map_was_not_restored() {
    let mut case = plain().await;
    case.target.remove(8);
    case.target[8..].iter_mut().for_each(|record| record.offset -= 1);
    case.runs = vec![Run { source: 0, target: BASE, length: 8 }, Run { source: 9, target: BASE + 8, length: 11 }];
    case.assert_differs(Some(8), "none", "the offset map names no place", 1).await;
}

#[tokio::test]
async fn of_the_archive_only_what_the_plan_takes_is_compared() {
    let all = plain().await;
    let taken = |offsets: std::ops::Range<Offset>| offsets.collect::<Vec<_>>();
    let window = |first, next, from: Option<i64>, until: Option<i64>| Window {
        offsets: OffsetRange { first, next },
        from: from.map(Timestamp),
        until: until.map(Timestamp),
    };
    for (window, offsets) in [
        (window(7, 18, None, None), taken(7..18)),
        (window(0, 20, Some(1003), None), taken(3..20)),
        (window(0, 20, Some(1012), Some(1017)), taken(12..17)),
        (window(5, 20, None, Some(1010)), taken(5..10)),
        (window(0, 20, Some(5000), None), taken(0..0)),
    ] {
        let fixture = all.fixture.but(|_, bytes| Some(bytes)).await;
        let count = offsets.len() as u64;
        Case { window, ..case(fixture, 20, &offsets) }.assert_agrees(count).await;
    }
}

#[tokio::test]
async fn transactions_that_were_aborted_or_torn_and_holes_and_markers_are_no_records() {
    let fixture = Fixture::new("b").await;
    let hole = {
        let whole = fixture.batch(9, 6);
        let header = Header::read(&whole).expect("sound");
        let left: Vec<_> = Records::of(&header, &whole).expect("sound").map(|record| record.expect("sound")).collect();
        let left: Vec<_> = left.into_iter().filter(|record| record.offset != 11).collect();
        records::encode(&header, &left, Compression::Lz4).expect("they fit")
    };
    let batches = [
        fixture.batch(0, 3),
        fixture.transactional(3, 2, 7),
        fixture.transactional(5, 2, 8),
        fixture.marker(7, 7, false),
        fixture.marker(8, 8, true),
        hole,
        fixture.transactional(15, 2, 9),
    ];
    let aborted = [AbortedTransaction { producer_id: 7, first: 3 }];
    let _ = fixture.segment_aborting(0, &batches, &aborted, OpenTransactions::default()).await;
    let torn = vec![Torn { producer_id: 9, first: 15 }];
    Case { torn, ..case(fixture, 17, &[0, 1, 2, 5, 6, 9, 10, 12, 13, 14]) }.assert_agrees(10).await;
}

#[tokio::test]
async fn of_forks_each_chain_has_its_part_and_a_stamped_batch_its_time() {
    let fixture = Fixture::new("b").await;
    fixture.segment("t", 0, 0, Kind::First, &[fixture.batch(0, 2), fixture.batch(2, 3)]).await;
    let fork = Fork { epoch: 1, end: 3 };
    fixture.fork_segment(fork, &[fixture.batch(2, 2), fixture.batch(4, 2)]).await;
    Case { branch: vec![fork], ..case(fixture, 6, &[0, 1, 2, 3, 4, 5]) }.assert_agrees(6).await;

    let fixture = Fixture::new("b").await;
    let stamped = Header { attributes: 0x08, ..records::template(0) };
    fixture.segment("t", 0, 0, Kind::First, &[fixture.batch_of(&stamped, 5)]).await;
    let mut case = case(fixture, 5, &[0, 1, 2, 3, 4]);
    case.target.iter_mut().for_each(|record| record.timestamp = Timestamp(1004));
    case.assert_agrees(5).await;
    // A target that stamps has other times, and nobody can say whether the others were right.
    case.template = stamped;
    case.target.iter_mut().for_each(|record| record.timestamp = Timestamp(9000));
    let told = case.told().await;
    assert_eq!((told.len(), told[0].0), (1, What::Unchecked));
    assert!(told[0].1.starts_with("5 records of t-restored-0: the target gives records times of its own"), "{told:?}");
}

#[tokio::test]
async fn what_the_target_has_deleted_cannot_be_compared_and_the_rest_is() {
    let mut case = Case { deleted: 8, ..plain().await };
    let outcome = case.outcome().await;
    let [found] = &outcome.findings[..] else { panic!("{:?}", outcome.findings) };
    assert_eq!((found.what, found.range), (What::Unchecked, Some(OffsetRange { first: 0, next: 7 })));
    assert!(outcome.records.is_none());
    case.target[10].value = None;
    let told = case.told().await;
    assert_eq!(told.iter().map(|(what, _)| *what).collect::<Vec<_>>(), [What::Difference, What::Unchecked]);
    // What its log does not reach is missing, what was not read is left.
    let cut = Case { log_next: Some(16), ..plain().await };
    let cut = Case { target: cut.target[..15].to_vec(), ..cut };
    cut.assert_differs(Some(15), "16", "missing in the target", 5).await;
    let unread = Case { target: cut.target.clone(), ..plain().await };
    let outcome = unread.outcome().await;
    assert_eq!(outcome.left, Some(Some(OffsetRange { first: 16, next: 21 })));
}

#[tokio::test]
async fn a_log_cleaner_may_take_all_but_the_last_of_a_key() {
    let fixture = Fixture::new("b").await;
    let record = |offset: Offset, key: &'static str, value: Option<&'static str>| Record {
        offset,
        timestamp: Timestamp(1000),
        key: Some(Bytes::from_static(key.as_bytes())),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
        headers: Vec::new(),
    };
    let all = [
        record(0, "a", Some("1")),
        record(1, "b", Some("1")),
        record(2, "c", None),
        record(3, "a", Some("2")),
        record(4, "b", Some("2")),
    ];
    let batch = records::encode(&records::template(0), &all, Compression::None).expect("they fit");
    fixture.segment("t", 0, 0, Kind::First, &[batch]).await;
    let mut case = Case { is_compacted: true, ..case(fixture, 5, &[0, 1, 2, 3, 4]) };
    let keep = |offsets: &[Offset]| -> Vec<Record> {
        offsets.iter().map(|at| Record { offset: BASE + at, ..all[*at as usize].clone() }).collect()
    };
    case.target = keep(&[3, 4]);
    let told = case.told().await;
    assert_eq!((told.len(), told[0].0), (1, What::Compacted));
    assert!(told[0].1.starts_with("3 records of t-restored-0"), "{told:?}");
    case.target = keep(&[0, 4]);
    let told = case.told().await;
    assert_eq!((told[0].0, told[1].0), (What::Difference, What::Compacted));
    assert!(
        told[0].1.contains("source offset 3, at offset 4") && told[0].1.contains("the last of its key"),
        "{told:?}"
    );
    // A later record of that key may be why.
    case.log_next = Some(9);
    assert_eq!(case.told().await[0].0, What::Unchecked);
    case.is_compacted = false;
    assert_eq!(case.told().await[0].0, What::Difference);
}

#[tokio::test]
async fn what_cannot_be_read_of_the_archive_is_no_difference() {
    let flip = |key: &str, bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        if key.ends_with("0010.log") {
            bytes[70] ^= 1;
        }
        Some(Bytes::from(bytes))
    };
    let lost = |key: &str, bytes: Bytes| (!key.contains("00000015.") || key.ends_with(".log")).then_some(bytes);
    for of in [1, 5, 20] {
        let whole = plain().await;
        let fixture = whole.fixture.but(flip).await;
        let outcome = Case { of, fixture, ..plain().await }.outcome().await;
        let [found] = &outcome.findings[..] else { panic!("{:?}", outcome.findings) };
        assert_eq!((found.what, found.range), (What::Unchecked, Some(OffsetRange { first: 10, next: 15 })));
        assert!(outcome.records.is_none() && found.detail.contains("the archive's side cannot be read"), "{found}");
        let fixture = whole.fixture.but(lost).await;
        let outcome = Case { of, fixture, ..plain().await }.outcome().await;
        let [found] = &outcome.findings[..] else { panic!("{:?}", outcome.findings) };
        assert_eq!((found.what, found.range), (What::Unchecked, Some(OffsetRange { first: 15, next: 20 })));
        // What is not asked for may be lost.
        for change in [&flip as &dyn Fn(&str, Bytes) -> Option<Bytes>, &lost] {
            let fixture = whole.fixture.but(change).await;
            let offsets: Vec<Offset> = (0..10).collect();
            Case { of, ..case(fixture, 10, &offsets) }.assert_agrees(10).await;
        }
    }
}

#[test]
fn only_a_plan_with_stages_has_stages() {
    let plan = |stages: Option<serde_json::Value>| {
        let mut plan = serde_json::json!({ "cut": {}, "merge_below": 0, "topics": [], "hazards": [] });
        if let Some(stages) = stages {
            plan["stages"] = stages;
        }
        let target = state::Target { bootstrap_servers: "h:1".to_owned(), cluster_id: None };
        state::Plan::new("r", "b", target, &plan).expect("JSON")
    };
    assert!(!has_stages(&plan(None)) && !has_stages(&plan(Some(serde_json::json!([])))));
    assert!(has_stages(&plan(Some(serde_json::json!([{ "plugin": "mask" }])))));
    let mut spread = plan(None);
    assert!(!is_spread(&spread));
    spread.plan["topics"] = serde_json::json!([{ "target": "a" }, { "target": "b", "repartition": 3 }]);
    assert!(is_spread(&spread));
}
