//! What an answer makes of headers: first some are taken away, then others are put behind what is left. Pure.
//!
//! Headers stay as they are on the wire; those of a row that nothing happens to stay where they are.

use std::iter::Peekable;
use std::ops::Range;
use std::slice::Iter;

use super::{Checked, Wrong, ascending, counted, rising};
use crate::batch::records::rows::{Derived, Row, Rows, put_name, write_length};
use crate::plugin::wit::{HeaderColumn, HeaderEdit, Removal};

/// The most removals of one answer. One names a header or all of them; each is looked at for each row.
const MOST_REMOVALS: usize = 256;

/// The most steps over headers that one answer may cost: each compares two names, or sixteen bytes of two long ones. That
/// is about a second, and no deadline is counted meanwhile. An honest answer takes a thousandth.
const MOST_STEPS: u64 = 1 << 28;

/// The most names that a dictionary may have, unless as many headers are named: what a plugin was sent, and answers as it
/// came, has no more. Names may be empty and are looked at one by one, so a bound of their bytes does not bound them.
pub(super) const MOST_NAMES: usize = 1 << 20;

/// Bytes of the length of a value on the wire, at most.
const LENGTH_BYTES: usize = 5;

/// Names and values of headers are short: as many bytes are copied at once, without a call, and what is too much of them is
/// written over by what follows.
pub(super) const BLOCK_BYTES: usize = 32;

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
    let added = adding.as_ref().map_or(0, |adding| adding.bytes);
    let mut wire = Vec::with_capacity(there.min(most) + added);
    let buffer = derived.next_buffer();
    let mut took = Taken::default();
    // What is taken from all rows alike, as most plugins do, is collected once.
    let is_alike = removals.iter().all(|removal| removal.rows.is_none());
    removals.iter_mut().filter(|_| is_alike).for_each(|removal| removal.take(0, &mut took));
    for (at, row) in made.iter_mut().enumerate() {
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
        row.headers = buffer.headers(count, start..wire.len());
    }
    derived.add(wire.into());
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
    /// Where each row's end; `None`: each row has all of `name_indexes`.
    row_ends: Option<Vec<u32>>,
    names: Names,
    name_indexes: Vec<u32>,
    values: Checked,
    /// The room that all of them need.
    bytes: usize,
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
        // How often the names are meant.
        let times = match &row_ends {
            Some(ends) => {
                counted("headers", ends.len(), count)?;
                rising("headers", "row-ends", ends, name_indexes.len())?;
                1
            }
            None => count,
        };
        let headers = name_indexes.len().saturating_mul(times);
        if values.len() != headers {
            return Err(format!("{headers} headers have {} values", values.len()));
        }
        if let Some(wrong) = name_indexes.iter().find(|index| **index as usize >= names.len()) {
            return Err(format!("`name-indexes` picks name {wrong} of {}", names.len()));
        }
        let most_names = MOST_NAMES.max(name_indexes.len());
        if names.len() > most_names {
            return Err(format!("`header names` has {} cells, the most is {most_names}", names.len()));
        }
        // They are written once more below, those that no header has as well.
        fits(names.0.data.len(), most)?;
        let names = Names::new(names);
        // One long name of the dictionary can be meant a million times.
        let named = name_indexes.iter().map(|index| names.written(*index).len()).fold(0, usize::saturating_add);
        let bytes = named.saturating_mul(times).saturating_add(values.0.data.len());
        fits(bytes, most)?;
        let bytes = bytes + LENGTH_BYTES * headers + BLOCK_BYTES;
        Ok(Self { row_ends, names, name_indexes, values, bytes, most, next: 0, start: 0 })
    }

    /// Writes the headers of the next row, which comes from `row`; returns how many they are.
    #[inline]
    fn put(&mut self, at: usize, rows: &Rows, row: &Row, work: &mut Work, wire: &mut Vec<u8>) -> Result<u32, Wrong> {
        let (own, named) = match &self.row_ends {
            Some(ends) => (self.next..ends[at] as usize, self.next..ends[at] as usize),
            None => (self.next..self.next + self.name_indexes.len(), 0..self.name_indexes.len()),
        };
        let (indexes, ends) = (&self.name_indexes[named], &self.values.0.ends[own.clone()]);
        if own.is_empty() {
            return Ok(0);
        }
        let (names, values) = (&self.names, &self.values.0);
        // Room for all of them is made at once, and what is too much given back.
        let name_bytes: usize = indexes.iter().map(|index| names.written(*index).len()).sum();
        let value_bytes = ends.last().map_or(self.start, |end| *end as usize) - self.start;
        let begin = wire.len();
        fits(begin + name_bytes + value_bytes, self.most)?;
        wire.resize(begin + name_bytes + value_bytes + LENGTH_BYTES * own.len() + BLOCK_BYTES, 0);
        let (out, mut written) = (&mut wire[begin..], 0);
        for ((index, end), header) in indexes.iter().zip(ends).zip(own.start..) {
            if !names.not_text.is_empty() {
                names.check(*index, header, rows, row, work)?;
            }
            let value = self.start..*end as usize;
            self.start = value.end;
            written = write_block(out, written, &names.wire, names.written(*index));
            // Only a cell without bytes can be null.
            let is_null = value.is_empty() && values.nulls.binary_search(&(header as u32)).is_ok();
            written = write_length(out, written, (!is_null).then_some(value.len()));
            written = write_block(out, written, &values.data, value);
        }
        wire.truncate(begin + written);
        self.next = own.end;
        Ok(own.len() as u32)
    }
}

