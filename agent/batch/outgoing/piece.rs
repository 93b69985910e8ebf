//! One batch in the making: records of one or more archived ones, and where they came from.
//!
//! Pure. What is made of it never exceeds the bytes that the target takes: it is cut in as few as that needs.

use super::sources::Sources;
use super::{Fitted, Outgoing};
use crate::batch::records::template;
use crate::batch::records::transfer::{append, each, record_bytes, spare};
use crate::batch::{Compression, HEADER_BYTES, Header, codec};
use crate::error::{Error, Result};
use crate::record::{Offset, Timestamp};

/// The most bytes of plain records in one batch, but for a record that alone has more. Half a gigabyte of nothing may be
/// some kilobytes in the archive: a batch made of all of that would be there three times, as would twice as much of these.
const MOST_PLAIN_BYTES: usize = 64 << 20;

/// Records of one batch, plain.
#[derive(Debug)]
pub(super) struct Piece {
    body: Vec<u8>,
    count: i32,
    base_time: Timestamp,
    max_time: Timestamp,
    sources: Sources,
}

impl Piece {
    /// Makes one without records.
    pub(super) fn new() -> Self {
        Self {
            body: Vec::new(),
            count: 0,
            base_time: Timestamp::NONE,
            max_time: Timestamp::NONE,
            sources: Sources::default(),
        }
    }

    /// Returns how many records it has.
    pub(super) fn count(&self) -> i32 {
        self.count
    }

    /// Returns the source offset of its first record.
    pub(super) fn first(&self) -> Option<Offset> {
        self.sources.first()
    }

    /// Returns how many bytes its plain records are.
    pub(super) fn plain_bytes(&self) -> usize {
        self.body.len()
    }

    /// Adds a record, its bytes from the key on as they lie; what is full before it goes to `out`.
    ///
    /// # Errors
    /// As [`fit`](Self::fit).
    pub(super) fn put(
        &mut self,
        (offset, time, fields): (Offset, Timestamp, &[u8]),
        (compression, most_bytes): (Compression, usize),
        out: &mut Vec<Fitted>,
    ) -> Result<()> {
        if !self.push(offset, time, fields, MOST_PLAIN_BYTES) {
            self.fit(compression, most_bytes, out)?;
            let is_in = self.push(offset, time, fields, 0);
            debug_assert!(is_in, "an empty piece takes any record");
        }
        Ok(())
    }

    /// Adds a record if the plain ones are at most so many bytes then, and if its time can be told as a difference; the
    /// first one always.
    fn push(&mut self, offset: Offset, time: Timestamp, fields: &[u8], most_bytes: usize) -> bool {
        if self.count == 0 {
            (self.base_time, self.max_time) = (time, time);
        }
        let Some(time_delta) = time.0.checked_sub(self.base_time.0) else { return false };
        if self.count > 0 && self.body.len() + record_bytes(time_delta, self.count, fields) > most_bytes {
            return false;
        }
        append(&mut self.body, time_delta, self.count, fields);
        self.max_time = self.max_time.max(time);
        self.sources.push(offset);
        self.count += 1;
        true
    }

    /// Hands its records out as one batch, or as several where that would exceed `most_bytes`; none are left here.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) when a record alone exceeds that.
    pub(super) fn fit(&mut self, compression: Compression, most_bytes: usize, out: &mut Vec<Fitted>) -> Result<()> {
        let room = most_bytes.saturating_sub(HEADER_BYTES);
        let is_plain = compression == Compression::None;
        if self.count == 0 {
            return Ok(());
        }
        // Plain records are too many before they are copied.
        let packed = (!is_plain || self.body.len() <= room).then(|| codec::compress(compression, &self.body));
        let bytes = packed.as_ref().map_or(self.body.len(), bytes::Bytes::len);
        match packed.filter(|packed| packed.len() <= room) {
            Some(packed) => {
                let batch = Outgoing::made(&self.header(), compression, packed);
                out.push(Fitted { batch, sources: std::mem::take(&mut self.sources) });
            }
            None if self.count == 1 => return Err(self.too_large(HEADER_BYTES + bytes, most_bytes)),
            None => self.split(compression, most_bytes, bytes.div_ceil(room.max(1)), out)?,
        }
        self.clear();
        Ok(())
    }

    /// Hands its records out as batches, about so many: of equal size where they are compressed, because nobody knows what
    /// the records of each come to; else each as large as may be.
    fn split(&self, compression: Compression, most_bytes: usize, pieces: usize, out: &mut Vec<Fitted>) -> Result<()> {
        let (mut left_bytes, mut left_pieces) = (self.body.len(), pieces.max(2));
        let share = |left_bytes: usize, left_pieces: usize| match compression {
            Compression::None => most_bytes.saturating_sub(HEADER_BYTES),
            _ if left_pieces == 1 => usize::MAX,
            _ => left_bytes.div_ceil(left_pieces),
        };
        let mut most = share(left_bytes, left_pieces);
        let mut piece = Self::new();
        let mut sources = self.sources.offsets();
        each(&self.header(), &self.body, |_, time, fields| {
            let offset = sources.next().expect("each record has a source");
            if piece.push(offset, time, fields, most) {
                return Ok(());
            }
            left_bytes = left_bytes.saturating_sub(piece.body.len());
            left_pieces = left_pieces.saturating_sub(1).max(1);
            most = share(left_bytes, left_pieces);
            piece.fit(compression, most_bytes, out)?;
            let is_in = piece.push(offset, time, fields, most);
            debug_assert!(is_in, "an empty piece takes any record");
            Ok(())
        })?;
        piece.fit(compression, most_bytes, out)
    }

    /// Gives up its records, and its buffer where that has become large.
    pub(super) fn clear(&mut self) {
        spare(&mut self.body);
        self.sources = Sources::default();
        self.count = 0;
    }

    /// Returns the header of the batch that its records are: at offset 0, without holes.
    fn header(&self) -> Header {
        Header {
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_time,
            max_timestamp: self.max_time,
            count: self.count,
            ..template(0)
        }
    }

    fn too_large(&self, bytes: usize, most_bytes: usize) -> Error {
        Error::failed(format!("record alone makes a batch of {bytes} bytes, larger than its target takes"))
            .with("offset", self.sources.offsets().next().unwrap_or(-1))
            .with("max.message.bytes", most_bytes)
            .hint("raise `max.message.bytes` of the target topic")
    }
}
