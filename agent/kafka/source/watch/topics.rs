//! The watch's view of topics: which exist, how they are set, which partitions they have, who leads those.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::fetcher::Order;
use super::super::{Command, Found, GIVE_UP_AFTER, Item, Selection};
use super::runs::Stage;
use super::{Held, Watch};
use crate::error::{Error, Result};
use crate::kafka::client::{Metadata, TopicMetadata};
use crate::kafka::{Client, code_name};
use crate::pipeline::{Event, Topic, TopicConfig};
use crate::record::{Partition, TopicId};

/// The least time between two looks at the cluster, however many partitions ask for one.
const LOOK_APART: Duration = Duration::from_millis(100);

/// A topic that is not there, or is another one, is looked at again this soon, and believed when it has been so for as
/// long: a broker that has just come back, or is cut off, tells of a cluster that was.
const DOUBT: Duration = Duration::from_secs(1);

/// Names as near as this to a missing one are offered (Jaro-Winkler, 0 to 1).
const NEAR: f64 = 0.85;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const LEADER_NOT_AVAILABLE: i16 = 5;

/// What was seen of a topic.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Its id, from the first time on: another one is another topic.
    id: Option<TopicId>,
    /// Since when, without a break, looks have told something else than what is known: that it is not there (`None`),
    /// or that another one of its name is.
    doubted: Option<(Option<TopicId>, Instant)>,
    /// What was told of it.
    told: Option<Topic>,
    /// Whether the cluster said that it does not exist: should it come, it is read from its beginning.
    missed: bool,
}

impl Seen {
    /// Takes note that a look told of no topic of its name (`None`) or of another one, not of what is known; returns
    /// whether that has been so for long enough to be believed.
    fn doubt(&mut self, told: Option<TopicId>, now: Instant) -> bool {
        let since = self.doubted.filter(|(before, _)| *before == told).map_or(now, |(_, since)| since);
        self.doubted = Some((told, since));
        now - since >= DOUBT
    }

    /// Returns whether the topic is there, as far as is known.
    pub(super) fn is_there(&self) -> bool {
        self.told.is_some()
    }
}

impl Watch {
    /// Looks at the cluster, if that is due and no look is on its way.
    ///
    /// # Errors
    /// In a pass, when looks have failed for [`GIVE_UP_AFTER`].
    pub(super) fn look_if_due(&mut self, now: Instant) -> Result<()> {
        if self.look.running || now < self.look.next {
            return Ok(());
        }
        if self.options.one_pass && self.look.failing_since.is_some_and(|since| now - since > GIVE_UP_AFTER) {
            let reason = self.troubles.get(&self.cluster()).cloned().unwrap_or_default();
            return Err(Error::failed(reason).hint("the pass was given up; run it again when the cluster answers"));
        }
        let unseen = self.topics.values().any(|seen| seen.told.is_none());
        let with_configs = unseen || now >= self.look.configs_next;
        if with_configs {
            self.look.configs_next = now + self.options.metadata_interval;
        }
        self.look.running = true;
        self.look.began = Some(now);
        self.look.next = now + self.options.metadata_interval;
        let (client, commands) = (self.client.clone(), self.commands.clone());
        let selection = self.options.topics.clone();
        let one_pass = self.options.one_pass;
        self.tasks.spawn(async move {
            let found = look(&client, &selection, with_configs, one_pass).await;
            let _ = commands.send(Command::Found(found));
        });
        Ok(())
    }

    /// Looks at the cluster soon.
    pub(super) fn look_soon(&mut self, now: Instant) {
        let soon = self.look.began.map_or(now, |began| (began + LOOK_APART).max(now));
        self.look.next = self.look.next.min(soon);
    }

    /// Looks at the cluster at the latest `within` after the last look.
    pub(super) fn look_within(&mut self, within: Duration, now: Instant) {
        let due = self.look.began.map_or(now, |began| began + within);
        self.look.next = self.look.next.min(due);
    }

