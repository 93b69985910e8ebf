//! The answer as it is made: rows in order, and edits only where there are some.
//!
//! Each part begins to exist with the first row that needs it. So a filter answers with row numbers alone, a transform
//! that changes nothing with nothing, and no part costs an allocation per record.

use crate::Record;
use crate::bytes::same;
use crate::column::{Rows, SEARCHED};
use crate::wit::{self, Batch, Column, HeaderColumn, HeaderEdit, Patch, Removal, Route};

/// The rows that a batch becomes.
pub struct Output {
    inputs: u32,
    /// Bytes to reserve for keys and values that change: as many as came in.
    key_bytes: usize,
    value_bytes: usize,
    rows: u32,
    source: Rows,
    topics: Option<Route>,
    partitions: Option<Vec<i32>>,
    timestamps: Option<Vec<i64>>,
    keys: Option<Cells>,
    values: Option<Cells>,
    removals: Vec<(Option<Vec<u8>>, Rows)>,
    headers: Option<Added>,
}

impl Output {
    /// Begins the answer to a batch.
    pub fn new(batch: &Batch) -> Self {
        let bytes = |column: &Option<Column>| column.as_ref().map_or(0, |column| column.data.len());
        Self {
            inputs: batch.len(),
            key_bytes: bytes(&batch.keys),
            value_bytes: bytes(&batch.values),
            rows: 0,
            source: Rows::default(),
            topics: None,
            partitions: None,
            timestamps: None,
            keys: None,
            values: None,
            removals: Vec::new(),
            headers: None,
        }
    }

    /// Adds a row that is the record as it was, for edits to be made on.
    pub fn emit<'a>(&'a mut self, record: Record<'a>) -> Row<'a> {
        debug_assert!(self.source.last().is_none_or(|last| last <= record.index()), "records come in order");
        self.source.push(record.index());
        self.rows += 1;
        if let Some(timestamps) = &mut self.timestamps {
            timestamps.push(record.timestamp());
        }
        Row { row: self.rows - 1, record, out: self }
    }

    /// Returns the number of rows so far.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Ends the answer.
    pub fn finish(self) -> wit::Output {
        let rows = self.rows;
        let topics = self.topics.map(|mut route| {
            route.indexes.resize(rows as usize, 0);
            route
        });
        let partitions = self.partitions.map(|mut partitions| {
            partitions.resize(rows as usize, -1);
            partitions
        });
        let removal = |(name, at): (Option<Vec<u8>>, Rows)| Removal { name, rows: at.finish(rows) };
        let headers = (self.headers.is_some() || !self.removals.is_empty()).then(|| HeaderEdit {
            remove: self.removals.into_iter().map(removal).collect(),
            add: self.headers.map(|added| added.finish(rows)),
        });
        wit::Output {
            source: self.source.finish(self.inputs),
            topics,
            partitions,
            timestamps: self.timestamps,
            keys: self.keys.map(|cells| cells.finish(rows)),
            values: self.values.map(|cells| cells.finish(rows)),
            headers,
        }
    }
}

/// A row of the answer: the record as it was, until an edit is made.
///
/// Edits happen in the order of the calls; of two that set one thing the later holds.
pub struct Row<'a> {
    out: &'a mut Output,
    record: Record<'a>,
    row: u32,
}

