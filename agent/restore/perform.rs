//! Performs the plan of a restore.
//!
//! Order of durable effects: the plan's object, the target topics, the fence, the attempt's object, the batches and now and
//! then a journal, the last journal, the offset map, the settings that topics get afterwards, `done`. What a crash between
//! two of them leaves is said in [`state`](super::state). A start that finds a plan performs that plan ([`before`]); one
//! that finds an attempt goes on where that has come to ([`resume`](super::resume)); one that finds the map only gives the
//! topics their settings, and writes `done`, also when it was cancelled meanwhile. Cancel: SIGTERM, SIGINT and `restores
//! cancel` stop the reading; what is on its way is acknowledged within `shutdown_timeout`. Nothing that was sent is taken
//! back. While it begins they end every wait for the cluster ([`stopping`]).

mod stopping;
pub(super) mod targets;
pub(super) mod within;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::watch;

use self::stopping::Why;
pub use self::stopping::check_cancelled;
use self::targets::{Assigned, Toward};
use super::ends;
use super::map::{OffsetMap, Pair};
use super::plan::{self, Danger, Hazard, PartitionPlan, Plan};
use super::progress::Progress;
use super::reading::{Limits, Reading, Task};
use super::resume::{self, Path, Resumed};
use super::sending::{Begun, Journaling, Lane, Outlet, Sending, Target, Transacting};
use super::state::{self, Attempt, Done, Journal, Name, Outcome, Process, Seen, Start, State, Sum};
use super::undo;
use crate::archive::Archive;
use crate::batch::outgoing::{self, Identity};
use crate::budget::{Budget, RateLimit};
use crate::config::Restore;
use crate::crash;
use crate::error::{Error, Kind, Result};
use crate::kafka::client::Client;
use crate::kafka::produce::{self, Places, Producer, Transactions, fence};
use crate::pipeline::{self, Control};
use crate::record::{OffsetRange, Partition, Timestamp};
use crate::stages::Stages;
use crate::store::Creation;
use crate::telemetry::Health;

/// The plain bytes of a merged batch. Half of it makes twice the requests' shares; double is more than brokers' caches like.
const MERGE_TO: usize = 256 << 10;

