//! A thousand random logs and cuts, held against a model that looks at each record.

use fastrand::Rng;

use super::*;

const CASES: u64 = 1000;

/// Returns the seed of the first case; `FUZZ_SEED=n` repeats one.
fn seed() -> u64 {
    let given = std::env::var("FUZZ_SEED").ok().map(|text| text.parse().expect("FUZZ_SEED is a number"));
    given.unwrap_or_else(|| fastrand::u64(..u64::MAX / 2))
}

/// An archived batch, and the records that are in it: their effective times.
struct Source {
    batch: Bytes,
    records: Vec<Record>,
}

fn field(random: &mut Rng, most: usize) -> Option<Bytes> {
    let bytes = random.usize(..=most);
    match random.u8(..6) {
        0 => None,
        1 => Some(Bytes::new()),
        2 => Some(noise(random, bytes)),
        _ => Some(Bytes::from(vec![random.u8(..3); bytes])),
    }
}

fn any_record(random: &mut Rng, offset: Offset, around: i64) -> Record {
    let time = match random.u8(..40) {
        0 => -1,
        _ => around + random.i64(-300..300),
    };
    let names: [&'static [u8]; 3] = [b"trace", b"", b"\xff\xfe"];
    let headers = (0..random.usize(..4).saturating_sub(1))
        .map(|_| (Bytes::from_static(names[random.usize(..3)]), field(random, 12)))
        .collect();
    Record { offset, timestamp: Timestamp(time), key: field(random, 16), value: field(random, 60), headers }
}

fn source(random: &mut Rng, first: Offset, codec: Compression) -> Source {
    let around = first % 10_000 + 1_000_000;
    let steps: &[Offset] = if random.u8(..3) == 0 { &[1, 1, 2, 5] } else { &[1] };
    let count = [0, 1, 1, 1, 2, 7, 12, 25][random.usize(..8)];
    let mut next = first;
    let mut records: Vec<_> = Vec::new();
    for _ in 0..count {
        records.push(any_record(random, next, around));
        next += steps[random.usize(..steps.len())];
    }
    if let ([only], 0) = (&mut records[..], random.u8(..12)) {
        only.timestamp = Timestamp([i64::MIN, i64::MAX, 0][random.usize(..3)]);
    }
    let one_of = |random: &mut Rng, bit, of| if random.u8(..of) == 0 { bit } else { 0 };
    let (stamped, horizon) = (one_of(random, 0x08, 8), one_of(random, 0x40, 8));
    let attributes = stamped | horizon | one_of(random, 0x10, 3) | one_of(random, 0x200, 9);
    let header = Header {
        attributes,
        base_timestamp: Timestamp(around - 5000),
        last_offset_delta: if steps.len() > 1 { random.i32(0..40) } else { 0 },
        producer_id: random.i64(-1..9),
        base_sequence: random.i32(-1..9),
        leader_epoch: random.i32(-1..9),
        ..template(first)
    };
    // A time may be too far from a horizon.
    let header = match encode(&header, &records, codec) {
        Ok(_) => header,
        Err(_) => Header { attributes: attributes & !0x40, ..header },
    };
    let batch = encode(&header, &records, codec).expect("they fit");
    let max = records.iter().map(|record| record.timestamp).max();
    records.iter_mut().filter(|_| stamped != 0).for_each(|record| record.timestamp = max.expect("not empty"));
    Source { batch, records }
}

fn log(random: &mut Rng) -> Vec<Source> {
    let mut next = [0, 100, 1 << 40][random.usize(..3)];
    let usual = ALL[random.usize(..5)];
    let mut sources = Vec::new();
    for _ in 0..random.usize(1..9) {
        let codec = if random.u8(..8) == 0 { ALL[random.usize(..5)] } else { usual };
        let source = source(random, next, codec);
        next = read(&source.batch).next_offset() + (random.i64(0..8) - 5).max(0);
        sources.push(source);
    }
    sources
}

fn window(random: &mut Rng, sources: &[Source]) -> Window {
    let (first, last) = (&sources[0].batch, &sources[sources.len() - 1].batch);
    let (start, end) = (read(first).base_offset, read(last).next_offset());
    let mut offset = |or| if random.u8(..3) > 0 { or } else { random.i64(start - 2..end + 3) };
    let offsets = OffsetRange { first: offset(0), next: offset(Offset::MAX) };
    let around = start % 10_000 + 1_000_000;
    let mut time = || (random.u8(..5) == 0).then(|| Timestamp(around + random.i64(-350..400)));
    Window { offsets, from: time(), until: time() }
}

fn limits(random: &mut Rng) -> Limits {
    Limits {
        // Any one record fits.
        most_bytes: [400, 700, 2000, 1 << 20][random.usize(..4)],
        merge_below: [0, 120, 300, 16 << 10][random.usize(..4)],
        merge_to: [200, 1000, 256 << 10][random.usize(..3)],
    }
}

/// Whether an archived batch was cut between these two.
fn is_of_one_batch(before: &Fitted, after: &Fitted, batches: &[Bytes]) -> bool {
    let batch_of = |offset| batches.iter().position(|batch| offset <= read(batch).last_offset());
    before.sources.offsets().last().and_then(batch_of) == after.sources.offsets().next().and_then(batch_of)
}

#[test]
fn a_thousand_logs_and_cuts_come_out_as_a_model_keeps_them() {
    let seed = seed();
    let (mut same, mut merged, mut cut, mut empty) = (0, 0, 0, 0);
    for case in seed..seed + CASES {
        let random = &mut Rng::with_seed(case);
        let sources = log(random);
        let (window, limits) = (window(random, &sources), limits(random));
        let batches: Vec<_> = sources.iter().map(|source| source.batch.clone()).collect();
        let fitted = refitted(limits, &window, &batches).unwrap_or_else(|error| panic!("FUZZ_SEED={case}: {error}"));
        let expected: Vec<_> = (sources.iter().flat_map(|source| &source.records))
            .filter(|record| window.contains(record.offset, record.timestamp))
            .cloned()
            .collect();
        assert_eq!(all_sent(&fitted), expected, "FUZZ_SEED={case}");
        let largest = fitted.iter().map(|fitted| fitted.batch.total_bytes()).max().unwrap_or(0);
        assert!(largest <= limits.most_bytes, "FUZZ_SEED={case}: {largest} bytes");
        same += fitted.iter().filter(|fitted| batches.iter().any(|batch| is_slice(fitted, batch))).count();
        merged += usize::from(fitted.len() < batches.len() / 2);
        cut += fitted.windows(2).filter(|pair| is_of_one_batch(&pair[0], &pair[1], &batches)).count();
        empty += usize::from(expected.is_empty());
    }
    let met = [same, merged, cut, empty];
    assert!(met.iter().all(|times| *times >= 20), "FUZZ_SEED={seed}: too little was met: {met:?}");
}

#[test]
fn a_damaged_bit_never_comes_out_as_other_records_under_a_right_checksum() {
    let seed = seed();
    let mut found = 0;
    for case in seed..seed + CASES {
        let random = &mut Rng::with_seed(case);
        let codec = ALL[random.usize(..5)];
        let first = random.i64(0..1000);
        let Source { batch, mut records } = source(random, first, codec);
        let mut bytes = batch.to_vec();
        let at = random.usize(..bytes.len());
        bytes[at] ^= 1 << random.u8(..8);
        let Ok(header) = Header::read(&bytes) else { continue };
        let (mut refit, mut out, bytes) = (Refit::new(limits(random)), Vec::new(), Bytes::from(bytes));
        let done = refit.put(&header, &bytes, &EVERYTHING, &mut out).and_then(|()| refit.flush(&mut out));
        match done {
            Err(error) => {
                assert!(error.kind() == Kind::Damaged && at >= 8, "FUZZ_SEED={case}: byte {at}: {error}");
                let offset = format!("(offset {})", header.base_offset);
                assert!(error.to_string().contains(&offset), "FUZZ_SEED={case}: {error}");
                found += 1;
            }
            Ok(()) => {
                // No checksum of the batch covers where it is and the epoch; the archive's digest does.
                assert!(at < 8 || (12..16).contains(&at), "FUZZ_SEED={case}: byte {at}");
                let by = header.base_offset - first;
                records.iter_mut().for_each(|record| record.offset += by);
                assert_eq!(all_sent(&out), records, "FUZZ_SEED={case}");
            }
        }
    }
    assert!(found > CASES / 2, "FUZZ_SEED={seed}: {found} of {CASES}");
}
