//! Records as the columns that a plugin is sent, and the rows that its answer makes of them.
//!
//! Pure. Nothing that an answer says is believed: numbers, ends, lengths and names are checked before anything is made of
//! them, and against what the plugin said of itself; what is wrong is a sentence that says which part of the answer it is.
//! What an answer does not mention keeps its place in the buffers where it was. [`headers`] is about headers alone,
//! [`values`] about what is asked for during a call.

mod headers;
mod values;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;

pub(super) use self::values::Values;
use super::shown;
use super::wit::{Batch, Column, Columns, HeaderColumn, Output, Patch, Plan, Route, TimestampType, Touches};
use crate::batch::records::rows::{Derived, Field, Row, Rows};
use crate::record::{Partition, Timestamp};

/// The most rows that one call may answer. A record goes to a few topics, not to thousands: beyond this a plugin is more
/// likely wrong than useful, and each row costs the host memory whatever it holds.
const MOST_ROWS: usize = 1 << 20;

/// The most bytes that the rows of one answer may hold together beyond those of the records that it is for. The same
/// record may be named a million times at no cost to the plugin; what comes of it must still fit into the agent, beside
/// whatever else it holds. A call is for little more than a plugin reads at once, unless a single record is larger; that one
/// can then still pass.
const MOST_BYTES: usize = 64 << 20;

/// The most topics that rows may be sent to. A restore makes and fences all of them; clusters have some thousands.
const MOST_TARGETS: usize = 10_000;

/// As many targets are looked through for a name; more are made a set, which costs as much as looking through them does
/// for some names.
const FEW_TARGETS: usize = 16;

/// Kafka's own bound on the length of a topic's name.
const MOST_TOPIC_BYTES: usize = 249;

/// What a plugin made of records.
#[derive(Debug)]
pub struct Answer {
    /// The records, in the order of the answer. Offsets are those of the records that they came from.
    pub rows: Rows,
    /// Which record of those sent each row was made from; `None`: each of them once.
    pub source: Option<Vec<u32>>,
    /// The topic that each is sent to; `None`: no row is sent elsewhere.
    pub topics: Option<Topics>,
    /// The partition that each is sent to, −1 where the plugin leaves it open; `None`: it does so for all.
    pub partitions: Option<Vec<i32>>,
    /// The bytes of the fields of all rows.
    pub bytes: usize,
}

/// The topics of rows.
#[derive(Debug)]
pub struct Topics {
    names: Vec<String>,
    /// For each row 0, or the number of its name, from 1 on.
    indexes: Vec<u32>,
}

impl Topics {
    /// Returns the names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the number of the name that the row of that number is sent to, from 0 on; `None` where it stays.
    pub fn index_of(&self, row: usize) -> Option<usize> {
        (*self.indexes.get(row)? as usize).checked_sub(1)
    }

    /// Returns where the row of that number is sent; `None` where it stays.
    pub fn of(&self, row: usize) -> Option<&str> {
        self.index_of(row).map(|name| self.names[name].as_str())
    }
}

/// What is wrong with an answer.
type Wrong = String;

/// Makes the columns that a plugin is sent of `range` of the rows.
pub(super) fn columns(partition: &Partition, rows: &Rows, range: Range<usize>, needs: Columns) -> Batch {
    let sent = &rows.rows()[range];
    let (offsets, timestamps) = sent.iter().map(|row| (row.offset, row.timestamp.0)).unzip();
    Batch {
        topic: partition.topic.to_string(),
        partition: partition.index,
        timestamp_type: match rows.is_log_append_time {
            true => TimestampType::LogAppendTime,
            false => TimestampType::CreateTime,
        },
        offsets,
        timestamps,
        keys: needs.contains(Columns::KEYS).then(|| column(rows, sent, |row| row.key)),
        values: needs.contains(Columns::VALUES).then(|| column(rows, sent, |row| row.value)),
        headers: needs.contains(Columns::HEADERS).then(|| header_column(rows, sent)),
    }
}

