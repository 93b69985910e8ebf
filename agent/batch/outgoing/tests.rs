//! Laws of what is sent: nothing but a header changes where nothing has to, and no record ever does.

mod model;

use super::*;
use crate::batch::records::tests::ALL;
use crate::batch::records::{Record, Records, encode};
use crate::batch::{put_crc, walk};
use crate::error::Kind;

const PRODUCER: Identity = Identity { producer_id: 77, epoch: 3 };

const LIMITS: Limits = Limits { most_bytes: 1 << 20, merge_below: 16 << 10, merge_to: 256 << 10 };

const ALONE: Limits = Limits { merge_below: 0, ..LIMITS };

const EVERYTHING: Window = Window { offsets: OffsetRange { first: 0, next: Offset::MAX }, from: None, until: None };

fn record(offset: Offset, time: i64, value: impl Into<Bytes>) -> Record {
    let key = (offset % 3 != 0).then(|| Bytes::from_static(b"k"));
    let headers = vec![(Bytes::from_static(b"h"), None); (offset % 2) as usize];
    Record { offset, timestamp: Timestamp(time), key, value: Some(value.into()), headers }
}

fn records(offsets: impl IntoIterator<Item = Offset>) -> Vec<Record> {
    offsets.into_iter().map(|offset| record(offset, 1000 + offset % 7, format!("value {offset}"))).collect()
}

/// Bytes that do not compress.
fn noise(random: &mut fastrand::Rng, bytes: usize) -> Bytes {
    (0..bytes).map(|_| random.u8(..)).collect()
}

fn batch(records: &[Record], compression: Compression) -> Bytes {
    encode(&template(records[0].offset), records, compression).expect("they fit")
}

/// The batch with some fields of its header changed, and its checksum right.
fn resealed(batch: &Bytes, header: Header) -> Bytes {
    let mut out = Vec::new();
    put_header(&mut out, &header);
    out.extend_from_slice(&batch[HEADER_BYTES..]);
    put_crc(&mut out);
    out.into()
}

fn read(batch: &Bytes) -> Header {
    Header::read(batch).expect("our own header")
}

fn refitted(limits: Limits, window: &Window, batches: &[Bytes]) -> Result<Vec<Fitted>> {
    let (mut refit, mut out) = (Refit::new(limits), Vec::new());
    for batch in batches {
        refit.put(&read(batch), batch, window, &mut out)?;
    }
    refit.flush(&mut out)?;
    Ok(out)
}

/// The batch as it is sent, and its records at the offsets that they came from; it is such as a broker takes.
fn sent(fitted: &Fitted) -> (Header, Vec<Record>) {
    let bytes = Bytes::from([&fitted.batch.seal(PRODUCER, 41, false)[..], fitted.batch.payload()].concat());
    assert_eq!(bytes.len(), fitted.batch.total_bytes());
    let header = read(&bytes);
    assert!(crc_matches(&bytes) && header.total_bytes == bytes.len() && walk(&bytes).count() == 1);
    assert!(header.is_dense() && header.attributes & !0x07 == 0 && header.base_offset == 0);
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence, header.leader_epoch), (77, 3, 41, -1));
    assert_eq!(header.count.cast_unsigned(), fitted.batch.records());
    let mut records: Vec<_> = Records::of(&header, &bytes).and_then(Iterator::collect).expect("it can be read");
    assert_eq!(header.max_timestamp, records.iter().map(|record| record.timestamp).max().expect("it is not empty"));
    assert_eq!(fitted.sources.offsets().count(), records.len());
    records.iter_mut().zip(fitted.sources.offsets()).for_each(|(record, offset)| record.offset = offset);
    (header, records)
}

#[test]
fn a_batch_in_a_transaction_differs_by_its_attribute_alone() {
    for count in [3, 3_000] {
        let archived = batch(&records(0..count), Compression::Lz4);
        let fitted = refitted(ALONE, &EVERYTHING, &[archived]).expect("sound").remove(0);
        let sealed = |transactional| {
            let head = fitted.batch.seal(PRODUCER, 41, transactional);
            Bytes::from([&head[..], fitted.batch.payload()].concat())
        };
        let (outside, inside) = (sealed(false), sealed(true));
        assert!(crc_matches(&inside) && read(&inside).is_transactional() && !read(&inside).is_control());
        assert_eq!(inside[23..], outside[23..], "behind the attributes");
        assert_eq!(read(&inside).attributes, read(&outside).attributes | 0x10);
    }
}

fn all_sent(fitted: &[Fitted]) -> Vec<Record> {
    fitted.iter().flat_map(|fitted| sent(fitted).1).collect()
}

