//! Performs the plan of a restore.
//!
//! Order of durable effects: the plan's object, the target topics, the fence, the attempt's object, the batches, the
//! offset map, the settings that topics get afterwards, `done`. What a crash between two of them leaves is said in
//! [`state`](super::state). Cancel: SIGTERM, SIGINT and `restores cancel` stop the reading; what is on its way is
//! acknowledged within `shutdown_timeout`. Nothing that was sent is taken back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::watch;

use super::map::Pair;
use super::plan::{self, Plan, TopicPlan};
use super::progress::Progress;
use super::reading::{Limits, Reading, Task};
use super::sending::{Lane, Sending};
use super::state::{self, Attempt, Done, Outcome, Process, Start, State};
use crate::archive::source::Place;
use crate::archive::source::way::Part;
use crate::archive::{Archive, layout};
use crate::batch::outgoing::{self, Window};
use crate::budget::{Budget, RateLimit};
use crate::config::Restore;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::topics::{Made, NewTopic};
use crate::kafka::client::{At, Client, Isolation, OffsetQuery};
use crate::kafka::produce::{self, Producer, fence};
use crate::pipeline::{self, Control};
use crate::record::{Offset, OffsetRange, Partition, TopicId};

/// The plain bytes of a merged batch. Half of it makes twice the requests' shares; double is more than brokers' caches like.
const MERGE_TO: usize = 256 << 10;

/// How often it is looked whether somebody wants the restore to end.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where a rate is limited, records are handed on in pieces of so much time.
const PIECES_A_SECOND: u64 = 20;

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Records that were restored.
    pub records: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Partitions that were restored to.
    pub partitions: usize,
}

/// A restore that is planned.
pub struct Planned<'a> {
    /// What is asked for.
    pub restore: &'a Restore,
    /// What it reads.
    pub archive: &'a Archive,
    /// The cluster that it restores to.
    pub client: &'a Client,
    /// Where it keeps what it does.
    pub state: &'a State,
    /// What is going to be done.
    pub plan: &'a Plan,
}

