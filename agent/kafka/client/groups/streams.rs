//! The messages that describe streams groups: StreamsGroupDescribe v0
//! ([KIP-1071](https://cwiki.apache.org/confluence/display/KAFKA/KIP-1071)), which `kafka-protocol` lacks.
//!
//! Of an answer only what tells who is in a group is kept: topologies, tasks and assignments are read over, and written as
//! absent. Bytes are a network's: whatever they are, reading them ends, and in an error where they are torn.

use anyhow::{Result, bail, ensure};
use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, StrBytes, VersionRange};

use crate::kafka::wire::Throttled;

/// No authority is told.
const NOT_TOLD: i32 = i32::MIN;

/// Asks for groups by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StreamsGroupDescribeRequest {
    pub(super) group_ids: Vec<StrBytes>,
}

/// Tells of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StreamsGroupDescribeResponse {
    pub(super) throttle_time_ms: i32,
    pub(super) groups: Vec<DescribedGroup>,
}

/// What is told of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DescribedGroup {
    pub(super) error_code: i16,
    pub(super) group_id: StrBytes,
    pub(super) group_state: StrBytes,
    pub(super) members: Vec<StreamsMember>,
}

/// What is told of a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StreamsMember {
    pub(super) member_id: StrBytes,
    pub(super) instance_id: Option<StrBytes>,
    pub(super) client_id: StrBytes,
    pub(super) client_host: StrBytes,
}

impl StreamsGroupDescribeRequest {
    /// Asks for `groups`.
    pub(super) fn new(groups: &[String]) -> Self {
        Self { group_ids: groups.iter().map(|group| StrBytes::from_string(group.clone())).collect() }
    }
}

impl Request for StreamsGroupDescribeRequest {
    const KEY: i16 = 89;
    type Response = StreamsGroupDescribeResponse;
}

impl Throttled for StreamsGroupDescribeResponse {
    fn throttle_time_ms(&self) -> i32 {
        self.throttle_time_ms
    }
}

impl Message for StreamsGroupDescribeRequest {
    const VERSIONS: VersionRange = VersionRange { min: 0, max: 0 };
    const DEPRECATED_VERSIONS: Option<VersionRange> = None;
}

impl Message for StreamsGroupDescribeResponse {
    const VERSIONS: VersionRange = VersionRange { min: 0, max: 0 };
    const DEPRECATED_VERSIONS: Option<VersionRange> = None;
}

impl HeaderVersion for StreamsGroupDescribeRequest {
    fn header_version(_: i16) -> i16 {
        2
    }
}

impl HeaderVersion for StreamsGroupDescribeResponse {
    fn header_version(_: i16) -> i16 {
        1
    }
}

impl Encodable for StreamsGroupDescribeRequest {
    fn encode<B: ByteBufMut>(&self, to: &mut B, version: i16) -> Result<()> {
        ensure_known(version)?;
        put_list(to, &self.group_ids, |to, group| put_text(to, Some(group)));
        // What we may do with them is not asked.
        to.put_u8(0);
        put_no_tags(to);
        Ok(())
    }

    fn compute_size(&self, version: i16) -> Result<usize> {
        size_of(self, version)
    }
}

impl Decodable for StreamsGroupDescribeRequest {
    fn decode<B: ByteBuf>(from: &mut B, version: i16) -> Result<Self> {
        ensure_known(version)?;
        let group_ids = list(from, text)?;
        let _ = from.try_get_u8()?;
        skip_tags(from)?;
        Ok(Self { group_ids })
    }
}

impl Encodable for StreamsGroupDescribeResponse {
    fn encode<B: ByteBufMut>(&self, to: &mut B, version: i16) -> Result<()> {
        ensure_known(version)?;
        to.put_i32(self.throttle_time_ms);
        put_list(to, &self.groups, put_group);
        put_no_tags(to);
        Ok(())
    }

    fn compute_size(&self, version: i16) -> Result<usize> {
        size_of(self, version)
    }
}

