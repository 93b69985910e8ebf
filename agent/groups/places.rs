//! Where in the target of a restore a group's committed offset is: the smallest position from which nothing is lost.
//!
//! Pure.

use serde::{Deserialize, Serialize};

use crate::record::{Offset, OffsetRange, Partition};

/// How exact a position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "is", content = "records")]
pub enum Exactness {
    /// The group reads on with the very record, or the end of what was restored.
    Exact,
    /// It reads so many records again that it had read, and loses none. Saturates.
    Again(u64),
    /// What it had read is not all there: it is set to the nearest there is, because that was wanted (`--clamp`).
    Clamped,
}

/// Where a committed offset of one source partition is to be set in one target partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The target partition.
    pub target: Partition,
    /// The next record to read there.
    pub offset: Offset,
    /// How exact that is.
    pub exactness: Exactness,
}

/// Why there is no place for a committed offset. Its text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The restore has not come so far.
    Unfinished {
        /// Source offsets before this one are done.
        covered: Offset,
    },
    /// What was restored ends before it: by a gap or a cut.
    Beyond {
        /// The end of what was restored, in the source.
        next: Offset,
    },
    /// The partition was not restored.
    NotRestored,
    /// The offset is not in the partition, which has these.
    OutOfRange {
        /// What there is.
        range: OffsetRange,
    },
}

impl std::fmt::Display for Exactness {
    /// Writes it as plans show it: `exact`, `re-reads 12`, `clamped`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Again(records) => write!(f, "re-reads {records}"),
            Self::Clamped => f.write_str("clamped"),
        }
    }
}