/// Whether what is sent has the bytes of the archive.
fn keeps(fitted: &Fitted, batch: &Bytes) -> bool {
    fitted.batch.payload == batch[HEADER_BYTES..]
}

/// Whether what is sent are the very bytes that were put: nothing was copied.
fn is_slice(fitted: &Fitted, batch: &Bytes) -> bool {
    let payload = &batch[HEADER_BYTES..];
    (fitted.batch.payload.as_ptr(), fitted.batch.payload.len()) == (payload.as_ptr(), payload.len())
}

#[test]
fn a_batch_that_a_broker_takes_keeps_its_bytes() {
    let template = Header {
        attributes: 0x50 | 0x80 | 0x4000,
        base_timestamp: Timestamp(1_800_000_000_000),
        producer_id: 9,
        leader_epoch: 4,
        ..template(1000)
    };
    let mut random = fastrand::Rng::with_seed(1);
    let mut given = records(1000..1020);
    // Once with a payload whose checksum is combined, once with one that is read again.
    for bytes in [0, 2 * COMBINED_FROM_BYTES] {
        given[3].value = Some(noise(&mut random, bytes));
        for (codec, limits) in ALL.into_iter().flat_map(|codec| [(codec, LIMITS), (codec, ALONE)]) {
            let batch = encode(&template, &given, codec).expect("they fit");
            let fitted = refitted(limits, &EVERYTHING, std::slice::from_ref(&batch)).expect("sound");
            assert!(fitted.len() == 1 && keeps(&fitted[0], &batch), "{codec:?}");
            let (header, sent) = sent(&fitted[0]);
            assert_eq!((header.base_timestamp, sent), (Timestamp(1_800_000_000_000), given.clone()));
            assert_eq!(header.compression().expect("known"), codec);
            assert_eq!(fitted[0].sources, Sources::dense(1000, 20));
        }
    }
}

#[test]
fn what_a_header_proves_is_not_looked_up() {
    let plain = batch(&records(100..103), Compression::None);
    let header = Header { attributes: 4, max_timestamp: Timestamp(2000), ..read(&plain) };
    // The payload is no zstd at all.
    let three = resealed(&plain, header);
    let one = resealed(&plain, Header { count: 1, last_offset_delta: 0, ..header });
    let at =
        |from: i64, until: i64| Window { from: Some(Timestamp(from)), until: Some(Timestamp(until)), ..EVERYTHING };
    let exactly = Window { offsets: OffsetRange { first: 100, next: 103 }, until: Some(Timestamp(2001)), ..EVERYTHING };
    let before = Window { offsets: OffsetRange { first: 0, next: 100 }, ..EVERYTHING };
    let told = |batch: &Bytes, window: &Window| {
        refitted(LIMITS, window, std::slice::from_ref(batch)).map(|fitted| fitted.len()).map_err(|error| error.kind())
    };
    assert_eq!(told(&three, &exactly), Ok(1));
    assert_eq!((told(&three, &before), told(&three, &at(2001, 9000))), (Ok(0), Ok(0)));
    assert_eq!((told(&one, &at(2000, 2001)), told(&one, &at(0, 2000))), (Ok(1), Ok(0)));
    assert_eq!((told(&three, &at(2000, 2001)), told(&three, &at(0, 2000))), (Err(Kind::Damaged), Err(Kind::Damaged)));
}

#[test]
fn a_batch_with_holes_is_made_dense() {
    for codec in ALL {
        let given = records([100, 101, 105, i64::from(i32::MAX) + 100]);
        let fitted = refitted(ALONE, &EVERYTHING, &[batch(&given, codec)]).expect("sound");
        assert_eq!(fitted.len(), 1);
        assert_eq!(sent(&fitted[0]).1, given);
        assert_eq!(fitted[0].sources.iter().collect::<Vec<_>>(), [(100, 2), (105, 1), (given[3].offset, 1)]);
        // Its last records may be missing too.
        let whole = batch(&records(5..9), codec);
        let wide = resealed(&whole, Header { last_offset_delta: 50, ..read(&whole) });
        assert_eq!(all_sent(&refitted(LIMITS, &EVERYTHING, &[wide]).expect("sound")), records(5..9));
    }
}

#[test]
fn records_of_a_stamped_batch_have_its_time() {
    for (codec, limits) in ALL.into_iter().flat_map(|codec| [(codec, LIMITS), (codec, ALONE)]) {
        let stamped = Header { attributes: 0x08, ..template(7) };
        let stamped = encode(&stamped, &records(7..20), codec).expect("they fit");
        let fitted = refitted(limits, &EVERYTHING, &[stamped]).expect("sound");
        assert_eq!(fitted.len(), 1);
        let expected = records(7..20).into_iter().map(|record| Record { timestamp: Timestamp(1006), ..record });
        assert!(sent(&fitted[0]).1.into_iter().eq(expected));
    }
}

