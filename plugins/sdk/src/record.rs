//! A record as a plugin sees it: borrowed from the columns of its batch, copied for nothing.

use crate::bytes::same;
use crate::values;
use crate::wit::{Batch, Column, HeaderColumn, TimestampType};

/// A record of a batch.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    batch: &'a Batch,
    heads: Option<&'a Column>,
    index: u32,
}

impl<'a> Record<'a> {
    /// Returns a record of a batch, from 0.
    pub fn new(batch: &'a Batch, index: u32) -> Self {
        Self { batch, heads: None, index }
    }

    /// Adds how the values of the batch begin, as [`values::heads`] returns it.
    #[must_use]
    pub fn with_heads(self, heads: &'a Column) -> Self {
        Self { heads: Some(heads), ..self }
    }

    pub(crate) fn batch(&self) -> &'a Batch {
        self.batch
    }

    /// Returns its number in the batch, from 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns the source's topic.
    pub fn topic(&self) -> &'a str {
        &self.batch.topic
    }

    /// Returns the source's partition.
    pub fn partition(&self) -> i32 {
        self.batch.partition
    }

    /// Returns the offset in the source.
    pub fn offset(&self) -> i64 {
        self.batch.offsets[self.index as usize]
    }

    /// Returns the effective time: milliseconds since the epoch, as a consumer sees it; −1 for none.
    pub fn timestamp(&self) -> i64 {
        self.batch.timestamps[self.index as usize]
    }

    /// Returns whether the broker, not the producer, set the timestamp.
    pub fn has_log_append_time(&self) -> bool {
        self.batch.timestamp_type == TimestampType::LogAppendTime
    }

    /// Returns the key; `None` is null, which is not empty.
    ///
    /// # Panics
    /// If `needs` does not name the keys.
    pub fn key(&self) -> Option<&'a [u8]> {
        asked_for(&self.batch.keys, "KEYS").cell(self.index as usize)
    }

    /// Returns the value; `None` is null, a tombstone, which is not empty.
    ///
    /// # Panics
    /// If `needs` does not name the values.
    pub fn value(&self) -> Option<&'a [u8]> {
        asked_for(&self.batch.values, "VALUES").cell(self.index as usize)
    }

    /// Returns how the value begins: as many bytes as [`Transform::value_head`](crate::Transform::value_head) says, or all
    /// where it has fewer. `None` is null.
    ///
    /// # Panics
    /// If that says nothing.
    pub fn value_head(&self) -> Option<&'a [u8]> {
        match self.heads {
            Some(heads) => heads.cell(self.index as usize),
            None => panic!("how values begin was not asked for: return how much of it from `value_head`"),
        }
    }

    /// Returns the value, which the agent is asked for: for the few records of which the beginning is not enough.
    /// `None` is null.
    ///
    /// # Panics
    /// If `needs` does not name the values on demand, and `value_head` says nothing.
    pub fn whole_value(&self) -> Option<Vec<u8>> {
        values::whole(self.index)
    }

    /// Returns the headers, in their order.
    ///
    /// # Panics
    /// If `needs` does not name the headers.
    pub fn headers(&self) -> Headers<'a> {
        Headers::of(asked_for(&self.batch.headers, "HEADERS"), self.index as usize)
    }

    /// Returns the last header of a name, which is the one that counts by Kafka's custom.
    ///
    /// # Panics
    /// If `needs` does not name the headers.
    pub fn header(&self, name: impl AsRef<[u8]>) -> Option<Header<'a>> {
        let (headers, name) = (self.headers(), name.as_ref());
        // Only the name of each is looked at.
        let nth = (0..headers.len()).rfind(|nth| same(headers.column.name(&headers.entries, *nth), name))?;
        Some(headers.at(nth))
    }
}

/// A header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name: UTF-8, unless the producer broke Kafka's rule.
    pub name: &'a [u8],
    /// Its value; `None` is null.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, in their order.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    column: &'a HeaderColumn,
    /// All of them.
    entries: std::ops::Range<usize>,
    /// Those that have not been seen, counted from the record's first.
    left: std::ops::Range<usize>,
}

impl<'a> Headers<'a> {
    fn of(column: &'a HeaderColumn, row: usize) -> Self {
        let entries = column.row(row);
        let left = 0..entries.len();
        Self { column, entries, left }
    }

    fn at(&self, nth: usize) -> Header<'a> {
        Header { name: self.column.name(&self.entries, nth), value: self.column.values.cell(self.entries.start + nth) }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left.next().map(|nth| self.at(nth))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl DoubleEndedIterator for Headers<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left.next_back().map(|nth| self.at(nth))
    }
}

impl ExactSizeIterator for Headers<'_> {}

fn asked_for<'a, T>(column: &'a Option<T>, name: &str) -> &'a T {
    match column {
        Some(column) => column,
        None => panic!("this record has no such column: return Columns::{name} from `needs`"),
    }
}
