//! The primitives of a record: zigzag varints, length-prefixed fields, and their encodings.
//!
//! Pure. A [`Cursor`] never reads outside the range that it was given, whatever the bytes say.

use std::ops::Range;

use bytes::BufMut;

use super::{Record, damaged};
use crate::batch::{Header, LENGTH_PREFIX_BYTES};
use crate::error::Result;

/// A reader over `[at, end)` of some bytes.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    /// Makes a reader of `bytes[at..end]`; both bounds lie inside `bytes`.
    pub(super) fn new(bytes: &'a [u8], at: usize, end: usize) -> Self {
        debug_assert!(at <= end);
        debug_assert!(end <= bytes.len());
        Self { bytes, at, end }
    }

    /// Returns where it ends.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// Returns how many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.end - self.at
    }

    /// Returns the bytes that are left.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..self.end]
    }

    /// Steps over `count` bytes and returns where they are.
    pub(super) fn skip(&mut self, count: usize) -> Result<Range<usize>> {
        if count > self.left() {
            return Err(damaged(format!("record needs {count} bytes where {} are left", self.left())));
        }
        let start = self.at;
        self.at += count;
        Ok(start..self.at)
    }

    /// Steps over `count` bytes and returns a reader of them.
    pub(super) fn take(&mut self, count: usize) -> Result<Self> {
        let range = self.skip(count)?;
        Ok(Self::new(self.bytes, range.start, range.end))
    }

    /// Reads a field: a length, then as many bytes; as in Kafka's reader, any negative length is null.
    pub(super) fn field(&mut self) -> Result<Option<Range<usize>>> {
        match usize::try_from(self.varint()?) {
            Ok(length) => self.skip(length).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Reads a 32-bit zigzag varint.
    pub(super) fn varint(&mut self) -> Result<i32> {
        let raw = self.unsigned(5)?;
        let raw = u32::try_from(raw).map_err(|_| damaged("varint exceeds 32 bits"))?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// Reads a 64-bit zigzag varint.
    pub(super) fn varlong(&mut self) -> Result<i64> {
        let raw = self.unsigned(10)?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// Reads up to `most` groups of seven bits, the lowest first.
    #[inline]
    fn unsigned(&mut self, most: usize) -> Result<u64> {
        let mut value = 0_u64;
        for (i, byte) in self.rest().iter().take(most).enumerate() {
            let low = u64::from(byte & 0x7f);
            // The tenth group has room for one bit.
            if i == 9 && low > 1 {
                break;
            }
            value |= low << (7 * i);
            if byte & 0x80 == 0 {
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err(damaged("varint is cut off or too long"))
    }
}

/// Appends the record; `None` when it exceeds what a length can say.
pub(super) fn put_record(out: &mut Vec<u8>, time_delta: i64, delta: i32, record: &Record) -> Option<()> {
    let headers: usize =
        record.headers.iter().map(|(name, value)| field_bytes(Some(name)) + field_bytes(value.as_deref())).sum();
    let count = i64::try_from(record.headers.len()).ok()?;
    begin_record(out, time_delta, delta, [record.key.as_deref(), record.value.as_deref()], count, headers)?;
    for (name, value) in &record.headers {
        put_field(out, Some(name));
        put_field(out, value.as_deref());
    }
    Some(())
}

/// Appends a record up to its `count` headers, of `header_bytes` together; `None` when it exceeds what a length can say.
pub(super) fn begin_record(
    out: &mut Vec<u8>,
    time_delta: i64,
    delta: i32,
    fields: [Option<&[u8]>; 2],
    count: i64,
    header_bytes: usize,
) -> Option<()> {
    let length = 1
        + varint_bytes(time_delta)
        + varint_bytes(delta.into())
        + fields.map(field_bytes).iter().sum::<usize>()
        + varint_bytes(count)
        + header_bytes;
    put_varint(out, i32::try_from(length).ok()?.into());
    out.push(0);
    put_varint(out, time_delta);
    put_varint(out, delta.into());
    for field in fields {
        put_field(out, field);
    }
    put_varint(out, count);
    Some(())
}

/// Appends a batch's header as it is; the checksum comes when the batch is whole.
pub(in crate::batch) fn put_header(out: &mut impl BufMut, header: &Header) {
    out.put_i64(header.base_offset);
    out.put_i32((header.total_bytes - LENGTH_PREFIX_BYTES) as i32);
    out.put_i32(header.leader_epoch);
    out.put_u8(2);
    out.put_u32(header.crc);
    out.put_i16(header.attributes);
    out.put_i32(header.last_offset_delta);
    out.put_i64(header.base_timestamp.0);
    out.put_i64(header.max_timestamp.0);
    out.put_i64(header.producer_id);
    out.put_i16(header.producer_epoch);
    out.put_i32(header.base_sequence);
    out.put_i32(header.count);
}

#[inline]
pub(super) fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        Some(field) => {
            put_varint(out, field.len() as i64);
            out.extend_from_slice(field);
        }
        None => put_varint(out, -1),
    }
}

fn field_bytes(field: Option<&[u8]>) -> usize {
    field.map_or(1, |field| varint_bytes(field.len() as i64) + field.len())
}

#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = zigzag(value);
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Writes a varint at `at`; returns where it ends.
///
/// # Panics
/// If there is no room for it.
#[inline]
pub(super) fn write_varint(out: &mut [u8], mut at: usize, value: i64) -> usize {
    let mut raw = zigzag(value);
    while raw >= 0x80 {
        out[at] = raw as u8 | 0x80;
        at += 1;
        raw >>= 7;
    }
    out[at] = raw as u8;
    at + 1
}

#[inline]
pub(super) fn varint_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_varint_reads_back_and_tells_its_size(value in any::<i64>()) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_bytes(value));
            let mut written = [0; 12];
            prop_assert_eq!(write_varint(&mut written, 1, value), 1 + out.len());
            prop_assert_eq!(&written[1..=out.len()], &out[..]);
            prop_assert_eq!(Cursor::new(&out, 0, out.len()).varlong().expect("whole"), value);
            let narrow = Cursor::new(&out, 0, out.len()).varint();
            prop_assert_eq!(narrow.ok(), i32::try_from(value).ok());
            prop_assert!(Cursor::new(&out, 0, out.len() - 1).varlong().is_err());
        }
    }

    #[test]
    fn a_varint_of_eleven_groups_or_with_bits_beyond_64_is_refused() {
        assert!(Cursor::new(&[0xff; 12], 0, 12).varlong().is_err());
        let over = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert!(Cursor::new(&over, 0, 10).varlong().is_err());
    }
}
