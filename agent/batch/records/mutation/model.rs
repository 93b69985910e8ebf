//! Kafka's layout of records, read a second time, slow and plain: what the codec reads is held against it.

use bytes::Bytes;

use super::super::Record;
use crate::batch::codec::{LIMIT_BYTES, decompress};
use crate::batch::{HEADER_BYTES, Header};
use crate::record::Timestamp;

/// Returns the records of a batch; `None` where it is damaged.
pub(super) fn read(header: &Header, batch: &[u8]) -> Option<Vec<Record>> {
    let packed = batch.get(HEADER_BYTES..header.total_bytes)?;
    if packed.is_empty() && header.count == 0 {
        return Some(Vec::new());
    }
    let body = decompress(header.compression().ok()?, packed, LIMIT_BYTES).ok()?;
    let mut body = Input(&body);
    let (mut records, mut last) = (Vec::new(), -1);
    for _ in 0..header.count {
        let length = body.number(32)?;
        let (delta, record) = record(header, Input(body.take(length)?))?;
        if delta <= last || delta > i64::from(header.last_offset_delta) {
            return None;
        }
        last = delta;
        records.push(record);
    }
    body.0.is_empty().then_some(records)
}

/// Reads a record behind its length; returns its offset delta too.
fn record(header: &Header, mut fields: Input<'_>) -> Option<(i64, Record)> {
    let _attributes = fields.take(1)?;
    let time = header.base_timestamp.0.checked_add(fields.number(64)?);
    let time = if header.is_log_append_time() { header.max_timestamp } else { Timestamp(time?) };
    let delta = fields.number(32)?;
    let (key, value) = (fields.field()?, fields.field()?);
    let mut headers = Vec::new();
    let count = fields.number(32)?;
    for _ in 0..count {
        headers.push((fields.field()??, fields.field()?));
    }
    let record = Record { offset: header.base_offset + delta, timestamp: time, key, value, headers };
    (count >= 0 && fields.0.is_empty()).then_some((delta, record))
}

/// Bytes that are still to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: i64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<Option<Bytes>> {
        match self.number(32)? {
            ..0 => Some(None),
            length => self.take(length).map(|field| Some(Bytes::copy_from_slice(field))),
        }
    }

    /// Reads a zigzag varint of so many bits.
    fn number(&mut self, bits: u32) -> Option<i64> {
        let mut value = 0_u128;
        for group in 0..bits.div_ceil(7) {
            let byte = self.take(1)?[0];
            value |= u128::from(byte & 0x7f) << (7 * group);
            if byte < 0x80 {
                let half = i128::try_from(value >> 1).ok()?;
                let number = if value & 1 == 0 { half } else { -half - 1 };
                return (value >> bits == 0).then_some(i64::try_from(number).ok()?);
            }
        }
        None
    }
}
