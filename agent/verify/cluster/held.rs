//! The archive's side of a comparison: the batches along the newest way of one partition, one after the other.
//!
//! Memory: one chunk of a segment. What cannot be read is passed over: the check of the archive itself tells of it.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::archive::Archive;
use crate::archive::source::chain::{Chain, Link, What};
use crate::archive::source::chunks::{Chunk, Chunks, Segment};
use crate::archive::source::way::{self, Branch, Part};
use crate::batch::{self, Header};
use crate::error::{Kind, Result};
use crate::record::{Offset, OffsetRange, Partition};

/// A batch of the archive.
#[derive(Debug, Clone)]
pub(super) struct HeldBatch {
    pub(super) header: Header,
    /// All of its bytes.
    pub(super) bytes: Bytes,
    /// The offsets that are taken of it: a chain may begin inside a batch, and a fork may cut one.
    pub(super) range: OffsetRange,
    /// Its segment, for people.
    pub(super) object: String,
    /// Something before it could not be read.
    pub(super) is_behind_damage: bool,
    /// Its records went through stages of plugins, or may have: it is not what the source had.
    pub(super) is_staged: bool,
    /// Nothing tells any more through which stages.
    pub(super) has_unknown_stages: bool,
}

/// The batches of one partition.
pub(super) struct Held {
    archive: Archive,
    parts: VecDeque<Part>,
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
        let archive = archive.clone();
        Ok(Self { archive, parts, chain: None, segment: None, chunk: None, reached: None, was_damaged: false })
    }

    /// Returns the end of what was walked through, exclusive: behind the last batch, where the archive ends.
    pub(super) fn reached(&self) -> Option<Offset> {
        self.reached
    }

    /// Returns whether something behind the last batch could not be read.
    pub(super) fn was_damaged(&self) -> bool {
        self.was_damaged
    }

    /// Returns the next batch; `None` behind the last.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn next(&mut self) -> Result<Option<HeldBatch>> {
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
        let cut = self.chain.as_ref().map_or(Offset::MAX, |(_, range)| range.next);
        let first = header.base_offset.max(segment.sidecar.range.first);
        let range = OffsetRange { first, next: header.next_offset().min(cut) };
        if range.is_empty() {
            return self.in_chunk();
        }
        let is_behind_damage = std::mem::take(&mut self.was_damaged);
        self.reached = self.reached.max(Some(range.next));
        let (bytes, object) = (rest.slice(..header.total_bytes), segment.describe());
        let is_staged = !segment.sidecar.stages.is_empty();
        let has_unknown_stages = segment.sidecar.has_unknown_stages();
        Some(HeldBatch { header, bytes, range, object, is_behind_damage, is_staged, has_unknown_stages })
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
                self.reached = self.reached.max(Some(segment.sidecar.range.next.min(range.next)));
                let chunks = segment.chunks(0);
                self.segment = Some((segment, chunks));
            }
            // A hole is what the archive lacks; anything else may be there and could not be read.
            Some(Link::Finding(finding)) => {
                let is_lost = [What::DamagedLog, What::DamagedSidecar, What::NoSidecar].contains(&finding.what);
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
