//! A chain's index, read from the store: its catalogs, then the segments that are in none yet.

use super::Place;
use super::chain::{Chain, Finding, Link};
use super::way::Reach;
use crate::archive::Archive;
use crate::archive::catalog::Row;
use crate::archive::index::Index;
use crate::archive::sidecar::Kind;
use crate::error::Result;

/// The index of a chain.
pub struct Opened {
    /// The segments.
    pub index: Index,
    /// What is not as it should be, as far as opening met it; `verify` looks at everything.
    pub findings: Vec<Finding>,
    /// How far the chain reaches.
    pub reach: Reach,
}

impl Opened {
    /// Opens the index of the chain at `place`.
    ///
    /// # Errors
    /// Those of the store. What is damaged is a finding.
    pub async fn read(archive: &Archive, place: &Place) -> Result<Self> {
        let mut chain = Chain::open(archive, place).await?;
        let (mut index, mut findings) = (Index::default(), Vec::new());
        while let Some(link) = chain.next().await? {
            match link {
                Link::Segment(segment) => {
                    let note = (segment.sidecar.kind == Kind::Gap).then(|| segment.sidecar.note.as_str().into());
                    index.push(&Row::of(&segment.sidecar), note);
                }
                Link::Finding(finding) => findings.push(finding),
            }
        }
        let reach = Reach { is_held: chain.size().0 > 0, next: chain.reached(), is_whole: true };
        Ok(Self { index, findings, reach })
    }
}
