//! What an answer makes of headers: first some are taken away, then others are put behind what is left. Pure.
//!
//! Headers stay as they are on the wire; those of a row that nothing happens to stay where they are.

use std::iter::Peekable;
use std::slice::Iter;

use super::{Checked, Wrong, ascending, counted, rising};
use crate::batch::records::rows::{Derived, Row, Rows, put_header};
use crate::plugin::wit::{HeaderColumn, HeaderEdit, Removal};

/// The most removals of one answer. One names a header or all of them; each is looked at for each row.
const MOST_REMOVALS: usize = 256;

/// The most steps over headers that one answer may cost: each compares two names, or sixteen bytes of two long ones. That
/// is about a second, and no deadline is counted meanwhile. An honest answer takes a thousandth.
const MOST_STEPS: u64 = 1 << 28;

/// Bytes of the lengths of a header on the wire, as most are.
const LENGTHS_BYTES: usize = 3;

/// Counts steps over headers.
struct Work {
    left: u64,
}

impl Work {
    /// Takes the steps of comparing a name with those of `headers` headers.
    fn compare(&mut self, name: &[u8], headers: u32) -> Result<(), Wrong> {
        let each = 1 + name.len() as u64 / 16;
        let left = self.left.checked_sub(u64::from(headers).saturating_mul(each));
        self.left = left.ok_or("it takes away, or names, too many headers of rows that have too many")?;
        Ok(())
    }
}

/// Gives rows the headers of an edit, which are `most` bytes at most; `rows` are those that were sent.
pub(super) fn edited(
    rows: &Rows,
    edit: HeaderEdit,
    most: usize,
    derived: &mut Derived,
    made: &mut [Row],
) -> Result<(), Wrong> {
    let HeaderEdit { remove, add } = edit;
    if remove.len() > MOST_REMOVALS {
        return Err(format!("`remove` has {} entries, the most is {MOST_REMOVALS}", remove.len()));
    }
    let mut removals = remove.iter().map(|one| Removing::new(one, made.len())).collect::<Result<Vec<_>, _>>()?;
    let mut adding = add.map(|column| Adding::new(column, made.len(), most)).transpose()?;
    let mut work = Work { left: MOST_STEPS };
    let there = made.iter().map(|row| rows.header_bytes(row.headers).len()).sum::<usize>();
    let added = adding.as_ref().map_or(0, Adding::bytes);
    let mut wire = Vec::with_capacity(there.saturating_add(added).min(most));
    let mut written = Vec::with_capacity(made.len());
    let mut took = Taken::default();
    // What is taken from all rows alike, as most plugins do, is collected once.
    let is_alike = removals.iter().all(|removal| removal.rows.is_none());
    removals.iter_mut().filter(|_| is_alike).for_each(|removal| removal.take(0, &mut took));
    for (at, row) in made.iter().enumerate() {
        let start = wire.len();
        if !is_alike {
            took.clear();
            removals.iter_mut().for_each(|removal| removal.take(at, &mut took));
        }
        let mut count = took.leave(rows, row, &mut work, &mut wire)?;
        if let Some(adding) = &mut adding {
            count = adding
                .put(at, rows, row, &mut work, &mut wire)?
                .checked_add(count)
                .ok_or("a row has too many headers")?;
        }
        fits(wire.len(), most)?;
        written.push((count, start..wire.len()));
    }
    let buffer = derived.add(wire.into());
    for (row, (count, range)) in made.iter_mut().zip(written) {
        row.headers = buffer.headers(count, range);
    }
    Ok(())
}

fn fits(bytes: usize, most: usize) -> Result<(), Wrong> {
    if bytes <= most { Ok(()) } else { Err(format!("the headers are more than {most} bytes")) }
}

/// What is taken from one row.
#[derive(Default)]
struct Taken<'a> {
    all: bool,
    names: Vec<&'a [u8]>,
}

impl Taken<'_> {
    fn clear(&mut self) {
        self.all = false;
        self.names.clear();
    }

    /// Writes what is left of a row's headers, as it is; returns how many they are.
    fn leave(&self, rows: &Rows, row: &Row, work: &mut Work, wire: &mut Vec<u8>) -> Result<u32, Wrong> {
        let count = row.headers.count;
        if self.all || count == 0 {
            return Ok(0);
        }
        let bytes = rows.header_bytes(row.headers);
        if self.names.is_empty() {
            wire.extend_from_slice(bytes);
            return Ok(count);
        }
        self.names.iter().try_for_each(|name| work.compare(name, count))?;
        // Those that stay are copied in runs.
        let (mut left, mut run, mut at) = (0, 0, 0);
        let mut headers = rows.headers(row.headers);
        while let Some((name, _)) = headers.next() {
            let next = headers.position();
            if self.names.contains(&name) {
                wire.extend_from_slice(&bytes[run..at]);
                run = next;
            } else {
                left += 1;
            }
            at = next;
        }
        wire.extend_from_slice(&bytes[run..]);
        Ok(left)
    }
}

