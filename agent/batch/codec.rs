//! The compression of a batch's records: gzip, Snappy, LZ4 and Zstandard as Kafka's clients write them.
//!
//! Pure: bytes in, bytes out. Every output is bounded by the caller's limit, and no size that the compressed bytes
//! declare is believed: buffers grow with what was really decompressed, or with what the format can make of the input
//! at most. Formats: [KIP-110](https://cwiki.apache.org/confluence/display/KAFKA/KIP-110) (zstd), Xerial's block stream
//! for Snappy (<https://github.com/xerial/snappy-java>), the standard LZ4 frame with independent blocks.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{Read, Write};

use bytes::Bytes;
use zstd::zstd_safe;

use super::Compression;
use crate::error::{Error, Result};

/// What the records of one batch may decompress to at most.
///
/// A broker takes batches of up to 2 GiB uncompressed but for its settings; one that inflates beyond half a gigabyte is
/// an attack or damage rather than data, and four times this would exhaust a small machine.
pub const LIMIT_BYTES: usize = 512 << 20;

/// Output buffers start at this size at most, whatever the input declares: double costs memory on each small batch,
/// half costs large ones one more copy.
const START_BYTES: usize = 1 << 20;

/// Xerial's stream begins with these bytes, then two versions of four bytes each.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];

/// Bytes of Xerial's stream header.
const XERIAL_HEADER_BYTES: usize = 16;

/// Plain bytes in one Xerial block; Kafka's client writes the same.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// No Snappy block inflates more: its best element makes 64 bytes of three.
const SNAPPY_MAX_RATIO: usize = 22;

/// How an LZ4 frame begins that one of Kafka's clients wrote: independent blocks of 64 KiB, without checksums. Kafka's Java
/// reader refuses linked blocks, and knows neither dictionaries nor the legacy frame.
const LZ4_FRAME: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];

/// Plain bytes in one block of such a frame at most.
const LZ4_BLOCK_BYTES: usize = 64 << 10;

/// Said with a block's length where the block is not compressed.
const LZ4_PLAIN: u32 = 1 << 31;

/// What a thread's zstd may keep between frames; the window of Kafka's own producer is 2 MiB. Half would make it anew for
/// each of them, double is paid for by every thread.
const MOST_CONTEXT_BYTES: usize = 4 << 20;

/// The levels at which we compress: those of Kafka's own producer (gzip −1, zstd 3).
const ZSTD_LEVEL: i32 = 3;

/// Returns the plain records; `input` itself, without a copy, where they are not compressed.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when the bytes are not what `compression` says, or inflate beyond
/// `limit_bytes`.
pub fn decompress(compression: Compression, input: &[u8], limit_bytes: usize) -> Result<Cow<'_, [u8]>> {
    let mut out = Vec::new();
    let _plain = decompress_in(compression, input, limit_bytes, &mut out)?;
    Ok(if compression == Compression::None { Cow::Borrowed(input) } else { Cow::Owned(out) })
}

/// Returns the plain records as [`decompress`] does, in `out` where they are compressed, whatever was in there: who reads
/// many batches needs one buffer for all of them.
///
/// # Errors
/// As [`decompress`].
pub fn decompress_in<'a>(
    compression: Compression,
    input: &'a [u8],
    limit_bytes: usize,
    out: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    out.clear();
    match compression {
        Compression::None if input.len() > limit_bytes => return Err(too_large(limit_bytes)),
        Compression::None => return Ok(input),
        Compression::Gzip => drain(flate2::bufread::MultiGzDecoder::new(input), limit_bytes, out)?,
        Compression::Snappy => unsnap(input, limit_bytes, out)?,
        Compression::Lz4 => unlz4(input, limit_bytes, out)?,
        Compression::Zstd => unzstd(input, limit_bytes, out)?,
    }
    Ok(out)
}

/// Returns `input` compressed as Kafka's Java client would (same framing, same levels).
pub fn compress(compression: Compression, input: &[u8]) -> Bytes {
    const IN_MEMORY: &str = "writing to a vector does not fail";
    match compression {
        Compression::None => Bytes::copy_from_slice(input),
        Compression::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            writer.write_all(input).expect(IN_MEMORY);
            Bytes::from(writer.finish().expect(IN_MEMORY))
        }
        Compression::Snappy => Bytes::from(snap_blocks(input)),
        Compression::Lz4 => Bytes::from(lz4_blocks(input)),
        Compression::Zstd => {
            Bytes::from(zstd::bulk::compress(input, ZSTD_LEVEL).expect("a buffer of zstd's own bound is enough"))
        }
    }
}

