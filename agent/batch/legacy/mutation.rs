//! Message sets that are no longer what they were: whatever is made of one are sound batches of ours.

use bytes::Bytes;
use fastrand::Rng;

use super::tests::{CODECS, Plain, V0, V1, message, wrapper};
use super::*;
use crate::batch::{LENGTH_PREFIX_BYTES, crc_matches as batch_crc_matches, walk};
use crate::mutation::{Tally, mutate, piece, strange};

/// Sound message sets.
pub(in crate::batch) struct Sets {
    sound: Vec<Vec<u8>>,
}

fn plains(offsets: &[Offset]) -> Vec<Plain> {
    let plain = |offset: &Offset| {
        let key = (offset % 3 != 0).then(|| format!("key-{offset}").into_bytes());
        let value = (offset % 4 != 0).then(|| vec![b'v'; *offset as usize % 40]);
        Plain { offset: *offset, timestamp: 1_000_000 - offset, key, value }
    };
    offsets.iter().map(plain).collect()
}

/// Writes right checksums into the whole messages with which a set begins.
fn check(set: &mut [u8]) {
    let mut rest = set;
    while let Some(total) = entry_bytes(rest).filter(|total| *total <= rest.len()) {
        let (entry, after) = std::mem::take(&mut rest).split_at_mut(total);
        if entry.len() > CHECKED_FROM {
            let crc = crc32fast::hash(&entry[CHECKED_FROM..]).to_be_bytes();
            entry[CRC_AT..CHECKED_FROM].copy_from_slice(&crc);
        }
        rest = after;
    }
}

impl Sets {
    pub(in crate::batch) fn new() -> Self {
        let mut sound = vec![V0.to_vec(), V1.to_vec()];
        for (magic, stamp) in [(0, 0), (1, 0), (1, STAMPED)] {
            let alone = plains(&[7, 8, 12, 40]).iter().flat_map(|one| message(magic, stamp, one)).collect::<Vec<_>>();
            let inside = [1, 2, 3].map(|codec| wrapper(magic, stamp | codec, &plains(&[50, 51, 60, 99]))).concat();
            let far = plains(&[100, 1 << 31, (1 << 31) + 99, 1 << 33]);
            let far = far.iter().flat_map(|one| message(magic, stamp, one)).collect();
            sound.extend([[&alone[..], &inside].concat(), alone, inside, far]);
        }
        Self { sound }
    }

    pub(in crate::batch) fn case(&self, random: &mut Rng, tally: &mut Tally) {
        let mut set = if random.bool() { self.sound[random.usize(..self.sound.len())].clone() } else { Vec::new() };
        while set.is_empty() || random.bool() {
            set.extend(if random.bool() { lying_wrapper(random) } else { lying_message(random) });
        }
        for _ in 0..random.u8(..4) / 2 {
            mutate(random, &mut set);
        }
        if random.u8(..4) > 0 {
            check(&mut set);
        }
        let position = if random.u8(..4) > 0 { 0 } else { strange(random).max(0) };
        let end = (random.u8(..4) == 0).then(|| strange(random));
        judge(&set.into(), position, end, tally);
    }
}

/// A number that is what it is, most of the times.
fn lie(random: &mut Rng, number: i64) -> i64 {
    if random.u8(..6) == 0 { strange(random) } else { number }
}

fn lying_plain(random: &mut Rng) -> Plain {
    let near = random.i64(0..200);
    let field = |random: &mut Rng| random.bool().then(|| vec![random.u8(..); random.usize(..50)]);
    Plain { offset: lie(random, near), timestamp: lie(random, 5), key: field(random), value: field(random) }
}

fn lying_message(random: &mut Rng) -> Vec<u8> {
    let (magic, attributes) = (random.u8(..2), if random.u8(..4) == 0 { random.u8(..16) } else { 0 });
    let mut message = message(magic, attributes, &lying_plain(random));
    if random.u8(..8) == 0 {
        // It ends early, and knows it.
        message.truncate(random.usize(MAGIC_AT + 1..=message.len()));
        let length = (message.len() - LENGTH_PREFIX_BYTES) as i32;
        message[8..LENGTH_PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        check(&mut message);
    }
    message
}

/// A compressed message around a set of which anything may be wrong.
fn lying_wrapper(random: &mut Rng) -> Vec<u8> {
    let (magic, codec) = (random.u8(..2), random.usize(1..CODECS.len()));
    let mut inner = Vec::new();
    let mut offset = lie(random, 0);
    for _ in 0..random.u8(..6) {
        let attributes = if random.u8(..16) == 0 { random.u8(..8) } else { 0 };
        inner.extend(message(magic, attributes, &Plain { offset, ..lying_plain(random) }));
        let step = if random.u8(..8) == 0 { random.i64(-2..1) } else { random.i64(1..4) };
        let next = offset.saturating_add(step);
        offset = lie(random, next);
    }
    if random.u8(..3) == 0 {
        mutate(random, &mut inner);
        check(&mut inner);
    }
    let mut packed = codec::compress(CODECS[codec], &inner).to_vec();
    if random.u8(..16) == 0 {
        let cut = piece(random, packed.len());
        drop(packed.drain(cut));
    }
    let value = (random.u8(..32) > 0).then_some(packed);
    let offset = lie(random, offset.max(0));
    let stamp = if random.bool() { STAMPED } else { 0 };
    message(magic, stamp | codec as u8, &Plain { offset, timestamp: lie(random, 9), key: None, value })
}

fn judge(set: &Bytes, position: Offset, end: Option<Offset>, tally: &mut Tally) {
    let converted = convert(set, position, end);
    let (mut at, mut next) = (0, None);
    for item in walk(&converted.bytes) {
        let (start, header) = item.expect("our own batches");
        let batch = converted.bytes.slice(start..start + header.total_bytes);
        assert!(start == at && batch_crc_matches(&batch) && header.is_converted(), "our own batches");
        at += header.total_bytes;
        let records = records::Records::of(&header, &batch).and_then(Iterator::collect::<Result<Vec<Record>>>);
        let records = records.expect("our own records");
        assert!(!records.is_empty() && records[0].offset == header.base_offset, "a batch begins with its first record");
        assert!(next.is_none_or(|next| next <= header.base_offset), "batches ascend");
        assert!(header.next_offset() > position, "what is held is not brought again");
        assert!(end.is_none_or(|end| header.base_offset < end), "nothing is brought from the end on");
        next = Some(header.next_offset());
    }
    assert_eq!(at, converted.bytes.len(), "nothing but whole batches");
    assert_eq!(converted.next, next.unwrap_or(position), "it is read on behind the last batch");
    match &converted.damage {
        Some((_, why)) => tally.note(why),
        None if next.is_some() => tally.note("a set is read"),
        None => {}
    }
}
