//! The record formats before v2, which brokers before Kafka 4 may still hold: message sets of format v0 and v1, made
//! into record batches.
//!
//! Pure: bytes in, bytes out. Every record keeps its offset, key, value, time and kind of time (v0 has no time: −1);
//! null stays null, holes stay holes. A compressed message becomes one batch of the same codec; messages that are not
//! compressed become batches of some tens of KiB. Each batch is marked as ours ([`CONVERTED_SEQUENCE`]). Checksums are
//! checked, also those of messages inside a compressed one, as Kafka's own consumer does. Formats:
//! <https://kafka.apache.org/documentation/#messageset>, KIP-31 (relative offsets), KIP-32 (timestamps).

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use xxhash_rust::xxh32::xxh32;

use super::records::{self, Record};
use super::{CONVERTED_SEQUENCE, Compression, Header, codec, entry_bytes};
use crate::error::{Error, Result};
use crate::record::{Offset, Timestamp};

/// Where the format of an entry stands; the same in every format.
const MAGIC_AT: usize = 16;

/// Where the checksum of a message stands; it covers everything behind itself.
const CRC_AT: usize = 12;
const CHECKED_FROM: usize = 16;

/// Bytes of messages that become one batch. With less, headers of 61 bytes begin to weigh; with much more, a reader of
/// one record decodes a lot of others.
const RUN_BYTES: usize = 32 << 10;

/// Bit 3 of a v1 message's attributes, and of a batch's: the broker stamped it (LogAppendTime).
const STAMPED: u8 = 0x08;

/// What a message set came to.
#[derive(Debug, Default)]
pub struct Converted {
    /// Record batches, one after the other.
    pub bytes: Bytes,
    /// The offset to read after them; the position that was asked for where there are none.
    pub next: Offset,
    /// Whether a message at or past the end was met.
    pub at_end: bool,
    /// Where it cannot be read on, and why. What comes before it is good.
    pub damage: Option<(Offset, String)>,
}

/// Returns whether `rest` begins with a message of format v0 or v1.
pub fn is_old(rest: &[u8]) -> bool {
    matches!(rest.get(MAGIC_AT), Some(0 | 1))
}

/// Returns the offset of the message at the start of `rest`; of a compressed one it is the last one's inside.
pub fn offset(rest: &[u8]) -> Offset {
    rest.first_chunk::<8>().map_or(-1, |offset| i64::from_be_bytes(*offset))
}

/// Returns whether the message that fills `entry` carries its right checksum (CRC-32, and not CRC-32C as in v2).
pub fn crc_matches(entry: &[u8]) -> bool {
    let crc = entry.get(CRC_AT..CHECKED_FROM);
    crc.is_some_and(|crc| crc == crc32fast::hash(&entry[CHECKED_FROM..]).to_be_bytes())
}

/// Makes batches of the messages with which `set` begins, up to the first entry that is a batch already or is cut off.
///
/// Left out are messages before `position`, and from `end` (exclusive, where there is one) on. A compressed message
/// that begins before `position` is taken whole, like a batch.
pub fn convert(set: &Bytes, position: Offset, end: Option<Offset>) -> Converted {
    let mut converter = Converter { position, end, next: position, ..Converter::default() };
    let mut at = 0;
    while let Some(total) = entry_bytes(&set[at..]).filter(|total| *total <= set.len() - at) {
        if !is_old(&set[at..]) {
            break;
        }
        let entry = set.slice(at..at + total);
        at += total;
        match converter.take(&entry) {
            Ok(()) if converter.at_end => break,
            Ok(()) => {}
            Err(error) => {
                converter.damage = Some((offset(&entry), error.to_string()));
                break;
            }
        }
    }
    converter.finish()
}

/// The batches so far, and the run of messages that are not in one yet.
#[derive(Default)]
struct Converter {
    position: Offset,
    end: Option<Offset>,
    out: BytesMut,
    next: Offset,
    run: Run,
    at_end: bool,
    damage: Option<(Offset, String)>,
}

/// Messages that are not compressed and fit one batch.
#[derive(Default)]
struct Run {
    records: Vec<Record>,
    bytes: usize,
    magic: u8,
    stamped: bool,
}

