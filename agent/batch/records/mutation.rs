//! Batches that are no longer what they were: whatever can still be read of one obeys the laws of records.

mod model;

use bytes::{Bytes, BytesMut};
use fastrand::Rng;

use super::rows::Rows;
use super::*;
use crate::batch::mutation::ALL;
use crate::batch::{LENGTH_PREFIX_BYTES, crc_matches, entry_bytes, gap, outgoing, walk};
use crate::error::Kind;
use crate::mutation::{Tally, mutate, strange};
use crate::record::OffsetRange;

/// The most records that can be taken apart at once.
pub(in crate::batch) const ROWS: i32 = super::rows::MOST_ROWS;

/// Sound batches.
pub(in crate::batch) struct Batches {
    sound: Vec<Bytes>,
    /// Their headers and records.
    parts: Vec<(Header, Vec<Record>)>,
    /// Small ones that mean some megabytes.
    bombs: Vec<Bytes>,
}

fn record(offset: Offset, key: Option<&'static [u8]>, value: Option<Bytes>) -> Record {
    let key = key.map(Bytes::from_static);
    Record { offset, timestamp: Timestamp(1_700_000_000_000 - 7 * offset), key, value, headers: Vec::new() }
}

/// Records of every shape, from offset 100 on.
fn shapes() -> Vec<Vec<Record>> {
    let text = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let nulls = vec![record(100, None, None), record(101, Some(b""), text("")), record(102, None, text("v"))];
    let headers: Vec<(Bytes, Option<Bytes>)> = [(&b"trace"[..], text("1")), (b"trace", None), (b"\xff\xfe", text(""))]
        .map(|(name, value)| (Bytes::from_static(name), value))
        .into();
    let headed = Record { headers: [&headers[..], &headers[..]].concat(), ..record(100, Some(b"k"), text("v")) };
    let sparse = vec![headed.clone(), record(107, Some(b"key"), text("value")), record(300, None, text("far"))];
    let many = (100..400).map(|offset| record(offset, Some(b"customer"), text("the same, the same, the same")));
    let large = (0..20_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>();
    let large = vec![record(100, Some(b"large"), Some(large.into())), record(101, None, None)];
    let marker = vec![record(100, Some(b"\0\0\0\x01"), Some(Bytes::from_static(&[0; 6])))];
    let wide = vec![record(100, None, None), record(100 + Offset::from(i32::MAX), None, None)];
    vec![Vec::new(), nulls, vec![headed], sparse, many.collect(), large, marker, wide]
}

/// Headers of every kind.
fn templates() -> [Header; 6] {
    let plain = template(100);
    let producer = Header { producer_id: 7, producer_epoch: 1, base_sequence: 4, leader_epoch: 3, ..plain };
    [
        plain,
        Header { attributes: 0x08, max_timestamp: Timestamp(1_700_000_000_500), ..plain },
        Header { attributes: 0x10, last_offset_delta: 500, ..producer },
        Header { attributes: 0x30, ..producer },
        Header { attributes: 0x40, base_timestamp: Timestamp(1_800_000_000_000), ..plain },
        Header { attributes: 0x58, base_timestamp: Timestamp(5), max_timestamp: Timestamp(9), ..producer },
    ]
}

/// Makes a batch of a header and a body that is compressed already.
fn joined(header: &Header, packed: &[u8]) -> Vec<u8> {
    let mut batch = BytesMut::new();
    varint::put_header(&mut batch, &Header { total_bytes: HEADER_BYTES + packed.len(), ..*header });
    batch.extend_from_slice(packed);
    put_crc(&mut batch);
    batch.into()
}

/// Returns the header as one says it whose records are compressed so.
fn compressed(header: &Header, compression: Compression) -> Header {
    Header { attributes: (header.attributes & !0x07) | compression_bits(compression), ..*header }
}

/// A frame of zstd with the largest window that a reader accepts, of so many blocks of one byte 128 Ki times.
pub(in crate::batch) fn endless_zstd(blocks: usize) -> Vec<u8> {
    let block = |is_last: bool| [&(0x10_0002 + u32::from(is_last)).to_le_bytes()[..3], &[0]].concat();
    let rest = vec![block(false); blocks - 1].concat();
    [&[0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3][..], &rest, &block(true)].concat()
}

impl Batches {
    pub(in crate::batch) fn new() -> Self {
        let (mut sound, mut parts) = (Vec::new(), Vec::new());
        for (template, records) in templates().iter().flat_map(|t| shapes().into_iter().map(move |r| (*t, r))) {
            let batches = ALL.map(|codec| encode(&template, &records, codec).expect("they fit"));
            let header = Header::read(&batches[0]).expect("sound");
            // What other writers make: Snappy without frames, and streams that follow each other.
            let plain = &batches[0][HEADER_BYTES..];
            let raw = snap::raw::Encoder::new().compress_vec(plain).expect("small");
            sound.push(joined(&compressed(&header, Compression::Snappy), &raw).into());
            let (first, second) = plain.split_at(plain.len() / 2);
            let two = [first, second].map(|half| codec::compress(Compression::Gzip, half)).concat();
            sound.push(joined(&compressed(&header, Compression::Gzip), &two).into());
            parts.push((header, Records::read(&batches[0]).expect("sound").collect::<Result<_>>().expect("sound")));
            sound.extend(batches);
        }
        sound.push(gap(OffsetRange { first: 5, next: 5 << 33 }, 2));
        let big = vec![record(100, None, Some(vec![0; 8 << 20].into()))];
        let packed = ALL[1..].iter().map(|codec| encode(&template(100), &big, *codec).expect("they fit"));
        let mut bombs: Vec<_> = packed.collect();
        let header = Header { count: 1, ..compressed(&template(0), Compression::Zstd) };
        bombs.push(joined(&header, &endless_zstd(64)).into());
        Self { sound, parts, bombs }
    }

    /// Reads the batch of as many records as can be taken apart at once, each of which is nothing but an offset.
    pub(in crate::batch) fn most_rows(&self) {
        let groups = |delta: i32| [0, 7, 14, 21].map(|shift| (delta << 1 >> shift) as u8 & 0x7f | 0x80);
        let least = |delta| {
            let [a, b, c, d] = groups(delta);
            [9 << 1, 0, 0, a, b, c, d & 0x7f, 1, 1, 0]
        };
        let body: Vec<[u8; 10]> = (0..ROWS).map(least).collect();
        let packed = codec::compress(Compression::Zstd, body.as_flattened());
        drop(body);
        let header = Header { count: ROWS, last_offset_delta: ROWS - 1, ..template(0) };
        let batch = Bytes::from(joined(&compressed(&header, Compression::Zstd), &packed));
        let rows = Rows::of(&Header::read(&batch).expect("sound"), &batch).expect("as many as there may be");
        let last = rows.rows().last().expect("two million");
        assert_eq!((rows.len(), last.offset), (ROWS as usize, Offset::from(ROWS - 1)));
    }

    pub(in crate::batch) fn case(&self, random: &mut Rng, tally: &mut Tally) {
        let bytes = match random.u16(..1000) {
            0 | 1 => {
                let mut bomb = self.bombs[random.usize(..self.bombs.len())].to_vec();
                if random.bool() {
                    mutate(random, &mut bomb);
                }
                bomb
            }
            2..300 => self.altered(random),
            300..450 => self.headed(random),
            450..600 => self.repacked(random),
            _ => self.lying(random),
        };
        judge(&bytes.into(), random, tally);
    }

    fn any(&self, random: &mut Rng) -> &Bytes {
        &self.sound[random.usize(..self.sound.len())]
    }

    /// Batches with any bytes changed, of which the first has a right length and checksum half of the times.
    fn altered(&self, random: &mut Rng) -> Vec<u8> {
        let mut bytes = self.any(random).to_vec();
        while random.u8(..3) == 0 {
            bytes.extend_from_slice(self.any(random));
        }
        for _ in 0..random.u8(..5) {
            mutate(random, &mut bytes);
        }
        if bytes.len() >= HEADER_BYTES && random.bool() {
            let whole = entry_bytes(&bytes).filter(|total| (HEADER_BYTES..=bytes.len()).contains(total));
            let whole = whole.unwrap_or(bytes.len());
            bytes[8..12].copy_from_slice(&((whole - LENGTH_PREFIX_BYTES) as i32).to_be_bytes());
            put_crc(&mut bytes[..whole]);
        }
        bytes
    }

    /// A batch of which one or two fields of the header say something else.
    fn headed(&self, random: &mut Rng) -> Vec<u8> {
        const FIELDS: [usize; 14] = [0, 8, 12, 16, 17, 21, 23, 27, 35, 43, 51, 53, 57, 61];
        let mut bytes = self.any(random).to_vec();
        for _ in 0..random.usize(1..3) {
            let field = random.usize(..FIELDS.len() - 1);
            let place = &mut bytes[FIELDS[field]..FIELDS[field + 1]];
            let width = place.len();
            place.copy_from_slice(&strange(random).to_be_bytes()[8 - width..]);
        }
        if bytes.len() >= HEADER_BYTES {
            put_crc(&mut bytes);
        }
        bytes
    }

    /// A batch whose bytes were changed before they were compressed.
    fn repacked(&self, random: &mut Rng) -> Vec<u8> {
        let (header, records) = &self.parts[random.usize(..self.parts.len())];
        let mut body = encode(header, records, Compression::None).expect("they fit")[HEADER_BYTES..].to_vec();
        for _ in 0..random.u8(1..4) {
            mutate(random, &mut body);
        }
        let compression = ALL[random.usize(..ALL.len())];
        joined(&compressed(header, compression), &codec::compress(compression, &body))
    }

    /// A batch of a writer that says something else now and then, where it is to say a number.
    fn lying(&self, random: &mut Rng) -> Vec<u8> {
        let (header, records) = &self.parts[random.usize(..self.parts.len())];
        // Of many records the first few are as good.
        let records = &records[..records.len().min(random.usize(1..40))];
        let mut header = Header { count: records.len() as i32, ..*header };
        let is_extreme = random.u8(..24) == 0;
        let mut writer = Liar { random, body: Vec::new() };
        for (record, time) in records.iter().zip([i64::MIN, i64::MAX].iter().cycle()) {
            match is_extreme {
                true => {
                    header.base_timestamp = Timestamp(0);
                    writer.record(&header, &Record { timestamp: Timestamp(*time), ..record.clone() });
                }
                false => writer.record(&header, record),
            }
        }
        let Liar { random, body, .. } = writer;
        match random.u8(..12) {
            0 => header.count = strange(random) as i32,
            1 => header.last_offset_delta = strange(random) as i32,
            2 => header.base_offset = strange(random),
            3 => header.base_timestamp = Timestamp(strange(random)),
            4 => header.max_timestamp = Timestamp(strange(random)),
            5 => header.attributes = strange(random) as i16,
            _ => {}
        }
        let compression = ALL[random.usize(..ALL.len())];
        joined(&compressed(&header, compression), &codec::compress(compression, &body))
    }
}

/// A writer of records whose every number may be another.
struct Liar<'a> {
    random: &'a mut Rng,
    body: Vec<u8>,
}

