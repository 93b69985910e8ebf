//! Checks a plan, and an answer against `wit/transform.wit` and the plan, as the agent does.

use super::Sample;
use crate::wit::{Column, HeaderColumn, HeaderEdit, Output, Patch, Plan, Removal, Route, Touches};

/// The agent's bounds on what an operator is shown beforehand, and on what is looked at for each row.
const MOST_TARGETS: usize = 10_000;
const MOST_REMOVALS: usize = 256;

/// Its bounds on what an answer costs to be understood: steps over headers, and names of a dictionary.
const MOST_STEPS: u64 = 1 << 28;
const MOST_NAMES: usize = 1 << 20;

/// What is wrong with an answer.
pub type Problem = String;

/// Checks what a plugin says of itself.
///
/// # Errors
/// What is wrong.
pub fn check_plan(plan: &Plan) -> Result<(), Problem> {
    let (from, until) = (plan.keeps.from, plan.keeps.until);
    if (from.is_some() || until.is_some()) && !plan.touches.contains(Touches::DROPS) {
        return Err("`keeps` has a bound, and `touches` no `drops`".to_owned());
    }
    if from.zip(until).is_some_and(|(from, until)| from >= until) {
        return Err("`keeps` ends before it begins".to_owned());
    }
    let targets = plan.targets.as_deref().unwrap_or_default();
    if targets.len() > MOST_TARGETS {
        return Err(format!("`targets` has {} names, the most is {MOST_TARGETS}", targets.len()));
    }
    if !targets.is_empty() && !plan.touches.contains(Touches::TOPICS) {
        return Err("`targets` has names, and `touches` no `topics`".to_owned());
    }
    targets.iter().try_for_each(|name| check_topic(name))
}

/// Checks that a stage takes a plugin which says this of itself.
///
/// # Errors
/// Why none does.
pub fn check_stage(plan: &Plan) -> Result<(), Problem> {
    match plan.touches.contains(Touches::TOPICS) && plan.targets.is_none() {
        true => Err("`touches` has `topics`, and no `targets` are named: no stage takes it yet".to_owned()),
        false => Ok(()),
    }
}

/// Checks an answer to a batch of records.
///
/// # Errors
/// What is wrong.
pub fn check(plan: &Plan, samples: &[Sample], answer: &Output) -> Result<(), Problem> {
    let inputs = samples.len();
    let all: Vec<u32>;
    let source = match &answer.source {
        Some(source) => source,
        None => {
            all = (0..inputs as u32).collect();
            &all
        }
    };
    check_source(plan, inputs, source)?;
    check_window(plan, samples, source)?;
    let rows = source.len();
    if let Some(route) = &answer.topics {
        check_route(plan, rows, route)?;
    }
    if let Some(partitions) = &answer.partitions {
        declared(plan, Touches::PARTITIONS, "partitions")?;
        same_length("partitions", partitions.len(), rows)?;
        if let Some(partition) = partitions.iter().find(|partition| **partition < -1) {
            return Err(format!("partition {partition}"));
        }
    }
    if let Some(timestamps) = &answer.timestamps {
        declared(plan, Touches::TIMESTAMPS, "timestamps")?;
        same_length("timestamps", timestamps.len(), rows)?;
        let mut pairs = timestamps.iter().zip(source.iter().map(|record| samples[*record as usize].timestamp));
        if let Some((timestamp, _)) = pairs.find(|(new, old)| **new < 0 && *new != old) {
            return Err(format!("timestamp {timestamp}"));
        }
    }
    if let Some(patch) = &answer.keys {
        declared(plan, Touches::KEYS, "keys")?;
        check_patch("keys", patch, rows)?;
    }
    if let Some(patch) = &answer.values {
        declared(plan, Touches::VALUES, "values")?;
        check_patch("values", patch, rows)?;
    }
    if let Some(edit) = &answer.headers {
        declared(plan, Touches::HEADERS, "headers")?;
        check_headers(edit, source, samples)?;
    }
    Ok(())
}

