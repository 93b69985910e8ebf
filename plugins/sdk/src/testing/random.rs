//! Random records, of the kinds that break transforms: nulls, empties, repeated headers, unicode, bytes that are no
//! text, and times that go back.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::Sample;

/// Makes records of one partition: offsets ascend with holes, nothing else is in order.
pub fn samples() -> impl Strategy<Value = Vec<Sample>> {
    samples_with(bytes().boxed())
}

/// Makes records whose keys, values and header values are often of a given kind.
pub fn samples_with(cell: BoxedStrategy<Vec<u8>>) -> impl Strategy<Value = Vec<Sample>> {
    let header = (name(), option::weighted(0.8, cell_or(&cell)));
    let record = (
        0i64..4,
        prop_oneof![4 => 1_000i64..1_020, 1 => Just(-1), 1 => any::<i64>().prop_map(|time| time.saturating_abs())],
        option::weighted(0.7, cell_or(&cell)),
        option::weighted(0.8, cell_or(&cell)),
        vec(header, 0..5),
    );
    (0i64..1_000_000, vec(record, 1..40)).prop_map(|(first, records)| {
        let mut next = first;
        let sample = |(hole, timestamp, key, value, headers)| {
            let offset = next + hole;
            next = offset + 1;
            Sample { offset, timestamp, key, value, headers }
        };
        records.into_iter().map(sample).collect()
    })
}

fn cell_or(cell: &BoxedStrategy<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> + use<> {
    prop_oneof![3 => cell.clone(), 1 => bytes()]
}

/// Makes text, binary, or nothing at all.
pub fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        "[a-z0-9]{1,12}".prop_map(String::into_bytes),
        "\\PC{0,8}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..24),
    ]
}

/// Makes the name of a header: of few different ones, so that they repeat.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(vec!["x-kafka-backup-offset", "x-kafka-backup-timestamp", "region", "a", "", "größe"])
            .prop_map(|name| name.as_bytes().to_vec()),
        1 => bytes(),
    ]
}