impl Liar<'_> {
    fn record(&mut self, header: &Header, record: &Record) {
        let before = std::mem::take(&mut self.body);
        self.body.push(0);
        let time = record.timestamp.0.wrapping_sub(header.base_timestamp.0);
        let time = if self.random.u8(..24) == 0 { strange(self.random) } else { time };
        self.number(time);
        self.number(record.offset - header.base_offset);
        self.field(record.key.as_deref());
        self.field(record.value.as_deref());
        self.number(record.headers.len() as i64);
        for (name, value) in &record.headers {
            self.field(Some(name));
            self.field(value.as_deref());
        }
        let fields = std::mem::replace(&mut self.body, before);
        self.number(fields.len() as i64);
        self.body.extend(fields);
    }

    fn field(&mut self, field: Option<&[u8]>) {
        self.number(field.map_or(-1, |field| field.len() as i64));
        self.body.extend_from_slice(field.unwrap_or_default());
    }

    fn number(&mut self, number: i64) {
        // A batch of many records would hardly ever be without a lie.
        let (number, padding) = match self.random.u8(..) {
            0 => (strange(self.random), 0),
            1 => (number.wrapping_add(self.random.i64(-1..=1)), 0),
            2 => (number, self.random.usize(..9)),
            _ => (number, 0),
        };
        put(&mut self.body, number, padding);
    }
}

