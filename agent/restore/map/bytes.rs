//! The map's object, byte by byte (`docs/archive-format.md`, "Restores").
//!
//! Everything but magic, topic ids and checksum is a varint. Whatever bytes are given, reading takes no more memory than
//! a few times theirs.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::runs::{Runs, put_varint, varint};
use super::{OffsetMap, Pair, Track};
use crate::error::{Error, Result};
use crate::record::{Offset, OffsetRange, Partition, TopicId};

/// The first bytes of every map; the digit is the version of the layout.
const MAGIC: &[u8; 8] = b"KBOFMAP1";

/// What it begins with in any version.
const MAGIC_OF_ANY: &[u8] = b"KBOFMAP";

/// Bytes of the checksum.
const CHECKSUM_BYTES: usize = 8;

/// What there is at least of a pair: of both partitions a name of a byte with its length, an id and an index; seven
/// numbers.
const LEAST_PAIR_BYTES: usize = 2 * (2 + 16 + 1) + 7;

impl OffsetMap {
    /// Returns its bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = MAGIC.to_vec();
        put_varint(&mut out, self.tracks.len() as u64);
        let mut runs = Vec::new();
        for (pair, track) in &self.tracks {
            put_partition(&mut out, &pair.source);
            put_partition(&mut out, &pair.target);
            for offset in [track.asked.first, track.asked.next, track.covered, track.target_first, track.target_next] {
                put_varint(&mut out, offset.unsigned_abs());
            }
            put_varint(&mut out, track.end.map_or(0, |end| end.unsigned_abs() + 1));
            runs.clear();
            track.runs.encode(&mut runs);
            put_varint(&mut out, runs.len() as u64);
            out.extend_from_slice(&runs);
        }
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_be_bytes());
        out.into()
    }

    /// Reads a map.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) for bytes that are none;
    /// [`Kind::Newer`](crate::error::Kind::Newer) for a newer program's.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |what: &str| Error::damaged(format!("offset map {what}"));
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| damaged("is cut off"))?;
        if xxh3_64(body).to_be_bytes() != *checksum {
            return Err(damaged("does not match its checksum"));
        }
        match body.strip_prefix(MAGIC) {
            Some(body) => read(body).ok_or_else(|| damaged("contradicts itself")),
            None if body.starts_with(MAGIC_OF_ANY) => Err(Error::newer("offset map")),
            None => Err(damaged("is none")),
        }
    }
}

/// Reads what stands between magic and checksum; `None` where it does not fit.
fn read(mut body: &[u8]) -> Option<OffsetMap> {
    let body = &mut body;
    let count = varint(body)?;
    if count > (body.len() / LEAST_PAIR_BYTES) as u64 {
        return None;
    }
    let mut map = OffsetMap::default();
    for _ in 0..count {
        let pair = Pair { source: partition(body)?, target: partition(body)? };
        let track = track(body)?;
        // In order, and each once.
        if map.tracks.last_key_value().is_some_and(|(last, _)| *last >= pair) {
            return None;
        }
        let _ = map.tracks.insert(pair, track);
    }
    body.is_empty().then_some(map)
}

fn track(body: &mut &[u8]) -> Option<Track> {
    let asked = OffsetRange { first: offset(body)?, next: offset(body)? };
    let (covered, target_first, target_next) = (offset(body)?, offset(body)?, offset(body)?);
    let end = offset(body)?.checked_sub(1).filter(|end| *end >= 0);
    let length = usize::try_from(varint(body)?).ok()?;
    let runs = Runs::decode(take(body, length)?)?;
    let first = runs.iter().next();
    let mut records = 0_u64;
    for run in runs.iter() {
        records = records.checked_add(run.length)?;
    }
    let is_whole = asked.first <= asked.next
        && asked.first <= covered
        && covered <= asked.next
        && target_first <= target_next
        && first.is_none_or(|run| run.source >= asked.first)
        && runs.last().is_none_or(|run| run.source_next() <= covered && run.target_next() <= target_next)
        && end.is_none_or(|end| end >= target_next && covered == asked.next);
    is_whole.then_some(Track { asked, covered, target_first, target_next, end, records, runs })
}

fn put_partition(out: &mut Vec<u8>, partition: &Partition) {
    put_varint(out, partition.topic.len() as u64);
    out.extend_from_slice(partition.topic.as_bytes());
    out.extend_from_slice(partition.topic_id.0.as_bytes());
    put_varint(out, u64::from(partition.index.unsigned_abs()));
}

fn partition(body: &mut &[u8]) -> Option<Partition> {
    let length = usize::try_from(varint(body)?).ok()?;
    let topic = std::str::from_utf8(take(body, length)?).ok().filter(|topic| !topic.is_empty())?.into();
    let topic_id = TopicId(uuid::Uuid::from_slice(take(body, 16)?).ok()?);
    let index = i32::try_from(varint(body)?).ok()?;
    Some(Partition { topic, topic_id, index })
}

fn offset(body: &mut &[u8]) -> Option<Offset> {
    Offset::try_from(varint(body)?).ok()
}

fn take<'a>(body: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = body.split_at_checked(length)?;
    *body = rest;
    Some(taken)
}
