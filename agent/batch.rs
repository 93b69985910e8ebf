//! The record batch, Kafka's unit of storage and transfer (format v2), seen from outside: its 61-byte header, its
//! checksum, the empty batches that stand for a gap, and the marks that we leave in what we made ourselves.
//!
//! Pure: bytes in, values out. The records inside are the work of [`records`], their compression of [`codec`]; capture
//! needs neither. What brokers still hold in older formats is made into batches by [`legacy`]; what a broker takes from a
//! producer is made of batches by [`outgoing`]. Layout and meaning of the fields:
//! <https://kafka.apache.org/documentation/#recordbatch>.

pub mod codec;
pub mod legacy;
pub mod outgoing;
pub mod records;
pub mod transactions;

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange, Timestamp};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// Bytes of a batch that its length field does not count: base offset and the length itself.
pub const LENGTH_PREFIX_BYTES: usize = 12;

/// What the checksum covers begins here: everything from the attributes on.
const CRC_FROM: usize = 21;

/// The attribute of a batch that the broker stamped.
const LOG_APPEND_TIME: i16 = 0x08;

/// The attribute of a batch that belongs to a transaction.
const TRANSACTIONAL: i16 = 0x10;

/// The base sequence of the empty batches that we write for gaps: no producer writes it, Kafka's tools accept it.
pub const GAP_SEQUENCE: i32 = -2;

/// The base sequence of the batches that we make of older formats: no producer writes it, Kafka's tools accept it.
pub const CONVERTED_SEQUENCE: i32 = -3;

/// How the records of a batch are compressed; the value is Kafka's, bits 0–2 of the attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Snappy, in Xerial's blocks or plain.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard frames.
    Zstd,
}

/// A batch's header; fields as Kafka names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The offset of the first record when the batch was written; compaction keeps it.
    pub base_offset: Offset,
    /// Bytes of the whole batch, length prefix included.
    pub total_bytes: usize,
    /// The leader epoch under which the batch was appended.
    pub leader_epoch: i32,
    /// CRC-32C over everything from the attributes on.
    pub crc: u32,
    /// Compression, timestamp type, transactional, control, delete horizon.
    pub attributes: i16,
    /// Last offset − base offset; compaction keeps it.
    pub last_offset_delta: i32,
    /// The first record's timestamp, or the delete horizon where that bit is set.
    pub base_timestamp: Timestamp,
    /// The greatest timestamp of the records.
    pub max_timestamp: Timestamp,
    /// The producer's id, −1 without idempotence.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// The sequence of the first record.
    pub base_sequence: i32,
    /// Records in the batch; 0 where compaction took them all.
    pub count: i32,
}

impl Header {
    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when the bytes cannot be a v2 batch: too short, another magic,
    /// or lengths and counts that contradict each other.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < HEADER_BYTES {
            return Err(Error::damaged(format!("{} bytes are too few for a record batch", bytes.len())));
        }
        let magic = bytes[16];
        if magic != 2 {
            return Err(Error::damaged(format!("record batch has format v{magic}, not v2")));
        }
        let header = Self {
            base_offset: i64_at(bytes, 0),
            total_bytes: usize::try_from(i32_at(bytes, 8)).unwrap_or(0) + LENGTH_PREFIX_BYTES,
            leader_epoch: i32_at(bytes, 12),
            crc: i32_at(bytes, 17) as u32,
            attributes: i16_at(bytes, 21),
            last_offset_delta: i32_at(bytes, 23),
            base_timestamp: Timestamp(i64_at(bytes, 27)),
            max_timestamp: Timestamp(i64_at(bytes, 35)),
            producer_id: i64_at(bytes, 43),
            producer_epoch: i16_at(bytes, 51),
            base_sequence: i32_at(bytes, 53),
            count: i32_at(bytes, 57),
        };
        let delta = i64::from(header.last_offset_delta);
        let sound = header.total_bytes >= HEADER_BYTES
            && header.base_offset >= 0
            && delta >= 0
            && header.base_offset.checked_add(delta + 1).is_some()
            && (0..=delta + 1).contains(&i64::from(header.count));
        if sound {
            Ok(header)
        } else {
            Err(Error::damaged("record batch header contradicts itself").with("offset", header.base_offset))
        }
    }

    /// Returns the offset of the last record when the batch was written.
    pub fn last_offset(&self) -> Offset {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Returns the offset to read after this batch.
    pub fn next_offset(&self) -> Offset {
        self.last_offset() + 1
    }

    /// Returns how the records are compressed.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) for a value that Kafka has not given out.
    pub fn compression(&self) -> Result<Compression> {
        Ok(match self.attributes & 0x07 {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            other => {
                return Err(Error::damaged(format!("compression {other} is unknown"))
                    .with("offset", self.base_offset)
                    .hint("it may be newer than this program"));
            }
        })
    }

    /// Returns whether the broker stamped the records when it appended them.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Returns whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Returns whether the batch holds a control record (a transaction's marker), not data.
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Returns whether the base timestamp is a delete horizon
    /// ([KIP-534](https://cwiki.apache.org/confluence/display/KAFKA/KIP-534)).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & 0x40 != 0
    }

    /// Returns whether every offset of the batch has its record.
    pub fn is_dense(&self) -> bool {
        i64::from(self.count) == i64::from(self.last_offset_delta) + 1
    }

    /// Returns whether this is one of the empty batches that we write for a gap.
    pub fn is_gap(&self) -> bool {
        self.count == 0 && self.producer_id == -1 && self.base_sequence == GAP_SEQUENCE
    }

    /// Returns whether we made this batch of messages of format v0 or v1.
    pub fn is_converted(&self) -> bool {
        self.producer_id == -1 && self.base_sequence == CONVERTED_SEQUENCE
    }

    /// Returns the effective time of the first record as far as the header tells it: the greatest time where the broker
    /// stamped the batch or the base timestamp is a delete horizon.
    pub fn first_time(&self) -> Timestamp {
        if self.is_log_append_time() || self.has_delete_horizon() { self.max_timestamp } else { self.base_timestamp }
    }

    /// Returns the least timestamp of the records where the header alone proves it: stamped by the broker, or a single
    /// record at the base time.
    pub fn proven_min_time(&self) -> Option<Timestamp> {
        if self.is_log_append_time() || self.count == 1 { Some(self.max_timestamp) } else { None }
    }
}