/// Writes a varint, of that many groups more than it needs.
fn put(out: &mut Vec<u8>, number: i64, padding: usize) {
    let mut raw = ((number << 1) ^ (number >> 63)) as u64;
    let start = out.len();
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
    out.resize(out.len() + padding, 0);
    let last = out.len() - 1;
    out[start..last].iter_mut().for_each(|byte| *byte |= 0x80);
}

/// Holds everything that reads batches to its laws, whatever the bytes.
fn judge(bytes: &Bytes, random: &mut Rng, tally: &mut Tally) {
    let mut end = 0;
    for item in walk(bytes) {
        let Ok((at, header)) = item.map_err(|error| tally.note(&error.to_string())) else { break };
        assert!(at == end && header.total_bytes >= HEADER_BYTES, "batches lie side by side: {at} after {end}");
        end += header.total_bytes;
        assert!(end <= bytes.len(), "a whole batch lies inside the bytes");
        judge_batch(&header, &bytes.slice(at..end), random, tally);
    }
    let rest = bytes.slice(end..);
    match Header::read(&rest) {
        // Of which bytes are missing; or more bytes than it has.
        Ok(header) => judge_batch(&header, &rest, random, tally),
        Err(error) => tally.note(&error.to_string()),
    }
}

fn judge_batch(header: &Header, batch: &Bytes, random: &mut Rng, tally: &mut Tally) {
    assert!((0..=header.last_offset()).contains(&header.base_offset) && header.next_offset() > header.last_offset());
    let (surveyed, rows) = (survey(batch, header, Offset::MIN), Rows::of(header, batch));
    let told = Records::of(header, batch).and_then(|mut records| {
        let told: Result<Vec<_>> = records.by_ref().collect();
        assert!(told.is_ok() || records.next().is_none(), "nothing follows damage");
        told
    });
    let meant = model::read(header, batch);
    assert_eq!(told.as_ref().ok(), meant.as_ref(), "{told:?}");
    drop(meant);
    outgoing::mutation::judge(header, batch, told.as_deref().ok(), random, tally);
    let records = match told {
        Ok(records) => records,
        Err(error) => {
            assert_eq!(error.kind(), Kind::Damaged, "{error}");
            assert!(rows.is_err(), "rows of what cannot be read: {error}");
            return tally.note(&error.to_string());
        }
    };
    tally.note(if records.is_empty() { "a batch without records is read" } else { "a batch is read" });
    assert_eq!(records.len(), header.count as usize);
    let offsets = records.iter().map(|record| record.offset);
    assert!(offsets.clone().is_sorted_by(|a, b| a < b), "offsets ascend");
    assert!(offsets.clone().all(|offset| (header.base_offset..=header.last_offset()).contains(&offset)));
    assert!(!header.is_log_append_time() || records.iter().all(|record| record.timestamp == header.max_timestamp));
    let _ = records.iter().map(control_type).count();
    judge_rows(header, &rows.expect("records can be read"), &records);
    judge_survey(&surveyed.expect("records can be read"), &records);
    let from = header.base_offset.saturating_add(random.i64(-2..9));
    let kept: Vec<_> = records.iter().filter(|record| record.offset >= from).cloned().collect();
    judge_survey(&survey(batch, header, from).expect("it could be"), &kept);
    judge_encoding(header, &records, ALL[random.usize(..ALL.len())], tally);
}

