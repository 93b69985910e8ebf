//! The shipped plugins' transforms once more, written natively: rows in, rows and where they go out.
//!
//! This is what one would write who needs the transform and no plugin: fields stay where they are, nothing is allocated
//! for a record, buffers are made as large as they will be. What takes thought, decimal text and the search for a field of
//! JSON, is the plugins' own source, compiled into this program, with the machine's own instructions for sixteen bytes where
//! the plugins have WebAssembly's: what is measured is what the boundary and the compiler of plugins cost.

use kafka_backup::batch::records::rows::{Row, Rows, put_header, put_length, put_name};
use kafka_backup::record::Partition;

#[path = "../plugins/sdk/src/decimal.rs"]
#[allow(unreachable_pub, dead_code, unused_imports)]
mod decimal;

#[path = "../plugins/restore-fanout/src/json.rs"]
#[allow(dead_code, unused_imports)]
mod json;

use decimal::{Decimal, Series};

/// The header-injector's default names.
const NAMES: [&[u8]; 3] = [b"x-kafka-backup-offset", b"x-kafka-backup-timestamp", b"x-kafka-backup-partition"];

/// What the three headers of a record take on the wire at most, but for long numbers of partitions.
const INJECTED_BYTES: usize = 128;

/// What a transform makes of rows.
pub(crate) struct Made {
    pub(crate) rows: Rows,
    /// For each row 0, or the number of its topic, from 1 on; `None`: no row is sent elsewhere.
    pub(crate) topics: Option<Vec<u32>>,
}

/// A transform with its settings.
pub(crate) enum Native {
    Inject,
    Filter { from_ms: i64, until_ms: i64 },
    Fanout(Fanout),
}

impl Native {
    /// Makes the transform that a plugin of that name is with these settings.
    pub(crate) fn new(plugin: &str, settings: &[(&str, &str)]) -> Self {
        let time = |name| one(settings, name).map(|text| text.parse().expect("milliseconds"));
        match plugin {
            "header-injector" => Self::Inject,
            "pitr-filter" => {
                Self::Filter { from_ms: time("from").unwrap_or(i64::MIN), until_ms: time("until").unwrap_or(i64::MAX) }
            }
            "restore-fanout" => Self::Fanout(Fanout::new(settings)),
            other => panic!("{other} is no shipped plugin"),
        }
    }

    pub(crate) fn apply(&self, partition: &Partition, rows: &Rows) -> Made {
        match self {
            Self::Inject => Made { rows: inject(partition, rows), topics: None },
            Self::Filter { from_ms, until_ms } => Made { rows: filter(rows, *from_ms, *until_ms), topics: None },
            Self::Fanout(fanout) => fanout.apply(partition, rows),
        }
    }

    /// Returns the name of the topic of that number, from 1 on.
    pub(crate) fn topic(&self, number: u32) -> Option<&str> {
        match self {
            Self::Fanout(fanout) => Some(&fanout.topics[(number as usize).checked_sub(1)?]),
            _ => None,
        }
    }
}

/// Puts three headers behind those of each row, in place of what has their names.
pub(crate) fn inject(partition: &Partition, rows: &Rows) -> Rows {
    let partition = Decimal::new(partition.index);
    let (mut offsets, mut timestamps) = (Series::default(), Series::default());
    let there: usize = rows.rows().iter().map(|row| rows.header_bytes(row.headers).len()).sum();
    let mut wire = Vec::with_capacity(there + rows.len() * INJECTED_BYTES);
    let mut derived = rows.derive();
    let buffer = derived.next_buffer();
    let mut made = Vec::with_capacity(rows.len());
    for row in rows.rows() {
        let (start, mut count) = (wire.len(), NAMES.len() as u32);
        for (name, value) in rows.headers(row.headers).filter(|(name, _)| !NAMES.contains(name)) {
            put_header(&mut wire, name, value);
            count += 1;
        }
        put_number(&mut wire, NAMES[0], &mut offsets, row.offset);
        put_number(&mut wire, NAMES[1], &mut timestamps, row.timestamp.0);
        put_header(&mut wire, NAMES[2], Some(partition.as_bytes()));
        made.push(Row { headers: buffer.headers(count, start..wire.len()), ..*row });
    }
    derived.add(wire.into());
    derived.finish(made)
}

