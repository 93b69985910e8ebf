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

#[cfg(test)]
mod tests {
    use crate::archive::source::tests::three;
    use crate::groups::snapshot::{Snapshot, Snapshots};
    use crate::verify::{Mode, check};

    #[tokio::test]
    async fn snapshots_are_the_backups_own_and_a_damaged_one_is_found() {
        let fixture = three().await;
        let code = async || {
            let report = check(&fixture.archive, Mode::Plain).await.expect("looked at");
            (report.verdict().map_or_else(|error| error.exit_code(), |()| 0), report.findings().count())
        };
        let snapshots = Snapshots::of(fixture.archive.store());
        let snapshot = Snapshot {
            id: String::new(),
            created_at: "2024-12-03T10:00:00Z".to_owned(),
            created_by: String::new(),
            process: crate::restore::state::Process::this(),
            cluster_id: None,
            description: String::new(),
            groups: Vec::new(),
        };
        let kept = snapshots.create(&snapshot).await.expect("kept");
        assert_eq!(code().await, (0, 0));
        fixture.create("snapshots/snapshot-20241203-100001", kept.encode()).await;
        assert_eq!(code().await, (4, 1), "another one's bytes");
        fixture.create("snapshots/notes.txt", "mine".into()).await;
        assert_eq!(code().await.1, 2);
    }
}