/// Returns how many bytes of a row are sent to a plugin that needs these columns, and asks for so many of each value if those
/// are on demand.
#[inline]
pub(super) fn sent_bytes(rows: &Rows, row: &Row, needs: Columns, head_bytes: usize) -> usize {
    // Nothing branches: this is said of each row.
    let part = |column, bytes: usize| usize::from(needs.contains(column)) * bytes;
    part(Columns::KEYS, rows.field_bytes(row.key))
        + part(Columns::VALUES, rows.field_bytes(row.value))
        + part(Columns::HEADERS, rows.header_bytes(row.headers).len())
        + part(Columns::VALUES_ON_DEMAND, rows.field_bytes(row.value).min(head_bytes))
}

fn column(rows: &Rows, sent: &[Row], field: impl Fn(&Row) -> Field) -> Column {
    let bytes = sent.iter().map(|row| rows.field_bytes(field(row))).sum();
    let mut column = Cells::with_capacity(sent.len(), bytes);
    for row in sent {
        column.push(rows.bytes(field(row)));
    }
    column.0
}

fn header_column(rows: &Rows, sent: &[Row]) -> HeaderColumn {
    let count = sent.iter().map(|row| row.headers.count as usize).sum();
    // Names do not come with every row, but mostly take less than the values.
    let bytes = sent.iter().map(|row| rows.header_bytes(row.headers).len()).sum();
    let (mut names, mut values) = (Names::default(), Cells::with_capacity(count, bytes));
    let mut order = Order::default();
    for row in sent {
        let mut is_like_before = true;
        for (at, (name, value)) in rows.headers(row.headers).enumerate() {
            is_like_before &= names.see(at, name);
            values.push(value);
        }
        order.push(&names.last[..row.headers.count as usize], is_like_before);
    }
    let (row_ends, name_indexes) = order.finish();
    HeaderColumn { row_ends, names: names.cells.0, name_indexes, values: values.0 }
}

/// Which names rows have, in which order: said once as long as all have the same.
#[derive(Default)]
struct Order {
    rows: usize,
    /// The numbers of the names: those of the first row, or of all.
    indexes: Vec<u32>,
    /// Where those of each row end, once two rows differ.
    ends: Option<Vec<u32>>,
}

impl Order {
    /// Adds a row of these names and their numbers, which may be known to be the first of those of the row before.
    fn push(&mut self, names: &[(&[u8], u32)], is_like_before: bool) {
        let indexes = names.iter().map(|(_, index)| *index);
        if self.ends.is_none() && self.rows > 0 && !(is_like_before && names.len() == self.indexes.len()) {
            let each = self.indexes.len();
            self.ends = Some((1..=self.rows).map(|row| (row * each) as u32).collect());
            self.indexes = self.indexes.repeat(self.rows);
        }
        if let Some(ends) = &mut self.ends {
            self.indexes.extend(indexes);
            ends.push(self.indexes.len() as u32);
        } else if self.rows == 0 {
            self.indexes.extend(indexes);
        }
        self.rows += 1;
    }

    fn finish(self) -> (Option<Vec<u32>>, Vec<u32>) {
        (self.ends, self.indexes)
    }
}

/// A column in the making.
struct Cells(Column);

impl Default for Cells {
    fn default() -> Self {
        Self::with_capacity(0, 0)
    }
}

impl Cells {
    fn with_capacity(cells: usize, bytes: usize) -> Self {
        Self(Column { ends: Vec::with_capacity(cells), nulls: Vec::new(), data: Vec::with_capacity(bytes) })
    }

    fn push(&mut self, cell: Option<&[u8]>) {
        match cell {
            Some(bytes) => self.0.data.extend_from_slice(bytes),
            None => self.0.nulls.push(self.0.ends.len() as u32),
        }
        self.push_end();
    }

    /// Ends the cell whose bytes were added last.
    fn push_end(&mut self) {
        self.0.ends.push(self.0.data.len() as u32);
    }
}

/// A dictionary of the names of headers in the making.
#[derive(Default)]
struct Names<'a> {
    cells: Cells,
    known: HashMap<&'a [u8], u32>,
    /// What was last at each place of a row: most records have the same names in the same order.
    last: Vec<(&'a [u8], u32)>,
}

