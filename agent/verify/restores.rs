//! What restores keep with the backup: each object can be read, is the restore's whose folder it is in, and none is
//! missing among the numbered ones.
//!
//! Restores that keep their objects elsewhere are not looked at: the backup does not know of them.

use crate::archive::source::chain::Finding;
use crate::archive::{Archive, layout};
use crate::config::value::check_restore_id;
use crate::error::Result;
use crate::restore::state::State;

/// Looks at all restores.
pub(super) async fn check(archive: &Archive, findings: &mut Vec<Finding>) {
    if let Err(error) = look(archive, findings).await {
        findings.push(Finding::of_error(archive, layout::RESTORES, &error));
    }
}

async fn look(archive: &Archive, findings: &mut Vec<Finding>) -> Result<()> {
    for entry in archive.store().list(layout::RESTORES).await? {
        if !entry.is_folder || check_restore_id(&entry.name).is_err() {
            findings.push(Finding::unknown(archive, &format!("{}{}", layout::RESTORES, entry.name)));
            continue;
        }
        let folder = layout::restore_folder(&entry.name);
        let audit = State::new(archive.store(), &entry.name)?.audit().await?;
        findings.extend(audit.strange.iter().map(|name| Finding::unknown(archive, &format!("{folder}{name}"))));
        let wrong = audit.wrong.iter();
        findings.extend(wrong.map(|(name, error)| Finding::of_error(archive, &format!("{folder}{name}"), error)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::archive::source::tests::{Fixture, three};
    use crate::restore::state::tests::{undone, whole};
    use crate::verify::{Mode, check};

    /// A sound archive with a restore that has every kind of object.
    async fn fixture() -> Fixture {
        let fixture = three().await;
        let state = whole(fixture.archive.store()).await;
        let _ = undone(&state).await;
        fixture
    }

    async fn found(fixture: &Fixture) -> (u8, Vec<String>) {
        let report = check(&fixture.archive, Mode::Plain).await.expect("looked at");
        let code = report.verdict().map_or_else(|error| error.exit_code(), |()| 0);
        (code, report.findings().map(|found| found.to_string()).collect())
    }

    #[tokio::test]
    async fn what_a_restore_keeps_is_the_backups_own() {
        let fixture = fixture().await;
        assert_eq!(found(&fixture).await, (0, Vec::new()));
        for name in ["restores/r1/journal-01", "restores/r1/x/y", "restores/z", "restores/.r/plan"] {
            fixture.create(name, Bytes::new()).await;
        }
        let (_, told) = found(&fixture).await;
        assert!(told.len() == 4 && told.iter().all(|line| line.contains("nothing explains its name")), "{told:#?}");
    }

    #[tokio::test]
    async fn every_changed_byte_of_what_a_restore_keeps_is_found() {
        let fixture = fixture().await;
        let folder = layout::restore_folder("r1");
        let (mut changed, store) = (0, fixture.archive.store());
        for entry in store.list(&folder).await.expect("listed") {
            // One in seven: what seals them has a test for each.
            for at in (0..entry.size_bytes as usize).step_by(7) {
                let other = Fixture::new("b").await;
                for of in store.list(&folder).await.expect("listed") {
                    let key = format!("{folder}{}", of.name);
                    let mut bytes = store.read(&key).await.expect("read").expect("it is").to_vec();
                    if of.name == entry.name {
                        bytes[at] ^= 1 << (at % 8);
                    }
                    other.create(&key, bytes.into()).await;
                }
                let mut findings = Vec::new();
                super::check(&other.archive, &mut findings).await;
                assert!(findings.iter().any(|found| found.object.ends_with(&entry.name)), "{} byte {at}", entry.name);
                changed += 1;
            }
        }
        assert!(changed > 300, "{changed} bytes");
    }

    #[tokio::test]
    async fn a_journal_that_is_missing_and_a_damaged_plan_are_damage() {
        let fixture = fixture().await;
        let journal = fixture.archive.store().read("restores/r1/journal-0").await.expect("read").expect("it is");
        let harmed = fixture
            .but(|key, bytes| match key {
                "restores/r1/journal-0" => None,
                "restores/r1/plan" => Some(bytes.slice(1..)),
                _ => Some(bytes),
            })
            .await;
        harmed.create("restores/r1/journal-1", journal).await;
        let (code, told) = found(&harmed).await;
        assert_eq!((code, told.len()), (4, 3), "{told:#?}");
        assert!(told[0].contains("restores/r1/plan") && told[1].contains("it is missing"), "{told:#?}");
        // It is another one's: its number says so.
        assert!(told[2].contains("it is the journal-0 of"), "{told:#?}");
    }
}
