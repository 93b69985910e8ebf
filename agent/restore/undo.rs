//! Takes back what a restore made: the target topics that it created and to which nobody else has written are deleted, and the
//! group that says how far a restore in transactions has come ([`progress`]).
//!
//! Which topics those are is what the restore has kept: its plan says that a topic was missing, its attempts say the id of
//! the one that was made, and who sent. All that such a topic holds, from the start of its log to the end, must be of these
//! producers ([`owners`]); what retention has taken before nobody can tell any more. Deleted is by the topic's id: one that
//! was made anew in the meantime stays. Of a topic to which nothing was sent no attempt says the id: another restore of the
//! same backup makes one that looks the same. It is deleted only where that is accepted ([`Accept::Unsent`]), while it is as
//! the restore makes it, and nothing ever was in it but markers of the restore's own fences. A record that somebody writes
//! between the last look at a topic and its deletion, a moment later, is lost with it.
//!
//! The consumer groups that it has put back are put back again by who calls this, before any topic is deleted: what groups have
//! committed there goes with the topic, and with it whether they have moved on.
//!
//! **Order of durable effects, and what a crash after each leaves:**
//!
//! | effect | what is left | what the next start does |
//! |---|---|---|
//! | the fence in Kafka, unless the restore is done | markers in the topics; nobody of the restore can send any more | fences again |
//! | `undone` | a restore that nobody goes on with, and all its topics | looks at all of them again |
//! | the deletion of each topic | the others | finds that one gone, deletes the others |
//! | the deletion of the group | nothing | finds nothing |
//!
//! Whether a process of the restore still runs nobody can tell, also where none has kept an attempt: it may wait for its fence.
//! So one that has not landed must have been cancelled: then none begins, and the fence, in all partitions that attempts name
//! and that are still there, keeps those that had begun from sending, and from committing how far they came.
//!
//! Retry: the client's. Cancel: as a crash.

mod owners;
mod progress;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use self::owners::Owners;
pub use self::progress::Group;
use super::ends;
use super::perform::{targets, transactional_id};
use super::plan::{Plan, groups};
use super::state::{Attempt, Name, Phase, Process, Seen, State, Undone, UndoneTopic};
use crate::batch::Header;
use crate::crash;
use crate::error::{Error, Result};
use crate::kafka::client::{Client, TopicMetadata};
use crate::kafka::code_name;
use crate::kafka::produce::{self, fence};
use crate::record::{OffsetRange, Partition, TopicId};

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// What keeps a topic, or the whole restore, unless it is accepted by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Accept {
    /// A topic has deleted records: nobody can tell any more whose they were.
    RecordsGone,
    /// Members of consumer groups read a topic.
    ActiveGroups,
    /// Nobody can be fenced off: an older process, were there one, could go on sending.
    NoFence,
    /// Nothing was sent to a topic: nobody can tell whether this restore has made it, or another one.
    Unsent,
}

impl std::fmt::Display for Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::RecordsGone => "records-gone",
            Self::ActiveGroups => "active-groups",
            Self::NoFence => "no-fence",
            Self::Unsent => "unsent",
        })
    }
}

/// What becomes of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is going to be deleted.
    Delete,
    /// It was.
    Deleted,
    /// It stays.
    Keep,
    /// It is not there any more.
    Gone,
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Delete => "delete",
            Self::Deleted => "deleted",
            Self::Keep => "keep",
            Self::Gone => "gone",
        })
    }
}

/// A target topic of the restore, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// The topic.
    pub topic: String,
    /// The id of the one that the restore has made; `None` where nothing tells it.
    #[serde(serialize_with = "as_text")]
    pub topic_id: Option<TopicId>,
    /// Whether it is there, and the restore has made it as far as is known.
    pub made: bool,
    /// What becomes of it.
    pub action: Action,
    /// Why.
    pub why: String,
    /// Whether the restore has sent nothing to it.
    #[serde(skip)]
    pub is_unsent: bool,
}

/// What becomes of all that a restore has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fates {
    /// Its target topics, in order of their names.
    pub topics: Vec<Fate>,
    /// The group that says how far it has come; `None` where there is none.
    pub group: Option<Group>,
}

impl Fate {
    /// Returns whether something is left that the restore has made.
    pub fn is_left(&self) -> bool {
        self.made && self.action == Action::Keep
    }