impl<'a> Names<'a> {
    /// Takes note of the name of a row's `at`th header; returns whether the row before has it there as well.
    #[inline]
    fn see(&mut self, at: usize, name: &'a [u8]) -> bool {
        let is_like_before = self.last.get(at).is_some_and(|(last, _)| *last == name);
        if !is_like_before {
            self.learn(at, name);
        }
        is_like_before
    }

    #[cold]
    fn learn(&mut self, at: usize, name: &'a [u8]) {
        let index = *self.known.entry(name).or_insert_with(|| {
            self.cells.push(Some(name));
            self.cells.0.ends.len() as u32 - 1
        });
        self.last.truncate(at);
        self.last.push((name, index));
    }
}

/// Checks what a plugin says of itself: nothing in it may contradict the rest.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_plan(plan: &Plan) -> Result<(), Wrong> {
    let (from, until) = (plan.keeps.from, plan.keeps.until);
    if (from.is_some() || until.is_some()) && !plan.touches.contains(Touches::DROPS) {
        return Err("`keeps` has a bound, and `touches` no `drops`".to_owned());
    }
    if let (Some(from), Some(until)) = (from, until)
        && from >= until
    {
        return Err(format!("`keeps` is from {from} until {until}, which is nothing"));
    }
    let targets = plan.targets.as_deref().unwrap_or_default();
    if targets.len() > MOST_TARGETS {
        return Err(format!("`targets` has {} names, the most is {MOST_TARGETS}", targets.len()));
    }
    if !targets.is_empty() && !plan.touches.contains(Touches::TOPICS) {
        return Err("`targets` has names, and `touches` no `topics`".to_owned());
    }
    targets.iter().try_for_each(|name| legal(name))
}

/// Makes of an answer the rows that it means; it answers `sent` of the rows, of a plugin that has said `plan` of itself.
///
/// # Errors
/// What is wrong with the answer.
pub(super) fn answer(rows: &Rows, sent: Range<usize>, output: Output, plan: &Plan) -> Result<Answer, Wrong> {
    let Output { source, topics, partitions, timestamps, keys, values, headers } = output;
    let sent = &rows.rows()[sent];
    let most = || most_bytes(sent.iter().map(|row| rows.size_bytes(row)).sum());
    if let Some(source) = &source {
        chosen(source, sent.len(), plan)?;
    }
    let mut made: Vec<Row> = match &source {
        Some(source) => source.iter().map(|record| sent[*record as usize]).collect(),
        None => sent.to_vec(),
    };
    kept(sent, &made, plan)?;
    let mut derived = rows.derive();
    if let Some(timestamps) = timestamps {
        declared("timestamps", plan, Touches::TIMESTAMPS)?;
        stamped(&timestamps, &mut made)?;
        derived.have_create_time();
    }
    if let Some(patch) = keys {
        declared("keys", plan, Touches::KEYS)?;
        patched("keys", patch, &mut derived, &mut made, |row, field| row.key = field)?;
    }
    if let Some(patch) = values {
        declared("values", plan, Touches::VALUES)?;
        patched("values", patch, &mut derived, &mut made, |row, field| row.value = field)?;
    }
    if let Some(edit) = headers {
        declared("headers", plan, Touches::HEADERS)?;
        headers::edited(rows, edit, most(), &mut derived, &mut made)?;
    }
    let topics = topics.map(|route| routed(route, made.len(), plan)).transpose()?;
    if let Some(partitions) = &partitions {
        declared("partitions", plan, Touches::PARTITIONS)?;
        counted("partitions", partitions.len(), made.len())?;
        if let Some(wrong) = partitions.iter().find(|partition| **partition < -1) {
            return Err(format!("`partitions` has {wrong}"));
        }
    }
    let rows = derived.finish(made);
    let bytes = rows.rows().iter().map(|row| rows.size_bytes(row)).sum::<usize>();
    // What was sent need not be counted for few.
    if bytes > MOST_BYTES && bytes > most() {
        return Err(format!("the rows are {bytes} bytes, the most is {}", most()));
    }
    Ok(Answer { rows, source, topics, partitions, bytes })
}

