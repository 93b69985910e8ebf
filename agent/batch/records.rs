//! The records inside a batch: an iterator over them, a cheap survey of them, and the encoder of the way back; and, beside
//! it, the [`digest`] by which two copies are compared.
//!
//! Pure. Keys, values and headers are slices of the decompressed batch; nothing is copied and nothing is interpreted:
//! null is not empty, headers keep their order and their duplicates, names of headers are bytes. Every varint, length
//! and count is checked, so that any input ends in records or in an error and never in a panic. The checksum of the
//! batch is the caller's to check ([`crc_matches`](super::crc_matches)). Layout:
//! <https://kafka.apache.org/documentation/#record>.

pub mod digest;
pub mod rows;
pub(super) mod transfer;
mod varint;

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::codec;
use super::{Compression, HEADER_BYTES, Header, LOG_APPEND_TIME, put_crc};
use crate::error::{Error, Result};
use crate::record::{Offset, Timestamp};
use rows::Rows;
use varint::Cursor;
pub(super) use varint::put_header;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: Offset,
    /// Its effective time: in a batch that the broker stamped (LogAppendTime), the batch's.
    pub timestamp: Timestamp,
    /// Its key; null is not empty.
    pub key: Option<Bytes>,
    /// Its value; null is not empty.
    pub value: Option<Bytes>,
    /// Its headers in order, as (name, value). Names may repeat and need not be UTF-8.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// The records of one batch, in offset order.
///
/// After an error it ends: what follows damage cannot be told from it.
#[derive(Debug)]
pub struct Records {
    walk: Walk,
    body: Bytes,
}

impl Records {
    /// Opens the batch at the start of `batch`, decompressing it; `header` is what [`Header::read`] made of it.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when bytes are missing or do not decompress.
    pub fn of(header: &Header, batch: &Bytes) -> Result<Self> {
        let body = match unpack(header, batch)? {
            Cow::Borrowed(plain) => batch.slice_ref(plain),
            Cow::Owned(plain) => Bytes::from(plain),
        };
        Ok(Self { walk: Walk::new(header), body })
    }

    /// Reads the header at the start of `batch` and opens it.
    ///
    /// # Errors
    /// As [`Header::read`] and [`Records::of`].
    pub fn read(batch: &Bytes) -> Result<Self> {
        Self::of(&Header::read(batch)?, batch)
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let body = &self.body;
        self.walk.step(body, |offset, timestamp, fields| record(body, offset, timestamp, fields))
    }
}

/// Reads the rest of a record, from its key on.
fn record(body: &Bytes, offset: Offset, timestamp: Timestamp, mut fields: Cursor<'_>) -> Result<Record> {
    let key = fields.field()?.map(|range| body.slice(range));
    let value = fields.field()?.map(|range| body.slice(range));
    let count = usize::try_from(fields.varint()?).map_err(|_| damaged("header count is negative"))?;
    // Each header takes two bytes or more: a count beyond that must not allocate.
    let mut headers = Vec::with_capacity(count.min(fields.left() / 2));
    for _ in 0..count {
        let name = fields.field()?.ok_or_else(|| damaged("header has no name"))?;
        headers.push((body.slice(name), fields.field()?.map(|range| body.slice(range))));
    }
    if fields.left() != 0 {
        return Err(damaged(format!("record has {} bytes too many", fields.left())));
    }
    Ok(Record { offset, timestamp, key, value, headers })
}

/// What a batch holds from some offset on, without its keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Survey {
    /// How many records.
    pub count: u32,
    /// The first one's offset.
    pub first: Option<Offset>,
    /// The last one's offset.
    pub last: Option<Offset>,
    /// The least of their effective times: proven, since every record was looked at.
    pub min_time: Option<Timestamp>,
    /// The greatest of their effective times.
    pub max_time: Option<Timestamp>,
}

/// Returns what the batch at the start of `batch` holds at or after `from`.
///
/// It decompresses, but steps over keys, values and headers. A batch that [is dense](Header::is_dense) tells its
/// offsets without it.
///
/// # Errors
/// As [`Records`], but for what lies inside keys, values and headers.
pub fn survey(batch: &[u8], header: &Header, from: Offset) -> Result<Survey> {
    let body = unpack(header, batch)?;
    let mut walk = Walk::new(header);
    let mut survey = Survey::default();
    while let Some(item) = walk.step(&body, |offset, time, _| Ok((offset, time))) {
        let (offset, time) = item?;
        if offset < from {
            continue;
        }
        survey.count += 1;
        survey.first = survey.first.or(Some(offset));
        survey.last = Some(offset);
        survey.min_time = Some(survey.min_time.map_or(time, |min| min.min(time)));
        survey.max_time = Some(survey.max_time.map_or(time, |max| max.max(time)));
    }
    Ok(survey)
}

