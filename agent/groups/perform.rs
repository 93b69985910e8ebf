//! Performs a plan: keeps the present, sets what is to be set, and reads it back.
//!
//! **Order of durable effects, and what a crash after each leaves:**
//!
//! | effect | what is left | what the next start does |
//! |---|---|---|
//! | (a look: the cluster, its topics and the groups are as the plan saw them, or where it wants them already) | nothing | looks again |
//! | the snapshot, where something is to change | a snapshot of what is | takes another one |
//! | for each group its OffsetCommit, then its OffsetDelete; groups in parallel | some groups, or some partitions of one, where they are to be, the others where they were | finds those that are there already, and sets the others |
//! | (everything that was to change, read back and compared) | all as it is to be | finds all of it there |
//!
//! So a run after a crash ends in the same state, by the same plan or by a new one. The snapshot of the first run is the one
//! to go back to; later ones hold what that run had set by then.
//!
//! What counts is what was read back: a partition is set when the cluster says so, whatever the answer to its commit was. A
//! partition that is so already, and was so in the look, counts as done.
//!
//! Retry: the client's, of those partitions alone that failed for a reason that passes. Cancel: as a crash.

mod looking;
mod report;
mod waiting;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use self::looking::{Found, Job};
use super::plan::Plan;
use super::positions::Committed;
use super::present::{Present, by_partition};
use super::snapshot::{Snapshot, Snapshots};
use crate::crash;
use crate::error::{Error, Result};
use crate::kafka::client::Client;
use crate::kafka::client::groups::{Change, Member, Requests};
pub use report::{Failed, GroupReport, Metrics, Report};
pub use waiting::wait_until_empty;

/// Connections to each broker, at most: each carries a request at a time. With half, a broker waits for us between two
/// commits; twice as many gain nothing, since a coordinator writes one after the other to its log.
pub const CONNECTIONS: usize = 8;

/// Returns clients for so many groups at a time: `client`, which the plan was made with, and further ones of its cluster, up to
/// [`CONNECTIONS`] together.
pub fn connections(client: &Client, groups: usize) -> Vec<Client> {
    let further = groups.min(CONNECTIONS).saturating_sub(1);
    let further = (0..further).map(|_| client.beside());
    std::iter::once(client.clone()).chain(further).collect()
}

/// Watches a plan being performed; what it does not care for it leaves out.
pub trait Progress: Sync {
    /// What groups had committed is kept, and nothing is changed yet.
    fn kept(&self, _snapshot: &Snapshot) {}

    /// A group still has members, and is waited for.
    fn waiting(&self, _group: &str, _members: &[Member]) {}

    /// So many partitions are to be changed.
    fn begun(&self, _partitions: u64) {}

    /// So many further partitions have been answered, whatever the answer.
    fn answered(&self, _partitions: u64) {}

    /// All are answered; what follows is their reading back.
    fn ended(&self) {}
}

/// Nobody watches.
impl Progress for () {}

/// How a plan is performed.
#[derive(Clone, Copy)]
pub struct Performing<'a> {
    /// At least one, all of the cluster that the plan is for, of which one has been made and the others
    /// [`beside`](Client::beside) it ([`connections`]). Groups are spread over them: each has a connection of its own to each
    /// broker, and a connection carries one request at a time.
    pub clients: &'a [Client],
    /// Where the present is kept before anything is changed; `None` keeps nothing, for who has kept it already.
    pub snapshots: Option<&'a Snapshots>,
    /// Groups that are set at a time, at most.
    pub max_concurrent: usize,
    /// Whether nothing is changed where one of the groups cannot be: because it has members, or is not as the plan saw it.
    pub all_or_nothing: bool,
    /// How long groups that have members are waited for; `None` does not wait.
    pub wait_until_empty: Option<Duration>,
    /// Who watches; `&()` for nobody.
    pub progress: &'a dyn Progress,
}