/// The names of headers, as they are on the wire.
struct Names {
    /// One after the other, and a block behind them.
    wire: Vec<u8>,
    /// Where each begins, and where the last ends.
    places: Vec<usize>,
    /// The numbers of those that are not text, as Kafka's are; none as a rule.
    not_text: Vec<u32>,
    column: Checked,
}

impl Names {
    fn new(column: Checked) -> Self {
        let (mut wire, mut places, mut not_text) = (Vec::new(), Vec::with_capacity(column.len() + 1), Vec::new());
        places.push(0);
        for cell in 0..column.len() {
            let name = &column.0.data[column.range(cell)];
            put_name(&mut wire, name);
            places.push(wire.len());
            if std::str::from_utf8(name).is_err() {
                not_text.push(cell as u32);
            }
        }
        wire.extend([0; BLOCK_BYTES]);
        Self { wire, places, not_text, column }
    }

    /// Returns where a name lies.
    #[inline]
    fn written(&self, index: u32) -> Range<usize> {
        self.places[index as usize]..self.places[index as usize + 1]
    }

    /// Checks that a name which is not text is one of `row`'s: a producer may have broken the rule, and what it wrote may
    /// stay.
    #[cold]
    fn check(&self, index: u32, header: usize, rows: &Rows, row: &Row, work: &mut Work) -> Result<(), Wrong> {
        if self.not_text.binary_search(&index).is_err() {
            return Ok(());
        }
        let name = &self.column.0.data[self.column.range(index as usize)];
        work.compare(name, row.headers.count)?;
        if rows.headers(row.headers).any(|(brought, _)| brought == name) {
            return Ok(());
        }
        Err(format!("the name of header {header} is not UTF-8"))
    }
}

/// Writes `bytes[range]` at `at`, and perhaps more behind it; returns where it ends.
#[inline(always)]
fn write_block(out: &mut [u8], at: usize, bytes: &[u8], range: Range<usize>) -> usize {
    let (length, end) = (range.len(), at + range.len());
    let block = bytes[range.start..].first_chunk::<BLOCK_BYTES>();
    match (block, out[at..].first_chunk_mut::<BLOCK_BYTES>()) {
        (Some(block), Some(to)) if length <= BLOCK_BYTES => *to = *block,
        _ => out[at..end].copy_from_slice(&bytes[range]),
    }
    end
}
