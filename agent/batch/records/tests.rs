//! Laws of the record codec: what is encoded comes back to the byte, and no input makes it panic.

use proptest::prelude::*;

use super::*;
use crate::batch::crc_matches;

pub(crate) const ALL: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn field() -> impl Strategy<Value = Option<Bytes>> {
    prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 0..80).prop_map(Bytes::from))
}

/// Records from offset 100 on, with holes, times in any order, duplicate headers.
pub(crate) fn records() -> impl Strategy<Value = Vec<Record>> {
    let name = prop_oneof![Just(Bytes::from_static(b"trace")), Just(Bytes::from_static(&[0xff, 0xfe]))];
    let headers = prop::collection::vec((name, field()), 0..4);
    let record = (1_i64..4, -1_000_000_i64..2_000_000_000_000, field(), field(), headers);
    prop::collection::vec(record, 0..40).prop_map(|parts| {
        let mut next = 100;
        let fill = |(step, time, key, value, headers)| {
            next += step;
            Record { offset: next - step, timestamp: Timestamp(time), key, value, headers }
        };
        parts.into_iter().map(fill).collect()
    })
}

fn read_all(batch: &Bytes) -> Result<Vec<Record>> {
    Records::read(batch)?.collect()
}

fn record(offset: Offset, value: &'static [u8]) -> Record {
    let value = Some(Bytes::from_static(value));
    Record { offset, timestamp: Timestamp(1000 - offset), key: None, value, headers: Vec::new() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn records_come_back_as_they_were_encoded(records in records()) {
        for codec in ALL {
            let batch = encode(&template(100), &records, codec).expect("they fit");
            prop_assert!(crc_matches(&batch));
            let header = Header::read(&batch).expect("our own header");
            prop_assert_eq!(header.compression().expect("known"), codec);
            prop_assert_eq!(header.total_bytes, batch.len());
            prop_assert_eq!(&read_all(&batch).expect("our own records"), &records);
        }
    }

    #[test]
    fn a_survey_tells_what_the_records_tell(records in records(), from in 95_i64..230) {
        let batch = encode(&template(100), &records, Compression::Lz4).expect("they fit");
        let header = Header::read(&batch).expect("our own header");
        let kept: Vec<_> = records.iter().filter(|record| record.offset >= from).collect();
        prop_assert_eq!(survey(&batch, &header, from).expect("sound"), Survey {
            count: kept.len() as u32,
            first: kept.first().map(|record| record.offset),
            last: kept.last().map(|record| record.offset),
            min_time: kept.iter().map(|record| record.timestamp).min(),
            max_time: kept.iter().map(|record| record.timestamp).max(),
        });
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 61..400), codec in 0_u8..6, count in 0_u8..9) {
        let _ = read_all(&Bytes::from(bytes.clone()));
        // The same bytes behind a header that passes.
        let length = (bytes.len() - 12) as i32;
        bytes[..8].copy_from_slice(&7_i64.to_be_bytes());
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        bytes[22] = codec;
        bytes[23..27].copy_from_slice(&50_i32.to_be_bytes());
        bytes[57..61].copy_from_slice(&i32::from(count).to_be_bytes());
        let batch = Bytes::from(bytes);
        let _ = read_all(&batch);
        let _ = Header::read(&batch).and_then(|header| survey(&batch, &header, 8));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_ends_in_records_or_an_error(
        records in records(), at in any::<prop::sample::Index>(), bit in 0_u8..8, codec in 0_usize..5,
    ) {
        let batch = encode(&template(100), &records, ALL[codec]).expect("they fit");
        let at = at.index(batch.len());
        prop_assert!(read_all(&batch.slice(..at)).is_err());
        let mut flipped = batch.to_vec();
        flipped[at] ^= 1 << bit;
        prop_assert!(at < 21 || !crc_matches(&flipped));
        let _ = read_all(&Bytes::from(flipped));
    }

    #[test]
    fn uncompressed_records_reencode_to_the_same_bytes(records in records()) {
        let batch = encode(&template(100), &records, Compression::None).expect("they fit");
        let header = Header::read(&batch).expect("our own header");
        prop_assert_eq!(encode(&header, &read_all(&batch).expect("sound"), Compression::None).expect("fit"), batch);
    }
}

/// A batch at offset 9 whose one record is the bytes of `body`.
fn raw(body: &[u8]) -> Bytes {
    let mut batch = BytesMut::new();
    varint::put_header(&mut batch, &Header { count: 1, total_bytes: HEADER_BYTES + body.len(), ..template(9) });
    batch.extend_from_slice(body);
    batch.freeze()
}

/// Length 12, attributes, time delta, offset delta, key "k", value "v1", one header "h" with a null value.
const GOLDEN: [u8; 13] = [12 << 1, 0, 0, 0, 2, b'k', 4, b'v', b'1', 2, 2, b'h', 1];

#[test]
fn the_golden_record_of_kafkas_layout_reads_field_by_field() {
    let expected = Record {
        offset: 9,
        timestamp: Timestamp(-1),
        key: Some(Bytes::from_static(b"k")),
        value: Some(Bytes::from_static(b"v1")),
        headers: vec![(Bytes::from_static(b"h"), None)],
    };
    assert_eq!(read_all(&raw(&GOLDEN)).expect("sound"), std::slice::from_ref(&expected));
    let encoded = encode(&template(9), &[expected], Compression::None).expect("it fits");
    assert_eq!(encoded[HEADER_BYTES..], GOLDEN);
}

#[test]
fn bytes_that_no_record_owns_are_damage() {
    let after = [&GOLDEN[..], &[0]].concat();
    assert!(read_all(&raw(&after)).is_err());
    let mut inside = after;
    inside[0] = 13 << 1;
    assert!(read_all(&raw(&inside)).is_err());
    assert!(read_all(&raw(&GOLDEN[..12])).is_err());
}

#[test]
fn a_stamped_batch_gives_its_own_time_to_each_record() {
    let stamped = Header { attributes: 0x08, ..template(0) };
    let batch = encode(&stamped, &[record(0, b"a"), record(1, b"b")], Compression::Zstd).expect("they fit");
    let times: Vec<_> = read_all(&batch).expect("sound").iter().map(|record| record.timestamp.0).collect();
    assert_eq!(times, [1000, 1000]);
}

#[test]
fn a_batch_that_lost_records_keeps_its_range() {
    let wide = Header { last_offset_delta: 20, ..template(5) };
    let batch = encode(&wide, &[record(7, b"a")], Compression::None).expect("it fits");
    let header = Header::read(&batch).expect("sound");
    assert_eq!((header.base_offset, header.next_offset(), header.count), (5, 26, 1));
    assert_eq!(read_all(&batch).expect("sound"), [record(7, b"a")]);
}

#[test]
fn the_last_offset_that_a_batch_can_name_comes_back() {
    let records = [record(0, b"a"), record(i32::MAX.into(), b"b")];
    let batch = encode(&template(0), &records, Compression::None).expect("they fit");
    assert_eq!(Header::read(&batch).expect("sound").next_offset(), 1 << 31);
    assert_eq!(read_all(&batch).expect("sound"), records);
}

#[test]
fn an_emptied_compressed_batch_has_no_records() {
    let mut batch = encode(&template(5), &[], Compression::None).expect("it fits").to_vec();
    batch[22] = 4;
    put_crc(&mut batch);
    assert_eq!(read_all(&Bytes::from(batch)).expect("sound"), []);
}

#[test]
fn records_out_of_order_are_not_encoded() {
    assert!(encode(&template(0), &[record(3, b"a"), record(3, b"b")], Compression::None).is_err());
    assert!(encode(&template(9), &[record(3, b"a")], Compression::None).is_err());
    assert!(encode(&template(0), &[record(1 << 40, b"a")], Compression::None).is_err());
}

#[test]
fn a_marker_says_how_its_transaction_ended() {
    let marker = |key: &'static [u8]| Record { key: Some(Bytes::from_static(key)), ..record(0, b"") };
    assert_eq!(control_type(&marker(&[0, 0, 0, 0])), ControlType::Abort);
    assert_eq!(control_type(&marker(&[0, 0, 0, 1])), ControlType::Commit);
    assert_eq!(control_type(&marker(&[0, 0, 0, 4])), ControlType::Other);
    assert_eq!(control_type(&marker(&[0])), ControlType::Other);
    assert_eq!(control_type(&record(0, b"")), ControlType::Other);
}
