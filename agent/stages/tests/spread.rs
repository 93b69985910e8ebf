//! Records that are spread over partitions by their keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::onward::{Onward, Piece, Targets, What};
use super::*;
use crate::batch::outgoing::Window;
use crate::record::partitioner::partition_of;

fn target(topic: &str, index: i32) -> Partition {
    Partition { topic: topic.into(), topic_id: TopicId::NONE, index }
}

/// Passes batches of `orders-3` on to so many partitions of `all`, of which the first is 3 modulo that, and to `eu`.
async fn spread(stages: &[Stage], partitions: i32, bytes: Bytes) -> Vec<(Partition, What, Vec<(Offset, Record)>)> {
    let first = 3 % partitions;
    let mut targets = vec![target("all", first)];
    targets.extend((0..partitions).filter(|index| *index != first).map(|index| target("all", index)));
    targets.extend([target("eu", 0), target("eu", 1)]);
    let onward = Onward { window: Window::EVERYTHING, targets: Arc::new(Targets::new(3, &targets)) };
    let over = BTreeMap::from([("all".to_owned(), partitions), ("eu".to_owned(), 2)]);
    let stages = Stages::of_restore("p", stages, &Spread::new(&over)).expect("they are opened");
    let passed = stages.pass_on(&partition(), bytes, onward).await.expect("they live");
    assert!(passed.failure.is_none(), "{:?}", passed.failure);
    let piece = |piece: &Piece| {
        let records = Records::of(&piece.header, &piece.bytes).expect("sound").map(|record| record.expect("sound"));
        let records: Vec<Record> = records.collect();
        let sources: Vec<Offset> = match &piece.what {
            What::Made(sources) => sources.offsets().collect(),
            What::Cut | What::Whole => records.iter().map(|record| record.offset).collect(),
        };
        (targets[piece.target].clone(), piece.what.clone(), sources.into_iter().zip(records).collect())
    };
    passed.pieces.iter().map(piece).collect()
}

fn keyed(random: &mut fastrand::Rng, first: Offset, count: i64) -> Bytes {
    let record = |offset| Record {
        offset,
        timestamp: Timestamp(offset),
        key: (random.u8(..) > 60).then(|| Bytes::from(random.u16(..).to_be_bytes()[..random.usize(..=2)].to_vec())),
        value: Some(Bytes::from(format!("value {offset}"))),
        headers: Vec::new(),
    };
    encode(&template(first), &(first..first + count).map(record).collect::<Vec<_>>(), Compression::Lz4).expect("small")
}

#[tokio::test]
async fn each_record_goes_to_the_one_partition_of_its_key_and_those_of_a_partition_stay_in_order() {
    let random = &mut fastrand::Rng::with_seed(5);
    for partitions in [1, 2, 3, 6, 11] {
        let mut bytes = Vec::new();
        for first in [0, 40, 90] {
            bytes.extend_from_slice(&keyed(random, first, 30));
        }
        let mut last: BTreeMap<i32, Offset> = BTreeMap::new();
        let mut seen = Vec::new();
        for (to, _, records) in spread(&[], partitions, bytes.into()).await {
            for (source, record) in records {
                // The source's number is 3.
                let wanted = partition_of(record.key.as_deref(), source as u64 + 3, partitions as u32);
                assert_eq!((&*to.topic, to.index), ("all", wanted as i32), "{record:?}");
                assert_eq!(record.value, Some(Bytes::from(format!("value {source}"))));
                assert!(last.insert(to.index, source).is_none_or(|before| before < source), "order of {to}");
                seen.push(source);
            }
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq((0..30).chain(40..70).chain(90..120)), "each once");
    }
}

#[tokio::test]
async fn a_batch_of_one_partition_goes_as_it_was_archived() {
    let whole = spread(&[], 1, three()).await;
    assert!(whole.iter().all(|(to, what, _)| to.index == 0 && *what == What::Cut) && whole.len() == 3);
    let record = |offset| Record {
        offset,
        timestamp: Timestamp(0),
        key: Some(Bytes::from_static(b"one")),
        value: None,
        headers: Vec::new(),
    };
    let one = encode(&template(0), &(0..9).map(record).collect::<Vec<_>>(), Compression::Zstd).expect("small");
    let sent = spread(&[], 6, one).await;
    assert!(matches!(&sent[..], [(_, What::Whole, records)] if records.len() == 9), "{sent:?}");
}

#[tokio::test]
async fn what_a_stage_sends_to_a_topic_is_spread_there_and_not_by_the_number_of_its_source() {
    // `eu` has no partition 3.
    let copying = stage("restore-fanout", &[("by", "topic"), ("to.orders", "eu")], OnError::Fail);
    let mut seen: BTreeMap<String, Vec<Offset>> = BTreeMap::new();
    for (to, _, records) in spread(&[copying], 6, three()).await {
        let partitions = if &*to.topic == "eu" { 2 } else { 6 };
        for (source, record) in records {
            assert_eq!(to.index as u32, partition_of(record.key.as_deref(), 0, partitions));
            seen.entry(to.topic.to_string()).or_default().push(source);
        }
    }
    seen.values_mut().for_each(|offsets| offsets.sort_unstable());
    assert!(seen.len() == 2 && seen.values().all(|offsets| offsets.iter().copied().eq(0..30)), "{seen:?}");
}

#[tokio::test]
async fn damage_without_a_stage_ends_the_pass_and_names_the_partition() {
    let mut bytes = three().to_vec();
    *bytes.last_mut().expect("bytes") ^= 1;
    let targets = [target("all", 0), target("all", 1)];
    let onward = Onward { window: Window::EVERYTHING, targets: Arc::new(Targets::new(3, &targets)) };
    let over = Spread::new(&BTreeMap::from([("all".to_owned(), 2)]));
    let stages = Stages::of_restore("p", &[], &over).expect("none to open");
    let passed = stages.pass_on(&partition(), bytes.into(), onward).await.expect("they live");
    let error = passed.failure.expect("it is damaged");
    assert_eq!((error.exit_code(), passed.next), (4, Some(20)), "{error}");
}
