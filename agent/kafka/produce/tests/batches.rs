//! Batches to be sent.

use bytes::Bytes;

use crate::batch::outgoing::{Limits, Outgoing, Refit, Window};
use crate::batch::{Header, gap, put_crc};
use crate::record::OffsetRange;

/// Makes a batch of so many records, each of them with that value and nothing else.
pub(in crate::kafka::produce) fn batch(records: u32, value: &[u8]) -> Outgoing {
    let mut bytes = gap(OffsetRange { first: 0, next: i64::from(records) }, -1).to_vec();
    for offset in 0..i64::from(records) {
        // Attributes, time delta, offset delta, no key, the value, no headers.
        let mut record = vec![0, 0];
        put_varint(&mut record, offset);
        put_varint(&mut record, -1);
        put_varint(&mut record, value.len() as i64);
        record.extend_from_slice(value);
        record.push(0);
        put_varint(&mut bytes, record.len() as i64);
        bytes.extend_from_slice(&record);
    }
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[57..61].copy_from_slice(&records.to_be_bytes());
    bytes[27..43].fill(0);
    put_crc(&mut bytes);
    let header = Header::read(&bytes).expect("a batch");
    let (mut fitted, offsets) = (Vec::new(), OffsetRange { first: 0, next: i64::MAX });
    let mut refit = Refit::new(Limits { most_bytes: usize::MAX, merge_below: 0, merge_to: 0 });
    let window = Window { offsets, from: None, until: None };
    refit.put(&header, &Bytes::from(bytes), &window, &mut fitted).expect("a batch as brokers take it");
    fitted.remove(0).batch
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}
