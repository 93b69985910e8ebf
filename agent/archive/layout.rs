//! Names in an archive: which key an object has, and what a name tells.
//!
//! Pure: values in, names out, and back. All names are relative to `<path>/<backup-id>/`.

use crate::error::{Error, Result};
use crate::record::{Offset, Partition};

/// The object that makes a folder a backup: format, ids, envelope.
pub const BACKUP: &str = "backup.json";

/// The folder below which all topics lie.
pub const TOPICS: &str = "topics/";

/// The folder of the savepoints.
pub const SAVEPOINTS: &str = "savepoints/";

/// The folder of the restores that keep their objects with the backup.
pub const RESTORES: &str = "restores/";

/// The folder of the snapshots of consumer groups that are kept with the backup.
pub const SNAPSHOTS: &str = "snapshots/";

/// Returns the folder of a restore, with a slash at its end.
pub fn restore_folder(restore_id: &str) -> String {
    format!("{RESTORES}{restore_id}/")
}

/// Returns the object of a savepoint.
pub fn savepoint(name: impl std::fmt::Display) -> String {
    format!("{SAVEPOINTS}{name}")
}

/// Returns the folder of one timeline of a topic, with a slash at its end.
pub fn timeline_folder(topic: &str, topic_id: impl std::fmt::Display) -> String {
    format!("{TOPICS}{topic}/{topic_id}/")
}

/// The object in a partition's folder that says where its chain begins.
pub const BEGIN: &str = "begin.json";

/// Returns the folder of a partition, with a slash at its end.
pub fn partition_folder(partition: &Partition) -> String {
    chain_folder(partition, None)
}

/// Returns the folder of a partition's chain, or of a fork of it, with a slash at its end.
pub fn chain_folder(partition: &Partition, fork: Option<Fork>) -> String {
    let timeline = timeline_folder(&partition.topic, partition.topic_id);
    format!("{timeline}{}/", chain_name(partition.index, fork))
}

/// Returns the name of a chain's folder: `3`, or `3@<epoch>-<end>` for a fork.
pub fn chain_name(index: i32, fork: Option<Fork>) -> String {
    fork.map_or_else(|| index.to_string(), |fork| format!("{index}@{fork}"))
}

/// Reads the name of a chain's folder; `None` when it is none.
pub fn parse_chain_name(name: &str) -> Option<(i32, Option<Fork>)> {
    let (index, fork) = match name.split_once('@') {
        None => (name, None),
        Some((index, fork)) => (index, Some(fork.parse().ok()?)),
    };
    let index: i32 = index.parse().ok()?;
    // Only the canonical spelling: `03` and `+3` also parse as numbers.
    (chain_name(index, fork) == name).then_some((index, fork))
}

/// What tells a fork from its partition: Kafka had lost records that the archive holds, and went on otherwise.
///
/// The order is that in which forks were made: the greatest is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fork {
    /// The leader epoch with which it goes on, or the epoch after that of the newest fork before it, where that is
    /// greater. −1 where the source has no epochs.
    pub epoch: i32,
    /// The offset from which on it differs: what lies before is that of the chain it was made beside.
    pub end: Offset,
}

impl std::fmt::Display for Fork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.end)
    }
}

impl std::str::FromStr for Fork {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // An epoch may be −1.
        let parts = text.rsplit_once('-').and_then(|(epoch, end)| epoch.parse().ok().zip(end.parse().ok()));
        let fork = parts.map(|(epoch, end)| Self { epoch, end });
        fork.filter(|fork| fork.end >= 0 && fork.to_string() == text).ok_or_else(|| {
            Error::usage(format!("`{text}` is no fork")).hint("it is <epoch>-<end>, as `describe` shows it: 7-150234")
        })
    }
}

/// The folder in a chain's folder where the sound beginning of a damaged log waits while `repair` replaces that.
pub const COPIES: &str = "repair/";

/// Returns the name below the chain's folder of the copy of the log at `first` that has `length_bytes` and `digest`.
pub fn copy(first: Offset, length_bytes: u64, digest: u128) -> String {
    format!("{COPIES}{}", copy_name(first, length_bytes, digest))
}

/// Returns the name of an object that is told by what is in it: batches from `first` on, of this length and digest.
fn copy_name(first: Offset, length_bytes: u64, digest: u128) -> String {
    format!("{first:020}.{length_bytes}-{digest:032x}.log")
}