    fn keep(&mut self, why: impl Into<String>) {
        (self.action, self.why) = (Action::Keep, why.into());
    }
}

fn as_text<S: serde::Serializer>(topic_id: &Option<TopicId>, to: S) -> Result<S::Ok, S::Error> {
    topic_id.map(|id| id.to_string()).serialize(to)
}

/// A restore that is to be undone.
pub struct Undo<'a> {
    /// The cluster that it restored to.
    pub client: &'a Client,
    /// What it keeps.
    pub state: &'a State,
    /// What is accepted.
    pub accept: &'a [Accept],
}

/// What a restore has kept of what it made.
struct Kept {
    plan: Plan,
    attempts: Vec<Attempt>,
    is_done: bool,
    /// Whether its records went in transactions, as far as that was kept.
    is_transactional: bool,
    /// The ids of the topics that an undoing before was to delete.
    undone: BTreeMap<String, TopicId>,
}

/// What is told of all targets of a restore.
struct Targets {
    fates: Vec<Fate>,
    /// The partitions of the topics that the restore has made.
    made: Vec<Partition>,
    /// Those that attempts name, and that are still there.
    begun: Vec<Partition>,
}

/// Refuses a restore that was undone: what it would go on with is deleted.
///
/// # Errors
/// [`Kind::Usage`](crate::error::Kind::Usage).
pub(super) fn check_undone(restore_id: &str, seen: &Seen) -> Result<()> {
    if !seen.names.contains(&Name::Undone) {
        return Ok(());
    }
    let what = format!("restore `{restore_id}` was undone: the topics that it made are deleted");
    Err(Error::usage(what).hint("give this one another restore_id"))
}

/// Refuses a restore of which a process may still run: one that has kept no attempt may wait for its fence.
fn check_ended(restore_id: &str, seen: &Seen) -> Result<()> {
    if seen.has_landed() || !matches!(seen.phase(), Phase::Planned | Phase::Running) {
        return Ok(());
    }
    Err(Error::usage(format!("restore `{restore_id}` is not finished, and may still run"))
        .hint("`restores cancel` it first: then nobody goes on with it"))
}

