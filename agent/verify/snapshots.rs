//! The snapshots of consumer groups that are kept with the backup: each can be read and is the one that its name says.
//!
//! Those that are kept elsewhere are not looked at: the backup does not know of them.

use crate::archive::source::chain::Finding;
use crate::archive::{Archive, layout};
use crate::error::Result;
use crate::groups::snapshot::{Snapshots, id};

/// Looks at all of them.
pub(super) async fn check(archive: &Archive, findings: &mut Vec<Finding>) {
    if let Err(error) = look(archive, findings).await {
        findings.push(Finding::of_error(archive, layout::SNAPSHOTS, &error));
    }
}

async fn look(archive: &Archive, findings: &mut Vec<Finding>) -> Result<()> {
    for entry in archive.store().list(layout::SNAPSHOTS).await? {
        if entry.is_folder || id::parse(&entry.name).is_none() {
            findings.push(Finding::unknown(archive, &format!("{}{}", layout::SNAPSHOTS, entry.name)));
        }
    }
    for listed in Snapshots::of(archive.store()).list().await? {
        if let Err(error) = listed.snapshot {
            let key = format!("{}{}", layout::SNAPSHOTS, listed.id);
            findings.push(Finding::of_error(archive, &key, &error));
        }
    }
    Ok(())
}
