//! Performs the plan of a restore.
//!
//! Order of durable effects: the plan's object, the target topics, the fence, the attempt's object, the batches, the
//! offset map, the settings that topics get afterwards, `done`. What a crash between two of them leaves is said in
//! [`state`](super::state). A start that finds a plan and no attempt performs that plan ([`before`]); one that finds the
//! map only gives the topics their settings, and writes `done`. Cancel: SIGTERM, SIGINT and `restores cancel` stop the reading; what is on its way is
//! acknowledged within `shutdown_timeout`. Nothing that was sent is taken back.

mod targets;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::watch;

use self::targets::{Assigned, Toward};
use super::ends;
use super::map::OffsetMap;
use super::plan::{self, Danger, Hazard, Plan};
use super::progress::Progress;
use super::reading::{Limits, Reading, Task};
use super::sending::{Lane, Sending, Sum, Target};
use super::state::{self, Attempt, Done, Name, Outcome, Process, Seen, Start, State};
use crate::archive::Archive;
use crate::batch::outgoing::{self, Identity};
use crate::budget::{Budget, RateLimit};
use crate::config::Restore;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::Client;
use crate::kafka::produce::{self, Producer, fence};
use crate::pipeline::{self, Control};
use crate::record::{Offset, OffsetRange, Partition, Timestamp};
use crate::stages::Stages;
use crate::store::Creation;
use crate::telemetry::Health;

/// The plain bytes of a merged batch. Half of it makes twice the requests' shares; double is more than brokers' caches like.
const MERGE_TO: usize = 256 << 10;

/// How often it is looked whether somebody wants the restore to end.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where a rate is limited, records are handed on in pieces of so much time.
const PIECES_A_SECOND: u64 = 20;

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Records that were restored, copies that stages made among them.
    pub records: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Partitions that were restored.
    pub partitions: usize,
    /// Records that were left out because a stage failed at them.
    pub left_out: u64,
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
    /// The stages that records go through.
    pub stages: Option<&'a Stages>,
    /// Where it says what is wrong.
    pub health: &'a Health,
}

