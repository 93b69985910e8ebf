//! Columns: reading a cell, adding one, and row numbers that mostly are all of them.

use crate::bytes::{put, same};
use crate::decimal::put_decimal;
use crate::wit::{Batch, Column, HeaderColumn};

/// How many entries of a dictionary are looked at: more than the different headers that one transform is likely to set,
/// and few enough that a row whose names are all new costs no more than its bytes.
pub(crate) const SEARCHED: usize = 16;

impl Batch {
    /// Returns the number of records.
    pub fn len(&self) -> u32 {
        // A call is some hundred kilobytes; the ends of its cells would overflow long before this does.
        self.offsets.len() as u32
    }

    /// Returns whether there is no record; the agent sends none such.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}

impl Column {
    /// Makes a column with room for so many cells and bytes, so that it need not grow.
    pub fn with_capacity(cells: usize, bytes: usize) -> Self {
        Self { ends: Vec::with_capacity(cells), nulls: Vec::new(), data: Vec::with_capacity(bytes) }
    }

    /// Returns the number of cells.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns a cell; `None` is null.
    ///
    /// # Panics
    /// If there is no such cell.
    #[inline(always)]
    pub fn cell(&self, cell: usize) -> Option<&[u8]> {
        let bytes = self.bytes(cell);
        // Only a cell without bytes can be null, so that the search is for tombstones and empty cells alone.
        if bytes.is_empty() && self.is_null(cell) { None } else { Some(bytes) }
    }

    #[cold]
    #[inline(never)]
    fn is_null(&self, cell: usize) -> bool {
        self.nulls.binary_search(&(cell as u32)).is_ok()
    }

    /// Returns the bytes of a cell; none for null.
    #[inline(always)]
    pub(crate) fn bytes(&self, cell: usize) -> &[u8] {
        let end = self.ends[cell] as usize;
        let start = if cell == 0 { 0 } else { self.ends[cell - 1] as usize };
        &self.data[start..end]
    }

    /// Adds a cell; `None` is null.
    #[inline]
    pub fn push(&mut self, cell: Option<&[u8]>) {
        match cell {
            Some(bytes) => put(&mut self.data, bytes),
            None => self.nulls.push(self.ends.len() as u32),
        }
        self.ends.push(self.data.len() as u32);
    }

    /// Adds a cell that is a number as decimal text.
    #[inline]
    pub fn push_decimal(&mut self, number: impl Into<i64>) {
        put_decimal(&mut self.data, number.into());
        self.ends.push(self.data.len() as u32);
    }

    /// Leaves only the first cells.
    pub(crate) fn truncate(&mut self, cells: usize) {
        self.ends.truncate(cells);
        self.data.truncate(self.ends.last().map_or(0, |end| *end as usize));
        while self.nulls.last().is_some_and(|null| *null as usize >= cells) {
            self.nulls.pop();
        }
    }

    /// Returns where a name is, and adds it if it is new. `guess` is looked at first: in most batches the headers of
    /// a row are those of the row before. Of a long dictionary only the beginning is searched, lest names that are made
    /// up per record cost more and more; an entry twice does no harm.
    pub(crate) fn intern(&mut self, name: &[u8], guess: usize) -> usize {
        if guess < self.len() && same(self.bytes(guess), name) {
            return guess;
        }
        if let Some(known) = (0..self.len().min(SEARCHED)).find(|entry| same(self.bytes(*entry), name)) {
            return known;
        }
        self.push(Some(name));
        self.len() - 1
    }
}

impl HeaderColumn {
    /// Returns where the headers of a row are in `values`, and in the order of all headers.
    pub fn row(&self, row: usize) -> std::ops::Range<usize> {
        match &self.row_ends {
            Some(ends) => {
                let start = if row == 0 { 0 } else { ends[row - 1] as usize };
                start..ends[row] as usize
            }
            None => {
                let each = self.name_indexes.len();
                each * row..each * (row + 1)
            }
        }
    }

    /// Returns the name of the `nth` header of a row whose headers are `entries`.
    pub(crate) fn name(&self, entries: &std::ops::Range<usize>, nth: usize) -> &[u8] {
        let at = if self.row_ends.is_some() { entries.start + nth } else { nth };
        self.names.bytes(self.name_indexes[at] as usize)
    }

    /// Says for each row what is said once for all of them.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn spelled(mut self) -> Self {
        let each = self.name_indexes.len();
        if self.row_ends.is_none() && each > 0 {
            let rows = self.values.len() / each;
            self.row_ends = Some((1..=rows).map(|row| (row * each) as u32).collect());
            self.name_indexes = self.name_indexes.repeat(rows);
        }
        self
    }

    /// Says once what all rows have alike, if they do: as many headers, of the same names.
    pub(crate) fn joined(mut self) -> Self {
        let Some(ends) = &self.row_ends else { return self };
        let each = ends.first().map_or(0, |end| *end as usize);
        let (first, _) = self.name_indexes.split_at(each);
        let is_alike = ends.iter().zip(1..).all(|(end, row)| *end as usize == each * row)
            && (each == 0 || self.name_indexes.chunks_exact(each).all(|row| row == first));
        if is_alike {
            self.row_ends = None;
            self.name_indexes.truncate(each);
        }
        self
    }
}

/// Ascending row numbers that become a list only when one is left out or comes twice.
#[derive(Default)]
pub(crate) struct Rows {
    count: u32,
    list: Option<Vec<u32>>,
}

impl Rows {
    pub(crate) fn push(&mut self, row: u32) {
        match &mut self.list {
            Some(list) => list.push(row),
            None if row == self.count => {}
            None => self.list = Some((0..self.count).chain([row]).collect()),
        }
        self.count += 1;
    }

    pub(crate) fn last(&self) -> Option<u32> {
        match &self.list {
            Some(list) => list.last().copied(),
            None => self.count.checked_sub(1),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        let all = if self.list.is_none() { 0..self.count } else { 0..0 };
        all.chain(self.list.iter().flatten().copied())
    }

    /// Returns the list, or `None` for all of 0 … total-1.
    pub(crate) fn finish(self, total: u32) -> Option<Vec<u32>> {
        match self.list {
            None if self.count == total => None,
            None => Some((0..self.count).collect()),
            list => list,
        }
    }
}