fn judge_rows(header: &Header, rows: &Rows, records: &[Record]) {
    assert_eq!((rows.len(), rows.is_log_append_time), (records.len(), header.is_log_append_time()));
    for (row, record) in rows.rows().iter().zip(records) {
        assert_eq!(&rows.record(row), record);
        assert_eq!(row.headers.count as usize, record.headers.len());
        let fields = record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len);
        assert_eq!(rows.size_bytes(row), fields + rows.header_bytes(row.headers).len());
    }
}

fn judge_survey(survey: &Survey, records: &[Record]) {
    let times = || records.iter().map(|record| record.timestamp);
    let (first, last) = (records.first(), records.last());
    let expected = Survey {
        count: records.len() as u32,
        first: first.map(|record| record.offset),
        last: last.map(|record| record.offset),
        min_time: times().min(),
        max_time: times().max(),
    };
    assert_eq!(survey, &expected);
}

/// What was read can be written, but for times that no varint can tell, and reads as the same.
fn judge_encoding(header: &Header, records: &[Record], compression: Compression, tally: &mut Tally) {
    let first = records.first().map_or(header.base_timestamp, |first| first.timestamp);
    let base = if header.has_delete_horizon() { header.base_timestamp } else { first };
    let fits = records.iter().all(|record| record.timestamp.0.checked_sub(base.0).is_some());
    let batch = match encode(header, records, compression) {
        Ok(batch) => batch,
        Err(error) => {
            assert!(!fits, "what was read cannot be written: {error}");
            return tally.note("times do not fit one batch");
        }
    };
    assert!(fits && crc_matches(&batch));
    let again = Header::read(&batch).expect("our own header");
    assert_eq!(walk(&batch).count(), 1);
    assert_eq!(again.compression().expect("our own"), compression);
    let kept = |header: &Header| (header.base_offset, header.next_offset(), header.count, header.attributes >> 3);
    assert_eq!(kept(&again), kept(header));
    let read: Vec<_> = Records::of(&again, &batch).and_then(Iterator::collect).expect("our own records");
    assert_eq!(read, records);
    assert_eq!(encode(&again, &read, compression).expect("it could be"), batch, "a writer repeats itself");
    tally.note("a batch is encoded again");
}
