//! The ends of strings, of many bytes at once: to look for the next one then takes a step or two, where to look at the bytes of
//! each string has to wait for where the one before ends.

use super::BLOCK;

/// What is special of some bytes of a document.
pub(crate) struct Marks {
    from: usize,
    /// A bit for each byte from `from` on, the lowest for the first: whether it is a quote, or what a string cannot have as it
    /// is, or not ASCII.
    bits: u64,
}

/// As many bytes are marked at once.
const MARKED: usize = 64;

impl Marks {
    /// None yet.
    pub(crate) const NONE: Self = Self { from: 0, bits: 0 };

    /// Returns where the first special byte is, or the end of what was looked at, from `start` on; `None` near the end of
    /// documents that are short. `start` never goes back.
    #[inline(always)]
    pub(crate) fn next(&mut self, document: &[u8], start: usize) -> Option<usize> {
        let skipped = start - self.from;
        let mut bits = if skipped < MARKED { self.bits >> skipped } else { 0 };
        if bits == 0 {
            // The last bytes are looked at together with some before them.
            let from = start.min(document.len().saturating_sub(MARKED));
            *self = Self { from, bits: marks(document.get(from..)?.first_chunk()?) };
            bits = self.bits.checked_shr((start - from) as u32)?;
        }
        Some(start + bits.trailing_zeros() as usize)
    }
}

#[inline(always)]
fn marks(bytes: &[u8; MARKED]) -> u64 {
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let marks = |block: usize| u64::from(marks_of_block(&blocks[block])) << (block * BLOCK);
    marks(0) | marks(1) | marks(2) | marks(3)
}

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(always)]
fn marks_of_block(b: &[u8; BLOCK]) -> u16 {
    use core::arch::wasm32::{i8x16_bitmask, i8x16_eq, i8x16_lt, i8x16_splat, u8x16, v128_or};
    let x = u8x16(b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    let quotes = v128_or(i8x16_eq(x, i8x16_splat(b'"' as i8)), i8x16_eq(x, i8x16_splat(b'\\' as i8)));
    // What is not ASCII is negative.
    i8x16_bitmask(v128_or(quotes, i8x16_lt(x, i8x16_splat(0x20))))
}

/// No plugin runs as this; it is what the agent's bench compares plugins with.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[inline(always)]
fn marks_of_block(block: &[u8; BLOCK]) -> u16 {
    use core::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "sse2")]
    fn marks(bits: u128) -> u16 {
        let x = _mm_set_epi64x((bits >> 64) as i64, bits as i64);
        let quotes =
            _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8(b'"' as i8)), _mm_cmpeq_epi8(x, _mm_set1_epi8(b'\\' as i8)));
        // What is not ASCII is negative.
        _mm_movemask_epi8(_mm_or_si128(quotes, _mm_cmplt_epi8(x, _mm_set1_epi8(0x20)))) as u16
    }
    // SAFETY: this is only compiled for machines that have these instructions.
    #[allow(unsafe_code, reason = "the instructions are called as functions that not every machine has")]
    unsafe {
        marks(u128::from_le_bytes(*block))
    }
}

/// The compiler makes of it what the machine has; only for the last step, to a bit for each byte, it knows none.
#[cfg(not(any(
    all(target_arch = "wasm32", target_feature = "simd128"),
    all(target_arch = "x86_64", target_feature = "sse2")
)))]
#[inline(always)]
fn marks_of_block(block: &[u8; BLOCK]) -> u16 {
    let marked = block.map(|byte| u8::from((byte == b'"') | (byte == b'\\') | ((byte as i8) < 0x20)));
    let (halves, _) = marked.as_chunks();
    // Moves the lowest bit of each byte to the highest byte, the first one lowest.
    let bits = |half: [u8; 8]| (u64::from_le_bytes(half).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u16;
    bits(halves[0]) | bits(halves[1]) << 8
}
