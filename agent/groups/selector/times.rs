//! Dates, times and durations, as Kafka's tools read them. Pure.

use jiff::civil::DateTime;
use jiff::tz::Offset as Zone;

use crate::record::Timestamp;

const DAY_MS: i128 = 24 * HOUR_MS;
const HOUR_MS: i128 = 60 * MINUTE_MS;
const MINUTE_MS: i128 = 60_000;

/// Reads `YYYY-MM-DDTHH:mm:SS[.sss][zone]`; without a zone it is UTC.
pub(super) fn datetime(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_once('T')?;
    let (time, zone) = rest.split_at(rest.find(['+', '-', 'Z']).unwrap_or(rest.len()));
    let (seconds, ms) = match time.split_once('.') {
        Some((seconds, ms)) => (seconds, number(ms, 3)?),
        None => (time, 0),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(seconds, ':', [2, 2, 2])?;
    let ints = [month, day, hour, minute, second].map(i8::try_from);
    let [Ok(month), Ok(day), Ok(hour), Ok(minute), Ok(second)] = ints else { return None };
    let nanoseconds = ms.checked_mul(1_000_000)?;
    let local = DateTime::new(year.try_into().ok()?, month, day, hour, minute, second, nanoseconds).ok()?;
    let time = zone_of(zone)?.to_timestamp(local).ok()?;
    Some(Timestamp(time.as_millisecond()))
}

/// Reads nothing, `Z`, `+HH`, `+HHmm` or `+HH:mm`.
fn zone_of(text: &str) -> Option<Zone> {
    let mut chars = text.chars();
    let sign = match chars.next() {
        None => return Some(Zone::UTC),
        Some('Z') => return chars.as_str().is_empty().then_some(Zone::UTC),
        Some('+') => 1,
        Some('-') => -1,
        Some(_) => return None,
    };
    let digits = chars.as_str();
    let (hours, minutes) = match digits.split_once(':') {
        Some((hours, minutes)) => (hours, number(minutes, 2)?),
        None if digits.len() == 4 => (digits.get(..2)?, number(digits.get(2..)?, 2)?),
        None => (digits, 0),
    };
    let hours = number(hours, 2)?;
    if hours > 23 || minutes > 59 {
        return None;
    }
    Zone::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

/// Reads three numbers of so many digits each.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[i32; 3]> {
    let mut parts = text.split(separator);
    let mut read = [0; 3];
    for (read, digits) in read.iter_mut().zip(digits) {
        *read = number(parts.next()?, digits)?;
    }
    parts.next().is_none().then_some(read)
}

/// Reads a number of so many digits.
fn number(text: &str, digits: usize) -> Option<i32> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Reads `PnDTnHnMnS` as milliseconds, as Java's `Duration.parse` does: case does not count, each number may have a sign and
/// so may the whole; a day is 24 hours; what is less than a millisecond is left out.
pub(super) fn duration_ms(text: &str) -> Option<i64> {
    let text = text.to_ascii_uppercase();
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let rest = rest.strip_prefix('P')?;
    let (days, time) = match rest.split_once('T') {
        // With the `T` something follows.
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None if rest.is_empty() => return None,
        None => (rest, ""),
    };
    let mut total = 0;
    if !days.is_empty() {
        total += whole(days.strip_suffix('D')?)? * DAY_MS;
    }
    let mut rest = time;
    for (unit, ms) in [('H', HOUR_MS), ('M', MINUTE_MS)] {
        if let Some((count, behind)) = rest.split_once(unit) {
            total += whole(count)? * ms;
            rest = behind;
        }
    }
    if !rest.is_empty() {
        total += seconds_ms(rest.strip_suffix('S')?)?;
    }
    i64::try_from(sign * total).ok()
}

/// Reads seconds, with or without a fraction of up to nine digits.
fn seconds_ms(text: &str) -> Option<i128> {
    let (seconds, fraction) = text.split_once(['.', ',']).unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms = format!("{fraction:0<3}").get(..3)?.parse::<i128>().ok()?;
    let ms = if seconds.starts_with('-') { -ms } else { ms };
    Some(whole(seconds)? * 1000 + ms)
}

/// Reads a whole number, with or without a sign.
fn whole(text: &str) -> Option<i128> {
    text.parse::<i64>().ok().map(i128::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_as_kafka_reads_it() {
        let at = |text: &str| datetime(text).map(|time| time.to_string());
        for (text, time) in [
            ("2024-12-01T10:00:00.000", "2024-12-01T10:00:00.000Z"),
            ("2020-11-10T16:51:38.198+0800", "2020-11-10T08:51:38.198Z"),
            ("2020-11-10T16:51:38.198+08", "2020-11-10T08:51:38.198Z"),
            ("2020-11-10T16:51:38.198+08:00", "2020-11-10T08:51:38.198Z"),
            ("2020-11-10T16:51:38.198-05:30", "2020-11-10T22:21:38.198Z"),
            ("2020-11-10T16:51:38.198Z", "2020-11-10T16:51:38.198Z"),
            ("2020-02-29T23:59:59Z", "2020-02-29T23:59:59.000Z"),
        ] {
            assert_eq!(at(text).as_deref(), Some(time), "{text}");
        }
        for wrong in [
            "",
            "2024-12-01",
            "2024-12-01 10:00:00.000",
            "2024-13-01T10:00:00.000",
            "2023-02-29T10:00:00.000",
            "2024-12-01T24:00:00.000",
            "2024-12-01T10:00:00.5",
            "2024-12-01T10:00:00.0000",
            "2024-12-01T10:00",
            "2024-12-1T10:00:00.000",
            "2024-12-01T10:00:00.000+8",
            "2024-12-01T10:00:00.000Zulu",
            "2024-12-01T10:00:00.000+08:60",
            "2024-12-01T10:00:00.000+24",
            "+024-12-01T10:00:00.000",
        ] {
            assert_eq!(datetime(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_duration_reads_as_java_reads_it() {
        for (text, ms) in [
            ("P1D", 86_400_000),
            ("PT1H", 3_600_000),
            ("P2DT3H4M5S", 183_845_000),
            ("PT20.345S", 20_345),
            ("PT15M", 900_000),
            ("pt1h", 3_600_000),
            ("-PT6H", -21_600_000),
            ("PT-6H", -21_600_000),
            ("-PT-6H", 21_600_000),
            ("PT-0.5S", -500),
            ("+PT+1S", 1000),
            ("PT1,25S", 1_250),
            ("PT0S", 0),
            ("PT1.S", 1000),
            ("PT0.0009S", 0),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for wrong in [
            "",
            "P",
            "PT",
            "P1DT",
            "1D",
            "P1H",
            "PT1D",
            "PT1M1H",
            "PT1S1M",
            "P1.5D",
            "PT1.5M",
            "PT.5S",
            "P1W",
            "P1DT1",
            "PT1S ",
            "P--1D",
            "PT1.0123456789S",
            "P99999999999999999999D",
        ] {
            assert_eq!(duration_ms(wrong), None, "{wrong}");
        }
    }
}
