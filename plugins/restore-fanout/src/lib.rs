//! Sends a record to one or more topics, chosen by its topic, key, a header, or a field of its JSON value.
//!
//! A record that matches is copied (and also goes where it would have gone) or moved; copies are adjacent and in the order
//! of the setting. A record that matches nothing goes on as it was, is dropped, or goes to topics of its own. What is
//! looked at is asked for, and nothing else crosses the boundary; keys, values and headers are never changed.

mod json;
mod search;

use kafka_backup_transform::wit::{Batch, Output, Route};
use kafka_backup_transform::{Columns, Error, Plan, Plugin, Record, Result, Settings, Touches, Window, export, same};

use self::json::Found;
use self::search::{Reach, Search};

/// The transform. It makes the columns of rows and their topics itself: there is nothing else in its answer.
pub struct RestoreFanout {
    by: By,
    /// For each value that is looked for, the numbers of the topics that its records go to.
    routes: Vec<(String, Vec<usize>)>,
    /// Where records go that match none.
    otherwise: Vec<usize>,
    /// Every topic once.
    topics: Vec<String>,
    drop_unmatched: bool,
    /// Whether a record that matches stays where it was as well.
    copy: bool,
    /// Where fields of JSON are found. It changes no answer.
    reach: Reach,
}

/// What of a record is looked at.
enum By {
    Topic,
    Key,
    Header(String),
    Json(Vec<String>),
}

impl Plugin for RestoreFanout {
    fn configure(settings: Vec<(String, String)>) -> Result<(Self, Plan)> {
        let fanout = Self::read(&Settings::new(settings))?;
        let mut targets = fanout.topics.clone();
        targets.sort_unstable();
        let plan = Plan {
            needs: match fanout.by {
                By::Topic => Columns::empty(),
                By::Key => Columns::KEYS,
                By::Header(_) => Columns::HEADERS,
                By::Json(_) => Columns::VALUES_ON_DEMAND,
            },
            touches: fanout.touches(),
            targets: Some(targets),
            keeps: Window { from: None, until: None },
            pure: true,
        };
        Ok((fanout, plan))
    }

    fn apply(&mut self, batch: &Batch) -> Result<Output> {
        let mut rows = Rows::new(&self.topics, batch.len());
        let record = |record| Record::new(batch, record);
        match &self.by {
            By::Topic => {
                let topics = self.topics_of(|value| value == batch.topic);
                self.send(&mut rows, batch.len(), |_| topics);
            }
            By::Key => self.send(&mut rows, batch.len(), |number| self.topics_by(record(number).key()?)),
            By::Header(name) => {
                self.send(&mut rows, batch.len(), |number| self.topics_by(record(number).header(name)?.value?));
            }
            By::Json(path) => {
                let mut search = Search::new(path, &self.reach);
                self.send(&mut rows, batch.len(), |record| {
                    search.field(record, |found| match found {
                        Found::String(text) | Found::Plain(text) => self.topics_by(text),
                        Found::Escaped(text) => self.topics_of(|value| json::unescapes_to(text, value)),
                    })
                });
                self.reach = self.reach.learned(&search);
            }
        }
        Ok(rows.finish(batch.len()))
    }
}

impl RestoreFanout {
    fn read(settings: &Settings) -> Result<Self> {
        settings.only(&["by", "header", "field", "to.*", "otherwise", "unmatched", "mode"])?;
        let mut topics = Vec::new();
        let mut routes: Vec<(String, Vec<usize>)> = Vec::new();
        for (value, topic) in settings.table("to") {
            let known = routes.iter().position(|(known, _)| known == value).unwrap_or_else(|| {
                routes.push((value.to_owned(), Vec::new()));
                routes.len() - 1
            });
            add_topic(&format!("to.{value}"), &mut topics, &mut routes[known].1, topic)?;
        }
        let mut otherwise = Vec::new();
        for topic in settings.all("otherwise") {
            add_topic("otherwise", &mut topics, &mut otherwise, topic)?;
        }
        if topics.is_empty() {
            return Err(Error::new(
                "no setting says where records go: write `to = { value = \"topic\" }`, or `otherwise`",
            ));
        }
        let unmatched = settings.choice("unmatched", &["keep", "drop"])?;
        if unmatched.is_some() && !otherwise.is_empty() {
            return Err(Error::new("settings `unmatched` and `otherwise` exclude each other"));
        }
        let copy = settings.choice("mode", &["copy", "move"])? != Some("move");
        let by = By::read(settings)?;
        let drop_unmatched = unmatched == Some("drop");
        Ok(Self { by, routes, otherwise, topics, drop_unmatched, copy, reach: Reach::default() })
    }

    fn touches(&self) -> Touches {
        let mut touches = Touches::TOPICS;
        let mut targets = self.routes.iter().map(|(_, topics)| topics).chain([&self.otherwise]);
        if self.copy || targets.any(|topics| topics.len() > 1) {
            touches |= Touches::COPIES;
        }
        if self.drop_unmatched {
            touches |= Touches::DROPS;
        }
        touches
    }

