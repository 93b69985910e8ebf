//! Savepoints of a backup: a task beside the pipelines that write it, which keeps, slot by slot, where all consumer groups
//! stood and where all partitions ended (`archive::savepoint` says what that promises; [`scope`] says what this agent
//! has chosen, [`beside`] what others have, [`look`] finds what others have made, [`round`] asks the cluster, [`plan`]
//! decides what is written).
//!
//! It has a client of its own: its questions must not keep the pipeline's waiting. It lives as long as the agent does,
//! whether or not the pipeline runs.
//!
//! Several agents: slots begin at the same moments for all of them. Each looks first whether the slot has its savepoint,
//! before it asks the cluster, a little later than the slot begins, and by chance. The name's creation decides; the
//! loser takes the winner's as its predecessor. A savepoint covers the backup, whoever makes it: what the newest one has is
//! taken over where this agent has chosen otherwise. So that nobody is left out who never is the first, the loser looks at
//! the cluster all the same now and then ([`LOOK_BESIDE`]), and makes one more where the winner's lacks something.
//!
//! Retry: a round that fails is told once for each reason, counted, and tried again at the next slot; nothing here ends
//! a pipeline. `/readyz` tells when there was none for [`PATIENT_SLOTS`] slots. Cancel and crash: a savepoint is created
//! whole or not at all, by one request, after everything was read; what was read before is forgotten.
//!
//! Memory: the newest savepoint and the full one that it differs from.

mod beside;
mod handle;
mod hanging;
mod look;
mod plan;
mod round;
mod scope;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use self::beside::Beside;
pub use self::handle::Handle;
use self::handle::Requests;
use self::hanging::Standing;
use self::plan::{Newest, Plan};
use self::round::{Ahead, Asking, Taken};
use self::scope::Scope;
pub(crate) use self::scope::{Place, by_backup as backups, place};
use crate::archive::Archive;
use crate::archive::layout;
use crate::archive::savepoint::{Archived, Name, State, Unread};
use crate::archive::sink::Reached;
use crate::config;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::kafka::{Client, Properties};
use crate::record::{Partition, Timestamp, TopicId};
use crate::store::{Creation, Store};
use crate::telemetry::{Health, SavepointMetrics};

/// For how many slots none may be made before `/readyz` says so: one may fall into an election, and a third has no
/// excuse.
const PATIENT_SLOTS: u32 = 3;

/// And for how long at least: with slots of a second the restart of a broker would be an alarm.
const PATIENT_FOR: Duration = Duration::from_secs(30);

/// How long a round may take in all. Its parts have their own, shorter bounds; this is for what nobody thought of.
const ROUND_WITHIN: Duration = Duration::from_secs(5 * 60);

/// Which of the slots that another agent was first for is looked at all the same: the first, and then each of so many. With
/// half, two agents ask the cluster a fifth more than one; with twice as many, what only the slower one captures may be
/// missing for twenty minutes when it is new.
const LOOK_BESIDE: u32 = 10;

/// How long to wait for a backup that the pipeline has yet to make.
const FOR_BACKUP: Duration = Duration::from_secs(1);

/// The longest wait by chance after a slot has begun, so that of several agents one is first. Half would let two of
/// them ask the cluster for the same more often.
const JITTER_MAX: Duration = Duration::from_secs(2);

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// It was written.
    Written(Name),
    /// Nothing has changed since this one.
    Unchanged(Name),
    /// Another agent has written this one for the slot.
    ByAnother(Name),
}

impl Made {
    /// Returns the savepoint that holds now.
    pub(crate) fn name(self) -> Name {
        match self {
            Self::Written(name) | Self::Unchanged(name) | Self::ByAnother(name) => name,
        }
    }
}

/// Makes the savepoints of one backup.
pub(crate) struct Maker {
    /// The first of the pipelines that write it: whose cluster and store they are.
    pipeline: config::Pipeline,
    scope: Scope,
    interval: Option<Duration>,
    client: Client,
    store: Store,
    reached: Reached,
    requests: Requests,
    /// The newest savepoint that we know; `None` where there is none, or nobody has looked.
    newest: Option<Newest>,
    /// What the newest one says that could be read.
    readable: Option<Arc<State>>,
    /// The last moment that was looked at for savepoints of others.
    looked: Option<Name>,
    /// Whether the newest savepoint lies in the future, as it was told last.
    is_behind: bool,
    /// For how many slots another agent was first.
    lost: u32,
    /// Whether the backup was ever there.
    was_there: bool,
    /// The topics of the backup that others capture.
    beside: Beside,
    /// What groups had committed behind the ends for good, when one looked last.
    ahead: BTreeSet<Ahead>,
    standing: Standing,
    metrics: SavepointMetrics,
    health: Health,
    /// Since when none could be made, and why at last.
    failing: Option<(Instant, String)>,
    last_good: Instant,
    /// What could not be read, as it was told last.
    unread: String,
    /// Whether nothing is to be written.
    dry_run: bool,
}

