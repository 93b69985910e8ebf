//! The archive's side of a comparison: the batches along one partition, one after the other: along its newest way, or
//! along the parts that are asked for, without the segments that prove to hold nothing of a window.
//!
//! Memory: one chunk of a segment. What cannot be read is passed over: the check of the archive itself tells of it.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::archive::Archive;
use crate::archive::sidecar::Sidecar;
use crate::archive::source::chain::{Chain, Link, What};
use crate::archive::source::chunks::{Chunk, Chunks, Segment};
use crate::archive::source::way::{self, Branch, Part};
use crate::batch::outgoing::Window;
use crate::batch::{self, Header};
use crate::error::{Kind, Result};
use crate::record::{Offset, OffsetRange, Partition};

/// A batch of the archive.
#[derive(Debug, Clone)]
pub(in crate::verify) struct HeldBatch {
    pub(in crate::verify) header: Header,
    /// All of its bytes.
    pub(in crate::verify) bytes: Bytes,
    /// The offsets that are taken of it: a chain may begin inside a batch, and a fork may cut one.
    pub(in crate::verify) range: OffsetRange,
    /// Its segment, for people.
    pub(in crate::verify) object: String,
    /// Something before it could not be read.
    pub(in crate::verify) is_behind_damage: bool,
    /// Its records went through stages of plugins, or may have: it is not what the source had.
    pub(super) is_staged: bool,
    /// Nothing tells any more through which stages.
    pub(super) has_unknown_stages: bool,
    /// It has records that a read-committed reader sees.
    pub(in crate::verify) is_visible: bool,
}

/// The batches of one partition.
pub(in crate::verify) struct Held {
    archive: Archive,
    parts: VecDeque<Part>,
    window: Option<Window>,
    chain: Option<(Chain, OffsetRange)>,
    segment: Option<(Box<Segment>, Chunks)>,
    chunk: Option<(Chunk, usize)>,
    /// The end of what was walked through, exclusive.
    reached: Option<Offset>,
    was_damaged: bool,
}

impl Held {
    /// Finds the newest way along a partition.
    pub(super) async fn open(archive: &Archive, partition: &Partition) -> Result<Self> {
        let parts = way::way(archive, partition, Branch::Newest).await?.into();
        Ok(Self::of(archive, parts, None))
    }

    /// Goes along these parts; of what lies outside of `window` not all is read.
    pub(in crate::verify) fn along(archive: &Archive, parts: Vec<Part>, window: Window) -> Self {
        Self::of(archive, parts.into(), Some(window))
    }

    fn of(archive: &Archive, parts: VecDeque<Part>, window: Option<Window>) -> Self {
        let archive = archive.clone();
        Self { archive, parts, window, chain: None, segment: None, chunk: None, reached: None, was_damaged: false }
    }

    /// Returns whether a segment may hold what is wanted of a chain.
    fn is_wanted(&self, sidecar: &Sidecar, part: OffsetRange) -> bool {
        self.window.is_none_or(|window| {
            sidecar.records > 0
                && sidecar.range.next > part.first
                && window.from.is_none_or(|from| sidecar.max_time.is_none_or(|most| most >= from))
                && window.until.is_none_or(|until| sidecar.min_time.is_none_or(|least| least < until))
        })
    }

    /// Returns the end of what was walked through, exclusive: behind the last batch, where the archive ends.
    pub(super) fn reached(&self) -> Option<Offset> {
        self.reached
    }

    /// Returns whether something behind the last batch could not be read.
    pub(in crate::verify) fn was_damaged(&self) -> bool {
        self.was_damaged
    }

    /// Returns the next batch; `None` behind the last.
    ///
    /// # Errors
    /// Those of the store.
    pub(in crate::verify) async fn next(&mut self) -> Result<Option<HeldBatch>> {
        loop {
            if let Some(batch) = self.in_chunk() {
                return Ok(Some(batch));
            }
            if self.next_chunk().await? || self.next_segment().await? {
                continue;
            }
            let Some(part) = self.parts.pop_front() else { return Ok(None) };
            self.chain = Some((Chain::open(&self.archive, &part.place).await?, part.range));
        }
    }

