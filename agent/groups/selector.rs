//! What positions groups are to get instead of those of an archive: the selectors of Kafka's own `kafka-consumer-groups`, read
//! and resolved as that tool does.
//!
//! Where Kafka's tool would set something else than was meant, this one is stricter: milliseconds are three digits (Kafka takes
//! `.5` for five milliseconds), the minutes of a zone count (Kafka takes `+0530` for five hours), a file names each partition
//! once. A time without a fraction of a second is a time here, and an error there. Pure; [`making`](super::making) asks the
//! cluster what [`Known`] has.

mod times;
mod topics;

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange, Timestamp};

pub use self::topics::TopicChoice;

/// What position a group is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The first offset that there is.
    Earliest,
    /// The end.
    Latest,
    /// Where it is; the end where it has committed nothing.
    Current,
    /// The first record that is not older.
    Datetime(Timestamp),
    /// The first record that is not older than so many milliseconds before now.
    Duration(i64),
    /// This offset.
    Offset(Offset),
    /// So many offsets behind where it is; before it where that is negative.
    Shift(i64),
    /// What a file says.
    File(PathBuf),
}

/// What is known of a partition of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The offsets that there are.
    pub range: OffsetRange,
    /// What the group has committed.
    pub current: Option<Offset>,
    /// The offset of the first record that is not older than [`Selector::time`]; `None` where there is none.
    pub at_time: Option<Offset>,
    /// What the file says.
    pub in_file: Option<Offset>,
}

/// The position that a partition of a group is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The next record to read.
    pub offset: Offset,
    /// What people are to know: that it is another one than was asked for.
    pub warning: Option<String>,
}

impl Selector {
    /// Reads the value of `--to-datetime`: `YYYY-MM-DDTHH:mm:SS.sss`, then a zone (`Z`, `+08`, `+0800`, `+08:00`) or none for UTC.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for other text.
    pub fn datetime(text: &str) -> Result<Self> {
        times::datetime(text).map(Self::Datetime).ok_or_else(|| {
            Error::usage(format!("`{text}` is no date and time"))
                .hint("write it as YYYY-MM-DDTHH:mm:SS.sss, with Z or +HH:mm behind it where it is not UTC")
        })
    }

    /// Reads the value of `--by-duration`: `PnDTnHnMnS`, as Java's `Duration` does; seconds may have a fraction, each number a
    /// sign.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for other text.
    pub fn duration(text: &str) -> Result<Self> {
        times::duration_ms(text).map(Self::Duration).ok_or_else(|| {
            Error::usage(format!("`{text}` is no duration"))
                .hint("write it as PnDTnHnMnS: P1D is a day, PT1H30M an hour and a half")
        })
    }

    /// Returns the time that is to be looked up in each partition, by the clock that says `now`; `None` where none is. Before
    /// 1970 there is no record, and to a broker such times mean something else.
    pub fn time(&self, now: Timestamp) -> Option<Timestamp> {
        let time = match self {
            Self::Datetime(time) => time.0,
            Self::Duration(ms) => now.0.saturating_sub(*ms),
            _ => return None,
        };
        Some(Timestamp(time.max(0)))
    }

    /// Returns the position that a partition gets, which `name` is for people (`orders-3`). An offset that is asked for is put
    /// into the range, with a warning; where no record is new enough it is the end.
    ///
    /// # Errors
    /// Why it gets none, for people: it is to be shifted from where it is, and is nowhere; the file does not name it.
    pub fn choose(&self, name: &str, known: &Known) -> Result<Chosen, String> {
        let exactly = |offset| Ok(Chosen { offset, warning: None });
        let OffsetRange { first, next } = known.range;
        match self {
            Self::Earliest => exactly(first),
            Self::Latest => exactly(next),
            Self::Current => exactly(known.current.unwrap_or(next)),
            Self::Datetime(_) | Self::Duration(_) => match known.at_time {
                Some(offset) => exactly(offset),
                None => {
                    let warning = format!("no record of {name} is that new, it is set to the latest offset ({next})");
                    Ok(Chosen { offset: next, warning: Some(warning) })
                }
            },
            Self::Offset(offset) => Ok(within(name, *offset, known.range)),
            Self::Shift(by) => {
                let none =
                    || format!("cannot shift offset for partition {name} since there is no current committed offset");
                Ok(within(name, known.current.ok_or_else(none)?.saturating_add(*by), known.range))
            }
            Self::File(path) => {
                let none = || format!("{} says nothing of {name}", path.display());
                Ok(within(name, known.in_file.ok_or_else(none)?, known.range))
            }
        }
    }
}