    /// Hears what a look has found.
    ///
    /// # Errors
    /// In a pass, when a topic does not exist or may not be read.
    pub(super) fn found(&mut self, found: Result<Found>) -> Result<()> {
        self.look.running = false;
        let now = Instant::now();
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.look.failing_since.get_or_insert(now);
                self.look.next = now + self.look.backoff.wait();
                self.trouble(self.cluster(), Some(error.to_string()));
                return Ok(());
            }
        };
        self.look.failing_since = None;
        let first = *self.look.first.get_or_insert(now);
        self.look.known = self.look.began;
        self.trouble(self.cluster(), None);
        self.forget_brokers(&found.metadata);
        let (mut missing, mut elected) = (Vec::new(), true);
        let mut configs = found.configs.unwrap_or_default();
        let mut by_name: BTreeMap<String, TopicMetadata> =
            found.metadata.topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        for name in by_name.keys().filter(|name| !self.topics.contains_key(*name)).cloned().collect::<Vec<_>>() {
            // One that a pattern matches and that was not there at the first looks was made since.
            self.topics.insert(name, Seen { missed: now - first >= DOUBT, ..Seen::default() });
        }
        for name in self.topics.keys().cloned().collect::<Vec<_>>() {
            let topic = by_name.remove(&name).unwrap_or(TopicMetadata {
                name: name.clone(),
                code: UNKNOWN_TOPIC_OR_PARTITION,
                ..TopicMetadata::default()
            });
            match topic.code {
                0 => self.topic(&topic, configs.remove(&name), now)?,
                UNKNOWN_TOPIC_OR_PARTITION if self.options.one_pass => missing.push(name),
                UNKNOWN_TOPIC_OR_PARTITION => self.missed(&name, now),
                LEADER_NOT_AVAILABLE => elected = false,
                code if self.options.one_pass => {
                    return Err(Error::failed(format!("topic \"{name}\" cannot be read: {}", code_name(code))));
                }
                code => {
                    let reason = format!("it cannot be read: {}; tried again at each look", code_name(code));
                    self.trouble(subject(&name), Some(reason));
                }
            }
        }
        if elected {
            self.look.backoff.reset();
        } else {
            self.look.next = now + self.look.backoff.wait();
        }
        if !missing.is_empty() {
            return Err(no_such_topics(&missing, &found.names));
        }
        self.return_moved(now);
        self.subscribe();
        self.unsettled = true;
        self.share_out(now);
        if self.options.one_pass && self.topics.values().all(|seen| seen.told.is_some()) {
            // Told again with each look; the source hears it once.
            self.outbox.push(Item::Complete);
        }
        Ok(())
    }

    pub(super) fn cluster(&self) -> String {
        format!("cluster at {}", self.client.properties().bootstrap_servers.join(", "))
    }

    /// Brokers that have left the cluster are no trouble any more.
    fn forget_brokers(&mut self, metadata: &Metadata) {
        let gone = self.troubles.keys().filter(|subject| {
            subject.strip_prefix("broker ").is_some_and(|address| !metadata.brokers.values().any(|it| it == address))
        });
        for subject in gone.cloned().collect::<Vec<_>>() {
            self.trouble(subject, None);
        }
    }

    /// Hears that the cluster does not have the topic of that name.
    fn missed(&mut self, name: &str, now: Instant) {
        let by_name = self.options.topics.names().iter().any(|named| named == name);
        let Some(seen) = self.topics.get_mut(name).filter(|seen| !seen.missed) else { return };
        if !seen.doubt(None, now) {
            self.look_within(DOUBT, now);
            return;
        }
        seen.missed = true;
        let was_there = seen.is_there();
        if was_there {
            tracing::warn!(topic = name, "the topic was deleted: what was durable of it is kept");
            self.bury(name);
        }
        if !by_name {
            self.trouble(subject(name), None);
            self.trouble(settings_of(name), None);
            self.topics.remove(name);
            return;
        }
        let reason = match was_there {
            true => {
                "it was deleted; what was durable of it is kept; it is read from its beginning when it is made again"
            }
            false => "it does not exist on the cluster; it is read from its beginning when it appears",
        };
        self.trouble(subject(name), Some(reason.to_owned()));
    }

    /// Lets go of the topic that bore the name until now.
    fn bury(&mut self, name: &str) {
        for (_, held) in self.partitions.iter_mut().filter(|(partition, _)| *partition.topic == *name) {
            held.gone = true;
        }
        if let Some(seen) = self.topics.get_mut(name) {
            *seen = Seen { missed: true, ..Seen::default() };
        }
    }

    /// Has partitions that another broker leads now given back by the one that reads them: it may be one that does not
    /// answer any more.
    fn return_moved(&mut self, now: Instant) {
        for (partition, held) in &mut self.partitions {
            let leader = held.leader;
            match held.run.as_mut().map(|run| run.stage) {
                Some(Stage::Reading(broker)) if leader >= 0 && broker != leader => {
                    self.orders.push((broker, Order::Return(partition.clone())));
                }
                _ => {}
            }
            if let Some(run) = held.run.as_mut().filter(|_| held.elected) {
                run.hurry(now);
            }
            held.elected = false;
        }
    }

    /// Takes over what the cluster says of a topic that exists.
    fn topic(&mut self, topic: &TopicMetadata, configs: Option<Result<Vec<TopicConfig>>>, now: Instant) -> Result<()> {
        let Some(seen) = self.topics.get_mut(&topic.name) else { return Ok(()) };
        // A broker that knows no ids says nothing about which of its name it is.
        let topic_id = if topic.topic_id.is_none() { seen.id.unwrap_or_default() } else { topic.topic_id };
        if seen.id.is_some_and(|known| known != topic_id) && !self.recreated(topic, now)? {
            return Ok(());
        }
        let Some(seen) = self.topics.get_mut(&topic.name) else { return Ok(()) };
        seen.doubted = None;
        seen.id = Some(topic_id);
        let configs = self.configs(topic, configs);
        let Some(seen) = self.topics.get_mut(&topic.name) else { return Ok(()) };
        let before = seen.told.as_ref().map(|told| told.partitions);
        let young_from = if std::mem::take(&mut seen.missed) { 0 } else { before.unwrap_or(i32::MAX) };
        let told = Topic {
            name: topic.name.clone(),
            topic_id: topic_id.to_string(),
            partitions: topic.partitions.len() as i32,
            replication_factor: topic.partitions.first().map_or(0, |partition| partition.replicas),
            configs: configs.or_else(|| seen.told.as_ref().and_then(|told| told.configs.clone())),
        };
        if seen.told.as_ref() != Some(&told) {
            self.outbox.push(Item::Event(Event::Topic(told.clone())));
            seen.told = Some(told);
        }
        let name = self.partitions.keys().find(|partition| *partition.topic == *topic.name);
        let name = name.map_or_else(|| topic.name.as_str().into(), |partition| partition.topic.clone());
        for found in &topic.partitions {
            let partition = Partition { topic: name.clone(), topic_id, index: found.index };
            if let Some(held) = self.partitions.get_mut(&partition) {
                held.learn(found.leader, found.leader_epoch);
                continue;
            }
            let young = found.index >= young_from;
            self.partitions.insert(partition, Held::new(found.leader, found.leader_epoch, young));
        }
        self.trouble(subject(&topic.name), None);
        Ok(())
    }

    /// Returns a topic's settings, sorted; what is wrong with reading them is told.
    fn configs(
        &mut self,
        topic: &TopicMetadata,
        configs: Option<Result<Vec<TopicConfig>>>,
    ) -> Option<Vec<TopicConfig>> {
        let (configs, reason) = match configs? {
            Ok(mut configs) => {
                configs.sort_by(|a, b| a.name.cmp(&b.name));
                (Some(configs), None)
            }
            Err(error) => (None, Some(format!("{error}; its records are captured without them"))),
        };
        self.trouble(settings_of(&topic.name), reason);
        configs
    }

    /// Lets go of a topic that has made way for another one of its name, which is a timeline of its own; a pass ends
    /// with that. Returns whether that is to be believed already.
    fn recreated(&mut self, topic: &TopicMetadata, now: Instant) -> Result<bool> {
        let Some(seen) = self.topics.get_mut(&topic.name) else { return Ok(false) };
        if !seen.doubt(Some(topic.topic_id), now) {
            self.look_within(DOUBT, now);
            return Ok(false);
        }
        let old = seen.id.unwrap_or_default();
        if self.options.one_pass {
            let made = format!("was deleted and made again (id {old} before, {} now)", topic.topic_id);
            return Err(Error::failed(format!("{} {made}", subject(&topic.name))).hint("run the pass again"));
        }
        self.bury(&topic.name);
        if old.is_none() {
            tracing::warn!(topic = topic.name, new = %topic.topic_id, "the cluster has topic ids now: a new timeline");
            // It is as old as it was.
            self.topics.entry(topic.name.clone()).or_default().missed = false;
        } else {
            tracing::warn!(topic = topic.name, %old, new = %topic.topic_id, "the topic was deleted and made again");
        }
        Ok(true)
    }
}