    /// Walks to the end without reading any more logs.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn skip_to_end(&mut self) -> Result<()> {
        loop {
            (self.chunk, self.segment) = (None, None);
            if self.next_segment().await? {
                continue;
            }
            let Some(part) = self.parts.pop_front() else { return Ok(()) };
            self.chain = Some((Chain::open(&self.archive, &part.place).await?, part.range));
        }
    }

    /// Takes the next batch out of the chunk that was read.
    fn in_chunk(&mut self) -> Option<HeldBatch> {
        let part = self.chain.as_ref().map_or(OffsetRange { first: 0, next: Offset::MAX }, |(_, range)| *range);
        loop {
            let (range, header, bytes) = self.passed(part)?;
            if range.is_empty() {
                continue;
            }
            let is_behind_damage = std::mem::take(&mut self.was_damaged);
            self.reached = self.reached.max(Some(range.next));
            let (segment, _) = self.segment.as_ref()?;
            return Some(HeldBatch {
                header,
                bytes,
                range,
                object: segment.describe(),
                is_behind_damage,
                is_staged: !segment.sidecar.stages.is_empty(),
                has_unknown_stages: segment.sidecar.has_unknown_stages(),
                is_visible: segment.is_visible(&header),
            });
        }
    }

    /// Goes over the next batch of the chunk; returns it, with the offsets that are taken of it.
    fn passed(&mut self, part: OffsetRange) -> Option<(OffsetRange, Header, Bytes)> {
        let (chunk, at) = self.chunk.as_mut()?;
        let (segment, _) = self.segment.as_ref()?;
        let rest = chunk.bytes.slice(*at..);
        let Some(Ok((_, header))) = batch::walk(&rest).next() else {
            // Not the end of the chunk: what follows is no batch.
            let is_damaged = !rest.is_empty();
            self.chunk = None;
            if is_damaged {
                (self.was_damaged, self.segment) = (true, None);
            }
            return None;
        };
        *at += header.total_bytes;
        let first = header.base_offset.max(segment.sidecar.range.first).max(part.first);
        if first >= part.next {
            // Nor is anything behind it.
            (self.chunk, self.segment) = (None, None);
            return None;
        }
        let range = OffsetRange { first, next: header.next_offset().min(part.next) };
        Some((range, header, rest.slice(..header.total_bytes)))
    }

    async fn next_chunk(&mut self) -> Result<bool> {
        let Some((_, chunks)) = &mut self.segment else { return Ok(false) };
        match chunks.next().await {
            Ok(Some(chunk)) => {
                self.chunk = Some((chunk, 0));
                Ok(true)
            }
            Ok(None) => {
                self.segment = None;
                Ok(false)
            }
            Err(error) if error.kind() == Kind::Damaged => {
                (self.was_damaged, self.segment) = (true, None);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn next_segment(&mut self) -> Result<bool> {
        let Some((chain, range)) = &mut self.chain else { return Ok(false) };
        match chain.next().await? {
            Some(Link::Segment(segment)) if segment.sidecar.range.first < range.next => {
                let range = *range;
                self.reached = self.reached.max(Some(segment.sidecar.range.next.min(range.next)));
                if self.is_wanted(&segment.sidecar, range) {
                    let position = if self.window.is_some() { segment.position_of(range.first) } else { 0 };
                    let chunks = segment.chunks(position);
                    self.segment = Some((segment, chunks));
                }
            }
            // A hole is what the archive lacks; anything else may be there and could not be read.
            Some(Link::Finding(finding)) => {
                let is_outside = |at: OffsetRange| at.next <= range.first || at.first >= range.next;
                let is_lost = [What::DamagedLog, What::DamagedSidecar, What::NoSidecar].contains(&finding.what)
                    && !(self.window.is_some() && finding.range.is_some_and(is_outside));
                self.was_damaged |= is_lost;
                self.reached = self.reached.max(chain.reached().map(|reached| reached.min(range.next)));
            }
            Some(Link::Segment(_)) | None => {
                self.chain = None;
                return Ok(false);
            }
        }
        Ok(true)
    }
}
