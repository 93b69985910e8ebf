use proptest::prelude::*;

use super::*;
use crate::batch::{crc_matches, walk};

/// Message sets as Kafka 2.8 wrote them in format v0 and v1: keys k1 to k3, four times, uncompressed and in each codec.
pub(super) const V0: &[u8] = include_bytes!("v0.log");
pub(super) const V1: &[u8] = include_bytes!("v1.log");

pub(super) const CODECS: [Compression; 4] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4];

/// A message to be written.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    pub(super) offset: Offset,
    pub(super) timestamp: i64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
}

fn plain(offset: Offset, timestamp: i64, value: &str) -> Plain {
    Plain { offset, timestamp, key: Some(b"key".to_vec()), value: Some(value.into()) }
}

/// Writes a message.
pub(super) fn message(magic: u8, attributes: u8, plain: &Plain) -> Vec<u8> {
    let mut body = vec![magic, attributes];
    if magic == 1 {
        body.extend(plain.timestamp.to_be_bytes());
    }
    for field in [&plain.key, &plain.value] {
        body.extend(field.as_ref().map_or(-1, |field| field.len() as i32).to_be_bytes());
        body.extend(field.iter().flatten());
    }
    let crc = crc32fast::hash(&body).to_be_bytes();
    let prefix = [&plain.offset.to_be_bytes()[..], &(body.len() as i32 + 4).to_be_bytes()].concat();
    [prefix, crc.to_vec(), body].concat()
}

/// Writes a compressed message around others; its time is the last one's.
pub(super) fn wrapper(magic: u8, attributes: u8, inner: &[Plain]) -> Vec<u8> {
    let (first, last) = (&inner[0], &inner[inner.len() - 1]);
    let shift = if magic == 1 { first.offset } else { 0 };
    let relative = |plain: &Plain| Plain { offset: plain.offset - shift, ..plain.clone() };
    let set: Vec<u8> = inner.iter().flat_map(|plain| message(magic, 0, &relative(plain))).collect();
    let mut packed = codec::compress(CODECS[usize::from(attributes & 7)], &set).to_vec();
    if magic == 0 && attributes & 7 == 3 {
        // Kafka's old mistake: the checksum begins with the frame's magic.
        packed[6] = (xxh32(&packed[..6], 0) >> 8) as u8;
    }
    message(magic, attributes, &Plain { key: None, value: Some(packed), ..last.clone() })
}

/// What a batch came to: its header and its records.
fn batches(bytes: &Bytes) -> Vec<(Header, Vec<Record>)> {
    let batch = |item: Result<(usize, Header)>| {
        let (at, header) = item.expect("sound");
        let bytes = bytes.slice(at..at + header.total_bytes);
        assert!(crc_matches(&bytes) && header.is_converted() && header.leader_epoch == -1);
        let records = records::Records::of(&header, &bytes).expect("readable");
        (header, records.map(|record| record.expect("sound")).collect())
    };
    walk(bytes).map(batch).collect()
}

fn ranges(converted: &Converted) -> Vec<(Offset, Offset)> {
    batches(&converted.bytes).iter().map(|(header, _)| (header.base_offset, header.next_offset())).collect()
}

fn all(set: Vec<u8>) -> Converted {
    convert(&Bytes::from(set), 0, None)
}

/// Asserts that nothing is delivered but damage at `offset`, said in these words.
#[track_caller]
fn assert_damaged(set: Vec<u8>, offset: Offset, words: &str) {
    let converted = all(set);
    assert!(converted.bytes.is_empty());
    let (at, what) = converted.damage.expect("damage");
    assert!(at == offset && what.contains(words), "{at}: {what}");
}