impl Row<'_> {
    /// Sets the key; `None` is null.
    pub fn key(self, key: Option<&[u8]>) -> Self {
        let (rows, bytes) = (self.out.inputs, self.out.key_bytes);
        self.out.keys.get_or_insert_with(|| Cells::new(rows, bytes)).set(self.row, key);
        self
    }

    /// Sets the value; `None` is null.
    pub fn value(self, value: Option<&[u8]>) -> Self {
        let (rows, bytes) = (self.out.inputs, self.out.value_bytes);
        self.out.values.get_or_insert_with(|| Cells::new(rows, bytes)).set(self.row, value);
        self
    }

    /// Adds a header behind those that are there, of the same name too. Names must be UTF-8.
    pub fn add_header(self, name: impl AsRef<[u8]>, value: Option<&[u8]>) -> Self {
        let rows = self.out.inputs;
        self.out.headers.get_or_insert_with(|| Added::new(rows)).add(self.row, name.as_ref(), value);
        self
    }

    /// Removes all headers of a name and adds one. Reads none, so that the headers need not be asked for.
    pub fn set_header(self, name: impl AsRef<[u8]>, value: Option<&[u8]>) -> Self {
        let name = name.as_ref();
        self.remove_header(name).add_header(name, value)
    }

    /// Removes all headers of a name.
    pub fn remove_header(self, name: impl AsRef<[u8]>) -> Self {
        self.remove(Some(name.as_ref()))
    }

    /// Removes all headers.
    pub fn clear_headers(self) -> Self {
        self.remove(None)
    }

    /// Sets the timestamp: milliseconds since the epoch, not negative.
    pub fn timestamp(self, timestamp_ms: i64) -> Self {
        let (row, batch) = (self.row as usize, self.record.batch());
        let source = &self.out.source;
        let timestamps = self.out.timestamps.get_or_insert_with(|| {
            // All rows before have their record's own, and so has this one until the line below.
            source.iter().map(|record| batch.timestamps[record as usize]).collect()
        });
        timestamps[row] = timestamp_ms;
        self
    }

    /// Sends the row to a topic of the target, by its name there. `targets` must name it.
    pub fn topic(self, topic: &str) -> Self {
        let route = self.out.topics.get_or_insert_with(|| Route { names: Vec::new(), indexes: Vec::new() });
        let known = route.names.iter().position(|name| same(name.as_bytes(), topic.as_bytes()));
        let index = known.unwrap_or_else(|| {
            route.names.push(topic.to_owned());
            route.names.len() - 1
        });
        put(&mut route.indexes, self.row, 0, index as u32 + 1);
        self
    }

    /// Sends the row to a partition of the target.
    pub fn partition(self, partition: i32) -> Self {
        put(self.out.partitions.get_or_insert_default(), self.row, -1, partition);
        self
    }

    fn remove(self, name: Option<&[u8]>) -> Self {
        if let Some(added) = &mut self.out.headers {
            added.take_back(self.row, name);
        }
        let removals = &mut self.out.removals;
        // As in a dictionary of names: to search all of them would make names that are made up per record quadratic, and
        // two removals of one name do what one does.
        let is_known = |(known, _): &(Option<Vec<u8>>, Rows)| match (known, name) {
            (Some(known), Some(name)) => same(known, name),
            (known, name) => known.is_none() && name.is_none(),
        };
        let known = removals.iter().take(SEARCHED).position(is_known);
        let at = known.unwrap_or_else(|| {
            removals.push((name.map(<[u8]>::to_vec), Rows::default()));
            removals.len() - 1
        });
        if removals[at].1.last() != Some(self.row) {
            removals[at].1.push(self.row);
        }
        self
    }
}

/// Sets the entry of the last row, and fills those of rows before that have none.
fn put<T: Copy>(list: &mut Vec<T>, row: u32, unset: T, entry: T) {
    list.resize(row as usize, unset);
    list.push(entry);
}

/// Cells for some rows.
struct Cells {
    rows: Rows,
    column: Column,
}

impl Cells {
    fn new(rows: u32, bytes: usize) -> Self {
        Self { rows: Rows::default(), column: Column::with_capacity(rows as usize, bytes) }
    }

    fn set(&mut self, row: u32, cell: Option<&[u8]>) {
        if self.rows.last() == Some(row) {
            self.column.truncate(self.column.len() - 1);
        } else {
            self.rows.push(row);
        }
        self.column.push(cell);
    }

    fn finish(self, total: u32) -> Patch {
        Patch { rows: self.rows.finish(total), cells: self.column }
    }
}

/// Headers that rows get, all in one column.
struct Added {
    row_ends: Vec<u32>,
    names: Column,
    name_indexes: Vec<u32>,
    values: Column,
    /// Where the name of the next header probably is.
    guess: usize,
}

impl Added {
    fn new(rows: u32) -> Self {
        let (names, values) = (Column::with_capacity(4, 64), Column::with_capacity(rows as usize, 16 * rows as usize));
        let row_ends = Vec::with_capacity(rows as usize);
        let name_indexes = Vec::with_capacity(rows as usize);
        Self { row_ends, names, name_indexes, values, guess: 0 }
    }

    /// Closes all rows before this one.
    fn reach(&mut self, row: u32) {
        self.row_ends.resize(row as usize, self.name_indexes.len() as u32);
    }

    fn add(&mut self, row: u32, name: &[u8], value: Option<&[u8]>) {
        self.reach(row);
        let index = self.names.intern(name, self.guess);
        self.guess = if index + 1 < self.names.len() { index + 1 } else { 0 };
        self.name_indexes.push(index as u32);
        self.values.push(value);
    }

    /// Removes what the row itself was given before: a removal takes that as well.
    fn take_back(&mut self, row: u32, name: Option<&[u8]>) {
        self.reach(row);
        let start = self.row_ends.last().map_or(0, |end| *end as usize);
        let goes = |index: u32| name.is_none_or(|name| same(self.names.bytes(index as usize), name));
        if !self.name_indexes[start..].iter().any(|index| goes(*index)) {
            return;
        }
        let stays: Vec<(u32, Option<Vec<u8>>)> = (start..self.name_indexes.len())
            .filter(|entry| !goes(self.name_indexes[*entry]))
            .map(|entry| (self.name_indexes[entry], self.values.cell(entry).map(<[u8]>::to_vec)))
            .collect();
        self.name_indexes.truncate(start);
        self.values.truncate(start);
        for (index, value) in stays {
            self.name_indexes.push(index);
            self.values.push(value.as_deref());
        }
    }

    fn finish(mut self, total: u32) -> HeaderColumn {
        self.reach(total);
        let Self { row_ends, names, name_indexes, values, .. } = self;
        HeaderColumn { row_ends: Some(row_ends), names, name_indexes, values }.joined()
    }
}