fn check_source(plan: &Plan, inputs: usize, source: &[u32]) -> Result<(), Problem> {
    if let Some(record) = source.iter().find(|record| **record as usize >= inputs) {
        return Err(format!("source names record {record} of {inputs}"));
    }
    if !source.is_sorted() {
        return Err("source descends".to_owned());
    }
    if source.windows(2).any(|pair| pair[0] == pair[1]) {
        declared(plan, Touches::COPIES, "copies")?;
    }
    let mut different = source.to_vec();
    different.dedup();
    if different.len() < inputs {
        declared(plan, Touches::DROPS, "drops")?;
    }
    Ok(())
}

fn check_window(plan: &Plan, samples: &[Sample], source: &[u32]) -> Result<(), Problem> {
    let (from, until) = (plan.keeps.from, plan.keeps.until);
    let is_inside = |sample: &&Sample| {
        from.is_none_or(|from| sample.timestamp >= from) && until.is_none_or(|until| sample.timestamp < until)
    };
    let mut kept = source.iter().map(|record| &samples[*record as usize]);
    if let Some(sample) = kept.find(|sample| !is_inside(sample)) {
        return Err(format!("a row of time {}, which is outside of `keeps`", sample.timestamp));
    }
    // Nothing but time decides here: the agent does not ask about what is inside.
    let has_bound = from.is_some() || until.is_some();
    let is_window = has_bound && plan.pure && plan.needs.is_empty() && plan.touches == Touches::DROPS;
    if is_window && source.len() != samples.iter().filter(is_inside).count() {
        return Err("a record inside of `keeps` was dropped, by a plugin that declares nothing else".to_owned());
    }
    Ok(())
}

fn check_topic(name: &str) -> Result<(), Problem> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match (1..=249).contains(&name.len()) && name.bytes().all(legal) && !matches!(name, "." | "..") {
        true => Ok(()),
        false => Err(format!("`{name}` cannot be a topic's name")),
    }
}

fn check_route(plan: &Plan, rows: usize, route: &Route) -> Result<(), Problem> {
    declared(plan, Touches::TOPICS, "topics")?;
    same_length("topics", route.indexes.len(), rows)?;
    if route.names.len() > MOST_TARGETS {
        return Err(format!("`topics` has {} names, the most is {MOST_TARGETS}", route.names.len()));
    }
    if let Some(index) = route.indexes.iter().find(|index| **index as usize > route.names.len()) {
        return Err(format!("topic {index} of {}", route.names.len()));
    }
    route.names.iter().try_for_each(|name| check_topic(name))?;
    let unknown = |name: &&String| plan.targets.as_ref().is_some_and(|targets| !targets.contains(name));
    match route.names.iter().find(unknown) {
        Some(name) => Err(format!("topic `{name}`, which `targets` does not name")),
        None => Ok(()),
    }
}

fn check_patch(what: &str, patch: &Patch, rows: usize) -> Result<(), Problem> {
    check_column(what, &patch.cells)?;
    match &patch.rows {
        None => same_length(what, patch.cells.len(), rows),
        Some(list) => {
            check_rows(what, list, rows)?;
            same_length(what, patch.cells.len(), list.len())
        }
    }
}

fn check_headers(edit: &HeaderEdit, source: &[u32], samples: &[Sample]) -> Result<(), Problem> {
    if edit.remove.len() > MOST_REMOVALS {
        return Err(format!("removes headers {} times, the most is {MOST_REMOVALS}", edit.remove.len()));
    }
    for rows in edit.remove.iter().filter_map(|removal| removal.rows.as_ref()) {
        check_rows("removed headers", rows, source.len())?;
    }
    let mut steps = Steps { left: MOST_STEPS };
    steps.remove(edit, source, samples)?;
    let Some(add) = &edit.add else { return Ok(()) };
    check_header_column(add, source.len())?;
    for (at, record) in source.iter().enumerate() {
        let entries = add.row(at);
        let headers = &samples[*record as usize].headers;
        for nth in 0..entries.len() {
            let name = add.name(&entries, nth);
            if std::str::from_utf8(name).is_ok() {
                continue;
            }
            steps.compare(name, headers.len())?;
            if !headers.iter().any(|(known, _)| known == name) {
                return Err(format!("the name of a header of row {at} is not UTF-8"));
            }
        }
    }
    Ok(())
}