#[test]
fn a_window_through_a_batch_takes_exactly_its_records() {
    let batch = batch(&records(100..150), Compression::Lz4);
    let window = |first, next, from: i64, until: i64| Window {
        offsets: OffsetRange { first, next },
        from: Some(Timestamp(from)),
        until: Some(Timestamp(until)),
    };
    for window in [window(110, 120, 0, 9000), window(0, 9000, 1002, 1005), window(149, 200, 0, 1003)] {
        for limits in [LIMITS, ALONE] {
            let fitted = refitted(limits, &window, std::slice::from_ref(&batch)).expect("sound");
            let expected: Vec<_> = records(100..150)
                .into_iter()
                .filter(|record| window.contains(record.offset, record.timestamp))
                .collect();
            assert!(!expected.is_empty());
            assert_eq!(all_sent(&fitted), expected);
        }
    }
}

#[test]
fn a_batch_of_which_all_is_taken_after_all_keeps_its_bytes() {
    let batch = batch(&records(100..150), Compression::Zstd);
    // The header does not say that no record is earlier.
    let window = Window { from: Some(Timestamp(1000)), ..EVERYTHING };
    for limits in [LIMITS, ALONE] {
        let fitted = refitted(limits, &window, std::slice::from_ref(&batch)).expect("sound");
        assert!(fitted.len() == 1 && keeps(&fitted[0], &batch));
    }
}

#[test]
fn an_emptied_batch_is_nothing_to_send() {
    let batch = encode(&Header { last_offset_delta: 8, ..template(5) }, &[], Compression::None).expect("it fits");
    assert!(refitted(LIMITS, &EVERYTHING, &[batch]).expect("sound").is_empty());
}

#[test]
fn small_batches_are_merged_in_order() {
    for codec in ALL {
        let given = records(100..1100);
        let ones: Vec<_> = given.iter().map(|record| batch(std::slice::from_ref(record), codec)).collect();
        let fitted = refitted(Limits { merge_to: 8000, ..LIMITS }, &EVERYTHING, &ones).expect("sound");
        assert!((2..9).contains(&fitted.len()), "{codec:?}: {} batches", fitted.len());
        assert!(fitted.iter().all(|fitted| fitted.batch.total_bytes() <= 8000 && fitted.sources.iter().count() == 1));
        assert_eq!(all_sent(&fitted), given);
        assert_eq!(refitted(ALONE, &EVERYTHING, &ones).expect("sound").len(), 1000, "0 turns it off");
        assert_eq!(refitted(LIMITS, &EVERYTHING, &ones).expect("sound").len(), 1);
    }
}

#[test]
fn nothing_is_merged_with_what_it_has_to_be_told_from() {
    let of = |first: Offset, attributes, codec| {
        let stamped = Header { attributes, ..template(first) };
        encode(&stamped, &records(first..first + 2), codec).expect("they fit")
    };
    let kinds = [(0, Compression::Lz4), (0, Compression::Zstd), (8, Compression::Zstd), (0, Compression::Zstd)];
    let mut batches = Vec::new();
    for ((attributes, codec), first) in kinds.into_iter().zip([0, 10, 20, 30]) {
        batches.extend([of(first, attributes, codec), of(first + 2, attributes, codec)]);
    }
    let fitted = refitted(LIMITS, &EVERYTHING, &batches).expect("sound");
    let runs: Vec<_> = fitted.iter().map(|fitted| fitted.sources.iter().collect::<Vec<_>>()).collect();
    assert_eq!(runs, [[(0, 4)], [(10, 4)], [(20, 4)], [(30, 4)]]);
}

#[test]
fn a_large_batch_goes_behind_the_small_ones_that_wait() {
    let mut random = fastrand::Rng::with_seed(2);
    let large = batch(&[record(3, 5, noise(&mut random, 20_000))], Compression::None);
    let small = |offset| batch(&records(offset..offset + 1), Compression::None);
    let batches = [small(1), small(2), large.clone(), small(4)];
    let fitted = refitted(LIMITS, &EVERYTHING, &batches).expect("sound");
    let firsts: Vec<_> = fitted.iter().map(|fitted| fitted.sources.clone()).collect();
    assert_eq!(firsts, [Sources::dense(1, 2), Sources::dense(3, 1), Sources::dense(4, 1)]);
    assert!(is_slice(&fitted[1], &large), "it did not wait");
    assert_eq!(fitted[2].batch.payload, batches[3][HEADER_BYTES..], "it has no other beside it");
    assert!(!is_slice(&fitted[2], &batches[3]), "what waits holds nothing of what was read with it");
}

