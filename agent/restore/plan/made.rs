//! How a target topic is made that is not there: as the archived one was, but for what would take records away or change
//! them while they come. The cluster is asked whether it would take that, now and when everything is restored, before
//! anything is done.

use super::hazards::{Danger, Hazard};
use super::{NewTopic, TopicPlan};
use crate::error::Result;
use crate::kafka::client::Client;
use crate::kafka::client::topics::{self, Refusal};
use crate::pipeline::{Topic, TopicConfig};
use crate::record::Timestamp;

/// Kafka's default of `max.message.bytes`.
pub(super) const MOST_BYTES: usize = 1_048_588;

/// Kafka's default of `message.timestamp.after.max.ms`, since 4.0.
pub(super) const AHEAD_MS: i64 = 3_600_000;

/// How far ahead of its clock a topic takes records.
pub(super) const AHEAD: &str = "message.timestamp.after.max.ms";

/// How many replicas must be in sync.
pub(super) const IN_SYNC: &str = "min.insync.replicas";

/// Settings that would take restored records away or change them while they come: they are made when all are there.
const AFTERWARDS: [&str; 11] = [
    "compression.type",
    "message.timestamp.type",
    "retention.ms",
    "retention.bytes",
    "local.retention.ms",
    "local.retention.bytes",
    "cleanup.policy",
    "message.timestamp.difference.max.ms",
    "message.timestamp.before.max.ms",
    AHEAD,
    "delete.retention.ms",
];

/// What a topic has meanwhile instead: nothing is taken away, and any time is good.
const MEANWHILE: [(&str, &str); 5] = [
    // Batches stay what they are.
    ("compression.type", "producer"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("cleanup.policy", "delete"),
    ("message.timestamp.type", "CreateTime"),
];

/// A topic that is going to be made, as the cluster would make it.
pub(super) struct Checked {
    pub(super) new: NewTopic,
    /// Its settings while records come; defaults are among them where the cluster tells.
    pub(super) meanwhile: Vec<TopicConfig>,
    /// Its settings when everything is restored.
    pub(super) afterwards: Vec<TopicConfig>,
    /// What of the archived topics it does not get.
    pub(super) hazards: Vec<Hazard>,
}

/// Plans how the target of `topics`, which is not there, is made, each of them with what the archive says of it.
///
/// # Errors
/// [`Kind::Failed`](crate::error::Kind::Failed), in the cluster's words, where it would not make it.
pub(super) async fn plan(client: &Client, topics: &[(&TopicPlan, Option<&Topic>)], brokers: usize) -> Result<Checked> {
    let Some(name) = topics.first().map(|(topic, _)| topic.target.clone()) else {
        return Err(crate::error::Error::failed("a topic of nothing is planned"));
    };
    let (mut new, mut hazards) = new_topic(topics, brokers);
    let mut checked = check(client, &name, &new, after(&new)).await?;
    if checked.as_ref().is_err_and(|refusal| refusal.is_setting) {
        for (setting, value) in after(&new) {
            let alone = vec![(setting.clone(), value.clone())];
            if let Err(refusal) = check(client, &name, &new, alone).await? {
                new.configs.retain(|(known, _)| *known != setting || new.meanwhile.contains(known));
                new.afterwards.retain(|(known, _)| *known != setting);
                let detail = format!("it is made without {setting}={value}: {}", refusal.error);
                hazards.push(Hazard::new(Danger::SettingsLeftOut, &name, detail));
            }
        }
        checked = check(client, &name, &new, after(&new)).await?;
    }
    let afterwards = checked.map_err(|refusal| refusal.error)?;
    let in_sync = number(&afterwards, IN_SYNC).unwrap_or(1);
    if in_sync > i64::from(new.replication_factor) {
        let replicas = counted(new.replication_factor.unsigned_abs().into(), "replica");
        let detail =
            format!("{IN_SYNC} is {in_sync}, and it gets {replicas}: it takes nothing more once it is restored");
        hazards.push(Hazard::new(Danger::MinInsyncReplicas, &name, detail));
        new.keep_meanwhile(IN_SYNC, "1");
    }
    let meanwhile = check(client, &name, &new, new.configs.clone()).await?.map_err(|refusal| refusal.error)?;
    Ok(Checked { new, meanwhile, afterwards, hazards })
}

/// Asks whether the cluster would make a topic with those settings.
async fn check(
    client: &Client,
    name: &str,
    new: &NewTopic,
    configs: Vec<(String, String)>,
) -> Result<std::result::Result<Vec<TopicConfig>, Refusal>> {
    let (partitions, replication_factor) = (new.partitions, new.replication_factor);
    let own =
        |(name, value): &(String, String)| TopicConfig { name: name.clone(), value: Some(value.clone()), set: true };
    let given: Vec<_> = configs.iter().map(own).collect();
    let topic = topics::NewTopic { name: name.to_owned(), partitions, replication_factor, configs };
    // Where the cluster does not tell, they are what was given.
    Ok(client.check_topic(&topic).await?.map(|told| if told.is_empty() { given } else { told }))
}

/// Returns the settings that a topic has when everything is restored.
fn after(new: &NewTopic) -> Vec<(String, String)> {
    let stays = new.configs.iter().filter(|(name, _)| !new.meanwhile.contains(name));
    stays.chain(&new.afterwards).cloned().collect()
}

impl NewTopic {
    /// Gives it a setting for as long as records come.
    fn keep_meanwhile(&mut self, name: &str, value: &str) {
        self.configs.retain(|(known, _)| known != name);
        self.configs.push((name.to_owned(), value.to_owned()));
        self.configs.sort();
        if !self.meanwhile.iter().any(|known| known == name) {
            self.meanwhile.push(name.to_owned());
        }
    }
}

pub(super) fn value<'a>(configs: &'a [TopicConfig], name: &str) -> Option<&'a str> {
    configs.iter().find(|config| config.name == name)?.value.as_deref()
}

