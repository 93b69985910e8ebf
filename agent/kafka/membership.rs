//! Membership in a consumer group: which partitions are ours, by Kafka's group protocol, through rdkafka.
//!
//! librdkafka joins, is given partitions, gives them back and commits offsets; it fetches nothing. That is the wire
//! client's work, and correctness rests on the archive's chain: a partition that two members read is fenced there. So
//! no error of the group stops capture. What the group takes back in good order is closed first; what it declares
//! *lost* (a coordinator that is away, a session that timed out) is read on until the next assignment says who has it.
//!
//! Order: a revoked partition is closed ([`Membership::released`]), what is durable of it is committed, then it is let
//! go, and only then does the next member get it. An owner that captures on whatever the group says releases it at once.
//! Retry: librdkafka joins again by itself; after an error that it calls fatal, and when something is wrong and files
//! hold other passwords or certificates than it was given, a new consumer takes its place, with back-off. Cancel: dropping [`Membership`] commits, leaves the group, and waits for that no longer than
//! [`LEAVE_WITHIN`]. Crash: the others get the partitions when the session times out; committed offsets are hints for
//! people and tools, nothing is read from them.
//!
//! Here alone rdkafka's consumer is named. It is polled on a thread of its own: no runtime thread waits in it.

mod context;
mod holdings;
mod settings;
mod standing;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::TopicPartitionList;

use self::context::Context;
use self::holdings::{Holdings, Name};
use self::standing::Standing;
use super::Properties;
use super::security::Security;
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::record::Offset;

/// How long the consumer is polled before commands are looked at. With ten times as much, leaving would take a second
/// longer; a tenth would wake an idle agent a hundred times a second.
const PULSE: Duration = Duration::from_millis(100);

/// How often durable positions are committed: as often as a person looks at lag, not as often as a segment closes.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// How long a drop waits until the group is left. It takes milliseconds; when the coordinator is away the others find
/// out by the session's time-out all the same.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// The first wait and the longest one before a consumer takes the place of one that broke.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What the group tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// These partitions are now (also) ours.
    Assigned(Vec<(String, i32)>),
    /// These are to be let go.
    Revoked {
        /// The partitions; [`Membership::released`] is called for each when it is closed.
        partitions: Vec<(String, i32)>,
        /// Another may have them already; nobody waits for `released`.
        lost: bool,
    },
    /// What is wrong with the membership, or that it is well again. Never stops capture.
    Trouble(Option<String>),
}

/// A place in a consumer group. Dropping it leaves the group.
pub struct Membership {
    shared: Arc<Shared>,
}

/// What the thread of the membership and its owner both see.
struct Shared {
    group_id: String,
    /// Where tokens come from.
    security: Security,
    /// How long the group waits for a revoked partition to be closed.
    release_within: Duration,
    told: Box<dyn Fn(Told) + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The topics to subscribe to; `None` when nothing has changed.
    subscribe: Option<Vec<String>>,
    topics: Vec<String>,
    holdings: Holdings,
    standing: Standing,
    phase: Phase,
    /// Whether something is wrong since the group was well last: perhaps brokers refuse what files held when the consumer was
    /// made.
    unwell: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Member,
    /// The consumer is of no use any more: another one takes its place.
    Broken,
    Leaving,
    Left,
}