/// Returns how many bytes the rows of an answer may be for records of so many: what a buffer can hold at most.
fn most_bytes(sent: usize) -> usize {
    sent.saturating_add(MOST_BYTES).min(u32::MAX as usize)
}

/// Checks which records rows are made from.
fn chosen(source: &[u32], sent: usize, plan: &Plan) -> Result<(), Wrong> {
    if source.len() > MOST_ROWS {
        return Err(format!("it has {} rows, the most is {MOST_ROWS}", source.len()));
    }
    if !source.is_sorted() {
        return Err("`source` must not descend".to_owned());
    }
    if let Some(record) = source.last().filter(|record| **record as usize >= sent) {
        return Err(format!("`source` names record {record} of {sent}"));
    }
    let copies = source.windows(2).filter(|pair| pair[0] == pair[1]).count();
    if copies > 0 {
        declared("copies", plan, Touches::COPIES)?;
    }
    if source.len() - copies < sent {
        declared("drops", plan, Touches::DROPS)?;
    }
    Ok(())
}

/// Whether a plugin keeps exactly the records of its window, as `wit/transform.wit` says: it does not look at more than
/// time and place, and does nothing but drop.
pub fn is_window(plan: &Plan) -> bool {
    let has_bound = plan.keeps.from.is_some() || plan.keeps.until.is_some();
    has_bound && plan.pure && plan.needs == Columns::default() && plan.touches == Touches::DROPS
}

/// Checks that what the plugin said it drops by time is dropped, and that what it said it keeps is there: the agent may
/// not even have asked it for either.
fn kept(sent: &[Row], made: &[Row], plan: &Plan) -> Result<(), Wrong> {
    let (from, until) = (plan.keeps.from, plan.keeps.until);
    if from.is_none() && until.is_none() {
        return Ok(());
    }
    let is_inside = |row: &&Row| {
        from.is_none_or(|from| row.timestamp.0 >= from) && until.is_none_or(|until| row.timestamp.0 < until)
    };
    if let Some(row) = made.iter().find(|row| !is_inside(row)) {
        return Err(format!("it kept a record of {}, outside the window that it declared", row.timestamp));
    }
    // None is there twice, as copies were not declared.
    if is_window(plan) && made.len() != sent.iter().filter(is_inside).count() {
        return Err("it dropped a record inside the window that it declared, and declared nothing else".to_owned());
    }
    Ok(())
}

fn stamped(timestamps: &[i64], made: &mut [Row]) -> Result<(), Wrong> {
    counted("timestamps", timestamps.len(), made.len())?;
    for (row, time) in made.iter_mut().zip(timestamps) {
        if *time < 0 && *time != row.timestamp.0 {
            return Err(format!("`timestamps` has {time}"));
        }
        row.timestamp = Timestamp(*time);
    }
    Ok(())
}

/// Gives rows the fields of a patch.
fn patched(
    what: &str,
    patch: Patch,
    derived: &mut Derived,
    made: &mut [Row],
    set: impl Fn(&mut Row, Field),
) -> Result<(), Wrong> {
    let Patch { rows, cells } = patch;
    let column = Checked::new(what, cells)?;
    counted(what, column.len(), rows.as_ref().map_or(made.len(), Vec::len))?;
    if let Some(rows) = &rows {
        ascending(what, "rows", rows, made.len())?;
    }
    let ranges: Vec<_> = column.ranges().collect();
    let buffer = derived.add(column.into_bytes());
    for (cell, range) in ranges.into_iter().enumerate() {
        let row = rows.as_ref().map_or(cell, |rows| rows[cell] as usize);
        set(&mut made[row], range.map_or(Field::NULL, |range| buffer.field(range)));
    }
    Ok(())
}

