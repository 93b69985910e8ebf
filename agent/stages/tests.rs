//! What goes through stages, and what becomes of what they fail at.

use std::path::Path;
use std::time::Duration;

mod bounds;
mod onward;
mod spread;

use super::*;
use crate::batch::records::{Record, Records, encode, template};
use crate::batch::{Compression, Header};
use crate::record::{Offset, OffsetRange, Timestamp, TopicId};

fn built(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("plugins/{name}/{name}.wasm")).display().to_string()
}

fn stage(plugin: &str, settings: &[(&str, &str)], on_error: OnError) -> Stage {
    let plugin = if plugin == "faults" { built(plugin) } else { plugin.to_owned() };
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let limits = Limits { deadline: Duration::from_millis(300), memory_bytes: 16 << 20 };
    Stage { plugin, settings, limits, on_error }
}

fn faults(settings: &[(&str, &str)], on_error: OnError) -> Stage {
    stage("faults", &[settings, &[("routes", "false")]].concat(), on_error)
}

fn partition() -> Partition {
    Partition { topic: "orders".into(), topic_id: TopicId::NONE, index: 3 }
}

fn batch(template: &Header, count: i64) -> Bytes {
    let record = |offset| Record {
        offset,
        timestamp: Timestamp(1000 * offset),
        key: Some(Bytes::from(format!("k{offset}"))),
        value: Some(Bytes::from(format!("value {offset}"))),
        headers: Vec::new(),
    };
    let first = template.base_offset;
    encode(template, &(first..first + count).map(record).collect::<Vec<_>>(), Compression::Zstd).expect("they fit")
}

/// Three batches of ten records each, from offset 0 on.
fn three() -> Bytes {
    [0, 10, 20].map(|first| batch(&template(first), 10)).concat().into()
}

fn of_producer(first: Offset, attributes: i16) -> Header {
    Header { attributes, producer_id: 7, ..template(first) }
}

fn marker(offset: Offset, commit: bool) -> Bytes {
    let key = Some(Bytes::from(vec![0, 0, 0, u8::from(commit)]));
    let record = Record { offset, timestamp: Timestamp(0), key, value: None, headers: Vec::new() };
    encode(&of_producer(offset, 0x30), &[record], Compression::None).expect("it fits")
}

async fn passed(stages: &[Stage], bytes: Bytes, aborted: &[AbortedTransaction]) -> Passed {
    let stages = Stages::start("p", stages, 2).expect("they are opened");
    stages.pass(&partition(), 1, bytes, OpenTransactions::default(), aborted).await.expect("they live")
}

/// The offsets that the batches cover, and the records in them.
fn read(bytes: &Bytes) -> (Vec<(Offset, Offset)>, Vec<Record>) {
    let mut records = Vec::new();
    let covered = crate::batch::walk(bytes).map(|item| {
        let (at, header) = item.expect("sound");
        let batch = bytes.slice(at..at + header.total_bytes);
        assert!(crate::batch::crc_matches(&batch));
        records.extend(Records::of(&header, &batch).expect("sound").map(|record| record.expect("sound")));
        (header.base_offset, header.next_offset())
    });
    (covered.collect(), records)
}

fn offsets(bytes: &Bytes) -> Vec<Offset> {
    read(bytes).1.iter().map(|record| record.offset).collect()
}

const COVERED: [(Offset, Offset); 3] = [(0, 10), (10, 20), (20, 30)];

#[tokio::test]
async fn what_no_plugin_changes_keeps_its_bytes() {
    let bytes = three();
    let wide = stage("pitr-filter", &[("until", "1000000")], OnError::Fail);
    let passed = passed(&[faults(&[], OnError::Fail), wide], bytes.clone(), &[]).await;
    assert_eq!(passed.bytes.as_ptr_range(), bytes.as_ptr_range());
    assert!(passed.failure.is_none() && passed.left_out.is_empty() && passed.dead_letters.is_empty());
}

