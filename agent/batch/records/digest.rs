//! The digest of a partition's records: what two copies of it have in common, however they came there.
//!
//! Pure. It is XXH3-128 over the effective time, key, value and headers of each record, in order, written so that no two
//! sequences of records are the same bytes; null is not empty. How they lie in batches, how those are compressed, and
//! their offsets are not part of it. `docs/archive-format.md` defines it byte by byte. Checksums of batches are the
//! caller's to check.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use super::rows::Rows;
use super::transfer::{spare, unpack_in};
use super::varint::Cursor;
use super::{Record, Walk, codec, damaged};
use crate::batch::Header;
use crate::error::Result;
use crate::record::{Offset, Timestamp};

/// Bytes that are hashed at once: half costs as many more calls, double no longer fits a processor's nearest cache.
const HASHED_BYTES: usize = 16 << 10;

/// The length of what is null.
const NULL: i32 = -1;

/// The digest of the records so far; it displays as 32 hexadecimal digits.
#[derive(Clone)]
pub struct RecordDigest {
    hash: Xxh3,
    records: u64,
    /// What is not hashed yet.
    buffer: Vec<u8>,
    /// The plain records of a batch.
    scratch: Vec<u8>,
}

impl RecordDigest {
    /// Makes that of no records.
    pub fn new() -> Self {
        Self { hash: Xxh3::new(), records: 0, buffer: Vec::new(), scratch: Vec::new() }
    }

    /// Adds records, all of them.
    pub fn add(&mut self, rows: &Rows) {
        for row in rows.rows() {
            self.begin(row.timestamp);
            self.put_field(rows.bytes(row.key));
            self.put_field(rows.bytes(row.value));
            self.put(&row.headers.count.to_be_bytes());
            for (name, value) in rows.headers(row.headers) {
                self.put_field(Some(name));
                self.put_field(value);
            }
        }
    }

    /// Adds a record.
    pub fn add_record(&mut self, record: &Record) {
        self.begin(record.timestamp);
        self.put_field(record.key.as_deref());
        self.put_field(record.value.as_deref());
        // As many as a batch can hold, whose count has 31 bits.
        self.put(&(record.headers.len() as u32).to_be_bytes());
        for (name, value) in &record.headers {
            self.put_field(Some(name));
            self.put_field(value.as_deref());
        }
    }

    /// Adds the records of the batch at the start of `batch` whose offset and effective time `takes` wants; without an
    /// allocation for any.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when they cannot be read; the digest is of no use then.
    pub fn add_batch(
        &mut self,
        header: &Header,
        batch: &[u8],
        mut takes: impl FnMut(Offset, Timestamp) -> bool,
    ) -> Result<()> {
        if header.count == 0 {
            return Ok(());
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let plain = unpack_in(header, batch, codec::LIMIT_BYTES, &mut scratch)?;
        let mut walk = Walk::new(header);
        while let Some(item) = walk.step(plain, |offset, time, fields| match takes(offset, time) {
            true => self.record(time, plain, fields),
            false => Ok(()),
        }) {
            item?;
        }
        spare(&mut scratch);
        self.scratch = scratch;
        Ok(())
    }

    /// Returns how many records it is of.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Returns the digest of the records so far.
    pub fn digest(&self) -> u128 {
        let mut hash = self.hash.clone();
        hash.update(&self.buffer);
        hash.digest128()
    }

    /// Adds a record whose fields, from the key on, lie in `plain`.
    fn record(&mut self, time: Timestamp, plain: &[u8], mut fields: Cursor<'_>) -> Result<()> {
        self.begin(time);
        for _ in 0..2 {
            let field = fields.field()?;
            self.put_field(field.map(|range| &plain[range]));
        }
        let count = u32::try_from(fields.varint()?).map_err(|_| damaged("header count is negative"))?;
        self.put(&count.to_be_bytes());
        for _ in 0..count {
            let name = fields.field()?.ok_or_else(|| damaged("header has no name"))?;
            self.put_field(Some(&plain[name]));
            let value = fields.field()?;
            self.put_field(value.map(|range| &plain[range]));
        }
        match fields.left() {
            0 => Ok(()),
            left => Err(damaged(format!("record has {left} bytes too many"))),
        }
    }

    fn begin(&mut self, time: Timestamp) {
        self.records += 1;
        self.put(&time.0.to_be_bytes());
    }

    fn put_field(&mut self, field: Option<&[u8]>) {
        // The length of a field is one of 31 bits in every batch.
        self.put(&field.map_or(NULL, |field| field.len() as i32).to_be_bytes());
        self.put(field.unwrap_or_default());
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() > HASHED_BYTES {
            self.hash.update(&self.buffer);
            self.buffer.clear();
        }
        if bytes.len() > HASHED_BYTES {
            self.hash.update(bytes);
        } else {
            self.buffer.extend_from_slice(bytes);
        }
    }
}

impl Default for RecordDigest {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RecordDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.digest())
    }
}