/// Reads `reader` to its end into `out`, but never beyond the limit.
fn drain(reader: impl Read, limit_bytes: usize, out: &mut Vec<u8>) -> Result<()> {
    let read = reader.take(limit_bytes as u64 + 1).read_to_end(out).map_err(damaged)?;
    if read > limit_bytes { Err(too_large(limit_bytes)) } else { Ok(()) }
}

/// Reads Snappy: Xerial's stream (several may follow each other), or a single plain block without any framing, which
/// is what librdkafka and others write and every client reads.
fn unsnap(input: &[u8], limit_bytes: usize, out: &mut Vec<u8>) -> Result<()> {
    if !input.starts_with(&XERIAL_MAGIC) {
        return unsnap_block(input, limit_bytes, out);
    }
    let mut rest = input;
    while !rest.is_empty() {
        // The magic is negative as a length, so that a stream that begins anew cannot be taken for a block.
        if rest.starts_with(&XERIAL_MAGIC) {
            rest = rest.get(XERIAL_HEADER_BYTES..).ok_or_else(|| damaged("snappy stream header is cut off"))?;
            continue;
        }
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("snappy block is cut off"))?;
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| damaged("snappy block length < 0"))?;
        let (block, after) = after.split_at_checked(length).ok_or_else(|| damaged("snappy block is cut off"))?;
        unsnap_block(block, limit_bytes, out)?;
        rest = after;
    }
    Ok(())
}

/// Appends one Snappy block to `out`.
fn unsnap_block(block: &[u8], limit_bytes: usize, out: &mut Vec<u8>) -> Result<()> {
    let declared = snap::raw::decompress_len(block).map_err(damaged)?;
    let before = out.len();
    if declared > limit_bytes.saturating_sub(before) {
        return Err(too_large(limit_bytes));
    }
    if declared > block.len().saturating_mul(SNAPPY_MAX_RATIO) {
        return Err(damaged("snappy block declares more than it can hold"));
    }
    out.resize(before + declared, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[before..]).map_err(damaged)?;
    out.truncate(before + written);
    Ok(())
}

/// Returns `input` as a Xerial stream.
fn snap_blocks(input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(XERIAL_HEADER_BYTES + input.len() / 2);
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&1_i32.to_be_bytes());
    out.extend_from_slice(&1_i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block).expect("a block is far below Snappy's 4 GiB");
        out.extend_from_slice(&(packed.len() as i32).to_be_bytes());
        out.extend_from_slice(&packed);
    }
    out
}

