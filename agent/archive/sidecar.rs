//! The sidecar: what an archive knows of one segment, in one small object.
//!
//! Pure: bytes in, values out. Most of it can be derived from the segment's log; the aborted transactions cannot (the
//! broker tells of an abort whose marker may lie beyond what is archived), nor can the reason of a gap. That is why
//! the sidecar is durable before the log that it describes.
//!
//! Layout: big-endian integers; an 8-byte magic, the body, and a CRC-32C of all bytes before it. The order of
//! [`Sidecar`]'s fields is the order of the bytes; lists are a 32-bit count and their items.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};
use crate::record::{DeadLetter, LeftOut, Offset, OffsetRange, Timestamp, TopicId};

/// The first bytes of a sidecar; the digit is the version of the layout.
pub const MAGIC: &[u8; 8] = b"KBINDEX1";

/// The first bytes of a sidecar that names stages: who does not know of those must not take it for all there is.
pub const MAGIC_STAGED: &[u8; 8] = b"KBINDEX2";

/// In place of the stages, where nothing tells any more which they were, or whether there were any.
pub const UNKNOWN_STAGES: &str = "unknown";

/// What it begins with in any version.
const MAGIC_OF_ANY: &[u8] = b"KBINDEX";

/// Bytes of one stretch that was left out.
const LEFT_OUT_BYTES: usize = 46;

/// The number of a stage that a stretch was left out by and that nothing tells any more: the sidecar was made anew.
pub const STAGE_UNKNOWN: u8 = u8::MAX;

/// In place of a time that is not proven.
const UNPROVEN: i64 = i64::MIN;

/// What an archive knows of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// The topic's id: a sidecar that was moved to another partition's folder gives itself away.
    pub topic_id: TopicId,
    /// The partition's number.
    pub partition: i32,
    /// The offsets that the segment covers, `[first, next)`; `first` is its name, `next` the name of the following.
    pub range: OffsetRange,
    /// Bytes of the log.
    pub length_bytes: u64,
    /// XXH3-128 of the log.
    pub digest: u128,
    /// When the segment was sealed, by the agent's clock.
    pub sealed_at: Timestamp,
    /// What kind of segment this is.
    pub kind: Kind,
    /// Batches in the log.
    pub batches: u64,
    /// Those among them that were made of messages of format v0 or v1.
    pub converted: u64,
    /// Records that a read-committed reader gets: no control records, no aborted ones, none before `range.first`.
    pub records: u64,
    /// The offset of the first of these records.
    pub first_record: Option<Offset>,
    /// The offset of the last of these records.
    pub last_record: Option<Offset>,
    /// The greatest effective time in the data batches.
    pub max_time: Option<Timestamp>,
    /// The least effective time in the data batches, where it is proven for each of them.
    pub min_time: Option<Timestamp>,
    /// Sparse entries, about one each 64 KiB, in order.
    pub entries: Vec<Entry>,
    /// Where each leader epoch begins, in order.
    pub epochs: Vec<Epoch>,
    /// The aborted transactions that touch the segment.
    pub aborted: Vec<Transaction>,
    /// The transactions of which it is not known any more whether they were aborted: a sidecar that was rebuilt from
    /// its log, whose markers do not tell. Their records are not counted, and no reader takes them unasked.
    pub undecided: Vec<Transaction>,
    /// For people: why there is a gap, or where a chain begins.
    pub note: String,
    /// The stages that the records went through, in order: each its plugin's name and the digest of the plugin's file. The
    /// log is then not what the source had. [`UNKNOWN_STAGES`] alone where the sidecar that named them was lost.
    pub stages: Vec<String>,
    /// What the stages failed at and is not in the log, in order. What they dropped because it is their work is not told.
    pub left_out: Vec<LeftOut>,
}

/// What a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Record batches that follow on the segment before.
    Data = 0,
    /// Record batches with which a chain begins: the log start, or the start policy, when first seen.
    First = 1,
    /// Empty batches for offsets that the source had lost.
    Gap = 2,
}

impl Kind {
    /// Returns the kind of that number; `None` where there is none.
    pub(super) fn of(number: u8) -> Option<Self> {
        [Self::Data, Self::First, Self::Gap].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A place to start reading in the middle of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The base offset of the batch at `position`.
    pub offset: Offset,
    /// Where that batch begins in the log.
    pub position: u64,
    /// The effective time of that batch's first record.
    pub first_time: Timestamp,
    /// The greatest effective time from here to the next entry.
    pub max_time: Timestamp,
    /// The least effective time from here to the next entry, where it is proven.
    pub min_time: Option<Timestamp>,
}

/// Where a leader epoch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    /// The leader epoch.
    pub epoch: i32,
    /// The base offset of its first batch in the segment.
    pub first: Offset,
}

