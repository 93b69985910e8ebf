//! A Produce request as it goes over the wire: pieces, one behind the other. What we write, headers of batches included,
//! stands in memory of its own; what stands behind those headers is sent from where it was read, unless it is small.
//!
//! Pure: a layout, and pieces made of it. Format: <https://kafka.apache.org/protocol#The_Messages_Produce>.

use bytes::{BufMut as _, Bytes};
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::protocol::Request as _;

use crate::batch::HEADER_BYTES;
use crate::frames::Frames;
use crate::record::Partition;

/// The first version that names topics by id.
pub(super) const TOPIC_IDS: i16 = 13;
/// The first version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 9;
/// Smaller payloads are copied beside their headers: thousands of small pieces are more than the kernel takes at once. Not
/// tuned.
const SLICED_FROM_BYTES: usize = 1 << 10;
/// Acknowledged by all replicas in sync.
const ACKS_ALL: i16 = -1;

/// What stands in front of the topics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) version: i16,
    pub(super) correlation: i32,
    pub(super) client_id: &'a str,
    /// In whose transaction the batches are.
    pub(super) transactional_id: Option<&'a str>,
    /// How long the broker may wait for the replicas.
    pub(super) timeout_ms: i32,
}

/// A batch as it is sent.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub(super) head: [u8; HEADER_BYTES],
    pub(super) payload: Bytes,
}

impl Sealed {
    /// Returns the bytes of the whole batch.
    pub(super) fn total_bytes(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    fn is_copied(&self) -> bool {
        self.payload.len() < SLICED_FROM_BYTES
    }

    /// Returns how much of it is copied.
    fn copied_bytes(&self) -> usize {
        self.head.len() + if self.is_copied() { self.payload.len() } else { 0 }
    }
}

/// A request without its batches.
#[derive(Debug, Default)]
pub(super) struct Layout {
    bytes: Vec<u8>,
    /// Where in `bytes` each batch comes in.
    places: Vec<usize>,
}

impl Layout {
    /// Makes the pieces of a request for these batches, one a partition; those of a topic stand together.
    pub(super) fn pieces(head: &Head<'_>, batches: &[(&Partition, Sealed)], frames: &Frames) -> Vec<Bytes> {
        Self::new(head, batches).weave(batches, frames)
    }

    fn new(head: &Head<'_>, batches: &[(&Partition, Sealed)]) -> Self {
        let flexible = head.version >= FLEXIBLE;
        let mut layout = Self { bytes: Vec::with_capacity(64 + 32 * batches.len()), places: Vec::new() };
        layout.head(head, flexible);
        let topics = || batches.chunk_by(|(a, _), (b, _)| a.topic == b.topic && a.topic_id == b.topic_id);
        layout.count(topics().count(), flexible);
        for topic in topics() {
            let Some((first, _)) = topic.first() else { continue };
            if head.version >= TOPIC_IDS {
                layout.bytes.put_slice(first.topic_id.0.as_bytes());
            } else {
                layout.text(&first.topic, flexible);
            }
            layout.count(topic.len(), flexible);
            for (partition, batch) in topic {
                let length = batch.total_bytes();
                layout.bytes.put_i32(partition.index);
                match flexible {
                    true => layout.varint(length as u32 + 1),
                    false => layout.bytes.put_i32(length as i32),
                }
                layout.places.push(layout.bytes.len());
                layout.tags(flexible);
            }
            layout.tags(flexible);
        }
        layout.tags(flexible);
        let of_batches: usize = batches.iter().map(|(_, batch)| batch.total_bytes()).sum();
        let length = (layout.bytes.len() + of_batches - 4) as i32;
        layout.bytes[..4].copy_from_slice(&length.to_be_bytes());
        layout
    }

    /// Puts the batches in.
    fn weave(&self, batches: &[(&Partition, Sealed)], frames: &Frames) -> Vec<Bytes> {
        let copied: usize = batches.iter().map(|(_, batch)| batch.copied_bytes()).sum();
        let mut frame = frames.take(self.bytes.len() + copied);
        let mut place = frame.bytes_mut();
        // How much is written before each payload that is not.
        let mut cuts = Vec::with_capacity(batches.len());
        let (mut from, mut written) = (0, 0);
        for ((_, batch), at) in batches.iter().zip(&self.places) {
            place.put_slice(&self.bytes[from..*at]);
            place.put_slice(&batch.head);
            written += at - from + batch.copied_bytes();
            from = *at;
            match batch.is_copied() {
                true => place.put_slice(&batch.payload),
                false => cuts.push((written, &batch.payload)),
            }
        }
        place.put_slice(&self.bytes[from..]);
        let (frame, mut before) = (frame.freeze(), 0);
        let mut pieces = Vec::with_capacity(2 * cuts.len() + 1);
        for (at, payload) in cuts {
            pieces.extend([frame.slice(before..at), payload.clone()]);
            before = at;
        }
        if before < frame.len() {
            pieces.push(frame.slice(before..));
        }
        pieces
    }