#[tokio::test]
async fn a_batch_that_takes_several_calls_keeps_its_bytes_too() {
    let value = Some(Bytes::from(vec![7; 400_000]));
    let record =
        |offset| Record { offset, timestamp: Timestamp(0), key: None, value: value.clone(), headers: Vec::new() };
    let bytes = encode(&template(0), &(0..9).map(record).collect::<Vec<_>>(), Compression::Lz4).expect("they fit");
    let same = passed(&[faults(&[], OnError::Fail)], bytes.clone(), &[]).await;
    assert_eq!(same.bytes.as_ptr_range(), bytes.as_ptr_range());
    let injected = passed(&[stage("header-injector", &[], OnError::Fail)], bytes, &[]).await;
    let (covered, records) = read(&injected.bytes);
    assert_eq!(covered, [(0, 9)]);
    assert!(records.iter().all(|record| record.value == value && record.headers.len() == 3));
}

#[tokio::test]
async fn stages_change_and_drop_one_after_the_other_and_what_is_dropped_stays_covered() {
    let stages = [
        stage("pitr-filter", &[("from", "7000"), ("until", "18000")], OnError::Fail),
        stage("header-injector", &[("timestamp", "false"), ("partition", "false")], OnError::Fail),
    ];
    let made = passed(&stages, three(), &[]).await;
    let (covered, records) = read(&made.bytes);
    assert_eq!(covered, COVERED, "the last batch is empty, and still there");
    assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), (7..18).collect::<Vec<_>>());
    for record in records {
        let value = Some(Bytes::from(record.offset.to_string()));
        assert_eq!(record.headers, [(Bytes::from_static(b"x-kafka-backup-offset"), value)]);
    }
    assert!(made.left_out.is_empty(), "to drop is its work");
}

#[tokio::test]
async fn aborted_and_control_batches_pass_as_they_are_and_later_ones_of_the_producer_do_not() {
    let all = [
        batch(&of_producer(0, 0x10), 2),
        marker(2, false),
        batch(&of_producer(3, 0x10), 2),
        marker(5, true),
        crate::batch::gap(OffsetRange { first: 6, next: 9 }, 0),
    ];
    let bytes = Bytes::from(all.concat());
    let aborted = [AbortedTransaction { producer_id: 7, first: 0 }];
    let made = passed(&[stage("header-injector", &[], OnError::Fail)], bytes, &aborted).await;
    assert!(made.open.is_empty());
    let mut rest = made.bytes.clone();
    for (number, before) in all.iter().enumerate() {
        let header = Header::read(&rest).expect("sound");
        let batch = rest.split_to(header.total_bytes);
        assert_eq!(batch == *before, number != 2, "batch {number}");
        assert_eq!(header.attributes & 0x30, Header::read(before).expect("sound").attributes & 0x30);
    }
}

#[tokio::test]
async fn a_failing_stage_ends_the_pass_before_its_batch() {
    let made = passed(&[faults(&[("fault", "panic"), ("offset", "12")], OnError::Fail)], three(), &[]).await;
    assert_eq!(read(&made.bytes).0, COVERED[..1]);
    let said = made.failure.expect("it failed").to_string();
    let wanted = "plugin `faults` (stage 1 of pipeline `p`, faults.wasm) failed at orders-3 offset 12: panicked at ";
    assert!(said.starts_with(wanted), "{said}");
}

#[tokio::test]
async fn the_record_that_a_pure_plugin_fails_at_is_skipped_and_told() {
    for (fault, offset) in [("panic", "12"), ("fail", "10"), ("wrong-lengths", "19"), ("memory-bomb", "15")] {
        let stages = [
            stage("header-injector", &[("offset", "false"), ("timestamp", "false")], OnError::Fail),
            faults(&[("fault", fault), ("offset", offset)], OnError::Skip),
        ];
        let made = passed(&stages, three(), &[]).await;
        assert!(made.failure.is_none(), "{fault}: {:?}", made.failure);
        let offset: Offset = offset.parse().expect("a number");
        let (covered, records) = read(&made.bytes);
        assert_eq!(covered, COVERED);
        let left: Vec<_> = records.iter().map(|record| record.offset).collect();
        assert_eq!(left, (0..30).filter(|other| *other != offset).collect::<Vec<_>>(), "{fault}");
        assert!(records.iter().all(|record| record.headers.len() == 1), "the other stage has seen them");
        let range = OffsetRange { first: 10, next: 20 };
        assert_eq!(made.left_out, [LeftOut { range, records: 1, stage: 1, dead_letter: None }]);
    }
}