/// An aborted, or undecided, transaction: a transactional batch of `producer_id` at offset `o` belongs to it iff
/// `first ≤ o ≤ last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// The producer.
    pub producer_id: i64,
    /// The offset of the transaction's first record in the partition; it may lie before the segment.
    pub first: Offset,
    /// The offset of its marker, if that is in the segment; else it goes on to the segment's end (−1 in the bytes).
    pub last: Option<Offset>,
}

impl Transaction {
    /// Returns whether a transactional data batch of `producer_id` at `offset` belongs to this transaction.
    pub fn covers(&self, producer_id: i64, offset: Offset) -> bool {
        self.producer_id == producer_id && self.first <= offset && self.last.is_none_or(|last| offset <= last)
    }
}

impl Sidecar {
    /// Writes the sidecar's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(256 + 40 * self.entries.len() + self.note.len());
        out.put_slice(if self.stages.is_empty() { MAGIC } else { MAGIC_STAGED });
        out.put_slice(self.topic_id.0.as_bytes());
        out.put_i32(self.partition);
        out.put_i64(self.range.first);
        out.put_i64(self.range.next);
        out.put_u64(self.length_bytes);
        out.put_u128(self.digest);
        out.put_i64(self.sealed_at.0);
        out.put_u8(self.kind as u8);
        out.put_u64(self.batches);
        out.put_u64(self.converted);
        out.put_u64(self.records);
        out.put_i64(self.first_record.unwrap_or(-1));
        out.put_i64(self.last_record.unwrap_or(-1));
        put_time(&mut out, self.max_time);
        put_time(&mut out, self.min_time);
        out.put_u32(self.entries.len() as u32);
        for entry in &self.entries {
            out.put_i64(entry.offset);
            out.put_u64(entry.position);
            out.put_i64(entry.first_time.0);
            out.put_i64(entry.max_time.0);
            put_time(&mut out, entry.min_time);
        }
        out.put_u32(self.epochs.len() as u32);
        for epoch in &self.epochs {
            out.put_i32(epoch.epoch);
            out.put_i64(epoch.first);
        }
        for transactions in [&self.aborted, &self.undecided] {
            out.put_u32(transactions.len() as u32);
            for transaction in transactions {
                out.put_i64(transaction.producer_id);
                out.put_i64(transaction.first);
                out.put_i64(transaction.last.unwrap_or(-1));
            }
        }
        out.put_u32(self.note.len() as u32);
        out.put_slice(self.note.as_bytes());
        // Most archives know of no stages, and say nothing of them.
        if !self.stages.is_empty() {
            out.put_u32(self.stages.len() as u32);
            for stage in &self.stages {
                out.put_u32(stage.len() as u32);
                out.put_slice(stage.as_bytes());
            }
            out.put_u32(self.left_out.len() as u32);
            for left_out in &self.left_out {
                out.put_i64(left_out.range.first);
                out.put_i64(left_out.range.next);
                out.put_u32(left_out.records);
                out.put_u8(left_out.stage);
                out.put_u8(left_out.dead_letter.is_some().into());
                let none = DeadLetter { length_bytes: 0, digest: 0 };
                let DeadLetter { length_bytes, digest } = left_out.dead_letter.unwrap_or(none);
                out.put_u64(length_bytes);
                out.put_u128(digest);
            }
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out.freeze()
    }