/// Makes an LZ4 frame. The crate's own writer copies what it is given before it compresses that, and makes two buffers for
/// each frame.
fn lz4_blocks(input: &[u8]) -> Vec<u8> {
    let mut out = LZ4_FRAME.to_vec();
    for block in input.chunks(LZ4_BLOCK_BYTES) {
        let packed = lz4_flex::block::compress(block);
        let (bytes, mark) = if packed.len() < block.len() { (&packed[..], 0) } else { (block, LZ4_PLAIN) };
        out.reserve(8 + bytes.len());
        out.extend_from_slice(&(bytes.len() as u32 | mark).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    // A block of no length ends it.
    out.extend_from_slice(&[0; 4]);
    out
}

/// Reads an LZ4 frame.
fn unlz4(input: &[u8], limit_bytes: usize, out: &mut Vec<u8>) -> Result<()> {
    if unlz4_blocks(input, limit_bytes, out).is_some() {
        return Ok(());
    }
    out.clear();
    drain(lz4_flex::frame::FrameDecoder::new(input), limit_bytes, out)
}

/// Reads an LZ4 frame such as Kafka's clients write, and only if there is nothing wrong with it; what it leaves in `out`
/// else is of no use. The crate's own reader makes and clears two buffers of a block for each frame, which costs more than
/// a small batch does.
fn unlz4_blocks(input: &[u8], limit_bytes: usize, out: &mut Vec<u8>) -> Option<()> {
    thread_local! {
        static BLOCK: RefCell<Vec<u8>> = RefCell::new(vec![0; LZ4_BLOCK_BYTES]);
    }
    let mut rest = input.strip_prefix(&LZ4_FRAME)?;
    BLOCK.with_borrow_mut(|block| {
        loop {
            let (size, after) = rest.split_first_chunk::<4>()?;
            let size = u32::from_le_bytes(*size);
            if size == 0 {
                return Some(());
            }
            let (packed, after) = after.split_at_checked((size & !LZ4_PLAIN) as usize)?;
            match size & LZ4_PLAIN {
                _ if packed.len() > LZ4_BLOCK_BYTES => return None,
                LZ4_PLAIN => out.extend_from_slice(packed),
                _ => {
                    let written = lz4_flex::block::decompress_into(packed, block).ok()?;
                    out.extend_from_slice(&block[..written]);
                }
            }
            if out.len() > limit_bytes {
                return None;
            }
            rest = after;
        }
    })
}

/// Reads Zstandard frames, one after the other, by zstd's own streaming call. Where `out` has no room for the whole frame,
/// or the frame does not tell its size, that keeps a window beside it: as much as was decompressed, at most what the frame
/// asks for, which is bounded by zstd itself (128 MiB). Room is made in the same steps whatever the limit is.
///
/// The state for that is a thread's own: to make it anew costs more than a small batch does.
fn unzstd(input: &[u8], limit_bytes: usize, out: &mut Vec<u8>) -> Result<()> {
    thread_local! {
        static CONTEXT: RefCell<zstd_safe::DCtx<'static>> = RefCell::new(zstd_safe::DCtx::create());
    }
    CONTEXT.with_borrow_mut(|context| {
        let done = unzstd_with(context, input, limit_bytes, out);
        if context.sizeof() > MOST_CONTEXT_BYTES {
            *context = zstd_safe::DCtx::create();
        } else if done.is_err() {
            context.reset(zstd_safe::ResetDirective::SessionOnly).expect("a session can always be ended");
        }
        done
    })
}

fn unzstd_with(context: &mut zstd_safe::DCtx<'_>, input: &[u8], limit_bytes: usize, out: &mut Vec<u8>) -> Result<()> {
    let mut source = zstd_safe::InBuffer::around(input);
    let declared = zstd_safe::get_frame_content_size(input).ok().flatten().unwrap_or(0);
    let guess = usize::try_from(declared).unwrap_or(usize::MAX).max(input.len()).min(START_BYTES);
    // Not less where the limit is less: what zstd takes of a damaged frame depends on the room that it is given.
    out.reserve(guess + 1);
    loop {
        if out.len() == out.capacity() {
            out.reserve(out.len().max(64));
        }
        let before = (out.len(), source.pos());
        let mut sink = zstd_safe::OutBuffer::around_pos(out, before.0);
        let hint = context
            .decompress_stream(&mut sink, &mut source)
            .map_err(|code| damaged(format!("zstd: {}", zstd_safe::get_error_name(code))))?;
        if out.len() > limit_bytes {
            return Err(too_large(limit_bytes));
        }
        let done = source.pos() == input.len();
        if done && hint == 0 {
            return Ok(());
        }
        // Everything is read and the buffer still has room: the frame needs bytes that are not there.
        if before == (out.len(), source.pos()) || (done && out.len() < out.capacity()) {
            return Err(damaged("zstd frame is cut off"));
        }
    }
}

fn damaged(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::damaged("records do not decompress").source(source)
}

fn too_large(limit_bytes: usize) -> Error {
    Error::damaged(format!("records of a batch decompress to more than {} MiB", limit_bytes >> 20))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// Bytes that compress: runs of few values beside random ones.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3000),
            (prop::collection::vec(0_u8..4, 1..600), 1_usize..400).prop_map(|(unit, times)| unit.repeat(times)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_compressed_comes_back(plain in payload()) {
            for codec in ALL {
                let packed = compress(codec, &plain);
                prop_assert_eq!(&decompress(codec, &packed, plain.len()).expect("our own bytes")[..], &plain[..]);
            }
        }

        #[test]
        fn an_output_beyond_the_limit_is_refused(plain in payload()) {
            prop_assume!(!plain.is_empty());
            for codec in ALL {
                prop_assert!(decompress(codec, &compress(codec, &plain), plain.len() - 1).is_err());
            }
        }

        #[test]
        fn no_bytes_make_a_codec_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for codec in ALL {
                let _ = decompress(codec, &bytes, 1 << 20);
            }
        }

        #[test]
        fn damage_inside_valid_bytes_never_panics(
            plain in payload(), at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<prop::sample::Index>(),
        ) {
            for codec in ALL {
                let mut packed = compress(codec, &plain).to_vec();
                if packed.is_empty() { continue; }
                let (at, cut) = (at.index(packed.len()), cut.index(packed.len()));
                let _ = decompress(codec, &packed[..cut], 1 << 20);
                packed[at] ^= 1 << bit;
                let _ = decompress(codec, &packed, 1 << 20);
            }
        }
    }

    #[test]
    fn the_frames_that_we_make_are_what_others_read() {
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = (0..LZ4_BLOCK_BYTES + 9).map(|_| random.u8(..)).collect();
        for plain in [b"words, words and words again".repeat(9000), noise, b"a".repeat(LZ4_BLOCK_BYTES), Vec::new()] {
            let packed = compress(Compression::Lz4, &plain);
            assert!(packed.len() <= plain.len() + LZ4_FRAME.len() + 4 * (plain.len().div_ceil(LZ4_BLOCK_BYTES) + 1));
            let (mut reader, mut read) = (lz4_flex::frame::FrameDecoder::new(&packed[..]), Vec::new());
            assert_eq!(reader.read_to_end(&mut read).expect("a frame"), plain.len());
            assert!(read == plain);
        }
    }

    #[test]
    fn snappy_without_framing_is_read_too() {
        let plain = b"one block, as librdkafka writes it, it, it, it".repeat(9);
        let packed = snap::raw::Encoder::new().compress_vec(&plain).expect("small");
        let read = decompress(Compression::Snappy, &packed, 1 << 20).expect("a plain block");
        assert_eq!(read, plain);
    }

    #[test]
    fn lz4_frames_of_any_kind_are_read() {
        use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
        let plain = b"some words, and some of them again, again".repeat(9000);
        assert!(compress(Compression::Lz4, &plain).starts_with(&LZ4_FRAME));
        let frames = [
            FrameInfo::new().block_mode(BlockMode::Linked),
            FrameInfo::new().block_size(BlockSize::Max256KB),
            FrameInfo::new().content_checksum(true).block_checksums(true),
        ];
        for frame in frames {
            let mut writer = FrameEncoder::with_frame_info(frame, Vec::new());
            writer.write_all(&plain).expect("in memory");
            let packed = writer.finish().expect("in memory");
            assert_eq!(decompress(Compression::Lz4, &packed, plain.len()).expect("a frame"), plain);
        }
    }

    #[test]
    fn streams_that_follow_each_other_are_read_as_one() {
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Zstd] {
            let two = [compress(codec, b"first,"), compress(codec, b"second")].concat();
            assert_eq!(decompress(codec, &two, 1 << 20).expect("two streams"), &b"first,second"[..]);
        }
    }

    #[test]
    fn a_buffer_and_a_thread_read_on_after_damage_and_after_a_limit() {
        let plain = b"the same again and again, ".repeat(99);
        let mut out = b"of somebody before".to_vec();
        for codec in ALL {
            let packed = compress(codec, &plain);
            for limit in [plain.len() - 1, plain.len()] {
                let _ = decompress_in(codec, &packed[..packed.len() / 2], limit, &mut out);
                let read = decompress_in(codec, &packed, limit, &mut out);
                assert_eq!(read.ok(), (limit == plain.len()).then_some(&plain[..]), "{codec:?}");
            }
        }
    }

    #[test]
    fn a_declared_size_costs_no_memory() {
        // A Snappy block of five bytes that declares 256 MiB, and a zstd frame header that declares 4 GiB.
        let snappy = [0x80, 0x80, 0x80, 0x80, 0x01];
        assert!(decompress(Compression::Snappy, &snappy, LIMIT_BYTES).is_err());
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0xff, 0xff, 0xff, 0xff];
        assert!(decompress(Compression::Zstd, &zstd, LIMIT_BYTES).is_err());
    }
}
