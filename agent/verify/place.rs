//! One chain: its segments, how neighbours fit, its catalogs, and what else lies in its folder.

use super::catalogs::Catalogs;
use super::dead_letters::Met;
use super::report::Stretch;
use super::savepoints::Claim;
use super::{Count, Mode};
use super::{copies, dead_letters};
use crate::archive::sidecar::{Kind, Sidecar};
use crate::archive::source::Place;
use crate::archive::source::audit::{Carried, audit};
use crate::archive::source::chain::{Chain, Finding, Link, What};
use crate::archive::source::chunks::Segment;
use crate::archive::source::way::Reach;
use crate::archive::{Archive, layout};
use crate::error::Result;

/// What was found of one chain.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) count: Count,
    pub(super) findings: Vec<Finding>,
    pub(super) reach: Reach,
    /// What stages left out, stretch by stretch.
    pub(super) left_out: Vec<Stretch>,
    /// What of the partition's dead letters was met.
    pub(super) letters: Met,
}

/// Checks one chain, of which `claim` says how far it must reach; what could not be read ends it with a finding.
pub(super) async fn check(archive: &Archive, place: &Place, mode: Mode, claim: Option<Claim>) -> Checked {
    let mut checked = Checked::default();
    if let Err(error) = walk(archive, place, mode, &mut checked).await {
        checked.findings.push(Finding::of_end(archive, place, &error));
        return checked;
    }
    let missing = claim.and_then(|claim| claim.missing(archive, place, checked.reach.next));
    if missing.is_some() {
        // A log was there: that its sidecar is without it is no unfinished work.
        checked.findings.retain(|finding| finding.what != What::Unfinished);
    }
    checked.findings.extend(missing);
    checked
}

async fn walk(archive: &Archive, place: &Place, mode: Mode, checked: &mut Checked) -> Result<()> {
    // Listed before the segments: those that they stand for are there.
    let mut catalogs = Catalogs::list(archive, place, &mut checked.findings).await?;
    let mut chain = Chain::open(archive, place).await?;
    checked.reach.is_held = chain.size().0 > 0;
    // Those of a fork lie beside the partition's own chain.
    let mut has_letters = place.fork.is_some();
    for name in chain.strange() {
        if name == layout::COPIES {
            copies::check(archive, place, &mut checked.findings).await?;
            continue;
        }
        if name == layout::DEAD_LETTERS && place.fork.is_none() {
            has_letters = true;
            continue;
        }
        checked.findings.push(Finding::unknown(archive, &format!("{}{name}", place.folder)));
    }
    if has_letters {
        checked.letters = Met::list(archive, place, &mut checked.findings).await?;
    }
    let (mut before, mut carried) = (Before::Nothing, Carried::default());
    while let Some(link) = chain.next().await? {
        match link {
            Link::Finding(finding) => {
                catalogs.finding(&finding, &mut checked.findings).await?;
                if finding.what != What::Debris {
                    before = Before::Unknown;
                }
                checked.findings.push(finding);
            }
            Link::Segment(segment) => {
                before.fits(&segment, place, &mut checked.findings);
                before = Before::of(&segment.sidecar);
                dead_letters::check(archive, &place.partition, &segment, mode, &mut checked.findings).await;
                checked.letters.segment(&segment).await?;
                catalogs.segment(&segment.sidecar, &mut checked.findings).await?;
                look_at(&segment, mode, &mut carried, checked).await?;
            }
        }
        checked.reach.next = chain.reached();
    }
    catalogs.end(chain.reached(), &mut checked.findings).await?;
    checked.reach = Reach { next: chain.reached(), is_whole: true, ..checked.reach };
    Ok(())
}

/// Counts a segment, after reading it where that is asked for.
async fn look_at(segment: &Segment, mode: Mode, carried: &mut Carried, checked: &mut Checked) -> Result<()> {
    let sidecar = &segment.sidecar;
    let (mut batches, mut records) = (sidecar.batches, sidecar.records);
    if mode == Mode::Deep {
        let audit = audit(segment, carried).await?;
        (batches, records) = (audit.batches, audit.records);
        checked.findings.extend(audit.findings);
    }
    Finding::undecided(segment, &mut checked.findings);
    Finding::left_out(segment, &mut checked.findings);
    checked.left_out.extend(Stretch::all(sidecar));
    checked.count.segments += 1;
    checked.count.batches += batches;
    checked.count.records += records;
    checked.count.bytes += sidecar.length_bytes;
    Ok(())
}

/// What is known of the segment before the next one.
enum Before {
    /// The chain begins with the next one.
    Nothing,
    /// There is one, or was.
    Unknown,
    /// It is sound.
    Segment {
        /// The leader epoch of its last batch, −1 where it is unknown.
        leader_epoch: i32,
    },
}

impl Before {
    fn of(sidecar: &Sidecar) -> Self {
        let leader_epoch = sidecar.epochs.iter().map(|epoch| epoch.epoch).max().unwrap_or(-1);
        Self::Segment { leader_epoch }
    }

    /// Finds what `segment` says that cannot follow on this.
    fn fits(&self, segment: &Segment, place: &Place, findings: &mut Vec<Finding>) {
        let sidecar = &segment.sidecar;
        let mut contradicts = |detail: String| {
            let (object, range) = (segment.describe_sidecar(), Some(sidecar.range));
            findings.push(Finding { what: What::DamagedSidecar, object, range, detail });
        };
        match (self, sidecar.kind) {
            (Self::Nothing, Kind::Data) if place.fork.is_some() => {
                contradicts("it follows on a segment of its chain, says its kind, and is the first".to_owned());
            }
            (Self::Segment { .. }, Kind::First) => {
                contradicts("its chain begins with it, says its kind, and there are segments before".to_owned());
            }
            _ => {}
        }
        let mut newest = if let Self::Segment { leader_epoch } = self { *leader_epoch } else { -1 };
        // Where it is not known in which epoch a batch was written, −1 stands.
        for epoch in sidecar.epochs.iter().filter(|epoch| epoch.epoch >= 0) {
            if epoch.epoch < newest {
                contradicts(format!(
                    "leader epoch {} begins at offset {}, behind epoch {newest}",
                    epoch.epoch, epoch.first
                ));
            }
            newest = newest.max(epoch.epoch);
        }
    }
}
