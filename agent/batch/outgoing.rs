//! Record batches as a broker takes them from a producer: what [`Refit`] makes of archived ones.
//!
//! Pure. A batch keeps its bytes from the records on wherever a broker would take those; only its header is new. It is
//! taken apart and encoded again, with its own compression, where it must be: where records are missing in it or are to be
//! left out, where a broker stamped it (each record then has the batch's time, as one that its producer set), and where it
//! is larger than the target takes: it is cut in as few pieces as that needs. Small batches are merged, because a request
//! for each would cost more than all of their records. Order, keys, values, headers and effective times are never
//! touched; the offset that each record came from is told beside it.
//!
//! The new checksum covers bytes that nobody looked at. So each archived batch's own checksum is proven first, even where
//! nothing is taken of it: its times and its count are under that checksum too.
//!
//! What was made anew of archived records on the way ([`put_made`](Refit::put_made)) is taken in the same way; where its
//! records were is then told beside it.
//!
//! It leaves to the caller: control batches, aborted ones and gaps, which are not to be put at all; producer and sequence.
//! Of memory it takes the plain records of one batch at a time, and [`merge_to`](Limits::merge_to) of what waits; what is
//! sent as it is, and has not waited, holds a slice of what was put.

mod behind;
mod checksum;
mod piece;
mod sources;
mod waiting;

use bytes::{BufMut, Bytes};

use self::checksum::Tail;
use self::piece::Piece;
pub use self::sources::Sources;
use self::sources::origins;
use self::waiting::Waiting;
use super::records::transfer::{each, spare, unpack_in};
use super::records::{compression_bits, put_header, template};
use super::{CRC_FROM, Compression, HEADER_BYTES, Header, TRANSACTIONAL, codec, crc_matches};
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange, Timestamp};

/// Payloads below this are read again for their checksum: a combined one costs some hundred nanoseconds, whatever it is of.
const COMBINED_FROM_BYTES: usize = 4 << 10;

/// Who sends a batch: Kafka's idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The producer's id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// A batch that is ready to be sent, but for its producer and sequence.
#[derive(Debug, Clone)]
pub struct Outgoing {
    compression: Compression,
    base_time: Timestamp,
    max_time: Timestamp,
    records: i32,
    payload: Bytes,
    /// What the payload does to the checksum, where it is large.
    tail: Option<Tail>,
}

impl Outgoing {
    /// Makes a batch of a payload that we compressed; times and count are the header's.
    fn made(header: &Header, compression: Compression, payload: Bytes) -> Self {
        let tail = (payload.len() >= COMBINED_FROM_BYTES).then(|| Tail::of(&payload));
        Self::new(header, compression, payload, tail)
    }

    /// Makes one of an archived batch as it is, whose checksum is proven. Its base time stays what it is, even where it was
    /// a delete horizon: the records' times count from it.
    fn verbatim(header: &Header, batch: &Bytes, compression: Compression) -> Self {
        let payload = batch.slice(HEADER_BYTES..);
        let head = &batch[CRC_FROM..HEADER_BYTES];
        let is_large = payload.len() >= COMBINED_FROM_BYTES;
        let tail = is_large.then(|| Tail::behind(head, header.crc, payload.len()));
        Self::new(header, compression, payload, tail)
    }

    fn new(header: &Header, compression: Compression, payload: Bytes, tail: Option<Tail>) -> Self {
        let (base_time, max_time) = (header.base_timestamp, header.max_timestamp);
        Self { compression, base_time, max_time, records: header.count, payload, tail }
    }

    /// Returns how many records it has: so many sequences it takes.
    pub fn records(&self) -> u32 {
        self.records.cast_unsigned()
    }

    /// Returns how many bytes it is on the wire.
    pub fn total_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Returns what stands behind its header: the records, as they are sent.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Returns its header: at offset 0, of no leader epoch, with the right checksum; where it is `transactional`, as that of
    /// a part of the producer's transaction.
    pub fn seal(&self, producer: Identity, sequence: i32, transactional: bool) -> [u8; HEADER_BYTES] {
        let header = Header {
            total_bytes: self.total_bytes(),
            attributes: compression_bits(self.compression) | if transactional { TRANSACTIONAL } else { 0 },
            last_offset_delta: self.records - 1,
            base_timestamp: self.base_time,
            max_timestamp: self.max_time,
            producer_id: producer.producer_id,
            producer_epoch: producer.epoch,
            base_sequence: sequence,
            count: self.records,
            ..template(0)
        };
        let mut head = [0; HEADER_BYTES];
        put_header(&mut &mut head[..], &header);
        let covered = &head[CRC_FROM..];
        let crc = match self.tail {
            Some(tail) => tail.with(covered),
            None => crc32c::crc32c_append(crc32c::crc32c(covered), &self.payload),
        };
        (&mut head[17..CRC_FROM]).put_u32(crc);
        head
    }
}

