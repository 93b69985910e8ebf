//! Writes into each record's headers where it was: offset, timestamp and partition at the source, as decimal text.
//!
//! Whatever headers a record has stay, but those of the same names, which are replaced; so a record that is restored
//! twice tells of its last source. Nothing is asked for: neither keys, values nor headers cross the boundary.

use kafka_backup_transform::wit::{Batch, Column, HeaderColumn, HeaderEdit, Output, Removal};
use kafka_backup_transform::{
    Columns, Decimal, Error, Plan, Plugin, Result, Series, Settings, Touches, Window, copy, export,
};

/// Each header that can be injected: its setting, its default name, and whether it is on by default.
const FIELDS: [(&str, &str, bool); 4] = [
    ("offset", "x-kafka-backup-offset", true),
    ("timestamp", "x-kafka-backup-timestamp", true),
    ("partition", "x-kafka-backup-partition", true),
    ("topic", "x-kafka-backup-topic", false),
];

/// The most headers that can be injected: one answer replaces no more.
const MOST_HEADERS: usize = 256;

/// The transform. It makes whole columns: every record gets the same headers, so that but for their values nothing is to be
/// found out about a record.
pub struct HeaderInjector {
    headers: Vec<Injected>,
}

/// A header that every record gets.
struct Injected {
    setting: String,
    name: String,
    value: Value,
}

/// What a header holds, of records of one batch.
enum Text<'a> {
    Offset,
    Timestamp,
    /// This, in every record.
    Of(&'a [u8]),
}

impl Text<'_> {
    fn most_bytes(&self) -> usize {
        match self {
            Self::Offset | Self::Timestamp => Series::ROOM,
            Self::Of(text) => text.len(),
        }
    }
}

enum Value {
    Offset,
    Timestamp,
    Partition,
    Topic,
    Constant(String),
}

impl Plugin for HeaderInjector {
    fn configure(settings: Vec<(String, String)>) -> Result<(Self, Plan)> {
        let settings = Settings::new(settings);
        settings.only(&["offset", "timestamp", "partition", "topic", "headers.*"])?;
        let mut headers = Vec::new();
        let values = [Value::Offset, Value::Timestamp, Value::Partition, Value::Topic];
        for ((setting, default, on), value) in FIELDS.into_iter().zip(values) {
            let name = match settings.get(setting)? {
                None if on => default,
                Some("true") => default,
                None | Some("false") => continue,
                Some("") => return Err(unnamed(setting)),
                Some(name) => name,
            };
            headers.push(Injected { setting: setting.to_owned(), name: name.to_owned(), value });
        }
        for (name, value) in settings.table("headers") {
            let (setting, value) = (format!("headers.{name}"), Value::Constant(value.to_owned()));
            headers.push(Injected { setting, name: name.to_owned(), value });
        }
        if headers.len() > MOST_HEADERS {
            let (given, most) = (headers.len(), MOST_HEADERS);
            return Err(Error::new(format!("the settings inject {given} headers, the most is {most}: leave some out")));
        }
        let injector = Self { headers };
        injector.check_names()?;
        let plan = Plan {
            needs: Columns::empty(),
            touches: Touches::HEADERS,
            targets: Some(Vec::new()),
            keeps: Window { from: None, until: None },
            pure: true,
        };
        Ok((injector, plan))
    }

    fn apply(&mut self, batch: &Batch) -> Result<Output> {
        let removal = |header: &Injected| Removal { name: Some(header.name.clone().into()), rows: None };
        let headers = (!self.headers.is_empty())
            .then(|| HeaderEdit { remove: self.headers.iter().map(removal).collect(), add: Some(self.column(batch)) });
        let none = Output {
            source: None,
            topics: None,
            partitions: None,
            timestamps: None,
            keys: None,
            values: None,
            headers: None,
        };
        Ok(Output { headers, ..none })
    }
}

impl Injected {
    fn text<'a>(&'a self, batch: &'a Batch, partition: &'a [u8]) -> Text<'a> {
        match &self.value {
            Value::Offset => Text::Offset,
            Value::Timestamp => Text::Timestamp,
            Value::Partition => Text::Of(partition),
            Value::Topic => Text::Of(batch.topic.as_bytes()),
            Value::Constant(text) => Text::Of(text.as_bytes()),
        }
    }
}

impl HeaderInjector {
    /// Returns the headers of all records.
    fn column(&self, batch: &Batch) -> HeaderColumn {
        let (count, records) = (self.headers.len(), batch.offsets.len());
        let mut names = Column::with_capacity(count, 32 * count);
        for header in &self.headers {
            names.push(Some(header.name.as_bytes()));
        }
        let partition = Decimal::new(batch.partition);
        let texts: Vec<Text<'_>> = self.headers.iter().map(|header| header.text(batch, partition.as_bytes())).collect();
        let most_bytes: usize = texts.iter().map(Text::most_bytes).sum();
        let (mut data, mut ends) = (vec![0; records * most_bytes + Series::ROOM], vec![0; records * count]);
        let (mut offsets, mut timestamps, mut at) = (Series::default(), Series::default(), 0);
        // Of no header there is no cell, and of none of them an end.
        let rows = ends.chunks_exact_mut(count.max(1));
        for ((offset, timestamp), ends) in batch.offsets.iter().zip(&batch.timestamps).zip(rows) {
            for (text, end) in texts.iter().zip(ends) {
                at = match text {
                    Text::Offset => offsets.write(&mut data, at, *offset),
                    Text::Timestamp => timestamps.write(&mut data, at, *timestamp),
                    Text::Of(text) => {
                        copy(&mut data[at..], text);
                        at + text.len()
                    }
                };
                *end = at as u32;
            }
        }
        data.truncate(at);
        let values = Column { ends, nulls: Vec::new(), data };
        // All records have the same names, in the order of the dictionary.
        HeaderColumn { row_ends: None, names, name_indexes: (0..count as u32).collect(), values }
    }

    /// Refuses two headers of one name: the second would replace the first.
    fn check_names(&self) -> Result<()> {
        for (at, Injected { setting, name, .. }) in self.headers.iter().enumerate() {
            if let Some(Injected { setting: other, .. }) = self.headers[..at].iter().find(|known| known.name == *name) {
                let problem = if other == setting {
                    format!("setting `{setting}` takes one value")
                } else {
                    format!(
                        "settings `{other}` and `{setting}` name one header, `{name}`: give one of them another name"
                    )
                };
                return Err(Error::new(problem));
            }
        }
        Ok(())
    }
}

fn unnamed(setting: &str) -> Error {
    Error::new(format!("setting `{setting}` is empty: give the header a name, or `false` for no such header"))
}

export!(HeaderInjector);

#[cfg(test)]
mod tests;
