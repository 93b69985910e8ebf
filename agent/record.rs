//! The words of the field as types: topic ids, partitions, offset ranges, timestamps.
//!
//! Pure values without I/O; everything else imports from here. Offsets are Kafka's 64-bit record offsets; "next" is
//! always the offset to read, "last" the one read.

pub mod partitioner;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Error, Result};

/// An offset in a partition.
pub type Offset = i64;

/// Kafka's topic id ([KIP-516](https://cwiki.apache.org/confluence/display/KAFKA/KIP-516)): it tells a topic from
/// another one of the same name that was made after the first was deleted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TopicId(pub uuid::Uuid);

impl TopicId {
    /// The id of a topic on a cluster that has no topic ids.
    pub const NONE: Self = Self(uuid::Uuid::nil());

    /// Returns whether the cluster gave no id.
    pub fn is_none(self) -> bool {
        self.0.is_nil()
    }
}

impl fmt::Display for TopicId {
    /// Writes the id as Kafka's own tools do (URL-safe base64 without padding); `_` where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() { f.write_str("_") } else { f.write_str(&URL_SAFE_NO_PAD.encode(self.0.as_bytes())) }
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TopicId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "_" {
            return Ok(Self::NONE);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        bytes
            .map(|bytes| Self(uuid::Uuid::from_bytes(bytes)))
            .ok_or_else(|| Error::usage(format!("`{text}` is no topic id")).hint("it is 22 characters of base64"))
    }
}

/// One partition of one timeline of a topic: name, topic id, index.
///
/// Cheap to clone; it displays as `orders-3`, as in Kafka's logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's id: which of the topics of that name.
    pub topic_id: TopicId,
    /// The partition's number, from 0.
    pub index: i32,
}

impl Hash for Partition {
    /// Lets the id stand for the name: each Fetch looks every partition up several times.
    fn hash<H: Hasher>(&self, state: &mut H) {
        if self.topic_id.is_none() {
            self.topic.hash(state);
        } else {
            state.write_u128(self.topic_id.0.as_u128());
        }
        state.write_i32(self.index);
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.topic_id)
    }
}

/// The offsets `[first, next)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OffsetRange {
    /// The first offset in the range.
    pub first: Offset,
    /// The offset after the last one in the range.
    pub next: Offset,
}

impl OffsetRange {
    /// Returns whether no offset lies in the range.
    pub fn is_empty(self) -> bool {
        self.next <= self.first
    }

    /// Returns whether `offset` lies in the range.
    pub fn contains(self, offset: Offset) -> bool {
        self.first <= offset && offset < self.next
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.first, self.next)
    }
}

/// Milliseconds since the Unix epoch, as Kafka keeps them. −1 means "none".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Kafka's "no timestamp".
    pub const NONE: Self = Self(-1);

    /// Returns the time by this machine's clock.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 with milliseconds (`2026-11-22T10:00:00.000Z`); a time that jiff cannot hold as its number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads RFC 3339 (`2026-11-22T10:00:00Z`) or plain milliseconds since the epoch.
    fn from_str(text: &str) -> Result<Self> {
        if let Ok(ms) = text.parse::<i64>() {
            return Ok(Self(ms));
        }
        text.parse::<jiff::Timestamp>().map(|time| Self(time.as_millisecond())).map_err(|_| {
            Error::usage(format!("`{text}` is no time")).hint("write it as 2026-11-22T10:00:00Z or in milliseconds")
        })
    }
}

/// A transaction that a broker reported as aborted: `producer_id`'s records from `first` on, up to that producer's
/// next control batch ([Fetch response](https://kafka.apache.org/protocol#The_Messages_Fetch), `aborted_transactions`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AbortedTransaction {
    /// The producer whose transaction it was.
    pub producer_id: i64,
    /// The offset of its first record in this partition.
    pub first: Offset,
}

/// Records that are not in a log because a stage failed at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// Whole batches: those that had the records.
    pub range: OffsetRange,
    /// How many records.
    pub records: u32,
    /// The number of the stage among its pipeline's, from 0.
    pub stage: u8,
    /// The dead letter that their batch was kept as, as it came; of one batch alone then.
    pub dead_letter: Option<DeadLetter>,
}

/// A batch that a stage failed at, as its object's name tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its bytes.
    pub length_bytes: u64,
    /// XXH3-128 of them.
    pub digest: u128,
}

impl LeftOut {
    /// Returns whether `more`, of the next batch, can be told together with this; dead letters are told one by one.
    pub fn goes_on_with(&self, more: &Self) -> bool {
        let is_kept = self.dead_letter.is_some() || more.dead_letter.is_some();
        !is_kept && (self.stage, self.range.next) == (more.stage, more.range.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_id_reads_back_as_kafka_writes_it() {
        let id: TopicId = "4u0fkXLXQ-Or5QvZq9JvUA".parse().expect("a valid id");
        assert_eq!(id.to_string(), "4u0fkXLXQ-Or5QvZq9JvUA");
        assert_eq!("_".parse::<TopicId>().expect("none"), TopicId::NONE);
        assert!("short".parse::<TopicId>().is_err());
    }

    #[test]
    fn a_time_reads_as_rfc_3339_or_milliseconds() {
        let time: Timestamp = "2026-11-22T10:00:00.250Z".parse().expect("a valid time");
        assert_eq!(time.to_string(), "2026-11-22T10:00:00.250Z");
        assert_eq!(time.0.to_string().parse::<Timestamp>().expect("ms"), time);
    }
}
