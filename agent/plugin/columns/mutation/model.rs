//! What an answer means by `wit/transform.wit`, read a second time, slow and plain: what the decoder makes of one is held
//! against it.
//!
//! It copies records, looks at everything again for each row, and knows no bounds of size.

use bytes::Bytes;

use super::super::super::wit::{Column, HeaderColumn, HeaderEdit, Output, Patch, Plan, Touches};
use crate::batch::records::Record;
use crate::record::Timestamp;

/// A row of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meant {
    pub(super) record: Record,
    pub(super) topic: Option<String>,
    pub(super) partition: i32,
}

type Cells<'a> = Vec<Option<&'a [u8]>>;

type Headers<'a> = Vec<(&'a [u8], Option<&'a [u8]>)>;

/// Returns the rows of an answer for these records; `None` where it breaks the contract, or does what is not declared.
pub(super) fn meant(sent: &[Record], output: &Output, plan: &Plan) -> Option<Vec<Meant>> {
    let may = |touch, does: bool| (!does || plan.touches.contains(touch)).then_some(());
    let all: Vec<u32> = (0..sent.len() as u32).collect();
    let source = output.source.as_ref().unwrap_or(&all);
    if source.windows(2).any(|pair| pair[0] > pair[1]) || source.iter().any(|number| *number as usize >= sent.len()) {
        return None;
    }
    may(Touches::DROPS, all.iter().any(|number| !source.contains(number)))?;
    may(Touches::COPIES, source.windows(2).any(|pair| pair[0] == pair[1]))?;
    may(Touches::TIMESTAMPS, output.timestamps.is_some())?;
    may(Touches::KEYS, output.keys.is_some())?;
    may(Touches::VALUES, output.values.is_some())?;
    may(Touches::HEADERS, output.headers.is_some())?;
    may(Touches::TOPICS, output.topics.is_some())?;
    may(Touches::PARTITIONS, output.partitions.is_some())?;
    let keys = changes(output.keys.as_ref(), source.len())?;
    let values = changes(output.values.as_ref(), source.len())?;
    let mut rows = Vec::new();
    for (at, number) in source.iter().enumerate() {
        let from = &sent[*number as usize];
        let time = from.timestamp.0;
        if plan.keeps.from.is_some_and(|from| time < from) || plan.keeps.until.is_some_and(|until| time >= until) {
            return None;
        }
        let mut record = from.clone();
        if let Some(times) = one_each(output.timestamps.as_deref(), source.len())? {
            record.timestamp = Timestamp(times[at]);
        }
        if record.timestamp.0 < 0 && record.timestamp != from.timestamp {
            return None;
        }
        let owned = |cell: Option<&[u8]>| cell.map(Bytes::copy_from_slice);
        if let Some(key) = keys[at] {
            record.key = owned(key);
        }
        if let Some(value) = values[at] {
            record.value = owned(value);
        }
        let partition = one_each(output.partitions.as_deref(), source.len())?.map_or(-1, |numbers| numbers[at]);
        rows.push(Meant { record, topic: None, partition });
    }
    // Also where there is no row.
    one_each(output.timestamps.as_deref(), source.len())?;
    one_each(output.partitions.as_deref(), source.len())?;
    if let Some(edit) = &output.headers {
        edit_headers(edit, &mut rows)?;
    }
    route(output, plan, &mut rows)?;
    rows.iter().all(|row| row.partition >= -1).then_some(rows)
}

/// A list that has as many elements as there are rows.
fn one_each<T>(list: Option<&[T]>, count: usize) -> Option<Option<&[T]>> {
    match list {
        Some(list) if list.len() != count => None,
        list => Some(list),
    }
}

fn cells(column: &Column) -> Option<Cells<'_>> {
    let mut cells = Vec::new();
    let mut start = 0;
    for (number, end) in column.ends.iter().enumerate() {
        let cell = column.data.get(start as usize..*end as usize)?;
        start = *end;
        let is_null = column.nulls.contains(&(number as u32));
        if is_null && !cell.is_empty() {
            return None;
        }
        cells.push((!is_null).then_some(cell));
    }
    (start as usize == column.data.len() && are_numbers(&column.nulls, cells.len())).then_some(cells)
}

fn are_numbers(numbers: &[u32], below: usize) -> bool {
    numbers.windows(2).all(|pair| pair[0] < pair[1]) && numbers.iter().all(|number| (*number as usize) < below)
}