/// Returns the plain records of the batch at the start of `batch`.
fn unpack<'a>(header: &Header, batch: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    unpack_at_most(header, batch, codec::LIMIT_BYTES)
}

fn unpack_at_most<'a>(header: &Header, batch: &'a [u8], limit_bytes: usize) -> Result<Cow<'a, [u8]>> {
    let packed = packed(header, batch)?;
    // A batch that compaction emptied has no body at all, not even a compressed one.
    if packed.is_empty() && header.count == 0 {
        return Ok(Cow::Borrowed(packed));
    }
    codec::decompress(header.compression()?, packed, limit_bytes)
        .map_err(|error| error.with("offset", header.base_offset))
}

/// Returns the records of the batch at the start of `batch`, as they are compressed.
fn packed<'a>(header: &Header, batch: &'a [u8]) -> Result<&'a [u8]> {
    let packed = batch.get(HEADER_BYTES..header.total_bytes);
    packed.ok_or_else(|| damaged("record batch is cut off").with("offset", header.base_offset))
}

/// A walk over the plain records of one batch.
#[derive(Debug)]
struct Walk {
    header: Header,
    position: usize,
    left: i32,
    last_delta: i32,
    ended: bool,
}

impl Walk {
    fn new(header: &Header) -> Self {
        Self { header: *header, position: 0, left: header.count, last_delta: -1, ended: false }
    }

    /// Goes to the next record of `body` and lets `read` make what it wants of its offset, effective time and the
    /// fields from the key on. An error ends the walk.
    fn step<'a, T>(
        &mut self,
        body: &'a [u8],
        read: impl FnOnce(Offset, Timestamp, Cursor<'a>) -> Result<T>,
    ) -> Option<Result<T>> {
        if self.ended {
            return None;
        }
        let item =
            self.advance(body).and_then(|at| at.map(|(offset, time, rest)| read(offset, time, rest)).transpose());
        self.ended = !matches!(item, Ok(Some(_)));
        item.map_err(|error| error.with("batch", self.header.base_offset).with("record", self.header.count - self.left))
            .transpose()
    }

    /// Reads the next record up to its key; the position is then behind the whole record.
    fn advance<'a>(&mut self, body: &'a [u8]) -> Result<Option<(Offset, Timestamp, Cursor<'a>)>> {
        if self.left == 0 {
            let rest = body.len() - self.position;
            return if rest == 0 { Ok(None) } else { Err(damaged(format!("{rest} bytes follow the last record"))) };
        }
        self.left -= 1;
        let mut rest = Cursor::new(body, self.position, body.len());
        let length = usize::try_from(rest.varint()?).map_err(|_| damaged("record length is negative"))?;
        let mut fields = rest.take(length)?;
        self.position = fields.end();
        // The record's own attributes: Kafka has given out none of them.
        fields.skip(1)?;
        let time_delta = fields.varlong()?;
        let delta = fields.varint()?;
        if delta <= self.last_delta || delta > self.header.last_offset_delta {
            return Err(damaged(format!("record has offset delta {delta} after {}", self.last_delta)));
        }
        self.last_delta = delta;
        let timestamp = if self.header.is_log_append_time() {
            self.header.max_timestamp
        } else {
            Timestamp(self.header.base_timestamp.0.checked_add(time_delta).ok_or_else(|| damaged("time overflows"))?)
        };
        Ok(Some((self.header.base_offset + i64::from(delta), timestamp, fields)))
    }
}

/// What a control record says of its producer's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlType {
    /// It was committed.
    Commit,
    /// It was aborted.
    Abort,
    /// Something that is not the end of a transaction, or newer than this program.
    Other,
}

/// Returns what a record of a [control batch](Header::is_control) says.
pub fn control_type(record: &Record) -> ControlType {
    match record.key.as_deref() {
        Some([_, _, 0, 0, ..]) => ControlType::Abort,
        Some([_, _, 0, 1, ..]) => ControlType::Commit,
        _ => ControlType::Other,
    }
}

/// Makes the header of a batch that begins at `base_offset`, for [`encode`]: no transaction, no producer id,
/// CreateTime, no leader epoch.
pub fn template(base_offset: Offset) -> Header {
    Header {
        base_offset,
        total_bytes: HEADER_BYTES,
        leader_epoch: -1,
        crc: 0,
        attributes: 0,
        last_offset_delta: 0,
        base_timestamp: Timestamp::NONE,
        max_timestamp: Timestamp::NONE,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        count: 0,
    }
}

