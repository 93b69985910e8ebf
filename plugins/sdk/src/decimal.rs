//! A number as decimal text, without allocation and without `core::fmt`, whose cost shows at this scale.

/// Eight digits are made at once, in a word.
const EIGHT: u64 = 100_000_000;

/// A number as decimal text.
///
/// ```
/// # use kafka_backup_transform::Decimal;
/// assert_eq!(Decimal::new(-42).as_bytes(), b"-42");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    /// The text is at the end. The longest is i64::MIN's, 20 bytes.
    bytes: [u8; 24],
    start: usize,
}

impl Decimal {
    /// Writes a number.
    #[inline]
    pub fn new(number: impl Into<i64>) -> Self {
        let number = number.into();
        let (mut bytes, mut end) = ([0; 24], 24);
        let mut rest = number.unsigned_abs();
        while rest >= EIGHT {
            put(&mut bytes, end, digits((rest % EIGHT) as u32));
            rest /= EIGHT;
            end -= 8;
        }
        let top = digits(rest as u32);
        put(&mut bytes, end, top);
        let mut start = end - 8 + leading_zeros(top);
        if number < 0 {
            start -= 1;
            bytes[start] = b'-';
        }
        Self { bytes, start }
    }

    /// Returns the text.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// Appends a number as decimal text, in words from the first digits on: what is written is not read again.
#[inline]
pub(crate) fn put_decimal(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    let rest = number.unsigned_abs();
    if rest < EIGHT {
        return put_top(out, rest as u32);
    }
    let (upper, low) = (rest / EIGHT, rest % EIGHT);
    if upper < EIGHT {
        put_top(out, upper as u32);
    } else {
        put_top(out, (upper / EIGHT) as u32);
        out.extend_from_slice(&text(digits((upper % EIGHT) as u32)).to_le_bytes());
    }
    out.extend_from_slice(&text(digits(low as u32)).to_le_bytes());
}

/// The numbers that have all digits but the last four in common.
const BLOCK: u64 = 10_000;

/// Numbers as decimal text of which each is near the one before, as offsets and times are: what they have in common is not
/// made again.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// The first number of the block that the last one was in. Those below 10,000 are in none: they lack four digits.
    first: u64,
    /// The digits of the block, before the last four; at most 15 of a positive i64.
    digits: [u8; 16],
    count: usize,
}

impl Series {
    /// The room that a number needs where it is written: the longest, and as much again as is written at once.
    pub const ROOM: usize = 24;

    /// Appends a number.
    #[inline]
    pub fn put(&mut self, out: &mut Vec<u8>, number: i64) {
        let Some(low) = self.low(number) else { return self.begin(out, number) };
        let end = out.len() + self.count;
        out.extend_from_slice(&self.digits);
        out.truncate(end);
        out.extend_from_slice(&four(low));
    }

    /// Writes a number at `at`, and perhaps something behind it; returns where it ends. A row of numbers costs less so than
    /// by appending each.
    ///
    /// # Panics
    /// If there is no [`ROOM`](Self::ROOM).
    #[inline]
    pub fn write(&mut self, out: &mut [u8], at: usize, number: i64) -> usize {
        if let Some(low) = self.low(number)
            && let Some(room) = out[at..].first_chunk_mut::<{ Self::ROOM }>()
        {
            // At most 15, which spares the check.
            let count = self.count & 15;
            room[..16].copy_from_slice(&self.digits);
            room[count..count + 4].copy_from_slice(&four(low));
            return at + count + 4;
        }
        let mut text = Vec::new();
        self.begin(&mut text, number);
        out[at..at + text.len()].copy_from_slice(&text);
        at + text.len()
    }

    /// Returns the last four digits of a number of the block.
    #[inline]
    fn low(&self, number: i64) -> Option<u32> {
        let low = number.cast_unsigned().wrapping_sub(self.first);
        (low < BLOCK && number >= BLOCK.cast_signed()).then_some(low as u32)
    }

    /// Appends a number of another block, from which the next ones are told.
    #[cold]
    fn begin(&mut self, out: &mut Vec<u8>, number: i64) {
        let start = out.len();
        put_decimal(out, number);
        if let Ok(number) = u64::try_from(number)
            && number >= BLOCK
        {
            self.first = number - number % BLOCK;
            let digits = &out[start..out.len() - 4];
            self.count = digits.len();
            self.digits[..digits.len()].copy_from_slice(digits);
        }
    }
}