impl Membership {
    /// Joins the group `group_id` in the background; nothing is assigned before [`Self::subscribe`].
    ///
    /// `told` is called on a thread of the membership, and must not wait.
    ///
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) when librdkafka refuses the properties.
    pub fn join(
        properties: &Properties,
        group_id: &str,
        metadata_interval: Duration,
        told: impl Fn(Told) + Send + Sync + 'static,
    ) -> Result<Self> {
        let stamp = properties.security.stamp();
        let settings = settings::settings(properties, group_id, metadata_interval)?;
        let shared = Arc::new(Shared {
            group_id: group_id.to_owned(),
            security: properties.security.clone(),
            release_within: settings::release_within(&settings),
            told: Box::new(told),
            state: Mutex::new(State {
                subscribe: None,
                topics: Vec::new(),
                holdings: Holdings::default(),
                standing: Standing::new(group_id, Instant::now()),
                phase: Phase::Member,
                unwell: false,
            }),
            changed: Condvar::new(),
        });
        let config = config(settings);
        let wrong = |error: KafkaError| {
            Error::usage(format!("cannot be a member of group \"{group_id}\" with these Kafka properties"))
                .source(error)
                .hint("correct pipeline.source.kafka, or leave group_id out")
        };
        let first = consumer(&config, &shared).map_err(wrong)?;
        let (properties, shared_too) = (properties.clone(), shared.clone());
        let member =
            Member { properties, metadata_interval, config, stamp, shared: shared_too, committed: Instant::now() };
        thread::Builder::new()
            .name("group".to_owned())
            .spawn(move || member.run(first))
            .map_err(|error| Error::failed("cannot start a thread").source(error))?;
        Ok(Self { shared })
    }

    /// Takes part with `topics` from now on; one that does not exist is no error, and is shared when it appears.
    pub fn subscribe(&self, topics: &[String]) {
        let mut topics = topics.to_vec();
        topics.sort();
        topics.dedup();
        let mut state = self.shared.lock();
        if state.topics != topics {
            state.topics.clone_from(&topics);
            state.subscribe = Some(topics);
        }
    }

    /// Takes note that everything of a partition before `next` is durable. It is committed within about a second; a
    /// commit that fails is tried again with the next one.
    pub fn durable(&self, topic: &str, partition: i32, next: Offset) {
        self.shared.lock().holdings.durable(topic, partition, next);
    }

    /// Takes note that a revoked partition is closed, or captured on without the group: it is not waited for any more.
    pub fn released(&self, topic: &str, partition: i32) {
        self.shared.lock().holdings.released(topic, partition);
        self.shared.changed.notify_all();
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.phase != Phase::Left {
            state.phase = Phase::Leaving;
        }
        self.shared.changed.notify_all();
        let left = self.shared.changed.wait_timeout_while(state, LEAVE_WITHIN, |state| state.phase != Phase::Left);
        if left.is_ok_and(|(_, late)| late.timed_out()) {
            let group = &self.shared.group_id;
            tracing::warn!("group \"{group}\" is not left yet: the others go on when its session times out");
        }
    }
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").field("group_id", &self.shared.group_id).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// Takes note of something of the membership's standing, and tells what is news.
    fn stand(&self, change: impl FnOnce(&mut Standing)) {
        let news = {
            let mut state = self.lock();
            change(&mut state.standing);
            state.standing.news()
        };
        if let Some(trouble) = news {
            (self.told)(Told::Trouble(trouble));
        }
    }
}

fn config(settings: BTreeMap<String, String>) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in settings {
        config.set(name, value);
    }
    config.set_log_level(context::log_level());
    config
}

fn consumer(config: &ClientConfig, shared: &Arc<Shared>) -> Result<BaseConsumer<Context>, KafkaError> {
    config.create_with_context(Context::new(shared.clone()))
}

/// Sends off the commit of positions; the answer comes to [`Context`]'s callback.
///
/// Never the kind that waits: an absent coordinator would hold it, and what comes after it, for as long as it likes. The
/// request is on the coordinator's connection before the one that lets the partitions go all the same.
fn commit(consumer: &BaseConsumer<Context>, positions: &[(Name, Offset)]) {
    if positions.is_empty() {
        return;
    }
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for ((topic, partition), next) in positions {
        let added = list.add_partition_offset(topic, *partition, rdkafka::Offset::Offset(*next));
        debug_assert!(added.is_ok(), "an offset that can be written: {next}");
    }
    if let Err(error) = consumer.commit(&list, CommitMode::Async) {
        tracing::debug!("offsets of the group are not committed, which are hints only: {error}");
    }
}

/// The thread of a membership.
struct Member {
    properties: Properties,
    metadata_interval: Duration,
    config: ClientConfig,
    /// What files held when that was made.
    stamp: Option<u128>,
    shared: Arc<Shared>,
    /// When positions were committed last.
    committed: Instant,
}