#[test]
fn what_kafka_wrote_in_old_formats_is_read_in_every_codec() {
    for (magic, golden) in [(0, V0), (1, V1)] {
        let converted = convert(&Bytes::from_static(golden), 0, None);
        assert_eq!((converted.next, converted.at_end, converted.damage.clone()), (12, false, None));
        assert_eq!(ranges(&converted), [(0, 3), (3, 6), (6, 9), (9, 12)]);
        let batches = batches(&converted.bytes);
        let codecs: Vec<_> = batches.iter().map(|(header, _)| header.compression().expect("known")).collect();
        assert_eq!(codecs, CODECS);
        for ((_, records), codec) in batches.iter().zip(["none", "gzip", "snappy", "lz4"]) {
            let values: Vec<_> = records.iter().map(|record| record.value.clone().expect("a value")).collect();
            assert_eq!(values, [format!("v1{codec}"), format!("v2{}", codec.repeat(6)), "v3".to_owned()]);
            let keys: Vec<_> = records.iter().map(|record| record.key.clone().expect("a key")).collect();
            assert_eq!(keys, ["k1", "k2", "k3"]);
        }
        let times: Vec<_> = batches.iter().map(|(_, records)| records[0].timestamp.0).collect();
        let expected = if magic == 0 { [-1; 4] } else { [1795372826150, 1795372826894, 1795372827552, 1795372828311] };
        assert_eq!(times, expected);
        assert!(batches.iter().all(|(header, _)| !header.is_log_append_time()));
    }
}

#[test]
fn null_and_empty_keys_and_values_stay_what_they_are() {
    let fields = [None, Some(Vec::new()), Some(b"text".to_vec())];
    let pairs = fields.iter().flat_map(|key| fields.iter().map(move |value| (key.clone(), value.clone())));
    let plains: Vec<_> =
        (0..).zip(pairs).map(|(offset, (key, value))| Plain { offset, timestamp: 5, key, value }).collect();
    for set in [plains.iter().flat_map(|plain| message(1, 0, plain)).collect(), wrapper(1, 1, &plains)] {
        let batches = batches(&all(set).bytes);
        for (record, plain) in batches[0].1.iter().zip(&plains) {
            assert_eq!(
                (&record.key, &record.value),
                (&plain.key.clone().map(Bytes::from), &plain.value.clone().map(Bytes::from))
            );
        }
    }
}

#[test]
fn the_time_of_a_stamped_wrapper_is_the_time_of_all_its_messages() {
    let inner = [plain(7, 50, "a"), plain(8, 20, "b"), plain(9, 30, "c")];
    let batches = batches(&convert(&wrapper(1, STAMPED | 1, &inner).into(), 7, None).bytes);
    let (header, records) = &batches[0];
    assert!(header.is_log_append_time() && header.max_timestamp == Timestamp(30));
    assert!(records.iter().all(|record| record.timestamp == Timestamp(30)));
}

#[test]
fn a_batch_has_one_kind_of_time_and_a_stamped_one_a_single_time() {
    let kinds = [(0, 0, 9), (1, 0, 5), (1, 0, 6), (1, STAMPED, 7), (1, STAMPED, 7), (1, STAMPED, 8), (1, 0, 8)];
    let numbered = (0..).zip(kinds);
    let set = numbered.flat_map(|(offset, (magic, kind, time))| message(magic, kind, &plain(offset, time, "v")));
    let converted = all(set.collect());
    assert_eq!(ranges(&converted), [(0, 1), (1, 3), (3, 5), (5, 6), (6, 7)]);
    let times: Vec<_> = batches(&converted.bytes)
        .iter()
        .map(|(header, records)| {
            (header.is_log_append_time(), records.iter().map(|r| r.timestamp.0).collect::<Vec<_>>())
        })
        .collect();
    let expected = [(false, vec![-1]), (false, vec![5, 6]), (true, vec![7, 7]), (true, vec![8]), (false, vec![8])];
    assert_eq!(times, expected);
}

