//! A Produce request as it goes over the wire, laid out around its batches: everything but them is written first, then
//! each batch is sealed into its place. The messages of `kafka-protocol` would have every batch copied once more.
//!
//! Pure: a layout, and bytes filled in. Format: <https://kafka.apache.org/protocol#The_Messages_Produce>.

use std::ops::Range;

use bytes::BufMut as _;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::protocol::Request as _;

use crate::record::Partition;

/// The first version that names topics by id.
pub(super) const TOPIC_IDS: i16 = 13;
/// The first version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 9;
/// Acknowledged by all replicas in sync.
const ACKS_ALL: i16 = -1;

/// What stands in front of the topics.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) version: i16,
    pub(super) correlation: i32,
    pub(super) client_id: &'a str,
    /// How long the broker may wait for the replicas.
    pub(super) timeout_ms: i32,
}

/// A request without its batches.
#[derive(Debug, Default)]
pub(super) struct Layout {
    bytes: Vec<u8>,
    /// Each batch: where in `bytes` it comes in, and how long it is.
    places: Vec<(usize, usize)>,
}

impl Layout {
    /// Lays out a request for batches of the given lengths, one a partition; those of a topic stand together.
    pub(super) fn new(head: &Head<'_>, batches: &[(&Partition, usize)]) -> Self {
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
            for (partition, length) in topic {
                layout.bytes.put_i32(partition.index);
                match flexible {
                    true => layout.varint(*length as u32 + 1),
                    false => layout.bytes.put_i32(*length as i32),
                }
                layout.places.push((layout.bytes.len(), *length));
                layout.tags(flexible);
            }
            layout.tags(flexible);
        }
        layout.tags(flexible);
        let length = (layout.total_bytes() - 4) as i32;
        layout.bytes[..4].copy_from_slice(&length.to_be_bytes());
        layout
    }

    /// Returns the bytes of the whole request, its length in front included.
    pub(super) fn total_bytes(&self) -> usize {
        self.bytes.len() + self.places.iter().map(|(_, length)| length).sum::<usize>()
    }

    /// Fills `out`, which is exactly that long; `put` writes batch after batch, told its number and its place.
    pub(super) fn fill(&self, out: &mut [u8], mut put: impl FnMut(usize, &mut [u8])) {
        let (mut from, mut to) = (0, 0);
        for (number, (at, length)) in self.places.iter().enumerate() {
            out[to..to + at - from].copy_from_slice(&self.bytes[from..*at]);
            to += at - from;
            from = *at;
            put(number, &mut out[to..to + length]);
            to += length;
        }
        out[to..].copy_from_slice(&self.bytes[from..]);
    }

    /// Returns where each batch is in the whole request.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let mut before = 0;
        self.places.iter().map(move |(at, length)| {
            let start = at + before;
            before += length;
            start..start + length
        })
    }

    fn head(&mut self, head: &Head<'_>, flexible: bool) {
        self.bytes.put_i32(0);
        self.bytes.put_i16(ProduceRequest::KEY);
        self.bytes.put_i16(head.version);
        self.bytes.put_i32(head.correlation);
        // The header's own text is never compact.
        self.text(head.client_id, false);
        self.tags(flexible);
        // No transactional id.
        match flexible {
            true => self.bytes.put_u8(0),
            false => self.bytes.put_i16(-1),
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
    use bytes::{Buf as _, Bytes};
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
        let batches: Vec<_> = partitions.iter().zip([3, 300, 20_000]).collect();
        for version in 3..=TOPIC_IDS {
            let head = Head { version, correlation: 77, client_id: "us", timeout_ms: 5 };
            let layout = Layout::new(&head, &batches);
            let mut out = vec![0; layout.total_bytes()];
            layout.fill(&mut out, |number, place| place.fill(number as u8 + 1));
            for (number, range) in layout.ranges().enumerate() {
                assert_eq!((range.len(), out[range][0]), (batches[number].1, number as u8 + 1));
            }
            let mut bytes = Bytes::from(out);
            assert_eq!(bytes.get_i32() as usize, bytes.len());
            let header = RequestHeader::decode(&mut bytes, ProduceRequest::header_version(version)).expect("a header");
            assert_eq!((header.correlation_id, header.client_id.as_deref()), (77, Some("us")));
            let request = ProduceRequest::decode(&mut bytes, version).expect("a request");
            assert_eq!((request.acks, request.timeout_ms, request.transactional_id, bytes.len()), (-1, 5, None, 0));
            let read = request.topic_data.iter().flat_map(|topic| {
                let named = if version >= TOPIC_IDS { topic.topic_id.as_u128() } else { topic.name.len() as u128 };
                topic.partition_data.iter().map(move |data| (named, data.index, data.records.clone()))
            });
            let records = |number: u8, length| Some(Bytes::from(vec![number; length]));
            let expected = [(1, 0, records(1, 3)), (1, 7, records(2, 300)), (2, 1, records(3, 20_000))];
            assert!(read.eq(expected), "version {version}");
            assert_eq!(request.topic_data.len(), 2);
        }
    }
}