impl Undo<'_> {
    /// Looks what would become of all that the restore has made; nothing is changed.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) for a restore that may still run, and for another cluster;
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when what it has kept cannot be read; those of the cluster.
    pub async fn plan(&self) -> Result<Fates> {
        let kept = self.kept().await?;
        let Targets { fates: mut topics, made, .. } = self.told(&kept).await?;
        let owners = Owners::of(&kept.attempts);
        let owners = if kept.is_done { owners } else { owners.before_fence() };
        let _ = self.look((&kept, &owners), &mut topics, made).await?;
        Ok(Fates { topics, group: self.group(&kept).await? })
    }

    /// Deletes what can be deleted; returns what became of all.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); [`Kind::Fenced`](crate::error::Kind::Fenced) when somebody else takes the restore's place
    /// meanwhile.
    pub async fn perform(&self) -> Result<Fates> {
        let kept = self.kept().await?;
        let Targets { mut fates, made, begun } = self.told(&kept).await?;
        let mut owners = Owners::of(&kept.attempts);
        // Also where no topic is deleted: a process that was stopped could go on sending, and committing to the group. Where
        // nobody has begun, the place is taken in no partition; it tells whose the markers of earlier fences are.
        if !(kept.is_done || kept.attempts.is_empty() && made.is_empty()) {
            owners.extend(self.fence(&begun).await?);
        }
        let logs = self.look((&kept, &owners), &mut fates, made).await?;
        // Where topics are deleted, what is committed for their partitions goes with them.
        let mut group = self.group(&kept).await?;
        if fates.iter().any(|fate| fate.action == Action::Delete) {
            self.delete(&owners, &mut fates, &logs).await?;
        }
        if let Some(group) = &mut group {
            group.delete(self.client).await;
        }
        Ok(Fates { topics: fates, group })
    }

    /// Keeps that the restore is undone, before anything of it is: nobody goes on with it.
    ///
    /// # Errors
    /// [`Kind::Damaged`](crate::error::Kind::Damaged) when that was begun before and cannot be read; those of the store.
    pub async fn mark(&self, topics: &[Fate]) -> Result<()> {
        let deleted = topics.iter().filter(|fate| fate.action == Action::Delete);
        let topic = |fate: &Fate| Some(UndoneTopic { topic: fate.topic.clone(), topic_id: fate.topic_id?.to_string() });
        let undone = Undone::now(self.state.restore_id(), Process::this(), deleted.filter_map(topic).collect());
        self.state.undo(&undone).await.map(drop)
    }

    /// Deletes the topics that can be deleted.
    async fn delete(&self, owners: &Owners, fates: &mut [Fate], logs: &HashMap<Partition, OffsetRange>) -> Result<()> {
        self.mark(fates).await?;
        for fate in fates {
            let Some(topic_id) = fate.topic_id.filter(|_| fate.action == Action::Delete) else { continue };
            if let Some(why) = self.look_again(owners, fate, logs).await? {
                fate.keep(why);
                continue;
            }
            self.client.delete_topic(&fate.topic, topic_id).await?;
            crash::point("restore-topic-deleted", &fate.topic);
            tracing::info!(topic = fate.topic, "deleted");
            fate.action = Action::Deleted;
        }
        Ok(())
    }

    /// Reads what the restore has kept.
    async fn kept(&self) -> Result<Kept> {
        let (id, seen) = (self.state.restore_id(), self.state.look().await?);
        check_ended(id, &seen)?;
        let Seen { plan, attempts, names, journal, undone, .. } = seen;
        let Some(plan) = plan else {
            return Err(Error::damaged(format!(
                "the plan of restore `{id}` cannot be read: what it made is not known"
            )));
        };
        match plan.target.cluster_id.as_ref().zip(self.client.cluster_id()) {
            Some((meant, met)) if *meant != met => {
                let what = format!("restore `{id}` went to the cluster {meant}, and this is {met}");
                return Err(Error::usage(what).hint("name the brokers of that one"));
            }
            _ => {}
        }
        let mut read = Vec::new();
        for n in attempts {
            read.extend(self.state.attempt(n).await?);
        }
        let undone = undone.into_iter().flat_map(|undone| undone.topics);
        Ok(Kept {
            plan: plan.read()?,
            attempts: read,
            is_done: names.contains(&Name::Done),
            is_transactional: journal.is_some_and(|journal| journal.is_transactional),
            undone: undone.filter_map(|of| Some((of.topic, of.topic_id.parse().ok()?))).collect(),
        })
    }

    /// Returns what the restore has kept of each topic, held against what the cluster tells.
    async fn told(&self, kept: &Kept) -> Result<Targets> {
        let names = kept.topics();
        let metadata = self.client.metadata(Some(&names)).await?;
        let told: HashMap<&str, &TopicMetadata> =
            metadata.topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
        let fates: Vec<Fate> = names.iter().map(|name| kept.fate(name, told.get(name.as_str()).copied())).collect();
        let made = fates.iter().filter(|fate| fate.action == Action::Delete).flat_map(|fate| {
            let told = told.get(fate.topic.as_str()).map(|told| (told.topic_id, &told.partitions));
            let partition = |topic_id, index| Partition { topic: fate.topic.as_str().into(), topic_id, index };
            told.into_iter().flat_map(move |(id, of)| of.iter().map(move |met| partition(id, met.index)))
        });
        let made = made.collect();
        Ok(Targets { made, begun: kept.begun(&told), fates })
    }

    /// Takes the place of whoever may still send; returns as whom.
    async fn fence(&self, partitions: &[Partition]) -> Result<Option<i64>> {
        let id = transactional_id(self.state.restore_id());
        let Some(why) = produce::hindrance(self.client, &id, true).await? else {
            return fence(self.client, &id, partitions).await.map(|identity| Some(identity.producer_id));
        };
        if !self.accept.contains(&Accept::NoFence) {
            return Err(Error::failed(format!("nobody can be fenced off, and the restore is not finished: {why}"))
                .hint("where surely no process of it runs any more, --accept no-fence"));
        }
        tracing::warn!("nobody is fenced off: {why}");
        Ok(None)
    }

    /// Looks at all that the topics hold and who reads them, and keeps those that are not the restore's alone; returns what
    /// was looked at.
    async fn look(
        &self,
        (kept, owners): (&Kept, &Owners),
        fates: &mut [Fate],
        partitions: Vec<Partition>,
    ) -> Result<HashMap<Partition, OffsetRange>> {
        let logs = ends::of(self.client, &partitions).await?;
        let mut reasons = self.unlike(kept, fates, &partitions).await?;
        let mut reason = |topic: &str, why: String| reasons.entry(topic.to_owned()).or_default().insert(why);
        let is_unsent = |topic: &str| fates.iter().any(|fate| fate.topic == topic && fate.is_unsent);
        for (partition, log) in logs.iter().filter(|(_, log)| log.first > 0) {
            let what = format!("what {partition} held before offset {} is gone", log.first);
            if is_unsent(&partition.topic) {
                let _ = reason(&partition.topic, format!("{what}, and the restore has sent nothing to it"));
            } else if !self.accept.contains(&Accept::RecordsGone) {
                let way_out = format!("(--accept {})", Accept::RecordsGone);
                let _ = reason(&partition.topic, format!("{what}: whose it was nobody can tell {way_out}"));
            }
        }
        for (partition, why) in self.foreign(owners, logs.clone(), is_unsent).await? {
            let _ = reason(&partition.topic, why);
        }
        self.keep_unsent(fates, &mut reasons);
        let mut reason = |topic: &str, why: String| reasons.entry(topic.to_owned()).or_default().insert(why);
        let mut asked: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        partitions.iter().for_each(|of| asked.entry(of.topic.to_string()).or_default().push(of.index));
        if !self.accept.contains(&Accept::ActiveGroups) && !asked.is_empty() {
            let readers = groups::readers(self.client, &asked).await?;
            let way_out = format!("(--accept {})", Accept::ActiveGroups);
            for (topic, names) in &readers.of {
                let names = groups::named(names);
                let _ = reason(topic, format!("active consumer groups read it: {names} {way_out}"));
            }
            for (subject, why) in &readers.unread {
                for topic in asked.keys() {
                    let _ = reason(topic, format!("whether {subject} read it is not told: {why} {way_out}"));
                }
            }
        }
        for fate in fates.iter_mut().filter(|fate| fate.action == Action::Delete) {
            if let Some(why) = reasons.remove(&fate.topic) {
                fate.keep(why.into_iter().collect::<Vec<_>>().join("; "));
            }
        }
        Ok(logs)
    }

    /// Returns of the topics to which nothing was sent those that are not as the restore makes them, and why they stay.
    async fn unlike(
        &self,
        kept: &Kept,
        fates: &[Fate],
        partitions: &[Partition],
    ) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let unsent = fates.iter().filter(|fate| fate.is_unsent && fate.action == Action::Delete);
        let names: Vec<String> = unsent.map(|fate| fate.topic.clone()).collect();
        let mut reasons = BTreeMap::new();
        if names.is_empty() {
            return Ok(reasons);
        }
        let (mut settings, new) = (self.client.topic_configs(&names).await?, kept.plan.new_topics());
        for name in names {
            let count = partitions.iter().filter(|partition| *partition.topic == *name).count();
            let why = match (new.get(name.as_str()), settings.remove(&name)) {
                (Some(new), Some(Ok(held))) if targets::is_ours(&name, new, count, &held) => continue,
                (_, Some(Err(error))) => error.to_string(),
                _ => "it is not as the restore makes it: another one may be the restore's".to_owned(),
            };
            let _ = reasons.insert(name, BTreeSet::from([why]));
        }
        Ok(reasons)
    }

    /// Keeps the topics to which nothing was sent, and of which nothing else speaks, unless that is accepted.
    fn keep_unsent(&self, fates: &[Fate], reasons: &mut BTreeMap<String, BTreeSet<String>>) {
        if self.accept.contains(&Accept::Unsent) {
            return;
        }
        for fate in fates.iter().filter(|fate| fate.is_unsent && fate.action == Action::Delete) {
            let why = format!(
                "it is empty and as the restore makes it, which another restore may have done (--accept {})",
                Accept::Unsent
            );
            let _ = reasons.entry(fate.topic.clone()).or_insert_with(|| BTreeSet::from([why]));
        }
    }

    /// Looks at what has come to a topic since it was looked at; returns why it is to be kept.
    async fn look_again(
        &self,
        owners: &Owners,
        fate: &Fate,
        logs: &HashMap<Partition, OffsetRange>,
    ) -> Result<Option<String>> {
        let of: Vec<Partition> = logs.keys().filter(|partition| *partition.topic == *fate.topic).cloned().collect();
        let now = ends::of(self.client, &of).await?;
        let since = |(partition, log): (Partition, OffsetRange)| {
            let looked_at = logs.get(&partition).map_or(log.first, |before| before.next);
            (partition, OffsetRange { first: looked_at.max(log.first), next: log.next })
        };
        let foreign = self.foreign(owners, now.into_iter().map(since).collect(), |_| fate.is_unsent).await?;
        Ok(foreign.into_values().next())
    }

    /// Returns the first of each partition's batches in a range that is somebody else's, in words. As long as the restore's
    /// place is not taken, markers in topics to which nothing was sent are taken for those of its fences.
    async fn foreign(
        &self,
        owners: &Owners,
        ranges: HashMap<Partition, OffsetRange>,
        is_unsent: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<Partition, String>> {
        let mut foreign = BTreeMap::new();
        ends::walk(self.client, ranges, |partition, header| {
            if owners.are_before_fence() && header.is_some_and(Header::is_control) && is_unsent(&partition.topic) {
                return Ok(true);
            }
            let Some(whose) = owners.stranger(header) else { return Ok(true) };
            foreign.insert(partition.clone(), format!("{partition} holds {whose}"));
            Ok(false)
        })
        .await?;
        Ok(foreign)
    }
}