/// A batch to be sent, and where its records were.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The batch.
    pub batch: Outgoing,
    /// The source offsets of its records, one each.
    pub sources: Sources,
}

/// How large batches are made.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most bytes of a batch that the target takes: its `max.message.bytes`.
    pub most_bytes: usize,
    /// Batches of fewer bytes are merged; 0: none.
    pub merge_below: usize,
    /// Bytes of plain records that a merged batch has at most.
    pub merge_to: usize,
}

/// Which records are taken: those inside all of these.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Their offsets.
    pub offsets: OffsetRange,
    /// The least effective time.
    pub from: Option<Timestamp>,
    /// The effective time that is too late already.
    pub until: Option<Timestamp>,
}

/// What a header tells of a batch's records in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    All,
    None,
    /// Some, or nobody knows.
    Some,
}

impl Window {
    /// All that there is.
    pub const EVERYTHING: Self = Self { offsets: OffsetRange { first: 0, next: Offset::MAX }, from: None, until: None };

    /// Returns what is taken of a batch, as far as its header proves it.
    pub(crate) fn takes(&self, header: &Header) -> Taken {
        let (least, most) = (header.proven_min_time(), header.max_timestamp);
        let is_behind = header.last_offset() < self.offsets.first || self.from.is_some_and(|from| most < from);
        let is_ahead = header.base_offset >= self.offsets.next
            || self.until.is_some_and(|until| least.is_some_and(|least| least >= until));
        let is_inside = self.offsets.contains(header.base_offset)
            && self.offsets.contains(header.last_offset())
            && self.from.is_none_or(|from| least.is_some_and(|least| least >= from))
            && self.until.is_none_or(|until| most < until);
        match (is_behind || is_ahead, is_inside) {
            (true, _) => Taken::None,
            (false, true) => Taken::All,
            (false, false) => Taken::Some,
        }
    }

    /// Returns whether a record is taken.
    pub fn contains(&self, offset: Offset, time: Timestamp) -> bool {
        self.offsets.contains(offset)
            && self.from.is_none_or(|from| time >= from)
            && self.until.is_none_or(|until| time < until)
    }
}

/// A batch that was archived and whose checksum is proven, or that was made of archived records.
struct Archived<'a> {
    header: &'a Header,
    bytes: Bytes,
    compression: Compression,
    window: &'a Window,
    taken: Taken,
    /// Where its records were, where its own offsets do not say so.
    sources: Option<Sources>,
}

impl Archived<'_> {
    /// Returns whether a broker takes its records as they are.
    fn is_fit(&self) -> bool {
        self.header.is_dense() && !self.header.is_log_append_time()
    }

    fn is_whole(&self) -> bool {
        self.is_fit() && self.taken == Taken::All
    }

    /// Gives each of its records that is taken to `take`.
    fn each(&self, plain: &[u8], mut take: impl FnMut((Offset, Timestamp, &[u8])) -> Result<()>) -> Result<()> {
        let mut origin = origins(self.sources.as_ref());
        each(self.header, plain, |offset, time, fields| {
            let source = origin(offset);
            if self.window.contains(offset, time) { take((source, time, fields)) } else { Ok(()) }
        })
    }
}

/// Returns the batch as it is, ready to be sent.
fn verbatim(header: &Header, batch: &Bytes, compression: Compression, sources: Option<Sources>) -> Fitted {
    let own = || Sources::dense(header.base_offset, header.count.cast_unsigned());
    let sources = sources.unwrap_or_else(own);
    Fitted { batch: Outgoing::verbatim(header, batch, compression), sources }
}

/// Makes of the archived batches of a partition what a broker takes.
///
/// A worker needs but one of them, for one partition after the other: what is put between two calls of
/// [`flush`](Self::flush) is of one partition. After an error it is of no use any more: what waited is lost.
#[derive(Debug)]
pub struct Refit {
    limits: Limits,
    waiting: Waiting,
    /// Plain records: of the batch that came, and of the one that waited alone.
    scratch: [Vec<u8>; 2],
}

impl Refit {
    /// Makes one that has not seen anything.
    pub fn new(limits: Limits) -> Self {
        // No length in a batch can say more.
        let limits = Limits { most_bytes: limits.most_bytes.min(i32::MAX as usize), ..limits };
        Self { limits, waiting: Waiting::new(), scratch: [Vec::new(), Vec::new()] }
    }