pub(super) fn number(configs: &[TopicConfig], name: &str) -> Option<i64> {
    value(configs, name)?.parse().ok()
}

pub(super) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Returns the settings that were made on an archived topic itself.
fn set_of(object: Option<&Topic>) -> Vec<(String, String)> {
    let set = object.and_then(|object| object.configs.as_ref()).into_iter().flatten().filter(|config| config.set);
    let set = set.filter_map(|config| Some((config.name.clone(), config.value.clone()?)));
    // Throttles name the brokers of the other cluster.
    set.filter(|(name, _)| !name.ends_with(".throttled.replicas")).collect()
}

/// Plans a topic for those that go to it: the first of them says how it is. Returns what of the others it does not get.
fn new_topic(topics: &[(&TopicPlan, Option<&Topic>)], brokers: usize) -> (NewTopic, Vec<Hazard>) {
    let first = topics.first().and_then(|(_, object)| *object);
    let partitions = topics.iter().flat_map(|(topic, object)| {
        let highest = topic.partitions.iter().map(|partition| partition.target + 1);
        highest.chain(object.map(|object| object.partitions))
    });
    let spread = topics.iter().find_map(|(topic, _)| topic.repartition);
    let partitions = spread.or(partitions.max()).unwrap_or(1).max(1);
    let replicas = first.map_or(1, |object| object.replication_factor.max(1));
    let replicas = replicas.min(i16::try_from(brokers).unwrap_or(i16::MAX)).max(1);
    let set = set_of(first);
    let mut hazards = Vec::new();
    for (topic, object) in topics.iter().skip(1).filter(|(topic, _)| !topic.only_routed) {
        let other = set_of(*object);
        let lacks = other.iter().filter(|config| !set.contains(config)).map(|(name, value)| format!("{name}={value}"));
        let lacks: Vec<_> = lacks
            .chain(
                set.iter()
                    .filter(|(name, _)| other.iter().all(|(known, _)| known != name))
                    .map(|(name, _)| format!("no {name}")),
            )
            .collect();
        if !lacks.is_empty() {
            let detail =
                format!("`{}` had {}: it is made as `{}` was", topic.source, lacks.join(", "), topics[0].0.source);
            hazards.push(Hazard::new(Danger::SettingsLeftOut, &topic.target, detail));
        }
    }
    let is_late = |(name, value): &(String, String)| {
        let wants_more = name == IN_SYNC && value.parse().is_ok_and(|wanted: i64| wanted > i64::from(replicas));
        wants_more || AFTERWARDS.contains(&name.as_str())
    };
    let (mut afterwards, configs): (Vec<_>, Vec<_>) = set.into_iter().partition(is_late);
    afterwards.sort();
    let mut new = NewTopic { partitions, replication_factor: replicas, configs, meanwhile: Vec::new(), afterwards };
    for (name, value) in MEANWHILE {
        new.keep_meanwhile(name, value);
    }
    // Brokers before 4.0 take any time, and the oldest do not know the setting.
    let is_ahead = |(_, most): (i64, i64)| most > Timestamp::now().0.saturating_add(AHEAD_MS / 2);
    if topics.iter().filter_map(|(topic, _)| topic.times_ms()).any(is_ahead) {
        new.keep_meanwhile(AHEAD, &i64::MAX.to_string());
    }
    (new, hazards)
}

#[cfg(test)]
pub(super) mod tests;