impl Held {
    /// Takes over who leads, unless that is older than what is known.
    pub(super) fn learn(&mut self, leader: i32, leader_epoch: i32) {
        if leader_epoch < 0 || leader_epoch >= self.leader_epoch {
            self.elected |= (leader, leader_epoch) != (self.leader, self.leader_epoch) && leader >= 0;
            (self.leader, self.leader_epoch) = (leader, leader_epoch);
        }
    }
}

fn settings_of(topic: &str) -> String {
    format!("settings of {}", subject(topic))
}

fn subject(topic: &str) -> String {
    format!("topic \"{topic}\"")
}

/// Asks the cluster for everything that a look is after.
async fn look(client: &Client, selection: &Selection, with_configs: bool, one_pass: bool) -> Result<Found> {
    let mut metadata = client.metadata((!selection.has_pattern()).then_some(selection.names())).await?;
    let mut names = Vec::new();
    if selection.has_pattern() {
        let there = metadata.topics.iter().filter(|topic| topic.code == 0);
        names = there.map(|topic| topic.name.clone()).collect();
        metadata.topics.retain(|topic| selection.holds(&topic.name, topic.internal));
    }
    let there = metadata.topics.iter().filter(|topic| topic.code == 0);
    let there: Vec<String> = there.map(|topic| topic.name.clone()).collect();
    let configs = if with_configs && !there.is_empty() { Some(client.topic_configs(&there).await?) } else { None };
    let missing = metadata.topics.iter().any(|topic| topic.code == UNKNOWN_TOPIC_OR_PARTITION);
    if one_pass && missing && names.is_empty() {
        let all = client.metadata(None).await?.topics.into_iter();
        names = all.filter(|topic| topic.code == 0).map(|topic| topic.name).collect();
    }
    Ok(Found { metadata, configs, names })
}

