//! The records of a batch as a stage sees them: where each field lies, of however many stages went before.
//!
//! Pure. A [`Row`] is a few numbers; its bytes stay where they were decompressed, or where a plugin's answer brought
//! them. Headers stay as they are on the wire until somebody asks for them. So a batch costs one allocation for its rows
//! and one for each buffer, whatever its number of records.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use super::varint::{Cursor, begin_record, put_field, put_varint, write_varint};
use super::{Record, Walk, codec, damaged, unpack_at_most};
use crate::batch::Header;
use crate::error::{Error, Result};
use crate::record::{Offset, Timestamp};

/// The most rows of one batch. A row takes nine times as many bytes as the least record, and a megabyte of zstd can hold
/// seventy million of those; a producer's batch has some thousands. These are 128 MiB; twice as many would alone be as
/// much as an agent has for all of its partitions.
pub(super) const MOST_ROWS: i32 = 2 << 20;

/// The rows that are made room for at once: what a header says is not believed beyond that.
const FIRST_ROWS: usize = 64 << 10;

/// Records in order, which may be of several partitions once a stage has routed them.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// Whether their time is the one at which the broker appended them.
    pub is_log_append_time: bool,
    buffers: Vec<Bytes>,
    rows: Vec<Row>,
}

/// One record: where its fields lie in the buffers of its [`Rows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The offset that it was read from.
    pub offset: Offset,
    /// Its effective time: in a batch that the broker stamped (LogAppendTime), the batch's.
    pub timestamp: Timestamp,
    /// Its key; null is not empty.
    pub key: Field,
    /// Its value; null is not empty.
    pub value: Field,
    /// Its headers.
    pub headers: Headers,
}

/// Where a field lies; or that it is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field(Option<Place>);

/// Where headers lie, one after the other as on the wire: name and value, each behind its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// How many they are.
    pub count: u32,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    buffer: u32,
    start: u32,
    end: u32,
}

impl Field {
    /// No bytes, not even none.
    pub const NULL: Self = Self(None);
}

impl Rows {
    /// Opens the batch at the start of `batch`, decompressing it; `header` is what [`Header::read`] made of it.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when bytes are missing, do not decompress, or are no records;
    /// [`Kind::Failed`](crate::error::Kind::Failed) when they are more than can be taken apart at once.
    pub fn of(header: &Header, batch: &Bytes) -> Result<Self> {
        Self::of_at_most(header, batch, codec::LIMIT_BYTES)
    }

    /// Opens a batch as [`of`](Self::of) does, if its plain records are at most so many bytes.
    ///
    /// # Errors
    /// As [`of`](Self::of), and [`Kind::Damaged`](crate::error::Kind::Damaged) where they are more.
    pub fn of_at_most(header: &Header, batch: &Bytes, limit_bytes: usize) -> Result<Self> {
        if header.count > MOST_ROWS {
            let what =
                format!("record batch has {} records, the most that can be transformed is {MOST_ROWS}", header.count);
            return Err(Error::failed(what).with("batch", header.base_offset));
        }
        let body = match unpack_at_most(header, batch, limit_bytes)? {
            Cow::Borrowed(plain) => batch.slice_ref(plain),
            Cow::Owned(plain) => Bytes::from(plain),
        };
        // Each record takes seven bytes or more: a count beyond that must not allocate.
        let count = usize::try_from(header.count).unwrap_or(0).min(body.len() / 7);
        let mut rows = Vec::with_capacity(count.min(FIRST_ROWS));
        let mut walk = Walk::new(header);
        while let Some(row) = walk.step(&body, row) {
            rows.push(row?);
        }
        Ok(Self { is_log_append_time: header.is_log_append_time(), buffers: vec![body], rows })
    }

    /// Makes rows of records whose producer set their times.
    ///
    /// # Errors
    /// [`Kind::Failed`](crate::error::Kind::Failed) when they are 4 GiB or more: places in a buffer are of 32 bits.
    pub fn from_records(records: &[Record]) -> Result<Self> {
        // Names and values of headers have their lengths before them.
        let header = |(name, value): &(Bytes, Option<Bytes>)| name.len() + value.as_ref().map_or(0, Bytes::len) + 10;
        let size = |record: &Record| {
            let (key, value) = (record.key.as_ref(), record.value.as_ref());
            key.map_or(0, Bytes::len) + value.map_or(0, Bytes::len) + record.headers.iter().map(header).sum::<usize>()
        };
        let all = records.iter().map(size).sum::<usize>();
        if u32::try_from(all).is_err() {
            return Err(Error::failed(format!("{} records are {all} bytes: too many at once", records.len())));
        }
        let mut bytes = Vec::new();
        let mut rows = Vec::with_capacity(records.len());
        let mut field = |field: Option<&[u8]>| match field {
            None => Field::NULL,
            Some(field) => {
                let start = bytes.len();
                bytes.extend_from_slice(field);
                Field(Some(place(0, start..bytes.len())))
            }
        };
        let fields: Vec<_> =
            records.iter().map(|record| (field(record.key.as_deref()), field(record.value.as_deref()))).collect();
        for (record, (key, value)) in records.iter().zip(fields) {
            let start = bytes.len();
            for (name, value) in &record.headers {
                put_field(&mut bytes, Some(name));
                put_field(&mut bytes, value.as_deref());
            }
            let headers = Headers { count: record.headers.len() as u32, place: place(0, start..bytes.len()) };
            rows.push(Row { offset: record.offset, timestamp: record.timestamp, key, value, headers });
        }
        Ok(Self { is_log_append_time: false, buffers: vec![bytes.into()], rows })
    }