/// A removal, on its way along the rows.
struct Removing<'a> {
    name: Option<&'a [u8]>,
    rows: Option<Peekable<Iter<'a, u32>>>,
}

impl<'a> Removing<'a> {
    fn new(removal: &'a Removal, count: usize) -> Result<Self, Wrong> {
        if let Some(rows) = &removal.rows {
            ascending("remove", "rows", rows, count)?;
        }
        let rows = removal.rows.as_ref().map(|rows| rows.iter().peekable());
        Ok(Self { name: removal.name.as_deref(), rows })
    }

    fn take(&mut self, row: usize, taken: &mut Taken<'a>) {
        let is_meant = self.rows.as_mut().is_none_or(|rows| rows.next_if_eq(&&(row as u32)).is_some());
        match self.name {
            _ if !is_meant => {}
            None => taken.all = true,
            Some(name) => taken.names.push(name),
        }
    }
}

/// Headers to be added, row by row.
struct Adding {
    row_ends: Vec<u32>,
    names: Checked,
    /// Whether each name is text, as Kafka's are.
    is_text: Vec<bool>,
    name_indexes: Vec<u32>,
    values: Checked,
    /// The most bytes of headers that the answer may have.
    most: usize,
    /// The next header, and where its value begins.
    next: usize,
    start: usize,
}

impl Adding {
    fn new(column: HeaderColumn, count: usize, most: usize) -> Result<Self, Wrong> {
        let HeaderColumn { row_ends, names, name_indexes, values } = column;
        let names = Checked::new("header names", names)?;
        let values = Checked::new("header values", values)?;
        if let Some(null) = names.0.nulls.first() {
            return Err(format!("the name of headers, cell {null}, is null"));
        }
        counted("headers", row_ends.len(), count)?;
        rising("headers", "row-ends", &row_ends, name_indexes.len())?;
        if values.len() != name_indexes.len() {
            return Err(format!("{} headers have {} values", name_indexes.len(), values.len()));
        }
        if let Some(wrong) = name_indexes.iter().find(|index| **index as usize >= names.len()) {
            return Err(format!("`name-indexes` picks name {wrong} of {}", names.len()));
        }
        let is_text = (0..names.len()).map(|cell| std::str::from_utf8(&names.0.data[names.range(cell)]).is_ok());
        let is_text = is_text.collect();
        Ok(Self { row_ends, names, is_text, name_indexes, values, most, next: 0, start: 0 })
    }

    /// Returns about how many bytes all of them are on the wire.
    fn bytes(&self) -> usize {
        let named = self.name_indexes.iter().map(|index| self.names.range(*index as usize).len() + LENGTHS_BYTES);
        named.fold(self.values.0.data.len(), usize::saturating_add)
    }

    /// Writes the headers of the next row, which comes from `row`; returns how many they are.
    fn put(&mut self, at: usize, rows: &Rows, row: &Row, work: &mut Work, wire: &mut Vec<u8>) -> Result<u32, Wrong> {
        let own = self.next..self.row_ends[at] as usize;
        for header in own.clone() {
            let index = self.name_indexes[header] as usize;
            let name = &self.names.0.data[self.names.range(index)];
            // A producer may have broken the rule; what it wrote may stay.
            if !self.is_text[index] {
                work.compare(name, row.headers.count)?;
                if !rows.headers(row.headers).any(|(brought, _)| brought == name) {
                    return Err(format!("the name of header {header} is not UTF-8"));
                }
            }
            let column = &self.values.0;
            let end = column.ends[header] as usize;
            let value = &column.data[self.start..end];
            // One long name of the dictionary can be meant a million times by one row.
            fits(wire.len() + name.len() + value.len(), self.most)?;
            // Only a cell without bytes can be null.
            let is_null = value.is_empty() && column.nulls.binary_search(&(header as u32)).is_ok();
            put_header(wire, name, (!is_null).then_some(value));
            self.start = end;
        }
        self.next = own.end;
        Ok((own.end - own.start) as u32)
    }
}