#[test]
fn small_batches_of_huge_records_are_not_merged() {
    for codec in [Compression::Gzip, Compression::Snappy, Compression::Zstd] {
        let huge = |offset: Offset| batch(&[record(offset, 0, vec![0; 300 << 10])], codec);
        let batches = [huge(1), huge(2), batch(&records(3..4), codec), huge(4)];
        assert!(batches.iter().all(|batch| batch.len() < LIMITS.merge_below), "{codec:?}");
        let (mut refit, mut out) = (Refit::new(LIMITS), Vec::new());
        for batch in &batches {
            refit.put(&read(batch), batch, &EVERYTHING, &mut out).expect("sound");
            assert!(refit.scratch.iter().all(|scratch| scratch.capacity() < 2 * LIMITS.merge_to), "{codec:?}");
        }
        refit.flush(&mut out).expect("sound");
        assert!(out.len() == 4 && out.iter().zip(&batches).all(|(fitted, batch)| keeps(fitted, batch)), "{codec:?}");
    }
}

#[test]
fn what_was_made_of_archived_records_tells_where_they_were_however_it_is_sent() {
    let made = |offsets: &[Offset]| {
        let given: Vec<_> =
            (0..).zip(offsets).map(|(at, offset)| Record { offset: at, ..record(*offset, 5, "v") }).collect();
        (batch(&given, Compression::Lz4), offsets.iter().copied().collect::<Sources>())
    };
    let sparse = [100, 103, 103, 109, 240];
    let all = |limits: Limits| {
        let (mut refit, mut out) = (Refit::new(limits), Vec::new());
        let archived = batch(&records(90..93), Compression::Lz4);
        refit.put(&read(&archived), &archived, &EVERYTHING, &mut out).expect("sound");
        for (batch, sources) in [made(&sparse), made(&[300, 302])] {
            refit.put_made(&read(&batch), &batch, sources, &mut out).expect("ours");
        }
        let waits_from = refit.waits_from();
        refit.flush(&mut out).expect("ours");
        assert_eq!((refit.waits_from(), refit.waiting_bytes()), (None, 0));
        let offsets: Vec<Vec<_>> = out.iter().map(|fitted| fitted.sources.offsets().collect()).collect();
        out.iter().for_each(|fitted| drop(sent(fitted)));
        (offsets, waits_from)
    };
    let one = [&[90, 91, 92][..], &sparse, &[300, 302]].concat();
    assert_eq!(all(LIMITS), (vec![one], Some(90)));
    assert_eq!(all(ALONE), (vec![vec![90, 91, 92], sparse.to_vec(), vec![300, 302]], None));
    let (offsets, _) = all(Limits { most_bytes: HEADER_BYTES + 40, ..ALONE });
    assert!(offsets.len() > 3, "{offsets:?}");
    assert_eq!(offsets.concat(), [&[90, 91, 92][..], &sparse, &[300, 302]].concat());
    let (batch, sources) = made(&sparse);
    let (mut refit, mut out) = (Refit::new(LIMITS), Vec::new());
    refit.put_made(&read(&batch), &batch, sources, &mut out).expect("ours");
    assert_eq!((refit.waits_from(), refit.waiting_bytes()), (Some(100), batch.len()));
    refit.flush(&mut out).expect("ours");
    assert_eq!(out[0].batch.payload, batch[HEADER_BYTES..], "one that stays alone is not encoded again");
}

#[test]
fn what_waits_is_bounded_by_its_plain_bytes() {
    let limits = Limits { merge_to: 4000, ..LIMITS };
    let (mut refit, mut out) = (Refit::new(limits), Vec::new());
    for offset in 0..200 {
        let batch = batch(&[record(offset, 0, vec![b'x'; 300])], Compression::Zstd);
        refit.put(&read(&batch), &batch, &EVERYTHING, &mut out).expect("sound");
        assert!(refit.waiting.plain_bytes() <= 4000);
    }
    refit.flush(&mut out).expect("sound");
    assert!((15..40).contains(&out.len()), "{}", out.len());
}