    /// Returns how many they are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns all of them.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Returns the bytes of a field of one of these rows; `None` of one that is null.
    pub fn bytes(&self, field: Field) -> Option<&[u8]> {
        field.0.map(|place| self.at(place))
    }

    /// Returns the headers of one of these rows, in order: names and values.
    pub fn headers(&self, headers: Headers) -> HeaderIter<'_> {
        let bytes = self.at(headers.place);
        HeaderIter { bytes, cursor: Cursor::new(bytes, 0, bytes.len()) }
    }

    /// Returns the headers of one of these rows as they are on the wire, without their count.
    pub fn header_bytes(&self, headers: Headers) -> &[u8] {
        self.at(headers.place)
    }

    /// Returns how many bytes a field of one of these rows is.
    pub fn field_bytes(&self, field: Field) -> usize {
        field.0.map_or(0, |place| (place.end - place.start) as usize)
    }

    /// Returns how many bytes the fields of a row are.
    pub fn size_bytes(&self, row: &Row) -> usize {
        self.field_bytes(row.key)
            + self.field_bytes(row.value)
            + (row.headers.place.end - row.headers.place.start) as usize
    }

    /// Returns the record of a row, with its bytes copied.
    pub fn record(&self, row: &Row) -> Record {
        let slice = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        let headers = self.headers(row.headers);
        Record {
            offset: row.offset,
            timestamp: row.timestamp,
            key: slice(self.bytes(row.key)),
            value: slice(self.bytes(row.value)),
            headers: headers.map(|(name, value)| (Bytes::copy_from_slice(name), slice(value))).collect(),
        }
    }

    /// Begins rows that may have fields of these, and of buffers that are added.
    pub fn derive(&self) -> Derived {
        Derived { rows: Self { buffers: self.buffers.clone(), rows: Vec::new(), ..*self } }
    }

    /// Appends the row of that number as it is in a batch; `None` when it exceeds what a length can say.
    pub(super) fn put(&self, out: &mut Vec<u8>, time_delta: i64, delta: i32, at: usize) -> Option<()> {
        let row = &self.rows[at];
        let headers = self.at(row.headers.place);
        let fields = [self.bytes(row.key), self.bytes(row.value)];
        begin_record(out, time_delta, delta, fields, row.headers.count.into(), headers.len())?;
        out.extend_from_slice(headers);
        Some(())
    }

    /// Adds rows behind these, with the buffers that they lie in. Rows that derive from the same ones share the first of
    /// those, and what is there stays where it is.
    pub fn append(&mut self, more: Self) {
        let is_shared = |(mine, other): &(&Bytes, &Bytes)| mine.as_ptr_range() == other.as_ptr_range();
        let shared = self.buffers.iter().zip(&more.buffers).take_while(is_shared).count();
        if self.rows.is_empty() && shared == self.buffers.len() {
            *self = Self { is_log_append_time: self.is_log_append_time && more.is_log_append_time, ..more };
            return;
        }
        let by = (self.buffers.len() - shared) as u32;
        let moved = |place: Place| match place.buffer as usize {
            buffer if buffer < shared => place,
            _ => Place { buffer: place.buffer + by, ..place },
        };
        let field = |field: Field| Field(field.0.map(moved));
        self.is_log_append_time &= more.is_log_append_time;
        self.buffers.extend(more.buffers.into_iter().skip(shared));
        self.rows.extend(more.rows.into_iter().map(|row| Row {
            key: field(row.key),
            value: field(row.value),
            headers: Headers { place: moved(row.headers.place), ..row.headers },
            ..row
        }));
    }

    /// Returns whether these are the rows `before`, of which they were made, and lie where those lie.
    pub fn is_same(&self, before: &Self) -> bool {
        self.is_log_append_time == before.is_log_append_time && self.rows == before.rows
    }

    fn at(&self, place: Place) -> &[u8] {
        &self.buffers[place.buffer as usize][place.start as usize..place.end as usize]
    }
}

