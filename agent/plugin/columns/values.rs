//! The values of the records of a call, for a plugin that asks for them, or for how they begin, while it runs.
//!
//! Pure. The bytes stay where the rows have them until they are asked for, and what is asked is checked.

use std::ops::Range;

use super::super::wit::{Column, Columns};
use super::Cells;
use crate::batch::records::rows::{Field, Rows};

/// Bytes of a beginning that are copied at once.
const BLOCK_BYTES: usize = 32;

/// Values that can be asked for.
#[derive(Debug)]
pub(in crate::plugin) struct Values {
    /// None but their buffers.
    rows: Rows,
    fields: Vec<Field>,
}

impl Values {
    /// Returns those of `range` of the rows, if a plugin that needs these columns may ask for them.
    pub(in crate::plugin) fn of(rows: &Rows, range: Range<usize>, needs: Columns) -> Option<Self> {
        needs.contains(Columns::VALUES_ON_DEMAND).then(|| Self {
            rows: rows.derive().finish(Vec::new()),
            fields: rows.rows()[range].iter().map(|row| row.value).collect(),
        })
    }

    /// Returns the first `most` bytes of each.
    pub(in crate::plugin) fn heads(&self, most: u32) -> Column {
        let most = most as usize;
        let bytes = self.fields.iter().map(|field| self.rows.field_bytes(*field).min(most)).sum();
        let mut column = Cells::with_capacity(self.fields.len(), bytes);
        for field in &self.fields {
            match self.rows.bytes(*field) {
                // So many bytes are copied without a call, which for few costs more than they do.
                Some(value) if value.len() >= most => {
                    let (blocks, rest) = value[..most].as_chunks::<BLOCK_BYTES>();
                    blocks.iter().for_each(|block| column.0.data.extend_from_slice(block));
                    if !rest.is_empty() {
                        column.0.data.extend_from_slice(rest);
                    }
                    column.push_end();
                }
                value => column.push(value),
            }
        }
        column.0
    }

    /// Returns the value of a record.
    ///
    /// # Errors
    /// That there is no such record.
    pub(in crate::plugin) fn value(&self, record: u32) -> Result<Option<Vec<u8>>, String> {
        match self.fields.get(record as usize) {
            Some(field) => Ok(self.rows.bytes(*field).map(<[u8]>::to_vec)),
            None => Err(format!("it asked for the value of record {record} of {}", self.fields.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::records::tests::records;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_asked_for_is_the_values_and_how_they_begin(
            records in records(),
            start: prop::sample::Index,
            most in prop_oneof![0_u32..100, Just(u32::MAX)],
            other: u32,
        ) {
            let rows = Rows::from_records(&records).expect("small");
            let start = if records.is_empty() { 0 } else { start.index(records.len()) };
            let sent = &records[start..];
            let values = Values::of(&rows, start..records.len(), Columns::VALUES_ON_DEMAND).expect("they are needed");
            let heads = values.heads(most);
            let mut from = 0;
            for (at, record) in sent.iter().enumerate() {
                let cell = &heads.data[from..heads.ends[at] as usize];
                from = heads.ends[at] as usize;
                let value = record.value.as_deref();
                prop_assert_eq!(cell, &value.unwrap_or_default()[..value.map_or(0, <[u8]>::len).min(most as usize)]);
                prop_assert_eq!(heads.nulls.contains(&(at as u32)), value.is_none());
                prop_assert_eq!(values.value(at as u32), Ok(value.map(<[u8]>::to_vec)));
            }
            prop_assert_eq!((heads.ends.len(), heads.data.len()), (sent.len(), from));
            for none in [sent.len() as u32, other.max(sent.len() as u32), u32::MAX] {
                let said = format!("it asked for the value of record {none} of {}", sent.len());
                prop_assert_eq!(values.value(none), Err(said));
            }
        }
    }

    #[test]
    fn values_are_only_for_who_needs_them() {
        let needs = Columns::all() ^ Columns::VALUES_ON_DEMAND;
        assert!(Values::of(&Rows::default(), 0..0, needs).is_none());
    }
}