impl Performing<'_> {
    /// Performs `plan`; what it is for, `description`, goes into the snapshot. What came of it, and whether that is what was
    /// wanted, is the report's to say ([`Report::verdict`]).
    ///
    /// # Errors
    /// As [`Plan::check`]; [`Kind::Failed`](crate::error::Kind::Failed) for a plan of another cluster; as the client's and the
    /// store's before anything is changed. After that every failure stands in the report.
    pub async fn perform(&self, plan: &Plan, description: &str) -> Result<Report> {
        plan.check()?;
        let client = self.client()?;
        let names: Vec<String> = plan.groups.iter().map(|group| group.group.clone()).collect();
        if let Some(within) = self.wait_until_empty {
            let _ = wait_until_empty(client, &names, within, self.progress).await?;
        }
        let began = Instant::now();
        let present = Present::look_by(self.clients, &names).await?;
        self.check_cluster(plan, &present)?;
        let found = looking::found(plan, &present);
        let mut report = Report::new(&found, client.properties().bootstrap_servers.join(","));
        let is_refused = self.all_or_nothing && found.iter().any(Found::is_refused);
        let jobs: Vec<Job> = match is_refused {
            true => Vec::new(),
            false => found.into_iter().filter_map(Found::job).collect(),
        };
        if is_refused || jobs.is_empty() {
            report.left_alone(is_refused);
            return Ok(report);
        }
        let looked = Instant::now();
        report.snapshot = self.keep(&present, &jobs, description).await?;
        let requests = Arc::new(Requests::default());
        self.progress.begun(jobs.iter().map(|job| job.partitions() as u64).sum());
        let kept = Instant::now();
        let answers = self.set(present.brokers, &jobs, &requests).await;
        let set = Instant::now();
        self.progress.ended();
        crash::point("groups-read-back", &jobs.len());
        let changed: Vec<String> = jobs.iter().map(|job| job.group.clone()).collect();
        let mut told = present.read_again(self.clients, &changed).await;
        for (job, answers) in jobs.iter().zip(answers) {
            report.compare(job, &answers, read_back(&mut told, &job.group));
        }
        let steps = [looked - began, kept - looked, set - kept, set.elapsed()];
        report.metrics = Metrics::of(&requests, report.set, steps);
        Ok(report)
    }

    /// Looks as [`perform`](Self::perform) does, and changes nothing; the report says which groups could not be set.
    ///
    /// # Errors
    /// As [`perform`](Self::perform) before anything is changed.
    pub async fn foresee(&self, plan: &Plan) -> Result<Report> {
        plan.check()?;
        let client = self.client()?;
        let names: Vec<String> = plan.groups.iter().map(|group| group.group.clone()).collect();
        let present = Present::look(client, &names).await?;
        self.check_cluster(plan, &present)?;
        let found = looking::found(plan, &present);
        let mut report = Report::new(&found, client.properties().bootstrap_servers.join(","));
        report.left_alone(self.all_or_nothing && found.iter().any(Found::is_refused));
        Ok(report)
    }

    fn client(&self) -> Result<&Client> {
        self.clients.first().ok_or_else(|| Error::failed("there is no client to perform a plan with"))
    }

    /// Refuses a plan that was made for another cluster.
    fn check_cluster(&self, plan: &Plan, present: &Present) -> Result<()> {
        match (&plan.cluster_id, &present.cluster_id) {
            (Some(planned), Some(is)) if planned != is => Err(Error::failed("the plan is for another cluster")
                .with("planned for", planned)
                .with("this is", is)
                .hint("plan again")),
            _ => Ok(()),
        }
    }

    /// Keeps what the groups have, and of the partitions that are to be changed also that they have nothing.
    async fn keep(&self, present: &Present, jobs: &[Job], description: &str) -> Result<Option<String>> {
        let Some(snapshots) = self.snapshots else { return Ok(None) };
        // Groups that nothing is done to would make the snapshot one that takes back others' work.
        let changed: HashSet<&str> = jobs.iter().map(|job| job.group.as_str()).collect();
        let mut present = present.clone();
        present.groups.retain(|name, _| changed.contains(name.as_str()));
        let also: Vec<(String, String, i32)> = jobs.iter().flat_map(Job::names).collect();
        let kept = snapshots.create(&Snapshot::of(&present, &also, description)?).await?;
        crash::point("groups-snapshot", &kept.id);
        self.progress.kept(&kept);
        Ok(Some(kept.id))
    }

    /// Does all jobs, as many at a time as may be; returns what each was answered, in their order.
    async fn set(&self, brokers: usize, jobs: &[Job], requests: &Arc<Requests>) -> Vec<Vec<Change>> {
        // One job for each connection, whoever coordinates its group: more would wait there, and seem slow.
        let mut idle: Vec<usize> = (0..brokers.max(1)).flat_map(|_| 0..self.clients.len()).collect();
        idle.truncate(self.max_concurrent.max(1));
        let mut answers: Vec<Vec<Change>> = jobs.iter().map(|_| Vec::new()).collect();
        let (mut left, mut running) = (jobs.iter().enumerate(), JoinSet::new());
        loop {
            while let Some(at_client) = idle.pop() {
                let Some((at, job)) = left.next() else { break };
                let (client, job, requests) = (self.clients[at_client].clone(), job.clone(), requests.clone());
                running.spawn(async move { (at_client, at, job.run(&client, &requests).await) });
            }
            let Some(ended) = running.join_next().await else { return answers };
            let (at_client, at, answer) = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            self.progress.answered(answer.len() as u64);
            answers[at] = answer;
            idle.push(at_client);
        }
    }
}

impl Job {
    /// Sets what is to be set and deletes what is to go; returns what became of each partition, in the order of
    /// [`names`](Self::names).
    async fn run(&self, client: &Client, requests: &Requests) -> Vec<Change> {
        let mut answers = Vec::with_capacity(self.partitions());
        if !self.set.is_empty() {
            answers = client.commit_offsets(&self.group, &self.set, requests).await;
            crash::point("groups-commit", &self.group);
        }
        if !self.delete.is_empty() {
            answers.extend(client.delete_offsets(&self.group, &self.delete, requests).await);
            crash::point("groups-delete", &self.group);
        }
        answers
    }
}

/// What a group has after all, or why nobody knows.
type ReadBack = std::result::Result<BTreeMap<(String, i32), Committed>, String>;

fn read_back(told: &mut Result<BTreeMap<String, crate::kafka::client::groups::Told>>, group: &str) -> ReadBack {
    match told {
        // A group that nobody tells of has nothing.
        Ok(told) => told.remove(group).map_or_else(|| Ok(BTreeMap::new()), by_partition),
        Err(error) => Err(error.to_string()),
    }
}