impl Kept {
    /// Returns the names of all targets, in order.
    fn topics(&self) -> Vec<String> {
        let topics = self.plan.topics.iter().map(|topic| topic.target.clone());
        let names: BTreeSet<String> = topics.chain(self.plan.routed.iter().map(|topic| topic.topic.clone())).collect();
        names.into_iter().collect()
    }

    /// Returns the partitions that attempts name and that are still there, by the topic's id.
    fn begun(&self, told: &HashMap<&str, &TopicMetadata>) -> Vec<Partition> {
        let is_there = |of: &&Partition| {
            let is_same = |there: &&TopicMetadata| there.code == 0 && there.topic_id == of.topic_id;
            let there = told.get(&*of.topic).copied().filter(is_same);
            there.is_some_and(|there| there.partitions.iter().any(|met| met.index == of.index))
        };
        let starts = self.attempts.iter().flat_map(|attempt| &attempt.starts);
        let named: BTreeSet<&Partition> = starts.map(|start| &start.pair.target).collect();
        named.into_iter().filter(is_there).cloned().collect()
    }

    /// Returns what becomes of a topic as far as its id tells.
    fn fate(&self, topic: &str, told: Option<&TopicMetadata>) -> Fate {
        let is_planned = self.plan.new_topics().contains_key(topic);
        let starts = self.attempts.iter().flat_map(|attempt| &attempt.starts);
        let of = starts.map(|start| &start.pair.target).filter(|target| &*target.topic == topic);
        let mut ids: BTreeSet<TopicId> = of.map(|target| target.topic_id).collect();
        let is_unsent = is_planned && ids.is_empty();
        if is_unsent {
            // What an undoing before was to delete, else the one that is there now.
            let there = told.filter(|told| told.code == 0).map(|told| told.topic_id);
            ids.extend(self.undone.get(topic).copied().or(there));
        }
        let topic_id = ids.first().copied().filter(|id| ids.len() == 1 && !id.is_none());
        let (action, why) = match (told.filter(|told| told.code != UNKNOWN_TOPIC_OR_PARTITION), topic_id) {
            _ if !is_planned => (Action::Keep, "it was there before the restore".to_owned()),
            (None, _) => (Action::Gone, "it is not there any more".to_owned()),
            (Some(told), _) if told.code != 0 => {
                (Action::Keep, format!("the cluster does not tell of it: {}", code_name(told.code)))
            }
            (Some(_), None) => (Action::Keep, "it has no one id that tells it from another of its name".to_owned()),
            (Some(told), Some(id)) if told.topic_id != id => {
                (Action::Keep, format!("it was made anew since: its id is {}, and was {id}", told.topic_id))
            }
            (Some(_), Some(_)) if is_unsent => {
                (Action::Delete, "it is as the restore makes it, and nothing was sent to it".to_owned())
            }
            (Some(_), Some(_)) => (Action::Delete, "the restore made it, and nobody else has written to it".to_owned()),
        };
        let is_other = topic_id.zip(told).is_some_and(|(id, told)| told.code == 0 && told.topic_id != id);
        let made = is_planned && action != Action::Gone && !is_other;
        Fate { topic: topic.to_owned(), topic_id, made, action, why, is_unsent }
    }
}

#[cfg(test)]
mod tests;