#[test]
fn holes_that_compaction_left_are_kept() {
    let inner = [plain(10, 1, "a"), plain(13, 1, "b"), plain(19, 1, "c")];
    let far = plain(20 + i64::from(i32::MAX), 1, "far");
    for magic in [0, 1] {
        let single = |offset| message(magic, 0, &plain(offset, 1, "v"));
        let set = [
            single(2),
            single(5),
            wrapper(magic, 1, &inner),
            single(25),
            message(magic, 0, &far),
            single(far.offset + 30),
        ];
        let converted = all(set.concat());
        assert_eq!(converted.damage, None);
        let far = far.offset;
        assert_eq!(ranges(&converted), [(2, 6), (10, 20), (25, far + 1), (far + 30, far + 31)]);
        let offsets: Vec<_> = batches(&converted.bytes)
            .into_iter()
            .flat_map(|(_, records)| records)
            .map(|record| record.offset)
            .collect();
        assert_eq!(offsets, [2, 5, 10, 13, 19, 25, far, far + 30]);
    }
}

#[test]
fn what_is_held_is_skipped_and_a_wrapper_that_reaches_over_the_position_is_taken_whole() {
    for magic in [0, 1] {
        let inner = [plain(3, 1, "a"), plain(4, 1, "b"), plain(5, 1, "c")];
        let singles = [1, 2].map(|offset| message(magic, 0, &plain(offset, 1, "v"))).concat();
        let set = Bytes::from([singles, wrapper(magic, 2, &inner), message(magic, 0, &plain(6, 1, "v"))].concat());
        assert_eq!(ranges(&convert(&set, 2, None)), [(2, 3), (3, 6), (6, 7)]);
        assert_eq!(ranges(&convert(&set, 4, None)), [(3, 6), (6, 7)]);
        assert_eq!(ranges(&convert(&set, 6, None)), [(6, 7)]);
        let beyond = convert(&set, 7, None);
        assert!(beyond.bytes.is_empty() && beyond.next == 7 && beyond.damage.is_none());
    }
}

#[test]
fn a_pass_stops_before_its_end() {
    let inner = [plain(2, 1, "a"), plain(3, 1, "b")];
    let singles = |offsets: [Offset; 2]| offsets.map(|offset| message(1, 0, &plain(offset, 1, "v"))).concat();
    let set = Bytes::from([singles([0, 1]), wrapper(1, 3, &inner), singles([4, 5])].concat());
    for (end, next) in [(1, 1), (2, 2), (4, 4), (5, 5)] {
        let converted = convert(&set, 0, Some(end));
        assert_eq!((converted.next, converted.at_end), (next, true));
    }
    assert!(!convert(&set, 0, Some(6)).at_end);
}

#[test]
fn a_partial_last_message_is_dropped_and_a_batch_ends_the_set() {
    let set = [message(1, 0, &plain(0, 1, "v")), message(1, 0, &plain(1, 1, "v"))].concat();
    for cut in set.len() / 2..set.len() {
        let converted = all(set[..cut].to_vec());
        assert_eq!((ranges(&converted), converted.damage), (vec![(0, 1)], None));
    }
    let batch = crate::batch::gap(crate::record::OffsetRange { first: 2, next: 9 }, 0);
    assert_eq!(ranges(&all([set, batch.to_vec()].concat())), [(0, 2)]);
}

#[test]
fn messages_become_batches_of_some_tens_of_kib() {
    let value = "x".repeat(1000);
    let set: Vec<u8> = (0..100).flat_map(|offset| message(1, 0, &plain(offset, offset, &value))).collect();
    let converted = all(set);
    let batches = batches(&converted.bytes);
    assert!((3..6).contains(&batches.len()) && converted.next == 100, "{}", batches.len());
    let large = "x".repeat(2 * RUN_BYTES);
    assert_eq!(
        ranges(&all([message(0, 0, &plain(0, 0, &large)), message(0, 0, &plain(1, 0, "v"))].concat())),
        [(0, 1), (1, 2)]
    );
}