impl Maker {
    /// Makes the maker of the savepoints of a backup that `pipelines`, at least one, write; and what asks it. Nothing is
    /// connected yet. `reached` is told by the pipelines' sinks; `health` is of the savepoints alone.
    ///
    /// # Errors
    /// [`Kind::Usage`] where the pipeline's own configuration is wrong.
    pub(crate) fn new(pipelines: &[config::Pipeline], reached: Reached, health: Health) -> Result<(Self, Handle)> {
        let pipeline = pipelines.first().ok_or_else(|| Error::usage("no pipeline writes the backup"))?;
        let client = Client::new(Properties::new(pipeline.source.kafka.clone())?);
        let (handle, requests) = Handle::new();
        let maker = Self {
            interval: pipelines.iter().filter_map(|pipeline| pipeline.source.savepoint_interval).min(),
            scope: Scope::of(pipelines),
            client,
            store: Store::open(&pipeline.sink.path)?,
            reached,
            requests,
            newest: None,
            readable: None,
            looked: None,
            is_behind: false,
            lost: 0,
            was_there: false,
            beside: Beside::default(),
            ahead: BTreeSet::new(),
            standing: Standing::new(pipeline.source.transaction_patience),
            metrics: SavepointMetrics::new(&pipeline.name),
            health,
            failing: None,
            last_good: Instant::now(),
            unread: String::new(),
            dry_run: false,
            pipeline: pipeline.clone(),
        };
        Ok((maker, handle))
    }