/// Rows in the making, of fields of other rows and of buffers that come with them.
#[derive(Debug)]
pub struct Derived {
    rows: Rows,
}

/// A buffer that was added to [`Derived`] rows.
#[derive(Debug, Clone, Copy)]
pub struct Buffer(u32);

impl Derived {
    /// Returns the buffer that is added next: rows can be made of it while its bytes are written.
    pub fn next_buffer(&self) -> Buffer {
        Buffer(self.rows.buffers.len() as u32)
    }

    /// Adds a buffer. Its bytes are below 4 GiB.
    pub fn add(&mut self, bytes: Bytes) -> Buffer {
        let buffer = self.next_buffer();
        self.rows.buffers.push(bytes);
        buffer
    }

    /// Says that their times are no longer those at which a broker appended them.
    pub fn have_create_time(&mut self) {
        self.rows.is_log_append_time = false;
    }

    /// Returns the rows; their fields are of the rows that these derive from, or of buffers that were added.
    pub fn finish(self, rows: Vec<Row>) -> Rows {
        Rows { rows, ..self.rows }
    }
}

impl Buffer {
    /// Returns the field at `range` of the buffer.
    pub fn field(self, range: Range<usize>) -> Field {
        Field(Some(place(self.0, range)))
    }

    /// Returns `count` headers at `range` of the buffer, where they lie as [`put_header`] writes them.
    pub fn headers(self, count: u32, range: Range<usize>) -> Headers {
        Headers { count, place: place(self.0, range) }
    }
}

/// Appends a header as it is on the wire.
#[inline]
pub fn put_header(out: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    put_field(out, Some(name));
    put_field(out, value);
}

/// Appends the name of a header as it is on the wire; its value follows.
#[inline]
pub fn put_name(out: &mut Vec<u8>, name: &[u8]) {
    put_field(out, Some(name));
}

/// Appends the length of the value of a header, behind its name; the value follows, but for one that is null.
#[inline]
pub fn put_length(out: &mut Vec<u8>, value_bytes: Option<usize>) {
    put_varint(out, value_bytes.map_or(-1, |bytes| bytes as i64));
}

/// Writes such a length at `at`, in five bytes at most; returns where it ends.
///
/// # Panics
/// If there is no room for it.
#[inline]
pub fn write_length(out: &mut [u8], at: usize, value_bytes: Option<usize>) -> usize {
    write_varint(out, at, value_bytes.map_or(-1, |bytes| bytes as i64))
}

/// Names and values of headers, in order.
#[derive(Debug)]
pub struct HeaderIter<'a> {
    bytes: &'a [u8],
    cursor: Cursor<'a>,
}

impl HeaderIter<'_> {
    /// Returns how many bytes have been read: where the next header begins.
    pub fn position(&self) -> usize {
        self.bytes.len() - self.cursor.left()
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        const WALKED: &str = "these bytes were walked over, or written by us";
        if self.cursor.left() == 0 {
            return None;
        }
        let name = self.cursor.field().expect(WALKED).unwrap_or_default();
        let value = self.cursor.field().expect(WALKED);
        Some((&self.bytes[name], value.map(|value| &self.bytes[value])))
    }
}

fn place(buffer: u32, range: Range<usize>) -> Place {
    debug_assert!(u32::try_from(range.end).is_ok());
    Place { buffer, start: range.start as u32, end: range.end as u32 }
}