impl Decodable for StreamsGroupDescribeResponse {
    fn decode<B: ByteBuf>(from: &mut B, version: i16) -> Result<Self> {
        ensure_known(version)?;
        let throttle_time_ms = from.try_get_i32()?;
        let groups = list(from, group)?;
        skip_tags(from)?;
        Ok(Self { throttle_time_ms, groups })
    }
}

fn group<B: ByteBuf>(from: &mut B) -> Result<DescribedGroup> {
    let error_code = from.try_get_i16()?;
    let _error_message = nullable_text(from)?;
    let (group_id, group_state) = (text(from)?, text(from)?);
    let _epochs = (from.try_get_i32()?, from.try_get_i32()?);
    optional(from, skip_topology)?;
    let members = list(from, member)?;
    let _authorized_operations = from.try_get_i32()?;
    skip_tags(from)?;
    Ok(DescribedGroup { error_code, group_id, group_state, members })
}

fn put_group<B: ByteBufMut>(to: &mut B, group: &DescribedGroup) {
    to.put_i16(group.error_code);
    put_text(to, None);
    put_text(to, Some(&group.group_id));
    put_text(to, Some(&group.group_state));
    to.put_i32(0);
    to.put_i32(0);
    to.put_i8(-1);
    put_list(to, &group.members, put_member);
    to.put_i32(NOT_TOLD);
    put_no_tags(to);
}

fn member<B: ByteBuf>(from: &mut B) -> Result<StreamsMember> {
    let member_id = text(from)?;
    let _epoch = from.try_get_i32()?;
    let (instance_id, _rack_id) = (nullable_text(from)?, nullable_text(from)?);
    let (client_id, client_host) = (text(from)?, text(from)?);
    let _topology_epoch = from.try_get_i32()?;
    let _process_id = text(from)?;
    optional(from, |from| {
        let _ = (text(from)?, from.try_get_u16()?);
        skip_tags(from)
    })?;
    skip_pairs(from)?;
    for _task_offsets in 0..2 {
        let _ = list(from, |from| {
            let _ = (text(from)?, from.try_get_i32()?, from.try_get_i64()?);
            skip_tags(from)
        })?;
    }
    for _assignment in 0..2 {
        for _tasks in 0..3 {
            let _ = list(from, |from| {
                let _ = (text(from)?, list(from, |from| Ok(from.try_get_i32()?))?);
                skip_tags(from)
            })?;
        }
        skip_tags(from)?;
    }
    let _is_classic = from.try_get_u8()?;
    skip_tags(from)?;
    Ok(StreamsMember { member_id, instance_id, client_id, client_host })
}

fn put_member<B: ByteBufMut>(to: &mut B, member: &StreamsMember) {
    put_text(to, Some(&member.member_id));
    to.put_i32(0);
    put_text(to, member.instance_id.as_ref());
    put_text(to, None);
    put_text(to, Some(&member.client_id));
    put_text(to, Some(&member.client_host));
    to.put_i32(0);
    put_text(to, Some(&StrBytes::new()));
    to.put_i8(-1);
    let nothing: [StrBytes; 0] = [];
    for _tags_and_offsets in 0..3 {
        put_list(to, &nothing, |to, it| put_text(to, Some(it)));
    }
    for _assignment in 0..2 {
        for _tasks in 0..3 {
            put_list(to, &nothing, |to, it| put_text(to, Some(it)));
        }
        put_no_tags(to);
    }
    to.put_u8(0);
    put_no_tags(to);
}

/// Reads over the topology of a group: an epoch, and its parts where they are known.
fn skip_topology<B: ByteBuf>(from: &mut B) -> Result<()> {
    let _epoch = from.try_get_i32()?;
    let _ = nullable_list(from, |from| {
        let _id = text(from)?;
        let _ = (list(from, text)?, list(from, text)?);
        for _changelogs_and_sources in 0..2 {
            let _ = list(from, |from| {
                let _ = (text(from)?, from.try_get_i32()?, from.try_get_i16()?);
                skip_pairs(from)?;
                skip_tags(from)
            })?;
        }
        skip_tags(from)
    })?;
    skip_tags(from)
}

