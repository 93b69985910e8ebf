//! A number as decimal text, without allocation and without `core::fmt`, whose cost shows at this scale.

/// A number as decimal text.
///
/// ```
/// # use kafka_backup_transform::Decimal;
/// assert_eq!(Decimal::new(-42).as_bytes(), b"-42");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    /// The text is at the end: digits are found from the last to the first. The longest is i64::MIN's, 20 bytes.
    bytes: [u8; 20],
    start: usize,
}

impl Decimal {
    /// Writes a number.
    pub fn new(number: impl Into<i64>) -> Self {
        let number = number.into();
        let (mut bytes, mut start) = ([b'0'; 20], 20);
        let mut rest = number.unsigned_abs();
        loop {
            start -= 1;
            bytes[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            start -= 1;
            bytes[start] = b'-';
        }
        Self { bytes, start }
    }

    /// Returns the text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_extremes_are_written_as_std_writes_them() {
        for number in [0, 1, -1, 9, 10, i64::MAX, i64::MIN] {
            assert_eq!(Decimal::new(number).as_bytes(), number.to_string().as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_number_is_written_as_std_writes_it(number: i64) {
            let (written, expected) = (Decimal::new(number), number.to_string());
            prop_assert_eq!(written.as_bytes(), expected.as_bytes());
        }
    }
}