impl Converter {
    /// Takes the next entry.
    fn take(&mut self, entry: &Bytes) -> Result<()> {
        let began = !self.out.is_empty() || !self.run.records.is_empty();
        let message = Message::read(entry)?;
        if !began && message.offset < self.position {
            return Ok(());
        }
        let compression = message.compression()?;
        let records = if compression == Compression::None { None } else { Some(message.unpack(compression)?) };
        let first = records.as_ref().and_then(|records| records.first()).map_or(message.offset, |first| first.offset);
        if self.end.is_some_and(|end| first >= end) {
            self.at_end = true;
            return Ok(());
        }
        let next = self.run.records.last().map_or(self.next, |last| last.offset + 1);
        if began && first < next {
            return Err(Error::damaged(format!("its first offset {first} lies before the message in front of it")));
        }
        let Some(records) = records else { return self.run_on(message, entry.len()) };
        self.end_run()?;
        self.put(&records, message.is_stamped(), message.offset, compression)
    }

    /// Adds a message to the run, after ending one that it does not fit.
    fn run_on(&mut self, message: Message, bytes: usize) -> Result<()> {
        if !self.run.fits(&message, bytes) {
            self.end_run()?;
        }
        let run = &mut self.run;
        (run.magic, run.stamped) = (message.magic, message.is_stamped());
        run.bytes += bytes;
        run.records.push(message.into_record());
        Ok(())
    }

    fn end_run(&mut self) -> Result<()> {
        let Run { records, stamped, .. } = std::mem::take(&mut self.run);
        let Some(last) = records.last() else { return Ok(()) };
        self.put(&records, stamped, last.offset, Compression::None)
    }

    /// Writes a batch that covers what lies before `last` and it.
    fn put(&mut self, records: &[Record], stamped: bool, last: Offset, compression: Compression) -> Result<()> {
        let base = records.first().map_or(last, |first| first.offset);
        let delta = i32::try_from(last - base).map_err(|_| Error::damaged("its offsets lie too far apart"))?;
        let template = Header {
            attributes: if stamped { STAMPED.into() } else { 0 },
            last_offset_delta: delta,
            base_sequence: CONVERTED_SEQUENCE,
            ..records::template(base)
        };
        self.out.extend_from_slice(&records::encode(&template, records, compression)?);
        self.next = last + 1;
        Ok(())
    }

    fn finish(mut self) -> Converted {
        let first = self.run.records.first().map(|first| first.offset);
        if let Err(error) = self.end_run() {
            // It precedes any other damage.
            self.damage = Some((first.unwrap_or(self.next), error.to_string()));
        }
        Converted { bytes: self.out.freeze(), next: self.next, at_end: self.at_end, damage: self.damage }
    }
}

impl Run {
    /// Returns whether a message can be in one batch with those before it. A batch has one kind of time, and a stamped
    /// one a single time.
    fn fits(&self, message: &Message, bytes: usize) -> bool {
        let (Some(first), Some(last)) = (self.records.first(), self.records.last()) else { return true };
        (self.magic, self.stamped) == (message.magic, message.is_stamped())
            && (!self.stamped || last.timestamp == message.timestamp)
            && message.offset - first.offset < i64::from(i32::MAX)
            && self.bytes + bytes <= RUN_BYTES
    }
}

/// A message of format v0 or v1.
struct Message {
    offset: Offset,
    magic: u8,
    attributes: u8,
    timestamp: Timestamp,
    key: Option<Bytes>,
    value: Option<Bytes>,
}

impl Message {
    /// Reads the message that fills `entry`.
    fn read(entry: &Bytes) -> Result<Self> {
        let too_short = |_| Error::damaged(format!("{} bytes are too few for a message", entry.len()));
        let mut rest = entry.clone();
        let offset = rest.try_get_i64().map_err(too_short)?;
        let _size = rest.try_get_i32().map_err(too_short)?;
        let _crc = rest.try_get_u32().map_err(too_short)?;
        let magic = rest.try_get_u8().map_err(too_short)?;
        if !crc_matches(entry) {
            return Err(Error::damaged("its checksum does not match its bytes"));
        }
        // There must be an offset to read after it.
        if !(0..Offset::MAX).contains(&offset) || magic > 1 {
            return Err(Error::damaged(format!("a message of format v{magic} has offset {offset}")));
        }
        let attributes = rest.try_get_u8().map_err(too_short)?;
        let timestamp = if magic == 1 { rest.try_get_i64().map_err(too_short)? } else { Timestamp::NONE.0 };
        let (key, value) = (field(&mut rest)?, field(&mut rest)?);
        if rest.has_remaining() {
            return Err(Error::damaged(format!("a message has {} bytes too many", rest.remaining())));
        }
        Ok(Self { offset, magic, attributes, timestamp: Timestamp(timestamp), key, value })
    }

