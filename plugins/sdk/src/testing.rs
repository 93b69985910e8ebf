//! A harness that runs a transform natively on records, without an agent: plugin tests are plain `cargo test`.
//!
//! [`Host`] does what the agent does: it sends only the columns that were asked for, checks the plan and each answer
//! against `wit/transform.wit` and what the plugin declared, and applies the edits. What it leaves to the agent: deadlines,
//! memory, the bounds on rows and bytes of an answer, what of it only a capture refuses, and the sandbox.

mod answer;
mod check;
#[cfg(feature = "proptest")]
pub mod random;

pub use answer::apply;
pub use check::{Problem, check, check_plan, check_stage};

use crate::log::{LINES, Level};
use crate::values::imports::VALUES;
use crate::wit::{Batch, Column, Columns, HeaderColumn, Plan, TimestampType};
use crate::{Error, Plugin, Result};

/// A name and a value, which may be null.
pub type OwnedHeader = (Vec<u8>, Option<Vec<u8>>);

/// A record that goes in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The offset in the source.
    pub offset: i64,
    /// The effective time, in milliseconds; −1 for none.
    pub timestamp: i64,
    /// The key; `None` is null.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is null.
    pub value: Option<Vec<u8>>,
    /// The headers.
    pub headers: Vec<OwnedHeader>,
}

impl Sample {
    /// Makes a record with neither key, value nor headers, of time 0.
    pub fn new(offset: i64) -> Self {
        Self { offset, ..Self::default() }
    }

    /// Sets the time, in milliseconds.
    #[must_use]
    pub fn timestamp(mut self, timestamp_ms: i64) -> Self {
        self.timestamp = timestamp_ms;
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(key.as_ref().to_vec());
        self
    }

    /// Sets the value.
    #[must_use]
    pub fn value(mut self, value: impl AsRef<[u8]>) -> Self {
        self.value = Some(value.as_ref().to_vec());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.as_ref().to_vec(), Some(value.as_ref().to_vec())));
        self
    }
}

/// A row that comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The offset of the record that it was made from.
    pub offset: i64,
    /// The topic that it was routed to; `None` if it was not.
    pub topic: Option<String>,
    /// The partition that was chosen; `None` if none was.
    pub partition: Option<i32>,
    /// The time, in milliseconds.
    pub timestamp: i64,
    /// The key; `None` is null.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is null.
    pub value: Option<Vec<u8>>,
    /// The headers.
    pub headers: Vec<OwnedHeader>,
}

impl Made {
    /// Makes the row that a record becomes when nothing is done to it.
    pub fn unchanged(sample: &Sample) -> Self {
        let Sample { offset, timestamp, key, value, headers } = sample.clone();
        Self { offset, topic: None, partition: None, timestamp, key, value, headers }
    }

    /// Returns the text of the last header of a name, for assertions.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rfind(|(known, _)| known == name.as_bytes())?;
        value.as_deref().and_then(|value| std::str::from_utf8(value).ok())
    }
}

/// A configured plugin, and the agent's part around it.
pub struct Host<P> {
    plugin: P,
    plan: Plan,
    timestamp_type: TimestampType,
    /// Whether headers are said for each row, also where all have the same names.
    is_spelled: bool,
}

impl<P: Plugin> Host<P> {
    /// Configures a plugin.
    ///
    /// # Errors
    /// What the plugin says of its settings, or what is wrong with what it says of itself.
    pub fn new(settings: &[(&str, &str)]) -> Result<Self> {
        let owned = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let (plugin, plan) = P::configure(owned)?;
        let checked = check_plan(&plan).and_then(|()| check_stage(&plan));
        checked.map_err(|problem| Error::new(format!("wrong plan: {problem}")))?;
        Ok(Self { plugin, plan, timestamp_type: TimestampType::CreateTime, is_spelled: false })
    }

    /// Sends records with times of the broker from now on, as those of a topic are that has it set them.
    #[must_use]
    pub fn with_log_append_time(self) -> Self {
        Self { timestamp_type: TimestampType::LogAppendTime, ..self }
    }

    /// Says the names of headers for each row from now on, also where all have the same ones. The agent says them once then;
    /// both forms are the interface's.
    #[must_use]
    pub fn with_spelled_headers(self) -> Self {
        Self { is_spelled: true, ..self }
    }