/// Puts a header whose value is a number as decimal text.
fn put_number(wire: &mut Vec<u8>, name: &[u8], series: &mut Series, number: i64) {
    put_name(wire, name);
    let at = wire.len();
    // A length of one byte, as that of a number is.
    put_length(wire, Some(0));
    series.put(wire, number);
    wire[at] = ((wire.len() - at - 1) << 1) as u8;
}

/// Keeps the rows from `from_ms` on, before `until_ms`.
fn filter(rows: &Rows, from_ms: i64, until_ms: i64) -> Rows {
    let mut made = Vec::with_capacity(rows.len());
    made.extend(rows.rows().iter().filter(|row| (from_ms..until_ms).contains(&row.timestamp.0)));
    rows.derive().finish(made)
}

/// Sends rows to topics by something that they hold.
pub(crate) struct Fanout {
    by: By,
    /// For each value that is looked for, the numbers of the topics that its rows go to.
    routes: Vec<(String, Vec<u32>)>,
    otherwise: Vec<u32>,
    topics: Vec<String>,
    copy: bool,
    drop_unmatched: bool,
}

enum By {
    Topic,
    Key,
    Header(String),
    Json(Vec<String>),
}

impl Fanout {
    fn new(settings: &[(&str, &str)]) -> Self {
        let by = match one(settings, "by") {
            Some("topic") => By::Topic,
            Some("key") => By::Key,
            Some("header") => By::Header(one(settings, "header").expect("a header").to_owned()),
            _ => By::Json(one(settings, "field").expect("a field").split('.').map(str::to_owned).collect()),
        };
        let (copy, drop) = (one(settings, "mode") != Some("move"), one(settings, "unmatched") == Some("drop"));
        let (routes, otherwise, topics) = (Vec::new(), Vec::new(), Vec::new());
        let mut fanout = Self { by, routes, otherwise, topics, copy, drop_unmatched: drop };
        for (name, topic) in settings {
            if *name == "otherwise" {
                let number = fanout.number(topic);
                fanout.otherwise.push(number);
            } else if let Some(value) = name.strip_prefix("to.") {
                let number = fanout.number(topic);
                match fanout.routes.iter_mut().find(|(known, _)| known == value) {
                    Some((_, topics)) => topics.push(number),
                    None => fanout.routes.push((value.to_owned(), vec![number])),
                }
            }
        }
        fanout
    }

    /// Returns the number of a topic, from 1 on.
    fn number(&mut self, topic: &str) -> u32 {
        let known = self.topics.iter().position(|known| known == topic);
        known.unwrap_or_else(|| {
            self.topics.push(topic.to_owned());
            self.topics.len() - 1
        }) as u32
            + 1
    }

    fn apply(&self, partition: &Partition, rows: &Rows) -> Made {
        let of_topic = self.route(partition.topic.as_bytes());
        let (mut made, mut topics) = (Vec::with_capacity(2 * rows.len()), Vec::with_capacity(2 * rows.len()));
        let mut put = |row: &Row, topic| {
            made.push(*row);
            topics.push(topic);
        };
        for row in rows.rows() {
            let found = match &self.by {
                By::Topic => of_topic,
                By::Key => rows.bytes(row.key).and_then(|key| self.route(key)),
                By::Header(name) => {
                    let named = rows.headers(row.headers).filter(|(known, _)| *known == name.as_bytes());
                    named.last().and_then(|(_, value)| self.route(value?))
                }
                By::Json(path) => match rows.bytes(row.value).map(|value| json::find(value, path)) {
                    Some(Ok((json::Found::Plain(text) | json::Found::String(text), _))) => self.route(text),
                    Some(Ok((json::Found::Escaped(text), _))) => {
                        self.routes.iter().position(|(value, _)| json::unescapes_to(text, value))
                    }
                    Some(Err(_)) | None => None,
                },
            };
            let to = match found {
                Some(route) => &self.routes[route].1,
                None if self.drop_unmatched => continue,
                None => &self.otherwise,
            };
            if self.copy || to.is_empty() {
                put(row, 0);
            }
            to.iter().for_each(|topic| put(row, *topic));
        }
        Made { rows: rows.derive().finish(made), topics: Some(topics) }
    }

    fn route(&self, bytes: &[u8]) -> Option<usize> {
        self.routes.iter().position(|(value, _)| value.as_bytes() == bytes)
    }
}

/// What the plugin's reading of JSON compares by.
fn same(left: &[u8], right: &[u8]) -> bool {
    left == right
}

fn one<'a>(settings: &[(&str, &'a str)], wanted: &str) -> Option<&'a str> {
    settings.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value)
}
