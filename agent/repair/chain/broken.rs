//! The plan for a log of which bytes are damaged or missing: what is sound of it becomes segments, the rest gaps.

use super::{Planner, build, pinned};
use crate::archive::catalog::Row;
use crate::archive::layout;
use crate::archive::rebuild::Beyond;
use crate::archive::sidecar::{Kind, Sidecar};
use crate::archive::source::chain::What;
use crate::archive::source::chunks::Chunks;
use crate::error::Result;
use crate::record::OffsetRange;
use crate::repair::scan::{Piece, Scan};
use crate::repair::survey::{Object, Segment, State, note, within};
use crate::repair::{NewSidecar, Part, Replacement, Task};

impl Planner<'_> {
    /// Plans for a broken log.
    pub(super) async fn broken(&mut self, segment: &Segment, is_first: bool, is_last: bool) -> Result<()> {
        let State::Broken { scan, damage, sidecar, is_bounded } = &segment.state else { return Ok(()) };
        let (sidecar, may_replace) = (sidecar.as_deref(), *is_bounded && !is_last);
        let first = segment.range.first;
        let name = layout::log(first);
        let parts = self.parts(segment, scan, sidecar, is_first).await?;
        let others = self.survey.orphans.iter().filter(|(orphan, _)| *orphan == first);
        let mut sidecars: Vec<_> = others.map(|(_, object)| object.clone()).collect();
        let is_only = sidecars.is_empty();
        let own = sidecar.map(|sidecar| layout::sidecar(first, sidecar.length_bytes, sidecar.digest));
        sidecars.extend(own.and_then(|own| self.survey.object(own)));
        let log = Object { name: name.clone(), bytes: segment.bytes, digest: Some(scan.digest) };
        // One that goes beyond where the segment ended is another writer's, or was before a part of it was replaced.
        let exact = sidecar.filter(|sidecar| sidecar.range == segment.range);
        let records = exact.map(|sidecar| sidecar.records);
        let mut replacement = Replacement { range: segment.range, log, sidecars, parts, records };
        if self.options.accept_loss && may_replace {
            self.rows.extend(replacement.parts.iter().map(|part| (part.row, part.note.clone())));
            self.make_way(&replacement.parts).await?;
            replacement.sidecars = self.all_seen(&replacement.sidecars).await?;
            self.tasks.push(Task::Replace(Box::new(replacement)));
            return Ok(());
        }
        // A last log that only lost its end is sound as it is; a sidecar beside it disturbs no agent.
        if self.options.accept_loss
            && is_last
            && let [Part { bytes: Some((0, length)), beyond, row, .. }, ..] = &replacement.parts[..]
            && *length == segment.bytes
        {
            self.rows.push((*row, replacement.parts[0].note.clone()));
            let (beyond, row) = (beyond.clone(), *row);
            let new = NewSidecar { log: replacement.log, beyond, row, replaces: None, knew_less: false };
            self.tasks.push(Task::Sidecar(Box::new(new)));
            return Ok(());
        }
        // Of several of other lengths nobody can tell which a catalog was made of.
        match exact.filter(|sidecar| is_only || sidecar.length_bytes == segment.bytes) {
            Some(sidecar) => self.rows.push((Row::of(sidecar), note(sidecar))),
            None => self.is_whole = false,
        }
        let todo = if may_replace {
            "bring it back from a copy, or give up what is lost with --accept-loss"
        } else {
            "bring it back from a copy: the end of a chain is left alone, since an agent may append to it"
        };
        let detail = format!("{damage}; {}; {todo}", replacement.detail());
        self.remains(What::DamagedLog, &name, Some(segment.range), detail);
        Ok(())
    }

    /// Returns what is left of a broken log, and the gaps between.
    async fn parts(
        &mut self,
        segment: &Segment,
        found: &Scan,
        sidecar: Option<&Sidecar>,
        is_first: bool,
    ) -> Result<Vec<Part>> {
        let is_first = sidecar.map_or(is_first, |sidecar| sidecar.kind == Kind::First);
        let (aborted, undecided) = match sidecar {
            Some(sidecar) => (sidecar.aborted.clone(), sidecar.undecided.clone()),
            None => self.transactions.of(segment.range),
        };
        let mut parts = Vec::new();
        let mut next = segment.range.first;
        for piece in &found.pieces {
            if piece.range.first > next {
                parts.push(self.gap(OffsetRange { first: next, next: piece.range.first }).await?);
            }
            let begins = piece.range.first == segment.range.first;
            let (stages, left_out) = match sidecar {
                Some(sidecar) => (sidecar.stages.clone(), sidecar.left_out.clone()),
                None => {
                    let key = self.key(&layout::log(segment.range.first));
                    let chunks = Chunks::new(self.store, &key, piece.position + piece.bytes);
                    self.kept(chunks.starting_at(piece.position), piece.range, begins && is_first).await?
                }
            };
            let beyond = Beyond {
                kind: if begins && is_first { Kind::First } else { Kind::Data },
                aborted: within(&aborted, piece.range),
                undecided: within(&undecided, piece.range),
                sealed_at: sidecar.map(|sidecar| sidecar.sealed_at).or_else(|| self.sealed_at_least()),
                sealed_after: self.sealed_after,
                note: Some(format!("what is left of a damaged log of {} bytes", segment.bytes)),
                stages,
                left_out,
            };
            parts.push(self.piece(segment, piece, beyond).await?);
            next = piece.range.next;
        }
        if next < segment.range.next {
            parts.push(self.gap(OffsetRange { first: next, next: segment.range.next }).await?);
        }
        Ok(parts)
    }

    async fn piece(&self, segment: &Segment, piece: &Piece, mut beyond: Beyond) -> Result<Part> {
        let log = self.key(&layout::log(segment.range.first));
        let chunks = || Chunks::new(self.store, &log, piece.position + piece.bytes).starting_at(piece.position);
        let mut sidecar = build(chunks(), self.partition(), piece.range.first, beyond.clone()).await?;
        // What an interrupted repair has made already is taken, though another would be made now.
        if let Some(held) = self.held(piece.range, sidecar.length_bytes, sidecar.digest).await? {
            let again = build(chunks(), self.partition(), piece.range.first, super::beyond(&held)).await?;
            if Row::of(&again) == Row::of(&held) {
                (sidecar, beyond) = (again, super::beyond(&held));
            }
        }
        let (bytes, beyond) = (Some((piece.position, piece.bytes)), pinned(beyond, &sidecar));
        Ok(Part { range: piece.range, bytes, beyond, row: Row::of(&sidecar), note: note(&sidecar) })
    }
}