    fn head(&mut self, head: &Head<'_>, flexible: bool) {
        self.bytes.put_i32(0);
        self.bytes.put_i16(ProduceRequest::KEY);
        self.bytes.put_i16(head.version);
        self.bytes.put_i32(head.correlation);
        // The header's own text is never compact.
        self.text(head.client_id, false);
        self.tags(flexible);
        match (head.transactional_id, flexible) {
            (Some(id), _) => self.text(id, flexible),
            (None, true) => self.bytes.put_u8(0),
            (None, false) => self.bytes.put_i16(-1),
        }
        self.bytes.put_i16(ACKS_ALL);
        self.bytes.put_i32(head.timeout_ms);
    }

    fn count(&mut self, count: usize, flexible: bool) {
        match flexible {
            true => self.varint(count as u32 + 1),
            false => self.bytes.put_i32(count as i32),
        }
    }

    fn text(&mut self, text: &str, flexible: bool) {
        match flexible {
            true => self.varint(text.len() as u32 + 1),
            false => self.bytes.put_i16(text.len() as i16),
        }
        self.bytes.put_slice(text.as_bytes());
    }

    /// Writes that no tagged field follows, where there could be one.
    fn tags(&mut self, flexible: bool) {
        if flexible {
            self.bytes.put_u8(0);
        }
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf as _;
    use kafka_protocol::messages::RequestHeader;
    use kafka_protocol::protocol::{Decodable as _, HeaderVersion as _};
    use uuid::Uuid;

    use super::*;
    use crate::record::TopicId;

    #[test]
    fn every_version_reads_back_as_what_was_laid_out() {
        let partition = |topic: &str, index| {
            let topic_id = TopicId(Uuid::from_u128(topic.len() as u128));
            Partition { topic: topic.into(), topic_id, index }
        };
        let partitions = [partition("a", 0), partition("a", 7), partition("bb", 1)];
        let sealed = |number: u8, length| Sealed { head: [number; HEADER_BYTES], payload: vec![number; length].into() };
        let sealed = [sealed(1, 3), sealed(2, SLICED_FROM_BYTES), sealed(3, 20_000)];
        let batches: Vec<_> = partitions.iter().zip(sealed.clone()).collect();
        for version in 3..=TOPIC_IDS {
            let transactional_id = (version % 2 == 0).then_some("restore-1");
            let head = Head { version, correlation: 77, client_id: "us", transactional_id, timeout_ms: 5 };
            let pieces = Layout::pieces(&head, &batches, &Frames::default());
            for sealed in &sealed[1..] {
                assert!(pieces.iter().any(|piece| piece.as_ptr() == sealed.payload.as_ptr()), "it is not copied");
            }
            let mut bytes = Bytes::from(pieces.concat());
            assert_eq!(bytes.get_i32() as usize, bytes.len());
            let header = RequestHeader::decode(&mut bytes, ProduceRequest::header_version(version)).expect("a header");
            assert_eq!((header.correlation_id, header.client_id.as_deref()), (77, Some("us")));
            let request = ProduceRequest::decode(&mut bytes, version).expect("a request");
            assert_eq!((request.acks, request.timeout_ms, bytes.len()), (-1, 5, 0));
            assert_eq!(request.transactional_id.as_ref().map(|id| id.as_str()), transactional_id);
            let read = request.topic_data.iter().flat_map(|topic| {
                let named = if version >= TOPIC_IDS { topic.topic_id.as_u128() } else { topic.name.len() as u128 };
                topic.partition_data.iter().map(move |data| (named, data.index, data.records.clone()))
            });
            let records = |number: u8, length| Some(Bytes::from(vec![number; HEADER_BYTES + length]));
            let expected = [(1, 0, records(1, 3)), (1, 7, records(2, SLICED_FROM_BYTES)), (2, 1, records(3, 20_000))];
            assert!(read.eq(expected), "version {version}");
            assert_eq!(request.topic_data.len(), 2);
        }
    }
}
