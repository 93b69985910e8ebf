//! Values that do not come with a batch but are asked for, or how they begin: for a plugin whose `needs` name
//! `VALUES_ON_DEMAND`, while it answers a batch.
//!
//! A [`Transform`](crate::Transform) has [`Record::value_head`](crate::Record::value_head) and
//! [`Record::whole_value`](crate::Record::whole_value) instead. Natively (in tests) [`testing`](crate::testing) provides them.

use crate::wit::Column;

/// Returns the first bytes of the values of all records of the batch, `most_bytes` at most of each; null stays null. A cell
/// of so many bytes may be cut, in the midst of a character too; a shorter one is whole.
///
/// # Panics
/// If the values are not on demand.
pub fn heads(most_bytes: u32) -> Column {
    imports::value_heads(most_bytes)
}

/// Returns the whole value of a record of the batch (from 0); `None` is null.
///
/// # Panics
/// If the values are not on demand, or there is no such record.
pub fn whole(record: u32) -> Option<Vec<u8>> {
    imports::value(record)
}

#[cfg(target_arch = "wasm32")]
use crate::bindings::kafka_backup::transform::host as imports;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod imports {
    use std::cell::RefCell;

    use crate::wit::Column;

    thread_local! {
        /// The values of the batch that is being answered, where they are on demand.
        pub(crate) static VALUES: RefCell<Option<Vec<Option<Vec<u8>>>>> = const { RefCell::new(None) };
    }

    fn ask<T>(asked: impl FnOnce(&[Option<Vec<u8>>]) -> T) -> T {
        VALUES.with_borrow(|values| match values {
            Some(values) => asked(values),
            None => panic!("values can only be asked for if `needs` names VALUES_ON_DEMAND, while a batch is answered"),
        })
    }

    pub(crate) fn value_heads(most_bytes: u32) -> Column {
        ask(|values| {
            let mut column = Column::with_capacity(values.len(), 0);
            let head = |value: &'_ Vec<u8>| value.len().min(most_bytes as usize);
            values.iter().for_each(|value| column.push(value.as_ref().map(|value| &value[..head(value)])));
            column
        })
    }

    pub(crate) fn value(record: u32) -> Option<Vec<u8>> {
        ask(|values| match values.get(record as usize) {
            Some(value) => value.clone(),
            None => panic!("the value of record {record} of {} was asked for", values.len()),
        })
    }
}