#[tokio::test]
async fn all_records_of_a_call_are_skipped_where_they_cannot_be_told_apart() {
    let late = faults(&[("fault", "endless-loop"), ("offset", "12")], OnError::Skip);
    let impure = faults(&[("fault", "panic"), ("offset", "12"), ("pure", "false")], OnError::Skip);
    for stage in [late, impure] {
        let made = passed(&[stage], three(), &[]).await;
        assert_eq!(offsets(&made.bytes), (0..10).chain(20..30).collect::<Vec<_>>());
        assert_eq!(made.left_out.iter().map(|left_out| left_out.records).sum::<u32>(), 10);
    }
}

#[tokio::test]
async fn a_dead_letter_is_the_batch_as_it_came() {
    let bytes = three();
    let stages = [
        faults(&[("fault", "fail"), ("offset", "11")], OnError::Skip),
        faults(&[("fault", "fail"), ("offset", "12")], OnError::DeadLetter),
    ];
    let made = passed(&stages, bytes.clone(), &[]).await;
    assert_eq!(read(&made.bytes).0, COVERED);
    assert_eq!(offsets(&made.bytes), (0..10).chain(20..30).collect::<Vec<_>>());
    let range = OffsetRange { first: 10, next: 20 };
    let kept = batch(&template(10), 10);
    let digest = xxhash_rust::xxh3::xxh3_128(&kept);
    let letter = crate::record::DeadLetter { length_bytes: kept.len() as u64, digest };
    assert_eq!(
        made.left_out,
        [LeftOut { range, records: 10, stage: 1, dead_letter: Some(letter) }],
        "and nothing was skipped of it"
    );
    assert_eq!(made.dead_letters, [kept]);
}

#[tokio::test]
async fn what_may_work_later_is_never_left_out() {
    for on_error in [OnError::Fail, OnError::Skip, OnError::DeadLetter] {
        let made = passed(&[faults(&[("fault", "fail-retriable"), ("offset", "12")], on_error)], three(), &[]).await;
        assert!(made.failure.expect("it failed").retryable());
        assert_eq!(read(&made.bytes).0, COVERED[..1]);
        assert!(made.left_out.is_empty() && made.dead_letters.is_empty());
    }
}

#[tokio::test]
async fn a_batch_that_cannot_be_decoded_is_the_first_stages_to_decide_on() {
    let mut broken = batch(&template(10), 10).to_vec();
    let body = crate::batch::HEADER_BYTES;
    broken.truncate(body + 3);
    broken[8..12].copy_from_slice(&((body + 3 - 12) as i32).to_be_bytes());
    crate::batch::put_crc(&mut broken);
    let bytes = Bytes::from([&batch(&template(0), 10)[..], &broken, &batch(&template(20), 10)].concat());
    let policy = |on_error| [stage("header-injector", &[], on_error)];
    let kept = passed(&policy(OnError::DeadLetter), bytes.clone(), &[]).await;
    assert_eq!((kept.dead_letters, read(&kept.bytes).0), (vec![Bytes::from(broken)], COVERED.to_vec()));
    let skipped = passed(&policy(OnError::Skip), bytes.clone(), &[]).await;
    assert_eq!(skipped.left_out[0].records, 10);
    let failed = passed(&policy(OnError::Fail), bytes, &[]).await;
    assert!(failed.failure.is_some() && read(&failed.bytes).0 == COVERED[..1]);
}

#[test]
fn a_plugin_that_sends_records_elsewhere_is_no_stage_of_a_capture() {
    let refused = |stage: Stage| Stages::start("p", &[stage], 1).expect_err("refused");
    let fanout = refused(stage("restore-fanout", &[("to", "a")], OnError::Fail));
    assert_eq!(fanout.kind(), Kind::Usage, "{fanout}");
    let said = refused(stage("faults", &[], OnError::Skip)).to_string();
    assert!(said.contains("sends records elsewhere, or makes several of one"), "{said}");
    let unknown = refused(stage("header-injectr", &[], OnError::Fail)).to_string();
    assert!(
        unknown.contains("there is no plugin `header-injectr`") && unknown.contains("`header-injector`"),
        "{unknown}"
    );
    let none = Stage { plugin: "/nowhere/x.wasm".to_owned(), ..stage("header-injector", &[], OnError::Fail) };
    assert_eq!(refused(none).to_string(), "there is no plugin /nowhere/x.wasm (stage 1)");
}

