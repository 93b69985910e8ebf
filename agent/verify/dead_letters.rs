//! The dead letters of a segment: each batch that it leaves out, and says it was kept, is there as it came.

use super::Mode;
use crate::archive::Archive;
use crate::archive::source::chain::Finding;
use crate::archive::source::chunks::Segment;
use crate::archive::source::dead_letters;
use crate::record::Partition;

/// Looks for them: at their headers, or in a deep check at every byte.
pub(super) async fn check(
    archive: &Archive,
    partition: &Partition,
    segment: &Segment,
    mode: Mode,
    findings: &mut Vec<Finding>,
) {
    for left_out in &segment.sidecar.left_out {
        let Some(key) = dead_letters::key(partition, left_out) else { continue };
        let looked = match mode {
            Mode::Plain => dead_letters::look_at(archive, partition, left_out).await,
            Mode::Deep => dead_letters::read(archive, partition, left_out).await.map(drop),
        };
        if let Err(error) = looked {
            let finding = Finding::of_error(archive, &key, &error);
            findings.push(Finding { range: Some(left_out.range), ..finding });
        }
    }
}