fn routed(route: Route, count: usize, plan: &Plan) -> Result<Topics, Wrong> {
    declared("topics", plan, Touches::TOPICS)?;
    let Route { names, indexes } = route;
    counted("topics", indexes.len(), count)?;
    if names.len() > MOST_TARGETS {
        return Err(format!("`topics` has {} names, the most is {MOST_TARGETS}", names.len()));
    }
    // Looking at all of them is sooner done than stopping at the first one that is wrong.
    let wrong = |index: &u32| *index as usize > names.len();
    if indexes.iter().fold(false, |any, index| any | wrong(index)) {
        let wrong = indexes.iter().copied().find(wrong).unwrap_or_default();
        return Err(format!("`topics` picks name {wrong} of {}", names.len()));
    }
    let targets = plan.targets.as_deref();
    // A set of thousands of names, or none: the few that most plugins have are found sooner by looking at them.
    let set: Option<HashSet<&String>> =
        targets.filter(|targets| targets.len() > FEW_TARGETS).map(|targets| targets.iter().collect());
    let is_target = |name| match &set {
        Some(set) => set.contains(name),
        None => targets.is_none_or(|targets| targets.contains(name)),
    };
    for name in &names {
        legal(name)?;
        if !is_target(name) {
            return Err(format!("it sends rows to topic `{name}`, which is not among its `targets`"));
        }
    }
    Ok(Topics { names, indexes })
}

/// Checks that a topic can have this name.
fn legal(name: &str) -> Result<(), Wrong> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !matches!(name, "" | "." | "..") && name.len() <= MOST_TOPIC_BYTES && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(format!("`{}` cannot be a topic's name", shown(name)))
}

/// Checks that a plugin has said that it does what it did.
fn declared(what: &str, plan: &Plan, touch: Touches) -> Result<(), Wrong> {
    if plan.touches.contains(touch) { Ok(()) } else { Err(format!("it does `{what}`, which it did not declare")) }
}

fn counted(what: &str, given: usize, wanted: usize) -> Result<(), Wrong> {
    if given == wanted { Ok(()) } else { Err(format!("`{what}` has {given} cells for {wanted} rows")) }
}

/// A column that is what a column must be.
struct Checked(Column);

impl Checked {
    fn new(what: &str, column: Column) -> Result<Self, Wrong> {
        rising(what, "ends", &column.ends, column.data.len())?;
        ascending(what, "nulls", &column.nulls, column.ends.len())?;
        let column = Self(column);
        match column.0.nulls.iter().find(|cell| !column.range(**cell as usize).is_empty()) {
            Some(cell) => Err(format!("`{what}`: cell {cell} is null and has bytes")),
            None => Ok(column),
        }
    }

    fn len(&self) -> usize {
        self.0.ends.len()
    }

    /// Returns where a cell lies, null or not.
    fn range(&self, cell: usize) -> Range<usize> {
        let start = cell.checked_sub(1).map_or(0, |before| self.0.ends[before] as usize);
        start..self.0.ends[cell] as usize
    }

    /// Returns where the cells lie, in order; `None` for those that are null.
    fn ranges(&self) -> impl Iterator<Item = Option<Range<usize>>> {
        let mut nulls = self.0.nulls.iter().peekable();
        (0..self.len()).map(move |cell| match nulls.next_if_eq(&&(cell as u32)) {
            Some(_) => None,
            None => Some(self.range(cell)),
        })
    }

    fn into_bytes(self) -> Bytes {
        self.0.data.into()
    }
}

/// Checks that ends never descend, and that the last one is the end of `length` things.
fn rising(what: &str, which: &str, ends: &[u32], length: usize) -> Result<(), Wrong> {
    if !ends.is_sorted() {
        return Err(format!("`{what}`: {which} must not descend"));
    }
    let last = ends.last().copied().unwrap_or(0) as usize;
    if last == length { Ok(()) } else { Err(format!("`{what}`: {which} reach {last} of {length}")) }
}

/// Checks that numbers ascend, each below `bound`.
fn ascending(what: &str, which: &str, numbers: &[u32], bound: usize) -> Result<(), Wrong> {
    if !numbers.is_sorted_by(|a, b| a < b) {
        return Err(format!("`{what}`: {which} must ascend"));
    }
    match numbers.last().filter(|last| **last as usize >= bound) {
        Some(last) => Err(format!("`{what}`: {which} name {last} of {bound}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod mutation;
#[cfg(test)]
mod tests;