    /// Makes savepoints, slot by slot and when asked for, until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut next = self.interval.map(|_| Instant::now());
        let mut asked = true;
        loop {
            tokio::select! {
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => next = self.slot().await,
                request = self.requests.recv(), if asked => match request {
                    Some(reply) => {
                        let made = self.round(None).await;
                        self.tell(&made);
                        // Who asked may have gone; the savepoint stays.
                        let _ = reply.send(made.map(|made| made.name().to_string()));
                    }
                    None => asked = false,
                },
                else => return,
            }
        }
    }

    /// Makes one now, outside of an agent.
    pub(crate) async fn once(&mut self) -> Result<Made> {
        self.round(None).await
    }

    /// Makes the present slot's, and returns when to come again; `None` where there are no slots.
    async fn slot(&mut self) -> Option<Instant> {
        let interval = self.interval?;
        let slot = Name::slot(Timestamp::now(), interval);
        let made = self.round(Some(slot)).await;
        // The pipeline has yet to make it. One that was there and has gone is another matter.
        if !self.was_there && matches!(&made, Err(error) if error.kind() == Kind::NoBackup) {
            return Some(Instant::now() + FOR_BACKUP.min(interval));
        }
        self.tell(&made);
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
        let until = slot.time().0.saturating_add(interval_ms).saturating_sub(Timestamp::now().0).max(0);
        let jitter = (interval / 10).min(JITTER_MAX).mul_f64(fastrand::f64());
        Some(Instant::now() + Duration::from_millis(until.cast_unsigned()) + jitter)
    }

    /// Tells what came of a round: metrics, log, health.
    fn tell(&mut self, made: &Result<Made>) {
        let error = match made {
            Ok(_) => {
                self.last_good = Instant::now();
                if self.failing.take().is_some() {
                    tracing::info!(pipeline = self.pipeline.name, "savepoints are made again");
                }
                self.health.set("", None);
                return;
            }
            Err(error) => error.to_string(),
        };
        self.metrics.failed();
        if self.failing.as_ref().is_none_or(|(_, told)| *told != error) {
            tracing::warn!(pipeline = self.pipeline.name, "no savepoint could be made: {error}; trying again");
        }
        let since = self.failing.take().map_or(self.last_good, |(since, _)| since);
        if let Some(interval) = self.interval
            && since.elapsed() >= (interval * PATIENT_SLOTS).max(PATIENT_FOR)
        {
            let seconds = since.elapsed().as_secs();
            self.health.set("", Some(format!("no savepoint could be made for {seconds} s: {error}")));
        }
        self.failing = Some((since, error));
    }

    /// Makes the savepoint of `slot`, or one of this moment.
    async fn round(&mut self, slot: Option<Name>) -> Result<Made> {
        let late = Error::transient(format!("it took longer than {} s", ROUND_WITHIN.as_secs()));
        timeout(ROUND_WITHIN, self.round_unbounded(slot)).await.unwrap_or(Err(late))
    }

    async fn round_unbounded(&mut self, slot: Option<Name>) -> Result<Made> {
        // Anew each time: a folder that is not mounted must not get a savepoint.
        let archive = Archive::open(&self.store, &self.pipeline.sink.backup_id).await?;
        self.was_there = true;
        let name = slot.unwrap_or_else(|| Name::at(Timestamp::now()));
        let standing = self.look(&archive, name, slot.is_some()).await?;
        if let Some(other) = standing {
            self.metrics.held(other.time());
            self.lost += 1;
            if !(self.lost - 1).is_multiple_of(LOOK_BESIDE) {
                return Ok(Made::ByAnother(other));
            }
        }
        let mut name = self.name_behind_newest(name)?;
        let began = Instant::now();
        let mut taken = match (self.take(&archive).await, standing) {
            (Ok(taken), _) => taken,
            (Err(error), None) => return Err(error),
            (Err(error), Some(other)) => {
                // The slot has its savepoint; whether that lacks something is asked again.
                tracing::info!(pipeline = self.pipeline.name, "savepoint {other} was not compared: {error}");
                return Ok(Made::ByAnother(other));
            }
        };
        let state = Arc::new(std::mem::take(&mut taken.state));
        let looked = |written| {
            let unreadable = state.groups.iter().filter(|group| group.error.is_some()).count();
            self.metrics.looked(began.elapsed().as_secs_f64(), state.groups.len(), unreadable, written);
            self.metrics.held(taken.at);
        };
        if let Some(other) = standing
            && self.newest.as_ref().and_then(|newest| newest.state.as_ref()).is_some_and(|held| held.covers(&state))
        {
            return Ok(Made::ByAnother(other));
        }
        // Another may have been made meanwhile by one who did not wait for us.
        if slot.is_some()
            && self.interval.is_some_and(|interval| began.elapsed() > interval)
            && let Some(other) = look::newer(&archive, name).await?
        {
            return Ok(Made::ByAnother(other));
        }
        loop {
            let (bytes, newest) = match plan::plan(name, taken.at, &state, self.newest.as_ref()) {
                Plan::Unchanged(name) => {
                    looked(false);
                    return Ok(Made::Unchanged(name));
                }
                Plan::Write(bytes, newest) => (bytes, newest),
            };
            if self.dry_run {
                self.newest = Some(newest);
                return Ok(Made::Written(name));
            }
            if archive.create_savepoint(name, bytes).await? == Creation::Created {
                crash::point("savepoint-created", &name);
                looked(true);
                self.newest = Some(newest);
                return Ok(Made::Written(name));
            }
            archive.store().settle(layout::SAVEPOINTS).await?;
            if slot.is_some() {
                self.newest = Some(Newest::load(&archive, name, self.newest.clone()).await?);
                return Ok(Made::ByAnother(name));
            }
            name = name.later();
        }
    }

    /// Asks the cluster, and adds what is known here.
    async fn take(&mut self, archive: &Archive) -> Result<Taken> {
        // Where the newest one cannot be read, what others cover is known from an earlier one.
        let before = self.newest.as_ref().and_then(|newest| newest.state.clone()).or_else(|| self.readable.clone());
        let beside = match before.as_deref() {
            Some(before) => self.beside.topics(archive, &self.scope, before).await?,
            None => BTreeSet::new(),
        };
        let asking = Asking {
            client: &self.client,
            scope: &self.scope,
            cluster_id: archive.backup().cluster_id.as_deref(),
            before: before.as_deref(),
            beside: &beside,
            lasting: &self.ahead,
        };
        let mut taken = asking.take().await?;
        tracing::debug!(pipeline = self.pipeline.name, looks = taken.looks, "groups and ends are read");
        self.ahead = std::mem::take(&mut taken.ahead);
        let earlier = before.as_ref().map(|state| state.hanging.as_slice()).unwrap_or_default();
        taken.state.hanging = self.standing.hanging(&self.client, &taken.held_back, earlier).await;
        for (timeline, error) in std::mem::take(&mut taken.unread) {
            // Of what we have chosen and nobody holds the pipeline tells.
            if self.beside.is_held(archive, &timeline).await? {
                let (topic, topic_id) = (timeline.0, timeline.1.to_string());
                taken.state.topics_unread.push(Unread { topic, topic_id, error });
            }
        }
        add_archived(&mut taken.state, &self.reached);
        if let Some(before) = &before {
            taken.state.keep_archived(before);
        }
        taken.state.sort();
        self.tell_unread(&taken.state);
        Ok(taken)
    }

    /// Logs which topics and groups cannot be read, when that has changed.
    fn tell_unread(&mut self, state: &State) {
        let mut unread: Vec<String> = state.groups_unread.iter().cloned().collect();
        if let Some(first) = state.topics_unread.first() {
            let names: Vec<_> = state.topics_unread.iter().map(|topic| &*topic.topic).collect();
            let (names, error) = (names.join(", "), &first.error);
            unread.push(format!(
                "topics that the backup holds may not be looked at: {names} ({error}); grant Describe on them to the \
                 agent's user"
            ));
        }
        let refused = state.groups.iter().filter_map(|group| group.error.as_ref().map(|error| (&group.group, error)));
        let refused: Vec<_> = refused.collect();
        if let Some((group, error)) = refused.first() {
            unread.push(format!("{} cannot be read, as \"{group}\": {error}", groups(refused.len())));
        }
        let unread = unread.join("; ");
        if unread != self.unread {
            match unread.is_empty() {
                true => {
                    tracing::info!(pipeline = self.pipeline.name, "savepoints: all topics and groups can be read again")
                }
                false => tracing::warn!(pipeline = self.pipeline.name, "savepoints are made without them: {unread}"),
            }
            self.unread = unread;
        }
    }
}