#[tokio::test]
async fn many_partitions_share_a_few_workers() {
    let stages = Stages::start("p", &[stage("header-injector", &[], OnError::Fail)], 3).expect("they are opened");
    let mut runs = tokio::task::JoinSet::new();
    for index in 0..40 {
        let stages = stages.clone();
        let partition = Partition { index, ..partition() };
        runs.spawn(async move {
            let passed =
                stages.pass(&partition, 1, three(), OpenTransactions::default(), &[]).await.expect("they live");
            offsets(&passed.bytes)
        });
    }
    while let Some(made) = runs.join_next().await {
        assert_eq!(made.expect("it ends"), (0..30).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_plugin_that_remembers_does_not_take_records_that_come_again_for_seen_ones() {
    let once = faults(&[("fault", "once"), ("pure", "false")], OnError::Fail);
    let failing = faults(&[("fault", "fail-retriable"), ("offset", "12")], OnError::Fail);
    let open = OpenTransactions::default;
    let stages = Stages::start("p", std::slice::from_ref(&once), 1).expect("they are opened");
    for (generation, records) in [(1, 30), (1, 0), (2, 30)] {
        let made = stages.pass(&partition(), generation, three(), open(), &[]).await.expect("they live");
        assert_eq!(offsets(&made.bytes).len(), records, "generation {generation}");
    }
    let stages = Stages::start("p", &[once, failing], 1).expect("they are opened");
    for _ in 0..2 {
        let made = stages.pass(&partition(), 1, three(), open(), &[]).await.expect("they live");
        assert!(made.failure.is_some());
        assert_eq!(offsets(&made.bytes), (0..10).collect::<Vec<_>>(), "what failed has not been seen");
    }
}

#[tokio::test]
async fn a_run_is_handed_back_in_parts_where_much_is_made_of_it() {
    let value = Some(Bytes::from(vec![7; 900_000]));
    let one = |offset| {
        let record = Record { offset, timestamp: Timestamp(0), key: None, value: value.clone(), headers: Vec::new() };
        encode(&template(offset), &[record], Compression::None).expect("it fits")
    };
    let bytes = Bytes::from((0..12).map(one).collect::<Vec<_>>().concat());
    let stages = Stages::start("p", &[stage("header-injector", &[], OnError::Fail)], 1).expect("they are opened");
    let (mut rest, mut parts, mut next) = (bytes, 0, 0);
    while !rest.is_empty() {
        let made = stages.pass(&partition(), 1, rest, OpenTransactions::default(), &[]).await.expect("they live");
        let (covered, _) = read(&made.bytes);
        assert!(made.bytes.len() < 6_000_000 && covered[0].0 == next);
        (rest, parts, next) = (made.rest, parts + 1, made.next.expect("something came of it"));
    }
    assert_eq!((parts, next), (3, 12));
}

#[tokio::test]
async fn where_no_plugin_is_to_blame_the_strictest_policy_decides() {
    let mut broken = batch(&template(10), 10).to_vec();
    broken.truncate(crate::batch::HEADER_BYTES + 3);
    broken[8..12].copy_from_slice(&((crate::batch::HEADER_BYTES + 3 - 12) as i32).to_be_bytes());
    crate::batch::put_crc(&mut broken);
    let injector = |on_error| stage("header-injector", &[], on_error);
    let made = passed(&[injector(OnError::Skip), injector(OnError::Fail)], broken.clone().into(), &[]).await;
    assert!(made.failure.is_some() && made.left_out.is_empty());
    let made = passed(&[injector(OnError::Skip), injector(OnError::DeadLetter)], broken.into(), &[]).await;
    assert_eq!((made.left_out[0].stage, made.dead_letters.len()), (1, 1));
}