impl Planned<'_> {
    /// Does it.
    ///
    /// # Errors
    /// [`Kind::Usage`] for hazards that were not accepted, and for a restore of that id that was begun before;
    /// [`Kind::Fenced`] when another process has taken over; [`Kind::Interrupted`] when told to stop; else what went wrong
    /// first, after what could be restored has been.
    pub async fn perform(&self, stop: watch::Receiver<bool>) -> Result<Summary> {
        self.check()?;
        let id = self.state.restore_id();
        if self.state.is_cancelled().await? {
            return Err(Error::usage(format!("restore `{id}` was cancelled")).hint("give this one another restore_id"));
        }
        let seen = self.state.look().await?;
        self.check_cluster(&seen)?;
        if seen.names.contains(&Name::Map) {
            return self.end(&seen).await;
        }
        check_new(id, &seen)?;
        let kept = self.keep_plan().await?;
        let is_fenced = self.may_fence().await?;
        targets::make(self.client, self.plan).await?;
        crash::point("restore-topics", &id);
        let assigned = targets::assigned(self.client, self.plan).await?;
        let towards = assigned.iter().flat_map(|assigned| &assigned.targets);
        let targets: BTreeSet<_> = towards.map(|toward| toward.pair.target.clone()).collect();
        let targets: Vec<_> = targets.into_iter().collect();
        // Else two starts at once would fence each other off, and neither go on.
        check_new(id, &self.state.look().await?)?;
        let identity = match is_fenced {
            true => fence(self.client, &transactional_id(id), &targets).await?,
            false => produce::unfenced(self.client).await?,
        };
        let logs = ends::of(self.client, &targets).await?;
        self.check_empty(&logs).await?;
        let ends = logs.into_iter().map(|(target, log)| (target, log.next)).collect();
        let attempt = self.begin(&kept, identity, &assigned, &ends).await?;
        if attempt.number > 0 {
            return Err(Error::failed(format!("restore `{id}` was started twice at once"))
                .hint("they have fenced each other off, and nothing was sent; give this one another restore_id"));
        }
        let sent = self.send(&assigned, identity, ends, stop).await;
        let (map, Sum { records, bytes, left_out }) = sent.map_err(|error| self.unfinished(error))?;
        let (created, map_digest) = self.state.put_map(&map).await?;
        if created == Creation::Exists {
            return Err(Error::failed(format!("restore `{id}` has an offset map already, and it is another one"))
                .hint("another process restores under the same id; `restores show` tells of it"));
        }
        targets::set_afterwards(self.client, self.plan).await?;
        let summary = Summary { records, bytes, partitions: assigned.len(), left_out };
        let _ = self.state.finish(&self.done(attempt.number, &map, map_digest, summary)).await?;
        Ok(summary)
    }

    /// Refuses what is dangerous about the plan and is not accepted now, whatever was accepted when it was made.
    ///
    /// # Errors
    /// [`Kind::Usage`], which names it.
    pub fn check(&self) -> Result<()> {
        let accepted = plan::hazards::accepted(&self.restore.sink.accept)?;
        let judge = |hazard: &Hazard| Hazard { accepted: accepted.contains(&hazard.danger), ..hazard.clone() };
        plan::hazards::check(&self.plan.hazards.iter().map(judge).collect::<Vec<_>>())
    }

    /// Refuses another cluster than the one that the plan was made for: a name may lead elsewhere by now.
    fn check_cluster(&self, seen: &Seen) -> Result<()> {
        let planned = seen.plan.as_ref().and_then(|plan| plan.target.cluster_id.clone());
        match planned.zip(self.client.cluster_id()) {
            Some((planned, there)) if planned != there => {
                let id = self.state.restore_id();
                Err(Error::usage(format!("restore `{id}` was planned for the cluster {planned}, and this is {there}"))
                    .hint("give this one another restore_id"))
            }
            _ => Ok(()),
        }
    }

    /// Ends a restore of which everything has landed.
    async fn end(&self, seen: &Seen) -> Result<Summary> {
        let lost = || Error::transient("the offset map was there, and is not told");
        let map = self.state.offset_map(seen).await?.ok_or_else(lost)?;
        let (_, map_digest) = self.state.put_map(&map).await?;
        targets::set_afterwards(self.client, self.plan).await?;
        let records = map.iter().map(|(_, track)| track.records()).sum();
        // How many bytes were sent, and what stages left out, only the process knew that sent them; so many were read.
        let partitions = self.plan.partitions().filter(|(_, of)| !of.range().is_empty()).count();
        let summary = Summary { records, bytes: self.plan.size().1, partitions, left_out: 0 };
        let attempt = seen.attempts.last().copied().unwrap_or_default();
        let _ = self.state.finish(&self.done(attempt, &map, map_digest, summary)).await?;
        Ok(summary)
    }

    /// Returns whether older processes are to be fenced off; that they cannot be must have been accepted.
    async fn may_fence(&self) -> Result<bool> {
        let id = transactional_id(self.state.restore_id());
        let Some(why) = produce::hindrance(self.client, &id, true).await? else { return Ok(true) };
        let accepted = plan::hazards::accepted(&self.restore.sink.accept)?.contains(&Danger::NoFence);
        plan::hazards::check(&[Hazard { accepted, ..Hazard::new(Danger::NoFence, &id, &why) }])?;
        tracing::warn!("{id}: nobody is fenced off: {why}");
        Ok(false)
    }

    /// Refuses targets to which somebody has written since the plan was made. Nobody of this restore can any more.
    async fn check_empty(&self, logs: &HashMap<Partition, OffsetRange>) -> Result<()> {
        let is_known = |target: &Partition| {
            let told = |hazard: &&Hazard| hazard.danger == Danger::TargetNotEmpty;
            self.plan.hazards.iter().filter(told).any(|hazard| hazard.subject == target.to_string())
        };
        let unknown = logs.iter().filter(|(target, _)| !is_known(target)).map(|(target, log)| (target.clone(), *log));
        let full = ends::with_records(self.client, &unknown.collect()).await?;
        let Some(first) = full.iter().min() else { return Ok(()) };
        Err(Error::failed(format!("{first}: {}: somebody wrote to it after the plan was made", Danger::TargetNotEmpty))
            .hint("nothing was sent; give this restore another restore_id, so that it is planned anew"))
    }

    /// Keeps that this process begins.
    async fn begin(
        &self,
        kept: &state::Plan,
        identity: Identity,
        assigned: &[Assigned<'_>],
        ends: &HashMap<Partition, Offset>,
    ) -> Result<Attempt> {
        let starts = |Assigned { targets, of, .. }: &Assigned<'_>| -> Vec<Start> {
            let start = |Toward { pair, .. }: &Toward| {
                let target_next = ends.get(&pair.target).copied().unwrap_or(0);
                Start { pair: pair.clone(), source_first: of.first, target_next }
            };
            targets.iter().map(start).collect()
        };
        let starts = assigned.iter().flat_map(starts).collect();
        self.state.begin(Attempt::new(kept, identity.producer_id, identity.epoch, Process::this(), starts)).await
    }

    /// Sends everything; returns the offset map, and what came of it.
    async fn send(
        &self,
        assigned: &[Assigned<'_>],
        identity: Identity,
        ends: HashMap<Partition, Offset>,
        stop: watch::Receiver<bool>,
    ) -> Result<(OffsetMap, Sum)> {
        let budget = Budget::new(self.restore.sink.memory_bytes);
        let producer = Producer::start(self.client, identity, produce::Settings::default());
        let lanes = assigned.iter().map(|assigned| self.lane(assigned)).collect();
        let mut sink = Sending::new(producer, lanes, ends, self.stages.cloned())?;
        let tasks = assigned.iter().map(|assigned| self.task(assigned)).collect::<Result<Vec<_>>>()?;
        let mut source = Reading::new(self.archive, tasks, self.limits(&budget));
        let mut progress = Progress::new(&self.restore.name, self.plan.size().0, budget.clone(), self.health.clone());
        let (stopper, stopped) = watch::channel(false);
        let control = Control { budget, stop: stopped, shutdown_timeout: self.restore.sink.shutdown_timeout };
        let mut stopped_by = None;
        let outcome = {
            let running = pipeline::run(&mut source, &mut sink, &mut progress, control);
            tokio::pin!(running);
            tokio::select! {
                outcome = &mut running => outcome,
                why = self.until_stopped(stop) => {
                    stopped_by = Some(why);
                    stopper.send_replace(true);
                    running.await
                }
            }
        };
        progress.finish();
        let failure = source.failure();
        let (map, sum) = sink.finish();
        // Told to stop when everything had landed already, it is done.
        let is_done = outcome.is_ok() && failure.is_none() && map.is_finished();
        if let Some(why) = stopped_by.filter(|why| !(is_done && matches!(why, Why::Told))) {
            return Err(why.source_of(outcome));
        }
        outcome?;
        if let Some(error) = failure {
            return Err(error);
        }
        match map.is_finished() {
            true => Ok((map, sum)),
            false => Err(Error::failed("not all partitions were restored to their ends")),
        }
    }

    fn lane(&self, Assigned { source, of, targets }: &Assigned<'_>) -> Lane {
        let merge_below = self.plan.merge_below;
        let target = |Toward { pair, most_bytes }: &Toward| Target {
            pair: pair.clone(),
            limits: outgoing::Limits { most_bytes: *most_bytes, merge_below, merge_to: MERGE_TO },
        };
        Lane {
            source: source.clone(),
            targets: targets.iter().map(target).collect(),
            window: self.plan.window(of),
            is_paced: self.is_paced(),
        }
    }

    fn task(&self, Assigned { source, of, .. }: &Assigned<'_>) -> Result<Task> {
        Ok(Task {
            partition: source.clone(),
            way: of.way(source)?,
            window: self.plan.window(of),
            torn: of.torn.clone(),
            over_breaks: self.goes_over_breaks(source),
        })
    }

    /// Returns whether the plan names breaks of a partition's chain: they are accepted then.
    fn goes_over_breaks(&self, source: &Partition) -> bool {
        let is_of = |hazard: &Hazard| hazard.danger == Danger::ChainBreak && hazard.subject == source.to_string();
        self.plan.hazards.iter().any(is_of)
    }

    fn done(&self, attempt: u32, map: &OffsetMap, map_digest: String, summary: Summary) -> Done {
        let outcome = |(pair, track): (&super::map::Pair, &super::map::Track)| Outcome {
            pair: pair.clone(),
            records: track.records(),
            end: track.end().unwrap_or_else(|| track.target_next()),
            digest: None,
        };
        Done {
            restore_id: self.state.restore_id().to_owned(),
            finished_at: Timestamp::now().to_string(),
            attempt,
            records: summary.records,
            bytes: summary.bytes,
            left_out: summary.left_out,
            map_digest,
            partitions: map.iter().map(outcome).collect(),
        }
    }

    /// Keeps the plan; refuses to begin a second time what was begun.
    async fn keep_plan(&self) -> Result<state::Plan> {
        let target = state::Target {
            bootstrap_servers: self.client.properties().bootstrap_servers.join(","),
            cluster_id: self.client.cluster_id(),
        };
        let backup_id = &self.restore.source.backup_id;
        let wanted = state::Plan::new(self.state.restore_id(), backup_id, target, self.plan)?;
        let (_, held) = self.state.put_plan(&wanted).await?;
        if held.digest != wanted.digest {
            let id = self.state.restore_id();
            return Err(Error::usage(format!("restore `{id}` was planned before, and otherwise"))
                .hint("`restores show` prints that plan; give this one another restore_id"));
        }
        Ok(held)
    }

    fn is_paced(&self) -> bool {
        self.restore.max_bytes_per_second.is_some() || self.restore.max_records_per_second.is_some()
    }

    fn limits(&self, budget: &Budget) -> Limits {
        let (bytes, records) = (self.restore.max_bytes_per_second, self.restore.max_records_per_second);
        let piece = |rate: u64| (rate / PIECES_A_SECOND).max(1);
        Limits {
            budget: budget.clone(),
            bytes: RateLimit::new(bytes),
            records: RateLimit::new(records),
            piece: (bytes.map_or(usize::MAX, |rate| piece(rate) as usize), records.map_or(u64::MAX, piece)),
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

    fn unfinished(&self, error: Error) -> Error {
        let id = self.state.restore_id();
        match error.kind() {
            Kind::Interrupted | Kind::Fenced => error.with("restore", id),
            kind => Error::new(kind, format!("restore `{id}` is not finished"))
                .source(error)
                .hint("what was acknowledged stays in the target"),
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

/// Refuses to begin a second time what was begun.
///
/// # Errors
/// [`Kind::Usage`], with what to do instead.
pub fn check_new(restore_id: &str, seen: &Seen) -> Result<()> {
    if seen.attempts.is_empty() {
        return Ok(());
    }
    Err(begun(restore_id, seen.attempts.len())
        .hint("what it sent stays in the target; give this one another restore_id and an empty target"))
}

fn begun(restore_id: &str, attempts: usize) -> Error {
    Error::usage(format!("restore `{restore_id}` was begun before, and has not finished")).with("attempts", attempts)
}

/// Returns the plan that a start of a restore is bound to, if an earlier one has kept one.
///
/// # Errors
/// [`Kind::Usage`] where something else is asked for than then, and for a restore that was begun and of which not
/// everything has landed; [`Kind::Damaged`] for a plan that cannot be read.
pub fn before(restore: &Restore, restore_id: &str, seen: &Seen) -> Result<Option<Plan>> {
    if !seen.names.contains(&Name::Map) {
        check_new(restore_id, seen)?;
    }
    let Some(kept) = &seen.plan else {
        let damaged = || format!("the plan of restore `{restore_id}` cannot be read");
        return if seen.names.contains(&Name::Plan) { Err(Error::damaged(damaged())) } else { Ok(None) };
    };
    let plan: Plan = kept.read()?;
    if plan.request == restore.request() {
        return Ok(Some(plan));
    }
    Err(Error::usage(format!("restore `{restore_id}` was planned before, and otherwise"))
        .hint("`restores show` prints that plan; give this one another restore_id"))
}

/// Returns the transactional id of a restore: whoever has it newest is the one that sends.
pub(super) fn transactional_id(restore_id: &str) -> String {
    format!("kafka-backup-restore-{restore_id}")
}