    /// Sends each record to the topics that `matching` tells for it, if there are any. What else a call does is not in this
    /// loop: with few numbers it stays in registers.
    #[inline(never)]
    fn send<'a>(&'a self, rows: &mut Rows<'_>, records: u32, mut matching: impl FnMut(u32) -> Option<&'a [usize]>) {
        for record in 0..records {
            let topics = match matching(record) {
                Some(topics) => topics,
                None if self.drop_unmatched => continue,
                None => &self.otherwise,
            };
            rows.put(record, self.copy || topics.is_empty(), topics);
        }
    }

    /// Returns the topics of the value that these bytes are.
    #[inline(always)]
    fn topics_by(&self, bytes: &[u8]) -> Option<&[usize]> {
        self.topics_of(|value| same(value.as_bytes(), bytes))
    }

    #[inline(always)]
    fn topics_of(&self, fits: impl Fn(&str) -> bool) -> Option<&[usize]> {
        self.routes.iter().find(|(value, _)| fits(value)).map(|(_, topics)| &topics[..])
    }
}

/// The rows of an answer, and where each goes.
struct Rows<'a> {
    topics: &'a [String],
    /// Of each topic its number in the answer, from 1 on; 0 where no row has gone there yet.
    numbers: Vec<u32>,
    names: Vec<String>,
    /// How many rows there are. The lists have room for more, so that to put a row is to write two numbers.
    count: usize,
    source: Vec<u32>,
    indexes: Vec<u32>,
}

impl<'a> Rows<'a> {
    fn new(topics: &'a [String], records: u32) -> Self {
        // Most often a record stays or goes to one topic, or both.
        let room = vec![0; 2 * records as usize];
        let numbers = vec![0; topics.len()];
        Self { topics, numbers, names: Vec::new(), count: 0, source: room.clone(), indexes: room }
    }

    /// Puts the rows of a record: one that stays, if it does, and one for each of the topics.
    #[inline(always)]
    fn put(&mut self, record: u32, stays: bool, topics: &[usize]) {
        let (mut at, end) = (self.count, self.count + usize::from(stays) + topics.len());
        if end > self.source.len() {
            self.make_room(end);
        }
        self.count = end;
        let (source, indexes) = (&mut self.source[at..end], &mut self.indexes[..end]);
        source.iter_mut().for_each(|row| *row = record);
        if stays {
            indexes[at] = 0;
            at += 1;
        }
        for (index, topic) in indexes[at..].iter_mut().zip(topics) {
            let number = &mut self.numbers[*topic];
            if *number == 0 {
                *number = add_name(&mut self.names, &self.topics[*topic]);
            }
            *index = *number;
        }
    }

    #[cold]
    #[inline(never)]
    fn make_room(&mut self, rows: usize) {
        let room = rows.max(2 * self.source.len());
        self.source.resize(room, 0);
        self.indexes.resize(room, 0);
    }

    fn finish(self, records: u32) -> Output {
        let Self { names, count, mut source, mut indexes, .. } = self;
        source.truncate(count);
        indexes.truncate(count);
        let is_each_once = source.iter().copied().eq(0..records);
        Output {
            source: (!is_each_once).then_some(source),
            topics: (!names.is_empty()).then_some(Route { names, indexes }),
            partitions: None,
            timestamps: None,
            keys: None,
            values: None,
            headers: None,
        }
    }
}

/// Adds a topic to those of an answer; returns its number.
#[cold]
#[inline(never)]
fn add_name(names: &mut Vec<String>, topic: &str) -> u32 {
    names.push(topic.to_owned());
    names.len() as u32
}

impl By {
    fn read(settings: &Settings) -> Result<Self> {
        let by = settings.choice("by", &["topic", "key", "header", "json"])?;
        for (setting, of) in [("header", "header"), ("field", "json")] {
            if settings.get(setting)?.is_some() && by != Some(of) {
                return Err(Error::new(format!("setting `{setting}` is only for `by = \"{of}\"`")));
            }
        }
        match by {
            Some("topic") => Ok(Self::Topic),
            Some("key") => Ok(Self::Key),
            Some("header") => Ok(Self::Header(settings.require("header")?.to_owned())),
            Some(_) => Ok(Self::Json(settings.require("field")?.split('.').map(str::to_owned).collect())),
            None => Err(Error::new("setting `by` is missing; possible: `topic`, `key`, `header`, `json`")),
        }
    }
}

/// Adds a topic, if Kafka could have one of that name.
fn add_topic(setting: &str, topics: &mut Vec<String>, to: &mut Vec<usize>, topic: &str) -> Result<()> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid = (1..=249).contains(&topic.len()) && topic.bytes().all(legal) && topic != "." && topic != "..";
    if !valid {
        let rule = "1 to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`";
        return Err(Error::new(format!("setting `{setting}` cannot be `{topic}`: a topic's name is {rule}")));
    }
    let number = topics.iter().position(|known| known == topic).unwrap_or_else(|| {
        topics.push(topic.to_owned());
        topics.len() - 1
    });
    if to.contains(&number) {
        return Err(Error::new(format!("setting `{setting}` names topic `{topic}` twice")));
    }
    to.push(number);
    Ok(())
}

export!(RestoreFanout);

#[cfg(test)]
mod tests;