/// Returns the offset if it is in the range, or else the end of the range that is nearer, with the warning that Kafka has.
fn within(name: &str, offset: Offset, range: OffsetRange) -> Chosen {
    let (than, set) = match offset {
        _ if offset > range.next => ("higher than latest", range.next),
        _ if offset < range.first => ("lower than earliest", range.first),
        _ => return Chosen { offset, warning: None },
    };
    let warning =
        format!("new offset ({offset}) is {than} offset for topic partition {name}, the value will be set to {set}");
    Chosen { offset: set, warning: Some(warning) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Known =
        Known { range: OffsetRange { first: 10, next: 100 }, current: Some(40), at_time: Some(60), in_file: None };

    fn chosen(selector: &Selector, known: &Known) -> (Offset, Option<String>) {
        let Chosen { offset, warning } = selector.choose("orders-3", known).expect("it has a position");
        (offset, warning)
    }

    #[test]
    fn a_selector_says_where_a_group_goes_as_kafkas_does() {
        use Selector::{Current, Datetime, Duration, Earliest, Latest, Offset, Shift};
        let time = Timestamp(5);
        for (selector, offset) in [
            (Earliest, 10),
            (Latest, 100),
            (Current, 40),
            (Datetime(time), 60),
            (Duration(5), 60),
            (Offset(100), 100),
            (Shift(-30), 10),
        ] {
            assert_eq!(chosen(&selector, &KNOWN), (offset, None), "{selector:?}");
        }
        assert_eq!(chosen(&Current, &Known { current: None, ..KNOWN }).0, 100);
    }

    #[test]
    fn an_offset_out_of_range_is_put_into_it_with_a_warning() {
        let high =
            "new offset (101) is higher than latest offset for topic partition orders-3, the value will be set to 100";
        assert_eq!(chosen(&Selector::Offset(101), &KNOWN), (100, Some(high.to_owned())));
        let low =
            "new offset (9) is lower than earliest offset for topic partition orders-3, the value will be set to 10";
        assert_eq!(chosen(&Selector::Shift(-31), &KNOWN), (10, Some(low.to_owned())));
        assert_eq!(chosen(&Selector::Shift(i64::MAX), &KNOWN).0, 100);
        let file = Selector::File("a.csv".into());
        assert_eq!(chosen(&file, &Known { in_file: Some(-1), ..KNOWN }).0, 10);
        assert_eq!(file.choose("orders-3", &KNOWN), Err("a.csv says nothing of orders-3".to_owned()));
    }

    #[test]
    fn where_no_record_is_new_enough_it_is_the_end() {
        let (offset, warning) = chosen(&Selector::Duration(5), &Known { at_time: None, ..KNOWN });
        assert_eq!(offset, 100);
        assert_eq!(warning.as_deref(), Some("no record of orders-3 is that new, it is set to the latest offset (100)"));
    }

    #[test]
    fn nothing_is_shifted_from_nowhere() {
        let error = Selector::Shift(1).choose("orders-3", &Known { current: None, ..KNOWN }).expect_err("nowhere");
        assert_eq!(error, "cannot shift offset for partition orders-3 since there is no current committed offset");
    }

    #[test]
    fn a_time_is_looked_up_where_one_is_meant() {
        let now = Timestamp(1_000);
        assert_eq!(Selector::Duration(400).time(now), Some(Timestamp(600)));
        assert_eq!(Selector::Duration(-400).time(now), Some(Timestamp(1_400)));
        assert_eq!(Selector::Datetime(Timestamp(7)).time(now), Some(Timestamp(7)));
        assert_eq!(Selector::Latest.time(now), None);
        let error = Selector::datetime("2024-12-01").expect_err("no time").to_string();
        assert!(error.contains("`2024-12-01`") && error.contains("YYYY-MM-DDTHH:mm:SS.sss"), "{error}");
        assert_eq!(Selector::duration("1h").expect_err("none").exit_code(), 2);
    }
}