impl fmt::Debug for RecordDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} of {} records", self.records)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::records::tests::{ALL, records};
    use crate::batch::records::{encode, template};
    use crate::batch::{Compression, put_crc};

    fn of(records: &[Record]) -> RecordDigest {
        let mut digest = RecordDigest::new();
        digest.add(&Rows::from_records(records).expect("small"));
        digest
    }

    fn add(digest: &mut RecordDigest, batch: &Bytes) {
        digest.add_batch(&Header::read(batch).expect("our own header"), batch, |_, _| true).expect("sound");
    }

    fn record(time: i64, key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> Record {
        let field = |field: Option<&'static [u8]>| field.map(Bytes::from_static);
        Record { offset: 0, timestamp: Timestamp(time), key: field(key), value: field(value), headers: Vec::new() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn batches_codecs_and_offsets_do_not_show(
            records in records(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4), by in 0_i64..1000,
        ) {
            let expected = of(&records);
            prop_assert_eq!(expected.records(), records.len() as u64);
            let mut one_by_one = RecordDigest::new();
            records.iter().for_each(|record| one_by_one.add_record(record));
            prop_assert_eq!(one_by_one.to_string(), expected.to_string());
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(records.len() + 1)).collect();
            cuts.extend([0, records.len()]);
            cuts.sort_unstable();
            let mut moved = records;
            moved.iter_mut().for_each(|record| record.offset += by);
            let mut digest = RecordDigest::new();
            for (n, pair) in cuts.windows(2).enumerate() {
                let part = &moved[pair[0]..pair[1]];
                let horizon = Header { attributes: 0x40, base_timestamp: Timestamp(5), ..template(100) };
                let template = if n % 2 == 0 { template(100) } else { horizon };
                add(&mut digest, &encode(&template, part, ALL[n % 5]).expect("they fit"));
            }
            prop_assert_eq!(digest.to_string(), expected.to_string());
            prop_assert_eq!(digest.records(), expected.records());
        }

        #[test]
        fn what_is_not_taken_does_not_show(records in records(), from in 95_i64..200) {
            let batch = encode(&template(100), &records, Compression::Lz4).expect("they fit");
            let header = Header::read(&batch).expect("our own header");
            let mut digest = RecordDigest::new();
            digest.add_batch(&header, &batch, |offset, time| offset >= from && time.0 > 0).expect("sound");
            let kept = |record: &&Record| record.offset >= from && record.timestamp.0 > 0;
            let kept: Vec<_> = records.iter().filter(kept).cloned().collect();
            prop_assert_eq!(digest.digest(), of(&kept).digest());
        }
    }

    #[test]
    fn each_field_shows_and_null_is_not_empty() {
        let header = |name: &'static [u8], value: Option<&'static [u8]>| {
            (Bytes::from_static(name), value.map(Bytes::from_static))
        };
        let (a, b) = (header(b"a", Some(b"1")), header(b"b", None));
        let headed = |headers: &[(Bytes, Option<Bytes>)]| {
            vec![Record { headers: headers.to_vec(), ..record(5, Some(b"k"), Some(b"v")) }]
        };
        let (one, other) = (record(5, Some(b"k"), Some(b"v")), record(5, Some(b"k"), Some(b"w")));
        let all = [
            vec![],
            vec![one.clone()],
            vec![one.clone(), one.clone()],
            vec![one.clone(), other.clone()],
            vec![other, one],
            vec![record(6, Some(b"k"), Some(b"v"))],
            vec![record(5, None, Some(b"v"))],
            vec![record(5, Some(b""), Some(b"v"))],
            vec![record(5, Some(b"k"), None)],
            vec![record(5, Some(b"k"), Some(b""))],
            vec![record(5, Some(b"kv"), Some(b""))],
            vec![record(5, Some(b""), Some(b"kv"))],
            headed(std::slice::from_ref(&a)),
            headed(&[a.clone(), b.clone()]),
            headed(&[b.clone(), a.clone()]),
            headed(&[a.clone(), a.clone()]),
            headed(&[header(b"a", None)]),
            headed(&[header(b"a", Some(b""))]),
            headed(&[b]),
            headed(&[header(b"", Some(b"a1"))]),
        ];
        let digests: std::collections::HashSet<_> = all.iter().map(|records| of(records).digest()).collect();
        assert_eq!(digests.len(), all.len());
    }

    #[test]
    fn a_stamped_batch_shows_as_records_with_its_time() {
        let stamped = Header { attributes: 0x08, ..template(0) };
        let records = [record(5, None, Some(b"a")), Record { offset: 1, ..record(9, None, Some(b"b")) }];
        let mut digest = RecordDigest::new();
        add(&mut digest, &encode(&stamped, &records, Compression::Zstd).expect("they fit"));
        let timed = records.map(|record| Record { timestamp: Timestamp(9), ..record });
        assert_eq!(digest.digest(), of(&timed).digest());
    }

    #[test]
    fn large_fields_show_as_small_ones_do() {
        let large = |last: u8| {
            let value: Vec<u8> = (0..5 * HASHED_BYTES).map(|at| at as u8).chain([last]).collect();
            of(&[Record { value: Some(value.into()), ..record(5, Some(b"k"), None) }])
        };
        assert_ne!(large(1).digest(), large(2).digest());
        let mut bytes = 5_i64.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 1, b'k', 0, 1, 0x40, 1]);
        bytes.extend((0..5 * HASHED_BYTES).map(|at| at as u8).chain([1, 0, 0, 0, 0]));
        assert_eq!(large(1).digest(), xxhash_rust::xxh3::xxh3_128(&bytes));
    }

    #[test]
    fn damage_inside_a_record_is_an_error() {
        let mut batch =
            encode(&template(0), &[record(5, Some(b"k"), None)], Compression::None).expect("it fits").to_vec();
        let last = batch.len() - 1;
        batch[last] = 2;
        put_crc(&mut batch);
        let header = Header::read(&batch).expect("our own header");
        let error = RecordDigest::new().add_batch(&header, &batch, |_, _| true).expect_err("a header is missing");
        assert!(error.to_string().contains("batch 0"), "{error}");
    }

    #[test]
    fn the_page_on_the_format_has_an_example_that_holds() {
        let page = include_str!("../../../docs/archive-format.md");
        let (_, example) = page.split_once("## Digest of records").expect("a section on it");
        let (_, example) = example.split_once("```text\n").expect("an example");
        let (example, _) = example.split_once("```").expect("an end");
        let (bytes, digest) = example.split_once("digest").expect("its digest");
        // Each line is bytes, two spaces, and what they are.
        let bytes: String = bytes.lines().map(|line| line.split("  ").next().unwrap_or_default()).collect();
        let digits: Vec<_> = bytes.bytes().filter(|byte| *byte != b' ').collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hexadecimal");
        let bytes: Vec<_> = digits.chunks(2).map(byte).collect();

        let value = |value: &'static [u8]| Some(Bytes::from_static(value));
        let name = Bytes::from_static(b"h");
        let headers = vec![(name.clone(), value(b"v")), (name, None)];
        let first = Record { headers, ..record(1_700_000_000_000, Some(b"key"), None) };
        let digest_of_records = of(&[first, record(-1, None, Some(b""))]).to_string();
        assert_eq!(digest_of_records, digest.trim());
        assert_eq!(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes)), digest_of_records);
    }
}