/// Encodes `records` as one batch with its right checksum.
///
/// From `template` come the base offset, leader epoch, producer, sequence and all attributes but the compression; its
/// last offset delta holds where the records end earlier, as after compaction. Times, count and sizes are computed;
/// the times are the template's where there are no records, as is the base time where it is a delete horizon.
///
/// # Errors
/// [`Kind::Failed`](crate::error::Kind::Failed) when the records are not in ascending order from the base offset on,
/// or are too many or too large for one batch.
pub fn encode(template: &Header, records: &[Record], compression: Compression) -> Result<Bytes> {
    let places = records.iter().map(|record| (record.offset, record.timestamp));
    seal(template, places, compression, |out, at, time_delta, delta| {
        varint::put_record(out, time_delta, delta, &records[at])
    })
}

/// Encodes `rows` as one batch with its right checksum, as [`encode`] does records: their fields and headers are copied
/// as they lie. Where the template's batch was stamped by a broker and the rows have times of their own, they keep those.
/// A batch without rows has no body and is not compressed, as the log cleaner leaves it.
///
/// # Errors
/// As [`encode`].
pub fn encode_rows(template: &Header, rows: &Rows, compression: Compression) -> Result<Bytes> {
    let mut template = *template;
    if !rows.is_log_append_time {
        template.attributes &= !LOG_APPEND_TIME;
    }
    let compression = if rows.is_empty() { Compression::None } else { compression };
    let places = rows.rows().iter().map(|row| (row.offset, row.timestamp));
    seal(&template, places, compression, |out, at, time_delta, delta| rows.put(out, time_delta, delta, at))
}

/// Encodes `rows` as one batch that a producer could have made: at offset 0, without holes, each with its own time; where
/// they were is for the caller to keep. Their offsets need not ascend.
///
/// # Errors
/// As [`encode`].
pub fn encode_dense(rows: &Rows, compression: Compression) -> Result<Bytes> {
    let places = rows.rows().iter().enumerate().map(|(at, row)| (at as Offset, row.timestamp));
    seal(&template(0), places, compression, |out, at, time_delta, delta| rows.put(out, time_delta, delta, at))
}

/// Makes a batch of records at these places, in order, each of which `put` appends.
fn seal(
    template: &Header,
    places: impl ExactSizeIterator<Item = (Offset, Timestamp)> + Clone,
    compression: Compression,
    mut put: impl FnMut(&mut Vec<u8>, usize, i64, i32) -> Option<()>,
) -> Result<Bytes> {
    let unfit = |what: &str| Error::failed(what).with("base offset", template.base_offset);
    let count = i32::try_from(places.len()).map_err(|_| unfit("there are too many records for one batch"))?;
    let first_time = places.clone().next().map_or(template.base_timestamp, |(_, time)| time);
    let base_time = if template.has_delete_horizon() { template.base_timestamp } else { first_time };
    let mut body = Vec::new();
    let mut last_delta = -1;
    let mut max_time = None;
    for (at, (offset, time)) in places.enumerate() {
        let delta = offset.checked_sub(template.base_offset).and_then(|delta| i32::try_from(delta).ok());
        let delta = delta.filter(|delta| *delta > last_delta);
        let delta = delta.ok_or_else(|| unfit("records do not fit one batch").with("offset", offset))?;
        let time_delta = time.0.checked_sub(base_time.0).ok_or_else(|| unfit("record times overflow"))?;
        put(&mut body, at, time_delta, delta).ok_or_else(|| unfit("record is too large"))?;
        last_delta = delta;
        max_time = max_time.max(Some(time));
    }
    let packed = if compression == Compression::None { body.into() } else { codec::compress(compression, &body) };
    let total_bytes = HEADER_BYTES + packed.len();
    if total_bytes > i32::MAX as usize {
        return Err(unfit("batch is too large"));
    }
    let header = Header {
        total_bytes,
        attributes: (template.attributes & !0x07) | compression_bits(compression),
        last_offset_delta: last_delta.max(template.last_offset_delta),
        base_timestamp: base_time,
        max_timestamp: max_time.unwrap_or(template.max_timestamp),
        count,
        ..*template
    };
    let mut out = BytesMut::with_capacity(total_bytes);
    put_header(&mut out, &header);
    out.extend_from_slice(&packed);
    put_crc(&mut out);
    Ok(out.freeze())
}

pub(super) fn compression_bits(compression: Compression) -> i16 {
    match compression {
        Compression::None => 0,
        Compression::Gzip => 1,
        Compression::Snappy => 2,
        Compression::Lz4 => 3,
        Compression::Zstd => 4,
    }
}

fn damaged(what: impl Into<String>) -> Error {
    Error::damaged(what)
}

#[cfg(test)]
pub(super) mod mutation;
#[cfg(test)]
pub(crate) mod tests;
