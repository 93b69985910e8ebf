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
        let of_topic = self.route(|value| value == batch.topic);
        let mut search = match &self.by {
            By::Json(path) => Some(Search::new(path, &self.reach)),
            _ => None,
        };
        for record in 0..batch.len() {
            let topics = match self.matching(Record::new(batch, record), of_topic, &mut search) {
                Some(route) => &self.routes[route].1,
                None if self.drop_unmatched => continue,
                None => &self.otherwise,
            };
            if self.copy || topics.is_empty() {
                rows.put(record, None);
            }
            for topic in topics {
                rows.put(record, Some(*topic));
            }
        }
        let output = rows.finish(batch.len());
        if let Some(search) = &search {
            self.reach.learn(search);
        }
        Ok(output)
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

    /// Returns the route that a record takes; `of_topic` is that of its topic, and `search` for fields of JSON.
    #[inline]
    fn matching(&self, record: Record<'_>, of_topic: Option<usize>, search: &mut Option<Search<'_>>) -> Option<usize> {
        let bytes = match &self.by {
            By::Topic => return of_topic,
            By::Key => record.key()?,
            By::Header(name) => record.header(name)?.value?,
            By::Json(_) => {
                return search.as_mut()?.field(record.index(), |found| match found {
                    Found::String(text) | Found::Plain(text) => self.route(|value| same(value.as_bytes(), text)),
                    Found::Escaped(text) => self.route(|value| json::unescapes_to(text, value)),
                });
            }
        };
        self.route(|value| same(value.as_bytes(), bytes))
    }

    #[inline]
    fn route(&self, fits: impl Fn(&str) -> bool) -> Option<usize> {
        self.routes.iter().position(|(value, _)| fits(value))
    }
}

/// The rows of an answer, and where each goes.
struct Rows<'a> {
    topics: &'a [String],
    /// Of each topic its number in the answer, from 1 on; 0 where no row has gone there yet.
    numbers: Vec<u32>,
    source: Vec<u32>,
    route: Route,
}

impl<'a> Rows<'a> {
    fn new(topics: &'a [String], records: u32) -> Self {
        // Most often a record stays or goes to one topic, or both.
        let most = 2 * records as usize;
        let route = Route { names: Vec::new(), indexes: Vec::with_capacity(most) };
        Self { topics, numbers: vec![0; topics.len()], source: Vec::with_capacity(most), route }
    }

    #[inline]
    fn put(&mut self, record: u32, topic: Option<usize>) {
        let index = topic.map_or(0, |topic| match self.numbers[topic] {
            0 => self.name(topic),
            number => number,
        });
        self.source.push(record);
        self.route.indexes.push(index);
    }

    fn name(&mut self, topic: usize) -> u32 {
        self.route.names.push(self.topics[topic].clone());
        self.numbers[topic] = self.route.names.len() as u32;
        self.numbers[topic]
    }

    fn finish(self, records: u32) -> Output {
        let Self { source, route, .. } = self;
        let is_each_once = source.iter().copied().eq(0..records);
        Output {
            source: (!is_each_once).then_some(source),
            topics: (!route.names.is_empty()).then_some(route),
            partitions: None,
            timestamps: None,
            keys: None,
            values: None,
            headers: None,
        }
    }
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
