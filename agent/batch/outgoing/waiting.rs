//! Small batches that wait for more of their kind, to be sent as one.
//!
//! Pure. One that stays alone is sent as it is, so it is taken apart only when the next one comes.

use bytes::Bytes;

use super::piece::Piece;
use super::sources::{Sources, origins};
use super::{Archived, Fitted, Limits, verbatim};
use crate::batch::records::transfer::{each, unpack_in};
use crate::batch::{Compression, HEADER_BYTES, Header};
use crate::error::Result;
use crate::record::Offset;

/// What waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// How all that waits is compressed, and whether a broker stamped it: other batches do not join it.
    kind: (Compression, bool),
    /// A batch that a broker would take as it is, where nothing else waits.
    lone: Option<(Header, Bytes, Option<Sources>)>,
    /// The records of all batches, where there is no lone one.
    piece: Piece,
}

impl Waiting {
    /// Makes one in which nothing waits.
    pub(super) fn new() -> Self {
        Self { kind: (Compression::None, false), lone: None, piece: Piece::new() }
    }

    /// Returns whether anything waits.
    pub(super) fn waits(&self) -> bool {
        self.lone.is_some() || self.piece.count() > 0
    }

    /// Returns the source offset of the first record that waits.
    pub(super) fn first(&self) -> Option<Offset> {
        let of_lone = |(header, _, sources): &(Header, Bytes, Option<Sources>)| {
            sources.as_ref().and_then(Sources::first).unwrap_or(header.base_offset)
        };
        self.lone.as_ref().map(of_lone).or_else(|| self.piece.first())
    }

    /// Returns how many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.lone.as_ref().map_or(0, |(_, batch, _)| batch.len()) + self.piece.plain_bytes()
    }

    /// Takes a batch; what is sent before it goes to `out`. Returns `false`, and has not taken it, where its records are too
    /// many for merging.
    pub(super) fn put(
        &mut self,
        batch: &Archived<'_>,
        limits: &Limits,
        [scratch, lone_scratch]: &mut [Vec<u8>; 2],
        out: &mut Vec<Fitted>,
    ) -> Result<bool> {
        let most_plain = limits.merge_to.min(limits.most_bytes).saturating_sub(HEADER_BYTES);
        let kind = (batch.compression, batch.header.is_log_append_time());
        if kind != self.kind {
            self.flush(limits.most_bytes, out)?;
            self.kind = kind;
        }
        if batch.is_whole() && self.lone.is_none() && self.piece.count() == 0 {
            return Ok(self.wait(batch));
        }
        // What is wrong with one that cannot be unpacked is said where it is not merged, if it must be unpacked there.
        let Ok(plain) = unpack_in(batch.header, &batch.bytes, most_plain, scratch) else { return Ok(false) };
        let lone = self.lone.take();
        let lone = lone.as_ref().map(|(header, bytes, sources)| {
            let plain = unpack_in(header, bytes, most_plain, lone_scratch);
            (header, bytes, sources, plain)
        });
        let (piece, settings) = (&mut self.piece, (batch.compression, limits.most_bytes));
        match lone {
            Some((header, _, sources, Ok(first))) if first.len() + plain.len() <= most_plain => {
                let mut origin = origins(sources.as_ref());
                each(header, first, |offset, time, fields| piece.put((origin(offset), time, fields), settings, out))?;
            }
            Some((header, bytes, sources, _)) => {
                out.push(verbatim(header, bytes, batch.compression, sources.clone()));
            }
            None if piece.plain_bytes() + plain.len() > most_plain => piece.fit(settings.0, settings.1, out)?,
            None => {}
        }
        let before = (piece.count(), out.len());
        if batch.is_whole() && before.0 == 0 {
            return Ok(self.wait(batch));
        }
        batch.each(plain, |record| piece.put(record, settings, out))?;
        // Everything was taken after all, and nothing is there to be merged with.
        if batch.is_fit() && before == (0, out.len()) && piece.count() == batch.header.count {
            piece.clear();
            return Ok(self.wait(batch));
        }
        Ok(true)
    }

    /// Lets a batch wait alone, as it is.
    fn wait(&mut self, batch: &Archived<'_>) -> bool {
        // A slice would hold the whole chunk that was read for as long as nothing more comes.
        let alone = Bytes::copy_from_slice(&batch.bytes);
        self.lone = Some((*batch.header, alone, batch.sources.clone()));
        true
    }

    /// Hands out all that waits.
    pub(super) fn flush(&mut self, most_bytes: usize, out: &mut Vec<Fitted>) -> Result<()> {
        if let Some((header, batch, sources)) = self.lone.take() {
            out.push(verbatim(&header, &batch, self.kind.0, sources));
        }
        self.piece.fit(self.kind.0, most_bytes, out)
    }

    /// Returns how many bytes of plain records wait, but for those of a lone batch.
    #[cfg(test)]
    pub(super) fn plain_bytes(&self) -> usize {
        self.piece.plain_bytes()
    }
}
