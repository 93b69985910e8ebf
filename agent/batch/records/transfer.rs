//! Records on their way from one batch into another, copied as they lie: all that ties a record to its batch is its
//! length and how far its time and offset are from the batch's.
//!
//! Pure. It costs no allocation, neither for a record nor, with a buffer that is used again, for a batch.

use super::rows::row;
use super::varint::{put_varint, varint_bytes};
use super::{Walk, codec, packed};
use crate::batch::Header;
use crate::error::Result;
use crate::record::{Offset, Timestamp};

/// The most bytes that a buffer keeps between batches. A producer's batch has a megabyte.
const MOST_SPARE_BYTES: usize = 1 << 20;

/// Returns the plain records of the batch at the start of `batch`, in `scratch` where they are compressed.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when bytes are missing or do not decompress, or when they are more than
/// `limit_bytes` then.
pub(in crate::batch) fn unpack_in<'a>(
    header: &Header,
    batch: &'a [u8],
    limit_bytes: usize,
    scratch: &'a mut Vec<u8>,
) -> Result<&'a [u8]> {
    codec::decompress_in(header.compression()?, packed(header, batch)?, limit_bytes, scratch)
        .map_err(|error| error.with("offset", header.base_offset))
}

/// Empties a buffer, and gives it up where it has become large.
pub(in crate::batch) fn spare(buffer: &mut Vec<u8>) {
    if buffer.capacity() > MOST_SPARE_BYTES {
        *buffer = Vec::new();
    }
    buffer.clear();
}

/// Gives each record of `plain` to `take`: its offset, its effective time, and its bytes from the key on.
///
/// # Errors
/// [`Kind::Damaged`](crate::error::Kind::Damaged) when the bytes are not the records that the header tells of; and what
/// `take` returns.
pub(in crate::batch) fn each(
    header: &Header,
    plain: &[u8],
    mut take: impl FnMut(Offset, Timestamp, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut walk = Walk::new(header);
    while let Some(item) = walk.step(plain, |offset, time, fields| {
        let rest = fields.rest();
        // Copied fields must be sound: a broker would refuse all that lie beside them.
        row(offset, time, fields).map(|_| (offset, time, rest))
    }) {
        let (offset, time, fields) = item?;
        take(offset, time, fields)?;
    }
    Ok(())
}

/// Appends a record whose bytes from the key on are `fields`.
pub(in crate::batch) fn append(out: &mut Vec<u8>, time_delta: i64, delta: i32, fields: &[u8]) {
    put_varint(out, inner_bytes(time_delta, delta, fields) as i64);
    out.push(0);
    put_varint(out, time_delta);
    put_varint(out, delta.into());
    out.extend_from_slice(fields);
}

/// Returns how many bytes [`append`] takes for a record.
pub(in crate::batch) fn record_bytes(time_delta: i64, delta: i32, fields: &[u8]) -> usize {
    let inner = inner_bytes(time_delta, delta, fields);
    varint_bytes(inner as i64) + inner
}

fn inner_bytes(time_delta: i64, delta: i32, fields: &[u8]) -> usize {
    1 + varint_bytes(time_delta) + varint_bytes(delta.into()) + fields.len()
}