/// Reads over a list of keys and values.
fn skip_pairs<B: ByteBuf>(from: &mut B) -> Result<()> {
    let _ = list(from, |from| {
        let _ = (text(from)?, text(from)?);
        skip_tags(from)
    })?;
    Ok(())
}

fn ensure_known(version: i16) -> Result<()> {
    ensure!(version == 0, "StreamsGroupDescribe v{version} is not known");
    Ok(())
}

fn size_of(message: &impl Encodable, version: i16) -> Result<usize> {
    let mut bytes = bytes::BytesMut::new();
    message.encode(&mut bytes, version)?;
    Ok(bytes.len())
}

/// Reads a number of seven bits a byte.
fn number<B: ByteBuf>(from: &mut B) -> Result<u32> {
    let mut number = 0;
    for shift in (0..35).step_by(7) {
        let byte = from.try_get_u8()?;
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bail!("a number does not end")
}

fn put_number<B: ByteBufMut>(to: &mut B, mut number: u32) {
    while number >= 0x80 {
        to.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    to.put_u8(number as u8);
}

fn nullable_text<B: ByteBuf>(from: &mut B) -> Result<Option<StrBytes>> {
    let Some(length) = number(from)?.checked_sub(1) else { return Ok(None) };
    Ok(Some(StrBytes::from_utf8(from.try_get_bytes(length as usize)?)?))
}

fn text<B: ByteBuf>(from: &mut B) -> Result<StrBytes> {
    nullable_text(from)?.ok_or_else(|| anyhow::Error::msg("a text is missing"))
}

fn put_text<B: ByteBufMut>(to: &mut B, text: Option<&StrBytes>) {
    put_number(to, text.map_or(0, |text| text.len() as u32 + 1));
    to.put_slice(text.map_or(&[], |text| text.as_bytes()));
}

/// Reads a list; `None` for one that is not there.
fn nullable_list<B: ByteBuf, T>(from: &mut B, mut one: impl FnMut(&mut B) -> Result<T>) -> Result<Option<Vec<T>>> {
    let Some(length) = number(from)?.checked_sub(1) else { return Ok(None) };
    // The length is a stranger's, and no memory is set aside for it: what is not there ends it.
    let mut all = Vec::new();
    for _ in 0..length {
        all.push(one(from)?);
    }
    Ok(Some(all))
}

fn list<B: ByteBuf, T>(from: &mut B, one: impl FnMut(&mut B) -> Result<T>) -> Result<Vec<T>> {
    nullable_list(from, one)?.ok_or_else(|| anyhow::Error::msg("a list is missing"))
}

fn put_list<B: ByteBufMut, T>(to: &mut B, all: &[T], mut one: impl FnMut(&mut B, &T)) {
    put_number(to, all.len() as u32 + 1);
    all.iter().for_each(|it| one(to, it));
}

/// Reads something that may not be there: a byte says so.
fn optional<B: ByteBuf>(from: &mut B, one: impl FnOnce(&mut B) -> Result<()>) -> Result<()> {
    if from.try_get_i8()? < 0 { Ok(()) } else { one(from) }
}

fn skip_tags<B: ByteBuf>(from: &mut B) -> Result<()> {
    for _ in 0..number(from)? {
        let (_tag, length) = (number(from)?, number(from)?);
        let _ = from.try_get_bytes(length as usize)?;
    }
    Ok(())
}

fn put_no_tags<B: ByteBufMut>(to: &mut B) {
    to.put_u8(0);
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};

    use super::*;

    /// What Kafka 4.2 writes for a group of one static member that has one task of one topic: field for field, by hand.
    fn whole() -> Vec<u8> {
        let mut to = Vec::new();
        let text = |to: &mut Vec<u8>, text: &str| {
            to.push(text.len() as u8 + 1);
            to.extend_from_slice(text.as_bytes());
        };
        to.extend_from_slice(&7_i32.to_be_bytes());
        to.push(2); // One group.
        to.extend_from_slice(&[0, 0, 0]); // No error, no message.
        text(&mut to, "app");
        text(&mut to, "Stable");
        to.extend_from_slice(&[0, 0, 0, 3, 0, 0, 0, 3]);
        to.push(1); // A topology: epoch, one subtopology.
        to.extend_from_slice(&[0, 0, 0, 0, 2]);
        text(&mut to, "0");
        to.push(2);
        text(&mut to, "orders");
        to.push(1);
        to.push(2); // One changelog.
        text(&mut to, "log");
        to.extend_from_slice(&[0, 0, 0, 0, 0, 1, 2]);
        text(&mut to, "cleanup.policy");
        text(&mut to, "compact");
        to.extend_from_slice(&[0, 0, 1, 0, 0]); // Tags of the pair, the changelog; no sources; tags of two.
        to.push(2); // One member.
        text(&mut to, "m-1");
        to.extend_from_slice(&[0, 0, 0, 3]);
        text(&mut to, "static");
        to.push(0); // No rack.
        text(&mut to, "client");
        text(&mut to, "/127.0.0.1");
        to.extend_from_slice(&[0, 0, 0, 0]);
        text(&mut to, "process");
        to.push(1); // An endpoint.
        text(&mut to, "here");
        to.extend_from_slice(&[0xff, 0xff, 0]);
        to.push(2); // One client tag.
        text(&mut to, "zone");
        text(&mut to, "a");
        to.push(0);
        to.push(2); // One task offset, no end offsets.
        text(&mut to, "0");
        to.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1]);
        for _ in 0..2 {
            to.push(2); // One active task of two partitions; no standby, no warm-up.
            text(&mut to, "0");
            to.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0]);
        }
        to.extend_from_slice(&[0, 0]); // Not classic; tags.
        to.extend_from_slice(&NOT_TOLD.to_be_bytes());
        to.extend_from_slice(&[1, 0, 2, 5, 5, 0]); // An unknown tag of the group: number 0, two bytes. Tags of all.
        to
    }

    fn expected() -> StreamsGroupDescribeResponse {
        let text = StrBytes::from_static_str;
        let member = StreamsMember {
            member_id: text("m-1"),
            instance_id: Some(text("static")),
            client_id: text("client"),
            client_host: text("/127.0.0.1"),
        };
        let (group_id, group_state) = (text("app"), text("Stable"));
        let group = DescribedGroup { error_code: 0, group_id, group_state, members: vec![member] };
        StreamsGroupDescribeResponse { throttle_time_ms: 7, groups: vec![group] }
    }

    #[test]
    fn an_answer_is_read_to_its_last_byte_and_a_torn_one_is_an_error() {
        let bytes = Bytes::from(whole());
        let mut from = bytes.clone();
        let answer = StreamsGroupDescribeResponse::decode(&mut from, 0).expect("whole");
        assert_eq!((answer, from.len()), (expected(), 0));
        for length in 0..bytes.len() {
            assert!(StreamsGroupDescribeResponse::decode(&mut bytes.slice(..length), 0).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut bytes = BytesMut::new();
        expected().encode(&mut bytes, 0).expect("written");
        assert_eq!(expected().compute_size(0).expect("a size"), bytes.len());
        assert_eq!(StreamsGroupDescribeResponse::decode(&mut bytes, 0).expect("read"), expected());
        let request = StreamsGroupDescribeRequest::new(&["a".repeat(200), "b".to_owned()]);
        request.encode(&mut bytes, 0).expect("written");
        assert_eq!(StreamsGroupDescribeRequest::decode(&mut bytes, 0).expect("read"), request);
        assert!(request.encode(&mut bytes, 1).is_err());
    }

    #[test]
    fn a_length_that_lies_and_a_number_without_an_end_are_errors() {
        for bytes in [&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            assert!(StreamsGroupDescribeResponse::decode(&mut Bytes::from_static(bytes), 0).is_err());
        }
    }
}