#[test]
fn every_flipped_bit_behind_the_length_is_found() {
    for golden in [V0, V1] {
        let (mut at, mut found) = (0, 0);
        while let Some(total) = entry_bytes(&golden[at..]) {
            // Offset and length are outside of the checksum.
            for byte in (at + CRC_AT..at + total).filter(|byte| *byte != at + MAGIC_AT) {
                let mut set = golden.to_vec();
                set[byte] ^= 1 << (byte % 8);
                let converted = all(set);
                assert_eq!(converted.damage.expect("damage").0, offset(&golden[at..]));
                assert!(batches(&converted.bytes).iter().all(|(header, _)| header.count == 3 || at < 118));
                found += 1;
            }
            at += total;
        }
        assert!(found > 300);
    }
}

#[test]
fn damage_is_named_with_its_offset_and_what_precedes_it_is_kept() {
    let mut bad = message(1, 0, &plain(1, 1, "v"));
    bad[30] ^= 1;
    let converted = all([message(1, 0, &plain(0, 1, "v")), bad, message(1, 0, &plain(2, 1, "v"))].concat());
    assert_eq!(ranges(&converted), [(0, 1)]);
    assert!(matches!(converted.damage, Some((1, what)) if what.contains("checksum")));

    let nested = Plain { value: Some(message(1, 0, &plain(0, 1, "v"))), ..plain(4, 1, "") };
    assert_damaged(message(1, 4, &nested), 4, "no compression 4");
    assert_damaged(message(1, 1, &nested), 4, "decompress");
    assert_damaged(message(1, 1, &Plain { value: None, ..nested.clone() }), 4, "no value");
    let packed =
        |set: &[u8]| Plain { value: Some(codec::compress(Compression::Gzip, set).to_vec()), ..plain(4, 1, "") };
    assert_damaged(message(1, 1, &packed(&[])), 4, "holds none");
    assert_damaged(message(1, 1, &packed(&message(1, 0, &plain(0, 1, "v"))[..20])), 4, "cut off");
    assert_damaged(message(1, 1, &packed(&message(1, 0, &plain(9, 1, "v")))), 4, "beyond its own");
    assert_damaged(message(1, 1, &packed(&message(1, 2, &plain(4, 1, "v")))), 4, "inside another");
    let mut inner = message(1, 0, &plain(0, 1, "v"));
    inner[30] ^= 1;
    assert_damaged(message(1, 1, &packed(&inner)), 4, "checksum");
    let back = [plain(1, 1, "v"), plain(0, 1, "v"), plain(2, 1, "v")].map(|plain| message(1, 0, &plain)).concat();
    assert_damaged(message(1, 1, &packed(&back)), 4, "do not fit");
}

#[test]
fn offsets_that_no_next_one_can_follow_are_damage() {
    for magic in [0, 1] {
        let last = plain(Offset::MAX, 1, "v");
        assert_damaged(message(magic, 0, &last), Offset::MAX, "has offset 9223372036854775807");
        // Where offsets are relative, the first would lie beyond all numbers.
        let set = [plain(Offset::MAX - 1, 1, "v"), plain(0, 1, "v")].map(|plain| message(magic, 0, &plain)).concat();
        let packed = Plain { value: Some(codec::compress(Compression::Gzip, &set).to_vec()), ..plain(9, 1, "") };
        assert_damaged(message(magic, 1, &packed), 9, "holds offset 9223372036854775806 before 0");
    }
}

#[test]
fn messages_out_of_order_are_damage() {
    let inner = [plain(1, 1, "a"), plain(5, 1, "b")];
    let converted = all([message(1, 0, &plain(3, 1, "v")), wrapper(1, 1, &inner)].concat());
    assert_eq!(ranges(&converted), [(3, 4)]);
    assert!(matches!(converted.damage, Some((5, _))));
    let converted = all([wrapper(1, 1, &inner), message(1, 0, &plain(5, 1, "v"))].concat());
    assert_eq!((ranges(&converted), converted.damage.is_some()), (vec![(1, 6)], true));
}

