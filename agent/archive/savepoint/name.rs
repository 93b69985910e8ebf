//! Names of savepoints: a moment in UTC, `20261122T100000.000Z`. Their order as text is that in time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::record::Timestamp;

/// What a name looks like, for jiff and for people.
const FORMAT: &str = "%Y%m%dT%H%M%S";

const HOUR_MS: i64 = 3_600_000;

/// The last millisecond that a name can say, of the year 9999.
const LAST_MS: i64 = 253_402_207_199_999;

/// The name of a savepoint: its slot, or the moment when it was asked for, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Name(i64);

impl Name {
    /// Returns the name of a moment.
    pub fn at(time: Timestamp) -> Self {
        Self(time.0.clamp(0, LAST_MS))
    }

    /// Returns the name of the slot of `interval` that `time` lies in: its beginning. Slots begin at midnight in UTC
    /// where the interval divides a day, and else are counted from the epoch: the same for all agents.
    pub fn slot(time: Timestamp, interval: Duration) -> Self {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        Self::at(Timestamp(time.0.div_euclid(interval_ms) * interval_ms))
    }

    /// Returns the moment.
    pub fn time(self) -> Timestamp {
        Timestamp(self.0)
    }

    /// Returns the name a millisecond later.
    pub fn later(self) -> Self {
        Self::at(Timestamp(self.0 + 1))
    }

    /// Returns whether both lie in one hour.
    pub fn same_hour(self, other: Self) -> bool {
        self.0 / HOUR_MS == other.0 / HOUR_MS
    }

    /// Returns how many hours begin after `earlier` and up to it.
    pub(super) fn hours_since(self, earlier: Self) -> i64 {
        self.0 / HOUR_MS - earlier.0 / HOUR_MS
    }

    /// Returns what all names of its hour begin with.
    pub(super) fn hour_prefix(self) -> String {
        self.to_string()[.."20261122T10".len()].to_owned()
    }

    /// Returns the name at which the next hour begins.
    pub(super) fn next_hour(self) -> Self {
        Self::at(Timestamp((self.0 / HOUR_MS + 1) * HOUR_MS))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or_default();
        write!(f, "{}.{:03}Z", time.strftime(FORMAT), self.0 % 1000)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("`{text}` is no savepoint's name"))
                .hint("`savepoints` lists them: 20261122T100000.000Z")
        };
        let (seconds, ms) = text.strip_suffix('Z').and_then(|text| text.split_once('.')).ok_or_else(wrong)?;
        let time = jiff::civil::DateTime::strptime(FORMAT, seconds).map_err(|_| wrong())?;
        let time = time.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?.timestamp();
        let name = ms.parse::<i64>().ok().map(|ms| Self::at(Timestamp(time.as_millisecond() + ms)));
        // Only the canonical spelling: one moment has one object.
        name.filter(|name| name.to_string() == text).ok_or_else(wrong)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    #[test]
    fn a_name_is_the_moment_and_nothing_else_is_one() {
        let time: Timestamp = "2026-11-22T10:00:00.250Z".parse().expect("a time");
        assert_eq!(
            (Name::at(time).to_string(), name("20261122T100000.250Z").time()),
            ("20261122T100000.250Z".into(), time)
        );
        for wrong in [
            "",
            "20261122T100000Z",
            "20261122T100000.25Z",
            "20261122T100000.000",
            "20261322T100000.000Z",
            "+0261122T100000.000Z",
        ] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_slot_is_the_beginning_of_the_interval_for_every_agent() {
        let time: Timestamp = "2026-11-22T10:07:31.999Z".parse().expect("a time");
        for (seconds, slot) in [(1, "100731"), (60, "100700"), (300, "100500"), (3600, "100000"), (86_400, "000000")] {
            assert_eq!(Name::slot(time, Duration::from_secs(seconds)).to_string(), format!("20261122T{slot}.000Z"));
        }
        let slot = name("20261122T100700.000Z");
        assert_eq!(Name::slot(slot.time(), Duration::from_secs(60)), slot);
    }

    #[test]
    fn hours_are_those_of_the_clock() {
        let (last, first) = (name("20261122T095959.999Z"), name("20261122T100000.000Z"));
        assert!(!last.same_hour(first) && first.same_hour(name("20261122T105959.999Z")));
        assert_eq!((last.next_hour(), last.later(), first.hour_prefix()), (first, first, "20261122T10".to_owned()));
    }

    proptest! {
        #[test]
        fn names_read_back_and_sort_as_text(a in 0_i64..=LAST_MS, b in 0_i64..=LAST_MS) {
            let (a, b) = (Name::at(Timestamp(a)), Name::at(Timestamp(b)));
            prop_assert_eq!(name(&a.to_string()), a);
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