fn groups(count: usize) -> String {
    format!("{count} group{}", if count == 1 { "" } else { "s" })
}

/// Adds what this process has seen durable, and lets what is there no more be forgotten.
fn add_archived(state: &mut State, reached: &Reached) {
    let mut there = std::collections::HashSet::new();
    for topic in &mut state.topics {
        let (name, topic_id): (Arc<str>, TopicId) =
            (topic.topic.as_str().into(), topic.topic_id.parse().unwrap_or(TopicId::NONE));
        for end in &mut topic.partitions {
            let partition = Partition { topic: name.clone(), topic_id, index: end.partition };
            end.archived = reached
                .of(&partition)
                .map(|(fork, next)| Archived { chain: layout::chain_name(partition.index, fork), next });
            there.insert(partition);
        }
    }
    reached.keep(|partition| there.contains(partition));
}

/// Makes the savepoint of a pass that has archived everything of one of the pipelines of a backup. Without one that is
/// archived all the same: that there is none is told, and fails nothing.
pub(super) async fn of_pass(pipelines: &[config::Pipeline], reached: Reached) {
    if pipelines.iter().all(|pipeline| pipeline.source.savepoint_interval.is_none()) {
        return;
    }
    let backup = &pipelines[0].sink.backup_id;
    match once(pipelines, reached).await {
        Ok(made) => tracing::debug!(backup, savepoint = %made.name(), "savepoint"),
        Err(error) => {
            tracing::warn!(backup, "all is archived, but no savepoint could be made: {error}");
        }
    }
}

/// Makes one savepoint of a backup now, from outside of an agent, and returns what it holds; of a `dry_run` nothing is
/// written.
///
/// # Errors
/// As [`once`].
pub(crate) async fn create(pipelines: &[config::Pipeline], dry_run: bool) -> Result<(Made, Arc<State>)> {
    let (mut maker, _) = Maker::new(pipelines, Reached::default(), Health::new())?;
    maker.dry_run = dry_run;
    let made = maker.once().await?;
    let state = maker.newest.and_then(|newest| newest.state);
    Ok((made, state.unwrap_or_default()))
}

/// Makes one savepoint of a backup now; `reached` is what the sinks have told.
///
/// # Errors
/// Why there is none; nothing was written then, or it is unknown whether it was.
async fn once(pipelines: &[config::Pipeline], reached: Reached) -> Result<Made> {
    Maker::new(pipelines, reached, Health::new())?.0.once().await
}

#[cfg(test)]
mod tests;
