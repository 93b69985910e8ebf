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
    let adding = add.map(|column| Adding::new(column, made.len(), most)).transpose()?;
    let mut work = Work { left: MOST_STEPS };
    let mut wire = Vec::new();
    let mut written = Vec::with_capacity(made.len());
    for (at, row) in made.iter().enumerate() {
        let (start, mut count) = (wire.len(), 0);
        let mut took = Taken::default();
        removals.iter_mut().for_each(|removal| removal.take(at, &mut took));
        if took.names.is_empty() && !took.all {
            wire.extend_from_slice(rows.header_bytes(row.headers));
            count = row.headers.count;
        } else if !took.all {
            took.names.iter().try_for_each(|name| work.compare(name, row.headers.count))?;
            for (name, value) in rows.headers(row.headers).filter(|(name, _)| !took.names.contains(name)) {
                put_header(&mut wire, name, value);
                count += 1;
            }
        }
        if let Some(adding) = &adding {
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

/// Headers to be added.
struct Adding {
    row_ends: Vec<u32>,
    names: Checked,
    /// Whether each name is text, as Kafka's are.
    is_text: Vec<bool>,
    name_indexes: Vec<u32>,
    values: Checked,
    /// Which values are null, one for each header.
    is_null: Vec<bool>,
    /// The most bytes of headers that the answer may have.
    most: usize,
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
        let is_null = values.ranges().map(|range| range.is_none()).collect();
        Ok(Self { row_ends, names, is_text, name_indexes, values, is_null, most })
    }

    /// Writes the headers of a row, which comes from `row`; returns how many they are.
    fn put(&self, at: usize, rows: &Rows, row: &Row, work: &mut Work, wire: &mut Vec<u8>) -> Result<u32, Wrong> {
        let start = at.checked_sub(1).map_or(0, |before| self.row_ends[before]);
        let own = start..self.row_ends[at];
        for header in own.clone() {
            let header = header as usize;
            let index = self.name_indexes[header] as usize;
            let name = &self.names.0.data[self.names.range(index)];
            // A producer may have broken the rule; what it wrote may stay.
            if !self.is_text[index] {
                work.compare(name, row.headers.count)?;
                if !rows.headers(row.headers).any(|(brought, _)| brought == name) {
                    return Err(format!("the name of header {header} is not UTF-8"));
                }
            }
            let value = &self.values.0.data[self.values.range(header)];
            // One long name of the dictionary can be meant a million times by one row.
            fits(wire.len() + name.len() + value.len(), self.most)?;
            put_header(wire, name, (!self.is_null[header]).then_some(value));
        }
        Ok(own.end - own.start)
    }
}