    fn compression(&self) -> Result<Compression> {
        Ok(match self.attributes & 0x07 {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            other => return Err(Error::damaged(format!("format v{} has no compression {other}", self.magic))),
        })
    }

    /// Returns whether the broker stamped it; v0 has no times.
    fn is_stamped(&self) -> bool {
        self.magic == 1 && self.attributes & STAMPED != 0
    }

    fn into_record(self) -> Record {
        let Self { offset, timestamp, key, value, .. } = self;
        Record { offset, timestamp, key, value, headers: Vec::new() }
    }

    /// Returns the records inside a compressed message, in which there is one at least.
    ///
    /// In v1 their offsets are relative, and the wrapper's is the last one's; in v0 they are what they are.
    fn unpack(&self, compression: Compression) -> Result<Vec<Record>> {
        let packed = self.value.as_deref().ok_or_else(|| Error::damaged("a compressed message has no value"))?;
        let packed = if self.magic == 0 && compression == Compression::Lz4 { mended(packed) } else { packed.into() };
        let set = Bytes::from(codec::decompress(compression, &packed, codec::LIMIT_BYTES)?.into_owned());
        let mut records = Vec::new();
        let mut at = 0;
        while at < set.len() {
            let total = entry_bytes(&set[at..]).filter(|total| *total <= set.len() - at);
            let total = total.ok_or_else(|| Error::damaged("a message inside a compressed one is cut off"))?;
            let inner = Self::read(&set.slice(at..at + total))?;
            if inner.compression()? != Compression::None {
                return Err(Error::damaged("a compressed message lies inside another"));
            }
            records.push(inner.into_record());
            at += total;
        }
        let last = records.last().ok_or_else(|| Error::damaged("a compressed message holds none"))?.offset;
        if last > self.offset {
            return Err(Error::damaged(format!("a compressed message holds offset {last} beyond its own")));
        }
        if let Some(record) = records.iter().find(|record| record.offset > last) {
            return Err(Error::damaged(format!("a compressed message holds offset {} before {last}", record.offset)));
        }
        let shift = if self.magic == 1 { self.offset - last } else { 0 };
        for record in &mut records {
            record.offset += shift;
            if self.is_stamped() {
                record.timestamp = self.timestamp;
            }
        }
        Ok(records)
    }
}

/// Reads a key or a value: a length, then as many bytes; any negative length is null, as in Kafka's reader.
fn field(rest: &mut Bytes) -> Result<Option<Bytes>> {
    let length = rest.try_get_i32().map_err(|_| Error::damaged("a message is cut off before its key or value"))?;
    match usize::try_from(length) {
        Ok(length) if length <= rest.len() => Ok(Some(rest.split_to(length))),
        Ok(length) => Err(Error::damaged(format!("a key or value of {length} bytes in a message with {}", rest.len()))),
        Err(_) => Ok(None),
    }
}

/// Returns an LZ4 frame with the right checksum of its header. Kafka's v0 has a wrong one (it covers the frame's magic
/// as well, KAFKA-3160), which no other reader accepts; the message's own checksum has covered these bytes.
fn mended(frame: &[u8]) -> Cow<'_, [u8]> {
    /// Frame magic; the descriptor (flags, block size, then 8 bytes of content size where the flags say so) follows.
    const DESCRIPTOR_AT: usize = 4;
    const HAS_CONTENT_SIZE: u8 = 0x08;
    let sized = frame.get(DESCRIPTOR_AT).is_some_and(|flags| flags & HAS_CONTENT_SIZE != 0);
    let checksum_at = DESCRIPTOR_AT + if sized { 10 } else { 2 };
    let Some(descriptor) = frame.get(DESCRIPTOR_AT..checksum_at) else { return frame.into() };
    let checksum = (xxh32(descriptor, 0) >> 8) as u8;
    let mut frame = frame.to_vec();
    if let Some(byte) = frame.get_mut(checksum_at) {
        *byte = checksum;
    }
    frame.into()
}

#[cfg(test)]
pub(super) mod mutation;
#[cfg(test)]
mod tests;