/// For each row what a patch makes of its field; `None` where nothing.
fn changes(patch: Option<&Patch>, count: usize) -> Option<Vec<Option<Option<&[u8]>>>> {
    let Some(patch) = patch else { return Some(vec![None; count]) };
    let cells = cells(&patch.cells)?;
    let all: Vec<u32> = (0..count as u32).collect();
    let rows = patch.rows.as_ref().unwrap_or(&all);
    if rows.len() != cells.len() || !are_numbers(rows, count) {
        return None;
    }
    let change = |row: &u32| rows.iter().position(|number| number == row).map(|cell| cells[cell]);
    Some(all.iter().map(change).collect())
}

fn edit_headers(edit: &HeaderEdit, rows: &mut [Meant]) -> Option<()> {
    let count = rows.len();
    if edit.remove.iter().any(|removal| removal.rows.as_ref().is_some_and(|rows| !are_numbers(rows, count))) {
        return None;
    }
    let added = match &edit.add {
        Some(column) => Some(Added::of(column, count)?),
        None => None,
    };
    for (at, row) in rows.iter_mut().enumerate() {
        let brought = row.record.headers.clone();
        for removal in &edit.remove {
            let is_meant = removal.rows.as_ref().is_none_or(|rows| rows.contains(&(at as u32)));
            let is_named = |name: &Bytes| removal.name.as_ref().is_none_or(|removed| removed[..] == name[..]);
            row.record.headers.retain(|(name, _)| !(is_meant && is_named(name)));
        }
        for (name, value) in added.as_ref().map_or(&[][..], |added| &added.rows[at]) {
            let is_brought = brought.iter().any(|(before, _)| before == name);
            if std::str::from_utf8(name).is_err() && !is_brought {
                return None;
            }
            row.record.headers.push((Bytes::copy_from_slice(name), value.map(Bytes::copy_from_slice)));
        }
    }
    Some(())
}

/// The headers that come to each row.
struct Added<'a> {
    rows: Vec<Headers<'a>>,
}

impl<'a> Added<'a> {
    fn of(column: &'a HeaderColumn, count: usize) -> Option<Self> {
        let names = cells(&column.names)?.into_iter().collect::<Option<Vec<_>>>()?;
        let values = cells(&column.values)?;
        let name = |index: &u32| names.get(*index as usize).copied();
        let mut names = column.name_indexes.iter().map(name).collect::<Option<Vec<_>>>()?;
        let ends: Vec<usize> = match &column.row_ends {
            Some(ends) => ends.iter().map(|end| *end as usize).collect(),
            // The same names for each row.
            None => (1..=count).map(|row| row * column.name_indexes.len()).collect(),
        };
        if column.row_ends.is_none() {
            names = names.repeat(count);
        }
        if values.len() != names.len() || ends.len() != count {
            return None;
        }
        let headers: Vec<_> = names.into_iter().zip(values).collect();
        let mut start = 0;
        let mut rows = Vec::new();
        for end in ends {
            rows.push(headers.get(start..end)?.to_vec());
            start = end;
        }
        (start == headers.len()).then_some(Self { rows })
    }
}

fn route(output: &Output, plan: &Plan, rows: &mut [Meant]) -> Option<()> {
    let Some(route) = &output.topics else { return Some(()) };
    let is_target = |name: &String| plan.targets.as_ref().is_none_or(|targets| targets.contains(name));
    if route.indexes.len() != rows.len() || !route.names.iter().all(|name| is_topic(name) && is_target(name)) {
        return None;
    }
    for (row, index) in rows.iter_mut().zip(&route.indexes) {
        row.topic = match *index as usize {
            0 => None,
            index => Some(route.names.get(index - 1)?.clone()),
        };
    }
    Some(())
}

/// Whether Kafka makes a topic of that name.
pub(super) fn is_topic(name: &str) -> bool {
    const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    (1..250).contains(&name.len()) && name.chars().all(|c| LETTERS.contains(c)) && name != "." && name != ".."
}

/// Whether a plugin may say that of itself.
pub(super) fn is_plan(plan: &Plan) -> bool {
    let (from, until) = (plan.keeps.from, plan.keeps.until);
    let drops = from.is_some() || until.is_some();
    let targets = plan.targets.as_deref().unwrap_or_default();
    (!drops || plan.touches.contains(Touches::DROPS))
        && from.zip(until).is_none_or(|(from, until)| from < until)
        && (targets.is_empty() || plan.touches.contains(Touches::TOPICS))
        && targets.iter().all(|name| is_topic(name))
}
