//! The mutation test of the record codec: batches, the compressed bytes in them, and message sets of old formats.

use fastrand::Rng;

use super::Compression;
use super::codec::{compress, decompress};
use super::legacy::mutation::Sets;
use super::records::mutation::{Batches, endless_zstd};
use crate::error::Kind;
use crate::mutation::{self, Tally, Wanted};

/// How a case may end: every way in which the codec can refuse, and that it does not.
const WANTED: Wanted = &[
    "a batch is read",
    "a batch without records is read",
    "a batch is encoded again",
    "times do not fit one batch",
    "a batch is sent as it is",
    "a batch is sent as another",
    "a batch is not sent",
    "records of a batch decompress to more than",
    "a stream is read",
    "bytes are too few for a record batch",
    "record batch has format v",
    "record batch header contradicts itself",
    "record batch is cut off",
    "compression 7 is unknown",
    "records do not decompress (offset",
    "record length is negative",
    "bytes where",
    "varint is cut off or too long",
    "varint exceeds 32 bits",
    "record has offset delta",
    "time overflows",
    "header count is negative",
    "header has no name",
    "record has",
    "bytes follow the last record",
    "a set is read",
    "its checksum does not match its bytes",
    "bytes are too few for a message",
    "a message of format v",
    "has no compression",
    "a message has",
    "a message is cut off before its key or value",
    "a key or value of",
    "a compressed message has no value",
    "a message inside a compressed one is cut off",
    "a compressed message lies inside another",
    "a compressed message holds none",
    "beyond its own",
    "lies before the message in front of it",
    "records do not fit one batch",
    "its offsets lie too far apart",
];

/// The limit of streams that inflate to much more. What a batch may inflate to is more than this process may take.
const LIMIT_BYTES: usize = 48 << 20;

pub(in crate::batch) const ALL: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

#[test]
fn no_bytes_break_the_record_codec_or_fill_the_memory() {
    let test = concat!(module_path!(), "::no_bytes_break_the_record_codec_or_fill_the_memory");
    mutation::run(test, WANTED, || {
        for (codec, bomb) in bombs() {
            let error = decompress(codec, &bomb, LIMIT_BYTES).expect_err("more than the limit");
            assert!(error.to_string().contains("decompress to more than 48 MiB"), "{codec:?}: {error}");
        }
        let (batches, sets) = (Batches::new(), Sets::new());
        batches.most_rows();
        move |random: &mut Rng, tally: &mut Tally| match random.u8(..16) {
            0 | 1 => stream(random, tally),
            2..6 => sets.case(random, tally),
            _ => batches.case(random, tally),
        }
    });
}

/// Some kilobytes each that mean a gigabyte.
fn bombs() -> Vec<(Compression, Vec<u8>)> {
    let zeros = vec![0; 8 << 20];
    let streams = [Compression::Gzip, Compression::Snappy, Compression::Zstd];
    let mut bombs: Vec<_> = streams.map(|codec| (codec, compress(codec, &zeros).repeat(128))).into();
    // A frame's header is of seven bytes, its end of four; between them lie its blocks of 64 KiB.
    let frame = compress(Compression::Lz4, &zeros[..64 << 10]);
    let blocks = frame[7..frame.len() - 4].repeat(16 << 10);
    bombs.push((Compression::Lz4, [&frame[..7], &blocks, &frame[frame.len() - 4..]].concat()));
    bombs.push((Compression::Zstd, endless_zstd(8 << 10)));
    bombs
}

/// Compressed bytes that are something else now: what they inflate to does not depend on the limit, and is within it.
fn stream(random: &mut Rng, tally: &mut Tally) {
    let unit: Vec<u8> = (0..random.usize(1..60)).map(|_| random.u8(..)).collect();
    let plain = unit.repeat(random.usize(..2000));
    let codec = ALL[random.usize(..ALL.len())];
    let mut packed = compress(codec, &plain).to_vec();
    for _ in 0..random.u8(..4) {
        mutation::mutate(random, &mut packed);
    }
    let limit = if random.bool() { plain.len() } else { random.usize(..=plain.len() + 9) };
    let (narrow, wide) = (decompress(codec, &packed, limit), decompress(codec, &packed, 1 << 24));
    match (narrow, wide) {
        (Ok(narrow), wide) => {
            assert!(narrow.len() <= limit, "{} bytes of at most {limit}", narrow.len());
            assert_eq!(wide.expect("a greater limit refuses nothing more"), narrow);
            tally.note("a stream is read");
        }
        (Err(error), wide) => {
            assert_eq!(error.kind(), Kind::Damaged, "{error}");
            assert!(wide.is_err() || wide.is_ok_and(|wide| wide.len() > limit), "within the limit, and {error}");
            tally.note(&error.to_string());
        }
    }
}
