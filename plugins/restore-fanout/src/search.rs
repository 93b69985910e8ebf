//! The search for a field in the values of a batch, of which little more is asked for than those before have needed.
//!
//! Most documents say early where they belong, and what is behind is not even copied. A value of which the beginning does not
//! tell is asked for as a whole. What is found does not depend on how much was asked for; only what it costs does.

use kafka_backup_transform::values;
use kafka_backup_transform::wit::Column;

use crate::json::{self, Found, No};

/// What is asked for at first, in what steps, and at most.
const FIRST_BYTES: usize = 256;
const STEP_BYTES: usize = 32;
/// As many are looked at at once.
const LEAST_BYTES: usize = 64;
const MOST_BYTES: usize = 4096;

/// Of how many values the beginning may be too little before more is asked for: one in so many.
const ONE_IN: usize = 32;

/// How soon what was needed is forgotten: by one in so many parts with each batch. Batches of several partitions come in turn.
const FORGOTTEN: usize = 64;

/// How far into values fields are found, or known not to be.
#[derive(Default)]
pub(crate) struct Reach {
    /// Up to here, in the batches so far; 0 before the first.
    pub(crate) bytes: usize,
}

/// Fields of the values of a batch.
pub(crate) struct Search<'a> {
    path: &'a [String],
    heads: Column,
    head_bytes: usize,
    /// How far into the values that were not cut fields were found, and into those that were and need not have been.
    reached: usize,
    behind: usize,
    /// How many those are: the values that were asked for as a whole, without those of which no beginning tells.
    cut: usize,
    /// How many beginnings tell that there is no field, and how much of them was there to tell it, which may be more than it
    /// took.
    lacking: usize,
    looked_through: usize,
}

impl<'a> Search<'a> {
    pub(crate) fn new(path: &'a [String], reach: &Reach) -> Self {
        // At first nothing is known.
        let needed = if reach.bytes == 0 { FIRST_BYTES } else { reach.bytes };
        Self::of_heads(path, needed.next_multiple_of(STEP_BYTES).clamp(LEAST_BYTES, MOST_BYTES))
    }

    /// Begins a search in the values of which so many bytes are asked for.
    fn of_heads(path: &'a [String], head_bytes: usize) -> Self {
        let heads = values::heads(head_bytes as u32);
        Self { path, heads, head_bytes, reached: 0, behind: 0, cut: 0, lacking: 0, looked_through: 0 }
    }

    /// Finds the field of a record and returns what `is` makes of it.
    #[inline(always)]
    pub(crate) fn field<T>(&mut self, record: u32, is: impl Fn(Found<'_>) -> Option<T>) -> Option<T> {
        let head = self.heads.cell(record as usize)?;
        match json::find(head, self.path) {
            Ok((found, end)) => {
                self.reached = self.reached.max(end);
                is(found)
            }
            Err(No::Ended) if head.len() == self.head_bytes => self.whole(record, is),
            Err(_) => {
                self.lacking += 1;
                self.looked_through = self.looked_through.max(head.len());
                None
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn whole<T>(&mut self, record: u32, is: impl Fn(Found<'_>) -> Option<T>) -> Option<T> {
        // A large value comes alone. Whether it fits into our memory must not hang on what those before have needed: all of it
        // is asked for only where the longest beginning does not tell.
        if self.heads.len() == 1 && self.head_bytes < MOST_BYTES {
            *self = Self::of_heads(self.path, MOST_BYTES);
            return self.field(record, is);
        }
        let value = values::whole(record)?;
        let found = json::find(&value, self.path);
        let end = found.map_or(value.len(), |(_, end)| end);
        if end <= MOST_BYTES {
            self.cut += 1;
            self.behind = self.behind.max(end);
        }
        is(found.ok()?.0)
    }
}

impl Reach {
    /// Returns what a batch has taught: how much to ask for next.
    pub(crate) fn learned(&self, search: &Search<'_>) -> Self {
        let counts = |values: usize| values * ONE_IN > search.heads.len();
        let needed = if counts(search.cut) { search.behind } else { search.reached };
        let needed = if counts(search.lacking) { needed.max(search.looked_through) } else { needed };
        Self { bytes: needed.max(self.bytes - self.bytes.div_ceil(FORGOTTEN)).min(MOST_BYTES) }
    }
}

#[cfg(test)]
mod tests;
