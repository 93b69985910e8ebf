//! What an interrupted repair left beside a chain: copies of the sound beginnings of logs that it was replacing.

use crate::archive::source::Place;
use crate::archive::source::chain::{Finding, What};
use crate::archive::{Archive, layout};
use crate::error::Result;

/// Looks at the copies beside the chain at `place`: one whose log is not there is the only one, and damage until `repair`
/// has run again.
pub(super) async fn check(archive: &Archive, place: &Place, findings: &mut Vec<Finding>) -> Result<()> {
    let store = archive.store();
    let folder = format!("{}{}", place.folder, layout::COPIES);
    for entry in store.list(&folder).await? {
        let key = format!("{folder}{}", entry.name);
        let Some((first, ..)) = layout::parse_copy(&entry.name).filter(|_| !entry.is_folder) else {
            findings.push(Finding::unknown(archive, &key));
            continue;
        };
        let log = layout::log(first);
        let (what, detail) = match store.exists(&format!("{}{log}", place.folder)).await? {
            true => (What::Debris, format!("an interrupted repair left a copy of the beginning of {log}")),
            false => (What::DamagedLog, format!("an interrupted repair left the only copy of {log}")),
        };
        let detail = format!("{detail}; run `repair` again, as it was run");
        findings.push(Finding { what, object: store.describe(&key), range: None, detail });
    }
    Ok(())
}
