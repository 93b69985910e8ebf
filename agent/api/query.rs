//! What stands in a request's path and query, read strictly: a name that nobody knows is an error, as a typo must not
//! turn a look-up of an offset into something else.

use super::Refused;
use crate::archive::live::lookup::Wanted;
use crate::archive::source::Fork;
use crate::archive::source::way::Branch;
use crate::record::{Offset, Timestamp, TopicId};

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
        let mut seen = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value).ok_or_else(|| Refused::bad(format!("`{value}` is badly encoded")))?;
            if seen.contains(&name) {
                return Err(Refused::bad(format!("`{name}` is there twice")));
            }
            seen.push(name);
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
    let index = text.parse().ok().filter(|index| *index >= 0);
    index.ok_or_else(|| Refused::bad(format!("`{text}` is no partition: it is a number from 0 on")))
}

fn offset(text: &str) -> Result<Offset, Refused> {
    let offset = text.parse().ok().filter(|offset| *offset >= 0);
    offset.ok_or_else(|| Refused::bad(format!("`{text}` is no offset: it is a number from 0 on")))
}

fn time(text: &str) -> Result<Timestamp, Refused> {
    Ok(text.parse()?)
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
            "time=%zz",
        ] {
            assert_eq!(Query::read(text).expect_err(text).status, 400, "{text}");
        }
        for text in ["", "-1", "x", "1.5", "99999999999"] {
            assert!(partition(text).is_err(), "{text}");
        }
        assert!(topic("t@short").is_err() && topic("t@_").is_ok());
        for text in ["", ".", "..", "../../../store2/x/topics/t1", "a/b", "t\0", "ä", "@_"] {
            assert!(topic(text).is_err(), "{text:?}");
        }
    }
}
