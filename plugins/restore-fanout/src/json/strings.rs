//! The strings of a JSON document: where they end, and what they say where something in them is escaped.

mod marks;

pub(super) use self::marks::Marks;
use super::{No, byte};

/// One, and the highest bit, in each byte of a word.
pub(super) const ONES: u64 = u64::MAX / 255;
pub(super) const HIGH_BITS: u64 = ONES * 0x80;

/// Reads a string behind its first quote; returns where its last is, and whether it has escapes. `seen` gets the bits of
/// `HIGH_BITS` that are set in a byte of the string, and perhaps in some behind it.
#[inline(always)]
pub(super) fn string(document: &[u8], start: usize, marks: &mut Marks, seen: &mut u64) -> Result<(usize, bool), No> {
    if let Some(end) = marks.next(document, start)
        && document.get(end) == Some(&b'"')
    {
        return Ok((end, false));
    }
    let (end, is_escaped, bits) = long_string(document, start)?;
    *seen |= bits;
    Ok((end, is_escaped))
}

/// Reads a string of which the end could not be told at once.
#[inline(never)]
fn long_string(document: &[u8], start: usize) -> Result<(usize, bool, u64), No> {
    let (mut at, mut seen) = (start, 0);
    while let Some((plain, bits)) = block(document, at) {
        seen |= bits;
        at += plain;
        if plain < BLOCK {
            return closing(document, start, at, seen);
        }
    }
    if let Some(x) = word(document, at) {
        seen |= x;
        at += plain_bytes(x);
    }
    closing(document, start, at, seen)
}

/// Bytes of a string that are looked at at once.
const BLOCK: usize = 16;

/// Returns how many of the bytes from `at` on are nothing but themselves in a string, up to a block, and all their bits.
#[inline]
fn block(document: &[u8], at: usize) -> Option<(usize, u64)> {
    let chunk = document.get(at..)?.first_chunk::<BLOCK>()?;
    let x = u128::from_le_bytes(*chunk);
    let (low, high) = (x as u64, (x >> 64) as u64);
    Some((plain_of_block(low, high), low | high))
}

/// Returns how many of sixteen bytes are nothing but themselves in a string.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline]
fn plain_of_block(low: u64, high: u64) -> usize {
    use core::arch::wasm32::{u8x16_bitmask, u8x16_eq, u8x16_le, u8x16_splat, u64x2, v128_or};
    let x = u64x2(low, high);
    let quotes = v128_or(u8x16_eq(x, u8x16_splat(b'"')), u8x16_eq(x, u8x16_splat(b'\\')));
    let special = u8x16_bitmask(v128_or(quotes, u8x16_le(x, u8x16_splat(0x1f))));
    (u32::from(special) | 1 << BLOCK).trailing_zeros() as usize
}

/// Returns how many of sixteen bytes are nothing but themselves in a string.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline]
fn plain_of_block(low: u64, high: u64) -> usize {
    match plain_bytes(low) {
        8 => 8 + plain_bytes(high),
        plain => plain,
    }
}

/// Returns how many of eight bytes, from the lowest on, are nothing but themselves in a string.
///
/// `(x - n) & !x` has the high bit of each byte of `x` that is less than `n`, and above the first such byte perhaps others,
/// so the lowest bit is the one to believe.
#[inline]
fn plain_bytes(x: u64) -> usize {
    let less = |x: u64, n: u64| x.wrapping_sub(ONES * n) & !x & HIGH_BITS;
    let equal = |x: u64, byte: u8| less(x ^ (ONES * u64::from(byte)), 1);
    let special = less(x, 0x20) | equal(x, b'"') | equal(x, b'\\');
    special.trailing_zeros() as usize / 8
}

/// Returns the eight bytes from `at` on, the first one lowest.
#[inline]
pub(super) fn word(document: &[u8], at: usize) -> Option<u64> {
    document.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// Returns where a string ends, of which the byte at `at` is the first one that is not just itself.
#[inline]
fn closing(document: &[u8], start: usize, at: usize, seen: u64) -> Result<(usize, bool, u64), No> {
    if document.get(at) == Some(&b'"') { Ok((at, false, seen)) } else { rare(document, start, at, seen) }
}

/// Reads what is left of a string from `at` on: one that has escapes, or ends with the document.
#[cold]
#[inline(never)]
fn rare(document: &[u8], start: usize, mut at: usize, mut seen: u64) -> Result<(usize, bool, u64), No> {
    let mut escaped = false;
    loop {
        let next = byte(document, at)?;
        seen |= u64::from(next);
        at += 1;
        match next {
            b'"' => break,
            b'\\' => {
                escaped = true;
                let kind = byte(document, at)?;
                at += 1;
                match kind {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        let digits = document.get(at..at + 4).ok_or(No::Ended)?;
                        if !digits.iter().all(u8::is_ascii_hexdigit) {
                            return Err(No::Field);
                        }
                        at += 4;
                    }
                    _ => return Err(No::Field),
                }
            }
            0..0x20 => return Err(No::Field),
            _ => {}
        }
    }
    if escaped && unescape(&document[start..at - 1]).is_none() {
        return Err(No::Field);
    }
    Ok((at - 1, escaped, seen))
}

/// Returns whether an escaped string is a text.
pub(crate) fn unescapes_to(escaped: &[u8], text: &str) -> bool {
    unescape(escaped).is_some_and(|plain| plain == text)
}

/// Returns the text of a string that has been checked; `None` for half of a surrogate pair, which is no text.
pub(crate) fn unescape(escaped: &[u8]) -> Option<String> {
    let mut plain = String::with_capacity(escaped.len());
    let mut chars = std::str::from_utf8(escaped).ok()?.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            plain.push(char);
            continue;
        }
        plain.push(match chars.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => match hex(&mut chars)? {
                high @ 0xd800..=0xdbff => {
                    (chars.next()? == '\\' && chars.next()? == 'u').then_some(())?;
                    let low = hex(&mut chars)?;
                    (0xdc00..=0xdfff).contains(&low).then_some(())?;
                    char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))?
                }
                unit => char::from_u32(unit)?,
            },
            other => other,
        });
    }
    Some(plain)
}

fn hex(chars: &mut std::str::Chars<'_>) -> Option<u32> {
    (0..4).try_fold(0, |unit, _| Some(unit * 16 + chars.next()?.to_digit(16)?))
}
