//! Applies a checked answer to the records that it is about.

use super::{Made, OwnedHeader, Sample};
use crate::wit::{Column, HeaderEdit, Output, Patch};

/// Makes the rows that an answer says.
///
/// # Panics
/// If the answer does not pass [`check`](super::check).
pub fn apply(samples: &[Sample], answer: &Output) -> Vec<Made> {
    let source: Vec<usize> = match &answer.source {
        Some(source) => source.iter().map(|record| *record as usize).collect(),
        None => (0..samples.len()).collect(),
    };
    let mut rows: Vec<Made> = source.iter().map(|record| Made::unchanged(&samples[*record])).collect();
    for (at, row) in rows.iter_mut().enumerate() {
        if let Some(route) = &answer.topics {
            let index = route.indexes[at] as usize;
            row.topic = index.checked_sub(1).map(|index| route.names[index].clone());
        }
        if let Some(partitions) = &answer.partitions {
            row.partition = Some(partitions[at]).filter(|partition| *partition >= 0);
        }
        if let Some(timestamps) = &answer.timestamps {
            row.timestamp = timestamps[at];
        }
    }
    patch(&answer.keys, |row, cell| rows[row].key = cell);
    patch(&answer.values, |row, cell| rows[row].value = cell);
    if let Some(edit) = &answer.headers {
        edit_headers(&mut rows, edit);
    }
    rows
}

fn patch(patch: &Option<Patch>, mut set: impl FnMut(usize, Option<Vec<u8>>)) {
    let Some(Patch { rows, cells }) = patch else { return };
    for cell in 0..cells.len() {
        let row = rows.as_ref().map_or(cell, |rows| rows[cell] as usize);
        set(row, owned(cells, cell));
    }
}

fn edit_headers(rows: &mut [Made], edit: &HeaderEdit) {
    for removal in &edit.remove {
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        for row in removal.rows.as_ref().unwrap_or(&all) {
            let headers = &mut rows[*row as usize].headers;
            headers.retain(|(name, _)| removal.name.as_ref().is_some_and(|gone| name != gone));
        }
    }
    let Some(add) = &edit.add else { return };
    for (at, row) in rows.iter_mut().enumerate() {
        let entries = add.row(at);
        let added = entries
            .clone()
            .enumerate()
            .map(|(nth, entry)| -> OwnedHeader { (add.name(&entries, nth).to_vec(), owned(&add.values, entry)) });
        row.headers.extend(added);
    }
}

fn owned(column: &Column, cell: usize) -> Option<Vec<u8>> {
    column.cell(cell).map(<[u8]>::to_vec)
}