impl Member {
    fn run(mut self, first: BaseConsumer<Context>) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut consumer = Some(first);
        loop {
            let began = Instant::now();
            if let Some(consumer) = &consumer {
                self.serve(consumer);
            }
            // Closes it, with the callbacks that belong to that; a member that can, leaves the group.
            drop(consumer.take());
            if began.elapsed() > BACKOFF.1 {
                backoff.reset();
            }
            if !self.wait(backoff.wait()) {
                break;
            }
            self.read_again();
            match self::consumer(&self.config, &self.shared) {
                Ok(next) => consumer = Some(next),
                Err(error) => self.shared.stand(|standing| standing.broken(&error.to_string())),
            }
        }
        self.shared.lock().phase = Phase::Left;
        self.shared.changed.notify_all();
    }

    /// Is a member until it is time to leave, or the consumer is broken.
    fn serve(&mut self, consumer: &BaseConsumer<Context>) {
        loop {
            match consumer.poll(PULSE) {
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    self.shared.lock().phase.break_unless_leaving();
                    self.shared.stand(|standing| standing.fatal(code));
                }
                // Other errors were told to the context with more words.
                Some(Err(_)) | None => {}
                Some(Ok(message)) => {
                    tracing::warn!("librdkafka has fetched from {}, which it is told not to", message.topic());
                    let paused = consumer.assignment().and_then(|assigned| consumer.pause(&assigned));
                    paused.unwrap_or_else(|error| tracing::warn!("cannot pause what librdkafka fetches: {error}"));
                }
            }
            let subscribe = {
                let mut state = self.shared.lock();
                if state.phase != Phase::Member {
                    return;
                }
                state.subscribe.take()
            };
            if let Some(topics) = subscribe {
                self.subscribe(consumer, &topics);
            }
            if self.committed.elapsed() >= COMMIT_EVERY {
                self.committed = Instant::now();
                if self.is_outdated() {
                    let group = &self.shared.group_id;
                    tracing::info!("group \"{group}\": joining anew with the new certificates and passwords");
                    return;
                }
                let due = self.shared.lock().holdings.due(None);
                commit(consumer, &due);
            }
        }
    }

    /// Returns whether something is wrong, and files hold something else than when the consumer was made. librdkafka reads
    /// them only then; what it has is good as long as the group is well.
    fn is_outdated(&self) -> bool {
        let is_unwell = self.shared.lock().unwell;
        is_unwell && self.properties.security.stamp().is_some_and(|stamp| Some(stamp) != self.stamp)
    }

    /// Reads what files hold; where they cannot be read now, what they held before is tried again.
    fn read_again(&mut self) {
        self.shared.lock().unwell = false;
        let stamp = self.properties.security.stamp();
        match settings::settings(&self.properties, &self.shared.group_id, self.metadata_interval) {
            Ok(settings) => (self.config, self.stamp) = (config(settings), stamp),
            Err(error) => tracing::debug!("{error}"),
        }
    }

    fn subscribe(&self, consumer: &BaseConsumer<Context>, topics: &[String]) {
        if topics.is_empty() {
            consumer.unsubscribe();
            return;
        }
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        if let Err(error) = consumer.subscribe(&names) {
            self.shared.lock().phase.break_unless_leaving();
            self.shared.stand(|standing| standing.broken(&error.to_string()));
        }
    }

    /// Waits for a new attempt; returns whether there shall be one.
    fn wait(&self, pause: Duration) -> bool {
        let mut state = self.shared.lock();
        // The new consumer begins with no partitions: what we have is read on until it is told what is ours.
        state.holdings.lose(None);
        state.subscribe = Some(state.topics.clone());
        let waited = self.shared.changed.wait_timeout_while(state, pause, |state| state.phase != Phase::Leaving);
        let (mut state, _) = waited.expect("nobody panics while holding it");
        if state.phase == Phase::Leaving {
            return false;
        }
        state.phase = Phase::Member;
        true
    }
}

impl Phase {
    fn break_unless_leaving(&mut self) {
        if *self == Self::Member {
            *self = Self::Broken;
        }
    }
}

#[cfg(test)]
mod tests;
