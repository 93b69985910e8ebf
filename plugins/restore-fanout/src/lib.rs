//! Sends a record to one or more topics, chosen by its topic, key, a header, or a field of its JSON value.
//!
//! A record that matches is copied (and also goes where it would have gone) or moved; copies are adjacent and in the order
//! of the setting. A record that matches nothing goes on as it was, is dropped, or goes to topics of its own. What is
//! looked at is asked for, and nothing else crosses the boundary; keys, values and headers are never changed.

mod json;

use kafka_backup_transform::wit::Batch;
use kafka_backup_transform::{Columns, Error, Output, Record, Result, Settings, Touches, Transform, export};

/// The transform.
pub struct RestoreFanout {
    by: By,
    /// For each value that is looked for, where its records go.
    routes: Vec<(String, Vec<String>)>,
    /// Where records go that match none.
    otherwise: Vec<String>,
    drop_unmatched: bool,
    /// Whether a record that matches stays where it was as well.
    copy: bool,
    /// The route of the batch at hand, where its topic decides.
    of_topic: Option<usize>,
}

/// What of a record is looked at.
enum By {
    Topic,
    Key,
    Header(String),
    Json(Vec<String>),
}

impl Transform for RestoreFanout {
    fn new(settings: &Settings) -> Result<Self> {
        settings.only(&["by", "header", "field", "to.*", "otherwise", "unmatched", "mode"])?;
        let mut routes: Vec<(String, Vec<String>)> = Vec::new();
        for (value, topic) in settings.table("to") {
            let known = routes.iter().position(|(known, _)| known == value).unwrap_or_else(|| {
                routes.push((value.to_owned(), Vec::new()));
                routes.len() - 1
            });
            add_topic(&format!("to.{value}"), &mut routes[known].1, topic)?;
        }
        let mut otherwise = Vec::new();
        for topic in settings.all("otherwise") {
            add_topic("otherwise", &mut otherwise, topic)?;
        }
        if routes.is_empty() && otherwise.is_empty() {
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
        Ok(Self { by, routes, otherwise, drop_unmatched: unmatched == Some("drop"), copy, of_topic: None })
    }

    fn needs(&self) -> Columns {
        match self.by {
            By::Topic => Columns::empty(),
            By::Key => Columns::KEYS,
            By::Header(_) => Columns::HEADERS,
            By::Json(_) => Columns::VALUES,
        }
    }

    fn touches(&self) -> Touches {
        let mut touches = Touches::TOPICS;
        if self.copy || self.all_topics().any(|topics| topics.len() > 1) {
            touches |= Touches::COPIES;
        }
        if self.drop_unmatched {
            touches |= Touches::DROPS;
        }
        touches
    }

    fn targets(&self) -> Option<Vec<String>> {
        let mut targets: Vec<String> = self.all_topics().flatten().cloned().collect();
        targets.sort_unstable();
        targets.dedup();
        Some(targets)
    }

    fn begin(&mut self, batch: &Batch) -> Result<()> {
        self.of_topic = self.route(|value| value == batch.topic);
        Ok(())
    }

    fn record(&mut self, record: Record<'_>, out: &mut Output) -> Result<()> {
        let topics = match self.matching(record) {
            Some(route) => &self.routes[route].1,
            None if self.drop_unmatched => return Ok(()),
            None if self.otherwise.is_empty() => {
                out.emit(record);
                return Ok(());
            }
            None => &self.otherwise,
        };
        if self.copy {
            out.emit(record);
        }
        for topic in topics {
            out.emit(record).topic(topic);
        }
        Ok(())
    }
}

impl RestoreFanout {
    /// Returns the route that a record takes.
    fn matching(&self, record: Record<'_>) -> Option<usize> {
        let bytes = match &self.by {
            By::Topic => return self.of_topic,
            By::Key => record.key()?,
            By::Header(name) => record.header(name)?.value?,
            By::Json(path) => match json::field(record.value()?, path)? {
                json::Found::Plain(text) => text,
                json::Found::String(text) => return self.route(|value| json::unescapes_to(text, value)),
            },
        };
        self.route(|value| value.as_bytes() == bytes)
    }

    fn route(&self, fits: impl Fn(&str) -> bool) -> Option<usize> {
        self.routes.iter().position(|(value, _)| fits(value))
    }

    fn all_topics(&self) -> impl Iterator<Item = &Vec<String>> {
        self.routes.iter().map(|(_, topics)| topics).chain([&self.otherwise])
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
fn add_topic(setting: &str, topics: &mut Vec<String>, topic: &str) -> Result<()> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid = (1..=249).contains(&topic.len()) && topic.bytes().all(legal) && topic != "." && topic != "..";
    if !valid {
        let rule = "1 to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`";
        return Err(Error::new(format!("setting `{setting}` cannot be `{topic}`: a topic's name is {rule}")));
    }
    if topics.iter().any(|known| known == topic) {
        return Err(Error::new(format!("setting `{setting}` names topic `{topic}` twice")));
    }
    topics.push(topic.to_owned());
    Ok(())
}

export!(RestoreFanout);

#[cfg(test)]
mod tests;