    /// Reads a sidecar from its bytes.
    ///
    /// # Errors
    /// [`Kind::Newer`](crate::error::Kind::Newer) for a later version's; [`Kind::Damaged`](crate::error::Kind::Damaged) for
    /// anything else that [`encode`](Self::encode) has not written.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let body = bytes.len().checked_sub(4).map(|end| bytes.split_at(end));
        let Some((body, mut crc)) = body else { return Err(Error::damaged("sidecar is truncated")) };
        if crc.get_u32() != crc32c::crc32c(body) {
            return Err(Error::damaged("sidecar does not match its checksum"));
        }
        let (is_staged, mut body) = match (body.strip_prefix(MAGIC), body.strip_prefix(MAGIC_STAGED)) {
            (Some(body), _) => (false, body),
            (_, Some(body)) => (true, body),
            _ if body.starts_with(MAGIC_OF_ANY) => return Err(Error::newer("sidecar")),
            _ => return Err(Error::damaged("sidecar is none")),
        };
        Self::decode_body(&mut body, is_staged)
            .filter(|_| body.is_empty())
            .ok_or_else(|| Error::damaged("sidecar contradicts itself"))
    }

    /// Reads what stands between magic and checksum; `None` where it does not fit.
    fn decode_body(body: &mut &[u8], is_staged: bool) -> Option<Self> {
        let mut topic_id = [0; 16];
        body.try_copy_to_slice(&mut topic_id).ok()?;
        Some(Self {
            topic_id: TopicId(uuid::Uuid::from_bytes(topic_id)),
            partition: body.try_get_i32().ok()?,
            range: OffsetRange { first: body.try_get_i64().ok()?, next: body.try_get_i64().ok()? },
            length_bytes: body.try_get_u64().ok()?,
            digest: body.try_get_u128().ok()?,
            sealed_at: Timestamp(body.try_get_i64().ok()?),
            kind: Kind::of(body.try_get_u8().ok()?)?,
            batches: body.try_get_u64().ok()?,
            converted: body.try_get_u64().ok()?,
            records: body.try_get_u64().ok()?,
            first_record: get_offset(body)?,
            last_record: get_offset(body)?,
            max_time: get_time(body)?,
            min_time: get_time(body)?,
            entries: get_list(body, 40, |body| {
                Some(Entry {
                    offset: body.try_get_i64().ok()?,
                    position: body.try_get_u64().ok()?,
                    first_time: Timestamp(body.try_get_i64().ok()?),
                    max_time: Timestamp(body.try_get_i64().ok()?),
                    min_time: get_time(body)?,
                })
            })?,
            epochs: get_list(body, 12, |body| {
                Some(Epoch { epoch: body.try_get_i32().ok()?, first: body.try_get_i64().ok()? })
            })?,
            aborted: get_list(body, 24, get_transaction)?,
            undecided: get_list(body, 24, get_transaction)?,
            note: get_text(body)?,
            stages: if is_staged { get_list(body, 4, get_text).filter(|all| !all.is_empty())? } else { Vec::new() },
            left_out: if is_staged { get_list(body, LEFT_OUT_BYTES, get_left_out)? } else { Vec::new() },
        })
    }

    /// Returns whether `other` says the same: only the time of sealing and the note may differ. The same log may come of
    /// other stages, or of another policy, of which another sidecar tells.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.is_of_the_same_log(other) && (&self.stages, &self.left_out) == (&other.stages, &other.left_out)
    }

    /// Returns whether `other` describes the same log of the same partition and knows the same of its transactions.
    pub fn is_of_the_same_log(&self, other: &Self) -> bool {
        let sorted = |transactions: &[Transaction]| {
            let mut sorted: Vec<_> =
                transactions.iter().map(|entry| (entry.producer_id, entry.first, entry.last)).collect();
            sorted.sort_unstable();
            sorted
        };
        (self.topic_id, self.partition, self.range) == (other.topic_id, other.partition, other.range)
            && (self.length_bytes, self.digest, self.kind) == (other.length_bytes, other.digest, other.kind)
            && sorted(&self.aborted) == sorted(&other.aborted)
            && sorted(&self.undecided) == sorted(&other.undecided)
    }

    /// Returns whether it is not known any more which stages the records went through.
    pub fn has_unknown_stages(&self) -> bool {
        self.stages == [UNKNOWN_STAGES]
    }

    /// Returns whether a transactional data batch of `producer_id` at `offset` was aborted.
    pub fn is_aborted(&self, producer_id: i64, offset: Offset) -> bool {
        self.aborted.iter().any(|aborted| aborted.covers(producer_id, offset))
    }

    /// Returns whether it is not known any more if a transactional data batch of `producer_id` at `offset` was aborted.
    pub fn is_undecided(&self, producer_id: i64, offset: Offset) -> bool {
        self.undecided.iter().any(|undecided| undecided.covers(producer_id, offset))
    }
}

fn put_time(out: &mut BytesMut, time: Option<Timestamp>) {
    out.put_i64(time.map_or(UNPROVEN, |time| time.0));
}

fn get_transaction(body: &mut &[u8]) -> Option<Transaction> {
    Some(Transaction {
        producer_id: body.try_get_i64().ok()?,
        first: body.try_get_i64().ok()?,
        last: get_offset(body)?,
    })
}

fn get_text(body: &mut &[u8]) -> Option<String> {
    let length = body.try_get_u32().ok()? as usize;
    let (text, rest) = body.split_at_checked(length)?;
    *body = rest;
    String::from_utf8(text.to_vec()).ok()
}

fn get_left_out(body: &mut &[u8]) -> Option<LeftOut> {
    Some(LeftOut {
        range: OffsetRange { first: body.try_get_i64().ok()?, next: body.try_get_i64().ok()? },
        records: body.try_get_u32().ok()?,
        stage: body.try_get_u8().ok()?,
        dead_letter: {
            let is_kept = body.try_get_u8().ok()?;
            let letter = DeadLetter { length_bytes: body.try_get_u64().ok()?, digest: body.try_get_u128().ok()? };
            match is_kept {
                0 => None,
                1 => Some(letter),
                _ => return None,
            }
        },
    })
}