/// Says that the cluster has none of the topics `missing`, and which of its topics (`names`) may be meant.
pub fn no_such_topics(missing: &[impl AsRef<str>], names: &[impl AsRef<str>]) -> Error {
    let near = |wanted: &str| {
        let ranked = names.iter().map(|name| (strsim::jaro_winkler(name.as_ref(), wanted), name.as_ref()));
        ranked.filter(|(rank, _)| *rank >= NEAR).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
    };
    let missing: Vec<&str> = missing.iter().map(AsRef::as_ref).collect();
    let near: Vec<String> = missing.iter().filter_map(|name| near(name)).map(|name| format!("\"{name}\"")).collect();
    let error = match missing.as_slice() {
        [name] => Error::usage(format!("topic \"{name}\" does not exist on the cluster")),
        names => Error::usage(format!("topics \"{}\" do not exist on the cluster", names.join("\", \""))),
    };
    if near.is_empty() {
        return error.hint("create it, or correct pipeline.source.topics");
    }
    error.hint(format!("did you mean {}?", near.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_topic_names_those_that_are_near() {
        let names = ["orders", "payments", "customers"].map(str::to_owned);
        let error = no_such_topics(&["order".to_owned()], &names);
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        assert_eq!(error.to_string(), "topic \"order\" does not exist on the cluster; did you mean \"orders\"?");
        let error = no_such_topics(&["xyz".to_owned(), "abc".to_owned()], &names);
        assert_eq!(
            error.to_string(),
            "topics \"xyz\", \"abc\" do not exist on the cluster; create it, or correct pipeline.source.topics"
        );
    }

    #[test]
    fn an_older_epoch_does_not_replace_the_leader_that_is_known() {
        let mut held = Held::new(1, 7, false);
        held.learn(2, 6);
        assert_eq!((held.leader, held.leader_epoch), (1, 7));
        held.learn(2, 8);
        assert_eq!((held.leader, held.leader_epoch), (2, 8));
    }
}
