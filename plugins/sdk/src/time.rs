//! Times as settings write them: RFC 3339, or milliseconds since the epoch. A calendar library would be most of a plugin.

use crate::{Error, Result};

/// Reads a time: RFC 3339 (`2026-11-22T10:00:00Z`), or milliseconds since the epoch.
///
/// A fraction of a millisecond is rounded up, so that a bound of a half-open span keeps exactly what it kept before:
/// for whole milliseconds `t`, `t >= 0.5` is `t >= 1`, and `t < 0.5` is `t < 1`.
///
/// # Errors
/// Text that is neither, a date that there is none of, and a time without an offset from UTC.
///
/// ```
/// # use kafka_backup_transform::time_ms;
/// assert_eq!(time_ms("1970-01-01T01:00:00.5+01:00"), Ok(500));
/// assert_eq!(time_ms("500"), Ok(500));
/// ```
pub fn time_ms(text: &str) -> Result<i64> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    read(text).ok_or_else(|| {
        let zoned = read(&format!("{text}Z")).is_some();
        let missing = if zoned { ", with a Z or an offset from UTC" } else { "" };
        Error::new(format!("write it as 2026-11-22T10:00:00Z{missing}, or in milliseconds since 1970"))
    })
}

fn read(text: &str) -> Option<i64> {
    let mut rest = Rest(text.as_bytes());
    let (year, month, day) = (rest.digits(4)?, rest.after(b"-", 2)?, rest.after(b"-", 2)?);
    let (hour, minute, second) = (rest.after(b"Tt ", 2)?, rest.after(b":", 2)?, rest.after(b":", 2)?);
    let fraction_ms = rest.fraction_ms()?;
    let offset_minutes = rest.offset_minutes()?;
    let month_days = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    // A leap second has no number of its own in Unix time; it is taken for the second before, as the agent does.
    let valid =
        (1..=12).contains(&month) && (1..=month_days).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !valid || !rest.0.is_empty() {
        return None;
    }
    let minutes = (days(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    Some((minutes * 60 + second.min(59)) * 1000 + fraction_ms)
}

/// Returns the days since the epoch ([Hinnant's algorithm](https://howardhinnant.github.io/date_algorithms.html), which
/// lets years begin in March, so that the leap day is the last).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        let number = digits
            .iter()
            .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))?;
        self.0 = rest;
        Some(number)
    }

    /// Reads one of some marks, and digits.
    fn after(&mut self, marks: &[u8], count: usize) -> Option<i64> {
        self.mark(marks)?;
        self.digits(count)
    }

    fn mark(&mut self, marks: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        marks.contains(first).then(|| {
            self.0 = rest;
            *first
        })
    }

    /// Reads `.123456`, if there is one, rounded up to milliseconds.
    fn fraction_ms(&mut self) -> Option<i64> {
        if self.mark(b".").is_none() {
            return Some(0);
        }
        let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return None;
        }
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        let ms = (0..3).fold(0, |ms, at| ms * 10 + digits.get(at).map_or(0, |digit| i64::from(digit - b'0')));
        let more = digits.iter().skip(3).any(|digit| *digit != b'0');
        Some(ms + i64::from(more))
    }

    fn offset_minutes(&mut self) -> Option<i64> {
        let sign = match self.mark(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let (hours, minutes) = (self.digits(2)?, self.after(b":", 2)?);
        (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_time_is_refused_and_the_zone_is_asked_for() {
        let told = |text| time_ms(text).expect_err("no time").message().to_owned();
        assert!(told("2026-11-22T10:00:00").contains("with a Z or an offset"));
        for text in ["", "monday", "2026-13-01T00:00:00Z", "2026-02-29T00:00:00Z", "2026-11-22T24:00:00Z"] {
            assert!(told(text).starts_with("write it as 2026-11-22T10:00:00Z, or"), "{text}");
        }
        for text in ["2026-11-22T10:00:00Zx", "2026-11-22T10:00:00.Z", "2026-11-22", "2026-11-22T10:00:00+1", "1.5"] {
            assert!(time_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fraction_of_a_millisecond_is_rounded_up() {
        assert_eq!(time_ms("1970-01-01T00:00:00.0001Z"), Ok(1));
        assert_eq!(time_ms("1969-12-31T23:59:59.9991Z"), Ok(0));
        assert_eq!(time_ms("1970-01-01T00:00:00.0010000Z"), Ok(1));
        assert_eq!(time_ms("-1"), Ok(-1));
    }

    proptest! {
        #[test]
        fn a_time_is_read_as_the_agent_reads_it(ms in -62_000_000_000_000i64..250_000_000_000_000, hours in -14i8..=14) {
            let time = jiff::Timestamp::from_millisecond(ms).expect("in range");
            let offset = jiff::tz::Offset::constant(hours);
            prop_assert_eq!(time_ms(&time.to_string()), Ok(ms));
            prop_assert_eq!(time_ms(&time.display_with_offset(offset).to_string()), Ok(ms));
        }

        #[test]
        fn whatever_is_read_the_agent_reads_too(text in "(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,3})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])") {
            let agent = text.parse::<jiff::Timestamp>();
            prop_assert_eq!(time_ms(&text).ok(), agent.ok().map(|time| time.as_millisecond()), "{}", text);
        }
    }
}
