//! Where groups stood when a snapshot was made.

use super::Positions;
use crate::error::Result;
use crate::groups::snapshot::{Snapshot, Snapshots};

/// Reads where groups stood, and the snapshot itself, which says of which cluster that is.
///
/// # Errors
/// As [`Snapshots::read`].
pub async fn read(snapshots: &Snapshots, id: &str) -> Result<(Snapshot, Positions)> {
    let snapshot = snapshots.read(id).await?;
    let positions = snapshot.positions();
    Ok((snapshot, positions))
}
