//! Names of snapshots: a second in UTC, `snapshot-20241203-100000`; of several within one second the second one has `-2` behind
//! it, and so on. Pure, but for the clock.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// What a name looks like, for jiff.
const FORMAT: &str = "snapshot-%Y%m%d-%H%M%S";

/// How many characters the name of the first one within a second has.
const LENGTH: usize = "snapshot-20241203-100000".len();

/// The last second that a name can say, of the year 9999.
const LAST: i64 = 253_402_207_199;

/// Returns the present second, RFC 3339.
pub fn now() -> String {
    let seconds = jiff::Timestamp::now().as_second().clamp(0, LAST);
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

/// Returns the name of the `number`th snapshot, from 1, that was taken at `created_at` (RFC 3339).
pub fn of(created_at: &str, number: u32) -> String {
    let at: jiff::Timestamp = created_at.parse().unwrap_or_default();
    let first = at.strftime(FORMAT).to_string();
    if number > 1 { format!("{first}-{number}") } else { first }
}

/// Returns when a snapshot was taken, in seconds since the epoch, and its number within that second: names in this order are
/// in that of time. `None` for what is no snapshot's name.
pub fn parse(id: &str) -> Option<(i64, u32)> {
    let (first, rest) = id.split_at_checked(LENGTH)?;
    let number = match rest {
        "" => 1,
        rest => rest.strip_prefix('-')?.parse().ok()?,
    };
    let at = DateTime::strptime(FORMAT, first).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    // Only the canonical spelling: one name has one object.
    (of(&at.to_string(), number) == id).then_some((at.as_second(), number))
}

/// Checks a name that somebody typed.
pub fn check(id: &str) -> Result<(), String> {
    let wrong = || format!("`{id}` is no snapshot's id: it looks like snapshot-20241203-100000");
    parse(id).map(|_| ()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_its_second_and_its_number_within_it() {
        let at = "2024-12-03T10:00:00Z";
        assert_eq!((of(at, 1), of(at, 2)), ("snapshot-20241203-100000".into(), "snapshot-20241203-100000-2".into()));
        assert_eq!((parse(&of(at, 1)), parse(&of(at, 12))), (Some((1_733_220_000, 1)), Some((1_733_220_000, 12))));
        assert!(parse(&of(at, 10)) > parse(&of(at, 9)), "by number, not by letter");
        assert!(parse(&of(&now(), 1)).is_some() && now().len() == at.len(), "{}", now());
    }

    #[test]
    fn what_is_spelt_otherwise_is_no_name() {
        for wrong in [
            "",
            "snapshot-",
            "snapshot-20241203-100000-1",
            "snapshot-20241203-100000-02",
            "snapshot-20241203-100000-",
            "snapshot-20241303-100000",
            "snapshot-20241203-100000/..",
            "snapshot-20241203-1000000",
            "savepoint-20241203-100000",
            "snapshot-20241203-10000ä",
        ] {
            assert!(parse(wrong).is_none() && check(wrong).is_err(), "{wrong}");
        }
    }
}
