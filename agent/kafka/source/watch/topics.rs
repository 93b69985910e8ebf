//! The watch's view of topics: which exist, how they are set, which partitions they have, who leads those.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::{Command, Found, GIVE_UP_AFTER, Item};
use super::{Held, Watch};
use crate::error::{Error, Result};
use crate::kafka::client::{Metadata, TopicMetadata};
use crate::kafka::{Client, code_name};
use crate::pipeline::{Event, Topic, TopicConfig};
use crate::record::{Partition, TopicId};

/// The least time between two looks at the cluster, however many partitions ask for one.
const LOOK_APART: Duration = Duration::from_millis(100);

/// Names as near as this to a missing one are offered (Jaro-Winkler, 0 to 1).
const NEAR: f64 = 0.85;

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const LEADER_NOT_AVAILABLE: i16 = 5;

/// What was seen of a topic.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Its id, from the first time on: another one is another topic.
    id: Option<TopicId>,
    /// What was told of it.
    told: Option<Topic>,
    /// Whether the cluster said that it does not exist: should it come, it is read from its beginning.
    missed: bool,
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
        let topics: Vec<String> = self.topics.keys().cloned().collect();
        let one_pass = self.options.one_pass;
        self.tasks.spawn(async move {
            let found = look(&client, &topics, with_configs, one_pass).await;
            let _ = commands.send(Command::Found(found));
        });
        Ok(())
    }

    /// Looks at the cluster soon.
    pub(super) fn look_soon(&mut self, now: Instant) {
        let soon = self.look.began.map_or(now, |began| (began + LOOK_APART).max(now));
        self.look.next = self.look.next.min(soon);
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
        self.look.known = self.look.began;
        self.trouble(self.cluster(), None);
        self.forget_brokers(&found.metadata);
        let (mut missing, mut elected) = (Vec::new(), true);
        let mut configs = found.configs.unwrap_or_default();
        let mut by_name: BTreeMap<String, TopicMetadata> =
            found.metadata.topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        for name in self.topics.keys().cloned().collect::<Vec<_>>() {
            let topic = by_name.remove(&name).unwrap_or(TopicMetadata {
                name: name.clone(),
                code: UNKNOWN_TOPIC_OR_PARTITION,
                ..TopicMetadata::default()
            });
            match topic.code {
                0 => self.topic(&topic, configs.remove(&name))?,
                UNKNOWN_TOPIC_OR_PARTITION if self.options.one_pass => missing.push(name),
                UNKNOWN_TOPIC_OR_PARTITION => self.missed(&name),
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

    fn missed(&mut self, name: &str) {
        let Some(seen) = self.topics.get_mut(name) else { return };
        let reason = if seen.told.is_some() {
            "it does not exist any more; what was read of it is kept, and it is looked for"
        } else {
            seen.missed = true;
            "it does not exist on the cluster; it is read from its beginning when it appears"
        };
        self.trouble(subject(name), Some(reason.to_owned()));
    }

    /// Takes over what the cluster says of a topic that exists.
    fn topic(&mut self, topic: &TopicMetadata, configs: Option<Result<Vec<TopicConfig>>>) -> Result<()> {
        let Some(seen) = self.topics.get_mut(&topic.name) else { return Ok(()) };
        if *seen.id.get_or_insert(topic.topic_id) != topic.topic_id {
            return self.recreated(topic);
        }
        let configs = self.configs(topic, configs);
        let Some(seen) = self.topics.get_mut(&topic.name) else { return Ok(()) };
        let before = seen.told.as_ref().map(|told| told.partitions);
        let young_from = if seen.missed { 0 } else { before.unwrap_or(i32::MAX) };
        let now = Topic {
            name: topic.name.clone(),
            topic_id: topic.topic_id.to_string(),
            partitions: topic.partitions.len() as i32,
            replication_factor: topic.partitions.first().map_or(0, |partition| partition.replicas),
            configs: configs.or_else(|| seen.told.as_ref().and_then(|told| told.configs.clone())),
        };
        if seen.told.as_ref() != Some(&now) {
            self.outbox.push(Item::Event(Event::Topic(now.clone())));
            seen.told = Some(now);
        }
        let name = self.partitions.keys().find(|partition| *partition.topic == *topic.name);
        let name = name.map_or_else(|| topic.name.as_str().into(), |partition| partition.topic.clone());
        for found in &topic.partitions {
            let partition = Partition { topic: name.clone(), topic_id: topic.topic_id, index: found.index };
            if let Some(held) = self.partitions.get_mut(&partition) {
                held.learn(found.leader, found.leader_epoch);
                continue;
            }
            let young = found.index >= young_from;
            let (leader, leader_epoch) = (found.leader, found.leader_epoch);
            self.partitions
                .insert(partition.clone(), Held { leader, leader_epoch, young, end: None, begin: None, run: None });
            self.outbox.push(Item::Event(Event::Assigned(partition)));
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
        self.trouble(format!("settings of {}", subject(&topic.name)), reason);
        configs
    }

    /// Stops what was read of a topic that has made way for another one of its name; a pass ends with that.
    fn recreated(&mut self, topic: &TopicMetadata) -> Result<()> {
        let old = self.topics.get(&topic.name).and_then(|seen| seen.id).unwrap_or_default();
        let ours: Vec<_> = self.partitions.keys().filter(|held| *held.topic == *topic.name).cloned().collect();
        for partition in &ours {
            self.stop(partition);
            // So that a sink that starts it again is not sent after a topic that is gone.
            self.partitions.remove(partition);
        }
        let made = format!("was deleted and made again (id {old} before, {} now)", topic.topic_id);
        if self.options.one_pass {
            return Err(Error::failed(format!("{} {made}", subject(&topic.name))).hint("run the pass again"));
        }
        let reason = format!("it {made}; the old one is read no longer, the new one is read after a restart");
        self.trouble(subject(&topic.name), Some(reason));
        Ok(())
    }
}

impl Held {
    /// Takes over who leads, unless that is older than what is known.
    pub(super) fn learn(&mut self, leader: i32, leader_epoch: i32) {
        if leader_epoch < 0 || leader_epoch >= self.leader_epoch {
            (self.leader, self.leader_epoch) = (leader, leader_epoch);
        }
    }
}

fn subject(topic: &str) -> String {
    format!("topic \"{topic}\"")
}

/// Asks the cluster for everything that a look is after.
async fn look(client: &Client, topics: &[String], with_configs: bool, one_pass: bool) -> Result<Found> {
    let metadata = client.metadata(Some(topics)).await?;
    let there = metadata.topics.iter().filter(|topic| topic.code == 0);
    let there: Vec<String> = there.map(|topic| topic.name.clone()).collect();
    let configs = if with_configs && !there.is_empty() { Some(client.topic_configs(&there).await?) } else { None };
    let missing = metadata.topics.iter().any(|topic| topic.code == UNKNOWN_TOPIC_OR_PARTITION);
    let names = if one_pass && missing {
        let all = client.metadata(None).await?.topics.into_iter();
        all.filter(|topic| topic.code == 0).map(|topic| topic.name).collect()
    } else {
        Vec::new()
    };
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
        let mut held = Held { leader: 1, leader_epoch: 7, young: false, end: None, begin: None, run: None };
        held.learn(2, 6);
        assert_eq!((held.leader, held.leader_epoch), (1, 7));
        held.learn(2, 8);
        assert_eq!((held.leader, held.leader_epoch), (2, 8));
    }
}