#[test]
fn times_too_far_apart_are_sent_in_batches_of_their_own() {
    let times = [0, i64::MIN, -1, i64::MAX, i64::MAX - 1, 5];
    let given: Vec<_> = (0..).zip(times).map(|(offset, time)| record(offset, time, "v")).collect();
    let ones: Vec<_> = given.iter().map(|record| batch(std::slice::from_ref(record), Compression::Lz4)).collect();
    assert_eq!(all_sent(&refitted(LIMITS, &EVERYTHING, &ones).expect("sound")), given);
    // One archived batch of them, whose base lies between.
    let horizon = Header { attributes: 0x40, base_timestamp: Timestamp(0), last_offset_delta: 9, ..template(0) };
    let one = encode(&horizon, &given, Compression::Lz4).expect("they fit");
    assert_eq!(all_sent(&refitted(LIMITS, &EVERYTHING, &[one]).expect("sound")), given);
}

#[test]
fn a_batch_larger_than_its_target_takes_is_cut_in_as_few_as_fit() {
    let mut random = fastrand::Rng::with_seed(3);
    let given: Vec<_> = (50..250).map(|offset| record(offset, offset, noise(&mut random, 200))).collect();
    for (codec, limits) in ALL.into_iter().flat_map(|codec| [(codec, LIMITS), (codec, ALONE)]) {
        let batch = batch(&given, codec);
        for most_bytes in [batch.len() - 1, batch.len() / 3, 1000] {
            let limits = Limits { most_bytes, ..limits };
            let fitted = refitted(limits, &EVERYTHING, std::slice::from_ref(&batch)).expect("each record fits");
            assert_eq!(all_sent(&fitted), given);
            assert!(fitted.iter().all(|fitted| fitted.batch.total_bytes() <= most_bytes), "{codec:?} {most_bytes}");
            let fewest = (batch.len() - HEADER_BYTES).div_ceil(most_bytes - HEADER_BYTES);
            assert!(fitted.len() >= fewest.min(2), "{codec:?} {most_bytes}: {} batches", fitted.len());
            // Three or four of these records are a thousand bytes: a cut between them wastes a quarter.
            let most = if most_bytes == 1000 { 2 * fewest } else { fewest + 1 };
            assert!(fitted.len() <= most, "{codec:?} {most_bytes}: {} batches, not {fewest}", fitted.len());
        }
    }
}

#[test]
fn a_record_that_its_target_does_not_take_is_named() {
    let mut random = fastrand::Rng::with_seed(4);
    let mut given = records(100..110);
    given[7].value = Some(noise(&mut random, 3000));
    for (codec, limits) in ALL.into_iter().flat_map(|codec| [(codec, LIMITS), (codec, ALONE)]) {
        let limits = Limits { most_bytes: 2000, ..limits };
        let error = refitted(limits, &EVERYTHING, &[batch(&given, codec)]).expect_err("it does not fit");
        assert_eq!(error.kind(), Kind::Failed);
        let said = error.to_string();
        assert!(said.contains("(offset 107, max.message.bytes 2000)"), "{said}");
        let bytes: usize = said.split(' ').find_map(|word| word.parse().ok()).expect("its size");
        assert!((3000..3200).contains(&bytes), "{said}");
    }
}

#[test]
fn damage_is_found_before_a_new_checksum_is_made() {
    let given = records(100..104);
    let nothing = Window { from: Some(Timestamp(1 << 50)), ..EVERYTHING };
    for (codec, window) in ALL.into_iter().flat_map(|codec| [(codec, EVERYTHING), (codec, nothing)]) {
        let sound = batch(&given, codec);
        assert!(refitted(LIMITS, &window, std::slice::from_ref(&sound)).is_ok());
        for bit in 17 * 8..sound.len() * 8 {
            let mut bytes = sound.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(header) = Header::read(&bytes) else { continue };
            let (mut refit, mut out) = (Refit::new(LIMITS), Vec::new());
            let error = refit.put(&header, &bytes.into(), &window, &mut out).expect_err("a bit is another");
            assert_eq!((error.kind(), out.len()), (Kind::Damaged, 0));
            assert!(error.to_string().contains("(offset 100)"), "{error}");
        }
    }
}

#[test]
fn a_batch_that_must_be_read_and_cannot_be_is_named() {
    let plain = batch(&records(100..103), Compression::None);
    let holed = resealed(&plain, Header { attributes: 4, last_offset_delta: 9, ..read(&plain) });
    let cut = plain.slice(..plain.len() - 1);
    for limits in [LIMITS, ALONE] {
        let error = refitted(limits, &EVERYTHING, std::slice::from_ref(&holed)).expect_err("no zstd");
        assert!(error.kind() == Kind::Damaged && error.to_string().contains("(offset 100)"), "{error}");
        let error = refitted(limits, &EVERYTHING, std::slice::from_ref(&cut)).expect_err("a byte is missing");
        assert!(error.kind() == Kind::Damaged && error.to_string().contains("(offset 100)"), "{error}");
    }
}