/// What is left of the steps over headers that an answer may cost, as the agent counts them.
struct Steps {
    left: u64,
}

impl Steps {
    /// Takes those of comparing a name with the names of so many headers.
    fn compare(&mut self, name: &[u8], headers: usize) -> Result<(), Problem> {
        let each = 1 + name.len() as u64 / 16;
        let left = self.left.checked_sub((headers as u64).saturating_mul(each));
        self.left = left.ok_or("it takes away, or names, too many headers of rows that have too many")?;
        Ok(())
    }

    /// Takes those of all removals. A row that loses all of its headers costs none.
    fn remove(&mut self, edit: &HeaderEdit, source: &[u32], samples: &[Sample]) -> Result<(), Problem> {
        for (row, record) in source.iter().enumerate() {
            let is_meant =
                |removal: &&Removal| removal.rows.as_ref().is_none_or(|rows| rows.binary_search(&(row as u32)).is_ok());
            let meant: Vec<&Removal> = edit.remove.iter().filter(is_meant).collect();
            if meant.iter().any(|removal| removal.name.is_none()) {
                continue;
            }
            let headers = samples[*record as usize].headers.len();
            meant
                .iter()
                .filter_map(|removal| removal.name.as_ref())
                .try_for_each(|name| self.compare(name, headers))?;
        }
        Ok(())
    }
}

fn check_header_column(add: &HeaderColumn, rows: usize) -> Result<(), Problem> {
    check_column("header names", &add.names)?;
    check_column("header values", &add.values)?;
    let headers = match &add.row_ends {
        Some(ends) => {
            same_length("headers", ends.len(), rows)?;
            check_ends("headers", ends, add.name_indexes.len())?;
            add.name_indexes.len()
        }
        None => add.name_indexes.len().saturating_mul(rows),
    };
    if add.values.len() != headers {
        return Err(format!("header values: {} for {headers} headers", add.values.len()));
    }
    if !add.names.nulls.is_empty() {
        return Err("the name of a header is null".to_owned());
    }
    if let Some(index) = add.name_indexes.iter().find(|index| **index as usize >= add.names.len()) {
        return Err(format!("header name {index} of {}", add.names.len()));
    }
    match MOST_NAMES.max(add.name_indexes.len()) {
        most if add.names.len() <= most => Ok(()),
        most => Err(format!("header names: {}, the most is {most}", add.names.len())),
    }
}

fn check_column(what: &str, column: &Column) -> Result<(), Problem> {
    check_ends(what, &column.ends, column.data.len())?;
    check_rows(what, &column.nulls, column.len())?;
    match column.nulls.iter().find(|null| !column.bytes(**null as usize).is_empty()) {
        Some(null) => Err(format!("{what}: cell {null} is null and has bytes")),
        None => Ok(()),
    }
}

fn check_ends(what: &str, ends: &[u32], length: usize) -> Result<(), Problem> {
    if !ends.is_sorted() {
        return Err(format!("{what}: ends descend"));
    }
    let last = ends.last().map_or(0, |end| *end as usize);
    if last == length { Ok(()) } else { Err(format!("{what}: cells end at {last}, there are {length}")) }
}

fn check_rows(what: &str, rows: &[u32], total: usize) -> Result<(), Problem> {
    if rows.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(format!("{what}: row numbers do not ascend"));
    }
    match rows.last().filter(|row| **row as usize >= total) {
        Some(row) => Err(format!("{what}: row {row} of {total}")),
        None => Ok(()),
    }
}

fn same_length(what: &str, length: usize, rows: usize) -> Result<(), Problem> {
    if length == rows { Ok(()) } else { Err(format!("{what}: {length} for {rows} rows")) }
}

fn declared(plan: &Plan, touches: Touches, what: &str) -> Result<(), Problem> {
    if plan.touches.contains(touches) { Ok(()) } else { Err(format!("{what}, which `touches` does not name")) }
}