/// Returns the text of four digits, zeros before them among it.
#[inline]
fn four(number: u32) -> [u8; 4] {
    // As in `digits`, in half a word.
    let hundreds = (number * 10_486) >> 20;
    let twos = hundreds | ((number - hundreds * 100) << 16);
    let tens = ((twos * 103) >> 10) & 0x000f_000f;
    ((tens | ((twos - tens * 10) << 8)) | 0x3030_3030).to_le_bytes()
}

/// Appends a number of up to eight digits without zeros before it.
#[inline]
fn put_top(out: &mut Vec<u8>, number: u32) {
    let digits = digits(number);
    let zeros = leading_zeros(digits);
    let end = out.len() + 8 - zeros;
    out.extend_from_slice(&(text(digits) >> (8 * zeros)).to_le_bytes());
    out.truncate(end);
}

/// Returns how many of eight digits are zeros before a number; of 0 itself the last digit is none.
#[inline]
fn leading_zeros(digits: u64) -> usize {
    (digits.trailing_zeros() as usize / 8).min(7)
}

#[inline]
fn text(digits: u64) -> u64 {
    digits | 0x3030_3030_3030_3030
}

/// Writes eight digits as text, so that they end at `end`.
#[inline]
fn put(bytes: &mut [u8; 24], end: usize, digits: u64) {
    bytes[end - 8..end].copy_from_slice(&text(digits).to_le_bytes());
}

/// Returns the eight digits of a number, one a byte, the first one lowest.
///
/// It is halved thrice: into numbers of four digits, of two and of one, all of one size in one word. A division by 100 or by
/// 10 is then a multiplication that does not carry into the neighbour: right for all numbers that can be there.
#[inline]
fn digits(number: u32) -> u64 {
    let number = u64::from(number);
    // number / 10000, right below 10^8.
    let high = (number * 109_951_163) >> 40;
    let fours = high | ((number - high * 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let twos = hundreds | ((fours - hundreds * 100) << 16);
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    tens | ((twos - tens * 10) << 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_extremes_are_written_as_std_writes_them() {
        for number in [0, 1, -1, 9, 10, i64::MAX, i64::MIN] {
            assert_eq!(Decimal::new(number).as_bytes(), number.to_string().as_bytes());
            let mut out = Vec::new();
            put_decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }

    #[test]
    fn all_numbers_of_four_digits_and_their_like_are_written_as_std_writes_them() {
        for number in 0..10_000_i64 {
            for number in [number, number * 10_000, number * 10_000 + 9_999, number * 100_000_000, -number] {
                assert_eq!(Decimal::new(number).as_bytes(), number.to_string().as_bytes());
                let mut out = vec![b'x'];
                put_decimal(&mut out, number);
                assert_eq!(out, format!("x{number}").as_bytes());
            }
        }
    }

    #[test]
    fn numbers_of_a_series_are_written_as_std_writes_them() {
        let mut series = Series::default();
        let near = |number: i64| (-20_003..20_003).step_by(7).map(move |by| number.saturating_add(by));
        let all = [0, 5_000, 9_999, 1_000_000, 1_795_364_067_343, i64::MAX, i64::MIN, -1].into_iter().flat_map(near);
        for number in all.chain(0..30_000) {
            let mut out = vec![b'x'];
            series.put(&mut out, number);
            assert_eq!(out, format!("x{number}").as_bytes());
            let mut room = [b'x'; 1 + Series::ROOM];
            let end = [&mut series, &mut Series::default()].map(|series| series.write(&mut room, 1, number));
            assert_eq!(end, [out.len(); 2]);
            assert_eq!(room[..out.len()], out);
        }
    }

    proptest! {
        #[test]
        fn any_series_is_written_as_std_writes_it(numbers in proptest::collection::vec((any::<i64>(), 0_i64..20_000), 1..20)) {
            let (mut series, mut out, mut expected) = (Series::default(), Vec::new(), String::new());
            for (number, more) in numbers {
                for number in [number, number.saturating_add(more), more] {
                    series.put(&mut out, number);
                    expected.push_str(&number.to_string());
                }
            }
            prop_assert_eq!(out, expected.as_bytes());
        }

        #[test]
        fn any_number_is_written_as_std_writes_it(number: i64) {
            let (written, expected) = (Decimal::new(number), number.to_string());
            prop_assert_eq!(written.as_bytes(), expected.as_bytes());
            let mut out = Vec::new();
            put_decimal(&mut out, number);
            prop_assert_eq!(out, expected.as_bytes());
        }
    }
}
