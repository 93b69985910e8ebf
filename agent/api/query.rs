//! What stands in a request's path and query, read strictly: a name that nobody knows is an error, as a typo must not
//! turn a look-up of an offset into something else.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Refused;
use crate::archive::live::lookup::Wanted;
use crate::archive::source::Fork;
use crate::archive::source::way::Branch;
use crate::record::{Offset, Timestamp, TopicId};

/// How many savepoints are listed unless told otherwise: as many as `savepoints` shows.
const LIMIT: usize = 100;

/// And at most: a week of one a minute, a listing of ten requests. More is for the command line.
const MOST: usize = 10_000;

/// What stands in a request's path: what is badly encoded is refused as everything else is.
pub(crate) struct Segments<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(told)) => Ok(Self(told)),
            Err(_) => Err(Refused::bad(format!("`{}` is badly encoded", parts.uri.path()))),
        }
    }
}

/// What is asked of a partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// What is looked for; `None` asks for the extent.
    pub(super) wanted: Option<Wanted>,
    /// Along which forks.
    pub(super) branch: Branch,
}

impl Query {
    /// Reads what stands behind the `?`.
    pub(super) fn read(text: &str) -> Result<Self, Refused> {
        let mut query = Self::default();
        for (name, value) in pairs(text)? {
            match name {
                "offset" => query.want(Wanted::Offset(offset(&value)?))?,
                "time" => query.want(Wanted::Time(time(&value)?))?,
                "fork" => query.branch = branch(&value)?,
                _ => return Err(Refused::bad(format!("`{name}` is unknown: there are offset, time and fork"))),
            }
        }
        Ok(query)
    }

    fn want(&mut self, wanted: Wanted) -> Result<(), Refused> {
        match self.wanted.replace(wanted) {
            None => Ok(()),
            Some(_) => Err(Refused::bad("ask for an offset or for a time, not for both")),
        }
    }
}

/// Reads how many savepoints are asked for behind the `?`.
pub(super) fn limit(text: &str) -> Result<usize, Refused> {
    let mut limit = LIMIT;
    for (name, value) in pairs(text)? {
        if name != "limit" {
            return Err(Refused::bad(format!("`{name}` is unknown: there is limit")));
        }
        limit = number(&value)
            .filter(|limit| (1..=MOST).contains(limit))
            .ok_or_else(|| Refused::bad(format!("`{value}` is no limit: it is a number from 1 to {MOST}")))?;
    }
    Ok(limit)
}

/// Reads names and values, none of which may be there twice.
fn pairs(text: &str) -> Result<Vec<(&str, String)>, Refused> {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value).ok_or_else(|| Refused::bad(format!("`{value}` is badly encoded")))?;
        if pairs.iter().any(|(seen, _)| *seen == name) {
            return Err(Refused::bad(format!("`{name}` is there twice")));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// Reads `topic` or `topic@<topic-id>`.
pub(super) fn topic(text: &str) -> Result<(&str, Option<TopicId>), Refused> {
    let name = text.split_once('@').map_or(text, |(name, _)| name);
    // Kafka's own rule for names; whatever else would be a path to elsewhere.
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 249 || matches!(name, "." | "..") || !name.bytes().all(is_legal) {
        return Err(Refused::bad(format!("`{}` is no name of a topic", name.escape_debug())));
    }
    match text.split_once('@') {
        None => Ok((text, None)),
        Some((name, topic_id)) => Ok((name, Some(topic_id.parse()?))),
    }
}

/// Reads the number of a partition.
pub(super) fn partition(text: &str) -> Result<i32, Refused> {
    let index = number(text).filter(|index| *index >= 0);
    index.ok_or_else(|| Refused::bad(format!("`{text}` is no partition: it is a number from 0 on")))
}

fn offset(text: &str) -> Result<Offset, Refused> {
    let offset = number(text).filter(|offset| *offset >= 0);
    offset.ok_or_else(|| Refused::bad(format!("`{text}` is no offset: it is a number from 0 on")))
}

fn time(text: &str) -> Result<Timestamp, Refused> {
    if text.parse::<i64>().is_ok() && number::<i64>(text).is_none() {
        return Err(Refused::bad(format!("`{text}` is no time: milliseconds are written without + and leading zeros")));
    }
    Ok(text.parse()?)
}

/// Reads a number as numbers are written, without `+` and leading zeros: `007` may be meant as something else.
fn number<N: FromStr + Display>(text: &str) -> Option<N> {
    text.parse().ok().filter(|number: &N| number.to_string() == text)
}

/// Reads the name of a fork; `none` is what the partition held before any.
fn branch(text: &str) -> Result<Branch, Refused> {
    match text {
        "none" => Ok(Branch::Own),
        fork => Ok(Branch::Fork(fork.parse::<Fork>()?)),
    }
}

/// Undoes percent-encoding; a `+` stays one, since no value has a space and times have zones.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_to_the_letter() {
        let wanted = |text: &str| Query::read(text).expect("right").wanted;
        assert_eq!(wanted(""), None);
        assert_eq!(wanted("offset=7"), Some(Wanted::Offset(7)));
        assert_eq!(wanted("time=1500"), Some(Wanted::Time(Timestamp(1500))));
        for time in ["1970-01-01T01:00:01.5+01:00", "1970-01-01T01%3A00%3A01.5%2b01:00", "1970-01-01T00:00:01.500Z"] {
            assert_eq!(wanted(&format!("time={time}")), Some(Wanted::Time(Timestamp(1500))), "{time}");
        }
        let branch = |text: &str| Query::read(text).expect("right").branch;
        assert_eq!(branch("offset=1&fork=7-500"), Branch::Fork(Fork { epoch: 7, end: 500 }));
        assert_eq!((branch("fork=none"), branch("")), (Branch::Own, Branch::Newest));
    }

    #[test]
    fn a_limit_is_a_number_within_bounds() {
        assert_eq!((limit("").expect("none"), limit("limit=7").expect("right")), (100, 7));
        for text in
            ["limit=0", "limit=-1", "limit=10001", "limit=", "limit=x", "limit=07", "limit=1&limit=2", "offset=1"]
        {
            assert_eq!(limit(text).expect_err(text).status, 400, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "offset",
            "offset=",
            "offset=-1",
            "offset=1&offset=2",
            "offset=1&time=2",
            "time=now",
            "ofset=1",
            "fork=7",
            "fork=07-12",
            "time=%zz",
            "offset=007",
            "offset=+5",
            "offset=%2B5",
            "offset=-0",
            "time=+5",
            "time=007",
        ] {
            assert_eq!(Query::read(text).expect_err(text).status, 400, "{text}");
        }
        for text in ["", "-1", "x", "1.5", "99999999999", "00", "007", "+5", "-0", " 5"] {
            assert!(partition(text).is_err(), "{text}");
        }
        assert!(topic("t@short").is_err() && topic("t@_").is_ok());
        for text in ["", ".", "..", "../../../store2/x/topics/t1", "a/b", "t\0", "ä", "@_"] {
            assert!(topic(text).is_err(), "{text:?}");
        }
    }
}
