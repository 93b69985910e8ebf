//! Checksums of bytes that stand behind others, without reading them again.
//!
//! Pure. CRC-32C is linear: what a head does to the checksum of a batch is its own checksum times x to the number of bits
//! behind it, modulo the polynomial. The crate's `crc32c_combine` makes matrices for that, which costs as much as reading
//! 64 KiB; the powers of x by squares, of which there are as many as bits in a length, cost some hundred nanoseconds.

/// Castagnoli's polynomial, as the checksum is kept: x^0 in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x^(8·2^n), for each bit of a length in bytes.
const POWERS: [u32; 32] = powers();

/// The part of a checksum that the last bytes of what it covers make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    crc: u32,
    /// x to the number of its bits.
    power: u32,
}

impl Tail {
    /// Makes that of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { crc: crc32c::crc32c(bytes), power: power(bytes.len()) }
    }

    /// Makes that of the bytes, so many of them, which stood behind `head` when `crc` was the checksum of both.
    pub(super) fn behind(head: &[u8], crc: u32, bytes: usize) -> Self {
        let power = power(bytes);
        Self { crc: crc ^ product(power, crc32c::crc32c(head)), power }
    }

    /// Returns the checksum of `head` and of the bytes, which stand behind it.
    pub(super) fn with(self, head: &[u8]) -> u32 {
        self.crc ^ product(self.power, crc32c::crc32c(head))
    }
}

/// Returns x to the number of bits in so many bytes.
fn power(bytes: usize) -> u32 {
    let of = |bit: usize| bytes >> bit & 1 == 1;
    // x^0
    let one = 1 << 31;
    (0..POWERS.len()).filter(|bit| of(*bit)).fold(one, |power, bit| product(power, POWERS[bit]))
}

const fn powers() -> [u32; 32] {
    let mut powers = [1 << (31 - 8); 32];
    let mut bit = 1;
    while bit < powers.len() {
        powers[bit] = product(powers[bit - 1], powers[bit - 1]);
        bit += 1;
    }
    powers
}

/// Returns the product of two polynomials, modulo [`POLYNOMIAL`].
const fn product(mut left: u32, mut right: u32) -> u32 {
    let mut sum = 0;
    while left != 0 {
        // Without branches: bits of checksums cannot be foreseen.
        sum ^= right & 0_u32.wrapping_sub(left >> 31);
        right = (right >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(right & 1));
        left <<= 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_of_parts_is_that_of_the_whole() {
        let mut random = fastrand::Rng::with_seed(7);
        let bytes: Vec<u8> = (0..70_000).map(|_| random.u8(..)).collect();
        for length in (0..300).chain([4095, 4096, 65_535, 65_536, 69_000]) {
            let (old, new) = (&bytes[..random.usize(1..90)], &bytes[100..100 + random.usize(1..90)]);
            let tail = &bytes[200..][..length];
            let whole = |head| crc32c::crc32c(&[head, tail].concat());
            assert_eq!(Tail::of(tail).with(new), whole(new), "{length} bytes");
            assert_eq!(Tail::behind(old, whole(old), length).with(new), whole(new), "{length} bytes");
        }
    }

    #[test]
    fn the_largest_batch_has_its_power() {
        for bytes in [(1 << 31) - 1, 0x5555_5555] {
            let combined = crc32c::crc32c_combine(0xdead_beef, 0, bytes);
            assert_eq!(product(power(bytes), 0xdead_beef), combined);
        }
    }
}