impl Planned<'_> {
    /// Does it.
    ///
    /// # Errors
    /// [`Kind::Usage`] for hazards that were not accepted, and for a restore of that id that was begun before;
    /// [`Kind::Fenced`] when another process has taken over; [`Kind::Interrupted`] when told to stop; else what went wrong
    /// first, after what could be restored has been.
    pub async fn perform(&self, stop: watch::Receiver<bool>) -> Result<Summary> {
        plan::hazards::check(&self.plan.hazards)?;
        let kept = self.keep_plan().await?;
        self.make_topics().await?;
        let pairs = self.pairs().await?;
        let targets: Vec<_> = pairs.iter().map(|(pair, ..)| pair.target.clone()).collect();
        let identity = fence(self.client, &transactional_id(self.state.restore_id()), &targets).await?;
        let ends = self.ends(&targets).await?;
        let start = |(pair, _, of): &(Pair, &TopicPlan, &plan::PartitionPlan)| {
            let target_next = ends.get(&pair.target).copied().unwrap_or(0);
            Start { pair: pair.clone(), source_first: of.first, target_next }
        };
        let starts = pairs.iter().map(start).collect();
        let attempt = Attempt::new(&kept, identity.producer_id, identity.epoch, Process::this(), starts);
        let attempt = self.state.begin(attempt).await?;

        let window = |of: &plan::PartitionPlan| Window {
            offsets: of.range(),
            from: self.plan.cut.from(),
            until: self.plan.cut.until(),
        };
        let lane = |(pair, topic, of): &(Pair, &TopicPlan, &plan::PartitionPlan)| Lane {
            pair: pair.clone(),
            window: window(of),
            limits: outgoing::Limits {
                most_bytes: topic.most_bytes,
                merge_below: self.plan.merge_below,
                merge_to: MERGE_TO,
            },
        };
        let lanes: Vec<_> = pairs.iter().map(lane).collect();
        let producer = Producer::start(self.client, identity, produce::Settings::default());
        let mut sink = Sending::new(producer, lanes, ends)?;
        let over_breaks = self.plan.hazards.iter().any(|hazard| hazard.danger == plan::Danger::ChainBreak);
        let task = |(pair, _, of): &(Pair, &TopicPlan, &plan::PartitionPlan)| -> Result<Task> {
            let (way, torn) = (way(&pair.source, of)?, of.torn.clone());
            Ok(Task { partition: pair.source.clone(), way, window: window(of), torn, over_breaks })
        };
        let tasks = pairs.iter().map(task).collect::<Result<Vec<_>>>()?;
        let budget = Budget::new(self.restore.sink.memory_bytes);
        let mut source = Reading::new(self.archive, tasks, self.limits(&budget));
        let mut progress = Progress::new(&self.restore.name, self.plan.size().0);
        let (stopper, stopped) = watch::channel(false);
        let control =
            Control { budget: budget.clone(), stop: stopped, shutdown_timeout: self.restore.sink.shutdown_timeout };
        let outcome = tokio::select! {
            outcome = async {
                let running = pipeline::run(&mut source, &mut sink, &mut progress, control);
                tokio::pin!(running);
                tokio::select! {
                    outcome = &mut running => outcome,
                    why = self.until_stopped(stop) => {
                        stopper.send_replace(true);
                        let closed = running.await;
                        Err(why.source_of(closed))
                    }
                }
            } => outcome,
        };
        progress.finish();
        outcome.map_err(|error| self.unfinished(error))?;
        let (map, records, bytes) = sink.finish();
        if !map.is_finished() {
            return Err(self.unfinished(Error::failed("not all partitions were restored to their ends")));
        }
        let (_, map_digest) = self.state.put_map(&map).await?;
        self.set_afterwards().await?;
        let partitions: Vec<_> = map
            .iter()
            .map(|(pair, track)| Outcome {
                pair: pair.clone(),
                records: track.records(),
                end: track.end().unwrap_or_else(|| track.target_next()),
                digest: None,
            })
            .collect();
        let summary = Summary { records, bytes, partitions: partitions.len() };
        let done = Done {
            restore_id: self.state.restore_id().to_owned(),
            finished_at: crate::record::Timestamp::now().to_string(),
            attempt: attempt.number,
            records,
            bytes,
            map_digest,
            partitions,
        };
        let _ = self.state.finish(&done).await?;
        Ok(summary)
    }

    /// Keeps the plan; refuses to begin a second time what was begun.
    async fn keep_plan(&self) -> Result<state::Plan> {
        let target = state::Target {
            bootstrap_servers: self.client.properties().bootstrap_servers.join(","),
            cluster_id: self.client.cluster_id(),
        };
        let backup_id = &self.restore.source.backup_id;
        let wanted = state::Plan::new(self.state.restore_id(), backup_id, target, self.plan)?;
        let seen = self.state.look().await?;
        if seen.attempt.is_some() {
            let id = self.state.restore_id();
            return Err(Error::usage(format!("restore `{id}` was begun before, and has not finished"))
                .with("attempt", seen.attempts.len())
                .hint("what it sent stays in the target; give this one another restore_id and an empty target"));
        }
        let (_, held) = self.state.put_plan(&wanted).await?;
        if held.digest != wanted.digest {
            let id = self.state.restore_id();
            return Err(Error::usage(format!("restore `{id}` was planned before, and otherwise"))
                .hint("`restores show` prints that plan; give this one another restore_id"));
        }
        Ok(held)
    }

    /// Makes the topics that are missing.
    async fn make_topics(&self) -> Result<()> {
        let mut wanted: BTreeMap<&str, NewTopic> = BTreeMap::new();
        for (topic, new) in self.plan.topics.iter().filter_map(|topic| Some((topic, topic.create.as_ref()?))) {
            let made = NewTopic {
                name: topic.target.clone(),
                partitions: new.partitions,
                replication_factor: new.replication_factor,
                configs: new.configs.clone(),
            };
            let known = wanted.entry(&topic.target).or_insert_with(|| made.clone());
            known.partitions = known.partitions.max(made.partitions);
        }
        let wanted: Vec<_> = wanted.into_values().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        for (topic, made) in wanted.iter().zip(self.client.create_topics(&wanted).await?) {
            match made {
                Made::Created(_) => tracing::info!(topic = topic.name, partitions = topic.partitions, "made"),
                Made::Exists => {
                    return Err(Error::failed(format!("topic \"{}\" was made by somebody else meanwhile", topic.name))
                        .hint("plan again: nothing was sent"));
                }
                Made::Refused(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns the pairs of partitions, the targets with their topics' ids.
    async fn pairs(&self) -> Result<Vec<(Pair, &TopicPlan, &plan::PartitionPlan)>> {
        let mut names: Vec<_> = self.plan.topics.iter().map(|topic| topic.target.clone()).collect();
        names.sort();
        names.dedup();
        let metadata = self.client.metadata(Some(&names)).await?;
        let ids: HashMap<&str, TopicId> = metadata
            .topics
            .iter()
            .filter(|topic| topic.code == 0)
            .map(|topic| (&*topic.name, topic.topic_id))
            .collect();
        let pair = |(topic, of): (&'_ TopicPlan, &'_ plan::PartitionPlan)| -> Result<Pair> {
            let target_id = ids.get(topic.target.as_str()).copied();
            let target_id = target_id
                .ok_or_else(|| Error::failed(format!("the cluster does not tell of topic \"{}\"", topic.target)))?;
            let source =
                Partition { topic: topic.source.as_str().into(), topic_id: topic.topic_id.parse()?, index: of.source };
            let target = Partition { topic: topic.target.as_str().into(), topic_id: target_id, index: of.target };
            Ok(Pair { source, target })
        };
        let partitions = self.plan.partitions().filter(|(_, of)| !of.range().is_empty());
        partitions.map(|(topic, of)| Ok((pair((topic, of))?, topic, of))).collect()
    }

    /// Returns where the targets end.
    async fn ends(&self, targets: &[Partition]) -> Result<HashMap<Partition, Offset>> {
        let names: Vec<_> = targets.iter().map(|target| target.topic.to_string()).collect();
        let metadata = self.client.metadata(Some(&names)).await?;
        let mut asked: BTreeMap<i32, Vec<OffsetQuery>> = BTreeMap::new();
        for target in targets {
            let topic = metadata.topics.iter().find(|topic| topic.name == *target.topic);
            let met = topic.and_then(|topic| topic.partitions.iter().find(|met| met.index == target.index));
            let leader = met.map(|met| met.leader).filter(|leader| *leader >= 0);
            let leader = leader.ok_or_else(|| {
                Error::failed("a target partition has no leader").with("partition", target).hint("see to the brokers")
            })?;
            let query = OffsetQuery { partition: target.clone(), leader_epoch: -1, at: At::Latest };
            asked.entry(leader).or_default().push(query);
        }
        let mut ends = HashMap::new();
        for (leader, queries) in asked {
            let answers = self.client.list_offsets(leader, &queries, Isolation::Uncommitted).await?;
            for (query, answer) in queries.into_iter().zip(answers) {
                if answer.code != 0 || answer.offset < 0 {
                    let code = crate::kafka::code_name(answer.code);
                    return Err(Error::failed(format!("a target partition does not tell its end: {code}"))
                        .with("partition", &query.partition));
                }
                ends.insert(query.partition, answer.offset);
            }
        }
        Ok(ends)
    }

    fn limits(&self, budget: &Budget) -> Limits {
        let rate = self.restore.max_bytes_per_second;
        let is_limited = rate.is_some() || self.restore.max_records_per_second.is_some();
        let piece_bytes = rate.map_or(64 << 10, |rate| (rate / PIECES_A_SECOND).max(1)) as usize;
        Limits {
            budget: budget.clone(),
            bytes: RateLimit::new(rate),
            records: RateLimit::new(self.restore.max_records_per_second),
            piece_bytes: if is_limited { piece_bytes } else { usize::MAX },
        }
    }

    /// Waits until the process is told to stop, or somebody has cancelled the restore.
    async fn until_stopped(&self, mut stop: watch::Receiver<bool>) -> Why {
        let cancelled = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                match self.state.is_cancelled().await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => tracing::warn!("cannot look whether the restore is cancelled: {error}"),
                }
            }
        };
        tokio::select! {
            Ok(_) = stop.wait_for(|stop| *stop) => Why::Told,
            () = cancelled => Why::Cancelled,
        }
    }

    /// Gives the topics that were made the settings that they could not have while records came.
    async fn set_afterwards(&self) -> Result<()> {
        for (topic, new) in self.plan.topics.iter().filter_map(|topic| Some((topic, topic.create.as_ref()?))) {
            let mut changes: BTreeMap<String, Option<String>> = new
                .configs
                .iter()
                .filter(|(name, _)| plan::making::is_meanwhile(name))
                .map(|(name, _)| (name.clone(), None))
                .collect();
            changes.extend(new.afterwards.iter().map(|(name, value)| (name.clone(), Some(value.clone()))));
            let changes: Vec<_> = changes.into_iter().collect();
            self.client.alter_configs(&topic.target, &changes).await?;
        }
        Ok(())
    }

    fn unfinished(&self, error: Error) -> Error {
        let id = self.state.restore_id();
        match error.kind() {
            Kind::Interrupted | Kind::Fenced => error.with("restore", id),
            _ => {
                error.with("restore", id).hint("what was acknowledged stays in the target; the restore is not finished")
            }
        }
    }
}

/// Why a restore was stopped.
enum Why {
    Told,
    Cancelled,
}

impl Why {
    fn source_of(self, closed: Result<()>) -> Error {
        let error = match self {
            Self::Told => Error::new(Kind::Interrupted, "interrupted: the restore is not finished"),
            Self::Cancelled => Error::new(Kind::Interrupted, "the restore was cancelled"),
        };
        match closed {
            Ok(()) => error,
            Err(why) => error.source(why),
        }
    }
}

/// Returns the transactional id of a restore: whoever has it newest is the one that sends.
pub(super) fn transactional_id(restore_id: &str) -> String {
    format!("kafka-backup-restore-{restore_id}")
}

/// Returns the way along a partition that is planned.
fn way(source: &Partition, of: &plan::PartitionPlan) -> Result<Vec<Part>> {
    let part = |chain: &plan::ChainPlan| {
        let named = layout::parse_chain_name(&chain.chain);
        let (_, fork) = named.ok_or_else(|| Error::failed(format!("the plan names a chain `{}`", chain.chain)))?;
        let range = OffsetRange { first: chain.first, next: chain.next };
        Ok(Part { place: Place::new(source.clone(), fork), range })
    };
    of.chains.iter().map(part).collect()
}