/// The wait before it is looked again where a restore stands.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

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
    /// [`Kind::Usage`] for hazards that were not accepted, and for a restore that was cancelled; [`Kind::Fenced`] when another
    /// process has taken over; [`Kind::Interrupted`] when told to stop; else what went wrong first, after what could be
    /// restored has been.
    pub async fn perform(&self, stop: watch::Receiver<bool>) -> Result<Summary> {
        self.check()?;
        let id = self.state.restore_id();
        let seen = self.state.look().await?;
        self.check_cluster(&seen)?;
        undo::check_undone(id, &seen)?;
        if seen.has_landed() {
            return self.end(&seen).await;
        }
        check_cancelled(id, &seen)?;
        let kept = self.keep_plan().await?;
        let (path, is_fenced) = self.unless_stopped(&stop, self.prepare()).await?;
        if seen.attempts.is_empty() {
            self.unless_stopped(&stop, self.make_topics()).await?;
            crash::point("restore-topics", &id);
        }
        let assigned = self.unless_stopped(&stop, targets::assigned(self.client, self.plan)).await?;
        let targets = resume::targets(&assigned);
        let settings = produce::Settings::default();
        let identity = match is_fenced {
            true => match self.unless_stopped(&stop, fence(self.client, &transactional_id(id), &targets)).await {
                Ok(identity) => identity,
                Err(error) if error.kind() == Kind::Fenced => {
                    return Err(self.fenced(error, seen.attempts.last()).await);
                }
                Err(error) => return Err(error),
            },
            false => produce::unfenced(self.client).await?,
        };
        crash::point("restore-fence", &id);
        let places = match path {
            Path::Sequences => None,
            Path::Transactions(_) => Some(Places::new(&targets, assigned.len())?),
        };
        let process = Process::this();
        let (attempt, map, sum) = loop {
            // Whoever has begun before the fence may have sent, and can no more.
            let seen = self.state.look().await?;
            undo::check_undone(id, &seen)?;
            if seen.has_landed() {
                return self.end(&seen).await;
            }
            check_cancelled(id, &seen)?;
            self.check_youngest(&seen, identity)?;
            let standing = self.standing(&seen, &assigned, &targets, (identity, is_fenced), places.as_ref());
            let (Resumed { starts, map, sum }, void) = match self.unless_stopped(&stop, standing).await {
                Ok(began) => began,
                Err(error) => {
                    // What a younger process sends is no sign that somebody else writes there.
                    self.check_youngest(&self.state.look().await?, identity)?;
                    return Err(error);
                }
            };
            let attempt = Attempt::new(&kept, (identity.producer_id, identity.epoch), process.clone(), starts);
            let attempt = Attempt { left_out: sum.left_out, void, ..attempt };
            if let Some(attempt) = self.state.begin_behind(&seen, &attempt).await? {
                break (attempt, map, sum);
            }
            // An older process has kept that it begins, though it can send nothing.
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        };
        if attempt.number > 0 {
            tracing::info!(records = sum.records, "restore `{id}` goes on");
        }
        let sent = self.send(&assigned, (identity, settings, places), &attempt, (map, sum), stop).await;
        let (map, Sum { records, bytes, left_out }) = match sent {
            Ok(sent) => sent,
            Err(error) => return Err(self.unfinished(error, &attempt).await),
        };
        let (created, map_digest) = self.state.put_map(&map).await?;
        if created == Creation::Exists {
            let seen = self.state.look().await?;
            return match seen.attempt.as_ref().filter(|newest| newest.number > attempt.number) {
                Some(younger) => Err(self.state.fenced_by(younger)),
                // Of an older process: all that it sent had been acknowledged before it was fenced off.
                None => self.end(&seen).await,
            };
        }
        targets::set_afterwards(self.client, self.plan).await?;
        let summary = Summary { records, bytes, partitions: assigned.len(), left_out };
        let _ = self.state.finish(&self.done(attempt.number, &map, map_digest, summary)).await?;
        Ok(summary)
    }

    /// Asks, before anything is made, for all that is needed; returns how records go, and whether older processes are to be
    /// fenced off.
    async fn prepare(&self) -> Result<(Path, bool)> {
        let foreseen = targets::foreseen(self.client, self.plan).await?;
        let path = resume::path(self.plan, self.restore.skips(), &foreseen);
        let hindrance = self.hindrance().await?;
        if let Path::Transactions(why) = &path {
            let (id, targets) = (self.state.restore_id(), resume::targets(&foreseen));
            let _ = Places::new(&targets, foreseen.len())?;
            within::check(self.client, id, (why, hindrance.as_deref()), &targets).await?;
        }
        Ok((path, hindrance.is_none()))
    }

    /// Finds where the restore stands, behind the fence; and which journals say what is not so.
    async fn standing(
        &self,
        seen: &Seen,
        assigned: &[Assigned<'_>],
        targets: &[Partition],
        (identity, is_fenced): (Identity, bool),
        places: Option<&Places>,
    ) -> Result<(Resumed, Vec<u32>)> {
        let logs = ends::of(self.client, targets).await?;
        if seen.attempts.is_empty() {
            self.check_empty(&logs).await?;
            let (starts, map, sum) = (fresh(assigned, &logs), OffsetMap::default(), Sum::default());
            return Ok((Resumed { starts, map, sum }, Vec::new()));
        }
        let (client, state) = (self.client, self.state);
        match places {
            None => {
                let (pairs, producer) = (resume::pairs(assigned), (identity, is_fenced));
                Ok((resume::resume(client, state, seen, &pairs, &logs, producer).await?, Vec::new()))
            }
            Some(places) => {
                let group = transactional_id(state.restore_id());
                let progress = places.read(&produce::progress(client, &group).await?)?;
                resume::resume_committed(client, state, seen, assigned, &logs, (identity, &progress)).await
            }
        }
    }

    /// Makes sure that no process has begun that has fenced this one off.
    fn check_youngest(&self, seen: &Seen, identity: Identity) -> Result<()> {
        let is_younger = |of: &&Attempt| of.producer_id == identity.producer_id && of.epoch > identity.epoch;
        match seen.attempt.as_ref().filter(is_younger) {
            Some(younger) => Err(self.state.fenced_by(younger)),
            None => Ok(()),
        }
    }

    /// Makes the topics that are missing.
    async fn make_topics(&self) -> Result<()> {
        let Err(error) = targets::make(self.client, self.plan).await else { return Ok(()) };
        // Another start has made them and has come further: their settings may be the last ones by now.
        match self.state.look().await?.attempts.is_empty() {
            true => Err(error),
            false => Ok(()),
        }
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
        if !map.is_finished() {
            return Err(Error::damaged(format!(
                "the offset map of restore `{}` is not whole",
                self.state.restore_id()
            ))
            .hint("`restores show` prints it; nothing was sent since"));
        }
        let (_, map_digest) = self.state.put_map(&map).await?;
        targets::set_afterwards(self.client, self.plan).await?;
        let partitions = self.plan.partitions().filter(|(_, of)| !of.range().is_empty()).count();
        let summary = came_to(&map, seen.journal.as_ref(), partitions);
        let attempt = seen.attempts.last().copied().unwrap_or_default();
        let _ = self.state.finish(&self.done(attempt, &map, map_digest, summary)).await?;
        Ok(summary)
    }

    /// Returns why older processes cannot be fenced off, if they cannot; that must have been accepted.
    async fn hindrance(&self) -> Result<Option<String>> {
        let id = transactional_id(self.state.restore_id());
        let hindrance = produce::hindrance(self.client, &id, true).await?;
        if let Some(why) = &hindrance {
            let accepted = plan::hazards::accepted(&self.restore.sink.accept)?.contains(&Danger::NoFence);
            plan::hazards::check(&[Hazard { accepted, ..Hazard::new(Danger::NoFence, &id, why) }])?;
            tracing::warn!("{id}: nobody is fenced off: {why}");
        }
        Ok(hindrance)
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

    /// Sends everything; returns the offset map, and what came of it.
    async fn send(
        &self,
        assigned: &[Assigned<'_>],
        (identity, settings, within): (Identity, produce::Settings, Option<Places>),
        attempt: &Attempt,
        (map, sum): (OffsetMap, Sum),
        stop: watch::Receiver<bool>,
    ) -> Result<(OffsetMap, Sum)> {
        let (budget, is_within) = (Budget::new(self.restore.sink.memory_bytes), within.is_some());
        let starts = attempt.starts.iter().map(|start| (&start.pair, start)).collect();
        let mut lanes = assigned.iter().map(|assigned| self.lane(assigned, &starts)).collect::<Result<Vec<_>>>()?;
        let outlet = match within {
            None => Outlet::Plain(Producer::start(self.client, identity, settings)),
            Some(places) => {
                // What waits to be merged would be on both sides of a transaction's end.
                lanes.iter_mut().for_each(|lane| lane.is_paced = true);
                let from = |lane: &Lane| lane.targets.iter().map(|target| target.from).min().unwrap_or_default();
                let sources: Vec<_> = lanes.iter().map(|lane| (lane.source.clone(), from(lane))).collect();
                let id = transactional_id(self.state.restore_id());
                let transactions = Transactions::start(self.client, &id, &id, identity, settings);
                let every = self.restore.sink.journal_interval;
                let mut transacting = Transacting::new(transactions, places, sources, every);
                let mut told = stop.clone();
                tokio::select! {
                    begun = transacting.begin() => begun?,
                    Ok(_) = told.wait_for(|stop| *stop) => return Err(Why::Told.source_of(Ok(()))),
                }
                Outlet::Within(Box::new(transacting))
            }
        };
        let journals = self.state.journals(attempt).await?;
        let journaling = Journaling::new(journals, self.restore.sink.journal_interval, &map);
        let ends = attempt.starts.iter().map(|start| (start.pair.target.clone(), start.target_next)).collect();
        let begun = Begun { restore_id: self.state.restore_id().to_owned(), ends, map, sum };
        let mut sink = Sending::new(outlet, lanes, begun, self.stages.cloned(), Some(journaling))?;
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
        let (map, sum, kept) = sink.finish().await;
        // Told to stop when everything had landed already, it is done.
        let is_done = outcome.is_ok() && failure.is_none() && map.is_finished();
        if let Some(why) = stopped_by.filter(|why| !(is_done && matches!(why, Why::Told))) {
            return Err(why.source_of(outcome));
        }
        outcome?;
        if let Some(error) = failure {
            return Err(error);
        }
        match kept {
            // Nothing runs any more that could be taken back.
            Err(error) if is_within && error.kind() != Kind::Fenced => tracing::warn!("{error}"),
            // Without the last journal `done` would say too little, were this process killed behind the map.
            kept => kept?,
        }
        match map.is_finished() {
            true => Ok((map, sum)),
            false => Err(Error::failed("not all partitions were restored to their ends")),
        }
    }

    fn lane(&self, Assigned { source, of, targets }: &Assigned<'_>, starts: &BTreeMap<&Pair, &Start>) -> Result<Lane> {
        let merge_below = self.plan.merge_below;
        let target = |Toward { pair, most_bytes }: &Toward| {
            let unknown = || Error::failed(format!("the restore was begun without {pair}"));
            let start = starts.get(pair).ok_or_else(unknown)?;
            Ok(Target {
                pair: pair.clone(),
                limits: outgoing::Limits { most_bytes: *most_bytes, merge_below, merge_to: MERGE_TO },
                from: start.source_first,
                bytes: start.bytes,
                found: start.found.clone(),
            })
        };
        Ok(Lane {
            source: source.clone(),
            targets: targets.iter().map(target).collect::<Result<_>>()?,
            window: self.plan.window(of),
            is_paced: self.is_paced(),
        })
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
}

/// Returns where partitions begin of which nothing was sent yet.
fn fresh(assigned: &[Assigned<'_>], logs: &HashMap<Partition, OffsetRange>) -> Vec<Start> {
    let start = |pair: &Pair, of: &PartitionPlan| {
        Start::new(pair.clone(), of.first, logs.get(&pair.target).map_or(0, |log| log.next))
    };
    assigned.iter().flat_map(|of| of.targets.iter().map(|toward| start(&toward.pair, of.of))).collect()
}

/// Returns what has come of a restore whose map is kept: the last journal, which is kept before it, tells. Where that cannot
/// be read, the map tells of each record, and not of its copies.
fn came_to(map: &OffsetMap, last: Option<&Journal>, partitions: usize) -> Summary {
    let of = |last: &Journal| (last.records, last.bytes, last.left_out);
    let (records, bytes, left_out) = last.map(of).unwrap_or_default();
    let mapped = map.iter().map(|(_, track)| track.records()).sum();
    Summary { records: records.max(mapped), bytes, partitions, left_out }
}

/// Returns the plan that a start of a restore is bound to, if an earlier one has kept one.
///
/// # Errors
/// [`Kind::Usage`] for a restore that was undone, and where something else is asked for than then; [`Kind::Damaged`] for a
/// plan that cannot be read, or that is missing where a process has begun.
pub fn before(restore: &Restore, restore_id: &str, seen: &Seen) -> Result<Option<Plan>> {
    undo::check_undone(restore_id, seen)?;
    let Some(kept) = &seen.plan else {
        let is_begun = seen.names.contains(&Name::Plan) || !seen.attempts.is_empty();
        let damaged = || Error::damaged(format!("the plan of restore `{restore_id}` cannot be read"));
        return if is_begun { Err(damaged()) } else { Ok(None) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::state::tests as kept;

    #[test]
    fn what_a_restore_says_that_it_restored_is_not_less_than_what_its_map_leads_to() {
        let (behind, last) = (kept::journal(&[(0, 1, 10)]), kept::journal(&[(0, 1, 30)]));
        let map = last.map().expect("sound");
        let came = |journal: Option<&Journal>| came_to(&map, journal, 1);
        assert_eq!((came(Some(&last)).records, came(Some(&behind)).records, came(None).records), (30, 30, 30));
        let mut copied = last.clone();
        copied.records = 45;
        assert_eq!((came(Some(&copied)).records, came(Some(&copied)).bytes), (45, 100), "copies count");
    }
}