/// Messages in ascending order, in wrappers of their own or alone: (attributes, messages).
fn sets() -> impl Strategy<Value = Vec<(u8, Vec<Plain>)>> {
    let field = || prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    let record = (1_i64..4, 0_i64..1 << 40, field(), field());
    let entry = (0_u8..4, any::<bool>(), prop::collection::vec(record, 1..6));
    prop::collection::vec(entry, 0..12).prop_map(|entries| {
        let mut offset = 100;
        let mut numbered = |(step, timestamp, key, value): (i64, i64, _, _)| {
            offset += step;
            Plain { offset, timestamp, key, value }
        };
        entries
            .into_iter()
            .map(|(codec, stamped, records)| {
                let attributes = codec | if stamped { STAMPED } else { 0 };
                (attributes, records.into_iter().map(&mut numbered).collect())
            })
            .collect()
    })
}

fn written(magic: u8, sets: &[(u8, Vec<Plain>)]) -> Vec<u8> {
    let entry = |(attributes, plains): &(u8, Vec<Plain>)| match attributes & 7 {
        0 => plains.iter().flat_map(|plain| message(magic, *attributes, plain)).collect(),
        _ => wrapper(magic, *attributes, plains),
    };
    sets.iter().flat_map(entry).collect()
}

/// What a reader must see of it.
fn expected(magic: u8, sets: &[(u8, Vec<Plain>)]) -> Vec<Record> {
    let time = |attributes: u8, plain: &Plain, last: &Plain| match (magic, attributes & STAMPED, attributes & 7) {
        (0, ..) => -1,
        (_, STAMPED, 1..) => last.timestamp,
        _ => plain.timestamp,
    };
    let record = |attributes: u8, plain: &Plain, last: &Plain| Record {
        offset: plain.offset,
        timestamp: Timestamp(time(attributes, plain, last)),
        key: plain.key.clone().map(Bytes::from),
        value: plain.value.clone().map(Bytes::from),
        headers: Vec::new(),
    };
    let set = |(attributes, plains): &(u8, Vec<Plain>)| {
        plains.iter().map(|plain| record(*attributes, plain, &plains[plains.len() - 1])).collect::<Vec<_>>()
    };
    sets.iter().flat_map(set).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_of_a_set_comes_out_as_it_went_in(sets in sets(), magic in 0_u8..2) {
        let converted = all(written(magic, &sets));
        prop_assert_eq!(&converted.damage, &None);
        let batches = batches(&converted.bytes);
        prop_assert!(batches.windows(2).all(|pair| pair[0].0.next_offset() <= pair[1].0.base_offset));
        let records: Vec<_> = batches.into_iter().flat_map(|(_, records)| records).collect();
        prop_assert_eq!(records, expected(magic, &sets));
    }

    #[test]
    fn a_set_read_in_pieces_is_the_set(sets in sets(), magic in 0_u8..2, cut in any::<prop::sample::Index>()) {
        let set = Bytes::from(written(magic, &sets));
        let first = convert(&set.slice(..cut.index(set.len() + 1)), 0, None);
        let second = convert(&set, first.next, None);
        let records = [first, second].map(|converted| batches(&converted.bytes)).concat();
        let records: Vec<_> = records.into_iter().flat_map(|(_, records)| records).collect();
        prop_assert_eq!(records, expected(magic, &sets));
    }

    #[test]
    fn no_bytes_make_it_panic(sets in sets(), at in any::<prop::sample::Index>(), bits in any::<u8>(), magic in 0_u8..2) {
        let mut set = written(magic, &sets);
        if !set.is_empty() {
            let at = at.index(set.len());
            set[at] ^= bits;
        }
        let _ = all(set);
    }
}
