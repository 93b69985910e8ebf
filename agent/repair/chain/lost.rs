//! The plan for offsets that nothing covers: what an interrupted repair has put aside for them is taken, the rest becomes
//! a gap if that is accepted.

use std::collections::HashMap;

use super::{Planner, beyond};
use crate::archive::catalog::Row;
use crate::archive::layout;
use crate::archive::segment::Builder;
use crate::archive::sidecar::Sidecar;
use crate::archive::source::chain::What;
use crate::error::Result;
use crate::record::{Offset, OffsetRange, Timestamp};
use crate::repair::scan::{Told, scan};
use crate::repair::survey::{Object, note, parse_copy_name};
use crate::repair::{Part, Task};

impl Planner<'_> {
    /// Plans for offsets that nothing covers.
    pub(super) async fn hole(&mut self, range: OffsetRange) -> Result<()> {
        let range = self.fill(range).await?;
        if range.is_empty() {
            return Ok(());
        }
        let orphans = self.survey.orphans.iter().filter(|(first, _)| range.contains(*first));
        let orphans: Vec<_> = orphans.map(|(_, object)| object.clone()).collect();
        let records = self.records_of(&orphans).await?;
        let inner = self.survey.inside.iter().find(|inner| inner.reaches(range));
        if self.options.accept_loss && inner.is_none() {
            let gap = self.gap(range).await?;
            self.rows.push((gap.row, gap.note.clone()));
            self.make_way(std::slice::from_ref(&gap)).await?;
            let orphans = self.all_seen(&orphans).await?;
            self.tasks.push(Task::Gap { gap: Box::new(gap), orphans, records });
            return Ok(());
        }
        self.is_whole = false;
        let known = match records {
            0 => "no sidecar is left that says how many records they were".to_owned(),
            records => format!("by the sidecars that are left they were {records} records"),
        };
        let todo = match inner {
            None => "bring the logs back from a copy, or declare the offsets as a gap with --accept-loss".to_owned(),
            Some(inner) => format!(
                "bring the logs back from a copy; no gap is declared, since {}, which begins in a segment before, has \
                 records of them",
                layout::log(inner.first)
            ),
        };
        self.remains(What::Hole, &layout::log(range.first), Some(range), format!("{known}; {todo}"));
        Ok(())
    }

    /// Plans to finish what an interrupted repair left: the log was deleted, its sound beginning waits as a copy. Returns
    /// what of the hole that leaves.
    async fn fill(&mut self, hole: OffsetRange) -> Result<OffsetRange> {
        let named = self.survey.copies.iter().filter_map(|copy| Some((copy, parse_copy_name(&copy.name)?)));
        let mut copies: Vec<_> = named.filter(|(_, (first, ..))| *first == hole.first).collect();
        // Of two the longer one has what the other has.
        copies.sort_unstable_by_key(|(copy, _)| std::cmp::Reverse(copy.bytes));
        for (copy, (_, length, digest)) in copies {
            let told = Told::listed(hole.first, copy.bytes);
            let scan = scan(self.store, &self.key(&copy.name), told, |_, _| Ok(())).await?;
            let range = OffsetRange { first: hole.first, next: scan.next().unwrap_or(hole.first) };
            let is_whole = scan.damage.is_none() && (copy.bytes, scan.digest) == (length, digest);
            if !is_whole || range.is_empty() || range.next > hole.next {
                continue;
            }
            match self.held(range, length, digest).await? {
                Some(sidecar) => self.rows.push((Row::of(&sidecar), note(&sidecar))),
                None => {
                    self.is_whole = false;
                    let detail = "its sidecar is lost: run `repair` again when the log is there".to_owned();
                    self.remains(What::NoSidecar, &layout::log(hole.first), Some(range), detail);
                }
            }
            let copy = Object { digest: Some(digest), ..copy.clone() };
            self.tasks.push(Task::Resume { range, copy, digest });
            return Ok(OffsetRange { first: range.next, next: hole.next });
        }
        Ok(hole)
    }

    /// Returns how many records sidecars without a log say that there were.
    async fn records_of(&self, orphans: &[Object]) -> Result<u64> {
        let mut most: HashMap<Offset, u64> = HashMap::new();
        for orphan in orphans {
            let bytes = self.store.read(&self.key(&orphan.name)).await?.unwrap_or_default();
            if let Ok(sidecar) = Sidecar::decode(&bytes) {
                let records = most.entry(sidecar.range.first).or_default();
                *records = sidecar.records.max(*records);
            }
        }
        Ok(most.values().sum())
    }

    /// Returns the gap over lost offsets; one that an interrupted repair has begun to declare is taken as it is.
    pub(super) async fn gap(&self, range: OffsetRange) -> Result<Part> {
        let now = Timestamp::now();
        let reason = format!("lost from the archive: accepted by repair on {now}");
        let (_, made) = Builder::gap(self.partition(), range, -1, reason);
        let made = Sidecar { sealed_at: now, ..made };
        let sidecar = self.held(range, made.length_bytes, made.digest).await?.unwrap_or(made);
        Ok(Part { range, bytes: None, beyond: beyond(&sidecar), row: Row::of(&sidecar), note: note(&sidecar) })
    }
}
