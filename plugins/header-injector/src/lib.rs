//! Writes into each record's headers where it was: offset, timestamp and partition at the source, as decimal text.
//!
//! Whatever headers a record has stay, but those of the same names, which are replaced; so a record that is restored
//! twice tells of its last source. Nothing is asked for: neither keys, values nor headers cross the boundary.

use kafka_backup_transform::wit::Batch;
use kafka_backup_transform::{Columns, Decimal, Error, Output, Record, Result, Settings, Touches, Transform, export};

/// Each header that can be injected: its setting, its default name, and whether it is on by default.
const FIELDS: [(&str, &str, bool); 4] = [
    ("offset", "x-kafka-backup-offset", true),
    ("timestamp", "x-kafka-backup-timestamp", true),
    ("partition", "x-kafka-backup-partition", true),
    ("topic", "x-kafka-backup-topic", false),
];

/// The transform.
pub struct HeaderInjector {
    /// Names for offset, timestamp, partition and topic; none for what is not wanted.
    names: [Option<String>; 4],
    constants: Vec<(String, String)>,
    /// The partition of the batch at hand, as text.
    partition: Decimal,
}

impl Transform for HeaderInjector {
    fn new(settings: &Settings) -> Result<Self> {
        settings.only(&["offset", "timestamp", "partition", "topic", "headers.*"])?;
        let mut names = [const { None }; 4];
        for (name, (setting, default, on)) in names.iter_mut().zip(FIELDS) {
            *name = match settings.get(setting)? {
                None => on.then(|| default.to_owned()),
                Some("true") => Some(default.to_owned()),
                Some("false") => None,
                Some("") => return Err(unnamed(setting)),
                Some(name) => Some(name.to_owned()),
            };
        }
        let mut constants: Vec<(String, String)> = Vec::new();
        for (name, value) in settings.table("headers") {
            constants.push((name.to_owned(), value.to_owned()));
        }
        let injector = Self { names, constants, partition: Decimal::new(0) };
        injector.check_names()?;
        Ok(injector)
    }

    fn needs(&self) -> Columns {
        Columns::empty()
    }

    fn touches(&self) -> Touches {
        Touches::HEADERS
    }

    fn begin(&mut self, batch: &Batch) -> Result<()> {
        self.partition = Decimal::new(batch.partition);
        Ok(())
    }

    fn record(&mut self, record: Record<'_>, out: &mut Output) -> Result<()> {
        let mut row = out.emit(record);
        let [offset, timestamp, partition, topic] = &self.names;
        if let Some(name) = offset {
            row = row.set_header(name, Some(Decimal::new(record.offset()).as_bytes()));
        }
        if let Some(name) = timestamp {
            row = row.set_header(name, Some(Decimal::new(record.timestamp()).as_bytes()));
        }
        if let Some(name) = partition {
            row = row.set_header(name, Some(self.partition.as_bytes()));
        }
        if let Some(name) = topic {
            row = row.set_header(name, Some(record.topic().as_bytes()));
        }
        for (name, value) in &self.constants {
            row = row.set_header(name, Some(value.as_bytes()));
        }
        Ok(())
    }
}

impl HeaderInjector {
    /// Refuses two headers of one name: the second would replace the first.
    fn check_names(&self) -> Result<()> {
        let fields = FIELDS.iter().zip(&self.names);
        let mut named: Vec<(String, &str)> =
            fields.filter_map(|((setting, ..), name)| Some((setting.to_string(), name.as_deref()?))).collect();
        named.extend(self.constants.iter().map(|(name, _)| (format!("headers.{name}"), name.as_str())));
        for (at, (setting, name)) in named.iter().enumerate() {
            if let Some((other, _)) = named[..at].iter().find(|(_, known)| known == name) {
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
