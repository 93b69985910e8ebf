//! What the batches of a segment prove about what is left out of it.
//!
//! Pure. What is sent is proven where it is made into what the target takes; of what is not sent nobody would miss a
//! record, were its header wrong. A batch's checksum covers neither its offset nor its length: that these are right, the
//! batches beside it tell, and the segment's row, which has them from when it was sealed.

use crate::archive::catalog::Row;
use crate::batch::{self, Header, records};
use crate::error::{Error, Result};
use crate::record::Offset;

/// The batches of one segment, as they pass in order.
#[derive(Debug)]
pub(super) struct Proof<'a> {
    row: &'a Row,
    /// It is read from its first batch on.
    is_whole: bool,
    /// The offset behind the last batch.
    reached: Option<Offset>,
    /// Records that a reader sees.
    records: u64,
    /// A batch that begins at or behind the end of what is wanted has passed.
    is_beyond: bool,
}

impl<'a> Proof<'a> {
    /// Makes that of the segment of `row`.
    pub(super) fn new(row: &'a Row, is_whole: bool) -> Self {
        Self { row, is_whole, reached: None, records: 0, is_beyond: false }
    }

    /// Takes the next batch.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when it cannot lie there.
    pub(super) fn pass(&mut self, header: &Header) -> Result<()> {
        let range = self.row.range;
        let rises = match self.reached {
            Some(reached) => header.base_offset >= reached,
            // A fetch is not batch-aligned: the first may begin before the segment.
            None => header.next_offset() > range.first,
        };
        if !rises || header.next_offset() > range.next {
            return Err(Error::damaged("a record batch lies where none can be")
                .with("offset", header.base_offset)
                .with("segment", range)
                .hint("run `verify --deep`"));
        }
        self.reached = Some(header.next_offset());
        Ok(())
    }

    /// Counts a batch that a reader sees, which passed last; `bytes` begin with it.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when it must be looked into and cannot be.
    pub(super) fn see(&mut self, header: &Header, bytes: &[u8]) -> Result<()> {
        let first = self.row.range.first;
        self.records += match header.base_offset >= first {
            true => u64::from(header.count.unsigned_abs()),
            // Nothing more is asked of one that ends the walk later.
            false if !self.is_whole => 0,
            false => records::survey(&bytes[..header.total_bytes], header, first)?.count as u64,
        };
        Ok(())
    }

    /// Notes that a batch begins behind what is wanted; returns whether that is proven: by a further one, which lies
    /// behind it.
    pub(super) fn is_proven_beyond(&mut self) -> bool {
        std::mem::replace(&mut self.is_beyond, true)
    }

    /// Checks that nothing is missing, at the end of the log.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when something is.
    pub(super) fn end(&self) -> Result<()> {
        let (range, records) = (self.row.range, self.row.records);
        let reached = self.reached.unwrap_or(range.first);
        let is_seen = !self.is_whole || self.is_beyond || self.records == records;
        if reached == range.next && is_seen {
            return Ok(());
        }
        Err(Error::damaged("a segment is not what it was when it was sealed")
            .with("segment", range)
            .with("ends at", reached)
            .with("records", self.records)
            .with("sealed with", records)
            .hint("run `verify --deep`"))
    }
}

/// Checks the checksum of the batch at the start of `bytes`.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when it does not hold.
pub(super) fn sound(header: &Header, bytes: &[u8]) -> Result<()> {
    if batch::crc_matches(&bytes[..header.total_bytes]) {
        return Ok(());
    }
    Err(Error::damaged("record batch is damaged: its checksum does not match its bytes")
        .with("offset", header.base_offset)
        .hint("run `verify --deep`"))
}