/// Returns whether the batch that fills `bytes` carries its right checksum.
pub fn crc_matches(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_BYTES && crc32c::crc32c(&bytes[CRC_FROM..]) == i32_at(bytes, 17) as u32
}

/// Writes the right checksum into the batch that fills `bytes`.
pub fn put_crc(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Returns how many bytes the entry at the start of `bytes` has, whatever its format; `None` when the length prefix
/// itself is cut off. The answer may be longer than `bytes`: then the entry is partial, as the last one of a Fetch
/// response may be.
pub fn entry_bytes(bytes: &[u8]) -> Option<usize> {
    (bytes.len() >= LENGTH_PREFIX_BYTES)
        .then(|| usize::try_from(i32_at(bytes, 8)).unwrap_or(0).saturating_add(LENGTH_PREFIX_BYTES))
}

/// Walks the whole batches in `bytes`, front to back, as (position, header); a partial last one ends the walk, a
/// damaged header is its last item.
pub fn walk(bytes: &[u8]) -> impl Iterator<Item = Result<(usize, Header)>> {
    let mut position = 0;
    let mut failed = false;
    std::iter::from_fn(move || {
        let rest = &bytes[position..];
        let total = entry_bytes(rest)?;
        if failed || total > rest.len() {
            return None;
        }
        match Header::read(rest) {
            Ok(header) => {
                let at = position;
                position += total;
                Some(Ok((at, header)))
            }
            Err(error) => {
                failed = true;
                Some(Err(error.with("position", position)))
            }
        }
    })
}

/// Makes the empty batches that cover `range`: several where it exceeds what one delta can say.
///
/// They are what Kafka's log cleaner leaves where it took every record, but for their base sequence
/// ([`GAP_SEQUENCE`]), so that Kafka's tools accept them and we know them again.
pub fn gap(range: OffsetRange, leader_epoch: i32) -> Bytes {
    let mut out = BytesMut::new();
    let mut first = range.first;
    while first < range.next {
        let delta = (range.next - first - 1).min(i64::from(i32::MAX) - 1);
        let start = out.len();
        out.put_i64(first);
        out.put_i32((HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32);
        out.put_i32(leader_epoch);
        out.put_u8(2);
        out.put_u32(0);
        out.put_i16(0);
        out.put_i32(delta as i32);
        out.put_i64(-1);
        out.put_i64(-1);
        out.put_i64(-1);
        out.put_i16(-1);
        out.put_i32(GAP_SEQUENCE);
        out.put_i32(0);
        put_crc(&mut out[start..]);
        first += delta + 1;
    }
    out.freeze()
}

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    (i64::from(i32_at(bytes, at)) << 32) | i64::from(i32_at(bytes, at + 4) as u32)
}

#[cfg(test)]
mod mutation;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_batches_cover_their_range_and_carry_right_checksums() {
        let range = OffsetRange { first: 7, next: 7 + 5_000_000_000 };
        let bytes = gap(range, 3);
        let headers: Vec<_> = walk(&bytes).map(|item| item.expect("sound")).collect();
        assert!(headers.len() >= 3);
        assert_eq!(headers[0].1.base_offset, 7);
        assert!(headers.windows(2).all(|pair| pair[0].1.next_offset() == pair[1].1.base_offset));
        assert_eq!(headers[headers.len() - 1].1.next_offset(), range.next);
        assert!(headers.iter().all(|(at, h)| h.is_gap() && crc_matches(&bytes[*at..*at + h.total_bytes])));
    }

    #[test]
    fn a_walk_ends_before_a_partial_batch_and_at_a_damaged_one() {
        let bytes = gap(OffsetRange { first: 0, next: 10 }, 0);
        assert_eq!(walk(&bytes[..60]).count(), 0);
        let mut damaged = bytes.to_vec();
        damaged[16] = 1;
        assert!(walk(&damaged).all(|item| item.is_err()));
        assert_eq!(walk(&damaged).count(), 1);
    }
}
