//! Names in an archive: which key an object has, and what a name tells.
//!
//! Pure: values in, names out, and back. All names are relative to `<path>/<backup-id>/`.

use crate::record::{Offset, Partition};

/// The object that makes a folder a backup: format, ids, envelope.
pub const BACKUP: &str = "backup.json";

/// The folder below which all topics lie.
pub const TOPICS: &str = "topics/";

/// Returns the folder of one timeline of a topic, with a slash at its end.
pub fn timeline_folder(topic: &str, topic_id: impl std::fmt::Display) -> String {
    format!("{TOPICS}{topic}/{topic_id}/")
}

/// Returns the folder of a partition, with a slash at its end.
pub fn partition_folder(partition: &Partition) -> String {
    format!("{}{}/", timeline_folder(&partition.topic, partition.topic_id), partition.index)
}

/// Returns the name of the `n`th topic object.
pub fn topic_object(n: u32) -> String {
    format!("topic-{n}.json")
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
}