/// Reads the rest of a record, from its key on; its headers are walked over, so that they can be trusted later.
pub(super) fn row(offset: Offset, timestamp: Timestamp, mut fields: Cursor<'_>) -> Result<Row> {
    let field = |range: Option<Range<usize>>| Field(range.map(|range| place(0, range)));
    let key = field(fields.field()?);
    let value = field(fields.field()?);
    let count = u32::try_from(fields.varint()?).map_err(|_| damaged("header count is negative"))?;
    let headers = fields.end() - fields.left()..fields.end();
    for _ in 0..count {
        let _ = fields.field()?.ok_or_else(|| damaged("header has no name"))?;
        let _ = fields.field()?;
    }
    if fields.left() != 0 {
        return Err(damaged(format!("record has {} bytes too many", fields.left())));
    }
    Ok(Row { offset, timestamp, key, value, headers: Headers { count, place: place(0, headers) } })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::records::tests::{ALL, records};
    use crate::batch::records::{Records, encode, encode_rows, template};
    use crate::batch::{Compression, HEADER_BYTES};

    fn batch_of(records: &[Record]) -> Bytes {
        encode(&template(100), records, Compression::Lz4).expect("they fit")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn rows_are_the_records(records in records()) {
            let batch = batch_of(&records);
            let header = Header::read(&batch).expect("sound");
            for rows in [Rows::of(&header, &batch).expect("sound"), Rows::from_records(&records).expect("small")] {
                let read: Vec<_> = rows.rows().iter().map(|row| rows.record(row)).collect();
                prop_assert_eq!(&read, &records);
            }
        }

        #[test]
        fn rows_are_encoded_as_their_records_are(records in records()) {
            for codec in ALL {
                let batch = encode(&template(100), &records, codec).expect("they fit");
                let header = Header::read(&batch).expect("our own header");
                let rows = Rows::of(&header, &batch).expect("sound");
                let again = encode_rows(&header, &rows, codec).expect("they fit");
                if records.is_empty() {
                    prop_assert_eq!(again.len(), HEADER_BYTES);
                } else {
                    prop_assert_eq!(&again, &batch);
                }
            }
        }

        #[test]
        fn damage_ends_in_an_error_or_in_what_records_read(
            records in records(), at in any::<prop::sample::Index>(), bit in 0_u8..8,
        ) {
            let mut bytes = batch_of(&records).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let bytes = Bytes::from(bytes);
            if let Ok(header) = Header::read(&bytes) {
                let told = Records::of(&header, &bytes).and_then(|records| records.collect::<Result<Vec<_>>>());
                let rows = Rows::of(&header, &bytes);
                prop_assert_eq!(rows.is_ok(), told.is_ok());
                if let (Ok(rows), Ok(told)) = (rows, told) {
                    let read: Vec<_> = rows.rows().iter().map(|row| rows.record(row)).collect();
                    prop_assert_eq!(read, told);
                }
            }
        }
    }

    #[test]
    fn a_batch_keeps_its_offsets_and_its_producer_whatever_rows_are_left() {
        let record = |offset| Record {
            offset,
            timestamp: Timestamp(7),
            key: None,
            value: Some(Bytes::from_static(b"v")),
            headers: Vec::new(),
        };
        let stamped = Header {
            attributes: 0x08 | 0x10,
            producer_id: 9,
            producer_epoch: 2,
            base_sequence: 40,
            leader_epoch: 3,
            max_timestamp: Timestamp(1000),
            ..template(100)
        };
        let batch = encode(&stamped, &[record(100), record(104)], Compression::Lz4).expect("they fit");
        let header = Header::read(&batch).expect("our own header");
        let rows = Rows::of(&header, &batch).expect("sound");

        let none = encode_rows(&header, &rows.derive().finish(Vec::new()), Compression::Lz4).expect("it fits");
        let kept = Header { count: 0, total_bytes: HEADER_BYTES, attributes: 0x18, crc: 0, ..header };
        assert_eq!(Header { crc: 0, ..Header::read(&none).expect("our own header") }, kept);
        assert_eq!(Rows::of(&kept, &none).expect("sound").len(), 0);

        let mut timed = rows.derive();
        timed.have_create_time();
        let row = Row { timestamp: Timestamp(55), ..rows.rows()[0] };
        let one = encode_rows(&header, &timed.finish(vec![row]), Compression::Zstd).expect("it fits");
        let told = Header::read(&one).expect("our own header");
        assert_eq!((told.attributes, told.max_timestamp, told.last_offset()), (0x14, Timestamp(55), 104));
    }

    #[test]
    fn a_count_of_the_header_does_not_allocate() {
        let mut bytes = encode(&template(0), &[], Compression::None).expect("empty").to_vec();
        bytes[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
        bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
        let bytes = Bytes::from(bytes);
        let header = Header::read(&bytes).expect("it does not contradict itself");
        let said = Rows::of(&header, &bytes).expect_err("too many").to_string();
        let wanted = "record batch has 2147483647 records, the most that can be transformed is 2097152 (batch 0)";
        assert_eq!(said, wanted);
        let fewer = Header { count: MOST_ROWS, ..header };
        assert!(Rows::of(&fewer, &bytes).is_err(), "there are none");
    }

    #[test]
    fn records_that_no_place_can_point_into_are_refused() {
        // Never touched: zeros come from the kernel when somebody reads them.
        let value = Bytes::from(vec![0; 1 << 30]);
        let record = |offset| Record {
            offset,
            timestamp: Timestamp(0),
            key: None,
            value: Some(value.clone()),
            headers: Vec::new(),
        };
        let records: Vec<_> = (0..4).map(record).collect();
        let said = Rows::from_records(&records).expect_err("4 GiB").to_string();
        assert_eq!(said, "4 records are 4294967296 bytes: too many at once");
    }
}
