//! A batch as a broker takes it.

use bytes::Bytes;

use super::{CRC_FROM, HEADER_BYTES, Header, put_crc};

/// Who sends batches: an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The producer's id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// A batch ready to be sent but for producer and sequence.
#[derive(Debug, Clone)]
pub struct Outgoing {
    header: Header,
    payload: Bytes,
}

impl Outgoing {
    /// Takes a batch as it is: its header and the bytes behind it.
    pub fn plain(header: Header, payload: Bytes) -> Self {
        Self { header, payload }
    }

    /// Returns how many records it holds, which is how many sequences it takes.
    pub fn records(&self) -> u32 {
        self.header.count as u32
    }

    /// Returns its bytes, header included.
    pub fn total_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Writes it whole into `out`, exactly [`Outgoing::total_bytes`] long.
    pub fn seal(&self, producer: Identity, sequence: i32, out: &mut [u8]) {
        let (header, payload) = out.split_at_mut(HEADER_BYTES);
        payload.copy_from_slice(&self.payload);
        header[..8].copy_from_slice(&0_i64.to_be_bytes());
        header[8..12].copy_from_slice(&((HEADER_BYTES + payload.len() - 12) as i32).to_be_bytes());
        header[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
        header[16] = 2;
        header[CRC_FROM..23].copy_from_slice(&(self.header.attributes & 7).to_be_bytes());
        header[23..27].copy_from_slice(&self.header.last_offset_delta.to_be_bytes());
        header[27..35].copy_from_slice(&self.header.base_timestamp.0.to_be_bytes());
        header[35..43].copy_from_slice(&self.header.max_timestamp.0.to_be_bytes());
        header[43..51].copy_from_slice(&producer.producer_id.to_be_bytes());
        header[51..53].copy_from_slice(&producer.epoch.to_be_bytes());
        header[53..57].copy_from_slice(&sequence.to_be_bytes());
        header[57..61].copy_from_slice(&self.header.count.to_be_bytes());
        put_crc(out);
    }
}
