//! Consumer groups, put back to the very record they had reached.
//!
//! **Plan, then perform.** [`positions`] says where groups stood (a savepoint, a snapshot, a cluster, a file), [`places`]
//! where in the target each of these offsets is, [`selector`] what is asked for instead; [`making`] looks at the cluster and makes of
//! them a [`plan`]: for each partition of each group where it is and where it is to be. [`perform`] does that, after it has
//! kept the present as a [`snapshot`], and reads back what it has set. A rollback is a plan too: of a snapshot's positions.
//!
//! [`asked`] is all that can be asked for, as the command line and the API read it.
//!
//! A committed offset is Kafka's: the next record to read. An absent one is kept as such.
//!
//! Names: source partitions are an archive's, with their topic ids; target partitions are those of the cluster that groups
//! are put back on.

pub mod asked;
pub mod headers;
pub mod making;
pub mod perform;
pub mod places;
pub mod plan;
pub mod positions;
pub mod present;
pub mod restoring;
pub mod script;
pub mod selector;
pub mod snapshot;

/// Why a group cannot be found, as the user's page has it.
///
/// Where it was looked for is the error's hint.
pub fn not_found(group: &str) -> crate::error::Error {
    crate::error::Error::failed(format!("Consumer group '{group}' not found"))
}

pub use crate::kafka::client::groups::ACTIVE;

/// Why an offset is refused, as the user's page has it: `[first, next)` is what the partition has; the offset `next` itself,
/// its end, is in range.
pub fn out_of_range(offset: crate::record::Offset, partition: i32, range: crate::record::OffsetRange) -> String {
    format!("Offset {offset} is out of range for partition {partition} (current: {}-{})", range.first, range.next)
}

/// How long coordinators may move or load: longer than an election.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(15);

/// Why a share group is not touched.
pub const SHARE_GROUP: &str = "it is a share group: its position is not one offset a partition";
