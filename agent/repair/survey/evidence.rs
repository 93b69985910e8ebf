//! What is told of one log whose own sidecar is not there or cannot be read, and what follows from it.
//!
//! Pure. A log that lost its end between two batches, or was changed where no checksum looks, reads as a sound one. So it
//! is taken for sound only where nothing tells of other bytes: neither the name of a sidecar, however damaged that is,
//! nor a catalog's row. A sidecar of another length may be that of a writer that lost a race; this one did if the next
//! segment begins just where the log ends.

use std::sync::Arc;

use super::{Object, Segment, State, note};
use crate::archive::catalog::Row;
use crate::archive::sidecar::Sidecar;
use crate::record::{Offset, OffsetRange};
use crate::repair::scan::Scan;

/// What is told of a log, and what it was found to be. No sidecar that can be read is of these bytes.
pub(super) struct Evidence<'a> {
    pub(super) first: Offset,
    pub(super) bytes: u64,
    pub(super) scan: Scan,
    /// Its sidecars that can be read, by name, of whatever length.
    pub(super) readable: Vec<(String, Sidecar)>,
    /// The names of all its sidecars: offset, length and digest.
    pub(super) named: &'a [(Offset, u64, u128)],
    /// The damaged sidecar whose name is that of these bytes.
    pub(super) damaged: Option<Object>,
    /// What a catalog says of the segment, and why it is a gap.
    pub(super) row: Option<(Row, Option<Arc<str>>)>,
    /// The logs behind it.
    pub(super) following: &'a [(Offset, u64)],
}

impl Evidence<'_> {
    /// Returns the segment, and the name of the sidecar that is its own, if there is one.
    pub(super) fn judge(mut self) -> (Segment, Option<String>) {
        let is_sound = self.scan.damage.is_none() && !self.scan.pieces.is_empty();
        let tells_these = |row: &Row| (row.length_bytes, row.digest) == (self.bytes, self.scan.digest);
        let is_proven = self.damaged.is_some() || self.row.as_ref().is_some_and(|(row, _)| tells_these(row));
        if is_sound && is_proven {
            return self.bare();
        }
        if is_sound && self.told_lengths().any(|length| length == self.bytes) {
            return self.altered();
        }
        if is_sound && !self.is_cut() && !self.is_beyond() {
            self.row = None;
            return self.bare();
        }
        self.broken()
    }

    fn reached(&self) -> Offset {
        self.scan.next().unwrap_or(self.first)
    }

    fn follows(&self) -> impl Iterator<Item = Offset> {
        self.following.iter().map(|&(next, _)| next).filter(|next| *next > self.first)
    }

    /// Returns the lengths that the log is told to have had.
    fn told_lengths(&self) -> impl Iterator<Item = u64> {
        let by_row = self.row.iter().map(|(row, _)| row.length_bytes);
        self.named.iter().map(|&(_, length, _)| length).chain(by_row)
    }

    /// Returns whether the log was longer, for all that is known.
    fn is_cut(&self) -> bool {
        let reached = self.reached();
        self.told_lengths().any(|length| length > self.bytes) && !self.follows().any(|next| next == reached)
    }

    /// Returns whether the log reaches beyond everything that follows: a batch's checksum does not cover its base offset.
    fn is_beyond(&self) -> bool {
        let reached = self.reached();
        !self.following.is_empty() && !self.follows().any(|next| next >= reached)
    }

    fn bare(self) -> (Segment, Option<String>) {
        let range = OffsetRange { first: self.first, next: self.reached() };
        let own = self.damaged.as_ref().map(|object| object.name.clone());
        let state = State::Bare { damaged: self.damaged, digest: self.scan.digest, row: self.row };
        (Segment { range, bytes: self.bytes, state }, own)
    }

    fn altered(self) -> (Segment, Option<String>) {
        let mut range = OffsetRange { first: self.first, next: self.reached() };
        if let Some(next) = self.follows().next().filter(|_| self.is_beyond()) {
            range.next = next;
        }
        let bytes = self.bytes;
        let mut of_length = self.readable.into_iter().filter(|(_, sidecar)| sidecar.length_bytes == bytes);
        let (own, sidecar) = of_length.next().filter(|_| of_length.next().is_none()).unzip();
        let by_sidecar = sidecar.map(|sidecar| (Row::of(&sidecar), note(&sidecar)));
        let row = by_sidecar.or(self.row.filter(|(row, _)| row.length_bytes == bytes));
        let range = row.as_ref().map_or(range, |(row, _)| row.range);
        (Segment { range, bytes, state: State::Altered(row) }, own)
    }

    fn broken(self) -> (Segment, Option<String>) {
        let reached = self.reached();
        let (is_cut, is_beyond) = (self.is_cut(), self.is_beyond());
        let damage = self.scan.damage.clone().unwrap_or_else(|| match self.told_lengths().max() {
            Some(most) if is_cut => format!("its end is missing: {} of {most} bytes are left", self.bytes),
            _ if is_beyond => format!("its offsets reach to {reached}, beyond the segments behind it"),
            _ => format!("its end is missing: {} bytes are left", self.bytes),
        });
        let upper = self.follows().filter(|next| *next >= reached).min();
        let beyond = self.follows().next().filter(|_| is_beyond);
        // One of its own length is its own; of others the longest knows most, and what it knows of offsets that are not
        // the segment's harms nothing.
        let bytes = self.bytes;
        let described = self.readable.into_iter().filter(|(_, sidecar)| sidecar.range.next >= reached);
        let described = described.max_by_key(|(_, it)| (it.length_bytes == bytes, it.length_bytes, it.digest));
        let (own, sidecar) = described.unzip();
        let by_row = self.row.map(|(row, _)| row.range.next).filter(|next| *next >= reached);
        let told = sidecar.as_ref().map(|sidecar| sidecar.range.next).or(by_row);
        let bound = match (told, upper) {
            (Some(told), Some(upper)) => Some(told.min(upper)),
            (told, upper) => told.or(upper),
        };
        let range = OffsetRange { first: self.first, next: bound.or(beyond).unwrap_or(reached).max(self.first) };
        let (sidecar, is_bounded) = (sidecar.map(Box::new), bound.is_some());
        let state = State::Broken { scan: self.scan, damage, sidecar, is_bounded };
        (Segment { range, bytes, state }, own)
    }
}