    /// Returns what the plugin said of itself.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs records of a partition through the plugin, as one batch.
    ///
    /// # Errors
    /// What the plugin says, or what is wrong with its answer.
    pub fn apply(&mut self, topic: &str, partition: i32, samples: &[Sample]) -> Result<Vec<Made>> {
        if samples.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = batch(topic, partition, samples, self.plan.needs);
        batch.timestamp_type = self.timestamp_type;
        if self.is_spelled {
            batch.headers = batch.headers.map(HeaderColumn::spelled);
        }
        let answer = offering(samples, self.plan.needs, || self.plugin.apply(&batch))?;
        check(&self.plan, samples, &answer).map_err(|problem| Error::new(format!("wrong answer: {problem}")))?;
        Ok(apply(samples, &answer))
    }
}

/// Does what asks for the values of records, as a plugin may that needs these columns.
pub fn offering<T>(samples: &[Sample], needs: Columns, work: impl FnOnce() -> T) -> T {
    let on_demand = needs.contains(Columns::VALUES_ON_DEMAND);
    VALUES.set(on_demand.then(|| samples.iter().map(|sample| sample.value.clone()).collect()));
    let done = work();
    VALUES.set(None);
    done
}

/// Takes the lines that were logged on this thread.
pub fn logged() -> Vec<(Level, String)> {
    LINES.with_borrow_mut(std::mem::take)
}

/// Checks that a plugin which calls itself pure is: each way of splitting the records into batches gives the same rows, and
/// each form of their headers.
///
/// # Panics
/// If it does not, or if the plugin fails.
pub fn assert_pure<P: Plugin>(settings: &[(&str, &str)], samples: &[Sample]) {
    let host = || Host::<P>::new(settings).unwrap_or_else(|error| panic!("{error}"));
    let rows = |host: &mut Host<P>, part: &[Sample]| {
        host.apply("orders", 3, part).unwrap_or_else(|error| panic!("at record {:?}: {error}", error.record()))
    };
    let whole = rows(&mut host(), samples);
    for size in [1, 2, 3, 7] {
        let mut same = host();
        let split: Vec<Made> = samples.chunks(size).flat_map(|part| rows(&mut same, part)).collect();
        assert_eq!(split, whole, "one instance, batches of {size}");
    }
    assert_eq!(rows(&mut host().with_spelled_headers(), samples), whole, "headers said for each row");
    // An instance that is replaced remembers nothing.
    let fresh: Vec<Made> = samples.chunks(2).flat_map(|part| rows(&mut host(), part)).collect();
    assert_eq!(fresh, whole, "a new instance for each batch");
}

/// Makes a batch of records, with the columns that are needed.
pub fn batch(topic: &str, partition: i32, samples: &[Sample], needs: Columns) -> Batch {
    let column = |needed, cell: fn(&Sample) -> Option<&[u8]>| needs.contains(needed).then(|| column(samples, cell));
    Batch {
        topic: topic.to_owned(),
        partition,
        timestamp_type: TimestampType::CreateTime,
        offsets: samples.iter().map(|sample| sample.offset).collect(),
        timestamps: samples.iter().map(|sample| sample.timestamp).collect(),
        keys: column(Columns::KEYS, |sample| sample.key.as_deref()),
        values: column(Columns::VALUES, |sample| sample.value.as_deref()),
        headers: needs.contains(Columns::HEADERS).then(|| headers(samples)),
    }
}

fn column(samples: &[Sample], cell: fn(&Sample) -> Option<&[u8]>) -> Column {
    let mut column = Column::with_capacity(samples.len(), 0);
    samples.iter().for_each(|sample| column.push(cell(sample)));
    column
}

fn headers(samples: &[Sample]) -> HeaderColumn {
    let (mut names, mut values) = (Column::with_capacity(0, 0), Column::with_capacity(0, 0));
    let (mut row_ends, mut name_indexes) = (Vec::new(), Vec::new());
    for sample in samples {
        for (name, value) in &sample.headers {
            name_indexes.push(names.intern(name, 0) as u32);
            values.push(value.as_deref());
        }
        row_ends.push(name_indexes.len() as u32);
    }
    // As the agent does, which says once what all rows have alike.
    HeaderColumn { row_ends: Some(row_ends), names, name_indexes, values }.joined()
}