fn get_time(body: &mut &[u8]) -> Option<Option<Timestamp>> {
    let time = body.try_get_i64().ok()?;
    Some((time != UNPROVEN).then_some(Timestamp(time)))
}

fn get_offset(body: &mut &[u8]) -> Option<Option<Offset>> {
    let offset = body.try_get_i64().ok()?;
    Some((offset >= 0).then_some(offset))
}

/// Reads a counted list; the count is believed only as far as there are bytes for it.
fn get_list<T>(body: &mut &[u8], item_bytes: usize, mut item: impl FnMut(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let count = body.try_get_u32().ok()? as usize;
    if count.checked_mul(item_bytes)? > body.len() {
        return None;
    }
    (0..count).map(|_| item(body)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sidecar {
        Sidecar {
            topic_id: "4u0fkXLXQ-Or5QvZq9JvUA".parse().expect("a valid id"),
            partition: 3,
            range: OffsetRange { first: 5, next: 90 },
            length_bytes: 812,
            digest: 0x1234_5678,
            sealed_at: Timestamp(1_700_000_000_000),
            kind: Kind::First,
            batches: 2,
            converted: 1,
            records: 80,
            first_record: Some(6),
            last_record: None,
            max_time: Some(Timestamp(7)),
            min_time: None,
            entries: vec![Entry {
                offset: 4,
                position: 0,
                first_time: Timestamp(6),
                max_time: Timestamp(7),
                min_time: Some(Timestamp(6)),
            }],
            epochs: vec![Epoch { epoch: 2, first: 4 }],
            aborted: vec![Transaction { producer_id: 9, first: 4, last: None }],
            undecided: vec![Transaction { producer_id: 3, first: 5, last: Some(7) }],
            note: "begins at the log start".into(),
            stages: vec!["mask 00ff".into(), "drop 11".into()],
            left_out: vec![LeftOut {
                range: OffsetRange { first: 5, next: 9 },
                records: 3,
                stage: 1,
                dead_letter: Some(DeadLetter { length_bytes: 80, digest: 9 }),
            }],
        }
    }

    #[test]
    fn a_sidecar_reads_back() {
        assert_eq!(Sidecar::decode(&sample().encode()).expect("sound"), sample());
        let plain = Sidecar { stages: Vec::new(), left_out: Vec::new(), ..sample() };
        assert_eq!(Sidecar::decode(&plain.encode()).expect("sound"), plain);
        assert_eq!(plain.encode().len() + 4 + 4 + 9 + 4 + 7 + 4 + LEFT_OUT_BYTES, sample().encode().len());
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_found() {
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 0x40;
            assert!(Sidecar::decode(&flipped).is_err(), "byte {at}");
            assert!(Sidecar::decode(&bytes[..at]).is_err(), "length {at}");
        }
    }

    #[test]
    fn a_sidecar_of_a_later_version_is_newer_and_not_damaged() {
        let mut bytes = sample().encode().to_vec();
        bytes[MAGIC.len() - 1] = b'3';
        assert_eq!(Sidecar::decode(&bytes).expect_err("damaged").kind(), crate::error::Kind::Damaged);
        let body = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..body]).to_be_bytes();
        bytes[body..].copy_from_slice(&crc);
        assert_eq!(Sidecar::decode(&bytes).expect_err("newer").kind(), crate::error::Kind::Newer);
    }

    #[test]
    fn a_sidecar_that_tells_otherwise_of_what_was_left_out_does_not_say_the_same() {
        let (held, later) = (sample(), Sidecar { sealed_at: Timestamp(9), note: String::new(), ..sample() });
        assert!(held.says_the_same(&later), "only when it was sealed, and the note");
        let skipped = LeftOut { dead_letter: None, ..held.left_out[0] };
        for other in [
            Sidecar { left_out: vec![skipped], ..sample() },
            Sidecar { left_out: Vec::new(), ..sample() },
            Sidecar { stages: vec!["mask 00fe".into(), "drop 11".into()], ..sample() },
        ] {
            assert!(held.is_of_the_same_log(&other) && !held.says_the_same(&other), "{other:?}");
        }
    }

    #[test]
    fn an_aborted_transaction_covers_its_producer_up_to_its_marker() {
        let aborted = Transaction { producer_id: 9, first: 4, last: Some(8) };
        assert!(aborted.covers(9, 4) && aborted.covers(9, 8));
        assert!(!aborted.covers(9, 9) && !aborted.covers(9, 3) && !aborted.covers(8, 5));
    }
}