/// The folder in a partition's folder of the batches that stages failed at, as they came, whichever chain leaves them out.
pub const DEAD_LETTERS: &str = "dead-letter/";

/// Returns the object of a dead letter.
pub fn dead_letter(partition: &Partition, first: Offset, length_bytes: u64, digest: u128) -> String {
    format!("{}{DEAD_LETTERS}{}", partition_folder(partition), copy_name(first, length_bytes, digest))
}

/// Reads the name of an object in [`COPIES`]: the first offset, the length and the digest of the log that it is the copy
/// of; `None` when it is none's.
pub fn parse_copy(name: &str) -> Option<(Offset, u64, u128)> {
    // But for the ending it is the name of the log's sidecar.
    match Name::parse(&format!("{}.index", name.strip_suffix(".log")?))? {
        Name::Sidecar { first, length_bytes, digest } => Some((first, length_bytes, digest)),
        Name::Log { .. } => None,
    }
}

/// Returns the name of the `n`th topic object.
pub fn topic_object(n: u32) -> String {
    format!("topic-{n}.json")
}

/// Reads the number in the name of a topic object; `None` when it is none's.
pub fn parse_topic_object(name: &str) -> Option<u32> {
    let n = name.strip_prefix("topic-")?.strip_suffix(".json")?.parse().ok()?;
    (topic_object(n) == name).then_some(n)
}

/// Returns the name of the segment that covers offsets from `first` on.
pub fn log(first: Offset) -> String {
    format!("{first:020}.log")
}

/// Returns the name of the sidecar of the segment at `first` whose log has `length_bytes` and `digest`.
pub fn sidecar(first: Offset, length_bytes: u64, digest: u128) -> String {
    format!("{first:020}.{length_bytes}-{digest:032x}.index")
}

/// What the name of an object in a partition's folder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// A segment.
    Log {
        /// The first offset that it covers.
        first: Offset,
    },
    /// A segment's sidecar.
    Sidecar {
        /// The first offset that the segment covers.
        first: Offset,
        /// The length of the log that it describes.
        length_bytes: u64,
        /// The digest of the log that it describes.
        digest: u128,
    },
}

impl Name {
    /// Reads the name of an object in a partition's folder; `None` when it is neither segment nor sidecar.
    pub fn parse(name: &str) -> Option<Self> {
        let (first, rest) = name.split_at_checked(20)?;
        if !first.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let first = first.parse().ok()?;
        if rest == ".log" {
            return Some(Self::Log { first });
        }
        let (length, digest) = rest.strip_prefix('.')?.strip_suffix(".index")?.split_once('-')?;
        let parsed =
            Self::Sidecar { first, length_bytes: length.parse().ok()?, digest: u128::from_str_radix(digest, 16).ok()? };
        // Only the canonical spelling is a sidecar's name; `+1` and upper-case digits also parse as numbers.
        (parsed.to_string() == name).then_some(parsed)
    }

    /// Returns the first offset that the segment covers.
    pub fn first(self) -> Offset {
        match self {
            Self::Log { first } | Self::Sidecar { first, .. } => first,
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Log { first } => f.write_str(&log(first)),
            Self::Sidecar { first, length_bytes, digest } => f.write_str(&sidecar(first, length_bytes, digest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_else_is_a_name() {
        for name in [Name::Log { first: 150_234 }, Name::Sidecar { first: 0, length_bytes: 812, digest: 0xabc }] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for other in ["catalog", "00000000000000000000.log.tmp", "0000000000000000000x.log", "ä", ""] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
        assert_eq!(Name::parse("00000000000000000000.+1-00000000000000000000000000000abc.index"), None);
    }

    #[test]
    fn the_name_of_a_chain_reads_back_and_nothing_else_is_one() {
        let fork = |epoch, end| Some(Fork { epoch, end });
        for (index, fork, name) in
            [(3, None, "3"), (3, fork(7, 500), "3@7-500"), (0, fork(-1, 0), "0@-1-0"), (12, fork(0, 9), "12@0-9")]
        {
            assert_eq!(chain_name(index, fork), name);
            assert_eq!(parse_chain_name(name), Some((index, fork)));
        }
        for other in ["", "03", "+3", "3@", "3@7", "3@07-5", "3@7-5-5", "3@7--5", "catalog", "3@x-5"] {
            assert_eq!(parse_chain_name(other), None, "{other}");
        }
        assert!(fork(7, 500) > fork(6, 900) && fork(7, 500) > fork(7, 400) && fork(-1, 0) > None);
    }
}