    /// Takes the batch at the start of `batch`, of which `header` is what [`Header::read`] made, and adds to `out` what is
    /// to be sent now.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when its checksum does not hold, or it must be taken apart and
    /// cannot be; [`Kind::Failed`](crate::error::Kind::Failed) when a record alone is larger than the target takes.
    pub fn put(&mut self, header: &Header, batch: &Bytes, window: &Window, out: &mut Vec<Fitted>) -> Result<()> {
        let bytes = proven(header, batch)?;
        let taken = window.takes(header);
        if header.count == 0 || taken == Taken::None {
            return Ok(());
        }
        self.take(&Archived { header, bytes, compression: header.compression()?, window, taken, sources: None }, out)
    }

    /// Takes a batch that was made of archived records, at offset 0 and without holes, of which `header` is what
    /// [`Header::read`] makes; `sources` says where each of them was.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_made(&mut self, header: &Header, batch: &Bytes, sources: Sources, out: &mut Vec<Fitted>) -> Result<()> {
        let (compression, window, taken) = (header.compression()?, &Window::EVERYTHING, Taken::All);
        let sources = Some(sources);
        self.take(&Archived { header, bytes: batch.clone(), compression, window, taken, sources }, out)
    }

    fn take(&mut self, batch: &Archived<'_>, out: &mut Vec<Fitted>) -> Result<()> {
        if batch.bytes.len() < self.limits.merge_below
            && batch.bytes.len() <= self.limits.most_bytes
            && self.waiting.put(batch, &self.limits, &mut self.scratch, out)?
        {
            return Ok(());
        }
        self.waiting.flush(self.limits.most_bytes, out)?;
        let done = self.alone(batch, out);
        spare(&mut self.scratch[0]);
        done
    }

    /// Adds to `out` what waits for more. Nothing is held then, neither slices of what was put nor buffers: it can go on
    /// with another partition.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn flush(&mut self, out: &mut Vec<Fitted>) -> Result<()> {
        self.waiting.flush(self.limits.most_bytes, out)?;
        *self = Self::new(self.limits);
        Ok(())
    }

    /// Returns whether records wait for more: [`flush`](Self::flush) would add them.
    pub fn waits(&self) -> bool {
        self.waiting.waits()
    }

    /// Returns the source offset of the first record that waits; everything that was put before it was handed out.
    pub fn waits_from(&self) -> Option<Offset> {
        self.waiting.first()
    }

    /// Returns how many bytes wait.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.bytes()
    }

    /// Gives up the buffers that it would use again.
    pub fn spare(&mut self) {
        self.scratch = [Vec::new(), Vec::new()];
    }

    /// Takes a batch that is not merged with others.
    fn alone(&mut self, batch: &Archived<'_>, out: &mut Vec<Fitted>) -> Result<()> {
        let Archived { header, bytes, compression, .. } = batch;
        let may_stay = batch.is_fit() && bytes.len() <= self.limits.most_bytes;
        if may_stay && batch.taken == Taken::All {
            out.push(verbatim(header, bytes, *compression, batch.sources.clone()));
            return Ok(());
        }
        let plain = unpack_in(header, bytes, codec::LIMIT_BYTES, &mut self.scratch[0])?;
        let mut count = 0;
        if may_stay {
            batch.each(plain, |_| {
                count += 1;
                Ok(())
            })?;
        }
        if count == header.count {
            out.push(verbatim(header, bytes, *compression, batch.sources.clone()));
            return Ok(());
        }
        let (mut piece, most_bytes) = (Piece::new(), self.limits.most_bytes);
        batch.each(plain, |record| piece.put(record, (*compression, most_bytes), out))?;
        piece.fit(*compression, most_bytes, out)
    }
}

/// Returns the bytes of a batch, all of which are what they were when it was archived.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when they are not.
pub(crate) fn proven(header: &Header, batch: &Bytes) -> Result<Bytes> {
    let damaged = |what: &str| Error::damaged(what).with("offset", header.base_offset);
    if batch.len() < header.total_bytes {
        return Err(damaged("record batch is cut off"));
    }
    let batch = batch.slice(..header.total_bytes);
    if crc_matches(&batch) {
        Ok(batch)
    } else {
        Err(damaged("record batch is damaged: its checksum does not match its bytes").hint("run `verify --deep`"))
    }
}

#[cfg(test)]
pub(super) mod mutation;
#[cfg(test)]
mod tests;
