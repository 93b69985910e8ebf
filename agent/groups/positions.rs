//! Where consumer groups stood: values, and the places that they are read from.
//!
//! The values are pure. Each source of positions is a child.

pub mod csv;
pub mod group;
pub mod savepoint;
pub mod snapshot;
pub mod source;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::{Offset, Partition};

/// What a group had committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The next record to read.
    pub offset: Offset,
    /// What the group keeps beside it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
}

/// Where one group stood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// `classic`, `consumer`, `streams`, `share`; `unknown` where nobody told.
    pub kind: String,
    /// Why its offsets, or some of them, are not known.
    pub error: Option<String>,
    /// What it had committed; `None`: it had nothing, and is to have nothing.
    pub offsets: BTreeMap<Partition, Option<Committed>>,
}

/// Where groups stood, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions {
    /// Where that is from, for people: `savepoint 20261122T100000.000Z`.
    pub from: String,
    /// The groups, by name.
    pub groups: BTreeMap<String, Standing>,
}
